r"""A mobility with mixed terms as a sum of mobilities along directions of the grid.

On even cells of widths h the matrix :math:`\tilde A_{ab} = A_{ab} / (h_a h_b)` acts on differences from cell to cell.
Selling's formula (1874) writes any positive definite matrix in 2 and 3 dimensions as

.. math:: \tilde A = \sum_{i<j} \lambda_{ij}\, e_{ij} e_{ij}^T, \qquad \lambda_{ij} = -b_i^T \tilde A\, b_j \ge 0,

with vectors of integers e that belong to an obtuse superbase :math:`b_0 + \dots + b_d = 0`, which a few flips find. So

.. math:: \nabla\cdot(\rho A \nabla\mu) = \sum_e \partial_e (\lambda_e\,\rho\,\partial_e \mu), \qquad
          \int \rho\,\nabla\mu\cdot A\nabla\mu = \sum_e \int \lambda_e\,\rho\,(\partial_e \mu)^2 :

flows along chains of cells x, x + e, x + 2e, ..., each with a scalar mobility that is not negative. (Fehrenbach and
Mirebeau, J. Math. Imaging Vision 49, 2014, use the formula for anisotropic diffusion.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.compiled.chains import chain_dissipation
from wgflow.compiled.compact import EMPTY, chain_rate_of_energy
from wgflow.energies.nodes import NodeGrid
from wgflow.energies.on_grid import TINY
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

__all__ = ["Direction", "directions_of", "oblique_dissipation", "quadrature_weights", "smooth_everywhere"]

Array = NDArray[np.float64]
#: Longest step of a chain, in cells along one axis: wider stencils see nothing of what lies between.
REACH = 8
#: Flips after which a superbase is obtuse for every matrix whose stencil is not far too wide.
MOST_FLIPS = 60
#: A direction serves everywhere if its least mobility is more than this part of the largest,
LEAST_PART = 1e-3
#: and is smooth if fourth differences of its logarithm add up to at most this multiple of second ones.
SMOOTH = 1.0
#: Products that count as not positive, and parts that are left out, relative to the trace.
ROUNDING = 1e-13


class Direction(NamedTuple):
    """The chains of cells along one direction, one after the other.

    Attributes
    ----------
    step : tuple of int
        e, in cells.
    order : array of int, shape (n_cells,)
        The cells of all chains, flat in C order.
    starts : array of int, shape (n_chains + 1,)
        Where each chain starts in ``order``.
    closed : bool
        Whether the chains run round a periodic grid.
    faces : array, shape (n_cells,)
        The mobility between a cell of ``order`` and the next one of its chain.
    part : array, shape (n_cells,)
        The mobility at the centers, flat in C order.
    """

    step: tuple[int, ...]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    closed: bool
    faces: Array
    part: Array


def directions_of(matrix: Array, grid: Grid) -> list[Direction]:
    """Return the directions of a mobility (d, d, *grid.shape), whose sum it is.

    Raises
    ------
    InvalidInput
        If the cells are not even, there are not 2 or 3 axes, or A is so anisotropic and oblique to the grid that steps
        of more than 8 cells would be needed.
    """
    d = grid.ndim
    if d not in (2, 3):
        raise InvalidInput(f"mobility: a full matrix on {d} axes; on a grid there must be 2 or 3 (Lagrangian() serves "
                           "any number), or give the diagonal alone")
    if not all(grid.uniform):
        raise InvalidInput("mobility: a full matrix needs even cells; the widths of this grid differ")
    h = np.array([float(w[0]) for w in grid.widths])
    scaled = np.moveaxis(matrix.reshape(d, d, -1), -1, 0) / np.outer(h, h)
    steps, parts = _selling(scaled, grid, h)
    trace = np.trace(scaled, axis1=1, axis2=2)
    found: dict[tuple[int, ...], Array] = {}
    for k in range(parts.shape[1]):
        part = np.where(parts[:, k] > ROUNDING * trace, parts[:, k], 0.0)
        seen = part > 0
        for step in np.unique(steps[seen, k], axis=0) if seen.any() else ():
            own = found.setdefault(tuple(int(s) for s in step), np.zeros(grid.size))
            here = seen & (steps[:, k] == step).all(axis=1)
            own[here] += part[here]
    return [_chains(step, part, grid) for step, part in sorted(found.items())]


def oblique_dissipation(masses: Array, psi: Array, grid: Grid, diffusion: float, directions: list[Direction]) -> float:
    r"""Return :math:`\sum` flux times fall of :math:`\mu = \Psi + D\log\rho` over the edges of all chains: -dF/dt."""
    m, u = np.array(masses, dtype=float).ravel(), np.array(psi, dtype=float).ravel()
    mu = diffusion * np.log(np.maximum(m, TINY)) + u
    if isinstance(grid, NodeGrid):
        weights = quadrature_weights(grid)
        mu -= diffusion * np.log(weights)
        least = EMPTY * float(m.sum())
        return float(sum(chain_rate_of_energy(m, u - diffusion * np.log(one.part), one.part, weights, mu, diffusion,
                                              one.order, one.starts, one.closed, least) for one in directions))
    return float(sum(chain_dissipation(m, u, mu, diffusion, one.order, one.starts, one.closed, one.faces)
                     for one in directions))


def quadrature_weights(grid: NodeGrid) -> Array:
    """Return the weights of the centers of cells, flat: 1 but for the three cells next to each wall."""
    return (grid.volumes / np.prod([float(h[0]) for h in grid.widths])).ravel()


def smooth_everywhere(directions: list[Direction], grid: Grid) -> bool:
    """Return whether all directions serve everywhere, with mobilities that are smooth on the scale of the cells."""
    for one in directions:
        least, largest = float(one.part.min()), float(one.part.max())
        if not least > LEAST_PART * largest:
            return False
        logs = np.log(one.part).reshape(grid.shape)
        for axis in range(grid.ndim):
            second = np.diff(logs, 2, axis=axis)
            if not np.abs(np.diff(second, 2, axis=axis)).sum() <= SMOOTH * np.abs(second).sum() + 1e-6:
                return False
    return True


def _selling(A: Array, grid: Grid, h: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the steps (n, k, d) and the parts (n, k) of n matrices (n, d, d), k = d (d + 1) / 2."""
    n, d = A.shape[:2]
    base = np.concatenate([np.eye(d, dtype=np.int64), -np.ones((1, d), dtype=np.int64)])
    b = np.broadcast_to(base, (n, d + 1, d)).copy()
    pairs = [(i, j) for j in range(d + 1) for i in range(j)]
    slack = ROUNDING * np.trace(A, axis1=1, axis2=2)
    for _ in range(MOST_FLIPS):
        products = np.array([np.einsum("na,nab,nb->n", b[:, i], A, b[:, j]) for i, j in pairs])
        worst = products.argmax(axis=0)
        acute = products[worst, np.arange(n)] > slack
        if not acute.any():
            break
        for k, (i, j) in enumerate(pairs):
            rows = np.flatnonzero(acute & (worst == k))
            if rows.size == 0:
                continue
            others = [m for m in range(d + 1) if m not in (i, j)]
            first = b[rows, i]
            if d == 2:
                b[rows, others[0]] = first - b[rows, j]
            else:
                for other in others:
                    b[rows, other] += first
            b[rows, i] = -first
    steps = np.empty((n, len(pairs), d), dtype=np.int64)
    for k, (i, j) in enumerate(pairs):
        others = [m for m in range(d + 1) if m not in (i, j)]
        if d == 2:
            across = b[:, others[0]]
            step = np.stack([-across[:, 1], across[:, 0]], axis=1)
        else:
            step = np.cross(b[:, others[0]], b[:, others[1]])
        # e and -e are one direction: the first entry that is not 0 is positive.
        sign = np.sign(step[np.arange(n), (step != 0).argmax(axis=1)])
        steps[:, k] = step * sign[:, None]
    reach = np.abs(steps).max(axis=2)
    reach = np.where(slack[:, None] < -products.T, reach, 0).max(axis=1)
    if acute.any() or reach.max() > REACH:
        where = int(np.argmax(np.where(acute, reach + REACH, reach)))
        place = ", ".join(f"{c[i]:g}" for c, i in zip(grid.centers, np.unravel_index(where, grid.shape)))
        ratio = np.linalg.cond(A[where] * np.outer(h, h))
        raise InvalidInput(f"mobility: at ({place}) A is anisotropic by a factor {ratio:.3g} in directions oblique to "
                           f"the grid, so that fluxes between cells {int(reach[where])} apart would be needed (at most "
                           f"{REACH}); turn the coordinates to its axes, change the widths of the cells, or take "
                           "Lagrangian()")
    return steps, -products.T


