"""A defect of our own at one record: the worker ends without a commit, each life anew; a mended one takes all in."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_guards import committed
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.bootstrap import run_worker
from orchestrator.shell import work

pytestmark = pytest.mark.kafka


async def test_a_defect_stops_at_its_record_and_passes_over_nothing(
    fresh_kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lives die at the same record: no commit, no quarantine. Without the defect all three are confirmed once."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = [request(email=f"person-{number}@example.org") for number in range(3)]
    decide, met = work.decide, []

    def defective(state: Any, given: Any, *context: Any) -> Any:
        if getattr(given.message, "subject_request_id", "") == asked[0].subject_request_id:
            met.append(given.source)
            raise ZeroDivisionError
        return decide(state, given, *context)

    async with World(fresh_kafka.bootstrap, topics).running() as world:
        for one in asked:
            await world.publish(one, partition=0)  # behind it
        monkeypatch.setattr(work, "decide", defective)
        for life in (1, 2):
            ended = asyncio.Event()
            async with run_worker(settings, die=lambda _, ended=ended: ended.set(), upgrade_store=True) as running:
                async with asyncio.timeout(30):
                    await ended.wait()
                assert running.deck.ended == "ZeroDivisionError"
            assert len(met) == life
        assert len(set(met)) == 1
        assert not await committed(settings, topics.requests)
        assert not world.records[topics.quarantine]
        monkeypatch.setattr(work, "decide", decide)
        async with worker(settings):
            await world.until(lambda: {one.subject_request_id for one in asked} <= set(world.confirmations))
        for one in asked:
            world.confirmation(one.subject_request_id)
