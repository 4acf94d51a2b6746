"""One-pass SGD of a two-layer network: the inner loop over samples."""

from __future__ import annotations

import math

import numpy as np

from ._jit import jit

#: Samples of a batch, and coordinates whose products are added in one pass over the neurons: both loops are unrolled by
#: hand below, since the compiler keeps such sums in registers only when they are written out.
BATCH = 8
#: Neurons handled together, so that their part of the arrays stays in the fastest cache.
CHUNK = 128
#: Below it the common factor of the weights is multiplied out, long before it underflows.
SMALLEST_FACTOR = 1e-100


@jit
def _activate(code, knots, slopes, intercepts, z, values, derivatives):
    """Write sigma(z) and sigma'(z); see `wgflow._activation_base.KernelActivation` for the encoding."""
    if code == 0:
        # Knots outside, neurons inside: every pass is a select, which vectorizes.
        for i in range(z.size):
            values[i] = intercepts[0] + slopes[0] * z[i]
            derivatives[i] = slopes[0]
        for j in range(knots.size):
            knot, slope, intercept = knots[j], slopes[j + 1], intercepts[j + 1]
            for i in range(z.size):
                above = z[i] > knot
                values[i] = intercept + slope * z[i] if above else values[i]
                derivatives[i] = slope if above else derivatives[i]
    elif code == 1:
        for i in range(z.size):
            values[i] = math.tanh(z[i])
            derivatives[i] = 1.0 - values[i] * values[i]
    elif code == 2:
        for i in range(z.size):
            values[i] = math.erf(z[i])
            derivatives[i] = 2.0 / math.sqrt(math.pi) * math.exp(-z[i] * z[i])
    elif code == 3:
        for i in range(z.size):
            value, derivative = 0.0, 0.0
            for n in range(slopes.size - 1, -1, -1):
                derivative = derivative * z[i] + value
                value = value * z[i] + slopes[n]
            values[i], derivatives[i] = value, derivative
    else:
        for i in range(z.size):
            decay = math.exp(-abs(z[i]))
            values[i] = max(z[i], 0.0) + math.log1p(decay)
            derivatives[i] = (1.0 if z[i] >= 0.0 else decay) / (1.0 + decay)


