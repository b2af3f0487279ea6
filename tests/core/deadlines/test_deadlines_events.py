"""Each clock event under each kind of clock, each refusal, and a controller's own periods."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

import orchestrator.core.deadlines as package
from orchestrator.core.deadlines import (
    CLOCK_EVENTS,
    ClockOutOfOrder,
    Due,
    Extended,
    ExtensionDateInvalid,
    ExtensionNotOffered,
    ExtensionTooLate,
    IdentityConfirmed,
    Override,
    Paused,
    Period,
    Received,
    Resumed,
    check_calendar,
    check_overrides,
    days_off,
    due,
    is_working_day,
    rule_named,
    rules_for,
    seat,
)
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.vocabulary import ExtensionReason, HoldKind, QuarantineReason, Right

MARCH_5 = Received(at=datetime(2026, 3, 5, 9, tzinfo=timezone(timedelta(hours=1))))
IDENTITY, CLARIFICATION, FEE = HoldKind.IDENTITY, HoldKind.CLARIFICATION, HoldKind.FEE


def eu(*events: Any, rule: str = "eu.gdpr", calendar: str = "NL", **options: Any) -> Due:
    return due(rule, events, zone="Europe/Amsterdam", calendar=calendar, **options)


def uk(*events: Any, rule: str = "uk.gdpr", **options: Any) -> Due:
    return due(rule, events, zone="Europe/London", calendar="GB-ENG", **options)


def extended(at: str, until_on: date | None = None) -> Extended:
    return Extended(reason=ExtensionReason.COMPLEXITY, notice_sent_at=datetime.fromisoformat(at), until_on=until_on)


def pause(kind: HoldKind, asked: str, answered: str) -> tuple[Paused, Resumed]:
    return (
        Paused(reason=kind, asked_on=date.fromisoformat(asked)),
        Resumed(reason=kind, received_on=date.fromisoformat(answered)),
    )


def test_events_survive_json() -> None:
    """The stored JSON of every event reads back as the same event, instants in UTC."""
    events = (
        MARCH_5,
        *pause(IDENTITY, "2026-03-06", "2026-03-07"),
        IdentityConfirmed(on=date(2026, 3, 7)),
        extended("2026-03-09T10:00+01:00"),
    )
    stored = CLOCK_EVENTS.dump_json(events)
    assert b'"2026-03-05T08:00:00Z"' in stored
    assert CLOCK_EVENTS.validate_json(stored) == events


def test_events_are_frozen_and_aware() -> None:
    """An event cannot be changed, and an instant needs an offset."""
    with pytest.raises(ValidationError):
        MARCH_5.at = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ValidationError, match="offset"):
        Received(at=datetime(2026, 3, 5, 9))  # noqa: DTZ001 - a naive instant is what must be refused
    with pytest.raises(ValidationError, match="sent before it is received"):
        Received(at=MARCH_5.at, sent_at=MARCH_5.at + timedelta(seconds=1))
    for wrong in ({}, {"at": MARCH_5.at, "on": date(2026, 3, 5)}):
        with pytest.raises(ValidationError, match="either at"):
            IdentityConfirmed(**wrong)


def test_extension_in_time_moves_the_applicable_date() -> None:
    """A notice on the last valid day counts until 24:00 at the seat; the first date stays on record."""
    found = eu(MARCH_5, extended("2026-04-07T23:59+02:00"))
    assert (found.due_on, found.applicable_due_on, found.alert_on) == (date(2026, 4, 7), date(2026, 6, 5), date(2026, 6, 5))
    assert found.due_at == datetime(2026, 6, 5, 22, tzinfo=UTC)


def test_extension_too_late_names_the_last_valid_date() -> None:
    """One minute after that day the extension is refused, and the dates are as before."""
    before = eu(MARCH_5)
    with pytest.raises(ExtensionTooLate, match="2026-04-07") as refused:
        eu(MARCH_5, extended("2026-04-08T00:00+02:00"))
    assert refused.value.last_valid_on == date(2026, 4, 7)
    assert refused.value.code == QuarantineReason.EXTENSION_TOO_LATE
    assert isinstance(refused.value, ProtocolViolation)
    assert eu(MARCH_5) == before


def test_notice_date_ignores_pauses_in_the_eu_and_counts_them_in_the_uk() -> None:
    """EU: the unpaused first date; UK: the paused one."""
    asked = pause(CLARIFICATION, "2026-03-10", "2026-03-19")
    assert eu(MARCH_5, *asked).notice_by_on == date(2026, 4, 7)
    assert eu(MARCH_5, *asked).due_on == date(2026, 4, 14)
    assert uk(MARCH_5, *asked).notice_by_on == uk(MARCH_5, *asked).due_on == date(2026, 4, 15)
    with pytest.raises(ExtensionTooLate):
        eu(MARCH_5, *asked, extended("2026-04-10T10:00Z"))
    assert uk(MARCH_5, *asked, extended("2026-04-10T10:00Z")).applicable_due_on == date(2026, 6, 15)


def test_warning_leaves_eu_pauses_out() -> None:
    """EU: warn about the date without pauses, extended or not; UK: about the applicable one."""
    asked = pause(IDENTITY, "2026-03-10", "2026-03-19")
    assert eu(MARCH_5, *asked).alert_on == date(2026, 4, 7)
    assert eu(MARCH_5, *asked, extended("2026-04-01T10:00Z")).alert_on == date(2026, 6, 5)
    assert any("may not count the paused days" in step for step in eu(MARCH_5, *asked).steps)
    assert uk(MARCH_5, *asked).alert_on == uk(MARCH_5, *asked).due_on


@pytest.mark.parametrize(
    "rule", ["eu.gdpr.refuse", "ca.qc.law25", "mail.oneclick", "eu.gdpr.object_marketing", "us.ccpa.optout"]
)
def test_rule_without_extension_refuses_one(rule: str) -> None:
    """Where the law knows no extension, none is recorded."""
    with pytest.raises(ExtensionNotOffered, match=rule):
        eu(MARCH_5, extended("2026-03-06T10:00Z"), rule=rule)


def test_extension_may_be_shorter_and_never_longer() -> None:
    """A date named in the notice counts if it lies after the plain first date and within the longest."""
    assert eu(MARCH_5, extended("2026-04-01T10:00Z", date(2026, 5, 1))).applicable_due_on == date(2026, 5, 1)
    for outside in (date(2026, 4, 7), date(2026, 6, 6)):
        with pytest.raises(ExtensionDateInvalid, match="2026-06-05"):
            eu(MARCH_5, extended("2026-04-01T10:00Z", outside))


def test_a_later_pause_cannot_make_a_recorded_extension_impossible() -> None:
    """A pause that moves the first date past the named one keeps the later of both."""
    events = (MARCH_5, extended("2026-03-20T10:00Z", date(2026, 4, 10)), *pause(IDENTITY, "2026-03-21", "2026-04-05"))
    assert eu(*events).due_on == eu(*events).applicable_due_on == date(2026, 4, 20)


def test_swiss_extension_is_open() -> None:
    """Switzerland: the notice names the date, within the first 30 days."""
    with pytest.raises(ExtensionDateInvalid, match="the date that the notice names"):
        eu(MARCH_5, extended("2026-03-20T10:00Z"), rule="ch.fadp")
    found = eu(MARCH_5, extended("2026-03-20T10:00Z", date(2026, 9, 1)), rule="ch.fadp")
    assert found.applicable_due_on == found.extended_due_on == date(2026, 9, 1)
    with pytest.raises(ExtensionDateInvalid, match="lies after 2026-04-04"):
        eu(MARCH_5, extended("2026-03-20T10:00Z", date(2026, 4, 4)), rule="ch.fadp")
    with pytest.raises(ExtensionTooLate, match="2026-04-04"):
        eu(MARCH_5, extended("2026-04-06T10:00Z", date(2026, 9, 1)), rule="ch.fadp")


def test_swiss_cost_share_restarts_the_period() -> None:
    """The 30 days start ten days after the announcement, answered or not; announced too late it changes nothing."""
    announced = Paused(reason=FEE, asked_on=date(2026, 3, 10))
    found = eu(MARCH_5, announced, rule="ch.fadp")
    assert (found.starts_on, found.due_on) == (date(2026, 3, 20), date(2026, 4, 19))
    assert found.paused_since == date(2026, 3, 10)
    answered = eu(MARCH_5, announced, Resumed(received_on=date(2026, 3, 12)), rule="ch.fadp")
    assert (answered.due_on, answered.paused_since, answered.paused_days) == (date(2026, 4, 19), None, 0)
    late = eu(MARCH_5, Paused(reason=FEE, asked_on=date(2026, 4, 5)), rule="ch.fadp")
    assert late.due_on == date(2026, 4, 4)
    assert any("no effect" in step for step in late.steps)


def test_uk_start_moves_to_identity_and_fee() -> None:
    """The relevant time is the latest of receipt, identity information and fee, however it was recorded."""
    confirmed = uk(MARCH_5, IdentityConfirmed(at=datetime(2026, 3, 11, 23, 30, tzinfo=UTC)))
    assert (confirmed.starts_on, confirmed.due_on) == (date(2026, 3, 11), date(2026, 4, 13))
    both = uk(MARCH_5, *pause(IDENTITY, "2026-03-06", "2026-03-09"), *pause(FEE, "2026-03-06", "2026-03-10"))
    assert (both.starts_on, both.due_on, both.paused_days) == (date(2026, 3, 10), date(2026, 4, 10), 0)
    earlier = uk(MARCH_5, IdentityConfirmed(on=date(2026, 3, 1)))
    assert earlier.starts_on == date(2026, 3, 5)
    still = uk(MARCH_5, Paused(reason=IDENTITY, asked_on=date(2026, 3, 6)))
    assert (still.starts_on, still.paused_since) == (date(2026, 3, 5), date(2026, 3, 6))


def test_uk_question_after_the_end_moves_nothing() -> None:
    """A question sent when the period was over cannot revive it; within an extension it still can."""
    for kind in (IDENTITY, CLARIFICATION):
        late = uk(MARCH_5, *pause(kind, "2026-04-10", "2026-04-12"))
        assert late.due_on == date(2026, 4, 7)
        assert any("no effect" in step for step in late.steps)
    assert uk(MARCH_5, extended("2026-04-01T10:00Z"), *pause(CLARIFICATION, "2026-04-10", "2026-04-12")).paused_days == 3


def test_uk_clarification_counts_for_access_only() -> None:
    """For another right than access a clarification stops nothing."""
    asked = pause(CLARIFICATION, "2026-03-10", "2026-03-19")
    assert uk(MARCH_5, *asked, right=Right.ACCESS).paused_days == 10
    other = uk(MARCH_5, *asked, right=Right.ERASURE)
    assert (other.paused_days, other.due_on) == (0, date(2026, 4, 7))
    assert any("does not stop this clock" in step for step in other.steps)


def test_overlapping_pauses_count_each_day_once() -> None:
    """A day inside two pauses is one paused day."""
    asked = (*pause(IDENTITY, "2026-03-10", "2026-03-19"), *pause(CLARIFICATION, "2026-03-12", "2026-03-15"))
    assert eu(MARCH_5, *asked).paused_days == 9
    longer = (*pause(IDENTITY, "2026-03-10", "2026-03-19"), *pause(CLARIFICATION, "2026-03-18", "2026-03-21"))
    assert eu(MARCH_5, *longer).paused_days == 11


def test_clarification_before_the_uk_start_is_not_counted_twice() -> None:
    """Days before the relevant time are outside the period and add nothing."""
    found = uk(MARCH_5, *pause(CLARIFICATION, "2026-03-06", "2026-03-12"), IdentityConfirmed(on=date(2026, 3, 11)))
    assert (found.starts_on, found.paused_days) == (date(2026, 3, 11), 2)


def test_open_question_moves_nothing_yet() -> None:
    """While the answer is awaited the plain dates stand and the result says since when it is awaited."""
    found = eu(MARCH_5, Paused(reason=IDENTITY, asked_on=date(2026, 3, 10)))
    assert (found.due_on, found.paused_since) == (date(2026, 4, 7), date(2026, 3, 10))


def test_legal_hold_and_fee_stop_no_eu_clock() -> None:
    """A legal hold keeps data, not time; the GDPR's fee has no pause either."""
    found = eu(MARCH_5, *pause(HoldKind.LEGAL_HOLD, "2026-03-10", "2026-03-19"), *pause(FEE, "2026-03-10", "2026-03-19"))
    assert (found.due_on, found.paused_days) == (date(2026, 4, 7), 0)


