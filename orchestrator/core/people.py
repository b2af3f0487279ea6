"""What operators decide: each command with an actor and a reason, each refusal with a remedy.

Room rules: a refused command changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from orchestrator.core.clock import reckon, today
from orchestrator.core.confirmation import results_of
from orchestrator.core.deadlines import Extended, Paused, Resumed, local_date, seat
from orchestrator.core.draft import Draft
from orchestrator.core.intake import end_hold, note_said, withdraw_by
from orchestrator.core.order_lifecycle import OrderEvent, allows
from orchestrator.core.plan import planned_order
from orchestrator.core.progress import abandon, close, started_irreversibly
from orchestrator.core.relations import relate_added
from orchestrator.core.settling import call_off, send, settle
from orchestrator.core.state import HoldState, OrderState
from schemas.commands import Add, Approve, Command, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.errors import ProtocolViolation
from schemas.outcomes import Failed, Waived
from schemas.vocabulary import (
    CancellationReason,
    EscalationReason,
    HoldKind,
    NotApplicableReason,
    OrderPhase,
    QuarantineReason,
    RequestResult,
    StatusCode,
)

__all__ = ["command"]


def command(draft: Draft, message: Command) -> None:
    """Carry out an operator's command; `decide` has made sure that it was not carried out before."""
    note_said(draft, message.command_id)
    _COMMANDS[type(message)](draft, message)


def _refuse(field: str, remedy: str, code: QuarantineReason = QuarantineReason.ILLEGAL_MOVE) -> ProtocolViolation:
    return ProtocolViolation(code, field=field, remedy=remedy)


def _deny(draft: Draft, message: Deny) -> None:
    if started_irreversibly(draft):
        raise _refuse("type", "something irreversible was started already: waive the systems that are left instead")
    abandon(draft, NotApplicableReason.REFUSED, CancellationReason.DENIED, by=message.actor, why=message.reason)
    draft.set(refusal_ground=message.ground)
    draft.fact("denied", actor=message.actor, ground=message.ground, reason=message.reason)
    close(draft, RequestResult.REFUSED, results_of(draft), carried_out=False)


def _extend(draft: Draft, message: Extend) -> None:
    _not_in_future(draft, "notice_sent_at", local_date(message.notice_sent_at, seat(draft.registry.controller.zone)))
    reckon(draft, Extended(reason=message.because, notice_sent_at=message.notice_sent_at, until_on=message.until_on))
    draft.changed("extended", actor=message.actor, reason=message.reason)
    draft.fact("extended", actor=message.actor, because=message.because, reason=message.reason, due=draft.state.due)
    draft.say(StatusCode.EXTENDED)


_STOPS_THE_CLOCK = {HoldKind.CLARIFICATION, HoldKind.IDENTITY, HoldKind.FEE}


def _not_in_future(draft: Draft, field: str, day: date) -> None:
    """Refuse a fact that has not happened yet: a date to come would move the legal clock by a promise."""
    if day > today(draft):
        raise _refuse(field, "this day is still to come: say it when it has happened")


def _hold(draft: Draft, message: Hold) -> None:
    if draft.state.hold is not None:
        raise _refuse("type", "the request is on hold already: resume it first")
    if message.review_on < today(draft):
        raise _refuse("review_on", "name a day that is still to come: no hold without an end")
    if message.kind in _STOPS_THE_CLOCK:
        asked_on = message.asked_on or today(draft)
        _not_in_future(draft, "asked_on", asked_on)
        reckon(draft, Paused(reason=message.kind, asked_on=asked_on))
    draft.set(hold=HoldState(kind=message.kind, since=draft.now, review_on=message.review_on, by=message.actor))
    draft.changed("held", actor=message.actor, reason=message.reason)
    draft.fact("held", actor=message.actor, kind=message.kind, review_on=message.review_on, due=draft.state.due)
    draft.say(StatusCode.ON_HOLD)


