"""`POST /v1/order-keys`: the door of the key desk. What is asked and answered: `schemas.order_keys`, `schemas.keys_ahead`.

Room rules: HTTP only: who asks, in what form, how much; what is given out is the desk's to say. An error tells the caller what
to do and nothing about anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from orchestrator.gateway.door import HEADERS, Guard, Refused, guarded_route, response
from orchestrator.ports import PublishFailed
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.keys_ahead import LINES, KeysAhead
from schemas.keys_ahead import PATH as PATH_AHEAD
from schemas.metric_labels import QuestionRefusal
from schemas.order_keys import PATH, KeyAnswer, KeyAnswers, WantedKey, WantedKeys
from schemas.trust import TrustedKey

__all__ = ["Lines", "Release", "keys_ahead_route", "order_keys_route"]

log = structlog.get_logger(__name__)

#: Calls taken on at one time; the others are told to come back.
_AT_ONCE = 128
#: An answer to those who listen ends before this, if they read it.
_LINES_SECONDS = 360.0

Release = Callable[[str, str, Sequence[WantedKey]], Awaitable[list[KeyAnswer]]]
#: Gives the lines for a system, in the name of a key; None if too many hear of the system already.
Lines = Callable[[str, TrustedKey | None], "AsyncGenerator[KeysAhead] | None"]


def order_keys_route(release: Release, guard: Guard) -> Route:
    """Return the route.

    400, 401, 403, 408, 413, 429: see `Guard`. 503: the store or the broker does not answer, a key does not unwrap, or too
    many ask at once; `retry-after` says when to come back.
    """
    turns = asyncio.Semaphore(_AT_ONCE)

    async def order_keys(request: Request) -> Response:
        async with _turn(turns):
            key, wanted = await guard.question(request)
            answers = await _released(release, wanted, "" if key is None else key.kid)
        statuses = {answer.status for answer in answers} or {200}
        return response(KeyAnswers(keys=tuple(answers)), statuses.pop() if len(statuses) == 1 else 207, {})

    return guarded_route(PATH, guard, order_keys)


def keys_ahead_route(lines: Lines, guard: Guard) -> Route:
    """Return the route of those who listen.

    400, 401, 403, 408, 413, 429: see `Guard`. 503: too many ask at once, or hear of this system already.
    """
    turns = asyncio.Semaphore(_AT_ONCE)  # for the questions alone: an answer lasts for minutes

    async def keys_ahead(request: Request) -> Response:
        async with _turn(turns):
            key, wanted = await guard.question(request)
        heard = lines(wanted.system, key)
        if heard is None:
            raise _busy("60")
        return _Lines(heard)

    return guarded_route(PATH_AHEAD, guard, keys_ahead)


class _Lines(StreamingResponse):
    """Ends also where nobody reads: what cannot be sent would hold the call open for ever. However it ends, so do the lines."""

    def __init__(self, heard: AsyncGenerator[KeysAhead]) -> None:
        self._heard = heard
        super().__init__(self._written(), media_type=LINES, headers={**HEADERS, "x-accel-buffering": "no"})

    async def _written(self) -> AsyncIterator[bytes]:
        async for line in self._heard:
            yield line.model_dump_json(exclude_none=True).encode() + b"\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._heard):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINES_SECONDS):
                    await super().__call__(scope, receive, send)


@contextlib.asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """Take a place while the block runs; nobody waits for one. Raises `Refused`."""
    if turns.locked():
        raise _busy("1")
    async with turns:
        yield


def _busy(seconds: str) -> Refused:
    return Refused(503, QuestionRefusal.BUSY, "come back later: others are served", **{"retry-after": seconds})


async def _released(release: Release, wanted: WantedKeys, kid: str) -> list[KeyAnswer]:
    try:
        return await release(wanted.system, kid, wanted.orders)
    except (OrchestratorError, PublishFailed) as error:
        # A key that does not unwrap is nobody's passing trouble; a store or broker that is away is.
        tell = log.error if isinstance(error, ConfigurationError) else log.warning
        tell("order_keys_unavailable", system=wanted.system, error_type=type(error).__name__)
        raise Refused(503, QuestionRefusal.UNAVAILABLE, "come back: the keys are safe", **{"retry-after": "2"}) from None
