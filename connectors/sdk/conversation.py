"""Say something on a topic of somebody else's broker, and look up what was answered under the same key on others.

For systems that are spoken to by records. `conversation_kafka` is the implementation; a connector sees this Protocol.

Room rules: bytes and names only; no system by name, no library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from schemas.wire import Headers

__all__ = ["Conversation", "Heard"]


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest record of a key on one topic."""

    topic: str
    value: bytes = field(repr=False)
    headers: Headers = field(default_factory=list, repr=False)


class Conversation(Protocol):
    """A topic to speak on, or some, and some to look into. May be called by several orders at once. Raises `ConnectorError`."""

    async def check(self) -> str:
        """Return one line on the topics; raises `SystemRejected` where one is missing. Says nothing on the bus."""
        ...

    async def say(self, key: bytes, value: bytes, headers: Headers, *, rather_on: str | None = None) -> None:
        """Publish a record and await the broker's ack. Returning does not imply that anybody has read it.

        It goes to the topic `rather_on` where their broker has that one and shows it to us.
        """
        ...

    async def heard(self, key: bytes) -> Mapping[str, Heard]:
        """Return the newest record under the key, by topic, as of now; topics without one are absent."""
        ...

    async def aclose(self) -> None:
        """Close what was opened."""
        ...
