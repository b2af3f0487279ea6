"""What the auditor reads: records with their places, and the extent of what there was to read.

Room rules: data only; a record's bytes never show in its `repr`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

__all__ = ["Extent", "Log", "LogRecord", "Place", "Span"]


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record as the broker keeps it."""

    place: Place
    timestamp_ms: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


class Span(NamedTuple):
    """The offsets of one partition that are read: from `beginning`, up to and without `end`."""

    beginning: int
    end: int


#: The span of each partition, by (topic, partition).
Extent = Mapping[tuple[str, int], Span]


class Log(Protocol):
    """A log that can be read more than once: live from a broker, from a dump, or from memory."""

    async def extent(self) -> Extent:
        """Return what there is to read now. Inputs are measured before effects, so that no effect lacks its input."""
        ...

    def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        """Yield every record of the extent: in order per partition, roughly by time across partitions."""
        ...
