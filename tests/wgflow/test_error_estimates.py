"""Estimated errors, `Solution.estimate_error`, held against the true ones."""

import copy
import math
import pickle
import re

import numpy as np
import pytest

import wgflow as wg
from wgflow.error_estimates import ErrorBar, ErrorEstimate
from wgflow.error_estimates.coarsening import coarser
from wgflow.validation import exact
from wgflow.validation.distances import wasserstein_1d
from wgflow.validation.verification.catalogue import Case, catalogue

WELL = wg.Potential(lambda x: x**2 / 2)
MEAN, VARIANCE = 2 * math.exp(-1), 1 + (0.25 - 1) * math.exp(-2)


def relax(cells, method=None, box=6.0, **options):
    grid = wg.Grid([(-box, box)], cells=cells)
    return wg.solve(wg.Entropy(1.0) + WELL, wg.Density.gaussian(grid, 2.0, 0.25), (0, 1), method=method, **options)


def true_error(sol):
    exact_law = wg.Density.gaussian(sol.grid, MEAN, VARIANCE)
    return float(np.abs(sol.final.masses - exact_law.masses).sum())


# -------------------------------------------------------------------- against the truth
# On 75 cells and the 37 of the coarser run the errors of fluxes of order 4 fall faster than with h^4.
@pytest.mark.parametrize(("cells", "order"), [(75, 2), (101, 2), (200, 2), (101, 4), (200, 4)])
def test_it_is_the_error(cells, order):
    sol = relax(cells, wg.FiniteVolume(order=order))
    found = sol.estimate_error()
    assert found.trusted
    assert found.order == pytest.approx(order, abs=0.4)
    assert 0.8 < found.density / true_error(sol) < 3
    assert 0.8 < found.w1 / wasserstein_1d(sol.final, wg.Density.gaussian(sol.grid, MEAN, VARIANCE), p=1) < 4
    assert found.mean >= 0.5 * abs(sol.final.mean() - MEAN)
    assert found.variance >= 0.5 * abs(sol.final.cov() - VARIANCE)


def test_every_number_has_its_parts():
    sol = relax(100, wg.FiniteVolume(dt=0.2, order=2))
    found = sol.estimate_error(functional=lambda rho: rho.quantile(0.9))
    for bar in found.bars().values():
        assert isinstance(bar, float)
        assert float(bar) == pytest.approx(bar.space + bar.time + bar.box)
        assert bar.sample is None
    # Steps of a fifth are the worse part; on a finer grid they are so alone.
    assert found.density.time > 3 * found.density.space
    finer = relax(400, wg.FiniteVolume(dt=0.2, order=2)).estimate_error()
    assert finer.density.space == pytest.approx(found.density.space / 16, rel=0.2)
    assert finer.density.time == pytest.approx(found.density.time, rel=0.05)


@pytest.mark.parametrize("cells", [100, 150, 200])
def test_functionals_that_are_interpolated(cells):
    """Quantiles are of second order in the cells, with errors that come and go with the places of edges."""
    from statistics import NormalDist

    law, sol = NormalDist(MEAN, math.sqrt(VARIANCE)), relax(cells)
    for q in (0.05, 0.3, 0.5, 0.7, 0.9, 0.99):
        found = sol.estimate_error(functional=lambda rho, q=q: rho.quantile(q)).functional
        assert found > abs(sol.final.quantile(q) - law.inv_cdf(q)) / 3
        assert found < sol.grid.widths[0][0]


@pytest.mark.parametrize(("method", "factor"), [
    (wg.FiniteVolume(dt=0.2, order=2), 1.5), (wg.FiniteVolume(scheme="midpoint", order=2), 1.5),
    (wg.FiniteVolume(corrected=False), 1.5), (wg.FiniteVolume(tol=1e-3), 3.0), (wg.JKO(tau=0.05), 1.2),
    (wg.JKO(tau=0.1, order=2), 3.0), (wg.JKO(tau=0.1, inner="linearized"), 1.3),
    (wg.JKO(tau=0.1, adaptive=True), 3.0)], ids=repr)
