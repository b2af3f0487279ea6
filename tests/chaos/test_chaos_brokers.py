"""The leader of three brokers dies, a broker stands behind a bad network: everybody gets up again and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from connectors.sdk.bus import Outbound
from connectors.sdk.kafka import KafkaBus
from connectors.sdk.loader import build_standin
from connectors.sdk.settings import RuntimeSettings
from connectors.sdk.standin import serve
from connectors.systems.hubspot.standin import TOKEN
from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.producer import KafkaPublisher
from orchestrator.adapters.topics import apply
from orchestrator.demo.stage import free_port
from orchestrator.ports import OutRecord
from schemas.topics import TopicSpec
from tests.chaos.outside import Confirmations, Portal
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Cluster
from tests.chaos.stage import Stage, audit, staged
from tests.chaos.supervised import Hit, Supervised

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.long]
_LATE_SECONDS = 60.0
#: Requests; the kit's connector keeps to its vendor's limit and would fall behind more.
_A_SECOND = 3


@dataclass
class Flow:
    """An installation under load: one worker, the kit's connector of one system, played connectors of the others."""

    stage: Stage
    portal: Portal
    confirmed: Confirmations
    hits: list[Hit] = field(default_factory=list)

    async def more(self, seconds: float = _LATE_SECONDS) -> None:
        """Wait until a request is confirmed that was asked from now on."""
        known, confirmed = len(self.portal.asked), self.confirmed
        try:
            async with asyncio.timeout(seconds):
                while not set(self.portal.asked[known:]) & set(confirmed.bytes_of):
                    confirmed.changed.clear()
                    await confirmed.changed.wait()
        except TimeoutError:
            since = f"{len(self.portal.asked) - known} asked since, {len(confirmed.bytes_of)} of {known} confirmed in all"
            raise AssertionError(f"nothing new is confirmed: {since}; ended {[hit.kind for hit in self.hits]}") from None


@contextlib.asynccontextmanager
async def flowing(bootstrap: str, folder: Path, replication: int) -> AsyncIterator[Flow]:
    """Give an installation that has confirmed its first request; at the end let it all be confirmed, and the auditor judge."""
    hits: list[Hit] = []
    standin = build_standin("hubspot")
    store = f"sqlite:///{folder / 'store.sqlite'}"
    with serve(standin) as vendor:
        async with (
            staged(
                bootstrap, folder, store, hits.append,
                signatures=True, replication=replication, played=("newsletter", "accounts"),
                replication_factor=replication,
            ) as stage,
            Confirmations().reading(bootstrap, stage.topics) as confirmed,
            Portal(bootstrap, stage.topics, 1, (stage.key("portal:website"), stage.key("system:crm"))) as portal,
        ):  # fmt: skip
            connector = _connector(stage, folder, vendor, hits.append)
            flow = Flow(stage, portal, confirmed, hits)
            try:
                for one in (*stage.workers.values(), stage.connectors, connector):
                    one.start()
                await portal.say(1, 0)
                assert await confirmed.until_all(set(portal.asked), _LATE_SECONDS), _last_words(stage, connector)
                over = asyncio.Event()
                load = asyncio.create_task(_ask_on(portal, over))
                try:
                    yield flow
                finally:
                    # Not cancelled: a request that was sent and not noted would be one too many.
                    over.set()
                    await load
                assert await confirmed.until_all(set(portal.asked), 2 * _LATE_SECONDS), _last_words(stage, connector)
                await _judged(flow)
            finally:
                await connector.close()


async def _ask_on(portal: Portal, over: asyncio.Event) -> None:
    while not over.is_set():
        await portal.say(_A_SECOND, 1)


async def _judged(flow: Flow) -> None:
    await flow.stage.connectors.stop()
    async with asyncio.timeout(_LATE_SECONDS):
        while True:
            found = await asyncio.to_thread(audit, flow.stage, len(flow.portal.asked))
            if not found["inputs_not_processed_yet"]:
                break
    assert not found["violations"], found["violations"]
    assert found["requests"]["closed"] == len(flow.portal.asked)
    assert not flow.confirmed.doubled
    ended = [hit.kind for hit in flow.hits]
    print(f"\n{len(flow.portal.asked)} requests, lost 0, doubled 0, duplicates {found['duplicates']}, ended {ended}")


