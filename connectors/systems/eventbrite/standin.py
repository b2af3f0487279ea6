"""An Eventbrite account on a local port: an organisation, its events, attendees and orders in pages, and an organiser.

The API reads only, as the vendor's does. The organiser, who deletes and corrects in the vendor's own pages, is `work` and
`correct` here: `POST /work` has him delete what was read back one by one, which is what a connector does that waits for him.

What no public page promises is a switch (see README.md):

- `page_size`: entries of one page
- `organization_lists`: False if attendees and orders can only be listed event by event
- `gone_status` 404 or 410: what reading a deleted attendee answers
- `anonymises`: the organiser's deletion leaves the entry with another address

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import RateLimit, StandIn

__all__ = ["EVENTS", "ORGANIZATION", "TOKEN", "EventbriteStandIn", "build"]

TOKEN = "stand-in-private-token"
ORGANIZATION = "700100"
#: The organisation's events, by id.
EVENTS = {"800001": "Open day", "800002": "Meet-up"}
_Handler = Callable[[Request], Awaitable[Response]]
_ANONYMOUS = "deleted@example.invalid"


class EventbriteStandIn(StandIn):
    """One organisation with two events, without attendees until seeded."""

    name: ClassVar[str] = "eventbrite"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.attendees: dict[str, dict[str, Any]] = {}
        self.orders: dict[str, dict[str, Any]] = {}
        self._planted = 0
        self._looked_after: set[str] = set()
        self.switches.update(page_size=50, organization_lists=True, gone_status=404, anonymises=False)

    def routes(self) -> list[Route]:
        """Return the paths that a connector may use, and the organiser's desk."""
        organization, event = "/organizations/{organization_id}", "/events/{event_id}"
        return [
            Route("/work", self._work, methods=["POST"]),
            Route("/users/me/organizations/", self._guarded(self._list_organizations), methods=["GET"]),
            Route(f"{organization}/events/", self._guarded(self._list_events), methods=["GET"]),
            Route(f"{organization}/{{what}}/", self._guarded(self._list_of_organization), methods=["GET"]),
            Route(f"{event}/attendees/{{attendee_id}}/", self._guarded(self._read_attendee), methods=["GET"]),
            Route(f"{event}/{{what}}/", self._guarded(self._list_of_event), methods=["GET"]),
            Route("/orders/{order_id}/", self._guarded(self._read_order), methods=["GET"]),
        ]

    def seed(self, value: Any) -> None:
        """Plant `{"registrations": [{"email", "first_name"?, "last_name"?, "phone"?, "event_id"?, "buyer"?: {...}}]}`.

        Each is an order with one attendee; without `buyer` the attendee bought the ticket.
        """
        for given in value.get("registrations", ()):
            self._plant(given)

    def _plant(self, given: Mapping[str, Any]) -> None:
        self._planted += 1
        event_id, order_id = given.get("event_id", next(iter(EVENTS))), f"{900000 + self._planted}"
        attendee_id = f"{300000 + self._planted}"
        moment = f"{self.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        common = {"event_id": event_id, "created": moment, "changed": moment}
        self.orders[order_id] = {
            **_name(given.get("buyer", given)), "id": order_id, "status": "placed", **common,
            "resource_uri": f"https://www.eventbriteapi.com/v3/orders/{order_id}/",
        }  # fmt: skip
        self.attendees[attendee_id] = {
            "id": attendee_id, "order_id": order_id, "ticket_class_id": "1", "ticket_class_name": "Visitor",
            "status": "Attending", "checked_in": False, "cancelled": False, "refunded": False, **common,
            "profile": {**_name(given), "cell_phone": given.get("phone", "")}, "answers": [],
            "barcodes": [{"barcode": f"{order_id}{attendee_id}001", "status": "unused"}],
            "resource_uri": f"https://www.eventbriteapi.com/v3/events/{event_id}/attendees/{attendee_id}/",
        }  # fmt: skip

    def state(self) -> Any:
        """Return all attendees and orders."""
        return {"attendees": list(self.attendees.values()), "orders": list(self.orders.values())}

    def holding(self, email: str) -> list[str]:
        """Return the ids of attendees and orders with this address, in any case."""
        wanted = email.casefold()
        held = [(one["id"], one["profile"]["email"]) for one in self.attendees.values()]
        held += [(one["id"], one["email"]) for one in self.orders.values()]
        return [id_ for id_, address in held if address.casefold() == wanted]

    def work(self) -> None:
        """Delete, as the organiser, everything that was read back one by one."""
        for id_ in list(self._looked_after):
            if self.switches["anonymises"]:
                self._rewrite(id_, {"email": _ANONYMOUS, "name": "-", "first_name": "-", "last_name": "-", "cell_phone": ""})
            else:
                self.attendees.pop(id_, None)
                self.orders.pop(id_, None)
        self._looked_after.clear()

    def correct(self, ids: list[str], values: Mapping[str, str]) -> None:
        """Write, as the organiser, new values into attendees and orders."""
        for id_ in ids:
            self._rewrite(id_, values)

    def _rewrite(self, id_: str, values: Mapping[str, str]) -> None:
        profile = self.attendees[id_]["profile"] if id_ in self.attendees else self.orders[id_]
        profile.update({name: value for name, value in values.items() if name in profile})

    def throttled(self) -> Response:
        """Return the answer to too many calls: no header says how long to wait."""
        return _error(429, "HIT_RATE_LIMIT", "You have hit your hourly rate limit.")

    def _guarded(self, handler: _Handler) -> _Handler:
        async def guarded(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return _error(401, "INVALID_AUTH", "The OAuth token you provided was invalid.")
            if request.path_params.get("organization_id", ORGANIZATION) != ORGANIZATION:
                return _error(403, "NOT_AUTHORIZED", "You are not authorized to view this organization.")
            if request.path_params.get("event_id", next(iter(EVENTS))) not in EVENTS:
                return _not_found("event")
            return await handler(request)

        return guarded

    async def _list_organizations(self, request: Request) -> Response:
        return self._listed(request, "organizations", [{"id": ORGANIZATION, "name": "Example Company"}])

    async def _list_events(self, request: Request) -> Response:
        return self._listed(request, "events", [{"id": id_, "name": {"text": name}} for id_, name in EVENTS.items()])

    async def _list_of_organization(self, request: Request) -> Response:
        what = request.path_params["what"]
        if what not in {"attendees", "orders"} or not self.switches["organization_lists"]:
            return _not_found("path")
        return self._listed(request, what, self._all(what))

    async def _list_of_event(self, request: Request) -> Response:
        what, event_id = request.path_params["what"], request.path_params["event_id"]
        if what not in {"attendees", "orders"}:
            return _not_found("path")
        return self._listed(request, what, [one for one in self._all(what) if one["event_id"] == event_id])

    def _all(self, what: str) -> list[dict[str, Any]]:
        return list((self.attendees if what == "attendees" else self.orders).values())

    def _listed(self, request: Request, key: str, items: list[dict[str, Any]]) -> Response:
        """Answer one page; a continuation is opaque and good for the page that follows only."""
        size = int(self.switches["page_size"])
        try:
            start = int(base64.urlsafe_b64decode(request.query_params.get("continuation", "MA==")))
        except ValueError:
            return _error(400, "BAD_CONTINUATION_TOKEN", "The continuation token is not valid.")
        page, end = items[start : start + size], start + size
        pagination: dict[str, Any] = {
            "object_count": len(items), "page_number": start // size + 1, "page_size": size,
            "page_count": -(-len(items) // size) or 1, "has_more_items": end < len(items),
        }  # fmt: skip
        if end < len(items):
            pagination["continuation"] = base64.urlsafe_b64encode(str(end).encode()).decode()
        return JSONResponse({"pagination": pagination, key: page})

    async def _read_attendee(self, request: Request) -> Response:
        return self._read(self.attendees, request.path_params["attendee_id"], "attendee")

    async def _read_order(self, request: Request) -> Response:
        return self._read(self.orders, request.path_params["order_id"], "order")

    def _read(self, among: Mapping[str, dict[str, Any]], id_: str, what: str) -> Response:
        if id_ not in among:
            return _not_found(what, self.switches["gone_status"])
        self._looked_after.add(id_)
        return JSONResponse(among[id_])

    async def _work(self, _: Request) -> Response:
        self.work()
        return Response(status_code=204)


def _name(given: Mapping[str, Any]) -> dict[str, Any]:
    first, last = given.get("first_name", ""), given.get("last_name", "")
    return {"name": f"{first} {last}".strip(), "first_name": first, "last_name": last, "email": given["email"]}


def _not_found(what: str, status: int = 404) -> Response:
    return _error(status, "NOT_FOUND", f"The {what} you requested does not exist.")


def _error(status: int, error: str, description: str) -> Response:
    return JSONResponse({"status_code": status, "error": error, "error_description": description}, status)


def build(clock: Clock | None = None) -> EventbriteStandIn:
    """Build the stand-in with a limit of 1000 calls an hour."""
    standin = EventbriteStandIn(clock)
    standin.limit(RateLimit(requests=1000, per_seconds=3600.0))
    return standin
