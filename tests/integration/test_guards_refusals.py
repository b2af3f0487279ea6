"""A record that was refused stays refused when it is read again; too many of them shut a gate until a person has looked."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import read_to_the_end
from test_guards import committed, eventually, mortal
from test_guards_conflict import TOPICS, SetClock, Written, meet, record_of, two_workers
from typer.testing import CliRunner
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.bootstrap import Worker
from orchestrator.cli import app
from orchestrator.ports import Gate, Record, Wanted
from orchestrator.shell.inbox import Fatal, Inbox, QuarantineLimit
from orchestrator.shell.sweeper import REFUSALS_KEPT, Sweeper
from schemas.commands import Hold, Resume
from schemas.topics import manifest
from schemas.vocabulary import HoldKind
from schemas.wire import encode, headers_of


def command(message: Hold | Resume, offset: int, timestamp_ms: int = 0) -> Record:
    key = message.subject_request_id.encode()
    return Record(TOPICS.commands, 0, offset, timestamp_ms, key, encode(message), headers_of(message))


def resume(request_id: str) -> Resume:
    return Resume(command_id=str(uuid.uuid4()), subject_request_id=request_id, actor="ops:a", reason="go on", **_at())


def hold(request_id: str) -> Hold:
    review_on = (datetime.now(UTC) + timedelta(days=20)).date()
    given = {"kind": HoldKind.LEGAL_HOLD, "review_on": review_on, **_at()}
    return Hold(command_id=str(uuid.uuid4()), subject_request_id=request_id, actor="ops:a", reason="a dispute", **given)


def _at() -> dict[str, datetime]:
    return {"issued_at": datetime.now(UTC)}


def said(written: Written, word: str) -> int:
    """Return how many journal entries speak of it."""
    return sum(any(fact.fact == word for fact in entry.facts) for entry in written.journal())


def quarantined(written: Written) -> int:
    return sum(record.topic == TOPICS.quarantine for record in written.records)


@pytest.mark.parametrize("reader", [0, 1])
async def test_what_was_refused_is_not_carried_out_when_it_is_read_again(database: str, tmp_path: Path, reader: int) -> None:
    """Resume is refused, then a hold begins; read again after a crash, by this worker or the next, the Resume stays refused."""
    written, clock = Written(), SetClock()
    asked = request()
    async with two_workers(database, tmp_path, written, clock) as workers:
        first, (again, _) = workers[0][0], workers[reader]
        await first.process([record_of(asked)])
        records = [command(resume(asked.subject_request_id), 0), command(hold(asked.subject_request_id), 1)]
        await first.process(records)
        before = list(written.records)
        assert (said(written, "held"), said(written, "resumed"), quarantined(written)) == (1, 0, 1)
        await again.process(records)
        assert (said(written, "resumed"), quarantined(written)) == (0, 1), "an operator was told no, and it was done"
        assert Counter(r.topic for r in written.records[len(before) :]).keys() <= {TOPICS.status}


async def test_a_record_of_a_topic_made_again_is_another_one(database: str, tmp_path: Path) -> None:
    """The same offset with another timestamp is decided on its own, and so is the same value elsewhere."""
    written, clock = Written(), SetClock()
    asked = request()
    async with two_workers(database, tmp_path, written, clock) as workers:
        inbox = workers[0][0]
        await inbox.process([record_of(asked)])
        refused = command(resume(asked.subject_request_id), 0)
        await inbox.process([refused])
        await inbox.process([replace(refused, timestamp_ms=1)])
        await inbox.process([replace(refused, partition=1)])
        assert quarantined(written) == 3
        await inbox.process([refused])
        assert quarantined(written) == 3


async def test_unreadable_records_are_set_aside_once(database: str, tmp_path: Path) -> None:
    """A record that is no input leaves no state behind; read again, it is not set aside again."""
    written, clock = Written(), SetClock()
    async with two_workers(database, tmp_path, written, clock) as workers:
        junk = [Record(TOPICS.requests, 0, n, 0, None, None if n else b"junk", []) for n in range(3)]
        await workers[0][0].process(junk)
        await workers[1][0].process(junk)
        assert quarantined(written) == 3


async def test_one_refusal_in_two_workers_is_said_once(database: str, tmp_path: Path) -> None:
    """A zombie and its successor decide the same record from the same state: the second save conflicts and finds it refused."""
    written, clock = Written(), SetClock()
    asked = request()
    async with two_workers(database, tmp_path, written, clock) as workers:
        await workers[0][0].process([record_of(asked)])
        meet(workers)
        record = command(resume(asked.subject_request_id), 0)
        await asyncio.gather(*(inbox.process([record]) for inbox, _ in workers))
    assert quarantined(written) == 1


async def test_a_refusal_and_another_decision_of_one_state_conflict(database: str, tmp_path: Path) -> None:
    """Whatever else was decided from the state that refused is decided again: both cannot be true of one version."""
    written, clock = Written(), SetClock()
    asked = request()
    async with two_workers(database, tmp_path, written, clock) as workers:
        (one, store), (other, _) = workers
        await one.process([record_of(asked)])
        version = (await store.load([asked.subject_request_id]))[asked.subject_request_id].version
        meet(workers)
        held, refused = command(hold(asked.subject_request_id), 5), command(resume(asked.subject_request_id), 6)
        await asyncio.gather(one.process([held]), other.process([refused]))
        row = (await store.load([asked.subject_request_id]))[asked.subject_request_id]
        assert row.version == version + 2
        assert said(written, "resumed") + quarantined(written) == 1


async def test_refusals_are_forgotten_when_no_topic_has_the_record(database: str, tmp_path: Path) -> None:
    """The sweeper forgets what is older than three times the longest that an input is kept."""
    inputs = {TOPICS.requests, TOPICS.commands, TOPICS.reports}
    longest = max(spec.retention_ms for spec in manifest([]) if spec.name in inputs)
    assert timedelta(milliseconds=3 * longest) <= REFUSALS_KEPT
    written, clock = Written(), SetClock()
    async with two_workers(database, tmp_path, written, clock) as workers:
        inbox, store = workers[0]
        sweeper = Sweeper(inbox._ground, inbox, clock, WorkerMetrics(CollectorRegistry()))
        await inbox.process([Record(TOPICS.requests, 0, 0, 0, None, b"junk", [])])
        for days, left in ((1, 1), (89, 1), (1, 0)):
            clock.at += timedelta(days=days, seconds=1 - left)
            await sweeper.sweep()
            known = await store.know(Wanted(spans={(TOPICS.requests, 0): (0, 0)}))
            assert len(known.refusals) == left


def limited(inbox: Inbox, clock: SetClock, at_most: int) -> Inbox:
    """Return the next life of this worker, with a limit of its own."""
    limit = QuarantineLimit(clock, at_most=at_most)
    return Inbox(inbox._ground, inbox._publisher, clock, inbox._metrics, limit)


def junk(first: int, count: int) -> list[Record]:
    return [Record(TOPICS.requests, 0, n, 0, None, b"junk %d" % n, []) for n in range(first, first + count)]


async def is_open(inbox: Inbox) -> bool:
    """Tell whether it takes anything in."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await inbox.until_open()
            return True
    assert inbox.shut is not None and "dsr quarantine allow" in inbox.shut
    return False


