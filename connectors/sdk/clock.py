"""The one place where the connector kit asks for the time.

Room rules: everything else takes a `Clock`; a simulation drives a `ManualClock`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait. Returning does not imply that nothing else moved the clock further."""
        ...

    async def sleep_until(self, moment: datetime) -> None:
        """Wait for a moment; returns at once if it has passed."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC)  # noqa: TID251 - this class is the clock port

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop's clock."""
        await asyncio.sleep(max(0.0, seconds))

    async def sleep_until(self, moment: datetime) -> None:
        """Wait on the event loop's clock for the moment."""
        await self.sleep((moment - self.now()).total_seconds())


class ManualClock:
    """A clock that moves only when told to. `advance` may be called from another thread than the one that sleeps."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)
        self._sleepers: list[tuple[datetime, asyncio.AbstractEventLoop, asyncio.Event]] = []

    def now(self) -> datetime:
        """Return the instant at which the clock stands."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until somebody has moved the clock far enough."""
        await self.sleep_until(self._now + timedelta(seconds=seconds))

    async def sleep_until(self, moment: datetime) -> None:
        """Wait until somebody has moved the clock to the moment or beyond."""
        if moment <= self._now:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        sleeper = (moment, asyncio.get_running_loop(), woken)
        self._sleepers.append(sleeper)
        try:
            await woken.wait()
        finally:  # also when cancelled: who no longer waits must not be woken
            self._sleepers = [other for other in self._sleepers if other is not sleeper]

    def advance(self, seconds: float) -> None:
        """Move the clock forward and wake whoever waited for that."""
        self._now += timedelta(seconds=seconds)
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._now]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._now]
        for _, loop, woken in due:
            if not loop.is_closed():
                loop.call_soon_threadsafe(woken.set)

    @property
    def next_wake_at(self) -> datetime | None:
        """Return the earliest moment somebody waits for."""
        return min((at for at, _, _ in self._sleepers), default=None)
