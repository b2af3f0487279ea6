"""A Skeleton account for people who have none: make it behave as the vendor does, limits and error bodies included.

Room rules: behaves, never decides; fake credentials only.
"""

from __future__ import annotations

from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn

__all__ = ["TOKEN", "SkeletonStandIn", "build"]

#: The only token it takes.
TOKEN = "standin-0000"


class SkeletonStandIn(StandIn):
    """One account. `/__seed__` takes `{"people": [{"email": ...}]}`."""

    name: ClassVar[str] = "skeleton"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.people: dict[str, dict[str, Any]] = {}
        self._last_id = 0
        #: Every behaviour that no public page promises; test each position.
        self.switches = {"unknown_status": 404}

    def add(self, **fields: Any) -> str:
        """Plant a record and return its id."""
        self._last_id += 1
        key = f"p{self._last_id}"
        self.people[key] = {"id": key, "subscribed": True, **fields}
        return key

    def holding(self, email: str) -> list[str]:
        """Return the ids of records with this address."""
        return [key for key, person in self.people.items() if person["email"].lower() == email.lower()]

    def seed(self, value: Any) -> None:
        """Plant people."""
        for person in value["people"]:
            self.add(**person)

    def state(self) -> Any:
        """Return the people."""
        return {"people": self.people}

    def routes(self) -> list[Route]:
        """Return the system's paths."""
        return [
            Route("/me", self._guarded(self._me), methods=["GET"]),
            Route("/people", self._guarded(self._find), methods=["GET"]),
            Route("/people/{key}", self._guarded(self._change), methods=["PATCH"]),
            Route("/people/{key}", self._guarded(self._delete), methods=["DELETE"]),
        ]

    def _guarded(self, handler: Any) -> Any:
        async def guarded(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return JSONResponse({"message": "unknown token"}, 401)
            response: Response = await handler(request)
            return response

        return guarded

    async def _me(self, _: Request) -> Response:
        return JSONResponse({"account": "example"})

    async def _find(self, request: Request) -> Response:
        hits = self.holding(request.query_params["email"])
        return JSONResponse({"people": [self.people[key] for key in hits]})

    async def _change(self, request: Request) -> Response:
        key = request.path_params["key"]
        if key not in self.people:
            return self._absent()
        self.people[key] |= await request.json()
        return JSONResponse(self.people[key])

    async def _delete(self, request: Request) -> Response:
        if self.people.pop(request.path_params["key"], None) is None:
            return self._absent()
        return Response(status_code=204)

    def _absent(self) -> Response:
        return JSONResponse({"message": "no such person"}, self.switches["unknown_status"])


def build(clock: Clock | None = None) -> SkeletonStandIn:
    """Build the stand-in."""
    return SkeletonStandIn(clock)
