r"""The transport part of the dual of a JKO step, and the measure that a density on a grid stands for.

Masses :math:`\mu` on a grid become points that remember them exactly: a smooth part, ``points`` points a cell and axis
seen through quadratic splines, and a rest at the nodes, where the density is too rough for the smooth part (fronts,
jumps). With deposits M and the identity, :math:`M a + b = \mu`, :math:`a, b \ge 0`: points that rest give :math:`\mu`
back to the last bit, so that a step of length 0 is the identity, and points that move by a part of a cell move the
density by that part of a cell. A point sends its mass to where

.. math:: F(y) = \max_x \; I\varphi(x) - \frac{|x - y|^2}{2\tau}

is attained, axis after axis: the spline :math:`I\varphi` of the last axis first, and of what results the others. F is
convex in :math:`\varphi`, and its derivative is the deposit: non-negative, of the same mass. So
:math:`-\sum m F(\varphi)` is the dual of a transport cost that is exact on the grid (no gap is left by discretization),
and every :math:`\varphi` gives a feasible density.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wgflow.grids import check_memory
from wgflow.kernels import c_transform as kernels

__all__ = ["TransportDual", "neighbors", "smear", "split"]

#: Sweeps that sharpen the smooth part; what they leave goes to the nodes.
SHARPENING = 8
#: Points of a stage from which on its rows are shared among threads.
THREADED_POINTS = 1 << 16
#: Bytes that a stage keeps for each of its points.
BYTES_A_POINT = 48.0


def neighbors(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The arrays of lower and upper neighbors along an axis, mirrored at the walls."""
    lower = np.concatenate([array.take([0], axis), array.take(range(array.shape[axis] - 1), axis)], axis)
    upper = np.concatenate([array.take(range(1, array.shape[axis]), axis), array.take([-1], axis)], axis)
    return lower, upper


def smear(masses: np.ndarray, points: int) -> np.ndarray:
    """What resting smooth points deposit: the operator M, on each axis (s, 1 - 2 s, s) with s the mean of t^2 / 2."""
    t = (np.arange(points) + 0.5) / points
    share = float(0.5 * (t * t).mean())
    for axis in range(masses.ndim):
        lower, upper = neighbors(masses, axis)
        masses = (1.0 - 2.0 * share) * masses + share * (lower + upper)
    return masses


