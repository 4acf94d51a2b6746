"""Interactions: the form that is chosen, and that every form is the double sum over cells."""

from __future__ import annotations

import numpy as np
import pytest

import wgflow as wg
from wgflow import Convolution, Dense, Density, Grid, Interaction, InvalidInput, LowRank
from wgflow.interactions import EXACTNESS

LINE = Grid((-2, 2), cells=120)
CIRCLE = Grid((-2, 2), cells=120, boundary="periodic")
GRADED = Grid(edges=2 * np.linspace(-1, 1, 121) ** 3)
PLANE = Grid([(-2, 2), (-1, 1)], cells=(16, 14))
CYLINDER = Grid([(-2, 2), (-1, 1)], cells=(16, 14), boundary=("no-flux", "periodic"))
BOX = Grid([(-1, 1)] * 3, cells=(6, 5, 7))

ONE_AXIS = {
    "product": (lambda x, y: x * y, LINE, "low rank, 1 features"),
    "constant": (lambda x, y: 3.0 + 0 * x * y, LINE, "convolution"),
    "number": (lambda x, y: 3.0, LINE, "convolution"),
    "quadratic": (lambda x, y: (x - y) ** 2 / 2, LINE, "convolution"),
    "quadratic-graded": (lambda x, y: (x - y) ** 2 / 2, GRADED, "low rank, 3 features"),
    "absolute": (lambda x, y: np.abs(x - y), LINE, "convolution"),
    "absolute-graded": (lambda x, y: np.abs(x - y), GRADED, "dense table"),
    "gaussian": (lambda x, y: np.exp(-((x - y) ** 2)), LINE, "convolution"),
    "gaussian-graded": (lambda x, y: np.exp(-((x - y) ** 2)), GRADED, "low rank"),
    "gaussian-weighted": (lambda x, y: x * y * np.exp(-((x - y) ** 2)), LINE, "low rank"),
    "cosine-circle": (lambda x, y: np.cos(np.pi * (x - y)), CIRCLE, "convolution"),
    "not-periodic-circle": (lambda x, y: (x - y) ** 2, CIRCLE, "low rank, 3 features"),
    "brownian": (lambda x, y: np.minimum(x, y) + 2, LINE, "dense table"),
    "relu": (lambda x, y: np.maximum(x * y - 0.3, 0), LINE, "low rank"),
    "neuron": (lambda x, y: np.tanh(x) * np.tanh(y) - np.sin(x) * np.sin(y), LINE, "low rank, 2 features"),
    "displacement": (lambda d: np.exp(-np.abs(d)), LINE, "convolution"),
}


def coulomb(x, y, u, v):
    return -np.log(0.1 + (x - u) ** 2 + (y - v) ** 2)


TWO_AXES = {
    "gaussian": (lambda x, y, u, v: np.exp(-((x - u) ** 2) - (y - v) ** 2), PLANE, "convolution"),
    "displacement": (lambda x, y: np.exp(-(x**2) - np.abs(y)), PLANE, "convolution"),
    "cylinder": (lambda x, y, u, v: np.exp(-((x - u) ** 2)) * np.cos(np.pi * (y - v)), CYLINDER, "convolution"),
    "regular-coulomb": (coulomb, PLANE, "convolution"),
    "inner-product": (lambda x, y, u, v: x * u + y * v, PLANE, "low rank, 2 features"),
    "mixed": (lambda x, y, u, v: np.exp(-((x - u) ** 2)) * y * v, PLANE, "low rank"),
    "rough": (lambda x, y, u, v: (2 + x * u) * np.hypot(x - u, y - v), PLANE, "dense table"),
    "box": (lambda x, y, z, u, v, w: x * u - y * v + z * w * x * u, BOX, "low rank, 3 features"),
    "box-gaussian": (lambda x, y, z: np.exp(-(x**2) - y**2 - np.abs(z)), BOX, "convolution"),
}
#: Jumps of the slope of U over x = y, for kernels that have a kink there: sums are mended on the diagonal.
JUMPS = {"1-absolute": 2.0, "1-absolute-graded": 2.0, "1-brownian": -1.0, "1-displacement": -2.0}
CASES = {f"1-{k}": v for k, v in ONE_AXIS.items()} | {f"2-{k}": v for k, v in TWO_AXES.items()}


