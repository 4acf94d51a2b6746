"""The compiled log-domain convolution against its plain twin, and the parts of an entropic step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import logsumexp

import wgflow as wg
from wgflow.compiled.log_convolution import LogConvolution
from wgflow.internal_energies import PowerEntropy
from wgflow.solvers.jko.entropic.energy import SeparableEnergy
from wgflow.solvers.jko.entropic.fields import Mixer, blur_scale, marginal_distance
from wgflow.solvers.jko.entropic.scaling import self_potential


# -------------------------------------------------------------------- the kernels and their twin
def twin(f, widths, periodic, epsilon):
    """log sum_y K(x, y) exp f(y) by whole matrices, and the matrices."""
    logs = f
    for axis, (n, h) in enumerate(zip(f.shape, widths)):
        d = (np.arange(n)[:, None] - np.arange(n)) * h
        k = -d * d / (2 * epsilon)
        if periodic[axis]:
            k = logsumexp([-((d + image * n * h) ** 2) / (2 * epsilon) for image in (-1, 0, 1)], axis=0)
        moved = np.moveaxis(logs, axis, -1)
        logs = np.moveaxis(logsumexp(k + moved[..., None, :], axis=-1), -1, axis)
    return logs


FIELDS = {
    "noise": lambda rng, shape, ratio: 300.0 * rng.normal(size=shape),
    "gaps": lambda rng, shape, ratio: np.where(rng.random(shape) < 0.6, -np.inf, rng.normal(size=shape)),
    "one cell": lambda rng, shape, ratio: np.where(np.arange(math.prod(shape)).reshape(shape) == 5, 0.3, -np.inf),
    "far transport": lambda rng, shape, ratio: ratio * sum(
        np.meshgrid(*[0.4 * (np.arange(n) - n / 3) ** 2 for n in shape], indexing="ij")),
}


@pytest.mark.parametrize("shape", [(37,), (64,), (20, 33), (7, 8, 9)])
@pytest.mark.parametrize("ratio", [0.01, 0.7, 3.0, 20.0, 2000.0])
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("field", FIELDS)
def test_log_sums_and_averages(shape, ratio, images, field):
    rng = np.random.default_rng(17)
    widths, epsilon = [0.1] * len(shape), 0.01 / ratio
    periodic = [images] * len(shape)
    f = FIELDS[field](rng, shape, ratio)
    result = LogConvolution(shape, widths, periodic, epsilon)(f)
    expected = twin(f, widths, periodic, epsilon)
    assert np.abs(result.values - expected).max() <= 1e-13 * max(1.0, np.abs(expected).max())
    # The average of exp(g) is the ratio of two sums; g of the size of 1 keeps the quotient accurate.
    g = rng.normal(size=shape)
    quotient = np.exp(twin(f + g, widths, periodic, epsilon) - expected)
    # Exponents of hundreds of thousands have no more digits than this.
    rounding = 1e-13 * max(1.0, np.abs(expected).max())
    assert np.abs(result.average(np.exp(g)) / quotient - 1).max() <= max(1e-11, 20 * rounding)
    assert np.abs(result.average(np.ones(shape)) - 1).max() <= max(1e-12, rounding)


def test_log_sums_of_nothing():
    result = LogConvolution((5, 6), [0.1, 0.1], [False, False], 0.01)(np.full((5, 6), -np.inf))
    assert (result.values == -np.inf).all()
    assert (result.average(np.ones((5, 6))) == 0).all()


def test_threads_change_no_bit():
    rng = np.random.default_rng(5)
    f, z = rng.normal(size=(130, 130)), rng.normal(size=(130, 130))
    convolution = LogConvolution(f.shape, [0.1, 0.1], [False, True], 0.02)
    assert convolution._threads is not None
    shared = convolution(f)
    averaged = shared.average(z)
    convolution._threads = None
    alone = convolution(f)
    assert (shared.values == alone.values).all()
    assert (averaged == alone.average(z)).all()


# -------------------------------------------------------------------- the parts of a step
@pytest.mark.parametrize("energy", [wg.Entropy(2.0), PowerEntropy(2.0), PowerEntropy(0.6), PowerEntropy(7.0),
                                    wg.Entropy(2.0) + PowerEntropy(3.0) + 0.2 * PowerEntropy(0.5)], ids=repr)
@pytest.mark.parametrize("kappa", [0.1, 30.0, 1e5])
def test_proximal_map_solves_its_equation(energy, kappa):
    grid = wg.Grid([(-1, 1)], cells=400, log_weight=np.linspace(-1, 1, 400))
    energy = SeparableEnergy((1.0 * energy).assemble(grid), grid)
    target = np.concatenate((np.linspace(-3e4, 3e4, 350), np.linspace(-5, 5, 50)))
    for guess in (np.zeros(400), target):
        logs = energy.proximal(target, kappa, guess)
        defect = logs + kappa * energy.derivative(logs) - target
        assert np.isfinite(logs).all()
        # In units of the rounding of log b.
        assert np.abs(defect / (1 + kappa * energy.stiffness(logs))).max() <= 1e-12 * max(1.0, np.abs(logs).max())


def test_energy_in_logarithms_is_the_energy():
    grid = wg.Grid([(0, 3)], cells=50)
    rho = wg.Density.gaussian(grid, 1.0, 0.3)
    energy = wg.Entropy(3.0) + 0.7 * PowerEntropy(2.5) + 0.2 * PowerEntropy(0.7)
    parts = SeparableEnergy(energy.assemble(grid), grid)
    logs = np.log(rho.masses)
    assert parts.derivative(logs) == pytest.approx(energy.first_variation(rho), rel=1e-12)
    bump = 1e-4 * np.sin(np.arange(50.0))
    other = np.log(rho.masses * (1 + bump))
    assert (parts.derivative(other) - parts.derivative(logs)) == pytest.approx(
        parts.stiffness(logs) * bump, rel=1e-3, abs=1e-12)
    # Fenchel: H(b) + H*(H'(b)) = b H'(b), with H = entropy - D mass.
    value = energy(rho) - rho.mass / 3.0
    assert value + parts.conjugate(logs) == pytest.approx(float((rho.masses * parts.derivative(logs)).sum()), rel=1e-12)
    moved = wg.Density.gaussian(grid, 1.2, 0.2)
    gap = energy(rho) - energy(moved) - float(((rho.masses - moved.masses) * energy.first_variation(moved)).sum())
    assert parts.bregman(logs, np.log(moved.masses)) == pytest.approx(gap, rel=1e-9)


def test_a_law_with_itself():
    grid = wg.Grid([(-4, 4)], cells=100)
    masses = wg.Density.from_function(grid, lambda x: np.where(np.abs(x) < 1, 1 - x**2, 0)).masses
    convolution = LogConvolution(grid.shape, [0.08], [False], 0.01)
    with np.errstate(divide="ignore"):
        logs = np.log(masses)
    d, defect = self_potential(convolution, logs, 0.5 * logs, 1e-13)
    assert defect <= 1e-12
    assert np.exp(d + convolution(d).values) == pytest.approx(masses, abs=1e-13)
    assert (d[masses == 0] == -np.inf).all()


def test_blur_scale_is_the_mass_of_the_kernel():
    convolution = LogConvolution((200, 220), [0.1, 0.2], [False, False], 0.05)
    point = np.full((200, 220), -np.inf)
    point[100, 110] = 0.0
    assert logsumexp(convolution(point).values) == pytest.approx(blur_scale(convolution), abs=1e-12)


def test_distance_of_marginals():
    grid = wg.Grid([(0, 6), (0, 1)], cells=(60, 3))
    first = np.zeros((60, 3))
    second = first.copy()
    first[:10], second[20:50] = 1 / 30, 1 / 90
    # W2(U[0, 1], U[2, 5]) = sqrt(28/3).
    assert marginal_distance(grid, first, second) == pytest.approx(math.sqrt(28 / 3), rel=1e-12)
    assert marginal_distance(grid, first, first) == 0.0


def test_mixing_solves_a_linear_iteration():
    rng = np.random.default_rng(9)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    matrix, b = turn @ np.diag([-3.0, -1.5, 0.9, 0.5, 0.2, 0.1]) @ turn.T, rng.normal(size=6)
    x, mixer = np.zeros(6), Mixer()
    for _ in range(25):
        x = mixer.mix(x, matrix @ x + b)
    assert x == pytest.approx(np.linalg.solve(np.eye(6) - matrix, b), rel=1e-6)
