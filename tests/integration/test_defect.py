"""A defect of our own at one record: some lives end at it, then it alone is set aside, and a mended release takes it in."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import read_to_the_end
from test_guards import committed, mortal
from test_guards_conflict import TOPICS, SetClock, Written, record_of, two_workers
from test_guards_refusals import command, hold, quarantined, resume
from typer.testing import CliRunner
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.adapters.sql.store import SqlStore
from orchestrator.cli import app
from orchestrator.demo.stage import free_port
from orchestrator.ports import Record
from orchestrator.shell import sweeper as sweeper_module
from orchestrator.shell import work
from orchestrator.shell.defects import AT_MOST
from orchestrator.shell.inbox import Fatal, Inbox
from orchestrator.shell.sweeper import Sweeper
from schemas.commands import Hold, Retry
from schemas.errors import ConfigurationError, OrchestratorError, StoreUnavailable
from schemas.metrics import WAKES_FAILED
from schemas.status import StatusEvent
from schemas.vocabulary import QuarantineReason
from schemas.wire import encode

#: What these lives say is not shown: a traceback with the values in it takes seconds.
pytestmark = pytest.mark.usefixtures("logged")


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Give what is logged."""
    with capture_logs() as lines:
        yield lines


Breaks = Callable[[Any], bool]


def break_decide(patch: pytest.MonkeyPatch, breaks: Breaks, error: type[Exception] = ZeroDivisionError) -> None:
    """Plant a defect: `decide` raises for every input that `breaks` names."""
    decide = work.decide

    def defective(state: Any, given: Any, *context: Any) -> Any:
        if breaks(given):
            raise error("someone@example.org")
        return decide(state, given, *context)

    patch.setattr(work, "decide", defective)


def of(*requests: str) -> Breaks:
    """Break every record of these requests."""
    return lambda given: getattr(given.message, "subject_request_id", "") in requests


