"""`orchestrator.ports.Store` on SQLAlchemy Core: the same statements for SQLite and PostgreSQL.

All calls of one store run in one thread of its own, in order: the event loop never waits for a disk, and a worker never
races with itself. Beside it, each in a thread and with a connection of its own: the census, which reads every open request and
decides nothing, and the questions of those who ask for keys, which must not wait for a batch.

Room rules: statements only; no decision, no clock. Parameters never appear in an error.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cache
from time import monotonic, sleep
from typing import Any, TypeVar

from sqlalchemy import (
    BindParameter,
    Connection,
    Engine,
    TextClause,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from orchestrator.adapters.sql.census import take_census
from orchestrator.adapters.sql.instants import instant as _instant
from orchestrator.adapters.sql.instants import micros as _micros
from orchestrator.adapters.sql.outbox import pack, unpack
from orchestrator.adapters.sql.tables import (
    deaths,
    gates,
    identities,
    lives,
    outbox,
    refusals,
    registries,
    requests,
    service_keys,
    subjects,
)
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
from schemas.vocabulary import OrderPhase
from schemas.write_ahead import write_ahead

__all__ = ["SqlStore", "make_engine"]

T = TypeVar("T")
#: How PostgreSQL's client notices a server that went silent; without, a call would wait for ever. The URL's query wins.
_IMPATIENCE = {
    "connect_timeout": 5,
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    # And one that waits for somebody's lock, or works on one statement without end. A worker holds none between two calls.
    "options": "-c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s",
}
_GATE = "quarantine"
#: How `awaited` names an order that is not sent yet.
_WAITING = f":{OrderPhase.WAITING}"
_WRAPPED = re.compile(rb'\{"kid":"(kek-[0-9a-f]{8})"')
#: More ids than this in one statement are asked in several.
_CHUNK = 500
# Built once: building a statement takes longer than SQLite needs to answer it.
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_BY_ID = select(requests).where(requests.c.subject_request_id.in_(_IDS))
_GROUPS = select(subjects).where(subjects.c.person.in_(_IDS))
_OPEN_OF_PERSONS = (
    select(requests)
    .where(requests.c.person.in_(_IDS), requests.c.phase == "active")
    .order_by(requests.c.received_at, requests.c.subject_request_id)
)
_HOLDINGS = (
    select(requests.c.subject_request_id, requests.c.phase, requests.c.awaited, identities.c.sealed)
    .outerjoin(identities, identities.c.subject_request_id == requests.c.subject_request_id)
    .where(requests.c.subject_request_id.in_(_IDS))
)
_NEXT_SEALED = (
    select(identities)
    .where(identities.c.subject_request_id > bindparam("after"))
    .order_by(identities.c.subject_request_id)
    .limit(bindparam("at_most"))
)
_FREE_IDENTITIES = (
    select(identities.c.subject_request_id).where(identities.c.subject_request_id.in_(_IDS)).with_for_update(skip_locked=True)
)
_FREE_SERVICE_KEYS = select(service_keys.c.kid).where(service_keys.c.kid.in_(_IDS)).with_for_update(skip_locked=True)
_EXCHANGE_IDENTITY = (
    update(identities)
    .where(identities.c.subject_request_id == bindparam("of"), identities.c.sealed == bindparam("old"))
    .values(sealed=bindparam("new"))
)
_EXCHANGE_SERVICE_KEY = (
    update(service_keys)
    .where(service_keys.c.kid == bindparam("of"), service_keys.c.wrapped == bindparam("old"))
    .values(wrapped=bindparam("new"))
)
#: A wrapped key begins with the name of what wrapped it, always as long.
_WRAPPED_BY = select(func.substr(identities.c.sealed, 1, len('{"kid":"kek-00000000"')), func.count()).group_by(text("1"))
_SEALED_BY_ID = select(identities).where(identities.c.subject_request_id.in_(_IDS))


def make_engine(url: str) -> Engine:
    """Return an engine for a SQLAlchemy URL: `sqlite:///path` or `postgresql+psycopg://...`."""
    given = make_url(url)
    is_sqlite = given.get_backend_name() == "sqlite"
    connect = {} if is_sqlite else {name: value for name, value in _IMPATIENCE.items() if name not in given.query}
    engine = create_engine(
        # Two stay open: the store's own and that of the questions for keys; the census comes and goes.
        given,
        hide_parameters=True,
        pool_size=2,
        max_overflow=1,
        pool_pre_ping=not is_sqlite,
        connect_args=connect,
    )
    if is_sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once, where something may be written: a lock wanted later could be refused."""
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    # Pages of 8 KiB, in a new file: a state of a request with four systems just misses one of 4.
    for pragma in ("busy_timeout=5000", "page_size=8192"):
        cursor.execute(f"PRAGMA {pragma}")
    write_ahead(cursor, now=monotonic, wait=sleep)
    for pragma in ("synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class SqlStore:
    """Requests, sealed identities and the outbox in one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: True at first: an earlier life may have forgotten something and ended before it scrubbed.
        self._must_scrub = engine.dialect.name == "sqlite"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._census_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="census")
        self._holdings_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="holdings")
        dialect: Any = postgresql if engine.dialect.name == "postgresql" else sqlite
        self._upsert_request = _upsert_versioned(dialect.insert(requests), requests.c.subject_request_id, requests.c.version)
        self._upsert_subject = _upsert_versioned(dialect.insert(subjects), subjects.c.person, subjects.c.version)
        sealed = dialect.insert(identities)
        self._upsert_identity = sealed.on_conflict_do_update(
            index_elements=[identities.c.subject_request_id], set_={"sealed": sealed.excluded.sealed}
        )
        gate = dialect.insert(gates)
        self._upsert_gate = gate.on_conflict_do_update(
            index_elements=[gates.c.name],
            set_={name: gate.excluded[name] for name in ("shut_at", "at_most", "open_until")},
        )
        death = dialect.insert(deaths)
        self._count_death = death.on_conflict_do_update(
            index_elements=list(deaths.primary_key),
            set_={"count": deaths.c.count + 1, "last_at": death.excluded.last_at},
        )
        self._hold = death.on_conflict_do_update(
            index_elements=list(deaths.primary_key),
            set_={"silent": deaths.c.silent + 1, "last_at": death.excluded.last_at},
        )
        life = dialect.insert(lives)
        self._begin_life = life.on_conflict_do_update(
            index_elements=[lives.c.worker], set_={name: life.excluded[name] for name in ("begun_at", "ends")}
        )
        self._insert_registry = dialect.insert(registries).on_conflict_do_nothing()
        self._insert_service_key = dialect.insert(service_keys).on_conflict_do_nothing()

    async def _run(self, work: Callable[[Connection], T], *, reads: bool = False, aside: ThreadPoolExecutor | None = None) -> T:
        """Do `work` in one transaction. `reads`: nothing is written; `aside`: in this thread, beside what is going on."""

        def call() -> T:
            try:
                with self._engine.connect().execution_options(reads=reads) as connection, connection.begin():
                    return work(connection)
            except IntegrityError:
                raise Conflict from None
            except DBAPIError as error:
                raise StoreUnavailable(f"the store did not answer ({type(error.orig).__name__})") from None
            except SQLAlchemyError as error:
                raise StoreUnavailable(f"the store did not answer ({type(error).__name__})") from None

        return await asyncio.get_running_loop().run_in_executor(aside or self._thread, call)

    async def know(self, wanted: Wanted) -> Known:
        """Return all that a batch needs."""

        def work(connection: Connection) -> Known:
            rows = _load(connection, wanted.requests)
            of_companions = (rows[one].person for one in wanted.companions if one in rows)
            groups, versions = _groups(
                connection, wanted.persons.union(person for person in of_companions if person is not None)
            )
            seen = (*rows.values(), *(row for group in groups.values() for row in group))
            waiting = (row.subject_request_id for row in seen if _WAITING in row.awaited)
            return Known(
                rows=rows,
                # After the rows: a record that is refused from a state later than theirs makes the save conflict.
                refusals=_refusals(connection, wanted.spans),
                groups=groups,
                group_versions=versions,
                identities=_identities(connection, wanted.identities.union(waiting)),
            )

        return await self._run(work, reads=True)

    async def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """Return the stored rows of these requests."""
        wanted = list(ids)
        return await self._run(lambda connection: _load(connection, wanted), reads=True) if wanted else {}

    async def identities(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Return the sealed identities of these requests."""
        wanted = list(ids)
        return await self._run(lambda connection: _identities(connection, wanted), reads=True) if wanted else {}

    async def holdings(self, ids: Iterable[str]) -> dict[str, Holding]:
        """Return what is asked before a key is given out."""
        wanted = list(ids)

        def work(connection: Connection) -> dict[str, Holding]:
            found: dict[str, Holding] = {}
            for chunk in _chunks(wanted):
                for request, phase, awaited, sealed in connection.execute(_HOLDINGS, {"ids": chunk}):
                    found[request] = Holding(phase, awaited, None if sealed is None else bytes(sealed))
            return found

        return await self._run(work, reads=True, aside=self._holdings_thread) if wanted else {}

    async def commit(self, change: Change) -> int | None:
        """Save in one transaction."""
        return await self._run(lambda connection: self._commit(connection, change))

    def _commit(self, connection: Connection, change: Change) -> int | None:
        if change.refusals:
            _refuse(connection, change)
        if change.rows:
            # One order for all workers, so that two transactions cannot lock each other's rows.
            values = [_values(row) for row in sorted(change.rows, key=lambda row: row.subject_request_id)]
            _require(connection.execute(self._upsert_request, values).rowcount, len(values))
        if change.subjects:
            # A new group starts at the moment's number, not at 1: who looked at an earlier group of the person conflicts.
            # Shifted, so that a group that was counted on never reaches the number of a later one.
            new = _micros(change.now) << 12
            seen = [
                {"person": person, "version": version + 1 if version else new}
                for person, version in sorted(change.subjects.items())
            ]
            _require(connection.execute(self._upsert_subject, seen).rowcount, len(seen))
        if change.sealed:
            connection.execute(
                self._upsert_identity,
                [{"subject_request_id": request, "sealed": sealed} for request, sealed in sorted(change.sealed.items())],
            )
        if change.forgotten and self._engine.dialect.name == "sqlite":
            self._must_scrub = True
        for chunk in _chunks(sorted(change.forgotten)):
            connection.execute(delete(identities).where(identities.c.subject_request_id.in_(chunk)))
        for chunk in _chunks(sorted(change.left_subjects)):
            still_there = select(requests.c.person).where(requests.c.person.in_(chunk))
            connection.execute(delete(subjects).where(subjects.c.person.in_(chunk), subjects.c.person.not_in(still_there)))
        for ids in _chunks(change.published):
            connection.execute(delete(outbox).where(outbox.c.outbox_id.in_(ids)))
        if not change.records:
            return None
        values_ = {"worker": change.worker, "saved_at": _micros(change.now), "records": pack(change.records)}
        inserted = connection.execute(outbox.insert(), values_).inserted_primary_key
        assert inserted is not None
        return int(inserted[0])

    async def forget_refusals(self, before: datetime) -> None:
        """Forget old refusals."""

        def work(connection: Connection) -> None:
            connection.execute(delete(refusals).where(refusals.c.saved_at < _micros(before)))
            connection.execute(delete(deaths).where(deaths.c.last_at < _micros(before)))

        await self._run(work)

    async def add_deaths(self, records: Iterable[Refusal], at: datetime) -> None:
        """Count one more life that ends at each of these records."""
        values = [asdict(record) | {"count": 1, "silent": 0, "last_at": _micros(at)} for record in records]
        if values:
            await self._run(lambda connection: connection.execute(self._count_death, values))

    async def hold(self, record: Refusal, at: datetime) -> None:
        """Count one more life that ends at a record without a word."""
        values = asdict(record) | {"count": 0, "silent": 1, "last_at": _micros(at)}
        await self._run(lambda connection: connection.execute(self._hold, values))

    async def spare(self, record: Refusal) -> None:
        """Take back what `hold` counted."""
        is_it = and_(*(deaths.c[name] == value for name, value in asdict(record).items()))

        def work(connection: Connection) -> None:
            connection.execute(update(deaths).where(is_it, deaths.c.silent > 0).values(silent=deaths.c.silent - 1))
            connection.execute(delete(deaths).where(is_it, deaths.c.silent < 1, deaths.c.count < 1))

        await self._run(work)

    async def begin_life(self, worker: str, at: datetime, soon: timedelta) -> int:
        """Note that a life begins; return how many before it did not end in order."""

        def work(connection: Connection) -> int:
            before = connection.execute(select(lives).where(lives.c.worker == worker)).first()
            ends = 0
            if before is not None:
                is_soon = _micros(at) - before.begun_at < soon // timedelta(microseconds=1)
                ends = before.ends + 1 if is_soon else 1
            connection.execute(self._begin_life, {"worker": worker, "begun_at": _micros(at), "ends": ends})
            return ends

        return await self._run(work)

    async def end_life(self, worker: str) -> None:
        """Note that a life ends in order."""
        await self._run(lambda connection: connection.execute(delete(lives).where(lives.c.worker == worker)))

    async def deaths(self) -> dict[Refusal, Deaths]:
        """Return every record at which lives have ended."""

        def work(connection: Connection) -> dict[Refusal, Deaths]:
            found: dict[Refusal, Deaths] = {}
            for *name, count, last_at, silent in connection.execute(select(deaths)):
                at = _instant(last_at)
                assert at is not None, "the column is not nullable"
                found[Refusal(*name)] = Deaths(count, at, silent)
            return found

        return await self._run(work, reads=True)

    async def gate(self) -> Gate:
        """Return whether records may go to quarantine."""
        row = await self._run(lambda connection: connection.execute(select(gates).where(gates.c.name == _GATE)).first())
        return Gate() if row is None else Gate(_instant(row.shut_at), row.at_most, _instant(row.open_until))

    async def set_gate(self, gate: Gate) -> None:
        """Shut or open the gate."""
        shut_at, open_until = (at and _micros(at) for at in (gate.shut_at, gate.open_until))
        values = {"name": _GATE, "shut_at": shut_at, "at_most": gate.at_most, "open_until": open_until}
        await self._run(lambda connection: connection.execute(self._upsert_gate, values))

    async def due(self, now: datetime, limit: int) -> list[str]:
        """Return requests whose moment has come."""
        query = (
            select(requests.c.subject_request_id)
            .where(requests.c.wake_at <= _micros(now))
            .order_by(requests.c.wake_at)
            .limit(limit)
        )
        return await self._run(lambda connection: list(connection.execute(query).scalars()))

    async def unpublished(self, worker: str, older_than: datetime) -> list[OutboxBatch]:
        """Return outbox batches of this worker, and old ones of any."""
        query = (
            select(outbox)
            .where((outbox.c.worker == worker) | (outbox.c.saved_at < _micros(older_than)))
            .order_by(outbox.c.outbox_id)
        )
        rows = await self._run(lambda connection: connection.execute(query).all())
        return [OutboxBatch(row.outbox_id, row.worker, unpack(bytes(row.records))) for row in rows]

    async def published(self, outbox_ids: Iterable[int]) -> None:
        """Forget outbox batches that are out."""
        ids = list(outbox_ids)
        if ids:
            await self._run(lambda connection: connection.execute(delete(outbox).where(outbox.c.outbox_id.in_(ids))))

    async def keep_registry(self, digest: str, body: bytes) -> None:
        """Keep a registry."""
        await self._run(lambda connection: connection.execute(self._insert_registry, {"digest": digest, "body": body}))

    async def registries(self) -> dict[str, bytes]:
        """Return every registry kept."""
        rows = await self._run(lambda connection: connection.execute(select(registries)).all())
        return {row.digest: bytes(row.body) for row in rows}

    async def service_keys(self) -> list[ServiceKey]:
        """Return every key of the installation."""
        query = select(service_keys).order_by(service_keys.c.created_at, service_keys.c.kid)
        return [_service_key(row) for row in await self._run(lambda connection: connection.execute(query).all())]

    async def add_service_key(self, key: ServiceKey) -> None:
        """Keep a key, unless its name is taken."""
        values = {
            "kid": key.kid,
            "purpose": key.purpose,
            "created_at": _micros(key.created_at),
            "public": key.public,
            "wrapped": key.wrapped,
        }
        await self._run(lambda connection: connection.execute(self._insert_service_key, values))

    async def destroy_service_key(self, kid: str, at: datetime) -> None:
        """Forget the wrapped key."""
        query = (
            update(service_keys)
            .where(service_keys.c.kid == kid, service_keys.c.wrapped.is_not(None))
            .values(wrapped=None, destroyed_at=_micros(at))
        )

        def work(connection: Connection) -> None:
            if connection.execute(query).rowcount and self._engine.dialect.name == "sqlite":
                self._must_scrub = True

        await self._run(work)

    async def identities_after(self, request: str, limit: int) -> dict[str, bytes]:
        """Return the next sealed identities."""
        given = {"after": request, "at_most": limit}

        def work(connection: Connection) -> dict[str, bytes]:
            return {row.subject_request_id: bytes(row.sealed) for row in connection.execute(_NEXT_SEALED, given)}

        return await self._run(work, reads=True)

    async def wrapped_by(self) -> dict[str, int]:
        """Return the number of identities by the name of the key that wrapped each."""

        def work(connection: Connection) -> dict[str, int]:
            found: Counter[str] = Counter()
            for begins, count in connection.execute(_WRAPPED_BY):
                named = _WRAPPED.fullmatch(bytes(begins))
                found["" if named is None else named[1].decode()] += count
            return dict(found)

        return await self._run(work, reads=True)

    async def exchange(
        self, identities: Mapping[str, tuple[bytes, bytes]], service_keys: Mapping[str, tuple[bytes, bytes]]
    ) -> int:
        """Put new bytes where the old ones still stand."""
        tables = (_FREE_IDENTITIES, _EXCHANGE_IDENTITY, identities), (_FREE_SERVICE_KEYS, _EXCHANGE_SERVICE_KEY, service_keys)

        def work(connection: Connection) -> int:
            put = 0
            for free, exchange, pairs in tables:
                for chunk in _chunks(sorted(pairs)):
                    names = sorted(connection.execute(free, {"ids": chunk}).scalars())
                    values = [{"of": name, "old": pairs[name][0], "new": pairs[name][1]} for name in names]
                    put += connection.execute(exchange, values).rowcount if values else 0
            if put and self._engine.dialect.name == "sqlite":
                self._must_scrub = True
            return put

        return await self._run(work)

    async def census(self, now: datetime, keys_grow_old: timedelta = timedelta(days=120)) -> Census:
        """Return the counts for the gauges."""
        return await self._run(
            lambda connection: take_census(connection, now, now - keys_grow_old), reads=True, aside=self._census_thread
        )

    async def scrub(self) -> None:
        """Write SQLite's log into its file and cut it: `secure_delete` has zeroed the file, the log still has copies.

        A log that another connection is reading stays until the next call.
        """
        if not self._must_scrub:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._cut_log)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"the store did not answer ({type(error).__name__})") from None

    def _cut_log(self) -> None:
        # In the store's own thread, flag included: a save that forgets while this is awaited must not be overlooked.
        with closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            try:
                (is_busy, _, _) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:
                return  # locked by another process for longer than the busy timeout: at the next call
            self._must_scrub = bool(is_busy)

    async def ping(self) -> None:
        """Raise `StoreUnavailable` if the store does not answer."""
        await self._run(lambda connection: connection.execute(text("SELECT 1")))

    async def aclose(self) -> None:
        """Close all connections."""
        self._census_thread.shutdown(wait=True)
        self._holdings_thread.shutdown(wait=True)
        self._thread.shutdown(wait=True)
        self._engine.dispose()


