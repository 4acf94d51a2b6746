"""The least risk over measures: reference values, duality by other routes, atoms at infinity, and finite width."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar, nnls
from scipy.special import roots_jacobi

from wgflow.activations import NonMonotone, PiecewiseLinear, Polynomial, Ramp, ReLU, Tanh
from wgflow.densities import Density
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType, WGFlowWarning
from wgflow.grids import Grid
from wgflow.reduced_models import AnisotropicGaussian, IsotropicGaussian
from wgflow.reduced_models.base import ReducedModel

pytestmark = pytest.mark.filterwarnings("ignore:a part .* lies on the edge")
FAR = np.concatenate([np.linspace(0.0, 6.0, 61), np.geomspace(6.3, 1e5, 12)])


class Net(ReducedModel):
    """Finite data in a few dimensions, one hidden layer without readout, on a box; ``kink`` clips instead of tanh."""

    name = "toy"

    def __init__(self, dim, n, seed=5, kink=False, half=3.0, signs=None):
        rng = np.random.default_rng(seed)
        self.x, self.y, self.kink, self.half = rng.standard_normal((n, dim)), rng.standard_normal(n), kink, half
        self.coordinate_names = tuple("xyzw"[:dim])
        self.label_second_moment = float(np.mean(self.y**2))
        self._signs = np.ones(n) if signs is None else np.asarray(signs)

    def _inputs(self, coordinates):
        return np.tensordot(self.x, np.stack(np.broadcast_arrays(*coordinates)), axes=1)

    def features(self, *coordinates):
        t = self._inputs(coordinates)
        return (np.clip(t, -1.0, 1.0) if self.kink else np.tanh(t)) / math.sqrt(self.y.size)

    def feature_gradients(self, *coordinates):
        t = self._inputs(coordinates)
        slope = (np.abs(t) < 1.0).astype(float) if self.kink else 1.0 - np.tanh(t) ** 2
        return slope[:, None] * self.x.reshape(self.x.shape + (1,) * (t.ndim - 1)) / math.sqrt(self.y.size)

    @property
    def target(self):
        return self.y / math.sqrt(self.y.size)

    @property
    def signs(self):
        return self._signs

    def diagonal(self, *coordinates):
        return np.sum(self.features(*coordinates) ** 2, axis=0)

    def grid(self, cells):
        return Grid([(-self.half, self.half)] * self.n_coordinates, cells=cells)

    def initial_density(self, kappa, grid):
        return Density.uniform(grid)


def exact_kernel(m, r, s, nodes=100):
    """U(r, r') from closed-form pair expectations averaged over the angle; infinite radii by the limit 5 / 2."""
    if math.isinf(r) or math.isinf(s):
        q = [mean(m, tau, s if math.isinf(r) else r) * mean(m, tau, math.inf) for tau in m.deviations]
        return 0.5 * sum(q)
    c, weights = roots_jacobi(nodes, 0.5 * (m.d - 3), 0.5 * (m.d - 3))
    pairs = [m.activation.pair_expectation(tau * r, tau * s, c) for tau in m.deviations]
    return float(0.5 * sum(pairs) @ (weights / weights.sum()))


def mean(m, tau, r):
    ends = m.activation.value([-1e9, 1e9])
    return 0.5 * float(ends.sum()) if math.isinf(r) else float(m.activation.gaussian_mean(tau * r))


def exact_psi(m, found, r):
    v = 0.5 * (mean(m, m.deviations[1], r) - mean(m, m.deviations[0], r))
    return v + sum(w * exact_kernel(m, r, x) for w, x in zip(found.weights, found.atoms[:, 0]))


def exact_risk(m, found):
    x, w = found.atoms[:, 0], found.weights
    v = [0.5 * (mean(m, m.deviations[1], r) - mean(m, m.deviations[0], r)) for r in x]
    return 1.0 + 2.0 * float(w @ v) + sum(a * b * exact_kernel(m, r, s) for a, r in zip(w, x) for b, s in zip(w, x))


# -------------------------------------------------------------------- isotropic Gaussians
def test_a_single_length_is_optimal():
    found = IsotropicGaussian(40, delta=0.5).minimum_risk()
    assert found.value == pytest.approx(0.2467732089, abs=2e-10)
    assert found.atoms == pytest.approx(np.array([[1.55499987]]), abs=2e-8)
    assert found.weights == pytest.approx([1.0])
    assert found.attained
    assert 0.0 <= found.gap < 1e-14


@pytest.mark.slow
def test_part_of_the_mass_at_infinity():
    m = IsotropicGaussian(40, delta=0.8)
    found = m.minimum_risk()
    assert not found.attained
    assert found.atoms[:, 0] == pytest.approx([1.5462, math.inf], abs=1e-4)
    assert found.weights == pytest.approx([0.8465, 0.1535], abs=1e-4)
    assert found.mass_at_infinity == found.weights[1]
    assert found.measure.mass == pytest.approx(found.weights[0])
    assert found.value == pytest.approx(exact_risk(m, found), abs=1e-9)
    assert found.gap < 1e-14
    # On bounded intervals the value comes down to it; .0308942 is that of radii up to about 1,600.
    values = [m.minimum_risk(box=(0, high)).value for high in (30.0, 1e3, 1600.0, 1e4)]
    assert values == sorted(values, reverse=True)
    assert values[2] == pytest.approx(0.0308942, abs=1e-6)
    assert values[3] - found.value == pytest.approx(0.1 * (values[1] - found.value), rel=0.02)


@pytest.mark.parametrize(
    ("delta", "radius", "risk"),
    [
        (0.2, 1.447922190144, 0.625456874492),
        (0.5, 1.549494549788, 0.194472082915),
        (0.77, 1.92399839, 0.000080444974),
    ],
)
def test_the_limit_below_its_threshold(delta, radius, risk):
    found = IsotropicGaussian(math.inf, delta=delta).minimum_risk()
    assert (found.value, found.atoms[0, 0]) == pytest.approx((risk, radius), abs=1e-8)
    assert found.weights.size == 1


@pytest.mark.parametrize("activation", [Ramp(), NonMonotone()], ids=repr)
@pytest.mark.parametrize("delta", [0.78, 0.8, 0.93])
def test_the_limit_above_its_threshold_is_zero_and_attained(delta, activation):
    found = IsotropicGaussian(math.inf, delta=delta, activation=activation).minimum_risk()
    assert found.value == pytest.approx(0.0, abs=1e-13)
    assert found.attained
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.floats(0.05, 0.95), st.floats(0.3, 3.0), st.sampled_from([Ramp(), NonMonotone()]))
def test_the_limit_is_a_distance_to_a_convex_hull(delta, scale, activation):
    """By duality the largest over angles of the least of u . (F(r) - p) over r."""
    m = IsotropicGaussian(math.inf, scale**2 * (1 + delta), scale**2 * (1 - delta), activation=activation)
    r = np.concatenate([np.linspace(0, 12 / scale, 60_001), np.geomspace(12 / scale, 1e9, 2001)])
    curve = np.array([activation.gaussian_mean(tau * r) for tau in m.deviations]) - np.array([[1.0], [-1.0]])

    def negative_margin(angle):
        return -np.min(math.cos(angle) * curve[0] + math.sin(angle) * curve[1])

    starts = np.linspace(-math.pi, math.pi, 49)
    best = starts[np.argmin([negative_margin(a) for a in starts])]
    margin = -minimize_scalar(negative_margin, bounds=(best - 0.14, best + 0.14), method="bounded",
                              options={"xatol": 1e-12}).fun
    found = m.minimum_risk()
    assert found.value == pytest.approx(0.5 * max(margin, 0.0) ** 2, abs=1e-7)
    assert found.value >= -1e-14


