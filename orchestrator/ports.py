"""What the shell needs from the world, as Protocols: a store, keys, a publisher, a clock, something that counts.

Room rules: shapes and promises, no implementation. Each promise is tested by a contract suite that every implementation,
simulated ones included, passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from schemas.ids import digest
from schemas.sealed import Sealed, SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind
from schemas.wire import Headers

__all__ = [
    "Backlog",
    "Census",
    "Change",
    "Clock",
    "Conflict",
    "Deaths",
    "Gate",
    "Holding",
    "KeyEncryption",
    "Keys",
    "Known",
    "OutRecord",
    "OutboxBatch",
    "PublishFailed",
    "Publisher",
    "Record",
    "Refusal",
    "Row",
    "ServiceKey",
    "Store",
    "Wanted",
]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read. `repr` leaves the bytes out."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(default_factory=list, repr=False)

    @property
    def source(self) -> str:
        """Return `topic-partition-offset`."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    def refusal(self) -> Refusal:
        """Return what is remembered of this record if it is refused."""
        content = b"%d|%b|%b" % (self.timestamp_ms, self.key or b"", self.value or b"")
        return Refusal(self.topic, self.partition, self.offset, digest(content))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that was set aside or refused: read again after a crash, it stays so, whatever has changed meanwhile.

    Of a record at which a life ended it is the name as well.

    `content` tells it from a record that stands at the same offset of a topic that was deleted and made again.
    """

    topic: str
    partition: int
    offset: int
    content: str


@dataclass(frozen=True, slots=True)
class Deaths:
    """How many lives of workers have ended at a record by a defect of our own, and when the last one did.

    `count` by an exception, `silent` without a word while they had it in hand; in hand now counts as well.
    """

    count: int
    last_at: datetime
    silent: int = 0

    @property
    def ends(self) -> int:
        """Return how many in all."""
        return self.count + self.silent


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether records may go to quarantine: shut since a worker passed its limit `at_most`, or open for any number."""

    shut_at: datetime | None = None
    at_most: int | None = None
    open_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """What is asked of a request before a key of it is given out: its columns, and its sealed identity while it is open."""

    phase: str
    awaited: str
    sealed: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """A key of the installation itself. `wrapped` is None once it is destroyed; the name stays."""

    kid: str
    #: What it is for, for instance `grouping`.
    purpose: str
    created_at: datetime
    public: bytes | None = None
    wrapped: bytes | None = field(default=None, repr=False)
    destroyed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutRecord:
    """One record to be published."""

    topic: str
    key: bytes = field(repr=False)
    value: bytes = field(repr=False)
    headers: Headers = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One request as stored. `version` counts its saves, 0 means not stored yet."""

    subject_request_id: str
    version: int
    state: bytes = field(repr=False)
    #: Columns by which rows are found; all of them follow from the state.
    phase: str = ""
    right: str = ""
    person: str | None = field(default=None, repr=False)
    wake_at: datetime | None = None
    due_at: datetime | None = None
    received_at: datetime | None = None
    #: Systems awaited, as `system:phase` joined by commas.
    awaited: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a batch needs to know before it is decided."""

    requests: frozenset[str] = frozenset()
    #: The first and the last offset of each topic's partition that the batch comes from.
    spans: Mapping[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    #: Whose open requests are looked at: by the person's hash, and by one of the person's requests.
    persons: frozenset[str] = field(default=frozenset(), repr=False)
    companions: frozenset[str] = frozenset()
    #: Whose sealed identity will be opened, beside those that have an order waiting.
    identities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the store knows of it."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    refusals: frozenset[Refusal] = frozenset()
    #: The open requests of each person, the oldest first, and the version of each person's group (0: none).
    groups: Mapping[str, Sequence[Row]] = field(default_factory=dict, repr=False)
    group_versions: Mapping[str, int] = field(default_factory=dict, repr=False)
    identities: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class OutboxBatch:
    """Records that one save asked to publish, in order."""

    outbox_id: int
    worker: str
    records: tuple[OutRecord, ...]


@dataclass(slots=True)
class Change:
    """One transaction: all of it or nothing.

    `rows` carry the version they were loaded with. `subjects` are the groups of one person's requests that a decision looked
    at, with the version it saw: two decisions about one person cannot both go through unseen by each other. `sealed` stores
    identities, `forgotten` destroys them. `records` become one outbox batch; `published` are batches that are out by now.
    `refusals` are the records that were not carried out; one that is stored already conflicts. `absent` are requests that a
    refusal took for unknown; one that is stored by now conflicts.
    """

    worker: str
    now: datetime
    rows: list[Row] = field(default_factory=list)
    subjects: dict[str, int] = field(default_factory=dict)
    left_subjects: set[str] = field(default_factory=set)
    sealed: dict[str, bytes] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)
    records: list[OutRecord] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Census:
    """Counts for the gauges: open requests by phase and right, the oldest of each phase, due dates, awaited systems."""

    open_requests: Mapping[tuple[str, str], int]
    oldest: Mapping[str, datetime]
    due: Mapping[tuple[str, str], int]
    awaited: Mapping[tuple[str, str], int]
    outbox: int
    due_wakes: int
    #: Keys of requests by `KeyState`: every word of it, 0 where there is none.
    keys: Mapping[str, int] = field(default_factory=dict)


