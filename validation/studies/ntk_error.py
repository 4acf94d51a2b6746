"""KL-regularized noisy gradient descent against its kernel limit: orders of the error, envelope and floor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from wgflow import plotting
from wgflow.activations import Softplus
from wgflow.densities import Density
from wgflow.reduced_models import KLRegularizedNetwork, RegularizedMinimum
from wgflow.solution import Solution
from wgflow.solvers import FiniteVolume
from wgflow.verbs import solve

from ..noisy_descent import run_noisy_gradient_descent
from .base import Check, Study, StudyReport, Table
from .pictures import save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

Array = NDArray[np.float64]
_SEED = 6007
_X, _Y = (1.0, -1.0), (0.8, -0.4)
#: Values of lambda.
_LAMBDAS = (0.1, 1.0)
#: Each start, the values of alpha among which the order is fitted, and the order of the kernel's movement.
_STARTS = {"prior": ((4.0, 8.0, 16.0, 32.0), -2.0), "skewed": ((16.0, 32.0, 64.0, 128.0), -1.0)}
#: Tolerance of the short flows: an output has alpha times the law's error, and is wanted to a part of 1/alpha^2.
_RTOL = 1e-9
#: alpha^2 times the time up to which outputs and kernels are compared with the kernel limit.
_COMPARED = 3.0
#: Values of alpha for the floor, which the dual gives without a flow.
_FLOOR_ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
#: A mean over runs of noisy gradient descent may be so many standard errors off.
_SIGMAS = 4.0
_LEVEL = 0.95


class _Line(NamedTuple):
    """A least-squares line of log y against log x, with Student's interval of its slope."""

    slope: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.slope:.3f} ({self.low:.3f} to {self.high:.3f})"


class _Near(NamedTuple):
    """A flow while the residual falls, beside its kernel limit."""

    start: str
    alpha: float
    regularization: float
    output: float
    kernel: float
    sol: Solution[Density]


class _Long(NamedTuple):
    """A flow to rest."""

    model: KLRegularizedNetwork
    sol: Solution[Density]
    risks: Array
    gaps: Array
    floor: float

    @property
    def label(self) -> str:
        return f"alpha = {self.model.alpha:g}, lambda = {self.model.regularization:g}"


class NTKError(Study):
    name = "ntk-error"
    title = "KL-regularized noisy gradient descent against its kernel limit"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        cells = 128 if quick else 256
        near = [_near(start, alpha, lam, cells)
                for start, (alphas, _) in _STARTS.items() for lam in _LAMBDAS for alpha in alphas]
        pairs = ((4.0, 1.0), (4.0, 0.1)) if quick else ((4.0, 1.0), (8.0, 1.0), (16.0, 1.0), (4.0, 0.1), (8.0, 0.1))
        long = [_long(_model(alpha, lam), 96 if quick else 128) for alpha, lam in pairs]
        floors = {(alpha, lam): _model(alpha, lam).minimum() for lam in _LAMBDAS for alpha in _FLOOR_ALPHAS}
        particles = _particles(near, n_neurons=2000, n_runs=8 if quick else 32)
        conventions = (f"f(x) = alpha int u softplus(w x) dp, x = {list(_X)}, y = {list(_Y)}; Q = mean (f - y)^2 + "
                       "lambda KL(p|p0), p0 = N(0, I_2); dp/dt = div(p grad dQ/dp); L = mean (f - y)^2; f_NTK = y - "
                       f"exp(-2 alpha^2 H t/n) y, H the kernel of the start; largest over alpha^2 t <= {_COMPARED:g}; "
                       "start: the prior, or read-outs u of mean 0 and odd third moment; "
                       f"{cells} x {cells} cells. Envelope: 2 exp(-2 alpha^2 lambda_0^2 t) L(p0) + floor.")
        checks = (*_order_checks(near), *_envelope_checks(long), *_floor_checks(floors),
                  *_certificate_checks(near, long), particles)
        picture = save_picture(_draw(near, long, floors), folder / "ntk-error.png", conventions)
        rows = [(n.start, n.regularization, n.alpha, n.output, n.kernel) for n in near]
        tables = {
            "orders": Table(("start", "lambda", "alpha", "sup |f - f_NTK|", "sup |H(p_t) - H|"), rows),
            "floors": Table(("lambda", "alpha", "Q*", "L*", "KL*", "chi^2", "L* to leading order",
                             "KL* to leading order", "sqrt(chi^2/n)", "sqrt(KL/n)", "gap"),
                            [_floor_row(alpha, lam, best) for (alpha, lam), best in floors.items()]),
            "envelope": Table(("alpha", "lambda", "t", "L", "envelope with floor", "primal less dual"),
                              [(r.model.alpha, r.model.regularization, float(t), float(risk),
                                float(r.model.envelope(t, r.floor)), float(gap))
                               for r in long for t, risk, gap in zip(r.sol.t, r.risks, r.gaps)]),
        }
        words = {r.label: r.sol.certificate.explain() for r in long}
        return StudyReport(self.name, self.title, conventions, checks, tables, words, (picture,))


