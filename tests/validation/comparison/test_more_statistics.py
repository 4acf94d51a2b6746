"""Energy distance, maximum mean discrepancy and bounded Lipschitz functions; what cannot speak is left out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binom
from scipy.stats import energy_distance as scipy_energy_distance

import wgflow as wg
from wgflow.errors import InvalidInput
from wgflow.validation import (
    STATISTICS,
    BoundedLipschitz,
    EnergyDistance,
    MaximumMeanDiscrepancy,
    compare,
    energy_distance,
    maximum_mean_discrepancy,
    sliced_wasserstein,
    wasserstein_points,
)
from wgflow.validation.comparison.marginal_laws import MarginalLaw

MORE = (EnergyDistance(), MaximumMeanDiscrepancy(), BoundedLipschitz())


def law_of(mean=0.3, variance=0.8, cells=300):
    return MarginalLaw.from_density(wg.Density.gaussian(wg.Grid((-6, 6), cells=cells), mean, variance))


def samples(seed=3, n=40):
    return np.sort(np.random.default_rng(seed).normal(size=(3, n)), axis=1)


# ------------------------------------------------------------------ readable twins
def test_energy_distance_is_the_integral_of_the_squared_gap():
    law, x = law_of(), samples()
    grid = np.linspace(-8, 8, 400_001)
    for row, got in zip(x, EnergyDistance().value(x, law)):
        gap = np.searchsorted(row, grid, side="right") / row.size - law.cdf(grid)
        assert got == pytest.approx(math.sqrt(2 * np.trapezoid(gap**2, grid)), rel=1e-4)


def test_energy_distance_of_samples_is_that_of_scipy():
    x, y = samples(1), samples(2, n=70)[0]
    for row, got in zip(x, EnergyDistance().value(x, MarginalLaw.from_sorted(y))):
        assert got == pytest.approx(scipy_energy_distance(row, y), rel=1e-10)


def test_maximum_mean_discrepancy_by_pairs():
    x, y = samples(1), samples(2, n=70)[0]
    law = MarginalLaw.from_sorted(y)
    for row, got in zip(x, MaximumMeanDiscrepancy(nodes=40).value(x, law)):
        kernel = [np.exp(-0.5 * ((a[:, None] - b) / law.deviation) ** 2).mean()
                  for a, b in ((row, row), (row, y), (y, y))]
        assert got == pytest.approx(math.sqrt(kernel[0] - 2 * kernel[1] + kernel[2]), rel=1e-6)


def test_bounded_lipschitz_by_its_ramps():
    x, law = samples(), law_of()
    found = BoundedLipschitz(ramps=5).value(x, law)
    points = law.points(200_000)
    for row, got in zip(x, found):
        ramps = [np.clip((row - c) / law.deviation, -1, 1).mean() - np.clip((points - c) / law.deviation, -1, 1).mean()
                 for c in law.points(5)]
        assert got == pytest.approx(np.abs(ramps).max(), abs=1e-5)


@pytest.mark.parametrize("statistic", MORE)
def test_a_point_mass(statistic):
    law = MarginalLaw.from_sorted(np.full(4, 0.7))
    assert_allclose(statistic.value(np.full((2, 10), 0.7), law), 0.0, atol=1e-7)
    assert np.all(statistic.value(np.full((2, 10), 0.9), law) > 0.1)


# ------------------------------------------------------------------ in a comparison
def flow(times=(0.0, 0.5), shift=0.0):
    grid = wg.Grid((-6, 6), cells=300, names=["x"])
    return SimpleNamespace(t=np.array(times), densities=[wg.Density.gaussian(grid, shift, 0.8)] * len(times),
                           density=lambda t: wg.Density.gaussian(grid, shift, 0.8))


def null_runs(seed, runs, count=100, times=2):
    return np.random.default_rng(seed).normal(0.0, math.sqrt(0.8), size=(runs, times, count, 1))


@pytest.mark.parametrize(("runs", "seeds"), [(1, 200), (3, 100), (8, 40)])
def test_false_alarms_are_at_the_stated_level(alarms, runs, seeds):
    """Comparisons of the null law with itself at level .05: the number of alarms within its binomial error."""
    particles = np.array([0.0, 0.5]), null_runs(7, runs * seeds, 60)
    found, _ = alarms(flow(), particles, runs, (0.05,), statistics=(*STATISTICS, *MORE), n_null=400)
    # The error of the quantile over 400 replicates is .01.
    assert found.sum() <= binom.ppf(0.999, seeds, 0.07)


def test_each_finds_a_shift():
    for statistic in MORE:
        particles = np.array([0.0, 0.5]), null_runs(5, 5, 180)
        wrong = compare(flow(shift=0.4), particles, statistics=[statistic], n_null=200)
        right = compare(flow(), particles, statistics=[statistic], n_null=200)
        assert right.passed, right.table()
        assert not wrong.passed


def test_what_cannot_fail_is_left_out_and_named():
    """A readout weight that starts at 1 everywhere: atoms at one place allow any Kolmogorov distance up to 1."""
    atoms = wg.Atoms(np.stack([np.ones(200), np.linspace(0.0, 1.0, 200)]), np.full(200, 1 / 200), names=["a", "r"])
    sol = SimpleNamespace(t=np.array([0.0]), densities=[atoms], density=lambda t: atoms)
    x = np.stack([np.ones((3, 1, 50)), np.random.default_rng(1).uniform(size=(3, 1, 50))], axis=-1)
    result = compare(sol, (np.array([0.0]), x), n_null=200)
    assert "Kolmogorov of a" not in result.quantities
    assert "Kolmogorov of r" in result.quantities
    assert "Kolmogorov of a was left out: its band reaches 1" in result.verdict
    assert "100 % of its band" not in result.verdict
    assert result.passed
    assert result.mute.shape == (len(result.quantities), 1)


# ------------------------------------------------------------------ clouds
def test_clouds_in_the_plane():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 2)), rng.normal(size=(80, 2)) + [1.0, 0.0]
    pairs = [np.linalg.norm(a[:, None] - b, axis=2).mean() for a, b in ((x, y), (x, x), (y, y))]
    assert energy_distance(x, y) == pytest.approx(math.sqrt(2 * pairs[0] - pairs[1] - pairs[2]), rel=1e-12)
    assert energy_distance(x, x) == maximum_mean_discrepancy(x, x) == sliced_wasserstein(x, x) == 0.0
    assert maximum_mean_discrepancy(x, y, 1e6) < 1e-5 < maximum_mean_discrepancy(x, y)
    # A shift by e: W_2 of a projection is |<e, direction>|, and its mean square 1/2 in the plane.
    assert sliced_wasserstein(x, x + [1.0, 0.0], directions=2000) == pytest.approx(math.sqrt(0.5), rel=0.03)
    assert sliced_wasserstein(x, y[:60]) < wasserstein_points(x, y[:60])


@pytest.mark.parametrize("distance", [energy_distance, maximum_mean_discrepancy, sliced_wasserstein])
def test_clouds_that_are_none(distance):
    with pytest.raises(InvalidInput, match="coordinates"):
        distance(np.zeros((3, 2)), np.zeros((3, 3)))
    with pytest.raises(InvalidInput, match="finite"):
        distance([0.0, np.nan], [1.0])
    with pytest.raises(InvalidInput, match="n >= 1"):
        distance(np.zeros((0, 2)), np.zeros((3, 2)))
