"""A Hotjar organisation on a local port: recordings, answers and feedback, one lookup that may delete, a token endpoint.

What a deletion finds is hidden at once and purged when its horizon has passed. What is documented nowhere is a switch
(see README.md):

- `mode` "report" or "inline": whether what was found is reported to the admins or stands in the answer
- `answer` "status" or "empty": whether a report's answer has a body at all
- `unknown_person` 200 or 404
- `minds_case`: whether an address must be written as it was stored
- `hidden_at_once`: whether a deleted hit is still found until it is purged
- `purge_after_seconds`, `token_seconds`: figures

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import RateLimit, StandIn

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "LOOKUP", "ORGANIZATION_ID", "SITE_IDS", "TOKEN", "Hit", "HotjarStandIn", "build"]

CLIENT_ID = "stand-in-client"
CLIENT_SECRET = "stand-in-client-secret"
ORGANIZATION_ID = "4711"
SITE_IDS = ("12345", "67890")
TOKEN = "/v1/oauth/token"
LOOKUP = "/v1/organizations/{organization_id}/user-lookup"


@dataclass(slots=True)
class Hit:
    """One recording, survey answer or feedback. An address is known only if the visitor gave it in an answer."""

    id: int
    type: str
    site_id: str
    content: str
    email: str | None = None
    user_id: str | None = None
    deleted_at: datetime | None = None

    def shown(self) -> dict[str, Any]:
        """Return it as a lookup shows it."""
        whom = {"email": self.email, "user_id": self.user_id}
        return {"id": self.id, "type": self.type, "site_id": self.site_id, "content": self.content, **whom}


class HotjarStandIn(StandIn):
    """One organisation with two sites, empty until seeded."""

    name: ClassVar[str] = "hotjar"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.hits: list[Hit] = []
        #: Reports to the account's admins, each the list of what a lookup found.
        self.reports: list[list[dict[str, Any]]] = []
        self.tokens_issued = 0
        self._tokens: dict[str, datetime] = {}
        self._planted = 0
        self.switches.update(
            mode="report",
            answer="status",
            unknown_person=200,
            minds_case=False,
            hidden_at_once=True,
            purge_after_seconds=30 * 86400,
            token_seconds=3600,
        )

    def routes(self) -> list[Route]:
        """Return the token endpoint and the lookup."""
        return [Route(TOKEN, self._issue, methods=["POST"]), Route(LOOKUP, self._look_up, methods=["POST"])]

    def seed(self, value: Any) -> None:
        """Plant `{"hits": [{"type"?, "site_id"?, "email"?, "user_id"?, "content"?}]}`."""
        for given in value["hits"]:
            self._planted += 1
            self.hits.append(
                Hit(
                    id=self._planted,
                    type=given.get("type", "recording"),
                    site_id=given.get("site_id", SITE_IDS[0]),
                    content=given.get("content", ""),
                    email=given.get("email"),
                    user_id=given.get("user_id"),
                )
            )

    def state(self) -> Any:
        """Return what is stored, hidden hits included, after all purges that are due."""
        self._purge()
        return {
            "hits": [{**hit.shown(), "hidden": hit.deleted_at is not None} for hit in self.hits],
            "reports": self.reports,
            "tokens_issued": self.tokens_issued,
        }

    def stored(self, *, email: str = "", user_id: str = "") -> list[Hit]:
        """Return the hits still stored, hidden or not, after all purges that are due."""
        self._purge()
        return [hit for hit in self.hits if self._is_of(hit, email, user_id)]

    def shown(self, *, email: str = "", user_id: str = "") -> list[Hit]:
        """Return the hits that a user of the account still sees."""
        return [hit for hit in self.stored(email=email, user_id=user_id) if hit.deleted_at is None]

    def revoke_tokens(self) -> None:
        """Let every token known so far answer 401; the client still gets new ones."""
        self._tokens.clear()

    def throttled(self) -> Response:
        """Return the answer to more than 3000 calls a minute."""
        return _error(429, "too_many_requests", "Rate limit exceeded")

    async def _issue(self, request: Request) -> Response:
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        if form.get("grant_type") != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        self.tokens_issued += 1
        token, seconds = f"stand-in-token-{self.tokens_issued}", int(self.switches["token_seconds"])
        self._tokens[token] = self.clock.now() + timedelta(seconds=seconds)
        return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": seconds})

    async def _look_up(self, request: Request) -> Response:
        ends_at = self._tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if ends_at is None or self.clock.now() >= ends_at:
            return _error(401, "unauthorized", "The access token is missing or has ended")
        if request.path_params["organization_id"] != ORGANIZATION_ID:
            return _error(404, "not_found", "No such organization")
        try:
            body = await request.json()
        except json.JSONDecodeError:
            return _error(400, "bad_request", "The body is not JSON")
        email, users = body.get("data_subject_email"), body.get("data_subject_site_id_to_user_id_map")
        if not email and not users:
            return _error(400, "bad_request", "At least one identifier is required")
        found = self._found(email, users or {})
        if not found and self.switches["unknown_person"] == 404:
            return _error(404, "not_found", "No such data subject")
        shown = [hit.shown() for hit in found]
        if body.get("delete_all_hits") is True:
            for hit in found:
                hit.deleted_at = hit.deleted_at or self.clock.now()
        return self._reply(shown)

    def _reply(self, shown: list[dict[str, Any]]) -> Response:
        if self.switches["mode"] == "inline":
            return JSONResponse({"status": "success", "message": "Lookup done", "results": shown})
        self.reports.append(shown)
        if self.switches["answer"] == "empty":
            return Response(status_code=202)
        return JSONResponse({"status": "success", "message": "Your request is being processed"})

    def _found(self, email: str | None, users: Mapping[str, str]) -> list[Hit]:
        self._purge()
        is_visible = [hit for hit in self.hits if hit.deleted_at is None or not self.switches["hidden_at_once"]]
        by_user = [hit for hit in is_visible if hit.user_id is not None and users.get(hit.site_id) == hit.user_id]
        return [hit for hit in is_visible if hit in by_user or (email is not None and self._is_of(hit, email, ""))]

    def _is_of(self, hit: Hit, email: str, user_id: str) -> bool:
        if user_id and hit.user_id == user_id:
            return True
        if not email or hit.email is None:
            return False
        return hit.email == email if self.switches["minds_case"] else hit.email.lower() == email.lower()

    def _purge(self) -> None:
        horizon = timedelta(seconds=float(self.switches["purge_after_seconds"]))
        now = self.clock.now()
        self.hits = [hit for hit in self.hits if hit.deleted_at is None or now < hit.deleted_at + horizon]


def _error(status: int, error: str, message: str) -> Response:
    return JSONResponse({"error": error, "message": message}, status)


def build(clock: Clock | None = None) -> HotjarStandIn:
    """Build the stand-in with Hotjar's limit of 3000 calls a minute."""
    standin = HotjarStandIn(clock)
    standin.limit(RateLimit(requests=3000, per_seconds=60.0, path="user-lookup"))
    return standin
