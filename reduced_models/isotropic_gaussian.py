"""Two isotropic Gaussian classes of different variance: the network reduces to the law of the weights' lengths."""

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
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.losses.base import Loss

from .base import FloatArray
from .critical_deltas import CriticalDeltas, StationaryDelta, critical_deltas, stationary_deltas
from .data_rules import weighted_covariance
from .features.network_gradients import two_class_gradient
from .features.neuron_pairs import kernel_pair_sums
from .features.outputs import choose_radial_outputs
from .features.radial import HermiteFeatures, QuadratureFeatures, choose_features
from .hidden_noise import radial_noise
from .minimum_risk.measure_problem import LimitPoint
from .radial_laws import RADIUS, check_held, chi_masses, chi_rule, gauss_chi_rule, log_sphere_weight, noisy_deviation
from .two_classes import TwoClassModel, check_convention, class_variances, delta_masses

__all__ = ["CriticalDeltas", "IsotropicGaussian", "StationaryDelta"]

# What at most 1,024 features a class reach with the ramp, whose kinks make the kernel less smooth in few dimensions.
_LOW_DIMENSION_TOLERANCE: dict[float, float] = {1: 3e-4, 2: 3e-6, 3: 3e-8}
_LOSS_TOLERANCE = 1e-8  # of risk and Psi with another loss than the square
_DATA_NODES = 64  # of the rule for |x| by which the noise of single samples is formed
_CHUNK = 4096  # neurons of small networks handled at a time


