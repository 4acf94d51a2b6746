"""JKO steps by entropic regularization: exact steps, the bias against closed forms, what small epsilon must not do."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import wgflow as wg
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.grids import log_power_cell_average
from wgflow.solvers.jko.entropic.fields import fisher_information

WELL = wg.Potential(lambda x: x**2 / 2)


def solve(energy, rho, t, tau, *, method_options=None, **options):
    method = wg.JKO(tau=tau, inner="entropic", options=options, **(method_options or {}))
    return wg.solve(energy, rho, (0, t), method)


def exact_std(s, tau, D=1.0, k=1.0):
    """Standard deviation after an exact step from N(., s^2) with V = k x^2 / 2 and entropy D."""
    return (s + math.sqrt(s * s + 4 * tau * D * (1 + tau * k))) / (2 * (1 + tau * k))


def plain_variance(s, tau, epsilon, D=1.0, k=1.0):
    """Variance y after a plain step: ((1 + tau k) y - tau D - eps/2)^2 = eps^2/4 + s^2 y."""
    a, q = 1 + tau * k, tau * D + epsilon / 2
    half = a * q + s * s / 2
    return (half + math.sqrt(half * half - a * a * (q * q - epsilon**2 / 4))) / (a * a)


def debiased_variance(s, tau, epsilon, D=1.0, k=1.0):
    """Variance y after a debiased step: tau k y + sqrt(eps^2/4 + y^2) - sqrt(eps^2/4 + s^2 y) = tau D."""
    e = epsilon**2 / 4
    return brentq(lambda y: tau * k * y + math.sqrt(e + y * y) - math.sqrt(e + s * s * y) - tau * D, 1e-9, 1e3,
                  xtol=1e-15)


# -------------------------------------------------------------------- exact steps
def test_exact_gaussian_step_on_one_axis():
    rho = wg.Density.gaussian(wg.Grid([(-6, 6)], cells=400), 2, 0.25)
    sol = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1)
    assert sol.final.mean() == pytest.approx(1.81818181818, abs=1e-6)
    assert math.sqrt(sol.final.cov()) == pytest.approx(0.604846539224, abs=1e-4)
    sol = solve(wg.Entropy(1.0) + WELL, rho, 1.0, 0.1)
    assert sol.final.mean() == pytest.approx(0.771086578859, abs=1e-6)
    assert math.sqrt(sol.final.cov()) == pytest.approx(0.934188954641, abs=1e-4)


def test_exact_gaussian_step_on_two_axes():
    # A rotated well: its principal axes are the diagonals, with k = 2 and k = 1.
    grid = wg.Grid([(-3, 3), (-3, 3)], cells=72)
    energy = wg.Entropy(2.0) + wg.Potential(lambda x, y: 0.75 * (x**2 + y**2) + 0.5 * x * y)
    rho = wg.Density.gaussian(grid, (0.8, -0.3), 0.2)
    start = rho.cov()[0, 0]
    sol = solve(energy, rho, 0.1, 0.1)
    turn = np.array([[1, 1], [1, -1]]) / math.sqrt(2)
    mean, cov = turn @ sol.final.mean(), turn @ sol.final.cov() @ turn.T
    assert mean == pytest.approx(turn @ np.array([0.8, -0.3]) / [1.2, 1.1], rel=0, abs=1e-5)
    # Against the covariance on the grid, which has the widths of the cells in it: and within 1e-3 of the law's own.
    for k, variance in zip((2.0, 1.0), np.diag(cov)):
        assert math.sqrt(variance) == pytest.approx(exact_std(math.sqrt(start), 0.1, 0.5, k), abs=1e-4)
        assert math.sqrt(variance) == pytest.approx(exact_std(math.sqrt(0.2), 0.1, 0.5, k), abs=1e-3)
    assert cov[0, 1] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("epsilon", [0.003, 0.02, 0.1])
def test_gaussian_bias_has_its_closed_form(epsilon):
    rho = wg.Density.gaussian(wg.Grid([(-6, 6)], cells=240), 1, 0.25)
    s = math.sqrt(rho.cov())
    plain = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1, epsilon=epsilon, debiased=False).final
    assert plain.cov() == pytest.approx(plain_variance(s, 0.1, epsilon), rel=1e-6)
    assert plain.mean() == pytest.approx(1 / 1.1, abs=1e-6)
    debiased = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1, epsilon=epsilon).final
    assert debiased.cov() == pytest.approx(debiased_variance(s, 0.1, epsilon), rel=1e-6)
    # First order against second.
    assert abs(plain_variance(s, 0.1, epsilon) - exact_std(s, 0.1) ** 2) > 0.3 * epsilon
    assert abs(debiased_variance(s, 0.1, epsilon) - exact_std(s, 0.1) ** 2) < epsilon**2


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("epsilon", [0.02, 0.1])
def test_bias_is_estimated(debiased, epsilon):
    rho = wg.Density.gaussian(wg.Grid([(-6, 6)], cells=240), 1, 0.25)
    step = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1, epsilon=epsilon, debiased=debiased).jko_steps[-1]
    formula = debiased_variance if debiased else plain_variance
    s = math.sqrt(rho.cov())
    # W2 of two normal laws of one mean is the difference of their deviations.
    true = abs(math.sqrt(formula(s, 0.1, epsilon)) - exact_std(s, 0.1))
    assert step.bias == pytest.approx(true, rel=0.25)
    assert step.extras["epsilon"] == epsilon
    without = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1, epsilon=epsilon, debiased=debiased, estimate_bias=False)
    assert without.jko_steps[-1].bias is None
    assert without.jko_steps[-1].energy == pytest.approx(step.energy, abs=1e-7)


@pytest.mark.parametrize("epsilon", [0.003, 0.02])
def test_blur_is_named_and_accounted_for(epsilon):
    # A law at rest: a plain step blurs it and raises F, by no more than it says; a debiased one does not.
    grid = wg.Grid([(-6, 6)], cells=240)
    rest = wg.Density.from_log_function(grid, lambda x: -(x**2) / 2)
    sol = solve(wg.Entropy(1.0) + WELL, rest, 0.1, 0.1, epsilon=epsilon, debiased=False, estimate_bias=False)
    step = sol.jko_steps[0]
    rise = step.energy + step.w2_squared / 0.2 - sol.history.energy[0]
    assert 0 < rise <= step.blur
    assert step.round_off < 1e-10
    assert sol.certificate.edi_defect <= 1e-12
    # From s = 1 without forces the deviation would become sqrt(1 + epsilon); the Fisher information is 1.
    assert step.blur_length == pytest.approx(epsilon / 2, rel=0.02)
    assert sol.certificate.bias == step.blur_length
    debiased = solve(wg.Entropy(1.0) + WELL, rest, 0.1, 0.1, epsilon=epsilon, estimate_bias=False)
    assert debiased.jko_steps[0].blur is None
    assert "blur" not in debiased.jko_steps[0].extras
    assert debiased.certificate.bias is None


def test_fisher_information():
    grid = wg.Grid([(-6, 6), (-5, 5)], cells=(240, 200))
    rho = wg.Density.gaussian(grid, (0.0, 0.3), [0.5, 0.25])
    assert fisher_information(grid, rho.values) == pytest.approx(1 / 0.5 + 1 / 0.25, rel=2e-3)
    ring = wg.Grid([(0, 2 * np.pi)], cells=400, boundary="periodic")
    wave = wg.Density.from_function(ring, lambda x: 1 + 0.5 * np.cos(x - 3.1))
    # The integral of sin^2 / (4 + 2 cos) over a turn, of mass 2 pi.
    assert fisher_information(ring, wave.values) == pytest.approx((1 - math.sqrt(0.75)), rel=1e-3)


def test_distance_is_that_of_the_laws():
    # N(0, .25) moves to its exact step; W2 of normal laws is known.
    rho = wg.Density.gaussian(wg.Grid([(-6, 6)], cells=300), 1, 0.25)
    step = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1).jko_steps[-1]
    w2 = (1 - 1 / 1.1) ** 2 + (exact_std(0.5, 0.1) - 0.5) ** 2
    assert step.w2_squared == pytest.approx(w2, abs=1e-4)
    # The coupling is blurred, so that it costs more: by about epsilon times the number of axes.
    assert w2 + 0.8 * step.extras["epsilon"] < step.extras["transport_cost"] < w2 + 1.2 * step.extras["epsilon"]


@pytest.mark.parametrize("debiased", [True, False])
def test_exact_porous_medium_step(debiased):
    # s' from .5 at tau = .1, m = 2, lam = 1: the profile keeps its shape, whose variance is R^2 / 5.
    radius = 1.44224957031
    grid = wg.Grid([(-2, 2)], cells=250)
    rho = wg.Density.from_function(grid, lambda x: np.maximum(1 - (2 * x / radius) ** 2, 0))
    sol = solve(PowerEntropy(2.0) + WELL, rho, 0.1, 0.1, debiased=debiased)
    deviation = math.sqrt(sol.final.cov())
    assert deviation == pytest.approx(0.66199071551 * radius / math.sqrt(5), abs=1e-4 if debiased else 1e-3)
    outside = np.abs(grid.centers[0]) > 0.66199071551 * radius + 0.06
    # A plain step has tails.
    assert sol.final.values[outside].max() < (1e-12 if debiased else 1e-2)
    assert sol.jko_steps[-1].bias < 1e-3


def test_a_gibbs_law_rests_if_debiased():
    grid = wg.Grid([(-4, 4)], cells=100)
    energy = wg.Entropy(4.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2 + 0.2 * x)
    star = wg.Density.from_log_function(grid, lambda x: -4 * (x**4 / 4 - x**2 / 2 + 0.2 * x))
    rest = solve(energy, star, 1.0, 0.5).final
    assert np.abs(rest.values - star.values).max() < 1e-7
    moved = solve(energy, star, 1.0, 0.5, debiased=False).final
    assert np.abs(moved.values - star.values).max() > 1e-3


def test_order_in_tau():
    # Errors in mean and deviation of the Ornstein-Uhlenbeck flow at T = 1.
    rho = wg.Density.gaussian(wg.Grid([(-5, 5)], cells=200), 1.5, 0.25)
    mean, variance = 1.5 * math.exp(-1), rho.cov() * math.exp(-2) + 1 - math.exp(-2)
    taus = np.array([0.25, 0.125, 0.0625, 0.03125])
    finals = [solve(wg.Entropy(1.0) + WELL, rho, 1.0, tau, estimate_bias=False).final for tau in taus]
    for errors in ([abs(f.mean() - mean) for f in finals], [abs(f.cov() - variance) for f in finals]):
        slope = np.polyfit(np.log(taus), np.log(errors), 1)[0]
        assert slope == pytest.approx(1.0, abs=0.12)


# -------------------------------------------------------------------- beside the quantile solver
COMPARED = {
    "double well": (wg.Entropy(10.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2), 0.1, 1e-3),
    "double well, one long step": (wg.Entropy(20.0) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2), 5.0, 1e-3),
    "repulsion": (wg.Entropy(20.0) + wg.Interaction(lambda x, y: (x - y) ** 2 / 2 - np.abs(x - y)), 0.3, 1e-3),
    "attraction, long": (wg.Entropy(4.0) + wg.Interaction(lambda d: d**2 / 2), 5.0, 1e-3),
    "porous medium": (PowerEntropy(3.0) + WELL, 0.1, 1e-3),
    "fast diffusion": (PowerEntropy(0.6) + WELL, 0.1, 1e-3),
    "three diffusions": (wg.Entropy(5.0) + PowerEntropy(3.0) + 0.3 * PowerEntropy(0.6) + WELL, 0.1, 1e-3),
    "no diffusion": (wg.Potential(lambda x: x**4 / 4 - x**2 / 2), 0.1, 1e-3),
}


@pytest.mark.parametrize("name", COMPARED)
def test_agrees_with_the_quantile_solver(name):
    energy, tau, tolerance = COMPARED[name]
    rho = wg.Density.gaussian(wg.Grid([(-5, 5)], cells=200), 0.5, 0.4)
    ours = solve(energy, rho, 2 * tau, tau, estimate_bias=False)
    # Quantile cells must be fine where they are torn apart.
    other = wg.solve(energy, rho, (0, 2 * tau), wg.JKO(tau=tau, inner="quantile", options={"cells": 1600}))
    assert ours.final.mean() == pytest.approx(other.final.mean(), abs=tolerance)
    assert math.sqrt(ours.final.cov()) == pytest.approx(math.sqrt(other.final.cov()), abs=tolerance)
    for mine, theirs in zip(ours.jko_steps, other.jko_steps):
        assert mine.w2_squared == pytest.approx(theirs.w2_squared, rel=5e-3, abs=1e-4)


def test_noisy_kuramoto_on_the_circle():
    grid = wg.Grid([(0, 2 * np.pi)], cells=64, boundary="periodic")
    energy = wg.Entropy(2.0) + wg.Interaction(lambda d: -2 * np.cos(d))
    rho = wg.Density.from_function(grid, lambda x: 1 + 0.2 * np.cos(x))
    sols = [solve(energy, rho, 1.0, tau, estimate_bias=False).final for tau in (0.05, 0.025)]
    r = [math.hypot(f.expect(np.cos), f.expect(np.sin)) for f in sols]
    # The value of the flow, by extrapolation in tau.
    assert 2 * r[1] - r[0] == pytest.approx(0.163475234796, abs=2e-4)


# -------------------------------------------------------------------- small epsilon, hard starts
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("ratio", [1e-1, 1e-2, 1e-3])
def test_small_epsilon_loses_neither_mass_nor_density(debiased, ratio):
    grid = wg.Grid([(-4, 4)], cells=60)
    rho = wg.Density.gaussian(grid, 0.5, 0.5)
    epsilon = ratio * grid.widths[0][0] ** 2
    with pytest.warns(wg.WGFlowWarning, match="locked to its cells"):
        sol = solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1, epsilon=epsilon, debiased=debiased, estimate_bias=False)
    assert sol.final.mass == pytest.approx(1.0, abs=1e-13)
    assert (sol.final.values > 0).all()
    # Mass moves from cell to cell only where that pays, but the law is neither gone nor elsewhere.
    assert abs(sol.final.mean() - 0.5 / 1.1) < 0.1
    assert sol.final.cov() == pytest.approx(exact_std(math.sqrt(rho.cov()), 0.1) ** 2, abs=0.1)


def test_far_transport_at_a_small_epsilon():
    # The law moves by 30 times the width of the kernel: a band around the diagonal would find nothing.
    grid = wg.Grid([(-1, 7)], cells=400)
    rho = wg.Density.gaussian(grid, 0.0, 0.04)
    energy = wg.Entropy(100.0) + wg.Potential(lambda x: 5 * (x - 5) ** 2)
    sol = solve(energy, rho, 1.0, 1.0)
    assert sol.final.mean() == pytest.approx(50 / 11, abs=1e-4)
    assert math.sqrt(sol.final.cov()) == pytest.approx(exact_std(math.sqrt(rho.cov()), 1.0, 0.01, 10.0), abs=1e-3)
    assert sol.final.mass == pytest.approx(1.0, abs=1e-13)


def test_starts_with_gaps():
    grid = wg.Grid([(-3, 3)], cells=120)
    rho = wg.Density.from_function(grid, lambda x: ((np.abs(x - 1) < 0.5) | (np.abs(x + 1.2) < 0.3)).astype(float))
    sol = solve(wg.Entropy(5.0) + WELL, rho, 0.2, 0.05)
    other = wg.solve(wg.Entropy(5.0) + WELL, rho, (0, 0.2), wg.JKO(tau=0.05, options={"cells": 1600}))
    assert sol.final.mean() == pytest.approx(other.final.mean(), abs=1e-4)
    assert sol.final.cov() == pytest.approx(other.final.cov(), abs=1e-3)
    one = np.zeros(120)
    one[40] = 1.0
    sol = solve(wg.Entropy(5.0) + WELL, wg.Density.from_values(grid, one, normalize=True), 0.2, 0.05)
    assert sol.final.mass == pytest.approx(1.0, abs=1e-13)


def test_fronts_move_into_empty_cells():
    grid = wg.Grid([(-3, 3)], cells=150)
    rho = wg.Density.from_function(grid, lambda x: np.maximum(0.25 - x**2, 0))
    sol = solve(PowerEntropy(2.0), rho, 0.5, 0.05, estimate_bias=False)
    other = wg.solve(1.0 * PowerEntropy(2.0), rho, (0, 0.5), wg.JKO(tau=0.05, options={"cells": 800}))
    assert math.sqrt(sol.final.cov()) == pytest.approx(math.sqrt(other.final.cov()), abs=1e-3)


def test_a_weighted_grid_has_its_gibbs_law():
    # The radius of a normal law in 5 dimensions: density r^4 exp(-r^2/2).
    grid = wg.Grid([(0, 8)], cells=160, log_weight=log_power_cell_average(np.linspace(0, 8, 161), 4))
    sol = solve(wg.Entropy(1.0) + WELL, wg.Density.gaussian(grid, 3.0, 0.3), 8.0, 0.4, estimate_bias=False)
    assert sol.final.expect(lambda r: r**2) == pytest.approx(5.0, rel=2e-3)


# -------------------------------------------------------------------- three axes
def test_three_axes():
    grid = wg.Grid([(-3, 3)] * 3, cells=16)
    rho = wg.Density.gaussian(grid, (0.5, 0.0, -0.5), 0.3)
    start = rho.cov()[0, 0]
    sol = solve(wg.Entropy(1.0) + wg.Potential(lambda x, y, z: (x**2 + y**2 + z**2) / 2), rho, 0.2, 0.2)
    assert sol.final.mean() == pytest.approx(np.array([0.5, 0.0, -0.5]) / 1.2, abs=1e-3)
    epsilon = sol.jko_steps[-1].extras["epsilon"]
    variances = np.diag(sol.final.cov())
    assert variances == pytest.approx(debiased_variance(math.sqrt(start), 0.2, epsilon), abs=1e-3)
    assert sol.final.mass == pytest.approx(1.0, abs=1e-13)


# -------------------------------------------------------------------- what every step reports
@settings(max_examples=12, deadline=None)
@given(mean=st.floats(-1, 1), variance=st.floats(0.05, 0.6), beta=st.floats(0.5, 30), tau=st.floats(0.01, 2),
       tilt=st.floats(-1, 1), mass=st.floats(0.1, 9), debiased=st.booleans(), attraction=st.floats(-0.5, 1))
def test_mass_sign_and_energy(mean, variance, beta, tau, tilt, mass, debiased, attraction):
    grid = wg.Grid([(-4, 4)], cells=80)
    rho = wg.Density(grid, mass * wg.Density.gaussian(grid, mean, variance).values)
    energy = (wg.Entropy(beta) + wg.Potential(lambda x: x**4 / 4 - x**2 / 2 + tilt * x)
              + wg.Interaction(lambda d: attraction * np.cos(d)))
    sol = solve(energy, rho, 2 * tau, tau, debiased=debiased, estimate_bias=False)
    before = energy(rho)
    for step in sol.jko_steps:
        assert step.residual <= 1e-8
        assert step.gap >= 0
        assert step.w2_squared >= 0
        excess = step.energy + step.w2_squared / (2 * step.tau) - before
        blur = 0.0 if debiased else max(0.0, step.blur)
        assert excess <= blur + 1e-11 * max(1.0, abs(before))
        before = step.energy
    assert sol.final.mass == pytest.approx(mass, rel=1e-13)
    assert sol.final.values.min() >= 0
    assert sol.energy[-1] == pytest.approx(energy(sol.final), rel=1e-12)


def test_a_run_is_the_same_in_pieces():
    # What is carried along only warms the start up.
    rho = wg.Density.gaussian(wg.Grid([(-4, 4)], cells=100), 1, 0.25)
    energy = wg.Entropy(2.0) + WELL
    whole = solve(energy, rho, 0.4, 0.1).final
    half = solve(energy, solve(energy, rho, 0.2, 0.1).final, 0.2, 0.1).final
    assert np.abs(whole.values - half.values).max() < 1e-6


def test_failure_keeps_the_best_iterate():
    rho = wg.Density.gaussian(wg.Grid([(-4, 4)], cells=100), 1, 0.25)
    with pytest.raises(wg.ConvergenceError, match="inner='entropic'") as caught:
        solve(wg.Entropy(2.0) + WELL, rho, 1.0, 0.5, method_options={"max_iterations": 1, "tol": 1e-12})
    assert caught.value.best.density.mass == pytest.approx(1.0, abs=1e-13)
    assert caught.value.best.residual > 1e-12


# -------------------------------------------------------------------- bad input
@pytest.mark.parametrize(("options", "match"), [
    ({"epsilon": 0.0}, "epsilon=0"),
    ({"epsilon": -1.0}, "epsilon=-1"),
    ({"epsilon": math.nan}, "epsilon=nan"),
    ({"epsilon": math.inf}, "epsilon=inf"),
    ({"epsilon": "small"}, "epsilon must be a number, got str 'small'"),
    ({"epsilon": True}, "epsilon must be a number, got bool True"),
    ({"debiased": 1}, "debiased=1"),
    ({"estimate_bias": None}, "estimate_bias=None"),
    ({"debias": True}, "did you mean 'debiased'"),
])
def test_bad_options(options, match):
    rho = wg.Density.gaussian(wg.Grid([(-4, 4)], cells=20), 0, 1)
    with pytest.raises(wg.InvalidInput, match=match):
        solve(wg.Entropy(1.0) + WELL, rho, 0.1, 0.1, **options)


def test_grids_and_energies_that_it_cannot_serve():
    grid = wg.Grid(edges=[0, 1, 3, 4])
    with pytest.raises(wg.InvalidInput, match="uniform grid"):
        solve(wg.Entropy(1.0) + WELL, wg.Density.uniform(grid), 0.1, 0.1)
    with pytest.raises(wg.InvalidInput, match="1 to 3 axes"):
        solve(1.0 * wg.Entropy(1.0), wg.Density.uniform(wg.Grid([(0, 1)] * 4, cells=3)), 0.1, 0.1)
    circle = wg.Grid([(0, 1)], cells=20, boundary="periodic")
    with pytest.raises(wg.InvalidInput, match="an eighth of the period"):
        solve(1.0 * wg.Entropy(1.0), wg.Density.uniform(circle), 0.1, 0.1, epsilon=0.1)
    with pytest.raises(wg.InvalidInput, match="order"):
        solve(wg.Entropy(1.0) + WELL, wg.Density.gaussian(wg.Grid([(-4, 4)], cells=20), 0, 1), 0.1, 0.1,
              method_options={"order": 2})


def test_no_warning_without_cause():
    rho = wg.Density.gaussian(wg.Grid([(-4, 4)], cells=64), 0.3, 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(PowerEntropy(0.7) + PowerEntropy(2.0) + WELL, rho, 0.2, 0.1)
        solve(wg.Entropy(50.0) + WELL, rho, 1.0, 0.5)
