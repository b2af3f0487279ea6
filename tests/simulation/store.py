"""`orchestrator.ports.Store` in memory. The database outlives the processes; each life has a connection of its own.

Room rules: passes the same contract suite as the SQL store (`tests/contract/test_store_contract.py`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from orchestrator.adapters.sql.outbox import pack, unpack
from orchestrator.ports import (
    Census,
    Change,
    Conflict,
    Deaths,
    Gate,
    Holding,
    Known,
    OutboxBatch,
    Refusal,
    Row,
    ServiceKey,
    Wanted,
)
from schemas.errors import StoreUnavailable
from schemas.metric_labels import KeyState

__all__ = ["Database", "SimStore"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Called before and after each statement takes effect: may wait, fail, or never return.
Step = Callable[[str, Callable[[], BaseException] | None], Awaitable[None]]


async def _at_once(_where: str, _fault: object) -> None:
    """Nothing goes wrong."""


@dataclass(slots=True)
class Database:
    """What is on the disk."""

    rows: dict[str, Row] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    identities: dict[str, bytes] = field(default_factory=dict)
    outbox: dict[int, tuple[str, datetime, bytes]] = field(default_factory=dict)
    registries: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[Refusal, datetime] = field(default_factory=dict)
    deaths: dict[Refusal, Deaths] = field(default_factory=dict)
    #: When a worker's life began, and how many before it did not end in order.
    lives: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    gate: Gate = field(default_factory=Gate)
    service_keys: dict[str, ServiceKey] = field(default_factory=dict)
    next_id: int = 1
    #: Switched off only to show that the simulation notices.
    checks_versions: bool = True
    #: Told of every save before it happens.
    watch: Callable[[Change], None] = lambda _change: None
    _next_wake: datetime | None = None
    _is_fresh: bool = False

    def next_wake_at(self) -> datetime | None:
        """Return the earliest stored moment."""
        if not self._is_fresh:
            self._next_wake = min((row.wake_at for row in self.rows.values() if row.wake_at is not None), default=None)
            self._is_fresh = True
        return self._next_wake

    def commit(self, change: Change) -> int | None:
        """Do all of it, or raise `Conflict` and do nothing."""
        self.watch(change)
        rows = {row.subject_request_id: replace(row, version=self._next_version(row)) for row in change.rows}
        groups = {person: self._next_group(person, version, change.now) for person, version in change.subjects.items()}
        if self.checks_versions and (self.rows.keys() & change.absent or self.refusals.keys() & set(change.refusals)):
            raise Conflict
        self.rows |= rows
        self.groups |= groups
        self.identities |= change.sealed
        for request in change.forgotten:
            self.identities.pop(request, None)
        still_there = {row.person for row in self.rows.values()}
        for person in change.left_subjects - still_there:
            self.groups.pop(person, None)
        for batch in change.published:
            self.outbox.pop(batch, None)
        self.refusals |= dict.fromkeys(change.refusals, change.now)
        self._is_fresh = False
        if not change.records:
            return None
        self.next_id += 1
        self.outbox[self.next_id - 1] = (change.worker, change.now, pack(change.records))
        return self.next_id - 1

    def _next_version(self, row: Row) -> int:
        stored = self.rows.get(row.subject_request_id)
        if self.checks_versions and stored is not None and stored.version != row.version:
            raise Conflict
        return row.version + 1

    def _next_group(self, person: str, version: int, now: datetime) -> int:
        stored = self.groups.get(person)
        if self.checks_versions and stored is not None and stored != version:
            raise Conflict
        return version + 1 if version else ((now - _EPOCH) // timedelta(microseconds=1)) << 12


def _lost() -> StoreUnavailable:
    return StoreUnavailable("the simulated store did not answer")


class SimStore:
    """A worker's connection."""

    def __init__(self, database: Database, step: Step = _at_once) -> None:
        self.database = database
        self._step = step

    async def know(self, wanted: Wanted) -> Known:
        """Return all that a batch needs; other workers may save between its parts."""
        await self._step("before know", _lost)
        rows = self._rows(wanted.requests)
        await self._step("between rows and groups", _lost)
        of_companions = (rows[one].person for one in wanted.companions & rows.keys())
        persons = wanted.persons.union(person for person in of_companions if person is not None)
        groups = {person: self._open(person) for person in sorted(persons)}
        versions = {person: self.database.groups.get(person, 0) for person in groups}
        await self._step("between groups and identities", _lost)
        seen = (*rows.values(), *(row for group in groups.values() for row in group))
        waiting = {row.subject_request_id for row in seen if ":waiting" in row.awaited}
        known = Known(
            rows=rows,
            refusals=frozenset(r for r in self.database.refusals if _is_inside(r, wanted.spans)),
            groups=groups,
            group_versions=versions,
            identities=self._identities(wanted.identities | waiting),
        )
        await self._step("after know", None)
        return known

    def _rows(self, ids: Iterable[str]) -> dict[str, Row]:
        return {request: self.database.rows[request] for request in sorted(set(ids)) if request in self.database.rows}

    def _identities(self, ids: Iterable[str]) -> dict[str, bytes]:
        return {one: self.database.identities[one] for one in sorted(set(ids)) if one in self.database.identities}

    async def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """Return the stored rows of these requests."""
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        await self._step("before load", _lost)
        found = self._rows(wanted)
        await self._step("after load", None)
        return found

    def _open(self, person: str) -> list[Row]:
        found = [row for row in self.database.rows.values() if row.person == person and row.phase == "active"]
        return sorted(found, key=lambda row: (row.received_at, row.subject_request_id))

    async def identities(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Return the sealed identities of these requests."""
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        await self._step("before identities", _lost)
        return self._identities(wanted)

    async def holdings(self, ids: Iterable[str]) -> dict[str, Holding]:
        """Return what is asked before a key is given out."""
        wanted = sorted(set(ids) & self.database.rows.keys())
        await self._step("before holdings", _lost)
        rows, sealed = self.database.rows, self.database.identities
        return {request: Holding(rows[request].phase, rows[request].awaited, sealed.get(request)) for request in wanted}

    async def commit(self, change: Change) -> int | None:
        """Save in one transaction. The answer may be lost although the transaction was not."""
        await self._step("before the save", _lost)
        outbox_id = self.database.commit(change)
        await self._step("after the save", _lost)
        return outbox_id

    async def forget_refusals(self, before: datetime) -> None:
        """Forget old refusals."""
        await self._step("before forgetting refusals", _lost)
        kept = {refusal: saved_at for refusal, saved_at in self.database.refusals.items() if saved_at >= before}
        self.database.refusals = kept
        self.database.deaths = {record: died for record, died in self.database.deaths.items() if died.last_at >= before}

    async def add_deaths(self, records: Iterable[Refusal], at: datetime) -> None:
        """Count one more life that ends at each of these records."""
        await self._step("before counting deaths", _lost)
        for record in records:
            before = self.database.deaths.get(record)
            before = before or Deaths(0, at)
            self.database.deaths[record] = replace(before, count=before.count + 1, last_at=at)
        await self._step("after counting deaths", _lost)

    async def hold(self, record: Refusal, at: datetime) -> None:
        """Count one more life that ends at a record without a word."""
        before = self.database.deaths.get(record) or Deaths(0, at)
        self.database.deaths[record] = replace(before, last_at=at, silent=before.silent + 1)

    async def spare(self, record: Refusal) -> None:
        """Take back what `hold` counted."""
        died = self.database.deaths.pop(record, None)
        left = None if died is None else replace(died, silent=max(0, died.silent - 1))
        if left is not None and left.ends:
            self.database.deaths[record] = left

    async def begin_life(self, worker: str, at: datetime, soon: timedelta) -> int:
        """Note that a life begins; return how many before it did not end in order."""
        before = self.database.lives.get(worker)
        ends = 0 if before is None else before[1] + 1 if at - before[0] < soon else 1
        self.database.lives[worker] = at, ends
        return ends

    async def end_life(self, worker: str) -> None:
        """Note that a life ends in order."""
        self.database.lives.pop(worker, None)

    async def deaths(self) -> dict[Refusal, Deaths]:
        """Return every record at which lives have ended."""
        await self._step("before deaths", _lost)
        return dict(self.database.deaths)

    async def gate(self) -> Gate:
        """Return whether records may go to quarantine."""
        return self.database.gate

    async def set_gate(self, gate: Gate) -> None:
        """Shut or open the gate."""
        self.database.gate = gate

    async def due(self, now: datetime, limit: int) -> list[str]:
        """Return requests whose moment has come."""
        await self._step("before due", _lost)
        found = [(row.wake_at, row.subject_request_id) for row in self.database.rows.values() if row.wake_at is not None]
        return [request for at, request in sorted(found) if at <= now][:limit]

    async def unpublished(self, worker: str, older_than: datetime) -> list[OutboxBatch]:
        """Return outbox batches of this worker, and old ones of any."""
        await self._step("before unpublished", _lost)
        return [
            OutboxBatch(number, owner, unpack(packed))
            for number, (owner, saved_at, packed) in sorted(self.database.outbox.items())
            if owner == worker or saved_at < older_than
        ]

    async def published(self, outbox_ids: Iterable[int]) -> None:
        """Forget outbox batches that are out."""
        ids = list(outbox_ids)
        if not ids:
            return
        await self._step("before forgetting the outbox", _lost)
        for number in ids:
            self.database.outbox.pop(number, None)
        await self._step("after forgetting the outbox", _lost)

    async def keep_registry(self, digest: str, body: bytes) -> None:
        """Keep a registry."""
        self.database.registries.setdefault(digest, body)

    async def registries(self) -> dict[str, bytes]:
        """Return every registry kept."""
        return dict(self.database.registries)

    async def service_keys(self) -> list[ServiceKey]:
        """Return every key of the installation."""
        return sorted(self.database.service_keys.values(), key=lambda key: (key.created_at, key.kid))

    async def add_service_key(self, key: ServiceKey) -> None:
        """Keep a key, unless its name is taken."""
        self.database.service_keys.setdefault(key.kid, key)

    async def destroy_service_key(self, kid: str, at: datetime) -> None:
        """Forget the wrapped key."""
        key = self.database.service_keys.get(kid)
        if key is not None and key.wrapped is not None:
            self.database.service_keys[kid] = replace(key, wrapped=None, destroyed_at=at)

    async def identities_after(self, request: str, limit: int) -> dict[str, bytes]:
        """Return the next sealed identities."""
        names = sorted(name for name in self.database.identities if name > request)[:limit]
        return {name: self.database.identities[name] for name in names}

    async def wrapped_by(self) -> dict[str, int]:
        """Return the number of identities by the name of the key that wrapped each."""
        return dict(Counter(json.loads(sealed.partition(b"\n")[0])["kid"] for sealed in self.database.identities.values()))

    async def exchange(
        self, identities: Mapping[str, tuple[bytes, bytes]], service_keys: Mapping[str, tuple[bytes, bytes]]
    ) -> int:
        """Put new bytes where the old ones still stand."""
        there = {name: new for name, (old, new) in identities.items() if self.database.identities.get(name) == old}
        self.database.identities |= there
        known = self.database.service_keys
        keys = {kid: new for kid, (old, new) in service_keys.items() if kid in known and known[kid].wrapped == old}
        for kid, new in keys.items():
            known[kid] = replace(known[kid], wrapped=new)
        return len(there) + len(keys)

    async def census(self, now: datetime, keys_grow_old: timedelta = timedelta(days=120)) -> Census:
        """Return the counts for the gauges."""
        counts: dict[tuple[str, str], int] = {}
        oldest: dict[str, datetime] = {}
        due: dict[tuple[str, str], int] = {}
        awaited: dict[tuple[str, str], int] = {}
        for row in self.database.rows.values():
            if row.phase == "closed":
                continue
            counts[row.phase, row.right] = counts.get((row.phase, row.right), 0) + 1
            if row.received_at is not None:
                oldest[row.phase] = min(row.received_at, oldest.get(row.phase, row.received_at))
            bucket = _bucket(row, now)
            due[row.right, bucket] = due.get((row.right, bucket), 0) + 1
            for item in filter(None, row.awaited.split(",")):
                system, _, phase = item.partition(":")
                awaited[system, phase] = awaited.get((system, phase), 0) + 1
        wakes = sum(row.wake_at is not None and row.wake_at <= now for row in self.database.rows.values())
        keys = dict.fromkeys(map(str, KeyState), 0)
        for request in self.database.identities:
            row = self.database.rows[request]
            is_old = row.received_at is not None and row.received_at < now - keys_grow_old
            keys[KeyState.LEFT_OVER if row.phase == "closed" else KeyState.OLD if is_old else KeyState.CURRENT] += 1
        return Census(counts, oldest, due, awaited, len(self.database.outbox), wakes, keys)

    async def scrub(self) -> None:
        """Memory has no log."""

    async def ping(self) -> None:
        """Answer."""

    async def aclose(self) -> None:
        """Nothing is open."""


def _is_inside(refusal: Refusal, spans: Mapping[tuple[str, int], tuple[int, int]]) -> bool:
    first, last = spans.get((refusal.topic, refusal.partition), (0, -1))
    return first <= refusal.offset <= last


def _bucket(row: Row, now: datetime) -> str:
    if row.due_at is None:
        return "15+"
    days = math.floor((row.due_at - now) / timedelta(days=1))
    return next((name for name, end in (("overdue", 0), ("0-2", 3), ("3-7", 8), ("8-14", 15)) if days < end), "15+")
