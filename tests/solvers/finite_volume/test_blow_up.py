"""Collapse under singular attraction is told, with the time, and never as a NaN."""

import math

import numpy as np
import pytest

import wgflow as wg

DIFFUSION = 0.5


def keller_segel(cells, chi, kernel=None, entropy=None, t_end=2.0):
    """On the line with V = x^2/2 and w = chi log|x|: the variance is D - chi/2 + (v0 - D + chi/2) exp(-2t)."""
    grid = wg.Grid([(-6, 6)], cells=cells)
    energy = ((entropy or wg.Entropy(1 / DIFFUSION)) + wg.Potential(lambda x: x**2 / 2)
              + wg.Convolution(kernel or chi * wg.interactions.log()))
    return wg.solve(energy, wg.Density.gaussian(grid, 0.0, 0.5), (0, t_end))


def blow_up_time(cells, chi):
    with pytest.raises(wg.ConvergenceError, match="blow-up") as caught:
        keller_segel(cells, chi)
    error = caught.value
    assert error.reason == "blow-up"
    partial = error.partial
    assert np.isfinite(partial.final.values).all()
    assert partial.certificate.mass_drift <= 1e-13
    assert partial.certificate.max_energy_increase <= 1e-12
    assert partial.t[-1] == error.t
    return error.t


@pytest.mark.parametrize("chi", [2.0, 4.0])
def test_supercritical_masses_collapse_before_their_variance_would_vanish(chi):
    last = 0.5 * math.log((0.5 - DIFFUSION + chi / 2) / (chi / 2 - DIFFUSION))
    times = [blow_up_time(cells, chi) for cells in (100, 200, 400)]
    # Finer cells follow the law further, towards one time.
    assert times[0] < times[1] < times[2] < last
    assert times[2] - times[1] < times[1] - times[0]


@pytest.mark.parametrize("chi", [0.3, 0.7])
def test_subcritical_masses_never_do(chi):
    sol = keller_segel(400, chi)
    exact = DIFFUSION - chi / 2 + (chi / 2) * math.exp(-4.0)
    assert sol.final.cov() == pytest.approx(exact, abs=1e-3)


def test_in_the_plane_beyond_eight_pi():
    grid = wg.Grid([(-3, 3)] * 2, cells=(48, 48))
    rho0 = wg.Density.gaussian(grid, [0.1, 0.0], [0.3, 0.3])
    for mass, collapses in ((0.7, False), (3.0, True)):  # in units of 8 pi D / chi, whose virial time is 0.3 / (M - 1)
        attraction = 4.0 * mass * wg.interactions.log()
        energy = wg.Entropy(1.0) + wg.Convolution(attraction)
        sol = wg.solve(energy, rho0, (0, 0.3), throw=False)
        assert (sol.status == 1) == collapses
        assert ("blow-up" in sol.message) == collapses
        assert not collapses or sol.t[-1] < 0.15


def test_on_a_circle():
    grid = wg.Grid([(0, 2 * math.pi)], cells=128, boundary="periodic")
    energy = wg.Entropy(1 / DIFFUSION) + wg.Convolution(6.0 * wg.interactions.log())
    rho0 = wg.Density.from_function(grid, lambda x: np.exp(4 * np.cos(x)))  # its peak lies on the seam
    with pytest.raises(wg.ConvergenceError, match="blow-up"):
        wg.solve(energy, rho0, (0, 5))


def test_what_holds_a_mass_apart():
    """Smooth attraction, repulsion and the pressure of nonlinear diffusion: no collapse."""
    keller_segel(200, 0.0, kernel=-30.0 * wg.interactions.gaussian(0.2))
    keller_segel(200, 0.0, kernel=-2.0 * wg.interactions.log())
    sol = keller_segel(200, 2.0, entropy=1.0 * wg.PowerEntropy(3.0))
    assert sol.final.cov() > 0.01


def test_midpoint_scheme_tells_it_too():
    grid = wg.Grid([(-6, 6)], cells=100)
    energy = wg.Entropy(2.0) + wg.Convolution(4.0 * wg.interactions.log())
    with pytest.raises(wg.ConvergenceError, match="blow-up"):
        wg.solve(energy, wg.Density.gaussian(grid, 0, 0.5), (0, 10), method=wg.FiniteVolume(dt=1.0, scheme="midpoint"))