@pytest.mark.parametrize(
    ("d", "plus", "minus", "activation"),
    [
        pytest.param(10, 1.5, 0.5, Ramp(), marks=pytest.mark.slow),
        (25, 2.2, 0.3, Ramp()),
        (40, 1.9, 0.1, NonMonotone()),
        (64, 0.4, 0.9, PiecewiseLinear([-1.0, 0.2, 1.3], [1.0, -2.0, 3.0])),
    ],
)
def test_optimality_by_independent_quadrature(d, plus, minus, activation):
    m = IsotropicGaussian(d, plus, minus, activation=activation)
    found = m.minimum_risk()
    assert found.value == pytest.approx(exact_risk(m, found), abs=1e-8)
    at_atoms = [exact_psi(m, found, r) for r in found.atoms[:, 0]]
    everywhere = [exact_psi(m, found, r) for r in (*FAR, math.inf)]
    assert np.ptp(at_atoms) < 1e-9
    assert min(everywhere) > min(at_atoms) - 1e-9
    assert found.gap < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("d", [3, 5])
def test_low_dimension(d):
    m = IsotropicGaussian(d, delta=0.6)
    found = m.minimum_risk()
    assert found.gap < 1e-10
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-12)
    # No pair of radii does better, by the feature-free kernel.
    r = np.linspace(0.0, 3.2, 9)
    u = np.array([[exact_kernel(m, a, b, 300) for a in r] for b in r])
    v = m.potential(r)
    for share in (0.1, 0.3, 0.5):
        pairs = 1 + 2 * ((1 - share) * v[:, None] + share * v[None, :]) + 2 * share * (1 - share) * u
        pairs += (1 - share) ** 2 * np.diag(u)[:, None] + share**2 * np.diag(u)[None, :]
        assert pairs.min() > found.value - 1e-5


