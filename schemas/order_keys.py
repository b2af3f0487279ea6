"""How a connector gets the key to one order's identity: what is asked and answered over HTTP, and what is written down of it.

Every request has a random key of its own, which the orchestrator destroys when it closes the request. From it follows a root
for each order, and from the root one key for each purpose. A connector is given the root of its own order and nothing above it.

    POST /v1/order-keys
    Authorization: Bearer <client assertion: a JWS of typ `dsr-order-keys+jwt` by the system's own key (RFC 7523)>
    {"system": "crm", "orders": [{"subject_request_id": "...", "order_id": "..."}]}

The answer has one entry for each order asked for, in order, with a status of its own:

| status | it means | what the connector does |
| --- | --- | --- |
| 200 | `key` is the order's root, base64url | works |
| 403 | the order belongs to another system | sets the record aside |
| 404 | no such request, or its order to this system has not been sent yet | sets the record aside |
| 410 | nothing is open here for this system: its order is settled, or the request is over | drops the order |
| 503 | what is stored of its request does not open until somebody mends it | keeps the order, and asks again later |

The HTTP status is the entries' if they agree, 207 if they do not. A call that is refused as a whole (400, 401, 403, 408, 413,
429, 503) has an `OrderKeysError` instead.

Room rules: shapes and derivations; who is told what is decided in `orchestrator.shell.key_desk`.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import Instant, Message, Record
from schemas.errors import ProtocolViolation
from schemas.ids import SubjectRequestId, SystemId
from schemas.sealed import SealingKey
from schemas.trust import SigningKey, Trust, TrustedKey, payload_of
from schemas.vocabulary import QuarantineReason

__all__ = [
    "ASSERTION_TYP",
    "MOST_ORDERS",
    "PATH",
    "KeyAnswer",
    "KeyAnswers",
    "KeyStatus",
    "KeysReleased",
    "OrderKeysError",
    "Purpose",
    "WantedKey",
    "WantedKeys",
    "assertion",
    "audience_of",
    "checked_assertion",
    "order_root",
    "root_from_text",
    "root_to_text",
]

PATH = "/v1/order-keys"
#: Orders asked for in one call.
MOST_ORDERS = 500
ASSERTION_TYP = "dsr-order-keys+jwt"
#: How long an assertion is good for; clocks may differ by as much.
_ASSERTION_LIFE = timedelta(seconds=60)
_LEEWAY = timedelta(seconds=60)
_ROOT_BYTES = 32

KeyStatus = Literal[200, 403, 404, 410, 503]
_OrderId = Annotated[str, StringConstraints(pattern=r"^ord_[0-9a-f]{32}$")]


class Purpose(StrEnum):
    """What a key under an order's root is for."""

    #: Opens the order's identity, which the orchestrator sealed.
    ORDER = "order"
    #: Seals the identifiers that a report yields: the orchestrator opens it.
    REPORT = "report"
    #: Seals the vendor's job id and remembered finds in the connector's own journal.
    JOURNAL = "journal"


class WantedKey(Record):
    """Which order."""

    subject_request_id: SubjectRequestId
    order_id: _OrderId


class WantedKeys(Record):
    """What a connector asks. No orders is a question too: whether it is let in."""

    system: SystemId
    orders: Annotated[tuple[WantedKey, ...], Field(max_length=MOST_ORDERS)]


class KeyAnswer(Record):
    """What becomes of one order that was asked for."""

    order_id: _OrderId
    status: KeyStatus
    key: Annotated[str | None, Field(repr=False, description="The order's root, base64url; with status 200 only")] = None
    error: str | None = None
    remedy: str | None = None


class KeyAnswers(Record):
    """The whole answer."""

    keys: tuple[KeyAnswer, ...]


class OrderKeysError(Record):
    """Why a call was refused as a whole: a code and what to do; nothing of what was sent."""

    error: str
    remedy: str


class KeysReleased(Message):
    """Written down, and acknowledged by the broker, before the keys leave: which system opened whose order when.

    It says that the keys were about to be given out. It does not imply that the connector received them.
    """

    type: Literal["KeysReleased"] = "KeysReleased"
    system: SystemId
    kid: Annotated[str, Field(max_length=120, description="The key whose owner asked; empty where signatures are off")]
    released_at: Instant
    worker: Annotated[str, Field(max_length=80)]
    orders: Annotated[tuple[WantedKey, ...], Field(min_length=1, max_length=MOST_ORDERS)]


def order_root(request_key: SealingKey, subject_request_id: str, system: str, order_id: str) -> SealingKey:
    """Return the root of one order: all that its system is given. A key of one purpose is `root.derive(purpose)`."""
    return request_key.derive("order-root", subject_request_id, system, order_id)


def root_to_text(root: SealingKey) -> str:
    """Return a root as it travels. The caller holds a key from here on."""
    return base64.urlsafe_b64encode(root.unsafe_bytes()).decode()


def root_from_text(text: str) -> SealingKey:
    """Return the root in an answer. Raises `ValueError`, quoting nothing."""
    secret = base64.urlsafe_b64decode(text)
    if len(secret) != _ROOT_BYTES:
        raise ValueError("a root has 32 bytes")
    return SealingKey("order", secret)


def audience_of(prefix: str) -> str:
    """Return whom an assertion is meant for: the installation whose topics begin so."""
    return f"urn:dsr:{prefix}:order-keys"


def assertion(key: SigningKey, audience: str, at: datetime) -> tuple[str, datetime]:
    """Return a client assertion (RFC 7523, section 3) and until when it may be used."""
    until = at + _ASSERTION_LIFE
    claims = {
        "iss": key.principal,
        "sub": key.principal,
        "aud": audience,
        "iat": int(at.timestamp()),
        "exp": int(until.timestamp()),
    }
    return key.sign(json.dumps(claims).encode(), typ=ASSERTION_TYP), until


def checked_assertion(
    token: str, trust: Trust, audience: str, at: datetime, *, verified: TrustedKey | None = None
) -> TrustedKey:
    """Return the key whose owner made the assertion, for this audience, and that is valid now.

    `verified` is the key that has signed this very token, if the caller has found that out before. Raises `ProtocolViolation`
    for everything else. Success does not imply that the owner may have what is asked for.
    """
    payload, key = trust.opened(token, typ=ASSERTION_TYP) if verified is None else (payload_of(token), verified)
    try:
        claims = json.loads(payload)
        names = (claims["iss"], claims["sub"])
        issued, expires = (datetime.fromtimestamp(claims[name], UTC) for name in ("iat", "exp"))
        good_from, good_until = issued - _LEEWAY, expires + _LEEWAY
        meant_for = claims["aud"]
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        raise _refused("claims", "give iss, sub, aud, iat and exp, as RFC 7523 says") from None
    if names != (key.principal, key.principal):
        raise _refused("sub", "speak for yourself: iss and sub are the principal of the key that signs")
    if meant_for != audience:
        raise _refused("aud", f"the audience is {audience}")
    if not good_from <= at < good_until or expires - issued > _ASSERTION_LIFE:
        raise _refused(
            "exp", f"an assertion is good for {_ASSERTION_LIFE.seconds} s: make a new one, and synchronise the clock"
        )
    if not key.valid_at(at):
        raise ProtocolViolation(QuarantineReason.SIGNATURE_EXPIRED, field="kid", remedy="sign with a key that is valid now")
    return key


def _refused(field: str, remedy: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.INVALID_FIELD, field=field, remedy=remedy)
