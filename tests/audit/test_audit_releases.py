"""What the auditor makes of keys that were given out: order, retention, live reading, and memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from audit_corrupt import Broken, T
from audit_world import START, MemoryLog, World, world

from orchestrator.audit.auditor import Auditor, Verdict, audit
from orchestrator.audit.ground import Ground
from orchestrator.audit.identity import IdentitySearch
from orchestrator.audit.records import LogRecord, Place, Span
from schemas.order_keys import KeysReleased, WantedKey
from schemas.vocabulary import Right
from schemas.wire import encode


@pytest.fixture
def log(tmp_path: Path) -> Broken:
    """A closed request, and an open one whose newsletter stays silent."""

    async def write() -> Broken:
        async with world(tmp_path) as company:
            told = {"closed": company.submit(Right.ACCESS)}
            await company.settle()
            told["open"] = company.submit(Right.ACCESS)
            company.scripts["newsletter"] = [lambda _order, _now: None]
            await company.settle()
            return Broken(company.records, told)

    return asyncio.run(write())


def _judge(records: list[LogRecord], as_of: datetime = START, **spans: Span) -> Verdict:
    async def judge() -> Verdict:
        extent = dict(await MemoryLog(records).extent())
        for topic, span in spans.items():
            extent |= {(name, number): span for name, number in extent if name == getattr(T, topic)}
        return await audit(MemoryLog(records, extent), T, as_of=as_of)

    return asyncio.run(judge())


def _said(verdict: Verdict) -> list[tuple[int, str]]:
    return [(violation.invariant, violation.meaning) for violation in verdict.violations]


def test_a_log_without_the_topic_is_clean(log: Broken):
    """A dump that was made before there was such a topic accuses nobody; what it does not show is counted."""
    verdict = _judge([r for r in log.records if r.place.topic != T.releases])
    assert verdict.is_clean
    assert verdict.findings.unverified["keys given out for orders that ended"] == 7


def test_a_key_of_a_request_that_was_not_read_yet_accuses_nobody_for_a_while(log: Broken):
    """Its journal entry may be on its way for as long as the slack is; after that it is missed."""
    topics = {T.journal, T.confirmations, *(T.orders(s) for s in ("crm", "newsletter", "subsidiary", "analytics")), T.status}
    key = log.told["open"].encode()
    behind = [r for r in log.records if not (r.place.topic in topics and r.key == key)]
    assert _judge(behind).is_clean
    late = _judge(behind, START + timedelta(minutes=16)).violations
    assert {(violation.invariant, violation.request) for violation in late} == {(10, log.told["open"])}


def test_a_journal_that_is_gone_by_age_leaves_keys_unverified(log: Broken):
    """Where the journal has lost records, a key without a request is counted and accuses nobody."""
    rest = [r for r in log.records if r.place.topic == T.releases]
    gone = [replace(r, value=b"") for r in log.records if r.place.topic == T.journal]
    verdict = _judge(rest + gone, START + timedelta(days=1), journal=Span(99, 99))
    assert verdict.is_clean
    assert verdict.findings.unverified["keys given out for requests whose journal is gone"] > 0


@pytest.mark.parametrize(("seconds", "is_clean"), [(-61, False), (-59, True), (59, True), (61, False)])
def test_the_clocks_of_two_workers_may_be_a_minute_apart(log: Broken, seconds: int, is_clean: bool):
    """A key may seem to be given out a little before its order was sent, or after its request closed."""
    record = log.releases("closed", "newsletter")[0]
    log.append(record, released_at=(START + timedelta(seconds=seconds)).isoformat())
    assert _judge(log.records).is_clean == is_clean


def test_an_end_without_a_key_is_a_lie(log: Broken):
    """A system that was never given the key of its order knows nobody, whatever it reports of them."""
    for record in log.releases("closed", "newsletter"):
        log.drop(record)
    verdict = _judge(log.records)
    assert _said(verdict) == [(10, "newsletter reported the order's end and never got its key: it knew nobody")]
    assert verdict.violations[0].place in [r.place for r in log.of(T.journal, "closed")]


@pytest.mark.parametrize(("seconds", "is_clean"), [(59, True), (61, False)])
def test_an_end_before_its_key_is_a_lie(log: Broken, seconds: int, is_clean: bool):
    """The key that was asked for afterwards mends nothing; a minute is the clocks'."""
    (record,) = log.releases("open", "crm")
    log.edit(record, released_at=(START + timedelta(seconds=seconds)).isoformat())
    lie = (10, "crm reported the order's end before it got the key: it knew nobody")
    assert _said(_judge(log.records)) == ([] if is_clean else [lie])


