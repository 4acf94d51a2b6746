"""FiPy as an independent reference: the same flow by the operators of another library."""

from .meshes import MeshSolution
from .method import FiPy, load, solve_on_mesh

__all__ = ["FiPy", "MeshSolution", "load", "solve_on_mesh"]
