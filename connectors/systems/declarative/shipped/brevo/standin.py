"""A Brevo account for people who have none: contacts by address, id and external id.

Room rules: behaves, never decides; fake credentials only.
"""

from __future__ import annotations

from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.systems.declarative.shipped.account import Account

__all__ = ["API_KEY", "PREFIX", "BrevoStandIn", "build"]

#: The only key it takes.
API_KEY = "xkeysib-standin-0000"
#: Path of the base URL.
PREFIX = "/v3"


class BrevoStandIn(Account):
    """One account. `/__seed__` takes `{"people": [{"email": ..., "ext_id": ..., "attributes": {...}}]}`."""

    name: ClassVar[str] = "brevo"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.switches = {
            #: Code of a 404 [unverified].
            "not_found_code": "document_not_found",
            #: DELETE says 204 and the contact stays for so many times [never seen: a guard must catch it].
            "deletion_fails_times": 0,
        }

    def routes(self) -> list[Route]:
        """Return Brevo's paths."""
        contact = f"{PREFIX}/contacts/{{key}}"
        return [
            self.route("GET", f"{PREFIX}/account", self._account),
            self.route("GET", f"{contact}/campaignStats", self._statistics),
            self.route("GET", contact, self._read),
            self.route("PUT", contact, self._update),
            self.route("DELETE", contact, self._delete),
        ]

    def is_authorised(self, request: Request) -> bool:
        """Look at the key's header."""
        return request.headers.get("api-key") == API_KEY

    def refused(self) -> Response:
        """Answer 401."""
        return _error(401, "unauthorized", "Key not found")

    def throttled(self) -> Response:
        """Answer 429 with the seconds left in the window."""
        headers = {"x-sib-ratelimit-limit": "10", "x-sib-ratelimit-remaining": "0", "x-sib-ratelimit-reset": "3"}
        return JSONResponse({"message": "API rate limit exceeded"}, 429, headers)

    def _key(self, request: Request) -> str | None:
        key, kind = request.path_params["key"], request.query_params.get("identifierType", "contact_id")
        if kind == "email_id":
            return next(iter(self.holding(key)), None)
        if kind == "ext_id":
            return next((number for number, record in self.records.items() if record.get("ext_id") == key), None)
        return key if key in self.records else None

    def _absent(self) -> Response:
        return _error(404, self.switches["not_found_code"], "Contact does not exist")

    async def _account(self, _: Request) -> Response:
        return JSONResponse({"companyName": "Example Company", "plan": []})

    async def _read(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return self._absent()
        return JSONResponse({"id": int(key), "emailBlacklisted": False, "smsBlacklisted": False, **self.records[key]})

    async def _statistics(self, request: Request) -> Response:
        return JSONResponse({"messagesSent": []}) if self._key(request) else self._absent()

    async def _update(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return self._absent()
        body: dict[str, Any] = await request.json()
        attributes = {**self.records[key].get("attributes", {}), **body.pop("attributes", {})}
        self.records[key] |= {**body, "attributes": attributes}
        return Response(status_code=204)

    async def _delete(self, request: Request) -> Response:
        key = self._key(request)
        if key is None:
            return self._absent()
        if self.switches["deletion_fails_times"] > 0:
            self.switches["deletion_fails_times"] -= 1
        else:
            del self.records[key]
        return Response(status_code=204)


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status)


def build(clock: Clock | None = None) -> BrevoStandIn:
    """Build the stand-in."""
    return BrevoStandIn(clock)
