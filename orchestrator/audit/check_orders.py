"""Invariants 3, 4 and 8: orders, reports, and what every input led to.

Room rules: one function per invariant, its number in its name; every finding says what it means, none quotes a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.audit.ground import Case
from orchestrator.audit.notes import CancellationNote, InputNote, JournalNote, OrderNote, parse_source
from orchestrator.audit.records import Place
from schemas.ids import order_id
from schemas.wire import COMMANDS, PORTAL_MESSAGES

__all__ = ["check_3_orders", "check_4_content", "check_8_inputs"]

_REPORT = "FulfilmentReport"
_COMMANDS = {model.__name__ for model in COMMANDS}
_INPUTS = {model.__name__ for model in PORTAL_MESSAGES} | _COMMANDS | {_REPORT}


def check_3_orders(case: Case) -> None:
    """3: every order belongs to the plan, every sending is in the topic, every report answers a sending."""
    for order in case.dossier.orders:
        _check_order(case, order)
    there = {(order.system, order.attempt) for order in case.dossier.orders}
    for system, steps in case.story.sent.items():
        for step in steps:
            if (system, step.details["attempt"]) in there:
                continue
            if case.ground.may_be_expired(case.ground.topics.orders(system), step.note.entry.at):
                case.unverified("orders")
            else:
                case.violated(3, step.note.place, f"it says that an order went to {system}, and the topic has none such")
    _check_cancellations(case)
    for note in case.dossier.inputs:
        if note.kind == _REPORT and _counts(case, note) and not _answers(case, note):
            _answers_nothing(case, note)


def _check_cancellations(case: Case) -> None:
    """What systems were told to leave undone is what the journal says they were told, and was sent to them before."""
    story = case.story
    for note in case.dossier.cancellations:
        _check_cancellation(case, note)
    told = {note.system for note in case.dossier.cancellations}
    for system, steps in story.cancelled.items():
        if system in told:
            continue
        if case.ground.may_be_expired(case.ground.topics.orders(system), steps[0].note.entry.at):
            case.unverified("orders")
        else:
            case.violated(3, steps[0].note.place, f"it says that {system} was told that its order is over, and it was not")


def _check_cancellation(case: Case, note: CancellationNote) -> None:
    story, said = case.story, (note.attempt, note.reason)
    right = story.received.details.get("right") if story.received else None
    if note.order_id != order_id(case.dossier.request, note.system):
        case.violated(3, note.place, "its order id is not the one that follows from request and system")
    elif said not in [(step.details["attempt"], step.details["reason"]) for step in story.cancelled.get(note.system, ())]:
        case.violated(3, note.place, f"{note.system} was told that its order is over, and the journal does not say so")
    elif note.attempt != story.attempts(note.system) or note.right != right:
        case.violated(3, note.place, "it calls off another attempt, or another right, than was sent")


def _answers_nothing(case: Case, note: InputNote) -> None:
    has_entry = any(entry.entry.source == str(note.place) for entry in case.story.notes)
    if not has_entry and case.ground.may_be_expired(case.ground.topics.quarantine, note.written_at):
        case.unverified("inputs that may have been set aside")
    else:
        case.violated(3, note.place, f"it reports for {note.fields['system']} on an order that was not sent")


def _check_order(case: Case, order: OrderNote) -> None:
    story = case.story
    request = case.dossier.request
    received = story.received.details if story.received else {}
    if not story.notes:
        case.violated(3, order.place, f"an order went to {order.system} for a request that the journal does not know")
    elif order.system not in story.plan:
        case.violated(3, order.place, f"an order went to {order.system}, which is not in the request's plan")
    elif order.order_id != order_id(request, order.system):
        case.violated(3, order.place, "its order id is not the one that follows from request and system")
    elif order.right != received.get("right"):
        case.violated(3, order.place, "it asks for another right than the request")
    elif not any(step.details["attempt"] == order.attempt for step in story.sent.get(order.system, ())):
        case.violated(3, order.place, f"attempt {order.attempt} went to {order.system}, and the journal does not say so")
    elif not _is_vouched_for(order, story.accepted.details if story.accepted else {}):
        case.violated(3, order.place, "it names another verification of the person than the journal")


def _is_vouched_for(order: OrderNote, accepted: Mapping[str, Any]) -> bool:
    """Tell whether an order says of the verification what the journal says, as far as both do: older releases say less."""
    return all(accepted.get(name, said) == said for name, said in order.verification.items())


def _counts(case: Case, note: InputNote) -> bool:
    """Tell whether a report was taken: not set aside, and not still waiting to be read."""
    return note.place not in case.dossier.quarantined and case.ground.is_processed(note.place)


def _answers(case: Case, note: InputNote) -> bool:
    fields = note.fields
    system = str(fields["system"])
    named = fields["order_id"] == order_id(case.dossier.request, system)
    return named and 1 <= int(fields["attempt"]) <= case.story.attempts(system)


def check_4_content(case: Case) -> None:
    """4: what one system got for this request is the same each time; the same attempt is the same to the byte."""
    first: dict[str, OrderNote] = {}
    attempts: dict[tuple[str, int], OrderNote] = {}
    for order in sorted(case.dossier.orders, key=lambda note: (note.system, note.attempt, note.place)):
        known = first.setdefault(order.system, order)
        same = attempts.setdefault((order.system, order.attempt), order)
        if order.content != known.content:
            meaning = f"{order.system} got this order with other content at {known.place}"
            case.violated(4, order.place, meaning)
        elif same is not order:
            case.violated(4, order.place, f"attempt {order.attempt} stands at {same.place} as well, with other times")


def check_8_inputs(case: Case) -> None:
    """8: every input has its entry, repeats one that has, or was set aside; every entry has its input."""
    traced: dict[Place, JournalNote] = {}
    for note in case.story.notes:
        if note.entry.cause in _INPUTS:
            _check_source(case, note, traced)
    _check_received(case)
    taken = {case.by_place[place].print for place in traced}
    for given in case.dossier.inputs:
        aside = given.place in case.dossier.quarantined
        if given.place in traced:
            if aside:
                case.violated(8, given.place, f"it was set aside, and acted on all the same at {traced[given.place].place}")
        elif not aside and not _is_explained(case, given, taken):
            _without_effect(case, given)


def _check_source(case: Case, note: JournalNote, traced: dict[Place, JournalNote]) -> None:
    entry = note.entry
    place = parse_source(entry.source)
    if place is None:
        case.violated(8, note.place, f"it was caused by a {entry.cause}, and names no record")
        return
    given = case.by_place.get(place)
    if given is not None and given.kind == entry.cause:
        if place in traced:
            case.violated(8, note.place, f"its input has led to an entry before, at {traced[place].place}")
        traced[place] = note
        if not _fits(note, given):
            case.violated(8, note.place, f"the record it names as its input, {place}, says something else than its facts")
    elif given is not None:
        case.violated(8, note.place, f"the record it names as its input, {place}, is no {entry.cause}")
    elif case.ground.is_expired(place):
        case.unverified("inputs of journal entries")
    elif not case.ground.is_unread(place):
        case.violated(8, note.place, f"the record it names as its input, {place}, is not there or is of another request")


def _fits(note: JournalNote, given: InputNote) -> bool:
    """Tell whether an entry's facts can come from this input: about the same system, citing the same report."""
    facts = [fact.details for fact in note.entry.facts]
    cited = {details["report"] for details in facts if details.get("report")}
    system = given.fields.get("system")
    return cited <= {given.ident} and (system is None or any(details.get("system") == system for details in facts))


