"""Parts of the entropic step: Anderson mixing, the mass of a blur, Fisher information, distances of marginals."""

from __future__ import annotations

import numpy as np

from wgflow.compiled.log_convolution import LogConvolution
from wgflow.grids import Grid

__all__ = ["Mixer", "blur_scale", "fisher_information", "marginal_distance", "surrounding"]

#: Differences that Anderson mixing keeps.
DEPTH = 5
#: Singular values below this part of the largest are noise.
CUT_OFF = 1e-8


class Mixer:
    """Anderson mixing of the masses at which nonlocal terms are linearized; mixed masses may be negative in places."""

    def __init__(self):
        self.inputs: list[np.ndarray] = []
        self.outputs: list[np.ndarray] = []

    def mix(self, given: np.ndarray, got: np.ndarray) -> np.ndarray:
        """Return the next masses, from those given to the iteration and those it returned."""
        self.inputs.append(given.ravel())
        self.outputs.append(got.ravel())
        del self.inputs[:-DEPTH - 1], self.outputs[:-DEPTH - 1]
        if len(self.inputs) == 1:
            return got
        errors = [y - x for x, y in zip(self.inputs, self.outputs)]
        steps = np.stack([errors[-1] - e for e in errors[:-1]], axis=1)
        shares = np.linalg.lstsq(steps, errors[-1], rcond=CUT_OFF)[0]
        mixed = self.outputs[-1] - sum(s * (self.outputs[-1] - y) for s, y in zip(shares, self.outputs[:-1]))
        return mixed.reshape(given.shape)


def blur_scale(convolution: LogConvolution) -> float:
    """Return the logarithm of the sum of the kernel over the cells of an unbounded grid, by which a blur is divided."""
    total = 0.0
    for _, _, ratio, _, _ in convolution.axes:
        reach = int(np.ceil(np.sqrt(100.0 / ratio))) + 1
        total += float(np.log(np.exp(-0.5 * ratio * np.arange(-reach, reach + 1.0) ** 2).sum()))
    return total


def surrounding(convolution: LogConvolution, logs: np.ndarray) -> np.ndarray:
    """Return the logarithm of the masses of a law, blurred: what is around a cell."""
    return convolution(logs).values - blur_scale(convolution)


def fisher_information(grid: Grid, values: np.ndarray) -> float:
    r"""Return :math:`\int |\nabla \rho|^2 / \rho = 4 \int |\nabla \sqrt\rho|^2`, by differences between cells."""
    root, total = np.sqrt(values), 0.0
    for axis in range(grid.ndim):
        h = float(grid.widths[axis][0])
        jumps = np.diff(root, axis=axis, append=np.take(root, [0], axis=axis)) if grid.periodic[axis] else np.diff(
            root, axis=axis)
        total += float((jumps**2).sum()) / h**2
    return 4.0 * total * float(np.prod([h[0] for h in grid.widths]))


def marginal_distance(grid: Grid, first: np.ndarray, second: np.ndarray) -> float:
    """Return the root of the sum over axes of W2^2 between the marginals of two laws, cell masses of one total."""
    total = 0.0
    for axis in range(grid.ndim):
        others = tuple(k for k in range(grid.ndim) if k != axis)
        total += _squared_distance(grid.edges[axis], first.sum(axis=others), second.sum(axis=others))
    return float(np.sqrt(total / float(second.sum())))


def _squared_distance(edges: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Return W2^2 of two laws with constant density in each cell: quantiles are linear between the levels of both."""
    levels = [np.concatenate(([0.0], np.cumsum(m))) / m.sum() for m in (first, second)]
    cuts = np.union1d(*levels)
    lengths = np.diff(cuts)
    middles = 0.5 * (cuts[1:] + cuts[:-1])
    total = 0.0
    for node in (-0.5 / np.sqrt(3.0), 0.5 / np.sqrt(3.0)):
        q = middles + node * lengths
        gap = _quantiles(q, levels[0], edges) - _quantiles(q, levels[1], edges)
        total += 0.5 * float((lengths * gap * gap).sum())
    return total * float(second.sum())


def _quantiles(q: np.ndarray, levels: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return quantiles between levels; `numpy.interp` would divide by widths that are rounding errors."""
    k = np.clip(np.searchsorted(levels, q, side="right") - 1, 0, levels.size - 2)
    width = np.maximum(levels[k + 1] - levels[k], np.finfo(float).tiny)
    return edges[k] + np.clip((q - levels[k]) / width, 0.0, 1.0) * (edges[k + 1] - edges[k])