def test_identity_confirmation_ends_the_question() -> None:
    """It closes the open question, resuming afterwards changes nothing, and earlier information voids the question."""
    question = Paused(reason=IDENTITY, asked_on=date(2026, 3, 10))
    confirmed = (MARCH_5, question, IdentityConfirmed(on=date(2026, 3, 19)))
    assert eu(*confirmed).due_on == date(2026, 4, 14)
    assert eu(*confirmed, Resumed(reason=IDENTITY, received_on=date(2026, 3, 25))).due_on == date(2026, 4, 14)
    void = eu(MARCH_5, question, IdentityConfirmed(on=date(2026, 3, 9)))
    assert (void.due_on, void.paused_since) == (date(2026, 4, 7), None)


def test_repeated_question_is_one_question() -> None:
    """Asking again while the answer is awaited does not shorten the pause; asking again after it starts a new one."""
    again = Paused(reason=IDENTITY, asked_on=date(2026, 3, 15))
    first, answer = pause(IDENTITY, "2026-03-10", "2026-03-19")
    assert eu(MARCH_5, first, again, answer).paused_days == 9
    assert eu(MARCH_5, first, answer, *pause(IDENTITY, "2026-03-20", "2026-03-22")).paused_days == 11


@pytest.mark.parametrize(
    ("events", "field"),
    [
        ((), "events"),
        ((IdentityConfirmed(on=date(2026, 3, 5)),), "events"),
        ((MARCH_5, MARCH_5), "events"),
        ((MARCH_5, Paused(reason=IDENTITY, asked_on=date(2026, 3, 4))), "asked_on"),
        ((MARCH_5, Resumed(received_on=date(2026, 3, 9))), "reason"),
        ((MARCH_5, *pause(IDENTITY, "2026-03-10", "2026-03-09")), "received_on"),
        ((MARCH_5, extended("2026-03-04T10:00Z")), "notice_sent_at"),
    ],
)
def test_impossible_stories_are_refused(events: tuple[Any, ...], field: str) -> None:
    """The refusal names the field that cannot be."""
    with pytest.raises(ClockOutOfOrder) as refused:
        eu(*events)
    assert refused.value.field == field


