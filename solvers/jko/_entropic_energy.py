"""The separable part of a free energy in logarithms of cell masses, and its proximal map for Kullback-Leibler."""

from __future__ import annotations

import numpy as np

from wgflow.energies import Assembled
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.internal_energies import PowerEntropy

__all__ = ["SeparableEnergy"]

#: Newton steps for one cell, and the relative change that ends them.
MAX_NEWTON, NEWTON_TOLERANCE = 80, 1e-14
#: Exponents beyond which a power of the density counts as infinite.
LARGEST_EXPONENT = 690.0


class SeparableEnergy:
    r"""Internal energies as functions of the logarithms :math:`\ell = \log b` of cell masses.

    .. math:: \mathcal H(b) = \sum_i D\,b_i (\ell_i - \lambda_i - 1) + \sum_p c_p\,\frac{b_i r_i^{m_p - 1}}{m_p - 1},
              \qquad r_i = e^{\ell_i - \lambda_i},

    with :math:`\lambda` the logarithm of the reference measure of the cells (the constant -D per mass makes D log r
    the derivative of the entropy). Logarithms keep cells that floats would call empty.

    Parameters
    ----------
    parts : Assembled
    grid : Grid

    Raises
    ------
    InvalidInput
        If an internal energy is no power.
    """

    def __init__(self, parts: Assembled, grid: Grid):
        for factor, term in parts.internal:
            if not isinstance(term, PowerEntropy):
                raise InvalidInput(f"inner='entropic' knows Entropy and PowerEntropy, not {factor:g}*{term!r}; use "
                                   "inner='linearized'")
        self.diffusion = float(parts.diffusion)
        self.reference = grid.log_reference
        self.powers = [(float(factor), term.m) for factor, term in parts.internal if factor > 0]

    @property
    def linear(self) -> bool:
        """Whether there is no internal energy at all."""
        return self.diffusion == 0 and not self.powers

    def derivative(self, logs: np.ndarray) -> np.ndarray:
        """dH/db, of the grid's shape."""
        total = self.diffusion * (logs - self.reference) if self.diffusion > 0 else np.zeros(logs.shape)
        for factor, m in self.powers:
            total = total + factor * m / (m - 1.0) * self._power(logs, m)
        return total

    def stiffness(self, logs: np.ndarray) -> np.ndarray:
        """b d2H/db2 = d(dH/db)/d(log b) > 0; times b and summed it is the conjugate of H at dH/db."""
        total = np.full(logs.shape, self.diffusion)
        for factor, m in self.powers:
            total += factor * m * self._power(logs, m)
        return total

    def conjugate(self, logs: np.ndarray) -> float:
        """H*(dH/db)."""
        total = self.diffusion * np.exp(logs)
        for factor, m in self.powers:
            total = total + factor * np.exp(logs) * self._power(logs, m)
        return float(total.sum())

    def bregman(self, logs: np.ndarray, others: np.ndarray) -> float:
        """H(b) - H(c) - H'(c) (b - c) >= 0 for b = exp(logs), c = exp(others): the gap in Fenchel's inequality."""
        x = np.clip(logs - others, -LARGEST_EXPONENT, LARGEST_EXPONENT)
        c, growth = np.exp(others), np.expm1(x)
        total = self.diffusion * c * (x * np.exp(x) - growth)
        for factor, m in self.powers:
            total = total + factor * c * self._power(others, m) * (np.expm1(np.minimum(m * x, LARGEST_EXPONENT))
                                                                   - m * growth) / (m - 1.0)
        return max(0.0, float(total.sum()))

    def proximal(self, target: np.ndarray, kappa: float, guess: np.ndarray) -> np.ndarray:
        r"""The root :math:`\ell` of :math:`\ell + \kappa H'(e^\ell) = t` in each cell: the KL proximal map.

        Closed for the entropy. Else Newton's method between bounds: the left side increases with slope at least 1.

        Parameters
        ----------
        target, guess : arrays of the grid's shape
            t, and where to start from.
        kappa : float
            tau / epsilon.
        """
        entropy = kappa * self.diffusion
        closed = (target + entropy * self.reference) / (1.0 + entropy)
        if not self.powers:
            return closed
        low, high = self._brackets(target, kappa, closed)
        logs = np.clip(guess, low, high)
        for _ in range(MAX_NEWTON):
            excess = logs + kappa * self.derivative(logs) - target
            low, high = np.where(excess <= 0, logs, low), np.where(excess >= 0, logs, high)
            new = logs - excess / (1.0 + kappa * self.stiffness(logs))
            # Outside of the bounds, or where an exponential makes Newton's steps crawl, the interval is halved.
            new = np.where((new >= low) & (new <= high), new, 0.5 * (low + high))
            change = np.abs(new - logs)
            logs = new
            if (change <= NEWTON_TOLERANCE * np.maximum(1.0, np.abs(new))).all():
                break
        return logs

    def _brackets(self, target, kappa: float, closed):
        """Bounds of the root: each power moves it from the closed solution to one side, m > 1 down and m < 1 up."""
        low, high = closed.copy(), closed.copy()
        for factor, m in self.powers:
            if m > 1.0:
                low = np.minimum(low, self._lower(target, kappa * factor * m / (m - 1.0), m))
            else:
                high = np.maximum(high, self._upper(target, kappa * factor * m / (1.0 - m), m))
        width = 1.0 + 1e-12 * np.abs(target)
        while True:
            wrong = low + kappa * self.derivative(low) > target
            if not wrong.any():
                break
            low, width = np.where(wrong, low - width, low), 2.0 * width
        width = 1.0 + 1e-12 * np.abs(target)
        while True:
            wrong = high + kappa * self.derivative(high) < target
            if not wrong.any():
                break
            high, width = np.where(wrong, high + width, high), 2.0 * width
        return low, high

    def _lower(self, target, strength: float, m: float):
        """Where the power alone is at most half of what is left to the right of the reference."""
        room = np.maximum(target - self.reference, 1.0)
        return np.minimum(target, self.reference + np.log(0.5 * room / strength) / (m - 1.0)) - 1.0

    def _upper(self, target, strength: float, m: float):
        """The same for fast diffusion."""
        room = np.maximum(self.reference - target, 1.0)
        return np.maximum(target, self.reference - np.log(0.5 * room / strength) / (1.0 - m)) + 1.0

    def _power(self, logs: np.ndarray, m: float) -> np.ndarray:
        return np.exp(np.minimum((m - 1.0) * (logs - self.reference), LARGEST_EXPONENT))