def test_every_method_on_a_grid(method, factor):
    sol = relax(120, method)
    assert 1 / factor < sol.estimate_error().density / true_error(sol) < factor


def test_a_method_of_your_own():
    from dataclasses import dataclass

    from wgflow.solvers import EvenSteps, Method

    class Run(EvenSteps):
        def move(self, masses, t, elapsed):
            """Implicit Euler, order 1 in time and 2 in space, for the heat equation."""
            h = self.flow.grid.widths[0][0]
            n = masses.size
            matrix = np.diag(np.full(n, 1 + 2 * elapsed / h**2)) - elapsed / h**2 * (np.eye(n, k=1) + np.eye(n, k=-1))
            matrix[0, 0] = matrix[-1, -1] = 1 + elapsed / h**2
            return np.linalg.solve(matrix, masses)

    @dataclass(frozen=True)
    class Euler(Method):
        dt: float = 0.02

        def begin(self, flow):
            return Run(self, flow, self.dt)

    grid = wg.Grid((-6, 6), cells=120)
    sol = wg.solve(1.0 * wg.Entropy(1.0), wg.Density.gaussian(grid, 0.0, 0.25), (0, 0.5), Euler())
    true = np.abs(sol.final.masses - wg.Density.gaussian(grid, 0.0, 1.25).masses).sum()
    assert 0.8 < sol.estimate_error().density / true < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["of the catalogue", "by default"])
@pytest.mark.parametrize("case", [case for case in catalogue() if isinstance(case, Case) and case.problem.has_density
                                  and len(case.cells) > 1], ids=lambda case: f"{case.family}, {case.name}")
def test_the_catalogue(case, settings):
    problem = case.problem
    n = next((n for n in case.cells if n >= 200), case.cells[-1])
    method = wg.FiniteVolume(**(case.settings if settings == "of the catalogue" else {}))
    sol = wg.solve(problem.energy(), problem.initial_density(problem.grid(n)), (0, problem.t_end), method,
                   mobility=problem.mobility)
    found, true = sol.estimate_error(), problem.errors(sol.final)
    assert found.density > true["density"] / 3
    if problem.smooth:
        assert found.trusted
        assert found.density < 3 * true["density"]
    exact_numbers = problem.quantities(problem.t_end)
    for name, bar in found.bars().items():
        known = re.sub(r"variance_(\d)", r"cov_\1\1", name)
        if known in exact_numbers:
            scale = abs(exact_numbers[known])
            # Quantities that are exact by symmetry are so up to rounding.
            assert bar > true[known] * (scale if scale > 1e-12 else 1.0) / 3 - 1e-12, name


def test_fronts_within_their_cells():
    problem = exact.CompactAggregation()
    for n in (50, 71):
        sol = wg.solve(problem.energy(), problem.initial_density(problem.grid(n)), (0, problem.t_end))
        assert sol.estimate_error().density > problem.errors(sol.final)["density"] / 3


def test_two_axes_weights_and_output_times():
    grid = wg.Grid(edges=[np.linspace(0.5, 4.0, 65) ** 1.1, np.linspace(-3, 3, 33)],
                   log_weight=np.add.outer(np.log(np.linspace(0.5, 4.0, 64)), np.zeros(32)))
    energy = wg.Entropy(2.0) + wg.Potential(lambda r, y: (r - 2) ** 2 + y**2 / 2)
    rho0 = wg.Density.from_function(grid, lambda r, y: np.exp(-((r - 1.5) ** 2) * 4 - (y - 0.5) ** 2 * 2))
    plain = wg.solve(energy, rho0, (0, 1), t_eval=[0.3, 1.0])
    sol = wg.solve(energy, rho0, (0, 1), t_eval=[0.3, 1.0], error_estimate=True)
    assert 1e-5 < sol.certificate.error_estimate < 0.05
    # The solution is the one without an estimate, to the last bit.
    assert all(np.array_equal(a.values, b.values) for a, b in zip(plain.densities, sol.densities))
    assert plain.certificate.error_order is None
    assert len(sol.error.mean) == len(sol.error.w1) == 2
    early = sol.estimate_error(0.3)
    assert early.t == 0.3
    assert early.cells == ((64, 32), (32, 16), (16, 8))
    assert early.density != sol.error.density


