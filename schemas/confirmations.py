"""The one final answer, on `dsr.confirmations.v1`.

Room rules: made only from codes, dates and registry names; still true, and checkable, after every key is gone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Day, Instant, Message, Record
from schemas.ids import PortalId, SubjectRequestId, SystemId
from schemas.outcomes import FinalOutcome
from schemas.reports import ResultReference
from schemas.vocabulary import IdentityRefusalReason, Language, RefusalGround, RequestResult, Right, Role

__all__ = ["ChangeAfterAcceptance", "Confirmation", "DueDates", "SystemResult"]


class SystemResult(Record):
    """How one planned system ended."""

    system: SystemId
    title: str
    role: Role
    outcome: FinalOutcome
    settled_at: Instant
    attempts: Annotated[int, Field(ge=0)]
    report_id: str | None = None
    report_sha256: Annotated[
        str | None,
        Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the report, the value of its record"),
    ] = None
    results: tuple[ResultReference, ...] = ()
    notes: tuple[str, ...] = ()


class ChangeAfterAcceptance(Record):
    """What a person changed after the plan was frozen."""

    kind: Literal[
        "extended",
        "held",
        "resumed",
        "waived",
        "retried",
        "added",
        "approved",
        "superseded",
        "withdrawal_too_late",
    ]
    at: Instant
    actor: str
    reason: str
    system: SystemId | None = None


class DueDates(Record):
    """The legal dates, with the rule they come from. Not legal advice: check with counsel."""

    rule: Annotated[str, Field(description="Rule id, see docs/deadlines.md")]
    due_on: Day | None = None
    extended_due_on: Day | None = None
    acknowledge_by_on: Day | None = None
    notice_by_on: Day | None = None
    applicable_due_on: Annotated[Day | None, Field(description="The extended date after a valid extension, else due_on")] = None
    alert_on: Annotated[
        Day | None,
        Field(description="An earlier date to be done by, if the law may not count a pause that applicable_due_on counts"),
    ] = None
    due_at: Annotated[Instant, Field(description="The instant at which the applicable period ends")]


class Confirmation(Message):
    """How the request ended, system by system. One per request, whatever the result."""

    type: Literal["Confirmation"] = "Confirmation"
    confirmation_id: str
    subject_request_id: SubjectRequestId
    group_id: str | None = None
    portal: PortalId
    right: Right
    result: RequestResult
    refusal_ground: RefusalGround | None = None
    identity_refusal: IdentityRefusalReason | None = None
    executed_request: Annotated[
        SubjectRequestId | None,
        Field(description="For a duplicate: the request under which the work was done"),
    ] = None
    received_at: Instant
    accepted_at: Instant | None = None
    closed_at: Instant
    due: DueDates
    in_time: bool
    registry_version: str
    systems: tuple[SystemResult, ...]
    changes: tuple[ChangeAfterAcceptance, ...] = ()
    recipients_told: tuple[str, ...] = ()
    journal_head: Annotated[str, Field(description="SHA-256 of the journal entry that closed the request, and so of its chain")]
    text: Annotated[dict[Language, str], Field(description="The same in plain words, made from the codes above")]
