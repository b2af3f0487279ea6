"""A request in sentences: what it waits for, what happened to it, and the same as a document.

Room rules: pure; made of codes, dates and registry names, as the journal is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.commands.folding import RequestView, SystemView
from schemas.journal import JournalEntry, JournalFact
from schemas.status import StatusEvent
from schemas.vocabulary import FailureReason, OrderPhase, Phase

__all__ = ["FACTS", "as_document", "awaited", "moment", "rejected", "sentence", "system_line", "timeline"]


def moment(at: datetime | str, zone: str = "UTC") -> str:
    """Return an instant as a clock at the controller's seat shows it, to the second."""
    instant = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{instant.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}"


def rejected(event: StatusEvent) -> str:
    """Return why a record was set aside, and what its writer should do."""
    code = event.rejected.value if event.rejected else "rejected"
    return f"{code}{f' at {event.field}' if event.field else ''}: {event.remedy or 'see docs/portals.md'}"


# What is awaited --------------------------------------------------------------------------------------------------------


def awaited(view: RequestView) -> list[str]:
    """Return what the request waits for, one sentence each; nothing for a closed one."""
    request = view.subject_request_id
    if view.phase is Phase.CLOSED:
        return []
    if view.hold is not None:
        kind, review_on = view.hold
        return [f"on hold ({kind}), looked at again on {review_on}; go on with `dsr resume {request} --reason ...`"]
    if view.phase is Phase.VERIFYING:
        until = f" by {moment(view.verify_by, view.zone)}" if view.verify_by else ""
        return [f"portal {view.portal} must say{until} who is asking"]
    if view.leader is not None:
        return [f"the same was asked before: {view.leader} does the work for both"]
    waits = [line for system in view.systems.values() if (line := _wait(view, system))]
    if view.lacks_approval:
        waits.insert(0, f"a second pair of eyes for what cannot be undone: `dsr approve {request} --reason ...`")
    return waits


#: What comes before a retry, where that alone fails again.
_FIRST = {
    FailureReason.RESULTS_KEY_MISSING.value: (
        "give the portal a `blob_key` in the registry (`dsr blobs key`) under a new version, and start the workers again; then "
    )
}


def _wait(view: RequestView, system: SystemView) -> str | None:
    name, request = system.system, view.subject_request_id
    match system.phase:
        case OrderPhase.SENT:
            return f"{name} must answer (asked {_times(system.attempt)}, last {_since(system, view.zone)})"
        case OrderPhase.ACCEPTED:
            return f"{name} has promised to be done by {moment(system.expected_by or '', view.zone)}"
        case OrderPhase.ESCALATED:
            again = f"`dsr retry {request} {name} --reason ...` or `dsr waive {request} {name} --reason ...`"
            before = _FIRST.get(system.reason or "", "")
            return f"somebody must decide on {name} ({system.reason}): {before}{again}"
        case OrderPhase.WAITING if system.gated_by:
            return f"{name} is asked after {', '.join(system.gated_by)} is done there"
        case OrderPhase.WAITING:
            return f"{name} is asked when its turn comes"
        case _:
            return None


def _since(system: SystemView, zone: str) -> str:
    return moment(system.since, zone) if system.since else "never"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def system_line(system: SystemView, zone: str) -> tuple[str, str, str, str]:
    """Return a system's row: name, phase, how it stands, since when."""
    match system.phase:
        case OrderPhase.SETTLED:
            stands = system.outcome or ""
        case OrderPhase.ACCEPTED:
            stands = f"by {moment(system.expected_by or '', zone)}"
        case OrderPhase.ESCALATED:
            stands = system.reason or ""
        case OrderPhase.SENT:
            stands = f"asked {_times(system.attempt)}"
        case _:
            stands = f"after {', '.join(system.gated_by)}" if system.gated_by else "not its turn yet"
    return system.system, system.phase.value, stands, moment(system.since, zone) if system.since else ""


# What happened ----------------------------------------------------------------------------------------------------------

_Details = Mapping[str, Any]
_Sentence = Callable[[_Details], str]


def _due(details: _Details) -> str:
    return f"due on {details['due']['applicable_due_on']}"


def _list(details: _Details, name: str) -> str:
    return ", ".join(details[name])


def _accepted(details: _Details) -> str:
    idle = f"; nothing to do at {_list(details, 'not_applicable')}" if details["not_applicable"] else ""
    planned = f"planned are {_list(details, 'systems')} (registry {details['registry']}){idle}"
    return f"accepted, identity {details['level']}: {planned}"


def _closed(details: _Details) -> str:
    where = f", done under {details['executed_request']}" if details.get("executed_request") else ""
    return f"closed: {details['result']}{where}, {'in time' if details['in_time'] else 'too late'}"


