"""What connectors answer, on `dsr.reports.v1`.

Room rules: counts, dates, codes; identifiers found on the way travel in `yielded`, sealed under the order's key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Instant, Message, Record
from schemas.ids import SubjectRequestId, SystemId
from schemas.outcomes import ReportedOutcome
from schemas.sealed import Sealed

__all__ = ["FulfilmentReport", "ResultReference"]


class ResultReference(Record):
    """Where the answer to an access request lies. The data itself never travels in Kafka."""

    reference: Annotated[str, Field(max_length=300, pattern=r"^[A-Za-z0-9._/:-]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, description="Bytes")]
    expires_at: Annotated[Instant, Field(description="The file is deleted in the days after")]
    kid: Annotated[str | None, Field(max_length=80, description="Name of the portal's key that it is sealed to")] = None


class FulfilmentReport(Message):
    """A connector's answer to one order. `accepted` is progress; `failed` asks for a person; the rest are final."""

    type: Literal["FulfilmentReport"] = "FulfilmentReport"
    report_id: Annotated[str, Field(max_length=80)]
    order_id: Annotated[str, Field(max_length=80)]
    subject_request_id: SubjectRequestId
    system: SystemId
    attempt: Annotated[int, Field(ge=1, le=10_000)]
    reported_at: Instant
    outcome: ReportedOutcome
    yielded: Annotated[Sealed | None, Field(description="`SubjectData` with identifiers found here")] = None
    results: Annotated[tuple[ResultReference, ...], Field(max_length=100)] = ()
    notes: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,59}$")], ...],
        Field(max_length=20, description="Audit notes, as codes of the connector's README"),
    ] = ()
