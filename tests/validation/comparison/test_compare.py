"""Comparison of density and particles: it passes where it must, and fails where the PDE is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom
from scipy.stats import t as student

from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.validation import compare, kolmogorov, wasserstein_1d
from wgflow.validation.comparison import bands
from wgflow.validation.comparison.first_order_bias import first_order_bias
from wgflow.validation.comparison.marginal_laws import MarginalLaw
from wgflow.validation.comparison.null_law import fits_of, laws_at, quantities_of
from wgflow.validation.comparison.particle_runs import particle_runs
from wgflow.validation.comparison.small_samples import borrowed, observed_scatter
from wgflow.validation.comparison.statistics import STATISTICS, Kolmogorov, Mean, Runs, Wasserstein

TIMES = np.array([0.0, 0.1, 0.3, 1.0, 3.0])
M0, S0, D = 2.0, 0.25, 0.5


def flow(*, mean=M0, var=S0, stiffness=1.0, pull=0.0, speed=1.0, noise=D, times=TIMES, cells=300):
    """Exact densities of V = k x^2/2, U = pull |x-y|^2/2: mean decays with k, variance with k + pull."""
    grid = Grid((-5, 7), cells=cells, names=["r"])
    total = stiffness + pull

    def density(t):
        s = speed * t
        variance = var * np.exp(-2 * total * s) + noise / total * (1 - np.exp(-2 * total * s))
        return Density.gaussian(grid, mean * np.exp(-stiffness * s), variance)

    return SimpleNamespace(t=times, density=density)


def particles(seed, *, runs=3, count=400, pull=0.0, common=0.0, times=TIMES):
    """Langevin particles of the same flow, stepped exactly; ``common`` is noise that a run's particles share."""
    rng = np.random.default_rng(seed)
    x = M0 + np.sqrt(S0) * rng.normal(size=(runs, count))
    out, total = [x], 1.0 + pull
    for dt in np.diff(times):
        m = x.mean(axis=1, keepdims=True)
        fall, rest = np.exp(-dt), np.exp(-total * dt)
        kick = np.sqrt(D / total * (1 - rest**2)) * rng.normal(size=x.shape)
        kick_mean = kick.mean(axis=1, keepdims=True)
        # Center of mass and deviations from it relax at rates 1 and 1 + pull; the kicks likewise.
        spread = np.sqrt((1 - fall**2) * total / (1 - rest**2))
        x = m * fall + spread * kick_mean + (x - m) * rest + kick - kick_mean
        x = x + common * np.sqrt(1 - fall**2) * rng.normal(size=(runs, 1))
        out.append(x)
    return SimpleNamespace(t=times, coordinates=np.stack(out, axis=1)[..., None])


class OneFeature:
    """A network with the single feature theta and target b: R = (mean - b)^2, U = theta theta', V = -b theta."""

    name, coordinate_names, n_parameters = "one feature", ("theta",), 1

    def __init__(self, target):
        self.target = target

    def risk(self, rho):
        return (rho.mean() - self.target) ** 2

    def energy(self):
        def first_variation(rho):
            return rho.grid.centers[0] * (rho.mean() - self.target)

        return SimpleNamespace(first_variation=first_variation)

    def finite_width_excess(self, rho):
        return rho.cov()

    def measure(self, sgd):
        return (sgd.coordinates[..., 0].mean(axis=2) - self.target) ** 2


def test_statistics_agree_with_the_distances_module():
    rho = flow(cells=37).density(0.3)
    x = np.random.default_rng(51).normal(1.5, 0.6, size=(2, 3, 11))
    law, runs = MarginalLaw.from_density(rho), Runs(x)
    got = {each.name: (each.fit(runs, law), each.spread(runs, law)) for each in STATISTICS}
    for s in range(2):
        pooled = x[s].ravel()
        assert got["W1"][0][s] == pytest.approx(wasserstein_1d(pooled, rho, 1), rel=1e-12)
        assert got["W2"][0][s] == pytest.approx(wasserstein_1d(pooled, rho, 2), rel=1e-12)
        assert got["Kolmogorov"][0][s] == pytest.approx(kolmogorov(pooled, rho), rel=1e-12)
        for name, distance in (("W1", lambda a, b: wasserstein_1d(a, b, 1)), ("W2", wasserstein_1d),
                               ("Kolmogorov", kolmogorov)):
            spread = np.mean([distance(run, pooled) ** 2 for run in x[s]])
            assert got[name][1][s] == pytest.approx(spread, rel=1e-11)
        assert got["mean"][0][s] == pytest.approx(pooled.mean() - rho.mean(), abs=1e-13)
        assert got["mean"][1][s] == pytest.approx(x[s].mean(axis=1).var(ddof=1), rel=1e-12)
        assert got["deviation"][0][s] == pytest.approx(
            x[s].std(axis=1).mean() - np.sqrt(rho.cov() + rho.grid.widths[0][0] ** 2 / 12), abs=1e-12)


