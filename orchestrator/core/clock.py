"""From a request's clock events to the dates it shows.

Room rules: the arithmetic is `deadlines`'; this file only joins it to a request and its controller.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from orchestrator.core.deadlines import ClockEvent, due
from schemas.confirmations import DueDates
from schemas.registry import Controller
from schemas.vocabulary import Right

__all__ = ["due_dates", "end_of_day"]


def due_dates(rule: str, events: tuple[ClockEvent, ...], right: Right, controller: Controller) -> DueDates:
    """Return the dates under a rule at the controller's seat. Raises a `ProtocolViolation` for an event that cannot be."""
    found = due(rule, events, zone=controller.zone, calendar=controller.calendar, right=right)
    return DueDates(
        rule=rule,
        due_on=found.due_on,
        extended_due_on=found.extended_due_on,
        acknowledge_by_on=found.acknowledge_by_on,
        notice_by_on=found.notice_by_on,
        applicable_due_on=found.applicable_due_on,
        due_at=found.due_at,
    )


def end_of_day(day: date, zone: str) -> datetime:
    """Return the instant at which a local date ends: 24:00 at the controller's seat."""
    return datetime.combine(day + timedelta(days=1), time(), tzinfo=ZoneInfo(zone))