def _sent(details: _Details) -> str:
    return f"{details['system']}: asked" + (f" again (attempt {details['attempt']})" if details["attempt"] > 1 else "")


def _by(details: _Details) -> str:
    return f"by {details['actor']}" + (f": {details['reason']}" if details.get("reason") else "")


#: Each fact of the journal, in words.
FACTS: Mapping[str, _Sentence] = {
    "request_received": lambda d: f"received from portal {d['portal']}: {d['right']}, {_due(d)} ({d['rule']})",
    "request_accepted": _accepted,
    "identity_confirmed": lambda d: f"the portal confirmed who asks; {_due(d)}",
    "order_sent": _sent,
    "order_accepted": lambda d: f"{d['system']}: has taken it, done by {moment(d['expected_by'])} UTC",
    "order_failed": lambda d: f"{d['system']}: failed ({d['reason']}) at attempt {d['attempt']}",
    "order_settled": lambda d: f"{d['system']}: {d['outcome']}",
    "order_cancelled": lambda d: f"{d['system']}: told that it is over ({d['reason']})",
    "identifiers_yielded": lambda d: f"found more to look for: {_list(d, 'kinds')}",
    "late_report": lambda d: f"{d['system']}: reported {d['outcome']} after its end; what stood before stands",
    "escalated": lambda d: f"a person was told: {d['reason']}" + (f" at {d['system']}" if d["system"] else ""),
    "denied": lambda d: f"refused ({d['ground']}) {_by(d)}",
    "extended": lambda d: f"extended ({d['because']}) {_by(d)}; {_due(d)}",
    "held": lambda d: f"held ({d['kind']}) {_by(d)}, looked at again on {d['review_on']}; {_due(d)}",
    "resumed": lambda d: f"resumed {_by(d)}; {_due(d)}",
    "waived": lambda d: f"{d['system']}: waived {_by(d)}",
    "retried": lambda d: f"{d['system']}: asked again {_by(d)}",
    "system_added": lambda d: f"{d['system']}: added to the plan {_by(d)}",
    "approved": lambda d: f"approved {_by(d)}",
    "withdrawal_too_late": lambda d: f"withdrawal {_by(d)} came too late; done were {_list(d, 'done') or 'no systems'}",
    "retention_ended": lambda d: f"{d['system']}: the ground for keeping data has ended, it must delete now",
    "joined": lambda d: f"the same was asked before: {d['leader']} does the work",
    "leader_gone": lambda d: f"{d['leader']} will not do the work; {d['heir']} does it now",
    "gated": lambda d: f"{_list(d, 'systems')}: waits until {d['by']} is done there",
    "request_closed": _closed,
    "superseded": lambda d: f"{_list(d, 'systems')}: overtaken by the erasure {d['by']}",
}


def sentence(fact: JournalFact) -> str:
    """Return a fact in words; of one that a later release has added, its name."""
    tell = FACTS.get(fact.fact)
    return tell(fact.details) if tell else fact.fact.replace("_", " ")


def timeline(entries: list[JournalEntry], zone: str) -> list[tuple[str, str]]:
    """Return moments and sentences, in order; a moment stands at the first sentence of its entry."""
    rows: list[tuple[str, str]] = []
    for entry in entries:
        rows += [(moment(entry.at, zone) if not number else "", sentence(fact)) for number, fact in enumerate(entry.facts)]
    return rows


# The same for programs --------------------------------------------------------------------------------------------------


def as_document(view: RequestView, now: datetime) -> dict[str, Any]:
    """Return the view as JSON values."""
    confirmation = view.confirmation
    return {
        "subject_request_id": view.subject_request_id,
        "right": view.right,
        "portal": view.portal,
        "phase": view.phase.value if view.is_known else None,
        "submitted_at": view.submitted_at,
        "rule": view.due.rule if view.due else None,
        "due_on": view.due_on.isoformat() if view.due_on else None,
        "days_left": view.days_left(now) if view.phase is not Phase.CLOSED else None,
        "on_hold": {"kind": view.hold[0], "review_on": view.hold[1]} if view.hold else None,
        "executed_by": view.leader,
        "awaited": awaited(view),
        "systems": [
            {
                "system": system.system,
                "phase": system.phase.value,
                "outcome": system.outcome,
                "attempt": system.attempt,
                "since": system.since.isoformat() if system.since else None,
                "expected_by": system.expected_by,
                "reason": system.reason,
                "after_requests": list(system.gated_by),
            }
            for system in view.systems.values()
        ],
        "result": view.result,
        "in_time": view.in_time,
        "rejections": [
            {"code": event.rejected, "field": event.field, "remedy": event.remedy, "at": event.at.isoformat()}
            for event in view.rejections
        ],
        "confirmation_id": confirmation.confirmation_id if confirmation else None,
    }
