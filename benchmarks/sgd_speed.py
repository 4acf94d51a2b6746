"""Steps per CPU second of SGD: the compiled function against NumPy and PyTorch, on one thread.

Run ``OPENBLAS_NUM_THREADS=1 python benchmarks/sgd_speed.py``. Figures are medians over interleaved repeats; sampling of
the data is included on all sides. "dense" is the plain rank-one update of all rows through one kept buffer; "rows"
updates only the rows on which the activation is not flat, by fancy indexing; "torch", where PyTorch is installed, is
the dense step on its CPU tensors. "of the flops" is the share of this machine's dense matrix product, measured in the
same run, that the compiled function reaches with the 4 N d operations of a step; "of the copy" sets the bytes of the
plain algorithm, which reads the weights twice and writes them once a step, against a copy of a large array: where the
weights stay in the caches, or pass through the processor once in several steps, it is above 1.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from wgflow.activations import NonMonotone, Ramp
from wgflow.compiled.sgd import sgd_steps
from wgflow.reduced_models import IsotropicGaussian

try:
    import torch
except ImportError:
    torch = None

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


def torch_dense(model, w, samples, rng):
    """Run the step on all rows with PyTorch, on one thread, sharing the memory of the weights."""
    x, y = model.sample_data(samples, rng)
    knots, slopes, intercepts = (torch.from_numpy(v) for v in model.activation.kernel_arguments()[1:])
    weights, x = torch.from_numpy(w), torch.from_numpy(x)
    for k in range(samples):
        z = torch.mv(weights, x[k])
        piece = torch.searchsorted(knots, z)
        slope = slopes[piece]
        force = 2.0 * STEP_SIZE * (y[k] - torch.mean(intercepts[piece] + slope * z).item())
        weights.addr_(slope, x[k], alpha=force)


IMPLEMENTATIONS = (compiled, dense, active_rows) if torch is None else (compiled, dense, active_rows, torch_dense)


def limits(repeats=5):
    """Return this machine's rates on one thread: operations a second of a matrix product, bytes a second of a copy."""
    a, big = np.random.default_rng(1).standard_normal((1000, 1000)), np.zeros(1 << 24)
    product, other, times = np.empty_like(a), np.ones_like(big), []
    for _ in range(repeats):
        start = time.thread_time()
        np.matmul(a, a, out=product)
        middle = time.thread_time()
        np.copyto(big, other)
        times.append((middle - start, time.thread_time() - middle))
    multiplied, copied = (statistics.median(column) for column in zip(*times))
    return 2e9 / multiplied, 2.0 * big.nbytes / copied


def rates(model, n_neurons, repeats):
    """Return the median number of steps a CPU second of each implementation."""
    rng = np.random.default_rng(7)
    w = model.initial_theta(n_neurons, 0.8, rng)
    measured = {step: [] for step in IMPLEMENTATIONS}
    work = n_neurons * model.d
    for step in measured:
        step(model, w, 2, rng)
    for _ in range(repeats):
        for step, values in measured.items():
            samples = (max(32, min(8192, 400_000_000 // work)) if step is compiled else
                       max(16, min(8192, 16_000_000 // work)))
            start = time.thread_time()
            step(model, w, samples, rng)
            values.append(samples / (time.thread_time() - start))
    return [statistics.median(values) for values in measured.values()]


def check(model, n_neurons):
    """Raise an error if the implementations do not agree."""
    results = []
    for step in IMPLEMENTATIONS:
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
    parser.add_argument("--tiny", action="store_true", help="a small network, once")
    given = parser.parse_args()
    repeats = 1 if given.tiny else given.repeats
    cases = [
        (IsotropicGaussian(40, 1.8, 0.2, activation=Ramp()), 800),
        (IsotropicGaussian(320, 1.5, 0.5, activation=NonMonotone()), 800),
        (IsotropicGaussian(320, 1.5, 0.5, activation=NonMonotone()), 10_000),
    ]
    if given.tiny:
        cases = [(IsotropicGaussian(5, 1.8, 0.2, activation=Ramp()), 20)]
    flops, copied = limits(repeats)
    if torch is None:
        print("PyTorch is not installed: left out")
    else:
        torch.set_num_threads(1)
    print(f"matrix product {flops / 1e9:.1f} GFLOP/s, copy {copied / 1e9:.1f} GB/s, one thread")
    names = [step.__name__ for step in IMPLEMENTATIONS]
    print("   d      N " + "".join(f"{name:>14}" for name in names)
          + "   ratio to " + ", ".join(names[1:]) + "; of the flops, of the copy")
    for model, n_neurons in cases:
        check(model, n_neurons)
        ours, *others = rates(model, n_neurons, repeats)
        work = n_neurons * model.d * ours
        print(f"{model.d:>4} {n_neurons:>6} " + "".join(f"{rate:>12.0f}/s" for rate in (ours, *others)) + "   "
              + ", ".join(f"{ours / rate:.1f}" for rate in others)
              + f"; {4 * work / flops:.0%}, {24 * work / copied:.0%}")


if __name__ == "__main__":
    main()
