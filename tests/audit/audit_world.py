"""A small company in memory: the real core and store, connectors that answer by a script, and the log that all of it leaves."""

from __future__ import annotations

import uuid
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.audit.records import Extent, LogRecord, Place, Span
from orchestrator.core.effects import Input, Wake
from orchestrator.core.policy import Policy
from orchestrator.ports import OutRecord, Record
from orchestrator.shell.key_desk import KeyDesk
from orchestrator.shell.translate import Arrival, Translator
from orchestrator.shell.work import Ground, UnitOfWork
from schemas.base import Message
from schemas.commands import Command
from schemas.ids import report_id
from schemas.intake import seal_intake
from schemas.order_keys import Purpose, WantedKey, order_root
from schemas.orders import FulfilmentOrder, order_binding
from schemas.outcomes import Accepted, Failed, Fulfilled
from schemas.registry import Controller, Portal, Registry, System
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest, Verification
from schemas.sealed import SealingKey, seal
from schemas.subject import FieldChange, Need, SubjectData
from schemas.topics import Topics
from schemas.vocabulary import AssuranceLevel, IdentifierKind, Right, Role
from schemas.wire import ORDER_MESSAGES, decode, encode, headers_of
from tests.keys_kit import intake_of, request_keys

__all__ = ["CANARY", "REGISTRY", "START", "MemoryLog", "World", "world"]

START = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
CANARY = "canary.person@example.org"
PARTITIONS = 4
ALL = tuple(Right)

REGISTRY = Registry(
    version="test-1",
    controller=Controller(title="Example Company B.V.", zone="Europe/Amsterdam", calendar="NL"),
    portals=(Portal(id="website", title="Website", owner="Web team"), Portal(id="desk", title="Service desk", owner="Care")),
    systems=(
        System(id="crm", title="CRM", role=Role.PROCESSOR, owner="Sales", connector="hubspot", rights=ALL,
               needs=(Need(kind=IdentifierKind.EMAIL),), yields=(IdentifierKind.GA_CLIENT_ID,), irreversible=()),
        System(id="newsletter", title="Newsletter", role=Role.PROCESSOR, owner="Marketing", connector="mailchimp", rights=ALL,
               needs=(Need(kind=IdentifierKind.EMAIL),)),
        System(id="analytics", title="Analytics", role=Role.PROCESSOR, owner="Marketing", connector="google_analytics",
               rights=(Right.ERASURE, Right.ACCESS), needs=(Need(kind=IdentifierKind.GA_CLIENT_ID),), after=("crm",)),
        System(id="subsidiary", title="Subsidiary", role=Role.CONTROLLER, owner="Privacy office", connector="opendsr",
               rights=(Right.ERASURE, Right.ACCESS, Right.PORTABILITY), patience=timedelta(days=14)),
        System(id="later", title="Later", role=Role.CONTROLLER, owner="Nobody yet", status="planned"),
    ),
)  # fmt: skip

_ROOT = SealingKey("dev", bytes(range(32)))
#: What a connector answers to an order, in turn; None: it stays silent this time.
Answer = Callable[[FulfilmentOrder, datetime], Any]


class MemoryLog:
    """A log in memory, for the auditor. `records` may stand in any order across partitions."""

    def __init__(self, records: Sequence[LogRecord], extent: Mapping[tuple[str, int], Span] | None = None) -> None:
        self.records = list(records)
        self._extent = extent

    async def extent(self) -> Extent:
        """Return from the first to behind the last record of each partition."""
        if self._extent is not None:
            return self._extent
        ends: dict[tuple[str, int], int] = defaultdict(int)
        for record in self.records:
            place = record.place
            ends[place.topic, place.partition] = max(ends[place.topic, place.partition], place.offset + 1)
        return {partition: Span(0, end) for partition, end in ends.items()}

    async def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        """Yield what lies within the extent."""
        for record in self.records:
            topic, partition, offset = record.place
            span = extent.get((topic, partition), Span(0, 0))
            if span.beginning <= offset < span.end:
                yield record


class _Clock:
    """The company's time, for the key desk."""

    def __init__(self, company: World) -> None:
        self._company = company

    def now(self) -> datetime:
        """Return it."""
        return self._company.now

    async def sleep(self, seconds: float) -> None:
        """Nobody waits here."""
        raise NotImplementedError


