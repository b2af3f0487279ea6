"""A store whose disk is full: the worker says so, loses and doubles nothing, and goes on when there is room."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import Life, account, life, read_to_the_end
from test_guards import eventually
from worker_kit import SYSTEMS, World, request, settings_for

from schemas.requests import SubmitRequest

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def people(count: int, first: int) -> list[SubmitRequest]:
    return [request(email=f"person-{first + number}@example.org") for number in range(count)]


def fill_the_disk(one: Life) -> None:
    """Let no file of the process grow beyond what its own log needs: SQLite gets EFBIG, as it would get ENOSPC."""
    enough_to_speak = one.log.stat().st_size + 64 * 1024
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (enough_to_speak, resource.RLIM_INFINITY))


def make_room(one: Life) -> None:
    resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def said(one: Life, event: str) -> list[dict[str, object]]:
    """Return the lines of its log with this event."""
    lines = (json.loads(line) for line in one.log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("event") == event]


async def _until_said(one: Life, event: str) -> None:
    async def is_said() -> bool:
        return bool(said(one, event))

    await eventually(is_said, 30)


@pytest.mark.parametrize("stays_full", [False, True])
async def test_a_full_disk_is_said_and_survived(fresh_kafka, tmp_path: Path, stays_full: bool) -> None:
    """Full for a moment: the same life goes on. Full for long: it ends without a commit, and the next life does the work."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, log_level="WARNING")
    before, during = people(200, 0), people(200, 200)
    ids = [one.subject_request_id for one in before + during]
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with life(settings) as one:
            await asyncio.gather(*(world.publish(asked) for asked in before))
            await world.until(lambda: len(world.confirmations) == len(before), 60)
            fill_the_disk(one)
            await asyncio.gather(*(world.publish(asked) for asked in during))
            await _until_said(one, "store_unavailable")
            if stays_full:
                assert await one.ended(60) == 70, one.last_words()
            else:
                make_room(one)
                await world.until(lambda: set(ids) <= set(world.confirmations), 60)
        if stays_full:
            async with life(settings):
                await world.until(lambda: set(ids) <= set(world.confirmations), 60)
        await read_to_the_end(world)
        account(world, ids)
