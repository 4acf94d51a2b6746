"""Named kernels: exact averages over cells, tables, sums over points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgflow import Atoms, Convolution, Density, Grid, Interaction, InvalidInput
from wgflow.errors import InvalidType
from wgflow.interactions import (
    bessel,
    cosine,
    exponential,
    gaussian,
    log,
    morse,
    newtonian,
    power,
    quadratic,
    yukawa,
)
from wgflow.interactions.cell_averages import cell_averages
from wgflow.interactions.cell_pairs import pair_table
from wgflow.interactions.kernel_tables import _OfFunction, _OfKernel

LINE = [log(), newtonian(1), power(1.0), power(0.5), power(-0.5), power(-0.9), exponential(0.2), exponential(1e-3),
        yukawa(1, 0.5), bessel(1), morse(), gaussian(0.3), quadratic(2.0), quadratic() - 2 * log()]
PLANE = [log(), newtonian(2), power(-1.2), power(1.0), exponential(0.3), yukawa(2, 0.4), bessel(2, 3.0), gaussian(0.2)]
SPACE = [newtonian(3), log(), power(-2.5), yukawa(3, 0.5), bessel(3), exponential(0.4)]


def averages(kernel, reach, widths):
    return cell_averages(_OfKernel(kernel), [np.arange(n) for n in reach], widths)


def even(table, *index):
    """Entry of a table that is given for displacements >= 0 of a kernel that is even on each axis."""
    return table[np.ix_(*[np.abs(k) for k in index])]


# ---------------------------------------------------------------- averages over cells
@pytest.mark.parametrize("kernel", LINE, ids=repr)
def test_averages_on_the_line_are_differences_of_antiderivatives(kernel):
    h, k = 0.07, np.arange(30)
    single, double = averages(kernel, (30,), [h])
    x = k * h
    expected = (kernel.first(x + h / 2) - kernel.first(x - h / 2)) / h
    twice = (kernel.second(x + h) - 2 * kernel.second(x) + kernel.second(x - h)) / h**2
    # Second differences lose the digits of k^2.
    np.testing.assert_allclose(single, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(double, twice, rtol=2e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "widths"), [
    *((kernel, (0.05, 0.2)) for kernel in PLANE), (log(), (1.0, 1.0)), (newtonian(2), (1.0, 1e-3)),
    *((kernel, (0.2, 0.1, 0.15)) for kernel in SPACE)], ids=str)
def test_averages_over_larger_cells_are_means_of_those_over_smaller_ones(kernel, widths):
    # Three cells side by side make one, seen from the center of the middle one; two make one, seen from both of two.
    d = len(widths)
    single, double = averages(kernel, (8,) * d, widths)
    thrice, _ = averages(kernel, (3,) * d, [3 * h for h in widths])
    _, twice = averages(kernel, (3,) * d, [2 * h for h in widths])
    for index in np.ndindex(*(3,) * d):
        if sum(index) > 3:
            continue
        blocks = [3 * k + np.array([-1, 0, 1]) for k in index]
        assert thrice[index] == pytest.approx(even(single, *blocks).mean(), rel=1e-13, abs=1e-13)
        product = math.prod(np.meshgrid(*[[0.25, 0.5, 0.25]] * d, indexing="ij"))
        blocks = [2 * k + np.array([-1, 0, 1]) for k in index]
        assert twice[index] == pytest.approx((product * even(double, *blocks)).sum(), rel=1e-13, abs=1e-13)


def log_over_rectangle(a, b):
    """The integral of log |x| over [0, a] x [0, b]."""
    if a == 0 or b == 0:
        return 0.0
    return 0.5 * (a * b * (math.log(a * a + b * b) - 3.0) + a * a * math.atan2(b, a) + b * b * math.atan2(a, b))


@pytest.mark.parametrize("widths", [(1.0, 1.0), (0.3, 2.0), (0.01, 1.0)])
def test_the_logarithm_over_rectangles(widths):
    a, b = widths
    single, _ = averages(log(), (4, 4), widths)
    for i, j in np.ndindex(4, 4):
        corners = [(math.copysign(1, x * y) * s * t * log_over_rectangle(abs(x), abs(y)))
                   for s, x in ((1, (i + 0.5) * a), (-1, (i - 0.5) * a)) for t, y in ((1, (j + 0.5) * b),
                                                                                     (-1, (j - 0.5) * b))]
        assert single[i, j] == pytest.approx(sum(corners) / (a * b), rel=1e-12, abs=1e-12)


def test_known_means_over_squares_and_cubes():
    _, double = averages(log(), (1, 1), (1.0, 1.0))
    assert double[0, 0] == pytest.approx((4 * math.pi + 4 * math.log(2) - 25) / 12, abs=1e-14)
    single, double = averages(newtonian(3), (1, 1, 1), (1.0, 1.0, 1.0))
    r3 = math.sqrt(3)
    assert single[0, 0, 0] == pytest.approx(3 * math.log(2 + r3) - math.pi / 2, abs=2e-14)
    robbins = (math.sqrt(2) + 1 - 2 * r3) / 5 - math.pi / 3 + math.log((1 + math.sqrt(2)) * (2 + r3))
    assert double[0, 0, 0] == pytest.approx(2 * robbins, abs=2e-14)


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.95, 3.0), st.floats(0.05, 20.0), st.floats(1e-3, 1e3))
def test_averages_of_powers_scale_with_the_unit_of_length(p, ratio, unit):
    if abs(p) < 0.05:
        p = 0.05
    single, double = averages(power(p), (3, 3), (1.0, ratio))
    other = averages(power(p), (3, 3), (unit, unit * ratio))
    for here, there in zip((single, double), other):
        np.testing.assert_allclose(there, unit**p * here, rtol=1e-12)
    swapped = averages(power(p), (3, 3), (ratio, 1.0))
    np.testing.assert_allclose(swapped[0].T, single, rtol=1e-13)


@pytest.mark.parametrize(("function", "kernel", "grid"), [
    (lambda x: -np.log(np.abs(x)), log(-1.0), Grid((-1, 2), cells=40)),
    (lambda x: np.abs(x) ** -0.5 * -2, power(-0.5), Grid((-1, 2), cells=40)),
    (lambda x: np.exp(-np.abs(x) / 0.1), exponential(0.1), Grid((-1, 2), cells=40)),
    (lambda x, y: np.log(np.hypot(x, y)), log(), Grid([(-1, 2), (0, 1)], cells=(20, 12))),
    pytest.param(lambda x, y, z: 1 / np.sqrt(x * x + y * y + z * z), newtonian(3), Grid([(0, 1)] * 3, cells=2),
                 marks=pytest.mark.slow)],
    ids=["log", "power", "exponential", "log-plane", "newtonian-space"])
def test_functions_are_averaged_as_the_kernels_they_equal(function, kernel, grid):
    for average in (True, "double"):
        table = Convolution(function, average=average).operator(grid).table
        np.testing.assert_allclose(table, Convolution(kernel, average=average).operator(grid).table, rtol=1e-11,
                                   atol=1e-12)


def test_a_function_with_a_scale_of_its_own_is_resolved():
    # log |x| + cos(k x), with 9 radians a cell: the averages of the cosine are known.
    h, k = 0.05, 180.0
    integrand = _OfFunction(lambda x: np.log(np.abs(x)) + np.cos(k * x), Grid((0, 2), cells=40))
    single, double = cell_averages(integrand, [np.arange(40)], [h])
    exact, twice = averages(log(), (40,), [h])
    wave, sinc = np.cos(k * h * np.arange(40)), np.sinc(k * h / (2 * np.pi))
    np.testing.assert_allclose(single, exact + sinc * wave, rtol=0, atol=1e-12)
    np.testing.assert_allclose(double, twice + sinc**2 * wave, rtol=0, atol=1e-12)


def test_a_function_that_is_not_even_on_each_axis():
    grid = Grid([(0, 1), (0, 2)], cells=(9, 11))

    def w(x, y):
        return np.log(np.sqrt(x * x + x * y + y * y))

    _, double = cell_averages(_OfFunction(w, grid), [np.arange(-6, 7)] * 2, [0.1, 0.2])
    _, twice = cell_averages(_OfFunction(w, grid), [np.arange(-2, 3)] * 2, [0.2, 0.4])
    mean = np.array([0.25, 0.5, 0.25])
    for i, j in ((0, 0), (1, -1), (1, 1), (-2, 1)):
        block = double[2 * i + 5:2 * i + 8, 2 * j + 5:2 * j + 8]
        assert twice[i + 2, j + 2] == pytest.approx(mean @ block @ mean, abs=1e-12)
    assert abs(twice[3, 3] - twice[3, 1]) > 0.1


def test_the_default_average_leaves_smooth_functions_to_fourth_order():
    errors = []
    for n in (10, 20, 40, 80):
        grid = Grid((0, 2), cells=n)
        kernel = gaussian(0.7)
        errors.append([np.abs(Convolution(kernel, average=average).operator(grid).table
                              - Convolution(kernel).operator(grid).table).max() for average in (True, "double")])
    orders = -np.polyfit(np.log([10, 20, 40, 80]), np.log(errors), 1)[0]
    assert orders == pytest.approx([4.0, 2.0], abs=0.1)


# ---------------------------------------------------------------- on a grid
@pytest.mark.parametrize("widths", [(0.1,), (0.1, 0.25), (0.3, 0.2, 0.25)])
@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
def test_the_transform_is_the_double_sum(widths, boundary, rng):
    shape = (12, 7, 5)[:len(widths)]
    grid = Grid([(0, n * h) for n, h in zip(shape, widths)], cells=shape, boundary=boundary)
    kernel = newtonian(len(widths)) + 0.3 * exponential(0.2)
    term = Convolution(kernel)
    table = term.operator(grid).table
    rho = Density(grid, rng.random(shape))
    cells = np.array([k.ravel() for k in np.indices(shape)])
    step = cells[:, :, None] - cells[:, None, :]
    pairs = table[tuple(np.mod(s, m) for s, m in zip(step, table.shape))]
    np.testing.assert_allclose(pairs, pairs.T, rtol=0, atol=1e-13)
    masses = rho.masses.ravel()
    assert term(rho) == pytest.approx(0.5 * masses @ pairs @ masses, rel=1e-12)
    np.testing.assert_allclose(term.first_variation(rho).ravel(), pairs @ masses, rtol=1e-12, atol=1e-12)


def test_energies_of_uniform_laws_are_exact_with_double_averages():
    for n in (3, 10, 101):
        uniform = Density.uniform(Grid((2, 5), cells=n))
        assert Convolution(log(), average="double")(uniform) == pytest.approx(0.5 * (math.log(3) - 1.5), abs=1e-13)
        assert Convolution(newtonian(1), average="double")(uniform) == pytest.approx(-0.5, abs=1e-13)
    square = Density.uniform(Grid([(0, 2), (1, 3)], cells=(6, 9)))
    expected = 0.5 * (math.log(2) + (4 * math.pi + 4 * math.log(2) - 25) / 12)
    assert Convolution(log(), average="double")(square) == pytest.approx(expected, abs=1e-13)


def test_a_finer_grid_gives_the_same_energy_of_a_law_that_is_constant_on_cells(rng):
    for kernel, bounds, cells in ((log(-1.0), [(0, 1)], (9,)), (bessel(2, 0.3), [(0, 1), (0, 2)], (5, 4))):
        coarse = Grid(bounds, cells=cells)
        fine = Grid(bounds, cells=tuple(2 * n for n in cells))
        values = rng.random(cells)
        twice = values
        for axis in range(len(cells)):
            twice = np.repeat(twice, 2, axis=axis)
        term = Convolution(kernel, average="double")
        assert term(Density(fine, twice)) == pytest.approx(term(Density(coarse, values)), rel=1e-12)


def test_tables_of_values():
    line = Grid((0, 1), cells=5)
    w = np.array([4.0, 3, 2, 1, 7, 1, 2, 3, 4])
    rho = Density(line, [1.0, 0, 0, 2, 0])
    np.testing.assert_allclose(Convolution(w).first_variation(rho) / rho.masses[0], [13, 5, 4, 17, 6])
    circle = Grid((0, 1), cells=5, boundary="periodic")
    np.testing.assert_allclose(Interaction(Convolution([7.0, 1, 2, 2, 1])).first_variation(Density(circle, rho.values))
                               / rho.masses[0], [11, 5, 4, 16, 3])
    assert "a table" in Convolution(w).operator(line).form
    with pytest.raises(InvalidInput, match=r"w has shape \(5,\); need \(9,\): 2 n - 1 displacements"):
        Convolution([7.0, 1, 2, 2, 1]).operator(line)
    with pytest.raises(InvalidInput, match="not even"):
        Convolution(np.arange(9.0)).operator(line)
    with pytest.raises(InvalidInput, match="table is taken as it is"):
        Convolution(w, average=True)
    atoms = Atoms(np.array([0.1, 0.4]), np.ones(2) / 2)
    with pytest.raises(InvalidInput, match="not known at points"):
        Convolution(w).gradient(atoms, atoms.points)


def test_forms_say_how_the_kernel_was_taken():
    grid = Grid((0, 1), cells=16)
    assert Interaction(log()).form(grid).endswith("FFT of cell averages")
    assert Convolution(log(), average="double").operator(grid).form.endswith("of means over pairs of cells")
    assert Interaction(quadratic()).form(grid).endswith("FFT")
    assert Interaction(gaussian()).operator(grid).kernel is not None
    operator = Interaction(log(2.0)).operator(grid)
    assert repr(operator.kernel) == "2*Log()"
    assert operator.w(np.array([math.e])) == pytest.approx([2.0])


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: Convolution(lambda d: np.log(np.abs(d))).operator(Grid((0, 1), cells=8)), InvalidInput,
     r"W\(0\) is -inf: pass W as a singular kernel \(cell average\).*average=True"),
    (lambda: Convolution(lambda d: 1 / np.abs(d), average=True).operator(Grid((0, 1), cells=8)), InvalidInput,
     "no integral at 0"),
    (lambda: Convolution(lambda d: np.where(np.abs(d) > 0.3, np.nan, d * d), average=True).operator(
        Grid((0, 1), cells=8)), InvalidInput, "is nan; an average over cells"),
    (lambda: Interaction(lambda x, y: np.log(np.abs(x - y))).form(Grid((0, 1), cells=8)), InvalidInput,
     r"U is -inf between .* wgflow.interactions"),
    (lambda: Convolution(power(-1.5)).operator(Grid((0, 1), cells=8)), InvalidInput, "no integral at 0 on 1 axes"),
    (lambda: Convolution(newtonian(2)).operator(Grid((0, 1), cells=8)), InvalidInput,
     "kernel on 2 axes, the points have 1"),
    (lambda: Convolution(log(), average="single"), InvalidInput, "need True, False, 'double'"),
    (lambda: Convolution(log(), gradient=lambda d: 1 / d), InvalidInput, "gradient of its own"),
    (lambda: Convolution(log(), average=False).operator(Grid((0, 1), cells=8)), InvalidInput, r"W\(0\) is -inf"),
    (lambda: power(0), InvalidInput, r"its limit up to a constant is log\(\)"),
    (lambda: power(math.nan), InvalidInput, "finite"),
    (lambda: log("2"), InvalidType, "chi must be a number"),
    (lambda: newtonian(4), InvalidInput, "need one of 1, 2, 3"),
    (lambda: newtonian(2.0), InvalidType, "dim must be an int"),
    (lambda: exponential(0.0), InvalidInput, "range=0.0: must be finite and > 0"),
    (lambda: math.inf * log(), InvalidInput, "finite"),
    (lambda: Convolution(quadratic()).operator(Grid((0, 1), cells=8, boundary="periodic")), InvalidInput,
     "no sum over the images"),
    (lambda: Convolution(cosine()).operator(Grid((0, 1), cells=8, boundary="periodic")), InvalidInput,
     "whole number of its periods"),
    (lambda: Convolution(exponential(50.0)).operator(Grid([(0, 1)] * 3, cells=4, boundary="periodic")), InvalidInput,
     "shorter range"),
])
def test_what_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_kernels_scale_and_add():
    w = 2 * log() + quadratic(3.0) - log() + sum([gaussian(), gaussian()])
    x = np.array([0.3, -2.0])
    np.testing.assert_allclose(w(x), np.log(np.abs(x)) + 1.5 * x**2 + 2 * np.exp(-(x**2) / 2), rtol=1e-14)
    assert repr(-1 * log() + log()) == "Kernel([])"
    assert not (log() - log()).infinite
    assert quadratic().smooth
    assert not exponential().smooth
    assert (log() * 2)(np.zeros(1)) == [-math.inf]
    np.testing.assert_allclose(newtonian(3)(1.0, 2.0, 2.0), 1 / 3)
    np.testing.assert_allclose(yukawa(3, 1e9)(3.0, 0.0, 4.0), 0.2, rtol=1e-8)
    with pytest.raises(TypeError):
        log() + 3


@pytest.mark.parametrize(("kernel", "ndim"), [*((k, 1) for k in [*LINE, cosine(1.5)]), *((k, 2) for k in PLANE),
                                              *((k, 3) for k in SPACE)], ids=str)
def test_gradients_are_derivatives(kernel, ndim, rng):
    x = rng.uniform(0.3, 1.0, size=(ndim, 20)) * rng.choice([-1, 1], size=(ndim, 20))
    e = 1e-4 * np.eye(ndim)[:, :, None]
    scale = np.abs(kernel.gradient(*x)).max()
    for axis in range(ndim):
        step = e[axis]
        expected = (8 * (kernel(*(x + step)) - kernel(*(x - step))) - kernel(*(x + 2 * step)) + kernel(*(x - 2 * step))
                    ) / 12e-4
        np.testing.assert_allclose(kernel.gradient(*x)[axis], expected, rtol=1e-8, atol=1e-8 * scale + 1e-11)
    assert not kernel.gradient(*np.zeros((ndim, 1))).any()


# ---------------------------------------------------------------- cells of different widths
@pytest.mark.parametrize("kernel", [log(), newtonian(1), power(-0.5), exponential(0.1), morse() + log()], ids=repr)
def test_tables_of_equal_cells_are_the_convolution(kernel):
    grid = Grid((-1, 2), cells=40)
    step = np.arange(40)[:, None] - np.arange(40)
    for average in (None, "double", False) if not kernel.infinite else (None, "double"):
        table = Convolution(kernel, average=average).operator(grid).table
        np.testing.assert_allclose(pair_table(kernel, grid, average), table[step], rtol=0, atol=3e-13)


def test_double_averages_over_graded_cells_are_exact(rng):
    grid = Grid(edges=np.cumsum(np.concatenate([[0.3], np.geomspace(1e-3, 0.1, 30)])))
    length = float(np.ptp(grid.edges[0]))
    uniform = Density.uniform(grid)
    term = Convolution(log(), average="double")
    assert term(uniform) == pytest.approx(0.5 * (math.log(length) - 1.5), abs=1e-12)
    assert "of cell averages" in term.operator(grid).form
    assert term.operator(grid).self_drop == pytest.approx(math.log(2))
    np.testing.assert_array_equal(pair_table(log(), grid, None), pair_table(log(), grid, None).T)
    with pytest.raises(InvalidInput, match="uniform grid, or one no-flux axis"):
        Convolution(log()).operator(Grid(edges=grid.edges[0], boundary="periodic"))
    with pytest.raises(InvalidInput, match="mean over directions"):
        Convolution(log()).operator(Grid((0, 1), cells=9, origin=True))


# ---------------------------------------------------------------- points
@pytest.mark.parametrize("kernel", [log(-1.0) + quadratic(), newtonian(1), exponential(0.5)], ids=repr)
def test_sums_over_atoms_leave_out_each_atom_itself(kernel, rng):
    atoms = Atoms(rng.uniform(-1, 1, 9), rng.random(9))
    x, w = atoms.points[0], atoms.weights
    gap = x[:, None] - x
    np.fill_diagonal(gap, 1.0)
    values, slopes = kernel(gap), kernel.gradient(gap)[0]
    np.fill_diagonal(values, 0.0 if kernel.infinite else kernel(np.zeros(1))[0])
    np.fill_diagonal(slopes, 0.0)
    term = Interaction(kernel)
    np.testing.assert_allclose(term.first_variation(atoms), values @ w, rtol=1e-13)
    np.testing.assert_allclose(term.gradient(atoms, atoms.points)[0], slopes @ w, rtol=1e-12, atol=1e-12)
    assert term(atoms) == pytest.approx(0.5 * w @ values @ w, rel=1e-13)
    # A point elsewhere feels all of them.
    there = np.array([[5.0]])
    assert term.gradient(atoms, there)[0, 0] == pytest.approx((kernel.gradient(5.0 - x)[0] * w).sum(), rel=1e-13)


def test_atoms_that_coincide_are_refused_under_infinite_kernels():
    atoms = Atoms(np.array([[0.1, 0.5, 0.3, 0.5], [0.2, 0.7, 0.2, 0.7]]), np.ones(4) / 4)
    for call in (lambda: Interaction(log())(atoms), lambda: Interaction(newtonian(2)).gradient(atoms, atoms.points)):
        with pytest.raises(InvalidInput, match=r"atoms 1 and 3 coincide at \(0.5, 0.7\).*move them apart"):
            call()
    assert np.isfinite(Interaction(exponential())(atoms))
    rho = Density.uniform(Grid([(0, 1)] * 2, cells=4))
    with pytest.raises(InvalidInput, match=r"Atoms\.from_density"):
        Interaction(log()).gradient(rho, np.array([[0.5], [0.5]]))


def test_diagonals_make_point_sums_accurate():
    # Quantiles of the uniform law, and of the square of a uniform number.
    decay = 1 - math.exp(-1)
    # Kinks are no worse than the ends of the law, which remain.
    for kernel, power_of, expected, left in (
            (log(), 1, -1.5, 0.1), (log(), 2, 2 * math.log(2) - 3, 0.1), (power(1.0), 1, 1 / 3, 0.6),
            (power(1.0), 2, 1 / 3, 0.6), (newtonian(1), 2, -1 / 3, 0.6), (power(0.5), 1, 16 / 15, 0.1),
            (power(-0.5), 1, -16 / 3, 0.1), (exponential(), 1, 2 * (1 - decay), 0.01)):
        errors, bare = [], []
        for n in (100, 200, 400):
            points = ((np.arange(n) + 0.5) / n) ** power_of
            gap = points[:, None] - points
            np.fill_diagonal(gap, 1.0)
            pairs = kernel(gap)
            np.fill_diagonal(pairs, 0.0)
            bare.append(pairs.sum() / n**2 - expected)
            errors.append(bare[-1] + kernel.diagonal(np.gradient(points)).sum() / n**2)
        assert abs(errors[2]) < left * abs(bare[2]), (kernel, errors, bare)
        assert abs(errors[2]) < 0.45 * abs(errors[0]), (kernel, errors)


# ---------------------------------------------------------------- collapse
def test_the_drop_of_the_self_energy_gives_the_critical_mass():
    # Half of m^2 times the drop against D m d log 2 of entropy: m chi = 2 d D, and 8 pi D with chi = 1 / 2 pi.
    for average in (None, "double"):
        line = Convolution(log(3.0), average=average).operator(Grid((0, 1), cells=7))
        assert line.self_drop == pytest.approx(3 * math.log(2), rel=1e-12)
        plane = Convolution(log(1 / (2 * math.pi)), average=average).operator(Grid([(0, 1), (0, 3)], cells=(5, 9)))
        assert 2 * 2 * math.log(2) / plane.self_drop == pytest.approx(8 * math.pi, rel=1e-12)
        circle = Convolution(lambda d: np.log(np.abs(d)), average=True).operator(Grid((0, 1), 9, boundary="periodic"))
        assert circle.self_drop == pytest.approx(math.log(2), rel=1e-11)
    assert Convolution(newtonian(1)).operator(Grid((0, 1), cells=7)).self_drop == 0
    assert Convolution(lambda d: d**2).operator(Grid((0, 1), cells=7)).self_drop == 0
    assert Convolution(newtonian(3)).operator(Grid([(0, 1)] * 3, cells=3)).self_drop < 0
