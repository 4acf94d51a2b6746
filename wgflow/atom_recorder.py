"""The record of a run that moves atoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wgflow.atoms import Atoms
from wgflow.audit.open_ends import beyond_bounds
from wgflow.certificate import Certificate, mass_on_bounds
from wgflow.recorder import Recorder
from wgflow.solution import History

__all__ = ["AtomRecorder"]


class AtomRecorder(Recorder):
    """The recorder of a method that moves atoms: a state is an array of points (n_coordinates, n)."""

    def _weigh(self, points) -> tuple[float, float]:
        weights = self.flow.atoms.weights
        return float(weights.sum()), float(weights.min())

    def law_of(self, points) -> Atoms:
        return self.flow.atoms.moved(points)

    def _functionals(self) -> tuple[str, ...]:
        return ()

    def at_boundary(self, points) -> float:
        return mass_on_bounds(points, self.flow.atoms)

    def _look_outside(self, t: float, masses: np.ndarray) -> None:
        """What bounds hold back stays there: it is seen at the snapshots."""

    def _look_at_bounds(self, t: float, points: np.ndarray) -> None:
        flow, atoms, noise = self.flow, self.flow.atoms, 0.0
        if flow.energy.spreads and t > flow.t0:
            noise = 2.0 * flow.elapsed(flow.t0, t - flow.t0) / flow.energy.beta
            if flow.mobility is not None:
                noise *= float(np.einsum("iin->n", flow.mobility.at(points)).mean()) / len(points)
        self._keep_outside(beyond_bounds(points, atoms.weights, atoms.bounds, flow.open_ends, atoms.names, noise))

    def _certificate(self, history: History, least: float, status: int) -> Certificate:
        if self.has_open_ends:
            for t, points, _ in self.snapshots:
                self._look_at_bounds(t, np.asarray(points))
        certificate = super()._certificate(history, least, status)
        if not self.flow.energy.spreads:
            return replace(certificate, atomic=True)
        return replace(certificate, atomic=True, noisy=True, controlled=False, dissipation_defect=None)
