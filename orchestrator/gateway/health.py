"""The three pages a machine asks for: `/metrics`, `/healthz` (restart me if not 200), `/readyz` (send me work if 200).

Room rules: no check is defined here; whoever joins things passes callables that return None or a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
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

from schemas.page_readers import CHALLENGE, THIS_MACHINE, PageReaders

__all__ = ["CHECK_SECONDS", "KEPT_SECONDS", "Check", "Listening", "Tls", "health_app", "serve"]

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
#: How long the outcome of the checks is given to whoever asks: checks ask the store, and a page must be no way to load it.
KEPT_SECONDS = 1.0


def health_app(
    registry: CollectorRegistry,
    *,
    alive: Mapping[str, Check],
    ready: Mapping[str, Check],
    readers: PageReaders = THIS_MACHINE,
    check_seconds: float = CHECK_SECONDS,
    kept_seconds: float = KEPT_SECONDS,
    more: Sequence[Route] = (),
) -> Starlette:
    """Return the application with the three pages, and `more` of them.

    `alive`: what only a restart mends, by name; `ready`: what the process still waits for (topics, store, registry, group
    joined). Both pages answer 200 `{"status": "ok"}` or 503 `{"status": "failing", "reasons": {name: reason}}`. A check that
    raises or stays silent for `check_seconds` fails with the error's class or "no answer"; a text from a library is not shown.
    200 on `/readyz` does not say that work is being done: see `dsr_commit_age_seconds`; nor that it holds this moment: an
    outcome is up to `kept_seconds` old.

    `readers`: who is shown metrics and reasons. Whoever is not gets 401 without a body from `/metrics`, whatever he sent
    (RFC 6750 section 3), and the status without reasons from the others: an orchestrator's probe sends no token. The default
    is right on a loopback address alone. `more` brings its own guards.
    """
    living, readiness = _Kept(alive, check_seconds, kept_seconds), _Kept(ready, check_seconds, kept_seconds)

    def is_shown(request: Request) -> bool:
        return readers.include(request.headers.get("authorization"))

    async def metrics(request: Request) -> Response:
        if not is_shown(request):
            return Response(status_code=401, headers=_NOT_KEPT | CHALLENGE)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type, headers=_NOT_KEPT)

    async def healthz(request: Request) -> Response:
        return _answer(await living.reasons(), shown=is_shown(request))

    async def readyz(request: Request) -> Response:
        return _answer(await readiness.reasons(), shown=is_shown(request))

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz), *more])


class _Kept:
    """Some checks and their last outcome: however many ask at once or in a row, the checks run once."""

    def __init__(self, checks: Mapping[str, Check], check_seconds: float, kept_seconds: float) -> None:
        self._checks = checks
        self._check_seconds = check_seconds
        self._kept_seconds = kept_seconds
        self._found: dict[str, str] = {}
        self._until = -math.inf
        self._looking: asyncio.Task[dict[str, str]] | None = None

    async def reasons(self) -> dict[str, str]:
        """Return the reasons of the checks that fail, by name, as they were up to `kept_seconds` ago."""
        if self._looking is None:
            if _now() < self._until:
                return self._found
            self._looking = asyncio.create_task(self._look(), name="health")
        # A caller that goes away must not take the others' answer with it.
        return await asyncio.shield(self._looking)

    async def _look(self) -> dict[str, str]:
        try:
            found = await asyncio.gather(*(_ask(check, self._check_seconds) for check in self._checks.values()))
            self._found = {name: reason for name, reason in zip(self._checks, found, strict=True) if reason is not None}
            self._until = _now() + self._kept_seconds
            return self._found
        finally:
            self._looking = None


def _now() -> float:
    return asyncio.get_running_loop().time()


def _answer(reasons: dict[str, str], *, shown: bool) -> JSONResponse:
    if not reasons:
        return JSONResponse({"status": "ok"}, headers=_NOT_KEPT)
    told: dict[str, object] = {"status": "failing"} | ({"reasons": reasons} if shown else {})
    return JSONResponse(told, status_code=503, headers=_NOT_KEPT)


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
