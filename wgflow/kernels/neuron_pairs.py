"""Sums over pairs of neurons: the Mehler series of a population risk."""

from __future__ import annotations

import numpy as np

from ._jit import jit


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
        Pairs whose series does not reach the tolerance; they are left to a closed form.

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
