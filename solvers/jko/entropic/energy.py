"""Internal energies in logarithms of cell masses, and their proximal map for the Kullback-Leibler divergence."""

from __future__ import annotations

import numpy as np

from wgflow.energies.internal_energies import PowerEntropy
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

__all__ = ["SeparableEnergy"]

#: Iterations of Newton's method in each cell.
MAX_NEWTON = 80
#: The relative change at which they end.
NEWTON_TOLERANCE = 1e-14
#: Exponents beyond which a power of the density counts as infinite.
LARGEST_EXPONENT = 690.0


class SeparableEnergy:
    r"""Internal energies as functions of the logarithms :math:`\ell = \log b` of cell masses.

    .. math:: \mathcal H(b) = \sum_i D\,b_i (\ell_i - \lambda_i - 1) + \sum_p c_p\,\frac{b_i r_i^{m_p - 1}}{m_p - 1},
              \qquad r_i = e^{\ell_i - \lambda_i},

    with :math:`\lambda` the logarithm of the reference measure of the cells (with the constant -D per mass, the
    derivative of the entropy is D log r). Logarithms represent masses that are below the smallest float.

    Parameters
    ----------
    parts : EnergyOnGrid
    grid : Grid

    Raises
    ------
    InvalidInput
        If an internal energy is no power.
    """

    def __init__(self, parts: EnergyOnGrid, grid: Grid):
        for factor, term in parts.internal:
            if not isinstance(term, PowerEntropy):
                raise InvalidInput(f"inner='entropic' knows Entropy and PowerEntropy, not {factor:g}*{term!r}; use "
                                   "inner='back-and-forth', or FiniteVolume()")
        self.diffusion = float(parts.diffusion)
        self.reference = grid.log_reference
        self.powers = [(float(c), term.m) for c, term in parts.internal if c > 0 and isinstance(term, PowerEntropy)]

    @property
    def linear(self) -> bool:
        """Whether there is no internal energy at all."""
        return self.diffusion == 0 and not self.powers

    def derivative(self, logs: np.ndarray) -> np.ndarray:
        """Return dH/db, of the grid's shape."""
        total = self.diffusion * (logs - self.reference) if self.diffusion > 0 else np.zeros(logs.shape)
        for factor, m in self.powers:
            total = total + factor * m / (m - 1.0) * self._power(logs, m)
        return total

    def stiffness(self, logs: np.ndarray) -> np.ndarray:
        """Return b d2H/db2 = d(dH/db)/d(log b) > 0; the sum of b times that is the conjugate of H at dH/db."""
        total = np.full(logs.shape, self.diffusion)
        for factor, m in self.powers:
            total += factor * m * self._power(logs, m)
        return total

    def conjugate(self, logs: np.ndarray) -> float:
        """Return H*(dH/db)."""
        total = self.diffusion * np.exp(np.minimum(logs, LARGEST_EXPONENT))
        for factor, m in self.powers:
            # One exponential: b and the power may be out of range where their product is not.
            total = total + factor * np.exp(np.minimum(m * logs - (m - 1.0) * self.reference, LARGEST_EXPONENT))
        return float(total.sum())

    def bregman(self, logs: np.ndarray, others: np.ndarray) -> float:
        """Return H(b) - H(c) - H'(c) (b - c) >= 0, the gap in Fenchel's inequality, b = exp(logs), c = exp(others)."""
        x = np.clip(logs - others, -LARGEST_EXPONENT, LARGEST_EXPONENT)
        c, growth = np.exp(others), np.expm1(x)
        total = self.diffusion * c * (x * np.exp(x) - growth)
        for factor, m in self.powers:
            total = total + factor * c * self._power(others, m) * (np.expm1(np.minimum(m * x, LARGEST_EXPONENT))
                                                                   - m * growth) / (m - 1.0)
        return max(0.0, float(total.sum()))

    def proximal(self, target: np.ndarray, kappa: float, guess: np.ndarray) -> np.ndarray:
        r"""Return the root :math:`\ell` of :math:`\ell + \kappa H'(e^\ell) = t` in each cell: the KL proximal map.

        The entropy has a closed form. Otherwise Newton's method works between bounds, since the left side increases
        with slope at least 1; where an iterate leaves them the interval is halved.

        Parameters
        ----------
        target, guess : arrays of the grid's shape
            t, and the start of the iteration.
        kappa : float
            tau / epsilon.
        """
        entropy = kappa * self.diffusion
        closed = (target + entropy * self.reference) / (1.0 + entropy)
        if not self.powers:
            return closed
        low, high = self._brackets(target - self.reference, kappa)
        low, high = low + self.reference, high + self.reference
        logs = np.clip(guess, low, high)
        for _ in range(MAX_NEWTON):
            excess = logs + kappa * self.derivative(logs) - target
            low, high = np.where(excess <= 0, logs, low), np.where(excess >= 0, logs, high)
            new = logs - excess / (1.0 + kappa * self.stiffness(logs))
            new = np.where((new >= low) & (new <= high), new, 0.5 * (low + high))
            change = np.abs(new - logs)
            logs = new
            if (change <= NEWTON_TOLERANCE * np.maximum(1.0, np.abs(new))).all():
                break
        return logs

    def _brackets(self, target: np.ndarray, kappa: float) -> tuple[np.ndarray, np.ndarray]:
        r"""Return bounds of the root x of :math:`e x + \sum_p s_p e^{(m_p - 1) x} - \sum_q z_q e^{-(1 - m_q) x} = t`.

        For x >= 0 the second sum is at most Z, its value at 0: then e x <= t + Z, and the same bounds each power of the
        first sum. For x <= 0 the two sums change roles.
        """
        slope = 1.0 + kappa * self.diffusion
        rising = [(kappa * factor * m / (m - 1.0), m - 1.0) for factor, m in self.powers if m > 1.0]
        falling = [(kappa * factor * m / (1.0 - m), 1.0 - m) for factor, m in self.powers if m < 1.0]
        over = np.maximum(target + sum(s for s, _ in falling), 0.0)
        under = np.maximum(sum(s for s, _ in rising) - target, 0.0)
        high, low = over / slope, -under / slope
        with np.errstate(divide="ignore"):
            for s, power in rising:
                high = np.minimum(high, np.maximum(np.log(over / s), 0.0) / power)
            for s, power in falling:
                low = np.maximum(low, -np.maximum(np.log(under / s), 0.0) / power)
        if not falling:
            high = np.where(target < 0, target / slope, high)
        if not rising:
            low = np.where(target > 0, target / slope, low)
        return low, high

    def _power(self, logs: np.ndarray, m: float) -> np.ndarray:
        return np.exp(np.minimum((m - 1.0) * (logs - self.reference), LARGEST_EXPONENT))
