"""Callbacks and conditions that end a run: the run that they watch is the one that nobody watched."""

import io
import logging
import os
import signal
import sys
import threading

import numpy as np
import pytest

import wgflow as wg

LINE = wg.Grid((-5, 5), cells=120)
PLANE = wg.Grid([(-5, 5), (-5, 5)], cells=(24, 24))
BOWL = wg.Potential(lambda *x: sum(c**2 for c in x) / 2)
PULL = wg.Interaction(wg.Convolution(lambda z: z**2 / 4))
RHO = wg.Density.gaussian(LINE, 1.0, 0.3)
HILL = wg.Density.from_function(LINE, lambda x: np.maximum(1 - (x - 1) ** 2, 0))

CASES = {
    "compiled loop": (wg.Entropy(1.0) + BOWL, RHO, wg.FiniteVolume()),
    "compiled loop with an interaction": (wg.Entropy(1.0) + BOWL + PULL, RHO, wg.FiniteVolume()),
    "midpoint": (wg.Entropy(1.0) + BOWL + PULL, RHO, wg.FiniteVolume(scheme="midpoint")),
    "fixed steps": (wg.Entropy(1.0) + BOWL, RHO, wg.FiniteVolume(dt=0.05)),
    "second order": (wg.Entropy(1.0) + BOWL, RHO, wg.FiniteVolume(order=2)),
    "porous medium": (wg.PowerEntropy(2) + BOWL, HILL, wg.FiniteVolume()),
    "explicit steps": (1 * BOWL, HILL, wg.FiniteVolume()),
    "plane": (wg.Entropy(1.0) + BOWL, wg.Density.gaussian(PLANE, [1.0, 0.0], 0.4), wg.FiniteVolume()),
    "JKO": (wg.Entropy(1.0) + BOWL, RHO, wg.JKO(tau=0.1)),
    "characteristics": (1 * BOWL, HILL, wg.Lagrangian()),
    "FiPy": (wg.Entropy(1.0) + BOWL, RHO, wg.FiPy(dt=0.1)),
}


def rows(solution, count=None):
    return np.array([getattr(solution.history, name)[:count] for name in ("t", "energy", "mass")])


@pytest.mark.parametrize("case", CASES)
def test_the_run_is_the_same_up_to_its_end(case):
    energy, rho, method = CASES[case]
    seen = []
    sol = wg.solve(energy, rho, (0, 12), method=method, stop=wg.stop.stationary(0.03),
                   callback=lambda t, law, f: seen.append((t, law.mass, f)))
    whole = wg.solve(energy, rho, (0, 12), method=method)
    count = len(sol.history)
    assert sol.success
    assert sol.stopped
    assert 1.0 < sol.t[-1] < 12
    assert sol.t[-1] == sol.history.t[-1]
    assert sol.message == sol.stopped == sol.certificate.stopped
    assert np.array_equal(rows(sol), rows(whole, count))
    # A cell of this grid is coarse beside a step of JKO.
    assert sol.certificate.verdict in (("holds", "not judged") if case == "JKO" else ("holds",))
    assert "told to" in sol.explain()
    assert np.array_equal([t for t, _, _ in seen], sol.history.t)
    assert np.allclose([m for _, m, _ in seen], 1.0 if rho is RHO else rho.mass)
    assert np.array_equal([f for _, _, f in seen], sol.history.energy)
    assert whole.stopped == ""


def test_stationary_is_the_speed_of_the_law():
    """A moving Gaussian of the variance at rest: the speed in W2 is |m| = e^-t, to the grid's error."""
    rho = wg.Density.gaussian(LINE, 1.0, 1.0)
    sol = wg.solve(wg.Entropy(1.0) + BOWL, rho, (0, 9), method=wg.FiniteVolume(dt=0.01), stop=wg.stop.stationary(0.1))
    assert abs(sol.t[-1] - np.log(10.0)) < 0.015


def test_a_clock_does_not_change_what_is_at_rest():
    rho = wg.Density.gaussian(LINE, 1.0, 1.0)
    sol = wg.solve(wg.Entropy(1.0) + BOWL, rho, (0, 9), method=wg.FiniteVolume(dt=0.01), time_scale=2.0,
                   stop=wg.stop.stationary(0.1))
    assert abs(2 * sol.t[-1] - np.log(10.0)) < 0.03


