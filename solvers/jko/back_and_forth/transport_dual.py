r"""The transport part of the dual of a JKO step, and the points by which it represents a density on a grid.

Masses :math:`\mu` on a grid become a measure from which they can be recovered exactly: a smooth part, constant on
``points`` intervals a cell and axis, whose deposits are those of quadratic splines, and a rest at the nodes, where the
density is too rough for the smooth part (fronts, jumps). With the deposit M of resting intervals and that of nodes, the
identity, :math:`M a + b = \mu`, :math:`a, b \ge 0`. Mass that rests deposits :math:`\mu` to the last bit, so that a
step of length 0 is the identity, and mass that moves by a part of a cell moves the density by that part of a cell. Mass
at y moves to the x at which

.. math:: F(y) = \max_x \; I\varphi(x) - \frac{|x - y|^2}{2\tau}

is attained, one axis after the other: first the spline :math:`I\varphi` of the last axis, averaged over the intervals,
then that of the result along the axis before it. F is convex in :math:`\varphi`, and its derivative is the deposit:
non-negative, of the same mass. So :math:`-\sum m F(\varphi)` is the dual of a transport cost that is exact on the grid
(discretization leaves no duality gap), and every :math:`\varphi` gives a feasible density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np

from wgflow.checks import check_memory
from wgflow.compiled import c_transform as kernels

__all__ = ["Moved", "TransportDual", "neighbors", "smear", "split"]

#: Sweeps that sharpen the smooth part; the mass that they leave over goes to the nodes.
SHARPENING = 8
#: Points of a stage from which on its rows are shared among threads.
THREADED_POINTS = 1 << 16
#: Bytes that a stage keeps for each of its points.
BYTES_A_POINT = 100.0


def neighbors(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of lower and upper neighbors along an axis, mirrored at the walls."""
    lower = np.concatenate([array.take([0], axis), array.take(range(array.shape[axis] - 1), axis)], axis)
    upper = np.concatenate([array.take(range(1, array.shape[axis]), axis), array.take([-1], axis)], axis)
    return lower, upper


def smear(masses: np.ndarray) -> np.ndarray:
    """Return the deposit of resting intervals: the operator M, on each axis (1/6, 2/3, 1/6)."""
    for axis in range(masses.ndim):
        lower, upper = neighbors(masses, axis)
        masses = (4.0 * masses + (lower + upper)) / 6.0
    return masses