class World:
    """The company, at a time of its own."""

    def __init__(self, store: SqlStore, topics: Topics, registry: Registry, policy: Policy) -> None:
        self.now = START
        self.topics = topics
        self.registry = registry
        self.keys = request_keys(_ROOT)
        self.store = store
        self.translator = Translator(self.keys, topics)
        self.ground = Ground(
            store=store,
            keys=self.keys,
            translator=self.translator,
            registry=registry,
            registries={registry.content_digest: registry},
            policy=policy,
            worker="test",
        )
        metrics = WorkerMetrics(CollectorRegistry())
        self.desk = KeyDesk(store, self.keys, self, _Clock(self), metrics, topics=topics, worker="test", signer=None)
        self.records: list[LogRecord] = []
        self._ends: dict[tuple[str, int], int] = defaultdict(int)
        self._unread: list[LogRecord] = []
        self._orders: list[FulfilmentOrder] = []
        #: Scripts by (request, system), by system, or by "": the first that is there answers; each call uses up one answer.
        self.scripts: dict[Any, list[Answer]] = {}
        self._counter = 0
        #: Of every request, open or closed: what a connector had in its memory.
        self._request_keys: dict[str, SealingKey] = {}

    # Publishing --------------------------------------------------------------------------------------------------------

    def put(self, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()) -> LogRecord:
        """Append a record to the log."""
        partition = 0 if topic == self.topics.quarantine else zlib.crc32(key or b"") % PARTITIONS
        offset = self._ends[topic, partition]
        self._ends[topic, partition] += 1
        record = LogRecord(Place(topic, partition, offset), int(self.now.timestamp() * 1000), key, value, tuple(headers))
        self.records.append(record)
        if topic in self.translator.inputs:
            self._unread.append(record)
        return record

    def say(self, topic: str, message: Message) -> LogRecord:
        """Publish a message under its request's key."""
        request: str = message.subject_request_id  # type: ignore[attr-defined]
        return self.put(topic, request.encode(), encode(message), headers_of(message))

    def again(self, record: LogRecord) -> LogRecord:
        """Publish the very same record once more."""
        return self.put(record.place.topic, record.key, record.value, record.headers)

    def new_id(self) -> str:
        """Return the next request id."""
        self._counter += 1
        return str(uuid.uuid5(uuid.NAMESPACE_OID, str(self._counter)))

    def submission(
        self,
        right: Right = Right.ERASURE,
        *,
        person: str = "",
        verified: bool = True,
        filed_by: str | None = None,
        field: str = "city",
    ) -> SubmitRequest:
        """Return a request of a person (by default of somebody new)."""
        request = self.new_id()
        changes = (FieldChange(field=field, new="Elsewhere"),) if right in {Right.RECTIFICATION, Right.COMPLETION} else ()
        data = SubjectData(identifiers={IdentifierKind.EMAIL: (person or f"p{self._counter}@example.org",)}, changes=changes)
        return SubmitRequest(
            subject_request_id=request,
            portal="website",
            right=right,
            submitted_at=self.now,
            sealed=seal_intake(data.to_bytes(), intake_of(_ROOT).public, request, secret=bytes(32)),
            verification=self.verification() if verified else None,
            filed_by=filed_by,
        )

    def verification(self) -> Verification:
        """Return the portal's word that it knows the person."""
        return Verification(method="mail_link", level=AssuranceLevel.SUBSTANTIAL, verified_at=self.now)

    def submit(self, right: Right = Right.ERASURE, **more: Any) -> str:
        """Publish a request; return its id."""
        message = self.submission(right, **more)
        self.say(self.topics.requests_for(message.right), message)
        return message.subject_request_id

    def command(self, model: type[Command], request: str, /, **fields: Any) -> LogRecord:
        """Publish an operator's command."""
        self._counter += 1
        fields = {
            "command_id": f"command-{self._counter}",
            "subject_request_id": request,
            "actor": "ops:anna",
            "reason": "Agreed with the privacy office",
            "issued_at": self.now,
            **fields,
        }
        return self.say(self.topics.commands, model.model_validate(fields))

    # Time and work -----------------------------------------------------------------------------------------------------

    async def settle(self, *, answer: bool = True) -> None:
        """Let orchestrator and connectors work until nobody has anything to do."""
        while self._unread or (answer and self._orders):
            unread, self._unread = self._unread, []
            await self._decide([self.translator.read(_as_read(record)) for record in unread])
            if answer:
                orders, self._orders = self._orders, []
                for order in orders:
                    await self._ask_for_key(order)
                    self._answer(order)

    async def _decide(self, arrivals: Sequence[Any]) -> None:
        work = UnitOfWork(self.ground, self.now)
        await work.load(arrivals)
        for arrival in arrivals:
            await work.apply(arrival)
            self._request_keys |= work._request_keys
        change = work.finish()
        if change.rows or change.records:
            await self.store.commit(change)
        for out in change.records:
            self._publish(out)

    def _publish(self, out: OutRecord) -> None:
        self.put(out.topic, out.key, out.value, out.headers)
        if out.topic.startswith(f"{self.topics.prefix}.orders."):
            order = decode(out.value, out.headers, ORDER_MESSAGES)
            if isinstance(order, FulfilmentOrder):
                self._orders.append(order)

    async def publish(self, records: Sequence[OutRecord]) -> None:
        """Append what the key desk writes down."""
        for out in records:
            self.put(out.topic, out.key, out.value, out.headers)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _ask_for_key(self, order: FulfilmentOrder) -> None:
        wanted = WantedKey(subject_request_id=order.subject_request_id, order_id=order.order_id)
        await self.desk.release(order.system, "", [wanted])

    def _answer(self, order: FulfilmentOrder) -> None:
        for name in ((order.subject_request_id, order.system), order.system, ""):
            script = self.scripts.get(name)
            if script:
                self.report(order, script.pop(0)(order, self.now))
                return
        self.report(order, Fulfilled(count=1))

    def report(self, order: FulfilmentOrder, outcome: Any, **more: Any) -> LogRecord | None:
        """Publish a report, or nothing for None."""
        if outcome is None:
            return None
        if isinstance(outcome, tuple):
            outcome, more = outcome
        if order.system == "crm" and not isinstance(outcome, Failed | Accepted):
            of = (order.subject_request_id, order.system, order.order_id)
            key = order_root(self._request_keys[order.subject_request_id], *of).derive(Purpose.REPORT)
            found = SubjectData(identifiers={IdentifierKind.GA_CLIENT_ID: ("GA1.1.1",)})
            more = {"yielded": seal(found.to_bytes(), key, associated=order_binding(*of)), **more}
        return self.say(
            self.topics.reports,
            FulfilmentReport(
                report_id=report_id(order.order_id, order.attempt, outcome.code),
                order_id=order.order_id,
                subject_request_id=order.subject_request_id,
                system=order.system,
                attempt=order.attempt,
                reported_at=self.now,
                outcome=outcome,
                **more,
            ),
        )

    async def advance(self, span: timedelta, *, answer: bool = True) -> None:
        """Let time pass, with every stored moment in it."""
        until = self.now + span
        while True:
            due = await self.store.due(until, 1000)
            if not due:
                break
            rows = await self.store.load(due)
            self.now = max(self.now, min(row.wake_at for row in rows.values() if row.wake_at is not None))
            await self._decide([Arrival(request, Input(Wake())) for request in await self.store.due(self.now, 1000)])
            await self.settle(answer=answer)
        self.now = until

    def log(self) -> MemoryLog:
        """Return the log so far."""
        return MemoryLog(self.records)


def _as_read(record: LogRecord) -> Record:
    place = record.place
    return Record(
        place.topic, place.partition, place.offset, record.timestamp_ms, record.key, record.value, list(record.headers)
    )


@asynccontextmanager
async def world(
    folder: Path, *, topics: Topics | None = None, registry: Registry = REGISTRY, policy: Policy | None = None
) -> AsyncIterator[World]:
    """Give a company whose store is a file in the folder."""
    engine = make_engine(f"sqlite:///{folder / 'audit-world.sqlite'}")
    schema.upgrade(engine)
    store = SqlStore(engine)
    try:
        yield World(store, topics or Topics(), registry, policy or Policy())
    finally:
        await store.aclose()
