"""HTTP becomes typed errors in one place: every status, fault and header that a system can answer with."""

from __future__ import annotations

import asyncio
import gzip
import traceback

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from connectors.sdk.http import Answer, Policy, new_client, retry_after_header, segment, send
from connectors.sdk.settings import note_address
from connectors.sdk.standin import closed_port_url, serve
from connectors.sdk.work import entered
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled

WHO = "ada.lovelace@example.org"


class Answering:
    """A server that answers what the test says."""

    def __init__(self):
        self.answer = Response("{}")
        self.paths = []

    async def handle(self, request):
        self.paths.append(request.scope["raw_path"].decode())
        return self.answer

    def app(self):
        return Starlette(routes=[Route("/{rest:path}", self.handle, methods=["GET", "POST"])])


@pytest.fixture(scope="module")
def server():
    answering = Answering()
    with serve(answering.app) as answering.url:
        yield answering


@pytest.fixture
async def client(server):
    async with new_client(server.url, timeout_seconds=0.5) as client:
        yield client


async def get(client, **options):
    return await send(client, "GET", f"/people/{segment(WHO)}", operation="person_read", **options)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, SystemRejected),
        (400, SystemRejected),
        (401, CredentialsRefused),
        (403, CredentialsRefused),
        (404, SystemRejected),
        (408, SystemUnavailable),
        (409, SystemRejected),
        (410, SystemRejected),
        (422, SystemRejected),
        (425, SystemUnavailable),
        (429, Throttled),
        (500, SystemUnavailable),
        (503, SystemUnavailable),
        (599, SystemUnavailable),
    ],
)
async def test_every_status_has_its_error(server, client, status, error):
    """The table of the module, and no trace of the person in any of it."""
    server.answer = Response(WHO, status_code=status, headers={"location": f"/{WHO}"})
    with pytest.raises(error) as caught:
        await get(client)
    assert type(caught.value) is error
    assert WHO not in "".join(traceback.format_exception(caught.value))
    assert f"{status}" in str(caught.value)


async def test_an_expected_status_is_the_callers(server, client):
    """404 in `expect` is an answer, not an error."""
    server.answer = Response(status_code=404)
    assert (await get(client, expect={200, 404})).status == 404


async def test_the_policy_can_call_a_403_throttling(server, client):
    """Some systems throttle with 403: the connector's policy says which."""
    policy = Policy(throttled=lambda answer: answer.status == 403 and not answer.content)
    server.answer = Response(status_code=403)
    with pytest.raises(Throttled):
        await get(client, policy=policy)
    server.answer = Response("no scope", status_code=403)
    with pytest.raises(CredentialsRefused):
        await get(client, policy=policy)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Thu, 05 Mar 2026 09:01:30 GMT", 90.0),
        ("Thu, 05 Mar 2026 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("", None),
    ],
)
async def test_retry_after_in_seconds_or_as_a_date(server, client, header, seconds):
    """RFC 9110 10.2.3, both forms; a date counts from the answer's own Date; nonsense is as good as nothing."""
    headers = httpx.Headers({"retry-after": header, "date": "Thu, 05 Mar 2026 09:00:00 GMT"})
    assert retry_after_header(Answer("x", 429, headers, b"")) == seconds
    server.answer = Response(status_code=429, headers={"retry-after": "12"})
    with pytest.raises(Throttled) as caught:
        await get(client)
    assert caught.value.retry_after_seconds == 12.0


@pytest.mark.parametrize("body", ["", "{", "[1, 2]", "nul", "[" * 100_000])
async def test_a_body_that_is_no_object_is_rejected(server, client, body):
    """Malformed JSON, another shape, or nesting without end."""
    server.answer = Response(body, media_type="application/json")
    answer = await get(client)
    with pytest.raises(SystemRejected):
        answer.object()


async def test_a_small_body_that_unpacks_to_a_huge_one_is_refused(server, client):
    """The bound is on what is unpacked: a compressed bomb does not fill the memory."""
    bomb = gzip.compress(b"0" * (11 * 1024 * 1024))
    assert len(bomb) < 20_000
    server.answer = Response(bomb, headers={"content-encoding": "gzip"})
    with pytest.raises(SystemRejected, match="larger than"):
        await get(client)


async def test_a_body_that_does_not_unpack_is_rejected(server, client):
    """content-encoding: gzip over plain bytes."""
    server.answer = Response(b"plain", headers={"content-encoding": "gzip"})
    with pytest.raises(SystemRejected):
        await get(client)


async def test_a_drip_that_never_ends_is_cut_off(server, client):
    """Each read is in time, the whole is not: total_seconds bounds it."""

    async def drip():
        for _ in range(200):
            yield b" "
            await asyncio.sleep(0.05)

    server.answer = StreamingResponse(drip())
    with pytest.raises(SystemUnavailable, match="no complete answer"):
        await get(client, policy=Policy(total_seconds=0.4))


async def test_nobody_listens():
    """A refused connection is SystemUnavailable."""
    with closed_port_url() as url:
        async with new_client(url) as client:
            with pytest.raises(SystemUnavailable) as caught:
                await get(client)
    assert WHO not in "".join(traceback.format_exception(caught.value))


async def test_who_does_not_answer_is_named_by_its_setting():
    """The variable that the address came from, and nothing of the address."""
    with closed_port_url() as url:
        note_address("DSR_ACME_BASE_URL", url)
        async with new_client(url.replace("://", f"://{WHO.replace('@', '%40')}:canary@")) as client:
            with pytest.raises(SystemUnavailable) as caught:
                await send(client, "GET", "/people", params={"email": WHO}, operation="people_find")
    assert str(caught.value) == "people_find: ConnectError: nobody answers at the address in DSR_ACME_BASE_URL"


async def test_an_address_with_slashes_stays_one_segment(server, client):
    """An identity cannot walk to another path."""
    server.answer = Response("{}")
    await send(client, "GET", f"/people/{segment('../admin?x=1#y/z')}", operation="x")
    assert server.paths[-1] == "/people/..%2Fadmin%3Fx%3D1%23y%2Fz"


@pytest.mark.parametrize("url", ["api.example.org", "ftp://api.example.org", ""])
def test_a_base_url_without_scheme_is_a_wrong_setting(url):
    """Noticed when the client is built, not at the first order."""
    with pytest.raises(ConfigurationError):
        new_client(url)


async def test_a_token_with_a_line_break_is_a_wrong_setting(server):
    """A secret pasted with its newline: named as such, not sent, not shown."""
    async with new_client(server.url, headers={"authorization": "Bearer x\ny"}) as client:
        with pytest.raises(ConfigurationError) as caught:
            await get(client)
    assert "Bearer" not in "".join(traceback.format_exception(caught.value))


async def test_every_request_takes_a_turn(server, client):
    """The limits of a system count requests: `send` asks for a turn before each."""
    turns = []

    class Counting:
        async def take_turn(self):
            turns.append(1)

        async def remember(self, found):
            raise AssertionError

    server.answer = Response("{}")
    with entered(Counting()):
        await get(client)
        await get(client)
    await get(client)
    assert len(turns) == 2


async def test_libraries_do_not_log_urls(server, client, caplog):
    """The HTTP library logs every URL at INFO by default, and ours hold addresses."""
    caplog.set_level("DEBUG")
    server.answer = Response("{}")
    await get(client)
    assert WHO not in caplog.text
    assert segment(WHO) not in caplog.text
