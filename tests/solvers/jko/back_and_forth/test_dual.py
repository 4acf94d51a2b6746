"""The dual of a JKO step: transforms against readable twins, derivatives, weak duality, and the ascent to round-off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg

from wgflow.compiled import c_transform as kernels
from wgflow.compiled.extension import extend
from wgflow.compiled.multigrid import Multigrid
from wgflow.energies.internal_energies import PowerEntropy
from wgflow.solvers.jko.back_and_forth.ascent import Ascent
from wgflow.solvers.jko.back_and_forth.transport_dual import TransportDual, smear, split
from wgflow.solvers.jko.local_energy import LocalEnergy


# -------------------------------------------------------------------- twins
def mirrored(index, n):
    index = np.where(index < 0, -1 - index, index)
    return np.where(index >= n, 2 * n - 1 - index, index)


def envelope(f, t):
    """f as its convex minorant sees it: u = x^2/2 - t f on the nodes, mirrored at both walls in turn."""
    n = f.size
    x = np.arange(n) + 0.5
    out = f.copy()
    for k in range(n):
        # Pairs (a, b) of nodes around k; through the left wall (x -> -x) and the right one (x -> 2 n - x).
        for shift, ends, values in ((0.0, x, f), (0.0, np.append(-x[::-1], x), np.append(f[::-1], f)),
                                    (float(n), np.append(x, 2 * n - x[::-1]), np.append(f, f[::-1]))):
            u = 0.5 * (ends - shift)**2 - t * values
            low, high = ends <= x[k], ends >= x[k]
            a, b = np.meshgrid(np.flatnonzero(low), np.flatnonzero(high), indexing="ij")
            share = np.where(b > a, (x[k] - ends[a]) / np.where(b > a, ends[b] - ends[a], 1.0), 0.0)
            least = ((1 - share) * u[a] + share * u[b]).min()
            out[k] = max(out[k], (0.5 * (x[k] - shift)**2 - least) / t)
    return out


def smooth_twin(f, t, points, parts=80):
    n = f.size
    x = np.linspace(0, n, 300 * n + 1)
    spline, hull = np.zeros_like(x), envelope(f, t)
    for i in range(-2, n + 2):
        d = np.abs(x - i - 0.5)
        weight = np.where(d < 0.5, 0.75 - d * d, np.where(d < 1.5, 0.5 * (1.5 - d)**2, 0.0))
        spline += weight * hull[mirrored(np.array(i), n)]
    s = (np.arange(points * n * parts) + 0.5) / (points * parts)
    best = np.array([(spline - (x - place)**2 / (2 * t)).max() for place in s])
    return best.reshape(-1, parts).mean(axis=1)


def node_twin(f, t):
    n = f.size
    hull, shares = envelope(f, t), np.linspace(0, 1, 401)
    p, q = np.meshgrid(shares, shares, indexing="ij")
    inside = p + q <= 1.0 + 1e-12
    p, q = p[inside], q[inside]
    out = np.full(n, -np.inf)
    for k in range(n):
        for i in range(n):
            ok = (p == 0) | (i < n - 1)
            ok &= (q == 0) | (i > 0)
            gain = (1 - p - q) * hull[i] + p * hull[min(i + 1, n - 1)] + q * hull[max(i - 1, 0)]
            price = ((i - k + p - q)**2 + 2 * p * q) / (2 * t)
            out[k] = max(out[k], (gain - price)[ok].max())
    return out


def run_rows(f, t, points):
    rows, n = f.shape
    columns = n * max(points, 1)
    pooling = np.zeros(rows, bool), np.zeros((rows, n), np.int32), np.zeros((rows, n), np.int32)
    scratch = np.empty(n + 2), np.empty(n), np.zeros(columns), np.empty(n + 2)
    values, ends = np.empty((rows, columns)), (np.zeros(rows, int), np.full(rows, columns))
    shape = rows, columns + n if points else n
    kept = np.empty(shape, np.int32), np.empty(shape), np.empty(shape)
    if points:
        kept = (np.empty(rows, np.int32), np.empty(shape, np.int32), *kept, np.empty(shape))
        kernels.smooth_transform((0, rows), ends, kept, pooling, scratch, f, t, points, values)
    else:
        kernels.node_transform((0, rows), np.ones(f.shape, bool), kept, pooling, scratch, f, t, points, values)
    return values


@pytest.mark.parametrize("rough", [0.1, 0.4, 1.5])
def test_transforms_agree_with_their_twins(rng, rough):
    f = (rough * rng.normal(size=(4, 9))).cumsum(axis=1)
    for t in (0.3, 2.0):
        for points in (1, 3):
            values = run_rows(f, t, points)
            twin = np.array([smooth_twin(row, t, points) for row in f])
            # Midpoints of the twin: an error that falls with the square of its parts.
            assert np.abs(values - twin).max() < 2.5e-5 * (1 + 1 / t)
        values = run_rows(f, t, 0)
        twin = np.array([node_twin(row, t) for row in f])
        assert (values >= twin - 1e-12).all()
        assert np.abs(values - twin).max() < 2e-5 * (1 + 1 / t)


def test_the_minorant_is_a_projection_onto_concave_functions(rng):
    n, t = 40, 0.7
    f = rng.normal(size=n).cumsum()
    y, hat, left, right = np.empty(n + 1), np.empty(n), np.zeros(n, np.int32), np.zeros(n, np.int32)
    assert kernels._slopes(f, t, y, hat, left, right)
    assert (np.diff(y) >= 0).all()
    assert (hat >= f - 1e-12).all()
    assert np.abs(hat - f).min() < 1e-12
    again, twice = np.empty(n + 1), np.empty(n)
    kernels._slopes(hat, t, again, twice, left, right)
    assert np.abs(twice - hat).max() < 1e-12
    assert np.abs(again - y).max() < 1e-12


# -------------------------------------------------------------------- the transport part
def wavy(rng, shape, scale):
    mesh = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij")
    return scale * (sum(np.sin(3 * (k + 1) * m + k) for k, m in enumerate(mesh)) + 0.05 * rng.normal(size=shape))


@pytest.mark.parametrize("shape", [(40,), (14, 17), (6, 5, 7)])
@pytest.mark.parametrize("scale", [0.02, 2.0])
def test_first_and_second_derivative(rng, shape, scale):
    masses = rng.random(shape) * (rng.random(shape) > 0.3)
    widths = [1.0 / n for n in shape]
    transport = TransportDual(masses, widths, 0.02)
    assert len(transport.species) == 2
    phi, v = wavy(rng, shape, scale), wavy(rng, shape, 1.0)
    step = 1e-6 * scale
    upper, more = transport.evaluate(phi + step * v)
    lower, less = transport.evaluate(phi - step * v)
    _, deposit = transport.evaluate(phi)
    assert (upper - lower) / (2 * step) == pytest.approx((deposit * v).sum(), rel=1e-6, abs=1e-8)
    u = rng.normal(size=shape)
    image, other = transport.curvature(v), transport.curvature(u)
    assert (u * image).sum() == pytest.approx((v * other).sum(), rel=1e-9)
    assert (v * image).sum() >= 0
    assert np.abs((more - less) / (2 * step) - image).max() < 2e-3 * np.abs(image).max()


@settings(max_examples=60)
@given(st.integers(1, 10**6), st.sampled_from([(7,), (5, 6), (3, 4, 3), (2, 2)]), st.floats(1e-4, 1e2),
       st.floats(0, 50))
def test_deposits_keep_mass_and_sign(seed, shape, tau, scale):
    rng = np.random.default_rng(seed)
    masses = rng.random(shape)**4 * (rng.random(shape) > 0.5)
    masses.flat[0] += 0.1
    transport = TransportDual(masses, [0.3] * len(shape), tau)
    _, rest = transport.evaluate(np.full(shape, 1.7))
    assert np.abs(rest - masses).max() <= 4e-16 * masses.sum()
    _, moved = transport.evaluate(scale * rng.normal(size=shape))
    assert moved.min() >= 0
    assert moved.sum() == pytest.approx(masses.sum(), rel=1e-14)


@pytest.mark.parametrize("shape", [(30,), (9, 14)])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_masses_that_are_moved_from_kinks_are_derivatives_as_well(rng, shape, scale):
    """F(phi') >= F(phi) + <m, phi' - phi> for all phi', and nodes without an image keep no more than is wanted."""
    found = 0
    for _ in range(20):
        transport = TransportDual(rng.random(shape), [0.1] * len(shape), 0.02)
        phi = scale * rng.standard_normal(shape)
        higher = transport.majorant(phi, len(shape) - 1)
        phi = phi if higher is None else higher
        value, deposit = transport.evaluate(phi)
        wanted, masses = rng.random(shape) * deposit.mean(), deposit.copy()
        moved = transport.settle(phi, wanted, masses)
        if moved is None:
            continue
        found += 1
        assert np.allclose(moved.gather(deposit - np.where(moved.at, wanted, 0.0)) + np.where(moved.at, wanted, 0.0),
                           masses, atol=1e-14)
        assert math.isclose(masses.sum(), deposit.sum(), rel_tol=1e-13)
        assert masses.min() >= 0.0
        assert np.allclose(masses[moved.at], wanted[moved.at], atol=1e-15)
        v, w = rng.standard_normal((2, *shape))
        assert math.isclose((moved.follow(v) * w).sum(), (v * moved.gather(w)).sum(), rel_tol=1e-11, abs_tol=1e-12)
        for step in (1e-6, 1e-3, 1e-1):
            for change in (rng.standard_normal(shape), np.where(moved.at, -1.0, 0.0), np.where(moved.at, 1.0, 0.0)):
                other, _ = transport.evaluate(phi + step * change)
                assert other >= value + step * (masses * change).sum() - 1e-12 * (1.0 + abs(value))
    assert found > 10


def test_the_two_parts_add_up(rng):
    masses = rng.random((12, 13)) * (rng.random((12, 13)) > 0.4)
    a, b = split(masses)
    assert a.min() >= 0
    assert b.min() >= 0
    assert np.abs(smear(a) + b - masses).max() < 1e-15
    smooth = np.outer(np.hanning(42)[1:-1], np.hanning(42)[1:-1]) + 0.01
    assert split(smooth)[1].sum() < 1e-5 * smooth.sum()


ENERGIES = {
    "entropy": (1.3, []), "porous": (0.0, [(0.7, PowerEntropy(2.0))]), "cubic": (0.0, [(1.0, PowerEntropy(3.0))]),
    "fast": (0.0, [(1.0, PowerEntropy(0.6))]), "mixed": (0.2, [(1.0, PowerEntropy(2.0)), (0.5, PowerEntropy(1.5))]),
}


@pytest.mark.parametrize("name", ENERGIES)
@settings(max_examples=15)
@given(seed=st.integers(1, 10**6))
def test_weak_duality(name, seed):
    """Any function bounds any feasible density from below, and the gap is their difference."""
    rng = np.random.default_rng(seed)
    diffusion, internal = ENERGIES[name]
    shape, widths, tau = (9, 8), (0.2, 0.3), 0.05
    masses = rng.random(shape) + 0.05
    masses /= masses.sum()
    energy = LocalEnergy(diffusion, internal, np.full(shape, 0.06), rng.random(shape), 1.0)
    ascent = Ascent(TransportDual(masses, widths, tau), energy, widths, tau)
    points = [ascent.evaluate(scale * rng.normal(size=shape)) for scale in (0.0, 0.1, 1.0)]
    for p in points:
        primal = p.cost + energy.energy(p.masses)
        assert p.gap >= -1e-13
        assert primal - p.value == pytest.approx(p.gap, abs=1e-12 * (1 + abs(primal)))
        assert p.wanted.sum() == pytest.approx(1.0, rel=1e-12)
        for q in points:
            assert q.value <= primal + 1e-12 * (1 + abs(primal))


@pytest.mark.parametrize("name", ENERGIES)
def test_the_ascent_closes_the_gap(rng, name):
    """From zero, with white noise for a potential and a density, to round-off."""
    shape, widths, tau = (12, 11), (0.2, 0.2), 0.02
    masses = rng.random(shape) + 0.3
    masses /= masses.sum()
    diffusion, internal = ENERGIES[name]
    energy = LocalEnergy(diffusion, internal, np.full(shape, 0.04), rng.random(shape), 1.0)
    ascent = Ascent(TransportDual(masses, widths, tau), energy, widths, tau)
    start = ascent.evaluate(np.zeros(shape))
    end = ascent.run(start, lambda p: 1e-12, 30)
    assert end.gap <= 1e-12 < 1e-6 < start.gap
    # Nothing else that is tried is better, on either side.
    for scale in (1e-3, 1e-1):
        other = ascent.evaluate(end.phi + scale * rng.normal(size=shape))
        assert other.value <= end.value + 1e-12
        assert other.cost + energy.energy(other.masses) >= end.value - 1e-12


# -------------------------------------------------------------------- helpers of the ascent
@pytest.mark.parametrize("shape", [(33,), (20, 31), (7, 9, 8)])
def test_multigrid_cycles(rng, shape):
    mesh = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    density = np.exp(-12 * sum(m * m for m in mesh))
    edges = []
    for axis, n in enumerate(shape):
        lower, upper = np.take(density, range(n - 1), axis), np.take(density, range(1, n), axis)
        edges.append(20.0 * 0.5 * (lower + upper))
    grid = Multigrid(density, edges)

    def apply(x):
        out = density * x
        for axis, e in enumerate(edges):
            flux = e * np.diff(x, axis=axis)
            pad = [(0, 0)] * len(shape)
            pad[axis] = (1, 1)
            out -= np.diff(np.pad(flux, pad), axis=axis)
        return out

    u, v = density * rng.normal(size=shape), density * rng.normal(size=shape)
    assert (u * grid.cycle(v)).sum() == pytest.approx((v * grid.cycle(u)).sum(), rel=1e-10)
    x, truth = np.zeros(shape), rng.normal(size=shape)
    b = apply(truth)
    errors = []
    for _ in range(12):
        x += grid.cycle(b - apply(x))
        errors.append(math.sqrt(((x - truth) * apply(x - truth)).sum()))
    # A stationary iteration converges fast, whatever the density: in the energy norm by a factor of 2 a cycle or more.
    assert errors[-1] < 0.5**11 * errors[0]


@pytest.mark.parametrize("shape", [(40, 62), (14, 18, 16)])
def test_multigrid_cycles_beside_pyamg(rng, shape):
    """As preconditioners of conjugate gradients both need few iterations, at a density that falls by 4e7."""
    pyamg = pytest.importorskip("pyamg")
    density = np.exp(-18 / len(shape) * sum(m * m for m in np.meshgrid(*[np.linspace(-1, 1, n) for n in shape],
                                                                       indexing="ij")))
    number, edges, off = np.arange(density.size).reshape(shape), [], sparse.csr_matrix((density.size,) * 2)
    for axis, n in enumerate(shape):
        lower, upper = np.take(density, range(n - 1), axis), np.take(density, range(1, n), axis)
        edges.append(20.0 * 0.5 * (lower + upper))
        pairs = np.take(number, range(n - 1), axis).ravel(), np.take(number, range(1, n), axis).ravel()
        half = sparse.coo_matrix((edges[-1].ravel(), pairs), shape=off.shape)
        off = off + half + half.T
    matrix = (sparse.diags(density.ravel() + np.asarray(off.sum(axis=1)).ravel()) - off).tocsr()
    grid, truth = Multigrid(density, edges), rng.normal(size=density.size)
    ours = LinearOperator(matrix.shape, matvec=lambda v: grid.cycle(v.reshape(shape)).ravel())
    counts = []
    for cycles in (ours, pyamg.ruge_stuben_solver(matrix).aspreconditioner()):
        passes = []
        x, failed = cg(matrix, matrix @ truth, rtol=1e-12, M=cycles, callback=passes.append)
        assert failed == 0
        assert np.sqrt((x - truth) @ matrix @ (x - truth)) < 1e-9 * np.sqrt(truth @ matrix @ truth)
        counts.append(len(passes))
    # Ruge and Stueben choose coarse cells by the matrix, ours are pairs; that costs less than twice the iterations.
    assert counts[0] <= 2 * counts[1] + 1


def test_extension_continues_planes():
    x, y = np.meshgrid(np.arange(30.0), np.arange(24.0), indexing="ij")
    plane = 2.0 - 0.3 * x + 0.7 * y
    known = (x - 14)**2 + (y - 11)**2 < 36
    values = np.where(known, plane, np.nan)[None]
    extend(values, known[None], 4)
    near = ((x - 14)**2 + (y - 11)**2 < 64)
    assert np.isfinite(values).all()
    assert np.abs(values[0] - plane)[near].max() < 0.02
    assert np.array_equal(values[0][known], plane[known])
