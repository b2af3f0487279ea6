"""What portals hear while a request is open, on `dsr.status.v1`.

Room rules: every event carries request, right, phase, due date and code, so that metrics can be built from it alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Day, Instant, Message
from schemas.ids import PortalId, SystemId
from schemas.vocabulary import EscalationReason, Phase, QuarantineReason, Right, StatusCode

__all__ = ["StatusEvent"]


class StatusEvent(Message):
    """One thing a portal should know. Not the answer: that is the confirmation."""

    type: Literal["StatusEvent"] = "StatusEvent"
    subject_request_id: Annotated[str, Field(max_length=64)]
    portal: PortalId | None = None
    right: Right | None = None
    code: StatusCode
    phase: Phase | None = None
    at: Instant
    due_on: Day | None = None
    answer_by: Annotated[Instant | None, Field(description="When the wait it tells of ends")] = None
    settled: Annotated[int | None, Field(description="Systems that have answered")] = None
    planned: Annotated[int | None, Field(description="Systems that must answer")] = None
    system: SystemId | None = None
    escalation: EscalationReason | None = None
    rejected: QuarantineReason | None = None
    field: Annotated[str | None, Field(max_length=200)] = None
    remedy: Annotated[str | None, Field(max_length=300)] = None
    related_request: str | None = None
    done: Annotated[tuple[SystemId, ...], Field(description="For too_late: systems already done")] = ()
