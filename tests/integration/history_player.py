"""Plays a history of `tests/histories` as real records to a real worker, and looks at it as a portal and an auditor could.

The events and the ends are read by the same code as for the pure core; only what stands behind them differs. Time passes by
moving the worker's clock to each stored moment in turn and waiting until the sweeper has been there.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from aiokafka.structs import RecordMetadata
from faust.types import TP
from moved_clock import MovedClock
from process_kit import read_to_the_end
from worker_kit import INTAKE, KEY, World, settings_for, worker

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from core_building import COMPANY, START, later, registry, rid
from test_core_histories import History, _span, _system

from connectors.sdk.clock import SystemClock
from connectors.sdk.keys import HttpOrderKeys, Purpose, order_keys_client
from connectors.sdk.opening import open_order, seal_subject
from orchestrator.core.effects import Opened
from orchestrator.core.state import OrderState, RequestState, from_bytes
from schemas.base import Message
from schemas.confirmations import Confirmation
from schemas.intake import seal_intake
from schemas.registry import Registry
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest
from schemas.sealed import SealingKey
from schemas.status import StatusEvent
from schemas.subject import FieldChange, SubjectData
from schemas.vocabulary import IdentifierKind

_ROOT = SealingKey.from_base64("dev", KEY)
#: A history goes on for years with the key that its requests were sealed to.
_NEVER = timedelta(days=36_500)
_WAIT_SECONDS = 20.0
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class Seen:
    """What the core's world shows, read from Kafka and from the worker's store."""

    def __init__(self, bus: World, store: Path, clock: MovedClock, book: Registry) -> None:
        self.bus = bus
        self.clock = clock
        self.registry = book
        self.registries = {book.content_digest: book}
        self._sent: list[Any] = []
        self._store = sqlite3.connect(f"file:{store}?mode=ro", uri=True, isolation_level=None)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def one(self, query: str, *values: object) -> Any:
        """Return the first column of the first row."""
        row = self._store.execute(query, values).fetchone()
        return row[0] if row else None

    def wakes_at(self) -> datetime | None:
        """Return the next stored moment."""
        micros = self.one("SELECT min(wake_at) FROM requests")
        return None if micros is None else _EPOCH + timedelta(microseconds=micros)

    def is_quiet(self) -> bool:
        """Tell whether nothing is due and everything saved is published."""
        at = self.wakes_at()
        return (at is None or at > self.now) and self.one("SELECT count(*) FROM outbox") == 0

    def sort_orders(self) -> None:
        """Take note of new orders. Those of one moment come by several topics: there the plan's order counts."""
        place = {system.id: number for number, system in enumerate(self.registry.systems)}
        self._sent += sorted(self.bus.orders[len(self._sent) :], key=lambda order: place[order.system])

    def close(self) -> None:
        self._store.close()

    # What `History.ends` looks at ------------------------------------------------------------------------------------------

    @property
    def confirmations(self) -> dict[str, list[bytes]]:
        return self.bus.confirmations

    def state(self, name: str) -> RequestState:
        return from_bytes(self.one("SELECT state FROM requests WHERE subject_request_id = ?", rid(name)))

    def order(self, name: str, system: str) -> OrderState | None:
        return self.state(name).order(system)

    def orders(self, name: str) -> list[tuple[str, int]]:
        return [(order.system, order.attempt) for order in self._sent if order.subject_request_id == rid(name)]

    def confirmation(self, name: str) -> Confirmation:
        confirmation = self.bus.confirmation(rid(name))
        state = self.state(name)
        assert confirmation.result is state.result
        assert confirmation.executed_request == state.executed_request
        assert {one.system: one.outcome for one in confirmation.systems}.keys() >= {one.system for one in state.orders}
        return confirmation

    def codes(self, name: str) -> list[str]:
        records: list[Any] = self.bus.records[self.bus.topics.status]
        events = [StatusEvent.model_validate_json(r.value) for r in records if r.key == rid(name).encode()]
        return [event.escalation.value if event.escalation else event.code.value for event in events]