def _model(alpha: float, regularization: float) -> KLRegularizedNetwork:
    return KLRegularizedNetwork(_X, _Y, Softplus(), alpha, regularization)


def _skewed(model: KLRegularizedNetwork, cells: int) -> Density:
    """Return a law with read-outs of two lumps, of mean 0; E u^3 is not 0."""
    grid = model.grid(cells, bounds=[(-6.0, 8.0), (-6.5, 6.5)])
    low, high = (Density.gaussian(grid, [mean, 0.0], [0.25, 1.0]).values for mean in (-0.7, 1.4))
    return Density(grid, (2.0 * low + high) / 3.0)


def _near(start: str, alpha: float, regularization: float, cells: int) -> _Near:
    model = _model(alpha, regularization)
    times = np.linspace(0.0, _COMPARED / alpha**2, 13)
    rho0 = (_skewed(model, cells) if start == "skewed"
            else model.initial_density(1.0, model.grid(cells, bounds=[(-7.0, 7.0), (-7.0, 7.0)])))
    sol = solve(model.energy(), rho0, (0.0, float(times[-1])), FiniteVolume(rtol=_RTOL), t_eval=times)
    laws = [sol.density(t) for t in times]
    kernels = np.array([model.kernel(rho) for rho in laws])
    outputs = np.array([model.output(rho) for rho in laws])
    lazy = model.lazy_output(times, outputs[0], kernels[0])
    return _Near(start, alpha, regularization, float(np.max(np.abs(outputs - lazy))),
                 float(np.max(np.linalg.norm(kernels - kernels[0], axis=(1, 2)))), sol)


def _long(model: KLRegularizedNetwork, cells: int) -> _Long:
    end = 6.0 / model.regularization
    times = np.concatenate([[0.0], np.geomspace(0.02 / model.alpha**2, end, 41)])
    sol = solve(model.energy(), model.initial_density(1.0, model.grid(cells)), (0.0, end), t_eval=times)
    laws = [sol.density(t) for t in times]
    return _Long(model, sol, np.array([model.risk(rho) for rho in laws]), np.array([model.gap(rho) for rho in laws]),
                 model.envelope_floor(laws))


def _particles(near: list[_Near], n_neurons: int, n_runs: int) -> Check:
    """Hold the outputs of networks against those of a flow, at the end of its fall."""
    flow = next(n for n in near if (n.start, n.alpha, n.regularization) == ("prior", 8.0, 0.1))
    model, end = _model(flow.alpha, flow.regularization), float(flow.sol.t[-1])
    run = run_noisy_gradient_descent(model, n_neurons, end / 2000, [0.5 * end], _SEED, n_runs)
    features = model.features(*np.moveaxis(run.coordinates[:, 0], -1, 0))  # (n, runs, neurons)
    outputs = math.sqrt(model.n_samples) * features.mean(axis=-1)
    errors = outputs.std(axis=1, ddof=1) / math.sqrt(n_runs)
    apart = float(np.max(np.abs(outputs.mean(axis=1) - model.output(flow.sol.density(0.5 * end))) / errors))
    return Check.at_most(f"{n_runs} networks of {n_neurons} neurons under noisy gradient descent have the outputs of "
                         f"the flow on average, up to {apart:.1f} standard errors (alpha = {flow.alpha:g}, t = "
                         f"{0.5 * end:.3g})", apart, _SIGMAS)


