"""SGD runs of a study, swept: every run is an item with a file of its own, so that a study goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.errors import StorageError
from wgflow.reduced_models.base import NetworkModel

from ..particles import SGDResult, run_sgd
from ..sweeps import sweep

__all__ = ["one_run", "swept_runs"]

#: The folder, within that of the study, with the files of its runs.
FOLDER = "runs"


def one_run(model: NetworkModel, *, seed: int, run: int, **settings: Any) -> dict[str, np.ndarray]:
    """Return the coordinates and the risk of run number ``run``, whose seed depends on no other run.

    Parameters
    ----------
    model : NetworkModel
    seed : int
        Of all runs of a kind; this one draws from ``SeedSequence(seed, spawn_key=(run,))``.
    run : int
    **settings
        Of `run_sgd`.

    Returns
    -------
    dict
        ``coordinates`` of shape (times, neurons, coordinates), ``risk`` of shape (times,).
    """
    found = run_sgd(model, rng=np.random.SeedSequence(seed, spawn_key=(run,)), store_theta=False, **settings)
    return {"coordinates": found.coordinates[0], "risk": found.risk[0]}


def swept_runs(function: Callable[..., Mapping[str, np.ndarray]], kinds: Sequence[Mapping[str, Any]],
               models: Sequence[NetworkModel], folder: Path, *, fresh: bool = False) -> list[SGDResult]:
    """Do all runs of a study in one sweep, the longest first, and return them kind by kind.

    Parameters
    ----------
    function : callable
        At the top of a module. Called as ``function(..., run=k)`` with what a kind holds, it returns what `one_run`
        returns.
    kinds : sequence of dict
        The arguments of each kind of run, with ``n_neurons``, ``step_size``, ``times``, ``seed`` and ``n_runs``; the
        last is how many there are and is not an argument. Kinds of different seeds are independent.
    models : sequence of NetworkModel
        The model of each kind.
    folder : Path
        Of the study. The runs are kept in a folder within it, and what is there is not done again.
    fresh : bool
        Do all runs again.

    Returns
    -------
    list of SGDResult
        Without ``theta``.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    place = folder / FOLDER
    if fresh:
        _forget(place)
    points = [(_steps(kind), index, {**{name: value for name, value in kind.items() if name != "n_runs"}, "run": run})
              for index, kind in enumerate(kinds) for run in range(kind["n_runs"])]
    points.sort(key=lambda point: -point[0])  # a long run that begins last would leave the other cores idle
    found = sweep(function, [point for _, _, point in points], folder=place, progress=True)
    runs: list[list] = [[None] * kind["n_runs"] for kind in kinds]
    for (_, index, point), values in zip(points, found.outcomes):
        runs[index][point["run"]] = values
    return [_together(kind, model, each) for kind, model, each in zip(kinds, models, runs)]


def _steps(kind: Mapping[str, Any]) -> float:
    """Return how many neurons times steps a run has."""
    return float(kind["n_neurons"] * kind["times"][-1] / kind["step_size"])


def _forget(place: Path) -> None:
    try:
        for path in place.glob("item-*.npz"):
            path.unlink()
    except OSError as error:
        raise StorageError(f"cannot remove the kept runs in {place}: {error}") from error


def _together(kind: Mapping[str, Any], model: NetworkModel, runs: Sequence[Mapping]) -> SGDResult:
    times, root = np.asarray(kind["times"], dtype=float), np.random.SeedSequence(kind["seed"])
    coordinates, risk = (np.stack([run[name] for run in runs]) for name in ("coordinates", "risk"))
    return SGDResult(t=times, steps=np.rint(times / kind["step_size"]).astype(np.int64), theta=None,
                     n_neurons=kind["n_neurons"], step_size=kind["step_size"], seed_entropy=root.entropy,
                     seed_state=dict(root.state), model=model, beta=float("inf"), ridge=0.0, coordinates=coordinates,
                     risk=risk)
