"""Driving between steps: pulses, jumps and breakpoints, of terms and of time_scale, and what the certificate says."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import wgflow as wg
from wgflow.energies.clocks import Clock
from wgflow.energies.drives import Drive
from wgflow.energies.probes import GridProbe

GRID = wg.Grid((-6, 6), cells=100)
REST = wg.Density.gaussian(GRID, 0.0, 1.0)
OU = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
PULL = wg.Interaction(wg.Convolution(lambda z: z * z / 2))
ORDERS = pytest.mark.parametrize("order", [2, 4])


def push(force, breakpoints=()):
    return wg.TimeDependent(lambda t: wg.Potential(lambda x: -force(t) * x), breakpoints)


def mean_of(force, t1, pieces=()):
    """m' = force(t) - m from 0, piece by piece."""
    mean, times = 0.0, [0.0, *pieces, t1]
    for a, b in pairwise(times):
        low, high = a + 1e-13 * b, b - 1e-13 * b
        mean = solve_ivp(lambda t, m, low=low, high=high: force(min(max(t, low), high)) - m, (a, b), [mean], rtol=1e-10,
                         atol=1e-13, max_step=(b - a) / 200).y[0, -1]
    return mean


def gauss_pulse(t):
    return 3 * math.exp(-(t - 50) ** 2 / 0.08)


def square_pulse(t):
    return 3.0 if 20.3 < t < 20.8 else 0.0


def two_jumps(t):
    return 1.0 if 3.1 < t < 4.7 else 0.0


def steep(t):
    return math.tanh((t - 3) / 1e-3)


@ORDERS
@pytest.mark.parametrize(("force", "t1", "pieces"), [
    (gauss_pulse, 51.0, (49.0,)), (square_pulse, 25.0, (20.3, 20.8)), (two_jumps, 6.0, (3.1, 4.7)),
    (steep, 5.0, (2.99, 3.01)),
], ids=["pulse", "square", "jumps", "steep"])
def test_what_pushes_a_law_between_long_steps_is_seen(force, t1, pieces, order):
    sol = wg.solve(OU + push(force), REST, (0, t1), wg.FiniteVolume(order=order))
    right = mean_of(force, t1, pieces)
    assert abs(sol.final.mean() - right) < (5e-6 if order == 4 else 1e-3 * max(1.0, abs(right)))
    assert sol.certificate.ok, sol.certificate.explain()
    assert sol.certificate.n_accepted < 150


@ORDERS
def test_a_pulse_between_breakpoints_is_seen_however_short(order):
    def force(t):
        return 300.0 if 20.3 < t < 20.305 else 0.0

    sol = wg.solve(OU + push(force, [20.305, 20.3]), REST, (0, 25), wg.FiniteVolume(order=order))
    assert abs(sol.final.mean() - mean_of(force, 25.0, (20.3, 20.305))) < 1e-4
    assert {20.3, 20.305} <= set(sol.history.t)
    assert sol.certificate.ok, sol.certificate.explain()


@ORDERS
def test_an_attraction_that_is_switched_on(order):
    """var' = 2 - 6 var after the switch."""
    energy = OU + wg.TimeDependent(lambda t: (2.0 if t >= 7.123 else 0.0) * PULL)
    sol = wg.solve(energy, REST, (0, 7.5), wg.FiniteVolume(order=order))
    right = 1 / 3 + 2 / 3 * math.exp(-6 * 0.377)
    # The variance of averages is that of the values plus h^2 / 12 minus what the wall of fluxes leaves: compare laws.
    truth = wg.Density.gaussian(GRID, 0.0, right)
    assert np.abs(sol.final.masses - truth.masses).sum() < (1e-5 if order == 4 else 2e-3)
    assert sol.certificate.ok, sol.certificate.explain()
    # The jump of F is work, and all of it: F of the law after the switch less that before.
    k = int(np.argmax(np.abs(np.diff(sol.history.work))))
    assert sol.history.t[k + 1] == pytest.approx(7.123, abs=1e-12)
    assert np.diff(sol.history.work)[k] == pytest.approx(1.0, abs=1e-3)


