"""Step-size control by step doubling, done once in a while.

Two steps dt and one step 2 dt from the same state differ by three times the error of the two, whatever the scheme, the
splitting and the interaction do. When the estimate is steady the next steps are taken on trust, unless the speed of the
density grows; so that the price of the control is a tenth of the work, not a half.
"""

from __future__ import annotations

SAFETY = 0.9
SHRINK_LIMIT, GROWTH_LIMIT = 0.2, 5.0
#: A step is kept as it is (and with it the factors of its eliminations) unless it could grow by this much.
WORTH_GROWING = 1.25
#: Steps on trust after a check that left dt as it was, or nearly.
STEPS_ON_TRUST = 10
#: Growth of the speed |d rho/dt| since the last check that calls for a new one.
SPEED_ALARM = 1.5


class Controller:
    """Chooses dt so that the local error of a pair of steps stays below rtol.

    Attributes
    ----------
    dt : float
        The step aimed at.
    check_due : bool
        Whether the next steps should be a checked pair.
    total_error : float
        Sum of the error estimates so far, steps on trust counted at the last estimate.
    """

    def __init__(self, rtol: float):
        self.rtol = rtol
        self.total_error = 0.0

    def begin(self, span: float, speed: float) -> None:
        """Set the first step from the length of the time span and the initial speed of the density."""
        first = 0.05 * (self.rtol / 1e-5) ** (1 / 3) / speed if speed > 0 else span
        self.dt = min(0.1 * span, first)
        self.dt_floor = 1e-12 * span
        self.trust = 0
        self.last_error = self.last_speed = 0.0

    @property
    def check_due(self) -> bool:
        return self.trust <= 0

    def judge(self, dt: float, error: float, speed: float) -> bool:
        """Accept or reject a checked pair of steps, and set the next step."""
        ratio = GROWTH_LIMIT if error == 0 else SAFETY * (self.rtol / error) ** (1 / 3)
        if error > self.rtol and dt > self.dt_floor:
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
