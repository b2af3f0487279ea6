"""A flood: many requests published at once, and one urgent objection behind them all.

What it shows: whether the worker's memory depends on the size of the flood, and what the objection waits for. Kafka's order
within a partition is kept, so the objection's order leaves when what stands before it is decided, not before.

Room rules: measures and returns a row; starts its own processes and stops them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from orchestrator.adapters import topics as topics_adapter
from orchestrator.bench.measure import make_requests, publish
from orchestrator.bench.processes import Running, player, worker
from orchestrator.bench.run import SIGNED_TOGETHER, bench_keys
from schemas.intake import IntakeKey
from schemas.topics import Topics, manifest
from schemas.vocabulary import Right

__all__ = ["Flooded", "measure_flood"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """What one flood did. Seconds are counted from the first order that left, by the records' own timestamps."""

    #: Access requests published before the objection.
    requests: int
    systems: int
    #: How many of them stand before it in its own partition.
    ahead: int
    #: The worker's memory when it was ready, and the most that it held until everything was confirmed.
    start_mb: float
    peak_mb: float
    #: Until the objection's first order left.
    objection_seconds: float
    #: Orders of other requests that left before it.
    orders_before: int
    #: Batches that the worker finished, and records in them, until the objection's order was seen; one or two too many, because
    #: the worker goes on while it is being asked.
    batches_before: int
    records_before: int
    #: Until the first confirmation: reports take their turn while requests are still flooding in.
    first_confirmation_seconds: float
    #: Requests confirmed per second until the last confirmation.
    per_second: float


@dataclass(slots=True)
class _Seen:
    """What was read of the worker's output so far; moments are the records' timestamps, in milliseconds."""

    objection: bytes
    #: So many confirmations are the end.
    wanted: int
    orders_at: list[int] = field(default_factory=list)
    objection_at: int | None = None
    confirmed: set[bytes] = field(default_factory=set)
    first_confirmed_at: int | None = None
    last_confirmed_at: int = 0

    def order(self, record: Any) -> None:
        """Note an order."""
        if record.key != self.objection:
            self.orders_at.append(record.timestamp)
        elif self.objection_at is None or record.timestamp < self.objection_at:
            self.objection_at = record.timestamp

    def confirmation(self, record: Any) -> None:
        """Note a confirmation."""
        self.confirmed.add(record.key)
        self.first_confirmed_at = min(self.first_confirmed_at or record.timestamp, record.timestamp)
        self.last_confirmed_at = max(self.last_confirmed_at, record.timestamp)


async def measure_flood(
    bootstrap: str, folder: Path, requests: int, *, systems: int = 4, timeout_seconds: float = 240.0
) -> Flooded:
    """Flood a worker that was down, on topics of its own and a store of its own in `folder`.

    Returns when every request is confirmed. Raises `TimeoutError` if that takes longer than `timeout_seconds`, and
    `RuntimeError` when a process ends.
    """
    names = [f"system{number}" for number in range(1, systems + 1)]
    topics = Topics(prefix=f"flood-{secrets.token_hex(3)}")
    await topics_adapter.apply(bootstrap, manifest(names, prefix=topics.prefix))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    intake = IntakeKey.new("intake-bench")
    keyring = bench_keys(folder / f"{topics.prefix}-keys", names)
    filed = partial(make_requests, topics=topics, key=intake.public, signer=keyring.key("portal:bench"))
    await publish(bootstrap, filed(requests, together=SIGNED_TOGETHER))
    before = await _ends(bootstrap, topics.requests)
    urgent = filed(1, right=Right.OBJECTION)
    await publish(bootstrap, urgent)
    after = await _ends(bootstrap, topics.requests)
    seen = _Seen(urgent[0].key, requests + 1)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(player("respond", bootstrap, topics, names, folder, keyring=keyring))
        store_url = f"sqlite:///{folder / topics.prefix}.sqlite"
        running = await stack.enter_async_context(
            worker(bootstrap, topics, names, folder, key=key, intake=intake, store_url=store_url, keyring=keyring)
        )
        await running.ready()
        start_mb = running.resident_mb
        async with asyncio.timeout(timeout_seconds):
            batches, records = await _until_confirmed(bootstrap, topics, names, seen, running)
        peak_mb = running.peak_mb
    first = min(seen.orders_at)
    objection_at, confirmed_at = seen.objection_at or 0, seen.first_confirmed_at or 0
    return Flooded(
        requests=requests,
        systems=systems,
        ahead=next(offset for offset, end in zip(before, after, strict=True) if end > offset),
        start_mb=start_mb,
        peak_mb=peak_mb,
        objection_seconds=(objection_at - first) / 1000,
        orders_before=sum(at <= objection_at for at in seen.orders_at),
        batches_before=batches,
        records_before=records,
        first_confirmation_seconds=(confirmed_at - first) / 1000,
        per_second=(requests + 1) * 1000 / (seen.last_confirmed_at - first),
    )


async def _ends(bootstrap: str, topic: str) -> list[int]:
    """Return the end of each partition of a topic."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = await consumer.end_offsets(sorted(consumer.assignment()))
    finally:
        await consumer.stop()
    return [end for _, end in sorted(ends.items())]


async def _until_confirmed(bootstrap: str, topics: Topics, names: list[str], seen: _Seen, running: Running) -> tuple[int, int]:
    """Read until everything wanted is confirmed; return what the worker had done when the objection's order was seen."""
    orders = [topics.orders(system) for system in names]
    consumer = AIOKafkaConsumer(topics.confirmations, *orders, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    done: tuple[int, int] | None = None
    await consumer.start()
    try:
        while done is None or len(seen.confirmed) < seen.wanted:
            running.check()
            for partition, records in (await consumer.getmany(timeout_ms=200, max_records=5000)).items():
                note: Callable[[Any], None] = seen.confirmation if partition.topic == topics.confirmations else seen.order
                for record in records:
                    note(record)
            if done is None and seen.objection_at is not None:
                done = await asyncio.to_thread(_batches, running)
    finally:
        await consumer.stop()
    return done


def _batches(running: Running) -> tuple[int, int]:
    return int(running.metric("dsr_batch_records_count")), int(running.metric("dsr_batch_records_sum"))
