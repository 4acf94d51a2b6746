"""Independent SGD runs kept in files: a run that was made once is read from its file the next time."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_count
from wgflow.errors import InvalidInput, StorageError
from wgflow.progress import progress_of
from wgflow.reduced_models.base import NetworkModel

from .particles import SGDResult, run_sgd
from .sampling import check_sample

__all__ = ["kept_sgd_runs"]

logger = logging.getLogger(__name__)

_FORMAT = 2
_ARRAYS = ("coordinates", "risk")


def kept_sgd_runs(
    model: NetworkModel,
    folder: Path,
    *,
    n_neurons: int,
    step_size: float,
    t_eval: ArrayLike,
    seed: int,
    n_runs: int = 3,
    kappa: float = 0.8,
    beta: float = math.inf,
    ridge: float = 0.0,
    xi: float | Callable = 1.0,
    fresh: bool = False,
    label: str = "SGD",
) -> SGDResult:
    """Do independent runs of `run_sgd`, as many at a time as there are cores, each kept in a file of its own.

    Run k uses the seed sequence of ``seed`` with the spawn key (k,), so the runs do not depend on how many are made at
    a time, and more of them can be added later. A file is read again only where every setting, the model and the
    versions that determine the run are the same; damaged files are ignored.

    Parameters
    ----------
    model, n_neurons, step_size, t_eval, n_runs, kappa, beta, ridge
        As in `run_sgd`.
    folder : Path
        Where the files are; it exists.
    seed : int
        A nonnegative integer.
    xi : float or callable
        As in `run_sgd`; a function is known by its values at the output times.
    fresh : bool
        Run again even if there is a file.
    label : str
        What the progress bar is called.

    Returns
    -------
    SGDResult
        Without ``theta``.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    times = np.atleast_1d(np.asarray(t_eval, dtype=float))
    n_runs, seed = check_count("n_runs", n_runs), check_count("seed", seed, 0)
    options: dict[str, Any] = {"n_neurons": n_neurons, "step_size": step_size, "kappa": kappa, "beta": beta,
                               "ridge": ridge}
    files = [folder / f"sgd-{_key(model, options, times, seed, xi)}-{k}.npz" for k in range(n_runs)]
    shape = (times.size, n_neurons, model.n_coordinates)
    found = [None if fresh else _read(file, shape) for file in files]
    missing = [k for k in range(n_runs) if found[k] is None]
    if not missing:
        logger.info("%s: %d runs read from %s", label, n_runs, folder)
    shares = dict.fromkeys(missing, 0.0)
    with progress_of(f"{label}, {len(missing)} runs of {n_neurons} neurons") as report:

        def one(k: int) -> dict[str, NDArray]:
            def advance(done: int, total: int) -> None:
                shares[k] = done / max(total, 1)
                report(sum(shares.values()) / len(shares))

            result = run_sgd(model, t_eval=times, rng=np.random.SeedSequence(seed, spawn_key=(k,)), xi=xi,
                             store_theta=False, progress=advance, **options)
            run = {"coordinates": result.coordinates[0], "risk": result.risk[0]}
            _write(files[k], run)
            return run

        if missing:
            with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
                for k, run in zip(missing, pool.map(one, missing)):
                    found[k] = run
    coordinates, risk = (np.stack([run[name] for run in found if run is not None]) for name in _ARRAYS)
    finite = check_sample(model, None, True)
    root = np.random.SeedSequence(seed)
    return SGDResult(t=times, steps=np.rint(times / step_size).astype(np.int64), theta=None, n_neurons=n_neurons,
                     step_size=step_size, seed_entropy=root.entropy, seed_state=dict(root.state), model=model,
                     beta=beta, ridge=ridge, coordinates=coordinates, risk=risk,
                     n_samples=None if finite is None else finite[1].size)


def _key(model: NetworkModel, options: dict[str, Any], times: NDArray, seed: int, xi: float | Callable) -> str:
    """Return a short name for all that determines a run, the same in every process."""
    from importlib.metadata import version

    clock = np.asarray(xi(times), dtype=float).tolist() if callable(xi) else float(xi)
    x, y = model.sample_data(4, np.random.default_rng(20011))
    data = [*x.ravel().tolist(), *y.tolist()]  # a repr may round the model's numbers
    settings = {**options, "model": repr(model), "data": data, "times": times.tolist(), "seed": seed, "clock": clock,
                "wgflow": version("wgflow"), "numpy": np.__version__.split(".")[0], "format": _FORMAT}
    try:
        text = json.dumps(settings, sort_keys=True)
    except TypeError as error:
        raise InvalidInput(f"the settings of an SGD run must be numbers: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path, shape: tuple[int, int, int]) -> dict[str, NDArray] | None:
    """Return a kept run, or None if there is none that can be trusted."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            run = {name: data[name] for name in _ARRAYS}
        if run["coordinates"].shape == shape and run["risk"].shape == shape[:1] and np.isfinite(run["risk"]).all():
            return run
    except Exception as error:  # whatever a damaged file raises, the cure is the same: run again
        logger.info("ignoring the damaged file %s (%s)", path.name, error)
    return None


def _write(path: Path, run: dict[str, NDArray]) -> None:
    """Write under another name, then rename: a file with this name is always whole."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, coordinates=run["coordinates"], risk=run["risk"])
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}") from error
