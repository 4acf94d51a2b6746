"""JKO with terms that change with time, and on clocks with pulses, against exact moments."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

import wgflow as wg

GRID = wg.Grid((-6, 6), cells=160)
TRAP = wg.Potential(lambda x: x**2 / 2)
SWING = wg.TimeDependent(lambda t: wg.Potential(lambda x: (x - np.sin(2 * t)) ** 2 / 2))
INNER = ["quantile", "linearized", "back-and-forth", "entropic"]


def swung(m, t):
    """The mean of the law in the trap: m' = -(m - sin 2t)."""
    return m * np.exp(-t) + (np.sin(2 * t) - 2 * np.cos(2 * t) + 2 * np.exp(-t)) / 5


@pytest.mark.parametrize("inner", INNER)
def test_a_moving_trap_is_of_first_order(inner):
    errors = []
    for tau in (0.1, 0.05):
        sol = wg.solve(wg.Entropy(1.0) + SWING, wg.Density.gaussian(GRID, 0.5, 1.0), (0, 2), wg.JKO(tau, inner=inner))
        errors.append(abs(sol.final.mean() - swung(0.5, 2.0)))
        assert sol.final.cov() == pytest.approx(1.0, abs=1e-3)
        assert sol.certificate.ok, sol.certificate.explain()
        assert np.diff(sol.history.energy - sol.history.work).max() <= 1e-12
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)
    work = quad(lambda t: -2 * np.cos(2 * t) * (swung(0.5, t) - np.sin(2 * t)), 0, 2)[0]
    assert sol.history.work[-1] == pytest.approx(work, rel=0.01)


@pytest.mark.parametrize(("at", "width"), [(1.0, 0.01), (0.62, 0.002)])
def test_a_kick_is_not_passed_over(at, width):
    def force(t):
        return 0.3 / width * np.exp(-0.5 * ((t - at) / width) ** 2)

    kick = wg.TimeDependent(lambda t: wg.Potential(lambda x: -force(t) * x),
                            breakpoints=[at - 6 * width, at + 6 * width])
    sol = wg.solve(wg.Entropy(1.0) + TRAP + kick, wg.Density.gaussian(GRID, 0.0, 1.0), (0, 2), wg.JKO(0.02))
    pushed = quad(lambda t: force(t) * np.exp(t - 2), at - 6 * width, at + 6 * width)[0]
    # Implicit steps of length tau decay more slowly by a part tau / 2 of the time.
    assert sol.final.mean() == pytest.approx(pushed * (1 + 0.01 * (2 - at)), rel=0.01)
    assert sol.certificate.ok, sol.certificate.explain()


def test_an_interaction_is_switched_on():
    """var' = -2 k(t) var + 2 D about a mean that rests, from the attraction k(t) |x - y|^2 / 2."""
    pull = wg.Interaction(wg.Convolution(lambda z: z * z / 2))
    energy = wg.Entropy(4.0) + wg.TimeDependent(lambda t: (0.5 if t < 1 else 2.0) * pull)
    sol = wg.solve(energy, wg.Density.gaussian(GRID, 0.3, 1.0), (0, 2), wg.JKO(0.02))
    middle = 0.5 + 0.5 * np.exp(-1)
    assert sol.final.cov() == pytest.approx(0.125 + (middle - 0.125) * np.exp(-4), abs=0.01)
    assert sol.final.mean() == pytest.approx(0.3, abs=1e-6)
    assert sol.certificate.ok, sol.certificate.explain()
    jump = sol.history.work[np.searchsorted(sol.history.t, 1.0)]
    assert jump == pytest.approx(0.5 * 1.5 * middle, rel=0.03)


def test_a_pulse_of_the_clock_gets_steps_of_its_own():
    def s(t):
        return 1 + 40 * np.exp(-(((t - 1) / 0.02) ** 2))

    sol = wg.solve(wg.Entropy(1.0) + TRAP, wg.Density.gaussian(GRID, 0.5, 0.25), (0, 2), wg.JKO(0.05), time_scale=s)
    passed = 2 + 40 * 0.02 * np.sqrt(np.pi)
    assert sol.final.mean() == pytest.approx(0.5 * np.exp(-passed), abs=0.006)
    assert max(step.tau for step in sol.jko_steps) < 4.1 * 0.05 * passed / 2
    assert len(sol.history) > 42


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    energy, rho0 = wg.Entropy(1.0) + SWING, wg.Density.gaussian(GRID, 0.5, 1.0)
    whole = wg.solve(energy, rho0, (0, 1), wg.JKO(0.05))
    with pytest.raises(wg.ConvergenceError):
        wg.solve(energy, rho0, (0, 1), wg.JKO(0.05, max_steps=9), checkpoint=tmp_path / "run.npz")
    again = wg.resume(tmp_path / "run.npz", energy=energy, method=wg.JKO(0.05))
    np.testing.assert_array_equal(again.final.values, whole.final.values)
    np.testing.assert_array_equal(again.history.work, whole.history.work)


@pytest.mark.parametrize(("settings", "words"), [({"order": 2}, "order=2"), ({"adaptive": True}, "adaptive=True")])
def test_what_is_not_served_is_refused_by_name(settings, words):
    with pytest.raises(wg.InvalidInput, match=words):
        wg.solve(wg.Entropy(1.0) + SWING, wg.Density.gaussian(GRID, 0.5, 1.0), (0, 1), wg.JKO(0.05, **settings))