def split(masses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smooth part a and the rest b of masses, both >= 0, with M a + b the masses."""
    a = masses.copy()
    for _ in range(SHARPENING):
        a = np.maximum(a + masses - smear(a), 0.0)
    smeared = smear(a)
    room = np.divide(masses, smeared, out=np.ones_like(masses), where=smeared > masses)
    for axis in range(masses.ndim):
        room = np.minimum(room, np.minimum(*neighbors(room, axis)))
    a *= room
    return a, np.maximum(masses - smear(a), 0.0)


class _Stage:
    """The transform along one axis of one kind of points, for many rows; it keeps the maximizers of its last call.

    ``occupied`` marks the points of each row that carry mass.
    """

    active: np.ndarray | tuple[np.ndarray, np.ndarray]

    def __init__(self, rows: int, n: int, points: int, t: float, occupied: np.ndarray, pool: Executor | None):
        columns = n * max(points, 1)
        self.t, self.points = t, points
        self.pooling = np.zeros(rows, bool), np.zeros((rows, n), np.int32), np.zeros((rows, n), np.int32)
        self.kept: tuple[np.ndarray, ...]
        self.active = occupied
        if points:
            shape, some = (rows, columns + n), occupied.any(axis=1)
            self.kept = (np.zeros(rows, np.int32), *(np.zeros(shape, np.int32) for _ in range(2)),
                         *(np.zeros(shape) for _ in range(3)))
            first, end = occupied.argmax(axis=1), columns - occupied[:, ::-1].argmax(axis=1)
            self.active = np.where(some, first, 0), np.where(some, end, 0)
        else:
            self.kept = np.zeros((rows, n), np.int32), np.zeros((rows, n)), np.zeros((rows, n))
        self.values, self.still = np.zeros((rows, columns)), np.zeros((rows, columns))
        self.totals, self.out = np.zeros(rows), np.zeros((rows, n))
        self.pool = pool if rows * columns >= THREADED_POINTS and rows > 1 else None
        middle = rows // 2
        self.blocks = [(0, middle), (middle, rows)] if self.pool else [(0, rows)]
        self.scratch = [(np.empty(n + 2), np.empty(n), np.zeros(columns), np.empty(n + 2)) for _ in self.blocks]

    def _share(self, kernel: Callable[..., None], *arguments) -> None:
        """Run a kernel on blocks of rows, the first one here and the others in other threads."""
        fixed = self.active, self.kept, self.pooling
        jobs = [self.pool.submit(kernel, rows, *fixed, scratch, *arguments)
                for rows, scratch in list(zip(self.blocks, self.scratch))[1:]] if self.pool else []
        kernel(self.blocks[0], *fixed, self.scratch[0], *arguments)
        for job in jobs:
            job.result()

    def transform(self, f: np.ndarray) -> np.ndarray:
        """Return F of the rows of f."""
        self._share(kernels.smooth_transform if self.points else kernels.node_transform, f, self.t, self.points,
                    self.values)
        return self.values

    def evaluate(self, f: np.ndarray, mass: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the sum of mass times F, and the deposit of the mass."""
        self._share(kernels.smooth_evaluate if self.points else kernels.node_evaluate, f, mass, self.t, self.points,
                    self.totals, self.out)
        return float(self.totals.sum()), self.out

    def deposit(self, mass: np.ndarray) -> np.ndarray:
        """Return the deposit of masses at the points of the rows."""
        self.mass = mass
        self._share(kernels.smooth_deposit if self.points else kernels.node_deposit, mass, self.out)
        return self.out

    def tangent(self, v: np.ndarray) -> np.ndarray:
        """Return the derivative of F along v, which is kept."""
        self.v = v
        self._share(kernels.smooth_tangent if self.points else kernels.node_tangent, v,
                    *(() if self.points else (self.t,)), self.values)
        return self.values

    def deposit_tangent(self, change: np.ndarray) -> np.ndarray:
        """Return the derivative of the deposit along a change of the masses and the v of `tangent`."""
        return self.curvature(self.v, self.mass, change)

    def curvature(self, v: np.ndarray, mass: np.ndarray, change: np.ndarray | None = None) -> np.ndarray:
        """Return the derivative of the deposit of masses along v and a change of the masses."""
        self._share(kernels.smooth_deposit_tangent if self.points else kernels.node_deposit_tangent, v, self.t,
                    self.points, mass, self.still if change is None else change, self.out)
        return self.out

    def stretch(self, masses: np.ndarray) -> float:
        """Return the largest number of cells over which an interval with mass is spread, counted by its segments."""
        count, _, owner = self.kept[:3]
        heavy, most = masses > 1e-6 * masses.max(), 0
        for r in range(count.size):
            if count[r]:
                parts = np.bincount(owner[r, :count[r]], minlength=heavy.shape[1])
                most = max(most, int(parts[heavy[r]].max(initial=0)))
        return float(most)


class _Points:
    """Points of one kind with their masses, and the stages of their transform: the last axis first."""

    def __init__(self, masses: np.ndarray, widths: Sequence[float], tau: float, points: int, pool: Executor | None):
        shape, many = masses.shape, max(points, 1)
        for axis in range(masses.ndim):
            if points:
                masses = np.repeat(masses, points, axis) / points
        # Each stage brings its axis to the end, so that the points come out in reversed order of the axes.
        self.masses = np.ascontiguousarray(masses.T)
        self.rows = self.masses.reshape(-1, self.masses.shape[-1])
        self.stages: list[_Stage] = []
        occupied = np.asarray(self.masses > 0.0)
        for axis in range(masses.ndim):
            # The stage of an axis: rows are nodes of the axes before it and points of those after it.
            before, after = math.prod(shape[:axis]), math.prod(many * n for n in shape[axis + 1:])
            rows, t = np.tile(occupied.reshape(after, -1), (before, 1)), tau / widths[axis]**2
            self.stages.append(_Stage(before * after, shape[axis], points, t, rows, pool))
            occupied = np.asarray(occupied.any(axis=-1))
        self.stages.reverse()
        shapes = [(math.prod(shape[:axis - 1]), shape[axis - 1], math.prod(many * n for n in shape[axis:]))
                  for axis in range(masses.ndim - 1, 0, -1)]
        self.forth = [np.zeros((b, q, n)) for b, n, q in shapes]
        # Deposits are kept, since derivatives need them; changes of deposits are not.
        self.back, self.changes = ([np.zeros((b, n, q)) for b, n, q in shapes] for _ in range(2))

    def _forward(self, array: np.ndarray, what: str) -> np.ndarray:
        """Apply all stages but the last; return the rows for the last."""
        array = np.ascontiguousarray(array).reshape(-1, array.shape[-1])
        for stage, turned in zip(self.stages, self.forth):
            b, q, n = turned.shape
            kernels.turn(getattr(stage, what)(array).reshape(b, n, q), turned)
            array = turned.reshape(b * q, n)
        return array

    def _backward(self, array: np.ndarray, what: str, buffers: list[np.ndarray]) -> np.ndarray:
        """Apply the adjoints of the stages before the last to rows of the last."""
        for stage, turned in zip(reversed(self.stages[:-1]), reversed(buffers)):
            b, n, q = turned.shape
            kernels.turn(array.reshape(b, q, n), turned)
            array = getattr(stage, what)(turned.reshape(-1, stage.values.shape[1]))
        return array

    def evaluate(self, phi: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the sum of mass times F, and the deposit."""
        total, rows = self.stages[-1].evaluate(self._forward(phi, "transform"), self.rows)
        return total, self._backward(rows, "deposit", self.back).reshape(phi.shape).copy()

    def curvature(self, v: np.ndarray) -> np.ndarray:
        """Return the derivative of the deposit along v; the next call overwrites it."""
        rows = self.stages[-1].curvature(self._forward(v, "tangent"), self.rows)
        return self._backward(rows, "deposit_tangent", self.changes).reshape(v.shape)


class Moved:
    """Where the masses of nodes without an image were moved along the last axis; see `TransportDual.settle`.

    Parameters
    ----------
    left, right : arrays of int
        The ends of the blocks of the nodes that were moved; of the others, the nodes themselves.
    share : array
        The share that goes to the left.
    """

    def __init__(self, left: np.ndarray, right: np.ndarray, share: np.ndarray):
        self.left, self.right, self.share = left, right, share
        self.at = left != np.arange(left.shape[-1])
        self.at |= right != np.arange(left.shape[-1])

    def follow(self, v: np.ndarray) -> np.ndarray:
        """Return v with the values at the nodes that were moved interpolated between the ends of their blocks."""
        lower, upper = (np.take_along_axis(v, k, -1) for k in (self.left, self.right))
        return np.where(self.at, self.share * lower + (1.0 - self.share) * upper, v)

    def gather(self, masses: np.ndarray) -> np.ndarray:
        """Return masses with those at the nodes that were moved at the ends of their blocks: the adjoint of `follow`.
        """
        out = np.where(self.at, 0.0, masses)
        rows = out.reshape(-1, out.shape[-1])
        which = np.nonzero(self.at.reshape(rows.shape))
        excess, share = masses.reshape(rows.shape)[which], self.share.reshape(rows.shape)[which]
        for ends, part in ((self.left, share), (self.right, 1.0 - share)):
            np.add.at(rows, (which[0], ends.reshape(rows.shape)[which]), part * excess)
        return out


class TransportDual:
    r"""The convex function :math:`\varphi \mapsto \sum_q m_q F_q(\varphi)` of the points that represent a density.

    Parameters
    ----------
    masses : array
        Cell masses of the density, on a uniform grid without periodic axes.
    widths : sequence of float
        Cell width of each axis.
    tau : float
    points : int
        Intervals a cell and axis of the smooth part.
    pool : Executor, optional
        For large grids; the result has the same bits with and without.
    smearings : int
        0 keeps the rough rest exact at the nodes. With n > 0 the rest is smeared over its neighbors, and then the whole
        density n - 1 times.

    Attributes
    ----------
    start : array
        The cell masses that points at rest deposit: the given ones, unless the rest is smeared.
    rough : float
        Part of the mass in the rest.
    """

    def __init__(self, masses: np.ndarray, widths: Sequence[float], tau: float, *, points: int = 1,
                 pool: Executor | None = None, smearings: int = 0):
        columns = sum((points**(j + 1) + 1) * masses.size for j in range(masses.ndim))
        check_memory(BYTES_A_POINT * columns, f"back-and-forth on {masses.size} cells: {columns} points",
                     "take fewer cells, or inner='linearized'")
        a, b = split(masses)
        self.smearings = smearings
        self.scales = [tau / h**2 for h in widths]
        self.rough = float(b.sum() / masses.sum())
        if not smearings:
            self.start = masses
            self.species = [_Points(a, widths, tau, points, pool)]
            if self.rough > 0.0:
                self.species.append(_Points(b, widths, tau, 0, pool))
        else:
            masses = a + b
            for _ in range(smearings - 1):
                masses = smear(masses)
            self.start = smear(masses)
            self.species = [_Points(masses, widths, tau, points, pool)]

    def evaluate(self, phi: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value, and its derivative: the cell masses that the points deposit."""
        total, deposit = self.species[0].evaluate(phi)
        for species in self.species[1:]:
            more, rest = species.evaluate(phi)
            total, deposit = total + more, deposit + rest
        return total, deposit

    def majorant(self, phi: np.ndarray, axis: int) -> np.ndarray | None:
        """Return the least function above phi whose transform along an axis is the same; None where that is phi."""
        rows = np.ascontiguousarray(np.moveaxis(phi, axis, -1))
        n = rows.shape[-1]
        out, ends = np.empty_like(rows), (np.zeros(n, np.int32) for _ in range(2))
        if not kernels.majorize(rows.reshape(-1, n), self.scales[axis], np.empty(n + 1), *ends, out.reshape(-1, n)):
            return None
        return np.ascontiguousarray(np.moveaxis(out, -1, axis))

    def settle(self, phi: np.ndarray, wanted: np.ndarray, masses: np.ndarray) -> Moved | None:
        """Change masses to others that are derivatives as well, nearer to the wanted ones: see `kernels.settle`.

        Where a node has no image (1 - tau phi'' = 0), mass there may go to the ends of the block of such nodes: the
        function has a kink, and its derivatives are many.
        """
        higher = self.majorant(phi, phi.ndim - 1)
        phi = phi if higher is None else higher
        n = phi.shape[-1]
        shape = (-1, n)
        left, right = (np.empty(phi.shape, np.int64) for _ in range(2))
        share = np.empty(phi.shape)
        kernels.settle(phi.reshape(shape), self.scales[-1], wanted.reshape(shape), masses.reshape(shape),
                       left.reshape(shape), right.reshape(shape), share.reshape(shape))
        moved = Moved(left, right, share)
        return moved if moved.at.any() else None

    def curvature(self, v: np.ndarray) -> np.ndarray:
        """Return the second derivative at the last evaluated function, applied to v: symmetric, positive semi-definite.
        """
        out = self.species[0].curvature(v).copy()
        for species in self.species[1:]:
            out += species.curvature(v)
        return out

    def stretch(self) -> float:
        """Return the largest number of cells along an axis over which an interval with mass is spread."""
        return self.species[0].stages[-1].stretch(self.species[0].rows)