def _load(connection: Connection, ids: Iterable[str]) -> dict[str, Row]:
    found = (_row(row) for chunk in _chunks(list(ids)) for row in connection.execute(_BY_ID, {"ids": chunk}).all())
    return {row.subject_request_id: row for row in found}


def _groups(connection: Connection, persons: Iterable[str]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    wanted = list(persons)
    rows: dict[str, list[Row]] = {person: [] for person in wanted}
    versions = dict.fromkeys(wanted, 0)
    for chunk in _chunks(wanted):
        # The version first: what is saved between these two statements is then seen, or makes the save conflict.
        versions.update((person, version) for person, version in connection.execute(_GROUPS, {"ids": chunk}))
        for found in connection.execute(_OPEN_OF_PERSONS, {"ids": chunk}):
            row = _row(found)
            assert row.person is not None, "found by it"
            rows[row.person].append(row)
    return rows, versions


def _identities(connection: Connection, ids: Iterable[str]) -> dict[str, bytes]:
    found = (row for chunk in _chunks(list(ids)) for row in connection.execute(_SEALED_BY_ID, {"ids": chunk}))
    return {row.subject_request_id: bytes(row.sealed) for row in found}


def _refusals(connection: Connection, spans: Mapping[tuple[str, int], tuple[int, int]]) -> frozenset[Refusal]:
    if not spans:
        return frozenset()
    given: dict[str, str | int] = {}
    for number, ((topic, partition), (first, last)) in enumerate(spans.items()):
        given |= {f"t{number}": topic, f"p{number}": partition, f"f{number}": first, f"l{number}": last}
    return frozenset(Refusal(*row) for row in connection.execute(_refusals_among(len(spans)), given))


@cache
def _refusals_among(partitions: int) -> TextClause:
    """Return a question for so many partitions. It is asked for every batch, so nothing is built anew for it."""
    inside = (f'(topic = :t{n} AND "partition" = :p{n} AND "offset" BETWEEN :f{n} AND :l{n})' for n in range(partitions))
    return text(f'SELECT topic, "partition", "offset", content FROM refusals WHERE {" OR ".join(inside)}')  # noqa: S608 - numbers


def _refuse(connection: Connection, change: Change) -> None:
    if change.absent:
        # Put there and taken away again: the key waits for a worker that is just inserting it, a question would not.
        placeholders = [_values(Row(request, -1, b"")) for request in sorted(change.absent)]
        connection.execute(requests.insert(), placeholders)
        for chunk in _chunks(sorted(change.absent)):
            connection.execute(delete(requests).where(requests.c.subject_request_id.in_(chunk), requests.c.version == 0))
    # Not an upsert: what another save has refused already makes this one conflict.
    saved_at = _micros(change.now)
    connection.execute(
        refusals.insert(),
        [
            {"topic": r.topic, "partition": r.partition, "offset": r.offset, "content": r.content, "saved_at": saved_at}
            for r in sorted(change.refusals, key=lambda r: (r.topic, r.partition, r.offset))
        ],
    )


def _upsert_versioned(insert: Any, key: Any, version: Any) -> Any:
    """Insert at version 1, or update the row that is one version behind; anything else touches no row."""
    changes = {column.name: insert.excluded[column.name] for column in key.table.columns if column is not key}
    upsert = insert.on_conflict_do_update(index_elements=[key], set_=changes, where=version == insert.excluded.version - 1)
    # Some drivers are not asked for the number of rows that an INSERT touched unless this is said.
    return upsert.execution_options(preserve_rowcount=True)


def _require(touched: int, wanted: int) -> None:
    if touched != wanted:
        raise Conflict


def _chunks(ids: list[Any]) -> Iterable[list[Any]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def _values(row: Row) -> dict[str, Any]:
    return {
        "subject_request_id": row.subject_request_id,
        "version": row.version + 1,
        "state": row.state,
        "phase": row.phase,
        "right": row.right,
        "person": row.person,
        "wake_at": _micros(row.wake_at) if row.wake_at else None,
        "due_at": _micros(row.due_at) if row.due_at else None,
        "received_at": _micros(row.received_at) if row.received_at else None,
        "awaited": row.awaited,
    }


def _row(found: Any) -> Row:
    # In the order of the table's columns; asking a row for each by name takes several times as long.
    request, version, state, phase, right, person, wake_at, due_at, received_at, awaited = found
    return Row(
        request,
        version,
        bytes(state),
        phase,
        right,
        person,
        _instant(wake_at),
        _instant(due_at),
        _instant(received_at),
        awaited,
    )


def _service_key(row: Any) -> ServiceKey:
    created_at = _instant(row.created_at)
    assert created_at is not None, "the column is not nullable"
    return ServiceKey(
        kid=row.kid,
        purpose=row.purpose,
        created_at=created_at,
        public=None if row.public is None else bytes(row.public),
        wrapped=None if row.wrapped is None else bytes(row.wrapped),
        destroyed_at=_instant(row.destroyed_at),
    )
