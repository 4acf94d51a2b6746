"""Features of two random blocks: the kernel by quadrature over both angles, errors, gradients, limits."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.special import eval_genlaguerre, gammaln, roots_jacobi

from wgflow.activations import Erf, NonMonotone, Ramp, ReLU, Softplus, Tanh
from wgflow.compiled.neuron_pairs import block_mehler_rows
from wgflow.errors import WGFlowWarning
from wgflow.reduced_models.features.biradial import Box, without_constant_axes
from wgflow.reduced_models.features.biradial_choice import choose_biradial_features
from wgflow.reduced_models.features.block_quadrature import kernel_diagonal, windowed_polynomials

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
    (ReLU(), (4, 316), Box(1, 1, 1), 1e-9),
    (ReLU(), (316, 2), Box(1, 1, 1), 1e-7),
    (ReLU(), (1, 35), Box(1, 1, 1), 1e-6),
    (Ramp(), (4, 316), Box(0, 10, 6), 1e-8),
    (Ramp(), (36, 4), Box(0, 6, 10), 1e-7),
    (Ramp(), (4, 4), Box(0, 6, 6), 1e-6),
    (Erf(), (3, 40), Box(0, 6, 6), 1e-8),  # an odd activation: no kernel
    (Erf(), (40, 3), Box(1, 3, 3), 1e-7),
    (Erf(), (12, 20), Box(1, 4, 4), 1e-7),
]


@pytest.mark.parametrize(("activation", "dims", "box", "tolerance"), [
    # The fewer the dimensions, the longer the series.
    pytest.param(*case, marks=pytest.mark.slow) if min(case[1]) < 5 and not isinstance(case[0], Erf) else case
    for case in CASES], ids=str)
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
    assert f.target.size < sum(terms.i.size for terms in f.groups)
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


@pytest.mark.slow
def test_a_tolerance_out_of_reach_warns():
    with pytest.warns(WGFlowWarning, match="not to tolerance=1.0e-07"):
        choose_biradial_features(Softplus(), TAUS, (1, 20), Box(0, 30, 30), 1e-7)


@pytest.mark.slow
def test_a_relaxed_tolerance_is_no_worse_than_the_longest_series(monkeypatch):
    from wgflow.reduced_models.features import biradial_choice as _biradial_choice

    monkeypatch.setattr(_biradial_choice, "_SIZES", (6, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        relaxed = choose_biradial_features(Ramp(), TAUS, (2, 60), Box(0, 4, 2), 1e-8, relax=True)
    with pytest.warns(WGFlowWarning):
        strict = choose_biradial_features(Ramp(), TAUS, (2, 60), Box(0, 4, 2), 1e-8)
    assert strict.error <= relaxed.error <= 2.5 * strict.error < 1e-5
    assert relaxed.target.size < strict.target.size


# -------------------------------------------------------------------- windows, for blocks of few dimensions
@pytest.fixture(scope="module")
def windows():
    found = choose_biradial_features(Ramp(), TAUS, (3, 40), Box(0, 8, 4), 1e-7)
    assert len(found.groups) > 2
    return found


def test_windows_keep_the_mean_outputs_exact(windows):
    _, r1, r2 = points_of(Box(0, 8, 4), 50, 3181)
    means = [math.sqrt(0.5) * Ramp().gaussian_mean(np.hypot(tau * r1, r2)) for tau in TAUS]
    assert windows(0.0, r1, r2)[:2] == pytest.approx(np.array(means), abs=1e-14)
    assert windows.target[:2] == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])
    assert not windows.target[2:].any()


def test_windows_have_the_gradients_of_their_differences(windows):
    rng = np.random.default_rng(3187)
    point = [np.zeros(30), rng.uniform(0.8, 3.0, 30), rng.uniform(0.8, 3.0, 30)]
    gradients = windows.gradients(*point)
    h, weights = 0.02, {1: 672 / 840, 2: -168 / 840, 3: 32 / 840, 4: -3 / 840}
    coarse = []
    for step in (h, 0.5 * h):
        for axis in (1, 2):
            difference = 0.0
            for steps, weight in weights.items():
                up, down = list(point), list(point)
                up[axis], down[axis] = point[axis] + steps * step, point[axis] - steps * step
                difference = difference + weight / step * (windows(*up) - windows(*down))
            coarse.append(np.max(np.abs(gradients[:, axis] - difference)) / np.max(np.abs(gradients)))
    assert max(coarse[2:]) < 1e-8
    # The leading features, which carry nearly all of the kernel, to the digits of the difference.
    both = np.max(np.abs(gradients[:2, 1:]))
    assert both > 1.0


def test_windows_on_the_axes_and_far_out(windows):
    for r1, r2 in [(0.0, 0.0), (0.0, 0.8), (0.8, 0.0), (1e-310, 1e-305), (1e6, 0.0), (0.0, 1e6)]:
        values, slopes = windows(0.0, r1, r2), windows.gradients(0.0, r1, r2)
        assert np.isfinite(values).all()
        assert np.isfinite(slopes).all()
        if max(r1, r2) == 0.8:
            assert slopes[:, 2 if r2 == 0.0 else 1] == pytest.approx(np.zeros_like(values), abs=1e-12)
    limit, diagonal = windows.at_infinity
    assert diagonal == 0.5 * (2.5**2 + 7.5**2)
    for ratio in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]:  # the distance to the limit falls like 1/r
        gaps = [np.max(np.abs(windows(0.0, r * ratio[0], r * ratio[1]) - limit)) for r in (1e4, 1e5)]
        assert gaps[1] < 0.01
        assert gaps[0] / gaps[1] == pytest.approx(10.0, rel=0.05)


@pytest.mark.slow
def test_windows_are_reached_from_random_directions(windows):
    rng, n = np.random.default_rng(3191), 400_000
    first, second = (0.0, 2.5, 0.3), (0.0, 0.9, 0.6)
    draws = []
    for tau in TAUS:
        outputs = []
        x = rng.standard_normal((n, 43)) * np.repeat([tau, 1.0], [3, 40])
        for _, r1, r2 in (first, second):
            u, v = rng.standard_normal((n, 3)), rng.standard_normal((n, 40))
            along = [np.sum(a * b, axis=1) / np.sqrt(np.sum(a * a, axis=1)) for a, b in ((u, x[:, :3]), (v, x[:, 3:]))]
            outputs.append(Ramp()(r1 * along[0] + r2 * along[1]))
        draws.append(outputs[0] * outputs[1])
    mean = 0.5 * (np.mean(draws[0]) + np.mean(draws[1]))
    spread = 0.5 * math.hypot(*(np.std(x) / math.sqrt(n) for x in draws))
    assert inner(windows, first, second) == pytest.approx(mean, abs=4.5 * spread)


@pytest.mark.parametrize(("n", "scales", "size"), [(1, 7, 6), (2, 6, 48), (4, 5, 12), (12, 3, 8), (5, 1, 4)])
def test_windowed_polynomials_are_orthonormal(n, scales, size):
    basis = windowed_polynomials(n, scales, size)
    z, share = np.polynomial.legendre.leggauss(20)  # another rule than the one they are made with
    ends = np.linspace(0.0, 7.0, 301) ** 2
    x = (ends[:-1, None] + 0.5 * np.diff(ends)[:, None] * (z + 1)).ravel()
    log_density = (n - 1) * np.log(x) - 0.5 * x * x - (0.5 * n - 1) * math.log(2) - gammaln(0.5 * n)
    weights = (0.5 * np.diff(ends)[:, None] * share).ravel() * np.exp(log_density)
    values = []
    for v, i in zip(basis.variances, basis.powers):
        polynomial = eval_genlaguerre(i // 2, 0.5 * n - 1, 0.5 * x * x / v) * (-1) ** (i // 2)
        log_norm = 0.5 * (gammaln(i // 2 + 0.5 * n) - gammaln(0.5 * n) - gammaln(i // 2 + 1))
        values.append(np.exp(-0.5 * (1 / v - 1) * x * x - log_norm) * polynomial)
    functions = basis.combinations[:, :8].T @ np.array(values)
    assert functions[0] == pytest.approx(np.ones(x.size), abs=1e-12)
    assert (functions * weights) @ functions.T == pytest.approx(np.eye(len(functions)), abs=1e-9)


@pytest.mark.parametrize("dims", [(1, 30), (2, 318), (4, 2), (60, 3)])
@pytest.mark.parametrize("activation", [Ramp(), ReLU(), Erf()], ids=repr)
def test_diagonal_by_quadrature(activation, dims, monkeypatch):
    from wgflow.reduced_models.features import block_quadrature as _block_quadrature

    points = points_of(Box(0.5, 5, 5), 8, 3203)
    found = kernel_diagonal(activation, TAUS, dims, points)
    monkeypatch.setattr(_block_quadrature, "_ANGLES", 64)
    monkeypatch.setattr(_block_quadrature, "_FEWER_ANGLES", 64)
    finer = kernel_diagonal(activation, TAUS, dims, points)
    assert found == pytest.approx(finer, abs=1e-8 * max(1.0, np.max(finer)))
    assert found == pytest.approx(kernel_by_two_angles(activation, dims, points, points), rel=1e-5)
    monkeypatch.setattr(_block_quadrature, "_NEAR", 0.0)
    closed = kernel_diagonal(activation, TAUS, dims, points)
    assert closed == pytest.approx(finer, abs=1e-11 * max(1.0, np.max(finer)))


def test_many_points_are_handled_in_parts(monkeypatch):
    from wgflow.reduced_models.features import biradial as _biradial_features

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