class IsotropicGaussian(TwoClassModel):
    r"""Labels +1 and -1 with inputs :math:`x \sim N(0, \tau_\pm^2 I_d)`, first-layer weights learn.

    The network is :math:`\hat y(x) = \frac1N \sum_i \sigma(\langle w_i, x \rangle)`. By rotation invariance the risk
    depends on the law of :math:`r = |w|` alone. With :math:`q(s) = E\,\sigma(sG)`, Hermite coefficients :math:`a_k`
    and the moments :math:`M_k` of the cosine between random directions,

    .. math::
        V(r) = -\tfrac12 q(\tau_+ r) + \tfrac12 q(\tau_- r), \qquad
        U(r, r') = \tfrac12 \sum_\pm \sum_j M_{2j}\, a_{2j}(\tau_\pm r)\, a_{2j}(\tau_\pm r') .

    The series is cut where a computed bound of its tail falls below ``tolerance``. In low dimension it converges
    slowly; there the kernel is written as an average over :math:`|x| = \tau_\pm \chi_d` of the product of two means
    over directions, by a quadrature rule refined until the kernel settles. Both are of low rank. For ``d = inf`` two
    features are exact.

    With another ``loss`` than the square the risk is its mean, a function of the outputs given the length of an input,

    .. math::
        R(\rho) = \tfrac12 \sum_\pm E\,l\bigl(\pm 1, f(\tau_\pm \chi_d)\bigr), \qquad
        f(t) = \int \bar\sigma(t r)\,\rho(dr), \qquad \bar\sigma(t) = E\,\sigma(t c),

    with a coordinate c of a random direction. The mean over :math:`\chi_d` is a quadrature rule; ``feature_error`` is
    by how much risk and :math:`\Psi` change when its nodes are doubled. The clock is that of `FiniteData`:
    ``time_scale`` 1.

    Parameters
    ----------
    d : int or inf
        Dimension of the inputs.
    tau_plus2, tau_minus2 : float
        Variances of the two classes, positive.
    delta : float
        Instead of the variances: :math:`\tau_\pm^2 = 1 \pm \Delta` (``convention="variance"``) or
        :math:`\tau_\pm = 1 \pm \Delta` (``"deviation"``), ``0 <= delta < 1``. The talks use the first, the papers the
        second.
    convention : {"variance", "deviation"}
        Meaning of ``delta``.
    activation : Activation
        ``Ramp()`` by default.
    tolerance : float, optional
        Allowed error of the kernel, relative to ``max(1, max U)`` on twice the range of the default grid. By default
        1e-10, and 3e-4, 3e-6, 3e-8 for d = 1, 2, 3, where an activation with kinks makes the kernel less smooth. With
        another loss than the square, of risk and Psi relative to 1 and to their size; by default 1e-8, or what 256
        nodes give: a loss whose slope bends (Huber, smoothed hinge) converges slowly.
    loss : Loss or (l, l', l''), optional
        One of `wgflow.losses`, or three functions of (y, f); `Square` by default.

    Raises
    ------
    InvalidInput
        If a parameter is out of range, or both or neither of the two ways to give the variances are used.

    Notes
    -----
    Only the ratio :math:`\tau_+ / \tau_-` matters: :math:`\tau \to c \tau` is :math:`r \to r/c, t \to t/c^2`.

    References
    ----------
    S. Mei, A. Montanari and P.-M. Nguyen, A mean field view of the landscape of two-layer neural networks, PNAS 115
    (2018) E7665-E7671.

    Examples
    --------
    >>> model = IsotropicGaussian(d=40, tau_plus2=1.8, tau_minus2=0.2)
    >>> grid = model.grid(cells=200)
    >>> rho = model.initial_density(0.8, grid)
    >>> bool(abs(model.risk(rho) - model.initial_risk(0.8)) < 1e-3)
    True
    """

    name = "isotropic Gaussians"
    coordinate_names = lengths = ("r",)

    def __init__(
        self,
        d: float,
        tau_plus2: float | None = None,
        tau_minus2: float | None = None,
        *,
        delta: float | None = None,
        convention: str = "variance",
        activation: Activation | None = None,
        tolerance: float | None = None,
        loss: Loss | Sequence[Callable] | None = None,
    ):
        if isinstance(d, float) and (math.isinf(d) or d.is_integer()):
            d = d if math.isinf(d) else int(d)
        self.d = d if d == math.inf else check_count("d", d)
        self.input_dimension = float(self.d)
        self.tau_plus2, self.tau_minus2 = class_variances(tau_plus2, tau_minus2, delta, convention)
        self.activation = Ramp() if activation is None else activation
        check_activation(self.activation)
        self._take_loss(loss, [1.0, -1.0])
        self._relax = tolerance is None
        default = _LOW_DIMENSION_TOLERANCE.get(self.d, 1e-10) if self.quadratic else _LOSS_TOLERANCE
        self.tolerance = default if tolerance is None else check_positive("tolerance", tolerance)

    def __repr__(self) -> str:
        taus = f"tau_plus2={self.tau_plus2:g}, tau_minus2={self.tau_minus2:g}"
        more = "" if self.quadratic else f", loss={self.loss!r}"
        return f"IsotropicGaussian(d={self.d}, {taus}, activation={self.activation!r}{more})"

    # ---------------------------------------------------------------- reduced coordinates
    @property
    def deviations(self) -> tuple[float, float]:
        """The standard deviations tau_+ and tau_- of the two classes."""
        return math.sqrt(self.tau_plus2), math.sqrt(self.tau_minus2)

    @property
    def length_scale(self) -> float:
        """A weight of this length carries the mean data over the outermost knot of the activation."""
        return self.activation.length_scale / math.sqrt(0.5 * (self.tau_plus2 + self.tau_minus2))

    @cached_property
    def _basis(self) -> HermiteFeatures | QuadratureFeatures:
        reach = 8.0 * self.length_scale
        if self.quadratic:
            return choose_features(self.activation, self.deviations, self.d, reach, self.tolerance)
        return choose_radial_outputs(self.activation, self.deviations, self.d, reach, self.loss, self.tolerance,
                                     not self._relax)

    @property
    def feature_error(self) -> float:
        """Error of the kernel, or of risk and Psi, on radii up to twice the default grid, as ``tolerance`` counts it.

        A bound or an estimate; of risk and Psi the largest over laws of one radius.
        """
        return self._basis.error

    @property
    def target(self) -> FloatArray:
        return self._basis.target

    def features(self, r: ArrayLike) -> FloatArray:
        return self._basis(np.asarray(r, dtype=np.float64), 0)

    def feature_gradients(self, r: ArrayLike) -> FloatArray:
        return self._basis(np.asarray(r, dtype=np.float64), 1)[:, None]

    def feature_curvatures(self, r: ArrayLike) -> FloatArray:
        """Return the second derivatives of the features, shape (k, *shape), for ``r > 0``."""
        return self._basis(np.asarray(r, dtype=np.float64), 2)

    @cached_property
    def _outputs(self) -> HermiteFeatures | QuadratureFeatures:
        """The mean outputs over directions at the nodes of a rule for |x|, as features of neurons."""
        if math.isinf(self.d):
            return self._basis
        return QuadratureFeatures(self.activation, self.deviations, int(self.d), _DATA_NODES, 0.0)

    @property
    def block_dimensions(self) -> tuple[float, ...]:
        """The dimension d, shape (1,)."""
        return (self.d,)

    @property
    def node_lengths(self) -> FloatArray:
        self._need_nodes()
        nodes = getattr(self._basis, "nodes", np.ones(1))  # in the limit, where c is a normal number, the lengths are 1
        return np.concatenate([tau * nodes for tau in self.deviations])[None]

    def _signals(self, *coordinates: FloatArray) -> tuple[FloatArray, FloatArray, list[FloatArray]]:
        (r,) = coordinates
        return np.ones(r.shape), np.zeros(r.shape), [r]

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        if not self.quadratic:
            return super().sample_covariance(law, fields)
        # The features of the rule are the roots of its weights times the mean outputs at its nodes.
        outputs, (r,) = self._outputs, law.points
        root = outputs.target * np.sign(outputs.target)
        labels = np.sign(outputs.target)
        error = labels - outputs(r, 0) @ law.weights / root
        pushes = error * ((fields[:, 0] * law.weights) @ outputs(r, 1).T) / root
        return weighted_covariance(pushes, root**2)

    def hidden_noise(self, law: Atoms) -> tuple[FloatArray, FloatArray]:
        self._need_square("noise beside its coordinates that is known")
        outputs = self._outputs
        if not isinstance(outputs, QuadratureFeatures):
            raise InvalidInput("d=inf: the noise of samples makes neurons longer without bound")
        drift, spread = radial_noise(self.activation, outputs, int(self.d), law.points[0], law.weights)
        return drift[None], spread[None, None]

    def potential(self, r: ArrayLike) -> FloatArray:
        self._need_square("potential V and kernel U")
        plus, minus = self.activation.gaussian_mean(np.multiply.outer(self.deviations, r))
        return 0.5 * (minus - plus)

    def diagonal(self, r: ArrayLike) -> FloatArray:
        r = np.asarray(r, dtype=np.float64)
        plus, minus = (self.activation.pair_expectation(tau * r, tau * r, 1.0) for tau in self.deviations)
        return 0.5 * (plus + minus)

    def energy(self, beta: float = math.inf, ridge: float = 0.0) -> FreeEnergy:
        if math.isinf(self.d) and isinstance(beta, numbers.Real) and not math.isinf(float(beta)):
            raise InvalidInput(f"beta={beta}: the limit d=inf has no reference measure r^(d-1) for the entropy; "
                               "use beta=inf or a finite d")
        return super().energy(beta, ridge)

    def grid(self, cells: int = 400, r_max: float | None = None, *, kappa: float | None = None, beta: float = math.inf,
             ridge: float = 0.0, t_end: float | None = None) -> Grid:
        """Return the grid on ``0 <= r <= r_max`` with the measure of the spheres, :math:`|S^{d-1}| r^{d-1} dr`.

        Parameters
        ----------
        cells : int
            Number of cells; equal, but for the first, which is half as wide and stands for the origin itself.
        r_max : float, optional
            By default 3.5 times the length at which the mean data reach the outermost knot of the activation, which
            holds the noiseless flow for the times of the experiments. Mass that escapes to infinity needs more.
        kappa : float, optional
            Scale of the initial law: the default then holds it too.
        beta, ridge : float
            For noisy flows: the default then also holds the law of the weights under noise and ridge alone, up to
            eight standard deviations beyond its mean length.
        t_end : float, optional
            End of the time span, for noise without ridge, under which the weights spread without bound.
        """
        if r_max is None:
            r_max = 3.5 * self.length_scale
            deviation = noisy_deviation(kappa, self.d, beta, ridge, t_end, self.time_scale)
            if math.isfinite(self.d):
                r_max = max(r_max, (math.sqrt(self.d) + 8.0) * deviation)
            elif kappa is not None:
                r_max = max(r_max, 2.0 * kappa)
        r_max = check_positive("r_max", r_max)
        grid = Grid([(0.0, r_max)], cells=cells, names=["r"], origin=True, boundary=[RADIUS])
        return grid if math.isinf(self.d) else self.weighted(grid)

    def log_weight(self, grid: Grid) -> FloatArray:
        r"""Return the logarithm of the cell averages of :math:`|S^{d-1}| r^{d-1}`; ``d = inf`` is refused."""
        self._check_axes(grid)
        if math.isinf(self.d):
            raise InvalidInput("the limit d=inf has no reference measure r^(d-1) for the entropy; use beta=inf or a "
                               "finite d")
        return log_sphere_weight(grid.edges[0], int(self.d))

    def initial_density(self, kappa: float, grid: Grid) -> Density:
        """Return the law of ``|w|`` for ``w`` normal with covariance ``kappa**2 / d`` times the identity.

        Cell masses are exact differences of the chi distribution, taken in its smaller tail. For ``d = inf`` the law
        is a delta at ``kappa``, shared by the two nearest cells so that its mean is exact; below the first cell center
        it lies in the first cell.

        Raises
        ------
        InvalidInput
            If ``kappa`` is not positive or more than 1e-6 of the mass lies outside the grid.
        """
        kappa = check_positive("kappa", kappa)
        self._check_axes(grid)
        edges = grid.edges[0]
        if math.isinf(self.d):
            masses = delta_masses(kappa, grid)
        else:
            masses = chi_masses(edges, int(self.d), kappa)
        check_held(masses, edges, f"kappa={kappa:g}", "r", f"give model.grid(kappa={kappa:g}), or a larger range")
        return Density.from_values(grid, masses / grid.volumes, normalize=True)

    def initial_atoms(self, kappa: float, nodes: int = 40) -> Atoms:
        r"""Return the Gauss rule of the law of ``|w|`` for ``w`` normal with covariance ``kappa**2 / d`` times I.

        In :math:`x = d r^2 / (2 \kappa^2)` it is the Gauss-Laguerre rule of the weight :math:`x^{d/2-1} e^{-x}`, exact
        for polynomials in :math:`r^2` of degree 2 ``nodes`` - 1. For ``d = inf`` it is a single atom at ``kappa``.
        """
        kappa, nodes = check_positive("kappa", kappa), check_count("nodes", nodes)
        if math.isinf(self.d):
            return Atoms(np.array([[kappa]]), np.ones(1), bounds=[(0.0, math.inf)], names=["r"])
        chi, weights = gauss_chi_rule(int(self.d), nodes)
        return Atoms(kappa / math.sqrt(self.d) * chi[None], weights, bounds=[(0.0, math.inf)], powers=[self.d - 1.0],
                     names=["r"])

    def search_box(self) -> tuple[tuple[float, float], ...]:
        """Return all radii where the limit of the features is known, as for every activation of this package."""
        return ((0.0, math.inf),) if self._basis.at_infinity is not None else super().search_box()

    def limit_points(self) -> tuple[LimitPoint, ...]:
        """Return the one limit of the features as r grows: that of the activation's even part."""
        limit = self._basis.at_infinity
        return () if limit is None else (LimitPoint(np.array([math.inf]), *limit),)

    def initial_risk(self, kappa: float) -> float:
        r"""Return the risk of the initial law without a grid,

        .. math:: R(\rho_0) = \tfrac12 \sum_\pm E(\pm 1 - q(\kappa \tau_\pm \chi_d / \sqrt d))^2,

        or the same of another loss.
        """
        kappa = check_positive("kappa", kappa)

        def loss(x: FloatArray) -> FloatArray:
            q = [self.activation.gaussian_mean(kappa * tau * x) for tau in self.deviations]
            both = self.loss.value(1.0, q[0]) + self.loss.value(-1.0, q[1])
            return np.asarray(0.5 * self.risk_per_energy * both)

        if math.isinf(self.d):
            return float(loss(np.ones(1))[0])
        return float(self._chi_average(loss))

    def _chi_average(self, function: Callable[[FloatArray], FloatArray]) -> float:
        """Return the average of a smooth function over chi_d / sqrt d, by a rule that is doubled until it settles."""
        values = []
        for n in (64, 128, 256, 512):
            x, weights = chi_rule(int(self.d), n)
            values.append(np.sum(weights * function(x / math.sqrt(self.d))))
            if len(values) > 1 and abs(values[-1] - values[-2]) <= 1e-13 * max(1.0, abs(values[-1])):
                break
        return values[-1]

    def stationary_deltas(self, r_max: float | None = None, samples: int = 800) -> list[StationaryDelta]:
        r"""Return the stationary points of the noiseless risk among single deltas, by increasing radius.

        For the square loss.

        They solve :math:`\partial_r \Psi(r; \delta_{r_*}) = 0` at :math:`r = r_*`; the one of least risk is
        ``min(deltas, key=lambda s: s.risk)``.

        Parameters
        ----------
        r_max : float, optional
            Search ``0 < r <= r_max``; by default the range of the default grid.
        samples : int
            Points at which the sign of the slope is taken first.
        """
        self._need_square("stationary deltas that are searched")
        r_max = 3.5 * self.length_scale if r_max is None else check_positive("r_max", r_max)
        return stationary_deltas(self, r_max, check_count("samples", samples, 2))

    @classmethod
    def critical_deltas(
        cls, d: float, activation: Activation | None = None, convention: str = "variance"
    ) -> CriticalDeltas:
        r"""Return the thresholds in :math:`\Delta` between which a single length of the weights is optimal.

        Parameters
        ----------
        d : int or inf
        activation : Activation
            ``Ramp()`` by default.
        convention : {"variance", "deviation"}
            Meaning of :math:`\Delta`, as for the model.

        Returns
        -------
        CriticalDeltas
            ``lower`` and ``upper``, between which the infimum of the risk is that of one delta, and ``unstable``,
            above which that delta is linearly unstable. For ``d = inf`` and the ramp, ``upper`` is the difference at
            which some r has :math:`q(\tau_+ r) = 1` and :math:`q(\tau_- r) = -1`, so that the infimum is 0 above it.
        """
        def make(deviation: float) -> IsotropicGaussian:
            return cls(d, delta=deviation, convention="deviation", activation=activation)

        check_convention(convention)
        return critical_deltas(make, make(0.5).d, convention)

    # ---------------------------------------------------------------- the network
    def sample_data(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        plus, minus = self.deviations
        y = cast(FloatArray, 2.0 * rng.integers(0, 2, size=n) - 1.0)
        x = rng.standard_normal((n, self.n_parameters))
        x *= np.where(y > 0.0, plus, minus)[:, None]
        return x, y

    def initial_theta(self, n_neurons: int, kappa: float, rng: np.random.Generator) -> FloatArray:
        """Draw ``w`` normal with covariance ``kappa**2 / d`` times the identity, shape (n_neurons, d)."""
        n_neurons, kappa = check_count("n_neurons", n_neurons), check_positive("kappa", kappa)
        return kappa / math.sqrt(self.n_parameters) * rng.standard_normal((n_neurons, self.n_parameters))

    def project(self, theta: ArrayLike) -> FloatArray:
        """Return ``|w|``, shape (..., 1)."""
        return np.sqrt(np.sum(np.square(self.check_theta(theta)), axis=-1, keepdims=True))

    def network_gradient(self, theta: ArrayLike) -> FloatArray:
        self._need_square("gradient in the space of all parameters that is known in closed form")
        theta = self.check_theta(theta)
        variances = np.array([[self.tau_plus2], [self.tau_minus2]]) * np.ones(theta.shape[1])
        return two_class_gradient(self.activation, variances, np.array([1.0, -1.0]), theta)

    def _square_risks(self, networks: FloatArray) -> FloatArray:
        n = networks.shape[1]
        chunk = max(1, _CHUNK // n)
        risks = np.empty(len(networks))
        for first in range(0, len(networks), chunk):
            w = networks[first : first + chunk]
            r = np.sqrt(np.sum(w * w, axis=2))
            own = self.diagonal(r)
            total = np.sum(own, axis=1) + 2.0 * kernel_pair_sums(self.activation, self.deviations, w, r, own)
            risks[first : first + chunk] = 1.0 + 2.0 * np.mean(self.potential(r), axis=1) + total / n**2
        return risks
