"""Kernels that move masses by maps, and systems with one unknown a cell, against plain twins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize

import wgflow as wg
from wgflow.compiled import envelopes, remap
from wgflow.compiled import linearized as kernels
from wgflow.solvers.jko.linearized.system import SaddleSystem, ScalarSystem, graph_of

EDGES = np.array([0.0, 0.2, 0.5, 0.6, 1.0, 1.3, 1.5])
EDGES.flags.writeable = False  # as those of a grid: another kind of array is another kernel to compile
MASSES = np.array([0.1, 0.4, 0.02, 0.0, 0.3, 0.18])


def densities(masses, edges):
    """Face densities by their definition."""
    widths, r = np.diff(edges), masses / np.diff(edges)
    inner = (widths[1:] * r[:-1] + widths[:-1] * r[1:]) / (widths[1:] + widths[:-1])
    inner = np.minimum(inner, 3 * np.minimum(r[1:], r[:-1]))
    ends = [r[i] + (r[i] - r[j]) * widths[i] / (widths[i] + widths[j]) for i, j in ((0, 1), (-1, -2))]
    ends = [min(max(e, 0), 3 * r[i]) for e, i in zip(ends, (0, -1))]
    return np.concatenate(([ends[0]], inner, [ends[1]]))


def density_at(s, masses, edges, faces):
    k = min(max(int(np.searchsorted(edges, s, side="right")) - 1, 0), masses.size - 1)
    width = edges[k + 1] - edges[k]
    x, mean = (s - edges[k]) / width, masses[k] / width
    return 6 * mean * x * (1 - x) + faces[k] * (1 - x) * (1 - 3 * x) - faces[k + 1] * x * (2 - 3 * x)


def integral(function, a, b):
    """Between two points, in either direction, with breaks at the edges."""
    low, high = min(a, b), max(a, b)
    stops = [low, *EDGES[(low < EDGES) & (high > EDGES)], high]
    return (1 if b >= a else -1) * sum(quad(function, s, t, epsabs=1e-14)[0] for s, t in itertools.pairwise(stops))


def test_densities_inside_cells_have_their_masses_and_no_sign():
    faces = np.empty(7)
    remap.face_densities(MASSES, EDGES, 0, faces)
    assert faces == pytest.approx(densities(MASSES, EDGES), abs=1e-15)
    for k in range(6):
        inside = [density_at(s, MASSES, EDGES, faces) for s in np.linspace(EDGES[k] + 1e-9, EDGES[k + 1] - 1e-9, 101)]
        assert min(inside) >= -1e-15
        total = integral(lambda s: density_at(s, MASSES, EDGES, faces), EDGES[k], EDGES[k + 1])
        assert total == pytest.approx(MASSES[k], abs=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-0.3, 1.9), min_size=3, max_size=9))
def test_masses_between_ends(points):
    ends, faces = np.array(points), densities(MASSES, EDGES)
    moved, weights = np.empty(ends.size - 1), np.empty(ends.size)
    remap.remap_line(MASSES, EDGES, faces, ends, moved, weights)
    inside = np.clip(ends, 0, 1.5)
    for k in range(moved.size):
        expected = integral(lambda s: density_at(s, MASSES, EDGES, faces), inside[k], inside[k + 1])
        assert moved[k] == pytest.approx(expected, abs=1e-12)
    assert weights == pytest.approx([density_at(s, MASSES, EDGES, faces) for s in inside], abs=1e-9)
    origins, distances = np.linspace(0.1, 1.4, ends.size), np.linspace(1, 2, ends.size)
    cost = sum(2 * d * abs(integral(lambda s, x=x: abs(s - x) * density_at(s, MASSES, EDGES, faces), x, y))
               for d, x, y in zip(distances, origins, inside))
    assert remap.cost_of_ends(MASSES, EDGES, faces, distances, origins, inside) == pytest.approx(cost, abs=1e-11)


def test_far_tails_keep_their_relative_accuracy():
    edges = np.linspace(0, 40, 401)
    masses = np.exp(-5 * edges[:-1]) * -math.expm1(-0.5)
    faces, moved, weights = np.empty(401), np.empty(400), np.empty(401)
    remap.face_densities(masses, edges, 0, faces)
    remap.remap_line(masses, edges, faces, np.minimum(edges + 0.0371 * edges, 40), moved, weights)
    sure = slice(5, 380)
    exact = np.exp(-5 * 1.0371 * edges[:-1]) - np.exp(-5 * 1.0371 * edges[1:])
    assert moved[sure] == pytest.approx(exact[sure], rel=0.02)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 2), min_size=4, max_size=4), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_sorting_is_isotonic_regression(points, masses):
    ends, masses = np.array(points), np.array(masses)
    weights = np.array([2 * masses[0], masses[0] + masses[1], masses[1] + masses[2], 2 * masses[2]])
    found = ends.copy()
    rising = remap.sort_ends(found, masses, 0.0, 1.0)
    assert rising == bool((np.diff(ends) >= 0).all() and ends[0] >= 0 and ends[-1] <= 1)
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 1
    target = np.clip(ends, 0, 1)
    best = minimize(lambda y: (weights * (y - target) ** 2).sum(), np.sort(target), method="SLSQP",
                    options={"ftol": 1e-14, "maxiter": 300},
                    constraints={"type": "ineq", "fun": np.diff})
    assert (weights * (found - target) ** 2).sum() <= best.fun + 1e-6


def plain_plane(grid, masses, potential, tau):
    """The cascade with NumPy's interpolation: strips along rows, then rows of strips; no-flux, sorted ends."""
    (ex, ey), (nx, ny) = grid.edges, grid.shape
    dx, dy = grid.distances

    def lump(row, edges, ends):
        faces, moved, rest = densities(row, edges), np.empty(ends.size - 1), np.empty(ends.size)
        remap.remap_line(row, edges, faces, ends, moved, rest)
        return moved

    ends_y = np.tile(ey, (nx, 1))
    ends_y[:, 1:-1] += tau * np.diff(potential, axis=1) / dy
    images = np.tile(ex[:, None], (1, ny))
    for f in range(1, nx):
        across = ex[f] + tau * (potential[f] - potential[f - 1]) / dx[f - 1]
        up = 0.5 * (ends_y[f] + ends_y[f - 1])
        images[f] = np.interp(grid.centers[1], 0.5 * (up[1:] + up[:-1]), across)
    strips = np.stack([lump(masses[:, b], ex, images[:, b]) for b in range(ny)], axis=1)
    return np.stack([lump(strips[a], ey, ends_y[a]) for a in range(nx)])


