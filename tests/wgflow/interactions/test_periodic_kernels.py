"""Named kernels on circles, cylinders and tori: closed forms, Fourier series, equations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow import Atoms, Convolution, Density, Grid, Interaction
from wgflow.interactions import bessel, cosine, exponential, gaussian, log, newtonian, yukawa
from wgflow.interactions.periodic_kernels import PeriodicKernel


def test_kernels_on_the_circle(rng):
    period = 2.3
    x = rng.uniform(-7, 7, 50)
    near = x - period * np.round(x / period)
    images = x[:, None] + period * np.arange(-60, 61)
    for kernel, value, slope in (
            (log(), np.log(np.abs(2 * np.sin(np.pi * x / period))), np.pi / period / np.tan(np.pi * x / period)),
            (newtonian(1), near**2 / period - np.abs(near) + period / 6, 2 * near / period - np.sign(near)),
            (exponential(0.7), np.exp(-np.abs(images) / 0.7).sum(axis=1),
             -(np.sign(images) * np.exp(-np.abs(images) / 0.7)).sum(axis=1) / 0.7),
            (gaussian(1.5), np.exp(-(images**2) / 4.5).sum(axis=1),
             -(images * np.exp(-(images**2) / 4.5)).sum(axis=1) / 2.25),
            (cosine(2.0, period / 3), -2 * np.cos(6 * np.pi * x / period),
             12 * np.pi / period * np.sin(6 * np.pi * x / period))):
        periodic = PeriodicKernel(kernel, [period], [0.0])
        np.testing.assert_allclose(periodic(x), value, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(periodic.gradient(x)[0], slope, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("average", [True, "double"])
def test_the_logarithm_on_the_circle_multiplies_waves(average):
    # log |2 sin(x / 2)| = - sum_k cos(k x) / k; waves beyond the grid's fold onto it.
    n = 24
    grid = Grid((0, 2 * np.pi), cells=n, boundary="periodic")
    transform = np.fft.rfft(Convolution(log(), average=average).operator(grid).table).real / n
    k = np.arange(n // 2 + 1)[:, None] + n * np.arange(-40_000, 40_001)
    sinc = np.sinc(k / n)
    weight = np.where(k == 0, 0.0, -0.5 / np.maximum(np.abs(k), 1)) * (sinc**2 if average == "double" else 2 * sinc
                                                                      - sinc**2)
    # The waves left out of the sum fall as 1 / k^3, in the first of the two terms of 2 sinc - sinc^2 as 1 / k^2.
    np.testing.assert_allclose(transform, weight.sum(axis=1), rtol=0, atol=1e-8 if average is True else 2e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "periods"), [(log(), (1.0, 0.4)), (newtonian(2), (0.4, 1.0)), (newtonian(3), (
    1.0, 1.3, 0.8)), (bessel(2, 0.3), (1.0, 0.7)), (yukawa(3, 0.1), (0.5, 0.6, 0.7))], ids=str)
def test_kernels_on_tori_solve_their_equations(kernel, periods, rng):
    # The Laplacian by differences of tenth order or so at points away from 0, and the mean by exact averages.
    d = len(periods)
    periodic = PeriodicKernel(kernel, periods, [0.0] * d)
    x = np.array([rng.uniform(0.3, 0.7, 12) * p for p in periods])
    weights = {0: -49 / 18 * 1.0, 1: 1.5, 2: -0.15, 3: 1 / 90}
    h = 0.004
    laplacian = sum(w / h**2 * (periodic(*x) if k == 0 else periodic(*(x + k * h * e)) + periodic(*(x - k * h * e)))
                    for e in np.eye(d)[:, :, None] for k, w in weights.items())
    (factor, shape), = kernel.parts
    if hasattr(shape, "length"):
        expected = periodic(*x) / shape.length**2
        total = factor * (2 * math.pi if d == 2 else 4 * math.pi) * shape.length**2
    else:
        sphere = 2 * math.pi if d == 2 else 4 * math.pi
        expected = (-1 if "Log" in repr(kernel) else 1) * sphere / math.prod(periods) * np.ones(12)
        total = 0.0
    np.testing.assert_allclose(laplacian, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    cells = (6, 5, 4)[:d]
    grid = Grid([(0, p) for p in periods], cells=cells, boundary="periodic")
    for average in (True, "double"):
        table = Convolution(kernel, average=average).operator(grid).table
        assert table.sum() * grid.volumes.flat[0] == pytest.approx(total, rel=1e-11, abs=1e-12)


def test_the_constant_of_the_cubic_lattice():
    # Close to 0 the Green's function of the cubic torus is 1 / r - 2.837297479..., Wigner's constant.
    w = PeriodicKernel(newtonian(3), (1.0, 1.0, 1.0), (0, 0, 0))
    r = np.array([1e-3])
    assert w(r, 0 * r, 0 * r)[0] - 1e3 == pytest.approx(-2.837297479480620, abs=3e-6)


def test_a_cylinder():
    w = PeriodicKernel(newtonian(2), (2.0, 0.0), (0.0, 5.0))
    x, y = np.array([0.3, -0.8, 1.7, 0.0]), np.array([0.2, 4.9, -3.0, 1e-3])
    expected = -0.5 * np.log(2 * np.cosh(np.pi * y) - 2 * np.cos(np.pi * x))
    np.testing.assert_allclose(w(x, y), expected, rtol=1e-11)
    grid = Grid([(0, 2), (0, 5)], cells=(8, 10), boundary=("periodic", "no-flux"))
    rho = Density(grid, np.ones((8, 1)) * np.linspace(0, 1, 10))
    # Of what does not depend on x only the mean over x is left, - pi |y| / L, here averaged over both cells.
    y, h = grid.centers[1], 0.5
    gap = np.abs(y[:, None] - y)
    mean = np.where(gap > 0, gap, h / 3) * -math.pi / 2
    np.testing.assert_allclose(Convolution(newtonian(2), average="double").first_variation(rho)[0],
                               mean @ rho.masses.sum(axis=0), rtol=1e-11)


def test_atoms_on_a_circle_feel_the_periodic_kernel():
    atoms = Atoms(np.array([0.1, 0.95, 0.4]), np.ones(3) / 3, bounds=[(0, 1)], periodic=[True])
    gap = atoms.points[0][:, None] - atoms.points[0]
    np.fill_diagonal(gap, 0.5)
    slope = np.pi / np.tan(np.pi * gap)
    np.testing.assert_allclose(Interaction(log()).gradient(atoms, atoms.points)[0], slope.sum(axis=1) / 3, rtol=1e-11,
                               atol=1e-11)
