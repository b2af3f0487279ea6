"""Several requests of one person, through the real shell: what they mean to each other, whoever decides about them when."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from pathlib import Path

import pytest
from aiokafka.structs import RecordMetadata
from faust.types import TP

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import read_to_the_end
from worker_kit import SYSTEMS, World, answer, request, settings_for, worker

from orchestrator.bootstrap import Worker
from schemas.base import Message
from schemas.metrics import STORE_CONFLICTS
from schemas.requests import ConfirmIdentity, SubmitRequest, Verification
from schemas.status import StatusEvent
from schemas.vocabulary import AssuranceLevel, RequestResult, Right, StatusCode

pytestmark = pytest.mark.kafka

#: Which systems of the kit's registry offer a right, in the order in which they may be asked.
OFFERED = {
    Right.ACCESS: SYSTEMS,
    Right.ERASURE: SYSTEMS,
    Right.RECTIFICATION: ("crm", "accounts"),
    Right.OBJECTION: ("crm", "newsletter"),
    Right.UNSUBSCRIBE: ("newsletter",),
}


async def processed(world: World, workers: tuple[Worker, ...], *at: RecordMetadata) -> None:
    """Wait until these records are committed by one of the workers, and read everything they led to."""

    def done(place: RecordMetadata) -> bool:
        tp = TP(place.topic, place.partition)
        return any((one.app.consumer._committed_offset[tp] or 0) > place.offset for one in workers)

    async with asyncio.timeout(30):
        while not all(done(place) for place in at):
            assert not any(one.deck.ended for one in workers)
            await asyncio.sleep(0.005)
    await read_to_the_end(world)


async def said(world: World, running: Worker, *messages: Message) -> None:
    """Publish one after the other, each when everything that the one before led to has been read."""
    for message in messages:
        await processed(world, (running,), await world.publish(message))


async def answered(world: World, running: Worker, asked: SubmitRequest, system: str) -> None:
    """Answer the order of a request to one system."""
    (order,) = [o for o in world.orders if o.subject_request_id == asked.subject_request_id and o.system == system]
    await said(world, running, answer(order))


def told(world: World, asked: SubmitRequest) -> list[StatusEvent]:
    """Return what the portal has heard of a request."""
    records = world.records[world.topics.status]
    events = [StatusEvent.model_validate_json(record.value) for record in records]  # type: ignore[attr-defined] # a record
    return [event for event in events if event.subject_request_id == asked.subject_request_id]


def sent(world: World, asked: SubmitRequest) -> set[str]:
    """Return the systems to which a request has led; none of them twice."""
    count = Counter(o.system for o in world.orders if o.subject_request_id == asked.subject_request_id)
    assert set(count.values()) <= {1}, count
    return set(count)


@contextlib.asynccontextmanager
async def company(fresh_kafka, tmp_path: Path):
    """Run one worker whose systems answer when the test says so."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, commit_interval_seconds=0.05)
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        world.respond = lambda _order: None
        yield world, running


async def test_the_same_wish_twice_is_executed_once_and_both_are_confirmed(fresh_kafka, tmp_path: Path) -> None:
    """The second asks no system, its portal hears whose duplicate it is, and its confirmation names the first."""
    first, second = request(Right.ERASURE), request(Right.ERASURE, email="Person@Example.org")
    async with company(fresh_kafka, tmp_path) as (world, running):
        await said(world, running, first, second)
        assert [e.related_request for e in told(world, second) if e.code is StatusCode.DUPLICATE_OF] == [
            first.subject_request_id
        ]
        for system in ("crm", "newsletter", "accounts"):
            assert not world.confirmations
            await answered(world, running, first, system)
        confirmations = [world.confirmation(asked.subject_request_id) for asked in (first, second)]
        assert sent(world, first) == set(SYSTEMS)
        assert sent(world, second) == set()
    assert [c.result for c in confirmations] == [RequestResult.FULFILLED] * 2
    assert [c.executed_request for c in confirmations] == [None, first.subject_request_id]
    assert confirmations[0].systems == confirmations[1].systems


async def test_in_each_system_the_copy_is_made_before_the_data_goes(fresh_kafka, tmp_path: Path) -> None:
    """An erasure's order leaves for a system when the access request has its answer from that very system, and not before."""
    copy, end = request(Right.ACCESS), request(Right.ERASURE)
    async with company(fresh_kafka, tmp_path) as (world, running):
        await said(world, running, copy, end)
        assert (sent(world, copy), sent(world, end)) == ({"crm", "newsletter"}, set())
        await answered(world, running, copy, "newsletter")
        assert sent(world, end) == {"newsletter"}
        await answered(world, running, copy, "crm")
        assert (sent(world, copy), sent(world, end)) == (set(SYSTEMS), {"newsletter", "crm"})
        await answered(world, running, end, "crm")
        assert "accounts" not in sent(world, end), "its stage has come, its turn has not"
        await answered(world, running, copy, "accounts")
        assert sent(world, end) == set(SYSTEMS)
        for system in ("newsletter", "accounts"):
            await answered(world, running, end, system)
        for asked in (copy, end):
            confirmation = world.confirmation(asked.subject_request_id)
            assert (confirmation.result, confirmation.executed_request) == (RequestResult.FULFILLED, None)


