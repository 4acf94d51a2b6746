"""A potential on a circle has one meaning: every method refuses a jump at the seam."""

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


METHODS = [wg.FiniteVolume(), wg.FiniteVolume(order=2), wg.FiniteVolume(scheme="midpoint"),
           wg.JKO(tau=0.5, inner="linearized"), wg.JKO(tau=0.5, inner="back-and-forth"),
           wg.JKO(tau=0.5, inner="entropic"), wg.FiPy(dt=0.1), wg.Lagrangian(rng=7)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("term", [TILT, wg.Interaction(lambda x, y: x * y), wg.LowRank(lambda x: np.array([x]))])
def test_every_method_refuses_a_jump_at_the_seam(term, method):
    with pytest.raises(wg.InvalidInput, match=r"differs by .* between the two ends .* boundary='no-flux' on this axis"):
        wg.solve(wg.Entropy(1.0) + term, EVEN, (0, 1), method=method)


def test_so_do_states_at_rest_and_terms_that_change_with_time():
    energy = wg.Entropy(1.0) + TILT
    for call in (lambda: wg.stationary(energy, CIRCLE), lambda: wg.stationary_branches(energy, CIRCLE),
                 lambda: wg.solve(wg.Entropy(1.0) + wg.TimeDependent(lambda t: t * TILT), EVEN, (0, 1))):
        with pytest.raises(wg.InvalidInput, match=r"V differs by 3.14 between the two ends"):
            call()
    strip = wg.Density.uniform(STRIP)
    with pytest.raises(wg.InvalidInput, match="coordinate y"):
        wg.solve(wg.Entropy(1.0) + wg.Potential(lambda x, y: x**2 + y), strip, (0, 1))
    wg.solve(wg.Entropy(1.0) + wg.Potential(lambda x, y: x + np.cos(y)), strip, (0, 0.1))


@pytest.mark.filterwarnings("ignore:tau")
def test_a_wall_and_a_jump_that_are_meant():
    """Between walls, and with the jump inside the period, the law at rest is exp(-x/2), of mean -1.389."""
    a = 0.5 * math.pi
    exact = 2 * (1 - a / math.tanh(a))
    walls = wg.Grid((-math.pi, math.pi), cells=64, boundary="no-flux")
    inside = wg.Grid((0, 2 * math.pi), cells=64, boundary="periodic")
    for grid, V in ((walls, TILT), (inside, wg.Potential(lambda x: 0.5 * np.where(x > np.pi, x - 2 * np.pi, x)))):
        energy, even = wg.Entropy(1.0) + V, wg.Density.uniform(grid)
        laws = [wg.stationary(energy, grid).density]
        laws += [wg.solve(energy, even, (0, 30), method=method).final
                 for method in (wg.FiniteVolume(), wg.JKO(tau=3.0, inner="linearized"))]
        for rho in laws:
            mean = rho.expect(lambda x: np.where(x > np.pi, x - 2 * np.pi, x))
            assert mean == pytest.approx(exact, abs=5e-3)


@pytest.mark.parametrize("V", [np.sin, lambda x: 1e8 * np.sin(3 * x)], ids=["sine", "large sine"])
def test_a_function_that_vanishes_at_both_ends_but_for_rounding_does_not_jump(V):
    grid = wg.Grid([(0, 2 * np.pi)], cells=64, boundary="periodic")
    scale = float(V(0.5) / np.sin(0.5 if V is np.sin else 1.5))
    energy = wg.Entropy(2.0 / scale) + wg.Potential(V)
    assert wg.solve(energy, wg.Density.uniform(grid), (0, 1e-3 / scale)).certificate.mass_drift < 1e-13
    assert wg.stationary(energy, grid).residual < 1e-10
