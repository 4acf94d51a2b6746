"""Ends of grids: walls that are declared, and ends that stand for infinity, beyond which mass is estimated."""

from __future__ import annotations

import json
import math
import pickle
import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow import Density, Entropy, Grid, InvalidInput, Potential, PowerEntropy
from wgflow.audit.open_ends import judge_outside, mass_outside
from wgflow.error_estimates.coarsening import coarser
from wgflow.errors import WGFlowWarning
from wgflow.files.grids import pack_axes, unpack_grid
from wgflow.grids import log_power_cell_average

OPEN, WALLS, RADIUS = (True, True), (False, False), (False, True)
TRAP = Potential(lambda x: x**2 / 2)


# ---------------------------------------------------------------- grids
def radial(**options):
    edges = np.linspace(0, 3, 31)
    return Grid(edges=edges, log_weight=log_power_cell_average(edges, 2.0), **options)


@pytest.mark.parametrize(("grid", "ends", "boundary"), [
    (Grid((0, 1), cells=4), (OPEN,), (None,)),
    (Grid((0, 1), cells=4, boundary="no-flux"), (WALLS,), ("no-flux",)),
    (Grid((0, 1), cells=4, boundary="periodic"), (WALLS,), ("periodic",)),
    (Grid((0, 1), cells=4, boundary=[None]), (OPEN,), (None,)),
    (Grid((0, 1), cells=4, boundary=("no-flux", None)), (RADIUS,), (("no-flux", None),)),
    (Grid((0, 1), cells=4, boundary=[(None, "no-flux")]), ((True, False),), ((None, "no-flux"),)),
    (Grid((0, 1), cells=4, boundary=("no-flux", "no-flux")), (WALLS,), ("no-flux",)),
    (Grid([(0, 1)] * 3, cells=4, boundary=("periodic", None, ("no-flux", None))), (WALLS, OPEN, RADIUS),
     ("periodic", None, ("no-flux", None))),
    (Grid((0, 1), cells=4, origin=True), (RADIUS,), (("no-flux", None),)),
    (radial(), (RADIUS,), (("no-flux", None),)),
    (radial(boundary="no-flux"), (WALLS,), ("no-flux",)),
    (Grid.graded((0, 1), 8, lambda x: 1 + x, boundary="no-flux"), (WALLS,), ("no-flux",)),
])
def test_what_the_ends_of_a_grid_stand_for(grid, ends, boundary):
    assert (grid.open_ends, grid.boundary) == (ends, boundary)
    assert f"boundary={boundary}" in repr(grid)
    # All that makes grids of grids keeps it.
    again = [Grid(edges=grid.edges, boundary=grid.boundary, log_weight=grid.log_weight, origin=list(grid.origin)),
             pickle.loads(pickle.dumps(grid))]
    arrays = {f"edges_{k}": edges for k, edges in enumerate(grid.edges)}
    if grid.log_weight is not None:
        arrays["log_weight"] = grid.log_weight
    again.append(unpack_grid(json.loads(json.dumps(pack_axes(grid))), arrays))
    assert [g.open_ends for g in again] == [ends] * 3
    assert all(g == grid for g in again)
    # A marginal has no weight, and still knows that a radius ends at 0.
    assert Density.uniform(grid).marginal(0).grid.open_ends == ends[:1]


def test_what_ends_stand_for_does_not_tell_grids_apart():
    plain, walls = Grid((0, 1), cells=8), Grid((0, 1), cells=8, boundary="no-flux")
    assert plain == walls
    assert hash(plain) == hash(walls)
    assert coarser(Density.uniform(Grid((0, 1), cells=32, boundary="no-flux"))).grid.open_ends == (WALLS,)


@pytest.mark.parametrize(("boundary", "words"), [
    ([("periodic", None)], "periodic needs both sides"), ([("no-flux", "wall")], "='wall': unknown boundary"),
    ("absorbing", r"boundary\[0\]='absorbing': .* out of scope"), ([(None, "Dirichlet")], "out of scope"),
    ("reflecting", "did you mean 'no-flux'"), ([("no-flux", None, None)], "one for each of its ends"),
    (["no-flux", None, None], "3 entries, the grid 1 axes"),
])
def test_bad_boundaries(boundary, words):
    with pytest.raises(InvalidInput, match=words):
        Grid((0, 1), cells=4, boundary=boundary)


def test_bounds_given_to_for_problem_are_walls():
    energy, start = Entropy(1.0) + TRAP, (0.5, 0.25)
    assert Grid.for_problem(energy, start, t_end=0.1, tol=0.1).open_ends == (OPEN,)
    assert Grid.for_problem(energy, start, t_end=0.1, tol=0.1, bounds=[(-1, 1)]).open_ends == (WALLS,)


