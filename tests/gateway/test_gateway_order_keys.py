"""The door of the key desk over real HTTP: who is let in, in what form, and what it says to everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from structlog.testing import capture_logs

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.gateway import order_keys
from orchestrator.gateway.door import MOST_BYTES, Guard
from orchestrator.gateway.health import Tls, serve
from orchestrator.gateway.order_keys import order_keys_route
from orchestrator.ports import PublishFailed
from schemas.errors import ConfigurationError, StoreUnavailable
from schemas.ids import order_id
from schemas.order_keys import ASSERTION_TYP, MOST_ORDERS, PATH, KeyAnswer, OrderKeysError, assertion, audience_of, root_to_text
from schemas.sealed import SealingKey
from schemas.trust import SigningKey, Trust
from tests.key_desk_kit import self_signed

NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)
CRM, MAIL, STRANGER = SigningKey.new("system:crm"), SigningKey.new("system:mail"), SigningKey.new("system:crm")
PORTAL = SigningKey.new("portal:crm")
AUDIENCE = audience_of("dsr")
ROOT = SealingKey("order", bytes(range(32)))
CANARY = "canary.jansen@example.org"


def request_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def wanted(*numbers: int, system: str = "crm") -> list[dict[str, str]]:
    return [{"subject_request_id": request_id(n), "order_id": order_id(request_id(n), system)} for n in numbers]


class CountingTrust(Trust):
    """A trust that knows how many signatures it was asked to verify."""

    verified = 0

    def opened(self, signed: str, *, typ: str):
        """Verify, and count."""
        self.verified += 1
        return super().opened(signed, typ=typ)


class Door:
    """The route with a desk behind it that a test scripts: the status of an order is that of its place."""

    def __init__(self) -> None:
        self.at = NOON
        self.per_second = 1e6
        self.registry = CollectorRegistry()
        self.statuses: list[int] = [200]
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.asked: list[tuple[str, str, int]] = []
        self.waiting = asyncio.Semaphore(0)
        self.trust: CountingTrust | None = CountingTrust.of(CRM, MAIL, PORTAL)  # type: ignore[assignment] # of() makes its own kind

    def now(self) -> datetime:
        return self.at

    async def release(self, system, kid, orders):
        self.asked.append((system, kid, len(orders)))
        if self.hold is not None:
            self.waiting.release()
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return [self._answer(one, self.statuses[n % len(self.statuses)]) for n, one in enumerate(orders)]

    def _answer(self, one, status):
        if status == 200:
            return KeyAnswer(order_id=one.order_id, status=200, key=root_to_text(ROOT))
        return KeyAnswer(order_id=one.order_id, status=status, error="order_closed", remedy="drop it")

    @contextlib.asynccontextmanager
    async def open(self, tls: Tls | None = None) -> AsyncIterator[Door]:
        """Serve it."""
        trust = None if self.trust is None else lambda: self.trust
        guard = Guard(trust, "dsr", self, WorkerMetrics(self.registry), per_second=self.per_second)
        app = Starlette(routes=[order_keys_route(self.release, guard)])
        async with serve(app, "127.0.0.1", 0, tls=tls) as self.listening:
            context = True if tls is None else ssl.create_default_context(cafile=tls.certificate)
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=self.listening.url, timeout=20, verify=context, limits=limits) as self.client:
                yield self

    def refused(self, reason: str) -> float | None:
        return self.registry.get_sample_value("dsr_order_keys_questions_refused_total", {"reason": reason})

    async def ask(self, body: object = None, *, key: SigningKey = CRM, header: str | None = None, **more) -> httpx.Response:
        if header is None:
            header = f"Bearer {assertion(key, AUDIENCE, self.at)[0]}"
        content = (
            body if isinstance(body, bytes) else json.dumps({"system": "crm", "orders": wanted(1)} | (body or {})).encode()
        )
        headers = {"authorization": header} if header else {}
        return await self.client.post(PATH, content=more.pop("content", content), headers=headers, **more)


def said(answer: httpx.Response, status: int, error: str) -> str:
    """Check a refusal of the whole call; return its remedy."""
    assert answer.status_code == status
    found = OrderKeysError.model_validate_json(answer.content)
    assert found.error == error
    assert found.remedy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] == "application/json"
    assert root_to_text(ROOT) not in answer.text
    return found.remedy


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [([200], 200), ([410], 410), ([403], 403), ([404], 404), ([200, 410], 207), ([403, 404], 207), ([410, 410], 410)],
)
async def test_each_order_has_a_status_and_the_call_has_theirs(statuses: list[int], whole: int) -> None:
    """One entry for each order, in their order; the call's status is theirs if they agree, else 207."""
    door = Door()
    door.statuses = statuses
    orders = wanted(*range(1, 1 + len(statuses)))
    async with door.open():
        answer = await door.ask({"orders": orders})
    assert answer.status_code == whole
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert "server" not in answer.headers
    keys = answer.json()["keys"]
    assert [(one["order_id"], one["status"]) for one in keys] == [
        (order["order_id"], status) for order, status in zip(orders, statuses, strict=True)
    ]
    assert all(("key" in one) == (one["status"] == 200) for one in keys)
    assert door.asked == [("crm", CRM.kid, len(statuses))]


