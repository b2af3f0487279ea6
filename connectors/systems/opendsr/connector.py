"""A processor or subsidiary that speaks OpenDSR: each order becomes one request there, followed until it is completed.

OpenDSR knows access, portability and erasure. The other rights travel in our extension (see README) and are only sent to a
server whose discovery says that it knows them: an unaware one must not take a rectification for something else.

Room rules: decisions only, HTTP lives in `client`; every method may be repeated at any point.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import certifi
import structlog
from cryptography import x509
from pydantic import Field, SecretStr, TypeAdapter, ValidationError
from pydantic_settings import SettingsConfigDict

from connectors.sdk.clock import Clock, SystemClock
from connectors.sdk.passing_on import PassesOn
from connectors.sdk.protocol import Ended, Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.opendsr.client import Dialect, Discovery, OpenDsrClient, Receipt, Signatures, Status
from connectors.systems.opendsr.signature import NotGenuine, Trust, certificates
from schemas.errors import ConfigurationError, SystemRejected
from schemas.outcomes import Accepted, Failed, Fulfilled, NotApplicable, NothingHeld, Notified, Retained
from schemas.vocabulary import FailureReason, IdentifierKind, NotApplicableReason, Right

__all__ = ["EXTENSION_VERSION", "OpenDsrConnector", "OpenDsrSettings", "build", "child_request_id"]

_log = structlog.get_logger("dsr.connector")

#: Version of our extension block, in discovery, requests and statuses.
EXTENSION_VERSION = "1"
#: Namespace of the ids of requests to subsidiaries (RFC 9562 section 5.5), itself derived from a name.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:dsr:opendsr:child-request")
_NATIVE = {Right.ACCESS: "access", Right.PORTABILITY: "portability", Right.ERASURE: "erasure"}
_HASHED = {"md5": 32, "sha1": 40, "sha256": 64}
_HEX = re.compile(r"[0-9a-f]+")
_MAX_GENERATIONS = 20
#: Stands for the date of a processor that has not named one.
_WORD_WITHIN = timedelta(days=30)

_Told = Fulfilled | NothingHeld | NotApplicable | Retained | Notified | Failed
_TOLD: TypeAdapter[_Told] = TypeAdapter(Annotated[_Told, Field(discriminator="code")])


class OpenDsrSettings(ConnectorSettings):
    """One processor, from the environment (`DSR_OPENDSR_...`). Two subsidiaries are two processes with two environments."""

    model_config = SettingsConfigDict(env_prefix="DSR_OPENDSR_")

    base_url: Annotated[str, Field(description="With the version, for instance https://opendsr.child.example.org/v2")]
    token: Annotated[SecretStr | None, Field(description="Bearer token; or else username and password")] = None
    username: str | None = None
    password: SecretStr | None = None
    version: Literal["1.0", "2.0"] = "2.0"
    trailing_slash: Annotated[bool, Field(description="Write /requests/ as some processors want it")] = False
    regulation: Literal["gdpr", "ccpa"] = "gdpr"
    identity_format: Annotated[
        Literal["raw", "md5", "sha1", "sha256"], Field(description="Form in which identities are sent")
    ] = "raw"
    customer_id_kind: Annotated[
        Literal["customer_id", "account_id"], Field(description="Which of ours is their controller_customer_id")
    ] = "customer_id"
    id_version: Annotated[
        Literal[4, 5], Field(description="Version digit of request ids: the specification wants 4, their derivation is a 5")
    ] = 4
    extension_domain: Annotated[str, Field(description="Key of our block under `extensions`")] = "dsr.example.org"
    status_callback_urls: Annotated[tuple[str, ...], Field(description="Passed on; this connector itself polls")] = ()
    signatures: Literal["required", "when_present", "off"] = "when_present"
    processor_domains: Annotated[
        tuple[str, ...], Field(description="Domains whose signature counts; none: the base URL's")
    ] = ()
    certificate_hosts: Annotated[tuple[str, ...], Field(description="Further hosts a certificate may lie on, by https")] = ()
    certificate_file: Annotated[Path | None, Field(description="The processor's certificate, instead of discovery's")] = None
    ca_file: Annotated[
        Path | None, Field(description="Roots that processor certificates must end in; none: the usual ones")
    ] = None
    discovery_seconds: Annotated[float, Field(ge=0, description="How long an answer of /discovery is believed")] = 3600.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    concurrent: Annotated[int, Field(ge=1)] = 4
    calls_per_second: Annotated[float | None, Field(gt=0)] = None
    calls_per_day: Annotated[int | None, Field(ge=1)] = None


def child_request_id(job: Job | Ended, *, generation: int = 0, version: int = 4) -> str:
    """Return the id of the request to the child: the same for the same parent request, system (its order) and right.

    A further generation is only used when the child cancelled the one before and a person ordered a retry. The derivation is
    a UUID of version 5; the specification wants a 4 and some servers look, so the version digit says 4 unless told otherwise.
    """
    derived = uuid.uuid5(_NAMESPACE, f"{job.subject_request_id}\x1f{job.order_id}\x1f{job.right.value}\x1f{generation}")
    return str(derived if version == 5 else uuid.UUID(bytes=derived.bytes, version=4))


class OpenDsrConnector(PassesOn):
    """One processor or subsidiary."""

    name: ClassVar[str] = "opendsr"
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(
        {IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID, IdentifierKind.ACCOUNT_ID}
    )
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: OpenDsrSettings, client: OpenDsrClient, clock: Clock | None = None) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock or SystemClock()
        self._types = {IdentifierKind.EMAIL: "email", IdentifierKind(settings.customer_id_kind): "controller_customer_id"}
        self.needs = frozenset(self._types)  # type: ignore[misc] # narrows the class's value for this instance
        self.throttle = Throttle(settings.concurrent, settings.calls_per_second, settings.calls_per_day)

    async def check(self) -> str:
        """Return one line on what the processor offers; raises where credentials, formats or certificate do not do."""
        now = self._clock.now()
        discovery = await self._client.discovery(now)
        formats = {form for kind, form in discovery.identities if kind in self._types.values()}
        if self._settings.identity_format not in formats:
            known = ", ".join(sorted(formats)) or "none we can send"
            raise ConfigurationError(f"DSR_OPENDSR_IDENTITY_FORMAT: the processor takes {known}")
        await self._client.prove_credentials()
        certificate = await self._client.prove_certificate(now)
        offered = ", ".join(sorted(right.value for right in Right if _is_offered(right, discovery)))
        return f"OpenDSR {self._settings.version}: offers {offered or 'nothing'}; {certificate}"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def poll(self, job: Job, handle: str) -> Result:
        """Ask where the request is. `SystemRejected(job_failed)` if the processor lost, cancelled or refused it."""
        status = await self._client.status(handle, job.now)
        if status is None:
            raise SystemRejected("status: the processor no longer knows the request", reason=FailureReason.JOB_FAILED)
        return await self._result(job, handle, status)

    async def pass_on(self, job: Job) -> Result:
        """Send the request there, unless the processor does not offer the right or takes none of the identities."""
        discovery = await self._client.discovery(job.now)
        if not _is_offered(job.right, discovery):
            return Result(NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED), notes=("not_in_discovery",))
        identities = list(self._identities(job, discovery))
        if not identities:
            return Result(NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING), notes=("identity_not_in_discovery",))
        request_id, known = await self._request_id(job)
        if known is not None:
            return await self._result(job, request_id, known)
        receipt = await self._client.submit(self._body(job, request_id, identities, discovery), job.now)
        if receipt is None:
            status = await self._client.status(request_id, job.now)
            if status is None:
                raise SystemRejected("submit: the processor refused the request (400): compare its discovery with ours")
            return await self._result(job, request_id, status)
        _log.info("child_asked", order_id=job.order_id, subject_request_id=request_id)
        accepted = Accepted(expected_by=receipt.expected_at or _end_of(job))
        return Result(accepted, handle=request_id, notes=_receipt_notes(receipt))

    async def cancel(self, ended: Ended) -> Result | None:
        """Cancel the request there, and go on asking until it is cancelled, or completed all the same.

        OpenDSR promises a cancellation only while a request is `pending`; later it goes on, and so do the questions.
        """
        done: Result | None = None
        for generation in range(_MAX_GENERATIONS):
            request_id = child_request_id(ended, generation=generation, version=self._settings.id_version)
            status = await self._client.status(request_id, ended.now)
            if status is None:
                break
            if status.state in {"pending", "in_progress"}:
                was_taken = await self._client.cancel(request_id, ended.now)
                _log.info("child_told_of_withdrawal", order_id=ended.order_id, subject_request_id=request_id, result=was_taken)
                status = await self._client.status(request_id, ended.now) or status
            if status.state in {"pending", "in_progress"} and not isinstance(_told(status.extension), Failed):
                return Result(Accepted(expected_by=status.expected_at or ended.now + _WORD_WITHIN))
            if status.state == "completed":
                done = done or _done_all_the_same(status)
        return done

    async def _request_id(self, job: Job) -> tuple[str, Status | None]:
        """Return the id to use, and the status if the processor has it: a retried order may find its request cancelled."""
        for generation in range(_MAX_GENERATIONS):
            request_id = child_request_id(job, generation=generation, version=self._settings.id_version)
            if job.attempt == 1:
                return request_id, None
            status = await self._client.status(request_id, job.now)
            if status is None or status.state != "cancelled":
                return request_id, status
        raise SystemRejected("submit: the processor cancelled every request of this order", reason=FailureReason.JOB_FAILED)

    def _body(self, job: Job, request_id: str, identities: list[dict[str, str]], discovery: Discovery) -> dict[str, Any]:
        body: dict[str, Any] = {
            "api_version": self._settings.version,
            "regulation": self._settings.regulation,
            "subject_request_id": request_id,
            "subject_request_type": _NATIVE.get(job.right, job.right.value),
            "submitted_time": job.received_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "subject_identities": identities,
        }
        if self._settings.status_callback_urls:
            body["status_callback_urls"] = list(self._settings.status_callback_urls)
        if _knows_us(discovery):
            body["extensions"] = {self._settings.extension_domain: _extension(job)}
        return body

    def _identities(self, job: Job, discovery: Discovery) -> Iterator[dict[str, str]]:
        """Yield the identities the processor takes, in a fixed order: a repeated request has the same bytes."""
        form = self._settings.identity_format
        for kind, name in sorted(self._types.items()):
            formats = {known for known_name, known in discovery.identities if known_name == name}
            if formats and form not in formats and job.every(kind):
                raise SystemRejected(
                    f"discovery: takes {name} as {', '.join(sorted(formats))}: set DSR_OPENDSR_IDENTITY_FORMAT"
                )
            if form in formats:
                values = sorted({_in_format(value, kind, form) for value in job.every(kind)})
                yield from ({"identity_type": name, "identity_value": value, "identity_format": form} for value in values)

    async def _result(self, job: Job, request_id: str, status: Status) -> Result:
        told = _told(status.extension)
        if status.state == "cancelled":
            raise SystemRejected("status: the processor cancelled the request", reason=FailureReason.JOB_FAILED)
        if isinstance(told, Failed):
            raise SystemRejected(f"status: the processor gave up: {told.reason.value}", reason=FailureReason.JOB_FAILED)
        notes: tuple[str, ...] = ("signed",) if status.is_signed else ()
        if status.state != "completed":
            return Result(Accepted(expected_by=status.expected_at or _end_of(job)), handle=request_id, notes=notes)
        exports: tuple[Exported, ...] = ()
        if status.results_url is not None and job.right in {Right.ACCESS, Right.PORTABILITY}:
            exports, more = await self._exports(status.results_url, job.now)
            notes += more
        if told is not None:
            return Result(told, exports=exports, notes=(*notes, "outcome_by_extension"))
        if status.results_count is None:
            return Result(Fulfilled(count=0), exports=exports, notes=(*notes, "count_not_told"))
        if status.results_count == 0:
            return Result(NothingHeld(), notes=notes)
        return Result(Fulfilled(count=status.results_count), exports=exports, notes=notes)

    async def _exports(self, url: str, now: datetime) -> tuple[tuple[Exported, ...], tuple[str, ...]]:
        content = await self._client.results(url, now)
        if isinstance(content, (dict, list)):
            return (Exported("results", content),), ()
        return (Exported("results_link", {"results_url": url}),), ("results_by_link",)


def _done_all_the_same(status: Status) -> Result | None:
    """Return what was done; None if nothing was. Results are left where they lie: nobody waits for them."""
    told = _told(status.extension)
    if isinstance(told, NothingHeld | NotApplicable) or (told is None and status.results_count == 0):
        return None
    if told is not None and not isinstance(told, Failed):
        return Result(told, notes=("outcome_by_extension",))
    if status.results_count is None:
        return Result(Fulfilled(count=0), notes=("count_not_told",))
    return Result(Fulfilled(count=status.results_count))


def _is_offered(right: Right, discovery: Discovery) -> bool:
    if right in _NATIVE:
        return _NATIVE[right] in discovery.request_types
    supported = (discovery.extension or {}).get("supported_rights")
    return _knows_us(discovery) and isinstance(supported, list) and right.value in supported


def _knows_us(discovery: Discovery) -> bool:
    return (discovery.extension or {}).get("version") == EXTENSION_VERSION


def _extension(job: Job) -> dict[str, Any]:
    """Return what the specification has no word for: the proof of who asks, a right beyond its three, what to change."""
    ours: dict[str, Any] = {"version": EXTENSION_VERSION}
    if job.verification is not None:
        ours["verification"] = job.verification.model_dump(mode="json")
    if job.right not in _NATIVE:
        ours["right"] = job.right.value
        if job.changes:
            ours["changes"] = [change.model_dump(exclude_none=True) for change in job.changes]
    return ours


def _in_format(value: str, kind: IdentifierKind, form: str) -> str:
    """Return an identity as it is sent. An address that came as a digest of the wanted length already is one."""
    plain = value.strip()
    if form == "raw":
        return plain
    lowered = plain.lower()
    if kind is IdentifierKind.EMAIL:
        if len(lowered) == _HASHED[form] and _HEX.fullmatch(lowered):
            return lowered
        plain = lowered
    return hashlib.new(form, plain.encode(), usedforsecurity=False).hexdigest()


def _told(extension: Mapping[str, Any] | None) -> _Told | None:
    """Return the outcome in a status' extension, None if it has none: OpenDSR itself knows neither refusal nor retention."""
    outcome = (extension or {}).get("outcome")
    if outcome is None:
        return None
    try:
        return _TOLD.validate_python(outcome)
    except ValidationError:
        raise SystemRejected("status: the outcome in our extension cannot be read") from None


