"""What a connector may ask of whoever runs it, while it works on one job: a turn to call, and a safe place for a find.

The runtime enters a `Work` around each call of a connector's method; `http.send` takes a turn before every request, so the
limits of a system count requests and not orders. Outside the runtime (a test, a dry run) both functions do nothing.

Room rules: no Kafka, no journal, no system by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Protocol

from schemas.vocabulary import IdentifierKind

__all__ = ["Work", "entered", "remember", "take_turn"]


class Work(Protocol):
    """One job under way, as the runtime sees it."""

    async def take_turn(self) -> None:
        """Wait until the system allows one more call. Raises `Throttled` if that is not today."""
        ...

    async def remember(self, found: Mapping[IdentifierKind, tuple[str, ...]]) -> None:
        """Keep identifiers, sealed, so that they are yielded even if this process dies before it reports."""
        ...


_current: ContextVar[Work | None] = ContextVar("connectors_work", default=None)


@contextlib.contextmanager
def entered(work: Work) -> Iterator[None]:
    """Make `work` the current one, for this task and those it starts."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


async def take_turn() -> None:
    """Wait for the system's next free slot. `http.send` does this; call it yourself only if you do not use `send`."""
    work = _current.get()
    if work is not None:
        await work.take_turn()


async def remember(found: Mapping[IdentifierKind, tuple[str, ...]]) -> None:
    """Keep identifiers found in what is about to be destroyed. Call it *before* an erasure.

    After a crash the erased record is gone, and with it the ids by which other systems know the person.
    """
    work = _current.get()
    if work is not None and found:
        await work.remember(found)