def test_scaling_of_the_data_is_a_scaling_of_the_atoms():
    a, b = IsotropicGaussian(40, 1.8, 0.2).minimum_risk(), IsotropicGaussian(40, 7.2, 0.8).minimum_risk()
    assert a.value == pytest.approx(b.value, abs=1e-10)
    assert a.atoms[0] == pytest.approx(2 * b.atoms[0], abs=1e-6)


def test_odd_activations_learn_nothing():
    found = IsotropicGaussian(40, delta=0.5, activation=Tanh()).minimum_risk()
    assert (found.value, found.gap) == pytest.approx((1.0, 0.0), abs=1e-13)


def test_homogeneous_activations_have_one_optimal_length():
    """For a homogeneous activation the features are r^n F(1): a parabola in r^n, by hand."""
    for activation, power in ((ReLU(), 1), (Polynomial([0.0, 0.0, 1.0]), 2)):
        m = IsotropicGaussian(40, delta=0.5, activation=activation)
        v, u = float(m.potential(1.0)), float(m.kernel((1.0,), (1.0,)))
        found = m.minimum_risk()
        assert found.value == pytest.approx(1.0 - v * v / u, abs=1e-10)
        # Only the mean of r^n is determined.
        assert np.sum(found.weights * found.atoms[:, 0] ** power) == pytest.approx(-v / u, rel=1e-6)


def test_neurons_that_grow_without_bound():
    """The even part bends up at first and then falls: vanishingly few long neurons counterweigh."""
    activation = PiecewiseLinear([-1.9, -0.08, 0.15], [4.9, 0.81, 0.585], left_slope=-0.275, right_slope=-1.608)
    m = IsotropicGaussian(40, delta=0.7, activation=activation)
    found = m.minimum_risk()
    assert not found.attained
    assert found.weights == pytest.approx([1.0, 0.0])
    assert found.atoms[1, 0] == math.inf
    assert found.finite_width_excess == math.inf
    values = [m.minimum_risk(box=(0, high)).value for high in (10.0, 100.0, 1000.0)]
    assert values == sorted(values, reverse=True)
    assert 0 < values[2] - found.value < 0.02 * (values[0] - found.value)


# -------------------------------------------------------------------- any model, in 1 to 4 coordinates
@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dim", "n", "kink"), [(1, 8, False), (1, 8, True), (2, 12, False), (2, 8, True)])
def test_no_measure_on_a_fine_grid_does_better(dim, n, kink):
    m = Net(dim, n, kink=kink)
    found = m.minimum_risk()
    axis = np.linspace(-m.half, m.half, 1201 if dim == 1 else 41)
    f = m.features(*np.meshgrid(*[axis] * dim, indexing="ij")).reshape(n, -1)
    u, _ = nnls(np.vstack([f - m.target[:, None], np.ones(f.shape[1])]), np.append(np.zeros(n), 1.0))
    on_grid = float(np.sum((f @ (u / u.sum()) - m.target) ** 2))
    assert found.value - found.gap <= on_grid + 1e-12
    assert on_grid - found.value < (1e-3 if dim == 1 else 0.03)
    assert found.value == pytest.approx(m.risk(found.measure), abs=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "n"), [(3, 12), (4, 10)])
def test_certificate_on_random_points(dim, n):
    m = Net(dim, n, seed=11)
    found = m.minimum_risk()
    points = np.random.default_rng(707).uniform(-m.half, m.half, (dim, 200_000))
    psi = m.psi(found.measure, *points)
    level = m.psi(found.measure, *found.atoms.T)
    assert found.gap < 1e-10
    assert np.ptp(level) < 1e-7
    assert psi.min() > level.min() - 1e-10
    assert found.weights.size <= n + 1  # Caratheodory


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(1, 2), st.integers(2, 10), st.integers(0, 10_000))
def test_weak_duality(dim, n, seed):
    m = Net(dim, n, seed=seed)
    found = m.minimum_risk()
    rng = np.random.default_rng(seed + 1)
    points, weights = rng.uniform(-m.half, m.half, (dim, 200)), rng.dirichlet(np.ones(200))
    z = m.features(*points) @ weights
    assert np.sum((z - m.target) ** 2) >= found.value - found.gap - 1e-13
    assert found.weights.min() > 0
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-13)
    assert np.all(np.abs(found.atoms) <= m.half)


