"""Keys that come unasked: no question for them, no wait for what cannot come, and nothing kept that nobody takes."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime
from typing import Self

import pytest
from sdk_world import NOW, an_order
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from connectors.sdk import keys_ahead as early
from connectors.sdk.bus import Inbound
from connectors.sdk.clock import ManualClock
from connectors.sdk.intake import marks_of, parsed
from connectors.sdk.keys import HttpOrderKeys, order_keys_client
from orchestrator.gateway.health import serve
from orchestrator.gateway.order_keys import order_keys_route
from schemas.keys_ahead import AHEAD_HEADER, LINES, PATH, AheadMark, KeysAhead, mark_in
from schemas.order_keys import KeyAnswer, audience_of, checked_assertion, order_root, root_to_text
from schemas.sealed import SealingKey
from schemas.trust import SigningKey, Trust
from schemas.wire import encode, headers_of
from tests.key_desk_kit import DeskForAll, guard_for

ROOT = SealingKey("request", bytes(range(32)))
CRM = SigningKey.new("system:crm")
A, B = "00000000000000aa", "00000000000000bb"


#: Longer than any of this takes on a machine that does much else, and shorter than a silent call is listened to.
_SOON, _BELOW_PATIENCE, _PATIENCE = 30.0, 20.0, 60.0


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits in vain fails its test by that."""
    monkeypatch.setattr(early, "_PATIENCE_SECONDS", _PATIENCE)


class Clock:
    def now(self) -> datetime:
        return NOW

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def line(number: int, *orders, life: str = A) -> KeysAhead:
    keys = [KeyAnswer(order_id=one.order_id, status=200, key=root_to_text(root_of(one))) for one in orders]
    return KeysAhead(life=life, number=number, keys=tuple(keys))


def root_of(order) -> SealingKey:
    return order_root(ROOT, order.subject_request_id, "crm", order.order_id)


