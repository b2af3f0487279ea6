"""What the stand-ins of described systems share: credentials, numbered records, and routes that see to the first.

Room rules: as `connectors.sdk.standin`; no system by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn

__all__ = ["Account", "Handler"]

Handler = Callable[[Request], Awaitable[Response]]


class Account(StandIn):
    """One account: its people stand in `records`, by a number that is never given twice."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.records: dict[str, dict[str, Any]] = {}
        self._last_id = 700

    def add(self, **fields: Any) -> str:
        """Plant a record and return its id. An address is unique: a known one's record is replaced."""
        email = str(fields.get("email", "")).lower()
        known = next((key for key, record in self.records.items() if email and record["email"].lower() == email), None)
        key = known or self.next_id()
        self.records[key] = fields
        return key

    def next_id(self) -> str:
        """Return a number that no record had."""
        self._last_id += 1
        return str(self._last_id)

    def holding(self, email: str) -> list[str]:
        """Return the ids of records with this address."""
        return [key for key, record in self.records.items() if str(record.get("email") or "").lower() == email.lower()]

    def seed(self, value: Any) -> None:
        """Plant `{"people": [{...}]}`."""
        for person in value["people"]:
            self.add(**person)

    def state(self) -> Any:
        """Return the records."""
        return {"records": self.records}

    def is_authorised(self, request: Request) -> bool:
        """Tell whether a request carries the account's credentials."""
        raise NotImplementedError

    def refused(self) -> Response:
        """Return the answer to wrong credentials."""
        raise NotImplementedError

    def route(self, method: str, path: str, handler: Handler) -> Route:
        """Return a route that looks at credentials before it does anything."""

        async def guarded(request: Request) -> Response:
            return await handler(request) if self.is_authorised(request) else self.refused()

        return Route(path, guarded, methods=[method])