def test_the_certificate_takes_it():
    sol = relax(200, error_estimate=True)
    certificate, found = sol.certificate, sol.error
    assert (certificate.error_estimate, certificate.energy_error) == (float(found.density), float(found.energy))
    assert certificate.error_order == found.order
    assert "Richardson" in certificate.explain()
    assert found.summary in repr(sol)
    assert found.explain() in sol.explain()


def test_nothing_moves():
    grid = wg.Grid((-6, 6), cells=64)
    sol = wg.solve(wg.Entropy(1.0) + WELL, wg.Density.gaussian(grid, 0, 1), (1, 1))
    found = sol.estimate_error()
    assert found.density == found.density.box
    assert found.order is None


# -------------------------------------------------------------------- walls
@pytest.mark.parametrize("half", [3.5, 4.0, 5.0])
def test_the_box(half):
    """The law at rest in a box that cuts its tails: the whole of them is missing."""
    sol = wg.solve(wg.Entropy(1.0) + WELL, wg.Density.gaussian(wg.Grid((-half, half), cells=200), 0.5, 0.25), (0, 8))
    missing = 1 - math.erf(half / math.sqrt(2))
    assert sol.estimate_error().density.box == pytest.approx(2 * missing, rel=0.5)
    density = half * math.exp(-half**2 / 2) / math.sqrt(2 * math.pi)
    assert 1 / 3 < sol.error.variance / (2 * density) < 3


def test_walls_that_are_meant():
    grid = wg.Grid((0, 1), cells=64)
    found = wg.solve(1.0 * wg.Entropy(1.0), wg.Density.from_function(grid, lambda x: 1 + 0.5 * np.cos(np.pi * x)),
                     (0, 0.1)).estimate_error()
    assert found.density.box is None
    assert [("lower" in note, "upper" in note) for note in found.notes] == [(True, False), (False, True)]


# -------------------------------------------------------------------- samples
def test_the_error_of_a_sample():
    """A sample of normal law under linear drift: the standard error of the mean decays with it."""
    grid, n = wg.Grid((-7, 7), cells=160), 200
    points = np.random.default_rng(5).normal(1.0, 0.8, n)
    rho0 = wg.Density.from_samples(grid, points)
    assert rho0.sample_size == n
    assert rho0.normalized().sample_size == rho0.marginal(0).sample_size == n
    sol = wg.solve(wg.Entropy(1.0) + WELL, rho0, (0, 0.5))
    assert sol.certificate.sample_size == n
    assert sol.certificate.sample_error == pytest.approx((points.std() / math.sqrt(n),))
    assert "200 samples" in sol.certificate.explain()
    found = sol.estimate_error()
    standard_error = points.std() * math.exp(-0.5) / math.sqrt(n)
    assert 0.5 < found.mean.sample / standard_error < 1.6
    spread = points.var() * math.sqrt(2 / n) * math.exp(-1)
    assert 0.5 < found.variance.sample / spread < 2
    assert found.density.sample > 10 * found.density.space


def test_weighted_samples_count_less():
    grid = wg.Grid([(-7, 7), (-7, 7)], cells=32)
    points = np.random.default_rng(5).normal(size=(60, 2))
    weights = np.r_[np.ones(20), np.zeros(40)]
    assert wg.Density.from_samples(grid, points, weights=7 * weights).sample_size == pytest.approx(20)
    assert wg.Density.uniform(grid).sample_size is None


# -------------------------------------------------------------------- atoms
def test_atoms_of_a_density():
    grid = wg.Grid((-6, 6), cells=100)
    sol = wg.solve(1.0 * WELL, wg.Density.gaussian(grid, 2.0, 0.25), (0, 1), wg.Lagrangian())
    found = sol.estimate_error()
    assert found.density is None
    true = wasserstein_1d(sol.final, wg.Density.gaussian(wg.Grid((-6, 6), cells=800), MEAN, 0.25 * math.exp(-2)), p=1)
    assert 1 / 3 < found.w1 / true < 3
    assert abs(sol.final.mean() - MEAN) <= found.mean < 1e-5


