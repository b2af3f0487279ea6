"""The shipped code between simulated ports: a worker as `bootstrap.run_worker` joins it, a connector as `process` joins it.

Room rules: composition only. What runs here is `Inbox`, `Sweeper`, `faust_app._drain`, `Runtime` and all below them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from connectors.sdk import runtime
from connectors.sdk.attempts import Limits
from connectors.sdk.blobs import key_of
from connectors.sdk.bus import Inbound
from connectors.sdk.keys import KeysUnavailable, Purpose
from connectors.sdk.protocol import Exported
from connectors.sdk.quota import SqlQuota
from connectors.sdk.retry import Backoff
from connectors.sdk.runtime import Runtime
from orchestrator import bootstrap
from orchestrator.core.policy import Policy
from orchestrator.ports import Holding, PublishFailed
from orchestrator.shell import faust_app
from orchestrator.shell.inbox import Inbox, QuarantineLimit
from orchestrator.shell.key_desk import KeyDesk, refusal_of
from orchestrator.shell.keys_ahead import Listeners, _Listener
from orchestrator.shell.sweeper import Sweeper
from orchestrator.shell.translate import Translator
from orchestrator.shell.work import Ground
from schemas.errors import ProtocolViolation, StoreUnavailable
from schemas.ids import digest
from schemas.keys_ahead import AheadMark
from schemas.metric_labels import KeyRefusal
from schemas.order_keys import KeyStatus, WantedKey, root_from_text
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.registry import Registry
from schemas.reports import ResultReference
from schemas.sealed import SealingKey
from schemas.topics import Topics
from schemas.vocabulary import QuarantineReason
from schemas.wire import TYPE_HEADER
from tests.keys_kit import request_keys
from tests.simulation.broker import Broker, Group, SimBus, SimPublisher
from tests.simulation.clockwork import instant_of, micros_of
from tests.simulation.company import ROOT
from tests.simulation.consumer import SimConsumer
from tests.simulation.journal import JournalOfLife, MemoryDisk
from tests.simulation.life import Life, LifeClock
from tests.simulation.store import Database, SimStore
from tests.simulation.vendor import SimConnector, Vendor

__all__ = ["ConnectorSetting", "MemoryBlobs", "NoMetrics", "WorkerSetting", "run_connector", "run_worker"]


#: Younger orders are never forgotten by a journal.
_FORGOTTEN_AFTER = timedelta(days=40)


class NoMetrics:
    """Counts nothing."""

    def count(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    set = replace = observe = count


@dataclass(slots=True)
class WorkerSetting:
    """What all workers of a world share, and how they are tuned."""

    broker: Broker
    group: Group
    database: Database
    registry: Registry
    policy: Policy
    sweep_seconds: float
    commit_seconds: float
    batch_records: int
    fetch_at_most: int
    session_seconds: float
    adopt_seconds: float = 30.0


async def run_worker(life: Life, setting: WorkerSetting) -> None:
    """Be a worker until the end."""
    clock = LifeClock(life)
    store: Any = SimStore(setting.database, life.step)
    keys = request_keys(ROOT, _fresh(life))
    metrics = NoMetrics()
    listeners = None
    if setting.broker.ahead is not None:
        named = hashlib.sha256(f"{life.name}/{life.number}".encode()).hexdigest()[:16]
        listeners = Listeners(clock, metrics, topics=setting.broker.topics, worker=life.name, life=named)
        setting.broker.ahead[named] = listeners
    ground = Ground(
        store=store,
        keys=keys,
        translator=Translator(keys, setting.broker.topics),
        registry=setting.registry,
        registries=await bootstrap._registries(store, setting.registry),
        policy=setting.policy,
        worker=life.name,
        listeners=listeners,
    )
    inbox = Inbox(ground, SimPublisher(life, setting.broker), clock, metrics, QuarantineLimit(clock, at_most=1000))
    deck = faust_app.WorkerDeck(
        metrics=metrics,
        end=lambda why: life.crash(f"ends itself: {why}"),
        batch_records=setting.batch_records,
        overlap_records=0,  # always
    )
    sweep_clock = LifeClock(life, doze_for=setting.sweep_seconds, useful=lambda: _sweeper_is_useful(setting, inbox))
    sweeper = Sweeper(
        ground, inbox, sweep_clock, metrics,
        interval_seconds=setting.sweep_seconds, adopt_after_seconds=setting.adopt_seconds,
    )  # fmt: skip
    recovered = await inbox.recover()
    if recovered:
        life.say(f"recovered {recovered} records from the outbox")
    consumer = SimConsumer(life, setting.group, deck, setting.fetch_at_most)
    life.on_stall = lambda seconds: setting.group.evict(life.name) if seconds > setting.session_seconds else None
    setting.group.join(consumer)
    app: Any = SimpleNamespace(consumer=consumer, should_stop=False)
    parts = {
        "drain": faust_app._drain(app, inbox, deck),
        "sweeper": sweeper.run(),
        "fetch": consumer.fetch(),
        "commit": consumer.commit(setting.commit_seconds),
        "beat": consumer.beat(),
    }
    await asyncio.gather(*(bootstrap._guarded(part, name, deck) for name, part in parts.items()))


def _sweeper_is_useful(setting: WorkerSetting, inbox: Inbox) -> int | None:
    """Return when a sweep finds something to do: a request that is due, a batch to forget or to adopt."""
    moments: list[int] = []
    wake_at = setting.database.next_wake_at()
    if wake_at is not None:
        moments.append(micros_of(wake_at))
    if inbox._published:
        moments.append(0)
    adopt = timedelta(seconds=setting.adopt_seconds, microseconds=1)
    moments += [micros_of(saved_at + adopt) for _, saved_at, _ in setting.database.outbox.values()]
    return min(moments, default=None)


class MemoryBlobs:
    """`connectors.sdk.blobs.BlobStore` that keeps digests: what the files hold is tested elsewhere."""

    def __init__(self) -> None:
        self.kept: dict[str, ResultReference] = {}

    async def keep(self, order: FulfilmentOrder, index: int, exported: Exported, now: datetime) -> ResultReference:
        """Keep a document."""
        key = key_of(order)
        stored = digest(repr((key.kid, index, exported.name, exported.content)).encode()).encode()
        expires_at = now + timedelta(days=30)
        name = f"{expires_at.date().isoformat()}/{order.order_id}/{index}-{hashlib.sha256(stored).hexdigest()[:16]}.sealed"
        reference = ResultReference(reference=name, sha256=digest(stored), size=len(stored), expires_at=expires_at, kid=key.kid)
        self.kept[name] = reference
        return reference

    async def expire(self, today: date) -> int:
        """Delete what expired before today."""
        gone = [name for name in self.kept if name[:10] < today.isoformat()]
        for name in gone:
            del self.kept[name]
        return len(gone)

    async def read(self, reference: str) -> bytes | None:
        """Nothing reads here."""
        raise NotImplementedError

    async def drop(self, order_id: str) -> int:
        """Delete what is kept for an order."""
        gone = [name for name in self.kept if name.split("/")[1] == order_id]
        for name in gone:
            del self.kept[name]
        return len(gone)

    async def check(self) -> None:
        """There is nothing to refuse."""


@dataclass(slots=True)
class ConnectorSetting:
    """What one connector's lives share."""

    broker: Broker
    vendor: Vendor
    disk: MemoryDisk
    limits: Limits
    fetch_at_most: int
    database: Database
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    #: Outlives every process, as a file does.
    quota: SqlQuota = field(default_factory=lambda: SqlQuota("sqlite://", "simulated"))
    #: What the present life hears by.
    ears: list[_Listener] = field(default_factory=list)

    @property
    def topics(self) -> Topics:
        """Return the names."""
        return self.broker.topics


