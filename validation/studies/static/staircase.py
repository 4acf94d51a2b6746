"""The staircase: polynomials of which degree N neurons of random weights can learn, by their values or derivatives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtrit

from wgflow import plotting
from wgflow.activations import ReLU
from wgflow.reduced_models import Staircase
from wgflow.reduced_models.static_theories import Simulated
from wgflow.reduced_models.static_theories.sphere_kernels import harmonics

from ..base import Check, Study, StudyReport, Table
from ..pictures import save_picture
from .judging import LEVEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_SEED = 9013
#: The rectifier is shifted so that all its Hermite coefficients up to degree 4 are different from 0.
_ACTIVATION = ReLU(offset=-0.5)
_DEGREES = (0, 1, 2, 3, 4)
#: Neurons N = d^(l + _EXCESS) of the trend over dimensions.
_EXCESS = 0.25
#: Dimensions of the trend, by model and l; the tangent model has N d unknowns.
_SIZES = {("RF", 0): (8, 32, 128), ("RF", 1): (8, 20, 50), ("NT", 0): (8, 32, 128), ("NT", 1): (10, 14, 20)}
#: The rise from the least to the largest dimension is at least so many standard errors.
_SIGMAS = 3.0
#: Draws for each dimension.
_RUNS = 8
#: Colors, marks and lines of the degrees.
_LOOKS = ((plotting.FAINT, "x", "-"), (plotting.ALARM, "o", "-"), (plotting.PARTICLE, "s", "--"),
          (plotting.FLOW, "^", "-."), (plotting.INK, "D", ":"))


class _Curve(NamedTuple):
    """Risks of one model over the number of neurons: ``found[N][degree]``."""

    label: str
    d: int
    found: dict[int, dict[int, Simulated]]

    def least(self, n_neurons: int, degree: int) -> float:
        """Return the bound 1 - (features)/(harmonics of the degree) of the mean risk."""
        features = n_neurons * (self.d if self.label == "NT" else 1)
        return max(0.0, 1.0 - features / float(harmonics(self.d, degree)[degree]))


class _Trend(NamedTuple):
    """Risks of one model for one degree over the dimension."""

    label: str
    level: int
    degree: int
    found: dict[tuple[int, int], Simulated]  # by (d, N)


class StaircaseOfDegrees(Study):
    name = "staircase"
    title = "random features learn degree l from d^l neurons on, the tangent model from d^(l - 1)"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        d = 16 if quick else 30
        features = (2, 5, 16, 40, 100, 250) if quick else (2, 5, 12, 30, 90, 164, 350, 900)
        tangent = (1, 2, 4, 8, 16, 40) if quick else (1, 2, 5, 12, 30, 60)
        curves = (_curve("RF", d, features, 6), _curve("NT", d, tangent, 4))
        trends = [_trend(label, level, sizes) for (label, level), sizes in _SIZES.items()]
        conventions = (
            f"x uniform on the sphere of radius sqrt(d), weights on the unit sphere, sigma(s) = (s - 1/2)_+, d = {d}; "
            "targets of pure degree and mean square 1. RF: sum a_i sigma(<w_i, x>), N unknowns; NT: sum <a_i, x> "
            "sigma'(<w_i, x>), N d unknowns. Least risk with the whole population, exact for the weights, mean of "
            f"draws and of {d} orthogonal targets. Thin: 1 - (number of features)/(number of harmonics of the "
            "degree), below which no mean can lie.")
        checks = [*(_judge_bound(curve, sum(len(each.found) for each in curves) * len(_DEGREES)) for curve in curves),
                  *map(_judge_trend, trends), _one_step_further(curves)]
        picture = save_picture(_draw(curves), folder / "staircase.png", conventions)
        rows = [(curve.label, d, n, degree, each.mean, each.standard_error, curve.least(n, degree))
                for curve in curves for n, by_degree in curve.found.items() for degree, each in by_degree.items()]
        over = [(trend.label, trend.degree, *key, each.mean, each.standard_error)
                for trend in trends for key, each in trend.found.items()]
        return StudyReport(self.name, self.title, conventions, tuple(checks), {
            "risks": Table(("model", "d", "N", "degree", "risk", "error", "bound"), rows),
            "dimensions": Table(("model", "degree", "d", "N", "risk", "error"), over)}, {}, (picture,))


def _curve(label: str, d: int, widths: tuple[int, ...], runs: int) -> _Curve:
    return _Curve(label, d, {n: Staircase(_ACTIVATION, d, n).over_degrees(
        _DEGREES, runs, np.random.default_rng([_SEED, n]), tangent=label == "NT", n_directions=d) for n in widths})


def _trend(label: str, level: int, sizes: tuple[int, ...]) -> _Trend:
    degree, found = level + (2 if label == "NT" else 1), {}
    for d in sizes:
        n = round(d ** (level + _EXCESS))
        found[d, n] = Staircase(_ACTIVATION, d, n).over_degrees([degree], _RUNS, np.random.default_rng([_SEED, d]),
                                                                 tangent=label == "NT", n_directions=d)[degree]
    return _Trend(label, level, degree, found)


def _judge_bound(curve: _Curve, comparisons: int) -> Check:
    r"""Judge the bound of the mean risk.

    Over all harmonics of a degree k, B of them, :math:`\sum (1 - R) = \mathrm{tr}\,U^{-1} U_k` with :math:`U_k \le U`
    the part of degree k, so that it is at most the number of features; and weights of a law that is invariant under
    rotations give each harmonic the same mean.
    """
    shares = []
    for n, by_degree in curve.found.items():
        for degree, each in by_degree.items():
            bound = curve.least(n, degree)
            if bound > 0.0 and each.standard_error > 0.0:
                band = stdtrit(each.values.size - 1.0, 1.0 - LEVEL / comparisons) * each.standard_error
                shares.append((bound - each.mean) / band)
    return Check.at_most(f"{curve.label}: mean risks lie above 1 - features/harmonics at all {len(shares)} pairs of N "
                         f"and degree where it is positive; largest shortfall {max(shares):.2f} of its band",
                         max(shares), 1.0)


def _judge_trend(trend: _Trend) -> Check:
    first, *_, last = found = list(trend.found.values())
    rise = (last.mean - first.mean) / float(np.hypot(first.standard_error, last.standard_error))
    rising = bool(np.all(np.diff([each.mean for each in found]) > 0.0))
    points = ", ".join(f"{each.mean:.3f} +- {each.standard_error:.3f} (d = {d}, N = {n})"
                       for (d, n), each in trend.found.items())
    return Check(f"{trend.label}: with N = d^{trend.level + _EXCESS:g} the risk of degree {trend.degree} rises "
                 f"towards 1 with d: {points}; from first to last by {rise:.1f} standard errors, {_SIGMAS:g} needed",
                 rising and rise >= _SIGMAS)


def _one_step_further(curves: tuple[_Curve, _Curve]) -> Check:
    features, tangent = curves
    n = max(set(features.found) & set(tangent.found))
    rf, nt = features.found[n][2], tangent.found[n][2]
    apart = (rf.mean - nt.mean) / np.hypot(rf.standard_error, nt.standard_error)
    return Check(f"N = {n}: the tangent model leaves {nt.mean:.3f} +- {nt.standard_error:.3f} of degree 2, random "
                 f"features {rf.mean:.3f} +- {rf.standard_error:.3f}: {apart:.0f} standard errors apart, 5 needed",
                 bool(apart > 5.0))


def _draw(curves: tuple[_Curve, _Curve]) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 4.4)
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for axes, curve, title in ((left, curves[0], "random features"), (middle, curves[1], "tangent model")):
            _over_neurons(axes, curve)
            axes.set_title(title)
        left.set_ylabel("least risk")
        _over_degrees(right, curves)
        handles = left.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def _over_neurons(axes: Axes, curve: _Curve) -> None:
    widths = np.array(list(curve.found))
    fine = np.geomspace(widths[0], widths[-1], 100)
    for degree, (color, mark, style) in zip(_DEGREES, _LOOKS):
        found = [curve.found[n][degree] for n in widths]
        axes.errorbar(widths, [each.mean for each in found], [each.standard_error for each in found], color=color,
                      marker=mark, linestyle=style, markersize=5, linewidth=1.4, label=f"degree {degree}")
        bound = [curve.least(n, degree) for n in fine]
        axes.plot(fine, bound, color=color, linewidth=0.7, alpha=0.8)
    marks = {1: "d", 2: "d^2"}
    for power, label in marks.items():
        if curve.d**power <= widths[-1] * 1.01:
            axes.axvline(curve.d**power, ymax=0.91, color=plotting.FAINT, linewidth=0.8, linestyle="--")
            axes.annotate(f"N = {label}", (curve.d**power, 1.06), ha="center", fontsize=8, color=plotting.FAINT,
                          annotation_clip=False)
    axes.set(xscale="log", xlabel="number of neurons N", ylim=(-0.03, 1.12))


def _over_degrees(axes: Axes, curves: tuple[_Curve, _Curve]) -> None:
    for curve, color, style in zip(curves, (plotting.ALARM, plotting.FLOW), ("o-", "s--")):
        shared = sorted(set(curves[0].found) & set(curves[1].found))
        for n, alpha in ((shared[0], 0.45), (shared[-1], 1.0)):
            axes.plot(_DEGREES, [curve.found[n][k].mean for k in _DEGREES], style, color=color, alpha=alpha,
                      markersize=5, label=f"{curve.label}, N = {n}")
    axes.set(xlabel="degree of the target", xticks=_DEGREES)
    axes.set_title("over the degree")
    axes.legend(loc="lower right")


STUDY = StaircaseOfDegrees()
