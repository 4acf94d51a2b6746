"""SGD of a two-layer network: the inner loops over samples and over mini-batches."""

from __future__ import annotations

import math

import numpy as np

from .jit import jit

#: Coordinates, or samples, whose products are added in one pass over the neurons. The sums are written out term by term
#: below, since only then does the compiler keep them in registers.
UNROLL = 8
#: Inputs from which on a batch holds two groups of samples: the weights then leave the fast caches between batches.
WIDE = 128
#: Neurons handled together, so that their part of the arrays stays in the fastest cache.
CHUNK = 256
#: Below this the common factor of the weights is multiplied out, long before it underflows.
SMALLEST_FACTOR = 1e-100


@jit
def _activate(code, knots, slopes, intercepts, z, values, derivatives):
    """Write sigma(z) and sigma'(z); see `wgflow.activations.base.KernelActivation` for the encoding."""
    if code == 0:
        _activate_pieces(knots, slopes, intercepts, z, values, derivatives)
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
    elif code == 5:
        _activate_cubics(knots, slopes, intercepts, z, values, derivatives)
    else:
        for i in range(z.size):
            decay = math.exp(-abs(z[i]))
            values[i] = max(z[i], 0.0) + math.log1p(decay)
            derivatives[i] = (1.0 if z[i] >= 0.0 else decay) / (1.0 + decay)


@jit
def _activate_cubics(ends, slopes, heights, z, values, derivatives):
    """Write cubics with the values and slopes of a table at even distances, and straight lines beyond its ends."""
    last = slopes.size - 1
    step = (ends[1] - ends[0]) / last
    for i in range(z.size):
        if not z[i] >= ends[0]:
            values[i], derivatives[i] = heights[0] + ends[2] * (z[i] - ends[0]), ends[2]
        elif z[i] >= ends[1]:
            values[i], derivatives[i] = heights[last] + ends[3] * (z[i] - ends[1]), ends[3]
        else:
            k = min(int((z[i] - ends[0]) / step), last - 1)
            u = (z[i] - ends[0]) / step - k
            rise = heights[k + 1] - heights[k]
            a, b = slopes[k] * step - rise, rise - slopes[k + 1] * step
            values[i] = heights[k] + u * (rise + (1.0 - u) * (a * (1.0 - u) + b * u))
            derivatives[i] = (rise + (1.0 - 2.0 * u) * (a * (1.0 - u) + b * u) + u * (1.0 - u) * (b - a)) / step


@jit
def _pull(loss, width, y, f):
    """Return minus the derivative in the output f: of a loss, see `wgflow.losses.KernelLoss`, or of (y - f)^2."""
    if loss == 0:
        return 2.0 * (y - f)
    if loss == 3:
        return min(max(y - f, -width), width)
    margin = y * f
    if loss == 1:
        decay = math.exp(-abs(margin))
        return y * (decay if margin >= 0.0 else 1.0) / (1.0 + decay)
    if loss == 2:
        return y * math.exp(-margin)
    return y * min(max(1.0 - margin, 0.0), width) / width


