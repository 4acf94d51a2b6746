"""The base classes of reduced models: features of few coordinates, and the network that they come from."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgflow.activations.base import Activation
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_positive
from wgflow.contracts import Contract
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.internal_energies import Entropy
from wgflow.energies.nodes import at_nodes
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid
from wgflow.losses.base import Loss
from wgflow.losses.named import Square

from .features.network_gradients import feature_gradient
from .minimum_risk.measure_problem import LimitPoint
from .minimum_risk.minimize import MinimumRisk, minimum_risk
from .network_energies import combine, quadratic_terms

__all__ = ["Atoms", "LimitPoint", "MinimumRisk", "NetworkModel", "ReducedModel"]
FloatArray = NDArray[np.float64]


class ReducedModel(Contract):
    r"""A risk that is quadratic in features of few coordinates.

    With features :math:`F_k(\theta)`, real signs :math:`s_k` and a target :math:`p_k`,

    .. math::
        U(\theta, \theta') = \sum_k s_k F_k(\theta) F_k(\theta'), \qquad V(\theta) = -\sum_k s_k p_k F_k(\theta),

    and with the moments :math:`z_k = \int F_k\,d\rho`

    .. math::
        R(\rho) = E y^2 + 2 \int V \rho + \iint U \rho \rho
                = \sum_k s_k (z_k - p_k)^2 + E y^2 - \sum_k s_k p_k^2, \qquad
        \Psi(\theta; \rho) = \sum_k s_k F_k(\theta) (z_k - p_k).

    A subclass gives ``features``, ``feature_gradients``, ``target``, ``diagonal`` and its grid and initial law; all
    else follows. Measures are a `Density` on a grid of the model's coordinates or `Atoms`.

    Attributes
    ----------
    name : str
    coordinate_names : tuple of str
    label_second_moment : float
        :math:`E y^2`.
    time_scale : float
        2, the clock :math:`\dot\theta = -2 \nabla \Psi` on which SGD with step :math:`\epsilon` has made the time
        :math:`t = k \epsilon`; 1 is the clock of :math:`\partial_t \rho = \nabla\cdot(\rho \nabla \Psi)`, on which
        the same curve takes twice the time.
    lengths : tuple of str
        Those of the coordinates that are lengths, at least 0.
    quadratic : bool
        Whether the energy is quadratic in the moments, half the risk. A model of another loss says how it depends on
        them by `risk_of_moments`, `moment_slopes` and `moment_curvature`, and has no V, U and signs.
    risk_per_energy : float
        The risk over the energy without noise and ridge: 2.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("name", "coordinate_names", "label_second_moment")
    name: str
    coordinate_names: tuple[str, ...]
    label_second_moment: float
    lengths: tuple[str, ...] = ()
    time_scale: float = 2.0
    quadratic: bool = True
    risk_per_energy: float = 2.0

    @abstractmethod
    def features(self, *coordinates: ArrayLike) -> FloatArray:
        """Return the features, shape (k, *shape), at coordinates that broadcast to ``shape``."""

    @abstractmethod
    def feature_gradients(self, *coordinates: ArrayLike) -> FloatArray:
        """Return the derivatives of the features in each coordinate, shape (k, n_coordinates, *shape)."""

    @property
    @abstractmethod
    def target(self) -> FloatArray:
        """The target ``p`` of the features' moments, shape (k,)."""

    @abstractmethod
    def diagonal(self, *coordinates: ArrayLike) -> FloatArray:
        """Return :math:`U(\\theta, \\theta) = E\\,\\sigma_*(x; \\theta)^2`, the second moment of one neuron's output.

        Where coordinates leave the direction of the weights open, this is more than the kernel of two neurons at the
        same coordinates, whose directions differ.
        """

    @abstractmethod
    def grid(self, cells: int | tuple[int, ...]) -> Grid:
        """Return a grid on the model's coordinates with its reference measure."""

    @abstractmethod
    def initial_density(self, kappa: float, grid: Grid) -> Density:
        """Return the law of the coordinates of a neuron drawn with scale ``kappa``."""

    def log_weight(self, grid: Grid) -> FloatArray | None:
        """Return the logarithm of the reference measure's density, as cell averages on the cells of a grid.

        The reference measure is that of all parameters, Lebesgue's, seen on the coordinates. ``None``, the default,
        says that the coordinates are parameters themselves. `radial_laws.log_sphere_weight` gives it for a radius.

        Parameters
        ----------
        grid : Grid
            Cells on the model's coordinates; a weight of its own is not looked at.

        Raises
        ------
        InvalidInput
            If the grid has another number of axes, or cells where the coordinates have no values.
        """
        self._check_axes(grid)
        return None

    def weighted(self, grid: Grid) -> Grid:
        """Return the same cells with the model's reference measure, for grids that ``grid`` does not offer."""
        return Grid(edges=grid.edges, boundary=grid.boundary, log_weight=self.log_weight(grid), names=grid.names,
                    origin=grid.origin)

    def initial_atoms(self, kappa: float, nodes: int = 40) -> Atoms:
        """Return a quadrature of the initial law by about ``nodes`` points on each coordinate.

        By default the cells of ``initial_density`` on the model's grid; a model that knows a Gauss rule gives that.
        """
        return Atoms.from_density(self.initial_density(kappa, self.grid(check_count("nodes", nodes, 2))))

    def search_box(self) -> tuple[tuple[float, float], ...]:
        """Return the (low, high) ends between which ``minimum_risk`` places atoms; those of the default grid.

        The high ends may be infinite in a model that gives ``limit_points``.
        """
        return self.grid(8).bounds

    def limit_points(self) -> tuple[LimitPoint, ...]:
        """Return the limits of the features as coordinates go to infinity; none unless a model knows them."""
        return ()

    @property
    def signs(self) -> FloatArray:
        """The signs ``s``, shape (k,); 1 unless a model says otherwise."""
        return np.ones(self.target.size)

    @property
    def n_coordinates(self) -> int:
        """Number of reduced coordinates."""
        return len(self.coordinate_names)

    def squared_norm(self, *coordinates: ArrayLike) -> FloatArray:
        """Return :math:`|\\theta|^2`, which the ridge penalizes, in reduced coordinates."""
        return sum((np.square(np.asarray(c, dtype=np.float64)) for c in coordinates), np.zeros(()))

    def potential(self, *coordinates: ArrayLike) -> FloatArray:
        """Return :math:`V(\\theta) = -E[y\\,\\sigma_*(x; \\theta)]`."""
        return combine(-self.signs * self.target, self.features(*coordinates))

    def squared_norm_gradient(self, *coordinates: ArrayLike) -> FloatArray:
        """Return the gradient of ``squared_norm`` in the coordinates, shape (n_coordinates, *shape)."""
        return 2.0 * np.array(np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in coordinates)))

    def kernel(self, first: tuple[ArrayLike, ...], second: tuple[ArrayLike, ...]) -> FloatArray:
        """Return :math:`U(\\theta, \\theta')` at two tuples of coordinates, by broadcasting."""
        f, g = self.features(*first), self.features(*second)
        dims = max(f.ndim, g.ndim)
        f, g = (x.reshape(x.shape[:1] + (1,) * (dims - x.ndim) + x.shape[1:]) for x in (f, g))
        return combine(self.signs, f * g)

    def moments(self, rho: Density | Atoms) -> FloatArray:
        """Return :math:`z = \\int F\\,d\\rho`, shape (k,)."""
        if isinstance(rho, Atoms):
            return np.sum(self.features(*rho.points) * rho.weights, axis=1)
        if not isinstance(rho, Density):
            raise InvalidType(f"rho must be a Density or Atoms, got {type(rho).__name__}")
        self._check_axes(rho.grid)
        features = self.features(*rho.grid.mesh())
        return np.sum((features * at_nodes(rho).masses).reshape(features.shape[0], -1), axis=1)

    def risk(self, rho: Density | Atoms) -> float:
        """Return the population risk :math:`R(\\rho)` of an infinitely wide network."""
        return self.risk_of_moments(self.moments(rho))

    def risk_of_moments(self, z: ArrayLike) -> float:
        """Return the population risk at given moments of the features, shape (k,)."""
        p, s = self.target, self.signs
        z = np.asarray(z, dtype=np.float64)
        return float(np.sum(s * (z - p) ** 2) + self.label_second_moment - np.sum(s * p * p))

    def psi(self, rho: Density | Atoms, *coordinates: ArrayLike, ridge: float = 0.0) -> FloatArray:
        """Return :math:`\\Psi(\\theta; \\rho)` plus ``ridge`` / 2 times the squared norm, at given coordinates."""
        value = combine(self.moment_slopes(self.moments(rho)), self.features(*coordinates))
        return value + 0.5 * ridge * self.squared_norm(*coordinates) if ridge else value

    def psi_gradient(self, rho: Density | Atoms, *coordinates: ArrayLike) -> FloatArray:
        """Return the gradient of :math:`\\Psi` (without ridge) in the coordinates, shape (n_coordinates, *shape)."""
        return combine(self.moment_slopes(self.moments(rho)), self.feature_gradients(*coordinates))

    def moment_slopes(self, z: FloatArray) -> FloatArray:
        """Return the derivatives of the energy in the moments, shape (k,): :math:`s_k (z_k - p_k)`."""
        return self.signs * (z - self.target)

    def moment_curvature(self, z: FloatArray) -> FloatArray:
        """Return the second derivatives of the energy in each of the moments, shape (k,), others being 0: the signs."""
        return self.signs

    def risk_terms(self, ridge: float) -> FreeEnergy:
        """Return the free energy without its entropy."""
        return quadratic_terms(self, ridge, type(self).potential is not ReducedModel.potential)

    def energy(self, beta: float = math.inf, ridge: float = 0.0) -> FreeEnergy:
        r"""Return the free energy

        .. math::
            F_{\beta,\lambda}(\rho) = \tfrac12 R(\rho) + \tfrac{\lambda}{2} \int |\theta|^2 \rho
            + \beta^{-1} \int \rho \log \rho .

        The constant :math:`E y^2 / 2` is part of the potential, since :math:`\rho` has mass 1; so twice the energy at
        ``beta=inf, ridge=0`` is the risk. The logarithm refers to the density in the space of all parameters, through
        the reference measure of the model's grid.

        Parameters
        ----------
        beta : float
            Inverse temperature, positive; infinity for no noise.
        ridge : float
            The penalty :math:`\lambda \ge 0`.

        Raises
        ------
        InvalidInput
            If ``beta`` is not positive or ``ridge`` is negative or not finite.
        """
        beta = check_positive("beta", beta, infinite=True)
        ridge = check_positive("ridge", ridge, zero=True)

        terms = self.risk_terms(ridge)
        return terms + Entropy(beta) if math.isfinite(beta) else terms

    def minimum_risk(
        self,
        *,
        box: Sequence | None = None,
        tolerance: float = 1e-10,
        samples: int | None = None,
        throw: bool = True,
        time_limit: float | None = None,
        progress: bool | Callable[[int, float], object] = False,
    ) -> MinimumRisk:
        r"""Return the infimum of the risk over all probability measures, with a certificate.

        .. math:: \inf_\rho R(\rho), \qquad
                  R(\rho) - \inf R \le 2 \Bigl( \int \Psi(\cdot; \rho)\,d\rho - \min \Psi(\cdot; \rho) \Bigr) .

        The problem is convex. Minima of :math:`\Psi` are added to the atoms, all weights are found again by
        non-negative least squares, atoms that have come together are merged, and positions and weights are polished by
        Newton's method on the optimality conditions, until the bound on the right, the ``gap``, closes.

        Parameters
        ----------
        box : sequence of (low, high), optional
            Where the coordinates of atoms are searched; the model's ``search_box`` by default. Of a finite box the
            infimum is that over measures on the box; a warning says where the default box holds it back.
        tolerance : float
            The gap asked for.
        samples : int, optional
            Points at which Psi is tabulated in search of its minima; by default 801 on one coordinate, then 10,000,
            20,000 and 30,000. The gap is formed anew on 2.3 times as many.
        throw : bool
            Whether to raise when the gap stays above the tolerance; otherwise the result says so by its ``gap``.
        time_limit : float, optional
            Seconds after which the search ends with the measure found, once its gap has been formed. One round takes
            up to some seconds on several coordinates.
        progress : bool or callable
            ``True`` logs each round; a function is called with the number of rounds done and the gap.

        Returns
        -------
        MinimumRisk
            ``.value .gap .atoms .weights .measure .attained .finite_width_excess`` and bounds for finite width.

        Raises
        ------
        InvalidInput
            If a sign of the model is not positive, or the box is infinite where the model knows no limits.
        ConvergenceError
            If the gap stays above ``tolerance``, or at the time limit; ``.partial`` is the measure found.
        """
        return minimum_risk(self, box=box, tolerance=tolerance, samples=samples, throw=throw,
                            time_limit=time_limit, progress=progress)

    def finite_width_excess(self, rho: Density | Atoms) -> float:
        r"""Return ``K`` of :math:`E\,R_N = R(\rho) + K/N` for ``N`` neurons drawn independently from ``rho``.

        .. math:: K = \int U(\theta, \theta)\,\rho(d\theta) - \iint U \rho \rho
        """
        points, weights = ((rho.points, rho.weights) if isinstance(rho, Atoms)
                           else (rho.grid.mesh(), at_nodes(rho).masses))
        own = float(np.sum(self.diagonal(*points) * weights))
        return own - float(np.sum(self.signs * self.moments(rho) ** 2))

    def sample_covariance(self, law: Atoms, fields: FloatArray) -> FloatArray:
        r"""Return the covariance that one fresh sample (x, y) gives to the moves of functionals under SGD.

        Let :math:`\bar\sigma(x; \theta)` be the output of a neuron, averaged over what its coordinates leave open. A
        step of SGD on the sample moves the functional :math:`\int g\,\rho` by :math:`2 \epsilon (y - \hat y(x)) B(x)`,

        .. math:: \hat y(x) = \int \bar\sigma(x; \cdot)\,\rho, \qquad
                  B(x) = \int \nabla g \cdot \nabla_\theta \bar\sigma(x; \cdot)\,\rho .

        Parameters
        ----------
        law : Atoms
            :math:`\rho`, n points.
        fields : ndarray, shape (m, n_coordinates, n)
            :math:`\nabla g` at the points, for each of m functionals.

        Returns
        -------
        ndarray, shape (m, m)
            Covariances of :math:`(y - \hat y) B` over the data.

        Raises
        ------
        InvalidInput
            By a model that does not know this.
        """
        raise InvalidInput(f"{self.name} does not say what one sample adds to the noise of SGD; give its class a "
                           "method sample_covariance(law, fields)")

    def hidden_noise(self, law: Atoms) -> tuple[FloatArray, FloatArray]:
        r"""Return the drift (coordinates, n) and spread (coordinates, coordinates, n) that samples add to a neuron.

        They enter through what its coordinates leave open, per unit of time and of :math:`\epsilon\,\xi^2`; zero where
        the coordinates are the neuron's parameters. A model that does not know this raises InvalidInput.
        """
        raise InvalidInput(f"{self.name} does not say what samples add beside its coordinates (hidden_noise)")

    def _moments_and_slopes(self, law: Atoms, fields: FloatArray) -> tuple[FloatArray, FloatArray]:
        r"""Return the moments z (k,) and :math:`c_k = \int \nabla g \cdot \nabla F_k\,\rho`, shape (m, k)."""
        gradients = self.feature_gradients(*law.points)
        return self.moments(law), np.einsum("acn,kcn,n->ak", fields, gradients, law.weights)

    def _check_axes(self, grid: Grid) -> None:
        if grid.ndim != self.n_coordinates:
            raise InvalidInput(f"rho lives on {grid.ndim} axes, {self.name} on {self.n_coordinates} "
                               f"{self.coordinate_names}; use model.grid(...)")
        for name, (low, _) in zip(self.coordinate_names, grid.bounds):
            if name in self.lengths and low < 0.0:
                raise InvalidInput(f"rho's grid begins at {low:g}, and {name} is a length; use model.grid(...)")


