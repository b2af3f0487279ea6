"""The calls of a described system: authorised, paged, and every answer judged by the file's rules before the kit's.

Room rules: HTTP only, no decisions about a person; operations are names from the file, never a filled path.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from connectors.sdk.http import Answer, Policy, judged, new_client, retry_after_header, send
from connectors.sdk.oauth import Grant, GrantedToken, RefreshTokenFile, send_as
from connectors.sdk.settings import note_address
from connectors.systems.declarative.declaration import (
    ApiKey,
    Basic,
    Bearer,
    CursorPages,
    Declaration,
    Expression,
    LinkPages,
    OAuth,
    OffsetPages,
    Pages,
    Request,
    Rule,
)
from connectors.systems.declarative.template import Values, rendered
from schemas.errors import CredentialsRefused, SystemRejected, SystemUnavailable

__all__ = ["DeclarativeClient", "Reply", "variables"]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and what the file says it means. `done`: what was asked was already so."""

    meaning: Literal["ok", "gone", "done"]
    answer: Answer = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Wire:
    """What goes out."""

    url: str = field(repr=False)
    params: dict[str, Any] | None = field(repr=False)
    body: Any = field(repr=False)
    content: bytes | None = field(repr=False)


def variables(declaration: Declaration) -> dict[str, str | None]:
    """Return the environment's variables that the file names, with what holds without them (None: must be set)."""
    auth = declaration.auth
    named: dict[str, str | None] = {
        s.env: s.default for s in (declaration.base_url, *declaration.settings.values(), *declaration.figures)
    }
    required = {
        Bearer: ("token_env",),
        Basic: ("username_env", "password_env"),
        ApiKey: ("key_env",),
        OAuth: ("client_id_env", "client_secret_env", "refresh_token_env"),
    }[type(auth)]
    named |= {getattr(auth, name): None for name in required if getattr(auth, name) is not None}
    if isinstance(auth, OAuth) and auth.refresh_token_file_env is not None:
        named[auth.refresh_token_file_env] = ""
    return named


