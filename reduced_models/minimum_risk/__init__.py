"""The least risk over all laws of a neuron, with a certified gap."""

from .measure_problem import LimitPoint
from .minimize import MinimumRisk, minimum_risk

__all__ = ["LimitPoint", "MinimumRisk", "minimum_risk"]