def _chains(step: tuple[int, ...], part: Array, grid: Grid) -> Direction:
    """Return the chains along a step, with the mean of the mobility of neighbors between them."""
    from scipy.sparse import csgraph, csr_array

    index = np.array(np.unravel_index(np.arange(grid.size), grid.shape))
    inside = np.ones(grid.size, dtype=bool)
    for axis, s in enumerate(step):
        moved = index[axis] + s
        if grid.periodic[axis]:
            moved %= grid.shape[axis]
        else:
            inside &= (moved >= 0) & (moved < grid.shape[axis])
            moved = np.clip(moved, 0, grid.shape[axis] - 1)
        index[axis] = moved
    following = np.ravel_multi_index(tuple(index), grid.shape)
    closed = bool(inside.all())
    if closed:
        links = csr_array((np.ones(grid.size), (np.arange(grid.size), following)), shape=(grid.size,) * 2)
        labels = csgraph.connected_components(links, directed=False)[1]
        heads = np.unique(labels, return_index=True)[1]
    else:
        has_predecessor = np.zeros(grid.size, dtype=bool)
        has_predecessor[following[inside]] = True
        heads = np.flatnonzero(~has_predecessor)
    rows, owners, here, owner = [heads], [np.arange(heads.size)], heads, np.arange(heads.size)
    while True:
        goes_on = inside[here] if not closed else following[here] != heads[owner]
        here, owner = following[here[goes_on]], owner[goes_on]
        if here.size == 0:
            break
        rows.append(here)
        owners.append(owner)
    cells, owner = np.concatenate(rows), np.concatenate(owners)
    sort = np.argsort(owner, kind="stable")
    order = cells[sort].astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner))]).astype(np.int64)
    faces = np.where(inside[order], 0.5 * (part[order] + part[following[order]]), 0.0)
    return Direction(step, order, starts, closed, faces, part)
