"""What `orchestrator.ports.Publisher` promises, by the real producer on a real broker: all of it is out, or an error."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.producer import KafkaPublisher
from orchestrator.ports import OutRecord, PublishFailed

pytestmark = pytest.mark.kafka
PARTITIONS = 4


async def create(bootstrap: str, configs: Mapping[str, str] | None = None) -> str:
    """Create a topic of the test's own and return its name."""
    name = f"t{secrets.token_hex(5)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=dict(configs or {}))])
    await admin.close()
    return name


@contextlib.asynccontextmanager
async def publishing(bootstrap: str, timeout_seconds: float = 30.0) -> AsyncIterator[KafkaPublisher]:
    publisher = KafkaPublisher(bootstrap, timeout_seconds=timeout_seconds)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.aclose()


async def read(bootstrap: str, topic: str) -> dict[int, list[OutRecord]]:
    """Return everything that is in a topic now, by partition, in order."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    consumer.assign(places)
    found: dict[int, list[OutRecord]] = defaultdict(list)
    for place, end in (await consumer.end_offsets(places)).items():
        while await consumer.position(place) < end:
            for record in (await consumer.getmany(place, timeout_ms=1_000)).get(place, []):
                found[place.partition].append(OutRecord(topic, record.key, record.value, list(record.headers)))
    await consumer.stop()
    return found


def records(topic: str, count: int, size: int = 10) -> list[OutRecord]:
    return [
        OutRecord(topic, f"key {n % 37}".encode(), f"{n:08d}".encode() + b"x" * size, [("dsr-type", b"T"), ("n", b"")])
        for n in range(count)
    ]


async def test_every_record_is_out_when_it_returns_and_a_key_keeps_its_order(kafka_bootstrap: str) -> None:
    """Several times more than one batch holds, from two callers: all there, byte for byte, in order within each key."""
    topic = await create(kafka_bootstrap)
    sent = records(topic, 6_000, size=500)
    async with publishing(kafka_bootstrap) as publisher:
        await publisher.publish([])
        await publisher.publish(sent[:3_000])
        assert sum(map(len, (await read(kafka_bootstrap, topic)).values())) == 3_000
        await asyncio.gather(publisher.publish(sent[3_000:4_500]), publisher.publish(sent[4_500:]))
    by_key: dict[bytes, list[OutRecord]] = defaultdict(list)
    for partition in (await read(kafka_bootstrap, topic)).values():
        for record in partition:
            by_key[record.key].append(record)
    assert by_key == {key: [record for record in sent if record.key == key] for key in {record.key for record in sent}}


async def test_keys_go_where_every_other_client_would_send_them(kafka_bootstrap: str) -> None:
    """The partition is the default partitioner's: records of one request from portals and from us meet in one partition."""
    topic = await create(kafka_bootstrap)
    keys = [b"", *(secrets.token_hex(18).encode() for _ in range(60))]
    async with publishing(kafka_bootstrap) as publisher:
        await publisher.publish([OutRecord(topic, key, b"ours") for key in keys])
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    theirs = {key: (await producer.send_and_wait(topic, b"theirs", key=key)).partition for key in keys}
    await producer.stop()
    ours = {
        record.key: number
        for number, found in (await read(kafka_bootstrap, topic)).items()
        for record in found
        if record.value == b"ours"
    }
    assert ours == theirs and len(set(ours.values())) == PARTITIONS


async def test_a_record_that_the_topic_does_not_take_fails_the_publishing(kafka_bootstrap: str) -> None:
    """One record too large: `PublishFailed`, although others are out; the message says no value, and the producer goes on."""
    topic = await create(kafka_bootstrap, {"max.message.bytes": "20000"})
    async with publishing(kafka_bootstrap) as publisher:
        with pytest.raises(PublishFailed) as raised:
            await publisher.publish([OutRecord(topic, b"a", b"small"), OutRecord(topic, b"b", b"secret" * 5_000)])
        assert "secret" not in str(raised.value)
        await publisher.publish([OutRecord(topic, b"c", b"after")])
    assert {r.value for found in (await read(kafka_bootstrap, topic)).values() for r in found} <= {b"small", b"after"}


async def test_a_record_larger_than_a_batch_is_sent_alone(kafka_bootstrap: str) -> None:
    """A quarantined record may be larger than the batches that the producer builds."""
    topic = await create(kafka_bootstrap, {"max.message.bytes": str(2 * 1024 * 1024)})
    sent = [OutRecord(topic, b"k", letter * (1024 * 1024)) for letter in (b"a", b"b", b"c")]
    async with publishing(kafka_bootstrap) as publisher:
        await publisher.publish(sent)
    assert [found for found in (await read(kafka_bootstrap, topic)).values() if found] == [sent]


async def test_a_missing_topic_fails_the_publishing_in_time(kafka_bootstrap: str) -> None:
    """A topic that is not there is not waited for longer than the timeout, and is not made."""
    name = f"t{secrets.token_hex(5)}"
    async with publishing(kafka_bootstrap, timeout_seconds=2.0) as publisher:
        started = time.monotonic()
        with pytest.raises(PublishFailed):
            await publisher.publish([OutRecord(name, b"k", b"v")])
        assert time.monotonic() - started < 4.0
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    assert name not in await admin.list_topics()
    await admin.close()


@pytest.mark.slow
async def test_a_broker_that_stops_in_the_middle_fails_the_publishing_in_time(tmp_path: Path) -> None:
    """Whatever was said to be out before the power cut is there afterwards; what was cut short was an error, in time."""
    with LocalKafka(tmp_path / "kafka") as kafka:
        topic = await create(kafka.bootstrap)
        confirmed: list[OutRecord] = []
        failed_after = None
        async with publishing(kafka.bootstrap, timeout_seconds=3.0) as publisher:
            begun = threading.Event()
            cut = asyncio.create_task(asyncio.to_thread(_kill_once, begun, kafka))
            for start in range(1_000_000):
                several = [OutRecord(topic, b"k %d" % n, b"%d" % (start * 50 + n)) for n in range(50)]
                began = time.monotonic()
                try:
                    await publisher.publish(several)
                except PublishFailed:
                    failed_after = time.monotonic() - began
                    break
                confirmed += several
                begun.set()
            await cut
            assert failed_after is not None and failed_after < 5.0
            await asyncio.to_thread(kafka.start)
        there = {record.value for found in (await read(kafka.bootstrap, topic)).values() for record in found}
    assert confirmed and {record.value for record in confirmed} <= there


def _kill_once(begun: threading.Event, kafka: LocalKafka) -> None:
    assert begun.wait(30), "nothing was ever confirmed"
    kafka.kill()
