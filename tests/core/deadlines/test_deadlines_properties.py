"""What must hold for every receipt moment, every rule and every calendar."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from dateutil.easter import easter as dateutil_easter
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.deadlines import (
    CLOCK_EVENTS,
    RULES,
    ClockEventRejected,
    Extended,
    ExtensionDateInvalid,
    ExtensionNotOffered,
    ExtensionTooLate,
    IdentityConfirmed,
    Paused,
    Received,
    Resumed,
    days_off,
    due,
    is_working_day,
    roll_forward,
)
from orchestrator.core.deadlines.calendars import easter
from schemas.vocabulary import ExtensionReason, HoldKind

ZONES = ("Europe/Amsterdam", "Europe/London", "America/Los_Angeles", "Asia/Kolkata", "Pacific/Kiritimati", "America/Sao_Paulo")
CALENDARS = ("NL", "NL-ATW", "FR", "DE-BY", "GB-ENG", "US-CA*", "-")
instants = st.datetimes(datetime(2024, 1, 1), datetime(2028, 8, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive by contract
#: The first example of a process loads the holiday data: no limit per example.
unhurried = settings(deadline=None)
rule_ids = st.sampled_from(sorted(RULES))
zones = st.sampled_from(ZONES)
calendars = st.sampled_from(CALENDARS)
forward = st.sampled_from(sorted(r for r in RULES if RULES[r].period.unit != "hours_before"))


def computed(rule: str, at: datetime, zone: str, calendar: str, *more: Any, conservative: bool = False) -> Any:
    return due(rule, (Received(at=at), *more), zone=zone, calendar=calendar, conservative=conservative)


@unhurried
@given(forward, instants, zones, calendars, st.booleans())
def test_due_lies_after_receipt(rule: str, at: datetime, zone: str, calendar: str, conservative: bool) -> None:
    """Every period ends after it began, and an extension never shortens it."""
    found = computed(rule, at, zone, calendar, conservative=conservative)
    assert found.due_at > at
    assert found.due_on > found.starts_on
    assert found.extended_due_on is None or found.extended_due_on >= found.due_on


@unhurried
@given(rule_ids, instants, st.timedeltas(timedelta(0), timedelta(days=400)), zones, calendars, st.booleans())
def test_later_receipt_is_never_due_earlier(
    rule: str, at: datetime, later: timedelta, zone: str, calendar: str, conservative: bool
) -> None:
    """Without pauses the dates are monotone in the moment of receipt."""
    first = computed(rule, at, zone, calendar, conservative=conservative)
    second = computed(rule, at + later, zone, calendar, conservative=conservative)
    for name in ("due_on", "extended_due_on", "acknowledge_by_on", "notice_by_on", "inform_by_on", "due_at"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None)
        assert a is None or a <= b, name


@unhurried
@given(st.dates(date(1990, 1, 1), date(2090, 12, 31)), calendars)
def test_rolling_is_idempotent(day: date, calendar: str) -> None:
    """A rolled day is a working day, is never before the day, and rolls no further."""
    rolled = roll_forward(calendar, day)
    assert rolled >= day
    assert is_working_day(calendar, rolled)
    assert roll_forward(calendar, rolled) == rolled


@unhurried
@given(st.sampled_from(sorted(r for r in RULES if RULES[r].rolls and not RULES[r].period.in_hours)), instants, zones, calendars)
def test_rolling_rules_end_on_a_working_day(rule: str, at: datetime, zone: str, calendar: str) -> None:
    """Both dates of a rule that rolls are working days of the controller's calendar."""
    found = computed(rule, at, zone, calendar)
    assert is_working_day(calendar, found.due_on)
    assert found.extended_due_on is None or is_working_day(calendar, found.extended_due_on)


@unhurried
@given(rule_ids, instants, zones)
def test_shorter_list_never_gives_a_later_date(rule: str, at: datetime, zone: str) -> None:
    """NL, shorter than NL-ATW, gives the same date or an earlier one; the conservative reading too."""
    short, long = computed(rule, at, zone, "NL"), computed(rule, at, zone, "NL-ATW")
    strict = computed(rule, at, zone, "NL", conservative=True)
    assert strict.due_on <= short.due_on <= long.due_on
    if short.extended_due_on is not None:
        assert strict.extended_due_on <= short.extended_due_on <= long.extended_due_on


