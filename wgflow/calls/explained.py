"""Words for calls whose arguments do not fit a function, in place of Python's own TypeError."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from wgflow.checks import described, out_of_memory
from wgflow.errors import InvalidType

__all__ = ["explained", "failed_to_bind", "misspelled", "nearest", "words_of_call"]

F = TypeVar("F", bound=Callable[..., Any])

#: Other words for arguments, by what they are called elsewhere.
SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "bc": ("boundary",), "bcs": ("boundary",), "boundaries": ("boundary",), "boundary_conditions": ("boundary",),
    "domain": ("bounds",), "extent": ("bounds",), "limits": ("bounds",), "box": ("bounds",),
    "n": ("cells", "n_particles", "n_neurons"), "nx": ("cells",), "n_cells": ("cells",), "num": ("cells",),
    "size": ("cells",), "resolution": ("cells",),
    "std": ("cov",), "sigma": ("cov",), "var": ("cov",), "variance": ("cov",), "scale": ("cov",), "mu": ("mean",),
    "loc": ("mean",), "center": ("mean",),
    "dt": ("tau",), "step": ("dt", "tau"), "timestep": ("dt", "tau"), "time_step": ("dt", "tau"),
    "tol": ("tolerance",), "atol": ("tolerance", "tol"), "rtol": ("tolerance",), "eps": ("tolerance",),
    "seed": ("rng",), "random_state": ("rng",), "temperature": ("beta",), "T": ("beta", "t_span"), "kT": ("beta",),
    "times": ("t_eval",), "saveat": ("t_eval",), "time": ("t_span",), "t": ("t_span", "t_eval"), "t_max": ("t_end",),
    "solver": ("method",), "scheme": ("method",), "rho": ("rho0",), "y0": ("rho0",), "initial": ("rho0",),
    "u0": ("rho0",), "verbose": ("progress",), "events": ("stop",), "tracker": ("callback",), "filename": ("path",),
    "file": ("path",), "fname": ("path",), "axes": ("ax",), "potential": ("V",), "kernel": ("U",),
    "alpha": ("m", "level"), "significance": ("level",),
    "lr": ("step_size",), "learning_rate": ("step_size",), "eta": ("step_size",), "epsilon": ("step_size",),
    "width": ("n_neurons",), "neurons": ("n_neurons",), "runs": ("n_runs",), "w": ("U",), "dx": ("cells",),
    "h": ("cells",),
})
#: What to mind where the other word has another meaning.
NOTES: Mapping[str, str] = MappingProxyType({
    "std": "cov, a variance: std**2", "sigma": "cov, a variance: sigma**2", "scale": "cov, a variance: scale**2",
    "temperature": "beta = 1/temperature", "kT": "beta = 1/kT",
    "w": "U, which may be a kernel of the displacement, Interaction(w)", "dx": "cells, their number",
    "h": "cells, their number"})


def explained(example: str, homes: Callable[[Mapping[str, Any]], Iterable[type]] | None = None) -> Callable[[F], F]:
    """Return a decorator: calls whose arguments do not fit the function raise InvalidType, in one line.

    And a MemoryError in the function arrives as a ResourceError.

    Parameters
    ----------
    example : str
        A call that is right.
    homes : callable, optional
        Returns, for the named arguments of a call, the methods among whose settings an unknown one may be.
    """
    def decorate(function: F) -> F:
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            try:
                return function(*args, **named)
            except MemoryError as error:
                told = out_of_memory(error, name)
                if told is error:
                    raise
                raise told from error
            except TypeError as error:
                if not failed_to_bind(error):
                    raise
                found = homes(named) if homes is not None else ()
                words = words_of_call(name, inspect.signature(function), args, named, example, found, "method=")
            raise InvalidType(words)

        return call  # type: ignore[return-value]

    return decorate


def failed_to_bind(error: TypeError) -> bool:
    """Return whether an exception that was caught where a function is called came before its first line."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def words_of_call(name: str, signature: inspect.Signature, args: tuple[Any, ...], named: Mapping[str, Any],
                  example: str, homes: Iterable[type] = (), keyword: str = "") -> str:
    """Return what is wrong with the arguments of a call.

    Parameters
    ----------
    name : str
        The function's name for readers.
    signature : Signature
        Of the function; a first parameter ``self`` or ``cls`` is left out.
    args, named
        The arguments, without those.
    example : str
        A call that is right; may be empty.
    homes : iterable of type
        Dataclasses among whose fields an unknown argument may be.
    keyword : str
        How an object of those is given, as in ``"method="``.
    """
    known = [p for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if known and known[0].name in ("self", "cls"):
        known, args = known[1:], args[1:]
    names, like = [p.name for p in known], f"; as in {example}" if example else ""
    for key, value in named.items():
        if key not in names:
            return _words_of_unknown(name, key, value, names, homes, keyword)
    places = [p.name for p in known if p.kind is not p.KEYWORD_ONLY]
    if len(args) > len(places):
        return (f"{name} takes at most {len(places)} arguments without a name ({', '.join(places)}), got "
                f"{len(args)}{like}")
    for key in places[:len(args)]:
        if key in named:
            return f"{name}: {key} is given twice, by its place and by its name{like}"
    missing = [p.name for p in known if p.default is p.empty and p.name not in named and p.name not in
               places[:len(args)]]
    return f"{name}: {' and '.join(missing)} missing{like}" if missing else f"{name}: these arguments do not fit{like}"


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the one of some words that is most like a word, whatever their cases; None if none is."""
    lower = {each.lower(): each for each in words}
    found = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


def misspelled(module: str, name: str, names: Iterable[str]) -> AttributeError:
    """Return the error of a name that a module does not have, with the one of its names that is most like it."""
    near = nearest(name, names)
    return AttributeError(f"module {module!r} has no attribute {name!r}" + (f"; did you mean {near}?" if near else ""),
                          name=name, obj=sys.modules[module])


def _words_of_unknown(name: str, key: str, value: Any, names: list[str], homes: Iterable[type], keyword: str) -> str:
    """Return what is wrong with an argument that a function does not have: where it belongs, or what it is like."""
    told = f"{key}={described(value)}: {name} has no argument {key}"
    for other in SYNONYMS.get(key, ()):
        if other in names:
            return f"{told}; did you mean {NOTES.get(key, other)}?"
    for home in homes:
        if is_dataclass(home) and key in {f.name for f in fields(home)}:
            use = f"{home.__name__}({key}={described(value)})"
            return f"{told}; it is a setting of {'the method' if keyword else home.__name__}, {keyword}{use}"
    near = nearest(key, names)
    return f"{told}; " + (f"did you mean {near}?" if near else f"there are {', '.join(names)}")
