"""Solutions against particles: laws and risks at every time, each against a computed band."""

from .comparing import compare
from .more_statistics import BoundedLipschitz, EnergyDistance, MaximumMeanDiscrepancy
from .result import Comparison
from .statistics import STATISTICS, Statistic

__all__ = ["STATISTICS", "BoundedLipschitz", "Comparison", "EnergyDistance", "MaximumMeanDiscrepancy", "Statistic",
           "compare"]
