r"""Laws of least energy for any internal energies: :math:`m_i = v_i\,(H')^{-1}(c - \Psi_i)`, of compact support or not.

.. math:: H(r) = D\,r \log r + \sum_k c_k H_k(r), \qquad
          \min_{\sum m = M} \sum_i v_i H(m_i / v_i) + \Psi_i m_i
          \;\Longleftrightarrow\; H'(r_i) + \Psi_i = c \text{ where } r_i > 0, \quad
          H'(0) + \Psi_i \ge c \text{ elsewhere,}

with :math:`r = m / v` and one number c, in which the mass increases. H is the function whose fluxes `FiniteVolume`
forms (`wgflow.energies.nonlinear_fluxes.Diffusion`), so that such a law rests there. Where H'(0) is finite the law has
a compact support; then several parts of the grid can have a constant c and a mass each (``groups``).
"""

from __future__ import annotations

import math

import numpy as np

from wgflow.energies.internal_energies import LOG_LARGEST, VACUUM, PowerEntropy
from wgflow.energies.nonlinear_fluxes import Diffusion
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput

from .gibbs import GibbsProblem, Iterate, Law

__all__ = ["InternalProblem", "Slope"]

#: Logarithm of the density below which a cell is empty.
LOG_VACUUM = math.log(VACUUM)
#: Newton steps and halvings for one density, and for the constant c.
STEPS = 200
#: A third of the Newton steps that are longer than this, in log r, are replaced by halvings.
FARTHEST = 1e-3
EPS = float(np.finfo(float).eps)
#: r H''(r) counts as at least this part of u: near a front it may vanish (m > 2), where H is flat too.
LEAST_STIFFNESS = 1e-10
#: Nodes by which a Bregman divergence of near densities is integrated.
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(8)
#: Densities with a ratio below this are near: H'' is smooth between them.
NEAR = 2.0
#: H' at two low densities differs by less than this part where it has a finite limit at 0.
SAME_SLOPE = 1e-6


