"""The two Google calls that delete one visitor, and the OAuth token they need.

Sources: developers.google.com/analytics/devguides/config/userdeletion/v3; discovery documents `analytics.v3` and
`analyticsadmin.v1alpha`; RFC 6749 section 6 (refresh grant).

Room rules: HTTP shapes only; no token and no identity in an error, a log or a `repr`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import httpx

from connectors.sdk.http import Answer, Policy, new_client, retry_after_header, segment, send
from schemas.errors import CredentialsRefused, SystemRejected

__all__ = [
    "DAY_ZONE",
    "DELETION_SCOPE",
    "EDIT_SCOPE",
    "GoogleAnalyticsClient",
    "IdType",
    "RefreshGrant",
    "RefreshedToken",
    "StaticToken",
    "Token",
]

#: Scope of the User Deletion API.
DELETION_SCOPE = "https://www.googleapis.com/auth/analytics.user.deletion"
#: Scope of the Admin API's call.
EDIT_SCOPE = "https://www.googleapis.com/auth/analytics.edit"
#: Where a day of quota begins.
DAY_ZONE = "America/Los_Angeles"

_DAILY = frozenset({"dailyLimitExceeded", "quotaExceeded"})
_THROTTLING = _DAILY | {"userRateLimitExceeded", "rateLimitExceeded", "RESOURCE_EXHAUSTED"}
_BAD_GRANTS = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})
#: A token is renewed this long before it ends, so that it does not end under way.
_MARGIN_SECONDS = 60.0


class IdType(StrEnum):
    """Kinds of visitor id (`id.type` of a user deletion request)."""

    CLIENT_ID = "CLIENT_ID"
    USER_ID = "USER_ID"


class Token(Protocol):
    """Where access tokens come from."""

    async def current(self) -> str:
        """Return a token that should be good."""
        ...

    async def instead_of(self, refused: str) -> str | None:
        """Return another token than the refused one, None if there is no way to get one."""
        ...

    async def scopes(self) -> frozenset[str] | None:
        """Return what a fresh token may do, None if nobody says."""
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
class RefreshGrant:
    """What a refresh is asked with (RFC 6749 section 6)."""

    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)


class RefreshedToken:
    """Tokens got with a refresh token: asked for once, however many calls need one at that moment."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        grant: RefreshGrant,
        *,
        total_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._url = url
        self._grant = grant
        self._policy = _policy(total_seconds)
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token: str | None = None
        self._scopes: frozenset[str] | None = None
        self._renew_at = 0.0

    async def current(self) -> str:
        """Return the token, asking for one if there is none or it is about to end. Raises `CredentialsRefused`."""
        return await self._unless(refused=None)

    async def instead_of(self, refused: str) -> str | None:
        """Return a newer token than `refused`; whoever comes second takes the one that the first has asked for."""
        return await self._unless(refused=refused)

    async def scopes(self) -> frozenset[str] | None:
        """Ask for a token and return what it may do; None if the answer does not say."""
        async with self._lock:
            await self._renew()
        return self._scopes

    async def _unless(self, refused: str | None) -> str:
        async with self._lock:
            is_usable = self._token is not None and self._token != refused and self._monotonic() < self._renew_at
            if not is_usable:
                await self._renew()
            assert self._token is not None
            return self._token

    async def _renew(self) -> None:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._grant.client_id,
            "client_secret": self._grant.client_secret,
            "refresh_token": self._grant.refresh_token,
        }
        answer = await send(
            self._http, "POST", self._url, operation="token.refresh", expect={200, 400}, policy=self._policy, data=form
        )
        body = answer.object()
        if answer.status == 400:
            if body.get("error") in _BAD_GRANTS:
                raise CredentialsRefused("token.refresh: the grant was refused: consent again and set the new refresh token")
            raise SystemRejected("token.refresh: answered 400")
        token, seconds = body.get("access_token"), body.get("expires_in")
        if not isinstance(token, str) or not token or not isinstance(seconds, int | float):
            raise SystemRejected("token.refresh: the answer has no access_token or no expires_in")
        scope = body.get("scope")
        self._token = token
        self._scopes = frozenset(scope.split()) if isinstance(scope, str) else None
        self._renew_at = self._monotonic() + max(0.0, seconds - _MARGIN_SECONDS)


