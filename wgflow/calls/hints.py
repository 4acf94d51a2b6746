"""What is said where an object is asked for an attribute that it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from .explained import nearest

__all__ = ["Hints"]

#: What there is in place of names that are usual elsewhere, by class.
INSTEAD: Mapping[str, Mapping[str, str]] = MappingProxyType({
    "Density": {
        "std": "np.sqrt(rho.cov())", "var": "rho.cov()", "variance": "rho.cov()", "x": "rho.grid.centers[0]",
        "pdf": "rho.values", "density": "rho.values", "data": "rho.values", "weights": "rho.masses",
        "median": "rho.quantile(0.5)", "average": "rho.expect(f)", "integrate": "rho.expect(f)",
        "point": "Density.gaussian with the variance of a cell, or Atoms", "normal": "Density.gaussian"},
    "Solution": {
        "t_eval": "sol.t", "times": "sol.t", "rho": "sol.final, sol.density(t) or sol.densities",
        "y": "sol.densities", "u": "sol.densities", "x": "sol.grid.centers[0]", "mean": "sol.final.mean()",
        "cov": "sol.final.cov()", "free_energies": "sol.energy", "residual": "sol.certificate",
        "steps": "sol.history.steps", "last": "sol.final", "passed": "sol.certificate.ok",
        "ok": "sol.certificate.ok", "verdict": "sol.certificate.verdict"},
})


class Hints:
    """A class whose objects say what there is in place of an attribute that they do not have."""

    if not TYPE_CHECKING:
        # Hidden from type checkers, which would let any misspelled name pass.
        def __getattr__(self, name):
            if hasattr(type(self), name):
                # A property of that name failed: what it raised is raised again.
                return object.__getattribute__(self, name)
            # Python and notebooks ask for many names that begin with a line.
            told = "" if name.startswith("_") else _instead(self, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{told}", name=name, obj=self)


def _instead(thing: object, name: str) -> str:
    known = INSTEAD.get(type(thing).__name__, {})
    if name in known:
        return f"; take {known[name]}"
    names = {*dir(type(thing)), *vars(thing)}
    near = nearest(name, [each for each in names if not each.startswith("_")], 0.7)
    return f"; did you mean {near}?" if near else ""
