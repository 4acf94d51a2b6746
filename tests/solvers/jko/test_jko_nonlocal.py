"""The places where a nonlocal term enters a step: with a functional that is no quadratic form, energies are those of F.

The functional, c/3 int (K rho)^3 with a Gaussian K, takes the place of an interaction by the hooks of `InnerSolver`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.solvers import JKO
from wgflow.solvers.jko import base
from wgflow.solvers.jko.base import InnerSolver
from wgflow.solvers.jko.linearized.solver import LinearizedSolver

LINE = wg.Grid([(-4, 4)], cells=120)
PLANE = wg.Grid([(-3, 3), (-3, 3)], cells=(24, 24))
SERVING = ("linearized", "back-and-forth", "entropic")


class Crowding:
    """Energy and first variation of cell masses, and nothing else."""

    def __init__(self, grid, factor, width=0.5):
        self.volumes, self.factor = grid.volumes, factor
        self.kernels = [np.exp(-((x[:, None] - x) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
                        for x in grid.centers]

    def blurred(self, masses):
        for axis, kernel in enumerate(self.kernels):
            masses = np.moveaxis(np.tensordot(kernel, masses, (1, axis)), 0, axis)
        return masses

    def energy(self, masses):
        return self.factor * float((self.volumes * self.blurred(masses) ** 3).sum()) / 3

    def first_variation(self, masses):
        return self.factor * self.blurred(self.volumes * self.blurred(masses) ** 2)


@pytest.fixture
def crowd(monkeypatch):
    """Add a term to the energy of every inner solver."""

    def install(term):
        def remainder(self, masses, field):
            shaped = masses.reshape(self.grid.shape)
            return term.energy(shaped) - float((masses * (field - self.base)).sum())

        def divergence(self, masses, others):
            new, old = masses.reshape(self.grid.shape), others.reshape(self.grid.shape)
            return term.energy(new) - term.energy(old) - float((term.first_variation(old) * (new - old)).sum())

        def second_variation(self, change):
            # Unknown: what Newton's method makes of it is a matter of iterations, not of the result.
            return np.zeros(change.size)

        free_energy = base.free_energy
        monkeypatch.setattr(InnerSolver, "energy", lambda self, m: free_energy(self.parts, m) + term.energy(m))
        monkeypatch.setattr(InnerSolver, "is_nonlocal", True)
        monkeypatch.setattr(InnerSolver, "nonlocal_variation", lambda self, m: term.first_variation(m))
        monkeypatch.setattr(LinearizedSolver, "second_variation", second_variation)
        monkeypatch.setattr(LinearizedSolver, "nonlocal_remainder", remainder)
        monkeypatch.setattr(LinearizedSolver, "nonlocal_divergence", divergence)

    return install


def confined(grid, diffusion):
    energy = diffusion + wg.Potential(lambda *x: sum(t**2 for t in x) / 2)
    return energy, wg.Density.gaussian(grid, [0.7, 0.2][:grid.ndim], 0.3)


@pytest.mark.parametrize("inner", SERVING)
@pytest.mark.parametrize(("grid", "diffusion", "factor", "tau"), [
    (LINE, wg.Entropy(2.0), 3.0, 0.2), (LINE, wg.Entropy(2.0), 30.0, 0.02), (LINE, wg.Entropy(2.0), -3.0, 0.1),
    (PLANE, wg.Entropy(2.0), 3.0, 0.1), (LINE, wg.PowerEntropy(2.0), 3.0, 0.1),
], ids=["long", "strong", "concave", "plane", "porous"])
def test_reported_energies_are_those_of_the_densities(crowd, inner, grid, diffusion, factor, tau):
    term = Crowding(grid, factor)
    energy, rho0 = confined(grid, diffusion)
    crowd(term)
    sol = wg.solve(energy, rho0, (0, 2 * tau), JKO(tau=tau, inner=inner))
    assert sol.certificate.edi_defect <= 1e-6
    for rho, reported in zip(sol.densities[1:], sol.energy[1:]):
        assert reported == pytest.approx(energy(rho) + term.energy(rho.masses), abs=1e-12)


@pytest.mark.parametrize("inner", SERVING)
def test_steps_minimize(crowd, inner):
    term, tau = Crowding(LINE, 3.0), 0.1
    energy, rho0 = confined(LINE, wg.Entropy(2.0))
    crowd(term)
    sol = wg.solve(energy, rho0, (0, tau), JKO(tau=tau, inner=inner))
    least = sol.energy[-1] + sol.jko_steps[0].w2_squared / (2 * tau)
    # What minimizes with another factor has a larger value here.
    for factor in (1.0, 2.0, 4.0, 30.0):
        crowd(Crowding(LINE, factor))
        other = wg.solve(energy, rho0, (0, tau), JKO(tau=tau, inner=inner))
        value = energy(other.final) + term.energy(other.final.masses) + other.jko_steps[0].w2_squared / (2 * tau)
        assert value > least


def test_inner_solvers_agree(crowd):
    term, tau = Crowding(LINE, 10.0), 0.1
    energy, rho0 = confined(LINE, wg.Entropy(2.0))
    crowd(term)
    one, *others = (wg.solve(energy, rho0, (0, 2 * tau), JKO(tau=tau, inner=inner)).final for inner in SERVING)
    alone = wg.solve(energy, rho0, (0, 2 * tau)).final
    for other in others:
        assert np.abs(other.masses - one.masses).sum() < 2e-3
    assert np.abs(alone.masses - one.masses).sum() > 0.05