def limits_of(max_tries: int) -> Limits:
    """Return how long connectors go on."""
    return Limits(retry=Backoff(5.0, 3600.0), poll=Backoff(30.0, 43_200.0), max_tries=max_tries)


def _fresh(life: Life) -> Callable[[int], bytes]:
    """Return bytes that follow from the life and from how many were asked for before: one seed is one world."""
    number = itertools.count()
    return lambda size: hashlib.sha256(f"{life.name}/{life.number}/{next(number)}".encode()).digest()[:size]


class SimOrderKeys:
    """`connectors.sdk.keys.OrderKeys` that asks the key desk as it ships; the way there may be cut.

    In some worlds it hears keys ahead, from every life of every worker. It waits for none: what it has not heard it asks for.
    """

    def __init__(self, life: Life, setting: ConnectorSetting) -> None:
        self._life = life
        self._system = setting.vendor.system.id
        store: Any = SimStore(setting.database, life.step)
        self._desk = KeyDesk(
            store, request_keys(ROOT), SimPublisher(life, setting.broker), LifeClock(life), NoMetrics(),
            topics=setting.topics, worker="desk", signer=None,
        )  # fmt: skip
        self._roots: dict[str, SealingKey] = {}
        self._setting = setting
        self._ears: dict[str, _Listener] = {}
        self._early: dict[str, SealingKey] = {}
        # An earlier life hears no more.
        for old in setting.ears:
            old.end()
        setting.ears.clear()
        self._listen()

    def _listen(self) -> None:
        for name, listeners in (self._setting.broker.ahead or {}).items():
            if name not in self._ears:
                self._ears[name] = _Listener(self._system, None)
                self._setting.ears.append(self._ears[name])
                listeners._listeners[self._system].append(self._ears[name])
            for line in self._ears[name].take():
                self._early |= {one.order_id: root_from_text(one.key or "") for one in line.keys}

    def _take_early(self, orders: Iterable[str]) -> None:
        """Have the keys at hand that came ahead; each is in the log by now."""
        for order_id in orders:
            root = self._early.pop(order_id, None)
            if root is not None:
                self._roots[order_id] = root
                records = self._setting.broker.records(self._setting.topics.releases)
                if not any(order_id.encode() in (record.value or b"") for record in records):
                    self._setting.vendor.complaints.append(f"the key to {order_id} went ahead and is not in the log")

    async def fetch(
        self, orders: Sequence[FulfilmentOrder], ahead: Mapping[str, AheadMark] | None = None
    ) -> Mapping[str, KeyStatus]:
        """Ask for those that are not in memory."""
        self._listen()
        self._take_early(order.order_id for order in orders if order.order_id in (ahead or {}))
        missing = [order for order in orders if order.order_id not in self._roots]
        if not missing:
            return {}
        wanted = [WantedKey(subject_request_id=one.subject_request_id, order_id=one.order_id) for one in missing]
        await self._life.step("before asking for keys", _cut)
        try:
            answers = await self._desk.release(self._system, "simulated", wanted)
        except (StoreUnavailable, PublishFailed):
            raise KeysUnavailable("simulated") from None
        await self._life.step("after asking for keys", _cut)
        self._roots |= {one.order_id: root_from_text(one.key) for one in answers if one.key is not None}
        return {one.order_id: one.status for one in answers if one.key is None}

    async def standing(self, orders: Sequence[OrderCancelled]) -> Mapping[str, KeyStatus]:
        """Ask anew."""
        wanted = [WantedKey(subject_request_id=one.subject_request_id, order_id=one.order_id) for one in orders]
        await self._life.step("before asking what is over", _cut)
        try:
            answers = await self._desk.release(self._system, "simulated", wanted)
        except (StoreUnavailable, PublishFailed):
            raise KeysUnavailable("simulated") from None
        return {one.order_id: one.status for one in answers}

    def at_hand(self) -> Collection[str]:
        """Return whose roots are in memory."""
        return self._roots.keys()

    def key_for(self, order: FulfilmentOrder, purpose: Purpose = Purpose.ORDER) -> SealingKey:
        """Derive from the order's root."""
        root = self._roots.get(order.order_id)
        if root is None:
            raise ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field="sealed", remedy="no key for this order")
        return root.derive(purpose)

    def holding(self, order_id: str) -> contextlib.AbstractContextManager[None]:
        """Nothing is ever pushed out here."""
        return contextlib.nullcontext()

    def forget(self, order_id: str) -> None:
        """Drop the root."""
        self._roots.pop(order_id, None)


