"""A worker under test, with portals and connectors played by the test on the real broker.

Not a mock: every record goes through Kafka. The connectors here answer from a function instead of a system.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.bootstrap import Worker, run_worker
from orchestrator.demo.keyring import Keyring
from orchestrator.ports import Clock
from orchestrator.settings import Settings
from orchestrator.shell.intake_keys import keep_intake_key
from schemas.base import Message
from schemas.confirmations import Confirmation
from schemas.ids import report_id
from schemas.intake import IntakeKey, IntakeKeySet, seal_intake
from schemas.order_keys import PATH, WantedKey, WantedKeys
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.outcomes import Fulfilled
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest, Verification
from schemas.signatures import sign_records, speaker_of
from schemas.subject import FieldChange, SubjectData
from schemas.topics import Topics
from schemas.vocabulary import AssuranceLevel, IdentifierKind, Right
from schemas.wire import ORDER_MESSAGES, decode, encode, headers_of

KEY = base64.b64encode(b"k" * 32).decode()
REGISTRY = """
version: test-1
controller: {title: Example company, zone: Europe/Amsterdam, calendar: NL, regime: eu.gdpr}
portals: [{id: website, title: Website, owner: Web team}]
systems:
  - {id: crm, title: CRM, role: processor, owner: Sales, connector: test,
     rights: [access, rectification, erasure, objection], needs: [{kind: email}], yields: [crm_contact_id]}
  - {id: newsletter, title: Newsletter, role: processor, owner: Marketing, connector: test,
     rights: [access, erasure, unsubscribe, objection], needs: [{kind: email, form: lower}]}
  - {id: accounts, title: Accounts, role: controller, owner: IT, connector: test,
     rights: [access, rectification, erasure], needs: [{kind: email}], after: [crm]}
