r"""The bias of finite width, measured: networks of 2n neurons against their two halves.

On average a functional of N neurons in the exact risk (no samples, all parameters) is off the mean field by c/N, to
first order: each neuron meets itself with its own direction, and all others answer to that. Let 2n independent neurons
follow the flow of one network, and their two halves those of two networks of n. To first order in the starts

.. math:: \Phi(\rho_{2n}) - \tfrac12 \bigl( \Phi(\rho_n^{(1)}) + \Phi(\rho_n^{(2)}) \bigr)

does not see the draw, since the fluctuation of the whole is the mean of those of its halves, and its mean is
c/2n - c/n = -c/2n. What is left scatters by O(1/n), like c/n over the root of the number of parameters, so that a few
small networks tell c to some percent, but for what is of second order in 1/n: at late times, when the risk of the
isotropic model has nearly reached its least value, a tenth (networks of 40, 80, 160 neurons). So the halves are held
against their own halves, too; the change from these to those is told as if it fell on like the root of 1/n (seen: by
factors of .74 and .64 a doubling).

The scatter is known, too, as that of what is of second order in the starts: with independent Gaussian
:math:`\eta_1, \eta_2` of the halves and a quadratic form q, the difference is
:math:`-(q_{11} + q_{22})/4 + q_{12}/2`, which has half the deviation of :math:`q_{11}`; so -2n times it scatters as N
times the part of second order does.

A deviation is taken of as many neurons as there are, which alone makes it too small, by
:math:`\sigma (1/2 + (k - 1)/8)/N` for a law of kurtosis k; this is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput
from wgflow.reduced_models.base import NetworkModel, ReducedModel

from ..population import run_gradient_flow
from ..trajectories import SGDResult
from .functionals import Functional, WeightedPoints

__all__ = ["measured_width_bias"]

Array = NDArray[np.float64]
#: Networks, and neurons of each half. What 1/n^2 adds to c is of the order of c/n.
PAIRS = 16
HALF = 20
#: What is left of a series whose terms fall by the root of 2 each, in units of the last term known.
_LEFT = 1.0 / (np.sqrt(2.0) - 1.0)
#: The step control of the flow: its error is alike for the whole and its halves.
_TOLERANCE = 1e-3
#: The starts are drawn with this seed: a prediction has no chance in it.
_SEED = 90_107


def measured_width_bias(model: ReducedModel, law_at: Callable[[float], WeightedPoints], t: Array,
                        functionals: tuple[Functional, ...], ridge: float,
                        xi: float | Callable[[Array], ArrayLike]) -> tuple[Array, Array]:
    """Return N times the bias of finite width in each of several experiments, and how far their mean may be off.

    For a model whose coordinate is the length of a neuron's parameters. The risk is that of the network. The first has
    the shape (`PAIRS`, functionals, times). The second, of shape (functionals, times), is what the next orders in 1/N
    make of it: the change from networks half as large, whose halves are told by the halves of the halves.

    Raises
    ------
    InvalidInput
        If the model has other coordinates, or does not know the gradient of its network.
    """
    if not isinstance(model, NetworkModel) or model.n_coordinates != 1 or not model.n_parameters < np.inf:
        raise InvalidInput(f"the bias of finite width is measured for networks on one radius, not for {model!r}")
    rng = np.random.default_rng(_SEED)
    theta = _starts(model, law_at(0.0), rng)
    whole, halves, quarters = (
        np.mean([_values(model, theta[:, first:first + size], t, functionals, ridge, xi)
                 for first in range(0, 2 * HALF, size)], axis=0) for size in (2 * HALF, HALF, HALF // 2))
    found = -2.0 * HALF * (whole - halves)
    error: Array = _LEFT * np.abs((found + HALF * (halves - quarters)).mean(axis=0))
    for i, each in enumerate(functionals):
        if each.name.startswith("deviation of "):
            found[:, i] += np.array([_of_few(law_at(float(u))) for u in t])
        if each.name == "risk" and t[0] == 0.0:
            excess = getattr(model, "finite_width_excess", None)
            if excess is not None:  # exact for independent neurons
                start = law_at(0.0)
                found[:, i, 0] += excess(Atoms(start.points, start.weights)) - found[:, i, 0].mean()
    return found, error


def _starts(model: NetworkModel, law: WeightedPoints, rng: np.random.Generator) -> Array:
    """Return parameters of independent neurons, shape (PAIRS, 2 HALF, parameters), with the lengths of a law."""
    direction = rng.standard_normal((PAIRS, 2 * HALF, model.n_parameters))
    length = rng.choice(law.points[0], size=direction.shape[:2], p=law.weights / law.weights.sum())
    theta: Array = direction * (length / np.linalg.norm(direction, axis=2))[..., None]
    if not np.allclose(model.project(theta[0])[:, 0], length[0], rtol=1e-6, atol=1e-12):
        raise InvalidInput(f"the coordinate of {model!r} is not the length of a neuron's parameters")
    return theta


def _values(model: NetworkModel, theta: Array, t: Array, functionals: tuple[Functional, ...], ridge: float,
            xi: float | Callable[[Array], ArrayLike]) -> Array:
    """Return the functionals along the flows of networks, shape (networks, functionals, times)."""
    flow = _flow(model, theta, t, ridge, xi)
    equal = np.full(theta.shape[1], 1.0 / theta.shape[1])
    return np.array([[flow.risk[k] if each.name == "risk" else
                      [each.value(WeightedPoints(x.T, equal)) for x in flow.coordinates[k]] for each in functionals]
                     for k in range(len(theta))])


def _flow(model: NetworkModel, theta: Array, t: Array, ridge: float,
          xi: float | Callable[[Array], ArrayLike]) -> SGDResult:
    return run_gradient_flow(model, theta.shape[1], t, _SEED, n_runs=len(theta), ridge=ridge, theta0=theta, xi=xi,
                             space="full", tolerance=_TOLERANCE, store_theta=False)


def _of_few(law: WeightedPoints) -> float:
    """Return N times by how much the deviation of N draws is less than that of their law."""
    x = law.points[0] - law.expect(law.points[0])
    variance = float(law.expect(x**2))
    if variance <= 0.0:
        return 0.0
    return float(np.sqrt(variance) * (0.5 + (float(law.expect(x**4)) / variance**2 - 1.0) / 8.0))
