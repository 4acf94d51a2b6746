"""Statistics of one's own, particles from anywhere, and rows by name: a recipe that runs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import wgflow as wg
from wgflow.errors import InvalidInput, InvalidType
from wgflow.validation import STATISTICS, Statistic, compare
from wgflow.validation.comparison.marginal_laws import MarginalLaw
from wgflow.validation.comparison.statistics import Runs

TIMES = np.array([0.0, 0.2, 0.6])
BETA = 4.0


class EnergyDistance(Statistic):
    r"""The energy distance, :math:`D^2 = 2 E|X - Y| - E|X - X'| - E|Y - Y'| = 2 \int (F_n - F)^2 dx`.

    X is drawn from the particles, Y from the law. D itself, not its square, is the statistic: D falls like n^(-1/2),
    so that the runs' scatter can be added to its band as a variance. The integral is done by the trapezoidal rule
    between the extremes of law and particles; its error at the jumps of F_n falls with the number of nodes.
    """

    name = "energy distance"

    def __init__(self, nodes=400):
        self.nodes = nodes

    def value(self, x, law):
        """Return D for each row of x."""
        ends = law.quantile([0.0, 1.0])
        y = np.linspace(min(ends[0], x.min()), max(ends[1], x.max()), self.nodes)
        below = np.stack([np.searchsorted(row, y, side="right") for row in x]) / x.shape[1]
        return np.sqrt(2.0 * np.trapezoid((below - law.cdf(y)) ** 2, y, axis=1))


class Quantile(Statistic):
    """The difference of the quantiles at a level: two-sided, and with a value for the table."""

    is_distance = False

    def __init__(self, level):
        self.level, self.name = level, f"{100 * level:g} % quantile"

    def value(self, x, law):
        """Return the difference for each row of x."""
        return np.quantile(x, self.level, axis=1) - self.at_law(law)

    def at_law(self, law):
        """Return the law's quantile."""
        return float(law.quantile(self.level))


MINE = (EnergyDistance(), Quantile(0.9))


@pytest.fixture(scope="module")
def sol():
    grid = wg.Grid((-3, 4), cells=280, names=["r"])
    energy = wg.Entropy(BETA) + wg.Potential(lambda x: x**2 / 2)
    return wg.solve(energy, wg.Density.gaussian(grid, 1.0, 0.1), (0, TIMES[-1]), t_eval=TIMES)


def draws(sol, seed, runs=3, count=200):
    """Independent draws from the solution, the null law itself."""
    rng = np.random.default_rng(seed)
    return np.stack([rho.sample(runs * count, rng).reshape(runs, count) for rho in sol.densities], axis=1)[..., None]


def langevin(seed, beta=BETA, mean=1.0):
    """Particles with noise in the same well."""
    start = wg.Atoms(np.random.default_rng(seed).normal(mean, math.sqrt(0.1), size=(1, 300)), np.full(300, 1 / 300),
                     names=["r"])
    energy = wg.Entropy(beta) + wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
    return wg.solve(energy, start, (0, TIMES[-1]), t_eval=TIMES, method=wg.Lagrangian(rng=seed, dt=0.02))


def test_the_energy_distance_is_what_its_formula_says():
    law = MarginalLaw.from_density(wg.Density.gaussian(wg.Grid((-6, 6), cells=600), 0.3, 0.8))
    x = np.sort(np.random.default_rng(11).normal(size=(2, 30)), axis=1)
    y = law.points(2000)
    for row, got in zip(x, EnergyDistance(20_000).value(x, law)):
        mean = [np.abs(a[:, None] - b[None, :]).mean() for a, b in ((row, y), (row, row), (y, y))]
        assert got == pytest.approx(math.sqrt(2 * mean[0] - mean[1] - mean[2]), rel=2e-3)


def test_statistics_of_ones_own_have_rows_bands_pictures(sol, tmp_path):
    result = compare(sol, (TIMES, draws(sol, 21)), statistics=(*STATISTICS, *MINE), n_null=200)
    assert result.passed, result.table()
    assert [q for q in result.quantities if "energy" in q or "%" in q] == ["energy distance of r", "90 % quantile of r"]
    row = result.row("90 % quantile of r", t=0.2)
    assert row["pde"] == pytest.approx(sol.density(0.2).quantile(0.9), rel=1e-12)
    assert row["particles"] == pytest.approx(row["pde"] + row["difference"], abs=1e-15)
    distance = result.row("energy distance of r", t=0.2)
    assert distance["lower"] == 0 < distance["difference"] < distance["upper"]
    assert math.isnan(distance["pde"])
    assert "energy distance of r" in result.table()
    figure = result.plot()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert "energy distance of r" in labels
    assert "particles" in labels
    assert not any("SGD" in label for label in labels)
    data = pytest.importorskip("xarray") and result.to_dataset()
    assert data["upper"].sel(quantity="energy distance of r", time=0.2).item() == distance["upper"]
    # What is asked for beside it changes neither the random numbers nor the default rows.
    plain = compare(sol, (TIMES, draws(sol, 21)), n_null=200)
    for q in plain.quantities:
        assert result.row(q, 0.6)["difference"] == plain.row(q, 0.6)["difference"]


