"""A Salesforce organisation for people who have none: contacts and leads by SOQL, the recycle bin, bulk jobs, tokens.

Room rules: behaves, never decides; fake credentials only.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.systems.declarative.shipped.account import Account

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "SalesforceStandIn", "build"]

#: The only client it knows.
CLIENT_ID, CLIENT_SECRET = "3MVG9standin", "standin-0000"
_DATA = "/services/data/{version}"
#: The one form of query it reads: one condition on a literal between single quotes, with escapes inside.
_SOQL = re.compile(r"SELECT (?P<fields>[\w, ]+) FROM (?P<kind>\w+) WHERE (?P<name>\w+) = '(?P<value>(?:[^'\\]|\\.)*)'")
_FIELDS = ("Email", "FirstName", "LastName", "Phone", "MobilePhone", "Title", "HasOptedOutOfEmail", "DoNotCall")


class SalesforceStandIn(Account):
    """One organisation. `/__seed__` takes `{"people": [{"email": ..., "kind": "Lead", "LastName": ...}]}`."""

    name: ClassVar[str] = "salesforce"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.bin: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}
        self._tokens = 0
        self.switches = {
            #: DELETE of a deleted record: 404 or 400 [sources differ].
            "deleted_status": 404,
            #: Rows of one page; the vendor's is 2,000.
            "page_size": 2000,
            #: A bulk job takes so long [unverified].
            "job_seconds": 600,
            #: DELETE of a record that others refer to is refused [unverified].
            "relations_block_deletion": False,
            #: Names of the fields of an opt-out [unverified].
            "opt_out_fields": ("HasOptedOutOfEmail", "DoNotCall"),
            #: Rows that a bulk job cannot delete.
            "failing_rows": 0,
            #: So many calls are answered 401, as if the session had ended.
            "ended_sessions": 0,
        }

    def add(self, **fields: Any) -> str:
        """Plant a record; several may share an address."""
        key = ("003" if fields.setdefault("kind", "Contact") == "Contact" else "00Q") + self.next_id().rjust(12, "0")
        self.records[key] = fields
        return key

    def routes(self) -> list[Route]:
        """Return Salesforce's paths."""
        record, job = f"{_DATA}/sobjects/{{kind}}/{{key}}", f"{_DATA}/jobs/ingest/{{job}}"
        return [
            Route("/services/oauth2/token", self._token, methods=["POST"]),
            self.route("GET", f"{_DATA}/limits", self._limits),
            self.route("GET", f"{_DATA}/query", self._query),
            self.route("GET", f"{_DATA}/query/{{cursor}}", self._query),
            self.route("GET", record, self._read),
            self.route("PATCH", record, self._update),
            self.route("DELETE", record, self._delete),
            self.route("POST", f"{_DATA}/jobs/ingest", self._open_job),
            self.route("PUT", f"{job}/batches", self._upload),
            self.route("PATCH", job, self._close_job),
            self.route("GET", job, self._job),
        ]

    def is_authorised(self, request: Request) -> bool:
        """Look at the newest token."""
        if self.switches["ended_sessions"] > 0:
            self.switches["ended_sessions"] -= 1
            return False
        return request.headers.get("authorization") == f"Bearer 00Dstandin!{self._tokens}"

    def refused(self) -> Response:
        """Answer 401."""
        return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")

    def throttled(self) -> Response:
        """Answer as Salesforce does: 403, and nothing that says when to come back."""
        return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")

    async def _token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        if form.get("client_id") != [CLIENT_ID] or form.get("client_secret") != [CLIENT_SECRET]:
            return JSONResponse({"error": "invalid_client", "error_description": "invalid client credentials"}, 400)
        self._tokens += 1
        url = f"{request.url.scheme}://{request.url.netloc}"
        return JSONResponse({"access_token": f"00Dstandin!{self._tokens}", "instance_url": url, "token_type": "Bearer"})

    async def _limits(self, _: Request) -> Response:
        return JSONResponse({"DailyApiRequests": {"Max": 15000, "Remaining": 14998}})

    async def _query(self, request: Request) -> Response:
        # A cursor of the stand-in carries the query; the vendor's is opaque.
        cursor = request.path_params.get("cursor", "")
        text, start = (bytes.fromhex(cursor.split("-")[0]).decode(), int(cursor.split("-")[1])) if cursor else (
            request.query_params["q"], 0,
        )  # fmt: skip
        found = _SOQL.fullmatch(text.strip())
        if found is None:
            return _error(400, "MALFORMED_QUERY", "unexpected token")
        value = re.sub(r"\\(.)", r"\1", found["value"])
        names = [name.strip() for name in found["fields"].split(",")]
        rows = [self._row(key, names) for key in self._matching(found["kind"], found["name"], value)]
        size = self.switches["page_size"]
        answer: dict[str, Any] = {"totalSize": len(rows), "records": rows[start : start + size]}
        answer["done"] = start + size >= len(rows)
        if not answer["done"]:
            version = request.path_params["version"]
            answer["nextRecordsUrl"] = f"/services/data/{version}/query/{text.encode().hex()}-{start + size}"
        return JSONResponse(answer)

    def _matching(self, kind: str, name: str, value: str) -> list[str]:
        if name == "Email":
            return [key for key in self.holding(value) if self.records[key]["kind"] == kind]
        return [key for key, record in self.records.items() if name == "Id" and key == value and record["kind"] == kind]

    def _row(self, key: str, names: list[str]) -> dict[str, Any]:
        record = self.records[key]
        values = {"Id": key, "Email": record["email"], **record}
        kind = record["kind"]
        url = f"/services/data/v60.0/sobjects/{kind}/{key}"
        return {"attributes": {"type": kind, "url": url}, **{name: values.get(name) for name in names}}

    def _known(self, request: Request) -> Response | None:
        key = request.path_params["key"]
        if key in self.bin:
            return _error(self.switches["deleted_status"], "ENTITY_IS_DELETED", "entity is deleted")
        return None if key in self.records else _error(404, "NOT_FOUND", "The requested resource does not exist")

    async def _read(self, request: Request) -> Response:
        return self._known(request) or JSONResponse(self._row(request.path_params["key"], ["Id", *_FIELDS]))

    async def _update(self, request: Request) -> Response:
        wrong = self._known(request)
        if wrong is None:
            changes = await request.json()
            held = (set(_FIELDS) - {"HasOptedOutOfEmail", "DoNotCall"}) | set(self.switches["opt_out_fields"])
            if unknown := set(changes) - held:
                return _error(400, "INVALID_FIELD", f"No such column '{min(unknown)}'")
            moved = {"email": changes["Email"]} if "Email" in changes else {}
            self.records[request.path_params["key"]] |= changes | moved
        return wrong or Response(status_code=204)

    async def _delete(self, request: Request) -> Response:
        wrong = self._known(request)
        if wrong is None and self.switches["relations_block_deletion"]:
            return _error(400, "DELETE_FAILED", "Your attempt to delete could not be completed")
        if wrong is None:
            key = request.path_params["key"]
            self.bin[key] = self.records.pop(key)
        return wrong or Response(status_code=204)

    async def _open_job(self, request: Request) -> Response:
        body = await request.json()
        if body["operation"] != "hardDelete" or body["contentType"] != "CSV":
            return _error(400, "INVALIDJOB", "the stand-in knows hardDelete")
        job = f"750{self.next_id().rjust(12, '0')}"
        self._jobs[job] = {"state": "Open", "rows": [], "object": body["object"]}
        return JSONResponse({"id": job, **body, "state": "Open"})

    async def _upload(self, request: Request) -> Response:
        head, *rows = (await request.body()).decode().splitlines()
        if head != "Id" or request.headers.get("content-type") != "text/csv":
            return _error(400, "CLIENT_INPUT_ERROR", "no Id column")
        self._jobs[request.path_params["job"]]["rows"] = rows
        return Response(status_code=201)

    async def _close_job(self, request: Request) -> Response:
        job = self._jobs[request.path_params["job"]]
        job["state"] = (await request.json())["state"]
        job["ends_at"] = self.clock.now() + timedelta(seconds=self.switches["job_seconds"])
        return JSONResponse({"id": request.path_params["job"], "state": job["state"]})

    async def _job(self, request: Request) -> Response:
        job = self._jobs[request.path_params["job"]]
        if job["state"] == "UploadComplete" and self.clock.now() >= job["ends_at"]:
            failing = self.switches["failing_rows"]
            for key in job["rows"][failing:]:
                self.records.pop(key, None)
            job |= {"state": "JobComplete", "numberRecordsFailed": failing, "numberRecordsProcessed": len(job["rows"])}
        shown = {name: value for name, value in job.items() if name not in {"rows", "ends_at"}}
        return JSONResponse({"id": request.path_params["job"], **shown})


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse([{"message": message, "errorCode": code}], status)


def build(clock: Clock | None = None) -> SalesforceStandIn:
    """Build the stand-in."""
    return SalesforceStandIn(clock)
