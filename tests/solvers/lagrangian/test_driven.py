"""Terms that change with time without noise, against exact paths, and the step of particles with noise."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

import wgflow as wg

X = np.linspace(-1, 1, 9)
ATOMS = wg.Atoms(X, np.full(9, 1 / 9))
TRAP = wg.Potential(lambda x: x**2 / 2)
SWING = wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - np.sin(2 * t)) ** 2 / 2))


def swung(t):
    """x' = -(x - sin 2t) from X, and the mean work of the force -2 cos 2t (x - sin 2t)."""
    return np.exp(-t) * X + (np.sin(2 * t) - 2 * np.cos(2 * t) + 2 * np.exp(-t)) / 5


@pytest.mark.parametrize("ode", ["DOP853", "RK45", "LSODA", "Radau"])
def test_a_moving_trap(ode):
    sol = wg.solve(1.0 * SWING, ATOMS, (0, 2), wg.Lagrangian(ode=ode), t_eval=[0.7, 2])
    for t, rho in zip(sol.t, sol.densities):
        np.testing.assert_allclose(rho.points[0], swung(t), atol=1e-8)
    work = quad(lambda t: -2 * np.cos(2 * t) * (swung(t).mean() - np.sin(2 * t)), 0, 2, epsabs=1e-12)[0]
    assert sol.history.work[-1] == pytest.approx(work, abs=3e-8)
    assert sol.certificate.ok, sol.certificate.explain()
    assert np.diff(sol.history.energy).max() > 1e-3


def test_a_moving_trap_on_a_clock():
    """x' = -s(t) (x - sin 2t) by an independent integrator."""
    def s(t):
        return 1 + 0.5 * np.cos(3 * t)

    sol = wg.solve(1.0 * SWING, ATOMS, (0, 2), wg.Lagrangian(), time_scale=s)
    wanted = solve_ivp(lambda t, y: -s(t) * (y - np.sin(2 * t)), (0, 2), X, rtol=1e-12, atol=1e-13).y[:, -1]
    np.testing.assert_allclose(sol.final.points[0], wanted, atol=1e-9)
    assert sol.certificate.ok


@pytest.mark.parametrize(("at", "width"), [(1.0, 0.01), (1.37, 0.03), (7.0, 0.05)])
def test_a_kick_is_not_passed_over(at, width):
    end = at + 1.0

    def force(t):
        return 0.3 / width * np.exp(-0.5 * ((t - at) / width) ** 2)

    kick = wg.TimeDependent(lambda t: wg.Potential(lambda x: -force(t) * x))
    sol = wg.solve(TRAP + kick, ATOMS, (0, end), wg.Lagrangian())
    pushed = quad(lambda t: force(t) * np.exp(t - end), at - 8 * width, at + 8 * width, epsabs=1e-13)[0]
    np.testing.assert_allclose(sol.final.points[0], np.exp(-end) * X + pushed, atol=1e-8)
    assert sol.certificate.ok, sol.certificate.explain()


def test_jumps_end_steps_and_their_work_is_counted():
    energy = wg.TimeDependent(lambda t: (1.0 if t < 0.7 else 20.0) * TRAP)
    sol = wg.solve(1.0 * energy, ATOMS, (0, 2), wg.Lagrangian())
    np.testing.assert_allclose(sol.final.points[0], X * np.exp(-0.7 - 20 * 1.3), atol=1e-10)
    there = 0.5 * (X**2).mean() * np.exp(-1.4)
    assert sol.history.work[-1] == pytest.approx(19 * there, rel=1e-8)
    assert np.abs(sol.history.t - 0.7).min() < 1e-12
    assert sol.certificate.ok


def test_an_interaction_is_switched_on():
    """x' = -tanh(3t) (x - mean): contraction by cosh(3t)^(-1/3)."""
    pull = wg.Interaction(wg.Convolution(lambda z: z * z / 2))
    sol = wg.solve(wg.TimeDependent(lambda t: np.tanh(3 * t) * pull) + 0.0 * TRAP, ATOMS, (0, 2), wg.Lagrangian())
    np.testing.assert_allclose(sol.final.points[0], X * np.cosh(6) ** (-1 / 3), atol=1e-8)
    assert sol.certificate.ok


def test_work_that_moves_no_atom_is_exact():
    offset = wg.TimeDependent(lambda t: wg.Potential(lambda x: 3 * np.cos(5 * t) + 0 * x))
    sol = wg.solve(TRAP + offset, ATOMS, (0, 40), wg.Lagrangian())
    assert sol.history.work[-1] == pytest.approx(3 * np.cos(200) - 3, abs=1e-10)
    assert sol.certificate.ok, sol.certificate.explain()


# ---------------------------------------------------------------- particles with noise
def test_steps_become_shorter_where_the_law_has_come_to_a_stiff_place():
    """A slope without curvature, and a wall of stiffness 100 at its end, where the law comes to rest."""
    slope = wg.Potential(lambda x: np.where(x < 2, -x, -x + 50 * (x - 2) ** 2))
    rho0 = wg.Atoms(np.linspace(-0.2, 0.2, 200), np.full(200, 1 / 200))
    sol = wg.solve(wg.Entropy(20.0) + slope, rho0, (0, 4), wg.Lagrangian(rng=7))
    assert sol.history.dt[-1] <= 0.05 * 2 / 100
    assert sol.history.dt[5] > 0.05
    gibbs = [quad(lambda y, k=k: y**k * np.exp(20 * y - 1000 * max(y, 0) ** 2), -3, 1, points=[0])[0] for k in range(3)]
    mean = gibbs[1] / gibbs[0]
    assert sol.final.mean() == pytest.approx(2 + mean, abs=0.015)
    assert sol.final.cov() == pytest.approx(gibbs[2] / gibbs[0] - mean**2, rel=0.4)


def test_a_long_run_is_told_early(monkeypatch):
    from wgflow.solvers.lagrangian import langevin

    monkeypatch.setattr(langevin, "EARLY", 0.05)

    def slow(x):
        time.sleep(0.01)
        return x**2 / 2

    rho0 = wg.Atoms(np.linspace(-1, 1, 20), np.full(20, 1 / 20))
    with pytest.warns(wg.WGFlowWarning, match=r"will take about \d+ (seconds|minutes).*it will stop at time_limit=0.3"):
        sol = wg.solve(wg.Entropy(1.0) + wg.Potential(slow), rho0, (0, 1000), wg.Lagrangian(dt=0.01, rng=7,
                                                                                           time_limit=0.3), throw=False)
    assert 3 < len(sol.history) < 60
    assert sol.status == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wg.solve(wg.Entropy(1.0) + TRAP, rho0, (0, 1), wg.Lagrangian(dt=0.01, rng=7))
