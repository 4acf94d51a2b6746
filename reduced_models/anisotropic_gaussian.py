"""Two Gaussian classes that differ in variance in a part of the inputs: networks reduce to two lengths of weights."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation, check_activation
from wgflow.activations.piecewise_linear import Ramp
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_positive
from wgflow.compiled.neuron_pairs import block_mehler_rows
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.losses.base import Loss

from .base import FloatArray
from .block_arguments import block, pair
from .data_rules import DataRule
from .features.biradial import BiradialFeatures, Box
from .features.biradial_choice import choose_biradial_features
from .features.network_gradients import two_class_gradient
from .features.outputs import BiradialOutputs, choose_biradial_outputs
from .minimum_risk.measure_problem import LimitPoint
from .radial_laws import RADIUS, check_held, chi_masses, gauss_chi_rule, log_sphere_weight, noisy_deviation
from .two_classes import TwoClassModel, class_variances, delta_masses

__all__ = ["AnisotropicGaussian", "TwoBlockModel"]

_RANGES = (3.5, 2.0)  # of r1 and r2 on the default grid, in lengths at which data reach the outermost knot
_DEFAULT_TOLERANCE = 1e-8  # of the kernel, far below the discretization error of a grid
_LOSS_TOLERANCE = 1e-7  # the same, of risk and Psi with another loss than the square
_SERIES_DEGREE = 160  # of the Mehler series of a population risk
_SMOOTH_DEGREE = 42  # the same where coefficients come from quadrature, which resolves no higher degrees
_PAIR_TOLERANCE = 1e-14  # tail at which the series of a pair stops, relative to the largest second moment
_BLOCK = 1 << 20  # pairs of neurons handled at a time


class TwoBlockModel(TwoClassModel):
    r"""The base of the models with inputs :math:`x \sim N(0, \mathrm{diag}(\tau_\pm^2 I_{s_0}, I_{d-s_0}))`.

    A weight enters through the lengths :math:`r_1, r_2` of its two blocks, and through the standard deviations
    :math:`s_\pm = \sqrt{\tau_\pm^2 r_1^2 + r_2^2}` of :math:`\langle w, x\rangle`.

    With another loss than the square the risk is its mean over the lengths :math:`\tau_\pm \chi_{s_0}, \chi_{d-s_0}` of
    the two blocks of an input, a product of Gauss rules, at outputs that are a series in these lengths.
    """

    def __init__(
        self,
        d: float,
        s0: int | None = None,
        tau_plus2: float | None = None,
        tau_minus2: float | None = None,
        *,
        delta: float | None = None,
        convention: str = "variance",
        gamma: float | None = None,
        activation: Activation | None = None,
        tolerance: float | None = None,
        loss: Loss | Sequence[Callable] | None = None,
    ):
        if isinstance(d, float) and (math.isinf(d) or d.is_integer()):
            d = d if math.isinf(d) else int(d)
        self.d = d if d == math.inf else check_count("d", d, 2)
        self.s0, self.gamma = block(self.d, s0, gamma)
        self.input_dimension = float(self.d)
        self.tau_plus2, self.tau_minus2 = class_variances(tau_plus2, tau_minus2, delta, convention)
        self.activation = self._default_activation() if activation is None else activation
        check_activation(self.activation)
        self._take_loss(loss, [1.0, -1.0])
        self._relax = tolerance is None
        default = _DEFAULT_TOLERANCE if self.quadratic else _LOSS_TOLERANCE
        self.tolerance = default if tolerance is None else check_positive("tolerance", tolerance)

    @staticmethod
    def _default_activation() -> Activation:
        return Ramp()

    def __repr__(self) -> str:
        block = f"d={self.d}, s0={self.s0}" if self.s0 is not None else f"d={self.d}, gamma={self.gamma:g}"
        taus = f"tau_plus2={self.tau_plus2:g}, tau_minus2={self.tau_minus2:g}"
        more = "" if self.quadratic else f", loss={self.loss!r}"
        return f"{type(self).__name__}({block}, {taus}, activation={self.activation!r}{more})"

    # ---------------------------------------------------------------- reduced coordinates
    @property
    def dimensions(self) -> tuple[float, float]:
        """Numbers of inputs in the two blocks, ``(s0, d - s0)``."""
        return (math.inf, math.inf) if self.s0 is None else (self.s0, self.d - self.s0)

    @property
    def deviations(self) -> tuple[float, float]:
        """The standard deviations tau_+ and tau_- of the first block in the two classes."""
        return math.sqrt(self.tau_plus2), math.sqrt(self.tau_minus2)

    @property
    def length_scales(self) -> tuple[float, float]:
        """Lengths of the two blocks of a weight that carry the mean data over the outermost knot of the activation."""
        size = self.activation.length_scale
        return size / math.sqrt(0.5 * (self.tau_plus2 + self.tau_minus2)), size

    @cached_property
    def _basis(self) -> BiradialFeatures | BiradialOutputs:
        if self.quadratic:
            return choose_biradial_features(self.activation, self.deviations, self.dimensions, self._box(),
                                            self.tolerance, self._relax)
        return choose_biradial_outputs(self.activation, self.deviations, self.dimensions, self._box(), self.loss,
                                       self.tolerance, not self._relax)

    @property
    def block_dimensions(self) -> tuple[float, ...]:
        """The dimensions of the two blocks."""
        return self.dimensions

    @property
    def node_lengths(self) -> FloatArray:
        self._need_nodes()
        lengths = cast(BiradialOutputs, self._basis).lengths
        return np.concatenate([lengths * [[tau], [1.0]] for tau in self.deviations], axis=1)

    @cached_property
    def _data_rule(self) -> DataRule:
        return cast(BiradialFeatures, self._basis).data_rule(self.dimensions, self._box())

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        if not self.quadratic:
            return super().sample_covariance(law, fields)
        return self._data_rule.sample_covariance(*self._moments_and_slopes(law, fields))

    def _box(self) -> Box:
        """Return where the features are accurate to the tolerance: twice the default grid."""
        return Box(0.0, *(2.0 * factor * size for factor, size in zip(_RANGES, self.length_scales)))

    @property
    def feature_error(self) -> float:
        """Bound of the kernel's error on twice the range of the default grid, as ``tolerance`` counts it.

        With another loss than the square, the error of risk and Psi over laws of one neuron.
        """
        return self._basis.error

    @property
    def target(self) -> FloatArray:
        return self._basis.target

    def energy(self, beta: float = math.inf, ridge: float = 0.0) -> FreeEnergy:
        if math.isinf(self.d) and isinstance(beta, numbers.Real) and not math.isinf(float(beta)):
            raise InvalidInput(f"beta={beta}: the limit d=inf has no reference measure of r1, r2 for the entropy; "
                               "use beta=inf or a finite d")
        return super().energy(beta, ridge)

    def _spreads(self, r1: ArrayLike, r2: ArrayLike) -> list[FloatArray]:
        """Return s_+ and s_-."""
        return [np.hypot(tau * np.asarray(r1, dtype=np.float64), r2) for tau in self.deviations]

    def _default_radii(self, kappa: float | None, beta: float, ridge: float,
                       t_end: float | None) -> tuple[float, float]:
        """Return the ends of the two radial axes of the default grid."""
        deviation = noisy_deviation(kappa, self.d, beta, ridge, t_end, self.time_scale)
        radii = [factor * size for factor, size in zip(_RANGES, self.length_scales)]
        if math.isfinite(self.d):
            radii = [max(r, (math.sqrt(n) + 8.0) * deviation) for r, n in zip(radii, self.dimensions)]
        elif kappa is not None:
            radii = [max(r, 2.0 * kappa) for r in radii]
        return radii[0], radii[1]

    def log_weight(self, grid: Grid) -> FloatArray:
        """Return the logarithm of the cell averages of the measure of the spheres on the last two axes, the radii.

        The limit ``d = inf`` is refused: it has no such measure.
        """
        self._check_axes(grid)
        if math.isinf(self.d):
            raise InvalidInput("the limit d=inf has no reference measure of r1, r2 for the entropy; use beta=inf or a "
                               "finite d")
        first, second = (log_sphere_weight(edges, int(n)) for edges, n in zip(grid.edges[-2:], self.dimensions))
        return np.broadcast_to(first[:, None] + second, grid.shape)

    # ---------------------------------------------------------------- the initial law of the radii
    def _radial_masses(self, kappa: float, grid: Grid) -> list[FloatArray]:
        """Return the masses of the initial law in the cells of the two radial axes."""
        kappa = check_positive("kappa", kappa)
        self._check_axes(grid)
        masses = []
        for name, edges, n, part in zip(("r1", "r2"), grid.edges[-2:], self.dimensions, (self.gamma, 1.0 - self.gamma)):
            if math.isinf(n):
                own = delta_masses(kappa * math.sqrt(part), Grid(edges=[edges]))
            else:
                own = chi_masses(edges, int(n), kappa, int(self.d))
            check_held(own, edges, f"kappa={kappa:g}", name, f"give model.grid(kappa={kappa:g}), or a larger range")
            masses.append(own)
        return masses

    def _radial_rule(self, kappa: float, nodes: int) -> tuple[FloatArray, FloatArray]:
        """Return nodes (2, n) and weights (n,) of the product of Gauss rules for the initial law of the radii."""
        kappa, nodes = check_positive("kappa", kappa), check_count("nodes", nodes)
        if math.isinf(self.d):
            return kappa * np.sqrt([[self.gamma], [1.0 - self.gamma]]), np.ones(1)
        rules = [gauss_chi_rule(int(n), nodes) for n in self.dimensions]
        radii = np.array(np.meshgrid(*[x for x, _ in rules], indexing="ij")).reshape(2, -1)
        return kappa / math.sqrt(self.d) * radii, np.outer(rules[0][1], rules[1][1]).ravel()

    # ---------------------------------------------------------------- the network
    def sample_data(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        plus, minus = self.deviations
        y = cast(FloatArray, 2.0 * rng.integers(0, 2, size=n) - 1.0)
        self._require_network()
        x = rng.standard_normal((n, int(self.d)))
        x[:, : self.s0] *= np.where(y > 0.0, plus, minus)[:, None]
        return x, y

    def _require_network(self) -> None:
        if math.isinf(self.d):
            raise InvalidInput(f"{self.name} is a limit without a network (d = inf); give a finite d")

    def _initial_weights(self, n_neurons: int, kappa: float, rng: np.random.Generator) -> FloatArray:
        n_neurons, kappa = check_count("n_neurons", n_neurons), check_positive("kappa", kappa)
        self._require_network()
        return kappa / math.sqrt(self.d) * rng.standard_normal((n_neurons, int(self.d)))

    def _lengths(self, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        squares = w * w
        return np.sqrt(np.sum(squares[..., : self.s0], axis=-1)), np.sqrt(np.sum(squares[..., self.s0 :], axis=-1))

    def _square_risks(self, networks: FloatArray) -> FloatArray:
        return np.array([self._network_risk(one) for one in networks])

    def _network_risk(self, theta: FloatArray) -> float:
        n = len(theta)
        if self.trains_readout:
            a, b, w = theta[:, 0], theta[:, 1], np.ascontiguousarray(theta[:, 2:])
        else:
            a, b, w = np.ones(n), np.zeros(n), theta
        s = np.stack(self._spreads(*self._lengths(w)))
        degree = _SMOOTH_DEGREE if self.activation.kernel_arguments().code else _SERIES_DEGREE
        coefficients = a * self.activation.hermite_coefficients(s, degree, offset=b)  # (degree + 1, 2, n)
        own = a * a * self.activation.pair_expectation(s, s, 1.0, offset1=b, offset2=b)
        rest = own - np.cumsum(coefficients**2, axis=0)
        tails = np.maximum(np.max(rest, axis=2), 0.0).T.copy()
        pairs = self._pair_sum(w, s, a, b, np.ascontiguousarray(coefficients.transpose(1, 2, 0)), tails,
                               _PAIR_TOLERANCE * max(1.0, float(np.max(own))))
        outputs = np.mean(coefficients[0], axis=1)
        return 1.0 - float(outputs[0] - outputs[1]) + (0.5 * float(np.sum(own)) + pairs) / n**2

    def _pair_sum(
        self, w: FloatArray, s: FloatArray, a: FloatArray, b: FloatArray, coefficients: FloatArray, tails: FloatArray,
        tolerance: float,
    ) -> float:
        """Return the sum over pairs i < j and over both classes."""
        n = len(w)
        rows = min(n, max(1, _BLOCK // n))
        row_sums, far_sums = np.zeros(n), []
        i, j, law = (np.empty(2 * rows * n, np.int64) for _ in range(3))
        cosine = np.empty(2 * rows * n)
        variances = np.array([self.tau_plus2, self.tau_minus2])
        for first in range(0, n, rows):
            last = min(n, first + rows)
            count = block_mehler_rows(w, int(self.s0 or 0), variances, s, coefficients, tails, tolerance, first, last,
                                      row_sums, i, j, law, cosine)
            if count:
                p, q, m = i[:count], j[:count], law[:count]
                pairs = self.activation.pair_expectation(s[m, p], s[m, q], cosine[:count], offset1=b[p], offset2=b[q])
                far_sums.append(float(np.sum(a[p] * a[q] * pairs)))
        return float(np.sum(row_sums)) + math.fsum(far_sums)


class AnisotropicGaussian(TwoBlockModel):
    r"""Labels +1 and -1 with inputs :math:`N(0, \mathrm{diag}(\tau_\pm^2 I_{s_0}, I_{d-s_0}))`; first layer learns.

    The network is :math:`\hat y(x) = \frac1N \sum_i \sigma(\langle w_i, x \rangle)`. The risk depends on the law of
    :math:`r_1 = |w_{1:s_0}|, r_2 = |w_{s_0+1:d}|` alone. With :math:`s_\pm = \sqrt{\tau_\pm^2 r_1^2 + r_2^2}`, the
    means :math:`q(s) = E\,\sigma(sG)`, Hermite coefficients :math:`a_k` and moments :math:`M_i(n)` of the cosine
    between random directions of :math:`R^n`,

    .. math::
        V &= -\tfrac12 q(s_+) + \tfrac12 q(s_-), \\
        U &= \tfrac12 \sum_\pm \sum_{k\ \text{even}} a_k(s_\pm)\, a_k(s_\pm') \sum_{i\ \text{even}}
             \tbinom{k}{i} M_i(s_0)\, M_{k-i}(d - s_0)
             \Bigl(\frac{\tau_\pm^2 r_1 r_1'}{s_\pm s_\pm'}\Bigr)^i \Bigl(\frac{r_2 r_2'}{s_\pm s_\pm'}\Bigr)^{k-i} .

    Terms and directions in their span are left out as far as ``tolerance`` allows; a bound of the error is
    ``feature_error``. Where a block has up to twelve dimensions the series is long, and terms of the same form at
    smaller :math:`r_1` or :math:`r_2`, those of Gaussian windows in the length of the inputs of this block, take its
    place. For ``d = inf`` with :math:`s_0 = \gamma d` two features are exact.

    Parameters
    ----------
    d : int or inf
        Dimension of the inputs.
    s0 : int
        Number of inputs whose variance tells the classes apart, ``1 <= s0 < d``; left out for ``d = inf``.
    tau_plus2, tau_minus2 : float
        Variances of these inputs in the two classes, positive.
    delta, convention
        Instead of the variances, as for `IsotropicGaussian`.
    gamma : float
        For ``d = inf``, the part of the inputs in the first block, ``0 < gamma < 1``.
    activation : Activation
        ``Ramp()`` by default.
    tolerance : float, optional
        Allowed error of the kernel, relative to ``max(1, max U)`` on twice the range of the default grid. By default
        1e-8, or what is reached with about 1,000 terms: where a block has one or two dimensions, an activation with
        kinks makes the kernel less smooth. A tolerance that is given and missed is a `WGFlowWarning`. With another
        loss than the square, of risk and Psi relative to 1 and to their size; by default 1e-7, or what 14 nodes for
        each length give.
    loss : Loss or (l, l', l''), optional
        One of `wgflow.losses`, or three functions of (y, f); `Square` by default. Another than the square needs blocks
        of more than about ten dimensions, where outputs are a short series in the lengths of the data.

    Raises
    ------
    InvalidInput
        If a parameter is out of range, or both or neither of the two ways to give the variances are used; on first
        use, if a block has too few dimensions for a loss.

    References
    ----------
    S. Mei, A. Montanari and P.-M. Nguyen, A mean field view of the landscape of two-layer neural networks, PNAS 115
    (2018) E7665-E7671.

    Examples
    --------
    >>> model = AnisotropicGaussian(d=320, s0=60, delta=0.4)
    >>> rho = model.initial_atoms(0.8, nodes=12)
    >>> round(model.risk(rho), 4)
    2.5565
    """

    name = "anisotropic Gaussians"
    coordinate_names = lengths = ("r1", "r2")

    def _signals(self, *coordinates: FloatArray) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
        r1, r2 = coordinates
        return np.ones(r1.shape), np.zeros(r1.shape), [r1, r2]

    def features(self, r1: ArrayLike, r2: ArrayLike) -> FloatArray:
        return self._basis(np.zeros(()), *(np.asarray(r, dtype=np.float64) for r in (r1, r2)))

    def feature_gradients(self, r1: ArrayLike, r2: ArrayLike) -> FloatArray:
        return self._basis.gradients(np.zeros(()), *(np.asarray(r, dtype=np.float64) for r in (r1, r2)))[:, 1:]

    def diagonal(self, r1: ArrayLike, r2: ArrayLike) -> FloatArray:
        plus, minus = (self.activation.pair_expectation(s, s, 1.0) for s in self._spreads(r1, r2))
        return 0.5 * (plus + minus)

    def search_box(self) -> tuple[tuple[float, float], ...]:
        """Return all lengths where the features have one limit at infinity (bounded activations), else the grid's."""
        return ((0.0, math.inf),) * 2 if self._basis.at_infinity is not None else super().search_box()

    def limit_points(self) -> tuple[LimitPoint, ...]:
        r"""Return the one limit of the features as r1 or r2 grows, that of neurons with the constant output

        .. math:: \tfrac12 (\sigma(\infty) + \sigma(-\infty)) .

        An unbounded activation has no limit, or one for each ratio of r1 and r2; none are given then.
        """
        limit = self._basis.at_infinity
        return () if limit is None else (LimitPoint(np.full(2, math.inf), *limit),)

    def grid(
        self,
        cells: int | tuple[int, int] = (160, 120),
        r_max: tuple[float, float] | None = None,
        *,
        kappa: float | None = None,
        beta: float = math.inf,
        ridge: float = 0.0,
        t_end: float | None = None,
    ) -> Grid:
        """Return the grid on ``0 <= r1 <= r_max[0], 0 <= r2 <= r_max[1]`` with the measure of the spheres.

        Parameters
        ----------
        cells : int or pair of int
            Numbers of equal cells.
        r_max : pair of float, optional
            By default 3.5 and 2 times the lengths at which the mean data reach the outermost knot of the activation:
            the second block carries no information, and its weights grow little.
        kappa, beta, ridge, t_end : float
            The default also holds the initial law of scale ``kappa``, and the law of the weights under noise and ridge
            alone, until ``t_end`` where no ridge holds them.
        """
        ends = self._default_radii(kappa, beta, ridge, t_end) if r_max is None else pair("r_max", r_max)
        grid = Grid([(0.0, end) for end in ends], cells=cells, names=self.coordinate_names,
                    boundary=[RADIUS] * len(ends))
        return grid if math.isinf(self.d) else self.weighted(grid)

    def initial_density(self, kappa: float, grid: Grid) -> Density:
        """Return the law of (r1, r2) for ``w`` normal with covariance ``kappa**2 / d`` times the identity.

        Cell masses are exact. For ``d = inf`` the law is a delta at ``kappa`` times the roots of ``gamma`` and
        ``1 - gamma``, shared by neighboring cells so that its mean is exact.

        Raises
        ------
        InvalidInput
            If ``kappa`` is not positive or more than 1e-6 of the mass lies outside the grid.
        """
        first, second = self._radial_masses(kappa, grid)
        return Density.from_values(grid, np.outer(first, second) / grid.volumes, normalize=True)

    def initial_atoms(self, kappa: float, nodes: int = 20) -> Atoms:
        """Return the product of Gauss rules of ``nodes`` nodes for the two lengths; one atom for ``d = inf``."""
        points, weights = self._radial_rule(kappa, nodes)
        powers = None if math.isinf(self.d) else tuple(n - 1.0 for n in self.dimensions)
        return Atoms(points, weights, ((0.0, math.inf),) * 2, powers, self.coordinate_names)

    def initial_theta(self, n_neurons: int, kappa: float, rng: np.random.Generator) -> FloatArray:
        """Draw ``w`` normal with covariance ``kappa**2 / d`` times the identity, shape (n_neurons, d)."""
        return self._initial_weights(n_neurons, kappa, rng)

    def project(self, theta: ArrayLike) -> FloatArray:
        """Return ``(r1, r2)``, shape (..., 2)."""
        return np.stack(self._lengths(self.check_theta(theta)), axis=-1)

    def network_gradient(self, theta: ArrayLike) -> FloatArray:
        self._need_square("gradient in the space of all parameters that is known in closed form")
        theta = self.check_theta(theta)
        variances = np.ones((2, theta.shape[1]))
        variances[:, : int(self.s0 or 0)] = np.array([[self.tau_plus2], [self.tau_minus2]])
        return two_class_gradient(self.activation, variances, np.array([1.0, -1.0]), theta)
