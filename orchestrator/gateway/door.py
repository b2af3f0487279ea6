"""The doors that connectors come in by: who asks, for which system, and how much is read of a stranger.

Room rules: HTTP only. An error tells the caller what to do and nothing about anybody.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from hashlib import sha256

import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.gateway.rates import Rate
from orchestrator.ports import Clock
from schemas.base import Record
from schemas.errors import ProtocolViolation
from schemas.metric_labels import QuestionRefusal
from schemas.metrics import KEY_QUESTIONS_REFUSED, Metrics
from schemas.order_keys import OrderKeysError, WantedKey, WantedKeys, audience_of, checked_assertion
from schemas.trust import Trust, TrustedKey, system_principal

__all__ = ["HEADERS", "MOST_BYTES", "Guard", "Refused", "guarded_route", "response"]

log = structlog.get_logger(__name__)

#: The largest question has 500 orders of about 110 bytes.
MOST_BYTES = 96 * 1024
#: How long a question may take to come in: a place that is held is taken from the others.
_BODY_SECONDS = 10.0
#: Assertions whose signature is remembered as verified, for as long as they are good.
_REMEMBERED = 1024
#: The same complaint about the same caller is logged so often; the metric counts each.
_LINES_PER_SECOND = 1 / 60
HEADERS = {"cache-control": "no-store"}


class Refused(Exception):
    """A call is refused as a whole, with this response."""

    def __init__(self, status: int, error: QuestionRefusal, remedy: str, **headers: str) -> None:
        super().__init__(error)
        self.reason = error
        self.response = response(OrderKeysError(error=error, remedy=remedy), status, headers)


class Guard:
    """Lets in whom the trust knows, for its own system, and nobody more often than is good for the others."""

    def __init__(
        self,
        trust: Callable[[], Trust] | None,
        prefix: str,
        clock: Clock,
        metrics: Metrics,
        *,
        per_second: float = 100.0,
    ) -> None:
        """`trust` gives the keys that count now. None: nobody has to say who they are, where signatures are off.

        `per_second`: questions on average from one system, or from one address that has not shown who it is; twice as many at
        once. A call that stays open counts as one.
        """
        self._trust = trust
        self._audience = audience_of(prefix)
        self._clock = clock
        self._metrics = metrics
        self._per_second = per_second
        self._pace = Rate(per_second, burst=max(1, round(2 * per_second)))
        self._lines = Rate(_LINES_PER_SECOND, burst=1)
        #: By the digest of the header. Signatures cost more than everything else here, and a connector uses one for a minute.
        self._known: dict[bytes, TrustedKey] = {}

    async def question(self, request: Request) -> tuple[TrustedKey | None, WantedKeys]:
        """Return who asks, and what, if the key's owner may ask for that system. Raises `Refused`.

        401: the assertion is missing or not good. 403: it is another system's. 429: too many in a short time.
        400, 408, 413: the body.
        """
        key = self._caller(request)  # before the body: a stranger gets nothing read
        wanted = self._admitted(key, await _body(request))
        if key is not None and not self._counts(key):  # a body may take its time, and a key end meanwhile
            raise self._unknown("kid: its key has changed just now, ask again", _address(request))
        return key, wanted

    def count(self, refused: Refused) -> None:
        """Count a question that was refused as a whole."""
        self._metrics.count(KEY_QUESTIONS_REFUSED, reason=refused.reason)

    def _counts(self, key: TrustedKey) -> bool:
        assert self._trust is not None, "without it nobody has a key"
        return self._trust().key(key.kid) is key and key.valid_at(self._clock.now())

    def _caller(self, request: Request) -> TrustedKey | None:
        address = _address(request)
        if self._trust is None:
            self._paced(address)
            return None
        key = self._key(request.headers.get("authorization", ""), self._trust(), address)
        self._paced(key.principal)
        return key

    def _paced(self, caller: str) -> None:
        wait = self._pace.take(caller, _now())
        if not wait:
            return
        if self._is_news(f"{caller} too many"):
            log.warning("order_keys_too_many", action="told to come back")
        remedy = f"ask {self._per_second:g} times a second at most, for several orders at once"
        raise Refused(429, QuestionRefusal.TOO_MANY, remedy, **{"retry-after": str(math.ceil(wait))})

    def _is_news(self, complaint: str) -> bool:
        return self._lines.take(complaint, _now()) == 0

    def _admitted(self, key: TrustedKey | None, body: bytes) -> WantedKeys:
        try:
            wanted = WantedKeys.model_validate_json(body)
        except ValidationError as error:
            places = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
            field = ".".join(
                str(p) for p in places if isinstance(p, int) or p in WantedKeys.model_fields | WantedKey.model_fields
            )
            remedy = f"{field or 'body'}: see the shape of WantedKeys"
            raise Refused(400, QuestionRefusal.INVALID_BODY, remedy) from None
        if key is not None and key.principal != system_principal(wanted.system):
            if self._is_news(f"{key.principal} foreign {wanted.system}"):
                log.warning("order_keys_foreign_system", system=wanted.system)
            remedy = "ask for your own system: the one whose key signs the assertion"
            raise Refused(403, QuestionRefusal.FOREIGN_SYSTEM, remedy)
        return wanted

    def _key(self, header: str, trust: Trust, address: str) -> TrustedKey:
        seen, now = sha256(header.encode()).digest(), self._clock.now()
        known = self._known.get(seen)
        if known is None or trust.key(known.kid) is not known:  # read anew, the file may have another key of that name
            known = None
            self._paced(address)  # before a signature is verified for somebody who may be anybody
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._unknown("send a client assertion as bearer token", address)
        try:
            # A remembered signature spares the verification; the times are looked at by whoever reads the claims again.
            key = checked_assertion(token, trust, self._audience, now, verified=known)
        except ProtocolViolation as violation:
            raise self._unknown(f"{violation.field}: {violation.remedy}", address) from None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[seen] = key
        return key

    def _unknown(self, remedy: str, address: str) -> Refused:
        if self._is_news(f"{address} {remedy}"):
            log.warning("order_keys_unauthorised", remedy=remedy)
        return Refused(401, QuestionRefusal.UNAUTHORISED, remedy, **{"www-authenticate": 'Bearer error="invalid_token"'})


def guarded_route(path: str, guard: Guard, answer: Callable[[Request], Awaitable[Response]]) -> Route:
    """Return a route of POST alone whose refusals are answered and counted."""

    async def endpoint(request: Request) -> Response:
        try:
            return await answer(request)
        except Refused as refused:
            guard.count(refused)
            return refused.response

    return Route(path, endpoint, methods=["POST"])


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    remedy = f"keep a question below {MOST_BYTES} bytes: ask for fewer orders at once"
                    raise Refused(413, QuestionRefusal.TOO_LARGE, remedy)
    except TimeoutError:
        remedy = f"send the whole question within {_BODY_SECONDS:g} s"
        raise Refused(408, QuestionRefusal.TOO_SLOW, remedy) from None
    return bytes(body)


def response(content: Record, status: int, headers: dict[str, str]) -> Response:
    """Return an answer in JSON, which nobody on the way may keep."""
    body = content.model_dump_json(exclude_none=True)
    return Response(body, status, {**HEADERS, **headers}, media_type="application/json")
