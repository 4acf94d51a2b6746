"""Texts that describe a study or a sweep, in TOML: read with a limit of their length, and refused in words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from wgflow.checks import described
from wgflow.errors import InvalidInput

from .archives import open_regular

__all__ = ["read_toml"]

#: Bytes of a description, at most: what is longer is none.
LONGEST = 1_000_000


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a file in TOML.

    Raises
    ------
    InvalidInput
        If it is no such file, or longer than `LONGEST`.
    StorageError
        If it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise InvalidInput(f"{path} is larger than {LONGEST} bytes; a study is a short text")
    try:
        text = content.decode("utf-8")
        return tomllib.loads(text)
    except (UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path} is not a TOML file: {described(str(error))}") from error
    except ValueError as error:  # TOMLDecodeError, and numbers and dates that are none
        words, place = str(error), re.search(r"at line (\d+)", str(error))
        if "overwrite" in words or "twice" in words:
            words = f"a key or a table is given twice ({words})"
        line = text.splitlines()[int(place[1]) - 1].strip() if place else ""
        raise InvalidInput(f"{path} is not a TOML file: {words}" + (f": {line[:80]}" if line else "")) from error