async def test_an_unverified_request_neither_absorbs_nor_delays(fresh_kafka, tmp_path: Path) -> None:
    """Whoever types in another's address changes nothing for that person; vouched for, the request is one like any other."""
    stranger = [request(right, verification=None) for right in (Right.ERASURE, Right.ACCESS)]
    mine = request(Right.ERASURE)
    async with company(fresh_kafka, tmp_path) as (world, running):
        await said(world, running, *stranger, mine)
        assert sent(world, mine) == {"crm", "newsletter"}
        for system in ("crm", "newsletter", "accounts"):
            await answered(world, running, mine, system)
        confirmation = world.confirmation(mine.subject_request_id)
        assert (confirmation.result, confirmation.executed_request) == (RequestResult.FULFILLED, None)
        assert set(world.confirmations) == {mine.subject_request_id}
        assert [sent(world, asked) for asked in stranger] == [set(), set()]
        late = stranger[0]
        vouched = Verification(method="mail_link", level=AssuranceLevel.SUBSTANTIAL, verified_at=mine.submitted_at)
        await said(
            world,
            running,
            ConfirmIdentity(subject_request_id=late.subject_request_id, portal=late.portal, verification=vouched),
        )
        assert sent(world, late) == {"crm", "newsletter"}


@pytest.mark.postgres
async def test_of_two_equal_requests_at_two_workers_at_once_exactly_one_is_executed(
    fresh_kafka, postgres_url: str, tmp_path: Path
) -> None:
    """Fifty persons each ask twice at the same moment, at two workers: the group conflicts, one executes, both are told."""
    topics = await fresh_kafka.create(*SYSTEMS)
    first, second = (
        settings_for(
            tmp_path,
            fresh_kafka.bootstrap,
            topics,
            store_url=postgres_url,
            worker_id=name,
            datadir=tmp_path / name,
            commit_interval_seconds=0.05,
        )
        for name in ("w1", "w2")
    )
    rights = tuple(OFFERED)
    pairs = [
        [request(rights[number % len(rights)], email=f"person{number}@example.org") for _ in range(2)] for number in range(50)
    ]
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(first) as one, worker(second) as two:
        world.respond = lambda _order: None
        partitions = await shared_out(topics.requests, one, two)
        for start in range(0, len(pairs), 5):
            asked = [(pair[who], partitions[who]) for who in (0, 1) for pair in pairs[start : start + 5]]
            places = await asyncio.gather(*(world.publish(message, partition=where) for message, where in asked))
            await processed(world, (one, two), *places)
        early, world.respond = list(world.orders), answer
        for order in early:
            await world.publish(answer(order))
        await world.until(lambda: len(world.confirmations) == 2 * len(pairs))
        for pair in pairs:
            _check_pair(world, pair)
        conflicts = [running.metrics.registry.get_sample_value(STORE_CONFLICTS.name) for running in (one, two)]
        assert sum(count or 0 for count in conflicts) > 0, "the two workers never met"
        assert not world.records[topics.quarantine]


async def shared_out(topic: str, *workers: Worker) -> list[int]:
    """Return a partition of the topic for each worker, once the workers have shared the topic out among them."""
    async with asyncio.timeout(30):
        while True:
            owned = [{tp.partition for tp in one.app.consumer.assignment() if tp.topic == topic} for one in workers]
            if all(owned) and not set.intersection(*owned) and not any(one.app.rebalancing for one in workers):
                return [min(partitions) for partitions in owned]
            await asyncio.sleep(0.02)


def _check_pair(world: World, pair: list[SubmitRequest]) -> None:
    confirmations = {asked.subject_request_id: world.confirmation(asked.subject_request_id) for asked in pair}
    did, other = sorted(pair, key=lambda asked: confirmations[asked.subject_request_id].executed_request is not None)
    assert confirmations[did.subject_request_id].executed_request is None
    assert confirmations[other.subject_request_id].executed_request == did.subject_request_id
    assert (sent(world, did), sent(world, other)) == (set(OFFERED[did.right]), set())
    assert confirmations[did.subject_request_id].systems == confirmations[other.subject_request_id].systems