def _resume(draft: Draft, message: Resume) -> None:
    hold = draft.state.hold
    if hold is None:
        raise _refuse("type", "the request is not on hold")
    if hold.kind in _STOPS_THE_CLOCK:
        received_on = message.received_on or today(draft)
        _not_in_future(draft, "received_on", received_on)
        reckon(draft, Resumed(received_on=received_on, reason=hold.kind))
    end_hold(draft, hold, actor=message.actor, reason=message.reason)


def _planned(draft: Draft, system: str) -> OrderState:
    order = draft.state.order(system)
    if order is None:
        planned = ", ".join(other.system for other in draft.state.orders)
        raise _refuse("system", f"not in this request's plan; planned are {planned}", QuarantineReason.UNKNOWN_SYSTEM)
    if order.phase is OrderPhase.SETTLED:
        raise _refuse("system", "this system has answered already; its outcome stands")
    return order


def _waive(draft: Draft, message: Waive) -> None:
    order = _planned(draft, message.system)
    failed = order.outcome.reason if isinstance(order.outcome, Failed) else None
    settle(draft, order, Waived(by=message.actor, why=message.reason, failed=failed))
    call_off(draft, order, CancellationReason.WAIVED)
    draft.fact("waived", actor=message.actor, system=message.system, reason=message.reason)
    draft.changed("waived", actor=message.actor, reason=message.reason, system=message.system)


def _retry(draft: Draft, message: Retry) -> None:
    order = _planned(draft, message.system)
    if not allows(order, OrderEvent.RETRY):
        raise _refuse("system", "this system is being asked, or waits for its turn; retry after it failed or fell silent")
    if draft.state.hold is not None:
        raise _refuse("type", "the request is on hold, nothing is sent: resume it first")
    send(draft, order, OrderEvent.RETRY)
    draft.fact("retried", actor=message.actor, system=message.system, reason=message.reason)
    draft.changed("retried", actor=message.actor, reason=message.reason, system=message.system)


def _add(draft: Draft, message: Add) -> None:
    registry = draft.context.registry
    if draft.state.order(message.system) is not None:
        raise _refuse("system", "this system is in the plan already")
    system = registry.by_id.get(message.system)
    if system is None or not system.is_planned_for:
        active = ", ".join(other.id for other in registry.active())
        raise _refuse(
            "system", f"not an active system of today's registry; those are {active}", QuarantineReason.UNKNOWN_SYSTEM
        )
    order = planned_order(system, draft.state.right, draft.now, registry=registry.content_digest)
    draft.set(orders=(*draft.state.orders, order))
    if system.four_eyes and draft.is_irreversible(order):
        # What was approved is the plan as it was: a second person has not seen this.
        told = tuple(reason for reason in draft.state.escalated if reason is not EscalationReason.APPROVAL_AWAITED)
        draft.set(approved_by=None, escalated=told)
    draft.changed("added", actor=message.actor, reason=message.reason, system=message.system)
    relate_added(draft, message.system)
    draft.fact("system_added", actor=message.actor, system=message.system, registry=registry.version, reason=message.reason)


def _approve(draft: Draft, message: Approve) -> None:
    if message.actor == draft.state.filed_by:
        raise _refuse("actor", "who filed the request cannot approve it: ask a colleague", QuarantineReason.FOUR_EYES)
    draft.set(approved_by=message.actor)
    draft.changed("approved", actor=message.actor, reason=message.reason)
    draft.fact("approved", actor=message.actor, reason=message.reason)


def _withdraw(draft: Draft, message: Withdraw) -> None:
    withdraw_by(draft, message.actor, message.reason)


_COMMANDS: Mapping[type[Command], Callable[[Draft, Any], None]] = {
    Deny: _deny,
    Extend: _extend,
    Hold: _hold,
    Resume: _resume,
    Waive: _waive,
    Retry: _retry,
    Add: _add,
    Approve: _approve,
    Withdraw: _withdraw,
}
