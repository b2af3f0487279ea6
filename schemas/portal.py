"""What a portal needs to file a request: seal the person, build the message, and know the record to publish.

Pure on purpose: a portal brings its own Kafka client and its own clock, and makes the request's id itself. Store the request
before you publish it, so that a repetition after a crash is the same request and not a second one. `docs/examples/portal.py` is
a whole portal.

Room rules: values in, values out; what the orchestrator would set aside is refused here with the same code and remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.ids import SubjectRequestId
from schemas.intake import IntakeKeySet, IntakePublicKey, seal_intake
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.signatures import sign_records
from schemas.subject import CHANGING, FieldChange, SubjectData
from schemas.topics import REQUESTS
from schemas.trust import SigningKey, Trust, portal_principal
from schemas.vocabulary import IdentifierKind, Language, QuarantineReason, Right
from schemas.wire import MAX_VALUE_BYTES, Headers, encode, headers_of

__all__ = ["PortalRecord", "build_request", "intake_key", "record_of"]


class PortalRecord(NamedTuple):
    """A Kafka record for a topic of requests, as clients take it."""

    key: bytes
    value: bytes
    headers: Headers


def intake_key(answer: str | bytes, *, trust: Trust | None = None, at: datetime | None = None) -> IntakePublicKey:
    """Return the key to seal to now, from the answer of `/v1/intake-keys` or from a file with the same content.

    With `trust` (whose signatures are believed) and `at` (an aware instant) the answer must be the signed form and is checked:
    whoever stands between portal and orchestrator cannot put a key of his own there. Without, it is as good as the way it came.
    Fetch it again when it is an hour old; a key that you go on with for longer than a week may be destroyed before it is read.

    Raises `ConfigurationError` for what is no key set, `ProtocolViolation` for a signature that is not believed.
    """
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    if trust is not None:
        if at is None:
            raise ConfigurationError("intake keys: say at which instant their signature is to be believed")
        return IntakeKeySet.from_signed(text.strip(), trust, at=at).current
    if not text.lstrip().startswith("{"):
        raise ConfigurationError("intake keys: this is the signed form, or no key set: say whose signatures are believed")
    return IntakeKeySet.from_json(text).current


def build_request(
    right: Right | str,
    identifiers: Mapping[IdentifierKind, Iterable[str]] | Mapping[str, Iterable[str]],
    *,
    portal: str,
    key: IntakePublicKey,
    submitted_at: datetime,
    subject_request_id: SubjectRequestId,
    changes: Mapping[str, str] | Iterable[FieldChange] = (),
    verification: Verification | None = None,
    language: Language | str = Language.EN,
    group_id: str | None = None,
    filed_by: str | None = None,
    secret: bytes | None = None,
) -> SubmitRequest:
    """Return a request whose identifiers are sealed to `key`, the intake key, and bound to its id.

    `identifiers` are values by kind, for instance `{"email": ["someone@example.org"]}`; `submitted_at` is the aware instant at
    which the person asked, where the legal clock starts; `changes` are new values by field, for rectification and completion.
    Without `verification` nothing is sent to any system until the portal publishes `ConfirmIdentity` (GDPR Art. 12(6)).

    Sealed again, the same person is other bytes, and the same id with other bytes is refused: store what is returned before you
    publish it. A portal that cannot store gives a `secret` of 32 bytes instead (`SigningKey.derived`): with the same secret the
    same input gives the same bytes, for as long as the intake key is the same.

    Raises `ProtocolViolation` with field and remedy, never a value. Success does not imply that the orchestrator takes the
    request: it alone knows the registered portals. Publishing the same request again is harmless.
    """
    data = _subject(identifiers, changes)
    if not data.identifiers:
        raise _missing("identifiers", "seal at least one identifier of the person")
    if right in CHANGING and not data.changes:
        raise _missing("changes", "say which fields to change, and to what")
    if right not in CHANGING and data.changes:
        remedy = "leave out the fields to change: every system would be sent them, and this right changes none"
        raise ProtocolViolation(QuarantineReason.INVALID_FIELD, field="sealed.changes", remedy=remedy)
    given: dict[str, object] = {
        "subject_request_id": subject_request_id,
        "portal": portal,
        "right": right,
        "submitted_at": submitted_at,
        "sealed": seal_intake(data.to_bytes(), key, subject_request_id, secret=secret),
        "verification": verification,
        "language": language,
        "group_id": group_id,
        "filed_by": filed_by,
    }
    try:
        request = SubmitRequest.model_validate(given)
    except ValidationError as error:
        raise _invalid(error) from None
    if len(encode(request)) > MAX_VALUE_BYTES:
        raise ProtocolViolation(QuarantineReason.OVERSIZED, remedy=f"keep a request below {MAX_VALUE_BYTES} bytes")
    return request


def record_of(
    message: SubmitRequest | ConfirmIdentity | RefuseIdentity | WithdrawRequest, signer: SigningKey | None = None
) -> PortalRecord:
    """Return the record to publish on `Topics().requests_for(right)`, the right being that of the request it is about, signed.

    Topic and key keep a request's records in order. On the other topic of requests it is taken as well, and its signature is
    good there: only the order is lost.

    `signer` is the portal's own key (`dsr keys new portal:ID`); without it an installation that requires signatures, as all do
    by default, sets the record aside. Raises `ProtocolViolation(signature_foreign)` for a key that is not the portal's.
    """
    key, value, headers = message.subject_request_id.encode(), encode(message), headers_of(message)
    if signer is None:
        return PortalRecord(key, value, headers)
    if signer.principal != portal_principal(message.portal):
        remedy = f"sign with the key of {portal_principal(message.portal)}"
        raise ProtocolViolation(QuarantineReason.SIGNATURE_FOREIGN, field="portal", remedy=remedy)
    (signed,) = sign_records([(REQUESTS, key, value, headers)], signer)
    return PortalRecord(key, value, signed)


def _subject(
    identifiers: Mapping[IdentifierKind, Iterable[str]] | Mapping[str, Iterable[str]],
    changes: Mapping[str, str] | Iterable[FieldChange],
) -> SubjectData:
    if any(isinstance(values, str) for values in identifiers.values()):
        raise ProtocolViolation(
            QuarantineReason.INVALID_FIELD, field="identifiers", remedy="give a list of values for each kind"
        )
    try:
        wanted = (
            tuple(FieldChange(field=field, new=new) for field, new in changes.items())
            if isinstance(changes, Mapping)
            else tuple(changes)
        )
        return SubjectData.model_validate(
            {"identifiers": {kind: tuple(values) for kind, values in identifiers.items()}, "changes": wanted}
        )
    except ValidationError as error:
        raise _invalid(error) from None


_FIELDS = frozenset(SubmitRequest.model_fields) | frozenset(SubjectData.model_fields) | frozenset(FieldChange.model_fields)
_KINDS = frozenset(IdentifierKind)


def _invalid(error: ValidationError) -> ProtocolViolation:
    """Name the field by our own words only: a mistaken caller may have put a value where a name belongs."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"] if part in _FIELDS or part in _KINDS]
    field = ".".join(place) or "identifiers"
    if first["loc"][:1] == ("identifiers",) and len(place) == 1:
        return ProtocolViolation(QuarantineReason.INVALID_FIELD, field=field, remedy=f"kinds are {', '.join(IdentifierKind)}")
    expected = first.get("ctx", {}).get("expected") if first["type"] == "enum" else None
    rule = f"one of {expected}" if expected else _RULES.get(field, "see the published schema of SubmitRequest")
    return ProtocolViolation(QuarantineReason.INVALID_FIELD, field=field, remedy=rule)


_RULES = {
    "subject_request_id": "a lower-case UUID, made new for each request",
    "submitted_at": "an instant with an offset, for instance 2026-03-05T10:00:00+01:00",
    "portal": "the portal's id in the registry: lower-case letters, digits, '-' and '_'",
    "field": "a field's name: lower-case letters, digits and '_', a letter first",
    "filed_by": "an id of a member of staff, no mail address",
    "new": "at most 1000 characters",
}


def _missing(field: str, remedy: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.MISSING_FIELD, field=f"sealed.{field}", remedy=remedy)
