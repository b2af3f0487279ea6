"""The local broker as its users meet it: it answers, survives, stays alone, and goes with its owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from orchestrator.adapters.local_kafka import LocalKafka, answers
from orchestrator.adapters.topics import apply
from schemas.topics import Topics, manifest

pytestmark = pytest.mark.kafka


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Callable[[str], LocalKafka]]:
    """Give brokers by name, and stop them all afterwards."""
    with ExitStack() as stack:

        def broker(name: str) -> LocalKafka:
            kafka = LocalKafka(tmp_path / name)
            stack.callback(kafka.stop)
            return kafka

        yield broker


def _wait_until(seen: Callable[[], bool], *, within_seconds: float = 30) -> None:
    deadline = time.monotonic() + within_seconds
    while not seen():
        assert time.monotonic() < deadline, f"not seen within {within_seconds} s"
        time.sleep(0.05)


async def _produce(bootstrap: str, topic: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)


async def _consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(30):
            return [(await consumer.getone()).value for _ in range(count)]


@pytest.mark.slow
async def test_records_survive_kill_and_stop(brokers: Callable[[str], LocalKafka], topics: Topics) -> None:
    """After a kill -9 and after an orderly stop the same directory comes back at the same address with its records."""
    kafka, told = brokers("one"), list[str]()
    await asyncio.to_thread(kafka.start, told.append)
    bootstrap, first_pid = kafka.bootstrap, kafka.pid
    assert "starting Apache Kafka 4.3.1" in told
    await apply(bootstrap, manifest([], prefix=topics.prefix))
    await _produce(bootstrap, topics.requests, b"before the kill")

    await asyncio.to_thread(kafka.kill)
    assert not kafka.runs
    assert not answers(bootstrap)
    await asyncio.to_thread(kafka.start)
    assert (kafka.bootstrap, kafka.pid != first_pid) == (bootstrap, True)
    await _produce(bootstrap, topics.requests, b"after the kill")

    await asyncio.to_thread(kafka.stop)
    assert not answers(bootstrap)
    await asyncio.to_thread(kafka.start)
    assert await _consume(bootstrap, topics.requests, 2) == [b"before the kill", b"after the kill"]


async def test_misspelt_topic_does_not_appear(kafka_bootstrap: str, topics: Topics) -> None:
    """Producing to a topic that nobody created fails; it is not created on the way."""
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, request_timeout_ms=3000) as producer:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait(f"{topics.prefix}.reqeusts.v1", b"lost?")


async def test_a_group_reads_and_commits(kafka_bootstrap: str, topics: Topics) -> None:
    """A consumer group of the classic protocol joins, reads and keeps its place."""
    await apply(kafka_bootstrap, manifest([], partitions=1, prefix=topics.prefix))
    await _produce(kafka_bootstrap, topics.requests, b"one", b"two")
    read = []
    for _ in range(2):
        async with (
            AIOKafkaConsumer(
                topics.requests,
                bootstrap_servers=kafka_bootstrap,
                group_id=topics.group("orchestrator"),
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                max_poll_records=1,
            ) as consumer,
            asyncio.timeout(30),
        ):
            record = await consumer.getone()
            await consumer.commit({TopicPartition(topics.requests, 0): record.offset + 1})
            read.append(record.value)
    assert read == [b"one", b"two"]


async def test_two_live_side_by_side(brokers: Callable[[str], LocalKafka], topics: Topics) -> None:
    """Two brokers started at the same moment get ports, data and processes of their own."""
    one, two = brokers("one"), brokers("two")
    await asyncio.gather(*(asyncio.to_thread(kafka.start) for kafka in (one, two)))
    assert len({one.bootstrap, two.bootstrap}) == len({one.pid, two.pid}) == 2
    assert await apply(one.bootstrap, manifest([], prefix=topics.prefix))
    assert await apply(two.bootstrap, manifest([], prefix=topics.prefix)), "they share their topics"


async def test_starting_twice_starts_once(brokers: Callable[[str], LocalKafka], tmp_path: Path) -> None:
    """Two owners that start the same directory at the same moment end up with one broker."""
    one, same = brokers("one"), LocalKafka(tmp_path / "one")
    await asyncio.gather(*(asyncio.to_thread(kafka.start) for kafka in (one, same)))
    assert one.pid == same.pid is not None
    assert answers(one.bootstrap)


def test_broker_ends_with_its_killed_owner(tmp_path: Path) -> None:
    """A broker started as a child is gone soon after its owner got a kill -9."""
    program = (
        "import sys, time; from pathlib import Path; from orchestrator.adapters.local_kafka import LocalKafka;"
        "LocalKafka(Path(sys.argv[1])).start(); print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        kafka = LocalKafka(tmp_path)
        assert kafka.runs
        os.kill(owner.pid, signal.SIGKILL)
    _wait_until(lambda: not kafka.runs)
    assert not answers(kafka.bootstrap)


def test_a_number_given_to_another_process_is_left_alone(tmp_path: Path) -> None:
    """A remembered process id that now belongs to another program is neither taken for the broker nor ended."""
    (tmp_path / "instance.json").write_text(f'{{"engine": "java", "port": 1, "pid": {os.getpid()}}}')
    kafka = LocalKafka(tmp_path)
    assert (kafka.runs, kafka.pid) == (False, None)
    kafka.kill()
