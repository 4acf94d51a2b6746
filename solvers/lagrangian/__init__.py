"""Lagrangian: the flow followed by points, along characteristics or as Langevin particles."""

from .method import Lagrangian

__all__ = ["Lagrangian"]