def test_excess_variance_formula():
    spread, null = np.array([1.0, 4.0, 2.0]), np.ones(3)
    _, start = observed_scatter(5, 3, 2, 0.02)
    # Sidak's share of the level for two modes at three times; phi = 1, 4, 2 with median 2: phi~ = 1.5, 4, 2.
    level = 1.0 - (1.0 - 0.02) ** (1 / 6)
    expected = student.ppf(1.0 - level / 2, 4) ** 2 * (np.array([1.5, 4.0, 2.0]) - start)
    np.testing.assert_allclose(bands.excess_variance(spread, null, 5, 2, 0.02), expected, rtol=1e-10)
    np.testing.assert_array_equal(bands.excess_variance(0.3 * null, null, 5, 2, 0.02), 0.0)
    np.testing.assert_array_equal(bands.excess_variance(spread, null, 1, 2, 0.02), 0.0)
    assert bands.excess_factor(1, 1, 0.02) == pytest.approx(ndtri(0.995) ** 2, rel=1e-12)


@pytest.mark.parametrize("n_runs", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_bands_of_observed_scatter_hold_for_any_scatter(n_runs, level):
    """Fits with the variance phi about 0, phi unknown: drawn here, by quadrature where the bands are computed."""
    times, draws, rng = 4, 40_000, np.random.default_rng(n_runs)
    each = 1.0 - (1.0 - level) ** (1 / times)
    k, start = observed_scatter(n_runs, times, 1, level)
    c = ndtri(1.0 - each / 2)
    allowed = level + 4.0 * math.sqrt(level / draws)
    for phi in (1.0, 2.0, 5.0, 12.0, 40.0, 1e4):
        for independent in (True, False):
            shape = (draws, times if independent else 1)
            fit = math.sqrt(phi) * rng.normal(size=shape)
            seen = phi * rng.chisquare(n_runs - 1, size=shape) / (n_runs - 1)
            band = np.sqrt(c**2 + k**2 * np.maximum(0.0, borrowed(seen) - start))
            assert np.mean(np.any(np.abs(fit) > band, axis=1)) <= allowed
    # More runs know the scatter better; no more than Student's law asks for is given away.
    assert start > observed_scatter(n_runs, times, 1, level / 10)[1]
    assert observed_scatter(n_runs + 1, times, 1, level)[1] > start


def test_broadening_formula():
    law = MarginalLaw.from_density(Density.gaussian(Grid((-8, 8), cells=800), 0.0, 1.0))
    by_name = {each.name: each for each in STATISTICS}
    # Runs whose means scatter with variance 1.25 above what chance gives make N(0, 1) an N(0, 2.25) when pooled.
    assert by_name["W2"].broadening(law, 1.25, 1.25) == pytest.approx(0.5, rel=1e-4)
    assert by_name["W1"].broadening(law, 0.0, 1.25) == 0.0
    assert by_name["Kolmogorov"].broadening(law, 0.04, 0.0) == pytest.approx(0.08, rel=1e-14)
    assert by_name["mean"].broadening(law, 1.25, 1.25) == 0.0


@pytest.mark.parametrize(("pull", "common"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.03), (1.0, 0.1)])
def test_a_true_match_passes(pull, common):
    for seed in (61, 63, 65):
        runs = particles(seed, count=200, pull=pull, common=common)
        assert compare(flow(pull=pull), runs, n_null=200, rng=seed).passed


