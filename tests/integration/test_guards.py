"""Every known way to lose a record under Faust has a guard; each test here fails without it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import account, life, outbox, read_to_the_end
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.adapters.topics import apply
from orchestrator.bootstrap import Worker, run_worker
from orchestrator.ports import PublishFailed
from orchestrator.settings import Settings
from orchestrator.shell import inbox as inbox_module
from schemas.errors import ConfigurationError
from schemas.status import StatusEvent
from schemas.topics import manifest
from schemas.vocabulary import StatusCode

pytestmark = pytest.mark.kafka


class Deaths:
    """Why a worker would have ended its process."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._first = asyncio.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._first.set()

    async def first(self, seconds: float = 20.0) -> str:
        """Wait for the first reason."""
        async with asyncio.timeout(seconds):
            await self._first.wait()
        return self.reasons[0]


@contextlib.asynccontextmanager
async def mortal(settings: Settings) -> AsyncIterator[tuple[Worker, Deaths]]:
    """Run a worker that may end: in place of its process, it stops here."""
    deaths = Deaths()
    async with run_worker(settings, die=deaths, upgrade_store=True) as running:
        yield running, deaths


class Gate:
    """Holds the inbox's batches up until it is opened."""

    def __init__(self, running: Worker) -> None:
        self.waiting = asyncio.Event()
        self._open = asyncio.Event()
        self._take_in = running.inbox.take_in
        running.inbox.take_in = self._through  # type: ignore[method-assign] # the place to hold a batch up

    async def _through(self, records: Sequence[Any], **options: Any) -> Awaitable[None]:
        self.waiting.set()
        await self._open.wait()
        return await self._take_in(records, **options)

    def open(self) -> None:
        self._open.set()


async def committed(settings: Settings, topic: str) -> int:
    """Return how many records of a topic the group has committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(f"{settings.topic_prefix}.orchestrator")
    finally:
        await admin.close()
    return sum(max(meta.offset, 0) for place, meta in found.items() if place.topic == topic)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Wait until a question to the world is answered with yes."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - a broker and a store cannot notify us
            await asyncio.sleep(0.05)


async def confirm(world: World, settings: Settings, *ids: str) -> None:
    """Let a next life run until these requests are confirmed."""
    async with worker(settings):
        await world.until(lambda: set(ids) <= set(world.confirmations))
    await read_to_the_end(world)


async def test_a_batch_that_raises_ends_the_worker_and_is_done_by_the_next(fresh_kafka, tmp_path: Path) -> None:
    """Faust would skip the record, log a line and commit; here nothing is committed and the next life does it."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with mortal(settings) as (running, deaths):

            async def broken(_records: Sequence[Any], **_options: Any) -> Awaitable[None]:
                raise RuntimeError(f"about {asked.subject_request_id}")

            running.inbox.take_in = broken  # type: ignore[method-assign] # a defect of ours
            await world.publish(asked)
            assert await deaths.first() == "RuntimeError"
        assert await committed(settings, topics.requests) == 0
        await confirm(world, settings, asked.subject_request_id)
        assert account(world, [asked.subject_request_id]).total == 0


async def test_records_that_were_not_acknowledged_are_published_by_the_next_life(fresh_kafka, tmp_path: Path) -> None:
    """A failed send is only logged by Faust; here it ends the worker without a commit, and the outbox still has it."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with mortal(settings) as (running, deaths):

            async def refused(_records: Sequence[Any]) -> None:
                raise PublishFailed("MessageSizeTooLargeError")

            running.inbox._publisher.publish = refused  # type: ignore[method-assign] # a broker that refuses
            await world.publish(asked)
            assert "not every record was acknowledged" in await deaths.first()
        assert await committed(settings, topics.requests) == 0
        assert not world.orders and sum((await outbox(settings)).values())
        await confirm(world, settings, asked.subject_request_id)
        assert account(world, [asked.subject_request_id]).total == 0


async def test_what_cannot_be_read_is_set_aside_between_good_ones(fresh_kafka, tmp_path: Path) -> None:
    """Quarantined with its very bytes, its sender told so, and its neighbours confirmed; odd headers and keys included."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    good = [request(email=f"person-{n}@example.org") for n in range(6)]
    ids = [one.subject_request_id for one in good]
    key = str(uuid.uuid4()).encode()
    bad: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
        (key, b"\xff\x00 no json", []),
        (key, b'{"type":"SubmitRequest"}', [("dsr-type", None), ("dsr-version", None), ("other", None)]),
        (key, None, [("dsr-type", b"\xff")]),
        (None, b"[]", [("dsr-type", b"SubmitRequest"), ("dsr-type", b"Other")]),
        (b"\xff" * 70, b"x" * (1024 * 1024 - 2_000), []),
        (b"", b'{"type": {"a": "' + b"[" * 5_000, []),
    ]
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        for number, (bad_key, value, headers) in enumerate(bad):
            await world._producer.send_and_wait(topics.requests, value, key=bad_key, headers=headers, partition=number % 4)
            for one in good[number : number + 1]:
                await world.publish(one)
        await confirm(world, settings, *ids)
        quarantined = world.records[topics.quarantine]
        told = [StatusEvent.model_validate_json(record.value) for record in world.records[topics.status]]
    assert sorted((r.key, r.value) for r in quarantined) == sorted((key or b"", value or b"") for key, value, _ in bad)
    assert {event.subject_request_id for event in told if event.code is StatusCode.REJECTED} >= {key.decode()}


