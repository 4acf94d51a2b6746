"""The items of a sweep: their parameters, seeds and identities, the files of their results, and how one is run."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import logging
import math
import numbers
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.checks import described
from wgflow.errors import InvalidInput, ResourceError, StorageError
from wgflow.files.archives import encode, read_npz, write_npz
from wgflow.solution import Solution

__all__ = ["Item", "Outcome", "identity_of", "item_file", "items_of", "read_item", "run_item", "write_item"]

logger = logging.getLogger(__name__)

#: Numbers and arrays that one item may return: an archive has at most 64 members, with its header.
MOST_VALUES = 60
KIND = "sweep"


@dataclass(frozen=True)
class Item:
    """One call of a sweep: the place in its order, the parameters, and the seed of its random stream (or None)."""

    index: int
    parameters: dict[str, Any]
    seed: np.random.SeedSequence | None


@dataclass(frozen=True)
class Outcome:
    """What came of one call: the values that the function returned, or the error that it raised, in words."""

    values: dict[str, np.ndarray] | None
    error: str = ""


def items_of(parameters: object, rng: object) -> tuple[dict[str, list], list[Item]]:
    """Return the lists of the axes (empty for single points) and the items, in the order of ``itertools.product``."""
    axes: dict[str, list] = {}
    if isinstance(parameters, Mapping):
        axes = {_name(key): _list(key, values) for key, values in parameters.items()}
        points = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    elif isinstance(parameters, Sequence) and all(isinstance(point, Mapping) for point in parameters):
        points = [{_name(key): _plain(key, value) for key, value in point.items()} for point in parameters]
        if len({tuple(sorted(point)) for point in points}) > 1:
            raise InvalidInput("parameters: every point of a list must name the same parameters")
    else:
        raise InvalidInput(f"parameters is a {type(parameters).__name__}; need a dictionary of lists (all combinations)"
                           " or a list of dictionaries (single points)")
    if not points or not points[0]:
        raise InvalidInput("parameters names no values; give at least one, as in {'beta': [1.0, 10.0]}")
    if rng is not None and "rng" in points[0]:
        raise InvalidInput("parameters has the name 'rng', under which each item gets its generator; take another name")
    seeds = [None] * len(points) if rng is None else _seed_sequence(rng).spawn(len(points))
    return axes, [Item(k, point, seed) for k, (point, seed) in enumerate(zip(points, seeds))]


def _name(key: object) -> str:
    if not isinstance(key, str) or not key.isidentifier():
        raise InvalidInput(f"parameters has the key {key!r}; need the name of an argument of the function")
    return key


def _list(key: object, values: object) -> list:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, (Sequence, np.ndarray)):
        raise InvalidInput(f"parameters[{key!r}] must be a list of values, got {values!r}")
    found = [_plain(key, value) for value in values]
    if not found:
        raise InvalidInput(f"parameters[{key!r}] is empty; give at least one value")
    if len({json.dumps(encode(value)) for value in found}) < len(found):
        raise InvalidInput(f"parameters[{key!r}] has a value twice")
    return found


def _plain(key: object, value: Any) -> Any:
    """Return a value that a file can hold and a hash can tell apart: no object of any other kind."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and not math.isnan(value)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(key, each) for each in value)
    raise InvalidInput(f"parameters[{key!r}] has the value {value!r}; need numbers (not NaN), strings, booleans, None"
                       " or tuples of them: build other objects from these inside the function")


def _seed_sequence(rng: object) -> np.random.SeedSequence:
    if isinstance(rng, np.random.SeedSequence):
        return rng
    if isinstance(rng, np.random.Generator) and isinstance(rng.bit_generator.seed_seq, np.random.SeedSequence):
        return rng.bit_generator.seed_seq
    if isinstance(rng, numbers.Integral) and not isinstance(rng, bool) and int(rng) >= 0:
        return np.random.SeedSequence(int(rng))
    raise InvalidInput(f"rng={rng!r}: need None, an int >= 0, a SeedSequence or a Generator that was made from a seed")


