"""A bus in memory, for tests of a runtime and for simulations: one topic log per name, one reader.

Room rules: behaves as the real one towards the runtime; faults are switched, never random.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from connectors.sdk.bus import AckLost, Inbound, Outbound
from schemas.wire import Headers

__all__ = ["MemoryBus"]


class MemoryBus:
    """Implements `connectors.sdk.bus.Bus` for the topic it reads."""

    def __init__(self, topic: str, *, records_at_once: int = 500) -> None:
        self.topic = topic
        #: Everything published, in order.
        self.published: list[Outbound] = []
        #: The first offset not committed.
        self.committed = 0
        #: While set, `publish` writes nothing and raises `AckLost`.
        self.acks_lost = False
        self._log: list[Inbound] = []
        self._position = 0
        self._records_at_once = records_at_once
        self._arrived = asyncio.Event()

    def put(self, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> None:
        """Append a record to the topic that the runtime reads."""
        self._log.append(Inbound(self.topic, 0, len(self._log), key, value, headers or []))
        self._arrived.set()

    def rewind(self) -> None:
        """Deliver again from the last committed offset, as after a restart."""
        self._position = self.committed
        self._arrived.set()

    async def start(self) -> None:
        """Begin at the committed offset."""
        self.rewind()

    async def stop(self) -> None:
        """Nothing is open."""

    async def receive(self) -> Sequence[Inbound]:
        """Wait for records and return them."""
        while self._position >= len(self._log):
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._log[self._position : self._position + self._records_at_once]
        self._position += len(batch)
        return batch

    async def publish(self, records: Sequence[Outbound]) -> None:
        """Append all, or none and raise."""
        await asyncio.sleep(0)
        if self.acks_lost:
            raise AckLost("the memory bus was told to lose acks")
        self.published.extend(records)

    async def commit(self, records: Sequence[Inbound]) -> None:
        """Remember the offset behind the last record."""
        self.committed = max([self.committed, *(record.offset + 1 for record in records)])

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Return the records not yet received."""
        return {(self.topic, 0): len(self._log) - self._position}
