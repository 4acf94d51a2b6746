"""Grids chosen for a problem: bounds from tails, cells from a tolerance."""

from .problem_grid import problem_grid

__all__ = ["problem_grid"]