def _cut() -> KeysUnavailable:
    return KeysUnavailable("simulated")


async def run_connector(life: Life, setting: ConnectorSetting) -> None:
    """Be a connector until the end."""
    system = setting.vendor.system.id
    topics, topic = setting.topics, setting.topics.orders(system)
    group = setting.broker.group(topics.group(f"connector.{system}"), [topic])
    clock = LifeClock(life, doze_for=runtime._HOUSEKEEPING_SECONDS, until_useful=setting.disk.next_due)
    shipped = Runtime(
        system=system,
        connector=SimConnector(setting.vendor, life),
        bus=SimBus(life, setting.broker, topic, group, setting.fetch_at_most, lambda records: _check_taken(setting, records)),
        journal=JournalOfLife(setting.disk, life, lambda: _note_jobs(setting)),
        keys=SimOrderKeys(life, setting),
        blobs=setting.blobs,
        clock=clock,
        topics=topics,
        metrics=NoMetrics(),
        quota=setting.quota,
        limits=setting.limits,
    )
    await shipped.run()


def _note_jobs(setting: ConnectorSetting) -> None:
    """Tell the vendor's books which jobs our journal knows by now, and which it gave up as our own defect."""
    jobs = [job for job in setting.vendor.jobs.values() if not job.is_over]
    if not jobs:
        return
    stored = {order for (order,) in setting.disk.query("SELECT order_id FROM orders WHERE handle IS NOT NULL")}
    defects = "SELECT order_id, max(number) FROM reports WHERE CAST(report_bytes AS TEXT) LIKE '%connector_defect%' GROUP BY 1"
    given_up = dict(setting.disk.query(defects))
    ((reports,),) = setting.disk.query("SELECT coalesce(max(number), 0) FROM reports")
    newest: Mapping[str, str] = {job.order_id: job.handle for job in setting.vendor.jobs.values()}
    for job in jobs:
        if job.stored_after is None and job.order_id in stored and newest[job.order_id] == job.handle:
            job.stored_after = int(str(reports))
        if job.stored_after is not None and int(str(given_up.get(job.order_id, 0))) > job.stored_after:
            job.is_over = True


def _check_taken(setting: ConnectorSetting, records: Sequence[Inbound]) -> None:
    """Whoever commits an order's offset has it in the journal, unless the order is over."""
    known = {order for (order,) in setting.disk.query("SELECT order_id FROM orders")}
    for record in records:
        if dict(record.headers).get(TYPE_HEADER) != FulfilmentOrder.__name__.encode():
            continue
        order = FulfilmentOrder.model_validate_json(record.value or b"")
        age = instant_of(setting.broker.loop.micros) - order.issued_at
        if order.order_id not in known and age < _FORGOTTEN_AFTER and not _is_over(setting.database, order):
            setting.vendor.complaints.append(
                f"{order.system} commits the offset of {order.order_id[:10]} before the order is in its journal"
            )


def _is_over(database: Database, order: FulfilmentOrder) -> bool:
    row, sealed = database.rows[order.subject_request_id], database.identities.get(order.subject_request_id)
    wanted = WantedKey(subject_request_id=order.subject_request_id, order_id=order.order_id)
    return refusal_of(wanted, order.system, Holding(row.phase, row.awaited, sealed)) is KeyRefusal.CLOSED
