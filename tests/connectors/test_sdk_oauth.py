"""Tokens: asked for once, renewed before they end and once when refused, on a real port."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import parse_qs

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from connectors.sdk.http import Policy, new_client
from connectors.sdk.oauth import Grant, GrantedToken, RefreshTokenFile, StaticToken, send_as
from connectors.sdk.standin import serve
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected

POLICY = Policy(total_seconds=5)
CLIENT = Grant("client", "stand-in-secret")
REFRESH = Grant("client", "stand-in-secret", "refresh-0")


class Server:
    """A token endpoint and one resource; `answers` replaces the token endpoint's answers, `good` lists good tokens."""

    def __init__(self):
        self.forms, self.calls, self.good = [], [], set()
        self.answers = {}
        self.status, self.refusal = 200, 401

    def __call__(self):
        return Starlette(routes=[Route("/token", self.issue, methods=["POST"]), Route("/thing", self.thing, methods=["GET"])])

    async def issue(self, request):
        self.forms.append({k: v[0] for k, v in parse_qs((await request.body()).decode()).items()})
        token = f"token-{len(self.forms)}"
        self.good.add(token)
        return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": 3600, **self.answers}, self.status)

    async def thing(self, request):
        bearer = request.headers["authorization"].removeprefix("Bearer ")
        self.calls.append(bearer)
        return JSONResponse({}, 200 if bearer in self.good else self.refusal)


@pytest.fixture
def server():
    server = Server()
    with serve(server) as server.url:
        yield server


@pytest.fixture
async def http(server):
    client = new_client(server.url, timeout_seconds=2)
    yield client
    await client.aclose()


async def get(token, http):
    return await send_as(token, http, "GET", "/thing", operation="thing", policy=POLICY)


async def test_twenty_calls_at_once_ask_for_one_token(server, http, caplog):
    """All share one token, got by the client credentials grant; no secret and no token shows in logs or reprs."""
    caplog.set_level(logging.DEBUG)
    token = GrantedToken(http, "/token", CLIENT, policy=POLICY)
    await asyncio.gather(*(get(token, http) for _ in range(20)))
    assert server.forms == [{"grant_type": "client_credentials", "client_id": "client", "client_secret": "stand-in-secret"}]
    assert server.calls == ["token-1"] * 20
    assert "stand-in-secret" not in caplog.text + repr(CLIENT) + repr(token)
    assert "token-1" not in caplog.text


async def test_a_refused_token_is_renewed_once_for_all(server, http):
    """Ten calls that meet 401 together lead to one more token; a second 401 is CredentialsRefused."""
    token = GrantedToken(http, "/token", CLIENT, policy=POLICY)
    await get(token, http)
    server.good.clear()
    await asyncio.gather(*(get(token, http) for _ in range(10)))
    assert len(server.forms) == 2
    server.answers = {"access_token": "never good"}
    server.good.clear()
    server.calls.clear()
    with pytest.raises(CredentialsRefused):
        await get(token, http)
    assert server.calls == ["token-2", "never good"]


async def test_a_token_is_renewed_a_minute_before_it_ends(server, http):
    """At 59 minutes of an hour the next call asks for a new token; an answer without `expires_in` never ends by itself."""
    now = 0.0
    token = GrantedToken(http, "/token", CLIENT, policy=POLICY, monotonic=lambda: now)
    await get(token, http)
    now = 3539.0
    await get(token, http)
    assert len(server.forms) == 1
    now, server.answers = 3540.0, {"expires_in": None}
    await get(token, http)
    now = 1e9
    await get(token, http)
    assert len(server.forms) == 2


async def test_a_replaced_refresh_token_is_used_from_then_on(server, http):
    """The second refresh sends the token that the first was answered with."""
    token = GrantedToken(http, "/token", REFRESH, policy=POLICY)
    server.answers = {"refresh_token": "refresh-1"}
    await get(token, http)
    server.good.clear()
    await get(token, http)
    assert [form["refresh_token"] for form in server.forms] == ["refresh-0", "refresh-1"]
    assert {form["grant_type"] for form in server.forms} == {"refresh_token"}


@pytest.mark.parametrize(
    ("status", "answers", "error"),
    [
        (400, {"error": "invalid_grant"}, CredentialsRefused),
        (400, {"error": "invalid_request"}, SystemRejected),
        (401, {"error": "invalid_client"}, CredentialsRefused),
        (200, {"access_token": ""}, SystemRejected),
        (200, {"access_token": 17}, SystemRejected),
    ],
)
async def test_a_refused_grant_is_told_from_a_broken_answer(server, http, status, answers, error):
    """What a new secret would mend is CredentialsRefused, the rest SystemRejected; no secret is quoted."""
    server.status, server.answers = status, answers
    with pytest.raises(error) as caught:
        await get(GrantedToken(http, "/token", REFRESH, policy=POLICY), http)
    assert "refresh-0" not in str(caught.value)
    assert server.calls == []


async def test_a_static_token_has_no_successor(server, http):
    """401 with a token set by hand is CredentialsRefused after one call."""
    with pytest.raises(CredentialsRefused, match="new access token"):
        await get(StaticToken("old"), http)
    assert server.calls == ["old"]


async def test_a_403_is_a_stale_token_only_where_the_system_says_so(server, http):
    """Where 403 may mean an ended token it is renewed once; elsewhere it is a missing permission at once."""
    server.refusal = 403
    token = GrantedToken(http, "/token", CLIENT, policy=POLICY)
    await get(token, http)
    server.good.clear()
    with pytest.raises(CredentialsRefused):
        await get(token, http)
    assert len(server.forms) == 1
    answer = await send_as(token, http, "GET", "/thing", operation="thing", policy=POLICY, stale={401, 403})
    assert (answer.status, len(server.forms)) == (200, 2)


async def test_a_replaced_refresh_token_survives_a_restart(server, http, tmp_path):
    """The file holds the newest token of the configured one, for its owner only; another configured token wins over it."""
    path = tmp_path / "refresh.json"

    def begin(configured):
        grant = Grant("client", "stand-in-secret", configured, more={"redirect_uri": "https://example.org/"})
        return GrantedToken(http, "/token", grant, policy=POLICY, file=RefreshTokenFile(path, configured))

    server.answers = {"refresh_token": "refresh-1"}
    await get(begin("refresh-0"), http)
    assert path.stat().st_mode & 0o077 == 0
    await get(begin("refresh-0"), http)
    await get(begin("refresh-new"), http)
    assert [form["refresh_token"] for form in server.forms] == ["refresh-0", "refresh-1", "refresh-new"]
    assert {form["redirect_uri"] for form in server.forms} == {"https://example.org/"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["refresh.json"]


async def test_a_file_that_cannot_be_used_is_a_wrong_setting(server, http, tmp_path):
    """A broken file, and a folder that is not there, are named without quoting a token."""
    path = tmp_path / "refresh.json"
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"refresh\.json"):
        RefreshTokenFile(path, "refresh-0").newest()
    with pytest.raises(ConfigurationError, match="cannot be stored") as caught:
        RefreshTokenFile(tmp_path / "absent" / "refresh.json", "refresh-0").keep("refresh-1")
    assert "refresh-1" not in str(caught.value)
