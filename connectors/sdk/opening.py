"""From an order's bytes to a job, and from what a job found back to a seal: the only place where the kit handles identities.

Room rules: plaintext lives in local variables and in `Job`; errors name fields, never values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from pydantic import ValidationError

from connectors.sdk.bus import Inbound
from connectors.sdk.keys import OrderKeys, Purpose
from connectors.sdk.protocol import Job
from schemas.errors import ProtocolViolation
from schemas.ids import order_id
from schemas.orders import FulfilmentOrder, OrderCancelled, order_binding, order_terms
from schemas.sealed import Sealed, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, QuarantineReason
from schemas.wire import ORDER_MESSAGES, decode

__all__ = ["as_job", "merged", "open_note", "open_order", "read_order", "seal_note", "seal_subject", "unsafe_open_found"]

Found = Mapping[IdentifierKind, tuple[str, ...]]


def read_order(record: Inbound, system: str) -> FulfilmentOrder | OrderCancelled:
    """Return the order in a record, or the word that one is over.

    Raises `ProtocolViolation` if it is neither, or is not for this system.
    """
    order = decode(record.value, record.headers, ORDER_MESSAGES)
    assert isinstance(order, FulfilmentOrder | OrderCancelled)
    if order.system != system:
        raise ProtocolViolation(QuarantineReason.FOREIGN_SYSTEM, field="system", remedy="publish it on its own system's topic")
    if record.key != order.subject_request_id.encode():
        raise ProtocolViolation(QuarantineReason.KEY_MISMATCH, field="key", remedy="key the record by its subject_request_id")
    if order.order_id != order_id(order.subject_request_id, system):
        raise ProtocolViolation(QuarantineReason.INVALID_FIELD, field="order_id", remedy="derive it from request and system")
    return order


def open_order(order: FulfilmentOrder, keys: OrderKeys) -> SubjectData:
    """Open the seal. The caller holds an identity from here on. Raises `ProtocolViolation(identity_unreadable)`."""
    plaintext = unsafe_reveal(order.sealed, keys.key_for(order), associated=_binding(order) + order_terms(order))
    try:
        return SubjectData.model_validate_json(plaintext)
    except ValidationError:
        raise ProtocolViolation(
            QuarantineReason.IDENTITY_UNREADABLE, field="sealed", remedy="seal a SubjectData document"
        ) from None


def as_job(order: FulfilmentOrder, subject: SubjectData, attempt: int, now: datetime) -> Job:
    """Return what a connector is given."""
    return Job(
        order_id=order.order_id,
        subject_request_id=order.subject_request_id,
        right=order.right,
        attempt=attempt,
        now=now,
        received_at=order.received_at,
        due_on=order.due_on,
        identifiers=subject.identifiers,
        changes=subject.changes,
        verification=order.verification,
    )


def seal_subject(order: FulfilmentOrder, keys: OrderKeys, found: Found, purpose: Purpose) -> Sealed | None:
    """Seal identifiers for the report or the journal; None if there are none. Raises `ValueError` naming no value."""
    if not any(found.values()):
        return None
    subject = SubjectData(identifiers={kind: values for kind, values in found.items() if values})
    return seal(subject.to_bytes(), keys.key_for(order, purpose), associated=_binding(order))


def unsafe_open_found(order: FulfilmentOrder, keys: OrderKeys, sealed: Sealed | None) -> Found:
    """Return identifiers that the journal remembers."""
    if sealed is None:
        return {}
    plaintext = unsafe_reveal(sealed, keys.key_for(order, Purpose.JOURNAL), associated=_binding(order))
    return SubjectData.model_validate_json(plaintext).identifiers


def seal_note(order: FulfilmentOrder, keys: OrderKeys, text: str) -> Sealed:
    """Seal a vendor's job id for the journal: it may be a pseudonym of the person."""
    return seal(text.encode(), keys.key_for(order, Purpose.JOURNAL), associated=f"{_binding(order)}\x1fhandle")


def open_note(order: FulfilmentOrder, keys: OrderKeys, sealed: Sealed) -> str:
    """Return what `seal_note` sealed."""
    key = keys.key_for(order, Purpose.JOURNAL)
    return unsafe_reveal(sealed, key, associated=f"{_binding(order)}\x1fhandle").decode()


def merged(finds: Iterable[Found]) -> dict[IdentifierKind, tuple[str, ...]]:
    """Return all identifiers of several finds, each once."""
    together: dict[IdentifierKind, dict[str, None]] = {}
    for found in finds:
        for kind, values in found.items():
            together.setdefault(kind, {}).update(dict.fromkeys(values))
    return {kind: tuple(values) for kind, values in together.items()}


def _binding(order: FulfilmentOrder) -> str:
    return order_binding(order.subject_request_id, order.system, order.order_id)
