"""What connectors answer.

The first final outcome stands. A repeated report changes nothing, a different one that comes later is noted and shown to a
person, an answer to an order that was never sent is an impossible fact.

Room rules: outcomes are judged here and in `progress`, nowhere else.
"""

from __future__ import annotations

from orchestrator.core.draft import Draft
from orchestrator.core.effects import KeepIdentifiers, Opened
from orchestrator.core.order_lifecycle import OrderEvent, advance
from orchestrator.core.settling import escalate_order, settle
from orchestrator.core.state import OrderState, evolve
from schemas.errors import ProtocolViolation
from schemas.ids import order_id
from schemas.outcomes import Accepted, Failed, NotApplicable, NothingHeld, ReportedOutcome, Waived
from schemas.reports import FulfilmentReport
from schemas.vocabulary import EscalationReason, NotApplicableReason, OrderPhase, QuarantineReason, RequestResult

__all__ = ["report"]


def report(draft: Draft, message: FulfilmentReport, opened: Opened) -> None:
    """Record a report."""
    order, outcome = _answered(draft, message), message.outcome
    if message.report_id in order.reports and not _renews(order, outcome):
        return
    if isinstance(outcome, Failed) and message.attempt < order.attempt:
        return  # overtaken: the system was asked again and has yet to answer that
    seen = order.reports if message.report_id in order.reports else (*order.reports, message.report_id)
    if order.phase is OrderPhase.SETTLED:
        _late(draft, evolve(order, reports=seen), message)
    elif isinstance(outcome, Accepted):
        _accepted(draft, evolve(order, reports=seen), message, outcome)
    elif isinstance(outcome, Failed):
        draft.fact("order_failed", system=order.system, reason=outcome.reason, attempt=message.attempt)
        escalate_order(
            draft,
            order,
            OrderEvent.FAIL,
            EscalationReason.ORDER_FAILED,
            outcome=outcome,
            report_id=message.report_id,
            report_sha256=draft.content or None,
            reports=seen,
            notes=message.notes,
        )
    else:
        _keep_yield(draft, opened)
        settle(draft, order, outcome, report=message.report_id, reports=seen, results=message.results, notes=message.notes)


def _renews(order: OrderState, outcome: ReportedOutcome) -> bool:
    """Tell whether a known progress report names a later date: its id is made without the date."""
    if not isinstance(outcome, Accepted) or not isinstance(order.outcome, Accepted):
        return False
    return order.phase is not OrderPhase.SETTLED and outcome.expected_by > order.outcome.expected_by


#: Why a system itself may have nothing to do; the other reasons are the orchestrator's to give.
_SYSTEMS_REASONS = {NotApplicableReason.RIGHT_NOT_OFFERED, NotApplicableReason.IDENTIFIER_MISSING}


def _answered(draft: Draft, message: FulfilmentReport) -> OrderState:
    """Return the order that the report answers. Raises if there is none, or it was never sent."""
    order = draft.state.order(message.system)
    known = order is not None and message.order_id == order_id(message.subject_request_id, message.system)
    if order is None or not known or order.attempt == 0 or message.attempt > order.attempt:
        raise ProtocolViolation(
            QuarantineReason.UNKNOWN_ORDER,
            field="order_id",
            remedy="report on orders that were sent, with their own order_id, system and attempt",
        )
    if isinstance(message.outcome, NotApplicable) and message.outcome.reason not in _SYSTEMS_REASONS:
        raise ProtocolViolation(
            QuarantineReason.INVALID_FIELD,
            field="outcome.reason",
            remedy=f"only the orchestrator gives that reason; a system's are {', '.join(sorted(_SYSTEMS_REASONS))}",
        )
    return order


def _accepted(draft: Draft, order: OrderState, message: FulfilmentReport, outcome: Accepted) -> None:
    """Progress: patience now ends with the promise, or at the due date if that comes first."""
    assert draft.state.due is not None, "an active request has due dates"
    due_at = draft.state.due.due_at
    ends = outcome.expected_by + draft.context.policy.promise_grace
    draft.put(
        advance(
            order,
            OrderEvent.ACCEPT,
            outcome=outcome,
            report_id=message.report_id,
            report_sha256=draft.content or None,
            expected_by=outcome.expected_by,
            respond_by=min(ends, due_at) if due_at > draft.now else ends,
            resend_at=None,
            escalation=None,
        )
    )
    draft.fact("order_accepted", system=order.system, expected_by=outcome.expected_by, report=message.report_id)


def _keep_yield(draft: Draft, opened: Opened) -> None:
    new = tuple(kind for kind in opened.kinds if kind not in draft.state.kinds)
    if opened.kinds:
        draft.do(KeepIdentifiers())
        draft.set(finds=draft.state.finds + 1)
    if new:
        draft.set(kinds=(*draft.state.kinds, *new))
        draft.fact("identifiers_yielded", kinds=list(new))


def _late(draft: Draft, order: OrderState, message: FulfilmentReport) -> None:
    """Note a report after the end of its order; a person sees it if it says something else than what stands.

    Of a waived one nobody was waiting for an answer, unless the whole request was ended: then something was done, or could not
    be called off, that the person was told is not.
    """
    if isinstance(message.outcome, Accepted):
        return
    if order.outcome is not None and message.outcome.code == order.outcome.code:
        return
    draft.put(order)
    draft.fact("late_report", system=order.system, outcome=message.outcome.code, report=message.report_id)
    if not isinstance(order.outcome, Waived) or _contradicts_the_end(draft, message.outcome):
        draft.escalate(EscalationReason.LATE_REPORT, system=order.system)


def _contradicts_the_end(draft: Draft, outcome: ReportedOutcome) -> bool:
    ended = draft.state.result in {RequestResult.WITHDRAWN, RequestResult.REFUSED}
    return ended and not isinstance(outcome, NothingHeld | NotApplicable)
