"""Features of two random blocks: the kernel by quadrature over both angles, errors, gradients, limits."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.special import roots_jacobi

from wgflow.activations import Erf, NonMonotone, Ramp, ReLU, Tanh
from wgflow.errors import WGFlowWarning
from wgflow.kernels.neuron_pairs import block_mehler_rows
from wgflow.reduced_models._biradial_features import Box, choose_biradial_features, without_constant_axes

TAUS = (math.sqrt(1.4), math.sqrt(0.6))


def angle_rule(dim, nodes=None):
    if nodes is None:  # in few dimensions the rule comes close to +-1, where the pair expectation is less smooth
        nodes = 40 if dim >= 10 else 160
    if dim == 1:
        return np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    c, weights = roots_jacobi(nodes, 0.5 * (dim - 3), 0.5 * (dim - 3))
    return c, weights / weights.sum()


def kernel_by_two_angles(activation, dims, first, second, nodes=None):
    """U at pairs of points (b, r1, r2) as the average of the closed-form pair expectation over both angles."""
    (c1, w1), (c2, w2) = (angle_rule(n, nodes) for n in dims)
    (b, r1, r2), (b_, r1_, r2_) = ([np.asarray(x)[..., None, None] for x in point] for point in (first, second))
    total = 0.0
    for tau in TAUS:
        s, s_ = np.hypot(tau * r1, r2), np.hypot(tau * r1_, r2_)
        rho = (tau**2 * r1 * r1_ * c1[:, None] + r2 * r2_ * c2) / np.maximum(s * s_, 1e-300)
        pairs = activation.pair_expectation(s, s_, np.clip(rho, -1, 1), offset1=b, offset2=b_)
        total = total + np.einsum("nij,i,j->n", pairs, w1, w2)
    return 0.5 * total


def points_of(box, n, seed):
    """Random points of a box, some of them on the axes and one at the origin."""
    rng = np.random.default_rng(seed)
    b, r1, r2 = rng.uniform(-box.b_max, box.b_max, n), rng.uniform(0, box.r1_max, n), rng.uniform(0, box.r2_max, n)
    r1[:3], r2[2:5] = 0.0, 0.0
    return b, r1, r2


def inner(f, first, second):
    return np.sum(f(*first) * f(*second), axis=0)


CASES = [
    (Ramp(), (60, 260), Box(0, 12, 12), 1e-10),
    (ReLU(), (60, 260), Box(1, 1, 1), 1e-11),
    (NonMonotone(), (30, 20), Box(2, 6, 6), 1e-7),
    (ReLU(), (10, 30), Box(1, 1, 1), 1e-9),
    (ReLU(), (4, 316), Box(1, 1, 1), 1e-6),
    (ReLU(), (316, 2), Box(1, 1, 1), 1e-5),
    (ReLU(), (1, 5), Box(1, 1, 1), 1e-4),
    (Erf(), (12, 20), Box(1, 4, 4), 1e-7),
]


@pytest.mark.parametrize(("activation", "dims", "box", "tolerance"), CASES, ids=str)
def test_kernel_against_two_angle_quadrature_keeps_its_bound(activation, dims, box, tolerance):
    f = choose_biradial_features(activation, TAUS, dims, box, tolerance)
    first, second = points_of(box, 14, 3101), points_of(box, 14, 3103)
    on_diagonal = kernel_by_two_angles(activation, dims, first, first)
    allowed = max(1.0, np.max(on_diagonal))
    assert f.error <= tolerance
    expected = kernel_by_two_angles(activation, dims, first, second)
    assert inner(f, first, second) == pytest.approx(expected, abs=f.error * allowed + 1e-12)
    # Pairs of small scale: an error that only looked small beside max U would show.
    tiny = tuple(0.05 * x for x in first)
    expected = kernel_by_two_angles(activation, dims, tiny, second)
    assert inner(f, tiny, second) == pytest.approx(expected, abs=f.error * allowed + 1e-12)
    # What is left out of a positive kernel is positive on the diagonal.
    assert np.all(inner(f, first, first) <= on_diagonal + 1e-11 * allowed)


def test_kernel_of_a_smooth_activation():
    f = choose_biradial_features(Tanh(), TAUS, (30, 50), Box(1, 3, 3), 1e-8)
    first, second = points_of(Box(1, 3, 3), 6, 3107), points_of(Box(1, 3, 3), 6, 3109)
    assert inner(f, first, second) == pytest.approx(kernel_by_two_angles(Tanh(), (30, 50), first, second, 24), abs=1e-8)


def test_more_dimensions_need_fewer_features():
    sizes = [choose_biradial_features(ReLU(), TAUS, (n, 4 * n), Box(1, 1, 1), 1e-8).target.size for n in (10, 60, 300)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_more_features_at_a_finer_tolerance():
    found = [choose_biradial_features(Ramp(), TAUS, (60, 260), Box(0, 12, 12), e) for e in (1e-4, 1e-7, 1e-10)]
    assert [f.target.size for f in found] == sorted({f.target.size for f in found})
    assert all(f.error <= e for f, e in zip(found, (1e-4, 1e-7, 1e-10)))


def test_no_feature_is_numerically_zero():
    f = choose_biradial_features(ReLU(), TAUS, (60, 260), Box(1, 1, 1), 1e-8)
    values = f(*points_of(Box(1, 1, 1), 4000, 3119))
    assert np.all(np.max(values**2, axis=1) > 0.1 * 1e-8)
    assert f.target.size < sum(terms.i.size for terms in f.classes)
    assert f.rotation @ f.rotation.T == pytest.approx(np.eye(f.target.size - 2), abs=1e-13)


def test_the_first_two_features_are_the_mean_outputs():
    f = choose_biradial_features(Ramp(), TAUS, (60, 260), Box(0, 12, 12), 1e-8)
    _, r1, r2 = points_of(Box(0, 12, 12), 50, 3121)
    means = [math.sqrt(0.5) * Ramp().gaussian_mean(np.hypot(tau * r1, r2)) for tau in TAUS]
    assert f(0.0, r1, r2)[:2] == pytest.approx(np.array(means), abs=1e-14)
    assert f.target[:2] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])
    assert not f.target[2:].any()


def test_the_limit_has_two_features():
    f = choose_biradial_features(ReLU(), TAUS, (math.inf, math.inf), Box(1, 1, 1), 1e-8)
    assert f.target.size == 2
    assert f.error == 0.0
    near = choose_biradial_features(ReLU(), TAUS, (10**5, 10**5), Box(1, 1, 1), 1e-12)
    first, second = points_of(Box(1, 1, 1), 9, 3137), points_of(Box(1, 1, 1), 9, 3139)
    assert inner(near, first, second) == pytest.approx(inner(f, first, second), abs=1e-5)


@pytest.mark.parametrize("activation", [Ramp(), NonMonotone(), ReLU(), Erf(), Tanh()], ids=repr)
@pytest.mark.parametrize("dims", [(60, 260), (12, 20), (math.inf, math.inf)])
def test_gradients_against_differences(activation, dims):
    f = choose_biradial_features(activation, TAUS, dims, Box(1, 2, 2), 1e-6)
    rng = np.random.default_rng(3163)
    point = [rng.uniform(-0.8, 0.8, 40), rng.uniform(0.6, 2.0, 40), rng.uniform(0.6, 2.0, 40)]
    gradients = f.gradients(*point)
    assert gradients.shape == (f.target.size, 3, 40)
    h, weights = 4e-3, {1: 672 / 840, 2: -168 / 840, 3: 32 / 840, 4: -3 / 840}
    for axis in range(3):
        difference = 0.0
        for steps, weight in weights.items():
            up, down = list(point), list(point)
            up[axis], down[axis] = point[axis] + steps * h, point[axis] - steps * h
            difference = difference + weight / h * (f(*up) - f(*down))
        assert gradients[:, axis] == pytest.approx(difference, abs=5e-11)


@pytest.mark.parametrize("activation", [Ramp(), ReLU(), Tanh()], ids=repr)
def test_axes_and_origin(activation):
    f = choose_biradial_features(activation, TAUS, (12, 20), Box(1, 2, 2), 1e-6)
    b = np.array([-0.7, 0.0, 0.3])
    for r1, r2 in [(0.0, 0.0), (0.0, 0.8), (0.8, 0.0), (1e-310, 1e-305), (0.0, 1e-200)]:
        values, slopes = f(b, r1, r2), f.gradients(b, r1, r2)
        assert np.isfinite(values).all()
        assert np.isfinite(slopes).all()
        # Even in each length: no slope on its axis, wherever the other length makes the features smooth.
        if r2 > 0.1:
            assert slopes[:, 1] == pytest.approx(np.zeros_like(values), abs=1e-14)
        if r1 > 0.1:
            assert slopes[:, 2] == pytest.approx(np.zeros_like(values), abs=1e-14)
    origin = f(b, 0.0, 0.0)
    assert origin[:2] == pytest.approx(math.sqrt(0.5) * np.array([activation(b)] * 2), abs=1e-13)
    assert f(b, 1e-9, 1e-9) == pytest.approx(origin, abs=1e-7)


def test_a_tolerance_out_of_reach_warns():
    with pytest.warns(WGFlowWarning, match="not to tolerance=1.0e-07"):
        choose_biradial_features(ReLU(), TAUS, (2, 6), Box(1, 1, 1), 1e-7)


def test_a_relaxed_tolerance_is_no_worse_than_the_series():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relaxed = choose_biradial_features(ReLU(), TAUS, (2, 6), Box(1, 1, 1), 1e-7, relax=True)
    with pytest.warns(WGFlowWarning):
        strict = choose_biradial_features(ReLU(), TAUS, (2, 6), Box(1, 1, 1), 1e-7)
    assert strict.error <= relaxed.error <= 2.5 * strict.error
    assert relaxed.target.size < strict.target.size


def test_many_points_are_handled_in_parts(monkeypatch):
    from wgflow.reduced_models import _biradial_features

    f = choose_biradial_features(ReLU(), TAUS, (60, 260), Box(1, 1, 1), 1e-8)
    point = points_of(Box(1, 1, 1), 60, 3167)
    whole, slopes = f(*point), f.gradients(*point)
    monkeypatch.setattr(_biradial_features, "_BLOCK", 700)
    assert len(f._parts(60)) > 3
    assert np.array_equal(f(*point), whole)
    assert np.array_equal(f.gradients(*point), slopes)


def test_axes_that_nothing_depends_on_are_left_out():
    x, y, z = np.meshgrid([1.0, 2.0, 1.0], [3.0, 4.0], [5.0, 6.0, 7.0, 8.0], indexing="ij")
    assert [a.shape for a in without_constant_axes(y, z)] == [(1, 2, 4)] * 2
    assert [a.shape for a in without_constant_axes(x, z)] == [(3, 1, 4)] * 2
    assert [a.shape for a in without_constant_axes(x, y, z)] == [(3, 2, 4)] * 3
    assert [a.shape for a in without_constant_axes(np.ones(()), np.ones(3))] == [(1,)] * 2


def test_sums_over_pairs_are_the_readable_double_loop():
    rng = np.random.default_rng(3169)
    n, d, split, degree = 9, 7, 3, 5
    w, variances = rng.standard_normal((n, d)), np.array([1.4, 0.6])
    w[4] = 0.0
    covariances = [np.diag([v] * split + [1.0] * (d - split)) for v in variances]
    scales = np.array([[math.sqrt(x @ c @ x) for x in w] for c in covariances])
    coefficients, tails = rng.standard_normal((2, n, degree + 1)), rng.uniform(0.5, 1.0, (2, degree + 1))
    rows, expected, far = np.zeros(n), np.zeros(n), []
    tolerance = 0.05
    for i in range(2, 8):
        for j in range(i):
            for m in range(2):
                scale = scales[m, i] * scales[m, j]
                c = w[i] @ covariances[m] @ w[j] / scale if scale else 0.0
                reached = [k for k in range(degree + 1) if tails[m, k] * abs(c) ** (k + 1) <= tolerance]
                if reached:
                    expected[i] += sum(coefficients[m, i, k] * coefficients[m, j, k] * c**k
                                       for k in range(reached[0] + 1))
                else:
                    far.append((i, j, m, c))
    i, j, law = (np.zeros(2 * n * n, dtype=np.int64) for _ in range(3))
    cosine = np.zeros(2 * n * n)
    count = block_mehler_rows(w, split, variances, scales, coefficients, tails, tolerance, 2, 8, rows,
                              i, j, law, cosine)
    assert rows == pytest.approx(expected, abs=1e-13)
    assert count == len(far) > 0
    assert np.column_stack([i, j, law, cosine])[:count] == pytest.approx(np.array(far), abs=1e-13)
