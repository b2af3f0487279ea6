"""kill -9 at every point that matters: nothing is lost, nothing gets a second meaning, and what is doubled is one batch."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import account, life, outbox, read_to_the_end
from worker_kit import World, answer, request, settings_for

from orchestrator.settings import Settings
from schemas.requests import SubmitRequest
from schemas.topics import Topics
from schemas.vocabulary import Right

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SYSTEMS = ("crm", "newsletter", "accounts")
#: At which passing of each point the process dies; a commit is rarer than a batch.
POINTS = {
    "after_decode": 3,
    "before_save": 3,
    "after_save": 3,
    "mid_publish": 3,
    "after_publish": 3,
    "after_ack": 3,
    "before_commit": 2,
    "after_commit": 2,
}


def people(count: int = 30, first: int = 0) -> list[SubmitRequest]:
    """Return requests of so many people."""
    return [request(Right.ERASURE, email=f"person-{first + number}@example.org") for number in range(count)]


def settings_of(tmp_path: Path, bootstrap: str, topics: Topics, **changes: object) -> Settings:
    """Return a worker's settings with small batches, so that there are many."""
    return settings_for(tmp_path, bootstrap, topics, **{"batch_records": 8, "log_level": "WARNING", **changes})


async def say(world: World, asked: list[SubmitRequest]) -> None:
    """Publish at a pace that spreads the requests over several batches and commits."""
    for one in asked:
        await world.publish(one)
        await asyncio.sleep(0.03)


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_killed_at_any_point_loses_nothing(fresh_kafka, tmp_path: Path, point: str, record_property) -> None:
    """The next life confirms every request exactly once; only what stood in the outbox at death may be written twice."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_of(tmp_path, fresh_kafka.bootstrap, topics)
    asked = people()
    ids = [one.subject_request_id for one in asked]
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        await say(world, asked[:15])
        async with life(settings, DSR_FAULT_POINT=f"{point}:{POINTS[point]}") as first:
            await world.until(lambda: bool(world.orders))
            speaking = asyncio.create_task(say(world, asked[15:]))
            assert await first.ended() == -9, first.last_words()
        await speaking
        await read_to_the_end(world)
        assert not set(ids) <= set(world.confirmations), "it died before its work was done"
        left = await outbox(settings)
        read = sum(map(len, world.records.values()))
        async with life(settings) as second:
            await world.until(lambda: sum(map(len, world.records.values())) > read)
            seconds = time.monotonic() - second.started
            await world.until(lambda: set(ids) <= set(world.confirmations))
        await read_to_the_end(world)
        found = account(world, ids)
    assert len(left) <= 1
    assert found.total <= sum(left.values())
    assert await outbox(settings) == {}
    print(f"\n{point}: restart to first record {seconds:.2f} s; outbox at death {left}; doubled {found.doubled}")
    record_property("restart_seconds", seconds)


async def test_what_a_moment_demanded_survives_a_crash_before_it_was_published(fresh_kafka, tmp_path: Path) -> None:
    """The sweeper re-sends orders; a kill between its save and its publishing delays them, once, and loses none."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_of(tmp_path, fresh_kafka.bootstrap, topics)
    asked = people(10)
    ids = [one.subject_request_id for one in asked]
    world = World(fresh_kafka.bootstrap, topics)
    world.respond = lambda order: answer(order) if order.attempt > 1 or order.system == "accounts" else None
    async with world.running():
        async with life(settings, DSR_RESEND_AFTER="PT4S"):
            await say(world, asked)
            await world.until(lambda: len(world.orders) == 20)
        assert {order.attempt for order in world.orders} == {1}
        async with life(settings, DSR_RESEND_AFTER="PT4S", DSR_FAULT_POINT="after_save:1") as second:
            assert await second.ended() == -9, second.last_words()
        await read_to_the_end(world)
        assert {order.attempt for order in world.orders} == {1} and sum((await outbox(settings)).values())
        async with life(settings, DSR_RESEND_AFTER="PT1H"):
            await world.until(lambda: set(ids) <= set(world.confirmations))
        await read_to_the_end(world)
        found = account(world, ids)
    again = [(order.subject_request_id, order.system) for order in world.orders if order.attempt == 2]
    assert sorted(again) == sorted((request, system) for request in ids for system in ("crm", "newsletter"))
    assert found.total == 0


async def test_this_test_sees_a_loss(fresh_kafka, tmp_path: Path) -> None:
    """A worker that commits before it works, killed before its save, loses requests: the control of all tests above."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_of(tmp_path, fresh_kafka.bootstrap, topics)
    wrong = str(Path(__file__).parent / "early_ack_worker.py")
    asked, late = people(), request(Right.ERASURE, email="late@example.org")
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with life(settings, wrong, DSR_FAULT_POINT="before_save:2") as first:
            await say(world, asked)
            assert await first.ended() == -9, first.last_words()
        async with life(settings, wrong):
            await world.publish(late)
            await world.until(lambda: late.subject_request_id in world.confirmations)
            # Everything that is still known is confirmed by now or has an order out; give the rest a fair chance.
            started = {order.subject_request_id for order in world.orders}
            await world.until(lambda: started <= set(world.confirmations))
        await read_to_the_end(world)
    assert {one.subject_request_id for one in asked} - set(world.confirmations)


async def test_of_two_workers_the_survivor_does_all_of_it(fresh_kafka, tmp_path: Path, database: str) -> None:
    """One is killed between save and publishing and stays away: its partitions move, its outbox is adopted, nothing is lost."""
    topics = await fresh_kafka.create(*SYSTEMS)
    common = {"store_url": database, "adopt_after_seconds": 3.0}
    settings = [
        settings_of(tmp_path, fresh_kafka.bootstrap, topics, worker_id=f"w{n}", datadir=tmp_path / f"data{n}", **common)
        for n in (1, 2)
    ]
    asked = people(3)
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with life(settings[1]) as survivor:
            await say(world, asked)
            await world.until(lambda: len(world.confirmations) == 3)
            async with life(settings[0], DSR_FAULT_POINT="after_save:3") as doomed:
                while doomed.process.poll() is None:  # it needs a while to get partitions, and then three batches
                    asked += people(1, first=len(asked))
                    await say(world, asked[-1:])
                assert await doomed.ended() == -9, doomed.last_words()
                died = time.monotonic()
                left = {name: count for name, count in (await outbox(settings[0])).items() if name.startswith("w1/")}
            asked += (more := people(10, first=len(asked)))
            await say(world, more)
            ids = [one.subject_request_id for one in asked]
            assert sum(left.values())
            await world.until(lambda: set(ids) <= set(world.confirmations), seconds=40)
            seconds = time.monotonic() - died
            assert survivor.process.poll() is None
        await read_to_the_end(world)
        found = account(world, ids)
    assert await outbox(settings[1]) == {}
    print(f"\n{len(ids)} confirmed {seconds:.1f} s after the kill; adopted {left}; doubled {found.doubled}")
