"""The verb: spans, output times, limits, failures on the way and what they leave behind."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

import wgflow as wg
from wgflow import ConvergenceError, Density, Entropy, Grid, InvalidInput, Potential
from wgflow.calls.arguments import check_times
from wgflow.solvers.finite_volume.compact_sweeps import CompactSweeps
from wgflow.solvers.finite_volume.splitting import LinearSweeps

#: The sweeps of a run by the order of its fluxes, and how many a step tries at most.
SWEEPS, CANDIDATES = {2: LinearSweeps, 4: CompactSweeps}, {2: 1, 4: 3}
GRID = Grid((-3, 3), cells=60)
ENERGY = Entropy(2.0) + Potential(lambda x: x**4 / 4 - x**2 / 2)
RHO = Density.gaussian(GRID, 0.7, 0.2)


def solve(span=(0.0, 1.0), energy=ENERGY, rho=RHO, throw=True, t_eval=None, time_scale=1.0, **settings):
    return wg.solve(energy, rho, span, method=wg.FiniteVolume(**settings), throw=throw, t_eval=t_eval,
                    time_scale=time_scale)


def assert_usable(partial, *, until=None):
    """A partial solution: some accepted steps, all of them legal."""
    assert partial.status == 1
    assert not partial.success
    assert not partial.certificate.ok
    assert not partial.certificate.completed
    assert partial.t[-1] == partial.history.t[-1]
    assert np.isfinite(partial.final.values).all()
    assert partial.final.values.min() >= 0
    assert partial.certificate.mass_drift <= 1e-13
    assert partial.certificate.max_energy_increase <= 1e-12
    assert partial.energy[-1] == pytest.approx(partial.free_energy(partial.final), rel=1e-12)
    if until is not None:
        assert partial.t[-1] <= until


# ---------------------------------------------------------------- spans and times
@pytest.mark.parametrize("settings", [{}, {"dt": 0.1}, {"order": 2}, {"order": 4}])
def test_an_empty_span_returns_the_start(settings, monkeypatch):
    for sweeps in SWEEPS.values():
        monkeypatch.setattr(sweeps, "move", None)  # no step is tried
    sol = solve((2.0, 2.0), **settings)
    assert sol.final is RHO
    assert sol.certificate.n_accepted == 0
    assert sol.t.tolist() == [2.0]
    assert sol.success


def test_a_step_longer_than_the_span_is_clipped():
    sol = solve((0.0, 0.3), dt=10.0)
    assert sol.history.t.tolist() == [0.0, 0.3]
    np.testing.assert_array_equal(sol.final.values, solve((0.0, 0.3), dt=0.3).final.values)


def test_fixed_steps_end_exactly_where_they_should():
    sol = solve((0.0, 1.0), dt=0.1)
    assert sol.history.t[-1] == 1.0
    assert sol.certificate.n_accepted == 10
    np.testing.assert_allclose(sol.history.dt[1:], 0.1, rtol=1e-12)
    uneven = solve((0.0, 1.0), dt=0.3)
    np.testing.assert_allclose(uneven.history.t, [0, 0.3, 0.6, 0.9, 1.0], rtol=1e-12)


def test_an_output_time_cuts_a_fixed_step_and_lengthens_none():
    sol = solve((0.0, 0.5), dt=0.1, t_eval=[0.25])
    np.testing.assert_allclose(sol.history.t, [0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5], rtol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"dt": 0.07}])
def test_output_times_are_met_exactly(settings):
    times = [0.0, 0.1, 1 / 3, 0.95]
    sol = solve(t_eval=times, **settings)
    assert sol.t.tolist() == times
    assert len(sol.densities) == 4
    assert sol.history.t[-1] == 1.0
    assert sol.energy == pytest.approx([ENERGY(rho) for rho in sol.densities], rel=1e-12)


def test_more_output_times_do_not_change_an_accurate_solution():
    few = solve(t_eval=[1.0], rtol=1e-7).final.values
    many = solve(t_eval=np.linspace(0, 1, 41), rtol=1e-7).final.values
    assert np.abs(few - many).max() < 1e-5 * few.max()


def test_the_density_between_snapshots_is_that_of_the_flow():
    sol = solve(t_eval=[0.2, 0.6])
    told = solve(t_eval=[0.2, 0.5, 0.6]).densities[1]
    linear = 0.25 * sol.densities[0].masses + 0.75 * sol.densities[1].masses
    miss = np.abs(sol.density(0.5).masses - told.masses).sum()
    assert miss < 0.02 * np.abs(linear - told.masses).sum()
    assert sol.density(0.2) is sol.densities[0]
    with pytest.raises(InvalidInput, match=r"t=0.1 is outside the solution"):
        sol.density(0.1)


def test_snapshots_are_thinned_but_keep_both_ends():
    sol = solve((0.0, 1.0), dt=1e-3)
    assert sol.certificate.n_accepted == 1000
    assert len(sol.t) <= 64
    assert (sol.t[0], sol.t[-1]) == (0.0, 1.0)
    assert (np.diff(sol.t) > 0).all()
    assert len(sol.history) == 1001


def test_the_history_agrees_with_the_densities():
    sol = solve((0.0, 1.0), dt=0.05)
    assert sol.history.t.tolist() == sol.t.tolist()
    assert sol.history.energy.tolist() == sol.energy.tolist()
    assert sol.history.energy == pytest.approx([ENERGY(rho) for rho in sol.densities], rel=1e-12)
    assert sol.history.mass == pytest.approx([rho.mass for rho in sol.densities], rel=1e-14)
    assert sol.history.min_density == pytest.approx([rho.values.min() for rho in sol.densities], rel=1e-12)
    assert sol.history.accepted.tolist() == list(range(21))


def test_negative_start_times_are_legal():
    late, early = solve((5.0, 6.0), dt=0.125), solve((-1.0, 0.0), dt=0.125)
    np.testing.assert_array_equal(late.final.values, early.final.values)


# ---------------------------------------------------------------- limits
@pytest.mark.parametrize("settings", [{"dt": 1e-3}, {"rtol": 1e-9}])
def test_max_steps_keeps_what_was_computed(settings):
    with pytest.raises(ConvergenceError, match=r"max_steps=7 reached at t = .*; raise max_steps") as caught:
        solve(max_steps=7, **settings)
    error = caught.value
    assert error.reason == "max steps"
    assert_usable(error.partial, until=0.999)
    assert 7 <= error.partial.certificate.n_accepted <= 8  # a checked pair of steps is not torn
    assert error.partial.history.t[-1] == error.t
    assert (error.partial.final.values != RHO.values).any()


def test_the_partial_solution_is_that_of_a_shorter_run():
    with pytest.raises(ConvergenceError) as caught:
        solve(max_steps=7, dt=0.125 / 8)
    shorter = solve((0.0, 7 * 0.125 / 8), dt=0.125 / 8)
    np.testing.assert_array_equal(caught.value.partial.final.values, shorter.final.values)


def test_throw_false_returns_what_was_computed():
    sol = solve(max_steps=7, dt=1e-3, throw=False)
    assert_usable(sol)
    assert "max_steps=7" in sol.message


def test_the_time_limit_holds(ticking):
    ticking("wgflow.solvers.base")
    with pytest.raises(ConvergenceError, match=r"time_limit=0.25 s reached") as caught:
        solve((0.0, 1e6), dt=1e-3, time_limit=0.25)
    # The clock is looked at before every step: 0.25 s are the sixteen of them that it lets through.
    assert caught.value.partial.certificate.n_accepted == 16
    assert caught.value.reason == "time limit"
    assert_usable(caught.value.partial)


@pytest.mark.parametrize("settings", [{"dt": 1e-3}, {}])
def test_steps_below_the_resolution_of_time_are_refused(settings):
    with pytest.raises(ConvergenceError, match="step too small") as caught:
        solve((1e16, 1e16 + 1e3), energy=1e9 * ENERGY, **settings)
    assert caught.value.reason == "step too small"
    assert_usable(caught.value.partial)


# ---------------------------------------------------------------- a user's clock
def failing_clock(t):
    if t > 0.5:
        raise OSError("the clock file is gone")
    return 1.0


@pytest.mark.parametrize("settings", [{"dt": 0.05}, {}])
def test_a_clock_that_raises_on_the_way_loses_nothing(settings):
    with pytest.raises(ConvergenceError, match=r"time_scale\(0\.5.*\) raised OSError: the clock file") as caught:
        solve(time_scale=failing_clock, **settings)
    assert caught.value.reason == "callback"
    assert isinstance(caught.value.__cause__, OSError)
    assert_usable(caught.value.partial, until=0.5)
    assert caught.value.partial.t[-1] > 0.2


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, "2", None, True, 1j, np.ones(2)])
def test_a_clock_with_a_bad_value_is_named(value):
    with pytest.raises(ConvergenceError, match=r"time_scale\(.*\)=.*need a finite number > 0") as caught:
        solve(time_scale=lambda t: 1.0 if t < 0.5 else value, dt=0.05)
    assert caught.value.reason == "callback"
    assert_usable(caught.value.partial, until=0.5)


def test_a_clock_that_fails_at_once_leaves_the_start():
    def clock(t):
        raise ZeroDivisionError("no clock")

    for settings in ({"dt": 0.05}, {}):
        sol = solve(time_scale=clock, throw=False, order=2, **settings)
        assert sol.status == 1
        assert sol.final is RHO
        sol = solve(time_scale=clock, throw=False, order=4, **settings)
        assert sol.status == 1
        np.testing.assert_array_equal(sol.final.values, RHO.values)
        assert sol.energy[-1] == pytest.approx(ENERGY(sol.final), rel=1e-14)


@pytest.mark.parametrize("wrap", [float, np.float32, np.array, lambda v: np.where(v > 0, v, v)])
def test_a_clock_may_return_any_real_scalar(wrap):
    expected = solve(time_scale=2.0, dt=0.1).final.values
    np.testing.assert_allclose(solve(time_scale=lambda t: wrap(2.0), dt=0.1).final.values, expected, rtol=1e-12)


# ---------------------------------------------------------------- interruption and faults inside
def steady(t):
    """A clock given as a function, with which no compiled loop takes many steps at a time."""
    return 1.0


def watch_sweeps(monkeypatch, order, change):
    """Let ``change(masses, k)`` see and spoil what the k-th sweep of a run gives; return the counter."""
    count, inside = [0], [False]

    def watched(sweep):
        def counted(self, *arguments, **options):
            if inside[0]:
                return sweep(self, *arguments, **options)
            count[0], inside[0] = count[0] + 1, True
            found = sweep(self, *arguments, **options)
            inside[0] = False
            change(found[0] if isinstance(found, tuple) else found, count[0])
            return found

        return counted

    for name in ("move", "line"):
        if hasattr(SWEEPS[order], name):
            monkeypatch.setattr(SWEEPS[order], name, watched(getattr(SWEEPS[order], name)))
    return count


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no room")])
def test_an_interruption_carries_what_was_computed(monkeypatch, error, order):
    def interrupt(masses, k):
        if k > 5:
            raise error

    watch_sweeps(monkeypatch, order, interrupt)
    with pytest.raises(type(error)) as caught:
        solve(dt=0.05, order=order)
    told = caught.value
    if isinstance(error, MemoryError):
        assert isinstance(told, wg.ResourceError)
        assert told.__cause__ is error
        assert "no room" in str(told)
        assert "GiB are free" in str(told)
        assert "take fewer" in str(told)
    else:
        assert told is error
    assert_usable(told.partial)
    assert told.partial.t[-1] == 0.25
    monkeypatch.undo()
    expected = solve((0.0, 0.25), dt=0.05, order=order)
    np.testing.assert_array_equal(told.partial.final.values, expected.final.values)


#: Without an interaction one axis has a formula of its own.
ENERGIES = {"fixed": ENERGY, "attraction": ENERGY + wg.Interaction(wg.Convolution(lambda z: 0.5 * z**2))}


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("settings", [{"dt": 0.05}, {}])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -1e-9])
def test_a_poisoned_step_is_never_accepted(monkeypatch, settings, poison, order, energy):
    if energy == "attraction" and poison == math.inf:
        pytest.skip("NumPy warns of the infinite masses in U rho")

    def spoil(masses, k):
        # From the first step: all that it tries, part of what the next tries, and some of a later one.
        if k in (4, 5, 6, 7, 8, 9, 13):
            masses.flat[8] += masses.flat[7] - poison if math.isfinite(poison) else 0.0  # the mass is right
            masses.flat[7] = poison

    count = watch_sweeps(monkeypatch, order, spoil)
    sol = solve(energy=ENERGIES[energy], order=order, time_scale=steady, **settings)
    assert count[0] > 13
    assert sol.success
    assert sol.certificate.ok
    assert sol.certificate.n_rejected >= 1
    assert sol.certificate.error_estimate is None or math.isfinite(sol.certificate.error_estimate)
    assert sol.final.values.min() >= 0


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("settings", [{"dt": 0.05}, {"rtol": 1e-8}])
def test_steps_that_stay_poisoned_end_the_run(monkeypatch, settings, order):
    def spoil(masses, k):
        if k > 8:
            masses[...] = math.nan

    count = watch_sweeps(monkeypatch, order, spoil)
    with pytest.raises(ConvergenceError) as caught:
        solve(order=order, time_scale=steady, **settings)
    assert count[0] <= 8 + 8 * CANDIDATES[order]  # the eight good moves, and a few trials of one more step
    assert caught.value.reason == "non-finite"
    assert_usable(caught.value.partial)


def test_a_potential_whose_differences_overflow_ends_in_words():
    V = np.where(np.arange(60) % 2, 1.5e308, -1.5e308)
    for settings in ({"dt": 0.05}, {}):
        with pytest.raises(ConvergenceError) as caught:
            solve(energy=Entropy(1.0) + Potential(V), **settings)
        assert caught.value.reason == "non-finite"


def test_an_energy_beyond_the_floats_is_refused_at_the_start():
    with pytest.raises(ConvergenceError, match="free energy of rho0 is inf") as caught:
        solve(energy=Potential(np.full(60, 1e308)), rho=Density(GRID, np.full(60, 1e3)))
    assert caught.value.reason == "non-finite"
    assert caught.value.partial.final.values.max() == 1e3


# ---------------------------------------------------------------- reports
def test_progress_is_logged_without_a_terminal(caplog, capsys):
    caplog.set_level(logging.INFO, logger="wgflow")
    wg.solve(ENERGY, RHO, (0, 1), method=wg.FiniteVolume(dt=0.1), progress=True)
    assert "solving: t = 1 of 1" in caplog.text
    assert capsys.readouterr().out == ""


def test_a_solve_is_silent_by_default(caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="wgflow")
    solve(dt=0.1)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_the_default_method_is_finite_volume():
    np.testing.assert_array_equal(wg.solve(ENERGY, RHO, (0, 1)).final.values, solve().final.values)


def test_a_solution_says_how_it_was_made():
    sol = solve(dt=0.1)
    assert sol.method == "FiniteVolume(dt=0.1)"
    assert solve().method == "FiniteVolume()"
    assert sol.certificate.settings["dt"] == 0.1
    assert sol.certificate.error_estimate is None
    assert solve().certificate.error_estimate > 0
    assert "all checks passed" in sol.certificate.explain()
    assert sol.certificate.to_dict()["ok"] is True


def test_output_times_that_miss_an_end_by_a_last_digit_are_the_end():
    end = 0.1
    times = np.linspace(0.0, np.cbrt(end), 4) ** 3
    assert times[-1] > end
    grid = wg.Grid((-3, 3), cells=20)
    sol = wg.solve(wg.Entropy(1.0), wg.Density.gaussian(grid, 0.0, 0.5), (0.0, end), t_eval=times)
    assert sol.t[-1] == end
    with pytest.raises(wg.InvalidInput, match="outside t_span"):
        wg.solve(wg.Entropy(1.0), wg.Density.gaussian(grid, 0.0, 0.5), (0.0, end), t_eval=[0.0, 0.1 + 1e-12])


def test_compilation_is_told_once(caplog, monkeypatch):
    from numba import njit

    from wgflow import progress

    monkeypatch.setattr(progress, "_told", [])
    caplog.set_level("INFO", logger="wgflow")
    with progress.compilation_told():
        assert njit(lambda x: x + 1)(1) == 2
        assert njit(lambda x: x + 2)(1) == 3
    assert [r.getMessage() for r in caplog.records] == ["compiling kernels, once: they are kept on disk for later runs"]
    words: list[str] = []
    monkeypatch.setattr(progress, "_told", [])
    with progress.compilation_told(words.append):
        pass
    assert not words


@pytest.mark.parametrize(("t_eval", "span", "times"), [
    ([0.1 * 3 - 0.3, 0.5, 1.0], (0.0, 1.0), [0.0, 0.5, 1.0]),
    ([-1e-16, 1 - 1e-16], (0.0, 1.0), [0.0, 1.0]),
    ([1 + 2e-16, 2.0], (1.0, 2.0), [1.0, 2.0]),
    ([1.0], (0.0, 1e300), [1.0]),
    ([1.0, 1e300], (0.0, 1e300), [1.0, 1e300]),
])
def test_a_last_digit_is_forgiven_and_a_long_span_hides_no_time(t_eval, span, times):
    assert list(check_times(t_eval, *span, 10)) == times
