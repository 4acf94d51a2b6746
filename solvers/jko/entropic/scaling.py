"""One convex problem of the entropic JKO step, solved by scaling and Newton's method in logarithms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wgflow.compiled.log_convolution import LogConvolution, LogSum
from wgflow.progress import pulse

from ...base import no_limit
from .energy import LARGEST_EXPONENT, SeparableEnergy

__all__ = ["LOST", "Coupling", "ScalingProblem", "safe_exp", "self_potential", "weighted"]

#: Squared norm of the residual of Newton's linear system, relative to that of its right side.
LINEAR_TOLERANCE = 1e-4
#: Iterations for that system.
MAX_LINEAR = 100
#: Parts of Newton's step that are tried before a plain scaling step is taken.
LENGTHS = (1.0, 0.25, 0.0625)
#: Change of the dual value, relative to its size, that round-off explains.
ROUND_OFF = 1e-13
#: A start is given up if more than this part of the mass is misplaced after so many iterations.
LOST, MAX_LOST = 0.5, 40
#: Iterations for the scaling of a law with itself.
MAX_SELF = 200
#: Defect below which they are Newton's.
NEAR = 0.1
#: Defect below which slow progress is round-off.
STALLED = 1e-10
#: Chebyshev's shifts for a spectrum in [1, 2]: four of them reduce a residual to 2e-3 of itself.
SHIFTS = tuple(1.5 + 0.5 * np.cos((2 * k + 1) * np.pi / 8) for k in range(4))


class Coupling(NamedTuple):
    r"""A coupling :math:`\gamma = u K v` whose first marginal is right, with its potentials.

    Attributes
    ----------
    logs : log b of the law whose first variation gives the potential v
    v, u : logarithms of the scalings, of the grid's shape
    columns : log of K'u
    coupled : log of the second marginal of gamma
    toward, back : averages of functions of y given x, and of functions of x given y, under gamma
    dual : value of the dual problem in units of epsilon / tau, up to a constant
    defect : sum of abs(second marginal - b) over the mass
    """

    logs: np.ndarray
    v: np.ndarray
    u: np.ndarray
    columns: np.ndarray
    coupled: np.ndarray
    toward: LogSum
    back: LogSum
    dual: float
    defect: float


class ScalingProblem:
    r"""One convex problem over couplings of a given first marginal a, with b the second one.

    .. math:: \min_\gamma \; \frac{\varepsilon}{\tau} \sum \gamma \Big(\log \frac{\gamma}{K} - 1\Big)
              + \mathcal H(b) + \langle \psi, b \rangle

    The optimal coupling is :math:`u K v` with :math:`u = a / K v` and
    :math:`\varepsilon \log v = -\tau (\psi + H'(b))`. Scaling iterates :math:`\log v \mapsto T(\log v)`: the KL
    proximal map of K'u over K'u itself. It ascends the dual at every step, but needs of order 1 / epsilon steps. Its
    linearization is :math:`\delta \mapsto \Lambda P^* P \delta`, with the averages P and P* under the coupling and
    :math:`\Lambda = \lambda / (1 + \lambda)`, :math:`\lambda = \tau b H''(b) / \varepsilon`. Newton's method solves
    :math:`(1 - \Lambda P^* P) \delta = T(\log v) - \log v` by conjugate gradients; a scaling step follows each Newton
    step and corrects the cells that are too empty to count in it. Both are accepted by the dual value.

    Parameters
    ----------
    convolution : LogConvolution
    energy : SeparableEnergy
    start : array of the grid's shape
        log a; -infinity in empty cells.
    tau : float
    check_time : callable
        Called in every loop; it raises ConvergenceError where the run's time limit is reached.
    """

    def __init__(self, convolution: LogConvolution, energy: SeparableEnergy, start: np.ndarray, tau: float,
                 check_time: Callable[[], None]):
        self.convolution, self.energy, self.start, self.check_time = convolution, energy, start, check_time
        self.kappa = tau / convolution.epsilon
        self.masses = np.exp(start)
        self.mass = float(self.masses.sum())

    def solve(self, psi: np.ndarray, logs: np.ndarray, tolerance: float, budget: int) -> tuple[Coupling, int]:
        """Return the coupling whose ``defect`` is below the tolerance, or the last one, and the iterations it took."""
        point = self.couple(psi, logs)
        iterations = 0
        while point.defect > tolerance and iterations < budget:
            iterations += 1
            pulse(f"scaling step {iterations}, {point.defect:.1e} of the mass misplaced")
            if iterations > MAX_LOST and point.defect > LOST:
                break
            point = self._next(psi, point)
        return point, iterations

    def couple(self, psi: np.ndarray, logs: np.ndarray) -> Coupling:
        """Return the coupling of the potential that the first variation at a law gives."""
        v = -self.kappa * (psi + self.energy.derivative(logs))
        toward, u, back = self._scale(v)
        coupled = v + back.values
        dual = weighted(self.masses, u) - self.kappa * self.energy.conjugate(logs)
        defect = float(np.abs(safe_exp(coupled) - safe_exp(logs)).sum()) / self.mass
        if self.energy.linear:
            # v does not depend on b: the coupling is optimal for its own second marginal.
            defect = 0.0
        return Coupling(logs, v, u, back.values, coupled, toward, back, dual, defect)

    def proximal(self, psi: np.ndarray, columns: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """Return log b of the next scaling step."""
        return self.energy.proximal(columns - self.kappa * psi, self.kappa, guess)

    def scale(self, psi: np.ndarray, v: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """Return log b of the scaling step from any potential."""
        return self.proximal(psi, self._scale(v)[2].values, guess)

    def _scale(self, v: np.ndarray) -> tuple[LogSum, np.ndarray, LogSum]:
        self.check_time()
        toward = self.convolution(v)
        u = self.start - toward.values
        return toward, u, self.convolution(u)

    def _next(self, psi: np.ndarray, point: Coupling) -> Coupling:
        """Take a Newton step and a scaling step after it; a scaling step alone where that does not ascend."""
        scaled = self.proximal(psi, point.columns, point.logs)
        residual = scaled - point.columns - point.v
        direction = self._newton(point, residual, self.kappa * self.energy.stiffness(scaled))
        slack = ROUND_OFF * max(1.0, abs(point.dual))
        for length in LENGTHS:
            _, _, back = self._scale(point.v + length * direction)
            new = self.couple(psi, self.proximal(psi, back.values, scaled))
            if new.dual > point.dual + slack or (new.dual > point.dual - slack and new.defect < point.defect):
                return new
        return self.couple(psi, scaled)

    def _newton(self, point: Coupling, residual: np.ndarray, stiffness: np.ndarray) -> np.ndarray:
        r"""Return the direction :math:`\delta = r + \Lambda P^* P \delta`.

        With :math:`\delta = r + \Lambda^{1/2} w` the system for w is symmetric in the inner product weighted with the
        second marginal. The averages of the last line extend the direction to cells where that weight vanishes.
        """
        share = stiffness / (1.0 + stiffness)
        root, weight = np.sqrt(share), safe_exp(point.coupled)
        left = root * self._there_and_back(point, residual)
        w, p = np.zeros(left.shape), left.copy()
        norm = float((weight * left * left).sum())
        target = LINEAR_TOLERANCE * norm
        for _ in range(MAX_LINEAR):
            self.check_time()
            if not norm > target:
                break
            product = p - root * self._there_and_back(point, root * p)
            curvature = float((weight * p * product).sum())
            if not curvature > 0:
                break
            step = norm / curvature
            w += step * p
            left -= step * product
            norm, before = float((weight * left * left).sum()), norm
            p = left + (norm / before) * p
        return residual + share * self._there_and_back(point, residual + root * w)

    @staticmethod
    def _there_and_back(point: Coupling, z: np.ndarray) -> np.ndarray:
        return point.back.average(point.toward.average(z))


def self_potential(convolution: LogConvolution, logs: np.ndarray, guess: np.ndarray,
                   tolerance: float, check_time: Callable[[], None] = no_limit) -> tuple[np.ndarray, float]:
    r"""Return log d with :math:`d\,K d = b`, the scaling of a law with itself, and the defect of its marginal.

    Parameters
    ----------
    convolution : LogConvolution
    logs : array of the grid's shape
        log b; -infinity in empty cells, where log d is -infinity as well.
    guess : array of the grid's shape
    tolerance : float
        Sum of abs(d K d - b) over the mass at which to stop.
    check_time : callable
        Called in every iteration.
    """
    masses, filled = np.exp(logs), logs > -np.inf
    mass = float(masses.sum())
    d = np.where(filled, guess, -np.inf)
    defect = np.inf
    for _ in range(MAX_SELF):
        check_time()
        around = convolution(d)
        excess = np.subtract(logs, around.values + d, out=np.zeros(logs.shape), where=filled)
        before, defect = defect, float((masses * np.abs(np.expm1(-np.clip(excess, -50.0, 50.0)))).sum()) / mass
        if defect <= tolerance or (defect >= 0.5 * before and defect < STALLED):
            break
        if defect > NEAR:
            d = d + 0.5 * excess
            continue
        # Newton: (1 + P) change = excess with the averages P under the coupling, whose spectrum lies in [0, 1].
        change = excess / SHIFTS[0]
        for shift in SHIFTS[1:]:
            change = change + (excess - change - around.average(change)) / shift
        d = d + change
    return d, defect


def safe_exp(logs: np.ndarray) -> np.ndarray:
    """Return exp without overflow; only iterates that are refused reach such exponents."""
    return np.exp(np.minimum(logs, LARGEST_EXPONENT))


def weighted(masses: np.ndarray, logs: np.ndarray) -> float:
    """Return the sum of masses times logarithms, over filled cells."""
    filled = masses > 0
    return float((masses[filled] * logs[filled]).sum())
