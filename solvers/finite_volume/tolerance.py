"""How large the local error of a step in time may be."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Tolerance"]

#: With a tolerance for the whole run this part of it is for the errors in time, the rest for those of the grid.
IN_TIME = 0.5
#: A step may take this part of what is left of it, or the part of the time left that it crosses.
LEAST_PART = 0.1
#: Where nothing is left of it, steps share this part of the whole by the parts of the time left that they cross; each
#: counts as crossing the second number at least, so that a law which jumps does not stall the run.
LEAST_LEFT, LEAST_CROSSED = 0.05, 0.01
#: With a budget a step may take this part of what is left of it, and what is left is at least that part of the whole.
BUDGET_PART, BUDGET_LEFT = 0.25, 0.04


class Tolerance(NamedTuple):
    """The tolerance of a step, relative to the mass: as given, or a multiple of the error of the grid.

    Parameters
    ----------
    rtol : float or None
        Of a step.
    tol : float or None
        Of the whole run.
    share, tightest, loosest : float
        Without either: the multiple of the error of the grid, and its bounds.
    budget : float
        Without either: what the errors of all steps may add up to before steps become more accurate. A flow that
        contracts forgets the errors of its steps; in a long run through a valley they add up.
    least_left : float
        The part of the budget that is left at least.
    """

    rtol: float | None
    tol: float | None
    share: float
    tightest: float
    loosest: float
    budget: float = math.inf
    least_left: float = BUDGET_LEFT

    def of_step(self, space_error: float, total_error: float, dt: float, remaining: float) -> float:
        """Return the tolerance of a step.

        Parameters
        ----------
        space_error : float
            The error of the grid.
        total_error : float
            The sum of the errors of the steps so far.
        dt, remaining : float
            The length of the step, and the time from its start to the end of the run.
        """
        if self.rtol is not None:
            return self.rtol
        if self.tol is not None:
            crossed = min(1.0, dt / remaining) if remaining > 0 else 1.0
            left = max(IN_TIME * self.tol - total_error, 0.0)
            return left * max(LEAST_PART, crossed) + LEAST_LEFT * self.tol * max(LEAST_CROSSED, crossed)
        found = min(max(self.share * space_error, self.tightest), self.loosest)
        if math.isfinite(self.budget):
            left = max(self.budget - total_error, self.least_left * self.budget)
            found = min(found, left * min(1.0, max(BUDGET_PART, dt / remaining if remaining > 0 else 1.0)))
        return found
