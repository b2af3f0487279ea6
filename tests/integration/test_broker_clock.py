"""A worker whose clock is not the broker's does not start: every moment it writes down would be wrong."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from worker_kit import SYSTEMS, settings_for

from orchestrator.adapters.broker_clock import skew
from orchestrator.adapters.topics import apply
from orchestrator.bootstrap import run_worker
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.topics import manifest

pytestmark = pytest.mark.kafka


class ShiftedClock:
    """The system's clock, wrong by so much."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self._by

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("seconds", [-3600.0, -30.0, 0.0, 30.0, 86_400.0])
async def test_the_difference_is_measured_and_never_overstated(fresh_kafka, seconds: float) -> None:
    """A clock that is right differs by nothing, however long the answer takes; a wrong one by no more than it does."""
    topics = await fresh_kafka.create()
    found = (await skew(fresh_kafka.bootstrap, topics.clock, ShiftedClock(timedelta(seconds=seconds)))).total_seconds()
    assert (found < 0, found > 0) == (seconds < 0, seconds > 0)
    assert abs(found) <= abs(seconds) + 0.002
    assert abs(found) >= abs(seconds) - 15


@pytest.mark.parametrize(("seconds", "words"), [(60.0, "ahead of"), (-60.0, "behind")])
async def test_a_worker_with_a_wrong_clock_refuses_to_start(fresh_kafka, tmp_path: Path, seconds: float, words: str) -> None:
    """It says by how much, which way, and what to do; a tolerance that covers it lets it start."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    clock = ShiftedClock(timedelta(seconds=seconds))
    with pytest.raises(ConfigurationError, match=rf"clock is \d+ s {words} .*DSR_CLOCK_SKEW_SECONDS.*NTP"):
        async with run_worker(settings, upgrade_store=True, clock=clock):
            pass
    async with run_worker(settings.model_copy(update={"clock_skew_seconds": 90}), upgrade_store=True, clock=clock):
        await asyncio.sleep(0)


async def test_a_topic_that_keeps_the_writers_time_tells_nothing(fresh_kafka) -> None:
    """The answer would always be right; so it is refused, and the check of the topics finds it too."""
    topics = await fresh_kafka.create()
    with pytest.raises(ConfigurationError, match="dsr topics apply"):
        await skew(fresh_kafka.bootstrap, topics.status, ShiftedClock(timedelta(0)))
    (spec,) = (spec for spec in manifest([], prefix=topics.prefix) if spec.name == topics.clock)
    changed = await apply(fresh_kafka.bootstrap, [spec.model_copy(update={"timestamps": "CreateTime"})])
    assert changed == [f"changed {topics.clock}: message.timestamp.type=LogAppendTime to message.timestamp.type=CreateTime"]


async def test_a_broker_that_does_not_answer_is_said_so() -> None:
    """One sentence, no stack of a client."""
    with pytest.raises(OrchestratorError, match="did not tell the time"):
        await skew("127.0.0.1:1", "dsr.clock.v1", ShiftedClock(timedelta(0)))
