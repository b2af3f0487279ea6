"""Google on a local port: one Analytics property with visitors, two deletion calls, and a token endpoint.

A deletion request is taken at once and carried out when its horizon has passed, as Google's deletion runs do; until then the
visits are still there. What is documented nowhere is a switch (see README.md):

- `purge_after_seconds`: from a request to its deletion run
- `unknown_id_status` 200 or 404: a visitor that the property never saw
- `repeated_time` "kept" or "moved": `deletionRequestTime` of a second request for the same visitor
- `over_quota_status` 403 or 429: the day's quota is used up
- `quota_per_day`, `token_seconds`: figures
- `token_states_scope`: whether the token endpoint says what a token may do

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import RateLimit, StandIn

__all__ = [
    "ACCESS_TOKEN",
    "ADMIN_PATH",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "DELETION_PATH",
    "PROPERTY_ID",
    "REFRESH_TOKEN",
    "TOKEN_PATH",
    "WEB_PROPERTY_ID",
    "GoogleAnalyticsStandIn",
    "Visitor",
    "build",
]

ACCESS_TOKEN = "stand-in-static-token"
CLIENT_ID = "stand-in-client.apps.example.org"
CLIENT_SECRET = "stand-in-client-secret"
REFRESH_TOKEN = "stand-in-refresh-token"
PROPERTY_ID = "123456789"
WEB_PROPERTY_ID = "UA-12345-1"
#: Where the three services live on this one port.
DELETION_PATH, ADMIN_PATH, TOKEN_PATH = "/analytics/v3", "/v1alpha", "/token"
_SCOPES = "https://www.googleapis.com/auth/analytics.user.deletion https://www.googleapis.com/auth/analytics.edit"
_TYPES = frozenset({"CLIENT_ID", "USER_ID", "APP_INSTANCE_ID"})
_QUOTA_ZONE = ZoneInfo("America/Los_Angeles")


@dataclass(slots=True)
class Visitor:
    """One person as the property sees it: ids, user-provided data, and the instants of its visits."""

    client_id: str = ""
    user_id: str = ""
    user_data: tuple[str, ...] = ()
    visits: list[datetime] = field(default_factory=list)

    def is_meant_by(self, kind: str, value: str) -> bool:
        """Tell whether an id of this kind is this visitor's."""
        match kind:
            case "CLIENT_ID":
                return value == self.client_id
            case "USER_ID":
                return value == self.user_id
            case "USER_DATA":
                return value in self.user_data
            case _:
                return False


@dataclass(slots=True)
class _Request:
    """A deletion request that was taken: visits before `taken_at` go at `purge_at`."""

    taken_at: datetime
    purge_at: datetime
    is_purged: bool = False


