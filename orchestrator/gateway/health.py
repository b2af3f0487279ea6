"""The three pages a machine asks for: `/metrics`, `/healthz` (restart me if not 200), `/readyz` (send me work if 200).

Room rules: no check is defined here; whoever joins things passes callables that return None or a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

__all__ = ["CHECK_SECONDS", "Check", "Listening", "Tls", "health_app", "serve"]

#: Returns None when all is well, else a reason for people: a code or a sentence that names no person and quotes no body.
Check = Callable[[], "str | Awaitable[str | None] | None"]

_NOT_KEPT = {"cache-control": "no-store"}
#: With every answer, an error's too: nothing here is a page, and no other page may show it or run what it holds.
_FOR_BROWSERS = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
]
#: RFC 6797: whoever came over TLS once comes no other way for a year.
_TLS_ONLY = ("strict-transport-security", "max-age=31536000")

#: How long a check may take before its silence is the reason. Below the usual probe's patience of a few seconds.
CHECK_SECONDS = 2.0


def health_app(
    registry: CollectorRegistry,
    *,
    alive: Mapping[str, Check],
    ready: Mapping[str, Check],
    check_seconds: float = CHECK_SECONDS,
    more: Sequence[Route] = (),
) -> Starlette:
    """Return the application with the three pages, and `more` of them.

    `alive`: what only a restart mends, by name; `ready`: what the process still waits for (topics, store, registry, group
    joined). Both pages answer 200 `{"status": "ok"}` or 503 `{"status": "failing", "reasons": {name: reason}}`. A check that
    raises or stays silent for `check_seconds` fails with the error's class or "no answer"; a text from a library is not shown.
    200 on `/readyz` does not say that work is being done: see `dsr_commit_age_seconds`.
    """

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type, headers=_NOT_KEPT)

    async def healthz(_: Request) -> Response:
        return await _answer(alive, check_seconds)

    async def readyz(_: Request) -> Response:
        return await _answer(ready, check_seconds)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz), *more])


async def _answer(checks: Mapping[str, Check], seconds: float) -> JSONResponse:
    found = await asyncio.gather(*(_ask(check, seconds) for check in checks.values()))
    reasons = {name: reason for name, reason in zip(checks, found, strict=True) if reason is not None}
    if reasons:
        return JSONResponse({"status": "failing", "reasons": reasons}, status_code=503, headers=_NOT_KEPT)
    return JSONResponse({"status": "ok"}, headers=_NOT_KEPT)


async def _ask(check: Check, seconds: float) -> str | None:
    try:
        async with asyncio.timeout(seconds):
            found = check()
            return found if found is None or isinstance(found, str) else await found
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except Exception as error:  # noqa: BLE001 - a check that breaks is a failing check, and the page is where that is told
        return f"the check itself failed: {type(error).__name__}"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a certificate, with its chain, and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Listening:
    """Where an application is served."""

    host: str
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Return the base address, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class _Server(uvicorn.Server):
    """A server inside somebody else's process: signals belong to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve(app: ASGIApp, host: str, port: int, *, tls: Tls | None = None) -> AsyncIterator[Listening]:
    """Serve `app` in the running loop while the block runs; port 0 takes a free one, and the real one is yielded.

    Raises `OSError` at once when the address cannot be had. Requests are answered from the first moment of the block. On the
    way out open requests get up to a second to end. Writes no access log: paths may carry ids.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    config = uvicorn.Config(
        app,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        headers=_FOR_BROWSERS if tls is None else [*_FOR_BROWSERS, _TLS_ONLY],
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]), name=f"serve:{port}")
    try:
        yield Listening(host, listener.getsockname()[1], "http" if tls is None else "https")
    finally:
        server.should_exit = True
        await running
        listener.close()
