"""inner="entropic": JKO steps by entropic regularization, debiased, on uniform grids of one to three axes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from wgflow.checks import check_memory
from wgflow.compiled.log_convolution import LogConvolution
from wgflow.densities import Density
from wgflow.energies.on_grid import TINY, EnergyOnGrid
from wgflow.errors import InvalidInput, WGFlowWarning
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep

from ..base import InnerSolver
from ..settings import Entropic
from .energy import SeparableEnergy
from .fields import Mixer, fisher_information, marginal_distance, surrounding
from .joint import JointNewton
from .scaling import LOST, Coupling, ScalingProblem, safe_exp, self_potential, weighted

#: The default of epsilon, in squared widths of a cell.
DEFAULT_RATIO = 1.0
#: Largest exponent h^2 / epsilon of the kernel between neighbors: twice the logarithm of the smallest number.
LARGEST_KERNEL_EXPONENT = 1416.0
#: The least epsilon at which mass still moves freely between cells, in squared widths of a cell.
LEAST_RATIO = 0.5
#: Factor on epsilon from one level of a ladder to the next.
SCALING_FACTOR = 4.0
#: Factors on epsilon by which a step that is hard to solve is approached.
SCALING = (64.0, 16.0, 4.0)
#: The convex problem within an outer iteration is solved to this part of the last change.
FORCING = 0.03
#: The same with nonlocal terms, where Anderson mixing takes differences of the results.
FORCING_MIXED = 1e-3
#: Where a round leaves more than this part of the change, Newton's method takes law and self-scaling together.
FAST = 0.05
#: Tolerance on the way to a step that is hard to solve.
COARSE_TOLERANCE = 1e-5
#: The scaling of a law with itself is solved to this part of the tolerance, or of the last change.
SELF_SHARE = 0.01
#: Arrays of the grid's size that a step keeps.
WORK_ARRAYS = 100
#: Part of the blurred starting law that a guess keeps without an entropy, where an iteration may fill no cell again.
FLOOR = 1e-3
#: A guess lets cells grow as they did in the last step while they hold less than exp(-this) of the fullest one.
LEAST_GROWN = 30.0


class _Result(NamedTuple):
    """A step at one epsilon."""

    coupling: Coupling
    logs: np.ndarray
    d: np.ndarray
    epsilon: float
    residual: float
    iterations: int


class EntropicSolver(InnerSolver):
    r"""JKO steps by entropic optimal transport.

    With the cost :math:`c = |x - y|^2 / 2` between cell centers and the kernel :math:`K = e^{-c/\varepsilon}`,

    .. math::
        OT_\varepsilon(a, b) = \min_\gamma \langle c, \gamma \rangle + \varepsilon \sum \gamma (\log \gamma - 1), \qquad
        S_\varepsilon(a, b) = OT_\varepsilon(a, b) - \tfrac12 OT_\varepsilon(a, a) - \tfrac12 OT_\varepsilon(b, b).

    A plain step minimizes :math:`OT_\varepsilon(\rho_k, \rho) / \tau + F(\rho)`. It is blurred: to first order it adds
    the diffusion :math:`\varepsilon / 2 \tau` to that of F. A debiased step minimizes
    :math:`S_\varepsilon(\rho_k, \rho) / \tau + F(\rho)`, whose error is of second order in epsilon, which is convex
    where F is, and which keeps stationary laws where they are.

    Since :math:`-\tfrac12 OT_\varepsilon(b, b) = \min_d \varepsilon (\tfrac12 \langle d, K d \rangle - \langle \log d,
    b \rangle)`, minimizing in turn over d (:math:`d\,K d = b`) and over b descends; the second is a plain step with the
    potential :math:`-\varepsilon \log d / \tau` (`ScalingProblem`). Nonlocal terms are linearized in the same outer
    iteration, which is accelerated by Anderson mixing. Where a round of it leaves much of the change, as it does at
    fronts of porous media, Newton's method takes b and d together (`JointNewton`).

    Scalings are kept as logarithms, and so are the masses from step to step, so that no epsilon is too small for
    floating-point numbers. Below half the squared width of a cell the law is locked to its cells, and a warning says
    so.

    ``w2_squared`` is :math:`2 S_\varepsilon(\rho_k, \rho_{k+1})`, which differs from W2^2 by :math:`O(\varepsilon^2)`.
    With it debiased steps obey the energy-dissipation inequality exactly, plain ones up to ``blur`` :math:`=
    (OT_\varepsilon(\rho_k, \rho_k) - OT_\varepsilon(\rho_{k+1}, \rho_{k+1})) / 2 \tau`, the most by which the blur
    raises F. The blur moves the law by about ``blur_length`` :math:`= \tfrac\varepsilon2 \sqrt{I / M}` with the Fisher
    information :math:`I = \int |\nabla \rho|^2 / \rho`; the certificate's bias is the sum of these lengths if the bias
    is not estimated. ``gap`` is the primal-dual gap of the last convex problem. ``residual`` is the larger one of the
    defect of the second marginal (sum of absolute values, relative to the mass) and of the distance by which one more
    scaling step with potentials of the new law moves it. ``bias`` is the distance of the steps at epsilon and 2
    epsilon, divided by 3 if debiased (W2 of the marginals of each axis, added in squares): an estimate of the distance
    to the step without regularization.

    Parameters
    ----------
    parts, grid, settings, tolerance, max_iterations : see `InnerSolver`
        The settings are those of `Entropic`.

    Raises
    ------
    InvalidInput
        If the grid is not uniform or has more than three axes, an internal energy is no power, or epsilon is too large
        for a period.

    References
    ----------
    G. Peyre, Entropic approximation of Wasserstein gradient flows, SIAM J. Imaging Sci. 8 (2015) 2323-2351. L. Chizat,
    G. Peyre, B. Schmitzer and F.-X. Vialard, Scaling algorithms for unbalanced optimal transport problems, Math. Comp.
    87 (2018) 2563-2609. H. Janati, M. Cuturi and A. Gramfort, Debiased Sinkhorn barycenters, ICML 2020.
    """

    TAKES_FUNCTIONALS: ClassVar[bool] = True
    TOLERANCE: ClassVar[float] = 1e-8
    MAX_ITERATIONS: ClassVar[int] = 400

    settings: Entropic

    def __init__(self, parts: EnergyOnGrid, grid: Grid, settings: Entropic, tolerance: float | None = None,
                 max_iterations: int | None = None):
        super().__init__(parts, grid, settings, tolerance, max_iterations)
        if grid.ndim > 3:
            raise InvalidInput(f"inner='entropic' serves 1 to 3 axes, this grid has {grid.ndim}; use FiniteVolume")
        if not all(grid.uniform):
            raise InvalidInput("inner='entropic' needs a uniform grid without origin=True; use inner='linearized', or "
                               "inner='quantile' on one axis")
        check_memory(8.0 * WORK_ARRAYS * grid.size, f"inner='entropic' on {grid.size} cells", "take fewer cells")
        self.debiased, self.estimates = settings.debiased, settings.estimate_bias
        self.widths = [float(h[0]) for h in grid.widths]
        self.epsilon = self._checked_epsilon()
        # Below the squared width of a cell every guess has potentials far from the solution's.
        below = math.log(max(1.0, max(self.widths) ** 2 / self.epsilon)) / math.log(SCALING_FACTOR)
        self.factors = [SCALING_FACTOR**k for k in range(int(below), 0, -1)]
        self.separable = SeparableEnergy(parts, grid)
        self.potential = parts.potential - parts.potential.min()
        self.convolutions: dict[float, LogConvolution] = {}

    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        a = self._logs(start)
        first = self._first(start, a, tau, guess)
        coarse = self._ladder(self.factors, a, tau, first)
        if self.estimates:
            coarse = self._solved(2.0, a, tau, first, coarse)
        result = self._solved(1.0, a, tau, first, coarse)
        return self._report(start, a, tau, result, coarse if self.estimates else None)

    def _solved(self, factor: float, a: np.ndarray, tau: float, laws: list[np.ndarray],
                coarser: _Result | None) -> _Result:
        """Solve the step at an epsilon from what is known, or from larger ones where that misses the tolerance."""
        result = self._level(factor, a, tau, laws, self.tolerance, coarser)
        if not result.residual <= self.tolerance:
            again = self._ladder(SCALING, a, tau, laws)
            again = self._level(factor, a, tau, laws, self.tolerance, again)
            again = again._replace(iterations=again.iterations + result.iterations)
            result = again if again.residual < result.residual else result
        return result

    def _ladder(self, factors: Sequence[float], a: np.ndarray, tau: float, laws: list[np.ndarray]) -> _Result | None:
        """Solve the step at larger epsilons, each from the one before; None where there are no factors."""
        result = None
        for factor in factors:
            result = self._level(factor, a, tau, laws, COARSE_TOLERANCE, result)
        return result

    # ---------------------------------------------------------------- the start of a step
    def _logs(self, start: JKOStep) -> np.ndarray:
        """Return the logarithms of the masses of the law from which a step starts."""
        if "log_masses" in start.state:
            return start.state["log_masses"]
        with np.errstate(divide="ignore"):
            return np.log(start.rho.masses)

    def _first(self, start: JKOStep, a: np.ndarray, tau: float, guess: JKOStep | None) -> list[np.ndarray]:
        """Return laws from which the iteration may start, without empty cells."""
        convolution = self._convolution(1.0)
        blurred = surrounding(convolution, a)
        if any(m < 1.0 for _, m in self.separable.powers):
            blurred = self._with_tails(blurred, np.exp(a), tau)
        laws = [blurred]
        if guess is not None:
            laws.append(guess.state["log_masses"])
        elif "log_rate" in start.state:
            laws.append(self._ahead(a, blurred, tau * start.state["log_rate"]))
        if self.separable.diffusion == 0:
            laws = [np.logaddexp(logs, blurred + math.log(FLOOR)) for logs in laws]
        mass = float(np.exp(a).sum())
        return [logs + math.log(mass / float(np.exp(logs).sum())) for logs in laws]

    def _with_tails(self, logs: np.ndarray, old: np.ndarray, tau: float) -> np.ndarray:
        """Fill empty cells by a scaling step: with fast diffusion the derivative there grows without bound."""
        kappa = tau / self.epsilon
        potential = -kappa * (self.potential + self.separable.derivative(logs))
        level = weighted(old, potential) / float(old.sum())
        scaled = self.separable.proximal(logs - level - kappa * self.potential, kappa, logs)
        return np.where(logs > logs.max() - LEAST_GROWN, logs, np.minimum(scaled, logs.max() - LEAST_GROWN))

    def _ahead(self, a: np.ndarray, blurred: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Return the law that goes on changing as it did, except where cells fill from almost nothing."""
        logs = a + change
        full = logs > blurred.max() - LEAST_GROWN
        return np.where(full, np.minimum(logs, np.maximum(a, blurred) + 1.0), logs)

    def _convolution(self, factor: float) -> LogConvolution:
        if factor not in self.convolutions:
            self.convolutions[factor] = LogConvolution(self.grid.shape, self.widths, self.grid.periodic,
                                                       factor * self.epsilon)
        return self.convolutions[factor]

    # ---------------------------------------------------------------- the step at one epsilon
    def _level(self, factor: float, a: np.ndarray, tau: float, laws: list[np.ndarray], tolerance: float,
               coarser: _Result | None = None) -> _Result:
        """Update potentials and law in turn until neither moves.

        The start is the best one of some laws, or the result at a larger epsilon.
        """
        convolution = self._convolution(factor)
        problem = ScalingProblem(convolution, self.separable, a, tau, self.check_time)
        mixer = Mixer() if self.is_nonlocal else None
        if coarser:
            # The potential is carried over instead of the law, since it hardly depends on epsilon.
            logs = coarser.logs
            d, psi = self._fields(convolution, logs, tau)
            logs = problem.scale(psi, coarser.coupling.v * (coarser.epsilon / convolution.epsilon), logs)
        else:
            trials = [(logs, *self._fields(convolution, logs, tau)) for logs in laws]
            if len(trials) > 1:
                trials.sort(key=lambda trial: problem.couple(trial[2], trial[0]).defect)
            logs, d, psi = trials[0]
        field_masses = np.exp(logs)
        change, last, iterations = 1.0, math.inf, 0
        forcing = FORCING if mixer is None else FORCING_MIXED
        joint = self._joint(problem, convolution, tau)
        while True:
            coupling, used = problem.solve(psi, logs, max(0.3 * tolerance, min(1e-2, forcing * change)),
                                           self.max_iterations - iterations)
            iterations += max(1, used)
            logs = coupling.coupled + math.log(problem.mass / float(np.exp(coupling.coupled).sum()))
            d = self._self(convolution, logs, d, max(1e-13, SELF_SHARE * min(change, coupling.defect + tolerance)))
            masses = np.exp(logs)
            psi = self._psi(masses, d, convolution, tau)
            change = self._change(problem, coupling, psi, logs)
            residual = max(change, coupling.defect)
            if residual <= tolerance or iterations >= self.max_iterations or coupling.defect > LOST:
                return _Result(coupling, logs, d, convolution.epsilon, residual, iterations)
            if joint is not None and change > FAST * last:
                point, used = joint.run(d, 0.3 * tolerance)
                iterations += used
                if point is not None:
                    # The scaling step after it corrects the cells that are too empty to count in it.
                    logs, d, psi = problem.proximal(point.psi, point.coupling.columns, point.logs), point.d, point.psi
                    if mixer is not None:
                        field_masses, mixer = np.exp(point.logs), Mixer()
                    continue
            last = change
            if mixer is not None:
                field_masses = mixer.mix(field_masses, masses)
                psi = self._psi(field_masses, d, convolution, tau)
            logs = problem.proximal(psi, coupling.columns, logs)

    def _joint(self, problem: ScalingProblem, convolution: LogConvolution, tau: float) -> JointNewton | None:
        """Return Newton's method for law and self-scaling together; None where it does not apply."""
        if not self.debiased or self.parts.functionals:
            return None
        return JointNewton(problem, lambda masses, d: self._psi(masses, d, convolution, tau),
                           self.nonlocal_variation)

    def _fields(self, convolution: LogConvolution, logs: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Return a rough scaling of a law with itself, and the linear part of the energy at the law."""
        d = self._self(convolution, logs, 0.5 * logs, 1e-3)
        return d, self._psi(np.exp(logs), d, convolution, tau)

    def _self(self, convolution: LogConvolution, logs: np.ndarray, guess: np.ndarray, tolerance: float) -> np.ndarray:
        return self_potential(convolution, logs, guess, tolerance, self.check_time)[0] if self.debiased else guess

    def _psi(self, masses: np.ndarray, d: np.ndarray, convolution: LogConvolution, tau: float) -> np.ndarray:
        """Return the linear part of the energy: V, the linearized nonlocal terms and self-transport."""
        psi, variation = self.potential, self.nonlocal_variation(masses)
        if variation is not None:
            psi = psi + variation
        return psi - (convolution.epsilon / tau) * d if self.debiased else psi

    def _change(self, problem: ScalingProblem, coupling: Coupling, psi: np.ndarray, logs: np.ndarray) -> float:
        """Return how far a scaling step with potentials of the new law moves it."""
        if not self.debiased and not self.is_nonlocal:
            return 0.0
        scaled = problem.proximal(psi, coupling.columns, logs)
        moved = float(np.abs(safe_exp(scaled) - np.exp(logs)).sum())
        if self.debiased and self.separable.diffusion == 0:
            # A cell that fills from almost nothing counts with the mass around it.
            around = np.exp(surrounding(problem.convolution, logs))
            moved += float((around * np.clip(scaled - logs, 0.0, 1.0)).sum())
        return moved / problem.mass

    # ---------------------------------------------------------------- the report
    def _report(self, start: JKOStep, a: np.ndarray, tau: float, result: _Result, coarse: _Result | None) -> JKOStep:
        coupling, epsilon = result.coupling, self.epsilon
        convolution = self._convolution(1.0)
        old, new = np.exp(a), np.exp(result.logs)
        mass, state = float(start.rho.mass), start.state
        d_old, _ = self_potential(convolution, a, state.get("self_scaling", 0.5 * a), 1e-13, self.check_time)
        d_new, _ = self_potential(convolution, result.logs, result.d, 1e-13, self.check_time)
        itself_old, itself_new = weighted(old, d_old), weighted(new, d_new)
        between = weighted(old, coupling.u) + weighted(new, coupling.v)
        divergence = max(0.0, epsilon * (between - itself_old - itself_new))
        density = Density(self.grid, new * (mass / float(new.sum())) / self.grid.volumes)
        blur = blur_length = None
        if not self.debiased:
            blur = epsilon * (itself_old - itself_new) / tau
            blur_length = 0.5 * epsilon * math.sqrt(fisher_information(self.grid, density.values) / mass)
        bias = None
        if coarse is not None and coarse.residual <= self.tolerance:
            bias = marginal_distance(self.grid, np.exp(coarse.logs), new) / (3.0 if self.debiased else 1.0)
        floor = np.maximum(a, math.log(TINY))
        state = {"log_masses": result.logs, "self_scaling": d_new, "log_rate": (result.logs - floor) / tau}
        iterations = result.iterations + (coarse.iterations if coarse else 0)
        extras = {"epsilon": epsilon, "debiased": self.debiased, "transport_cost": self._cost(coupling, old, new)}
        return JKOStep(density, 2.0 * divergence, self.energy(density.masses),
                       self.separable.bregman(coupling.coupled, coupling.logs), result.residual, iterations, tau,
                       bias=bias, extras=extras, state=state, blur=blur, blur_length=blur_length,
                       round_off=1e-12 * max(1.0, epsilon * abs(between) / tau))

    def _cost(self, coupling: Coupling, old: np.ndarray, new: np.ndarray) -> float:
        """Return the mean of |x - y|^2 under the coupling, blur included, times the mass; NaN on periodic axes."""
        if any(self.grid.periodic):
            return math.nan
        total = 0.0
        for x in self.grid.mesh():
            x = x - float((old * x).sum() / old.sum())
            total += float((old * (x * x - 2.0 * x * coupling.toward.average(x))).sum() + (new * x * x).sum())
        return total

    def _checked_epsilon(self) -> float:
        """Return epsilon, which must suit the widths and the periods of the grid."""
        widest = max(self.widths)
        epsilon = DEFAULT_RATIO * widest**2 if self.settings.epsilon is None else self.settings.epsilon
        if epsilon < widest**2 / LARGEST_KERNEL_EXPONENT:
            raise InvalidInput(f"epsilon={epsilon:.3g}: between neighboring cells the kernel exp(-h^2/(2 epsilon)) is "
                               f"below the smallest number, so that no mass can move; need at least h^2 / "
                               f"{LARGEST_KERNEL_EXPONENT:g} = {widest**2 / LARGEST_KERNEL_EXPONENT:.3g}; take "
                               f"h^2 = {widest**2:.3g}, or more cells")
        if epsilon < LEAST_RATIO * widest**2:
            warnings.warn(f"epsilon={epsilon:.3g} is below {LEAST_RATIO:g} h^2 = {LEAST_RATIO * widest**2:.3g}: the "
                          "law is locked to its cells; take a larger epsilon, or more cells", WGFlowWarning,
                          stacklevel=2)
        for (low, high), periodic in zip(self.grid.bounds, self.grid.periodic):
            if periodic and epsilon > ((high - low) / 8.0) ** 2:
                raise InvalidInput(f"epsilon={epsilon:.3g}: its square root must be at most an eighth of the period "
                                   f"{high - low:.3g}")
        return epsilon
