"""A flood makes the lag grow at the broker, not the worker; what is urgent behind it still gets its turn."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_guards import Gate, mortal
from worker_kit import SYSTEMS, World, request, settings_for

from orchestrator.bench.flood import measure_flood
from schemas.topics import Topics

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize(("bound", "at_most"), [("queue_records", 10), ("queue_bytes", 10_000)])
async def test_fetching_pauses_while_enough_waits(fresh_kafka, tmp_path: Path, bound: str, at_most: int) -> None:
    """Beyond the bound, in records or in bytes, no more than one poll is held in memory; later everything is confirmed."""
    topics: Topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, worker_id=f"flood-{bound}")
    asked = [request(email=f"person-{n}@example.org") for n in range(120)]
    largest = 1_000  # bytes
    async with World(fresh_kafka.bootstrap, topics).running() as world, mortal(settings) as (running, deaths):
        consumer = running.app.consumer
        consumer._thread._consumer._max_poll_records = 5
        setattr(running.app.deck, bound, at_most)
        gate = Gate(running)
        try:
            async with asyncio.timeout(20):
                # The first one also ends the poll that began under the worker's own limit.
                await world.publish(asked[0])
                await gate.waiting.wait()
                await asyncio.gather(*(world.publish(one) for one in asked[1:]))
                while consumer._space.is_set():  # noqa: ASYNC110 - the fetching side tells nobody
                    await asyncio.sleep(0.02)
            records, size = consumer._waiting_records, consumer._waiting_bytes
        finally:
            gate.open()
        await world.until(lambda: {one.subject_request_id for one in asked} <= set(world.confirmations))
        assert not deaths.reasons
        assert (consumer._waiting_records, consumer._waiting_bytes) == (0, 0)
    assert at_most <= (records if bound == "queue_records" else size)
    assert records < at_most + 5 if bound == "queue_records" else size < at_most + 5 * largest
    assert records < len(asked) / 2


async def test_an_objection_behind_a_flood_is_carried_out(kafka_bootstrap: str, tmp_path: Path) -> None:
    """One objection after 300 requests published at once: its order leaves, all are confirmed, and memory stays bounded."""
    found = await measure_flood(kafka_bootstrap, tmp_path, 300, systems=2, timeout_seconds=60)
    assert 0 < found.ahead <= 300
    assert found.orders_before <= 300 * 2
    assert found.records_before <= 301 * (1 + 2)
    assert found.peak_mb - found.start_mb < 150
