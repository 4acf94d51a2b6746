"""Checkpoints: a run interrupted anywhere and resumed has the bits of one that was not; the rest is refused."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import ConvergenceError, InvalidInput, StorageError, WGFlowWarning
from wgflow.files import archives as _npz
from wgflow.files.checkpoints import KIND, Checkpoint, probe_masses
from wgflow.files.locks import FileLock
from wgflow.solvers import Method, Run, Step


class Line:
    """One axis, a double well and attraction."""

    span, scale = (0.0, 0.6), 1.0

    @staticmethod
    def energy(beta=4.0, shift=0.0, pull=0.5):
        alone = wg.Entropy(beta) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2 + shift * x)
        return alone + wg.Interaction(wg.Convolution(lambda z: pull * z**2)) if pull else alone

    @staticmethod
    def rho0(cells=40):
        return wg.Density.gaussian(wg.Grid((-3, 3), cells=cells), 1.0, 0.2)


class Well(Line):
    """One axis and a double well alone, where one compiled loop takes many steps."""

    @staticmethod
    def energy():
        return Line.energy(pull=0.0)


class Plane:
    """Two axes, one of them periodic, no interaction, a clock that speeds up."""

    span = (0.5, 1.5)

    @staticmethod
    def scale(t):
        return 0.5 + t

    @staticmethod
    def energy():
        return wg.Entropy(2.0) + wg.Potential(lambda x, y: x**2 + np.cos(y))

    @staticmethod
    def rho0():
        grid = wg.Grid([(-2, 2), (0, 2 * np.pi)], cells=(12, 10), boundary=("no-flux", "periodic"))
        return wg.Density.gaussian(grid, [0.5, 2.0], [0.2, 0.5])


def digest(solution) -> str:
    found = hashlib.sha256()
    for array in (solution.t, solution.energy, *(rho.values for rho in solution.densities),
                  *solution.history.to_dict().values()):
        found.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    proof = {name: value for name, value in solution.certificate.to_dict().items() if name != "settings"}
    found.update(repr(proof).encode())
    return found.hexdigest()


#: Tolerances of a step with which fluxes of second and of fourth order take many steps.
MANY_STEPS = {2: 1e-6, 4: 1e-9}


def fv(order=None, **settings):
    """The method, with many steps where nothing else is said."""
    if not {"dt", "rtol"} & settings.keys():
        settings["rtol"] = MANY_STEPS[order or 4]
    return wg.FiniteVolume(order=order, **settings)


def solve(problem, method=None, **options):
    return wg.solve(problem.energy(), problem.rho0(), problem.span, method or fv(), time_scale=problem.scale, **options)


def resume(path, problem, t_end=None, **options):
    again = {"time_scale": problem.scale} if callable(problem.scale) else {}
    return wg.resume(path, t_end, energy=problem.energy(), **again, **options)


CASES = [(Line, {}, None), (Line, {"dt": 0.017}, [0.1, 0.25, 0.6]), (Line, {"rtol": 1e-5}, [0.0, 0.3]),
         (Plane, {"rtol": 1e-8}, None), (Plane, {"dt": 0.03}, None), (Well, {}, [0.3, 0.6])]
NAMES = ["line", "line, fixed", "line, times", "plane", "plane, fixed", "well"]


both_orders = pytest.mark.parametrize("order", [2, 4])


@both_orders
@pytest.mark.parametrize(("problem", "settings", "t_eval"), CASES, ids=NAMES)
def test_cut_at_any_step_and_resumed(problem, settings, t_eval, order, tmp_path):
    settings = {**settings, "order": order}
    whole = solve(problem, fv(**settings), t_eval=t_eval)
    count, path = whole.certificate.n_accepted, tmp_path / "run.ckpt.npz"
    assert count > 15
    for cut in range(1, count + 1, 1 if "dt" in settings else 7):
        path.unlink(missing_ok=True)
        few = fv(**settings, max_steps=cut)
        part = solve(problem, few, t_eval=t_eval, checkpoint=path, throw=False)
        assert part.success == (cut >= count)
        part = resume(path, problem, method=fv(**settings))
        assert digest(part) == digest(whole), f"cut after {cut} steps"
        assert part.success
        assert digest(resume(path, problem)) == digest(whole), "a finished run is given back as it was"


@both_orders
def test_in_many_short_pieces(order, tmp_path):
    whole, path = solve(Line, fv(dt=0.02, order=order)), tmp_path / "run"
    few = fv(dt=0.02, max_steps=4, order=order)
    part = solve(Line, few, checkpoint=path, throw=False)
    pieces = 1
    while not part.success:
        part = resume(path, Line, throw=False)
        pieces += 1
    assert pieces == 8
    assert digest(part) == digest(whole)


def one_by_one(monkeypatch):
    """Let Python take all steps, and no compiled loop."""
    monkeypatch.setattr("wgflow.solvers.finite_volume.compact_run.field_loop", lambda stepper, scale: None)


class Stop(BaseException):
    """Something from outside that no code of the package expects."""


@both_orders
@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt, MemoryError, ValueError])
@pytest.mark.parametrize("where", ["_accept", "dissipation", "psi", "conserve"])
def test_an_exception_inside_a_step(kind, where, order, tmp_path, monkeypatch):
    from wgflow.solvers.finite_volume.stepper import Stepper

    one_by_one(monkeypatch)
    whole, path = solve(Line, fv(order)), tmp_path / "run"
    original = getattr(Stepper, where)
    for cut in (3, 10, 33, 34, 35):
        calls = [0]

        def failing(self, *arguments, calls=calls, cut=cut, **options):
            calls[0] += 1
            if calls[0] == cut:
                raise kind("from outside")
            return original(self, *arguments, **options)

        path.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, where, failing)
            with pytest.raises(kind):
                solve(Line, fv(order), checkpoint=path)
        assert digest(resume(path, Line)) == digest(whole), f"stopped in call {cut} of {where}"


@both_orders
def test_rejections_and_the_fallback_are_resumed_too(order, tmp_path, monkeypatch):
    from wgflow.solvers.finite_volume.stepper import Stepper

    original = Stepper.step

    def stubborn(self, state, dt, stop=None):
        """Refuse steps longer than a length that depends on time alone, for a while a very small one."""
        if dt > (2e-5 if 0.2 <= state.t < 0.2002 else 0.01 + 0.02 * state.t):
            return None
        return original(self, state, dt, stop)

    one_by_one(monkeypatch)
    monkeypatch.setattr(Stepper, "step", stubborn)
    for settings in ({"order": order}, {"dt": 0.05, "order": order}):
        whole, path = solve(Line, fv(**settings), t_eval=[0.2, 0.6]), tmp_path / "run"
        assert whole.certificate.n_rejected > 5
        assert whole.certificate.n_fallback > 0
        for cut in np.linspace(1, whole.certificate.n_accepted - 1, 9).astype(int).tolist():
            path.unlink(missing_ok=True)
            solve(Line, fv(**settings, max_steps=cut), t_eval=[0.2, 0.6], checkpoint=path, throw=False)
            assert digest(resume(path, Line, method=fv(**settings))) == digest(whole)


@both_orders
def test_long_runs_thin_their_snapshots_alike(order, tmp_path):
    few = fv(dt=0.002, order=order)
    whole, path = solve(Line, few), tmp_path / "run"
    assert whole.certificate.n_accepted > 250
    for cut in (63, 64, 65, 130, 251):
        path.unlink(missing_ok=True)
        solve(Line, fv(dt=0.002, max_steps=cut, order=order), checkpoint=path, throw=False)
        assert digest(resume(path, Line, method=few)) == digest(whole)


@pytest.mark.slow
@both_orders
def test_a_run_resumed_in_a_fresh_process_has_the_bits_of_one_that_was_not_interrupted(order, tmp_path):
    """In processes of their own, and in this one, in which thousands of tests may have run: nothing is left of them."""
    begin = textwrap.dedent(f"""
        import numpy as np, wgflow as wg
        grid, method = wg.Grid((-3, 3), cells=40), dict(rtol={MANY_STEPS[order]}, order={order})
        energy = wg.Entropy(3.0) + wg.Potential(np.cos(grid.centers[0]))
        rho0 = wg.Density.gaussian(grid, 1.0, 0.2)
    """)
    run, whole, resumed = (str(tmp_path / name) for name in ("run", "whole.npz", "resumed.npz"))
    for code in (
            f"wg.solve(energy, rho0, (0, 1), wg.FiniteVolume(**method)).save({whole!r})",
            f"wg.solve(energy, rho0, (0, 1), wg.FiniteVolume(**method, max_steps=9), checkpoint={run!r}, throw=False)",
            f"wg.resume({run!r}, energy=energy, method=wg.FiniteVolume(**method, threads=1)).save({resumed!r})"):
        subprocess.run([sys.executable, "-c", begin + code], check=True, timeout=120)
    assert digest(wg.load(resumed)) == digest(wg.load(whole))
    grid = wg.Grid((-3, 3), cells=40)
    energy, rho0 = wg.Entropy(3.0) + wg.Potential(np.cos(grid.centers[0])), wg.Density.gaussian(grid, 1.0, 0.2)
    here = wg.solve(energy, rho0, (0, 1), fv(order))
    assert here.certificate.to_dict() | {"settings": {}} == wg.load(whole).certificate.to_dict() | {"settings": {}}
    assert digest(here) == digest(wg.load(whole))


# -------------------------------------------------------------------- extensions
def test_a_finished_run_is_extended(tmp_path):
    path = tmp_path / "run"
    short = solve(Line, checkpoint=path)
    longer = resume(path, Line, 1.2)
    n = len(short.history)
    assert longer.t[0] == 0
    assert longer.t[-1] == 1.2
    assert longer.certificate.ok
    for name, column in longer.history.to_dict().items():
        assert np.array_equal(column[:n], getattr(short.history, name)), name
    direct = wg.solve(Line.energy(), Line.rho0(), (0, 1.2), fv())
    assert np.abs(direct.final.masses - longer.final.masses).sum() < 1e-4
    assert digest(resume(path, Line)) == digest(longer)


def test_an_interrupted_run_is_finished_before_it_is_extended(tmp_path):
    one, two, method = tmp_path / "one", tmp_path / "two", fv()
    solve(Line, checkpoint=one)
    solve(Line, fv(max_steps=7), checkpoint=two, throw=False)
    assert digest(resume(two, Line, 0.9, method=method)) == digest(resume(one, Line, 0.9))


def test_extensions_have_output_times(tmp_path):
    path = tmp_path / "run"
    solve(Line, t_eval=[0.2, 0.6], checkpoint=path)
    assert resume(path, Line, 0.8).t.tolist() == [0.2, 0.6, 0.8]
    assert resume(path, Line, 1.5, t_eval=[0.9, 1.25]).t.tolist() == [0.2, 0.6, 0.8, 0.9, 1.25]
    before = path.read_bytes()
    for t_end, t_eval, match in ((1.0, None, "t_end=1"), (1.5, [1.5], "t_eval"), (2.0, [1.5, 1.7], "after the old end"),
                                 (np.nan, None, "finite"), (2.0, [1.7, 3.0], "outside")):
        with pytest.raises(InvalidInput, match=match):
            resume(path, Line, t_end, t_eval=t_eval)
    assert path.read_bytes() == before


def test_no_time_at_all(tmp_path):
    path = tmp_path / "run"
    still = wg.solve(Line.energy(), Line.rho0(), (1, 1), checkpoint=path)
    assert digest(wg.resume(path, energy=Line.energy())) == digest(still)


# -------------------------------------------------------------------- what does not fit
@pytest.fixture
def stopped(tmp_path):
    path = tmp_path / "run.ckpt.npz"
    solve(Line, fv(rtol=1e-4, max_steps=5), checkpoint=path, throw=False)
    return path


@pytest.mark.parametrize(("energy", "match"), [
    (Line.energy(beta=2.0), r"beta=4\.0 in .*beta=2\.0"), (Line.energy(shift=1e-6), r"potential V .* at \(-?2\.925\)"),
    (Line.energy(pull=0.5001), "interaction U"), (wg.Entropy(4.0), "has an interaction, the energy given has none"),
    (Line.energy() + Line.energy(), "beta"), (2 * Line.energy(), "beta"),
])
def test_another_energy_is_refused(stopped, energy, match):
    before = stopped.read_bytes()
    with pytest.raises(StorageError, match=match):
        wg.resume(stopped, energy=energy)
    assert stopped.read_bytes() == before


def test_last_digits_of_the_energy_warn(stopped):
    with pytest.warns(WGFlowWarning, match="last digits"):
        assert wg.resume(stopped, energy=Line.energy(shift=1e-14), method=fv(rtol=1e-4)).success


def test_another_version_warns(stopped, tmp_path):
    header, arrays = _npz.read_npz(stopped, KIND)
    header["versions"]["numpy"] = "1.0"
    _npz.write_npz(tmp_path / "old", KIND, header, arrays)
    with pytest.warns(WGFlowWarning, match=r"written with numpy 1\.0"):
        wg.resume(tmp_path / "old", energy=Line.energy(), method=fv(rtol=1e-4))


def test_another_method_or_clock_is_refused(stopped, tmp_path):
    for method in (fv(), fv(dt=0.1), fv(rtol=1e-4, corrected=False)):
        with pytest.raises(StorageError, match=r"method: .* can change"):
            resume(stopped, Line, method=method)
    with pytest.raises(StorageError, match="time_scale"):
        resume(stopped, Line, time_scale=2.0)
    path = tmp_path / "plane"
    solve(Plane, fv(dt=0.05), checkpoint=path)
    with pytest.raises(InvalidInput, match="give it again"):
        wg.resume(path, energy=Plane.energy())
    with pytest.raises(StorageError, match=r"factor 1\.01 at t="):
        wg.resume(path, energy=Plane.energy(), time_scale=lambda t: 1.01 * Plane.scale(t))


def test_kinds_of_files_are_not_mixed_up(stopped, tmp_path):
    assert wg.load(stopped).status == 1
    solve(Line).save(tmp_path / "sol.npz")
    with pytest.raises(StorageError, match=r"holds a solution, not a checkpoint; read it by wgflow\.load"):
        resume(tmp_path / "sol.npz", Line)
    before = (tmp_path / "sol.npz").read_bytes()
    with pytest.raises(StorageError, match="is not a checkpoint"):
        solve(Line, checkpoint=tmp_path / "sol.npz")
    assert (tmp_path / "sol.npz").read_bytes() == before


def test_an_unfinished_run_is_not_replaced_in_silence(stopped):
    with pytest.warns(WGFlowWarning, match=r"stopped at t=.* of 0\.6"):
        solve(Line, checkpoint=stopped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(Line, checkpoint=stopped)


def refused(path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageError):
        resume(path, Line)


def test_damaged(stopped, tmp_path):
    content = stopped.read_bytes()
    for place in range(0, len(content), 23):
        refused(tmp_path / "bad", content[:place])
        refused(tmp_path / "bad", content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:])


@pytest.mark.slow
def test_damaged_at_every_byte(tmp_path):
    wg.solve(Line.energy(), Line.rho0(cells=4), (0, 1), fv(dt=0.5), checkpoint=tmp_path / "run")
    path = tmp_path / "run"
    content = path.read_bytes()
    # In place: to make a new file for each of the many thousand cases takes longer than to read it.
    with path.open("r+b", buffering=0) as file:
        for place in range(len(content)):
            os.pwrite(file.fileno(), bytes([content[place] ^ 1 << place % 8]), place)
            with pytest.raises(StorageError):
                resume(path, Line)
            os.pwrite(file.fileno(), content[place:place + 1], place)
        assert path.read_bytes() == content
        for place in reversed(range(len(content))):
            file.truncate(place)
            with pytest.raises(StorageError):
                resume(path, Line)


@both_orders
def test_every_part_is_needed_and_looked_at(order, tmp_path):
    path = tmp_path / "crafted"
    solve(Line, fv(order, rtol=1e-4, max_steps=4), checkpoint=path, throw=False)
    header, arrays = _npz.read_npz(path, KIND)
    for name, array in arrays.items():
        if name == "state_previous":
            continue  # the first step has none either
        for other in (None, array[..., :-1] if array.ndim and array.size else np.ones(3), np.full(array.shape, np.nan)):
            if name == "t_eval" and other is not None:
                continue
            recorded = name.startswith(("column", "snapshot_e", "snapshot_t"))
            if other is not None and other.shape == array.shape and recorded:
                continue  # a record is given back as it is
            if name == "state_middle" and other is None:
                continue  # the first step has none either
            _npz.write_npz(path, KIND, header, {n: a if n != name else other for n, a in arrays.items()
                                                if n != name or other is not None})
            with pytest.raises((StorageError, InvalidInput)):
                resume(path, Line)
    for part in header:
        for content in (None, 3, {}, []):
            if part == "versions" and content in ({}, []):
                continue
            _npz.write_npz(path, KIND, header | {part: content}, arrays)
            with pytest.raises((StorageError, InvalidInput)):
                resume(path, Line)
    for key in header["state"]:
        if key in ("mesh", "left") or (order == 2 and key in ("middle", "holds")):
            continue  # files of version 0.1 have none of them; fluxes leave the first two empty
        _npz.write_npz(path, KIND, header | {"state": {k: v for k, v in header["state"].items() if k != key}}, arrays)
        with pytest.raises(StorageError):
            resume(path, Line)


# -------------------------------------------------------------------- writing
def test_stale_temporary_files_are_swept(tmp_path):
    path = tmp_path / "run"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [tmp_path / f".run.{dead.pid}-0123abcd.tmp", tmp_path / f".run.{os.getpid()}-0123abcd.tmp"]
    kept = [tmp_path / f".run.{os.getppid()}-0123abcd.tmp", tmp_path / ".run.tmp", tmp_path / ".other.99-0123abcd.tmp"]
    for file in (*stale, *kept):
        file.write_bytes(b"x")
    (tmp_path / f".run.{dead.pid}-fedcba98.tmp").symlink_to(kept[1])
    solve(Line, checkpoint=path)
    assert not any(file.exists() for file in stale)
    assert all(file.exists() for file in kept)
    assert (tmp_path / f".run.{dead.pid}-fedcba98.tmp").is_symlink()


def test_a_path_that_cannot_be_written_stops_before_the_run(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path, match in ((tmp_path, "regular file"), (tmp_path / "no" / "run", "make it first"),
                        (tmp_path / "link", "symlink"), (3, "path of a file")):
        with pytest.raises(StorageError, match=match):
            solve(Line, checkpoint=path)
    monkeypatch.setattr(os, "open", lambda *a: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(StorageError, match="Read-only"):
        solve(Line, checkpoint=tmp_path / "run")


def test_a_disk_that_fills_up_costs_no_result(tmp_path, monkeypatch):
    path = tmp_path / "run"
    solve(Line, fv(max_steps=3), checkpoint=path, throw=False)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Checkpoint, "INTERVAL", 0.0)
    with pytest.warns(WGFlowWarning, match=r"the run continues: .*No space left"):
        solution = resume(path, Line, method=fv())
    assert digest(solution) == digest(solve(Line))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_it_is_written_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(Checkpoint, "PATIENCE", 0.0)
    written, original = [], _npz.write_npz
    monkeypatch.setattr("wgflow.files.checkpoints.write_npz", lambda p, k, h, a: (written.append(h["state"]["t"]),
                                                                            original(p, k, h, a)))
    whole = solve(Line, checkpoint=tmp_path / "run")
    assert written[0] == 0.0
    assert written[-1] == 0.6
    assert len(written) > 10
    assert set(written) <= set(whole.history.t)


def test_a_run_without_marks_says_so(tmp_path):
    class Still(Run):
        def start(self):
            return Step(self.t, self.flow.rho0.masses, 0.0)

        def advance(self, stop):
            self.t = stop
            yield Step(stop, self.flow.rho0.masses, 0.0)

    class Silent(Method):
        def settings(self):
            return {"method": "Silent"}

        def begin(self, flow):
            return Still(self, flow)

    with pytest.warns(WGFlowWarning, match="does not keep checkpoints"):
        wg.solve(Line.energy(), Line.rho0(), (0, 1), Silent(), checkpoint=tmp_path / "run")


def test_the_probe_stays_as_it_is():
    # Integers alone: (k * 2654435761 mod 2^32) / 2^32 + 1/2, over the number of cells.
    expected = [(0.5 + (k * 2654435761 % 2**32) / 2**32) / 6 for k in range(1, 7)]
    assert probe_masses(wg.Grid([(0, 1), (0, 1)], cells=(2, 3))).ravel().tolist() == expected


LONG_RUN = """
    import numpy as np

    def start(t_end, path):
        grid = wg.Grid((-3, 3), cells=40)
        energy = wg.Entropy(3.0) + wg.Potential(np.cos(grid.centers[0]))
        wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.2), (0, min(t_end, 1)), wg.FiniteVolume(dt=1e-4),
                 checkpoint=path)
