"""One side of the comparison: publish requests, wait for as many confirmations, take the time.

Throughput: a backlog is published first, then the side under measurement starts on it; the clock runs from the first order
it writes to the last confirmation, by the records' timestamps. Latency: requests at an even pace, each timed by itself.

Room rules: measures; starts and stops only processes it was told to.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from orchestrator.adapters.producer import KafkaPublisher
from orchestrator.ports import OutRecord
from schemas.intake import IntakePublicKey, seal_intake
from schemas.requests import SubmitRequest, Verification
from schemas.signatures import sign_records
from schemas.subject import SubjectData
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import AssuranceLevel, IdentifierKind, Right
from schemas.wire import encode, headers_of

__all__ = ["Latency", "Throughput", "latency", "make_requests", "throughput"]


@dataclass(frozen=True, slots=True)
class Throughput:
    """What a backlog took."""

    requests: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Return requests confirmed per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Latency:
    """From handing the request to the client to its confirmation being read, in milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


def make_requests(
    count: int,
    topics: Topics,
    key: IntakePublicKey,
    right: Right = Right.ACCESS,
    *,
    signer: SigningKey | None = None,
    together: int = 1,
) -> list[OutRecord]:
    """Return verified requests of `count` different people on `example.org`, sealed as a portal would.

    With a signer they are signed, so many together as a portal would publish at once.
    """
    now = datetime.now(UTC)  # noqa: TID251 - the bench plays a portal
    verification = Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=now)
    records = []
    for _ in range(count):
        request = str(uuid.uuid4())  # noqa: TID251 - the bench plays a portal
        data = SubjectData(identifiers={IdentifierKind.EMAIL: (f"{request}@example.org",)})
        message = SubmitRequest(
            subject_request_id=request,
            portal="bench",
            right=right,
            submitted_at=now,
            sealed=seal_intake(data.to_bytes(), key, request),
            verification=verification,
        )
        records.append(OutRecord(topics.requests_for(right), request.encode(), encode(message), headers_of(message)))
    return records if signer is None else _signed(records, signer, together)


def _signed(records: list[OutRecord], signer: SigningKey, together: int) -> list[OutRecord]:
    made = []
    for start in range(0, len(records), together):
        batch = records[start : start + together]
        headers = sign_records([(one.topic, one.key, one.value, one.headers) for one in batch], signer)
        made += [OutRecord(one.topic, one.key, one.value, own) for one, own in zip(batch, headers, strict=True)]
    return made


async def publish(bootstrap: str, records: Sequence[OutRecord]) -> None:
    """Publish a backlog."""
    publisher = KafkaPublisher(bootstrap)
    await publisher.start()
    for start in range(0, len(records), 2000):
        await publisher.publish(records[start : start + 2000])
    await publisher.aclose()


async def throughput(
    bootstrap: str,
    topics: Topics,
    systems: Sequence[str],
    wanted: set[bytes],
    *,
    timeout_seconds: float,
    alive: Callable[[], None],
) -> Throughput:
    """Wait until every request of `wanted` has a confirmation; the time is that between the records' own timestamps.

    `alive` is asked in between, and raises when one of the processes has ended.
    """
    orders = {topics.orders(system) for system in systems}
    consumer = AIOKafkaConsumer(topics.confirmations, *orders, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    seen: set[bytes] = set()
    first, last = float("inf"), 0.0
    try:
        async with asyncio.timeout(timeout_seconds):
            while len(seen) < len(wanted):
                alive()
                for partition, records in (await consumer.getmany(timeout_ms=500, max_records=5000)).items():
                    if partition.topic in orders:
                        first = min(first, records[0].timestamp)
                    else:
                        seen.update(record.key for record in records if record.key in wanted)
                        last = max(last, records[-1].timestamp)
    finally:
        await consumer.stop()
    return Throughput(len(seen), (last - first) / 1000)


async def latency(bootstrap: str, topics: Topics, records: Sequence[OutRecord], rate: float) -> Latency:
    """Publish at `rate` requests per second and time each one to its confirmation."""
    consumer = AIOKafkaConsumer(topics.confirmations, bootstrap_servers=bootstrap, auto_offset_reset="latest")
    await consumer.start()
    await consumer.seek_to_end()
    for partition in consumer.assignment():
        await consumer.position(partition)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    sent: dict[bytes, float] = {}
    took: list[float] = []

    async def read() -> None:
        while len(took) < len(records):
            for ones in (await consumer.getmany(timeout_ms=500)).values():
                now = time.perf_counter()
                took.extend(now - sent[record.key] for record in ones if record.key in sent)

    reading = asyncio.create_task(read())
    begun = time.perf_counter()
    sends = []
    for number, record in enumerate(records):
        await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
        sent[record.key] = time.perf_counter()
        sends.append(await producer.send(record.topic, record.value, key=record.key, headers=record.headers))
    await asyncio.gather(*sends)
    async with asyncio.timeout(60):
        await reading
    await consumer.stop()
    await producer.stop()
    cut = statistics.quantiles(took[len(took) // 10 :], n=100)
    return Latency(rate, cut[49] * 1000, cut[98] * 1000)
