"""Networks of many widths on scikit-learn's handwritten digits: random features and trained networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wgflow.activations import ReLU
from wgflow.checks import check_count, check_positive
from wgflow.errors import InvalidInput
from wgflow.reduced_models.static_theories import GaussianDesign, equivalent_coefficients

__all__ = ["Digits", "Errors", "covariance_prediction", "load_digits", "random_feature_errors", "trained_errors"]

#: Singular values below this part of the largest count as zero.
_ROUNDING = 1e-12
#: Iterations of the quasi-Newton method that trains a network.
_ITERATIONS = 3000
#: Its tolerance on the training loss.
_TOLERANCE = 1e-8

FloatArray = np.ndarray


class Digits(NamedTuple):
    """Images as points of a sphere, labels 1 (even digit) and -1 (odd), and the share of the label linear in x."""

    x: FloatArray
    y: FloatArray
    linear_share: float


class Errors(NamedTuple):
    r"""Mean squared errors over draws and widths, each of shape (draws, widths).

    ``test`` is :math:`E (\hat f - f)^2` over the images that were not drawn, against their clean labels; ``train`` the
    training error with the noise of the labels; ``wrong`` the share of the other images that is misclassified;
    ``predicted`` what generalized cross-validation makes of the training sample, less the noise (NaN where it says
    nothing).
    """

    widths: FloatArray
    test: FloatArray
    train: FloatArray
    wrong: FloatArray
    predicted: FloatArray


def load_digits() -> Digits:
    """Return the 1797 images of 8 x 8 pixels: centered, without the pixels that never change, scaled to |x| = sqrt(d).

    Raises
    ------
    InvalidInput
        If scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InvalidInput("the digits need scikit-learn, which is not installed; install it with "
                           "pip install 'wgflow[learning]'") from error
    found = datasets.load_digits()
    x = np.asarray(found.data, dtype=float)
    x = x[:, x.std(axis=0) > 0.0]
    x -= x.mean(axis=0)
    x *= math.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.where(found.target % 2 == 0, 1.0, -1.0)
    design = np.column_stack([np.ones(len(x)), x])
    rest = y - design @ np.linalg.lstsq(design, y)[0]
    return Digits(x, y, 1.0 - float(np.mean(rest**2)))


def random_feature_errors(digits: Digits, widths: Sequence[int], ridge: float, *, n_samples: int = 300,
                          noise: float = 0.25, n_draws: int = 8, seed: int = 0) -> Errors:
    r"""Fit ridge regression on N features :math:`\mathrm{ReLU}(\langle w_j, x \rangle)` less their normal mean.

    The penalty is :math:`(N \lambda/d)\,|a|^2` beside the mean square, as in ``RandomFeatures``; at 0 the fit of least
    norm. Generalized cross-validation divides the training error by :math:`(1 - \mathrm{df}/n)^2`, with
    :math:`\mathrm{df} = \mathrm{tr}\,Z^T Z (Z^T Z + n \lambda N/d)^{-1}`; for fits without error its limit is
    :math:`\frac1n |K^{-1} y|^2/(\frac1n \mathrm{tr}\,K^{-1})^2, K = Z Z^T`. It is the relation that
    ``RandomFeatures.training_error`` states, with features and data as they are.

    Parameters
    ----------
    digits : Digits
    widths : sequence of int
        N.
    ridge : float
        :math:`\lambda \ge 0`.
    n_samples, n_draws : int
        Images in a training sample, and samples, each with its own weights and noise.
    noise : float
        Variance of the noise of the training labels.
    seed : int

    Raises
    ------
    InvalidInput
        If a number is out of range, or if all images would be drawn.
    """
    ridge, noise = check_positive("ridge", ridge, zero=True), check_positive("noise", noise, zero=True)
    d = digits.x.shape[1]

    def fit(draw: _Draw, width: int) -> tuple[FloatArray, float]:
        z = _features(digits, width, draw.generator)
        left, singular, right = np.linalg.svd(z[draw.inside], full_matrices=False)
        kept = singular > _ROUNDING * singular[0]
        left, s, right = left[:, kept], singular[kept], right[kept]
        penalty = n_samples * ridge * width / d
        along = left.T @ draw.labels
        outputs = z @ (right.T @ (s / (s * s + penalty) * along))
        return outputs, _cross_validated(draw.labels, along, s * s, penalty)

    return _over_draws(digits, widths, fit, n_samples, noise, n_draws, seed)


