"""By when a connector's waiting orders will be done, at its measured pace and within what the system allows.

A forecast, not a promise: it takes orders in the order of their turns, and a day like the last ones.

Room rules: pure; no clock, no storage, no system by name.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from connectors.sdk.protocol import Throttle

__all__ = ["Due", "Forecast", "Pace", "done_by", "end_of", "forecast", "late"]

_DAY_SECONDS = 86_400.0
#: Further ahead nobody plans, and dates end.
_FURTHEST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Pace:
    """What one finished order takes: `seconds` of one slot, waits for turns included, and `calls` of the system.

    `orders` says over how many orders it was measured; 0 means that it is assumed.
    """

    seconds: float = 1.0
    calls: float = 1.0
    orders: int = 0
    #: What part of the system's calls is ours, where other processes share them.
    share: float = 1.0


class Due(NamedTuple):
    """When one order is due: its legal due date, and the instant at which that day ends where the controller has its seat."""

    due_on: date
    due_at: datetime


def end_of(day: date) -> datetime:
    """Return when a day ends in UTC: for an order that does not say when it ends at the seat."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The waiting orders of one legal due date, when the last of them is done, and how many of them are done too late."""

    due_on: date
    orders: int
    done_by: datetime
    late: int

    @property
    def is_late(self) -> bool:
        """Tell whether any of them is done after the due date's day has ended."""
        return self.late > 0


def done_by(orders: int, throttle: Throttle, pace: Pace, start: datetime, remaining: int | None) -> datetime:
    """Return when so many orders are done if work begins at `start`; `remaining` are the calls left in that day.

    Slots, calls a second and calls a day all limit; the scarcest decides. Without a measured pace it is a guess.
    """
    turns = pace.calls / (throttle.per_second * pace.share) if throttle.per_second else 0.0
    spacing = max(pace.seconds / max(1, throttle.concurrent), turns)
    if throttle.per_day is None:
        return start + timedelta(seconds=min(orders * spacing, _FURTHEST_DAYS * _DAY_SECONDS))
    calls = max(pace.calls, 1.0)
    midnight = _next_day(start, throttle.day_zone)
    today = min((throttle.per_day if remaining is None else remaining) * pace.share / calls, _in(midnight - start, spacing))
    if orders <= today:
        return start + timedelta(seconds=orders * spacing)
    a_day = min(throttle.per_day * pace.share / calls, _in(timedelta(days=1), spacing))
    left = orders - today
    # Rounded: what fills its last day to the brim is not done a day later for a last binary digit.
    days = min(math.ceil(round(left / a_day, 9)) - 1, _FURTHEST_DAYS) if a_day > 0 else _FURTHEST_DAYS
    rest = max(0.0, left - days * a_day) if days < _FURTHEST_DAYS else 0.0
    return midnight + timedelta(days=days, seconds=rest * spacing)


def forecast(
    waiting: Sequence[Due], throttle: Throttle, pace: Pace, start: datetime, remaining: int | None = None
) -> list[Forecast]:
    """Return a forecast for each due date, the earliest first. `waiting`: every order, in the order of their turns."""
    places: dict[Due, list[int]] = {}
    for place, due in enumerate(waiting, 1):
        places.setdefault(due, []).append(place)
    found: dict[date, Forecast] = {}
    for due, its in sorted(places.items()):
        in_time = bisect_right(its, due.due_at, key=lambda place: done_by(place, throttle, pace, start, remaining))
        last = done_by(its[-1], throttle, pace, start, remaining)
        one = found.get(due.due_on, Forecast(due.due_on, 0, last, 0))
        found[due.due_on] = Forecast(due.due_on, one.orders + len(its), max(one.done_by, last), one.late + len(its) - in_time)
    return list(found.values())


def late(forecasts: Sequence[Forecast]) -> int:
    """Return how many orders are done after their due date."""
    return sum(one.late for one in forecasts)


def _next_day(moment: datetime, zone: str) -> datetime:
    tomorrow = moment.astimezone(ZoneInfo(zone)).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(0), ZoneInfo(zone)).astimezone(moment.tzinfo)


def _in(span: timedelta, spacing: float) -> float:
    return span.total_seconds() / spacing if spacing > 0 else math.inf