def test_energy_and_boundary_conditions():
    energy = wg.Entropy(1.0) + BOWL
    sol = wg.solve(energy, RHO, (0, 9), stop=wg.stop.energy_below(-0.5))
    assert sol.energy[-1] <= -0.5 < sol.history.energy[-2]
    box = wg.Grid((-1, 1), cells=100, boundary="no-flux")
    spread = wg.solve(1 * wg.Entropy(1.0), wg.Density.gaussian(box, 0.0, 0.01), (0, 5),
                      stop=wg.stop.mass_at_boundary(1e-3))
    assert spread.t[-1] < 1
    assert spread.certificate.boundary_mass > 1e-3
    assert spread.certificate.ok


def test_any_of_several_and_at_once():
    sol = wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 1), stop=[wg.stop.energy_below(-1e9), wg.stop.stationary(1e6)])
    assert len(sol.history) == 1
    assert sol.t.tolist() == [0.0]
    # Of N(1, 0.3) the square is 1 + 0.7^2 / 0.3.
    assert "the mass moves at 1.6 (root mean square, at most 1e+06)" in sol.stopped
    assert sol.certificate.ok


def test_output_times_and_the_end_are_kept():
    sol = wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 9), t_eval=[0, 0.5, 1.0, 8.0], stop=lambda t, rho: t >= 0.7)
    assert sol.t[:2].tolist() == [0.0, 0.5]
    assert 0.7 <= sol.t[-1] <= 1.0
    assert sol.stopped.endswith("<lambda> returned True")


def test_langevin_particles():
    method = wg.Lagrangian(n_particles=400, rng=3)
    sol = wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 9), method=method, stop=lambda t, rho: rho.mean() < 0.5)
    assert isinstance(sol.final, wg.Atoms)
    assert sol.final.mean() < 0.5 <= sol.densities[-2].mean()
    assert sol.certificate.verdict == "holds"
    with pytest.raises(wg.InvalidInput, match="never rest"):
        wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 9), method=method, stop=wg.stop.stationary(1e-3))


def test_the_laws_are_the_callbacks_own():
    kept = []
    sol = wg.solve(wg.Entropy(1.0) + BOWL + PULL, RHO, (0, 1), t_eval=[0, 0.4, 1.0],
                   callback=lambda t, rho: kept.append((t, rho)))
    laws = dict(kept)
    for t, rho in zip(sol.t, sol.densities):
        assert np.array_equal(laws[t].values, rho.values)


@pytest.mark.parametrize("case", CASES)
def test_what_a_callback_raises_loses_nothing(case):
    energy, rho, method = CASES[case]

    def callback(t, law):
        if t > 0.2:
            raise KeyError("mine")

    with pytest.raises(wg.ConvergenceError, match="KeyError: 'mine'") as caught:
        wg.solve(energy, rho, (0, 12), method=method, callback=callback)
    assert caught.value.reason == "callback"
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.partial.t[-1] > 0.2
    sol = wg.solve(energy, rho, (0, 12), method=method, callback=callback, throw=False)
    assert sol.status == 1
    assert np.array_equal(rows(sol), rows(caught.value.partial))


@pytest.mark.parametrize(("options", "words"), [
    ({"callback": 3}, "callback=3: need a function"),
    ({"callback": lambda t: None}, "takes 1 argument"),
    ({"stop": wg.stop.stationary}, "stationary is a class"),
    ({"stop": 1e-6}, "stop=1e-06: need a condition"),
    ({"stop": [lambda t, rho: True, "rest"]}, "stop='rest'"),
    ({"progress": 1}, "progress=1: need True or False, or a function"),
])
def test_bad_arguments_stop_before_the_run(options, words):
    with pytest.raises(wg.InvalidInput, match=words):
        wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 1), **options)


def test_a_stop_that_does_not_answer():
    with pytest.raises(wg.ConvergenceError, match="returned None") as caught:
        wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 1), stop=lambda t, rho: print(end=""))
    assert caught.value.reason == "callback"


@pytest.mark.parametrize("tol", [0, -1.0, np.nan, np.inf, "1", True])
def test_conditions_check_their_numbers(tol):
    with pytest.raises(wg.InvalidInput):
        wg.stop.stationary(tol)
    with pytest.raises(wg.InvalidInput):
        wg.stop.mass_at_boundary(-1 if tol == 0 else tol)