def _connector(stage: Stage, folder: Path, vendor: str, on_hit: Callable[[Hit], None]) -> Supervised:
    assert stage.keyring is not None
    environment = {
        "DSR_KAFKA_BOOTSTRAP": stage.bootstrap,
        "DSR_TOPIC_PREFIX": stage.topics.prefix,
        "DSR_KEYS_URL": stage.desks,
        "DSR_SIGNING_KEY_FILE": str(stage.keyring.file("system:crm")),
        "DSR_TRUST_FILE": str(stage.keyring.trust_file),
        "DSR_STATE_DIR": str(folder / "connector"),
        "DSR_HUBSPOT_BASE_URL": vendor,
        "DSR_HUBSPOT_TOKEN": TOKEN,
        "DSR_SESSION_TIMEOUT_SECONDS": "6",
        "DSR_GROUP_INSTANCE_ID": "crm-1",
    }
    command = ("-c", "from connectors.sdk.cli import main; main()", "run", "hubspot", "--system", "crm")
    return Supervised("connector", command, environment, folder / "connector.log", on_hit)


def _last_words(stage: Stage, connector: Supervised) -> str:
    logs = [*(one.log for one in stage.workers.values()), stage.connectors.log, connector.log]
    return "\n".join(f"{log.name}: {log.read_bytes()[-1500:].decode(errors='replace')}" for log in logs)


