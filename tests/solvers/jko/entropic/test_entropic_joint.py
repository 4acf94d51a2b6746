"""Newton's method for an entropic step as a whole: its derivative, few iterations, the same steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.solvers import Entropic
from wgflow.solvers.jko.entropic import solver as module
from wgflow.solvers.jko.entropic.joint import JointNewton
from wgflow.solvers.jko.entropic.scaling import ScalingProblem
from wgflow.solvers.jko.entropic.solver import EntropicSolver

WELL = wg.Potential(lambda x: x**2 / 2)
PULL = wg.Interaction(lambda z: 0.4 * np.cos(z))


def steps(energy, rho, tau, count=2, **options):
    return wg.solve(energy, rho, (0, count * tau), wg.JKO(tau=tau, inner=Entropic(**options)))


@pytest.mark.parametrize("energy", [wg.PowerEntropy(2.0) + WELL, wg.PowerEntropy(3.0) + WELL + PULL,
                                    wg.Entropy(4.0) + wg.PowerEntropy(2.0) + PULL])
def test_the_derivative_is_that_of_the_residual(energy):
    grid, tau = wg.Grid((-3, 3), cells=60), 0.05
    rho = wg.Density.gaussian(grid, 0.3, 0.5)
    solver = EntropicSolver(energy.assemble(grid), grid, Entropic())
    convolution = solver._convolution(1.0)
    problem = ScalingProblem(convolution, solver.separable, np.log(rho.masses), tau, solver.check_time)
    joint = solver._joint(problem, convolution, tau)
    assert isinstance(joint, JointNewton)
    d = 0.5 * np.log(rho.masses)
    point, z = joint.look(d), np.random.default_rng(3).normal(size=60)

    def residual(log_d):
        at = joint.look(log_d)
        return at.coupling.coupled - at.logs

    step = 1e-5
    expected = -(residual(d + step * z) - residual(d - step * z)) / (2 * step)
    found = joint.derivative(point, np.exp(point.logs), problem.kappa * solver.separable.stiffness(point.logs), z)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6 * np.abs(expected).max())


PARABOLA = wg.Density.from_function(wg.Grid((-3, 3), cells=160), lambda x: np.maximum(1 - (x - 0.3) ** 2, 0))
BLOCKS = wg.Density.from_function(wg.Grid((-3, 3), cells=160), lambda x: (np.abs(np.abs(x) - 1.2) < 0.5) * 1.0)


@pytest.mark.parametrize("rho", [PARABOLA, BLOCKS], ids=["parabola", "blocks"])
@pytest.mark.parametrize(("m", "tau"), [(1.3, 0.05), (2.0, 0.005), (2.0, 0.1), (3.0, 0.3), (5.0, 0.02)])
def test_porous_media_take_few_iterations(rho, m, tau):
    # By turns of law and self-scaling, up to several hundred, and not always enough.
    energy = wg.PowerEntropy(m) + WELL
    sol = steps(energy, rho, tau)
    assert max(step.iterations for step in sol.jko_steps) <= 70
    before = energy(rho)
    for step in sol.jko_steps:
        assert step.residual <= 1e-8
        assert step.energy + step.w2_squared / (2 * tau) <= before + 1e-10
        before = step.energy
    assert sol.final.mass == pytest.approx(rho.mass, abs=1e-13)
    assert sol.final.masses.min() >= 0
    # Under a quadratic V the mean of an exact step is m / (1 + tau), whatever the internal energy.
    assert sol.final.mean() == pytest.approx(rho.mean() / (1 + tau) ** 2, abs=1e-3)


@pytest.mark.parametrize(("energy", "cells"), [
    (wg.PowerEntropy(2.0) + WELL, 100), (wg.PowerEntropy(2.0) + WELL + PULL, 60)], ids=["alone", "with U"])
def test_the_step_is_that_of_law_and_self_scaling_in_turn(energy, cells, monkeypatch):
    rho = wg.Density.gaussian(wg.Grid((-3, 3), cells=cells), 0.5, 0.09)
    found = steps(energy, rho, 0.05, estimate_bias=False)
    monkeypatch.setattr(module, "FAST", math.inf)
    others = steps(energy, rho, 0.05, estimate_bias=False)
    assert np.abs(found.final.masses - others.final.masses).sum() <= 1e-6
    assert max(s.iterations for s in found.jko_steps) < max(s.iterations for s in others.jko_steps)


def test_two_axes():
    grid = wg.Grid([(0, 1), (0, 1)], cells=32)
    rho = wg.Density.from_function(grid, lambda x, y: np.maximum(0.06 - (x - 0.5) ** 2 - (y - 0.5) ** 2, 0.0))
    sol = steps(1.0 * wg.PowerEntropy(2.0), rho, 0.005)
    assert max(step.iterations for step in sol.jko_steps) <= 70
    assert all(step.residual <= 1e-8 for step in sol.jko_steps)


def test_fast_diffusion_has_its_bias():
    # The first guess at the larger epsilon is lost; its distance from the step counted as the bias, .4 here.
    rho = wg.Density.gaussian(wg.Grid((-3, 3), cells=256), 0.5, 0.09)
    sol = steps(wg.PowerEntropy(0.7) + WELL, rho, 0.05)
    assert all(0 < step.bias < 1e-6 for step in sol.jko_steps)
    assert max(step.iterations for step in sol.jko_steps) <= 100