@pytest.mark.parametrize("wrong", [{"beta": 1.5}, {"mean": 1.25}])
def test_statistics_of_ones_own_find_what_is_wrong(sol, wrong):
    seeds = range(31, 41, 2)
    x = [np.concatenate([[law.points.T for law in langevin(seed, **case).densities] for seed in seeds]).reshape(
        5, TIMES.size, 300, 1) for case in ({}, wrong)]
    right, other = (compare(sol, (TIMES, each), statistics=MINE, n_null=200) for each in x)
    assert right.passed, right.table()
    assert not other.passed
    assert other.verdict.startswith("FAIL")
    assert not other.row("energy distance of r", 0.6)["inside"]


@pytest.mark.slow
def test_false_alarms_of_ones_own_statistics(sol):
    # 20 repetitions at level 0.05 on the null law itself: more than 4 alarms would have a probability of 0.3 %.
    alarms = sum(not compare(sol, (TIMES, draws(sol, 101 + 2 * k, count=60)), statistics=MINE, level=0.05, n_null=100,
                             rng=k).passed for k in range(20))
    assert alarms <= 4


def test_a_band_is_sharp(sol):
    # Runs of independent draws: the band is that of chance, c = 3 to 4 deviations above the mean, and half a cell.
    result = compare(sol, (TIMES, draws(sol, 23, count=400)), statistics=MINE, n_null=200)
    law = MarginalLaw.from_density(sol.density(0.2))
    null = MINE[0].fit(Runs(np.random.default_rng(25).normal(law.mean, law.deviation, size=(200, 3, 400))), law)
    band = result.row("energy distance of r", 0.2)["upper"] / result.inflation[0, 1]
    assert 2.0 < (band - null.mean()) / null.std() < 8.0


def test_what_is_derived_agrees_with_the_formulas():
    """Spread, resolution and broadening as every statistic has them, against the built-in ones' own."""
    law = MarginalLaw.from_density(wg.Density.gaussian(wg.Grid((-6, 6), cells=240), 0.3, 0.8))
    x = np.random.default_rng(13).normal(0.3, 0.9, size=(3, 4, 50))
    runs = Runs(x + np.random.default_rng(15).normal(size=(3, 4, 1)))
    for each in STATISTICS:
        np.testing.assert_allclose(Statistic.fit(each, runs, law), each.fit(runs, law), rtol=1e-10, atol=1e-12)
        # Where both laws jump, the formula of the Kolmogorov distance sees one side of each jump: 1/n too much at most.
        rtol = 0.03 if each.name == "Kolmogorov" else 1e-10
        np.testing.assert_allclose(Statistic.spread(each, runs, law), each.spread(runs, law), rtol=rtol)
        derived, own = Statistic.resolution(each, law), each.resolution(law)
        if each.name == "Kolmogorov":  # moving all of the law is more than moving what is in a cell
            assert 0.5 * derived < own < derived
        else:
            assert derived == pytest.approx(own, rel=0.15), each.name
    w2 = STATISTICS[1]
    assert Statistic.broadening(w2, law, 0.3, 0.3) == pytest.approx(w2.broadening(law, 0.3, 0.3), rel=0.02)
    assert Statistic.spread(w2, Runs(x[:, :1]), law).tolist() == [0.0, 0.0, 0.0]


def test_a_point_mass_can_be_widened():
    point = MarginalLaw.from_sorted(np.full(5, 2.0))
    wide = point.widened(0.5)
    assert (wide.mean, wide.deviation) == (2.0, 0.5)
    assert wide.points(4).tolist() == [1.5, 1.5, 2.5, 2.5]


def test_a_solution_of_atoms_is_a_run(sol):
    result = compare(sol, langevin(41), n_null=200)
    assert result.passed, result.table()
    assert (result.n_runs, result.n_particles, result.n_neurons) == (1, 300, 300)
    assert "noise that the particles share is not in the bands" in result.verdict
    assert "SGD" not in result.verdict
    assert result.sgd is result.runs.source
    assert not compare(sol, langevin(43, beta=1.0), n_null=200).passed


def test_atoms_as_solution_and_as_particles(sol):
    assert compare(langevin(45), langevin(47), n_null=200, statistics=(*STATISTICS, *MINE)).passed
    assert not compare(langevin(45), langevin(47, mean=1.4), n_null=200, statistics=MINE).passed


