"""An Unbounce account on a local port: pages, leads in the order of their submission, deletion requests, a token endpoint.

A deletion request is carried out when its time has passed. What is documented nowhere, or is to be tried in both positions, is
a switch (see README.md):

- `api_key_may_delete`: False as the vendor's page says
- `stale_status` 403 or 401: an access token that has ended
- `replaced_token_stays_good`: whether a refresh token that was replaced still works
- `deletion_status` 201, 200 or 202: the answer to a deletion request
- `deletion_result` "completed" or "failed"
- `deletion_seconds`: from a request to its end
- `undeletable`: lead ids that a deletion skips without a word
- `max_limit`: a longer `limit` is cut to this
- `listed_kinds`: which kinds of page the list of pages shows
- `token_seconds`: a figure

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import RateLimit, StandIn

__all__ = ["API_KEY", "CLIENT_ID", "CLIENT_SECRET", "PAGES", "REFRESH_TOKEN", "TOKEN", "UnbounceStandIn", "build"]

API_KEY = "stand-in-api-key"
CLIENT_ID = "stand-in-client"
CLIENT_SECRET = "stand-in-client-secret"
REFRESH_TOKEN = "stand-in-refresh-token-0"
TOKEN = "/oauth/token"
#: The account's first pages, by id.
PAGES = {"page-campaign": "Spring campaign", "page-event-a": "Event: meet-up", "page-event-b": "Event: open day"}
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class _Page:
    name: str
    kind: str = "page"
    leads: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class _Deletion:
    id: str
    page_id: str
    lead_ids: list[str]
    created_at: datetime
    ends_at: datetime
    status: str = "pending"
    deleted: int = 0


class UnbounceStandIn(StandIn):
    """One account with three pages, without leads until seeded."""

    name: ClassVar[str] = "unbounce"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.pages: dict[str, _Page] = {page_id: _Page(name) for page_id, name in PAGES.items()}
        self.deletions: dict[str, _Deletion] = {}
        self.tokens_issued = 0
        #: Called before each page of leads is answered: a test changes the list under a reader.
        self.before_leads: Callable[[str, int], None] | None = None
        self._tokens: dict[str, datetime] = {}
        self._refresh_tokens = {REFRESH_TOKEN}
        self._planted = 0
        self.switches.update(
            api_key_may_delete=False,
            stale_status=403,
            replaced_token_stays_good=True,
            deletion_status=201,
            deletion_result="completed",
            deletion_seconds=60,
            undeletable=[],
            max_limit=1000,
            listed_kinds=["page"],
            token_seconds=600,
        )

    def routes(self) -> list[Route]:
        """Return the paths that a connector may use."""
        page = "/pages/{page_id}"
        return [
            Route(TOKEN, self._issue, methods=["POST"]),
            Route("/pages", self._guarded(self._list_pages), methods=["GET"]),
            Route(page, self._guarded(self._read_page), methods=["GET"]),
            Route(f"{page}/leads", self._guarded(self._list_leads), methods=["GET"]),
            Route(f"{page}/leads/{{lead_id}}", self._guarded(self._read_lead), methods=["GET"]),
            Route(f"{page}/lead_deletion_request", self._guarded(self._delete_leads), methods=["POST"]),
            Route(f"{page}/lead_deletion_request/{{deletion_id}}", self._guarded(self._read_deletion), methods=["GET"]),
        ]

    def seed(self, value: Any) -> None:
        """Plant `{"pages": {id: {"name", "kind"?}}, "leads": [{"page_id"?, "form": {...}, "ip"?, "cookies"?}]}`.

        Values of a form become lists, as the vendor shows them.
        """
        for page_id, given in value.get("pages", {}).items():
            self.pages.setdefault(page_id, _Page(given["name"], given.get("kind", "page")))
        for lead in value.get("leads", ()):
            self._plant(lead)

    def _plant(self, given: Mapping[str, Any]) -> None:
        self._planted += 1
        page_id, lead_id = given.get("page_id", next(iter(self.pages))), f"00000000-0000-4000-8000-{self._planted:012d}"
        self.pages[page_id].leads[lead_id] = {
            "id": lead_id,
            "page_id": page_id,
            "variant_id": "a",
            "created_at": _text(self.clock.now()),
            "submitter_ip": given.get("ip", "192.0.2.1"),
            "form_data": {key: v if isinstance(v, list) else [v] for key, v in given["form"].items()},
            "extra_data": {"cookies": given.get("cookies", {}), "request_id": f"request-{self._planted}"},
            "metadata": {"location": f"https://api.unbounce.com/leads/{lead_id}"},
        }

    def state(self) -> Any:
        """Return the leads of each page, and the deletion requests, after all that are due."""
        self._run_deletions()
        return {
            "pages": {page_id: list(page.leads.values()) for page_id, page in self.pages.items()},
            "deletions": [_shown(deletion) for deletion in self.deletions.values()],
            "tokens_issued": self.tokens_issued,
        }

    def holding(self, value: str) -> list[str]:
        """Return the ids of leads with this value in any field, in any case, after all deletions that are due."""
        self._run_deletions()
        every = [lead for page in self.pages.values() for lead in page.leads.values()]
        wanted = value.casefold()
        return [lead["id"] for lead in every if any(wanted == v.casefold() for vs in lead["form_data"].values() for v in vs)]

    def throttled(self) -> Response:
        """Return the answer to more than 500 calls a minute: no header says how long to wait."""
        return _error(429, "Too many requests")

    def _guarded(self, handler: _Handler) -> _Handler:
        async def guarded(request: Request) -> Response:
            self._run_deletions()
            header = request.headers.get("authorization", "")
            if not header:
                return _error(401, "Authorization credentials are missing")
            ends_at = self._tokens.get(header.removeprefix("Bearer "))
            if not _is_api_key(header) and (ends_at is None or self.clock.now() >= ends_at):
                return _error(self.switches["stale_status"], "Bad or expired Access Token")
            if "page_id" in request.path_params and request.path_params["page_id"] not in self.pages:
                return _error(404, "Not found")
            return await handler(request)

        return guarded

    async def _list_pages(self, request: Request) -> Response:
        pages = [
            {"id": page_id, "name": page.name, "state": "published", "sub_account_id": "1"}
            for page_id, page in self.pages.items()
            if page.kind in self.switches["listed_kinds"]
        ]
        return self._listed(request, "pages", pages)

    async def _read_page(self, request: Request) -> Response:
        page_id = request.path_params["page_id"]
        return JSONResponse({"id": page_id, "name": self.pages[page_id].name})

    async def _list_leads(self, request: Request) -> Response:
        page_id = request.path_params["page_id"]
        if self.before_leads is not None:
            self.before_leads(page_id, int(request.query_params.get("offset", 0)))
        return self._listed(request, "leads", list(self.pages[page_id].leads.values()))

    def _listed(self, request: Request, key: str, items: list[dict[str, Any]]) -> Response:
        query = request.query_params
        limit = min(int(query.get("limit", 50)), 1000, int(self.switches["max_limit"]))
        offset = int(query.get("offset", 0))
        ordered = items[::-1] if query.get("sort_order") == "desc" else items
        part = ordered[offset : offset + limit]
        return JSONResponse({key: part, "metadata": {"count": len(part)}})

    async def _read_lead(self, request: Request) -> Response:
        lead = self.pages[request.path_params["page_id"]].leads.get(request.path_params["lead_id"])
        return _error(404, "Lead could not be found") if lead is None else JSONResponse(lead)

    async def _delete_leads(self, request: Request) -> Response:
        if _is_api_key(request.headers.get("authorization", "")) and not self.switches["api_key_may_delete"]:
            return _error(403, "Provided credentials are not authorized to view this resource")
        try:
            body = await request.json()
        except json.JSONDecodeError:
            return _error(400, "Bad request")
        lead_ids = body.get("lead_ids")
        if not isinstance(lead_ids, list) or not lead_ids or set(body) != {"lead_ids"}:
            return _error(422, "The input did not follow the schema")
        now = self.clock.now()
        deletion_id = f"deletion-{len(self.deletions) + 1}"
        ends_at = now + timedelta(seconds=float(self.switches["deletion_seconds"]))
        self.deletions[deletion_id] = _Deletion(deletion_id, request.path_params["page_id"], lead_ids, now, ends_at)
        return JSONResponse(_shown(self.deletions[deletion_id]), self.switches["deletion_status"])

    async def _read_deletion(self, request: Request) -> Response:
        deletion = self.deletions.get(request.path_params["deletion_id"])
        if deletion is None or deletion.page_id != request.path_params["page_id"]:
            return _error(404, "Lead Deletion Request with given id does not exist or does not belong to the page")
        return JSONResponse(_shown(deletion))

    def _run_deletions(self) -> None:
        for deletion in self.deletions.values():
            if deletion.status != "pending" or self.clock.now() < deletion.ends_at:
                continue
            deletion.status = self.switches["deletion_result"]
            if deletion.status != "completed":
                continue
            leads = self.pages[deletion.page_id].leads if deletion.page_id in self.pages else {}
            for lead_id in set(deletion.lead_ids) - set(self.switches["undeletable"]):
                deletion.deleted += leads.pop(lead_id, None) is not None

    async def _issue(self, request: Request) -> Response:
        form = {key: values[0] for key, values in parse_qs((await request.body()).decode()).items()}
        if form.get("grant_type") != "refresh_token":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("refresh_token") not in self._refresh_tokens:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if not self.switches["replaced_token_stays_good"]:
            self._refresh_tokens.clear()
        self.tokens_issued += 1
        token, refresh = f"stand-in-token-{self.tokens_issued}", f"stand-in-refresh-token-{self.tokens_issued}"
        seconds = int(self.switches["token_seconds"])
        self._tokens[token] = self.clock.now() + timedelta(seconds=seconds)
        self._refresh_tokens.add(refresh)
        answer = {"access_token": token, "token_type": "bearer", "expires_in": seconds, "refresh_token": refresh}
        return JSONResponse({**answer, "scope": "full"})


def _is_api_key(header: str) -> bool:
    scheme, _, value = header.partition(" ")
    try:
        return scheme.lower() == "basic" and base64.b64decode(value).decode() == f"{API_KEY}:"
    except (binascii.Error, UnicodeDecodeError):
        return False


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(deletion: _Deletion) -> dict[str, Any]:
    return {
        "id": deletion.id,
        "page_id": deletion.page_id,
        "created_by": "owner",
        "created_at": _text(deletion.created_at),
        "completed_at": None if deletion.status == "pending" else _text(deletion.ends_at),
        "total_leads_deleted": deletion.deleted,
        "status": deletion.status,
        "query": {"lead_ids": deletion.lead_ids},
        "metadata": {"location": f"https://api.unbounce.com/pages/{deletion.page_id}/lead_deletion_request/{deletion.id}"},
    }


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"code": str(status), "message": message}}, status)


def build(clock: Clock | None = None) -> UnbounceStandIn:
    """Build the stand-in with Unbounce's limit of 500 calls a minute."""
    standin = UnbounceStandIn(clock)
    standin.limit(RateLimit(requests=500, per_seconds=60.0))
    return standin
