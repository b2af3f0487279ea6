"""Keep to what a system allows: so many calls a second, so many a day. Orders at once are the runtime's slots.

The day's count is kept by a `QuotaBook` (the journal), so a restart does not grant a second day.

Room rules: the clock and the book are given; no system by name.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from connectors.sdk.clock import Clock
from connectors.sdk.protocol import Throttle
from schemas.errors import Throttled

__all__ = ["Gate", "QuotaBook", "QuotaExhausted"]


class QuotaExhausted(Throttled):
    """Our own count says that the system's day is used up: wait until `available_at`; no call was made."""

    def __init__(self, available_at: datetime, seconds: float) -> None:
        super().__init__("the day's quota is used up", retry_after_seconds=seconds)
        self.available_at = available_at


class QuotaBook(Protocol):
    """Where the day's calls are counted, durably."""

    def quota_used(self, day: str) -> int:
        """Return the calls counted on this day."""
        ...

    def use_quota(self, day: str) -> None:
        """Count one call, durably, before it is made."""
        ...


class Gate:
    """Hands out turns to call one system.

    Turns are evenly spaced (a token bucket that holds one token): a burst would hit systems whose window is shorter than ours.
    """

    def __init__(self, throttle: Throttle, clock: Clock, book: QuotaBook) -> None:
        self._throttle = throttle
        self._clock = clock
        self._book = book
        self._zone = ZoneInfo(throttle.day_zone)
        self._next_turn_at: datetime | None = None
        self._held_until: datetime | None = None

    def hold(self, until: datetime) -> None:
        """Begin no order before this moment: the system said that it is too much, to one order and meaning all."""
        self._held_until = until if self._held_until is None else max(self._held_until, until)

    def held_until(self) -> datetime | None:
        """Return the moment before which no order is to begin, None if that is now."""
        return self._held_until if self._held_until is not None and self._held_until > self._clock.now() else None

    async def turn(self) -> float:
        """Wait for the next turn and return the seconds waited. Raises `QuotaExhausted` without waiting for tomorrow."""
        now = self._clock.now()
        waited = 0.0
        if self._throttle.per_second is not None:
            at = max(now, self._next_turn_at or now)
            self._next_turn_at = at + timedelta(seconds=1 / self._throttle.per_second)
            waited = (at - now).total_seconds()
            if waited > 0:
                await self._clock.sleep(waited)
        self._count()
        return waited

    def _count(self) -> None:
        until = self.closed_until()
        if until is not None:
            raise QuotaExhausted(until, (until - self._clock.now()).total_seconds())
        if self._throttle.per_day is not None:
            self._book.use_quota(self._today())

    def closed_until(self) -> datetime | None:
        """Return when calls are allowed again if today's are used up, else None."""
        remaining = self.remaining()
        return None if remaining is None or remaining > 0 else self.day_start(1)

    def remaining(self) -> int | None:
        """Return today's calls left; None without a daily limit."""
        if self._throttle.per_day is None:
            return None
        return max(0, self._throttle.per_day - self._book.quota_used(self._today()))

    def day_start(self, days: int) -> datetime:
        """Return the instant at which the system's day so many days ahead begins."""
        day = self._clock.now().astimezone(self._zone).date() + timedelta(days=days)
        return datetime.combine(day, time(0), self._zone).astimezone(self._clock.now().tzinfo)

    def forecast(self, position: int) -> datetime:
        """Return the start of the day on which the order at this place in the queue (0, 1, ...) gets its turn.

        Counts one call for each order ahead: a floor, not a promise.
        """
        return self.day_start(1 + position // max(1, self._throttle.per_day or 1))

    def _today(self) -> str:
        return self._clock.now().astimezone(self._zone).date().isoformat()
