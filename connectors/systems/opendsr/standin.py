"""A subsidiary's OpenDSR server: people of its own, requests that take their time, signed answers, callbacks.

A request is `pending` for a while, then `in_progress`, then `completed`, by the clock; what it asks for is really done to the
stand-in's people at completion. Both versions' names are served, with and without a trailing slash.

Chosen where the specification is silent: an unknown id is 404, a repeated one with the same body 201 with the same receipt,
with another body 409, a cancellation that comes too late 409.

Room rules: behaves, never decides; fake credentials only; identities of a request are forgotten once it has ended.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn
from connectors.systems.opendsr.authority import Authority
from connectors.systems.opendsr.people import RIGHTS, Person, Work, matches, perform
from connectors.systems.opendsr.signature import sign
from schemas.vocabulary import AssuranceLevel

__all__ = ["DOMAIN", "EXTENSION", "PASSWORD", "TOKEN", "USERNAME", "SubsidiaryStandIn", "build"]

#: The only credentials it takes: a bearer token, or a name and a password.
TOKEN = "opendsr-standin-token"
#: What its base URL ends with.
PREFIX = "/v2"
USERNAME, PASSWORD = "opendsr-standin", "opendsr-standin-password"
#: The processor domain that it signs as.
DOMAIN = "opendsr.subsidiary.example.org"
#: Key of the extension block that it understands.
EXTENSION = "dsr.example.org"

_REQUIRED = ("subject_request_id", "subject_request_type", "submitted_time", "subject_identities")
_TYPES = ("access", "erasure", "portability")
_IDENTITIES = ("email", "controller_customer_id")


@dataclass(slots=True)
class _Entry:
    """One request. `body` is its bytes, kept until it has ended; afterwards only their digest stays."""

    body: bytes
    digest: str
    received_at: datetime
    state: str = "pending"
    work: Work = field(default_factory=Work)
    callbacks: tuple[str, ...] = ()


class SubsidiaryStandIn(StandIn):
    """One subsidiary. `/__seed__` takes `{"people": [{"customer_id", "email", "fields", "records", "keep_until"}]}`."""

    name: ClassVar[str] = "opendsr"

    def __init__(self, clock: Clock | None = None, *, key_kind: str = "rsa") -> None:
        super().__init__(clock)
        self.people: list[Person] = []
        self.requests: dict[str, _Entry] = {}
        #: Callbacks tried: (state, HTTP status or 0 when nobody answered).
        self.called_back: list[tuple[str, int]] = []
        self.missing_regulation = 0
        self._untold: list[tuple[str, str]] = []
        self.authority = Authority(self.clock.now())
        self.renew_certificate("ec" if key_kind == "ec" else "rsa")
        self.switches = {
            #: A request is taken up, and completed, so many seconds after it came.
            "pending_seconds": 1800,
            "work_seconds": 7200,
            #: Answers bear a signature: "good", "bad" or "none".
            "signature": "good",
            #: Form of the signature header: some wrap base64 into lines (blanks in a header).
            "wrapped_signature": False,
            #: Status for an id that is known already, with the same body: 201, or 400 as one large processor answers.
            "repeat_status": 201,
            #: Instants without a zone; null instead of absent fields; both seen in the wild.
            "naive_instants": False,
            "null_fields": False,
            #: It knows our extension: rights beyond the specification's three, and outcomes it has no word for.
            "knows_extension": True,
            #: It does nothing for somebody whose verification, in our extension, is below this `AssuranceLevel`; "": for all.
            "least_assurance": "",
            "identity_formats": ["raw", "sha256"],
            #: Another place for the certificate than this server's own.
            "certificate_url": "",
            #: A result link on another host.
            "foreign_results": False,
        }

    def renew_certificate(self, kind: str = "rsa", *, domain: str = DOMAIN) -> None:
        """Sign with a new key from now on."""
        self._key, self.certificate_pem = self.authority.issue(domain, kind="ec" if kind == "ec" else "rsa")

    def routes(self) -> list[Route]:
        """Return discovery, requests and their status under both versions' names, the certificate, and results."""
        routes = [
            Route("/cert.pem", self._certificate, methods=["GET"]),
            Route("/ca.pem", self._root, methods=["GET"]),
        ]
        for version in ("v1", "v2"):
            routes += [
                Route(f"/{version}/discovery", self._discovery, methods=["GET"]),
                Route(f"/{version}/status/{{id}}", self._status, methods=["GET"]),
                Route(f"/{version}/results/{{id}}", self._results, methods=["GET"]),
            ]
            for path in ("requests", "opengdpr_requests"):
                routes += [
                    Route(f"/{version}/{path}", self._create, methods=["POST"]),
                    Route(f"/{version}/{path}/", self._create, methods=["POST"]),
                    Route(f"/{version}/{path}/{{id}}", self._status, methods=["GET"]),
                    Route(f"/{version}/{path}/{{id}}", self._cancel, methods=["DELETE"]),
                ]
        return routes

    def seed(self, value: Any) -> None:
        """Plant people; somebody with the same customer id is replaced."""
        for described in value["people"]:
            person = Person(**described)
            self.people = [known for known in self.people if known.customer_id != person.customer_id]
            self.people.append(person)

    def state(self) -> Any:
        """Return people and requests, after everything that is due by now has happened."""
        self.catch_up()
        return {
            "people": [person.shown() for person in self.people],
            "requests": {key: {"state": e.state, "count": e.work.count} for key, e in self.requests.items()},
            "called_back": [{"state": state, "status": status} for state, status in self.called_back],
        }

    def holds(self, email: str) -> bool:
        """Tell whether an address stands anywhere, now."""
        self.catch_up()
        return any(person.email.lower() == email.lower() for person in self.people)

    def catch_up(self) -> None:
        """Let everything happen that is due by the clock; callbacks follow with the next call of the API."""
        now = self.clock.now()
        pending = timedelta(seconds=self.switches["pending_seconds"])
        work = timedelta(seconds=self.switches["work_seconds"])
        for key, entry in self.requests.items():
            if entry.state == "pending" and now >= entry.received_at + pending:
                entry.state = "in_progress"
                self._untold.append((key, entry.state))
            if entry.state == "in_progress" and entry.body and now >= entry.received_at + pending + work:
                self._finish(entry, now)
                self._untold.append((key, entry.state))

    def _finish(self, entry: _Entry, now: datetime) -> None:
        request = json.loads(entry.body)
        ours = (request.get("extensions") or {}).get(EXTENSION) or {}
        if not self._is_sure(ours.get("verification") or {}):
            entry.work, entry.body = Work(outcome={"code": "failed", "reason": "verification_failed"}), b""
            return
        found = [person for person in self.people if matches(person, request["subject_identities"])]
        entry.work = perform(found, request["subject_request_type"], ours.get("changes", ()), now.date())
        self.people = [person for person in self.people if person.records or person.kept]
        # OpenDSR has no word for "could not": such a request stays in progress, the reason stands in the extension.
        if not entry.work.has_failed:
            entry.state = "completed"
        entry.body = b""

    def _is_sure(self, verification: dict[str, str]) -> bool:
        levels = ["", *AssuranceLevel]
        return levels.index(verification.get("level", "")) >= levels.index(self.switches["least_assurance"])

    async def _tell(self) -> None:
        """Call every status_callback_url once for each change; a callback that fails is counted and not repeated."""
        changes, self._untold = self._untold, []
        async with httpx.AsyncClient(timeout=2) as client:
            for key, state in changes:
                for url in self.requests[key].callbacks:
                    body = json.dumps(self._shown(key) | {"request_status": state, "status_callback_url": url}).encode()
                    status = 0
                    with contextlib.suppress(httpx.HTTPError):
                        status = (await client.post(url, content=body, headers=self._headers(body, "v2"))).status_code
                    self.called_back.append((state, status))

    async def _discovery(self, request: Request) -> Response:
        formats = self.switches["identity_formats"]
        own = f"{request.url.scheme}://{request.url.netloc}/cert.pem"
        body: dict[str, Any] = {
            "api_version": "1.0" if request.url.path.startswith("/v1") else "2.0",
            "supported_identities": [{"identity_type": t, "identity_format": f} for t in _IDENTITIES for f in formats],
            "supported_subject_request_types": list(_TYPES),
            "processor_certificate": self.switches["certificate_url"] or own,
        }
        if self.switches["knows_extension"]:
            body["extensions"] = {EXTENSION: {"version": "1", "supported_rights": sorted(RIGHTS)}}
        return JSONResponse(body)

    async def _certificate(self, _: Request) -> Response:
        return Response(self.certificate_pem, media_type="application/x-pem-file")

    async def _root(self, _: Request) -> Response:
        """Hand out the root that a receiver on this machine may trust; a real processor's is in the usual store."""
        return Response(self.authority.root_pem, media_type="application/x-pem-file")

    async def _create(self, request: Request) -> Response:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        raw = await request.body()
        try:
            body = json.loads(raw)
        except ValueError:
            return self._error(400, "malformed", "the body is not JSON")
        missing = [name for name in _REQUIRED if not (isinstance(body, dict) and body.get(name))]
        if missing:
            return self._error(400, "missing_field", f"{missing[0]} is required")
        if body["subject_request_type"] not in _TYPES and not self._is_extended(body):
            return self._error(400, "unsupported_type", "subject_request_type is not supported")
        self.missing_regulation += "regulation" not in body
        key, digest = str(body["subject_request_id"]), hashlib.sha256(raw).hexdigest()
        known = self.requests.get(key)
        if known is not None:
            if known.digest != digest:
                return self._error(409, "id_reused", "subject_request_id is known with another body")
            if self.switches["repeat_status"] == 400:
                return self._error(400, "duplicate", "subject_request_id is known already")
            return self._receipt(request, key, raw)
        callbacks = tuple(body.get("status_callback_urls") or ())
        self.requests[key] = _Entry(raw, digest, self.clock.now(), callbacks=callbacks)
        self._untold.append((key, "pending"))
        await self._tell()
        return self._receipt(request, key, raw)

    def _is_extended(self, body: dict[str, Any]) -> bool:
        ours = (body.get("extensions") or {}).get(EXTENSION) or {}
        return bool(self.switches["knows_extension"]) and ours.get("right") == body["subject_request_type"] in RIGHTS

    def _receipt(self, request: Request, key: str, raw: bytes) -> Response:
        entry = self.requests[key]
        return self._signed(
            request,
            201,
            {
                "controller_id": "example-parent",
                "subject_request_id": key,
                "received_time": self._instant(entry.received_at),
                "expected_completion_time": self._instant(self._expected(entry)),
                "encoded_request": base64.b64encode(raw).decode(),
            },
        )

    async def _status(self, request: Request) -> Response:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        key = request.path_params["id"]
        if key not in self.requests:
            return self._error(404, "unknown_id", "no such request")
        base = f"{request.url.scheme}://{request.url.netloc}"
        if self.switches["foreign_results"]:
            base = "https://files.subsidiary.example.org"
        return self._signed(request, 200, self._shown(key, f"{base}/v2/results/{key}"))

    async def _cancel(self, request: Request) -> Response:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        key = request.path_params["id"]
        entry = self.requests.get(key)
        if entry is None:
            return self._error(404, "unknown_id", "no such request")
        if entry.state not in {"pending", "cancelled"}:
            return self._error(409, "too_late", "only a pending request can be cancelled")
        if entry.state == "pending":
            entry.state, entry.body = "cancelled", b""
            self._untold.append((key, entry.state))
            await self._tell()
        received = self._instant(self.clock.now())
        body = {"controller_id": "example-parent", "subject_request_id": key, "received_time": received}
        return self._signed(request, 202, body)

    async def _results(self, request: Request) -> Response:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refusal
        entry = self.requests.get(request.path_params["id"])
        if entry is None or entry.work.export is None:
            return self._error(404, "unknown_id", "no such results")
        return self._signed(request, 200, entry.work.export)

    def _shown(self, key: str, results_url: str | None = None) -> dict[str, Any]:
        entry = self.requests[key]
        is_done = entry.state == "completed"
        body: dict[str, Any] = {
            "controller_id": "example-parent",
            "subject_request_id": key,
            "request_status": entry.state,
            "expected_completion_time": self._instant(self._expected(entry)),
            "results_count": entry.work.count if is_done else None,
            "results_url": results_url if is_done and entry.work.export is not None else None,
            "extensions": {EXTENSION: {"outcome": entry.work.outcome}}
            if entry.work.outcome and self.switches["knows_extension"]
            else None,
        }
        return body if self.switches["null_fields"] else {name: value for name, value in body.items() if value is not None}

    def _expected(self, entry: _Entry) -> datetime:
        return entry.received_at + timedelta(seconds=self.switches["pending_seconds"] + self.switches["work_seconds"])

    def _instant(self, at: datetime) -> str:
        return at.replace(tzinfo=None).isoformat() if self.switches["naive_instants"] else at.isoformat().replace("+00:00", "Z")

    async def _refusal(self, request: Request) -> Response | None:
        """Return 401 for wrong credentials; otherwise first let happen what is due."""
        basic = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        if request.headers.get("authorization") not in {f"Bearer {TOKEN}", f"Basic {basic}"}:
            return self._error(401, "unauthorized", "credentials are missing or wrong")
        self.catch_up()
        await self._tell()
        return None

    def _error(self, status: int, reason: str, message: str) -> Response:
        errors = [{"domain": DOMAIN, "reason": reason, "message": message}]
        return JSONResponse({"error": {"code": status, "message": message, "errors": errors}}, status)

    def _signed(self, request: Request, status: int, body: Any) -> Response:
        content = json.dumps(body).encode()
        version = urlsplit(str(request.url)).path.split("/")[1]
        return Response(content, status, self._headers(content, version), media_type="application/json")

    def _headers(self, content: bytes, version: str) -> dict[str, str]:
        if self.switches["signature"] == "none":
            return {}
        name = "OpenGDPR" if version == "v1" else "OpenDSR"
        signature = sign(content if self.switches["signature"] == "good" else content + b" ", self._key)
        if self.switches["wrapped_signature"]:
            signature = " ".join(signature[start : start + 64] for start in range(0, len(signature), 64))
        return {f"X-{name}-Processor-Domain": DOMAIN, f"X-{name}-Signature": signature}


def build(clock: Clock | None = None) -> SubsidiaryStandIn:
    """Build the stand-in."""
    return SubsidiaryStandIn(clock)