def test_objection_has_two_dates() -> None:
    """The stop by the hour, the information about it within the month."""
    found = eu(MARCH_5, rule="eu.gdpr.object_marketing")
    assert found.due_at == MARCH_5.at + timedelta(hours=48)
    assert (found.due_on, found.inform_by_on) == (date(2026, 3, 7), date(2026, 4, 7))


def test_erasure_warning_counts_backwards() -> None:
    """India: the warning leaves 48 hours before the planned erasure, and never rolls."""
    found = due("in.dpdp.erase", (MARCH_5,), zone="Asia/Kolkata", calendar="IN")
    assert found.due_at == MARCH_5.at - timedelta(hours=48)


def test_sending_date_counts_where_the_law_says_so() -> None:
    """CASL and LGPD count from sending; PIPEDA only its notice; others never."""
    late = Received(at=MARCH_5.at, sent_at=MARCH_5.at - timedelta(days=2))
    assert eu(late, rule="br.lgpd").due_on == date(2026, 3, 18)
    assert eu(MARCH_5, rule="mail.casl").due_on == date(2026, 3, 19)
    assert eu(late, rule="mail.casl").due_on == date(2026, 3, 17)
    pipeda = eu(late, rule="ca.pipeda")
    assert (pipeda.due_on, pipeda.notice_by_on) == (date(2026, 4, 4), date(2026, 4, 2))
    assert eu(late).due_on == eu(MARCH_5).due_on
    hours = {"mail.casl": Override(period=Period.of("24 hours"), source="own promise")}
    assert eu(late, rule="mail.casl", overrides=hours).due_at == MARCH_5.at - timedelta(days=1)