def table_of(U, grid):
    """U between all cell centers, by plain evaluation at every pair."""
    points = [x.ravel() for x in grid.mesh()]
    first, second = [x[:, None] for x in points], [x[None, :] for x in points]
    if U.__code__.co_argcount == grid.ndim:
        values = U(*(a - b for a, b in zip(first, second)))
    else:
        values = U(*first, *second)
    return np.broadcast_to(values, (grid.size, grid.size))


@pytest.mark.parametrize("name", CASES)
def test_the_cheapest_exact_form_is_chosen_and_exact(name, rng):
    U, grid, form = CASES[name]
    term = Interaction(U)
    assert term.form(grid).startswith(form)
    rho = Density(grid, rng.random(grid.shape) ** 2)
    table = table_of(U, grid)
    expected = (table @ rho.masses.ravel()).reshape(grid.shape)
    scale = np.abs(table).max() * rho.mass
    if name in JUMPS:
        # By 1/12 of the jump of the slope over a cell, which is found from the table (and its width from neighbors).
        mended, width = term.first_variation(rho) - expected, np.gradient(grid.centers[0])
        due = JUMPS[name] / 12 * width * rho.masses
        np.testing.assert_allclose(mended[7:-7], due[7:-7], rtol=0, atol=2e-3 * np.abs(due).max())
        np.testing.assert_allclose(mended, due, rtol=0, atol=0.05 * np.abs(due).max())
        expected = expected + mended
    np.testing.assert_allclose(term.first_variation(rho), expected, rtol=0, atol=3 * EXACTNESS * scale)
    assert term(rho) == pytest.approx(0.5 * float((rho.masses * expected).sum()), abs=3 * EXACTNESS * scale * rho.mass)


