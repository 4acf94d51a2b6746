r"""Both sides of a flow's equation in weak form, from weighted points and the user's functions.

With the test functions :math:`\varphi_k` and the diffusion D = 1 / beta of an entropy relative to the measure
:math:`\prod_a x_a^{p_a}\,dx`,

.. math:: M_k = \sum_i w_i\,\varphi_k(x_i), \qquad
          R_k = - \sum_i w_i\,\nabla\varphi_k \cdot \nabla V (x_i)
                - \sum_{ij} w_i w_j\,\nabla\varphi_k(x_i) \cdot \nabla_1 U(x_i, x_j)
                + D \sum_i w_i \sum_a \bigl(\partial_a^2 + \tfrac{p_a}{x_a}\,\partial_a\bigr) \varphi_k(x_i).

Without noise :math:`dM_k / dt = s(t)\,R_k`: also where atoms meet and go on as one, since their momentum is kept, and
where they rest on a bound, at which test functions have no slope. With noise :math:`M_k - \int s R_k\,dt` is a
martingale, whose variance is :math:`\int 2 s D \sum_i w_i^2 |\nabla\varphi_k|^2 dt`.

Forces are central differences of the user's V and U, at a kink the mean of its two sides. Of many pairs some are drawn,
i and j independently by their weights; what that leaves open is measured by the spread of what they give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from wgflow.atoms import Atoms
from wgflow.audit.modes import Modes
from wgflow.audit.pairs import form_on_points, gradients
from wgflow.audit.weak_form import flat
from wgflow.compiled.lowrank import combine_rows, rows_dot
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.mobility import Mobility
from wgflow.energies.moment_energy import MomentEnergy
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.gradients import box_of, values_at
from wgflow.interactions.named_kernels import Kernel
from wgflow.interactions.periodic_kernels import periodic_kernel
from wgflow.interactions.terms import Convolution, Dense, LowRank, PairTerm

__all__ = ["AtomForm", "AtomSides", "modes_of_atoms"]

Array = NDArray[np.float64]
Force = Callable[[Array], Array]
#: Wave numbers on an axis without ends, in units of 1 over the width of the laws: up to two coordinates, and more.
WAVES = {1: (0.5, 1.0, 2.0), 2: (0.5, 1.5)}
FEW_WAVES = (0.7,)
#: Modes that vary along two axes, at most.
MOST_MIXED = 3
#: Atoms up to which all pairs are formed, and pairs that are drawn where there are more.
ALL_PAIRS, DRAWN_PAIRS = 128, 8192
#: Atoms that are looked at together.
BLOCK = 4096
#: Atoms, or pairs, at which the steepness of forces is measured.
LOOKED = 512
#: Seed of the pairs that are drawn.
SEED = 52361
#: Atoms within this part of the width of a box are at its walls, and so many of them are few.
NEAR_WALL, FEW_AT_WALLS = 0.02, 1e-3

class Forces(NamedTuple):
    """The forces of some terms: functions of points for single atoms, and interactions of pairs, with factors."""

    drift: list[tuple[float, Force]]
    summed: list[tuple[float, Force]]
    pairs: list[tuple[float, PairTerm]]


class AtomSides(NamedTuple):
    """The sides of the equation at one time, each an array of K numbers.

    Attributes
    ----------
    moments, drift, interaction, diffusion
        M, and the three parts of R.
    spread
        The rate of the variance of the martingale.
    variance
        The variance of R by the drawing of pairs.
    """

    moments: Array
    drift: Array
    interaction: Array
    diffusion: Array
    spread: Array
    variance: Array


def modes_of_atoms(rho: Atoms, laws: Sequence[Array]) -> Modes:
    """Return test functions for laws of the atoms at several places, each (n_coordinates, n).

    On an axis without ends they are waves about the mean of all laws, on one with an end cosines from there; both have
    the lengths of the laws. Between two ends, and on circles, they are those of the box.
    """
    rows: list[tuple[dict[int, float], dict[int, float]]] = []
    low, first = np.zeros(rho.ndim), []
    chosen = WAVES.get(rho.ndim, FEW_WAVES)
    for axis, ((lo, hi), turns) in enumerate(zip(rho.bounds, rho.periodic)):
        mean, width = _mean_and_width(rho, [law[axis] for law in laws])
        phases: tuple[float, ...] = (0.0, -0.5 * math.pi)
        if math.isfinite(lo) and math.isfinite(hi):
            unit = (2.0 if turns else 1.0) * math.pi / (hi - lo)
            waves = [k * unit for k in sorted({1, 2, min(50, max(1, round(1.0 / (unit * width))))})]
            low[axis], phases = lo, phases if turns else (0.0,)
        else:
            waves = [k / width for k in chosen]
            low[axis] = lo if math.isfinite(lo) else hi if math.isfinite(hi) else mean
            phases = phases if math.isinf(lo) and math.isinf(hi) else (0.0,)
        first.append(waves[0])
        rows += [({axis: wave}, {axis: phase}) for wave in waves for phase in phases]
    mixed = [(a, b) for b in range(rho.ndim) for a in range(b)][:MOST_MIXED]
    rows += [({a: first[a], b: first[b]}, {}) for a, b in mixed]
    waves_of, phases_of = np.zeros((2, len(rows), rho.ndim))
    for row, (wave, phase) in enumerate(rows):
        for axis, value in wave.items():
            waves_of[row, axis] = value
        for axis, value in phase.items():
            phases_of[row, axis] = value
    return Modes(waves_of, phases_of, low)


def _mean_and_width(rho: Atoms, lines: list[Array]) -> tuple[float, float]:
    """Return the mean along one axis of all laws, and the largest root mean square distance from it of one law."""
    share = rho.weights / rho.mass
    mean = float(np.mean([share @ line for line in lines]))
    width = math.sqrt(max(float(share @ (line - mean) ** 2) for line in lines))
    return mean, width if width > 0.0 else 1.0


class AtomForm:
    """The equation of an energy for atoms, in weak form.

    Parameters
    ----------
    energy : FreeEnergy
    rho : Atoms
        Weights, bounds, powers and periods.
    modes : Modes
        Test functions.
    mobility : Mobility, optional
        A(x).
    """

    def __init__(self, energy: FreeEnergy, rho: Atoms, modes: Modes, mobility: Mobility | None = None):
        self.energy, self.rho, self.modes, self.mobility = energy, rho, modes, mobility
        self.count, self.mass = len(modes.waves), rho.mass
        self.box, self.periods = box_of(rho)
        terms = flat(energy)
        self.diffusion = sum(factor * term.diffusion for factor, term in terms)
        self.still = [(f, t) for f, t in terms if not (t.is_internal or t.time_dependent)]
        self.changing = [(f, t) for f, t in terms if t.time_dependent]
        # Differences are taken over a part of this length along each axis.
        self.scales = [1.0 / float(modes.waves[:, axis].max()) for axis in range(rho.ndim)]
        self.levels = np.cumsum(rho.weights) / rho.weights.sum()

    def sides(self, points: Array, draw: int) -> AtomSides:
        """Return the sides for atoms at points (n_coordinates, n), without the terms that change with time.

        Parameters
        ----------
        points : array
        draw : int
            The number of the draw of pairs: each has its own.
        """
        forces = self._forces(points, self.still)
        moments, drift, interaction, diffusion, spread = np.zeros((5, self.count))
        for block in self._blocks():
            x, w = points[:, block], self.rho.weights[block]
            values, slopes = self._waves(x)
            flat_slopes, slopes = slopes, self._mobile(x, slopes)
            moments += rows_dot(values, w)
            drift -= _along(slopes, forces.drift, x, w)
            interaction -= _along(slopes, forces.summed, x, w)
            if self.diffusion and self.mobility is not None:
                bent = self._mobile_bend(x, self.mobility, flat_slopes)
                diffusion += self.diffusion * rows_dot(bent, w)
                spread += 2.0 * self.diffusion * rows_dot((flat_slopes * slopes).sum(axis=0), w**2)
            elif self.diffusion:
                bent = -self.modes.bend[:, None] * values
                for axis, power in enumerate(self.rho.powers):
                    if power:
                        bent += power / np.maximum(x[axis], 1e-9 * self.scales[axis]) * slopes[axis]
                diffusion += self.diffusion * rows_dot(bent, w)
                spread += 2.0 * self.diffusion * rows_dot((slopes**2).sum(axis=0), w**2)
        part, variance = self._pairs(points, forces.pairs, draw)
        return AtomSides(moments, drift, interaction - part, diffusion, spread, variance)

    def changing_rates(self, points: Array, t: float, draw: int) -> tuple[Array, Array, Array]:
        """Return drift, interaction and the variance of R of the terms that change with time, at a time."""
        forces = self._forces(points, flat(FreeEnergy(self.changing).at(t)))
        drift, interaction = np.zeros((2, self.count))
        if forces.drift or forces.summed:
            for block in self._blocks():
                x, w = points[:, block], self.rho.weights[block]
                slopes = self._mobile(x, self._waves(x)[1])
                drift -= _along(slopes, forces.drift, x, w)
                interaction -= _along(slopes, forces.summed, x, w)
        part, variance = self._pairs(points, forces.pairs, draw)
        return drift, interaction - part, variance

    def _forces(self, points: Array, terms: list[tuple[float, Term]]) -> Forces:
        """Return the forces of some terms on atoms at points."""
        found = Forces([], [], [])
        for factor, term in terms:
            form = form_on_points(term, self.rho.ndim) if isinstance(term, PairTerm) else None
            if isinstance(term, Potential):
                found.drift.append((factor, partial(self._force, term.V)))
            elif isinstance(form, LowRank):
                found.summed.append((factor, self._ranked(form, points)))
            elif isinstance(term, MomentEnergy):
                found.summed.append((factor, self._of_moments(term, points)))
            elif isinstance(form, (Convolution, Dense)):
                found.pairs.append((factor, form))
            elif isinstance(term, PairTerm):
                raise InvalidInput(f"{term!r} is not known at points")
            else:
                found.summed.append((factor, partial(term.gradient, self.rho.moved(points))))
        return found

    def steepness(self, points: Array, terms: list[tuple[float, Term]]) -> tuple[float, float]:
        """Return how strong the force is, and how fast it changes with the point: at most; of pairs on average."""
        steps = 1e-2 * np.array(self.scales)[:, None]
        low, high = (np.array(ends)[:, None] for ends in zip(*self.box))
        few = np.clip(points[:, :: max(1, points.shape[1] // LOOKED)], low + steps, high - steps)
        total = np.zeros(2)
        for factor, term in terms:
            form = form_on_points(term, self.rho.ndim) if isinstance(term, PairTerm) else None
            if isinstance(form, (Convolution, Dense)):
                i, j = self._drawn(LOOKED, 0)
                x, y = points[:, i], points[:, j]
                ahead, behind = (self._pair_force(form, x + way, y) for way in (steps, -steps))
                share = self.mass
            elif isinstance(form, LowRank) or isinstance(term, (Potential, MomentEnergy)):
                force = (self._ranked(form, points) if isinstance(form, LowRank) else
                         self._of_moments(term, points) if isinstance(term, MomentEnergy) else
                         partial(self._force, cast(Potential, term).V))
                ahead, behind, share = force(few + steps), force(few - steps), 1.0
            else:
                continue
            sizes = [np.abs(part).max(axis=0) for part in (ahead, (ahead - behind) / (2.0 * steps))]
            total += abs(factor) * share * np.array([np.quantile(size, 0.99) if share == 1.0 else size.mean()
                                                     for size in sizes])
        return float(total[0]), float(total[1])

    # ---------------------------------------------------------------- parts
    def _blocks(self) -> list[slice]:
        return [slice(start, start + BLOCK) for start in range(0, self.rho.size, BLOCK)]

    def _waves(self, points: Array) -> tuple[Array, Array]:
        """Return the test functions at points, (K, n), and their gradients, (n_coordinates, K, n)."""
        parts = [self._factors(axis, x) for axis, x in enumerate(points)]
        values = parts[0][0]
        for value, _ in parts[1:]:
            values = values * value
        slopes = np.empty((len(parts), *values.shape))
        for axis, (_, slope) in enumerate(parts):
            slopes[axis] = slope
            for other, (value, _) in enumerate(parts):
                if other != axis:
                    slopes[axis] *= value
        return values, slopes

    def _mobile(self, points: Array, slopes: Array) -> Array:
        """Return A grad phi at points for gradients (n_coordinates, K, n)."""
        if self.mobility is None:
            return slopes
        return np.einsum("abn,bkn->akn", self.mobility.at(points), slopes)

    def _check_walls(self, points: Array, A: Array) -> None:
        """Refuse atoms at walls across which A has mixed terms: test functions have a slope along A n there."""
        for axis, (lo, hi) in enumerate(self.box):
            if not (math.isfinite(lo) or math.isfinite(hi)) or not np.delete(A[axis], axis, axis=0).any():
                continue
            layer = NEAR_WALL * (hi - lo) if math.isfinite(hi - lo) else NEAR_WALL * self.scales[axis]
            near = np.mean((points[axis] < lo + layer) | (points[axis] > hi - layer))
            if near > FEW_AT_WALLS:
                raise InvalidInput("particles are at walls, across which the mobility has mixed terms")

    def _mobile_bend(self, points: Array, mobility: Mobility, slopes: Array) -> Array:
        """Return div(A grad phi) at points, (K, n); the divergence of A by differences of its own."""
        A, total = mobility.at(points), np.zeros(slopes.shape[1:])
        self._check_walls(points, A)
        factors = [self._factors(axis, x) for axis, x in enumerate(points)]
        for a in range(len(points)):
            for b in range(a + 1):
                bent = np.ones(total.shape)
                for axis, (value, slope) in enumerate(factors):
                    if a == b == axis:
                        bent *= -self.modes.waves[:, axis, None] ** 2 * value
                    else:
                        bent *= slope if axis in (a, b) else value
                total += (1.0 if a == b else 2.0) * A[a, b] * bent
            for b in range(len(points)):
                slope = self._slopes(lambda y, a=a, b=b: mobility.at(y)[a, b], points, self.box)[b]
                total += slope * slopes[a]
        return total

    def _factors(self, axis: int, x: Array) -> tuple[Array, Array]:
        """Return the factors of one axis and their derivatives, as `Modes.factors`; sines and cosines are formed once.

        Those of twice a wave number are formed from those of the wave number.
        """
        modes, known = self.modes, {0.0: (np.ones(x.size), np.zeros(x.size))}
        for wave in sorted({float(wave) for wave in modes.waves[:, axis]} - {0.0}):
            if 0.5 * wave in known:
                cos, sin = known[0.5 * wave]
                known[wave] = (cos - sin) * (cos + sin), 2.0 * sin * cos
            else:
                angle = wave * (x - modes.low[axis])
                known[wave] = np.cos(angle), np.sin(angle)
        values, slopes = np.empty((2, self.count, x.size))
        for k, (wave, phase) in enumerate(zip(modes.waves[:, axis].tolist(), modes.phases[:, axis].tolist())):
            cos, sin = known[wave]
            if phase:
                # The phase is -pi / 2.
                cos, sin = sin, -cos
            values[k] = cos
            np.multiply(sin, -wave, out=slopes[k])
        return values, slopes

    def _force(self, V: Any, x: Array) -> Array:
        if not callable(V):
            raise InvalidInput("V is given by its values at the centers of cells")
        return self._slopes(lambda y: values_at(V, y, "V"), x, self.box)

    def _slopes(self, function, x: Array, box) -> Array:
        """Return central differences along each axis, over parts of the scales of the laws."""
        stretch = np.array(self.scales)[:, None]
        scaled = [(lo / a, hi / a) for (lo, hi), a in zip(box, self.scales)]
        return gradients(lambda y: function(stretch * y), x / stretch, scaled) / stretch

    def _ranked(self, form: LowRank, points: Array) -> Force:
        """Return the force of an interaction of low rank as a function of points."""
        if not callable(form.features):
            raise InvalidInput("features are given by their values at the centers of cells")
        features = cast(Any, form.features)

        def known(x: Array) -> Array:
            return np.ascontiguousarray(values_at(features, x, "features", (None,)))

        z = rows_dot(known(points), self.rho.weights) * (1.0 if form.signs is None else form.signs)
        return lambda x: self._slopes(lambda y: combine_rows(known(y), z), x, self.box)

    def _of_moments(self, term: MomentEnergy, points: Array) -> Force:
        """Return the force of a function of moments as a function of points."""
        known = term.features.at
        g = term.phi.gradient(rows_dot(known(points), self.rho.weights))
        return lambda x: self._slopes(lambda y: combine_rows(known(y), g), x, self.box)

    def _pairs(self, points: Array, terms: list[tuple[float, PairTerm]], draw: int) -> tuple[Array, Array]:
        """Return the sums over pairs for each test function, and their variances."""
        n, weights = self.rho.size, self.rho.weights
        if not terms:
            return np.zeros(self.count), np.zeros(self.count)
        everything = n <= ALL_PAIRS
        if everything:
            i, j = np.repeat(np.arange(n), n), np.tile(np.arange(n), n)
        else:
            i, j = self._drawn(DRAWN_PAIRS, draw)
        x, y = points[:, i], points[:, j]
        near, far = self._mobile(x, self._waves(x)[1]), self._mobile(y, self._waves(y)[1])
        total = np.zeros((self.count, i.size))
        for factor, form in terms:
            force = factor * self._pair_force(form, x, y)
            if isinstance(form, Convolution):
                total += 0.5 * np.einsum("akn,an->kn", near - far, force)
            else:
                total += np.einsum("akn,an->kn", near, force)
        if everything:
            return rows_dot(total, weights[i] * weights[j]), np.zeros(self.count)
        square = self.mass**2
        return square * total.mean(axis=1), square**2 * total.var(axis=1) / i.size

    def _drawn(self, count: int, draw: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the two atoms of some pairs, each drawn by its weight: one in every stratum of the levels."""
        rng = np.random.default_rng([SEED, draw])
        levels = (np.arange(count) + rng.random((2, count))) / count
        first, second = (np.minimum(np.searchsorted(self.levels, level), self.rho.size - 1) for level in levels)
        return first, rng.permutation(second)

    def _pair_force(self, form: PairTerm, x: Array, y: Array) -> Array:
        """Return the gradient of U in its first point at pairs of points."""
        if isinstance(form, Dense):
            if not callable(form.U):
                raise InvalidInput("U is given by its values between the centers of cells")
            U = cast(Any, form.U)
            return self._slopes(lambda z: values_at(U, np.concatenate([z, y]), "U"), x, self.box)
        gap = x - y
        for axis, period in enumerate(self.periods):
            if period:
                gap[axis] -= period * np.round(gap[axis] / period)
        with np.errstate(all="ignore"):
            force = self._kernel_slopes(cast(Convolution, form).w, gap)
        force[:, (gap == 0.0).all(axis=0) | ~np.isfinite(force).all(axis=0)] = 0.0
        return force

    def _kernel_slopes(self, w: Any, gap: Array) -> Array:
        if not callable(w):
            raise InvalidInput("w is given by a table of values between cells")
        if isinstance(w, Kernel):
            if any(self.periods):
                reach = [0.0 if period else 2.0 ** math.ceil(math.log2(max(1e-300, float(np.ptp(z)))))
                         for period, z in zip(self.periods, gap)]
                return cast(Array, periodic_kernel(w.parts, tuple(self.periods), tuple(reach)).gradient(*gap))
            return w.gradient(*gap)
        free = [(-math.inf, math.inf)] * self.rho.ndim
        return self._slopes(lambda z: np.broadcast_to(np.asarray(w(*z), dtype=float), z.shape[1:]), gap, free)


def _along(slopes: Array, forces: list[tuple[float, Force]], points: Array, weights: Array) -> Array:
    """Return the integrals of grad phi against the sum of some forces."""
    if not forces:
        return np.zeros(slopes.shape[1])
    total = sum((factor * force(points) for factor, force in forces), np.zeros(points.shape))
    return sum((rows_dot(slope, part * weights) for slope, part in zip(slopes, total)), np.zeros(slopes.shape[1]))
