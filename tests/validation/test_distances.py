"""Distances: closed forms, brute force on small cases, metric axioms, bad input."""

from __future__ import annotations

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.special import ndtri

import wgflow as wg
from wgflow.errors import InvalidInput, InvalidType, ResourceError
from wgflow.validation import gaussian_wasserstein, kolmogorov, wasserstein, wasserstein_1d, wasserstein_points
from wgflow.validation.exact.base import l1_distance

finite = st.floats(-5, 5).map(lambda v: round(v, 6))


def density(edges, masses):
    """A stand-in with the attributes of a one-dimensional Density that distances read."""
    edges, masses = np.asarray(edges, float), np.asarray(masses, float)
    centers = 0.5 * (edges[1:] + edges[:-1])
    grid = SimpleNamespace(ndim=1, edges=(edges,), periodic=(False,), mesh=lambda: (centers,))
    return SimpleNamespace(grid=grid, masses=masses)


def uniform(lo, hi, cells=1):
    return density(np.linspace(lo, hi, cells + 1), np.full(cells, 1.0 / cells))


def cdf_twin(law, x):
    """F(x) of a stand-in density, the readable way."""
    edges, masses = law.grid.edges[0], law.masses / law.masses.sum()
    return sum(m * min(max((x - a) / (b - a), 0.0), 1.0) for a, b, m in zip(edges[:-1], edges[1:], masses))


def test_uniform_to_uniform_is_exact():
    assert wasserstein_1d(uniform(0, 1), uniform(2, 5)) == pytest.approx(np.sqrt(28 / 3), rel=1e-14)
    # The same two laws, cut into cells that do not match.
    assert wasserstein_1d(uniform(0, 1, 7), uniform(2, 5, 13)) == pytest.approx(np.sqrt(28 / 3), rel=1e-13)
    assert wasserstein_1d(uniform(0, 1), uniform(2, 5), p=1) == pytest.approx(3.0, rel=1e-14)
    assert wasserstein_1d(uniform(0, 1), uniform(2, 5), p=np.inf) == pytest.approx(4.0, rel=1e-14)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4.2, 11])
def test_any_order_against_the_integral(p):
    # Q_a - Q_b = 2 + 2 s on U[0,1] -> U[2,5], and -0.5 + 1.5 s (a change of sign) on U[0,1] -> U[-.5, 2].
    for lo, hi in ((2.0, 5.0), (-0.5, 2.0)):
        exact = quad(lambda s, lo=lo, hi=hi: abs(lo + (hi - lo - 1) * s) ** p, 0, 1,
                     points=[1 / 3], epsabs=1e-14, epsrel=1e-13)[0]
        assert wasserstein_1d(uniform(0, 1, 5), uniform(lo, hi, 3), p) == pytest.approx(exact ** (1 / p), rel=1e-12)


def test_gaussian_to_uniform_with_quantile_functions():
    assert wasserstein_1d(ndtri, lambda s: 2 * s - 1) == pytest.approx(0.452718639154, abs=1e-12)
    assert wasserstein_1d(ndtri, uniform(-1, 1, 9)) == pytest.approx(0.452718639154, abs=1e-12)
    # W_1 has a kink at the median: int |Q| with Q = Phi^-1(s) - (2s-1), by symmetry 2 int_(1/2)^1, which changes sign
    # nowhere else, so that W_1 = 2 (phi(0) - 1/4).
    assert wasserstein_1d(ndtri, uniform(-1, 1), 1) == pytest.approx(2 * (1 / np.sqrt(2 * np.pi) - 0.25), abs=1e-12)


