"""A store that speaks the S3 API on a real port: checks every signature by itself and remembers objects.

Its check of Signature Version 4 starts from the bytes that came over the socket and shares no code with what signs.
Switches: `knows_conditions` (False: 501 to If-None-Match), `versioning` (what GetBucketVersioning says; None: 403),
`page` (keys on one page of a list).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.sdk.standin import StandIn
from orchestrator.adapters.local_kafka.jars import cache_dir, fetch, find_java
from orchestrator.demo.stage import free_port

KEY_ID, SECRET, BUCKET, REGION = "AKIDSTANDIN", "standin/secret+0", "dsr-results", "eu-test-1"
S3PROXY = Path(__file__).parent / "s3proxy" / "pom.xml"
_HEAD = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request,"
    r"\s*SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})"
)


class S3StandIn(StandIn):
    name = "s3"

    def __init__(self, clock=None):
        super().__init__(clock)
        self.switches = {"knows_conditions": True, "versioning": "", "page": 2}
        self.objects: dict[str, bytes] = {}
        self.puts: list[tuple[str, int]] = []

    def routes(self):
        return [
            Route("/{bucket}", self._bucket, methods=["GET"]),
            Route("/{bucket}/{key:path}", self._object, methods=["GET", "PUT", "DELETE"]),
        ]

    async def _refused(self, request: Request) -> Response | None:
        body = await request.body()
        wrong = self._wrong(request, body)
        if wrong:
            return _error(403, wrong)
        if request.path_params["bucket"] != BUCKET:
            return _error(404, "NoSuchBucket")
        return None

    def _wrong(self, request: Request, body: bytes) -> str | None:
        headers = {name.decode().lower(): value.decode() for name, value in request.scope["headers"]}
        given = _HEAD.fullmatch(headers.get("authorization", ""))
        if given is None:
            return "MissingSecurityHeader"
        key_id, day, region, names, signature = given.groups()
        if key_id != KEY_ID:
            return "InvalidAccessKeyId"
        if region != REGION or not {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names.split(";")):
            return "AuthorizationHeaderMalformed"
        if {name for name in headers if name.startswith(("x-amz-", "if-"))} - set(names.split(";")):
            return "AccessDenied"
        stamp = headers["x-amz-date"]
        skew = abs((self.clock.now().replace(tzinfo=None) - _moment(stamp)).total_seconds())
        if stamp[:8] != day or skew > 900:
            return "RequestTimeTooSkewed"
        if hashlib.sha256(body).hexdigest() != headers["x-amz-content-sha256"]:
            return "XAmzContentSHA256Mismatch"
        query = sorted(
            part if "=" in part else f"{part}=" for part in request.scope["query_string"].decode().split("&") if part
        )
        lines = [request.method, request.scope["raw_path"].decode(), "&".join(query).replace("+", "%20").replace("/", "%2F")]
        lines += [f"{name}:{headers[name].strip()}" for name in names.split(";")]
        lines += ["", names, headers["x-amz-content-sha256"]]
        hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        key = b"AWS4" + SECRET.encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{day}/{region}/s3/aws4_request\n{hashed}"
        expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        return None if hmac.compare_digest(expected, signature) else "SignatureDoesNotMatch"

    async def _bucket(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        query = dict(request.query_params)
        if "versioning" in query:
            said = self.switches["versioning"]
            if said is None:
                return _error(403, "AccessDenied")
            status = f"<Status>{said}</Status>" if said else ""
            return _xml(
                f'<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{status}</VersioningConfiguration>'
            )
        if query.get("list-type") != "2":
            return _error(400, "InvalidArgument")
        prefix, delimiter, after = query.get("prefix", ""), query.get("delimiter"), query.get("continuation-token", "")
        found: dict[str, bool] = {}
        for key in sorted(self.objects):
            if key.startswith(prefix):
                rest, mark, _ = (
                    key.removeprefix(prefix).partition(delimiter) if delimiter else (key.removeprefix(prefix), "", "")
                )
                found[prefix + rest + mark] = bool(mark)
        names = [name for name in found if name > after]
        page = names[: int(query.get("max-keys", self.switches["page"]))]
        parts = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" if found[name]
            else f"<Contents><Key>{escape(name)}</Key></Contents>" for name in page
        ]  # fmt: skip
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(names) > len(page) else ""
        return _xml(
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{"".join(parts)}{more}</ListBucketResult>'
        )

    async def _object(self, request: Request) -> Response:
        refused = await self._refused(request)
        if refused is not None:
            return refused
        key = unquote(request.path_params["key"])
        match request.method:
            case "GET":
                return Response(self.objects[key]) if key in self.objects else _error(404, "NoSuchKey")
            case "DELETE":
                self.objects.pop(key, None)
                return Response(status_code=204)
        status = self._put(key, await request.body(), request.headers.get("if-none-match"))
        self.puts.append((key, status))
        return Response() if status == 200 else _error(status, "PreconditionFailed")

    def _put(self, key: str, body: bytes, condition: str | None) -> int:
        if condition is not None and not self.switches["knows_conditions"]:
            return 501
        if condition == "*" and key in self.objects:
            return 412
        self.objects[key] = body
        return 200


def _moment(stamp: str):
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ")  # noqa: DTZ007 - compared to another one in UTC


def _xml(text: str, status: int = 200) -> Response:
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}', status, media_type="application/xml")


def _error(status: int, code: str) -> Response:
    return _xml(f"<Error><Code>{code}</Code></Error>", status)


@contextlib.contextmanager
def s3proxy(folder: Path) -> Iterator[str]:
    """Run S3Proxy over a folder and give its address: the S3 API and its check of signatures as somebody else reads them."""
    java, port = find_java(), free_port()
    assert java is not None, "S3Proxy needs Java"
    (folder / "data" / BUCKET).mkdir(parents=True)
    settings = {
        "s3proxy.endpoint": f"http://127.0.0.1:{port}",
        "s3proxy.authorization": "aws-v4",
        "s3proxy.identity": KEY_ID,
        "s3proxy.credential": SECRET,
        "jclouds.provider": "filesystem-nio2",
        "jclouds.identity": "none",
        "jclouds.credential": "none",
        "jclouds.filesystem.basedir": str(folder / "data"),
    }
    (folder / "s3proxy.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = [java, "-Xmx256m", "-cp", f"{_s3proxy_jars(java)}/*", "org.gaul.s3proxy.Main", "--properties", "s3proxy.conf"]
    with (folder / "s3proxy.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        ends_at = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < ends_at, (folder / "s3proxy.log").read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _s3proxy_jars(java: str) -> Path:
    """Fetch the jars once, as the broker's are."""
    jars, maven = cache_dir().with_name("s3proxy"), shutil.which("mvn")
    assert maven is not None, "S3Proxy's jars come by Maven"
    fetch(jars, S3PROXY, "S3Proxy", java=java, maven=maven, on_progress=print)
    return jars
