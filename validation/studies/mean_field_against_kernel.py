"""From mean field to kernel: what alpha does to the residual, the kernel and the neurons' law."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from wgflow import plotting
from wgflow.activations import Polynomial, Softplus
from wgflow.atoms import Atoms
from wgflow.densities import Density
from wgflow.reduced_models import KernelLimit, KernelPath
from wgflow.solvers import FiniteVolume

from .base import Check, Study, StudyReport, Table
from .pictures import save_picture
from .slopes.fits import SlopeFit, fit_slope

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

Array = NDArray[np.float64]
_SEED = 7103
#: Five inputs in the plane and their targets.
_X = np.array([[1.0, 0.0], [0.5, 0.8], [-1.0, 0.3], [0.0, -1.2], [2.0, 1.0]])
_Y = np.array([1.0, -0.5, 0.3, 0.8, -1.0])
#: Inputs and targets of the flow of a density in (a, w).
_LINE = (np.array([1.0, -1.0]), np.array([0.8, -0.4]))
_LINE_ALPHA, _LINE_END = 0.5, 4.0
_T_END = 8.0
#: Values and shares of read-outs of mean 0, mean square 1 and third moment 0.71.
_SKEWED = ((math.sqrt(2.0), 1), (-math.sqrt(0.5), 2))
#: From here on slopes are fitted: for pairs, and for the skewed start, whose second order is felt for longer.
_FITTED = {"pairs": 8.0, "skewed": 128.0}
#: The order in 1/alpha of residual, kernel and neurons for both starts.
_ORDERS = {"pairs": (-2.0, -2.0, -1.0), "skewed": (-1.0, -1.0, -1.0)}
_HALF_WIDTH = 0.05
_QUANTITIES = ("residual", "kernel", "neurons")
_DRAWS = 1000


class _Sweep(NamedTuple):
    """For one start: the paths of the first draw, and what moved, shape (quantities, draws, alphas)."""

    alphas: Array
    paths: list[KernelPath]
    moved: Array

    def fit(self, quantity: int, first: float) -> SlopeFit:
        """Return the slope of a quantity's mean over the draws against alpha, from a value of alpha on."""
        kept = self.alphas >= first
        values = self.moved[quantity][:, kept]
        index = np.random.default_rng(_SEED).integers(len(values), size=(_DRAWS, len(values)))
        return fit_slope(self.alphas[kept], values.mean(axis=0), values[index].mean(axis=1))


class MeanFieldAgainstKernel(Study):
    name = "mean-field-against-kernel"
    title = "alpha from mean field to kernel: residual, kernel and density"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        draws, neurons, cells = (6, 120, 120) if quick else (16, 402, 240)
        alphas = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0])
        sweeps = {start: _sweep(alphas, start, neurons, draws) for start in _FITTED}
        exact = [_exact_model(alpha) for alpha in (0.25, 0.5, 1.0, 2.0, 8.0)]
        density, atoms = _density_flow(cells)
        conventions = ("f = (alpha/N) sum a_i softplus(<w_i, x>), u = y - f, d rho/dt = (1/alpha) div(rho grad Psi), "
                       f"Psi = -E u a softplus(<w, x>), means over the {len(_Y)} samples; w ~ N(0, I), {neurons} "
                       "neurons: pairs +-a, w with |a| = 1, or a = sqrt 2, -sqrt(1/2), -sqrt(1/2) for each w; "
                       f"largest over t <= {_T_END:g}, mean of {draws} draws. Kernel limit: u_t = exp(-H_0 t/n) u_0.")
        checks = (*_slope_checks(sweeps), *_exact_checks(exact), *_density_checks(density, atoms),
                  *_feature_checks(sweeps["pairs"]))
        picture = save_picture(_draw(sweeps, exact, density), folder / "mean-field-against-kernel.png", conventions)
        rows = [(start, float(alpha), *(float(sweep.moved[q, :, j].mean()) for q in range(3)),
                 float(sweep.paths[j].risk[-1]), float(sweep.paths[j].lazy_risk[-1]))
                for start, sweep in sweeps.items() for j, alpha in enumerate(sweep.alphas)]
        columns = ("start", "alpha", "sup |u - u_lin|", "sup |H - H0|/|H0|", "distance of the neurons",
                   "risk at the end", "risk of the kernel limit")
        fits = [(start, _QUANTITIES[q], fit.slope, fit.low, fit.high, _ORDERS[start][q])
                for start, sweep in sweeps.items() for q in range(3) for fit in [sweep.fit(q, _FITTED[start])]]
        tables = {"alpha": Table(columns, rows),
                  "slopes": Table(("start", "quantity", "slope", "low", "high", "expected"), fits)}
        words = {"density flow": density.solution.certificate.explain(),
                 "neurons, alpha = 0.25": sweeps["pairs"].paths[0].solution.certificate.explain()}
        return StudyReport(self.name, self.title, conventions, checks, tables, words, (picture,))


