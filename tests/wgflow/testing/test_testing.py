"""The property-testing kit: assertions pass what is right and fail what is wrong, strategies draw what they promise."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.errors import InvalidInput

GRID = wg.Grid((-2, 2), cells=40)
RHO = wg.Density.gaussian(GRID, 0.3, 0.2)
ENERGY = wg.Potential(lambda x: x**2 / 2) + wg.Entropy(2.0)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(wg.testing.grids(axes=[1, 2], boundaries=["no-flux"]))
def test_grids_of_walls_alone(grid):
    assert set(grid.boundary) == {"no-flux"}
    assert grid.ndim <= 2


@pytest.fixture(scope="module")
def sol():
    return wg.solve(ENERGY, RHO, (0, 0.5))


def changed(solution, factor):
    """The solution with its last density multiplied by ``factor``, behind its back."""
    last = wg.Density.from_values(GRID, solution.final.values * factor, normalize=False)
    return _Fake(solution.t, [*solution.densities[:-1], last], solution.history)


@dataclasses.dataclass
class _Fake:
    t: np.ndarray
    densities: list
    history: object
    is_atomic: bool = False


def test_a_right_solution_passes(sol):
    wg.testing.assert_mass_conserved(sol)
    wg.testing.assert_nonnegative(sol)
    wg.testing.assert_energy_decays(sol)
    wg.testing.assert_energy_decays(sol, ENERGY)


def test_wrong_solutions_fail(sol):
    with pytest.raises(AssertionError, match="mass is not conserved"):
        wg.testing.assert_mass_conserved(changed(sol, 1 + 1e-10))
    with pytest.raises(AssertionError, match=r"energy \(formed again\) rises"):
        wg.testing.assert_energy_decays(sol, lambda rho: -ENERGY(rho))
    backwards = _Fake(sol.t, sol.densities, SimpleNamespace(t=sol.t, energy=np.arange(float(len(sol.t)))))
    with pytest.raises(AssertionError, match=r"energy \(recorded\) rises from 0 to 1"):
        wg.testing.assert_energy_decays(backwards)

    class Negative:
        values = np.where(np.arange(40) == 7, -1e-9, 1.0)

    with pytest.raises(AssertionError, match=r"-1e-09 in cell \(7,\)"):
        wg.testing.assert_nonnegative(_Fake(sol.t[:1], [Negative], {}))
    atoms = wg.solve(ENERGY, RHO, (0, 0.01), method=wg.Lagrangian(rng=3))
    with pytest.raises(InvalidInput, match="atoms"):
        wg.testing.assert_mass_conserved(atoms)


@settings(max_examples=25)
@given(st.data())
def test_gibbs_states_of_any_potential_are_fixed(data):
    grid = data.draw(wg.testing.grids())
    wg.testing.assert_gibbs_fixed(data.draw(wg.testing.potentials(grid)) / 10, data.draw(st.sampled_from([1.0, 5.0])),
                                  grid)


class Leaky(wg.Term):
    """x^2 with a first variation of x^2 times a factor, and a constant that moves nothing."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def energy(self, rho):
        return float((rho.masses * rho.grid.centers[0] ** 2).sum())

    def first_variation(self, rho):
        return self.factor * rho.grid.centers[0] ** 2 + 3.0


@settings(max_examples=50)
@given(st.data())
def test_first_variations(data):
    grid = data.draw(wg.testing.grids(axes=(1, 2)))
    rho = data.draw(wg.testing.densities(grid, kinds=("rough", "holes", "smooth")))
    wg.testing.assert_first_variation(data.draw(wg.testing.energies(grid, betas=(1.0, 10.0))), rho)


def test_a_wrong_first_variation_fails():
    wg.testing.assert_first_variation(Leaky(), RHO)
    with pytest.raises(AssertionError, match="not the derivative"):
        wg.testing.assert_first_variation(Leaky(1.0 + 1e-4), RHO)


def test_orders():
    h = np.array([0.1, 0.05, 0.025])
    wg.testing.assert_order(h, 3 * h**2, 2)
    with pytest.raises(AssertionError, match=r"observed order is 1\.000"):
        wg.testing.assert_order(h, h, 2)
    with pytest.raises(InvalidInput, match="an error of 0"):
        wg.testing.assert_order(h, 0 * h, 2)
    with pytest.raises(InvalidInput, match="different sizes"):
        wg.testing.assert_order([1, 1], [1, 1], 2)


@settings(max_examples=50)
@given(st.data())
def test_kernels_are_symmetric_and_agree_with_their_terms(data):
    grid = data.draw(wg.testing.grids(axes=(1, 2)))
    kernel = data.draw(wg.testing.symmetric_kernels(grid))
    wg.testing.assert_symmetric_kernel(kernel.table)
    rho = data.draw(wg.testing.densities(grid, kinds=("rough",)))
    m = rho.masses.ravel()
    scale = np.abs(kernel.table).max() * m.sum() ** 2
    assert (1.0 * kernel.term)(rho) == pytest.approx(0.5 * m @ kernel.table @ m, abs=1e-12 * scale)


def test_a_kernel_that_is_not_symmetric_fails():
    wg.testing.assert_symmetric_kernel(lambda x, y: np.exp(-(x - y) ** 2), [GRID.centers[0]])
    with pytest.raises(AssertionError, match=r"U\[0, 39\]"):
        wg.testing.assert_symmetric_kernel(lambda x, y: x - y, [GRID.centers[0]])
    with pytest.raises(InvalidInput, match="points=None"):
        wg.testing.assert_symmetric_kernel(lambda x, y: x - y)
    with pytest.raises(InvalidInput, match="shape"):
        wg.testing.assert_symmetric_kernel(np.ones((2, 3)))


def test_hypothesis_is_imported_when_used_and_named_when_missing():
    code = ("import sys, wgflow as wg; wg.testing.assert_order([1, 2], [1, 4], 2); print('hypothesis' in sys.modules)\n"
            "sys.modules['hypothesis'] = None\n"
            "try:\n    wg.testing.flows()\nexcept wg.InvalidInput as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0] == "False"
    assert "wgflow[test]" in done.stdout.splitlines()[1]
