"""A conversation on Kafka: publish with every ack awaited, and find the newest answer to a key.

Topics that are looked into are read from their beginnings once and then followed. Of each record only its place is kept (key,
partition, offset), so memory grows with the number of keys and not with what was said; a value is fetched when it is asked for.
No consumer group and no offsets: a restarted process reads again, and so can never believe that it has seen what it has not.

Room rules: only this file, `kafka` and `broker_token` know aiokafka; no record's bytes in an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from connectors.sdk.conversation import Heard
from connectors.sdk.kafka import connection_to
from schemas import any_header
from schemas.broker import BrokerReach
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.wire import Headers

__all__ = ["KafkaConversation"]

_FETCH_MS = 200
_RECORDS_AT_ONCE = 2000


class KafkaConversation:
    """Implements `connectors.sdk.conversation.Conversation`. Connects at the first call, so it can be built without a loop."""

    def __init__(self, reach: BrokerReach, *, says: str, hears: Sequence[str], timeout_seconds: float = 30.0) -> None:
        self._reach = reach
        self._says = says
        self._hears = tuple(hears)
        self._timeout_seconds = timeout_seconds
        self._producer: Any = None
        self._consumer: Any = None
        self._partitions: list[TopicPartition] = []
        self._there: set[str] = set()
        self._places: dict[str, dict[bytes, tuple[TopicPartition, int]]] = {topic: {} for topic in self._hears}
        self._starting = asyncio.Lock()
        # One reader at a time: fetching a value moves the position that following goes on from.
        self._reading = asyncio.Lock()

    async def check(self) -> str:
        """Return one line on the topics. Raises `SystemUnavailable` without a broker, `SystemRejected` without a topic."""
        async with self._asking():
            await self._start()
        return f"speaks on {self._says}, hears {len(self._partitions)} partitions of {', '.join(self._hears)}"

    async def say(self, key: bytes, value: bytes, headers: Headers, *, rather_on: str | None = None) -> None:
        """Publish and await the ack. Raises `SystemUnavailable`: then the record may or may not be in the log."""
        async with self._asking():
            await self._start()
            topic = rather_on if rather_on is not None and rather_on in self._there else self._says
            await self._producer.send_and_wait(topic, value, key=key, headers=headers)

    async def heard(self, key: bytes) -> Mapping[str, Heard]:
        """Read up to the ends as they are now, then return the key's newest records. What was read is not read again."""
        async with self._asking():
            await self._start()
            async with self._reading:
                await self._catch_up()
                places = {topic: known[key] for topic, known in self._places.items() if key in known}
                found = {topic: await self._fetch(key, *place) for topic, place in places.items()}
        return {topic: heard for topic, heard in found.items() if heard is not None}

    async def aclose(self) -> None:
        """Close both clients."""
        async with self._starting:
            await self._drop()

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Bound the time, and say of whatever the broker did not do that it may be tried again."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                yield
        except (KafkaError, TimeoutError) as error:
            raise SystemUnavailable(f"the broker did not do it in time: {type(error).__name__}") from None

    async def _start(self) -> None:
        async with self._starting:
            if self._consumer is not None:
                return
            any_header.install()
            common = connection_to(self._reach)
            self._producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **common)
            self._consumer = AIOKafkaConsumer(
                enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=_FETCH_MS, **common
            )
            try:
                await self._producer.start()
                await self._consumer.start()
                await self._assign()
            except BaseException:
                await self._drop()
                raise

    async def _drop(self) -> None:
        consumer, producer, self._consumer, self._producer = self._consumer, self._producer, None, None
        if consumer is not None:
            await consumer.stop()
        if producer is not None:
            await producer.stop()

    async def _assign(self) -> None:
        self._there = await self._consumer.topics()
        missing = {self._says, *self._hears} - self._there
        if missing:
            raise SystemRejected(f"no such topic: {', '.join(sorted(missing))}; check the prefix and what we may read")
        self._partitions = [
            TopicPartition(topic, number) for topic in self._hears for number in await self._producer.partitions_for(topic)
        ]
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_beginning(*self._partitions)
        for known in self._places.values():
            known.clear()

    async def _catch_up(self) -> None:
        ends = await self._consumer.end_offsets(self._partitions)
        while True:
            behind = [one for one in self._partitions if await self._consumer.position(one) < ends[one]]
            if not behind:
                return
            batches = await self._consumer.getmany(*behind, timeout_ms=_FETCH_MS, max_records=_RECORDS_AT_ONCE)
            for partition, records in batches.items():
                known = self._places[partition.topic]
                known.update((record.key, (partition, record.offset)) for record in records if record.key is not None)

    async def _fetch(self, key: bytes, partition: TopicPartition, offset: int) -> Heard | None:
        """Return one record and go on where following was; None for one that retention took, or that takes another back.

        One that compaction took in this very moment has a successor: it is asked for again later.
        """
        if offset < (await self._consumer.beginning_offsets([partition]))[partition]:
            del self._places[partition.topic][key]
            return None
        follows_at = await self._consumer.position(partition)
        self._consumer.seek(partition, offset)
        try:
            record = await self._consumer.getone(partition)
        finally:
            self._consumer.seek(partition, follows_at)
        if record.offset != offset:
            raise SystemUnavailable("the record was replaced while it was looked up")
        if record.value is None:
            return None
        return Heard(record.topic, record.value, [(str(name), value or b"") for name, value in record.headers])
