"""Checks of the arguments of `Grid`: bounds, cells, edges, boundaries, names, weights."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable

import numpy as np

from wgflow.checks import as_float, described, real_array
from wgflow.errors import InvalidInput, InvalidType, ResourceError

BOUNDARIES = ("no-flux", "periodic")
MAX_AXES = 4
#: No memory holds an axis with more cells; the product of four such numbers does not overflow.
MAX_CELLS = 2**60
#: Coordinates up to it have squares, and sums of squares, that are finite.
LARGEST_COORDINATE = 1e150


def check_bounds(bounds) -> list[tuple[float, float]]:
    try:
        pairs = list(bounds)
        if len(pairs) == 2 and all(isinstance(b, numbers.Real) for b in pairs):
            pairs = [tuple(pairs)]
        pairs = [tuple(pair) for pair in pairs]
    except TypeError as error:
        many = getattr(bounds, "size", 0) > 2
        raise InvalidType(f"bounds={described(bounds)}: need a (lo, hi) pair for each axis"
                          + ("; edges of cells are given by name, Grid(edges=[...])" if many else "")) from error
    check_axes(len(pairs), "bounds")
    for axis, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(b, numbers.Real) for b in pair):
            raise InvalidInput(f"bounds[{axis}]={pair!r}: need a pair of numbers (lo, hi)")
        lo, hi = (as_float(f"bounds[{axis}]", end) for end in pair)
        if not (math.isfinite(lo) and math.isfinite(hi)):
            raise InvalidInput(f"bounds[{axis}] must be finite, got ({lo}, {hi})")
        if not lo < hi:
            raise InvalidInput(f"bounds[{axis}]: lo={lo:g} must be < hi={hi:g}")
        pairs[axis] = (lo, hi)
    return pairs


def _check_coordinate(what: str, largest: float) -> None:
    if largest > LARGEST_COORDINATE:
        raise InvalidInput(f"{what} reaches {largest:g}, and squares of coordinates beyond {LARGEST_COORDINATE:g} "
                           "overflow; measure in another unit")


def check_axes(n: int, what: str) -> None:
    if not 1 <= n <= MAX_AXES:
        raise InvalidInput(f"{what} has {n} axes; a grid has 1 to {MAX_AXES}")


def check_cells(cells, ndim: int) -> tuple[int, ...]:
    if cells is None:
        raise InvalidInput("cells: say how many cells each axis has, e.g. cells=200")
    entries = list(cells) if isinstance(cells, (tuple, list, np.ndarray)) else [cells] * ndim
    for axis, n in enumerate(entries):
        if isinstance(n, (bool, np.bool_)) or not isinstance(n, numbers.Integral):
            raise InvalidType(f"cells[{axis}] must be an int, got {type(n).__name__} {described(n)}")
        if int(n) < 2:
            raise InvalidInput(f"cells[{axis}]={described(n)}: need an integer >= 2")
        if int(n) > MAX_CELLS:
            raise ResourceError(f"cells[{axis}] is larger than {MAX_CELLS}, more than any memory holds; "
                                "take fewer cells")
    if len(entries) != ndim:
        raise InvalidInput(f"cells has {len(entries)} entries, bounds {ndim}")
    return tuple(int(n) for n in entries)


def uniform_edges(axis: int, lo: float, hi: float, n: int, half: bool) -> np.ndarray:
    width = (hi - lo) / (n - 0.5 if half else n)
    if not math.isfinite(width) or width < 4 * math.ulp(max(abs(lo), abs(hi))):
        raise InvalidInput(f"bounds[{axis}]: cell width {width:.3g} is not resolvable at x={max(abs(lo), abs(hi)):.3g}")
    _check_coordinate(f"bounds[{axis}]", max(abs(lo), abs(hi)))
    if half:
        return np.append(lo, np.linspace(lo + 0.5 * width, hi, n))
    # As np.linspace(lo, hi, n + 1) has it, to the last bit, in a third of its time.
    edges = np.arange(0.0, n + 1)
    edges *= (hi - lo) / n
    edges += lo
    edges[-1] = hi
    return edges


def widths_of(edges: np.ndarray, even: bool, half: bool) -> np.ndarray:
    """Return cell widths, the same to the last bit where the edges are evenly spaced."""
    if even:
        return np.full(edges.size - 1, (edges[-1] - edges[0]) / (edges.size - 1))
    widths = np.diff(edges)
    rest = (edges[-1] - edges[0]) / (edges.size - 1.5)
    if half and is_uniform(edges[1:]) and math.isclose(widths[0], 0.5 * rest, rel_tol=1e-9):
        widths[0], widths[1:] = 0.5 * rest, rest
    return widths


def check_edges(edges) -> tuple[np.ndarray, ...]:
    flat = isinstance(edges, np.ndarray) and edges.ndim == 1 and edges.dtype != object
    if flat or (isinstance(edges, (list, tuple)) and edges and isinstance(edges[0], numbers.Real)):
        edges = [edges]
    if not isinstance(edges, (list, tuple, np.ndarray)):
        raise InvalidType(f"edges must be a sequence of 1-D arrays, one for each axis, got {type(edges).__name__}")
    check_axes(len(edges), "edges")
    checked = []
    for axis, given in enumerate(edges):
        e = real_array(given, f"edges[{axis}]")
        if e.ndim != 1 or e.size < 3:
            raise InvalidInput(f"edges[{axis}] has shape {e.shape}: need a 1-D array of at least 3 edges (2 cells)")
        if not np.isfinite(e).all():
            raise InvalidInput(f"edges[{axis}] must be finite, got {e[~np.isfinite(e)][0]}")
        _check_coordinate(f"edges[{axis}]", float(np.abs(e).max()))
        if not (np.diff(e) > 0).all():
            k = int(np.argmin(np.diff(e) > 0)) + 1
            raise InvalidInput(f"edges[{axis}] must increase strictly; "
                               f"edges[{k}]={e[k]:g} <= edges[{k - 1}]={e[k - 1]:g}")
        checked.append(e)
    return tuple(checked)


def is_uniform(edges: np.ndarray) -> bool:
    even = np.linspace(edges[0], edges[-1], edges.size)
    return bool(np.abs(edges - even).max() <= 4 * np.spacing(np.abs(edges).max()))


def check_origin(origin, ndim: int) -> tuple[bool, ...]:
    entries = [origin] * ndim if isinstance(origin, bool) else list(origin) if isinstance(origin, (list, tuple)) else []
    if len(entries) != ndim or not all(isinstance(entry, bool) for entry in entries):
        raise InvalidInput(f"origin={origin!r}: need True or False, or one of them for each of {ndim} axes")
    return tuple(entries)


def check_boundary(boundary, ndim: int) -> tuple[tuple[bool, ...], tuple[tuple[bool, bool], ...]]:
    """Return which axes are periodic, and of each axis which of its two ends were declared as walls."""
    if not isinstance(boundary, (str, list, tuple, type(None))):
        raise InvalidType(f"boundary must be one of {', '.join(BOUNDARIES)}, None, or a tuple of them, got "
                          f"{boundary!r}")
    entries = [boundary] * ndim if boundary is None or isinstance(boundary, str) else list(boundary)
    if ndim == 1 and len(entries) == 2 and all(entry is None or isinstance(entry, str) for entry in entries):
        entries = [tuple(entries)]
    ends = []
    for axis, entry in enumerate(entries):
        pair = tuple(entry) if isinstance(entry, (tuple, list)) else (entry, entry)
        for word in pair:
            if word is not None and word not in BOUNDARIES:
                raise InvalidInput(f"boundary[{axis}]={word!r}: {_about_boundary(str(word))}allowed: "
                                   f"{', '.join(BOUNDARIES)}, or None")
        if len(pair) != 2:
            raise InvalidInput(f"boundary[{axis}]={entry!r}: need one word for the axis, or one for each of its ends")
        if "periodic" in pair and pair[0] != pair[1]:
            raise InvalidInput(f"boundary[{axis}]={entry!r}: periodic needs both sides of axis {axis}; "
                               "give one word for each axis")
        ends.append(pair)
    if len(ends) != ndim:
        raise InvalidInput(f"boundary has {len(ends)} entries, the grid {ndim} axes")
    return (tuple(pair[0] == "periodic" for pair in ends),
            tuple((low == "no-flux", high == "no-flux") for low, high in ends))


def check_names(names, ndim: int, what: str = "axis") -> tuple[str, ...]:
    if names is None:
        return ("x", "y", "z", "w")[:ndim]
    found = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else ()
    if not (found and all(isinstance(name, str) for name in found)):
        raise InvalidType(f"names={described(names)}: need strings, one for each {what}, such as names=('x', 'y')")
    if len(found) != ndim or len(set(found)) != ndim:
        raise InvalidInput(f"names={found}: need {ndim} different names, one for each {what}")
    return tuple(str(name) for name in found)


def check_log_weight(log_weight, shape) -> np.ndarray:
    array = real_array(log_weight, "log_weight")
    if array.shape != shape:
        raise InvalidInput(f"log_weight has shape {array.shape}, the grid {shape}")
    if not np.isfinite(array).all():
        raise InvalidInput("log_weight must be finite: give the logarithm of cell averages, which are positive "
                           "(log_power_cell_average), not of point values")
    array.flags.writeable = False
    return array


def _about_boundary(word: str) -> str:
    """Return what a word of another library means here."""
    plain = word.lower().replace("_", "-")
    if plain == "open" or any(part in plain for part in ("dirichlet", "absorb", "fixed", "outflow", "inflow", "robin",
                                                         "transparent")):
        return ("mass neither leaves nor enters a gradient flow, so that ends which absorb or hold a value are out of "
                "scope; first-passage times come from a cliff of V behind the end, docs/first-passage.md; ")
    if any(part in plain for part in ("neumann", "reflect", "wall", "flux", "closed")):
        return "unknown boundary; did you mean 'no-flux'? "
    guess = difflib.get_close_matches(plain, BOUNDARIES, n=1, cutoff=0.3)
    return f"unknown boundary; did you mean {guess[0]!r}? " if guess else "unknown boundary; "
