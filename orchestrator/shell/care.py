"""A record that ends the process without an exception, by its memory or a fault in native code, is found by elimination.

Nothing can be counted after such an end, so it must be written down before. That costs two saves a record, so it is done only
by a life that has reason to: the lives before it ended without a word, one soon after the other. For its first minute it takes
each record alone, and says in the store which one it has in hand, from before it is read until it is decided. What is still in
hand in the next life is counted as an end at that record, and after some of them it is set aside unread, as any other record at
which our own code fails (`orchestrator.shell.defects`).

Whoever is killed for another reason (a node that goes down, a probe) leaves something in hand only if it happens within that
millisecond; for an innocent record it would have to happen so often, always there.

Room rules: notes and asks; what becomes of a record is the inbox's to carry out.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from orchestrator.ports import Clock, Record, Refusal, Store

__all__ = ["CARE", "Care", "ProcessEnded"]

log = structlog.get_logger(__name__)

#: Ends without a word count that come so soon after their life began.
_SOON = timedelta(minutes=10)
#: So long a life is careful. What has ended the lives before is among the first records that it reads.
CARE = timedelta(minutes=1)


class ProcessEnded(Exception):
    """Processes end while they try a record, without an exception."""


class Care:
    """One life of a worker, and how carefully it goes about its records."""

    def __init__(self, store: Store, clock: Clock, worker: str, *, lives: int = 3, after: int = 2) -> None:
        """`lives`: so many may end at one record before it is not tried any more.

        `after`: so many ends without a word, one after the other, make the next life careful; 0: none ever is.
        """
        self._store = store
        self._clock = clock
        self._worker = worker
        self._lives = lives
        self._after = after
        self._until: datetime | None = None
        self._in_hand: Refusal | None = None

    async def begin(self) -> None:
        """Say that a life begins, before it takes anything in. Raises `StoreUnavailable`."""
        now = self._clock.now()
        ends = await self._store.begin_life(self._worker, now, _SOON)
        if ends >= self._after > 0:
            self._until = now + CARE
            log.warning("careful", action="records are tried one by one for a minute", tries=ends)

    async def end(self) -> None:
        """Say that it ends in order. Raises `StoreUnavailable`; then the next life takes it for one without a word."""
        await self._store.end_life(self._worker)

    @property
    def is_on(self) -> bool:
        """Tell whether records are to be tried one by one."""
        return self._until is not None and self._clock.now() < self._until

    async def is_deadly(self, record: Record) -> bool:
        """Tell whether so many lives have ended at a record without a word that it must not be tried again."""
        died = (await self._store.deaths()).get(record.refusal())
        return died is not None and died.silent >= self._lives

    async def take(self, record: Record) -> None:
        """Write down that a record is in hand. Until `let_go`, the end of this process counts as an end at it."""
        name = record.refusal()
        await self._store.hold(name, self._clock.now())
        self._in_hand = name

    def holds(self, record: Record | None) -> bool:
        """Tell whether this record is in hand."""
        return self._in_hand is not None and record is not None and self._in_hand == record.refusal()

    async def let_go(self) -> None:
        """Write down that what is in hand has not ended the process."""
        assert self._in_hand is not None, "something is in hand"
        await self._store.spare(self._in_hand)
        self._in_hand = None
