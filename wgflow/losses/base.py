"""The base class of losses, and losses made of a user's functions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.checks import real_array
from wgflow.contracts import Contract
from wgflow.errors import InvalidInput, InvalidType, WGFlowError

__all__ = ["KernelLoss", "Loss", "as_loss", "from_functions"]

FloatArray = NDArray[np.float64]
#: Outputs at which a user's loss is looked at,
PROBES = np.linspace(-3.0, 3.0, 25)
#: where its derivatives are compared with differences of this step,
STEP = 1e-4
#: which must agree to this part of their size, but at this part of the outputs: a loss may have kinks in l''.
AGREEMENT, KINKS = 1e-4, 0.2
#: Part of the size of l by which a convex loss may miss convexity: rounding.
ROUNDING = 1e-9


class KernelLoss(NamedTuple):
    """A loss as plain data for compiled functions, which never take a Python function.

    ``code`` selects the formula (0 square, 1 logistic, 2 exponential, 3 Huber, 4 smoothed hinge); ``width`` is the
    parameter of the last two.
    """

    code: int
    width: float


class Loss(Contract):
    r"""A loss :math:`l(y, f)`, convex and differentiable in the output f.

    The conjugate is :math:`l^*(y, g) = \sup_f\, [g f - l(y, f)]`; Fenchel's inequality
    :math:`l(y, f) + l^*(y, g) \ge f g`, an equality at :math:`g = l'(y, f)`, is the source of duality gaps.

    A subclass gives `value`, `derivative` and `second_derivative`, vectorized in both arguments; `conjugate` where it
    is known.
    """

    #: Whether labels are classes, -1 or 1.
    classifies: bool = False

    @property
    def name(self) -> str:
        """The name in messages."""
        return type(self).__name__

    @abstractmethod
    def value(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        """Return l(y, f), of the common shape of y and f."""

    @abstractmethod
    def derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        """Return l'(y, f), the derivative in f."""

    @abstractmethod
    def second_derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        """Return l''(y, f), the second derivative in f; where it jumps, either value."""

    def conjugate(self, y: ArrayLike, g: ArrayLike) -> FloatArray:
        """Return l*(y, g), infinite outside of its domain.

        Raises
        ------
        InvalidInput
            If the loss has no conjugate in closed form.
        """
        raise InvalidInput(f"{self!r} has no convex conjugate in closed form; give conjugate=")

    def check_labels(self, y: ArrayLike) -> FloatArray:
        """Return labels as an array, refusing those that do not fit the loss.

        Raises
        ------
        InvalidInput
            If a label is not finite, or of a loss for classes neither -1 nor 1; it is named with its index.
        """
        labels = real_array(y, "y")
        bad = ~np.isfinite(labels)
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InvalidInput(f"y{list(index)} is {labels[index]}; every label must be finite")
        wrong = np.abs(labels) != 1.0
        if self.classifies and wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            hint = "; write classes 0 and 1 as 2 y - 1" if np.isin(labels, (0.0, 1.0)).all() else ""
            raise InvalidInput(f"y{list(index)} is {labels[index]:g}: {self!r} is a loss of two classes, whose labels "
                               f"are -1 and 1{hint}")
        return labels

    def kernel_arguments(self) -> KernelLoss | None:
        """Return the loss as data for compiled functions; None where there is no code for it."""
        return None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{self.name}()"