def test_cell_averages_of_a_gaussian_converge_at_second_order():
    from scipy.special import ndtr

    errors = []
    for cells in (50, 100, 200, 400, 800):
        edges = np.linspace(-9, 9, cells + 1)
        value = wasserstein_1d(density(edges, np.diff(ndtr(edges))), uniform(-1, 1))
        errors.append(abs(value - 0.452718639154))
    slope = np.polyfit(np.log([50, 100, 200, 400, 800]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.1)


def test_samples_of_equal_size_are_the_sorted_formula():
    rng = np.random.default_rng(31)
    a, b = rng.normal(size=1001), rng.gumbel(size=1001)
    for p in (1, 2, 3):
        exact = np.mean(np.abs(np.sort(a) - np.sort(b)) ** p) ** (1 / p)
        assert wasserstein_1d(a, b, p) == pytest.approx(exact, rel=1e-12)


def test_samples_of_unequal_size_are_the_repeated_formula():
    rng = np.random.default_rng(33)
    a, b = rng.normal(size=12), rng.normal(size=18)
    repeated = np.mean((np.repeat(np.sort(a), 3) - np.repeat(np.sort(b), 2)) ** 2) ** 0.5
    assert wasserstein_1d(a, b) == pytest.approx(repeated, rel=1e-14)
    assert wasserstein_1d(a, np.repeat(a, 7)) == 0.0
    weights = rng.integers(1, 5, size=12)
    assert wasserstein_1d(np.repeat(a, weights), b) == pytest.approx(
        wasserstein_1d(a, b, a_weights=weights), rel=1e-12)


def test_sample_to_density_against_brute_force():
    rng = np.random.default_rng(35)
    law = density([0.0, 0.5, 0.7, 2.0, 2.5], [0.2, 0.3, 0.0, 0.5])
    x = rng.uniform(0, 2.5, size=9)

    def quantile(s):
        levels, edges = np.array([0, 0.2, 0.5, 0.5, 1.0]), law.grid.edges[0]
        k = min(np.searchsorted(levels, s, side="right") - 1, 3)
        return edges[k] + (s - levels[k]) / (levels[k + 1] - levels[k]) * (edges[k + 1] - edges[k])

    xs = np.sort(x)
    cuts = np.unique([*np.arange(10) / 9, 0.2, 0.5])
    exact = sum(quad(lambda s: (quantile(s) - xs[min(int(s * 9), 8)]) ** 2, lo, hi, epsabs=1e-15)[0]
                for lo, hi in itertools.pairwise(cuts))
    assert wasserstein_1d(law, x) == pytest.approx(np.sqrt(exact), rel=1e-12)


@given(arrays(float, st.integers(1, 12), elements=finite), arrays(float, st.integers(1, 9), elements=finite))
def test_w1_is_the_area_between_the_distribution_functions(a, b):
    grid = np.unique(np.concatenate([a, b]))
    fa, fb = ((np.sort(v)[None, :] <= grid[:, None]).mean(axis=1) for v in (a, b))
    area = np.sum(np.abs(fa - fb)[:-1] * np.diff(grid))
    assert wasserstein_1d(a, b, 1) == pytest.approx(area, abs=1e-12)
    assert kolmogorov(a, b) == pytest.approx(np.abs(fa - fb).max(), abs=1e-14)


@given(st.lists(arrays(float, 6, elements=finite), min_size=3, max_size=3), st.sampled_from([1, 1.7, 2, 5]))
def test_metric_axioms_and_symmetries(samples, p):
    a, b, c = samples
    law = density(np.arange(7.0), np.abs(c) + 0.1)
    ab, bc, ac = wasserstein_1d(a, b, p), wasserstein_1d(b, law, p), wasserstein_1d(a, law, p)
    assert ac <= ab + bc + 1e-12
    assert ab == pytest.approx(wasserstein_1d(b, a, p), rel=1e-13)
    assert wasserstein_1d(a, a, p) == 0.0
    assert wasserstein_1d(law, law, p) == 0.0
    assert wasserstein_1d(a + 3.0, a, p) == pytest.approx(3.0, rel=1e-13)
    assert wasserstein_1d(-2 * a, -2 * b, p) == pytest.approx(2 * ab, rel=1e-12, abs=1e-13)
    assert wasserstein_1d(a, b, 1) <= ab * (1 + 1e-12) + 1e-13


@given(arrays(float, 5, elements=finite), arrays(float, 8, elements=st.floats(0, 3)))
def test_kolmogorov_between_sample_and_density(x, masses):
    law = density(np.linspace(-4, 4, 9), masses + 1e-3)
    xs = np.sort(x)
    exact = max(max(abs(cdf_twin(law, v) - np.mean(xs <= v)), abs(cdf_twin(law, v) - np.mean(xs < v))) for v in xs)
    assert kolmogorov(x, law) == pytest.approx(exact, abs=1e-12)
    assert kolmogorov(law, x) == pytest.approx(exact, abs=1e-12)


def test_kolmogorov_closed_forms():
    assert kolmogorov(uniform(0, 1), uniform(0.25, 1.25)) == pytest.approx(0.25, abs=1e-15)
    assert kolmogorov([0.0], uniform(0, 1)) == 1.0
    assert kolmogorov([0.0, 0.0], [0.0]) == 0.0
    assert kolmogorov([0.0], [1e-9]) == 1.0


def test_gaussian_closed_form():
    assert gaussian_wasserstein(0.0, 4.0, 3.0, 1.0) == pytest.approx(np.sqrt(10.0), rel=1e-14)
    # Commuting covariances: sum of squared differences of the standard deviations along the common axes.
    turn = np.linalg.qr(np.random.default_rng(37).normal(size=(4, 4)))[0]
    sa, sb = np.array([0.0, 0.3, 1.0, 2.0]), np.array([1.0, 0.3, 0.0, 5.0])
    distance = gaussian_wasserstein(np.zeros(4), turn @ np.diag(sa**2) @ turn.T, np.ones(4),
                                    turn @ np.diag(sb**2) @ turn.T)
    assert distance == pytest.approx(np.sqrt(4.0 + np.sum((sa - sb) ** 2)), rel=1e-10)
    # A map x -> Tx with T symmetric positive definite is optimal (Brenier): W_2^2 = tr((T - 1)^2 A).
    rng = np.random.default_rng(39)
    g, h = rng.normal(size=(2, 3, 3))
    t, a = g @ g.T + np.eye(3), h @ h.T
    exact = np.sqrt(np.trace((t - np.eye(3)) @ a @ (t - np.eye(3))))
    assert gaussian_wasserstein(np.zeros(3), a, np.zeros(3), t @ a @ t) == pytest.approx(exact, rel=1e-10)
    assert gaussian_wasserstein(np.zeros(3), a, np.zeros(3), a) < 1e-14 * np.trace(a) + 1e-13


def test_points_against_all_permutations():
    rng = np.random.default_rng(41)
    x, y = rng.normal(size=(2, 6, 2))
    for p in (1, 2, 3):
        best = min(np.mean(np.linalg.norm(x - y[list(s)], axis=1) ** p) for s in itertools.permutations(range(6)))
        assert wasserstein_points(x, y, p) == pytest.approx(best ** (1 / p), rel=1e-12)
    assert wasserstein_points(x, x + [3.0, 4.0]) == pytest.approx(5.0, rel=1e-14)
    assert wasserstein(x, y, 1) == wasserstein_points(x, y, 1)


def test_weighted_points():
    pytest.importorskip("ot")
    rng = np.random.default_rng(43)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(7, 2))
    w = np.array([1.0, 2.0, 1.0, 3.0, 1.0])
    y8, w8 = np.vstack([y, y[:1]]), np.array([0.5, 1, 1, 1, 1, 1, 1, 0.5])
    assert wasserstein_points(x, y, x_weights=w) == pytest.approx(
        wasserstein_points(x, y8, x_weights=w, y_weights=w8), rel=1e-10)
    repeated = np.repeat(x, [1, 2, 1, 3, 1], axis=0)
    assert wasserstein_points(x, np.vstack([y, y[:1]]), x_weights=w) == pytest.approx(
        wasserstein_points(repeated, y8), rel=1e-10)
    # On a line embedded in the plane the linear program must agree with the one-dimensional formula.
    line = lambda v: np.stack([0.6 * v, 0.8 * v], axis=1)  # noqa: E731
    a, b = rng.normal(size=6), rng.normal(size=11)
    assert wasserstein_points(line(a), line(b)) == pytest.approx(wasserstein_1d(a, b), rel=1e-10)