class Worker:
    """A worker whose lines a test writes, with a key desk that gives every key; and a connector that listens to it."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.desk = DeskForAll(ROOT)
        self.lines: asyncio.Queue[KeysAhead | bytes | None] = asyncio.Queue()
        self.calls: list[tuple[str, bytes]] = []
        self.called = asyncio.Semaphore(0)
        self.status = 200

    async def _answer(self, request) -> Response:
        self.calls.append((request.headers["authorization"], await request.body()))
        self.called.release()
        if self.status != 200:
            return Response(b"{}", self.status)
        return StreamingResponse(self._written(), media_type=LINES)

    async def _written(self):
        while (one := await self.lines.get()) is not None:
            yield one if isinstance(one, bytes) else one.model_dump_json(exclude_none=True).encode() + b"\n"

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        routes = [
            Route(PATH, self._answer, methods=["POST"]),
            order_keys_route(self.desk.release, guard_for(None)),
        ]
        at = await self._stack.enter_async_context(serve(Starlette(routes=routes), "127.0.0.1", 0))
        client = await self._stack.enter_async_context(order_keys_client(None))
        self.keys = HttpOrderKeys("crm", [at.url], client, self.clock, prefix="dsr", signer=CRM)
        listening = asyncio.create_task(self.keys.listen())
        self._stack.push_async_callback(self._stop, listening)
        return self

    async def _stop(self, listening: asyncio.Task) -> None:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    async def __aexit__(self, *_) -> None:
        await self._stack.aclose()

    async def say(self, one: KeysAhead) -> None:
        """Write a line and return when it has been heard."""
        news = self.keys._early._news
        self.lines.put_nowait(one)
        await asyncio.wait_for(news.wait(), _SOON)

    @property
    def asked_for(self) -> list[str]:
        return [name for _, _, names in self.desk.asked for name in names]


def marked(number: int, *orders, life: str = A) -> dict[str, AheadMark]:
    return {one.order_id: AheadMark(life, number) for one in orders}


async def test_a_key_that_came_ahead_is_not_asked_for() -> None:
    """It opens its own order, says who asks as the desk wants it, and is kept until the work on its order ends."""
    one, other = an_order(1), an_order(2)
    async with Worker() as worker:
        await worker.say(line(0))
        await worker.say(line(1, one, other))
        assert await worker.keys.fetch([one, other], marked(1, one, other)) == {}
        assert worker.asked_for == []
        for order in (one, other):
            assert worker.keys.key_for(order).unsafe_bytes() == root_of(order).derive("order").unsafe_bytes()
        assert await worker.keys.fetch([one]) == {} and worker.asked_for == []
        worker.keys.forget(one.order_id)
        assert await worker.keys.fetch([one]) == {} and worker.asked_for == [one.order_id]
        ((header, body),) = worker.calls
        assert body == b'{"system":"crm","orders":[]}'
        key = checked_assertion(header.removeprefix("Bearer "), Trust.of(CRM), audience_of("dsr"), NOW)
        assert key.kid == CRM.kid


async def test_an_order_that_is_faster_than_its_key_waits_for_it() -> None:
    """For its own line, which other lines do not stand for; those of one batch for the last."""
    order, other = an_order(1), an_order(2)
    async with Worker() as worker:
        await worker.say(line(0))
        fetching = asyncio.create_task(worker.keys.fetch([order, other], marked(2, order) | marked(1, other)))
        await worker.say(line(1, other))
        assert not fetching.done()
        await worker.say(line(2, order))
        assert await fetching == {}
        assert worker.asked_for == []


async def test_an_order_that_comes_again_waits_for_no_line() -> None:
    """Its key is at hand; the line that it is marked with now brings nothing new."""
    order = an_order(1)
    async with Worker() as worker:
        await worker.say(line(1, order))
        assert await worker.keys.fetch([order], marked(1, order)) == {}
        async with asyncio.timeout(_BELOW_PATIENCE):
            assert await worker.keys.fetch([order], marked(2, order)) == {}
        assert worker.asked_for == []


async def test_whose_line_cannot_come_is_asked_for_at_once() -> None:
    """Of a life that is not heard; of a line that has been; without a mark; and where the line brings nothing for it."""
    orders = [an_order(number) for number in range(1, 5)]
    async with Worker() as worker:
        await worker.say(line(7))
        async with asyncio.timeout(_BELOW_PATIENCE):
            assert await worker.keys.fetch([orders[0]], marked(8, orders[0], life=B)) == {}
            assert await worker.keys.fetch([orders[1]], marked(7, orders[1])) == {}
            assert await worker.keys.fetch([orders[2]]) == {}
            fetching = asyncio.create_task(worker.keys.fetch([orders[3]], marked(8, orders[3])))
            await worker.say(line(8))
            assert await fetching == {}
        assert worker.asked_for == [order.order_id for order in orders]


async def test_a_worker_that_goes_away_keeps_nobody_waiting() -> None:
    """What it has given is there still; the rest is asked for; it is listened to again after a moment."""
    given, lost = an_order(1), an_order(2)
    async with Worker() as worker:
        await worker.say(line(0))
        await worker.say(line(1, given))
        fetching = asyncio.create_task(worker.keys.fetch([given, lost], marked(1, given) | marked(2, lost)))
        await asyncio.sleep(0)
        assert not fetching.done()
        worker.lines.put_nowait(None)
        async with asyncio.timeout(_BELOW_PATIENCE):
            assert await fetching == {}
        assert worker.asked_for == [lost.order_id]
        await _again(worker, 2)
        await worker.say(line(0, life=B))
        await worker.say(line(1, an_order(3), life=B))
        assert await worker.keys.fetch([an_order(3)], marked(1, an_order(3), life=B)) == {}
        assert worker.asked_for == [lost.order_id]


async def _again(worker: Worker, calls: int) -> None:
    """Let time pass until the worker was called so often."""
    async with asyncio.timeout(_SOON):
        while len(worker.calls) < calls:
            worker.clock.advance(2.1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(worker.called.acquire(), 0.05)


async def test_lines_that_are_held_back_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that collects an answer before it passes it on costs one wait for each call, and a line in the log."""
    monkeypatch.setattr(early, "_PATIENCE_SECONDS", 0.1)
    first, second = an_order(1), an_order(2)
    async with Worker() as worker:
        await worker.say(line(0))
        with capture_logs() as logs:
            assert await worker.keys.fetch([first], marked(1, first)) == {}
        assert [one["event"] for one in logs] == ["keys_ahead_held_back"]
        monkeypatch.setattr(early, "_PATIENCE_SECONDS", _PATIENCE)
        async with asyncio.timeout(_SOON):
            await worker.say(line(1, first))
            assert await worker.keys.fetch([second], marked(2, second)) == {}
        assert worker.asked_for == [first.order_id, second.order_id]


async def test_what_nobody_takes_is_let_go() -> None:
    """Orders of other partitions go to other processes of the same system: their keys leave memory within seconds."""
    early_on, later, newest = an_order(1), an_order(2), an_order(3)
    async with Worker() as worker:
        await worker.say(line(1, early_on))
        worker.clock.advance(16)
        await worker.say(line(2, later))
        assert worker.keys._early.take(early_on.order_id) is None
        assert await worker.keys.fetch([early_on, later], marked(1, early_on) | marked(2, later)) == {}
        assert worker.asked_for == [early_on.order_id]
        await worker.say(line(3, newest))
        assert list(worker.keys._early._roots) == [newest.order_id]


async def test_a_key_that_comes_again_keeps_no_other_longer() -> None:
    """Those behind it are let go in their time."""
    again, other = an_order(1), an_order(2)
    async with Worker() as worker:
        await worker.say(line(1, again, other))
        worker.clock.advance(10)
        await worker.say(line(2, again))
        worker.clock.advance(6)
        await worker.say(line(3))
        assert list(worker.keys._early._roots) == [again.order_id]


