"""Faust's consumer with a batch inbox and a commit guard.

Faust keeps what it is good at: membership, assignment, rebalancing, the commit timer. What it loses records by is replaced
here, in one class of one pinned version: whole fetched batches are handed over instead of single events (so there is no list
of acked offsets with holes in it), batches are acknowledged strictly in order, and every commit passes a guard.

Partitions take turns, in what is fetched and in every batch: a poll begins with the partitions of which nothing waits here, and
goes on for those also when the rest is full; a batch takes some of every partition that waits (`FairQueue.take` has the bound).
So a record that the client has fetched is here after the poll that is under way, and the number of batches before its own
follows from what stands before it in its own partition alone.

Room rules: no record is looked into. An upgrade of Faust or aiokafka must pass `tests/integration/test_guards.py`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from mode.utils.futures import notify

from orchestrator.shell.fair_queue import Batch, FairQueue
from orchestrator.shell.points import Points
from schemas.metrics import COMMITS_REFUSED, Metrics

__all__ = ["BatchConsumer", "BatchTransport", "Deck", "end_process"]

log = structlog.get_logger(__name__)

_TWINS = "does another live worker use the same instance id?"

#: Exit status of a worker that could not go on without losing something. A supervisor starts it again.
EX_SOFTWARE = 70
#: So long a poll lasts at most while some partitions wait for room: then it is looked for again.
_LOOK_AGAIN_SECONDS = 0.05


def end_process(reason: str) -> None:
    """End at once, without an orderly stop: that would commit. The next life replays from the last commit."""
    log.critical("worker_ends", action="exit", reason=reason)
    os._exit(EX_SOFTWARE)


class Deck(Protocol):
    """What the consumer needs from its worker; hung on the Faust app as `app.deck`."""

    metrics: Metrics
    #: Why the worker ends; nothing is committed any more once it is set.
    ended: str | None
    #: Fetching pauses while so many records, or so many bytes of them, wait for their turn.
    queue_records: int
    queue_bytes: int
    commits_refused_at_most: int
    points: Points | None

    def die(self, reason: str) -> None:
        """End the process without a commit."""
        ...


class BatchConsumer(driver.Consumer):  # type: ignore[misc] # faust has no types
    """Hands over fetched batches; commits only what is done, from the front."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting = FairQueue()
        self._taken: deque[Batch] = deque()
        self._done: dict[Any, int] = {}
        self._something = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self._refusals: deque[float] = deque()
        self.last_commit_at: dict[Any, float] = {}
        super().__init__(*args, **kwargs)

    @property
    def deck(self) -> Deck:
        """Return what the worker gave."""
        deck: Deck = self.app.deck
        return deck

    # Fetching ------------------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Replace the per-message callback: queue what was fetched, and stop fetching for what has no room."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                if self._waiting and not self._with_room(self._get_active_partitions()):
                    self._space.clear()
                    await self.wait_first(self._space.wait(), self.suspend_flow.wait())
                records, active = await self._wait_next_records(1.0)
                if not self.flow_active:
                    await self._seek_back()
                    continue
                for tp, fetched in (records or {}).items():
                    self._queue(ensure_TP(tp), fetched, active)
                await asyncio.sleep(0)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise
        except Exception as error:
            log.exception("fetching_failed")
            self.deck.die(f"fetching failed: {type(error).__name__}")

    def _with_room(self, partitions: Iterable[Any]) -> set[Any]:
        """Return those that may be fetched for: all while there is room, and always those of which nothing waits."""
        is_full = self._waiting.is_full(self.deck.queue_records, self.deck.queue_bytes)
        return {tp for tp in partitions if not (is_full and self._waiting.waits(tp))}

    async def _getmany(self, active_partitions: set[Any] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        """Poll, for those first of which nothing waits; what has no room stays in the client and at the broker."""
        active = active_partitions or set()
        wanted = self._with_room(active)
        empty = {tp for tp in wanted if not self._waiting.waits(tp)}
        # An empty set would mean every partition to the client.
        if empty and empty != wanted and (found := await super()._getmany(empty, 0.0)):
            return found
        if not wanted:
            return {}
        return await super()._getmany(wanted, timeout if len(wanted) == len(active) else _LOOK_AGAIN_SECONDS)

    async def _seek_back(self) -> None:
        """Drop what was fetched while the flow stood still; it is fetched again. A failed seek follows an assignment."""
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - any client error while rebalancing; the assignment seeks again
            log.warning("seek_failed", error_type=type(error).__name__)
            await asyncio.sleep(0.05)

    def _queue(self, tp: Any, fetched: list[Any], active: Iterable[Any] | None) -> None:
        if active is not None and tp not in active:
            return
        expected = self._read_offset[tp]
        new = [record for record in fetched if expected is None or record.offset >= expected]
        if new:
            self._read_offset[tp] = new[-1].offset + 1
            self._waiting.add(tp, new)
            self._something.set()

    # Handing over --------------------------------------------------------------------------------------------------------

    async def take(self, at_most: int) -> list[Batch]:
        """Wait for records and return the next batch of them, in turns (`FairQueue.take`): no more than `at_most` records."""
        while not self._waiting:
            self._something.clear()
            await self._something.wait()
        taken = self._waiting.take(at_most)
        self._unacked_messages.update(taken)
        self._taken.extend(taken)
        self._space.set()
        return taken

    @property
    def records_waiting(self) -> int:
        """Return how many records were fetched and not taken yet."""
        return self._waiting.records

    def ack_batches(self, batches: Iterable[Batch]) -> None:
        """Mark batches as done. They must be the oldest taken ones: anything else would commit past unfinished work."""
        for batch in batches:
            if not self._taken or self._taken[0] is not batch:
                self.deck.die(f"{batch!r} was acknowledged out of order")
                return
            self._taken.popleft()
            batch.acked = True
            self._unacked_messages.discard(batch)
            self._done[batch.tp] = batch.next_offset
        notify(self._waiting_for_ack)

    def stop_flow(self) -> None:
        """Drop what nobody has started on; it will be fetched again."""
        super().stop_flow()
        self._waiting.clear()
        self._space.set()

    # Committing ----------------------------------------------------------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> list[Any]:
        return [tp for tp in self._done if topics is None or tp in topics or tp.topic in topics]

    def _new_offset(self, tp: Any) -> int | None:
        return self._done.pop(tp, None)

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        """Commit, past the guard."""
        for tp, offset in offsets.items():
            if any(batch.tp == tp and batch.offset < offset for batch in self._taken):
                self.deck.die(f"a commit of {tp.topic}-{tp.partition} at {offset} would pass unfinished records")
                return False
        if self._thread._consumer._coordinator.generation < 0:  # noqa: SLF001 - no public way to ask
            # Evicted: Kafka accepts a commit of generation -1 into an empty group, which could rewind it.
            self._refused("not a member of the group any more")
            return False
        if self.deck.points is not None:
            await self.deck.points.at("before_commit")
        committed: bool = await super()._commit(offsets)
        if self.deck.points is not None:
            await self.deck.points.at("after_commit")
        if committed:
            self.last_commit_at.update(dict.fromkeys(offsets, time.monotonic()))
        else:
            self._refused("the group has rebalanced")
        return committed

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what is done, unless the worker is ending."""
        if self.deck.ended is not None:
            return False
        committed: bool = await super().commit(topics, start_new_transaction)
        return committed

    async def wait_empty(self) -> None:
        """Wait until what was taken is done; a worker that ends has nothing to wait for, because nobody will do it."""
        if self.deck.ended is None:
            await super().wait_empty()

    async def committed_offsets(self, ends: Mapping[Any, int]) -> dict[Any, int]:
        """Return up to where each of these partitions is committed; one without a commit yet is so up to its first record."""
        offsets = {tp: self._committed_offset[tp] for tp in ends}
        new = [tp for tp, offset in offsets.items() if offset is None and ends[tp] > 0]
        first: Mapping[Any, int] = {}
        if new:
            try:
                first = await self.earliest_offsets(*new)
            except KafkaError as error:
                log.warning("first_offsets_unknown", error_type=type(error).__name__)
        return {tp: first.get(tp, 0) if offset is None else offset for tp, offset in offsets.items()}

    def _refused(self, why: str) -> None:
        """Count refusals: one is what a woken zombie gets, many mean two live processes with one instance id."""
        self.deck.metrics.count(COMMITS_REFUSED)
        log.warning("commit_refused", reason=why)
        now = time.monotonic()
        self._refusals.append(now)
        while self._refusals and now - self._refusals[0] > 30:
            self._refusals.popleft()
        if len(self._refusals) > self.deck.commits_refused_at_most:
            self.deck.die(f"commits are refused again and again: {_TWINS}")

    def refused_by_group(self) -> str | None:
        """Return why the group will not have this worker, or None.

        aiokafka stops coordinating after an error it cannot mend (fenced by a twin, not authorised) until somebody polls
        through its own API, which Faust never does: the worker would live on, healthy to look at, with no partitions.
        """
        client = self._thread._consumer  # noqa: SLF001 - no public way to ask without consuming it
        coordinator = None if client is None else client._coordinator  # noqa: SLF001 - as above
        error = getattr(coordinator, "_pending_exception", None)  # none before the client has joined
        if error is None:
            return None
        if "UnknownError" in str(error):
            # aiokafka knows no code for FENCED_INSTANCE_ID (82), and the brokers' other codes here it knows.
            return f"fenced out of the group: {_TWINS}"
        return f"the group's coordinator refuses this worker: {type(error).__name__}"

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Forget what was done under an earlier assignment."""
        self._done.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: Faust's detectors watch stream sensors that stay empty here; the watchdog looks at lag instead."""


class BatchTransport(driver.Transport):  # type: ignore[misc] # faust has no types
    """Faust's aiokafka transport with our consumer."""

    Consumer = BatchConsumer
