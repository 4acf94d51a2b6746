"""Step-size control by step doubling, done once in a while.

Two steps dt and one step 2 dt from the same state differ by three times the error of the two, whatever the scheme, the
splitting and the interaction do. When the estimate is steady the next steps are taken on trust, unless the speed of the
density grows; so that the price of the control is a tenth of the work, not a half.
"""

from __future__ import annotations

#: Without a tolerance from the user a pair of steps may be wrong by this part of the error of the grid, within bounds.
SPACE_SHARE, TIGHTEST, LOOSEST = 0.2, 1e-9, 1e-3
SAFETY = 0.9
SHRINK_LIMIT, GROWTH_LIMIT = 0.2, 5.0
#: A step is kept as it is unless it could grow by this much.
WORTH_GROWING = 1.25
#: Steps on trust after a check that left dt as it was, or nearly.
STEPS_ON_TRUST = 10
#: Growth of the speed |d rho/dt| since the last check that calls for a new one.
SPEED_ALARM = 1.5


class Controller:
    """Chooses dt so that the local error of a pair of steps stays below a tolerance.

    Parameters
    ----------
    rtol : float or None
        The tolerance, relative to the mass; None ties it to the error that the grid makes anyway.

    Attributes
    ----------
    dt : float
        The step aimed at.
    check_due : bool
        Whether the next steps should be a checked pair.
    total_error : float
        Sum of the error estimates so far, steps on trust counted at the last estimate.
    """

    def __init__(self, rtol: float | None):
        self.rtol = rtol
        self.total_error = 0.0

    def begin(self, span: float, speed: float, space_error: float) -> None:
        """Set the first step from the length of the time span and the initial speed of the density."""
        tolerance = self.tolerance(space_error)
        first = 0.05 * (tolerance / 1e-5) ** (1 / 3) / speed if speed > 0 else span
        self.dt = min(0.1 * span, first)
        self.dt_floor = 1e-12 * span
        self.trust = 0
        self.last_error = self.last_speed = 0.0

    def tolerance(self, space_error: float) -> float:
        """Return the tolerance of a pair of steps on a density that the grid resolves up to ``space_error``."""
        if self.rtol is not None:
            return self.rtol
        return min(max(SPACE_SHARE * space_error, TIGHTEST), LOOSEST)

    @property
    def check_due(self) -> bool:
        return self.trust <= 0

    def judge(self, dt: float, error: float, speed: float, space_error: float) -> bool:
        """Accept or reject a checked pair of steps, and set the next step."""
        tolerance = self.tolerance(space_error)
        ratio = GROWTH_LIMIT if error == 0 else SAFETY * (tolerance / error) ** (1 / 3)
        if error > tolerance and dt > self.dt_floor:
            self.dt = dt * max(SHRINK_LIMIT, min(ratio, SAFETY))
            return False
        self.total_error += error
        self.last_error, self.last_speed = error, speed
        self.dt = dt * min(ratio, GROWTH_LIMIT) if ratio > WORTH_GROWING else dt
        self.trust = STEPS_ON_TRUST if ratio < 2 * WORTH_GROWING else 0
        return True

    def watch(self, speed: float) -> None:
        """Count a step taken on trust, and end the trust if the density has become faster."""
        self.total_error += 0.5 * self.last_error
        self.trust = self.trust - 1 if speed <= SPEED_ALARM * self.last_speed else 0

    def cut(self, dt: float) -> None:
        """Halve the step after a rise of the energy."""
        self.dt = 0.5 * dt
        self.trust = 0
