"""The legal dates of one request, computed from its clock events: a pure function without a clock.

Dates end at 24:00 local time at the controller's seat. Nothing here is legal advice: every date carries its rule, its source
and its inputs, so that counsel can recompute it.

Room rules: no clock, no I/O; the same arguments give the same dates on any host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import Field

from orchestrator.core.deadlines.calendars import WEEKENDS, check_calendar
from orchestrator.core.deadlines.count import Count, say
from orchestrator.core.deadlines.errors import ExtensionDateInvalid, ExtensionNotOffered, ExtensionTooLate, unknown_name
from orchestrator.core.deadlines.events import ClockEvent, local_date
from orchestrator.core.deadlines.periods import Unit
from orchestrator.core.deadlines.replay import replay
from orchestrator.core.deadlines.rule import ClockStops, Confidence, Duty, Override, Rule, Start
from orchestrator.core.deadlines.rules import effective_rule
from schemas.base import Instant, Record
from schemas.vocabulary import Right

__all__ = ["Due", "Inputs", "due", "seat"]


class Inputs(Record):
    """Everything the dates were computed from, and no more: enough to recompute them."""

    events: tuple[ClockEvent, ...]
    zone: str
    calendar: str
    conservative: bool
    right: Right | None
    override: Override | None


class Due(Record):
    """The dates of one request under one rule. Dates are local to the seat and last until 24:00; None: the rule has none."""

    rule: str
    duty: Annotated[Duty, Field(description="What must have happened when `due_on` ends")]
    starts_on: Annotated[date, Field(description="The local date from which the period is counted")]
    due_on: Annotated[date, Field(description="Last day of the first period, pauses included")]
    extended_due_on: Annotated[date | None, Field(description="Last day if the period is, or were, extended")]
    acknowledge_by_on: Annotated[date | None, Field(description="Last day to confirm receipt")]
    notice_by_on: Annotated[date | None, Field(description="Last day to tell the person of an extension")]
    inform_by_on: Annotated[date | None, Field(description="Last day to inform about a stop, where that has its own period")]
    applicable_due_on: Annotated[date, Field(description="`due_on`, or after a valid extension the later date")]
    due_at: Annotated[Instant, Field(description="When the applicable period ends: for rules in hours to the second")]
    alert_on: Annotated[date, Field(description="The date to warn about: the applicable one, in the EU without its pauses")]
    paused_days: Annotated[int, Field(description="Days by which pauses moved the end")]
    paused_since: Annotated[date | None, Field(description="Day of the oldest open question that stops this clock, if any")]
    source: str
    link: str
    confidence: Confidence
    steps: Annotated[tuple[str, ...], Field(description="The arithmetic, one sentence a step")]
    inputs: Inputs


@lru_cache(maxsize=256)
def seat(zone: str) -> ZoneInfo:
    """Return the IANA zone of that name; raises `ConfigurationError` with the closest valid ones first."""
    try:
        # "localtime" is a link that some hosts have, to a different zone on each: looked up by a name that no host has.
        return ZoneInfo(zone if zone != "localtime" else "")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise unknown_name("zone", zone, available_timezones(), shown=12) from None


def due(
    rule_id: str,
    events: Iterable[ClockEvent],
    *,
    zone: str,
    calendar: str,
    conservative: bool = False,
    overrides: Mapping[str, Override] | None = None,
    right: Right | None = None,
) -> Due:
    """Compute every date of one request under one rule.

    `zone` and `calendar` are the controller's seat; a law with its own list of business days uses that list whatever the
    calendar is. `conservative` takes the earlier of two readings: months chained 1 + 2, California's strict first day, business
    days without holidays. `right` matters in the UK only, where clarification stops the clock for access and no other right;
    None counts as access. A question still open moves nothing yet, see `paused_since`.

    Raises `ConfigurationError` for an unknown rule, zone or calendar, and a `ClockEventRejected` for an event that cannot be
    (`ExtensionTooLate`, `ExtensionNotOffered`, `ExtensionDateInvalid`, `ClockOutOfOrder`): do not keep that event. A date does
    NOT say that a pause or an extension was lawful: whether the question was asked without undue delay is for people.
    """
    kept = tuple(events)
    override = overrides.get(rule_id) if overrides else None
    rule = effective_rule(rule_id, override)
    inputs = Inputs(
        events=kept, zone=zone, calendar=check_calendar(calendar), conservative=conservative, right=right, override=override
    )
    if rule.period.in_hours:
        return _due_in_hours(rule, inputs)
    return _due_in_days(rule, inputs)


def _due_in_days(rule: Rule, inputs: Inputs) -> Due:
    zone = seat(inputs.zone)
    story = replay(inputs.events, zone)
    count = _count(rule, inputs, story.sent_on if rule.starts is Start.SENT else story.received_on)
    count.start(story, inputs.zone)
    plain_on = count.first(paused=False)
    count.stop_for(story, inputs.right)
    due_on = count.first()
    extended_due_on = count.extended()
    notice_by_on = count.notice_by(story.sent_on) if rule.extends else None
    applicable = due_on
    for extension in story.extensions:
        longest_on = _extended_until(rule, extension.until_on, plain_on, extended_due_on)
        _check_notice(rule, local_date(extension.notice_sent_at, zone), notice_by_on)
        applicable = max(due_on, longest_on)
        count.steps.append(f"extended, the notice in time: now due {say(applicable)}")
    alert_on = _alert_on(count, applicable, extended=bool(story.extensions))
    due_at = datetime.combine(applicable + timedelta(days=1), time(), zone).astimezone(UTC)
    acknowledge_by_on = due_on if rule.duty is Duty.ACKNOWLEDGE else count.acknowledge_by()
    count.steps.append(f"ends at 24:00 in {inputs.zone} = {due_at:%Y-%m-%dT%H:%M}Z")
    return _dates(
        count,
        inputs,
        due_on=due_on,
        due_at=due_at,
        extended_due_on=extended_due_on or (applicable if story.extensions else None),
        acknowledge_by_on=acknowledge_by_on,
        notice_by_on=notice_by_on,
        applicable_due_on=applicable,
        alert_on=alert_on,
    )


def _count(rule: Rule, inputs: Inputs, starts_on: date) -> Count:
    listed = rule.list_name or inputs.calendar
    return Count(rule, listed, WEEKENDS if inputs.conservative else listed, starts_on, conservative=inputs.conservative)


def _check_notice(rule: Rule, sent_on: date, notice_by_on: date | None) -> None:
    assert notice_by_on is not None, "a rule that extends has a last day for the notice"
    if sent_on > notice_by_on:
        raise ExtensionTooLate(rule=rule.id, last_valid_on=notice_by_on, sent_on=sent_on)


def _alert_on(count: Count, applicable: date, *, extended: bool) -> date:
    """Return the date to warn about: no text gives the EU's pauses an arithmetic, so there the warning leaves them out."""
    if count.rule.stops is not ClockStops.ADDS_DAYS or not count.paused_days:
        return applicable
    unpaused = count.extended(paused=False) if extended else count.first(paused=False)
    assert unpaused is not None, "what was extended has an extended date"
    alert_on = min(applicable, unpaused)
    count.steps.append(f"warn by {say(alert_on)}: the law may not count the paused days")
    return alert_on


