"""Between mean field and kernel: networks whose output is scaled by alpha and whose steps by its inverse square."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation, finite_array
from wgflow.activations.piecewise_linear import ReLU
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_flag, check_memory, check_positive
from wgflow.densities import Density
from wgflow.errors import InvalidInput, InvalidType
from wgflow.grid_checks import MAX_AXES
from wgflow.grids import Grid
from wgflow.solvers.lagrangian import Lagrangian

from .base import FloatArray, ReducedModel
from .finite_samples import checked_samples
from .gaussian_laws import DEFAULT_CELLS, REACH, check_times, coordinate_names, normal_density, stack_coordinates
from .minimum_risk.minimize import MinimumRisk
from .tangent_kernels import tangent_kernel

__all__ = ["KernelLimit", "KernelPath"]

_TOLERANCE = 1e-10  # of the characteristics, relative


class KernelPath(NamedTuple):
    """A flow beside its linearization at the start; the leading axis of each array is time.

    Attributes
    ----------
    t : ndarray
    residual, lazy_residual : ndarray, shape (times, n)
        u = y - f, and that of the kernel limit, exp(-H_0 t/n) u_0.
    risk, lazy_risk : ndarray
        The mean of u^2 over the samples.
    kernel_movement : ndarray
        |H_t - H_0| / |H_0| in the Frobenius norm.
    movement : ndarray
        The root mean square distance of the neurons from their start, a bound of the laws' Wasserstein distance.
    atoms : Atoms
        The neurons at the end.
    """

    t: FloatArray
    residual: FloatArray
    lazy_residual: FloatArray
    risk: FloatArray
    lazy_risk: FloatArray
    kernel_movement: FloatArray
    movement: FloatArray
    atoms: Atoms


class KernelLimit(ReducedModel):
    r"""A network with output scale alpha on n samples, on the clock of its output.

    With :math:`f = \alpha \int a\,\sigma(\langle w, x \rangle)\,\rho(da, dw)`, the residual
    :math:`u = y - f` on the samples and means over them,

    .. math::
        \partial_t \rho = \frac1\alpha \nabla\cdot(\rho \nabla \Psi), \quad
        \Psi = -E\,u\,a\,\sigma(\langle w, x \rangle), \qquad
        \partial_t u = -H_\rho u, \quad
        H_\rho(x, z) = \int \langle \nabla \sigma_*(x), \nabla \sigma_*(z) \rangle\,\rho ,

    the operator being the matrix H over n. It is the Wasserstein flow of
    :math:`F(\rho) = E u^2/(2 \alpha^2)`, so that every solver of this package takes it. At alpha = 1 it is the mean
    field; as alpha grows, with :math:`u_0` bounded, neurons move by O(1/alpha), the kernel stays at
    :math:`H_{\rho_0}` up to O(1/alpha), and :math:`u_t \to e^{-H_0 t/n} u_0`.

    Parameters
    ----------
    x : array_like, shape (n, d) or (n,)
        Inputs, in any dimension; a grid exists for d up to 3.
    y : array_like, shape (n,)
        Targets.
    activation : Activation, optional
        `ReLU` by default.
    alpha : float
        The scale of the output.

    Raises
    ------
    InvalidInput
        If shapes disagree, a number is not finite, or alpha is not positive.

    Notes
    -----
    ``energy()`` is F; ``risk`` is :math:`E u^2`, which is :math:`2 \alpha^2 F`. ``time_scale`` is 1. Source: Mei,
    Misiakiewicz and Montanari, "Mean-field theory of two-layers neural networks: dimension-free bounds and kernel
    limit" (2019), section 4; Chizat, Oyallon and Bach, "On lazy training in differentiable programming" (2019).

    Examples
    --------
    The residual of one sample and :math:`\sigma_* = a w` is known: u(1) = .262150262 at alpha = 1.

    >>> from wgflow.activations import Polynomial
    >>> model = KernelLimit(x=[[1.0]], y=[1.0], activation=Polynomial([0.0, 1.0]))
    >>> points = np.array([[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]) / np.sqrt(2)
    >>> start = Atoms(points, np.full(4, 0.25))
    >>> path = model.follow(start, [0.0, 1.0])
    >>> f"{path.residual[-1, 0]:.9f} {path.lazy_residual[-1, 0]:.6f}"
    '0.262150262 0.367879'
    """

    name = "KernelLimit"
    time_scale = 1.0

    def __init__(self, x: ArrayLike, y: ArrayLike, activation: Activation | None = None, alpha: float = 1.0):
        inputs, labels, self.activation = checked_samples(x, y, activation, ReLU())
        self.alpha = check_positive("alpha", alpha)
        self.x, self.y = inputs, labels
        self.coordinate_names = ("a", *coordinate_names("w", inputs.shape[1]))
        with np.errstate(over="ignore"):
            self.label_second_moment = float(np.mean((labels / self.alpha) ** 2))
        if not math.isfinite(self.label_second_moment):
            raise InvalidInput("the squares of y/alpha overflow; scale y down or alpha up")

    def __repr__(self) -> str:
        return f"KernelLimit({len(self.y)} samples, d={self.x.shape[1]}, {self.activation!r}, alpha={self.alpha:g})"

    # ---------------------------------------------------------------- the model
    @property
    def target(self) -> FloatArray:
        return self.y / (self.alpha * math.sqrt(len(self.y)))

    def features(self, *coordinates: ArrayLike) -> FloatArray:
        points = stack_coordinates(self, coordinates)  # type: ignore[arg-type]
        z = np.tensordot(self.x, points[1:], axes=1)
        return points[0] * self.activation.value(z) / math.sqrt(len(self.y))

    def feature_gradients(self, *coordinates: ArrayLike) -> FloatArray:
        points = stack_coordinates(self, coordinates)  # type: ignore[arg-type]
        check_memory(8.0 * len(self.y) * points.size, f"gradients of {len(self.y)} outputs at {points[0].size} neurons",
                     "take fewer neurons or samples")
        z = np.tensordot(self.x, points[1:], axes=1)
        slope = points[0] * self.activation.derivative(z)
        by_w = slope[:, None] * self.x.reshape(*self.x.shape, *(1,) * (points.ndim - 1))
        return np.concatenate([self.activation.value(z)[:, None], by_w], axis=1) / math.sqrt(len(self.y))

    def diagonal(self, *coordinates: ArrayLike) -> FloatArray:
        return np.sum(self.features(*coordinates) ** 2, axis=0)

    def output(self, rho: Density | Atoms) -> FloatArray:
        r"""Return :math:`f = \alpha \int a\,\sigma(\langle w, x_k \rangle)\,\rho` at the samples."""
        return self.alpha * math.sqrt(len(self.y)) * self.moments(rho)

    def residual(self, rho: Density | Atoms) -> FloatArray:
        """Return u = y - f at the samples."""
        return self.y - self.output(rho)

    def risk(self, rho: Density | Atoms) -> float:
        """Return the mean of u^2 over the samples."""
        return float(np.mean(self.residual(rho) ** 2))

    def minimum_risk(self, **_: object) -> MinimumRisk:  # type: ignore[override]
        """Refused: the infimum does not depend on alpha, and ``FiniteData`` with a read-out has it."""
        raise InvalidInput("the least risk does not depend on alpha; FiniteData(x, y, activation, trains_readout=True) "
                           "has it, with an offset b that you may hold at 0 by its box")

    # ---------------------------------------------------------------- kernels
    def kernel(self, rho: Atoms) -> FloatArray:
        r"""Return the matrix of :math:`\int \langle \nabla \sigma_*(x_i), \nabla \sigma_*(x_j) \rangle\,\rho`."""
        if not isinstance(rho, Atoms):
            raise InvalidType("kernel takes Atoms; Atoms.from_density(rho) makes them of a density")
        gradients = self.feature_gradients(*rho.points)
        flat = (gradients * np.sqrt(rho.weights)).reshape(len(self.y), -1)
        return len(self.y) * (flat @ flat.T)

    def initial_kernel(self, kappa: float = 1.0, readout: float = 1.0) -> FloatArray:
        """Return the kernel of a ~ N(0, readout^2) or +-readout and w ~ N(0, kappa^2 I), in closed form."""
        readout = check_positive("readout", readout, zero=True)
        kernel = tangent_kernel(self.activation, self.x, 1.0, check_positive("kappa", kappa))
        if readout == 1.0:
            return kernel
        outputs = tangent_kernel(self.activation, self.x, 0.0, kappa)
        return outputs + readout**2 * (kernel - outputs)

    def lazy_residual(self, t: ArrayLike, residual0: ArrayLike, kernel: ArrayLike) -> FloatArray:
        """Return exp(-H t/n) u_0, shape (*t.shape, n): the limit of large alpha."""
        times, n = check_times(t), len(self.y)
        start, matrix = finite_array("residual0", residual0), finite_array("kernel", kernel)
        if start.shape != (n,) or matrix.shape != (n, n):
            raise InvalidInput(f"residual0 and kernel have shapes {start.shape} and {matrix.shape}; need ({n},) and "
                               f"({n}, {n})")
        rates, axes = np.linalg.eigh(0.5 * (matrix + matrix.T))
        return (np.exp(-times[..., None] * rates / n) * (start @ axes)) @ axes.T

    def follow(self, rho0: Atoms, t: ArrayLike, rtol: float = _TOLERANCE) -> KernelPath:
        """Return the flow of finitely many neurons beside its linearization, by characteristics.

        Parameters
        ----------
        rho0 : Atoms
            The neurons, such as ``initial_atoms``. Their output at the start should be small against alpha.
        t : array_like
            Increasing times, the first of which is the start.
        rtol : float
            Relative tolerance of the integration in time.

        Raises
        ------
        InvalidInput, ConvergenceError
            As ``wgflow.solve``.
        """
        from wgflow.verbs import solve

        times = check_times(t)
        if times.ndim != 1 or times.size < 2 or np.any(np.diff(times) <= 0.0):
            raise InvalidInput("t must be an increasing list of at least two times")
        solution = solve(self.energy(), rho0, (float(times[0]), float(times[-1])), method=Lagrangian(rtol=rtol),
                         t_eval=times, time_scale=self.time_scale)
        laws = [solution.density(s) for s in times]
        kernels = [self.kernel(law) for law in laws]
        residual = np.array([self.residual(law) for law in laws])
        lazy = self.lazy_residual(times - times[0], residual[0], kernels[0])
        start = laws[0].points
        moved = [math.sqrt(np.sum(law.weights * np.sum((law.points - start) ** 2, axis=0))) for law in laws]
        change = [float(np.linalg.norm(kernel - kernels[0]) / np.linalg.norm(kernels[0])) for kernel in kernels]
        return KernelPath(times, residual, lazy, np.mean(residual**2, axis=1), np.mean(lazy**2, axis=1),
                          np.array(change), np.array(moved), laws[-1])

    # ---------------------------------------------------------------- grids and initial laws
    def grid(self, cells: int | tuple[int, ...] | None = None, bounds: ArrayLike | None = None, *,
             kappa: float = 1.0) -> Grid:
        """Return a grid on (a, w); by default 12 standard deviations of the initial law wide.

        Raises
        ------
        InvalidInput
            If there are more than 4 coordinates: take atoms.
        """
        if self.n_coordinates > MAX_AXES:
            raise InvalidInput(f"the coordinates {self.coordinate_names} are more than {MAX_AXES}; take atoms "
                               "(initial_atoms)")
        if bounds is None:
            reach = REACH * max(1.0, check_positive("kappa", kappa))
            bounds = [(-reach, reach)] * self.n_coordinates
        return Grid(bounds, cells=DEFAULT_CELLS[self.n_coordinates] if cells is None else cells,
                    names=self.coordinate_names)

    def initial_density(self, kappa: float, grid: Grid) -> Density:
        """Return a ~ N(0, 1), w ~ N(0, kappa^2 I) on a grid."""
        self._check_axes(grid)
        deviations = np.full(self.n_coordinates, check_positive("kappa", kappa))
        deviations[0] = 1.0
        return normal_density(grid, np.zeros(self.n_coordinates), deviations)

    def initial_atoms(  # type: ignore[override]
        self, kappa: float = 1.0, nodes: int = 400, *, symmetric: bool = True,
        rng: int | np.random.Generator | None = None,
    ) -> Atoms:
        """Draw neurons with a = +-1 and w ~ N(0, kappa^2 I).

        Parameters
        ----------
        kappa : float
        nodes : int
            Number of neurons.
        symmetric : bool
            Draw them in pairs (a, w), (-a, w), whose output is 0 exactly; the distance to the kernel limit is then
            O(1/alpha^2) in place of O(1/alpha).
        rng : int or Generator, optional
        """
        kappa, count = check_positive("kappa", kappa), check_count("nodes", nodes)
        if check_flag("symmetric", symmetric) and count % 2:
            raise InvalidInput(f"nodes={count}: pairs need an even number of neurons; or pass symmetric=False")
        generator = np.random.default_rng(rng)
        drawn = count // 2 if symmetric else count
        w = kappa * generator.standard_normal((self.x.shape[1], drawn))
        a = generator.choice([-1.0, 1.0], size=drawn)
        points = np.concatenate([a[None], w])
        if symmetric:
            points = np.concatenate([points, np.concatenate([-a[None], w])], axis=1)
        weights = np.full(points.shape[1], 1.0 / points.shape[1])
        return Atoms(points, weights, names=self.coordinate_names)