def test_a_stopped_run_is_stored_and_goes_on(tmp_path):
    energy, path = wg.Entropy(1.0) + BOWL + PULL, tmp_path / "run.npz"
    sol = wg.solve(energy, RHO, (0, 3), checkpoint=path, stop=lambda t, rho: t > 1)
    sol.save(tmp_path / "sol.npz")
    assert wg.load(tmp_path / "sol.npz").stopped == sol.stopped
    assert np.array_equal(rows(wg.resume(path, energy=energy)), rows(wg.solve(energy, RHO, (0, 3))))


@pytest.mark.parametrize("case", [name for name in CASES if name not in ("characteristics", "FiPy")])
def test_a_stopped_run_resumed_has_the_bits_of_a_whole_one(case, tmp_path):
    energy, rho, method = CASES[case]
    whole = wg.solve(energy, rho, (0, 3), method=method)
    for count in (1, 2, min(5, len(whole.history) - 2), min(8, len(whole.history) - 2)):
        path, calls = tmp_path / "run.npz", []
        part = wg.solve(energy, rho, (0, 3), method=method, checkpoint=path,
                        stop=lambda t, law, calls=calls, count=count: bool(calls.append(t)) or len(calls) > count)
        assert len(part.history) == count + 1
        again = wg.resume(path, energy=energy)
        path.unlink()
        assert np.array_equal(rows(again), rows(whole))
        assert np.array_equal(again.final.values, whole.final.values)


def test_resume_takes_callback_and_stop(tmp_path):
    energy, path = wg.Entropy(1.0) + BOWL, tmp_path / "run.npz"
    wg.solve(energy, RHO, (0, 3), checkpoint=path, stop=lambda t, rho: t > 0.5)
    seen = []
    sol = wg.resume(path, 9.0, energy=energy, callback=lambda t, rho: seen.append(t), stop=lambda t, rho: t > 4)
    assert 4 < sol.t[-1] < 9
    assert 0.5 < seen[0] < 1.5
    assert seen[-1] == sol.t[-1]


# ---------------------------------------------------------------- progress
def test_lines_are_seen_without_logging(capfd):
    wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 1), progress=True)
    assert "solving: t = 1 of 1" in capfd.readouterr().err


def test_an_estimate_of_what_is_left(caplog, monkeypatch):
    from wgflow import progress

    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, logger="wgflow")
    with progress.Reporter("work") as report:
        for k in range(1, 101):
            clock[0] += 1.0
            report(k, 100)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("work: 3 %, about ")
    assert "about 97 seconds left" in lines[0]
    assert "about 91 seconds left" in lines[1]
    assert lines[-1] == "work: 100 %"


def test_the_first_short_steps_do_not_tell_what_is_left(caplog, monkeypatch):
    from wgflow import progress

    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, logger="wgflow")
    report = progress.Reporter("work")
    for seconds, done in ((3, 1e-4), (9, 0.009), (15, 0.02)):  # of 100: the first steps, then a job that is begun
        clock[0] = float(seconds)
        report(done, 1.0)
    slow = progress.Reporter("slow")
    for seconds in (10, 40, 80):  # a job of hours says so after a minute
        clock[0] = 15.0 + seconds
        slow(1e-5 * seconds, 1.0)
    told = ["left" in record.getMessage() for record in caplog.records]
    assert told == [False, False, True, False, False, True]
    assert caplog.records[-1].getMessage() == "slow: 0 %, about 27.8 hours left"


def test_a_long_step_is_told_from_inside(caplog, monkeypatch):
    from wgflow import progress

    clock, called = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, logger="wgflow")
    with progress.Reporter("work") as report:
        report(1, 4, "t = 1 of 4")
        for k in range(12):
            clock[0] += 1.0
            progress.pulse(f"residual 1e-{k}" if k % 2 else "")
        with progress.Reporter("inner", False):
            # What is not followed by itself is a part of what is.
            clock[0] += 5.0
            progress.pulse("a run inside")
    assert [record.getMessage() for record in caplog.records] == [
        "work: t = 1 of 4, residual 1e-1", "work: t = 1 of 4, residual 1e-7", "work: t = 1 of 4, a run inside"]
    with progress.Reporter("work", lambda done, total: called.append((clock[0], done, total))) as report:
        report(1, 4)
        for _ in range(20):
            clock[0] += 0.2
            progress.pulse("residual")
    progress.pulse("nobody listens any more")
    # Twice a second, with the numbers that are known.
    assert {entry[1:] for entry in called} == {(1, 4)}
    assert 6 <= len(called) <= 9