class _UserLoss(Loss):
    """A loss made of a user's functions; see `from_functions`."""

    def __init__(self, functions: tuple[Callable, Callable, Callable], conjugate: Callable | None, name: str,
                 classifies: bool):
        self._functions, self._conjugate, self._name = functions, conjugate, name
        self.classifies = classifies

    @property
    def name(self) -> str:
        return self._name

    def value(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        return self._at(0, y, f)

    def derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        return self._at(1, y, f)

    def second_derivative(self, y: ArrayLike, f: ArrayLike) -> FloatArray:
        return self._at(2, y, f)

    def conjugate(self, y: ArrayLike, g: ArrayLike) -> FloatArray:
        if self._conjugate is None:
            return super().conjugate(y, g)
        return self._called(self._conjugate, "conjugate", y, g)

    def _at(self, order: int, y: ArrayLike, f: ArrayLike) -> FloatArray:
        return self._called(self._functions[order], ("value", "derivative", "second_derivative")[order], y, f)

    @staticmethod
    def _called(function: Callable, what: str, y: ArrayLike, f: ArrayLike) -> FloatArray:
        labels, outputs = np.broadcast_arrays(np.asarray(y, dtype=np.float64), np.asarray(f, dtype=np.float64))
        try:
            with np.errstate(all="ignore"):
                found = real_array(function(labels, outputs), what)
        except (WGFlowError, MemoryError):
            raise
        except Exception as error:
            raise InvalidInput(f"{what} of the loss raised {type(error).__name__}: {error}; it is called with two "
                               "arrays of one shape, labels y and outputs f (read-only)") from error
        if found.shape not in ((), labels.shape):
            raise InvalidInput(f"{what} of the loss returned shape {found.shape} for y and f of shape {labels.shape}; "
                               "it must be vectorized in both")
        return np.broadcast_to(found, labels.shape).astype(np.float64)


def from_functions(
    value: Callable[[FloatArray, FloatArray], ArrayLike],
    derivative: Callable[[FloatArray, FloatArray], ArrayLike],
    second_derivative: Callable[[FloatArray, FloatArray], ArrayLike],
    conjugate: Callable[[FloatArray, FloatArray], ArrayLike] | None = None,
    *,
    name: str = "loss",
    classes: bool = False,
) -> Loss:
    r"""Return a loss made of functions of (y, f): :math:`l`, :math:`l' = \partial_f l` and :math:`l''`.

    Parameters
    ----------
    value, derivative, second_derivative : callable
        Vectorized functions of two arrays of one shape.
    conjugate : callable, optional
        Of (y, g), the convex conjugate.
    name : str
        What messages call it.
    classes : bool
        Whether labels are classes, -1 or 1.

    Raises
    ------
    InvalidInput
        If at outputs between -3 and 3, for labels -1 and 1, a derivative is not that of the function before it, or the
        loss is not convex.

    Examples
    --------
    >>> loss = from_functions(lambda y, f: np.cosh(f - y), lambda y, f: np.sinh(f - y), lambda y, f: np.cosh(f - y))
    >>> float(loss.value(1.0, 1.0))
    1.0
    """
    functions = (value, derivative, second_derivative)
    for given, what in zip((*functions, conjugate), ("value", "derivative", "second_derivative", "conjugate")):
        if not (callable(given) or (given is None and what == "conjugate")):
            raise InvalidType(f"{what} must be a function of (y, f), got {type(given).__name__}")
    loss = _UserLoss(functions, conjugate, str(name), bool(classes))
    _check(loss)
    return loss


def as_loss(loss: object) -> Loss:
    """Return a loss: itself, or made of a user's three functions (l, l', l'')."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, (tuple, list)) and len(loss) == 3:
        return from_functions(*loss)
    if isinstance(loss, type) and issubclass(loss, Loss):
        raise InvalidType(f"loss={loss.__name__} is a class; make one, as in {loss.__name__}()")
    raise InvalidType(f"loss must be one of wgflow.losses or three functions (l, l', l'') of (y, f), got {loss!r}")


def _check(loss: Loss) -> None:
    """Refuse derivatives that are not those of the function before them, and losses that are not convex."""
    for label in (-1.0, 1.0):
        y = np.full(PROBES.shape, label)
        functions = (loss.value, loss.derivative, loss.second_derivative)
        values = [function(y, PROBES) for function in functions]
        for known, what in zip(values, ("value", "derivative", "second_derivative")):
            if not np.isfinite(known).all():
                k = int(np.argmax(~np.isfinite(known)))
                raise InvalidInput(f"{what} of the loss {loss!r} is {known[k]} at y={label:g}, f={PROBES[k]:g}; it "
                                   "must be finite")
        for order, what in ((1, "derivative"), (2, "second_derivative")):
            before = functions[order - 1]
            quotient = (before(y, PROBES + STEP) - before(y, PROBES - STEP)) / (2.0 * STEP)
            wrong = np.abs(quotient - values[order]) > AGREEMENT * (1.0 + np.abs(values[order]))
            if wrong.mean() > (KINKS if order == 2 else 0.0):
                k = int(np.argmax(wrong))
                raise InvalidInput(f"{what} of the loss {loss!r} is {values[order][k]:.6g} at y={label:g}, "
                                   f"f={PROBES[k]:g}, and differences of what it derives from give {quotient[k]:.6g}; "
                                   "give l, its derivative in f and its second derivative in f")
        bend = values[0][2:] - 2.0 * values[0][1:-1] + values[0][:-2]
        if bend.min() < -ROUNDING * (1.0 + np.abs(values[0]).max()) or values[2].min() < 0.0:
            raise InvalidInput(f"the loss {loss!r} is not convex in f at y={label:g}; need l'' >= 0")
