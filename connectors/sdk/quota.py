"""Where a system's turns and its day's calls are counted: one database for all processes that speak to the system.

Every count is one statement, so it does not matter how many processes ask, nor when one of them dies: a turn or a call that was
given out is never given out again. An SQLite file serves the processes of one machine, PostgreSQL those of several.

Room rules: counts only, no decision and no clock of its own; nothing about a person.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from connectors.sdk.sqlite_file import prepare
from schemas.errors import ConfigurationError, StoreUnavailable

__all__ = ["QuotaBook", "SqlQuota", "quota_file"]

T = TypeVar("T")

_META = sa.MetaData()
_TURNS = sa.Table(
    "dsr_turns", _META, sa.Column("system", sa.Text, primary_key=True), sa.Column("next_us", sa.BigInteger, nullable=False)
)
_CALLS = sa.Table(
    "dsr_calls",
    _META,
    sa.Column("system", sa.Text, primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("used", sa.BigInteger, nullable=False),
)
#: Who shares the calls: one row for each process, with the orders that wait for its turns.
_SHARERS = sa.Table(
    "dsr_sharers",
    _META,
    sa.Column("system", sa.Text, primary_key=True),
    sa.Column("process", sa.Text, primary_key=True),
    sa.Column("waiting", sa.BigInteger, nullable=False),
    sa.Column("seen_us", sa.BigInteger, nullable=False),
)
#: A process that has said nothing for so long is not there.
_AWAY = timedelta(minutes=2)
#: A row of turns longer than this comes from a clock that was set back, and is begun anew.
_LONGEST_ROW = 1000
_WRONG_URL = "DSR_QUOTA_URL: give sqlite:////folder/file.sqlite or postgresql+psycopg://... (with the package psycopg)"


class QuotaBook(Protocol):
    """Counts, durably and for all processes of a system. Raises `StoreUnavailable`: then nothing may be called."""

    async def next_turn(self, now: datetime, spacing_seconds: float) -> float:
        """Take the next of the evenly spaced turns and return the seconds until it. Nobody else gets it."""
        ...

    async def use(self, day: str, limit: int) -> bool:
        """Count one call on this day before it is made; False, and no count, if that would be more than `limit`."""
        ...

    async def used(self, day: str) -> int:
        """Return the calls counted on this day."""
        ...

    async def share(self, waiting: int, now: datetime) -> float:
        """Say how many orders wait here for calls, and return what part of all that wait at the processes of the system."""
        ...


def quota_file(folder: Path, system: str) -> Path:
    """Return the file of a process that was told of no other database."""
    return folder / f"{system}.quota.sqlite"


class SqlQuota:
    """Implements `QuotaBook` on SQLite or PostgreSQL, for one system.

    On PostgreSQL turns go by the server's clock, as machines' clocks differ; the day is the caller's in both.
    """

    def __init__(self, url: str, system: str) -> None:
        self._system = system
        #: Of this life: a row of an earlier one is soon forgotten.
        self._process = secrets.token_hex(8)
        self._engine, self._is_shared = _engine(url)
        self._insert: Callable[[sa.Table], Any] = postgresql.insert if self._is_shared else sqlite.insert
        self._in_transaction(self._create)

    @classmethod
    def in_folder(cls, folder: Path, system: str) -> Self:
        """Open the file that a process uses which was told of no other."""
        return cls(f"sqlite:///{quota_file(folder, system)}", system)

    async def next_turn(self, now: datetime, spacing_seconds: float) -> float:
        """Take a turn."""
        return await self._run(lambda connection: self._next_turn(connection, now, spacing_seconds))

    async def use(self, day: str, limit: int) -> bool:
        """Count a call, and forget the days before."""
        return await self._run(lambda connection: self._use(connection, day, limit))

    async def share(self, waiting: int, now: datetime) -> float:
        """Write our row, forget who is away, and read the others'. Alone, or with nothing waiting anywhere, it is 1."""
        return await self._run(lambda connection: self._share(connection, waiting, now))

    async def used(self, day: str) -> int:
        """Read the count."""
        query = sa.select(_CALLS.c.used).where(_CALLS.c.system == self._system, _CALLS.c.day == day)
        return await self._run(lambda connection: int(connection.execute(query).scalar() or 0))

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _run(self, work: Callable[[sa.Connection], T]) -> T:
        """Do it; a server may take its time, so not on the event loop."""
        return await asyncio.to_thread(self._in_transaction, work) if self._is_shared else self._in_transaction(work)

    def _in_transaction(self, work: Callable[[sa.Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"the quota's database refused: {type(error).__name__}") from None

    def _create(self, connection: sa.Connection) -> None:
        if self._is_shared:  # two processes that start at once: the second waits, then finds the tables
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('dsr_quota'))"))
        _META.create_all(connection)

    def _next_turn(self, connection: sa.Connection, now: datetime, spacing_seconds: float) -> float:
        spacing = max(1, round(spacing_seconds * 1_000_000))
        clock: sa.ColumnElement[int] = (
            sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()) * 1_000_000, sa.BigInteger)
            if self._is_shared
            else sa.literal(round(now.timestamp() * 1_000_000), sa.BigInteger)
        )
        known = _TURNS.c.next_us
        is_usable = sa.and_(known > clock, known <= clock + _LONGEST_ROW * spacing)
        after = sa.case((is_usable, known), else_=clock) + spacing
        statement = self._insert(_TURNS).values(system=self._system, next_us=clock + spacing)
        statement = statement.on_conflict_do_update(index_elements=["system"], set_={"next_us": after})
        left = connection.execute(statement.returning(known - spacing - clock)).scalar_one()
        return max(0.0, int(left) / 1_000_000)

    def _share(self, connection: sa.Connection, waiting: int, now: datetime) -> float:
        seen = round(now.timestamp() * 1_000_000)
        statement = self._insert(_SHARERS).values(system=self._system, process=self._process, waiting=waiting, seen_us=seen)
        statement = statement.on_conflict_do_update(
            index_elements=["system", "process"], set_={"waiting": waiting, "seen_us": seen}
        )
        connection.execute(statement)
        long_ago = seen - round(_AWAY.total_seconds() * 1_000_000)
        here = _SHARERS.c.system == self._system
        connection.execute(sa.delete(_SHARERS).where(here, _SHARERS.c.seen_us < long_ago))
        total = int(connection.execute(sa.select(sa.func.sum(_SHARERS.c.waiting)).where(here)).scalar_one())
        return waiting / total if waiting else 1.0

    def _use(self, connection: sa.Connection, day: str, limit: int) -> bool:
        statement = self._insert(_CALLS).values(system=self._system, day=day, used=1)
        statement = statement.on_conflict_do_update(
            index_elements=["system", "day"], set_={"used": _CALLS.c.used + 1}, where=_CALLS.c.used < limit
        )
        used = connection.execute(statement.returning(_CALLS.c.used)).scalar()
        if used == 1:
            connection.execute(sa.delete(_CALLS).where(_CALLS.c.system == self._system, _CALLS.c.day < day))
        return used is not None


def _engine(text: str) -> tuple[sa.Engine, bool]:
    try:
        url = sa.make_url(text)
        if url.drivername == "postgresql+psycopg":
            return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True), True
        if url.get_backend_name() == "sqlite":
            if url.database:
                Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            engine = sa.create_engine(url, hide_parameters=True, poolclass=sa.pool.StaticPool)
            prepare(engine)
            return engine, False
    except (ArgumentError, NoSuchModuleError, ImportError):
        pass
    raise ConfigurationError(_WRONG_URL)
