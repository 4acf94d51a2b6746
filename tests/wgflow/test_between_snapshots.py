"""The law at times between the snapshots of a solution."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import wgflow as wg

GRID = wg.Grid((-6, 6), cells=100)


def shaken(w):
    return wg.Entropy(1.0) + wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - 2 * np.sin(w * t)) ** 2 / 2))


def mean_when_shaken(w, t):
    """m' = 2 sin(w t) - m from 0."""
    return 2 * (math.sin(w * t) - w * math.cos(w * t) + w * math.exp(-t)) / (1 + w * w)


@pytest.mark.parametrize("w", [1.0, 4.0])
def test_a_driven_law_between_thinned_snapshots(w):
    sol = wg.solve(shaken(w), wg.Density.gaussian(GRID, 0.0, 1.0), (0, 30), wg.FiniteVolume(rtol=1e-6))
    assert sol.t.size < len(sol.history) / 2
    for t in np.linspace(0.05, 29.9, 7):
        assert abs(sol.density(t).mean() - mean_when_shaken(w, t)) < 1e-4


@pytest.mark.parametrize("method", [wg.FiniteVolume(), wg.FiniteVolume(order=2, rtol=1e-6), wg.JKO(tau=0.02, order=2)],
                         ids=["fourth", "second", "jko"])
def test_a_law_that_relaxes_between_two_snapshots(method):
    """Mean 2 exp(-t), variance 1 - .75 exp(-2 t): halfway between two snapshots a straight line is far off."""
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
    sol = wg.solve(energy, wg.Density.gaussian(GRID, 2.0, 0.25), (0, 2), method, t_eval=[0, 2])
    rho = sol.density(0.7)
    assert abs(rho.mean() - 2 * math.exp(-0.7)) < 2e-3
    assert abs(rho.cov() - (1 - 0.75 * math.exp(-1.4))) < 4e-3
    assert abs(rho.mass - 1) < 1e-13


def test_the_law_after_a_breakpoint():
    """A snapshot on a breakpoint goes on with the energy after it."""
    term = wg.TimeDependent(lambda t: wg.Potential(lambda x: -(3.0 if t > 1 else 0.0) * x), [1.0])
    energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2) + term
    sol = wg.solve(energy, wg.Density.gaussian(GRID, 0.0, 1.0), (0, 2), t_eval=[0, 1, 2])
    assert abs(sol.density(1.5).mean() - 3 * (1 - math.exp(-0.5))) < 1e-4
    assert sol.energy[1] == pytest.approx(energy.at(math.nextafter(1.0, 2.0))(sol.densities[1]), rel=1e-12)


def test_a_snapshot_is_itself():
    sol = wg.solve(wg.Entropy(1.0), wg.Density.gaussian(GRID, 0.0, 0.5), (0, 1), t_eval=[0, 0.5, 1])
    assert sol.density(0.5) is sol.densities[1]


def test_a_loaded_solution_says_that_it_interpolates(tmp_path):
    sol = wg.solve(shaken(1.0), wg.Density.gaussian(GRID, 0.0, 1.0), (0, 2), t_eval=[0, 1, 2])
    sol.save(tmp_path / "a.npz")
    loaded = wg.load(tmp_path / "a.npz")
    with pytest.warns(wg.WGFlowWarning, match="interpolated linearly between the snapshots at 1 and 2"):
        rho = loaded.density(1.5)
    np.testing.assert_allclose(rho.values, 0.5 * (loaded.densities[1].values + loaded.densities[2].values), rtol=1e-14)
    rest = wg.solve(wg.Entropy(1.0), wg.Density.uniform(GRID), (0, 1), t_eval=[0, 1])
    rest.save(tmp_path / "b.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wg.load(tmp_path / "b.npz").density(0.5)
