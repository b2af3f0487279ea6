"""The connectors' real journal on SQLite in memory: it outlives the processes, and a crash loses what is not committed.

Room rules: every statement is the shipped one; only where the file lies and when the process dies is ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import sqlalchemy as sa

from connectors.sdk import journal_tables as shipped
from connectors.sdk.journal import Journal, Page
from connectors.sdk.sqlite_file import prepare
from schemas.errors import StoreUnavailable
from tests.simulation.clockwork import micros_of
from tests.simulation.life import Life

__all__ = ["JournalOfLife", "MemoryDisk", "disks"]


class MemoryDisk:
    """The file of one connector."""

    def __init__(self) -> None:
        self.engine = sa.create_engine("sqlite://", hide_parameters=True, poolclass=sa.pool.StaticPool)
        prepare(self.engine)
        self.connection = self.engine.connect()
        with self.connection.begin():
            shipped.create(self.connection)
        raw = self.connection.connection.dbapi_connection
        assert raw is not None
        self._raw = raw
        self._next_due: int | None = None
        self.is_fresh = False

    def wipe(self) -> None:
        """Make it as new."""
        with self.connection.begin():
            for table in shipped._META.sorted_tables:
                self.connection.execute(sa.delete(table))
        self.is_fresh = False

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Look at it from outside."""
        return list(self._raw.execute(statement))

    def next_due(self) -> int | None:
        """Return the earliest moment of an open order, in microseconds of the simulated world."""
        if not self.is_fresh:
            (value,) = self.query("SELECT min(not_before_ms) FROM orders WHERE state IN ('waiting', 'polling')")[0]
            self._next_due = None if value is None else micros_of(datetime.fromtimestamp(int(str(value)) / 1000, UTC))
            self.is_fresh = True
        return self._next_due


_DISKS: list[MemoryDisk] = []


def disks(count: int) -> list[MemoryDisk]:
    """Return so many empty disks; they are made once for a Python process, because making one takes longer than a run."""
    while len(_DISKS) < count:
        _DISKS.append(MemoryDisk())
    for disk in _DISKS[:count]:
        disk.wipe()
    return _DISKS[:count]


class JournalOfLife(Journal):
    """The journal as one life of a connector has it open."""

    def __init__(self, disk: MemoryDisk, life: Life, committed: Callable[[], None]) -> None:
        self._disk = disk
        self._life = life
        self._committed = committed
        self._connection = disk.connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Page]:
        """Open a transaction; the process may die before it begins or after it is durable, and the disk may refuse."""
        life = self._life
        life.may_crash("before a journal transaction")
        if life.chance.strikes("journal fault", life.chance.trouble.fault / 20):
            life.say(f"the journal refuses a transaction [#{life.chance.numbers[-1]}]")
            raise StoreUnavailable("the simulated journal refused a transaction")
        with super().transaction() as page:
            yield page
        self._disk.is_fresh = False
        self._committed()
        life.may_crash("after a journal transaction")

    def compact(self) -> None:
        """There is no log beside a database in memory."""
        self._life.check()
