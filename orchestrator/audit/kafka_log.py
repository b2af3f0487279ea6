"""The log, live from a broker: every topic of one installation, up to the ends captured at the start.

Room rules: reads, commits nothing, joins no group; no record is judged here.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from orchestrator.audit.records import Extent, LogRecord, Place, Span
from schemas import any_header
from schemas.broker import OPEN, not_reached
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.topics import Topics

__all__ = ["KafkaLog", "connected"]

_POLL_MS = 500
_SILENCE_SECONDS = 30.0


class KafkaLog:
    """All topics of a prefix on a broker, or those of `only`. Use `connected` to get one."""

    def __init__(self, consumer: Any, admin: Any, topics: Topics, only: Sequence[str] = ()) -> None:
        self._admin = admin
        self._consumer = consumer
        self._topics = topics
        self._only = frozenset(only)

    async def extent(self) -> Extent:
        """Capture what is there now: inputs first, then their effects. Raises `ConfigurationError` if no topic is there."""
        there = {topic["topic"]: topic["partitions"] for topic in await self._admin.describe_topics(None)}
        names = [name for name in sorted(there) if self._is_ours(name)]
        topics = self._topics
        needed = self._only or {topics.requests, topics.journal, topics.confirmations}
        missing = ", ".join(sorted(name for name in needed if not there.get(name)))
        if missing:
            raise ConfigurationError(
                f"{missing}: no such topic, or not for us to see (`dsr acl show`); check DSR_TOPIC_PREFIX, "
                "or make them with `dsr topics apply`"
            )
        # A key is given out after its order was sent and before the order's end is reported: with the releases' ends between
        # the two, no release is read whose order is not, and no report whose release is not.
        early = ({*topics.all_requests, topics.commands, topics.reports}, {topics.releases})
        groups = [[name for name in names if name in those] for those in early]
        groups.append([name for name in names if not any(name in those for those in early)])
        extent: dict[tuple[str, int], Span] = {}
        for group in groups:
            partitions = [TopicPartition(name, int(part["partition"])) for name in group for part in there[name]]
            ends = await self._consumer.end_offsets(partitions) if partitions else {}
            beginnings = await self._consumer.beginning_offsets(partitions) if partitions else {}
            for partition in partitions:
                extent[partition.topic, partition.partition] = Span(beginnings[partition], ends[partition])
        return extent

    def _is_ours(self, name: str) -> bool:
        topics = self._topics
        if self._only:
            return name in self._only
        common = {*topics.all_requests, topics.commands, topics.reports, topics.status, topics.confirmations, topics.journal}
        common.add(topics.releases)
        orders = name.startswith(f"{topics.prefix}.orders.") and name.endswith(".v1")
        return name in common or name == topics.quarantine or orders

    async def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        """Yield the extent's records, merged by their timestamps as far as partitions allow.

        Only a heuristic, which keeps requests short-lived in the reader's memory: nothing may rely on the order across
        partitions. Raises `OrchestratorError` if the broker falls silent.
        """
        spans = {TopicPartition(*name): span for name, span in extent.items() if span.end > span.beginning}
        if not spans:
            return
        self._consumer.assign(list(spans))
        for partition, span in spans.items():
            self._consumer.seek(partition, span.beginning)
        merge = _Merge(self._consumer, spans)
        while (record := await merge.next()) is not None:
            yield record


class _Merge:
    """Takes the oldest head of all partitions; reads on only where nothing is left in hand, so memory stays bounded."""

    def __init__(self, consumer: Any, spans: Mapping[Any, Span]) -> None:
        self._consumer = consumer
        self._spans = spans
        self._in_hand: dict[Any, deque[Any]] = {partition: deque() for partition in spans}
        self._empty = set(spans)
        self._done: set[Any] = set()
        self._heads: list[tuple[int, str, int]] = []

    async def next(self) -> LogRecord | None:
        """Return the next record, or None at the end."""
        if self._empty:
            await self._fill()
        if not self._heads:
            return None
        _, topic, number = heapq.heappop(self._heads)
        partition = TopicPartition(topic, number)
        found = self._in_hand[partition].popleft()
        self._offer(partition)
        headers = tuple((str(name), value or b"") for name, value in found.headers)
        return LogRecord(Place(topic, number, found.offset), found.timestamp, found.key, found.value, headers)

    def _offer(self, partition: Any) -> None:
        in_hand = self._in_hand[partition]
        if in_hand:
            heapq.heappush(self._heads, (in_hand[0].timestamp, partition.topic, partition.partition))
        elif partition not in self._done:
            self._empty.add(partition)

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while self._empty:
            batches = await self._consumer.getmany(*self._empty, timeout_ms=_POLL_MS)
            for partition, records in batches.items():
                heard_at = loop.time()
                self._in_hand[partition].extend(r for r in records if r.offset < self._spans[partition].end)
            for partition in tuple(self._empty):
                # The position also passes over what compaction or a transaction has left without a record.
                if await self._consumer.position(partition) >= self._spans[partition].end:
                    self._done.add(partition)
                if self._in_hand[partition] or partition in self._done:
                    self._empty.discard(partition)
                    self._offer(partition)
            if loop.time() - heard_at > _SILENCE_SECONDS:
                raise OrchestratorError(f"the broker has sent nothing for {_SILENCE_SECONDS:g} s: look at its log, then repeat")


@asynccontextmanager
async def connected(
    bootstrap: str, topics: Topics, only: Sequence[str] = (), *, connection: Mapping[str, Any] = OPEN
) -> AsyncIterator[KafkaLog]:
    """Give the log while the block runs. `connection`: aiokafka's options for TLS and SASL.

    Raises `ConfigurationError` when no broker answers, or when we may not read.
    """
    any_header.install()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", **connection
    )
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **connection)
    try:
        await admin.start()
        await consumer.start()
        yield KafkaLog(consumer, admin, topics, only)
    except KafkaConnectionError:
        raise not_reached(bootstrap, connection) from None
    except TopicAuthorizationFailedError:
        raise ConfigurationError(
            f"the broker at {bootstrap} does not let us read that: see `dsr acl show` for who may"
        ) from None
    except (KafkaError, TimeoutError) as error:
        raise OrchestratorError(f"the broker at {bootstrap} did not do it ({type(error).__name__}): try again") from error
    finally:
        await consumer.stop()
        await admin.close()
