"""Where a worker's processor time goes, stage by stage: its own path in this process, sampled by the processor's clock.

Batches are shaped like those of a loaded worker: new requests together with the reports on earlier ones. Nothing is patched
and nothing replaced but the broker: a timer interrupts every millisecond of processor time, and the time since the last
interruption is booked to the stage whose function is on the stack.

Room rules: measures; the table of stages is the only thing that knows function names.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from prometheus_client import CollectorRegistry

from orchestrator.adapters.clock import SystemClock
from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.bench.measure import make_requests
from orchestrator.bench.players import answer_to
from orchestrator.bench.processes import registry_of
from orchestrator.core.policy import Policy
from orchestrator.ports import OutRecord, Publisher, Record
from orchestrator.shell.inbox import Inbox, QuarantineLimit
from orchestrator.shell.translate import Translator
from orchestrator.shell.work import Ground
from schemas.intake import IntakeKey
from schemas.sealed import SealingKey
from schemas.topics import Topics

__all__ = ["Share", "measure_stages", "stages_as_markdown"]

#: The innermost function on the stack that stands here names the stage.
_STAGES: Mapping[tuple[str, str], str] = {
    ("translate", "read"): "decode and open inputs",
    ("state", "from_bytes"): "decode states",
    ("work", "load"): "load",
    ("decide", "decide"): "decide",
    ("confirmation", "confirm"): "write the confirmation",
    ("decide", "_journal"): "write the journal",
    ("translate", "order"): "seal and encode orders",
    ("translate", "published"): "encode status and journal records",
    ("translate", "confirmation"): "encode status and journal records",
    ("work", "_keep"): "seal identities for the store",
    ("state", "to_bytes"): "encode states",
    ("work", "finish"): "collect the change",
    ("measure", "measure"): "count",
    ("producer", "publish"): "publish",
}


@dataclass(frozen=True, slots=True)
class Share:
    """Processor time of one stage, per request, in microseconds."""

    stage: str
    micros: float


@dataclass(slots=True)
class _Bus:
    """Collects what the worker publishes and answers its orders; publishes on a real broker as well if there is one."""

    topics: Topics
    broker: Publisher | None
    orders: list[OutRecord] = field(default_factory=list)
    confirmed: int = 0
    records: int = 0

    async def publish(self, records: Sequence[OutRecord]) -> None:
        self.records += len(records)
        for record in records:
            if record.topic == self.topics.confirmations:
                self.confirmed += 1
            elif record.topic not in {self.topics.journal, self.topics.status}:
                self.orders.append(record)
        if self.broker is not None:
            await self.broker.publish(records)

    async def aclose(self) -> None:
        return


class _Sampler:
    """Books this thread's processor time by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = 0.0

    def _book(self, _number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        stage = "the rest"
        while frame is not None:
            code = frame.f_code
            found = _STAGES.get((Path(code.co_filename).stem, code.co_name)) if "orchestrator" in code.co_filename else None
            if found is not None:
                stage = found
                break
            frame = frame.f_back
        self.seconds[stage] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Sample while the block runs."""
        before = signal.signal(signal.SIGPROF, self._book)
        self._last = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


async def measure_stages(
    folder: Path,
    *,
    requests: int = 4_000,
    systems: int = 4,
    batch: int = 400,
    store_url: str | None = None,
    broker: Publisher | None = None,
    topics: Topics | None = None,
) -> list[Share]:
    """Return the processor time of each stage per request; the store's own thread is a stage of its own.

    Runs in the main thread (signals). `batch` new requests stand in each batch of records, with the reports of earlier ones.
    """  # fmt: skip
    names = [f"system{number}" for number in range(1, systems + 1)]
    topics = topics or Topics(prefix=f"stages-{secrets.token_hex(3)}")
    sealing, intake = SealingKey("dev", secrets.token_bytes(32)), IntakeKey.new("intake-bench")
    engine = make_engine(store_url or f"sqlite:///{folder / 'stages.sqlite'}")
    schema.upgrade(engine)
    store = SqlStore(engine)
    registry, keys, clock, metrics = (
        registry_of(names),
        RequestKeys(KeyEncryption([sealing]), intake={intake.kid: intake}, grouping=sealing.derive("grouping")),
        SystemClock(),
        WorkerMetrics(CollectorRegistry()),
    )
    bus = _Bus(topics, broker)
    ground = Ground(
        store=store,
        keys=keys,
        translator=Translator(keys, topics),
        registry=registry,
        registries={registry.content_digest: registry},
        policy=Policy(),
        worker="bench",
    )
    inbox = Inbox(ground, bus, clock, metrics, QuarantineLimit(clock, at_most=1))
    sampler = _Sampler()
    backlog = make_requests(requests, topics, intake.public)
    offset, store_seconds = 0, 0.0
    delayed: list[OutRecord] = []
    while bus.confirmed < requests:
        new, backlog = backlog[:batch], backlog[batch:]
        early, late = _halves([answer_to(order, topics) for order in bus.orders])
        bus.orders = []
        taken = _as_read([*new, *delayed, *early], offset)
        delayed, offset = late, offset + len(taken)
        before = _store_seconds()
        with sampler.running():
            await inbox.process(taken)
        store_seconds += _store_seconds() - before
    await store.aclose()
    sampler.seconds["SQL, in the store's own thread"] = store_seconds
    most_first = sorted(sampler.seconds.items(), key=lambda item: -item[1])
    return [Share(stage, seconds / requests * 1e6) for stage, seconds in most_first]


def _halves(reports: list[OutRecord]) -> tuple[list[OutRecord], list[OutRecord]]:
    """Half of a request's reports come with the next batch, half with the one after."""
    halves: tuple[list[OutRecord], list[OutRecord]] = ([], [])
    seen: Counter[bytes] = Counter()
    for report in reports:
        halves[seen[report.key] % 2].append(report)
        seen[report.key] += 1
    return halves


def _as_read(records: Sequence[OutRecord], offset: int) -> list[Record]:
    return [
        Record(record.topic, 0, offset + number, 0, record.key, record.value, record.headers)
        for number, record in enumerate(records)
    ]


def _store_seconds() -> float:
    """Return the processor time of the store's thread."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("store") and thread.ident is not None]
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident is not None]
    return sum(time.clock_gettime(clock) for clock in clocks) if sys.platform == "linux" else 0.0


def stages_as_markdown(shares: Sequence[Share]) -> str:
    """Return the table of `docs/performance.md`."""
    total = sum(share.micros for share in shares)
    head = "| stage | microseconds a request | share |\n| --- | ---: | ---: |\n"
    rows = "".join(f"| {share.stage} | {share.micros:,.0f} | {share.micros / total:.0%} |\n" for share in shares)
    return f"{head}{rows}| all | {total:,.0f} | 100% |\n"