@pytest.mark.parametrize("n_runs", [2, 3, 5, 10])
def test_false_alarms_are_as_rare_as_the_level_says(alarms, n_runs):
    """Shared noise from far below 1/sqrt(N) to far above it: where it is as large as that, few runs may not show it."""
    sets, levels = (200 if n_runs < 5 else 100), (0.05, 0.5)
    for common in (0.0, 0.1, 0.2, 1.0) if n_runs < 5 else (0.0, 0.15):
        runs = particles(1000 + n_runs, runs=n_runs * sets, count=60, common=common)
        found, _ = alarms(flow(), runs, n_runs, levels, n_null=500)
        # The quantile over 500 replicates is that of a level of .05 +- .01.
        assert found[0].sum() <= binom.ppf(0.998, sets, 0.06)
        # What few runs must allow for makes them rarer; many runs cost little.
        assert found[1].sum() >= (0 if n_runs < 10 else binom.ppf(0.002, sets, 0.3))


@pytest.mark.parametrize(("wrong", "first"), [
    ({"speed": 1.1}, 0.3), ({"speed": 0.9}, 0.3), ({"mean": 2.15}, 0.0), ({"var": 0.36}, 0.0), ({"noise": 0.65}, 0.3),
    ({"pull": 0.5}, 0.3),
])
def test_a_wrong_equation_fails(wrong, first):
    result = compare(flow(**wrong), particles(71, runs=5, count=480), n_null=200)
    assert not result.passed
    assert result.verdict.startswith("FAIL")
    # Nothing is flagged before the error can be seen: it grows from t = 0 on, unless the start itself is wrong.
    assert result.inside[:, first > TIMES].all()


def test_the_risk_has_its_own_band():
    model = OneFeature(target=0.5)
    sgd = particles(73, runs=5, count=240)
    sgd.risk, sgd.model = model.measure(sgd), model
    result = compare(flow(), sgd, n_null=200)
    assert result.passed
    assert result.quantities[-1] == "risk"
    assert [q.split(" of ")[1] for q in result.quantities[:-1]] == ["theta"] * 5
    # At t = 0, N(2, .25): Psi = theta (2 - .5), so R_N - R has the deviation 2 * 1.5 * .5 / sqrt(3 * 400).
    deviation = 3.0 * 0.5 / np.sqrt(5 * 240)
    excess = model.finite_width_excess(flow().density(0)) / 240 * bands.excess_factor(5, 1, 0.01)
    # The density changes by h |x - m| / var from cell to cell, and Psi has the slope 1.5: h E[u] 1.5.
    half_cell = (12 / 300) ** 2 * 1.5 * np.sqrt(2 / np.pi) / S0**0.5
    factor = (result.upper[-1, 0] - excess - half_cell) / (deviation * result.inflation[-1, 0])
    assert 3.0 < factor < 5.0
    assert result.upper[-1, 0] + result.lower[-1, 0] == pytest.approx(excess, rel=1e-9)
    # A risk that is off by 10 deviations, or measured for another target, is seen.
    sgd.risk = sgd.risk + 10 * deviation + half_cell
    assert not compare(flow(), sgd, n_null=200).inside[-1].all()
    sgd.risk = model.measure(sgd)
    sgd.model = OneFeature(target=0.7)
    wrong = compare(flow(), sgd, n_null=200)
    assert wrong.inside[:-1].all()
    assert not wrong.inside[-1].all()


def test_the_excess_of_narrow_networks_is_explained_not_flagged():
    # At the optimum Psi = 0: the whole difference is the excess var/N. Without the K/N part this would fail.
    grid = Grid((-4, 4), cells=400)
    rho, model = Density.gaussian(grid, 0.0, 1.0), OneFeature(target=0.0)
    rng = np.random.default_rng(75)
    sgd = SimpleNamespace(t=[0.0], coordinates=rng.normal(size=(3, 1, 25, 1)), model=model)
    sgd.risk = model.measure(sgd)
    sol = SimpleNamespace(t=np.array([0.0]), density=lambda t: rho)
    result = compare(sol, sgd, n_null=200)
    assert result.difference[-1, 0] > 0
    assert result.passed


def test_two_coordinates():
    grid = Grid([(-4, 4), (-3, 5)], cells=(80, 80), names=["a", "b"])
    rho = Density.gaussian(grid, [0, 1], [[1.0, 0.3], [0.3, 0.5]])
    sol = SimpleNamespace(t=np.array([0.0]), density=lambda t: rho)
    rng = np.random.default_rng(77)
    x = rng.multivariate_normal([0, 1], [[1.0, 0.3], [0.3, 0.5]], size=(3, 1, 500))
    result = compare(sol, SimpleNamespace(t=[0.0], coordinates=x), n_null=200)
    assert result.passed
    assert len(result.quantities) == 10
    assert "W2 of b" in result.quantities
    shifted = compare(sol, SimpleNamespace(t=[0.0], coordinates=x + [0.0, 0.15]), n_null=200)
    assert shifted.inside[:5].all()
    assert not shifted.inside[5:].all()


