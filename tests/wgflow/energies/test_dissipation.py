"""The dissipation by each of its routes, against integrals and sums that are known; sums over an energy's parts."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled.compact import compact_dissipation
from wgflow.compiled.sweep import _axis_dissipation
from wgflow.compiled.transport import ROUGH_FIELD, SMOOTH_FIELD, transport_dissipation
from wgflow.energies.dissipation import (
    compact_dissipation_on_grid,
    dissipation_on_grid,
    linear_dissipation,
    transport_rate,
)
from wgflow.energies.mobility import Mobility
from wgflow.energies.nodes import node_grid, nodes_of_density
from wgflow.energies.on_grid import EnergyOnGrid


class Linear:
    """A functional c . m, whose value and derivative are plain."""

    def __init__(self, values):
        self.values = values

    def energy(self, masses):
        return float((self.values * masses).sum())

    def first_variation(self, masses):
        return self.values


# ---------------------------------------------------------------- atoms
def test_atoms_have_no_dissipation_of_a_flow_that_spreads():
    atoms = wg.Atoms(np.array([[1.0, 2.0]]), np.array([0.25, 0.75]))
    with pytest.raises(wg.InvalidInput, match="atoms have no entropy"):
        (wg.Entropy(1.0) + wg.Potential(lambda x: x)).dissipation(atoms)
    # int rho |grad V|^2, and with A: int rho grad V . A grad V.
    bowl = wg.Entropy(math.inf) + wg.Potential(lambda x: x**2 / 2)
    assert bowl.dissipation(atoms) == pytest.approx(0.25 * 1 + 0.75 * 4)
    assert bowl.dissipation(atoms, Mobility(3.0)) == pytest.approx(3 * (0.25 * 1 + 0.75 * 4))


# ---------------------------------------------------------------- densities
A_FULL = np.array([[1.0, 0.4], [0.4, 2.0]])
MOBILITIES = {"none": (None, np.eye(2)), "scalar": (Mobility(2.5), 2.5 * np.eye(2)),
              "diagonal": (Mobility([0.5, 3.0]), np.diag([0.5, 3.0])), "full": (Mobility(A_FULL.tolist()), A_FULL),
              "varies": (Mobility([lambda x, y: 1.0 + 0 * x, lambda x, y: 1 + x**2]), None)}


@pytest.mark.parametrize("name", MOBILITIES)
@pytest.mark.parametrize("nodes", [True, False])
def test_the_dissipation_tends_to_its_integral(name, nodes):
    # V = |x|^2 / 2, beta = 2 and the Gaussian of mean a and variances s: grad mu = a + B (x - a), B = 1 - 1 / (2 s).
    mobility, A = MOBILITIES[name]
    mean, s = np.array([0.4, -0.3]), 0.5 * np.array([1.2, 0.8])
    B = 1 - 1 / (2 * s)
    if A is None:  # int rho ((a_1 + B_1 (x - a_1))^2 + (1 + x^2) (a_2 + B_2 (y - a_2))^2), in which x and y factor
        A = np.diag([1.0, 1.0 + mean[0] ** 2 + s[0]])
    exact = float(np.trace(A @ np.diag(B**2 * s)) + mean @ A @ mean)
    energy, errors = wg.Entropy(2.0) + wg.Potential(lambda x, y: (x**2 + y**2) / 2), []
    for n in (60, 120):
        grid = wg.Grid([(-6, 6), (-5, 6)], cells=(n, n * 5 // 6))
        rho = wg.Density.gaussian(grid, mean, np.diag(s))
        rho = wg.Density(grid, rho.values)
        if nodes:
            rho.nodal = nodes_of_density(rho)
        errors.append(energy.dissipation(rho, mobility) - exact)
    if nodes:
        assert abs(errors[1]) < 1e-4 * exact
        assert math.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.5)
    else:
        assert abs(errors[1]) < 0.02 * exact
        assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.25)


@pytest.mark.parametrize("rough", [True, False])
def test_a_law_with_jumps_and_no_diffusion_dissipates_the_square_of_the_slope(rough):
    # A uniform patch in V = x^2 + y^2 / 2: int rho (4 x^2 + y^2), the patch within cells.
    grid = wg.Grid([(-2, 2), (-2, 3)], cells=(160, 200))
    sides = [np.diff(np.clip(e, low, high)) / (high - low)
             for e, (low, high) in zip(grid.edges, ((-0.493, 1.011), (0.507, 1.522)))]
    masses, x = sides[0][:, None] * sides[1], grid.mesh()
    squares = [(high**3 - low**3) / (3 * (high - low)) for low, high in ((-0.493, 1.011), (0.507, 1.522))]
    exact = 4 * squares[0] + squares[1]
    psi = np.ascontiguousarray(x[0] ** 2 + x[1] ** 2 / 2 + 0 * masses)
    assert transport_rate(masses, psi, grid, rough) == pytest.approx(exact, rel=3e-3)
    energy = wg.Entropy(math.inf) + wg.Potential(lambda x, y: x**2 + y**2 / 2)
    rho = wg.Density(grid, masses / grid.volumes)
    assert energy.dissipation(rho) == transport_rate(rho.masses, psi, grid, False)


def test_a_singular_interaction_takes_the_speeds_of_a_rough_field():
    grid = wg.Grid((-1, 1), cells=41)
    masses = np.diff(np.clip(grid.edges[0], -0.52, 0.66))
    rho = wg.Density(grid, masses / masses.sum() / grid.volumes)
    for kernel, rough in ((lambda d: np.exp(-(d**2)), False), (wg.interactions.log(), True)):
        term = wg.Interaction(kernel if rough else wg.Convolution(kernel))
        on_grid = (wg.Entropy(math.inf) + term).assemble(grid)
        psi = on_grid.psi(on_grid.potential, rho.masses)
        rates = {field: transport_rate(rho.masses, psi, grid, field) for field in (True, False)}
        assert abs(rates[True] - rates[False]) > 1e-6
        assert dissipation_on_grid(on_grid, rho.masses) == rates[rough]
        assert rates[rough] == transport_dissipation(rho.masses[None].copy(), psi[None].copy(), grid.widths[0],
                                                     grid.distances[0], ROUGH_FIELD if rough else SMOOTH_FIELD)


def test_read_only_arrays_compile_no_second_kernel(rng):
    # A kernel is compiled for arrays that can be written to: for others it would be compiled again, for seconds.
    m, psi = rng.uniform(0.5, 1.0, (20, 16)), rng.normal(size=(20, 16))
    grid = wg.Grid([(0, 1), (0, 2)], cells=(20, 16))
    for function, kernel, on in ((linear_dissipation, _axis_dissipation, grid),
                                 (compact_dissipation_on_grid, compact_dissipation, node_grid(grid))):
        plain = function(m, psi, on, 0.5)
        frozen = [a.copy() for a in (m, psi)]
        for a in frozen:
            a.flags.writeable = False
        assert function(*frozen, on, 0.5) == plain
        assert function(m, frozen[1], on, 0.5) == function(frozen[0], psi, on, 0.5) == plain
        assert all(kind.mutable for kinds in getattr(kernel, "signatures", ()) for kind in kinds[:2])


# ---------------------------------------------------------------- sums over the parts of an energy
def test_fields_and_energies_of_functionals_add(rng):
    grid = wg.Grid((0, 1), cells=8)
    m, a, b, v = (rng.uniform(0.5, 1.0, 8) for _ in range(4))
    energy = EnergyOnGrid(grid, potential=v, functionals=[(2.0, Linear(a)), (3.0, Linear(b))])
    np.testing.assert_allclose(energy.field(m, None), 2 * a + 3 * b, rtol=1e-15)
    np.testing.assert_allclose(energy.field(m, v), v + 2 * a + 3 * b, rtol=1e-15)
    np.testing.assert_allclose(energy.psi(v, m), v + 2 * a + 3 * b, rtol=1e-15)
    assert energy.energy(m) == pytest.approx(float(m @ (v + 2 * a + 3 * b)), rel=1e-14)
    assert EnergyOnGrid(grid, potential=v).field(m, None) is None
    tripled = EnergyOnGrid(grid, potential=v).plus([(3.0, energy)])
    np.testing.assert_allclose(tripled.chemical_potential(m), 4 * v + 6 * a + 9 * b, rtol=1e-15)
    assert energy.moves
    assert not EnergyOnGrid(grid, potential=v).moves


def test_the_size_of_terms_bounds_the_energy_and_its_rounding(rng):
    grid = wg.Grid((0, 1e-3), cells=8)
    m, v = rng.uniform(0.0, 1e-3, 8), rng.normal(size=8)
    for diffusion in (0.0, 0.7):
        energy = EnergyOnGrid(grid, diffusion, v)
        logs = np.abs(np.log(m)) + abs(math.log(1e-3 / 8))
        assert energy.size_of_terms(m) == pytest.approx(float(m @ (np.abs(v) + diffusion * logs)), rel=1e-13)
        assert energy.size_of_terms(m) >= abs(energy.energy(m))


def test_internal_energies_and_their_slopes_take_their_factors(rng):
    grid = wg.Grid((0, 2), cells=8)
    m = rng.uniform(0.1, 0.3, 8)
    r = m / grid.volumes
    energy = EnergyOnGrid(grid, potential=np.zeros(8),
                          internal=[(3.0, wg.PowerEntropy(2.0)), (0.5, wg.PowerEntropy(3.0))])
    # H = r^2 and r^3 / 2, with the slopes 2 r and 3 r^2 / 2.
    np.testing.assert_allclose(energy.chemical_potential(m), 3 * 2 * r + 0.5 * 1.5 * r**2, rtol=1e-14)
    assert energy.energy(m) == pytest.approx(float(((3 * r**2 + 0.25 * r**3) * grid.volumes).sum()), rel=1e-14)


def test_terms_that_a_method_does_not_know_are_refused():
    grid = wg.Grid((0, 1), cells=8)
    square = wg.MomentEnergy(lambda x: x[None], lambda z: (z * z).sum(), lambda z: 2 * z).on_grid(grid)
    own = EnergyOnGrid(grid, potential=np.zeros(8), functionals=[(1.0, Linear(np.ones(8)))])
    internal = EnergyOnGrid(grid, potential=np.zeros(8), internal=[(1.0, wg.PowerEntropy(2.0))])
    for energy, known in ((square, {"moments": True}), (square, {"functionals": True}), (own, {"functionals": True}),
                          (internal, {"internal": True})):
        energy.check_terms("a method", **known)
        with pytest.raises(wg.InvalidInput, match="a method knows"):
            energy.check_terms("a method")
    with pytest.raises(wg.InvalidInput, match="a method knows"):
        own.check_terms("a method", moments=True, internal=True)
    with pytest.raises(wg.InvalidInput, match="a method knows"):
        internal.check_terms("a method", moments=True, functionals=True)
