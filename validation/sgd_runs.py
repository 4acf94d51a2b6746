"""Independent SGD runs kept in files: a run that was made once is read from its file the next time."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import check_count
from wgflow.errors import ResourceError, StorageError
from wgflow.files.archives import encode, read_npz, write_npz
from wgflow.progress import progress_of
from wgflow.reduced_models.base import NetworkModel

from .particles import SGDResult, initial_theta, run_sgd
from .sampling import check_sample

__all__ = ["kept_sgd_runs"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
#: What `write_npz` calls these files, and the version of their content.
_KIND, _FORMAT = "run", 3
_ARRAYS = ("coordinates", "risk")
#: Times at which a schedule is looked at, beside the output times.
_CLOCK = 257
#: Outputs at which a loss is looked at.
_LOOKED = 257


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
    theta0: ArrayLike | None = None,
    beta: float = math.inf,
    ridge: float = 0.0,
    xi: float | Callable[[Array], ArrayLike] = 1.0,
    batch_size: int = 1,
    sample: tuple[ArrayLike, ArrayLike] | None = None,
    replacement: bool = True,
    noise_constant: float = 4.0,
    fresh: bool = False,
    label: str = "SGD",
) -> SGDResult:
    """Do independent runs of `run_sgd`, as many at a time as there are cores, each kept in a file of its own.

    Run k uses the seed sequence of ``seed`` with the spawn key (k,), so the runs do not depend on how many are made at
    a time, and more of them can be added later. A file is read again only where every setting, the model with its
    activation, the samples, the start and the versions that determine the run are the same; a damaged file is ignored,
    with a warning in the log, and the run is made again.

    Parameters
    ----------
    model, n_neurons, step_size, t_eval, n_runs, kappa, theta0, beta, ridge, batch_size, sample, replacement
        As in `run_sgd`, and so is ``noise_constant``.
    folder : Path
        Where the files are; it exists.
    seed : int
        A nonnegative integer.
    xi : float or callable
        As in `run_sgd`; a function is known by its values at the output times and at 257 times between.
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
    n_neurons = check_count("n_neurons", n_neurons)
    finite = check_sample(model, sample, replacement)
    starts = [None] * n_runs if theta0 is None else list(initial_theta(model, theta0, n_runs, n_neurons))
    options: dict[str, Any] = {"n_neurons": n_neurons, "step_size": step_size, "kappa": kappa, "beta": beta,
                               "ridge": ridge, "batch_size": batch_size, "replacement": replacement,
                               "noise_constant": noise_constant}
    common = _identity(model, options, times, seed, xi, finite)
    identities = [_digest([common, None if start is None else _digest_of_array(start)]) for start in starts]
    files = [folder / f"sgd-{identity[:16]}-{k}.npz" for k, identity in enumerate(identities)]
    shape = (times.size, n_neurons, model.n_coordinates)
    found = [None if fresh else _read(file, identity, shape) for file, identity in zip(files, identities)]
    missing = [k for k in range(n_runs) if found[k] is None]
    if not missing:
        logger.info("%s: %d runs read from %s", label, n_runs, folder)
    settings = {**options, "t_eval": times, "xi": xi, "sample": sample}
    for k, run in _made(model, settings, seed, {k: starts[k] for k in missing}, f"{label}, {len(missing)} runs of "
                        f"{n_neurons} neurons", lambda k, run: _write(files[k], identities[k], run)):
        found[k] = run
    coordinates, risk = (np.stack([run[name] for run in found if run is not None]) for name in _ARRAYS)
    root = np.random.SeedSequence(seed)
    return SGDResult(t=times, steps=np.rint(times / step_size).astype(np.int64), theta=None, n_neurons=n_neurons,
                     step_size=step_size, seed_entropy=root.entropy, seed_state=dict(root.state), model=model,
                     beta=beta, ridge=ridge, coordinates=coordinates, risk=risk, noise_constant=noise_constant,
                     batch_size=batch_size, n_samples=None if finite is None else finite[1].size,
                     replacement=replacement, xi=xi)


def _made(model: NetworkModel, settings: dict[str, Any], seed: int, starts: dict[int, Array | None], label: str,
          keep: Callable[[int, dict[str, Array]], None]) -> list[tuple[int, dict[str, Array]]]:
    """Make the runs of the given numbers and starts, as many at a time as there are cores, and keep each when done."""
    shares = dict.fromkeys(starts, 0.0)
    if not starts:
        return []
    with progress_of(label) as report:

        def one(k: int) -> tuple[int, dict[str, Array]]:
            def advance(done: int, total: int) -> None:
                shares[k] = done / max(total, 1)
                report(sum(shares.values()) / len(shares))

            result = run_sgd(model, rng=np.random.SeedSequence(seed, spawn_key=(k,)), theta0=starts[k],
                             store_theta=False, progress=advance, **settings)
            run = {"coordinates": result.coordinates[0], "risk": result.risk[0]}
            keep(k, run)
            return k, run

        with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as pool:
            return list(pool.map(one, starts))


def _identity(model: NetworkModel, options: dict[str, Any], times: Array, seed: int,
              xi: float | Callable[[Array], ArrayLike], sample: tuple[Array, Array] | None) -> str:
    """Return a name for all that determines the runs but their start, the same in every process."""
    from importlib.metadata import version

    clock = np.union1d(times, np.linspace(0.0, float(times.max(initial=0.0)), _CLOCK))
    x, y = model.sample_data(4, np.random.default_rng(20011))  # a repr may round the model's numbers
    values = np.asarray(xi(clock), dtype=float) if callable(xi) else np.array(float(xi))
    arrays = [values, x, y, *model.activation.kernel_arguments(), *(() if sample is None else sample)]
    if not model.quadratic:
        # A loss of a user's own has no name that tells it from others.
        outputs = np.linspace(-3.0, 3.0, _LOOKED)
        arrays += [model.loss.derivative(label, outputs) for label in (-1.0, 1.0)]
    return _digest([options, repr(model), times.tolist(), seed, callable(xi),
                    [_digest_of_array(np.asarray(each)) for each in arrays], version("wgflow"),
                    np.__version__.split(".")[0], _FORMAT])


def _digest(value: Sequence[Any]) -> str:
    return hashlib.sha256(repr(encode(list(value))).encode()).hexdigest()


def _digest_of_array(array: NDArray) -> str:
    kept = np.ascontiguousarray(array)
    return hashlib.sha256(f"{kept.dtype.str}{kept.shape}".encode() + kept.tobytes()).hexdigest()


def _read(path: Path, identity: str, shape: tuple[int, int, int]) -> dict[str, Array] | None:
    """Return a kept run; None if there is none, or, with a warning in the log, none that can be trusted."""
    if not path.exists():
        return None
    try:
        header, run = read_npz(path, _KIND)
        if header.get("identity") != identity or set(run) != set(_ARRAYS):
            raise StorageError(f"{path} is damaged: it belongs to another run")
        for name, needed in (("coordinates", shape), ("risk", shape[:1])):
            if run[name].shape != needed or run[name].dtype != float or not np.isfinite(run[name]).all():
                raise StorageError(f"{path} is damaged: need finite {name} of shape {needed}")
    except (StorageError, ResourceError) as error:
        logger.warning("%s; the run is made again", error)
        return None
    return run


def _write(path: Path, identity: str, run: dict[str, Array]) -> None:
    """Write a run, atomically."""
    write_npz(path, _KIND, {"identity": identity}, {name: run[name] for name in _ARRAYS})