async def test_no_orders_and_as_many_as_may_be() -> None:
    """Nothing asked is a question too: whether one is let in. The most orders fit; one more is refused by its field."""
    async with Door().open() as door:
        answer = await door.ask({"orders": []})
        assert (answer.status_code, answer.json()) == (200, {"keys": []})
        full = await door.ask({"orders": wanted(*range(MOST_ORDERS))})
        assert (full.status_code, len(full.json()["keys"])) == (200, MOST_ORDERS)
        assert "orders" in said(await door.ask({"orders": wanted(*range(MOST_ORDERS + 1))}), 400, "invalid_body")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 5000, "body"),
        (b"[]", "body"),
        ({"system": CANARY}, "system"),
        ({"system": None}, "system"),
        ({"orders": CANARY}, "orders"),
        ({"orders": [CANARY]}, "orders.0"),
        ({"orders": [*wanted(1), {"order_id": order_id(request_id(2), "crm")}]}, "orders.1.subject_request_id"),
        ({"orders": [{**wanted(1)[0], "order_id": CANARY}]}, "orders.0.order_id"),
        ({"orders": [{**wanted(1)[0], "subject_request_id": CANARY}]}, "orders.0.subject_request_id"),
        ({"orders": [{**wanted(1)[0], CANARY: CANARY}]}, "orders.0"),
        ({CANARY: CANARY}, "body"),
    ],
)
async def test_a_wrong_body_names_the_field_and_never_the_value(body: object, field: str) -> None:
    """The remedy says where; what was sent, and names that are not ours, are not repeated, nor logged."""
    with capture_logs() as logs:
        async with Door().open() as door:
            answer = await door.ask(body)
    assert said(answer, 400, "invalid_body").startswith(f"{field}: ")
    assert CANARY not in answer.text + str(logs)
    assert not door.asked