def test_some_coordinates_alone():
    """The marginal of b, whatever a does, as a comparison of its own: the same as on one axis."""
    grid = Grid([(-4, 4), (-3, 5)], cells=(80, 80), names=["a", "b"])
    rho = Density.gaussian(grid, [0, 1], [[1.0, 0.3], [0.3, 0.5]])
    sol = SimpleNamespace(t=np.array([0.0]), densities=[rho], density=lambda t: rho)
    x = np.random.default_rng(77).multivariate_normal([0, 1], [[1.0, 0.3], [0.3, 0.5]], size=(5, 1, 300))
    off = SimpleNamespace(t=[0.0], coordinates=x + [0.4, 0.0])
    assert not compare(sol, off, n_null=200).passed
    own = compare(sol, off, coordinates=("b",), n_null=200)
    assert own.passed
    assert own.coordinate_names == ("b",)
    assert own.quantities == tuple(f"{each.name} of b" for each in STATISTICS)
    assert "The risk was not compared: it is that of all coordinates." in own.notes
    assert not compare(sol, off, coordinates=["b", "a"], n_null=200).passed
    # Particles that have no other coordinate, and a flow that has none.
    alone = compare(sol, ([0.0], x[..., 1:]), coordinates=("b",), n_null=200)
    np.testing.assert_allclose(alone.difference, own.difference, rtol=1e-12)
    line = rho.marginal(1)
    on_line = compare(SimpleNamespace(t=np.array([0.0]), density=lambda t: line), ([0.0], x[..., 1:]), n_null=2000)
    np.testing.assert_allclose(on_line.difference, own.difference, atol=1e-12)
    np.testing.assert_allclose(on_line.upper, compare(sol, off, coordinates=("b",), n_null=2000).upper, rtol=0.1)
    # Fewer statistics share the level, so that bands are not wider.
    both = compare(sol, SimpleNamespace(t=[0.0], coordinates=x), n_null=2000)
    assert np.mean(both.upper[5:] / on_line.upper) > 1.0
    own.plot()
    for wrong, match in (("b", "is a string"), (["c"], "name one or more of a, b"), ([], "name one or more"),
                         (["a", "a"], "each once")):
        with pytest.raises(InvalidInput, match=match):
            compare(sol, off, coordinates=wrong)


def test_coarse_runs_of_some_coordinates():
    grid = Grid([(-4, 4), (-3, 5)], cells=(60, 60), names=["a", "b"])
    rho = Density.gaussian(grid, [0, 1], [[1.0, 0.0], [0.0, 0.5]])
    sol = SimpleNamespace(t=np.array([0.0]), densities=[rho], density=lambda t: rho)
    rng = np.random.default_rng(5)
    fine, rough = (SimpleNamespace(t=[0.0], step_size=step, coordinates=rng.normal(
        [0.0, 1.0 + 200 * step], [1.0, np.sqrt(0.5)], size=(5, 1, n, 2))) for n, step in ((400, 1e-3), (200, 2e-3)))
    assert not compare(sol, fine, coordinates=("b",), n_null=200).passed
    told = compare(sol, fine, coordinates=("b",), coarse=rough, n_null=200)
    assert told.passed
    assert told.first_order_bias.shape == told.difference.shape


def test_one_run_is_allowed_and_said():
    result = compare(flow(), particles(79, runs=1), n_null=200)
    assert result.passed
    assert "One run shows no scatter" in result.verdict
    assert "risk" not in result.verdict  # these particles have none
    np.testing.assert_array_equal(result.inflation, 1.0)


def test_result_is_reproducible_and_readable():
    first, second = (compare(flow(), particles(81), n_null=200, rng=83) for _ in range(2))
    np.testing.assert_array_equal(first.upper, second.upper)
    assert first.seed == 83
    assert first.table() == second.table()
    lines = first.table().splitlines()
    assert len(lines) == 2 + 5 * TIMES.size
    assert "*" not in first.table()
    failed = replace(first, difference=first.difference + 1.0)
    assert failed.table().count("*") >= 5
    rows = first.rows
    assert rows[0]["quantity"] == "W1 of r"
    assert all(row["inside"] for row in rows)
    assert rows[15]["particles"] - rows[15]["pde"] == pytest.approx(rows[15]["difference"], abs=1e-15)
    assert repr(first) == "Comparison(passed=True, 25 of 25 inside, level=0.01)"


