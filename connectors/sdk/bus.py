"""The bus as the runtime sees it: receive, publish with every ack awaited, commit. Kafka and a simulation implement it.

Room rules: bytes and names only; no record's `repr` shows its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.errors import OrchestratorError
from schemas.wire import Headers

__all__ = ["AckLost", "Bus", "Inbound", "Outbound"]


class AckLost(OrchestratorError):
    """The broker did not acknowledge a record in time: end the process; the next one publishes it again."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One record received."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Outbound:
    """One record to publish."""

    topic: str
    key: bytes = field(repr=False)
    value: bytes = field(repr=False)
    headers: Headers = field(default_factory=list, repr=False)


class Bus(Protocol):
    """What carries orders and reports."""

    async def start(self) -> None:
        """Join. Returning does not imply that partitions are assigned yet."""
        ...

    async def stop(self) -> None:
        """Leave, without committing anything that `commit` was not called for."""
        ...

    async def receive(self) -> Sequence[Inbound]:
        """Return the next batch; empty after a short wait without records."""
        ...

    async def publish(self, records: Sequence[Outbound]) -> None:
        """Publish all and await every broker ack. Raises `AckLost`; then any of them may or may not be in the log."""
        ...

    async def commit(self, records: Sequence[Inbound]) -> None:
        """Commit the offsets behind these records. A refusal is not an error: the records come again and are known."""
        ...

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Return how many records lie behind the last received one, by topic and partition, as far as known."""
        ...
