"""From a request's clock events to the dates it shows.

Room rules: the arithmetic is `deadlines`'; this file only joins it to a request and its controller.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from orchestrator.core.deadlines import ClockEvent, due, local_date, seat
from orchestrator.core.draft import Draft
from schemas.confirmations import DueDates
from schemas.registry import Controller
from schemas.vocabulary import EscalationReason, Right

__all__ = ["due_dates", "end_of_day", "reckon", "today"]

_OF_THE_DUE_DATE = {EscalationReason.DUE_SOON, EscalationReason.OVERDUE}


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
