r"""The mobility A(x) of a flow: the metric in which the free energy falls.

.. math:: \partial_t \rho = s(t)\,\nabla\cdot\bigl(\rho\,A(x)\,\nabla \tfrac{\delta F}{\delta\rho}\bigr), \qquad
          -\frac{dF}{dt} = s \int \rho\,\nabla\mu\cdot A\,\nabla\mu, \quad \mu = \frac{\delta F}{\delta\rho},

with A symmetric and positive definite (the inverse of a friction): the gradient flow of the same F in the Wasserstein
metric of the distance that :math:`A^{-1}` gives to the points. States at rest do not depend on A. The generator is
:math:`L f = \beta^{-1}\,\nabla\cdot(A \nabla f) - \nabla V \cdot A \nabla f`, so that particles have the drift
:math:`-A \nabla\Psi + \beta^{-1}\,\nabla\cdot A` (Ito) and the noise :math:`\sqrt{2 A/\beta}\,dB`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import differences, values_at
from wgflow.grids import Grid

if TYPE_CHECKING:
    from wgflow.energies.oblique import Direction

__all__ = ["Mobility", "UnknownMobility", "as_mobility"]

Array = NDArray[np.float64]
Entry = float | Callable[..., Any]
#: Entries that belong together may differ by rounding, relative to the largest entry there.
ROUNDING = 1e-12


class Mobility:
    r"""A(x), symmetric and positive definite: scalar, diagonal, or a full matrix; see the module's text.

    Parameters
    ----------
    A : number, function, sequence of d of them, or d rows of d of them
        A scalar; the diagonal, one entry for each axis; or the whole matrix. An entry is a number or a function
        ``A(x, y, ...)`` of the coordinates, vectorized like a potential. On one axis A is a scalar. In the units of
        the flow A is length squared over time and energy: with ``Entropy(beta)`` the diffusion constant is A / beta.
    divergence : function, optional
        :math:`(\nabla\cdot A)_i = \sum_j \partial_j A_{ij}` as ``divergence(x, y, ...)``, an array (d, n), for
        particles; by default it is formed by differences of sixth order, which assume coordinates of scale 1.

    Raises
    ------
    InvalidInput
        If A has not one of these forms; when a flow is made, if it does not fit the coordinates, or is not symmetric
        and positive definite at all points where it is looked at.

    Examples
    --------
    >>> import wgflow as wg
    >>> grid = wg.Grid((-4, 4), cells=200)
    >>> energy = wg.Entropy(beta=1.0) + wg.Potential(lambda x: 8 * np.log1p(x**2))
    >>> rho0 = wg.Density.gaussian(grid, 0.5, 0.1)
    >>> sol = wg.solve(energy, rho0, (0, 0.05), mobility=lambda x: 1 + x**2)
    >>> print(f"{sol.final.mean():.4f} {0.5 * np.exp(-0.7):.4f}")
    0.2483 0.2483
    """

    def __init__(self, A: Any, *, divergence: Callable[..., Any] | None = None):
        if divergence is not None and not callable(divergence):
            raise InvalidType(f"divergence={divergence!r}: need a function of the coordinates")
        self.user_divergence = divergence
        self.rows: tuple[tuple[Entry, ...], ...] = _rows(A)
        self._known: list[tuple[Grid, list[Array], Array | None, list[Any]]] = []

    # ---------------------------------------------------------------- what it is
    @property
    def kind(self) -> str:
        """``"scalar"``, ``"diagonal"`` or ``"matrix"``."""
        if len(self.rows) > 1:
            return "matrix"
        return "scalar" if len(self.rows[0]) == 1 else "diagonal"

    @property
    def constant(self) -> bool:
        """Whether no entry is a function."""
        return not any(callable(entry) for row in self.rows for entry in row)

    @property
    def numbers(self) -> list[list[float]] | None:
        """The rows of entries, None where one of them is a function."""
        rows = [[float(entry) for entry in row if not callable(entry)] for row in self.rows]
        return rows if self.constant else None

    @classmethod
    def of_numbers(cls, rows: Sequence[Sequence[float]]) -> Mobility:
        """Return the mobility whose `numbers` are given."""
        return cls(rows if len(rows) > 1 else rows[0] if len(rows[0]) > 1 else rows[0][0])

    def check_axes(self, ndim: int) -> None:
        """Refuse a number of coordinates that the entries do not fit."""
        if self.kind != "scalar" and len(self.rows[0]) != ndim:
            what = "diagonal" if self.kind == "diagonal" else "matrix"
            raise InvalidInput(f"mobility: a {what} for {len(self.rows[0])} coordinates, but the law has {ndim}; give "
                               + (f"a scalar, {ndim} entries, or {ndim} rows of {ndim}" if ndim > 1 else "a scalar"))

    def __repr__(self) -> str:
        def word(entry: Entry) -> str:
            return f"{entry:g}" if not callable(entry) else getattr(entry, "__name__", type(entry).__name__)

        rows = ["(" + ", ".join(map(word, row)) + ")" for row in self.rows]
        text = word(self.rows[0][0]) if self.kind == "scalar" else rows[0] if len(rows) == 1 else f"({', '.join(rows)})"
        return f"Mobility({text})"

    # ---------------------------------------------------------------- at points
    def at(self, points: Array) -> Array:
        """Return A at points (d, n): an array (d, d, n), checked.

        Raises
        ------
        InvalidInput
            If a function fails or A is not symmetric and positive definite there.
        """
        d = len(points)
        self.check_axes(d)
        out = np.zeros((d, d, points.shape[1]))
        if self.kind == "matrix" and self.constant:
            # One point stands for all.
            out[:] = np.array(self.numbers)[:, :, None]
            if points.shape[1]:
                self._check_matrix(out[:, :, :1], points)
            return out
        if self.kind == "matrix":
            for i, row in enumerate(self.rows):
                for j, entry in enumerate(row):
                    out[i, j] = _value(entry, points, f"A[{i}][{j}]")
            self._check_matrix(out, points)
            return out
        for i in range(d):
            out[i, i] = self._axis(i, points)
        return out

    def applied(self, points: Array, vectors: Array) -> Array:
        """Return A v at points, both of shape (d, n)."""
        if self.kind == "matrix":
            return np.einsum("ijn,jn->in", self.at(points), vectors)
        if self.kind == "scalar":
            return self._axis(0, points) * vectors
        self.check_axes(len(points))
        return np.array([self._axis(i, points) * row for i, row in enumerate(vectors)])

    def divergence(self, points: Array, bounds: Sequence[tuple[float, float]]) -> Array:
        """Return :math:`\\sum_j \\partial_j A_{ij}` at points (d, n), inside the bounds; zero where A is constant."""
        d = len(points)
        if self.user_divergence is not None:
            return values_at(self.user_divergence, points, "divergence", (d,))
        out = np.zeros(points.shape)
        for i in range(d):
            if self.kind == "matrix":
                for j, entry in enumerate(self.rows[i]):
                    if callable(entry):
                        out[i] += differences(partial(_value, entry, what=f"A[{i}][{j}]"), points, bounds)[j]
            elif callable(self._entry(i)):
                out[i] = differences(partial(self._axis, i), points, bounds)[i]
        return out

    def roots(self, points: Array) -> Array:
        """Return the Cholesky factors L of A = L L' at points, an array (d, d, n)."""
        A = self.at(points)
        return np.sqrt(A) if self.kind != "matrix" else _cholesky(A)[0]

    # ---------------------------------------------------------------- on a grid
    def on(self, grid: Grid) -> tuple[list[Array], Array | None]:
        """Return the diagonal of A at the cell centers, an array for each axis, and the whole matrix if it is one.

        The matrix has shape (d, d, *grid.shape); None where all other entries are zero.
        """
        for known, diagonal, matrix, _ in self._known:
            if known is grid:
                return diagonal, matrix
        points = np.array([c.ravel() for c in np.meshgrid(*grid.centers, indexing="ij")])
        if self.kind == "matrix":
            whole = self.at(points).reshape(grid.ndim, grid.ndim, *grid.shape)
            diagonal = [np.ascontiguousarray(whole[i, i]) for i in range(grid.ndim)]
            mixed = any(whole[i, j].any() for i in range(grid.ndim) for j in range(i))
            found: Any = grid, diagonal, whole if mixed else None, []
        else:
            self.check_axes(grid.ndim)
            one = [self._axis(i, points).reshape(grid.shape) for i in range(len(self.rows[0]))]
            found = grid, one if len(one) == grid.ndim else one * grid.ndim, None, []
        self._known = [*self._known[-2:], found]
        return found[1], found[2]

    def directions(self, grid: Grid) -> list[Direction] | None:
        """Return the directions of the grid whose sum A is (`wgflow.energies.oblique`); None where it is diagonal."""
        _, matrix = self.on(grid)
        if matrix is None:
            return None
        known = next(kept for held, _, _, kept in self._known if held is grid)
        if not known:
            # Compiled functions, which few flows need.
            from wgflow.energies.oblique import directions_of

            known.append(directions_of(matrix, grid))
        return cast("list[Direction]", known[0])

    # ---------------------------------------------------------------- parts
    def _entry(self, axis: int) -> Entry:
        return self.rows[0][0 if self.kind == "scalar" else axis]

    def _axis(self, axis: int, points: Array) -> Array:
        value = _value(self._entry(axis), points, "A" if self.kind == "scalar" else f"A[{axis}]")
        if not (value > 0).all():
            k = int(np.argmin(value))
            raise InvalidInput(f"mobility: A is {value[k]:g} at {_place(points, k)}; it must be positive where the law "
                               "is")
        return value

    def _check_matrix(self, A: Array, points: Array) -> None:
        size = np.abs(A).max(axis=(0, 1))
        gap = np.abs(A - A.swapaxes(0, 1)).max(axis=(0, 1))
        if not (gap <= ROUNDING * size).all():
            k = int(np.argmax(gap))
            raise InvalidInput(f"mobility: A differs from its transpose by {gap[k]:.3g} at {_place(points, k)}; it "
                               "must be symmetric: an antisymmetric part turns the law round and is no gradient flow")
        lowest = _cholesky(A)[1]
        if not (lowest > ROUNDING * size).all():
            k = int(np.argmin(lowest))
            value = np.linalg.eigvalsh(A[:, :, k])[0]
            raise InvalidInput(f"mobility: A has the eigenvalue {value:.3g} at {_place(points, k)}; it must be "
                               "positive definite where the law is")


    def values_on(self, grid: Grid) -> Array:
        """Return A at the cell centers as one array: the diagonal (d, *shape), or the matrix (d, d, *shape)."""
        diagonal, matrix = self.on(grid)
        return np.array(diagonal) if matrix is None else matrix


