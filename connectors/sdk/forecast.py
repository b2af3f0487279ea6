"""By when a connector's waiting orders will be done, at its measured pace and within what the system allows.

A forecast, not a promise: it takes orders in the order of their due dates, and a day like the last ones.

Room rules: pure; no clock, no storage, no system by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from connectors.sdk.protocol import Throttle

__all__ = ["Forecast", "Pace", "done_by", "forecast", "late"]

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


@dataclass(frozen=True, slots=True)
class Forecast:
    """The waiting orders of one legal due date, and when the last of them is done."""

    due_on: date
    orders: int
    done_by: datetime

    @property
    def is_late(self) -> bool:
        """Tell whether the last of them is done after the due date's day (in the zone of `done_by`)."""
        return self.done_by.date() > self.due_on


def done_by(orders: int, throttle: Throttle, pace: Pace, start: datetime, remaining: int | None) -> datetime:
    """Return when so many orders are done if work begins at `start`; `remaining` are the calls left in that day.

    Slots, calls a second and calls a day all limit; the scarcest decides. Without a measured pace it is a guess.
    """
    spacing = max(pace.seconds / max(1, throttle.concurrent), pace.calls / throttle.per_second if throttle.per_second else 0.0)
    if throttle.per_day is None:
        return start + timedelta(seconds=min(orders * spacing, _FURTHEST_DAYS * _DAY_SECONDS))
    calls = max(pace.calls, 1.0)
    midnight = _next_day(start, throttle.day_zone)
    today = min((throttle.per_day if remaining is None else remaining) / calls, _in(midnight - start, spacing))
    if orders <= today:
        return start + timedelta(seconds=orders * spacing)
    a_day = min(throttle.per_day / calls, _in(timedelta(days=1), spacing))
    left = orders - today
    days = min(math.ceil(left / a_day) - 1, _FURTHEST_DAYS) if a_day > 0 else _FURTHEST_DAYS
    rest = max(0.0, left - days * a_day) if days < _FURTHEST_DAYS else 0.0
    return midnight + timedelta(days=days, seconds=rest * spacing)


def forecast(
    waiting: Iterable[tuple[date, int]], throttle: Throttle, pace: Pace, start: datetime, remaining: int | None = None
) -> list[Forecast]:
    """Return a forecast for each due date, the earliest first. `waiting`: how many orders by due date, in any order."""
    before, found = 0, []
    for due_on, orders in sorted(waiting):
        before += orders
        found.append(Forecast(due_on, orders, done_by(before, throttle, pace, start, remaining)))
    return found


def late(forecasts: Sequence[Forecast]) -> int:
    """Return how many orders have a due date that is not kept."""
    return sum(one.orders for one in forecasts if one.is_late)


def _next_day(moment: datetime, zone: str) -> datetime:
    tomorrow = moment.astimezone(ZoneInfo(zone)).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(0), ZoneInfo(zone)).astimezone(moment.tzinfo)


def _in(span: timedelta, spacing: float) -> float:
    return span.total_seconds() / spacing if spacing > 0 else math.inf
