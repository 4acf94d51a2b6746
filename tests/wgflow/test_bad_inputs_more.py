"""More rows of the table of bad inputs and faults: nonlinear diffusion, inner solvers, re-entrance, what is not code.

Rows whose fault cannot be made here are seen from their other side: there is no solver object that could be stepped
after a failure, no formula that is read from a string, no step that is too long for positivity.
"""

from __future__ import annotations

import inspect
import math
import os

import numpy as np
import pytest

import wgflow as wg
from wgflow import Density, Entropy, Grid, InternalEnergy, InvalidInput, Potential, PowerEntropy
from wgflow.errors import ConvergenceError, InvalidType, WGFlowWarning

GRID = Grid((0, 1), cells=20, boundary="no-flux")
RAMP = Density(GRID, np.arange(1.0, 21.0))


# ---------------------------------------------------------------- nonlinear diffusion: rows 36, 37, 47
@pytest.mark.parametrize(("m", "error", "words"), [
    (1, InvalidInput, "m=1 is the entropy.*Entropy"), (1.0, InvalidInput, "m=1 is the entropy"),
    (0, InvalidInput, "m=0.* > 0"), (-1.0, InvalidInput, "m=-1.* > 0"), (math.nan, InvalidInput, "m=nan.*finite"),
    (math.inf, InvalidInput, "m=inf.*finite"), ("2", InvalidType, "m must be a number, got str '2'"),
    (True, InvalidType, "m must be a number, got bool"), (2 + 0j, InvalidType, "m must be a number"),
    (None, InvalidType, "m must be a number"),
])
def test_exponents_that_are_none(m, error, words):  # row 36
    with pytest.raises(error, match=words):
        PowerEntropy(m)


@pytest.mark.parametrize(("ndim", "m", "warns"), [(3, 0.3, True), (3, 1 / 3, True), (3, 0.4, False), (4, 0.5, True),
                                                  (2, 0.01, False), (1, 0.01, False), (3, 2.0, False)])
def test_fast_diffusion_that_loses_mass_is_pointed_out(ndim, m, warns, recwarn):  # row 37
    grid = Grid([(0, 1)] * ndim, cells=3, boundary="no-flux")
    sol = wg.solve(PowerEntropy(m), Density.uniform(grid), (0, 0.1), method=wg.FiniteVolume(dt=0.05))
    assert sol.certificate.ok
    told = [str(w.message) for w in recwarn if issubclass(w.category, WGFlowWarning)]
    assert any("loses mass to infinity" in message and f"m_c = {(ndim - 2) / ndim:g}" in message
               for message in told) == warns


def test_an_H_that_is_not_convex_is_refused():  # row 47
    with pytest.raises(InvalidInput, match=r"H2\(1e-06\)=-2: H must be convex"):
        InternalEnergy(lambda r: -(r**2), lambda r: -2 * r, lambda r: -2 + 0 * r)
    # Convex where it was looked at, and not at the densities met: named with the density, before a step is taken.
    H = InternalEnergy(lambda r: r**2 - r**3 / 30, lambda r: 2 * r - r**2 / 10, lambda r: 2 - r / 5, up_to=9.0)
    spike = Density(GRID, np.where(np.arange(20) == 3, 20.0, 0.0))
    with pytest.raises((InvalidInput, ConvergenceError), match=r"H''\(20\)=-2: H must be convex"):
        wg.solve(H, spike, (0, 0.1))
    assert wg.solve(H, RAMP.normalized(), (0, 0.1)).certificate.ok


