"""Explicit steps without diffusion: orders, properties, and when they give way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.solvers.finite_volume import run
from wgflow.solvers.finite_volume.line_interaction import line_interaction

CIRCLE = wg.Grid((0, 2 * math.pi), cells=90, boundary="periodic")
ORDER_KERNEL = wg.LowRank(lambda x: np.stack([np.cos(x), np.sin(x)]), [-1.0, -1.0])


def well(x):
    return x**4 / 4 - x**2 / 2


def wave(grid):
    return wg.Density.from_function(grid, lambda x: 1.2 + np.sin(x))


def gaussian_error(cells):
    """Return the L1 error for V = x^2/2: a Gaussian that is scaled by exp(-t)."""
    grid = wg.Grid((-3, 3), cells=cells)
    sol = wg.solve(1 * wg.Potential(lambda x: x**2 / 2), wg.Density.gaussian(grid, 0.5, 0.1), (0, 0.7))
    assert sol.certificate.ok
    assert "explicit steps of third order in time" in sol.certificate.scheme
    part = math.exp(-0.7)
    exact = wg.Density.gaussian(grid, 0.5 * part, 0.1 * part**2)
    return float(np.abs(sol.final.masses - exact.masses).sum())


def test_third_order_in_space_and_time():
    errors = [gaussian_error(cells) for cells in (100, 200, 400)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders.min() > 2.6
    assert orders.max() < 3.4


def test_order_three_in_time():
    """On one grid, with steps below those of Courant's bound; the estimate is the error, nearly."""
    rho, energy = wave(CIRCLE), 1 * wg.Potential(np.cos)
    runs = [wg.solve(energy, rho, (0, 0.4), method=wg.FiniteVolume(max_step=0.4 / k)) for k in (20, 40, 80, 160)]
    assert [sol.certificate.n_accepted for sol in runs] == [20, 40, 80, 160]
    gaps = np.array([np.abs(a.final.masses - b.final.masses).sum() for a, b in itertools.pairwise(runs)])
    orders = np.log2(gaps[:-1] / gaps[1:])
    assert orders.min() > 2.9
    assert orders.max() < 3.1
    for sol, gap in zip(runs, gaps):
        assert 0.7 < sol.certificate.error_estimate / (gap * 8 / 7) < 1.4


def quadratic(x, y):
    return (x - y) ** 2 / 2


def quadratic_features():
    """Return (x - y)^2 / 2 as a sum of three products."""
    signs, vectors = np.linalg.eigh(np.array([[0.0, 0.0, 0.5], [0.0, -1.0, 0.0], [0.5, 0.0, 0.0]]))
    return wg.LowRank(lambda x: vectors.T @ np.stack([np.ones_like(x), x, x**2]), signs)


@pytest.mark.parametrize("term", [wg.Dense(quadratic), wg.Convolution(lambda z: z**2 / 2), quadratic_features()],
                         ids=["table", "convolution", "low rank"])
def test_all_forms_of_an_interaction_take_the_same_steps(term):
    grid = wg.Grid((-2, 2), cells=64)
    rho, half = wg.Density.gaussian(grid, 0.3, 0.2), wg.Potential(lambda x: 0.1 * x)
    arrays = line_interaction((half + term).assemble(grid))
    dense = line_interaction((half + wg.Dense(quadratic)).assemble(grid))
    assert arrays is not None
    assert dense is not None
    assert arrays.signs.size % 4 == 0
    one = wg.solve(half + term, rho, (0, 1))
    other = wg.solve(half + wg.Dense(quadratic), rho, (0, 1))
    assert "explicit" in one.certificate.scheme
    assert one.certificate.ok
    assert one.certificate.n_accepted == other.certificate.n_accepted
    np.testing.assert_allclose(one.final.values, other.final.values, rtol=1e-9, atol=1e-11)


def test_explicit_and_implicit_steps_solve_the_same_equation(monkeypatch):
    """With time resolved nothing is left between them: they have the same fluxes."""
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    rho, gaps = model.initial_density(0.8, model.grid(cells=60)), []
    explicit = wg.solve(model.energy(), rho, (0, 0.3), time_scale=model.time_scale, method=wg.FiniteVolume(rtol=1e-8))
    assert "explicit" in explicit.certificate.scheme
    monkeypatch.setattr(run, "explicit_steps_of", lambda flow, method: None)
    for count in (100, 400, 1600):
        sol = wg.solve(model.energy(), rho, (0, 0.3), time_scale=model.time_scale,
                       method=wg.FiniteVolume(dt=0.3 / count))
        assert "explicit" not in sol.certificate.scheme
        gaps.append(np.abs(explicit.final.masses - sol.final.masses).sum())
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 5e-5


