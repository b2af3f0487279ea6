"""What tests of the runtime share: orders as the orchestrator seals them, and a connector that does what a test scripts."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from datetime import UTC, date, datetime, timedelta

from prometheus_client import CollectorRegistry

from connectors.sdk.attempts import Limits
from connectors.sdk.blobs import FolderOfBlobs
from connectors.sdk.clock import ManualClock
from connectors.sdk.journal import Journal
from connectors.sdk.keys import Purpose
from connectors.sdk.metrics import ConnectorMetrics
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota
from connectors.sdk.retry import Backoff
from connectors.sdk.runtime import Runtime
from connectors.sdk.testing_bus import MemoryBus
from schemas.blobs import EXPORTING, BlobSecret
from schemas.errors import ProtocolViolation
from schemas.ids import order_id
from schemas.order_keys import order_root
from schemas.orders import FulfilmentOrder, order_binding, order_terms
from schemas.reports import FulfilmentReport
from schemas.requests import Verification
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.topics import Topics
from schemas.vocabulary import AssuranceLevel, IdentifierKind, QuarantineReason, Right
from schemas.wire import encode, headers_of

NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
SECRET = bytes(range(32))
SECRET_TEXT = base64.b64encode(SECRET).decode()
#: The key of every request here.
ROOT = SealingKey("request", SECRET)


class ScriptedKeys:
    """The orchestrator's answers about keys, as a test wants them: every order is open unless it says otherwise."""

    def __init__(self, key=ROOT):
        self.key = key
        #: By order id: 403, 404 or 410.
        self.refused = {}
        #: Ids of orders that are over, though their keys are still at hand.
        self.over = set()
        #: What is raised instead of an answer, the first one first.
        self.failures = []
        self.asked = []
        self.forgotten = []
        #: Marks that came with orders.
        self.ahead = {}

    async def fetch(self, orders, ahead=None):
        self.ahead.update(ahead or {})
        self.asked.append([order.order_id for order in orders])
        if self.failures:
            raise self.failures.pop(0)
        return {order.order_id: self.refused[order.order_id] for order in orders if order.order_id in self.refused}

    async def standing(self, orders):
        self.asked.append([order.order_id for order in orders])
        if self.failures:
            raise self.failures.pop(0)
        return {one.order_id: 410 if one.order_id in self.over else self.refused.get(one.order_id, 200) for one in orders}

    def at_hand(self):
        return ()

    def key_for(self, order, purpose=Purpose.ORDER):
        if order.order_id in self.refused:
            raise ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field="sealed", remedy="no key for this order")
        return order_root(self.key, order.subject_request_id, order.system, order.order_id).derive(purpose)

    def holding(self, order_id):
        return contextlib.nullcontext()

    def forget(self, order_id):
        self.forgotten.append(order_id)


KEYS = ScriptedKeys()
#: The key pair of the portal that files these requests.
PORTAL = BlobSecret.from_jwk(
    {
        "kty": "OKP",
        "crv": "X25519",
        "x": "AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c",
        "d": "CM5THgsFx1YK7w4GDDKcCK05I0u1sb74BcPyzoOpS14",
        "kid": "website-2026",
    }
)
EMAIL = "ada.lovelace@example.org"


def request_id(number=1):
    return f"0b9fe1a4-5f0e-4c1b-8a3d-{number:012d}"


def an_order(
    number=1, *, system="crm", right=Right.ERASURE, attempt=1, now=NOW, patience=timedelta(days=3), key=ROOT, **changes
):
    request = request_id(number)
    ident = order_id(request, system)
    subject = changes.pop("subject", None) or SubjectData(identifiers={IdentifierKind.EMAIL: (EMAIL,)})
    order = FulfilmentOrder(
        order_id=ident,
        subject_request_id=request,
        system=system,
        right=right,
        attempt=attempt,
        issued_at=now,
        received_at=now,
        due_on=date(2026, 4, 7),
        respond_by=now + patience,
        sealed=Sealed(kid="order", nonce="0" * 16, ciphertext="0" * 24),
        registry_version="1",
        blob_key=PORTAL.public if right in EXPORTING else None,
        verification=Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=now),
    )
    order = order.model_copy(update=changes)
    sealed = seal(
        subject.to_bytes(),
        order_root(key, request, system, ident).derive(Purpose.ORDER),
        associated=order_binding(request, system, ident) + order_terms(order),
    )
    return order if "sealed" in changes else order.model_copy(update={"sealed": sealed})


