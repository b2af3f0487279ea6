"""The store behind a bad network: whatever happens to a save on its way, it was made once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.ports import Change, Conflict, OutRecord, Row
from schemas.errors import StoreUnavailable
from tests.chaos.proxy import Proxy

pytestmark = pytest.mark.postgres
NOW = datetime(2026, 3, 1, tzinfo=UTC)
A = "00000000-0000-4000-8000-00000000000a"


def change(version: int) -> Change:
    row = Row(A, version, state=b"x" * 2_000, phase="active", right="erasure")
    return Change(worker="w1", now=NOW, rows=[row], records=[OutRecord("t", b"k", b"%d" % version)])


@contextlib.asynccontextmanager
async def behind(url: str) -> AsyncIterator[tuple[Proxy, SqlStore, SqlStore]]:
    """Give the door, a store that goes through it, and one that does not."""
    engine = make_engine(url)
    schema.upgrade(engine)
    given = sqlalchemy.make_url(url)
    folder = str(given.query.get("host", given.host or ""))
    number = given.port or 5432
    socket = Path(folder) / f".s.PGSQL.{number}"

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if folder.startswith("/"):
            return await asyncio.open_unix_connection(str(socket))
        return await asyncio.open_connection(folder, number)

    async with Proxy(connect) as door:
        through = given.difference_update_query(["host"]).set(host="127.0.0.1", port=door.port)
        quick = through.update_query_dict({"tcp_user_timeout": "1000", "connect_timeout": "2"})
        far, near = SqlStore(make_engine(quick.render_as_string(hide_password=False))), SqlStore(engine)
        try:
            yield door, far, near
        finally:
            door.cut()
            await far.aclose()
            await near.aclose()


async def saved(near: SqlStore) -> tuple[int, int]:
    """Return the row's version and the number of outbox batches: they must always be the same."""
    rows = await near.load([A])
    return (rows[A].version if rows else 0), len(await near.unpublished("w1", NOW))


async def test_a_slow_network_is_only_slow(postgres_url: str) -> None:
    """Nothing fails, nothing is saved twice."""
    async with behind(postgres_url) as (door, far, near):
        door.latency_seconds = 0.02
        for version in range(3):
            await far.commit(change(version))
        assert await saved(near) == (3, 3)


async def test_a_save_cut_anywhere_was_made_once_or_not_at_all(postgres_url: str) -> None:
    """Cut after every few hundred bytes of what it says, until it gets through: unavailable, and said again it is right."""
    async with behind(postgres_url) as (door, far, near):
        await far.commit(change(0))
        cuts = 0
        for after in range(0, 6_000, 250):
            before = await saved(near)
            assert before[0] == before[1]
            door.cut_after_bytes = after
            try:
                await far.commit(change(before[0]))
            except StoreUnavailable:
                cuts += 1
                door.cut_after_bytes = None
                with contextlib.suppress(Conflict):  # it had been saved after all, and the answer was lost
                    await far.commit(change(before[0]))
            assert await saved(near) == (before[0] + 1, before[0] + 1)
        assert cuts >= 5


async def test_a_connection_that_goes_silent_and_then_breaks_saves_once(postgres_url: str) -> None:
    """While nothing passes the call waits; when the connection breaks, what it held back is saved once, by it or said again."""
    async with behind(postgres_url) as (door, far, near):
        await far.commit(change(0))
        door.swallow()
        waiting = asyncio.create_task(far.commit(change(1)))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        door.cut()
        with contextlib.suppress(StoreUnavailable):
            await waiting
        with contextlib.suppress(Conflict):
            await far.commit(change(1))
        assert await saved(near) == (2, 2)
