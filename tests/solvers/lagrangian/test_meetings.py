"""Atoms that meet under a force that jumps there move as one."""

import math

import numpy as np
import pytest

import wgflow as wg

KERNELS = [wg.Interaction(lambda z: np.abs(z)), wg.Convolution(wg.interactions.power(1)),
           wg.Interaction(lambda x, y: np.abs(x - y))]


def by_events(x, weights, t):
    """Attraction by |z| on the line: constant velocities between meetings, then the mean of those that met."""
    order = np.argsort(x)
    x, weights = x[order].copy(), weights[order].copy()
    members = [[k] for k in order]
    while True:
        ahead = weights.sum() - np.cumsum(weights)
        v = ahead - (np.cumsum(weights) - weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(v[:-1] > v[1:], np.diff(x) / (v[:-1] - v[1:]), np.inf)
        k = int(np.argmin(wait)) if len(wait) else 0
        if not len(wait) or wait[k] >= t:
            out = np.empty(sum(map(len, members)))
            for place, group in zip(x + v * t, members):
                out[group] = place
            return out
        t -= wait[k]
        x = x + v * wait[k]
        x[k] = (weights[k] * x[k] + weights[k + 1] * x[k + 1]) / (weights[k] + weights[k + 1])
        weights[k] += weights[k + 1]
        members[k] += members.pop(k + 1)
        x, weights = np.delete(x, k + 1), np.delete(weights, k + 1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("t", [0.3, 0.8, 3.0])
def test_meetings_one_by_one(kernel, t, rng):
    x, weights = rng.uniform(-1, 1, 12), rng.uniform(0.5, 2, 12)
    weights /= weights.sum()
    sol = wg.solve(1.0 * kernel, wg.Atoms(x[None], weights), (0, t), wg.Lagrangian())
    np.testing.assert_allclose(sol.final.points[0], by_events(x, weights, t), atol=1e-6)
    assert sol.certificate.ok
    assert sol.certificate.n_accepted < 400


def test_a_collapse_of_all_at_once():
    """Evenly spaced atoms come to one point at t = n / (n - 1)."""
    n = 300
    x = np.linspace(-1, 1, n)
    rho0 = wg.Atoms(x[None], np.full(n, 1 / n))
    sol = wg.solve(1.0 * KERNELS[0], rho0, (0, 3), wg.Lagrangian(), t_eval=[0.9, 1.1, 3])
    np.testing.assert_allclose(sol.densities[0].points[0], x * (1 - 0.9 * (n - 1) / n), atol=1e-9)
    for rho in sol.densities[1:]:
        np.testing.assert_allclose(rho.points[0], 0.0, atol=1e-6)
        assert np.ptp(rho.points) == 0.0
    assert sol.certificate.n_accepted < 100


@pytest.mark.parametrize("kernel", [wg.Convolution(wg.interactions.power(1)),
                                    wg.Interaction(lambda x, y: np.sqrt(x * x + y * y))])
def test_a_triangle_falls_into_its_center(kernel):
    """Two unit forces of weight 1/3 at 60 degrees: the speed is 1 / sqrt(3)."""
    angle = 0.4 + 2 * np.pi / 3 * np.arange(3)
    points = np.array([2 + np.cos(angle), np.sin(angle) - 1])
    rho0 = wg.Atoms(points, np.full(3, 1 / 3))
    sol = wg.solve(1.0 * kernel, rho0, (0, 2.5), wg.Lagrangian(), t_eval=[1, 2.5])
    radius = np.hypot(sol.densities[0].points[0] - 2, sol.densities[0].points[1] + 1)
    np.testing.assert_allclose(radius, 1 - 1 / math.sqrt(3), atol=1e-8)
    np.testing.assert_allclose(sol.final.points, np.array([[2.0] * 3, [-1.0] * 3]), atol=1e-6)
    assert sol.certificate.n_accepted < 300


def test_two_bodies_in_the_plane_meet_and_go_on_as_one():
    """The pair meets at t = 1 and follows the well that both lie in: the center obeys y' = -y."""
    rho0 = wg.Atoms([[-0.25, 0.25], [1.0, 1.0]], [0.5, 0.5])
    energy = wg.Potential(lambda x, y: 0.5 * y * y) + wg.Convolution(wg.interactions.power(1))
    sol = wg.solve(energy, rho0, (0, 2), wg.Lagrangian())
    np.testing.assert_allclose(sol.final.points, [[0.0] * 2, [math.exp(-2)] * 2], atol=1e-6)
    assert sol.certificate.ok


def test_atoms_that_repel_do_not_meet():
    x = np.array([-0.1, 0.0, 0.2])
    sol = wg.solve(-1.0 * KERNELS[0], wg.Atoms(x[None], [1 / 3] * 3), (0, 1), wg.Lagrangian())
    np.testing.assert_allclose(sol.final.points[0], x + np.array([-2, 0, 2]) / 3, atol=1e-8)
