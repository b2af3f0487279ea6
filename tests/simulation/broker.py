"""Kafka as the processes see it: partitions that only grow, committed offsets, a group that may move partitions at any time.

What it does to them: shows a record late, delivers again from the last commit, refuses commits of those it has evicted, takes
some of a batch and then loses the connection.

Room rules: bytes and offsets; no record is looked into, except to name its type in the schedule.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from connectors.sdk.bus import AckLost, Inbound, Outbound
from orchestrator.audit.records import LogRecord, Place
from orchestrator.ports import OutRecord, PublishFailed
from orchestrator.shell.keys_ahead import Listeners
from schemas.topics import Topics
from schemas.wire import TYPE_HEADER, Headers
from tests.simulation.chance import Chance
from tests.simulation.clockwork import START, VirtualLoop
from tests.simulation.life import Life, Schedule

__all__ = ["Broker", "Group", "Member", "Partition", "SimBus", "SimPublisher", "Stored"]

_START_MS = round(START.timestamp() * 1000)


class Partition(NamedTuple):
    """A topic's partition."""

    topic: str
    partition: int


@dataclass(slots=True)
class Stored:
    """One record in the log. `sequence` counts all records of the world, in the order in which they were written."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False)
    sequence: int = 0
    visible_at: int = 0

    def as_log_record(self) -> LogRecord:
        """Return it as the auditor reads it."""
        place = Place(self.topic, self.partition, self.offset)
        return LogRecord(place, self.timestamp, self.key, self.value, tuple(self.headers))


class Broker:
    """The log."""

    def __init__(self, loop: VirtualLoop, chance: Chance, schedule: Schedule, topics: Topics, partitions: int) -> None:
        self.loop = loop
        self.topics = topics
        self.partitions = partitions
        self.log: dict[Partition, list[Stored]] = defaultdict(list)
        self.groups: dict[str, Group] = {}
        self._chance = chance
        self._schedule = schedule
        self._sequence = 0
        self._listeners: list[Callable[[str], None]] = []
        #: Lives of workers that give keys ahead, by name; in a world without it there are none.
        self.ahead: dict[str, Listeners] | None = None

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call it with a topic's name when something new can be seen there."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[str], None]) -> None:
        """Stop that."""
        self._listeners.remove(listener)

    def append(
        self, who: str, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]
    ) -> Stored:
        """Write a record; readers may see it later."""
        number = 0 if topic == self.topics.quarantine else zlib.crc32(key or b"") % self.partitions
        log = self.log[Partition(topic, number)]
        self._sequence += 1
        hidden = self._chance.strikes("late record", self._chance.trouble.fault)
        visible_at = self.loop.micros + (round(self._chance.dice.uniform(0.1, 30.0) * 1e6) if hidden else 0)
        if log:
            visible_at = max(visible_at, log[-1].visible_at)
        stored = Stored(
            topic, number, len(log), _START_MS + self.loop.micros // 1000, key, value, list(headers), self._sequence, visible_at
        )
        log.append(stored)
        kind = dict(stored.headers).get(TYPE_HEADER, b"?").decode("ascii", "replace")
        late = f", seen {(visible_at - self.loop.micros) / 1e6:.1f} s later" if visible_at > self.loop.micros else ""
        short = (key or b"").decode("ascii", "replace")[:8]
        self._schedule.add(who, f"  -> {topic}-{number}-{stored.offset} {kind} {short}{late}")
        self.loop.call_at(visible_at / 1e6, self._tell, topic)
        return stored

    def _tell(self, topic: str) -> None:
        for listener in tuple(self._listeners):
            listener(topic)

    def visible(self, partition: Partition, position: int, at_most: int) -> list[Stored]:
        """Return what can be read from there."""
        found = self.log[partition][position : position + at_most] if partition in self.log else []
        return [record for record in found if record.visible_at <= self.loop.micros]

    def records(self, topic: str | None = None) -> list[Stored]:
        """Return all records, of one topic or of all, in the order in which they were written."""
        found = [r for partition, log in self.log.items() if topic in {None, partition.topic} for r in log]
        return sorted(found, key=lambda record: record.sequence)

    async def take(self, life: Life, records: Sequence[OutRecord | Outbound], lost: Callable[[], BaseException]) -> None:
        """Write records of a process and acknowledge all of them. Any prefix may be written when it fails or dies."""
        await life.step("before publishing", lost)
        for number, record in enumerate(records):
            if number:
                life.may_crash("in the middle of publishing")
                if self._chance.strikes("half published", self._chance.trouble.fault / 4):
                    life.say(f"connection lost after {number} of {len(records)} records [#{self._chance.numbers[-1]}]")
                    raise lost()
            self.append(life.name, record.topic, record.key, record.value, record.headers)
        await life.step("after publishing, before the ack", lost)

    def group(self, name: str, topics: Sequence[str]) -> Group:
        """Return the consumer group of that name."""
        if name not in self.groups:
            every = [Partition(topic, number) for topic in topics for number in range(self.partitions)]
            self.groups[name] = Group(self, name, every, self._chance, self._schedule)
        return self.groups[name]

    def lag(self) -> dict[str, int]:
        """Return how many records each group has not committed."""
        return {
            name: sum(len(self.log[p]) - group.committed.get(p, 0) for p in group.partitions if p in self.log)
            for name, group in self.groups.items()
        }


class Member(Protocol):
    """Who takes part in a group."""

    name: str

    def assigned(self, generation: int, partitions: list[Partition]) -> None:
        """Learn the generation and the partitions."""
        ...


class Group:
    """A consumer group: who owns which partition, and what is committed."""

    def __init__(self, broker: Broker, name: str, partitions: list[Partition], chance: Chance, schedule: Schedule) -> None:
        self.broker = broker
        self.name = name
        self.partitions = partitions
        self.committed: dict[Partition, int] = {}
        self.owner: dict[Partition, str] = {}
        self.generation = 0
        self.members: dict[str, Member | None] = {}
        self._chance = chance
        self._schedule = schedule

    def commit(self, generation: int, member: str, offsets: Mapping[Partition, int]) -> bool:
        """Commit, unless the member does not belong to this generation."""
        if generation != self.generation or self.members.get(member) is None:
            return False
        self.committed.update(offsets)
        text = ", ".join(f"{p.topic}-{p.partition}@{offset}" for p, offset in offsets.items())
        self._schedule.add(member, f"commits {text}")
        return True

    def join(self, consumer: Member) -> None:
        """Take part: a known member gets its old partitions back at once, for a new one all are dealt again."""
        known = consumer.name in self.members
        self.members[consumer.name] = consumer
        if known:
            self.sync(consumer)
        else:
            self.deal()

    def leave_after(self, name: str, seconds: float) -> None:
        """The member has died: if it is not back in time, the others get its partitions."""
        if name not in self.members:
            return
        self.members[name] = None
        self.broker.loop.call_later(seconds, self._expire, name)

    def _expire(self, name: str) -> None:
        if name in self.members and self.members[name] is None:
            del self.members[name]
            self.deal()

    def evict(self, name: str) -> None:
        """The member has been silent for too long: the others get its partitions, and it does not know."""
        if len(self.members) > 1 and name in self.members:
            self._schedule.add("broker", f"evicts {name}")
            del self.members[name]
            self.deal()

    def deal(self, unaware: str | None = None) -> None:
        """Give out all partitions again. The member `unaware` is not told."""
        self.generation += 1
        names = sorted(self.members)
        if not names:
            return
        shift = self._chance.dice.randrange(len(names))
        for number, partition in enumerate(self.partitions):
            self.owner[partition] = names[(number + shift) % len(names)]
        self._schedule.add("broker", f"deals {self.name}, generation {self.generation}: {', '.join(names)}")
        for name in names:
            consumer = self.members[name]
            if consumer is not None and name != unaware:
                self.sync(consumer)

    def sync(self, consumer: Member) -> None:
        """Tell a member its partitions; it reads on from what is committed."""
        mine = [partition for partition in self.partitions if self.owner.get(partition) == consumer.name]
        consumer.assigned(self.generation, mine)


class SimPublisher:
    """`orchestrator.ports.Publisher`."""

    def __init__(self, life: Life, broker: Broker) -> None:
        self._life = life
        self._broker = broker

    async def publish(self, records: Sequence[OutRecord]) -> None:
        """Write all, or raise when any of them may be out."""
        await self._broker.take(self._life, records, lambda: PublishFailed("the simulated broker did not answer"))

    async def aclose(self) -> None:
        """Nothing is open."""


class SimBus:
    """`connectors.sdk.bus.Bus`: one reader of one topic."""

    def __init__(
        self,
        life: Life,
        broker: Broker,
        topic: str,
        group: Group,
        at_once: int,
        on_commit: Callable[[Sequence[Inbound]], None],
    ) -> None:
        self._life = life
        self._broker = broker
        self._topic = topic
        self._group = group
        self._at_once = at_once
        self._on_commit = on_commit
        self._position: dict[Partition, int] = {}
        self._arrived = asyncio.Event()
        self.refused: Counter[str] = Counter()

    async def start(self) -> None:
        """Begin at the committed offsets."""
        await self._life.step("joining")
        self._rewind()
        self._broker.listen(self._heard)

    def _rewind(self) -> None:
        self._position = {partition: self._group.committed.get(partition, 0) for partition in self._group.partitions}

    async def stop(self) -> None:
        """Leave."""
        self._broker.unlisten(self._heard)

    def _heard(self, topic: str) -> None:
        if topic == self._topic:
            self._arrived.set()

    async def receive(self) -> Sequence[Inbound]:
        """Return what can be seen."""
        while True:
            self._arrived.clear()
            found: list[Stored] = []
            for partition, position in self._position.items():
                records = self._broker.visible(partition, position, self._at_once)
                self._position[partition] += len(records)
                found += records
            if found:
                await self._life.step("receiving")
                return [Inbound(r.topic, r.partition, r.offset, r.key, r.value, r.headers) for r in found]
            await self._arrived.wait()

    async def publish(self, records: Sequence[Outbound]) -> None:
        """Write all, or raise when any of them may be out."""
        await self._broker.take(self._life, records, lambda: AckLost("the simulated broker did not answer"))

    async def commit(self, records: Sequence[Inbound]) -> None:
        """Commit; a refusal is no error, and what was refused is delivered again."""
        await self._life.step("before committing offsets")
        if self._life.chance.strikes("refused commit", self._life.chance.trouble.fault):
            self._life.say(f"commit refused: the group has rebalanced [#{self._life.chance.numbers[-1]}]")
            self._rewind()
            self._arrived.set()
            return
        offsets: dict[Partition, int] = {}
        for record in records:
            partition = Partition(record.topic, record.partition)
            offsets[partition] = max(offsets.get(partition, 0), record.offset + 1)
        self._group.committed.update(offsets)
        self._on_commit(records)
        await self._life.step("after committing offsets")

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Return what was not received."""
        return {
            (partition.topic, partition.partition): len(self._broker.log[partition]) - position
            for partition, position in self._position.items()
            if partition in self._broker.log
        }