class NetworkModel(ReducedModel):
    r"""A reduced model together with the network of which it is the mean-field limit.

    The network is :math:`\hat y(x) = \frac1N \sum_i a_i\,\sigma(\langle w_i, x\rangle + b_i)`. A row of ``theta`` is
    ``w_i`` where only the first layer learns (``trains_readout`` false: :math:`a_i = 1, b_i = 0`), else
    ``(a_i, b_i, w_i)``. `wgflow.validation.run_sgd` trains it on one fresh sample a step.

    Attributes
    ----------
    activation : Activation
    trains_readout : bool
    input_dimension : float
        Length of ``x``, a whole number; infinite in a limit model, which has no network.
    loss : Loss
        By which SGD trains; the square unless a model says otherwise.
    output_scale : float
        A factor of the output.
    """

    NEEDS = (*ReducedModel.NEEDS, "activation", "input_dimension")
    activation: Activation
    trains_readout: bool = False
    input_dimension: float
    loss: Loss = Square()
    output_scale: float = 1.0

    @property
    def n_parameters(self) -> int:
        """Length ``D`` of one neuron's ``theta``."""
        if not math.isfinite(self.input_dimension):
            raise InvalidInput(f"{self.name} is a limit without a network (d = inf); give a finite d")
        return int(self.input_dimension) + (2 if self.trains_readout else 0)

    @abstractmethod
    def sample_data(self, n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw ``n`` samples: ``x`` of shape (n, input_dimension), ``y`` of shape (n,)."""

    @abstractmethod
    def initial_theta(self, n_neurons: int, kappa: float, rng: np.random.Generator) -> FloatArray:
        """Draw the parameters of ``n_neurons`` neurons of scale ``kappa``, shape (n_neurons, n_parameters)."""

    @abstractmethod
    def project(self, theta: ArrayLike) -> FloatArray:
        """Return the reduced coordinates of neurons, shape (..., n_coordinates), from ``theta`` (..., n_parameters)."""

    @abstractmethod
    def population_risk(self, theta: ArrayLike) -> FloatArray:
        """Return the exact risk :math:`E(y - \\hat y)^2` of networks ``theta`` (..., n_neurons, n_parameters)."""

    def population_risk_error(self, theta: ArrayLike) -> FloatArray:
        """Return the standard error of ``population_risk`` where that holds a mean over drawn inputs, else zeros."""
        return np.zeros(self.check_theta(theta).shape[:-2])

    def network_gradient(self, theta: ArrayLike) -> FloatArray:
        r"""Return :math:`\nabla \Psi(\theta_i; \rho_N) = \frac N2 \nabla_{\theta_i} R_N`, of the shape of ``theta``.

        InvalidInput from a model that knows it on its coordinates alone.
        """
        return feature_gradient(self, self.check_theta(theta))

    def neuron_outputs(self, theta: ArrayLike, x: ArrayLike) -> FloatArray:
        r"""Return :math:`\sigma_*(x; \theta) = a\,\sigma(\langle w, x \rangle + b)`.

        Parameters
        ----------
        theta : array_like, shape (..., n_parameters)
        x : array_like, shape (..., input_dimension)
            The leading axes broadcast: ``theta[:, None]`` gives all neurons at all inputs.
        """
        theta, x = np.asarray(theta, dtype=np.float64), np.asarray(x, dtype=np.float64)
        if not self.trains_readout:
            return self.activation.value(np.einsum("...i,...i->...", theta, x))
        a, b, w = theta[..., 0], theta[..., 1], theta[..., 2:]
        return a * self.activation.value(np.einsum("...i,...i->...", w, x) + b)

    def check_theta(self, theta: ArrayLike) -> FloatArray:
        """Return ``theta`` as float64, refusing wrong lengths and values that are not finite, by index."""
        array = np.asarray(theta)
        if array.dtype.kind not in "iuf":
            raise InvalidType(f"theta must hold real numbers, got dtype {array.dtype}")
        array = np.ascontiguousarray(array, dtype=np.float64)
        if array.ndim < 2 or array.shape[-1] != self.n_parameters or array.shape[-2] == 0:
            raise InvalidInput(f"theta has shape {array.shape}; need (..., n_neurons >= 1, {self.n_parameters})")
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise InvalidInput(f"theta{list(index)} is {array[index]}; every parameter must be finite")
        return array
