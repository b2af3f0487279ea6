"""Any single thing that goes wrong with a record is found, or harmless for a reason that can be named."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import audit_story
import pytest
from audit_corrupt import T
from audit_world import START, MemoryLog, world
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.audit.auditor import Verdict, audit
from orchestrator.audit.dates import Clock, Dates, check_dates
from orchestrator.audit.notes import origin_of
from orchestrator.audit.records import LogRecord, Place
from orchestrator.core.deadlines import Extended, Paused, Received, Resumed, due
from schemas.vocabulary import ExtensionReason, HoldKind

INPUTS = {*T.all_requests, T.commands, T.reports}


@dataclass(frozen=True)
class Clean:
    """A clean log and the instant at which it ends; short when Hypothesis prints it."""

    records: list[LogRecord] = field(repr=False)
    ends_at: datetime


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory):
    """Write the log once; give its records and the instant at which it ends."""

    async def write():
        async with world(tmp_path_factory.mktemp("audit")) as company:
            await audit_story.tell(company)
            return Clean(company.records, company.now)

    return asyncio.run(write())


def _judge(records: list[LogRecord], clean: Clean) -> Verdict:
    """Judge a version of the log within the ends that the whole one has: a broker keeps a partition's end, whatever is lost."""

    async def judge() -> Verdict:
        extent = await MemoryLog([*clean.records, *records]).extent()
        return await audit(MemoryLog(records, extent), T, as_of=clean.ends_at)

    return asyncio.run(judge())


def _sources(records: list[LogRecord]) -> set[str]:
    return {json.loads(r.value or b"")["source"] for r in records if r.place.topic == T.journal}


def _origins(records: list[LogRecord]) -> set[Place | None]:
    return {origin_of(dict(r.headers)) for r in records if r.place.topic == T.quarantine}


_some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)


@_some
@given(st.data())
def test_a_lost_record_is_found_or_was_said_elsewhere(clean, data):
    """A record that is lost is missed, unless nothing depended on it."""
    records = list(clean.records)
    lost = records.pop(data.draw(st.integers(0, len(records) - 1)))
    verdict = _judge(records, clean)
    assert not verdict.is_clean or verdict.findings.waiting or _was_needless(lost, records), lost


def _was_needless(lost: LogRecord, rest: list[LogRecord]) -> bool:
    topic = lost.place.topic
    if topic in {T.status, T.releases}:
        return True  # a status event is news, not evidence; and a key that nobody has asked for is missed by nobody
    if topic in INPUTS:
        # It had no effect, or its bytes are kept in quarantine.
        return str(lost.place) not in _sources(rest) or lost.place in _origins(rest)
    if any(other.place.topic == topic and other.value == lost.value for other in rest):
        return True  # one of two byte-identical records
    if topic != T.journal:
        return False
    # The tail of a chain that the confirmation does not cover, written for no record but because time had passed.
    entry = json.loads(lost.value or b"")
    later = [json.loads(r.value or b"")["sequence"] for r in rest if r.place.topic == topic and r.key == lost.key]
    return entry["sequence"] > max(later, default=0) and entry["cause"] not in {"SubmitRequest", "FulfilmentReport"}


@_some
@given(st.data())
def test_a_second_record_with_a_changed_byte_is_found_or_not_yet_processed(clean, data):
    """A copy with one byte changed breaks something; as an input it waits to be judged by the orchestrator."""
    records = list(clean.records)
    like = data.draw(st.sampled_from(records))
    value = bytearray(like.value or b"x")
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] = data.draw(st.integers(32, 126).filter(lambda byte: byte != value[at]))
    end = max(r.place.offset for r in records if r.place[:2] == like.place[:2]) + 1
    records.append(replace(like, place=like.place._replace(offset=end), value=bytes(value)))
    verdict = _judge(records, clean)
    if like.place.topic in INPUTS:
        # It waits, or says nothing new: the same outcome, an older promise.
        assert verdict.is_clean and verdict.findings.waiting <= 1
    else:
        assert not verdict.is_clean or like.place.topic in {T.status, T.quarantine, T.releases}


@_some
@given(st.data())
def test_a_repeated_record_is_harmless_and_counted(clean, data):
    """The same bytes again break nothing: they are counted, or wait to be processed."""
    records = list(clean.records)
    before = _judge(records, clean)
    like = data.draw(st.sampled_from(records))
    end = max(r.place.offset for r in records if r.place[:2] == like.place[:2]) + 1
    records.append(replace(like, place=like.place._replace(offset=end)))
    verdict = _judge(records, clean)
    assert verdict.is_clean
    ours = like.place.topic not in INPUTS | {T.status, T.quarantine, T.releases}
    assert verdict.duplicates.total() == before.duplicates.total() + ours


