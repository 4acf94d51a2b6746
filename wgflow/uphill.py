"""Calls against the direction of imports: a function of a module that builds on the caller, imported at the call.

Inside the core imports run one way: a module never imports one that imports it, not even inside a function. A few
convenience methods, such as ``grid.for_problem`` or ``solution.save``, need code that builds on their own class; each
names that code by strings given to `uphill`, and nothing else does. A test keeps the list of them.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["uphill"]


def uphill(module: str, name: str) -> Any:
    """Return what a module, imported now, has under a name: a function or a class."""
    return getattr(importlib.import_module(module), name)
