"""A reduced model's energy with an entropy refuses grids without the model's reference measure, and no others."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow.error_estimates.coarsening import coarser
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import log_power_cell_average
from wgflow.reduced_models import (
    AnisotropicGaussian,
    FiniteData,
    IsotropicGaussian,
    LinearNeuron,
    QuadraticActivation,
    ReLUNetwork,
)

MODEL = IsotropicGaussian(d=40, delta=0.5)
PLAIN = wg.Grid((0, 4), cells=400)
OWN = MODEL.grid(cells=400, r_max=4.0)
LAW = MODEL.initial_density(0.8, PLAIN)


def test_a_plain_grid_is_refused_and_the_models_gives_the_known_risk():
    energy = MODEL.energy(beta=100.0, ridge=0.01)
    with pytest.raises(InvalidInput, match=r"log_weight: .* has Lebesgue measure: from \(x=3.995\) to \(x=0.005\) its "
                                           r"logarithm rises by 237 more than it should; use model.grid\(...\)"):
        wg.solve(energy, LAW, (0, 5), time_scale=MODEL.time_scale)
    with pytest.raises(InvalidInput, match="Lebesgue measure"):
        wg.stationary(energy, PLAIN)
    star = wg.stationary(energy, OWN)
    assert MODEL.risk(star.density) == pytest.approx(0.301, abs=5e-4)


@pytest.mark.parametrize("energy", [
    MODEL.energy(beta=100.0), MODEL.energy() + wg.Entropy(100.0), 0.5 * MODEL.energy() + 2 * wg.Entropy(7.0),
    MODEL.energy() + wg.PowerEntropy(2.0),
], ids=["model", "entropy of the user", "scaled", "power"])
@pytest.mark.parametrize("evaluate", [
    lambda energy, rho: energy(rho), lambda energy, rho: energy.first_variation(rho),
    lambda energy, rho: energy.dissipation(rho), lambda energy, rho: energy.assemble(rho.grid),
    lambda energy, rho: wg.solve(energy, rho, (0, 0.01)),
    lambda energy, rho: wg.solve(energy, rho, (0, 0.01), method=wg.JKO(tau=0.01)),
], ids=["F", "first_variation", "dissipation", "assemble", "solve", "JKO"])
def test_whatever_evaluates_the_energy_refuses(energy, evaluate):
    with pytest.raises(InvalidInput, match=r"Lebesgue measure: .*use model.grid"):
        evaluate(energy, LAW)


@pytest.mark.parametrize("other", [39, 41, 80])
def test_the_weight_of_another_dimension_is_refused(other):
    grid = IsotropicGaussian(d=other, delta=0.5).grid(cells=400, r_max=4.0)
    with pytest.raises(InvalidInput, match=r"another one: from \(r=.*\) to \(r="):
        MODEL.energy(beta=100.0)(MODEL.initial_density(0.8, grid))


def test_other_coordinates_are_refused():
    plane = AnisotropicGaussian(d=40, s0=10, delta=0.5)
    with pytest.raises(InvalidInput, match="2 axes"):
        MODEL.energy(beta=100.0)(wg.Density.uniform(plane.grid(cells=8)))
    with pytest.raises(InvalidInput, match="begins at -4, and r is a length"):
        MODEL.energy(beta=100.0)(wg.Density.uniform(wg.Grid((-4, 4), cells=80)))


def test_two_blocks_exchanged_are_refused():
    model, other = (AnisotropicGaussian(d=40, s0=s0, delta=0.5) for s0 in (10, 30))
    rho = model.initial_density(0.8, model.grid(cells=24))
    assert np.isfinite(model.energy(beta=50.0)(rho))
    with pytest.raises(InvalidInput, match=r"another one: from \(r1=.*, r2=.*\) to \(r1="):
        other.energy(beta=50.0)(rho)


def test_a_weighted_grid_is_refused_where_coordinates_are_parameters():
    model = LinearNeuron(1.0, 0.5)
    grid = wg.Grid((0, 4), cells=40, log_weight=log_power_cell_average(np.linspace(0, 4, 41), 2))
    with pytest.raises(InvalidInput, match="another one"):
        model.energy(beta=3.0)(wg.Density.uniform(grid))


def test_the_limit_of_infinite_dimension_has_no_entropy():
    model = IsotropicGaussian(d=np.inf, delta=0.5)
    rho = model.initial_density(0.8, model.grid(cells=40))
    assert np.isfinite(model.energy()(rho))
    with pytest.raises(InvalidInput, match="d=inf has no reference measure"):
        (model.energy() + wg.Entropy(100.0))(rho)


@pytest.mark.parametrize("weight", [None, np.linspace(0.0, 9.0, 400)])
def test_without_an_internal_energy_every_grid_serves(weight):
    grid = wg.Grid((0, 4), cells=400, log_weight=weight)
    rho = MODEL.initial_density(0.8, grid)
    plain = MODEL.energy()
    for energy in (MODEL.energy(ridge=0.01), plain + 0.0 * wg.Entropy(3.0), plain + wg.Entropy(np.inf)):
        assert energy(rho) == pytest.approx(energy(MODEL.initial_density(0.8, OWN)), abs=1e-3)
    assert wg.solve(MODEL.energy(), rho, (0, 0.1)).certificate.ok


def test_atoms_are_not_asked():
    assert MODEL.energy(beta=100.0)(MODEL.initial_atoms(0.8)) == MODEL.energy()(MODEL.initial_atoms(0.8))


def test_a_constant_factor_matters_to_powers_alone():
    grid = wg.Grid((0, 4), cells=400, log_weight=MODEL.log_weight(PLAIN) + 3.0)
    rho, own = (MODEL.initial_density(0.8, g) for g in (grid, MODEL.weighted(PLAIN)))
    energy = MODEL.energy(beta=100.0)
    assert energy(rho) == pytest.approx(energy(own) - 0.03, abs=1e-12)
    with pytest.raises(InvalidInput, match="off by 3 everywhere, which changes internal energies other than"):
        (MODEL.energy() + wg.PowerEntropy(2.0))(rho)


MODELS = {
    "isotropic": (MODEL, {"r_max": 3.0}), "one input": (IsotropicGaussian(d=1, delta=0.5), {"r_max": 5.0}),
    "many inputs": (IsotropicGaussian(d=20_000, delta=0.5), {"r_max": 3.0}),
    "two blocks": (AnisotropicGaussian(d=320, s0=60, delta=0.4), {"r_max": (2.0, 3.0)}),
    "rectifiers": (ReLUNetwork(d=320, s0=60, delta=0.4), {"bounds": [(-2, 2), (-2, 2), (0.1, 2), (0, 3)]}),
    "linear": (LinearNeuron([2.0, 0.5], [1.0, -1.0]), {"bounds": [(-4, 4), (-5, 5)]}),
    "quadratic": (QuadraticActivation([[1.0, 0.0], [0.0, 0.5]]), {"bounds": [(-4, 4), (-5, 5)]}),
    "data": (FiniteData([-1.0, 0.5, 2.0], [-0.5, 0.2, 0.4]), {"bounds": [(-4, 4)]}),
}


@pytest.mark.parametrize("name", MODELS)
def test_all_grids_of_a_model_pass(name):
    model, options = MODELS[name]
    cells = {1: 64, 2: 32, 4: 16}[model.n_coordinates]
    energy = wg.Potential(model.potential, reference=model.log_weight) + wg.Entropy(5.0)
    for grid in (model.grid(cells), model.grid(cells, **options), model.grid((cells,) * model.n_coordinates)):
        energy.check_grid(grid, energy)
        energy.check_grid(model.weighted(wg.Grid(grid.bounds, cells=cells)), energy)
        rho = wg.Density.uniform(grid)
        if not any(grid.origin):
            energy.check_grid(coarser(rho).grid, energy)


@pytest.mark.parametrize("d", [2, 40, 320, 20_000])
def test_joined_cells_agree_far_below_the_tolerance(d):
    # Joining sums what logaddexp sees; what is left is the rounding of logarithms.
    model = IsotropicGaussian(d=d, delta=0.5)
    rho = wg.Density.uniform(model.weighted(wg.Grid((0, 3), cells=512)))
    for _ in range(4):
        rho = coarser(rho)
        gap = rho.grid.log_weight - model.log_weight(rho.grid)
        assert np.ptp(gap) < 1e-11 * max(1.0, d / 100)


def test_richardson_solves_of_a_model_pass():
    model = AnisotropicGaussian(d=40, s0=10, delta=0.5)
    rho0 = model.initial_density(0.8, model.grid(cells=64))
    sol = wg.solve(model.energy(beta=50.0, ridge=0.1), rho0, (0, 0.02), time_scale=2.0, error_estimate=True)
    assert sol.certificate.error_estimate is not None


def test_a_stored_solution_keeps_a_grid_that_passes(tmp_path):
    sol = wg.solve(MODEL.energy(beta=100.0), MODEL.initial_density(0.8, OWN), (0, 0.01))
    sol.save(tmp_path / "run.nc")
    again = wg.load(tmp_path / "run.nc")
    assert MODEL.energy(beta=100.0)(again.final) == pytest.approx(sol.energy[-1], abs=1e-10)


def test_the_check_is_made_once_a_grid():
    calls = []

    def log_weight(grid):
        calls.append(grid)
        return MODEL.log_weight(grid)

    energy = wg.Potential(lambda r: r**2, reference=log_weight) + wg.Entropy(2.0)
    rho = MODEL.initial_density(0.8, OWN)
    for _ in range(3):
        energy(rho)
        energy.assemble(rho.grid)
    assert len(calls) == 1


def test_a_reference_must_be_a_function():
    with pytest.raises(InvalidType, match="reference must be a function of a grid, got ndarray"):
        wg.Potential(lambda r: r**2, reference=np.zeros(3))


def test_automatic_grids_refuse_reduced_coordinates_with_noise():
    with pytest.raises(InvalidInput, match=r"use model\.grid"):
        wg.Grid.for_problem(MODEL.energy(beta=100.0, ridge=0.1), (0.8, 0.01), 0.1, bounds=[(0.0, 4.0)])
