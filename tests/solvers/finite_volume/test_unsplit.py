"""Steps that solve both axes of a plane at once: what they solve, how accurate they are, and what they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wgflow as wg
from wgflow.energies.nodes import node_grid
from wgflow.solvers.finite_volume.unsplit import UnsplitSweeps

HALF = math.sqrt(0.5)
BETA, SLOW, FAST = 4.0, 1.0, 100.0
TOGETHER = {"splitting": "none"}


def valley(x, y):
    """Return a valley at 45 degrees, a hundred times as steep across as along."""
    return 0.5 * SLOW * ((x + y) * HALF) ** 2 + 0.5 * FAST * ((x - y) * HALF) ** 2


def plane(cells, side=3.0, boundary="no-flux"):
    return wg.Grid([(-side, side), (-side, side)], cells=cells, boundary=boundary)


def run(energy, rho, t=1.0, **options):
    return wg.solve(energy, rho, (0.0, t), wg.FiniteVolume(**options), t_eval=[t])


def distance(a, b):
    return float(np.abs(a.final.masses - b.final.masses).sum())


@pytest.fixture(scope="module")
def spot():
    return wg.Density.gaussian(plane(64), [HALF, HALF], 0.04)


@pytest.fixture(scope="module")
def energy():
    return wg.Entropy(BETA) + wg.Potential(valley)


def test_they_solve_the_equations_of_the_split_steps(energy, spot):
    """The limit of short steps is the same, since the semi-discrete equations are."""
    split, together = run(energy, spot, 0.1, rtol=1e-8), run(energy, spot, 0.1, rtol=1e-8, **TOGETHER)
    assert distance(split, together) < 1e-5
    assert "all axes at once" in together.certificate.scheme
    assert "all axes at once" in together.certificate.explain()
    assert together.certificate.settings["splitting"] == "none"


def test_long_steps_get_on_along_a_valley(energy):
    """A Gaussian law stays one; split steps of this length stay behind."""
    t, mean, width = 1.5, math.exp(-1.5), 0.04
    rho = wg.Density.gaussian(plane(96), [HALF, HALF], width)
    x, y = np.meshgrid(*rho.grid.centers, indexing="ij")
    along = (x + y) * HALF
    found = {}
    for splitting in ("strang", "none"):
        masses = run(energy, rho, t, dt=0.25, splitting=splitting).final.masses
        found[splitting] = float((masses * along).sum())
    assert abs(found["none"] - mean) < 0.01 * mean
    assert abs(found["strang"] - mean) > 0.1 * mean
    sol = run(energy, rho, t, **TOGETHER)
    first = float((sol.final.masses * along).sum())
    second = float((sol.final.masses * along**2).sum()) - first**2
    assert first == pytest.approx(mean, rel=0.01)
    assert second == pytest.approx(width * math.exp(-2 * t) + (1 - math.exp(-2 * t)) / BETA, rel=0.01)
    assert sol.certificate.n_accepted < 40


def test_the_order_in_time(spot):
    """At least 2 (it is 5), in a valley that the steps resolve."""
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: x * x + y * y + x * y)
    rho = wg.Density.gaussian(plane(32), [0.5, 0.0], 0.2)
    fine = run(energy, rho, 0.8, dt=0.0125, **TOGETHER)
    errors = [distance(run(energy, rho, 0.8, dt=dt, **TOGETHER), fine) for dt in (0.4, 0.2, 0.1)]
    assert math.log2(errors[0] / errors[1]) > 3
    assert math.log2(errors[1] / errors[2]) > 3.5


def test_the_order_in_space():
    """At least 2 (it is 4), against the exact Gaussian of an oblique valley."""
    curve = np.array([[2.5, -1.5], [-1.5, 2.5]])
    energy = wg.Entropy(1.0) + wg.Potential(lambda x, y: 1.25 * (x * x + y * y) - 1.5 * x * y)
    t, start = 0.3, 0.3
    values, vectors = np.linalg.eigh(curve)
    spread = vectors @ np.diag(start * np.exp(-2 * values * t) + (1 - np.exp(-2 * values * t)) / values) @ vectors.T
    errors = []
    for cells in (20, 40):
        grid = plane(cells, 5.0)
        sol = run(energy, wg.Density.gaussian(grid, [0.0, 0.0], start), t, rtol=1e-7, **TOGETHER)
        x, y = np.meshgrid(*grid.centers, indexing="ij")
        found = float((sol.final.masses * x * y).sum())
        errors.append(abs(found - spread[0, 1]))
    assert math.log2(errors[0] / errors[1]) > 2


@settings(max_examples=25, deadline=None)
@given(dt=st.floats(-3, 3).map(lambda k: 10.0**k), seed=st.integers(0, 10**6), beta=st.floats(0.2, 1.5),
       boundary=st.sampled_from(["no-flux", "periodic"]))
def test_what_a_step_keeps(dt, seed, beta, boundary):
    """Mass, sign and falling energy, from a rough law and at any length of the step."""
    random = np.random.default_rng(seed)
    a, b, c = random.uniform(-1, 1, 3)
    grid = plane((12, 10), math.pi, boundary)
    energy = wg.Entropy(beta) + wg.Potential(lambda x, y: np.cos(x - y) + a * np.cos(x) + b * np.sin(y) + c * np.cos(x))
    values = random.random(grid.shape) ** 2
    rho = wg.Density(grid, values / (values * grid.volumes).sum())
    sol = wg.solve(energy, rho, (0.0, 3 * dt), wg.FiniteVolume(dt=dt, **TOGETHER))
    certificate = sol.certificate
    assert certificate.mass_drift <= 1e-13
    assert certificate.min_density >= 0
    assert certificate.max_energy_increase <= 1e-12


def test_the_candidates_of_a_step_keep_the_gibbs_state():
    nodes = node_grid(plane(40))
    x, y = np.meshgrid(*nodes.centers, indexing="ij")
    psi = valley(x, y)
    gibbs = np.exp(-BETA * psi) * nodes.volumes
    gibbs /= gibbs.sum()
    for dt in (1e-3, 1.0, 1e3):
        sweeps = UnsplitSweeps(nodes, 1 / BETA, True, 1)
        best, _, _ = sweeps.plane(gibbs, psi, dt)
        assert np.abs(best - gibbs).sum() < 1e-12
        assert np.abs(sweeps.safe(gibbs, psi, dt) - gibbs).sum() < 1e-12


def test_a_run_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path, energy, spot):
    whole = wg.solve(energy, spot, (0.0, 0.5), wg.FiniteVolume(**TOGETHER))
    path = tmp_path / "run.npz"
    part = wg.solve(energy, spot, (0.0, 0.5), wg.FiniteVolume(max_steps=3, **TOGETHER), checkpoint=path, throw=False)
    assert not part.success
    resumed = wg.resume(path, energy=energy, method=wg.FiniteVolume(**TOGETHER))
    assert np.array_equal(resumed.final.values, whole.final.values)


REFUSED = [
    ("1 axes", wg.Entropy(2.0) + wg.Potential(lambda x: x**2),
     wg.Density.gaussian(wg.Grid((-4, 4), cells=80), 0.5, 0.2)),
    ("an interaction", wg.Entropy(2.0) + wg.Interaction(wg.Convolution(lambda x, y: x * x + y * y)),
     wg.Density.gaussian(plane(24), [0.2, 0.1], 0.3)),
    ("no linear diffusion", 1 * wg.Potential(valley), wg.Density.gaussian(plane(24), [0.2, 0.1], 0.3)),
]


@pytest.mark.parametrize(("reason", "what", "rho"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_they_do_not_serve_is_refused(reason, what, rho):
    with pytest.raises(wg.InvalidInput, match=f"splitting='none' does not serve .*{reason}"):
        run(what, rho, 0.1, **TOGETHER)
    with pytest.raises(wg.InvalidInput, match="splitting='lie'"):
        wg.FiniteVolume(splitting="lie")


def test_a_time_limit_ends_them(energy, spot):
    with pytest.raises(wg.ConvergenceError, match="time_limit"):
        run(energy, spot, 5.0, time_limit=1e-3, **TOGETHER)