def test_what_is_said_twice_after_the_end_is_counted_as_well(clean):
    """A request that was judged already is read a second time for what came later; of that the second is a repetition too."""
    records = list(clean.records)
    counted = _judge(records, clean).duplicates.total()
    late = [r for r in records if r.place.topic == T.journal and b'"late_report"' in r.value and b'"phase":"closed"' in r.value]
    assert late
    for like in late:
        end = max(r.place.offset for r in records if r.place[:2] == like.place[:2]) + 1
        verdict = _judge([*records, replace(like, place=like.place._replace(offset=end))], clean)
        assert verdict.is_clean and verdict.duplicates.total() == counted + 1


@_some
@given(st.data())
def test_swapped_records_are_found_where_their_place_matters(clean, data):
    """Two neighbours of one partition that change places are noticed if somebody has named their places."""
    records = list(clean.records)
    first = data.draw(st.sampled_from(records))
    beside = first.place._replace(offset=first.place.offset + 1)
    second = next((r for r in records if r.place == beside), None)
    if second is None:
        return
    records[records.index(first)], records[records.index(second)] = (
        replace(second, place=first.place),
        replace(first, place=second.place),
    )
    named = _sources(records) | {str(origin) for origin in _origins(records)}
    mattered = first.place.topic in INPUTS and {str(first.place), str(second.place)} & named
    same = (first.key, first.value) == (second.key, second.value)
    both_aside = first.key == second.key and {first.place, second.place} <= _origins(records)
    # Two withdrawals of one request differ in their time alone: either would have ended it.
    both_withdraw = first.key == second.key and all(b'"WithdrawRequest"' in (r.value or b"") for r in (first, second))
    assert _judge(records, clean).is_clean == (not mattered or same or both_aside or both_withdraw)


_RULES = st.sampled_from(["eu.gdpr", "us.ccpa", "us.state", "eu.gdpr.object_marketing", "mail.oneclick", "uk.gdpr", "ch.fadp"])
_STOPS = st.sampled_from([HoldKind.CLARIFICATION, HoldKind.IDENTITY, HoldKind.FEE])
_CALENDARS = st.sampled_from(["NL", "weekends", "-", "FR", "DE-BY"])


@settings(max_examples=400, deadline=None, database=None)
@given(
    rule=_RULES,
    calendar=_CALENDARS,
    submitted_at=st.datetimes(
        min_value=START.replace(tzinfo=None), max_value=START.replace(year=2030, tzinfo=None), timezones=st.just(UTC)
    ),
    pauses=st.lists(st.tuples(_STOPS, st.integers(0, 50), st.integers(0, 40)), max_size=3),
    extended=st.booleans(),
)
@example(
    rule="eu.gdpr",
    calendar="FR",
    submitted_at=START,
    pauses=[(HoldKind.CLARIFICATION, 0, 26), (HoldKind.CLARIFICATION, 30, 10)],
    extended=False,
)
def test_both_computations_of_due_dates_agree(rule, calendar, submitted_at, pauses, extended):
    """What the orchestrator computes passes the auditor's own computation; a day more does not."""
    clock = Clock(rule=rule, zone="Europe/Amsterdam", calendar=calendar, submitted_at=submitted_at)
    events = [Received(at=submitted_at)]
    day = submitted_at.date() + timedelta(days=2)
    for reason, wait, length in pauses:
        asked = day + timedelta(days=wait)
        day = asked + timedelta(days=length)
        events += [Paused(reason=reason, asked_on=asked), Resumed(received_on=day, reason=reason)]
        clock.ask(reason.value, asked)
        clock.answer(reason.value, day)
    if extended and rule in {"eu.gdpr", "us.ccpa", "us.state", "uk.gdpr"}:
        events.append(Extended(reason=ExtensionReason.COMPLEXITY, notice_sent_at=submitted_at))
        clock.notices.append(submitted_at)
    found = due(rule, tuple(events), zone="Europe/Amsterdam", calendar=calendar)
    said = Dates(found.due_on, found.extended_due_on, found.notice_by_on, found.applicable_due_on, found.due_at)
    assert check_dates(clock, said)[1] is None
    later = replace(said, due_at=said.due_at + timedelta(days=1))
    assert check_dates(clock, later)[1] is not None
