"""The door of those who listen, over real HTTP: who is let in, how lines come, and that nobody holds a worker up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.gateway import order_keys
from orchestrator.gateway.door import MOST_BYTES, Guard
from orchestrator.gateway.health import serve
from orchestrator.gateway.order_keys import keys_ahead_route
from orchestrator.shell import keys_ahead
from orchestrator.shell.keys_ahead import Listeners
from schemas.keys_ahead import LINES, PATH, AheadMark, KeysAhead
from schemas.order_keys import KeyAnswer, OrderKeysError, assertion, audience_of
from schemas.topics import Topics
from schemas.trust import SigningKey, Trust

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)
CRM, MAIL, STRANGER = SigningKey.new("system:crm"), SigningKey.new("system:mail"), SigningKey.new("system:crm")
LIFE = "00000000000000aa"
BODY = json.dumps({"system": "crm", "orders": []}).encode()
ANSWER = KeyAnswer(order_id="ord_" + "0" * 32, status=200, key="x" * 44)


class Door:
    """Listeners behind their door."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.listeners = Listeners(self, self.metrics, topics=Topics(), worker="w1", life=LIFE)
        self._trust = Trust.of(CRM, MAIL)
        #: Somebody's key was looked at.
        self.seen = asyncio.Event()

    @property
    def trust(self) -> Trust:
        self.seen.set()
        return self._trust

    @trust.setter
    def trust(self, keys: Trust) -> None:
        self._trust = keys

    def now(self) -> datetime:
        return NOON

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Door]:
        route = keys_ahead_route(self.listeners.lines, Guard(lambda: self.trust, "dsr", self, self.metrics))
        async with serve(Starlette(routes=[route]), "127.0.0.1", 0) as at, httpx.AsyncClient(base_url=at.url) as self.client:
            yield self
            self.listeners.close()

    def hear(self, key: SigningKey = CRM, body: bytes | AsyncIterator[bytes] = BODY, at: datetime = NOON):
        token = assertion(key, audience_of("dsr"), at)[0]
        return self.client.stream("POST", PATH, content=body, headers={"authorization": f"Bearer {token}"}, timeout=30)

    def give(self, number: int) -> None:
        for listener in self.listeners.present("crm"):
            self.listeners.give("crm", AheadMark(LIFE, number), (ANSWER,), [listener])

    async def until_heard_by(self, count: int) -> None:
        async with asyncio.timeout(30):
            gauge = "dsr_order_keys_listening", {"system": "crm"}
            while self.registry.get_sample_value(*gauge) != count:  # noqa: ASYNC110 - a gauge tells nobody
                await asyncio.sleep(0.01)


async def test_lines_come_as_they_are_given() -> None:
    """One JSON object a line, the first at once; nobody on the way may keep them; who goes away is forgotten."""
    async with Door().open() as door:
        async with door.hear() as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(LINES)
            assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
            lines = answer.aiter_lines()
            assert KeysAhead.model_validate_json(await anext(lines)) == KeysAhead(life=LIFE, number=0)
            for number in (1, 2):
                door.give(number)
                line = KeysAhead.model_validate_json(await anext(lines))
                assert line == KeysAhead(life=LIFE, number=number, keys=(ANSWER,))
            await door.until_heard_by(1)
        await door.until_heard_by(0)


async def test_whoever_is_let_go_shows_again_who_it_is() -> None:
    """The answer ends without a word more; with a key that counts it may begin again, without it does not."""
    async with Door().open() as door:
        async with door.hear() as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            door.trust = Trust.of(MAIL)
            door.listeners.let_go()
            door.give(1)
            assert [line async for line in lines] == []
        async with door.hear() as answer:
            assert answer.status_code == 401
        door.trust = Trust.of(CRM)
        async with door.hear() as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            door.give(2)
            assert (await anext(lines)).endswith("}]}")