async def test_the_gate_is_shut_before_the_limit_is_passed(database: str, tmp_path: Path) -> None:
    """The batch that would pass it publishes nothing; every later life waits until somebody opens or raises."""
    written, clock = Written(), SetClock()
    async with two_workers(database, tmp_path, written, clock) as workers:
        one, other = (limited(inbox, clock, 5) for inbox, _ in workers)
        assert await is_open(one)
        await one.process(junk(0, 3))
        await one.process(junk(0, 3))
        await one.process(junk(3, 2))
        with pytest.raises(Fatal, match="dsr quarantine allow"):
            await one.process(junk(5, 1))
        assert quarantined(written) == 5
        clock.at += timedelta(days=3)
        assert not await is_open(limited(one, clock, 5))
        assert not await is_open(other)
        assert await is_open(limited(one, clock, 6)), "the limit was raised"
        await workers[0][1].set_gate(Gate(open_until=clock.now() + timedelta(hours=1)))
        assert await is_open(other)
        await other.process(junk(5, 40))
        assert quarantined(written) == 45
        clock.at += timedelta(hours=1)
        with pytest.raises(Fatal):
            await other.process(junk(45, 6))


async def test_the_limit_is_one_of_a_minute(database: str, tmp_path: Path) -> None:
    """What was set aside longer ago does not count."""
    written, clock = Written(), SetClock()
    async with two_workers(database, tmp_path, written, clock) as workers:
        inbox = limited(workers[0][0], clock, 5)
        for number in range(4):
            await inbox.process(junk(5 * number, 5))
            clock.at += timedelta(seconds=61)
        assert quarantined(written) == 20


@pytest.mark.kafka
async def test_too_much_for_the_quarantine_stops_the_worker(fresh_kafka, tmp_path: Path) -> None:
    """A topic full of unreadable records is not drained: the next life waits, alive and not ready, until a person allows it."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, quarantine_limit=5)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        for number in range(6):
            await world.publish_bytes(topics.requests, b"unreadable %d" % number)
        await world.publish(asked)
        async with mortal(settings) as (_running, deaths):
            assert "dsr quarantine list" in await deaths.first()
        await read_to_the_end(world)
        assert await committed(settings, topics.requests) < 7
        set_aside = len(world.records[topics.quarantine])
        assert set_aside <= 5
        async with worker(settings) as running:
            await eventually(lambda: _told(running, "/readyz", 503, "dsr quarantine allow"))
            assert await _told(running, "/healthz", 200)
            assert len(world.records[topics.quarantine]) == set_aside
            given = {"DSR_STORE_URL": settings.store_url}
            allowed = await asyncio.to_thread(CliRunner().invoke, app, ["quarantine", "allow", "--minutes", "5"], env=given)
            assert allowed.exit_code == 0 and "was shut since" in allowed.output
            await world.until(lambda: asked.subject_request_id in world.confirmations)
            await eventually(lambda: _told(running, "/readyz", 200))  # a page's answer is up to a second old
        assert sorted(r.value for r in world.records[topics.quarantine]) == [b"unreadable %d" % n for n in range(6)]


async def _told(running: Worker, path: str, status: int, words: str = "") -> bool:
    async with httpx.AsyncClient() as client:
        found = await client.get(f"http://127.0.0.1:{running.http.port}{path}")
    return found.status_code == status and words in found.text
