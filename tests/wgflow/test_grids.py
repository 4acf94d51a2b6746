"""Grids: geometry, equality, weights of reduced coordinates, what a user's function sees."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow import Density, Grid
from wgflow.errors import InvalidInput
from wgflow.grids import log_power_cell_average

PLANE = Grid([(-4, 4), (0, 1)], cells=(80, 10), boundary=("no-flux", "periodic"))
GRADED = Grid(edges=[0.0, 0.1, 0.3, 0.6, 1.0])


def test_the_geometry_of_a_uniform_grid():
    assert (PLANE.ndim, PLANE.shape, PLANE.size) == (2, (80, 10), 800)
    assert PLANE.bounds == ((-4.0, 4.0), (0.0, 1.0))
    assert PLANE.boundary == ("no-flux", "periodic")
    assert PLANE.periodic == (False, True)
    assert PLANE.names == ("x", "y")
    assert PLANE.uniform == (True, True)
    np.testing.assert_allclose(PLANE.centers[0], -4 + 0.1 * (np.arange(80) + 0.5), atol=1e-14)
    np.testing.assert_array_equal(PLANE.widths[1], np.full(10, 0.1))
    assert PLANE.volumes.shape == (80, 10)
    assert PLANE.volumes.sum() == pytest.approx(8.0, rel=1e-14)
    x, y = PLANE.mesh()
    assert x.shape == y.shape == (80, 10)
    assert (x[3, 7], y[3, 7]) == (PLANE.centers[0][3], PLANE.centers[1][7])


def test_the_geometry_of_given_edges():
    np.testing.assert_allclose(GRADED.widths[0], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(GRADED.centers[0], [0.05, 0.2, 0.45, 0.8])
    np.testing.assert_allclose(GRADED.volumes, GRADED.widths[0])
    assert GRADED.uniform == (False,)
    np.testing.assert_allclose(GRADED.distances[0], [0.15, 0.25, 0.35])
    np.testing.assert_allclose(Grid(edges=GRADED.edges, boundary="periodic").distances[0], [0.15, 0.25, 0.35, 0.25])


def test_one_axis_may_be_given_in_short():
    for grid in (Grid((0, 1), cells=4), Grid([(0, 1)], cells=(4,)), Grid([[0, 1]], 4), Grid(np.array([0.0, 1.0]), 4),
                 Grid(edges=np.linspace(0, 1, 5)), Grid(edges=[np.linspace(0, 1, 5)]), Grid((0, 1), cells=np.int64(4)),
                 Grid((0, 1), cells=4, boundary=["no-flux"]), Grid(edges=[0, 0.25, 0.5, 0.75, 1])):
        assert grid == Grid([(0.0, 1.0)], cells=4)
        assert hash(grid) == hash(Grid([(0.0, 1.0)], cells=4))


def test_grids_that_differ_are_not_equal():
    base = Grid((0, 1), cells=4)
    weighted = Grid((0, 1), cells=4, log_weight=np.zeros(4))
    for other in (Grid((0, 1), cells=5), Grid((0, 2), cells=4), Grid((0, 1), cells=4, boundary="periodic"), weighted,
                  Grid(edges=[0, 0.2, 0.5, 0.75, 1])):
        assert base != other
    assert weighted != Grid((0, 1), cells=4, log_weight=np.ones(4))
    assert base != "a grid"


def test_arrays_of_a_grid_cannot_be_written():
    weight = np.zeros(4)
    grid = Grid((0, 1), cells=4, log_weight=weight)
    for array in (*grid.edges, *grid.centers, *grid.widths, grid.volumes, grid.log_weight):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    weight[:] = 7.0  # the caller's array stays his own
    assert grid.log_weight.max() == 0.0
    edges = np.linspace(0, 1, 5)
    grid = Grid(edges=edges)
    edges[2] = 0.6
    assert grid.edges[0][2] == 0.5


@settings(max_examples=200)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 400))
def test_cells_tile_the_interval(lo, length, cells):
    grid = Grid((lo, lo + length), cells=cells)
    edges = grid.edges[0]
    assert (edges[0], edges[-1]) == (lo, lo + length)
    assert (np.diff(edges) > 0).all()
    assert grid.widths[0].sum() == pytest.approx(edges[-1] - edges[0], rel=1e-12)
    assert ((grid.centers[0] > edges[:-1]) & (grid.centers[0] < edges[1:])).all()


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_one_to_four_axes(ndim):
    grid = Grid([(0, k + 1) for k in range(ndim)], cells=tuple(range(2, 2 + ndim)))
    assert grid.volumes.sum() == pytest.approx(math.factorial(ndim), rel=1e-13)
    assert len(grid.mesh()) == ndim
    assert grid.names == ("x", "y", "z", "w")[:ndim]
    assert all(str(n) in repr(grid) for n in grid.shape)


# ---------------------------------------------------------------- weights
@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 39.0, 319.0, 1e4])
def test_cell_averages_of_powers(power):
    # Against 60 digits; the logarithm keeps an absolute accuracy of some ulp of its terms.
    edges = np.concatenate((np.linspace(0, 3, 31), [3.0 + 1e-6, 40.0]))
    values = log_power_cell_average(edges, power)
    with localcontext() as context:
        context.prec = 60
        q = Decimal(power) + 1
        for value, a, b in zip(values, map(Decimal, map(float, edges)), map(Decimal, map(float, edges[1:]))):
            lower = (q * a.ln()).exp() if a else Decimal(0)
            exact = (((q * b.ln()).exp() - lower) / (q * (b - a))).ln()
            assert abs(float(Decimal(float(value)) - exact)) <= 4e-16 * (10 + (power + 1) * 5) + 1e-9 * (a == 3)


def test_a_radial_gaussian_has_its_moments():
    # N(0, I) in R^40 along the radius: E r^2 = 40, Var r^2 = 80.
    edges = np.linspace(0, 15, 601)
    grid = Grid((0, 15), cells=600, log_weight=log_power_cell_average(edges, 39))
    rho = wg.Density.from_log_function(grid, lambda r: 39 * np.log(r) - r * r / 2)
    assert rho.expect(lambda r: r * r) == pytest.approx(40.0, rel=1e-4)
    assert rho.expect(lambda r: (r * r - 40) ** 2) == pytest.approx(80.0, rel=1e-2)
    # It is the Gibbs state of V = r^2 / 2 at beta = 1, relative to that weight.
    mu = (wg.Entropy(1.0) + wg.Potential(lambda r: r * r / 2)).first_variation(rho)
    inside = rho.values > 1e-8
    assert np.ptp(mu[inside]) < 1e-2


# ---------------------------------------------------------------- users' functions
def test_a_users_function_is_called_once_with_full_arrays():
    calls = []

    def V(x, y):
        calls.append((x.shape, y.shape))
        return x + np.cos(2 * np.pi * y)

    potential = wg.Potential(V)
    rho = wg.Density.uniform(PLANE)
    energy = wg.Entropy(1.0) + potential
    energy(rho), energy.first_variation(rho)
    assert calls == [((80, 10), (80, 10))]
    wg.solve(energy, rho, (0, 0.1), method=wg.FiniteVolume(dt=0.05))
    # A solve also looks at some points at the two ends of the periodic axis.
    assert [shape for shape in calls if len(shape[0]) == 2] == [((80, 10), (80, 10))]


def test_a_users_division_by_zero_is_not_a_warning(recwarn):
    grid = Grid(edges=[-1.0, -0.5, 0.5, 1.0])
    assert wg.Potential(lambda x: np.where(x == 0, 2.0, np.sin(x) / x)).values(grid)[1] == 2.0
    assert not recwarn.list


def test_an_axis_with_an_origin_has_a_cell_there():
    grid = Grid((0.0, 3.0), cells=8, origin=True)
    assert grid.origin == (True,)
    assert grid.bounds == ((0.0, 3.0),)
    assert grid.widths[0] == pytest.approx([0.2] + [0.4] * 7, rel=1e-14)
    assert grid.centers[0] == pytest.approx(0.4 * np.arange(8), abs=1e-14)
    assert grid.distances[0] == pytest.approx([0.4] * 7, rel=1e-14)
    # All widths but the first are the same to the last bit, on given edges too: kernels take them in one run.
    assert len(set(grid.widths[0][1:])) == len(set(grid.distances[0])) == 1
    assert Grid(edges=grid.edges, origin=True) == grid
    assert Grid(edges=grid.edges) != grid
    flat = Grid([(0.0, 3.0), (0.0, 1.0)], cells=(8, 5), origin=(True, False))
    assert flat.distances[1] == pytest.approx([0.2] * 4)
    rho = Density.from_values(flat, np.ones(flat.shape), normalize=True)
    assert rho.marginal(0).grid == grid


@pytest.mark.parametrize(("origin", "boundary", "words"), [
    (True, "periodic", "periodic axis"), ((True, False), "no-flux", "each of 1 axes"), (1, "no-flux", "origin=1"),
])
def test_a_bad_origin(origin, boundary, words):
    with pytest.raises(InvalidInput, match=words):
        Grid((0.0, 1.0), cells=4, origin=origin, boundary=boundary)


def test_mass_comes_to_rest_at_an_origin_exactly():
    grid = Grid((0.0, 2.0), cells=40, origin=True)
    sol = wg.solve(wg.Potential(lambda x: x), Density.gaussian(grid, 0.6, 0.01), (0.0, 5.0))
    assert sol.certificate.ok
    assert sol.final.masses[0] == pytest.approx(1.0, abs=1e-9)
    assert sol.energy[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("format", ["nc", "npz"])
def test_an_origin_is_stored(tmp_path, format):
    grid = Grid((0.0, 2.0), cells=20, origin=True)
    sol = wg.solve(wg.Potential(lambda x: x), Density.gaussian(grid, 0.6, 0.01), (0.0, 0.1))
    sol.save(tmp_path / f"run.{format}")
    assert wg.load(tmp_path / f"run.{format}").grid == grid
