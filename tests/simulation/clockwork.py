"""An event loop whose time is a number: sleeping costs nothing, and the same coroutines run in the same order every time.

Short waits (a network, a disk) are ordinary timers of the loop. Long waits of the product (a sweeper's interval, a dispatcher's
minute) are `Sleeper`s: while anything is going on they end on time, and when nothing is, time jumps to the first of them that
can find something to do. That a sleep ends late is what every operating system may do to it.

Room rules: counts whole microseconds; knows no port and no process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["START", "AtRest", "NeverAtRest", "Sleeper", "VirtualLoop", "instant_of", "micros_of"]

START = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)


def instant_of(micros: int) -> datetime:
    """Return the instant so many microseconds after the start of the simulated world."""
    return START + timedelta(microseconds=micros)


def micros_of(at: datetime) -> int:
    """Return an instant as microseconds after the start of the simulated world."""
    return (at - START) // _MICRO


class AtRest(Exception):
    """Nothing waits for anything any more, and somebody still awaits something: a deadlock."""


class NeverAtRest(Exception):
    """Time has moved so often that something must be running in circles."""


#: A large world needs some thousands of moves.
_MOST_MOVES = 20_000


class Sleeper:
    """One long wait. `useful` gives the moment at which waking finds something to do, None if nothing is in sight."""

    __slots__ = ("deadline", "future", "useful")

    def __init__(self, deadline: int, future: asyncio.Future[None], useful: Callable[[], int | None]) -> None:
        self.deadline = deadline
        self.future = future
        self.useful = useful

    def moment(self) -> int | None:
        """Return when to wake it: never before its deadline."""
        useful = self.useful()
        return None if useful is None else max(useful, self.deadline)


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop that never waits. `wakes_idly(sleeper)` decides whether one that has nothing to do ends on time all the same."""

    def __init__(self, wakes_idly: Callable[[], bool]) -> None:
        super().__init__()
        self.micros = 0
        self.moves = 0
        self.sleepers: list[Sleeper] = []
        self._selector: Any = self
        self._clock_resolution = 1e-6
        self._wakes_idly = wakes_idly

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.micros / 1e6

    async def doze(self, seconds: float, useful: Callable[[], int | None]) -> None:
        """Wait at least so long, and until there is something to do."""
        sleeper = Sleeper(self.micros + max(0, math.ceil(seconds * 1e6)), self.create_future(), useful)
        self.sleepers.append(sleeper)
        try:
            await sleeper.future
        finally:
            self.sleepers = [other for other in self.sleepers if other is not sleeper]

    # What BaseEventLoop asks of a selector -----------------------------------------------------------------------------------

    def select(self, timeout: float | None) -> list[Any]:
        """Move the time to the next moment at which anything happens."""
        if timeout is None or timeout > 0:
            self._advance()
        return []

    def _advance(self) -> None:
        self.moves += 1
        if self.moves > _MOST_MOVES:
            raise NeverAtRest
        timers = self._scheduled  # type: ignore[attr-defined] # the heap of BaseEventLoop
        target = math.ceil(timers[0]._when * 1e6 - 1e-3) if timers else None
        for sleeper in self.sleepers:
            moment = sleeper.moment()
            if moment is not None and (target is None or moment < target):
                target = moment
        if target is None:
            raise AtRest
        self.micros = max(self.micros, target)
        for sleeper in self.sleepers:
            if sleeper.deadline > self.micros or sleeper.future.done():
                continue
            moment = sleeper.moment()
            if (moment is not None and moment <= self.micros) or self._wakes_idly():
                sleeper.future.set_result(None)

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a system call."""