class DeclarativeClient:
    """One account of a described system. `environment` holds every variable that `variables` names."""

    def __init__(self, declaration: Declaration, environment: Mapping[str, str], *, timeout_seconds: float) -> None:
        self._declaration = declaration
        self._total_seconds = 4 * timeout_seconds
        auth = declaration.auth
        headers = dict(declaration.headers)
        basic: tuple[str, str] | None = None
        if isinstance(auth, Bearer):
            headers["authorization"] = f"Bearer {environment[auth.token_env]}"
        elif isinstance(auth, ApiKey):
            headers[auth.header] = environment[auth.key_env]
        elif isinstance(auth, Basic):
            basic = (environment[auth.username_env] + auth.suffix, environment[auth.password_env])
        base_url = environment[declaration.base_url.env].rstrip("/")
        note_address(declaration.base_url.env, base_url)
        self._http = new_client(base_url, headers=headers, auth=basic, timeout_seconds=timeout_seconds)
        self._token = self._granted(auth, environment) if isinstance(auth, OAuth) else None

    def _granted(self, auth: OAuth, environment: Mapping[str, str]) -> GrantedToken:
        refresh = environment[auth.refresh_token_env] if auth.refresh_token_env is not None else None
        path = environment[auth.refresh_token_file_env] if auth.refresh_token_file_env is not None else ""
        file = RefreshTokenFile(Path(path), refresh) if path and refresh is not None else None
        grant = Grant(environment[auth.client_id_env], environment[auth.client_secret_env], refresh)
        policy = Policy(total_seconds=self._total_seconds)
        return GrantedToken(self._http, auth.token_path, grant, policy=policy, file=file)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, request: Request, values: Values, operation: str) -> Reply:
        """Make one call. Raises `ConnectorError` for whatever is neither expected nor `gone` nor `done`."""
        return await self._sent(request, self._wire(request, values), operation)

    async def pages(
        self, request: Request, pages: Pages | None, items: Expression, values: Values, operation: str
    ) -> AsyncIterator[list[Any]]:
        """Yield the items of each page. `gone` on the first page is an empty list; later it would be half an answer."""
        wire = self._wire(request, values)
        if isinstance(pages, OffsetPages):
            wire = _replaced(wire, params={**(wire.params or {}), pages.limit: pages.size, pages.offset: 0})
        bound = pages.max_pages if pages is not None else 1
        seen: set[Any] = set()
        for number in range(1, bound + 1):
            reply = await self._sent(request, wire, operation)
            if reply.meaning != "ok":
                if number > 1:
                    raise SystemRejected(f"{self._name(operation)}: page {number} is gone: the list moved while it was read")
                return
            found = self._list(items, reply.answer)
            yield found
            following = self._next(pages, reply.answer, len(found), number)
            if following is None:
                return
            if following in seen:
                raise SystemRejected(f"{self._name(operation)}: the next page is one that was read already")
            seen.add(following)
            wire = _turned(pages, wire, following)
        if pages is not None:
            raise SystemRejected(f"{self._name(operation)}: more than {bound} pages: raise max_pages if that is right")

    def _name(self, operation: str) -> str:
        return f"{self._declaration.name}_{operation}"

    def _list(self, items: Expression, answer: Answer) -> list[Any]:
        found = items.find(answer.json())
        if not isinstance(found, list):
            raise SystemRejected(f"{answer.operation}: the answer has no list at {items.text}")
        return found

    @staticmethod
    def _wire(request: Request, values: Values) -> _Wire:
        query = rendered(dict(request.query), values)
        params = {key: value for key, value in query.items() if value is not None and value != ""}
        content = None if request.text is None else str(rendered(request.text, values)).encode()
        return _Wire(request.call.path.as_path(values), params or None, rendered(request.body, values), content)

    async def _sent(self, request: Request, wire: _Wire, operation: str) -> Reply:
        rules = (*request.errors, *self._declaration.errors)
        policy = Policy(
            throttled=functools.partial(_is_throttled, rules), retry_after=self._retry_after, total_seconds=self._total_seconds
        )
        looked_at = {status for rule in rules for status in rule.status} - {429}
        answer = await self._through(request, wire, self._name(operation), frozenset({*request.expect, *looked_at}), policy)
        rule = None if answer.status in request.expect else _fitting(rules, answer)
        if rule is None or rule.means == "throttled":
            return Reply("ok", judged(answer, frozenset(request.expect), policy))
        match rule.means:
            case "gone" | "done" as meaning:
                return Reply(meaning, answer)
            case "credentials":
                raise CredentialsRefused(f"{answer.operation}: answered {answer.status}: renew the credentials or their scopes")
            case "unavailable":
                raise SystemUnavailable(f"{answer.operation}: answered {answer.status}")
            case _:
                raise SystemRejected(f"{answer.operation}: answered {answer.status}, which the file calls a refusal")

    async def _through(self, request: Request, wire: _Wire, operation: str, expect: frozenset[int], policy: Policy) -> Answer:
        sending = functools.partial(send, self._http)
        if self._token is not None:
            auth = self._declaration.auth
            assert isinstance(auth, OAuth)
            sending = functools.partial(send_as, self._token, self._http, stale=frozenset(auth.stale))
        return await sending(
            request.call.method,
            wire.url,
            operation=operation,
            expect=expect,
            policy=policy,
            params=wire.params,
            json=wire.body,
            content=wire.content,
            headers=request.headers,
        )

    def _retry_after(self, answer: Answer) -> float | None:
        said, other = retry_after_header(answer), self._declaration.throttle.retry_after
        if said is not None or other is None:
            return said
        try:
            number = float(answer.headers.get(other.header, ""))
        except ValueError:
            return None
        if other.unit == "seconds_left":
            return number if 0 <= number < 10**9 else None
        return _until(number, answer)

    def _next(self, pages: Pages | None, answer: Answer, count: int, number: int) -> Any:
        match pages:
            case CursorPages():
                value = pages.next.find(answer.json())
                return None if value in {None, ""} else str(value)
            case OffsetPages():
                return pages.size * number if count >= pages.size else None
            case LinkPages():
                return self._linked(pages, answer)
            case _:
                return None

    def _linked(self, pages: LinkPages, answer: Answer) -> str | None:
        if pages.next is None:
            address = httpx.Response(200, headers=answer.headers).links.get("next", {}).get("url")
        else:
            address = pages.next.find(answer.json())
        if address is None or address == "":
            return None
        base = self._http.base_url
        try:
            url = base.join(address)
        except (httpx.InvalidURL, TypeError):
            url = None
        if url is None or (url.scheme, url.host, url.port) != (base.scheme, base.host, base.port):
            raise SystemRejected(f"{answer.operation}: the next page lies at another host: credentials are not sent there")
        return str(url)


def _until(moment: float, answer: Answer) -> float | None:
    """Return the seconds until an epoch, measured against the answer's own `Date`."""
    try:
        return max(0.0, moment - parsedate_to_datetime(answer.headers.get("date", "")).timestamp())
    except (ValueError, TypeError):
        return None


def _replaced(wire: _Wire, **changes: Any) -> _Wire:
    return _Wire(**{name: changes.get(name, getattr(wire, name)) for name in ("url", "params", "body", "content")})


def _turned(pages: Pages | None, wire: _Wire, following: Any) -> _Wire:
    match pages:
        case CursorPages(query=str() as name):
            return _replaced(wire, params={**(wire.params or {}), name: following})
        case CursorPages(body=str() as name):
            return _replaced(wire, body={**(wire.body or {}), name: following})
        case OffsetPages():
            return _replaced(wire, params={**(wire.params or {}), pages.offset: following})
        case _:
            return _replaced(wire, url=following, params=None)


def _fitting(rules: Sequence[Rule], answer: Answer) -> Rule | None:
    for rule in rules:
        if answer.status in rule.status and (rule.code is None or _has_code(rule.code, rule.equals, answer)):
            return rule
    return None


def _has_code(code: Expression, equals: Sequence[Any], answer: Answer) -> bool:
    try:
        found = code.find(answer.json())
    except SystemRejected:
        return False
    items = [item for item in (found if isinstance(found, list) else [found]) if isinstance(item, str | int)]
    return any(item in equals for item in items) if equals else bool(items)


def _is_throttled(rules: Sequence[Rule], answer: Answer) -> bool:
    rule = _fitting(rules, answer)
    return rule is not None and rule.means == "throttled"
