"""How it behaves at size: more workers, more systems, a store full of open requests.

Room rules: measures and returns rows; `docs/performance.md` is written from them by a command.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from orchestrator.adapters import topics as topics_adapter
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.bench.measure import latency, make_requests, publish, throughput
from orchestrator.bench.processes import Running, player, registry_of, worker
from orchestrator.bench.run import SIGNED_TOGETHER, bench_keys
from orchestrator.core.decide import decide
from orchestrator.core.effects import Input, Opened
from orchestrator.core.policy import Context
from orchestrator.core.state import to_bytes
from orchestrator.demo.stage import free_port
from orchestrator.ports import Change, Row
from schemas.ids import digest
from schemas.intake import IntakeKey
from schemas.topics import Topics, manifest
from schemas.vocabulary import IdentifierKind
from schemas.wire import PORTAL_MESSAGES, decode

__all__ = ["CASES", "Case", "Measured", "as_markdown", "measure_case"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table."""

    store_url: str
    workers: int = 1
    systems: int = 4
    #: Open requests in the store before the measurement.
    already_open: int = 0
    requests: int = 5_000
    latency_requests: int = 400

    @property
    def store(self) -> str:
        """Return the store's name."""
        return "SQLite" if self.store_url.startswith("sqlite") else "PostgreSQL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one case did."""

    case: Case
    per_second: float
    p50_ms: float
    p99_ms: float
    #: Processor time of all workers for one request of the backlog.
    cpu_ms: float
    #: Memory of the largest worker at the end.
    resident_mb: float
    #: One round of the sweeper, on average.
    sweep_ms: float
    #: From starting a killed worker again to its first confirmation.
    restart_seconds: float


#: (store, workers, systems, open requests) of each row; the last one only with `--full`.
CASES = (
    ("sqlite", 1, 4, 0),
    ("sqlite", 1, 16, 0),
    ("sqlite", 2, 4, 0),
    ("sqlite", 1, 4, 10_000),
    ("postgresql", 1, 4, 0),
    ("postgresql", 2, 4, 0),
    ("postgresql", 4, 4, 0),
    ("sqlite", 1, 4, 1_000_000),
)


def as_markdown(rows: list[Measured]) -> str:
    """Return the table of `docs/performance.md`."""
    head = (
        "| store | workers | systems | already open | requests/s | CPU ms a request | p50 ms | p99 ms | memory MB | sweep ms |"
        " restart s |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    )
    return head + "".join(_line(row) for row in rows)


def _line(row: Measured) -> str:
    case = row.case
    cells = (
        case.store,
        case.workers,
        case.systems,
        f"{case.already_open:,}",
        f"{row.per_second:,.0f}",
        f"{row.cpu_ms:.2f}",
        f"{row.p50_ms:.0f}",
        f"{row.p99_ms:.0f}",
        f"{row.resident_mb:.0f}",
        f"{row.sweep_ms:.1f}",
        f"{row.restart_seconds:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


async def measure_case(bootstrap: str, folder: Path, case: Case, say: Callable[[str], None]) -> Measured:
    """Measure one case on topics of its own."""
    names = [f"system{number}" for number in range(1, case.systems + 1)]
    topics = Topics(prefix=f"scale-{secrets.token_hex(3)}")
    await topics_adapter.apply(bootstrap, manifest(names, prefix=topics.prefix))
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    intake = IntakeKey.new("intake-bench")
    if case.already_open:
        say(f"filling the store with {case.already_open:,} open requests")
        await _fill(case, topics, intake, names)
    keyring = bench_keys(folder / f"{topics.prefix}-keys", names)
    filed = partial(make_requests, topics=topics, key=intake.public, signer=keyring.key("portal:bench"))
    backlog = filed(case.requests, together=SIGNED_TOGETHER)
    await publish(bootstrap, backlog)
    start = partial(worker, bootstrap, topics, names, folder, key=key, intake=intake, store_url=case.store_url, keyring=keyring)
    ports = [free_port() for _ in range(case.workers)]
    async with contextlib.AsyncExitStack() as stack:
        respond = player("respond", bootstrap, topics, names, folder, keyring=keyring, desk_ports=ports)
        await stack.enter_async_context(respond)
        workers = [await stack.enter_async_context(start(number=number, port=port)) for number, port in enumerate(ports)]
        wanted = {record.key for record in backlog}
        alive = partial(_alive, workers)
        await asyncio.gather(*(one.ready() for one in workers))
        at_start = [one.cpu_seconds() for one in workers]
        done = await throughput(bootstrap, topics, names, wanted, timeout_seconds=240, alive=alive)
        took = [one.cpu_seconds() - before for one, before in zip(workers, at_start, strict=True)]
        paced = filed(case.latency_requests)
        quick = await latency(bootstrap, topics, paced, done.per_second / 4)
        resident = max(one.resident_mb for one in workers)
        rounds = workers[0].metric("dsr_sweep_seconds_count")
        sweep = workers[0].metric("dsr_sweep_seconds_sum") / max(rounds, 1)
        workers[0].process.kill()
        workers[0].process.wait()
        again = time.perf_counter()
        await stack.enter_async_context(start(number=0, port=ports[0]))
        one = filed(1)
        await publish(bootstrap, one)
        await throughput(bootstrap, topics, names, {one[0].key}, timeout_seconds=120, alive=lambda: None)
        restart = time.perf_counter() - again
    measured = Measured(
        case=case,
        per_second=done.per_second,
        p50_ms=quick.p50_ms,
        p99_ms=quick.p99_ms,
        cpu_ms=sum(one.main + one.others for one in took) / case.requests * 1000,
        resident_mb=resident,
        sweep_ms=sweep * 1000,
        restart_seconds=restart,
    )
    size = f"{case.workers} worker(s), {case.systems} systems, {case.already_open:,} open"
    say(f"{case.store}, {size}: {done.per_second:,.0f} requests/s")
    return measured


def _alive(workers: list[Running]) -> None:
    for one in workers:
        one.check()


async def _fill(case: Case, topics: Topics, intake: IntakeKey, names: list[str]) -> None:
    """Write requests that wait for all their systems, as a worker would have left them."""
    registry = registry_of(names)
    record = make_requests(1, topics, intake.public)[0]
    message = decode(record.value, record.headers, PORTAL_MESSAGES)
    now = datetime.now(UTC)  # noqa: TID251 - the bench fills a store
    context = Context(registry=registry, registries={registry.content_digest: registry})
    given = Input(message, "bench-0-0", digest(record.value), Opened((IdentifierKind.EMAIL,), "0" * 64))
    state = decide(None, given, now, context).state
    assert state is not None
    template, model = to_bytes(state), record.key
    engine = make_engine(case.store_url)
    await asyncio.to_thread(schema.upgrade, engine)
    store = SqlStore(engine)
    await store.keep_registry(registry.content_digest, registry.model_dump_json().encode())
    for first in range(0, case.already_open, 5_000):
        rows = []
        for _ in range(first, min(first + 5_000, case.already_open)):
            request = str(uuid.uuid4())  # noqa: TID251 - the bench plays a portal
            rows.append(
                Row(request, 0, template.replace(model, request.encode()), "active", "access", digest(request.encode()),
                    now + timedelta(days=1), state.due.due_at if state.due else None, now, "system1:sent")
            )  # fmt: skip
        await store.commit(Change(worker="bench", now=now, rows=rows))
    await store.aclose()
