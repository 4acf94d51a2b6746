"""The PDE held against particles: every law and risk at every time, each against a band that is computed.

What the bands mean and how they are found is written at the head of :mod:`wgflow.validation.comparison.bands`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.errors import InvalidInput, InvalidType

from .atom_laws import AtomLaws, extent_of
from .bands import (
    DISTANCES,
    SCALARS,
    CoordinateStatistics,
    broadening,
    excess_factor,
    excess_variance,
    simultaneous_factor,
)
from .risk_response import AtomRiskResponse, RiskResponse

__all__ = ["Comparison", "compare"]

Array = NDArray[np.float64]
_EACH = (*DISTANCES, *SCALARS)  # the statistics of each coordinate, in this order
#: Noise of order epsilon spreads a narrow law by sqrt(epsilon): what twice the step adds to a width or a distance is
#: then sqrt(2) - 1 of what the step itself has added.
_WIDTH_SHARE = 1.0 / (math.sqrt(2.0) - 1.0)
_BLOCK = 2_000_000  # particles of the null law held in memory at once


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found. ``passed``, ``verdict`` and ``table()`` are for people, ``rows`` for programs.

    Attributes
    ----------
    t : array of shape (times,)
    quantities : tuple of str
        Such as ``"W2 of r"``, ``"mean of r"``, ``"risk"``.
    pde, particles : array of shape (quantities, times)
        The two values; NaN for distances, which have no two sides.
    difference : array of shape (quantities, times)
        Particles minus PDE, or the distance.
    lower, upper : array of shape (quantities, times)
        The band in which the difference may lie.
    inflation : array of shape (quantities, times)
        By how much the runs' own scatter widened the band that independent particles would have (1: not at all).
    level : float
        Probability with which a correct solution leaves any of the bands.
    first_order_bias : array of shape (quantities, times), or None
        By how much the bands were widened for the bias of SGD's step size and of finite width; None without coarser
        runs.
    n_runs, n_neurons, n_null : int
        Runs, particles per run, replicates of the null law.
    seed : int or sequence of int
        Entropy of the null law's random numbers.
    notes : tuple of str
        What was left out, and why.
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
    n_neurons: int
    n_null: int
    seed: Any
    notes: tuple[str, ...] = ()
    solution: Any = field(default=None, repr=False)
    sgd: Any = field(default=None, repr=False)
    first_order_bias: Array | None = field(default=None, repr=False)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether each difference lies in its band, shape (quantities, times)."""
        return (self.difference >= self.lower) & (self.difference <= self.upper)

    @property
    def passed(self) -> bool:
        """Whether every difference lies in its band."""
        return bool(self.inside.all())

    @property
    def share_of_band(self) -> Array:
        """How much of its band each difference takes: above 1 outside; 0 where the band has no width and holds it."""
        distance = np.isin([q.split(" of ")[0] for q in self.quantities], DISTANCES)[:, None]
        center = np.where(distance, 0.0, 0.5 * (self.lower + self.upper))
        half = np.where(distance, self.upper, 0.5 * (self.upper - self.lower))
        width = np.where(half > 0, half, 1.0)
        return np.where(half > 0, np.abs(self.difference - center) / width, np.where(self.inside, 0.0, np.inf))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each quantity and time."""
        inside = self.inside
        return [
            {"t": float(self.t[j]), "quantity": name, "pde": float(self.pde[i, j]),
             "particles": float(self.particles[i, j]), "difference": float(self.difference[i, j]),
             "lower": float(self.lower[i, j]), "upper": float(self.upper[i, j]), "inside": bool(inside[i, j])}
            for i, name in enumerate(self.quantities) for j in range(self.t.size)
        ]

    def table(self) -> str:
        """Plain text, one line for each quantity and time; a star marks what lies outside its band."""
        width = max(len(q) for q in self.quantities)
        lines = [f"{'quantity':<{width}}  {'t':>8}  {'PDE':>10}  {'particles':>10}  {'difference':>10}  {'band':^23}"]
        lines.append("-" * len(lines[0]))
        for row in self.rows:
            sides = [f"{row[k]:10.5g}" if math.isfinite(row[k]) else " " * 10 for k in ("pde", "particles")]
            band = f"[{row['lower']:10.3g},{row['upper']:10.3g}]{'' if row['inside'] else ' *'}"
            lines.append(f"{row['quantity']:<{width}}  {row['t']:8.4g}  {sides[0]}  {sides[1]}  "
                         f"{row['difference']:10.3g}  {band}")
        return "\n".join(line.rstrip() for line in lines)

    @property
    def verdict(self) -> str:
        """The result in plain words."""
        inside, total = self.inside, self.inside.size
        runs = f"{self.n_runs} run{'s' if self.n_runs > 1 else ''} of {self.n_neurons} particles"
        center, use = 0.5 * (self.lower + self.upper), self.share_of_band
        i, j = np.unravel_index(int(np.argmax(use)), use.shape)
        worst = f"{self.quantities[i]} at t = {self.t[j]:.4g}"
        if self.passed:
            text = (f"PASS: the solution agrees with {runs}. All {total} differences lie inside their bands, which a "
                    f"correct solution leaves with a probability of about {self.level:.2g} in all. "
                    f"Closest call: {worst}, at {100 * use[i, j]:.0f} % of its band.")
        else:
            first = int(np.argmax(~inside.all(axis=0)))
            end = self.upper[i, j] if self.difference[i, j] > center[i, j] else self.lower[i, j]
            text = (f"FAIL: the solution does not agree with {runs}. {int((~inside).sum())} of {total} differences lie "
                    f"outside bands that a correct solution leaves with a probability of about {self.level:.2g} in "
                    f"all, from t = {self.t[first]:.4g} on. Farthest out: {worst}, {self.difference[i, j]:.3g} where "
                    f"the band ends at {end:.3g}.")
        return " ".join([text, *self.notes])

    def marginal_in_bins(self, time: int, coordinate: int, edges: Array) -> Array:
        """The solution's law of a coordinate at one of the times as mean densities in bins, the way it was compared."""
        marginal = CoordinateStatistics(_source(self.solution, float(self.t[time])).marginals[coordinate], 1, 2)
        return np.diff(marginal.cdf(edges)) / np.diff(edges)

    def plot(self, path: Any = None) -> Any:
        """Histograms against densities and the two risk curves with the band; see wgflow.plotting.plot_comparison."""
        from wgflow.pictures.comparisons import plot_comparison

        return plot_comparison(self, path=path)

    def to_dataset(self) -> Any:
        """The same numbers as an ``xarray.Dataset`` over (quantity, time)."""
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
            "n_runs": self.n_runs, "n_neurons": self.n_neurons, "n_null": self.n_null,
            "seed": " ".join(str(s) for s in seed), "verdict": self.verdict})

    def __repr__(self) -> str:
        return (f"Comparison(passed={self.passed}, {self.inside.sum()} of {self.inside.size} inside, "
                f"level={self.level:g})")


