"""Kinds of values in a study in TOML, and what all of its tables have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Cells", "Count", "NotNegative", "Number", "Pair", "Positive", "Table", "Text", "key", "needed"]

Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
Cells = Annotated[int, Field(ge=2, le=2**60)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Text = Annotated[str, Field(min_length=1)]


def key(words: str, default: Any = None) -> Any:
    """A key that may be left out."""
    return Field(default=default, description=words)


def needed(words: str) -> Any:
    return Field(description=words)


class Table(BaseModel):
    """A table without other keys than its own, whose values are of their kinds: no number is made of a text."""

    model_config = ConfigDict(extra="forbid", strict=True)
