"""Invariants 5 and 6: the chain of entries, and the dates they carry.

Room rules: one function per invariant, its number in its name; every finding says what it means, none quotes a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from orchestrator.audit.dates import Clock, Dates, How, check_dates, local
from orchestrator.audit.ground import Case
from orchestrator.audit.notes import InputNote, parse_source
from orchestrator.audit.story import Step
from schemas.journal import GENESIS

__all__ = ["check_5_dates", "check_6_chain"]

_STOPS_THE_CLOCK = {"clarification", "identity", "fee"}


def check_6_chain(case: Case) -> None:
    """6: entries are numbered from 1 without a gap and name the digest of the one before; the confirmation names the last."""
    journal = case.dossier.journal
    previous, expected = GENESIS, 1
    for sequence in sorted(journal):
        note = journal[sequence]
        if sequence != expected:
            if expected == 1 and case.ground.has_lost_since(note.place, _began_at(case)):
                case.unverified("journals whose first entries are gone")
                case.journal_is_whole = False
            else:
                _broken(case, note.place, f"entries {expected} to {sequence - 1} are missing before it")
        elif note.entry.previous != previous:
            _broken(case, note.place, "it does not carry the digest of the entry before: that one, or this, was changed")
        previous, expected = note.digest, sequence + 1
    if any(oddity.invariant == 6 for oddity in case.dossier.oddities):
        case.journal_is_whole = False
    _check_head(case)


def _began_at(case: Case) -> datetime | None:
    """Return when the request was received, as far as its confirmation says so."""
    confirmations = case.dossier.confirmations
    return confirmations[0].confirmation.received_at if confirmations else None


def _broken(case: Case, place: Any, why: str) -> None:
    case.journal_is_whole = False
    case.violated(6, place, f"{why}; what else the journal says of this request was not checked")


def _check_head(case: Case) -> None:
    confirmations, closed = case.dossier.confirmations, case.story.closed
    if not (confirmations and closed and case.journal_is_whole):
        return
    for note in confirmations:
        if note.confirmation.journal_head != closed[0].note.digest:
            why = "it does not carry the digest of the journal entry that closed the request: that one, or this, was changed"
            _broken(case, note.place, why)


def check_5_dates(case: Case) -> None:
    """5: dates follow from the facts, the confirmation repeats them, and nobody was late without having been told."""
    _recompute(case)
    _check_confirmed(case)
    _check_late(case)


def _recompute(case: Case) -> None:
    clock: Clock | None = None
    for fact, step in case.story.dated:
        if fact == "request_received":
            clock = _start(step.details)
        if clock is None:
            case.violated(5, step.note.place, "it says due dates before the request was received")
            return
        if not _apply(case, clock, fact, step):
            case.unverified("due dates after a command that is gone")
            return
        try:
            how, wrong = check_dates(clock, Dates.of(step.details["due"]))
        except (KeyError, TypeError, ValueError):
            how, wrong = How.CONSISTENT, "the dates cannot be read"
        case.findings.dates[clock.rule, how] += 1
        if wrong:
            case.violated(5, step.note.place, f"under {clock.rule} ({how}): {wrong}")
            return


def _start(details: Mapping[str, Any]) -> Clock:
    at = datetime.fromisoformat(details["submitted_at"])
    return Clock(rule=details["rule"], zone=details["zone"], calendar=details["calendar"], submitted_at=at)


def _apply(case: Case, clock: Clock, fact: str, step: Step) -> bool:
    """Let the fact move the clock; return False if the command that it came from is needed and gone."""
    if fact == "identity_confirmed":
        clock.identify(datetime.fromisoformat(step.details["at"]))
    if fact not in {"extended", "held", "resumed"}:
        return True
    command = _command_of(case, step)
    if command is None:
        return False
    today = local(step.note.entry.at, clock.zone)
    kind = str(step.details.get("kind"))
    if fact == "extended":
        clock.notices.append(command.fields["notice_sent_at"])
        clock.named_on = _day(command, "until_on")
    elif kind in _STOPS_THE_CLOCK:
        if fact == "held":
            clock.ask(kind, _day(command, "asked_on") or today)
        else:
            clock.answer(kind, _day(command, "received_on") or today)
    return True


def _day(command: InputNote, name: str) -> date | None:
    given = command.fields.get(name)
    return given if isinstance(given, date) else None


def _command_of(case: Case, step: Step) -> InputNote | None:
    place = parse_source(step.note.entry.source)
    note = case.by_place.get(place) if place else None
    return note if note is not None and note.kind == step.note.entry.cause else None


def _check_confirmed(case: Case) -> None:
    story = case.story
    if not (case.dossier.confirmations and story.closed and story.dated):
        return
    note, closing = case.dossier.confirmations[0], story.closed[0]
    confirmation = note.confirmation
    said = confirmation.due.model_dump(mode="json", exclude_none=True)
    if said != story.last_due:
        case.violated(5, note.place, "its due dates are not the ones that the journal says apply")
    if confirmation.closed_at != closing.note.entry.at:
        case.violated(5, note.place, "it closed at another time than the journal says")
    in_time = closing.note.entry.at <= confirmation.due.due_at
    if confirmation.in_time != in_time or closing.details["in_time"] != in_time:
        case.violated(5, note.place, "whether it was in time is said wrongly")


def _check_late(case: Case) -> None:
    story = case.story
    if not (story.closed and story.last_due):
        return
    closing = story.closed[0].note
    if closing.entry.at <= datetime.fromisoformat(story.last_due["due_at"]):
        return
    warned = any(
        step.details["reason"] in {"due_soon", "overdue"} and step.note.entry.sequence <= closing.entry.sequence
        for step in story.escalated
    )
    if not warned:
        case.violated(5, closing.place, "it closed after its due date, and no person was told before")
