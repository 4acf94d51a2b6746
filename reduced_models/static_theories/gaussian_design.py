"""Ridge regression with Gaussian covariates of any covariance: what the covariance of features predicts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from wgflow.checks import check_count, check_positive, real_array
from wgflow.errors import InvalidInput

from .simulated import Simulated, as_generator, over_runs

__all__ = ["GaussianDesign"]

_ROUNDING = 1e-12  # share of the largest eigenvalue below which there is none
_STEPS = 500  # of the root, at most



class GaussianDesign:
    r"""Ridge regression of :math:`y = \langle \beta, x \rangle + \varepsilon` on n samples :math:`x \sim N(0, \Sigma)`.

    .. math:: \hat\beta = \arg\min_b \frac1n \sum_i (y_i - \langle b, x_i \rangle)^2 + \lambda\,|b|^2 .

    Let :math:`s_k` be the eigenvalues of :math:`\Sigma`, :math:`\beta_k` the parts of :math:`\beta` along its axes, and
    :math:`\mathrm{df}_m = \sum_k (s_k/(s_k + \kappa))^m`. With the only :math:`\kappa > 0` that solves
    :math:`\kappa\,(1 - \mathrm{df}_1/n) = \lambda`, for many samples and directions,

    .. math::
        E\,\langle \hat\beta - \beta, x \rangle^2 = \frac{\kappa^2 \sum_k \beta_k^2 s_k/(s_k + \kappa)^2
        + \tau^2\,\mathrm{df}_2/n}{1 - \mathrm{df}_2/n} , \qquad \tau^2 = \mathrm{Var}(\varepsilon).

    At :math:`\lambda = 0` and fewer directions than samples, :math:`\kappa = 0`: no bias, and the variance
    :math:`p/(n - p)`.

    Features of a network that behave like Gaussian ones of the same covariance are such covariates
    (:meth:`of_features`); those of ``RandomFeatures``, with random weights, are the case in which the law of the
    eigenvalues is known.

    Parameters
    ----------
    eigenvalues : array_like, shape (p,)
        Of the covariance, not negative; those below 1e-12 of the largest count as 0.
    signal : array_like, shape (p,)
        :math:`\beta_k^2`.
    n_samples : int
    ridge : float
        :math:`\lambda \ge 0`.

    Raises
    ------
    InvalidInput
        If shapes differ, a number is negative, or all eigenvalues are 0.

    Notes
    -----
    At ``ridge=0`` and as many directions as samples the risk is infinite. Source: Hastie, Montanari, Rosset and
    Tibshirani, "Surprises in high-dimensional ridgeless least squares interpolation" (2019), theorem 5; Loureiro and
    others, "Learning curves of generic features maps for realistic datasets with a teacher-student model" (2021).

    Examples
    --------
    >>> theory = GaussianDesign(np.ones(300), np.full(300, 1 / 300), n_samples=500)
    >>> f"{theory.risk(noise=1.0):.3f} {theory.training_error(noise=1.0):.3f}"
    '1.500 0.400'
    """

    def __init__(self, eigenvalues: ArrayLike, signal: ArrayLike, n_samples: int, ridge: float = 0.0):
        values, parts = real_array(eigenvalues, "eigenvalues"), real_array(signal, "signal")
        if values.ndim != 1 or values.shape != parts.shape or not values.size:
            raise InvalidInput(f"eigenvalues and signal have shapes {values.shape} and {parts.shape}; need (p,) both")
        for name, array in (("eigenvalues", values), ("signal", parts)):
            if not (np.all(np.isfinite(array)) and np.all(array >= 0.0)):
                raise InvalidInput(f"{name} must be finite and >= 0; the least is {np.min(array):g}")
        if not np.any(values > 0.0):
            raise InvalidInput("eigenvalues are all 0: there is nothing to regress on")
        kept = values > _ROUNDING * values.max()
        self._s, self._square = values[kept], parts[kept]
        self.n_samples, self.ridge = check_count("n_samples", n_samples), check_positive("ridge", ridge, zero=True)
        self.kappa = self._root()

    def __repr__(self) -> str:
        return f"GaussianDesign(p={self._s.size}, n_samples={self.n_samples}, ridge={self.ridge:g})"

    @classmethod
    def of_features(cls, features: ArrayLike, labels: ArrayLike, n_samples: int,
                    ridge: float = 0.0) -> tuple[GaussianDesign, float]:
        r"""Return the theory for features of a population, and the mean square that no linear function of them fits.

        The covariance is :math:`\frac1M Z^T Z` (features are not centered, as the fit has no constant), and
        :math:`\beta` the least-squares fit to the whole population. What it leaves adds to the noise, and to the risk.

        Parameters
        ----------
        features : array_like, shape (M, p)
            Many more rows than ``n_samples`` and p: with p near M the fit to the population learns its noise.
        labels : array_like, shape (M,)
        n_samples, ridge
            Of the regression on a sample of them.
        """
        z, y = real_array(features, "features"), real_array(labels, "labels")
        if z.ndim != 2 or y.shape != z.shape[:1]:
            raise InvalidInput(f"features and labels have shapes {z.shape} and {y.shape}; need (M, p) and (M,)")
        left, singular, _ = np.linalg.svd(z, full_matrices=False)
        if not singular[0] > 0.0:
            raise InvalidInput("features are all 0: there is nothing to regress on")
        kept = singular**2 > _ROUNDING * singular[0] ** 2
        along = left[:, kept].T @ y
        rest = max(float(y @ y - along @ along), 0.0) / len(y)
        values = singular[kept] ** 2
        return cls(values / len(y), along**2 / values, n_samples, ridge), rest

    def at_ridge(self, ridge: float) -> GaussianDesign:
        """Return the same regression with another ridge."""
        return GaussianDesign(self._s, self._square, self.n_samples, ridge)

    def _root(self) -> float:
        s, n, ridge = self._s, self.n_samples, self.ridge
        if ridge == 0.0 and s.size <= n:
            return 0.0
        # kappa = ridge + (1/n) sum s kappa/(s + kappa) bounds it on both sides.
        highest = ridge + float(s.sum()) / n
        if ridge > 0.0:
            low = ridge
        else:
            low = float(s.min()) * (s.size / n - 1.0)

        def residual(log_kappa: float) -> float:
            kappa = float(np.exp(log_kappa))
            return kappa * (1.0 - self._freedom(kappa) / n) - ridge

        start, end = np.log(low), np.log(highest) + 1e-9
        if residual(start) >= 0.0:  # the bound itself, to rounding
            return low
        return float(np.exp(brentq(residual, start, end, xtol=1e-14, rtol=1e-14, maxiter=_STEPS)))

    def _freedom(self, kappa: float, power: int = 1) -> float:
        return float(np.sum((self._s / (self._s + kappa)) ** power))

    @property
    def degrees_of_freedom(self) -> float:
        """df_1, the samples that the fit uses up."""
        return self._freedom(self.kappa)

    def risk(self, noise: float = 0.0) -> float:
        r"""Return :math:`E\,\langle \hat\beta - \beta, x \rangle^2`; ``noise`` is :math:`\tau^2`."""
        noise = check_positive("noise", noise, zero=True)
        used = self._freedom(self.kappa, 2) / self.n_samples
        bias = float(np.sum(self._square * self._s * (self.kappa / (self._s + self.kappa)) ** 2))
        if used >= 1.0:
            return np.inf if noise or self._s.size > self.n_samples else 0.0
        return (bias + noise * used) / (1.0 - used)

    def training_error(self, noise: float = 0.0) -> float:
        r"""Return :math:`\frac1n \sum (y_i - \langle \hat\beta, x_i \rangle)^2`.

        It is :math:`(1 - \mathrm{df}_1/n)^2` times the error at a new noisy point.
        """
        free = 1.0 - self.degrees_of_freedom / self.n_samples
        if self.ridge == 0.0 and self._s.size >= self.n_samples:
            return 0.0
        return free * free * (self.risk(noise) + noise)

    def simulate(self, n_runs: int = 20, *, noise: float = 0.0,
                 rng: int | np.random.Generator | None = None) -> Simulated:
        """Draw Gaussian covariates, fit, and return the risk, averaged exactly over the noise and over new points.

        Parameters
        ----------
        n_runs : int
            Independent draws, at least 2.
        noise : float
            Variance of the noise.
        rng : int or Generator, optional

        Returns
        -------
        Simulated
        """
        noise = check_positive("noise", noise, zero=True)
        beta, n = np.sqrt(self._square), self.n_samples

        def one(generator: np.random.Generator) -> float:
            x = generator.standard_normal((n, self._s.size)) * np.sqrt(self._s)
            left, singular, right = np.linalg.svd(x, full_matrices=False)
            shrunk = singular / (singular**2 + n * self.ridge)
            fitted = right.T @ (shrunk * (left.T @ (x @ beta)))
            spread = float(np.sum((right.T * shrunk) ** 2 * self._s[:, None]))
            return float(np.sum(self._s * (fitted - beta) ** 2)) + noise * spread

        return over_runs(one, n_runs, as_generator(rng))
