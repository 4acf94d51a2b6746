"""The settings of a method as words and as tables."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, cast

__all__ = ["changed", "table_of"]

#: Kinds of settings that are no tables.
PLAIN = frozenset({type(None), bool, int, float, str})


def changed(settings: object) -> list[str]:
    """Return the fields of a dataclass that are not the defaults, as ``name=value``; none of another object."""
    made: tuple[Any, ...] = fields(cast(Any, settings)) if is_dataclass(settings) else ()
    given = [(f, getattr(settings, f.name)) for f in made if f.repr]
    return [f"{f.name}={value!r}" for f, value in given if value is not f.default
            and (f.default is MISSING or repr(value) != repr(f.default))]


def table_of(settings: object) -> dict[str, Any]:
    """Return the fields of a dataclass by name; those that are dataclasses as tables. `asdict` copies, and is slow."""
    values = {field.name: getattr(settings, field.name) for field in fields(cast(Any, settings))}
    return {name: value if type(value) in PLAIN else table_of(value) if is_dataclass(value)
            else dict(value) if isinstance(value, dict) else value for name, value in values.items()}
