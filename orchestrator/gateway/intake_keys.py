"""`GET /v1/intake-keys`: the public keys that portals seal to, for whoever asks.

    Accept: application/jwk-set+json    {"keys": [...]}, the key to seal to first (RFC 7517)
    Accept: application/jwk-set+jwt     the same, signed by the orchestrator (a compact JWS, OpenID Federation 1.0, 5.2.1)

The first is as good as the connection; the second can be checked with the orchestrator's public key, whoever passed it on.

Room rules: shows public keys only; asks nobody who he is.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.ports import Clock
from schemas.intake import KEY_SET_TYP, IntakeKeySet
from schemas.trust import SigningKey

__all__ = ["PATH", "intake_keys_route"]

PATH = "/v1/intake-keys"
_PLAIN = "application/jwk-set+json"
_SIGNED = f"application/{KEY_SET_TYP}"
#: A portal fetches the set again after so long; `IntakePolicy.grace` is far longer.
_FRESH_SECONDS = 3600
#: So long a signed set is believed.
_BELIEVED = timedelta(days=1)
#: So long one signature is given to everybody, however many ask.
_SIGNED_FOR = timedelta(minutes=1)


def intake_keys_route(published: Callable[[], IntakeKeySet], clock: Clock, signer: SigningKey | None) -> Route:
    """Return the page. Without `signer` the signed form is refused with 406."""
    last: list[tuple[datetime, IntakeKeySet, str]] = []

    def signed(key: SigningKey) -> str:
        now, keys = clock.now(), published()
        if not last or last[0][1] != keys or now >= last[0][0] + _SIGNED_FOR:
            last[:] = [(now, keys, keys.signed(key, at=now, until=now + _BELIEVED))]
        return last[0][2]

    async def answer(request: Request) -> Response:
        headers = {"cache-control": f"public, max-age={_FRESH_SECONDS}", "vary": "accept"}
        if _SIGNED not in request.headers.get("accept", ""):
            return Response(published().model_dump_json(), media_type=_PLAIN, headers=headers)
        if signer is None:
            return Response("signatures are off here", status_code=406, media_type="text/plain")
        return Response(signed(signer), media_type=_SIGNED, headers=headers)

    return Route(PATH, answer)
