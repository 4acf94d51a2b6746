"""Linear neurons and Gaussian data: the one network whose mean-field flow is known in closed form."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import finite_array
from wgflow.activations.smooth import Polynomial
from wgflow.atoms import Atoms
from wgflow.checks import check_positive
from wgflow.errors import InvalidInput

from .base import FloatArray
from .gaussian_laws import (
    REACH,
    GaussianNetwork,
    GaussianState,
    as_covariance,
    as_vector,
    check_times,
    coordinate_names,
    gaussian_state,
    stack_coordinates,
)

__all__ = ["LinearNeuron"]


class LinearNeuron(GaussianNetwork):
    r"""Linear neurons :math:`\sigma_*(x; \theta) = \langle x, \theta \rangle` and a linear target.

    With :math:`x \sim N(0, S)` and :math:`y = \langle b, x \rangle` plus independent noise of variance :math:`\tau^2`,

    .. math::
        U(\theta, \theta') = \theta^T S \theta', \qquad V(\theta) = -\theta^T S b, \qquad
        R(\rho) = (m - b)^T S (m - b) + \tau^2, \quad m = \int \theta \rho ,

    so that the D features are :math:`S^{1/2} \theta`. Only the second moments of the data enter; the samples drawn for
    SGD are Gaussian. On the clock :math:`\dot\theta = -s \nabla \delta F / \delta\rho` a Gaussian law stays Gaussian,

    .. math::
        m' = -s\,[(S + \lambda) m - S b], \qquad C' = -2 s \lambda\, C + 2 s \beta^{-1} I,

    and `exact` gives it in closed form. For any other initial law the same formulas hold for mean, covariance and risk.

    Parameters
    ----------
    covariance : float or array_like, shape (D,) or (D, D)
        S, symmetric and positive semi-definite; a number is that multiple of the identity, a vector the diagonal.
    direction : float or array_like, shape (D,)
        b. Grids exist for D up to 4; atoms, SGD and the exact solution for any D.
    noise_variance : float
        :math:`\tau^2 \ge 0`.

    Raises
    ------
    InvalidInput
        If shapes do not fit, something is not finite, or the covariance is not symmetric positive semi-definite.

    Examples
    --------
    >>> model = LinearNeuron(covariance=[2.0, 0.5], direction=[1.0, -1.0], noise_variance=0.3)
    >>> state = model.exact(0.1, mean0=[-1.0, 2.0], cov0=0.2, beta=3.0, ridge=0.7)
    >>> f"{state.energy:.10f} {state.risk:.8f}"
    '3.7934733948 6.63048434'
    """

    name = "LinearNeuron"

    def __init__(self, covariance: ArrayLike, direction: ArrayLike, noise_variance: float = 0.0):
        b = np.atleast_1d(finite_array("direction", direction))
        if b.ndim != 1 or b.size == 0:
            raise InvalidInput(f"direction has shape {b.shape}; need a number or (D,) with D >= 1")
        self.direction = b
        self.covariance = as_covariance("covariance", covariance, b.size)
        self.noise_variance = check_positive("noise_variance", noise_variance, zero=True)
        self.input_dimension = float(b.size)
        self.activation = Polynomial([0.0, 1.0])
        self.coordinate_names = coordinate_names("theta", b.size)
        self._rates, self._axes = np.linalg.eigh(self.covariance)
        self._rates = np.maximum(self._rates, 0.0)
        self._root = (self._axes * np.sqrt(self._rates)) @ self._axes.T
        with np.errstate(over="ignore", invalid="ignore"):
            self._target = self._root @ b
            self.label_second_moment = float(np.sum(self._target**2) + self.noise_variance)
        if not math.isfinite(self.label_second_moment):
            raise InvalidInput("E y^2 = b' S b + noise_variance overflows; scale covariance or direction down")

    def __repr__(self) -> str:
        return (f"LinearNeuron(covariance={self.covariance.tolist()}, direction={self.direction.tolist()}, "
                f"noise_variance={self.noise_variance:g})")

    # ---------------------------------------------------------------- reduced coordinates
    @property
    def target(self) -> FloatArray:
        return self._target

    def features(self, *coordinates: ArrayLike) -> FloatArray:
        return np.einsum("ij,j...->i...", self._root, stack_coordinates(self, coordinates))

    def feature_gradients(self, *coordinates: ArrayLike) -> FloatArray:
        shape = stack_coordinates(self, coordinates).shape[1:]
        gradients = self._root.reshape(self._root.shape + (1,) * len(shape))
        return np.broadcast_to(gradients, self._root.shape + shape).copy()

    def diagonal(self, *coordinates: ArrayLike) -> FloatArray:
        return np.sum(np.square(self.features(*coordinates)), axis=0)

    def hidden_noise(self, law: Atoms) -> tuple[FloatArray, FloatArray]:
        c, n = self.n_coordinates, law.size
        return np.zeros((c, n)), np.zeros((c, c, n))

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        moments, slopes = self._moments_and_slopes(law, fields)
        # x = S^1/2 g: the functions of the data are the components of the normal vector g.
        gap = self.target - moments
        along = slopes @ gap
        return (gap @ gap + self.noise_variance) * (slopes @ slopes.T) + np.multiply.outer(along, along)

    def _default_bounds(self, kappa: float, mean0: FloatArray, beta: float, ridge: float) -> FloatArray:
        if math.isfinite(beta) and ridge == 0.0:
            raise InvalidInput(f"beta={beta:g} with ridge=0: the law spreads forever, so that no grid holds it; "
                               "give bounds, or a ridge")
        noise = 1.0 / math.sqrt(beta * ridge) if ridge > 0.0 else 0.0
        spread = REACH * max(kappa / math.sqrt(self.n_coordinates), noise)
        rates = self._rates + ridge
        rates = rates[rates > 1e-300]
        times = np.geomspace(1e-2 / rates.max(), 40.0 / rates.min(), 200) if rates.size else np.zeros(0)
        path = self.exact(np.append(0.0, times), mean0, 0.0, math.inf, ridge).mean
        return np.stack([path.min(axis=0) - spread, path.max(axis=0) + spread], axis=1)

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

        In the eigenbasis of S, with :math:`k = s (S + \lambda)` and :math:`\varphi_k(t) = (1 - e^{-kt})/k`
        (t at k = 0),

        .. math::
            m(t) = e^{-kt} m_0 + s\,\varphi_k(t)\, S b, \qquad
            C(t) = e^{-2 s \lambda t} C_0 + 2 s \beta^{-1} \varphi_{2 s \lambda}(t)\, I .

        Parameters
        ----------
        t : array_like
            Times, at least 0. For SGD with a schedule ``xi(t)`` give the integral of ``xi``.
        mean0 : float or array_like, shape (D,)
        cov0 : float or array_like, shape (D,) or (D, D)
            Positive semi-definite; 0 is a point mass.
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
        """
        t = check_times(t)
        m0, c0 = as_vector("mean0", mean0, self.n_coordinates), as_covariance("cov0", cov0, self.n_coordinates)
        beta, ridge = check_positive("beta", beta, infinite=True), check_positive("ridge", ridge, zero=True)
        s = check_positive("time_scale", self.time_scale if time_scale is None else time_scale)
        with np.errstate(over="ignore", invalid="ignore"):
            decay, grown = _decay(s * (self._rates + ridge), t)
            pull = s * self._rates * (self.direction @ self._axes)
            mean = (decay * (m0 @ self._axes) + grown * pull) @ self._axes.T
            shrink, spread = _decay(np.array([2.0 * s * ridge]), t)
            cov = shrink[..., None] * c0 + (2.0 * s / beta) * spread[..., None] * np.eye(m0.size)
            gap = mean - self.direction
            slope = np.broadcast_to(ridge * np.eye(m0.size), cov.shape)
            return gaussian_state(t, mean, cov, np.sum((gap @ self._root) ** 2, axis=-1) + self.noise_variance,
                                  gap @ self.covariance + ridge * mean, slope, beta, ridge, s)

    # ---------------------------------------------------------------- the network
    def sample_data(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        x = rng.standard_normal((n, self.n_parameters)) @ self._root
        return x, x @ self.direction + math.sqrt(self.noise_variance) * rng.standard_normal(n)

    def population_risk(self, theta: ArrayLike) -> FloatArray:
        r"""Return the exact risk :math:`|S^{1/2}(\bar\theta - b)|^2 + \tau^2` of networks (..., n_neurons, D)."""
        gap = np.mean(self.check_theta(theta), axis=-2) - self.direction
        return np.sum((gap @ self._root) ** 2, axis=-1) + self.noise_variance


def _decay(rates: FloatArray, t: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ``e^{-kt}`` and its integral from 0 to t, shapes (*t.shape, k.size)."""
    kt = t[..., None] * rates
    safe = np.where(rates > 0.0, rates, 1.0)
    return np.exp(-kt), np.where(rates > 0.0, -np.expm1(-kt) / safe, t[..., None])
