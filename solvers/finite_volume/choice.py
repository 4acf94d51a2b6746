"""The choice between compact fluxes of fourth order, those of second order, and transport along characteristics."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.compact import resolution
from wgflow.densities import Density
from wgflow.energies.kinks import kink_along
from wgflow.energies.nodes import has_nodes, is_smooth_everywhere, node_grid
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import ConvergenceError
from wgflow.flows import Flow
from wgflow.interactions.kinked_kernels import kink_of_features

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["carries", "loss_of_order", "why_not_compact", "why_split"]

#: Compact fluxes are the better ones while the mean of |Psi''| h^2 / D over the law stays below this,
RESOLVED = 2.0
#: and that of the fourth differences below this multiple of that of the second ones: 3.4 for noise, 4 at a kink.
SMOOTH = 2.0
#: The compact weights make waves behind narrow laws that are carried along: the mean cell Peclet number times the sum
#: of the second differences, over the mass, stays below this. For a Gaussian the latter is (h/deviation)^2.
CARRIED = 4.0
#: A law is at rest if its chemical potential differs between neighbors by less than this part of D.
AT_REST = 1e-9
#: With mean squared differences above this it is not, whatever the cells resolve.
FAR_FROM_REST = 0.01
#: The order of compact fluxes.
ORDER = 4
#: A place is one of the law's where a cell has more than this part of the largest mass; a law may rise over it by so
#: many D.
FILLED, HIGHEST = 1e-6, 20.0
#: On several axes one in so many lines is looked at first.
SAMPLED = 8


def carries(flow: Flow, method: FiniteVolume) -> bool:
    """Return whether masses are carried along characteristics: a law with jumps, without diffusion.

    Smooth laws are left to fluxes, which are as accurate, cheaper, and dissipate what they say in long steps, too.
    Characteristics know no mobility. scheme="midpoint" is for steps of any length; its equation asks for fluxes that
    depend smoothly on Psi.
    """
    energy = flow.on_grid
    implicit = method.scheme == "midpoint" and energy.moves
    if energy.diffusion > 0 or energy.internal or not method.corrected or implicit or flow.mobility is not None:
        return False
    return not is_smooth_everywhere(flow.density.values)


def why_not_compact(flow: Flow, method: FiniteVolume) -> str | None:
    """Return why a flow is not for the compact fluxes, in words; None if it is."""
    if flow.t1 <= flow.t0:
        return "an empty time span"
    energy = flow.on_grid
    for holds, reason in (
        (method.order == 2, "order=2"),
        (not method.corrected, "corrected=False"),
        (method.scheme == "midpoint" and energy.moves and _mixed(flow), "scheme='midpoint' with mixed terms"),
        (energy.diffusion <= 0, "no linear diffusion"),
        (bool(energy.internal), "nonlinear diffusion"),
        (bool(energy.opaque), "a term known by its energy and first variation alone"),
        (not has_nodes(flow.grid),
         "cells that are not uniform and do not vary smoothly, or fewer than 8 along an axis"),
    ):
        if holds:
            return reason
    rough = _rough_sums(energy)
    if rough is not None:
        return rough
    rho = flow.density
    field = energy.field(rho.masses, energy.interaction(rho.masses))
    if flow.energy.time_dependent:
        # What is at rest now will be moved.
        return _unresolved(flow, energy, rho, field)[0] or _unresolved_later(flow, rho)
    unresolved, far = _unresolved(flow, energy, rho, field)
    return unresolved if unresolved or far else _at_rest(energy, rho, field)


def loss_of_order(flow: Flow) -> str:
    """Return in words where compact fluxes have an order below 4 in a flow; empty if it is nowhere known.

    Sums over averages of a kernel like :math:`|x - y|^a` on d axes are of order a + d + 2, and of a + d + 1 beside a
    wall with density.
    """
    kink = _kink_of(flow)
    if kink:
        return f"of second order here: {kink}"
    axes, exponents = flow.grid.ndim, [operator.exponent for _, operator in flow.on_grid.operators]
    if any(math.isnan(a) for a in exponents):
        return "of an order between 2 and 4 here: how the kernel is singular where two points meet is not known"
    a = min(exponents, default=math.inf)
    kind = "log|x - y|" if a == 0 else f"|x - y|^{a:g}" if a != 1 else "|x - y|"
    found = [f"of order {a + axes + 2:g} here"] if a + axes + 2 < ORDER else []
    if a + axes + 1 < ORDER and _at_walls(flow.density):
        found.append(f"of order {a + axes + 1:g} at walls with density")
    return f"{', '.join(found)}: the kernel is like {kind} where two points meet" if found else ""


def _mixed(flow: Flow) -> bool:
    """Return whether a flow has a mobility with mixed terms."""
    return flow.mobility is not None and flow.mobility.directions(flow.grid) is not None


def _rough_sums(energy: EnergyOnGrid) -> str | None:
    """Return why sums over cells of the interaction are not for the compact fluxes, in words; None if they are."""
    for factor, operator in energy.operators:
        if operator.average == "double":
            return "an interaction that is averaged over both cells"
        if operator.kernel is not None and not operator.kernel.smooth and operator.average is False:
            return "an interaction that is not smooth at 0, without averages"
        if factor * operator.self_drop > 0.0:
            return "an attraction that is infinite at 0"
    return None


def _at_walls(rho: Density) -> bool:
    """Return whether a law has density at a wall."""
    most = FILLED * float(rho.values.max())
    return any(rho.values.swapaxes(0, axis)[end].max() > most
               for axis, around in enumerate(rho.grid.periodic) if not around for end in (0, -1))


def _kink_of(flow: Flow) -> str:
    """Return in words where a flow has a kink at which compact fluxes are of second order; empty if none is found.

    Of a potential those places count that the law may reach: where the potential is at most that at the places of its
    mass, and some D. Terms that change with time are looked at when they bend most, too.
    """
    energies, rho = [flow.on_grid], flow.density
    if flow.drive is not None:
        # An error the run will meet.
        with suppress(ConvergenceError):
            energies.append(flow.on_grid_at(flow.drive.most_bent()))
    for energy in energies:
        for _, operator in energy.operators:
            if operator.kink:
                return operator.kink
        for _, moments in energy.of_moments:
            found = kink_of_features(moments.features, rho.grid)
            if found:
                return found
        found = _kink_of_potential(energy, rho)
        if found:
            return found
    return ""


def _kink_of_potential(energy: EnergyOnGrid, rho: Density) -> str:
    """Return in words where a potential has a kink that counts; empty if none is found."""
    potential, reached = energy.potential, None
    if potential.shape != rho.grid.shape:
        return ""
    for axis, around in enumerate(rho.grid.periodic):
        place = kink_along(potential, axis, around)
        if place is None:
            continue
        if reached is None:
            psi, m = energy.psi(potential, rho.masses), rho.masses
            reached = psi <= float(psi[m > FILLED * m.max()].max(initial=-math.inf)) + HIGHEST * energy.diffusion
        place = kink_along(potential, axis, around, reached)
        if place is not None:
            return f"the potential has a kink at {rho.grid.names[axis]} = {rho.grid.centers[axis][place]:.4g}"
    return ""


def why_split(flow: Flow) -> str | None:
    """Return why a flow that is for the compact fluxes must be split by axis, in words; None if it need not be."""
    if flow.grid.ndim != 2:
        return f"a grid of {flow.grid.ndim} axes (need 2)"
    if flow.on_grid.moves:
        return "an interaction"
    if flow.energy.time_dependent:
        return "a term that changes with time"
    return None


def _unresolved_later(flow: Flow, rho: Density) -> str | None:
    """Return why the cells will be too wide for the potential where it is steepest over the present law, or None."""
    if flow.drive is None:
        return None
    t = flow.drive.most_bent()
    try:
        energy = flow.on_grid_at(t)
    except ConvergenceError:
        # The run will meet it.
        return None
    reason, _ = _unresolved(flow, energy, rho, energy.field(rho.masses, energy.interaction(rho.masses)), now=False)
    return None if reason is None else f"{reason}, at t = {t:.4g}"


def _unresolved(flow: Flow, energy: EnergyOnGrid, rho: Density, field: np.ndarray | None,
                now: bool = True) -> tuple[str | None, bool]:
    """Return why the cells are too wide for the potential of a law, or None; ``now`` if the law is that of the time.

    With a mobility it is the potential less D log A that the fluxes along an axis see. And whether some lines tell that
    the law is far from rest: their part of the mean of `_slopes`.
    """
    grid, diffusion, mobility = rho.grid, energy.diffusion, flow.diagonal_mobility
    even = all(grid.uniform)
    nodal = energy if even and grid.log_weight is None else energy.on(node_grid(grid))
    images = [None] * grid.ndim if even else node_grid(grid).images
    psi, unit = nodal.sweep_potential, 1.0 / rho.mass
    psi = psi if field is None else psi + field
    # Copies, since compiled functions know arrays that can be written to alone.
    masses, far = rho.masses.flatten(), False
    for axis, n in enumerate(grid.shape):
        pull = psi.flatten() if mobility is None else (psi - diffusion * np.log(mobility[axis])).ravel()
        outer, inner, image = math.prod(grid.shape[:axis]), math.prod(grid.shape[axis + 1:]), images[axis]
        if image is not None:
            pull = (pull.reshape(outer, n, inner) + diffusion * np.log(image.pace)[:, None]).ravel()
        plain = axis == grid.ndim - 1 and mobility is None and image is None and not any(grid.origin)
        slope, bend, kink, rough, rise = resolution(
            masses, pull, outer, n, inner, diffusion, 0 if not plain else 1 if grid.ndim == 1 else SAMPLED)
        slope, bend, kink = 0.5 * slope * unit / diffusion, bend * unit / diffusion, kink * unit / diffusion
        if not bend <= RESOLVED:
            return (f"cells too wide: |Psi''| h^2 beta is {bend:.2g} on average along axis {axis}, "
                    f"above {RESOLVED:g}"), False
        if now and not slope * rough * unit <= CARRIED:
            return (f"a narrow law that is carried along: second differences of {rough * unit:.2g} of its mass, with "
                    f"a cell Peclet number of {slope:.2g}, along axis {axis}; their product should be below "
                    f"{CARRIED:g}"), False
        if kink > SMOOTH * bend + 1e-6:
            return f"a potential that is rough on the scale of the cells, along axis {axis}", False
        far = 0.5 * rise * unit > FAR_FROM_REST
    return None, far


def _second(a: np.ndarray) -> np.ndarray:
    """Return second differences along the first axis."""
    return a[2:] - 2.0 * a[1:-1] + a[:-2]


def _at_rest(energy: EnergyOnGrid, rho: Density, field: np.ndarray | None) -> str | None:
    """Return that a law is the Gibbs state at the centers of the cells, as near as the cells resolve it, or None.

    Its values then stay; as averages they would differ from those of a Gibbs state by h^2/24 times second derivatives.
    """
    if rho.nodal is not None:
        return None
    steep = _slopes(energy.chemical_potential(rho.masses, field) / energy.diffusion, rho)
    if not steep <= FAR_FROM_REST:
        return None
    values, gap = rho.values, np.zeros(rho.grid.shape)
    if is_smooth_everywhere(values):
        for axis in range(rho.grid.ndim):
            gap.swapaxes(0, axis)[1:-1] += _second(values.swapaxes(0, axis))
        gap = np.divide(gap, 24.0 * values, out=np.zeros(gap.shape), where=values > 0)
    return "a start at rest" if steep <= max(_slopes(gap, rho), AT_REST**2) else None


def _slopes(field: np.ndarray, rho: Density) -> float:
    """Return the mean over a law of the squared differences of a field between neighbors."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for axis in range(field.ndim):
            f, m = field.swapaxes(0, axis), rho.masses.swapaxes(0, axis)
            total += float(((f[1:] - f[:-1]) ** 2 * (m[1:] + m[:-1])).sum())
    return 0.5 * total / rho.mass
