"""A flood makes the lag grow at the broker, not the worker; what comes late on another partition still gets its turn."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_guards import Gate, mortal
from worker_kit import SYSTEMS, World, request, settings_for

from orchestrator.bench.flood import measure_flood
from orchestrator.bootstrap import Worker
from schemas.topics import Topics
from schemas.vocabulary import Right

pytestmark = pytest.mark.kafka

#: Records of a poll, and of a batch: there are 16 partitions.
_POLL, _BATCH = 5, 16


def assigned(consumer: Any, topic: str) -> list[Any]:
    """Return the partitions of a topic that the worker has."""
    return [tp for tp in consumer.assignment() if tp.topic == topic]


@pytest.mark.parametrize(("bound", "at_most"), [("queue_records", 20), ("queue_bytes", 20_000)])
async def test_fetching_pauses_while_enough_waits(fresh_kafka, tmp_path: Path, bound: str, at_most: int) -> None:
    """Beyond the bound, in records or in bytes, no more than a poll for each partition is held; later all is confirmed."""
    topics: Topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, worker_id=f"flood-{bound}")
    asked = [request(email=f"person-{n}@example.org") for n in range(160)]
    largest = 1_000  # bytes
    async with World(fresh_kafka.bootstrap, topics).running() as world, mortal(settings) as (running, deaths):
        consumer = running.app.consumer
        waiting = consumer._waiting
        consumer._thread._consumer._max_poll_records = _POLL
        setattr(running.app.deck, bound, at_most)
        gate = Gate(running)
        try:
            async with asyncio.timeout(20):
                # The first one also ends the poll that began under the worker's own limit.
                await world.publish(asked[0])
                await gate.waiting.wait()
                await asyncio.gather(*(world.publish(one) for one in asked[1:]))
                flooded = assigned(consumer, topics.requests)
                while consumer._with_room(flooded):  # noqa: ASYNC110 - the fetching side tells nobody
                    await asyncio.sleep(0.02)
            records, size = waiting.records, waiting.bytes
        finally:
            gate.open()
        await world.until(lambda: {one.subject_request_id for one in asked} <= set(world.confirmations))
        assert not deaths.reasons
        assert (waiting.records, waiting.bytes) == (0, 0)
    assert at_most <= (records if bound == "queue_records" else size)
    beyond = _POLL * len(flooded)
    assert records < at_most + beyond if bound == "queue_records" else size < at_most + beyond * largest
    assert records < len(asked) / 2


class Batches:
    """Which requests each batch was about; stands between the gate and the inbox."""

    def __init__(self, running: Worker) -> None:
        self.seen: list[list[bytes]] = []
        self._take_in = running.inbox.take_in
        running.inbox.take_in = self._through  # type: ignore[method-assign] # the place to look at batches

    async def _through(self, records: Sequence[Any], **options: Any) -> Awaitable[None]:
        self.seen.append([record.key for record in records])
        return await self._take_in(records, **options)

    def of(self, subject_request_id: str) -> int:
        """Return the number of the first batch about a request."""
        return next(number for number, keys in enumerate(self.seen) if subject_request_id.encode() in keys)


@pytest.mark.parametrize(
    ("flooding", "late"), [(Right.ERASURE, Right.OBJECTION), (Right.OBJECTION, Right.ERASURE)], ids=["urgent", "ordinary"]
)
async def test_who_comes_late_is_in_the_next_batch(fresh_kafka, tmp_path: Path, flooding: Right, late: Right) -> None:
    """The queue is full and a batch is at work; a request on the other topic comes, is fetched, and the next batch has it."""
    topics: Topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, batch_records=_BATCH)
    asked = [request(flooding, email=f"person-{n}@example.org") for n in range(240)]
    urgent = request(late, email="late@example.org")
    async with World(fresh_kafka.bootstrap, topics).running() as world, mortal(settings) as (running, deaths):
        consumer, batches = running.app.consumer, Batches(running)
        consumer._thread._consumer._max_poll_records = _POLL
        running.app.deck.queue_records = 4 * _BATCH
        gate = Gate(running)
        try:
            async with asyncio.timeout(20):
                await world.publish(asked[0])
                await gate.waiting.wait()
                await asyncio.gather(*(world.publish(one) for one in asked[1:]))
                while consumer._with_room(assigned(consumer, topics.requests_for(flooding))):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
                await world.publish(urgent)
                while not any(map(consumer._waiting.waits, assigned(consumer, topics.requests_for(late)))):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
        finally:
            gate.open()
        await world.until(lambda: {one.subject_request_id for one in (*asked, urgent)} <= set(world.confirmations))
        assert not deaths.reasons
    assert batches.of(urgent.subject_request_id) == 1  # 0 is the one that was at work
    assert len(batches.seen) > 240 / _BATCH
    assert max(map(len, batches.seen)) <= _BATCH


async def test_an_objection_amid_a_flood_is_carried_out(kafka_bootstrap: str, tmp_path: Path) -> None:
    """One objection amid 300 requests published at once: all are confirmed, and memory stays bounded."""
    found = await measure_flood(kafka_bootstrap, tmp_path, 300, systems=2, timeout_seconds=60)
    assert 0 <= found.waiting <= 300
    assert found.records_between <= 301 * (1 + 2)
    assert found.peak_mb - found.start_mb < 150
