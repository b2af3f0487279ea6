"""Everything the log says of one request, collected in any order.

Room rules: collects; what it means is for the checks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from datetime import datetime

from orchestrator.audit.findings import Violation
from orchestrator.audit.notes import (
    CancellationNote,
    ConfirmationNote,
    InputNote,
    JournalNote,
    Note,
    OrderNote,
    QuarantineNote,
    ReleaseNote,
    StatusNote,
    Unreadable,
)
from orchestrator.audit.records import Place
from schemas.vocabulary import Phase

__all__ = ["Dossier", "Frozen"]


class Frozen:
    """What is kept of a closed request in which all is well: eight bytes a record, and eight for its outcomes.

    Enough to know any of its records again. Whatever else comes for it later cannot be judged by that, so the whole request is
    then read a second time.
    """

    __slots__ = ("outcomes", "prints")

    def __init__(self, prints: Iterable[int], outcomes: int) -> None:
        self.prints = array("Q", prints)
        self.outcomes = outcomes

    def knows(self, printed: int) -> bool:
        """Tell whether a record with these bytes was part of it."""
        return printed in self.prints


class Dossier:
    """The notes of one request."""

    __slots__ = (
        "answer_by",
        "cancellations",
        "confirmations",
        "inputs",
        "journal",
        "latest",
        "oddities",
        "orders",
        "prints",
        "quarantined",
        "releases",
        "request",
    )

    def __init__(self, request: str) -> None:
        self.request = request
        self.inputs: list[InputNote] = []
        self.orders: list[OrderNote] = []
        self.cancellations: list[CancellationNote] = []
        self.journal: dict[int, JournalNote] = {}
        self.confirmations: list[ConfirmationNote] = []
        self.quarantined: set[Place] = set()
        #: By system and order id, the first and the last time its key was given out: what lies between is in order if they are.
        self.releases: dict[tuple[str, str], tuple[ReleaseNote, ReleaseNote]] = {}
        #: Violations that show as soon as a record is read.
        self.oddities: list[Violation] = []
        self.answer_by: datetime | None = None
        self.prints: set[int] = set()
        #: Entry with the highest sequence so far.
        self.latest: JournalNote | None = None

    def add(self, note: Note) -> bool:
        """Take a note in; return False if its record repeats one that is here already, byte for byte."""
        is_new = note.print not in self.prints
        match note:
            case InputNote():
                self.prints.add(note.print)
                self.inputs.append(note)
                return is_new
            case QuarantineNote():
                # The same bytes may have been set aside from two places: each has its own effect.
                if note.origin is not None:
                    self.quarantined.add(note.origin)
                return True
            case StatusNote():
                if note.code == "identity_awaited" and note.answer_by is not None:
                    self.answer_by = max(note.answer_by, self.answer_by or note.answer_by)
                return True
            case ReleaseNote():
                known = self.releases.get((note.system, note.order_id), (note, note))
                self.releases[note.system, note.order_id] = min(known[0], note, key=_when), max(known[1], note, key=_when)
                return True
        if is_new:
            self.prints.add(note.print)
            self._add_ours(note)
        return is_new

    def _add_ours(self, note: OrderNote | CancellationNote | JournalNote | ConfirmationNote | Unreadable) -> None:
        match note:
            case OrderNote():
                self.orders.append(note)
            case CancellationNote():
                self.cancellations.append(note)
            case ConfirmationNote():
                self.confirmations.append(note)
            case JournalNote():
                self._add_entry(note)
            case Unreadable():
                self.oddities.append(Violation(note.invariant, self.request, note.place, note.why))

    def _add_entry(self, note: JournalNote) -> None:
        sequence = note.entry.sequence
        if sequence in self.journal:
            other = self.journal[sequence].place
            why = f"two different entries carry number {sequence}; the other one is {other}"
            self.oddities.append(Violation(6, self.request, note.place, why))
            return
        self.journal[sequence] = note
        if self.latest is None or sequence > self.latest.entry.sequence:
            self.latest = note

    @property
    def may_be_complete(self) -> bool:
        """Tell whether the request seems to have ended: worth a look whether all is there and well."""
        return bool(self.confirmations) and self.latest is not None and self.latest.entry.phase is Phase.CLOSED


def _when(note: ReleaseNote) -> tuple[datetime, Place]:
    return note.released_at, note.place
