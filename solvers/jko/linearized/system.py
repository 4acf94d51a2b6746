"""The graph of a grid's cells, and the linear systems of Newton's method on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wgflow.checks import check_memory
from wgflow.compiled.block_ldl import factor, factor_scalar, order_box, solve, solve_scalar, structure
from wgflow.compiled.linearized import assemble, compensated_dot, multiply, rows_of_edges
from wgflow.grids import Grid

from ...krylov import gmres

Product = Callable[[np.ndarray], np.ndarray]

#: Reduction of the residual of a linear system.
FORCING = 1e-3
#: Iterations preconditioned by the factorization of an earlier matrix.
FEW_ITERATIONS = 4
#: Iterations at most.
MAX_ITERATIONS = 60


class Graph(NamedTuple):
    """The cells of a grid as nodes, an edge between neighbors, and its weight 1 / (distance width) in each direction.

    Edges are stored by their nodes (``first``, ``second``, ``forward``, ``backward``), and again by rows (``starts``,
    ``cells``, ``rates``).
    """

    size: int
    first: np.ndarray
    second: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    starts: np.ndarray
    cells: np.ndarray
    rates: np.ndarray

    @property
    def edges(self) -> tuple:
        return self.first, self.second, self.forward, self.backward

    @property
    def rows(self) -> tuple:
        return self.starts, self.cells, self.rates


def graph_of(grid: Grid) -> Graph:
    """Return the graph of a grid; two faces between the same cells (two cells around a circle) are one edge."""
    index = np.arange(grid.size, dtype=np.int64).reshape(grid.shape)
    lists: list[list[np.ndarray]] = [[], [], [], []]
    for axis in range(grid.ndim):
        n, distances, widths = grid.shape[axis], grid.distances[axis], grid.widths[axis]
        left, right = np.arange(distances.size), np.arange(1, distances.size + 1) % n
        shape = [1] * grid.ndim
        shape[axis] = distances.size
        a, b = np.take(index, left, axis=axis), np.take(index, right, axis=axis)
        ahead, behind = (np.broadcast_to((1.0 / (distances * widths[k])).reshape(shape), a.shape)
                         for k in (left, right))
        swap = a > b
        for entry, values in zip(lists, (np.where(swap, b, a), np.where(swap, a, b), np.where(swap, behind, ahead),
                                         np.where(swap, ahead, behind))):
            entry.append(values.ravel())
    first, second, forward, backward = (np.concatenate(entry) for entry in lists)
    _, place, inverse = np.unique(first * grid.size + second, return_index=True, return_inverse=True)
    forward, backward = (np.bincount(inverse.ravel(), weights=w) for w in (forward, backward))
    first, second = first[place], second[place]
    return Graph(grid.size, first, second, forward, backward,
                 *rows_of_edges(grid.size, first, second, forward, backward))


class SaddleSystem:
    """Newton systems on a graph, whose order of elimination and structure of the factor are determined once.

    A factorization serves several matrices, as preconditioner of GMRES, until that takes more than a few iterations.
    """

    def __init__(self, grid: Grid, graph: Graph):
        self.graph = graph
        n, m = graph.size, graph.first.size
        self.order = order_box(grid.shape, grid.periodic)
        places = np.empty(n, dtype=np.int64)
        places[self.order] = np.arange(n)
        a, b = places[graph.first], places[graph.second]
        tails, heads = np.concatenate((a, b)), np.concatenate((b, a))
        by_tail = np.argsort(tails, kind="stable")
        starts = np.concatenate(([0], np.cumsum(np.bincount(tails, minlength=n))))
        self.columns, self.factor_rows = structure(n, starts, heads[by_tail])
        check_memory(40.0 * self.factor_rows.size, f"cells={grid.shape} with inner='linearized': the factorization",
                     "take fewer cells, or FiniteVolume()")
        column = np.minimum(a, b)
        self.edges = np.argsort(column, kind="stable")
        self.edge_rows = np.maximum(a, b)[self.edges]
        self.flipped = (a > b)[self.edges]
        self.edge_starts = np.concatenate(([0], np.cumsum(np.bincount(column, minlength=n))))
        self.blocks, self.inverses = np.empty((self.factor_rows.size, 4)), np.empty((n, 3))
        self.diagonal, self.coupling = np.empty((n, 3)), np.empty((m, 3))
        self.fresh = self.usable = False
        self.n_factorizations = 0

    def assemble(self, phi, masses, curvatures, tau: float) -> None:
        """Form the matrix at a point; a factorization of an earlier one is kept."""
        assemble(phi, masses, curvatures, tau, *self.graph.edges, self.diagonal, self.coupling)
        self.fresh = False

    def factorize(self) -> bool:
        """Factorize the matrix; False where it is singular to working precision."""
        self.usable = self.fresh = factor(
            self.columns, self.factor_rows, self.diagonal, self.coupling, self.order, self.edge_starts, self.edge_rows,
            self.edges, self.flipped, self.blocks, self.inverses)
        self.n_factorizations += 1
        return self.usable

    def direct(self, right: np.ndarray) -> np.ndarray:
        """Solve with the present factorization, shape (n, 2)."""
        x = np.empty_like(right)
        solve(self.columns, self.factor_rows, self.blocks, self.inverses, self.order, right, x)
        return x

    def solve(self, right: np.ndarray, scales: np.ndarray, interaction: Product | None = None,
              fresh: bool = False) -> np.ndarray | None:
        """Solve the system to `FORCING`, with the interaction's second variation subtracted from its last block.

        Parameters
        ----------
        right : array, shape (n, 2)
        scales : array, shape (n, 2)
            The units of the unknowns in the norm of residuals.
        interaction : callable, optional
            The product of the interaction with masses.
        fresh : bool
            Whether to factorize this matrix even if an earlier factorization may serve.
        """
        if fresh and not (self.fresh or self.factorize()):
            return None
        if interaction is None:
            if self.usable and not self.fresh:
                x, converged = self._gmres(right, scales, None, FEW_ITERATIONS)
                if converged:
                    return x
            return self.direct(right) if self.fresh or self.factorize() else None
        if self.usable:
            x, converged = self._gmres(right, scales, interaction, 2 * FEW_ITERATIONS)
            if converged:
                return x
        if not (self.fresh or self.factorize()):
            return None
        x, _ = self._gmres(right, scales, interaction, MAX_ITERATIONS)
        return x

    def _product(self, x: np.ndarray, interaction: Product | None) -> np.ndarray:
        product = np.empty_like(x)
        multiply(self.diagonal, self.coupling, self.graph.first, self.graph.second, x, product)
        if interaction is not None:
            product[:, 1] -= interaction(x[:, 1])
        return product

    def _gmres(self, right: np.ndarray, scales: np.ndarray, interaction: Product | None,
               limit: int) -> tuple[np.ndarray, bool]:
        """Solve in scaled unknowns by GMRES, preconditioned by the present factorization; whether it converged."""

        def product(x: np.ndarray) -> np.ndarray:
            return self._product(x.reshape(right.shape) * scales, interaction)

        def precondition(x: np.ndarray) -> np.ndarray:
            return (self.direct(x) / scales).ravel()

        found = gmres(product, right, dot=compensated_dot, forcing=FORCING, limit=limit, precondition=precondition)
        return found.x.reshape(right.shape) * scales, found.converged


class ScalarSystem:
    """Symmetric positive definite systems with one unknown a cell, in the order and structure of a `SaddleSystem`."""

    def __init__(self, grid: Grid, graph: Graph, saddle: SaddleSystem):
        self.graph, self.saddle = graph, saddle
        keys = graph.first * graph.size + graph.second
        index = np.arange(grid.size, dtype=np.int64).reshape(grid.shape)
        places = []
        for axis in range(grid.ndim):
            other = np.roll(index, -1, axis=axis)
            count = range(grid.distances[axis].size)
            a, b = np.take(index, count, axis=axis), np.take(other, count, axis=axis)
            places.append(np.searchsorted(keys, np.minimum(a, b) * graph.size + np.maximum(a, b)).ravel())
        self.places = np.concatenate(places)
        self.values, self.inverses = np.empty(saddle.factor_rows.size), np.empty(graph.size)
        self.diagonal = np.zeros(graph.size)
        self.coupling: np.ndarray = np.zeros(graph.first.size)

    def set_rates(self, rates: list[np.ndarray]) -> np.ndarray:
        """Take the Laplacian with ``rates`` at the faces of each axis; return its diagonal."""
        graph = self.graph
        weights = np.bincount(self.places, np.concatenate([r.ravel() for r in rates]), graph.first.size)
        self.coupling = -weights
        return np.bincount(graph.first, weights, graph.size) + np.bincount(graph.second, weights, graph.size)

    def laplacian(self, x: np.ndarray) -> np.ndarray:
        """Return the Laplacian times x."""
        graph = self.graph
        flux = -self.coupling * (x[graph.first] - x[graph.second])
        return np.bincount(graph.first, flux, graph.size) - np.bincount(graph.second, flux, graph.size)

    def factorize(self, diagonal: np.ndarray) -> bool:
        """Factorize the Laplacian's couplings with a diagonal that includes its own; False where that is singular."""
        saddle = self.saddle
        self.diagonal = diagonal + np.finfo(float).tiny
        return factor_scalar(saddle.columns, saddle.factor_rows, self.diagonal, self.coupling, saddle.order,
                             saddle.edge_starts, saddle.edge_rows, saddle.edges, self.values, self.inverses)

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Solve with the present factorization, shape (n,)."""
        x = np.empty_like(right)
        solve_scalar(self.saddle.columns, self.saddle.factor_rows, self.values, self.inverses, self.saddle.order, right,
                     x)
        return x
