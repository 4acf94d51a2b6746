"""Steps per CPU second of SGD: the compiled function against NumPy, on one thread.

Run ``OPENBLAS_NUM_THREADS=1 python benchmarks/sgd_speed.py``. Figures are medians over interleaved repeats; sampling of
the data is included on all sides. "dense" is the plain rank-one update of all rows through one kept buffer; "rows"
updates only the rows on which the activation is not flat, by fancy indexing.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from wgflow.activations import NonMonotone, Ramp
from wgflow.compiled.sgd import sgd_steps
from wgflow.reduced_models import IsotropicGaussian

STEP_SIZE = 1e-6


def compiled(model, w, samples, rng):
    """Run the compiled function of run_sgd."""
    x, y = model.sample_data(samples, rng)
    n = len(w)
    steps = np.full(samples, STEP_SIZE)
    sgd_steps(w, np.ones(n), np.zeros(n), x, y, steps, False, 0.0, 0.0, *model.activation.kernel_arguments(), rng)


def dense(model, w, samples, rng):
    """Run the NumPy step on all rows."""
    x, y = model.sample_data(samples, rng)
    knots, slopes, intercepts = model.activation.kernel_arguments()[1:]
    z, update = np.empty(len(w)), np.empty_like(w)
    for k in range(samples):
        np.dot(w, x[k], out=z)
        piece = np.searchsorted(knots, z)
        slope = slopes[piece]
        force = 2.0 * STEP_SIZE * (y[k] - np.mean(intercepts[piece] + slope * z))
        np.multiply(force * slope[:, None], x[k], out=update)
        w += update


def active_rows(model, w, samples, rng):
    """Run the NumPy step on the rows that move."""
    x, y = model.sample_data(samples, rng)
    knots, slopes, intercepts = model.activation.kernel_arguments()[1:]
    z = np.empty(len(w))
    for k in range(samples):
        np.dot(w, x[k], out=z)
        piece = np.searchsorted(knots, z)
        slope = slopes[piece]
        force = 2.0 * STEP_SIZE * (y[k] - np.mean(intercepts[piece] + slope * z))
        rows = np.flatnonzero(slope)
        w[rows] += (force * slope[rows])[:, None] * x[k]


def rates(model, n_neurons, repeats):
    """Return the median number of steps a CPU second of each implementation."""
    rng = np.random.default_rng(7)
    w = model.initial_theta(n_neurons, 0.8, rng)
    measured = {step: [] for step in (compiled, dense, active_rows)}
    for step in measured:
        step(model, w, 2, rng)
    for _ in range(repeats):
        for step, values in measured.items():
            samples = 8192 if step is compiled else 512
            start = time.thread_time()
            step(model, w, samples, rng)
            values.append(samples / (time.thread_time() - start))
    return [statistics.median(values) for values in measured.values()]


def check(model, n_neurons):
    """Raise an error if the implementations do not agree."""
    results = []
    for step in (compiled, dense, active_rows):
        rng = np.random.default_rng(11)
        w = model.initial_theta(n_neurons, 0.8, rng)
        step(model, w, 100, rng)
        results.append(w)
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, rtol=0, atol=1e-12)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    cases = [
        (IsotropicGaussian(40, 1.8, 0.2, activation=Ramp()), 800),
        (IsotropicGaussian(80, 1.8, 0.2, activation=Ramp()), 200),
        (IsotropicGaussian(320, 1.5, 0.5, activation=NonMonotone()), 800),
    ]
    print("   d    N     compiled        dense         rows   ratio to dense, rows")
    for model, n_neurons in cases:
        check(model, n_neurons)
        ours, plain, rows = rates(model, n_neurons, repeats)
        print(f"{model.d:>4} {n_neurons:>4} {ours:>10.0f}/s {plain:>10.0f}/s {rows:>10.0f}/s "
              f"{ours / plain:>12.1f} {ours / rows:>8.1f}")


if __name__ == "__main__":
    main()
