r"""Self-consistent laws of a free energy on a grid, and the coordinates in which they are sought.

A law is held by the potential whose law of least energy it is. In units u of the internal energy H (of the entropy:
u = D) put

.. math:: q = H'(m/v) / u \ (\text{less a constant, and at most } H'(0)/u \text{ in empty cells}), \qquad
          B(m) = \text{the law of } V + U m, \qquad x = q(B(m)) - q(m).

A stationary state is x = 0. Along a change v of q the masses change by :math:`dm = W \omega (v - \langle v\rangle)`,
with weights :math:`\omega \propto v_i / H''` of sum 1 and their mean :math:`\langle\cdot\rangle`, and the derivative of
F is :math:`-u W \langle x, v\rangle`. Minimizing F and solving x = 0 have the same Newton equation :math:`T v = x`,
where :math:`T v = v + (W/u)\,U(\omega v)` less its mean, symmetric in this inner product, is the Hessian of F in units
of the internal energy's.

For the entropy alone q is the logarithm of the masses, B(m) the Gibbs law :math:`M w e^{-\beta(V + U m)}/Z`, and the
weights are the masses; that is this file. `internal_laws` has the other internal energies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import InvalidInput

__all__ = ["LARGEST_FLOOR", "ROUNDING", "GibbsProblem", "Iterate", "Law"]

#: Unavoidable rounding error of q, in units of 1 + (|V| + |U rho| + scale of U) / u + |q|.
ROUNDING = 16 * np.finfo(float).eps
#: Where the range of Psi in units u, times eps, exceeds this, rounding errors dominate a law.
LARGEST_SPAN = 1e-2
#: A residual above this counts as missed, however large the rounding error.
LARGEST_FLOOR = 1e-6


class Law(NamedTuple):
    """A law of least energy: ``q``, ``masses``, the ``weights`` (of sum 1) and their ``total`` W, flat arrays."""

    q: np.ndarray
    masses: np.ndarray
    weights: np.ndarray
    total: float


class Iterate(NamedTuple):
    """A law, with the quantities that the methods need.

    ``q``, ``masses``, ``weights``, ``field`` (U m, and the derivatives of functions of moments) and ``step`` (x, of
    mean 0) are flat arrays over the cells;
    ``total`` is W, ``target`` the law B(m); ``residual`` is the L1 distance of m and B(m) and ``floor`` its rounding
    error, both relative to the mass; ``energy`` is F and ``slack`` its rounding error.
    """

    q: np.ndarray
    masses: np.ndarray
    weights: np.ndarray
    total: float
    field: np.ndarray
    target: Law
    step: np.ndarray
    residual: float
    floor: float
    energy: float
    slack: float


class GibbsProblem:
    """The self-consistency problem of a free energy on a grid, for laws of a given mass; arrays are flat.

    Parameters
    ----------
    on_grid : EnergyOnGrid
        With diffusion > 0 and no other internal energy.
    mass : float
    """

    #: Whether laws may have compact supports, hence components that exchange no mass.
    compact: bool = False
    #: The label of each cell where the masses of several parts of the grid are given; one part by default.
    groups: np.ndarray | None = None

    def __init__(self, on_grid: EnergyOnGrid, mass: float):
        self.on_grid, self.mass = on_grid, mass
        self.potential = on_grid.potential.ravel()
        self.functionals = on_grid.of_moments
        self.log_reference = on_grid.grid.log_reference.ravel()
        self.size = on_grid.grid.size
        self.unit = self.find_unit()
        self.beta = 1.0 / self.unit
        # The rounding error of an FFT has the size of the whole kernel's field, also where U m itself is small.
        flat = np.full(self.size, mass / self.size)
        self.scale = float(np.abs(self.interaction(flat)).max() + np.abs(self.of_moments(flat)).max())
        span = self.beta * (float(np.ptp(self.potential)) + self.scale)
        if not span * np.finfo(float).eps < LARGEST_SPAN:
            raise InvalidInput(f"beta={self.beta:g}: beta times the range of V + U rho is {span:.1e}, beyond what "
                               "floats resolve; scale the energy down, or ask for the noiseless limit "
                               "(model.minimum_risk())")

    # ---------------------------------------------------------------- what the internal energy decides
    def find_unit(self) -> float:
        """Return u, the scale of the internal energy."""
        return self.on_grid.diffusion

    def law(self, q: np.ndarray) -> Law:
        """Return the law with these q, up to a constant, which the mass decides."""
        q = q - q.max()
        masses = np.exp(q)
        total = masses.sum() / self.mass
        masses = masses / total
        return Law(q - np.log(total), masses, masses / self.mass, self.mass)

    def law_of(self, psi: np.ndarray) -> Law:
        """Return the law of least internal energy plus ``psi . m``."""
        return self.law(self.log_reference - self.beta * psi)

    def q_of(self, masses: np.ndarray) -> np.ndarray:
        """Return the q of a law that need not be one of least energy."""
        return np.log(np.maximum(masses, 5e-324))

    def mixed(self, state: Iterate, share: float) -> np.ndarray:
        """Return the q of (1 - share) m + share B(m)."""
        return np.logaddexp(state.q + np.log1p(-share), state.target.q + np.log(share))

    def internal_level(self, law: Law) -> np.ndarray:
        """Return |H'| in units u."""
        return np.abs(law.q - self.log_reference)

    def energies(self, law: Law, field: np.ndarray) -> tuple[float, float]:
        """Return the energy with a field in place of U m, and the internal energy's size."""
        logs = law.q - self.log_reference
        terms = law.masses * (self.potential + field) + self.unit * law.masses * logs
        return float(terms.sum()), self.unit * float((law.masses * np.abs(logs)).sum())

    def gap(self, state: Iterate) -> float:
        """Return F less the dual value, formed without cancellation: D KL(m | B(m))."""
        x, m = state.target.q - state.q, state.masses
        with np.errstate(over="ignore", invalid="ignore"):
            excess = np.where(np.abs(x) < 0.5, m * (np.expm1(x) - x), state.target.masses - m - m * x)
        return self.unit * float(excess.sum())

    def dual_value(self, state: Iterate) -> float:
        """Return the lower bound of F that a state gives where the interaction energy is convex."""
        m = state.masses
        least = self.least(state.target, self.potential + state.field)
        if not self.functionals:
            return least - 0.5 * float(m @ state.field)
        # Fenchel's equality gives the conjugate of a convex function of moments at its own gradient.
        return (least - 0.5 * float(m @ self.interaction(m)) + self.value_of_moments(m)
                - float(m @ self.of_moments(m)))

    def least(self, law: Law, psi: np.ndarray) -> float:
        """Return the internal energy plus ``psi . m`` of the law of psi, from its partition sum."""
        exponent = self.log_reference - self.beta * psi
        top = float(exponent.max())
        log_partition = top + float(np.log(np.exp(exponent - top).sum()))
        return self.unit * self.mass * (float(np.log(self.mass)) - log_partition)

    # ---------------------------------------------------------------- the same for all
    def scaled(self, factor: float) -> GibbsProblem:
        """Return the problem with a multiple of the internal energy."""
        return type(self)(self._with_internal(factor), self.mass)

    def _with_internal(self, factor: float) -> EnergyOnGrid:
        return replace(self.on_grid, diffusion=factor * self.on_grid.diffusion,
                       internal=[(factor * c, term) for c, term in self.on_grid.internal])

    def interaction(self, masses: np.ndarray) -> np.ndarray:
        """Return U m, flat."""
        field = self.on_grid.interaction(masses.reshape(self.on_grid.grid.shape))
        return np.zeros(self.size) if field is None else field.ravel()

    def of_moments(self, masses: np.ndarray) -> np.ndarray:
        """Return the derivative of the functions of moments, flat."""
        total = np.zeros(self.size)
        for factor, term in self.functionals:
            total += factor * term.first_variation(masses).ravel()
        return total

    def value_of_moments(self, masses: np.ndarray) -> float:
        """Return the functions of moments."""
        return sum(factor * term.energy(masses) for factor, term in self.functionals)

    def push(self, state: Law | Iterate, change: np.ndarray) -> np.ndarray:
        """Return the change of the field with the masses, flat: U times it, and the second variation of functions."""
        total = self.interaction(change)
        for factor, term in self.functionals:
            hessian = term.phi.hessian(term.moments(state.masses))
            total = total + factor * term.combined(hessian @ term.moments(change)).ravel()
        return total

    def gibbs(self, psi: np.ndarray) -> np.ndarray:
        """Return the q of the law of a potential."""
        return self.law_of(psi).q

    def evaluate(self, q: np.ndarray) -> Iterate:
        """Return the state with these q, which need not be normalized."""
        law = self.law(q)
        linear = self.interaction(law.masses)
        field = linear + self.of_moments(law.masses) if self.functionals else linear
        target = self.law_of(self.potential + field)
        level = np.abs(self.potential) + np.abs(field)
        energy, size = self.energies(law, 0.5 * linear)
        if self.functionals:
            value = self.value_of_moments(law.masses)
            energy, size = energy + value, size + abs(value)
        rounding = law.total / self.mass * (law.weights * (self.beta * level + self.internal_level(law))).sum()
        return Iterate(
            law.q, law.masses, law.weights, law.total, field, target,
            self.centered(law, target.q - law.q),
            residual=float(np.abs(target.masses - law.masses).sum()) / self.mass,
            floor=min(LARGEST_FLOOR, ROUNDING * float(1.0 + rounding + self.beta * self.scale
                                                      * law.total / self.mass)),
            energy=energy,
            slack=ROUNDING * (float((law.masses * level).sum()) + size + self.mass * self.scale),
        )

    def centered(self, law: Law | Iterate, f: np.ndarray) -> np.ndarray:
        """Return f, shape (..., n), less its mean under the weights, in each group of cells where there are several."""
        if self.groups is None:
            return f - (f @ law.weights)[..., None]
        shares = np.bincount(self.groups, law.weights)
        sums = np.array([np.bincount(self.groups, row * law.weights) for row in f.reshape(-1, self.size)])
        means = sums / np.where(shares > 0, shares, 1.0)
        return f - means[:, self.groups].reshape(f.shape)

    def change(self, state: Law | Iterate, v: np.ndarray) -> np.ndarray:
        """Return the change of the masses along a change of q of mean 0."""
        return state.total * (state.weights * v)

    def curved(self, state: Iterate, v: np.ndarray) -> np.ndarray:
        """Return T v."""
        push = self.beta * self.push(state, self.change(state, v))
        return v + self.centered(state, push)

    def mean(self, state: Law | Iterate, f: np.ndarray) -> float:
        """Return the mean of f under the weights."""
        return float((state.weights * f).sum())
