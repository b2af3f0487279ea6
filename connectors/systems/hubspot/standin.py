"""A HubSpot account for people who have none: contacts, search with its lag, erasure, subscriptions.

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

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn

__all__ = ["TOKEN", "HubSpotStandIn", "build"]

#: The only private-app token it takes.
TOKEN = "pat-standin-0000"

_DEFAULT_PROPERTIES = ("createdate", "email", "firstname", "hs_object_id", "lastmodifieddate", "lastname")
_PROPERTIES = (
    *_DEFAULT_PROPERTIES, "hs_additional_emails", "phone", "mobilephone", "address", "zip", "city", "country", "company",
    "jobtitle", "ga_client_id", "hotjar_user_id", "account_id",
)  # fmt: skip
_READ_ONLY = {"createdate", "hs_object_id", "lastmodifieddate"}
_LISTS = {1: "Newsletter", 2: "Product news"}


@dataclass(slots=True)
class _Entry:
    """A contact, and since when search knows its present state."""

    properties: dict[str, str]
    indexed_at: datetime
    erased_at: datetime | None = None


@dataclass(slots=True)
class _Account:
    entries: dict[str, _Entry] = field(default_factory=dict)
    blocklist: set[str] = field(default_factory=set)
    off: set[tuple[str, int]] = field(default_factory=set)
    off_all: set[str] = field(default_factory=set)


class HubSpotStandIn(StandIn):
    """One account. `/__seed__` takes `{"contacts": [{"email": ..., "firstname": ...}]}`; the same address is replaced."""

    name: ClassVar[str] = "hubspot"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.account = _Account()
        self._last_id = 500
        self.switches = {
            #: Search knows a change so many seconds later [third-party description].
            "search_lag_seconds": 0,
            #: gdpr-delete by an unknown numeric id: 404 or 204 [unverified].
            "gdpr_delete_unknown_id": 404,
            #: CONTAINS_TOKEN matches any common part of two addresses [unverified].
            "loose_tokens": False,
            #: v3 unsubscribe of an address that is off already: 400 or 200 [seen in Fides, not documented].
            "v3_repeat_status": 400,
            #: gdpr-delete says 204 and the contact stays for so many reads [never seen: a guard must catch it].
            "erasure_shows_for_reads": 0,
            #: Largest page of search.
            "page_size": 100,
        }

    def add(self, **properties: str) -> str:
        """Plant a contact and return its id. The primary address is unique: a known one replaces its contact."""
        email = properties.get("email", "").lower()
        known = next((key for key, e in self._live() if email and e.properties.get("email") == email), None)
        if known is None:
            self._last_id += 1
            known = str(self._last_id)
        full = {**properties, "email": email, "hs_object_id": known, "createdate": self.clock.now().isoformat()}
        self.account.entries[known] = _Entry(full, self.clock.now() + self._lag())
        return known

    def seed(self, value: Any) -> None:
        """Plant contacts."""
        for contact in value["contacts"]:
            self.add(**contact)

    def state(self) -> Any:
        """Return live contacts, the blocklist and who is off which list."""
        return {
            "contacts": {key: entry.properties for key, entry in self._live()},
            "blocklist": sorted(self.account.blocklist),
            "off": sorted(f"{email}:{number}" for email, number in self.account.off),
            "off_all": sorted(self.account.off_all),
        }

    def holding(self, email: str) -> list[str]:
        """Return the ids of live contacts with this primary or additional address."""
        return [key for key, entry in self._live() if email.lower() in _emails(entry)]

    def routes(self) -> list[Route]:
        """Return HubSpot's paths."""
        objects, preferences = "/crm/v3/objects/contacts", "/communication-preferences"
        return [
            Route("/crm/v3/properties/contacts", self._guarded(self._properties), methods=["GET"]),
            Route(f"{objects}/search", self._guarded(self._search), methods=["POST"]),
            Route(f"{objects}/gdpr-delete", self._guarded(self._gdpr_delete), methods=["POST"]),
            Route(f"{objects}/batch/read", self._guarded(self._batch_read), methods=["POST"]),
            Route(f"{objects}/batch/update", self._guarded(self._batch_update), methods=["POST"]),
            Route(f"{objects}/{{key}}", self._guarded(self._read), methods=["GET"]),
            Route(f"{preferences}/v3/status/email/{{email}}", self._guarded(self._status_v3), methods=["GET"]),
            Route(f"{preferences}/v3/unsubscribe", self._guarded(self._unsubscribe_v3), methods=["POST"]),
            Route(f"{preferences}/v4/statuses/{{email}}", self._guarded(self._unsubscribe_v4), methods=["POST"]),
            Route(f"{preferences}/v4/statuses/{{email}}/unsubscribe-all", self._guarded(self._all_v4), methods=["POST"]),
        ]

    def throttled(self) -> Response:
        """Answer as HubSpot does when a window is full: no Retry-After, a policyName."""
        return JSONResponse(
            {
                "status": "error",
                "message": "You have reached your ten_secondly_rolling limit.",
                "errorType": "RATE_LIMIT",
                "correlationId": "00000000-0000-4000-8000-000000000000",
                "policyName": "TEN_SECONDLY_ROLLING",
            },
            status_code=429,
        )

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return _error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found")
            response: Response = await handler(request)
            return response

        return guarded

    def _lag(self) -> timedelta:
        return timedelta(seconds=self.switches["search_lag_seconds"])

    def _live(self) -> list[tuple[str, _Entry]]:
        return [(key, entry) for key, entry in self.account.entries.items() if entry.erased_at is None]

    def _in_index(self) -> list[tuple[str, _Entry]]:
        now = self.clock.now()
        return [
            (key, entry)
            for key, entry in self.account.entries.items()
            if entry.indexed_at <= now and (entry.erased_at is None or now < entry.erased_at + self._lag())
        ]

    async def _properties(self, _: Request) -> Response:
        return JSONResponse({"results": [{"name": name, "type": "string"} for name in _PROPERTIES]})

    async def _search(self, request: Request) -> Response:
        body = await request.json()
        groups = body["filterGroups"]
        hits = [item for item in self._in_index() if any(self._in_group(item[1], g["filters"]) for g in groups)]
        start = int(body.get("after") or 0)
        size = min(int(body.get("limit", 10)), self.switches["page_size"])
        page = hits[start : start + size]
        answer: dict[str, Any] = {"total": len(hits), "results": [_shown(k, e, body["properties"]) for k, e in page]}
        if start + size < len(hits):
            answer["paging"] = {"next": {"after": str(start + size), "link": f"?after={start + size}"}}
        return JSONResponse(answer)

    def _in_group(self, entry: _Entry, filters: list[dict[str, str]]) -> bool:
        return all(self._matches(entry.properties.get(f["propertyName"], ""), f["operator"], f["value"]) for f in filters)

    def _matches(self, held: str, operator: str, value: str) -> bool:
        if operator == "EQ":
            return held.lower() == value.lower()
        if operator != "CONTAINS_TOKEN":
            raise ValueError("the stand-in knows EQ and CONTAINS_TOKEN")
        if self.switches["loose_tokens"]:
            return bool(_tokens(held) & _tokens(value))
        return value.lower() in held.lower().split(";")

    async def _read(self, request: Request) -> Response:
        key, wanted = request.path_params["key"], request.query_params.get("properties", "").split(",")
        if request.query_params.get("idProperty") == "email":
            key = next((k for k, e in self._live() if key.lower() in _emails(e)), "")
        entry = self.account.entries.get(key)
        if entry is not None and entry.erased_at is not None and self.switches["erasure_shows_for_reads"] > 0:
            self.switches["erasure_shows_for_reads"] -= 1
        elif entry is None or entry.erased_at is not None:
            return _error(404, "OBJECT_NOT_FOUND", "resource not found")
        return JSONResponse(_shown(key, entry, wanted))

    async def _batch_read(self, request: Request) -> Response:
        body = await request.json()
        live = dict(self._live())
        wanted = [item["id"] for item in body["inputs"]]
        return _batch(
            [_shown(k, live[k], body["properties"]) for k in wanted if k in live], [k for k in wanted if k not in live]
        )

    async def _batch_update(self, request: Request) -> Response:
        inputs = (await request.json())["inputs"]
        names = {name for item in inputs for name in item["properties"]}
        if len(inputs) > 100 or names - set(_PROPERTIES) or names & _READ_ONLY:
            return _error(400, "VALIDATION_ERROR", "Property values were not valid")
        live = dict(self._live())
        for item in inputs:
            if item["id"] in live:
                live[item["id"]].properties.update(item["properties"])
                live[item["id"]].indexed_at = self.clock.now() + self._lag()
        gone = [item["id"] for item in inputs if item["id"] not in live]
        return _batch([_shown(i["id"], live[i["id"]], _PROPERTIES) for i in inputs if i["id"] in live], gone)

    async def _gdpr_delete(self, request: Request) -> Response:
        body = await request.json()
        key = body["objectId"]
        if body.get("idProperty") == "email":
            self.account.blocklist.add(key.lower())
            key = next((k for k, e in self._live() if key.lower() in _emails(e)), None)
            if key is None:
                return Response(status_code=204)
        entry = self.account.entries.get(key)
        if entry is None or entry.erased_at is not None:
            unknown: int = self.switches["gdpr_delete_unknown_id"]
            return Response(status_code=204) if unknown == 204 else _error(404, "OBJECT_NOT_FOUND", "resource not found")
        entry.erased_at = self.clock.now()
        self.account.blocklist.update(_emails(entry))
        return Response(status_code=204)

    async def _status_v3(self, request: Request) -> Response:
        email = request.path_params["email"].lower()
        statuses = [{**self._one_status(email, number), "name": title} for number, title in _LISTS.items()]
        return JSONResponse({"recipient": email, "subscriptionStatuses": statuses})

    def _one_status(self, email: str, number: int) -> dict[str, str]:
        off = email in self.account.off_all or (email, number) in self.account.off
        status = "NOT_SUBSCRIBED" if off else "SUBSCRIBED"
        return {"id": str(number), "status": status, "sourceOfStatus": "SUBSCRIPTION_STATUS"}

    async def _unsubscribe_v3(self, request: Request) -> Response:
        body = await request.json()
        email, number = body["emailAddress"].lower(), int(body["subscriptionId"])
        if number not in _LISTS:
            return _error(400, "VALIDATION_ERROR", "Subscription type does not exist")
        if self._one_status(email, number)["status"] == "NOT_SUBSCRIBED" and self.switches["v3_repeat_status"] == 400:
            return _error(400, "VALIDATION_ERROR", "The recipient is already unsubscribed")
        self.account.off.add((email, number))
        return JSONResponse(self._one_status(email, number))

    async def _unsubscribe_v4(self, request: Request) -> Response:
        email, body = request.path_params["email"].lower(), await request.json()
        number = body["subscriptionId"]
        if number not in _LISTS or body["statusState"] != "UNSUBSCRIBED":
            return _error(400, "VALIDATION_ERROR", "Subscription type does not exist")
        was_on = self._one_status(email, number)["status"] == "SUBSCRIBED"
        self.account.off.add((email, number))
        return _v4(email, [(number, "REQUESTED_CHANGE_OCCURRED" if was_on else "NO_STATUS_CHANGE")])

    async def _all_v4(self, request: Request) -> Response:
        email = request.path_params["email"].lower()
        reason = "NO_STATUS_CHANGE" if email in self.account.off_all else "UNSUBSCRIBE_FROM_ALL_OCCURRED"
        self.account.off_all.add(email)
        return _v4(email, [(number, reason) for number in _LISTS])


