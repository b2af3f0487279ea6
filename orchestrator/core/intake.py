"""What portals say: a request, who is asking, a withdrawal.

Room rules: who is asking decides what may happen: an unverified request sends nothing and touches no other.
"""

from __future__ import annotations

from datetime import datetime

from orchestrator.core.clock import due_dates, reckon
from orchestrator.core.confirmation import results_of
from orchestrator.core.deadlines import IdentityConfirmed, Received, rules_for
from orchestrator.core.draft import Draft
from orchestrator.core.effects import Input, KeepIdentifiers, PublishConfirmation
from orchestrator.core.plan import freeze
from orchestrator.core.policy import Context
from orchestrator.core.progress import abandon, close, started_irreversibly
from orchestrator.core.relations import relate
from orchestrator.core.state import HoldState, RequestState, evolve
from schemas.errors import ProtocolViolation
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.subject import CHANGING
from schemas.vocabulary import (
    CancellationReason,
    EscalationReason,
    HoldKind,
    IdentityRefusalReason,
    NotApplicableReason,
    OrderPhase,
    Phase,
    QuarantineReason,
    RequestResult,
    StatusCode,
)

__all__ = [
    "WITHDRAWAL",
    "blank",
    "confirm_identity",
    "end_hold",
    "lapse",
    "note_said",
    "refuse_identity",
    "repeat_submission",
    "submit",
    "was_said",
    "withdraw",
    "withdraw_by",
]


def blank(message: SubmitRequest, given: Input, now: datetime, context: Context) -> RequestState:
    """Return the state of a request about which nothing is decided yet. Raises `ProtocolViolation` if it cannot be taken."""
    if message.portal not in context.registry.portal_ids:
        raise ProtocolViolation(
            QuarantineReason.UNKNOWN_PORTAL,
            field="portal",
            remedy=f"publish as a portal of the registry: {', '.join(sorted(context.registry.portal_ids))}",
        )
    if not given.opened.kinds:
        raise ProtocolViolation(
            QuarantineReason.MISSING_FIELD,
            field="sealed.identifiers",
            remedy="seal at least one identifier of the person",
        )
    if message.right in CHANGING and given.opened.patch is None:
        raise ProtocolViolation(
            QuarantineReason.MISSING_FIELD,
            field="sealed.changes",
            remedy="seal the fields to change together with the identifiers",
        )
    if message.right not in CHANGING and given.opened.patch is not None:
        raise ProtocolViolation(
            QuarantineReason.INVALID_FIELD,
            field="sealed.changes",
            remedy=f"seal no fields to change: only {' and '.join(sorted(CHANGING))} have some, and systems would be sent them",
        )
    _not_ahead("submitted_at", message.submitted_at, now, context)
    if message.verification is not None:
        _not_ahead("verification.verified_at", message.verification.verified_at, now, context)
    received = Received(at=message.submitted_at)
    state = RequestState(
        subject_request_id=message.subject_request_id,
        portal=message.portal,
        right=message.right,
        phase=Phase.RECEIVED,
        language=message.language,
        content=given.content,
        source=given.source,
        submitted_at=message.submitted_at,
        received_at=now,
        group_id=message.group_id,
        filed_by=message.filed_by,
        kinds=given.opened.kinds,
        person=given.opened.person,
        patch=given.opened.patch,
        identity=given.opened.identity,
        rule=rules_for(context.registry.controller.regime, message.right),
        clock=(received,),
    )
    return evolve(state, due=due_dates(state.rule, state.clock, state.right, context.registry.controller))


def _not_ahead(field: str, at: datetime, now: datetime, context: Context) -> None:
    """Refuse a moment that has not come, for the legal clock would run from it; clocks may differ by the policy's tolerance."""
    if at > now + context.policy.clock_tolerance:
        raise ProtocolViolation(
            QuarantineReason.INVALID_FIELD,
            field=field,
            remedy="this moment is still to come by our clock: give the one at which it happened, or mend the portal's clock",
        )


def submit(draft: Draft, message: SubmitRequest) -> None:
    """Take a new request: freeze the plan if the portal vouches for the person, else wait for that."""
    state, policy = draft.state, draft.context.policy
    draft.do(KeepIdentifiers())
    draft.set(finds=1)
    draft.fact(
        "request_received",
        portal=state.portal,
        right=state.right,
        submitted_at=state.submitted_at,
        rule=state.rule,
        zone=draft.registry.controller.zone,
        calendar=draft.registry.controller.calendar,
        due=state.due,
        identifiers=list(state.kinds),
    )
    if draft.now - state.submitted_at > policy.clock_tolerance:
        draft.escalate(EscalationReason.CLOCK_DISAGREES)
    if message.verification is not None:
        _accept(draft, message.verification)
        return
    draft.set(phase=Phase.VERIFYING, verify_by=draft.now + policy.verification)
    draft.say(StatusCode.IDENTITY_AWAITED, answer_by=draft.state.verify_by)


def _accept(draft: Draft, verification: Verification) -> None:
    registry = draft.context.registry
    draft.set(
        phase=Phase.ACTIVE,
        verification=verification,
        verify_by=None,
        accepted_at=draft.now,
        registry=registry.content_digest,
        registry_version=registry.version,
        orders=freeze(registry, draft.state.right, draft.now),
    )
    draft.fact(
        "request_accepted",
        level=verification.level,
        method=verification.method,
        verified_at=verification.verified_at,
        registry=registry.version,
        systems=[order.system for order in draft.state.orders],
        not_applicable=[order.system for order in draft.state.orders if order.phase is OrderPhase.SETTLED],
    )
    draft.say(StatusCode.ACKNOWLEDGED)
    relate(draft)


