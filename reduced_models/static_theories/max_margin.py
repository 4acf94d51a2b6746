"""Max-margin classification with random features: the margin and the test error in the limit of proportional growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.optimize import root
from scipy.special import expit, ndtr

from wgflow.activations.base import Activation
from wgflow.checks import call_user, check_positive
from wgflow.errors import ConvergenceError, InvalidInput

from ..base import FloatArray
from .equivalent_coefficients import check_nonlinear, equivalent_coefficients
from .max_margin_runs import simulate_margin
from .simulated import Simulated

__all__ = ["MarginSimulation", "MaxMargin"]

_REACH = 9.0  # of the normal laws, in standard deviations
_NODES = 12  # of a Gauss-Legendre panel
_PANEL = 0.05  # its largest width
_SIDE_NODES = 60  # of the Gauss-Legendre rule for the label's probability, on each side of a jump
_ANGLES = 400  # of the trapezoidal rule for the spectrum, which converges geometrically
_RESIDUAL = 1e-10  # of the four equations
_FINER_RESIDUAL = 1e-8  # of the solution in the equations with panels of half the width
_FIRST = 0.02  # n/d over min(N/d, 1) at which the solution is followed from
_GROWTH = 1.3  # largest factor from one number of samples to the next
_SHORTEST = 1e-6  # relative change of the number of samples at which following is given up
_NO_MARGIN = 1e-9  # kappa/c2 below which there is no margin
_NEAR_THRESHOLD = 1e-3  # kappa/c2 below which a solution that ends there has met the threshold

Link = str | Callable[[FloatArray], FloatArray]


class MarginSimulation(NamedTuple):
    """Margins and test errors over independent draws."""

    margin: Simulated
    error: Simulated


class MaxMargin:
    r"""The classifier of largest margin on N random features from n labeled samples in d dimensions.

    With the Gaussian-equivalent features :math:`u = \mu_1 W x + \mu_* z`, :math:`x \sim N(0, I_d), z \sim N(0, I_N)`,
    rows of W uniform on the unit sphere, and :math:`P(y = 1 | x) = f_0(\langle \beta, x \rangle)`, :math:`|\beta| = 1`,

    .. math:: \hat a = \arg\max_{|a| \le 1} \min_i y_i \langle a, u_i \rangle, \qquad N/d \to \psi_1, n/d \to \psi_2 .

    The margin :math:`\kappa` and the test error solve four equations. Let :math:`s^2` have the law of the eigenvalues
    of :math:`W^T W` (:math:`\psi_1` times the Marchenko-Pastur law of ratio :math:`1/\psi_1`),
    :math:`\ell = \mu_1^2 s^2 + \mu_*^2, v = E\,\mu_1^2 s^2/\ell`, and

    .. math::
        \mathrm{tr}(h) = \frac{E h(\ell) + (\psi_1 - 1)\,h(\mu_*^2)}{\psi_2}, \qquad
        \mathrm{rq}(h) = E\,\frac{\mu_1^2 s^2}{\ell v}\,h(\ell), \qquad
        F(c_1, c_2) = \sqrt{E (\kappa - c_1 T - c_2 Z)_+^2} ,

    where Z is normal and T has the density of y G given that G = :math:`\langle \beta, x \rangle` is seen through the
    features with weight v. With :math:`\nu = F_2/c_2, \eta = F_1 - (c_1/c_2) F_2, D = \mu + \nu \ell`

    .. math::
        \mathrm{tr}(\ell/D^2) + \eta^2 \mathrm{rq}(\ell/D^2) = 1, \quad c_1 = -\eta\,\mathrm{rq}(\ell/D), \quad
        \mathrm{tr}(\ell^2/D^2) + \eta^2 \mathrm{rq}(\ell^2/D^2) = c_1^2 + c_2^2, \quad F = \mathrm{tr}(\ell/D) .

    The error at new points is :math:`P(c_1 T + c_2 Z \le 0)`.

    Parameters
    ----------
    activation : Activation
        Gives :math:`\mu_1, \mu_*` (see ``equivalent_coefficients``); it must not be linear, nor even.
    psi1, psi2 : float
        N/d and n/d, positive.
    link : {"sign", "logistic", "probit"} or callable
        :math:`f_0`. A function of an array gives probabilities of the label 1; it may jump at 0, and is taken to be
        smooth elsewhere.

    Raises
    ------
    InvalidInput
        If a ratio is not positive, the activation has no linear or no nonlinear part, or the link gives no
        probabilities.
    ConvergenceError
        When a value is asked for and the four equations are not solved to 1e-10.

    Notes
    -----
    The solution is followed from few samples, where it is unique and known. Where the classes cannot be separated,
    psi2 beyond a threshold, the margin is 0 (that of a = 0) and the error has no meaning: it is refused.

    Derived by the convex Gaussian min-max theorem, as in Montanari, Ruan, Sohn and Yan, "The generalization error of
    max-margin linear classifiers" (2019).

    Examples
    --------
    >>> from wgflow.activations import ReLU
    >>> theory = MaxMargin(ReLU(), psi1=4, psi2=2)
    >>> f"{theory.margin:.7f} {theory.error:.7f}"
    '0.6490475 0.2483142'
    """

    def __init__(self, activation: Activation, psi1: float, psi2: float, link: Link = "sign"):
        self.activation, self.coefficients = activation, equivalent_coefficients(activation)
        check_nonlinear(activation, self.coefficients)
        if abs(self.coefficients.linear) < 1e-12 * self.coefficients.nonlinear:
            raise InvalidInput(f"activation={activation!r} is even (mu_1 = 0): its features do not see <beta, x>, and "
                               "labels look like coin flips; take an activation with a linear part")
        self.psi1, self.psi2 = check_positive("psi1", psi1), check_positive("psi2", psi2)
        if link not in ("sign", "logistic", "probit") if isinstance(link, str) else not callable(link):
            raise InvalidInput(f"link={link!r}: choose 'sign', 'logistic', 'probit' or give a function of <beta, x>")
        self.link = link
        self._spectrum()
        self._t, self._t_weights = self._labels(_PANEL)

    def __repr__(self) -> str:
        return f"MaxMargin({self.activation!r}, psi1={self.psi1:g}, psi2={self.psi2:g}, link={self.link!r})"

    def label_probability(self, z: FloatArray) -> FloatArray:
        """Return f_0(z) = P(y = 1), for z = <beta, x>."""
        if self.link == "sign":
            return np.heaviside(z, 0.5)
        if self.link == "logistic":
            return expit(z)
        if self.link == "probit":
            return ndtr(z)
        values = np.broadcast_to(np.asarray(call_user(self.link, (z,), "link"), dtype=float), z.shape)
        if not np.all((values >= 0.0) & (values <= 1.0)):
            raise InvalidInput(f"link gives {values[~((values >= 0) & (values <= 1))][0]}; it must give probabilities "
                               "of the label 1, in [0, 1]")
        return values

    # ------------------------------------------------------------------ the laws of the eigenvalues and of T
    def _spectrum(self) -> None:
        """Nodes and weights of the eigenvalues of W'W that are not 0, as ell, and the share of those that are."""
        aspect = 1.0 / self.psi1
        angle = (np.arange(_ANGLES) + 0.5) * np.pi / _ANGLES
        x = 1.0 + aspect + 2.0 * math.sqrt(aspect) * np.cos(angle)
        density = 2.0 * np.sin(angle) ** 2 / (np.pi * x) * (np.pi / _ANGLES)
        _, linear, nonlinear = self.coefficients
        signal = linear**2 * self.psi1 * x
        self._ell, self._floor = signal + nonlinear**2, nonlinear**2
        self._share = signal / self._ell * density
        self._v = float(self._share.sum())
        self._share = self._share / self._v
        self._density = density
        self._extra = max(self.psi1 - 1.0, 0.0)  # features beyond the d directions of x, in units of d

    def _labels(self, panel: float) -> tuple[FloatArray, FloatArray]:
        """Return nodes and weights of T = y G, for G normal and the label seen through weight v."""
        width = math.sqrt(max(1.0 - self._v, 1e-30) / self._v)
        t, weights = _panels(0.5 * width, panel)
        if self.link == "sign":
            chance = ndtr(t / width)
        else:  # E f_0(sqrt(v) t + sqrt(1 - v) Z), split where the argument changes its sign
            spread, shift = math.sqrt(max(1.0 - self._v, 1e-30)), math.sqrt(self._v) * t[:, None]
            split = np.clip(-shift / spread, -_REACH, _REACH)
            nodes, inner = np.polynomial.legendre.leggauss(_SIDE_NODES)
            chance = np.zeros_like(t)
            for low, high in ((-_REACH, split), (split, _REACH)):
                half = 0.5 * (high - low)
                z = 0.5 * (low + high) + half * nodes
                f = self.label_probability(shift + spread * z)
                chance += np.sum(half * inner * f * np.exp(-0.5 * z * z), axis=1) / math.sqrt(2.0 * np.pi)
        normal = np.exp(-0.5 * t * t) / math.sqrt(2.0 * np.pi)
        # The nodes are symmetric: chance[::-1] is the probability at -t.
        density = weights * normal * (chance + 1.0 - chance[::-1])
        return t, density / density.sum()

    # ------------------------------------------------------------------ the four equations
    def _averages(self, psi2: float, mu: float, nu: float):
        """Return tr and rq of ell/D, ell/D^2 and ell^2/D^2."""
        d, floor = mu + nu * self._ell, mu + nu * self._floor
        traces, quotients = [], []
        for power, order in ((1, 1), (1, 2), (2, 2)):
            h, h0 = self._ell**power / d**order, self._floor**power / floor**order
            traces.append((float(self._density @ h) + self._extra * h0) / psi2)
            quotients.append(float(self._share @ h))
        return traces, quotients

    def _residuals(self, point: FloatArray, psi2: float) -> FloatArray:
        """Return the differences of the four equations at (log c2, c1/c2, log mu, kappa/c2)."""
        c2, ratio, mu, scaled = math.exp(point[0]), point[1], math.exp(point[2]), point[3]
        s = scaled - ratio * self._t
        below = ndtr(s)
        part = s * below + np.exp(-0.5 * s * s) / math.sqrt(2.0 * np.pi)  # E (s - Z)_+
        f = math.sqrt(float(self._t_weights @ (s * part + below)))  # F/c2
        nu = float(self._t_weights @ below) / (f * c2)
        eta = -float(self._t_weights @ (self._t * part)) / f - ratio * nu * c2
        traces, quotients = self._averages(psi2, mu, nu)
        c1 = ratio * c2
        return np.array([
            traces[1] + eta**2 * quotients[1] - 1.0,
            (c1 + eta * quotients[0]) / c2,
            (traces[2] + eta**2 * quotients[2]) / (c1 * c1 + c2 * c2) - 1.0,
            f * c2 / traces[0] - 1.0,
        ])

    def _solved(self, start: FloatArray, psi2: float) -> FloatArray | None:
        with np.errstate(all="ignore"):
            try:
                found = root(self._residuals, start, args=(psi2,), tol=1e-14)
            except (OverflowError, ValueError, ZeroDivisionError):
                return None
            if not np.all(np.isfinite(found.x)) or np.max(np.abs(self._residuals(found.x, psi2))) > _RESIDUAL:
                return None
        return found.x

    def _first(self) -> tuple[float, FloatArray]:
        """Return a small n/d and the solution there: all samples are support vectors, kappa^2 = E ell + ... large."""
        psi2 = min(self.psi2, _FIRST * min(self.psi1, 1.0))
        while psi2 > 1e-9:
            level = (float(self._density @ self._ell) + self._extra * self._floor) / psi2
            square = (float(self._density @ self._ell**2) + self._extra * self._floor**2) / psi2 / level
            kappa, c2 = math.sqrt(level), math.sqrt(square)
            mean = float(self._t_weights @ self._t)
            c1 = mean * float(self._share @ self._ell) / kappa
            start = np.array([math.log(c2), c1 / c2, math.log(kappa), kappa / c2])
            # Here F is about kappa, nu about 1/kappa, and |a| = 1 fixes mu + nu ell at about kappa.
            found = self._solved(start, psi2)
            if found is not None:
                return psi2, found
            psi2 *= 0.5
        raise ConvergenceError(f"{self!r}: no solution was found even for few samples; the residuals stay above "
                               f"{_RESIDUAL:g}", reason="inner-solver")

    @cached_property
    def _solution(self) -> FloatArray | None:
        """The solution at psi2, or None where there is no positive margin, followed from few samples."""
        psi2, point = self._first()
        slope, factor = np.zeros(4), _GROWTH
        while psi2 < self.psi2:
            target = min(psi2 * factor, self.psi2)
            step = math.log(target / psi2)
            found = self._solved(point + step * slope, target)
            # The margin falls with the number of samples; another root of the equations would make it jump.
            if found is None or _kappa(found) > _kappa(point):
                factor = math.sqrt(factor)
                if factor - 1.0 < _SHORTEST:
                    if point[3] < _NEAR_THRESHOLD:
                        return None
                    raise ConvergenceError(f"{self!r}: the four equations could not be followed beyond "
                                           f"psi2 = {psi2:g}", reason="inner-solver")
                continue
            if found[3] <= _NO_MARGIN:
                return None
            slope, point, psi2 = (found - point) / step, found, target
            factor = min(factor**1.5, _GROWTH)
        self._check_resolution(point)
        return point

    def _check_resolution(self, point: FloatArray) -> None:
        coarse = self._t, self._t_weights
        self._t, self._t_weights = self._labels(0.5 * _PANEL)
        residual = float(np.max(np.abs(self._residuals(point, self.psi2))))
        self._t, self._t_weights = coarse
        if residual > _FINER_RESIDUAL:
            raise ConvergenceError(f"{self!r}: the integrals over the labels are not resolved (residual {residual:.1e} "
                                   "with finer panels); the error is too small, or the link is not smooth on both "
                                   "sides of 0", reason="inner-solver")

    # ------------------------------------------------------------------ what is asked
    @property
    def separable(self) -> bool:
        """Whether the limit has a positive margin."""
        return self._solution is not None

    @property
    def margin(self) -> float:
        r""":math:`\kappa`, the largest margin over the unit ball; 0 where the classes cannot be separated."""
        point = self._solution
        return 0.0 if point is None else _kappa(point)

    @property
    def error(self) -> float:
        """Share of new points that are misclassified.

        Raises
        ------
        InvalidInput
            If the classes cannot be separated: no direction has a margin.
        """
        point = self._solution
        if point is None:
            raise InvalidInput(f"psi2={self.psi2:g}: the classes cannot be separated at psi1={self.psi1:g}, so that no "
                               "classifier has a margin; take fewer samples or more features (`separable` tells)")
        return float(self._t_weights @ ndtr(-point[1] * self._t))

    def simulate(self, d: int, n_runs: int = 10, *, equivalent: bool = True,
                 rng: int | np.random.Generator | None = None) -> MarginSimulation:
        """Draw features and labels in d dimensions, find the largest margin, and return it with the test error.

        The dual problem, the point of least norm in the convex hull of the rows y_i u_i, is solved by SciPy's
        non-negative least squares. The test error is an integral, not a sample, for the Gaussian-equivalent features;
        of the network's own features it is measured on 20,000 points.

        Parameters
        ----------
        d : int
            Dimension; N and n are the nearest whole numbers to psi1 d and psi2 d.
        n_runs : int
            Independent draws, at least 2.
        equivalent : bool
            Take the Gaussian-equivalent features, or those of the activation (less its mean).
        rng : int or Generator, optional

        Returns
        -------
        MarginSimulation
            ``.margin`` and ``.error``, each with mean and standard error. A draw that cannot be separated counts with
            margin 0 and error 1/2.
        """
        return MarginSimulation(*simulate_margin(self, d, n_runs, equivalent, rng))


def _kappa(point: FloatArray) -> float:
    return float(point[3] * math.exp(point[0]))


def _panels(first: float, largest: float) -> tuple[FloatArray, FloatArray]:
    """Return Gauss-Legendre panels on (-9, 9) that are symmetric and grow from ``first`` beside 0 to ``largest``."""
    edges = [0.0]
    width = min(first, largest)
    while edges[-1] < _REACH:
        edges.append(edges[-1] + width)
        width = min(1.5 * width, largest)
    half = np.array(edges)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    radius = 0.5 * np.diff(half)[:, None]
    x = (0.5 * (half[1:] + half[:-1])[:, None] + radius * nodes).ravel()
    w = (radius * weights).ravel()
    return np.concatenate([-x[::-1], x]), np.concatenate([w[::-1], w])
