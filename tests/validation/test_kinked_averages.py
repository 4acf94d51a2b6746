"""Averages of rectifiers over four preactivations: exact values, limits, random samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wgflow.activations import PiecewiseLinear
from wgflow.validation.kinked_averages import four_signs, kinked_squares
from wgflow.validation.order_parameters import _polynomial_squares


def correlations(vectors):
    gram = vectors @ np.swapaxes(vectors, -1, -2)
    sizes = np.sqrt(np.einsum("...kk->...k", gram))
    return gram / sizes[..., :, None] / sizes[..., None, :]


def test_four_equal_correlations_of_a_half():
    """P(all four positive) = 1/5, the chance that the first of five draws is the least."""
    r = 0.5 * (np.ones((4, 4)) + np.eye(4))
    assert four_signs(r[None]) == pytest.approx(0.2, abs=1e-14)


def test_independent_pairs_multiply():
    r = np.eye(4)
    r[0, 1] = r[1, 0] = 0.7
    r[2, 3] = r[3, 2] = -0.99
    expected = (2.0 / math.pi) ** 2 * math.asin(0.7) * math.asin(-0.99)
    assert four_signs(r[None]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", [3, 5, 7, 11])
def test_four_in_a_plane(seed):
    """The signs of cos(theta - theta_k) on a circle: their product changes at eight points, a singular covariance."""
    angles = np.random.default_rng(seed).uniform(0.0, 2.0 * math.pi, 4)
    ends = np.sort(np.concatenate([angles + 0.5 * math.pi, angles - 0.5 * math.pi]) % (2.0 * math.pi))
    lengths = np.diff(np.append(ends, ends[0] + 2.0 * math.pi))
    signs = np.sign(np.cos((ends + 0.5 * lengths)[:, None] - angles)).prod(axis=1)
    r = correlations(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert four_signs(r[None]) == pytest.approx(lengths @ signs / (2.0 * math.pi), abs=1e-7)


def test_signs_of_flipped_and_of_equal_variables():
    r = correlations(np.random.default_rng(3).standard_normal((4, 5)))
    flipped = r * np.outer([1.0, -1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0])
    assert four_signs(flipped[None]) == pytest.approx(-four_signs(r[None]), abs=1e-13)
    twice = r[np.ix_([0, 0, 1, 2], [0, 0, 1, 2])]
    assert four_signs(twice[None]) == pytest.approx(2.0 / math.pi * math.asin(r[1, 2]), abs=1e-7)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.3, 1.2), (-1.0, 1.0)])
def test_against_random_samples(count, slopes):
    """With samples in place of a Gauss rule, within four of their standard errors."""
    rng = np.random.default_rng(count)
    root = rng.standard_normal((count, count + 1))
    gamma, activation = rng.standard_normal(count), PiecewiseLinear([0.0], [0.4], *slopes)
    batches = []
    for _ in range(20):
        # Samples of the covariance that is asked for: _polynomial_squares takes them to its own axes.
        z = rng.standard_normal((count, 15_000))
        rule = (z, np.full(z.shape[1], 1.0 / z.shape[1]))
        batches.append(_polynomial_squares(activation, root @ root.T, gamma, 0.7, 0.2, count, rule))
    error = np.std(batches, axis=0, ddof=1) / math.sqrt(len(batches))
    found = kinked_squares(root @ root.T, gamma, 0.7 + 0.4 * gamma.sum(), 0.2, slopes)
    assert np.all(np.abs(found - np.mean(batches, axis=0)) < 4.0 * error)
    assert np.all(error < 0.05 * np.abs(found).max())


def test_one_rectifier_and_lines_in_closed_form():
    c, y, v = 1.7, 0.6, 0.3
    expected = 0.5 * (y**2 + v) - 2.0 * y * math.sqrt(c / (2.0 * math.pi)) + 0.5 * c
    assert kinked_squares(np.array([[c]]), np.array([-1.0]), y, v, (0.0, 1.0)) == pytest.approx(expected, rel=1e-14)
    root = np.random.default_rng(5).standard_normal((4, 4))
    gamma = np.array([0.2, -0.5, 1.0, 0.3])
    line = kinked_squares(root @ root.T, gamma, y, v, (1.0, 1.0))
    assert line == pytest.approx(y**2 + v + gamma @ root @ root.T @ gamma, rel=1e-13)


def test_equal_neurons_are_one_of_twice_the_weight():
    """Also in the limit: neurons that are almost the same."""
    root = np.random.default_rng(7).standard_normal((4, 4))
    gamma = np.array([0.2, -0.5, 1.0, 0.3])
    once = kinked_squares(root @ root.T, gamma, 0.7, 0.2, (0.0, 1.0))
    which, weights = [0, 0, 1, 2, 3], np.array([0.15, 0.05, -0.5, 1.0, 0.3])
    for off, tolerance in ((0.0, 1e-7), (1e-4, 1e-3), (1e-7, 1e-6)):
        moved = root[which]
        moved[1] += off * np.array([1.0, -1.0, 0.5, 0.3])
        twice = kinked_squares(moved @ moved.T, weights, 0.7, 0.2, (0.0, 1.0))
        assert twice == pytest.approx(once[np.ix_(which, which)], abs=tolerance)


def test_a_neuron_at_zero_and_zero_weights():
    """sign 0 = 0, which stands for the mean of the slopes."""
    root = np.random.default_rng(7).standard_normal((3, 3))
    root[1] = 0.0
    found = kinked_squares(root @ root.T, np.array([-0.3, 5.0, -0.3]), 0.7, 0.2, (0.0, 1.0))
    without = kinked_squares(np.delete(root, 1, 0) @ np.delete(root, 1, 0).T, np.full(2, -0.3), 0.7, 0.2, (0.0, 1.0))
    assert found[np.ix_([0, 2], [0, 2])] == pytest.approx(without, rel=1e-12)
    assert np.isfinite(found).all()
