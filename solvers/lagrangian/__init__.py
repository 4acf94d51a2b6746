"""Lagrangian: the flow represented by points, which follow characteristics or move as Langevin particles."""

from .method import Lagrangian

__all__ = ["Lagrangian"]