class Scaled(Net):
    """The model whose features and targets are multiplied by factors."""

    factors = np.sqrt([0.2, 3.0, 1.0, 0.5])

    def features(self, *coordinates):
        f = super().features(*coordinates)
        return self.factors.reshape((-1,) + (1,) * (f.ndim - 1)) * f

    def feature_gradients(self, *coordinates):
        f = super().feature_gradients(*coordinates)
        return self.factors.reshape((-1,) + (1,) * (f.ndim - 1)) * f

    @property
    def target(self):
        return self.factors * super().target


def test_signs_scale_the_features():
    signed, scaled = Net(2, 4, signs=Scaled.factors**2).minimum_risk(), Scaled(2, 4).minimum_risk()
    assert signed.value == pytest.approx(scaled.value, abs=1e-11)
    assert Scaled.factors * signed.moments == pytest.approx(scaled.moments, abs=1e-6)
    assert abs(signed.value - Net(2, 4).minimum_risk().value) > 1e-3


def test_a_smaller_box_is_a_constraint():
    m = Net(2, 8)
    boxes = [((-h, h), (-h, h)) for h in (0.2, 1.0, 3.0, 12.0)]
    found = [m.minimum_risk(box=box) for box in boxes]
    values = [f.value for f in found]
    assert values == sorted(values, reverse=True)
    assert all(np.abs(f.atoms).max() <= box[0][1] for f, box in zip(found, boxes))
    # What lies on the edge of a box is told.
    for f, box in zip(found, boxes):
        on_edge = [f.weights[np.abs(f.atoms[:, axis]) == box[0][1]].sum() for axis in (0, 1)]
        assert f.boundary_mass == max(on_edge) > 0.1
    assert IsotropicGaussian(40, delta=0.5).minimum_risk().boundary_mass == 0
    assert found[2].box == boxes[2]


def test_the_default_box_does_not_hold_the_optimum_back_in_silence():
    m = Net(2, 4, half=0.3)
    with pytest.warns(WGFlowWarning, match=r"edge of the searched box.*\[-0.3, 0.3\]"):
        m.minimum_risk()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.minimum_risk(box=((-0.3, 0.3), (-0.3, 0.3)))
        IsotropicGaussian(math.inf, delta=0.9).minimum_risk()  # has an atom at r = 0, the end of the coordinate


# -------------------------------------------------------------------- finite width
def test_the_lemma_on_a_sphere():
    found = IsotropicGaussian(40, delta=0.5).minimum_risk()
    assert found.finite_width_excess == pytest.approx(15.0318252221, abs=2e-7)  # its radius is rounded to 9 digits
    assert found.expected_risk(10) == pytest.approx(1.7130763, abs=1e-7)
    low, high = found.finite_width_bounds(10)
    assert low == pytest.approx(found.value, abs=1e-13)
    assert high <= found.value + found.finite_width_excess / 10


@pytest.mark.slow
@pytest.mark.parametrize(("d", "delta", "n"), [(40, 0.5, 10), (24, 0.62, 7)])
def test_expected_risk_of_drawn_networks(d, delta, n):
    m = IsotropicGaussian(d, delta=delta)
    found = m.minimum_risk()
    rng = np.random.default_rng(1907)
    radii = rng.choice(np.minimum(found.atoms[:, 0], 1e7), size=(3000, n, 1), p=found.weights / found.weights.sum())
    w = rng.standard_normal((3000, n, d))
    w *= radii / np.linalg.norm(w, axis=-1, keepdims=True)
    risks = m.population_risk(w)
    assert np.mean(risks) == pytest.approx(found.expected_risk(n), abs=4 * np.std(risks) / math.sqrt(3000))
    low, high = found.finite_width_bounds(n)
    assert low <= risks.min() <= high  # some draw is at least as good as the mean


def test_excess_is_that_of_the_model():
    m = IsotropicGaussian(40, delta=0.5)
    found = m.minimum_risk()
    excess = 12 * (found.expected_risk(12) - found.value)
    assert m.finite_width_excess(found.measure) == pytest.approx(excess, rel=1e-12)


