"""Functionals of a user's own in JKO steps: c/3 int (K rho)^3 with a Gaussian K, weak, strong and attractive."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.solvers import JKO

LINE = wg.Grid([(-4, 4)], cells=120)
PLANE = wg.Grid([(-3, 3), (-3, 3)], cells=(24, 24))
SERVING = ("linearized", "back-and-forth", "entropic")


class Crowding(wg.Term):
    """Energy and first variation, and nothing else."""

    def __init__(self, grid, factor, width=0.5):
        self.volumes, self.factor = grid.volumes, factor
        self.kernels = [np.exp(-((x[:, None] - x) ** 2) / (2 * width**2)) / (width * math.sqrt(2 * math.pi))
                        for x in grid.centers]

    def blurred(self, masses):
        for axis, kernel in enumerate(self.kernels):
            masses = np.moveaxis(np.tensordot(kernel, masses, (1, axis)), 0, axis)
        return masses

    def energy(self, rho):
        return self.factor * float((self.volumes * self.blurred(rho.masses) ** 3).sum()) / 3

    def first_variation(self, rho):
        return self.factor * self.blurred(self.volumes * self.blurred(rho.masses) ** 2)


def confined(grid, diffusion, factor):
    energy = diffusion + wg.Potential(lambda *x: sum(t**2 for t in x) / 2) + Crowding(grid, factor)
    return energy, wg.Density.gaussian(grid, [0.7, 0.2][:grid.ndim], 0.3)


@pytest.mark.parametrize("inner", SERVING)
@pytest.mark.parametrize(("grid", "diffusion", "factor", "tau"), [
    (LINE, wg.Entropy(2.0), 3.0, 0.2), (LINE, wg.Entropy(2.0), 30.0, 0.02), (LINE, wg.Entropy(2.0), -3.0, 0.1),
    (PLANE, wg.Entropy(2.0), 3.0, 0.1), (LINE, wg.PowerEntropy(2.0), 3.0, 0.1),
], ids=["long", "strong", "concave", "plane", "porous"])
def test_reported_energies_are_those_of_the_densities(inner, grid, diffusion, factor, tau):
    energy, rho0 = confined(grid, diffusion, factor)
    sol = wg.solve(energy, rho0, (0, 2 * tau), JKO(tau=tau, inner=inner))
    assert sol.certificate.edi_defect <= 1e-6
    for rho, reported in zip(sol.densities[1:], sol.energy[1:]):
        assert reported == pytest.approx(energy(rho), abs=1e-12)


@pytest.mark.parametrize("inner", SERVING)
def test_steps_minimize(inner):
    tau = 0.1
    energy, rho0 = confined(LINE, wg.Entropy(2.0), 3.0)
    sol = wg.solve(energy, rho0, (0, tau), JKO(tau=tau, inner=inner))
    least = sol.energy[-1] + sol.jko_steps[0].w2_squared / (2 * tau)
    # What minimizes with another factor has a larger value here.
    for factor in (1.0, 2.0, 4.0, 30.0):
        other = wg.solve(confined(LINE, wg.Entropy(2.0), factor)[0], rho0, (0, tau), JKO(tau=tau, inner=inner))
        value = energy(other.final) + other.jko_steps[0].w2_squared / (2 * tau)
        assert value > least


def test_inner_solvers_agree():
    tau = 0.1
    energy, rho0 = confined(LINE, wg.Entropy(2.0), 10.0)
    one, *others = (wg.solve(energy, rho0, (0, 2 * tau), JKO(tau=tau, inner=inner)).final for inner in SERVING)
    alone = wg.solve(confined(LINE, wg.Entropy(2.0), 0.0)[0], rho0, (0, 2 * tau)).final
    for other in others:
        assert np.abs(other.masses - one.masses).sum() < 2e-3
    assert np.abs(alone.masses - one.masses).sum() > 0.05
