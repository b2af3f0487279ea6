"""How often one caller may come: the generic cell rate algorithm (ITU-T I.371), a bucket that is one number for each caller.

Room rules: counts; whoever asks has the clock, and says no.
"""

from __future__ import annotations

__all__ = ["Rate"]

#: Callers that are remembered; when there are more, all are forgotten: memory is bounded, and nobody is shut out by others.
_CALLERS = 4_096


class Rate:
    """So many calls a second on average from each caller, and a burst of so many at once."""

    def __init__(self, per_second: float, *, burst: int) -> None:
        self._interval = 1 / per_second
        self._ahead = (burst - 1) * self._interval
        #: When each caller will have paid for what it has had.
        self._paid: dict[str, float] = {}

    def take(self, caller: str, now: float) -> float:
        """Return 0 and count a call, or the seconds until one may be made. `now`: of a clock that only goes on, in seconds."""
        paid = max(self._paid.get(caller, now), now)
        wait = paid - now - self._ahead
        if wait > 0:
            return wait
        if len(self._paid) >= _CALLERS:
            self._paid.clear()
        self._paid[caller] = paid + self._interval
        return 0.0
