"""Exported data for the person, in a bucket of S3 or of a store that speaks its language.

Layout: `<prefix>/<system>/<expiry date>/<order id>/<attempt>-<n>.<sha256>.sealed`; `schemas.blobs` says what stands in an
object. A name holds the digest of its object: put on condition that nobody has it yet, an object is never written over,
and 412 says that these very bytes are there. A try that is repeated after a crash leaves its earlier objects to their expiry.

Objects are addressed by path (`<endpoint>/<bucket>/<key>`), the one way that all stores understand. The bucket must not keep
versions: a deletion would only hide.

Room rules: the kit's rules of HTTP (`connectors.sdk.http`), three tries; the store is no system: its errors blame none.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import date, datetime, timedelta
from xml.etree import ElementTree as ET

import httpx
import structlog

from connectors.sdk.blobs import sealed_pieces
from connectors.sdk.clock import Clock
from connectors.sdk.http import Answer, Policy, send
from connectors.sdk.protocol import Exported
from connectors.sdk.retry import Backoff
from schemas.errors import ConfigurationError, SystemRejected, SystemUnavailable, Throttled
from schemas.ids import digest
from schemas.orders import FulfilmentOrder
from schemas.reports import ResultReference

__all__ = ["Bucket", "S3Blobs"]

_log = structlog.get_logger("dsr.connector")
_REFERENCE = re.compile(r"\d{4}-\d{2}-\d{2}/[A-Za-z0-9_-]{1,80}/\d{1,6}-\d{1,6}\.[0-9a-f]{64}\.sealed")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_POLICY = Policy(max_body_bytes=512 * 1024 * 1024, total_seconds=600.0)
_TRIES = 3
_AGAIN = Backoff(0.2, 2.0)
#: Two conditional puts at the same time (S3 API, PutObject): try again.
_CONFLICT = 409


class Bucket:
    """The few calls of the S3 API that are needed here."""

    def __init__(self, client: httpx.AsyncClient, name: str, clock: Clock, *, conditional: bool = True) -> None:
        """`client` signs (`sigv4`). `conditional` is off for stores that do not know `If-None-Match` and answer 501."""
        self._client = client
        self._name = name
        self._clock = clock
        self._condition = {"if-none-match": "*"} if conditional else {}

    async def put(self, key: str, content: bytes) -> None:
        """Store an object, durably; harmless if it is there. Raises a `ConnectorError`."""
        answer = await self._send(
            "PUT", f"/{key}", "results_put", {200, 412, _CONFLICT}, content=content, headers=self._condition
        )
        if answer.status == _CONFLICT:
            raise SystemUnavailable("results_put: answered 409")

    async def get(self, key: str) -> bytes | None:
        """Return an object, None if there is none. Raises `SystemRejected` if there is no bucket."""
        answer = await self._send("GET", f"/{key}", "results_get", {200, 404})
        if answer.status == 404 and b"NoSuchBucket" in answer.content:
            raise SystemRejected("results_get: the store has no such bucket: see DSR_BLOBS_BUCKET")
        return answer.content if answer.status == 200 else None

    async def delete(self, key: str) -> None:
        """Delete an object, whether it is there or not."""
        await self._send("DELETE", f"/{key}", "results_delete", {200, 204, 404})

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin so."""
        async for page in self._pages({"prefix": prefix}):
            for found in page.findall("{*}Contents/{*}Key"):
                yield found.text or ""

    async def folders(self, prefix: str) -> list[str]:
        """Return the names between a prefix and the next slash."""
        found: list[str] = []
        async for page in self._pages({"prefix": prefix, "delimiter": "/"}):
            found += [
                (entry.text or "").removeprefix(prefix).rstrip("/") for entry in page.findall("{*}CommonPrefixes/{*}Prefix")
            ]
        return found

    async def check(self) -> None:
        """Refuse a bucket that we may not list, is not there, or keeps versions."""
        await self._send("GET", "", "results_list", {200}, params={"list-type": "2", "max-keys": "1"})
        # Not every store knows the question, and not every key may ask it.
        answer = await self._send("GET", "", "results_versioning", {200, 400, 403, 404, 405, 501}, params={"versioning": ""})
        if answer.status != 200:
            _log.warning(
                "unchecked", reason="results_versioning", remedy="see that the bucket of DSR_BLOBS_BUCKET keeps no versions"
            )
        elif _xml(answer).findtext("{*}Status"):
            raise ConfigurationError("DSR_BLOBS_BUCKET: it keeps versions, so what is deleted stays: take one that never did")

    async def _pages(self, params: Mapping[str, str]) -> AsyncIterator[ET.Element]:
        token: str | None = None
        while True:
            more = {} if token is None else {"continuation-token": token}
            page = _xml(await self._send("GET", "", "results_list", {200}, params={"list-type": "2", **params, **more}))
            yield page
            last, token = token, page.findtext("{*}NextContinuationToken")
            if not token:
                return
            if token == last:
                raise SystemRejected("results_list: the store answers with the same page again and again")

    async def _send(
        self,
        method: str,
        path: str,
        operation: str,
        expect: Collection[int],
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        for number in range(1, _TRIES + 1):
            try:
                return await send(
                    self._client, method, f"/{self._name}{path}", operation=operation, expect=expect, policy=_POLICY,
                    params=params, content=content, headers=headers,
                )  # fmt: skip
            except (SystemUnavailable, Throttled) as error:
                if number == _TRIES:
                    # Not `Throttled`: that would hold back the calls of the system.
                    raise SystemUnavailable(str(error)) from None
                await self._clock.sleep(_AGAIN.seconds(f"{operation}{path}", number))
        raise AssertionError("the last try returns or raises")


class S3Blobs:
    """One system's results in a bucket: a `BlobStore`."""

    def __init__(self, bucket: Bucket, root: str, *, kept_days: int) -> None:
        """`root` is what stands before the date in a key, ending in a slash."""
        self._bucket = bucket
        self._root = root
        self._kept = timedelta(days=kept_days)
        self._expired_before: date | None = None

    async def keep(self, order: FulfilmentOrder, index: int, exported: Exported, now: datetime) -> ResultReference:
        """Seal and put."""
        kid, pieces = sealed_pieces(order, exported)
        stored = b"".join(pieces)
        sha256, expires_at = digest(stored), now + self._kept
        reference = f"{expires_at.date().isoformat()}/{order.order_id}/{order.attempt}-{index}.{sha256}.sealed"
        await self._bucket.put(self._root + reference, stored)
        return ResultReference(reference=reference, sha256=sha256, size=len(stored), expires_at=expires_at, kid=kid)

    async def read(self, reference: str) -> bytes | None:
        """Get the object."""
        if not _REFERENCE.fullmatch(reference):
            raise ConfigurationError("a reference is not of a bucket of results: fetch it from the store that it names")
        return await self._bucket.get(self._root + reference)

    async def expire(self, today: date) -> int:
        """Delete whole days; a day that is done is not asked about again: every list costs money."""
        if self._expired_before == today:
            return 0
        gone = [day for day in await self._days() if day < today.isoformat()]
        for day in gone:
            await self._delete(f"{day}/")
        self._expired_before = today
        return len(gone)

    async def drop(self, order_id: str) -> int:
        """Delete all that is kept for an order."""
        return sum([await self._delete(f"{day}/{order_id}/") for day in await self._days()])

    async def check(self) -> None:
        """Refuse a bucket that does not do what is promised here."""
        await self._bucket.check()

    async def _days(self) -> list[str]:
        return [day for day in await self._bucket.folders(self._root) if _DAY.fullmatch(day)]

    async def _delete(self, beginning: str) -> int:
        gone = [key async for key in self._bucket.keys(self._root + beginning)]
        for key in gone:
            await self._bucket.delete(key)
        return len(gone)


def _xml(answer: Answer) -> ET.Element:
    try:
        # The store is ours, the answer bounded; expat refuses entities that grow.
        return ET.fromstring(answer.content)  # noqa: S314
    except (ET.ParseError, LookupError, ValueError):  # the last two for an encoding that is nobody's, or not expat's
        raise SystemRejected(f"{answer.operation}: the answer ({answer.status}) is not XML") from None