@pytest.mark.kafka
async def test_a_record_that_ends_three_lives_is_set_aside_and_a_mended_release_takes_it_in(
    fresh_kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nothing is committed or passed over; then what stands behind it goes on, and in the end all are confirmed."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, http_port=free_port())
    asked = [request(email=f"person-{number}@example.org") for number in range(3)]
    bad, *good = (one.subject_request_id for one in asked)
    environment = {"DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap, "DSR_TOPIC_PREFIX": topics.prefix}

    async def replay(says: str) -> Any:
        arguments = ["quarantine", "replay", "--reason", "defect", "--wait", "30" if says == "taken in" else "0.5"]
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)

    async with World(fresh_kafka.bootstrap, topics).running() as world:
        world.keys_url = f"http://127.0.0.1:{settings.http_port}"
        for one in asked:
            await world.publish(one, partition=0)  # behind it
        with monkeypatch.context() as patch:
            break_decide(patch, of(bad))
            for _life in range(settings.defect_lives):
                async with mortal(settings) as (_running, deaths):
                    assert f"the first is {topics.requests}-0-0" in await deaths.first()
                assert not await committed(settings, topics.requests)
            await read_to_the_end(world)
            assert not world.records[topics.quarantine]
            async with worker(settings):
                await world.until(lambda: set(good) <= set(world.confirmations))
        assert bad not in world.confirmations
        (aside,) = world.records[topics.quarantine]
        headers = dict(aside.headers)  # type: ignore[attr-defined] # a record
        assert headers["dsr-reason"] == QuarantineReason.DEFECT.encode() and b"ZeroDivisionError" in headers["dsr-remedy"]
        assert (aside.key, aside.value) == (bad.encode(), encode(asked[0]))  # type: ignore[attr-defined] # a record
        async with worker(settings):
            for says in ("taken in", "says nothing new"):
                replayed = await replay(says)
                assert replayed.exit_code == 0 and says in replayed.output, replayed.output
            await world.until(lambda: bad in world.confirmations)
        for one in asked:
            world.confirmation(one.subject_request_id)
    judged = await asyncio.to_thread(CliRunner().invoke, app, ["audit"], env=environment)
    assert judged.exit_code == 0, judged.output


# Without Kafka: many lives of an inbox on one store


@pytest.fixture
async def lives(tmp_path: Path) -> AsyncIterator[tuple[Callable[[], Inbox], SqlStore, Written, SetClock]]:
    """Give a maker of inboxes, each the next life of one worker; its store; what they publish; and their clock."""
    written, clock = Written(), SetClock()
    async with two_workers(f"sqlite:///{tmp_path / 'store.sqlite'}", tmp_path, written, clock) as workers:
        one, store = workers[0]

        def life() -> Inbox:
            return Inbox(one._ground, written, clock, one._metrics, one._limit)

        yield life, store, written, clock


async def dies(inbox: Inbox, records: list[Record]) -> bool:
    """Tell whether a life ends at these records."""
    try:
        await inbox.process(records)
    except Fatal:
        return True
    return False


def reasons(written: Written) -> list[str]:
    """Return why records were set aside, in order."""
    return [dict(r.headers)["dsr-reason"].decode() for r in written.records if r.topic == TOPICS.quarantine]


async def test_what_is_set_aside_stays_so_when_it_is_read_again(lives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash before the commit, by the defective release or a mended one: said once, and carried out by nobody."""
    life, _, written, _ = lives
    asked = [request(email=f"person-{number}@example.org") for number in range(2)]
    records = [record_of(one, offset) for offset, one in enumerate(asked)]
    with monkeypatch.context() as patch:
        break_decide(patch, of(asked[0].subject_request_id))
        assert [await dies(life(), records) for _ in range(4)] == [True, True, True, False]
        assert reasons(written) == ["defect"]
        await life().process(records)
    said = list(written.records)
    await life().process(records)
    assert written.records == said
    (told,) = [StatusEvent.model_validate_json(r.value) for r in said if r.topic == TOPICS.status and b"rejected" in r.value]
    assert (told.subject_request_id, told.rejected) == (asked[0].subject_request_id, QuarantineReason.DEFECT)
    assert {entry.subject_request_id for entry in written.journal()} == {asked[1].subject_request_id}
    await life().process([record_of(asked[0], 2)])
    assert {entry.subject_request_id for entry in written.journal()} == {one.subject_request_id for one in asked}


async def test_later_records_of_the_request_are_decided_without_it(lives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold that met a defect has not begun, so a Resume behind it is impossible; taken in later, the hold begins then."""
    life, _, written, _ = lives
    asked = request()
    await life().process([record_of(asked)])
    records = [command(hold(asked.subject_request_id), 0), command(resume(asked.subject_request_id), 1)]
    with monkeypatch.context() as patch:
        break_decide(patch, lambda given: isinstance(given.message, Hold))
        assert [await dies(life(), records) for _ in range(4)] == [True, True, True, False]
    assert reasons(written) == ["defect", "illegal_move"]
    await life().process([Record(TOPICS.commands, 0, 2, 0, records[0].key, records[0].value, records[0].headers)])
    assert "held" in {fact.fact for fact in written.journal()[-1].facts}


async def test_a_record_that_cannot_even_be_read_without_failing(lives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, for a defect in the reading of records; two of them in one batch end the same lives."""
    life, store, written, _ = lives
    asked = [request(email=f"person-{number}@example.org") for number in range(3)]
    records = [record_of(one, offset) for offset, one in enumerate(asked)]
    read = type(life()._ground.translator).read

    def defective(self: Any, record: Record) -> Any:
        if record.offset < 2:
            raise RecursionError
        return read(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(type(life()._ground.translator), "read", defective)
        assert [await dies(life(), records) for _ in range(4)] == [True, True, True, False]
        assert reasons(written) == ["defect", "defect"]
        assert {died.count for died in (await store.deaths()).values()} == {3}
        await life().process(records)
    assert len(reasons(written)) == 2


@pytest.mark.parametrize("error", [OSError, MemoryError, StoreUnavailable, ConfigurationError])
async def test_what_is_no_records_fault_is_never_counted(
    lives: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The machine, the store and the settings may fail as often as they like: nothing is set aside for it."""
    life, store, written, _ = lives
    asked = request()
    with monkeypatch.context() as patch:
        break_decide(patch, of(asked.subject_request_id), error)
        for _ in range(5):
            with pytest.raises(error):
                await life().process([record_of(asked)])
    assert await store.deaths() == {} and not reasons(written)


@pytest.mark.parametrize("name", ["commit", "know", "load"])
async def test_a_failure_of_the_stores_client_is_never_counted(lives: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A save that fails in a way of its own, and a look into the store before or in the middle of a decision that does."""
    life, store, written, _ = lives
    asked = request()
    await life().process([record_of(asked)])

    genuine, failed = getattr(store, name), []

    async def fails_once(_: Any, *given: Any) -> Any:
        if not failed:
            failed.append(name)
            raise RuntimeError("cannot schedule new futures after shutdown")
        return await genuine(*given)

    monkeypatch.setattr(type(store), name, fails_once)
    found = {"subject_request_id": asked.subject_request_id, "system": "crm"}
    spoken = Retry(command_id="retry-number-1", actor="ops:a", reason="again", issued_at=datetime.now(UTC), **found)
    with pytest.raises((RuntimeError, OrchestratorError)):
        await life().process([record_of(request(), 1), command(spoken, 0), command(resume(str(uuid.uuid4())), 1)])
    assert failed and await store.deaths() == {} and not reasons(written)


async def test_a_release_that_fails_at_many_records_sets_no_log_aside(lives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than so many in one batch are not counted; one by one, no more than so many in an hour are set aside."""
    life, store, written, clock = lives
    asked = [request(email=f"person-{number}@example.org") for number in range(AT_MOST + 2)]
    records = [record_of(one, offset) for offset, one in enumerate(asked)]
    life()._limit.at_most = 1000
    with monkeypatch.context() as patch:
        break_decide(patch, of(*(one.subject_request_id for one in asked)))
        assert all([await dies(life(), records) for _ in range(5)])
        assert await store.deaths() == {}
        aside = 0
        for record in records:
            for _ in range(4):
                aside += not await dies(life(), [record])
        assert aside == AT_MOST == len(reasons(written))
        assert await dies(life(), [records[-1]])
        clock.at += timedelta(hours=1)
        assert not await dies(life(), [records[-2]])
    assert not await dies(life(), [records[-1]]), "mended"


async def spoil(store: SqlStore, request_id: str) -> None:
    """Make a stored state one that our code cannot read."""
    await store._run(
        lambda c: c.exec_driver_sql("UPDATE requests SET state = ? WHERE subject_request_id = ?", (b"{}", request_id))
    )


@pytest.mark.parametrize("how", ["unreadable", "undecidable", "unstorable"])
async def test_a_request_that_cannot_be_woken_holds_up_no_other(lives: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """It stays due and as it was, is counted, and tried again after a minute; the others are sent their orders again."""
    life, store, written, clock = lives
    published = [request(email=f"person-{number}@example.org") for number in range(3)]
    asked = [one.subject_request_id for one in published]
    registry, inbox = CollectorRegistry(), life()
    await inbox.process([record_of(one, offset) for offset, one in enumerate(published)])
    sweeper = Sweeper(inbox._ground, inbox, clock, WorkerMetrics(registry))
    clock.at += timedelta(hours=7)
    before = (await store.load(asked))[asked[0]]
    with monkeypatch.context() as patch:
        patch.setattr(sweeper_module, "_AT_ONCE", 1)
        if how == "unreadable":
            await spoil(store, asked[0])
        elif how == "undecidable":
            decide = work.decide
            patch.setattr(
                work,
                "decide",
                lambda state, *rest: 1 // 0 if state.subject_request_id == asked[0] else decide(state, *rest),
            )
        else:
            to_bytes = work.to_bytes
            patch.setattr(work, "to_bytes", lambda state: 1 // 0 if state.subject_request_id == asked[0] else to_bytes(state))
        for again in range(2):
            said = len(written.records)
            async with asyncio.timeout(20):
                assert await sweeper.sweep() == (0 if again else 2)
            assert {r.key.decode() for r in written.records[said:]} == (set() if again else set(asked[1:]))
            assert registry.get_sample_value(WAKES_FAILED.name) == 1
        assert (await store.load(asked))[asked[0]].version == before.version
        clock.at += timedelta(seconds=61)
        assert await sweeper.sweep() == 0 and registry.get_sample_value(WAKES_FAILED.name) == 1
    if how == "unreadable":
        records = [command(hold(one), offset) for offset, one in enumerate(asked)]
        assert [await dies(life(), records) for _ in range(4)] == [True, True, True, False]
        assert reasons(written) == ["defect"]
        return
    clock.at += timedelta(seconds=61)
    assert await sweeper.sweep() == 1 and registry.get_sample_value(WAKES_FAILED.name) == 0
    assert await store.deaths() == {} and quarantined(written) == 0
