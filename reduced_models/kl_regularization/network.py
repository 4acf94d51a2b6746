"""Noisy gradient descent with weight decay: the mean square regularized by a Kullback-Leibler divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation, finite_array
from wgflow.activations.smooth import Tanh
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_flag, check_positive
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy
from wgflow.energies.internal_energies import Entropy
from wgflow.energies.nodes import at_nodes
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grids import Grid

from ..base import FloatArray
from ..gaussian_laws import DEFAULT_CELLS, REACH, check_times, normal_atoms, normal_density, wider_grid
from ..scaled_network import ScaledNetwork
from ..tangent_kernels import tangent_kernel
from .complexity import ComplexityBounds, bound_complexity
from .duality import MAX_RANK, NormalRule, RegularizedMinimum, minimize_dual, span_of
from .quasi_random import minimize_scrambled

__all__ = ["KLRegularizedNetwork", "KernelFloor"]

class KernelFloor(NamedTuple):
    r"""What is left at the minimum to leading order in :math:`1/\alpha`.

    Attributes
    ----------
    risk : float
        :math:`n \lambda^2 |K^{-1} y|^2 / (4 \alpha^4)`.
    divergence : float
        :math:`y^T K^{-1} y / (2 \alpha^2)`.
    """

    risk: float
    divergence: float


class KLRegularizedNetwork(ScaledNetwork):
    r"""Least squares on n samples, regularized by the divergence of the neurons' law from a Gaussian prior:

    .. math::
        Q(p) = \frac1n \sum_k (f_k(p) - y_k)^2 + \lambda\,KL(p\,|\,p_0), \qquad
        f_k(p) = \alpha \int u\,h(\langle w, x_k \rangle)\,p(du, dw), \qquad
        p_0 = N(0, \sigma_u^2) \otimes N(0, \sigma_w^2 I).

    Its Wasserstein gradient flow,

    .. math::
        \partial_t p = \nabla\cdot\Bigl(p\,\nabla \Bigl[\frac{2\alpha}{n} \sum_k (f_k - y_k)\,u\,h_k
        + \frac{\lambda u^2}{2 \sigma_u^2} + \frac{\lambda |w|^2}{2 \sigma_w^2}\Bigr]\Bigr) + \lambda \Delta p,

    is the limit of many neurons and small steps of gradient descent with weight decay and noise
    (`wgflow.validation.run_noisy_gradient_descent`). Q is strictly convex; its minimum comes from a dual problem in n
    unknowns (``minimum``), and so does a certificate of any law (``gap``).

    As alpha grows, neurons move by :math:`O(1/\alpha)` and the outputs follow the kernel H of the prior,

    .. math:: \frac{df}{dt} = -\frac{2 \alpha^2}{n} H (f - y), \qquad H = E_{p_0}[h h^T] +
              \sigma_u^2\,E_{p_0}[h'_i h'_j]\,\langle x_i, x_j \rangle,

    down to a floor that the divergence leaves (``kernel_floor``), for which the kernel of the read-outs alone counts,
    :math:`K = \sigma_u^2\,E_{p_0}[h h^T]`.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        Inputs, in any dimension for particles; a grid exists for d up to 3, the dual in any, with a standard error
        where the inputs span more than 3 dimensions. For a bias add a column of ones.
    y : array_like, shape (n,)
        Targets.
    activation : Activation, optional
        `Tanh` by default. With one that grows the divergence holds the weights only while alpha is small against
        lambda; ``minimum`` then raises ConvergenceError.
    alpha : float
        The scale of the output.
    regularization : float
        :math:`\lambda > 0`, also the temperature of the noise.
    readout_scale, weight_scale : float
        :math:`\sigma_u` and :math:`\sigma_w`.

    Raises
    ------
    InvalidInput
        If shapes disagree, a number is not finite, or a scale or lambda is not positive.

    Notes
    -----
    The coordinates are (a, w), a being the read-out u. ``energy()`` is Q itself, on the clock ``time_scale`` = 1, and
    ``risk`` the mean square. Source: Chen, Cao, Gu and Zhang, "A generalized neural tangent kernel analysis for
    two-layer neural networks" (2020); the weight decay is that of the prior's variances, the only one for which the
    flow is a gradient flow of Q.

    Examples
    --------
    >>> angles = np.deg2rad([0.0, 60.0, 120.0])
    >>> x = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> model = KLRegularizedNetwork(x, [0.5, -0.3, 0.8], alpha=4.0, regularization=0.1)
    >>> best = model.minimum()
    >>> print(f"Q* {best.value:.10f}  L* {best.risk:.11f}  KL* {best.divergence:.9f}")
    Q* 0.0358966590  L* 0.00342805793  KL* 0.324686011
    """

    name = "KLRegularizedNetwork"

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        activation: Activation | None = None,
        alpha: float = 1.0,
        regularization: float = 0.1,
        readout_scale: float = 1.0,
        weight_scale: float = 1.0,
    ):
        super().__init__(x, y, Tanh() if activation is None else activation, alpha)
        self.regularization = check_positive("regularization", regularization)
        self.readout_scale = check_positive("readout_scale", readout_scale)
        self.weight_scale = check_positive("weight_scale", weight_scale)

    def __repr__(self) -> str:
        return (f"{super().__repr__()[:-1]}, regularization={self.regularization:g}, "
                f"readout_scale={self.readout_scale:g}, weight_scale={self.weight_scale:g})")

    # ---------------------------------------------------------------- the functional
    @property
    def feature_scale(self) -> float:
        return self.alpha

    @property
    def _variances(self) -> FloatArray:
        variances = np.full(self.n_coordinates, self.weight_scale**2)
        variances[0] = self.readout_scale**2
        return variances

    def log_prior(self, *coordinates: ArrayLike) -> FloatArray:
        r"""Return :math:`\log p_0` at coordinates that broadcast."""
        squares = sum((np.square(np.asarray(c, dtype=np.float64)) / v for c, v in zip(coordinates, self._variances)),
                      np.zeros(()))
        return -0.5 * (squares + float(np.sum(np.log(2.0 * math.pi * self._variances))))

    def energy(self) -> FreeEnergy:  # type: ignore[override]
        r"""Return Q as a free energy: the square loss, the entropy and the prior's potential."""
        return 2.0 * super().energy() + self.regularization * (self._prior + Entropy(1.0))

    @property
    def _prior(self) -> Potential:
        """The potential -log p_0."""
        variances = self._variances

        def confinement(*coordinates: FloatArray) -> FloatArray:
            return -self.log_prior(*coordinates)

        def decay(*coordinates: FloatArray) -> FloatArray:
            return np.stack([c / v for c, v in zip(np.broadcast_arrays(*coordinates), variances)])

        return Potential(confinement, decay)

    def divergence(self, rho: Density) -> float:
        r"""Return :math:`KL(\rho\,|\,p_0)` of a density, as its energy on the grid has it."""
        masses, logs = self._masses_and_logs(rho)
        filled = masses > 0.0
        prior = self.log_prior(*rho.grid.mesh())
        return float(np.sum(masses[filled] * (logs[filled] - prior[filled])))

    def penalty(self, rho: Density) -> float:
        r"""Return :math:`\lambda\,KL(\rho\,|\,p_0)`, which the energy Q holds beside the risk."""
        return self.regularization * self.divergence(rho)

    def chi_square(self, rho: Density) -> float:
        r"""Return :math:`\chi^2(\rho\,|\,p_0) = \int \rho^2/p_0 - 1` of a density on a grid."""
        masses, logs = self._masses_and_logs(rho)
        filled = masses > 0.0
        ratio = logs[filled] - self.log_prior(*rho.grid.mesh())[filled]
        # int rho^2/p_0 - 1 = int rho (rho/p_0 - 1), as a density has mass 1.
        with np.errstate(over="ignore"):
            return float(np.sum(masses[filled] * np.expm1(ratio)))

    def fisher_information(self, rho: Density) -> float:
        r"""Return :math:`I(\rho\,|\,p_0) = \int |\nabla \log(\rho/p_0)|^2 \rho`, from the fluxes of finite volumes."""
        self._check_axes(rho.grid)
        return (self._prior + Entropy(1.0)).dissipation(rho)

    def gap(self, rho: Density) -> float:
        r"""Return primal minus dual of a density: a bound of :math:`Q(\rho) - \min Q` on its grid.

        The dual at :math:`\nu = \frac2n (f(\rho) - y)` leaves :math:`\lambda\,KL(\rho\,|\,p_\nu)`, with
        :math:`p_\nu \propto p_0\,e^{-\alpha u\,\nu \cdot h(w)/\lambda}` normalized on the cells; it vanishes at the
        minimum alone.
        """
        masses, logs = self._masses_and_logs(rho)
        nu = -2.0 / self.n_samples * self.residual(rho)
        own = self._log_law(nu, rho.grid)
        volumes = at_nodes(rho).grid.volumes
        top = float(np.max(own))
        own = own - top - math.log(float(np.sum(volumes * np.exp(own - top))))
        filled = masses > 0.0
        return self.regularization * float(np.sum(masses[filled] * (logs[filled] - own[filled])))

    def _masses_and_logs(self, rho: Density) -> tuple[FloatArray, FloatArray]:
        """Return the masses of cells and the logarithms of the density there; a law of mass 1 on the model's axes."""
        if not isinstance(rho, Density):
            raise InvalidType(f"the divergence is that of a Density, got {type(rho).__name__}; atoms have none")
        self._check_axes(rho.grid)
        nodes = at_nodes(rho)
        with np.errstate(divide="ignore"):
            return nodes.masses, np.log(nodes.masses / nodes.grid.volumes)

    def _log_law(self, nu: FloatArray, grid: Grid) -> FloatArray:
        r"""Return the logarithm of :math:`p_0\,e^{-\alpha u\,\nu \cdot h/\lambda}` at the cell centers."""
        outputs = math.sqrt(self.n_samples) * np.tensordot(nu, self.features(*grid.mesh()), axes=1)  # alpha u nu.h
        return self.log_prior(*grid.mesh()) - outputs / self.regularization

    # ---------------------------------------------------------------- the minimum
    @cached_property
    def _solved(self) -> tuple[RegularizedMinimum, NormalRule]:
        scales = self.alpha, self.regularization, self.readout_scale, self.weight_scale
        span = span_of(self.x)
        if span.shape[1] > MAX_RANK:
            return minimize_scrambled(self.activation, self.x, span, self.y, *scales)
        return minimize_dual(self.activation, self.x, self.y, *scales)

    def minimum(self) -> RegularizedMinimum:
        r"""Return the minimum of Q, by Newton's method on its dual in n unknowns, with its gap.

        Raises
        ------
        ConvergenceError
            If the dual has no value, or the average over the weights does not settle. Where the inputs span up to 3
            dimensions it is accurate to 1e-13 or so; beyond, it is one over scrambled points, and the value has the
            standard error ``quadrature_error``.
        """
        return self._solved[0]

    def minimizer(self, grid: Grid) -> Density:
        r"""Return the law :math:`p_\nu` of the minimum on a grid, normalized on its cells."""
        self._check_axes(grid)
        logs = self._log_law(self.minimum().multipliers, grid)
        values = np.exp(logs - np.max(logs))
        return Density(grid, values).normalized()

    def kernel_floor(self) -> KernelFloor:
        r"""Return the mean square and the divergence that are left at the minimum as alpha grows.

        Raises
        ------
        InvalidInput
            If K is singular: then the read-outs cannot fit every y, and there is no such limit.
        """
        kernel = self.readout_kernel()
        if np.linalg.matrix_rank(kernel, hermitian=True) < self.n_samples:
            raise InvalidInput(f"the kernel of the read-outs has rank {np.linalg.matrix_rank(kernel, hermitian=True)} "
                               f"for {self.n_samples} samples; take inputs whose outputs are independent")
        solved = np.linalg.solve(kernel, self.y)
        return KernelFloor(0.25 * self.n_samples * self.regularization**2 * float(solved @ solved) / self.alpha**4,
                           0.5 * float(self.y @ solved) / self.alpha**2)

    def ridge_output(self) -> FloatArray:
        r"""Return the output of ridge regression with K, :math:`K (K + \frac{n\lambda}{2\alpha^2})^{-1} y`.

        It is that of the minimum where the law stays near the prior: as alpha grows, and as lambda does.
        """
        kernel = self.readout_kernel()
        ridge = 0.5 * self.n_samples * self.regularization / self.alpha**2
        output: FloatArray = kernel @ np.linalg.solve(kernel + ridge * np.eye(self.n_samples), self.y)
        return output

    # ---------------------------------------------------------------- the kernel limit
    def prior_kernel(self) -> FloatArray:
        """Return H, the tangent kernel of the prior on the samples, shape (n, n)."""
        return tangent_kernel(self.activation, self.x, self.readout_scale**2, self.weight_scale)

    def readout_kernel(self) -> FloatArray:
        r"""Return :math:`K = \sigma_u^2\,E_{p_0}[h_i h_j]`, shape (n, n)."""
        return self.readout_scale**2 * tangent_kernel(self.activation, self.x, 0.0, self.weight_scale)

    @property
    def kernel_rate(self) -> float:
        r""":math:`\lambda_0^2`, the least eigenvalue of H over n: the mean square falls like
        :math:`e^{-4 \alpha^2 \lambda_0^2 t}` in the kernel limit."""
        return max(float(np.linalg.eigvalsh(self.prior_kernel())[0]), 0.0) / self.n_samples

    def lazy_output(self, t: ArrayLike, output0: ArrayLike | None = None,
                    kernel: ArrayLike | None = None) -> FloatArray:
        r"""Return the kernel limit's output :math:`y + e^{-2 \alpha^2 H t/n} (f_0 - y)`, shape (\*t.shape, n).

        Parameters
        ----------
        t : array_like
        output0 : array_like, shape (n,), optional
            0 by default, the output of the prior.
        kernel : array_like, shape (n, n), optional
            H; that of the prior by default.
        """
        times, n = check_times(t), self.n_samples
        start = np.zeros(n) if output0 is None else finite_array("output0", output0)
        matrix = self.prior_kernel() if kernel is None else finite_array("kernel", kernel)
        if start.shape != (n,) or matrix.shape != (n, n):
            raise InvalidInput(f"output0 and kernel have shapes {start.shape} and {matrix.shape}; need ({n},) and "
                               f"({n}, {n})")
        rates, axes = np.linalg.eigh(0.5 * (matrix + matrix.T))
        fading = np.exp(-2.0 * self.alpha**2 / n * times[..., None] * rates)
        output: FloatArray = self.y + (fading * ((start - self.y) @ axes)) @ axes.T
        return output

    def envelope(self, t: ArrayLike, floor: float = 0.0) -> FloatArray:
        r"""Return :math:`2 e^{-2 \alpha^2 \lambda_0^2 t} L(p_0)` plus a floor, a bound of the mean square L.

        While the least eigenvalue of the kernel :math:`H_{p_t}` is at least half of that of H,

        .. math::
            \frac{df}{dt} = -\frac{2\alpha^2}{n} H_p (f - y)
            - \lambda \alpha \int \nabla (u h) \cdot \nabla \log\frac{p}{p_0}\,p, \qquad
            L(p_t) \le 2 e^{-2 \alpha^2 \lambda_0^2 t} L(p_0)
            + \frac{2 \lambda^2}{\alpha^2 \lambda_0^4 n} \sup_{s \le t} \mathrm{tr}\,H_{p_s}\,I(p_s\,|\,p_0),

        by the Cauchy-Schwarz inequality and Gronwall's lemma. From the prior the Fisher information I stays of order
        :math:`1/\alpha^2`.

        Parameters
        ----------
        t : array_like
        floor : float
            The second term (``envelope_floor``).
        """
        fading = 2.0 * np.exp(-2.0 * self.alpha**2 * self.kernel_rate * check_times(t))
        return fading * float(np.mean(self.y**2)) + check_positive("floor", floor, zero=True)

    def envelope_floor(self, laws: Sequence[Density]) -> float:
        r"""Return the floor of ``envelope`` from the laws of a flow.

        Raises
        ------
        InvalidInput
            If H is singular, or a law has a kernel whose least eigenvalue is less than half of that of H.
        """
        rate = self.kernel_rate
        least, largest = math.inf, 0.0
        for rho in laws:
            kernel = self.kernel(rho)
            least = min(least, float(np.linalg.eigvalsh(kernel)[0]) / self.n_samples)
            largest = max(largest, float(np.trace(kernel)) * self.fisher_information(rho))
        if not 0.0 < 0.5 * rate <= least:
            raise InvalidInput(f"the kernel's least eigenvalue falls to {least:.3g} n along the flow, from {rate:.3g} "
                               "n: less than half, and the envelope says nothing; take a larger alpha")
        return 2.0 * self.regularization**2 / (self.alpha * rate) ** 2 * largest / self.n_samples

    # ---------------------------------------------------------------- classes of networks
    def complexity_bounds(self, radius: float) -> ComplexityBounds:
        r"""Bound the Rademacher complexity, on the inputs x, of the networks within a radius M of the prior.

        With signs :math:`\epsilon`, :math:`|h| \le B` and :math:`c^2 = \alpha^2 \sigma_u^2 B^2/n`,

        .. math::
            E_\epsilon \sup_{\chi^2 \le M} \frac1n \sum_k \epsilon_k f_k \le \alpha \frac{\sqrt{M\,\mathrm{tr} K}}{n}
            \le c \sqrt{M}, \qquad
            E_\epsilon \sup_{KL \le M} \frac1n \sum_k \epsilon_k f_k
            \le \min_{\eta < 1/c} \frac{M - \tfrac12 \log(1 - \eta^2 c^2)}{\eta} \approx c \sqrt{2 M} .

        The first is the Cauchy-Schwarz inequality, the second the Gibbs variational principle with the exponential
        moments of signs. Since :math:`KL \le \log(1 + \chi^2)` the second class contains the first.

        Parameters
        ----------
        radius : float
            M >= 0, such as ``minimum().chi_square`` or ``minimum().divergence``.

        Raises
        ------
        InvalidInput
            If the activation is not bounded.
        """
        second_moments = np.diag(self.readout_kernel()) / self.readout_scale**2
        return bound_complexity(self.activation, second_moments, self.alpha * self.readout_scale, radius)

    # ---------------------------------------------------------------- grids and laws
    def grid(self, cells: int | tuple[int, ...] | None = None, bounds: ArrayLike | None = None, *,
             kappa: float = 1.0) -> Grid:
        """Return a grid on (a, w), by default wide enough for the initial law of ``kappa`` and the minimizer.

        Raises
        ------
        InvalidInput
            If there are more than 4 coordinates: take particles.
        """
        self._check_grid_axes()
        if bounds is None:
            tilt = self.minimum().tilt
            reach = np.full(self.n_coordinates, math.hypot(REACH, tilt))
            reach[0] = REACH + tilt
            half = np.sqrt(self._variances) * np.maximum(reach, REACH * check_positive("kappa", kappa))
            bounds = np.stack([-half, half], axis=1).tolist()
        return Grid(bounds, cells=DEFAULT_CELLS[self.n_coordinates] if cells is None else cells,
                    names=self.coordinate_names)

    def initial_density(self, kappa: float, grid: Grid) -> Density:
        """Return the prior with deviations ``kappa`` times its own on a grid; 1 for the prior itself."""
        self._check_axes(grid)
        deviations = check_positive("kappa", kappa) * np.sqrt(self._variances)
        return normal_density(grid, np.zeros(self.n_coordinates), deviations, wider_grid(kappa))

    def initial_atoms(self, kappa: float = 1.0, nodes: int | None = None) -> Atoms:  # type: ignore[override]
        """Return Gauss-Hermite points of that law, ``nodes`` (8 by default) a coordinate."""
        deviations = check_positive("kappa", kappa) * np.sqrt(self._variances)
        return normal_atoms(np.zeros(self.n_coordinates), deviations, nodes, self.coordinate_names)

    def draw(self, n_neurons: int, rng: np.random.Generator, *, paired: bool = True) -> FloatArray:
        """Draw neurons from the prior, shape (n_neurons, n_coordinates).

        Parameters
        ----------
        n_neurons : int
        rng : Generator
        paired : bool
            In pairs (u, w), (-u, w), whose output is 0 exactly.
        """
        count = check_count("n_neurons", n_neurons)
        if check_flag("paired", paired) and count % 2:
            raise InvalidInput(f"n_neurons={count}: pairs need an even number of neurons; or pass paired=False")
        drawn = rng.standard_normal((count // 2 if paired else count, self.n_coordinates)) * np.sqrt(self._variances)
        if not paired:
            return drawn
        mirrored = drawn.copy()
        mirrored[:, 0] *= -1.0
        return np.concatenate([drawn, mirrored])
