"""Stationary states: by duality with a gap, or by an accelerated fixed point."""

from .search import Stationary, stationary, stationary_branches

__all__ = ["Stationary", "stationary", "stationary_branches"]