def test_bad_input_is_named():
    good = [0.0, 1.0]
    cases = [
        (lambda: wasserstein_1d([np.nan, 0.0], good), "a has 1 non-finite entries, the first at index (0,)"),
        (lambda: wasserstein_1d(good, []), "b is empty"),
        (lambda: wasserstein_1d(good, good, 0.5), "p=0.5: must be >= 1"),
        (lambda: wasserstein_1d(good, good, np.nan), "p=nan: must be"),
        (lambda: wasserstein_1d(good, good, a_weights=[1.0]), "a_weights has 1 entries for 2 points"),
        (lambda: wasserstein_1d(good, good, b_weights=[1.0, -1.0]), "b_weights[1] = -1"),
        (lambda: wasserstein_1d(good, good, b_weights=[0.0, 0.0]), "total 0"),
        (lambda: wasserstein_1d(np.zeros((2, 2)), good), "a has shape (2, 2)"),
        (lambda: wasserstein_1d(ndtri, good, np.inf), "p = inf"),
        (lambda: wasserstein_1d(ndtri, good, a_weights=good), "quantile function"),
        (lambda: wasserstein_1d(uniform(0, 1), good, a_weights=good), "own masses"),
        (lambda: kolmogorov(ndtri, good), "not a quantile function"),
        (lambda: wasserstein_1d(lambda s: s * np.nan, good), "not finite inside (0, 1)"),
        (lambda: wasserstein_points(np.zeros((2, 2)), np.zeros((2, 3))), "2 dimensions"),
        (lambda: wasserstein(np.zeros((2, 2)), good), "a lives in 2 dimension(s)"),
        (lambda: gaussian_wasserstein(0, -1, 0, 1), "eigenvalue -1"),
        (lambda: gaussian_wasserstein([0, 0], [[1, 2], [0, 1]], [0, 0], np.eye(2)), "cov_a is not symmetric"),
        (lambda: gaussian_wasserstein([0, 0], np.eye(3), [0, 0], np.eye(2)), "cov_a has shape (3, 3)"),
    ]
    for call, words in cases:
        with pytest.raises(InvalidInput) as caught:
            call()
        assert words in str(caught.value)
    circle = uniform(0, 1)
    circle.grid.periodic = (True,)
    with pytest.raises(InvalidInput, match="circle"):
        wasserstein_1d(circle, good)
    for wrong in ("2", True, 1 + 2j, [1, 2]):
        with pytest.raises(InvalidType):
            wasserstein_1d(good, good, wrong)
    with pytest.raises(InvalidType, match="dtype complex128"):
        wasserstein_1d([1j], good)
    with pytest.raises(ResourceError, match=r"cost matrix of 80\.0 GB"):
        wasserstein_points(np.zeros((100_000, 2)), np.zeros((100_000, 2)))


