"""Two workers decide about one row at the same moment: one decides again, and nothing is said twice."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))
from worker_kit import INTAKE, KEY, REGISTRY, request

from orchestrator.adapters import registry_file
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.core.policy import Policy
from orchestrator.ports import Change, Conflict, OutRecord, Record
from orchestrator.shell import inbox as inbox_module
from orchestrator.shell.inbox import Fatal, Inbox, QuarantineLimit
from orchestrator.shell.translate import Translator
from orchestrator.shell.work import Ground
from schemas.journal import JournalEntry
from schemas.requests import SubmitRequest
from schemas.sealed import SealingKey
from schemas.topics import Topics
from schemas.vocabulary import Right
from schemas.wire import encode, headers_of
from tests.keys_kit import request_keys

TOPICS = Topics()


class SetClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Written:
    """Everything that all workers have published, in order."""

    def __init__(self) -> None:
        self.records: list[OutRecord] = []

    async def publish(self, records: Sequence[OutRecord]) -> None:
        self.records += records

    async def aclose(self) -> None:
        pass

    def journal(self) -> list[JournalEntry]:
        values = [record.value for record in self.records if record.topic == TOPICS.journal]
        return [JournalEntry.model_validate_json(value) for value in values]


class MeetingStore(SqlStore):
    """Lets every worker load before any of them saves, once per meeting."""

    meeting: asyncio.Barrier | None = None

    async def commit(self, change: Change) -> int | None:
        meeting, self.meeting = self.meeting, None
        if meeting is not None:
            await meeting.wait()
        return await super().commit(change)


@contextlib.asynccontextmanager
async def two_workers(
    url: str, tmp_path: Path, written: Written, clock: SetClock
) -> AsyncIterator[list[tuple[Inbox, MeetingStore]]]:
    (tmp_path / "registry.yaml").write_text(REGISTRY)
    registry = registry_file.load(tmp_path / "registry.yaml")
    keys = request_keys(SealingKey.from_base64("dev", KEY), intake=INTAKE)
    schema.upgrade(make_engine(url))
    made: list[tuple[Inbox, MeetingStore]] = []
    for number in (1, 2):
        store = MeetingStore(make_engine(url))
        ground = Ground(
            store=store,
            keys=keys,
            translator=Translator(keys, TOPICS),
            registry=registry,
            registries={registry.content_digest: registry},
            policy=Policy(),
            worker=f"w{number}",
        )
        metrics = WorkerMetrics(CollectorRegistry())
        made.append((Inbox(ground, written, clock, metrics, QuarantineLimit(clock, at_most=10)), store))
    yield made
    for _, store in made:
        await store.aclose()


def record_of(message: SubmitRequest, offset: int = 0) -> Record:
    return Record(TOPICS.requests, 0, offset, 0, message.subject_request_id.encode(), encode(message), headers_of(message))


def meet(workers: list[tuple[Inbox, MeetingStore]]) -> None:
    """Make the next saves of both wait for each other."""
    barrier = asyncio.Barrier(2)
    for _, store in workers:
        store.meeting = barrier


async def test_one_record_in_two_workers_is_decided_once(database: str, tmp_path: Path) -> None:
    """A rebalance may give the same record to both: the second save conflicts, decides again, and finds nothing to say."""
    written, clock = Written(), SetClock()
    record = record_of(request())
    async with two_workers(database, tmp_path, written, clock) as workers:
        meet(workers)
        await asyncio.gather(*(inbox.process([record]) for inbox, _ in workers))
        assert [entry.sequence for entry in written.journal()] == [1]
        assert max(Counter((r.topic, r.key) for r in written.records).values()) == 1
        await asyncio.gather(*(inbox.tidy() for inbox, _ in workers))
        assert await workers[0][1].unpublished("", clock.now() + timedelta(days=1)) == []


async def test_one_wake_in_two_workers_is_decided_once(database: str, tmp_path: Path) -> None:
    """Both sweepers find the same due request: its orders are sent again once."""
    written, clock = Written(), SetClock()
    asked = request()
    async with two_workers(database, tmp_path, written, clock) as workers:
        await workers[0][0].process([record_of(asked)])
        clock.at += timedelta(hours=7)
        due = await workers[1][1].due(clock.now(), 10)
        assert due == [asked.subject_request_id]
        meet(workers)
        await asyncio.gather(*(inbox.wake(due) for inbox, _ in workers))
        assert [entry.sequence for entry in written.journal()] == [1, 2]
        sent = Counter(record.topic for record in written.records if ".orders." in record.topic)
        assert sent == {TOPICS.orders("crm"): 2, TOPICS.orders("newsletter"): 2}


async def test_two_requests_of_one_person_see_each_other(database: str, tmp_path: Path) -> None:
    """Filed at the same moment with two workers: whoever saves second decides again, with the first one's request in sight."""
    written, clock = Written(), SetClock()
    asked = [request(Right.ERASURE), request(Right.ERASURE)]
    async with two_workers(database, tmp_path, written, clock) as workers:
        meet(workers)
        arrivals = [record_of(one, offset) for offset, one in enumerate(asked)]
        await asyncio.gather(*(inbox.process([arrival]) for (inbox, _), arrival in zip(workers, arrivals, strict=True)))
    assert {entry.subject_request_id for entry in written.journal()} == {one.subject_request_id for one in asked}
    ordered = {record.key for record in written.records if ".orders." in record.topic}
    assert len(ordered) == 1, "a second request for the same right of the same person follows the first"


async def test_endless_conflicts_end_the_worker(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deciding again has an end, with a sentence; nothing was saved or published on the way."""
    monkeypatch.setattr(inbox_module, "_CONFLICTS_AT_MOST", 3)
    written, clock = Written(), SetClock()
    asked = request()
    async with two_workers(database, tmp_path, written, clock) as workers:
        first, store = workers[0]

        async def always_late(_change: Change) -> int | None:
            raise Conflict

        monkeypatch.setattr(store, "commit", always_late)
        with pytest.raises(Fatal, match="again and again"):
            await first.process([record_of(asked)])
    assert written.records == []
