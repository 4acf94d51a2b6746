r"""Ascent of the dual of a JKO step: regularized Newton steps, solved by preconditioned conjugate gradients.

The dual function of :math:`\varphi` is

.. math:: J(\varphi) = -\sum_q m_q F_q(\varphi) - E^*(-\varphi),

concave, with the gradient (masses that maximize in E*) - (masses that the points deposit). A step solves

.. math:: \Bigl(-\nabla^2 J + \lambda \sum_a B_a\Bigr) \delta = \nabla J, \qquad
          B_a = \frac{h_a^2}{\tau} D_a^T \rho\, D_a, \quad D_a = \tau \partial_a^2 :

The quadratic model of J fails where :math:`1 - \tau\,\partial^2\varphi`, the width of the image of a cell, changes by
a part of itself. B is therefore a price of bending :math:`\varphi` (D_a is taken relative to that width, where it is
not small): a small price :math:`\lambda` allows long steps, and steps stay smooth at any price. A step that goes too
far is shortened to where the slope of J along it vanishes. Then :math:`\varphi` is raised to the least function with
the same transforms at all points with mass (its double c-transform along the axes), which never lowers J and leaves no
direction without curvature. So the ascent can start at :math:`\varphi = 0`; near the optimum :math:`\lambda \to 0` and
it converges superlinearly. There J has kinks: at fronts and at walls that mass leaves, nodes have no image, and what
the splines deposit at them may as well be at the ends of their block. Of these derivatives one is taken that leaves a
node no more than is wanted, and steps move such nodes with the ends of their block. Linear systems are solved by
conjugate gradients, preconditioned by multigrid cycles for diffusion weighted by the density, whose convergence does
not suffer from densities that vary over many orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wgflow.compiled.extension import extend
from wgflow.compiled.multigrid import Multigrid, add_bending
from wgflow.progress import pulse

from ...base import no_limit
from ..local_energy import LocalEnergy
from .transport_dual import Moved, TransportDual

__all__ = ["Ascent", "DualPoint", "halves"]

#: The first price of bending is the square of the residual relative to this one, at most 1.
FAR = 0.05
#: The first price of bending is at least this.
FIRST_PRICE = 0.05
#: Factor by which the price rises after a step that is refused.
RISE = 6.0
#: Factor by which the price falls after a good step.
FALL = 6.0
#: Factor by which it falls after a fair step.
LITTLE_FALL = 2.0
#: A price below this is set to 0.
NO_PRICE = 1e-9
#: Below this price it rises by two factors at once.
SMALL_PRICE = 1e-3
#: Least part of the predicted increase of J that a step must give.
LEAST_PART = 0.4
#: Part of it from which on a step is fair.
FAIR_PART = 0.75
#: Part of it from which on a step is good.
GOOD_PART = 0.9
#: Shortest part of a step that is tried after a failure.
SHORTEST = 0.02
#: Least part of the increase, as its slope predicts it, that such a shorter step must give.
FAIR_SHORT = 0.2
#: Where the energy leaves cells empty: the price of bending is weighted by at least this part of the mean density.
SPARSE = 0.05
#: Part of its mean that the response has at least, so that systems stay solvable; smallest rise of phi that counts.
LEAST = 1e-14
#: Part of the mean density by which the price of bending is weighted at least.
LEAST_WEIGHT = 1e-3
#: Relative difference of masses that counts as none.
CLOSE = 1e-6
#: Where E* is flat (its maximizer is 0), its curvature is replaced by this part of the mean one, far from the optimum.
FLAT = 0.2
#: The L1 residual below which that part falls in proportion to the residual, and kinks of J are taken as such.
CALM = 0.005
#: The price of bending above which they are, too: steps that smooth functions allow were refused.
KINKED = 1.0
#: Largest reduction asked of the conjugate gradients.
COARSEST = 0.1
#: Smallest reduction asked of them.
FINEST = 1e-3
#: Iterations of the conjugate gradients.
MAX_PRODUCTS = 60
#: Refused steps in a row after which the ascent stops.
MAX_REJECTED = 12
#: Steps that do not lower the gap after which the ascent stops.
PATIENCE = 15
#: Least width of a cell's image (its inverse is the stretch) in the preconditioner.
LEAST_WIDTH = 0.1
#: Least width of a cell's image in the price of bending.
LEAST_STRAIGHT = 0.3
#: The diffusion by which the preconditioner represents bending, in units of its price.
BENDING_SHARE = 4.0
#: Cells with less mass than this part of the largest count as empty.
EMPTY = 1e-2
#: phi is continued over empty cells as far as the longest move times this,
CONTINUED = 1.3
#: and by this many cells more.
MARGIN = 4
#: Relative change of J that round-off explains.
ROUND_OFF = 1e-14


@dataclass
class DualPoint:
    """A function phi with what follows from it.

    Attributes
    ----------
    phi : array
    value : float
        J.
    gap : float
        Primal value of ``masses`` less J.
    cost : float
        Transport cost W2^2 / (2 tau) of ``masses``.
    masses : array
        The feasible masses that the points deposit.
    wanted : array
        The masses that maximize in E*(-phi).
    slope : array
        c - V - phi, which is h' at ``wanted`` where that is not 0.
    response : array
        Derivative of ``wanted`` in ``slope``.
    moved : Moved or None
        Where masses were moved to that nodes without an image need not keep.
    """

    phi: np.ndarray
    value: float
    gap: float
    cost: float
    masses: np.ndarray
    wanted: np.ndarray
    slope: np.ndarray
    response: np.ndarray
    moved: Moved | None = None

    @property
    def residual(self) -> float:
        """L1 distance of the two densities, relative to the mass."""
        return float(np.abs(self.wanted - self.masses).sum() / self.masses.sum())


class Ascent:
    """Ascent for one step: the transport of one density, and an energy, whose potential may be replaced on the way.

    Parameters
    ----------
    transport : TransportDual
    energy : LocalEnergy
    widths : sequence of float
    tau : float
    check_time : callable
        Called in every loop; it raises ConvergenceError where the run's time limit is reached.
    """

    def __init__(self, transport: TransportDual, energy: LocalEnergy, widths: Sequence[float], tau: float,
                 check_time: Callable[[], None] = no_limit):
        self.check_time = check_time
        self.transport, self.energy, self.widths, self.tau = transport, energy, widths, tau
        self.price = 1.0
        self.scratch = np.empty_like(transport.start)
        self.at: np.ndarray | None = None
        with np.errstate(divide="ignore"):
            self.least = float(energy.slope(np.zeros(1))[0])
        self.leaves_cells_empty = math.isfinite(self.least)
        self.calm = False
        self.steps, self.products, self.evaluations = 0, 0, 0

    def evaluate(self, phi: np.ndarray) -> DualPoint:
        """Return J with its derivatives and the gap at phi, raised along the last axis where that moves no mass."""
        self.check_time()
        self.evaluations += 1
        higher = self.transport.majorant(phi, phi.ndim - 1)
        phi = phi if higher is None else higher
        self.at = phi
        density, slope, response, conjugate = self.energy.respond(phi)
        if self.calm and self.leaves_cells_empty:
            # Where cells stay empty phi is lowered to where they just do: J rises, and no mass that moves to them.
            self.at = phi = phi + np.minimum(slope - self.least, 0.0)
            slope = np.maximum(slope, self.least)
        total, masses = self.transport.evaluate(phi)
        wanted = self.energy.reference * density
        moved = self.transport.settle(phi, wanted, masses) if self.calm else None
        gap = self.energy.gap(masses, density, slope)
        return DualPoint(phi, -total - conjugate, gap, float((phi * masses).sum()) - total, masses, wanted, slope,
                         response, moved)

    def best_of(self, candidates: list[np.ndarray]) -> DualPoint:
        """Return the candidate of the largest J, among them and their continuations over the cells empty at the start.
        """
        best = None
        start = self.transport.start
        for candidate in candidates:
            for phi in (candidate, self._continuation(candidate, start)):
                point = None if phi is None else self.evaluate(phi)
                if point is not None and math.isfinite(point.value) and (best is None or point.value > best.value):
                    best = point
        return best if best is not None else self.evaluate(np.zeros(start.shape))

    def run(self, point: DualPoint, gap_tolerance: Callable[[DualPoint], float], max_steps: int) -> DualPoint:
        """Ascend until ``gap <= gap_tolerance(point)``; return the last point, or the one of least gap on a failure."""
        best, since = point, 0
        self.calm = False
        point = self._continued(point)
        self.price = min(1.0, max((point.residual / FAR)**2, FIRST_PRICE))
        for _ in range(max_steps):
            if best.gap <= gap_tolerance(best) or since >= PATIENCE or not math.isfinite(point.value):
                break
            pulse(f"duality gap {best.gap:.1e}")
            new = self._step(point)
            if new is None:
                break
            point = self._raised(new)
            if not self.calm and (point.residual < CALM or self.price > KINKED):
                self.calm = True
                point = self.evaluate(point.phi)
            since = 0 if point.gap < 0.9 * best.gap else since + 1
            if point.gap < best.gap or math.isnan(best.gap):
                best = point
        return best

    def _raised(self, point: DualPoint) -> DualPoint:
        """Return the point with phi raised where that moves no mass; along the last axis it has been raised already."""
        for axis in range(point.phi.ndim - 1):
            higher = self.transport.majorant(point.phi, axis)
            if higher is not None and ((higher > point.phi + LEAST) & (point.wanted > 0.0)).any():
                new = self.evaluate(higher)
                point = new if new.value > point.value else point
        return point

    def _continued(self, point: DualPoint) -> DualPoint:
        """Return the point with phi continued over the cells with hardly any mass, if J or the gap is no worse."""
        phi = self._continuation(point.phi, point.masses)
        if phi is None:
            return point
        new = self.evaluate(phi)
        if new.value >= point.value or new.gap < point.gap:
            return new
        return point

    def _continuation(self, phi: np.ndarray, masses: np.ndarray) -> np.ndarray | None:
        """Return phi continued smoothly from the cells with mass to the others; None where that changes nothing.

        Only for energies that leave cells empty: there phi would get a kink at the front, at which points stop that
        later steps should move on.
        """
        known = masses > EMPTY * masses.max()
        if not self.leaves_cells_empty or known.all():
            return None
        longest = max(float(np.abs(np.diff(phi, axis=k)[_inner(known, k)]).max(initial=0.0)) * self.tau / h**2
                      for k, h in enumerate(self.widths) if phi.shape[k] > 1)
        shape = (1,) * (3 - known.ndim) + known.shape
        phi = phi.copy()
        extend(phi.reshape(shape), known.reshape(shape), MARGIN + int(min(CONTINUED * longest, phi.size)))
        return phi

    def _step(self, point: DualPoint) -> DualPoint | None:
        """Take one step of the ascent; None where every step is refused."""
        self.steps += 1
        self._return_to(point)
        gradient = point.wanted - point.masses
        both = 0.5 * (point.wanted + point.masses)
        mass = float(both.sum())
        mean, mean_response = float((both * both).sum()) / mass, self._typical_response(both)
        response = self._secant(point)
        weight = both
        if self.leaves_cells_empty:
            far = min(1.0, point.residual / CALM)
            response = np.maximum(response, FLAT * mean_response * far)
            weight = np.maximum(both, SPARSE * mean)
        response = np.maximum(response, LEAST * mean_response)
        weight = np.maximum(weight, LEAST_WEIGHT * mean)
        reduction = min(COARSEST, max(FINEST, math.sqrt(point.residual)))
        straight = [np.maximum(1.0 - (self.tau / h**2) * _second_difference(point.phi, axis), LEAST_WIDTH)
                    for axis, h in enumerate(self.widths)]
        weight = [weight / np.maximum(s, LEAST_STRAIGHT) for s in straight]
        for _ in range(MAX_REJECTED):
            approximate = self._approximate(point, response, weight)
            delta = self._solve(point.moved, gradient, response, weight, approximate, reduction)
            curved = self._newton_product(delta, response)
            predicted = float((delta * gradient).sum()) - 0.5 * float((delta * curved).sum())
            new = self.evaluate(point.phi + delta)
            increase = new.value - point.value
            hidden = abs(predicted) <= ROUND_OFF * abs(point.value) * 100.0 and new.gap <= point.gap
            part = 1.0 if hidden else increase / predicted if predicted > 0.0 else -1.0
            if part > LEAST_PART:
                fall = FALL if part > GOOD_PART else LITTLE_FALL if part > FAIR_PART else 1.0
                self.price = self.price / fall if self.price > NO_PRICE * fall else 0.0
                return new
            self.price = max(self.price, NO_PRICE) * (RISE if self.price > SMALL_PRICE else RISE**2)
            shorter = self._shortened(point, new, delta, float((delta * gradient).sum()))
            if shorter is not None:
                return shorter
            self._return_to(point)
        return None

    def _typical_response(self, masses: np.ndarray) -> float:
        """Return dm/dp at the mean density: its mean is unbounded at fronts where H is r^m / (m - 1) with m > 2."""
        reference, mass = self.energy.reference, float(masses.sum())
        mean = float((masses * masses / reference).sum()) / mass
        _, response = self.energy.density(self.energy.slope(np.full(1, mean)))
        return float(response[0]) * float((masses * reference).sum()) / mass

    def _shortened(self, point: DualPoint, new: DualPoint, delta: np.ndarray, slope: float) -> DualPoint | None:
        """Return the point between two where their slopes predict the maximum of J; None if it raises J too little."""
        beyond = float((delta * (new.wanted - new.masses)).sum())
        if not (slope > 0.0 and beyond < 0.0 and math.isfinite(beyond)):
            return None
        share = max(slope / (slope - beyond), SHORTEST)
        shorter = self.evaluate(point.phi + share * delta)
        return shorter if shorter.value - point.value >= FAIR_SHORT * share * slope else None

    def _return_to(self, point: DualPoint) -> None:
        """Let the transport hold its second derivative at a point."""
        if self.at is not point.phi:
            self.evaluate(point.phi)

    def _secant(self, point: DualPoint) -> np.ndarray:
        """Return the difference quotient of the response, between the slopes of the wanted and of the feasible masses.

        Where the two are far apart (fronts, tails) a step with it leads from one to the other at once; in the limit it
        is the derivative.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            target = self.energy.slope(point.masses / self.energy.reference)
            secant = (point.wanted - point.masses) / (point.slope - target)
        apart = np.abs(point.wanted - point.masses) > CLOSE * (point.wanted + point.masses)
        secant = np.where(apart & np.isfinite(target) & (secant > 0.0), secant, point.response)
        return secant if self.leaves_cells_empty else np.maximum(secant, point.response)

    def _newton_product(self, v: np.ndarray, response: np.ndarray) -> np.ndarray:
        """Return the negative second derivative of J, at fixed total mass, applied to v."""
        self.check_time()
        self.products += 1
        centered = v - float((response * v).sum()) / float(response.sum())
        return response * centered + self.transport.curvature(v)

    def _bend(self, v: np.ndarray, weight: list[np.ndarray], out: np.ndarray) -> None:
        """Add the price of bending times the sum of the B_a, applied to v, to ``out``."""
        for axis, h in enumerate(self.widths):
            shape = math.prod(v.shape[:axis]), v.shape[axis], math.prod(v.shape[axis + 1:])
            add_bending(v.reshape(shape), weight[axis].reshape(shape), self.price * self.tau / h**2,
                        self.scratch.reshape(shape), out.reshape(shape))

    def _approximate(self, point: DualPoint, response: np.ndarray, weight: list[np.ndarray]) -> Multigrid:
        """Return multigrid cycles for a matrix of cells and edges close to the regularized Newton system.

        Transport is diffusion of phi, weighted by the masses and the stretch of the points; bending is replaced by
        diffusion between neighbors.
        """
        edges = []
        for axis, h in enumerate(self.widths):
            scale = self.tau / h**2
            straight = np.maximum(1.0 - scale * _second_difference(point.phi, axis), LEAST_WIDTH)
            conduction = scale * (point.masses / straight + BENDING_SHARE * self.price * weight[axis])
            lower, upper = halves(conduction, axis)
            edges.append(0.5 * (lower + upper))
        return Multigrid(response, edges)

    def _solve(self, moved: Moved | None, gradient: np.ndarray, response: np.ndarray, weight: list[np.ndarray],
               approximate: Multigrid, reduction: float) -> np.ndarray:
        """Solve the regularized Newton system by conjugate gradients."""
        precondition = approximate.cycle
        x, r = np.zeros_like(gradient), gradient.copy()
        z = precondition(r)
        direction, rz = z, float((r * z).sum())
        target = reduction**2 * rz
        for _ in range(MAX_PRODUCTS):
            if moved is not None:
                direction = moved.follow(direction)
            image = self._newton_product(direction, response)
            if self.price > 0.0:
                self._bend(direction, weight, image)
            if moved is not None:
                image = moved.gather(image)
            bend = float((direction * image).sum())
            if not bend > 0.0:
                break
            x += (rz / bend) * direction
            r -= (rz / bend) * image
            z = precondition(r)
            rz, before = float((r * z).sum()), rz
            if not rz > target:
                break
            direction = z + (rz / before) * direction
        return x


def halves(v: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return views of the cells below and above each edge along an axis."""
    lower, upper = [slice(None)] * v.ndim, [slice(None)] * v.ndim
    lower[axis], upper[axis] = slice(0, -1), slice(1, None)
    return v[tuple(lower)], v[tuple(upper)]


def _inner(known: np.ndarray, axis: int) -> np.ndarray:
    """Return the edges along an axis between known cells."""
    lower, upper = halves(known, axis)
    return lower & upper


def _second_difference(v: np.ndarray, axis: int) -> np.ndarray:
    """Return the second difference along an axis, mirrored at the walls: a symmetric operator."""
    lower, upper = halves(v, axis)
    out = np.zeros_like(v)
    below, above = halves(out, axis)
    below += upper - lower
    above -= upper - lower
    return out