# -------------------------------------------------------------------- input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tolerance=0.0), "tolerance=0"),
        (dict(tolerance=np.nan), "tolerance=nan"),
        (dict(samples=2), "samples=2"),
        (dict(samples=2.5), "samples must be an int"),
        (dict(throw=1), "throw=1: need True or False"),
        (dict(box=((0, 1),)), "box has 1 pairs"),
        (dict(box=((0, 1), (2, 1))), r"box\[1\]"),
        (dict(box=((0, 1), (0, np.nan))), r"box\[1\]"),
        (dict(box=((0, 1), ("a", "b"))), r"box\[1\]"),
        (dict(box="box"), "box must hold"),
        (dict(box=((0, 1), (0, np.inf))), "does not know the limits"),
        (dict(box=((-np.inf, 1), (0, 1))), "finite low end"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidInput, match=message):
        Net(2, 4).minimum_risk(**options)


def test_a_risk_that_is_not_convex_is_refused():
    with pytest.raises(InvalidInput, match="not convex"):
        Net(2, 3, signs=[1.0, -1.0, 1.0]).minimum_risk()


def test_features_that_are_not_finite_are_named():
    m = Net(1, 3)
    m.features = lambda x: np.full((3, *np.shape(x)), np.nan)
    with pytest.raises(InvalidInput, match="feature 0 is nan"):
        m.minimum_risk()


@pytest.mark.slow
def test_a_missed_tolerance_keeps_what_was_found():
    m = Net(2, 8)
    with pytest.raises(ConvergenceError, match="gap") as caught:
        m.minimum_risk(tolerance=1e-40)
    assert caught.value.partial.value == pytest.approx(m.minimum_risk().value, abs=1e-12)
    assert m.minimum_risk(tolerance=1e-40, throw=False).gap < 1e-12


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_bad_width(n):
    found = IsotropicGaussian(np.inf, delta=0.3).minimum_risk()
    with pytest.raises(InvalidInput, match="n_neurons"):
        found.expected_risk(n)


def test_wrong_kinds_are_type_errors():
    with pytest.raises(InvalidType):
        Net(1, 3).minimum_risk(box=3.0)


# -------------------------------------------------------------------- two coordinates
@pytest.mark.slow
@pytest.mark.parametrize(("s0", "delta"), [(10, 0.5), (20, 0.3), (4, 0.8)])
def test_two_lengths_take_few_evaluations(s0, delta, monkeypatch):
    model = AnisotropicGaussian(d=40, s0=s0, delta=delta)
    calls = []
    features = AnisotropicGaussian.features
    monkeypatch.setattr(AnisotropicGaussian, "features", lambda *a: calls.append(1) or features(*a))
    seen = []
    result = model.minimum_risk(progress=lambda rounds, gap: seen.append((rounds, gap)))
    assert result.gap <= 1e-10
    assert len(calls) <= 8000  # a few milliseconds each; the dips of Psi go down together
    assert [rounds for rounds, _ in seen] == list(range(1, len(seen) + 1))
    assert min(gap for _, gap in seen) <= 1e-10
    if (s0, delta) == (10, 0.5):
        assert result.value == pytest.approx(0.419213854345, abs=1e-11)
    # Psi is least at the atoms, by a search of its own.
    rng = np.random.default_rng(11)
    r = 4 * rng.random((2, 3000)) * np.array([[1.0], [rng.random()]])
    coefficients = model.signs * (result.moments - model.target)
    assert (coefficients @ model.features(*r)).min() >= coefficients @ result.moments - 1e-9


def test_a_time_limit_ends_with_the_measure_found(ticking):
    ticking("wgflow.reduced_models.minimum_risk.measure_problem")
    model = IsotropicGaussian(d=40, delta=0.8)
    exact = model.minimum_risk()
    early = model.minimum_risk(time_limit=1e-9, throw=False)
    assert early.iterations == 1
    assert early.value >= exact.value - 1e-14
    assert early.value - early.gap <= exact.value
    with pytest.raises(ConvergenceError, match="1 rounds, at time_limit=1e-09 s") as caught:
        model.minimum_risk(time_limit=1e-9)
    assert caught.value.reason == "time limit"
    assert caught.value.partial.value == early.value


@pytest.mark.parametrize(("arguments", "words"), [
    ({"time_limit": 0.0}, "time_limit=0.0"), ({"progress": 3}, "progress must be a bool or a function"),
])
def test_limits_are_checked(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        IsotropicGaussian(d=40, delta=0.2).minimum_risk(**arguments)
