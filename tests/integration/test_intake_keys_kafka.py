"""Intake keys of two workers on one PostgreSQL and a real broker: shared, changed while requests flow, destroyed when read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from moved_clock import MovedClock
from worker_kit import INTAKE, World, request, settings_for, worker

from orchestrator.bootstrap import Worker
from orchestrator.core.intake_keys import IntakePolicy
from schemas.intake import IntakeKeySet, IntakePublicKey
from schemas.portal import build_request
from schemas.requests import SubmitRequest
from schemas.status import StatusEvent
from schemas.vocabulary import QuarantineReason, Right, StatusCode

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]
POLICY = IntakePolicy()


def sealed_to(key: IntakePublicKey) -> SubmitRequest:
    """Return a request that a portal seals to this key."""
    like = request(Right.ERASURE)
    return build_request(
        Right.ERASURE,
        {"email": ["someone@example.org"]},
        portal="website",
        key=key,
        submitted_at=like.submitted_at,
        subject_request_id=like.subject_request_id,
        verification=like.verification,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the worker sets no event of ours
            await asyncio.sleep(0.02)


async def test_a_key_lives_from_its_page_to_its_destruction(fresh_kafka, postgres_url: str, tmp_path: Path) -> None:
    """Portals move to the new key and both open; the old one goes from both workers once all before it was read."""
    topics = await fresh_kafka.create("crm", "newsletter", "accounts")
    clock = MovedClock(datetime.now(UTC))
    (tmp_path / "two").mkdir()
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, store_url=postgres_url)
    second = settings_for(tmp_path / "two", fresh_kafka.bootstrap, topics, store_url=postgres_url, worker_id="w2")
    async with (
        World(fresh_kafka.bootstrap, topics).running() as world,
        worker(settings, clock) as one,
        worker(second, clock) as other,
    ):

        async def published(by: Worker) -> IntakeKeySet:
            async with httpx.AsyncClient() as client:
                return IntakeKeySet.from_json((await client.get(f"{by.http.url}/v1/intake-keys")).text)

        async def confirmed(*asked: SubmitRequest) -> None:
            for each in asked:
                await world.publish(each)
            await world.until(lambda: all(each.subject_request_id in world.confirmations for each in asked))

        def age(by: Worker) -> float:
            return by.metrics.registry.get_sample_value("dsr_intake_key_age_seconds") or 0.0

        assert await published(one) == await published(other)
        assert (await published(one)).current == INTAKE.public
        await confirmed(*(sealed_to(INTAKE.public) for _ in range(8)))

        clock.move_to(clock.now() + timedelta(days=31))
        await until(lambda: age(one) > 0 and age(other) > 0)
        await until(lambda: len(one.sweeper._intake.private) == len(other.sweeper._intake.private) == 2)
        assert (await published(one)).current == INTAKE.public, "nobody is told before every worker knows"
        clock.move_to(clock.now() + POLICY.lead)
        new = (await published(one)).current
        assert new == (await published(other)).current != INTAKE.public
        await confirmed(*(sealed_to(key) for key in (new, INTAKE.public) * 4))

        clock.move_to(clock.now() + POLICY.grace + POLICY.kept + timedelta(minutes=1))
        async with asyncio.timeout(60):
            while INTAKE.kid in one.sweeper._intake.private or INTAKE.kid in other.sweeper._intake.private:
                clock.move_to(clock.now() + timedelta(seconds=20))
                await asyncio.sleep(0.2)
        assert INTAKE.public not in (await published(one)).keys

        late = sealed_to(INTAKE.public)
        await world.publish(late)

        def told() -> list[StatusEvent]:
            events = [StatusEvent.model_validate_json(record.value) for record in world.records[topics.status]]
            return [event for event in events if event.subject_request_id == late.subject_request_id]

        await world.until(lambda: any(event.code is StatusCode.REJECTED for event in told()))
        (event,) = told()
        assert (event.rejected, event.field) == (QuarantineReason.IDENTITY_UNREADABLE, "sealed.kid")
        assert event.remedy is not None and "fetch the intake keys" in event.remedy
        await confirmed(sealed_to((await published(other)).current))
        assert len(world.records[topics.quarantine]) == 1
