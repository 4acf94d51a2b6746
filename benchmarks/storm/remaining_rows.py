"""Rows of the table of bad inputs and faults that are not the refusal of an argument: runs, steps, files, studies.

The numbers are those of the table; `tests/wgflow/test_bad_inputs.py` and `test_bad_inputs_more.py` have the others, and
the parts ``disk``, ``signals``, ``pools``, ``compiled`` those of processes and of the disk (75, 99, 101, 106, 107).
Two faults cannot be put in from outside, a rise of the energy (68) and a drift of the mass (69): every step is judged
for both, and the parts ``flows`` and ``long`` count them. The costs of a transport problem (84) cannot be given at all.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import children
import numpy as np
from figures import Figure, Scale, counted
from runs import BUMP, FV, LINE, NOISE, RUNS, WELL

import wgflow as wg
from wgflow.validation import wasserstein
from wgflow.validation.study_files.study import load_study

SECONDS = 1.0
RUN = RUNS[0]


@contextmanager
def _raises(*errors: type[Exception], words: str = "") -> Iterator[None]:
    try:
        yield
    except errors as error:
        if words not in str(error):
            raise ValueError(f"{words!r} is not in {error}") from error
        return
    raise ValueError(f"no {errors[0].__name__} {words}")


def _same(a: np.ndarray, b: np.ndarray) -> None:
    if a.tobytes() != b.tobytes():
        raise ValueError("other bits")


def _solve(span=(0.0, 1.0), method=None, **options) -> wg.Solution:
    return wg.solve(NOISE + WELL, BUMP, span, method or FV(dt=0.05), **options)


# ---------------------------------------------------------------- steps
def _no_time() -> None:
    solution = _solve((0.5, 0.5))
    _same(solution.final.values, BUMP.values)
    if solution.certificate.n_accepted:
        raise ValueError("steps were taken")


def _one_long_step() -> None:
    if _solve((0.0, 0.3), FV(dt=7.0)).t[-1] != 0.3:
        raise ValueError("the end is missed")


def _stands_still() -> None:
    with _raises(wg.ConvergenceError, words="would not move the time"):
        _solve(method=FV(dt=1e-20))


def _too_many_steps() -> None:
    with _raises(wg.ConvergenceError, words="max_steps=3"):
        _solve(method=FV(dt=0.05, max_steps=3))


def _not_finite(first: float) -> None:
    with _raises(wg.ConvergenceError, words="time_scale("):
        _solve(time_scale=lambda t: math.nan if t >= first else 1.0)


def _interrupted(folder: Path) -> None:
    path, seen, whole = folder / "run.npz", [], _solve()

    def strike(t, rho):
        seen.append(t)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with _raises(KeyboardInterrupt):  # type: ignore[arg-type]
        _solve(callback=strike, checkpoint=path)
    _same(wg.resume(path, energy=NOISE + WELL).final.values, whole.final.values)


def _time_limit() -> None:
    with _raises(wg.ConvergenceError, words="time"):
        _solve(method=FV(dt=1e-7, max_steps=10**9, time_limit=0.05))


# ---------------------------------------------------------------- JKO, transport, atoms
def _tau() -> None:
    for tau in (0.0, -1.0, math.nan):
        with _raises(wg.InvalidInput, words="tau"):
            wg.JKO(tau)


def _long_tau() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _solve((0, 2.0), wg.JKO(2.0), throw=False)
    if not any("may not be unique" in str(one.message) for one in told):
        raise ValueError("no warning")


def _inner_solver() -> None:
    with _raises(wg.ConvergenceError) as _:
        _solve((0, 0.05), wg.JKO(0.05, "quantile", max_iterations=1, tol=1e-13))


def _epsilon() -> None:
    for epsilon in (0.0, -1.0, 1e-300):
        with _raises(wg.InvalidInput, words="epsilon"):
            _solve((0, 0.1), wg.JKO(0.1, wg.solvers.Entropic(epsilon=epsilon)))


def _masses() -> None:
    other = wg.Density(LINE, 2.0 * BUMP.values)
    with _raises(wg.InvalidInput, words="mass"):
        wasserstein(BUMP, other)


def _ordered() -> None:
    solution = _solve((0, 50.0), wg.JKO(5.0), throw=False)
    if not all(rho.values.min() >= 0 for rho in solution.densities):
        raise ValueError("cells crossed")


def _points(value: float) -> None:
    with _raises(wg.InvalidInput):
        wg.Atoms(np.array([[0.0, value]]), np.ones(2) / 2)


def _coincident() -> None:
    atoms = wg.Atoms(np.zeros((1, 4)), np.ones(4) / 4)
    repulsion = -1.0 * wg.interactions.log()
    with _raises(wg.WGFlowError):
        wg.solve(WELL + repulsion, atoms, (0, 0.1), wg.Lagrangian())


# ---------------------------------------------------------------- files
def _refused(path: Path) -> None:
    with _raises(wg.StorageError, wg.ResourceError):
        wg.load(path)


def _saved(folder: Path) -> tuple[Path, bytes]:
    path = folder / "solution.npz"
    _solve().save(path)
    return path, path.read_bytes()


def _no_file(folder: Path) -> None:
    (folder / "folder.npz").mkdir()
    os.mkfifo(folder / "pipe.npz")
    for path in (folder / "missing.npz", folder / "folder.npz", folder / "pipe.npz", Path("/dev/zero")):
        _refused(path)


def _cut(folder: Path) -> None:
    path, data = _saved(folder)
    for end in range(0, len(data), max(1, len(data) // 300)):
        path.write_bytes(data[:end])
        _refused(path)


def _flipped(folder: Path) -> None:
    path, data = _saved(folder)
    for at in range(0, len(data), max(1, len(data) // 300)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1:])
        _refused(path)


def _foreign(folder: Path) -> None:
    path = folder / "other.npz"
    np.savez(path, a=np.ones(3))
    _refused(path)


def _newer(folder: Path) -> None:
    path, data = _saved(folder)
    with zipfile.ZipFile(path) as archive:
        comment = archive.comment
    words = comment.replace(b"format 0002", b"format 0009")
    if words == comment:
        raise ValueError(f"no version in {comment!r}")
    path.write_bytes(data.replace(comment, words))
    with _raises(wg.StorageError, words="format 9"):
        wg.load(path)


def _pickled(folder: Path) -> None:
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(folder / "broken"),)

    path = folder / "pickle.npz"
    np.savez(path, a=np.array([Payload()], dtype=object))
    _refused(path)
    if (folder / "broken").exists():
        raise ValueError("the payload ran")


def _with_member(folder: Path, name: str, content: bytes, times: int = 1) -> None:
    path, _ = _saved(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            for _ in range(times):
                archive.writestr(name, content)
    _refused(path)


def _claims(folder: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    _with_member(folder, "more.npy", file.getvalue())


def _another_model(folder: Path) -> None:
    path = folder / "run.npz"
    _solve(method=FV(dt=0.05, max_steps=3), checkpoint=path, throw=False)
    with _raises(wg.WGFlowError):
        wg.resume(path, energy=wg.Entropy(2.0) + WELL)


def _two_runs(folder: Path) -> None:
    path = folder / "run.npz"

    def second(t, rho):
        with _raises(wg.StorageError):
            _solve(checkpoint=path)
        return True

    _solve(checkpoint=path, callback=second)


# ---------------------------------------------------------------- studies in TOML
STUDY = """
[grid]
bounds = [-3.0, 3.0]
cells = 40
[energy]
potential = "x**2/2"
beta = 4.0
[start]
formula = "exp(-x**2)"
[solve]
t_end = 1.0
"""


def _study(folder: Path, text: str | bytes) -> None:
    path = folder / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    load_study(path)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with _raises(wg.WGFlowError):
        load_study(path)


def _rows(folder: Path) -> dict[str, Callable[[], None]]:
    rows: dict[str, Callable[[], None]] = {
        "56": _no_time, "57": _one_long_step, "58": _stands_still, "60": _too_many_steps,
        "66": lambda: _not_finite(0.5), "67": lambda: _not_finite(0.0), "74": lambda: _interrupted(folder),
        "76": _time_limit, "79": _tau, "80": _long_tau, "81": _inner_solver, "82": _epsilon, "83": _masses,
        "85": _ordered, "87 NaN": lambda: _points(math.nan), "87 inf": lambda: _points(math.inf), "88": _coincident,
        "90": lambda: _no_file(folder), "91": lambda: _cut(folder), "92": lambda: _flipped(folder),
        "93": lambda: _foreign(folder), "94": lambda: _newer(folder), "95": lambda: _pickled(folder),
        "96": lambda: _claims(folder), "97": lambda: _with_member(folder, "bomb.npy", bytes(10**8)),
        "98 outside": lambda: _with_member(folder, "../../x.npy", b"1"),
        "98 absolute": lambda: _with_member(folder, "/x.npy", b"1"),
        "98 twice": lambda: _with_member(folder, "x.npy", b"1", 2), "100": lambda: _another_model(folder),
        "102": lambda: _two_runs(folder)}
    texts: dict[str, str | bytes] = {
        "103 NaN": STUDY.replace("4.0", "nan"), "103 inf": STUDY.replace("1.0", "inf"),
        "103 1e999": STUDY.replace("1.0", "1e999"), "104 unknown": STUDY.replace("beta", "bta"),
        "104 twice": STUDY + "t_end = 2.0\n", "105 nested": "a = " + "[" * 100_000,
        "105 digits": STUDY.replace("cells = 40", "cells = " + "9" * 1_000_000),
        "105 not UTF-8": b"\xff\xfe" + STUDY.encode(), "105 BOM, cut": b"\xef\xbb\xbf[grid"}
    return rows | {name: lambda text=text: _study(folder, text) for name, text in texts.items()}


def remaining_rows(scale: Scale) -> list[Figure]:
    """Every row, in a child of its own."""
    wrong, slow = [], []
    for run in (RUNS[0], RUNS[6]):
        run.solve()
    names = list(_rows(scale.folder))
    for name in names:
        with tempfile.TemporaryDirectory(dir=scale.folder) as place:
            ended = children.run(_rows(Path(place))[name], 30)
        if ended.kind != "ok":
            wrong.append(f"row {name}: {ended.kind} {ended.words}")
        if ended.seconds > SECONDS and name not in ("91", "92"):  # 300 files each
            slow.append(f"row {name}: {ended.seconds:.1f} s")
    return [counted("F14", "rows", "rows of runs, files and studies that do not hold", len(names), wrong),
            counted("F14", "rows", f"rows that take more than {SECONDS:g} s", len(names), slow)]
