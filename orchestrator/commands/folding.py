"""What the log tells of one request: its journal, status events and confirmation folded into one view.

The commands read the log and never the store, so a view holds what an auditor could read as well, and no identity.

Room rules: pure; facts it has no use for change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from schemas.confirmations import Confirmation, DueDates
from schemas.journal import JournalEntry
from schemas.status import StatusEvent
from schemas.vocabulary import EscalationReason, OrderPhase, OutcomeCode, Phase, StatusCode

__all__ = ["RequestView", "SystemView"]

#: Outcomes after which a system keeps nothing.
_GONE = {OutcomeCode.FULFILLED, OutcomeCode.NOTHING_HELD}


@dataclass(slots=True)
class SystemView:
    """Where the order to one system is."""

    system: str
    phase: OrderPhase = OrderPhase.WAITING
    attempt: int = 0
    #: When it entered its phase.
    since: datetime | None = None
    outcome: str | None = None
    #: For an accepted order: when the system expects to be done.
    expected_by: str | None = None
    #: Why a person was told, and what the connector said last.
    reason: str | None = None
    #: Requests of the same person that go first here.
    gated_by: tuple[str, ...] = ()
    #: What its last report after its end said, and when a person was told that this contradicts the outcome.
    said_late: str | None = None
    contradicted: datetime | None = None
    #: When the ground for keeping data ended; until the system says that the data is gone.
    retention_ended: datetime | None = None
    #: When somebody was asked to look whether a ground without an end still holds.
    review_asked: datetime | None = None

    def enter(self, phase: OrderPhase, at: datetime) -> None:
        """Note the phase and since when; what was said of an earlier one no longer holds."""
        self.phase, self.since = phase, at
        self.expected_by = self.reason = None


@dataclass(slots=True)
class RequestView:
    """One request as far as it was read."""

    subject_request_id: str
    right: str | None = None
    portal: str | None = None
    phase: Phase = Phase.RECEIVED
    submitted_at: str | None = None
    zone: str = "UTC"
    due: DueDates | None = None
    verify_by: datetime | None = None
    #: Kind, and when somebody looks again.
    hold: tuple[str, str] | None = None
    approval_awaited: bool = False
    #: When a person was told of the request as a whole, by reason.
    told: dict[str, datetime] = field(default_factory=dict)
    #: The request that does the work of this duplicate.
    leader: str | None = None
    result: str | None = None
    in_time: bool | None = None
    systems: dict[str, SystemView] = field(default_factory=dict)
    #: Number of journal entries; the last one's sequence.
    sequence: int = 0
    rejections: list[StatusEvent] = field(default_factory=list)
    confirmation: Confirmation | None = None

    @property
    def is_known(self) -> bool:
        """Tell whether the request was ever taken."""
        return self.sequence > 0

    @property
    def due_on(self) -> date | None:
        """Return the local date by which the answer is due."""
        return self.due.applicable_due_on if self.due else None

    @property
    def by_due_date(self) -> tuple[str, str]:
        """Return what requests are sorted by, the most urgent first; those without a date last."""
        return (self.due_on.isoformat() if self.due_on else "9999", self.subject_request_id)

    @property
    def lacks_approval(self) -> bool:
        """Tell whether an order waits for a second pair of eyes."""
        return self.approval_awaited and any(system.phase is OrderPhase.WAITING for system in self.systems.values())

    def days_left(self, now: datetime) -> int | None:
        """Return whole days until the due date, at the controller's seat; below zero when it has passed."""
        return (self.due_on - now.astimezone(ZoneInfo(self.zone)).date()).days if self.due_on else None

    # Folding -------------------------------------------------------------------------------------------------------------

    def journal(self, entry: JournalEntry) -> None:
        """Fold the next entry; one that was read before, a doubled record, changes nothing."""
        if entry.sequence <= self.sequence:
            return
        self.sequence, self.phase = entry.sequence, entry.phase
        for fact in entry.facts:
            if isinstance(fact.details.get("due"), dict):
                self.due = DueDates.model_validate(fact.details["due"])
            _REQUEST.get(fact.fact, _ignore)(self, fact.details, entry.at)
            if "system" in fact.details:
                self._system_fact(fact.fact, fact.details, entry.at)

    def status(self, event: StatusEvent) -> None:
        """Fold a status event: what the journal does not say."""
        if event.code is StatusCode.REJECTED:
            self.rejections.append(event)
        elif event.code is StatusCode.IDENTITY_AWAITED:
            self.verify_by = event.answer_by

    def confirm(self, confirmation: Confirmation) -> None:
        """Fold the confirmation."""
        self.confirmation = confirmation

    def _system_fact(self, fact: str, details: Mapping[str, Any], at: datetime) -> None:
        name = details["system"]
        if not name:
            return
        system = self.systems.setdefault(name, SystemView(name))
        match fact:
            case "order_sent":
                system.enter(OrderPhase.SENT, at)
                system.attempt, system.gated_by = int(details["attempt"]), ()
            case "order_accepted":
                system.enter(OrderPhase.ACCEPTED, at)
                system.expected_by = str(details["expected_by"])
            case "order_failed":
                system.enter(OrderPhase.ESCALATED, at)
                system.reason = str(details["reason"])
            case "order_settled":
                system.enter(OrderPhase.SETTLED, at)
                system.outcome, system.gated_by = str(details["outcome"]), ()
            case "late_report":
                system.said_late = str(details["outcome"])
                if system.said_late in _GONE:
                    system.retention_ended = system.review_asked = None
            case "retention_ended":
                system.retention_ended = at
            case "escalated":
                self._escalated(system, str(details["reason"]), at)
            case _:
                pass

    def _escalated(self, system: SystemView, reason: str, at: datetime) -> None:
        """Note it; the phase stays where the order has ended (a late report) or the failure, which says more, is known."""
        if reason == EscalationReason.LATE_REPORT:
            system.contradicted = at
        if reason == EscalationReason.RETENTION_REVIEW:
            system.review_asked = at
        if system.phase in {OrderPhase.SETTLED, OrderPhase.ESCALATED} or reason == EscalationReason.APPROVAL_AWAITED:
            return
        system.enter(OrderPhase.ESCALATED, at)
        system.reason = reason


