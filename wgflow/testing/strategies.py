"""Strategies for hypothesis. Arrays come from a generator whose seed is drawn: a failing case shrinks in its sizes and
kinds, not number by number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.densities import Density
from wgflow.energies import Entropy, FreeEnergy, Potential
from wgflow.errors import InvalidInput
from wgflow.grids import Grid

from .problems import (
    DENSITY_KINDS,
    GRID_KINDS,
    KERNEL_KINDS,
    Kernel,
    RandomFlow,
    random_density,
    random_grid,
    random_kernel,
    random_potential,
    wave_potential,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = ["densities", "energies", "flows", "grids", "potentials", "smooth_flows", "symmetric_kernels"]

BETAS = (1.0, 10.0, 1e3, 1e6, math.inf)
#: Fewest and most cells along an axis, by the number of axes: runs of milliseconds.
CELLS = {1: (5, 80), 2: (4, 18), 3: (3, 7)}
#: Enough for fluxes of fourth order.
SMOOTH_CELLS = {1: (10, 80), 2: (8, 20), 3: (8, 9)}
#: One axis is drawn more often: its runs are the shortest.
AXES = (1, 1, 1, 2, 2, 3)
BOUNDARIES = ("no-flux", "periodic")


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise InvalidInput("wgflow.testing's strategies need hypothesis: pip install 'wgflow[test]'") from error
    return strategies


def _generators() -> SearchStrategy[np.random.Generator]:
    return _strategies().integers(0, 2**32 - 1).map(np.random.default_rng)


def _shape(draw: Any, axes: Sequence[int], cells: dict[int, tuple[int, int]],
           boundaries: Sequence[str] = BOUNDARIES) -> tuple[tuple[int, ...], tuple[str, ...]]:
    st = _strategies()
    ndim = draw(st.sampled_from(axes))
    shape = tuple(draw(st.integers(*cells[ndim])) for _ in range(ndim))
    return shape, tuple(draw(st.sampled_from(boundaries)) for _ in range(ndim))


def grids(axes: Sequence[int] = AXES, kinds: Sequence[str] = GRID_KINDS,
          boundaries: Sequence[str] = BOUNDARIES) -> SearchStrategy[Grid]:
    """Return a strategy for small grids on [-2, 2]^d with no-flux and periodic axes.

    Parameters
    ----------
    axes : sequence of int
        Numbers of axes, from 1 to 3; one that stands there more often is drawn more often.
    kinds : sequence of str
        Of ``"even"``, ``"graded"`` (widths that differ by up to a factor 5) and ``"weighted"`` (a rough reference
        measure).
    boundaries : sequence of str
        Of ``"no-flux"`` and ``"periodic"``. A potential that is not periodic needs ``boundaries=["no-flux"]``: on a
        circle it would jump, and is refused.

    Raises
    ------
    InvalidInput
        By this and every other strategy, if hypothesis is not installed.
    """
    st = _strategies()

    @st.composite
    def strategy(draw):
        shape, boundary = _shape(draw, axes, CELLS, boundaries)
        return random_grid(draw(_generators()), shape, boundary, draw(st.sampled_from(kinds)))

    return strategy()


def densities(grid: Grid, kinds: Sequence[str] = DENSITY_KINDS) -> SearchStrategy[Density]:
    """Return a strategy for densities on a grid, of mass 1 and of other masses.

    Parameters
    ----------
    grid : Grid
    kinds : sequence of str
        Of ``"rough"`` (independent cells), ``"holes"`` (half of them empty), ``"delta"`` and ``"deltas"`` (one or three
        cells), ``"smooth"`` (a Gaussian), ``"tiny"`` (from 1e-300 to 1).
    """
    st = _strategies()
    return st.builds(lambda rng, kind: random_density(rng, grid, kind), _generators(), st.sampled_from(kinds))


def potentials(grid: Grid, smooth: bool | None = None) -> SearchStrategy[np.ndarray]:
    """Return a strategy for potentials as arrays of the grid's shape, of sizes from 0.1 to 30.

    Parameters
    ----------
    grid : Grid
    smooth : bool or None
        Waves with several wells, or independent cells; None draws both.
    """
    st = _strategies()
    kinds = [True, False] if smooth is None else [smooth]

    def build(rng, exponent, waves):
        scale = 10.0**exponent
        return wave_potential(rng, grid, scale, 3.0) if waves else random_potential(rng, grid, scale)

    return st.builds(build, _generators(), st.floats(-1, 1.5), st.sampled_from(kinds))


def symmetric_kernels(grid: Grid, kinds: Sequence[str] = KERNEL_KINDS) -> SearchStrategy[Kernel]:
    """Return a strategy for symmetric kernels U, of both signs: each as a term and as a table between all cells.

    Parameters
    ----------
    grid : Grid
    kinds : sequence of str
        Of ``"convolution"`` (left out on cells of uneven widths), ``"low rank"``, ``"dense"``, ``"waves"`` (smooth).
    """
    st = _strategies()
    even = all(np.ptp(h) <= 1e-9 * h.max() for h in grid.widths)
    kinds = [kind for kind in kinds if even or kind != "convolution"]
    return st.builds(lambda rng, kind, exponent: random_kernel(rng, grid, kind, 10.0**exponent),
                     _generators(), st.sampled_from(kinds), st.floats(-1, 1.5))


def energies(grid: Grid, betas: Sequence[float] = BETAS) -> SearchStrategy[FreeEnergy]:
    """Return a strategy for free energies int V rho + beta^-1 int rho log rho (+ 1/2 int int U rho rho).

    Parameters
    ----------
    grid : Grid
    betas : sequence of float
        Inverse temperatures.
    """
    st = _strategies()

    def build(V, beta, kernel):
        energy = Potential(V) + Entropy(beta)
        return energy if kernel is None else energy + kernel.term

    return st.builds(build, potentials(grid), st.sampled_from(betas), st.none() | symmetric_kernels(grid))


def flows() -> SearchStrategy[RandomFlow]:
    """Return a strategy for flows with any V, symmetric U of both signs, beta up to infinity, and rough starts.

    Grids have 1 to 3 axes with mixed boundaries, even or graded cells or a rough reference measure.
    """
    st = _strategies()

    @st.composite
    def strategy(draw):
        shape, boundary = _shape(draw, AXES, CELLS)
        beta = draw(st.sampled_from(BETAS))
        kind = draw(st.sampled_from(["convolution", "low rank", "dense", "none"]))
        cells = draw(st.sampled_from(["even", "even", "graded", "weighted"]))
        start = draw(st.sampled_from(DENSITY_KINDS))
        V_scale, U_scale = (10.0 ** draw(st.floats(-1, 1.5)) for _ in range(2))
        seed = draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        grid = random_grid(rng, shape, boundary, "even" if kind == "convolution" and cells == "graded" else cells)
        V = random_potential(rng, grid, V_scale)
        if draw(st.booleans()):
            V = wave_potential(rng, grid, V_scale, 3.0)
        drawn = (shape, boundary, beta, kind, cells, start, V_scale, U_scale, seed)
        return _flow(rng, grid, beta, V, kind, U_scale, start, drawn)

    return strategy()


def smooth_flows() -> SearchStrategy[RandomFlow]:
    """Return a strategy for flows whose V, U and reference measure the cells resolve, from any start.

    `FiniteVolume` solves most of them by fluxes of fourth order.
    """
    st = _strategies()

    @st.composite
    def strategy(draw):
        shape, boundary = _shape(draw, AXES, SMOOTH_CELLS)
        beta = draw(st.sampled_from([0.1, 1.0, 10.0]))
        kind = draw(st.sampled_from(["convolution", "waves", "none"]))
        weighted = draw(st.booleans())
        start = draw(st.sampled_from(["rough", "holes", "delta", "deltas", "smooth", "smooth", "tiny"]))
        # Most of them: what is still too much for the cells has second-order fluxes.
        V_scale, U_scale = (min(0.02 * min(shape) ** 2, 30.0) / beta * 10.0 ** draw(st.floats(-2, 0)) for _ in range(2))
        seed = draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        even = Grid(edges=[np.linspace(-2, 2, n + 1) for n in shape])
        log_weight = sum(0.3 * np.cos(2 * x + rng.normal()) for x in even.mesh()) if weighted else None
        grid = Grid(edges=even.edges, boundary=boundary, log_weight=log_weight)
        # Of the period of the box.
        V = wave_potential(rng, grid, V_scale, np.pi / 2)
        drawn = (shape, boundary, beta, kind, "weighted" if weighted else "even", start, V_scale, U_scale, seed)
        return _flow(rng, grid, beta, V, kind, U_scale, start, drawn)

    return strategy()


def _flow(rng: np.random.Generator, grid: Grid, beta: float, V: np.ndarray, kind: str, scale: float, start: str,
          drawn: tuple) -> RandomFlow:
    energy = Potential(V) + Entropy(beta)
    table = np.zeros((grid.size, grid.size))
    if kind != "none":
        term, table = random_kernel(rng, grid, kind, scale)
        energy = energy + term
    return RandomFlow(grid, beta, V, table, energy, random_density(rng, grid, start), drawn)