def test_the_callers_arrays_are_left_alone():
    x = np.array([3.0, 1.0, 2.0])
    x.setflags(write=False)
    assert wasserstein_1d(x[::-1], x.astype(">f4"), 2) == 0.0
    np.testing.assert_array_equal(x, [3.0, 1.0, 2.0])


# -------------------------------------------------------------------- laws between which there is no distance
LINE = wg.Grid((0, 1), cells=10)
PLANE = wg.Grid([(0, 1), (0, 1)], cells=(3, 4))
RING = wg.Grid([(0, 1), (0, 1)], cells=(3, 4), boundary=("no-flux", "periodic"))


def law(grid, mass=1.0):
    return wg.Density(grid, mass * wg.Density.uniform(grid).values)


@pytest.mark.parametrize(("a", "b", "words"), [
    (law(LINE), law(LINE, 2.0), "a has mass 1 and b has mass 2"),
    (law(PLANE, 0.5), law(PLANE), "a has mass 0.5 and b has mass 1"),
    (wg.Atoms([[0.0, 1.0]], [0.5, 0.5]), wg.Atoms([[0.0, 1.0]], [1.0, 1.0]), "a has mass 1 and b has mass 2"),
    (law(LINE, 1.1), wg.Atoms([[0.0, 1.0]], [0.5, 0.5]), "a has mass 1.1 and b has mass 1"),
    (density([0, 1, 2], [1.5, -0.5]), uniform(0, 2), "a is a Density with a mass of -0.5"),
    (density([0, 1, 2], [np.nan, 1.0]), uniform(0, 2), "a is a Density with a mass of nan"),
    (law(RING), law(RING), "a lives on a circle in coordinate 1"),
    (law(PLANE), law(RING), "b lives on a circle"),
    (law(LINE), law(PLANE), r"a lives in 1 dimension\(s\) and b in 2"),
    (law(PLANE), np.zeros((5, 3)), r"a lives in 2 dimension\(s\) and b in 3"),
    (law(LINE), lambda s: 1 - s, "b: a quantile function .* must not fall"),
    (law(LINE), lambda s: 0.5, "b: a quantile function must return an array"),
])
def test_distances_refuse_what_has_none(a, b, words):
    with pytest.raises(InvalidInput, match=words):
        wasserstein(a, b)
    if "dimension" not in words and "quantile" not in words and getattr(a, "grid", LINE).ndim == 1:
        for distance in (wasserstein_1d, kolmogorov):
            with pytest.raises(InvalidInput, match=words):
                distance(a, b)


