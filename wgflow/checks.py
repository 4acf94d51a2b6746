"""Checks of users' input: numbers, arrays, functions, and the memory that they need.

Each check returns the value in the form in which it is used, or raises InvalidInput (InvalidType for values of a wrong
kind) with the name of the argument, its value and the rule.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING

import numpy as np

from wgflow.errors import InvalidInput, InvalidType, ResourceError, WGFlowWarning

if TYPE_CHECKING:
    from wgflow.grids import Grid

#: Arrays of the size of the grid that a solve keeps at the same time, for the memory check of a grid.
WORK_ARRAYS = 12
#: The smallest float above 0, and a factor that does not change it.
SMALLEST, ONE = 2.0**-1074, 1.0
#: Requests of fewer bytes are granted without a look at the free memory.
SMALL_REQUEST = 64e6
#: The largest count there is: a signed integer of 64 bits, in which NumPy and Numba count.
LARGEST_COUNT = 2**63 - 1
#: Characters of a value in a message, at most.
LONGEST_TEXT = 60
#: What to write where a function takes numbers and not arrays, by the words of the exception.
ARRAY_HINTS = (
    ("truth value of an array", "in place of `if` write np.where(x > 0, a, b), in place of max(x, 0) np.maximum(x, 0)"),
    ("can be converted to Python scalars", "in place of the functions of math write those of NumPy, such as np.cos"),
    ("must be real number, not", "in place of the functions of math write those of NumPy, such as np.cos"),
)


def described(value: object) -> str:
    """Return a value for a message, in a few words: what it is where its text would be long.

    An int of thousands of digits, which Python refuses to print, is given by its power of ten.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_COUNT:
        return f"{'-' if value < 0 else ''}1e{math.log10(abs(value)):.0f}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"an ndarray of shape {value.shape}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    text = " ".join(repr(value).split())
    if len(text) <= LONGEST_TEXT:
        return text
    article = "an" if type(value).__name__[0] in "AEIOU" else "a"
    return f"{article} {type(value).__name__}"


def kind_of(value: object) -> str:
    """Return of what kind a value is, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _kind_and(value: object) -> str:
    """Return of what kind a value is and what it is, for a message, and nothing twice."""
    kind, text = type(value).__name__, described(value)
    return text if kind in text else f"{kind} {text}"


def as_float(name: str, value) -> float:
    """Return a real number as a float, infinite or NaN too; bool, complex, strings and arrays are refused.

    Raises
    ------
    InvalidType
        If it is not a real number.
    InvalidInput
        If it is an int that is larger than any float.
    """
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise InvalidType(f"{name} must be a number, got {_kind_and(value)}")
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidInput(f"{name}={described(value)}: larger than any float; take at most 1.8e308") from error


def length_of(values) -> int:
    """Return how many entries a sequence has, at most `LARGEST_COUNT` (a ``range`` may have more); 1 of a scalar."""
    try:
        return len(values) if isinstance(values, Sized) else 1
    except OverflowError:
        return LARGEST_COUNT


def check_size(values, what: str) -> None:
    """Raise ResourceError if an array of floats made of ``values`` does not fit into the free memory.

    It looks at the length alone, so that a ``range`` or a broadcast view of 1e12 numbers is refused before a copy.
    """
    count = values.size if isinstance(values, np.ndarray) else length_of(values)
    if 8.0 * count > SMALL_REQUEST:
        check_memory(8.0 * count, f"{what}: an array of {count} numbers", "take fewer")


def call_user(function, arguments, what: str):
    """Call a user's function; an exception in it becomes InvalidInput that names the argument, with its cause.

    It is called with read-only arrays. Overflow and division by zero are left to the checks of its values.
    """
    if not callable(function):
        raise InvalidType(f"{what} must be callable, a function of the coordinates; got {type(function).__name__}")
    arguments = [_read_only(a) if isinstance(a, np.ndarray) else a for a in arguments]
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except MemoryError as error:
        # The machine's limit, and no fault of the function.
        raise out_of_memory(error, f"{what}, called with {_largest(arguments)} values,") from error
    except Exception as error:
        words = " ".join(str(error).split())
        count = f"{len(arguments)} coordinate{'' if len(arguments) == 1 else 's'}"
        hint = next((f"; {hint}" for key, hint in ARRAY_HINTS if key in words), "")
        raise InvalidInput(f"{what} raised {type(error).__name__}: {words}; it is called with {count}, a read-only "
                           f"array for each, and returns an array of their shape{hint}") from error


def _largest(arguments) -> int:
    return max((a.size for a in arguments if isinstance(a, np.ndarray)), default=1)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def real_array(values, what: str) -> np.ndarray:
    """Return ``values`` as a float64 array; raise InvalidType if they are not real numbers, InvalidInput if masked."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InvalidInput(f"{what} is a masked array with {np.ma.count_masked(values)} masked cells; fill them first")
    check_size(values, what)
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
    """Return ``values`` as a finite float64 array of the grid's shape; the error says where an entry is not finite."""
    array = real_array(values, what)
    if array.shape != grid.shape:
        if array.ndim == 0:
            raise InvalidInput(f"{what} returned shape (): need {grid.shape}, one value for each cell; "
                               f"for a constant return {array} + 0*x")
        raise InvalidInput(f"{what} has shape {array.shape}, the grid {grid.shape}")
    if not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        cell = tuple(int(k) for k in np.argwhere(bad)[0])
        place = ", ".join(f"{c[k]:g}" for c, k in zip(grid.centers, cell))
        raise InvalidInput(f"{what} is {array[cell]} at ({place}), cell {cell}, and in {int(bad.sum())} cells in all; "
                           "it must be finite everywhere on the grid")
    return np.ascontiguousarray(array)


