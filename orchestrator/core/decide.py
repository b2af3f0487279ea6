"""The one decision: what an input does to a request.

`decide(state, input, now, context) -> Decision` is pure and total: an impossible fact or a refused command comes back as
`refused`, with the state as it was. The order of things: the table permits, a handler changes, what follows by itself
follows, others are told, the journal is written, and at the end the confirmation is made from what stands there.

Room rules: no I/O, no clock, no randomness; a rule's place is its own file, this one only calls them in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from orchestrator.core import intake, people, relations, reporting, timers
from orchestrator.core.confirmation import confirm
from orchestrator.core.draft import Draft
from orchestrator.core.effects import (
    Decision,
    Follow,
    Input,
    LeaderClosed,
    Leave,
    Publish,
    PublishConfirmation,
    Settled,
    Supersede,
    Wait,
    Wake,
)
from orchestrator.core.lifecycle import permit
from orchestrator.core.policy import Context
from orchestrator.core.progress import close, progress
from orchestrator.core.state import RequestState
from schemas.base import Message
from schemas.commands import Command
from schemas.errors import ProtocolViolation
from schemas.ids import digest
from schemas.journal import JournalEntry
from schemas.reports import FulfilmentReport
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, WithdrawRequest
from schemas.status import StatusEvent
from schemas.vocabulary import Phase, QuarantineReason, StatusCode
from schemas.wire import encode

__all__ = ["decide", "has_taken", "rejection"]


def decide(state: RequestState | None, given: Input, now: datetime, context: Context) -> Decision:
    """Return what `given` does to the request in `state` (None: nothing known of it) at `now` (aware UTC)."""
    name = type(given.message).__name__
    try:
        if state is not None and _is_repetition(state, given):
            return Decision(state)
        move = permit(state.phase if state else Phase.RECEIVED, name)
        if state is None:
            assert isinstance(given.message, SubmitRequest), "the table lets nothing else open a request"
            state_before = intake.blank(given.message, given, now, context)
        else:
            state_before = state
        draft = Draft(state_before, now, context, source=given.source, content=given.content)
        _handle(draft, given, is_new=state is None)
        progress(draft)
    except ProtocolViolation as violation:
        return _refused(state, given, violation, now)
    relations.tell_others(draft, state_before)
    _journal(draft, name)
    if draft.state.phase is Phase.CLOSED and state_before.phase is not Phase.CLOSED:
        text = confirm(draft, draft.results)
        draft.set(confirmation=text)
        draft.do(PublishConfirmation(draft.state.subject_request_id, text))
    draft.set(wake_at=timers.next_wake(draft))
    if draft.state.phase not in move.to:
        raise AssertionError(f"{name} led from {state_before.phase} to {draft.state.phase}, which the table does not allow")
    # What left a fact has moved the journal on.
    unchanged = state is not None and not draft.facts and draft.state == state
    return Decision(state if unchanged else draft.state, tuple(draft.effects), tuple(draft.facts))


def _is_repetition(state: RequestState, given: Input) -> bool:
    """Tell whether an operator's command was carried out before, in whatever phase that left the request.

    Raises `ProtocolViolation` if its id was given to another command.
    """
    message = given.message
    if not isinstance(message, Command):
        return False
    if intake.was_said(state, message.command_id, given.content):
        return True
    if any(said.split(" ")[0] == message.command_id for said in state.commands):
        raise ProtocolViolation(
            QuarantineReason.ID_REUSED,
            field="command_id",
            remedy="this id belongs to another command: give each command an id of its own",
        )
    return False


def has_taken(state: RequestState, given: Input) -> bool:
    """Tell whether the state shows that it was this very record that changed it, byte for byte.

    False does not imply that it did not: of most words on an identity, and of reports but a system's last, nothing is kept.
    """
    message = given.message
    match message:
        case SubmitRequest():
            return (state.source, state.content) == (given.source, given.content)
        case FulfilmentReport():
            order = state.order(message.system)
            return order is not None and (order.report_id, order.report_sha256) == (message.report_id, given.content)
        case Command():
            return intake.was_said(state, message.command_id, given.content)
        case WithdrawRequest():
            return intake.was_said(state, intake.WITHDRAWAL, given.content)
        case _:
            return False


def _handle(draft: Draft, given: Input, *, is_new: bool) -> None:
    message = given.message
    if isinstance(message, SubmitRequest):
        if is_new:
            intake.submit(draft, message)
        else:
            intake.repeat_submission(draft, given)
    elif isinstance(message, FulfilmentReport):
        reporting.report(draft, message, given.opened)
    elif isinstance(message, Command):
        people.command(draft, message)
    elif isinstance(message, LeaderClosed):
        results = relations.leader_closed(draft, message) if draft.state.phase is Phase.ACTIVE else None
        if results is not None:
            close(draft, message.result, results)
    else:
        _HANDLERS[type(message)](draft, message)


_HANDLERS: Mapping[type[object], Callable[[Draft, Any], None]] = {
    ConfirmIdentity: intake.confirm_identity,
    RefuseIdentity: intake.refuse_identity,
    WithdrawRequest: intake.withdraw,
    Wake: lambda draft, _: timers.wake(draft),
    Follow: relations.follow,
    Leave: relations.leave,
    Wait: relations.wait,
    Supersede: relations.supersede,
    Settled: relations.open_gates,
}


def _journal(draft: Draft, cause: str) -> None:
    """Write one entry for the input, chained to the request's previous one; an input without effect leaves none."""
    if not draft.facts:
        return
    state = draft.state
    entry = JournalEntry.trusted(
        subject_request_id=state.subject_request_id,
        sequence=state.journal_sequence + 1,
        previous=state.journal_head,
        at=draft.now,
        cause=cause,
        source=draft.source,
        phase=state.phase,
        facts=tuple(draft.facts),
    )
    value = encode(entry)
    draft.set(journal_sequence=entry.sequence, journal_head=digest(value))
    draft.do(Publish(entry, value))


def _refused(state: RequestState | None, given: Input, violation: ProtocolViolation, now: datetime) -> Decision:
    message = given.message
    if not isinstance(message, Message):
        # An input of our own that the table does not know is a defect, not somebody's bad record.
        raise AssertionError(f"{type(message).__name__} refused: {violation}") from violation  # noqa: TRY004 - not a type error
    request = getattr(message, "subject_request_id", "")
    event = rejection(request, violation, now, state=state, portal=getattr(message, "portal", None))
    return Decision(state, (Publish(event),), refused=violation)


def rejection(
    request: str, violation: ProtocolViolation, now: datetime, *, state: RequestState | None = None, portal: str | None = None
) -> StatusEvent:
    """Return what the portal is told of a record that was set aside: the field and the remedy, never the value."""
    return StatusEvent(
        subject_request_id=request,
        portal=state.portal if state else portal,
        right=state.right if state else None,
        code=StatusCode.REJECTED,
        phase=state.phase if state else None,
        at=now,
        due_on=state.due.applicable_due_on if state and state.due else None,
        rejected=QuarantineReason(violation.code),
        field=violation.field or None,
        remedy=violation.remedy[:300] or None,
    )
