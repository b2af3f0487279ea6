"""`orchestrator.ports.Publisher` on aiokafka: an idempotent producer, batches built per partition, every ack awaited.

A decision's records are grouped by partition and handed over as whole batches, which costs a fraction of a future per record.
Idempotence (acks=all, sequence numbers) keeps a retried batch from being stored twice by the broker.

Room rules: a record that was not acknowledged is an error, always.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from orchestrator.ports import OutRecord, PublishFailed

__all__ = ["KafkaPublisher"]


_BY_KEY = DefaultPartitioner()


@lru_cache(maxsize=8192)
def _partition_of(key: bytes, count: int) -> int:
    """Return the partition of a key among so many; remembered, because a request's key comes again with each of its batches."""
    partitions = range(count)
    return int(_BY_KEY(key, partitions, partitions))


class KafkaPublisher:
    """Publishes records and returns when they are safe."""

    def __init__(self, bootstrap: str, *, timeout_seconds: float = 30.0, security: dict[str, Any] | None = None) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=int(timeout_seconds * 1000),
            max_batch_size=512 * 1024,
            max_request_size=3 * 1024 * 1024,
            **(security or {}),
        )
        self._timeout_seconds = timeout_seconds
        self._partitions: dict[str, list[int]] = {}
        # Whole batches of several callers would queue behind each other inside the client, on its much shorter timeout.
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def publish(self, records: Sequence[OutRecord]) -> None:
        """Return when the broker has acknowledged every record. Raises `PublishFailed`; some may be out then."""
        try:
            async with self._turn:
                await asyncio.wait_for(asyncio.shield(self._send(records)), self._timeout_seconds)
        except (TimeoutError, KafkaError) as error:
            raise PublishFailed(type(error).__name__) from error

    async def _send(self, records: Sequence[OutRecord]) -> None:
        by_partition: dict[tuple[str, int], list[OutRecord]] = defaultdict(list)
        chosen: dict[tuple[bytes, int], int] = {}
        for record in records:
            partitions = self._partitions.get(record.topic) or await self._partitions_of(record.topic)
            # A request's records share their key and, mostly, their number of partitions: hash it once.
            place = (record.key, len(partitions))
            partition = chosen.get(place)
            if partition is None:
                partition = chosen[place] = _partition_of(record.key, len(partitions))
            by_partition[record.topic, partition].append(record)
        acks: list[Any] = []
        for (topic, partition), ones in by_partition.items():
            acks += await self._send_batches(topic, partition, ones)
        await asyncio.gather(*acks)

    async def _partitions_of(self, topic: str) -> list[int]:
        """Look up a topic's partitions, once: their number is for life."""
        found = self._partitions[topic] = sorted(await self._producer.partitions_for(topic))
        return found

    async def _send_batches(self, topic: str, partition: int, records: list[OutRecord]) -> list[Any]:
        acks = []
        batch = self._producer.create_batch()
        for record in records:
            if batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers) is None:
                # Full. A batch takes its first record whatever its size, so the second try cannot fail.
                acks.append(await self._producer.send_batch(batch, topic, partition=partition))
                batch = self._producer.create_batch()
                batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers)
        if batch.record_count():
            batch.close()
            acks.append(await self._producer.send_batch(batch, topic, partition=partition))
        return acks

    async def aclose(self) -> None:
        """Close the producer."""
        await self._producer.stop()
