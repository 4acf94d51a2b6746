"""Random-features ridge regression: bias, variance and training error in the limit of proportional growth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from wgflow.activations.base import Activation
from wgflow.checks import check_positive, real_array
from wgflow.errors import InvalidInput

from ..base import FloatArray
from .equivalent_coefficients import check_nonlinear, equivalent_coefficients
from .random_features_runs import simulate_risk
from .simulated import Simulated

__all__ = ["RandomFeatures"]

_LARGE = 1e300  # stands for a bound that is infinite
_STEPS = 200  # of Newton's method and bisection; the bracket is 1,500 wide
_REACH = 745.0  # exp(-_REACH) is the smallest positive number
_RIDGES = (1e-12, 1e6)  # between which the best ridge is sought
_ROUNDING = 1e-12  # by which the risk at another ridge must be below that without
_SCAN = 73  # ridges at which the risk is looked at first: four a decade


class RandomFeatures:
    r"""Ridge regression on N random features :math:`\sigma(\langle w_j, x \rangle)` from n samples in d dimensions.

    .. math::
        \hat a = \arg\min_a \frac1n \sum_i \Big(y_i - \sum_{j \le N} a_j\,\sigma(\langle w_j, x_i \rangle)\Big)^2
        + \frac{N \lambda}{d}\,|a|^2,
        \qquad x_i \sim \mathrm{Unif}(S^{d-1}(\sqrt d)), \quad w_j \sim \mathrm{Unif}(S^{d-1}(1)),

    with :math:`y = f(x) + \varepsilon`, as :math:`N/d \to \psi_1, n/d \to \psi_2`. Let
    :math:`\zeta = \mu_1/\mu_*, \bar\lambda = \lambda/\mu_*^2` (see ``equivalent_coefficients``). One number c > 0
    solves

    .. math::
        (\psi_1 - g)(\psi_2 - g) = \psi_1 \psi_2 \bar\lambda\, c, \qquad
        g = c\,\frac{1 + \zeta^2 + \zeta^2 c}{1 + \zeta^2 c} \in (0, \min(\psi_1, \psi_2)) ,

    and with :math:`u = \psi_1 - g, v = \psi_2 - g, q = 1 + \zeta^2 c, D = q^2 u v + c (u + v)(q^2 + \zeta^2)`

    .. math::
        B = \psi_2 (\psi_1 + \zeta^2 c^2) / D, \qquad
        V = c\,[g (q^2 + \zeta^2) + \zeta^4 c\,u] / D .

    The risk is :math:`E (f - \hat f)^2 = |P_1 f|^2 B + (\tau^2 + |P_{>1} f|^2) V + |P_{>1} f|^2`, where :math:`P_1 f`
    is the linear part of the target and :math:`\tau^2` the variance of the noise. All terms above are positive, so that
    nothing cancels. (The source writes :math:`\chi = -c` and B, V as ratios of three polynomials, which are D, its
    numerators and a common factor q.)

    Parameters
    ----------
    activation : Activation
        It must not be linear. Its mean plays no part.
    psi1, psi2 : float or array_like
        :math:`\psi_1 = N/d, \psi_2 = n/d`, positive; infinity is allowed: a kernel method, or the whole population.
    ridge : float or array_like
        :math:`\lambda \ge 0`; 0 is the limit of the interpolant of least norm. All three broadcast.

    Raises
    ------
    InvalidInput
        If psi1 or psi2 is not positive, a ridge is negative, the activation is linear, or shapes do not fit.

    Notes
    -----
    At ``ridge=0`` and psi1 = psi2 bias and variance are infinite: the interpolation threshold.

    Source: Mei and Montanari, "The generalization error of random features regression: precise asymptotics and the
    double descent curve" (2019), theorem 1 and 2. With the last term of the risk: it is absent from some talks.

    Examples
    --------
    >>> from wgflow.activations import ReLU
    >>> theory = RandomFeatures(ReLU(), psi1=2, psi2=3, ridge=1e-3)
    >>> f"{theory.bias:.10f} {theory.variance:.10f}"
    '0.6011889087 1.6314973935'
    """

    def __init__(self, activation: Activation, psi1: ArrayLike, psi2: ArrayLike, ridge: ArrayLike = 0.0):
        self.activation, self.coefficients = activation, equivalent_coefficients(activation)
        check_nonlinear(activation, self.coefficients)
        self.psi1, self.psi2 = _ratio("psi1", psi1), _ratio("psi2", psi2)
        self.ridge = real_array(ridge, "ridge")
        if not (np.all(self.ridge >= 0.0) and np.all(np.isfinite(self.ridge))):
            raise InvalidInput(f"ridge={ridge!r}: must be finite and >= 0")
        try:
            shape = np.broadcast_shapes(self.psi1.shape, self.psi2.shape, self.ridge.shape)
        except ValueError:
            raise InvalidInput(f"psi1, psi2 and ridge have shapes {self.psi1.shape}, {self.psi2.shape} and "
                               f"{self.ridge.shape}, which do not broadcast") from None
        zeta2 = (self.coefficients.linear / self.coefficients.nonlinear) ** 2
        lam = np.broadcast_to(self.ridge, shape) / self.coefficients.nonlinear**2
        both_infinite = np.isinf(self.psi1) & np.isinf(self.psi2) & (lam == 0.0)
        if np.any(both_infinite):
            raise InvalidInput("psi1 and psi2 are both infinite at ridge=0: the limit depends on which comes first; "
                               "give a ridge > 0, or one of them as a number")
        self._bias, self._variance, self._unexplained = _bias_and_variance(
            np.broadcast_to(self.psi1, shape).ravel(), np.broadcast_to(self.psi2, shape).ravel(), lam.ravel(), zeta2)
        self._shape = shape

    def __repr__(self) -> str:
        return (f"RandomFeatures({self.activation!r}, psi1={self.psi1.tolist()}, psi2={self.psi2.tolist()}, "
                f"ridge={self.ridge.tolist()})")

    def _shaped(self, values: FloatArray) -> float | FloatArray:
        return float(values[0]) if self._shape == () else values.reshape(self._shape).copy()

    @property
    def zeta(self) -> float:
        r""":math:`\zeta = \mu_1/\mu_*`."""
        return self.coefficients.linear / self.coefficients.nonlinear

    @property
    def bias(self) -> float | FloatArray:
        """B, the share of the linear part of the target that is not learned; of the shape of the parameters."""
        return self._shaped(self._bias)

    @property
    def variance(self) -> float | FloatArray:
        """V, the risk in units of the noise, to which the nonlinear part of the target adds."""
        return self._shaped(self._variance)

    def risk(self, signal: float = 1.0, noise: float = 0.0, nonlinear: float = 0.0) -> float | FloatArray:
        r"""Return :math:`E (f - \hat f)^2` at new points.

        Parameters
        ----------
        signal, noise, nonlinear : float
            :math:`|P_1 f|^2`, :math:`\tau^2` and :math:`|P_{>1} f|^2`.
        """
        return self._shaped(self._risk(*_parts(signal, noise, nonlinear)))

    def _risk(self, signal: float, noise: float, nonlinear: float) -> FloatArray:
        rest = noise + nonlinear
        variance = rest * self._variance if rest else 0.0
        return np.zeros_like(self._bias) + (signal * self._bias if signal else 0.0) + variance + nonlinear

    def training_error(self, signal: float = 1.0, noise: float = 0.0, nonlinear: float = 0.0) -> float | FloatArray:
        r"""Return the limit of :math:`\frac1n \sum_i (y_i - \hat f(x_i))^2`, without the penalty.

        Its ratio to the error :math:`E (f - \hat f)^2 + \tau^2` at a new noisy point is
        :math:`(1 - g/\psi_2)^2`, the share of the samples that the fit leaves free, squared (generalized
        cross-validation, exact in this limit).
        """
        signal, noise, nonlinear = _parts(signal, noise, nonlinear)
        risk = self._risk(signal, noise, nonlinear) + noise
        with np.errstate(invalid="ignore"):
            error = risk * self._unexplained**2
        return self._shaped(np.where(self._unexplained == 0.0, 0.0, error))

    def best_ridge(self, signal: float = 1.0, noise: float = 0.0, nonlinear: float = 0.0) -> tuple[float, float]:
        """Return the ridge of least risk and that risk, sought between 0 and 1e6.

        Raises
        ------
        InvalidInput
            If psi1 or psi2 is an array: one pair at a time.
        """
        parts = _parts(signal, noise, nonlinear)
        if self.psi1.shape or self.psi2.shape:
            raise InvalidInput("best_ridge takes one pair (psi1, psi2); make one RandomFeatures for each")

        def risk(ridges: ArrayLike) -> FloatArray:
            return RandomFeatures(self.activation, self.psi1, self.psi2, ridges)._risk(*parts)

        ridges = np.concatenate([[0.0], np.geomspace(*_RIDGES, _SCAN)])
        with np.errstate(invalid="ignore"):
            values = risk(ridges)
        k = int(np.argmin(values))
        if values[0] <= values[k] * (1.0 + _ROUNDING):
            return 0.0, float(values[0])
        low, high = np.log(ridges[max(k - 1, 1)]), np.log(ridges[min(k + 1, len(ridges) - 1)])
        found = minimize_scalar(lambda t: risk(np.exp(t)).item(), bounds=(low, high), method="bounded",
                                options={"xatol": 1e-9})
        ridge, best = float(ridges[k]), float(values[k])
        return (float(np.exp(found.x)), float(found.fun)) if found.fun < best else (ridge, best)

    def simulate(self, d: int, n_runs: int = 10, *, signal: float = 1.0, noise: float = 0.0, nonlinear: float = 0.0,
                 equivalent: bool = False, rng: int | np.random.Generator | None = None) -> Simulated:
        """Draw weights and samples in d dimensions, fit, and return the risk: the finite size beside the limit.

        The risk is averaged exactly over new points, the direction of the linear part and the noise; the nonlinear
        part is a quadratic form that is drawn. It comes within O(1/d) of the limit.

        Parameters
        ----------
        d : int
            Dimension; N and n are the nearest whole numbers to psi1 d and psi2 d.
        n_runs : int
            Independent draws, at least 2.
        signal, noise, nonlinear : float
            As for :meth:`risk`.
        equivalent : bool
            Take linear features with noise, mu_1 <w, x> + mu_* z, in place of the activation: the Gaussian-equivalent
            model, which has the same limit. It takes no nonlinear part.
        rng : int or Generator, optional

        Returns
        -------
        Simulated
            Mean, standard error and the values of the runs.

        Raises
        ------
        InvalidInput
            If psi1, psi2 or ridge is an array or infinite.
        """
        return simulate_risk(self, d, n_runs, _parts(signal, noise, nonlinear), equivalent, rng)


def _ratio(name: str, value: ArrayLike) -> FloatArray:
    array = real_array(value, name)
    if not np.all(array > 0.0):
        raise InvalidInput(f"{name}={value!r}: must be > 0, the number of "
                           f"{'neurons' if name == 'psi1' else 'samples'} over the dimension")
    return array


def _parts(signal: float, noise: float, nonlinear: float) -> tuple[float, float, float]:
    return (check_positive("signal", signal, zero=True), check_positive("noise", noise, zero=True),
            check_positive("nonlinear", nonlinear, zero=True))


def _root_c(g: FloatArray, zeta2: float) -> FloatArray:
    """Return the c > 0 with g = c (1 + z + z c)/(1 + z c), the positive root of z c^2 + (1 + z - z g) c = g."""
    b = 1.0 + zeta2 * (1.0 - g)
    root = np.hypot(b, 2.0 * np.sqrt(zeta2) * np.sqrt(g))
    return np.where(b >= 0.0, 2.0 * g / (np.abs(b) + root), (root - b) / (2.0 * zeta2) if zeta2 else g)


def _solve(least: FloatArray, more: FloatArray, lam: FloatArray, zeta2: float) -> FloatArray:
    """Return t = log(u/g), u + g = least, of the root of (u/P)((u + P' - P)/P') = lam c, with P' = P + more.

    The logarithm of the ratio of both sides increases in t from -infinity to infinity: Newton's steps inside a bracket.
    Both parts of ``least`` keep their relative precision, however small.
    """
    target = np.log(lam) + np.log(least)
    low, high = np.full_like(least, -_REACH), np.full_like(least, _REACH)
    t = np.zeros_like(least)
    for _ in range(_STEPS):
        u, g = least * _logistic(t), least * _logistic(-t)
        c = _root_c(g, zeta2)
        value = np.log(u) + np.log(_share(u, least, more)) - np.log(c) - target
        low, high = np.where(value < 0.0, t, low), np.where(value < 0.0, high, t)
        slope = _logistic(-t) + g * _logistic(t) / (u + more) + _logistic(t) * _elasticity(c, g, zeta2)
        step = t - value / slope
        inside = (step > low) & (step < high)
        new = np.where(inside, step, 0.5 * (low + high))
        if np.all(np.abs(new - t) <= 4e-16 * np.maximum(1.0, np.abs(t))):
            return new
        t = new
    return t


def _share(u: FloatArray, least: FloatArray, more: FloatArray) -> FloatArray:
    """Return (u + more)/(least + more), 1 where more is infinite."""
    return np.where(np.isinf(more), 1.0, (u + more) / np.where(np.isinf(more), 1.0, least + more))


def _logistic(t: FloatArray) -> FloatArray:
    return np.where(t >= 0.0, 1.0, np.exp(np.minimum(t, 0.0))) / (1.0 + np.exp(-np.abs(t)))


def _elasticity(c: FloatArray, g: FloatArray, zeta2: float) -> FloatArray:
    """Return d log c / d log g."""
    slope = np.hypot(1.0 + zeta2 * (1.0 - g), 2.0 * np.sqrt(zeta2) * np.sqrt(g))
    return (g / c) * ((1.0 + zeta2 * c) / slope)


def _bias_and_variance(psi1: FloatArray, psi2: FloatArray, lam: FloatArray, zeta2: float):
    """Return B, V and 1 - g/psi2; every quantity is divided by psi1 psi2, so that both may be infinite."""
    least, most = np.minimum(np.minimum(psi1, psi2), _LARGE), np.maximum(psi1, psi2)
    more = np.where(np.isinf(most), np.inf, most - least)
    small = lam == 0.0
    t = np.full_like(least, -np.inf)
    t[~small] = _solve(least[~small], more[~small], lam[~small], zeta2)
    u_least, g = least * _logistic(t), least * _logistic(-t)
    c = _root_c(g, zeta2)
    share_least = np.where(np.minimum(psi1, psi2) > _LARGE, 1.0, _logistic(t))
    share_most = _share(u_least, least, more)
    first = psi1 <= psi2
    u, v = np.where(first, share_least, share_most), np.where(first, share_most, share_least)
    q = 1.0 + zeta2 * c
    curve = q * q + zeta2
    denominator = q * q * u * v + c * (u / psi2 + v / psi1) * curve
    with np.errstate(divide="ignore"):
        bias = (1.0 + zeta2 * c * (c / psi1)) / denominator
        variance = (c / psi2) * ((g / psi1) * curve + zeta2**2 * c * u) / denominator
    return bias, variance, v