async def _partitions(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """Return leader, replicas and those in sync of each partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5000)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
        return list(found["partitions"])
    finally:
        await admin.close()


async def test_the_death_of_a_leader_loses_nothing(tmp_path: Path) -> None:
    """Three brokers; who leads the first partition of the requests is killed under load and comes back, twice."""
    cluster = await asyncio.to_thread(Cluster(tmp_path).__enter__)
    try:
        async with flowing(cluster.bootstrap, tmp_path, replication=3) as flow:
            topic = flow.stage.topics.requests
            for _ in range(2):
                partition = (await _partitions(cluster.bootstrap, topic))[0]
                assert len(partition["isr"]) == 3
                leader = cluster.brokers[partition["leader"]]
                await flow.more()
                await asyncio.to_thread(leader.kill)
                await flow.more()
                assert (await _partitions(cluster.bootstrap, topic))[0]["leader"] != partition["leader"]
                await asyncio.to_thread(leader.start)
                await _until(lambda: _in_sync(cluster.bootstrap, topic))
                await flow.more()
    finally:
        await asyncio.to_thread(cluster.__exit__)


#: Longer than a follower waits for the answer to its last question.
_ASLEEP_SECONDS = 1.5
_TOLD_SECONDS = 2.0


@contextlib.asynccontextmanager
async def _publishing(bootstrap: str, topic: str) -> AsyncIterator[dict[str, Callable[[bytes], Awaitable[object]]]]:
    """Give how the orchestrator, a connector, and somebody who believes the leader alone publish a value."""
    publisher = KafkaPublisher(bootstrap)
    bus = KafkaBus(RuntimeSettings(kafka_bootstrap=bootstrap, keys_url="http://127.0.0.1:1"), topic=topic, group=f"{topic}.g")
    credulous = AIOKafkaProducer(bootstrap_servers=bootstrap, acks=1)
    parts = (publisher.start, publisher.aclose), (bus.start, bus.stop), (credulous.start, credulous.stop)
    async with contextlib.AsyncExitStack() as stack:
        for start, stop in parts:
            await start()
            stack.push_async_callback(stop)
        yield {
            "orchestrator": lambda value: publisher.publish([OutRecord(topic, b"k", value)]),
            "connector": lambda value: bus.publish([Outbound(topic, b"k", value, [])]),
            "credulous": lambda value: credulous.send_and_wait(topic, value, key=b"k"),
        }


async def _values(bootstrap: str, topic: str) -> set[bytes]:
    """Return everything that stands in a topic."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        found: set[bytes] = set()
        async with asyncio.timeout(_LATE_SECONDS):
            ends = await consumer.end_offsets(consumer.assignment())
            while any([await consumer.position(partition) < end for partition, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found |= {record.value for record in records}
    return found


async def test_what_was_acknowledged_outlives_a_leader_that_dies_alone(tmp_path: Path) -> None:
    """The followers sleep when the leader takes a record, and it dies before they wake: we are not told that it is safe.

    Whoever believes the leader alone is told so, and the record is gone: the same schedule shows a loss where there is one.
    """
    topic = TopicSpec(name="alone", partitions=1, cleanup="delete", retention_ms=86_400_000, writers=(), readers=())
    cluster = await asyncio.to_thread(Cluster(tmp_path).__enter__)
    try:
        await apply(cluster.bootstrap, [topic], replication=3)
        async with _publishing(cluster.bootstrap, topic.name) as ways:
            for name, publish in ways.items():
                await publish(b"first " + name.encode())
            await _until(lambda: _in_sync(cluster.bootstrap, topic.name))
            leader = (await _partitions(cluster.bootstrap, topic.name))[0]["leader"]
            followers = [broker.pid for node, broker in cluster.brokers.items() if node != leader]
            for pid in followers:
                os.kill(pid or 0, signal.SIGSTOP)
            await asyncio.sleep(_ASLEEP_SECONDS)
            said = {name: asyncio.ensure_future(publish(name.encode())) for name, publish in ways.items()}
            told, _ = await asyncio.wait(said.values(), timeout=_TOLD_SECONDS)
            await asyncio.to_thread(cluster.brokers[leader].kill)
            for pid in followers:
                os.kill(pid or 0, signal.SIGCONT)
            assert told == {said["credulous"]}, "told that it is safe, by a leader whose followers sleep"
            await asyncio.wait(said.values(), timeout=_LATE_SECONDS)
            safe = {name.encode() for name, one in said.items() if one.done() and one.exception() is None}
        kept = await _values(cluster.bootstrap, topic.name)
        assert b"credulous" not in kept, "the schedule loses nothing: it could not have seen a loss"
        assert safe - {b"credulous"} <= kept
        assert {b"first " + name.encode() for name in said} <= kept
    finally:
        await asyncio.to_thread(cluster.__exit__)


async def _in_sync(bootstrap: str, topic: str) -> bool:
    return all(len(partition["isr"]) == 3 for partition in await _partitions(bootstrap, topic))


async def _until(seen: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_LATE_SECONDS):
        while True:
            if await seen():
                return
            await asyncio.sleep(0.2)


async def test_a_bad_network_before_the_broker_loses_nothing(tmp_path: Path) -> None:
    """Everybody reaches the broker through a door that is slow, cuts, breaks off in mid-sentence, and goes silent."""
    behind = free_port()
    async with Proxy(lambda: asyncio.open_connection("127.0.0.1", behind)) as door:
        seen = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{door.port}"}
        kafka = LocalKafka(tmp_path / "kafka", behind, overrides=seen)
        await asyncio.to_thread(kafka.start)
        try:
            async with flowing(f"127.0.0.1:{door.port}", tmp_path, replication=1) as flow:
                door.latency_seconds = 0.05
                await flow.more()
                door.latency_seconds = 0.0
                for after in (0, 300, 3_000, 30_000):
                    door.cut_after_bytes = after
                    await _until(lambda: _is_cut(door))
                    await flow.more()
                # Longer than the session of worker and connector: the broker gives their partitions away.
                for end in (door.resume, door.cut):
                    door.swallow()
                    await asyncio.sleep(8)
                    end()
                    await flow.more()
        finally:
            await asyncio.to_thread(kafka.stop)


async def _is_cut(door: Proxy) -> bool:
    return door.cut_after_bytes is None
