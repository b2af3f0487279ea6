"""How a system answered: a closed union, told apart by `code`.

Room rules: no field may hold an identity. Counts, dates and codes only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Actor, Day, Instant, Reason, Record
from schemas.vocabulary import FailureReason, NotApplicableReason, OutcomeCode, RetentionGround

__all__ = [
    "Accepted",
    "Failed",
    "FinalOutcome",
    "Fulfilled",
    "NotApplicable",
    "NothingHeld",
    "Notified",
    "Outcome",
    "ReportedOutcome",
    "Retained",
    "Waived",
]

_Count = Annotated[int, Field(ge=0, le=10_000_000)]


class Accepted(Record):
    """The system has taken the order and works on it. Progress, not an end."""

    code: Literal[OutcomeCode.ACCEPTED] = OutcomeCode.ACCEPTED
    expected_by: Annotated[Instant, Field(description="When the system expects to be done")]


class Fulfilled(Record):
    """Done. With `effective_by`: taken irrevocably, purged by that date, no way to ask; nothing calls it done earlier."""

    code: Literal[OutcomeCode.FULFILLED] = OutcomeCode.FULFILLED
    count: Annotated[_Count, Field(description="Records read, changed or deleted")]
    effective_by: Day | None = None


class NothingHeld(Record):
    """The system holds nothing about the person, or nothing any more: a success."""

    code: Literal[OutcomeCode.NOTHING_HELD] = OutcomeCode.NOTHING_HELD


class NotApplicable(Record):
    """Nothing to do here, and why."""

    code: Literal[OutcomeCode.NOT_APPLICABLE] = OutcomeCode.NOT_APPLICABLE
    reason: NotApplicableReason


class Retained(Record):
    """Data is kept, lawfully, until a date (GDPR Art. 17(3)); what could be deleted was."""

    code: Literal[OutcomeCode.RETAINED] = OutcomeCode.RETAINED
    ground: RetentionGround
    until: Annotated[Day | None, Field(description="When the ground ends; a reminder is due then, or after a year")] = None
    count: Annotated[_Count, Field(description="Records kept")] = 0
    fulfilled: Annotated[_Count, Field(description="Records deleted all the same")] = 0
    detail: Annotated[str, Field(max_length=120, description="The national law or rule, by its short name")] = ""


class Notified(Record):
    """Somebody was told (a recipient under GDPR Art. 19, a person with a task). Never shown as done."""

    code: Literal[OutcomeCode.NOTIFIED] = OutcomeCode.NOTIFIED
    recipients: Annotated[tuple[str, ...], Field(max_length=200, description="Organisations told, by registry name")] = ()


class Waived(Record):
    """A person decided that this system need not answer."""

    code: Literal[OutcomeCode.WAIVED] = OutcomeCode.WAIVED
    by: Actor
    why: Reason
    failed: Annotated[FailureReason | None, Field(description="Why it had failed before, if it had")] = None


class Failed(Record):
    """The connector gave up. Never closes a request: a person retries or waives."""

    code: Literal[OutcomeCode.FAILED] = OutcomeCode.FAILED
    reason: FailureReason


#: What a connector may report.
ReportedOutcome = Annotated[
    Accepted | Fulfilled | NothingHeld | NotApplicable | Retained | Notified | Failed,
    Field(discriminator="code"),
]
#: What ends an order.
FinalOutcome = Annotated[Fulfilled | NothingHeld | NotApplicable | Retained | Notified | Waived, Field(discriminator="code")]
#: Anything above.
Outcome = Annotated[
    Accepted | Fulfilled | NothingHeld | NotApplicable | Retained | Notified | Waived | Failed,
    Field(discriminator="code"),
]
