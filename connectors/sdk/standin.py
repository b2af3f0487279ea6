"""What all stand-ins share: a small server that behaves as an outside system does, and misbehaves on demand.

A system's stand-in subclasses `StandIn`, lists its routes, and keeps its people in plain attributes. It is served on a real
port (`serve`), because a connector's faults live in sockets, timeouts and half-read bodies, which no fake transport shows.

Beside the system's own paths every stand-in answers:

- `POST /__control__` `{"faults": [...], "rate_limit": {...} | null, "switches": {...}}`: the next answers go wrong as listed
  (fields of `Fault`), or calls are limited, or an unverified behaviour is switched. `DELETE` takes all faults and limits away.
- `GET /__state__`: counts per route, and what the stand-in holds.
- `POST /__seed__`: plants people; the shape is the system's own.
- `POST /__clock__` `{"advance_seconds": n}`: moves a manual clock, for lags and vendors' jobs.

Room rules: no system by name; nothing here is reachable from production code paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.sdk.clock import Clock, ManualClock, SystemClock

__all__ = ["Fault", "RateLimit", "StandIn", "closed_port_url", "serve"]

_HUGE = 11 * 1024 * 1024
_CHUNK = b'"' + b"x" * 65534 + b'"'


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong.

    `status` answers with this status, `json` or `body`, and `headers`. `malformed`, `huge`, `cut` (ends in mid-body) and
    `hang` (says nothing for `seconds`) are what they say. `lost` does the work and then answers `status`, as a proxy does
    that times out; `none` lets the call pass. `times` is how many requests it hits; `path` limits it to paths that contain
    this text.
    """

    kind: Literal["status", "malformed", "huge", "cut", "hang", "lost", "none"] = "status"
    times: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: str | None = None
    seconds: float = 30.0
    path: str = ""
    method: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fault:
        """Build from a control message; unknown fields are an error."""
        unknown = set(value) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"a fault has no field {min(unknown)}")
        return cls(**value)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `per_seconds`; more get `StandIn.throttled()`."""

    requests: int
    per_seconds: float
    path: str = ""


class StandIn:
    """Base of all stand-ins. Thread-safe enough: the server runs in one thread, a test reads when no call is under way."""

    #: The connector's name.
    name: ClassVar[str] = "standin"

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        #: Answered calls by "METHOD /route/{template}", faults included.
        self.counts: Counter[str] = Counter()
        #: Unverified behaviours, by name: a test runs in every position.
        self.switches: dict[str, Any] = {}
        #: Called with method, raw path, query, headers and body of each request before it is answered, faults included.
        self.witness: Callable[[str, str, str, dict[str, str], bytes], None] | None = None
        self._faults: deque[list[Any]] = deque()
        self._limit: RateLimit | None = None
        self._recent: deque[float] = deque()

    def routes(self) -> list[Route]:
        """Return the system's own routes."""
        raise NotImplementedError

    def seed(self, value: Any) -> None:
        """Plant what a `/__seed__` body describes."""
        raise NotImplementedError

    def state(self) -> Any:
        """Return what the stand-in holds, as JSON-able data, for `/__state__`."""
        return {}

    def throttled(self) -> Response:
        """Return the system's answer to too many calls."""
        return Response(status_code=429)

    def fail(self, *faults: Fault) -> None:
        """Let the next matching calls go wrong, in this order."""
        self._faults.extend([fault, fault.times] for fault in faults)

    def fail_nth(self, nth: int, fault: Fault) -> None:
        """Let the nth matching call from now on go wrong, and the ones before it go well."""
        if nth > 1:
            self.fail(Fault("none", times=nth - 1, path=fault.path, method=fault.method))
        self.fail(fault)

    def limit(self, limit: RateLimit | None) -> None:
        """Limit the rate of calls from now on, on the machine's monotonic clock."""
        self._limit = limit
        self._recent.clear()

    def heal(self) -> None:
        """Take all faults and limits away."""
        self._faults.clear()
        self.limit(None)

    @property
    def calls(self) -> int:
        """Return the number of calls answered so far."""
        return self.counts.total()

    def app(self) -> ASGIApp:
        """Return the ASGI application: the system's routes behind the faults, the control routes in front of them."""
        own = self.routes()
        control = Starlette(
            routes=[
                Route("/__control__", self._control, methods=["POST", "DELETE"]),
                Route("/__state__", self._state, methods=["GET"]),
                Route("/__seed__", self._seed, methods=["POST"]),
                Route("/__clock__", self._clock, methods=["POST"]),
            ]
        )
        system = Starlette(routes=own)

        async def entry(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await system(scope, receive, send)
            elif scope["path"].startswith("/__"):
                await control(scope, receive, send)
            else:
                self.counts[_template(own, scope)] += 1
                await self._answer(system, scope, receive, send)

        return entry

    async def _answer(self, system: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        if self.witness is not None:
            receive = await _witnessed(self.witness, scope, receive)
        fault = self._next_fault(scope["method"], scope["path"])
        if fault is not None:
            await _misbehave(fault, system, scope, receive, send)
        elif self._is_over_limit(scope["path"]):
            await self.throttled()(scope, receive, send)
        else:
            await system(scope, receive, send)

    def _next_fault(self, method: str, path: str) -> Fault | None:
        for entry in self._faults:
            fault: Fault = entry[0]
            if fault.path in path and fault.method in {"", method}:
                entry[1] -= 1
                if entry[1] <= 0:
                    self._faults.remove(entry)
                return fault
        return None

    def _is_over_limit(self, path: str) -> bool:
        limit = self._limit
        if limit is None or limit.path not in path:
            return False
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - limit.per_seconds:
            self._recent.popleft()
        if len(self._recent) >= limit.requests:
            return True
        self._recent.append(now)
        return False

    async def _control(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.heal()
            return Response(status_code=204)
        body = await request.json()
        self.fail(*(Fault.from_json(fault) for fault in body.get("faults", ())))
        if "rate_limit" in body:
            self.limit(RateLimit(**body["rate_limit"]) if body["rate_limit"] else None)
        self.switches.update(body.get("switches", {}))
        return Response(status_code=204)

    async def _state(self, _: Request) -> Response:
        return JSONResponse({"counts": dict(self.counts), "switches": self.switches, "state": self.state()})

    async def _seed(self, request: Request) -> Response:
        self.seed(await request.json())
        return Response(status_code=204)

    async def _clock(self, request: Request) -> Response:
        if not isinstance(self.clock, ManualClock):
            return JSONResponse({"error": "this stand-in runs on the machine's clock"}, status_code=409)
        self.clock.advance(float((await request.json())["advance_seconds"]))
        return JSONResponse({"now": self.clock.now().isoformat()})


async def _witnessed(
    witness: Callable[[str, str, str, dict[str, str], bytes], None], scope: Scope, receive: Receive
) -> Receive:
    """Show a request to the witness; return what gives its body once more."""
    body = await Request(scope, receive).body()
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    witness(scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1"), headers, body)
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


def _template(routes: list[Route], scope: Scope) -> str:
    for route in routes:
        if route.matches(scope)[0] is Match.FULL:
            return f"{scope['method']} {route.path}"
    return f"{scope['method']} ?"


async def _misbehave(fault: Fault, system: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    match fault.kind:
        case "status":
            body = fault.body if fault.body is not None else "" if fault.json is None else json.dumps(fault.json)
            await Response(body, fault.status, dict(fault.headers))(scope, receive, send)
        case "malformed":
            await Response('{"results": [{"id": ', 200, media_type="application/json")(scope, receive, send)
        case "huge":
            await _stream(send, _HUGE)
        case "cut":
            await _start(send, length=1000)
            await send({"type": "http.response.body", "body": b'{"results": [', "more_body": True})
            raise _Cut
        case "hang":
            await _hang(fault.seconds, receive)
            raise _Cut
        case "none":
            await system(scope, receive, send)
        case "lost":
            await system(scope, receive, _swallow)
            await Response(status_code=fault.status)(scope, receive, send)


class _Cut(Exception):
    """Ends a response in mid-air; uvicorn then closes the connection."""


async def _swallow(_: Message) -> None:
    return


async def _start(send: Send, *, length: int | None = None) -> None:
    headers = [(b"content-type", b"application/json")]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _stream(send: Send, size: int) -> None:
    await _start(send)
    for _ in range(size // len(_CHUNK)):
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hang(seconds: float, receive: Receive) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone(), seconds)


@contextlib.contextmanager
def serve(standin: StandIn | Callable[[], ASGIApp], *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve a stand-in (or what a function returns) in a thread and yield its base URL; stops it at the end.

    With port 0 a free port is taken, so that any number of stand-ins run at once.
    """
    app = standin.app() if isinstance(standin, StandIn) else standin()
    with socket.create_server((host, port)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_config=None, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + 10
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError("the stand-in did not start")
                time.sleep(0.005)
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@contextlib.contextmanager
def closed_port_url() -> Iterator[str]:
    """Yield a base URL on which nobody listens: the port is taken, so nobody else can start listening either."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"