def _claims(**claims: object) -> str:
    at = int(NOON.timestamp())
    given = {"iss": "system:crm", "sub": "system:crm", "aud": AUDIENCE, "iat": at, "exp": at + 60} | claims
    return CRM.sign(json.dumps(given).encode(), typ=ASSERTION_TYP)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="missing"),
        pytest.param("Bearer", id="no token"),
        pytest.param(f"Basic {_claims()}", id="other scheme"),
        pytest.param(_claims(), id="no scheme"),
        pytest.param(f"Bearer {CANARY}", id="garbage"),
        pytest.param("Bearer a.b.c", id="three parts of garbage"),
        pytest.param(f"Bearer {_claims()}x", id="changed"),
        pytest.param(f"Bearer {_claims(aud=audience_of('other'))}", id="another installation's"),
        pytest.param(f"Bearer {_claims(sub='system:mail')}", id="for another"),
        pytest.param(f"Bearer {_claims(exp=int(NOON.timestamp()) + 61)}", id="too long a life"),
        pytest.param(f"Bearer {assertion(CRM, AUDIENCE, NOON - timedelta(seconds=121))[0]}", id="expired"),
        pytest.param(f"Bearer {assertion(CRM, AUDIENCE, NOON + timedelta(seconds=61))[0]}", id="of the future"),
        pytest.param(f"Bearer {assertion(STRANGER, AUDIENCE, NOON)[0]}", id="unknown key"),
        pytest.param(f"Bearer {CRM.sign(b'{}', typ='dsr-tree')}", id="a record's signature"),
        pytest.param("Bearer eyJhbGciOiJFZDI1NTE5Iiwia2lkIjoieCIsImNyaXQiOm51bGx9..", id="a header that breaks readers"),
    ],
)
async def test_whoever_is_not_known_is_not_let_in(header: str) -> None:
    """401, with the header that RFC 6750 asks for; nothing of the token comes back or is logged; nothing is asked behind."""
    with capture_logs() as logs:
        async with Door().open() as door:
            answer = await door.ask(header=header)
    said(answer, 401, "unauthorised")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert not door.asked
    token = header.rpartition(" ")[2]
    assert not token or token == "Bearer" or token not in answer.text + str(logs)
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("order_keys_unauthorised", "warning")


async def test_a_stranger_learns_nothing_of_the_body_and_a_large_one_is_not_read() -> None:
    """Who asks is looked at before what is asked."""
    async with Door().open() as door:
        said(await door.ask(b"nonsense", header="Bearer nobody"), 401, "unauthorised")
        said(await door.ask(b" " * (MOST_BYTES * 20), header="Bearer nobody"), 401, "unauthorised")


async def test_a_system_asks_for_itself_only() -> None:
    """Another system's key, and a portal's of the same name, are refused whatever the orders."""
    with capture_logs() as logs:
        async with Door().open() as door:
            for key in (MAIL, PORTAL):
                said(await door.ask(key=key), 403, "foreign_system")
            assert (await door.ask({"system": "mail", "orders": wanted(1, system="mail")}, key=MAIL)).status_code == 200
    assert door.asked == [("mail", MAIL.kid, 1)]
    assert [line["event"] for line in logs] == ["order_keys_foreign_system"] * 2


async def test_too_much_is_refused_whether_or_not_it_says_how_much() -> None:
    """413 for a body with its length before it and for one in pieces; just below, it is read."""

    async def pieces():
        for _ in range(100):
            yield b" " * 4096

    async with Door().open() as door:
        said(await door.ask(b" " * (MOST_BYTES + 1)), 413, "too_large")
        said(await door.ask(content=pieces()), 413, "too_large")
        body = json.dumps({"system": "crm", "orders": wanted(1)}).encode()
        assert (await door.ask(body + b" " * (MOST_BYTES - len(body)))).status_code == 200


