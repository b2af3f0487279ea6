"""One row of the store that does not open stops its own request and nobody else's; a key that is missing stops the start."""

from __future__ import annotations

import base64
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life
from worker_kit import SYSTEMS, World, answer, request, settings_for, worker

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import rewrapped
from orchestrator.settings import Settings
from schemas.vocabulary import Right

pytestmark = [pytest.mark.kafka]


def stored(settings: Settings, subject_request_id: str, put: bytes | None = None) -> bytes:
    """Return the sealed identity in a request's row, and put another there."""
    with closing(sqlite3.connect(settings.store_url.removeprefix("sqlite:///"), timeout=30)) as database, database:
        (found,) = database.execute(
            "SELECT sealed FROM identities WHERE subject_request_id = ?", (subject_request_id,)
        ).fetchone()
        if put is not None:
            database.execute("UPDATE identities SET sealed = ? WHERE subject_request_id = ?", (put, subject_request_id))
    return bytes(found)


def damaged(row: bytes) -> bytes:
    """Return a row with one bit changed in its wrapped key."""
    return row[:90] + bytes([row[90] ^ 1]) + row[91:]


async def test_the_others_go_on(fresh_kafka, tmp_path: Path) -> None:
    """A report that needs the row is set aside, with everything else of its batch confirmed; the row restored, it is taken.

    So is one whose decision would send an order of another request of that person, whose row is damaged.
    """
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    ill, well = request(email="ill@example.org"), request(email="well@example.org")
    first, after = request(Right.ACCESS, email="both@example.org"), request(Right.ERASURE, email="both@example.org")
    world = World(fresh_kafka.bootstrap, topics)
    world.respond = lambda _order: None
    async with world.running(), worker(settings) as running:
        for one in (ill, well, first):
            await world.publish(one)
        await world.until(lambda: len(world.orders) == 6)  # accounts waits for the CRM
        await world.publish(after)
        await world.until(lambda: any(after.subject_request_id.encode() == r.key for r in world.records[topics.journal]))
        rows = {one.subject_request_id: stored(settings, one.subject_request_id) for one in (ill, after)}
        for name, row in rows.items():
            stored(settings, name, damaged(row))
        world.respond = answer
        asked = list(world.orders)
        for order in asked:
            await world.publish(answer(order))
        await world.until(lambda: well.subject_request_id in world.confirmations)
        await world.until(lambda: len({r.key for r in world.records[topics.quarantine]}) == 2)
        told = {record.key.decode(): dict(record.headers) for record in world.records[topics.quarantine]}
        assert set(told) == {ill.subject_request_id, first.subject_request_id}
        assert {(h["dsr-reason"], h["dsr-field"]) for h in told.values()} == {(b"identity_unreadable", b"store")}
        assert running.metrics.registry.get_sample_value("dsr_store_rows_damaged_total") >= 2
        assert running.deck.ended is None
        for name, row in rows.items():
            stored(settings, name, row)
        for order in asked:
            await world.publish(answer(order))
        await world.until(lambda: len(world.confirmations) == 4, 60)
    for one in (ill, well, first, after):
        world.confirmation(one.subject_request_id)


async def test_a_worker_without_the_key_does_not_start_and_one_odd_row_does_not_stop_it(fresh_kafka, tmp_path: Path) -> None:
    """Exit 2 with the missing key's name; a name that stands on one row of several is given up, and told of."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = [request(email=f"person-{number}@example.org") for number in range(3)]
    world = World(fresh_kafka.bootstrap, topics)
    world.respond = lambda _order: None
    async with world.running():
        async with worker(settings):
            for one in asked:
                await world.publish(one)
            await world.until(lambda: len(world.orders) == 6)
        mine = settings.key_encryption_key.get_secret_value()
        both = KeyEncryption.from_text(base64.b64encode(b"n" * 32).decode() + "\n" + mine)
        for one in asked[:2]:
            anew = rewrapped(both, one.subject_request_id, stored(settings, one.subject_request_id))
            stored(settings, one.subject_request_id, anew)
        async with life(settings) as process:
            assert await process.ended() == 2
        assert f"2 open request(s) in the store need the key named {both.kid}: add it" in process.last_words()
        back = KeyEncryption.from_text(mine + "\n" + base64.b64encode(b"n" * 32).decode())
        mended = rewrapped(back, asked[1].subject_request_id, stored(settings, asked[1].subject_request_id))
        stored(settings, asked[1].subject_request_id, mended)
        async with life(settings) as process:
            for order in list(world.orders):
                await world.publish(answer(order))
            world.respond = answer
            await world.until(lambda: len(world.confirmations) == 2, 60)
        assert asked[0].subject_request_id not in world.confirmations
        assert "row_damaged" in process.log.read_text()