def _start(model: KernelLimit, start: str, neurons: int, rng: np.random.Generator) -> Atoms:
    """Draw neurons whose output is 0, in pairs or with skewed read-outs."""
    if start == "pairs":
        return model.initial_atoms(1.0, neurons, rng=rng)
    copies = sum(count for _, count in _SKEWED)
    w = rng.standard_normal((model.x.shape[1], neurons // copies))
    points = np.concatenate([np.concatenate([np.full((1, w.shape[1]), a), w])
                             for a, count in _SKEWED for _ in range(count)], axis=1)
    return Atoms(points, np.full(points.shape[1], 1.0 / points.shape[1]), names=model.coordinate_names)


def _sweep(alphas: Array, start: str, neurons: int, draws: int) -> _Sweep:
    times = np.linspace(0.0, _T_END, 33)
    moved, first = np.empty((3, draws, alphas.size)), []
    for j, alpha in enumerate(alphas):
        model = KernelLimit(_X, _Y, Softplus(), float(alpha))
        for draw in range(draws):
            # The same draws for every alpha.
            path = model.follow(_start(model, start, neurons, np.random.default_rng([_SEED, draw])), times)
            moved[:, draw, j] = (np.max(np.abs(path.residual - path.lazy_residual)), np.max(path.kernel_movement),
                                 np.max(path.movement))
            if draw == 0:
                first.append(path)
    return _Sweep(alphas, first, moved)


class _Exact(NamedTuple):
    alpha: float
    path: KernelPath
    residual: Array
    kernel: Array


def _exact_model(alpha: float) -> _Exact:
    """Follow four neurons of the model sigma_* = a w on one sample, beside its exact solution."""
    times = np.linspace(0.0, 2.0, 41)
    model = KernelLimit([[1.0]], [1.0], Polynomial([0.0, 1.0]), alpha)
    points = np.array([[1.0, -1.0, 1.0, -1.0], [1.0, -1.0, -1.0, 1.0]]) / math.sqrt(2.0)
    path = model.follow(Atoms(points, np.full(4, 0.25), names=model.coordinate_names), times)
    s = solve_ivp(lambda _, s: 1.0 / alpha - 0.5 * np.sinh(2.0 * s), (0.0, times[-1]), [0.0], t_eval=times, rtol=1e-12,
                  atol=1e-14, method="DOP853").y[0]
    return _Exact(alpha, path, 1.0 - 0.5 * alpha * np.sinh(2.0 * s), np.cosh(2.0 * s))


def _density_flow(cells: int) -> tuple[KernelPath, KernelPath]:
    """Return the flow of a density in (a, w), and that of a Gauss rule of the same law."""
    model = KernelLimit(*_LINE, Softplus(), _LINE_ALPHA)
    times = np.linspace(0.0, _LINE_END, 17)
    grid = model.grid(cells, bounds=[(-9.0, 9.0), (-9.0, 9.0)])
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mesh = np.stack([c.ravel() for c in np.meshgrid(nodes, nodes, indexing="ij")])
    rule = Atoms(mesh, np.outer(weights, weights).ravel() / weights.sum() ** 2, names=model.coordinate_names)
    return (model.follow(model.initial_density(1.0, grid), times, method=FiniteVolume(rtol=1e-5)),
            model.follow(rule, times))


def _slope_checks(sweeps: dict[str, _Sweep]) -> list[Check]:
    checks = []
    for start, sweep in sweeps.items():
        for q, name in enumerate(("sup |u - u_lin|", "sup |H - H0|", "the distance of the neurons")):
            fit, order = sweep.fit(q, _FITTED[start]), _ORDERS[start][q]
            checks.append(Check.at_most(
                f"{start}: {name} has the slope {fit} in alpha >= {_FITTED[start]:g}, expected {order:g}",
                abs(fit.slope - order), _HALF_WIDTH))
    return checks


def _exact_checks(exact: list[_Exact]) -> tuple[Check, ...]:
    u = max(float(np.max(np.abs(e.path.residual[:, 0] - e.residual))) for e in exact)
    h = max(float(np.max(np.abs(e.path.kernels[:, 0, 0] - e.kernel))) for e in exact)
    return (Check.at_most(f"the residual of sigma_* = a w is that of the exact solution up to {u:.1e}", u, 1e-8),
            Check.at_most(f"its kernel is h0 cosh 2s up to {h:.1e}", h, 1e-8))


def _density_checks(density: KernelPath, atoms: KernelPath) -> tuple[Check, ...]:
    u = float(np.max(np.abs(density.residual - atoms.residual)))
    h = float(np.max(np.abs(density.kernel_movement - atoms.kernel_movement)))
    ratio = float(density.movement[-1] / atoms.movement[-1])
    return (Check.at_most(f"the density's residual is that of the characteristics up to {u:.1e}", u, 5e-3),
            Check.at_most(f"so is the movement of its kernel, up to {h:.1e}", h, 2e-2),
            Check(f"the length of the density's path is {ratio:.3f} times the distance of the neurons, no less than 1",
                  0.99 <= ratio <= 1.5),
            Check("the certificate of the density flow", density.solution.certificate.ok))


def _feature_checks(sweep: _Sweep) -> tuple[Check, ...]:
    far, near = sweep.moved[1, :, 0].mean(), sweep.moved[1, :, -1].mean()
    gain = [path.risk[-1] / path.lazy_risk[-1] for path in (sweep.paths[0], sweep.paths[-1])]
    return (Check(f"at alpha = {sweep.alphas[0]:g} the kernel moves by {far:.1f} of itself, at alpha = "
                  f"{sweep.alphas[-1]:g} by {near:.1e}", bool(far > 1.0 and near < 1e-4)),
            Check(f"at alpha = {sweep.alphas[0]:g} the risk at the end is {gain[0]:.2f} of the kernel limit's, at "
                  f"alpha = {sweep.alphas[-1]:g} {gain[1]:.6f}", bool(gain[0] < 0.8 and abs(gain[1] - 1.0) < 1e-4)))


def _draw(sweeps: dict[str, _Sweep], exact: list[_Exact], density: KernelPath) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 7.6)
        (risk, moved), (kernel, law) = figure.subplots(2, 2)
        shown = (0.25, 1.0, 2.0, 4.0, 64.0)
        colors = mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(shown)))
        pairs = sweeps["pairs"]
        for color, alpha in zip(colors, shown):
            path = pairs.paths[int(np.flatnonzero(pairs.alphas == alpha)[0])]
            risk.semilogy(path.t, path.risk, color=color, label=f"alpha = {alpha:g}")
        risk.semilogy(path.t, path.lazy_risk, "--", color=plotting.ALARM, label="kernel limit")
        risk.set_title("mean of u^2 over the samples")
        risk.set_xlabel("time t")
        risk.set_yticks([0.06, 0.1, 0.2, 0.4, 0.6], ["0.06", "0.1", "0.2", "0.4", "0.6"])
        risk.set_yticks([], minor=True)
        risk.legend()
        _draw_orders(moved, sweeps)
        for color, one in zip(mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(exact))), exact):
            kernel.semilogy(one.path.t, one.path.kernels[:, 0, 0], color=color, label=f"alpha = {one.alpha:g}")
            kernel.semilogy(one.path.t[::5], one.kernel[::5], "o", color=color, markersize=4)
        kernel.plot([], [], "o", color=plotting.FAINT, markersize=4, label="exact")
        kernel.set_title("kernel H_t of the exact model sigma_* = a w")
        kernel.set_xlabel("time t")
        kernel.set_ylim(0.9, 20.0)
        kernel.set_yticks([1.0, 2.0, 4.0, 8.0], ["1", "2", "4", "8"])
        kernel.set_yticks([], minor=True)
        kernel.legend(loc="upper left", ncols=3)
        _draw_law(law, density)
        return figure