def compare(sol: Any, sgd: Any, *, coarse: Any = None, model: Any = None, level: float = 0.01, n_null: int = 400,
            rng: Any = 20011) -> Comparison:
    r"""Compare a Solution with independent particle runs, law by law.

    At every time of ``sgd.t`` and for every reduced coordinate: W_1, W_2 and the Kolmogorov distance between the law of
    all particles and the marginal of the density, and the differences of mean and deviation; then the risk

        R(rho) = E y^2 + 2 int V rho + int int U rho rho

    against the mean risk of the networks. The bands hold *simultaneously*: a correct solution leaves any
    of them with probability about ``level``. See :mod:`wgflow.validation.comparison.bands` for the formulas.

    Parameters
    ----------
    sol : Solution
        Its times must contain those of ``sgd``, up to half an SGD step (``solve(..., t_eval=sgd.t)``). Of densities or
        of atoms: :mod:`wgflow.validation.comparison.atom_laws` says which law atoms are taken for.
    sgd : SGDResult
        Or any object with ``t`` of shape (times,), ``coordinates`` of shape (runs, times, N, coords) and, for the risk,
        ``risk`` of shape (runs, times) and ``model``. Three runs make a fair comparison, ten a sharp one.
    coarse : SGDResult, optional
        Runs at the same times of half as many neurons with twice the step size. N neurons with step epsilon are off the
        flow by b epsilon + c/N on average, beside their scatter, and to first order this is the difference between the
        two kinds of runs: by its amount the bands are widened (``first_order_bias``).
    model : optional
        The network model, ``sgd.model`` by default; without one the risk is left out.
    level : float, optional
        Probability of a false alarm, 0.01 by default.
    n_null : int, optional
        Replicates that the null law is simulated with; at least 2 / level, better 10 / level.
    rng : None, int, SeedSequence or Generator, optional
        As in :func:`numpy.random.default_rng`; its entropy is stored in the result.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidInput
        If the times do not match, the numbers of coordinates differ, or a particle is not finite.
    """
    if not 0.0 < level < 0.5:
        raise InvalidInput(f"level must lie in (0, 0.5), got {level!r}: it is the probability of a false alarm")
    if isinstance(n_null, bool) or int(n_null) != n_null or n_null < 2 / level:
        raise InvalidInput(f"n_null must be an integer >= 2 / level = {2 / level:.0f}, got {n_null!r}")
    t, x = _particles(sol, sgd)
    model = getattr(sgd, "model", None) if model is None else model
    generator = np.random.default_rng(rng)
    seed = getattr(generator.bit_generator.seed_seq, "entropy", None)
    columns = [_at_one_time(_source(sol, s), x[:, j], model, int(n_null), generator) for j, s in enumerate(t)]
    risk, notes = _risk(sol, sgd, model, t)
    names = _names(sol, model, x.shape[-1])
    quantities = [f"{what} of {name}" for name in names for what in _EACH]
    if risk is not None:
        quantities.append("risk")
        for column, value, spread in zip(columns, risk["difference"], risk["spread"]):
            column["observed"].append((value, spread))
    notes += _atoms_note(sol.density(t[0]), _is_noisy(sol))
    if len(x) == 1:
        notes.append("One run shows no scatter: the noise of SGD is not in the bands.")
    lower, upper, widening = _bands(columns, quantities, len(x), level)
    difference = np.array([[fit for fit, _ in column["observed"]] for column in columns]).T
    pde = np.full(upper.shape, np.nan)
    for k in range(len(names)):
        for i, what in enumerate(SCALARS):
            pde[len(_EACH) * k + len(DISTANCES) + i] = [c["truth"][k][what] for c in columns]
    if risk is not None:
        pde[-1] = risk["pde"]
        upper[-1] += risk["excess"] * excess_factor(len(x), int(getattr(model, "n_parameters", 1)), level)
    bias = None
    if coarse is not None:
        share = np.array([1.0 if q == "risk" or q.startswith("mean of ") else _WIDTH_SHARE for q in quantities])
        bias = share[:, None] * np.abs(_coarse_differences(sol, sgd, coarse, model, t) - difference)
        upper = upper + bias
        lower = np.where(np.array([q.split(" of ")[0] in DISTANCES for q in quantities])[:, None], lower, lower - bias)
        notes.append("The bands hold the bias of first order in step size and 1/N, measured by coarser runs.")
    return Comparison(t, tuple(quantities), pde, pde + difference, difference, lower, upper, inflation=widening,
                      level=level, n_runs=len(x), n_neurons=x.shape[2], n_null=int(n_null), seed=seed,
                      notes=tuple(notes), solution=sol, sgd=sgd, first_order_bias=bias)


