"""Keys that go ahead on a real broker: no question for an order of a worker that is heard, in one life and in the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer
from structlog.testing import capture_logs
from worker_kit import SPEAKERS, SYSTEMS, World, request, settings_for, signing, worker

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import HttpOrderKeys, order_keys_client
from connectors.sdk.opening import open_order
from orchestrator.demo.keyring import Keyring
from orchestrator.demo.stage import free_port
from schemas.keys_ahead import AheadMark, mark_in
from schemas.order_keys import PATH, KeysReleased
from schemas.orders import FulfilmentOrder
from schemas.signatures import Verifier, leaf_of, signature_in
from schemas.topics import Topics
from schemas.trust import Trust
from schemas.vocabulary import IdentifierKind
from schemas.wire import decode

pytestmark = pytest.mark.kafka


class Crm:
    """The CRM's connector as far as keys go; every question that it asks is noted."""

    def __init__(self, port: int, topics: Topics, keyring: Keyring) -> None:
        self.questions: list[httpx.Request] = []
        self.client = order_keys_client(None)
        self.client.event_hooks = {"request": [self._note]}
        self.keys = HttpOrderKeys(
            "crm",
            [f"http://127.0.0.1:{port}"],
            self.client,
            SystemClock(),
            prefix=topics.prefix,
            signer=keyring.key("system:crm"),
        )

    async def _note(self, asked: httpx.Request) -> None:
        if asked.url.path == PATH:
            self.questions.append(asked)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Crm]:
        task = asyncio.create_task(self.keys.listen())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.client.aclose()

    async def until_heard(self, life: str) -> None:
        async with asyncio.timeout(20):
            while life not in self.keys._early._heard:
                await self.keys._early._news.wait()


async def test_no_question_for_what_a_worker_sends(fresh_kafka, tmp_path: Path) -> None:
    """The key is at hand with the order and opens it; that it was given stands in the log, signed; the next life is heard too.

    A worker that stops ends its answer in order: between the lives nobody is there, and nothing is cut off.
    """
    topics = await fresh_kafka.create(*SYSTEMS)
    keyring = Keyring(tmp_path / "keys", SPEAKERS)
    port = free_port()
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, http_port=port, **signing(keyring))
    given: list[FulfilmentOrder] = []
    async with contextlib.AsyncExitStack() as stack:
        logs = stack.enter_context(capture_logs())
        world = await stack.enter_async_context(World(fresh_kafka.bootstrap, topics).running())
        crm = await stack.enter_async_context(Crm(port, topics, keyring).listening())
        world.keyring = keyring
        for number in (1, 2):
            async with worker(settings) as running:
                listeners = running.inbox._ground.listeners
                assert listeners is not None
                await crm.until_heard(listeners.life)
                asked = request(email=f"person{number}@example.org")
                await world.publish(asked)
                await world.until(lambda asked=asked: bool(world.confirmations[asked.subject_request_id]))
            order, mark = _sent(world, topics, asked.subject_request_id)
            assert mark is not None and mark.life == listeners.life
            assert await crm.keys.fetch([order], {order.order_id: mark}) == {}
            assert open_order(order, crm.keys).identifiers == {IdentifierKind.EMAIL: (f"person{number}@example.org",)}
            given.append(order)
    assert crm.questions == []
    assert {line["reason"] for line in logs if line["event"] == "keys_ahead_unheard"} <= {"ConnectError"}
    assert await _released(fresh_kafka.bootstrap, topics, keyring) == [order.order_id for order in given]


def _sent(world: World, topics: Topics, request_id: str) -> tuple[FulfilmentOrder, AheadMark | None]:
    (record,) = [one for one in world.records[topics.orders("crm")] if one.key == request_id.encode()]
    order = decode(record.value, record.headers, [FulfilmentOrder])
    assert isinstance(order, FulfilmentOrder)
    return order, mark_in(record.headers)


async def _released(bootstrap: str, topics: Topics, keyring: Keyring) -> list[str]:
    """Return the orders whose keys were given to the CRM, as the signed log says."""
    consumer = AIOKafkaConsumer(topics.releases, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        found = await consumer.getmany(timeout_ms=10_000)
    finally:
        await consumer.stop()
    verifier = Verifier(Trust.of(keyring.key("orchestrator")))
    ids = []
    for record in (record for records in found.values() for record in records):
        message = decode(record.value, record.headers, [KeysReleased])
        assert isinstance(message, KeysReleased)
        leaf = leaf_of("KeysReleased", "releases", record.key, record.value)
        verifier.verify(leaf, signature_in(record.headers), principal="orchestrator", at=datetime.now(UTC))
        assert (message.system, message.kid) == ("crm", keyring.key("system:crm").kid)
        ids += [one.order_id for one in message.orders]
    return ids
