"""Atoms, and the terms of an energy at points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput, InvalidType
from wgflow.gradients import differences
from wgflow.validation.distances import kolmogorov, wasserstein, wasserstein_1d

CLOUDS = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 2**31)))


def cloud(n, seed, ndim=1, **more):
    rng = np.random.default_rng(seed)
    return Atoms(rng.normal(size=(ndim, n)), rng.random(n) + 0.01, **more)


# -------------------------------------------------------------------- what an Atoms is
def test_defaults_are_filled_in_and_nothing_can_be_written():
    points = np.array([1.0, 2.0, 4.0])
    rho = Atoms(points, [0.5, 0.25, 0.25])
    points[0] = 9.0
    assert rho.points.shape == (1, 3)
    assert rho.points[0, 0] == 1.0
    assert (rho.bounds, rho.powers, rho.names, rho.periodic) == (((-math.inf, math.inf),), (0.0,), ("x",), (False,))
    assert (rho.ndim, rho.size, rho.mass) == (1, 3, 1.0)
    for array in (rho.points, rho.weights):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    with pytest.raises(AttributeError):
        rho.mass = 2.0


def test_a_power_makes_a_radius():
    rho = Atoms([[0.0, 1.0]], [1, 1], powers=(39,))
    assert rho.bounds == ((0.0, math.inf),)
    with pytest.raises(InvalidInput, match="makes it a radius"):
        Atoms([[0.0, 1.0]], [1, 1], bounds=((-1, 2),), powers=(39,))


def test_numbers_of_a_small_law():
    rho = Atoms([[3.0, 0.0, 1.0], [1.0, 1.0, 2.0]], [1.0, 2.0, 1.0], names=("a", "b"))
    assert rho.mean() == pytest.approx([1.0, 1.25])
    assert rho.cov() == pytest.approx(np.array([[1.5, 0.0], [0.0, 0.1875]]))
    assert rho.expect(lambda a, b: a * b) == pytest.approx(5.0)
    first = rho.marginal(0)
    assert first.names == ("a",)
    assert first.mean() == pytest.approx(1.0)
    assert first.cdf([-1.0, 0.0, 0.5, 1.0, 3.0]) == pytest.approx([0.0, 0.5, 0.5, 0.75, 1.0])
    assert first.quantile([0.0, 0.5, 0.51, 0.75, 1.0]) == pytest.approx([0.0, 0.0, 1.0, 1.0, 3.0])
    with pytest.raises(InvalidInput, match=r"\.marginal\(axis\)"):
        rho.cdf(0.0)


@settings(max_examples=40)
@given(CLOUDS, st.floats(0, 1))
def test_quantile_is_the_inverse_of_cdf(case, q):
    rho = cloud(*case)
    x = rho.quantile(q)
    assert rho.cdf(x) >= q - 1e-12
    below = rho.points[0][rho.points[0] < x]
    assert below.size == 0 or rho.cdf(below.max()) <= q + 1e-12


@settings(max_examples=20)
@given(CLOUDS)
def test_order_of_the_atoms_does_not_matter(case):
    rho = cloud(*case, ndim=2)
    order = np.random.default_rng(11).permutation(rho.size)
    other = Atoms(rho.points[:, order], rho.weights[order])
    assert other.mean() == pytest.approx(rho.mean(), rel=1e-12, abs=1e-12)
    assert other.cov() == pytest.approx(rho.cov(), rel=1e-11, abs=1e-12)


def test_samples_follow_the_weights(rng):
    rho = Atoms([[0.0, 1.0, 5.0]], [0.2, 0.5, 0.3])
    x = rho.sample(40_000, rng)
    assert x.shape == (40_000,)
    assert np.bincount(x.astype(int), minlength=6)[[0, 1, 5]] / 40_000 == pytest.approx([0.2, 0.5, 0.3], abs=0.01)
    assert cloud(5, 3, ndim=3).sample(7, rng).shape == (7, 3)
    with pytest.raises(InvalidInput, match="n=0"):
        rho.sample(0)


@pytest.mark.parametrize(("arguments", "words"), [
    (([[0.0, 1.0]], [1.0]), "need one for each"),
    (([[0.0, math.nan]], [1.0, 1.0]), r"points\[0, 1\] is nan"),
    (([[0.0, 1.0]], [1.0, -0.5]), r"weights\[1\]=-0.5"),
    (([[0.0, 1.0]], [0.0, 0.0]), "total mass is 0"),
    (([[0.0, 1.0]], [1e308, 1e308]), "total mass is inf"),
    ((np.zeros((2, 0)), []), "at least one"),
    ((np.zeros((2, 2, 2)), [1, 1]), "n_coordinates"),
    (([[0.0, 3.0]], [1, 1], ((0, 2),)), r"points\[0, 1\]=3 lies outside"),
    (([[0.0, 1.0]], [1, 1], ((2, 0),)), "lo=2 must be < hi=0"),
    (([[0.0, 1.0]], [1, 1], None, (1, 2)), "an exponent for each"),
    (([[0.0, 1.0]], [1, 1], None, (-1,)), "exponents >= 0"),
    (([[0.0, 1.0]], [1, 1], None, None, ("a", "b")), "1 different names"),
    (([[0.0, 1.0]], [1, 1], None, None, None, (True,)), "finite bounds"),
])
def test_bad_atoms(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        Atoms(*arguments)


def test_bad_kinds():
    for points, weights in (([["a"]], [1.0]), ([[1j]], [1.0]), ([[1.0]], ["x"])):
        with pytest.raises(InvalidType):
            Atoms(points, weights)


# -------------------------------------------------------------------- from a density
def order_of(errors, sizes):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("graded", [False, True])
def test_atoms_of_a_line_are_of_fourth_order(graded):
    sizes, errors = np.array([100, 140, 200, 280, 400]), []
    for n in sizes:
        edges = np.linspace(0, 1, n + 1) ** (1.2 if graded else 1.0) * 15 - 7
        rho = Atoms.from_density(wg.Density.gaussian(wg.Grid(edges=edges), 0.3, 0.7), per_cell=2)
        assert rho.mass == pytest.approx(1.0, abs=1e-15)
        errors.append(abs(rho.expect(np.cos) - math.cos(0.3) * math.exp(-0.35)))
    assert order_of(errors, sizes) > 3.7
    assert errors[2] < 1e-6


def test_atoms_of_a_plane_are_of_fourth_order():
    sizes, errors = np.array([40, 56, 80, 112, 160]), []
    for n in sizes:
        grid = wg.Grid([(-7, 8), (-6, 6)], cells=int(n))
        rho = Atoms.from_density(wg.Density.gaussian(grid, [0.3, 0.0], [[0.7, 0.2], [0.2, 0.5]]))
        errors.append(abs(rho.expect(lambda x, y: np.cos(x + y)) - math.cos(0.3) * math.exp(-0.8)))
    assert order_of(errors, sizes) > 3.7


def test_empty_cells_become_no_atoms_and_the_mass_stays():
    values = np.zeros(20)
    values[[3, 4, 11]] = 1.0, 7.0, 1e-3
    grid = wg.Grid((0, 2), cells=20)
    density = wg.Density.from_values(grid, values)
    rho = Atoms.from_density(density, per_cell=3)
    assert rho.size == 9
    assert rho.mass == pytest.approx(density.mass, rel=1e-15)
    assert rho.bounds == ((0.0, 2.0),)
    counts = np.histogram(rho.points[0], grid.edges[0], weights=rho.weights)[0]
    assert counts == pytest.approx(density.masses, rel=1e-13)


def test_a_radial_grid_gives_its_power():
    model = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    rho = Atoms.from_density(model.initial_density(0.8, model.grid(200)))
    assert rho.powers == (39.0,)
    assert rho.names == ("r",)
    assert rho.bounds[0][0] == 0.0
    assert model.risk(rho) == pytest.approx(model.initial_risk(0.8), abs=1e-6)


def test_a_circle_stays_a_circle():
    rho = Atoms.from_density(wg.Density.uniform(wg.Grid((0, 1), cells=10, boundary="periodic")))
    assert rho.periodic == (True,)
    assert rho.mean() == pytest.approx(0.5)


def test_points_in_a_cell_are_checked():
    line, plane = (wg.Density.uniform(wg.Grid([(0, 1)] * k, cells=4)) for k in (1, 2))
    for value, kind in ((1, InvalidInput), (True, InvalidType), (2.5, InvalidType)):
        with pytest.raises(kind, match="per_cell"):
            Atoms.from_density(line, per_cell=value)
    with pytest.raises(InvalidInput, match="one atom"):
        Atoms.from_density(plane, per_cell=3)


# -------------------------------------------------------------------- differences
def test_differences_are_of_sixth_order_also_at_a_bound(monkeypatch):
    x = np.linspace(0.0, 2.0, 9)[None]
    steps, errors = np.array([0.02, 0.04, 0.08, 0.16]), {"free": [], "bounded": []}
    for h in steps:
        monkeypatch.setattr("wgflow.gradients.STEP", h)
        for name, bounds in (("free", (-math.inf, math.inf)), ("bounded", (0.0, math.inf))):
            found = differences(lambda p: np.exp(np.sin(2 * p[0])), x, [bounds])
            errors[name].append(np.abs(found - 2 * np.cos(2 * x) * np.exp(np.sin(2 * x))).max())
    assert -order_of(errors["free"], steps) > 5.7
    assert -order_of(errors["bounded"], steps) > 5.4


def test_differences_never_look_beyond_the_bounds():
    def function(points):
        assert (points[0] >= 0).all()
        assert (points[0] <= 1e-3).all()
        return np.sqrt(points[0] + 1e-3)

    x = np.linspace(0.0, 1e-3, 11)[None]
    found = differences(function, x, [(0.0, 1e-3)])
    assert found[0] == pytest.approx(0.5 / np.sqrt(x[0] + 1e-3), rel=1e-9)


# -------------------------------------------------------------------- terms
def bump(x, y):
    return np.exp(-x**2 - y**2 / 2)


def bump_gradient(x, y):
    return np.array([-2 * x * bump(x, y), -y * bump(x, y)])


def well(x, y):
    return x**2 * y + np.sin(y)


def features(x, y):
    return np.array([x * y, np.cos(x), 1.0 + 0 * x])


def feature_gradients(x, y):
    zero = 0 * x
    return np.array([[y, x], [-np.sin(x), zero], [zero, zero]])


def pair(x, y, x2, y2):
    return bump(x - x2, y - y2) * (1 + x * x2)


TERMS = {
    "potential": wg.Potential(well),
    "potential with gradient": wg.Potential(well, lambda x, y: np.array([2 * x * y, x**2 + np.cos(y)])),
    "convolution": wg.Convolution(bump),
    "convolution with gradient": wg.Convolution(bump, bump_gradient),
    "low rank": wg.LowRank(features, [1.0, -2.0, 0.5]),
    "low rank with gradients": wg.LowRank(features, [1.0, -2.0, 0.5], feature_gradients),
    "dense": wg.Dense(pair),
    "interaction of points": wg.Interaction(pair),
    "interaction of displacements": wg.Interaction(bump, bump_gradient),
    "interaction that is a form": wg.Interaction(wg.Convolution(bump)),
    "a sum": wg.Entropy(3.0) + 2 * wg.Potential(well) + wg.LowRank(features) + 0.5 * wg.Convolution(bump),
}


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_is_that_of_the_energy(name):
    """Moving atom i by e changes the energy by e w_i grad Psi(theta_i)."""
    term, rho = TERMS[name], cloud(12, 77, ndim=2)
    found = term.gradient(rho, rho.points)
    h = 1e-3
    for axis in range(2):
        for i in (0, 5, 11):
            values = []
            for k in (-2, -1, 1, 2):
                points = rho.points.copy()
                points[axis, i] += k * h
                values.append(term.energy(rho.moved(points)))
            slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
            assert found[axis, i] * rho.weights[i] == pytest.approx(slope, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_the_first_variation_is_that_of_the_energy(name):
    """Energies are quadratic in the weights: their derivative by central differences is exact."""
    term, rho = TERMS[name], cloud(9, 78, ndim=2)
    found = term.first_variation(rho)
    for i in (0, 4):
        change = np.zeros(9)
        change[i] = 5e-3
        up, down = (Atoms(rho.points, rho.weights + s * change) for s in (1, -1))
        assert found[i] == pytest.approx((term.energy(up) - term.energy(down)) / 1e-2, rel=1e-9, abs=1e-10)


def test_a_gradient_that_is_given_is_that_of_differences():
    rho = cloud(30, 79, ndim=2)
    for name in ("potential", "convolution"):
        a, b = (TERMS[k].gradient(rho, rho.points) for k in (name, f"{name} with gradient"))
        assert a == pytest.approx(b, rel=1e-10, abs=1e-10)
    a, b = (TERMS[k].gradient(rho, rho.points) for k in ("low rank", "low rank with gradients"))
    assert a == pytest.approx(b, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", ["convolution", "low rank", "dense"])
def test_a_density_and_its_cell_centers_have_the_same_gradient(name):
    grid = wg.Grid([(-3, 3), (-3, 4)], cells=(20, 24))
    density = wg.Density.gaussian(grid, [0.3, 0.1], 0.4)
    centers = Atoms([c.ravel() for c in grid.mesh()], density.masses.ravel())
    points = np.random.default_rng(5).normal(size=(2, 7))
    assert TERMS[name].gradient(density, points) == pytest.approx(TERMS[name].gradient(centers, points), abs=1e-11)
    assert TERMS[name].energy(centers) == pytest.approx(TERMS[name].energy(density), rel=1e-11)


def test_a_convolution_goes_the_shorter_way_around():
    rho = Atoms([[0.05, 0.95]], [1.0, 1.0], bounds=((0, 1),), periodic=(True,))
    attraction = wg.Convolution(lambda x: x**2 / 2, lambda x: x)
    assert attraction.gradient(rho, rho.points)[0] == pytest.approx([0.1, -0.1])
    assert attraction.energy(rho) == pytest.approx(0.5 * 2 * 0.1**2 / 2)


def test_arrays_on_a_grid_are_not_known_at_points():
    rho = cloud(4, 3)
    terms = (wg.Potential(np.zeros(8)), wg.LowRank(np.ones((2, 8))), wg.Dense(np.eye(8)), wg.Interaction(np.eye(8)))
    for term in terms:
        for call in (lambda t: t.energy(rho), lambda t: t.first_variation(rho), lambda t: t.gradient(rho, rho.points)):
            with pytest.raises(InvalidInput, match="array of values at cell centers"):
                call(term)


def test_the_entropy_of_atoms_is_left_out_of_a_sum_and_refused_alone():
    rho = cloud(6, 3)
    with pytest.raises(InvalidInput, match="entropy of atoms is infinite"):
        wg.Entropy(2.0).energy(rho)
    energy = wg.Entropy(2.0) + wg.Potential(np.cos)
    assert energy(rho) == pytest.approx(wg.Potential(np.cos)(rho))
    with pytest.raises(InvalidInput, match="no entropy"):
        energy.dissipation(rho)


def test_dissipation_counts_what_can_move():
    energy = wg.Entropy(math.inf) + wg.Potential(lambda x: 2 * x, lambda x: 2 + 0 * x)
    rho = Atoms([[0.0, 1.0]], [0.25, 0.75], bounds=((0, math.inf),))
    assert energy.dissipation(rho) == pytest.approx(0.75 * 4.0)
    assert energy.dissipation(Atoms(rho.points, rho.weights)) == pytest.approx(4.0)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: wg.Potential(lambda x: np.log(x - 5)), "V is nan at"),
    (lambda: wg.Potential(lambda x: x[:2]), r"V returned shape \(2,\)"),
    (lambda: wg.Potential(lambda x: 1 / 0), "V raised ZeroDivisionError"),
    (lambda: wg.Potential(np.cos, lambda x: np.ones((2, 4))), "gradient of V returned shape"),
    (lambda: wg.LowRank(lambda x: np.ones((3, 2))), "features returned shape"),
    (lambda: wg.LowRank(lambda x: np.array([x, x]), None, lambda x: np.array([x])), "gradients returned shape"),
    (lambda: wg.LowRank(lambda x: np.array([x, x]), [1.0]), "signs has shape"),
    (lambda: wg.Interaction(lambda x, y: np.log(np.abs(x - y))), "U is -inf at"),
])
def test_what_a_function_returns_at_points_is_checked(make, words):
    rho = cloud(4, 3)
    with pytest.raises(InvalidInput, match=words):
        (make().gradient(rho, rho.points), make().energy(rho))


def test_points_and_gradients_are_checked():
    rho = cloud(4, 3, ndim=2)
    with pytest.raises(InvalidInput, match=r"need \(2, n\)"):
        wg.Potential(well).gradient(rho, np.zeros((3, 4)))
    for make in (lambda: wg.Potential(well, 3), lambda: wg.Convolution(bump, "w"), lambda: wg.Dense(pair, gradient=2),
                 lambda: wg.LowRank(features, None, 1), lambda: wg.Interaction(pair, 5)):
        with pytest.raises(InvalidType, match="gradient"):
            make()
    with pytest.raises(InvalidInput, match="a form has a gradient of its own"):
        wg.Interaction(wg.Convolution(bump), bump_gradient)


def test_a_network_energy_of_atoms_is_half_its_risk():
    model = wg.reduced_models.IsotropicGaussian(d=20, tau_plus2=1.8, tau_minus2=0.2)
    rho = Atoms(np.random.default_rng(9).random((1, 25)) * 3, np.full(25, 1 / 25), bounds=((0, math.inf),))
    assert 2 * model.energy()(rho) == pytest.approx(model.risk(rho), rel=1e-11)
    expected = model.psi_gradient(rho, *rho.points) + 0.3 * rho.points
    assert model.energy(ridge=0.3).gradient(rho, rho.points) == pytest.approx(expected, rel=1e-10, abs=1e-12)


# -------------------------------------------------------------------- distances
def test_distances_know_atoms():
    rho = Atoms([[3.0, 0.0]], [1.0, 3.0])
    assert wasserstein_1d(rho, [0.0], p=1) == pytest.approx(0.75)
    assert wasserstein(rho, [0.0]) == pytest.approx(1.5)
    assert kolmogorov(rho, rho) == 0.0
    plane = Atoms([[0.0, 1.0], [0.0, 0.0]], [1, 1])
    assert wasserstein(plane, np.array([[0.0, 2.0], [1.0, 2.0]])) == pytest.approx(2.0)
    with pytest.raises(InvalidInput, match="weights"):
        wasserstein_1d(rho, [0.0], a_weights=[1.0])
    with pytest.raises(InvalidInput, match="coordinates"):
        wasserstein_1d(plane, [0.0])


# -------------------------------------------------------------------- equality, refusals, laws between
def test_equal_atoms_have_equal_parts():
    rho = Atoms([[0.0, 1.0], [2.0, 3.0]], [0.5, 0.5], names=("a", "b"))
    assert rho == Atoms([[0.0, 1.0], [2.0, 3.0]], [0.5, 0.5], names=("a", "b"))
    for other in (Atoms([[0.0, 1.0], [2.0, 3.5]], [0.5, 0.5], names=("a", "b")),
                  Atoms([[0.0, 1.0], [2.0, 3.0]], [0.4, 0.6], names=("a", "b")),
                  Atoms([[0.0, 1.0], [2.0, 3.0]], [0.5, 0.5], names=("a", "c")),
                  Atoms([[0.0, 1.0], [2.0, 3.0]], [0.5, 0.5], [(0, 4), (0, 4)], names=("a", "b")), None):
        assert rho != other
    assert repr(rho) == "Atoms(2 points, mass=1, mean=[0.5 2.5], on ('a', 'b'))"


def test_what_does_not_fit_the_atoms_is_refused():
    rho = Atoms([[0.0, 1.0], [2.0, 3.0]], [0.5, 0.5], names=("a", "b"))
    with pytest.raises(InvalidInput, match=r"points has shape \(2, 3\); need \(2, 2\)"):
        rho.moved(np.zeros((2, 3)))
    assert rho.expect(np.array([1.0, 3.0])) == 2.0
    with pytest.raises(InvalidInput, match=r"function has shape \(3,\); need \(2,\)"):
        rho.expect(np.zeros(3))
    for axes in ([], (1, 0), (0, 0), 2, -1):
        with pytest.raises(InvalidInput, match="need increasing coordinate numbers between 0 and 1"):
            rho.marginal(axes)
    assert rho.marginal((0, 1)) == rho
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput, match=r"need numbers in \[0, 1\]"):
            rho.marginal("a").quantile(q)
    with pytest.raises(InvalidInput, match="periodic has 3 entries for 2 coordinates"):
        Atoms(rho.points, rho.weights, periodic=(True, False, False))
    for bounds in ([(0, 1)], [(0, 1, 2), (0, 1, 2)]):
        with pytest.raises(InvalidInput, match=r"bounds has shape .*; need a \(lo, hi\) pair for each of 2"):
            Atoms(rho.points, rho.weights, bounds)


def test_atoms_between_two_snapshots_go_the_short_way_around_a_circle():
    first = Atoms([[0.1, 5.9, 3.0], [0.0, 1.0, 2.0]], [1, 1, 1], [(0, 6), (0, 2)], periodic=(True, False))
    second = first.moved(np.array([[5.7, 0.3, 4.0], [0.5, 1.0, 2.0]]))
    from wgflow.solution import _between

    np.testing.assert_allclose(_between(first, second, 0.25).points, [[0.0, 0.0, 3.25], [0.125, 1.0, 2.0]], atol=1e-12)
    np.testing.assert_allclose(_between(first, second, 0.75).points, [[5.8, 0.2, 3.75], [0.375, 1.0, 2.0]], atol=1e-12)
