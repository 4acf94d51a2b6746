"""A quadratic target: the risks of random features, the tangent model and a trained network."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammainc, gammaincinv

from wgflow.activations.base import finite_array
from wgflow.checks import check_positive, check_real
from wgflow.errors import InvalidInput

__all__ = ["QuadraticTarget"]


class QuadraticTarget:
    r"""Three ways to learn :math:`f(x) = \langle x, B x \rangle - \mathrm{tr}\,B`, x normal, with N squares.

    Risks are shares of :math:`E f^2 = 2 |B|_F^2`, as N, d grow with :math:`N/d \to \psi` and
    :math:`\kappa = (\mathrm{tr}\,B)^2/(d\,|B|_F^2)`. Random features with :math:`w \sim N(0, \Gamma)`, the tangent
    model at random weights, and the network of least risk, which finds the N largest eigenvalues of B, reach

    .. math::
        R_{RF} = 1 - \frac{\psi s\,a}{1 + \psi s}, \qquad
        R_{NT} = (1 - \psi)_+^2 + \psi (1 - \psi)_+\,\kappa, \qquad
        R_{NN} = 1 - \frac{\sum_{i \le N} \lambda_i^2}{|B|_F^2} ,

    with :math:`a = \langle B, \Gamma \rangle^2/(|B|_F^2 |\Gamma|_F^2)` and :math:`s = d\,|\Gamma|_F^2 \ge 1`, for
    :math:`\mathrm{tr}\,\Gamma = 1`. For :math:`\Gamma = I/d`: :math:`a = \kappa, s = 1`.

    Parameters
    ----------
    kappa : float
        In [0, 1]; 1 is the identity, 0 a matrix whose trace is small.
    psi : float
        N/d > 0; infinity is allowed.
    eigenvalues : array_like, optional
        The eigenvalues of B, as a sample of their law, for R_NN; their kappa must be ``kappa``. By default they follow
        a gamma law of shape kappa/(1 - kappa): the exponential law for kappa = 1/2.
    alignment, spread : float, optional
        a and s, of another law of the weights.

    Raises
    ------
    InvalidInput
        If kappa or alignment is outside [0, 1], psi is not positive, spread is below 1, or the eigenvalues have another
        kappa.

    Notes
    -----
    ``FiniteQuadraticTarget`` has the same risks for a given matrix, exactly, and trains the network. Source: Ghorbani,
    Mei, Misiakiewicz and Montanari, "Limitations of lazy training of two-layers neural networks" (2019).

    Examples
    --------
    >>> target = QuadraticTarget(kappa=0.5, psi=0.5)
    >>> f"{target.risk_rf:.6f} {target.risk_nt:.3f} {target.risk_nn:.6f}"
    '0.833333 0.375 0.033313'
    """

    def __init__(self, kappa: float, psi: float, *, eigenvalues: ArrayLike | None = None,
                 alignment: float | None = None, spread: float = 1.0):
        self.kappa = _share("kappa", kappa)
        self.psi = check_positive("psi", psi, infinite=True)
        self.alignment = self.kappa if alignment is None else _share("alignment", alignment)
        self.spread = check_real("spread", spread)
        if self.spread < 1.0:
            raise InvalidInput(f"spread={spread}: d |Gamma|^2 is at least (tr Gamma)^2 = 1")
        self.eigenvalues = None
        if eigenvalues is not None:
            self.eigenvalues = finite_array("eigenvalues", eigenvalues).ravel()
            square = float(np.mean(self.eigenvalues**2)) if self.eigenvalues.size else 0.0
            if square == 0.0:
                raise InvalidInput("eigenvalues: need at least one that is not 0")
            own = float(np.mean(self.eigenvalues)) ** 2 / square
            if not math.isclose(own, self.kappa, rel_tol=1e-6, abs_tol=1e-12):
                raise InvalidInput(f"eigenvalues have kappa = mean^2/mean square = {own:.9g}, and kappa={kappa} was "
                                   "given; give theirs")

    def __repr__(self) -> str:
        return f"QuadraticTarget(kappa={self.kappa:g}, psi={self.psi:g})"

    @property
    def risk_rf(self) -> float:
        """The share of the target that random features leave."""
        if math.isinf(self.psi):
            return 1.0 - self.alignment
        return 1.0 - self.psi * self.spread * self.alignment / (1.0 + self.psi * self.spread)

    @property
    def risk_nt(self) -> float:
        """The share that the tangent model at random weights leaves."""
        rest = max(0.0, 1.0 - self.psi)
        return rest * rest + (self.psi * rest * self.kappa if rest else 0.0)

    @property
    def risk_nn(self) -> float:
        """The share that the best network leaves, which gradient flow finds."""
        if self.psi >= 1.0:
            return 0.0
        if self.eigenvalues is not None:
            return tail_share(self.eigenvalues, self.psi * self.eigenvalues.size)
        if self.kappa == 1.0:
            return 1.0 - self.psi
        if self.kappa == 0.0:  # a gamma law of shape 0: a share 0 of the eigenvalues carries all
            return 0.0
        shape = self.kappa / (1.0 - self.kappa)
        return float(gammainc(shape + 2.0, gammaincinv(shape, 1.0 - self.psi)))


def tail_share(eigenvalues: np.ndarray, count: float) -> float:
    """Return the share of the sum of squares beyond the ``count`` largest, with a part of one if it is not whole."""
    squares = np.sort(eigenvalues**2)[::-1]
    whole = min(int(count), squares.size)
    rest = float(squares[whole:].sum())
    if whole < squares.size:
        rest -= (count - whole) * float(squares[whole])
    return rest / float(squares.sum())


def _share(name: str, value: float) -> float:
    number = check_real(name, value)
    if not 0.0 <= number <= 1.0:
        raise InvalidInput(f"{name}={value}: must be in [0, 1]")
    return number