async def test_so_many_keys_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, and are asked for."""
    monkeypatch.setattr(early, "_KEPT", 2)
    orders = [an_order(number) for number in range(1, 5)]
    async with Worker() as worker:
        await worker.say(line(1, *orders))
        assert await worker.keys.fetch(orders, marked(1, *orders)) == {}
        assert worker.asked_for == [order.order_id for order in orders[:2]]


@pytest.mark.parametrize(
    "told", [b"nonsense\n", b'{"life":"x","number":1}\n', b'{"life":"00000000000000aa","number":1,"keys":1}\n']
)
async def test_what_is_no_line_ends_the_call(told: bytes) -> None:
    """Nothing of it is believed or shown; keys are asked for, and it is listened to again."""
    order = an_order(1)
    async with Worker() as worker:
        with capture_logs() as logs:
            worker.lines.put_nowait(told)
            await _again(worker, 2)
        assert [(one["event"], one["reason"]) for one in logs] == [("keys_ahead_unheard", "ValidationError")]
        async with asyncio.timeout(_BELOW_PATIENCE):
            assert await worker.keys.fetch([order], marked(1, order)) == {}
        assert worker.asked_for == [order.order_id]


async def test_a_key_that_is_none_is_not_taken() -> None:
    """The call ends; the order's key is asked for."""
    order = an_order(1)
    bad = KeysAhead(life=A, number=1, keys=(KeyAnswer(order_id=order.order_id, status=200, key="c2hvcnQ="),))
    async with Worker() as worker:
        worker.lines.put_nowait(bad)
        await _again(worker, 2)
        assert await worker.keys.fetch([order], marked(1, order)) == {}
        assert worker.asked_for == [order.order_id]


async def test_a_worker_without_this_path_is_left_alone_for_long_and_told_of_once() -> None:
    """One of an earlier release; one that is only busy is tried again within seconds."""
    async with Worker() as worker:
        with capture_logs() as logs:
            worker.status = 503
            await _again(worker, 4)
            worker.status = 404
            await _again(worker, 5)
            await _until_asleep(worker)
            for _ in range(5):
                worker.clock.advance(50)
                await asyncio.sleep(0.01)
        assert len(worker.calls) == 5
        assert [one["reason"] for one in logs] == ["HTTP 503", "HTTP 404"]
        worker.status = 200
        worker.clock.advance(60)
        await asyncio.wait_for(worker.called.acquire(), _SOON)
        await worker.say(line(0))


async def _until_asleep(worker: Worker) -> None:
    async with asyncio.timeout(_SOON):
        while (  # noqa: ASYNC110 - who sleeps tells nobody
            wake := worker.clock.next_wake_at
        ) is None or (wake - worker.clock.now()).total_seconds() < 100:
            await asyncio.sleep(0.01)


async def test_an_answer_that_ends_at_once_is_not_asked_for_in_a_circle() -> None:
    """Whatever the reason, there is a wait before the next call."""
    async with Worker() as worker:
        worker.lines.put_nowait(None)
        await asyncio.wait_for(worker.called.acquire(), _SOON)
        await asyncio.sleep(0.1)
        assert len(worker.calls) == 1


HEADERS = [
    ([(AHEAD_HEADER, b"00000000000000aa.7")], AheadMark(A, 7)),
    ([("other", b"x"), (AHEAD_HEADER, b"00000000000000aa.0")], AheadMark(A, 0)),
    ([], None),
    ([(AHEAD_HEADER, b"")], None),
    ([(AHEAD_HEADER, b"00000000000000AA.7")], None),
    ([(AHEAD_HEADER, b"00000000000000aa.-7")], None),
    ([(AHEAD_HEADER, b"00000000000000aa.7\n")], None),
    ([(AHEAD_HEADER, b"00000000000000aa." + b"9" * 19)], None),
    ([(AHEAD_HEADER, b"\xff\xfe")], None),
]


@pytest.mark.parametrize(("headers", "mark"), HEADERS)
def test_a_mark_is_read_or_there_is_none(headers: list[tuple[str, bytes]], mark: AheadMark | None) -> None:
    """A header that anybody wrote stops no order."""
    assert mark_in(headers) == mark
    if mark is not None:
        assert mark_in([mark.header()]) == mark


def test_the_marks_of_a_batch_are_those_of_its_orders() -> None:
    """Records that are no order have none, whatever their headers say."""
    order = an_order(1)
    mark = AheadMark(A, 3)
    good = Inbound("t", 0, 0, order.subject_request_id.encode(), encode(order), [*headers_of(order), mark.header()])
    plain = Inbound("t", 0, 1, an_order(2).subject_request_id.encode(), encode(an_order(2)), headers_of(order))
    nonsense = Inbound("t", 0, 2, b"x", b"nonsense", [mark.header()])
    assert marks_of(parsed([good, plain, nonsense], "crm")) == {order.order_id: mark}