@pytest.mark.parametrize("model", [
    wg.reduced_models.IsotropicGaussian(d=40, delta=0.5), wg.reduced_models.IsotropicGaussian(d=np.inf, delta=0.5),
    wg.reduced_models.AnisotropicGaussian(d=40, s0=10, delta=0.5),
    wg.reduced_models.FiniteData(np.array([[1.0], [-1.0]]), [1.0, -1.0])], ids=lambda model: model.name)
def test_models_know_which_ends_are_natural(model):
    ends = model.grid(8).open_ends
    assert ends == tuple(RADIUS if low == 0.0 else OPEN for low, _ in model.grid(8).bounds)


# ---------------------------------------------------------------- the estimate against the truth
def tail(x: float) -> float:
    return math.erfc(x / math.sqrt(2))


@pytest.mark.parametrize("half", [2.0, 3.0, 4.0, 5.0])
@pytest.mark.parametrize("cells", [24, 240])
def test_the_tails_of_a_normal_law_at_rest(half, cells):
    energy, grid = Entropy(1.0) + TRAP, Grid((-half, half), cells=cells)
    found = mass_outside(energy.assemble(grid), Density.gaussian(Grid((-half, half), cells=cells), 0.0, 1.0).masses)
    assert tail(half) < found.part < 1.6 * tail(half)


def box_and_plane(energy, start, t_end, box, plane, cells):
    """Return what is estimated to be outside the box, and what is outside it in a wider one."""
    grid = Grid(box, cells=cells)
    h = (box[1] - box[0]) / cells
    before, after = round((box[0] - plane[0]) / h), round((plane[1] - box[1]) / h)
    wide = Grid((box[0] - before * h, box[1] + after * h), cells=before + cells + after)
    sol = wg.solve(energy, Density.from_function(grid, start), (0, t_end))
    far = wg.solve(energy, Density.from_function(wide, start), (0, t_end))
    assert far.certificate.ok
    masses = far.final.masses
    return sol.certificate, float(masses[:before].sum() + masses[before + cells:].sum())


def bump(x):
    return np.exp(-5 * x**2)


@pytest.mark.parametrize(("energy", "t_end", "box", "plane", "cells", "verdict"), [
    (1.0 * Entropy(1.0), 1.0, (-3, 3), (-12, 12), 120, "not judged"),  # a law that spreads
    (1.0 * Entropy(1.0), 1.0, (-8, 8), (-12, 12), 320, "holds"),
    (Entropy(10.0) + Potential(lambda x: -3 * x), 1.0, (-3, 4), (-4, 10), 280, "not judged"),  # one that runs into it
    (Entropy(10.0) + Potential(lambda x: -x), 1.0, (-3, 4), (-4, 10), 280, "holds"),
    (1.0 * PowerEntropy(2.0), 2.0, (-2, 2), (-6, 6), 120, "not judged"),  # a front that reaches it
    (1.0 * PowerEntropy(2.0), 2.0, (-3, 3), (-6, 6), 180, "holds"),
    (1.0 * Potential(lambda x: -(x**2) / 2), 1.0, (-2, 2), (-8, 8), 120, "not judged"),  # no noise
    (Entropy(1.0) + Potential(lambda x: -(x**2) / 8), 2.0, (-5, 5), (-20, 20), 200, "not judged"),  # an unstable point
])
def test_runs_in_a_box_and_in_a_wide_one(energy, t_end, box, plane, cells, verdict):
    certificate, outside = box_and_plane(energy, bump, t_end, box, plane, cells)
    assert certificate.verdict == verdict, certificate.explain()
    if verdict == "holds":
        assert certificate.mass_outside <= 1e-4
        assert outside < 1e-4
    else:
        assert outside / 3 < certificate.mass_outside < 5 * outside


def test_what_comes_back_has_been_outside():
    """A force carries the law to an end and back: at the end of the run nothing is to be seen there."""
    push = wg.TimeDependent(lambda t: Potential(lambda x: (x - 3.9 * np.sin(np.pi * t)) ** 2 * 10))
    sol = wg.solve(Entropy(10.0) + push, Density.gaussian(Grid((-4, 4), cells=160), 0.0, 0.005), (0, 1), t_eval=[1.0])
    assert sol.final.masses[-2:].sum() < 1e-12
    assert sol.certificate.mass_outside > 1e-4
    assert "upper end of x, 4" in sol.certificate.outside_at


