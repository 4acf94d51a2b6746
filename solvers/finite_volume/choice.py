"""The choice between compact fluxes of fourth order, those of second order, and transport along characteristics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from wgflow.compiled.compact import resolution
from wgflow.densities import Density
from wgflow.energies.nodes import has_nodes, is_smooth_everywhere, node_grid
from wgflow.energies.on_grid import EnergyOnGrid
from wgflow.errors import ConvergenceError
from wgflow.flows import Flow

if TYPE_CHECKING:
    from .method import FiniteVolume

__all__ = ["carries", "why_not_compact", "why_split"]

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
        (method.scheme != "extrapolated" and energy.moves, f"scheme={method.scheme!r}"),
        (energy.diffusion <= 0, "no linear diffusion"),
        (bool(energy.internal), "nonlinear diffusion"),
        (bool(energy.opaque), "a term known by its energy and first variation alone"),
        (not has_nodes(flow.grid), "cells that are not uniform, or fewer than 8 along an axis"),
    ):
        if holds:
            return reason
    if energy.rough:
        return "an interaction that is not smooth at 0"
    rho = flow.density
    field = energy.field(rho.masses, energy.interaction(rho.masses))
    if flow.energy.time_dependent:
        # What is at rest now will be moved.
        return _unresolved(flow, energy, rho, field)[0] or _unresolved_later(flow, rho)
    reason, far = _unresolved(flow, energy, rho, field)
    return reason if reason or far else _at_rest(energy, rho, field)


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
    nodal = energy if grid.log_weight is None else energy.on(node_grid(grid))
    psi, unit = nodal.sweep_potential, 1.0 / rho.mass
    psi = psi if field is None else psi + field
    # Copies, since compiled functions know arrays that can be written to alone.
    masses, far = rho.masses.flatten(), False
    for axis, n in enumerate(grid.shape):
        pull = psi.flatten() if mobility is None else (psi - diffusion * np.log(mobility[axis])).ravel()
        plain = axis == grid.ndim - 1 and mobility is None and not any(grid.origin)
        outer, inner = math.prod(grid.shape[:axis]), math.prod(grid.shape[axis + 1:])
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
