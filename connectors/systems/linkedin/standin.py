"""LinkedIn on a local port: advertising accounts with audiences, removals by hash, a token endpoint.

Membership cannot be read by API; tests and the demo see it in `/__state__`. What is documented nowhere is a switch
(see README.md):

- `removal_seconds`: from a removal to the end of its matching
- `absent_status` 201 or 404: one person's status where the person is no member
- `element_status`: one person's status, whatever happens; None: as it should be
- `archived_refuses`: whether an archived audience refuses removals with 400
- `states_total`: whether a list says how many there are
- `versions`: the versions that are switched on; `retired_status` 426 or 400: the answer to others
- `token_seconds`: a figure

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import RateLimit, StandIn
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm

__all__ = [
    "ACCESS_TOKEN",
    "ACCOUNT_IDS",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "REFRESH_TOKEN",
    "TOKEN",
    "VERSION",
    "LinkedInStandIn",
    "Segment",
    "build",
]

ACCESS_TOKEN = "stand-in-static-token"
CLIENT_ID = "stand-in-client"
CLIENT_SECRET = "stand-in-client-secret"
REFRESH_TOKEN = "stand-in-refresh-token"
ACCOUNT_IDS = ("501", "502")
VERSION = "202606"
TOKEN = "/oauth/v2/accessToken"
_URN = "urn:li:sponsoredAccount:"
_ID_TYPES = frozenset({"SHA256_EMAIL", "SHA512_EMAIL", "GOOGLE_AID", "APPLE_IDFA"})
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Segment:
    """One audience: hashes of its members, and when those that were taken out leave."""

    id: int
    account_id: str
    name: str
    type: str = "USER"
    source: str = "STREAMING"
    status: str = "READY"
    members: dict[str, datetime | None] = field(default_factory=dict)


class LinkedInStandIn(StandIn):
    """Two advertising accounts with two streamed audiences each, and one of companies."""

    name: ClassVar[str] = "linkedin"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.segments: dict[int, Segment] = {}
        self.tokens_issued = 0
        #: Called before each page of audiences is answered: a test changes the list under a reader.
        self.before_list: Callable[[int], None] | None = None
        self._tokens: dict[str, datetime] = {}
        self.switches.update(
            removal_seconds=0,
            absent_status=201,
            element_status=None,
            archived_refuses=False,
            states_total=True,
            versions=[VERSION],
            retired_status=426,
            token_seconds=5184000,
        )
        for account_id in ACCOUNT_IDS:
            for number in (1, 2):
                self.add(account_id, f"Audience {number}")
        self.add(ACCOUNT_IDS[0], "Companies", type="COMPANY")

    def add(self, account_id: str, name: str, **fields: Any) -> Segment:
        """Plant an audience."""
        number = 9000 + len(self.segments)
        self.segments[number] = Segment(number, account_id, name, **fields)
        return self.segments[number]

    def routes(self) -> list[Route]:
        """Return the token endpoint, the audiences and their users."""
        return [
            Route(TOKEN, self._issue, methods=["POST"]),
            Route("/rest/dmpSegments", self._guarded(self._list), methods=["GET"]),
            Route("/rest/dmpSegments/{segment_id:int}", self._guarded(self._read), methods=["GET"]),
            Route("/rest/dmpSegments/{segment_id:int}/users", self._guarded(self._users), methods=["POST"]),
        ]

    def seed(self, value: Any) -> None:
        """Plant `{"segments": [{"account_id"?, "name"?, "type"?, "source"?, "status"?}], "members": [{"email", "segments"?}]}`.

        Members join the audiences named by their position in the order of planting, or all but those of companies.
        """
        for given in value.get("segments", ()):
            fields = dict(given)
            self.add(fields.pop("account_id", ACCOUNT_IDS[0]), fields.pop("name", "Audience"), **fields)
        segments = list(self.segments.values())
        for member in value.get("members", ()):
            hashed = in_form(member["email"], IdentifierForm.SHA256)
            people = [n for n, segment in enumerate(segments) if not segment.type.startswith("COMPANY")]
            for position in member.get("segments", people):
                segments[position].members[hashed] = None

    def state(self) -> Any:
        """Return the audiences with the hashes of their members, after all matching that is due."""
        self._match()
        return {"segments": [{**_shown(s), "members": sorted(s.members)} for s in self.segments.values()]}

    def holding(self, email: str) -> list[int]:
        """Return the ids of the audiences that hold an address, after all matching that is due."""
        self._match()
        hashed = in_form(email, IdentifierForm.SHA256)
        return [segment.id for segment in self.segments.values() if hashed in segment.members]

    def throttled(self) -> Response:
        """Return the answer to more than 600 calls a minute."""
        return _error(429, 101, "TOO_MANY_REQUESTS", "Resource level throttle limit reached")

    def _guarded(self, handler: _Handler) -> _Handler:
        async def guarded(request: Request) -> Response:
            self._match()
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            ends_at = self._tokens.get(bearer)
            if bearer != ACCESS_TOKEN and (ends_at is None or self.clock.now() >= ends_at):
                return _error(401, 65600, "INVALID_ACCESS_TOKEN", "Invalid access token")
            if request.headers.get("linkedin-version") not in self.switches["versions"]:
                return _error(self.switches["retired_status"], 0, "NONEXISTENT_VERSION", "Requested version is not active")
            if request.headers.get("x-restli-protocol-version") != "2.0.0":
                return _error(400, 0, "ILLEGAL_ARGUMENT", "Unsupported protocol version")
            return await handler(request)

        return guarded

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        account = query.get("account", "").removeprefix(_URN)
        # LinkedIn's own parser wants the colons of a URN encoded.
        if query.get("q") != "account" or ":" in request.url.query:
            return _error(400, 0, "ILLEGAL_ARGUMENT", "Bad finder or URN")
        if account not in ACCOUNT_IDS:
            return _error(403, 100, "ACCESS_DENIED", "Not enough permissions to access this account")
        start, count = int(query.get("start", 0)), int(query.get("count", 10))
        if self.before_list is not None:
            self.before_list(start)
        every = [_shown(segment) for segment in self.segments.values() if segment.account_id == account]
        paging = {"start": start, "count": count, "links": []}
        if self.switches["states_total"]:
            paging["total"] = len(every)
        return JSONResponse({"paging": paging, "elements": every[start : start + count]})

    async def _read(self, request: Request) -> Response:
        segment = self.segments.get(request.path_params["segment_id"])
        return _missing() if segment is None else JSONResponse(_shown(segment))

    async def _users(self, request: Request) -> Response:
        segment = self.segments.get(request.path_params["segment_id"])
        if segment is None:
            return _missing()
        if segment.status == "ARCHIVED" and self.switches["archived_refuses"]:
            return _error(400, 100, "SEGMENT_ARCHIVED", "The segment is archived")
        if segment.source == "LIST_UPLOAD" or segment.type.startswith("COMPANY"):
            return _error(400, 100, "UNSUPPORTED_SEGMENT_TYPE", "This segment takes no streamed users")
        try:
            elements = (await request.json())["elements"]
            removals = [_removal(element) for element in elements]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            return _error(400, 100, "ILLEGAL_ARGUMENT", "The elements cannot be read")
        if request.headers.get("x-restli-method") != "BATCH_CREATE":
            return _error(400, 100, "ILLEGAL_ARGUMENT", "Not a batch")
        return JSONResponse({"elements": [{"status": self._take_out(segment, hashed)} for hashed in removals]})

    def _take_out(self, segment: Segment, hashed: str) -> int:
        if self.switches["element_status"] is not None:
            return int(self.switches["element_status"])
        if hashed not in segment.members:
            return int(self.switches["absent_status"])
        segment.members[hashed] = self.clock.now() + timedelta(seconds=float(self.switches["removal_seconds"]))
        return 201

    def _match(self) -> None:
        now = self.clock.now()
        for segment in self.segments.values():
            segment.members = {h: leaves for h, leaves in segment.members.items() if leaves is None or now < leaves}

    async def _issue(self, request: Request) -> Response:
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != REFRESH_TOKEN:
            return JSONResponse({"error": "invalid_grant"}, 400)
        self.tokens_issued += 1
        token, seconds = f"stand-in-token-{self.tokens_issued}", int(self.switches["token_seconds"])
        self._tokens[token] = self.clock.now() + timedelta(seconds=seconds)
        return JSONResponse({"access_token": token, "expires_in": seconds, "refresh_token": REFRESH_TOKEN})


def _removal(element: dict[str, Any]) -> str:
    (user,) = element["userIds"]
    if element["action"] != "REMOVE" or user["idType"] not in _ID_TYPES or len(user["idValue"]) not in {32, 36, 64, 128}:
        raise ValueError
    return str(user["idValue"])


def _shown(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "name": segment.name,
        "account": _URN + segment.account_id,
        "type": segment.type,
        "sourcePlatform": segment.source,
        "status": segment.status,
        "destinations": [{"destination": "LINKEDIN"}],
    }


def _missing() -> Response:
    return _error(404, 0, "RESOURCE_NOT_FOUND", "No such segment")


def _error(status: int, service_code: int, code: str, message: str) -> Response:
    return JSONResponse({"status": status, "serviceErrorCode": service_code, "code": code, "message": message}, status)


def build(clock: Clock | None = None) -> LinkedInStandIn:
    """Build the stand-in with LinkedIn's limit of 600 calls a minute on the users of audiences."""
    standin = LinkedInStandIn(clock)
    standin.limit(RateLimit(requests=600, per_seconds=60.0, path="/users"))
    return standin
