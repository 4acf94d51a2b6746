"""The audit: whether a run solves its equation, tested in weak form by code that shares nothing with a solver.

`listener` has the inequality that is tested and listens to a run, `weak_form` forms both sides of the equation, `modes`
has the test functions, `pairs` the interactions, `quadrature` the integrals over time. `atom_listener` and `atom_sides`
do the same for runs of atoms.
"""

from .optimality import distance_from_rest

__all__ = ["distance_from_rest"]