def test_a_step_of_jko_is_told_from_inside(monkeypatch):
    from wgflow import progress

    told = []
    monkeypatch.setattr(progress.Reporter, "inside", lambda self, words="": told.append(words))
    plane = wg.Density.gaussian(wg.Grid([(-3, 3)] * 2, cells=(20, 20)), [0.5, 0.0], 0.3)
    for inner in ("entropic", "back-and-forth", "linearized"):
        told.clear()
        wg.solve(wg.Entropy(1.0) + BOWL, plane, (0, 0.1), method=wg.JKO(tau=0.1, inner=inner), progress=True)
        assert sum(bool(words) for words in told) >= 2, inner
    told.clear()
    wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 0.1), method=wg.JKO(tau=0.1), progress=True)
    assert any("residual" in words for words in told)


def test_a_function_is_told():
    told = []
    wg.solve(wg.Entropy(1.0) + BOWL, RHO, (1, 3), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2.0, 2.0)
    assert all(total == 2.0 for _, total in told)


def test_what_a_progress_function_raises_loses_nothing():
    def broken(done, total):
        if done > 0.3:
            raise OSError("no screen")

    with pytest.raises(wg.ConvergenceError, match="no screen") as caught:
        wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 3), progress=broken)
    assert caught.value.reason == "callback"
    assert caught.value.partial.history.t[-1] > 0.3


# ---------------------------------------------------------------- Ctrl-C
def interrupted(throw, **options):
    # A shell that starts a command in the background has it ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        return wg.solve(wg.Entropy(1.0) + BOWL, RHO, (0, 1), method=wg.FiniteVolume(dt=1e-6), throw=throw, **options)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_carries_what_was_computed():
    with pytest.raises(KeyboardInterrupt, match=r"interrupted at t = .* of 1; .*partial") as caught:
        interrupted(True)
    assert caught.value.partial.status == 1
    assert caught.value.partial.t[-1] > 0


def test_an_interrupt_returns_what_was_computed(tmp_path):
    sol = interrupted(False, checkpoint=tmp_path / "run.npz")
    assert sol.message.startswith("interrupted at t = ")
    assert sol.certificate.verdict == "failed"
    assert (tmp_path / "run.npz").exists()


def test_searches_for_states_at_rest_tell_their_steps(capfd):
    told = []
    grid = wg.Grid((-3, 3), cells=100)
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2) + wg.Interaction(lambda x: x**2 / 2)
    star = wg.stationary(energy, grid, progress=lambda done, total: told.append((done, total)))
    quiet = wg.stationary(energy, grid)
    assert np.array_equal(star.density.values, quiet.density.values)
    assert told
    assert all(total == 500 for _, total in told)
    with pytest.raises(wg.InvalidInput, match="progress='loud'"):
        wg.stationary(energy, grid, progress="loud")
    convex = wg.Entropy(4.0) + wg.Interaction(wg.LowRank(lambda x: np.stack([np.cos(x), np.sin(x)])))
    told.clear()
    wg.stationary(convex, grid, progress=lambda done, total: told.append((done, total)))
    assert told


def test_particles_tell_of_their_time(capfd, monkeypatch):
    from wgflow import progress

    monkeypatch.setattr(progress, "FIRST_SECONDS", -10.0)
    model = wg.reduced_models.IsotropicGaussian(d=5, tau_plus2=1.8, tau_minus2=0.2)
    wg.validation.run_sgd(model, 5, 1e-3, [0.0, 1.0], rng=7, progress=True)
    assert "SGD: " in capfd.readouterr().err


def test_a_bar_on_a_terminal_follows_the_job(monkeypatch, caplog):
    from wgflow import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock, shown = [0.0], Terminal()
    caplog.set_level(logging.INFO, logger="wgflow")
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Reporter("work") as report:
        task = report.bar.tasks[0]
        clock[0] += 10.0
        report(1, 4, "t = 1 of 4")
        assert (task.completed, task.total, task.description) == (1, 4, "work")
        report(2, 4)  # too soon for a look
        assert task.completed == 1
        clock[0] += 10.0
        progress.pulse("residual 1e-3")
        assert task.description == "work (residual 1e-3)"
        clock[0] += 10.0
        progress.announce("a word")
        report(3, 4)
        report(4, 4)  # the end is shown at once
        assert (task.completed, task.description) == (4, "work")
    assert not report.bar.live.is_started
    assert "a word" in shown.getvalue()
    assert caplog.records == []
