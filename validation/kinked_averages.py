r"""Gaussian averages of four functions with one kink at 0: what the noise of samples adds for rectifiers.

For centered Gaussian :math:`z` of covariance C write :math:`s_a = \mathrm{sign}\,z_a`, and :math:`C^{(m)}` for the
covariance given :math:`z_m = 0`. Integration by parts, :math:`E[z_k f(z)] = \sum_l C_{kl}\,E[\partial_l f]` with
:math:`\partial_l s_l = 2 \delta(z_l)`, takes one factor z away at a time, until signs alone are left:

.. math::
    E[s_a s_b] &= \tfrac2\pi \arcsin r_{ab}, \qquad
    E[|z_l| s_a s_b] = 2 \sum_{m \in \{l, a, b\}} \phi_m C_{lm}\, E[s s' \mid z_m = 0],
    \qquad \phi_m = (2 \pi C_{mm})^{-1/2}, \\
    E[|z_k| |z_l| s_a s_b] &= C_{kl}\,E[s_k s_l s_a s_b]
        + 2 \sum_{m \in \{k, a, b\}} \phi_m C_{km}\, E[z_l s_l s s' \mid z_m = 0],

with s, s' the other two. Only the average of four signs has no closed form. Its derivative by a correlation is
:math:`4 \cdot \frac{1}{2\pi \sqrt{1 - r_{ab}^2}}\,E[s_c s_d \mid z_a = z_b = 0]` (R. L. Plackett, Biometrika 41 (1954)
351-360); along :math:`t r`, from independent ones at t = 0,

.. math::
    E[s_1 s_2 s_3 s_4] = \frac{4}{\pi^2} \int_0^1 \sum_{a < b} \frac{r_{ab}}{\sqrt{1 - t^2 r_{ab}^2}}
        \arcsin \rho_{cd}(t)\,dt, \qquad \rho_{cd}\ \text{the correlation given } z_a = z_b = 0 .
"""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

__all__ = ["four_signs", "kinked_squares"]

Array = NDArray[np.float64]
#: Nodes of the rule for four signs,
_NODES = 64
#: and the ends of its variable, where the weights reach the rounding error.
_REACH = 3.0
#: Quadruples whose integrands are held at a time.
_BLOCK = 4096
#: A variance below this share of what it was before others were fixed is rounding: the variable is fixed as well.
_FIXED = 1e-13


def kinked_squares(c: Array, gamma: Array, constant: float, noise: float, slopes: tuple[float, float]) -> Array:
    r"""Return :math:`E[(e^2 + v)\,\sigma'(z_i) \sigma'(z_j)]` for functions that are linear on each side of 0.

    With the slopes :math:`\alpha \mp \beta` left and right of 0, :math:`\sigma(z) = \sigma(0) + \alpha z + \beta |z|`,
    :math:`\sigma' = \alpha + \beta s` and :math:`e = e_0 + \alpha Z + \beta W`, with
    :math:`Z = \sum_k \gamma_k z_k` and :math:`W = \sum_k \gamma_k |z_k|`. What is odd in z has the average 0.

    Parameters
    ----------
    c : ndarray, shape (n, n)
        Covariance of the preactivations.
    gamma : ndarray, shape (n,)
    constant, noise : float
        :math:`e_0`, and the variance v of the noise of labels.
    slopes : tuple of float
        Left and right of 0.

    Returns
    -------
    ndarray, shape (n, n)
    """
    alpha, beta = 0.5 * (slopes[1] + slopes[0]), 0.5 * (slopes[1] - slopes[0])
    line = c @ gamma
    law = _Law(np.block([[c, line[:, None]], [line[None], np.array([[gamma @ line]])]]), gamma)
    still = constant**2 + noise
    whole = still + alpha**2 * float(gamma @ line) + 2.0 * constant * beta * law.size() + beta**2 * law.square()
    crossed = 2.0 * alpha * (constant * law.line_sign() + beta * law.line_size_sign())
    both = still * law.signs() + alpha**2 * law.line_signed()
    both += 2.0 * constant * beta * law.size_signed() + beta**2 * law.square_signed()
    np.fill_diagonal(both, whole)  # s_i s_i = 1
    found: Array = alpha**2 * whole + alpha * beta * (crossed[:, None] + crossed) + beta**2 * both
    return found


