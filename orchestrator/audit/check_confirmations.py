"""Invariants 1, 2 and 7: the one confirmation, what must stand before it, and what it says.

Room rules: one function per invariant, its number in its name; every finding says what it means, none quotes a value.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.audit.ground import Case
from orchestrator.audit.notes import ConfirmationNote, InputNote, parse_source
from orchestrator.audit.story import Step
from schemas.confirmations import SystemResult
from schemas.ids import confirmation_id
from schemas.outcomes import Retained
from schemas.vocabulary import Phase, RequestResult

__all__ = ["check_1_confirmation", "check_1_distinct", "check_2_outcomes", "check_7_reports"]

_PEOPLE = {"Waive", "Deny", "Withdraw", "WithdrawRequest"}
_REPORTED = {"fulfilled", "nothing_held", "retained", "notified"}
_PROGRESS = {"accepted", "failed"}
_EXCEPTIONS = {"retained", "notified", "waived"}
_ENDED_BY_A_PERSON = {RequestResult.WITHDRAWN, RequestResult.REFUSED}


def check_1_distinct(case: Case) -> None:
    """1, without the journal: one set of bytes, one id."""
    confirmations = case.dossier.confirmations
    for note in confirmations[1:]:
        case.violated(1, note.place, f"a second confirmation, different from the one at {confirmations[0].place}")
    for note in confirmations:
        if note.confirmation.confirmation_id != confirmation_id(case.dossier.request):
            case.violated(1, note.place, "its id is not the one that follows from the request")


def check_1_confirmation(case: Case) -> None:
    """1: a closed request has its confirmation, an open one waits for a moment that is still to come."""
    story, confirmations = case.story, case.dossier.confirmations
    if not story.notes:
        for note in confirmations[:1]:
            if case.ground.may_be_expired(case.ground.topics.journal, note.confirmation.closed_at):
                case.unverified("confirmations whose journal is gone")
            else:
                case.violated(1, note.place, "a confirmation of a request that the journal does not know")
        return
    for step in story.closed[1:]:
        case.violated(1, step.note.place, "the request is closed a second time")
    if story.closed:
        if not confirmations:
            _check_gone(case, story.closed[0])
    elif not confirmations:
        _check_waits(case)


def _check_gone(case: Case, closed: Step) -> None:
    if case.ground.may_be_expired(case.ground.topics.confirmations, closed.note.entry.at):
        case.unverified("confirmations")
    else:
        case.violated(1, closed.note.place, "it closed the request, and there is no confirmation")


def _check_waits(case: Case) -> None:
    """Whatever waits, waits until a moment; when it has passed, somebody was told."""
    story = case.story
    last = story.notes[-1]
    late_since = case.ground.as_of - case.ground.slack
    answer_by = case.dossier.answer_by
    if last.entry.phase is Phase.VERIFYING and not story.on_hold and answer_by is not None and answer_by < late_since:
        case.violated(1, last.place, "the wait for the person's identity has ended, and the request is still open")
    if story.last_due is not None:
        due_at = datetime.fromisoformat(story.last_due["due_at"])
        told = any(s.details["reason"] == "overdue" and s.note.entry.at >= due_at for s in story.escalated)
        if due_at < late_since and not told:
            case.violated(1, last.place, "the request is open past its due date, and no person was told")
    for order in _last_orders(case):
        if order.respond_by < late_since:
            case.violated(1, order.place, f"{order.system} has been silent beyond its patience, and no person was told")


def _last_orders(case: Case) -> list[Any]:
    """Return the newest order to each system about which nothing was heard or decided since."""
    story = case.story
    silent = {system for system in story.sent if system not in story.settled and system not in story.promised}
    return [order for order in case.dossier.orders if order.system in silent and order.attempt == story.attempts(order.system)]


def check_2_outcomes(case: Case) -> None:
    """2: every planned system's end stands in the log before the confirmation, by a report or by a person."""
    story = case.story
    for system, steps in story.settled.items():
        for again in steps[1:]:
            case.violated(2, again.note.place, f"{system} gets a second final outcome; the first one stands")
        if system not in story.plan:
            case.violated(2, steps[0].note.place, f"{system} gets a final outcome and is not in the plan")
        _check_authority(case, system, steps[0])
    first = case.dossier.confirmations[0] if case.dossier.confirmations else None
    if story.closed and not story.is_served_by_leader:
        _check_all_settled(case, first)
    elif story.notes and not story.closed and first is not None:
        case.violated(2, first.place, "a confirmation, and the journal does not say that the request has ended")


def _check_all_settled(case: Case, confirmed: ConfirmationNote | None) -> None:
    story = case.story
    closing = story.closed[0].note
    for system in story.plan:
        settled = story.settled.get(system)
        if not settled or settled[0].note.entry.sequence > closing.entry.sequence:
            case.violated(2, closing.place, f"it closes the request, and {system} has no final outcome before")
    if confirmed is not None:
        shown = sorted(result.system for result in confirmed.confirmation.systems)
        if shown != sorted(story.plan):
            case.violated(2, confirmed.place, "it shows other systems than the plan")