def test_nothing_leaves_where_nothing_can():
    """Without noise a law that touches the ends and is drawn inward is right, as is one that vanishes there."""
    grid = Grid((-1, 1), cells=100)
    for energy, start in ((1.0 * TRAP, Density.uniform(grid)),
                          (1.0 * PowerEntropy(2.0), Density.from_function(grid, lambda x: np.maximum(0, 0.01 - x**2)))):
        sol = wg.solve(energy, start, (0, 0.01), wg.FiniteVolume(order=2))
        assert sol.certificate.mass_outside == 0.0
        assert sol.certificate.checks()["boundary"][0] is True


# ---------------------------------------------------------------- verdicts
def test_walls_are_not_judged_and_the_default_is():
    for boundary, answer, verdict in ((None, None, "not judged"), ("no-flux", "walls", "holds")):
        grid = Grid((0, 1), cells=50, boundary=boundary)
        sol = wg.solve(Entropy(1.0) + Potential(lambda x: 5 * x), Density.uniform(grid), (0, 1))
        assert sol.certificate.checks().get("boundary", ("walls",))[0] is answer
        assert sol.certificate.verdict == verdict
        assert ("boundary='no-flux'" in sol.certificate.explain()) == (boundary is None)
    half = Grid((0, 6), cells=240, boundary=("no-flux", None))
    start = Density.from_function(half, lambda x: np.exp(-8 * x))
    assert wg.solve(Entropy(1.0) + Potential(lambda x: 5 * x), start, (0, 1)).certificate.ok


def test_the_bounds_of_the_verdict():
    assert judge_outside(1e-4, True) is judge_outside(1e-4, False) is True
    assert judge_outside(1.1e-4, True) is judge_outside(0.9, False) is None
    assert judge_outside(1.1e-2, True) is False
    # Errors that the numbers have anyway, or that were asked for, may be as large; but not for ever.
    assert judge_outside(3e-3, True, 5e-3) is True
    assert judge_outside(3e-2, True, 1.0) is False
    assert judge_outside(1.25e-3, True, sample=True) is True


def test_a_tolerance_that_was_asked_for_is_allowed():
    energy, grid = Entropy(1.0) + TRAP, Grid((-3.6, 3.6), cells=120)
    start = Density.gaussian(Grid((-3.6, 3.6), cells=120), 0.0, 0.25)
    coarse = wg.solve(energy, start, (0, 3), wg.FiniteVolume(tol=1e-2)).certificate
    assert coarse.ok
    assert coarse.checks()["boundary"][1].endswith("(the run may be off by 1.0e-02 anyway)")
    assert grid == start.grid
    fine = wg.solve(energy, start, (0, 3), wg.FiniteVolume(tol=1e-4))
    assert fine.certificate.checks()["boundary"][0] is None


MODEL = wg.reduced_models.IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)


def test_a_noisy_model_on_its_plain_grid_fails_and_on_the_right_one_holds():
    noise = {"beta": 10.0, "ridge": 0.1}
    energies = []
    for grid, verdict in ((MODEL.grid(), "failed"), (MODEL.grid(kappa=0.8, t_end=20.0, **noise), "holds")):
        sol = wg.solve(MODEL.energy(**noise), MODEL.initial_density(0.8, grid), (0, 20), time_scale=MODEL.time_scale)
        assert sol.certificate.verdict == verdict
        energies.append(sol.energy[-1])
    # Right is -2.518212.
    assert energies == pytest.approx([-2.4805, -2.51821], abs=1e-4)


def test_a_model_whose_mass_piles_up_at_the_end_passes_nothing():
    """Without noise r goes to 2.2; a box to 1.4 holds it there, and particles that are held in the same box."""
    grid = MODEL.grid(200, r_max=1.4)
    sol = wg.solve(MODEL.energy(), MODEL.initial_density(0.8, grid), (0, 10), time_scale=MODEL.time_scale,
                   t_eval=[0, 5, 10])
    assert sol.certificate.verdict == "failed"
    assert sol.certificate.mass_outside > 0.2
    held = np.stack([rho.sample(2000, 5) for rho in sol.densities])[None, ..., None]
    compared = wg.validation.compare(sol, (sol.t, held), rng=3)
    assert compared.inside.all()
    assert not compared.passed
    assert compared.verdict.startswith("FAIL: all")
    assert "upper end of r, 1.4" in compared.verdict