LINE = wg.Grid((-2, 2), cells=80)
FLOWS = {
    "two wells": (1 * wg.Potential(well), wg.Density.gaussian(LINE, 0.1, 0.1), 3.0),
    "attraction": (1 * wg.Convolution(lambda z: -np.exp(-4 * z**2)), wg.Density.gaussian(LINE, 0.0, 0.3), 2.0),
    "strong repulsion": (wg.Potential(well) + wg.Convolution(lambda z: 300 * np.exp(-z**2)),
                         wg.Density.gaussian(LINE, 0.2, 0.1), 0.5),
    "a jump of the velocity": (1 * wg.Potential(abs), wg.Density.gaussian(LINE, 0.5, 0.2), 1.5),
    "oscillators": (1 * ORDER_KERNEL, wave(CIRCLE), 3.0),
    "around a circle": (1 * wg.Potential(np.cos), wave(CIRCLE), 3.0),
}


@pytest.mark.parametrize("name", FLOWS)
def test_mass_sign_and_energy(name):
    energy, rho, t_end = FLOWS[name]
    sol = wg.solve(energy, rho, (0, t_end))
    certificate, history = sol.certificate, sol.history
    assert "explicit" in certificate.scheme
    assert certificate.verdict != "failed", certificate.explain()
    assert certificate.mass_drift < 2e-15
    assert certificate.min_density >= 0
    wg.testing.assert_energy_decays(sol, tol=1e-13)
    assert certificate.dissipation_defect < 0.01
    np.testing.assert_allclose(history.mass, rho.mass, rtol=2e-15)
    assert history.min_density[-1] == pytest.approx(sol.final.values.min(), rel=1e-12, abs=1e-300)


def test_implicit_steps_take_over_where_they_are_much_longer():
    """The tails of a Gaussian lie where the velocity is 6^5 times that of its bulk; explicit steps would follow it."""
    grid = wg.Grid((-6, 6), cells=200)
    energy, rho = 1 * wg.Potential(lambda x: x**6), wg.Density.gaussian(grid, 0.5, 0.5)
    sol = wg.solve(energy, rho, (0, 1.0))
    scheme = sol.certificate.scheme
    assert "explicit steps of third order in time to t = " in scheme
    assert "implicit ones beyond" in scheme
    assert sol.certificate.ok
    assert sol.certificate.n_accepted < 1000


@pytest.mark.parametrize("t_end", [300.0, 3000.0])
def test_long_runs_to_rest_take_few_steps(t_end):
    sol = wg.solve(1 * wg.Potential(lambda x: 5 * x**2), wg.Density.gaussian(LINE, 0.7, 0.2), (0, t_end))
    # All mass ends in one or two cells, which no test function resolves.
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.certificate.n_accepted < 300
    assert abs(float(sol.final.mean())) <= LINE.widths[0][0] / 2


def test_a_law_at_rest_stays():
    """All mass in the lowest cell of a well: no flux leaves it."""
    values = np.zeros(81)
    values[40] = 1.0
    grid = wg.Grid((-2, 2), cells=81)
    rho = wg.Density.from_values(grid, values, normalize=True)
    sol = wg.solve(1 * wg.Potential(lambda x: x**2), rho, (0, 50))
    assert np.array_equal(sol.final.masses, rho.masses)
    assert sol.certificate.n_accepted < 10


def test_a_law_with_jumps_goes_along_characteristics():
    rho = wg.Density.from_function(LINE, lambda x: 1.0 * (abs(x) < 0.4))
    assert "characteristics" in wg.solve(1 * wg.Potential(well), rho, (0, 0.1)).certificate.scheme


@pytest.mark.parametrize("settings", [{"dt": 0.1}, {"corrected": False}, {"tol": 0.1}])
def test_settings_that_keep_implicit_steps(settings):
    sol = wg.solve(1 * wg.Potential(well), wg.Density.gaussian(LINE, 0.3, 0.2), (0, 0.3),
                   method=wg.FiniteVolume(**settings))
    assert "explicit" not in sol.certificate.scheme


def test_symmetry_is_kept():
    """A mirrored problem has the mirrored solution, up to round-off in the sums."""
    grid = wg.Grid((-2, 2), cells=80)
    kernel = wg.Convolution(lambda z: -np.exp(-z * z))

    def solved(sign):
        well = wg.Potential(lambda x: x**2 / 2 + 0.2 * sign * x)
        return wg.solve(well + kernel, wg.Density.gaussian(grid, 0.4 * sign, 0.3), (0, 1)).final.values

    np.testing.assert_allclose(solved(1), solved(-1)[::-1], rtol=1e-10, atol=1e-13)


def test_a_run_that_is_cut_and_resumed_has_the_same_bits(tmp_path):
    energy, rho = wg.Potential(well) + wg.Convolution(lambda z: -np.exp(-z * z)), wg.Density.gaussian(LINE, 0.3, 0.2)
    whole = wg.solve(energy, rho, (0, 1.0))
    for cut in (1, 7, 64, 70):
        path = tmp_path / f"run{cut}"
        wg.solve(energy, rho, (0, 1.0), method=wg.FiniteVolume(max_steps=cut), checkpoint=path, throw=False)
        again = wg.resume(path, energy=energy, method=wg.FiniteVolume())
        assert again.certificate.scheme == whole.certificate.scheme
        assert np.array_equal(again.history.t, whole.history.t)
        assert np.array_equal(again.history.energy, whole.history.energy)
        assert np.array_equal(again.history.rejected, whole.history.rejected)
        assert np.array_equal(again.final.masses, whole.final.masses)
