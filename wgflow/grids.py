"""Grids: tensor products of 1 to 4 axes of cells, with an optional reference measure for reduced coordinates."""

from __future__ import annotations

import math
import warnings
from functools import cached_property

import numpy as np

from wgflow.calls.explained import explained
from wgflow.checks import (
    as_float,
    available_memory,
    call_user,
    check_grid_memory,
    check_memory,
    check_values,
    real_array,
)
from wgflow.errors import InvalidInput, WGFlowWarning
from wgflow.grid_checks import (
    BOUNDARIES,
    MAX_AXES,
    check_boundary,
    check_bounds,
    check_cells,
    check_edges,
    check_log_weight,
    check_names,
    check_origin,
    is_uniform,
    uniform_edges,
    widths_of,
)
from wgflow.uphill import uphill

__all__ = ["MAX_AXES", "Grid", "available_memory", "call_user", "check_memory", "check_values",
           "log_power_cell_average", "real_array"]

#: Beyond this ratio of the widest to the narrowest cell of an axis a warning is given: probably an edge is mistyped.
CELL_RATIO_WARNING = 1e6
#: Panels of four nodes for each cell, by which a monitor function is integrated.
GRADING_PANELS = 32


class Grid:
    r"""A box :math:`[a_1, b_1] \times \dots \times [a_d, b_d]` cut into cells, 1 <= d <= 4.

    A density lives on it as its cell averages per Lebesgue volume of the coordinates. In reduced coordinates (a radius,
    say) the entropy is taken relative to a reference measure :math:`w(\theta)\,d\theta`, such as :math:`r^{d-1} dr`;
    its cell averages are given as logarithms, since :math:`r^{319}` overflows.

    Parameters
    ----------
    bounds : sequence of (float, float)
        Lower and upper end of each axis; a single pair for one axis.
    cells : int or sequence of int
        Number of cells of each axis, at least 2; one number serves all axes.
    boundary : {None, "no-flux", "periodic"} or one of them for each axis
        What an axis is at its two ends. ``"no-flux"``: walls, where the domain is meant to end. ``None``, the default:
        the ends stand for infinity. No flux leaves there either, but what the walls hold back is an error, which the
        certificate estimates and judges (`Certificate.mass_outside`). A pair such as ``("no-flux", None)`` tells the
        lower end from the upper one. The origin of a radius (an axis with ``origin``, or one of a weighted grid that
        starts at 0) is a natural end, and never taken for infinity.
    edges : sequence of 1-D arrays, optional
        Cell edges of each axis, strictly increasing, instead of ``bounds`` and ``cells`` (a single array for one axis).
    log_weight : array of shape ``shape``, optional
        Logarithm of the cell averages of the reference measure's density; Lebesgue measure (zero) by default.
        `log_power_cell_average` gives it for powers of a radius.
    names : sequence of str, optional
        Names of the axes, used in datasets and plots; ``("x", "y", "z", "w")`` by default.
    origin : bool or one for each axis
        Whether a no-flux axis starts at a point where mass can come to rest, such as the origin of a radius. Its first
        cell then has half the width and is represented by its lower end, so that a point mass there is exact.

    Attributes
    ----------
    ndim, shape, size : int, tuple of int, int
    centers, edges, widths : tuple of 1-D arrays, one for each axis
    volumes : array of shape ``shape``, volumes of the cells
    periodic, origin : tuple of bool
    open_ends : tuple of (bool, bool), whether the lower and the upper end of each axis stand for infinity
    log_weight : array of shape ``shape`` or None
    names : tuple of str

    Raises
    ------
    InvalidInput
        If an argument is out of its range; the message names it.
    ResourceError
        If a solve on the grid could not fit in this machine's memory; raised before anything is allocated.

    Notes
    -----
    Grids are equal if their cells, periodic axes and weights are. What an end stands for changes no number, and does
    not tell grids apart.

    Examples
    --------
    >>> Grid([(-4, 4), (0, 1)], cells=(80, 10), boundary=(None, "periodic")).shape
    (80, 10)
    """

    ndim: int
    shape: tuple[int, ...]
    size: int
    edges: tuple[np.ndarray, ...]
    widths: tuple[np.ndarray, ...]
    centers: tuple[np.ndarray, ...]
    uniform: tuple[bool, ...]
    periodic: tuple[bool, ...]
    origin: tuple[bool, ...]
    open_ends: tuple[tuple[bool, bool], ...]
    names: tuple[str, ...]
    log_weight: np.ndarray | None

    @explained("Grid((-4, 4), cells=200) or Grid([(-4, 4), (-3, 3)], cells=(80, 60))")
    def __init__(self, bounds=None, cells=None, *, boundary=None, edges=None, log_weight=None, names=None,
                 origin=False):
        if (bounds is None) == (edges is None):
            raise InvalidInput("bounds, edges: give either bounds with cells, or edges, and not both")
        if edges is None:
            bounds = check_bounds(bounds)
            shape = check_cells(cells, len(bounds))
            check_grid_memory(shape)
            self.origin = check_origin(origin, len(shape))
            self.edges = tuple(uniform_edges(k, lo, hi, n, half)
                               for k, ((lo, hi), n, half) in enumerate(zip(bounds, shape, self.origin)))
            self.uniform = tuple(not half for half in self.origin)
        else:
            if cells is not None:
                raise InvalidInput("cells: leave it out when edges are given; the edges say how many cells there are")
            self.edges = check_edges(edges)
            shape = tuple(e.size - 1 for e in self.edges)
            check_grid_memory(shape)
            self.origin = check_origin(origin, len(shape))
            self.uniform = tuple(is_uniform(e) and not half for e, half in zip(self.edges, self.origin))
        self.shape = shape
        self.ndim, self.size = len(shape), math.prod(shape)
        self.periodic, walls = check_boundary(boundary, self.ndim)
        self.widths = tuple(widths_of(e, even, half) for e, even, half in zip(self.edges, self.uniform, self.origin))
        self.centers = tuple(0.5 * (e[1:] + e[:-1]) for e in self.edges)
        for axis, half in enumerate(self.origin):
            if half and self.periodic[axis]:
                raise InvalidInput(f"origin[{axis}]=True on a periodic axis, which has no end; leave one of them out")
            if half:
                self.centers[axis][0] = self.edges[axis][0]
        for axis, h in enumerate(self.widths):
            # Python's floats: a ratio beyond all numbers is infinite, without a warning of NumPy's.
            ratio = 1.0 if self.uniform[axis] else float(h.max()) / float(h.min())
            if ratio > CELL_RATIO_WARNING:
                warnings.warn(f"edges[{axis}]: cell ratio {ratio:.1e}; check the edges, or grade them",
                              WGFlowWarning, stacklevel=2)
        self.names = check_names(names, self.ndim)
        self.log_weight = None if log_weight is None else check_log_weight(log_weight, shape)
        # A radius ends at 0 by its nature.
        natural = [half or (self.log_weight is not None and e[0] == 0.0) for half, e in zip(self.origin, self.edges)]
        self.open_ends = tuple((not (periodic or low or at_zero), not (periodic or high)) for periodic, (low, high),
                               at_zero in zip(self.periodic, walls, natural))
        for array in (*self.edges, *self.widths, *self.centers):
            array.flags.writeable = False

    # ---------------------------------------------------------------- constructors
    @classmethod
    def for_problem(cls, energy, rho0, t_end=None, *, tol: float = 1e-3, bounds=None, cells=None, boundary=None,
                    method=None, time_scale=1.0, mobility=None, names=None, max_cells: int = 500_000) -> Grid:
        r"""Return a grid on which a flow is solved with an error of at most about ``tol``.

        The aim is :math:`\max_t \|\rho_h(t) - \rho(t)\|_{L^1} \le \mathrm{tol} \cdot \mathrm{mass}`, estimated at six
        times by trial solves on coarse grids (Richardson, each axis by itself), with at most 1e-12 of the mass ever in
        the outermost cells at ends that are chosen. The box grows at each end where a trial solve brings mass, so that
        it follows drift, attraction and free fronts. The cost is that of a few solves on coarse grids.

        Good values: the default; give ``bounds`` and ``cells`` where they are known, above all at walls. Reduced models
        have weighted grids of their own, ``model.grid(cells=...)``.

        Parameters
        ----------
        energy : Term or FreeEnergy
            The energy of the problem, given by functions.
        rho0 : callable, (mean, cov), array, Atoms or Density
            The initial law: a density as a function of the coordinates (which is normalized); a normal law by its mean
            and covariance; samples, an array (n, ndim), or Atoms, smoothed by Gaussians of Silverman's width; or a
            Density on a trial grid.
        t_end : float, optional
            End of the time span that starts at 0. By default the grid serves for all times, if the flow comes to rest.
            A flow that leaves a saddle or a well only after a long rest may be taken for one at rest.
        tol : float
            Tolerance, between 1e-8 and 1.
        bounds : sequence of (lo, hi) or None, optional
            For each axis its walls, which are kept and declared ``"no-flux"``, or None for an unbounded axis, whose
            ends stand for infinity. A periodic axis needs its bounds.
        cells : sequence of int or None, optional
            For each axis its number of cells, which is kept, or None.
        boundary, names
            As in `Grid`.
        method : Method, optional
            Method of the trial solves, `FiniteVolume()` by default.
        time_scale, mobility
            As in `wgflow.solve`.
        max_cells : int
            Largest number of cells of a trial grid and of the result.

        Raises
        ------
        InvalidInput
            If an argument breaks a rule, or nothing confines the flow and there is no ``t_end``.
        ResourceError
            If the tolerance needs more than ``max_cells`` cells, for instance if the law concentrates at a point.
        ConvergenceError
            If a trial solve fails, or takes too many steps.

        Examples
        --------
        >>> import wgflow as wg
        >>> energy = wg.Entropy(1.0) + wg.Potential(lambda x: x**2 / 2)
        >>> grid = Grid.for_problem(energy, (2.0, 0.25), t_end=1.0, tol=1e-2)
        >>> grid.bounds[0][0] < -5.0, grid.bounds[0][1] > 5.0, 20 < grid.size < 200
        (True, True, True)
        """
        choose = uphill("wgflow.automatic_grids", "problem_grid")
        return choose(energy, rho0, t_end, tol, bounds, cells, boundary, method, time_scale, names, max_cells,
                      mobility)

    @classmethod
    def graded(cls, bounds, cells, monitor, *, boundary=None, names=None) -> Grid:
        r"""Return a grid with small cells where a monitor function m is large: its integral over each cell is the same.

        The edges are a smooth function of their index if m is smooth, which second-order fluxes need. The L1 error of a
        density is least for :math:`m = |\rho''|^{1/3}`; add a part of its mean, so that no cell becomes huge.

        Parameters
        ----------
        bounds, cells, boundary, names
            As in `Grid`.
        monitor : callable, or one for each axis (None: even cells)
            A vectorized positive function of the coordinate of its axis.

        Raises
        ------
        InvalidInput
            If a monitor is not positive and finite.

        Examples
        --------
        >>> grid = Grid.graded((-4, 4), 40, lambda x: 0.1 + np.exp(-x**2))
        >>> bool(grid.widths[0].max() > 4 * grid.widths[0].min())
        True
        """
        even = cls(bounds, cells, boundary=boundary, names=names)
        monitors = [monitor] * even.ndim if callable(monitor) or monitor is None else list(monitor)
        if len(monitors) != even.ndim:
            raise InvalidInput(f"monitor has {len(monitors)} entries, bounds {even.ndim}")
        edges = [e if m is None else equal_shares(m, e, axis) for axis, (m, e) in enumerate(zip(monitors, even.edges))]
        return cls(edges=edges, boundary=boundary, names=names)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lower and upper end of each axis."""
        return tuple((float(e[0]), float(e[-1])) for e in self.edges)

    @property
    def boundary(self) -> tuple[str | tuple[str | None, str | None] | None, ...]:
        """What each axis is at its ends: "periodic", "no-flux", None (infinity), or a pair where they differ."""
        words = ((None if low else BOUNDARIES[p], None if high else BOUNDARIES[p])
                 for p, (low, high) in zip(self.periodic, self.open_ends))
        return tuple(low if low == high else (low, high) for low, high in words)

    @cached_property
    def volumes(self) -> np.ndarray:
        """Volumes of the cells, an array of the grid's shape."""
        volumes = self.widths[0].copy()
        for h in self.widths[1:]:
            volumes = volumes[..., None] * h
        volumes.flags.writeable = False
        return volumes

    @cached_property
    def log_reference(self) -> np.ndarray:
        """Logarithm of the reference measure of each cell, volume times weight; the entropy is relative to it."""
        log_volumes = np.log(self.volumes)
        return log_volumes if self.log_weight is None else log_volumes + self.log_weight

    def mesh(self) -> tuple[np.ndarray, ...]:
        """Return the coordinates of the cell centers as full arrays of the grid's shape, one for each axis."""
        return (self.centers[0].copy(),) if self.ndim == 1 else tuple(np.meshgrid(*self.centers, indexing="ij"))

    @cached_property
    def distances(self) -> tuple[np.ndarray, ...]:
        """Distances between neighboring cell centers, for each axis: n - 1, or n (last to first) if periodic."""
        distances = []
        for h, half, periodic in zip(self.widths, self.origin, self.periodic):
            inner = 0.5 * (h[1:] + h[:-1])
            if half:
                inner[0] += 0.5 * h[0]
            distances.append(np.append(inner, 0.5 * (h[-1] + h[0])) if periodic else inner)
        return tuple(distances)

    def evaluate(self, function, what: str) -> np.ndarray:
        """Return values of a user's function at the cell centers, with shape, kind and finiteness checked.

        Parameters
        ----------
        function : callable of one array for each axis
        what : str
            Name of the argument in messages.
        """
        return check_values(call_user(function, self.mesh(), what), self, what)

    def __eq__(self, other):
        if not isinstance(other, Grid):
            return NotImplemented
        return self is other or (
            self.shape == other.shape and self.periodic == other.periodic and self.origin == other.origin
            and all(np.array_equal(a, b) for a, b in zip(self.edges, other.edges))
            and (self.log_weight is None) == (other.log_weight is None)
            and (self.log_weight is None or other.log_weight is None
                 or np.array_equal(self.log_weight, other.log_weight))
        )

    def __hash__(self):
        return hash((self.shape, self.periodic, self.bounds))

    def _repr_html_(self) -> str:
        return str(uphill("wgflow.pictures.html", "grid_html")(self))

    def __repr__(self):
        box = " x ".join(f"[{lo:g}, {hi:g}]" for lo, hi in self.bounds)
        weight = "" if self.log_weight is None else ", weighted"
        return f"Grid({box}, cells={self.shape}, boundary={self.boundary}{weight})"