def test_californian_business_days_do_not_follow_the_seat() -> None:
    """The law's own list counts business days whatever the controller's calendar is; strictly, no holiday counts."""
    june_15 = Received(at=datetime(2026, 6, 15, 16, tzinfo=UTC))
    dates = {
        name: due("us.ccpa.optout", (june_15,), zone="America/Los_Angeles", calendar=name).due_on for name in ("NL", "US", "-")
    }
    assert set(dates.values()) == {date(2026, 7, 7)}
    federal = {"us.ccpa.optout": Override(calendar="US", source="counsel's reading")}
    listed = due("us.ccpa.optout", (june_15,), zone="America/Los_Angeles", calendar="-", overrides=federal)
    assert (listed.due_on, listed.source) == (date(2026, 7, 8), "counsel's reading")
    strict = due("us.ccpa.optout", (june_15,), zone="America/Los_Angeles", calendar="-", conservative=True)
    assert strict.due_on == date(2026, 7, 6)


def test_ccpa_strict_reading_is_one_day_earlier() -> None:
    """The day of receipt as day 1, for both dates and the notice."""
    may_22 = Received(at=datetime(2026, 5, 22, 16, tzinfo=UTC))
    plain, strict = (due("us.ccpa", (may_22,), zone="America/Los_Angeles", calendar="-", conservative=c) for c in (False, True))
    assert (plain.due_on, plain.acknowledge_by_on) == (date(2026, 7, 6), date(2026, 6, 8))
    assert (strict.due_on, strict.extended_due_on, strict.notice_by_on) == (
        date(2026, 7, 5),
        date(2026, 8, 19),
        date(2026, 7, 5),
    )


