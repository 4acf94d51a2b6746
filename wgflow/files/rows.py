"""Arrays that are written row by row: the laws of a solution, of which one at a time need be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from wgflow.checks import check_memory

__all__ = ["Rows", "pieces"]


class Rows:
    """An array of shape (count, *row), whose rows are made when they are asked for.

    Parameters
    ----------
    count : int
        At least 1.
    row : callable
        Makes a row, an array, of its number; all have the shape of the first.
    """

    def __init__(self, count: int, row: Callable[[int], np.ndarray]):
        self.count, self.row = count, row
        first = np.asarray(row(0))
        self.dtype, self.shape = first.dtype, (count, *first.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        for k in range(self.count):
            yield np.asarray(self.row(k))

    def stacked(self) -> np.ndarray:
        """Return the whole array.

        Raises
        ------
        ResourceError
            If memory does not hold it.
        """
        check_memory(3.0 * self.dtype.itemsize * float(np.prod(self.shape, dtype=float)),
                     f"an array of {self.count} snapshots of {self.shape[1:]} numbers",
                     "ask for fewer times; solution.save(path) writes them one by one")
        return np.stack(list(self))


def pieces(value: np.ndarray | Rows) -> Iterator[np.ndarray]:
    """Yield the rows of an array that is made row by row, and an ordinary one as a whole."""
    if isinstance(value, Rows):
        yield from value
    else:
        yield value