@pytest.mark.slow
def test_cascades():
    grid = wg.Grid(edges=[np.linspace(0, 1, 9) ** 1.2, np.linspace(0, 1, 8)])
    rng = np.random.default_rng(23)
    masses = rng.random(grid.shape)
    x, y = grid.mesh()
    potential = 0.05 * np.cos(np.pi * x) * np.cos(np.pi * y) + 0.03 * np.cos(np.pi * x)
    moved = np.empty(grid.shape)
    assert remap.remap_plane(masses, potential, 0.4, grid.edges, grid.edges, grid.centers, grid.distances,
                             grid.periodic, moved)
    assert moved == pytest.approx(plain_plane(grid, masses, potential, 0.4), abs=1e-13)
    assert moved.sum() == pytest.approx(masses.sum(), rel=1e-14)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(3, 10**6), size=st.floats(0, 3), periodic=st.tuples(st.booleans(), st.booleans()))
def test_cascades_keep_mass_and_sign_for_any_map(seed, size, periodic):
    grid = wg.Grid([(0, 1), (-1, 1)], cells=(7, 6),
                   boundary=tuple("periodic" if p else "no-flux" for p in periodic))
    rng = np.random.default_rng(seed)
    masses = rng.random(grid.shape) * (rng.random(grid.shape) < 0.7)
    moved = np.empty(grid.shape)
    edges = tuple(remap.repeated(e, p) for e, p in zip(grid.edges, periodic))
    remap.remap_plane(masses, size * rng.normal(size=grid.shape), 0.3, grid.edges, edges, grid.centers, grid.distances,
                      grid.periodic, moved)
    assert moved.min() >= 0
    assert moved.sum() == pytest.approx(masses.sum(), rel=1e-12)


def test_cascades_on_a_torus_turn_with_it():
    grid = wg.Grid([(0, 1), (0, 1)], cells=(8, 6), boundary="periodic")
    rng = np.random.default_rng(29)
    masses, potential = rng.random(grid.shape), 0.002 * rng.normal(size=grid.shape)
    edges = tuple(remap.repeated(e, True) for e in grid.edges)
    laws = []
    for shift in ((0, 0), (3, 2)):
        moved = np.empty(grid.shape)
        remap.remap_plane(np.roll(masses, shift, (0, 1)), np.roll(potential, shift, (0, 1)), 0.2, grid.edges, edges,
                          grid.centers, grid.distances, grid.periodic, moved)
        laws.append(np.roll(moved, (-shift[0], -shift[1]), (0, 1)))
    assert laws[0] == pytest.approx(laws[1], abs=1e-13)