async def test_a_question_that_takes_its_time_is_judged_at_its_end() -> None:
    """Whoever sends slowly is let in by the keys of the end, not of the beginning; what has not begun is let go as well."""
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield BODY[:5]
        await go_on.wait()
        yield BODY[5:]

    async with Door().open() as door:

        async def hear() -> int:
            async with door.hear(body=slowly()) as answer:
                return answer.status_code

        asking = asyncio.create_task(hear())
        await door.seen.wait()
        door.trust = Trust.of(MAIL)
        door.listeners.let_go()
        go_on.set()
        assert await asking == 401
        door.trust = Trust.of(CRM)
        before = door.listeners.lines("crm", door.trust.key(CRM.kid))
        assert before is not None
        door.listeners.let_go()
        assert [line async for line in before] == []
        assert not door.listeners.are_there("crm")


REFUSED = [
    ({"key": STRANGER}, 401, "unauthorised"),
    ({"at": NOON - timedelta(hours=1)}, 401, "unauthorised"),
    ({"key": MAIL}, 403, "foreign_system"),
    ({"body": b"nonsense"}, 400, "invalid_body"),
    ({"body": b" " * (MOST_BYTES + 1)}, 413, "too_large"),
]


@pytest.mark.parametrize(("how", "status", "error"), REFUSED)
async def test_who_is_not_let_in_hears_nothing(how: dict, status: int, error: str) -> None:
    """As at the desk: its own system only, by a key that is valid now."""
    async with Door().open() as door, door.hear(**how) as answer:
        assert answer.status_code == status
        assert OrderKeysError.model_validate_json(await answer.aread()).error == error
        assert not door.listeners.are_there("crm")


async def test_too_many_are_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go on hearing; another system is not concerned."""
    monkeypatch.setattr(keys_ahead, "_LISTENERS", 1)
    async with Door().open() as door, door.hear() as first:
        lines = first.aiter_lines()
        await anext(lines)
        async with door.hear() as second:
            assert (second.status_code, second.headers["retry-after"]) == (503, "60")
        door.give(1)
        assert (await anext(lines)).endswith("}]}")
        body = json.dumps({"system": "mail", "orders": []}).encode()
        async with door.hear(key=MAIL, body=body) as other:
            assert other.status_code == 200


async def test_questions_that_do_not_end_leave_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is told at once to come back; those who listen already hold no place; and a place is given back."""
    monkeypatch.setattr(order_keys, "_AT_ONCE", 1)
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield BODY[:5]
        await go_on.wait()
        yield BODY[5:]

    async def asked_slowly() -> int:
        async with door.hear(body=slowly()) as answer:
            return answer.status_code

    async with Door().open() as door, door.hear() as listening:
        assert listening.status_code == 200
        slow = asyncio.create_task(asked_slowly())
        async with asyncio.timeout(30):
            while True:
                async with door.hear() as busy:
                    if busy.status_code != 200:
                        break
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        go_on.set()
        assert await slow == 200
        async with door.hear() as answer:
            assert answer.status_code == 200


async def test_a_worker_that_stops_does_not_wait_for_those_who_listen() -> None:
    """Their answers end in order, as soon as it says so."""
    door = Door()
    async with door.open(), door.hear() as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        door.listeners.close()
        assert await anext(lines, None) is None


async def test_a_call_that_nobody_reads_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks and reads nothing of the answer holds its place for so long and no longer."""
    monkeypatch.setattr(order_keys, "_LINES_SECONDS", 2.0)
    monkeypatch.setattr(keys_ahead, "_UNREAD", 10**9)
    async with Door().open() as door:
        token = assertion(CRM, audience_of("dsr"), NOON)[0]
        head = (f"POST {PATH} HTTP/1.1", "host: door", f"authorization: Bearer {token}", f"content-length: {len(BODY)}", "", "")
        with socket.create_connection((door.client.base_url.host, door.client.base_url.port)) as deaf:
            deaf.sendall("\r\n".join(head).encode() + BODY)
            await door.until_heard_by(1)
            wide = KeysAhead(life=LIFE, number=1, keys=(ANSWER,) * 2_000)
            for listener in door.listeners.present("crm"):
                for _ in range(100):
                    listener.add(wide)
            await door.until_heard_by(0)