def _extended_until(rule: Rule, until_on: date | None, plain_on: date, longest_on: date | None) -> date:
    """Return the last day that an extension names; `plain_on` is the first due date before any pause, which never moves."""
    if not rule.extends:
        raise ExtensionNotOffered(rule=rule.id)
    if until_on is None:
        if longest_on is None:
            raise ExtensionDateInvalid(remedy=f"{rule.id} leaves the length open: give the date that the notice names")
        return longest_on
    if until_on <= plain_on or (longest_on is not None and until_on > longest_on):
        limit = f" and no later than {longest_on}" if longest_on else ""
        raise ExtensionDateInvalid(remedy=f"under {rule.id} it lies after {plain_on}{limit}")
    return until_on


def _due_in_hours(rule: Rule, inputs: Inputs) -> Due:
    zone = seat(inputs.zone)
    story = replay(inputs.events, zone)
    if story.extensions:
        raise ExtensionNotOffered(rule=rule.id)
    start = story.sent_at if rule.starts is Start.SENT else story.received_at
    hours = timedelta(hours=rule.period.count)
    due_at = start - hours if rule.period.unit is Unit.HOURS_BEFORE else start + hours
    due_on = local_date(due_at, zone)
    count = _count(rule, inputs, local_date(start, zone))
    count.steps.append(
        f"{rule.duty} by: {start:%Y-%m-%dT%H:%M}Z, {rule.period} = {due_at:%Y-%m-%dT%H:%M}Z, {say(due_on)} in {inputs.zone}; "
        "hours never roll"
    )
    return _dates(
        count,
        inputs,
        due_on=due_on,
        due_at=due_at,
        acknowledge_by_on=due_on if rule.duty is Duty.ACKNOWLEDGE else None,
        inform_by_on=count.inform_by(),
        applicable_due_on=due_on,
        alert_on=due_on,
    )


def _dates(
    count: Count,
    inputs: Inputs,
    *,
    due_on: date,
    due_at: datetime,
    applicable_due_on: date,
    alert_on: date,
    extended_due_on: date | None = None,
    acknowledge_by_on: date | None = None,
    notice_by_on: date | None = None,
    inform_by_on: date | None = None,
) -> Due:
    rule = count.rule
    return Due(
        rule=rule.id,
        duty=rule.duty,
        starts_on=count.starts_on,
        due_on=due_on,
        extended_due_on=extended_due_on,
        acknowledge_by_on=acknowledge_by_on,
        notice_by_on=notice_by_on,
        inform_by_on=inform_by_on,
        applicable_due_on=applicable_due_on,
        due_at=due_at,
        alert_on=alert_on,
        paused_days=count.paused_days,
        paused_since=count.paused_since,
        source=rule.source,
        link=rule.link,
        confidence=rule.confidence,
        steps=tuple(count.steps),
        inputs=inputs,
    )
