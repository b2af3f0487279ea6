"""Say something on the bus and hear what answers it: how the operators' commands act.

Listening starts before anything is said, at the ends of the topics as they are then, so no answer can be missed.

Room rules: joins no group, commits nothing; a record that was not acknowledged is an error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from orchestrator.ports import Record
from schemas import any_header
from schemas.broker import OPEN, not_reached
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.wire import Headers

__all__ = ["Conversation", "conversation"]

_TIMEOUT_MS = 15_000


class Conversation:
    """One speaker, and a listener on some topics. Use `conversation` to get one."""

    def __init__(self, producer: Any, consumer: Any) -> None:
        self._producer = producer
        self._consumer = consumer
        self._heard: deque[Record] = deque()

    async def say(self, topic: str, key: bytes, value: bytes, headers: Headers) -> str:
        """Publish one record; return its place as journals and quarantine name it: topic-partition-offset."""
        sent = await self._producer.send_and_wait(topic, value, key=key, headers=headers)
        return f"{sent.topic}-{sent.partition}-{sent.offset}"

    async def hear(self, seconds: float) -> AsyncIterator[Record]:
        """Yield what is published from now on, for so many seconds; whoever stops early goes on there the next time."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        while True:
            while self._heard:
                yield self._heard.popleft()
            left = ends_at - loop.time()
            if left <= 0:
                return
            for records in (await self._consumer.getmany(timeout_ms=max(1, int(left * 1000)))).values():
                self._heard.extend(map(_record, records))


def _record(found: Any) -> Record:
    headers = [(str(name), value or b"") for name, value in found.headers]
    return Record(found.topic, found.partition, found.offset, found.timestamp, found.key, found.value, headers)


@asynccontextmanager
async def conversation(
    bootstrap: str, says: str, hears: Sequence[str], connection: Mapping[str, Any] = OPEN
) -> AsyncIterator[Conversation]:
    """Give a conversation: it says on one topic and hears others. `connection`: aiokafka's options for TLS and SASL.

    Raises `ConfigurationError` if broker or topic is away, or if we may not do it.
    """
    any_header.install()
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, request_timeout_ms=_TIMEOUT_MS, **connection
    )
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, **connection)
    try:
        await consumer.start()
        await producer.start()
        await _listen(producer, consumer, says, hears)
        yield Conversation(producer, consumer)
    except KafkaConnectionError:
        raise not_reached(bootstrap, connection) from None
    except TopicAuthorizationFailedError:
        raise ConfigurationError(
            f"the broker at {bootstrap} does not let us do that: it takes an operator's rules, see `dsr acl show`"
        ) from None
    except KafkaError as error:
        raise OrchestratorError(f"the broker at {bootstrap} did not do it ({type(error).__name__}): try again") from error
    finally:
        await consumer.stop()
        await producer.stop()


async def _listen(producer: Any, consumer: Any, says: str, hears: Sequence[str]) -> None:
    there = await consumer.topics()
    missing = ", ".join(sorted({says, *hears} - there))
    if missing:
        raise ConfigurationError(
            f"{missing}: no such topic, or not for us to see (`dsr acl show`); check DSR_TOPIC_PREFIX, "
            "or make them with `dsr topics apply`"
        )
    partitions = [TopicPartition(topic, number) for topic in hears for number in await producer.partitions_for(topic)]
    consumer.assign(partitions)
    for partition, end in (await consumer.end_offsets(partitions)).items():
        consumer.seek(partition, end)