def test_weights_of_a_law_on_several_axes_are_its_own():
    with pytest.raises(InvalidInput, match="a is a Density and has its own masses"):
        wasserstein(law(PLANE), law(PLANE), a_weights=np.ones(12))


def test_normalized_shapes_and_masses_within_rounding_have_a_distance():
    heavy = law(LINE, 2.0)
    assert wasserstein(heavy.normalized(), law(LINE)) == 0
    assert wasserstein(law(LINE, 1 + 1e-9), law(LINE)) < 1e-12
    assert wasserstein(heavy, law(LINE, 2.0)) == 0
    assert wasserstein(np.zeros((4, 1)), [1.0, 1.0]) == 1  # points with one coordinate lie on the line


def test_densities_on_two_grids_have_no_l1_distance():
    with pytest.raises(InvalidInput, match="put both on one grid"):
        l1_distance(law(LINE), law(wg.Grid((0, 2), cells=10)))


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-20, 1.0, 1e155, 1e300])
@pytest.mark.parametrize("p", [1, 2, 3, 7.5])
def test_costs_neither_overflow_nor_underflow(scale, p):  # row 84 of the table of faults
    rng = np.random.default_rng(8731)
    x, y = rng.normal(size=(2, 7, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = wasserstein_points(x, y, p)
        assert wasserstein_points(x * scale, y * scale, p) == pytest.approx(own * scale, rel=1e-12)
        assert wasserstein_points(x * scale, (x + [3.0, 4.0]) * scale, p) == pytest.approx(5.0 * scale, rel=1e-12)
    assert wasserstein_points(x, x, p) == 0.0


def test_costs_that_no_float_holds_are_refused():
    far = np.array([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(InvalidInput, match="no float holds their distance"):
        wasserstein_points(far * 1.7e308, (far - 1.0) * 1.7e308)
    # Each point is matched with one near it; to the power of 400 their distance is 1e-1200.
    with pytest.raises(InvalidInput, match="take a smaller p"):
        wasserstein_points(far, far + [0.0, 1e-3], 400)
    assert wasserstein_points(far, far + [0.0, 1e-3], 40) == pytest.approx(1e-3, rel=1e-12)
