"""A flood: many requests published at once, and an urgent objection that comes while they are worked off.

What it shows: whether the worker's memory depends on the size of the flood, and what the objection waits for. It goes by the
topic of urgent requests, so the flood does not stand before it, and partitions take turns in every batch.

Room rules: measures and returns a row; starts its own processes and stops them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from orchestrator.adapters import topics as topics_adapter
from orchestrator.adapters.clock import SystemClock
from orchestrator.bench.measure import make_requests, publish
from orchestrator.bench.processes import Running, player, worker
from orchestrator.bench.run import SIGNED_TOGETHER, bench_keys
from orchestrator.ports import OutRecord
from schemas.intake import IntakeKey
from schemas.topics import Topics, manifest
from schemas.vocabulary import Right

__all__ = ["Flooded", "measure_flood"]

_CLOCK = SystemClock()
#: So many requests are made and published at once: a flood is larger than memory.
_MADE_AT_ONCE = 20_000
#: The objection comes when, of the requests that are waited for, one in so many has its order.
_LATE = 10
_TELL_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """What one flood did."""

    #: Access requests published while the worker was down.
    requests: int
    #: How many of them were confirmed when the measurement ended, the objection among them: all, unless fewer were wanted.
    confirmed: int
    systems: int
    #: How many of them had no order yet when the objection was published.
    waiting: int
    #: The worker's memory when it was ready, and the most that it held until the end.
    start_mb: float
    peak_mb: float
    #: From the objection's publication until its first order left.
    objection_seconds: float
    #: Batches that the worker finished in this time, and records in them; one or two too many, because the worker goes on while
    #: it is being asked.
    batches_between: int
    records_between: int
    #: From the first order that left until the first confirmation: reports take turns while requests are still flooding in.
    first_confirmation_seconds: float
    #: Requests confirmed per second, from the first order until the last confirmation.
    per_second: float


@dataclass(slots=True)
class _Seen:
    """What was read of the worker's output so far; moments are the records' timestamps, in milliseconds."""

    objection: bytes
    #: So many confirmations are the end.
    wanted: int
    say: Callable[[str], None]
    orders: int = 0
    first_order_at: int | None = None
    objection_at: int | None = None
    confirmed: set[bytes] = field(default_factory=set)
    first_confirmed_at: int | None = None
    last_confirmed_at: int = 0

    def tell(self, peak_mb: float) -> None:
        """Say how far it is."""
        self.say(f"{self.orders:,} have their order, {len(self.confirmed):,} are confirmed; worker {peak_mb:,.0f} MB at most")

    def order(self, record: Any) -> None:
        """Note an order."""
        self.orders += 1
        self.first_order_at = min(self.first_order_at or record.timestamp, record.timestamp)
        if record.key == self.objection:
            self.objection_at = min(self.objection_at or record.timestamp, record.timestamp)

    def confirmation(self, record: Any) -> None:
        """Note a confirmation."""
        self.confirmed.add(record.key)
        self.first_confirmed_at = min(self.first_confirmed_at or record.timestamp, record.timestamp)
        self.last_confirmed_at = max(self.last_confirmed_at, record.timestamp)


@dataclass(slots=True)
class _Late:
    """The objection's own story."""

    record: OutRecord
    #: When it was published, in milliseconds; what the worker had finished then, and when its order was seen: batches, records.
    at: float = 0.0
    orders_before: int = 0
    before: tuple[int, int] | None = None
    after: tuple[int, int] | None = None


async def measure_flood(
    bootstrap: str,
    folder: Path,
    requests: int,
    *,
    systems: int = 4,
    until: int | None = None,
    timeout_seconds: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Flooded:
    """Flood a worker that was down, on topics of its own and a store of its own in `folder`.

    Returns when every request is confirmed, or `until` of them, and the objection's order has left. Raises `TimeoutError` if
    that takes longer than `timeout_seconds` (by default a second for every 100 requests, and four minutes), and
    `RuntimeError` when a process ends. `say` hears every ten seconds how far it is.
    """
    names = [f"system{number}" for number in range(1, systems + 1)]
    topics = Topics(prefix=f"flood-{secrets.token_hex(3)}")
    await topics_adapter.apply(bootstrap, manifest(names, prefix=topics.prefix))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    intake = IntakeKey.new("intake-bench")
    keyring = bench_keys(folder / f"{topics.prefix}-keys", names)
    filed = partial(make_requests, topics=topics, key=intake.public, signer=keyring.key("portal:bench"))
    for start in range(0, requests, _MADE_AT_ONCE):
        await publish(bootstrap, filed(min(_MADE_AT_ONCE, requests - start), together=SIGNED_TOGETHER))
        say(f"{min(requests, start + _MADE_AT_ONCE):,} requests published")
    late = _Late(filed(1, right=Right.OBJECTION)[0])
    seen = _Seen(late.record.key, min(requests, until or requests) + 1, say)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(player("respond", bootstrap, topics, names, folder, keyring=keyring))
        store_url = f"sqlite:///{folder / topics.prefix}.sqlite"
        running = await stack.enter_async_context(
            worker(bootstrap, topics, names, folder, key=key, intake=intake, store_url=store_url, keyring=keyring)
        )
        await running.ready()
        start_mb = running.resident_mb
        async with asyncio.timeout(240 + seen.wanted / 100 if timeout_seconds is None else timeout_seconds):
            await _until_confirmed(bootstrap, (topics.confirmations, topics.orders(names[0])), seen, late, running)
        peak_mb = running.peak_mb
    assert late.before is not None and late.after is not None and seen.first_order_at is not None, "read until then"
    return Flooded(
        requests=requests,
        confirmed=len(seen.confirmed),
        systems=systems,
        waiting=requests - late.orders_before,
        start_mb=start_mb,
        peak_mb=peak_mb,
        objection_seconds=((seen.objection_at or 0) - late.at) / 1000,
        batches_between=late.after[0] - late.before[0],
        records_between=late.after[1] - late.before[1],
        first_confirmation_seconds=((seen.first_confirmed_at or 0) - seen.first_order_at) / 1000,
        per_second=len(seen.confirmed) * 1000 / (seen.last_confirmed_at - seen.first_order_at),
    )


async def _until_confirmed(bootstrap: str, names: tuple[str, str], seen: _Seen, late: _Late, running: Running) -> None:
    """Read confirmations and one system's orders until enough is confirmed; publish the objection in between."""
    consumer = AIOKafkaConsumer(*names, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    tell_at = time.monotonic() + _TELL_SECONDS
    try:
        while late.after is None or len(seen.confirmed) < seen.wanted:
            running.check()
            for partition, records in (await consumer.getmany(timeout_ms=200, max_records=5000)).items():
                note: Callable[[Any], None] = seen.confirmation if partition.topic == names[0] else seen.order
                for record in records:
                    note(record)
            if time.monotonic() >= tell_at:
                tell_at += _TELL_SECONDS
                seen.tell(running.peak_mb)
            if late.before is None and seen.orders * _LATE >= seen.wanted:
                late.before = await asyncio.to_thread(_batches, running)
                late.orders_before = seen.orders
                late.at = _CLOCK.now().timestamp() * 1000
                await publish(bootstrap, [late.record])
            if late.after is None and seen.objection_at is not None:
                late.after = await asyncio.to_thread(_batches, running)
    finally:
        await consumer.stop()


def _batches(running: Running) -> tuple[int, int]:
    return int(running.metric("dsr_batch_records_count")), int(running.metric("dsr_batch_records_sum"))