@pytest.mark.parametrize("grid", [LINE, CIRCLE, PLANE, CYLINDER, BOX], ids=lambda g: str(g.boundary))
def test_all_forms_of_a_random_table_agree(grid, rng):
    A = rng.normal(size=(grid.size, grid.size))
    table = A + A.T
    rho = Density(grid, rng.random(grid.shape))
    expected = (table @ rho.masses.ravel()).reshape(grid.shape)
    signs, vectors = np.linalg.eigh(table)
    for term in (Dense(table), Interaction(table), LowRank(vectors.T.reshape(-1, *grid.shape), signs),
                 Dense(table.reshape(grid.shape * 2)), Interaction(Dense(table))):
        np.testing.assert_allclose(term.first_variation(rho), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_the_table_and_the_evaluation_on_the_fly_agree(rng, monkeypatch):
    rho = Density(PLANE, rng.random(PLANE.shape))
    table = Dense(coulomb, table=True)
    fly = Dense(coulomb, table=False)
    assert "224 x 224" in table.operator(PLANE).form
    assert "on the fly" in fly.operator(PLANE).form
    np.testing.assert_allclose(fly.first_variation(rho), table.first_variation(rho), rtol=1e-12)
    # Blocks of three rows, the last one short.
    monkeypatch.setattr("wgflow.interactions.operators.BLOCK_ENTRIES", 3 * PLANE.size + 5)
    np.testing.assert_allclose(Dense(coulomb, table=False).first_variation(rho), table.first_variation(rho), rtol=1e-12)


def test_a_table_that_does_not_fit_is_evaluated_on_the_fly(monkeypatch):
    monkeypatch.setattr("wgflow.interactions.terms.available_memory", lambda: 8 * PLANE.size**2)
    assert "on the fly" in Dense(coulomb).operator(PLANE).form
    monkeypatch.undo()
    assert "table" in Dense(coulomb).operator(PLANE).form


@pytest.mark.parametrize("cells", [2, 3, 4, 5, 31, 64])
@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
def test_convolutions_for_any_number_of_cells(cells, boundary, rng):
    grid = Grid((0, 1), cells=cells, boundary=boundary)
    rho = Density(grid, rng.random(cells) + 0.1)
    step = np.arange(cells)[:, None] - np.arange(cells)
    if boundary == "periodic":
        step = (step + cells // 2) % cells - cells // 2
    d = step / cells
    # Smooth around the circle, too: a kink would be mended.
    expected = np.exp(np.cos(2 * np.pi * d)) @ rho.masses
    kernel = Convolution(lambda x: np.exp(np.cos(2 * np.pi * x)))
    np.testing.assert_allclose(kernel.first_variation(rho), expected, rtol=1e-13)


def test_features_of_a_function_and_of_an_array_agree(rng):
    rho = Density(PLANE, rng.random(PLANE.shape))
    x, y = PLANE.mesh()
    by_array = LowRank(np.stack([x, y, x * y]), [1.0, -2.0, 0.5])
    by_function = LowRank(lambda x, y: [x, y, x * y], [1.0, -2.0, 0.5])
    np.testing.assert_array_equal(by_array.first_variation(rho), by_function.first_variation(rho))
    assert LowRank(x)(rho) == pytest.approx(0.5 * rho.expect(x) ** 2, rel=1e-13)  # one feature, sign 1


def test_a_kernel_is_evaluated_once_for_each_grid(rng):
    calls = []

    def U(x, y):
        calls.append(x.size)
        return np.minimum(x, y)

    term = Interaction(U)
    term(Density(LINE, rng.random(120)))
    count = len(calls)
    sol = wg.solve(wg.Entropy(1.0) + term, Density(LINE, rng.random(120)), (0, 0.1), method=wg.FiniteVolume(dt=0.02))
    assert len(calls) == count
    # The certificate does not believe the table: it evaluates the kernel itself, at nodes of its own.
    assert sol.certificate.equation_defect is not None
    assert len(calls) > count


# ---------------------------------------------------------------- asymmetry
@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0])
def test_a_slight_asymmetry_is_seen(size):
    for U, grid in ((lambda x, y: np.exp(-((x - y) ** 2)) + size * x, LINE),
                    (lambda x, y, u, v: x * u + size * y * u, PLANE)):
        with pytest.raises(InvalidInput, match=r"U is not symmetric: U\(i,j\)=.* between \(.*symmetric part"):
            Interaction(U).form(grid)
    with pytest.raises(InvalidInput, match=r"W not even: max difference"):
        Interaction(lambda d: np.exp(-(d**2)) + size * d).form(LINE)
    table = np.ones((120, 120))
    table[2, 5] += size
    with pytest.raises(InvalidInput, match=r"between cells 2 and 5 \(the worst pair"):
        Interaction(table).form(LINE)


def test_round_off_is_no_asymmetry(rng):
    A = rng.normal(size=(120, 120))
    table = A + A.T
    noisy = table * (1 + 1e-15 * rng.normal(size=table.shape))
    rho = Density(LINE, rng.random(120))
    np.testing.assert_allclose(Interaction(noisy).first_variation(rho), Interaction(table).first_variation(rho),
                               rtol=1e-11, atol=1e-12)
    assert Interaction(lambda x, y: np.sin(x + 0.1) * np.sin(0.1 + y) / 3).form(LINE) == "low rank, 1 features"


def test_a_function_of_any_number_of_arguments_takes_two_points():
    seen = []

    def U(*points):
        seen.append(len(points))
        return points[0] * points[2] + points[1] * points[3]

    assert Interaction(U).form(PLANE).startswith("low rank, 2")
    assert set(seen) == {4}