def _receipt_notes(receipt: Receipt) -> tuple[str, ...]:
    notes = ("signed",) if receipt.is_signed else ()
    return (*notes, "receipt_differs") if receipt.is_exact is False else notes


def _end_of(job: Job) -> datetime:
    """Return when to expect an answer from a processor that names no time: by the legal due date."""
    return datetime.combine(job.due_on, time(), tzinfo=UTC)


def _pem(path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return certificates(path.read_bytes())
    except (OSError, NotGenuine):
        raise ConfigurationError(f"DSR_OPENDSR_{setting}: {path.name} is not a readable PEM file") from None


def build(settings: OpenDsrSettings | None = None, clock: Clock | None = None) -> OpenDsrConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    s = settings or read(OpenDsrSettings)
    if s.token is not None and s.username is not None:
        raise ConfigurationError("DSR_OPENDSR_TOKEN and DSR_OPENDSR_USERNAME exclude each other: set one")
    domains = s.processor_domains or (urlsplit(s.base_url).hostname or "",)
    roots = _pem(s.ca_file, "CA_FILE") if s.ca_file else _pem(Path(certifi.where()), "CA_FILE")
    client = OpenDsrClient(
        s.base_url,
        token=None if s.token is None else s.token.get_secret_value(),
        basic=None if s.username is None else (s.username, s.password.get_secret_value() if s.password else ""),
        dialect=Dialect(s.version, s.trailing_slash),
        extension_domain=s.extension_domain,
        signatures=Signatures(
            s.signatures,
            Trust(domains, roots),
            frozenset(s.certificate_hosts),
            tuple(_pem(s.certificate_file, "CERTIFICATE_FILE")) if s.certificate_file else (),
        ),
        discovery_seconds=s.discovery_seconds,
        timeout_seconds=s.timeout_seconds,
    )
    return OpenDsrConnector(s, client, clock)