def test_placed_atoms_are_said_to_be_placed():
    start = wg.Atoms([np.linspace(0.5, 1.5, 40)], np.full(40, 1 / 40))
    well = wg.Potential(lambda x: x**2 / 2, gradient=lambda x: x)
    placed = wg.solve(well, start, (0, 0.2), t_eval=[0, 0.2], method=wg.Lagrangian())
    result = compare(placed, placed, n_null=200)
    assert result.passed
    assert "placed, not drawn" in result.verdict


def test_sources_that_cannot_be_used(sol):
    x = draws(sol, 51)
    cases = [
        (sol, InvalidInput, "particles is a Solution of densities on a grid: it must be one of atoms"),
        ((TIMES, x, x), InvalidInput, "particles is a tuple of 3 entries: need an SGDResult, a Solution of atoms"),
        ((TIMES, x[..., 0]), InvalidInput, r"particles\[1\] has shape \(3, 3, 200\): need .*; for a single coordinate"),
        ((TIMES, x[0]), InvalidInput, r"particles\[1\] has shape \(3, 200, 1\): need .*; for a single run"),
        ((TIMES[:2], x), InvalidInput, r"particles\[1\] has shape \(3, 3, 200, 1\): need \(runs, 2 times"),
        ((TIMES + 0.01, x), InvalidInput, r"particles\[0\] holds 0.01, which is not among sol.t"),
        ((TIMES, np.where(x == x.max(), np.inf, x)), InvalidInput, "is not finite: every one must be"),
        (("now", x), InvalidType, r"particles\[0\] has dtype"),
        (3.0, InvalidType, "particles has no attribute 't', it is of type float: need an SGDResult"),
        (SimpleNamespace(t=TIMES), InvalidType, "no attribute 'coordinates'"),
    ]
    for source, kind, words in cases:
        with pytest.raises(kind, match=words):
            compare(sol, source, n_null=200)
    weighted = wg.Atoms([[0.0, 1.0, 2.0]], [0.5, 0.3, 0.2])
    quadrature = wg.solve(wg.Potential(lambda x: x, gradient=lambda x: 1 + 0 * x), weighted, (0, 0.2), t_eval=[0, 0.2],
                          method=wg.Lagrangian())
    with pytest.raises(InvalidInput, match=r"weights from 0.2 to 0.5: particles have equal ones"):
        compare(sol, quadrature)


def test_rows_that_are_not_there(sol):
    result = compare(sol, (TIMES, draws(sol, 53)), n_null=200)
    assert result.row("mean of r", 0.2) == next(
        row for row in result.rows if row["quantity"] == "mean of r" and row["t"] == 0.2)
    with pytest.raises(InvalidInput, match="quantity='risk' was not compared; there are W1 of r, W2 of r"):
        result.row("risk", 0.2)
    with pytest.raises(InvalidInput, match="quantity='risk' was not compared; there are W1 of r, W2 of r"):
        result.row("risk")
    with pytest.raises(InvalidInput, match=r"t: say at which time; there are 0, 0.2, 0.6"):
        result.row("mean of r")
    with pytest.raises(InvalidInput, match=r"t=0.3 was not compared; there are 0, 0.2, 0.6"):
        result.row("W1 of r", 0.3)


class Broken(Statistic):
    """Returns what it is told to."""

    name = "broken"

    def __init__(self, found):
        self.found = found

    def value(self, x, law):
        """Return what the test wants."""
        return self.found(x)


@pytest.mark.parametrize(("statistics", "kind", "words"), [
    (EnergyDistance(), InvalidType, "statistics is a single EnergyDistance: give a sequence"),
    ([EnergyDistance], InvalidType, r"which is no Statistic: give an instance, EnergyDistance\(\)"),
    (["W2"], InvalidType, "holds 'W2', which is no Statistic: subclass Statistic"),
    ([], InvalidInput, "one at least"),
    ([*STATISTICS, STATISTICS[0]], InvalidInput, "each name once"),
    (3, InvalidType, "statistics=3: must be a sequence"),
    ([Broken(lambda x: x.mean())], InvalidInput, "'broken'.* of shape .*one for each row"),
    ([Broken(lambda x: -np.ones(len(x)))], InvalidInput, "returned -1; a distance is finite and >= 0"),
    ([Broken(lambda x: np.full(len(x), np.nan))], InvalidInput, "returned nan; a distance is finite"),
])
def test_statistics_that_cannot_be_used(sol, statistics, kind, words):
    with pytest.raises(kind, match=words):
        compare(sol, (TIMES, draws(sol, 55, count=20)), statistics=statistics, n_null=200)


def test_a_statistic_without_a_name_is_refused(sol):
    class Nameless(Statistic):
        def value(self, x, law):
            return np.zeros(len(x))

    with pytest.raises(InvalidInput, match=r"Nameless\.name=None: must be a word"):
        compare(sol, (TIMES, draws(sol, 57)), statistics=[Nameless()], n_null=200)