@ORDERS
def test_a_pulse_of_the_clock(order):
    def scale(t):
        return 1e-3 + 3 * math.exp(-(t - 50) ** 2 / 0.08)

    start = wg.Density.gaussian(GRID, 1.0, 1.0)
    sol = wg.solve(OU, start, (0, 51), wg.FiniteVolume(order=order), time_scale=scale)
    passed = 0.051 + 3 * math.sqrt(0.08 * math.pi) * 0.5 * (1 + math.erf(1 / math.sqrt(0.08)))
    assert abs(sol.final.mean() - math.exp(-passed)) < (1e-5 if order == 4 else 1e-3)
    assert sol.certificate.ok, sol.certificate.explain()
    assert 0 < sol.certificate.unseen_pulse < 0.3
    assert "shorter pulses may have gone unseen" in sol.certificate.explain()


def test_fixed_steps_over_a_pulse_do_not_pass():
    sol = wg.solve(OU + push(gauss_pulse), REST, (0, 51), wg.FiniteVolume(dt=1.7))
    assert not sol.certificate.ok
    assert not sol.certificate.checks()["drive"][0]
    assert "shorter steps" in sol.certificate.explain()
    assert sol.certificate.missed_drive > 0.1
    fine = wg.solve(OU + push(square_pulse), REST, (0, 25), wg.FiniteVolume(dt=0.05))
    assert fine.certificate.ok, fine.certificate.explain()


def test_no_drive_no_words():
    sol = wg.solve(OU, wg.Density.gaussian(GRID, 1.0, 1.0), (0, 1))
    assert sol.certificate.unseen_pulse is None
    assert sol.certificate.missed_drive is None
    assert "drive" not in sol.certificate.checks()


def test_what_was_seen_is_stored(tmp_path):
    sol = wg.solve(OU + push(math.sin), REST, (0, 1))
    sol.save(tmp_path / "a.npz")
    loaded = wg.load(tmp_path / "a.npz").certificate
    assert loaded.unseen_pulse == sol.certificate.unseen_pulse
    assert loaded.missed_drive == 0.0
    assert loaded.ok


def test_a_run_goes_on_over_a_breakpoint(tmp_path):
    path, energy = tmp_path / "run.npz", OU + push(two_jumps, [3.1]) + wg.TimeDependent(lambda t: t * PULL)
    start = wg.Density.gaussian(GRID, 1.0, 0.5)
    whole = wg.solve(energy, start, (0, 6))
    cut = int(np.searchsorted(whole.history.t, 3.1))
    with pytest.raises(wg.ConvergenceError, match="max_steps"):
        wg.solve(energy, start, (0, 6), wg.FiniteVolume(max_steps=cut), checkpoint=path)
    resumed = wg.resume(path, energy=energy, method=wg.FiniteVolume())
    assert np.array_equal(resumed.final.values, whole.final.values)
    assert np.array_equal(resumed.history.work, whole.history.work)


@pytest.mark.parametrize("breakpoints", [[math.nan], [[0.5]], [math.inf], "soon"])
def test_breakpoints_that_are_no_times(breakpoints):
    with pytest.raises(wg.InvalidInput, match="breakpoints"):
        wg.TimeDependent(lambda t: PULL, breakpoints)


# ---------------------------------------------------------------- parts
def drive_of(term, t1=10.0, rho=REST):
    return Drive(wg.Entropy(1.0) + term, GridProbe(rho), 0.0, t1, term.breakpoints)


def test_jumps_are_found_to_rounding():
    jumps = np.array([0.7, 2.5, 2.6, 9.99])
    drive = drive_of(push(lambda t: float(np.searchsorted(jumps, t) % 3)))
    np.testing.assert_allclose(drive.ends, jumps, rtol=0, atol=1e-13)
    for t, (before, after) in drive.jumps.items():
        assert before < after == t


