"""Tokens for a broker, on a real port: one for all who ask, and a refusal that the client can try again after."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from connectors.sdk.broker_token import GrantedBrokerToken
from connectors.sdk.standin import closed_port_url, serve
from orchestrator.adapters.broker import GrantedToken
from schemas.broker import TokenGrant

SECRET = "not-to-be-shown"


class Server:
    """Gives a numbered token each time, or whatever `answer` is."""

    def __init__(self):
        self.asked, self.answer = 0, None

    def __call__(self):
        return Starlette(routes=[Route("/token", self.issue, methods=["POST"])])

    async def issue(self, _request):
        self.asked += 1
        return self.answer or JSONResponse({"access_token": f"token-{self.asked}", "expires_in": 3600})


@pytest.fixture
def server():
    with serve(made := Server()) as made.url:
        yield made


@pytest.fixture(params=[GrantedToken, GrantedBrokerToken])
def kind(request):
    return request.param


def grant(url):
    return TokenGrant(url=f"{url}/token", client_id="crm", secret=SECRET, scope=None)


async def test_many_connections_share_one_token(kind, server):
    """Twenty connections, in two event loops, ask the endpoint once."""
    provider = kind(grant(server.url))

    async def asked():
        return await asyncio.gather(*(provider.token() for _ in range(10)))

    found = await asyncio.gather(asked(), asyncio.to_thread(asyncio.run, asked()))
    assert {token for some in found for token in some} == {"token-1"}
    assert server.asked == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (JSONResponse({"error": "invalid_client"}, 401), "refuses the client"),
        (JSONResponse({"token": "misnamed"}), "without a token"),
        (JSONResponse(["misshapen"]), "without a token"),
        (PlainTextResponse("login page"), "without a token"),
    ],
)
async def test_a_refusal_is_told_and_tried_again(kind, server, answer, told):
    """No token raises what aiokafka's clients try again after, with a line for the operator that holds no secret."""
    provider, server.answer = kind(grant(server.url)), answer
    with capture_logs() as lines, pytest.raises(AuthenticationFailedError):
        await provider.token()
    assert [told in line["event"] for line in lines] == [True]
    assert SECRET not in repr(lines)
    server.answer = None
    assert await provider.token() == "token-2"


async def test_an_endpoint_that_is_away_is_tried_again(kind):
    """It is no connection, for the client to try again."""
    with pytest.raises(KafkaConnectionError):
        await kind(grant(closed_port_url())).token()
