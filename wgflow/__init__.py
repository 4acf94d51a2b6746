"""wgflow: Wasserstein gradient flows, certified.

A density slides down a free energy, d rho/dt = div(rho grad dF/drho). The nouns are `Grid`, `Density` and the terms
`Entropy`, `Potential` and `Interaction`; the one verb is `solve`, which returns a `Solution` with its certificate.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging

if importlib.util.find_spec("wgflow.solvers") is None:
    raise ImportError("wgflow is being imported from its source tree, where its parts lie in other folders; "
                      "run `pip install -e .` there (or `make demo`), or change to another folder")

from wgflow import errors
from wgflow.certificate import Certificate
from wgflow.densities import Density
from wgflow.energies.free_energy import FreeEnergy, Term
from wgflow.energies.internal_energies import Entropy
from wgflow.energies.potentials import Potential
from wgflow.errors import ConvergenceError, InvalidInput, ResourceError, StorageError, WGFlowError, WGFlowWarning
from wgflow.grids import Grid
from wgflow.interactions.terms import Convolution, Dense, Interaction, LowRank
from wgflow.solution import Solution
from wgflow.verbs import resume, solve

logging.getLogger("wgflow").addHandler(logging.NullHandler())

#: Names that are imported when they are first used.
_LAZY = {
    "FiniteVolume": ("wgflow.solvers", "FiniteVolume"),
    "FiPy": ("wgflow.solvers", "FiPy"),
    "Lagrangian": ("wgflow.solvers", "Lagrangian"),
    "JKO": ("wgflow.solvers", "JKO"),
    "Atoms": ("wgflow.atoms", "Atoms"),
    "InternalEnergy": ("wgflow.energies.internal_energies", "InternalEnergy"),
    "PowerEntropy": ("wgflow.energies.internal_energies", "PowerEntropy"),
    "RelativeEntropy": ("wgflow.energies.internal_energies", "RelativeEntropy"),
    "activations": ("wgflow.activations", None),
    "interactions": ("wgflow.interactions", None),
    "TimeDependent": ("wgflow.energies.time_dependent", "TimeDependent"),
    "load": ("wgflow.storage", "load"),
    "plotting": ("wgflow.plotting", None),
    "reduced_models": ("wgflow.reduced_models", None),
    "solvers": ("wgflow.solvers", None),
    "Stationary": ("wgflow.solvers.stationary", "Stationary"),
    "stationary": ("wgflow.solvers.stationary", "stationary"),
    "stationary_branches": ("wgflow.solvers.stationary", "stationary_branches"),
    "validation": ("wgflow.validation", None),
}

__all__ = [
    "Atoms", "Certificate", "ConvergenceError", "Convolution", "Dense", "Density", "Entropy", "FiPy",
    "FiniteVolume", "FreeEnergy", "Grid", "Interaction", "InternalEnergy", "InvalidInput", "JKO", "Lagrangian",
    "LowRank", "Potential", "PowerEntropy", "RelativeEntropy", "ResourceError", "Solution", "Stationary",
    "StorageError", "Term", "TimeDependent", "WGFlowError", "WGFlowWarning", "__version__", "activations",
    "errors", "interactions", "load", "plotting", "reduced_models", "resume", "show_versions", "solve",
    "solvers", "stationary", "stationary_branches", "validation",
]


def show_versions() -> None:
    """Print the versions of Python, wgflow and what its numbers depend on."""
    from wgflow.certificate import library_versions

    for name, version in library_versions().items():
        print(f"{name:10s} {version}")


def __getattr__(name):
    if name == "__version__":
        from importlib.metadata import version

        return version("wgflow")
    if name in _LAZY:
        module, attribute = _LAZY[name]
        value = importlib.import_module(module)
        value = value if attribute is None else getattr(value, attribute)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'wgflow' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
