"""Keep to what a system allows: so many calls a second, so many a day. Orders at once are the runtime's slots.

Turns and the day's count are kept by a `QuotaBook`, so that neither a restart nor a second process grants them twice.

Room rules: the clock and the book are given; no system by name.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from connectors.sdk.clock import Clock
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import QuotaBook
from schemas.errors import Throttled

__all__ = ["Gate", "QuotaExhausted"]


class QuotaExhausted(Throttled):
    """Our own count says that the system's day is used up: wait until `available_at`; no call was made."""

    def __init__(self, available_at: datetime, seconds: float) -> None:
        super().__init__("the day's quota is used up", retry_after_seconds=seconds)
        self.available_at = available_at


class Gate:
    """Hands out turns to call one system.

    Turns are evenly spaced (a token bucket that holds one token): a burst would hit systems whose window is shorter than ours.
    """

    def __init__(self, throttle: Throttle, clock: Clock, book: QuotaBook) -> None:
        self.throttle = throttle
        #: Turns given since this process started.
        self.turns = 0
        self._clock = clock
        self._book = book
        self._zone = ZoneInfo(throttle.day_zone)
        self._held_until: datetime | None = None

    def hold(self, until: datetime) -> None:
        """Begin no order before this moment: the system said that it is too much, to one order and meaning all."""
        self._held_until = until if self._held_until is None else max(self._held_until, until)

    def held_until(self) -> datetime | None:
        """Return the moment before which no order is to begin, None if that is now."""
        return self._held_until if self._held_until is not None and self._held_until > self._clock.now() else None

    async def turn(self) -> float:
        """Wait for the next turn and return the seconds waited. Raises `QuotaExhausted` without waiting for tomorrow."""
        await self._stop_if_closed()
        waited = 0.0
        if self.throttle.per_second is not None:
            waited = await self._book.next_turn(self._clock.now(), 1 / self.throttle.per_second)
            if waited > 0:
                await self._clock.sleep(waited)
        per_day = self.throttle.per_day
        # Counted on the day on which the call is made, so after the wait.
        if per_day is not None and not await self._book.use(self.today().isoformat(), per_day):
            raise self._exhausted()
        self.turns += 1
        return waited

    async def _stop_if_closed(self) -> None:
        remaining = await self.remaining()
        if remaining is not None and remaining <= 0:
            raise self._exhausted()

    def _exhausted(self) -> QuotaExhausted:
        until = self.day_start(1)
        return QuotaExhausted(until, (until - self._clock.now()).total_seconds())

    async def remaining(self) -> int | None:
        """Return today's calls left; None without a daily limit."""
        if self.throttle.per_day is None:
            return None
        return max(0, self.throttle.per_day - await self._book.used(self.today().isoformat()))

    async def share(self, waiting: int) -> float:
        """Return what part of the system's calls these waiting orders get beside other processes'; 1 without a limit."""
        if self.throttle.per_day is None and self.throttle.per_second is None:
            return 1.0
        return await self._book.share(waiting, self._clock.now())

    def day_start(self, days: int) -> datetime:
        """Return the instant at which the system's day so many days ahead begins."""
        day = self.today() + timedelta(days=days)
        return datetime.combine(day, time(0), self._zone).astimezone(self._clock.now().tzinfo)

    def forecast(self, position: int) -> datetime:
        """Return the start of the day on which the order at this place in the queue (0, 1, ...) gets its turn.

        Counts one call for each order ahead: a floor, not a promise.
        """
        return self.day_start(1 + position // max(1, self.throttle.per_day or 1))

    def today(self) -> date:
        """Return the day it is where the system lives."""
        return self._clock.now().astimezone(self._zone).date()
