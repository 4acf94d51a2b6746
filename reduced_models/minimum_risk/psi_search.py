"""Finding the local minima of Psi: a dense sample of the coordinates, then descent from every dip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from wgflow.errors import ConvergenceError, InvalidInput, InvalidType

if TYPE_CHECKING:
    from ..base import ReducedModel
    from .measure_problem import LimitPoint

__all__ = ["PsiSearch", "check_box"]

FloatArray = NDArray[np.float64]
Box = tuple[tuple[float, float], ...]

_SAMPLES = (801, 10_000, 20_000, 30_000)  # points of the sample on 1 to 4 coordinates
_TABLE = 30_000_000  # numbers in the table of features (240 MB); more features take fewer samples
_CLOSER = 2.3  # times more samples for a second look; no integer, so that other points are seen
_FAR = 1e6  # an infinite axis is sampled up to this many length scales
_NEAR = 1e2  # the same where features grow, whose rounding errors grow with them
_FAR_POINTS = 64  # of the sample beyond the even part of an infinite axis
_COMPASS_STEPS = 200  # of a search along the axes, at most
_NEWTON_STEPS = 60  # of a descent, at most
_DIFFERENCE = 1e-4  # step of the differences of gradients, in units of the sample's spacing
_LENGTHS = np.array([1.0, 0.5, 0.2, 0.05, 0.01, 1e-3])  # of a Newton step that are tried
_ROUNDING = 1e-15  # falls of Psi below this part of it end the Newton steps
_DIPS = 16  # local minima followed, deepest first


def check_box(box: object, n_coordinates: int) -> Box:
    """Return ``box`` as a (low, high) pair for each coordinate; the high end may be infinite."""
    if not isinstance(box, Sequence) or isinstance(box, str):
        raise InvalidType(f"box must hold a (low, high) pair for each coordinate, got {box!r}")
    pairs = [box] if n_coordinates == 1 and len(box) == 2 and not isinstance(box[0], Sequence) else list(box)
    if len(pairs) != n_coordinates:
        raise InvalidInput(f"box has {len(pairs)} pairs; the model has {n_coordinates} coordinates")
    result = []
    for i, pair in enumerate(pairs):
        try:
            low, high = (float(end) for end in pair)
        except (TypeError, ValueError) as error:
            raise InvalidType(f"box[{i}]={pair!r} must be two numbers (low, high)") from error
        if not (math.isfinite(low) and low < high):
            raise InvalidInput(f"box[{i}]=({low:g}, {high:g}): need a finite low end below the high end")
        result.append((low, high))
    return tuple(result)


class PsiSearch:
    r"""The local minima of :math:`\Psi = \sum_k c_k F_k` on a box, for any coefficients ``c``.

    The features are tabulated once on a sample of the box. On one coordinate each interval in which the tabulated
    slope changes from falling to rising is closed in on by bracketing; on more, the dips of the table are followed by
    descent with the features' gradients. The sample is even on the core, the model's default grid; beyond it the
    distances are :math:`\ell t/(1 - t)`, a quarter of the core long for t = 1/2, up to the end of the box or to
    :math:`10^6 \ell` (where features grow without bound, to :math:`100\,\ell`; where they cannot be evaluated, less).

    Parameters
    ----------
    model : ReducedModel
    box : tuple of (low, high)
    core : tuple of (low, high)
        Where features vary most on each coordinate, a finite box; :math:`\ell` is a quarter of its width.
    grows : bool
        Whether features grow without bound at infinity.
    samples : int
        Points of the sample on the core, about.
    """

    def __init__(self, model: ReducedModel, box: Box, core: Box, grows: bool, samples: int):
        self.model, self.box, self.core = model, box, core
        self.scales = np.array([0.25 * (high - low) for low, high in core])
        per_axis = max(3, round(samples ** (1.0 / len(box))))
        self._tabulate(per_axis, _NEAR if grows else _FAR)
        if not np.isfinite(self.features).all():
            k, i = (int(j) for j in np.argwhere(~np.isfinite(self.features))[0])
            raise InvalidInput(f"feature {k} is {self.features[k, i]} at {self.points[:, i].tolist()}; "
                               "the box of the search must lie where features are finite: give another box")

    def _tabulate(self, per_axis: int, reach: float) -> None:
        """Tabulate the features on a sample, which ends earlier where features cannot be evaluated so far out."""
        axes = [_axis(ends, middle, per_axis, reach) for ends, middle in zip(self.box, self.core)]
        while reach > 1.0 and not self._resolved(np.array([axis[-1] for axis in axes])):
            reach *= 0.1
            axes = [_axis(ends, middle, per_axis, reach) for ends, middle in zip(self.box, self.core)]
        self.axes, self.shape = axes, tuple(axis.size for axis in axes)
        self.low, self.high = (np.array([axis[end] for axis in axes]) for end in (0, -1))
        self.points = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")])
        self.features = np.asarray(self.model.features(*self.points), dtype=np.float64)
        one = len(self.box) == 1
        self.slopes = np.asarray(self.model.feature_gradients(*self.points))[:, 0] if one else np.empty((0, 0))

    def _resolved(self, point: FloatArray) -> bool:
        try:
            self.model.features(*point)
            self.model.feature_gradients(*point)
        except ConvergenceError:  # from averages of smooth activations at large scales
            return False
        return True

    @classmethod
    def for_model(
        cls, model: ReducedModel, box: Box, limits: Sequence[LimitPoint], samples: int | None, closer: bool = False
    ) -> PsiSearch:
        """Return a search of a box with the default number of samples, or a closer one, for a second look."""
        if samples is None:
            samples = min(_SAMPLES[len(box) - 1], max(_TABLE // model.target.size, 3 ** len(box)))
        samples = round(_CLOSER * samples) if closer else samples
        return cls(model, box, model.grid(8).bounds, any(p.mass == 0.0 for p in limits), samples)

    def to_unit(self, x: FloatArray) -> FloatArray:
        """Return points (n_coordinates, n) in coordinates in [0, 1) that flatten out beyond some length scales."""
        distance = (x - self.low[:, None]) / (4.0 * self.scales[:, None])
        return distance / (1.0 + distance)

    def minima(self, coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return local minima (n_coordinates, m) and the values of Psi there, deepest first, at least one."""
        table = coefficients @ self.features
        if len(self.axes) == 1:
            points = self.bracketed(coefficients, table)
        else:
            points = self._descended(coefficients, table.reshape(self.shape))
        points = np.concatenate([points, self.points[:, [int(np.argmin(table))]]], axis=1)
        values = coefficients @ np.asarray(self.model.features(*points))
        order = np.argsort(values, kind="stable")
        return points[:, order], values[order]

    def bracketed(self, coefficients: FloatArray, table: FloatArray) -> FloatArray:
        """Return the local minima on one coordinate, shape (1, m), the ends of the sample among them."""
        slope, x = coefficients @ self.slopes, self.axes[0]

        def derivative(r: float) -> float:
            return float(coefficients @ self.model.feature_gradients(np.float64(r))[:, 0])

        dips = np.flatnonzero((slope[:-1] < 0.0) & (slope[1:] > 0.0))
        dips = dips[np.argsort(np.minimum(table[dips], table[dips + 1]), kind="stable")][:_DIPS]
        roots = []
        for i in dips:
            # Evaluated one at a time, slopes that vanish but for rounding may have other signs than in the table.
            if derivative(x[i]) < 0.0 < derivative(x[i + 1]):
                roots.append(brentq(derivative, x[i], x[i + 1], xtol=1e-300, rtol=1e-15))
        ends = [x[0]] if slope[0] >= 0.0 else []
        if slope[-1] <= 0.0:
            ends.append(x[-1])
        return np.array([[*roots, *ends]]).reshape(1, -1)

    def _descended(self, coefficients: FloatArray, table: FloatArray) -> FloatArray:
        dip = np.ones(table.shape, dtype=bool)
        for axis in range(table.ndim):
            rise = np.diff(table, axis=axis) >= 0.0
            edge = np.ones_like(np.take(rise, [0], axis=axis))
            dip &= np.concatenate([rise, edge], axis=axis) & np.concatenate([edge, ~rise], axis=axis)
        cells = np.flatnonzero(dip)
        cells = cells[np.argsort(table.ravel()[cells], kind="stable")][:_DIPS]
        if not cells.size:
            return np.empty((len(self.axes), 0))
        spacings = np.stack([self._spacing(int(cell)) for cell in cells], axis=1)
        points = self._newton(coefficients, self.points[:, cells], spacings)
        return self._compass(coefficients, points, 0.1 * spacings)

    def _spacing(self, cell: int) -> FloatArray:
        index = np.unravel_index(cell, self.shape)
        return np.array([max(axis[min(i + 1, axis.size - 1)] - axis[max(i - 1, 0)], 1e-300) / 2.0
                         for axis, i in zip(self.axes, map(int, index))])

    # All dips go down together: features cost about as much at one point as at a hundred.
    def _psi(self, coefficients: FloatArray, x: FloatArray) -> FloatArray:
        """Return Psi at points (n_coordinates, ...), which may lie outside the sample by rounding."""
        flat = x.reshape(len(x), -1)
        return np.asarray(coefficients @ np.asarray(self.model.features(*flat))).reshape(x.shape[1:])

    def _slope(self, coefficients: FloatArray, x: FloatArray) -> FloatArray:
        """Return the gradient of Psi at points (n_coordinates, ...)."""
        slopes = np.asarray(self.model.feature_gradients(*x.reshape(len(x), -1)))
        return np.tensordot(coefficients, slopes, axes=1).reshape(x.shape)

    def _clipped(self, x: FloatArray) -> FloatArray:
        ends = (-1,) + (1,) * (x.ndim - 1)
        return np.clip(x, self.low.reshape(ends), self.high.reshape(ends))

    def _newton(self, coefficients: FloatArray, x: FloatArray, spacings: FloatArray) -> FloatArray:
        r"""Return points (n_coordinates, m) after damped Newton steps, each within the box, as long as Psi falls.

        In units of the sample's spacing, with the eigenvalues of the Hessian H replaced by their sizes: the step is
        :math:`-|H|^{-1} \nabla \Psi`, at most one spacing long; the best of several of its lengths is taken.
        """
        dim = len(x)
        values, active = self._psi(coefficients, x), np.ones(x.shape[1], dtype=bool)
        for _ in range(_NEWTON_STEPS):
            if not active.any():
                break
            here, unit = x[:, active], spacings[:, active]
            shifts = _DIFFERENCE * np.concatenate([np.zeros((dim, 1)), np.eye(dim), -np.eye(dim)], axis=1)
            around = self._clipped(here[:, None, :] + shifts[:, :, None] * unit[:, None, :])
            slopes = unit[:, None, :] * self._slope(coefficients, around)
            gradient = slopes[:, 0]
            # Of a point on the edge of the box the steps outwards are left out.
            held = ((here <= self.low[:, None]) & (gradient > 0)) | ((here >= self.high[:, None]) & (gradient < 0))
            gradient = np.where(held, 0.0, gradient)
            moved = (around[:, 1:] - here[:, None, :]) / unit[:, None, :]
            hessian = np.empty((here.shape[1], dim, dim))
            for j in range(dim):
                width = moved[j, j] - moved[j, dim + j]
                hessian[:, :, j] = ((slopes[:, 1 + j] - slopes[:, 1 + dim + j]) / np.where(width > 0, width, 1.0)).T
            hessian = 0.5 * (hessian + hessian.transpose(0, 2, 1))
            free = ~held.T
            hessian *= free[:, :, None] & free[:, None, :]
            sizes, vectors = np.linalg.eigh(hessian)
            sizes = np.maximum(np.abs(sizes), 1e-12 * np.abs(sizes).max(axis=1, keepdims=True) + 1e-150)
            along = np.einsum("mij,im->mj", vectors, gradient)
            step = -np.einsum("mij,mj->im", vectors, along / sizes)
            # Where Psi is flat, steps are so long that their squares overflow.
            step /= np.maximum(1.0, np.abs(step).max(axis=0))
            step /= np.maximum(1.0, np.linalg.norm(step, axis=0))
            trial = self._clipped(here[:, None, :] + _LENGTHS[None, :, None] * (unit * step)[:, None, :])
            new = self._psi(coefficients, trial)
            best = np.argmin(new, axis=0)
            index, column = np.flatnonzero(active), np.arange(best.size)
            falls = new[best, column] < values[index] - _ROUNDING * np.abs(values[index])
            moves = index[falls]
            x[:, moves], values[moves] = trial[:, best, column][:, falls], new[best, column][falls]
            active[index[~falls]] = False
        return x

    def _compass(self, coefficients: FloatArray, x: FloatArray, steps: FloatArray) -> FloatArray:
        """Return points after a search along the axes, which kinks do not stop."""
        rng = np.random.default_rng(90007)  # turned frames: a fixed one stalls on an oblique kink
        best, dim, sizes = self._psi(coefficients, x), len(x), np.ones(x.shape[1])
        for _ in range(_COMPASS_STEPS):
            active = np.flatnonzero(sizes >= 1e-9)
            if not active.size:
                break
            frame = np.concatenate([np.eye(dim), np.linalg.qr(rng.standard_normal((dim, dim)))[0]], axis=1)
            moves = np.concatenate([frame, -frame], axis=1)[:, :, None] * (sizes * steps)[:, None, active]
            trial = self._clipped(x[:, None, active] + moves)
            values = self._psi(coefficients, trial)
            lowest, column = np.argmin(values, axis=0), np.arange(active.size)
            falls = values[lowest, column] < best[active]
            gone = active[falls]
            x[:, gone], best[gone] = trial[:, lowest, column][:, falls], values[lowest, column][falls]
            sizes[active[~falls]] *= 0.5
        return x


def _axis(box: tuple[float, float], core: tuple[float, float], n: int, reach: float) -> FloatArray:
    """Return about ``n`` points of an axis: even on the core, beyond it at distances l t/(1 - t), t even in [0, 1)."""
    low, high = max(box[0], min(core[0], box[1])), min(box[1], max(core[1], box[0]))
    pieces = [np.linspace(low, high, n)] if low < high else [np.array([low])]
    scale = 0.25 * (core[1] - core[0])
    for end, limit, side in ((high, box[1], 1.0), (low, box[0], -1.0)):
        length = min(abs(limit - end), reach * scale)
        if length > 0.0:
            t = np.arange(1, n // 2) / (n // 2)
            distance = scale * t / (1.0 - t)
            tail = np.geomspace(distance[-1], 10.0 * reach * scale, min(n, _FAR_POINTS))[1:]
            distance = np.concatenate([distance, tail])
            pieces.append(end + side * np.append(distance[distance < length], length))
    return np.unique(np.concatenate(pieces))