def split(masses: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The smooth part a and the rest b of masses, both >= 0 with M a + b the masses."""
    a = masses.copy()
    for _ in range(SHARPENING):
        a = np.maximum(a + masses - smear(a, points), 0.0)
    smeared = smear(a, points)
    room = np.divide(masses, smeared, out=np.ones_like(masses), where=smeared > masses)
    for axis in range(masses.ndim):
        room = np.minimum(room, np.minimum(*neighbors(room, axis)))
    a *= room
    return a, np.maximum(masses - smear(a, points), 0.0)


class _Stage:
    """The transform along one axis of one kind of points, for many rows; the arrays of its last call are kept."""

    def __init__(self, rows: int, n: int, points: int, t: float, pool: ThreadPoolExecutor | None):
        columns = n * max(points, 1)
        self.points, self.t = points, t
        self.values, self.place, self.other, self.moves = (np.empty((rows, columns)) for _ in range(4))
        self.back = self.moves if points else np.empty((rows, columns))
        self.cell = np.empty((rows, columns), np.int32)
        self.pooled = np.zeros(rows, bool)
        self.left, self.right = (np.zeros((rows, n), np.int32) for _ in range(2))
        self.out, self.mass = np.empty((rows, n)), self.values
        self.pool = pool if rows * columns >= THREADED_POINTS and rows > 1 else None
        middle = rows // 2
        self.blocks = [(0, middle), (middle, rows)] if self.pool else [(0, rows)]
        self.scratch = [(np.empty(n + 1), np.empty(n)) for _ in self.blocks]
        self.kept = (self.cell, self.place, self.other)
        self.pooling = (self.pooled, self.left, self.right)

    def _share(self, work) -> None:
        """Do the rows in blocks, the first one here and the others in other threads."""
        others = list(zip(self.blocks, self.scratch))[1:]
        jobs = [self.pool.submit(work, rows, scratch) for rows, scratch in others] if self.pool else []
        work(self.blocks[0], self.scratch[0])
        for job in jobs:
            job.result()

    def transform(self, f: np.ndarray) -> np.ndarray:
        """F of the rows of f."""
        def work(rows, scratch):
            if self.points:
                kernels.smooth_rows(f, self.t, self.points, *rows, self.values, *self.kept, *scratch, *self.pooling)
            else:
                kernels.node_rows(f, self.t, *rows, self.values, *self.kept, *scratch, *self.pooling)

        self._share(work)
        return self.values

    def deposit(self, mass: np.ndarray) -> np.ndarray:
        """Masses at the points of the rows, brought to the nodes."""
        self.mass = mass
        kernel = kernels.smooth_deposit if self.points else kernels.node_deposit
        kept = self.kept[:2] if self.points else self.kept
        out = np.empty_like(self.out)
        self._share(lambda rows, _: kernel(mass, *rows, *kept, *self.pooling, out))
        return out

    def tangent(self, v: np.ndarray) -> np.ndarray:
        """Derivative of F along v; how the points move is kept."""
        def work(rows, scratch):
            if self.points:
                kernels.smooth_tangent(v, self.t, *rows, *self.kept, *self.pooling, scratch[1], self.values, self.moves)
            else:
                kernels.node_tangent(v, self.t, *rows, *self.kept, *self.pooling, scratch[1], self.values, self.moves,
                                     self.back)

        self._share(work)
        return self.values

    def deposit_tangent(self, change: np.ndarray) -> np.ndarray:
        """Derivative of the deposit along changes of the masses and the moves of `tangent`."""
        if self.points:
            self._share(lambda rows, _: kernels.smooth_deposit_tangent(
                self.mass, change, self.moves, *rows, *self.kept[:2], *self.pooling, self.out))
        else:
            self._share(lambda rows, _: kernels.node_deposit_tangent(
                self.mass, change, self.moves, self.back, *rows, *self.kept, *self.pooling, self.out))
        return self.out


class _Points:
    """Points of one kind with their masses, and the stages of their transform: the last axis first."""

    def __init__(self, masses: np.ndarray, widths, tau: float, points: int, pool):
        shape, many = masses.shape, max(points, 1)
        for axis in range(masses.ndim):
            if points:
                masses = np.repeat(masses, points, axis) / points
        # Each stage brings its axis to the end, so that the points come out in reversed order of the axes.
        self.masses = np.ascontiguousarray(masses.T)
        self.still = np.zeros_like(self.masses)
        self.axes = range(len(shape) - 1, -1, -1)
        rows = [math.prod(shape[:axis]) * math.prod(many * n for n in shape[axis + 1:]) for axis in self.axes]
        self.stages = [_Stage(r, shape[axis], points, tau / widths[axis]**2, pool) for r, axis in zip(rows, self.axes)]

    def _forward(self, array: np.ndarray, what: str) -> np.ndarray:
        for axis, stage in zip(self.axes, self.stages):
            turned = np.ascontiguousarray(np.moveaxis(array, axis, -1))
            rows = getattr(stage, what)(turned.reshape(-1, turned.shape[-1]))
            array = rows.reshape(*turned.shape[:-1], -1)
        return array

    def _backward(self, array: np.ndarray, what: str) -> np.ndarray:
        for axis, stage in zip(reversed(self.axes), reversed(self.stages)):
            rows = getattr(stage, what)(array.reshape(-1, array.shape[-1]))
            array = np.ascontiguousarray(np.moveaxis(rows.reshape(*array.shape[:-1], -1), -1, axis))
        return array

    def evaluate(self, phi: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of mass times F, and the deposit."""
        total = float((self.masses * self._forward(phi, "transform")).sum())
        return total, self._backward(self.masses, "deposit")

    def curvature(self, v: np.ndarray) -> np.ndarray:
        """Derivative of the deposit along v."""
        self._forward(v, "tangent")
        return self._backward(self.still, "deposit_tangent")


class TransportDual:
    r"""The convex function :math:`\varphi \mapsto \sum_q m_q F_q(\varphi)` of the points that stand for a density.

    Parameters
    ----------
    masses : array
        Cell masses of the density, on a uniform grid without periodic axes.
    widths : sequence of float
        Cell width of each axis.
    tau : float
    points : int
        Points a cell and axis of the smooth part; 2 serve well where the step stretches by less than 2.
    pool : ThreadPoolExecutor, optional
        For large grids; the result has the same bits with and without.
    rest : bool
        Whether the rough rest stays exact at the nodes; otherwise it is smeared over its neighbors, once.

    Attributes
    ----------
    start : array
        The cell masses that points at rest deposit: the given ones, unless the rest is smeared.
    rough : float
        Part of the mass in the rest.
    """

    def __init__(self, masses: np.ndarray, widths, tau: float, *, points: int = 2, pool=None, rest: bool = True):
        columns = sum((points**(j + 1) + 1) * masses.size for j in range(masses.ndim))
        check_memory(BYTES_A_POINT * columns, f"back-and-forth on {masses.size} cells: {columns} points",
                     "take fewer cells, or inner='linearized'")
        a, b = split(masses, points)
        self.rough = float(b.sum() / masses.sum())
        if rest:
            self.start = masses
            self.species = [_Points(a, widths, tau, points, pool)]
            if self.rough > 0.0:
                self.species.append(_Points(b, widths, tau, 0, pool))
        else:
            self.start = smear(a + b, points)
            self.species = [_Points(a + b, widths, tau, points, pool)]

    def evaluate(self, phi: np.ndarray) -> tuple[float, np.ndarray]:
        """The value, and its derivative: the cell masses that the points deposit."""
        total, deposit = self.species[0].evaluate(phi)
        for species in self.species[1:]:
            more, rest = species.evaluate(phi)
            total, deposit = total + more, deposit + rest
        return total, deposit

    def curvature(self, v: np.ndarray) -> np.ndarray:
        """The second derivative at the last evaluated function, applied to v: symmetric, positive semi-definite."""
        out = self.species[0].curvature(v)
        for species in self.species[1:]:
            out = out + species.curvature(v)
        return out

    def stretch(self) -> float:
        """Largest stretch of the smooth points along one axis, where they carry mass."""
        stage, masses = self.species[0].stages[-1], self.species[0].masses
        return float(np.where(masses.reshape(stage.other.shape) > 1e-6 * masses.max(), stage.other, 0.0).max())
