"""inner="back-and-forth": JKO steps by their dual problem, on one to three axes, with the gap between both problems."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, cast

import numpy as np

from wgflow.densities import Density
from wgflow.energies.on_grid import TINY, EnergyOnGrid
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep

from ..base import InnerSolver
from ..local_energy import LocalEnergy, pairs
from ..settings import BackAndForth
from .ascent import Ascent, DualPoint, halves
from .transport_dual import TransportDual, smear

__all__ = ["BackAndForthSolver"]

#: Part of the mass that may be too rough for splines and yet rest at the nodes. Where more is, it is smeared over
#: neighboring cells, once, if that does not raise the energy.
ROUGH = 0.05
#: The scale of the gap is at least this part of the internal energy: near a stationary state a step hardly decreases F.
LEAST_SCALE = 1e-3
#: Coarser grids give a first guess as long as an axis has twice this many cells.
COARSEST_CELLS = 24
#: The gap to which the problem on a coarser grid is solved, in units of the tolerance.
COARSE_FACTOR = 10.0
#: The largest gap to which it is solved.
COARSE_TOLERANCE = 1e-3
#: A guess whose gap is below this part of the scale needs no coarser grid.
GOOD_GUESS = 0.01
#: How many times a rough density is smeared, in the order in which this is tried.
SMEARINGS = 1, 3, 7
#: Number of cells that a step moves by from which on smearing the rough part counts for nothing beside the step's error
#: of O(h^2).
MOVES_FAR = 1.0
#: Part of the largest mass below which a cell does not count in that number.
EMPTY = 1e-6
#: Linearizations of the nonlocal terms in a step, at most.
MAX_ROUNDS = 60
#: Number of cells from which on two threads are used.
THREADED_CELLS = 1 << 14

#: What the gap of a point is compared with.
Scale = Callable[[DualPoint], float]


class BackAndForthSolver(InnerSolver):
    r"""JKO steps by ascent of their dual, after the back-and-forth method of Jacobs, Lee and Leger.

    For an internal energy and a potential, :math:`E(\rho) = \int h(\rho) + \int V \rho`, a step from :math:`\mu` is

    .. math:: \min_\rho \frac{W_2^2(\rho, \mu)}{2\tau} + E(\rho)
              = \max_\varphi \int \varphi^c\,d\mu - E^*(-\varphi), \qquad
              \varphi^c(y) = \min_x \frac{|x - y|^2}{2\tau} - \varphi(x).

    Each :math:`\varphi` gives two densities: the maximizer in :math:`E^*`, which is :math:`(h')^{-1}(c - V - \varphi)`,
    and the one to which the c-transform moves :math:`\mu`, each point y to the x of the minimum. At the optimum they
    are equal. The second is returned: it has the mass of :math:`\mu` and no negative cell, and the difference of its
    primal value and the dual value of :math:`\varphi`, the ``gap``, bounds the error of the step. It is formed as a sum
    of non-negative terms.

    Differences from the original method: the density is represented by intervals, over which the transforms are
    averaged exactly (separable, of linear cost; see `TransportDual`), so that moves by parts of a cell count, a cell
    may be stretched over many, and the discrete problem has no duality gap. The ascent takes regularized Newton steps
    (see `Ascent`) in place of gradient steps in a fixed Sobolev norm. A first guess comes from coarser grids. There is
    one potential instead of two: Newton steps need no second one to stay well conditioned.

    Nonlocal terms are linearized: V is replaced by :math:`V + U\rho` with the :math:`\rho` of the round before, until
    the gap with the potential of the present density meets the tolerance. Where U is positive semi-definite this gap
    bounds the error of the whole step; otherwise it measures how far the density is from stationary.

    ``residual`` is the gap divided by :math:`F(\mu) - J`, J the dual value: the most that a step can decrease F (or by
    a thousandth of the internal energy, near a stationary state, where that tends to 0). The error of the discrete step
    is O(h^2) uniformly in tau where the density is smooth, and the transport cost is that of the mass before it is
    deposited in cells. The part of a density that is too rough for splines (jumps, single cells) rests exactly at the
    nodes in short steps. Where the step moves by more than a cell it is smeared over neighboring cells. Data with holes
    under an `Entropy` are smeared three or seven times if the step does not succeed otherwise. Smearing never raises F,
    it moves the density by one to a few cells in distance, and ``extras["smearings"]`` counts it.

    Parameters
    ----------
    parts, grid, settings, tolerance, max_iterations : see `InnerSolver`
        The settings are those of `BackAndForth`.

    Raises
    ------
    InvalidInput
        If there is no internal energy (beta = infinity: nothing spreads the density), an axis is periodic or not
        uniform, or the grid has more than three axes.

    References
    ----------
    M. Jacobs, W. Lee and F. Leger, The back-and-forth method for Wasserstein gradient flows, ESAIM: COCV 27 (2021) 28.
    """

    TAKES_FUNCTIONALS: ClassVar[bool] = True
    TOLERANCE: ClassVar[float] = 1e-6
    MAX_ITERATIONS: ClassVar[int] = 100

    settings: BackAndForth

    def __init__(self, parts: EnergyOnGrid, grid: Grid, settings: BackAndForth, tolerance: float | None = None,
                 max_iterations: int | None = None):
        super().__init__(parts, grid, settings, tolerance, max_iterations)
        if parts.diffusion == 0 and not parts.internal:
            raise InvalidInput("back-and-forth needs an internal energy (Entropy with finite beta, or PowerEntropy): "
                               "without one the dual problem has no maximizer in E*; use inner='quantile' on one axis")
        if any(grid.periodic):
            axis = grid.periodic.index(True)
            raise InvalidInput(f"boundary[{axis}]='periodic': inner='back-and-forth' takes walls only; use "
                               "inner='linearized'")
        if not all(grid.uniform):
            raise InvalidInput(f"edges[{grid.uniform.index(False)}] are not uniform: back-and-forth needs cells of one "
                               "width on each axis; give bounds and cells, or use inner='linearized'")
        if grid.ndim > 3:
            raise InvalidInput(f"the grid has {grid.ndim} axes: back-and-forth serves 1 to 3; use FiniteVolume")
        threads = min(settings.threads or os.cpu_count() or 1, 2)
        self.pool = ThreadPoolExecutor(1) if threads > 1 and grid.size >= THREADED_CELLS else None
        self.widths = tuple(float(h[0]) for h in grid.widths)
        self.reference = np.exp(grid.log_reference)

    # ---------------------------------------------------------------- one step
    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        masses, before = start.rho.masses, self.energy(start.rho.masses)
        phi = [s.state["phi"] for s in (guess, start) if s is not None and "phi" in s.state]
        best: JKOStep | None = None
        for transport in self._transports(masses, before, tau):
            step = self._attempt(start, transport, before, tau, phi)
            if best is None or step.residual < best.residual:
                best = step
            if best.residual <= self.tolerance:
                break
            phi = [step.state["phi"]]
        return cast(JKOStep, best)

    def remedy(self, missed: JKOStep) -> str:
        if missed.iterations >= self.max_iterations:
            return super().remedy(missed)
        return ("the ascent has stalled, as it does where dF/drho jumps (obstacles) or a front moves far in a step, "
                "and more iterations do not help; use "
                "inner=wg.solvers.Linearized(metric='linear'), or FiniteVolume()")

    def _transports(self, masses: np.ndarray, before: float, tau: float) -> Iterator[TransportDual]:
        """Yield representations of the density: the exact one; smeared ones, as long as F does not rise."""
        exact = TransportDual(masses, self.widths, tau, points=self.settings.points, pool=self.pool)
        far = exact.rough > ROUGH or (exact.rough > 0.0 and self._moves(masses, tau) > MOVES_FAR)
        if not far:
            yield exact
        for times in SMEARINGS if exact.rough > 0.0 else ():
            smeared = TransportDual(masses, self.widths, tau, points=self.settings.points, pool=self.pool,
                                    smearings=times)
            if self.energy(smeared.start) > before:
                break
            yield smeared
        if far:
            yield exact

    def _moves(self, masses: np.ndarray, tau: float) -> float:
        """Return the root mean square of the move in a short step, in cells: tau times the slope of dF/drho."""
        energy = LocalEnergy(self.parts.diffusion, self.parts.internal, self.reference, self.parts.potential, 1.0)
        filled, total = masses > EMPTY * masses.max(), 0.0
        with np.errstate(divide="ignore"):
            slope = np.where(filled, energy.slope(masses / self.reference) + energy.potential, 0.0)
        for axis, h in enumerate(self.widths):
            lower, upper = halves(masses, axis)
            inside = np.logical_and(*halves(filled, axis))
            total += float((0.5 * (lower + upper) * np.where(inside, np.diff(slope, axis=axis), 0.0)**2).sum()) / h**4
        return tau * math.sqrt(total / float(masses.sum()))

    def _attempt(self, start: JKOStep, transport: TransportDual, before: float, tau: float,
                 guesses: list[np.ndarray]) -> JKOStep:
        """Solve the step with one representation of the density."""
        parts, masses = self.parts, start.rho.masses
        variation = self.nonlocal_variation(masses)
        potential = self._potential(variation)
        energy = LocalEnergy(parts.diffusion, parts.internal, self.reference, potential, float(masses.sum()))
        ascent = Ascent(transport, energy, self.widths, tau, self.check_time)
        scale = self._scale(ascent)
        point = ascent.best_of(guesses or [np.zeros(masses.shape), self._still(energy, masses)])
        if not point.gap <= GOOD_GUESS * scale(point):
            coarse = self._coarse_guess(energy, transport.start, tau)
            point = ascent.best_of([point.phi, np.zeros(masses.shape) if coarse is None else coarse])
        point = self._rounds(ascent, point, scale, variation)
        return self._result(start, before, ascent, point, scale, tau)

    def _potential(self, variation: np.ndarray | None) -> np.ndarray:
        """Return V plus a first variation of the nonlocal terms, the linear part of the energy."""
        return self.parts.potential if variation is None else self.parts.potential + variation

    def _rounds(self, ascent: Ascent, point: DualPoint, scale: Scale, variation: np.ndarray | None) -> DualPoint:
        """Ascend; with nonlocal terms, linearize them again until the gap with their present potential is small."""
        tolerance, most = self.tolerance, self.max_iterations
        if variation is None:
            return ascent.run(point, lambda p: tolerance * scale(p), most)
        share, last = 1.0, math.inf
        for _ in range(MAX_ROUNDS):
            point = ascent.run(point, lambda p: 0.25 * tolerance * scale(p), most - ascent.steps)
            present = self.nonlocal_variation(point.masses)
            mixed = variation + share * (present - variation)
            ascent.energy = ascent.energy.with_potential(self._potential(present))
            judged = ascent.evaluate(point.phi)
            if judged.gap <= tolerance * scale(judged) or ascent.steps >= most:
                return judged
            if judged.gap > 0.5 * last:
                share = max(0.125, 0.5 * share)
            last, variation = judged.gap, mixed
            ascent.energy = ascent.energy.with_potential(self._potential(mixed))
            point = ascent.evaluate(point.phi)
        ascent.energy = ascent.energy.with_potential(self._potential(self.nonlocal_variation(point.masses)))
        return ascent.evaluate(point.phi)

    def _result(self, start: JKOStep, before: float, ascent: Ascent, point: DualPoint, scale: Scale,
                tau: float) -> JKOStep:
        masses = point.masses * (float(start.rho.masses.sum()) / float(point.masses.sum()))
        density, cost, gap = Density(self.grid, masses / self.grid.volumes), max(point.cost, 0.0), point.gap
        energy = self.energy(density.masses)
        if energy + cost > before:
            # Near a stationary state the density itself, which is feasible, may be the better step.
            density, cost, energy = start.rho, 0.0, before
            ascent.energy = ascent.energy.with_potential(self._potential(self.nonlocal_variation(density.masses)))
            point = ascent.evaluate(point.phi)
            gap = ascent.energy.energy(density.masses) - point.value
        gap = max(gap, 0.0)
        extras = {"l1_residual": point.residual, "relative_gap": gap / max(abs(point.value), TINY),
                  "products": ascent.products, "evaluations": ascent.evaluations,
                  "smearings": ascent.transport.smearings, "stretch": ascent.transport.stretch()}
        residual = gap / scale(point) if math.isfinite(gap) else math.inf
        return JKOStep(density, 2.0 * tau * cost, energy, gap, residual, ascent.steps, tau, extras=extras,
                       state={"phi": point.phi})

    # ---------------------------------------------------------------- scale and guesses
    @staticmethod
    def _scale(ascent: Ascent) -> Scale:
        """Return what a gap is compared with: F(mu) - J, the most that a step can decrease F."""
        start, energy = ascent.transport.start, ascent.energy
        internal = float((energy.reference * np.abs(energy.h(start / energy.reference))).sum())
        floor = LEAST_SCALE * (internal + energy.diffusion * energy.mass)
        return lambda point: max(ascent.energy.energy(start) - point.value, floor)

    @staticmethod
    def _still(energy: LocalEnergy, masses: np.ndarray) -> np.ndarray:
        """Return the function at which E* has the given masses as its maximizer: the limit of short steps."""
        r = smear(masses) / energy.reference
        with np.errstate(divide="ignore"):
            return -energy.slope(np.maximum(r, 1e-14 * r.max())) - energy.potential

    def _coarse_guess(self, energy: LocalEnergy, masses: np.ndarray, tau: float) -> np.ndarray | None:
        """Return the solution on cells of twice the width, interpolated; None where the grid is coarse enough."""
        widths = [side / n for side, n in zip((hi - lo for lo, hi in self.grid.bounds), masses.shape)]
        axes = [k for k, n in enumerate(masses.shape) if n % 2 == 0 and n >= 2 * COARSEST_CELLS]
        if not axes:
            return None
        coarse_energy = energy.coarsened(axes)
        for axis in axes:
            masses, widths[axis] = pairs(masses, axis), 2.0 * widths[axis]
        transport = TransportDual(masses, widths, tau, points=self.settings.points, smearings=1)
        ascent = Ascent(transport, coarse_energy, widths, tau, self.check_time)
        scale = self._scale(ascent)
        finer = self._coarse_guess(coarse_energy, transport.start, tau)
        starts = [finer] if finer is not None else [np.zeros(masses.shape), self._still(coarse_energy, masses)]
        point = ascent.best_of(starts)
        tolerance = min(COARSE_FACTOR * self.tolerance, COARSE_TOLERANCE)
        phi = ascent.run(point, lambda p: tolerance * scale(p), self.max_iterations).phi
        for axis in axes:
            phi = _refined(phi, axis)
        return phi


def _refined(phi: np.ndarray, axis: int) -> np.ndarray:
    """Return the values of the quadratic spline at the quarter points of its cells, along an axis."""
    phi = np.moveaxis(phi, axis, 0)
    lower, upper = np.concatenate([phi[:1], phi[:-1]]), np.concatenate([phi[1:], phi[-1:]])
    fine = np.empty((2 * phi.shape[0], *phi.shape[1:]))
    fine[0::2] = 0.28125 * lower + 0.6875 * phi + 0.03125 * upper
    fine[1::2] = 0.03125 * lower + 0.6875 * phi + 0.28125 * upper
    return np.ascontiguousarray(np.moveaxis(fine, 0, axis))
