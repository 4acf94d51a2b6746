"""Solutions as plain tables: dictionaries of arrays, pandas data frames, CSV files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.checks import check_memory
from wgflow.densities import Density
from wgflow.errors import InvalidInput, StorageError
from wgflow.solution import Solution

from .archives import replacing
from .solutions import variables

if TYPE_CHECKING:
    import pandas

__all__ = ["TABLES", "to_csv", "to_numpy", "to_pandas"]

#: The tables of a solution.
TABLES = ("density", "snapshots", "history")

Columns = dict[str, NDArray[Any]]


def to_numpy(solution: Solution) -> Columns:
    """Return the arrays of a solution by name; see `Solution.to_numpy`."""
    first = solution.densities[0]
    arrays: Columns = {"time": solution.t.copy(), "energy": solution.energy.copy()}
    if isinstance(first, Atoms):
        _check_size(solution, first.points.size)
        paths = np.stack([rho.points for rho in solution.densities], axis=1)
        return arrays | dict(zip(variables(first.names), paths)) | {"weight": first.weights.copy()}
    _check_size(solution, first.grid.size)
    centers = {name: np.array(c) for name, c in zip(variables(first.grid.names), first.grid.centers)}
    return arrays | centers | {"density": np.stack([rho.values for rho in solution.densities])}


def to_pandas(solution: Solution, table: str = "density") -> pandas.DataFrame:
    """Return a table of a solution; see `Solution.to_pandas`."""
    _check_table(table)
    try:
        import pandas
    except ImportError as error:
        raise StorageError("to_pandas needs pandas: pip install pandas; to_numpy() and to_csv(path) work without"
                           ) from error

    blocks = list(_blocks(solution, table))
    return pandas.DataFrame({name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]})


def to_csv(solution: Solution, path: str | os.PathLike[str], table: str = "density") -> None:
    """Write a table of a solution; see `Solution.to_csv`."""
    _check_table(table)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for k, block in enumerate(_blocks(solution, table)):
            if k == 0:
                file.write(",".join(block) + "\n")
            # The shortest digits that give the same bits again.
            file.writelines(",".join(map(repr, row)) + "\n" for row in zip(*(c.tolist() for c in block.values())))


def _blocks(solution: Solution, table: str) -> Iterator[Columns]:
    """Yield the rows of a table in blocks of columns."""
    if table == "history":
        yield solution.history.to_dict()
    elif table == "snapshots":
        yield _moments(solution)
    else:
        first = solution.densities[0]
        _check_size(solution, (first.points if isinstance(first, Atoms) else first.values).size)
        for t, rho in zip(solution.t, solution.densities):
            yield _cells(t, rho) if isinstance(rho, Density) else _atoms(t, rho)


def _cells(t: float, rho: Density) -> Columns:
    places = [np.ravel(x) for x in rho.grid.mesh()]
    return {"time": np.full(rho.grid.size, t), **dict(zip(variables(rho.grid.names), places)),
            "density": rho.values.ravel()}


def _atoms(t: float, rho: Atoms) -> Columns:
    return {"time": np.full(rho.size, t), "atom": np.arange(rho.size), **dict(zip(variables(rho.names), rho.points)),
            "weight": rho.weights}


def _moments(solution: Solution) -> Columns:
    """Return one row for each snapshot: time, energy, mass, mean and variance of each coordinate."""
    first = solution.densities[0]
    names = variables(first.names if isinstance(first, Atoms) else first.grid.names)
    columns: Columns = {"time": solution.t, "energy": solution.energy,
                        "mass": np.array([rho.mass for rho in solution.densities])}
    means = np.array([np.atleast_1d(rho.mean()) for rho in solution.densities])
    spreads = np.array([np.diag(np.atleast_2d(rho.cov())) for rho in solution.densities])
    for k, name in enumerate(names):
        columns |= {f"mean_{name}": means[:, k], f"variance_{name}": spreads[:, k]}
    return columns


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise InvalidInput(f"table={table!r}: need one of {', '.join(map(repr, TABLES))}")


def _check_size(solution: Solution, size: int) -> None:
    check_memory(8.0 * size * len(solution.t), f"a table of {len(solution.t)} snapshots of {size} numbers",
                 "take fewer snapshots, or write solution.save('run.nc')")
