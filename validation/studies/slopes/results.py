"""The result of a study of errors: data, fits with intervals, tables, a dataset and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wgflow.errors import InvalidInput

from ..base import Table
from .fits import SlopeFit, fit_slope

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

    from wgflow.solution import Solution

__all__ = ["KINDS", "Curve", "ErrorStudy"]

Array = NDArray[np.float64]
KINDS = ("error", "scatter", "bias")
#: Bootstrap draws behind every interval, and their seed.
_DRAWS, _SEED = 1000, 61129


@dataclass(frozen=True)
class Curve:
    """One kind of error of one quantity at one time against the parameter.

    Attributes
    ----------
    x, y : array of shape (points,)
    replicates : array of shape (draws, points)
        y of repetitions drawn again.
    """

    x: Array
    y: Array
    replicates: Array = field(repr=False)

    @property
    def standard_errors(self) -> Array:
        """Standard errors of y."""
        return self.replicates.std(axis=0, ddof=1)


@dataclass(frozen=True)
class ErrorStudy:
    r"""Errors of independent runs against the mean field, over one parameter and several times.

    Of each quantity there are up to three kinds,

        error      of a distance d (or a supremum) its mean E d(rho_N, rho); of a difference its root mean square
        scatter    the same about the mean of the runs: E d(rho_N, E rho_N), or the standard deviation
        bias       of a difference, the absolute value of its mean

    so that error^2 = scatter^2 + bias^2 for differences.

    Attributes
    ----------
    parameter : str
        The name of what is varied.
    values : array of shape (points,)
        Its values, increasing.
    t : array of shape (times,)
        Output times, or the ends T of the intervals [0, T] over which a supremum is taken.
    n_neurons, step_sizes : array of shape (points,)
    errors : dict of str to tuple of arrays of shape (runs, times)
        For each quantity and point: distances to the law or signed differences of every run.
    signed : tuple of str
        The quantities that are differences.
    scatters : dict of str to tuple of arrays of shape (runs, times)
        Of distances: those to the mean law of the runs.
    predicted : dict of str to array of shape (points, times)
        The predicted scatter.
    resolution : dict of str to array of shape (times,)
        How well the distances know the mean-field law itself.
    by_doubling : bool
        Whether the bias is measured by runs at the next value of the parameter, a step size,
        :math:`b \epsilon = (m(q \epsilon) - m(\epsilon))/(q - 1)`, since the limit of small steps is not known.
    solutions : tuple of Solution
        The mean-field flows that the errors refer to.
    notes : tuple of str
        What the reader must know.
    """

    parameter: str
    values: Array
    t: Array
    n_neurons: Array
    step_sizes: Array
    errors: dict[str, tuple[Array, ...]] = field(repr=False)
    signed: tuple[str, ...] = ()
    scatters: dict[str, tuple[Array, ...]] = field(default_factory=dict, repr=False)
    predicted: dict[str, Array] = field(default_factory=dict, repr=False)
    resolution: dict[str, Array] = field(default_factory=dict, repr=False)
    by_doubling: bool = False
    solutions: tuple[Solution, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def quantities(self) -> tuple[str, ...]:
        """The names of all quantities."""
        return tuple(self.errors)

    @property
    def certified(self) -> bool:
        """Whether the certificate of every mean-field flow holds."""
        return all(sol.certificate.ok for sol in self.solutions)

    @property
    def n_runs(self) -> tuple[int, ...]:
        """Number of runs at each point."""
        return tuple(len(each) for each in self.errors[self.quantities[0]])

    def kinds(self, quantity: str) -> tuple[str, ...]:
        """Return the kinds of error that are known of a quantity."""
        self._check(quantity)
        if quantity in self.scatters:
            return KINDS[:2]
        return KINDS if quantity in self.signed else KINDS[:1]

    def curve(self, quantity: str, kind: str = "error", t: float | None = None) -> Curve:
        """Return an error against the parameter at one time, by default the last, with bootstrap replicates.

        Raises
        ------
        InvalidInput
            If there is no such quantity, kind or time.
        """
        if kind not in self.kinds(quantity):
            raise InvalidInput(f"kind={kind!r}: {quantity!r} has {', '.join(self.kinds(quantity))}")
        j, rng = self._time(t), np.random.default_rng(_SEED)
        source = self.scatters if kind == "scatter" and quantity in self.scatters else self.errors
        samples = [each[:, j] for each in source[quantity]]
        drawn = [x[rng.integers(x.size, size=(_DRAWS, x.size))] for x in samples]
        if kind == "bias":
            own, again = np.array([x.mean() for x in samples]), np.stack([x.mean(axis=1) for x in drawn], axis=1)
            if self.by_doubling:
                ratio = self.values[1:] / self.values[:-1] - 1.0
                # Draws keep their sign: a bias that is noise shows as draws that are not positive.
                sign = np.sign(np.diff(own))
                return Curve(self.values[:-1], np.abs(np.diff(own)) / ratio, sign * np.diff(again, axis=1) / ratio)
            return Curve(self.values, np.abs(own), np.sign(own) * again)
        reduce = self._reduction(quantity, kind)
        return Curve(self.values, np.array([reduce(x[None])[0] for x in samples]),
                     np.stack([reduce(x) for x in drawn], axis=1))

    def slope(self, quantity: str, kind: str = "error", t: float | None = None, *, low: float = 0.0,
              high: float = np.inf, level: float = 0.95) -> SlopeFit:
        """Return the fitted exponent of an error in the parameter.

        Parameters
        ----------
        quantity, kind, t
            As in `curve`.
        low, high : float
            The range of the parameter that is fitted, ends included; all by default.
        level : float
            Of the interval.
        """
        curve = self.curve(quantity, kind, t)
        kept = (curve.x >= low) & (curve.x <= high)
        return fit_slope(curve.x[kept], curve.y[kept], curve.replicates[:, kept], level=level)

    def over_prediction(self, quantity: str, t: float | None = None, level: float = 0.95) -> tuple[Array, Array, Array]:
        """Return the scatter over its prediction, and the ends of its interval, arrays of shape (points,)."""
        if quantity not in self.predicted:
            raise InvalidInput(f"no scatter is predicted for {quantity!r}, only for {', '.join(self.predicted) or '-'}")
        curve, j = self.curve(quantity, "scatter", t), self._time(t)
        own = self.predicted[quantity][:, j]
        low, high = np.quantile(curve.replicates, [0.5 * (1.0 - level), 0.5 * (1.0 + level)], axis=0)
        return curve.y / own, low / own, high / own

    @cached_property
    def table(self) -> Table:
        """A row for each quantity, time and point: each kind with its standard error, and the predicted scatter."""
        columns = ("quantity", "t", self.parameter, "N", "step size", "runs",
                   *(word for kind in KINDS for word in (kind, f"s.e. of {kind}")), "predicted scatter")
        rows = []
        for name in self.quantities:
            for j, t in enumerate(self.t):
                curves = {kind: self.curve(name, kind, t) for kind in self.kinds(name)}
                for p, value in enumerate(self.values):
                    cells = []
                    for kind in KINDS:
                        known = kind in curves and p < curves[kind].x.size
                        cells += ([float(curves[kind].y[p]), float(curves[kind].standard_errors[p])] if known
                                  else [np.nan, np.nan])
                    predicted = float(self.predicted[name][p, j]) if name in self.predicted else np.nan
                    rows.append((name, float(t), float(value), int(self.n_neurons[p]), float(self.step_sizes[p]),
                                 self.n_runs[p], *cells, predicted))
        return Table(columns, rows)

    def slopes(self, kinds: Sequence[str] = KINDS, **options) -> Table:
        """Return a table of the fitted exponents; those that noise does not let fit are left empty.

        Parameters
        ----------
        kinds : sequence of str
        options
            ``low``, ``high`` and ``level`` as in `slope`.
        """
        rows = []
        for name in self.quantities:
            for kind in [kind for kind in self.kinds(name) if kind in kinds]:
                for t in self.t:
                    try:
                        fit = self.slope(name, kind, float(t), **options)
                        rows.append((name, kind, float(t), fit.slope, fit.low, fit.high, fit.misfit))
                    except InvalidInput:
                        rows.append((name, kind, float(t), np.nan, np.nan, np.nan, np.nan))
        return Table(("quantity", "kind", "t", "slope", "low", "high", "misfit"), rows)

    def to_csv(self) -> str:
        """Return `table` as comma-separated values."""
        return self.table.csv()

    @property
    def dataset(self) -> xarray.Dataset:
        """All kinds of error over quantity, parameter and time as an xarray dataset (needs the extra ``io``).

        Raises
        ------
        InvalidInput
            If xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise InvalidInput("dataset needs xarray: pip install 'wgflow[io]'") from error

        shape = (len(self.quantities), self.values.size, self.t.size)
        found = {word: np.full(shape, np.nan) for kind in KINDS for word in (kind, f"{kind}_standard_error")}
        found["predicted_scatter"] = np.full(shape, np.nan)
        for i, name in enumerate(self.quantities):
            if name in self.predicted:
                found["predicted_scatter"][i] = self.predicted[name]
            for kind in self.kinds(name):
                for j, t in enumerate(self.t):
                    curve = self.curve(name, kind, t)
                    found[kind][i, : curve.x.size, j] = curve.y
                    found[f"{kind}_standard_error"][i, : curve.x.size, j] = curve.standard_errors
        dims = ("quantity", self.parameter, "t")
        coordinates = {"quantity": list(self.quantities), self.parameter: self.values, "t": self.t,
                       "runs": (self.parameter, list(self.n_runs)), "width": (self.parameter, self.n_neurons),
                       "step": (self.parameter, self.step_sizes)}
        return xarray.Dataset({name: (dims, values) for name, values in found.items()}, coords=coordinates,
                              attrs={"notes": " ".join(self.notes)})

    def plot(self, quantities: Sequence[str] | None = None, kind: str = "error") -> Figure:
        """Return a picture: a panel for each quantity, a line for each time (see `pictures.draw_errors`)."""
        from .drawing import draw_errors

        return draw_errors([(self, name, kind) for name in (quantities or self.quantities)])

    def _check(self, quantity: str) -> None:
        if quantity not in self.errors:
            raise InvalidInput(f"there is no quantity {quantity!r}; there are {', '.join(self.errors)}")

    def _time(self, t: float | None) -> int:
        if t is None:
            return self.t.size - 1
        j = int(np.abs(self.t - t).argmin())
        if abs(self.t[j] - t) > 1e-9 * max(float(self.t[-1]), 1e-300):
            raise InvalidInput(f"t={t:g} is not among the times {self.t.tolist()}")
        return j

    def _reduction(self, quantity: str, kind: str) -> Callable[[Array], Array]:
        if quantity not in self.signed:
            return lambda x: x.mean(axis=-1)
        if kind == "scatter":
            return lambda x: x.std(axis=-1, ddof=1)
        return lambda x: np.sqrt(np.mean(x * x, axis=-1))
