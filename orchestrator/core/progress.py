"""What follows by itself once something changed: orders leave, orders without hope settle, the request closes.

Room rules: looks at the state and the clock it was given; the reasons for waiting stand here and nowhere else.
"""

from __future__ import annotations

from orchestrator.core.confirmation import results_of
from orchestrator.core.draft import Draft
from orchestrator.core.effects import Forget
from orchestrator.core.order_lifecycle import OrderEvent
from orchestrator.core.plan import meets, missing_for_good
from orchestrator.core.settling import call_off, send, settle
from orchestrator.core.state import UNLINKED, OrderState, evolve
from schemas.confirmations import SystemResult
from schemas.outcomes import NotApplicable, Retained, Waived
from schemas.vocabulary import (
    CancellationReason,
    EscalationReason,
    NotApplicableReason,
    OrderPhase,
    Phase,
    RequestResult,
)

__all__ = ["abandon", "close", "progress", "started_irreversibly"]


def progress(draft: Draft) -> None:
    """Send what may leave and close the request when every planned system has a final outcome.

    A duplicate sends nothing and ends with the request that does its work.
    """
    state = draft.state
    if state.phase is not Phase.ACTIVE or state.leader is not None:
        return
    if any(order.phase is OrderPhase.WAITING for order in state.orders):
        _settle_hopeless(draft)
        if state.hold is None:
            _send_ready(draft)
    if all(order.phase is OrderPhase.SETTLED for order in draft.state.orders):
        results = results_of(draft)
        close(draft, _result(results), results)


def _settle_hopeless(draft: Draft) -> None:
    pairs = [(order, draft.system(order)) for order in draft.state.orders]
    for order in missing_for_good(pairs, draft.state.kinds):
        settle(draft, order, NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING))


def _send_ready(draft: Draft) -> None:
    approval_awaited = False
    for order in draft.state.orders:
        if order.phase is not OrderPhase.WAITING or not _turn_has_come(draft, order):
            continue
        if draft.is_irreversible(order):
            system = draft.system(order)
            if system.four_eyes and draft.state.approved_by is None:
                approval_awaited = True
                continue
            assert draft.state.accepted_at is not None, "an active request was accepted"
            if draft.state.accepted_at + system.cooling_off > draft.now:
                continue
        send(draft, order, OrderEvent.SEND)
    if approval_awaited:
        draft.escalate(EscalationReason.APPROVAL_AWAITED)


def _turn_has_come(draft: Draft, order: OrderState) -> bool:
    """Tell whether nobody must go before it: other requests, earlier stages, sources of an identifier."""
    system = draft.system(order)
    if order.gated_by or not meets(system.needs, draft.state.kinds):
        return False
    before = system.after
    return not before or all(other.phase is OrderPhase.SETTLED for other in draft.state.orders if other.system in before)


def started_irreversibly(draft: Draft) -> bool:
    """Tell whether an order that cannot be undone has left."""
    return any(order.attempt > 0 and draft.is_irreversible(order) for order in draft.state.orders)


def abandon(draft: Draft, unsent: NotApplicableReason, reason: CancellationReason, *, by: str, why: str) -> None:
    """Settle what is open, because a person ended the request: nothing more is sent or awaited, and systems are told.

    A system that has exported data is told as well: what is kept for the person is deleted, and the confirmation names none.
    """
    for order in draft.state.orders:
        if order.phase is OrderPhase.WAITING:
            settle(draft, order, NotApplicable(reason=unsent))
        elif order.phase is not OrderPhase.SETTLED:
            settle(draft, order, Waived(by=by, why=why))
            call_off(draft, order, reason)
        elif order.results:
            draft.put(evolve(order, results=()))
            call_off(draft, order, reason)


def close(draft: Draft, result: RequestResult, results: tuple[SystemResult, ...], *, carried_out: bool = True) -> None:
    """Close the request: the confirmation follows, and everything that could name the person is forgotten.

    Late, and nobody was told: a person is now. It was read after its date, or between its date and the moment that tells of it.
    """
    state, due = draft.state, draft.state.due
    assert due is not None, "every request has due dates from its first record on"
    if draft.now > due.due_at and EscalationReason.DUE_SOON not in state.escalated:
        draft.escalate(EscalationReason.OVERDUE)
    draft.results, draft.carried_out = results, carried_out
    draft.set(phase=Phase.CLOSED, result=result, closed_at=draft.now, hold=None, next_status_at=None, **UNLINKED)
    draft.fact(
        "request_closed",
        result=result,
        right=draft.state.right,
        in_time=draft.now <= due.due_at,
        seconds=(draft.now - draft.state.submitted_at).total_seconds(),
        executed_request=draft.state.executed_request,
    )
    draft.do(Forget())


#: Something was done, or there was nothing to do it to. Data that is kept entirely, or a note to somebody, is neither.
_DONE = {"fulfilled", "nothing_held"}
_EXCEPTIONS = {"retained", "notified", "waived"}


def _result(results: tuple[SystemResult, ...]) -> RequestResult:
    """Derive the request's result from recorded outcomes and nothing else."""
    codes = {result.outcome.code.value for result in results}
    missing = any(
        isinstance(result.outcome, NotApplicable)
        and result.outcome.reason in {NotApplicableReason.IDENTIFIER_MISSING, NotApplicableReason.SUPERSEDED}
        for result in results
    )
    partly = any(isinstance(result.outcome, Retained) and result.outcome.fulfilled for result in results)
    if not (codes & _DONE or partly):
        return RequestResult.NOT_FULFILLED
    if codes & _EXCEPTIONS or missing:
        return RequestResult.FULFILLED_WITH_EXCEPTIONS
    return RequestResult.FULFILLED
