r"""Functionals of a law and their influence functions.

If :math:`\Phi(\rho + \epsilon\eta) = \Phi(\rho) + \epsilon \int f\,d\eta + O(\epsilon^2)`, then f is the influence
function of :math:`\Phi` at :math:`\rho`, up to a constant, and the scatter of :math:`\Phi(\rho_N)` is that of
:math:`\int f\,d\rho_N` to first order:

    mean of a coordinate x      f = x
    deviation of x              f = ((x - m)^2 - v) / (2 sqrt v)
    risk R of a network         f = c Psi,  c = 2 for the square loss, 1 for others
    int f rho                   f
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import call_user, real_array
from wgflow.errors import InvalidInput, InvalidType
from wgflow.reduced_models.base import ReducedModel

__all__ = ["Functional", "WeightedPoints", "functionals_of"]

Array = NDArray[np.float64]
#: Step of a central difference, relative to the size of the coordinate.
_STEP = 1e-5


@dataclass(frozen=True)
class WeightedPoints:
    """A law as the sum of point masses: ``points`` of shape (coordinates, n), ``weights`` that sum to 1."""

    points: Array
    weights: Array

    def expect(self, values: Array) -> Array:
        """Return the mean of values of shape (..., n)."""
        return values @ self.weights


@dataclass(frozen=True)
class Functional:
    """A functional of a law: its name, its value, and its influence function at a law, as functions of points."""

    name: str
    value: Callable[[WeightedPoints], float]
    influence: Callable[[WeightedPoints], Callable[[Array], Array]]

    def values(self, law: WeightedPoints) -> Array:
        """Return the influence function at the points of the law."""
        return self.influence(law)(law.points)

    def slopes(self, law: WeightedPoints) -> Array:
        """Return the gradient of the influence function at the points of the law, by central differences."""
        return differences(self.influence(law), law.points)


def differences(f: Callable[[Array], Array], points: Array) -> Array:
    """Return the gradient of f (..., n) at points (coordinates, n), shape (..., coordinates, n).

    At a point closer to 0 than the step the difference is one-sided, so that a length never becomes negative.
    """
    n = len(points)
    ends = np.tile(points, (2 * n, 1, 1))
    widths = []
    for k, (lower, upper) in enumerate(zip(ends[:n], ends[n:])):
        step = _STEP * (1.0 + np.abs(points[k]))
        lower[k] = np.where((points[k] >= 0.0) & (points[k] < step), points[k], points[k] - step)
        upper[k] += step
        widths.append(upper[k] - lower[k])
    # One call for all points: a call costs far more than the points of most laws.
    values = f(ends.transpose(1, 0, 2).reshape(n, -1))
    values = values.reshape(*values.shape[:-1], 2, n, points.shape[1])
    slopes: Array = (values[..., 1, :, :] - values[..., 0, :, :]) / np.array(widths)
    return slopes


def functionals_of(model: ReducedModel, wanted: Sequence[str | Callable[..., Array]] | None) -> tuple[Functional, ...]:
    """Return functionals by name, ``"mean of r"``, ``"deviation of r"``, ``"risk"``, or given as functions.

    Parameters
    ----------
    model : ReducedModel
    wanted : sequence of str or callables, optional
        All that have a name by default. A function f of the coordinates stands for its mean under the law.

    Raises
    ------
    InvalidInput
        If there is no functional of a name; the message lists those there are.
    """
    known = _named(model)
    if wanted is None:
        return tuple(known.values())
    if isinstance(wanted, str) or callable(wanted):
        wanted = [wanted]
    found = []
    for each in wanted:
        if isinstance(each, str):
            if each not in known:
                raise InvalidInput(f"functionals: there is no {each!r}; there are {', '.join(known)}, and functions of "
                                   "the coordinates")
            found.append(known[each])
        elif callable(each):
            found.append(_of_function(each))
        else:
            raise InvalidType(f"functionals holds {each!r}; give names or functions of the coordinates")
    if not found:
        raise InvalidInput("functionals is empty; give names or functions of the coordinates")
    return tuple(found)


def _named(model: ReducedModel) -> dict[str, Functional]:
    functionals = [each for k, name in enumerate(model.coordinate_names)
                   for each in (_mean(k, name), _deviation(k, name))]
    functionals.append(_risk(model))
    return {each.name: each for each in functionals}


def _mean(k: int, name: str) -> Functional:
    return Functional(f"mean of {name}", lambda law: float(law.expect(law.points[k])), lambda law: lambda x: x[k])


def _deviation(k: int, name: str) -> Functional:
    def parts(law: WeightedPoints) -> tuple[float, float]:
        mean = float(law.expect(law.points[k]))
        return mean, float(law.expect((law.points[k] - mean) ** 2))

    def influence(law: WeightedPoints) -> Callable[[Array], Array]:
        mean, variance = parts(law)
        # A single point has no deviation, and no first-order change of it either.
        return lambda x: ((x[k] - mean) ** 2 - variance) / (2.0 * np.sqrt(variance)) if variance > 0.0 else 0.0 * x[k]

    return Functional(f"deviation of {name}", lambda law: float(np.sqrt(parts(law)[1])), influence)


def _risk(model: ReducedModel) -> Functional:
    def moments(law: WeightedPoints) -> Array:
        return law.expect(model.features(*law.points))

    def value(law: WeightedPoints) -> float:
        return float(model.risk_of_moments(moments(law)))

    def influence(law: WeightedPoints) -> Callable[[Array], Array]:
        pull = model.risk_per_energy * model.moment_slopes(moments(law))
        return lambda x: np.tensordot(pull, model.features(*x), axes=1)

    return Functional("risk", value, influence)


def _of_function(f: Callable[..., Array]) -> Functional:
    name = getattr(f, "__name__", "f")

    def values(x: Array) -> Array:
        found = real_array(call_user(f, tuple(x), name), name)
        if found.shape not in ((), x.shape[1:]):
            raise InvalidInput(f"functional {name} returned shape {found.shape} at {x.shape[1]} points; it must return "
                               "one value for each")
        return np.broadcast_to(found, x.shape[1:])

    return Functional(name, lambda law: float(law.expect(values(law.points))), lambda law: values)
