"""Observed orders by regression over five steps or grids: four in space and three or five in time, or two and two.

Space: L1 distance to the exact density, the time error being made negligible. Time: L1 distance at a fixed grid to a
run with steps 16 times smaller than the smallest.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.testing import assert_order
from wgflow.validation import exact

ANGLE = 0.6
TURN = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])
ROTATED = TURN @ np.diag([2.0, 0.5]) @ TURN.T

ONE_AXIS = {
    "ornstein-uhlenbeck": exact.OrnsteinUhlenbeck(),
    "sedimentation": exact.Sedimentation(),
    "double-well": exact.DoubleWellDecay(),
    "quadratic-attraction": exact.QuadraticAttraction(),
    "rank-one": exact.RankOne(),
    "desai-zwanzig": exact.DesaiZwanzig(),
    "kuramoto": exact.Kuramoto(),
}
#: Those without an interaction.
FIXED = ("ornstein-uhlenbeck", "sedimentation", "double-well")
#: Tolerances of a step where the grids leave errors as small as those of 1e-11.
TIGHT = {"sedimentation": 2.3e-14, "kuramoto": 2.3e-14}
TWO_AXES = {
    "ornstein-uhlenbeck-rotated": exact.OrnsteinUhlenbeck(
        stiffness=ROTATED, mean=[1.0, -0.5], variance=[[0.4, 0.1], [0.1, 0.3]], beta=2.0
    ),
    "rank-one-rotated": exact.RankOne(
        stiffness=ROTATED, direction=[0.8, -0.6], target=0.7, mean=[-0.5, 0.5], variance=0.4, beta=2.0
    ),
}
TRANSPORT = {
    "contraction": exact.OrnsteinUhlenbeck(beta=math.inf, mean=0.5, variance=0.5),
    "expansion": exact.OrnsteinUhlenbeck(stiffness=-0.5, beta=math.inf, mean=0.3, variance=0.2, t_end=0.8),
    "cosine": exact.CosineTransport(),
    "attraction": exact.QuadraticAttraction(beta=math.inf),
}
TRANSPORT_ROTATED = exact.OrnsteinUhlenbeck(
    stiffness=ROTATED, mean=[0.5, -0.3], variance=[[0.5, 0.1], [0.1, 0.4]], beta=math.inf, t_end=0.3
)


def solve(problem, cells, **settings):
    grid = problem.grid(cells)
    start = problem.initial_density(grid)
    return wg.solve(problem.energy(), start, (0.0, problem.t_end), method=wg.FiniteVolume(**settings)).density(
        problem.t_end
    )


def distance(one, other):
    return float(np.sum(np.abs(one.values - other.values) * one.grid.volumes))


def slope(sizes, errors):
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def space_errors(problem, cells, **settings):
    errors = [problem.errors(solve(problem, n, **settings))["density"] for n in cells]
    return 1.0 / np.array(cells), errors


def time_errors(problem, cells, steps, **settings):
    reference = solve(problem, cells, dt=problem.t_end / (16 * steps[-1]), **settings)
    errors = [distance(solve(problem, cells, dt=problem.t_end / n, **settings), reference) for n in steps]
    return 1.0 / np.array(steps), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_AXIS)
def test_order_four_in_space_on_one_axis(name):
    # The circle is resolved to round-off on finer grids; the double well is better than of order 4 on coarser ones.
    cells = (50, 71, 100, 141, 200) if name == "kuramoto" else (71, 100, 141, 200, 283)
    cells = (141, 200, 283, 400, 566) if name == "double-well" else cells
    assert_order(*space_errors(ONE_AXIS[name], cells, rtol=TIGHT.get(name, 1e-11)), 4.0, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_AXIS)
def test_order_two_in_space_on_one_axis(name):
    assert_order(*space_errors(ONE_AXIS[name], (64, 90, 128, 180, 256), rtol=1e-9, order=2), 2.0, 0.1)


@pytest.mark.parametrize("name", FIXED)
def test_order_five_in_time_on_one_axis(name):
    assert_order(*time_errors(ONE_AXIS[name], 128, (8, 11, 16, 23, 32)), 5.0, 0.2)


@pytest.mark.parametrize("name", [name for name in ONE_AXIS if name not in FIXED])
def test_order_three_in_time_on_one_axis(name):
    assert_order(*time_errors(ONE_AXIS[name], 128, (16, 32, 64, 128, 256)), 3.0, 0.1)


@pytest.mark.parametrize("name", ONE_AXIS)
def test_order_two_in_time_on_one_axis(name):
    assert_order(*time_errors(ONE_AXIS[name], 128, (16, 32, 64, 128, 256), order=2), 2.0, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_AXES)
@pytest.mark.parametrize("fluxes", [2, 4])
def test_space_on_two_axes(name, fluxes):
    assert_order(*space_errors(TWO_AXES[name], (40, 52, 68, 88, 116), rtol=1e-7, order=fluxes), fluxes, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_AXES)
@pytest.mark.parametrize(("fluxes", "expected"), [(2, 2.0), (4, 3.0)])
def test_time_on_two_axes(name, fluxes, expected):
    assert_order(*time_errors(TWO_AXES[name], 48, (16, 32, 64, 128, 256), order=fluxes), expected, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSPORT)
def test_space_without_diffusion(name):
    assert slope(*space_errors(TRANSPORT[name], (200, 280, 400, 560, 800), rtol=1e-9)) >= 1.8


@pytest.mark.parametrize("name", ["contraction", "expansion", "cosine"])
def test_time_without_diffusion(name):
    assert_order(*time_errors(TRANSPORT[name], 200, (16, 32, 64, 128, 256)), 2.0, 0.1)


@pytest.mark.slow
def test_space_without_diffusion_on_two_axes():
    assert slope(*space_errors(TRANSPORT_ROTATED, (80, 112, 160, 224, 320), rtol=1e-5)) >= 1.8
