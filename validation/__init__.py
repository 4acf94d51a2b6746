"""How right a solution is: exact solutions, particle simulations, distances, and the comparison that uses them.

Names are imported on first use, so that ``import wgflow.validation`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import comparison, convergence, distances, exact, particles, studies, verification
    from .comparison import STATISTICS, Comparison, Statistic, compare
    from .distances import gaussian_wasserstein, kolmogorov, wasserstein, wasserstein_1d, wasserstein_points
    from .particles import SGDResult, run_sgd
    from .population import run_gradient_flow
    from .verification import Verification, Verified, verify

_HOME = {
    "Comparison": "comparison",
    "STATISTICS": "comparison",
    "Statistic": "comparison",
    "compare": "comparison",
    "SGDResult": "particles",
    "gaussian_wasserstein": "distances",
    "kolmogorov": "distances",
    "run_gradient_flow": "population",
    "run_sgd": "particles",
    "Verification": "verification",
    "Verified": "verification",
    "verify": "verification",
    "wasserstein": "distances",
    "wasserstein_1d": "distances",
    "wasserstein_points": "distances",
}
_MODULES = ("comparison", "convergence", "distances", "exact", "particles", "studies", "verification")
__all__ = [
    "STATISTICS",
    "Comparison",
    "SGDResult",
    "Statistic",
    "Verification",
    "Verified",
    "compare",
    "comparison",
    "convergence",
    "distances",
    "exact",
    "gaussian_wasserstein",
    "kolmogorov",
    "particles",
    "run_gradient_flow",
    "run_sgd",
    "studies",
    "verification",
    "verify",
    "wasserstein",
    "wasserstein_1d",
    "wasserstein_points",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would let any misspelled name pass.
    def __getattr__(name):
        if name in _HOME:
            return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