def test_atoms_that_are_the_law():
    sol = wg.solve(1.0 * WELL, wg.Atoms([[1.0, 2.0]], [0.5, 0.5]), (0, 1), wg.Lagrangian(rtol=1e-5))
    found = sol.estimate_error()
    assert found.mean.space is None
    assert 1 / 3 < found.mean / abs(sol.final.mean() - 1.5 * math.exp(-1)) < 3


# -------------------------------------------------------------------- coarser laws
def test_a_coarser_law_has_the_same_masses():
    grid = wg.Grid([(0, 1), (2, 3)], cells=(16, 24), log_weight=np.random.default_rng(17).normal(size=(16, 24)) * 300)
    rho = wg.Density.from_function(grid, lambda x, y: 1 + x * y)
    wide = coarser(rho)
    assert wide.grid.shape == (8, 12)
    assert wide.mass == pytest.approx(rho.mass, rel=1e-15)
    np.testing.assert_allclose(wide.marginal(0).masses, rho.marginal(0).masses.reshape(8, 2).sum(axis=1), rtol=1e-14)
    pairs = np.logaddexp.reduce(grid.log_reference.reshape(8, 2, 12, 2).transpose(0, 2, 1, 3).reshape(8, 12, 4), axis=2)
    np.testing.assert_allclose(wide.grid.log_reference, pairs, rtol=1e-12)


@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
def test_an_odd_number_of_cells(boundary):
    """Cells that cannot be joined in pairs: of sixth order for smooth laws, and no less mass or sign for rough ones."""
    def law(x):
        return 1 + np.sin(x) / 2 + np.cos(2 * x) / 4

    errors = []
    for n in (51, 101):
        wide = coarser(wg.Density.from_function(wg.Grid((0, 2 * np.pi), cells=n, boundary=boundary), law))
        assert wide.grid.shape == ((n + 1) // 2,)
        assert wide.mass == pytest.approx(1, rel=1e-14)
        errors.append(np.abs(wide.values - wg.Density.from_function(wide.grid, law).values).max())
    assert errors[1] < 1e-7
    assert errors[0] / errors[1] > 2**4.5
    rough = coarser(wg.Density.from_function(wg.Grid((0, 1), cells=51), lambda x: 1.0 * (abs(x - 0.4) < 0.11)))
    assert rough.values.min() >= 0
    assert rough.mass == pytest.approx(1, rel=1e-14)


def test_a_radius_with_its_origin():
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    fine, wide = (model.initial_density(0.8, model.grid(cells=n)) for n in (200, 100))
    found = coarser(fine)
    np.testing.assert_allclose(found.grid.edges[0], wide.grid.edges[0], rtol=1e-12)
    np.testing.assert_allclose(found.grid.log_weight, wide.grid.log_weight, rtol=1e-9)
    assert np.abs(found.masses - wide.masses).sum() < 1e-3
    sol = wg.solve(model.energy(), fine, (0, 0.2), time_scale=model.time_scale)
    risk = sol.estimate_error(functional=model.risk).functional
    finer = wg.solve(model.energy(), model.initial_density(0.8, model.grid(cells=1600)), (0, 0.2),
                     time_scale=model.time_scale)
    assert risk > abs(model.risk(sol.final) - model.risk(finer.final)) / 3


# -------------------------------------------------------------------- kept
def test_saved_with_the_solution(tmp_path):
    grid = wg.Grid([(-6, 6), (-6, 6)], cells=32)
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: (x**2 + y**2) / 2)
    points = np.random.default_rng(3).normal(size=(300, 2))
    sol = wg.solve(energy, wg.Density.from_samples(grid, points), (0, 0.1))
    found = sol.estimate_error(functional=lambda rho: rho.mean()[0])
    for name in ("a.npz", "a.nc"):
        sol.save(tmp_path / name)
        back = wg.load(tmp_path / name)
        assert back.error.to_dict() == found.to_dict()
        assert back.estimate_error() == found
        assert back.error.mean[1].sample == found.mean[1].sample
        assert back.densities[0].sample_size == back.certificate.sample_size == 300
        with pytest.raises(wg.InvalidInput, match="from a file"):
            back.estimate_error(functional=lambda rho: rho.mean()[1])


