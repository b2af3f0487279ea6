"""The website as far as cookies go: files visits, and tells browsers that are to forget. Reference for the site's own code.

- `POST /visits` `{"cookie_id": ..., "ga_client_id": ..., "hotjar_user_id": ..., "account_id": ..., "email": ...}` files one;
  `{"filed": false}` for a browser that is to forget.
- `GET /opt-out?cookie_id=...`: what the site asks before it answers a page, with the `Set-Cookie` headers of that answer.

Room rules: nothing here is reachable from production code paths; the map is the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.settings import read
from connectors.sdk.standin import StandIn
from connectors.systems.cookies.browser import instructions
from connectors.systems.cookies.client import ANALYTICS, PERSONS
from connectors.systems.cookies.connector import CookiesSettings
from schemas.vocabulary import IdentifierKind

__all__ = ["CookiesStandIn", "build"]


class CookiesStandIn(StandIn):
    """One website. `/__seed__` takes `{"visits": [...]}` with the fields of `POST /visits`."""

    name: ClassVar[str] = "cookies"

    def __init__(self, settings: CookiesSettings, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.map = settings.open_map()
        self._names = settings.names

    def visit(self, value: Mapping[str, str]) -> bool:
        """File a visit; tell whether it was filed."""
        ids = {kind: (value[kind.value],) for kind in (*ANALYTICS, *PERSONS) if value.get(kind.value)}
        return self.map.record(value[IdentifierKind.COOKIE_ID.value], ids)

    def routes(self) -> list[Route]:
        """Return the website's two paths."""
        return [
            Route("/visits", self._visits, methods=["POST"]),
            Route("/opt-out", self._opt_out, methods=["GET"]),
        ]

    def seed(self, value: Any) -> None:
        """File visits."""
        for visit in value["visits"]:
            self.visit(visit)

    def state(self) -> Any:
        """Return the numbers of the map."""
        mapped, waiting = self.map.counts()
        return {"browsers": mapped, "marked_and_not_seen": waiting}

    def _today(self) -> date:
        return self.clock.now().date()

    async def _visits(self, request: Request) -> Response:
        return JSONResponse({"filed": self.visit(await request.json())})

    async def _opt_out(self, request: Request) -> Response:
        cookie_id = request.query_params.get("cookie_id", "")
        is_marked = bool(cookie_id) and self.map.is_marked(cookie_id, self._today())
        headers = instructions(self._names, request.cookies) if is_marked else ()
        ended = [header.partition("=")[0] for header in headers if "Max-Age=0;" in header]
        response = JSONResponse({"opt_out": is_marked, "expire": ended})
        for header in headers:
            response.headers.append("set-cookie", header)
        return response


def build(clock: Clock | None = None) -> CookiesStandIn:
    """Build the stand-in on the map of the environment's settings. Raises `ConfigurationError`."""
    return CookiesStandIn(read(CookiesSettings), clock)
