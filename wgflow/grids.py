"""Grids: tensor products of 1 to 4 axes of cells, with an optional reference measure for reduced coordinates."""

from __future__ import annotations

import difflib
import math
import numbers
import warnings
from functools import cached_property

import numpy as np

from wgflow.errors import InvalidInput, InvalidType, ResourceError, WGFlowWarning

__all__ = ["Grid", "log_power_cell_average"]

BOUNDARIES = ("no-flux", "periodic")
MAX_AXES = 4
#: Arrays of the size of the grid that a solve keeps at the same time; the memory check of a grid counts on them.
WORK_ARRAYS = 12
#: No memory holds an axis with more cells; the product of four such numbers is still a float.
MAX_CELLS = 2**60
#: Requests of fewer bytes are granted without looking.
SMALL_REQUEST = 64e6
#: Beyond this ratio of the widest to the narrowest cell of an axis the user probably mistyped an edge.
CELL_RATIO_WARNING = 1e6


class Grid:
    r"""A box ``[a_1, b_1] x ... x [a_d, b_d]`` cut into cells, 1 <= d <= 4.

    A density lives on it as its cell averages per Lebesgue volume of the coordinates. In reduced coordinates (a radius,
    say) the entropy is taken relative to a reference measure :math:`w(\theta)\,d\theta`, such as :math:`r^{d-1} dr`;
    its cell averages are given as logarithms, since :math:`r^{319}` overflows.

    Parameters
    ----------
    bounds : sequence of (float, float)
        Lower and upper end of each axis; a single pair for one axis.
    cells : int or sequence of int
        Number of cells of each axis, at least 2; one number serves all axes.
    boundary : {"no-flux", "periodic"} or one of them for each axis
        What happens at the two ends of an axis.
    edges : sequence of 1-D arrays, optional
        Cell edges of each axis, strictly increasing, instead of ``bounds`` and ``cells`` (a single array for one axis).
    log_weight : array of shape ``shape``, optional
        Logarithm of the cell averages of the reference measure's density; Lebesgue measure (zero) by default.
        `log_power_cell_average` gives it for powers of a radius.
    names : sequence of str, optional
        Names of the axes, used in datasets and plots; ``("x", "y", "z", "w")`` by default.
    origin : bool or one for each axis
        Whether a no-flux axis starts at a point where mass can come to rest, such as the origin of a radius: its first
        cell then has half the width and is represented by its lower end, so that a point mass there is exact.

    Attributes
    ----------
    ndim, shape, size : int, tuple of int, int
    centers, edges, widths : tuple of 1-D arrays, one for each axis
    volumes : array of shape ``shape``, volumes of the cells
    periodic, origin : tuple of bool
    log_weight : array of shape ``shape`` or None
    names : tuple of str

    Raises
    ------
    InvalidInput
        If an argument is out of its range; the message names it.
    ResourceError
        If a solve on the grid could not fit in this machine's memory; raised before anything is allocated.

    Examples
    --------
    >>> Grid([(-4, 4), (0, 1)], cells=(80, 10), boundary=("no-flux", "periodic")).shape
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
    names: tuple[str, ...]
    log_weight: np.ndarray | None

    def __init__(self, bounds=None, cells=None, *, boundary="no-flux", edges=None, log_weight=None, names=None,
                 origin=False):
        if (bounds is None) == (edges is None):
            raise InvalidInput("bounds, edges: give either bounds with cells, or edges, and not both")
        if edges is None:
            bounds = _check_bounds(bounds)
            shape = _check_cells(cells, len(bounds))
            _check_memory(shape)
            self.origin = _check_origin(origin, len(shape))
            self.edges = tuple(_uniform_edges(k, lo, hi, n, half)
                               for k, ((lo, hi), n, half) in enumerate(zip(bounds, shape, self.origin)))
            self.uniform = tuple(not half for half in self.origin)
        else:
            if cells is not None:
                raise InvalidInput("cells: leave it out when edges are given; the edges say how many cells there are")
            self.edges = _check_edges(edges)
            shape = tuple(e.size - 1 for e in self.edges)
            _check_memory(shape)
            self.origin = _check_origin(origin, len(shape))
            self.uniform = tuple(_is_uniform(e) and not half for e, half in zip(self.edges, self.origin))
        self.shape = shape
        self.ndim, self.size = len(shape), math.prod(shape)
        self.periodic = _check_boundary(boundary, self.ndim)
        self.widths = tuple(_widths(e, even, half) for e, even, half in zip(self.edges, self.uniform, self.origin))
        self.centers = tuple(0.5 * (e[1:] + e[:-1]) for e in self.edges)
        for axis, half in enumerate(self.origin):
            if half and self.periodic[axis]:
                raise InvalidInput(f"origin[{axis}]=True on a periodic axis, which has no end; leave one of them out")
            if half:
                self.centers[axis][0] = self.edges[axis][0]
        for axis, h in enumerate(self.widths):
            if h.max() > CELL_RATIO_WARNING * h.min():
                warnings.warn(f"edges[{axis}]: cell ratio {h.max() / h.min():.1e}; check the edges, or grade them",
                              WGFlowWarning, stacklevel=2)
        self.names = _check_names(names, self.ndim)
        self.log_weight = None if log_weight is None else _check_log_weight(log_weight, shape)
        for array in (*self.edges, *self.widths, *self.centers):
            array.flags.writeable = False

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Lower and upper end of each axis."""
        return tuple((float(e[0]), float(e[-1])) for e in self.edges)

    @property
    def boundary(self) -> tuple[str, ...]:
        """``"no-flux"`` or ``"periodic"`` for each axis."""
        return tuple(BOUNDARIES[p] for p in self.periodic)

    @cached_property
    def volumes(self) -> np.ndarray:
        """Volumes of the cells, an array of the grid's shape."""
        volumes = self.widths[0]
        for h in self.widths[1:]:
            volumes = volumes[..., None] * h
        volumes = np.array(volumes, order="C")
        volumes.flags.writeable = False
        return volumes

    @cached_property
    def log_reference(self) -> np.ndarray:
        """Logarithm of the reference measure of each cell, volume times weight; the entropy is relative to it."""
        log_volumes = np.log(self.volumes)
        return log_volumes if self.log_weight is None else log_volumes + self.log_weight

    def mesh(self) -> tuple[np.ndarray, ...]:
        """Coordinates of the cell centers as full arrays of the grid's shape, one for each axis."""
        return tuple(np.meshgrid(*self.centers, indexing="ij"))

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
        """Values of a user's function at the cell centers, checked: shape, kind and finiteness.

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

    def __repr__(self):
        box = " x ".join(f"[{lo:g}, {hi:g}]" for lo, hi in self.bounds)
        weight = "" if self.log_weight is None else ", weighted"
        return f"Grid({box}, cells={self.shape}, boundary={self.boundary}{weight})"


def log_power_cell_average(edges, power: float) -> np.ndarray:
    r"""Logarithm of the averages of :math:`r^p` over cells, :math:`\log \frac{1}{h_i} \int_{r_i}^{r_{i+1}} r^p\,dr`.

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
    (edges,) = _check_edges([edges])
    if edges[0] < 0:
        raise InvalidInput(f"edges[0]={edges[0]:g}: a radius starts at 0 or above")
    if isinstance(power, bool) or not isinstance(power, numbers.Real):
        raise InvalidType(f"power must be a number, got {power!r}")
    if not (math.isfinite(power) and power > -1):
        raise InvalidInput(f"power={power!r}: need a finite number > -1, so that the integral over a cell at 0 exists")
    q = power + 1
    with np.errstate(divide="ignore"):
        log_edges = np.log(edges)
        # (b^q - a^q)/(q h) with a/b = e^-s: the difference is formed by expm1, which keeps narrow cells accurate.
        shrink = np.log(-np.expm1(q * (log_edges[:-1] - log_edges[1:])))
    return q * log_edges[1:] + shrink - math.log(q) - np.log(np.diff(edges))


