"""How an order gets its final outcome, how it leaves, and how it is called off: what several rules do.

Room rules: no choice is made here; whoever calls has made it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.core.draft import Draft
from orchestrator.core.effects import CancelOrder, SendOrder
from orchestrator.core.order_lifecycle import OrderEvent, advance
from orchestrator.core.state import OrderState
from schemas.blobs import EXPORTING
from schemas.ids import order_id
from schemas.outcomes import FinalOutcome
from schemas.vocabulary import CancellationReason, EscalationReason

__all__ = ["call_off", "escalate_order", "send", "settle"]


def settle(draft: Draft, order: OrderState, outcome: FinalOutcome, *, report: str | None = None, **changes: object) -> None:
    """Record a final outcome, with what else the order learns at this moment."""
    settled = advance(
        order,
        OrderEvent.SETTLE,
        outcome=outcome,
        settled_at=draft.now,
        report_id=report or order.report_id,
        report_sha256=(draft.content or None) if report else order.report_sha256,
        respond_by=None,
        resend_at=None,
        expected_by=None,
        escalation=None,
        gated_by=(),
        **changes,
    )
    draft.put(settled)
    took = (draft.now - order.first_sent_at).total_seconds() if order.first_sent_at else None
    draft.fact("order_settled", system=order.system, outcome=outcome.code, seconds=took, report=report)


def send(draft: Draft, order: OrderState, event: OrderEvent) -> None:
    """Send an order, for the first time or again: same id, next attempt, with stored ends of its waits."""
    state, now, policy = draft.state, draft.now, draft.context.policy
    due = state.due
    assert due is not None and state.verification is not None, "an active request has due dates and somebody verified"
    system = draft.system(order)
    attempt = order.attempt + 1
    finds = order.finds or state.finds
    respond_by = order.respond_by if event is OrderEvent.RESEND else _patience_ends(now, system.patience, due.due_at)
    assert respond_by is not None
    delay = min(policy.resend_after * 2 ** min(attempt - 1, 16), policy.resend_at_most)
    draft.put(
        advance(
            order,
            event,
            attempt=attempt,
            finds=finds,
            sent_at=now,
            first_sent_at=order.first_sent_at or now,
            respond_by=respond_by,
            resend_at=now + delay,
            expected_by=None,
            escalation=None,
        )
    )
    draft.fact("order_sent", system=order.system, right=state.right, attempt=attempt)
    draft.do(
        SendOrder(
            order_id=order_id(state.subject_request_id, order.system),
            subject_request_id=state.subject_request_id,
            system=order.system,
            right=state.right,
            attempt=attempt,
            issued_at=now,
            received_at=state.submitted_at,
            due_on=due.applicable_due_on or due.due_at.date(),
            due_at=due.due_at,
            respond_by=respond_by,
            registry_version=state.registry_version,
            verification=state.verification,
            needs=system.needs,
            finds=finds,
            blob_key=draft.context.registry.blob_key(state.portal) if state.right in EXPORTING else None,
        )
    )


def call_off(draft: Draft, order: OrderState, reason: CancellationReason) -> None:
    """Tell the system that its order is over, or that its results are wanted no more. One that was never sent needs no word."""
    if order.attempt == 0:
        return
    state = draft.state
    draft.fact("order_cancelled", system=order.system, attempt=order.attempt, reason=reason)
    draft.do(
        CancelOrder(
            order_id=order_id(state.subject_request_id, order.system),
            subject_request_id=state.subject_request_id,
            system=order.system,
            right=state.right,
            attempt=order.attempt,
            reason=reason,
            cancelled_at=draft.now,
        )
    )


def _patience_ends(now: datetime, patience: timedelta, due_at: datetime) -> datetime:
    """Patience is bounded by the legal due date; once that has passed, by itself alone."""
    ends = now + patience
    return min(ends, due_at) if due_at > now else ends


def escalate_order(draft: Draft, order: OrderState, event: OrderEvent, reason: EscalationReason, **changes: object) -> None:
    """Hand an order to a person: it failed, or fell silent."""
    draft.put(advance(order, event, escalation=reason, resend_at=None, respond_by=None, expected_by=None, **changes))
    draft.escalate(reason, system=order.system)