class Player(History):
    """One file, being played to a worker. `told` is the file's content."""

    world: Any  # a `Seen`, where the core's replay has its own world

    def __init__(self, bus: World, folder: Path, told: dict[str, Any]) -> None:
        systems = told.get("systems")
        book = registry(*(_system(name, more or {}) for name, more in systems.items())) if systems else COMPANY
        self._folder = folder
        self._settings = settings_for(folder, bus.bootstrap, bus.topics, commit_interval_seconds=0.05, intake_rotation=_NEVER)
        self._clock = MovedClock(START)
        self._life = contextlib.AsyncExitStack()
        self._worker: Any = None
        self._given: list[tuple[Message, RecordMetadata]] = []
        self._book = book
        self._bus = bus
        self._keys: dict[str, HttpOrderKeys] = {}
        self._fetched = 0
        self.number = 0

    @contextlib.asynccontextmanager
    async def playing(self) -> AsyncIterator[Player]:
        """Run the worker while the block runs."""
        async with self._life:
            await self._start()
            self.world = Seen(self._bus, self._folder / "store.sqlite", self._clock, self._book)
            with contextlib.closing(self.world):
                yield self
                await self._stop()

    async def _start(self) -> None:
        book = self.world.registry if hasattr(self, "world") else self._book
        self._settings.registry.write_text(yaml.safe_dump(book.model_dump(mode="json", exclude_defaults=True)))
        self._worker = await self._life.enter_async_context(worker(self._settings, self._clock))

    async def _stop(self) -> None:
        await self._life.aclose()
        self._worker = None

    async def happen(self, event: dict[str, Any]) -> None:  # type: ignore[override] # here events take time
        """Let one event happen, wait until everything it implies is on the bus, and see whether it is refused."""
        event = dict(event)
        refused = event.pop("refused", None)
        verb = next(iter(event))
        subject = event.pop(verb)
        code = await getattr(self, f"_{verb}")(subject, event)
        assert code == refused, f"{verb} {subject}: {code}"

    async def _give(self, message: Any, name: str, opened: Opened | None = None) -> str | None:  # type: ignore[override]
        if isinstance(message, SubmitRequest):
            assert opened is not None
            message = _sealed(message, opened)
        elif isinstance(message, FulfilmentReport):
            message = self._answering(message, name, opened)
        at = await self._bus.publish(message)
        self._given.append((message, at))
        await self._settle(at)
        return self._refusal(at)

    def _answering(self, message: FulfilmentReport, name: str, opened: Opened | None) -> FulfilmentReport:
        """Return the report as a connector makes it: of an order that it really got and could open."""
        got = [order for order in self._bus.orders if order.order_id == message.order_id and order.attempt == message.attempt]
        if not got:
            return message
        keys = self._keys[got[-1].system]
        assert open_order(got[-1], keys).identifiers
        assert got[-1].subject_request_id == rid(name)
        kinds = opened.kinds if opened else ()
        yielded = seal_subject(got[-1], keys, dict.fromkeys(kinds, ("4711",)), Purpose.REPORT)
        return message.model_copy(update={"yielded": yielded})

    def _refusal(self, at: RecordMetadata) -> str | None:
        for record in self._bus.records[self._bus.topics.quarantine]:
            told = dict(record.headers)  # type: ignore[attr-defined] # a record of the client
            if _place(told) == (at.topic, at.partition, at.offset):
                return told["dsr-reason"].decode()
        return None

    async def _settle(self, *given: RecordMetadata) -> None:
        """Wait until these records are committed, nothing is due, and all that was published has been read."""
        committed = self._worker.app.consumer._committed_offset
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while not (all((committed[TP(at.topic, at.partition)] or 0) > at.offset for at in given) and self.world.is_quiet()):
            assert self._worker.deck.ended is None, self._worker.deck.ended
            assert asyncio.get_running_loop().time() < deadline, "the worker does not come to rest"
            await asyncio.sleep(0.005)
        await read_to_the_end(self._bus)
        self.world.sort_orders()
        await self._fetch_keys()

    async def _fetch_keys(self) -> None:
        """Get the keys of orders that have come, as a connector does, from the worker that lives now."""
        async with order_keys_client(None) as client:
            for order in self._bus.orders[self._fetched :]:
                url = self._worker.http.url
                prefix = self._bus.topics.prefix
                fresh = HttpOrderKeys(order.system, [url], client, SystemClock(), prefix=prefix, signer=None)
                keys = self._keys.setdefault(order.system, fresh)
                keys._client, keys._urls = client, [url]
                assert await keys.fetch([order]) == {}, "an order that has just come is open"
            self._fetched = len(self._bus.orders)

    async def _pass(self, span: str, _event: dict[str, Any]) -> None:  # type: ignore[override]
        until = self._clock.now() + _span(span)
        while (at := self.world.wakes_at()) is not None and at <= until:
            self._clock.move_to(at)
            await self._settle()
        self._clock.move_to(until)
        await self._settle()

    async def _sleep(self, span: str, _event: dict[str, Any]) -> None:  # type: ignore[override]
        await self._stop()
        self._clock.move_to(self._clock.now() + _span(span))
        await self._start()
        await self._settle()

    async def _again(self, times: int, _event: dict[str, Any]) -> None:  # type: ignore[override]
        for _ in range(times):
            await self._settle(*[await self._bus.publish(message) for message, _ in self._given])

    async def _registry(self, name: str, event: dict[str, Any]) -> None:  # type: ignore[override]
        later(self.world, **{name: _system(name, event)})
        await self._stop()
        await self._start()


def _sealed(message: SubmitRequest, opened: Opened) -> SubmitRequest:
    data = SubjectData(
        identifiers={IdentifierKind.EMAIL: (f"{opened.person}@example.org",)},
        changes=(FieldChange(field="first_name", new=opened.patch),) if opened.patch else (),
    )
    sealed = seal_intake(data.to_bytes(), INTAKE.public, message.subject_request_id)
    return message.model_copy(update={"sealed": sealed})


def _place(headers: dict[str, bytes]) -> tuple[str, int, int]:
    topic, partition, offset = (headers[f"dsr-origin-{part}"].decode() for part in ("topic", "partition", "offset"))
    return topic, int(partition), int(offset)
