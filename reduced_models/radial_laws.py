r"""Laws of the length of a normal vector: what every model with a radius as a coordinate needs.

For :math:`w \in R^n` and :math:`r = |w|`, Lebesgue measure of the weights becomes :math:`|S^{n-1}|\,r^{n-1}\,dr`: the
reference measure of the radius, relative to which its entropy is that of the weights. A normal w has a radius with a
chi law.

- `log_sphere_weight`: the reference measure on cells, for ``log_weight`` of a model and of a grid;
- `chi_masses`: the masses of a chi law in cells, for ``initial_density``;
- `noisy_deviation`: how wide noise makes a law, for the range of ``grid``;
- `gauss_chi_rule`: its Gauss rule, for ``initial_atoms``; `chi_rule`: a rule for functions with kinks;
- `cosine_moments`: moments of the cosine between two random directions, for kernels averaged over directions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import gammainc, gammaincc, gammainccinv, gammaincinv, gammaln

from wgflow.checks import check_count, check_positive, real_array
from wgflow.errors import InvalidInput
from wgflow.grids import log_power_cell_average

from .base import FloatArray

__all__ = ["RADIUS", "check_held", "chi_masses", "chi_rule", "cosine_moments", "gauss_chi_rule", "log_sphere_weight",
           "noisy_deviation"]

#: The ends of a radius as ``boundary`` of a grid: it begins at 0, and goes on to infinity.
RADIUS = ("no-flux", None)
#: Part of an initial law beyond the grid above which the grid is refused.
LOST_MASS = 1e-6
#: Gauss-Legendre nodes of each panel of `chi_rule`.
PANEL_NODES = 16
#: Mass that the panels of `chi_rule` leave out at either end.
CUT_TAIL = 1e-18


def log_sphere_weight(edges: ArrayLike, n: int) -> FloatArray:
    r"""Return the logarithm of the cell averages of the reference measure of a radius in :math:`R^n`,

    .. math:: \log \frac{1}{h_i} \int_{r_i}^{r_{i+1}} |S^{n-1}|\, r^{n-1}\, dr,
              \qquad |S^{n-1}| = \frac{2 \pi^{n/2}}{\Gamma(n/2)} .

    Parameters
    ----------
    edges : array_like, shape (cells + 1,)
        Edges of the cells, the first at least 0, strictly increasing.
    n : int
        Dimension of the vector whose length is the radius, at least 1.

    Returns
    -------
    ndarray, shape (cells,)
        Formed from logarithms, so that no n overflows.

    Raises
    ------
    InvalidInput
        If an edge is negative or ``n`` is less than 1.

    Examples
    --------
    >>> np.exp(log_sphere_weight([0.0, 1.0, 2.0], 2)).round(6).tolist()  # areas pi and 3 pi of a disk and a ring
    [3.141593, 9.424778]
    """
    half = 0.5 * check_count("n", n)
    _check_radius(real_array(edges, "edges"))
    log_area = math.log(2.0) + half * math.log(math.pi) - float(gammaln(half))
    return log_area + log_power_cell_average(edges, n - 1.0)


def chi_masses(edges: ArrayLike, n: int, kappa: float, d: int | None = None) -> FloatArray:
    r"""Return the masses in cells of the law of :math:`|w_{1:n}|` for :math:`w \sim N(0, \kappa^2 I_d / d)`,

    .. math:: P(r_i < |w_{1:n}| < r_{i+1}), \qquad \frac{d\,|w_{1:n}|^2}{\kappa^2} \sim \chi^2_n .

    Parameters
    ----------
    edges : array_like, shape (cells + 1,)
        Edges of the cells, the first at least 0, strictly increasing.
    n : int
        Number of the components whose length is taken.
    kappa : float
        Root mean square length of the whole vector, positive.
    d : int, optional
        Dimension of the whole vector; n by default.

    Returns
    -------
    ndarray, shape (cells,)
        Differences of the distribution function, taken in its smaller tail: accurate where they are tiny too. The sum
        falls short of 1 by the mass beyond the edges (see `check_held`).

    Raises
    ------
    InvalidInput
        If an edge is negative, or a parameter is out of range.

    Examples
    --------
    >>> masses = chi_masses([0.0, 1.0, 2.0], n=2, kappa=1.0)  # 1 - exp(-1) and exp(-1) - exp(-4)
    >>> masses.round(6).tolist()
    [0.632121, 0.349564]
    """
    edges, kappa = real_array(edges, "edges"), check_positive("kappa", kappa)
    _check_radius(edges)
    half = 0.5 * check_count("n", n)
    x = 0.5 * (n if d is None else check_count("d", d, n)) * (edges / kappa) ** 2
    masses = np.where(x[:-1] > half, -np.diff(gammaincc(half, x)), np.diff(gammainc(half, x)))
    return np.maximum(masses, 0.0)


def noisy_deviation(kappa: float | None, n: float, beta: float, ridge: float, t_end: float | None,
                    time_scale: float) -> float:
    r"""Return the largest standard deviation that a weight has under noise and ridge alone, until a time,

    .. math:: s(t)^2 = \frac{\kappa^2}{n} e^{-2\lambda c t} + \frac{1 - e^{-2\lambda c t}}{\beta\lambda},
              \qquad \frac{\kappa^2}{n} + \frac{2 c t}{\beta} \text{ for } \lambda = 0 .

    Parameters
    ----------
    kappa : float or None
        Root mean square length of the n weights at the start; None: 0.
    n : float
        Number of weights, may be infinite.
    beta, ridge : float
        Inverse temperature and :math:`\lambda`.
    t_end : float or None
        End of the time span; None: for all times, but without growth where no ridge ends it.
    time_scale : float
        The clock c.

    Raises
    ------
    InvalidInput
        If a parameter is out of range.

    Examples
    --------
    >>> noisy_deviation(0.0, 40, beta=10.0, ridge=0.1, t_end=None, time_scale=2.0)
    1.0
    """
    ridge, beta = check_positive("ridge", ridge, zero=True), check_positive("beta", beta, infinite=True)
    start = 0.0 if kappa is None else check_positive("kappa", kappa, zero=True) ** 2 / n
    span = math.inf if t_end is None else time_scale * check_positive("t_end", t_end, zero=True)
    if math.isinf(beta) or math.isinf(n):
        return math.sqrt(start)
    if ridge == 0.0:
        return math.sqrt(start + (0.0 if math.isinf(span) else 2.0 * span / beta))
    left = math.exp(-2.0 * ridge * span)
    return math.sqrt(max(start, start * left + (1.0 - left) / (beta * ridge)))


def check_held(masses: FloatArray, edges: FloatArray, law: str, axis: str,
               fix: str = "give model.grid a larger range") -> None:
    """Refuse a grid beyond which more than 1e-6 of an initial law lies.

    Parameters
    ----------
    masses : ndarray
        Masses of the law in the cells of an axis; the whole law has mass 1.
    edges : ndarray
        Edges of these cells.
    law, axis : str
        The parameters of the law and the name of the axis, for the message.
    fix : str
        What to write instead, for the message.

    Raises
    ------
    InvalidInput
        If the masses sum to less than 1 - 1e-6.
    """
    lost = 1.0 - float(np.sum(masses))
    if lost > LOST_MASS:
        raise InvalidInput(f"{law}: a part {lost:.1e} of the initial law lies outside the grid's {axis} in "
                           f"[{edges[0]:g}, {edges[-1]:g}]; {fix}")


def gauss_chi_rule(n: int, nodes: int) -> tuple[FloatArray, FloatArray]:
    r"""Return the Gauss rule of the chi law with n degrees of freedom,

    .. math:: E f(\chi_n) \approx \sum_m \omega_m f(\chi^{(m)}),
              \qquad \text{exact if } f \text{ is a polynomial in } \chi^2 \text{ of degree } < 2 \cdot \mathrm{nodes} .

    The nodes are eigenvalues of the Jacobi matrix of the Laguerre polynomials of order n/2 - 1 (Golub and Welsch), the
    weights :math:`1/\sum_k p_k(x)^2` with the orthonormal polynomials, which is relatively accurate also where they are
    tiny.

    Parameters
    ----------
    n : int
        Degrees of freedom.
    nodes : int
        Number of nodes.

    Returns
    -------
    nodes, weights : ndarray, shape (nodes,)
        The weights sum to 1.
    """
    count = check_count("nodes", nodes)
    alpha, i = 0.5 * check_count("n", n) - 1.0, np.arange(count, dtype=np.float64)
    diagonal, beside = 2.0 * i + 1.0 + alpha, np.sqrt(i[1:] * (i[1:] + alpha))
    x = eigvalsh_tridiagonal(diagonal, beside)
    previous, current = np.zeros(count), np.ones(count)
    # The polynomials overflow with many nodes, so they are rescaled: the sum of squares is total * exp(log_scale).
    total, log_scale = np.ones(count), np.zeros(count)
    for k in range(count - 1):
        below = beside[k - 1] if k else 0.0
        previous, current = current, ((x - diagonal[k]) * current - below * previous) / beside[k]
        total += current**2
        growth = np.maximum(np.abs(current), 1.0)
        previous, current, total = previous / growth, current / growth, total / growth**2
        log_scale += 2.0 * np.log(growth)
    log_weights = -np.log(total) - log_scale
    weights = np.exp(log_weights - np.max(log_weights))
    return np.sqrt(2.0 * x), weights / np.sum(weights)


def chi_rule(n: int, nodes: int) -> tuple[FloatArray, FloatArray]:
    """Return a rule of about ``nodes`` nodes for the chi law with n degrees of freedom and functions with kinks.

    Gauss-Legendre rules of 16 nodes on panels that are equal in asinh(chi): neurons with long weights put the kinks of
    their activation at small chi.

    Returns
    -------
    nodes, weights : ndarray
        16 nodes for each of ``nodes // 16`` panels (one at least); the weights sum to 1.
    """
    half, count = 0.5 * check_count("n", n), check_count("nodes", nodes)
    low = math.sqrt(2.0 * gammaincinv(half, CUT_TAIL)) if n > 2 else 0.0
    high = math.sqrt(2.0 * gammainccinv(half, CUT_TAIL))
    z, weights = np.polynomial.legendre.leggauss(PANEL_NODES)
    panels = max(1, count // PANEL_NODES)
    low, high = math.asinh(low), math.asinh(high)
    width = (high - low) / panels
    s = (low + width * (np.arange(panels)[:, None] + 0.5 * (z + 1.0))).ravel()
    x = np.sinh(s)
    log_density = (n - 1.0) * np.log(x) - 0.5 * x * x - (half - 1.0) * math.log(2.0) - float(gammaln(half))
    weights = np.tile(weights, panels) * np.exp(log_density) * np.cosh(s)
    return x, weights / np.sum(weights)


def cosine_moments(n: float, terms: int) -> FloatArray:
    r"""Return the even moments of the cosine of the angle between two independent random directions of :math:`R^n`,

    .. math:: M_{2j} = E \cos^{2j} = \prod_{i < j} \frac{1 + 2i}{n + 2i}, \qquad j = 0, \dots, \mathrm{terms};

    the odd ones are 0. For ``n = inf`` all but the first are 0 too.
    """
    j = np.arange(terms, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod((1.0 + 2.0 * j) / (n + 2.0 * j))])


def _check_radius(edges: FloatArray) -> None:
    if edges.ndim != 1 or edges.size < 2 or not edges[0] >= 0.0:
        start = f" and edges[0]={edges[0]:g}" if edges.ndim == 1 and edges.size else ""
        raise InvalidInput(f"edges have shape {edges.shape}{start}: need the edges of the cells of a radius, which "
                           "starts at 0 or above; model.grid(...) gives them")
