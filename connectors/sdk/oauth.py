"""Bearer tokens of outside systems: set by hand, or got by an OAuth grant once for all calls that need one at that moment.

Source: RFC 6749 sections 4.4 (client credentials), 5 (answers) and 6 (refresh); RFC 6750 section 3 (401).

Room rules: no system by name; no token, secret or grant in an error, a log or a `repr`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json as jsonlib
import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from connectors.sdk.http import Answer, Policy, send
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected

__all__ = ["Grant", "GrantedToken", "RefreshTokenFile", "StaticToken", "Token", "send_as"]

_BAD_GRANTS = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})
#: A token is renewed this long before it ends, so that it does not end under way.
_MARGIN_SECONDS = 60.0


class Token(Protocol):
    """Where access tokens come from."""

    async def current(self) -> str:
        """Return a token that should be good. Raises `CredentialsRefused` if the grant is refused."""
        ...

    async def instead_of(self, refused: str) -> str | None:
        """Return another token than the refused one, None if there is no way to get one."""
        ...

    async def scopes(self) -> frozenset[str] | None:
        """Return what a token may do, None if nobody says."""
        ...


class StaticToken:
    """A token that somebody else renews, for instance a sidecar that restarts us."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def current(self) -> str:
        """Return the token."""
        return self._token

    async def instead_of(self, refused: str) -> str | None:
        """Return None: there is only one."""
        del refused
        return None

    async def scopes(self) -> frozenset[str] | None:
        """Return None: a bare token does not say."""
        return None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is asked with. Without a refresh token it is the client credentials grant.

    `more` holds further fields of the form that a server wants.
    """

    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    more: Mapping[str, str] = field(default_factory=dict, repr=False)

    def form(self, refresh_token: str | None) -> dict[str, str]:
        """Return the fields of the form; `refresh_token` is the newest one, which may have replaced the grant's own."""
        client = {"client_id": self.client_id, "client_secret": self.client_secret, **self.more}
        if refresh_token is None:
            return {"grant_type": "client_credentials", **client}
        return {"grant_type": "refresh_token", "refresh_token": refresh_token, **client}


class RefreshTokenFile:
    """Keeps the newest refresh token of a server that replaces it at each use, so that a restart does not need a new consent.

    The file is readable by its owner only, and says from which configured token it descends: a newly configured one wins.
    """

    def __init__(self, path: Path, configured: str) -> None:
        self._path = path
        self._configured = configured
        self._origin = hashlib.sha256(configured.encode()).hexdigest()

    def newest(self) -> str:
        """Return the token to begin with. Raises `ConfigurationError` if there is a file that cannot be read."""
        try:
            kept = jsonlib.loads(self._path.read_bytes())
            origin, token = kept["origin"], str(kept["refresh_token"])
        except FileNotFoundError:
            return self._configured
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigurationError(f"{self._path.name}: is no file of a refresh token: remove it or repair it") from None
        return token if origin == self._origin else self._configured

    def keep(self, token: str) -> None:
        """Store a token, whole or not at all. Raises `ConfigurationError`."""
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                jsonlib.dump({"origin": self._origin, "refresh_token": token}, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError:
            raise ConfigurationError(f"{self._path.name}: the new refresh token cannot be stored: make it writable") from None


class GrantedToken:
    """Tokens got by a grant: asked for once, however many calls need one at that moment.

    A refresh token that the server replaces (RFC 6749 section 6) is used from then on; without `file` it is lost with this
    process, and the server may refuse the one that was configured.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        grant: Grant,
        *,
        policy: Policy,
        file: RefreshTokenFile | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._url = url
        self._grant = grant
        self._file = file
        self._refresh_token = grant.refresh_token if file is None else file.newest()
        self._policy = policy
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._scopes: frozenset[str] | None = None
        self._renew_at = 0.0

    async def current(self) -> str:
        """Return the token, asking for one if there is none or it is about to end."""
        return await self._unless(refused=None)

    async def instead_of(self, refused: str) -> str | None:
        """Return a newer token than `refused`; whoever comes second takes the one that the first has asked for."""
        return await self._unless(refused=refused)

    async def scopes(self) -> frozenset[str] | None:
        """Ask for a token, which proves the grant, and return what it may do; None if the answer does not say."""
        async with self._lock:
            self._token = await self._renewed()
        return self._scopes

    async def _unless(self, refused: str | None) -> str:
        async with self._lock:
            if self._token is None or self._token == refused or self._monotonic() >= self._renew_at:
                self._token = await self._renewed()
            return self._token

    async def _renewed(self) -> str:
        form = self._grant.form(self._refresh_token)
        answer = await send(self._http, "POST", self._url, operation="token", expect={200, 400}, policy=self._policy, data=form)
        body = answer.object()
        if answer.status == 400:
            if body.get("error") in _BAD_GRANTS:
                raise CredentialsRefused("token: the grant was refused: set a new client secret or refresh token")
            raise SystemRejected("token: answered 400")
        token, seconds = body.get("access_token"), body.get("expires_in")
        if not isinstance(token, str) or not token:
            raise SystemRejected("token: the answer has no access_token")
        # `expires_in` is only recommended (section 5.1); without it a token is good until it is refused.
        lifetime = max(0.0, seconds - _MARGIN_SECONDS) if isinstance(seconds, int | float) else math.inf
        self._renew_at = self._monotonic() + lifetime
        scope = body.get("scope")
        self._scopes = frozenset(scope.split()) if isinstance(scope, str) else None
        refresh = body.get("refresh_token")
        if self._refresh_token is not None and isinstance(refresh, str) and refresh not in {"", self._refresh_token}:
            self._refresh_token = refresh
            if self._file is not None:
                self._file.keep(refresh)
        return token


async def send_as(
    token: Token,
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    operation: str,
    expect: Collection[int] = frozenset({200}),
    policy: Policy,
    stale: Collection[int] = frozenset({401}),
    params: Mapping[str, Any] | None = None,
    json: Any = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request with a bearer token, as `http.send` does; a 401 is answered by one newer token and one more try.

    `stale` are the statuses that may mean a token that has ended: some systems answer 403. Raises `CredentialsRefused` if
    there is no newer token, or if that one is refused too.
    """

    async def tried(bearer: str, statuses: Collection[int]) -> Answer:
        return await send(
            client,
            method,
            url,
            operation=operation,
            expect=statuses,
            policy=policy,
            params=params,
            json=json,
            content=content,
            headers={**(headers or {}), "authorization": f"Bearer {bearer}"},
        )

    bearer = await token.current()
    answer = await tried(bearer, {*expect, *stale})
    if answer.status not in stale:
        return answer
    renewed = await token.instead_of(bearer)
    if renewed is None:
        raise CredentialsRefused(f"{operation}: answered {answer.status}: set a new access token, or one that may do this")
    return await tried(renewed, expect)
