"""Tangent kernels of two-layer networks with normal weights: the kernel of a network of infinite width at its start."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from wgflow.activations.base import Activation, finite_array, upper_orthant
from wgflow.activations.piecewise_linear import PiecewiseLinear
from wgflow.checks import check_memory, check_positive
from wgflow.errors import InvalidInput, InvalidType

from .base import FloatArray

__all__ = ["slope_expectation", "tangent_kernel"]

_REACH = 9.0  # of the trapezoidal rule, in standard deviations
_STEP = 0.1  # its step; it converges geometrically for smooth activations


def tangent_kernel(activation: Activation, x: ArrayLike, readout_square: float = 1.0, scale: float = 1.0) -> FloatArray:
    r"""Return the tangent kernel of neurons :math:`a\,\sigma(\langle w, x \rangle)` with normal weights.

    .. math::
        H(x, z) = E\,\sigma(\langle w, x \rangle)\,\sigma(\langle w, z \rangle)
        + E a^2\,E\,\sigma'(\langle w, x \rangle)\,\sigma'(\langle w, z \rangle)\,\langle x, z \rangle .

    The two terms are what the read-out and the weights learn, with :math:`w \sim N(0, s^2 I)` independent of a. For
    rectifiers and any angle t between x and z, s = 1,

    .. math::
        E\,\sigma \sigma = |x|\,|z|\,\frac{\sin t + (\pi - t) \cos t}{2 \pi}, \qquad
        E\,\sigma' \sigma' = \frac{\pi - t}{2 \pi} .

    Parameters
    ----------
    activation : Activation
    x : array_like, shape (n, d) or (n,)
        Inputs.
    readout_square : float
        :math:`E a^2`; 0 for a network whose read-outs alone are trained.
    scale : float
        s.

    Returns
    -------
    ndarray, shape (n, n)

    Notes
    -----
    Source: Jacot, Gabriel and Hongler, "Neural tangent kernel" (2018); Cho and Saul, "Kernel methods for deep learning"
    (2009) for the rectifier.

    Examples
    --------
    >>> from wgflow.activations import ReLU
    >>> tangent_kernel(ReLU(), [[1.0, 0.0], [0.0, 1.0]])
    array([[1.        , 0.15915494],
           [0.15915494, 1.        ]])
    """
    if not isinstance(activation, Activation):
        raise InvalidType(f"activation={activation!r}: need an activation of wgflow.activations, such as ReLU()")
    inputs = finite_array("x", x)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    if inputs.ndim != 2 or 0 in inputs.shape:
        raise InvalidInput(f"x has shape {inputs.shape}; need (n, d) or (n,), n >= 1 and d >= 1")
    readout_square = check_positive("readout_square", readout_square, zero=True)
    scale = check_positive("scale", scale)
    check_memory(8.0 * 16 * len(inputs) ** 2, f"{len(inputs)} inputs: a kernel", "take fewer inputs")
    lengths = np.linalg.norm(inputs, axis=1)
    products = inputs @ inputs.T
    sizes = np.outer(lengths, lengths)
    rho = np.clip(np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 0.0), -1.0, 1.0)
    np.fill_diagonal(rho, 1.0)
    s = scale * lengths
    kernel = activation.pair_expectation(s[:, None], s[None, :], rho)
    if readout_square:
        kernel = kernel + readout_square * slope_expectation(activation, s[:, None], s[None, :], rho) * products
    return 0.5 * (kernel + kernel.T)


def slope_expectation(activation: Activation, s1: ArrayLike, s2: ArrayLike, rho: ArrayLike) -> FloatArray:
    r"""Return :math:`E\,\sigma'(s_1 G_1)\,\sigma'(s_2 G_2)` at correlation ``rho``; all arguments broadcast."""
    s1, s2, rho = (np.array(a, dtype=float) for a in np.broadcast_arrays(s1, s2, rho))
    root = np.sqrt(np.maximum((1.0 - rho) * (1.0 + rho), 0.0))
    if isinstance(activation, PiecewiseLinear):
        return _steps(activation, s1, s2, rho, root)
    z = np.arange(-_REACH, _REACH + 0.5 * _STEP, _STEP)
    weights = np.exp(-0.5 * z * z)
    weights /= weights.sum()
    result = np.zeros(rho.shape)
    for point, weight in zip(z, weights):
        second = activation.derivative(s2[..., None] * (rho[..., None] * point + root[..., None] * z))
        result += weight * activation.derivative(s1 * point) * (second @ weights)
    return result


def _steps(
    activation: PiecewiseLinear, s1: FloatArray, s2: FloatArray, rho: FloatArray, root: FloatArray
) -> FloatArray:
    """The slope is a sum of steps, and their products have orthant probabilities."""
    jumps = np.diff(activation.slopes)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = [np.where(s == 0.0, np.where(activation.knots.reshape(-1, *(1,) * rho.ndim) < 0.0, -np.inf, np.inf),
                         activation.knots.reshape(-1, *(1,) * rho.ndim) / s) for s in (s1, s2)]
    first = activation.slopes[0]
    result = np.full(rho.shape, float(first) ** 2)
    for jump, h, k in zip(jumps, *ends):
        result += first * jump * (ndtr(-h) + ndtr(-k))
    inside = root > 0.0
    for jump, h in zip(jumps, ends[0]):
        for other, k in zip(jumps, ends[1]):
            same = ndtr(-np.maximum(h, k))
            opposite = np.maximum(ndtr(-h) - ndtr(k), 0.0)
            both = np.where(rho > 0.0, same, opposite)
            finite = inside & np.isfinite(h) & np.isfinite(k)
            both[finite] = upper_orthant(h[finite], k[finite], rho[finite], root[finite])
            alone = inside & ~finite
            both[alone] = ndtr(-h[alone]) * ndtr(-k[alone])
            result += jump * other * both
    return result
