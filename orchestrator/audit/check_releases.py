"""Invariant 10: keys were given out for orders that were sent, to the system they were sent to, while the request was open.

And the other way round: whoever says how an order ended was given its key before. The order names nobody without it.

Room rules: one function per invariant, its number in its name; every finding says what it means, none quotes a value.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from orchestrator.audit.ground import Case, Ground
from orchestrator.audit.notes import ReleaseNote, parse_source
from orchestrator.audit.story import Step
from schemas.ids import order_id

__all__ = ["check_10_releases"]

#: One worker gives the key of an order that another one sent, or closed: so far may their clocks be apart.
_CLOCKS = timedelta(minutes=1)


def check_10_releases(case: Case) -> None:
    """10: the order follows from request and system, was sent to it before, its request was not closed; no end without one."""
    for (system, order), (first, last) in sorted(case.dossier.releases.items()):
        if order != order_id(case.dossier.request, system):
            case.violated(10, first.place, f"{system} got the key of an order that is not its own")
        elif not case.story.notes:
            _check_unknown(case, first)
        else:
            _check_times(case, first, last)
    for system, steps in case.story.settled.items():
        if steps[0].details.get("report") is not None:
            _check_known(case, system, steps[0])


def _check_known(case: Case, system: str, settled: Step) -> None:
    """Whoever reported how the order ended knew whom it is about."""
    ground, given, said_at = case.ground, case.dossier.releases, settled.note.entry.at
    released = given.get((system, order_id(case.dossier.request, system)))
    if released is not None:
        if released[0].released_at > said_at + _CLOCKS:
            case.violated(10, settled.note.place, f"{system} reported the order's end before it got the key: it knew nobody")
        return
    report = parse_source(settled.note.entry.source)
    sent_at = min((step.note.entry.at for step in case.story.sent.get(system, ())), default=said_at)
    if ground.all_read and _may_be_lost(ground, sent_at):
        case.unverified("keys given out for orders that ended")
    elif report is None or not ground.is_unread(report):
        case.violated(10, settled.note.place, f"{system} reported the order's end and never got its key: it knew nobody")


def _may_be_lost(ground: Ground, sent_at: datetime) -> bool:
    """Tell whether the topic may have had a record of that time: it is as old as its first one, or has lost some by age."""
    topic = ground.topics.releases
    began_at = ground.began_at(topic)
    return began_at is None or sent_at < began_at or ground.may_be_expired(topic, sent_at)


def _check_unknown(case: Case, note: ReleaseNote) -> None:
    if case.ground.has_lost(case.ground.topics.journal):
        case.unverified("keys given out for requests whose journal is gone")
    elif not _may_be_unread(case, note):
        case.violated(10, note.place, f"{note.system} got a key of a request that the journal does not know")


def _check_times(case: Case, first: ReleaseNote, last: ReleaseNote) -> None:
    system, story = first.system, case.story
    sent_at = min((step.note.entry.at for step in story.sent.get(system, ())), default=None)
    if sent_at is None:
        if not _may_be_unread(case, first):
            case.violated(10, first.place, f"{system} got the key of an order that the journal does not say was sent")
    elif first.released_at < sent_at - _CLOCKS:
        case.violated(10, first.place, f"{system} got the key before its order was sent")
    if story.closed and last.released_at > story.closed[0].note.entry.at + _CLOCKS:
        case.violated(
            10, last.place, f"{system} got the key after the request was closed: it should have been destroyed by then"
        )


def _may_be_unread(case: Case, note: ReleaseNote) -> bool:
    """Tell whether the journal may say of it what has not been read yet: a save is published a while after it counts."""
    return not case.story.closed and note.released_at >= case.ground.as_of - case.ground.slack
