"""The whole comparison: floor and ours, one after the other, on one broker.

Room rules: starts its own processes and stops them; prints nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from orchestrator.adapters import topics as topics_adapter
from orchestrator.bench.measure import Latency, Throughput, latency, make_requests, publish, throughput
from orchestrator.bench.processes import Cpu, Running, player, worker
from orchestrator.demo.keyring import Keyring
from orchestrator.demo.stage import free_port
from schemas.intake import IntakeKey
from schemas.topics import Topics, manifest
from schemas.trust import ORCHESTRATOR, system_principal

__all__ = ["SIGNED_TOGETHER", "Comparison", "Plan", "bench_keys", "compare"]


#: A portal that has a backlog publishes, and signs, so many requests together; those of the latency run come one by one.
SIGNED_TOGETHER = 100
#: A rate at which neither side has work that waits for other work: what remains are the steps themselves. Requests, a second.
_LIGHT_REQUESTS, _LIGHT_RATE = 200, 20.0
#: Records whose size is looked at, of each kind.
_SAMPLE = 2_000


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
    signatures: bool = True
    #: Connectors ask a worker for the key of every order.
    keys: bool = True
    #: Measure ours once more with two workers on one store, and once with neither signatures nor keys.
    pair_too: bool = False
    off_too: bool = False
    #: The keys of the store, the same for all that are measured: they may share it.
    key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode(), repr=False)
    intake: IntakeKey = field(default_factory=partial(IntakeKey.new, "intake-bench"), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side did."""

    throughput: Throughput
    #: At a quarter of its own peak rate, and at the same light one for all.
    latency: Latency
    light: Latency
    records: int
    #: What the measured processes took for the backlog, from being ready on.
    cpu: Cpu
    #: How many bytes a record of each kind of topic has, headers included.
    sizes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All sides of one run."""

    #: Plain aiokafka, writing the records that ours writes, as many and as large.
    floor: Side
    #: The same, writing orders and confirmations alone.
    bare: Side
    ours: Side
    pair: Side | None = None
    off: Side | None = None
    requests: int
    systems: int
    workers: int
    signatures: bool
    keys: bool

    def as_json(self) -> dict[str, float | int]:
        """Return the figures, flat."""
        return {
            "ours_per_s": round(self.ours.throughput.per_second, 1),
            "floor_per_s": round(self.floor.throughput.per_second, 1),
            "ratio": round(self.ours.throughput.per_second / self.floor.throughput.per_second, 3),
            **self._figures("", self.ours),
            **self._figures("floor_", self.floor),
            "bare_per_s": round(self.bare.throughput.per_second, 1),
            "ratio_to_bare": round(self.ours.throughput.per_second / self.bare.throughput.per_second, 3),
            **self._figures("bare_", self.bare),
            "light_rate_per_s": _LIGHT_RATE,
            "rate_per_s": round(self.ours.latency.rate, 1),
            "cpu_main_ms_per_request": round(self.ours.cpu.main / self.requests * 1000, 3),
            "requests": self.requests,
            "systems": self.systems,
            "workers": self.workers,
            "signatures": self.signatures,
            "keys": self.keys,
            **self._more("pair", self.pair),
            **self._more("off", self.off),
        }

    def _more(self, name: str, side: Side | None) -> dict[str, float | int]:
        if side is None:
            return {}
        return {
            f"{name}_per_s": round(side.throughput.per_second, 1),
            f"{name}_ratio": round(side.throughput.per_second / self.floor.throughput.per_second, 3),
            f"{name}_ratio_to_bare": round(side.throughput.per_second / self.bare.throughput.per_second, 3),
            **self._figures(f"{name}_", side),
        }

    def _figures(self, prefix: str, side: Side) -> dict[str, float]:
        """Return what is told of each side alike."""
        return {
            f"{prefix}p50_ms": round(side.latency.p50_ms, 1),
            f"{prefix}p99_ms": round(side.latency.p99_ms, 1),
            f"{prefix}light_p50_ms": round(side.light.p50_ms, 1),
            f"{prefix}light_p99_ms": round(side.light.p99_ms, 1),
            f"{prefix}records_per_request": round(side.records / self.requests, 2),
            f"{prefix}cpu_ms_per_request": round((side.cpu.main + side.cpu.others) / self.requests * 1000, 3),
        }


async def compare(plan: Plan, say: Callable[[str], None]) -> Comparison:
    """Measure plain aiokafka and ours; if asked for, ours with two workers, and without signatures and questions for keys."""
    # A broker that has just started is slower: whoever is measured on it first would look worse than he is.
    say("warming the broker up with plain aiokafka")
    await _side(plan, "floor", say)
    say("measuring plain aiokafka, state in memory, orders and confirmations alone")
    bare = await _side(plan, "floor", say)
    say("measuring ours")
    ours = await _side(plan, "ours", say)
    say("measuring the floor: plain aiokafka, state in memory, the records that ours has written")
    floor = await _side(plan, "floor", say, sizes=ours.sizes)
    pair = off = None
    if plan.pair_too:
        say("measuring ours with two workers on one store")
        pair = await _side(replace(plan, workers=2), "pair", say)
    if plan.off_too:
        say("measuring ours with signatures off, and nobody asking for keys")
        off = await _side(replace(plan, signatures=False, keys=False), "off", say)
    return Comparison(
        floor=floor,
        bare=bare,
        ours=ours,
        pair=pair,
        off=off,
        requests=plan.requests,
        systems=plan.systems,
        workers=plan.workers,
        signatures=plan.signatures,
        keys=plan.keys,
    )


async def _side(plan: Plan, name: str, say: Callable[[str], None], *, sizes: Mapping[str, int] | None = None) -> Side:
    names = [f"system{number}" for number in range(1, plan.systems + 1)]
    topics = Topics(prefix=f"bench-{name}-{secrets.token_hex(3)}")
    await topics_adapter.apply(plan.bootstrap, manifest(names, prefix=topics.prefix))
    key, intake = plan.key, plan.intake
    # The floor signs nothing.
    keyring = bench_keys(plan.folder / f"{topics.prefix}-keys", names) if plan.signatures and name != "floor" else None
    signer = keyring.key("portal:bench") if keyring is not None else None
    backlog = make_requests(plan.requests, topics, intake.public, signer=signer, together=SIGNED_TOGETHER)
    await publish(plan.bootstrap, backlog)
    async with contextlib.AsyncExitStack() as stack:
        roles = ("respond", "floor") if name == "floor" else ("respond",)
        ports = [free_port() for _ in range(plan.workers if name != "floor" else 0)]
        desks = ports if plan.keys else []
        play = partial(player, keyring=keyring, desk_ports=desks, sizes=sizes)
        starts = [play(role, plan.bootstrap, topics, names, plan.folder) for role in roles]
        store_url = plan.store_url or f"sqlite:///{plan.folder / topics.prefix}.sqlite"
        ours = partial(
            worker, plan.bootstrap, topics, names, plan.folder, key=key, intake=intake, store_url=store_url, keyring=keyring
        )
        starts += [ours(number=number, port=port) for number, port in enumerate(ports)]
        running = [await stack.enter_async_context(start) for start in starts]
        await asyncio.gather(*(one.ready() for one in running))
        measured = [one for one in running if one.name != "respond"]
        at_start = [one.cpu_seconds() for one in measured]
        wanted = {record.key for record in backlog}
        done = await throughput(
            plan.bootstrap,
            topics,
            names,
            wanted,
            timeout_seconds=plan.timeout_seconds,
            alive=partial(_all_alive, running),
        )
        took = [one.cpu_seconds() - before for one, before in zip(measured, at_start, strict=True)]
        cpu = sum(took[1:], took[0])
        say(f"{name}: {done.per_second:,.0f} requests/s, {(cpu.main + cpu.others) / plan.requests * 1000:.2f} ms CPU a request")
        records, bytes_of = await _records(plan.bootstrap, topics, names)
        paced = make_requests(plan.latency_requests, topics, intake.public, signer=signer)
        quick = await latency(plan.bootstrap, topics, paced, done.per_second / 4)
        few = make_requests(_LIGHT_REQUESTS, topics, intake.public, signer=signer)
        light = await latency(plan.bootstrap, topics, few, _LIGHT_RATE)
        for found in (quick, light):
            say(f"{name}: p50 {found.p50_ms:.0f} ms, p99 {found.p99_ms:.0f} ms at {found.rate:,.0f} requests/s")
    return Side(throughput=done, latency=quick, light=light, records=records, cpu=cpu, sizes=bytes_of)


def bench_keys(folder: Path, systems: list[str]) -> Keyring:
    """Make a key for everyone who speaks in a measurement."""
    return Keyring(folder, [ORCHESTRATOR, "portal:bench", *map(system_principal, systems)])


def _all_alive(running: list[Running]) -> None:
    for one in running:
        one.check()


async def _records(bootstrap: str, topics: Topics, systems: list[str]) -> tuple[int, dict[str, int]]:
    """Count all records of the installation, inputs included; return how large those are that a worker writes, by kind."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        specs = manifest(systems, prefix=topics.prefix)
        parts = [TopicPartition(spec.name, partition) for spec in specs for partition in range(spec.partitions)]
        count = sum((await consumer.end_offsets(parts)).values())
        written = {"status": topics.status, "journal": topics.journal, "confirmations": topics.confirmations}
        written["orders"] = topics.orders(systems[0])
        sizes = {
            kind: await _mean_bytes(consumer, [one for one in parts if one.topic == name]) for kind, name in written.items()
        }
        return count, sizes
    finally:
        await consumer.stop()


async def _mean_bytes(consumer: AIOKafkaConsumer, parts: list[TopicPartition]) -> int:
    """Return the mean size of a topic's first records; 0 if it has none."""
    ends = await consumer.end_offsets(parts)
    if not sum(ends.values()):
        return 0
    consumer.assign(parts)
    await consumer.seek_to_beginning()
    found = await consumer.getmany(timeout_ms=5000, max_records=_SAMPLE)
    sizes = [
        len(record.value) + sum(len(name) + len(value) for name, value in record.headers)
        for records in found.values()
        for record in records
    ]
    return round(sum(sizes) / max(1, len(sizes)))