@jit
def sgd_steps(w, a, b, x, y, steps, learn_ab, ridge, temperature, code, knots, slopes, intercepts, rng):
    """Train on the samples ``(x[k], y[k])`` one after the other, in place.

    With ``s = steps[k]``, ``z_i = <w_i, x> + b_i``, ``e = 2 s (y - mean_i a_i sigma(z_i))`` and ``c = 1 - 2 ridge s``:

        w_i <- c w_i + e a_i sigma'(z_i) x + sqrt(4 s temperature) g_i,

    and where ``learn_ab`` also ``a_i <- c a_i + e sigma(z_i) + ...`` and ``b_i <- c b_i + e a_i sigma'(z_i) + ...``,
    with the old ``a_i`` throughout.

    The samples are taken in batches, without changing the algorithm: each step adds to ``w_i`` a multiple of its
    sample, so the later products of a batch follow from ``<w_i, x_k>`` at its start and from ``<x_j, x_k>``, and the
    weights pass through the processor twice a batch instead of twice a sample. Noise makes every step a batch of its
    own.

    Parameters
    ----------
    w : array, shape (n, d)
    a, b : arrays, shape (n,)
        Ones and zeros unless ``learn_ab``.
    x, y : arrays, shapes (k, d) and (k,)
    steps : array, shape (k,)
    learn_ab : bool
    ridge, temperature : float
        ``temperature`` is 1 / beta.
    code, knots, slopes, intercepts
        The activation as data.
    rng : Generator
        For the noise; not touched at temperature 0.
    """
    n, d = w.shape
    wt = np.zeros((-(-d // BATCH) * BATCH, n))  # neurons last, so that every long loop runs over neighbors in memory
    for i in range(n):
        for k in range(d):
            wt[k, i] = w[i, k]
    sample, gram = np.zeros((BATCH, wt.shape[0])), np.empty((BATCH, BATCH))
    z, push = np.empty((BATCH, n)), np.empty((BATCH, n))
    values, derivatives = np.empty(n), np.empty(n)
    factor = 1.0  # the weights are factor * wt: the ridge then costs nothing
    width = 1 if temperature > 0.0 else BATCH
    for start in range(0, y.size, width):
        size = min(width, y.size - start)
        sample[:] = 0.0
        sample[:size, :d] = x[start : start + size]
        push[:] = 0.0
        _products(wt, sample, z, size)
        _gram(sample, gram, size)
        for k in range(size):
            s = steps[start + k]
            _preactivations(z[k], push, gram[k], k, factor, b)
            _activate(code, knots, slopes, intercepts, z[k], values, derivatives)
            force = 2.0 * s * (y[start + k] - _mean_product(a, values))
            shrink = 1.0 - 2.0 * ridge * s
            factor *= shrink
            _push(push[k], a, derivatives, force, factor)
            if learn_ab:
                for i in range(n):
                    gradient = force * a[i] * derivatives[i]
                    a[i] = shrink * a[i] + force * values[i]
                    b[i] = shrink * b[i] + gradient
        _add_outer(wt, sample, push)
        if temperature > 0.0:
            _add_noise(wt, a, b, d, learn_ab, math.sqrt(4.0 * steps[start] * temperature), factor, rng)
        if factor < SMALLEST_FACTOR:
            wt *= factor
            factor = 1.0
    for i in range(n):
        for k in range(d):
            w[i, k] = factor * wt[k, i]


@jit(fastmath={"contract"})
def _products(wt, sample, z, size):
    """Write z[k, i] = <w_i, x_k>."""
    n = wt.shape[1]
    for first in range(0, n, CHUNK):
        last = min(n, first + CHUNK)
        z[:size, first:last] = 0.0
        for j in range(0, wt.shape[0], BATCH):
            w0, w1, w2, w3 = wt[j, first:last], wt[j + 1, first:last], wt[j + 2, first:last], wt[j + 3, first:last]
            w4, w5, w6, w7 = wt[j + 4, first:last], wt[j + 5, first:last], wt[j + 6, first:last], wt[j + 7, first:last]
            for k in range(size):
                row = z[k, first:last]
                x0, x1, x2, x3 = sample[k, j], sample[k, j + 1], sample[k, j + 2], sample[k, j + 3]
                x4, x5, x6, x7 = sample[k, j + 4], sample[k, j + 5], sample[k, j + 6], sample[k, j + 7]
                for i in range(last - first):
                    low = x0 * w0[i] + x1 * w1[i] + x2 * w2[i] + x3 * w3[i]
                    high = x4 * w4[i] + x5 * w5[i] + x6 * w6[i] + x7 * w7[i]
                    row[i] += low + high


@jit(fastmath={"contract"})
def _add_outer(wt, sample, push):
    """Add sum_k push[k, i] x_k to w_i."""
    n = wt.shape[1]
    for first in range(0, n, CHUNK):
        last = min(n, first + CHUNK)
        p0, p1, p2, p3 = push[0, first:last], push[1, first:last], push[2, first:last], push[3, first:last]
        p4, p5, p6, p7 = push[4, first:last], push[5, first:last], push[6, first:last], push[7, first:last]
        for j in range(wt.shape[0]):
            row = wt[j, first:last]
            x0, x1, x2, x3 = sample[0, j], sample[1, j], sample[2, j], sample[3, j]
            x4, x5, x6, x7 = sample[4, j], sample[5, j], sample[6, j], sample[7, j]
            for i in range(last - first):
                low = x0 * p0[i] + x1 * p1[i] + x2 * p2[i] + x3 * p3[i]
                high = x4 * p4[i] + x5 * p5[i] + x6 * p6[i] + x7 * p7[i]
                row[i] += low + high


@jit
def _gram(sample, gram, size):
    for j in range(size):
        for k in range(j):
            gram[j, k] = _dot(sample[j], sample[k])


@jit(fastmath={"reassoc", "contract"})
def _dot(u, v):
    """Sum of products. Reassociation lets the loop use vector registers; NaN and infinities still pass through."""
    total = 0.0
    for k in range(u.size):
        total += u[k] * v[k]
    return total


@jit
def _mean_product(u, v):
    return _dot(u, v) / u.size


@jit(fastmath={"contract"})
def _preactivations(z, push, gram, k, factor, b):
    """Bring z from the weights at the start of the batch to those before its k-th step."""
    for j in range(k):
        row, overlap = push[j], gram[j]
        for i in range(z.size):
            z[i] += overlap * row[i]
    for i in range(z.size):
        z[i] = factor * z[i] + b[i]


@jit
def _push(push, a, derivatives, force, factor):
    scaled = force / factor
    for i in range(push.size):
        push[i] = scaled * a[i] * derivatives[i]


@jit
def _add_noise(wt, a, b, d, learn_ab, spread, factor, rng):
    """Add independent normals of standard deviation ``spread``, neuron by neuron in the order of the parameters."""
    scaled = spread / factor
    for i in range(wt.shape[1]):
        if learn_ab:
            a[i] += spread * rng.standard_normal()
            b[i] += spread * rng.standard_normal()
        for k in range(d):
            wt[k, i] += scaled * rng.standard_normal()