def _check_authority(case: Case, system: str, step: Step) -> None:
    code, report, entry = step.details["outcome"], step.details.get("report"), step.note.entry
    if report is not None:
        found = _report_of(case, step)
        if found is not None and found.fields["outcome"]["code"] in _PROGRESS:
            case.violated(2, step.note.place, f"the report it cites for {system} is not final")
    elif code in _REPORTED:
        case.violated(2, step.note.place, f"{system} ends as {code}, and no report says so")
    elif code == "waived" and entry.cause not in _PEOPLE:
        case.violated(2, step.note.place, f"{system} is waived, and no person's decision stands behind it")


def _report_of(case: Case, step: Step) -> InputNote | None:
    place = parse_source(step.note.entry.source)
    note = case.by_place.get(place) if place else None
    return note if note is not None and note.kind == "FulfilmentReport" else None


def check_7_reports(case: Case) -> None:
    """7: the confirmation says what the journal and the cited reports say."""
    story = case.story
    if not (story.closed and story.received and case.dossier.confirmations):
        return
    note = case.dossier.confirmations[0]
    _check_head_facts(case, note)
    _check_result(case, note)
    if story.is_served_by_leader:
        return  # its systems are compared with the leader's confirmation, once both are read
    for result in note.confirmation.systems:
        settled = story.settled.get(result.system)
        if settled:
            _check_system(case, note, result, settled[0])


def _check_head_facts(case: Case, note: ConfirmationNote) -> None:
    story, said = case.story, note.confirmation
    assert story.received is not None, "the caller has looked"
    received, closed = story.received.details, story.closed[0].details
    accepted_at = story.accepted.note.entry.at if story.accepted else None
    wanted = (
        received["portal"],
        received["right"],
        datetime.fromisoformat(received["submitted_at"]),
        accepted_at,
        closed["result"],
        closed.get("executed_request"),
    )
    if wanted != (said.portal, said.right, said.received_at, said.accepted_at, said.result, said.executed_request):
        case.violated(7, note.place, "portal, right, result or times are not those of the journal")


def _check_result(case: Case, note: ConfirmationNote) -> None:
    codes = {result.outcome.code.value for result in note.confirmation.systems}
    result = note.confirmation.result.value
    if result not in {"fulfilled", "fulfilled_with_exceptions", "not_fulfilled"}:
        return
    # Kept entirely, or only told of it: neither is what was asked for.
    partly = any(isinstance(shown.outcome, Retained) and shown.outcome.fulfilled for shown in note.confirmation.systems)
    done = partly or bool(codes & {"fulfilled", "nothing_held"})
    if done == (result == "not_fulfilled") or (result == "fulfilled" and codes & _EXCEPTIONS):
        case.violated(7, note.place, f"the result {result} does not follow from the systems' outcomes")


def _check_system(case: Case, note: ConfirmationNote, result: SystemResult, step: Step) -> None:
    system, story = result.system, case.story
    if result.outcome.code.value != step.details["outcome"]:
        case.violated(7, note.place, f"it says another outcome of {system} than the journal")
        return
    if result.settled_at != step.note.entry.at or result.attempts != story.attempts(system):
        case.violated(7, note.place, f"it says another time or number of attempts for {system} than the journal")
        return
    if step.details.get("report") is not None:
        _check_cited(case, note, result, step)
    elif result.report_id is not None:
        cited = [given for given in case.dossier.inputs if given.ident == result.report_id]
        if any(given.fields["outcome"]["code"] not in _PROGRESS for given in cited):
            case.violated(7, note.place, f"it cites a final report for {system}, whose outcome was decided otherwise")


def _check_cited(case: Case, note: ConfirmationNote, result: SystemResult, step: Step) -> None:
    system = result.system
    if result.report_id != step.details["report"]:
        case.violated(7, note.place, f"it cites another report of {system} than the journal")
        return
    report = _report_of(case, step)
    if report is None:
        place = parse_source(step.note.entry.source)
        if place is not None and case.ground.is_expired(place):
            case.unverified("reports cited in confirmations")
        return  # a source that is not there breaks invariant 8
    fields = report.fields
    if fields["outcome"]["code"] in _PROGRESS:
        return  # invariant 2 speaks of it
    said = result.model_dump()
    # A source that names another report is invariant 8's.
    if report.ident == result.report_id and result.report_sha256 != report.digest:
        case.violated(7, note.place, f"the report at {report.place} is not the one whose digest it carries for {system}")
        return
    # What was exported for a request that a person has ended is deleted again.
    results = () if note.confirmation.result in _ENDED_BY_A_PERSON else fields["results"]
    if said["results"] != results or any(said[part] != fields[part] for part in ("outcome", "notes")):
        case.violated(7, note.place, f"it says something else of {system} than the report at {report.place}")
