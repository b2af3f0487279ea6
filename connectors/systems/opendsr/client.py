"""OpenDSR 2.0 as typed calls, and a tolerant reader of what processors answer in the wild.

Tolerated: a trailing slash, 200 instead of 201, 400 for an id that is known already, timestamps without a zone or null, null
for absent fields, unknown further fields, the names of version 1. Not tolerated: an answer for another request, a state
nobody defined, a signature that does not fit.

Sources: opengdpr/OpenDSR `specification.md` (2.0), `security_guidelines.md`; processors' public API pages.

Room rules: HTTP shapes only, no decisions; no identity in an error, and no receipt is kept (`encoded_request` holds one).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from cryptography import x509

from connectors.sdk.destinations import Destinations
from connectors.sdk.http import Answer, new_client, segment, send
from connectors.systems.opendsr.signature import NotGenuine, Trust, certificates, verify
from schemas.errors import SystemRejected
from schemas.vocabulary import FailureReason

__all__ = ["Dialect", "Discovery", "OpenDsrClient", "Receipt", "Signatures", "Status"]

State = Literal["pending", "in_progress", "completed", "cancelled"]
_STATES: Mapping[str, State] = {
    "pending": "pending",
    "in_progress": "in_progress",
    "completed": "completed",
    "cancelled": "cancelled",
}
#: Forms of an identity that OpenDSR knows.
FORMATS = frozenset({"raw", "md5", "sha1", "sha256"})
#: An id that no request has: asking after it proves the credentials and touches nobody.
_NOBODYS_ID = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Dialect:
    """Names that differ between versions and processors."""

    version: Literal["1.0", "2.0"] = "2.0"
    trailing_slash: bool = False

    @property
    def requests(self) -> str:
        """Return the path of requests, below the base URL that ends in the version."""
        name = "requests" if self.version == "2.0" else "opengdpr_requests"
        return f"{name}/" if self.trailing_slash else name


@dataclass(frozen=True, slots=True)
class Discovery:
    """What the processor says it supports. `extension` is its part under our domain, None if it does not know us."""

    identities: frozenset[tuple[str, str]]
    request_types: frozenset[str]
    certificate_url: str | None
    extension: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The processor has taken the request. `is_exact`: it names the very bytes we sent; None if it does not say."""

    expected_at: datetime | None
    is_signed: bool
    is_exact: bool | None


@dataclass(frozen=True, slots=True)
class Status:
    """Where a request is at the processor."""

    state: State
    expected_at: datetime | None
    results_count: int | None
    results_url: str | None = field(repr=False)
    extension: Mapping[str, Any] | None = field(repr=False)
    is_signed: bool


@dataclass(frozen=True, slots=True)
class Signatures:
    """How answers are proved. `pinned`: the processor's certificates, instead of those that discovery points at."""

    mode: Literal["required", "when_present", "off"]
    trust: Trust
    certificate_hosts: frozenset[str] = frozenset()
    pinned: tuple[x509.Certificate, ...] = ()