async def test_acknowledging_out_of_order_ends_the_worker(fresh_kafka, tmp_path: Path) -> None:
    """Committing a later batch while an earlier one is at work would lose the earlier one."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = [request(email=f"person-{n}@example.org") for n in range(2)]
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with mortal(settings) as (running, deaths):
            gate = Gate(running)
            await world.publish(asked[0])
            await gate.waiting.wait()
            await world.publish(asked[1])
            later = await running.app.consumer.take(1)
            running.app.consumer.ack_batches(later)
            assert "out of order" in await deaths.first()
            await asyncio.sleep(2 * settings.commit_interval_seconds)
            gate.open()
        assert await committed(settings, topics.requests) == 0
        await confirm(world, settings, *(one.subject_request_id for one in asked))


async def test_a_commit_past_unfinished_records_ends_the_worker(fresh_kafka, tmp_path: Path) -> None:
    """Whatever else goes wrong in the book-keeping, no commit passes a record that somebody still works on."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with mortal(settings) as (running, deaths):
            gate = Gate(running)
            await world.publish(asked)
            await gate.waiting.wait()
            consumer = running.app.consumer
            batch = consumer._taken[0]
            consumer._done[batch.tp] = batch.next_offset
            assert "would pass unfinished records" in await deaths.first()
            gate.open()
        assert await committed(settings, topics.requests) == 0
        await confirm(world, settings, asked.subject_request_id)


async def test_a_stop_finishes_the_batch_at_work_and_commits_it(fresh_kafka, tmp_path: Path) -> None:
    """Told to stop in the middle: waits, saves, publishes, commits; the next life has nothing left to do."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with contextlib.AsyncExitStack() as stack:
            running = await stack.enter_async_context(worker(settings))
            gate = Gate(running)
            await world.publish(asked)
            await gate.waiting.wait()
            stopping = asyncio.create_task(stack.aclose())
            assert not (await asyncio.wait({stopping}, timeout=1.0))[0], "it stopped without finishing its batch"
            gate.open()
            async with asyncio.timeout(20):
                await stopping
        assert await committed(settings, topics.requests) == 1
        assert await outbox(settings) == {}
        await world.until(lambda: len(world.orders) == 2)
        await confirm(world, settings, asked.subject_request_id)
        assert account(world, [asked.subject_request_id]).total == 0


async def test_an_error_of_whoever_runs_a_worker_passes_through(fresh_kafka, tmp_path: Path) -> None:
    """A timeout in the block is neither swallowed nor taken for a stop that hangs."""
    topics = await fresh_kafka.create(*SYSTEMS)
    died: list[str] = []
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)

    async def block() -> None:
        async with run_worker(settings, die=died.append, upgrade_store=True):
            await asyncio.sleep(0)
            raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await block()
    assert died == []


@pytest.mark.parametrize("wrong", ["missing", "partitions"])
async def test_wrong_topics_are_refused_before_anything_is_read(fresh_kafka, tmp_path: Path, wrong: str) -> None:
    """Faust would only warn of a missing topic and get nothing from it; here the worker says what to run, and ends."""
    topics = fresh_kafka.topics
    specs = list(manifest(SYSTEMS, prefix=topics.prefix))
    reports = next(spec for spec in specs if spec.name == topics.reports)
    specs.remove(reports)
    if wrong == "partitions":
        specs.append(reports.model_copy(update={"partitions": 3}))
    await apply(fresh_kafka.bootstrap, specs)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    with pytest.raises(ConfigurationError, match=f"dsr topics apply`\n.*{topics.reports}.*{wrong}"):
        async with run_worker(settings, upgrade_store=True):
            pass


@pytest.mark.slow
async def test_a_worker_that_left_the_group_does_not_commit_into_an_empty_one(fresh_kafka, tmp_path: Path) -> None:
    """After an eviction the client commits with generation -1, which Kafka takes when nobody else is there."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, commit_interval_seconds=60.0)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        world.respond = lambda _order: None
        async with mortal(settings) as (running, _deaths):
            await world.publish(asked)
            await world.until(lambda: len(world.orders) == 2)
            consumer = running.app.consumer
            await eventually(lambda: _true(bool(consumer._done)))
            client = consumer._thread._consumer
            at = TopicPartition(*next(iter(consumer._done)))

            async def evicted() -> bool:
                # No heartbeat for a session: the broker drops us. Then the client hears of it, as from any request.
                client._coordinator._heartbeat_task.cancel()
                await asyncio.sleep(settings.session_timeout_seconds + 1.5)
                client._coordinator.generation, client._coordinator.member_id = -1, ""
                return True

            await consumer._thread.call_thread(evicted)
            assert not await consumer.commit()
            assert await committed(settings, at.topic) == 0
        await eventually(lambda: _true(running.deck.ended is None))