def _check_received(case: Case) -> None:
    received = case.story.received
    place = parse_source(received.note.entry.source) if received else None
    given = case.by_place.get(place) if place else None
    if received is None or given is None:
        return
    at = given.fields.get("submitted_at")
    said = {name: received.details.get(name) for name in ("portal", "right")}
    asked = {name: given.fields.get(name) for name in ("portal", "right")}
    if said != asked or at is None or received.details["submitted_at"] != _instant(at.isoformat()):
        case.violated(8, received.note.place, f"it says another portal, right or time than the request at {given.place}")


def _instant(text: str) -> str:
    return text.removesuffix("+00:00") + "Z"


def _is_explained(case: Case, given: InputNote, taken: set[int]) -> bool:
    """Tell whether an input may rightly have left no entry: it repeats one, or came when nothing could follow from it."""
    if not given.kind or given.print in taken:
        return bool(given.kind)
    story = case.story
    if given.kind == "SubmitRequest":
        # The one it repeats may be gone by age; then the journal knows it by its source.
        source = parse_source(story.received.note.entry.source) if story.received else None
        return source is not None and case.ground.is_expired(source)
    if given.kind == "ConfirmIdentity":
        return story.accepted is not None or bool(story.closed)
    if given.kind == "RefuseIdentity":
        return bool(story.closed)
    if given.kind in {"WithdrawRequest", "Withdraw"}:
        return bool(story.closed) and story.closed[0].details["result"] == "withdrawn"
    return given.kind == _REPORT and _report_says_nothing_new(case, given)


def _report_says_nothing_new(case: Case, given: InputNote) -> bool:
    system, code = str(given.fields["system"]), given.fields["outcome"]["code"]
    if not _answers(case, given):
        return True  # invariant 3 speaks of it
    stands = case.story.outcome(system)
    if stands is not None and code in {"accepted", stands}:
        return True
    if code == "accepted":  # a promise repeated, and not for a later date
        return any(other.ident == given.ident and other.place != given.place for other in case.dossier.inputs)
    return bool(code == "failed" and int(given.fields["attempt"]) < case.story.attempts(system))


def _without_effect(case: Case, given: InputNote) -> None:
    if not case.ground.is_processed(given.place):
        case.findings.waiting += 1
        return
    if case.ground.may_be_expired(case.ground.topics.quarantine, given.written_at):
        case.unverified("inputs that may have been set aside")
        return
    what = given.kind or "record that cannot be read"
    if given.ident and any(other.ident == given.ident and other.print != given.print for other in case.dossier.inputs):
        case.violated(8, given.place, f"this {what} carries the id of another one with other content, and was dropped")
    else:
        case.violated(8, given.place, f"this {what} led to no journal entry and was not set aside")