def test_dataset(tmp_path):
    pytest.importorskip("xarray")
    result = compare(flow(), particles(85), n_null=200, rng=np.random.SeedSequence([3, 5]))
    data = result.to_dataset()
    assert data["upper"].sel(quantity="mean of r", time=1.0).item() == result.upper[3, 3]
    assert data.attrs["seed"] == "3 5"
    assert data["inside"].all()
    assert data["difference"].attrs["units"] == "1"


def test_bad_input_is_named():
    sol, sgd = flow(), particles(87)
    with pytest.raises(InvalidInput, match=r"level must lie in \(0, 0.5\), got 1"):
        compare(sol, sgd, level=1)
    with pytest.raises(InvalidInput, match="n_null must be an integer >= 2 / level = 200, got 50"):
        compare(sol, sgd, n_null=50)
    with pytest.raises(InvalidType, match="no attribute 'coordinates'"):
        compare(sol, SimpleNamespace(t=TIMES))
    with pytest.raises(InvalidInput, match=r"particles.coordinates has shape \(3, 5, 400\)"):
        compare(sol, SimpleNamespace(t=TIMES, coordinates=sgd.coordinates[..., 0]))
    with pytest.raises(InvalidInput, match=r"particles.t holds 0.2, which is not among sol.t"):
        compare(sol, SimpleNamespace(t=TIMES + 0.1, coordinates=sgd.coordinates))
    broken = sgd.coordinates.copy()
    broken[1, 2, 3] = np.nan
    with pytest.raises(InvalidInput, match=r"particles.coordinates\[1, 2, 3, 0\] is not finite"):
        compare(sol, SimpleNamespace(t=TIMES, coordinates=broken))
    sgd.model, sgd.risk = OneFeature(0.0), np.zeros((3, 4))
    with pytest.raises(InvalidInput, match=r"particles\.risk has shape"):
        compare(sol, sgd)


def biased(seed, step_size, count=400, offset=0.0):
    """Particles whose law lies off the flow by parts of the step size and of 1/N, as SGD's does."""
    runs = particles(seed, count=count)
    late = (TIMES > 0)[None, :, None, None]
    shift = 0.2 * step_size + 40.0 / count + offset
    return SimpleNamespace(t=runs.t, coordinates=runs.coordinates + late * shift, step_size=step_size)


@pytest.mark.slow
def test_the_bias_of_first_order_is_measured_by_coarser_runs():
    sol, sgd, coarse = flow(), biased(71, 0.5), biased(73, 1.0, count=200)
    plain, cmp = compare(sol, sgd), compare(sol, sgd, coarse=coarse)
    assert not plain.passed
    assert cmp.passed
    assert "measured by coarser runs" in cmp.verdict
    assert np.array_equal(cmp.difference, plain.difference)
    # 2 d - D scatters with (4 + 2 n / m) times the variance of d; here n = m.
    factor = np.where(cmp.is_distance, 1.0, math.sqrt(6.0))[:, None]
    assert cmp.upper == pytest.approx(factor * plain.upper + cmp.first_order_bias)
    mean = cmp.quantities.index("mean of r")
    assert cmp.first_order_bias[mean, 1:] == pytest.approx(0.2, abs=0.08)
    assert cmp.lower[mean] == pytest.approx(math.sqrt(6.0) * plain.lower[mean] - cmp.first_order_bias[mean])
    assert not cmp.lower[cmp.quantities.index("W1 of r")].any()


def rooted(seed, step_size, count):
    """Particles that lie off the flow by the root of the step size: the noise of the steps is most of a length."""
    runs = particles(seed, count=count)
    late = (TIMES > 0)[None, :, None, None]
    return SimpleNamespace(t=runs.t, coordinates=runs.coordinates + late * math.sqrt(step_size), step_size=step_size)