class GoogleAnalyticsStandIn(StandIn):
    """One property, empty until seeded."""

    name: ClassVar[str] = "google_analytics"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.visitors: list[Visitor] = []
        self.requests: dict[tuple[str, str, str], _Request] = {}
        self.tokens_issued = 0
        self._quota: Counter[date] = Counter()
        self._tokens: dict[str, datetime] = {}
        self._is_static_token_good = True
        self.switches.update(
            purge_after_seconds=63 * 86400,
            unknown_id_status=200,
            repeated_time="moved",
            over_quota_status=403,
            quota_per_day=500,
            token_seconds=3599,
            token_states_scope=True,
        )

    def routes(self) -> list[Route]:
        """Return the two deletion calls and the token endpoint."""
        upsert = f"{DELETION_PATH}/userDeletion/userDeletionRequests:upsert"
        submit = f"{ADMIN_PATH}/properties/{{property_id}}:submitUserDeletion"
        return [
            Route(upsert, self._upsert, methods=["POST"]),
            Route(submit, self._submit, methods=["POST"]),
            Route(TOKEN_PATH, self._issue, methods=["POST"]),
        ]

    def seed(self, value: Any) -> None:
        """Plant `{"visitors": [{"client_id"?, "user_id"?, "user_data"?: [...], "visits"?: n}]}`; each visit is now."""
        now = self.clock.now()
        for given in value["visitors"]:
            self.visitors.append(
                Visitor(
                    client_id=given.get("client_id", ""),
                    user_id=given.get("user_id", ""),
                    user_data=tuple(given.get("user_data", ())),
                    visits=[now] * int(given.get("visits", 1)),
                )
            )

    def state(self) -> Any:
        """Return visitors, and requests with the moment of their deletion run, after all runs that are due."""
        self._run_deletions()
        return {
            "visitors": [
                {"client_id": v.client_id, "user_id": v.user_id, "user_data": list(v.user_data), "visits": len(v.visits)}
                for v in self.visitors
            ],
            "requests": [
                {"type": kind, "taken_at": r.taken_at.isoformat(), "purge_at": r.purge_at.isoformat(), "purged": r.is_purged}
                for (kind, _, _), r in self.requests.items()
            ],
            "tokens_issued": self.tokens_issued,
        }

    def holds(self, kind: str, value: str) -> bool:
        """Tell whether a visitor with this id is still stored, after all deletion runs that are due."""
        self._run_deletions()
        return any(visitor.is_meant_by(kind, value) for visitor in self.visitors)

    def revoke_tokens(self) -> None:
        """Let every token known so far answer 401; the refresh token still gets new ones."""
        self._tokens.clear()
        self._is_static_token_good = False

    def throttled(self) -> Response:
        """Return Google's answer to more than 1.5 calls a second."""
        return _error(403, "userRateLimitExceeded", "User Rate Limit Exceeded", domain="usageLimits")

    async def _upsert(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        body = await _json(request)
        named = body.get("id")
        kind, value = (named.get("type"), named.get("userId")) if isinstance(named, dict) else (None, None)
        prop = body.get("propertyId") or body.get("webPropertyId") or body.get("firebaseProjectId")
        if kind not in _TYPES or not isinstance(value, str) or not value or not isinstance(prop, str):
            return _error(400, "invalidParameter", "Invalid value in the request")
        if prop not in {PROPERTY_ID, WEB_PROPERTY_ID}:
            return _error(403, "insufficientPermissions", "User does not have sufficient permissions for this property.")
        if self.switches["unknown_id_status"] == 404 and not self.holds(kind, value):
            return _error(404, "notFound", "The user was not found.")
        return JSONResponse({**body, "deletionRequestTime": _text(self._take(kind, value, prop))})

    async def _submit(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path_params["property_id"] != PROPERTY_ID:
            return _admin_error(403, "PERMISSION_DENIED", "The caller does not have permission")
        body = await _json(request)
        fields = {"userId": "USER_ID", "clientId": "CLIENT_ID", "userProvidedData": "USER_DATA"}
        given = [(fields[name], body[name]) for name in fields if name in body]
        if len(given) != 1 or len(body) != 1:
            return _admin_error(400, "INVALID_ARGUMENT", "Exactly one user identifier must be set")
        kind, value = given[0]
        return JSONResponse({"deletionRequestTime": _text(self._take(kind, value, PROPERTY_ID))})

    def _refusal(self, request: Request) -> Response | None:
        """Return why a call is not served: no good token, or the day's quota used up."""
        is_admin = request.url.path.startswith(ADMIN_PATH)
        if not self._is_authorised(request.headers.get("authorization", "")):
            message = "Request had invalid authentication credentials."
            return _admin_error(401, "UNAUTHENTICATED", message) if is_admin else _error(401, "authError", message)
        today = self.clock.now().astimezone(_QUOTA_ZONE).date()
        self._quota[today] += 1
        if self._quota[today] <= self.switches["quota_per_day"]:
            return None
        if is_admin:
            return _admin_error(429, "RESOURCE_EXHAUSTED", "Quota exceeded")
        return _error(self.switches["over_quota_status"], "dailyLimitExceeded", "Daily Limit Exceeded", domain="usageLimits")

    def _is_authorised(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            return False
        if token == ACCESS_TOKEN:
            return self._is_static_token_good
        ends_at = self._tokens.get(token)
        return ends_at is not None and self.clock.now() < ends_at

    def _take(self, kind: str, value: str, prop: str) -> datetime:
        now, key = self.clock.now(), (kind, value, prop)
        earlier = self.requests.get(key)
        if earlier is not None and self.switches["repeated_time"] == "kept":
            return earlier.taken_at
        self._run_deletions()
        self.requests[key] = _Request(now, now + timedelta(seconds=float(self.switches["purge_after_seconds"])))
        return now

    def _run_deletions(self) -> None:
        """Carry out what is due: visits up to the request's instant go, and a visitor without visits with them."""
        now = self.clock.now()
        for (kind, value, _), request in self.requests.items():
            if request.is_purged or now < request.purge_at:
                continue
            request.is_purged = True
            for visitor in self.visitors:
                if visitor.is_meant_by(kind, value):
                    visitor.visits = [at for at in visitor.visits if at > request.taken_at]
        self.visitors = [visitor for visitor in self.visitors if visitor.visits]

    async def _issue(self, request: Request) -> Response:
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        if form.get("grant_type") != "refresh_token":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("refresh_token") != REFRESH_TOKEN:
            return JSONResponse({"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, 400)
        self.tokens_issued += 1
        token, seconds = f"stand-in-token-{self.tokens_issued}", int(self.switches["token_seconds"])
        self._tokens[token] = self.clock.now() + timedelta(seconds=seconds)
        answer: dict[str, Any] = {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}
        return JSONResponse(answer | ({"scope": _SCOPES} if self.switches["token_states_scope"] else {}))


async def _json(request: Request) -> Mapping[str, Any]:
    try:
        body = await request.json()
    except json.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(status: int, reason: str, message: str, *, domain: str = "global") -> Response:
    entry = {"domain": domain, "reason": reason, "message": message}
    return JSONResponse({"error": {"code": status, "message": message, "errors": [entry]}}, status)


def _admin_error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": status, "message": message, "status": code, "details": []}}, status)


def build(clock: Clock | None = None) -> GoogleAnalyticsStandIn:
    """Build the stand-in with Google's rate of 1.5 calls a second, in a window wide enough for jitter."""
    standin = GoogleAnalyticsStandIn(clock)
    standin.limit(RateLimit(requests=16, per_seconds=10.0, path=DELETION_PATH))
    return standin
