r"""Online SGD of a few neurons on Gaussian inputs of high dimension: ordinary differential equations for the overlaps.

The theory of D. Saad and S. A. Solla, On-line learning in soft committee machines, Phys. Rev. E 52 (1995) 4225-4243,
and M. Biehl and H. Schwarze, Learning by on-line gradient descent, J. Phys. A 28 (1995) 643-656, on the conventions of
this package, with classes and blocks of inputs of different variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from wgflow.activations.piecewise_linear import PiecewiseLinear
from wgflow.activations.smooth import Erf, Polynomial
from wgflow.checks import check_count, check_positive
from wgflow.errors import ConvergenceError, InvalidInput, InvalidType
from wgflow.reduced_models.base import NetworkModel
from wgflow.reduced_models.features.network_gradients import pair_averages

from .gaussian_teachers import GaussianLaw, gaussian_law
from .kinked_averages import kinked_squares
from .particles import initial_theta, output_times, schedule_values, seed_sequence

__all__ = ["OrderParameters", "order_parameter_flow", "overlaps_of"]

Array = NDArray[np.float64]
#: Nodes of the product rule for polynomials, at most.
MOST_NODES = 1 << 18


@dataclass(frozen=True)
class OrderParameters:
    """Overlaps of the weights of a network, at the output times.

    Attributes
    ----------
    t : ndarray, shape (T,)
    students : ndarray, shape (T, blocks, N, N)
        :math:`Q^b_{ij} = \\langle w_i, w_j \\rangle` over the inputs of each block.
    teachers : ndarray, shape (T, blocks, N, M)
        :math:`R^b_{im} = \\langle w_i, v_m \\rangle` with the M directions in the law of the labels.
    risk : ndarray, shape (T,)
        Exact population risk at these overlaps.
    dimensions : tuple of int
        Number of inputs in each block.
    step_size : float
    model : NetworkModel
    """

    t: Array
    students: Array = field(repr=False)
    teachers: Array = field(repr=False)
    risk: Array = field(repr=False)
    dimensions: tuple[int, ...]
    step_size: float
    model: NetworkModel

    def __repr__(self) -> str:
        return (f"OrderParameters({self.model!r}: {self.students.shape[-1]} neurons, step_size={self.step_size:g}, "
                f"{len(self.t)} times, t = {self.t[0]:g} to {self.t[-1]:g}, risk {self.risk[0]:.4g} to "
                f"{self.risk[-1]:.4g})")

    @property
    def radii(self) -> Array:
        """Lengths of the weights in each block, shape (T, N, blocks): what `Trajectories.coordinates` hold."""
        return np.sqrt(np.maximum(np.einsum("tbii->tib", self.students), 0.0))


def order_parameter_flow(
    model: NetworkModel,
    n_neurons: int,
    step_size: float,
    t_eval: ArrayLike,
    rng: int | np.random.SeedSequence | np.random.Generator,
    kappa: float = 0.8,
    theta0: ArrayLike | None = None,
    *,
    beta: float = math.inf,
    ridge: float = 0.0,
    xi: float | Callable[[Array], ArrayLike] = 1.0,
    batch_size: int = 1,
    noise_constant: float = 4.0,
    tolerance: float = 1e-8,
) -> OrderParameters:
    r"""Solve the equations of the overlaps of online SGD, as d goes to infinity at fixed N and :math:`\epsilon d`.

    In class m, of probability :math:`p_m`, the inputs of block b have the variance :math:`\tau_{mb}^2`; the labels are
    :math:`y = y_m + \sum_n \lambda_n \sigma(\langle v_n, x \rangle)` plus noise. SGD as in `run_sgd` changes weights
    only in the direction of its samples, and preactivations of weights are Gaussian in each class, with covariances
    that the overlaps determine. With the error :math:`e = y - \frac1N \sum_k \sigma(z_k)`, the means over a sample are

    .. math::
        \frac{dR^b_{in}}{dt} &= D^b_{in} - 2 \xi \lambda R^b_{in}, \\
        \frac{dQ^b_{ij}}{dt} &= D^b_{ij} + D^b_{ji} - 4 \xi \lambda Q^b_{ij}
            + \frac{4 \epsilon \xi^2 d_b}{M} \sum_m p_m \tau_{mb}^2\, E_m[e^2 \sigma'(z_i) \sigma'(z_j)]
            + \frac{c\,\xi}{\beta} d_b\, \delta_{ij}, \\
        D^b_{ia} &= 2 \xi \sum_m p_m \tau_{mb}^2 \Bigl( G^b_{ia}\, E_m[e\, \sigma''(z_i)]
            + \sum_k \gamma_k G^b_{ka}\, E_m[\sigma'(z_k) \sigma'(z_i)] \Bigr),

    where G are the overlaps of all weights and directions, :math:`\gamma_k = -1/N` for neurons and
    :math:`\lambda_n` for directions (by integration by parts). In the limit the overlaps of a single run follow these
    equations; at finite d they scatter by :math:`O(d^{-1/2})`, and their mean is off by O(1/d). The term with
    :math:`\epsilon` is the noise of the samples, which a mean-field limit (:math:`\epsilon d \to 0`) has not: with
    ``step_size=0`` the equations are exact at every d, those of ``run_gradient_flow(space="full")``.

    Parameters
    ----------
    model : NetworkModel
        `IsotropicGaussian` and `AnisotropicGaussian`, whose labels depend on no direction, `LinearNeuron` (one
        direction) and `QuadraticActivation` (an eigenvector for each eigenvalue of B that is not 0), with at most eight
        different variances.
    n_neurons : int
        Width N. The time of a step grows as N^4 for `Erf` and rectifiers, for a polynomial of degree p as
        (2p)^(N + directions).
    step_size : float
        The step :math:`\epsilon` of SGD; 0 for the gradient flow. Of `PiecewiseLinear` activations those with one kink,
        at 0, have positive steps (`ReLU`, leaky ones, :math:`|z|`); with others the average with :math:`e^2` has no
        closed form.
    t_eval : array_like, shape (T,)
        Increasing output times, t = k epsilon as in `run_sgd`.
    rng, kappa, theta0
        Give the weights at the start, as in `run_sgd`: those of its first run. Only their overlaps are used.
    beta, ridge, xi, batch_size, noise_constant
        As in `run_sgd`.
    tolerance : float
        Relative tolerance of the integrator (`scipy.integrate.solve_ivp`, DOP853).

    Returns
    -------
    OrderParameters

    Raises
    ------
    InvalidInput
        If an argument is out of range, or the equations do not close for the model or its activation.
    ConvergenceError
        If overlaps grow without bound, as under too large a step.

    Examples
    --------
    >>> from wgflow.reduced_models import LinearNeuron
    >>> model = LinearNeuron(1.0, [1.0] + [0.0] * 99)
    >>> flow = order_parameter_flow(model, 1, 0.002, [0.0, 1.0, 4.0], rng=7)
    >>> flow.teachers[:, 0, 0, 0].round(3).tolist()[1:]
    [0.866, 1.0]
    """
    if not isinstance(model, NetworkModel):
        raise InvalidType(f"model must be a wgflow.reduced_models.NetworkModel, got {type(model).__name__}")
    n, t = check_count("n_neurons", n_neurons), output_times(t_eval, 1.0)
    law = gaussian_law(model)
    step_size = check_positive("step_size", step_size, zero=True)
    slopes = _squares_of(law, n) if step_size > 0.0 else None
    beta, ridge = check_positive("beta", beta, infinite=True), check_positive("ridge", ridge, zero=True)
    noise = step_size / check_count("batch_size", batch_size)
    heat = check_positive("noise_constant", noise_constant) / beta
    if theta0 is None:
        start = np.random.default_rng(seed_sequence(rng).spawn(1)[0].spawn(3)[0])
        theta = model.initial_theta(n, kappa, start)
    else:
        theta = initial_theta(model, theta0, 1, n)[0]
    first = law.overlaps(theta)

    def rate(time: float, flat: Array) -> Array:
        speed = float(schedule_values(xi, np.array([time]))[0])
        full = first.copy()
        full[:, :n] = flat.reshape(first[:, :n].shape)
        full[:, n:, :n] = full[:, :n, n:].transpose(0, 2, 1)
        change = _rates(law, full, n, slopes, noise * speed, heat, ridge)
        return (speed * change).ravel()

    states = _integrate(rate, first[:, :n].ravel(), t, tolerance)
    found = states.reshape(t.size, *first[:, :n].shape)
    full = np.repeat(first[None], t.size, axis=0)
    full[:, :, :n] = found
    full[:, :, n:, :n] = found[..., n:].transpose(0, 1, 3, 2)
    return OrderParameters(t=t, students=found[..., :n], teachers=found[..., n:],
                           risk=np.array([_risk(law, one, n) for one in full]), dimensions=law.dimensions,
                           step_size=step_size, model=model)


def overlaps_of(model: NetworkModel, theta: ArrayLike) -> tuple[Array, Array]:
    """Return the overlaps of networks, such as ``sgd.theta``, as `OrderParameters` has them.

    Parameters
    ----------
    model : NetworkModel
    theta : array_like, shape (..., N, d)

    Returns
    -------
    students : ndarray, shape (..., blocks, N, N)
    teachers : ndarray, shape (..., blocks, N, M)
    """
    theta = model.check_theta(theta)
    full = gaussian_law(model).overlaps(theta)
    n = theta.shape[-2]
    return full[..., :n, :n], full[..., :n, n:]


def _integrate(rate: Callable[[float, Array], Array], start: Array, t: Array, tolerance: float) -> Array:
    """Return the states at the times t, from the start at time 0."""
    tolerance = check_positive("tolerance", tolerance)
    if t[-1] == 0.0:
        return start[None]
    with np.errstate(over="ignore", invalid="ignore"):
        solved = solve_ivp(rate, (0.0, float(t[-1])), start, method="DOP853", t_eval=t, rtol=max(tolerance, 3e-14),
                           atol=1e-2 * tolerance)
    if not solved.success or not np.isfinite(solved.y).all():
        end = float(solved.t[-1]) if solved.t.size else 0.0
        raise ConvergenceError(f"the overlaps could not be followed beyond t = {end:.3g}: {solved.message} Too large a "
                               "step_size makes weights grow without bound", reason="non-finite", t=end)
    return solved.y.T


def _rates(law: GaussianLaw, full: Array, n: int, slopes: Callable[[Array, float], Array] | None, noise: float,
           heat: float, ridge: float) -> Array:
    """Return the time derivatives of the overlaps of the neurons with all, shape (blocks, n, K), at xi = 1."""
    gamma = law.coefficients(n)
    change, added = np.zeros((len(full), n, full.shape[2])), np.zeros((len(full), n, n))
    sizes = np.array(law.dimensions, dtype=float)
    for p, label, variance in zip(law.probabilities, law.labels, law.variances):
        c = np.einsum("b,bik->ik", variance, full)
        s = np.sqrt(np.maximum(np.diag(c), 0.0))
        bent, both = pair_averages(law.activation, c[:n], s)
        mean = law.activation.gaussian_mean(s[:n], 1) / np.maximum(s[:n], 1e-150)
        own = label * mean + np.sum(bent * gamma, axis=1)
        pull = own[None, :, None] * full[:, :n] + np.einsum("ik,k,bka->bia", both, gamma, full)
        change += 2.0 * p * variance[:, None, None] * pull
        if slopes is not None:
            added += 4.0 * noise * p * (variance * sizes)[:, None, None] * slopes(c, label)
    change -= 2.0 * ridge * full[:, :n]
    students = change[:, :, :n]
    change[:, :, :n] = students + students.transpose(0, 2, 1) + added + heat * sizes[:, None, None] * np.eye(n)
    return change


def _risk(law: GaussianLaw, full: Array, n: int) -> float:
    """Return the mean of e^2."""
    gamma, total = law.coefficients(n), law.noise_variance
    for p, label, variance in zip(law.probabilities, law.labels, law.variances):
        c = np.einsum("b,bik->ik", variance, full)
        s = np.sqrt(np.maximum(np.diag(c), 0.0))
        scale = np.maximum(np.outer(s, s), 1e-300)
        correlation = np.clip(c / scale, -1.0, 1.0)
        np.fill_diagonal(correlation, 1.0)
        means = law.activation.gaussian_mean(s)
        pairs = law.activation.pair_expectation(s[:, None], s, correlation)
        total += p * float(label**2 + 2.0 * label * (gamma @ means) + gamma @ pairs @ gamma)
    return total


def _squares_of(law: GaussianLaw, n: int) -> Callable[[Array, float], Array]:
    """Return the function of covariance and label that gives E e^2 sigma'(z_i) sigma'(z_j), shape (n, n)."""
    gamma, noise = law.coefficients(n), law.noise_variance
    if isinstance(law.activation, Erf):
        return lambda c, label: _erf_squares(c, gamma, label**2 + noise, n)
    if isinstance(law.activation, Polynomial):
        degree = max(1, law.activation.coefficients.size - 1)
        count = (2 * degree) ** gamma.size
        if count > MOST_NODES:
            raise InvalidInput(f"n_neurons={n}: a polynomial of degree {degree} needs (2 degree)^(neurons and "
                               f"directions) = {count:.3g} nodes, at most {MOST_NODES}; take fewer neurons, or "
                               "step_size=0")
        rule = _product_rule(2 * degree, gamma.size)
        activation = law.activation
        return lambda c, label: _polynomial_squares(activation, c, gamma, label, noise, n, rule)
    if isinstance(law.activation, PiecewiseLinear) and law.activation.knots.tolist() == [0.0]:
        left, right = law.activation.slopes
        at_0 = float(gamma.sum() * law.activation.value(0.0))
        return lambda c, label: kinked_squares(c, gamma, label + at_0, noise, (float(left), float(right)))[:n, :n]
    raise InvalidInput(f"step_size > 0: for {law.activation!r} the noise of the samples has no closed form (averages "
                       "over four preactivations); Erf, Polynomial and activations with one kink, at 0, such as ReLU, "
                       "have one, and step_size=0 is the gradient flow")


def _erf_squares(c: Array, gamma: Array, constant: float, n: int) -> Array:
    r"""Return :math:`E\,e^2 \sigma'(z_i)\sigma'(z_j)` for the error function.

    :math:`\sigma'(z_i)\sigma'(z_j) = \frac4\pi e^{-z_i^2 - z_j^2}` turns the normal law of covariance C into one of
    covariance :math:`C - C_{\cdot E} (\frac12 I + C_{EE})^{-1} C_{E \cdot}`, E = (i, j), times
    :math:`\frac4\pi \det(I + 2 C_{EE})^{-1/2}`; odd moments vanish.
    """
    i, j = np.triu_indices(n)
    squares = np.empty((n, n))
    for first in range(0, i.size, 256):
        p, q = i[first : first + 256], j[first : first + 256]
        columns = np.stack([c[p], c[q]], axis=2)
        corner = np.stack([np.stack([c[p, p], c[p, q]], 1), np.stack([c[q, p], c[q, q]], 1)], 1)
        tilted = c - np.einsum("eka,eab,elb->ekl", columns, np.linalg.inv(0.5 * np.eye(2) + corner), columns)
        scale = np.sqrt(1.0 + 2.0 * np.einsum("ekk->ek", tilted))
        sines = np.clip(2.0 * tilted / (scale[:, :, None] * scale[:, None]), -1.0, 1.0)
        outputs = np.einsum("k,ekl,l->e", gamma, 2.0 / math.pi * np.arcsin(sines), gamma)
        value = 4.0 / math.pi / np.sqrt(np.linalg.det(np.eye(2) + 2.0 * corner)) * (constant + outputs)
        squares[p, q] = squares[q, p] = value
    return squares


def _polynomial_squares(activation: Polynomial, c: Array, gamma: Array, label: float, noise: float, n: int,
                        rule: tuple[Array, Array]) -> Array:
    """Return the same for a polynomial, by a Gauss rule that is exact for it."""
    values, axes = np.linalg.eigh(c)
    nodes, weights = rule
    z = (axes * np.sqrt(np.maximum(values, 0.0))) @ nodes
    error = label + gamma @ activation.value(z)
    slope = activation.derivative(z[:n])
    return np.einsum("q,iq,jq->ij", weights * (error**2 + noise), slope, slope)


def _product_rule(count: int, axes: int) -> tuple[Array, Array]:
    """Return nodes (axes, count^axes) and weights of the product of Gauss-Hermite rules, of total weight 1."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    grids = np.meshgrid(*[x] * axes, indexing="ij")
    weights = np.ones((1,) * axes)
    for axis in range(axes):
        weights = weights * (w / w.sum()).reshape([-1 if k == axis else 1 for k in range(axes)])
    return np.stack([g.ravel() for g in grids]), weights.ravel()
