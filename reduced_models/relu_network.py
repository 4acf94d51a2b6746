"""The two-layer rectifier network with all its parameters trained, on anisotropic Gaussian classes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from wgflow.activations.base import Activation
from wgflow.activations.piecewise_linear import ReLU
from wgflow.atoms import Atoms
from wgflow.checks import check_positive, check_real
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .anisotropic_gaussian import TwoBlockModel
from .base import FloatArray
from .features.biradial import Box, without_constant_axes
from .radial_laws import RADIUS, check_held, noisy_deviation

__all__ = ["ReLUNetwork"]

_RANGE = 3.0  # half width of the default grid on the axes of a and b


class ReLUNetwork(TwoBlockModel):
    r"""Network :math:`\hat y(x) = \frac1N \sum_i a_i\,\sigma(\langle w_i, x\rangle + b_i)`; all parameters learn.

    Labels +1 and -1 come with inputs :math:`N(0, \mathrm{diag}(\tau_\pm^2 I_{s_0}, I_{d-s_0}))`. The risk depends on
    the law of :math:`(a, b, r_1, r_2)` alone, with :math:`r_1 = |w_{1:s_0}|, r_2 = |w_{s_0+1:d}|`. With
    :math:`s_\pm = \sqrt{\tau_\pm^2 r_1^2 + r_2^2}` and the Hermite coefficients :math:`a_k(s, b)` of
    :math:`\sigma(sG + b)`,

    .. math::
        V &= -\tfrac{a}{2} (q(s_+, b) - q(s_-, b)), \qquad q = a_0, \\
        U &= \tfrac{a a'}{2} \sum_\pm \sum_{k\ \text{even}} a_k(s_\pm, b)\, a_k(s_\pm', b') \sum_{i\ \text{even}}
             \tbinom{k}{i} M_i(s_0)\, M_{k-i}(d - s_0)
             \Bigl(\frac{\tau_\pm^2 r_1 r_1'}{s_\pm s_\pm'}\Bigr)^i \Bigl(\frac{r_2 r_2'}{s_\pm s_\pm'}\Bigr)^{k-i} .

    SGD with :math:`e = 2 \epsilon (y - \hat y)` moves the neurons with :math:`z_i = \langle w_i, x\rangle + b_i` by
    :math:`a_i \mathrel{+}= e\,\sigma(z_i)`, :math:`b_i \mathrel{+}= e\,a_i \sigma'(z_i)`,
    :math:`w_i \mathrel{+}= e\,a_i \sigma'(z_i)\,x`, with the old :math:`a_i` throughout.

    Neurons of both signs and any size approximate every function of the two blocks' lengths, so that the infimum of the
    risk over all measures is that of the best prediction from them; for ``d = inf`` it is 0 for any two variances that
    differ. It is not attained in general. ``minimum_risk()`` therefore answers another question: the least risk with
    all coordinates in a box, by default that of the default grid, and warns where the optimal measure lies on its edge.

    Parameters
    ----------
    d, s0, tau_plus2, tau_minus2, delta, convention, gamma
        The data, as for `AnisotropicGaussian`.
    activation : Activation
        ``ReLU()`` by default.
    tolerance : float, optional
        Allowed error of the kernel at :math:`a = a' = 1`, relative to ``max(1, max U)`` for lengths and offsets up to
        the length scale of the activation; a rectifier is homogeneous, so that this is a relative error everywhere.
        By default 1e-8, or what is reached with about 1,000 terms where a block has few dimensions. With another loss
        than the square as for `AnisotropicGaussian`, at a = 1.
    loss : Loss or (l, l', l''), optional
        As for `AnisotropicGaussian`.

    Raises
    ------
    InvalidInput
        If a parameter is out of range, or both or neither of the two ways to give the variances are used.

    References
    ----------
    S. Mei, A. Montanari and P.-M. Nguyen, A mean field view of the landscape of two-layer neural networks, PNAS 115
    (2018) E7665-E7671.

    Examples
    --------
    >>> model = ReLUNetwork(d=320, s0=60, delta=0.4)
    >>> round(model.risk(model.initial_atoms(0.8, nodes=12)), 6)
    2.071964
    """

    name = "rectifier network on anisotropic Gaussians"
    coordinate_names = ("a", "b", "r1", "r2")
    lengths = ("r1", "r2")
    trains_readout = True

    @staticmethod
    def _default_activation() -> Activation:
        return ReLU()

    def _box(self) -> Box:
        first, second = self.length_scales
        homogeneous = self.activation == ReLU()
        size = 1.0 if homogeneous else 2.0 * _RANGE
        return Box(size * second, size * first, size * second)

    def _signals(self, *coordinates: FloatArray) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
        a, b, r1, r2 = coordinates
        return a, b, [r1, r2]

    def features(self, a: ArrayLike, b: ArrayLike, r1: ArrayLike, r2: ArrayLike) -> FloatArray:
        a, *others = (np.asarray(x, dtype=np.float64) for x in (a, b, r1, r2))
        core = self._basis(*without_constant_axes(*others))
        return _lifted(a, core, 1)

    def feature_gradients(self, a: ArrayLike, b: ArrayLike, r1: ArrayLike, r2: ArrayLike) -> FloatArray:
        a, *others = (np.asarray(x, dtype=np.float64) for x in (a, b, r1, r2))
        core = self._basis.with_gradients(*without_constant_axes(*others))
        slopes = _lifted(a, core[:, 1:], 2)
        values = np.broadcast_to(_lifted(np.ones(a.shape), core[:, 0], 1), slopes[:, 0].shape)
        return np.concatenate([values[:, None], slopes], axis=1)

    def diagonal(self, a: ArrayLike, b: ArrayLike, r1: ArrayLike, r2: ArrayLike) -> FloatArray:
        second = [self.activation.pair_expectation(s, s, 1.0, offset1=b, offset2=b) for s in self._spreads(r1, r2)]
        return 0.5 * np.square(np.asarray(a, dtype=np.float64)) * (second[0] + second[1])

    def grid(
        self,
        cells: int | tuple[int, int, int, int] = 32,
        bounds: tuple[tuple[float, float], ...] | None = None,
        *,
        kappa: float | None = None,
        beta: float = math.inf,
        ridge: float = 0.0,
        t_end: float | None = None,
    ) -> Grid:
        """Return the grid on (a, b, r1, r2) with Lebesgue measure in a, b and that of the spheres in r1, r2.

        Parameters
        ----------
        cells : int or four int
            Numbers of equal cells.
        bounds : four (low, high) pairs, optional
            By default a and b between -3 and 3, r1 and r2 up to 3.5 and 2 length scales. The lower ends of r1 and r2
            are at least 0.
        kappa, beta, ridge, t_end : float
            The default also holds the initial law of scale ``kappa``, and the law of the parameters under noise and
            ridge alone, until ``t_end`` where no ridge holds them.
        """
        if bounds is None:
            radii = self._default_radii(kappa, beta, ridge, t_end)
            side = max(_RANGE, 8.0 * noisy_deviation(kappa, 1.0, beta, ridge, t_end, self.time_scale))
            bounds = ((-side, side), (-side, side), (0.0, radii[0]), (0.0, radii[1]))
        # A length that may start above 0 has no natural end there.
        ends = [RADIUS if k > 1 and low == 0.0 else None for k, (low, _) in enumerate(bounds)]
        grid = Grid(bounds, cells=cells, names=self.coordinate_names if len(bounds) == 4 else None, boundary=ends)
        if grid.ndim == 4 and min(grid.bounds[2][0], grid.bounds[3][0]) < 0.0:
            raise InvalidInput(f"bounds={bounds}: the lengths r1 and r2 start at 0 or above")
        self._check_axes(grid)
        return grid if math.isinf(self.d) else self.weighted(grid)

    def initial_density(
        self, kappa: float, grid: Grid, a: float = 1.0, b: float = 1.0, width: float | None = None
    ) -> Density:
        """Return the law of a neuron with ``w`` normal, covariance ``kappa**2 / d``, and a, b normal about their means.

        Parameters
        ----------
        kappa : float
        grid : Grid
        a, b : float
            Means of the readout weight and of the offset.
        width : float, optional
            Their standard deviation. By default one cell of each axis, the least that a grid resolves: the law then
            tends to point values as the grid is refined.

        Raises
        ------
        InvalidInput
            If a scale is not positive or more than 1e-6 of the mass lies outside the grid.
        """
        radial = self._radial_masses(kappa, grid)
        plain = []
        for name, mean, edges in zip(("a", "b"), (check_real("a", a), check_real("b", b)), grid.edges):
            spread = float(np.max(np.diff(edges))) if width is None else check_positive("width", width)
            z = (edges - mean) / spread
            masses = np.where(z[:-1] > 0.0, ndtr(-z[:-1]) - ndtr(-z[1:]), ndtr(z[1:]) - ndtr(z[:-1]))
            check_held(masses, edges, f"{name}={mean:g} with width={spread:g}", name, "give model.grid larger bounds")
            plain.append(masses)
        masses = np.einsum("i,j,k,l->ijkl", *plain, *radial)
        return Density.from_values(grid, masses / grid.volumes, normalize=True)

    def initial_atoms(self, kappa: float, nodes: int = 12, a: float = 1.0, b: float = 1.0) -> Atoms:
        """Return the law at fixed ``a`` and ``b`` by the product of Gauss rules of ``nodes`` nodes in r1 and r2."""
        points, weights = self._radial_rule(kappa, nodes)
        plain = [np.full(weights.size, check_real(name, value)) for name, value in (("a", a), ("b", b))]
        points = np.vstack([*plain, points])
        powers = None if math.isinf(self.d) else (0.0, 0.0, *(n - 1.0 for n in self.dimensions))
        line, half = (-math.inf, math.inf), (0.0, math.inf)
        return Atoms(points, weights, (line, line, half, half), powers, self.coordinate_names)

    def initial_theta(
        self, n_neurons: int, kappa: float, rng: np.random.Generator, a: float = 1.0, b: float = 1.0
    ) -> FloatArray:
        """Draw neurons (a, b, w) with ``w`` normal of covariance ``kappa**2 / d``, shape (n_neurons, d + 2)."""
        w = self._initial_weights(n_neurons, kappa, rng)
        plain = np.broadcast_to([check_real("a", a), check_real("b", b)], (len(w), 2))
        return np.concatenate([plain, w], axis=1)

    def project(self, theta: ArrayLike) -> FloatArray:
        """Return ``(a, b, r1, r2)``, shape (..., 4)."""
        theta = self.check_theta(theta)
        r1, r2 = self._lengths(theta[..., 2:])
        return np.stack([theta[..., 0], theta[..., 1], r1, r2], axis=-1)


def _lifted(a: FloatArray, core: FloatArray, leading: int) -> FloatArray:
    """Return ``a`` times ``core``, whose first ``leading`` axes are not coordinates."""
    dims = max(a.ndim, core.ndim - leading)
    shape = core.shape[:leading] + (1,) * (dims - (core.ndim - leading)) + core.shape[leading:]
    return a * core.reshape(shape)