async def test_a_question_that_does_not_come_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends it drop by drop holds a place for a while and no longer."""
    monkeypatch.setattr("orchestrator.gateway.door._BODY_SECONDS", 0.2)
    async with Door().open() as door:
        reader, writer = await asyncio.open_connection(door.listening.host, door.listening.port)
        token = assertion(CRM, AUDIENCE, door.at)[0]
        head = (f"POST {PATH} HTTP/1.1", "host: door", f"authorization: Bearer {token}", "content-length: 90", "", "{")
        writer.write("\r\n".join(head).encode())
        line = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        assert line.split()[1] == b"408"
        assert (await door.ask()).status_code == 200


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable(f"no {CANARY}"), PublishFailed(f"no {CANARY}"), ConfigurationError(f"no {CANARY}")],
)
async def test_store_or_broker_away_is_said_and_is_not_for_ever(error: Exception) -> None:
    """503 with a time to come back, without the error's text; as soon as it works again, keys are given."""
    with capture_logs() as logs:
        async with Door().open() as door:
            door.error = error
            answer = await door.ask()
            door.error = None
            assert (await door.ask()).status_code == 200
    said(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "2"
    assert CANARY not in answer.text + str(logs)
    assert [(line["event"], line["error_type"]) for line in logs] == [("order_keys_unavailable", type(error).__name__)]


async def test_an_error_that_nobody_expects_tells_nothing() -> None:
    """500, and not a word of it."""
    async with Door().open() as door:
        door.error = RuntimeError(f"the store: {CANARY}")
        answer = await door.ask()
        assert answer.status_code == 500
        assert CANARY not in answer.text
        door.error = None
        assert (await door.ask()).status_code == 200


async def test_too_many_at_once_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as may be are served; one more is told at once; when they are done there is room again."""
    monkeypatch.setattr(order_keys, "_AT_ONCE", 8)
    door = Door()
    door.hold = asyncio.Event()
    async with door.open():
        asking = [asyncio.create_task(door.ask()) for _ in range(8)]
        for _ in range(8):
            await asyncio.wait_for(door.waiting.acquire(), 10)
        busy = await door.ask()
        said(busy, 503, "busy")
        assert busy.headers["retry-after"] == "1"
        door.hold.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        assert (await door.ask()).status_code == 200
        # Those that are refused, or fail, give their place back.
        for _ in range(20):
            await door.ask(header="Bearer nobody")
            await door.ask(b"nonsense")
        assert (await door.ask()).status_code == 200


async def test_a_system_that_asks_without_end_is_told_to_wait_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with a time, before the body is read; one log line for all of it, and a count; another system is served."""
    door = Door()
    door.per_second = 2
    monkeypatch.setattr("orchestrator.gateway.door._now", lambda: 1_000.0)
    with capture_logs() as logs:
        async with door.open():
            assert [(await door.ask()).status_code for _ in range(4)] == [200] * 4
            for _ in range(3):
                refused = await door.ask(b"nobody reads this")
                remedy = said(refused, 429, "too_many")
                assert "2 times a second" in remedy
                assert refused.headers["retry-after"] == "1"
            assert (await door.ask({"system": "mail", "orders": wanted(1, system="mail")}, key=MAIL)).status_code == 200
            monkeypatch.setattr("orchestrator.gateway.door._now", lambda: 1_000.5)
            assert [(await door.ask()).status_code for _ in range(2)] == [200, 429]
    assert [line["event"] for line in logs] == ["order_keys_too_many"]
    assert door.refused("too_many") == 4
    assert len(door.asked) == 6


async def test_a_stranger_who_tries_without_end_costs_no_more_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """By address, until it says who it is; whoever has said so is asked no further, and still served."""
    door = Door()
    door.per_second = 2
    monkeypatch.setattr("orchestrator.gateway.door._now", lambda: 1_000.0)
    with capture_logs() as logs:
        async with door.open():
            known = f"Bearer {assertion(CRM, AUDIENCE, door.at)[0]}"
            assert (await door.ask(header=known)).status_code == 200
            verified = door.trust.verified
            statuses = [(await door.ask(key=STRANGER)).status_code for _ in range(20)]
            assert statuses == [401] * 3 + [429] * 17
            assert door.trust.verified <= verified + 3
            assert (await door.ask(header=known)).status_code == 200
    assert [line["event"] for line in logs] == ["order_keys_unauthorised", "order_keys_too_many"]
    assert (door.refused("unauthorised"), door.refused("too_many")) == (3, 17)


async def test_where_nobody_says_who_he_is_addresses_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With signatures off too."""
    door = Door()
    door.per_second, door.trust = 2, None
    monkeypatch.setattr("orchestrator.gateway.door._now", lambda: 1_000.0)
    async with door.open():
        assert [(await door.ask()).status_code for _ in range(5)] == [200] * 4 + [429]


async def test_it_is_a_post() -> None:
    """A key is never in what a browser, a cache or a prefetch would ask for."""
    async with Door().open() as door:
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
            answer = await door.client.request(method, PATH)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert not door.asked


async def test_no_key_no_id_and_no_token_in_any_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever happens at the door, neither structlog nor the web server writes any of it."""
    caplog.set_level(logging.DEBUG)
    token = assertion(CRM, AUDIENCE, NOON)[0]
    with capture_logs() as logs:
        async with Door().open() as door:
            for statuses in ([200], [403], [404], [410]):
                door.statuses = statuses
                await door.ask(header=f"Bearer {token}")
            await door.ask(header=f"Bearer {token}x")
            await door.ask(key=MAIL)
            await door.ask({"orders": [{**wanted(1)[0], "order_id": CANARY}]})
            for error in (StoreUnavailable("x"), PublishFailed("x")):
                door.error = error
                await door.ask()
    written = str(logs) + caplog.text
    for secret in (root_to_text(ROOT), request_id(1), wanted(1)[0]["order_id"], token, token[:40], CANARY):
        assert secret not in written
    assert logs


async def test_a_remembered_assertion_is_verified_once_and_ends_in_its_time() -> None:
    """One signature for as long as it is good; not a second longer, although it is remembered."""
    async with Door().open() as door:
        header = f"Bearer {assertion(CRM, AUDIENCE, NOON)[0]}"
        for seconds in (0, 1, 59, 119):
            door.at = NOON + timedelta(seconds=seconds)
            assert (await door.ask(header=header)).status_code == 200
        assert door.trust.verified == 1
        door.at = NOON + timedelta(seconds=120)
        said(await door.ask(header=header), 401, "unauthorised")
        said(await door.ask({"system": "mail"}, header=f"Bearer {assertion(CRM, AUDIENCE, door.at)[0]}"), 403, "foreign_system")


async def test_a_remembered_assertion_ends_with_its_key() -> None:
    """A key that is taken out of the trust, or whose time is over, lets nobody in, however fresh the assertion."""
    async with Door().open() as door:
        header = f"Bearer {assertion(CRM, AUDIENCE, NOON)[0]}"
        assert (await door.ask(header=header)).status_code == 200
        door.trust = CountingTrust.of(MAIL)
        said(await door.ask(header=header), 401, "unauthorised")
        other = SigningKey.new(CRM.principal).public() | {"kid": CRM.kid}
        door.trust = CountingTrust.from_json(json.dumps({"keys": [other]}))
        said(await door.ask(header=header), 401, "unauthorised")
        door.trust = CountingTrust.of(CRM)
        assert (await door.ask(header=header)).status_code == 200
    door = Door()
    member = CRM.public() | {"exp": int(NOON.timestamp()) + 10}
    door.trust = CountingTrust.from_json(json.dumps({"keys": [member]}))
    async with door.open():
        assert (await door.ask(header=header)).status_code == 200
        door.at = NOON + timedelta(seconds=10)
        said(await door.ask(header=header), 401, "unauthorised")


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More assertions than are remembered are still let in; the first of them is by then on its own signature again."""
    monkeypatch.setattr("orchestrator.gateway.door._REMEMBERED", 3)
    headers = [f"Bearer {assertion(CRM, AUDIENCE, NOON - timedelta(seconds=n))[0]}" for n in range(10)]
    async with Door().open() as door:
        for header in headers:
            for _ in range(2):
                assert (await door.ask(header=header)).status_code == 200
        assert door.trust.verified == 10
        assert (await door.ask(header=headers[0])).status_code == 200
        assert door.trust.verified == 11


async def test_with_signatures_off_nobody_has_to_say_who_they_are() -> None:
    """For installations that have signatures off: any header will do, and no key is named."""
    door = Door()
    door.trust = None
    async with door.open():
        for header in ("", "Bearer nonsense"):
            assert (await door.ask(header=header)).status_code == 200
    assert door.asked == [("crm", "", 1)] * 2


async def test_over_tls_with_a_certificate_of_one_s_own(tmp_path: Path) -> None:
    """Who trusts the certificate gets the key; who does not, sends nothing; plain HTTP is not answered there."""
    async with Door().open(tls=self_signed(tmp_path)) as door:
        assert door.listening.url.startswith("https://")
        answer = await door.ask()
        assert answer.json()["keys"][0]["key"] == root_to_text(ROOT)
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        async with httpx.AsyncClient(timeout=5) as stranger:
            with pytest.raises(httpx.ConnectError):
                await stranger.post(door.listening.url + PATH)
            with pytest.raises(httpx.TransportError):
                await stranger.post(door.listening.url.replace("https", "http") + PATH)
    assert len(door.asked) == 1
