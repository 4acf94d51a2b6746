"""Max-margin classification: the margin and the test error of simulations beside the four equations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wgflow import plotting
from wgflow.activations import ReLU
from wgflow.reduced_models import MaxMargin
from wgflow.reduced_models.static_theories import MarginSimulation

from ..base import Study, StudyReport, Table
from ..pictures import save_picture
from .judging import Estimate, extrapolated, within_bands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["STUDY"]

_SEED = 6133
#: Samples over dimension.
_PSI2 = 2.0
#: Widths over dimension of the simulations, for each law of the labels.
_PSI1 = {"sign": (1.5, 2.0, 3.0, 4.0, 6.0), "logistic": (3.0, 4.0, 6.0, 8.0)}
#: Widths over dimension at which the network's own features are simulated too, with labels by the sign.
_OWN = (2.0, 4.0)
#: Color, line and mark of each law of the labels.
_LOOKS = {"sign": (plotting.FLOW, "-", "o"), "logistic": (plotting.PARTICLE, "--", "s")}
#: Bisections of the width at which classes become separable.
_BISECTIONS = 20


class _Point(NamedTuple):
    link: str
    psi1: float
    equivalent: bool
    theory: MaxMargin
    sizes: tuple[int, int]
    found: tuple[MarginSimulation, MarginSimulation]

    def limit(self, quantity: str) -> Estimate:
        """Return the extrapolated mean of "margin" or "error"."""
        first, last = (getattr(each, quantity) for each in self.found)
        return extrapolated(self.sizes, (first, last))


class MaxMarginClassification(Study):
    name = "max-margin"
    title = "the largest margin and its test error, n = 2 d"

    def run(self, folder: Path, *, quick: bool = False, fresh: bool = False) -> StudyReport:
        sizes, runs = ((50, 100), (60, 40)) if quick else ((200, 400), (60, 20))
        own_sizes, own_runs = ((30, 60), (30, 20)) if quick else ((100, 200), (32, 16))
        points = [_simulate(link, psi1, True, sizes, runs) for link, widths in _PSI1.items() for psi1 in widths]
        points += [_simulate("sign", psi1, False, own_sizes, own_runs) for psi1 in _OWN]
        conventions = (
            "Features mu_1 <w, x> + mu_* z with the coefficients of the rectifier, |w| = 1, x ~ N(0, I_d), z ~ N(0, 1) "
            "(crosses: the rectifier's own features less their mean); labels y = 1 with probability 1{<beta, x> > 0} "
            f"or 1/(1 + exp(-<beta, x>)), |beta| = 1; n/d = {_PSI2:g}, N/d = psi1; margin max over |a| <= 1 of "
            f"min y_i <a, u_i>. Bars: 3 standard errors.")
        comparisons = 2 * len(points)
        checks = []
        for label, equivalent in (("Gaussian features", True), ("features of the rectifier", False)):
            some = [point for point in points if point.equivalent is equivalent]
            first, last = some[0].sizes
            checks += [within_bands(
                f"{quantity}, {label} at d = {first} and {last}, extrapolated in 1/d",
                [point.limit(quantity) for point in some], [getattr(point.theory, quantity) for point in some],
                comparisons) for quantity in ("margin", "error")]
        picture = save_picture(_draw(points), folder / "max-margin.png", conventions)
        return StudyReport(self.name, self.title, conventions, tuple(checks), {"margins": _table(points)}, {},
                           (picture,))


def _simulate(link: str, psi1: float, equivalent: bool, sizes: tuple[int, int], runs: tuple[int, int]) -> _Point:
    theory = MaxMargin(ReLU(), psi1, _PSI2, link)
    first, last = (theory.simulate(d, count, equivalent=equivalent,
                                   rng=np.random.default_rng([_SEED, d, round(1000 * psi1), len(link), equivalent]))
                   for d, count in zip(sizes, runs))
    return _Point(link, psi1, equivalent, theory, sizes, (first, last))


def _least_width(link: str) -> float:
    """Return the width over the dimension from which on classes are separable, by bisection."""
    low, high = 0.1, max(_PSI1[link])
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if MaxMargin(ReLU(), middle, _PSI2, link).separable else (middle, high)
    return high


def _table(points: list[_Point]) -> Table:
    rows = []
    for point in points:
        for quantity in ("margin", "error"):
            end = point.limit(quantity)
            found = [getattr(each, quantity) for each in point.found]
            rows.append((point.link, "Gaussian" if point.equivalent else "rectifier", point.psi1, quantity,
                         getattr(point.theory, quantity), point.sizes[0], found[0].mean, found[0].standard_error,
                         point.sizes[1], found[1].mean, found[1].standard_error, end.value, end.standard_error))
    return Table(("labels", "features", "psi1", "quantity", "theory", "d", "mean", "error", "2 d", "mean", "error",
                  "limit", "error"), rows)


def _draw(points: list[_Point]) -> Figure:
    import matplotlib as mpl

    with mpl.rc_context(plotting.STYLE):
        figure = plotting.new_figure(10.4, 4.4)
        left, right = figure.subplots(1, 2)
        for link, (color, style, _) in _LOOKS.items():
            least = _least_width(link)
            psi1 = least + (1.1 * max(_PSI1[link]) - least) * np.linspace(0.02, 1.0, 40) ** 2
            theory = [MaxMargin(ReLU(), p, _PSI2, link) for p in psi1]
            left.plot([least, *psi1], [0.0, *(each.margin for each in theory)], style, color=color,
                      label=f"theory, labels by {link}")
            right.plot(psi1, [each.error for each in theory], style, color=color, label=f"theory, labels by {link}")
            for axes in (left, right):
                axes.axvline(least, color=color, linewidth=0.8, linestyle=":")
        for axes, quantity in ((left, "margin"), (right, "error")):
            _mark(axes, points, quantity)
            axes.set(xlabel="psi1 = N/d  (dotted: separable from here on)", xlim=(0.0, None), ylim=(0.0, None))
            axes.set_ylabel("margin" if quantity == "margin" else "share of new points misclassified")
        left.set_title("largest margin")
        right.set_title("test error")
        right.legend(loc="lower right")
        return figure


def _mark(axes: Axes, points: list[_Point], quantity: str) -> None:
    for link, (color, _, mark) in _LOOKS.items():
        for k in (0, 1):
            some = [point for point in points if point.link == link and point.equivalent]
            found = [getattr(point.found[k], quantity) for point in some]
            axes.errorbar([point.psi1 for point in some], [each.mean for each in found],
                          [3.0 * each.standard_error for each in found], fmt=mark, color=color, markersize=5.5,
                          markerfacecolor=color if k else "white", capsize=2, label=f"d = {some[0].sizes[k]}")
    own = [point for point in points if not point.equivalent]
    axes.plot([point.psi1 for point in own], [getattr(point.found[1], quantity).mean for point in own], "x",
              color=plotting.ALARM, markersize=8, markeredgewidth=1.8, label=f"rectifier, d = {own[0].sizes[1]}")


STUDY = MaxMarginClassification()
