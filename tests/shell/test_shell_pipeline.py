"""While one batch is on its way to the broker the next is decided, and not saved before the one before is out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_guards_conflict import KEY, REGISTRY, SetClock, record_of
from worker_kit import INTAKE, request

from orchestrator.adapters import registry_file
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.core.policy import Policy
from orchestrator.ports import Change, OutRecord, PublishFailed, Record
from orchestrator.shell.care import Care
from orchestrator.shell.inbox import Fatal, Inbox, QuarantineLimit
from orchestrator.shell.keys_ahead import Listeners
from orchestrator.shell.translate import Arrival, SetAside, Translator
from orchestrator.shell.work import Ground
from schemas.errors import StoreUnavailable
from schemas.sealed import SealingKey
from schemas.topics import Topics
from tests.keys_kit import request_keys
from tests.simulation.store import Database, SimStore

TOPICS = Topics()


class Broker:
    """Acknowledges when it is let, or refuses."""

    def __init__(self, *, acknowledges: bool = False) -> None:
        """One that `acknowledges` does so at once."""
        self._acknowledges = acknowledges
        self.asked = asyncio.Semaphore(0)
        self.answers: asyncio.Queue[bool] = asyncio.Queue()
        self.keys: list[set[bytes]] = []
        self.topics: list[str] = []

    async def publish(self, records: Sequence[OutRecord]) -> None:
        self.asked.release()
        if not (self._acknowledges or await self.answers.get()):
            raise PublishFailed("NotEnoughReplicas")
        self.topics += [record.topic for record in records]
        self.keys.append({record.key for record in records})

    async def aclose(self) -> None:
        return


class CountingStore(SimStore):
    """Counts what was saved, and tells of every look."""

    def __init__(self) -> None:
        super().__init__(Database())
        self.saved: list[Change] = []

    async def commit(self, change: Change) -> int | None:
        self.saved.append(change)
        return await super().commit(change)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def inbox_on(
    store: SimStore,
    broker: Broker,
    clock: SetClock,
    folder: Path,
    care: Care | None = None,
    kind: type[Translator] = Translator,
    listeners: Listeners | None = None,
) -> Inbox:
    """Return an inbox with everything real but the store and the broker."""
    (folder / "registry.yaml").write_text(REGISTRY)
    registry = registry_file.load(folder / "registry.yaml")
    keys = request_keys(SealingKey.from_base64("dev", KEY), intake=INTAKE)
    ground = Ground(
        store=store,
        keys=keys,
        translator=kind(keys, TOPICS),
        registry=registry,
        registries={registry.content_digest: registry},
        policy=Policy(),
        worker="w1",
        listeners=listeners,
    )
    limit = QuarantineLimit(clock, at_most=10)
    return Inbox(ground, broker, clock, WorkerMetrics(CollectorRegistry()), limit, care=care)


@pytest.fixture
def inbox(tmp_path: Path, broker: Broker, store: CountingStore) -> Inbox:
    return inbox_on(store, broker, SetClock(), tmp_path)


async def passes(turns: int = 200) -> None:
    """Let everything run that can run without the broker."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_the_next_batch_is_saved_when_the_one_before_is_out(inbox: Inbox, broker: Broker, store: CountingStore) -> None:
    """Not earlier: two batches that are saved and not published would be two that a crash doubles. And none is left behind."""
    first, second = request(email="one@example.org"), request(email="two@example.org")
    out = await inbox.take_in([record_of(first, 0)])
    await broker.asked.acquire()
    taking = asyncio.create_task(inbox.take_in([record_of(second, 1)]))
    await passes()
    assert len(store.saved) == 1 and not taking.done()
    broker.answers.put_nowait(True)
    await out
    also = await taking
    assert [len(change.published) for change in store.saved] == [0, 1], "the save forgets what is out"
    broker.answers.put_nowait(True)
    await also
    assert broker.keys == [{first.subject_request_id.encode()}, {second.subject_request_id.encode()}]
    await inbox.finish()
    assert not store.database.outbox


async def test_nothing_is_saved_after_a_batch_that_could_not_go_out(inbox: Inbox, broker: Broker, store: CountingStore) -> None:
    """Both callers hear of it; the first batch stays in the outbox for the next life."""
    out = await inbox.take_in([record_of(request(email="one@example.org"), 0)])
    broker.answers.put_nowait(False)
    with pytest.raises(Fatal):
        await out
    for number in (1, 2):
        with pytest.raises(Fatal):
            await inbox.take_in([record_of(request(email="two@example.org"), number)])
    assert len(store.saved) == 1 and len(store.database.outbox) == 1


