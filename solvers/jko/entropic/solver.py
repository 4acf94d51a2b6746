"""inner="entropic": JKO steps by entropic regularization, debiased, on uniform grids of one to three axes."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, ClassVar, NamedTuple

import numpy as np

from wgflow.checks import check_memory
from wgflow.compiled.log_convolution import LogConvolution
from wgflow.densities import Density
from wgflow.energy_on_grid import TINY
from wgflow.errors import InvalidInput, InvalidType, WGFlowWarning
from wgflow.jko_steps import JKOStep

from ..base import InnerSolver
from .energy import SeparableEnergy
from .fields import Mixer, blur_scale, fisher_information, marginal_distance
from .scaling import Coupling, ScalingProblem, safe_exp, self_potential, weighted

#: Epsilon over the squared width of a cell: the default, and the least at which mass still moves freely between cells.
DEFAULT_RATIO, LEAST_RATIO = 1.0, 0.5
#: Factors on epsilon from one level of a ladder to the next; those by which a step that is hard to solve is approached.
SCALING_FACTOR, SCALING = 4.0, (64.0, 16.0, 4.0)
#: The convex problem within an iteration is solved to this part of the last change; with an interaction, whose secants
#: would feel the rest, to the second one.
FORCING, FORCING_MIXED = 0.03, 1e-3
#: Tolerance on the way to a step that is hard to solve.
COARSE_TOLERANCE = 1e-5
#: The scaling of a law with itself is found to this part of the tolerance, or of the last change.
SELF_SHARE = 0.01
#: Arrays of the grid's size that a step keeps.
WORK_ARRAYS = 60
#: Part of the blurred starting law that a guess keeps where nothing but itself could fill a cell again.
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

    A plain step minimizes :math:`OT_\varepsilon(\rho_k, \rho) / \tau + F(\rho)`. It is blurred: to first order it takes
    the diffusion :math:`\varepsilon / 2 \tau` for granted beside that of F. A debiased step minimizes
    :math:`S_\varepsilon(\rho_k, \rho) / \tau + F(\rho)`, whose error is of second order in epsilon, which is convex
    where F is, and which keeps stationary laws where they are.

    Since :math:`-\tfrac12 OT_\varepsilon(b, b) = \min_d \varepsilon (\tfrac12 \langle d, K d \rangle - \langle \log d,
    b \rangle)`, minimizing over d (:math:`d\,K d = b`) and over b in turn descends; the second is a plain step with the
    potential :math:`-\varepsilon \log d / \tau` (`ScalingProblem`). The interaction is linearized in the same outer
    iteration, which is accelerated by Anderson mixing.

    All scalings are kept as logarithms, and so are the masses from step to step: there is no smallest epsilon. Below
    half the squared width of a cell the law is locked to its cells, and a warning says so.

    ``w2_squared`` is :math:`2 S_\varepsilon(\rho_k, \rho_{k+1})`, whose error against W2^2 is of order epsilon^2; then
    debiased steps obey the energy-dissipation inequality exactly, plain ones up to ``extras["blur"]`` =
    :math:`(OT_\varepsilon(\rho_k, \rho_k) - OT_\varepsilon(\rho_{k+1}, \rho_{k+1})) / 2 \tau`, by which the blur
    may raise F; it moves the law by about ``extras["blur_length"]`` :math:`= \tfrac\varepsilon2 \sqrt{I / M}` with the
    Fisher information :math:`I = \int |\nabla \rho|^2 / \rho`, which stands in the certificate's bias if that is not
    estimated. ``gap`` is the
    primal-dual gap of the last convex problem. ``residual`` is the defect of the second marginal in the sum of absolute
    values, relative to the mass, or how far one more scaling step with new potentials moves the law, the larger one.
    ``bias`` is the distance of the steps at epsilon and 2 epsilon, divided by 3 if debiased (W2 of the marginals of
    each axis, added in squares): an estimate of the distance to the step without regularization.

    Parameters
    ----------
    parts, grid, settings : see `InnerSolver`
        Options: ``epsilon`` (by default the squared width of the widest cells), in the squared unit of length;
        ``debiased`` (True); ``estimate_bias`` (True), which costs about as much as the step.

    Raises
    ------
    InvalidInput
        If the grid is not uniform or has more than three axes, an internal energy is no power, or an option is out of
        range.

    References
    ----------
    G. Peyre, Entropic approximation of Wasserstein gradient flows, SIAM J. Imaging Sci. 8 (2015) 2323-2351. L. Chizat,
    G. Peyre, B. Schmitzer and F.-X. Vialard, Scaling algorithms for unbalanced optimal transport problems, Math. Comp.
    87 (2018) 2563-2609. H. Janati, M. Cuturi and A. Gramfort, Debiased Sinkhorn barycenters, ICML 2020.
    """

    TOLERANCE = 1e-8
    MAX_ITERATIONS = 400
    OPTIONS: ClassVar[dict] = {"epsilon": None, "debiased": True, "estimate_bias": True}

    def __init__(self, parts, grid, settings):
        super().__init__(parts, grid, settings)
        if grid.ndim > 3:
            raise InvalidInput(f"inner='entropic' serves 1 to 3 axes, this grid has {grid.ndim}; use FiniteVolume")
        if not all(grid.uniform):
            raise InvalidInput("inner='entropic' needs a uniform grid without origin=True; use inner='linearized', or "
                               "inner='quantile' on one axis")
        check_memory(8.0 * WORK_ARRAYS * grid.size, f"inner='entropic' on {grid.size} cells", "take fewer cells")
        self.debiased = _flag("debiased", settings.options["debiased"])
        self.estimates = _flag("estimate_bias", settings.options["estimate_bias"])
        self.widths = [float(h[0]) for h in grid.widths]
        self.epsilon = self._check_epsilon(settings.options["epsilon"])
        # Below the squared width of a cell the potentials are far from those of any guess.
        below = math.log(max(1.0, max(self.widths) ** 2 / self.epsilon)) / math.log(SCALING_FACTOR)
        self.factors = [SCALING_FACTOR**k for k in range(int(below), 0, -1)]
        self.energy = SeparableEnergy(parts, grid)
        self.potential = parts.potential - parts.potential.min()
        self.convolutions: dict[float, LogConvolution] = {}

    def step(self, start: JKOStep, tau: float, guess: JKOStep | None = None) -> JKOStep:
        a = self._logs(start)
        first = self._first(start, a, tau, guess)
        coarse = self._ladder(self.factors, a, tau, first)
        if self.estimates:
            coarse = self._level(2.0, a, tau, first, self.settings.tolerance, coarse)
        result = self._level(1.0, a, tau, first, self.settings.tolerance, coarse)
        if not result.residual <= self.settings.tolerance:
            again = self._ladder(SCALING, a, tau, first)
            again = self._level(1.0, a, tau, first, self.settings.tolerance, again)
            again = again._replace(iterations=again.iterations + result.iterations)
            result = again if again.residual < result.residual else result
        return self._report(start, a, tau, result, coarse if self.estimates else None)

    def _ladder(self, factors, a: np.ndarray, tau: float, laws: list[np.ndarray]) -> _Result | None:
        """A start from larger epsilons, each the start of the next; None without any."""
        result = None
        for factor in factors:
            result = self._level(factor, a, tau, laws, COARSE_TOLERANCE, result)
        return result

    # ---------------------------------------------------------------- what a step starts from
    def _logs(self, start: JKOStep) -> np.ndarray:
        """Logarithms of the masses of the law that a step starts from."""
        if start.state is not None and "log_masses" in start.state:
            return start.state["log_masses"]
        with np.errstate(divide="ignore"):
            return np.log(start.density.masses)

    def _first(self, start: JKOStep, a: np.ndarray, tau: float, guess: JKOStep | None) -> list[np.ndarray]:
        """Laws to start the iteration from, filled everywhere."""
        convolution = self._convolution(1.0)
        blurred = convolution(a).values - blur_scale(convolution)
        if any(m < 1.0 for _, m in self.energy.powers):
            blurred = self._with_tails(blurred, np.exp(a), tau)
        laws = [blurred]
        if guess is not None and guess.state is not None:
            laws.append(guess.state["log_masses"])
        elif start.state is not None and "log_rate" in start.state:
            laws.append(self._ahead(a, blurred, tau * start.state["log_rate"]))
        if self.energy.diffusion == 0:
            laws = [np.logaddexp(logs, blurred + math.log(FLOOR)) for logs in laws]
        mass = float(np.exp(a).sum())
        return [logs + math.log(mass / float(np.exp(logs).sum())) for logs in laws]

    def _with_tails(self, logs: np.ndarray, old: np.ndarray, tau: float) -> np.ndarray:
        """With fast diffusion, whose derivative grows without bound: empty cells are filled by a scaling step."""
        kappa = tau / self.epsilon
        potential = -kappa * (self.potential + self.energy.derivative(logs))
        level = weighted(old, potential) / float(old.sum())
        scaled = self.energy.proximal(logs - level - kappa * self.potential, kappa, logs)
        return np.where(logs > logs.max() - LEAST_GROWN, logs, np.minimum(scaled, logs.max() - LEAST_GROWN))

    def _ahead(self, a: np.ndarray, blurred: np.ndarray, change: np.ndarray) -> np.ndarray:
        """The law that goes on changing as it did, as far as it is nowhere filled from next to nothing."""
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
        """Potentials and law in turn until neither moves, from the best of some laws or the result at a larger epsilon.
        """
        convolution = self._convolution(factor)
        problem = ScalingProblem(convolution, self.energy, a, tau)
        mixer = Mixer() if self.parts.operators else None
        if coarser:
            # The potential is carried over, not the law: it is the one that hardly depends on epsilon.
            logs = coarser.logs
            d, psi = self._fields(convolution, logs, tau)
            logs = problem.scale(psi, coarser.coupling.v * (coarser.epsilon / convolution.epsilon), logs)
        else:
            trials = [(logs, *self._fields(convolution, logs, tau)) for logs in laws]
            if len(trials) > 1:
                trials.sort(key=lambda trial: problem.couple(trial[2], trial[0]).defect)
            logs, d, psi = trials[0]
        field_masses = np.exp(logs)
        change, iterations = 1.0, 0
        forcing = FORCING if mixer is None else FORCING_MIXED
        while True:
            coupling, used = problem.solve(psi, logs, max(0.3 * tolerance, min(1e-2, forcing * change)),
                                           self.settings.max_iterations - iterations)
            iterations += max(1, used)
            logs = coupling.coupled + math.log(problem.mass / float(np.exp(coupling.coupled).sum()))
            d = self._self(convolution, logs, d, max(1e-13, SELF_SHARE * min(change, coupling.defect + tolerance)))
            masses = np.exp(logs)
            psi = self._psi(masses, d, convolution, tau)
            change = self._change(problem, coupling, psi, logs)
            residual = max(change, coupling.defect)
            if residual <= tolerance or iterations >= self.settings.max_iterations:
                return _Result(coupling, logs, d, convolution.epsilon, residual, iterations)
            if mixer is not None:
                field_masses = mixer.mix(field_masses, masses)
                psi = self._psi(field_masses, d, convolution, tau)
            logs = problem.proximal(psi, coupling.columns, logs)

    def _fields(self, convolution: LogConvolution, logs: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """The scaling of a law with itself, roughly, and the linear part of the energy at it."""
        d = self._self(convolution, logs, 0.5 * logs, 1e-3)
        return d, self._psi(np.exp(logs), d, convolution, tau)

    def _self(self, convolution: LogConvolution, logs: np.ndarray, guess: np.ndarray, tolerance: float) -> np.ndarray:
        return self_potential(convolution, logs, guess, tolerance)[0] if self.debiased else guess

    def _psi(self, masses: np.ndarray, d: np.ndarray, convolution: LogConvolution, tau: float) -> np.ndarray:
        """The linear part of the energy: potential, linearized interaction and self-transport."""
        psi = self.potential
        interaction = self.parts.interaction(masses)
        if interaction is not None:
            psi = psi + interaction
        return psi - (convolution.epsilon / tau) * d if self.debiased else psi

    def _change(self, problem: ScalingProblem, coupling: Coupling, psi: np.ndarray, logs: np.ndarray) -> float:
        """How far a scaling step with potentials of the new law moves it."""
        if not self.debiased and not self.parts.operators:
            return 0.0
        scaled = problem.proximal(psi, coupling.columns, logs)
        moved = float(np.abs(safe_exp(scaled) - np.exp(logs)).sum())
        if self.debiased and self.energy.diffusion == 0:
            # A cell that fills up from next to nothing counts by the mass around it.
            around = np.exp(problem.convolution(logs).values - blur_scale(problem.convolution))
            moved += float((around * np.clip(scaled - logs, 0.0, 1.0)).sum())
        return moved / problem.mass

    # ---------------------------------------------------------------- the report
    def _report(self, start: JKOStep, a: np.ndarray, tau: float, result: _Result, coarse: _Result | None) -> JKOStep:
        coupling, epsilon = result.coupling, self.epsilon
        convolution = self._convolution(1.0)
        old, new = np.exp(a), np.exp(result.logs)
        mass = float(start.density.mass)
        state = start.state or {}
        d_old, _ = self_potential(convolution, a, state.get("self_scaling", 0.5 * a), 1e-13)
        d_new, _ = self_potential(convolution, result.logs, result.d, 1e-13)
        itself_old, itself_new = weighted(old, d_old), weighted(new, d_new)
        between = weighted(old, coupling.u) + weighted(new, coupling.v)
        divergence = max(0.0, epsilon * (between - itself_old - itself_new))
        density = Density(self.grid, new * (mass / float(new.sum())) / self.grid.volumes)
        extras = {"epsilon": epsilon, "debiased": self.debiased, "transport_cost": self._cost(coupling, old, new),
                  "round_off": 1e-12 * max(1.0, epsilon * abs(between) / tau)}
        if not self.debiased:
            extras["blur"] = epsilon * (itself_old - itself_new) / tau
            extras["blur_length"] = 0.5 * epsilon * math.sqrt(fisher_information(self.grid, density.values) / mass)
        bias = None
        if coarse is not None:
            bias = marginal_distance(self.grid, np.exp(coarse.logs), new) / (3.0 if self.debiased else 1.0)
        floor = np.maximum(a, math.log(TINY))
        state = {"log_masses": result.logs, "self_scaling": d_new, "log_rate": (result.logs - floor) / tau}
        iterations = result.iterations + (coarse.iterations if coarse else 0)
        return JKOStep(density, 2.0 * divergence, self.parts.energy(density.masses),
                       self.energy.bregman(coupling.coupled, coupling.logs), result.residual, iterations, tau,
                       bias=bias, extras=extras, state=state)

    def _cost(self, coupling: Coupling, old: np.ndarray, new: np.ndarray) -> float:
        """Mean of |x - y|^2 under the coupling, blur and all, times the mass; NaN on periodic axes."""
        if any(self.grid.periodic):
            return math.nan
        total = 0.0
        for x in self.grid.mesh():
            x = x - float((old * x).sum() / old.sum())
            total += float((old * (x * x - 2.0 * x * coupling.toward.average(x))).sum() + (new * x * x).sum())
        return total

    def _check_epsilon(self, epsilon: Any) -> float:
        widest = max(self.widths)
        if epsilon is None:
            epsilon = DEFAULT_RATIO * widest**2
        if isinstance(epsilon, bool) or not isinstance(epsilon, numbers.Real):
            raise InvalidType(f"epsilon={epsilon!r}: need a number > 0, or None")
        if not 0 < float(epsilon) < math.inf:
            raise InvalidInput(f"epsilon={epsilon}: need a finite number > 0")
        epsilon = float(epsilon)
        if epsilon < LEAST_RATIO * widest**2:
            warnings.warn(f"epsilon={epsilon:.3g} is below {LEAST_RATIO:g} h^2 = {LEAST_RATIO * widest**2:.3g}: the "
                          "law is locked to its cells; take a larger epsilon, or more cells", WGFlowWarning,
                          stacklevel=2)
        for (low, high), periodic in zip(self.grid.bounds, self.grid.periodic):
            if periodic and epsilon > ((high - low) / 8.0) ** 2:
                raise InvalidInput(f"epsilon={epsilon:.3g}: its square root must be at most an eighth of the period "
                                   f"{high - low:.3g}")
        return epsilon


def _flag(name: str, value) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidType(f"{name}={value!r}: need True or False")
    return bool(value)
