r"""Both sides of a flow's equation in weak form, from the law on the cells of a grid and the user's functions.

With the test functions :math:`\varphi_k` of `modes`, the pressure P(r) = r H'(r) - H(r) (D r for an entropy) and the
reference measure w,

.. math:: M_k = \int \varphi_k\,\rho, \qquad
          R_k = - \int \rho\,\nabla\varphi_k \cdot \nabla V
                - \iint \rho\,\rho'\,\nabla\varphi_k \cdot \nabla_1 U
                + \int P(\rho / w)\,\nabla \cdot (w \nabla\varphi_k),
          \qquad \frac{d M_k}{dt} = s(t)\,R_k.

With a mobility A the vector field A grad phi stands for grad phi: :math:`A\nabla V` and :math:`A\nabla_1 U` for the
forces, and :math:`A : D^2\varphi + (\nabla\cdot A)\cdot\nabla\varphi` for the divergence.

No derivative of rho occurs, and nothing of a solver: grad V is formed from values of the user's V at the faces of the
cells, grad U from the kernel (`pairs`), P from H. Moments of averages over cells are exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wgflow.audit.differences import at_faces, center_slopes, log_at_faces, of_one_axis, slopes
from wgflow.audit.mobile import MobileField
from wgflow.audit.modes import choose_modes, contract
from wgflow.audit.pairs import LINEAR_COUNTS, Nodes, PairForce, count_of, is_pair, pair_force, potential_gradients
from wgflow.compiled.lowrank import rows_dot
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import InternalEnergy
from wgflow.energies.mobility import Mobility
from wgflow.energies.nodes import node_grid
from wgflow.energies.potentials import Potential
from wgflow.errors import InvalidInput
from wgflow.interactions.terms import PairTerm

__all__ = ["Sides", "WeakForm"]

Array = NDArray[np.float64]
#: Slopes of V over one cell and over three that differ by more than this part show a jump.
JUMP = 0.3
#: A law lies in single cells if they add up to more than this multiple; for all mass in one cell they are 4.
POINTS = 2.0
#: A law is rough on the scale of the cells if its second differences add up to more than this part of its mass.
ROUGH = 0.5
#: Where half as many nodes give a part that differs by more than this, they tell nothing of an order.
COARSE = 0.1
#: Part of the forces within a singular kernel, which may cancel, that the roughness of a law leaves open.
SIZE_SHARE = 0.1
#: Part of the width of a cell by which a jump's mass may be displaced.
UNPLACED = 0.0625
#: Numbers in the tables of test functions; on larger grids sums go axis by axis.
MOST_ROWS = 1_000_000


class Sides(NamedTuple):
    """The sides of the equation at one time, each an array of K numbers.

    Attributes
    ----------
    moments, drift, interaction, diffusion
        M, and the three parts of R.
    doubt
        What the sums over cells leave open in R: the resolution of the density, of V and of U.
    speed
        By how much R may change with the law, for a change of 1 of the moments, at most.
    """

    moments: Array
    drift: Array
    interaction: Array
    diffusion: Array
    doubt: Array
    speed: Array


class WeakForm:
    """The equation of an energy on a grid, in weak form.

    Parameters
    ----------
    energy : FreeEnergy
    law : Density
        The initial law, whose spread sets the scale of some test functions.
    nodal : bool
        Whether laws are given by masses at the centers of the cells (`wgflow.energies.nodes`).
    mobility : Mobility, optional
        A(x).
    """

    def __init__(self, energy: FreeEnergy, law: Density, nodal: bool = False, mobility: Mobility | None = None):
        grid = law.grid
        self.moving = None if mobility is None else MobileField(mobility, grid, nodal)
        self.energy, self.grid, self.nodal, self.mass = energy, grid, nodal, law.mass
        self.modes = choose_modes(grid.bounds, grid.periodic, grid.shape, _spread(law))
        widths = [None if nodal else h for h in grid.widths]
        pairs = [self.modes.factors(axis, x, h) for axis, (x, h) in enumerate(zip(grid.centers, widths))]
        self.factors, self.values = pairs, [value for value, _ in pairs]
        self.slopes = [[slope if other == axis else pairs[other][0] for other in range(grid.ndim)]
                       for axis, (_, slope) in enumerate(pairs)]
        self.count = len(self.modes.waves)
        self.steepest = np.sqrt(self.modes.bend)
        self.volumes = node_grid(grid).volumes if nodal else grid.volumes
        own = node_grid(grid) if nodal else grid
        self.weighted = [] if grid.log_weight is None else [self._flux_rows(axis) for axis in range(grid.ndim)]
        # How (log w)' makes test functions spread at the centers of cells, along each axis.
        self.pulls = [] if own.log_weight is None else [
            self._pull(np.asarray(own.log_weight), axis) for axis in range(grid.ndim)]
        self.pair_forces: dict[int, tuple[Term, list[PairForce | None]]] = {}
        self.driven = energy.time_dependent
        self.node_sets: dict[int, Nodes] = {}
        terms = flat(energy)
        self.diffusion = sum(factor * term.diffusion for factor, term in terms)
        self.internal = [(f, t) for f, t in terms if isinstance(t, InternalEnergy)]
        self.potentials = [(f, t) for f, t in terms if isinstance(t, Potential)]
        self.pairs = [(f, t) for f, t in terms if is_pair(t)]
        known = (InternalEnergy, Potential)
        self.changing = [(f, t) for f, t in terms if t.time_dependent]
        self.others = [(f, t) for f, t in terms
                       if not (isinstance(t, known) or is_pair(t) or t.is_internal or t.time_dependent)]
        self.forces: list[Array] | None = None
        if self.potentials:
            found = [self._force(axis) for axis in range(self.grid.ndim)]
            self.forces = [force for force, _ in found]
            self.unclear = np.sum([doubt for _, doubt in found], axis=0)
            if self.moving is not None:
                self.forces, self.unclear = self.moving.applied(self.forces), self.unclear * self.moving.largest
            self.strength = np.sum([np.abs(force) for force in self.forces], axis=0)
        self.rows = None
        if (2 * self.count + 2) * self.grid.size <= MOST_ROWS:
            self.rows = self._rows()

    def moments(self, masses: Array) -> Array:
        """Return the moments of masses of cells."""
        if self.rows is None:
            return contract(masses, self.values)
        return rows_dot(self.rows[:self.count], masses.reshape(-1) if masses.flags.writeable else masses.flatten())

    def sides(self, masses: Array) -> Sides:
        """Return the sides for masses of cells (or at their centers, where laws are nodal), without changing terms."""
        zero, n = np.zeros(self.count), self.count
        fastest = 1.0 if self.moving is None else float((masses * self.moving.largest).sum()) / self.mass
        speed = self.diffusion * self.modes.bend * fastest
        if self.rows is not None:
            sums = rows_dot(self.rows, masses.reshape(-1) if masses.flags.writeable else masses.flatten())
            moments, drift, doubt, force = sums[:n], sums[n:2 * n], sums[2 * n:2 * n + 1], sums[2 * n + 1:]
        else:
            moments = contract(masses, self.values)
            drift, doubt, force = zero, zero[:1], zero[:1]
            if self.forces is not None:
                drift = -self._along(masses, self.forces)
                doubt, force = (np.array([(masses * part).sum()]) for part in (self.unclear, self.strength))
        doubt, speed = self.steepest * doubt, speed + self.steepest * (force / self.mass)
        diffusion, open_part = self._spreading(masses, moments) if self.diffusion else (zero, zero)
        diffusion, doubt = self.diffusion * diffusion, doubt + self.diffusion * open_part
        for factor, term in self.internal:
            (part, open_part), pressure = self._pressure(masses, term)
            doubt = doubt + abs(factor) * open_part
            diffusion = diffusion + factor * part
            speed = speed + self.modes.bend * (factor * pressure * fastest / self.mass)
        interaction, roughness = zero, self._roughness(masses)
        if self.pairs:
            interaction, gap = self._interaction(masses, self.pairs, roughness)
            doubt = doubt + gap
        if self.others:
            interaction = interaction - self._functionals(masses)
        doubt = doubt + roughness * (np.abs(drift) + np.abs(interaction) + np.abs(diffusion))
        return Sides(moments, drift, interaction, diffusion, doubt, speed)

    def unplaced(self, masses: Array) -> float:
        r"""Return by how much a moment of unit slope may be off since mass may lie anywhere in a cell.

        A cell of width h that a jump of the density fills to a part a has its mass h (1 - a)/2 off its center: with the
        height r of the jump r a (1 - a) h^2/2, at most r h^2/8. The second differences of the masses over h add up to
        (1 + |1 - 2a|) r; half of r h^2/8 is at either end of a time.
        """
        total = 0.0
        for axis, h in enumerate(self.grid.widths):
            m = masses.swapaxes(0, axis)
            total += float(np.abs(m[2:] - 2.0 * m[1:-1] + m[:-2]).sum()) * float(h.max())
        return UNPLACED * total

    def changing_rates(self, laws: list[Array], times: Array) -> Array:
        """Return drift and interaction by the terms that change with time, of a law at each time, (2, n, K)."""
        out = np.zeros((2, len(times), self.count))
        nodes, bounds = self._nodes(LINEAR_COUNTS[self.grid.ndim]), self.grid.bounds
        flows = np.zeros((len(times), *nodes.points.shape))
        for row, (t, masses) in enumerate(zip(times, laws)):
            q = nodes.masses(masses)
            for outer, changing in self.changing:
                for factor, term in flat(FreeEnergy([(outer, changing)]).at(float(t))):
                    if isinstance(term, Potential):
                        flows[row] += factor * self._force_at_nodes(term, nodes, bounds) * q
                    elif is_pair(term):
                        out[1, row] += self._interaction(masses, [(factor, term)])[0]
                    else:
                        raise InvalidInput(f"{term!r} changes with time and is neither a Potential, an Interaction nor "
                                           "a MomentEnergy")
        out[0] = -np.einsum("kda,tda->tk", nodes.slopes, flows)
        return out

    def _rows(self) -> Array:
        """Return the arrays against which the masses are summed, one after the other: for grids that are not large."""
        shape = self.grid.shape

        def spread(factors: list[Array]) -> Array:
            out = factors[0]
            for factor in factors[1:]:
                out = out[..., None] * factor.reshape(len(factor), *[1] * (out.ndim - 1), -1)
            return out

        rows = np.zeros((2 * self.count + 2, *shape))
        rows[:self.count] = spread(self.values)
        if self.forces is not None:
            for force, slopes in zip(self.forces, self.slopes):
                rows[self.count:-2] -= spread(slopes) * force
            rows[-2], rows[-1] = self.unclear, self.strength
        return rows.reshape(len(rows), -1)

    # ---------------------------------------------------------------- parts
    def _along(self, masses: Array, field: list[Array]) -> Array:
        """Return the integrals of grad phi . field."""
        return np.sum([contract(masses * part, self.slopes[axis]) for axis, part in enumerate(field)], axis=0)

    def _force(self, axis: int) -> tuple[Array, Array]:
        """Return the slope of V along an axis, averaged over cells or at their centers, and how unsure it is."""
        grid, n = self.grid, self.grid.shape[axis]
        axes = [grid.edges[axis] if k == axis else c for k, c in enumerate(grid.centers)]
        mesh = list(np.meshgrid(*axes, indexing="ij"))
        V: Array = np.zeros(mesh[0].shape)
        for factor, term in self.potentials:
            V = V + factor * at_faces(term, mesh, axis, grid)
        V = np.moveaxis(V, axis, 0)
        edges = grid.edges[axis].reshape(-1, *[1] * (grid.ndim - 1))
        narrow = np.diff(V, axis=0) / np.diff(edges, axis=0)
        wide = narrow.copy()
        wide[1:-1] = (V[3:] - V[:-3]) / (edges[3:] - edges[:-3])
        if n > 2:
            wide[0], wide[-1] = 2.0 * narrow[0] - narrow[1], 2.0 * narrow[-1] - narrow[-2]
        gap = (narrow - wide) / 8.0
        gap[0] = gap[-1] = 0.0
        force = narrow + gap if self.nodal else narrow
        rough = np.abs(gap)
        # The slopes of phi and V together vary over a cell; a part of their covariance stays open.
        rough[1:-1] += np.abs(np.diff(narrow, 2, axis=0)) / 24.0
        # A jump of V: between which values the slope lies there nobody knows.
        steep = np.maximum(np.abs(narrow), np.abs(wide))
        rough = np.where(np.abs(narrow - wide) > JUMP * steep, np.maximum(rough, steep), rough)
        return np.ascontiguousarray(np.moveaxis(force, 0, axis)), np.ascontiguousarray(np.moveaxis(rough, 0, axis))

    def _pressure(self, masses: Array, term: InternalEnergy) -> tuple[tuple[Array, Array], float]:
        """Return the part of an internal energy, and the integral of its pressure."""
        log_w = self.grid.log_weight
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            reference = self.volumes if log_w is None else self.volumes * np.exp(log_w)
            r = masses / reference
            p = np.where(masses > 0, (r * term.derivative(r) - term.H(r)) * reference, 0.0)
        p[~np.isfinite(p)] = 0.0
        return self._spreading(p, None), float(p.sum())

    def _spreading(self, p: Array, moments: Array | None) -> tuple[Array, Array]:
        """Return the integrals of div(w grad phi) / w times a pressure, which is given by its integrals over cells.

        Beside them how unsure they are: what they differ by from the same at the centers of cells.
        """
        if self.moving is not None:
            return self.moving.spread(p, self.modes, self.factors, self.pulls, self.volumes)
        if not self.weighted:
            return -self.modes.bend * (contract(p, self.values) if moments is None else moments), np.zeros(self.count)
        at_centers = self._spreading_at_centers(p)
        if self.nodal:
            return at_centers, np.zeros(self.count)
        total = np.zeros(self.count)
        for axis, (upper, lower, above, below) in enumerate(self.weighted):
            for ratio, slope, sign in ((upper, above, 1.0), (lower, below, -1.0)):
                factors = [slope if k == axis else values for k, values in enumerate(self.values)]
                total += sign * contract(p * ratio, factors)
        return total, np.abs(total - at_centers)

    def _spreading_at_centers(self, p: Array) -> Array:
        """Return the integrals of (Laplacian phi + grad phi . grad log w) times a pressure at the centers of cells."""
        pairs = [self.modes.factors(axis, x, None) for axis, x in enumerate(self.grid.centers)]
        total = -self.modes.bend * contract(p, [value for value, _ in pairs])
        for axis, pull in enumerate(self.pulls):
            factors = [pairs[k][k == axis] for k in range(self.grid.ndim)]
            total += contract(p * pull, factors)
        return total

    def _pull(self, log_w: Array, axis: int) -> Array:
        """Return the slope of log w along an axis at the centers of cells; exact for powers of a radius."""
        # A half cell at the origin has its center there, where test functions have no slope.
        x = np.maximum(self.grid.centers[axis], 0.25 * self.grid.widths[axis][0])
        x = x.reshape(-1, *[1] * (log_w.ndim - 1))
        radius = self.grid.bounds[axis][0] == 0.0 and not self.grid.periodic[axis]
        x = x if radius else self.grid.centers[axis].reshape(x.shape)
        lines = np.moveaxis(log_w, axis, 0)
        if self.grid.periodic[axis]:
            period = self.grid.bounds[axis][1] - self.grid.bounds[axis][0]
            lines = np.concatenate([lines[-2:], lines, lines[:2]])
            x = np.concatenate([x[-2:] - period, x, x[:2] + period])
        slope = slopes(lines, np.log(x) if radius else x)
        slope = slope[2:-2] if self.grid.periodic[axis] else slope / x if radius else slope
        return np.ascontiguousarray(np.moveaxis(slope, 0, axis))

    def _flux_rows(self, axis: int) -> tuple[Array, Array, Array, Array]:
        """Return w at the upper and lower faces of the cells over w h in them, and slopes of test functions there."""
        grid = self.grid
        log_w = np.moveaxis(np.asarray(grid.log_weight), axis, 0)
        inner = log_at_faces(log_w)
        if grid.bounds[axis][0] == 0.0 and not grid.periodic[axis] and len(inner) > 3:
            # Toward the origin of a radius a weight goes like a power, over cells that may be halves.
            r = np.log(grid.edges[axis][1:5])
            power = (inner[3] - inner[2]) / (r[3] - r[2])
            inner[0], inner[1] = (inner[2] + power * (r[k] - r[2]) for k in (0, 1))
        # At the ends of an axis test functions have no slope, and on a circle the weight goes on.
        first, last = log_w[:1], log_w[-1:]
        if grid.periodic[axis]:
            first = last = 0.5 * (first + last)
        faces = np.concatenate([first, inner, last])
        width = grid.widths[axis].reshape(-1, *[1] * (grid.ndim - 1))
        with np.errstate(over="ignore"):
            upper, lower = np.exp(faces[1:] - log_w) / width, np.exp(faces[:-1] - log_w) / width
        edges = grid.edges[axis]
        above, below = (self.modes.factors(axis, x)[1] for x in (edges[1:], edges[:-1]))
        rows = [np.ascontiguousarray(np.moveaxis(of_one_axis(ratio), 0, axis)) for ratio in (upper, lower)]
        return rows[0], rows[1], above, below

    def _nodes(self, count: int) -> Nodes:
        if count not in self.node_sets:
            self.node_sets[count] = Nodes(self.grid, count, self.modes)
        return self.node_sets[count]

    def _interaction(self, masses: Array, pairs: list, roughness: float = 0.0) -> tuple[Array, Array]:
        """Return the part of interactions, and how far it is from that by half as many nodes.

        Attraction and repulsion may cancel within a kernel that is singular: what the roughness of the law leaves open
        is then a part of their sizes.
        """
        total, gap = np.zeros((2, len(self.modes.waves)))
        known: dict[int, Array] = {}
        for factor, term in pairs:
            full = count_of(term, self.grid.ndim)
            sizes = (full, max(4, full // 2))
            for count in sizes:
                if count not in known:
                    known[count] = self._nodes(count).masses(masses)
            q = [known[count] for count in sizes]
            if id(term) not in self.pair_forces:
                self.pair_forces[id(term)] = term, [
                    pair_force(term, self._nodes(count), self.moving) for count in sizes]
            fine, coarse = self.pair_forces[id(term)][1]
            if fine is None or coarse is None:
                total -= factor * self._tabulated(masses, term)
                continue
            part = fine.rates(q[0])
            total += factor * part
            # Of fourth order where the kernel is smooth; a singular one may be of first.
            other = coarse.rates(q[1])
            unlike = np.abs(part - other) > COARSE * np.abs(part)
            share = 0.5 if fine.diagonal is not None else np.where(unlike, 1.0, 0.25)
            gap += np.abs(factor * (part - other)) * share
            if fine.diagonal is not None:
                gap += SIZE_SHARE * roughness * abs(factor) * fine.size(q[0]) * self.steepest
        return total, gap

    def _tabulated(self, masses: Array, term: PairTerm) -> Array:
        """Return the part of a kernel that is given by its values between cells."""
        return self._along(masses, self._moved(center_slopes(term.operator(self.grid).apply(masses), self.grid)))

    def _functionals(self, masses: Array) -> Array:
        """Return the part of terms of the user's own, from their first variations at the centers of cells."""
        rho = Density(self.grid, masses / self.grid.volumes)
        total = sum((factor * np.asarray(term.first_variation(rho)) for factor, term in self.others),
                    np.zeros(self.grid.shape))
        return self._along(masses, self._moved(center_slopes(total, self.grid)))

    def _moved(self, field: list[Array]) -> list[Array]:
        return field if self.moving is None else self.moving.applied(field)

    def _force_at_nodes(self, term: Potential, nodes: Nodes, bounds: tuple[tuple[float, float], ...]) -> Array:
        """Return the gradient of V at the nodes, shape (n_axes, n_nodes)."""
        if not callable(term.V):
            raise InvalidInput(f"{term!r} changes with time and is given by values at the centers of cells")
        force = potential_gradients(term.V, nodes.points, bounds)
        return force if self.moving is None else self.moving.at_nodes(nodes.points, force)

    def _roughness(self, masses: Array) -> float:
        """Return what averages over cells leave open, relative to the mass: second differences of the density over 24.

        Four times as much for a law (twelve times for one in single cells) that is rough on the scale of the cells,
        or without diffusion, where fluxes are limited at every extremum of the density. At walls the whole of the last
        difference counts: mass that is pressed against a wall lies in half a cell.
        """
        bends = walls = 0.0
        for axis in range(masses.ndim):
            m = masses.swapaxes(0, axis)
            if not self.grid.uniform[axis] and len(m) > 2:
                # Of cells of different widths the densities, against what lies between those of the neighbors.
                x = self.grid.centers[axis].reshape(-1, *[1] * (m.ndim - 1))
                volumes = self.volumes.swapaxes(0, axis)
                v, share = m / volumes, (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
                bends += 2.0 * float((np.abs((1 - share) * v[:-2] + share * v[2:] - v[1:-1]) * volumes[1:-1]).sum())
                walls += float(np.abs(v[1] - v[0]).sum() * volumes[0].max()
                               + np.abs(v[-1] - v[-2]).sum() * volumes[-1].max()) * (not self.grid.periodic[axis])
                continue
            bends += float(np.abs(m[2:] - 2.0 * m[1:-1] + m[:-2]).sum())
            if not self.grid.periodic[axis]:
                walls += float(np.abs(m[1] - m[0]).sum()) + float(np.abs(m[-1] - m[-2]).sum())
        calm = bends < ROUGH * self.mass and (self.diffusion or self.internal)
        part = 24.0 if calm else 6.0 if bends < POINTS * self.mass else 2.0
        if not (calm or all(self.grid.uniform)):
            # The limited fluxes of cells of different widths are of first order.
            part = min(part, 3.0)
        return (bends / part + walls) / self.mass


def flat(energy: FreeEnergy) -> list[tuple[float, Term]]:
    """Return the terms of an energy and of the energies among them, with their factors."""
    out: list[tuple[float, Term]] = []
    for factor, term in energy.terms:
        out += [(factor * f, t) for f, t in flat(term)] if isinstance(term, FreeEnergy) else [(factor, term)]
    return [(factor, term) for factor, term in out if factor]


def _spread(law: Density) -> Array:
    """Return the standard deviation along each axis."""
    out = np.empty(law.grid.ndim)
    for axis, x in enumerate(law.grid.centers):
        m = law.masses.sum(axis=tuple(k for k in range(law.grid.ndim) if k != axis)) / law.mass
        mean = float(m @ x)
        out[axis] = np.sqrt(max(0.0, float(m @ (x - mean) ** 2)))
    return out
