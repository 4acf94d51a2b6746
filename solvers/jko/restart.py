"""JKO steps as the arrays and numbers of a checkpoint, and back."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from wgflow.densities import Density
from wgflow.grids import Grid
from wgflow.jko_steps import JKOStep

__all__ = ["flatten", "rebuild"]

#: The numbers of a step that a resumed run needs.
FIELDS = ("w2_squared", "energy", "gap", "residual", "iterations", "tau", "bias")


def flatten(step: JKOStep, prefix: str) -> dict[str, Any]:
    """Return the density, state and numbers of a step: arrays as ``prefix_*``, the rest in a table ``prefix``."""
    table: dict[str, Any] = {name: getattr(step, name) for name in FIELDS}
    out: dict[str, Any] = {f"{prefix}_density": step.rho.values}
    plain = {}
    for name, value in step.state.items():
        if isinstance(value, np.ndarray):
            out[f"{prefix}_{name}"] = value
        elif value is None or isinstance(value, (bool, numbers.Real)):
            plain[name] = value
        else:
            raise TypeError(f"state[{name!r}] is a {type(value).__name__}; a checkpoint takes arrays and numbers")
    out[prefix] = {"numbers": table, "plain": plain}
    return out


def rebuild(saved: dict[str, Any], prefix: str, grid: Grid) -> JKOStep:
    """Return the step whose parts `flatten` stored."""
    table = saved[prefix]
    arrays = {name[len(prefix) + 1:]: value for name, value in saved.items()
              if name.startswith(f"{prefix}_") and isinstance(value, np.ndarray)}
    density = Density(grid, arrays.pop("density"))
    values = {name: table["numbers"][name] for name in FIELDS}
    return JKOStep(density, **values, state={**table["plain"], **arrays})
