"""Exact steps of inner="linearized" on a line from any law; what a certificate says of a step by another scheme."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import wrightomega

import wgflow as wg
from wgflow.compiled.linearized import _omega, internal_slopes, masses_of_slopes, slopes_of_sums
from wgflow.compiled.remap import ends_of_sums, face_densities, remap_line, sums_of_ends
from wgflow.solvers.jko.linearized import LinearizedSolver
from wgflow.solvers.jko.linearized.exact_step import ExactStep
from wgflow.solvers.jko.linearized.stage import Stage
from wgflow.solvers.jko.linearized.tails import Tails
from wgflow.solvers.jko.settings import Linearized

PULLED = (wg.Entropy(beta=4.0) + wg.Potential(lambda x: 0.25 * x**2)
          + wg.Interaction(wg.Convolution(lambda z: 0.75 * z**2)))


def one_step(energy, rho0, tau):
    sol = wg.solve(energy, rho0, (0, tau), method=wg.JKO(tau=tau, inner="linearized"))
    assert [step.metric for step in sol.jko_steps] == ["exact"]
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.certificate.n_fallback == 0
    assert sol.certificate.substituted == 0.0
    return sol.final


def gaussian_step(mean, deviation, tau, diffusion, stiffness, pull):
    """The exact step: the mean feels V'' alone, the width V'' + U''."""
    total = 1 + tau * (stiffness + pull)
    root = math.sqrt(deviation**2 + 4 * tau * diffusion * total)
    return mean / (1 + tau * stiffness), (deviation + root) / (2 * total)


@pytest.mark.parametrize(("bound", "cells"), [(6, 200), (6, 400), (6, 800), (12, 800)])
def test_a_gaussian_under_attraction_takes_the_exact_step(bound, cells):
    grid = wg.Grid((-bound, bound), cells=cells)
    mean, deviation = gaussian_step(1.0, 1.0, 0.2, 0.25, 0.5, 1.5)
    assert (mean, deviation) == pytest.approx((0.909091, 0.761204), abs=1e-6)
    law = one_step(PULLED, wg.Density.gaussian(grid, 1.0, 1.0), 0.2)
    h = 2 * bound / cells
    assert law.mean() == pytest.approx(mean, abs=0.03 * h**2)
    # The variance of cell averages, without that of a cell.
    assert math.sqrt(law.cov() - h**2 / 12) == pytest.approx(deviation, abs=0.05 * h**2)


@pytest.mark.parametrize("bound", [5, 20])
def test_empty_tails_do_not_matter(bound):
    mean, deviation = gaussian_step(2.0, 0.5, 0.1, 1.0, 1.0, 0.0)
    assert (mean, deviation) == pytest.approx((1.81818181818, 0.604846539224), abs=1e-11)
    grid = wg.Grid((-bound, bound), cells=400)
    energy = wg.Entropy(beta=1.0) + wg.Potential(lambda x: x**2 / 2)
    law = one_step(energy, wg.Density.gaussian(grid, 2.0, 0.25), 0.1)
    h = 2 * bound / 400
    assert law.mean() == pytest.approx(mean, abs=0.1 * h**2 + 1e-6)
    assert math.sqrt(law.cov()) == pytest.approx(deviation, abs=0.3 * h**2 + 1e-6)


@pytest.mark.parametrize(("energy", "stiffness"), [
    (wg.Entropy(beta=4.0) + wg.Potential(lambda x: 0.35 * x**2), 0.7),
    (wg.PowerEntropy(2.0) + wg.Potential(lambda x: 0.5 * x**2), 1.0),
    (wg.PowerEntropy(4.0) + wg.Potential(lambda x: 0.25 * x**2), 0.5),
], ids=["entropy", "porous", "stiff"])
def test_jumps_voids_and_long_steps_need_no_fallback(energy, stiffness):
    # Under a quadratic V the mean of the exact step is m / (1 + tau V''), whatever the internal energy.
    for bound, tau in itertools.product((6, 20), (0.01, 0.2, 1.0)):
        grid = wg.Grid((-bound, bound), cells=100)
        for f in (lambda x: (np.abs(x - 0.5) < 1.0) * 1.0,
                  lambda x: np.exp(-((x - 1.5) ** 2) / 0.1) + 0.5 * np.exp(-((x + 1.5) ** 2) / 0.05)):
            rho0 = wg.Density.from_function(grid, f)
            law = one_step(energy, rho0, tau)
            # Where two parts meet the map has a jump, which one face spans: an error of first order.
            assert law.mean() == pytest.approx(rho0.mean() / (1 + tau * stiffness), abs=0.1 * 2 * bound / 100)


QUARTIC = wg.Entropy(6.0) + wg.Potential(lambda x: x**2 * (x**2 - 2.5) / 6 + 0.15 * x)


@pytest.mark.parametrize("bound", [4, 8, 20])
@pytest.mark.parametrize(("energy", "mean", "variance"), [
    (PULLED, 1.0, 0.2), (wg.Entropy(3.0) + wg.Potential(lambda x: 0.35 * x**2), 0.5, 0.09), (QUARTIC, 1.0, 0.3)],
    ids=["attraction", "quadratic", "quartic"])
def test_empty_tails_take_no_iterations(energy, mean, variance, bound):
    rho0 = wg.Density.gaussian(wg.Grid((-bound, bound), cells=1600), mean, variance)
    sol = wg.solve(energy, rho0, (0, 0.3), method=wg.JKO(tau=0.05, inner="linearized"))
    assert sol.certificate.n_fallback == 0
    assert [step.metric for step in sol.jko_steps] == ["exact"] * 6
    # With the tails in the iteration up to 99 in a step, and 6 in most.
    assert max(step.iterations for step in sol.jko_steps) <= 5
    assert all(step.residual <= 1e-12 for step in sol.jko_steps)
    assert abs(sol.final.mass - rho0.mass) <= 1e-13
    assert sol.final.masses.min() >= 0


def test_fronts_start_from_the_masses():
    # From the slopes of the step before, whose front is elsewhere, five iterations more in each step.
    rho0 = wg.Density.gaussian(wg.Grid((-3, 3), cells=400), 0.5, 0.09)
    energy = wg.PowerEntropy(2.0) + wg.Potential(lambda x: 0.5 * x**2)
    sol = wg.solve(energy, rho0, (0, 0.5), method=wg.JKO(tau=0.05, inner="linearized"))
    assert sol.certificate.n_fallback == 0
    assert max(step.iterations for step in sol.jko_steps) <= 7


def test_tails_continue_a_linear_map_exactly():
    # Under a quadratic V a step takes a Gaussian to a Gaussian by a linear map.
    bound, cells, tau, diffusion, stiffness, deviation = 6.0, 600, 0.1, 0.25, 0.7, 0.5
    mean, new = gaussian_step(0.4, deviation, tau, diffusion, stiffness, 0.0)
    grid = wg.Grid((-bound, bound), cells=cells)
    energy = wg.Entropy(1 / diffusion) + wg.Potential(lambda x: 0.5 * stiffness * x**2)
    rho0 = wg.Density.gaussian(grid, 0.4, deviation**2)
    solver = LinearizedSolver(energy.assemble(grid), grid, Linearized())
    stage = Stage(solver.exact, rho0.masses, tau)
    tails, x = Tails(stage), grid.edges[0]
    ends = np.clip(0.4 + (x - mean) * deviation / new, x[0], x[-1])
    field = solver.field(rho0.masses)
    pressure = np.concatenate(([0.0], np.cumsum(np.diff(grid.centers[0]) * (ends - x)[1:-1]))) / tau
    inner = (ends > tails.left[0]) & (ends < tails.right[0])
    # Seven to eight deviations on either side have more than 1e-13 of the mass beyond.
    assert tails.left[0] == pytest.approx(0.4 - 7.35 * deviation, abs=0.02)
    assert tails.right[0] == pytest.approx(0.4 + 7.35 * deviation, abs=0.02)
    spoiled = np.where(inner, ends, 0.0)
    spoiled[~inner & (x < 0)], spoiled[~inner & (x > 0)] = x[0], x[-1]
    slopes, images = tails.continued(pressure - field, spoiled, field)
    assert images[1:-1] == pytest.approx(ends[1:-1], abs=1e-9)
    cells_inside = inner[:-1] & inner[1:]
    assert (slopes[cells_inside] == (pressure - field)[cells_inside]).all()
    beside = np.abs(grid.centers[0]) < 4.0
    assert slopes[beside] == pytest.approx((pressure - field)[beside], abs=1e-8)


def test_a_steep_potential_takes_the_rest_of_a_tail_down():
    # Far out V is 2.6e4: a mass of 1e-16 that stayed there would be a gap of 2.6e-12.
    rho0 = wg.Density.gaussian(wg.Grid((-20, 20), cells=1600), 1.0, 0.3)
    sol = wg.solve(QUARTIC, rho0, (0, 0.2), method=wg.JKO(tau=0.05, inner="linearized"))
    assert sol.certificate.n_fallback == 0
    assert (sol.final.masses * np.abs(sol.grid.centers[0]) ** 4)[np.abs(sol.grid.centers[0]) > 10].sum() < 1e-14


def test_sums_of_ends_and_their_inverse():
    rng = np.random.default_rng(31)
    edges = np.sort(rng.uniform(-1, 2, 12))
    masses = rng.uniform(0, 1, 11)
    masses[4:6] = 0.0
    density, below = np.empty(12), np.concatenate(([0.0], np.cumsum(masses)))
    face_densities(masses, edges, 0, density)
    ends = np.concatenate((rng.uniform(edges[0], edges[-1], 40), [edges[0] - 0.3, edges[-1] + 0.4]))
    sums, back = np.empty(ends.size), np.empty(ends.size)
    sums_of_ends(ends, masses, edges, density, below, 0.7, sums)
    for y, s in zip(ends, sums):
        moved, rest = np.empty(1), np.empty(2)
        remap_line(masses, edges, density, np.array([edges[0], y]), moved, rest)
        assert s == pytest.approx(y + moved[0] / 0.7, abs=1e-13)
    ends_of_sums(sums, masses, edges, density, below, 0.7, back)
    assert back == pytest.approx(ends, abs=1e-13)


@pytest.mark.parametrize("terms", [(0.3, [], []), (0.0, [2.0], [2.0]), (0.0, [1.0], [4.0]), (0.0, [1.0], [0.6]),
                                   (0.1, [1.0, 0.5], [3.0, 0.7])])
def test_slopes_of_sums_invert_the_sum(terms):
    terms = (terms[0], np.array(terms[1]), np.array(terms[2]))
    masses = 10.0 ** np.linspace(-12, 1, 27)
    reference, slopes, rest, found = np.full(27, -1.3), np.empty(27), np.empty(27), np.empty(27)
    internal_slopes(masses, reference, 1e-200, terms, slopes, rest)
    slopes_of_sums(slopes + 0.8 * masses, 0.8, reference, terms, np.full(27, 0.1), found)
    assert found == pytest.approx(slopes, rel=1e-12, abs=1e-12)
    # The start of the iteration does not matter.
    for other in (1e-300, 1e100):
        slopes_of_sums(slopes + 0.8 * masses, 0.8, reference, terms, np.full(27, other), rest)
        assert rest == pytest.approx(slopes, rel=1e-12, abs=1e-12)
    again = np.empty(27)
    assert masses_of_slopes(found, reference, terms, again, rest)


def test_a_step_of_another_scheme_fails_the_certificate(monkeypatch):
    original = ExactStep.solve
    calls = []

    def sometimes(self, start, tau, unknowns):
        calls.append(tau)
        return (None, 3) if len(calls) > 1 else original(self, start, tau, unknowns)

    monkeypatch.setattr(ExactStep, "solve", sometimes)
    rho0 = wg.Density.gaussian(wg.Grid((-4, 4), cells=100), 1.0, 0.3)
    sol = wg.solve(PULLED, rho0, (0, 0.3), method=wg.JKO(tau=0.1, inner="linearized"))
    assert [step.metric for step in sol.jko_steps] == ["exact", "linear", "linear"]
    assert sol.certificate.n_fallback == 2
    assert not sol.certificate.ok
    assert [name for name, (passed, _) in sol.certificate.checks().items() if passed is False] == ["scheme"]
    assert "2 of 3 steps" in sol.certificate.explain()
    assert "inner='quantile'" in sol.certificate.explain()


def test_the_omega_function():
    z = np.concatenate((np.linspace(-60, 60, 2001), np.logspace(2, 6, 50)))
    assert np.array([_omega(value) for value in z]) == pytest.approx(wrightomega(z), rel=2e-14)
    assert _omega(-1e6) == 0.0
