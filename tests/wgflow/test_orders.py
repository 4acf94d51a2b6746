"""Observed orders: two in time and in space, by regression over five steps or grids.

Space: L1 distance to the exact density, the time error being made negligible. Time: L1 distance at a fixed grid to a
run with steps 16 times smaller than the smallest.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
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


def space_order(problem, cells, rtol):
    errors = [problem.errors(solve(problem, n, rtol=rtol))["density"] for n in cells]
    return slope(1.0 / np.array(cells), errors), errors


def time_order(problem, cells, steps):
    reference = solve(problem, cells, dt=problem.t_end / (16 * steps[-1]))
    errors = [distance(solve(problem, cells, dt=problem.t_end / n), reference) for n in steps]
    return slope(1.0 / np.array(steps), errors), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_AXIS)
def test_space_on_one_axis(name):
    order, errors = space_order(ONE_AXIS[name], (64, 90, 128, 180, 256), rtol=1e-9)
    assert order == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.parametrize("name", ONE_AXIS)
def test_time_on_one_axis(name):
    order, errors = time_order(ONE_AXIS[name], 128, (16, 32, 64, 128, 256))
    assert order == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_AXES)
def test_space_on_two_axes(name):
    order, errors = space_order(TWO_AXES[name], (40, 52, 68, 88, 116), rtol=1e-7)
    assert order == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_AXES)
def test_time_on_two_axes(name):
    order, errors = time_order(TWO_AXES[name], 48, (16, 32, 64, 128, 256))
    assert order == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSPORT)
def test_space_without_diffusion(name):
    order, errors = space_order(TRANSPORT[name], (200, 280, 400, 560, 800), rtol=1e-9)
    assert order >= 1.8, errors


@pytest.mark.parametrize("name", ["contraction", "expansion", "cosine"])
def test_time_without_diffusion(name):
    order, errors = time_order(TRANSPORT[name], 200, (16, 32, 64, 128, 256))
    assert order == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.slow
def test_space_without_diffusion_on_two_axes():
    order, errors = space_order(TRANSPORT_ROTATED, (80, 112, 160, 224, 320), rtol=1e-5)
    assert order >= 1.8, errors
