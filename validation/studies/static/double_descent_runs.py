"""What the experiment on double descent computes: theory, simulations at growing size, and fits to digits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wgflow.activations import ReLU
from wgflow.reduced_models import RandomFeatures
from wgflow.reduced_models.static_theories import Simulated

from .digits import Digits, Errors, covariance_prediction, random_feature_errors, trained_errors

__all__ = ["DigitsResult", "LimitResult", "best_ridges", "on_digits", "parameters", "simulated", "theory"]

_SEED = 5081
#: Samples over dimension, the size of the linear target, and the variance of the noise.
PSI2, SIGNAL, NOISE = 3.0, 1.0, 0.2
#: Widths over dimension of the simulations, and the ridges of the curves.
PSI1 = (0.5, 1.0, 2.0, 2.5, 3.0, 3.6, 5.0, 8.0)
RIDGES = (1e-3, 1e-2, 1e-1)
#: Width over dimension of the curve over ridges, and its simulated ridges.
BESIDE, RIDGES_BESIDE = 2.5, (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
#: Training images and variance of the noise of their labels; labels are 1 and -1.
IMAGES, IMAGE_NOISE = 300, 0.25
IMAGE_RIDGES = (0.0, 1e-3, 1e-1)


class LimitResult(NamedTuple):
    """Simulations at two sizes: by (ridge, psi1), their limits, and the same for the curve over ridges."""

    sizes: tuple[int, int]
    points: dict[tuple[float, float], tuple[Simulated, Simulated]]
    over_ridges: dict[float, tuple[Simulated, Simulated]]
    scaling: dict[int, Simulated]


class DigitsResult(NamedTuple):
    """Errors on digits: of random features by ridge, of trained networks, and those predicted by (width, ridge)."""

    digits: Digits
    random_features: dict[float, Errors]
    trained: Errors
    predicted: dict[int, dict[float, float]]


def simulated(sizes: tuple[int, int], runs: int, scaling: tuple[int, ...]) -> LimitResult:
    """Simulate both curves at two sizes, and one point at those of ``scaling``."""

    def at(psi1: float, ridge: float, d: int, count: int) -> Simulated:
        seed = [_SEED, d, round(1000 * psi1)]
        return RandomFeatures(ReLU(), psi1, PSI2, ridge).simulate(d, count, signal=SIGNAL, noise=NOISE,
                                                                  rng=np.random.default_rng(seed))

    def both(psi1: float, ridge: float) -> tuple[Simulated, Simulated]:
        return at(psi1, ridge, sizes[0], runs), at(psi1, ridge, sizes[1], runs)

    return LimitResult(sizes, {(ridge, psi1): both(psi1, ridge) for ridge in RIDGES for psi1 in PSI1},
                       {ridge: both(BESIDE, ridge) for ridge in RIDGES_BESIDE},
                       {d: at(BESIDE, 1e-2, d, 3200 // d) for d in scaling})


def on_digits(digits: Digits, quick: bool) -> DigitsResult:
    """Fit random features and train networks at all widths."""
    widths = ((10, 30, 80, 200, 300, 400, 800, 2000) if quick else
              (10, 20, 40, 80, 140, 200, 250, 285, 300, 315, 350, 450, 600, 800, 1500, 3000))
    trained = (1, 2, 4, 6, 8, 12, 40, 100) if quick else (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 40, 100, 300)
    found = {ridge: random_feature_errors(digits, widths, ridge, n_samples=IMAGES, noise=IMAGE_NOISE,
                                          n_draws=6 if quick else 12, seed=_SEED) for ridge in IMAGE_RIDGES}
    predicted = {n: dict(zip(IMAGE_RIDGES, covariance_prediction(digits, n, IMAGE_RIDGES, n_samples=IMAGES,
                                                                 noise=IMAGE_NOISE, seed=_SEED)))
                 for n in widths if n <= len(digits.y) / 2}
    return DigitsResult(digits, found, trained_errors(digits, trained, n_samples=IMAGES, noise=IMAGE_NOISE,
                                                      n_draws=5 if quick else 12, seed=_SEED), predicted)


def best_ridges() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return widths over dimension, the best ridge at each, and its risk."""
    psi1 = np.geomspace(0.3, 12.0, 24)
    best = np.array([RandomFeatures(ReLU(), p, PSI2).best_ridge(SIGNAL, noise=NOISE) for p in psi1])
    return psi1, best[:, 0], best[:, 1]


def theory(psi1, ridge):
    """Return the limit of the risk."""
    return RandomFeatures(ReLU(), psi1, PSI2, ridge).risk(SIGNAL, noise=NOISE)


def parameters(shown: DigitsResult) -> np.ndarray:
    """Return the numbers of parameters of the trained networks."""
    return shown.trained.widths * (shown.digits.x.shape[1] + 2) + 1
