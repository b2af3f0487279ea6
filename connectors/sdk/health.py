"""`/metrics`, `/healthz` and `/readyz` of a connector process, in the runtime's own event loop.

A loop that stands still answers nothing here, which is what a liveness probe should see.

Room rules: reads only; shows counts and codes, no ids; metrics to `PageReaders` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from schemas.errors import ConfigurationError
from schemas.page_readers import CHALLENGE, THIS_MACHINE, PageReaders

__all__ = ["app", "served"]

#: With every answer: nothing here is a page, is kept on the way, or is shown by another page.
_FOR_BROWSERS = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
]


def app(registry: CollectorRegistry, is_ready: Callable[[], bool], readers: PageReaders = THIS_MACHINE) -> Starlette:
    """Return the application. Ready means: the bus was joined and the journal's leftovers are in the queue.

    `readers`: who is shown the metrics; others get 401 without a body (RFC 6750 section 3). The default is right on a loopback
    address alone. The other pages tell a status and no reason, to everybody: `is_ready` reads memory, and is asked each time.
    """

    async def metrics(request: Request) -> Response:
        if not readers.include(request.headers.get("authorization")):
            return Response(status_code=401, headers=CHALLENGE)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        ready = is_ready()
        return PlainTextResponse("ready\n" if ready else "starting\n", status_code=200 if ready else 503)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)])


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: the process has its own orderly end."""
        yield


@contextlib.asynccontextmanager
async def served(application: Starlette, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve while the block runs and give the port. Raises `ConfigurationError` if it is taken."""
    try:
        listener = socket.create_server((host, port))
    except OSError:
        raise ConfigurationError(f"DSR_HEALTH_PORT: port {port} cannot be opened on this host") from None
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        headers=_FOR_BROWSERS,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=5)
        listener.close()