# ------------------------------------------------------------------- identity
def identity_of(function: Callable[..., Any], item: Item) -> str:
    """Return the SHA-256 of everything that is known to decide the values of an item.

    These are the function's name and source text, the parameters, the seed and the version of wgflow. Functions that
    this function calls are not seen.
    """
    from importlib.metadata import version

    seed = None if item.seed is None else [item.seed.entropy, list(item.seed.spawn_key), item.seed.pool_size]
    known = [version("wgflow"), _describe(function), dict(sorted(item.parameters.items())), seed]
    return hashlib.sha256(json.dumps(encode(known)).encode()).hexdigest()


def _describe(function: Any) -> list:
    if isinstance(function, partial):
        settings = [_plain("partial", value) for value in function.args]
        named = {key: _plain(key, value) for key, value in sorted(function.keywords.items())}
        return ["partial", _describe(function.func), settings, named]
    if hasattr(function, "digest"):
        return ["file", str(function.name), str(function.digest)]
    if not inspect.isfunction(function) or function.__closure__:
        raise InvalidInput(f"function={function!r} holds values that a file name cannot tell apart (an object or a "
                           "function inside another); with folder=..., give a function defined at the top of a module")
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError) as error:
        raise InvalidInput(f"function={function.__qualname__}: its source text is not to be had, so that a change of "
                           "it would go unseen; with folder=..., give a function defined in a file") from error
    defaults = [repr(function.__defaults__), repr(function.__kwdefaults__)]
    return [function.__qualname__, text, defaults]


# ---------------------------------------------------------------------- files
def item_file(folder: Path, identity: str) -> Path:
    """Return the path of an item's file."""
    return folder / f"item-{identity[:32]}.npz"


def write_item(path: Path, item: Item, identity: str, values: dict[str, np.ndarray]) -> None:
    """Write the values of an item, atomically."""
    header = {"identity": identity, "names": list(values), "parameters": item.parameters}
    write_npz(path, KIND, header, {f"value_{k}": value for k, value in enumerate(values.values())})


def read_item(path: Path, identity: str) -> dict[str, np.ndarray] | None:
    """Return the values in an item's file; None, with a warning in the log, if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        header, arrays = read_npz(path, KIND)
        names = header.get("names")
        if header.get("identity") != identity or not isinstance(names, list) or len(names) != len(arrays):
            raise StorageError(f"{path} is damaged: it belongs to another item")
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise StorageError(f"{path} is damaged: its values have the names {described(names)}")
        return {name: arrays[f"value_{k}"] for k, name in enumerate(names)}
    except (StorageError, ResourceError, KeyError) as error:
        logger.warning("%s; the item is computed again", error)
        return None


# -------------------------------------------------------------------- running
def run_item(function: Callable[..., Any], item: Item) -> Outcome:
    """Call the function at the parameters of an item; an exception in it becomes the words of the outcome."""
    more = {} if item.seed is None else {"rng": np.random.default_rng(item.seed)}
    try:
        return Outcome(_values(function(**item.parameters, **more)))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(None, f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")


def _values(returned: Any) -> dict[str, np.ndarray]:
    if isinstance(returned, Solution):
        returned = _numbers_of(returned)
    if not isinstance(returned, Mapping) or not 0 < len(returned) <= MOST_VALUES:
        raise InvalidInput(f"function must return a Solution or a dictionary of 1 to {MOST_VALUES} numbers or arrays, "
                           f"got {type(returned).__name__}")
    found: dict[str, np.ndarray] = {}
    for name, value in returned.items():
        array = np.asarray(value)
        if not isinstance(name, str) or array.dtype.kind not in "fiub":
            raise InvalidInput(f"function returned {name!r} of type {type(value).__name__}; need numbers or arrays")
        found[name] = array.astype({"f": np.float64, "b": np.bool_}.get(array.dtype.kind, np.int64))
    return found


def _numbers_of(solution: Solution) -> dict[str, Any]:
    certificate = solution.certificate
    return {"t": solution.t[-1], "energy": solution.energy[-1], "mass_drift": certificate.mass_drift,
            "min_density": certificate.min_density, "max_energy_increase": certificate.max_energy_increase,
            "n_accepted": certificate.n_accepted, "success": bool(solution.success), "certified": bool(certificate.ok)}
