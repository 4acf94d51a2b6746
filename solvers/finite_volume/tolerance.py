"""How large the local error of a step in time may be."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tolerance"]

#: With a tolerance for the whole run this part of it is for the errors in time, the rest for those of the grid.
IN_TIME = 0.5
#: A step may take this part of what is left of it, or the part of the time left that it crosses.
LEAST_PART = 0.1
#: What is left is at least this part of the whole.
LEAST_LEFT = 0.05


@dataclass(frozen=True)
class Tolerance:
    """The tolerance of a step, relative to the mass: as given, or a multiple of the error of the grid.

    Parameters
    ----------
    rtol : float or None
        Of a step.
    tol : float or None
        Of the whole run.
    share, tightest, loosest : float
        Without either: the multiple of the error of the grid, and its bounds.
    """

    rtol: float | None
    tol: float | None
    share: float
    tightest: float
    loosest: float

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
            left = max(IN_TIME * self.tol - total_error, LEAST_LEFT * self.tol)
            return left * min(1.0, max(LEAST_PART, dt / remaining if remaining > 0 else 1.0))
        return min(max(self.share * space_error, self.tightest), self.loosest)