def _reasons(answer: Answer) -> frozenset[str]:
    """Return the reason codes of an error body: `errors[].reason` (v3) and `status` (Admin API)."""
    try:
        error = json.loads(answer.content)["error"]
        found = {error.get("status"), *(entry.get("reason") for entry in error.get("errors", ()))}
    except (ValueError, TypeError, KeyError, AttributeError):
        return frozenset()
    return frozenset(reason for reason in found if isinstance(reason, str))


def _is_throttled(answer: Answer) -> bool:
    """Tell quota from permission: Google answers both with 403."""
    return answer.status == 429 or (answer.status == 403 and bool(_reasons(answer) & _THROTTLING))


def _retry_after(answer: Answer) -> float | None:
    """Return the seconds to wait: as the header says, or until the next day of quota if today's is used up."""
    said = retry_after_header(answer)
    if said is not None or not _reasons(answer) & _DAILY:
        return said
    try:
        sent = parsedate_to_datetime(answer.headers.get("date", "")).astimezone(ZoneInfo(DAY_ZONE))
    except (ValueError, TypeError):
        return None
    midnight = (sent + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    # As UTC: two local times of one zone subtract as if no clock had been put forward in between.
    return (midnight.astimezone(UTC) - sent.astimezone(UTC)).total_seconds()


def _policy(total_seconds: float) -> Policy:
    return Policy(throttled=_is_throttled, retry_after=_retry_after, total_seconds=total_seconds)


class GoogleAnalyticsClient:
    """One property. Both calls are safe to repeat: a second request for the same visitor replaces the first."""

    def __init__(self, deletion_url: str, admin_url: str, *, timeout_seconds: float) -> None:
        self.http = new_client(deletion_url, timeout_seconds=timeout_seconds, connections=2)
        self._admin_url = admin_url.rstrip("/")
        self._policy = _policy(2 * timeout_seconds)

    async def delete_visitor(self, token: Token, id_type: IdType, visitor: str, prop: Mapping[str, str]) -> datetime:
        """Ask for one visitor's deletion (User Deletion API v3) and return the instant before which data goes.

        `prop` is `{"propertyId": ...}` or `{"webPropertyId": ...}`. The answer does not imply that the visitor was known.
        """
        body = {"kind": "analytics#userDeletionRequest", "id": {"type": id_type.value, "userId": visitor}, **prop}
        return await self._requested(token, "/userDeletion/userDeletionRequests:upsert", "visitor.delete", body)

    async def delete_user_provided_data(self, token: Token, value: str, property_id: str) -> datetime:
        """Ask for the deletion of what came in with one mail address or telephone number (Admin API v1alpha)."""
        url = f"{self._admin_url}/properties/{segment(property_id)}:submitUserDeletion"
        return await self._requested(token, url, "user_data.delete", {"userProvidedData": value})

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def _requested(self, token: Token, url: str, operation: str, body: Mapping[str, Any]) -> datetime:
        bearer = await token.current()
        answer = await self._post(url, operation, body, bearer, {200, 401})
        if answer.status == 401:
            renewed = await token.instead_of(bearer)
            if renewed is None:
                raise CredentialsRefused(f"{operation}: answered 401: set a new access token")
            answer = await self._post(url, operation, body, renewed, {200})
        text = answer.object().get("deletionRequestTime")
        try:
            requested_at = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            requested_at = None
        if requested_at is None or requested_at.tzinfo is None:
            raise SystemRejected(f"{operation}: the answer has no deletionRequestTime: nothing was promised")
        return requested_at.astimezone(UTC)

    async def _post(self, url: str, operation: str, body: Mapping[str, Any], bearer: str, expect: set[int]) -> Answer:
        headers = {"authorization": f"Bearer {bearer}"}
        return await send(
            self.http, "POST", url, operation=operation, expect=expect, policy=self._policy, json=body, headers=headers
        )
