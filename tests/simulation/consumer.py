"""The worker's consumer: the shipped `BatchConsumer`'s own methods between a simulated fetcher and a simulated commit.

Room rules: what Faust and aiokafka do is ours here; what the product added to them is borrowed as it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from orchestrator.shell.consumer import BatchConsumer
from orchestrator.shell.fair_queue import Batch, FairQueue
from tests.simulation.broker import Group, Partition
from tests.simulation.life import Life

__all__ = ["SimConsumer"]


class SimConsumer:
    """What `faust_app._drain` takes from: the shipped `BatchConsumer`'s own methods between a simulated fetcher and commit."""

    take = BatchConsumer.take
    records_waiting = BatchConsumer.records_waiting
    _queue = BatchConsumer._queue
    _filter_tps_with_pending_acks = BatchConsumer._filter_tps_with_pending_acks
    _new_offset = BatchConsumer._new_offset

    def __init__(self, life: Life, group: Group, deck: Any, fetch_at_most: int) -> None:
        self.name = life.name
        self.deck = deck
        self.generation = -1
        self._life = life
        self._group = group
        self._fetch_at_most = fetch_at_most
        self._mine: list[Partition] = []
        self._pending: tuple[int, list[Partition]] | None = None
        self._waiting = FairQueue()
        self._taken: deque[Batch] = deque()
        self._done: dict[Partition, int] = {}
        self._something = asyncio.Event()
        self._space = asyncio.Event()
        self._has_done = asyncio.Event()
        self._arrived = asyncio.Event()
        self._unacked_messages: set[Batch] = set()
        self._read_offset: dict[Partition, int | None] = {}
        self._waiting_for_ack = None

    def ack_batches(self, batches: Iterable[Batch]) -> None:
        """Mark batches as done."""
        BatchConsumer.ack_batches(self, batches)  # type: ignore[arg-type] # has all that it touches
        self._has_done.set()
        if self._pending is not None and not self._taken:
            self._begin(*self._pending)

    def assigned(self, generation: int, partitions: list[Partition]) -> None:
        """Take part in a generation once what is at work is done (Faust's `stream_wait_empty`); begin nothing before."""
        self._mine = []
        self._waiting.clear()
        self._pending = generation, partitions
        if not self._taken:
            self._begin(generation, partitions)

    def _begin(self, generation: int, partitions: list[Partition]) -> None:
        """Begin at the committed offsets; what was fetched and not begun is fetched again."""
        self._pending = None
        self.generation = generation
        self._mine = partitions
        self._done.clear()
        self._read_offset = {partition: self._group.committed.get(partition, 0) for partition in partitions}
        self._arrived.set()

    async def fetch(self) -> None:
        """Fetch for ever."""
        self._group.broker.listen(self._heard)
        try:
            while True:
                self._arrived.clear()
                got = await self._fetch_once()
                if not got:
                    await self._arrived.wait()
        finally:
            self._group.broker.unlisten(self._heard)

    def _heard(self, _topic: str) -> None:
        self._arrived.set()

    async def _fetch_once(self) -> int:
        got = 0
        generation = self.generation
        for partition in list(self._mine):
            records = self._group.broker.visible(partition, self._read_offset.get(partition) or 0, self._fetch_at_most)
            if not records:
                continue
            await self._life.step("fetching")
            if generation != self.generation:
                return 1
            self._queue(partition, records, self._mine)  # type: ignore[misc] # borrowed
            got += len(records)
        return got

    async def commit(self, seconds: float) -> None:
        """Commit what is done, for ever, as Faust's timer does; one that is refused learns that it was evicted."""
        while True:
            await self._has_done.wait()
            await asyncio.sleep(seconds)
            self._has_done.clear()
            partitions = self._filter_tps_with_pending_acks()  # type: ignore[misc] # borrowed
            offsets = {partition: self._new_offset(partition) for partition in partitions}  # type: ignore[misc] # borrowed
            passing = [batch for batch in self._taken if batch.offset < offsets.get(batch.tp, 0)]
            if passing:
                self.deck.die("a commit would pass unfinished records")
                return
            generation = self.generation
            await self._life.step("before committing offsets")
            if offsets and not self._group.commit(generation, self.name, offsets):
                self._life.say("commit refused: the group has rebalanced")
                self._rejoin()
            await self._life.step("after committing offsets")

    @property
    def _is_behind(self) -> bool:
        generation = self.generation if self._pending is None else self._pending[0]
        return generation != self._group.generation

    def _rejoin(self) -> None:
        if self.name not in self._group.members or self._group.members[self.name] is not self:
            self._group.join(self)
        else:
            self._group.sync(self)

    async def beat(self) -> None:
        """Notice by the heartbeat, every three seconds while there is a reason, that the group has moved on."""
        while True:
            await self._life.loop.doze(3.0, lambda: 0 if self._is_behind else None)
            await self._life.step("heartbeat")
            if self._is_behind:
                self._life.say("learns that it is not in the group any more")
                self._rejoin()
