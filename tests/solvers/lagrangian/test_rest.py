"""Atoms at rest: the rest of a run is one step, by the linear flow about them, and nowhere else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import wgflow as wg
from wgflow.flows import make_flow
from wgflow.solvers.lagrangian.at_rest import last_step
from wgflow.solvers.lagrangian.cloud import Cloud

LINE = wg.Atoms(np.linspace(-1.0, 2.0, 7)[None], np.linspace(1, 2, 7) / 10.5)
BOWL = wg.Potential(lambda x: x**2 / 2)
ATTRACTION = wg.Interaction(wg.Convolution(lambda z: z**2 / 2))


def ended(energy, atoms, t1, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sol = wg.solve(energy, atoms, (0, t1), method=wg.Lagrangian(max_steps=1500), throw=False, **options)
        assert sol.certificate.verdict in ("holds", "not judged") or sol.status == 1
    return sol


@pytest.mark.parametrize("t1", [1e4, 1e12, 1e300])
@pytest.mark.parametrize("energy", [BOWL, BOWL + ATTRACTION], ids=["alone", "coupled"])
def test_a_bowl_is_left_at_its_bottom(energy, t1):
    sol = ended(energy, LINE, t1)
    assert sol.status == 0
    assert "rest" in sol.certificate.scheme
    assert len(sol.history) < 100
    np.testing.assert_allclose(sol.final.points, 0.0, atol=1e-14)
    assert sol.certificate.dissipation_defect < 1e-6


def test_output_times_and_bounds_and_a_clock():
    sol = ended(BOWL, LINE, 1e300, t_eval=[1.0, 1e5, 1e10, 1e300])
    assert sol.status == 0
    assert sol.t.tolist() == [1.0, 1e5, 1e10, 1e300]
    np.testing.assert_allclose(sol.density(1.0).points, np.exp(-1.0) * LINE.points, atol=1e-8)
    plane = wg.Atoms(np.array([[0.5, 1.0, 2.0], [2.0, 0.5, 1.5]]), np.ones(3) / 3, bounds=[(0.0, 3.0), (0.0, 3.0)])
    sol = ended(wg.Potential(lambda x, y: x**2 / 2 + x + (y - 1) ** 2), plane, 1e300)
    np.testing.assert_allclose(sol.final.points, [[0.0] * 3, [1.0] * 3], atol=1e-12)
    sol = ended(BOWL, LINE, 1e6, time_scale=lambda t: 1.0 / (1.0 + 1e-3 * t))
    assert sol.status == 0
    assert len(sol.history) < 100


def test_a_time_soon_after_the_start_is_not_the_start():
    for t1 in (1e15, 1e300):
        sol = ended(BOWL, LINE, t1, t_eval=[1e-6, t1])
        assert sol.t.tolist() == [1e-6, t1]
        np.testing.assert_allclose(sol.density(1e-6).points, np.exp(-1e-6) * LINE.points, atol=1e-12)
    # Rounding of the ends themselves is mended as before.
    sol = ended(BOWL, LINE, 1.0, t_eval=[-1e-16, 1.0 + 2e-16])
    assert sol.t.tolist() == [0.0, 1.0]


def test_atoms_near_a_saddle_go_on():
    saddle = wg.Potential(lambda x: x**4 / 4 - x**2 / 2)
    atoms = wg.Atoms(np.array([[-1.0, 1.0, 1e-14, -2.0]]), np.ones(4) / 4)
    np.testing.assert_allclose(ended(saddle, atoms, 1e12).final.points, [[-1.0, 1.0, 1.0, -1.0]], atol=1e-12)


def test_a_slow_direction_is_not_at_rest():
    # Its rate is 1e-7: at the end of this run it is still on its way.
    slow = wg.Potential(lambda x, y: x**2 / 2 + 1e-7 * y**2 / 2)
    atoms = wg.Atoms(np.array([[1.0, -0.5], [1.0, -2.0]]), np.ones(2) / 2)
    sol = ended(slow, atoms, 1e5)
    assert sol.status == 1
    assert "rest" not in sol.certificate.scheme
    t = sol.t[-1]
    np.testing.assert_allclose(sol.final.points[1], np.exp(-1e-7 * t) * atoms.points[1], rtol=1e-8)


@pytest.mark.parametrize("energy", [BOWL, BOWL + ATTRACTION], ids=["alone", "coupled"])
@pytest.mark.parametrize("length", [1e-3, 0.7, 1e3, 1e300])
def test_the_step_is_that_of_the_linear_flow(energy, length):
    flow = make_flow(energy, LINE, (0, 1), None, 1.0, wg.Lagrangian(), None)
    start = 1e-6 * LINE.points
    found = last_step(flow, Cloud(flow), start, length, 0.0, np.ones(1), 1e-4)
    mean = float((start * LINE.weights).sum())
    # The mean falls at rate 1, what is beside it at rate 1 or, with the attraction, 2.
    rate = 1.0 if energy is BOWL else 2.0
    exact = mean * np.exp(-length) + (start - mean) * np.exp(-rate * length)
    np.testing.assert_allclose(found.points, exact, rtol=0, atol=1e-6 * 1e-8)
    variance = float((LINE.weights * (start - mean) ** 2).sum())
    lost = 0.5 * mean**2 * -np.expm1(-2 * length) + 0.5 * rate * variance * -np.expm1(-2 * rate * length)
    np.testing.assert_allclose(found.dissipated, lost, rtol=1e-6)
    assert last_step(flow, Cloud(flow), start, length, 0.0, np.ones(1), 1e-11) is None
