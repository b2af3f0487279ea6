"""Bytes on the bus: one value is one model; the headers name its type and version.

`decode` is total: it returns a message or raises `ProtocolViolation` with a code, the field and the remedy, never the value.

Room rules: bytes in, models out; nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from schemas.base import Message
from schemas.commands import Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.confirmations import Confirmation
from schemas.errors import ProtocolViolation
from schemas.journal import JournalEntry
from schemas.order_keys import KeysReleased
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.reports import FulfilmentReport
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, WithdrawRequest
from schemas.status import StatusEvent
from schemas.vocabulary import QuarantineReason

__all__ = [
    "COMMANDS",
    "MAX_VALUE_BYTES",
    "MESSAGES",
    "ORDER_MESSAGES",
    "PORTAL_MESSAGES",
    "TYPE_HEADER",
    "VERSION_HEADER",
    "Headers",
    "client_id_of_reader",
    "decode",
    "encode",
    "headers_of",
    "reads_our_orders",
]

#: Kafka record headers, as clients hand them over.
Headers = list[tuple[str, bytes]]

TYPE_HEADER = "dsr-type"
VERSION_HEADER = "dsr-version"
#: Larger input is quarantined unread. Orders and reports made from input of this size fit the broker's limit.
MAX_VALUE_BYTES = 128 * 1024

PORTAL_MESSAGES: tuple[type[Message], ...] = (SubmitRequest, ConfirmIdentity, RefuseIdentity, WithdrawRequest)
COMMANDS: tuple[type[Message], ...] = (Deny, Extend, Hold, Resume, Waive, Retry, Add, Approve, Withdraw)
#: What travels on a system's topic of orders.
ORDER_MESSAGES: tuple[type[Message], ...] = (FulfilmentOrder, OrderCancelled)
_FROM_US_AND_CONNECTORS: tuple[type[Message], ...] = (
    *ORDER_MESSAGES,
    FulfilmentReport,
    Confirmation,
    StatusEvent,
    JournalEntry,
    KeysReleased,
)
#: Every message of the product, by its type name.
MESSAGES: Mapping[str, type[Message]] = {
    model.__name__: model for model in (*PORTAL_MESSAGES, *COMMANDS, *_FROM_US_AND_CONNECTORS)
}
_VERSIONS = {1}


def encode(message: Message) -> bytes:
    """Return a message's canonical bytes: fields in declared order, absent ones left out."""
    return message.__pydantic_serializer__.to_json(message, exclude_none=True)


def headers_of(message: Message) -> Headers:
    """Return the headers every record of this message carries."""
    return [*_headers_of(type(message), message.version)]


@cache
def _headers_of(kind: type[Message], version: int) -> Headers:
    return [(TYPE_HEADER, kind.__name__.encode()), (VERSION_HEADER, str(version).encode())]


def client_id_of_reader(release: str) -> str:
    """Return what a connector calls itself at the broker: its release, and eight digits that change with what it can read."""
    return f"{_READER}{release}-orders-{_shape()}"


def reads_our_orders(client_id: str) -> bool | None:
    """Tell whether a member of a connector's group reads exactly what this release sends; None if it does not say.

    No does not imply that it sets orders aside: a newer one reads more than we send.
    """
    return client_id.endswith(f"-orders-{_shape()}") if client_id.startswith(_READER) else None


_READER = "dsr-connector-"


@cache
def _shape() -> str:
    shapes = [model.model_json_schema() for model in ORDER_MESSAGES]
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:8]


