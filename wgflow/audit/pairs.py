r"""Kernels between few nodes, for interactions and terms that change with time.

A law of many cells is replaced by masses q at the nodes of a coarse tensor grid, :math:`q_a = \sum_i m_i L_a(x_i)` with
the piecewise cubic Lagrange polynomials L of the nodes. For a smooth f this is a quadrature of fourth order in the
distance H of the nodes: :math:`\sum_i m_i f(x_i) = \sum_a q_a f(x_a) + O(H^4)`, whatever the law. An interaction
contributes

.. math:: -\iint \rho(x)\,\rho(y)\,\nabla\varphi(x) \cdot \nabla_x U(x, y)
          = -\tfrac12 \iint \rho\,\rho\,[\nabla\varphi(x) - \nabla\varphi(y)] \cdot \nabla w(x - y)

(the second form for :math:`U = w(x - y)`), which is bounded even for the logarithm, and is summed over pairs of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from wgflow.audit.mobile import MobileField
from wgflow.audit.modes import Modes
from wgflow.compiled.lowrank import rows_dot
from wgflow.energies.free_energy import Term
from wgflow.energies.moment_energy import MomentEnergy
from wgflow.errors import InvalidInput
from wgflow.gradients import values_at
from wgflow.grids import Grid
from wgflow.interactions.named_kernels import Kernel
from wgflow.interactions.terms import Convolution, Dense, Interaction, LowRank, PairTerm

__all__ = ["Nodes", "PairForce", "gradients", "is_pair", "pair_force", "potential_gradients"]

Array = NDArray[np.float64]
#: Nodes along each axis, by the number of axes.
COUNTS = {1: 64, 2: 20, 3: 8, 4: 5}
#: The same where there are no pairs: for interactions of low rank, and potentials that change with time.
LINEAR_COUNTS = {1: 2048, 2: 48, 3: 16, 4: 8}
#: Step of central differences, relative to 1 or to the box where that is smaller.
STEP = 1e-4
#: Points along each axis of a cell of nodes, over which a kernel that is not smooth at 0 is averaged there.
NEAR = 8


class Nodes:
    """The nodes of a grid, and the map from the masses of its cells to theirs.

    Parameters
    ----------
    grid : Grid
    count : int
        Nodes along each axis, where there are more cells than that.
    modes : Modes
        Test functions.
    """

    def __init__(self, grid: Grid, count: int, modes: Modes):
        self.grid, self.modes = grid, modes
        self.axes: list[Array] = []
        self.maps: list[Any] = []
        for axis, (lo, hi) in enumerate(grid.bounds):
            if grid.shape[axis] <= count + count // 2:
                self.axes.append(grid.centers[axis])
                self.maps.append(None)
                continue
            turns = grid.periodic[axis]
            nodes = lo + (hi - lo) * (np.arange(count) / count if turns else np.linspace(0.0, 1.0, count))
            self.axes.append(nodes)
            weights = _cubic(nodes, grid.centers[axis], (hi - lo) if turns else 0.0)
            self.maps.append(weights if grid.ndim == 1 else _matrix(weights, count))
        self.points = np.array([x.ravel() for x in np.meshgrid(*self.axes, indexing="ij")])
        self.gaps = [float(np.diff(x).mean()) for x in self.axes]

    def masses(self, masses: Array) -> Array:
        """Return the masses at the nodes, one after the other."""
        if masses.ndim == 1 and self.maps[0] is not None:
            # Not by the matrix: the cells of a single axis may be many.
            return np.sum([np.bincount(row, weight * masses, len(self.axes[0])) for row, weight in self.maps[0]],
                          axis=0)
        for axis, weights in enumerate(self.maps):
            if weights is not None:
                masses = np.moveaxis(np.tensordot(weights, masses, axes=(1, axis)), 0, axis)
        return np.array(masses).ravel()

    @cached_property
    def slopes(self) -> Array:
        """The gradients of the test functions at the nodes, shape (K, n_axes, n_nodes)."""
        parts = [self.modes.factors(axis, x) for axis, x in enumerate(self.points)]
        out = np.empty((len(self.modes.waves), *self.points.shape))
        for axis in range(len(parts)):
            out[:, axis] = parts[axis][1]
            for other in range(len(parts)):
                if other != axis:
                    out[:, axis] *= parts[other][0]
        return out


def gradients(function: Callable[[Array], Array], points: Array, bounds) -> Array:
    """Return central differences of a function at points (n_axes, n), the axis in front; one-sided at bounds."""
    out = []
    for axis, (lo, hi) in enumerate(bounds):
        step = STEP * min(1.0, hi - lo)
        ahead, behind = points.copy(), points.copy()
        ahead[axis] = np.minimum(points[axis] + step, hi)
        behind[axis] = np.maximum(points[axis] - step, lo)
        out.append((function(ahead) - function(behind)) / (ahead[axis] - behind[axis]))
    return np.array(out)


def potential_gradients(V: Callable[..., Any], points: Array, bounds) -> Array:
    """Return `gradients` of a potential, which is called once for each axis, with both points of each difference."""
    n, out = points.shape[1], np.empty(points.shape)
    for axis, (lo, hi) in enumerate(bounds):
        step = STEP * min(1.0, hi - lo)
        both = np.concatenate([points, points], axis=1)
        ahead, behind = both[axis, :n], both[axis, n:]
        np.minimum(points[axis] + step, hi, out=ahead)
        np.maximum(points[axis] - step, lo, out=behind)
        values = values_at(V, both, "V")
        out[axis] = (values[:n] - values[n:]) / (ahead - behind)
    return out


def _cubic(nodes: Array, x: Array, period: float) -> list[tuple[NDArray[np.int64], Array]]:
    """Return the cubic Lagrange polynomials of even nodes at points: four nodes for each, and their weights."""
    count, gap = nodes.size, nodes[1] - nodes[0]
    place = (x - nodes[0]) / gap
    first = np.floor(place).astype(int) - 1
    if not period:
        first = np.clip(first, 0, count - 4)
    s, found = place - first, []
    for j in range(4):
        weight = np.ones(x.size)
        for k in range(4):
            if k != j:
                weight *= (s - k) / (j - k)
        found.append(((first + j) % count, weight))
    return found


def _matrix(weights: list[tuple[NDArray[np.int64], Array]], count: int) -> Array:
    """Return such polynomials as a matrix (n_nodes, n)."""
    size = weights[0][1].size
    out, columns = np.zeros((count, size)), np.arange(size)
    for row, weight in weights:
        np.add.at(out, (row, columns), weight)
    return out


class PairForce:
    r"""The part of an interaction in the rates of test functions, from the masses q at nodes.

    With G the gradients of U in its first point between nodes it is
    :math:`-\sum_a q_a\,\nabla\varphi(x_a) \cdot \sum_b G_{ab} q_b`; on the diagonal, for a kernel that is not
    smooth at 0, the average over a cell of nodes of the symmetric form stands for it.

    Parameters
    ----------
    nodes : Nodes
    left, right : arrays of shape (n_axes * n_nodes, j) and (j, n_nodes), or (n_axes * n_nodes, n_nodes) and None
        G, or its two factors.
    diagonal : array of shape (K, n_nodes), optional
    """

    def __init__(self, nodes: Nodes, left: Array, right: Array | None = None, diagonal: Array | None = None):
        self.nodes, self.left, self.right, self.diagonal = nodes, np.ascontiguousarray(left), right, diagonal

    def rates(self, q: Array) -> Array:
        """Return the part for each test function, shape (K,)."""
        slopes = self.nodes.slopes
        force = rows_dot(self.left, q if self.right is None else rows_dot(self.right, q))
        total = rows_dot(slopes.reshape(len(slopes), -1), (force.reshape(-1, q.size) * q).ravel())
        return -total if self.diagonal is None else -total - rows_dot(self.diagonal, q * q)

    def size(self, q: Array) -> float:
        """Return the integral of the forces between all pairs without regard to their directions, of one law."""
        q = np.abs(q)
        return float((rows_dot(np.abs(self.left), q).reshape(-1, q.size) * q).sum())


class MomentForce(PairForce):
    """The part of a function of moments: right gives the moments z, left the gradients of the features at the nodes."""

    def __init__(self, nodes: Nodes, left: Array, right: Array, term: MomentEnergy):
        super().__init__(nodes, left, right)
        self.term = term

    def rates(self, q: Array) -> Array:
        """Return the part for each test function, shape (K,)."""
        slopes = self.nodes.slopes
        force = rows_dot(self.left, self.term.phi.gradient(rows_dot(cast(Array, self.right), q)))
        return -rows_dot(slopes.reshape(len(slopes), -1), (force.reshape(-1, q.size) * q).ravel())


def is_pair(term: Term) -> bool:
    """Return whether the force of a term depends on the law, through pairs of points or moments at nodes."""
    return isinstance(term, PairTerm) or (isinstance(term, MomentEnergy) and callable(term.features.function))


def form_on_points(term: PairTerm, ndim: int) -> PairTerm | None:
    """Return the form of an interaction; None where its kernel is known by its values between cells alone."""
    while isinstance(term, Interaction):
        term = term._on_points(ndim) if callable(term.U) else cast(PairTerm, term.U)
        if isinstance(term, np.ndarray):
            return None
    return term


def count_of(term: Term, ndim: int) -> int:
    """Return the number of nodes along each axis for a term that `is_pair`."""
    if not isinstance(term, PairTerm):
        return LINEAR_COUNTS[ndim]
    return (LINEAR_COUNTS if isinstance(form_on_points(term, ndim), LowRank) else COUNTS)[ndim]


def pair_force(term: Term, nodes: Nodes, moving: MobileField | None = None) -> PairForce | None:
    """Return the part of a term that `is_pair`; None where its kernel is known by its values between cells alone."""
    found = _force_of(term, nodes)
    if found is None or moving is None:
        return found
    if found.diagonal is not None:
        raise InvalidInput(f"{term!r} is singular at 0, which the audit does not know with a mobility")
    left = moving.at_nodes(nodes.points, found.left.reshape(*nodes.points.shape, -1))
    found.left = np.ascontiguousarray(left.reshape(found.left.shape))
    return found


def _force_of(term: Term, nodes: Nodes) -> PairForce | None:
    if isinstance(term, MomentEnergy):
        values = term.features.at(nodes.points)
        slopes = gradients(term.features.at, nodes.points, nodes.grid.bounds)
        return MomentForce(nodes, np.moveaxis(slopes, 1, 2).reshape(-1, len(values)), values, term)
    found = form_on_points(cast(PairTerm, term), nodes.grid.ndim)
    if found is None:
        return None
    if isinstance(found, Convolution) and callable(found.w):
        return _displaced(found, nodes)
    if isinstance(found, LowRank) and callable(found.features):
        return _ranked(found, nodes)
    if isinstance(found, Dense) and callable(found.U):
        return _dense(found, nodes)
    return None


def _displaced(term: Convolution, nodes: Nodes) -> PairForce:
    points, grid = nodes.points, nodes.grid
    gap = points[:, :, None] - points[:, None, :]
    for axis, (lo, hi) in enumerate(grid.bounds):
        if grid.periodic[axis]:
            gap[axis] -= (hi - lo) * np.round(gap[axis] / (hi - lo))
    count = points.shape[1]
    gradient_of = _kernel_gradient(term, grid)
    with np.errstate(all="ignore"):
        values = gradient_of(gap.reshape(len(gap), -1))
    values[:, ~np.isfinite(values).all(axis=0)] = 0.0
    diagonal = None
    if term.average or (isinstance(term.w, Kernel) and not term.w.smooth):
        near = np.meshgrid(*[h * ((np.arange(NEAR) + 0.5) / NEAR - 0.5) for h in nodes.gaps], indexing="ij")
        z = np.array([x.ravel() for x in near])
        virial = float((z * gradient_of(z)).sum(axis=0).mean())
        parts = [nodes.modes.factors(axis, x)[0] for axis, x in enumerate(points)]
        diagonal = -0.5 * virial / len(points) * nodes.modes.bend[:, None] * np.prod(parts, axis=0)
    return PairForce(nodes, values.reshape(len(gap) * count, count), None, diagonal)


def _kernel_gradient(term: Convolution, grid: Grid):
    periods = [hi - lo if turns else 0.0 for (lo, hi), turns in zip(grid.bounds, grid.periodic)]
    if isinstance(term.w, Kernel):
        if any(periods):
            from wgflow.interactions.periodic_kernels import periodic_kernel

            reach = [0.0 if period else 2.0 ** math.ceil(math.log2(hi - lo))
                     for period, (lo, hi) in zip(periods, grid.bounds)]
            kernel = periodic_kernel(term.w.parts, tuple(periods), tuple(reach))
            return lambda z: kernel.gradient(*z)
        return lambda z: term.w.gradient(*z)
    free = [(-math.inf, math.inf)] * grid.ndim
    return lambda z: gradients(lambda y: values_at(term.w, y, "w"), z, free)


def _ranked(term: LowRank, nodes: Nodes) -> PairForce:
    def features(x: Array) -> Array:
        return values_at(cast(Any, term.features), x, "features", (None,))

    values = features(nodes.points)
    signs = np.ones(len(values)) if term.signs is None else term.signs
    slopes = gradients(features, nodes.points, nodes.grid.bounds) * signs[:, None]
    return PairForce(nodes, np.moveaxis(slopes, 1, 2).reshape(-1, len(values)), np.ascontiguousarray(values))


def _dense(term: Dense, nodes: Nodes) -> PairForce:
    n = nodes.points.shape[1]
    first, second = np.repeat(nodes.points, n, axis=1), np.tile(nodes.points, n)

    def kernel(x: Array) -> Array:
        return values_at(cast(Any, term.U), np.concatenate([x, second]), "U")

    return PairForce(nodes, gradients(kernel, first, nodes.grid.bounds).reshape(-1, n))
