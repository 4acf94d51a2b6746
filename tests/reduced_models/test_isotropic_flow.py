"""The isotropic model by finite volumes, against characteristics (noiseless) and the dual problem (noisy)."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.activations import NonMonotone, Ramp
from wgflow.reduced_models import IsotropicGaussian

#: d = 40, tau^2 = (1.8, .2), kappa = .8: the risk at t = .1, 1, 3 by Gauss-Laguerre characteristics.
TIMES, RISKS = (0.1, 1.0, 3.0), (0.93594332, 0.05992200, 0.04543994)


def model():
    return IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2, activation=Ramp())


def risk_errors(cells):
    m = model()
    grid = m.grid(cells=cells)
    sol = wg.solve(m.energy(), m.initial_density(0.8, grid), (0, 3), t_eval=TIMES, time_scale=m.time_scale)
    assert sol.certificate.ok
    return np.abs([m.risk(rho) - risk for rho, risk in zip(sol.densities, RISKS)])


def test_the_noiseless_risk_converges_to_that_of_the_characteristics():
    coarse, middle, fine = risk_errors(250), risk_errors(500), risk_errors(2000)
    assert coarse.max() <= 1e-4
    assert middle.max() <= 1e-6
    assert fine.max() <= 1e-7
    # Third order; the references have eight digits.
    assert fine[0] <= coarse[0] / 8**2.7


def test_the_noisy_energy_falls_to_that_of_the_dual():
    m = model()
    energy = m.energy(beta=100.0, ridge=0.01)
    grid = m.grid(cells=500, kappa=0.8, beta=100.0, ridge=0.01)
    times = [0.0, 0.1, 10.0, 400.0]
    sol = wg.solve(energy, m.initial_density(0.8, grid), (0, 400), t_eval=times, time_scale=m.time_scale)
    assert sol.certificate.ok
    assert sol.energy == pytest.approx([1.4551, 0.5006, -0.10129, -0.1042043091], abs=1e-3)


def test_three_hundred_dimensions_do_not_overflow():
    m = IsotropicGaussian(d=320, tau_plus2=1.5, tau_minus2=0.5, activation=NonMonotone())
    grid = m.grid(cells=500)
    noisy = m.energy(beta=100.0, ridge=0.01)
    for energy in (m.energy(), noisy):
        sol = wg.solve(energy, m.initial_density(0.4, grid), (0, 1), t_eval=[0.0, 1.0], time_scale=m.time_scale)
        assert sol.certificate.ok
        assert np.isfinite(sol.energy).all()
        assert np.isfinite(noisy(sol.final))
    assert m.risk(wg.solve(m.energy(), m.initial_density(0.4, grid), (0, 1), time_scale=m.time_scale).final) < 0.19
