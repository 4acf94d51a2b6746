"""Nonlinear diffusion of every power by every method: no warning of NumPy leaves a run."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg

METHODS = {
    "finite-volume": wg.FiniteVolume(), "midpoint": wg.FiniteVolume(scheme="midpoint", dt=0.02),
    **{inner: wg.JKO(tau=0.05, inner=inner) for inner in ("quantile", "linearized", "back-and-forth", "entropic")},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("m", [1.5, 3.0, 20.0, 50.0])
@pytest.mark.parametrize("name", METHODS)
def test_no_power_warns(name, m):
    grid = wg.Grid((-2, 2), cells=48)
    starts = wg.Density.gaussian(grid, 0.3, 0.3), wg.Density.from_function(grid, lambda x: 1.0 * (x**2 < 0.05))
    for beta in (None, 100.0):
        energy = wg.PowerEntropy(m) + wg.Potential(lambda x: x**2 / 2)
        if beta is not None:
            energy = energy + wg.Entropy(beta)
        for rho0 in starts:
            # A step that does not meet its tolerance says so in its status; it warns of nothing either.
            sol = wg.solve(energy, rho0, (0, 0.1), METHODS[name], throw=False)
            assert np.isfinite(sol.energy).all()
            assert sol.certificate.explain()
            if name != "back-and-forth":
                assert sol.success, sol.message
