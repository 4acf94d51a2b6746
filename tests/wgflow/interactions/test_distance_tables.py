"""Users' kernels as tables of the distance: right to rounding, with kinks, and refused where they are not resolved."""

import math

import numpy as np
import pytest

import wgflow as wg
from wgflow.compiled.pair_tables import distance_sums, own_distance_sums
from wgflow.interactions.distance_tables import Tables, distance_table, table_sums


def cloud(n, ndim, seed=3, **how):
    points = np.random.default_rng(seed).uniform(-1, 1, (ndim, n))
    return wg.Atoms(points, np.full(n, 1 / n), **how)


@pytest.mark.parametrize("periods", [(0.0,), (1.5,), (0.0, 0.0), (0.0, 2.0, 0.0)])
def test_the_sums_are_those_of_numpy(periods, rng):
    ndim, n, m, step = len(periods), 7, 11, 0.1
    x, y, masses = rng.uniform(-1, 1, (ndim, n)), rng.uniform(-1, 1, (ndim, m)), rng.random(m)
    y[:, 0] = x[:, 0]
    cubics = rng.standard_normal((60, 4))
    period = np.array(periods)
    gap = x[:, :, None] - y[:, None, :]
    turns = period[:, None, None] > 0
    gap -= np.where(turns, period[:, None, None] * np.round(gap / np.where(turns, period[:, None, None], 1.0)), 0.0)
    r = np.sqrt((gap**2).sum(axis=0))
    cell = (r / step).astype(int)
    s = r / step - cell
    a, b, c, d = np.moveaxis(cubics[cell], -1, 0)
    slope = (b + 2 * c * s + 3 * d * s**2) / step
    potential, gradient = np.empty(n), np.empty((ndim, n))
    distance_sums(x, y, masses, period, step, cubics, potential, gradient)
    np.testing.assert_allclose(potential, (a + b * s + c * s**2 + d * s**3) @ masses, rtol=1e-11, atol=1e-11)
    unit = np.divide(gap, r, out=np.zeros_like(gap), where=r > 0)
    np.testing.assert_allclose(gradient, (slope * unit) @ masses, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("w", "slope", "ndim"), [
    (lambda z: -np.exp(-2 * z * z), lambda r: 4 * r * np.exp(-2 * r * r), 1),
    (lambda x, y: np.log(0.1 + x * x + y * y), lambda r: 2 * r / (0.1 + r * r), 2),
    (lambda x, y, z: np.sqrt(x * x + y * y + z * z), lambda r: 1 + 0 * r, 3),
    (np.abs, lambda r: 1 + 0 * r, 1),
    (lambda z: np.abs(z) ** 3 / 3, lambda r: r * r, 1),
])
def test_a_table_has_the_gradient_of_the_kernel(w, slope, ndim):
    rho = cloud(40, ndim)
    table = distance_table(w, 4.0, ndim, False)
    gap = rho.points[:, :, None] - rho.points[:, None, :]
    r = np.sqrt((gap**2).sum(axis=0))
    unit = np.divide(gap, r, out=np.zeros_like(gap), where=r > 0)
    potential, gradient = table_sums(table, rho, rho.points)
    np.testing.assert_allclose(potential, w(*gap) @ rho.weights, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(gradient, (slope(r) * unit) @ rho.weights, atol=3e-9)


def test_a_kink_is_smeared_over_one_cell():
    r = np.linspace(0, 1, 3001)
    law = wg.Atoms([[0.0]], [1.0])
    table = distance_table(lambda z: np.minimum(z * z, 0.09) / 2, 2.0, 1, False)
    potential, gradient = table_sums(table, law, r[None])
    near = np.abs(r - 0.3) < table.step
    np.testing.assert_allclose(potential, np.minimum(r * r, 0.09) / 2, atol=0.3 * table.step)
    np.testing.assert_allclose(gradient[0][~near], np.where(r < 0.3, r, 0.0)[~near], atol=1e-9)


@pytest.mark.parametrize("w", [
    *(lambda z, s=s: np.exp(-(z / s) ** 2) for s in (3e-5, 1e-4, 3e-4, 1e-3)),  # narrow: a cell has width 1.2e-4
    lambda z: np.where(np.abs(z) < 0.3, 1.0, 0.0),  # jumps
    lambda z: np.cos(3e5 * z),
    lambda z: np.where(np.abs(z) < 0.3, 1.0, 0.0) + z,  # not even
    lambda z: 1 / np.abs(z),  # infinite at 0
])
def test_what_a_table_cannot_hold_has_none(w):
    with np.errstate(divide="ignore"):
        assert distance_table(w, 2.0, 1, False) is None


def test_a_kernel_of_the_direction_has_no_table():
    assert distance_table(lambda x, y: x * x + 2 * y * y, 2.0, 2, False) is None
    rho = cloud(9, 2)
    energy = wg.Convolution(lambda x, y: x * x + 2 * y * y)
    mean = rho.points @ rho.weights
    np.testing.assert_allclose(energy.gradient(rho, rho.points), [[2], [4]] * (rho.points - mean[:, None]), atol=1e-9)


def test_two_points_that_move_together_have_a_table():
    rho = cloud(30, 1)
    known = wg.Convolution(wg.interactions.power(1))
    for U in (lambda x, y: np.abs(x - y), lambda x, y: 1.0 * np.sqrt((x - y) ** 2)):
        assert Tables(U, pairs=True).sums(rho, rho.points) is not None
        np.testing.assert_allclose(wg.Interaction(U).gradient(rho, rho.points), known.gradient(rho, rho.points),
                                   atol=1e-11)
    assert Tables(lambda x, y: x * y, pairs=True).sums(rho, rho.points) is None


def test_on_a_circle_the_shorter_way_counts():
    rho = cloud(25, 1, bounds=((-1, 1),), periodic=(True,))
    table = Tables(lambda z: np.abs(z) - z * z / 2)  # its slope vanishes at half the period
    gap = rho.points[0][:, None] - rho.points[0]
    gap -= 2 * np.round(gap / 2)
    np.testing.assert_allclose(table.sums(rho, rho.points)[1][0], (np.sign(gap) - gap) @ rho.weights, atol=1e-9)


def test_forces_belong_to_the_energy():
    """The sum of the squared forces is the rate at which F falls, for a kernel with kinks too."""
    rho = cloud(50, 1)
    energy = 1.0 * wg.Interaction(lambda z: np.minimum(z * z, 0.09) / 2)
    force = energy.gradient(rho, rho.points)
    rate = float((rho.weights * force[0] ** 2).sum())
    dt = 1e-7
    moved = [energy(rho.moved(rho.points - sign * dt * force)) for sign in (1, -1)]
    assert (moved[1] - moved[0]) / (2 * dt) == pytest.approx(rate, rel=1e-6)
    assert math.isclose(energy(rho), 0.5 * float(rho.weights @ energy.first_variation(rho)), rel_tol=1e-12)


@pytest.mark.parametrize("periods", [[0.0], [1.5], [0.0, 1.1], [0.0, 0.0, 2.0]])
def test_each_pair_once_gives_the_same_sums_and_no_total_force(periods):
    rng = np.random.default_rng(8231)
    x, masses, cubics = rng.uniform(-1, 1, (len(periods), 12)), rng.random(12), rng.standard_normal((60, 4))
    x[:, 3] = x[:, 8]
    both = [(np.empty(12), np.empty(x.shape)) for _ in range(2)]
    distance_sums(x, x, masses, np.array(periods), 0.1, cubics, *both[0])
    own_distance_sums(x, masses, np.array(periods), 0.1, cubics, *both[1])
    for one, other in zip(*both):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(both[1][1] @ masses, 0.0, atol=1e-12)
