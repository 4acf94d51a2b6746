"""Calls up the hill: a method of a simple object that is served by a room which builds on that object.

Imports inside the core run one way: what a file imports does not import it back, inside functions either. A few methods
are there for convenience alone, such as ``grid.for_problem`` or ``solution.save``, and are served from above; each
names its server here, by a string, and nothing else does. A test holds the list of them.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["uphill"]


def uphill(module: str, name: str) -> Any:
    """Return what a module, imported now, has under a name: a function or a class."""
    return getattr(importlib.import_module(module), name)
