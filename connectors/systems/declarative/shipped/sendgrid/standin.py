"""A SendGrid account for people who have none: contacts that change by jobs, suppressions, erasure of activity.

Room rules: behaves, never decides; fake credentials only.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.systems.declarative.shipped.account import Account

__all__ = ["API_KEY", "SendGridStandIn", "build"]

#: The only key it takes.
API_KEY = "SG.standin.0000"
_IDENTIFIERS = ("email", "external_id", "phone_number_id", "anonymous_id")


class SendGridStandIn(Account):
    """One account. `/__seed__` takes `{"people": [{"email": ..., "first_name": ...}]}`."""

    name: ClassVar[str] = "sendgrid"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.suppressed: set[str] = set()
        self.erased_activity: set[str] = set()
        self._jobs: dict[str, dict[str, Any]] = {}
        self.switches = {
            #: Search without a hit: 404, or 200 with an error in the address' place [both in the vendor's spec].
            "no_hit_status": 404,
            #: A job takes so long [unverified].
            "job_seconds": 600,
            #: How a job ends.
            "job_ends": "completed",
        }

    def routes(self) -> list[Route]:
        """Return SendGrid's paths."""
        marketing, suppressions = "/v3/marketing/contacts", "/v3/asm/suppressions/global"
        return [
            self.route("GET", "/v3/scopes", self._scopes),
            self.route("POST", f"{marketing}/search/emails", self._search),
            self.route("PUT", marketing, self._upsert),
            self.route("DELETE", marketing, self._delete),
            self.route("GET", f"{marketing}/imports/{{job}}", self._job),
            self.route("POST", "/v3/recipients/erasejob", self._erase),
            self.route("POST", suppressions, self._suppress),
            self.route("GET", f"{suppressions}/{{email}}", self._suppression),
        ]

    def is_authorised(self, request: Request) -> bool:
        """Look at the bearer key."""
        return request.headers.get("authorization") == f"Bearer {API_KEY}"

    def refused(self) -> Response:
        """Answer 401."""
        return _error(401, "authorization required")

    def throttled(self) -> Response:
        """Answer 429 with the seconds left in the window."""
        headers = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "42"}
        return JSONResponse({"errors": [{"message": "too many requests", "field": None}]}, 429, headers)

    async def _scopes(self, _: Request) -> Response:
        return JSONResponse({"scopes": ["marketing.read"]})

    def _shown(self, key: str) -> dict[str, Any]:
        return {**dict.fromkeys(_IDENTIFIERS), "alternate_emails": [], **self.records[key], "id": key}

    async def _search(self, request: Request) -> Response:
        self._work()
        emails = [email.lower() for email in (await request.json())["emails"]]
        hits = {email: key for email in emails for key in self.holding(email)}
        if not hits and self.switches["no_hit_status"] == 404:
            return _error(404, "no contacts found")
        result = {
            email: {"contact": self._shown(hits[email])} if email in hits else {"error": "contact not found"}
            for email in emails
        }
        return JSONResponse({"result": result})

    async def _upsert(self, request: Request) -> Response:
        contacts = (await request.json())["contacts"]
        for contact in contacts:
            held = [self.records[key] for key in self.holding(contact.get("email", ""))]
            if not held or any(record.get(name) and not contact.get(name) for record in held for name in _IDENTIFIERS):
                return _error(400, "every identifier of the contact is required")
        return self._started({"contacts": contacts})

    async def _delete(self, request: Request) -> Response:
        if request.query_params.get("delete_all_contacts"):
            raise AssertionError("never delete all contacts")
        return self._started({"ids": request.query_params["ids"].split(",")})

    def _started(self, work: dict[str, Any]) -> Response:
        job = self.next_id()
        self._jobs[job] = {**work, "ends_at": self.clock.now() + timedelta(seconds=self.switches["job_seconds"])}
        return JSONResponse({"job_id": job}, 202)

    def _work(self) -> None:
        """Do what jobs have come to."""
        now: datetime = self.clock.now()
        for job in self._jobs.values():
            if job["ends_at"] <= now and not job.get("has_ended") and self.switches["job_ends"] == "completed":
                job["has_ended"] = True
                for key in job.get("ids", ()):
                    self.records.pop(key, None)
                for contact in job.get("contacts", ()):
                    for key in self.holding(contact["email"]):
                        self.records[key] |= contact

    async def _job(self, request: Request) -> Response:
        self._work()
        job = self._jobs.get(request.path_params["job"])
        if job is None:
            return _error(404, "job not found")
        status = self.switches["job_ends"] if job["ends_at"] <= self.clock.now() else "pending"
        return JSONResponse({"id": request.path_params["job"], "status": status})

    async def _erase(self, request: Request) -> Response:
        self.erased_activity.update(email.lower() for email in (await request.json())["email_addresses"])
        return JSONResponse({"job_id": self.next_id()}, 202)

    async def _suppress(self, request: Request) -> Response:
        emails = (await request.json())["recipient_emails"]
        self.suppressed.update(email.lower() for email in emails)
        return JSONResponse({"recipient_emails": emails}, 201)

    async def _suppression(self, request: Request) -> Response:
        email = request.path_params["email"]
        return JSONResponse({"recipient_email": email} if email.lower() in self.suppressed else {})


def _error(status: int, message: str) -> Response:
    return JSONResponse({"errors": [{"message": message, "field": None}]}, status)


def build(clock: Clock | None = None) -> SendGridStandIn:
    """Build the stand-in."""
    return SendGridStandIn(clock)
