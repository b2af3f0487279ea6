"""AWS Signature Version 4 in the `Authorization` header, for requests to S3 and stores that speak its language.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, whose four examples are tests. A path
is encoded once, as S3 wants it (other services of AWS encode it twice).

Room rules: the secret is used and never shown; what a proxy may change on the way is not signed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Generator
from urllib.parse import parse_qsl, quote, unquote

import httpx
from pydantic import SecretStr

from connectors.sdk.clock import Clock

__all__ = ["SigV4"]

#: Headers that httpx or a proxy writes or changes.
_UNSIGNED = frozenset(
    {"accept", "accept-encoding", "authorization", "connection", "content-length", "transfer-encoding", "user-agent"}
)


class SigV4(httpx.Auth):
    """Signs each request as it is sent, body included; a repeat is signed anew: a signature is good for 15 minutes."""

    requires_request_body = True

    def __init__(self, key_id: SecretStr, secret: SecretStr, *, region: str, clock: Clock, service: str = "s3") -> None:
        self._key_id = key_id
        self._secret = secret
        self._region = region
        self._service = service
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add `x-amz-date`, `x-amz-content-sha256` and `Authorization`."""
        at = f"{self._clock.now():%Y%m%dT%H%M%SZ}"
        request.headers["x-amz-date"] = at
        request.headers["x-amz-content-sha256"] = hashlib.sha256(request.content).hexdigest()
        names = sorted({name.lower() for name in request.headers} - _UNSIGNED)
        scope = f"{at[:8]}/{self._region}/{self._service}/aws4_request"
        canonical = hashlib.sha256(_canonical(request, names).encode()).hexdigest()
        signature = _hmac(self._key(at[:8]), f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{canonical}").hex()
        request.headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._key_id.get_secret_value()}/{scope},"
            f"SignedHeaders={';'.join(names)},Signature={signature}"
        )
        yield request

    def _key(self, day: str) -> bytes:
        key = f"AWS4{self._secret.get_secret_value()}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = _hmac(key, part)
        return key


def _canonical(request: httpx.Request, names: list[str]) -> str:
    path, _, query = request.url.raw_path.decode("ascii").partition("?")
    pairs = sorted((_encoded(name), _encoded(value)) for name, value in parse_qsl(query, keep_blank_values=True))
    return "\n".join(
        (
            request.method,
            quote(unquote(path), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(request.headers[name].split())}" for name in names),
            "",
            ";".join(names),
            request.headers["x-amz-content-sha256"],
        )
    )


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
