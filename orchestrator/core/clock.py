"""From a request's clock events to the dates it shows.

Room rules: the arithmetic is `deadlines`'; this file only joins it to a request and its controller.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from orchestrator.core.deadlines import ClockEvent, Received, due, local_date, rule_named, seat
from orchestrator.core.draft import Draft
from schemas.confirmations import DueDates
from schemas.registry import Controller
from schemas.vocabulary import EscalationReason, Right

__all__ = ["due_dates", "end_of_day", "reckon", "today"]

_OF_THE_DUE_DATE = {EscalationReason.DUE_SOON, EscalationReason.OVERDUE}


def due_dates(rule: str, events: tuple[ClockEvent, ...], right: Right, controller: Controller) -> DueDates:
    """Return the dates under a rule at the controller's seat. Raises a `ProtocolViolation` for an event that cannot be."""
    zone, calendar = controller.zone, controller.calendar
    first = events[0]
    if len(events) == 1 and isinstance(first, Received) and first.sent_at is None and not _counts_hours(rule):
        # Rules in days know the day of receipt only: one computation serves all requests of a day.
        return _of_the_day(rule, local_date(first.at, seat(zone)), right, zone, calendar)
    return _compute(rule, events, right, zone, calendar)


@lru_cache(maxsize=64)
def _counts_hours(rule: str) -> bool:
    return rule_named(rule).period.in_hours


@lru_cache(maxsize=1024)
def _of_the_day(rule: str, day: date, right: Right, zone: str, calendar: str) -> DueDates:
    noon = datetime.combine(day, time(12), tzinfo=ZoneInfo(zone))
    return _compute(rule, (Received(at=noon),), right, zone, calendar)


def _compute(rule: str, events: tuple[ClockEvent, ...], right: Right, zone: str, calendar: str) -> DueDates:
    found = due(rule, events, zone=zone, calendar=calendar, right=right)
    return DueDates(
        rule=rule,
        due_on=found.due_on,
        extended_due_on=found.extended_due_on,
        acknowledge_by_on=found.acknowledge_by_on,
        notice_by_on=found.notice_by_on,
        applicable_due_on=found.applicable_due_on,
        alert_on=found.alert_on if found.alert_on != found.applicable_due_on else None,
        due_at=found.due_at,
    )


def end_of_day(day: date, zone: str) -> datetime:
    """Return the instant, in UTC, at which a local date ends: 24:00 at the controller's seat."""
    return datetime.combine(day + timedelta(days=1), time(), tzinfo=ZoneInfo(zone)).astimezone(UTC)


def reckon(draft: Draft, event: ClockEvent) -> None:
    """Add a clock event and compute the dates again; an event that cannot be leaves them as they were.

    A due date that moves away is warned about anew: what was said of the old one is no longer true.
    """
    state, clock = draft.state, (*draft.state.clock, event)
    dates = due_dates(state.rule, clock, state.right, draft.registry.controller)
    assert state.due is not None, "every request has due dates from its first record on"
    if dates.due_at > state.due.due_at:
        draft.set(escalated=tuple(reason for reason in state.escalated if reason not in _OF_THE_DUE_DATE))
    draft.set(due=dates, clock=clock)


def today(draft: Draft) -> date:
    """Return the date at the controller's seat."""
    return local_date(draft.now, seat(draft.registry.controller.zone))
