"""What stands outside: a portal that publishes requests, repetitions and poison, and a reader of the confirmations.

Room rules: both outlive a broker that is down; the portal counts only what the broker has acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from orchestrator.audit.kafka_log import connected
from schemas.confirmations import Confirmation
from schemas.orders import FulfilmentOrder
from schemas.requests import SubmitRequest
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import RequestResult, Right
from schemas.wire import ORDER_MESSAGES, Headers, decode, encode, headers_of
from tests.chaos.forger import FORGED_COUNT, FORGERIES, expected, forged_headers, forged_withdrawal
from tests.integration.worker_kit import request

__all__ = ["Confirmations", "Portal", "address", "forged_reports", "set_aside"]

#: One record in so many is poison; one request in so many is said twice.
_POISON_EVERY, _REPEAT_EVERY = 40, 50
#: After one request in so many somebody forges a withdrawal of it; with signatures only.
_FORGED_EVERY = 20
#: One request in so many is an objection, which goes by the urgent topic.
_OBJECTION_EVERY = 10
_RETRY_SECONDS = 0.5


def address(number: int) -> str:
    """Return the address of a person, which also is the canary that the auditor looks for."""
    return f"chaos-person-{number}@example.org"


def _is_swayed(value: bytes) -> bool:
    confirmation = Confirmation.model_validate_json(value)
    counts = [getattr(system.outcome, "count", 0) for system in confirmation.systems]
    return confirmation.result is not RequestResult.FULFILLED or FORGED_COUNT in counts


class Portal:
    """Publishes requests at a pace."""

    def __init__(self, bootstrap: str, topics: Topics, seed: int, keys: tuple[SigningKey, SigningKey] | None = None) -> None:
        """`keys`: the portal's own, and another principal's for what is forged; None signs nothing."""
        self._bootstrap = bootstrap
        self._keys = keys
        self._topics = topics
        self._chance = random.Random(seed)
        self._producer: AIOKafkaProducer | None = None
        self.asked: list[str] = []
        self.poison: set[bytes] = set()
        #: What was said with a wrong signature, and the code that it must be set aside with.
        self.forged: dict[bytes, str] = {}

    async def say(self, count: int, seconds: float) -> None:
        """Publish so many requests, spread over so many seconds; what a dead broker held up is caught up."""
        started = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, started + seconds * number / count - time.monotonic()))
            if number % _POISON_EVERY == _POISON_EVERY // 2:
                await self._poison()
            right = Right.OBJECTION if number % _OBJECTION_EVERY == _OBJECTION_EVERY // 2 else Right.ERASURE
            made = request(right, email=address(len(self.asked)))
            topic = self._topics.requests_for(right)
            key, value, headers = made.subject_request_id.encode(), encode(made), self._headers(made)
            await self._send(topic, key, value, headers)
            self.asked.append(made.subject_request_id)
            if number % _REPEAT_EVERY == 0:
                await self._send(topic, key, value, headers)
            if number % _FORGED_EVERY == _FORGED_EVERY // 2:
                await self._forge(made)

    def _headers(self, made: SubmitRequest) -> Headers:
        if self._keys is None:
            return headers_of(made)
        return forged_headers("", self._topics.requests, made, *self._keys)

    async def _forge(self, asked: SubmitRequest) -> None:
        if self._keys is None:
            return
        wrong, withdrawn = forged_withdrawal(asked, len(self.forged))
        headers = forged_headers(wrong, self._topics.requests, withdrawn, *self._keys)
        value = encode(withdrawn)
        await self._send(self._topics.requests_for(asked.right), asked.subject_request_id.encode(), value, headers)
        self.forged[value] = FORGERIES[wrong]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def _poison(self) -> None:
        key = self.asked[-1].encode() if self.asked and self._chance.random() < 0.5 else b"poison"
        value = self._chance.choice((b"\xff\xfe not text", b"{", b'{"type":"NoSuchMessage","version":1}', b""))
        headers = [("dsr-type", b"SubmitRequest"), ("dsr-version", b"1")]
        topic = self._chance.choice((*self._topics.all_requests, self._topics.reports))
        value += str(len(self.poison)).encode()
        await self._send(topic, key, value, headers)
        self.poison.add(value)

    async def _send(self, topic: str, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """Publish until the broker says so. A second attempt may write the record twice: that is allowed."""
        while True:
            try:
                if self._producer is None:
                    made = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all")
                    await made.start()
                    self._producer = made
                await self._producer.send_and_wait(topic, value, key=key, headers=headers)
            except KafkaError:
                broken, self._producer = self._producer, None
                if broken is not None:
                    with contextlib.suppress(KafkaError):
                        await broken.stop()
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return


@dataclass(slots=True)
class Confirmations:
    """Every confirmation: its distinct bytes, and when the first of a request was written (Unix time), by partition."""

    bytes_of: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    progress: list[tuple[float, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def reading(self, bootstrap: str, topics: Topics) -> AsyncIterator[Confirmations]:
        """Read from the beginning while the block runs."""
        consumer = AIOKafkaConsumer(topics.confirmations, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        task = asyncio.create_task(self._read(consumer))
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            key = record.key.decode()
            if key not in self.bytes_of:
                self.progress.append((record.timestamp / 1000, record.partition))
            self.bytes_of[key].add(record.value)
            self.changed.set()

    async def until_all(self, wanted: set[str], seconds: float) -> bool:
        """Wait until all of these are confirmed, at most so long; tell whether they are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not wanted <= set(self.bytes_of):
                    self.changed.clear()
                    await self.changed.wait()
        return wanted <= set(self.bytes_of)

    async def until_more(self, seconds: float) -> None:
        """Wait until one more request is confirmed, at most so long."""
        known = len(self.bytes_of)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self.bytes_of) == known:
                    self.changed.clear()
                    await self.changed.wait()

    @property
    def doubled(self) -> list[str]:
        """Return the requests that have confirmations with different bytes."""
        return [request_id for request_id, found in self.bytes_of.items() if len(found) > 1]

    @property
    def swayed(self) -> list[str]:
        """Return the requests whose confirmation says what only forged words said."""
        return [request_id for request_id, found in self.bytes_of.items() if any(map(_is_swayed, found))]


async def set_aside(bootstrap: str, topics: Topics) -> dict[bytes, set[str]]:
    """Return what stands in quarantine with its codes, each content once: a crash may set a record aside a second time."""
    found: dict[bytes, set[str]] = defaultdict(set)
    async with connected(bootstrap, topics, only=(topics.quarantine,)) as log:
        async for record in log.read(await log.extent()):
            found[record.value or b""].add(dict(record.headers)["dsr-reason"].decode())
    return dict(found)


async def forged_reports(bootstrap: str, topics: Topics, systems: Iterable[str]) -> dict[bytes, str]:
    """Return the forged reports that the orders in the log led to, with the code that each must be set aside with."""
    async with connected(bootstrap, topics, only=[topics.orders(system) for system in systems]) as log:
        read = [decode(record.value, record.headers, ORDER_MESSAGES) async for record in log.read(await log.extent())]
    orders = [order for order in read if isinstance(order, FulfilmentOrder)]
    return expected(orders)
