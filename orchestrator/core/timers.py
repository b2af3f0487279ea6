"""Every wait ends at a stored moment; when it has come, something is sent or somebody is told.

`next_wake` is a function of the state alone, so any worker, after any downtime, finds the same moments.

Room rules: no wait is measured anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

from orchestrator.core.clock import end_of_day
from orchestrator.core.draft import Draft
from orchestrator.core.intake import lapse
from orchestrator.core.order_lifecycle import OrderEvent
from orchestrator.core.settling import escalate_order, send
from orchestrator.core.state import OrderState, evolve
from schemas.confirmations import DueDates
from schemas.outcomes import Retained
from schemas.vocabulary import EscalationReason, OrderPhase, Phase, StatusCode

__all__ = ["next_wake", "wake"]


def next_wake(draft: Draft) -> datetime | None:
    """Return the earliest moment at which something must be decided, or None if nothing waits for time."""
    return min(_ends(draft), default=None)


def _ends(draft: Draft) -> list[datetime]:
    state = draft.state
    ends = [end_of_day(until, draft.registry.controller.zone) for _, until in _retentions(draft)]
    ends += [at for _, at in _reviews(draft)]
    if state.phase is not Phase.CLOSED:
        ends += _request_ends(draft)
        for order in state.orders:
            if order.phase is not OrderPhase.SETTLED:
                ends += _order_ends(draft, order)
    return ends


def _request_ends(draft: Draft) -> Iterator[datetime]:
    state = draft.state
    if state.verify_by is not None and state.hold is None:
        yield state.verify_by
    if state.next_status_at is not None:
        yield state.next_status_at
    if state.hold is not None and not state.hold.reviewed:
        yield end_of_day(state.hold.review_on, draft.registry.controller.zone)
    assert state.due is not None, "every request has due dates from its first record on"
    if EscalationReason.DUE_SOON not in state.escalated:
        yield _due_soon_at(draft, state.due)
    if EscalationReason.OVERDUE not in state.escalated:
        yield state.due.due_at


def _due_soon_at(draft: Draft, due: DueDates) -> datetime:
    """Warn ahead by the policy's time, but never before three quarters of a short period have passed.

    Where the law may not count a pause, ahead of the date that leaves it out.
    """
    end = due.due_at if due.alert_on is None else end_of_day(due.alert_on, draft.registry.controller.zone)
    return end - min(draft.context.policy.due_soon, (end - draft.state.submitted_at) / 4)


def _order_ends(draft: Draft, order: OrderState) -> Iterator[datetime]:
    state = draft.state
    if order.phase in {OrderPhase.SENT, OrderPhase.ACCEPTED}:
        assert order.respond_by is not None, "what is out has an end to our patience"
        yield order.respond_by
        if order.resend_at is not None and state.hold is None:
            yield order.resend_at
    if order.phase is OrderPhase.WAITING and state.accepted_at is not None and state.hold is None and state.leader is None:
        cooled = state.accepted_at + draft.system(order).cooling_off
        if draft.is_irreversible(order) and cooled > draft.now:
            yield cooled


def _retentions(draft: Draft) -> Iterator[tuple[OrderState, date]]:
    for order in draft.state.orders:
        outcome = order.outcome
        if isinstance(outcome, Retained) and outcome.until is not None and order.escalation is None:
            yield order, outcome.until


def _reviews(draft: Draft) -> Iterator[tuple[OrderState, datetime]]:
    for order in draft.state.orders:
        outcome = order.outcome
        if (
            isinstance(outcome, Retained)
            and outcome.until is None
            and order.settled_at is not None
            and order.escalation is None
        ):
            yield order, order.settled_at + draft.context.policy.retention_review


def wake(draft: Draft) -> None:
    """Do what the stored moments that have come ask for. Early or repeated wake-ups find nothing to do."""
    _remind_of_retentions(draft)
    if draft.state.phase is Phase.CLOSED:
        return
    state, now = draft.state, draft.now
    if state.phase is Phase.VERIFYING and state.hold is None and state.verify_by is not None and state.verify_by <= now:
        lapse(draft)
        return
    for order in state.orders:
        _wake_order(draft, order)
    _wake_request(draft)


def _wake_order(draft: Draft, order: OrderState) -> None:
    now = draft.now
    if order.phase not in {OrderPhase.SENT, OrderPhase.ACCEPTED}:
        return
    if order.respond_by is not None and order.respond_by <= now:
        promised = order.phase is OrderPhase.ACCEPTED
        reason = EscalationReason.LATE_BEYOND_PROMISE if promised else EscalationReason.NO_ANSWER
        escalate_order(draft, order, OrderEvent.FALL_SILENT, reason)
    elif order.resend_at is not None and order.resend_at <= now and draft.state.hold is None:
        send(draft, order, OrderEvent.RESEND)


def _wake_request(draft: Draft) -> None:
    state, now = draft.state, draft.now
    hold = state.hold
    if hold is not None and not hold.reviewed and end_of_day(hold.review_on, draft.registry.controller.zone) <= now:
        draft.set(hold=evolve(hold, reviewed=True))
        draft.escalate(EscalationReason.HOLD_REVIEW)
    assert state.due is not None, "every request has due dates from its first record on"
    if state.due.due_at <= now:
        if EscalationReason.DUE_SOON not in draft.state.escalated:
            draft.set(escalated=(*draft.state.escalated, EscalationReason.DUE_SOON))
        draft.escalate(EscalationReason.OVERDUE)
    elif _due_soon_at(draft, state.due) <= now:
        draft.escalate(EscalationReason.DUE_SOON)
    if draft.state.next_status_at is not None and draft.state.next_status_at <= now:
        code = StatusCode.IDENTITY_AWAITED if state.phase is Phase.VERIFYING else StatusCode.PROGRESS
        draft.say(code, answer_by=state.verify_by)


def _remind_of_retentions(draft: Draft) -> None:
    """The ground for keeping has ended: the system's owner must delete now (GDPR Art. 5(1)(e))."""
    for order, until in list(_retentions(draft)):
        if end_of_day(until, draft.registry.controller.zone) <= draft.now:
            draft.put(evolve(order, escalation=EscalationReason.RETENTION_ENDED))
            draft.fact("retention_ended", system=order.system)
            draft.say(StatusCode.RETENTION_ENDED, system=order.system, escalation=EscalationReason.RETENTION_ENDED)
    for order, at in list(_reviews(draft)):
        if at <= draft.now:
            draft.put(evolve(order, escalation=EscalationReason.RETENTION_REVIEW))
            draft.escalate(EscalationReason.RETENTION_REVIEW, system=order.system)
