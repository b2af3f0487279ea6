"""What the orchestrator asks of one system, on `dsr.orders.<system>.v1`.

Room rules: an order holds only what the registry says that system needs, and the word that it is over nothing of the person.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Day, Instant, Message
from schemas.blobs import BlobKey
from schemas.ids import SubjectRequestId, SystemId
from schemas.requests import Verification
from schemas.sealed import Sealed
from schemas.vocabulary import CancellationReason, Right

__all__ = ["FulfilmentOrder", "OrderCancelled", "order_binding", "order_terms"]


class FulfilmentOrder(Message):
    """One request x one system. Same `order_id` at every attempt; only `attempt`, `issued_at` and the portal's key change."""

    type: Literal["FulfilmentOrder"] = "FulfilmentOrder"
    order_id: str
    subject_request_id: SubjectRequestId
    system: SystemId
    right: Right
    attempt: Annotated[int, Field(ge=1, le=10_000)]
    issued_at: Instant
    received_at: Annotated[Instant, Field(description="When the person asked (OpenDSR `submitted_time`)")]
    due_on: Annotated[Day, Field(description="Legal due date of the request, controller's local date")]
    respond_by: Annotated[Instant, Field(description="Patience: without a report by then a person is told")]
    sealed: Annotated[Sealed, Field(description="`SubjectData` for this system, bound to the order")]
    registry_version: str
    blob_key: Annotated[
        BlobKey | None,
        Field(description="The portal's key, for access and portability: results are sealed to it, without it there are none"),
    ] = None
    due_at: Annotated[
        Instant | None,
        Field(description="When the legal due date's day ends at the controller's seat; an older orchestrator does not say"),
    ] = None
    verification: Annotated[
        Verification | None,
        Field(description="How the portal made sure who asks; an older orchestrator does not say"),
    ] = None


class OrderCancelled(Message):
    """An order that was sent is over before its system has answered, or its results are wanted no more: nobody waits for them.

    It stands behind the order on the system's topic and names nobody. It bears no seal, as the request's key is gone by then: a
    connector believes it once the key desk says that nothing is open (410). It does not imply that nothing was done.
    """

    type: Literal["OrderCancelled"] = "OrderCancelled"
    order_id: Annotated[str, Field(pattern=r"^ord_[0-9a-f]{32}$")]
    subject_request_id: SubjectRequestId
    system: SystemId
    right: Right
    attempt: Annotated[int, Field(ge=1, le=10_000, description="The last one that was sent")]
    reason: CancellationReason
    cancelled_at: Instant


def order_binding(subject_request_id: str, system: str, order_id: str) -> str:
    """Return what an order's seal, and its report's, are bound to: moved elsewhere, they do not open."""
    return f"{subject_request_id}\x1f{system}\x1f{order_id}"


#: What an order asks for, by whose word, and to whom results go. What follows the clock (attempt, dates) differs by attempt.
_TERMS = {"right", "received_at", "blob_key", "verification"}


def order_terms(order: FulfilmentOrder) -> str:
    """Return what the seal of an order's identity is bound to besides its place.

    Whoever turns an access into an erasure on the way, or puts another key under the results, has an order that does not open.
    """
    return f"\x1f{order.model_dump_json(include=_TERMS, exclude_none=True)}"
