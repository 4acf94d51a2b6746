"""Quadratic activations and quadratic targets: the mean-field flow is a matrix Riccati equation."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation, finite_array
from wgflow.activations.smooth import Polynomial
from wgflow.atoms import Atoms
from wgflow.checks import check_flag, check_positive, check_real
from wgflow.errors import ConvergenceError, InvalidInput

from .base import FloatArray
from .data_rules import quadratic_form_moment
from .gaussian_laws import (
    REACH,
    GaussianNetwork,
    GaussianState,
    as_covariance,
    as_symmetric,
    as_vector,
    check_times,
    coordinate_names,
    gaussian_state,
    stack_coordinates,
)

__all__ = ["QuadraticActivation"]

_ORDER = 24  # of the Taylor series in time
_TERM = 1e-17  # size of its last two terms, relative to the sum
_MAX_STEPS = 100_000  # of the Taylor series in time, before a solution counts as too long


class QuadraticActivation(GaussianNetwork):
    r"""Quadratic neurons :math:`\sigma_*(x; w) = \langle w, x \rangle^2` and a quadratic target.

    With :math:`x \sim N(0, S)`, :math:`y = b_0 + \langle x, B x \rangle` plus independent noise of variance
    :math:`\tau^2`, and in the whitened variables :math:`v = S^{1/2} w, \tilde B = S^{1/2} B S^{1/2}`,

    .. math::
        U(w, w') = 2 \langle v, v' \rangle^2 + |v|^2 |v'|^2, \qquad
        V(w) = -v^T [2 \tilde B + (\mathrm{tr}\,\tilde B + b_0)]\,v, \qquad
        R(\rho) = 2\,|\tilde M - \tilde B|_F^2 + (\mathrm{tr}(\tilde M - \tilde B) - b_0)^2 + \tau^2 .

    The law of the weights enters through :math:`M = \int w w^T \rho` alone: d(d+1)/2 features. As
    :math:`\Psi = w^T K w` with :math:`K = S^{1/2} [2 (\tilde M - \tilde B) + \mathrm{tr}(\tilde M - \tilde B) - b_0]
    S^{1/2}`, the drift is linear in w: a Gaussian law stays Gaussian, and on the clock s

    .. math::
        m' = -s A m, \qquad C' = -s (A C + C A) + 2 s \beta^{-1} I, \qquad A = 2 K + \lambda, \quad M = C + m m^T ,

    so that M solves the matrix Riccati equation :math:`M' = -s (A M + M A) + 2 s \beta^{-1} I` from any initial law.

    Parameters
    ----------
    matrix : float or array_like, shape (d, d)
        B, symmetric. A number means d = 1. Grids exist for d up to 4; atoms, SGD and the exact solution for any d.
    offset : float
        :math:`b_0`.
    covariance : float or array_like, shape (d,) or (d, d)
        S, symmetric and positive semi-definite.
    noise_variance : float
        :math:`\tau^2 \ge 0`.
    centered : bool
        Subtract from each neuron its mean, :math:`\sigma_* = \langle w, x \rangle^2 - |v|^2`. The trace then leaves the
        dynamics: :math:`U = 2 \langle v, v' \rangle^2`, :math:`V = -2 v^T \tilde B v` and
        :math:`R = 2 |\tilde M - \tilde B|_F^2 + (\mathrm{tr}\,\tilde B + b_0)^2 + \tau^2`. Such a neuron is not a
        function of :math:`\langle w, x \rangle` alone, so that ``run_sgd`` refuses it.

    Raises
    ------
    InvalidInput
        If shapes do not fit, something is not finite, ``matrix`` is not symmetric or ``covariance`` not positive
        semi-definite.

    Examples
    --------
    >>> model = QuadraticActivation(matrix=[[1.0, 0.0], [0.0, 0.5]])
    >>> state = model.exact([0.0, 20.0], mean0=0.0, cov0=0.32)
    >>> [f"{risk:.6f}" for risk in state.risk]
    ['1.729200', '0.000000']
    """

    name = "QuadraticActivation"

    def __init__(
        self,
        matrix: ArrayLike,
        offset: float = 0.0,
        covariance: ArrayLike = 1.0,
        noise_variance: float = 0.0,
        centered: bool = False,
    ):
        array = finite_array("matrix", matrix)
        array = array.reshape(1, 1) if array.ndim == 0 else array
        if array.ndim != 2 or array.shape[0] != array.shape[1] or array.size == 0:
            raise InvalidInput(f"matrix has shape {array.shape}; need (d, d), or a number for d = 1")
        d = len(array)
        self.matrix = as_symmetric("matrix", array, d)
        self.covariance = as_covariance("covariance", covariance, d)
        self.offset, self.centered = check_real("offset", offset), check_flag("centered", centered)
        self.noise_variance = check_positive("noise_variance", noise_variance, zero=True)
        self.input_dimension = float(d)
        self.coordinate_names = coordinate_names("w", d)
        rates, axes = np.linalg.eigh(self.covariance)
        self._root = (axes * np.sqrt(np.maximum(rates, 0.0))) @ axes.T
        with np.errstate(over="ignore", invalid="ignore"):
            self._white_matrix = self._root @ self.matrix @ self._root
            mean_square = np.square(np.trace(self._white_matrix) + self.offset) + self.noise_variance
            self.label_second_moment = float(2.0 * np.sum(self._white_matrix**2) + mean_square)
        if not math.isfinite(self.label_second_moment):
            raise InvalidInput("E y^2 overflows; scale matrix, offset, covariance or noise_variance down")

    def __repr__(self) -> str:
        return (f"QuadraticActivation(matrix={self.matrix.tolist()}, offset={self.offset:g}, "
                f"covariance={self.covariance.tolist()}, noise_variance={self.noise_variance:g}, "
                f"centered={self.centered})")

    @property
    def activation(self) -> Activation:  # type: ignore[override]
        """The polynomial :math:`t^2`.

        Raises
        ------
        InvalidInput
            For ``centered=True``, where a neuron is no function of :math:`\\langle w, x \\rangle` alone.
        """
        if self.centered:
            raise InvalidInput("centered=True: the neuron <w, x>^2 - w'Sw is no function of <w, x> alone and has no "
                               "activation, so that SGD cannot train it; use centered=False, or the exact solution")
        return Polynomial([0.0, 0.0, 1.0])

    # ---------------------------------------------------------------- reduced coordinates
    @property
    def _trace_share(self) -> float:
        """The c for which sqrt(2) (A + c tr A) has the inner products 2 <A, A'> + tr A tr A'; 0 without the trace."""
        d = self.n_coordinates
        return 0.0 if self.centered else (math.sqrt(1.0 + 0.5 * d) - 1.0) / d

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(self.n_coordinates)

    def _pack(self, matrix: FloatArray) -> FloatArray:
        """Return the features of a symmetric matrix in whitened variables, shape (d (d + 1) / 2,)."""
        i, j = self._pairs
        shifted = matrix + self._trace_share * np.trace(matrix) * np.eye(len(matrix))
        return np.where(i == j, math.sqrt(2.0), 2.0) * shifted[i, j]

    @cached_property
    def target(self) -> FloatArray:
        d = self.n_coordinates
        # <pack(I), pack(A)> = (2 + d) tr A: the part of the constant b_0 that quadratic functions reach.
        reached = 0.0 if self.centered else self.offset / (d + 2.0)
        return self._pack(self._white_matrix + reached * np.eye(d))

    def features(self, *coordinates: ArrayLike) -> FloatArray:
        v = np.einsum("ij,j...->i...", self._root, stack_coordinates(self, coordinates))
        i, j = self._pairs
        features = 2.0 * v[i] * v[j]
        same = i == j
        length = np.sum(v * v, axis=0)
        features[same] = math.sqrt(2.0) * (v * v + self._trace_share * length)
        return features

    def feature_gradients(self, *coordinates: ArrayLike) -> FloatArray:
        v = np.einsum("ij,j...->i...", self._root, stack_coordinates(self, coordinates))
        i, j = self._pairs
        gradients = np.zeros((i.size, *v.shape))
        for k, (p, q) in enumerate(zip(i, j)):
            if p == q:
                gradients[k] = 2.0 * math.sqrt(2.0) * self._trace_share * v
                gradients[k, p] += 2.0 * math.sqrt(2.0) * v[p]
            else:
                gradients[k, p], gradients[k, q] = 2.0 * v[q], 2.0 * v[p]
        return np.einsum("ij,kj...->ki...", self._root, gradients)

    def diagonal(self, *coordinates: ArrayLike) -> FloatArray:
        v = np.einsum("ij,j...->i...", self._root, stack_coordinates(self, coordinates))
        return (2.0 if self.centered else 3.0) * np.sum(v * v, axis=0) ** 2

    def _unpack(self, features: FloatArray) -> FloatArray:
        """Return the symmetric matrix A in whitened variables whose features are given: the inverse of `_pack`."""
        i, j = self._pairs
        shifted = np.zeros((self.n_coordinates,) * 2)
        shifted[i, j] = features / np.where(i == j, math.sqrt(2.0), 2.0)
        shifted[j, i] = shifted[i, j]
        share, d = self._trace_share, self.n_coordinates
        return shifted - share * np.trace(shifted) / (1.0 + share * d) * np.eye(d)

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        if self.centered:
            raise InvalidInput("centered=True: SGD cannot train such neurons; use centered=False")
        moments, slopes = self._moments_and_slopes(law, fields)
        # In whitened variables y - yhat = <g, D g> + b_0 + noise, and B(x) = <g, C g>.
        gap, pushes = self._white_matrix - self._unpack(moments), [self._unpack(row) for row in slopes]
        means = np.array([quadratic_form_moment([gap, c]) + self.offset * np.trace(c) for c in pushes])
        squares = np.array([[self._error_square_moment(gap, a, b) for b in pushes] for a in pushes])
        return squares - np.multiply.outer(means, means)

    def _error_square_moment(self, gap: FloatArray, a: FloatArray, b: FloatArray) -> float:
        """Return E (y - yhat)^2 <g, A g> <g, B g> for y - yhat = <g, D g> + b_0 plus noise."""
        constant = self.offset**2 + self.noise_variance
        return (quadratic_form_moment([gap, gap, a, b]) + 2.0 * self.offset * quadratic_form_moment([gap, a, b])
                + constant * quadratic_form_moment([a, b]))

    def _default_bounds(self, kappa: float, mean0: FloatArray, beta: float, ridge: float) -> FloatArray:
        start = kappa**2 / mean0.size + float(np.sum(mean0**2))
        # |m| + 6 sd is largest, at fixed second moment, for |m| : sd = 1 : 6.
        half = math.sqrt((1.0 + REACH**2) * max(start, self._moment_bound(beta, ridge)))
        return np.tile([-half, half], (mean0.size, 1))

    def _moment_bound(self, beta: float, ridge: float) -> float:
        r"""Return a bound that the largest eigenvalue mu of M does not cross from below.

        For its eigenvector e and the extreme eigenvalues of S, :math:`\mu'/(2s) \le 1/\beta + \mu (g - q \mu)` with
        :math:`g = 4 \lambda_{max}(S B S)_+ + 2 S_{max} (tr S B + b_0)_+ - \lambda` and :math:`q = 6 S_{min}^2`.
        """
        scales = np.linalg.eigvalsh(self.covariance)
        growth = 4.0 * max(0.0, float(np.linalg.eigvalsh(self.covariance @ self.matrix @ self.covariance)[-1])) - ridge
        if not self.centered:
            growth += 2.0 * scales[-1] * max(0.0, float(np.trace(self._white_matrix)) + self.offset)
        damping = (4.0 if self.centered else 6.0) * max(scales[0], 0.0) ** 2
        if damping > 1e-12 * scales[-1] ** 2:
            return (growth + math.sqrt(growth**2 + 4.0 * damping / beta)) / (2.0 * damping)
        if growth < 0.0:
            return 1.0 / (beta * -growth)
        if growth == 0.0 and math.isinf(beta):
            return 0.0
        raise InvalidInput(f"beta={beta:g}, ridge={ridge:g}: with a singular covariance the weights may grow forever "
                           "where the data do not see them; give bounds, or a larger ridge")

    # ---------------------------------------------------------------- the exact solution
    def exact(
        self,
        t: ArrayLike,
        mean0: ArrayLike,
        cov0: ArrayLike,
        beta: float = math.inf,
        ridge: float = 0.0,
        *,
        time_scale: float | None = None,
    ) -> GaussianState:
        r"""Return the exact solution from the law of mean ``mean0`` and covariance ``cov0``.

        Mean and covariance are summed as Taylor series in time, whose coefficients follow from the Riccati equation by
        convolution, over steps on which the terms of order 23 and 24 fall below rounding. No tolerance enters; errors
        are of the order of 1e-14 of the largest moment, times what an unstable start amplifies. Without noise a factor
        of the covariance is moved, so that its rank (that of N < d neurons, say) never changes.

        Parameters
        ----------
        t : array_like
            Times, at least 0, in any order. For SGD with a schedule ``xi(t)`` give the integral of ``xi``.
        mean0 : float or array_like, shape (d,)
        cov0 : float or array_like, shape (d,) or (d, d)
            Positive semi-definite; 0 is a point mass. At mean 0 and covariance 0 the noiseless flow rests.
        beta, ridge : float
            As in `energy`.
        time_scale : float, optional
            The clock s; ``model.time_scale`` by default, that of SGD.

        Returns
        -------
        GaussianState
            Energy and dissipation are those of the Gaussian law; moments and risk hold for any initial law.

        Raises
        ------
        InvalidInput
            If an argument is out of range or the moments overflow.
        ConvergenceError
            If the times are so long that more than 100,000 steps would be needed.
        """
        t = check_times(t)
        m0, c0 = as_vector("mean0", mean0, self.n_coordinates), as_covariance("cov0", cov0, self.n_coordinates)
        beta, ridge = check_positive("beta", beta, infinite=True), check_positive("ridge", ridge, zero=True)
        s = check_positive("time_scale", self.time_scale if time_scale is None else time_scale)
        order, inverse = np.unique(t.ravel(), return_inverse=True)
        columns = np.column_stack([m0, _factor(c0)]) if math.isinf(beta) else m0[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            moved, covs = self._moments_at(order, columns, c0 if math.isfinite(beta) else 0.0 * c0, beta, ridge, s)
        covs = covs + moved[..., 1:] @ np.swapaxes(moved[..., 1:], -1, -2)
        mean = moved[inverse, :, 0].reshape(*t.shape, m0.size)
        cov = covs[inverse].reshape(*t.shape, m0.size, m0.size)
        with np.errstate(over="ignore", invalid="ignore"):
            second = cov + mean[..., :, None] * mean[..., None, :]
            slope = self._slope(second) + self._rest_slope(ridge)
            force = np.einsum("...ij,...j->...i", slope, mean)
            return gaussian_state(t, mean, cov, self._risk_of(second), force, slope, beta, ridge, s)

    def _slope(self, second: FloatArray) -> FloatArray:
        """Return the part of A that is linear in M, :math:`4 S M S + 2\\,tr(S M)\\,S`."""
        scale = self.covariance
        slope = 4.0 * (scale @ second @ scale)
        if not self.centered:
            slope = slope + 2.0 * np.einsum("ij,...ji->...", scale, second)[..., None, None] * scale
        return slope

    def _rest_slope(self, ridge: float) -> FloatArray:
        """Return A at M = 0."""
        slope = ridge * np.eye(self.n_coordinates) - 4.0 * (self.covariance @ self.matrix @ self.covariance)
        if not self.centered:
            slope -= 2.0 * (float(np.trace(self._white_matrix)) + self.offset) * self.covariance
        return slope

    def _moments_at(
        self, times: FloatArray, columns: FloatArray, cov: FloatArray, beta: float, ridge: float, speed: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return W (d, k) and C (d, d) of M = C + W W' at increasing times, by Taylor steps.

        W' = -s A W and C' = -s (A C + C A) + 2 s / beta: the mean is one of the columns of W.
        """
        moved, covs = np.empty((times.size, *columns.shape)), np.empty((times.size, *cov.shape))
        rest, now, done = self._rest_slope(ridge), 0.0, 0
        for _ in range(_MAX_STEPS):
            if done == times.size:
                return moved, covs
            # In units of the drift's own time the coefficients do not overflow.
            linear = self._slope(cov + columns @ columns.T)
            size = speed * float(np.max(np.abs(linear)) + np.max(np.abs(rest)))
            unit = 1.0 / size if size > 0.0 else 1.0
            w, c = self._taylor(columns, cov, rest, beta, speed * unit)
            if not (np.isfinite(w).all() and np.isfinite(c).all()):
                raise InvalidInput("mean0, cov0: the moments overflow; scale them, the data or 1/beta down")
            left = (times[-1] - now) / unit
            step = min(_step_size(w), _step_size(c), left)
            reached = times.size if step == left else int(np.searchsorted(times, now + step * unit, side="right"))
            for k in range(done, reached):
                moved[k], covs[k] = (_evaluate(series, (times[k] - now) / unit) for series in (w, c))
            columns, cov, now, done = _evaluate(w, step), _evaluate(c, step), now + step * unit, reached
        raise ConvergenceError(f"t={times[-1]:g} needs more than {_MAX_STEPS} Taylor steps; t={now:g} was reached",
                               reason="max steps", t=now)

    def _taylor(
        self, columns: FloatArray, cov: FloatArray, rest: FloatArray, beta: float, speed: float
    ) -> tuple[FloatArray, FloatArray]:
        """Return Taylor coefficients of W and C in time, shapes (order + 1, d, k) and (order + 1, d, d)."""
        w, c = np.zeros((_ORDER + 1, *columns.shape)), np.zeros((_ORDER + 1, *cov.shape))
        drift = np.empty((_ORDER, *cov.shape))
        w[0], c[0] = columns, cov
        for k in range(_ORDER):
            second = c[k] + np.tensordot(w[: k + 1], w[k::-1], axes=([0, 2], [0, 2]))
            drift[k] = -speed * (self._slope(second) + (rest if k == 0 else 0.0))
            w[k + 1] = np.tensordot(drift[: k + 1], w[k::-1], axes=([0, 2], [0, 1])) / (k + 1)
            if math.isfinite(beta):
                product = np.tensordot(drift[: k + 1], c[k::-1], axes=([0, 2], [0, 1]))
                c[k + 1] = (product + product.T) / (k + 1)
                if k == 0:
                    c[1] += 2.0 * speed / beta * np.eye(len(cov))
        return w, c

    def _risk_of(self, second: FloatArray) -> FloatArray:
        """Return the risk of laws with second moments M (..., d, d)."""
        gap = self._root @ second @ self._root - self._white_matrix
        trace = np.trace(gap, axis1=-2, axis2=-1) - self.offset
        if self.centered:
            trace = np.full_like(trace, np.trace(self._white_matrix) + self.offset)
        return 2.0 * np.sum(gap**2, axis=(-2, -1)) + trace**2 + self.noise_variance

    # ---------------------------------------------------------------- the network
    def sample_data(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        x = rng.standard_normal((n, self.n_parameters)) @ self._root
        y = self.offset + np.einsum("ki,ij,kj->k", x, self.matrix, x)
        return x, y + math.sqrt(self.noise_variance) * rng.standard_normal(n)

    def neuron_outputs(self, theta: ArrayLike, x: ArrayLike) -> FloatArray:
        r"""Return :math:`\langle w, x \rangle^2`, less its mean :math:`w^T S w` with ``centered=True``."""
        theta, x = np.asarray(theta, dtype=np.float64), np.asarray(x, dtype=np.float64)
        outputs = np.einsum("...i,...i->...", theta, x) ** 2
        return outputs - np.sum((theta @ self._root) ** 2, axis=-1) if self.centered else outputs

    def population_risk(self, theta: ArrayLike) -> FloatArray:
        """Return the exact risk of networks (..., n_neurons, d), which depends on the mean of ``w w'`` alone."""
        theta = self.check_theta(theta)
        return self._risk_of(np.swapaxes(theta, -1, -2) @ theta / theta.shape[-2])


def _factor(cov: FloatArray) -> FloatArray:
    """Return L (d, rank) with L L' = C; eigenvalues of the size of rounding errors count as 0."""
    diagonal = np.diag(cov)
    if not np.any(cov - np.diag(diagonal)):
        return np.diag(np.sqrt(diagonal))[:, diagonal > 0.0]
    values, vectors = np.linalg.eigh(cov)
    keep = values > 8.0 * len(cov) * np.finfo(float).eps * values[-1]
    return vectors[:, keep] * np.sqrt(values[keep])


def _step_size(series: FloatArray) -> float:
    """Return the step on which the last two terms of a Taylor series are negligible beside one of the first two."""
    sizes = np.max(np.abs(series), axis=tuple(range(1, series.ndim)), initial=0.0)
    if sizes[0] == 0.0 and sizes[1] == 0.0:
        return math.inf
    steps = [max((_TERM * sizes[j] / sizes[k]) ** (1.0 / (k - j)) for j in (0, 1))
             for k in (_ORDER - 1, _ORDER) if sizes[k] > 0.0]
    return min(steps, default=math.inf)


def _evaluate(series: FloatArray, h: float) -> FloatArray:
    value = series[-1]
    for coefficient in series[-2::-1]:
        value = coefficient + h * value
    return value
