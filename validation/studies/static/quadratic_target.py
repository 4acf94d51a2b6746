"""A quadratic target: what random features, the tangent model and trained networks of N neurons leave of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wgflow import plotting
from wgflow.reduced_models import FiniteQuadraticTarget, QuadraticTarget
from wgflow.reduced_models.static_theories import Simulated, TrainedQuadratic

from ..base import Check, Study, StudyReport, Table
from ..pictures import save_picture
from .judging import Estimate, extrapolated, of_runs, within_bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_SEED = 7027
#: Neurons over dimension of the draws of random features, and of the tangent model, which has no error from 1 on.
_PSI = (1 / 15, 0.2, 0.5, 1.0, 2.0, 4.0, 10.0)
_PSI_TANGENT = (1 / 15, 0.2, 0.4, 0.6, 0.8)
#: (tr B)^2/(d |B|^2) of the exponential law of eigenvalues.
_KAPPA = 0.5
#: Trained networks: dimension, numbers of neurons, end of the flow, neurons and end of SGD.
_SMALL, _NEURONS, _REST = 20, (2, 5, 10, 15), 100.0
_SGD_NEURONS, _SGD_END, _SGD_TIMES = 5, 1.5, 6
#: Every so many times of a flow are tabled.
_TABLED = 100
#: The flow ends this near to the best network.
_AT_REST = 1e-8
#: When the dimension is doubled, the exact tangent risk comes nearer to its limit by a factor in this range.
_HALVED = (1.7, 2.3)


class _Draws(NamedTuple):
    """Random features at two dimensions, by psi, and the tangent model at the larger one."""

    targets: tuple[dict[float, FiniteQuadraticTarget], dict[float, FiniteQuadraticTarget]]
    features: dict[float, tuple[Simulated, Simulated]]
    tangent: dict[float, Simulated]


class _Training(NamedTuple):
    """Flows by the number of neurons; SGD's risks at two steps beside the flow from the same start."""

    targets: dict[int, FiniteQuadraticTarget]
    flows: dict[int, TrainedQuadratic]
    steps: tuple[float, float]
    beside: TrainedQuadratic
    sgd: tuple[np.ndarray, np.ndarray]


class QuadraticTargets(Study):
    name = "quadratic-target"
    title = "a quadratic target: random features, tangent model, trained network"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        sizes = (60, 120) if quick else (225, 450)
        draws = _draw_models(sizes, (40, 24) if quick else (20, 8))
        training = _train((2e-4, 1e-4), 16) if quick else _train((5e-5, 2.5e-5), 24)
        conventions = (
            f"f(x) = <x, Bx> - tr B, x ~ N(0, I_d), d = {sizes[1]}, eigenvalues of B at the quantiles of the "
            f"exponential law; risks as shares of E f^2 = 2 |B|^2. RF: features <w, x>^2 - 1, w ~ N(0, I/d). NT: the "
            f"tangent model with a constant. NN: sum <w, x>^2 + c. Training at d = {_SMALL} from w ~ N(0, I/d): w' = "
            f"8 W (B - W'W) + 4 e W, minus the gradient of E (f - fhat)^2; SGD: w += 4 step (f - fhat) <w, x> x.")
        comparisons = len(_PSI) + len(_PSI_TANGENT) + len(training.beside.t) - 1
        checks = [*_judge_draws(draws, sizes, comparisons), *_judge_training(training, comparisons)]
        picture = save_picture(_draw(draws, training, sizes), folder / "quadratic-target.png", conventions)
        return StudyReport(self.name, self.title, conventions, tuple(checks), _tables(draws, training, sizes), {},
                           (picture,))


def _quantiles(d: int) -> np.ndarray:
    """Return d quantiles of the exponential law."""
    return -np.log1p(-(np.arange(d) + 0.5) / d)


def _draw_models(sizes: tuple[int, int], runs: tuple[int, int]) -> _Draws:
    first, last = ({psi: FiniteQuadraticTarget(_quantiles(d), round(psi * d)) for psi in {*_PSI, *_PSI_TANGENT}}
                   for d in sizes)
    features = {}
    for psi in _PSI:
        small, large = (targets[psi].random_features(count, np.random.default_rng([_SEED, targets[psi].n_neurons]))
                        for targets, count in ((first, runs[0]), (last, runs[1])))
        features[psi] = (_without_own_limit(first[psi], small), _without_own_limit(last[psi], large))
    tangent = {psi: last[psi].tangent(24, np.random.default_rng([_SEED, round(1000 * psi)]))
               for psi in _PSI_TANGENT}
    return _Draws((first, last), features, tangent)