class _Law:
    """Averages with Z and W. Variable n of the covariance is Z; those with two signs are left 0 on the diagonal."""

    def __init__(self, c: Array, gamma: Array):
        self.c, self.gamma, self.n = c, gamma, gamma.size
        self.own, self.pairs, self.triples = (self._tuples(size) for size in (1, 2, 3))

    def _tuples(self, size: int) -> NDArray[np.intp]:
        return np.array(list(permutations(range(self.n), size)), dtype=np.intp).reshape(-1, size)

    def _average(self, which: NDArray[np.intp], lines: tuple[int, ...], signs: tuple[int, ...]) -> Array:
        return _average(self.c[which[:, :, None], which[:, None]], lines, signs)

    def _with_line(self, which: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.insert(which, 0, self.n, axis=1)

    def _table(self, which: NDArray[np.intp], values: Array, i: int, j: int) -> Array:
        """Return the sums of the values by the variables in columns i and j, and the same with i and j exchanged."""
        found = np.zeros((self.n, self.n))
        np.add.at(found, (which[:, i], which[:, j]), values)
        return found

    def size(self) -> float:
        """Return E W."""
        return float(self.gamma @ self._average(self.own, (0,), (0,)))

    def square(self) -> float:
        """Return E W^2."""
        k, l = self.pairs.T
        apart = self.gamma[k] * self.gamma[l] * self._average(self.pairs, (0, 1), (0, 1))
        return float(self.gamma**2 @ np.diag(self.c)[:-1] + apart.sum())

    def line_sign(self) -> Array:
        """Return E Z s_i."""
        return self._average(self._with_line(self.own), (0,), (1,))

    def line_size_sign(self) -> Array:
        """Return E Z W s_i."""
        found: Array = self.gamma * self.c[-1, :-1]
        i, k = self.pairs.T
        np.add.at(found, i, self.gamma[k] * self._average(self._with_line(self.pairs), (0, 2), (1, 2)))
        return found

    def signs(self) -> Array:
        """Return E s_i s_j."""
        return self._table(self.pairs, self._average(self.pairs, (), (0, 1)), 0, 1)

    def line_signed(self) -> Array:
        """Return E Z^2 s_i s_j."""
        return self._table(self.pairs, self._average(self._with_line(self.pairs), (0, 0), (1, 2)), 0, 1)

    def size_signed(self) -> Array:
        """Return E W s_i s_j."""
        meeting = self._table(self.pairs, self.gamma[self.pairs[:, 0]] * self._average(self.pairs, (0,), (1,)), 0, 1)
        apart = self.gamma[self.triples[:, 2]] * self._average(self.triples, (2,), (0, 1, 2))
        return meeting + meeting.T + self._table(self.triples, apart, 0, 1)

    def square_signed(self) -> Array:
        """Return E W^2 s_i s_j: of W^2 = sum g_k g_l |z_k| |z_l|, first where k = l."""
        gamma, (i, _), (_, _, k) = self.gamma, self.pairs.T, self.triples.T
        half = self._table(self.pairs, gamma[i] ** 2 * self._average(self.pairs, (0, 0), (0, 1)), 0, 1)
        found = self._table(self.triples, gamma[k] ** 2 * self._average(self.triples, (2, 2), (0, 1)), 0, 1)
        found += 2.0 * np.outer(gamma, gamma) * self.c[:-1, :-1]  # |z_i| |z_j|
        # |z_i| |z_k|, where s_i s_i = 1, and |z_j| |z_k|.
        half += self._table(self.triples, 2.0 * gamma[self.triples[:, 0]] * gamma[k]
                            * self._average(self.triples, (0, 2), (1, 2)), 0, 1)
        return found + half + half.T + self._all_apart()

    def _all_apart(self) -> Array:
        """Return the part of W^2 from two factors that are neither z_i nor z_j."""
        quads = np.array(list(combinations(range(self.n), 4)), dtype=np.intp).reshape(-1, 4)
        found = np.zeros((self.n, self.n))
        if not len(quads):
            return found
        c = self.c[quads[:, :, None], quads[:, None]]
        together = _average(c, (), (0, 1, 2, 3))
        for i, j in combinations(range(4), 2):
            k, l = (each for each in range(4) if each not in (i, j))
            values = _average(c, (k, l), (0, 1, 2, 3), together)
            found += self._table(quads, 2.0 * self.gamma[quads[:, k]] * self.gamma[quads[:, l]] * values, i, j)
        return found + found.T


def _average(c: Array, lines: tuple[int, ...], signs: tuple[int, ...], four: Array | None = None) -> Array:
    r"""Return :math:`E \prod_{k \in lines} z_k \prod_{a \in signs} s_a`, shape (m,), for covariances (m, p, p).

    Parameters
    ----------
    lines : tuple of int
        The factors z, with repetitions.
    signs : tuple of int
        Different ones, at most four.
    four : ndarray, shape (m,), optional
        The average of the four signs, where it is known.
    """
    if (len(lines) + len(signs)) % 2:
        return np.zeros(len(c))
    if not lines:
        if len(signs) == 4:
            return four_signs(_correlations(c, signs)) if four is None else four
        return 2.0 / math.pi * np.arcsin(_correlations(c, signs)[:, 0, 1]) if signs else np.ones(len(c))
    k, rest, found = lines[0], lines[1:], np.zeros(len(c))
    for place, other in enumerate(rest):
        found += c[:, k, other] * _average(c, rest[:place] + rest[place + 1 :], signs, four)
    for a in signs:
        variance = c[:, a, a]
        inverse = np.where(variance > 0.0, 1.0 / np.where(variance > 0.0, variance, 1.0), 0.0)
        others = tuple(b for b in signs if b != a)
        found += 2.0 * np.sqrt(inverse / (2.0 * math.pi)) * c[:, k, a] * _average(_given(c, a, inverse), rest, others)
    return found


def _given(c: Array, a: int, inverse: Array) -> Array:
    """Return the covariances given that variable a, of the inverse variance given, is 0."""
    column = c[:, :, a]
    found = c - column[:, :, None] * column[:, None] * inverse[:, None, None]
    free = np.einsum("mkk->mk", found) > _FIXED * np.einsum("mkk->mk", c)
    found *= free[:, :, None] & free[:, None]
    return found


def _correlations(c: Array, which: tuple[int, ...]) -> Array:
    """Return correlations of the variables named; 0 with one that is fixed."""
    c = c[:, which][:, :, which]
    variance = np.einsum("mkk->mk", c)
    root = np.where(variance > 0.0, 1.0 / np.sqrt(np.where(variance > 0.0, variance, 1.0)), 0.0)
    return np.clip(c * root[:, :, None] * root[:, None], -1.0, 1.0)


def four_signs(r: Array) -> Array:
    """Return the average of four signs, shape (m,), from correlations of shape (m, 4, 4)."""
    t, rest, weights = _rule()
    found = np.empty(len(r))
    for first in range(0, len(r), _BLOCK):
        own = r[first : first + _BLOCK, :, :, None]
        total = np.zeros((len(own), t.size))
        for a, b in combinations(range(4), 2):
            c, d = (k for k in range(4) if k not in (a, b))
            ab, ac, ad, bc, bd, cd = (t * own[:, i, j] for i, j in ((a, b), (a, c), (a, d), (b, c), (b, d), (c, d)))
            # 1 - ab^2, without cancellation near t = 1, r = 1; covariances given z_a = z_b = 0 are those below over it.
            left = (1.0 - np.abs(own[:, a, b]) + rest * np.abs(own[:, a, b])) * (1.0 + np.abs(ab))
            covariance = cd * left - ac * ad - bc * bd + ab * (ac * bd + bc * ad)
            first_size = left - ac**2 - bc**2 + 2.0 * ab * ac * bc
            second_size = left - ad**2 - bd**2 + 2.0 * ab * ad * bd
            scale = np.maximum(first_size, 0.0) * np.maximum(second_size, 0.0)
            sine = covariance / np.sqrt(np.where(scale > 0.0, scale, np.inf))
            total += own[:, a, b] / np.sqrt(np.where(left > 0.0, left, np.inf)) * np.arcsin(np.clip(sine, -1.0, 1.0))
        found[first : first + _BLOCK] = 4.0 / math.pi**2 * (total @ weights)
    return found


def _rule() -> tuple[Array, Array, Array]:
    """Return nodes t, 1 - t and weights on (0, 1), dense at 1, where neurons in one plane make a root."""
    x, h = np.linspace(-_REACH, _REACH, _NODES, retstep=True)
    inner = 0.5 * math.pi * np.sinh(x)
    weights = 0.25 * h * math.pi * np.cosh(x) / np.cosh(inner) ** 2
    return 1.0 / (1.0 + np.exp(-2.0 * inner)), 1.0 / (1.0 + np.exp(2.0 * inner)), weights