@jit
def sgd_steps(w, a, b, x, y, steps, learn_ab, ridge, temperature, code, knots, slopes, intercepts, rng, loss=0,
              corner=1.0, scale=1.0):
    """Train on the samples ``(x[k], y[k])`` one after the other, in place.

    With ``s = steps[k]``, ``z_i = <w_i, x> + b_i``, ``f = scale mean_i a_i sigma(z_i)``, ``e = - s scale l'(y, f)``
    (``2 s (y - f)`` for the square) and ``c = 1 - 2 ridge s``:

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
    loss : int
    corner, scale : float
        The loss as data (`wgflow.losses.KernelLoss`), the square by default, and the scale of the output.
    """
    n, d = w.shape
    wt = np.zeros((-(-d // UNROLL) * UNROLL, n))  # neurons last, so that every long loop runs over neighbors in memory
    for i in range(n):
        for k in range(d):
            wt[k, i] = w[i, k]
    width = UNROLL if d < WIDE else 2 * UNROLL
    sample, earlier, gram = np.zeros((width, wt.shape[0])), np.zeros((width, wt.shape[0])), np.empty((width, width))
    z, push = np.empty((width, n)), np.zeros((width, n))
    values, derivatives = np.empty(n), np.empty(n)
    factor = 1.0  # the weights are factor * wt: the ridge then costs nothing
    noisy = temperature > 0.0
    start = 0
    while start < y.size:
        size = min(1 if noisy else width, y.size - start)
        sample[:] = 0.0
        for k in range(size):
            for j in range(d):
                sample[k, j] = x[start + k, j]
        for first in range(0, n, CHUNK):
            last = min(n, first + CHUNK)
            if start > 0 and not noisy:
                _add_outer(wt, earlier, push, first, last)
            _products(wt, sample, z, size, first, last)
        push[:] = 0.0
        _gram(sample, gram, size)
        for k in range(size):
            s = steps[start + k]
            _preactivations(z[k], push, gram[k], k, factor, b)
            _activate(code, knots, slopes, intercepts, z[k], values, derivatives)
            force = scale * s * _pull(loss, corner, y[start + k], scale * _dot(a, values) / n)
            shrink = 1.0 - 2.0 * ridge * s
            factor *= shrink
            _push(push[k], a, derivatives, force, factor)
            if learn_ab:
                for i in range(n):
                    gradient = force * a[i] * derivatives[i]
                    a[i] = shrink * a[i] + force * values[i]
                    b[i] = shrink * b[i] + gradient
        if noisy:
            _add_outer(wt, sample, push, 0, n)
            _add_noise(wt, a, b, d, learn_ab, math.sqrt(4.0 * steps[start] * temperature), factor, rng)
        if factor < SMALLEST_FACTOR:
            _multiply(wt, factor)
            _multiply(push, factor)
            factor = 1.0
        sample, earlier = earlier, sample  # without noise, a batch is added to the weights when the next one needs them
        start += size
    if y.size > 0 and not noisy:
        _add_outer(wt, earlier, push, 0, n)
    for i in range(n):
        for k in range(d):
            w[i, k] = factor * wt[k, i]


@jit
def sgd_batches(w, a, b, x, y, steps, batch, learn_ab, ridge, temperature, code, knots, slopes, intercepts, rng,
                loss=0, corner=1.0, scale=1.0):
    """Train on mini-batches of ``batch`` samples, in place: step k uses the samples from ``k batch`` on.

    The force of `sgd_steps` is replaced by its mean over the mini-batch, at the parameters before the step:

        w_i <- c w_i + mean_k e_k a_i sigma'(z_ik) x_k + sqrt(4 s temperature) g_i,

    and likewise for ``a_i`` and ``b_i``. Arguments as in `sgd_steps`, with ``x`` of shape (steps.size * batch, d).
    """
    n, d = w.shape
    wt = np.zeros((-(-d // UNROLL) * UNROLL, n))
    for i in range(n):
        for k in range(d):
            wt[k, i] = w[i, k]
    rows = -(-batch // UNROLL) * UNROLL
    sample, push, z = np.zeros((rows, wt.shape[0])), np.zeros((rows, n)), np.empty((batch, n))
    values, derivatives, change_a, change_b = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    factor = 1.0
    for step in range(steps.size):
        s, start = steps[step], step * batch
        shrink = 1.0 - 2.0 * ridge * s
        for k in range(batch):
            for j in range(d):
                sample[k, j] = x[start + k, j]
        for first in range(0, n, CHUNK):
            _products(wt, sample, z, batch, first, min(n, first + CHUNK))
        change_a[:] = 0.0
        change_b[:] = 0.0
        for k in range(batch):
            _preactivations(z[k], push, values, 0, factor, b)
            _activate(code, knots, slopes, intercepts, z[k], values, derivatives)
            force = scale * s / batch * _pull(loss, corner, y[start + k], scale * _dot(a, values) / n)
            _push(push[k], a, derivatives, force, factor * shrink)
            if learn_ab:
                for i in range(n):
                    change_a[i] += force * values[i]
                    change_b[i] += force * a[i] * derivatives[i]
        factor *= shrink
        for first in range(0, n, CHUNK):
            _add_outer(wt, sample, push, first, min(n, first + CHUNK))
        if learn_ab:
            for i in range(n):
                a[i] = shrink * a[i] + change_a[i]
                b[i] = shrink * b[i] + change_b[i]
        if temperature > 0.0:
            _add_noise(wt, a, b, d, learn_ab, math.sqrt(4.0 * s * temperature), factor, rng)
        if factor < SMALLEST_FACTOR:
            _multiply(wt, factor)
            factor = 1.0
    for i in range(n):
        for k in range(d):
            w[i, k] = factor * wt[k, i]


@jit
def _activate_pieces(knots, slopes, intercepts, z, values, derivatives):
    """Write a piecewise-linear sigma(z) and its slope, two knots a pass: every pass is a select, which vectorizes."""
    for j in range(0, knots.size, 2):
        more = j + 1 < knots.size
        knot1, slope1, intercept1 = knots[j], slopes[j + 1], intercepts[j + 1]
        knot2 = knots[j + 1] if more else np.inf
        slope2, intercept2 = (slopes[j + 2], intercepts[j + 2]) if more else (0.0, 0.0)
        slope0, intercept0 = slopes[j], intercepts[j]
        for i in range(z.size):
            t = z[i]
            slope = slope1 if t > knot1 else slope0
            intercept = intercept1 if t > knot1 else intercept0
            slope = slope2 if t > knot2 else slope
            intercept = intercept2 if t > knot2 else intercept
            keep = j > 0 and not t > knot1
            values[i] = values[i] if keep else intercept + slope * t
            derivatives[i] = derivatives[i] if keep else slope


@jit(fastmath={"contract"})
def _products(wt, sample, z, size, first, last):
    """Write z[k, i] = <w_i, x_k> for the neurons in [first, last)."""
    for k in range(size):
        for i in range(first, last):
            z[k, i] = 0.0
    for j in range(0, wt.shape[0], UNROLL):
        w0, w1, w2, w3 = wt[j, first:last], wt[j + 1, first:last], wt[j + 2, first:last], wt[j + 3, first:last]
        w4, w5, w6, w7 = wt[j + 4, first:last], wt[j + 5, first:last], wt[j + 6, first:last], wt[j + 7, first:last]
        for k in range(0, size - 1, 2):  # two samples share what is loaded of the weights
            row, other = z[k, first:last], z[k + 1, first:last]
            x0, x1, x2, x3 = sample[k, j], sample[k, j + 1], sample[k, j + 2], sample[k, j + 3]
            x4, x5, x6, x7 = sample[k, j + 4], sample[k, j + 5], sample[k, j + 6], sample[k, j + 7]
            y0, y1, y2, y3 = sample[k + 1, j], sample[k + 1, j + 1], sample[k + 1, j + 2], sample[k + 1, j + 3]
            y4, y5, y6, y7 = sample[k + 1, j + 4], sample[k + 1, j + 5], sample[k + 1, j + 6], sample[k + 1, j + 7]
            for i in range(last - first):
                low = x0 * w0[i] + x1 * w1[i] + x2 * w2[i] + x3 * w3[i]
                high = x4 * w4[i] + x5 * w5[i] + x6 * w6[i] + x7 * w7[i]
                low2 = y0 * w0[i] + y1 * w1[i] + y2 * w2[i] + y3 * w3[i]
                high2 = y4 * w4[i] + y5 * w5[i] + y6 * w6[i] + y7 * w7[i]
                row[i] += low + high
                other[i] += low2 + high2
        for k in range(size - size % 2, size):
            row = z[k, first:last]
            x0, x1, x2, x3 = sample[k, j], sample[k, j + 1], sample[k, j + 2], sample[k, j + 3]
            x4, x5, x6, x7 = sample[k, j + 4], sample[k, j + 5], sample[k, j + 6], sample[k, j + 7]
            for i in range(last - first):
                low = x0 * w0[i] + x1 * w1[i] + x2 * w2[i] + x3 * w3[i]
                high = x4 * w4[i] + x5 * w5[i] + x6 * w6[i] + x7 * w7[i]
                row[i] += low + high


@jit(fastmath={"contract"})
def _add_outer(wt, sample, push, first, last):
    """Add sum_k push[k, i] x_k to w_i for the neurons in [first, last)."""
    for k in range(0, sample.shape[0], UNROLL):
        p0, p1, p2, p3 = push[k, first:last], push[k + 1, first:last], push[k + 2, first:last], push[k + 3, first:last]
        p4, p5 = push[k + 4, first:last], push[k + 5, first:last]
        p6, p7 = push[k + 6, first:last], push[k + 7, first:last]
        for j in range(0, wt.shape[0], 2):  # two rows share what is loaded of the pushes
            row, other = wt[j, first:last], wt[j + 1, first:last]
            x0, x1, x2, x3 = sample[k, j], sample[k + 1, j], sample[k + 2, j], sample[k + 3, j]
            x4, x5, x6, x7 = sample[k + 4, j], sample[k + 5, j], sample[k + 6, j], sample[k + 7, j]
            y0, y1, y2, y3 = sample[k, j + 1], sample[k + 1, j + 1], sample[k + 2, j + 1], sample[k + 3, j + 1]
            y4, y5, y6, y7 = sample[k + 4, j + 1], sample[k + 5, j + 1], sample[k + 6, j + 1], sample[k + 7, j + 1]
            for i in range(last - first):
                low = x0 * p0[i] + x1 * p1[i] + x2 * p2[i] + x3 * p3[i]
                high = x4 * p4[i] + x5 * p5[i] + x6 * p6[i] + x7 * p7[i]
                low2 = y0 * p0[i] + y1 * p1[i] + y2 * p2[i] + y3 * p3[i]
                high2 = y4 * p4[i] + y5 * p5[i] + y6 * p6[i] + y7 * p7[i]
                row[i] += low + high
                other[i] += low2 + high2


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
def _multiply(array, factor):
    """Multiply an array by a number in place, by loops: an array expression compiles for a second."""
    for i in range(array.shape[0]):
        for k in range(array.shape[1]):
            array[i, k] *= factor


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
