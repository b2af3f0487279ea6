"""A connector's conversation on a real broker: the newest word of a key, whatever retention and other writers do meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from connectors.sdk.conversation_kafka import KafkaConversation
from connectors.sdk.standin import closed_port_url
from schemas.broker import BrokerReach
from schemas.errors import SystemRejected, SystemUnavailable

pytestmark = pytest.mark.kafka


def reach(bootstrap):
    return BrokerReach(kafka_bootstrap=bootstrap)


@pytest.fixture
async def names(fresh_kafka):
    return await fresh_kafka.create("crm", partitions=2)


@pytest.fixture
async def conversation(fresh_kafka, names):
    made = KafkaConversation(reach(fresh_kafka.bootstrap), says=names.requests, hears=(names.confirmations, names.status))
    yield made
    await made.aclose()


@pytest.fixture
async def other(fresh_kafka):
    async with AIOKafkaProducer(bootstrap_servers=fresh_kafka.bootstrap, acks="all") as producer:
        yield producer


async def values_of(conversation, key):
    return {topic: heard.value for topic, heard in (await conversation.heard(key)).items()}


async def test_the_newest_word_of_each_topic_is_heard(conversation, names, other):
    """Looked up by key, with headers; other keys between do not matter, and what came before the first look counts."""
    for number in range(50):
        await other.send_and_wait(names.status, b"%d" % number, key=b"key-%d" % (number % 5), headers=[("h", b"1")])
    assert await values_of(conversation, b"nobody") == {}
    heard = await conversation.heard(b"key-3")
    assert {topic: (one.value, one.headers) for topic, one in heard.items()} == {names.status: (b"48", [("h", b"1")])}
    await other.send_and_wait(names.confirmations, b"done", key=b"key-3")
    found = await asyncio.gather(*(values_of(conversation, b"key-%d" % number) for number in range(5)))
    assert found[3] == {names.status: b"48", names.confirmations: b"done"}
    assert [one[names.status] for one in found] == [b"45", b"46", b"47", b"48", b"49"]
    await other.send_and_wait(names.status, b"50", key=b"key-3")
    assert (await values_of(conversation, b"key-3"))[names.status] == b"50"
    await other.send_and_wait(names.confirmations, None, key=b"key-3")
    assert await values_of(conversation, b"key-3") == {names.status: b"50"}


async def test_words_that_retention_took_are_no_longer_heard(conversation, names, other, fresh_kafka):
    """A status that expired after it was seen does not stand in the way of the confirmation."""
    await other.send_and_wait(names.status, b"on the way", key=b"key")
    assert await values_of(conversation, b"key") == {names.status: b"on the way"}
    admin = AIOKafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap)
    await admin.start()
    partitions = [TopicPartition(names.status, number) for number in range(2)]
    await admin.delete_records({partition: RecordsToDelete(before_offset=-1) for partition in partitions})
    await admin.close()
    await other.send_and_wait(names.confirmations, b"done", key=b"key")
    assert await values_of(conversation, b"key") == {names.confirmations: b"done"}


async def test_a_topic_that_is_there_is_rather_spoken_on(conversation, names, other, fresh_kafka):
    """Where their broker does not have it, the ordinary one takes the record: nothing is kept back, nothing is created."""
    for topic in (names.urgent_requests, f"{names.prefix}.nowhere.v1", None):
        await conversation.say(b"key", str(topic).encode(), [], rather_on=topic)
    async with AIOKafkaConsumer(
        *names.all_requests, bootstrap_servers=fresh_kafka.bootstrap, auto_offset_reset="earliest"
    ) as consumer:
        heard = {(await consumer.getone()).topic for _ in range(3)}
        assert heard == set(names.all_requests)
        assert f"{names.prefix}.nowhere.v1" not in await consumer.topics()


async def test_a_missing_topic_is_named(fresh_kafka, names):
    """The check says which topic is not there; nothing is created."""
    made = KafkaConversation(reach(fresh_kafka.bootstrap), says=f"{names.prefix}.nowhere.v1", hears=(names.status,))
    with pytest.raises(SystemRejected, match=r"nowhere\.v1"):
        await made.check()
    await made.aclose()


async def test_no_broker_is_tried_again_later():
    """A broker that is not there is unavailable, in the time allowed, and leaves nothing open."""
    with closed_port_url() as url:
        made = KafkaConversation(reach(url.removeprefix("http://")), says="a", hears=("b",), timeout_seconds=2)
        for _ in range(2):
            with pytest.raises(SystemUnavailable):
                await made.heard(b"key")
        await made.aclose()
