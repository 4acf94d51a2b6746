r"""Property tests of a term of one's own: random grids, densities and flows, and what must hold for all of them.

    E(rho) = k m^2 / 4,      dE/drho = k m x^2 / 2,      m = int x^2 rho,

presses a law together the harder the wider it is. With an entropy of diffusion D the second moment of a law of mass 1
obeys m' = 2 D - 2 k m^2, so that m(t) = s tanh(2 k s t + artanh(m(0)/s)) with s = sqrt(D/k) wherever m(0) < s.

Run the file by pytest. Hypothesis draws the cases; one that fails is shrunk to a small one and printed.
"""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.testing import (
    assert_energy_decays,
    assert_first_variation,
    assert_mass_conserved,
    assert_nonnegative,
    assert_order,
    densities,
    grids,
)

DIFFUSION, STRENGTH, T_END = 0.5, 2.0, 0.5


class Press(wg.Term):
    """The energy k (int x^2 rho)^2 / 4 on a grid with one axis.

    Parameters
    ----------
    strength : float
        k.
    """

    def __init__(self, strength: float):
        self.strength = strength

    @staticmethod
    def moment(rho: wg.Density) -> float:
        """Return int x^2 rho."""
        return float(rho.grid.centers[0] ** 2 @ rho.masses)

    def energy(self, rho: wg.Density) -> float:
        return self.strength * self.moment(rho) ** 2 / 4

    def first_variation(self, rho: wg.Density) -> np.ndarray:
        return self.strength * self.moment(rho) * rho.grid.centers[0] ** 2 / 2


@settings(max_examples=30, deadline=None)
@given(st.data(), st.floats(0.01, 100.0))
def test_the_first_variation_is_the_derivative_of_the_energy(data, strength):
    """Cells of any widths and densities with holes, points and values down to 1e-300."""
    rho = data.draw(densities(data.draw(grids(axes=(1,)))))
    assert_first_variation(Press(strength), rho)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.floats(0.01, 10.0), st.floats(-3.0, 1.0))
def test_every_flow_keeps_mass_and_sign_and_falls(data, strength, exponent):
    """Steps of any length; F is formed again from the densities, not taken from the run."""
    rho = data.draw(densities(data.draw(grids(axes=(1,), kinds=("even", "graded")))))
    energy, dt = wg.Entropy(1 / DIFFUSION) + Press(strength), 10.0**exponent
    sol = wg.solve(energy, rho, (0, 5 * dt), method=wg.FiniteVolume(dt=dt))
    assert_mass_conserved(sol)
    assert_nonnegative(sol)
    assert_energy_decays(sol, energy)


def test_the_second_moment_follows_its_equation():
    """Of second order in the cells, as fluxes are for a term that is known by its first variation."""
    rest, start, cells = math.sqrt(DIFFUSION / STRENGTH), 0.1, (40, 56, 80, 112, 160)
    exact = rest * math.tanh(2 * STRENGTH * rest * T_END + math.atanh(start / rest))
    errors = []
    for n in cells:
        rho0 = wg.Density.gaussian(wg.Grid((-4, 4), cells=n), 0.0, start)
        sol = wg.solve(wg.Entropy(1 / DIFFUSION) + Press(STRENGTH), rho0, (0, T_END), wg.FiniteVolume(rtol=1e-8))
        errors.append(abs(Press.moment(sol.final) - exact))
    assert_order([8 / n for n in cells], errors, order=2, tol=0.1)


def main() -> None:
    """Run the tests without pytest."""
    for test in (test_the_first_variation_is_the_derivative_of_the_energy,
                 test_every_flow_keeps_mass_and_sign_and_falls, test_the_second_moment_follows_its_equation):
        test()
        print(f"{test.__name__} holds")


if __name__ == "__main__":
    main()