def test_days_end_at_local_midnight_across_a_clock_change() -> None:
    """The due instant is the seat's midnight in summer and winter time."""
    found = eu(Received(at=datetime(2026, 2, 28, 12, tzinfo=UTC)))
    assert found.due_at == datetime(2026, 3, 30, 22, tzinfo=UTC)


def test_override_brings_its_period_and_source() -> None:
    """Eight days for health data instead of a month, without extension; the source is the override's."""
    overrides = {
        "eu.gdpr": Override(period=Period.of("8 days"), source="sector rule for health data", link="https://example.org/")
    }
    found = eu(MARCH_5, overrides=overrides)
    assert (found.due_on, found.extended_due_on, found.source) == (date(2026, 3, 13), None, "sector rule for health data")
    assert found.inputs.override == overrides["eu.gdpr"]
    with pytest.raises(ExtensionNotOffered):
        eu(MARCH_5, extended("2026-03-06T10:00Z"), overrides=overrides)
    assert eu(MARCH_5, rule="eu.gdpr.refuse", overrides=overrides).due_on == date(2026, 4, 7)


def test_override_may_keep_an_extension() -> None:
    """Colorado: 45 days to decide an appeal and 60 more."""
    colorado = Override.model_validate({"period": "45 days", "total": "105 days", "source": "Colorado rule"})
    check_overrides({"us.state.appeal": colorado})
    found = eu(MARCH_5, rule="us.state.appeal", overrides={"us.state.appeal": colorado})
    assert (found.due_on, found.extended_due_on) == (date(2026, 4, 19), date(2026, 6, 18))


