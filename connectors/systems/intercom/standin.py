"""An Intercom workspace for people who have none: contacts with their lag and merges, conversations, subscriptions.

Every behaviour that no public page promises is a switch; the connector's tests run in each position.

Room rules: behaves, never decides; fake credentials only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock, SystemClock
from connectors.sdk.standin import StandIn

__all__ = ["TOKEN", "IntercomStandIn", "build"]

#: The only access token it takes.
TOKEN = "intercom-standin-token"

_SEARCHED = {"email", "phone", "external_id", "id", "role", "name"}
_SETTABLE = {"email", "phone", "name", "external_id", "custom_attributes", "unsubscribed_from_emails"}
_SUBSCRIPTIONS = {"91": "opt_out", "92": "opt_in"}


@dataclass(slots=True)
class _Entry:
    """A contact, and since when search knows its present state."""

    body: dict[str, Any]
    indexed_at: datetime
    merged_into: str | None = None
    deleted_at: datetime | None = None
    notes: list[str] = field(default_factory=list)
    companies: list[str] = field(default_factory=list)
    opted_out: set[str] = field(default_factory=set)


class IntercomStandIn(StandIn):
    """One workspace. `/__seed__` takes `{"contacts": [{"email": ..., "conversations": [["first", "second"], ...]}]}`."""

    name: ClassVar[str] = "intercom"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.contacts: dict[str, _Entry] = {}
        self.conversations: dict[str, dict[str, Any]] = {}
        self._last_id = 0
        self.switches = {
            #: Search knows a change so many seconds later [vendor: "minutes"].
            "search_lag_seconds": 0,
            #: Search minds the case of an address [unverified].
            "search_minds_case": False,
            #: A merged contact answers 410 with its canonical address, or 404 as in older versions.
            "merged_status": 410,
            #: Where a contact's companies stand: `data` [the description's example] or `companies` [its schema].
            "companies_under": "data",
            #: DELETE of a contact says deleted and it stays for so many reads [never seen: a guard must catch it].
            "deletion_shows_for_reads": 0,
            #: Largest number of parts that a conversation shows [vendor: 500].
            "parts_shown": 500,
            #: Largest page.
            "page_size": 150,
        }

    def add(
        self, *, conversations: list[list[str]] | None = None, role: str = "user", notes: list[str] | None = None, **fields: Any
    ) -> str:
        """Plant a contact and its conversations; return the contact's id. A user's address may be shared by leads."""
        contact_id = self._new_id("65d0c0ffee")
        now = int(self.clock.now().timestamp())
        email = fields.pop("email", None)
        body = {
            "type": "contact", "id": contact_id, "role": role, "external_id": None, "phone": None, "name": None,
            "unsubscribed_from_emails": False, "custom_attributes": {}, "created_at": now, "updated_at": now,
            **fields, "email": email.lower() if email else None,
        }  # fmt: skip
        self.contacts[contact_id] = _Entry(body, self.clock.now() + self._lag(), notes=list(notes or []))
        for texts in conversations or []:
            self.converse([contact_id], [(contact_id, text) for text in texts])
        return contact_id

    def converse(self, members: list[str], said: list[tuple[str, str]]) -> str:
        """Plant a conversation of these contacts: who said what, the first being its opening; "admin" is staff."""
        number = self._new_id("90")
        parts = [self._part(author, text) for author, text in said]
        self.conversations[number] = {"members": list(members), "source": parts[0], "parts": parts[1:]}
        return number

    def merge(self, loser: str, into: str) -> None:
        """Merge a contact into another one: conversations go along."""
        self.contacts[loser].merged_into = into
        for conversation in self.conversations.values():
            conversation["members"] = [into if m == loser else m for m in conversation["members"]]

    def holding(self, email: str) -> list[str]:
        """Return the ids of live contacts with this address."""
        return [key for key, entry in self._live() if entry.body["email"] == email.lower()]

    def seed(self, value: Any) -> None:
        """Plant contacts."""
        for contact in value["contacts"]:
            self.add(**contact)

    def state(self) -> Any:
        """Return live contacts and conversations."""
        return {"contacts": [entry.body for _, entry in self._live()], "conversations": self.conversations}

    def routes(self) -> list[Route]:
        """Return Intercom's paths."""
        one, talk = "/contacts/{key}", "/conversations/{key}"
        return [
            Route("/me", self._guarded(self._me), methods=["GET"]),
            Route("/contacts/search", self._guarded(self._search), methods=["POST"]),
            Route(one, self._guarded(self._read), methods=["GET"]),
            Route(one, self._guarded(self._update), methods=["PUT"]),
            Route(one, self._guarded(self._delete), methods=["DELETE"]),
            Route(f"{one}/subscriptions", self._guarded(self._opt_out), methods=["POST"]),
            Route(f"{one}/{{what}}", self._guarded(self._attached), methods=["GET"]),
            Route("/conversations/search", self._guarded(self._search_conversations), methods=["POST"]),
            Route("/conversations/redact", self._guarded(self._redact), methods=["POST"]),
            Route(talk, self._guarded(self._conversation), methods=["GET"]),
            Route(talk, self._guarded(self._delete_conversation), methods=["DELETE"]),
        ]

    def throttled(self) -> Response:
        """Answer as Intercom does when a slice is full: no Retry-After, an epoch second, on the clock of the Date header."""
        reset = int(SystemClock().now().timestamp()) + 10
        headers = {"x-ratelimit-limit": "166", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str(reset)}
        return _error(429, "rate_limit_exceeded", "Exceeded rate limit", headers)

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return _error(401, "unauthorized", "Access Token Invalid")
            response: Response = await handler(request)
            return response

        return guarded

    def _new_id(self, prefix: str) -> str:
        self._last_id += 1
        return f"{prefix}{self._last_id:06d}"

    def _part(self, author: str, text: str) -> dict[str, Any]:
        kind = "admin" if author == "admin" else "user"
        who = self.contacts[author].body if kind == "user" else {"id": "7", "name": "Staff Member", "email": "s@example.org"}
        return {
            "type": "conversation_part", "id": self._new_id("33"), "part_type": "comment", "body": text,
            "created_at": int(self.clock.now().timestamp()), "redacted": False,
            "author": {"type": kind, "id": who["id"], "name": who["name"], "email": who["email"]},
        }  # fmt: skip

    def _lag(self) -> timedelta:
        return timedelta(seconds=self.switches["search_lag_seconds"])

    def _live(self) -> list[tuple[str, _Entry]]:
        return [(k, e) for k, e in self.contacts.items() if e.deleted_at is None and e.merged_into is None]

    def _is_in_index(self, entry: _Entry) -> bool:
        now = self.clock.now()
        is_fresh = entry.deleted_at is None or now < entry.deleted_at + self._lag()
        return entry.indexed_at <= now and is_fresh and (entry.merged_into is None or self._lag() > timedelta(0))

    async def _me(self, _: Request) -> Response:
        return JSONResponse({"type": "admin", "id": "7", "name": "Staff Member", "app": {"id_code": "standin"}})

    async def _search(self, request: Request) -> Response:
        body = await request.json()
        name, value = body["query"]["field"], body["query"]["value"]
        if name not in _SEARCHED or body["query"]["operator"] != "=":
            return _error(400, "parameter_invalid", "Invalid field or operator")
        hits = [e.body for e in self.contacts.values() if self._is_in_index(e) and self._matches(e.body.get(name), value)]
        return self._page(hits, body, "list", "data")

    def _matches(self, held: Any, value: str) -> bool:
        minds = self.switches["search_minds_case"]
        return held is not None and (str(held) == value if minds else str(held).lower() == value.lower())

    def _page(self, hits: list[dict[str, Any]], body: dict[str, Any], kind: str, key: str) -> Response:
        start = int(body["pagination"].get("starting_after") or 0)
        size = min(int(body["pagination"]["per_page"]), self.switches["page_size"])
        pages: dict[str, Any] = {
            "type": "pages",
            "page": start // size + 1,
            "per_page": size,
            "total_pages": -(-len(hits) // size),
        }
        if start + size < len(hits):
            pages["next"] = {"per_page": size, "starting_after": str(start + size)}
        return JSONResponse({"type": kind, key: hits[start : start + size], "total_count": len(hits), "pages": pages})

    def _entry(self, request: Request) -> _Entry | Response:
        entry = self.contacts.get(request.path_params["key"])
        if entry is not None and entry.merged_into is not None and self.switches["merged_status"] == 410:
            link = {"link": f'</contacts/{entry.merged_into}>; rel="canonical"'}
            return _error(410, "contact_merged", "Contact was merged", link)
        if entry is not None and entry.deleted_at is not None and self.switches["deletion_shows_for_reads"] > 0:
            self.switches["deletion_shows_for_reads"] -= 1
            return entry
        if entry is None or entry.deleted_at is not None or entry.merged_into is not None:
            return _error(404, "not_found", "User Not Found")
        return entry

    async def _read(self, request: Request) -> Response:
        entry = self._entry(request)
        return entry if isinstance(entry, Response) else JSONResponse(entry.body)

    async def _update(self, request: Request) -> Response:
        entry = self._entry(request)
        if isinstance(entry, Response):
            return entry
        changes = await request.json()
        if set(changes) - _SETTABLE:
            return _error(400, "parameter_invalid", "unknown parameter")
        attributes = {**entry.body["custom_attributes"], **changes.pop("custom_attributes", {})}
        entry.body |= {**changes, "custom_attributes": attributes}
        return JSONResponse(entry.body)

    async def _delete(self, request: Request) -> Response:
        entry = self._entry(request)
        if isinstance(entry, Response):
            return entry
        entry.deleted_at = self.clock.now()
        body = entry.body
        return JSONResponse({"type": "contact", "id": body["id"], "external_id": body["external_id"], "deleted": True})

    async def _opt_out(self, request: Request) -> Response:
        entry, body = self._entry(request), await request.json()
        if isinstance(entry, Response):
            return entry
        if _SUBSCRIPTIONS.get(body["id"]) != body["consent_type"]:
            return _error(404, "not_found", "Resource Not Found")
        entry.opted_out.add(body["id"])
        return JSONResponse({"type": "subscription", "id": body["id"], "state": "live", "consent_type": "opt_out"})

    async def _attached(self, request: Request) -> Response:
        entry, what = self._entry(request), request.path_params["what"]
        if isinstance(entry, Response):
            return entry
        every = [{"type": "note", "id": str(n), "body": text} for n, text in enumerate(entry.notes)] if what == "notes" else []
        if what == "subscriptions":
            every = [{"type": "subscription", "id": number} for number in sorted(entry.opted_out)]
        if what == "companies":
            every = [{"type": "company", "name": name} for name in entry.companies]
        if what not in {"notes", "companies"}:
            return JSONResponse({"type": "list", "data": every})
        page, size = int(request.query_params.get("page", 1)), int(request.query_params.get("per_page", 50))
        shown = every[(page - 1) * size : page * size]
        under = self.switches["companies_under"] if what == "companies" else "data"
        return JSONResponse({"type": "list", under: shown, "pages": {"page": page, "total_pages": -(-len(every) // size)}})

    async def _search_conversations(self, request: Request) -> Response:
        body = await request.json()
        if body["query"]["field"] != "contact_ids":
            return _error(400, "parameter_invalid", "Invalid field")
        # Once a contact is gone, so is the way from it to its conversations.
        is_live = body["query"]["value"] in dict(self._live())
        hits = [
            {"type": "conversation", "id": key}
            for key, conversation in self.conversations.items()
            if is_live and body["query"]["value"] in conversation["members"]
        ]
        return self._page(hits, body, "conversation.list", "conversations")

    async def _conversation(self, request: Request) -> Response:
        conversation = self.conversations.get(request.path_params["key"])
        if conversation is None:
            return _error(404, "not_found", "Resource Not Found")
        shown = conversation["parts"][-self.switches["parts_shown"] :]
        parts = {"type": "conversation_part.list", "conversation_parts": shown, "total_count": len(conversation["parts"])}
        contacts = {"type": "contact.list", "contacts": [{"type": "contact", "id": m} for m in conversation["members"]]}
        key = request.path_params["key"]
        source = conversation["source"]
        return JSONResponse(
            {"type": "conversation", "id": key, "contacts": contacts, "source": source, "conversation_parts": parts}
        )

    async def _delete_conversation(self, request: Request) -> Response:
        key = request.path_params["key"]
        # The call came with version 2.13.
        is_known = tuple(map(int, request.headers.get("intercom-version", "2.11").split("."))) >= (2, 13)
        if not is_known or self.conversations.pop(key, None) is None:
            return _error(404, "not_found", "Resource Not Found")
        return JSONResponse({"id": key, "object": "conversation", "deleted": True})

    async def _redact(self, request: Request) -> Response:
        body = await request.json()
        conversation = self.conversations.get(body["conversation_id"])
        wanted = body.get("conversation_part_id") or body.get("source_id")
        every = [conversation["source"], *conversation["parts"]] if conversation else []
        part = next((part for part in every if part["id"] == wanted), None)
        if part is None:
            return _error(404, "not_found", "Resource Not Found")
        part |= {"body": "<p><i>This message was deleted</i></p>", "redacted": True}
        return JSONResponse({"type": "conversation", "id": body["conversation_id"]})


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {
        "type": "error.list",
        "request_id": "00000000-0000-4000-8000-000000000000",
        "errors": [{"code": code, "message": message}],
    }
    return JSONResponse(body, status_code=status, headers=headers)


def build(clock: Clock | None = None) -> IntercomStandIn:
    """Build the stand-in."""
    return IntercomStandIn(clock)