def _fit(x: Array, y: Array) -> _Line:
    """Fit a power law to values without noise; the interval stands for what bends."""
    logs, values = np.log(x) - np.mean(np.log(x)), np.log(y)
    slope = float(logs @ values / (logs @ logs))
    rest = values - values.mean() - slope * logs
    error = math.sqrt(float(rest @ rest) / (x.size - 2) / float(logs @ logs))
    half = float(stdtrit(x.size - 2, 0.5 * (1.0 + _LEVEL))) * error
    return _Line(slope, slope - half, slope + half)


def _orders(near: list[_Near], start: str, lam: float) -> tuple[Array, Array, Array]:
    """Return alpha, the errors of the output and the movements of the kernel."""
    kept = [n for n in near if n.start == start and n.regularization == lam]
    return np.array([n.alpha for n in kept]), np.array([n.output for n in kept]), np.array([n.kernel for n in kept])


def _order_checks(near: list[_Near]) -> list[Check]:
    checks = []
    for start, (_, order) in _STARTS.items():
        for lam in _LAMBDAS:
            alpha, output, kernel = _orders(near, start, lam)
            for name, values in (("|f - f_NTK|", output), ("|H(p_t) - H|", kernel)):
                fit = _fit(alpha, values)
                where = f"{start}, lambda = {lam:g}: sup {name}"
                if start == "prior":
                    checks.append(Check(f"{where} has the slope {fit}: of order 1/alpha or smaller, as the theorem "
                                        "says", fit.high <= -1.0))
                    checks.append(Check.at_most(f"{where}: the slope is -2, the prior being even in u",
                                                abs(fit.slope - order), 0.1))
                elif values is kernel or lam == _LAMBDAS[0]:  # the part of lambda in the output is of second order
                    checks.append(Check.at_most(f"{where} has the slope {fit}: no better than 1/alpha",
                                                abs(fit.slope - order), 0.2))
    return checks


def _envelope_checks(long: list[_Long]) -> list[Check]:
    checks = []
    for run in long:
        share = float(np.max(run.risks / run.model.envelope(run.sol.t, run.floor)))
        best = run.model.minimum()
        off = abs(run.sol.energy[-1] / best.value - 1.0)
        checks += [
            Check.at_most(f"{run.label}: L is at most {share:.2f} of 2 exp(-2 alpha^2 lambda_0^2 t) L0 + floor at all "
                          f"times, floor {run.floor:.2e}", share, 1.0),
            Check.at_most(f"{run.label}: Q at rest is the dual's Q* = {best.value:.8f} up to {off:.1e} of it, primal "
                          f"less dual {run.gaps[-1]:.1e}", max(off, float(run.gaps[-1]) / best.value), 1e-4),
        ]
    scaled = [run.floor * run.model.alpha**4 / run.model.regularization**2 for run in long]
    spread = max(scaled) / min(scaled)
    checks.append(Check.at_most("the envelope's floor is lambda^2/alpha^4 times a number between "
                                f"{min(scaled):.1f} and {max(scaled):.1f}", spread, 1.5))
    return checks


def _floor_checks(floors: dict[tuple[float, float], RegularizedMinimum]) -> list[Check]:
    checks, last = [], np.array(_FLOOR_ALPHAS[-4:])
    for lam in _LAMBDAS:
        for name, order in (("risk", -4.0), ("divergence", -2.0)):
            values = np.array([getattr(floors[alpha, lam], name) for alpha in last])
            fit = _fit(last, values)
            ratio = values[-1] / getattr(_model(last[-1], lam).kernel_floor(), name)
            word = "L*" if name == "risk" else "KL*"
            checks.append(Check.at_most(f"lambda = {lam:g}: {word} falls like alpha to the {fit}, expected {order:g}",
                                        abs(fit.slope - order), 0.05))
            checks.append(Check.at_most(f"lambda = {lam:g}: {word} at alpha = {last[-1]:g} is {ratio:.4f} of its "
                                        "leading order", abs(ratio - 1.0), 0.01))
    few, many = (floors[float(last[-1]), lam].risk for lam in _LAMBDAS)
    power = math.log(many / few) / math.log(_LAMBDAS[1] / _LAMBDAS[0])
    checks.append(Check.at_most(f"L* grows like lambda to the {power:.4f}, expected 2", abs(power - 2.0), 0.01))
    gap = max(best.gap / best.value for best in floors.values())
    checks.append(Check.at_most(f"primal less dual of every minimum is at most {gap:.1e} of it", gap, 1e-12))
    return checks


