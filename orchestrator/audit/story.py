"""What a request's journal tells, entry by entry: the plan, what was sent, how each system ended, when it closed.

An independent reading of the journal's facts: the words of facts are the orchestrator's, the understanding is ours.

Room rules: a pure fold; it judges nothing and skips facts it has no use for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator.audit.notes import JournalNote

__all__ = ["Step", "Story", "tell"]


class Step(NamedTuple):
    """One fact, in the entry that carries it."""

    note: JournalNote
    details: Mapping[str, Any]


@dataclass(slots=True)
class Story:
    """The journal of one request, folded in the order of its entries."""

    received: Step | None = None
    accepted: Step | None = None
    closed: list[Step] = field(default_factory=list)
    #: Planned systems, with the step that planned them.
    plan: dict[str, Step] = field(default_factory=dict)
    sent: dict[str, list[Step]] = field(default_factory=dict)
    settled: dict[str, list[Step]] = field(default_factory=dict)
    #: Systems that were told that their order is over.
    cancelled: dict[str, list[Step]] = field(default_factory=dict)
    #: Last thing known of the promise or failure of a system that is not settled.
    promised: dict[str, Step] = field(default_factory=dict)
    escalated: list[Step] = field(default_factory=list)
    #: The request that does the work of this duplicate.
    leader: str | None = None
    #: Every fact that says due dates, in order.
    dated: list[tuple[str, Step]] = field(default_factory=list)
    on_hold: bool = False
    notes: list[JournalNote] = field(default_factory=list)

    @property
    def last_due(self) -> Mapping[str, Any] | None:
        """Return the due dates that apply at the end."""
        return self.dated[-1][1].details["due"] if self.dated else None

    def attempts(self, system: str) -> int:
        """Return how often the system was asked."""
        return max((int(step.details["attempt"]) for step in self.sent.get(system, ())), default=0)

    def outcome(self, system: str) -> str | None:
        """Return the code of the outcome that stands."""
        steps = self.settled.get(system)
        return str(steps[0].details["outcome"]) if steps else None

    @property
    def is_served_by_leader(self) -> bool:
        """Tell whether it closed with another request's outcomes."""
        closed = self.closed[0].details if self.closed else {}
        return self.leader is not None and closed.get("executed_request") == self.leader


def tell(notes: Iterable[JournalNote], request: str) -> Story:
    """Return the story of the entries, given in their order."""
    story = Story()
    for note in notes:
        story.notes.append(note)
        for fact in note.entry.facts:
            step = Step(note, fact.details)
            if isinstance(fact.details.get("due"), dict):
                story.dated.append((fact.fact, step))
            _fold(story, fact.fact, step, request)
    return story


def _fold(story: Story, fact: str, step: Step, request: str) -> None:
    details = step.details
    match fact:
        case "request_received":
            story.received = story.received or step
        case "request_accepted":
            story.accepted = step
            story.plan.update(dict.fromkeys(details["systems"], step))
            for system in details["not_applicable"]:
                settled = Step(step.note, {"system": system, "outcome": "not_applicable", "report": None})
                story.settled.setdefault(system, []).append(settled)
        case "system_added":
            story.plan[details["system"]] = step
        case "request_closed":
            story.closed.append(step)
        case "joined":
            story.leader = details["leader"]
        case "leader_gone":
            story.leader = None if details["heir"] == request else details["heir"]
        case "held" | "resumed":
            story.on_hold = fact == "held"
        case _:
            _fold_order(story, fact, step)


def _fold_order(story: Story, fact: str, step: Step) -> None:
    details = step.details
    match fact:
        case "order_sent":
            story.sent.setdefault(details["system"], []).append(step)
            story.promised.pop(details["system"], None)
        case "order_accepted" | "order_failed":
            story.promised[details["system"]] = step
        case "order_cancelled":
            story.cancelled.setdefault(details["system"], []).append(step)
        case "order_settled":
            story.settled.setdefault(details["system"], []).append(step)
        case "escalated":
            story.escalated.append(step)
            if details["system"]:
                story.promised[details["system"]] = step
        case _:
            pass