"""


def after(path, delay: float):
    """When the file at a path has been there for so many seconds."""
    seen = []

    def ready() -> bool:
        if not seen and path.exists():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + delay

    return ready


def long_run():
    grid = wg.Grid((-3, 3), cells=40)
    energy = wg.Entropy(3.0) + wg.Potential(np.cos(grid.centers[0]))
    return energy, lambda: wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.2), (0, 1), fv(dt=1e-4))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_signals(tmp_path, killer):
    energy, uninterrupted = long_run()
    expected, kill = digest(uninterrupted()), killer(LONG_RUN)
    for number, codes in ((signal.SIGTERM, {143}), (signal.SIGINT, {1, 130, -2}), (signal.SIGKILL, {-9})):
        path = tmp_path / f"run{int(number)}"
        assert kill(path, number, after(path, 0.2)) in codes
        if number != signal.SIGKILL:
            assert [p.name for p in tmp_path.iterdir() if p.name.startswith(f".run{int(number)}.")] == []
        assert digest(wg.resume(path, energy=energy)) == expected
        assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_kill_never_tears_a_file(tmp_path, killer):
    path, kill = tmp_path / "run", killer(LONG_RUN)
    for delay in np.random.default_rng(17).uniform(0, 0.3, 10):
        path.unlink(missing_ok=True)
        assert kill(path, signal.SIGKILL, after(path, delay)) == -9
        header, _ = _npz.read_npz(path, KIND)
        assert 0 <= header["state"]["t"] < 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_comes_while_an_object_is_deleted_is_heeded(tmp_path, number, error):
    # Python prints and drops exceptions that are raised there, that of the handler too.
    class Struck:
        def __del__(self):
            os.kill(os.getpid(), number)

    seen = []

    def strike(t, rho):
        seen.append(t)
        if len(seen) == 3:
            Struck()

    handler, hook = signal.getsignal(number), sys.unraisablehook
    with pytest.raises(error) as caught:
        solve(Line, fv(rtol=1e-6), checkpoint=tmp_path / "run", callback=strike)
    assert error is KeyboardInterrupt or caught.value.code == 143
    assert len(seen) < 6
    header, _ = _npz.read_npz(tmp_path / "run", KIND)
    assert header["state"]["t"] >= seen[2]
    assert signal.getsignal(number) is handler
    assert sys.unraisablehook == hook


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_that_a_callback_takes_care_of_is_its_own(tmp_path):
    seen = []

    def handled(t, rho):
        seen.append(t)
        if len(seen) == 3:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

    assert solve(Line, fv(dt=0.05), checkpoint=tmp_path / "run", callback=handled).success


def test_an_int_that_no_array_holds_is_not_taken_for_a_float(tmp_path):
    path = tmp_path / "run"
    solve(Line, fv(max_steps=4), checkpoint=path, throw=False)
    header, arrays = _npz.read_npz(path, KIND)
    for part, key in (("recorder", "error_estimate"), ("recorder", "dissipated"), ("state", "work")):
        _npz.write_npz(path, KIND, header | {part: header[part] | {key: 10**30}}, arrays)
        with pytest.raises(StorageError, match=rf"{part}\.{key} = 1e30"):
            resume(path, Line)
    _npz.write_npz(path, KIND, header | {"recorder": header["recorder"] | {"boundary": 0}}, arrays)
    assert resume(path, Line, method=fv()).success


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_state_that_is_no_density_is_not_opened(tmp_path, value):
    path = tmp_path / "run"
    solve(Line, fv(order=4, dt=0.01, max_steps=4), t_eval=[0.6], checkpoint=path, throw=False)
    header, arrays = _npz.read_npz(path, KIND)
    assert header["state"]["holds"] == "values at centers"
    arrays["state_masses"] = np.full_like(arrays["state_masses"], value)
    _npz.write_npz(path, KIND, header, arrays)
    with pytest.raises(StorageError, match="no density"):
        wg.load(path)


def test_errors_of_the_run_are_kept(tmp_path):
    with pytest.raises(ConvergenceError, match="max_steps=3") as caught:
        solve(Line, fv(max_steps=3), checkpoint=tmp_path / "run")
    assert caught.value.partial.certificate.n_accepted >= 3


# -------------------------------------------------------------------- two runs, one file
def test_a_second_run_on_the_same_file_is_refused(tmp_path):
    path, seen = tmp_path / "run.npz", []
    grid = wg.Grid([(-3, 3)], cells=20)
    energy, rho0 = 1.0 * wg.Entropy(1.0), wg.Density.gaussian(grid, 0, 0.3)

    def scale(t):
        if not seen and (tmp_path / ".run.npz.lock").exists():  # the function is sampled before the run, too
            seen.append(None)
            with pytest.raises(wg.StorageError, match=f"locked by pid {os.getpid()}") as caught:
                wg.solve(energy, rho0, (0, 1), checkpoint=path)
            seen[0] = caught.value
            wg.solve(energy, rho0, (0, 1), checkpoint=tmp_path / "other.npz")
        return 1.0

    sol = wg.solve(energy, rho0, (0, 1), checkpoint=path, time_scale=scale)
    assert "checkpoint of its own" in str(seen[0])
    assert sol.success
    # The lock goes with the run.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.npz", "run.npz"]
    wg.resume(path, 2.0, energy=energy, time_scale=lambda t: 1.0)


def test_the_lock_of_a_killed_run_holds_nobody_up(tmp_path):
    path = tmp_path / "run.npz"
    (tmp_path / ".run.npz.lock").write_text("999999")
    grid = wg.Grid([(-3, 3)], cells=20)
    wg.solve(1.0 * wg.Entropy(1.0), wg.Density.gaussian(grid, 0, 0.3), (0, 1), checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_a_lock_names_the_process_that_holds_it_and_is_left_alone_by_others(tmp_path):
    holder = FileLock(str(tmp_path / "run.npz"))
    holder.acquire()
    content = (tmp_path / ".run.npz.lock").read_bytes()
    tried = subprocess.run([sys.executable, "-c", "import sys; from wgflow.files.locks import FileLock; "
                            "FileLock(sys.argv[1]).acquire()", holder.target], capture_output=True, text=True)
    assert f"locked by pid {os.getpid()}, whose run" in tried.stderr
    assert (tmp_path / ".run.npz.lock").read_bytes() == content == f" {os.getpid()}".encode()
    holder.release()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the file of the lock
@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "pipe", "text"])
def test_a_lock_that_is_another_file_is_refused_and_left_as_it_is(tmp_path, kind):
    victim, lock = tmp_path / "thesis.tex", tmp_path / ".run.npz.lock"
    victim.write_text("chapter 1")
    match kind:
        case "symlink":
            lock.symlink_to(victim)
        case "hard link":
            lock.hardlink_to(victim)
        case "folder":
            lock.mkdir()
        case "pipe":
            os.mkfifo(lock)
        case "text":
            lock.write_text("notes of somebody")
    words = {"symlink": "it is a symlink", "text": "is not a lock of wgflow"}.get(kind, "not a regular file of its own")
    with pytest.raises(wg.StorageError, match=rf"\.run\.npz\.lock.*{words}"):
        wg.solve(wg.Entropy(1.0), wg.Density.uniform(wg.Grid((0, 1), cells=10)), (0, 1),
                 checkpoint=tmp_path / "run.npz")
    assert victim.read_text() == "chapter 1"
    assert lock.is_symlink() or not lock.is_file() or lock.read_text() in ("chapter 1", "notes of somebody")
    assert not (tmp_path / "run.npz").exists()


# ---------------------------------------------------------------- tables behind a right digest
@pytest.mark.parametrize(("place", "value", "words"), [
    (("recorder", "n_fallback"), {"a": 1}, "recorder.n_fallback"),
    (("recorder", "rows"), 10**30, "recorder.rows = 1e30"),
    (("recorder", "boundary"), {}, "recorder.boundary"),
    (("recorder", "_last_rate"), -1e18, "recorder._last_rate"),
    (("audit", "stride"), 0, "audit.stride = 0"),
    (("audit", "steps"), True, "audit.steps"),
    (("jko_steps", "count"), 10**30, "1e30 JKO steps"),
    (("jko_steps", "count"), 10**9, "1000000000 JKO steps"),
    (("state", "controller", "dt"), [[]], "state.controller"),
    (("state", "steps"), -1, "state.steps = -1"),
    (("state", "clock"), math.nan, "state.clock = nan"),
    (("flow", "diffusion"), math.inf, "flow.diffusion = inf"),
    (("flow", "axes", 0, "name"), 3, "flow.axes.0.name = 3"),
    (("flow", "internal"), None, "flow.internal = None"),
])
def test_a_table_that_no_run_writes_is_refused_by_its_place(tmp_path, place, value, words):
    path = tmp_path / "run.npz"
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2)
    wg.solve(energy, wg.Density.uniform(wg.Grid((0, 1), cells=10)), (0, 1), checkpoint=path, throw=False,
             method=wg.FiniteVolume(max_steps=2))
    header, arrays = _npz.read_npz(path, KIND)
    table = header
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    _npz.write_npz(path, KIND, header, arrays)
    with pytest.raises(wg.StorageError, match=re.escape(words)) as caught:
        wg.resume(path, energy=energy)
    assert "\n" not in str(caught.value)
