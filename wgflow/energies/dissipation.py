"""The rate at which a free energy falls, formed from the finite-volume fluxes or from the velocities of atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wgflow.atoms import Atoms
from wgflow.compiled.compact import EMPTY, compact_dissipation, compact_layout
from wgflow.compiled.sweep import _axis_dissipation, axis_layout
from wgflow.compiled.transport import ROUGH_FIELD, SMOOTH_FIELD, transport_dissipation
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.mobility import Mobility
from wgflow.energies.nodes import NodeGrid, at_nodes, is_smooth_everywhere
from wgflow.energies.nonlinear_fluxes import Diffusion, dissipation_rate
from wgflow.energies.oblique import oblique_dissipation
from wgflow.energies.on_grid import TINY
from wgflow.errors import InvalidInput
from wgflow.gradients import free_part
from wgflow.grids import Grid

from .on_grid import EnergyOnGrid

__all__ = ["dissipation", "dissipation_on_grid", "linear_dissipation", "transport_rate"]


def dissipation(energy: FreeEnergy, rho: Density | Atoms, mobility: Mobility | None = None) -> float:
    r"""Return :math:`\int \rho\,\nabla\mu\cdot A\,\nabla\mu`, mu = dF/drho; see `FreeEnergy.dissipation`."""
    if isinstance(rho, Atoms):
        if energy.spreads:
            raise InvalidInput("atoms have no entropy, hence no dissipation of a flow that spreads; take a Density")
        force = -energy.gradient(rho, rho.points)
        if mobility is None:
            return float((rho.weights * (free_part(force, rho) ** 2).sum(axis=0)).sum())
        velocity = free_part(mobility.applied(rho.points, force), rho)
        return float((rho.weights * (velocity * force).sum(axis=0)).sum())
    on_grid, law = energy.assemble(rho.grid, check=False), at_nodes(rho)
    return dissipation_on_grid(on_grid.on(law.grid), law.masses, mobility)


def dissipation_on_grid(energy: EnergyOnGrid, masses: np.ndarray, mobility: Mobility | None = None) -> float:
    """Return the dissipation of cell masses, by the corrected finite-volume fluxes."""
    diagonal = None if mobility is None else mobility.on(energy.grid)[0]
    directions = None if mobility is None else mobility.directions(energy.grid)
    if directions is not None:
        return oblique_dissipation(masses, energy.psi(energy.sweep_potential, masses), energy.grid, energy.diffusion,
                                   directions)
    if energy.internal:
        return dissipation_rate(masses, energy.psi(energy.potential, masses), energy.grid, Diffusion(energy),
                                mobility=diagonal)
    psi = energy.psi(energy.sweep_potential, masses)
    if isinstance(energy.grid, NodeGrid):
        return compact_dissipation_on_grid(masses, psi, energy.grid, energy.diffusion, mobility=diagonal)
    if energy.diffusion == 0 and diagonal is None and not is_smooth_everywhere(masses / energy.grid.volumes):
        # A law with jumps, which lie within cells.
        return transport_rate(masses, psi, energy.grid, energy.rough)
    return linear_dissipation(masses, psi, energy.grid, energy.diffusion, mobility=diagonal)


def transport_rate(masses: np.ndarray, psi: np.ndarray, grid: Grid, rough: bool) -> float:
    r"""Return :math:`\int \rho\,|\nabla\Psi|^2` of cell masses, summed over the axes: -dF/dt without diffusion."""
    total = 0.0
    for axis in range(grid.ndim):
        m, u = (np.array(np.moveaxis(a, axis, -1), dtype=float, order="C").reshape(-1, grid.shape[axis])
                for a in (masses, psi))
        total += transport_dissipation(m, u, grid.widths[axis], grid.distances[axis],
                                       ROUGH_FIELD if rough else SMOOTH_FIELD)
    return float(total)


def compact_dissipation_on_grid(masses: np.ndarray, psi: np.ndarray, grid: NodeGrid, diffusion: float,
                                rates: Sequence[np.ndarray] = (), formed: bool = False,
                                factors: Sequence[np.ndarray] = (),
                                mobility: Sequence[np.ndarray] | None = None, mu: np.ndarray | None = None) -> float:
    r"""Return :math:`-\sum_i \mu_i\,\dot m_i` of the compact equations, mu = Psi + D log rho: -dF/dt, semi-discrete.

    ``rates`` has room for the rates of each axis, or holds them if they are ``formed``; ``factors`` has those of B,
    ``mobility`` the diagonal of A, and mu is given, where they are known.
    """
    masses = masses if masses.flags.writeable else masses.copy()
    psi = psi if psi.flags.writeable else psi.copy()
    if mu is None:
        mu = np.maximum(masses, TINY)
        np.log(mu, out=mu)
        mu -= grid.log_volumes
        mu *= diffusion
        mu += psi
    total, negligible = 0.0, EMPTY * float(masses.sum())
    mobile = mobile_axes(mobility, diffusion, grid)
    for axis in range(grid.ndim):
        outer, inner, width, _ = compact_layout(grid.shape, axis)
        kept = rates[axis] if rates else np.empty((0, 4, grid.shape[axis], width))
        parts = factors[axis] if factors else np.empty((0, 1, grid.shape[axis], width))
        own, logarithm = mobile[axis]
        pull = psi.ravel() if logarithm is None else psi.ravel() - logarithm
        total += compact_dissipation(masses.ravel(), pull, own, mu.ravel(), diffusion, grid.steps[axis],
                                     outer, inner, grid.periodic[axis], width, kept, formed, parts, negligible)
    return float(total)


def mobile_axes(mobility: Sequence[np.ndarray] | None, diffusion: float,
                grid: NodeGrid) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Return for each axis A, flat, and D log A; an empty array and None where there is no mobility.

    On graded axes A / g^2, with the widths of the strips at both walls behind it, and D log A - D log g.
    """
    found: list[tuple[np.ndarray, np.ndarray | None]] = []
    for axis, graded in enumerate(grid.images):
        if mobility is None and graded is None:
            found.append((np.empty(0), None))
            continue
        a = np.ones(grid.shape) if mobility is None else mobility[axis]
        if graded is None:
            found.append((a.ravel(), diffusion * np.log(a.ravel())))
            continue
        g = graded.pace.reshape(-1, *[1] * (grid.ndim - axis - 1))
        found.append((np.append((a / g**2).ravel(), graded.strips), diffusion * np.log(a / g).ravel()))
    return found