class ReluctantStore(CountingStore):
    """Saves when it is let, or does not answer any more."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Semaphore(0)
        self.may: asyncio.Queue[bool] = asyncio.Queue()
        self.is_gone = False

    async def commit(self, change: Change) -> int | None:
        if not self.is_gone:
            self.asked.release()
            self.is_gone = not await self.may.get()
        if self.is_gone:
            raise StoreUnavailable("gone")
        return await super().commit(change)


class NotingTranslator(Translator):
    """Notes what is read."""

    read_so_far: ClassVar[list[bytes | None]] = []

    def read(self, record: Record) -> Arrival | SetAside:
        self.read_so_far.append(record.key)
        return super().read(record)


@pytest.mark.parametrize("saves", [True, False])
async def test_a_batch_is_read_while_the_one_before_is_saved(tmp_path: Path, saves: bool) -> None:
    """From when that is decided on, and decided itself when that is saved; if that cannot be, not at all."""
    store, broker = ReluctantStore(), Broker(acknowledges=True)
    NotingTranslator.read_so_far.clear()
    inbox = inbox_on(store, broker, SetClock(), tmp_path, kind=NotingTranslator)
    asked = [request(email="one@example.org"), request(email="two@example.org")]
    batches = [[record_of(one, number)] for number, one in enumerate(asked)]
    decided = [asyncio.Event(), asyncio.Event()]
    first = asyncio.create_task(inbox.take_in(batches[0], decided=decided[0]))
    await store.asked.acquire()
    assert decided[0].is_set()
    second = asyncio.create_task(inbox.take_in(batches[1], decided=decided[1]))
    await passes()
    assert NotingTranslator.read_so_far == [record.key for batch in batches for record in batch]
    assert not decided[1].is_set() and not store.saved
    store.may.put_nowait(saves)
    if saves:
        store.may.put_nowait(True)
        for taking in (first, second):
            await (await taking)
        assert [len(change.rows) for change in store.saved] == [1, 1]
        return
    store.is_gone = True
    with pytest.raises(Fatal, match="stayed away"):
        await first
    store.is_gone = False
    with pytest.raises(Fatal, match="before this one"):
        await second
    assert not store.saved and not decided[1].is_set()


async def test_what_is_saved_goes_out_though_nobody_waits_any_more(inbox: Inbox, broker: Broker, store: CountingStore) -> None:
    """A stop cancels whoever took the batch in; `finish` waits for what is on its way."""
    taking = asyncio.create_task(inbox.process([record_of(request(email="one@example.org"), 0)]))
    await broker.asked.acquire()
    taking.cancel()
    finishing = asyncio.create_task(inbox.finish())
    await passes()
    assert not finishing.done()
    broker.answers.put_nowait(True)
    await finishing
    assert len(broker.keys) == 1 and not store.database.outbox


async def test_a_batch_without_effect_is_not_done_before_the_one_before(
    inbox: Inbox, broker: Broker, store: CountingStore
) -> None:
    """Nothing of it is saved or published, but acknowledging it would pass the other one by."""
    record = record_of(request(email="one@example.org"), 0)
    out = await inbox.take_in([record])
    again = await inbox.take_in([record])
    waiting = asyncio.ensure_future(again)
    await passes()
    assert not waiting.done() and len(store.saved) == 1
    broker.answers.put_nowait(True)
    await out
    await waiting
    assert len(store.saved) == 1


class SlowToForget(CountingStore):
    """Takes its time to note that batches are out."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def published(self, outbox_ids: Sequence[int]) -> None:
        self.asked.set()
        await self.may_go_on.wait()
        await super().published(outbox_ids)


async def test_a_sweeper_that_is_stopped_while_it_tidies_leaves_nothing_to_publish_again(tmp_path: Path) -> None:
    """The batch is out, and noting that is cut off as a stop does it: the end of the worker notes it again."""
    store = SlowToForget()
    inbox = inbox_on(store, Broker(acknowledges=True), SetClock(), tmp_path)
    await inbox.process([record_of(request(email="one@example.org"), 0)])
    tidying = asyncio.create_task(inbox.tidy())
    await store.asked.wait()
    tidying.cancel()
    await asyncio.wait([tidying])
    store.may_go_on.set()
    await inbox.finish()
    assert await store.unpublished("", SetClock().now() + timedelta(days=1)) == []
