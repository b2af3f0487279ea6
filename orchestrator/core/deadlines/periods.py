"""A period of time as laws write it, and the calendar arithmetic on it.

Room rules: pure functions of dates; nothing here knows a rule.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from orchestrator.core.deadlines.calendars import add_business_days
from schemas.base import Record

__all__ = ["Period", "Unit", "add_months", "add_period"]

_PARTS = 2


class Unit(StrEnum):
    """What a period is counted in."""

    #: Calendar months: ends on the day number of the start, else on the last day of the month (Reg. 1182/71 art. 3(2)(c)).
    MONTHS = "months"
    #: Calendar days: the day of the event is not counted (Reg. 1182/71 art. 3(1)).
    DAYS = "days"
    #: Working days of a named list: the day of the event is not counted.
    BUSINESS_DAYS = "business_days"
    #: Sixty minutes each, from the instant of the event; never rolled.
    HOURS = "hours"
    #: Counted backwards from the instant of the event; never rolled.
    HOURS_BEFORE = "hours_before"


class Period(Record):
    """A number of units. Written as text in configuration: `8 days`, `1 month`, `10 business_days`, `48 hours`."""

    count: Annotated[int, Field(ge=1, le=3660)]
    unit: Unit

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split()
        if len(parts) != _PARTS or not parts[0].isdecimal():
            raise ValueError(f"write a period as a number and a unit, for instance 8 days; units are {', '.join(Unit)}")
        unit = parts[1] if parts[1] == Unit.HOURS_BEFORE else parts[1].removesuffix("s") + "s"
        return {"count": int(parts[0]), "unit": unit}

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the period written as `text`."""
        return cls.model_validate(text)

    @property
    def in_hours(self) -> bool:
        """Tell whether it runs by the clock and not by the calendar."""
        return self.unit in (Unit.HOURS, Unit.HOURS_BEFORE)

    def __str__(self) -> str:
        """Return it in words."""
        words = {Unit.BUSINESS_DAYS: "business days", Unit.HOURS_BEFORE: "hours before"}.get(self.unit, self.unit.value)
        return f"{self.count} {words.removesuffix('s') if self.count == 1 else words}"


def add_months(day: date, count: int) -> date:
    """Return the same day number `count` months later, or the last day of that month (Reg. 1182/71 art. 3(2)(c))."""
    years, month = divmod(day.month - 1 + count, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def add_period(day: date, period: Period, *, days_of: str) -> date:
    """Return the last day of a period in months, days or business days (of the calendar `days_of`), not rolled."""
    if period.unit is Unit.MONTHS:
        return add_months(day, period.count)
    if period.unit is Unit.BUSINESS_DAYS:
        return add_business_days(days_of, day, period.count)
    assert period.unit is Unit.DAYS, "periods in hours run from an instant"
    return day + timedelta(days=period.count)