# ---------------------------------------------------------------- arguments that there are not
@pytest.mark.parametrize(("given", "words"), [
    ({"dt": 0.1}, r"dt=0.1: solve has no argument dt; it is a setting of the method, method=FiniteVolume\(dt=0.1\)"),
    ({"tau": 0.1}, r"method=JKO\(tau=0.1\)"), ({"method": wg.JKO(tau=0.1), "order": 2}, r"method=JKO\(order=2\)"),
    ({"method": wg.JKO(tau=0.1), "rng": 3}, r"method=Lagrangian\(rng=3\)"),
    ({"progress": "yes"}, "progress='yes': need True or False"), ({"throw": 0}, "throw=0: need True or False"),
    ({"teval": [1.0]}, "did you mean t_eval"), ({"banana": 1}, "there are energy, rho0, t_span, method, t_eval"),
])
def test_arguments_of_solve_that_there_are_not(given, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        wg.solve(PowerEntropy(2), RAMP, (0, 1), **given)
    assert isinstance(caught.value, TypeError)


def test_readers_see_the_arguments_that_there_are():
    assert "unknown" not in inspect.signature(wg.solve).parameters


# ---------------------------------------------------------------- functions that change: row 52
def test_a_function_that_answers_differently_is_asked_once_or_caught():  # row 52
    noise = np.random.default_rng(3)
    # V is evaluated once a grid: whatever it would say later, the run is that of one potential.
    sol = wg.solve(Entropy(1.0) + Potential(lambda x: noise.normal(size=x.shape)), RAMP, (0, 0.1))
    assert sol.certificate.verdict != "failed"
    with pytest.raises(InvalidInput, match="U is not symmetric"):
        wg.solve(Entropy(1.0) + wg.Interaction(lambda x, y: np.cos(x - y) + 0.1 * noise.normal(size=(x * y).shape)),
                 RAMP, (0, 0.1))

    class Turning:
        """A kernel on the fly that is another one after so many calls."""

        calls = 0

        def __call__(self, x, y):
            self.calls += 1
            return np.cos(x - y) * (1.0 if self.calls < 20 else 1.0 + 0.05 * self.calls)

    run = wg.solve(Entropy(1.0) + wg.Dense(Turning(), table=False), RAMP, (0, 1), method=wg.FiniteVolume(dt=0.01),
                   throw=False)
    assert not run.success
    assert "the same at every call" in run.message
    assert np.isfinite(run.history.energy).all()


# ---------------------------------------------------------------- nothing is code: row 53
@pytest.mark.parametrize("text", ["__import__('os').system('touch broken')", "().__class__.__bases__", "x**x**x**9",
                                  "x" * 100_000])
def test_formulas_as_text_are_refused_and_never_run(text, tmp_path, monkeypatch):  # row 53
    monkeypatch.chdir(tmp_path)
    for make in (Potential, wg.Interaction, wg.Convolution, wg.LowRank, wg.Dense, Entropy, PowerEntropy,
                 lambda t: InternalEnergy(t, t, t), lambda t: Density.from_function(GRID, t),
                 lambda t: wg.solve(Entropy(1.0), RAMP, (0, 1), time_scale=t),
                 lambda t: wg.solve(t, RAMP, (0, 1)), lambda t: Grid.graded((0, 1), 4, t)):
        with pytest.raises(InvalidInput) as caught:
            wg.Density.uniform(GRID).expect(make(text))
        assert len(str(caught.value)) < 1000
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- steps: rows 61, 63, 64
@pytest.mark.parametrize("diffusion", [Entropy(1.0), Entropy(1e6), Entropy(math.inf), PowerEntropy(3.0)])
def test_no_fixed_step_is_too_long_for_positivity(diffusion):  # row 61
    energy = diffusion + Potential(lambda x: 100 * np.cos(9 * x))
    for dt in (1e-8, 1e-2, 1e4, 1e12):
        sol = wg.solve(energy, RAMP, (0, 3 * dt), method=wg.FiniteVolume(dt=dt))
        assert sol.certificate.ok
        assert sol.certificate.min_density >= 0


def test_newtons_method_that_does_not_converge_cuts_the_step(monkeypatch):  # row 63
    from wgflow.solvers.finite_volume import nonlinear

    energy = PowerEntropy(3.0) + Potential(lambda x: 5 * x * x)
    plain = wg.solve(energy, RAMP, (0, 0.2), method=wg.FiniteVolume(dt=0.1))
    monkeypatch.setattr(nonlinear, "MAX_CORRECTIONS", 4)
    cut = wg.solve(energy, RAMP, (0, 0.2), method=wg.FiniteVolume(dt=0.1))
    assert cut.certificate.ok
    assert np.abs(cut.final.masses - plain.final.masses).sum() < 0.05 * RAMP.mass
    # Where it never does, the run ends with what there is.
    monkeypatch.setattr(nonlinear, "MAX_CORRECTIONS", 0)
    with pytest.raises(ConvergenceError, match="not finite") as caught:
        wg.solve(energy, RAMP, (0, 0.2), method=wg.FiniteVolume(dt=0.1))
    assert caught.value.reason == "non-finite"
    np.testing.assert_array_equal(caught.value.partial.final.values, RAMP.values)


def test_an_H_without_curvature_has_a_regular_jacobian():  # row 64
    # H'' = 0: no diffusion at all, transport by V alone.
    flat = InternalEnergy(lambda r: 0 * r, lambda r: 0 * r, lambda r: 0 * r)
    bowl = Potential(lambda x: 4 * (x - 0.3) ** 2)
    sol = wg.solve(flat + bowl, RAMP, (0, 0.2), method=wg.FiniteVolume(dt=0.02))
    assert sol.certificate.ok
    other = wg.solve(bowl, RAMP, (0, 0.2), method=wg.FiniteVolume(dt=0.02))
    assert np.abs(sol.final.masses - other.final.masses).sum() < 0.1 * RAMP.mass


# ---------------------------------------------------------------- inner solvers that stop: row 65
@pytest.mark.parametrize("inner", ["quantile", "entropic"])
def test_an_inner_solver_that_stops_at_its_limit_is_a_failure(inner):  # row 65
    energy = Entropy(1.0) + Potential(lambda x: 30 * np.cos(7 * x))
    method = wg.JKO(tau=0.05, inner=inner, max_iterations=1, tol=1e-13)
    with pytest.raises(ConvergenceError) as caught:
        wg.solve(energy, RAMP.normalized(), (0, 0.1), method=method)
    assert caught.value.reason == "tolerance"
    assert "tolerance" in str(caught.value)
    assert caught.value.partial.certificate.n_accepted == 0


# ---------------------------------------------------------------- failed and re-entered: rows 77, 78
def test_a_method_that_failed_has_no_memory_of_it():  # row 77
    method = wg.FiniteVolume(dt=0.01, max_steps=10)
    energy = Entropy(1.0) + Potential(lambda x: x)
    fresh = wg.solve(energy, RAMP, (0, 0.05), method=wg.FiniteVolume(dt=0.01, max_steps=10))
    with pytest.raises(ConvergenceError, match="max_steps=10") as caught:
        wg.solve(energy, RAMP, (0, 1), method=method)
    again = wg.solve(energy, RAMP, (0, 0.05), method=method)
    assert again.final.values.tobytes() == fresh.final.values.tobytes()
    # What a failed run left is a Solution like any other, and can be gone on from.
    partial = caught.value.partial
    assert partial.status == 1
    rest = wg.solve(energy, partial.final, (partial.t[-1], 0.2), method=wg.FiniteVolume(dt=0.01))
    whole = wg.solve(energy, RAMP, (0, 0.2), method=wg.FiniteVolume(dt=0.01))
    np.testing.assert_allclose(rest.final.values, whole.final.values, rtol=1e-12)


@pytest.mark.parametrize("method", [wg.FiniteVolume(dt=0.02), wg.FiniteVolume(), wg.JKO(tau=0.05)])
def test_a_solve_inside_a_callback_of_the_same_method_is_independent(method):  # row 78
    energy = Entropy(1.0) + Potential(lambda x: x) + wg.Interaction(lambda x, y: np.cos(x - y))
    inside = []

    def clock(t):
        inside.append(wg.solve(energy, RAMP, (0, 0.02), method=method).final.values.tobytes())
        return 1.0

    nested = wg.solve(energy, RAMP, (0, 0.1), method=method, time_scale=clock)
    plain = wg.solve(energy, RAMP, (0, 0.1), method=method, time_scale=lambda t: 1.0)
    assert nested.final.values.tobytes() == plain.final.values.tobytes()
    assert len(set(inside)) == 1


# ---------------------------------------------------------------- masses other than 1: row 30
def test_a_mass_other_than_one_is_kept_where_it_has_a_meaning():  # row 30
    heavy = Density(GRID, np.full(20, 1.02))
    for method in (wg.FiniteVolume(dt=0.05), wg.JKO(tau=0.05)):
        sol = wg.solve(Entropy(1.0) + Potential(lambda x: x), heavy, (0, 0.1), method=method)
        assert sol.final.mass == pytest.approx(1.02, rel=1e-13)
    assert Density.from_values(GRID, heavy.values, normalize=True).mass == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("rng", ["x", 1.5, -1, [-1]])
def test_a_seed_that_is_none_is_refused_by_whoever_draws(rng):
    points = np.zeros((4, 2))
    with pytest.raises(InvalidInput, match="rng="):
        wg.validation.sliced_wasserstein(points, points + 1.0, rng=rng)


@pytest.mark.parametrize("names", [3, [1], (), object(), 2.5, ["x", None]])
def test_names_that_are_no_strings_are_refused(names):
    with pytest.raises(InvalidType, match=r"names=.*need strings, one for each axis"):
        wg.Grid((0, 1), cells=8, names=names)
    with pytest.raises(InvalidType, match=r"names=.*need strings, one for each coordinate"):
        wg.Atoms([[0.0, 1.0]], [0.5, 0.5], names=names)


def test_a_dissipation_of_what_is_no_law_is_refused():
    for law in (np.ones(8), None, "rho", object()):
        with pytest.raises(InvalidType, match="a function of a Density or of Atoms"):
            (Entropy(1.0) + Potential(lambda x: x)).dissipation(law)
