"""Between records and the core: bytes become inputs, effects become records.

Room rules: opens and seals through the keys port; knows no right and no outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from orchestrator.core.effects import CancelOrder, Input, Opened, Publish, PublishConfirmation, SendOrder
from orchestrator.ports import Keys, OutRecord, Record
from orchestrator.shell.signing import Speakers
from schemas.base import Message
from schemas.blobs import BlobKey
from schemas.confirmations import Confirmation
from schemas.errors import ProtocolViolation
from schemas.ids import digest, is_request_id
from schemas.journal import JournalEntry
from schemas.orders import FulfilmentOrder, OrderCancelled, order_terms
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest
from schemas.sealed import Sealed, SealingKey
from schemas.set_aside import SEALED_HEADER, seal_original
from schemas.signatures import SIGNATURE_HEADER
from schemas.subject import Identifiers, SubjectData, in_form
from schemas.topics import Topics
from schemas.vocabulary import QuarantineReason
from schemas.wire import (
    COMMANDS,
    MAX_VALUE_BYTES,
    MESSAGES,
    PORTAL_MESSAGES,
    TYPE_HEADER,
    VERSION_HEADER,
    Headers,
    decode,
    encode,
    headers_of,
)

__all__ = ["Arrival", "SetAside", "Translator", "merged"]

#: Stands in an order until its terms are known, to which its seal is bound.
_UNSEALED = Sealed.trusted(kid="none", nonce="", ciphertext="")
#: What a quarantined record keeps of its own headers: enough to read it again and to see who signed it.
_KEPT_HEADERS = {TYPE_HEADER, VERSION_HEADER, SIGNATURE_HEADER}


@dataclass(frozen=True, slots=True)
class Arrival:
    """An input with what came with it: the opened identity, which stays in memory.

    What a report yields is opened later, when its request's key is at hand: `Translator.with_yield`.
    """

    subject_request_id: str
    given: Input
    record: Record | None = None
    subject: SubjectData | None = field(default=None, repr=False)


#: What becomes of a genuine signature when its key is ended.
_ENDED = {QuarantineReason.SIGNER_UNKNOWN, QuarantineReason.SIGNATURE_EXPIRED}


@dataclass(frozen=True, slots=True)
class SetAside:
    """A record that is no input: it goes to quarantine."""

    record: Record
    violation: ProtocolViolation
    #: What it says, where nothing but the end of its signer's key is against it: it may have been taken in before that.
    said: Input | None = None

    @property
    def subject_request_id(self) -> str:
        """Return the record's key, if it is a request's id; it is the only hint at whom to tell, and must name nobody."""
        key = self.record.key or b""
        return key.decode("ascii") if is_request_id(key) else ""


class Translator:
    """Reads and writes records for one installation."""

    def __init__(
        self, keys: Keys, topics: Topics, speakers: Speakers | None = None, quarantine_key: BlobKey | None = None
    ) -> None:
        """Without `speakers` whoever can write to a topic is believed: for installations that have signatures off.

        What is set aside is sealed to `quarantine_key`; without, it stands there as it came.
        """
        self._quarantine_key = quarantine_key
        self._speakers = speakers
        self._keys = keys
        self._topics = topics
        self._accepted: Mapping[str, tuple[type[Message], ...]] = {
            **dict.fromkeys(topics.all_requests, PORTAL_MESSAGES),
            topics.commands: COMMANDS,
            topics.reports: (FulfilmentReport,),
        }

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the topics that are read."""
        return tuple(self._accepted)

    def read(self, record: Record) -> Arrival | SetAside:
        """Return the input in a record, or the record with the reason why there is none."""
        try:
            message = decode(record.value, record.headers, self._accepted[record.topic])
            request: str = message.subject_request_id  # type: ignore[attr-defined] # all these topics' messages have it
            _check_key(record, request)
            content = digest(record.value or b"")
            if self._speakers is not None:
                try:
                    self._speakers.check(record, message)
                except ProtocolViolation as violation:
                    said = Input(message, record.source, content) if violation.code in _ENDED else None
                    return SetAside(record, violation, said)
            opened, subject = self._open(message)
        except ProtocolViolation as violation:
            return SetAside(record, violation)
        return Arrival(request, Input(message, record.source, content, opened), record, subject)

    def _open(self, message: Message) -> tuple[Opened, SubjectData | None]:
        if not isinstance(message, SubmitRequest):
            return Opened(), None
        subject = self._keys.open_intake(message.subject_request_id, message.sealed)
        person, identity = self._keys.person(subject.identifiers), self._keys.identity(subject.identifiers)
        return Opened(tuple(sorted(subject.identifiers)), person, self._keys.patch(subject), identity), subject

    def with_yield(self, arrival: Arrival, key: SealingKey) -> Arrival | SetAside:
        """Return a report with the identifiers opened that it yields, by its request's key; anything else as it is."""
        report = arrival.given.message
        if not isinstance(report, FulfilmentReport) or report.yielded is None or arrival.record is None:
            return arrival
        try:
            subject = self._keys.open_yielded(report.subject_request_id, report.system, report.order_id, key, report.yielded)
        except ProtocolViolation as violation:
            return SetAside(arrival.record, violation)
        given = replace(arrival.given, opened=Opened(tuple(sorted(subject.identifiers))))
        return replace(arrival, given=given, subject=subject)

    def quarantined(self, record: Record, violation: ProtocolViolation, at: str) -> OutRecord:
        """Return the record for the quarantine topic: the very bytes, or their seal, and why and where from in the headers."""
        # A header's value may be null on the wire, whatever the client's types say.
        kept = [(name, value or b"") for name, value in record.headers if name in _KEPT_HEADERS]
        headers: Headers = [
            ("dsr-reason", violation.code.encode()),
            ("dsr-field", violation.field.encode()),
            ("dsr-remedy", violation.remedy.encode()),
            ("dsr-origin-topic", record.topic.encode()),
            ("dsr-origin-partition", str(record.partition).encode()),
            ("dsr-origin-offset", str(record.offset).encode()),
            ("dsr-at", at.encode()),
        ]
        to = self._quarantine_key
        if to is None:
            return OutRecord(self._topics.quarantine, record.key or b"", record.value or b"", [*kept, *headers])
        named = [(name, value) for name, value in kept if name == TYPE_HEADER and value.decode("ascii", "replace") in MESSAGES]
        sealed = seal_original(record.key, record.value, record.headers, to)
        key = record.key if is_request_id(record.key) else b""
        return OutRecord(self._topics.quarantine, key, sealed, [*named, *headers, (SEALED_HEADER, to.kid.encode())])

    def order(self, effect: SendOrder, subject: SubjectData, root: SealingKey) -> OutRecord:
        """Return the order's record: no more identifiers than the system needs, in the form it needs them, sealed for it.

        `root` is the order's (`order_root`).
        """
        wanted: dict[str, tuple[str, ...]] = {}
        for need in effect.needs:
            for value in subject.identifiers.get(need.kind, ()):
                wanted[need.kind] = (*wanted.get(need.kind, ()), in_form(value, need.form))
        identifiers: Identifiers = wanted if effect.needs else subject.identifiers  # type: ignore[assignment] # keys are kinds
        data = SubjectData.trusted(identifiers=identifiers, changes=subject.changes)
        order = FulfilmentOrder.trusted(
            order_id=effect.order_id,
            subject_request_id=effect.subject_request_id,
            system=effect.system,
            right=effect.right,
            attempt=effect.attempt,
            issued_at=effect.issued_at,
            received_at=effect.received_at,
            due_on=effect.due_on,
            due_at=effect.due_at,
            respond_by=effect.respond_by,
            sealed=_UNSEALED,
            registry_version=effect.registry_version,
            blob_key=effect.blob_key,
            verification=effect.verification,
        )
        ids = (effect.subject_request_id, effect.system, effect.order_id)
        sealed = self._keys.seal_order(*ids, root, data, terms=order_terms(order))
        order = order.model_copy(update={"sealed": sealed})
        return self._record(self._topics.orders(effect.system), effect.subject_request_id, order)

    def cancellation(self, effect: CancelOrder) -> OutRecord:
        """Return the record that calls an order off, on the topic where the order stands."""
        message = OrderCancelled.trusted(
            order_id=effect.order_id,
            subject_request_id=effect.subject_request_id,
            system=effect.system,
            right=effect.right,
            attempt=effect.attempt,
            reason=effect.reason,
            cancelled_at=effect.cancelled_at,
        )
        return self._record(self._topics.orders(effect.system), effect.subject_request_id, message)

    def published(self, effect: Publish) -> OutRecord:
        """Return the record of a status event or a journal entry."""
        message = effect.message
        request: str = message.subject_request_id  # type: ignore[attr-defined] # both have it
        topic = self._topics.journal if isinstance(message, JournalEntry) else self._topics.status
        return self._record(topic, request, message, effect.value)

    def confirmation(self, effect: PublishConfirmation) -> OutRecord:
        """Return the confirmation's record, from its stored bytes."""
        request = effect.subject_request_id
        headers: Headers = [(TYPE_HEADER, Confirmation.__name__.encode()), (VERSION_HEADER, b"1"), _trace(request)]
        return OutRecord(self._topics.confirmations, request.encode(), effect.value.encode(), headers)

    def _record(self, topic: str, request: str, message: Message, value: bytes | None = None) -> OutRecord:
        headers = [*headers_of(message), _trace(request)]
        return OutRecord(topic, request.encode(), encode(message) if value is None else value, headers)


def _check_key(record: Record, request: str) -> None:
    if record.key != request.encode():
        raise ProtocolViolation(
            QuarantineReason.KEY_MISMATCH, field="key", remedy="publish with the subject_request_id as the record's key"
        )


@lru_cache(maxsize=8192)
def _trace(request: str) -> tuple[str, bytes]:
    """Return a W3C `traceparent` that follows from the request's id: one request is one trace, replayed or not."""
    trace = request.replace("-", "")
    return ("traceparent", f"00-{trace}-{digest(trace.encode())[:16]}-01".encode())


def merged(known: SubjectData, new: SubjectData) -> SubjectData:
    """Return what is known of the person with what a system has found added."""
    kinds = {*known.identifiers, *new.identifiers}
    identifiers = {
        kind: tuple(sorted({*known.identifiers.get(kind, ()), *new.identifiers.get(kind, ())})) for kind in sorted(kinds)
    }
    return SubjectData(identifiers=identifiers, changes=known.changes)


assert MAX_VALUE_BYTES * 2 < 1024 * 1024, "an order made from the largest request must fit a record"