def test_a_comparison_in_a_box_that_may_be_meant_is_not_judged():
    for boundary, passed in ((None, False), ("no-flux", True)):
        grid = Grid((0, 1), cells=60, boundary=boundary)
        energy = Entropy(2.0) + Potential(lambda x: 3 * x)
        sol = wg.solve(energy, Density.uniform(grid), (0, 0.5), t_eval=[0.1, 0.5])
        particles = wg.solve(energy, Density.uniform(grid), (0, 0.5), t_eval=[0.1, 0.5],
                             method=wg.Lagrangian(rng=11, n_particles=2000))
        compared = wg.validation.compare(sol, particles, rng=3)
        assert compared.inside.all()
        assert compared.passed is passed
        assert compared.verdict.startswith("PASS" if passed else "NOT JUDGED")
        # The particles are held by the same walls.
        assert (particles.certificate.verdict == "holds") is passed
        assert (particles.certificate.mass_outside is None) is passed


def test_atoms_that_rest_on_a_bound_say_so():
    drift = 1.0 * Potential(lambda x, y: -x)
    for boundary, verdict in ((None, "not judged"), ("no-flux", "holds")):
        grid = Grid([(-1, 1), (-1, 1)], cells=(9, 3), boundary=boundary)
        certificate = wg.solve(drift, Density.gaussian(grid, [0, 0], 0.1), (0, 1), method=wg.Lagrangian()).certificate
        assert certificate.verdict == verdict
    drift = 1.0 * Potential(lambda x: -x)
    # Bounds that are given with atoms are walls.
    atoms = wg.Atoms(np.zeros((1, 3)), np.ones(3), bounds=[(-1, 1)])
    assert wg.solve(drift, atoms, (0, 2), method=wg.Lagrangian()).certificate.verdict == "holds"


@pytest.mark.parametrize("method", [wg.JKO(tau=0.1), wg.JKO(tau=0.1, inner="quantile"), wg.FiPy(dt=0.05),
                                    wg.FiniteVolume(order=2), wg.FiniteVolume(scheme="midpoint")], ids=repr)
def test_all_methods_on_a_grid_estimate_the_same(method):
    start = Density.gaussian(Grid((-3, 3), cells=120), 0.0, 0.3)
    sol = wg.solve(Entropy(1.0) + TRAP, start, (0, 4), method)
    assert sol.certificate.mass_outside == pytest.approx(tail(3.0), rel=0.4)
    assert sol.certificate.checks()["boundary"][0] is None


def test_states_at_rest_are_judged():
    energy = Entropy(1.0) + TRAP
    with pytest.warns(WGFlowWarning, match=r"3.0e-03 of the mass .* beyond the box \[-3, 3\].*boundary='no-flux'"):
        star = wg.stationary(energy, Grid((-3, 3), cells=120))
    assert (star.verdict, star.ok) == ("not judged", False)
    assert "enlarge" in star.explain()
    with warnings.catch_warnings():
        warnings.simplefilter("error", WGFlowWarning)
        for grid in (Grid((-3, 3), cells=120, boundary="no-flux"), Grid((-5, 5), cells=120)):
            star = wg.stationary(energy, grid)
            assert star.ok
            assert "enlarge" not in star.explain()


# ---------------------------------------------------------------- files
@pytest.mark.parametrize("suffix", ["npz", "nc"])
def test_files_keep_it(tmp_path, suffix):
    start = Density.gaussian(Grid((-3, 3), cells=60, boundary=[(None, "no-flux")]), 0.0, 0.5)
    sol = wg.solve(Entropy(1.0) + TRAP, start, (0, 1))
    sol.save(tmp_path / f"run.{suffix}")
    loaded = wg.load(tmp_path / f"run.{suffix}")
    assert loaded.grid.boundary == sol.grid.boundary == ((None, "no-flux"),)
    assert loaded.certificate == sol.certificate
    assert loaded.certificate.mass_outside > 1e-4


def test_a_grid_of_a_file_that_does_not_say_has_the_default():
    axes = [{"name": "x", "boundary": "no-flux", "origin": False}, {"name": "y", "boundary": "periodic"}]
    arrays = {"edges_0": np.linspace(0, 1, 5), "edges_1": np.linspace(0, 1, 5)}
    assert unpack_grid(axes, arrays).boundary == (None, "periodic")


def test_a_resumed_run_has_the_same_certificate(tmp_path):
    energy, start = Entropy(1.0) + TRAP, Density.gaussian(Grid((-3, 3), cells=60), 0.0, 0.3)
    whole = wg.solve(energy, start, (0, 2), wg.FiniteVolume(dt=0.02), t_eval=[2.0])
    path = tmp_path / "run.npz"
    wg.solve(energy, start, (0, 2), wg.FiniteVolume(dt=0.02, max_steps=60), t_eval=[2.0], checkpoint=path, throw=False)
    again = wg.resume(path, energy=energy, method=wg.FiniteVolume(dt=0.02))
    assert again.certificate.mass_outside == whole.certificate.mass_outside > 1e-3
    assert again.certificate.outside_at == whole.certificate.outside_at
