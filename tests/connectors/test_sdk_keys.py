"""How a connector asks for keys, at the door as it ships: few calls, bounded memory, and no answer believed that is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Self

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from sdk_world import NOW, an_order, until
from starlette.applications import Starlette
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from connectors.sdk import keys as sdk_keys
from connectors.sdk.clock import ManualClock
from connectors.sdk.keys import HttpOrderKeys, KeysUnavailable, Purpose, order_keys_client
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.gateway.door import Guard
from orchestrator.gateway.health import serve
from orchestrator.gateway.order_keys import order_keys_route
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.order_keys import MOST_ORDERS, PATH, order_root, root_to_text
from schemas.sealed import SealingKey
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import QuarantineReason
from tests.key_desk_kit import DeskForAll, desk_for_all, self_signed

ROOT = SealingKey("request", bytes(range(32)))
CRM, STRANGER, MAIL = (SigningKey.new(f"system:{name}") for name in ("crm", "crm", "mail"))
NOBODY = "http://127.0.0.1:1"
_TEMPLATE = an_order()


def orders(*numbers: int):
    """Orders without a seal of their own: only their ids are asked for."""
    return [an_order(number) for number in numbers] if len(numbers) < 20 else [_plain(number) for number in numbers]


def _plain(number: int):
    request = f"0b9fe1a4-5f0e-4c1b-8a3d-{number:012d}"
    return _TEMPLATE.model_copy(update={"subject_request_id": request, "order_id": f"ord_{number:032x}"})


class Asking:
    """The keys of `crm`, at these addresses, with every call noted."""

    def __init__(self, *urls: str, signer: SigningKey | None = CRM, ca_file: str | None = None) -> None:
        self.clock = ManualClock(NOW)
        self.client = order_keys_client(ca_file)
        self.sent: list[httpx.Request] = []
        self.client.event_hooks = {"request": [self._note]}
        self.keys = HttpOrderKeys("crm", urls, self.client, self.clock, prefix="dsr", signer=signer)

    async def _note(self, request: httpx.Request) -> None:
        self.sent.append(request)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()


def right(order, purpose=Purpose.ORDER) -> bytes:
    return order_root(ROOT, order.subject_request_id, "crm", order.order_id).derive(purpose).unsafe_bytes()


def unreadable(keys: HttpOrderKeys, order) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        keys.key_for(order)
    assert caught.value.code == QuarantineReason.IDENTITY_UNREADABLE


@contextlib.asynccontextmanager
async def answering(answer):
    """A worker that answers every question so; yields its address and how often it was asked."""
    asked: list[bytes] = []

    async def post(request):
        asked.append(await request.body())
        return answer if isinstance(answer, Response) else answer(json.loads(asked[-1]))

    async def elsewhere(_):
        asked.append(b"elsewhere")
        return Response(b"{}")

    app = Starlette(routes=[Route(PATH, post, methods=["POST"]), Route("/elsewhere", elsewhere, methods=["GET", "POST"])])
    async with serve(app, "127.0.0.1", 0) as at:
        yield at.url, asked


async def test_one_call_for_many_orders_each_purpose_its_key_and_none_twice():
    """A batch is one call; each order once; what is in memory is not asked for; what was let go of is."""
    batch = orders(1, 2, 3)
    async with desk_for_all(ROOT) as desk, Asking(desk.url) as asking:
        desk.refused = {batch[2].order_id: 410}
        assert await asking.keys.fetch([*batch, batch[0]]) == {batch[2].order_id: 410}
        assert [ids for _, _, ids in desk.asked] == [[order.order_id for order in batch]]
        for order in batch[:2]:
            for purpose in Purpose:
                assert asking.keys.key_for(order, purpose).unsafe_bytes() == right(order, purpose)
        unreadable(asking.keys, batch[2])
        assert await asking.keys.fetch(batch[:2]) == {}
        assert len(desk.asked) == 1
        asking.keys.forget(batch[0].order_id)
        asking.keys.forget("ord_unknown")
        unreadable(asking.keys, batch[0])
        assert await asking.keys.fetch(batch[:2]) == {}
        assert desk.asked[-1][2] == [batch[0].order_id]
        assert await asking.keys.fetch([]) == {}
        assert len(desk.asked) == 2


@pytest.mark.parametrize("status", [403, 404, 410, 503])
async def test_a_refusal_is_told_by_its_status(status: int):
    """All refused, or some: by order id; and it is asked again next time, for it may be another answer then."""
    one, other = orders(1, 2)
    async with desk_for_all(ROOT) as desk, Asking(desk.url) as asking:
        desk.refused = {one.order_id: status}
        assert await asking.keys.fetch([one]) == {one.order_id: status}
        assert await asking.keys.fetch([one, other]) == {one.order_id: status}
        desk.refused = {}
        assert await asking.keys.fetch([one, other]) == {}
        assert asking.keys.key_for(one).unsafe_bytes() == right(one)


async def test_more_orders_than_one_call_takes_are_several_calls():
    """No call is larger than the door allows."""
    async with desk_for_all(ROOT) as desk, Asking(desk.url) as asking:
        assert await asking.keys.fetch(orders(*range(MOST_ORDERS * 2 + 7))) == {}
        assert [len(ids) for _, _, ids in desk.asked] == [MOST_ORDERS, MOST_ORDERS, 7]


async def test_memory_is_bounded_and_what_is_in_use_stays(monkeypatch: pytest.MonkeyPatch):
    """Those used least recently go; those of a batch at hand, and of the orders under way, are there whatever else comes."""
    monkeypatch.setattr(sdk_keys, "_REMEMBERED", MOST_ORDERS)
    under_way, used, *rest = orders(*range(MOST_ORDERS * 2 + 2))
    async with desk_for_all(ROOT) as desk, Asking(desk.url) as asking:
        await asking.keys.fetch([under_way])
        with asking.keys.holding(under_way.order_id):
            await asking.keys.fetch([used, *rest[: MOST_ORDERS - 1]])
            assert len(asking.keys._roots) == MOST_ORDERS
            assert asking.keys.key_for(under_way, Purpose.REPORT).unsafe_bytes() == right(under_way, Purpose.REPORT)
            # The oldest in memory stands in a batch with as many new ones as would push it out.
            await asking.keys.fetch([used, *rest[MOST_ORDERS - 1 : MOST_ORDERS * 2 - 2]])
            assert asking.keys.key_for(used).unsafe_bytes() == right(used)
            assert len(asking.keys._roots) == MOST_ORDERS
            unreadable(asking.keys, rest[0])
        unreadable(asking.keys, under_way)
        assert not asking.keys._held
        assert root_to_text(ROOT) not in repr(asking.keys.__dict__)


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_another_worker_is_asked_when_one_is_away_and_first_from_then_on(status: int):
    """A dead address, one that says 503 or 429 or does not know our key: the next one, which is not passed by next time."""
    async with (
        answering(Response(b"no", status)) as (busy, asked),
        desk_for_all(ROOT) as desk,
        Asking(NOBODY, busy, desk.url) as asking,
    ):
        assert await asking.keys.fetch(orders(1)) == {}
        assert [str(request.url) for request in asking.sent] == [f"{url}{PATH}" for url in (NOBODY, busy, desk.url)]
        assert await asking.keys.fetch(orders(2)) == {}
        assert len(asking.sent) == 4
        assert len(asked) == 1


async def test_calls_at_the_same_time_each_ask_every_worker():
    """One that turns to the next worker does not send another back to the dead one."""
    async with desk_for_all(ROOT) as desk, Asking(NOBODY, desk.url) as asking:
        found = await asyncio.gather(*(asking.keys.fetch(orders(number)) for number in range(1, 11)))
        assert found == [{}] * 10


@pytest.mark.parametrize("status", [429, 500, 502, 503, 599])
async def test_nobody_who_answers_is_unavailable_and_says_why(status: int):
    """429 or 5xx everywhere: `KeysUnavailable`, with the status and never the body that somebody wrote."""
    async with answering(Response(b"canary@example.org", status)) as (url, asked), Asking(url, url) as asking:
        with pytest.raises(KeysUnavailable, match=f"HTTP {status}") as caught:
            await asking.keys.fetch(orders(1))
        assert len(asked) == 2
        assert "canary" not in str(caught.value)
    async with Asking(NOBODY) as asking:
        with pytest.raises(KeysUnavailable, match="ConnectError"):
            await asking.keys.fetch(orders(1))


def _entry(body, **changes):
    (one,) = body["orders"]
    return {"order_id": one["order_id"], "status": 200, "key": root_to_text(ROOT)} | changes


GARBAGE = {
    "empty": lambda body: Response(b""),
    "html": lambda body: Response(b"<html>canary@example.org</html>", media_type="text/html"),
    "no object": lambda body: Response(b"[]"),
    "another object": lambda body: Response(b'{"keys": 1}'),
    "not utf-8": lambda body: Response(b"\xff\xfe"),
    "deep": lambda body: Response(b"[" * 5000),
    "no entries": lambda body: Response(json.dumps({"keys": []})),
    "two entries": lambda body: Response(json.dumps({"keys": [_entry(body)] * 2})),
    "another order": lambda body: Response(json.dumps({"keys": [_entry(body, order_id="ord_" + "a" * 32)]})),
    "another status": lambda body: Response(json.dumps({"keys": [_entry(body, status=201)]})),
    "given, without a key": lambda body: Response(json.dumps({"keys": [_entry(body, key=None)]})),
    "an empty key": lambda body: Response(json.dumps({"keys": [_entry(body, key="")]})),
    "a short key": lambda body: Response(json.dumps({"keys": [_entry(body, key="c2hvcnQ=")]})),
    "no base64": lambda body: Response(json.dumps({"keys": [_entry(body, key="canary")]})),
    "no ascii": lambda body: Response(json.dumps({"keys": [_entry(body, key="é" * 44)]})),
    "unpacked wrongly": lambda body: Response(b"canary", headers={"content-encoding": "gzip"}),
    "an error with 200": lambda body: Response(json.dumps({"error": "x", "remedy": "y"})),
    "an answer with a status that lets nobody in": lambda body: Response(json.dumps({"keys": [_entry(body)]}), 401),
    "teapot": lambda body: Response(b"canary", 418),
    "refused": lambda body: Response(json.dumps({"error": "unauthorised", "remedy": "kid: add it"}), 401),
    "nothing": lambda body: Response(status_code=204),
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_an_answer_that_is_none_is_unavailable(kind: str):
    """Whatever comes instead of an answer about these orders: no order is to blame, and nothing of it is believed or shown."""
    async with answering(GARBAGE[kind]) as (url, _), Asking(url) as asking:
        with pytest.raises(KeysUnavailable) as caught:
            await asking.keys.fetch(orders(1))
        assert "canary" not in str(caught.value)
        unreadable(asking.keys, orders(1)[0])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int):
    """An assertion is not carried elsewhere because somebody says so."""
    async with answering(lambda body: RedirectResponse("/elsewhere", status)) as (url, asked), Asking(url) as asking:
        with pytest.raises(KeysUnavailable, match=f"HTTP {status}"):
            await asking.keys.fetch(orders(1))
        with pytest.raises(ConfigurationError, match=f"HTTP {status}"):
            await asking.keys.check()
        assert b"elsewhere" not in asked
        assert len(asked) == 2


async def test_an_assertion_is_used_for_a_minute_and_then_made_anew():
    """The same token within its time; another from the moment it ends; the door takes both."""
    batch = orders(1, 2, 3, 4)
    async with Asking(NOBODY) as asking, desk_for_all(ROOT, trust=Trust.of(CRM), clock=asking.clock) as desk:
        asking.keys._urls = [desk.url]
        for order, seconds in zip(batch, (0, 59, 1, 59), strict=True):
            asking.clock.advance(seconds)
            assert await asking.keys.fetch([order]) == {}
        tokens = [request.headers["authorization"] for request in asking.sent]
        assert tokens[0] == tokens[1] != tokens[2] == tokens[3]
        assert {(system, kid) for system, kid, _ in desk.asked} == {("crm", CRM.kid)}


async def test_without_a_key_of_its_own_nobody_is_named():
    """For installations that have signatures off."""
    async with desk_for_all(ROOT) as desk, Asking(desk.url, signer=None) as asking:
        assert await asking.keys.fetch(orders(1)) == {}
        assert "authorization" not in asking.sent[0].headers
        assert desk.asked[0][1] == ""


async def test_a_check_tells_being_let_in_from_not_and_from_nobody_there():
    """Let in: returns. Not let in: the setting is wrong, and why. Nobody there: unavailable, which ends in time."""
    async with Asking(NOBODY) as asking:
        with pytest.raises(KeysUnavailable):
            await asking.keys.check()
        async with desk_for_all(ROOT, trust=Trust.of(CRM, MAIL), clock=asking.clock) as desk:
            asking.keys._urls = [desk.url]
            await asking.keys.check()
            assert desk.asked == [("crm", CRM.kid, [])]
            asking.keys._signer, asking.keys._token = STRANGER, None
            refused = asyncio.create_task(asking.keys.check())
            await passed(asking.clock, 20, refused)
            with pytest.raises(ConfigurationError, match="401 unauthorised") as caught:
                await refused
            assert "trust file" in str(caught.value) and STRANGER.kid in str(caught.value)
            assert "DSR_KEYS_URL" not in str(caught.value)
            # What is asked of orders then waits: the orders are not to blame.
            with pytest.raises(KeysUnavailable, match="401"):
                await asking.keys.fetch(orders(1))
            asking.keys._signer, asking.keys._token = MAIL, None
            with pytest.raises(ConfigurationError, match="403 foreign_system"):
                await asking.keys.check()


async def passed(clock: ManualClock, seconds: int, task: asyncio.Task[None]) -> None:
    """Move the clock so far, a second at a time, as the task waits for it."""
    for _ in range(seconds):
        await until(lambda: clock.next_wake_at is not None or task.done())
        assert not task.done()
        clock.advance(1)
        if clock.next_wake_at is None:
            await until(lambda: clock.next_wake_at is not None or task.done())


async def test_a_key_that_the_workers_have_not_read_yet_is_waited_for():
    """They read their trust file every ten seconds: 401 until then, with word of it in the log, and then let in."""
    trust = [Trust.of(MAIL)]
    async with Asking(NOBODY) as asking:
        door = Guard(lambda: trust[0], "dsr", asking.clock, WorkerMetrics(CollectorRegistry()), per_second=1e6)
        async with serve(Starlette(routes=[order_keys_route(DeskForAll(ROOT).release, door)]), "127.0.0.1", 0) as at:
            asking.keys._urls = [at.url]
            with structlog.testing.capture_logs() as logs:
                checked = asyncio.create_task(asking.keys.check())
                await passed(asking.clock, 9, checked)
                trust[0] = Trust.of(CRM, MAIL)
                await passed(asking.clock, 1, checked)
                await checked
            assert len(asking.sent) == 6
            left = [line["seconds"] for line in logs if line["event"] == "key_not_known_yet"]
            assert left == [20, 18, 16, 14, 12]


async def test_without_a_key_a_door_that_wants_one_is_not_waited_for():
    """Nothing that is put into the trust file would help: what to set is said at once."""
    async with desk_for_all(ROOT, trust=Trust.of(CRM)) as desk, Asking(desk.url, signer=None) as asking:
        with pytest.raises(ConfigurationError, match="DSR_SIGNING_KEY_FILE"):
            await asking.keys.check()
        assert len(asking.sent) == 1


async def test_over_tls_the_certificate_s_file_is_what_is_trusted(tmp_path):
    """With the file: a key. Without it, or with another's: nobody there. A file that is none is a wrong setting."""
    tls = self_signed(tmp_path)
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other")
    async with desk_for_all(ROOT, tls=tls) as desk:
        async with Asking(desk.url, ca_file=str(tls.certificate)) as asking:
            assert await asking.keys.fetch(orders(1)) == {}
        for ca_file in (None, str(other.certificate)):
            async with Asking(desk.url, ca_file=ca_file) as asking:
                with pytest.raises(KeysUnavailable, match="ConnectError"):
                    await asking.keys.fetch(orders(1))
        assert len(desk.asked) == 1
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for name in ("missing.pem", "nonsense.pem"):
        with pytest.raises(ConfigurationError, match="DSR_KEYS_CA_FILE"):
            order_keys_client(str(tmp_path / name))


async def test_an_order_that_ends_while_another_is_asked_for_is_asked_for_again() -> None:
    """It came again after a crash of the worker: its first work ends meanwhile and lets go; it must open all the same."""
    again, new = orders(1, 2)
    async with desk_for_all(ROOT) as desk, Asking(desk.url) as asking:
        assert await asking.keys.fetch([again]) == {}

        async def done(_request: httpx.Request) -> None:
            asking.keys.forget(again.order_id)
            asking.client.event_hooks = {"request": [asking._note]}

        asking.client.event_hooks = {"request": [done]}
        assert await asking.keys.fetch([again, new]) == {}
        for order in (again, new):
            assert asking.keys.key_for(order).unsafe_bytes() == right(order)
