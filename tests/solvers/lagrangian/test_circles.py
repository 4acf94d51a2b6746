"""A potential on a circle has one meaning: points refuse a jump at the seam, which is a wall on a grid."""

import math

import numpy as np
import pytest

import wgflow as wg

CIRCLE = wg.Grid((-math.pi, math.pi), cells=64, boundary="periodic")
EVEN = wg.Density.from_function(CIRCLE, lambda x: 1 + 0 * x)
STRIP = wg.Grid([(-1, 1), (-math.pi, math.pi)], cells=(8, 16), boundary=("no-flux", "periodic"))
TILT = wg.Potential(lambda x: 0.5 * x)


@pytest.mark.parametrize("energy", [
    wg.Entropy(1.0) + TILT,
    1.0 * TILT,
    wg.Entropy(2.0) + wg.Interaction(lambda x, y: x * y),
    wg.Entropy(1.0) + wg.LowRank(lambda x: np.array([x])),
    wg.Entropy(1.0) + wg.TimeDependent(lambda t: t * TILT),
])
def test_points_refuse_a_jump_at_the_seam(energy):
    rng = 7 if energy.spreads else None
    with pytest.raises(wg.InvalidInput, match=r"differs by .* between the two ends .* coordinate x.*not a gradient"):
        wg.solve(energy, EVEN, (0, 1), method=wg.Lagrangian(rng=rng))


def test_the_coordinate_is_named():
    rho0 = wg.Density.from_function(STRIP, lambda x, y: 1 + 0 * x)
    with pytest.raises(wg.InvalidInput, match=r"V differs by 6.28 .*\(-3.14159 and 3.14159\).*coordinate y"):
        wg.solve(1.0 * wg.Potential(lambda x, y: x**2 + y), rho0, (0, 1), method=wg.Lagrangian())
    wg.solve(1.0 * wg.Potential(lambda x, y: x + np.cos(y)), rho0, (0, 0.1), method=wg.Lagrangian())


@pytest.mark.parametrize("energy", [
    1.0 * wg.Potential(lambda x: x**2),  # a kink, no jump
    1.0 * wg.Potential(lambda x: 1e6 + np.sin(x - 1)),
    1.0 * wg.Interaction(lambda x, y: 1 - np.cos(x - y)),
    1.0 * wg.Convolution(wg.interactions.gaussian(0.5)),
    1.0 * wg.Potential(lambda x: -np.log(np.abs(np.cos(x / 2)))),  # infinite at the seam: a barrier, no jump
])
def test_functions_on_the_circle_pass(energy):
    energy.check_atoms(wg.Atoms.from_density(wg.Density.from_function(CIRCLE, lambda x: 1 + 0.5 * np.cos(x))))


def test_a_run_on_the_circle_with_a_kink_at_the_seam():
    rho0 = wg.Density.from_function(CIRCLE, lambda x: 1 + 0.5 * np.cos(x))
    assert wg.solve(1.0 * wg.Potential(lambda x: x**2), rho0, (0, 0.1), method=wg.Lagrangian()).certificate.ok


@pytest.mark.filterwarnings("ignore:V differs")
def test_on_a_grid_the_jump_is_a_wall():
    """Every method on a grid, and the stationary state, comes to exp(-x/2) between walls, of mean -1.389."""
    energy = wg.Entropy(1.0) + TILT
    a = 0.5 * math.pi
    exact = 2 * (1 - a / math.tanh(a))
    laws = [wg.stationary(energy, CIRCLE).density]
    laws += [wg.solve(energy, EVEN, (0, 30), method=method).final
             for method in (wg.FiniteVolume(), wg.JKO(tau=3.0, inner="linearized"))]
    for rho in laws:
        # `mean` is that on the circle.
        assert rho.expect(lambda x: x) == pytest.approx(exact, abs=5e-3)