def yielded_in(report):
    """Open a report's finds exactly as the orchestrator does."""
    context = (report.subject_request_id, report.system, report.order_id)
    plain = unsafe_reveal(report.yielded, order_root(ROOT, *context).derive(Purpose.REPORT), associated=order_binding(*context))
    return SubjectData.model_validate_json(plain).identifiers


class Scripted:
    """A connector whose answers a test lists: results, exceptions, or functions of the job. The last one repeats."""

    name = "scripted"
    rights = frozenset({Right.ERASURE, Right.ACCESS})
    needs = frozenset({IdentifierKind.EMAIL})
    yields = frozenset({IdentifierKind.GA_CLIENT_ID})

    def __init__(self, *answers, polls=(), throttle=None):
        self.answers, self.polls = list(answers), list(polls)
        self.throttle = throttle or Throttle()
        self.jobs, self.handles = [], []

    async def _answer(self, job, script):
        answer = script.pop(0) if len(script) > 1 else script[0]
        if callable(answer):
            answer = await answer(job)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def erase(self, job):
        self.jobs.append(job)
        return await self._answer(job, self.answers)

    async def access(self, job):
        self.jobs.append(job)
        return await self._answer(job, self.answers)

    async def poll(self, job, handle):
        self.handles.append(handle)
        return await self._answer(job, self.polls)

    async def check(self):
        return "scripted"

    async def aclose(self):
        return


class World:
    """One runtime on a bus in memory, with a clock by hand and a real journal."""

    def __init__(self, folder, connector, *, limits=None, system="crm", signer=None):
        self.signer = signer
        self.keys = ScriptedKeys()
        self.folder, self.connector, self.system = folder, connector, system
        self.clock = ManualClock(NOW)
        self.topics = Topics()
        self.bus = MemoryBus(self.topics.orders(system))
        self.metrics = ConnectorMetrics(CollectorRegistry())
        self.limits = limits or Limits(retry=Backoff(10, 3600), poll=Backoff(10, 3600), max_tries=5)
        self.blobs = FolderOfBlobs(folder / "results", kept_days=30)

    @contextlib.asynccontextmanager
    async def running(self, *, orderly=True):
        """Run; at the end stop in order, or die as a killed process does."""
        with Journal(self.folder / "crm.sqlite") as self.journal, SqlQuota.in_folder(self.folder, self.system) as self.quota:
            runtime = Runtime(
                system=self.system,
                connector=self.connector,
                bus=self.bus,
                journal=self.journal,
                keys=self.keys,
                blobs=self.blobs,
                clock=self.clock,
                topics=self.topics,
                metrics=self.metrics,
                quota=self.quota,
                limits=self.limits,
                grace_seconds=1,
                signer=self.signer,
            )
            self.runtime = runtime
            self.task = asyncio.create_task(runtime.run())
            try:
                yield self
            finally:
                if orderly:
                    runtime.stop()
                else:
                    self.task.cancel()
                await asyncio.wait([self.task], timeout=10)
                if not self.task.cancelled():
                    self.failure = self.task.exception()
                    if self.failure is not None and orderly:
                        raise self.failure

    def send(self, *orders):
        for order in orders:
            self.bus.put(order.subject_request_id.encode(), encode(order), headers_of(order))

    @property
    def reports(self):
        return [FulfilmentReport.model_validate_json(r.value) for r in self.bus.published if r.topic == self.topics.reports]

    @property
    def quarantined(self):
        return [r for r in self.bus.published if r.topic == self.topics.quarantine]

    async def reported(self, count):
        await until(lambda: len(self.reports) >= count)
        return self.reports

    async def settled(self):
        """Wait until the runtime has nothing left to do before the clock moves."""
        for _ in range(20):
            await asyncio.sleep(0.002)

    def entry(self, number=1):
        with self.journal.transaction() as page:
            return page.find(order_id(request_id(number), self.system))


async def until(condition, seconds=10.0):
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.002)
