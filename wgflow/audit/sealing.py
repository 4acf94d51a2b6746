"""What is found out about a run when its certificate is read: the audit of the equation, and what lies outside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wgflow.audit.open_ends import Outermost, Outside, mass_outside
from wgflow.densities import Density

if TYPE_CHECKING:
    from wgflow.atoms import Atoms
    from wgflow.audit.atom_listener import AtomAudit
    from wgflow.audit.listener import Audit
    from wgflow.certificate import Certificate
    from wgflow.flows import Flow

__all__ = ["LITTLE_OUTSIDE", "audited", "outside_at"]

#: What lies beyond the ends is looked at where it may be more than this part of the mass.
LITTLE_OUTSIDE = 1e-6


def audited(certificate: Certificate, audit: Audit | AtomAudit,
             laws: Iterable[tuple[float, Density | Atoms]]) -> Certificate:
    """Return a certificate with what an audit finds, and what lies beyond open ends at the snapshots."""
    found = audit.finding()
    outside = Outside(certificate.mass_outside or 0.0, certificate.outside_at)
    if certificate.mass_outside is not None and audit.flow.has_grid:
        ends = Outermost(audit.flow.grid)
        for t, rho in laws:
            least = max(LITTLE_OUTSIDE, outside.part) * rho.mass
            if isinstance(rho, Density) and ends.most_outside(rho.masses) > least:
                outside = max(outside, outside_at(audit.flow, t, rho.masses), key=lambda one: one.part)
        certificate = replace(certificate, mass_outside=outside.part, outside_at=outside.end)
    return replace(certificate, equation_defect=found.defect, equation_bound=found.bound, not_judged=found.note)


def outside_at(flow: Flow, t: float, masses: np.ndarray) -> Outside:
    """Return an estimate of what lies beyond the ends that stand for infinity at a time."""
    # A clock that cannot be read ends a run, and is not asked for nothing.
    elapsed = flow.elapsed(flow.t0, t - flow.t0) if t > flow.t0 else 0.0
    return mass_outside(flow.on_grid_at(t), masses, elapsed, flow.diagonal_mobility)
