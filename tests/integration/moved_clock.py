"""A clock that stands still until the test moves it."""

from __future__ import annotations

import asyncio
from datetime import datetime

_SLEEP_AT_MOST_SECONDS = 0.02


class MovedClock:
    """Implements `orchestrator.ports.Clock`. Sleeps are real and short, so whatever waits looks at the time again soon."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        """Return the instant it was last moved to."""
        return self._now

    def move_to(self, now: datetime) -> None:
        """Let time pass; it never runs backwards."""
        assert now >= self._now, "time runs forwards"
        self._now = now

    async def sleep(self, seconds: float) -> None:
        """Wait, but not for as long as asked."""
        await asyncio.sleep(min(seconds, _SLEEP_AT_MOST_SECONDS))
