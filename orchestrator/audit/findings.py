"""The invariants by number, and what is found against them.

The numbers are the same in docs/audit.md, in the names of the check functions and in the tests.

Room rules: words and counters; no check is made here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.audit.records import Place

__all__ = ["INVARIANTS", "Findings", "Violation"]

INVARIANTS: Mapping[int, str] = {
    1: "every accepted request has exactly one distinct confirmation, or is open and within its stored waits",
    2: "no confirmation before every planned system has a final outcome, a waiver or an operator's decision in the log",
    3: "every report answers an order that was sent, every order belongs to a plan",
    4: "no system got an order twice with different content",
    5: "due dates follow from the journal's facts; nothing is late without an extension or an escalation before",
    6: "the journal's hash chain of each request is unbroken",
    7: "confirmations agree with the reports they cite",
    8: "quarantined records and repetitions are the only inputs without effect, and no effect lacks its input",
    9: "no identity stands in clear",
    10: "every key that was given out is of an order sent to that very system, after its sending and before its request "
    "closed; no system reported an order's end without its key",
    11: "what the orchestrator says is signed by it, and what had an effect is signed by whom it names",
}


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One broken invariant: which, of which request, where to look, and what it means. Quotes no value of a record."""

    invariant: int
    request: str
    place: Place | None
    meaning: str


@dataclass(slots=True)
class Findings:
    """What the checks of one request, or of all, found.

    `unverified` counts what could not be checked because the broker had deleted the records by age; `dates` counts, by rule
    and by how, the due dates that were checked; `waiting` are inputs behind everything that was processed so far.
    """

    violations: list[Violation] = field(default_factory=list)
    unverified: Counter[str] = field(default_factory=Counter)
    dates: Counter[tuple[str, str]] = field(default_factory=Counter)
    waiting: int = 0

    def violated(self, invariant: int, request: str, place: Place | None, meaning: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(invariant, request, place, meaning))

    def merge(self, other: Findings) -> None:
        """Add what another one counted and found."""
        self.violations += other.violations
        self.unverified += other.unverified
        self.dates += other.dates
        self.waiting += other.waiting