@pytest.mark.parametrize("force", [math.sin, lambda t: math.sin(9 * t), lambda t: math.exp(-50 * (t - 5) ** 2), steep])
def test_what_is_smooth_has_no_jumps(force):
    assert not drive_of(push(force)).jumps


def test_a_step_is_followed_or_shortened():
    drive = drive_of(push(lambda t: math.exp(-50 * (t - 5) ** 2)))

    def longest(t, dt):
        return drive.longest(t, dt, 1e-5, REST.masses, lambda t, dt: 1.0)

    assert longest(0.0, 2.0) == 2.0
    assert longest(6.5, 3.0) == 3.0
    assert 0.1 < longest(3.0, 6.0) < 1.9
    assert longest(4.9, 2.0) < 0.7


@pytest.mark.parametrize("law", [
    wg.Density.uniform(wg.Grid([(-3, 3)], cells=30, boundary="periodic")),
    wg.Density.gaussian(wg.Grid([(-2, 2), (-2, 2)], cells=(20, 30)), [0, 0], [0.3, 0.3]),
    wg.Density.uniform(wg.Grid([(-2, 2)] * 3, cells=(8, 8, 8))),
], ids=["circle", "plane", "space"])
def test_an_interaction_that_is_switched_on_is_seen_whatever_the_law(law):
    pull = wg.Interaction(lambda *xy: -sum(np.cos(a - b) for a, b in zip(xy[:len(xy) // 2], xy[len(xy) // 2:])))
    term = wg.TimeDependent(lambda t: (1.0 if t > 4.321 else 0.0) * pull)
    assert drive_of(term, rho=law).ends == pytest.approx([4.321], abs=1e-12)


def test_values_at_cells_are_seen_too():
    values = GRID.centers[0] ** 2
    term = wg.TimeDependent(lambda t: wg.Potential((1.0 if t > 4.321 else 2.0) * values))
    assert drive_of(term).ends == pytest.approx([4.321], abs=1e-12)


@pytest.mark.parametrize(("scale", "integral", "t1"), [
    (lambda t: 1 + 0.8 * math.sin(5 * t), lambda t: t - 0.16 * (math.cos(5 * t) - 1), 2.0),
    (lambda t: 1.0 if t < 0.3371 else 5.0, lambda t: min(t, 0.3371) + 5 * max(0.0, t - 0.3371), 1.0),
    (lambda t: 1e-3 + 3 * (20.3 < t < 20.8), lambda t: 1e-3 * t + 3 * min(max(t - 20.3, 0.0), 0.5), 51.0),
    (lambda t: 0.1 + abs(t - 0.777), lambda t: 0.1 * t + 0.777**2 / 2 + abs(t - 0.777) * (t - 0.777) / 2, 3.0),
    (lambda t: 1e-3 + 3 * math.exp(-(t - 50) ** 2 / 0.08), lambda t: 1e-3 * t + 1.5 * math.sqrt(0.08 * math.pi) * (
        math.erf((t - 50) / math.sqrt(0.08)) + 1), 51.0),
], ids=["smooth", "jump", "square", "kink", "pulse"])
def test_a_clock_is_the_integral(scale, integral, t1):
    rng, clock = np.random.default_rng(11), Clock(scale, 0.0, t1)
    for a in rng.uniform(0, t1, 100):
        for dt in (t1 - a, 1e-3 * (t1 - a), 1e-9):
            assert clock.elapsed(a, dt) == pytest.approx(integral(a + dt) - integral(a), abs=1e-9 * integral(t1))


def test_a_clock_that_starts_from_zero_and_is_asked_beyond_its_end():
    def scale(t):
        if t <= 0:
            raise wg.ConvergenceError("0")
        return 2 * t

    clock = Clock(scale, 0.0, 1.0)
    assert clock.elapsed(0.0, 1.0) == pytest.approx(1.0, rel=1e-12)
    assert clock.elapsed(0.5, 1.0) == pytest.approx(0.75 + 0.5 * 2.0, rel=1e-12)


def test_a_clock_asks_no_more_than_it_must():
    calls = []
    clock = Clock(lambda t: calls.append(t) or 2.0, 0.0, 1.0)
    assert clock.elapsed(0.0, 0.1) == pytest.approx(0.2, rel=1e-14)
    assert max(calls) < 0.13
    assert clock.elapsed(0.0, 1.0) == pytest.approx(2.0, rel=1e-14)
    assert len(calls) == 40 * 9 + 1


# ---------------------------------------------------------------- particles
def stiff(t):
    return wg.Potential(lambda x: (1 if t < 1 else 400) * x * x / 2, gradient=lambda x: (1 if t < 1 else 400) * x[None])


def stiffening(t):
    k = 1 + 200 * (1 + math.tanh((t - 1) / 0.02))
    return wg.Potential(lambda x: k * x * x / 2, gradient=lambda x: k * x[None])


@pytest.mark.parametrize("term", [stiff, pytest.param(stiffening, marks=pytest.mark.slow)])
def test_particles_follow_a_trap_that_becomes_stiff(term):
    sol = wg.solve(wg.Entropy(1.0) + wg.TimeDependent(term), REST, (0, 1.08), wg.Lagrangian(n_particles=400, rng=271),
                   t_eval=[1.08])
    assert abs(sol.final.cov() * 400 - 1) < 4 * math.sqrt(2 / 400)
    assert sol.certificate.ok


def test_particles_feel_a_pulse():
    def pulse(t):
        return 6 * math.exp(-(t - 9) ** 2 / 0.004)

    term = wg.TimeDependent(lambda t: wg.Potential(lambda x: -pulse(t) * x, gradient=lambda x: np.full((1, x.size),
                                                                                                     -pulse(t))))
    sol = wg.solve(OU + term, REST, (0, 9.5), wg.Lagrangian(n_particles=1000, rng=271), t_eval=[9.5])
    assert abs(sol.final.mean() - mean_of(pulse, 9.5, (8.8, 9.2))) < 4 / math.sqrt(1000)
    over = wg.solve(OU + term, REST, (0, 9.5), wg.Lagrangian(n_particles=100, rng=271, dt=0.7), t_eval=[9.5])
    assert not over.certificate.checks()["drive"][0]


@pytest.mark.parametrize("ode", ["DOP853", "LSODA"])
def test_characteristics_on_a_clock_with_a_pulse(ode):
    atoms, well = wg.Atoms([[1.0, 2.0]], [0.5, 0.5]), wg.Potential(lambda x: x * x / 2, gradient=lambda x: x[None])
    sol = wg.solve(1 * well, atoms, (0, 51), wg.Lagrangian(ode=ode), time_scale=lambda t: 1e-3 + 3 * (20.3 < t < 20.8))
    np.testing.assert_allclose(sol.final.points, np.exp(-1.551) * atoms.points, rtol=1e-7)
    assert sol.certificate.ok
    # The path is that of the clock in between, too.
    k = int(np.searchsorted(sol.history.t, 20.55))
    t = sol.history.t[k]
    passed = 1e-3 * t + 3 * min(max(t - 20.3, 0.0), 0.5)
    energy = 0.5 * np.exp(-2 * passed) * 2.5
    assert sol.history.energy[k] == pytest.approx(energy, rel=1e-6)


def test_particles_on_a_clock_with_a_pulse():
    def scale(t):
        return 1e-3 + 3 * math.exp(-(t - 50) ** 2 / 0.08)

    sol = wg.solve(OU, wg.Density.gaussian(GRID, 2.0, 1.0), (0, 51), wg.Lagrangian(n_particles=1000, rng=271),
                   time_scale=scale, t_eval=[51])
    assert abs(sol.final.mean() - 2 * math.exp(-1.5546)) < 4 / math.sqrt(1000)
    assert sol.certificate.n_accepted > 30
