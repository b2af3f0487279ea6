"""What the clock events say happened, before any rule looks at it.

Room rules: a fold over the events in their order; impossible stories raise `ClockOutOfOrder` and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from orchestrator.core.deadlines.errors import ClockOutOfOrder
from orchestrator.core.deadlines.events import ClockEvent, Extended, IdentityConfirmed, Paused, Received, Resumed, local_date
from schemas.vocabulary import HoldKind

__all__ = ["Pause", "Story", "replay"]


@dataclass(slots=True)
class Pause:
    """One question to the person; `received_on` is None until the answer."""

    reason: HoldKind
    asked_on: date
    received_on: date | None = None


@dataclass(slots=True)
class Story:
    """What happened, in local dates at the seat. `confirmed_on`: identity information that came without an open question."""

    received_at: datetime
    received_on: date
    sent_at: datetime
    sent_on: date
    pauses: list[Pause] = field(default_factory=list)
    confirmed_on: list[date] = field(default_factory=list)
    extensions: list[Extended] = field(default_factory=list)

    def open_pauses(self, reason: HoldKind | None) -> list[Pause]:
        """Return the unanswered questions, of one reason or of all."""
        return [p for p in self.pauses if p.received_on is None and reason in (None, p.reason)]


def replay(events: Iterable[ClockEvent], zone: ZoneInfo) -> Story:
    """Return the story that the events tell at the seat.

    A question that is still open is not asked twice, and an answer to a question that was already answered changes nothing.
    Raises `ClockOutOfOrder`.
    """
    rest = iter(events)
    first = next(rest, None)
    if not isinstance(first, Received):
        raise ClockOutOfOrder(field="events", remedy="the first event is the receipt of the request")
    sent_at = first.sent_at or first.at
    story = Story(first.at, local_date(first.at, zone), sent_at, local_date(sent_at, zone))
    for event in rest:
        if isinstance(event, Paused):
            _ask(story, event)
        elif isinstance(event, Resumed):
            _answer(story, event)
        elif isinstance(event, IdentityConfirmed):
            _confirm(story, event.local_on(zone))
        elif isinstance(event, Extended):
            _extend(story, event)
        else:
            raise ClockOutOfOrder(field="events", remedy="a request is received once")
    return story


def _ask(story: Story, event: Paused) -> None:
    if event.asked_on < story.received_on:
        raise ClockOutOfOrder(field="asked_on", remedy="the question came before the request; give the date it was sent")
    if not story.open_pauses(event.reason):
        story.pauses.append(Pause(event.reason, event.asked_on))


def _answer(story: Story, event: Resumed) -> None:
    if not any(event.reason in (None, pause.reason) for pause in story.pauses):
        raise ClockOutOfOrder(field="reason", remedy="nothing was asked: record the question first")
    _close(story.open_pauses(event.reason), event.received_on)


def _confirm(story: Story, on: date) -> None:
    """End an open question for identity; information that came before it was asked for makes the question void."""
    asked = story.open_pauses(HoldKind.IDENTITY)
    answered = [pause for pause in asked if pause.asked_on <= on]
    story.pauses = [pause for pause in story.pauses if pause not in asked or pause in answered]
    if answered:
        _close(answered, on)
    else:
        story.confirmed_on.append(on)


def _close(pauses: list[Pause], on: date) -> None:
    if any(on < pause.asked_on for pause in pauses):
        raise ClockOutOfOrder(field="received_on", remedy="the answer came before the question; give the date it arrived")
    for pause in pauses:
        pause.received_on = on


def _extend(story: Story, event: Extended) -> None:
    if event.notice_sent_at < story.received_at:
        raise ClockOutOfOrder(field="notice_sent_at", remedy="the notice left before the request arrived; give its date")
    story.extensions.append(event)
