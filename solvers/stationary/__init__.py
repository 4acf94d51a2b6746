"""Stationary states: by duality with a gap, or by an accelerated fixed point."""

from .result import Stationary
from .search import stationary, stationary_branches

__all__ = ["Stationary", "stationary", "stationary_branches"]