def _certificate_checks(near: list[_Near], long: list[_Long]) -> tuple[Check, ...]:
    return (Check(f"the certificates of {len(near)} short flows", all(n.sol.certificate.ok for n in near)),
            Check(f"the certificates of {len(long)} flows to rest", all(run.sol.certificate.ok for run in long)))


def _floor_row(alpha: float, lam: float, best: RegularizedMinimum) -> tuple[float, ...]:
    floor = _model(alpha, lam).kernel_floor()
    return (lam, alpha, best.value, best.risk, best.divergence, best.chi_square, floor.risk, floor.divergence,
            math.sqrt(best.chi_square / len(_Y)), math.sqrt(best.divergence / len(_Y)), best.gap)


def _draw(near: list[_Near], long: list[_Long], floors: dict[tuple[float, float], RegularizedMinimum]) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 7.8)
        (loss, order), (floor, gap) = figure.subplots(2, 2)
        for color, run in zip(mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(long))), long):
            scaled = run.model.alpha**2 * run.sol.t[1:]
            loss.loglog(scaled, run.risks[1:], color=color, label=run.label)
            loss.loglog(scaled, run.model.envelope(run.sol.t[1:], run.floor), ":", color=color, linewidth=1.2)
            gap.loglog(scaled, run.gaps[1:] / run.model.minimum().value, color=color, label=run.label)
        loss.plot([], [], ":", color=plotting.FAINT, label="envelope with its floor")
        loss.set_title("mean square L")
        loss.set_xlabel("alpha^2 t")
        loss.legend(loc="lower left", fontsize=7.5)
        gap.set_title("primal less dual, over Q*")
        gap.set_xlabel("alpha^2 t")
        gap.legend(loc="lower left", fontsize=7.5)
        _draw_orders(order, near)
        _draw_floors(floor, floors)
        return figure


def _draw_orders(axes: Axes, near: list[_Near]) -> None:
    for start, style, face in (("prior", "-", True), ("skewed", "--", False)):
        alpha, output, kernel = _orders(near, start, _LAMBDAS[0])
        for name, values, color in (("|f - f_NTK|", output, plotting.FLOW), ("|H(p_t) - H|", kernel, plotting.ALARM)):
            fit = _fit(alpha, values)
            axes.loglog(alpha, values, "o" + style, color=color, markersize=4.5,
                        markerfacecolor=color if face else "white", label=f"{name}, {start}: slope {fit.slope:.2f}")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.4)  # room for the legend
    axes.set_title(f"error of the kernel limit, lambda = {_LAMBDAS[0]:g}")
    axes.set_xlabel("alpha")
    axes.legend(loc="upper right", fontsize=7.5)


def _draw_floors(axes: Axes, floors: dict[tuple[float, float], RegularizedMinimum]) -> None:
    alphas = np.array(_FLOOR_ALPHAS)
    for lam, style, face in zip(_LAMBDAS, ("-", "--"), (True, False)):
        limits = [_model(alpha, lam).kernel_floor() for alpha in _FLOOR_ALPHAS]
        for name, word, color in (("risk", "L*", plotting.FLOW), ("divergence", "KL*", plotting.ALARM)):
            axes.loglog(alphas, [getattr(floors[alpha, lam], name) for alpha in _FLOOR_ALPHAS], "o", color=color,
                        markersize=4.5, markerfacecolor=color if face else "white")
            axes.loglog(alphas, [getattr(limit, name) for limit in limits], style, color=color, linewidth=1.2,
                        label=f"{word}, lambda = {lam:g}")
    axes.set_title("at rest (dots), and the leading order (lines)")
    axes.set_xlabel("alpha")
    axes.legend(loc="lower left", fontsize=7.5)


STUDY = NTKError()
