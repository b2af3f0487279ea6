"""A request's key dies with the request: in the transaction that closes it, whatever is killed when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from process_kit import life, outbox, read_to_the_end
from worker_kit import SYSTEMS, World, answer, request, settings_for

from orchestrator.settings import Settings
from schemas.vocabulary import Right

pytestmark = pytest.mark.kafka

#: The first save takes the request in; the second closes it, destroys its key and writes its confirmation into the outbox.
CLOSING = 2


def stored(settings: Settings) -> dict[str, bytes]:
    """Return what the store keeps of open requests' identities."""
    query = "SELECT subject_request_id, sealed FROM identities"
    if settings.store_url.startswith("postgresql"):
        with psycopg.connect(settings.store_url.replace("+psycopg", "")) as server:
            return dict(server.execute(query).fetchall())
    # Changing none of its files: whoever closes it last would otherwise tidy its log.
    path = settings.store_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute(query).fetchall())


def on_disk(folder: Path) -> bytes:
    """Return every byte of the store's files: of the log first, since what leaves it is in the file by then."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("store.sqlite*"), reverse=True))


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that must be looked at; it is looked at in a thread."""
    ends_at = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < ends_at, "the condition never came true"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("point", ["before_save", "after_save", "mid_publish", "after_publish", "after_ack"])
async def test_a_kill_between_confirmation_and_destruction(fresh_kafka, tmp_path: Path, point: str, database: str) -> None:
    """Wherever the closing batch is cut: the next life has one confirmation out, no key in the store, none on the disk.

    What the confirmation says is decided in the transaction that destroys the key, so there is no moment between the two: also
    when half of the batch is out, nobody has read a confirmation while the key was there. PostgreSQL's files are not looked
    at: it overwrites nothing before `VACUUM`.
    """
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, log_level="WARNING", store_url=database)
    has_files = database.startswith("sqlite")
    asked = request(Right.UNSUBSCRIBE)
    world = World(fresh_kafka.bootstrap, topics)
    world.respond = lambda _order: None
    async with world.running():
        async with life(settings, DSR_FAULT_POINT=f"{point}:{CLOSING}") as first:
            await world.publish(asked)
            await world.until(lambda: len(world.orders) == 1)
            (sealed,) = (await asyncio.to_thread(stored, settings)).values()
            wrapped = json.loads(sealed.split(b"\n")[0])["ciphertext"].encode()
            assert not has_files or wrapped in on_disk(tmp_path)
            await world.publish(answer(world.orders[0]))
            assert await first.ended() == -9, first.last_words()
        await read_to_the_end(world)
        is_saved = point != "before_save"
        assert (await asyncio.to_thread(stored, settings) == {}) is is_saved
        # Half of the batch is out in the middle: the confirmation stands in one of the halves.
        is_out = bool(world.confirmations)
        assert point == "mid_publish" or is_out is (point in {"after_publish", "after_ack"})
        # The log of changes still has it: the next life is told nothing of that and wipes it all the same.
        assert not has_files or wrapped in on_disk(tmp_path)
        async with life(settings):
            await world.until(lambda: asked.subject_request_id in world.confirmations)
            await until(lambda: wrapped not in on_disk(tmp_path))
            # The confirmation may be out since the first life: this one is up once it has emptied the outbox.
            await until(lambda: asyncio.run(outbox(settings)) == {})
            assert await asyncio.to_thread(stored, settings) == {}
        await read_to_the_end(world)
        assert world.confirmation(asked.subject_request_id)
    assert wrapped not in on_disk(tmp_path)
