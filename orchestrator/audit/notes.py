"""What the auditor keeps of a record: no seal, no text, hashes instead of bytes.

Room rules: bytes in, notes out; a record that cannot be read becomes a note as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from hashlib import blake2b, sha256
from typing import Any, TypeAlias

from orchestrator.audit.records import LogRecord, Place
from schemas.base import Message
from schemas.confirmations import Confirmation
from schemas.errors import ProtocolViolation
from schemas.journal import JournalEntry
from schemas.order_keys import KeysReleased
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.reports import FulfilmentReport
from schemas.status import StatusEvent
from schemas.topics import Topics
from schemas.wire import COMMANDS, ORDER_MESSAGES, PORTAL_MESSAGES, decode

__all__ = [
    "CancellationNote",
    "ConfirmationNote",
    "InputNote",
    "JournalNote",
    "Note",
    "NoteTaker",
    "OrderNote",
    "QuarantineNote",
    "ReleaseNote",
    "StatusNote",
    "Unreadable",
    "origin_of",
    "parse_source",
    "print_of",
]


@dataclass(frozen=True, slots=True)
class InputNote:
    """A record of requests, commands or reports. `kind` is empty if it cannot be read; `fields` leave the seals out.

    `digest` is the SHA-256 of a report's value: confirmations name it. `fault` is what is wrong with its signature, if
    signatures are checked and anything is.
    """

    place: Place
    print: int
    written_at: datetime
    kind: str = ""
    ident: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class OrderNote:
    """An order. `content` is the hash of everything that may not differ when it is sent again."""

    place: Place
    print: int
    system: str
    attempt: int
    content: int
    order_id: str
    right: str
    respond_by: datetime
    #: Method, level and moment, as JSON has them; empty if it says nothing of who asks.
    verification: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CancellationNote:
    """The word to a system that an order is over."""

    place: Place
    print: int
    system: str
    attempt: int
    order_id: str
    right: str
    reason: str


@dataclass(frozen=True, slots=True)
class JournalNote:
    """A journal entry with the digest of its bytes."""

    place: Place
    print: int
    digest: str
    entry: JournalEntry


@dataclass(frozen=True, slots=True)
class ConfirmationNote:
    """A confirmation, without its plain text."""

    place: Place
    print: int
    confirmation: Confirmation


@dataclass(frozen=True, slots=True)
class StatusNote:
    """The end of a wait that a portal was told of."""

    place: Place
    print: int
    code: str
    answer_by: datetime | None


@dataclass(frozen=True, slots=True)
class QuarantineNote:
    """Where a record in quarantine came from; None if its headers do not say."""

    place: Place
    print: int
    origin: Place | None


@dataclass(frozen=True, slots=True)
class ReleaseNote:
    """That one order's key was given to a system. One record tells of many orders, so it is a note for each."""

    place: Place
    print: int
    system: str
    order_id: str
    released_at: datetime


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of ours that is not what its topic takes."""

    place: Place
    print: int
    invariant: int
    why: str


Note: TypeAlias = (
    InputNote
    | OrderNote
    | CancellationNote
    | JournalNote
    | ConfirmationNote
    | StatusNote
    | QuarantineNote
    | ReleaseNote
    | Unreadable
)

_OURS = (JournalEntry, Confirmation, FulfilmentOrder, OrderCancelled)
_SOURCE = re.compile(r"^(?P<topic>.+)-(?P<partition>\d+)-(?P<offset>\d+)$")


def parse_source(text: str) -> Place | None:
    """Return the place that `topic-partition-offset` names, or None if it names none."""
    found = _SOURCE.match(text)
    return Place(found["topic"], int(found["partition"]), int(found["offset"])) if found else None


def print_of(record: LogRecord) -> int:
    """Return 64 bits of a hash of topic, key and value: equal for byte-identical records of one topic."""
    hashed = blake2b(record.place.topic.encode(), digest_size=8)
    for part in (record.key, record.value):
        hashed.update(b"\x00" if part is None else b"\x01" + len(part).to_bytes(8, "big") + part)
    return int.from_bytes(hashed.digest(), "big")


def origin_of(headers: Mapping[str, bytes]) -> Place | None:
    """Return where a quarantined record came from, by its headers."""
    try:
        return Place(
            headers["dsr-origin-topic"].decode(),
            int(headers["dsr-origin-partition"]),
            int(headers["dsr-origin-offset"]),
        )
    except (KeyError, ValueError):
        return None


class NoteTaker:
    """Reads the records of one installation."""

    def __init__(self, topics: Topics, fault_of: Callable[[LogRecord, Message], str] = lambda _record, _message: "") -> None:
        """`fault_of` says what is wrong with the signature of somebody's message."""
        self._topics = topics
        self._fault_of = fault_of
        self._orders = (f"{topics.prefix}.orders.", ".v1")
        self.inputs: Mapping[str, tuple[type[Message], ...]] = {
            **dict.fromkeys(topics.all_requests, PORTAL_MESSAGES),
            topics.commands: COMMANDS,
            topics.reports: (FulfilmentReport,),
        }

    def is_orders(self, topic: str) -> bool:
        """Tell whether a topic carries orders."""
        return topic.startswith(self._orders[0]) and topic.endswith(self._orders[1])

    def take(self, record: LogRecord) -> Note | None:
        """Return the note of a record; None for a topic that is not ours."""
        topic, printed = record.place.topic, print_of(record)
        if topic in self.inputs:
            return self._input(record, printed)
        if topic == self._topics.quarantine:
            return QuarantineNote(record.place, printed, origin_of(dict(record.headers)))
        if topic == self._topics.journal:
            return self._ours(record, printed, (JournalEntry,), 6)
        if topic == self._topics.confirmations:
            return self._ours(record, printed, (Confirmation,), 1)
        if topic == self._topics.status:
            return self._ours(record, printed, (StatusEvent,), 0)
        return self._ours(record, printed, ORDER_MESSAGES, 3) if self.is_orders(topic) else None

    def releases(self, record: LogRecord) -> list[tuple[str, ReleaseNote]] | Unreadable:
        """Return the notes of a record of released keys, each with the request it is of: the record's key is the system."""
        place, printed = record.place, print_of(record)
        try:
            message = decode(record.value, record.headers, (KeysReleased,))
        except ProtocolViolation as violation:
            why = f"the record is no KeysReleased ({violation.code} {violation.field})".replace(" )", ")")
            return Unreadable(place, printed, 10, why)
        assert isinstance(message, KeysReleased), "the model above is the only one"
        if record.key != message.system.encode():
            return Unreadable(place, printed, 10, "the record's key is not the system that it says was given the keys")
        return [
            (one.subject_request_id, ReleaseNote(place, printed, message.system, one.order_id, message.released_at))
            for one in message.orders
        ]

    def _input(self, record: LogRecord, printed: int) -> InputNote:
        written_at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        try:
            message = decode(record.value, record.headers, self.inputs[record.place.topic])
        except ProtocolViolation:
            return InputNote(record.place, printed, written_at)
        fields = message.model_dump(exclude={"sealed", "yielded"})
        if record.key != str(fields["subject_request_id"]).encode():
            return InputNote(record.place, printed, written_at)
        ident = str(fields.get("command_id") or fields.get("report_id") or "")
        digest = sha256(record.value or b"").hexdigest() if isinstance(message, FulfilmentReport) else ""
        fault = self._fault_of(record, message)
        return InputNote(record.place, printed, written_at, type(message).__name__, ident, fields, digest, fault)

    def _ours(self, record: LogRecord, printed: int, models: tuple[type[Message], ...], invariant: int) -> Note | None:
        place = record.place
        try:
            message = decode(record.value, record.headers, models)
        except ProtocolViolation as violation:
            why = f"the record is no {models[0].__name__} ({violation.code} {violation.field})".replace(" )", ")")
            return Unreadable(place, printed, invariant, why) if invariant else None
        if isinstance(message, StatusEvent):
            return StatusNote(place, printed, message.code, message.answer_by)
        assert isinstance(message, _OURS), "the models above are all there are"
        if record.key != message.subject_request_id.encode():
            return Unreadable(place, printed, invariant, "the record's key is not the request it speaks of")
        if isinstance(message, JournalEntry):
            return JournalNote(place, printed, sha256(record.value or b"").hexdigest(), message)
        if isinstance(message, Confirmation):
            return ConfirmationNote(place, printed, message.model_copy(update={"text": {}}))
        return self._order(place, printed, message)

    def _order(self, place: Place, printed: int, order: FulfilmentOrder | OrderCancelled) -> Note:
        if place.topic != self._topics.orders(order.system):
            return Unreadable(place, printed, 3, "the order stands on another system's topic")
        if isinstance(order, OrderCancelled):
            return CancellationNote(place, printed, order.system, order.attempt, order.order_id, order.right, order.reason)
        kept = order.model_copy(
            update={
                "attempt": 1,
                "issued_at": order.received_at,
                "respond_by": order.received_at,
                "due_on": _NO_DATE,
                "due_at": None,
            }
            # Invariant 3 speaks of it; an orchestrator that was brought up to date in between says it from then on.
            | {"verification": None}
        )
        content = int.from_bytes(blake2b(kept.model_dump_json().encode(), digest_size=8).digest(), "big")
        verification = order.verification.model_dump(mode="json") if order.verification else {}
        return OrderNote(
            place, printed, order.system, order.attempt, content, order.order_id, order.right, order.respond_by, verification
        )


#: Stands in for what may differ when an order is sent again.
_NO_DATE = date.min