def test_keys_that_are_gone_by_age_accuse_nobody(log: Broken):
    """Where the topic has lost what is as old as the order, a missing key is counted."""
    gone = [replace(r, timestamp_ms=r.timestamp_ms + 1) if r.place.topic == T.releases else r for r in log.records]
    first = {r.place.partition: r for r in reversed(gone) if r.place.topic == T.releases}
    for record in first.values():
        gone.remove(record)
    verdict = _judge(gone, releases=Span(1, 99))
    assert verdict.is_clean and verdict.findings.unverified["keys given out for orders that ended"] > 0


def test_a_topic_that_was_made_later_says_nothing_of_what_was_before(log: Broken):
    """Made anew after a loss, or by a release that was the first to have it: only what was sent since is accused."""
    for record in log.releases("closed", "newsletter"):
        log.drop(record)
    later = [replace(r, timestamp_ms=r.timestamp_ms + 1) if r.place.topic == T.releases else r for r in log.records]
    verdict = _judge(later)
    assert verdict.is_clean and verdict.findings.unverified["keys given out for orders that ended"] == 1


def test_a_key_is_as_old_as_its_order(log: Broken):
    """What was sent before the first record that is left may have had its key then, whenever its end was reported."""
    for record in log.releases("closed", "newsletter"):
        log.drop(record)
    kept = datetime.timestamp(START) * 1000 - 1
    begun = [replace(r, timestamp_ms=int(kept)) if r.place.topic == T.releases else r for r in log.records]
    assert not _judge(begun, releases=Span(1, 99)).is_clean
    log.rewrite("closed", _sent_earlier)
    begun = [replace(r, timestamp_ms=int(kept)) if r.place.topic == T.releases else r for r in log.records]
    assert all("never got its key" not in meaning for _, meaning in _said(_judge(begun, releases=Span(1, 99))))


def test_a_report_that_was_not_read_accuses_nobody(log: Broken):
    """The ends of releases were captured before it: its key may stand behind them."""
    for record in log.releases("closed", "newsletter"):
        log.drop(record)
    reports = [r for r in log.of(T.reports, "closed") if b'"newsletter"' in (r.value or b"")]
    behind = [r for r in log.records if r not in reports]
    assert _judge(behind, reports=Span(0, reports[0].place.offset)).is_clean


def test_keys_may_be_read_last(log: Broken):
    """Wherever the topic stands in the order of reading, the verdict is the same: a request waits for its keys."""
    last = [*(r for r in log.records if r.place.topic != T.releases), *(r for r in log.records if r.place.topic == T.releases)]
    verdict = _judge(last)
    assert verdict.is_clean and verdict.read_twice == 0


def test_a_key_read_after_its_request_was_forgotten_is_judged_in_the_second_pass(log: Broken):
    """One more of a request that was complete and in order before it came."""
    late = log.append(log.releases("closed", "newsletter")[0])
    verdict = _judge(log.records)
    assert verdict.is_clean and verdict.read_twice == 1
    wrong = log.append(late, released_at=(START + timedelta(days=1)).isoformat())
    verdict = _judge(log.records)
    assert _said(verdict) == [
        (10, "newsletter got the key after the request was closed: it should have been destroyed by then")
    ]
    assert verdict.violations[0].place == wrong.place


def _sent_earlier(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        if any(fact["fact"] == "order_sent" for fact in entry["facts"]):
            entry["at"] = (START - timedelta(seconds=1)).isoformat()


async def _many(company: World, auditor: Auditor, request: str, number: int) -> None:
    order = json.loads(next(r for r in company.records if r.place.topic == T.orders("newsletter")).value or b"")["order_id"]
    for count in range(number):
        at = START + timedelta(microseconds=count)
        wanted = (WantedKey(subject_request_id=request, order_id=order),)
        message = KeysReleased(system="newsletter", kid="", released_at=at, worker="w", orders=wanted)
        auditor.feed(LogRecord(Place(T.releases, 0, count), 0, b"newsletter", encode(message)))


async def test_however_often_a_key_was_given_out_two_notes_are_kept(tmp_path: Path):
    """A connector that asks a hundred times for the key of an open order costs no more memory than one that asks twice."""
    async with world(tmp_path) as company:
        request = company.submit(Right.ACCESS)
        company.scripts["newsletter"] = [lambda _order, _now: None]
        await company.settle()
        ground = Ground(topics=T, extent=await company.log().extent(), as_of=START, slack=timedelta(minutes=15))
        auditor = Auditor(ground, IdentitySearch())
        await _many(company, auditor, request, 100)
        dossier = auditor._open[request.encode()]
        first, last = dossier.releases[next(iter(dossier.releases))]
        assert (first.place.offset, last.place.offset) == (0, 99)
        assert len(dossier.releases) == 1 and not dossier.prints
