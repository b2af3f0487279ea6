"""An identity provider as far as a broker sees one: a token endpoint, and the public keys that its tokens are signed with.

After RFC 6749 section 4.4 (client credentials) and RFC 9068 (the token's claims). A scope that is asked for may name a fault,
which the token then has.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

AUDIENCE = "kafka"
#: What can be wrong with a token; no broker may take one of these.
FAULTS = ("unsigned", "foreign_key", "expired", "other_audience", "other_issuer")


class Issuer:
    """Gives a token to whoever knows his secret, and its keys to everybody."""

    def __init__(self, secret_of: Callable[[str], str]) -> None:
        """`secret_of`: what each user proves himself with."""
        self._secret_of = secret_of
        self._key = RSAKey.generate_key(2048, {"kid": "issuer-1"})
        #: Named as the issuer's own, and not it.
        self._foreign = RSAKey.generate_key(2048, {"kid": "issuer-1"})
        #: Whoever was given a token, in order.
        self.asked: list[str] = []
        self.url = ""

    def app(self) -> Starlette:
        """Return the application: `/token` and `/jwks`."""
        return Starlette(routes=[Route("/token", self._token, methods=["POST"]), Route("/jwks", self._keys)])

    async def _keys(self, _: Request) -> JSONResponse:
        return JSONResponse({"keys": [self._key.as_dict(private=False) | {"alg": "RS256", "use": "sig"}]})

    async def _token(self, asked: Request) -> JSONResponse:
        form = {name: values[0] for name, values in parse_qs((await asked.body()).decode()).items()}
        user = form["client_id"]
        if form["grant_type"] != "client_credentials" or form["client_secret"] != self._secret_of(user):
            return JSONResponse({"error": "invalid_client"}, 401)
        self.asked.append(user)
        token = self._made(user, form.get("scope", ""))
        return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": 600})

    def _made(self, user: str, fault: str) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {"sub": user, "iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 600, "scope": "kafka"}
        if fault == "expired":
            claims |= {"iat": now - 1200, "exp": now - 600}
        elif fault == "other_audience":
            claims["aud"] = "billing"
        elif fault == "other_issuer":
            claims["iss"] = f"{self.url}/elsewhere"
        if fault == "unsigned":
            parts = ({"alg": "none", "kid": "issuer-1"}, claims)
            words = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
            return ".".join([*words, ""])
        key = self._foreign if fault == "foreign_key" else self._key
        return jwt.encode({"alg": "RS256", "kid": "issuer-1"}, claims, key)
