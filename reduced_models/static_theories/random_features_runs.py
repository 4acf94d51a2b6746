"""Random-features regression at finite size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from wgflow.checks import check_count, check_flag, check_memory
from wgflow.errors import InvalidInput

from ..base import FloatArray
from .simulated import Simulated, as_generator, over_runs, sphere_points
from .sphere_kernels import SphereKernel

if TYPE_CHECKING:
    from .random_features import RandomFeatures

__all__ = ["simulate_risk"]

_ROUNDING = 1e-13  # of the largest singular value: below it a direction counts as absent


def simulate_risk(theory: RandomFeatures, d: int, n_runs: int, parts: tuple[float, float, float], equivalent: bool,
                  rng: int | np.random.Generator | None) -> Simulated:
    """Return the mean risk of fits to random draws; see :meth:`RandomFeatures.simulate`."""
    check_count("d", d, 3)
    check_flag("equivalent", equivalent)
    for name in ("psi1", "psi2", "ridge"):
        value = getattr(theory, name)
        if value.shape or not np.isfinite(value):
            raise InvalidInput(f"{name}={value.tolist()}: a simulation needs one finite number")
    n_neurons, n_samples = (round(float(psi) * d) for psi in (theory.psi1, theory.psi2))
    if min(n_neurons, n_samples) < 1:
        raise InvalidInput(f"d={d}: psi1 d and psi2 d must round to at least 1; take a larger d")
    if equivalent and parts[2]:
        raise InvalidInput("equivalent=True: linear features know no nonlinear part; leave out nonlinear, or add it to "
                           "noise")
    check_memory(8.0 * 4 * (n_neurons + n_samples) * max(n_neurons, n_samples), f"d={d}: a simulation",
                 "take a smaller d")
    ridge = float(theory.ridge) * n_neurons / d
    _, linear, nonlinear = theory.coefficients
    kernel = None if equivalent else SphereKernel(theory.activation, d)

    def one(generator: np.random.Generator) -> float:
        w = sphere_points(generator, n_neurons, d, 1.0)
        x = sphere_points(generator, n_samples, d, np.sqrt(d))
        if kernel is None:
            x = generator.standard_normal((n_samples, d))
            features = linear * (x @ w.T) + nonlinear * generator.standard_normal((n_samples, n_neurons))
            gram = linear**2 * (w @ w.T) + nonlinear**2 * np.eye(n_neurons)
            return _mean_risk(features, gram, linear * w, x, None, ridge, parts)
        features = theory.activation(x @ w.T) - kernel.mean
        return _mean_risk(features, kernel.centered(w), kernel.linear * w, x,
                          _quadratic_form(generator, d, x, w, kernel) if parts[2] else None, ridge, parts)

    return over_runs(one, n_runs, as_generator(rng))


def _quadratic_form(generator: np.random.Generator, d: int, x: FloatArray, w: FloatArray, kernel: SphereKernel):
    """Return a random harmonic of degree 2 of mean square 1 at the samples, and its products with the features."""
    matrix = generator.standard_normal((d, d))
    matrix = matrix + matrix.T
    matrix -= np.eye(d) * np.trace(matrix) / d
    matrix *= np.sqrt((d + 2.0) / (2.0 * d)) / np.linalg.norm(matrix)
    return np.sum((x @ matrix) * x, axis=1), kernel.quadratic * np.sum((w @ matrix) * w, axis=1)


def _mean_risk(features: FloatArray, gram: FloatArray, linear: FloatArray, x: FloatArray,
               form: tuple[FloatArray, FloatArray] | None, ridge: float, parts: tuple[float, float, float]) -> float:
    r"""Return :math:`E (f - \hat f)^2` over new points, the direction of the linear part and the noise.

    With the map A from labels to coefficients, :math:`\hat a = A y`, the features' second moments ``gram`` and their
    moments with x, ``linear``; ``form`` has the nonlinear part at the samples and its moments with the features.
    """
    signal, noise, nonlinear = parts
    d = x.shape[1]
    fit = _ridge_map(features, ridge)
    learned = fit @ x  # coefficients of each unit direction
    risk = signal / d * (d - 2.0 * float(np.sum(linear * learned)) + float(np.sum(learned * (gram @ learned))))
    risk += noise * float(np.sum(fit * (gram @ fit)))
    if form is not None:
        values, products = form
        coefficients = fit @ values
        risk += nonlinear * (1.0 - 2.0 * float(products @ coefficients) + float(coefficients @ gram @ coefficients))
    return risk


def _ridge_map(features: FloatArray, ridge: float) -> FloatArray:
    """Return A = (Z'Z/n + ridge)^-1 Z'/n, the pseudo-inverse of Z at ridge 0."""
    n, width = features.shape
    if ridge == 0.0:
        return np.asarray(np.linalg.pinv(features, rcond=_ROUNDING), dtype=np.float64)
    if width <= n:
        return np.asarray(cho_solve(cho_factor(features.T @ features / n + ridge * np.eye(width)), features.T / n))
    return np.asarray(cho_solve(cho_factor(features @ features.T / n + ridge * np.eye(n)), features / n)).T
