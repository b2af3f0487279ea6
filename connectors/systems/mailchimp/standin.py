"""A Mailchimp account on a local port: audiences, members, the vendor's limits and its error documents.

Behaves as the Marketing API 3.0 is documented. What is documented nowhere is a switch (see README.md):

- `repeat_delete_status` 404 or 204: permanent deletion of a member that is gone already
- `archived_patch` "applies" or "stays": whether a new status takes an archived member out of the archive
- `compliance_blocks_unsubscribe`: whether a member in compliance state refuses `unsubscribed` as it does `subscribed`
- `throttle_with` 429 or 403: how too many simultaneous calls are answered; 403 comes without a body
- `activity_has_total`: whether the activity feed states `total_items`
- `sms_patch` "applies" or "ignored": whether PATCH changes an SMS subscription
- `address_parts`: parts without which an address tag is refused
- `latency_seconds`: how long a call takes, so that calls overlap

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm

__all__ = ["API_KEY", "PREFIX", "Audience", "MailchimpStandIn", "build"]

API_KEY = "0123456789abcdef0123456789abcdef-us21"
#: Path under which the API lives, as on the vendor's host.
PREFIX = "/3.0"
_CONNECTIONS = 10
_STATUSES = frozenset({"subscribed", "unsubscribed", "cleaned", "pending"})
_TAGS = ("FNAME", "LNAME", "ADDRESS", "PHONE")
#: Last segment of the path -> key of the list in the answer.
_PARTS = {"activity-feed": "activity", "events": "events", "notes": "notes", "tags": "tags"}
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Audience:
    """One list: its members by hash, and the hashes that may not be imported again."""

    name: str
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)


def _hash(address: str) -> str:
    return in_form(address, IdentifierForm.MD5)


def _problem(status: int, title: str, detail: str = "", errors: list[dict[str, str]] | None = None) -> Response:
    body: dict[str, Any] = {
        "type": "https://mailchimp.com/developer/marketing/docs/errors/",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": "00000000-0000-0000-0000-000000000000",
    }
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, media_type="application/problem+json")


def _not_found() -> Response:
    return _problem(404, "Resource Not Found", "The requested resource could not be found.")


class MailchimpStandIn(StandIn):
    """One account with three audiences, empty until seeded."""

    name: ClassVar[str] = "mailchimp"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.audiences: dict[str, Audience] = {f"aud000000{n}": Audience(f"Newsletter {n}") for n in (1, 2, 3)}
        self.switches.update(
            repeat_delete_status=404,
            archived_patch="applies",
            compliance_blocks_unsubscribe=False,
            throttle_with=429,
            activity_has_total=False,
            sms_patch="applies",
            address_parts=["addr1", "city", "state", "zip"],
            latency_seconds=0.0,
        )
        #: The most calls that were under way at once.
        self.peak = 0
        self._under_way = 0

    def routes(self) -> list[Route]:
        """Return the paths of the API that a connector may use, and those that would undo its work."""
        member = f"{PREFIX}/lists/{{list_id}}/members/{{member}}"
        return [
            Route(f"{PREFIX}/ping", self._guarded(self._ping), methods=["GET"]),
            Route(f"{PREFIX}/lists", self._guarded(self._lists), methods=["GET"]),
            Route(f"{PREFIX}/search-members", self._guarded(self._search), methods=["GET"]),
            Route(f"{PREFIX}/lists/{{list_id}}/members", self._guarded(self._add), methods=["POST"]),
            Route(member, self._guarded(self._read), methods=["GET"]),
            Route(member, self._guarded(self._patch), methods=["PATCH"]),
            Route(member, self._guarded(self._archive), methods=["DELETE"]),
            Route(f"{member}/actions/delete-permanent", self._guarded(self._delete), methods=["POST"]),
            *(Route(f"{member}/{part}", self._guarded(self._part), methods=["GET"]) for part in _PARTS),
        ]

    def seed(self, value: Any) -> None:
        """Plant `{"lists": {id: name}, "members": [{"list_id", "email_address", "status"?, "merge_fields"?, ...}]}`.

        Members come as through the vendor's own sign-up form: a permanent deletion before does not stop them. `activity`,
        `events`, `notes` and `tags` may be lists of what hangs on the member; `compliance: true` puts it in that state.
        """
        for list_id, name in value.get("lists", {}).items():
            self.audiences.setdefault(list_id, Audience(name))
        for member in value.get("members", ()):
            self._plant(dict(member))

    def _plant(self, given: dict[str, Any]) -> None:
        audience = self.audiences[given.pop("list_id", next(iter(self.audiences)))]
        parts = {key: list(given.pop(key, ())) for key in _PARTS.values()}
        address = given["email_address"]
        member = {
            "id": _hash(address),
            "contact_id": _hash(f"contact {address.lower()}"),
            "status": "subscribed",
            "language": "en",
            "source": "sign-up form",
            "timestamp_opt": self.clock.now().isoformat(timespec="seconds"),
            "interests": {},
            "stats": {"avg_open_rate": 0, "avg_click_rate": 0},
            **given,
            "merge_fields": {**dict.fromkeys(_TAGS, ""), **given.get("merge_fields", {})},
        }
        audience.forgotten.discard(member["id"])
        audience.members[member["id"]] = member
        audience.parts[member["id"]] = parts

    def state(self) -> Any:
        """Return members and blocked hashes per audience, and the most calls that ran at once."""
        return {
            "audiences": {
                list_id: {"members": audience.members, "parts": audience.parts, "forgotten": sorted(audience.forgotten)}
                for list_id, audience in self.audiences.items()
            },
            "peak": self.peak,
        }

    def find(self, address: str) -> dict[str, dict[str, Any]]:
        """Return the person's member records by audience, for tests and the demo."""
        member = _hash(address)
        return {list_id: a.members[member] for list_id, a in self.audiences.items() if member in a.members}

    def throttled(self) -> Response:
        """Return the vendor's answer to too many calls: no Retry-After, and at 403 no body."""
        if self.switches["throttle_with"] == 403:
            return Response(status_code=403)
        return _problem(429, "Too Many Requests", "You have exceeded the limit of 10 simultaneous connections.")

    def _guarded(self, handler: _Handler) -> _Handler:
        async def guarded(request: Request) -> Response:
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            try:
                if self._under_way > _CONNECTIONS:
                    return self.throttled()
                if not _is_authorised(request.headers.get("authorization", "")):
                    return _problem(401, "API Key Invalid", "Your API key may be invalid.")
                if self.switches["latency_seconds"]:
                    await asyncio.sleep(self.switches["latency_seconds"])
                return await handler(request)
            finally:
                self._under_way -= 1

        return guarded

    async def _ping(self, _: Request) -> Response:
        return JSONResponse({"health_status": "Everything's Chimpy!"})

    async def _lists(self, request: Request) -> Response:
        rows = [
            {"id": list_id, "name": a.name, "stats": {"member_count": len(a.members)}} for list_id, a in self.audiences.items()
        ]
        return _page(request, "lists", rows)

    async def _search(self, request: Request) -> Response:
        wanted = request.query_params.get("query", "").strip().lower()
        hits = [m for a in self.audiences.values() for m in a.members.values() if m["email_address"].lower() == wanted]
        hits = [hit for hit in hits if hit["status"] != "archived"]
        found = {"members": hits, "total_items": len(hits)}
        return JSONResponse({"exact_matches": found, "full_search": {"members": [], "total_items": 0}})

    async def _read(self, request: Request) -> Response:
        _, member = self._at(request)
        return JSONResponse(_shown(member)) if member is not None else _not_found()

    async def _part(self, request: Request) -> Response:
        audience, member = self._at(request)
        if audience is None or member is None:
            return _not_found()
        segment = request.url.path.rsplit("/", 1)[1]
        key = _PARTS[segment]
        has_total = segment != "activity-feed" or self.switches["activity_has_total"]
        return _page(request, key, audience.parts[member["id"]][key], has_total=has_total)

    async def _add(self, request: Request) -> Response:
        audience = self.audiences.get(request.path_params["list_id"])
        if audience is None:
            return _not_found()
        body = await request.json()
        address = body["email_address"]
        refusal = _taken(audience, address)
        if refusal is not None:
            return refusal
        self._plant({"list_id": request.path_params["list_id"], **body})
        return JSONResponse(_shown(audience.members[_hash(address)]))

    async def _patch(self, request: Request) -> Response:
        audience, member = self._at(request)
        if audience is None or member is None:
            return _not_found()
        try:
            body = await request.json()
        except json.JSONDecodeError:
            return _problem(400, "JSON Parse Error", "We encountered an unspecified JSON parsing error.")
        refusal = self._refusal(audience, member, body)
        if refusal is not None:
            return refusal
        self._apply(audience, member, body)
        return JSONResponse(_shown(member))

    def _refusal(self, audience: Audience, member: dict[str, Any], body: Mapping[str, Any]) -> Response | None:
        """Return why the whole PATCH is refused; nothing of it is applied then."""
        status = body.get("status", "unsubscribed")
        if status not in _STATUSES:
            return _invalid("status", "The value is not one of the allowed statuses.")
        is_blocked = status == "subscribed" or self.switches["compliance_blocks_unsubscribe"]
        if "status" in body and member.get("compliance") and is_blocked:
            detail = f"{member['email_address']} is in a compliance state due to unsubscribe, bounce, or compliance review"
            return _problem(400, "Member In Compliance State", f"{detail} and cannot be subscribed.")
        address = body.get("merge_fields", {}).get("ADDRESS")
        if isinstance(address, dict) and any(not address.get(part) for part in self.switches["address_parts"]):
            return _invalid("ADDRESS", "Please enter a complete address")
        new = body.get("email_address", member["email_address"])
        return None if _hash(new) == member["id"] else _taken(audience, new)

    def _apply(self, audience: Audience, member: dict[str, Any], body: Mapping[str, Any]) -> None:
        if "status" in body and not (member["status"] == "archived" and self.switches["archived_patch"] == "stays"):
            member["status"] = body["status"]
        if "sms_subscription_status" in body and self.switches["sms_patch"] == "applies":
            member["sms_subscription_status"] = body["sms_subscription_status"]
        # Tags that the audience does not define are dropped without a word.
        member["merge_fields"] |= {k: v for k, v in body.get("merge_fields", {}).items() if k in member["merge_fields"]}
        if "email_address" in body:
            old, member["email_address"] = member["id"], body["email_address"]
            member["id"] = _hash(body["email_address"])
            audience.members[member["id"]] = audience.members.pop(old)
            audience.parts[member["id"]] = audience.parts.pop(old)

    async def _archive(self, request: Request) -> Response:
        _, member = self._at(request)
        if member is None:
            return _not_found()
        if member["status"] in {"archived", "pending", "cleaned"}:
            return _problem(405, "Method Not Allowed", "This list member cannot be removed.")
        member["status"] = "archived"
        return Response(status_code=204)

    async def _delete(self, request: Request) -> Response:
        audience, member = self._at(request)
        if audience is None:
            return _not_found()
        if member is None:
            return Response(status_code=204) if self.switches["repeat_delete_status"] == 204 else _not_found()
        del audience.members[member["id"]]
        del audience.parts[member["id"]]
        audience.forgotten.add(member["id"])
        return Response(status_code=204)

    def _at(self, request: Request) -> tuple[Audience | None, dict[str, Any] | None]:
        """Return audience and member of a path; the member may be named by hash, address or contact id."""
        audience = self.audiences.get(request.path_params["list_id"])
        named = request.path_params["member"]
        if audience is None:
            return None, None
        for key, member in audience.members.items():
            if named in {key, member["contact_id"]} or ("@" in named and _hash(named) == key):
                return audience, member
        return audience, None


