"""wgflow: Wasserstein gradient flows, certified.

A density slides down a free energy, d rho/dt = div(rho grad dF/drho). The nouns are `Grid`, `Density` and the terms
`Entropy`, `Potential` and `Interaction`; the verb is `solve`, which returns a `Solution` with its certificate.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING

if importlib.util.find_spec("wgflow.solvers") is None:
    raise ImportError("wgflow is being imported from its source tree, where its parts lie in other folders; "
                      "run `pip install -e .` there (or `make demo`), or change to another folder")

from wgflow import errors
from wgflow.calls.explained import misspelled
from wgflow.certificate import Certificate
from wgflow.densities import Density
from wgflow.energies import (
    Entropy,
    FreeEnergy,
    InternalEnergy,
    Mobility,
    MomentEnergy,
    Potential,
    PowerEntropy,
    RelativeEntropy,
    Term,
    TimeDependent,
)
from wgflow.errors import ConvergenceError, InvalidInput, ResourceError, StorageError, WGFlowError, WGFlowWarning
from wgflow.grids import Grid
from wgflow.interactions import Convolution, Dense, Interaction, LowRank
from wgflow.solution import Solution
from wgflow.verbs import resume, show_versions, solve

if TYPE_CHECKING:
    # What `__getattr__` imports when it is first used, for editors and type checkers.
    from wgflow import activations, interactions, losses, plotting, reduced_models, solvers, testing, validation
    from wgflow.about import cite
    from wgflow.atoms import Atoms
    from wgflow.files.solutions import load
    from wgflow.solvers import JKO, FiniteVolume, FiPy, Lagrangian
    from wgflow.solvers.stationary import Stationary, stationary, stationary_branches
    from wgflow.validation.sweeps import sweep
    from wgflow.watching import stop

    __version__: str

logging.getLogger("wgflow").addHandler(logging.NullHandler())

#: Names that are imported when they are first used: the module, and the name in it (None: the module itself).
_LAZY = {
    "Atoms": ("wgflow.atoms", "Atoms"),
    "FiPy": ("wgflow.solvers", "FiPy"),
    "FiniteVolume": ("wgflow.solvers", "FiniteVolume"),
    "JKO": ("wgflow.solvers", "JKO"),
    "Lagrangian": ("wgflow.solvers", "Lagrangian"),
    "Stationary": ("wgflow.solvers.stationary", "Stationary"),
    "activations": ("wgflow.activations", None),
    "cite": ("wgflow.about", "cite"),
    "interactions": ("wgflow.interactions", None),
    "load": ("wgflow.files.solutions", "load"),
    "losses": ("wgflow.losses", None),
    "plotting": ("wgflow.plotting", None),
    "reduced_models": ("wgflow.reduced_models", None),
    "solvers": ("wgflow.solvers", None),
    "stationary": ("wgflow.solvers.stationary", "stationary"),
    "stationary_branches": ("wgflow.solvers.stationary", "stationary_branches"),
    "stop": ("wgflow.watching.stop", None),
    "sweep": ("wgflow.validation.sweeps", "sweep"),
    "testing": ("wgflow.testing", None),
    "validation": ("wgflow.validation", None),
}

__all__ = [
    "Atoms", "Certificate", "ConvergenceError", "Convolution", "Dense", "Density", "Entropy", "FiPy",
    "FiniteVolume", "FreeEnergy", "Grid", "Interaction", "InternalEnergy", "InvalidInput", "JKO", "Lagrangian",
    "LowRank", "Mobility", "MomentEnergy", "Potential", "PowerEntropy", "RelativeEntropy", "ResourceError", "Solution",
    "Stationary", "StorageError", "Term", "TimeDependent", "WGFlowError", "WGFlowWarning", "__version__", "activations",
    "cite", "errors", "interactions", "load", "losses", "plotting", "reduced_models", "resume", "show_versions",
    "solve", "solvers", "stationary", "stationary_branches", "stop", "sweep", "testing", "validation",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would let any misspelled name pass.
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
        raise misspelled(__name__, name, __all__)


def __dir__():
    return sorted(__all__)