def linear_dissipation(masses, psi, grid, diffusion: float, corrected: bool = True,
                       mobility: Sequence[np.ndarray] | None = None, mu: np.ndarray | None = None) -> float:
    r"""Return :math:`\sum_{edges} flux \cdot (\mu_i - \mu_k)`, mu = Psi + D log rho: -dF/dt, semi-discrete."""
    # Writable copies of read-only arrays: the functions are compiled for one kind only.
    masses = masses if masses.flags.writeable else masses.copy()
    psi = psi if psi.flags.writeable else psi.copy()
    if mu is None and diffusion > 0:
        # An empty cell counts as the smallest double, so that mu and the products with it stay finite.
        mu = np.log(np.maximum(masses, TINY))
        if not all(grid.uniform):
            mu -= np.log(grid.volumes)
        mu *= diffusion
        mu += psi
    mu = psi if mu is None else mu
    total = 0.0
    for axis in range(grid.ndim):
        outer, inner, width, _ = axis_layout(grid.shape, axis)
        own = np.empty(0) if mobility is None else mobility[axis].ravel()
        total += _axis_dissipation(masses.ravel(), psi.ravel(), own, mu.ravel(), diffusion, grid.widths[axis],
                                   grid.distances[axis], outer, inner, grid.periodic[axis], corrected, width)
    return float(total)