def test_starts():
    rng = np.random.default_rng(31)
    values, points = rng.normal(size=(3, 12)), np.sort(rng.random(12))
    values[1, ::2] = -np.inf
    raised = np.empty_like(values)
    envelopes.semiconvex_rows(values, points, 7.0, raised)
    expected = (values[:, None, :] - 3.5 * (points[:, None] - points) ** 2).max(axis=2)
    assert raised == pytest.approx(expected, abs=1e-12)
    faces = 0.5 * (points[1:] + points[:-1])
    limited = 5 * values[::2].copy()
    before = limited.copy()
    envelopes.limit_rows(limited, points, faces, 0.3, 0.0, 1.0)
    ends = faces + 0.3 * np.diff(limited) / np.diff(points)
    assert (limited <= before).all()
    assert ends.min() >= -1e-12
    assert ends.max() <= 1 + 1e-12


@pytest.mark.parametrize("time", [0.3, -0.2])
def test_characteristics(time):
    # v = a x^2 / 2 goes to a / (1 - a t) x^2 / 2.
    a, errors = -0.8, []
    for n in (40, 80):
        edges = np.linspace(-1, 1, n + 1)
        points = 0.5 * (edges[1:] + edges[:-1])
        advanced = np.empty((1, n))
        remap.advance_rows(0.5 * a * points[None] ** 2, np.ones((1, n)), points, edges, time, advanced)
        inner = np.abs(points) < 0.5
        errors.append(np.abs(advanced[0] - 0.5 * a / (1 - a * time) * points**2)[inner].max())
    assert errors[1] < 1e-4
    assert errors[1] < 0.3 * errors[0] + 1e-13


@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
@pytest.mark.parametrize("cells", [(9,), (2,), (5, 4), (2, 3)])
def test_systems_with_one_unknown_a_cell(cells, boundary):
    grid = wg.Grid([(0, 1)] * len(cells), cells=cells, boundary=boundary)
    graph = graph_of(grid)
    system = ScalarSystem(grid, graph, SaddleSystem(grid, graph))
    rng = np.random.default_rng(37)
    index, n = np.arange(grid.size).reshape(grid.shape), grid.size
    matrix, rates = np.zeros((n, n)), []
    for axis in range(grid.ndim):
        count = grid.distances[axis].size
        a = np.take(index, range(count), axis=axis)
        b = np.take(np.roll(index, -1, axis=axis), range(count), axis=axis)
        rates.append(rng.random(a.shape))
        for i, j, w in zip(a.ravel(), b.ravel(), rates[-1].ravel()):
            matrix[[i, j], [i, j]] += w
            matrix[[i, j], [j, i]] -= w
    x, diagonal = rng.normal(size=n), rng.random(n)
    total = system.set_rates(rates)
    assert total == pytest.approx(np.diag(matrix))
    assert system.laplacian(x) == pytest.approx(matrix @ x, abs=1e-13)
    assert system.factorize(diagonal + total)
    assert system.solve((matrix + np.diag(diagonal)) @ x) == pytest.approx(x, abs=1e-11)


@pytest.mark.parametrize("terms", [(0.7, [], []), (0.0, [0.5], [2.0]), (0.0, [0.5], [0.6]), (0.3, [0.5], [3.0])])
def test_masses_follow_from_slopes(terms):
    terms = (terms[0], np.array(terms[1]), np.array(terms[2]))
    rng = np.random.default_rng(41)
    masses, logs = rng.random(8) + 0.05, rng.normal(size=8)
    slopes, curvatures, found, derivatives = np.empty((4, 8))
    kernels.internal_slopes(masses, logs, 1e-30, terms, slopes, curvatures)
    assert kernels.masses_of_slopes(slopes, logs, terms, found, derivatives)
    assert found == pytest.approx(masses, rel=1e-12)
    assert derivatives == pytest.approx(1 / curvatures, rel=1e-10)


def test_slopes_without_masses():
    found, derivatives = np.empty((2, 1))
    porous, fast = (0.0, np.array([1.0]), np.array([2.0])), (0.0, np.array([1.0]), np.array([0.5]))
    assert kernels.masses_of_slopes(np.array([-1.0]), np.zeros(1), porous, found, derivatives)
    assert found[0] == derivatives[0] == 0
    assert not kernels.masses_of_slopes(np.array([1.0]), np.zeros(1), fast, found, derivatives)
    assert not kernels.masses_of_slopes(np.array([1e4]), np.zeros(1), (1.0, np.zeros(0), np.zeros(0)), found,
                                        derivatives)
