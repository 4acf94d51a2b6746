r"""Ascent of the dual of a JKO step: regularized Newton steps, solved by preconditioned conjugate gradients.

The dual function of :math:`\varphi` is

.. math:: J(\varphi) = -\sum_q m_q F_q(\varphi) - E^*(-\varphi),

concave, with the gradient (masses that :math:`\varphi` asks for) - (masses that the points bring). A step solves

.. math:: \Bigl(-\nabla^2 J + \lambda \sum_a B_a\Bigr) \delta = \nabla J, \qquad
          B_a = \frac{h_a^2}{\tau} D_a^T \rho\, D_a, \quad D_a = \tau \partial_a^2 :

J changes its behavior where :math:`1 - \tau\,\partial^2\varphi`, the width of the image of a cell, changes by a part of
itself (D_a is taken relative to it, where it is not small), so that a step is made long by lowering the price of
bending, :math:`\lambda`, and never stops being smooth. A step that goes too far is shortened to where the slope of J
along it vanishes, and :math:`\varphi` is raised to the least function that no mass tells from it (its double
c-transform along the axes), which never lowers J and leaves no direction without curvature. So the ascent finds its
way from :math:`\varphi = 0`; near the optimum :math:`\lambda \to 0` and it converges superlinearly. Linear systems are
solved by conjugate gradients, preconditioned by multigrid cycles for diffusion weighted by the density, which do not
mind that the density varies over many orders of magnitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wgflow.compiled.extension import extend
from wgflow.compiled.multigrid import Multigrid, add_bending

from ..local_energy import LocalEnergy
from .transport_dual import TransportDual

__all__ = ["Ascent", "DualPoint", "halves"]

#: The price of bending starts at the square of the residual relative to the first number, between the second and 1;
#: factors of its rise and fall, the price that counts as none, and the one below which it rises by two factors at once.
FAR, FIRST_PRICE, RISE, FALL, LITTLE_FALL, NO_PRICE, SMALL_PRICE = 0.05, 0.05, 6.0, 6.0, 2.0, 1e-9, 1e-3
#: Part of the predicted increase of J that a step must give; parts from which on the price falls, a little and fully.
LEAST_PART, FAIR_PART, GOOD_PART = 0.4, 0.75, 0.9
#: Shortest part of a step, and the part of its slope, that a step shortened after a failure must give.
SHORTEST, FAIR_SHORT = 0.02, 0.2
#: Where the energy leaves cells empty: density, as a part of its mean, below which bending has its price all the same.
#: Elsewhere, the part of the mean that keeps systems solvable. Relative difference of masses that counts as none.
SPARSE, LEAST, LEAST_WEIGHT, CLOSE = 0.05, 1e-14, 1e-3, 1e-6
#: Where E* is flat (no density asked for), its curvature is taken to be this part of the mean one while the L1 residual
#: lies above the second number, and in proportion to the residual below.
FLAT, CALM = 0.2, 0.005
#: Gap in units of the tolerance below which flattening phi over empty cells may close it.
NEAR = 1000.0
#: Largest and smallest reduction asked of the conjugate gradients, and their iterations.
COARSEST, FINEST, MAX_PRODUCTS = 0.1, 1e-3, 60
#: Rejected steps in a row after which the ascent stops; steps without a new least gap after which it stops.
MAX_REJECTED, PATIENCE = 12, 15
#: Least width of a cell's image (its inverse is the stretch) in the preconditioner and in the price of bending, and the
#: diffusion for bending.
LEAST_WIDTH, LEAST_STRAIGHT, BENDING_SHARE = 0.1, 0.3, 4.0
#: Cells with less mass than this part of the largest are empty; phi is continued over them as far as the longest move
#: times the second number, and by a few cells more.
EMPTY, CONTINUED, MARGIN = 1e-2, 1.3, 4
#: Relative change of J that round-off explains.
ROUND_OFF = 1e-14


@dataclass
class DualPoint:
    """A function phi with all that is known of it.

    ``value`` is J, ``masses`` the feasible masses that the points bring, ``cost`` their transport cost W2^2 / (2 tau),
    ``gap`` the primal value of these masses less J, ``wanted`` the masses that phi asks for, ``slope`` h' at them (what
    it would be, where they are 0) and ``response`` their derivative by it.
    """

    phi: np.ndarray
    value: float
    gap: float
    cost: float
    masses: np.ndarray
    wanted: np.ndarray
    slope: np.ndarray
    response: np.ndarray

    @property
    def residual(self) -> float:
        """L1 distance of the two densities relative to the mass."""
        return float(np.abs(self.wanted - self.masses).sum() / self.masses.sum())


class Ascent:
    """Ascent for one step: the transport of one density, and an energy whose potential may be exchanged.

    Parameters
    ----------
    transport : TransportDual
    energy : LocalEnergy
    widths : sequence of float
    tau : float
    """

    def __init__(self, transport: TransportDual, energy: LocalEnergy, widths, tau: float):
        self.transport, self.energy, self.widths, self.tau = transport, energy, widths, tau
        self.price = 1.0
        self.scratch = np.empty_like(transport.start)
        self.at: np.ndarray | None = None
        with np.errstate(divide="ignore"):
            self.leaves_cells_empty = bool(np.isfinite(energy.slope(np.zeros(1))[0]))
        self.steps, self.products, self.evaluations = 0, 0, 0

    def evaluate(self, phi: np.ndarray) -> DualPoint:
        """J and all that goes with it."""
        self.evaluations += 1
        higher = self.transport.majorant(phi, phi.ndim - 1)
        phi = phi if higher is None else higher
        self.at = phi
        density, slope, response, conjugate = self.energy.respond(phi)
        total, masses = self.transport.evaluate(phi)
        gap = self.energy.gap(masses, density, slope)
        return DualPoint(phi, -total - conjugate, gap, float((phi * masses).sum()) - total, masses,
                         self.energy.reference * density, slope, response)

    def best_of(self, candidates: list[np.ndarray]) -> DualPoint:
        """The candidate with the largest J, each one tried as it is and continued over the cells empty at the start."""
        best = None
        start = self.transport.start
        for candidate in candidates:
            for phi in (candidate, self._continuation(candidate, start)):
                point = None if phi is None else self.evaluate(phi)
                if point is not None and math.isfinite(point.value) and (best is None or point.value > best.value):
                    best = point
        return best if best is not None else self.evaluate(np.zeros(start.shape))

    def run(self, point: DualPoint, gap_tolerance, max_steps: int) -> DualPoint:
        """Ascend from a point until ``gap <= gap_tolerance(point)``; the point of least gap if that is not reached."""
        best, since = point, 0
        point = self._continued(point)
        self.price = min(1.0, max((point.residual / FAR)**2, FIRST_PRICE))
        for _ in range(max_steps):
            if best.gap <= gap_tolerance(best) or since >= PATIENCE or not math.isfinite(point.value):
                break
            new = self._step(point)
            if new is None:
                break
            point = self._raised(new)
            if self.leaves_cells_empty and point.residual < CALM and 1.0 < point.gap / gap_tolerance(point) < NEAR:
                flat = self._flattened(point)
                if flat.gap <= gap_tolerance(flat):
                    return flat
            since = 0 if point.gap < 0.9 * best.gap else since + 1
            if point.gap < best.gap or math.isnan(best.gap):
                best = point
        return best

    def _raised(self, point: DualPoint) -> DualPoint:
        """The point with phi raised where no mass goes for its sake: on the last axis it has been already."""
        for axis in range(point.phi.ndim - 1):
            higher = self.transport.majorant(point.phi, axis)
            if higher is not None and ((higher > point.phi + LEAST) & (point.wanted > 0.0)).any():
                new = self.evaluate(higher)
                point = new if new.value > point.value else point
        return point

    def _flattened(self, point: DualPoint) -> DualPoint:
        """The point with phi lowered to where cells just stay empty: J rises, but the front gets a kink."""
        least = float(self.energy.slope(np.zeros(1))[0])
        return self.evaluate(point.phi + np.minimum(point.slope - least, 0.0))

    def _continued(self, point: DualPoint) -> DualPoint:
        """The point with phi continued over the cells that hardly get mass, if it is as good."""
        phi = self._continuation(point.phi, point.masses)
        if phi is None:
            return point
        new = self.evaluate(phi)
        if new.value >= point.value or new.gap < point.gap:
            return new
        return point

    def _continuation(self, phi: np.ndarray, masses: np.ndarray) -> np.ndarray | None:
        """phi continued smoothly from the cells with mass to the others; None where nothing is to be done.

        Only for energies that leave cells empty. Without it phi has a kink at the front, where points that the next
        steps move would get stuck.
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
        """One accepted step of the ascent, or None where there is none left to take."""
        self.steps += 1
        self._return_to(point)
        gradient = point.wanted - point.masses
        both = 0.5 * (point.wanted + point.masses)
        mass = float(both.sum())
        mean, mean_response = float((both * both).sum()) / mass, float((point.response * both).sum()) / mass
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
            delta = self._solve(gradient, response, weight, self._approximate(point, response, weight), reduction)
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

    def _shortened(self, point: DualPoint, new: DualPoint, delta: np.ndarray, slope: float) -> DualPoint | None:
        """The point where J is largest between two, by their slopes; None if it gives no fair part of the increase."""
        beyond = float((delta * (new.wanted - new.masses)).sum())
        if not (slope > 0.0 and beyond < 0.0 and math.isfinite(beyond)):
            return None
        share = max(slope / (slope - beyond), SHORTEST)
        shorter = self.evaluate(point.phi + share * delta)
        return shorter if shorter.value - point.value >= FAIR_SHORT * share * slope else None

    def _return_to(self, point: DualPoint) -> None:
        """Have the transport hold the curvature at a point."""
        if self.at is not point.phi:
            self.evaluate(point.phi)

    def _secant(self, point: DualPoint) -> np.ndarray:
        """The response between the slopes of the wanted and of the feasible masses: their mean, not their difference.

        Where the two are far apart (fronts, tails) it leads from one to the other in one step; in the limit it is the
        derivative.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            target = self.energy.slope(point.masses / self.energy.reference)
            secant = (point.wanted - point.masses) / (point.slope - target)
        apart = np.abs(point.wanted - point.masses) > CLOSE * (point.wanted + point.masses)
        secant = np.where(apart & np.isfinite(target) & (secant > 0.0), secant, point.response)
        return secant if self.leaves_cells_empty else np.maximum(secant, point.response)

    def _newton_product(self, v: np.ndarray, response: np.ndarray) -> np.ndarray:
        """The negative second derivative of J, applied to v; the total mass is held."""
        self.products += 1
        centered = v - float((response * v).sum()) / float(response.sum())
        return response * centered + self.transport.curvature(v)

    def _bend(self, v: np.ndarray, weight: list[np.ndarray], out: np.ndarray) -> None:
        """Add the price of bending times the sum of the B_a, applied to v."""
        for axis, h in enumerate(self.widths):
            shape = math.prod(v.shape[:axis]), v.shape[axis], math.prod(v.shape[axis + 1:])
            add_bending(v.reshape(shape), weight[axis].reshape(shape), self.price * self.tau / h**2,
                        self.scratch.reshape(shape), out.reshape(shape))

    def _approximate(self, point: DualPoint, response, weight) -> Multigrid:
        """The matrix of cells and edges that the regularized Newton system resembles, as multigrid cycles.

        Transport is diffusion of phi weighted by the masses and by how much the points are stretched; bending is
        taken for the diffusion that it is between neighbors.
        """
        edges = []
        for axis, h in enumerate(self.widths):
            scale = self.tau / h**2
            straight = np.maximum(1.0 - scale * _second_difference(point.phi, axis), LEAST_WIDTH)
            conduction = scale * (point.masses / straight + BENDING_SHARE * self.price * weight[axis])
            lower, upper = halves(conduction, axis)
            edges.append(0.5 * (lower + upper))
        return Multigrid(response, edges)

    def _solve(self, gradient, response, weight, approximate: Multigrid, reduction: float) -> np.ndarray:
        """Conjugate gradients for the regularized Newton system."""
        precondition = approximate.cycle
        x, r = np.zeros_like(gradient), gradient.copy()
        z = precondition(r)
        direction, rz = z, float((r * z).sum())
        target = reduction**2 * rz
        for _ in range(MAX_PRODUCTS):
            image = self._newton_product(direction, response)
            if self.price > 0.0:
                self._bend(direction, weight, image)
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
    """Views of the cells below and above each edge along an axis."""
    lower, upper = [slice(None)] * v.ndim, [slice(None)] * v.ndim
    lower[axis], upper[axis] = slice(0, -1), slice(1, None)
    return v[tuple(lower)], v[tuple(upper)]


def _inner(known: np.ndarray, axis: int) -> np.ndarray:
    """The edges along an axis between known cells."""
    lower, upper = halves(known, axis)
    return lower & upper


def _second_difference(v: np.ndarray, axis: int) -> np.ndarray:
    """Second difference along an axis, mirrored at the walls: a symmetric operator."""
    lower, upper = halves(v, axis)
    out = np.zeros_like(v)
    below, above = halves(out, axis)
    below += upper - lower
    above -= upper - lower
    return out
