"""What must not change the answer, or must change it in a known way: mirrors, shifts, units, constants, threads.

Where both problems round in the same way (mirrors aside, factors that are powers of two) the bits must agree.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.energies.nodes import node_grid
from wgflow.flows import make_flow
from wgflow.solvers.finite_volume.splitting import sequence_of_axes

BETAS = [2.0, 1e3, math.inf]
LINE = wg.Grid((-2, 2), cells=40, boundary="no-flux")
CIRCLE = wg.Grid((-2, 2), cells=40, boundary="periodic")
TORUS = wg.Grid([(-2, 2), (-1, 1)], cells=(18, 14), boundary="periodic")


def final(grid, V, values, *, beta=2.0, U=None, dt=0.02, steps=20, **options):
    """Masses after some fixed steps; V and the density as arrays."""
    energy = wg.Entropy(beta) + wg.Potential(V)
    energy = energy if U is None else energy + wg.Interaction(U)
    settings = {name: options.pop(name) for name in ("corrected", "threads", "order") if name in options}
    method = wg.FiniteVolume(dt=dt, **settings)
    sol = wg.solve(energy, wg.Density(grid, values), (0, steps * dt), method=method, **options)
    assert sol.certificate.n_accepted >= steps
    assert (sol.final.values != values).any()
    return sol.final.masses


def difference(a, b):
    """L1 distance of cell masses relative to the mass."""
    return float(np.abs(a - b).sum() / np.abs(a).sum())


def rough(rng, grid):
    return rng.normal(size=grid.shape), rng.random(grid.shape) ** 2


def smooth(rng, grid):
    """Waves of the period of the box, for which fluxes of fourth order are taken at low beta."""
    wave = np.ones(grid.shape)
    for x, (lo, hi) in zip(grid.mesh(), grid.bounds):
        wave = wave * np.cos(2 * np.pi / (hi - lo) * x + rng.normal())
    return rng.normal() * wave + wave**2, 1.5 + wave


@pytest.fixture(params=[rough, smooth])
def parts(request):
    """V and a density, which have fluxes of second and of fourth order."""
    return request.param


def attraction(d):
    return np.exp(-(d**2)) - 0.7 * np.exp(-((d / 0.4) ** 2))


@pytest.mark.parametrize("grid", [LINE, CIRCLE, TORUS], ids=["line", "circle", "torus"])
def test_the_parts_have_fluxes_of_both_orders(grid, rng):
    for parts, words in ((rough, "second"), (smooth, "fourth")):
        V, values = parts(rng, grid)
        sol = wg.solve(wg.Entropy(2.0) + wg.Potential(V), wg.Density(grid, values), (0, 0.01))
        assert words in sol.certificate.scheme


# ---------------------------------------------------------------- mirrors, permutations, shifts
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("grid", [LINE, CIRCLE], ids=["line", "circle"])
@pytest.mark.parametrize("U", [None, attraction])
def test_a_mirrored_problem_has_the_mirrored_solution(grid, beta, U, rng, parts):
    V, values = parts(rng, grid)
    there = final(grid, V, values, beta=beta, U=U)
    back = final(grid, V[::-1], values[::-1], beta=beta, U=U)[::-1]
    assert difference(there, back) <= 1e-13


@pytest.mark.parametrize("beta", [2.0, math.inf])
def test_mirrors_of_two_axes(beta, rng, parts):
    grid = wg.Grid([(-2, 2), (-1, 1)], cells=(18, 14), boundary=("no-flux", "periodic"))
    V, values = parts(rng, grid)
    there = final(grid, V, values, beta=beta)
    for flip in ((slice(None, None, -1), slice(None)), (slice(None), slice(None, None, -1))):
        assert difference(there, final(grid, V[flip], values[flip], beta=beta)[flip]) <= 1e-13


def transposed(grid):
    return wg.Grid(grid.bounds[::-1], cells=grid.shape[::-1], boundary=grid.boundary[::-1])


@pytest.mark.parametrize("beta", BETAS)
def test_axes_that_do_not_couple_run_side_by_side(beta, rng):
    # V = a(x) + b(y) and rho = r(x) s(y) stay so; the axis of the stronger drift takes two half steps, the other one
    # whole step.
    grid = wg.Grid([(-2, 2), (-1, 1)], cells=(18, 14), boundary=("no-flux", "periodic"))
    V = np.add.outer(rng.normal(size=18), rng.normal(size=14))
    r, s = rng.random(18) + 0.01, rng.random(14) + 0.01
    both = final(grid, V, np.multiply.outer(r, s), beta=beta, dt=0.002)
    flow = make_flow(wg.Entropy(beta) + wg.Potential(V), wg.Density(grid, np.multiply.outer(r, s)), (0, 0), None, 1.0,
                     wg.FiniteVolume())
    halves, whole = {"dt": 0.001, "steps": 40}, {"dt": 0.002}
    ways = (halves, whole) if sequence_of_axes(flow) == (0, 1) else (whole, halves)
    first = final(wg.Grid((-2, 2), cells=18), V[:, 0], r, beta=beta, **ways[0])
    last = final(wg.Grid((-1, 1), cells=14, boundary="periodic"), V[0], s, beta=beta, **ways[1])
    assert difference(both, np.multiply.outer(first, last)) <= 1e-13
    exchanged = final(transposed(grid), V.T, np.multiply.outer(s, r), beta=beta, dt=0.002).T
    assert difference(both, exchanged) <= 1e-13


@pytest.mark.parametrize("order", [2, 4])
def test_exchanged_axes_that_couple_have_the_exchanged_solution(order):
    # The order of the sweeps goes with the axes; a fixed one would differ by the splitting error, 1e-3 here.
    grid = wg.Grid([(-2, 2), (-1, 1)], cells=(20, 16))
    x, y = grid.mesh()
    V, values = np.cos(2 * x + 3 * y) + x * y, np.exp(-((x - 0.5) ** 2) - 2 * y**2)
    one = final(grid, V, values, dt=0.04, steps=10, order=order)
    assert difference(one, final(transposed(grid), V.T, values.T, dt=0.04, steps=10, order=order).T) <= 1e-13


@pytest.mark.parametrize(("order", "in_time"), [(2, 2.0), (4, 3.0)])
def test_the_splitting_error_falls_as_it_should(monkeypatch, order, in_time):
    # Strang splitting is of order two in dt whichever axis is in the middle, extrapolated of order three: so is the
    # difference.
    grid = wg.Grid([(-2, 2), (-1, 1)], cells=(20, 16))
    x, y = grid.mesh()
    V, values, gaps = np.cos(2 * x + 3 * y) + x * y, np.exp(-((x - 0.5) ** 2) - 2 * y**2), []
    for dt, steps in ((0.04, 10), (0.02, 20), (0.01, 40), (0.005, 80)):
        laws = []
        for sequence in ((0, 1), (1, 0)):
            for module in ("run", "compact_run"):
                monkeypatch.setattr(f"wgflow.solvers.finite_volume.{module}.sequence_of_axes", lambda _, s=sequence: s)
            laws.append(final(grid, V, values, dt=dt, steps=steps, order=order))
        gaps.append(difference(*laws))
    assert gaps[0] < {2: 1e-2, 4: 1e-3}[order]
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert orders[-1] == pytest.approx(in_time, abs=0.15)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_permuted_axes_of_random_problems_have_the_permuted_solution(ndim, seed):
    rng = np.random.default_rng(100 + seed)
    cells = tuple(int(n) for n in rng.integers(9, 15, ndim))
    ends = [["no-flux", "periodic"][k] for k in rng.integers(0, 2, ndim)]
    x = np.meshgrid(*[4 * (np.arange(n) + 0.5) / n - 2 for n in cells], indexing="ij")
    V, log = (sum(rng.normal() * np.prod([np.cos(np.pi / 2 * rng.integers(0, 3) * s + rng.normal()) for s in x], axis=0)
                  for _ in range(4)) for _ in range(2))

    def solved(axes, **settings):
        grid = wg.Grid([(-2, 2)] * ndim, cells=tuple(cells[k] for k in axes), boundary=tuple(ends[k] for k in axes))
        energy = wg.Entropy(3.0) + wg.Potential(np.ascontiguousarray(V.transpose(axes)))
        energy += wg.Interaction(wg.Convolution(lambda *z: -0.3 * np.prod([np.cos(np.pi / 2 * s) for s in z], axis=0)))
        law = wg.Density(grid, np.ascontiguousarray(np.exp(0.5 * log).transpose(axes)))
        return wg.solve(energy, law, (0, 0.1), wg.FiniteVolume(**settings)).final.masses.transpose(np.argsort(axes))

    for settings in ({"dt": 0.02}, {"dt": 0.02, "order": 2}, {"rtol": 1e-5}):
        first = solved(tuple(range(ndim)), **settings)
        for axes in list(itertools.permutations(range(ndim)))[1:]:
            assert difference(first, solved(axes, **settings)) <= 1e-13


@pytest.mark.parametrize("settings", [{"dt": 0.02}, {"dt": 0.02, "order": 2}, {"rtol": 1e-4}])
def test_the_seam_of_a_torus_does_not_choose_the_order_of_sweeps(settings):
    rng, grid = np.random.default_rng(11), wg.Grid([(-2, 2), (-2, 2)], cells=(16, 16), boundary="periodic")
    s, c = (f(np.pi / 2 * x) for f, x in ((np.sin, grid.mesh()[0]), (np.cos, grid.mesh()[1])))
    for _ in range(8):
        a, b = rng.normal(size=(2, 4))
        V, log = (k[0] * s + k[1] * c + k[2] * s * c + k[3] * s * s * c for k in (a, b))
        for values in (np.exp(log), rng.random(grid.shape)):
            ends = [wg.solve(wg.Entropy(2.0) + wg.Potential(np.roll(V, shift, (0, 1))),
                             wg.Density(grid, np.roll(values, shift, (0, 1))), (0, 0.2),
                             wg.FiniteVolume(**settings)).final.masses for shift in ((0, 0), (3, 5))]
            assert difference(np.roll(ends[0], (3, 5), (0, 1)), ends[1]) <= 1e-13


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("grid", [CIRCLE, TORUS], ids=["circle", "torus"])
@pytest.mark.parametrize("interacting", [False, True])
@pytest.mark.parametrize("dt", [2e-4, 0.02])
def test_a_shifted_problem_on_a_torus_has_the_shifted_solution(grid, beta, interacting, dt, rng, parts):
    U = wg.Convolution(lambda *d: np.prod([np.cos(np.pi * v) for v in d], axis=0)) if interacting else None
    V, values = parts(rng, grid)
    axes, shift = tuple(range(grid.ndim)), (7, 3)[: grid.ndim]
    there = final(grid, V, values, beta=beta, U=U, dt=dt)
    back = final(grid, np.roll(V, shift, axes), np.roll(values, shift, axes), beta=beta, U=U, dt=dt)
    back = np.roll(back, [-s for s in shift], axes)
    assert difference(there, back) <= 1e-13


# ---------------------------------------------------------------- constants
@pytest.mark.parametrize("beta", BETAS)
def test_a_constant_in_V_or_U_does_not_show(beta, rng, parts):
    V, values = parts(rng, LINE)
    there = final(LINE, V, values, beta=beta, U=attraction)
    assert difference(there, final(LINE, V + 3.0, values, beta=beta, U=attraction)) <= 1e-13
    assert difference(there, final(LINE, V, values, beta=beta, U=lambda d: attraction(d) + 3.0)) <= 1e-13


def test_a_constant_weight_does_not_show(rng, parts):
    V, values = parts(rng, LINE)
    weighted = wg.Grid((-2, 2), cells=40, log_weight=np.full(40, 5.0))
    assert difference(final(LINE, V, values), final(weighted, V, values)) <= 1e-13


def test_a_weight_is_a_potential(rng, parts):
    V, values = parts(rng, LINE)
    log_weight = parts(rng, LINE)[0]
    weighted = wg.Grid((-2, 2), cells=40, log_weight=log_weight)
    # Weights of cells are averages, potentials of fourth order are values at centers.
    at_centers = log_weight if parts is rough else node_grid(weighted).log_weight
    assert difference(final(weighted, V, values), final(LINE, V - at_centers / 2.0, values)) <= 1e-13


def test_quadratic_attraction_is_a_potential_about_the_mean(rng):
    # int (x - y)^2 / 2 rho(y) dy = (x - mean)^2 / 2 + const, and the mean stays where V = 0 and the box is far away.
    grid = wg.Grid((-6, 6), cells=60)
    x = grid.centers[0]
    values = wg.Density.gaussian(grid, 0.5, 0.3).values
    there = final(grid, 0 * x, values, beta=4.0, U=lambda d: d**2 / 2)
    mean = float((x * there).sum() / there.sum())
    other = final(grid, (x - mean) ** 2 / 2, values, beta=4.0)
    assert difference(there, other) <= 1e-7


# ---------------------------------------------------------------- one kernel, several forms
@pytest.mark.parametrize("grid", [LINE, TORUS], ids=["line", "torus"])
def test_a_rank_one_kernel_in_two_forms(grid, rng, parts):
    V, values = parts(rng, grid)
    values = values / (values * grid.volumes).sum()
    phi = np.sin(sum(grid.mesh())) + 0.3
    flat = phi.ravel()
    for sign in (1.0, -1.0):
        rank_one = final(grid, V, values, U=wg.LowRank(phi[None], [sign]))
        assert difference(rank_one, final(grid, V, values, U=wg.Dense(sign * np.outer(flat, flat)))) <= 1e-10
        assert difference(rank_one, final(grid, V, values)) > 1e-6


@pytest.mark.parametrize("grid", [LINE, CIRCLE], ids=["line", "circle"])
def test_one_kernel_as_a_convolution_of_low_rank_and_dense(grid, rng, parts):
    V, values = parts(rng, grid)
    x = grid.centers[0]
    k = np.pi / 2
    forms = [
        wg.Convolution(lambda d: -np.cos(k * d)),
        wg.LowRank(np.stack([np.cos(k * x), np.sin(k * x)]), [-1.0, -1.0]),
        wg.LowRank(lambda x: np.stack([np.cos(k * x), np.sin(k * x)]), [-1.0, -1.0]),
        wg.Dense(lambda x, y: -np.cos(k * (x - y))),
        wg.Dense(lambda x, y: -np.cos(k * (x - y)), table=False),
        lambda d: -np.cos(k * d),
        lambda x, y: -np.cos(k * (x - y)),
        -np.cos(k * (x[:, None] - x)),
    ]
    first, *others = [final(grid, V, values, U=U, beta=8.0) for U in forms]
    for other in others:
        assert difference(first, other) <= 1e-10


def test_terms_add(rng, parts):
    V, values = parts(rng, LINE)
    rho = wg.Density(LINE, values)
    whole = wg.Entropy(2.0) + wg.Potential(V) + wg.Interaction(attraction)
    parts = (0.5 * (wg.Entropy(2.0) + wg.Potential(V)) + wg.Entropy(4.0) + 2 * wg.Potential(0.25 * V)
             + 4 * wg.Interaction(lambda d: 0.25 * attraction(d)))
    one, other = (wg.solve(e, rho, (0, 0.4), method=wg.FiniteVolume(dt=0.02)).final.masses for e in (whole, parts))
    assert difference(one, other) <= 1e-13


# ---------------------------------------------------------------- units
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("factor", "tolerance"), [(2.0, 0.0), (0.125, 0.0), (3.0, 1e-13)])
def test_units_of_length(beta, factor, tolerance, rng, parts):
    # x -> c x and t -> c^2 t leave the masses of the cells as they are, V and beta being the same.
    V, values = parts(rng, LINE)
    scaled = wg.Grid((-2 * factor, 2 * factor), cells=40)
    there = final(LINE, V, values, beta=beta, U=attraction)
    other = final(scaled, V, values / factor, beta=beta, U=lambda d: attraction(d / factor), dt=0.02 * factor**2)
    assert difference(there, other) <= tolerance


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("factor", "tolerance"), [(4.0, 0.0), (0.5, 0.0), (3.0, 1e-13)])
def test_units_of_energy(beta, factor, tolerance, rng, parts):
    # F -> c F and t -> t / c.
    V, values = parts(rng, LINE)
    there = final(LINE, V, values, beta=beta, U=attraction)
    other = final(LINE, factor * V, values, beta=beta / factor, U=lambda d: factor * attraction(d), dt=0.02 / factor)
    # The compact sweeps round lengths of steps to twelve digits.
    assert difference(there, other) <= tolerance * (1.0 if parts is rough else 3.0)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("factor", "tolerance"), [(16.0, 0.0), (2.0**-30, 0.0), (3.0, 1e-13), (1e-7, 1e-13)])
def test_units_of_mass(beta, factor, tolerance, rng, parts):
    # Without interaction the flow is linear and knows no mass; with it U rho stays the same if U is divided.
    V, values = parts(rng, LINE)
    there = final(LINE, V, values, beta=beta)
    assert difference(there, final(LINE, V, values * factor, beta=beta) / factor) <= tolerance
    there = final(LINE, V, values, beta=beta, U=attraction)
    other = final(LINE, V, values * factor, beta=beta, U=lambda d: attraction(d) / factor) / factor
    assert difference(there, other) <= max(tolerance, 1e-15)


@pytest.mark.parametrize("beta", BETAS)
def test_time_scale_is_a_clock(beta, rng, parts):
    V, values = parts(rng, LINE)
    twice = final(LINE, V, values, beta=beta, U=attraction, dt=0.04, steps=10)
    fast = final(LINE, V, values, beta=beta, U=attraction, dt=0.02, steps=10, time_scale=2.0)
    np.testing.assert_array_equal(twice, fast)
    assert difference(fast, final(LINE, V, values, beta=beta, U=attraction, dt=0.02, steps=10,
                                  time_scale=lambda t: 2.0)) <= 1e-12


def test_a_clock_that_changes_is_the_same_path_at_other_times():
    # s(t) = 1 + 3 t^2 has elapsed t + t^3.
    energy, rho = wg.Entropy(2.0) + wg.Potential(lambda x: x**4 / 4 - x**2), wg.Density.gaussian(LINE, 0.5, 0.1)
    method = wg.FiniteVolume(rtol=1e-8)
    clock = wg.solve(energy, rho, (0, 1), method=method, time_scale=lambda t: 1 + 3 * t * t, t_eval=[0.5, 1.0])
    plain = wg.solve(energy, rho, (0, 2), method=method, t_eval=[0.625, 2.0])
    for one, other in zip(clock.densities, plain.densities):
        assert difference(one.masses, other.masses) < 1e-5
    assert clock.certificate.ok


# ---------------------------------------------------------------- nonlinear diffusion
#: Largest differences seen are 8e-15, over five seeds.
ROUNDING = 1e-13
DIFFUSIONS = {
    "porous medium": [(1.0, wg.PowerEntropy(2.0))],
    "m = 4": [(1.0, wg.PowerEntropy(4.0))],
    "fast": [(1.0, wg.PowerEntropy(0.5))],
    "sum": [(1.0, wg.Entropy(4.0)), (0.3, wg.PowerEntropy(3.0))],
}
GRIDS = {"line": LINE, "circle": CIRCLE, "torus": TORUS,
         "box": wg.Grid([(-2, 2), (-1, 1)], cells=(18, 14), boundary=("no-flux", "periodic"))}


def round_kernel(*d):
    return np.prod([np.cos(np.pi * v) for v in d], axis=0)


def nonlinear(grid, terms, V, values, *, w=None, dt=0.02, steps=10):
    energy = wg.FreeEnergy(terms) + wg.Potential(V)
    energy = energy if w is None else energy + (w if isinstance(w, wg.Term) else wg.Convolution(w))
    sol = wg.solve(energy, wg.Density(grid, values), (0, steps * dt), method=wg.FiniteVolume(dt=dt))
    assert (sol.final.values != values).any()
    return sol.final.masses


@pytest.mark.slow
@pytest.mark.parametrize("w", [None, round_kernel])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("terms", DIFFUSIONS.values(), ids=DIFFUSIONS)
def test_mirrors_shifts_constants_and_units_of_nonlinear_diffusion(terms, grid, w, rng):
    V, values = rough(rng, grid)
    there = nonlinear(grid, terms, V, values, w=w)
    assert difference(there, np.flip(nonlinear(grid, terms, np.flip(V), np.flip(values), w=w))) <= ROUNDING
    assert difference(there, nonlinear(grid, terms, V + 3.0, values, w=w)) <= ROUNDING
    axes = tuple(axis for axis in range(grid.ndim) if grid.periodic[axis])
    if axes:
        shift = (7, 3)[:len(axes)]
        moved = nonlinear(grid, terms, np.roll(V, shift, axes), np.roll(values, shift, axes), w=w)
        assert difference(there, np.roll(moved, [-s for s in shift], axes)) <= ROUNDING
    # Energies times 3 and time over 3; lengths times 3, times times 9, where H(r) of densities r/3^d is 3^-d H(r).
    more = [(3 * factor, term) for factor, term in terms]
    w3 = None if w is None else lambda *d: 3 * w(*d)
    assert difference(there, nonlinear(grid, more, 3 * V, values, w=w3, dt=0.02 / 3)) <= ROUNDING
    wide = wg.Grid([(3 * lo, 3 * hi) for lo, hi in grid.bounds], cells=grid.shape, boundary=grid.boundary)
    same = [(factor * 3.0 ** (grid.ndim * (getattr(term, "m", 1.0) - 1)), term) for factor, term in terms]
    w1 = None if w is None else lambda *d: w(*[v / 3 for v in d])
    assert difference(there, nonlinear(wide, same, V, values / 3**grid.ndim, w=w1, dt=0.18)) <= ROUNDING
    # A density times 3 has H(3 r) = 3^m H(r), per mass 3^(m-1) as much.
    less = [(factor * 3.0 ** (1 - getattr(term, "m", 1.0)), term) for factor, term in terms]
    w2 = None if w is None else lambda *d: w(*d) / 3
    assert difference(there, nonlinear(grid, less, V, 3 * values, w=w2) / 3) <= ROUNDING


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("terms", DIFFUSIONS.values(), ids=DIFFUSIONS)
def test_a_rank_one_kernel_in_two_forms_with_nonlinear_diffusion(terms, grid, rng):
    V, values = rough(rng, grid)
    values = values / (values * grid.volumes).sum()
    phi = np.sin(sum(grid.mesh())) + 0.3
    flat = phi.ravel()
    for sign in (1.0, -1.0):
        one = nonlinear(grid, terms, V, values, w=wg.LowRank(phi[None], [sign]))
        assert difference(one, nonlinear(grid, terms, V, values, w=wg.Dense(sign * np.outer(flat, flat)))) <= 1e-10
        assert difference(one, nonlinear(grid, terms, V, values)) > 1e-6


@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
@pytest.mark.parametrize("terms", DIFFUSIONS.values(), ids=DIFFUSIONS)
def test_a_small_axis_does_not_show_in_nonlinear_diffusion(terms, boundary, rng):
    V, values = rough(rng, LINE)
    plane = wg.Grid([(-2, 2), (0, 1)], cells=(40, 2), boundary=("no-flux", boundary))
    both = nonlinear(plane, terms, np.stack([V, V], 1), np.stack([values, values], 1), dt=0.02)
    # The axis with the drift takes two half steps.
    there = nonlinear(LINE, terms, V, values, dt=0.01, steps=20)
    assert difference(there, both.sum(axis=1)) <= ROUNDING


def test_exchanged_axes_of_nonlinear_diffusion_have_the_exchanged_solution():
    grid = wg.Grid([(-2, 2), (-1, 1)], cells=(20, 16))
    x, y = grid.mesh()
    V, values = np.cos(2 * x + 3 * y) + x * y, 0.05 + np.exp(-((x - 0.5) ** 2) - 2 * y**2)
    one = nonlinear(grid, DIFFUSIONS["sum"], V, values, dt=0.02, steps=10)
    other = nonlinear(transposed(grid), DIFFUSIONS["sum"], V.T, values.T, dt=0.02, steps=10)
    assert difference(one, other.T) <= 1e-12


@pytest.mark.parametrize(("order", "cells", "tolerance", "least"), [(2, (16, 24, 36), 0.3, 5e-3),
                                                                     (4, (54, 81, 120), 0.3, 5e-6)])
def test_the_radius_agrees_with_the_plane_to_the_order_of_the_grids(order, cells, tolerance, least):
    from wgflow.grids import log_power_cell_average

    gaps, method = [], wg.FiniteVolume(order=order)
    for n in cells:
        edges = np.linspace(0, 5, n + 1)
        line = wg.Grid((0, 5), cells=n, log_weight=log_power_cell_average(edges, 1))
        radial = wg.Entropy(1.0) + wg.Potential(lambda r: r * r / 2 + np.cos(r))
        start = wg.Density.from_values(line, -np.diff(np.exp(-2 * edges**2)), normalize=True)
        plane = wg.Grid([(-5, 5), (-5, 5)], cells=2 * n)
        flat = wg.Entropy(1.0) + wg.Potential(lambda x, y: (x * x + y * y) / 2 + np.cos(np.hypot(x, y)))
        spot = wg.Density.gaussian(plane, [0.0, 0.0], [0.25, 0.25])
        moments = [rho.expect(f) for rho, f in (
            (wg.solve(radial, start, (0, 0.5), method=method).final, lambda r: r * r),
            (wg.solve(flat, spot, (0, 0.5), method=method).final, lambda x, y: x * x + y * y))]
        gaps.append(abs(moments[0] - moments[1]))
    assert -np.polyfit(np.log(cells), np.log(gaps), 1)[0] == pytest.approx(order, abs=tolerance)
    assert gaps[-1] < least


# ---------------------------------------------------------------- grids
@pytest.mark.parametrize("beta", BETAS)
def test_a_uniform_grid_given_by_its_edges_is_the_same_grid(beta, rng, parts):
    by_edges = wg.Grid(edges=np.linspace(-2, 2, 41))
    assert by_edges == LINE
    V, values = parts(rng, LINE)
    np.testing.assert_array_equal(final(LINE, V, values, beta=beta), final(by_edges, V, values, beta=beta))


@pytest.mark.parametrize("order", [2, None])
@pytest.mark.parametrize("beta", BETAS)
def test_a_nearly_uniform_grid_nearly_agrees(beta, order, rng):
    # The code for graded grids, held against that for uniform ones.
    edges = np.linspace(-2, 2, 41)
    edges[1:-1] += 1e-10 * rng.normal(size=39)
    graded = wg.Grid(edges=edges)
    assert not graded.uniform[0]
    V, values = np.cos(3 * LINE.centers[0]), 1.5 + np.sin(2 * LINE.centers[0])
    uniform = final(LINE, V, values, beta=beta, order=order)
    assert difference(uniform, final(graded, V, values, beta=beta, order=order)) <= 1e-8


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_small_axis_on_which_nothing_happens_does_not_show(beta, boundary, axis, rng, parts):
    V, values = parts(rng, LINE)
    bounds, cells, sides = [(-2, 2)], [40], ["no-flux"]
    for entries, entry in ((bounds, (0, 1)), (cells, 2), (sides, boundary)):
        entries.insert(axis, entry)
    plane = wg.Grid(bounds, cells=tuple(cells), boundary=tuple(sides))

    def spread(array):
        return np.stack([array, array], axis=axis)

    both = final(plane, spread(V), spread(values), beta=beta)
    # On the axis with the drift a step is two half steps.
    expected = final(LINE, V, values, beta=beta, dt=0.01, steps=40, order=2)
    assert difference(expected, both.sum(axis=axis)) <= 1e-13
    assert difference(*np.moveaxis(both, axis, 0)) <= 1e-14


@pytest.mark.parametrize("boundary", ["no-flux", "periodic"])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("shape", [(2,), (3,), (2, 2), (2, 3, 2), (2, 2, 2, 2)])
def test_the_smallest_grids_work(shape, beta, boundary, rng):
    grid = wg.Grid([(0, 1)] * len(shape), cells=shape, boundary=boundary)
    V, values = rough(rng, grid)
    energy = wg.Entropy(beta) + wg.Potential(V)
    sol = wg.solve(energy, wg.Density(grid, values), (0, 2), method=wg.FiniteVolume(dt=0.1))
    assert sol.certificate.ok
    if beta == 2.0:
        star = np.exp(-beta * V)
        # Steps as long as the flow allows exchange little between the axes: they come to rest slowly.
        sol = wg.solve(energy, wg.Density(grid, values), (0, 200), wg.FiniteVolume(max_step=1.0))
        assert difference(sol.final.masses / sol.final.mass, star / star.sum()) < 1e-9


# ---------------------------------------------------------------- the same bits
@pytest.mark.parametrize("settings", [{"dt": 0.01}, {"rtol": 1e-3, "max_steps": 30}])
@pytest.mark.parametrize("interacting", [False, True])
def test_the_bits_do_not_depend_on_the_threads(settings, interacting, rng, parts):
    grid = wg.Grid([(-2, 2), (-2, 2)], cells=(190, 187), boundary=("periodic", "no-flux"))
    assert grid.size > 1 << 15
    V, values = parts(rng, grid)
    energy = wg.Entropy(5.0) + wg.Potential(V)
    if interacting:
        energy = energy + wg.Interaction(lambda x, y: 2 * np.exp(-x * x - y * y))
    finals = []
    for threads in (1, 2, 3):
        method = wg.FiniteVolume(threads=threads, **settings)
        sol = wg.solve(energy, wg.Density(grid, values), (0, 0.05), method=method, throw=False)
        finals.append(sol)
    for other in finals[1:]:
        assert other.final.values.tobytes() == finals[0].final.values.tobytes()
        assert other.history.energy.tobytes() == finals[0].history.energy.tobytes()
        assert other.history.dt.tobytes() == finals[0].history.dt.tobytes()


@pytest.mark.parametrize("settings", [{"dt": 0.02}, {"rtol": 1e-4}])
def test_a_repeated_run_has_the_same_bits(settings, rng, parts):
    V, values = parts(rng, TORUS)
    features = rng.normal(size=(3, *TORUS.shape))
    runs = []
    for _ in range(3):
        energy = wg.Entropy(2.0) + wg.Potential(V) + wg.LowRank(features, [1.0, -1.0, 2.0])
        runs.append(wg.solve(energy, wg.Density(TORUS, values), (0, 0.5), method=wg.FiniteVolume(**settings)))
    assert len({run.final.values.tobytes() + run.history.energy.tobytes() for run in runs}) == 1


@pytest.mark.parametrize("seed", [11, 23, 37, 51])
@pytest.mark.parametrize(("energy", "boundary"), [(1.0 * wg.PowerEntropy(4.0), "periodic"),
                                                  (1.0 * wg.Entropy(1e3), "no-flux")])
def test_mirror_where_transfers_are_dropped(energy, boundary, seed):
    """Rough data and steps so long that cells would turn negative, which is mended alike from both ends."""
    rng = np.random.default_rng(seed)
    V, values = rng.normal(size=40), rng.random(40) ** 2 + 1e-9
    grid = wg.Grid([(-2, 2)], cells=40, boundary=boundary)

    def flow(way):
        rho0 = wg.Density.from_values(grid, values[::way], normalize=True)
        sol = wg.solve(energy + wg.Potential(V[::way]), rho0, (0, 0.4), method=wg.FiniteVolume(dt=0.02))
        return sol.final.values[::way]

    np.testing.assert_allclose(flow(1), flow(-1), rtol=0, atol=1e-13)
