"""A stationary state with measures of its accuracy, of its stability and of the box that holds it."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

from wgflow.audit.open_ends import judge_outside
from wgflow.densities import Density

__all__ = ["SAME_STATE", "Stationary", "distinct"]

#: More mass than this at walls of the grid is told.
BOUNDARY_NOTICE = 1e-6

#: States within this Hellinger distance are the same.
SAME_STATE = 1e-5


@dataclass(frozen=True)
class Stationary:
    r"""A stationary state, with measures of its accuracy and its stability.

    With :math:`B(\rho)` the law of least energy in the potential :math:`\Psi(\rho) = V + U \rho`, which is
    :math:`M w e^{-\beta \Psi(\rho)} / Z` for the entropy alone, a stationary state is :math:`\rho_* = B(\rho_*)`.

    Attributes
    ----------
    density : Density
        :math:`\rho_*`; a FiniteVolume flow that starts there does not move.
    energy : float
        :math:`F(\rho_*)`.
    gap : float or None
        Where the interaction energy is convex on laws of one mass, a bound of :math:`F(\rho_*) - \min F`: the energy
        less ``dual_value``, formed without cancellation as the Bregman divergence :math:`\int H(\rho_*) - H(\rho') -
        H'(\rho')(\rho_* - \rho')` of :math:`\rho_*` from :math:`\rho' = B(\rho_*)` (:math:`\beta^{-1} KL` for the
        entropy), hence free of the rounding error of F itself. None where the energy is not known to be convex. Where
        ``rho0`` gave several components masses of their own, F is compared with laws that have these masses.
    dual_value : float or None
        Value of the dual problem at :math:`\rho_*`, below every energy; None where ``gap`` is.
    residual : float
        :math:`\|\rho_* - B(\rho_*)\|_{L^1} / M`.
    iterations : int
        Newton steps (for one of several branches: of the search that found it).
    method : str
        ``"dual"``, ``"fixed-point"``, ``"root"`` (Newton's method on the self-consistency equation) or
        ``"closed form"`` (no interaction).
    beta : float
        Of the entropy; infinity where other internal energies stand alone.
    stable : bool or None
        Whether :math:`\rho_*` is a local minimum of F on the grid, by its Hessian (a state that a symmetry can move
        freely, such as a rotation, counts as stable); None where the eigenvalue was not found.
    curvature : float
        Least eigenvalue of the Hessian of F in units of the internal energy's, counted at most 1: negative at a saddle,
        0 along a free symmetry, 1 where F is convex.
    message : str
    boundary_mass : float
        Part of the mass in the outermost 1 % of the cells at an end of an axis, walls included.
    components : tuple of float
        Masses of the connected components of the support, the largest first.
    level : str
        What the components have in common, in words; empty where there cannot be several.
    mass_outside : float or None
        Estimated part of the mass beyond the ends of the grid that stand for infinity (`wgflow.audit.open_ends`): the
        state is that of the box, and not of the equation, by about as much. None where all ends are walls, origins or
        periodic.
    unbounded : bool
        Whether the coordinates are known to go on beyond these ends, as those of reduced models do.
    """

    density: Density
    energy: float
    gap: float | None
    dual_value: float | None
    residual: float
    iterations: int
    method: str
    beta: float
    stable: bool | None
    curvature: float
    message: str
    boundary_mass: float = 0.0
    components: tuple[float, ...] = ()
    level: str = ""
    mass_outside: float | None = None
    unbounded: bool = False

    @property
    def verdict(self) -> str:
        """What is to be said of the box: ``"holds"``, ``"failed"`` if it cuts the state off, else ``"not judged"``.

        It holds where at most 1e-4 of the mass is estimated to lie beyond ends that stand for infinity, and has failed
        above 1e-2 if the coordinates are known to go on; elsewhere walls may be meant. That the residual is within the
        tolerance holds for every state that is returned.
        """
        answer = self.mass_outside is None or judge_outside(self.mass_outside, self.unbounded)
        return "holds" if answer else "not judged" if answer is None else "failed"

    @property
    def ok(self) -> bool:
        """Whether the verdict is "holds"."""
        return self.verdict == "holds"

    def explain(self) -> str:
        """Return the state in words."""
        kind = {True: "stable (a local minimum of F)", False: "unstable (a saddle of F)", None: "stability unknown"}
        lines = [f"stationary state at beta = {self.beta:g}: F = {self.energy:.12g}",
                 f"  self-consistency residual {self.residual:.1e} (L1, relative to the mass)"]
        if self.gap is None:
            lines.append(f"  {kind[self.stable]}; least curvature {self.curvature:.3g} "
                         "(1: that of the internal energy alone)")
            lines.append("  F is not known to be convex: no duality gap, other stationary states may exist "
                         "(stationary_branches)")
        elif self.level:
            lines.append(f"  F is strictly convex: F - min F <= {self.gap:.1e} apart from the rounding of F")
        else:
            lines.append(f"  F is strictly convex: the only stationary state, F - min F <= {self.gap:.1e} "
                         "apart from the rounding of F")
        if self.level:
            lines.append(f"  {len(self.components)} component{'s'[:len(self.components) > 1]} of the support, "
                         f"masses {', '.join(f'{mass:.6g}' for mass in self.components[:6])}"
                         f"{', ...' if len(self.components) > 6 else ''}: {self.level}")
        if self.mass_outside is not None:
            remedy = "" if self.ok else ": enlarge it, or say boundary='no-flux' if the domain ends there"
            lines.append(f"  an estimated part {self.mass_outside:.1e} of the mass lies beyond the ends of the grid, "
                         f"which stand for infinity{remedy}")
        elif self.boundary_mass > BOUNDARY_NOTICE:
            lines.append(f"  {self.boundary_mass:.1e} of the mass lies at walls of the grid")
        lines.append(f"  {self.message}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        stable = {True: "stable", False: "unstable", None: "stability unknown"}[self.stable]
        gap = "" if self.gap is None else f"F - min F <= {self.gap:.1e}, "
        return (f"Stationary({self.method}, beta={self.beta:g}: F = {self.energy:.6g}, {gap}residual "
                f"{self.residual:.1e}, {stable}; {self.verdict})")

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{html.escape(self.explain())}</pre>"


def distinct(states: list[Stationary]) -> list[Stationary]:
    """Return states by increasing energy, each once."""
    found: list[Stationary] = []
    for state in sorted(states, key=lambda one: one.energy):
        roots = np.sqrt(state.density.masses)
        if not any(((np.sqrt(other.density.masses) - roots) ** 2).sum() <= SAME_STATE**2 * state.density.mass
                   for other in found):
            found.append(state)
    return found
