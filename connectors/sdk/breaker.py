"""Leave a system alone that fails again and again, for a growing time, and find out with one order whether it is back.

| state | orders begin | ends |
| --- | --- | --- |
| working | as many as there are slots | so many failures in a row: paused |
| paused, until a stored moment | none | the moment comes: probing |
| probing | one, not the one that failed last if there is another | it is answered: working; it fails: paused, for longer |

Waiting orders cost no tries while the system is left alone, and credentials that are refused fail a few orders and not all. The
pause is stored: a restart does not begin it anew, nor end it.

Room rules: the clock and the book are given; no system by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import structlog

from connectors.sdk.clock import Clock
from connectors.sdk.retry import Backoff

__all__ = ["Allowance", "Breaker", "Pause", "PauseBook", "PauseRule", "Verdict"]

_log = structlog.get_logger("dsr.connector")


class Verdict(StrEnum):
    """What one try says about the system."""

    #: It answered, whatever it answered.
    UP = "up"
    #: It did not answer, or does not know us.
    DOWN = "down"
    #: It was not asked, or it asked us to slow down.
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class PauseRule:
    """After so many failures in a row, leave the system alone for so long."""

    failures: int = 5
    wait: Backoff = field(default_factory=lambda: Backoff(30.0, 900.0))


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause as it is stored: the how many-th in a row it is, and when the system may be asked again."""

    number: int
    until: datetime


class PauseBook(Protocol):
    """Where a pause is kept, durably."""

    def pause(self) -> Pause | None:
        """Return the pause that is kept, None if the system works."""
        ...

    def keep_pause(self, pause: Pause | None) -> None:
        """Keep a pause, or forget it."""
        ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many orders may begin, which one only if there is no other, and when to ask again (None: when one ends)."""

    orders: int
    rather_not: str | None = None
    until: datetime | None = None


class Breaker:
    """One system's."""

    def __init__(self, system: str, rule: PauseRule, clock: Clock, book: PauseBook) -> None:
        self._system = system
        self._rule = rule
        self._clock = clock
        self._book = book
        self._pause = book.pause()
        self._in_a_row = 0
        self._probe: str | None = None
        self._last_failed: str | None = None

    def remaining_seconds(self) -> float:
        """Return how long the system is still left alone; 0 while it works or is probed."""
        return 0.0 if self._pause is None else max(0.0, (self._pause.until - self._clock.now()).total_seconds())

    def allowance(self, free: int) -> Allowance:
        """Return what may begin with so many free slots."""
        if self._pause is None:
            return Allowance(free)
        if self._probe is not None:
            return Allowance(0)
        if self._pause.until > self._clock.now():
            return Allowance(0, until=self._pause.until)
        return Allowance(min(1, free), rather_not=self._last_failed)

    def begun(self, order_ids: Sequence[str]) -> None:
        """Note what begins; during a pause it is the probe."""
        if self._pause is not None and order_ids:
            self._probe = order_ids[0]

    def note(self, order_id: str, verdict: Verdict) -> None:
        """Note how a try ended. Failures of orders that began before a pause do not make it longer."""
        is_probe = order_id == self._probe
        if is_probe:
            self._probe = None
        if verdict is Verdict.UP:
            self._resume()
        elif verdict is Verdict.DOWN:
            self._in_a_row += 1
            self._last_failed = order_id
            if is_probe or (self._pause is None and self._in_a_row >= self._rule.failures):
                self._begin()

    def _resume(self) -> None:
        self._in_a_row = 0
        if self._pause is not None:
            self._pause = None
            self._book.keep_pause(None)
            _log.info("system_back", system=self._system)

    def _begin(self) -> None:
        number = 1 if self._pause is None else self._pause.number + 1
        seconds = self._rule.wait.seconds(self._system, number)
        self._pause = Pause(number, self._clock.now() + timedelta(seconds=seconds))
        self._book.keep_pause(self._pause)
        _log.warning("system_left_alone", system=self._system, in_a_row=self._in_a_row, wait_seconds=round(seconds))
