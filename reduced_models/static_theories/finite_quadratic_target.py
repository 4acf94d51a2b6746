"""A quadratic target of a given matrix: exact risks in finite dimension, gradient flow and one-pass SGD."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from scipy.linalg import LinAlgError, LinAlgWarning, solve

from wgflow.checks import check_count, check_memory, check_positive
from wgflow.errors import ConvergenceError, InvalidInput

from ..base import FloatArray
from ..gaussian_laws import as_covariance, as_symmetric
from .quadratic_target import QuadraticTarget, tail_share
from .simulated import Simulated, as_generator, over_runs

__all__ = ["FiniteQuadraticTarget", "TrainedQuadratic"]

_TOLERANCE = 1e-10  # of the gradient flow, relative
_ROUNDING = 1e-12  # share of the largest variance of the weights below which they have none
_LARGE = 1e12  # risk over that of the zero network at which SGD counts as lost


class TrainedQuadratic(NamedTuple):
    """A path of training: times, weights of shape (times, N, d), offsets, and risks as shares of E f^2."""

    t: FloatArray
    w: FloatArray
    offset: FloatArray
    risk: FloatArray


class FiniteQuadraticTarget:
    r"""The target :math:`f(x) = \langle x, B x \rangle - \mathrm{tr}\,B`, x ~ N(0, I_d), and N neurons.

    The exact counterparts of ``QuadraticTarget``, all as shares of :math:`E f^2 = 2 |B|_F^2`:

    * random features :math:`\langle w_i, x \rangle^2 - 1`, w ~ N(0, Gamma): :math:`R = 1 - v^T K^{-1} v/(2 |B|_F^2)`,
      :math:`K_{ij} = 2 \langle w_i, w_j \rangle^2 + c_i c_j, c_i = |w_i|^2 - 1, v_i = 2 \langle w_i, B w_i \rangle`;
    * the tangent model with a constant: :math:`|P B P|_F^2/|B|_F^2`, P the projection beyond the weights, with the mean
      :math:`A + C + C (\mathrm{tr}\,B)^2/|B|_F^2` over uniform weights, m = d - N,
      :math:`C = m (d - m)/(d (d - 1)(d + 2)), A = m/d - C (d + 1)`;
    * the network :math:`\sum_i \pm \langle w_i, x \rangle^2 + c`: the eigenvalues beyond the N largest in size.

    Training moves :math:`f_W = \sum_i \langle w_i, x \rangle^2 + c` along the gradient of :math:`R = E (f - f_W)^2 =
    2 |B - W^T W|_F^2 + e^2, e = \mathrm{tr}(B - W^T W) - \mathrm{tr}\,B - c`:

    .. math:: W' = 8\,W (B - W^T W) + 4 e\,W, \qquad c' = 2 e .

    Parameters
    ----------
    matrix : array_like, shape (d, d) or (d,)
        B, symmetric, not zero; a vector is its diagonal.
    n_neurons : int
        N.
    covariance : array_like, shape (d, d) or (d,), optional
        Gamma, by default I/d.

    Raises
    ------
    InvalidInput
        If B is not symmetric, is zero, or shapes do not fit; if Gamma is not a covariance.

    Examples
    --------
    >>> target = FiniteQuadraticTarget(np.arange(12.0), n_neurons=4)
    >>> path = target.gradient_flow(t_end=20.0, rng=3)
    >>> f"{target.risk_nn:.6f} {path.risk[-1]:.6f}"
    '0.276680 0.276680'
    """

    def __init__(self, matrix: ArrayLike, n_neurons: int, covariance: ArrayLike | None = None):
        array = np.asarray(matrix)
        array = np.diag(array) if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[0] != array.shape[1] or array.shape[0] < 2:
            raise InvalidInput(f"matrix has shape {np.shape(matrix)}; need (d, d), or the diagonal (d,), with d >= 2")
        self.d = len(array)
        self.matrix = as_symmetric("matrix", array, self.d)
        self.n_neurons = check_count("n_neurons", n_neurons)
        self.covariance = as_covariance("covariance", 1.0 / self.d if covariance is None else covariance, self.d)
        if not np.any(self.covariance):
            raise InvalidInput("covariance is zero: weights that are all 0 have no features")
        self._square = float(np.sum(self.matrix**2))
        if not 0.0 < self._square < math.inf:
            raise InvalidInput("matrix: its sum of squares must be positive and finite; there is nothing to learn")
        self._trace = float(np.trace(self.matrix))

    def __repr__(self) -> str:
        return f"FiniteQuadraticTarget(d={self.d}, n_neurons={self.n_neurons}, kappa={self.kappa:.6g})"

    @property
    def kappa(self) -> float:
        """(tr B)^2/(d |B|^2)."""
        return self._trace**2 / (self.d * self._square)

    def limit(self) -> QuadraticTarget:
        """Return the theory in the limit of many dimensions with this matrix's spectrum and this law of the weights."""
        spread = self.d * float(np.sum(self.covariance**2)) / float(np.trace(self.covariance)) ** 2
        product = float(np.sum(self.matrix * self.covariance))
        alignment = product**2 / (self._square * float(np.sum(self.covariance**2)))
        return QuadraticTarget(self.kappa, self.n_neurons / self.d, eigenvalues=np.linalg.eigvalsh(self.matrix),
                               alignment=min(alignment, 1.0), spread=max(spread, 1.0))

    @property
    def risk_nn(self) -> float:
        """The share of the target that the best network leaves."""
        return tail_share(np.linalg.eigvalsh(self.matrix), self.n_neurons)

    @property
    def risk_nt(self) -> float:
        """The share that the tangent model leaves, averaged exactly over uniform directions of the weights."""
        d, m = self.d, max(self.d - self.n_neurons, 0)
        c = m * (d - m) / (d * (d - 1.0) * (d + 2.0))
        return m / d - c * d + c * self._trace**2 / self._square

    def tangent(self, n_runs: int = 10, rng: int | np.random.Generator | None = None) -> Simulated:
        """Return the share that the tangent model leaves, over draws of the weights."""

        def one(generator: np.random.Generator) -> float:
            w = generator.standard_normal((self.d, min(self.n_neurons, self.d)))
            directions, _ = np.linalg.qr(w)
            beyond = np.eye(self.d) - directions @ directions.T
            return float(np.sum((beyond @ self.matrix @ beyond) ** 2)) / self._square

        return over_runs(one, n_runs, as_generator(rng))

    def random_features(self, n_runs: int = 10, rng: int | np.random.Generator | None = None) -> Simulated:
        """Return the share that random features leave, over draws of the weights; within O(N/d^2) of the limit.

        Raises
        ------
        InvalidInput
            If the features are linearly dependent: more neurons than r (r + 1)/2 + 1, for weights in r dimensions (r
            is d, or the rank of Gamma), or so nearly that many that rounding hides the difference.
        """
        n = self.n_neurons
        values, axes = np.linalg.eigh(self.covariance)
        root = axes * np.sqrt(np.maximum(values, 0.0))
        rank = int(np.sum(values > _ROUNDING * values[-1]))
        most = rank * (rank + 1) // 2 + 1  # squares and products of r coordinates, and the constant
        if n > most:
            raise InvalidInput(f"n_neurons={n}: more than r (r + 1)/2 + 1 = {most} quadratic features of weights in "
                               f"r = {rank} dimensions are linearly dependent; take fewer neurons")
        check_memory(8.0 * 4 * n * n, f"n_neurons={n}: a kernel", "take fewer neurons")

        def one(generator: np.random.Generator) -> float:
            w = generator.standard_normal((n, self.d)) @ root.T
            c = np.sum(w * w, axis=1) - 1.0
            kernel = 2.0 * (w @ w.T) ** 2 + np.outer(c, c)
            v = 2.0 * np.sum((w @ self.matrix) * w, axis=1)
            return 1.0 - float(v @ _solved(kernel, v)) / (2.0 * self._square)

        return over_runs(one, n_runs, as_generator(rng))

    def risk(self, w: FloatArray, offset: float) -> float:
        r"""Return :math:`E (f - f_W)^2 / E f^2` of a network, shape (N, d), and its constant."""
        rest = self.matrix - w.T @ w
        error = float(np.trace(rest)) - self._trace - offset
        return float(np.sum(rest**2)) / self._square + error**2 / (2.0 * self._square)

    def gradient_flow(self, t_end: float, n_times: int = 51, *, w0: ArrayLike | None = None,
                      rng: int | np.random.Generator | None = None) -> TrainedQuadratic:
        """Train from ``w0``, or from normal weights of variance 1/d, to the time ``t_end``, to a tolerance of 1e-10.

        Raises
        ------
        ConvergenceError
            If the integration in time fails.
        """
        t_end = check_positive("t_end", t_end)
        start = self._start(w0, rng)
        shape, n = start.shape, start.size

        def velocity(_: float, y: FloatArray) -> FloatArray:
            w, offset = y[:n].reshape(shape), y[n]
            rest = self.matrix - w.T @ w
            error = float(np.trace(rest)) - self._trace - offset
            return np.append((8.0 * w @ rest + 4.0 * error * w).ravel(), 2.0 * error)

        times = np.linspace(0.0, t_end, check_count("n_times", n_times, 2))
        found = solve_ivp(velocity, (0.0, t_end), np.append(start.ravel(), 0.0), method="LSODA", t_eval=times,
                          rtol=_TOLERANCE, atol=_TOLERANCE * 1e-3)
        if not found.success:
            raise ConvergenceError(f"the gradient flow ended at t = {found.t[-1]:g}: {found.message}",
                                   reason="inner-solver")
        return self._path(times, found.y[:n].T.reshape(-1, *shape), found.y[n])

    def sgd(self, t_end: float, step_size: float, n_times: int = 51, *, w0: ArrayLike | None = None,
            rng: int | np.random.Generator | None = None) -> TrainedQuadratic:
        r"""Train by one-pass SGD, :math:`w_i \mathrel{+}= 4 \epsilon (f - f_W)(x)\,\langle w_i, x \rangle\,x`.

        Time is t = k epsilon after k steps.

        Raises
        ------
        ConvergenceError
            If the risk grows beyond all bounds: the step is too large (it must be small against 1/(8 d |B|)).
        """
        t_end, step_size = check_positive("t_end", t_end), check_positive("step_size", step_size)
        check_count("n_times", n_times, 2)
        generator = as_generator(rng)
        w, offset = self._start(w0, generator).copy(), 0.0
        steps = max(1, round(t_end / step_size))
        marks = np.unique(np.round(np.linspace(0, steps, n_times)).astype(int))
        weights, offsets, done = [w.copy()], [offset], 0
        for mark in marks[1:]:
            with np.errstate(over="ignore", invalid="ignore"):
                for x in generator.standard_normal((mark - done, self.d)):
                    z = w @ x
                    error = float(x @ self.matrix @ x) - self._trace - float(z @ z) - offset
                    w += (4.0 * step_size * error) * np.outer(z, x)
                    offset += 2.0 * step_size * error
                risk = self.risk(w, offset)
            done = mark
            if not risk < _LARGE:
                raise ConvergenceError(f"step_size={step_size:g}: SGD diverged before t = {mark * step_size:g}; take a "
                                       "smaller step", reason="diverged")
            weights.append(w.copy())
            offsets.append(offset)
        return self._path(marks * step_size, np.array(weights), np.array(offsets))

    def _start(self, w0: ArrayLike | None, rng: int | np.random.Generator | None) -> FloatArray:
        if w0 is None:
            return as_generator(rng).standard_normal((self.n_neurons, self.d)) / math.sqrt(self.d)
        start = np.array(w0, dtype=float)
        if start.shape != (self.n_neurons, self.d) or not np.all(np.isfinite(start)):
            raise InvalidInput(f"w0 has shape {start.shape}; need finite weights of shape (n_neurons, d) = "
                               f"({self.n_neurons}, {self.d})")
        return start

    def _path(self, t: FloatArray, w: FloatArray, offset: FloatArray) -> TrainedQuadratic:
        return TrainedQuadratic(t, w, offset, np.array([self.risk(a, b) for a, b in zip(w, offset)]))


def _solved(kernel: FloatArray, v: FloatArray) -> FloatArray:
    """Return K^-1 v, or refuse features that are linearly dependent to rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", LinAlgWarning)
        try:
            return np.asarray(solve(kernel, v, assume_a="sym"))
        except (LinAlgError, LinAlgWarning):
            raise InvalidInput(f"n_neurons={len(v)}: the features are linearly dependent to rounding; take fewer "
                               "neurons, or weights whose covariance is better conditioned") from None
