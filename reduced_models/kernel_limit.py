"""Between mean field and kernel: networks whose output is scaled by alpha and whose steps by its inverse square."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from wgflow.activations.base import Activation, finite_array
from wgflow.activations.piecewise_linear import ReLU
from wgflow.atoms import Atoms
from wgflow.checks import check_count, check_flag, check_positive
from wgflow.densities import Density
from wgflow.errors import InvalidInput
from wgflow.grids import Grid
from wgflow.solvers.base import Method
from wgflow.solvers.finite_volume import FiniteVolume
from wgflow.solvers.lagrangian import Lagrangian

from .base import FloatArray
from .gaussian_laws import DEFAULT_CELLS, REACH, check_times, normal_density, wider_grid
from .scaled_network import ScaledNetwork
from .tangent_kernels import tangent_kernel

if TYPE_CHECKING:
    from wgflow.solution import Solution

__all__ = ["KernelLimit", "KernelPath", "path_lengths"]

_TOLERANCE = 1e-10  # of the characteristics, relative


class KernelPath(NamedTuple):
    r"""A flow beside its linearization at the start; the leading axis of each array is time.

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
        An upper bound of :math:`W_2(\rho_0, \rho_t)`: the root mean square distance of the neurons from their start;
        of a density the length of its path, the sum of :math:`\sqrt{\Delta t\,\Delta F}` over the steps of the solver.
    atoms : Atoms or None
        The neurons at the end; None of a density.
    kernels : ndarray, shape (times, n, n)
        H_t.
    solution : Solution
        The flow itself, with its laws and its certificate.
    """

    t: FloatArray
    residual: FloatArray
    lazy_residual: FloatArray
    risk: FloatArray
    lazy_risk: FloatArray
    kernel_movement: FloatArray
    movement: FloatArray
    atoms: Atoms | None
    kernels: FloatArray
    solution: Solution


class KernelLimit(ScaledNetwork):
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

    def __init__(self, x: ArrayLike, y: ArrayLike, activation: Activation | None = None, alpha: float = 1.0):
        super().__init__(x, y, ReLU() if activation is None else activation, alpha)

    # ---------------------------------------------------------------- kernels
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

    def follow(
        self, rho0: Density | Atoms, t: ArrayLike, rtol: float = _TOLERANCE, *, method: Method | None = None
    ) -> KernelPath:
        """Return a flow, its residual and its kernel, beside the linearization at the start.

        Parameters
        ----------
        rho0 : Density or Atoms
            A density on ``grid``, or neurons such as ``initial_atoms``. The output at the start should be small against
            alpha.
        t : array_like
            Increasing times, the first of which is the start.
        rtol : float
            Relative tolerance of the integration of neurons in time.
        method : Method, optional
            By default the characteristics of neurons, and `FiniteVolume` for a density.

        Raises
        ------
        InvalidInput, ConvergenceError
            As ``wgflow.solve``.
        """
        from wgflow.verbs import solve

        times = check_times(t)
        if times.ndim != 1 or times.size < 2 or np.any(np.diff(times) <= 0.0):
            raise InvalidInput("t must be an increasing list of at least two times")
        if method is None:
            method = Lagrangian(rtol=rtol) if isinstance(rho0, Atoms) else FiniteVolume()
        solution = solve(self.energy(), rho0, (float(times[0]), float(times[-1])), method=method, t_eval=times,
                         time_scale=self.time_scale)
        laws = [solution.density(s) for s in times]
        kernels = np.array([self.kernel(law) for law in laws])
        residual = np.array([self.residual(law) for law in laws])
        lazy = self.lazy_residual(times - times[0], residual[0], kernels[0])
        change = np.linalg.norm(kernels - kernels[0], axis=(1, 2)) / np.linalg.norm(kernels[0])
        last = laws[-1]
        return KernelPath(times, residual, lazy, np.mean(residual**2, axis=1), np.mean(lazy**2, axis=1), change,
                          path_lengths(solution, times), last if isinstance(last, Atoms) else None, kernels, solution)

    # ---------------------------------------------------------------- grids and initial laws
    def grid(self, cells: int | tuple[int, ...] | None = None, bounds: ArrayLike | None = None, *,
             kappa: float = 1.0) -> Grid:
        """Return a grid on (a, w); by default 12 standard deviations of the initial law wide.

        Raises
        ------
        InvalidInput
            If there are more than 4 coordinates: take atoms.
        """
        self._check_grid_axes()
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
        return normal_density(grid, np.zeros(self.n_coordinates), deviations, wider_grid(kappa))

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


def path_lengths(solution: Solution, times: FloatArray) -> FloatArray:
    r"""Return upper bounds of :math:`W_2(\rho_0, \rho_t)` at some times of a solution, on the clock of time_scale 1.

    Of atoms their root mean square distance from the start. Of densities the length of the path: along a gradient flow
    :math:`|\rho'|^2 = -dF/dt`, hence :math:`W_2(\rho_s, \rho_t)^2 \le (t - s)(F_s - F_t)` by the Cauchy-Schwarz
    inequality, summed over the steps.
    """
    laws = [solution.density(s) for s in times]
    start = laws[0]
    if isinstance(start, Atoms):
        return np.array([math.sqrt(np.sum(law.weights * np.sum((law.points - start.points) ** 2, axis=0)))
                         for law in laws if isinstance(law, Atoms)])
    t, energy = np.asarray(solution.history.t), np.asarray(solution.history.energy)
    steps = np.sqrt(np.maximum(np.diff(t) * -np.diff(energy), 0.0))
    length: FloatArray = np.interp(times, t, np.concatenate([[0.0], np.cumsum(steps)]))
    return length
