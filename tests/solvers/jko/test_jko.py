"""The JKO method object: its settings, how steps are laid out and judged, and what is reported."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.solvers.jko import JKO, InnerSolver, JKOStep, Quantile
from wgflow.solvers.jko.convexity import concavity

GRID = wg.Grid([(-4, 4)], cells=100)
ENERGY = wg.Entropy(2.0) + wg.Potential(lambda x: x**2 / 2)
RHO0 = wg.Density.gaussian(GRID, 0.7, 0.3)


class Stub(InnerSolver):
    """Mixes the density with the uniform one, at a residual that a test dictates."""

    ORDERS = (1, 2)

    def __init__(self, residual=lambda tau, guess: 0.0, rise=lambda tau: -1.0):
        super().__init__(ENERGY.assemble(GRID), GRID, Quantile(), 1e-8, 10)
        self.residual, self.rise, self.calls = residual, rise, []

    def step(self, start, tau, guess=None):
        self.calls.append((tau, guess is not None))
        return JKOStep(RHO0, 0.5 * tau, start.energy + self.rise(tau), None, self.residual(tau, guess), 3, tau)

    def extrapolate(self, before, now, share):
        return replace(now, extras={"share": share})

    def distance_squared(self, first, second):
        return 0.25


@pytest.fixture
def stub(monkeypatch):
    """Put a stub in the place of the inner solver."""

    def install(**behavior):
        solver = Stub(**behavior)
        monkeypatch.setattr(JKO, "make_inner", lambda self, parts, grid: solver)
        return solver

    return install


# -------------------------------------------------------------------- settings
@pytest.mark.parametrize(("settings", "words"), [
    ({"tau": 0}, "tau=0"), ({"tau": -0.1}, "tau=-0.1"), ({"tau": math.nan}, "tau=nan"), ({"tau": math.inf}, "tau=inf"),
    ({"tau": 0.1, "inner": "quantiles"}, "did you mean 'quantile'"), ({"tau": 0.1, "inner": "simplex"}, "allowed:"),
    ({"tau": 0.1, "order": 3}, "order=3: need 1 or 2"), ({"tau": 0.1, "order": 0}, "order=0"),
    ({"tau": 0.1, "tol": 0.0}, "tol=0"), ({"tau": 0.1, "tol": math.nan}, "tol=nan"),
    ({"tau": 0.1, "max_iterations": 0}, "max_iterations=0"), ({"tau": 0.1, "adaptive": 1}, "adaptive=1"),
    ({"tau": 0.1, "rtol": -1.0}, "rtol=-1"), ({"tau": 0.1, "max_steps": 0}, "max_steps=0"),
    ({"tau": 0.1, "time_limit": 0}, "time_limit=0"),
])
def test_settings_out_of_range(settings, words):
    with pytest.raises(wg.InvalidInput, match=words):
        JKO(**settings)


@pytest.mark.parametrize("settings", [
    {"tau": "0.1"}, {"tau": True}, {"tau": None}, {"tau": 0.1, "inner": 3}, {"tau": 0.1, "order": 1.0},
    {"tau": 0.1, "tol": "1e-8"}, {"tau": 0.1, "max_iterations": 10.0}, {"tau": 0.1, "options": [("cells", 3)]},
    {"tau": 0.1, "max_steps": True},
])
def test_settings_of_the_wrong_kind(settings):
    with pytest.raises(TypeError):
        JKO(**settings)


def test_unknown_options_are_named():
    with pytest.raises(wg.InvalidInput, match=r"unknown option 'cels' of inner='quantile'; did you mean 'cells'"):
        JKO(tau=0.1, options={"cels": 30})


def test_settings_are_in_the_certificate():
    sol = wg.solve(ENERGY, RHO0, (0, 0.2), JKO(tau=0.1, tol=1e-7))
    settings = sol.certificate.settings
    assert settings["method"] == "JKO"
    assert (settings["tau"], settings["tol"], settings["inner"]) == (0.1, 1e-7, "quantile")
    assert "tau=0.1" in sol.method


# -------------------------------------------------------------------- how steps are laid out
def test_steps_divide_the_intervals_between_output_times():
    sol = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.3), t_eval=[0.0, 0.5, 0.6, 1.0])
    assert sol.history.t == pytest.approx([0, 0.25, 0.5, 0.6, 0.8, 1.0])
    assert sol.t == pytest.approx([0.0, 0.5, 0.6, 1.0], abs=0)
    assert len(sol.jko_steps) == sol.certificate.n_accepted == 5
    assert max(sol.history.dt) <= 0.3


def test_a_tau_that_divides_is_kept():
    sol = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1))
    assert sol.history.dt[1:] == pytest.approx(0.1)
    assert sol.history.t[-1] == 1.0
    assert len(sol.jko_steps) == 10


def test_a_tau_longer_than_the_time_span_is_cut():
    sol = wg.solve(ENERGY, RHO0, (2, 2.25), JKO(tau=7))
    assert sol.history.t == pytest.approx([2, 2.25])
    assert sol.jko_steps[0].tau == pytest.approx(0.25)


def test_an_empty_time_span_returns_the_density():
    sol = wg.solve(ENERGY, RHO0, (1, 1), JKO(tau=0.1))
    assert sol.final is RHO0
    assert sol.jko_steps == ()


def test_time_scale_multiplies_tau():
    plain = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1))
    fast = wg.solve(ENERGY, RHO0, (0, 0.5), JKO(tau=0.05), time_scale=2.0)
    assert np.abs(plain.final.values - fast.final.values).max() < 1e-12
    varying = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.5), time_scale=lambda t: 2 * t)
    assert [step.tau for step in varying.jko_steps] == pytest.approx([0.25, 0.75])


def test_second_order_steps_have_the_weights_of_variable_bdf2(stub):
    solver = stub()
    extrapolated = []
    solver.extrapolate = lambda before, now, share: extrapolated.append(share) or now
    wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.25, order=2), t_eval=[0.5, 1.0])
    assert [tau for tau, _ in solver.calls] == pytest.approx([0.25, 0.5 / 3, 0.5 / 3, 0.5 / 3])
    assert extrapolated == pytest.approx([1 / 3] * 3)
    # Steps of .25 and .125: omega = 1/2, effective length tau (1 + omega)/(1 + 2 omega), share omega^2/(1 + 2 omega).
    solver.calls.clear()
    extrapolated.clear()
    wg.solve(ENERGY, RHO0, (0, 0.375), JKO(tau=0.25, order=2), t_eval=[0.25, 0.375])
    assert [tau for tau, _ in solver.calls] == pytest.approx([0.25, 0.125 * 0.75])
    assert extrapolated == pytest.approx([0.125])


# -------------------------------------------------------------------- how steps are judged
def test_a_missed_tolerance_is_an_error_with_the_best_iterate():
    with pytest.raises(wg.ConvergenceError, match=r"residual .* after 2 iterations") as caught:
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1, max_iterations=2))
    error = caught.value
    assert error.reason == "tolerance"
    assert error.t == 0.0
    assert error.dt == pytest.approx(0.1)
    assert error.best.residual > 1e-9
    assert error.best.density.mass == pytest.approx(1.0, abs=1e-13)
    assert error.partial.status == 1
    assert error.partial.final is RHO0
    quiet = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1, max_iterations=2), throw=False)
    assert quiet.status == 1
    assert "tolerance" in quiet.message


def test_what_was_computed_before_a_failure_is_kept(stub):
    # The third step cannot be solved.
    steps = iter([0.0, 0.0] + [1.0] * 20)
    stub(residual=lambda tau, guess: next(steps))
    sol = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1), throw=False)
    assert sol.status == 1
    assert sol.t[-1] == pytest.approx(0.2)
    assert len(sol.jko_steps) == 2


def test_a_hard_step_is_approached_from_shorter_ones(stub):
    solver = stub(residual=lambda tau, guess: 0.0 if tau < 0.05 or guess is not None else 1.0)
    sol = wg.solve(ENERGY, RHO0, (0, 0.1), JKO(tau=0.1))
    assert sol.success
    assert solver.calls[0] == (pytest.approx(0.1), False)
    assert [guessed for _, guessed in solver.calls] == [False, False, True, True, True]
    assert [tau for tau, _ in solver.calls[1:]] == pytest.approx([0.1 / 64, 0.1 / 16, 0.1 / 4, 0.1])
    assert sol.history.dt[1:] == pytest.approx(0.1)


def test_a_step_that_breaks_the_inequality_is_refused(stub):
    # W2^2 = tau / 2: F must fall by 1/4 at least.
    stub(rise=lambda tau: -0.2)
    with pytest.raises(wg.ConvergenceError, match=r"F\(k\+1\) \+ W2\^2/\(2 tau\) <= F\(k\) by 5.00e-02") as caught:
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1))
    assert caught.value.reason == "energy increase"
    stub(rise=lambda tau: -0.25)
    assert wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1)).certificate.edi_defect == pytest.approx(0.0, abs=1e-13)


def test_blur_has_a_slack_of_its_own(stub):
    # W2^2 = tau / 2, so that the inequality is missed by 1/20, which the blur explains or does not.
    solver = stub(rise=lambda tau: -0.2)
    plain = solver.step
    solver.step = lambda start, tau, guess=None: replace(plain(start, tau, guess), blur=0.06, blur_length=0.25)
    sol = wg.solve(ENERGY, RHO0, (0, 0.2), JKO(tau=0.1))
    assert sol.certificate.edi_defect == 0.0
    assert sol.certificate.bias == pytest.approx(0.5)
    solver.step = lambda start, tau, guess=None: replace(plain(start, tau, guess), blur=0.04)
    with pytest.raises(wg.ConvergenceError, match=r"by 5.00e-02"):
        wg.solve(ENERGY, RHO0, (0, 0.2), JKO(tau=0.1))


def test_a_second_order_step_that_raises_the_energy_gives_way_to_a_plain_one(stub):
    solver = stub(rise=lambda tau: -1.0 if tau == pytest.approx(0.1) else 1.0)
    sol = wg.solve(ENERGY, RHO0, (0, 0.3), JKO(tau=0.1, order=2))
    assert sol.certificate.n_fallback == 2
    assert (np.diff(sol.history.energy) < 0).all()
    assert len(solver.calls) == 5


def test_residuals_are_not_trusted_when_they_are_no_numbers(stub):
    stub(residual=lambda tau, guess: math.nan)
    with pytest.raises(wg.ConvergenceError, match="residual nan"):
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1))


def test_limits(ticking):
    with pytest.raises(wg.ConvergenceError, match="max_steps=3") as caught:
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1, max_steps=3))
    assert caught.value.reason == "max steps"
    assert caught.value.partial.t[-1] == pytest.approx(0.3)
    ticking("wgflow.solvers.base")
    with pytest.raises(wg.ConvergenceError, match="time_limit") as caught:
        wg.solve(ENERGY, RHO0, (0, 1e3), JKO(tau=1e-4, time_limit=0.25))
    assert caught.value.reason == "time limit"
    # The clock is looked at before every step and at every evaluation in it, here two; 0.25 s are sixteen looks.
    assert caught.value.partial.certificate.n_accepted == 5


@pytest.mark.parametrize("inner", ["quantile", "linearized", "back-and-forth", "entropic"])
def test_the_time_limit_reaches_the_loops_of_a_step(inner, ticking):
    ticking("wgflow.solvers.base")
    with pytest.raises(wg.ConvergenceError, match="time_limit") as caught:
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=1.0, inner=inner, time_limit=0.03))
    assert caught.value.reason == "time limit"
    assert caught.value.partial.certificate.n_accepted == 0


@pytest.mark.parametrize("epsilon", [1e-300, 1e-9])
def test_an_epsilon_that_locks_all_mass_is_refused(epsilon):
    with pytest.raises(wg.InvalidInput, match=r"epsilon=1e-\d+: between neighboring cells .* need at least"):
        wg.solve(ENERGY, RHO0, (0, 0.1), JKO(tau=0.1, inner="entropic", options={"epsilon": epsilon}))


def test_times_that_floats_cannot_tell_apart():
    with pytest.raises(wg.ConvergenceError, match="step too small"):
        wg.solve(ENERGY, RHO0, (1e12, 1e12 + 1), JKO(tau=1e-6))


# -------------------------------------------------------------------- what is reported
def test_steps_are_reported_without_their_densities():
    sol = wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1))
    for step, energy in zip(sol.jko_steps, sol.history.energy[1:]):
        assert step.density is None
        assert step.state == {}
        assert step.energy == energy
        assert step.gap is None
        assert 0 <= step.residual <= 1e-9
        assert step.iterations >= 1
        # A step from the best place: the slope at its end is the distance made per time.
        assert step.dissipation == pytest.approx(step.w2_squared / step.tau**2, rel=1e-6)
    assert sol.certificate.residual == max(step.residual for step in sol.jko_steps)
    assert "F(k+1) + W2^2/(2 tau) <= F(k) held at every step" in sol.certificate.explain()


def test_other_methods_have_no_jko_steps():
    sol = wg.solve(ENERGY, RHO0, (0, 0.1))
    assert sol.jko_steps == ()
    assert sol.certificate.edi_defect is None


def test_dissipation_is_accounted_for():
    defects = [wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=tau)).certificate.dissipation_defect for tau in (0.1, 0.025)]
    # F(k) - F(k+1) - W2^2/tau is of second order in tau at each step, so the sum is of first.
    assert defects[1] < 0.5 * defects[0]
    assert wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.05, order=2)).certificate.dissipation_defect < 5e-3


def test_the_energy_of_masses_is_that_of_the_density():
    energy = ENERGY + wg.Interaction(lambda d: d**2) + 0.3 * PowerEntropy(2.0)
    assert energy.assemble(GRID).energy(RHO0.masses) == pytest.approx(energy(RHO0), rel=1e-12)


def test_an_infinite_energy_is_refused():
    with pytest.raises(wg.WGFlowError, match="finite"):
        wg.solve(1e300 * wg.Potential(lambda x: 1e8 * x**2), RHO0, (0, 1), JKO(tau=0.1))


# -------------------------------------------------------------------- how concave an energy may be
def warnings_of(energy, rho0, tau, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wg.solve(energy, rho0, (0, 4), JKO(tau=tau), **options)
    return [str(w.message) for w in caught if issubclass(w.category, wg.WGFlowWarning)]


def test_steps_beyond_convexity_warn_once_a_run():
    well = wg.Entropy(10.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    found = warnings_of(well, RHO0, 2.0)
    assert len(found) == 1
    assert found[0].startswith("tau=2 > 1/0.99")
    assert "may not be unique" in found[0]
    assert warnings_of(well, RHO0, 0.9) == []
    # The clock of the gradient flow counts.
    assert len(warnings_of(well, RHO0, 0.9, time_scale=1.5)) == 1
    assert warnings_of(ENERGY, RHO0, 4.0) == []
    # Rounding is no concavity.
    assert concavity((1 * wg.Potential(lambda x: 1e12 * x)).assemble(GRID), GRID, 1.0) == 0.0


def test_concavity_of_potentials_and_kernels():
    plane = wg.Grid([(-3, 3), (-2, 2)], cells=(48, 40))
    saddle = (1 * wg.Potential(lambda x, y: x * y + 0.3 * x * x)).assemble(plane)
    assert concavity(saddle, plane, 1.0) == pytest.approx(math.hypot(0.3, 1.0) - 0.3, rel=1e-8)
    bell = wg.Potential(lambda x: x**2 / 4) + wg.Interaction(lambda d: -2 * np.exp(-(d**2) / 2))
    # w'' = 2 (1 - z^2) exp(-z^2/2) is least at z^2 = 3.
    assert concavity(bell.assemble(GRID), GRID, 3.0) == pytest.approx(12 * math.exp(-1.5) - 0.5, rel=1e-2)
    assert concavity((1 * wg.Potential(lambda x: x**4)).assemble(GRID), GRID, 1.0) == 0.0
    uneven = wg.Grid(edges=np.linspace(0, 1, 41) ** 2)
    hill = (1 * wg.Potential(lambda x: -(x**2))).assemble(uneven)
    assert concavity(hill, uneven, 1.0) == pytest.approx(2.0, rel=1e-6)


# -------------------------------------------------------------------- adaptive steps
@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_adaptive_steps_follow_the_tolerance(order):
    well = wg.Entropy(10.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    exact = wg.solve(well, RHO0, (0, 4), JKO(tau=0.002, order=2)).final
    errors, counts = [], []
    for rtol in (1e-2, 1e-3, 1e-4):
        sol = wg.solve(well, RHO0, (0, 4), JKO(tau=1.0, order=order, adaptive=True, rtol=rtol))
        assert sol.certificate.controlled
        assert sol.certificate.error_estimate > 0
        assert sol.certificate.max_energy_increase < 1e-12
        errors.append(abs(sol.final.cov() - exact.cov()))
        counts.append(sol.certificate.n_accepted)
    assert counts[0] < counts[1] < counts[2]
    assert errors[2] < 0.3 * errors[0]
    # Steps grow as the flow comes to rest.
    assert sol.history.dt[-1] > 3 * sol.history.dt[1]


@pytest.mark.parametrize(("cells", "t_end"), [(100, 20.0), (200, 5.0)])
def test_nodes_of_hardly_any_mass_do_not_dissipate(cells, t_end):
    # The outermost nodes at the wall, of mass 6e-16, had forces that grew sixfold a step: a dissipation of 2e13.
    start = wg.Density.gaussian(wg.Grid((-6, 6), cells=cells), 1.0, 0.3)
    sol = wg.solve(wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2), start, (0, t_end),
                   JKO(tau=0.05, inner="quantile", adaptive=True))
    assert sol.certificate.ok, sol.certificate.explain()
    for step in sol.jko_steps:
        assert step.dissipation == pytest.approx(step.w2_squared / step.tau**2, rel=0.2, abs=1e-12)


def test_adaptive_steps_end_on_output_times():
    sol = wg.solve(ENERGY, RHO0, (0, 2), JKO(tau=0.7, adaptive=True), t_eval=[0.3, 1.1, 2.0])
    assert sol.t == pytest.approx([0.3, 1.1, 2.0], abs=0)


def test_adaptive_steps_need_distances(stub):
    solver = stub()
    solver.distance_squared = lambda first, second: math.nan
    with pytest.raises(wg.InvalidInput, match=r"adaptive.*use fixed steps"):
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1, adaptive=True))


def test_adaptive_steps_that_never_satisfy_stop_in_words(stub):
    # Two ways to the same time that never come closer than 1/2.
    stub()
    with pytest.raises(wg.ConvergenceError, match=r"step too small.*loosen rtol") as caught:
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=0.1, adaptive=True))
    assert caught.value.partial.status == 1


def test_adaptive_steps_pass_on_why_short_steps_fail(stub):
    stub(residual=lambda tau, guess: 1.0)
    with pytest.raises(wg.ConvergenceError, match=r"stopped at residual 1\.00e\+00"):
        wg.solve(ENERGY, RHO0, (0, 1), JKO(tau=1e-6, adaptive=True, max_steps=10))