def available_memory() -> int:
    """Return the number of bytes of memory that this process can still take.

    The least of what the machine has free, what the limits of the containers around the process leave (control groups,
    version 2, and version 1 where the whole machine is the container), and what the limit of its address space leaves.
    """
    return max(0, min(_free_of_machine(), *_left_by_containers(), _left_by_limit()))


def _free_of_machine() -> int:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 8 * 2**30


def _left_by_containers() -> list[int]:
    """Return what each control group on the way to the root leaves of its limit; empty without limits."""
    left, root = [], "/sys/fs/cgroup"
    path = next((line[3:].strip() for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "").rstrip("/")
    groups = [path[:k] for k, letter in enumerate(path) if letter == "/"] + [path]
    for group in groups:
        left += _left(f"{root}{group}/memory.max", f"{root}{group}/memory.current", f"{root}{group}/memory.stat")
    return left + _left(f"{root}/memory/memory.limit_in_bytes", f"{root}/memory/memory.usage_in_bytes",
                        f"{root}/memory/memory.stat")


def _left(limit: str, used: str, statistics: str) -> list[int]:
    """Return limit - used of a control group; what its cache of files holds is given back when it is needed."""
    limits, uses = _lines(limit), _lines(used)
    if not (limits and uses and limits[0].strip().isdigit() and uses[0].strip().isdigit()):
        return []
    cache = (int(line.split()[1]) for line in _lines(statistics) if line.startswith("inactive_file "))
    return [int(limits[0]) - int(uses[0]) + next(cache, 0)]


def _left_by_limit() -> int:
    """Return what the limit of the address space (``ulimit -v``) leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return 2**63
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return 2**63
    pages = _lines("/proc/self/statm")
    return limit - (int(pages[0].split()[0]) * resource.getpagesize() if pages else 0)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.readlines()
    except OSError:
        return []


def room_for(need: float) -> float:
    """Return the bytes that a request may take: those that are free, without a look where it is small."""
    return math.inf if need <= SMALL_REQUEST else available_memory()


def check_memory(need: float, what: str, fix: str) -> None:
    """Raise ResourceError if ``need`` bytes are more than this machine can give."""
    if need <= SMALL_REQUEST:
        return
    free = available_memory()
    if need > free:
        raise ResourceError(f"{what} needs {need / 2**30:.3g} GiB, {free / 2**30:.3g} GiB are free for this process; "
                            f"{fix}")


def out_of_memory(error: MemoryError, what: str, fix: str = "take fewer cells, atoms or times") -> ResourceError:
    """Return a MemoryError as a ResourceError, which says what is free and what to do; one that is such stays itself.

    NumPy's own words say how much was asked for.
    """
    if isinstance(error, ResourceError):
        return error
    words = " ".join(str(error).split()) or "no more memory"
    return ResourceError(f"{what} ran out of memory: {words}; {available_memory() / 2**30:.3g} GiB are free for this "
                         f"process; {fix}")


def check_grid_memory(shape) -> None:
    need = 8.0 * WORK_ARRAYS * float(math.prod(shape))
    if need > SMALL_REQUEST:
        check_memory(need, f"cells={shape}: a solve with so many cells", "take fewer cells or axes")


def check_real(name: str, value, *, infinite: bool = False) -> float:
    """Return a real number as a float; it must be finite unless ``infinite``."""
    number = as_float(name, value)
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise InvalidInput(f"{name}={number}: must be {'a number, not NaN' if infinite else 'finite'}")
    return number


def check_positive(name: str, value, *, zero: bool = False, infinite: bool = False, allow_none: bool = False):
    """Return a number > 0 (>= 0 if ``zero``) as a float; finite unless ``infinite``. None passes if ``allow_none``."""
    if value is None and allow_none:
        return None
    number = as_float(name, value)
    if not (number >= 0 if zero else number > 0) or (math.isinf(number) and not infinite):
        raise InvalidInput(f"{name}={value}: must be {'' if infinite else 'finite and '}{'>= 0' if zero else '> 0'}")
    return number


def check_count(name: str, value, least: int = 1) -> int:
    """Return a whole number >= ``least`` as an int; ResourceError if no array or loop can count so far."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise InvalidType(f"{name} must be an int, got {_kind_and(value)}")
    count = int(value)
    if count < least:
        raise InvalidInput(f"{name}={described(count)}: need an integer >= {least}")
    if count > LARGEST_COUNT:
        raise ResourceError(f"{name}={described(count)}: larger than any memory or run can count; take at most "
                            "2^63 - 1")
    return count


def check_flag(name: str, value) -> bool:
    """Return True or False; 0, 1 and other stand-ins are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidType(f"{name}={described(value)}: need True or False")
    return bool(value)


def axis_numbers(axes: object, names: Sequence[str]) -> tuple[int, ...]:
    """Return axes as a tuple, those given by name as numbers; the numbers themselves are not checked."""
    given = (axes,) if isinstance(axes, (str, numbers.Integral)) else axes
    if not isinstance(given, (tuple, list, range, np.ndarray)):
        raise InvalidType(f"axes={axes!r}: need the number or the name of an axis, or several of them")
    found = []
    for axis in given:
        if isinstance(axis, str):
            if axis not in names:
                raise InvalidInput(f"axes={axes!r}: no axis is called {axis!r}; there are {', '.join(names)}")
            axis = names.index(axis)
        if isinstance(axis, (bool, np.bool_)) or not isinstance(axis, numbers.Integral):
            raise InvalidType(f"axes={axes!r}: need the number or the name of an axis, or several of them")
        found.append(int(axis))
    return tuple(found)


def check_interval(name: str, value) -> tuple[float, float]:
    """Return a pair (lo, hi) of finite numbers with lo < hi, as floats."""
    try:
        lo, hi = (check_real(name, end) for end in value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name}={described(value)}: must be a pair (lo, hi) of finite numbers") from error
    if lo >= hi:
        raise InvalidInput(f"{name}={described(value)}: lo must be < hi")
    return lo, hi


def check_subnormals() -> None:
    """Warn where numbers below 2.2e-308 are rounded to 0 (FTZ, DAZ), as libraries built with -ffast-math set it."""
    if SMALLEST * ONE == 0.0:
        warnings.warn("numbers below 2.2e-308 are rounded to 0 in this thread: a library that was loaded has set the "
                      "processor to it (FTZ, DAZ; -ffast-math does). Very thin tails are lost, and results differ in "
                      "their last bits from those of other machines", WGFlowWarning, stacklevel=5)
