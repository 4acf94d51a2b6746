"""Means of SGD extrapolated to its limit: exact on expansions, at the level on Gaussian runs; wrong flows are found."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from wgflow.atoms import Atoms
from wgflow.reduced_models import ReLUNetwork
from wgflow.validation.fluctuations import Scatter
from wgflow.validation.particles import SGDResult
from wgflow.validation.studies.extrapolated_means import (
    NAMES,
    NO_LAG,
    Lag,
    extrapolate,
    functionals_of_flow,
    neglected,
)

MODEL = ReLUNetwork(d=20, s0=5, delta=0.4)
T = np.array([0.0, 1.0, 2.0, 3.0])
POINT = np.array([[0.9, 0.4, 1.6, 1.7]]).T
FLOW = SimpleNamespace(density=lambda t: Atoms(POINT, np.ones(1)), densities=[])
STEP, WIDTH = 1e-3, 40
#: Of the functionals of one run of the finest kind; a and b start at a point.
DEVIATION = np.array([0.02, 0.01, 0.03, 0.02, 0.05])[:, None] * np.array([0.0, 1.0, 1.5, 2.0])
KINDS = (1, 2, 4)


def scatter():
    """Functionals that are independent of one another, and at neighboring times correlated by 0.8."""
    time = np.where(np.isclose(T[:, None], T), 1.0, 0.8)
    covariance = np.einsum("it,ju,ij,tu->itju", DEVIATION, DEVIATION, np.eye(len(NAMES)), time)
    return Scatter(T, ("mean of a", "mean of b", "r1sq", "r2sq", "risk"), np.zeros(DEVIATION.shape), WIDTH, STEP,
                   0.5 * WIDTH * covariance, 0.5 / STEP * covariance, 0.0 * covariance)


def gaussian(rng, n_runs):
    """Departures of the functionals of a run of the finest kind, (functionals, runs, times)."""
    common, own = rng.standard_normal((2, len(NAMES), n_runs, T.size))
    return DEVIATION[:, None, :] * (math.sqrt(0.8) * common[..., :1] + math.sqrt(0.2) * own)


def runs(kind, values, t=T):
    """A result of SGD whose functionals are given, (functionals, runs, times): its neurons are all alike."""
    coordinates = np.stack([values[0], values[1], np.sqrt(values[2]), np.sqrt(values[3])], axis=-1)[:, :, None, :]
    return SGDResult(t=t, steps=np.rint(t / (kind * STEP)).astype(int), theta=None, n_neurons=WIDTH // kind,
                     step_size=kind * STEP, seed_entropy=0, seed_state={}, model=MODEL, beta=math.inf, ridge=0.0,
                     coordinates=np.repeat(coordinates, WIDTH // kind, axis=2), risk=values[4])


def kinds_of(rng, counts=(3, 4, 4), linear=0.0, square=0.0, cube=0.0, noise=1.0):
    flow = functionals_of_flow(FLOW, MODEL, T)
    grown = T / T[-1]
    return [runs(h, flow[:, None, :] + (linear * h + square * h**2 + cube * h**3) * grown
                 + noise * math.sqrt(h) * gaussian(rng, n)) for h, n in zip(KINDS, counts)]


def test_biases_of_first_and_second_order_leave_nothing():
    kinds = kinds_of(np.random.default_rng(1), linear=0.05, square=0.01, noise=1e-9)
    found = extrapolate(FLOW, MODEL, kinds, scatter(), 0.01)
    np.testing.assert_allclose(found.limit, found.flow, atol=1e-8)
    np.testing.assert_allclose(found.bias, np.broadcast_to(0.06 * T / T[-1], found.flow.shape), atol=1e-7)


def test_what_the_third_order_leaves_is_in_the_band():
    # The terms of second and third order are equal at the coarsest kind: the expansion is at the end of its use.
    kinds = kinds_of(np.random.default_rng(1), linear=0.05, square=0.02, cube=0.005, noise=1e-9)
    found = extrapolate(FLOW, MODEL, kinds, scatter().rescaled(step_size=1e-15), 0.01)
    assert np.abs(found.limit - found.flow)[:, -1] == pytest.approx(8 * 0.005)
    assert found.inside.all()


DESCENTS = {
    "logistic": expit,
    "squared": lambda x: expit(x) ** 2,
    "sharp at its beginning": lambda x: np.exp(-np.exp(-x)),
    "sharp at its end": lambda x: 1.0 - np.exp(-np.exp(x)),
}


@pytest.mark.parametrize("descent", DESCENTS.values(), ids=list(DESCENTS))
@pytest.mark.parametrize("size", [0.4, 1.0, 2.0])
def test_what_a_delayed_descent_leaves_is_bounded_within_the_lag(descent, size):
    # All functionals make the same descent, in units of its e-folding time; kind h is late by h quarters of the lag.
    t = np.linspace(0.0, 26.0, 521)
    late = {h: descent(t - 12.0 - size * h / 4.0) for h in (0, *KINDS)}
    kinds = [runs(h, np.broadcast_to(late[h], (len(NAMES), 1, t.size)), t) for h in KINDS]
    off = np.abs((8.0 * late[1] - 6.0 * late[2] + late[4]) / 3.0 - late[0])
    large = off > 0.001 * off.max()
    found, at_the_time = (neglected(kinds, t, lag)[0, large] for lag in (Lag(size, 4.0), NO_LAG))
    assert (off[large] <= found).all()
    # Where the curvature that is measured changes sign, nothing of it is left to bound the remainder at that time.
    assert (off[large] > at_the_time).any()
    assert found.max() == pytest.approx(at_the_time.max())


def test_the_lag_of_a_descent_widens_the_bands_near_it_alone():
    # Curvature at t = 3 alone: it reaches back to 2 for a lag of 1, and before T for less.
    bend = np.array([0.0, 0.0, 0.0, 0.09])
    kinds = [runs(h, np.broadcast_to(0.5 + h**2 * bend, (len(NAMES), 1, T.size))) for h in KINDS]
    for lag, width in ((NO_LAG, [0, 0, 0, 1]), (Lag(1.0, 1.0), [0, 0, 1, 1]), (Lag(1.0, 2.5), [0, 0, 0, 1]),
                       (Lag(2.0, 1.0), [0, 1, 1, 1])):
        found = neglected(kinds, T, lag)
        np.testing.assert_allclose(found, np.broadcast_to(0.18 * np.array(width), found.shape), atol=1e-12)


def test_right_flows_are_seldom_refused_and_wrong_ones_found():
    rng, level, repeats = np.random.default_rng(5), 0.2, 80
    found = [extrapolate(FLOW, MODEL, kinds_of(rng, linear=0.03), scatter(), level) for _ in range(repeats)]
    expected = DEVIATION * math.sqrt(64 / 3 + 72 / 4 + 4 / 4) / 3
    np.testing.assert_allclose(np.std([each.limit for each in found], axis=0), expected, rtol=0.3, atol=1e-12)
    np.testing.assert_allclose(found[0].deviation, expected, rtol=1e-6, atol=1e-12)
    # The allowance for what is neglected makes alarms rarer: it is the bare bands that have the level.
    bare = sum(bool(np.any(np.abs(each.limit - each.flow) > each.factor * each.deviation + 1e-9)) for each in found)
    assert sum(not each.inside.all() for each in found) <= bare
    low, high = binom.ppf([1e-3, 1 - 1e-3], repeats, level)
    assert low <= bare <= high
    wrong = SimpleNamespace(density=lambda t: Atoms(POINT + 0.3 * t / T[-1], np.ones(1)))
    assert not extrapolate(wrong, MODEL, kinds_of(rng), scatter(), 0.01).check("wrong").passed


def test_runs_that_scatter_more_than_predicted_widen_their_own_bands():
    rng = np.random.default_rng(7)
    wild = [runs(h, np.concatenate([own[:4], own[4:] + math.sqrt(h) * rng.normal(size=(1, own.shape[1], 1))]))
            for h, own in zip(KINDS, (functionals_of_flow(FLOW, MODEL, T)[:, None, :] + math.sqrt(h) * gaussian(rng, n)
                                      for h, n in zip(KINDS, (3, 4, 4))))]
    found = extrapolate(FLOW, MODEL, wild, scatter(), 0.01)
    assert list(found.more) == ["R"]
    assert "more scatter than predicted: R" in found.check("here").text
    plain = extrapolate(FLOW, MODEL, kinds_of(rng), scatter(), 0.01)
    assert plain.more == {}
    np.testing.assert_allclose(found.deviation[:4], plain.deviation[:4])
    assert (found.deviation[4] > 3.0 * plain.deviation[4]).all()
