"""A Zendesk account for people who have none: users, their tickets, and a deletion in two steps that ends product by product.

Room rules: behaves, never decides; fake credentials only.
"""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.systems.declarative.shipped.account import Account

__all__ = ["API_TOKEN", "PREFIX", "USERNAME", "ZendeskStandIn", "build"]

#: The only agent it knows, and the agent's token.
USERNAME, API_TOKEN = "agent@example.org", "standin0000"
#: Path of the base URL.
PREFIX = "/api/v2"
_APPLICATIONS = ("support", "explore", "chat")
_BASIC = base64.b64encode(f"{USERNAME}/token:{API_TOKEN}".encode()).decode()


class ZendeskStandIn(Account):
    """One account. `/__seed__` takes `{"people": [{"email": ..., "name": ..., "tickets": ["text"]}]}`."""

    name: ClassVar[str] = "zendesk"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.tickets: dict[str, dict[str, Any]] = {}
        self.deleted: dict[str, dict[str, Any]] = {}
        self._purged: dict[str, Any] = {}
        self.switches = {
            #: A user with tickets cannot be deleted [unverified].
            "tickets_block_deletion": True,
            #: Largest page of a list; the vendor's is 100.
            "page_size": 100,
            #: Search also shows users whose address only begins alike [it is a search].
            "loose_search": False,
            #: A product has deleted so long after it began [unverified].
            "product_seconds": 7200,
            #: The word of a product that has deleted [unverified].
            "done_action": "complete",
        }

    def add(self, **fields: Any) -> str:
        """Plant a user with tickets."""
        texts = fields.pop("tickets", ())
        key = super().add(**fields)
        for text in texts:
            self.tickets[self.next_id()] = {"requester_id": key, "subject": text}
        return key

    def routes(self) -> list[Route]:
        """Return Zendesk's paths."""
        user = f"{PREFIX}/users/{{key}}"
        return [
            self.route("GET", f"{PREFIX}/users/me.json", self._me),
            self.route("GET", f"{PREFIX}/users/search.json", self._search),
            self.route("GET", f"{user}/tickets/requested.json", self._requested),
            self.route("GET", f"{user}/compliance_deletion_statuses.json", self._statuses),
            self.route("PUT", f"{user}.json", self._update),
            self.route("DELETE", f"{user}.json", self._delete),
            self.route("GET", f"{PREFIX}/tickets/{{key}}/comments.json", self._comments),
            self.route("DELETE", f"{PREFIX}/tickets/{{key}}.json", self._delete_ticket),
            self.route("GET", f"{PREFIX}/deleted_users.json", self._deleted_users),
            self.route("DELETE", f"{PREFIX}/deleted_users/{{key}}.json", self._purge),
        ]

    def is_authorised(self, request: Request) -> bool:
        """Look at the agent's name and token."""
        return request.headers.get("authorization") == f"Basic {_BASIC}"

    def refused(self) -> Response:
        """Answer 401."""
        return JSONResponse({"error": "Couldn't authenticate you"}, 401)

    def throttled(self) -> Response:
        """Answer 429 with Retry-After."""
        return Response("Number of allowed API requests per minute exceeded", 429, {"retry-after": "17"})

    async def _me(self, _: Request) -> Response:
        return JSONResponse({"user": {"id": 1, "role": "admin"}})

    def _page(self, request: Request, name: str, items: list[Any]) -> Response:
        size, start = self.switches["page_size"], int(request.query_params.get("from", "0"))
        following = None
        if start + size < len(items):
            following = str(request.url.include_query_params(**{"from": start + size}))
        more = {"meta": {"has_more": following is not None}, "links": {"next": following}, "next_page": following}
        return JSONResponse({name: items[start : start + size], "count": len(items), **more})

    async def _search(self, request: Request) -> Response:
        query, external = request.query_params.get("query"), request.query_params.get("external_id")
        hits = []
        for key, record in self.records.items():
            email = record["email"].lower()
            is_like = self.switches["loose_search"] and query and email.startswith(query.lower()[:2])
            if (query and (email == query.lower() or is_like)) or (external and record.get("external_id") == external):
                hits.append({"id": int(key), "active": True, **record})
        return self._page(request, "users", hits)

    async def _requested(self, request: Request) -> Response:
        key = request.path_params["key"]
        tickets = [{"id": int(number), **ticket} for number, ticket in self.tickets.items() if ticket["requester_id"] == key]
        return self._page(request, "tickets", tickets)

    async def _comments(self, request: Request) -> Response:
        ticket = self.tickets.get(request.path_params["key"])
        if ticket is None:
            return _absent()
        return self._page(request, "comments", [{"id": 1, "body": ticket["subject"]}])

    async def _update(self, request: Request) -> Response:
        key = request.path_params["key"]
        if key not in self.records:
            return _absent()
        self.records[key] |= (await request.json())["user"]
        return JSONResponse({"user": {"id": int(key), **self.records[key]}})

    async def _delete(self, request: Request) -> Response:
        key = request.path_params["key"]
        if key not in self.records:
            return _absent()
        has_tickets = any(ticket["requester_id"] == key for ticket in self.tickets.values())
        if has_tickets and self.switches["tickets_block_deletion"]:
            details = {"base": [{"description": "User is requester on tickets that are not closed", "error": "Blocked"}]}
            body = {"error": "RecordInvalid", "description": "Record validation errors", "details": details}
            return JSONResponse(body, 422)
        self.deleted[key] = self.records.pop(key)
        return JSONResponse({"user": {"id": int(key), "active": False}})

    async def _delete_ticket(self, request: Request) -> Response:
        return Response(status_code=204) if self.tickets.pop(request.path_params["key"], None) else _absent()

    async def _deleted_users(self, request: Request) -> Response:
        users = [{"id": int(key), "active": False, **record} for key, record in self.deleted.items()]
        return self._page(request, "deleted_users", users)

    async def _purge(self, request: Request) -> Response:
        key = request.path_params["key"]
        if key not in self.deleted or key in self._purged:
            return _absent()
        scrubbed = {"name": "Permanently Deleted User", "email": None}
        self.deleted[key] = scrubbed
        self._purged[key] = self.clock.now()
        return JSONResponse({"deleted_user": {"id": int(key), "active": False, **scrubbed}})

    async def _statuses(self, request: Request) -> Response:
        key = request.path_params["key"]
        if key not in self._purged:
            return _absent()
        since, rows = self._purged[key], []
        for number, application in enumerate(_APPLICATIONS, 1):
            rows.append({"action": "request_deletion", "application": application, "user_id": int(key)})
            if self.clock.now() >= since + timedelta(seconds=self.switches["product_seconds"] * number):
                rows.append({"action": self.switches["done_action"], "application": application, "user_id": int(key)})
        return JSONResponse({"compliance_deletion_statuses": rows})


def _absent() -> Response:
    return JSONResponse({"error": "RecordNotFound", "description": "Not found"}, 404)


def build(clock: Clock | None = None) -> ZendeskStandIn:
    """Build the stand-in."""
    return ZendeskStandIn(clock)
