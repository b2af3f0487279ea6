"""What a person must decide or look at, of any request, closed ones too: one line each, with the command that helps.

Room rules: pure; made of codes, dates and registry names, as the journal is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.commands.folding import RequestView, SystemView
from schemas.vocabulary import EscalationReason, OrderPhase, Phase

__all__ = ["Attention", "as_record", "in_order", "matters"]


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing that waits for a person."""

    view: RequestView
    reason: EscalationReason
    #: The same in words.
    why: str
    #: The local day from which on it waits.
    since: str
    helps: str
    #: None where the request as a whole is meant.
    system: str | None = None


def matters(view: RequestView, now: datetime) -> list[Attention]:
    """Return what waits for a person at this request."""
    found = [*_of_the_request(view, now)] if view.phase is not Phase.CLOSED else []
    for system in view.systems.values():
        found += _of_the_system(view, system)
    return found


def _of_the_request(view: RequestView, now: datetime) -> Iterator[Attention]:
    request = view.subject_request_id
    if view.hold is not None:
        kind, review_on = view.hold
        if review_on <= now.astimezone(ZoneInfo(view.zone)).date().isoformat():
            why = f"the hold ({kind}) was to be looked at again"
            yield Attention(view, EscalationReason.HOLD_REVIEW, why, review_on, f"dsr resume {request} --reason ...")
    if view.lacks_approval:
        since = _day(view, view.told.get(EscalationReason.APPROVAL_AWAITED))
        why = "what cannot be undone waits for a second pair of eyes"
        yield Attention(view, EscalationReason.APPROVAL_AWAITED, why, since, f"dsr approve {request} --reason ...")
    at = view.told.get(EscalationReason.CLOCK_DISAGREES)
    if at is not None:
        why = "the portal's clock and ours lie far apart"
        yield Attention(view, EscalationReason.CLOCK_DISAGREES, why, _day(view, at), f"dsr show {request} --history")


def _of_the_system(view: RequestView, system: SystemView) -> Iterator[Attention]:
    request, name = view.subject_request_id, system.system
    if system.phase is OrderPhase.ESCALATED and view.phase is not Phase.CLOSED:
        # Nothing is sent while a request is on hold: a retry would be refused.
        helps = f"dsr retry {request} {name} --reason ..." if view.hold is None else f"dsr resume {request} --reason ..."
        reason, why = _escalation(system)
        yield Attention(view, reason, why, _day(view, system.since), helps, name)
    if system.retention_ended is not None:
        why = f"{name} must delete now: its ground for keeping has ended"
        since = _day(view, system.retention_ended)
        yield Attention(view, EscalationReason.RETENTION_ENDED, why, since, f"dsr show {request}", name)
    if system.review_asked is not None:
        why = f"{name} keeps data without a date: does its ground still hold?"
        yield Attention(
            view, EscalationReason.RETENTION_REVIEW, why, _day(view, system.review_asked), f"dsr show {request}", name
        )
    if system.contradicted is not None:
        why = f"{name} reported {system.said_late} after {system.outcome}"
        since = _day(view, system.contradicted)
        yield Attention(view, EscalationReason.LATE_REPORT, why, since, f"dsr show {request} --history", name)


def _escalation(system: SystemView) -> tuple[EscalationReason, str]:
    match system.reason:
        case EscalationReason.NO_ANSWER:
            return EscalationReason.NO_ANSWER, f"{system.system} does not answer"
        case EscalationReason.LATE_BEYOND_PROMISE:
            return EscalationReason.LATE_BEYOND_PROMISE, f"{system.system} has not kept its promise"
        case _:
            return EscalationReason.ORDER_FAILED, f"{system.system} failed ({system.reason})"


def _day(view: RequestView, at: datetime | None) -> str:
    return at.astimezone(ZoneInfo(view.zone)).date().isoformat() if at else ""


def in_order(found: Sequence[Attention]) -> list[Attention]:
    """Return them as they should be taken up: open requests by due date, then closed ones.

    Of closed ones the newest stands first: nothing in the log says that somebody has looked, so the old ones stay.
    """
    ended = [one for one in found if one.view.phase is Phase.CLOSED]
    return sorted((one for one in found if one.view.phase is not Phase.CLOSED), key=lambda one: one.view.by_due_date) + sorted(
        ended, key=lambda one: one.since, reverse=True
    )


def as_record(one: Attention) -> dict[str, Any]:
    """Return it as JSON values."""
    return {
        "subject_request_id": one.view.subject_request_id,
        "right": one.view.right,
        "phase": one.view.phase.value,
        "due_on": one.view.due_on.isoformat() if one.view.due_on else None,
        "system": one.system,
        "reason": one.reason.value,
        "why": one.why,
        "since": one.since or None,
        "helps": one.helps,
    }
