"""Take a batch of records into the journal: decode, set aside what is no order, and meet repetitions.

The rules for an order that is known already:

| it comes with | and the order is | then |
| --- | --- | --- |
| the same or a lower attempt | anything | nothing: it was redelivered or overtaken |
| a higher attempt | under way | it goes on, and reports under the new number; a progress report is published again |
| a higher attempt | reported, not failed | the stored report is published again under the new number |
| a higher attempt | reported as failed | the work is done again |

Room rules: no HTTP, no waiting; everything of one batch is one journal transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from connectors.sdk.bus import Inbound, Outbound
from connectors.sdk.journal import Entry, OrderState, Page
from connectors.sdk.keys import CLOSED, UNREADABLE, OrderKeys
from connectors.sdk.opening import open_order, read_order
from schemas.blobs import BlobKey
from schemas.errors import ProtocolViolation
from schemas.ids import is_request_id, report_id
from schemas.keys_ahead import AheadMark, mark_in
from schemas.order_keys import KeyStatus
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.outcomes import Failed, ReportedOutcome
from schemas.reports import FulfilmentReport
from schemas.set_aside import SEALED_HEADER, seal_original
from schemas.vocabulary import FailureReason, OutcomeCode, QuarantineReason

__all__ = ["Batch", "marks_of", "opened", "parsed", "quarantined", "report_of", "take"]

#: Failures of the road, not of the job: the vendor's job may still run.
_ROAD = frozenset({FailureReason.UNAVAILABLE, FailureReason.THROTTLED})


@dataclass(slots=True)
class Batch:
    """A batch, told apart. `unreadable` are orders in every other respect: their failure is reported as well."""

    orders: list[FulfilmentOrder] = field(default_factory=list)
    unreadable: list[FulfilmentOrder] = field(default_factory=list)
    quarantined: list[tuple[Inbound, ProtocolViolation]] = field(default_factory=list)
    #: Orders that are over by now: nobody waits for a report on them.
    closed: list[FulfilmentOrder] = field(default_factory=list)
    #: Records behind the last good one.
    bad_at_end: int = 0
    #: Orders that the orchestrator calls off, and of which its key desk says the same.
    cancelled: list[OrderCancelled] = field(default_factory=list)


#: A record, and what it says or why it says nothing.
Parsed = tuple[Inbound, "FulfilmentOrder | OrderCancelled | ProtocolViolation"]


def parsed(records: Sequence[Inbound], system: str) -> list[Parsed]:
    """Decode every record; none can stop the others."""
    return [(record, _parsed(record, system)) for record in records]


def _parsed(record: Inbound, system: str) -> FulfilmentOrder | OrderCancelled | ProtocolViolation:
    try:
        return read_order(record, system)
    except ProtocolViolation as violation:
        return violation


def marks_of(read: Sequence[Parsed]) -> dict[str, AheadMark]:
    """Return the marks of the orders whose keys a worker gives ahead, by order id."""
    marks = {order.order_id: mark_in(record.headers) for record, order in read if isinstance(order, FulfilmentOrder)}
    return {name: mark for name, mark in marks.items() if mark is not None}


def opened(
    read: Sequence[Parsed], keys: OrderKeys, refused: Mapping[str, KeyStatus], over: Mapping[str, KeyStatus] | None = None
) -> Batch:
    """Tell the records apart. `refused` says, by order id, which orders there is no key for, and why.

    `over` is what the key desk says of orders that are called off: nobody else vouches for a word without a seal.
    """
    batch = Batch()
    for record, order in read:
        violation = order if isinstance(order, ProtocolViolation) else None
        if isinstance(order, OrderCancelled):
            if (over or {}).get(order.order_id) == CLOSED:
                batch.cancelled.append(order)
            else:
                violation = _NOT_OVER
        elif not isinstance(order, ProtocolViolation):
            if refused.get(order.order_id) == CLOSED:
                batch.closed.append(order)
                batch.bad_at_end = 0
                continue
            # One whose key cannot be had now is taken in sealed as it is, so that those behind it need not wait.
            violation = None if refused.get(order.order_id) == UNREADABLE else _unopened(order, keys)
            (batch.orders if violation is None else batch.unreadable).append(order)
        if violation is None:
            batch.bad_at_end = 0
        else:
            batch.quarantined.append((record, violation))
            batch.bad_at_end += 1
    return batch


_NOT_OVER = ProtocolViolation(
    QuarantineReason.ILLEGAL_MOVE,
    field="order_id",
    remedy="call off what is over: the key desk says that this order is open, or does not know it",
)


def _unopened(order: FulfilmentOrder, keys: OrderKeys) -> ProtocolViolation | None:
    try:
        open_order(order, keys)
    except ProtocolViolation as violation:
        return violation
    return None


def quarantined(
    topic: str, record: Inbound, violation: ProtocolViolation, now: datetime, sealed_to: BlobKey | None = None
) -> Outbound:
    """Return the quarantine record: the original bytes, or their seal, and in the headers why, where from and when."""
    origin = {
        "dsr-reason": violation.code,
        "dsr-field": violation.field,
        "dsr-remedy": violation.remedy,
        "dsr-origin-topic": record.topic,
        "dsr-origin-partition": str(record.partition),
        "dsr-origin-offset": str(record.offset),
        "dsr-at": now.isoformat(),
    }
    headers = [(name, str(value).encode()) for name, value in origin.items()]
    if sealed_to is None:
        return Outbound(topic, record.key or b"", record.value or b"", headers)
    headers.append((SEALED_HEADER, sealed_to.kid.encode()))
    sealed = seal_original(record.key, record.value, record.headers, sealed_to)
    return Outbound(topic, record.key if is_request_id(record.key) else b"", sealed, headers)


def take(page: Page, batch: Batch, now: datetime) -> list[FulfilmentOrder]:
    """Write the batch into the journal; return the orders that are new. Never raises for a repetition."""
    new = [order for order in batch.orders if _take_one(page, order, now, readable=True)]
    for order in batch.unreadable:
        if _take_one(page, order, now, readable=False):
            failed = Failed(reason=FailureReason.IDENTITY_UNREADABLE)
            page.set(order.order_id, state=OrderState.REPORTED)
            page.add_report(report_of(order, order.attempt, failed, now), order.right, final=True)
    return new


def _take_one(page: Page, order: FulfilmentOrder, now: datetime, *, readable: bool) -> bool:
    """Tell whether there is work to do that was not known before."""
    known = page.find(order.order_id)
    if known is None:
        page.insert(order, now)
        return True
    if order.attempt <= known.attempt:
        return False
    if known.state is OrderState.REPORTED:
        return _asked_again(page, known, order, now)
    if readable:
        page.set(order.order_id, order=order)
    else:  # what is under way opened; it goes on with that
        page.set(order.order_id, attempt=order.attempt)
    progress = page.last_report(order.order_id, final=False)
    if progress is not None:
        page.add_report(_renumbered(progress.report, order.attempt), progress.right, final=False)
    return False


def _asked_again(page: Page, known: Entry, order: FulfilmentOrder, now: datetime) -> bool:
    last = page.last_report(order.order_id, final=True)
    assert last is not None, "a reported order has a final report"
    outcome = last.report.outcome
    if outcome.code is not OutcomeCode.FAILED:
        page.set(order.order_id, attempt=order.attempt)
        page.add_report(_renumbered(last.report, order.attempt), last.right, final=True)
        return False
    # Only a failure of the road leaves the vendor's job worth asking after.
    handle = known.handle if isinstance(outcome, Failed) and outcome.reason in _ROAD else None
    state = OrderState.WAITING if handle is None else OrderState.POLLING
    page.set(order.order_id, order=order, state=state, not_before=now, tries=0, polls=0, handle=handle)
    return True


def report_of(
    order: FulfilmentOrder | OrderCancelled, attempt: int, outcome: ReportedOutcome, now: datetime
) -> FulfilmentReport:
    """Return the bare report of an outcome; its id is the same for the same order, attempt and outcome code."""
    return FulfilmentReport(
        report_id=report_id(order.order_id, attempt, outcome.code),
        order_id=order.order_id,
        subject_request_id=order.subject_request_id,
        system=order.system,
        attempt=attempt,
        reported_at=now,
        outcome=outcome,
    )


def _renumbered(report: FulfilmentReport, attempt: int) -> FulfilmentReport:
    new_id = report_id(report.order_id, attempt, report.outcome.code)
    return report.model_copy(update={"attempt": attempt, "report_id": new_id})