class UnknownMobility(Mobility):
    """What a solution from a file knows of a mobility that was given by functions: its description alone."""

    def __init__(self, text: str):
        self.text = text
        super().__init__(self._missing)

    def _missing(self, *x: Array) -> Array:
        raise InvalidInput(f"{self.text}: a loaded solution does not hold the functions of its mobility; set "
                           "solution.mobility to the one it was solved with")

    def __repr__(self) -> str:
        return self.text


def as_mobility(A: Any) -> Mobility | None:
    """Return a mobility as users may give it; None for None, and for the number 1."""
    if A is None or isinstance(A, Mobility):
        return A
    found = Mobility(A)
    return None if found.numbers == [[1.0]] else found


def _rows(A: Any) -> tuple[tuple[Entry, ...], ...]:
    """Return the entries in one row (scalar, diagonal) or in d rows."""
    if callable(A) or np.ndim(A) == 0:
        return ((_checked(A),),)
    outer = list(A)
    if not outer:
        raise InvalidInput(f"mobility={A!r}: need at least one entry")
    nested = [not callable(part) and np.ndim(part) > 0 for part in outer]
    if not any(nested):
        row = tuple(_checked(entry) for entry in outer)
        return (row,)
    if not all(nested) or any(len(part) != len(outer) for part in outer):
        raise InvalidInput(f"mobility={A!r}: need a scalar, one entry for each axis, or d rows of d entries")
    if len(outer) == 1:
        return ((_checked(outer[0][0]),),)
    return tuple(tuple(_checked(entry, positive=i == j) for j, entry in enumerate(row)) for i, row in enumerate(outer))


