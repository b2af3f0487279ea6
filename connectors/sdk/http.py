"""HTTP to an outside system: every answer and every failure becomes a typed value or a typed error, here and nowhere else.

| what happened | what the caller gets |
| --- | --- |
| a status in `expect` | the `Answer` |
| no connection, timeout, cut connection, 408, 425, 5xx | `SystemUnavailable` |
| 429, or what the policy calls throttling (some systems answer 403) | `Throttled`, with the seconds if the system named them |
| 401, 403 | `CredentialsRefused` |
| 404, 410 not expected, other 3xx and 4xx, undecodable or oversized bodies | `SystemRejected` |

Room rules: no error names a URL (it may hold an identity) or quotes a body; it names the operation, a code of the caller's, and
where nobody answers the setting that the address came from.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from connectors.sdk.settings import setting_of_address
from connectors.sdk.work import take_turn
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled

__all__ = ["MAX_BODY_BYTES", "Answer", "Policy", "judged", "new_client", "retry_after_header", "segment", "send"]

#: Larger answers are refused: no system here needs more for one person and one page.
MAX_BODY_BYTES = 10 * 1024 * 1024

# These two log every URL at INFO or DEBUG, and a URL can hold a mail address.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,6})?")
_UNAVAILABLE = frozenset({408, 425})


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, read within bounds. `repr` shows the operation and the status only."""

    operation: str
    status: int
    headers: httpx.Headers = field(repr=False)
    content: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the decoded body. Raises `SystemRejected` if it is not JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise SystemRejected(f"{self.operation}: the answer ({self.status}) is not JSON") from None

    def object(self) -> dict[str, Any]:
        """Return the decoded body, which must be a JSON object. Raises `SystemRejected` otherwise."""
        value = self.json()
        if not isinstance(value, dict):
            raise SystemRejected(f"{self.operation}: the answer ({self.status}) is not a JSON object")
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """Return the list of objects under a name of the body. Raises `SystemRejected` if it is anything else."""
        value = self.object().get(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise SystemRejected(f"{self.operation}: the answer has no list {name}")
        return value

    def text_of(self, item: Mapping[str, Any], name: str) -> str:
        """Return a text or number of one entry, as text. Raises `SystemRejected` if it is neither."""
        value = item.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise SystemRejected(f"{self.operation}: an entry has no {name}")
        return str(value)


def retry_after_header(answer: Answer) -> float | None:
    """Return the seconds of `Retry-After` (RFC 9110 section 10.2.3), None if absent or unusable.

    A date is measured against the answer's own `Date`, so that the two machines' clocks need not agree.
    """
    text = answer.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        until, sent = parsedate_to_datetime(text), parsedate_to_datetime(answer.headers.get("date", ""))
        return max(0.0, (until - sent).total_seconds())
    except (ValueError, TypeError):
        return None


def _is_429(answer: Answer) -> bool:
    return answer.status == 429


@dataclass(frozen=True, slots=True)
class Policy:
    """What differs between systems.

    `throttled` tells a throttling answer from others; it sees every status of 400 and above that the caller did not expect.
    `retry_after` reads the seconds to wait from such an answer. `total_seconds` bounds one call from connect to last byte:
    httpx bounds only each single read, and a slow drip of bytes would never end.
    """

    throttled: Callable[[Answer], bool] = _is_429
    retry_after: Callable[[Answer], float | None] = retry_after_header
    max_body_bytes: int = MAX_BODY_BYTES
    total_seconds: float = 120.0


DEFAULT_POLICY = Policy()


def new_client(
    base_url: str,
    *,
    headers: Mapping[str, str] | None = None,
    auth: httpx.Auth | tuple[str, str] | None = None,
    timeout_seconds: float = 30.0,
    connect_seconds: float = 10.0,
    connections: int = 8,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Return a client for one system. No redirects are followed: an identity goes where the setting says, or nowhere.

    `transport`: `destinations.Destinations`, where URLs come from a message or a person.
    """
    if not base_url.startswith(("http://", "https://")):
        raise ConfigurationError("the system's base URL must start with https:// (or http:// on this machine)")
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        auth=auth,
        timeout=httpx.Timeout(timeout_seconds, connect=connect_seconds),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        follow_redirects=False,
        transport=transport,
    )


def segment(value: str) -> str:
    """Return `value` as one path segment: an address with `/`, `?` or `#` in it stays one segment."""
    return quote(value, safe="")


async def send(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    operation: str,
    expect: Collection[int] = frozenset({200}),
    policy: Policy = DEFAULT_POLICY,
    params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
    json: Any = None,
    data: Mapping[str, Any] | None = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request, in its turn, and return its answer if the status is in `expect`; raise a `ConnectorError` otherwise.

    `operation` names the call in errors and logs: a code, never an identity. `SystemUnavailable` does not imply that the
    system did nothing: it may have acted and the answer was lost.
    """
    await take_turn()
    failure: Exception
    try:
        request = client.build_request(
            method,
            url,
            params=params if params is None or isinstance(params, Mapping) else list(params),
            json=json,
            data=data,
            content=content,
            headers=headers,
        )
        async with asyncio.timeout(policy.total_seconds):
            answer = await _read(client, request, operation, policy)
        return judged(answer, frozenset(expect), policy)
    except TimeoutError:
        failure = SystemUnavailable(f"{operation}: no complete answer within {policy.total_seconds:g} s")
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        setting = setting_of_address(str(request.url))
        whose = "" if setting is None else f": nobody answers at the address in {setting}"
        failure = SystemUnavailable(f"{operation}: {type(error).__name__}{whose}")
    except httpx.TimeoutException as error:
        failure = SystemUnavailable(f"{operation}: {type(error).__name__}")
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
        failure = ConfigurationError(f"{operation}: cannot be sent: check base URL and credentials for stray characters")
    except httpx.InvalidURL:
        failure = SystemRejected(f"{operation}: the identifier cannot stand in an address")
    except (httpx.DecodingError, httpx.TooManyRedirects) as error:
        failure = SystemRejected(f"{operation}: {type(error).__name__}")
    except httpx.HTTPError as error:
        failure = SystemUnavailable(f"{operation}: {type(error).__name__}")
    # Raised outside the handler: httpx's own exception carries the URL and must not hang on ours as its context.
    raise failure


async def _read(client: httpx.AsyncClient, request: httpx.Request, operation: str, policy: Policy) -> Answer:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > policy.max_body_bytes:
                raise SystemRejected(f"{operation}: the answer is larger than {policy.max_body_bytes} bytes")
    finally:
        await response.aclose()
    return Answer(operation, response.status_code, response.headers, bytes(body))


def judged(answer: Answer, expect: frozenset[int], policy: Policy) -> Answer:
    """Return the answer if its status is in `expect`, raise what this module's table says otherwise; `send` does this."""
    status, operation = answer.status, answer.operation
    if status in expect:
        return answer
    if status == 429 or (status >= 400 and policy.throttled(answer)):
        raise Throttled(f"{operation}: throttled ({status})", retry_after_seconds=policy.retry_after(answer))
    if status in {401, 403}:
        raise CredentialsRefused(f"{operation}: answered {status}: renew the credentials or their scopes")
    if status >= 500 or status in _UNAVAILABLE:
        raise SystemUnavailable(f"{operation}: answered {status}")
    raise SystemRejected(f"{operation}: answered {status}")
