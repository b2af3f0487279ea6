"""The whole comparison: floor and ours, one after the other, on one broker.

Room rules: starts its own processes and stops them; prints nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from orchestrator.adapters import topics as topics_adapter
from orchestrator.bench.measure import Latency, Throughput, latency, make_requests, publish, throughput
from schemas.sealed import SealingKey
from schemas.topics import Topics, manifest

__all__ = ["Comparison", "Plan", "compare"]

_SYSTEM = (
    "  - {{id: {id}, title: System {id}, role: processor, owner: Bench, connector: bench,"
    " rights: [access], needs: [{{kind: email}}]}}\n"
)
_REGISTRY = (
    "version: bench\ncontroller: {title: Bench, zone: Europe/Amsterdam, calendar: NL, regime: eu.gdpr}\n"
    "portals: [{id: bench, title: Bench, owner: Bench}]\nsystems:\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure."""

    bootstrap: str
    folder: Path
    requests: int = 20_000
    systems: int = 4
    workers: int = 1
    latency_requests: int = 1_000
    store_url: str | None = None
    timeout_seconds: float = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side did."""

    throughput: Throughput
    latency: Latency
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both sides of one run."""

    floor: Side
    ours: Side
    requests: int
    systems: int
    workers: int

    def as_json(self) -> dict[str, float | int]:
        """Return the figures, flat."""
        return {
            "ours_per_s": round(self.ours.throughput.per_second, 1),
            "floor_per_s": round(self.floor.throughput.per_second, 1),
            "ratio": round(self.ours.throughput.per_second / self.floor.throughput.per_second, 3),
            "p50_ms": round(self.ours.latency.p50_ms, 1),
            "p99_ms": round(self.ours.latency.p99_ms, 1),
            "floor_p50_ms": round(self.floor.latency.p50_ms, 1),
            "floor_p99_ms": round(self.floor.latency.p99_ms, 1),
            "rate_per_s": round(self.ours.latency.rate, 1),
            "records_per_request": round(self.ours.records / self.requests, 2),
            "floor_records_per_request": round(self.floor.records / self.requests, 2),
            "requests": self.requests,
            "systems": self.systems,
            "workers": self.workers,
        }


async def compare(plan: Plan, say: Callable[[str], None]) -> Comparison:
    """Measure the floor, then ours."""
    say("measuring the floor: plain aiokafka, state in memory")
    floor = await _side(plan, "floor", None, say)
    say("measuring ours")
    rate = None
    ours = await _side(plan, "ours", rate, say)
    return Comparison(floor=floor, ours=ours, requests=plan.requests, systems=plan.systems, workers=plan.workers)


async def _side(plan: Plan, name: str, rate: float | None, say: Callable[[str], None]) -> Side:
    names = [f"system{number}" for number in range(1, plan.systems + 1)]
    topics = Topics(prefix=f"bench-{name}-{secrets.token_hex(3)}")
    await topics_adapter.apply(plan.bootstrap, manifest(names, prefix=topics.prefix))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    sealing = SealingKey.from_base64("dev", key)
    backlog = make_requests(plan.requests, topics, sealing)
    await publish(plan.bootstrap, backlog)
    async with contextlib.AsyncExitStack() as stack:
        checks = [await stack.enter_async_context(_player("respond", plan, topics, names))]
        if name == "floor":
            checks.append(await stack.enter_async_context(_player("floor", plan, topics, names)))
        workers = [_worker(plan, topics, names, key, number) for number in range(plan.workers if name != "floor" else 0)]
        checks += [await stack.enter_async_context(worker) for worker in workers]
        wanted = {record.key for record in backlog}
        done = await throughput(
            plan.bootstrap,
            topics,
            names,
            wanted,
            timeout_seconds=plan.timeout_seconds,
            alive=partial(_all_alive, checks),
        )
        say(f"{name}: {done.per_second:,.0f} requests/s")
        records = await _records(plan.bootstrap, topics, names)
        paced = make_requests(plan.latency_requests, topics, sealing)
        quick = await latency(plan.bootstrap, topics, paced, rate or done.per_second / 4)
        say(f"{name}: p50 {quick.p50_ms:.0f} ms, p99 {quick.p99_ms:.0f} ms at {quick.rate:,.0f} requests/s")
    return Side(throughput=done, latency=quick, records=records)


def _all_alive(checks: list[Callable[[], None]]) -> None:
    for check in checks:
        check()


async def _records(bootstrap: str, topics: Topics, systems: list[str]) -> int:
    """Count all records of the installation, inputs included."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        specs = manifest(systems, prefix=topics.prefix)
        parts = [TopicPartition(spec.name, partition) for spec in specs for partition in range(spec.partitions)]
        return sum((await consumer.end_offsets(parts)).values())
    finally:
        await consumer.stop()


@contextlib.asynccontextmanager
async def _player(role: str, plan: Plan, topics: Topics, systems: list[str]) -> AsyncIterator[Callable[[], None]]:
    command = [sys.executable, "-m", "orchestrator.bench.players", role, plan.bootstrap, topics.prefix, *systems]
    async with _process(command, {}, plan.folder / f"{topics.prefix}-{role}.log") as check:
        yield check


@contextlib.asynccontextmanager
async def _worker(plan: Plan, topics: Topics, systems: list[str], key: str, number: int) -> AsyncIterator[Callable[[], None]]:
    registry = plan.folder / f"{topics.prefix}.yaml"
    registry.write_text(_REGISTRY + "".join(_SYSTEM.format(id=system) for system in systems))
    environment = {
        "DSR_KAFKA_BOOTSTRAP": plan.bootstrap,
        "DSR_TOPIC_PREFIX": topics.prefix,
        "DSR_REGISTRY": str(registry),
        "DSR_STORE_URL": plan.store_url or f"sqlite:///{plan.folder / topics.prefix}.sqlite",
        "DSR_DEVELOPMENT_KEY": key,
        "DSR_WORKER_ID": f"bench-{number}",
        "DSR_DATADIR": str(plan.folder / "data"),
        "DSR_HTTP_PORT": "0",
        "DSR_LOG_FORMAT": "json",
        "DSR_LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "orchestrator.cli", "worker", "--upgrade-store"]
    async with _process(command, environment, plan.folder / f"{topics.prefix}-worker-{number}.log") as check:
        yield check


@contextlib.asynccontextmanager
async def _process(command: list[str], environment: dict[str, str], log: Path) -> AsyncIterator[Callable[[], None]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out)  # noqa: ASYNC220 - our own

        def check() -> None:
            if process.poll() is not None:
                last = log.read_bytes()[-2000:].decode(errors="replace")
                raise RuntimeError(f"{command[2]} ended with {process.returncode} during the measurement:\n{last}")

        try:
            yield check
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(asyncio.to_thread(process.wait), 20)
            except TimeoutError:
                process.kill()
                process.wait()