def _without_own_limit(target: FiniteQuadraticTarget, found: Simulated) -> Simulated:
    """Return the draws shifted from the limit with the spectrum of finite d to that with the exponential law."""
    limit = QuadraticTarget(_KAPPA, target.n_neurons / target.d).risk_rf
    shift = limit - target.limit().risk_rf
    return Simulated(found.mean + shift, found.standard_error, found.values + shift)


def _train(steps: tuple[float, float], runs: int) -> _Training:
    targets = {n: FiniteQuadraticTarget(_quantiles(_SMALL), n) for n in _NEURONS}
    flows = {n: target.gradient_flow(_REST, 2001, rng=_SEED + n) for n, target in targets.items()}
    target = targets[_SGD_NEURONS]
    start = flows[_SGD_NEURONS].w[0]
    beside = target.gradient_flow(_SGD_END, _SGD_TIMES, w0=start)
    first, last = (np.array([target.sgd(_SGD_END, step, _SGD_TIMES, w0=start, rng=child).risk
                             for child in np.random.default_rng([_SEED, k]).spawn(runs)])
                   for k, step in enumerate(steps))
    return _Training(targets, flows, steps, beside, (first, last))


def _judge_draws(draws: _Draws, sizes: tuple[int, int], comparisons: int) -> list[Check]:
    features = within_bands(
        f"random features at d = {sizes[0]} and {sizes[1]}, N/d = {_PSI[0]:.2g} to {_PSI[-1]:g}, extrapolated in 1/d",
        [extrapolated(sizes, found) for found in draws.features.values()],
        [QuadraticTarget(_KAPPA, psi).risk_rf for psi in _PSI], comparisons)
    first, last = draws.targets
    tangent = within_bands(f"tangent model at d = {sizes[1]} against its exact mean",
                           [of_runs(found) for found in draws.tangent.values()],
                           [last[psi].risk_nt for psi in _PSI_TANGENT], comparisons)
    ratios = [(first[psi].risk_nt - first[psi].limit().risk_nt) / (last[psi].risk_nt - last[psi].limit().risk_nt)
              for psi in _PSI_TANGENT]
    halved = Check(f"the exact mean of the tangent model comes {min(ratios):.3f} to {max(ratios):.3f} times nearer to "
                   f"its limit from d = {sizes[0]} to {sizes[1]}; 2 is predicted, {_HALVED[0]:g} to {_HALVED[1]:g} "
                   "allowed", bool(_HALVED[0] <= min(ratios) and max(ratios) <= _HALVED[1]))
    order = [(target.risk_nn, target.risk_nt, target.limit().risk_rf) for target in last.values()]
    ordered = Check("trained networks leave less than the tangent model, and it less than random features, at each N",
                    all(a <= b <= c for a, b, c in order))
    return [features, tangent, halved, ordered]


def _sgd_limit(training: _Training) -> list[Estimate]:
    """Return SGD's risks at the times after 0, extrapolated in the step size."""
    def at(risks: np.ndarray, j: int) -> Simulated:
        values = risks[:, j]
        return Simulated(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size), values)

    inverse = (1.0 / training.steps[0], 1.0 / training.steps[1])
    return [extrapolated(inverse, (at(training.sgd[0], j), at(training.sgd[1], j)))
            for j in range(1, training.beside.t.size)]


def _judge_training(training: _Training, comparisons: int) -> list[Check]:
    checks = []
    for n, path in training.flows.items():
        best, end = training.targets[n].risk_nn, float(path.risk[-1])
        checks.append(Check.at_most(f"N = {n}: the gradient flow ends at {end:.10f}, the eigenvalues beyond the {n} "
                                    f"largest leave {best:.10f}; difference {abs(end - best):.1e}",
                                    abs(end - best), _AT_REST))
    rise = max(float(np.max(np.diff(path.risk))) for path in training.flows.values())
    checks.append(Check.at_most(f"the risk never rises along a flow; largest rise {rise:.1e}", rise, _AT_REST))
    return [*checks, within_bands(
        f"one-pass SGD of steps {training.steps[0]:g} and {training.steps[1]:g}, N = {_SGD_NEURONS}, extrapolated to "
        "step 0, against the flow", _sgd_limit(training), training.beside.risk[1:].tolist(), comparisons)]