def _emails(entry: _Entry) -> set[str]:
    additional = entry.properties.get("hs_additional_emails", "").lower().split(";")
    return {email for email in (entry.properties.get("email", ""), *additional) if email}


def _tokens(text: str) -> set[str]:
    return {token for token in text.lower().replace("@", " ").replace(".", " ").replace(";", " ").split() if token}


def _shown(key: str, entry: _Entry, wanted: Any) -> dict[str, Any]:
    names = {*_DEFAULT_PROPERTIES, *(name for name in wanted if name in _PROPERTIES)}
    return {"id": key, "properties": {name: entry.properties.get(name) for name in sorted(names)}, "archived": False}


def _batch(results: list[dict[str, Any]], gone: list[str]) -> Response:
    answer: dict[str, Any] = {"status": "COMPLETE", "results": results}
    if gone:
        answer |= {"numErrors": 1, "errors": [{"status": "error", "category": "OBJECT_NOT_FOUND", "context": {"ids": gone}}]}
    return JSONResponse(answer, status_code=207 if gone else 200)


def _v4(email: str, changes: list[tuple[int, str]]) -> Response:
    results = [
        {"subscriberIdString": email, "subscriptionId": number, "status": "UNSUBSCRIBED", "setStatusSuccessReason": reason}
        for number, reason in changes
    ]
    return JSONResponse({"status": "COMPLETE", "results": results})


def _error(status: int, category: str, message: str) -> Response:
    body = {
        "status": "error",
        "message": message,
        "correlationId": "00000000-0000-4000-8000-000000000000",
        "category": category,
    }
    return JSONResponse(body, status_code=status)


def build(clock: Clock | None = None) -> HubSpotStandIn:
    """Build the stand-in."""
    return HubSpotStandIn(clock)
