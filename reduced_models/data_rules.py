r"""What one fresh sample does to a network: rules over the data, and polynomials of Gaussian inputs.

A feature :math:`F_k(\theta)` of a reduced model is a coefficient of the output of a neuron, averaged over what its
coordinates leave open,

.. math:: \bar\sigma(x; \theta) = \sum_k F_k(\theta)\,\varphi_k(x), \qquad E\,\varphi_k \varphi_l = s_k \delta_{kl},

so that :math:`\hat y(x) = \sum_k z_k \varphi_k(x)` with the moments :math:`z_k = \int F_k \rho`. The noise that one
sample adds to gradients has the covariance of :math:`(y - \hat y(x)) \sum_k c_k \varphi_k(x)`, which
`ReducedModel.sample_covariance` gives: by a `DataRule`, which knows the functions :math:`\varphi_k` at the nodes of a
quadrature rule, or, where they are quadratic forms of a normal vector, by `quadratic_form_moment`. A series in
polynomials :math:`\varphi_k` that converges in mean square need not converge in the fourth moments that are wanted
here: where it is long, the outputs themselves are taken at the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from .base import FloatArray
from .radial_laws import gauss_chi_rule

__all__ = ["DataRule", "laguerre_table", "quadratic_form_moment", "radial_data", "weighted_covariance"]


def weighted_covariance(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the covariances of the rows of values (m, nodes) under weights that sum to 1."""
    centered = values - (values @ weights)[:, None]
    return (centered * weights) @ centered.T


@dataclass(frozen=True)
class DataRule:
    r"""A quadrature rule over the samples (x, y), with the functions that belong to the features.

    Attributes
    ----------
    weights : array of shape (nodes,)
        They sum to 1.
    labels : array of shape (nodes,)
        y.
    outputs : array of shape (nodes, features)
        :math:`\varphi_k(x_m)`.
    """

    weights: FloatArray
    labels: FloatArray
    outputs: FloatArray

    def sample_covariance(self, moments: FloatArray, slopes: FloatArray) -> FloatArray:
        """Return the covariances, shape (m, m), of ``(y - yhat) sum_k c_k phi_k`` for each row c of ``slopes``."""
        return weighted_covariance((self.labels - self.outputs @ moments) * (slopes @ self.outputs.T), self.weights)


def laguerre_table(n: int, x: FloatArray, terms: int) -> FloatArray:
    r"""Return the polynomials :math:`L_j` of :math:`\chi^2` that are orthonormal under the law of :math:`\chi_n`.

    Their leading coefficients are positive. For u uniform on the sphere of :math:`R^n` and the orthonormal Hermite
    polynomials, :math:`E\,\mathrm{he}_{2j}(\chi u_1) = \sqrt{M_{2j}(n)}\,L_j(\chi)` with the moments
    :math:`M_{2j} = E u_1^{2j}`.

    Parameters
    ----------
    n : int
    x : array of shape (nodes,)
        Values of chi.
    terms : int

    Returns
    -------
    array of shape (nodes, terms)
    """
    alpha, half = 0.5 * n - 1.0, 0.5 * np.square(x)
    table = np.ones((x.size, terms))
    previous = np.zeros_like(half)
    for j in range(terms - 1):
        below = np.sqrt(j * (j + alpha)) if j else 0.0
        beside = np.sqrt((j + 1) * (j + 1 + alpha))
        table[:, j + 1] = ((half - (2.0 * j + 1.0 + alpha)) * table[:, j] - below * previous) / beside
        previous = table[:, j]
    return table


def radial_data(dims: Sequence[float], degrees: Sequence[int]) -> tuple[FloatArray, list[FloatArray]]:
    """Return a rule for the lengths of blocks of normal inputs, and the Laguerre tables at its nodes.

    Parameters
    ----------
    dims : sequence of int or inf
        Dimensions of the blocks; all infinite in the limit, where the lengths are constants.
    degrees : sequence of int
        Highest degree in the squared length, for each block. Products of four polynomials are integrated exactly.

    Returns
    -------
    weights : array of shape (nodes,)
    tables : list of arrays of shape (nodes, degree + 1)
    """
    if np.isinf(dims[0]):
        return np.ones(1), [np.ones((1, degree + 1)) for degree in degrees]
    rules = [gauss_chi_rule(int(n), 2 * degree + 1) for n, degree in zip(dims, degrees)]
    mesh = np.meshgrid(*(nodes for nodes, _ in rules), indexing="ij")
    weights = np.ones(1)
    for _, own in rules:
        weights = np.multiply.outer(weights, own).ravel()
    tables = [laguerre_table(int(n), x.ravel(), degree + 1) for n, x, degree in zip(dims, mesh, degrees)]
    return weights, tables


def quadratic_form_moment(matrices: Sequence[FloatArray]) -> float:
    r"""Return :math:`E \prod_i \langle g, A_i g \rangle` for a standard normal vector g.

    The product is a sum over the partitions of the factors of products of joint cumulants, and the cumulant of k forms
    is :math:`2^{k-1} \sum \mathrm{tr}(A_{\pi(1)} \cdots A_{\pi(k)})` over the (k - 1)! cyclic orders.

    Parameters
    ----------
    matrices : sequence of arrays of shape (d, d)
        Symmetric.

    Examples
    --------
    >>> quadratic_form_moment([np.eye(1)] * 4)  # E g^8
    105.0
    """
    return float(sum(np.prod([_cumulant([matrices[i] for i in block]) for block in partition])
                     for partition in _partitions(list(range(len(matrices))))))


def _cumulant(matrices: list[FloatArray]) -> float:
    total = 0.0
    for order in permutations(matrices[1:]):
        product = matrices[0]
        for matrix in order:
            product = product @ matrix
        total += float(np.trace(product))
    return 2.0 ** (len(matrices) - 1) * total


def _partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Yield the partitions of a list into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for partition in _partitions(rest):
        yield [[first], *partition]
        for k, block in enumerate(partition):
            yield [*partition[:k], [first, *block], *partition[k + 1:]]
