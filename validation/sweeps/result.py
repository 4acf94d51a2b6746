"""The result of a sweep: values over the grid of parameters, as arrays, a table and an xarray dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.errors import InvalidInput
from wgflow.validation.studies.base import Table

if TYPE_CHECKING:
    import xarray

__all__ = ["SweepResult"]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found; items that failed are NaN (their values) and named in ``errors``.

    Attributes
    ----------
    axes : dict of str to list
        The parameters' lists, one axis of the results each; empty if single points were given.
    parameters : list of dict
        The parameters of every item, in the order in which the last axis runs fastest.
    outcomes : list
        For each item the dictionary of its values, or None if it failed.
    errors : dict of int to str
        Why an item failed, by its place in ``parameters``.
    n_computed : int
        Items that ran in this call; the others were read from the folder.
    """

    axes: dict[str, list]
    parameters: list[dict[str, Any]]
    outcomes: list[dict[str, np.ndarray] | None]
    errors: dict[int, str] = field(default_factory=dict)
    n_computed: int = 0

    def __repr__(self) -> str:
        over = " x ".join(f"{name} ({len(values)})" for name, values in self.axes.items()) or "points"
        failed = sum(outcome is None for outcome in self.outcomes)
        return f"SweepResult({len(self.parameters)} items over {over}, {failed} failed)"

    @property
    def success(self) -> bool:
        """Whether every item has values."""
        return all(outcome is not None for outcome in self.outcomes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, or the number of points."""
        return tuple(map(len, self.axes.values())) or (len(self.parameters),)

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Each value that the function returns, as an array of shape (*shape, *shape of one value).

        Raises
        ------
        InvalidInput
            If the items returned different names, or arrays of different shapes.
        """
        done = [outcome for outcome in self.outcomes if outcome is not None]
        if not done:
            return {}
        shapes = {name: value.shape for name, value in done[0].items()}
        for outcome in done:
            if {name: value.shape for name, value in outcome.items()} != shapes:
                raise InvalidInput("the items returned different names or shapes, which make no array; "
                                   "see `outcomes` for each item's own")
        return {name: self._stacked(name, shape, [outcome[name].dtype for outcome in done])
                for name, shape in shapes.items()}

    def _stacked(self, name: str, shape: tuple[int, ...], dtypes: list[np.dtype]) -> np.ndarray:
        missing = np.full(shape, np.nan)
        rows = [missing if outcome is None else outcome[name] for outcome in self.outcomes]
        dtype = np.result_type(*dtypes) if self.success else np.float64
        return np.array(rows, dtype=dtype).reshape(self.shape + shape)

    @property
    def table(self) -> Table:
        """The parameters and every value that is one number, a row for each item; ``.text()`` and ``.csv()``."""
        names = [name for name, value in self.values.items() if value.ndim == len(self.shape)]
        columns = [self.values[name].ravel().tolist() for name in names]
        rows = [[*point.values(), *(column[k] for column in columns)] for k, point in enumerate(self.parameters)]
        return Table((*self.parameters[0], *names), rows)

    @property
    def dataset(self) -> xarray.Dataset:
        """The values as an xarray dataset; the parameters are its coordinates (needs the extra ``io``).

        Raises
        ------
        InvalidInput
            If xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise InvalidInput("sweep(...).dataset needs xarray: pip install 'wgflow[io]'") from error

        dims = tuple(self.axes) or ("item",)
        coordinates: dict[str, Any] = {name: _coordinate((name,), values) for name, values in self.axes.items()}
        if not self.axes:
            coordinates = {name: _coordinate(("item",), [point[name] for point in self.parameters])
                           for name in self.parameters[0]}
        clash = sorted(set(coordinates) & set(self.values))
        if clash:
            raise InvalidInput(f"{clash[0]} is the name of a parameter and of a value; rename the value")
        variables = {name: (dims + tuple(f"{name}_{k}" for k in range(value.ndim - len(dims))), value)
                     for name, value in self.values.items()}
        return xarray.Dataset(variables, coords=coordinates)


def _coordinate(dims: tuple[str, ...], values: list) -> tuple[tuple[str, ...], Any]:
    plain = [value if isinstance(value, (bool, int, float, str)) else repr(value) for value in values]
    return dims, plain
