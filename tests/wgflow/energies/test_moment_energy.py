"""Energies of moments: the quadratic case is the interaction it stands for, and F falls for any convex function."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.energies import check_term
from wgflow.energies.moments_on_grid import MomentFunction
from wgflow.errors import InvalidInput, StorageError

GRID = wg.Grid((-4, 4), cells=200)
RHO0 = wg.Density.gaussian(GRID, 1.0, 0.2)
COMMON = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 8)
SIGNS = np.array([1.0, 2.0])
TARGET = np.array([0.3, 1.0])


def features(x):
    return np.array([np.tanh(x), x**2 / 4])


def quadratic(**options):
    return wg.MomentEnergy(features, lambda z: 0.5 * (SIGNS * z * z).sum(), lambda z: SIGNS * z, lambda z: SIGNS,
                           **options)


def curved(**options):
    """Pseudo-Huber losses of two moments."""
    return wg.MomentEnergy(features, lambda z: (SIGNS * np.sqrt(1 + 9 * (z - TARGET) ** 2)).sum(), slopes, **options)


def slopes(z):
    return 9 * SIGNS * (z - TARGET) / np.sqrt(1 + 9 * (z - TARGET) ** 2)


METHODS = {
    "fourth order": wg.FiniteVolume(), "second order": wg.FiniteVolume(order=2),
    "midpoint": wg.FiniteVolume(scheme="midpoint"), "long steps": wg.FiniteVolume(scheme="midpoint", dt=0.5),
    "linearized": wg.JKO(tau=0.1, inner="linearized"), "back-and-forth": wg.JKO(tau=0.1, inner="back-and-forth"),
    "entropic": wg.JKO(tau=0.1, inner="entropic"),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_quadratic_function_is_the_interaction_of_low_rank(name):
    known, own = (wg.solve(COMMON + term, RHO0, (0, 2), method=METHODS[name])
                  for term in (wg.LowRank(features, SIGNS), quadratic()))
    # Newton's matrix of "linearized" is without the function's curvature; "entropic" takes Newton's method for the
    # interaction, and updates in turn for the function, each to 1e-8 of the mass a step.
    bound = {"linearized": 1e-6, "entropic": 1e-8}.get(name, 1e-13)
    assert float(np.abs(known.final.masses - own.final.masses).sum()) <= bound
    assert own.energy[-1] == pytest.approx(known.energy[-1], abs=bound)
    assert len(known.history) == len(own.history)
    assert own.certificate.ok
    assert own.certificate.functionals == ()
    assert own.certificate.equation_defect == pytest.approx(known.certificate.equation_defect, rel=1e-4)


def test_atoms_move_as_under_the_interaction():
    atoms = wg.Atoms([[-1.0, 0.3, 2.0]], [0.2, 0.3, 0.5])
    known, own = (wg.solve(wg.Potential(lambda x: x**2 / 2) + term, atoms, (0, 2), method=wg.Lagrangian())
                  for term in (wg.LowRank(features, SIGNS), quadratic()))
    np.testing.assert_allclose(own.final.points, known.final.points, atol=1e-12)
    assert own.certificate.ok
    assert own.energy[-1] == pytest.approx(known.energy[-1], abs=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_the_energy_of_a_solution_is_that_of_its_law(name):
    energy = COMMON + curved()
    sol = wg.solve(energy, RHO0, (0, 0.5), method=METHODS[name])
    assert sol.energy[-1] == pytest.approx(energy(sol.final), rel=1e-12)
    assert sol.certificate.ok, sol.certificate.explain()
    assert (np.diff(sol.history.energy) <= 1e-12).all()


def test_sums_and_scaling_and_a_wrong_energy_in_the_audit():
    energy = 0.5 * (COMMON + 2 * curved())
    check_term(energy, GRID)
    law = wg.Density.gaussian(GRID, 0.0, 0.5)
    assert energy(law) == pytest.approx(0.5 * COMMON(law) + curved()(law), rel=1e-12)
    np.testing.assert_allclose(curved().first_variation(law),
                               slopes(curved().moments(law)) @ features(*GRID.mesh()))


def test_the_audit_counts_the_term(monkeypatch):
    """A solver that took twice the force would be found out by the weak form, which asks the features alone."""
    from wgflow.energies.moments_on_grid import MomentsOnGrid

    true = MomentsOnGrid.combined
    monkeypatch.setattr(MomentsOnGrid, "combined", lambda self, g: 1.2 * true(self, g))
    sol = wg.solve(COMMON + curved(), RHO0, (0, 0.5), throw=False)
    assert sol.certificate.verdict == "failed"
    assert sol.certificate.equation_defect > sol.certificate.equation_bound


@pytest.mark.parametrize("scheme", ["extrapolated", "midpoint"])
def test_second_order_in_time(scheme):
    energy = COMMON + curved()
    reference = wg.solve(energy, RHO0, (0, 0.4), method=wg.FiniteVolume(rtol=1e-10, order=2)).final.masses

    def error(dt):
        method = wg.FiniteVolume(dt=dt, scheme=scheme, order=2)
        return float(np.abs(wg.solve(energy, RHO0, (0, 0.4), method=method).final.masses - reference).sum())

    dts = [0.4 / n for n in (32, 48, 64, 96)]
    order = np.polyfit(np.log(dts), np.log([error(dt) for dt in dts]), 1)[0]
    assert order == pytest.approx(2.0, abs=0.15)


def test_fourth_order_in_space():
    energy = COMMON + curved()

    def mean(cells):
        grid = wg.Grid((-4, 4), cells=cells)
        sol = wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.2), (0, 0.4), method=wg.FiniteVolume(rtol=1e-9))
        return energy(sol.final)

    values = [mean(cells) for cells in (40, 56, 80, 400)]
    errors = np.abs(np.array(values[:-1]) - values[-1])
    assert np.polyfit(np.log([1 / 40, 1 / 56, 1 / 80]), np.log(errors), 1)[0] >= 3.7


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["extrapolated", "midpoint"]), st.floats(-2, 2))
def test_energy_decay_for_any_convex_function_at_any_step(seed, scheme, log_dt):
    """Sums of soft maxima, quartics and exponentials of random combinations of moments, steps from .01 to 100."""
    rng = np.random.default_rng(seed)
    grid = wg.Grid((-2, 2), cells=int(rng.integers(6, 30)))
    k = int(rng.integers(1, 5))
    rows, ways = rng.normal(size=(k, grid.size)), rng.normal(size=(3, 4, k)) * 10.0 ** rng.uniform(-1, 1)

    def value(z):
        return float(np.logaddexp.reduce(ways[0] @ z) + ((ways[1] @ z) ** 4).sum() + np.exp(ways[2] @ z).sum())

    def gradient(z):
        soft = ways[0] @ z
        return (np.exp(soft - np.logaddexp.reduce(soft)) @ ways[0] + 4 * (ways[1] @ z) ** 3 @ ways[1]
                + np.exp(ways[2] @ z) @ ways[2])

    energy = (wg.Entropy(float(rng.choice([1.0, 20.0, math.inf]))) + wg.Potential(rng.normal(size=grid.size))
              + wg.MomentEnergy(rows, value, gradient))
    rho0 = wg.Density.from_values(grid, rng.random(grid.shape) ** 4 + 1e-12, normalize=True)
    dt = 10.0**log_dt
    sol = wg.solve(energy, rho0, (0, 4 * dt), method=wg.FiniteVolume(dt=dt, scheme=scheme))
    F = np.array([energy(rho) for rho in sol.densities])
    assert (np.diff(F) <= 1e-12 * np.maximum(1.0, np.abs(F[:-1]))).all()
    assert all(rho.values.min() >= 0 for rho in sol.densities)
    assert sol.certificate.mass_drift <= 1e-13


@given(st.integers(0, 10**6), st.floats(-8, 1))
def test_discrete_gradients(seed, log_length):
    """Phi(z') - Phi(z) = g . (z' - z) to rounding, and g is the gradient in the middle of a short segment."""
    rng = np.random.default_rng(seed)
    way, start = rng.normal(size=(3, 4)), rng.normal(size=4)
    phi = MomentFunction(lambda z: np.exp(way @ z).sum(), lambda z: np.exp(way @ z) @ way, None, True)
    end = start + 10.0**log_length * rng.normal(size=4)
    g = phi.discrete_gradient(start, end)
    told, true = g @ (end - start), phi.value(end) - phi.value(start)
    size = abs(phi.value(end)) + abs(phi.value(start)) + np.abs(g * (end - start)).sum()
    assert told == pytest.approx(true, abs=1e-14 * size)
    if log_length < -3:
        np.testing.assert_allclose(g, phi.gradient(0.5 * (start + end)), rtol=1e-3, atol=1e-5)


def test_long_steps_of_the_midpoint_rule_are_taken_whole():
    """The discrete gradient serves steps of any length: none is rejected, and none falls back."""
    energy = COMMON + curved()
    for dt in (0.02, 0.1, 1.0, 10.0, 100.0):
        sol = wg.solve(energy, RHO0, (0, 20 * dt), method=wg.FiniteVolume(dt=dt, scheme="midpoint"))
        assert sol.certificate.n_rejected == sol.certificate.n_fallback == 0
        assert (np.diff(sol.history.energy) <= 1e-12).all()
        assert wg.stationary(energy, GRID).energy <= sol.energy[-1] + 1e-12


@pytest.mark.parametrize("order", [2, None])
def test_driven_as_the_driven_interaction(order):
    """sol.history.work and the path are those of the interaction, in both kinds of fluxes."""
    low, own = wg.LowRank(features, SIGNS), quadratic()
    sols = [wg.solve(COMMON + wg.TimeDependent(lambda t, term=term: (1 + np.sin(3 * t)) * term), RHO0, (0, 1),
                     method=wg.FiniteVolume(order=order, dt=0.02)) for term in (low, own)]
    assert sols[0].certificate.scheme == sols[1].certificate.scheme
    np.testing.assert_allclose(sols[1].final.values, sols[0].final.values, atol=1e-12)
    assert sols[1].history.work[-1] == pytest.approx(sols[0].history.work[-1], abs=1e-12)
    assert abs(sols[0].history.work[-1]) > 0.05
    assert sols[1].certificate.ok


def test_error_estimates_and_files(tmp_path):
    sol = wg.solve(COMMON + curved(), RHO0, (0, 0.5))
    fine = wg.solve(COMMON + curved(), wg.Density.gaussian(wg.Grid((-4, 4), cells=800), 1.0, 0.2), (0, 0.5),
                    method=wg.FiniteVolume(rtol=1e-9))
    assert abs(sol.energy[-1] - fine.energy[-1]) <= 1.5 * sol.estimate_error().energy + 1e-12
    wg.solve(COMMON + curved(), RHO0, (0, 0.3), checkpoint=tmp_path / "run.npz")
    more = wg.resume(tmp_path / "run.npz", t_end=0.5, energy=COMMON + curved())
    assert more.energy[-1] == pytest.approx(sol.energy[-1], abs=1e-6)
    with pytest.raises(StorageError, match="differ from those"):
        wg.resume(tmp_path / "run.npz", t_end=0.5, energy=COMMON + 1.1 * curved())


@pytest.mark.parametrize("table", [False, True])
def test_on_a_circle(table):
    grid = wg.Grid([(0, 2 * math.pi)], cells=64, boundary="periodic")

    def waves(x):
        return np.array([np.cos(x), np.sin(x)])

    pull = wg.MomentEnergy(waves(*grid.mesh()) if table else waves, lambda z: np.logaddexp(0, -3 * z[0]) + z[1] ** 2,
                           lambda z: np.array([-3 / (1 + np.exp(3 * z[0])), 2 * z[1]]))
    energy = wg.Entropy(2.0) + pull
    sol = wg.solve(energy, wg.Density.from_function(grid, lambda x: (1 + 0.5 * np.sin(x)) / (2 * math.pi)), (0, 20))
    assert sol.certificate.ok
    assert sol.energy[-1] == pytest.approx(wg.stationary(energy, grid).energy, abs=1e-6)


def test_features_that_jump_at_a_seam_are_refused():
    grid = wg.Grid([(0, 2 * math.pi)], cells=64, boundary="periodic")
    jumping = wg.MomentEnergy(lambda x: np.array([np.cos(x), x]), lambda z: (z**2).sum(), lambda z: 2 * z)
    with pytest.raises(InvalidInput, match=r"features\[1\] differs by 6.28"):
        wg.solve(wg.Entropy(2.0) + jumping, wg.Density.uniform(grid), (0, 1))


# ---------------------------------------------------------------- at rest
def test_the_state_at_rest_reproduces_itself_with_a_gap():
    star = wg.stationary(COMMON + curved(), GRID)
    assert star.gap is not None
    assert 0 <= star.gap < 1e-12
    assert star.residual < 1e-12
    assert star.method == "dual"
    psi = (COMMON + curved()).first_variation(star.density)
    assert np.ptp(psi[star.density.masses > 1e-20]) < 1e-10
    assert star.energy - star.dual_value == pytest.approx(star.gap, abs=1e-13)
    rival = wg.Density.gaussian(GRID, star.density.mean(), star.density.cov())
    assert (COMMON + curved())(rival) > star.energy
    flow = wg.solve(COMMON + curved(), star.density, (0, 5), method=wg.FiniteVolume(order=2))
    assert float(np.abs(flow.final.masses - star.density.masses).sum()) < 1e-9


@pytest.mark.parametrize("method", ["dual", "fixed-point"])
def test_beside_an_interaction_and_with_a_hessian_or_without(method):
    energy = COMMON + curved() + wg.LowRank(lambda x: np.sin(x)[None])
    star = wg.stationary(energy, GRID, method=method)
    assert star.gap is not None
    assert star.gap < 1e-12
    assert star.energy == pytest.approx(wg.stationary(energy, GRID).energy, abs=1e-13)


def test_what_is_not_convex_is_refused_at_rest_and_solved_in_time():
    concave = wg.MomentEnergy(features, lambda z: -0.2 * (z**2).sum(), lambda z: -0.4 * z, convex=False)
    with pytest.raises(InvalidInput, match=r"MomentEnergy\(\.\.\.\).*convex"):
        wg.stationary(COMMON + concave, GRID)
    with pytest.raises(InvalidInput, match="convex"):
        wg.stationary(COMMON + (-0.1) * quadratic(), GRID)
    with pytest.raises(InvalidInput, match="convex=True"):
        wg.solve(COMMON + wg.MomentEnergy(features, lambda z: -0.2 * (z**2).sum(), lambda z: -0.4 * z), RHO0, (0, 0.1))
    sol = wg.solve(COMMON + concave, RHO0, (0, 0.5), method=wg.FiniteVolume(scheme="midpoint", dt=0.1))
    assert (np.diff(sol.history.energy) <= 1e-12).all()


# ---------------------------------------------------------------- who refuses, and what is wrong
@pytest.mark.parametrize("method", [wg.JKO(tau=0.1, inner="quantile"), wg.FiPy()], ids=["quantile", "fipy"])
def test_who_cannot_solve_it_refuses_by_name(method):
    with pytest.raises(InvalidInput, match=r"risk: .* would leave this term out"):
        wg.solve(COMMON + curved(name="risk"), RHO0, (0, 0.1), method=method)


def test_wrong_functions_are_refused():
    wrong = {
        "must be the derivative of value": (lambda z: (z**2).sum(), lambda z: z),
        "one derivative for each moment": (lambda z: (z**2).sum(), lambda z: 2 * z[:1]),
        "need one number": (lambda z: z**2, lambda z: 2 * z),
        "both must be finite": (lambda z: np.nan, lambda z: 2 * z),
        "value raised ZeroDivisionError": (lambda z: 1 // 0, lambda z: 2 * z),
    }
    for words, (value, gradient) in wrong.items():
        with pytest.raises(InvalidInput, match=words):
            wg.solve(COMMON + wg.MomentEnergy(features, value, gradient), RHO0, (0, 0.1))
        with pytest.raises(InvalidInput, match=words):
            wg.solve(wg.MomentEnergy(features, value, gradient), wg.Atoms([[0.1, 1.0]], [0.5, 0.5]), (0, 0.1),
                     method=wg.Lagrangian())
    with pytest.raises(InvalidInput, match="hessian returned shape"):
        wg.stationary(COMMON + wg.MomentEnergy(features, lambda z: (z**2).sum(), lambda z: 2 * z,
                                               lambda z: np.ones(3)), GRID)
    with pytest.raises(TypeError, match="gradient must be a function"):
        wg.MomentEnergy(features, lambda z: 0.0, None)
    table = wg.MomentEnergy(features(*GRID.mesh()), lambda z: (z**2).sum(), lambda z: 2 * z)
    with pytest.raises(InvalidInput, match="not known at points"):
        wg.solve(table, wg.Atoms([[0.1, 1.0]], [0.5, 0.5]), (0, 0.1), method=wg.Lagrangian())
    assert wg.solve(COMMON + table, RHO0, (0, 0.1)).certificate.ok
