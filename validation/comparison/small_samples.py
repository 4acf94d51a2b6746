r"""How wide a band must be where the scatter of the runs is learned from few of them.

Beside the scatter :math:`\sigma` of independent draws, which is known, the runs have one that they share, so that the
variance of a fit is :math:`\phi \sigma^2` with an unknown :math:`\phi \ge 1`. Of n runs :math:`\hat\phi = \phi S^2` is
seen, :math:`(n - 1) S^2` being chi-square with n - 1 degrees of freedom and independent of the fit
:math:`\sqrt\phi\,\sigma Z`. For large :math:`\phi` the ratio has Student's law. For a moderate one the runs may show
nothing, :math:`\hat\phi < 1`, although :math:`\phi` is several: a band that adds what exceeds 1,
:math:`c^2 + K^2 (\hat\phi - 1)_+`, is then left too often, by three runs four times as often as it should. So what may
count as independent draws is a smaller :math:`\phi_0 \le 1`,

.. math:: \mathrm{band}^2 / \sigma^2 = c^2 + K^2 \max(0, \tilde\phi - \phi_0),

with the Gaussian quantile c and Student's quantile K, and :math:`\phi_0` the largest number for which the bands of all
times are left with the wanted probability *for the least favorable* :math:`\phi`, whether the times of a run are
independent or all the same. With :math:`\phi_0 = 0` they are not left more often: :math:`|Z| > K S` has Student's
probability.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, ndtri, stdtrit

__all__ = ["borrowed", "observed_scatter"]

Array = NDArray[np.float64]
#: Values of phi among which the least favorable is sought; beyond them the law is Student's.
_PHI = np.geomspace(1.0, 200.0, 16)
#: Draws of S^2, their seed, and bisections.
_DRAWS, _SEED, _HALVINGS = 500, 40009, 7


def borrowed(phi: Array) -> Array:
    """Return ``max(phi, (phi + median) / 2)`` over the last axis: a time that seems calm borrows from the others."""
    found: Array = np.maximum(phi, 0.5 * (phi + np.median(phi, axis=-1, keepdims=True)))
    return found


@lru_cache(maxsize=512)
def observed_scatter(n_runs: int, n_times: int, n_modes: int, level: float) -> tuple[float, float]:
    r"""Return K and :math:`\phi_0`, which Student's law and the least favorable scatter ask for.

    Parameters
    ----------
    n_runs : int
        At least 2.
    n_times : int
    n_modes : int
        Modes at each time: one for each coordinate, which its distances and its mean share, and one for the risk. All
        modes and times are allowed for by Sidak's inequality, which holds for whatever they have to do with each other.
    level : float
        Probability that any of the bands is left.
    """
    each = -np.expm1(np.log1p(-level) / (n_modes * n_times))
    gaussian, student = float(ndtri(1.0 - 0.5 * each)), float(stdtrit(n_runs - 1, 1.0 - 0.5 * each))
    allowed = -np.expm1(np.log1p(-level) / n_modes)
    levels = (np.arange(_DRAWS) + 0.5) / _DRAWS
    together = chdtri(n_runs - 1, levels)[:, None] / (n_runs - 1)
    apart = np.random.default_rng(_SEED).permuted(np.repeat(together, n_times, axis=1), axis=0)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        worst = max(_left(squares, gaussian, student, middle) for squares in (together, apart))
        low, high = (middle, high) if worst <= allowed else (low, middle)
    return student, low


def _left(squares: Array, gaussian: float, student: float, start: float) -> float:
    """Return how often the bands of all times, whose S^2 are given (draws, times), are left for the worst phi."""
    worst = 0.0
    for phi in _PHI:
        band = np.sqrt((gaussian**2 + student**2 * np.maximum(0.0, borrowed(phi * squares) - start)) / phi)
        worst = max(worst, float(1.0 - np.mean(np.prod(1.0 - 2.0 * ndtr(-band), axis=1))))
    return worst