def _ignore(_view: RequestView, _details: Mapping[str, Any], _at: datetime) -> None:
    pass


def _received(view: RequestView, details: Mapping[str, Any], _at: datetime) -> None:
    view.right, view.portal = details["right"], details["portal"]
    view.submitted_at, view.zone = details["submitted_at"], details["zone"]


def _accepted(view: RequestView, details: Mapping[str, Any], at: datetime) -> None:
    view.verify_by = None
    for name in details["systems"]:
        view.systems[name] = system = SystemView(name, since=at)
        if name in details["not_applicable"]:
            system.enter(OrderPhase.SETTLED, at)
            system.outcome = OutcomeCode.NOT_APPLICABLE


def _held(view: RequestView, details: Mapping[str, Any], _at: datetime) -> None:
    view.hold = (details["kind"], details["review_on"])


def _resumed(view: RequestView, _details: Mapping[str, Any], _at: datetime) -> None:
    view.hold = None


def _gated(view: RequestView, details: Mapping[str, Any], _at: datetime) -> None:
    for name in details["systems"]:
        system = view.systems.setdefault(name, SystemView(name))
        system.gated_by = tuple(dict.fromkeys((*system.gated_by, details["by"])))


def _joined(view: RequestView, details: Mapping[str, Any], _at: datetime) -> None:
    view.leader = details["leader"]


def _leader_gone(view: RequestView, details: Mapping[str, Any], _at: datetime) -> None:
    view.leader = None if details["heir"] == view.subject_request_id else details["heir"]


def _escalated(view: RequestView, details: Mapping[str, Any], at: datetime) -> None:
    if not details["system"]:
        view.told[details["reason"]] = at
    view.approval_awaited |= details["reason"] == EscalationReason.APPROVAL_AWAITED


def _approved(view: RequestView, _details: Mapping[str, Any], _at: datetime) -> None:
    view.approval_awaited = False


def _closed(view: RequestView, details: Mapping[str, Any], _at: datetime) -> None:
    view.result, view.in_time = details["result"], details["in_time"]
    view.hold, view.approval_awaited = None, False


_REQUEST = {
    "request_received": _received,
    "request_accepted": _accepted,
    "held": _held,
    "resumed": _resumed,
    "gated": _gated,
    "joined": _joined,
    "leader_gone": _leader_gone,
    "escalated": _escalated,
    "approved": _approved,
    "request_closed": _closed,
}
