"""Step-size control by step doubling, at some of the steps.

Two steps dt and one step 2 dt from the same state differ by three times the error of the two, since all errors in time
(of scheme, splitting and interaction) are of second order. When the estimate is steady the next steps are not checked,
unless the density speeds up, so that the control costs a tenth of the work and not a half.
"""

from __future__ import annotations

from .tolerance import Tolerance

#: By default the tolerance of a pair of steps is this part of the error of the grid, but at least and at most these.
SPACE_SHARE, TIGHTEST, LOOSEST = 0.2, 1e-9, 1e-3
#: Factor by which a new step is shorter than the estimate allows.
SAFETY = 0.9
#: A step changes at once by no more than these factors.
SHRINK_LIMIT, GROWTH_LIMIT = 0.2, 5.0
#: A step is not changed unless it can grow by this factor.
WORTH_GROWING = 1.25
#: Steps without a check after one that left dt unchanged, or nearly so.
STEPS_ON_TRUST = 10
#: A check is made when the speed |d rho/dt| has grown by this factor since the last one.
SPEED_ALARM = 1.5


class Controller:
    """The choice of dt: the local error of a pair of steps stays below a tolerance.

    Parameters
    ----------
    tolerance : Tolerance

    Attributes
    ----------
    dt : float
        The step to take.
    check_due : bool
        Whether the next steps should be a checked pair.
    total_error : float
        Sum of the error estimates so far; unchecked steps count with the last estimate.
    left : float or None
        The time at which explicit steps gave way to implicit ones.
    """

    def __init__(self, tolerance: Tolerance):
        self.tolerance = tolerance
        self.dt = self.total_error = 0.0
        self.left: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the first step is set."""
        return self.dt > 0.0

    def begin(self, span: float, speed: float, space_error: float) -> None:
        """Set the first step from the length of the time span and the initial speed of the density."""
        tolerance = self.tolerance.of_step(space_error, 0.0, 0.1 * span, span)
        first = 0.05 * (tolerance / 1e-5) ** (1 / 3) / speed if speed > 0 else span
        self.dt = min(0.1 * span, first)
        self.dt_floor = 1e-12 * span
        self.trust = 0
        self.last_error = self.last_speed = 0.0

    @property
    def check_due(self) -> bool:
        return self.trust <= 0

    def judge(self, dt: float, error: float, speed: float, space_error: float, remaining: float) -> bool:
        """Accept or reject a checked pair of steps, and set the next step; ``remaining`` is the time to the end."""
        tolerance = self.tolerance.of_step(space_error, self.total_error, 2.0 * dt, remaining)
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
        """Count a step without a check, and ask for a check if the density has sped up."""
        self.total_error += 0.5 * self.last_error
        self.trust = self.trust - 1 if self.calm(speed) else 0

    def calm(self, speed: float) -> bool:
        """Return whether the density has not sped up since the last check."""
        return speed <= SPEED_ALARM * self.last_speed

    def cut(self, dt: float) -> None:
        """Halve the step after a rise of the energy."""
        self.dt = 0.5 * dt
        self.trust = 0