def _coarse_differences(sol: Any, sgd: Any, coarse: Any, model: Any, t: Array) -> Array:
    """What `compare` calls differences, (quantities, times), for runs checked to be coarser by a factor of two."""
    times, x = _particles(sol, coarse)
    if not np.array_equal(times, t):
        raise InvalidInput("coarse must have the output times of sgd")
    steps = [float(getattr(runs, "step_size", 0.0)) for runs in (sgd, coarse)]
    if not math.isclose(steps[1], 2.0 * steps[0], rel_tol=1e-9):
        raise InvalidInput(f"coarse.step_size={steps[1]:g} must be twice sgd.step_size={steps[0]:g}")
    width = np.shape(sgd.coordinates)[2]
    if width != 2 * x.shape[2]:
        raise InvalidInput(f"coarse has {x.shape[2]} neurons, sgd {width}: it must have half as many")
    rows = [[fit for fit, _ in _observe(_marginal_laws(_source(sol, s), len(x), x.shape[2]), x[:, j])]
            for j, s in enumerate(t)]
    risk, _ = _risk(sol, coarse, model, t)
    if risk is not None:
        for row, value in zip(rows, risk["difference"]):
            row.append(value)
    return np.array(rows).T


def _bands(columns: list[dict[str, Any]], quantities: list[str], n_runs: int, level: float) -> tuple[Array, ...]:
    """Lower and upper ends and the widening by scatter, each (quantities, times): parts 1 to 4 of bands.py."""
    count = len(quantities)
    observed = np.array([[spread for _, spread in column["observed"]] for column in columns])
    null_mean, null_std, null_spread, standardized = (
        np.stack([c[key][..., :count] for c in columns]) for key in ("mean", "std", "spread", "standardized"))
    factor = simultaneous_factor(np.concatenate(list(standardized), axis=1), level)
    is_distance = np.array([q.split(" of ")[0] in DISTANCES for q in quantities])[:, None]
    mean, std = np.where(is_distance, null_mean.T, 0.0), null_std.T
    added = np.stack([excess_variance(observed[:, q], null_spread[:, q], n_runs, level) for q in range(count)])
    independent = mean + factor * std
    scattered = np.sqrt(independent**2 + factor**2 * (mean**2 + std**2) * added)
    deviation = np.array([[truth["deviation"] for truth in c["truth"]] for c in columns]).T
    wider = np.stack([broadening(name.split(" of ")[0], observed[:, q], null_spread[:, q],
                                 deviation[min(q // len(_EACH), len(deviation) - 1)])
                      for q, name in enumerate(quantities)])
    upper = scattered + wider + np.array([c["resolution"][:count] for c in columns]).T
    shares = np.array([q.startswith("Kolmogorov") for q in quantities])[:, None]
    upper = np.where(shares, np.minimum(upper, 1.0), upper)  # no Kolmogorov distance is larger
    return np.where(is_distance, 0.0, -upper), upper, scattered / np.where(independent > 0, independent, 1.0)


def _particles(sol: Any, sgd: Any) -> tuple[Array, Array]:
    """Times and coordinates (runs, times, N, coords) of the particles, checked against the solution."""
    for name in ("t", "coordinates"):
        if not hasattr(sgd, name):
            raise InvalidType(f"sgd has no attribute {name!r}: need an SGDResult, got {type(sgd).__name__}")
    t, x = np.atleast_1d(np.asarray(sgd.t, dtype=float)), np.asarray(sgd.coordinates, dtype=float)
    rho = sol.density(sol.t[0])
    ndim = rho.ndim if isinstance(rho, Atoms) else rho.grid.ndim
    if x.ndim != 4 or x.shape[1] != t.size or x.shape[3] != ndim or x.shape[2] < 2:
        raise InvalidInput(f"sgd.coordinates has shape {x.shape}: need (runs, {t.size} times, particles >= 2, {ndim} "
                           "coordinates)")
    if not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise InvalidInput(f"sgd.coordinates{list(where)} is not finite: the run blew up, use a smaller step_size")
    span = max(float(np.ptp(sol.t)), 1e-300)
    known = np.asarray(sol.t, dtype=float)
    nearest = known[np.abs(known[:, None] - t).argmin(axis=0)]
    # SGD's output times are whole numbers of steps: half a step is its own resolution of time.
    missing = np.abs(nearest - t) > max(1e-9 * span, 0.51 * float(getattr(sgd, "step_size", 0.0)))
    if missing.any():
        raise InvalidInput(f"sgd.t holds {t[missing][0]:g}, which is not among sol.t: solve(..., t_eval=sgd.t)")
    return nearest, x


def _names(sol: Any, model: Any, n_coords: int) -> list[str]:
    rho = sol.density(sol.t[0])
    names = getattr(model, "coordinate_names", None)
    names = names or getattr(rho if isinstance(rho, Atoms) else rho.grid, "names", None)
    names = list(names) if names is not None else [f"x{k}" for k in range(n_coords)]
    if len(names) != n_coords:
        raise InvalidInput(f"the particles have {n_coords} coordinates, the names are {names}")
    return [str(name) for name in names]


class _DensityLaws:
    """The marginals of a density on a grid, and samples of it."""

    def __init__(self, rho: Any):
        self.rho = rho
        self.marginals = [rho] if rho.grid.ndim == 1 else [rho.marginal(k) for k in range(rho.grid.ndim)]

    def sample(self, count: int, rng: np.random.Generator) -> tuple[Array, None]:
        """Points (count, coords); they belong to no atoms."""
        return np.asarray(self.rho.sample(count, rng)).reshape(count, -1), None


def _source(sol: Any, t: float) -> Any:
    """The laws of a solution at a time."""
    rho = sol.density(t)
    return AtomLaws(rho, _is_noisy(sol), extent_of(sol.densities[0])) if isinstance(rho, Atoms) else _DensityLaws(rho)


def _is_noisy(sol: Any) -> bool:
    return bool(getattr(getattr(sol, "certificate", None), "noisy", False))


def _atoms_note(rho: Any, noisy: bool) -> list[str]:
    """What the reader must know of atoms."""
    if not isinstance(rho, Atoms):
        return []
    if noisy:
        return [f"The solution is itself a sample, of {rho.size} particles: its own error is in the bands."]
    if rho.ndim == 1:
        return [f"Distances refer to the quantile function interpolated between {rho.size} atoms."]
    return [f"Distances refer to marginals smoothed from {rho.size} atoms, and have wide bands; means, deviations and "
            "risk are sharp."]


def _marginal_laws(source: Any, runs: int, count: int) -> list[CoordinateStatistics]:
    return [CoordinateStatistics(marginal, runs, count) for marginal in source.marginals]


def _observe(laws: list[CoordinateStatistics], x: Array) -> list[tuple[float, float]]:
    """Value and spread of each statistic of the runs x, shape (runs, N, coords)."""
    return [(abs(float(f[0])) if name in DISTANCES else float(f[0]), float(s[0]))
            for k, law in enumerate(laws) for name, (f, s) in law(x[None, :, :, k]).items()]


def _at_one_time(source: Any, x: Array, model: Any, n_null: int, rng: np.random.Generator) -> dict[str, Any]:
    """Statistics of the runs and of the null law at one time; x has shape (runs, N, coords)."""
    runs, count, n_coords = x.shape
    laws = _marginal_laws(source, runs, count)
    observed = _observe(laws, x)
    force = None
    if model is not None:
        force = AtomRiskResponse(model, source) if isinstance(source, AtomLaws) else RiskResponse(model, source.rho)
    fits, spreads = [], []
    block = max(1, _BLOCK // (runs * count))
    for start in range(0, n_null, block):
        sets = min(block, n_null - start)
        points, atoms = source.sample(sets * runs * count, rng)
        draws = points.reshape(sets, runs, count, n_coords)
        parts = [pair for k, law in enumerate(laws) for pair in law(draws[..., k]).values()]
        if force is not None:
            value = force(draws if atoms is None else atoms.reshape(sets, runs, count))
            spread = value.var(axis=1, ddof=1) if runs > 1 else np.zeros(sets)
            parts.append((value.mean(axis=1), spread))
        fits.append(np.stack([fit for fit, _ in parts], axis=1))
        spreads.append(np.stack([spread for _, spread in parts], axis=1))
    fit, spread = np.concatenate(fits), np.concatenate(spreads)
    mean, std = fit.mean(axis=0), fit.std(axis=0)
    scalar = np.array([name in SCALARS for _ in laws for name in _EACH] + [True] * (force is not None))
    standardized = (fit - mean) / np.where(std > 0, std, 1.0)
    standardized = np.where(scalar, np.abs(standardized), standardized)
    resolution = [law.resolution[name] for law in laws for name in _EACH]
    return {"observed": observed, "mean": mean, "std": std, "spread": spread.mean(axis=0),
            "standardized": standardized, "resolution": resolution + ([force.resolution] if force else []),
            "truth": [{"mean": law.mean, "deviation": law.deviation} for law in laws]}


def _risk(sol: Any, sgd: Any, model: Any, t: Array) -> tuple[dict[str, Array] | None, list[str]]:
    """The two risks at all times, and what independent neurons would add to the network's (K/N)."""
    if model is None or getattr(sgd, "risk", None) is None:
        return None, ["The risk was not compared: no model was given."] if model is None else []
    networks = np.asarray(sgd.risk, dtype=float)
    if networks.shape != np.shape(sgd.coordinates)[:2] or not np.isfinite(networks).all():
        raise InvalidInput(f"sgd.risk has shape {networks.shape}: need finite numbers of shape (runs, times)")
    pde = np.array([float(model.risk(sol.density(s))) for s in t])
    notes, excess = [], np.zeros(t.size)
    if hasattr(model, "finite_width_excess"):
        count = np.shape(sgd.coordinates)[2]
        excess = np.array([max(float(model.finite_width_excess(sol.density(s))), 0.0) for s in t]) / count
    else:
        notes.append("The model states no finite_width_excess: the risk's band has no K/N part.")
    spread = networks.var(axis=0, ddof=1) if len(networks) > 1 else np.zeros(t.size)
    return {"pde": pde, "difference": networks.mean(axis=0) - pde, "spread": spread, "excess": excess}, notes