days_after = st.integers(0, 120)
events = st.one_of(
    st.builds(lambda n, k: ("paused", n, k), days_after, st.sampled_from(HoldKind)),
    st.builds(lambda n, k: ("resumed", n, k), days_after, st.one_of(st.none(), st.sampled_from(HoldKind))),
    st.builds(lambda n: ("confirmed", n, None), st.integers(-5, 120)),
    st.builds(lambda n, u: ("extended", n, u), st.integers(-5, 120), st.one_of(st.none(), st.integers(1, 150))),
)


def built(at: datetime, told: tuple[str, int, Any]) -> Any:
    kind, days, reason = told
    day = at.date() + timedelta(days=days)
    if kind == "paused":
        return Paused(reason=reason, asked_on=day)
    if kind == "resumed":
        return Resumed(reason=reason, received_on=day)
    if kind == "confirmed":
        return IdentityConfirmed(on=day)
    until_on = None if reason is None else at.date() + timedelta(days=reason)
    return Extended(reason=ExtensionReason.COMPLEXITY, notice_sent_at=at + timedelta(days=days), until_on=until_on)


@unhurried
@given(rule_ids, instants, zones, calendars, st.lists(events, max_size=8))
def test_any_story_gives_dates_or_is_rejected(
    rule: str, at: datetime, zone: str, calendar: str, told: list[tuple[str, int, Any]]
) -> None:
    """An event that cannot be raises and leaves the dates; any other moves no date before the plain one."""
    plain = computed(rule, at, zone, calendar)
    kept: list[Any] = []
    found = plain
    for step in told:
        event = built(at, step)
        try:
            found = computed(rule, at, zone, calendar, *kept, event)
        except ClockEventRejected as refused:
            blames_extension = isinstance(refused, ExtensionTooLate | ExtensionNotOffered | ExtensionDateInvalid)
            assert blames_extension <= isinstance(event, Extended)
            again = computed(rule, at, zone, calendar, *kept)
            assert again.model_copy(update={"inputs": None}) == found.model_copy(update={"inputs": None})
        else:
            kept.append(event)
    assert found.due_on >= plain.due_on
    assert found.applicable_due_on >= found.due_on
    assert found.alert_on <= found.applicable_due_on
    assert found.extended_due_on is None or found.extended_due_on >= found.due_on
    assert CLOCK_EVENTS.validate_json(CLOCK_EVENTS.dump_json(found.inputs.events)) == found.inputs.events


@unhurried
@given(
    instants, st.sampled_from(["us.ccpa", "us.state", "ca.pipeda", "ca.qc.law25", "br.lgpd", "shopify"]), days_after, days_after
)
def test_rules_without_pause_ignore_questions(at: datetime, rule: str, asked: int, waited: int) -> None:
    """California, the states, Canada and Brazil know no pause: a question moves nothing."""
    asked_on = at.date() + timedelta(days=asked)
    told = [
        event
        for kind in HoldKind
        for event in (
            Paused(reason=kind, asked_on=asked_on),
            Resumed(reason=kind, received_on=asked_on + timedelta(days=waited)),
        )
    ]
    found = computed(rule, at, "UTC", "-", *told)
    assert found.due_on == computed(rule, at, "UTC", "-").due_on
    assert found.paused_days == 0
    assert found.paused_since is None


@pytest.mark.parametrize("span", [range(1900, 2200)])
def test_easter_agrees_with_a_second_algorithm(span: range) -> None:
    """Our Easter is the one of the library that the holiday data set is computed with."""
    assert [easter(year) for year in span] == [dateutil_easter(year) for year in span]


@unhurried
@given(st.integers(2000, 2090))
def test_own_lists_stay_inside_their_year(year: int) -> None:
    """A list of one year holds days of that year only."""
    for name in ("NL", "NL-ATW", "US-CA*", "GB-SCT", "FR"):
        assert {day.year for day in days_off(name, year)} == {year}