class Slope:
    r"""The function H', increasing in the density, and its inverse.

    Parameters
    ----------
    energy : EnergyOnGrid
    """

    def __init__(self, energy: EnergyOnGrid):
        self.H = Diffusion(energy)
        self.powers = [(c, term.m) for c, term in energy.internal if isinstance(term, PowerEntropy) and c > 0]
        self.entropy = energy.diffusion
        #: H' in a vacuum.
        self.lowest = float(self(np.array([LOG_VACUUM]))[0][0])

    def __call__(self, log_r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return H', the pressure r H' - H and r H'', at logarithms of densities."""
        with np.errstate(over="ignore", invalid="ignore"):
            slope, pressure, stiff, _ = self.H.evaluate(np.exp(np.maximum(log_r, LOG_VACUUM))[None])
        return slope[0], pressure[0], stiff[0]

    @property
    def has_fronts(self) -> bool:
        """Whether H'(0) is finite, so that laws have compact supports."""
        if self.entropy > 0 or any(m < 1 for _, m in self.powers):
            return False
        if not self.H.others:
            return True
        low, middle, one = (float(self(np.array([x]))[0][0]) for x in (LOG_VACUUM, 0.5 * LOG_VACUUM, 0.0))
        return abs(middle - low) <= SAME_SLOPE * (1.0 + abs(one))

    def log_density(self, p: np.ndarray) -> np.ndarray:
        """Return the logarithm of the density at which H' is p: -infinity in a vacuum, at most `LOG_LARGEST`."""
        logs = np.full(p.shape, -np.inf)
        filled = p > self.lowest
        t = p[filled]
        x = self._guess(t)
        if not (len(self.powers) == 1 and self.entropy == 0 and not self.H.others):
            x = self._inverted(t, x)
        logs[filled] = x
        return logs

    def _guess(self, t: np.ndarray) -> np.ndarray:
        """Return the logarithm of the density that the stiffest term alone would give."""
        guess = np.full(t.shape, 0.0 if self.H.others else LOG_LARGEST)
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.entropy > 0:
                guess = np.minimum(guess, t / self.entropy)
            for c, m in self.powers:
                own = np.log((m - 1.0) / (m * c) * t) / (m - 1.0)
                guess = np.where(np.isfinite(own), np.minimum(guess, own), guess)
        return np.clip(guess, LOG_VACUUM, LOG_LARGEST)

    def _inverted(self, t: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return log r with H'(r) = t, by Newton's method in log r kept between bounds."""
        low, high = np.full(t.shape, LOG_VACUUM), np.full(t.shape, LOG_LARGEST)
        open_, result = np.arange(t.size), x.copy()
        for k in range(STEPS):
            if not open_.size:
                break
            x, goal = result[open_], t[open_]
            h, _, stiff = self(x)
            below = (h < goal) & np.isfinite(h)  # values that overflow count as above
            low[open_], high[open_] = np.where(below, x, low[open_]), np.where(below, high[open_], x)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                new = x + (goal - h) / stiff
            a, b = low[open_], high[open_]
            # Where H' grows as a power of r, Newton's method in log r goes down by steps of one length.
            crawls = (np.abs(new - x) > FARTHEST) & (k % 3 == 2)
            usable = np.isfinite(stiff) & (stiff > 0) & (new >= a) & (new <= b) & ~crawls
            new = np.where(usable, new, 0.5 * (a + b))
            result[open_] = new
            open_ = open_[np.abs(new - x) > 2 * EPS * np.maximum(1.0, np.abs(x))]
        return result


class InternalProblem(GibbsProblem):
    """The self-consistency problem with any internal energies; see the module's text and `GibbsProblem`.

    Parameters
    ----------
    on_grid : EnergyOnGrid
    mass : float
    groups : array of int, shape (n,), optional
        A label 0, 1, ... for each cell, where parts of the grid have masses of their own.
    shares : array, shape (number of labels,), optional
        The masses of the parts, of sum ``mass``.
    """

    def __init__(self, on_grid: EnergyOnGrid, mass: float, groups: np.ndarray | None = None,
                 shares: np.ndarray | None = None):
        self.slope = Slope(on_grid)
        self.compact = self.slope.has_fronts
        super().__init__(on_grid, mass)
        self.groups, self.shares = groups, np.array([mass]) if shares is None else shares
        self.parts = [np.arange(self.size)] if groups is None else [
            np.flatnonzero(groups == k) for k in range(self.shares.size)]

    def parted(self, groups: np.ndarray, shares: np.ndarray) -> InternalProblem:
        """Return the problem in which parts of the grid have masses of their own; one part is the whole grid."""
        if shares.size == 1:
            return InternalProblem(self.on_grid, self.mass)
        return InternalProblem(self.on_grid, self.mass, groups, shares)

    def scaled(self, factor: float) -> InternalProblem:
        return InternalProblem(self._with_internal(factor), self.mass, self.groups, self.shares)

    def find_unit(self) -> float:
        """Return r H''(r) at the density of the uniform law, or at the first larger one where H is not flat."""
        log_r = np.arange(self._log_uniform(self.log_reference, self.mass), LOG_LARGEST, 1.0)
        stiff = self.slope(log_r)[2]
        usable = np.isfinite(stiff) & (stiff > 0)
        if not usable.any():
            raise InvalidInput("the internal energy has r H''(r) = 0, or not finite, at all densities that a law on "
                               "this grid can have; H must be convex, and not flat everywhere")
        return float(stiff[np.argmax(usable)])

    def _log_uniform(self, log_reference: np.ndarray, mass: float) -> float:
        top = float(log_reference.max())
        log_mean = math.log(mass) - top - math.log(float(np.exp(log_reference - top).sum()))
        return min(max(log_mean, LOG_VACUUM), LOG_LARGEST)

    # ---------------------------------------------------------------- laws
    def law(self, q: np.ndarray) -> Law:
        q, masses, raw = q.copy(), np.zeros(self.size), np.zeros(self.size)
        for cells, share in zip(self.parts, self.shares):
            constant, masses[cells], raw[cells] = self.level(q[cells], self.log_reference[cells], float(share))
            q[cells] += constant / self.unit
        raw *= self.unit
        total = float(raw.sum())
        return Law(q, masses, raw / total, total)

    def level(self, q: np.ndarray, log_reference: np.ndarray, mass: float) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the c at which the densities with H'(r) = u q + c have a mass, their masses, and dm/dc."""
        p = self.unit * q
        if mass == 0:
            return float(self.slope.lowest - p.max()), np.zeros(q.size), np.zeros(q.size)
        uniform = float(self.slope(np.array([self._log_uniform(log_reference, mass)]))[0][0])
        low, high = uniform - float(p.max()), uniform - float(p.min())
        low, high = low - EPS * abs(low) - 1e-300, high + EPS * abs(high) + 1e-300
        under, over, c = np.zeros(q.size), None, low
        for _ in range(STEPS):
            masses, rate = self.at_level(p + c, log_reference)
            with np.errstate(over="ignore"):
                total, grows = float(masses.sum()), float(rate.sum())
            miss = total / mass - 1.0 if math.isfinite(total) else math.inf
            if abs(miss) <= 4 * EPS:
                return c, masses * (mass / total), rate
            low, high = (c, high) if miss < 0 else (low, c)
            under, over = (masses, over) if miss < 0 else (under, masses)
            new = c - math.log(total / mass) * total / grows if 0 < total < math.inf and grows > 0 else math.nan
            c = new if low < new < high else 0.5 * (low + high)
            if not low < c < high:
                break
        # Rounding of c is left, or H' is constant on an interval: what lies between two neighbors is shared.
        a = float(under.sum())
        if over is None or not math.isfinite(float(over.sum())):
            masses, rate = self.at_level(p + high, log_reference)
            over = masses
        b = float(over.sum())
        share = (mass - a) / (b - a) if b > a else 1.0
        masses = (1.0 - share) * under + share * over
        return c, masses * (mass / float(masses.sum())), self.at_level(p + high, log_reference)[1]

    def at_level(self, p: np.ndarray, log_reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the masses at which H' is p, and their derivatives in p."""
        log_r = self.slope.log_density(p)
        with np.errstate(over="ignore"):
            masses = np.exp(log_r + log_reference)
        rate, filled = np.zeros(p.size), masses > 0
        stiff = np.maximum(self.slope(log_r[filled])[2], LEAST_STIFFNESS * self.unit)
        with np.errstate(over="ignore"):
            rate[filled] = masses[filled] / stiff
        return masses, rate

    def law_of(self, psi: np.ndarray) -> Law:
        return self.law(-self.beta * psi)

    def q_of(self, masses: np.ndarray) -> np.ndarray:
        return self.slope(self._log_r(masses))[0] / self.unit

    def mixed(self, state: Iterate, share: float) -> np.ndarray:
        masses = (1.0 - share) * state.masses + share * state.target.masses
        return np.where(masses > 0, self.q_of(masses), np.minimum(state.target.q, self.slope.lowest / self.unit))

    def internal_level(self, law: Law) -> np.ndarray:
        return np.abs(law.q)

    def energies(self, law: Law, field: np.ndarray) -> tuple[float, float]:
        shape = self.on_grid.grid.shape
        total = self.on_grid.frozen_energy(law.masses.reshape(shape), field.reshape(shape))
        slope = self.slope(self._log_r(law.masses))[0]
        filled = law.masses > 0
        size = np.abs(law.masses * slope)[filled].sum()
        return total, float(size)

    # ---------------------------------------------------------------- the dual
    def least(self, law: Law, psi: np.ndarray) -> float:
        shape = self.on_grid.grid.shape
        return self.on_grid.frozen_energy(law.masses.reshape(shape), (psi - self.potential).reshape(shape))

    def gap(self, state: Iterate) -> float:
        r"""Return F less the dual value, :math:`\sum_i v_i [H(r) - H(r') - p' (r - r')]`, r' the density of B(m).

        p' is c less the potential, H'(r') where r' > 0. No term is negative, and near densities are not subtracted:
        their term is the integral of (r - s) H''(s) from r' to r.
        """
        a, b = self._log_r(state.masses), self._log_r(state.target.masses)
        p, volumes = self.unit * state.target.q, np.exp(self.log_reference)
        near = (np.abs(a - b) < math.log(NEAR)) & (state.masses > 0) & (state.target.masses > 0)
        total = 0.0
        ra, rb = np.exp(a[near]), np.exp(b[near])
        for z, weight in zip(NODES, NODE_WEIGHTS):
            s = rb + 0.5 * (1.0 + z) * (ra - rb)
            bend = self.slope(np.log(s))[2] / s
            total += 0.5 * weight * float((volumes[near] * (ra - rb) * (ra - s) * bend).sum())
        far = ~near & ((state.masses > 0) | (state.target.masses > 0))
        (ha, pa, _), (hb, pb, _) = self.slope(a[far]), self.slope(b[far])
        r, rb = np.exp(a[far]), np.where(state.target.masses[far] > 0, np.exp(b[far]), 0.0)
        r = np.where(state.masses[far] > 0, r, 0.0)
        far_terms = r * (ha - p[far]) - pa + pb - rb * (hb - p[far])
        return total + float((volumes[far] * np.maximum(far_terms, 0.0)).sum())

    def _log_r(self, masses: np.ndarray) -> np.ndarray:
        """Return the logarithms of densities, in a vacuum that of `VACUUM`."""
        with np.errstate(divide="ignore"):
            return np.clip(np.log(masses) - self.log_reference, LOG_VACUUM, LOG_LARGEST)