@pytest.mark.slow
def test_a_third_kind_of_runs_measures_the_order():
    sol, kinds = flow(), [rooted(71, 0.5, 400), rooted(73, 1.0, 200), rooted(79, 2.0, 100)]
    # Twice the step moves the mean by (sqrt(2) - 1) of what the step has moved it, which order 1 takes for all.
    assert not compare(sol, kinds[0], coarse=kinds[1]).passed
    cmp = compare(sol, kinds[0], coarse=kinds[1:])
    assert cmp.passed
    mean = cmp.quantities.index("mean of r")
    assert cmp.first_order_bias[mean, 1:] == pytest.approx(math.sqrt(0.5), rel=0.3)
    # The order of a bias as small as the scatter is uncertain, and the band between that of orders 1 and 1/2.
    linear, both = [biased(71, 0.5), biased(73, 1.0, 200)], biased(79, 2.0, 100)
    first = compare(sol, linear[0], coarse=linear[1]).first_order_bias[mean]
    measured = compare(sol, linear[0], coarse=[linear[1], both]).first_order_bias[mean]
    assert np.all((first <= measured + 1e-12) & (measured <= first / (math.sqrt(2.0) - 1.0) + 1e-12))
    wrong = [biased(71, 1e-3, offset=0.4), biased(73, 2e-3, 200, offset=0.4), biased(79, 4e-3, 100, offset=0.4)]
    assert not compare(sol, wrong[0], coarse=wrong[1:]).passed
    with pytest.raises(InvalidInput, match="coarse has 3 entries"):
        compare(sol, kinds[0], coarse=kinds)
    with pytest.raises(InvalidInput, match="four times"):
        compare(sol, kinds[0], coarse=[kinds[1], kinds[1]])


def test_the_bias_of_a_distance_is_measured_by_the_distance_between_the_kinds():
    # Shifts by 3, 6 and 12: all are at a Kolmogorov distance near 1, which twice the step does not change.
    sol, kinds = flow(), [biased(71, 14.5), biased(73, 29.0, 200), biased(79, 58.0, 100)]
    statistics = (Wasserstein(1), Kolmogorov(), Mean())
    quantities = quantities_of(("r",), statistics, with_risk=False)
    runs = particle_runs(kinds[0], 1)
    off = np.array([fits_of(statistics, laws_at(sol, s).marginals, runs.coordinates[None, :, j])[0][0]
                    for j, s in enumerate(TIMES)]).T
    assert (off[1, 1:] > 0.95).all()
    for coarse in (kinds[1], kinds[1:]):
        bias = first_order_bias(sol, TIMES, runs, coarse, off, quantities, statistics, None)[0]
        assert (bias[:2, 1:] >= 0.95 * off[:2, 1:]).all()
        assert bias[2, 1:] == pytest.approx(off[2, 1:], rel=0.1)
    own, other = (np.sort(kind.coordinates[:, -1], axis=None) for kind in kinds[:2])
    one = first_order_bias(sol, TIMES, runs, kinds[1], off, quantities, statistics, None)[0]
    assert one[0, -1] == pytest.approx(np.abs(own - np.repeat(other, 2)).mean() * Wasserstein(1).first_order_share)


def test_what_does_not_shrink_is_still_found():
    wrong = 0.4
    assert not compare(flow(), biased(71, 1e-3, offset=wrong), coarse=biased(73, 2e-3, 200, offset=wrong)).passed


@pytest.mark.slow
@pytest.mark.parametrize(("change", "words"), [
    ({"step_size": 0.7}, "twice"),
    ({"coordinates": np.zeros((3, TIMES.size, 400, 1))}, "half as many"),
    ({"t": TIMES[:-1], "coordinates": np.zeros((3, TIMES.size - 1, 200, 1))}, "output times"),
])
def test_coarser_runs_must_be_so(change, words):
    coarse = biased(73, 1.0, count=200)
    vars(coarse).update(change)
    with pytest.raises(InvalidInput, match=words):
        compare(flow(), biased(71, 0.5), coarse=coarse)


def test_another_start_is_named_as_such():
    others = SimpleNamespace(t=TIMES, coordinates=particles(71).coordinates + 1.0)
    verdict = compare(flow(), others, n_null=200).verdict
    assert "They differ at the start already: give both the same initial law." in verdict
    assert "halve the step" not in verdict


def test_pictures_say_sgd_only_of_sgd():
    for runs, words in ((biased(71, 1e-3), "SGD neurons"), (particles(71), "particles")):
        figure = compare(flow(), runs, n_null=200).plot()
        assert words in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "noise of SGD" in compare(flow(), SimpleNamespace(
        t=TIMES, coordinates=runs.coordinates[:1], step_size=1e-3), n_null=200).verdict
