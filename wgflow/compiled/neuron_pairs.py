"""Sums over pairs of neurons: the Mehler series of a population risk."""

from __future__ import annotations

import numpy as np

from .jit import jit


@jit
def mehler_rows(w, norms, coefficients, tails, tolerance, first, last, row_sums, far_i, far_j, far_cosine):
    """Add up sum_{j < i} sum_m sum_k a_mk(i) a_mk(j) cos_ij^k for the rows i in [first, last).

    Parameters
    ----------
    w : array, shape (n, d)
        Weights of the neurons.
    norms : array, shape (n,)
        Their lengths.
    coefficients : array, shape (n, degree + 1, m)
        Hermite coefficients a_mk of every neuron under m data laws.
    tails : array, shape (degree + 1,)
        Bound of sum_{l > k} |a_ml(i) a_ml(j)|, summed over m, over all pairs.
    tolerance : float
        A pair's series stops where tails[k] |cos|^(k+1) is below it.
    row_sums : array, shape (n,), output
        The sum of each row.
    far_i, far_j, far_cosine : arrays, output
        Pairs whose series does not reach the tolerance; the caller takes a closed form for them.

    Returns
    -------
    int
        Number of such pairs.
    """
    n_terms, n_laws = coefficients.shape[1], coefficients.shape[2]
    count = 0
    for i in range(first, last):
        total = 0.0
        for j in range(i):
            dot = 0.0
            for k in range(w.shape[1]):
                dot += w[i, k] * w[j, k]
            scale = norms[i] * norms[j]
            cosine = min(1.0, max(-1.0, dot / scale)) if scale > 0.0 else 0.0
            power, series, reached = 1.0, 0.0, False
            for k in range(n_terms):
                term = 0.0
                for m in range(n_laws):
                    term += coefficients[i, k, m] * coefficients[j, k, m]
                series += term * power
                power *= cosine
                if tails[k] * np.abs(power) <= tolerance:
                    reached = True
                    break
            if reached:
                total += series
            else:
                far_i[count], far_j[count], far_cosine[count] = i, j, cosine
                count += 1
        row_sums[i] = total
    return count


@jit
def block_mehler_rows(w, split, variances, scales, coefficients, tails, tolerance, first, last, row_sums,
                      far_i, far_j, far_law, far_cosine):
    """Add up sum_{j < i} sum_m sum_k a_mk(i) a_mk(j) c_m(i, j)^k for the rows i in [first, last).

    Law m has the covariance diag(v_m I, I), with the first ``split`` inputs in the first block, so that the correlation
    of two neurons is c_m = (v_m <w_i, w_j>_1 + <w_i, w_j>_2) / (s_mi s_mj).

    Parameters
    ----------
    w : array, shape (n, d)
        Weights of the neurons.
    split : int
    variances : array, shape (m,)
        The v_m.
    scales : array, shape (m, n)
        Standard deviations s_mi of <w_i, x>.
    coefficients : array, shape (m, n, degree + 1)
        Hermite coefficients a_mk of every neuron, with its factor in the network.
    tails : array, shape (m, degree + 1)
        Bound of sum_{l > k} |a_ml(i) a_ml(j)| over all pairs.
    tolerance : float
        A series stops where tails[m, k] |c|^(k + 1) is below it.
    row_sums : array, shape (n,), output
    far_i, far_j, far_law, far_cosine : arrays, output
        Series that do not reach the tolerance; the caller takes a closed form for them.

    Returns
    -------
    int
        Number of such series.
    """
    n_laws, n_terms = coefficients.shape[0], coefficients.shape[2]
    count = 0
    for i in range(first, last):
        total = 0.0
        for j in range(i):
            inner = _dot(w[i, :split], w[j, :split])
            outer = _dot(w[i, split:], w[j, split:])
            for m in range(n_laws):
                scale = scales[m, i] * scales[m, j]
                cosine = min(1.0, max(-1.0, (variances[m] * inner + outer) / scale)) if scale > 0.0 else 0.0
                power, series, reached = 1.0, 0.0, False
                for k in range(n_terms):
                    series += coefficients[m, i, k] * coefficients[m, j, k] * power
                    power *= cosine
                    if tails[m, k] * np.abs(power) <= tolerance:
                        reached = True
                        break
                if reached:
                    total += series
                else:
                    far_i[count], far_j[count], far_law[count], far_cosine[count] = i, j, m, cosine
                    count += 1
        row_sums[i] = total
    return count


@jit(fastmath={"reassoc", "contract"})
def _dot(u, v):
    """Sum of products. Reassociation lets the loop use vector registers; NaN and infinities still pass through."""
    total = 0.0
    for k in range(u.size):
        total += u[k] * v[k]
    return total
