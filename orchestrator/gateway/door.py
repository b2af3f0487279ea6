"""The doors that connectors come in by: who asks, for which system, and how much is read of a stranger.

Room rules: HTTP only. An error tells the caller what to do and nothing about anybody.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256

import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from orchestrator.ports import Clock
from schemas.base import Record
from schemas.errors import ProtocolViolation
from schemas.order_keys import OrderKeysError, WantedKey, WantedKeys, audience_of, checked_assertion
from schemas.trust import Trust, TrustedKey, system_principal

__all__ = ["HEADERS", "MOST_BYTES", "Guard", "Refused", "response"]

log = structlog.get_logger(__name__)

#: The largest question has 500 orders of about 110 bytes.
MOST_BYTES = 96 * 1024
#: How long a question may take to come in: a place that is held is taken from the others.
_BODY_SECONDS = 10.0
#: Assertions whose signature is remembered as verified, for as long as they are good.
_REMEMBERED = 1024
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Refused(Exception):
    """A call is refused as a whole, with this response."""

    def __init__(self, status: int, error: str, remedy: str, **headers: str) -> None:
        super().__init__(error)
        self.response = response(OrderKeysError(error=error, remedy=remedy), status, headers)


class Guard:
    """Lets in whom the trust knows, for its own system."""

    def __init__(self, trust: Trust | None, prefix: str, clock: Clock) -> None:
        """`trust` None: nobody has to say who they are, for installations that have signatures off."""
        self._trust = trust
        self._audience = audience_of(prefix)
        self._clock = clock
        #: By the digest of the header. Signatures cost more than everything else here, and a connector uses one for a minute.
        self._known: dict[bytes, str] = {}

    async def question(self, request: Request) -> tuple[TrustedKey | None, WantedKeys]:
        """Return who asks, and what, if the key's owner may ask for that system. Raises `Refused`.

        401: the assertion is missing or not good. 403: it is another system's. 400, 408, 413: the body.
        """
        key = self._caller(request)  # before the body: a stranger gets nothing read
        return key, self._admitted(key, await _body(request))

    def _caller(self, request: Request) -> TrustedKey | None:
        return None if self._trust is None else self._key(request.headers.get("authorization", ""), self._trust)

    def _admitted(self, key: TrustedKey | None, body: bytes) -> WantedKeys:
        try:
            wanted = WantedKeys.model_validate_json(body)
        except ValidationError as error:
            places = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
            field = ".".join(
                str(p) for p in places if isinstance(p, int) or p in WantedKeys.model_fields | WantedKey.model_fields
            )
            raise Refused(400, "invalid_body", f"{field or 'body'}: see the shape of WantedKeys") from None
        if key is not None and key.principal != system_principal(wanted.system):
            log.warning("order_keys_foreign_system", system=wanted.system)
            raise Refused(403, "foreign_system", "ask for your own system: the one whose key signs the assertion")
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

    def _unknown(self, remedy: str) -> Refused:
        log.warning("order_keys_unauthorised", remedy=remedy)
        return Refused(401, "unauthorised", remedy, **{"www-authenticate": 'Bearer error="invalid_token"'})


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    remedy = f"keep a question below {MOST_BYTES} bytes: ask for fewer orders at once"
                    raise Refused(413, "too_large", remedy)
    except TimeoutError:
        raise Refused(408, "too_slow", f"send the whole question within {_BODY_SECONDS:g} s") from None
    return bytes(body)


def response(content: Record, status: int, headers: dict[str, str]) -> Response:
    """Return an answer in JSON, which nobody on the way may keep."""
    body = content.model_dump_json(exclude_none=True)
    return Response(body, status, {**HEADERS, **headers}, media_type="application/json")