"""
SYSTEMS = ("crm", "newsletter", "accounts")


#: What `request` seals to: every store that `settings_for` names has it.
INTAKE = IntakeKey("intake-test", b"i" * 32)


def provide_intake(store_url: str) -> None:
    """Put the intake key into a store, as if a worker had made it."""

    async def keep() -> None:
        engine = make_engine(store_url)
        schema.upgrade(engine)
        store = SqlStore(engine)
        await keep_intake_key(store, KeyEncryption.from_text(KEY), INTAKE, datetime.now(UTC))
        await store.aclose()

    with ThreadPoolExecutor(1) as pool:  # the caller may be inside a loop
        pool.submit(asyncio.run, keep()).result()


def intake_file(folder: Path) -> str:
    """Return a file of the intake keys, for a portal or for DSR_INTAKE_KEYS."""
    file = folder / "intake-keys.json"
    file.write_text(IntakeKeySet(keys=(INTAKE.public,)).model_dump_json())
    return str(file)


def settings_for(tmp_path: Path, bootstrap: str, topics: Topics, **changes: object) -> Settings:
    """Return the settings of a worker of its own."""
    registry = tmp_path / "registry.yaml"
    registry.write_text(REGISTRY)
    values: dict[str, object] = {
        "kafka_bootstrap": bootstrap,
        "topic_prefix": topics.prefix,
        "registry": registry,
        "store_url": f"sqlite:///{tmp_path / 'store.sqlite'}",
        "key_encryption_key": KEY,
        "signatures": "off",
        "worker_id": "w1",
        "datadir": tmp_path / "data",
        "http_port": 0,
        "session_timeout_seconds": 6.0,
        "commit_interval_seconds": 0.2,
        "sweep_interval_seconds": 0.1,
    }
    settings = Settings(**{**values, **changes})
    provide_intake(settings.store_url)
    return settings


#: Whoever speaks, where everybody signs.
SPEAKERS = ("orchestrator", "portal:website", *(f"system:{system}" for system in SYSTEMS))


def signing(keyring: Keyring) -> dict[str, object]:
    """Return the settings of a worker that signs, and believes those alone whose keys these are."""
    return {
        "signatures": "required",
        "trust_file": keyring.trust_file,
        "signing_key_file": keyring.file("orchestrator"),
    }


def request(
    right: Right = Right.ERASURE, email: str = "person@example.org", *, changes: tuple[FieldChange, ...] = (), **fields: object
) -> SubmitRequest:
    """Return a verified request, sealed as a portal would."""
    made = str(uuid.uuid4())
    if right is Right.RECTIFICATION and not changes:
        changes = (FieldChange(field="first_name", new="Robin"),)
    data = SubjectData(identifiers={IdentifierKind.EMAIL: (email,)}, changes=changes)
    now = datetime.now(UTC)
    given: dict[str, object] = {
        "subject_request_id": made,
        "portal": "website",
        "right": right,
        "submitted_at": now,
        "sealed": seal_intake(data.to_bytes(), INTAKE.public, made),
        "verification": Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=now),
    }
    return SubmitRequest.model_validate({**given, **fields})


def answer(order: FulfilmentOrder) -> FulfilmentReport:
    """Return the report of a connector that has done its work."""
    return FulfilmentReport(
        report_id=report_id(order.order_id, order.attempt, "fulfilled"),
        order_id=order.order_id,
        subject_request_id=order.subject_request_id,
        system=order.system,
        attempt=order.attempt,
        reported_at=datetime.now(UTC),
        outcome=Fulfilled(count=1),
    )


class World:
    """Portals, connectors and readers around the worker."""

    def __init__(self, bootstrap: str, topics: Topics, systems: Iterable[str] = SYSTEMS) -> None:
        self.bootstrap = bootstrap
        self.topics = topics
        self.systems = tuple(systems)
        #: Set it, and everybody signs what they say; the worker needs its settings to match.
        self.keyring: Keyring | None = None
        #: Where the keys of orders are had, with signatures off. Without it orders end unread, which the auditor accuses.
        self.keys_url = ""
        self.orders: list[FulfilmentOrder] = []
        #: What was asked for, by request: everything that is said of it goes by the topic of its right.
        self.rights: dict[str, Right] = {}
        self.cancelled: list[OrderCancelled] = []
        self.confirmations: dict[str, list[bytes]] = defaultdict(list)
        self.records: dict[str, list[object]] = defaultdict(list)
        self.respond: Callable[[FulfilmentOrder], FulfilmentReport | None] = answer
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        """Connect, and answer orders while the block runs."""
        self._producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        names = [
            *(self.topics.orders(system) for system in self.systems),
            *(self.topics.confirmations, self.topics.status, self.topics.journal, self.topics.quarantine),
        ]
        # A question for the end of a topic waits until the broker has answered the last fetch: not for long.
        self._consumer = AIOKafkaConsumer(
            *names, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50
        )
        await self._producer.start()
        await self._consumer.start()
        reading = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            await self._consumer.stop()
            await self._producer.stop()

    async def _read(self) -> None:
        async for record in self._consumer:
            self.records[record.topic].append(record)
            if record.topic == self.topics.confirmations:
                self.confirmations[record.key.decode()].append(record.value)
            elif record.topic.startswith(f"{self.topics.prefix}.orders."):
                await self._asked(decode(record.value, record.headers, ORDER_MESSAGES))
            async with self._changed:
                self._changed.notify_all()

    async def _asked(self, message: Message) -> None:
        if isinstance(message, OrderCancelled):
            self.cancelled.append(message)
            return
        assert isinstance(message, FulfilmentOrder)
        self.orders.append(message)
        if self.keys_url:
            await self._get_key(message)
        report = self.respond(message)
        if report is not None:
            await self.publish(report)

    async def _get_key(self, order: FulfilmentOrder) -> None:
        """Ask for the order's key, as whoever ends an order must, until a worker answers."""
        wanted = WantedKey(subject_request_id=order.subject_request_id, order_id=order.order_id)
        body = WantedKeys(system=order.system, orders=(wanted,)).model_dump_json()
        async with httpx.AsyncClient(base_url=self.keys_url, trust_env=False) as desk:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    (await desk.post(PATH, content=body)).raise_for_status()
                    return
                await asyncio.sleep(0.1)  # this life of the worker has ended: there will be another

    async def publish(self, message: Message, topic: str | None = None, *, partition: int | None = None) -> RecordMetadata:
        """Publish as a portal, operator or connector would; return where the record stands."""
        if isinstance(message, SubmitRequest):
            self.rights[message.subject_request_id] = message.right
        by_right = self.topics.requests_for(self.rights.get(message.subject_request_id, Right.ERASURE))
        names = {"FulfilmentReport": self.topics.reports}
        target = (
            topic or names.get(type(message).__name__) or (by_right if hasattr(message, "portal") else self.topics.commands)
        )
        plain = (target, message.subject_request_id.encode(), encode(message), headers_of(message))
        headers = plain[3]
        if self.keyring is not None:
            (headers,) = sign_records([plain], self.keyring.key(speaker_of(message)))
        return await self._producer.send_and_wait(target, plain[2], key=plain[1], partition=partition, headers=headers)

    async def publish_bytes(self, topic: str, value: bytes, key: bytes = b"k") -> None:
        """Publish something that is no message."""
        await self._producer.send_and_wait(topic, value, key=key)

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for a condition over what was read; looked at after every record."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    def confirmation(self, subject_request_id: str) -> Confirmation:
        """Return the one distinct confirmation of a request."""
        distinct = set(self.confirmations[subject_request_id])
        assert len(distinct) == 1, f"{len(distinct)} distinct confirmations"
        return Confirmation.model_validate_json(distinct.pop())


@contextlib.asynccontextmanager
async def worker(settings: Settings, clock: Clock | None = None) -> AsyncIterator[Worker]:
    """Run a worker in the test's process. One that would have ended its process stops without a commit, and fails the test."""
    if clock is not None:  # the broker's is another one, and is not asked
        settings = settings.model_copy(update={"clock_skew_seconds": 0})
    async with run_worker(settings, die=lambda _reason: None, upgrade_store=True, clock=clock) as running:
        yield running
    assert running.deck.ended is None, running.deck.ended
