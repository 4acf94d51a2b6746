"""Whether what a file holds agrees with itself: numbers whose products floats hold, laws of the mass that is recorded.

Types and ranges of single values are looked at by `wgflow.files.schema`. Values that are in range one by one may still
be those of no run: a law with another mass than the record of the steps, or numbers whose squares overflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wgflow.grids import Grid

__all__ = ["check_arrays", "check_laws", "check_masses", "check_run"]

#: Largest size of a number in the state of a run: sums of squares of such numbers are finite.
LARGEST = 1e140
#: Arrays of a checkpoint that hold laws.
LAWS = ("rho0", "rho0_center_values", "snapshot_masses")
#: Relative difference of two masses of one law: what rounding, also of another order of the sums, never reaches.
SAME_MASS = 1e-6


def check_arrays(arrays: Mapping[str, Any]) -> None:
    """Refuse arrays of floats that are larger than any that a run has.

    NaN and infinity are left to those who know which of their numbers may be that.

    Raises
    ------
    ValueError
        With the name of the first.
    """
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and (
                np.isfinite(array) & (np.abs(array) > LARGEST)).any():
            raise ValueError(f"{name} holds numbers beyond {LARGEST:g}, whose squares overflow")


def check_laws(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse a checkpoint's laws of numbers that no run has; before anything is formed of them (see `check_arrays`)."""
    check_arrays({name: arrays[name] for name in LAWS if name in arrays})


def check_masses(laws: Iterable[tuple[str, np.ndarray]], recorded: np.ndarray, drift: float = 0.0) -> None:
    """Refuse laws, given by their masses, that are negative or have another mass than a run has recorded.

    Parameters
    ----------
    laws : iterable of (str, ndarray)
        Each with what it is called.
    recorded : ndarray
        The masses recorded, of the start first.
    drift : float
        The largest relative change of the mass over all steps, where not each of them is among those recorded.

    Raises
    ------
    ValueError
        With the name of the first that does not agree.
    """
    if not (np.isfinite(recorded).all() and recorded.min() > 0):
        raise ValueError("its record has a mass that is not positive and finite")
    first = float(recorded[0])
    slack = SAME_MASS * first + (abs(drift) * first if np.isfinite(drift) else 0.0)
    least, most = float(recorded.min()) - slack, float(recorded.max()) + slack
    for name, masses in laws:
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(masses.sum())
        if not (masses.min() >= 0 and least <= total <= most):
            why = f"it has mass {total:g}, recorded are {least:g} to {most:g}"
            why = why if masses.min() >= 0 else "it has negative masses, or NaN"
            raise ValueError(f"{name} is no density of this run: {why}")


def check_run(grid: Grid, saved: Mapping[str, Any], state: Mapping[str, Any], rho0: np.ndarray) -> None:
    """Refuse the record and the state of a checkpoint that are not of one run.

    Parameters
    ----------
    grid : Grid
    saved, state : mapping
        As `wgflow.files.checkpoints.unpack_run` returns them.
    rho0 : ndarray
        The masses of the initial density.

    Raises
    ------
    ValueError
        With what does not agree.
    """
    check_arrays(state)
    audit = saved["audit"]
    if audit is not None:
        check_arrays({f"audit.{name}": np.asarray(value) for name, value in audit.items()
                      if isinstance(value, (float, np.ndarray))})
    recorded = np.asarray(saved["columns"]["mass"])
    laws = [("rho0", rho0), *((f"the snapshot at t={t:g}", masses) for t, masses, _ in saved["snapshots"]
                              if masses is not None)]
    laws += [(name, state[name]) for name in ("masses",) if _is_law(state.get(name), grid)]
    with np.errstate(over="ignore"):
        laws += [(name, state[name] * grid.volumes) for name in ("now_density", "before_density")
                 if _is_law(state.get(name), grid)]
    check_masses(laws, recorded, float((saved["of_steps"] or {}).get("drift", 0.0)))


def _is_law(array: Any, grid: Grid) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == float and array.shape == grid.shape
