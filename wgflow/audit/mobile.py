"""A mobility for the audit: A at the centers of cells, its divergence from values at their faces, and A at nodes."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from wgflow.audit.modes import Modes, contract
from wgflow.energies.mobility import Mobility
from wgflow.grids import Grid

__all__ = ["MobileField"]

Array = NDArray[np.float64]
#: Relative difference of slopes over one cell and over three that shows a jump of A.
JUMP = 0.3


class MobileField:
    """A(x) on the cells of a grid.

    Parameters
    ----------
    mobility : Mobility
    grid : Grid
    nodal : bool
        Whether laws are given by their values at the centers of cells.

    Attributes
    ----------
    matrix : array of shape (d, d, *grid.shape)
    largest : array of the grid's shape
        The trace, a bound of the largest eigenvalue.
    divergence : list of arrays
        The divergence of A along each axis.
    steep, bent : arrays of the grid's shape
        How unsure the divergence is, and how far the average of A over a cell is from its value at the center.
    """

    def __init__(self, mobility: Mobility, grid: Grid, nodal: bool):
        self.mobility, self.grid, self.nodal = mobility, grid, nodal
        d = grid.ndim
        points = np.array([c.ravel() for c in np.meshgrid(*grid.centers, indexing="ij")])
        self.matrix = mobility.at(points).reshape(d, d, *grid.shape)
        self.largest = np.trace(self.matrix)
        self.steep, self.bent = np.zeros((2, *grid.shape))
        self.divergence = [np.zeros(grid.shape) for _ in range(d)]
        # The row of A across each axis at its two walls.
        self.walls: list[tuple[Array, Array]] = []
        for axis in range(d):
            faces = self._at_faces(axis)
            self.walls.append((np.take(faces[axis], [0], axis + 1), np.take(faces[axis], [-1], axis + 1)))
            for a in range(d):
                slope, gap = _slopes(np.moveaxis(faces[a, axis], axis, 0), grid.edges[axis], nodal)
                self.divergence[a] += np.moveaxis(slope, 0, axis)
                self.steep += np.moveaxis(np.abs(gap), 0, axis)
            for a, b in product(range(d), range(d)):
                f = np.moveaxis(faces[a, b], axis, 0)
                bend = np.abs(f[1:] + f[:-1] - 2.0 * np.moveaxis(self.matrix[a, b], axis, 0)) / 6.0
                self.bent += np.moveaxis(bend, 0, axis)

    def applied(self, field: list[Array]) -> list[Array]:
        """Return A times a vector field, given along each axis at the cells."""
        return [np.ascontiguousarray(sum((self.matrix[a, b] * part for b, part in enumerate(field)),
                                         np.zeros(self.grid.shape))) for a in range(self.grid.ndim)]

    def at_nodes(self, points: Array, field: Array) -> Array:
        """Return A times a field (d, n, ...) at points (d, n)."""
        return np.einsum("abn,bn...->an...", self.mobility.at(points), field)

    def spread(self, p: Array, modes: Modes, factors: list[tuple[Array, Array]],
               log_slopes: list[Array], volumes: Array) -> tuple[Array, Array]:
        """Return the integrals of div(w A grad phi) / w times a pressure, and how unsure they are.

        That is A : D^2 phi + (div A + A grad log w) . grad phi, with A at the centers of cells, less n . A grad phi
        times the pressure at walls: test functions have no slope across a wall, but with mixed terms one of these.

        Parameters
        ----------
        p : array of the grid's shape
            Integrals of the pressure over the cells.
        modes : Modes
        factors : list of (array, array)
            Values and slopes of the factors of the test functions along each axis.
        log_slopes : list of arrays
            grad log w; none where w is 1.
        volumes : array of the grid's shape
            Of the cells, or the weights of their centers.
        """
        axes, pulls = range(self.grid.ndim), self.pulls(log_slopes)
        total = np.zeros(len(modes.waves))
        for a in axes:
            total -= modes.waves[:, a] ** 2 * contract(p * self.matrix[a][a], [value for value, _ in factors])
            total += contract(p * pulls[a], [factors[k][k == a] for k in axes])
            for b in range(a):
                total += 2.0 * contract(p * self.matrix[a][b], [factors[k][k in (a, b)] for k in axes])
        at_walls, doubt = self._at_walls(p / volumes, volumes, modes, factors)
        total -= at_walls
        if self.nodal:
            return total, doubt
        # Averages over cells and values at centers differ in second order.
        steep, bent = (float((np.abs(p) * part).sum()) for part in (self.steep, self.bent))
        return total, steep * np.sqrt(modes.bend) + bent * modes.bend + doubt

    def pulls(self, log_slopes: list[Array]) -> list[Array]:
        """Return div A + A grad log w along each axis at the centers, with the slopes of log w (none: w = 1)."""
        if not log_slopes:
            return self.divergence
        shape = self.grid.shape
        moved = self.applied([np.broadcast_to(pull, shape) for pull in log_slopes])
        return [div + pull for div, pull in zip(self.divergence, moved)]

    def _at_walls(self, density: Array, volumes: Array, modes: Modes,
                  factors: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        """Return the integrals of n . A grad phi times a density over all walls, and how unsure they are."""
        total, doubt = np.zeros((2, len(modes.waves)))
        for axis, row in enumerate(self.walls):
            for side, sign in ((0, -1.0), (-1, 1.0)):
                mixed = [b for b in range(self.grid.ndim) if b != axis and row[side][b].any()]
                if self.grid.periodic[axis] or not mixed:
                    continue
                lines = np.moveaxis(density, axis, 0)
                near = [np.expand_dims(lines[k if side == 0 else -1 - k], axis) for k in range(3)]
                area = np.take(volumes, [self.grid.shape[axis] // 2], axis) / self.grid.widths[axis][0]
                weights = (15 / 8, -10 / 8, 3 / 8) if self.nodal else (11 / 6, -7 / 6, 2 / 6)
                wall = sum((w * one for w, one in zip(weights, near)), np.zeros(near[0].shape)) * area
                other = (1.5 * near[0] - 0.5 * near[1]) * area
                at_wall = modes.factors(axis, self.grid.edges[axis][[side]])[0]
                for b in mixed:
                    shapes = [at_wall if k == axis else factors[k][k == b] for k in range(self.grid.ndim)]
                    part = sign * contract(wall * row[side][b], shapes)
                    total += part
                    doubt += np.abs(part - sign * contract(other * row[side][b], shapes))
        return total, doubt

    def _at_faces(self, axis: int) -> Array:
        grid = self.grid
        axes = [grid.edges[axis] if k == axis else c for k, c in enumerate(grid.centers)]
        mesh = np.meshgrid(*axes, indexing="ij")
        found = self.mobility.at(np.array([x.ravel() for x in mesh]))
        return found.reshape(grid.ndim, grid.ndim, *mesh[0].shape)


def _slopes(faces: Array, edges: Array, nodal: bool) -> tuple[Array, Array]:
    """Return slopes along the first axis from values at the faces, averages over cells or at centers, and their doubt.

    Where A jumps the derivative is no function, and all of it is in doubt.
    """
    x = edges.reshape(-1, *[1] * (faces.ndim - 1))
    narrow = np.diff(faces, axis=0) / np.diff(x, axis=0)
    wide = narrow.copy()
    wide[1:-1] = (faces[3:] - faces[:-3]) / (x[3:] - x[:-3])
    gap = (narrow - wide) / 8.0
    steep = np.maximum(np.abs(narrow), np.abs(wide))
    size = np.abs(faces[1:]) + np.abs(faces[:-1])
    jump = (np.abs(narrow - wide) > JUMP * steep) & (steep * np.diff(x, axis=0) > 0.05 * size)
    return narrow + gap if nodal else narrow, np.where(jump, steep, gap)
