r"""Outputs at the nodes of a rule over the data, for risks of two Gaussian classes with any loss.

The output of a network depends on the lengths :math:`\chi` of the normal inputs alone, so that

.. math:: R(\rho) = \tfrac12 \sum_\pm E\,l\bigl(\pm 1, \textstyle\int \bar\sigma_\pm(\chi; \cdot)\,\rho\bigr)
          \approx \sum_k \omega_k\,l(y_k, f_k) .

A Gauss rule converges fast where outputs and l are smooth; panels serve kinks, in low dimension and of losses whose
slope bends. The error of a rule is what changes when its nodes are doubled, over a set of laws: of the risk, and of
:math:`\Psi`, by which the flow moves.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from wgflow.activations.base import Activation
from wgflow.errors import InvalidInput, WGFlowWarning
from wgflow.losses.base import Loss

from ..base import FloatArray
from ..data_rules import laguerre_table
from ..radial_laws import chi_rule, gauss_chi_rule
from .biradial import BiradialFeatures, Box
from .biradial_choice import choose_biradial_features
from .radial import HermiteFeatures, QuadratureFeatures

__all__ = ["BiradialOutputs", "choose_biradial_outputs", "choose_radial_outputs"]

#: Rules for one length, tried one after the other; each is judged by twice its nodes.
_RULES = ((gauss_chi_rule, 8), (gauss_chi_rule, 16), (gauss_chi_rule, 32), (chi_rule, 64), (gauss_chi_rule, 64),
          (chi_rule, 128))
#: Gauss nodes of each of two lengths.
_PRODUCTS = (5, 7, 10, 14)
#: Lengths of single neurons by which a rule is judged, and their number where there are two lengths.
_SAMPLES, _MORE_SAMPLES = 48, 200
#: An error that is worth a warning where no tolerance was asked for, and one with which there is no model.
_RELAXED, _REFUSED = 1e-2, 0.1
#: By how much tighter the features are that show the error of others.
_TIGHTER = 0.01
_SEED = 40417

_Outputs = TypeVar("_Outputs", QuadratureFeatures, "BiradialOutputs")


class _Judged(NamedTuple):
    """The risk of single neurons, shape (n,), and Psi of each at all of them, shape (n, n)."""

    risk: FloatArray
    psi: FloatArray


def _judged(loss: Loss, labels: FloatArray, weights: FloatArray, outputs: FloatArray) -> _Judged:
    y, w = labels[:, None], weights[:, None]
    with np.errstate(all="ignore"):
        return _Judged(np.sum(w * loss.value(y, outputs), axis=0),
                       np.einsum("mi,mj->ij", w * loss.derivative(y, outputs), outputs))


def _difference(one: _Judged, other: _Judged) -> float:
    """Return the largest difference, relative to 1 and to the size of the risk, or of Psi of each neuron."""
    with np.errstate(all="ignore"):
        risk = np.abs(one.risk - other.risk) / np.maximum(1.0, np.abs(other.risk))
        size = np.maximum(1.0, np.max(np.abs(other.psi), axis=1, keepdims=True))
        error = max(float(np.max(risk)), float(np.max(np.abs(one.psi - other.psi) / size)))
    return error if math.isfinite(error) else math.inf


def _settled(found: Iterable[tuple[_Outputs, float]], loss: Loss, tolerance: float, asked: bool) -> _Outputs:
    """Return the first outputs whose error is below the tolerance, else those of least error, with a warning."""
    best, error = None, math.inf
    for outputs, own in found:
        if best is None or own < error:
            best, error = outputs, own
        if error <= tolerance:
            break
    if best is None or not error <= _REFUSED:
        raise InvalidInput(f"loss={loss!r}: its mean over the data does not settle, it changes by {error:.1e} when the "
                           "nodes of its rule are doubled. A loss that grows so fast needs a bounded activation and "
                           "data of many dimensions; take another loss")
    if error > (tolerance if asked else _RELAXED):
        warnings.warn(f"the mean of {loss!r} over the data is accurate to {error:.1e}, not to "
                      f"tolerance={tolerance:.1e}, with {best.target.size} nodes: a loss whose slope bends converges "
                      "slowly, and an activation with kinks in low dimension", WGFlowWarning, stacklevel=6)
    best.error = error
    return best


def choose_radial_outputs(activation: Activation, deviations: tuple[float, float], d: float, r_max: float, loss: Loss,
                          tolerance: float, asked: bool) -> HermiteFeatures | QuadratureFeatures:
    r"""Return features :math:`\sqrt{\omega_k}\,\bar\sigma(x_k; r)` for the lengths of isotropic inputs.

    Parameters
    ----------
    r_max : float
        Lengths of weights up to which rules are judged.
    tolerance : float
        Of the risk and of Psi, relative to 1 and to their size.
    asked : bool
        Whether the user gave the tolerance, so that missing it is worth a warning.

    Raises
    ------
    InvalidInput
        If the mean of the loss does not settle.
    """
    if math.isinf(d):  # inputs of one length: two nodes are exact
        return HermiteFeatures(activation, deviations, d, 0, 0.0)
    r = np.linspace(0.0, r_max, _SAMPLES + 1)[1:]

    def judged(outputs: QuadratureFeatures) -> _Judged:
        roots = np.abs(outputs.target)
        return _judged(loss, np.sign(outputs.target), roots**2, outputs(r, 0) / roots[:, None])

    def rules() -> Iterable[tuple[QuadratureFeatures, float]]:
        for rule, nodes in _RULES:
            one, other = (QuadratureFeatures(activation, deviations, int(d), n, 0.0, rule) for n in (nodes, 2 * nodes))
            yield one, _difference(judged(one), judged(other))

    return _settled(rules(), loss, tolerance, asked)


class BiradialOutputs:
    r"""The features :math:`\sqrt{\omega_k}\,\bar\sigma(x_k; \theta)` for inputs of two blocks.

    The mean output of a neuron is a series in the lengths of both blocks, of few terms F_j,

    .. math:: \bar\sigma(x; \theta) = \sum_j \varphi_j(\chi_1, \chi_2)\,F_j(\theta),

    whose tail, of the size of the root of the kernel's error, enters the risk to second order: l' of an output has a
    tail as small.

    Parameters
    ----------
    basis : BiradialFeatures
        The functions F_j of a series without windows.
    dims : (float, float)
    nodes : int
        Gauss nodes of each length.
    error : float
        That of the risk and of Psi.
    """

    def __init__(self, basis: BiradialFeatures, dims: tuple[float, float], nodes: int, error: float = math.inf):
        self.basis, self.error = basis, error
        halves = [(terms.i // 2, terms.j // 2) for terms in basis.groups]
        rules = [(np.ones(1), np.ones(1)) if math.isinf(n) else gauss_chi_rule(int(n), nodes) for n in dims]
        self.lengths = np.array(np.meshgrid(*(x for x, _ in rules), indexing="ij")).reshape(2, -1)
        share = np.outer(rules[0][1], rules[1][1]).ravel()
        tables = [np.ones((1, 1)) if math.isinf(n) else
                  laguerre_table(int(n), x, max(int(half[k].max()) for half in halves) + 1)
                  for k, (n, x) in enumerate(zip(dims, self.lengths))]
        terms = [math.sqrt(2.0) * tables[0][:, i] * tables[1][:, j] for i, j in halves]
        zeros = [np.zeros_like(table) for table in terms]
        both = np.block([[terms[0], zeros[1]], [zeros[0], terms[1]]])
        # The features are the first term of each class, and orthonormal combinations of all the others.
        plain = np.concatenate([both[:, [0, terms[0].shape[1]]], both @ basis.rotation.T], axis=1)
        self.labels, self.weights = np.repeat([1.0, -1.0], share.size), 0.5 * np.tile(share, 2)
        self.table = np.sqrt(self.weights)[:, None] * plain
        self.target = np.sqrt(self.weights) * self.labels

    def __call__(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return the features, shape (k, *shape)."""
        return self._combined(self.basis(b, r1, r2))

    def gradients(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return the derivatives in b, r1 and r2, shape (k, 3, *shape)."""
        return self._combined(self.basis.gradients(b, r1, r2))

    def with_gradients(self, b: FloatArray, r1: FloatArray, r2: FloatArray) -> FloatArray:
        """Return the features and their derivatives in b, r1 and r2, shape (k, 4, *shape)."""
        return self._combined(self.basis.with_gradients(b, r1, r2))

    @property
    def at_infinity(self) -> tuple[FloatArray, float] | None:
        """The limit of the features as r1 or r2 grows, and of the second moment; None where there is none."""
        limit = self.basis.at_infinity
        return None if limit is None else (self._combined(limit[0]), limit[1])

    def _combined(self, values: FloatArray) -> FloatArray:
        return np.einsum("mk,k...->m...", self.table, values)  # not by BLAS, whose rounding may depend on its threads


def choose_biradial_outputs(activation: Activation, deviations: tuple[float, float], dims: tuple[float, float],
                            box: Box, loss: Loss, tolerance: float, asked: bool) -> BiradialOutputs:
    """Return the features at nodes for inputs of two blocks; as `choose_radial_outputs`.

    The error is the difference to twice the nodes of each length, and a series of a hundredth of the tolerance.

    Raises
    ------
    InvalidInput
        If a block has so few dimensions that its series is long, or if the mean of the loss does not settle.
    """
    basis, tighter = (choose_biradial_features(activation, deviations, dims, box, factor * tolerance, relax=True,
                                               windows=False) for factor in (1.0, _TIGHTER))
    if tighter.error > tolerance:
        raise InvalidInput(f"blocks of {dims} dimensions with loss={loss!r}: where a block has few dimensions the "
                           f"outputs are no short series in the lengths of the data at tolerance={tolerance:g}; take "
                           "blocks of more dimensions, a larger tolerance, or the square loss")
    rng = np.random.default_rng(_SEED)
    points = (box.b_max * (2.0 * rng.random(_MORE_SAMPLES) - 1.0), box.r1_max * rng.random(_MORE_SAMPLES),
              box.r2_max * rng.random(_MORE_SAMPLES))
    values, finer = basis(*points), tighter(*points)

    def judged(outputs: BiradialOutputs, features: FloatArray) -> _Judged:
        return _judged(loss, outputs.labels, outputs.weights,
                       outputs.table @ features / np.sqrt(outputs.weights)[:, None])

    def rules() -> Iterable[tuple[BiradialOutputs, float]]:
        for nodes in _PRODUCTS:
            one, other = BiradialOutputs(basis, dims, nodes), BiradialOutputs(tighter, dims, 2 * nodes)
            yield one, _difference(judged(one, values), judged(other, finer))

    return _settled(rules(), loss, tolerance, asked)