class OpenDsrClient:
    """One processor. Every method raises `schemas.errors.ConnectorError`; sending the same request twice is harmless."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None,
        basic: tuple[str, str] | None,
        dialect: Dialect,
        extension_domain: str,
        signatures: Signatures,
        discovery_seconds: float,
        timeout_seconds: float,
    ) -> None:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        # The base ends in a slash, so that relative paths are appended to its version and do not replace it.
        base = f"{base_url.rstrip('/')}/"
        self._http = new_client(base, headers=headers, auth=basic, timeout_seconds=timeout_seconds)
        # Certificates may lie on another host: it never sees the credentials.
        self._origin = urlsplit(base)
        own = {self._origin.hostname or ""}
        guarded = Destinations(own | signatures.certificate_hosts, private=own)
        self._plain = new_client(base, timeout_seconds=timeout_seconds, transport=guarded)
        self._dialect = dialect
        self._domain = extension_domain
        self._signatures = signatures
        self._discovery_lifetime = timedelta(seconds=discovery_seconds)
        self._discovered: tuple[datetime, Discovery] | None = None
        self._chain: list[x509.Certificate] = []

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._plain.aclose()

    async def discovery(self, now: datetime) -> Discovery:
        """Return what the processor supports, asked anew after its lifetime. Discovery is not signed: TLS vouches for it."""
        if self._discovered is None or now - self._discovered[0] >= self._discovery_lifetime:
            answer = await send(self._http, "GET", "discovery", operation="discovery")
            self._discovered = (now, self._read_discovery(answer.object()))
        return self._discovered[1]

    async def submit(self, request: Mapping[str, Any], now: datetime) -> Receipt | None:
        """Send a request. Returns None if the processor answers 400: it refuses, or knows the id already; ask for its status.

        A 409 is `SystemRejected`: the id is known with another body.
        """
        body = json.dumps(request, sort_keys=True, separators=(",", ":")).encode()
        answer = await send(
            self._http,
            "POST",
            self._dialect.requests,
            operation="submit",
            expect={200, 201, 202, 400, 409},
            content=body,
            headers={"content-type": "application/json"},
        )
        if answer.status == 400:
            return None
        if answer.status == 409:
            raise SystemRejected("submit: the processor has this id with another body: cancel that request there, then retry")
        is_signed = await self._verify(answer, now)
        receipt = answer.object()
        _same_request(receipt, request["subject_request_id"], "submit")
        return Receipt(_instant(receipt.get("expected_completion_time")), is_signed, _is_exact(receipt, body))

    async def status(self, request_id: str, now: datetime) -> Status | None:
        """Return where a request is, None if the processor does not know it (404, or 400 as some answer)."""
        path = f"{self._dialect.requests.rstrip('/')}/{segment(request_id)}"
        answer = await send(self._http, "GET", path, operation="status", expect={200, 400, 404})
        if answer.status != 200:
            return None
        is_signed = await self._verify(answer, now)
        body = answer.object()
        _same_request(body, request_id, "status")
        state = _STATES.get(str(body.get("request_status")))
        if state is None:
            raise SystemRejected("status: the processor answered a state that OpenDSR does not have")
        count, url = body.get("results_count"), body.get("results_url")
        return Status(
            state=state,
            expected_at=_instant(body.get("expected_completion_time")),
            results_count=count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None,
            results_url=url if isinstance(url, str) and url else None,
            extension=_under(body.get("extensions"), self._domain),
            is_signed=is_signed,
        )

    async def cancel(self, request_id: str, now: datetime) -> bool:
        """Ask that a request be cancelled; False if the processor will not (409, or 400 as some answer) or knows none.

        The specification promises it only while the request is `pending`. True is a receipt: the status says what came of it.
        """
        path = f"{self._dialect.requests.rstrip('/')}/{segment(request_id)}"
        answer = await send(self._http, "DELETE", path, operation="cancel", expect={200, 202, 204, 400, 404, 409})
        if answer.status not in {200, 202}:
            return answer.status == 204
        await self._verify(answer, now)
        return True

    async def results(self, url: str, now: datetime) -> Any | None:
        """Return the JSON document behind a results link, None if it lies on another host or is no JSON.

        The link may expire: 404 and 410 are `SystemRejected`, a person must ask the processor for the data.
        """
        if not self._is_own(url):
            return None
        answer = await send(self._http, "GET", url, operation="results")
        await self._verify(answer, now)
        if "json" not in answer.headers.get("content-type", ""):
            return None
        return answer.json()

    async def prove_credentials(self) -> None:
        """Ask after a request that nobody made. Raises `CredentialsRefused` if the processor does not know us."""
        path = f"{self._dialect.requests.rstrip('/')}/{_NOBODYS_ID}"
        await send(self._http, "GET", path, operation="credentials", expect={200, 400, 404})

    async def prove_certificate(self, now: datetime) -> str:
        """Fetch and check the certificate, for `check`; returns how it stands. Raises `SystemRejected` if it does not hold."""
        if self._signatures.mode == "off":
            return "signatures not checked"
        discovery = await self.discovery(now)
        if not self._signatures.pinned and discovery.certificate_url is None and self._signatures.mode == "when_present":
            return "no certificate published"
        try:
            chain = await self._certificate(now)
            for domain in sorted(self._signatures.trust.domains):
                self._signatures.trust.check(domain, chain, now)
        except NotGenuine as error:
            raise _refused("certificate", error) from None
        return "certificate valid"

    def _read_discovery(self, body: Mapping[str, Any]) -> Discovery:
        identities, types = body.get("supported_identities"), body.get("supported_subject_request_types")
        if not isinstance(identities, list) or not isinstance(types, list):
            raise SystemRejected("discovery: supported_identities or supported_subject_request_types is missing")
        pairs = (item for item in identities if isinstance(item, dict) and item.get("identity_format", "raw") in FORMATS)
        url = body.get("processor_certificate")
        return Discovery(
            identities=frozenset((str(pair.get("identity_type")), str(pair.get("identity_format", "raw"))) for pair in pairs),
            request_types=frozenset(str(kind) for kind in types),
            certificate_url=url if isinstance(url, str) and url else None,
            extension=_under(body.get("extensions"), self._domain),
        )

    async def _verify(self, answer: Answer, now: datetime) -> bool:
        """Check an answer's signature over its raw bytes; returns whether it bore one. Raises `SystemRejected`."""
        if self._signatures.mode == "off":
            return False
        headers = answer.headers
        signature = headers.get("x-opendsr-signature") or headers.get("x-opengdpr-signature")
        domain = headers.get("x-opendsr-processor-domain") or headers.get("x-opengdpr-processor-domain") or ""
        if signature is None:
            if self._signatures.mode == "required":
                raise _refused(answer.operation, NotGenuine("the answer bears no signature"))
            return False
        was_known = bool(self._chain)
        try:
            try:
                await self._prove(answer.content, signature, domain, now)
            except NotGenuine:
                if not was_known or self._signatures.pinned:
                    raise
                # The processor may have renewed its certificate: fetch it once more before judging.
                self._chain, self._discovered = [], None
                await self._prove(answer.content, signature, domain, now)
        except NotGenuine as error:
            raise _refused(answer.operation, error) from None
        return True

    async def _prove(self, body: bytes, signature: str, domain: str, now: datetime) -> None:
        chain = await self._certificate(now)
        self._signatures.trust.check(domain, chain, now)
        verify(body, signature, chain[0])

    async def _certificate(self, now: datetime) -> list[x509.Certificate]:
        if self._signatures.pinned:
            return list(self._signatures.pinned)
        if not self._chain:
            url = (await self.discovery(now)).certificate_url
            if url is None:
                raise NotGenuine("discovery names no processor_certificate")
            if not self._is_own(url) and (urlsplit(url).scheme, urlsplit(url).hostname) not in self._allowed_hosts():
                raise NotGenuine("the certificate lies on another host than discovery: allow it by certificate_hosts")
            answer = await send(self._plain, "GET", url, operation="certificate")
            self._chain = certificates(answer.content)
        return self._chain

    def _allowed_hosts(self) -> set[tuple[str, str]]:
        return {("https", host) for host in self._signatures.certificate_hosts}

    def _is_own(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            place = (parts.scheme, parts.hostname, parts.port)
        except ValueError:
            return False
        return place == (self._origin.scheme, self._origin.hostname, self._origin.port)


def _refused(operation: str, error: NotGenuine) -> SystemRejected:
    return SystemRejected(f"{operation}: {error}", reason=FailureReason.VERIFICATION_FAILED)


def _same_request(body: Mapping[str, Any], request_id: str, operation: str) -> None:
    if str(body.get("subject_request_id", "")).lower() != request_id:
        raise SystemRejected(f"{operation}: the processor answered for another request")


def _under(extensions: Any, domain: str) -> Mapping[str, Any] | None:
    ours = extensions.get(domain) if isinstance(extensions, dict) else None
    return ours if isinstance(ours, dict) else None


def _instant(value: Any) -> datetime | None:
    """Return an RFC 3339 instant; one without a zone is taken as UTC, anything else as not told."""
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def _is_exact(receipt: Mapping[str, Any], body: bytes) -> bool | None:
    encoded = receipt.get("encoded_request")
    return encoded == base64.b64encode(body).decode() if isinstance(encoded, str) else None
