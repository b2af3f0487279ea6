"""Acme's server: jobs run until `release` is set."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.standin import StandIn


class AcmeStandIn(StandIn):
    name = "acme"

    def __init__(self, clock=None) -> None:
        super().__init__(clock)
        self.release = False
        self.started: dict[str, str] = {}
        #: When it was called, on the monotonic clock.
        self.called_at: list[float] = []

    def routes(self) -> list[Route]:
        return [
            Route("/jobs", self._start, methods=["POST"]),
            Route("/jobs/{job}", self._read, methods=["GET"]),
        ]

    async def _start(self, request: Request) -> Response:
        self.called_at.append(time.monotonic())
        key = request.headers["idempotency-key"]
        self.started.setdefault(key, f"job-{len(self.started) + 1}")
        return JSONResponse({"id": self.started[key]}, status_code=201)

    async def _read(self, request: Request) -> Response:
        self.called_at.append(time.monotonic())
        return JSONResponse({"done": self.release})


def build(clock=None) -> AcmeStandIn:
    return AcmeStandIn(clock)