def _checked(entry: Any, positive: bool = True) -> Entry:
    if callable(entry):
        return entry
    if isinstance(entry, bool) or not isinstance(entry, (int, float, np.integer, np.floating)):
        raise InvalidType(f"mobility: an entry is {entry!r}; need numbers or functions of the coordinates")
    value = float(entry)
    if not np.isfinite(value) or (positive and value <= 0):
        raise InvalidInput(f"mobility: an entry is {value:g}; need a finite number{' > 0' if positive else ''}")
    return value


def _value(entry: Entry, points: Array, what: str) -> Array:
    if not callable(entry):
        return np.full(points.shape[1], entry)
    try:
        return values_at(entry, points, f"mobility {what}")
    except InvalidInput as error:
        d, found = len(points), np.shape(entry(*points)) if what == "A" and "returned shape" in str(error) else ()
        if found[:1] == (d,):
            rows = f"[[a11, {'a12' if d == 2 else '..., a1d'}], ...]" if found[:2] == (d, d) else "[a1, a2, ...]"
            raise InvalidInput(f"mobility A returned shape {found}, entries for each axis: a function returns one "
                               f"entry; give each entry, a number or a function, mobility={rows}") from error
        raise


def _cholesky(A: Array) -> tuple[Array, Array]:
    """Return L with A = L L' for matrices (d, d, n), and the least pivot of each: by columns, for many at a time."""
    d = len(A)
    out, least = np.zeros(A.shape), np.full(A.shape[2], np.inf)
    for j in range(d):
        pivot = A[j, j] - (out[j, :j] ** 2).sum(axis=0)
        least = np.minimum(least, pivot)
        out[j, j] = np.sqrt(np.maximum(pivot, 1e-300))
        for i in range(j + 1, d):
            out[i, j] = (A[i, j] - (out[i, :j] * out[j, :j]).sum(axis=0)) / out[j, j]
    return out, least


def _place(points: Array, k: int) -> str:
    return "(" + ", ".join(f"{x:g}" for x in points[:, k]) + ")"
