"""Least squares of least norm with random covariates: the simplest double descent."""

from __future__ import annotations

import numpy as np

from wgflow.checks import check_count, check_positive

from .simulated import Simulated, as_generator, over_runs

__all__ = ["LeastSquares"]


class LeastSquares:
    r"""Linear regression :math:`y = \langle \beta, x \rangle + \varepsilon` from n samples :math:`x \sim N(0, I_d)`.

    The estimator is :math:`\hat\beta = X^+ y`, least squares or, for n < d, the interpolant of least norm. Exactly, for
    any n and d,

    .. math::
        E\,|\hat\beta - \beta|^2 = |\beta|^2 B + \mathrm{Var}(\varepsilon)\,V, \qquad B = (1 - n/d)_+, \qquad
        V = E\,\mathrm{tr}\,(X^T X)^+ =
        \begin{cases} d/(n-d-1) & n > d + 1 \\ n/(d-n-1) & d > n + 1 \\ \infty & |n - d| \le 1 . \end{cases}

    Parameters
    ----------
    n_samples, d : int
        n and d.

    Examples
    --------
    >>> f"{LeastSquares(50, 30).variance:.6f} {LeastSquares(30, 50).variance:.6f} {LeastSquares(30, 50).bias}"
    '1.578947 1.578947 0.4'
    """

    def __init__(self, n_samples: int, d: int):
        self.n_samples, self.d = check_count("n_samples", n_samples), check_count("d", d)

    def __repr__(self) -> str:
        return f"LeastSquares(n_samples={self.n_samples}, d={self.d})"

    @property
    def bias(self) -> float:
        """B, the share of the signal that no sample has seen."""
        return max(0.0, 1.0 - self.n_samples / self.d)

    @property
    def variance(self) -> float:
        """V, in units of the noise; infinite where the numbers of samples and of dimensions differ by at most 1."""
        gap = abs(self.n_samples - self.d) - 1
        return min(self.n_samples, self.d) / gap if gap > 0 else np.inf

    def risk(self, signal: float = 1.0, noise: float = 0.0) -> float:
        r"""Return :math:`|\beta|^2 B + \tau^2 V`, with ``signal`` = :math:`|\beta|^2`, ``noise`` = :math:`\tau^2`."""
        signal, noise = check_positive("signal", signal, zero=True), check_positive("noise", noise, zero=True)
        return signal * self.bias + (noise * self.variance if noise else 0.0)

    def simulate(self, n_runs: int = 20, *, signal: float = 1.0, noise: float = 0.0,
                 rng: int | np.random.Generator | None = None) -> Simulated:
        r"""Draw :math:`X` and return the risk, averaged exactly over the directions of beta and the noise.

        Parameters
        ----------
        n_runs : int
            Independent draws, at least 2.
        signal, noise : float
            :math:`|\beta|^2` and the variance of the noise.
        rng : int or Generator, optional

        Returns
        -------
        Simulated
            Mean, standard error and the values of the runs.
        """
        signal, noise = check_positive("signal", signal, zero=True), check_positive("noise", noise, zero=True)

        def one(generator: np.random.Generator) -> float:
            singular = np.linalg.svd(generator.standard_normal((self.n_samples, self.d)), compute_uv=False)
            return signal * (1.0 - np.count_nonzero(singular) / self.d) + noise * float(np.sum(singular**-2.0))

        return over_runs(one, n_runs, as_generator(rng))
