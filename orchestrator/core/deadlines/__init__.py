"""Legal deadlines: rules as data, clock events, and one pure function that turns both into dates with their sources.

Not legal advice. See docs/deadlines.md.

Room rules: stdlib, pydantic, `holidays` and `schemas`; no clock, no I/O, no logging.
"""

from __future__ import annotations

from orchestrator.core.deadlines.calendars import (
    OWN_CALENDARS,
    calendar_names,
    check_calendar,
    days_off,
    is_working_day,
    roll_forward,
)
from orchestrator.core.deadlines.due import Due, Inputs, due, seat
from orchestrator.core.deadlines.errors import (
    ClockEventRejected,
    ClockOutOfOrder,
    ExtensionDateInvalid,
    ExtensionNotOffered,
    ExtensionTooLate,
)
from orchestrator.core.deadlines.events import (
    CLOCK_EVENTS,
    ClockEvent,
    Extended,
    IdentityConfirmed,
    Paused,
    Received,
    Resumed,
    local_date,
)
from orchestrator.core.deadlines.page import rules_page
from orchestrator.core.deadlines.periods import Period, Unit
from orchestrator.core.deadlines.rule import ClockStops, Confidence, Duty, Notice, Override, Rule, Start
from orchestrator.core.deadlines.rules import REGIMES, RULES, check_overrides, rule_named, rules_for

__all__ = [
    "CLOCK_EVENTS",
    "OWN_CALENDARS",
    "REGIMES",
    "RULES",
    "ClockEvent",
    "ClockEventRejected",
    "ClockOutOfOrder",
    "ClockStops",
    "Confidence",
    "Due",
    "Duty",
    "Extended",
    "ExtensionDateInvalid",
    "ExtensionNotOffered",
    "ExtensionTooLate",
    "IdentityConfirmed",
    "Inputs",
    "Notice",
    "Override",
    "Paused",
    "Period",
    "Received",
    "Resumed",
    "Rule",
    "Start",
    "Unit",
    "calendar_names",
    "check_calendar",
    "check_overrides",
    "days_off",
    "due",
    "is_working_day",
    "local_date",
    "roll_forward",
    "rule_named",
    "rules_for",
    "rules_page",
    "seat",
]