def repeat_submission(draft: Draft, given: Input) -> None:
    """The same request again: from the same record a replay, which says nothing; from another one, say again what is known."""
    state = draft.state
    if given.content != state.content:
        raise ProtocolViolation(
            QuarantineReason.ID_REUSED,
            field="subject_request_id",
            remedy="this id belongs to another request: make a new UUID for a new request",
        )
    if given.source == state.source:
        return
    if state.confirmation is not None:
        draft.do(PublishConfirmation(state.subject_request_id, state.confirmation))
    elif state.phase is Phase.VERIFYING:
        draft.say(StatusCode.IDENTITY_AWAITED, answer_by=state.verify_by)
    else:
        draft.say(StatusCode.ACKNOWLEDGED)


def _own(draft: Draft, portal: str) -> None:
    if portal != draft.state.portal:
        raise ProtocolViolation(
            QuarantineReason.FOREIGN_PORTAL, field="portal", remedy="only the portal that filed a request may speak for it"
        )


def confirm_identity(draft: Draft, message: ConfirmIdentity) -> None:
    """The portal vouches for the person now: freeze the plan. A repetition changes nothing."""
    _own(draft, message.portal)
    if draft.state.phase is not Phase.VERIFYING:
        return
    _not_ahead("verification.verified_at", message.verification.verified_at, draft.now, draft.context)
    reckon(draft, IdentityConfirmed(at=message.verification.verified_at))
    draft.fact("identity_confirmed", at=message.verification.verified_at, due=draft.state.due)
    hold = draft.state.hold
    if hold is not None and hold.kind is HoldKind.IDENTITY:
        end_hold(draft, hold, actor=f"portal:{message.portal}", reason="the identity was confirmed")
    _accept(draft, message.verification)


def end_hold(draft: Draft, hold: HoldState, *, actor: str, reason: str) -> None:
    """Let the request go on; a wait for the identity gets the time back that the hold took."""
    state = draft.state
    verify_by = state.verify_by + (draft.now - hold.since) if state.verify_by is not None else None
    escalated = tuple(old for old in state.escalated if old is not EscalationReason.HOLD_REVIEW)
    draft.set(hold=None, verify_by=verify_by, escalated=escalated)
    draft.changed("resumed", actor=actor, reason=reason)
    draft.fact("resumed", actor=actor, kind=hold.kind, due=state.due)
    draft.say(StatusCode.RESUMED)


def refuse_identity(draft: Draft, message: RefuseIdentity) -> None:
    """The portal could not make sure who asked: nothing was done, the confirmation says so. A repetition changes nothing."""
    _own(draft, message.portal)
    if draft.state.phase is Phase.VERIFYING:
        _unconfirmed(draft, message.reason)


def lapse(draft: Draft) -> None:
    """Nobody confirmed the identity in time."""
    _unconfirmed(draft, IdentityRefusalReason.NO_ANSWER)


def _unconfirmed(draft: Draft, reason: IdentityRefusalReason) -> None:
    draft.set(identity_refusal=reason, verify_by=None)
    close(draft, RequestResult.IDENTITY_NOT_CONFIRMED, (), carried_out=False)


def withdraw(draft: Draft, message: WithdrawRequest) -> None:
    """The person takes the request back, through the portal that filed it."""
    _own(draft, message.portal)
    if not was_said(draft.state, WITHDRAWAL, draft.content):
        note_said(draft, WITHDRAWAL)
        withdraw_by(draft, f"portal:{message.portal}", "withdrawn by the person")
    elif draft.state.phase is not Phase.CLOSED:
        draft.say(StatusCode.TOO_LATE, done=_done(draft.state))


#: Stands for the id that a portal's withdrawal does not have.
WITHDRAWAL = "withdrawal"


def note_said(draft: Draft, said_id: str) -> None:
    """Remember a command or withdrawal by its id and content."""
    draft.set(commands=(*draft.state.commands, f"{said_id} {draft.content}"))


def was_said(state: RequestState, said_id: str, content: str) -> bool:
    """Tell whether the very same command or withdrawal was carried out before."""
    return f"{said_id} {content}" in state.commands


def _done(state: RequestState) -> tuple[str, ...]:
    return tuple(order.system for order in state.orders if order.phase is OrderPhase.SETTLED and order.attempt)


def withdraw_by(draft: Draft, actor: str, reason: str) -> None:
    """Withdraw until the first irreversible order has left; after that it is too late, and what is done is listed."""
    if draft.state.result is RequestResult.WITHDRAWN and draft.state.confirmation is not None:
        draft.do(PublishConfirmation(draft.state.subject_request_id, draft.state.confirmation))
        return
    if draft.state.phase is Phase.CLOSED or started_irreversibly(draft):
        done = _done(draft.state)
        if draft.state.phase is not Phase.CLOSED:
            draft.changed("withdrawal_too_late", actor=actor, reason=reason)
        draft.fact("withdrawal_too_late", actor=actor, done=list(done))
        draft.say(StatusCode.TOO_LATE, done=done)
        return
    abandon(draft, NotApplicableReason.WITHDRAWN, CancellationReason.WITHDRAWN, by=actor, why=reason)
    close(draft, RequestResult.WITHDRAWN, results_of(draft), carried_out=False)