class Conflict(Exception):
    """Another worker saved one of the rows first: load again and decide again. Nothing was saved."""


class Store(Protocol):
    """Transactional memory of requests. May raise `schemas.errors.StoreUnavailable`; then nothing was saved."""

    async def know(self, wanted: Wanted) -> Known:
        """Return all that a batch needs, in one transaction that only reads: asked for one by one, the asking costs most.

        The sealed identities are those asked for, and those of every row returned that has an order waiting. Each part is as of
        one moment; what is saved between two parts makes the batch's own save conflict.
        """
        ...

    async def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """Return the stored rows of these requests; unknown ones are absent."""
        ...

    async def identities(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Return the sealed identities of these requests; forgotten ones are absent."""
        ...

    async def holdings(self, ids: Iterable[str]) -> dict[str, Holding]:
        """Return phase, awaited systems and sealed identity of these requests, each as of one moment; unknown ones are absent.

        Answers beside whatever else the store is doing.
        """
        ...

    async def commit(self, change: Change) -> int | None:
        """Save in one transaction and return the id of the outbox batch, if there are records.

        Raises `Conflict` if a version is not the one loaded.
        """
        ...

    async def forget_refusals(self, before: datetime) -> None:
        """Forget refusals and deaths saved before a moment: only those of records that no topic keeps any more."""
        ...

    async def add_deaths(self, records: Iterable[Refusal], at: datetime) -> None:
        """Count one more life that ends at each of these records."""
        ...

    async def hold(self, record: Refusal, at: datetime) -> None:
        """Count one more life that ends at a record without a word, before it does: `spare` takes it back."""
        ...

    async def spare(self, record: Refusal) -> None:
        """Take back what `hold` counted: the life did not end."""
        ...

    async def begin_life(self, worker: str, at: datetime, soon: timedelta) -> int:
        """Note that a life of this worker begins; return how many before it did not end in order, one after the other.

        Only those count that were followed by the next within `soon` of their own beginning.
        """
        ...

    async def end_life(self, worker: str) -> None:
        """Note that this worker's life ends in order."""
        ...

    async def deaths(self) -> dict[Refusal, Deaths]:
        """Return every record at which lives have ended: there are few, if any."""
        ...

    async def gate(self) -> Gate:
        """Return whether records may go to quarantine; of a new store, an ordinary gate."""
        ...

    async def set_gate(self, gate: Gate) -> None:
        """Shut or open the gate, for all workers of this store."""
        ...

    async def due(self, now: datetime, limit: int) -> list[str]:
        """Return requests whose `wake_at` has come, the longest overdue first."""
        ...

    async def unpublished(self, worker: str, older_than: datetime) -> list[OutboxBatch]:
        """Return outbox batches of this worker, and of any worker if saved before `older_than`."""
        ...

    async def published(self, outbox_ids: Iterable[int]) -> None:
        """Forget outbox batches that the broker has acknowledged."""
        ...

    async def keep_registry(self, digest: str, body: bytes) -> None:
        """Keep a registry for as long as plans refer to it. Repeating is harmless."""
        ...

    async def registries(self) -> dict[str, bytes]:
        """Return every registry kept, by digest."""
        ...

    async def service_keys(self) -> list[ServiceKey]:
        """Return every key of the installation, destroyed ones included, the oldest first."""
        ...

    async def add_service_key(self, key: ServiceKey) -> None:
        """Keep a key. One that has its `kid` already stays as it is: read again to see which one it is."""
        ...

    async def destroy_service_key(self, kid: str, at: datetime) -> None:
        """Forget the wrapped key for ever; its name, its public half and the moment stay. Repeating changes nothing."""
        ...

    async def identities_after(self, request: str, limit: int) -> dict[str, bytes]:
        """Return the next sealed identities by id, those behind `request` and at most so many; none: there are no more."""
        ...

    async def wrapped_by(self) -> dict[str, int]:
        """Return how many sealed identities each key-encryption key has wrapped, by its name; `""`: none can be told."""
        ...

    async def exchange(
        self, identities: Mapping[str, tuple[bytes, bytes]], service_keys: Mapping[str, tuple[bytes, bytes]]
    ) -> int:
        """Put the second of each pair where the first one still stands, in one transaction; return how many were put.

        By request and by `kid`. What was saved, forgotten or destroyed meanwhile stays as it is, and what a transaction is
        just working on is passed by: nobody waits for this one in a circle.
        """
        ...

    async def census(self, now: datetime, keys_grow_old: timedelta = timedelta(days=120)) -> Census:
        """Return the counts for the gauges; the key of a request received longer ago than `keys_grow_old` is old."""
        ...

    async def scrub(self) -> None:
        """Make what was forgotten unrecoverable from the database's own files, where it can do that on demand.

        Does nothing if nothing was forgotten since the last call. What it cannot reach: backups, and PostgreSQL's dead rows
        and log until VACUUM and recycling have passed over them (`docs/operations.md`).
        """
        ...

    async def ping(self) -> None:
        """Raise `StoreUnavailable` if the store does not answer."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class PublishFailed(Exception):
    """The broker did not acknowledge every record: some may be out. The process must end without a commit."""


class Publisher(Protocol):
    """Sends records through an idempotent producer."""

    async def publish(self, records: Sequence[OutRecord]) -> None:
        """Return when the broker has acknowledged every record. Raises `PublishFailed`."""
        ...

    async def aclose(self) -> None:
        """Close the producer."""
        ...


class Backlog(Protocol):
    """Tells how far the workers have read the topics of requests."""

    async def positions(self) -> tuple[Mapping[tuple[str, int], int], Mapping[tuple[str, int], int]]:
        """Return, by topic and partition, the offset after the last record, and that before which every record was processed.

        Raises `OrchestratorError` if the broker does not answer.
        """
        ...


class KeyEncryption(Protocol):
    """Wraps keys before they are stored. What comes out of `unwrap` must not leave the process's memory."""

    def wrap(self, secret: bytes, context: str) -> bytes:
        """Return `secret` wrapped for one place."""
        ...

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """Return what was wrapped for this place. Raises `ConfigurationError` for a key that we lack, `RowDamaged` else."""
        ...

    def is_current(self, wrapped: bytes) -> bool:
        """Tell whether the current key wrapped it. Raises `RowDamaged` if nothing did."""
        ...

    def holds(self, kid: str) -> bool:
        """Tell whether a key of this name is at hand."""
        ...

    def give_up(self, kid: str) -> None:
        """Take this name for damage from now on, not for a key that we lack."""
        ...


class Keys(Protocol):
    """Opens and seals identities. Values that come out of `open_*` must not leave the process's memory."""

    def open_intake(self, subject_request_id: str, sealed: str) -> SubjectData:
        """Open what a portal sealed. Raises `ProtocolViolation(identity_unreadable)`, at `sealed.kid` if it lacks the key."""
        ...

    def new_request_key(self) -> SealingKey:
        """Return a fresh random key for one request."""
        ...

    def seal_stored(self, subject_request_id: str, key: SealingKey, finds: Sequence[SubjectData]) -> bytes:
        """Seal what was found of a person, in the order of finding, for the store, with the request's key wrapped before it."""
        ...

    def open_stored(self, subject_request_id: str, stored: bytes) -> tuple[SealingKey, tuple[SubjectData, ...]]:
        """Return the request's key and what the store kept.

        Raises `RowDamaged` if that does not open, `ConfigurationError` if the key that wrapped it is not at hand.
        """
        ...

    def request_key(self, subject_request_id: str, stored: bytes) -> SealingKey:
        """Return a request's key, from what the store keeps of it. Raises as `open_stored` does; the seal stays closed."""
        ...

    def seal_order(
        self, subject_request_id: str, system: str, order_id: str, root: SealingKey, data: SubjectData, *, terms: str
    ) -> Sealed:
        """Seal what one system needs under the order's root, bound to its order and to its `order_terms`.

        The same data under the same terms gives the same bytes.
        """
        ...

    def open_yielded(self, subject_request_id: str, system: str, order_id: str, key: SealingKey, sealed: Sealed) -> SubjectData:
        """Open identifiers that a connector found. Raises `ProtocolViolation(identity_unreadable)`."""
        ...

    def person(self, identifiers: Mapping[IdentifierKind, tuple[str, ...]]) -> str | None:
        """Return the keyed hash that groups one person's requests, or None if nothing identifies the person."""
        ...

    def identity(self, identifiers: Mapping[IdentifierKind, tuple[str, ...]]) -> str:
        """Return the keyed hash of everything that identifies the person, in whatever order it is given."""
        ...

    def patch(self, data: SubjectData) -> str | None:
        """Return the keyed hash of what is to be changed, or None if nothing is."""
        ...


class Clock(Protocol):
    """Tells the time and waits."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