def _draw_orders(axes, sweeps: dict[str, _Sweep]) -> None:
    names = ("|u - u_lin|", "|H - H0|/|H0|", "neurons")
    for (start, sweep), style, face in zip(sweeps.items(), ("-", "--"), (True, False)):
        for q, (name, color) in enumerate(zip(names, (plotting.FLOW, plotting.ALARM, plotting.PARTICLE))):
            if start == "skewed" and q == 2:
                continue  # it lies on that of the pairs
            fit = sweep.fit(q, _FITTED[start])
            kept = sweep.alphas >= _FITTED[start]
            axes.loglog(sweep.alphas, sweep.moved[q].mean(axis=0), "o", color=color, markersize=4,
                        markerfacecolor=color if face else "white")
            axes.loglog(sweep.alphas[kept], fit.line(sweep.alphas[kept]), style, color=color,
                        label=f"{name}, {start}: slope {fit.slope:.2f}")
    axes.set_title("largest movement against alpha")
    axes.set_xlabel("alpha")
    axes.legend(fontsize=7.5)


def _draw_law(axes, density: KernelPath) -> None:
    start, end = density.solution.densities[0], density.solution.final
    if not (isinstance(start, Density) and isinstance(end, Density)):
        return
    a, w = end.grid.centers
    axes.contourf(a, w, end.values.T, levels=np.geomspace(0.003, float(end.values.max()), 9), cmap="Blues")
    peak = float(start.values.max())
    axes.contour(a, w, start.values.T, levels=[0.02 * peak, 0.2 * peak, 0.7 * peak], colors=plotting.PARTICLE,
                 linewidths=1.2)
    axes.set_xlim(-6.0, 6.0)
    axes.set_ylim(-6.0, 6.0)
    axes.set_xlabel("read-out a")
    axes.set_ylabel("weight w")
    axes.set_title(f"density at t = {_LINE_END:g}, alpha = {_LINE_ALPHA:g}; start as lines")


STUDY = MeanFieldAgainstKernel()
