"""Keys that go ahead: in the log before they leave, to whoever may have them and listens, and never a wait for anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs
from test_shell_pipeline import TOPICS, Broker, SetClock, inbox_on, passes, record_of, request

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.ports import Conflict, OutRecord
from orchestrator.shell import keys_ahead
from orchestrator.shell.inbox import Fatal
from orchestrator.shell.keys_ahead import Listeners, Parcel
from schemas.ids import order_id
from schemas.keys_ahead import AheadMark, KeysAhead, mark_in
from schemas.order_keys import MOST_ORDERS, KeysReleased, Purpose, WantedKey, root_from_text, root_to_text
from schemas.orders import FulfilmentOrder, order_binding, order_terms
from schemas.sealed import SealingKey, unsafe_reveal
from schemas.trust import SigningKey, Trust
from schemas.wire import decode
from tests.simulation.store import Database, SimStore

LIFE = "00000000000000aa"
ROOT = SealingKey("order", bytes(range(32)))


class World:
    """Listeners at a time of their own."""

    def __init__(self) -> None:
        self.clock, self.registry = SetClock(), CollectorRegistry()
        self.listeners = Listeners(self.clock, WorkerMetrics(self.registry), topics=TOPICS, worker="w1", life=LIFE)

    def hear(self, system: str = "crm", key=None) -> AsyncIterator[KeysAhead]:
        lines = self.listeners.lines(system, key)
        assert lines is not None
        return lines

    def counted(self, name: str, system: str = "crm") -> float | None:
        return self.registry.get_sample_value(f"dsr_order_keys_{name}", {"system": system})


@pytest.fixture
def world() -> World:
    return World()


class Sent:
    """What a parcel reads of an order that is sent."""

    def __init__(self, number: int = 1, system: str = "crm") -> None:
        self.system = system
        self.subject_request_id = f"00000000-0000-4000-8000-{number:012d}"
        self.order_id = order_id(self.subject_request_id, system)


PLAIN = OutRecord("orders", b"key", b"value", [("a", b"b")])


def packed(world: World, *orders: Sent) -> Parcel:
    parcel = Parcel(world.listeners)
    for one in orders:
        parcel.add(PLAIN, one, ROOT)  # type: ignore[arg-type] # names are all that is read
    return parcel


def noted(broker: Broker) -> list[OutRecord]:
    """Note every record that is handed to the broker."""
    taken: list[OutRecord] = []
    publish = broker.publish

    async def noting(records):
        taken.extend(records)
        await publish(records)

    broker.publish = noting  # type: ignore[method-assign]
    return taken


async def soon(lines: AsyncIterator[KeysAhead]) -> KeysAhead:
    return await asyncio.wait_for(anext(lines), 30)


async def is_over(lines: AsyncIterator[KeysAhead]) -> bool:
    return await asyncio.wait_for(anext(lines, None), 30) is None


async def test_a_key_goes_ahead_when_the_broker_has_the_record_of_it(tmp_path: Path, world: World) -> None:
    """Order and record in one publication, the key after its acknowledgement; it opens that order and has its number."""
    broker = Broker()
    taken = noted(broker)
    inbox = inbox_on(SimStore(Database()), broker, world.clock, tmp_path, listeners=world.listeners)
    lines = world.hear("crm")
    assert await soon(lines) == KeysAhead(life=LIFE, number=0)
    assert world.counted("listening") == 1
    asked = request(email="one@example.org")
    out = await inbox.take_in([record_of(asked, 0)])
    await broker.asked.acquire()
    waiting = asyncio.ensure_future(anext(lines))
    await passes()
    assert not waiting.done() and not world.counted("released_total")
    broker.answers.put_nowait(True)
    await out
    line = await asyncio.wait_for(waiting, 30)
    orders = [record for record in taken if record.topic == TOPICS.orders("crm")]
    (released,) = [record for record in taken if record.topic == TOPICS.releases]
    (sent,) = orders
    assert mark_in(sent.headers) == AheadMark(LIFE, line.number)
    message = decode(released.value, released.headers, [KeysReleased])
    read = decode(sent.value, sent.headers, [FulfilmentOrder])
    assert isinstance(message, KeysReleased) and isinstance(read, FulfilmentOrder)
    wanted = WantedKey(subject_request_id=asked.subject_request_id, order_id=read.order_id)
    assert (message.system, message.kid, message.worker, message.orders) == ("crm", "", "w1", (wanted,))
    (given,) = line.keys
    binding = order_binding(asked.subject_request_id, "crm", read.order_id) + order_terms(read)
    key = root_from_text(given.key or "").derive(Purpose.ORDER)
    assert b"one@example.org" in unsafe_reveal(read.sealed, key, associated=binding)
    assert world.counted("released_total") == 1


async def test_a_broker_that_does_not_acknowledge_lets_nothing_out(tmp_path: Path, world: World) -> None:
    """The worker ends; its connectors ask the next one."""
    broker = Broker()
    inbox = inbox_on(SimStore(Database()), broker, world.clock, tmp_path, listeners=world.listeners)
    lines = world.hear("crm")
    await soon(lines)
    broker.answers.put_nowait(False)
    with pytest.raises(Fatal):
        await inbox.process([record_of(request(email="one@example.org"), 0)])
    world.listeners.close()
    assert await is_over(lines)
    assert not world.counted("released_total")


async def test_where_nobody_listens_orders_are_as_they_ever_were(tmp_path: Path, world: World) -> None:
    """No mark and no record, also of a system beside one that is listened to."""
    broker = Broker(acknowledges=True)
    inbox = inbox_on(SimStore(Database()), broker, world.clock, tmp_path, listeners=world.listeners)
    lines = world.hear("elsewhere")
    await soon(lines)
    taken = noted(broker)
    await inbox.process([record_of(request(email="one@example.org"), 0)])
    (sent,) = [record for record in taken if record.topic == TOPICS.orders("crm")]
    assert mark_in(sent.headers) is None
    assert TOPICS.releases not in broker.topics


class ConflictingOnce(SimStore):
    """Says once that another worker was faster."""

    def __init__(self) -> None:
        super().__init__(Database())
        self.conflicts = 1

    async def commit(self, change):
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict
        return await super().commit(change)


async def test_what_is_decided_twice_is_given_once(tmp_path: Path, world: World) -> None:
    """The number of the lost attempt is skipped; the mark in the log is that of the line."""
    broker = Broker(acknowledges=True)
    inbox = inbox_on(ConflictingOnce(), broker, world.clock, tmp_path, listeners=world.listeners)
    lines = world.hear("crm")
    await soon(lines)
    await inbox.process([record_of(request(email="one@example.org"), 0)])
    line = await soon(lines)
    assert (line.number, len(line.keys)) == (2, 1)
    assert broker.topics.count(TOPICS.releases) == 1


def test_a_request_that_closes_in_the_same_unit_gives_nothing(world: World) -> None:
    """Its key is gone with the transaction; the others are given."""
    world.listeners._listeners["crm"].append(keys_ahead._Listener("crm", None))
    parcel = packed(world, Sent(1), Sent(2))
    parcel.drop(Sent(1).subject_request_id)
    (record,) = parcel.written_down()
    message = decode(record.value, record.headers, [KeysReleased])
    assert isinstance(message, KeysReleased)
    assert [one.order_id for one in message.orders] == [Sent(2).order_id]
    parcel.drop(Sent(2).subject_request_id)
    assert parcel.written_down() == []


async def test_many_orders_are_one_line_and_as_many_records_as_they_need(world: World) -> None:
    """A connector that has heard a number has heard all of it."""
    lines = world.hear()
    await soon(lines)
    parcel = packed(world, *(Sent(number) for number in range(MOST_ORDERS + 1)))
    assert len(parcel.written_down()) == 2
    parcel.give()
    line = await soon(lines)
    assert len(line.keys) == MOST_ORDERS + 1 == world.counted("released_total")
    assert line.keys[0].key == root_to_text(ROOT)


async def test_each_system_hears_its_own_orders_alone(world: World) -> None:
    """Every process of a system hears all of it; another system nothing."""
    hearing = [world.hear(), world.hear(), world.hear("mail")]
    for lines in hearing:
        await soon(lines)
    parcel = packed(world, Sent(1), Sent(2, "shop"))
    assert len(parcel.written_down()) == 1
    parcel.give()
    for lines in hearing[:2]:
        assert [one.order_id for one in (await soon(lines)).keys] == [Sent(1).order_id]
    silent = asyncio.ensure_future(anext(hearing[2]))
    await passes()
    assert not silent.done()
    silent.cancel()


async def test_who_comes_between_record_and_line_is_not_left_waiting(world: World) -> None:
    """It may hold an order with that mark already, and is told that no key will come: nothing was written down of it."""
    early = world.hear()
    await soon(early)
    parcel = packed(world, Sent())
    assert len(parcel.written_down()) == 1
    late = world.hear()
    assert (await soon(late)).number == 0
    parcel.give()
    assert [len((await soon(lines)).keys) for lines in (early, late)] == [1, 0]
    newest = world.hear()
    assert (await soon(newest)).number == 1


async def test_two_keys_of_one_system_are_two_records_and_one_that_has_ended_hears_no_more(world: World) -> None:
    """While keys are exchanged both listen; validity is looked at anew each time."""
    old, new = SigningKey.new("system:crm"), SigningKey.new("system:crm")
    trust = Trust.of(old, new)
    kept, ended = trust.key(new.kid), trust.key(old.kid)
    assert kept is not None and ended is not None
    hearing = [world.hear(key=kept), world.hear(key=Ending(ended, world))]
    for lines in hearing:
        await soon(lines)
    both = packed(world, Sent(1))
    found = [decode(one.value, one.headers, [KeysReleased]) for one in both.written_down()]
    assert {one.kid for one in found if isinstance(one, KeysReleased)} == {new.kid, old.kid}
    both.give()
    for lines in hearing:
        assert len((await soon(lines)).keys) == 1
    world.clock.at += timedelta(seconds=61)
    one = packed(world, Sent(2))
    (record,) = one.written_down()
    message = decode(record.value, record.headers, [KeysReleased])
    assert isinstance(message, KeysReleased) and message.kid == new.kid
    one.give()
    assert len((await soon(hearing[0])).keys) == 1
    assert await is_over(hearing[1])


class Ending:
    """A key that is valid for a minute from now."""

    def __init__(self, key, world: World) -> None:
        self.kid = key.kid
        self._until = world.clock.now() + timedelta(minutes=1)

    def valid_at(self, at) -> bool:
        return at < self._until


async def test_who_does_not_read_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it and its lines do not pile up; it is told in the log, and may come again."""
    monkeypatch.setattr(keys_ahead, "_UNREAD", 3)
    lines = world.hear()
    await soon(lines)
    with capture_logs() as logs:
        for number in range(1, 6):
            parcel = packed(world, Sent(number))
            parcel.written_down()
            parcel.give()
    assert [(line["event"], line["system"]) for line in logs] == [("keys_ahead_unread", "crm")]
    # Nothing more is written down for it, as long as its call is open.
    assert not world.listeners.are_there("crm") and world.listeners.present("crm") == []
    assert [one.lines for one in world.listeners._listeners["crm"]] == [[]]
    assert await is_over(lines)
    assert world.counted("listening") == 0
    again = world.hear()
    assert (await soon(again)).number == 5


async def test_silence_is_told_and_no_answer_is_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without keys shows that the worker is there; after its time a connector has to say anew who it is."""
    monkeypatch.setattr(keys_ahead, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(keys_ahead, "LISTEN_SECONDS", 0.2)
    heard = [line async for line in world.hear()]
    assert len(heard) >= 3 and not any(line.keys for line in heard)
    assert world.counted("listening") == 0


async def test_as_many_listen_as_one_worker_serves_and_none_after_its_end(world: World, monkeypatch) -> None:
    """The others ask. A worker that stops ends every answer at once."""
    monkeypatch.setattr(keys_ahead, "_LISTENERS", 2)
    hearing = [world.hear(), world.hear()]
    for lines in hearing:
        await soon(lines)
    assert world.listeners.lines("crm", None) is None
    assert world.listeners.lines("mail", None) is not None
    world.listeners.close()
    for lines in hearing:
        assert await is_over(lines)
    assert world.listeners.lines("mail", None) is None
