r"""The local part of an energy of cell masses, internal energy plus potential, with its convex conjugate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wgflow.energies.on_grid import TINY

__all__ = ["LocalEnergy"]

#: Iterations of the scalar equations (mass, mixtures), which Newton's method in a bracket solves.
MAX_SCALAR = 100
#: Relative error of the total mass that round-off explains.
BALANCED = 4e-15


class LocalEnergy:
    r"""The energy :math:`E(m) = \sum_i w_i h(m_i / w_i) + V_i m_i` of cell masses m of a given total.

    w is the reference measure of a cell (its volume, on grids without weight), and
    :math:`h(r) = D\,r \log r + \sum_k c_k H_k(r)` adds the entropy and the other internal energies.

    Parameters
    ----------
    diffusion : float
        D >= 0.
    internal : list of (float, InternalEnergy)
    reference : array
        w, > 0.
    potential : array
        V.
    mass : float
        The total mass M.
    """

    def __init__(self, diffusion: float, internal: Sequence, reference: np.ndarray, potential: np.ndarray,
                 mass: float):
        self.diffusion, self.internal, self.reference, self.mass = diffusion, internal, reference, mass
        self.potential = potential
        self.constant = 0.0

    def with_potential(self, potential: np.ndarray) -> LocalEnergy:
        """Return the same internal energy with another potential."""
        return LocalEnergy(self.diffusion, self.internal, self.reference, potential, self.mass)

    def h(self, r: np.ndarray) -> np.ndarray:
        """Return h at densities r >= 0."""
        out = self.diffusion * r * np.log(np.maximum(r, TINY)) if self.diffusion > 0 else np.zeros_like(r)
        for factor, term in self.internal:
            out = out + factor * term.H(r)
        return out

    def slope(self, r: np.ndarray) -> np.ndarray:
        """Return h' at densities r >= 0; at 0 it is minus infinity with an entropy or fast diffusion."""
        out = self.diffusion * (np.log(r) + 1.0) if self.diffusion > 0 else np.zeros_like(r)
        for factor, term in self.internal:
            out = out + factor * term.derivative(r)
        return out

    def energy(self, masses: np.ndarray) -> float:
        """Return E of cell masses."""
        return float((self.reference * self.h(masses / self.reference) + self.potential * masses).sum())

    def density(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the density r at which h' is p (0 below h'(0)), and dr/dp."""
        if not self.internal:
            with np.errstate(over="ignore"):
                r = np.exp(np.minimum(p / self.diffusion - 1.0, 700.0))
            return r, r / self.diffusion
        r = self._mixture(p) if self.diffusion > 0 or len(self.internal) > 1 else self._single(p)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            bend = self.diffusion / r
            for factor, term in self.internal:
                bend = bend + factor * term.second_derivative(r)
            return r, np.where((r > 0.0) & (bend > 0.0), 1.0 / bend, 0.0)

    def _single(self, p: np.ndarray) -> np.ndarray:
        factor, term = self.internal[0]
        return term.inverse_derivative(p / factor)

    def _mixture(self, p: np.ndarray) -> np.ndarray:
        """Return the density for several terms, by Newton's method for log r in a bracket."""
        low, high = np.full(p.shape, -745.0), np.full(p.shape, 700.0)
        s = np.zeros(p.shape)
        for _ in range(MAX_SCALAR):
            r = np.exp(s)
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                excess = self.slope(r) - p
                bend = self.diffusion + sum(factor * term.second_derivative(r) * r for factor, term in self.internal)
                new = s - excess / bend
            low, high = np.where(excess <= 0, s, low), np.where(excess >= 0, s, high)
            new = np.where((new > low) & (new < high), new, 0.5 * (low + high))
            change, s = np.abs(new - s).max(), new
            if change < 4e-16 * max(1.0, np.abs(s).max()):
                break
        return np.where(s > -744.0, np.exp(s), 0.0)

    def respond(self, phi: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        r"""Return the masses that minimize :math:`E(m) + \sum_i \varphi_i m_i` at total mass M.

        Returns
        -------
        density : array
            r, the minimizer relative to w.
        slope : array
            :math:`p = c - V - \varphi`, which is h'(r) where r > 0.
        response : array
            dm/dp in each cell.
        conjugate : float
            Minus the minimum.
        """
        p = -phi - self.potential
        if self.internal:
            self.constant, r, response = self._balance(p)
            p = p + self.constant
        else:
            top = p.max()
            total = float((self.reference * np.exp((p - top) / self.diffusion)).sum())
            self.constant = self.diffusion * (math.log(self.mass / total) + 1.0) - top
            p = p + self.constant
            r, response = self.density(p)
        conjugate = float((self.reference * (p * r - self.h(r))).sum()) - self.constant * self.mass
        return r, p, self.reference * response, conjugate

    def _balance(self, p: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the constant c at which the total mass is M, with densities and derivatives, by Newton's method."""
        c, low, high, width = self.constant, -math.inf, math.inf, 1.0 + float(np.ptp(p))
        for _ in range(MAX_SCALAR):
            r, response = self.density(p + c)
            with np.errstate(invalid="ignore", over="ignore"):
                excess = float((self.reference * r).sum()) - self.mass
                rate = float((self.reference * response).sum())
            if abs(excess) <= BALANCED * self.mass:
                return c, r, response
            if excess > 0 or math.isnan(excess):
                high = c
            else:
                low = c
            new = c - excess / rate if rate > 0 and math.isfinite(excess) else math.nan
            if not low < new < high:
                if math.isinf(low):
                    new = c - width
                elif math.isinf(high):
                    new = c + width
                else:
                    new = 0.5 * (low + high)
                width *= 2.0
            if new == c:
                break
            c = new
        return c, r, response

    def gap(self, masses: np.ndarray, density: np.ndarray, slope: np.ndarray) -> float:
        r"""Return :math:`\sum_i w_i (h(r') - h(r) - p (r' - r)) \ge 0`, m = w r', with the response r to a slope p."""
        other = masses / self.reference
        with np.errstate(invalid="ignore"):
            return float((self.reference * (self.h(other) - self.h(density) - slope * (other - density))).sum())

    def coarsened(self, axes: list[int]) -> LocalEnergy:
        """Return the energy on cells of twice the width along some axes."""
        reference, potential = self.reference, self.potential
        for axis in axes:
            reference, potential = pairs(reference, axis), 0.5 * pairs(potential, axis)
        return LocalEnergy(self.diffusion, self.internal, reference, potential, self.mass)


def pairs(array: np.ndarray, axis: int) -> np.ndarray:
    """Return sums of pairs of neighbors along an axis."""
    shape = (*array.shape[:axis], array.shape[axis] // 2, 2, *array.shape[axis + 1:])
    return array.reshape(shape).sum(axis=axis + 1)