def call_user(function, arguments, what: str):
    """Call a user's function; an exception in it becomes InvalidInput that names the argument, with its cause.

    It sees read-only arrays. Overflow and division by zero are left to the checks of what it returns.
    """
    if not callable(function):
        raise InvalidType(f"{what} must be callable, a function of the coordinates; got {type(function).__name__}")
    arguments = [_read_only(a) if isinstance(a, np.ndarray) else a for a in arguments]
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except Exception as error:
        raise InvalidInput(
            f"{what} raised {type(error).__name__}: {error}; it is called with one array for each of "
            f"{len(arguments)} coordinates (read-only) and returns an array of their shape"
        ) from error


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def real_array(values, what: str) -> np.ndarray:
    """``values`` as a float64 array, or InvalidType for kinds that are not real numbers, InvalidInput for masks."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InvalidInput(f"{what} is a masked array with {np.ma.count_masked(values)} masked cells; fill them first")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidType(f"{what} is not a rectangular array of real numbers: {error}") from error
    if array.dtype.kind == "c":
        raise InvalidType(f"{what} has complex dtype {array.dtype}; need real numbers")
    if array.dtype.kind not in "fiub":
        raise InvalidType(f"{what} has dtype {array.dtype}; need real numbers")
    return array.astype(np.float64)


def check_values(values, grid: Grid, what: str) -> np.ndarray:
    """``values`` as a float64 array of the grid's shape with finite entries, or an error that says where not."""
    array = real_array(values, what)
    if array.shape != grid.shape:
        if array.ndim == 0:
            raise InvalidInput(f"{what} returned shape (): need {grid.shape}, one value for each cell; "
                               f"for a constant return {array} + 0*x")
        raise InvalidInput(f"{what} has shape {array.shape}, the grid {grid.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        cell = tuple(int(k) for k in np.argwhere(bad)[0])
        place = ", ".join(f"{c[k]:g}" for c, k in zip(grid.centers, cell))
        raise InvalidInput(f"{what} is {array[cell]} at ({place}), cell {cell}, and in {int(bad.sum())} cells in all; "
                           "it must be finite everywhere on the grid")
    return np.ascontiguousarray(array)


def available_memory() -> int:
    """Bytes of memory that this machine can still give."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 8 * 2**30


def check_memory(need: float, what: str, fix: str) -> None:
    """Raise ResourceError if ``need`` bytes are more than this machine can give."""
    if need <= SMALL_REQUEST:
        return
    free = available_memory()
    if need > free:
        raise ResourceError(f"{what} needs {need / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are free; {fix}")


def _check_memory(shape) -> None:
    check_memory(8.0 * WORK_ARRAYS * float(math.prod(shape)), f"cells={shape}: a solve with so many cells",
                 "take fewer cells or axes")


def _check_bounds(bounds) -> list[tuple[float, float]]:
    try:
        pairs = list(bounds)
        if len(pairs) == 2 and all(isinstance(b, numbers.Real) for b in pairs):
            pairs = [tuple(pairs)]
        pairs = [tuple(pair) for pair in pairs]
    except TypeError as error:
        raise InvalidType(f"bounds={bounds!r}: need a (lo, hi) pair for each axis") from error
    _check_axes(len(pairs), "bounds")
    for axis, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(b, numbers.Real) for b in pair):
            raise InvalidInput(f"bounds[{axis}]={pair!r}: need a pair of numbers (lo, hi)")
        lo, hi = map(float, pair)
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise InvalidInput(f"bounds[{axis}] must be finite, got ({lo}, {hi})")
        if not lo < hi:
            raise InvalidInput(f"bounds[{axis}]: lo={lo:g} must be < hi={hi:g}")
        pairs[axis] = (lo, hi)
    return pairs


def _check_axes(n: int, what: str) -> None:
    if not 1 <= n <= MAX_AXES:
        raise InvalidInput(f"{what} has {n} axes; a grid has 1 to {MAX_AXES}")


def _check_cells(cells, ndim: int) -> tuple[int, ...]:
    if cells is None:
        raise InvalidInput("cells: say how many cells each axis has, e.g. cells=200")
    entries = list(cells) if isinstance(cells, (tuple, list, np.ndarray)) else [cells] * ndim
    for axis, n in enumerate(entries):
        if isinstance(n, (bool, np.bool_)) or not isinstance(n, numbers.Integral):
            raise InvalidType(f"cells[{axis}] must be an int, got {type(n).__name__} {n!r}")
        if int(n) < 2:
            raise InvalidInput(f"cells[{axis}]={n}: need an integer >= 2")
        if int(n) > MAX_CELLS:
            raise ResourceError(f"cells[{axis}] is larger than {MAX_CELLS}, more than any memory holds; "
                                "take fewer cells")
    if len(entries) != ndim:
        raise InvalidInput(f"cells has {len(entries)} entries, bounds {ndim}")
    return tuple(int(n) for n in entries)


def _uniform_edges(axis: int, lo: float, hi: float, n: int, half: bool) -> np.ndarray:
    width = (hi - lo) / (n - 0.5 if half else n)
    if not math.isfinite(width) or width < 4 * math.ulp(max(abs(lo), abs(hi))):
        raise InvalidInput(f"bounds[{axis}]: cell width {width:.3g} is not resolvable at x={max(abs(lo), abs(hi)):.3g}")
    return np.append(lo, np.linspace(lo + 0.5 * width, hi, n)) if half else np.linspace(lo, hi, n + 1)


def _widths(edges: np.ndarray, even: bool, half: bool) -> np.ndarray:
    """Cell widths, the same to the last bit where the edges are evenly spaced."""
    if even:
        return np.full(edges.size - 1, (edges[-1] - edges[0]) / (edges.size - 1))
    widths = np.diff(edges)
    rest = (edges[-1] - edges[0]) / (edges.size - 1.5)
    if half and _is_uniform(edges[1:]) and math.isclose(widths[0], 0.5 * rest, rel_tol=1e-9):
        widths[0], widths[1:] = 0.5 * rest, rest
    return widths


def _check_edges(edges) -> tuple[np.ndarray, ...]:
    flat = isinstance(edges, np.ndarray) and edges.ndim == 1 and edges.dtype != object
    if flat or (isinstance(edges, (list, tuple)) and edges and isinstance(edges[0], numbers.Real)):
        edges = [edges]
    if not isinstance(edges, (list, tuple, np.ndarray)):
        raise InvalidType(f"edges must be a sequence of 1-D arrays, one for each axis, got {type(edges).__name__}")
    _check_axes(len(edges), "edges")
    checked = []
    for axis, given in enumerate(edges):
        e = real_array(given, f"edges[{axis}]")
        if e.ndim != 1 or e.size < 3:
            raise InvalidInput(f"edges[{axis}] has shape {e.shape}: need a 1-D array of at least 3 edges (2 cells)")
        if not np.isfinite(e).all():
            raise InvalidInput(f"edges[{axis}] must be finite, got {e[~np.isfinite(e)][0]}")
        if not (np.diff(e) > 0).all():
            k = int(np.argmin(np.diff(e) > 0)) + 1
            raise InvalidInput(f"edges[{axis}] must increase strictly; "
                               f"edges[{k}]={e[k]:g} <= edges[{k - 1}]={e[k - 1]:g}")
        checked.append(e)
    return tuple(checked)


def _is_uniform(edges: np.ndarray) -> bool:
    even = np.linspace(edges[0], edges[-1], edges.size)
    return bool(np.abs(edges - even).max() <= 4 * np.spacing(np.abs(edges).max()))


def _check_origin(origin, ndim: int) -> tuple[bool, ...]:
    entries = [origin] * ndim if isinstance(origin, bool) else list(origin) if isinstance(origin, (list, tuple)) else []
    if len(entries) != ndim or not all(isinstance(entry, bool) for entry in entries):
        raise InvalidInput(f"origin={origin!r}: need True or False, or one of them for each of {ndim} axes")
    return tuple(entries)


def _check_boundary(boundary, ndim: int) -> tuple[bool, ...]:
    if not isinstance(boundary, (str, list, tuple)):
        raise InvalidType(f"boundary must be one of {', '.join(BOUNDARIES)}, or a tuple of them, got {boundary!r}")
    entries = [boundary] * ndim if isinstance(boundary, str) else list(boundary)
    for axis, entry in enumerate(entries):
        if isinstance(entry, (tuple, list)):
            if len(entry) == 2 and entry[0] == entry[1]:
                entries[axis] = entry = entry[0]
            else:
                raise InvalidInput(f"boundary[{axis}]={entry!r}: periodic needs both sides of axis {axis}; "
                                   "give one word for each axis")
        if entry not in BOUNDARIES:
            guess = difflib.get_close_matches(str(entry), BOUNDARIES, n=1, cutoff=0.3)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise InvalidInput(f"boundary[{axis}]: unknown boundary {entry!r}{hint} allowed: {', '.join(BOUNDARIES)}")
    if len(entries) != ndim:
        raise InvalidInput(f"boundary has {len(entries)} entries, the grid {ndim} axes")
    return tuple(entry == "periodic" for entry in entries)


def _check_names(names, ndim: int) -> tuple[str, ...]:
    if names is None:
        return ("x", "y", "z", "w")[:ndim]
    names = (names,) if isinstance(names, str) else tuple(str(name) for name in names)
    if len(names) != ndim or len(set(names)) != ndim:
        raise InvalidInput(f"names={names}: need {ndim} different names, one for each axis")
    return names


def _check_log_weight(log_weight, shape) -> np.ndarray:
    array = real_array(log_weight, "log_weight")
    if array.shape != shape:
        raise InvalidInput(f"log_weight has shape {array.shape}, the grid {shape}")
    if not np.isfinite(array).all():
        raise InvalidInput("log_weight must be finite: give the logarithm of cell averages, which are positive "
                           "(log_power_cell_average), not of point values")
    array.flags.writeable = False
    return array