def test_a_checkpoint_keeps_the_sample(tmp_path):
    grid = wg.Grid((-6, 6), cells=64)
    energy, path = wg.Entropy(1.0) + WELL, tmp_path / "run.npz"
    rho0 = wg.Density.from_samples(grid, np.random.default_rng(3).normal(size=50))
    wg.solve(energy, rho0, (0, 0.1), checkpoint=path)
    longer = wg.resume(path, 0.2, energy=energy)
    assert longer.certificate.sample_size == 50
    assert longer.estimate_error().mean.sample > 0


def test_bars_are_floats_that_survive():
    bar = ErrorBar(1.0, 0.5, None, 0.25)
    assert bar == 1.75
    assert repr(bar) == "ErrorBar(1.8: space=1, time=0.5, sample=0.25)"
    for again in (pickle.loads(pickle.dumps(bar)), copy.deepcopy(bar)):
        assert again.parts == bar.parts
    found = relax(64).estimate_error()
    assert ErrorEstimate.from_dict(found.to_dict()).explain() == str(found)


# -------------------------------------------------------------------- bad input
def test_grids_that_are_too_coarse():
    with pytest.raises(wg.InvalidInput, match=r"axis 0 has 14 cells .* at least 32"):
        relax(28, error_estimate=True)
    with pytest.raises(wg.InvalidInput, match="at least 32"):
        relax(20).estimate_error()


def test_orders_that_are_none():
    """Grids on which the law is no law: the estimate is an upper one, and says so."""
    sol = relax(30, box=10)
    found = sol.estimate_error()
    assert not found.trusted
    assert "not trustworthy" in found.summary
    assert found.density > true_error(sol) / 3


def test_energies_of_one_grid():
    grid = wg.Grid([(-6, 6)], cells=64)
    energy = wg.Entropy(1.0) + wg.Potential(grid.centers[0] ** 2 / 2)
    with pytest.raises(wg.InvalidInput, match="by functions") as caught:
        wg.solve(energy, wg.Density.gaussian(grid, 1, 1), (0, 1), error_estimate=True)
    assert caught.value.partial.success


def test_other_bad_input():
    grid = wg.Grid([(0, 6)], cells=64)
    energy = wg.Entropy(1.0) + WELL
    with pytest.raises(wg.InvalidInput, match="True or False"):
        wg.solve(energy, wg.Density.gaussian(grid, 2, 1), (0, 1), error_estimate=1e-3)
    with pytest.raises(wg.InvalidInput, match="has no grid"):
        wg.solve(1.0 * WELL, wg.Atoms([[1.0, 2.0]], [0.5, 0.5]), (0, 1), method=wg.Lagrangian(), error_estimate=True)
    sol = wg.solve(energy, wg.Density.gaussian(grid, 2, 1), (0, 1), t_eval=[0.5, 1.0])
    with pytest.raises(wg.InvalidInput, match=r"the nearest is 0.5"):
        sol.estimate_error(0.6)
    with pytest.raises(wg.InvalidInput, match="functional"):
        sol.estimate_error(functional=lambda rho: "large")
    noisy = wg.solve(energy, wg.Density.gaussian(grid, 2, 1), (0, 0.01), wg.Lagrangian(rng=5, n_particles=20))
    with pytest.raises(wg.InvalidInput, match="error of particles with noise"):
        noisy.estimate_error()


def test_a_coarse_run_that_fails_loses_nothing():
    def cliff(x):
        return x**2 / 2 if x.size > 20 else 1e308 * x

    grid = wg.Grid([(-6, 6)], cells=80)
    with pytest.raises((wg.ConvergenceError, wg.InvalidInput), match="error estimate") as caught:
        wg.solve(wg.Entropy(1.0) + wg.Potential(cliff), wg.Density.gaussian(grid, 0, 1), (0, 1),
                 wg.FiniteVolume(dt=0.1), error_estimate=True)
    assert caught.value.partial.success
