"""The staircase of random features and of the tangent model: polynomials of which degree N neurons can learn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh

from wgflow.activations.base import Activation
from wgflow.checks import check_count, check_flag, check_memory
from wgflow.errors import InvalidInput

from ..base import FloatArray
from .simulated import Simulated, as_generator, sphere_points
from .sphere_kernels import SphereKernel, harmonics, legendre_values

__all__ = ["Staircase"]

_ROUNDING = 1e-12  # share of the largest eigenvalue below which a direction of the features counts as absent


class Staircase:
    r"""How well N neurons with random weights learn a polynomial of degree l, with the whole population at hand.

    Inputs are uniform on the sphere of radius sqrt(d), weights :math:`w_i` on the unit sphere, and the target is
    :math:`f = \sqrt{B(d, l)}\,Q_l(\langle e, x \rangle/\sqrt d)`, of mean square 1 and pure degree l. Random features
    (RF) fit :math:`\sum_i a_i \sigma(\langle w_i, x \rangle)`, the tangent model (NT)
    :math:`\sum_i \langle a_i, x \rangle \sigma'(\langle w_i, x \rangle)`. Given the weights the least risk is exactly

    .. math:: R = 1 - v^T U^{-1} v ,

    with U the second moments of the features and v their moments with the target, both series of Gegenbauer
    polynomials. As :math:`d \to \infty` with :math:`N \le d^{l + 1 - \delta}`, RF learns nothing beyond degree l, and
    NT nothing beyond degree l + 1.

    Parameters
    ----------
    activation : Activation
    d : int
        Dimension, at least 3.
    n_neurons : int
        N.

    Notes
    -----
    Source: Ghorbani, Mei, Misiakiewicz and Montanari, "Linearized two-layers neural networks in high dimension" (2019).

    Examples
    --------
    >>> from wgflow.activations import ReLU
    >>> stairs = Staircase(ReLU(offset=-0.5), d=30, n_neurons=90)
    >>> [round(stairs.random_features(degree, n_runs=3, rng=7).mean, 2) for degree in (1, 2, 3)]
    [0.25, 0.85, 1.0]
    """

    def __init__(self, activation: Activation, d: int, n_neurons: int):
        self.kernel = SphereKernel(activation, d)
        self.activation, self.d = activation, self.kernel.d
        self.n_neurons = check_count("n_neurons", n_neurons)

    def __repr__(self) -> str:
        return f"Staircase({self.activation!r}, d={self.d}, n_neurons={self.n_neurons})"

    @property
    def level(self) -> int:
        """The l with d^l <= N < d^(l+1): beyond it random features learn nothing, beyond l + 1 the tangent model."""
        return math.floor(math.log(self.n_neurons) / math.log(self.d) + 1e-12)

    def random_features(self, degree: int, n_runs: int = 3, rng: int | np.random.Generator | None = None) -> Simulated:
        """Return the least risk of random features for a target of pure ``degree``, over draws of the weights.

        Parameters
        ----------
        degree : int
            l, up to 400.
        n_runs : int
            Draws of the weights, at least 2.
        rng : int or Generator, optional

        Raises
        ------
        ConvergenceError
            If two neurons are so nearly parallel that the series does not end (few dimensions, many neurons).
        ResourceError
            If the matrix does not fit in memory.
        """
        return self.over_degrees([degree], n_runs, rng)[degree]

    def tangent(self, degree: int, n_runs: int = 2, rng: int | np.random.Generator | None = None) -> Simulated:
        """Return the least risk of the tangent model, a system of N d unknowns; see :meth:`random_features`."""
        return self.over_degrees([degree], n_runs, rng, tangent=True)[degree]

    def over_degrees(self, degrees: Sequence[int], n_runs: int = 3, rng: int | np.random.Generator | None = None, *,
                     tangent: bool = False, n_directions: int = 1) -> dict[int, Simulated]:
        """Return the least risks for targets of several degrees from the same draws of the weights.

        Parameters
        ----------
        degrees : sequence of int
        n_runs, rng
            As for :meth:`random_features`.
        tangent : bool
            Of the tangent model, in place of random features.
        n_directions : int
            Each draw is averaged over so many orthogonal directions e of the target, at most d. The mean is the same
            for each direction; its standard error falls as far as directions differ.

        Raises
        ------
        InvalidInput
            If a degree or the number of directions is out of range.
        ConvergenceError, ResourceError
            As :meth:`random_features`.
        """
        pairs = [self._coefficients(degree) for degree in degrees]
        check_count("n_runs", n_runs, 2)
        if check_count("n_directions", n_directions) > self.d:
            raise InvalidInput(f"n_directions={n_directions}: at most d = {self.d} directions are orthogonal")
        size = self.n_neurons * (self.d if check_flag("tangent", tangent) else 1)
        check_memory(8.0 * 6 * size**2, f"n_neurons={self.n_neurons}, d={self.d}: a kernel of {size} features",
                     "take fewer neurons" + (" or dimensions" if tangent else ""))

        def one(generator: np.random.Generator) -> FloatArray:
            w = sphere_points(generator, self.n_neurons, self.d, 1.0)
            moments = self.kernel.tangent_values(w).reshape(size, size) if tangent else self.kernel.values(w)
            targets = [self._tangent_moments(w, axis, degree, f, h) if tangent
                       else f * self._target(w[:, axis], degree)[0]
                       for degree, (f, h) in zip(degrees, pairs) for axis in range(n_directions)]
            return _risks(moments, np.array(targets)).reshape(len(pairs), n_directions).mean(axis=1)

        values = np.array([one(child) for child in as_generator(rng).spawn(n_runs)])
        return {degree: Simulated(float(each.mean()), float(each.std(ddof=1) / math.sqrt(n_runs)), each)
                for degree, each in zip(degrees, values.T)}

    def _tangent_moments(self, w: FloatArray, axis: int, degree: int, f: float, h: float) -> FloatArray:
        """Return E sigma'(<w, x>) x f(x), the gradient in w of f_l(|w|) f(w/|w|), for e the unit vector of ``axis``."""
        value, slope = self._target(w[:, axis], degree)
        v = (h * value - f * slope * w[:, axis])[:, None] * w
        v[:, axis] += f * slope
        return v.ravel()

    def _coefficients(self, degree: int) -> tuple[float, float]:
        return self.kernel.coefficient(check_count("degree", degree, 0))

    def _target(self, c: FloatArray, degree: int) -> tuple[FloatArray, FloatArray]:
        """Return the target at the weights, sqrt(B) Q(c), and its derivative in c."""
        size = math.sqrt(harmonics(self.d, degree)[degree])
        for k, (value, slope, _) in enumerate(legendre_values(c, self.d)):
            if k == degree:
                return size * value, size * slope
        raise InvalidInput(f"degree={degree}")  # not reached: the polynomials do not end


def _risks(moments: FloatArray, targets: FloatArray) -> FloatArray:
    """Return 1 - v' U^+ v of each row v."""
    values, vectors = eigh(moments)
    kept = values > _ROUNDING * values[-1]
    return 1.0 - np.sum((targets @ vectors[:, kept]) ** 2 / values[kept], axis=1)