async def _true(condition: bool) -> bool:
    return condition


@pytest.mark.slow
async def test_two_live_workers_of_one_name_are_noticed(fresh_kafka, tmp_path: Path) -> None:
    """Kafka lets both work and steal the group from each other for ever; here one ends, and says what is wrong."""
    topics = await fresh_kafka.create(*SYSTEMS)
    both = [
        settings_for(tmp_path, fresh_kafka.bootstrap, topics, datadir=tmp_path / str(n) / "data", log_level="WARNING")
        for n in range(2)
    ]
    for one in both:
        one.datadir.parent.mkdir()
    ids: list[str] = []
    async with World(fresh_kafka.bootstrap, topics).running() as world, life(both[0]) as first, life(both[1]) as second:
        async with asyncio.timeout(55):
            while first.process.poll() is None and second.process.poll() is None:
                asked = request(email=f"person-{len(ids)}@example.org")
                ids.append(asked.subject_request_id)
                await world.publish(asked)
                await asyncio.sleep(0.1)
        dead = first if first.process.poll() is not None else second
        assert dead.process.returncode == 70
        assert "does another live worker use the same instance id?" in dead.last_words()
        # Whoever is left may have to wait for the group to forget the other.
        await world.until(lambda: set(ids) <= set(world.confirmations), seconds=90.0)
        await read_to_the_end(world)
        account(world, ids)


@contextlib.contextmanager
def lock(settings: Settings) -> Any:
    """Hold the store's write lock, as another program would."""
    path = settings.store_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def impatient(running: Worker) -> None:
    """Let SQLite give up on a lock soon."""
    await running.inbox._ground.store._run(lambda c: c.exec_driver_sql("PRAGMA busy_timeout=20"))  # type: ignore[attr-defined] # SQL


@pytest.mark.parametrize("busy", [True, False])
async def test_a_store_that_is_away_for_a_while_is_waited_for(fresh_kafka, tmp_path: Path, busy: bool) -> None:
    """At work or idle: several calls fail, the worker waits and asks again, and then goes on as if nothing had been."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        await impatient(running)
        await running.sweeper.sweep()  # its rarer questions are asked: from here on it only looks for what is due
        with lock(settings):
            if busy:
                await world.publish(asked)
            await asyncio.sleep(1.0)
            assert not world.orders
        if not busy:
            await world.publish(asked)
        await world.until(lambda: asked.subject_request_id in world.confirmations)
        await read_to_the_end(world)
        assert account(world, [asked.subject_request_id]).total == 0


async def test_a_store_that_stays_away_ends_the_worker_and_nothing_is_lost(
    fresh_kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond patience: no commit, the reason is told, and the next life does the work."""
    monkeypatch.setattr(inbox_module, "_STORE_WAITS", (0.05, 0.1))
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, sweep_interval_seconds=30.0)
    asked = request()
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with mortal(settings) as (running, deaths):
            await impatient(running)
            with lock(settings):
                await world.publish(asked)
                assert "the store stayed away" in await deaths.first()
        assert await committed(settings, topics.requests) == 0
        await confirm(world, settings, asked.subject_request_id)
