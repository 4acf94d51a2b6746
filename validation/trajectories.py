"""What every simulator of particles returns: their paths at the output times, in memory or in a folder on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.certificate import library_versions
from wgflow.checks import check_memory
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, StorageError, WGFlowWarning
from wgflow.files.snapshots import SnapshotFolder, StoredArray
from wgflow.reduced_models.base import NetworkModel

__all__ = ["SGDResult", "TrajectoryRecorder", "Trajectories", "load_trajectories"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectories:
    """Paths of particles at the output times, with a leading axis for runs: the result of every simulator.

    `run_sgd` and `run_gradient_flow` return it as an `SGDResult`, `run_langevin` as it is; `compare` takes it. With
    ``folder=`` the snapshots are on disk: ``theta`` and ``coordinates`` then read those that an index asks for
    (``sgd.coordinates[0, -1]``), and ``np.asarray`` reads all.

    Attributes
    ----------
    t : ndarray, shape (T,)
        Output times, as asked for.
    steps : ndarray of int, shape (T,)
        Number of steps made at each, of the first run; under SGD ``steps * step_size`` is within half a step of ``t``.
    theta : ndarray, shape (runs, T, n_neurons, n_parameters), or None
        Parameters of every neuron, where they were kept.
    coordinates : ndarray, shape (runs, T, n_neurons, n_coordinates)
        Reduced coordinates of the neurons; of particles that are no neurons, their positions.
    risk : ndarray, shape (runs, T), or None
        Population risk of the networks; None for particles that are no neurons.
    n_neurons : int
        Number of particles in each run.
    step_size : float
        Of SGD; 0 for other simulators.
    beta, ridge, noise_constant, batch_size
        As given.
    n_samples : int or None
        Size of the finite sample that was drawn from; None for fresh samples of the model.
    replacement : bool
        Whether a finite sample was drawn from with replacement.
    xi : float, callable or None
        The schedule of the steps, as given; None where it was a function that a folder does not keep.
    seed_entropy : int or sequence of int
        Entropy of the seed; ``np.random.SeedSequence(**seed_state)`` repeats the runs.
    seed_state : dict
        State of the seed sequence before the runs were spawned from it.
    model : NetworkModel or None
    simulator : str
        "SGD", "gradient flow" or "Langevin".
    folder : Path or None
        Where the snapshots are kept.
    """

    t: Array
    steps: NDArray[np.int64]
    theta: Array | None = field(repr=False)
    coordinates: Array = field(repr=False)
    risk: Array | None = field(repr=False)
    n_neurons: int
    step_size: float
    seed_entropy: object
    seed_state: dict = field(repr=False)
    model: NetworkModel | None
    beta: float
    ridge: float
    noise_constant: float = 4.0
    batch_size: int = 1
    n_samples: int | None = None
    replacement: bool = True
    xi: float | Callable[[Array], ArrayLike] | None = field(default=1.0, repr=False)
    simulator: str = "SGD"
    folder: Path | None = None

    def __repr__(self) -> str:
        model = "" if self.model is None else f" on {self.model!r}"
        step = f", step_size={self.step_size:g}" if self.step_size else ""
        where = "" if self.folder is None else f", in {str(self.folder)!r}"
        return (f"{type(self).__name__}({self.simulator}{model}: {self.n_runs} runs of {self.n_neurons}{step}, "
                f"{len(self.t)} times, t = {self.t[0]:g} to {self.t[-1]:g}{where})")

    @property
    def n_runs(self) -> int:
        """Number of independent runs."""
        return len(self.coordinates)

    @property
    def epochs(self) -> Array | None:
        """Passes over the finite sample that were made at each time, shape (T,); None for fresh samples."""
        return None if self.n_samples is None else np.asarray(self.steps * (self.batch_size / self.n_samples), float)


@dataclass(frozen=True, repr=False)
class SGDResult(Trajectories):
    """Paths of the neurons of a network, under SGD or the gradient flow: the model and its risk are known."""

    risk: Array = field(repr=False)
    model: NetworkModel


#: Fields of `Trajectories` that a folder keeps as they are.
_KEPT = ("n_neurons", "step_size", "seed_entropy", "seed_state", "beta", "ridge", "noise_constant", "batch_size",
         "n_samples", "replacement", "xi", "simulator")


class TrajectoryRecorder:
    """Takes the snapshots of a simulator, run by run, and makes them its result.

    Parameters
    ----------
    about : dict
        The fields of `Trajectories` that are known at the start.
    t : ndarray, shape (T,)
    n_runs : int
    shapes : mapping of str to tuple of int
        Shape of one snapshot of ``coordinates`` and, if it is kept, of ``theta``.
    folder : path or None
        Where to write the snapshots; in memory if None.
    working : float
        Bytes that the simulator itself needs.

    Raises
    ------
    ResourceError
        If memory, or the disk, would not hold all this.
    """

    def __init__(self, about: dict[str, Any], t: Array, n_runs: int, shapes: Mapping[str, tuple[int, ...]],
                 folder: str | os.PathLike[str] | None, working: float):
        self.about, self.t = about, t
        numbers = {name: n_runs * t.size * float(np.prod(shape)) for name, shape in shapes.items()}
        what = f"n_neurons={about['n_neurons']}: the {about['simulator']} run"
        if folder is None:
            check_memory(8.0 * sum(numbers.values()) + working, f"{what} with its snapshots in memory",
                         "take fewer particles, runs or output times, or write the snapshots to disk, folder=")
        else:
            check_memory(working, what, "take fewer particles")
        self.folder = None if folder is None else SnapshotFolder.create(
            folder, _description(about, t), (n_runs, t.size), shapes)
        self.arrays = {name: np.empty((n_runs, t.size, *shape)) for name, shape in shapes.items()
                       } if self.folder is None else {}
        self.risk, self.steps = np.full((n_runs, t.size), np.nan), np.zeros((n_runs, t.size), dtype=np.int64)
        self.done = np.zeros(n_runs, dtype=np.int64)

    def take(self, run: int, steps: int, arrays: Mapping[str, Array | None], risk: float = np.nan) -> None:
        """Take the next snapshot of a run; the arrays may be changed afterwards."""
        index = int(self.done[run])
        kept = {name: array for name, array in arrays.items() if array is not None}
        self.risk[run, index], self.steps[run, index] = risk, steps
        if self.folder is None:
            for name, array in kept.items():
                self.arrays[name][run, index] = array
        else:
            self.folder.write(run, index, kept, {"risk": float(risk), "steps": int(steps)})
        self.done[run] += 1

    def run_all(self, seed: np.random.SeedSequence, one: Callable[[int, np.random.SeedSequence], None],
                finished: Callable[[int], None]) -> Trajectories:
        """Do the runs by ``one(run, seed of the run)``, which hands its snapshots to `take`; return their result.

        After an error what there is so far is its ``partial``.
        """
        try:
            for run, child in enumerate(seed.spawn(len(self.done))):
                one(run, child)
                finished(run)
        except (ConvergenceError, StorageError) as error:
            error.partial = self.partial()
            raise
        return self.result()

    def partial(self) -> Trajectories | None:
        """Return what there is of an interrupted job; None where there is no snapshot."""
        return self.result() if self.done.any() else None

    def result(self) -> Trajectories:
        """Return all complete runs, or else the one that was begun, as far as it came."""
        runs, times = _rectangle(dict(enumerate(self.done.tolist())), self.t.size)
        if self.folder is not None:
            arrays: dict[str, Any] = {name: StoredArray(self.folder, name, runs, times)
                                      for name in self.folder.arrays}
        else:
            arrays = {name: array if len(runs) == len(array) and times == self.t.size else array[runs, :times]
                      for name, array in self.arrays.items()}
        return _trajectories(self.about, self.t, self.steps[runs, :times], self.risk[runs, :times], arrays,
                             None if self.folder is None else self.folder.path)


def load_trajectories(folder: str | os.PathLike[str], model: NetworkModel | None = None) -> Trajectories:
    """Open the snapshots that a simulator wrote with ``folder=``, without reading more than their risks.

    Snapshots are read, and every byte of them checked, when ``theta`` and ``coordinates`` are indexed. Of an
    interrupted job the complete runs are returned, or the one that was begun as far as it came, with a warning.

    Parameters
    ----------
    folder : path
    model : NetworkModel, optional
        The model of the runs, which is not stored; without it `compare` leaves out the risk.

    Returns
    -------
    Trajectories

    Raises
    ------
    StorageError
        If this is no such folder, no snapshot is complete, or a file is damaged, now or when it is read.
    InvalidInput
        If ``model`` is not the one of the runs.

    Examples
    --------
    >>> import tempfile
    >>> from wgflow.reduced_models import IsotropicGaussian
    >>> from wgflow.validation import run_gradient_flow
    >>> model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = run_gradient_flow(model, 1000, [0.0, 0.1], rng=7, folder=folder)
    ...     flow = load_trajectories(folder, model)
    ...     print(flow.coordinates[0, 1].shape)
    (1000, 1)
    """
    stored = SnapshotFolder.open(folder)
    about = dict(stored.about)
    if model is not None and not isinstance(model, NetworkModel):
        raise InvalidType(f"model must be a wgflow.reduced_models.NetworkModel, got {type(model).__name__}")
    if model is not None and repr(model) != about.get("model"):
        raise InvalidInput(f"model={model!r} is not that of the runs in {str(stored.path)!r}, {about.get('model')}")
    try:
        t = _times_of(stored, model)
    except ValueError as error:
        raise StorageError(f"{str(stored.path)!r} does not hold particles: {error}") from error
    kept = {name: about[name] for name in _KEPT} | {"model": model}
    counts = stored.counts()
    if not counts:
        raise StorageError(f"{str(stored.path)!r} holds no complete snapshot")
    runs, times = _rectangle(counts, t.size)
    if (len(runs), times) != stored.shape:
        warnings.warn(f"the job that wrote {str(stored.path)!r} was interrupted: here are {len(runs)} of "
                      f"{stored.shape[0]} runs, up to t = {t[times - 1]:g} of {t[-1]:g}", WGFlowWarning, stacklevel=2)
    numbers = [[_numbers_of(stored, run, index) for index in range(times)] for run in runs]
    steps = np.array([[one.get("steps", 0) for one in row] for row in numbers], dtype=np.int64)
    risk = np.array([[one.get("risk", np.nan) for one in row] for row in numbers], dtype=np.float64)
    arrays = {name: StoredArray(stored, name, runs, times) for name in stored.arrays}
    return _trajectories(kept, t, steps, risk, arrays, stored.path)


def _trajectories(about: dict[str, Any], t: Array, steps: NDArray[np.int64], risk: Array | None,
                  arrays: Mapping[str, Any], folder: Path | None) -> Trajectories:
    """Return the result. A `StoredArray` stands for the array whose snapshots it reads."""
    known = risk is not None and not np.isnan(risk).all()
    kind = SGDResult if known and about["model"] is not None else Trajectories
    return kind(**about, t=t[: steps.shape[1]], steps=steps[0], theta=cast("Array | None", arrays.get("theta")),
                coordinates=cast(Array, arrays["coordinates"]), risk=cast(Array, risk if known else None),
                folder=folder)


def _description(about: dict[str, Any], t: Array) -> dict[str, Any]:
    """Return what a folder says of its runs."""
    model = about["model"]
    kept = {name: about[name] for name in _KEPT}
    kept["xi"] = None if callable(kept["xi"]) else float(kept["xi"])
    return kept | {"t": t.tolist(), "model": None if model is None else repr(model),
                   "versions": library_versions()}


def _times_of(stored: SnapshotFolder, model: NetworkModel | None) -> Array:
    """Return the output times of a folder.

    Raises
    ------
    ValueError
        If what it says of its particles is not what a simulator has written.
    """
    from wgflow.files.schema import Particles, check_table

    about = stored.about
    check_table(about, Particles, "about")
    t = np.array(about["t"], dtype=float)
    if t.shape != (stored.shape[1],) or not (np.diff(t) > 0).all():
        raise ValueError(f"its {t.size} times do not increase, or are not those of {stored.shape[1]} snapshots")
    widths = {} if model is None else {"coordinates": model.n_coordinates, "theta": model.n_parameters}
    for name, shape in stored.arrays.items():
        if name not in ("coordinates", "theta") or len(shape) != 2 or shape[0] != about["n_neurons"] or (
                shape[1] != widths.get(name, max(1, shape[1]))):
            raise ValueError(f"its {name} have shape {shape}, of {about['n_neurons']} particles")
    if "coordinates" not in stored.arrays:
        raise ValueError("it has no coordinates")
    return t


def _numbers_of(stored: SnapshotFolder, run: int, index: int) -> dict[str, Any]:
    """Return the number of steps and the risk of a snapshot, as far as they are there."""
    from wgflow.files.schema import SnapshotNumbers, check_table

    numbers = stored.numbers(run, index)
    try:
        check_table(numbers, SnapshotNumbers, f"snapshot {index} of run {run}")
    except ValueError as error:
        raise StorageError(f"{str(stored.path)!r}: {error}") from error
    return numbers


def _rectangle(done: Mapping[int, int], times: int) -> tuple[list[int], int]:
    """Return the complete runs and all times, or else the run that came farthest and the times that it reached."""
    complete = [run for run, count in done.items() if count == times]
    farthest = max(done, key=done.__getitem__)
    return (complete, times) if complete else ([farthest], done[farthest])
