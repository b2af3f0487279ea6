"""How far a group has read, on a real broker."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from orchestrator.adapters.backlog import KafkaBacklog
from schemas.errors import OrchestratorError
from tests.conftest import FreshKafka

pytestmark = pytest.mark.kafka


async def _coordinated(backlog: KafkaBacklog) -> None:
    """Wait for a fresh broker to have a coordinator of groups."""
    async with asyncio.timeout(30):
        while True:
            try:
                await backlog.positions()
            except OrchestratorError:
                await asyncio.sleep(0.1)
            else:
                return


async def test_ends_and_what_was_committed_in_each_partition(fresh_kafka: FreshKafka) -> None:
    """Of both topics of requests: empty, unread, half read, read, and taken away by retention before anybody read it."""
    topics = await fresh_kafka.create("crm", partitions=1)
    group = topics.group("orchestrator")
    backlog = KafkaBacklog(fresh_kafka.bootstrap, group, topics.all_requests)
    first, second = (TopicPartition(topic, 0) for topic in topics.all_requests)
    await _coordinated(backlog)
    assert await backlog.positions() == ({first: 0, second: 0}, {first: 0, second: 0})
    async with AIOKafkaProducer(bootstrap_servers=fresh_kafka.bootstrap) as producer:
        for topic in (*[topics.requests] * 3, topics.urgent_requests):
            await producer.send_and_wait(topic, b"x")
    assert await backlog.positions() == ({first: 3, second: 1}, {first: 0, second: 0})
    reader = AIOKafkaConsumer(bootstrap_servers=fresh_kafka.bootstrap, group_id=group, enable_auto_commit=False)
    reader.assign([first, second])
    await reader.start()
    try:
        await reader.commit({first: 2})
        assert await backlog.positions() == ({first: 3, second: 1}, {first: 2, second: 0})
        await reader.commit({first: 3})
        assert await backlog.positions() == ({first: 3, second: 1}, {first: 3, second: 0})
    finally:
        await reader.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({second: RecordsToDelete(before_offset=1)})
    finally:
        await admin.close()
    assert await backlog.positions() == ({first: 3, second: 1}, {first: 3, second: 1})


async def test_a_broker_that_does_not_answer_is_told() -> None:
    """No answer is an error of its own, never an empty one."""
    backlog = KafkaBacklog("127.0.0.1:1", "g", ["t.requests.v1"])
    with pytest.raises(OrchestratorError, match="did not tell its offsets"):
        await backlog.positions()
