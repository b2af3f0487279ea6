"""A record that kills the worker's process, on real processes: it is found, set aside, and everything else is confirmed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life
from typer.testing import CliRunner
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.cli import app
from orchestrator.demo.stage import free_port
from schemas.vocabulary import QuarantineReason

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(180)]
DEADLY_WORKER = str(Path(__file__).with_name("deadly_worker.py"))


async def test_a_record_that_kills_the_process_is_set_aside_alone(fresh_kafka, database: str, tmp_path: Path) -> None:
    """Two lives end and nobody knows why, three with it in hand, the sixth goes past it; a mended release takes it in."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, store_url=database, http_port=free_port())
    asked = [request(email=f"person-{number}@example.org") for number in range(4)]
    deadly, good = asked[1].subject_request_id, {one.subject_request_id for one in asked if one is not asked[1]}
    environment = {"DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap, "DSR_TOPIC_PREFIX": topics.prefix}
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        world.keys_url = f"http://127.0.0.1:{settings.http_port}"
        for one in asked:
            await world.publish(one, partition=0)  # two of them behind it
        for _ in range(settings.careful_after + settings.defect_lives):
            async with life(settings, DEADLY_WORKER, DEADLY_REQUEST=deadly) as doomed:
                assert await doomed.ended() == -9, doomed.last_words()
        assert not world.records[topics.quarantine]
        async with life(settings, DEADLY_WORKER, DEADLY_REQUEST=deadly) as survivor:
            await world.until(lambda: good <= set(world.confirmations))
            assert survivor.process.poll() is None
        (aside,) = world.records[topics.quarantine]
        headers = dict(aside.headers)  # type: ignore[attr-defined] # a record
        assert headers["dsr-reason"] == QuarantineReason.DEFECT.encode() and aside.key == deadly.encode()  # type: ignore[attr-defined] # a record
        async with worker(settings):
            replay = ["quarantine", "replay", "--reason", "defect", "--wait", "30"]
            replayed = await asyncio.to_thread(CliRunner().invoke, app, replay, env=environment)
            assert replayed.exit_code == 0, replayed.output
            await world.until(lambda: deadly in world.confirmations)
    judged = await asyncio.to_thread(CliRunner().invoke, app, ["audit"], env=environment)
    assert judged.exit_code == 0, judged.output