def _is_authorised(header: str) -> bool:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value == API_KEY
    try:
        return scheme.lower() == "basic" and base64.b64decode(value).decode().partition(":")[2] == API_KEY
    except (binascii.Error, UnicodeDecodeError):
        return False


def _taken(audience: Audience, address: str) -> Response | None:
    member = _hash(address)
    if member in audience.members:
        return _problem(400, "Member Exists", f"{address} is already a list member.")
    if member in audience.forgotten:
        detail = f"{address} was permanently deleted and cannot be re-imported. The contact must re-subscribe."
        return _problem(400, "Forgotten Email Not Subscribed", detail)
    return None


def _invalid(name: str, message: str) -> Response:
    errors = [{"field": name, "message": message}]
    return _problem(400, "Invalid Resource", "The resource submitted could not be validated.", errors)


def _shown(member: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in member.items() if key != "compliance"}
    return shown | {"_links": [{"rel": "self", "href": "https://us21.api.mailchimp.com/3.0/", "method": "GET"}]}


def _page(request: Request, key: str, rows: list[dict[str, Any]], *, has_total: bool = True) -> Response:
    count = min(int(request.query_params.get("count", 10)), 1000)
    offset = int(request.query_params.get("offset", 0))
    body: dict[str, Any] = {key: rows[offset : offset + count]}
    return JSONResponse(body | ({"total_items": len(rows)} if has_total else {}))


def build(clock: Clock | None = None) -> MailchimpStandIn:
    """Build the stand-in."""
    return MailchimpStandIn(clock)