def decode(value: bytes | None, headers: Iterable[tuple[str, bytes]], accepted: Iterable[type[Message]]) -> Message:
    """Return the message in `value`, which must be one of `accepted`.

    The type is read from the header, or from the value's `type` field where a client cannot set headers.
    Raises `ProtocolViolation`; nothing in it repeats the input.
    """
    if value is None or value == b"":
        raise ProtocolViolation(QuarantineReason.NOT_JSON, remedy="publish a JSON object, not an empty value")
    if len(value) > MAX_VALUE_BYTES:
        raise ProtocolViolation(QuarantineReason.OVERSIZED, remedy=f"keep a message below {MAX_VALUE_BYTES} bytes")
    allowed = _by_name(tuple(accepted))
    name = next((data for key, data in headers if key == TYPE_HEADER), None)
    kind = name.decode("ascii", "replace") if name is not None else _type_in(value)
    model = allowed.get(kind)
    if model is None:
        raise ProtocolViolation(
            QuarantineReason.UNKNOWN_TYPE if kind not in MESSAGES else QuarantineReason.WRONG_TOPIC,
            field="type",
            remedy=f"this topic takes {', '.join(sorted(allowed))}",
        )
    try:
        message = model.model_validate_json(value)
    except ValidationError as error:
        raise _violation(error, value, model) from None
    if message.version not in _VERSIONS:
        raise ProtocolViolation(QuarantineReason.UNKNOWN_VERSION, field="version", remedy="this release reads version 1")
    return message


@cache
def _by_name(models: tuple[type[Message], ...]) -> Mapping[str, type[Message]]:
    return {model.__name__: model for model in models}


_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def _type_in(value: bytes) -> str:
    try:
        kind = _OBJECT.validate_json(value).get("type")
    except ValidationError:
        raise ProtocolViolation(QuarantineReason.NOT_JSON, remedy="publish one JSON object per record") from None
    return kind if isinstance(kind, str) else ""


#: Kinds of mistake whose text is made from the schema alone; of others it may repeat the input.
_TELLABLE = re.compile(
    r"(enum|literal_error|missing|value_error|union_tag_not_found|less_than.*|greater_than.*|.*_(type|parsing|too_short|too_long)"
    r"|too_short|too_long|string_pattern_mismatch|datetime_.*|date_.*|timezone_.*|int_from_float|finite_number)"
)


def _violation(error: ValidationError, value: bytes, model: type[Message]) -> ProtocolViolation:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind = first["type"]
    if kind == "json_invalid":
        return ProtocolViolation(QuarantineReason.NOT_JSON, remedy="publish one JSON object per record")
    if not _reads_version_of(value):
        return ProtocolViolation(QuarantineReason.UNKNOWN_VERSION, field="version", remedy="this release reads version 1")
    own = _own_words(model)
    field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in own)
    if kind == "missing":
        return ProtocolViolation(QuarantineReason.MISSING_FIELD, field=field, remedy="add this field")
    if kind == "extra_forbidden":
        inside = ".".join(str(part) for part in first["loc"][:-1] if isinstance(part, int) or part in own)
        remedy = "remove the field that the schema does not know"
        return ProtocolViolation(QuarantineReason.INVALID_FIELD, field=inside, remedy=remedy)
    return ProtocolViolation(QuarantineReason.INVALID_FIELD, field=field, remedy=_remedy(error, kind, model))


def _remedy(error: ValidationError, kind: str, model: type[Message]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if kind == "union_tag_invalid":
        return f"{first['ctx']['discriminator']} takes {first['ctx']['expected_tags']}"[:200]
    return first["msg"][:200] if _TELLABLE.fullmatch(kind) else f"see the published schema of {model.__name__}"


def _reads_version_of(value: bytes) -> bool:
    """Tell whether the value claims a version of today's, or none."""
    try:
        version = json.loads(value).get("version", 1)
    except (ValueError, AttributeError, RecursionError):
        return True
    return version is None or (isinstance(version, int | float | str) and str(version) in map(str, _VERSIONS))


@cache
def _own_words(model: type[Message]) -> frozenset[str]:
    """Return the names and tags that the schema itself uses: any other part of a path was made up by the sender."""
    words: set[str] = set()
    todo: list[Any] = [model.model_json_schema()]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            words.update(part.get("properties", ()))
            words.update(part.get("discriminator", {}).get("mapping", ()))
            todo.extend(part.values())
        elif isinstance(part, list):
            todo.extend(part)
    return frozenset(words)
