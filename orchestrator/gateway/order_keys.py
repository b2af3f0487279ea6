"""`POST /v1/order-keys`: the door of the key desk. What is asked and answered: `schemas.order_keys`.

Room rules: HTTP only: who asks, in what form, how much; what is given out is the desk's to say. An error tells the caller what
to do and nothing about anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.ports import Clock, PublishFailed
from schemas.base import Record
from schemas.errors import ConfigurationError, OrchestratorError, ProtocolViolation
from schemas.order_keys import (
    PATH,
    KeyAnswer,
    KeyAnswers,
    OrderKeysError,
    WantedKey,
    WantedKeys,
    audience_of,
    checked_assertion,
)
from schemas.trust import Trust, TrustedKey, system_principal

__all__ = ["MOST_BYTES", "order_keys_route"]

log = structlog.get_logger(__name__)

#: The largest question has 500 orders of about 110 bytes.
MOST_BYTES = 96 * 1024
#: Calls taken on at one time; the others are told to come back.
_AT_ONCE = 128
#: How long a question may take to come in: a place that is held is taken from the others.
_BODY_SECONDS = 10.0
#: Assertions whose signature is remembered as verified, for as long as they are good.
_REMEMBERED = 1024
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

Release = Callable[[str, str, Sequence[WantedKey]], Awaitable[list[KeyAnswer]]]


class _Refused(Exception):
    def __init__(self, status: int, error: str, remedy: str, **headers: str) -> None:
        super().__init__(error)
        self.response = _response(OrderKeysError(error=error, remedy=remedy), status, headers)


def order_keys_route(release: Release, clock: Clock, trust: Trust | None, prefix: str) -> Route:
    """Return the route. `trust` None: nobody has to say who they are, for installations that have signatures off.

    401: the assertion is missing or not good. 403: it is another system's. 400, 408, 413: the body. 503: the store or the
    broker does not answer, a key does not unwrap, or too many ask at once; `retry-after` says when to come back.
    """
    guard, turns = _Guard(trust, audience_of(prefix), clock), asyncio.Semaphore(_AT_ONCE)

    async def order_keys(request: Request) -> Response:
        if turns.locked():
            return _Refused(503, "busy", "come back in a second", **{"retry-after": "1"}).response
        try:
            async with turns:
                key = guard.caller(request)  # before the body: a stranger gets nothing read
                wanted = guard.admitted(key, await _body(request))
                kid = "" if key is None else key.kid
                answers = await _released(release, wanted, kid)
        except _Refused as refused:
            return refused.response
        statuses = {answer.status for answer in answers} or {200}
        return _response(KeyAnswers(keys=tuple(answers)), statuses.pop() if len(statuses) == 1 else 207, {})

    return Route(PATH, order_keys, methods=["POST"])


async def _released(release: Release, wanted: WantedKeys, kid: str) -> list[KeyAnswer]:
    try:
        return await release(wanted.system, kid, wanted.orders)
    except (OrchestratorError, PublishFailed) as error:
        # A key that does not unwrap is nobody's passing trouble; a store or broker that is away is.
        tell = log.error if isinstance(error, ConfigurationError) else log.warning
        tell("order_keys_unavailable", system=wanted.system, error_type=type(error).__name__)
        raise _Refused(503, "unavailable", "come back: the keys are safe", **{"retry-after": "2"}) from None


class _Guard:
    """Lets in whom the trust knows, for its own system."""

    def __init__(self, trust: Trust | None, audience: str, clock: Clock) -> None:
        self._trust = trust
        self._audience = audience
        self._clock = clock
        #: By the digest of the header. Signatures cost more than everything else here, and a connector uses one for a minute.
        self._known: dict[bytes, str] = {}

    def caller(self, request: Request) -> TrustedKey | None:
        """Return the key of whoever asks; None where nobody has to say. Raises `_Refused`."""
        return None if self._trust is None else self._key(request.headers.get("authorization", ""), self._trust)

    def admitted(self, key: TrustedKey | None, body: bytes) -> WantedKeys:
        """Return what is asked for, if the key's owner may ask for that system. Raises `_Refused`."""
        try:
            wanted = WantedKeys.model_validate_json(body)
        except ValidationError as error:
            places = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
            field = ".".join(
                str(p) for p in places if isinstance(p, int) or p in WantedKeys.model_fields | WantedKey.model_fields
            )
            raise _Refused(400, "invalid_body", f"{field or 'body'}: see the shape of WantedKeys") from None
        if key is not None and key.principal != system_principal(wanted.system):
            log.warning("order_keys_foreign_system", system=wanted.system)
            raise _Refused(403, "foreign_system", "ask for your own system: the one whose key signs the assertion")
        return wanted

    def _key(self, header: str, trust: Trust) -> TrustedKey:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._unknown("send a client assertion as bearer token")
        seen, now = sha256(token.encode()).digest(), self._clock.now()
        known = trust.key(self._known.get(seen, ""))
        try:
            # A remembered signature spares the verification; the times are looked at by whoever reads the claims again.
            key = checked_assertion(token, trust, self._audience, now, verified=known)
        except ProtocolViolation as violation:
            raise self._unknown(f"{violation.field}: {violation.remedy}") from None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[seen] = key.kid
        return key

    def _unknown(self, remedy: str) -> _Refused:
        log.warning("order_keys_unauthorised", remedy=remedy)
        return _Refused(401, "unauthorised", remedy, **{"www-authenticate": 'Bearer error="invalid_token"'})


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    remedy = f"keep a question below {MOST_BYTES} bytes: ask for fewer orders at once"
                    raise _Refused(413, "too_large", remedy)
    except TimeoutError:
        raise _Refused(408, "too_slow", f"send the whole question within {_BODY_SECONDS:g} s") from None
    return bytes(body)


def _response(content: Record, status: int, headers: dict[str, str]) -> Response:
    body = content.model_dump_json(exclude_none=True)
    return Response(body, status, {**_HEADERS, **headers}, media_type="application/json")