def covariance_prediction(digits: Digits, width: int, ridges: Sequence[float], *, n_samples: int = 300,
                          noise: float = 0.25, seed: int = 0) -> list[float]:
    """Return what Gaussian features of the same covariance predict for the errors of `random_feature_errors`.

    The covariance of the features and the best fit are those of all images (``GaussianDesign.of_features``); what the
    best fit leaves acts as noise, and stays. It takes 1797 images for the population, so that it needs widths far
    below, and knows nothing of the sample but its size.

    Parameters
    ----------
    digits : Digits
    width : int
        N.
    ridges : sequence of float
    n_samples, noise
        As for `random_feature_errors`.
    seed : int
        Of the weights.
    """
    z = _features(digits, check_count("width", width), np.random.default_rng([seed, width]))
    whole, rest = GaussianDesign.of_features(z, digits.y, n_samples)
    scale = width / digits.x.shape[1]
    return [whole.at_ridge(ridge * scale).risk(rest + noise) + rest for ridge in ridges]


def trained_errors(digits: Digits, widths: Sequence[int], *, n_samples: int = 300, noise: float = 0.25,
                   n_draws: int = 4, seed: int = 0) -> Errors:
    """Train all weights of two-layer rectifier networks on the square loss, by scikit-learn's L-BFGS, no penalty.

    A network of N neurons has N (d + 2) + 1 parameters. ``predicted`` is NaN. For the rest see
    `random_feature_errors`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    inputs = digits.x / math.sqrt(digits.x.shape[1])

    def fit(draw: _Draw, width: int) -> tuple[FloatArray, float]:
        network = MLPRegressor(hidden_layer_sizes=(width,), alpha=0.0, solver="lbfgs", max_iter=_ITERATIONS,
                               max_fun=10 * _ITERATIONS, tol=_TOLERANCE,
                               random_state=int(draw.generator.integers(2**31)))
        with warnings.catch_warnings():
            # The largest number of iterations is the budget, and the training error is shown.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(inputs[draw.inside], draw.labels)
        return np.asarray(network.predict(inputs), dtype=float), math.nan

    return _over_draws(digits, widths, fit, n_samples, noise, n_draws, seed)


def _features(digits: Digits, width: int, generator: np.random.Generator) -> FloatArray:
    relu = ReLU()
    w = generator.standard_normal((width, digits.x.shape[1]))
    return relu(digits.x @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T) - equivalent_coefficients(relu).mean


class _Draw(NamedTuple):
    """A training sample: the indices of its images, their noisy labels, and the generator of what is drawn next."""

    inside: FloatArray
    labels: FloatArray
    generator: np.random.Generator


def _over_draws(digits: Digits, widths, fit, n_samples: int, noise: float, n_draws: int, seed: int) -> Errors:
    """Return the errors of ``fit(draw, width)``, which gives outputs on all images and a predicted error."""
    total = len(digits.y)
    if check_count("n_samples", n_samples, 2) >= total:
        raise InvalidInput(f"n_samples={n_samples}: must be below {total}, the number of images, so that some are left "
                           "for the test")
    counts = [check_count("widths", width) for width in widths]
    values = np.empty((4, check_count("n_draws", n_draws), len(counts)))
    for k, width in enumerate(counts):
        for j in range(n_draws):
            generator = np.random.default_rng([seed, width, j])
            order = generator.permutation(total)
            inside, outside = order[:n_samples], order[n_samples:]
            labels = digits.y[inside] + math.sqrt(noise) * generator.standard_normal(n_samples)
            outputs, predicted = fit(_Draw(inside, labels, generator), width)
            values[:, j, k] = (np.mean((outputs[outside] - digits.y[outside]) ** 2),
                               np.mean((outputs[inside] - labels) ** 2),
                               np.mean(outputs[outside] * digits.y[outside] <= 0.0), predicted - noise)
    return Errors(np.array(counts), *values)


def _cross_validated(labels: FloatArray, along: FloatArray, squares: FloatArray, penalty: float) -> float:
    """Return generalized cross-validation's error at a new noisy point, NaN at the threshold without a ridge."""
    n = labels.size
    beyond = max(float(labels @ labels - along @ along), 0.0)  # what no feature reaches
    if penalty == 0.0 and squares.size == n:
        return float(np.mean((along / squares) ** 2)) / float(np.mean(1.0 / squares)) ** 2
    left = penalty / (squares + penalty) if penalty else np.zeros_like(squares)
    return (beyond + float(np.sum((left * along) ** 2))) / n / ((float(left.sum()) + n - squares.size) / n) ** 2
