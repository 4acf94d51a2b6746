"""inner="back-and-forth": JKO steps through their dual, on one to three axes, with a primal-dual gap."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np

from wgflow.checks import check_count
from wgflow.densities import Density
from wgflow.energy_on_grid import TINY
from wgflow.errors import InvalidInput
from wgflow.jko_steps import JKOStep

from ..base import InnerSolver
from ..local_energy import LocalEnergy, pairs
from .ascent import Ascent, DualPoint, halves
from .transport_dual import TransportDual, smear

__all__ = ["BackAndForthSolver"]

#: A rest above this part of the mass is smeared over its neighbors, once, if that does not raise the energy.
ROUGH = 0.05
#: The scale of the gap is at least this part of the internal energy: next to a stationary state no decrease is left.
LEAST_SCALE = 1e-3
#: Cells of an axis down to which coarser grids are used for a first guess; the gap that they are solved to, in units of
#: the tolerance, and at most.
COARSEST_CELLS, COARSE_FACTOR, COARSE_TOLERANCE = 24, 10.0, 1e-3
#: A guess whose gap is below this part of the scale needs no coarser grid.
GOOD_GUESS = 0.01
#: How often a rough density is smeared, in turn, where the step does not succeed otherwise.
SMEARINGS = 1, 3, 7
#: Cells that a step moves by, from which on smearing the rest counts as nothing beside its error of O(h^2). Part of the
#: largest mass below which a cell does not count in that.
MOVES_FAR, EMPTY = 1.0, 1e-6
#: Rounds of the interaction's linearization.
MAX_ROUNDS = 60
#: Cells from which on two threads are used.
THREADED_CELLS = 1 << 14


class BackAndForthSolver(InnerSolver):
    r"""JKO steps by ascent of their dual, after the back-and-forth method of Jacobs, Lee and Leger.

    For an internal energy and a potential, :math:`E(\rho) = \int h(\rho) + \int V \rho`, a step from :math:`\mu` is

    .. math:: \min_\rho \frac{W_2^2(\rho, \mu)}{2\tau} + E(\rho)
              = \max_\varphi \int \varphi^c\,d\mu - E^*(-\varphi), \qquad
              \varphi^c(y) = \min_x \frac{|x - y|^2}{2\tau} - \varphi(x).

    Each :math:`\varphi` gives a density that it asks for, :math:`(h')^{-1}(c - V - \varphi)`, and one that the
    transforms bring, by moving :math:`\mu` to where the minimum is attained; at the optimum they are one. The density
    returned is the second: its mass is that of :math:`\mu`, no cell is negative, and with the value of :math:`\varphi`
    it bounds the error of the step: ``gap`` is primal less dual value, a sum of non-negative terms.

    What differs from the original: the density is made of intervals, over which the transforms are averaged exactly
    (separable and of linear cost, see `TransportDual`), so that moves by parts of a cell count, a cell may be stretched
    over many, and the discrete problem has no duality gap; the ascent is by regularized Newton steps (see `Ascent`), in
    place of gradient steps in a fixed Sobolev norm; a first guess comes from coarser grids; and there is one potential
    instead of two, as Newton steps do not need the way back to stay well conditioned.

    An interaction enters by linearization: :math:`V + U\rho` with :math:`\rho` of the round before, until the gap with
    the potential of the density itself meets the tolerance. Where U is positive semi-definite this gap bounds the error
    of the whole step; else it says how far the density is from stationary.

    ``residual`` is the gap divided by the decrease :math:`F(\mu) - J` that the step can give at most (near a stationary
    state, where that tends to 0, by a thousandth of the internal energy). The error of the
    discrete step is O(h^2) uniformly in tau where the density is smooth, and the transport cost counts the displacement
    of mass before its deposit. What of a density is too rough for the splines (jumps, single cells) rests exactly at
    the nodes in short steps; it is smeared over its neighbors where the step moves by more than a cell, and data with
    holes under an `Entropy` once or twice more if the step does not succeed otherwise: always so that F does not rise,
    by one to a few cells in distance, and said in ``extras["smearings"]``.

    Options
    -------
    points : int
        Intervals a cell and axis that stand for the density.
    threads : int or None
        Threads for large grids; two where there are two cores by default. Results have the same bits for any number.

    Raises
    ------
    InvalidInput
        If there is no internal energy (beta = infinity: nothing spreads the density), an axis is periodic or not
        uniform, or the grid has more than three axes.

    References
    ----------
    M. Jacobs, W. Lee and F. Leger, The back-and-forth method for Wasserstein gradient flows, ESAIM: COCV 27 (2021) 28.
    """

    TOLERANCE: ClassVar[float] = 1e-6
    MAX_ITERATIONS: ClassVar[int] = 100
    OPTIONS: ClassVar[dict[str, Any]] = {"points": 1, "threads": None}

    def __init__(self, parts, grid, settings):
        super().__init__(parts, grid, settings)
        if parts.diffusion == 0 and not parts.internal:
            raise InvalidInput("back-and-forth needs an internal energy (Entropy with finite beta, or PowerEntropy): "
                               "without one the dual has no density to answer with; use inner='quantile' on one axis")
        if any(grid.periodic):
            axis = grid.periodic.index(True)
            raise InvalidInput(f"boundary[{axis}]='periodic': back-and-forth knows walls only; use "
                               "inner='linearized'")
        if not all(grid.uniform):
            raise InvalidInput(f"edges[{grid.uniform.index(False)}] are not uniform: back-and-forth needs cells of one "
                               "width on each axis; give bounds and cells, or use inner='linearized'")
        if grid.ndim > 3:
            raise InvalidInput(f"the grid has {grid.ndim} axes: back-and-forth serves 1 to 3; use FiniteVolume")
        self.points, threads = settings.options["points"], settings.options["threads"]
        check_count("points", self.points)
        if threads is not None:
            check_count("threads", threads)
        threads = min(threads or os.cpu_count() or 1, 2)
        self.pool = ThreadPoolExecutor(1) if threads > 1 and grid.size >= THREADED_CELLS else None
        self.widths = tuple(float(h[0]) for h in grid.widths)
        self.reference = np.exp(grid.log_reference)

    # ---------------------------------------------------------------- one step
    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        masses, before = start.density.masses, self.parts.energy(start.density.masses)
        phi = [s.state["phi"] for s in (guess, start) if s is not None and "phi" in s.state]
        best: Any = None
        for transport in self._transports(masses, before, tau):
            step = self._attempt(start, transport, before, tau, phi)
            if best is None or step.residual < best.residual:
                best = step
            if best.residual <= self.settings.tolerance:
                break
            phi = [step.state["phi"]]
        return best

    def _transports(self, masses, before: float, tau: float) -> Iterator[TransportDual]:
        """What may stand for the density: exactly, with its rest at the nodes; smeared, if that does not raise F."""
        exact = TransportDual(masses, self.widths, tau, points=self.points, pool=self.pool)
        far = exact.rough > ROUGH or (exact.rough > 0.0 and self._moves(masses, tau) > MOVES_FAR)
        if not far:
            yield exact
        for times in SMEARINGS if exact.rough > 0.0 else ():
            smeared = TransportDual(masses, self.widths, tau, points=self.points, pool=self.pool, smearings=times)
            if self.parts.energy(smeared.start) > before:
                break
            yield smeared
        if far:
            yield exact

    def _moves(self, masses: np.ndarray, tau: float) -> float:
        """Cells that the mass moves by in a short step, in the mean square: tau times the slope of dF/drho."""
        energy = LocalEnergy(self.parts.diffusion, self.parts.internal, self.reference, self.parts.potential, 1.0)
        filled, total = masses > EMPTY * masses.max(), 0.0
        with np.errstate(divide="ignore"):
            slope = np.where(filled, energy.slope(masses / self.reference) + energy.potential, 0.0)
        for axis, h in enumerate(self.widths):
            lower, upper = halves(masses, axis)
            inside = np.logical_and(*halves(filled, axis))
            total += float((0.5 * (lower + upper) * np.where(inside, np.diff(slope, axis=axis), 0.0)**2).sum()) / h**4
        return tau * math.sqrt(total / float(masses.sum()))

    def _attempt(self, start, transport, before: float, tau: float, guesses: list) -> JKOStep:
        parts, masses = self.parts, start.density.masses
        interaction = parts.interaction(masses)
        potential = parts.potential if interaction is None else parts.potential + interaction
        energy = LocalEnergy(parts.diffusion, parts.internal, self.reference, potential, float(masses.sum()))
        ascent = Ascent(transport, energy, self.widths, tau)
        scale = self._scale(ascent)
        point = ascent.best_of(guesses or [np.zeros(masses.shape), self._still(energy, masses)])
        if not point.gap <= GOOD_GUESS * scale(point):
            coarse = self._coarse_guess(energy, transport.start, tau)
            point = ascent.best_of([point.phi, np.zeros(masses.shape) if coarse is None else coarse])
        point = self._rounds(ascent, point, scale, interaction)
        return self._result(start, before, ascent, point, scale, tau)

    def _rounds(self, ascent: Ascent, point: DualPoint, scale, interaction) -> DualPoint:
        """Ascend; with an interaction, linearized anew until its potential no longer changes the gap."""
        tolerance, most = self.settings.tolerance, self.settings.max_iterations
        if interaction is None:
            return ascent.run(point, lambda p: tolerance * scale(p), most)
        share, last = 1.0, math.inf
        for _ in range(MAX_ROUNDS):
            point = ascent.run(point, lambda p: 0.25 * tolerance * scale(p), most - ascent.steps)
            field = self.parts.interaction(point.masses)
            mixed = interaction + share * (field - interaction)
            ascent.energy = ascent.energy.with_potential(self.parts.potential + field)
            judged = ascent.evaluate(point.phi)
            if judged.gap <= tolerance * scale(judged) or ascent.steps >= most:
                return judged
            if judged.gap > 0.5 * last:
                share = max(0.125, 0.5 * share)
            last, interaction = judged.gap, mixed
            ascent.energy = ascent.energy.with_potential(self.parts.potential + mixed)
            point = ascent.evaluate(point.phi)
        ascent.energy = ascent.energy.with_potential(self.parts.potential + self.parts.interaction(point.masses))
        return ascent.evaluate(point.phi)

    def _result(self, start: JKOStep, before: float, ascent: Ascent, point: DualPoint, scale, tau: float) -> JKOStep:
        masses = point.masses * (float(start.density.masses.sum()) / float(point.masses.sum()))
        density, cost, gap = Density(self.grid, masses / self.grid.volumes), max(point.cost, 0.0), point.gap
        energy = self.parts.energy(density.masses)
        if energy + cost > before:
            # Next to a stationary state, to stay may be the better step; it is feasible, too.
            density, cost, energy = start.density, 0.0, before
            field = self.parts.interaction(density.masses)
            ascent.energy = ascent.energy.with_potential(self.parts.potential + (0.0 if field is None else field))
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
    def _scale(ascent: Ascent):
        """What a gap is compared with: the largest decrease that a step can give, F(mu) - J."""
        start, energy = ascent.transport.start, ascent.energy
        internal = float((energy.reference * np.abs(energy.h(start / energy.reference))).sum())
        floor = LEAST_SCALE * (internal + energy.diffusion * energy.mass)
        return lambda point: max(ascent.energy.energy(start) - point.value, floor)

    @staticmethod
    def _still(energy: LocalEnergy, masses: np.ndarray) -> np.ndarray:
        """The function that asks for the masses as they are: right in the limit of short steps."""
        r = smear(masses) / energy.reference
        with np.errstate(divide="ignore"):
            return -energy.slope(np.maximum(r, 1e-14 * r.max())) - energy.potential

    def _coarse_guess(self, energy: LocalEnergy, masses: np.ndarray, tau: float) -> np.ndarray | None:
        """The solution on cells of twice the width, brought back; None where the grid is coarse enough."""
        widths = [side / n for side, n in zip((hi - lo for lo, hi in self.grid.bounds), masses.shape)]
        axes = [k for k, n in enumerate(masses.shape) if n % 2 == 0 and n >= 2 * COARSEST_CELLS]
        if not axes:
            return None
        coarse_energy = energy.coarsened(axes)
        for axis in axes:
            masses, widths[axis] = pairs(masses, axis), 2.0 * widths[axis]
        transport = TransportDual(masses, widths, tau, points=self.points, smearings=1)
        ascent = Ascent(transport, coarse_energy, widths, tau)
        scale = self._scale(ascent)
        finer = self._coarse_guess(coarse_energy, transport.start, tau)
        starts = [finer] if finer is not None else [np.zeros(masses.shape), self._still(coarse_energy, masses)]
        point = ascent.best_of(starts)
        tolerance = min(COARSE_FACTOR * self.settings.tolerance, COARSE_TOLERANCE)
        phi = ascent.run(point, lambda p: tolerance * scale(p), self.settings.max_iterations).phi
        for axis in axes:
            phi = _refined(phi, axis)
        return phi


def _refined(phi: np.ndarray, axis: int) -> np.ndarray:
    """Values of the quadratic spline at the quarter points of its cells, along an axis."""
    phi = np.moveaxis(phi, axis, 0)
    lower, upper = np.concatenate([phi[:1], phi[:-1]]), np.concatenate([phi[1:], phi[-1:]])
    fine = np.empty((2 * phi.shape[0], *phi.shape[1:]))
    fine[0::2] = 0.28125 * lower + 0.6875 * phi + 0.03125 * upper
    fine[1::2] = 0.03125 * lower + 0.6875 * phi + 0.28125 * upper
    return np.ascontiguousarray(np.moveaxis(fine, 0, axis))