def test_override_in_business_days_uses_the_seats_calendar() -> None:
    """A rule without a list of its own counts business days by the controller's calendar, strictly by none."""
    overrides = {"uk.complaint": Override(period=Period.of("5 business_days"), source="own promise")}
    received = Received(at=datetime(2026, 4, 1, 12, tzinfo=UTC))
    assert uk(received, rule="uk.complaint", overrides=overrides).acknowledge_by_on == date(2026, 4, 10)
    strict = uk(received, rule="uk.complaint", overrides=overrides, conservative=True)
    assert strict.acknowledge_by_on == date(2026, 4, 8)
    hours = {"uk.complaint": Override(period=Period.of("12 hours"), source="own promise")}
    assert uk(received, rule="uk.complaint", overrides=hours).acknowledge_by_on == date(2026, 4, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "x"},
        {"source": "own promise"},
        {"source": "own promise", "total": "3 months"},
        {"source": "own promise", "period": "1 month", "total": "90 days"},
        {"source": "own promise", "period": "2 months", "total": "1 month"},
        {"source": "own promise", "period": "24 hours", "total": "48 hours"},
        {"source": "own promise", "period": "soon"},
        {"source": "own promise", "period": "x days"},
        {"source": "own promise", "period": "3 fortnights"},
        {"source": "own promise", "period": "0 days"},
    ],
)
def test_inconsistent_overrides_are_refused(wrong: dict[str, str]) -> None:
    """An override without source, without effect, or with an impossible period does not load."""
    with pytest.raises(ValidationError):
        Override.model_validate(wrong)


def test_unknown_names_list_the_valid_ones() -> None:
    """Rule, regime, zone, calendar and override: the sentence starts with the closest valid name."""
    for call, closest in (
        (lambda: rule_named("eu.gpdr"), "valid are eu.gdpr, "),
        (lambda: rules_for("eu.gpdr", Right.ACCESS), "valid are eu.gdpr, "),
        (lambda: seat("Europe/Amsterdm"), "valid are Europe/Amsterdam, "),
        (lambda: seat("/etc/passwd"), "zone: "),
        (lambda: seat("Europe"), "zone: "),
        (lambda: seat("localtime"), "zone: "),
        (lambda: check_calendar("GB-EN"), "valid are GB-ENG, "),
        (lambda: days_off("nl", 2026), "valid are NL, "),
        (lambda: check_calendar("NL-Noord"), "valid are NL, NL-ATW, "),
        (lambda: check_overrides({"eu.gpdr": Override(calendar="NL", source="own")}), "valid are eu.gdpr, "),
        (lambda: check_overrides({"eu.gdpr": Override(calendar="NLL", source="own")}), "valid are NL, "),
        (lambda: eu(MARCH_5, calendar="XX"), "calendar: "),
    ):
        with pytest.raises(ConfigurationError, match=closest):
            call()


def test_override_calendar_is_used_for_rolling() -> None:
    """A controller may answer by a longer list for one rule."""
    overrides = {"eu.gdpr": Override(calendar="NL-ATW", source="counsel's reading")}
    april_14 = Received(at=datetime(2026, 4, 14, 7, tzinfo=UTC))
    assert eu(april_14, overrides=overrides).due_on == date(2026, 5, 18)


def test_plain_calendar_never_rolls() -> None:
    """In `-` a Sunday is a day like any other."""
    assert eu(MARCH_5, calendar="-").due_on == date(2026, 4, 5)
    assert is_working_day("-", date(2026, 4, 5))


def test_periods_are_written_in_words() -> None:
    """A period reads back as people write it."""
    assert [str(Period.of(text)) for text in ("1 month", "10 business_days", "48 hours_before", "1 business_day")] == [
        "1 month",
        "10 business days",
        "48 hours before",
        "1 business day",
    ]
    assert Period.model_validate({"count": 1, "unit": "days"}) == Period.of("1 day")


def test_public_names_are_all() -> None:
    """The package exports exactly what it names."""
    assert sorted(package.__all__) == sorted(set(package.__all__))
    assert all(hasattr(package, name) for name in package.__all__)
