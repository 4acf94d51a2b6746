"""Bad inputs: which error each one gives, what its message says, that it comes at once and that nothing is touched.

The numbers are those of a table of faults that solvers of this kind meet; rows that speak of parts wgflow does not have
(nonlinear diffusion, Newton) are left out.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest

import wgflow as wg
from wgflow import Density, Entropy, Grid, InvalidInput, Potential, ResourceError
from wgflow.errors import InvalidType
from wgflow.grids import log_power_cell_average
from wgflow.interactions import Convolution, Dense, Interaction, LowRank
from wgflow.solvers.finite_volume import splitting

GRID = Grid((0, 1), cells=64, boundary="no-flux")
PLANE = Grid([(0, 1), (0, 2)], cells=(8, 6), boundary="no-flux")
CIRCLE = Grid((0, 1), cells=64, boundary="periodic")
RHO = Density.uniform(GRID)
ENERGY = Entropy(1.0) + Potential(lambda x: x**2)


class Row(NamedTuple):
    """One bad input: ``call(*arrays)`` raises ``error`` with all of ``words`` in its message."""

    number: int
    error: type[Exception]
    words: tuple[str, ...]
    call: object
    arrays: tuple = ()


def with_entry(k, value, n=64):
    values = np.ones(n)
    values[k] = value
    return values


def raising(*x):
    raise KeyError("deep inside")


def writing(x, *rest):
    x[...] = 0.0
    return x


def solve(energy=ENERGY, rho=RHO, span=(0, 1), **options):
    method = wg.FiniteVolume(**options.pop("settings", {}))
    return wg.solve(energy, rho, span, method=method, **options)


def bind(term, grid=GRID):
    return term.energy(Density.uniform(grid))


I, T, R = InvalidInput, InvalidType, ResourceError
NAN, INF = math.nan, math.inf
GRID_ROWS = [
    Row(1, I, ("cells[0]=0", ">= 2"), lambda: Grid((0, 1), cells=0)),
    Row(1, I, ("cells[0]=1", ">= 2"), lambda: Grid((0, 1), cells=1)),
    Row(2, I, ("cells[1]=-5", ">= 2"), lambda: Grid([(0, 1), (0, 1)], cells=(4, -5))),
    Row(3, T, ("cells[0]", "int", "float 64.5"), lambda: Grid((0, 1), cells=64.5)),
    Row(3, T, ("cells[0]", "int", "'64'"), lambda: Grid((0, 1), cells="64")),
    Row(3, T, ("cells[0]", "int", "True"), lambda: Grid((0, 1), cells=True)),
    Row(4, I, ("bounds[0]", "lo=1", "< hi=0"), lambda: Grid((1, 0), cells=8)),
    Row(4, I, ("bounds[1]", "lo=2", "< hi=2"), lambda: Grid([(0, 1), (2, 2)], cells=8)),
    Row(5, I, ("bounds[0]", "finite", "nan"), lambda: Grid((NAN, 1), cells=8)),
    Row(5, I, ("bounds[1]", "finite", "inf"), lambda: Grid([(0, 1), (0, INF)], cells=8)),
    Row(5, I, ("bounds[0]", "not resolvable"), lambda: Grid((-1.7e308, 1.7e308), cells=8)),
    Row(6, I, ("cell width 0.008", "not resolvable", "1e+16"), lambda: Grid((1e16, 1e16 + 8), cells=1000)),
    Row(7, I, ("bounds has 0 axes", "1 to 4"), lambda: Grid([], cells=8)),
    Row(7, I, ("bounds has 5 axes", "1 to 4"), lambda: Grid([(0, 1)] * 5, cells=8)),
    Row(7, I, ("edges has 0 axes", "1 to 4"), lambda: Grid(edges=[])),
    Row(8, I, ("cells has 2 entries", "bounds 3"), lambda: Grid([(0, 1)] * 3, cells=(8, 8))),
    Row(9, R, ("cells=(10000, 10000, 10000)", "GiB"), lambda: Grid([(0, 1)] * 3, cells=10_000)),
    Row(10, R, ("GiB", "fewer cells"), lambda: Grid([(-1e3, 1e3)] * 4, cells=2**44)),
    Row(10, R, ("cells[0]", "fewer cells"), lambda: Grid((0, 1), cells=2**70)),
    Row(10, R, ("cells[1]", "fewer cells"), lambda: Grid([(0, 1)] * 2, cells=(8, 10**5000))),
    Row(11, I, ("edges[0]", "increase strictly", "edges[2]=0.3 <= edges[1]=0.5"), lambda e: Grid(edges=e),
        (np.array([0.0, 0.5, 0.3, 1.0]),)),
    Row(11, I, ("edges[1]", "edges[2]=1 <= edges[1]=1"), lambda a, b: Grid(edges=[a, b]),
        (np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0, 2.0]))),
    Row(11, I, ("edges[0]", "finite", "nan"), lambda e: Grid(edges=e), (np.array([0.0, NAN, 1.0]),)),
    Row(11, I, ("edges[0]", "at least 3 edges"), lambda e: Grid(edges=e), (np.array([0.0, 1.0]),)),
    Row(11, T, ("edges",), lambda: Grid(edges=7)),
    Row(11, I, ("bounds, edges", "not both"), lambda: Grid((0, 1), edges=[0.0, 0.5, 1.0])),
    Row(11, I, ("cells", "leave it out"), lambda: Grid(edges=[0.0, 0.5, 1.0], cells=2)),
    Row(12, I, ("edges[0]=-1", "radius"), lambda e: log_power_cell_average(e, 2), (np.array([-1.0, 0.0, 1.0]),)),
    Row(12, I, ("power=-1", "> -1"), lambda e: log_power_cell_average(e, -1), (np.array([0.0, 0.5, 1.0]),)),
    Row(12, T, ("power", "number"), lambda e: log_power_cell_average(e, "2"), (np.array([0.0, 0.5, 1.0]),)),
    Row(12, I, ("log_weight", "finite"), lambda w: Grid((0, 1), cells=4, log_weight=w),
        (np.array([-INF, 0.0, 0.0, 0.0]),)),
    Row(12, I, ("log_weight", "(3,)", "(4,)"), lambda w: Grid((0, 1), cells=4, log_weight=w), (np.zeros(3),)),
    Row(13, I, ("boundary[0]", "'no-flow'", "did you mean 'no-flux'"),
        lambda: Grid((0, 1), cells=8, boundary="no-flow")),
    Row(13, I, ("boundary[1]", "'dirichlet'", "allowed: no-flux, periodic"),
        lambda: Grid([(0, 1)] * 2, cells=8, boundary=("periodic", "dirichlet"))),
    Row(13, T, ("boundary",), lambda: Grid((0, 1), cells=8, boundary=3)),
    Row(14, I, ("periodic needs both sides of axis 0",),
        lambda: Grid((0, 1), cells=8, boundary=[("periodic", "no-flux")])),
    Row(14, I, ("boundary has 3 entries", "2 axes"), lambda: Grid([(0, 1)] * 2, cells=8, boundary=["no-flux"] * 3)),
    Row(14, I, ("names", "2 different"), lambda: Grid([(0, 1)] * 2, cells=8, names=("r", "r"))),
]

DENSITY_ROWS = [
    Row(16, I, ("shape (63,)", "grid (64,)"), lambda v: Density.from_values(GRID, v), (np.ones(63),)),
    Row(17, I, ("min -0.3", "index (12,)", ">= 0"), lambda v: Density(GRID, v), (with_entry(12, -0.3),)),
    Row(18, I, ("-1e-17", "index (5,)", "clip_negative="), lambda v: Density(GRID, v), (with_entry(5, -1e-17),)),
    Row(18, I, ("clip_negative", "nan"), lambda v: Density(GRID, v, clip_negative=NAN), (with_entry(5, -1.0),)),
    Row(19, I, ("1 NaN", "first at (3,)"), lambda v: Density(GRID, v), (with_entry(3, NAN),)),
    Row(20, I, ("1 inf", "first at (3,)"), lambda v: Density(GRID, v), (with_entry(3, INF),)),
    Row(21, I, ("total mass is 0",), lambda v: Density(GRID, v), (np.zeros(64),)),
    Row(22, I, ("total mass is not finite",), lambda v: Density(Grid((0, 640), cells=64), v), (np.full(64, 1e308),)),
    Row(23, T, ("complex",), lambda v: Density(GRID, v), (np.ones(64, complex),)),
    Row(24, T, ("dtype", "object"), lambda v: Density(GRID, v), (np.array([1.0, "a"] * 32, dtype=object),)),
    Row(24, T, ("dtype", "<U1"), lambda v: Density(GRID, v), (np.array(["1"] * 64),)),
    Row(24, T, ("rectangular",), lambda: Density(GRID, [[1.0], [1.0, 2.0]])),
    Row(24, T, ("grid", "list"), lambda: Density([0, 1], np.ones(64))),
    Row(25, I, ("masked array", "1 masked"), lambda v: Density(GRID, v),
        (np.ma.masked_array(np.ones(64), mask=np.arange(64) == 7),)),
    Row(32, I, ("function", "shape (3,)", "(320,)"), lambda: Density.from_function(GRID, lambda x: np.ones(3))),
    Row(32, I, ("function is nan at (0.0007",),
        lambda: Density.from_function(GRID, lambda x: np.where(x < 1e-3, NAN, 1.0))),
    Row(32, I, ("function is -1 at", ">= 0"), lambda: Density.from_function(GRID, lambda x: -np.ones_like(x))),
    Row(32, I, ("function raised KeyError", "deep inside"), lambda: Density.from_function(GRID, raising)),
    Row(32, I, ("function raised ValueError", "read-only"), lambda: Density.from_function(GRID, writing)),
    Row(32, T, ("function", "callable"), lambda: Density.from_function(GRID, 3.0)),
    Row(32, I, ("log_function raised KeyError",), lambda: Density.from_log_function(GRID, raising)),
    Row(32, I, ("mean", "(1,)"), lambda: Density.gaussian(GRID, [0.0, 1.0], 1.0)),
    Row(32, I, ("cov=[[-1.0]]", "positive definite"), lambda: Density.gaussian(GRID, 0.5, -1.0)),
    Row(32, I, ("mean=[nan]",), lambda: Density.gaussian(GRID, NAN, 1.0)),
    Row(32, I, ("symmetric",), lambda: Density.gaussian(PLANE, [0.0, 0.0], [[1.0, 0.5], [0.2, 1.0]])),
    Row(32, I, ("mean=[1000000.0]", "no mass"), lambda: Density.gaussian(GRID, 1e6, 1.0)),
    Row(32, I, ("samples[1]=[2.0]", "outside", "1 of 3"), lambda x: Density.from_samples(GRID, x),
        (np.array([0.5, 2.0, 0.1]),)),
    Row(32, I, ("samples[0]=[nan]",), lambda x: Density.from_samples(GRID, x), (np.array([NAN, 0.1]),)),
    Row(32, I, ("samples", "(n, 2)"), lambda x: Density.from_samples(PLANE, x), (np.ones((5, 3)),)),
    Row(32, I, ("weights", "(2,)", "(3,)"), lambda x, w: Density.from_samples(GRID, x, weights=w),
        (np.array([0.1, 0.2, 0.3]), np.ones(2))),
    Row(32, I, ("weights", ">= 0"), lambda x, w: Density.from_samples(GRID, x, weights=w),
        (np.array([0.1, 0.2, 0.3]), np.array([1.0, NAN, 1.0]))),
    Row(32, I, ("q=", "[0, 1]"), lambda: RHO.quantile(1.5)),
    Row(32, I, ("q=", "[0, 1]"), lambda: RHO.quantile(NAN)),
    Row(32, I, ("quantile needs a density on one axis",), lambda: Density.uniform(PLANE).quantile(0.5)),
    Row(32, I, ("axes=(1, 0)", "increasing"), lambda: Density.uniform(PLANE).marginal((1, 0))),
    Row(32, T, ("axes=True", "number or the name"), lambda: Density.uniform(PLANE).marginal(True)),
    Row(32, I, ("axes=2", "0 and 1"), lambda: Density.uniform(PLANE).marginal(2)),
    Row(86, I, ("n=0", ">= 1"), lambda: RHO.sample(0)),
    Row(89, I, ("rng",), lambda: RHO.sample(3, rng="seed")),
    Row(89, I, ("rng=-1",), lambda: RHO.sample(3, rng=-1)),
]

MODEL_ROWS = [
    Row(33, I, ("beta=-1", "> 0"), lambda: Entropy(-1.0)),
    Row(33, I, ("beta=nan", "> 0"), lambda: Entropy(NAN)),
    Row(33, T, ("beta", "number", "'4'"), lambda: Entropy("4")),
    Row(33, T, ("beta", "number", "None"), lambda: Entropy(None)),
    Row(33, I, ("factor=-2", "backward diffusion"), lambda: -2 * Entropy(1.0)),
    Row(33, I, ("factor=nan", "finite"), lambda: NAN * Potential(lambda x: x)),
    Row(34, I, ("beta=0", "infinite diffusion"), lambda: Entropy(0.0)),
    Row(38, I, ("V is nan at (0.0859375)", "cell (5,)"),
        lambda: bind(Potential(lambda x: np.where(np.arange(64) == 5, NAN, x)))),
    Row(38, I, ("V is nan at (0.0859375)", "cell (5,)", "in 59 cells"),
        lambda: bind(Potential(lambda x: np.where(np.arange(64) >= 5, NAN, x)))),
    Row(38, I, ("V is inf", "cell (5,)"), lambda v: bind(Potential(v)), (with_entry(5, INF),)),
    Row(39, I, ("V returned shape ()", "(64,)", "0*x"), lambda: bind(Potential(lambda x: 3.0))),
    Row(39, I, ("V has shape (63,)", "(64,)"), lambda v: bind(Potential(v)), (np.zeros(63),)),
    Row(39, I, ("V raised TypeError",), lambda: bind(Potential(lambda x: x), PLANE)),
    Row(41, I, ("W not even", "max difference", "at x="), lambda: bind(Convolution(lambda d: d))),
    Row(41, I, ("W not even",), lambda: bind(Convolution(lambda x, y: x * np.exp(-x * x - y * y)), PLANE)),
    Row(42, I, ("W(0) is -inf", "singular kernel", "cell average"),
        lambda: bind(Convolution(lambda d: np.log(np.abs(d))))),
    Row(43, I, ("W(0.25,) is nan",), lambda: bind(Convolution(lambda d: np.where(np.abs(d) == 0.25, NAN, d * d)))),
    Row(44, I, ("U is not symmetric", "U(i,j)", "U(j,i)"), lambda: bind(Interaction(lambda x, y: x - y * y))),
    Row(44, I, ("U is not symmetric", "cells 0 and 3"), lambda u: bind(Dense(u), Grid((0, 1), cells=4)),
        (np.eye(4) + np.eye(4, k=3),)),
    Row(44, I, ("U is not symmetric",), lambda: bind(Dense(lambda x, y: x + 0 * y, table=False))),
    Row(44, T, ("w must be a function",), lambda: Convolution(3.0)),
    Row(44, I, ("U takes 3 arguments", "2 (two points) or 1"), lambda: bind(Interaction(lambda x, y, z: x))),
    Row(44, I, ("U is inf between",), lambda: bind(Interaction(lambda x, y: 1 / np.abs(x - y)))),
    Row(45, R, ("dense table", "74.5 GiB", "LowRank or Convolution"),
        lambda: bind(Dense(lambda x, y: np.cos(x * y), table=True), Grid((0, 1), cells=100_000))),
    Row(46, I, ("features has shape (3, 63)", "(k, 64)"), lambda f: bind(LowRank(f)), (np.ones((3, 63)),)),
    Row(46, I, ("features is nan at (1, 2)",), lambda f: bind(LowRank(f)),
        (np.where(np.arange(128) == 66, NAN, 1.0).reshape(2, 64),)),
    Row(46, I, ("signs", "(2,)", "(3,)"), lambda f, s: bind(LowRank(f, s)), (np.ones((3, 64)), np.ones(2))),
    Row(46, I, ("U has shape (63, 63)", "(64, 64)"), lambda u: bind(Dense(u)), (np.ones((63, 63)),)),
    Row(49, I, ("V raised KeyError", "deep inside"), lambda: bind(Potential(raising))),
    Row(49, I, ("U raised KeyError", "deep inside"), lambda: bind(Interaction(lambda x, y: raising()))),
    Row(49, I, ("w raised KeyError",), lambda: bind(Convolution(raising))),
    Row(49, I, ("features raised KeyError",), lambda: bind(LowRank(raising))),
    Row(50, I, ("V raised ValueError", "read-only"), lambda: bind(Potential(writing))),
    Row(50, I, ("U raised ValueError", "read-only"), lambda: bind(Dense(writing))),
    Row(50, I, ("w raised ValueError", "read-only"), lambda: bind(Convolution(writing))),
    Row(50, I, ("features raised ValueError", "read-only"), lambda: bind(LowRank(writing))),
    Row(51, T, ("V", "complex"), lambda: bind(Potential(lambda x: x + 1j))),
    Row(51, T, ("V", "dtype <U1"), lambda: bind(Potential(lambda x: ["a"] * 64))),
    Row(51, T, ("U", "complex"), lambda: bind(Interaction(lambda x, y: x * y + 0j))),
    Row(51, T, ("V", "object"), lambda: bind(Potential(lambda x: None))),
    Row(51, I, ("potentials is not finite",),
        lambda: solve(Potential(lambda x: 1e308 + x) + Potential(np.full(64, 1e308)))),
]

STEPPING_ROWS = [
    *[Row(54, I, (f"dt={dt}", "finite and > 0"), lambda dt=dt: wg.FiniteVolume(dt=dt))
      for dt in (0.0, -1e-3, NAN, INF)],
    Row(54, T, ("dt must be a number", "'1'"), lambda: wg.FiniteVolume(dt="1")),
    Row(55, I, ("t_span=(1, 0)", "backward"), lambda: solve(span=(1, 0))),
    Row(55, I, ("t_span=(0.0, nan)", "finite"), lambda: solve(span=(0, NAN))),
    Row(55, I, ("t_span=(0.0, inf)", "finite"), lambda: solve(span=(0, INF))),
    Row(55, I, ("t_span=3", "pair"), lambda: solve(span=3)),
    Row(55, T, ("t_span[0]", "must be a number"), lambda: solve(span=("0", 1))),
    Row(59, I, ("max_steps=0", ">= 1"), lambda: wg.FiniteVolume(max_steps=0)),
    Row(59, I, ("max_steps=-1", ">= 1"), lambda: wg.FiniteVolume(max_steps=-1)),
    Row(59, T, ("max_steps", "int", "1.5"), lambda: wg.FiniteVolume(max_steps=1.5)),
    Row(59, I, ("threads=0", ">= 1"), lambda: wg.FiniteVolume(threads=0)),
    Row(62, I, ("rtol=nan",), lambda: wg.FiniteVolume(rtol=NAN)),
    Row(62, I, ("rtol=-1e-05",), lambda: wg.FiniteVolume(rtol=-1e-5)),
    Row(62, I, ("rtol=1e-15", "2.2e-14"), lambda: wg.FiniteVolume(rtol=1e-15)),
    Row(62, I, ("rtol=1", "and 1"), lambda: wg.FiniteVolume(rtol=1.0)),
    Row(62, I, ("corrected=1", "True or False"), lambda: wg.FiniteVolume(corrected=1)),
    Row(72, I, ("t_eval must increase strictly", "t_eval[1]=0.2 <= t_eval[0]=0.5"), lambda t: solve(t_eval=t),
        (np.array([0.5, 0.2]),)),
    Row(72, I, ("t_eval must increase strictly", "t_eval[2]=0.5"), lambda: solve(t_eval=[0.1, 0.5, 0.5])),
    Row(72, I, ("t_eval runs from 0.5 to 2", "t_span=(0, 1)"), lambda: solve(t_eval=[0.5, 2.0])),
    Row(72, I, ("t_eval must be finite",), lambda: solve(t_eval=[0.5, NAN])),
    Row(72, I, ("t_eval has shape (0,)",), lambda: solve(t_eval=[])),
    Row(72, T, ("t_eval", "dtype"), lambda: solve(t_eval=["a"])),
    Row(72, R, ("t_eval has 1000000000 times",), lambda: solve(t_eval=np.broadcast_to(0.5, 10**9))),
    Row(73, I, ("time_scale=0", "> 0"), lambda: solve(time_scale=0.0)),
    Row(73, I, ("time_scale=nan", "finite"), lambda: solve(time_scale=NAN)),
    Row(73, T, ("time_scale", "number", "'2'"), lambda: solve(time_scale="2")),
    Row(73, T, ("rho0", "Density", "ndarray"), lambda v: solve(rho=v), (np.ones(64),)),
    Row(73, T, ("energy", "sum of terms"), lambda: solve(energy=lambda x: x)),
    Row(73, T, ("method", "FiniteVolume()"), lambda: wg.solve(ENERGY, RHO, (0, 1), method="implicit")),
]

ROWS = GRID_ROWS + DENSITY_ROWS + MODEL_ROWS + STEPPING_ROWS


@pytest.mark.parametrize("row", ROWS, ids=[f"{r.number}-{'-'.join(r.words)[:40]}" for r in ROWS])
def test_a_bad_input_is_refused_in_words(row, capfd, monkeypatch):
    before = [a.copy() for a in row.arrays]
    monkeypatch.setattr(splitting.LinearSweeps, "move", None)  # it comes at once, before any step
    with np.errstate(all="raise", under="ignore"), pytest.raises(row.error) as caught:
        row.call(*row.arrays)
    message = str(caught.value)
    for word in row.words:
        assert word in message
    for given, copy in zip(row.arrays, before):
        assert given.tobytes() == copy.tobytes()
    assert capfd.readouterr() == ("", "")


def test_the_cause_of_an_error_in_a_users_function_is_kept():
    with pytest.raises(InvalidInput) as caught:
        bind(Potential(raising))
    assert isinstance(caught.value.__cause__, KeyError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidType) as caught:
        Entropy("4")
    assert isinstance(caught.value, TypeError)


def test_too_large_a_grid_is_refused_before_anything_is_allocated():  # row 9: within 1 MiB
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(MemoryError):
        Grid([(0, 1)] * 3, cells=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


# ---------------------------------------------------------------- legal, but probably not meant
def test_uneven_cells_give_a_warning():  # row 15
    with pytest.warns(wg.WGFlowWarning, match=r"edges\[0\]: cell ratio 1.0e\+07"):
        Grid(edges=[0.0, 1e-7, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Grid(edges=[0.0, 1e-5, 1.0])


def test_mass_at_the_edge_of_the_box_is_pointed_out():  # row 31
    V = Potential(lambda x: -x)
    sol = solve(V, Density.uniform(Grid((0, 1), cells=64)), settings={"dt": 0.05})
    assert sol.certificate.boundary_mass > 0.5
    assert sol.certificate.verdict == "not judged"
    assert "enlarge" in sol.certificate.explain()
    assert "enlarge" not in solve(V, settings={"dt": 0.05}).certificate.explain()


def test_a_jump_of_V_over_a_periodic_seam_is_refused_or_gives_a_warning():  # row 40
    with pytest.raises(InvalidInput, match=r"V differs by 3.2 between the two ends"):
        solve(Potential(lambda x: 3.2 * x), Density.uniform(CIRCLE))
    # Between the cells there may be anything.
    with pytest.warns(wg.WGFlowWarning, match="V differs by 3.15 across the seam of periodic axis 0"):
        bind(Potential(3.2 * CIRCLE.centers[0]), CIRCLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bind(Potential(lambda x: np.cos(2 * np.pi * x)), CIRCLE)


# ---------------------------------------------------------------- unusual, and accepted
@pytest.mark.parametrize("dtype", ["i4", "u1", "f4", "f2", ">f8", "?"])
def test_any_real_dtype_gives_the_bits_of_float64(dtype):  # row 26
    values = (np.arange(64) % 2 + (dtype != "?")).astype(dtype)
    rho = Density(GRID, values)
    assert rho.values.dtype == np.float64
    assert rho.values.tobytes() == Density(GRID, values.astype(float)).values.tobytes()


def test_any_memory_layout_is_accepted_and_never_written():  # row 27
    base = np.random.default_rng(905).random((12, 16))
    plane = Grid([(0, 1), (0, 1)], cells=(6, 8))
    for view in (base[::2, ::2], base[::-2, ::-2], np.asfortranarray(base[:6, :8]), base[:6, :8]):
        view.flags.writeable = False
        before = base.copy()
        rho = Density(plane, view)
        assert rho.values.tobytes() == np.ascontiguousarray(view).tobytes()
        wg.solve(Entropy(1.0) + Potential(view), rho, (0, 0.1), method=wg.FiniteVolume(dt=0.05))
        assert not np.shares_memory(rho.values, base)
        np.testing.assert_array_equal(base, before)


def test_a_density_and_its_energy_do_not_follow_the_callers_arrays():
    values, V, features = np.ones(64), np.linspace(0, 1, 64), np.ones((1, 64))
    rho, energy = Density(GRID, values), Potential(V) + LowRank(features)
    before = energy(rho)
    values[:], V[:], features[:] = 7.0, 7.0, 7.0
    assert rho.values.max() == 1.0
    assert energy(rho) == before
    with pytest.raises(ValueError, match="read-only"):
        rho.values[0] = 1.0


@pytest.mark.parametrize("beta", [1.0, INF])
@pytest.mark.parametrize("value", [5e-324, 1e-310])
def test_subnormal_values_are_accepted(value, beta):  # row 28
    values = np.full(64, value)
    values[20:30] = 1.0
    sol = solve(Entropy(beta) + Potential(lambda x: np.cos(9 * x)), Density.from_values(GRID, values, normalize=True),
                settings={"dt": 0.01})
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.final.values.min() >= 0


@pytest.mark.parametrize("beta", [1.0, 1e3, INF])
def test_all_mass_in_one_cell_is_accepted(beta):  # row 29
    values = np.zeros((8, 6))
    values[3, 2] = 24.0
    sol = solve(Entropy(beta) + Potential(lambda x, y: x * y), Density(PLANE, values), settings={"dt": 0.1})
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.final.mass == pytest.approx(1.0, rel=1e-13)
    assert (sol.final.values != values).any()


def test_clip_negative_sets_round_off_to_zero():  # row 18
    rho = Density(GRID, with_entry(5, -1e-17), clip_negative=1e-16)
    assert rho.values[5] == 0.0
    assert rho.mass == pytest.approx(63 / 64, rel=1e-15)


def test_clip_negative_reports_the_mass_it_added():  # row 18
    values = np.ones((8, 6))
    values[2, 3], values[5, 1] = -0.25, -0.125
    rho = Density(PLANE, values, clip_negative=0.3)
    assert rho.clipped_mass == pytest.approx(0.375 * 2 / 48, rel=1e-15)
    assert rho.mass - rho.clipped_mass == pytest.approx((values * PLANE.volumes).sum(), rel=1e-15)
    assert rho.normalized().clipped_mass == pytest.approx(rho.clipped_mass / rho.mass, rel=1e-15)
    assert "0.0156 of it by clip_negative" in repr(rho)
    assert values[2, 3] == -0.25
    clean = Density(PLANE, np.ones((8, 6)), clip_negative=0.3)
    assert clean.clipped_mass == 0.0
    assert "clip" not in repr(clean)


def test_infinite_beta_means_no_diffusion():  # row 35
    with_term = solve(Entropy(INF) + Potential(lambda x: x**2), settings={"dt": 0.1})
    without = solve(Potential(lambda x: x**2), settings={"dt": 0.1})
    np.testing.assert_array_equal(with_term.final.values, without.final.values)


@pytest.mark.parametrize("convert", [np.float32, list, np.asfortranarray])
def test_what_a_users_function_returns_is_converted(convert):  # row 51
    V = Potential(lambda x: convert(np.round(8 * x)))
    np.testing.assert_array_equal(V.values(GRID), np.round(8 * GRID.centers[0]))
    assert V.values(GRID).dtype == np.float64


@pytest.mark.parametrize("U", [lambda d: -(d**4) * 50, lambda x, y: -50 * (x - y) ** 4])
def test_a_repulsion_without_bound_runs_into_the_walls_and_stays_finite(U):  # row 48
    sol = solve(Interaction(U), Density.gaussian(GRID, 0.45, 0.01), span=(0, 5))
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert np.isfinite(sol.final.values).all()
    assert sol.final.cov() > 0.2


def test_a_stiff_potential_runs():  # row 70
    sol = solve(Entropy(1.0) + Potential(lambda x: 1e12 * (x - 0.5) ** 2), settings={"dt": 0.1})
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert sol.final.cov() < 1e-3


@pytest.mark.parametrize("settings", [{"dt": 0.01}, {"rtol": 1e-4}])
def test_a_huge_cell_peclet_number_does_not_overflow(settings):  # row 71
    V = Potential(lambda x: 1e6 * np.cos(7 * x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sol = solve(Entropy(1e8) + V, settings=settings, span=(0, 1e-5))
    assert sol.certificate.verdict != "failed", sol.certificate.explain()
    assert np.isfinite(sol.final.values).all()