def _tables(draws: _Draws, training: _Training, sizes: tuple[int, int]) -> dict[str, Table]:
    rows = []
    for psi in sorted({*_PSI, *_PSI_TANGENT}):
        target, theory = draws.targets[1][psi], QuadraticTarget(_KAPPA, psi)
        own, both = draws.tangent.get(psi), draws.features.get(psi)
        nothing = (math.nan, math.nan)
        rows.append((psi, target.n_neurons, theory.risk_rf,
                     *((both[1].mean, both[1].standard_error) if both else nothing), theory.risk_nt, target.risk_nt,
                     *((own.mean, own.standard_error) if own else nothing), theory.risk_nn, target.risk_nn))
    paths = [(n, float(t), float(r)) for n, path in training.flows.items()
             for t, r in zip(path.t[::_TABLED], path.risk[::_TABLED])]
    ends = _sgd_limit(training)
    sgd = [(float(t), float(r), *(float(v) for risks in training.sgd for v in (
        risks[:, j].mean(), risks[:, j].std(ddof=1) / math.sqrt(len(risks)))), ends[j - 1].value,
        ends[j - 1].standard_error) for j, (t, r) in enumerate(zip(training.beside.t, training.beside.risk)) if j]
    return {"risks": Table(("psi", f"N, d = {sizes[1]}", "RF", "RF drawn", "its error", "NT", f"NT, d = {sizes[1]}",
                            "NT drawn", "its error", "NN", f"NN, d = {sizes[1]}"), rows),
            "training": Table(("N", "t", "risk"), paths),
            "SGD": Table(("t", "flow", *(f"{what}, step {step:g}" for step in training.steps
                                         for what in ("mean", "error")), "step 0", "error"), sgd)}


def _draw(draws: _Draws, training: _Training, sizes: tuple[int, int]) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 4.6)
        left, right = figure.subplots(1, 2)
        d = sizes[1]
        psi = np.geomspace(0.05, 12.0, 200)
        theory = [QuadraticTarget(_KAPPA, p) for p in psi]
        for name, color, style in (("rf", plotting.ALARM, "-"), ("nt", plotting.PARTICLE, "--"),
                                   ("nn", plotting.FLOW, "-.")):
            left.plot(psi * d, [getattr(each, f"risk_{name}") for each in theory], style, color=color,
                      label=f"{name.upper()}, limit")
        _dots(left, draws)
        left.set(xscale="log", xlabel=f"number of neurons N, d = {d}", ylabel="share of the target left",
                 ylim=(-0.02, 1.02))
        left.set_title("what N neurons leave")
        left.legend(loc="lower right", bbox_to_anchor=(1.0, 0.06))
        _paths(right, training)
        return figure


def _dots(axes: Axes, draws: _Draws) -> None:
    last = draws.targets[1]
    axes.plot([last[psi].n_neurons for psi in _PSI], [draws.features[psi][1].mean for psi in _PSI], "o",
              color=plotting.ALARM, markersize=5.5, markeredgecolor="white", label="RF, drawn")
    axes.plot([last[psi].n_neurons for psi in _PSI_TANGENT], [draws.tangent[psi].mean for psi in _PSI_TANGENT], "s",
              color=plotting.PARTICLE, markersize=5.5, markeredgecolor="white", label="NT, drawn")
    some = sorted(psi for psi in last if psi <= 1.0)
    axes.plot([last[psi].n_neurons for psi in some], [last[psi].risk_nn for psi in some], "D", color=plotting.FLOW,
              markersize=5, markeredgecolor="white", label="NN, best of this B")


def _paths(axes: Axes, training: _Training) -> None:
    looks = zip(training.flows.items(), (plotting.INK, plotting.FLOW, plotting.PARTICLE, plotting.ALARM),
                ("-", "-", "--", "-."))
    for (n, path), color, style in looks:
        axes.plot(path.t, np.maximum(path.risk - training.targets[n].risk_nn, 1e-13), style, color=color,
                  label=f"flow, N = {n}")
    least = training.targets[_SGD_NEURONS].risk_nn
    for risks, step, face in zip(training.sgd, training.steps, ("white", plotting.FLOW)):
        axes.plot(training.beside.t, risks.mean(axis=0) - least, "o", color=plotting.FLOW, markerfacecolor=face,
                  markersize=5, label=f"SGD, N = {_SGD_NEURONS}, step {step:g}")
    axes.set(xscale="symlog", yscale="log", xlim=(0.0, _REST), ylim=(1e-11, None), xlabel="t",
             ylabel="share left - that of the best network")
    axes.set_xticks([0.0, 1.0, 10.0, 100.0], ["0", "1", "10", "100"])
    axes.set_title(f"training finds the largest eigenvalues, d = {_SMALL}")
    axes.legend(loc="lower left")


STUDY = QuadraticTargets()
