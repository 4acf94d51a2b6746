"""The result of a comparison of a solution with particles: numbers, bands, a table, a picture and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from wgflow.checks import check_real
from wgflow.errors import InvalidInput
from wgflow.solution import Solution

from .null_law import laws_at
from .particle_runs import ParticleRuns

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Row"]

Array = NDArray[np.float64]
#: Times that differ by less than this share of the last one are the same.
_SAME_TIME = 1e-9
#: From so many runs on, what they show of the noise that they share is worth its price (docs/comparison.md).
FEW_RUNS = 5


class Row(TypedDict):
    """One quantity at one time."""

    t: float
    quantity: str
    pde: float
    particles: float
    difference: float
    lower: float
    upper: float
    inside: bool


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`. ``passed``, ``verdict`` and ``table()`` are for people, ``rows`` for programs.

    Attributes
    ----------
    t : array of shape (times,)
    quantities : tuple of str
        Such as ``"W2 of r"``, ``"mean of r"``, ``"risk"``; `row` finds the numbers of one.
    pde, particles : array of shape (quantities, times)
        The two values; NaN for distances, which are a single number, and where a statistic does not give them.
    difference : array of shape (quantities, times)
        Particles minus PDE, or the distance.
    lower, upper : array of shape (quantities, times)
        The band in which the difference may lie.
    inflation : array of shape (quantities, times)
        By which factor the scatter of the runs, predicted or observed, changed the band that independent particles
        would have (1: not at all).
    level : float
        Probability with which a correct solution leaves any of the bands.
    p_value : float
        The least level at which the comparison would have failed, of all quantities and times together; it fails where
        ``p_value <= level``. Found from the replicates of the null law, so at least 1 / (n_null + 1).
    scatter : str
        Where the null law has its scatter from: ``"predicted"``, ``"observed"`` or ``"bootstrap"``.
    axes : tuple of int, or None
        Which coordinates of the solution those of ``coordinate_names`` are; None if all were compared.
    n_runs, n_particles, n_null : int
        Runs, particles per run, replicates of the null law.
    seed : int or sequence of int
        Entropy of the null law's random numbers.
    is_distance : array of bool, shape (quantities,)
        Whether the difference is a distance, whose band begins at 0.
    coordinate_names : tuple of str
    solution : Solution
    runs : ParticleRuns
        The particles: ``runs.t``, ``runs.coordinates`` of shape (runs, times, n, coordinates), ``runs.risk``.
    notes : tuple of str
        What was left out, and why.
    first_order_bias : array of shape (quantities, times), or None
        By how much the bands were widened for the bias of SGD's step size and of finite width; None without coarser
        runs.
    mute : array of bool, shape (quantities, times)
        Where a distance could not fail: its band reaches the largest value that it can have. Such quantities are left
        out of the table where that holds at all times, and named in the notes.
    """

    t: Array
    quantities: tuple[str, ...]
    pde: Array
    particles: Array
    difference: Array
    lower: Array
    upper: Array
    inflation: Array
    level: float
    n_runs: int
    n_particles: int
    n_null: int
    seed: int | Sequence[int] | None
    is_distance: NDArray[np.bool_]
    coordinate_names: tuple[str, ...]
    solution: Solution = field(repr=False)
    runs: ParticleRuns = field(repr=False)
    notes: tuple[str, ...] = ()
    first_order_bias: Array | None = field(default=None, repr=False)
    mute: NDArray[np.bool_] | None = field(default=None, repr=False)
    p_value: float = math.nan
    scatter: str = "observed"
    axes: tuple[int, ...] | None = None

    @property
    def sgd(self) -> Any:
        """The particles as they were given to `compare`, such as an `SGDResult`."""
        return self.runs.source

    @property
    def n_neurons(self) -> int:
        """Particles per run, which are neurons under SGD; the same as ``n_particles``."""
        return self.n_particles

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether each difference lies in its band, shape (quantities, times)."""
        return (self.difference >= self.lower) & (self.difference <= self.upper)

    @property
    def passed(self) -> bool:
        """Whether every difference lies in its band, and the box of the solution does not cut its law off.

        A box that cuts, and particles that are held in the same box, may agree on what the equation does not say: the
        check "boundary" of the solution's certificate must hold.
        """
        return bool(self.inside.all()) and self._boundary[0] is True

    @property
    def _boundary(self) -> tuple[bool | None, str]:
        """The check "boundary" of the solution's certificate; it holds where no end stands for infinity."""
        certificate = getattr(self.solution, "certificate", None)
        return (True, "") if certificate is None else certificate.checks().get("boundary", (True, ""))

    @property
    def share_of_band(self) -> Array:
        """How much of its band each difference takes: above 1 outside; 0 inside a band without width."""
        distance = self.is_distance[:, None]
        center = np.where(distance, 0.0, 0.5 * (self.lower + self.upper))
        half = np.where(distance, self.upper, 0.5 * (self.upper - self.lower))
        width = np.where(half > 0, half, 1.0)
        share = np.where(half > 0, np.abs(self.difference - center) / width, np.where(self.inside, 0.0, np.inf))
        return share if self.mute is None else np.where(self.mute, 0.0, share)

    @property
    def rows(self) -> list[Row]:
        """One dictionary for each quantity and time."""
        return [self._row(i, j) for i in range(len(self.quantities)) for j in range(self.t.size)]

    def row(self, quantity: str, t: float | None = None) -> Row:
        """Return the dictionary of one quantity at one time, as in ``result.row("W2 of r", t=0.4)["difference"]``.

        The time may be left out if there is only one. Arrays over all times are
        ``result.difference[result.quantities.index(quantity)]`` and the like.

        Raises
        ------
        InvalidInput
            If there is no such quantity, or nothing was compared at this time; the message lists what there is.
        """
        if quantity not in self.quantities:
            raise InvalidInput(f"quantity={quantity!r} was not compared; there are {', '.join(self.quantities)}")
        if t is None and self.t.size > 1:
            raise InvalidInput(f"t: say at which time; there are {', '.join(f'{s:g}' for s in self.t)}")
        t = float(self.t[0]) if t is None else check_real("t", t)
        gap = np.abs(self.t - t)
        j = int(gap.argmin())
        if gap[j] > max(_SAME_TIME * float(np.abs(self.t).max()), 0.51 * self.runs.step_size):
            raise InvalidInput(f"t={t:g} was not compared; there are {', '.join(f'{s:g}' for s in self.t)}")
        return self._row(self.quantities.index(quantity), j)

    def _row(self, i: int, j: int) -> Row:
        low, value, high = float(self.lower[i, j]), float(self.difference[i, j]), float(self.upper[i, j])
        return {"t": float(self.t[j]), "quantity": self.quantities[i], "pde": float(self.pde[i, j]),
                "particles": float(self.particles[i, j]), "difference": value, "lower": low, "upper": high,
                "inside": low <= value <= high}

    def table(self) -> str:
        """Return plain text, one line for each quantity and time; a star marks what lies outside its band."""
        width = max(len(q) for q in self.quantities)
        lines = [f"{'quantity':<{width}}  {'t':>8}  {'PDE':>10}  {'particles':>10}  {'difference':>10}  {'band':^23}"]
        lines.append("-" * len(lines[0]))
        for row in self.rows:
            sides = [f"{value:10.5g}" if math.isfinite(value) else " " * 10 for value in (row["pde"], row["particles"])]
            band = f"[{row['lower']:10.3g},{row['upper']:10.3g}]{'' if row['inside'] else ' *'}"
            lines.append(f"{row['quantity']:<{width}}  {row['t']:8.4g}  {sides[0]}  {sides[1]}  "
                         f"{row['difference']:10.3g}  {band}")
        return "\n".join([*(line.rstrip() for line in lines), *self._own_error()])

    def _own_error(self) -> list[str]:
        """Return what the solution states of its own error, if it has been asked for it."""
        error = getattr(self.solution, "error", None)
        return [] if error is None else [f"The solution's {error.summary}."]

    @property
    def few_runs(self) -> bool:
        """Whether the scatter is learned from 2 to 4 runs, so that bands are wide and a pass says little."""
        return self.scatter != "predicted" and 1 < self.n_runs < FEW_RUNS

    @property
    def verdict(self) -> str:
        """The result in plain words."""
        inside, total = self.inside, self.inside.size
        runs = f"{self.n_runs} run{'s' if self.n_runs > 1 else ''} of {self.n_particles} particles"
        center, use = 0.5 * (self.lower + self.upper), self.share_of_band
        i, j = np.unravel_index(int(np.argmax(use)), use.shape)
        worst = f"{self.quantities[i]} at t = {self.t[j]:.4g}"
        if self.passed:
            weight = ", of little weight" if self.few_runs else ""
            text = (f"PASS{weight}: the solution agrees with {runs}. All {total} differences lie inside their bands, "
                    f"which a correct solution leaves with a probability of about {self.level:.2g} in all. "
                    f"Closest call: {worst}, at {100 * use[i, j]:.0f} % of its band.")
            if self.few_runs:
                text += (f" {self.n_runs} runs judge little: noise that particles share may hide in so few, and the "
                         f"bands allow for it. {FEW_RUNS} runs or more have much narrower bands.")
        elif inside.all():
            answer, words = self._boundary
            text = (f"{'FAIL' if answer is False else 'NOT JUDGED'}: all {total} differences to {runs} lie inside "
                    f"their bands, but {words}.")
        else:
            first = int(np.argmax(~inside.all(axis=0)))
            end = self.upper[i, j] if self.difference[i, j] > center[i, j] else self.lower[i, j]
            text = (f"FAIL: the solution does not agree with {runs}. {int((~inside).sum())} of {total} differences lie "
                    f"outside bands that a correct solution leaves with a probability of about {self.level:.2g} in "
                    f"all, from t = {self.t[first]:.4g} on. Farthest out: {worst}, {self.difference[i, j]:.3g} where "
                    f"the band ends at {end:.3g}. {self._advice(float(self.t[first]))}")
        return " ".join([text, *self.notes, *self._own_error()])

    def _advice(self, first: float) -> str:
        """What to try before the solution is blamed for differences from a time on."""
        if first == float(self.solution.t[0]):
            given = "give the particles the kappa= (or theta0=) of the solution's initial law" \
                if self.runs.model is not None else "give both the same initial law"
            return f"They differ at the start already: {given}."
        return "Before the solution is blamed, halve the step of the particles: long steps move their law, too."

    def marginal_in_bins(self, time: int, coordinate: int, edges: Array) -> Array:
        """Return the solution's law of a coordinate at one of the times as mean densities in bins, as it was compared.

        Parameters
        ----------
        time, coordinate : int
            Indices into ``t`` and ``coordinate_names``.
        edges : array of shape (bins + 1,)
        """
        law = laws_at(self.solution, float(self.t[time]), self.axes).marginals[coordinate]
        return np.diff(law.cdf(edges)) / np.diff(edges)

    def _repr_html_(self) -> str:
        from wgflow.pictures.html import comparison_html

        return comparison_html(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return a picture (written to ``path`` if given): histograms against densities, risks, shares of the bands."""
        from wgflow.pictures.comparisons import plot_comparison

        return plot_comparison(self, path=path)

    def to_dataset(self) -> xr.Dataset:
        """Return the same numbers as an ``xarray.Dataset`` over (quantity, time)."""
        import xarray as xr

        names = {"pde": "value of the PDE's density", "particles": "mean over the runs",
                 "difference": "particles minus PDE, or distance", "lower": "lower end of the band",
                 "upper": "upper end of the band", "inflation": "widening of the band by the runs' scatter",
                 "inside": "difference lies inside its band"}
        data = {key: (("quantity", "time"), getattr(self, key), {"long_name": text, "units": "1"})
                for key, text in names.items()}
        seed = np.atleast_1d(np.asarray(self.seed, dtype=object))
        return xr.Dataset(data, coords={"quantity": list(self.quantities), "time": self.t}, attrs={
            "title": "Wasserstein gradient flow against particles", "passed": int(self.passed), "level": self.level,
            "n_runs": self.n_runs, "n_particles": self.n_particles, "n_neurons": self.n_neurons, "n_null": self.n_null,
            "seed": " ".join(str(s) for s in seed), "verdict": self.verdict})

    def __repr__(self) -> str:
        return (f"Comparison(passed={self.passed}, {self.inside.sum()} of {self.inside.size} inside, "
                f"level={self.level:g})")
