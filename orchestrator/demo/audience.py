"""Reads what the orchestrator answers, publishes what portals and operators say, and keeps the score.

Room rules: Kafka clients only; what an answer means to the story is decided there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from orchestrator.adapters.clock import SystemClock
from orchestrator.demo.story import MALFORMED, Story
from schemas.base import Message
from schemas.commands import Command
from schemas.confirmations import Confirmation
from schemas.signatures import sign_records, speaker_of
from schemas.status import StatusEvent
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.wire import encode, headers_of

__all__ = ["Audience", "Score"]


_CLOCK = SystemClock()


@dataclass(slots=True)
class Score:
    """What was heard so far. A record that is heard again counts once."""

    published: dict[str, datetime] = field(default_factory=dict)
    confirmations: dict[str, dict[bytes, datetime]] = field(default_factory=dict)
    status: dict[str, list[StatusEvent]] = field(default_factory=dict)
    #: What was set aside, with why and where from.
    quarantined: dict[bytes, str] = field(default_factory=dict)

    @property
    def confirmed(self) -> int:
        """Return how many requests have their confirmation."""
        return len(self.confirmations.keys() & self.published.keys())

    @property
    def lost(self) -> list[str]:
        """Return requests without a confirmation."""
        return [request for request in self.published if request not in self.confirmations]

    @property
    def doubled(self) -> list[str]:
        """Return requests with more than one distinct confirmation."""
        return [request for request, bodies in self.confirmations.items() if len(bodies) > 1]

    def confirmation(self, request: str) -> Confirmation | None:
        """Return the confirmation of a request, None if it has none yet."""
        bodies = self.confirmations.get(request)
        return None if not bodies else Confirmation.model_validate_json(next(iter(bodies)))

    def took(self, request: str) -> float | None:
        """Return the seconds from publishing to the first confirmation."""
        bodies = self.confirmations.get(request)
        return None if not bodies else (min(bodies.values()) - self.published[request]).total_seconds()


@dataclass(slots=True)
class Audience:
    """The portals and operators of the story, connected to the broker."""

    bootstrap: str
    topics: Topics
    story: Story
    #: Told of every new status event and confirmation.
    hears: Callable[[StatusEvent | Confirmation], None]
    #: The signing key of a principal.
    key_of: Callable[[str], SigningKey]
    score: Score = field(default_factory=Score)
    _producer: AIOKafkaProducer = field(init=False)
    _reading: asyncio.Task[None] = field(init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Audience]:
        """Read, and answer, while the block runs."""
        topics = self.topics
        self._producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True)
        consumer = AIOKafkaConsumer(
            topics.status,
            topics.confirmations,
            topics.quarantine,
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
        )
        async with self._producer, consumer:
            self._reading = asyncio.create_task(self._read(consumer))
            try:
                yield self
            finally:
                self._reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._reading

    async def publish_all(self) -> None:
        """Publish every request of the story, and the record that is none, in one go."""
        sent = []
        for request in self.story.requests:
            self.score.published[request.subject_request_id] = _CLOCK.now()
            sent.append(await self._send(request))
        sent.append(await self._producer.send(self.topics.requests, MALFORMED, key=b"malformed"))
        await asyncio.gather(*sent)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for something about the score; tell whether it came true in time. Raises what ended the reading."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            if self._reading.done():
                self._reading.result()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, 0.5))
        return True

    async def _send(self, message: Message) -> asyncio.Future[object]:
        request = str(getattr(message, "subject_request_id", ""))
        key = request.encode()
        by_right = self.topics.requests_for(self.story.scenes[request].right)
        topic = self.topics.commands if isinstance(message, Command) else by_right
        plain = (topic, key, encode(message), headers_of(message))
        (headers,) = sign_records([plain], self.key_of(speaker_of(message)))
        sent: asyncio.Future[object] = await self._producer.send(topic, plain[2], key=key, headers=headers)
        return sent

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            request = (record.key or b"").decode(errors="replace")
            if record.topic == self.topics.quarantine:
                said = {name: value.decode() for name, value in record.headers if name.startswith("dsr-")}
                why = " ".join(said.get(f"dsr-{name}", "") for name in ("reason", "field"))
                self.score.quarantined[record.value] = f"{why.strip()} from {said.get('dsr-origin-topic', 'an unknown topic')}"
            elif record.topic == self.topics.status:
                await self._status(StatusEvent.model_validate_json(record.value))
            elif record.value not in self.score.confirmations.setdefault(request, {}):
                self.score.confirmations[request][record.value] = _CLOCK.now()
                self.hears(Confirmation.model_validate_json(record.value))
            self._changed.set()

    async def _status(self, event: StatusEvent) -> None:
        heard = self.score.status.setdefault(event.subject_request_id, [])
        if event in heard:
            return
        heard.append(event)
        self.hears(event)
        for answer in self.story.reactions(event):
            await (await self._send(answer))
