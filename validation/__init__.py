"""How right a solution is: exact solutions, particle simulations, distances, and the comparison that uses them.

Names are imported on first use, so that ``import wgflow.validation`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from wgflow.calls.explained import misspelled

if TYPE_CHECKING:
    from . import comparison, convergence, distances, exact, fluctuations, particles, studies, sweeps, verification
    from .cloud_distances import energy_distance, maximum_mean_discrepancy, sliced_wasserstein
    from .comparison import (
        STATISTICS,
        BoundedLipschitz,
        Comparison,
        EnergyDistance,
        MaximumMeanDiscrepancy,
        Statistic,
        compare,
    )
    from .distances import gaussian_wasserstein, kolmogorov, wasserstein, wasserstein_1d, wasserstein_points
    from .fluctuations import Scatter, predict_scatter
    from .langevin import run_langevin
    from .noisy_descent import run_noisy_gradient_descent
    from .order_parameters import OrderParameters, order_parameter_flow, overlaps_of
    from .particles import run_sgd
    from .population import run_gradient_flow
    from .sweeps import SweepResult, sweep
    from .trajectories import SGDResult, Trajectories, load_trajectories
    from .verification import Verification, Verified, verify

_HOME = {
    "BoundedLipschitz": "comparison",
    "EnergyDistance": "comparison",
    "MaximumMeanDiscrepancy": "comparison",
    "Comparison": "comparison",
    "STATISTICS": "comparison",
    "Scatter": "fluctuations",
    "Statistic": "comparison",
    "compare": "comparison",
    "SGDResult": "trajectories",
    "Trajectories": "trajectories",
    "energy_distance": "cloud_distances",
    "maximum_mean_discrepancy": "cloud_distances",
    "sliced_wasserstein": "cloud_distances",
    "gaussian_wasserstein": "distances",
    "kolmogorov": "distances",
    "load_trajectories": "trajectories",
    "OrderParameters": "order_parameters",
    "order_parameter_flow": "order_parameters",
    "overlaps_of": "order_parameters",
    "predict_scatter": "fluctuations",
    "run_gradient_flow": "population",
    "run_langevin": "langevin",
    "run_noisy_gradient_descent": "noisy_descent",
    "run_sgd": "particles",
    "SweepResult": "sweeps",
    "sweep": "sweeps",
    "Verification": "verification",
    "Verified": "verification",
    "verify": "verification",
    "wasserstein": "distances",
    "wasserstein_1d": "distances",
    "wasserstein_points": "distances",
}
_MODULES = ("comparison", "convergence", "distances", "exact", "fluctuations", "particles", "studies", "sweeps",
            "verification")
__all__ = [
    "STATISTICS",
    "BoundedLipschitz",
    "Comparison",
    "EnergyDistance",
    "MaximumMeanDiscrepancy",
    "OrderParameters",
    "SGDResult",
    "Scatter",
    "Statistic",
    "SweepResult",
    "Trajectories",
    "Verification",
    "Verified",
    "compare",
    "comparison",
    "convergence",
    "distances",
    "energy_distance",
    "exact",
    "fluctuations",
    "gaussian_wasserstein",
    "kolmogorov",
    "load_trajectories",
    "maximum_mean_discrepancy",
    "order_parameter_flow",
    "overlaps_of",
    "particles",
    "predict_scatter",
    "run_gradient_flow",
    "run_langevin",
    "run_noisy_gradient_descent",
    "run_sgd",
    "sliced_wasserstein",
    "studies",
    "sweep",
    "sweeps",
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
        raise misspelled(__name__, name, __all__)


def __dir__() -> list[str]:
    return __all__
