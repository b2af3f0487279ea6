"""Lag without progress is seen from outside; an idle partition is not taken for a stuck one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from pydantic import SecretStr

sys.path.insert(0, str(Path(__file__).parent))
from test_guards import Gate, mortal
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.bootstrap import Worker

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


async def healthy(running: Worker, wanted: int) -> str:
    """Wait until the health page answers with this status; return what it says."""
    async with asyncio.timeout(15.0), httpx.AsyncClient(base_url=running.http.url, trust_env=False) as page:
        while (answer := await page.get("/healthz")).status_code != wanted:  # noqa: ASYNC110 - a page cannot notify us
            await asyncio.sleep(0.1)
        return answer.text


async def test_a_stuck_batch_fails_the_health_check_until_it_moves(fresh_kafka, tmp_path: Path) -> None:
    """The page names the partition and the lag; as soon as a commit is made it is healthy again."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, watchdog_seconds=1.0)
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        await healthy(running, 200)
        gate = Gate(running)
        await world.publish(request())
        await gate.waiting.wait()
        assert f"{topics.requests}-" in await healthy(running, 503)
        gate.open()
        await healthy(running, 200)


async def test_a_stuck_worker_may_end_itself(fresh_kafka, tmp_path: Path) -> None:
    """Where nobody asks for its health, the worker ends with the same sentence."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, watchdog_seconds=1.0, watchdog_ends_process=True)
    async with World(fresh_kafka.bootstrap, topics).running() as world, mortal(settings) as (running, deaths):
        gate = Gate(running)
        await world.publish(request())
        assert "1 records wait and nothing was committed" in await deaths.first()
        gate.open()


async def test_what_has_expired_is_no_lag(fresh_kafka, tmp_path: Path) -> None:
    """A new group on a topic whose records are all past their retention has nothing to do, and is not called stuck."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, watchdog_seconds=1.0)
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        for number in range(4):
            await world._producer.send_and_wait(topics.commands, b"old", partition=number)
        admin = AIOKafkaAdminClient(bootstrap_servers=fresh_kafka.bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(topics.commands, n): RecordsToDelete(before_offset=1) for n in range(4)})
        await admin.close()
        async with worker(settings) as running:
            asked = request()
            await world.publish(asked)
            await world.until(lambda: asked.subject_request_id in world.confirmations)
            await asyncio.sleep(5.0)  # the watchdog looks every two seconds: this is a state that must not come
            async with httpx.AsyncClient(base_url=running.http.url, trust_env=False, timeout=15.0) as page:
                answer = await page.get("/healthz")  # once: asking until it is well would forgive what must not come
            assert answer.status_code == 200, answer.text


async def test_the_workers_pages_know_its_token(fresh_kafka, tmp_path: Path) -> None:
    """What is set reaches the pages of a worker that runs: its metrics are shown to whoever sends it, and to nobody else."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, metrics_token=SecretStr("t" * 32))
    async with worker(settings) as running, httpx.AsyncClient(base_url=running.http.url, trust_env=False) as page:
        assert (await page.get("/metrics")).status_code == 401
        shown = await page.get("/metrics", headers={"authorization": f"Bearer {'t' * 32}"})
        assert "dsr_build_info" in shown.text
        assert (await page.get("/healthz")).status_code == 200
