"""The worker on a real broker: one request in, every system told, one confirmation out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from worker_kit import World, request, settings_for, worker

from schemas.vocabulary import OutcomeCode, RequestResult, Right

pytestmark = pytest.mark.kafka


async def test_a_request_is_confirmed_after_every_system_has_answered(fresh_kafka, tmp_path: Path) -> None:
    """Each system of the plan gets its order, in stages; the confirmation lists all outcomes."""
    topics = await fresh_kafka.create("crm", "newsletter", "accounts")
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = request(Right.ERASURE)
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings):
        await world.publish(asked)
        await world.until(lambda: asked.subject_request_id in world.confirmations)
        confirmation = world.confirmation(asked.subject_request_id)
    assert confirmation.result is RequestResult.FULFILLED
    assert {s.system: s.outcome.code for s in confirmation.systems} == dict.fromkeys(
        ("crm", "newsletter", "accounts"), OutcomeCode.FULFILLED
    )
    assert [order.system for order in world.orders].index("crm") < [order.system for order in world.orders].index("accounts")
