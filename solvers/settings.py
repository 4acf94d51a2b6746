"""The settings of a method as words and as tables."""

from __future__ import annotations

import functools
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, cast

__all__ = ["changed", "table_of"]

#: Kinds of settings that are no tables.
PLAIN = frozenset({type(None), bool, int, float, str})


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Return name, default and whether it is shown of each field of a dataclass; none of another class."""
    return tuple((f.name, f.default, f.repr) for f in fields(cast(Any, kind))) if is_dataclass(kind) else ()


def changed(settings: object) -> list[str]:
    """Return the fields of a dataclass that are not the defaults, as ``name=value``; none of another object."""
    kind: Any = type(settings)
    given = [(name, getattr(settings, name), default) for name, default, shown in _fields(kind) if shown]
    return [f"{name}={value!r}" for name, value, default in given if value is not default
            and (default is MISSING or repr(value) != repr(default))]


def table_of(settings: object) -> dict[str, Any]:
    """Return the fields of a dataclass by name; those that are dataclasses as tables. `asdict` copies, and is slow."""
    kind: Any = type(settings)
    values = {name: getattr(settings, name) for name, _, _ in _fields(kind)}
    return {name: value if type(value) in PLAIN else table_of(value) if is_dataclass(value)
            else dict(value) if isinstance(value, dict) else value for name, value in values.items()}
