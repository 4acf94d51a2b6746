"""The audit of atoms: its sides are those of the equation, right runs hold, and noise is judged by its own law."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.audit.atom_sides import AtomForm, modes_of_atoms
from wgflow.audit.quadrature import passed

WELL = wg.Potential(lambda x: x * x * (x * x / 4 - 0.5))
TRAP = wg.Potential(lambda x: x**2 / 2)
K = wg.interactions


def cloud(n: int, ndim: int = 1, seed: int = 8231, **more) -> wg.Atoms:
    rng = np.random.default_rng(seed)
    points = rng.normal(0.4, 0.6, (ndim, n)) if not more else rng.uniform(0.2, 1.4, (ndim, n))
    weights = rng.random(n)
    return wg.Atoms(points, weights / weights.sum(), **more)


def form_of(energy, rho):
    return AtomForm(1.0 * energy, rho, modes_of_atoms(rho, [rho.points]))


# ---------------------------------------------------------------- the two sides
@pytest.mark.parametrize("energy", [
    TRAP, WELL, wg.Interaction(wg.Convolution(lambda z: -np.exp(-z * z))), wg.Interaction(K.power(1)),
    wg.Interaction(lambda x, y: np.cos(x) * np.cos(y) + x * y),
    wg.LowRank(lambda x: np.array([x, np.tanh(x)]), [1, -2]),
    wg.Interaction(K.log(-1.0)),
], ids=repr)
def test_rates_are_derivatives_of_moments_along_the_gradient(energy):
    """M(x - h grad Psi) - M(x + h grad Psi) over 2 h, with the gradient that the energy itself gives."""
    rho = cloud(40)
    form, h = form_of(energy, rho), 1e-6
    sides = form.sides(rho.points, 0)
    force = (1.0 * energy).gradient(rho, rho.points)
    ahead, behind = (form.sides(rho.points - way * force, 0).moments for way in (h, -h))
    np.testing.assert_allclose((ahead - behind) / (2 * h), sides.drift + sides.interaction, atol=2e-6)
    assert not sides.variance.any()


@pytest.mark.parametrize(("bounds", "powers"), [((-np.inf, np.inf), 0.0), ((0, np.inf), 2.0), ((-1, 1.5), 0.0)])
def test_noise_moves_moments_as_the_rates_say(bounds, powers):
    """The mean over many particles of phi after a short time of noise alone, from one place."""
    n, h = 400_000, 1e-3
    rho = wg.Atoms(np.full((1, n), 0.7), np.full(n, 1 / n), [bounds], [powers])
    sol = wg.solve(wg.Entropy(1.0) + 0.0 * TRAP, rho, (0, h), wg.Lagrangian(dt=h, rng=63), t_eval=[h])
    form = AtomForm(wg.Entropy(1.0) * 1.0, rho, modes_of_atoms(rho, [rho.points, rho.points + 0.5]))
    first, last = (form.sides(x, 0) for x in (rho.points, sol.final.points))
    error = np.abs(last.moments - first.moments - h * first.diffusion)
    assert (error < 4 * np.sqrt(h * first.spread) + 2 * h**2 * form.modes.bend**2).all()
    assert (np.abs(first.diffusion) * h > 4 * np.sqrt(h * first.spread)).any()


def test_pairs_that_are_drawn_have_the_error_that_is_told():
    rho = cloud(400)
    energy = wg.Interaction(wg.Convolution(lambda z: -np.exp(-z * z)))
    form, wave = form_of(energy, rho), form_of(energy, rho).sides(rho.points, 0)
    force = (1.0 * energy).gradient(rho, rho.points)[0]
    exact = -(form._waves(rho.points)[1][0] * force) @ rho.weights
    found = np.array([form.sides(rho.points, draw).interaction for draw in range(60)])
    scores = (found - exact) / np.sqrt(wave.variance)
    assert np.abs(scores.mean(axis=0)).max() < 4 / math.sqrt(60)
    # Strata make them better than independent draws, and never worse.
    assert (scores.std(axis=0) < 1.3).all()


@pytest.mark.parametrize(("clock", "wanted"), [
    (2.0, lambda t: 2 * t), (lambda t: 1 + t, lambda t: t + t * t / 2),
    (lambda t: 1e-3 + 3 * (20.3 < t < 20.8), lambda t: 1e-3 * t + 3 * np.clip(t - 20.3, 0, 0.5)),
    (lambda t: 1 / math.sqrt(t) if t else math.inf, lambda t: 2 * np.sqrt(t)),
])
def test_the_clock_of_the_audit_sees_pulses_at_the_ends_of_stretches(clock, wanted):
    t = np.array([0.0, 1.0, 19.0, 20.3027, 20.5, 51.0])
    np.testing.assert_allclose(passed(clock, t), wanted(t), rtol=1e-4 if clock != 2.0 else 1e-12)


# ---------------------------------------------------------------- right runs
RIGHT = {
    "a well": (1.0 * WELL, cloud(60), {}),
    "a density": (1.0 * WELL, wg.Density.gaussian(wg.Grid((-3, 3), cells=60), 0.3, 0.2), {}),
    "attraction and repulsion": (WELL + wg.Interaction(K.log(-1.0)), cloud(40), {}),
    "atoms that meet": (1.0 * wg.Interaction(K.power(1)), cloud(8), {}),
    "a kink away from 0": (1.0 * wg.Interaction(wg.Convolution(lambda z: np.minimum(z * z, 0.09) / 2)), cloud(30),
                           {"ode": "RK45", "rtol": 1e-7}),
    "an end of the axis": (1.0 * wg.Potential(lambda r: r + r * r / 4), cloud(6, bounds=[(0, np.inf)], powers=[2.0]),
                           {}),
    "a circle": (1.0 * wg.Potential(np.cos), cloud(50, bounds=[(0, 2 * np.pi)], periodic=[True]), {}),
    "a plane": (wg.Potential(lambda x, y: x**2 / 2 + y**4 / 4) + wg.Interaction(K.gaussian()), cloud(40, 2), {}),
    "many pairs": (WELL + wg.Interaction(wg.Convolution(lambda z: z * z / 2)), cloud(300), {"rtol": 1e-6}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_right_runs_hold(case):
    energy, rho0, settings = RIGHT[case]
    for options in ({}, {"t_eval": [1.5], "time_scale": lambda t: 1 + 0.5 * np.sin(3 * t)}):
        c = wg.solve(energy, rho0, (0, 1.5), wg.Lagrangian(**settings), **options).certificate
        assert c.checks()["equation"][0] is True, c.explain()
        assert c.equation_bound < 0.1
        assert c.ok


@pytest.mark.parametrize("seed", range(6))
def test_right_samples_hold(seed):
    rho0 = wg.Density.gaussian(wg.Grid((-3, 3), cells=100), 0.8, 0.1)
    c = wg.solve(wg.Entropy(2.0) + WELL, rho0, (0, 4), wg.Lagrangian(n_particles=3000, dt=0.04, rng=seed)).certificate
    assert c.checks()["equation"][0] is True, c.explain()
    assert not c.not_judged
    assert 0 < c.equation_defect < c.equation_bound < 0.3


def test_the_bound_of_a_sample_shrinks_with_its_size():
    rho0 = wg.Density.gaussian(wg.Grid((-3, 3), cells=100), 0.8, 0.1)
    bounds = [wg.solve(wg.Entropy(2.0) + TRAP, rho0, (0, 1), wg.Lagrangian(n_particles=n, dt=0.05, rng=7)
                       ).certificate.equation_bound for n in (400, 40_000)]
    assert bounds[1] < 0.25 * bounds[0]


def test_few_particles_cannot_be_judged():
    c = wg.solve(wg.Entropy(1.0) + TRAP, cloud(8), (0, 0.1), wg.Lagrangian(rng=7)).certificate
    assert "take more particles" in c.not_judged
    assert "a sample: reported" in c.checks()["equation"][1]


def test_the_error_of_long_steps_is_allowed_for():
    """Steps of half the relaxation time miss some percent of what happens: more than the noise of so many particles."""
    n = 40_000
    rho0 = wg.Atoms(np.random.default_rng(63).normal(2.0, 0.5, n), np.full(n, 1 / n))
    c = wg.solve(wg.Entropy(4.0) + TRAP, rho0, (0, 3), wg.Lagrangian(dt=0.5, rng=7), t_eval=[3]).certificate
    assert c.checks()["equation"][0] is True, c.explain()
    assert c.equation_bound > 0.03