def equal_shares(monitor, even: np.ndarray, axis: int) -> np.ndarray:
    """Return edges, between the ends of even ones, over whose cells the integral of a function is the same."""
    count = GRADING_PANELS * (even.size - 1)
    ends = np.linspace(even[0], even[-1], count + 1)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    half = 0.5 * np.diff(ends)
    points = (0.5 * (ends[1:] + ends[:-1]))[:, None] + half[:, None] * nodes
    name = f"monitor of axis {axis}"
    values = real_array(call_user(monitor, [points.ravel()], name), name)
    if values.shape != (points.size,):
        raise InvalidInput(f"{name} returned shape {values.shape} for coordinates of shape ({points.size},); it must "
                           "return one value for each point")
    if not (np.isfinite(values) & (values > 0)).all():
        raise InvalidInput(f"{name} has values from {values.min():g} to {values.max():g}; it must be finite and > 0")
    below = np.append(0.0, np.cumsum((values.reshape(points.shape) @ weights) * half))
    from scipy.interpolate import PchipInterpolator

    edges = PchipInterpolator(below, ends)(below[-1] * np.arange(even.size) / (even.size - 1))
    edges[0], edges[-1] = even[0], even[-1]
    return edges


def log_power_cell_average(edges, power: float) -> np.ndarray:
    r"""Return the logarithm of cell averages of :math:`r^p`, :math:`\log \frac{1}{h_i} \int_{r_i}^{r_{i+1}} r^p\,dr`.

    Parameters
    ----------
    edges : array_like, shape (n + 1,)
        Cell edges, the first at least 0, strictly increasing.
    power : float
        The exponent p, greater than -1; for the radius in R^d it is d - 1.

    Returns
    -------
    array, shape (n,)
        Formed from logarithms, so that p = 1e4 neither overflows nor underflows.

    Raises
    ------
    InvalidInput
        If an edge is negative or p <= -1.
    """
    (edges,) = check_edges([edges])
    if edges[0] < 0:
        raise InvalidInput(f"edges[0]={edges[0]:g}: a radius starts at 0 or above")
    power = as_float("power", power)
    if not (math.isfinite(power) and power > -1):
        raise InvalidInput(f"power={power!r}: need a finite number > -1, so that the integral over a cell at 0 exists")
    q = power + 1
    with np.errstate(divide="ignore"):
        log_edges = np.log(edges)
        # (b^q - a^q)/(q h) with a/b = e^-s: the difference is formed by expm1, which keeps narrow cells accurate.
        shrink = np.log(-np.expm1(q * (log_edges[:-1] - log_edges[1:])))
    return q * log_edges[1:] + shrink - math.log(q) - np.log(np.diff(edges))
