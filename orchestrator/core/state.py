"""What is remembered of one request: codes, dates and ids, never an identity.

Everything here is frozen and comes back from its bytes unchanged. Static facts of a system (title, needs, patience) are not
copied: the plan names the registry it was made from, and every registry ever used is kept.

Room rules: data only. What may follow what stands in `lifecycle`, what does follow in `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import TypeAdapter

from orchestrator.core.deadlines import ClockEvent
from schemas.confirmations import ChangeAfterAcceptance, DueDates
from schemas.journal import GENESIS
from schemas.outcomes import Outcome
from schemas.reports import ResultReference
from schemas.requests import Verification
from schemas.vocabulary import (
    EscalationReason,
    HoldKind,
    IdentifierKind,
    IdentityRefusalReason,
    Language,
    OrderPhase,
    Phase,
    RefusalGround,
    RequestResult,
    Right,
)

__all__ = ["UNLINKED", "HoldState", "OrderState", "RequestState", "evolve", "from_bytes", "put", "to_bytes"]


@dataclass(frozen=True, kw_only=True)
class OrderState:
    """One planned system."""

    system: str
    phase: OrderPhase = OrderPhase.WAITING
    #: Last thing reported or decided; final once the phase is SETTLED.
    outcome: Outcome | None = None
    attempt: int = 0
    #: How many finds of identifiers its content is made from, fixed when it first leaves: every attempt says the same.
    finds: int = 0
    #: When the current attempt was issued, and the first one.
    sent_at: datetime | None = None
    first_sent_at: datetime | None = None
    #: Stored ends of the waits.
    respond_by: datetime | None = None
    resend_at: datetime | None = None
    expected_by: datetime | None = None
    settled_at: datetime | None = None
    report_id: str | None = None
    #: SHA-256 of that report's bytes.
    report_sha256: str | None = None
    #: Ids of every report that was taken or noted: the same one again changes nothing.
    reports: tuple[str, ...] = ()
    results: tuple[ResultReference, ...] = ()
    notes: tuple[str, ...] = ()
    #: Requests of the same person whose order to this system must settle first.
    gated_by: tuple[str, ...] = ()
    escalation: EscalationReason | None = None
    #: Digest of the registry that describes the system, if it was added after acceptance.
    registry: str | None = None


@dataclass(frozen=True, kw_only=True)
class HoldState:
    """Why and until when nothing is sent."""

    kind: HoldKind
    since: datetime
    review_on: date
    by: str
    reviewed: bool = False


@dataclass(frozen=True, kw_only=True)
class RequestState:
    """One request, from its first record to after its confirmation."""

    subject_request_id: str
    portal: str
    right: Right
    phase: Phase
    language: Language
    #: SHA-256 of the SubmitRequest's bytes: the same id with other content is refused.
    content: str
    #: topic-partition-offset of the SubmitRequest: the same record again is a replay, another one a repetition.
    source: str
    submitted_at: datetime
    received_at: datetime
    group_id: str | None = None
    filed_by: str | None = None
    verification: Verification | None = None
    verify_by: datetime | None = None
    #: Identifier kinds known by now; their values are sealed elsewhere.
    kinds: tuple[IdentifierKind, ...] = ()
    #: How often identifiers were found and kept: once with the request, then with reports that yield some.
    finds: int = 0
    #: Keyed hash by which requests of one person are grouped; dropped at the end.
    person: str | None = None
    #: Keyed hash of what is to be changed: two rectifications are duplicates only if it is equal.
    patch: str | None = None
    #: Keyed hash of all identifiers that the portal gave: a request that names more of them is no duplicate.
    identity: str | None = None
    #: Digest and version of the registry that the plan was frozen with.
    registry: str = ""
    registry_version: str = ""
    accepted_at: datetime | None = None
    rule: str = ""
    clock: tuple[ClockEvent, ...] = ()
    due: DueDates | None = None
    orders: tuple[OrderState, ...] = ()
    #: For a duplicate: the request under which the work is done.
    leader: str | None = None
    #: Requests of the same person that wait, in some system, for this one's order there.
    followers: tuple[str, ...] = ()
    #: Requests whose work is done under this one.
    duplicates: tuple[str, ...] = ()
    hold: HoldState | None = None
    approved_by: str | None = None
    changes: tuple[ChangeAfterAcceptance, ...] = ()
    #: What operators and withdrawals have said already, by id and content: a repetition changes nothing.
    commands: tuple[str, ...] = ()
    escalated: tuple[EscalationReason, ...] = ()
    next_status_at: datetime | None = None
    result: RequestResult | None = None
    refusal_ground: RefusalGround | None = None
    identity_refusal: IdentityRefusalReason | None = None
    executed_request: str | None = None
    closed_at: datetime | None = None
    #: The confirmation's very bytes: whatever release re-emits it, it is the same.
    confirmation: str | None = None
    journal_sequence: int = 0
    journal_head: str = GENESIS
    #: The next moment at which something must be decided; None: nobody waits for time.
    wake_at: datetime | None = field(default=None)

    def order(self, system: str) -> OrderState | None:
        """Return the order to one system, or None if it is not planned."""
        return next((order for order in self.orders if order.system == system), None)


#: What leads from a request to others of the person, or to what was asked for: dropped when it closes.
UNLINKED: Mapping[str, None] = MappingProxyType({"person": None, "patch": None, "identity": None})

T = TypeVar("T", "RequestState", "OrderState", "HoldState")
_FIELDS = {kind: frozenset(f.name for f in fields(kind)) for kind in (RequestState, OrderState, HoldState)}
_COUNTS = {kind: len(names) for kind, names in _FIELDS.items()}


def evolve(state: T, /, **changes: Any) -> T:
    """Return a copy with `changes`: `dataclasses.replace`, several times as fast, for what the hot path does most.

    Raises `AttributeError` for a field that does not exist.
    """
    copy = object.__new__(type(state))
    copy.__dict__.update(state.__dict__)
    put(copy, changes)
    return copy


def put(fresh: RequestState | OrderState | HoldState, changes: dict[str, Any]) -> None:
    """Write into a copy that nobody else has seen yet. Raises `AttributeError` for a field that does not exist."""
    content = fresh.__dict__
    content.update(changes)
    # A whole state has a value for each field: a name too many can only be an unknown one.
    if len(content) != _COUNTS[type(fresh)]:
        unknown = sorted(changes.keys() - _FIELDS[type(fresh)])
        for name in unknown:
            del content[name]
        raise AttributeError(f"{type(fresh).__name__} has no {', '.join(unknown)}")


_ADAPTER: TypeAdapter[RequestState] = TypeAdapter(RequestState)


def to_bytes(state: RequestState) -> bytes:
    """Return the state as JSON; what is None is left out. Leaving out defaults would lose the tags of events and outcomes."""
    return _ADAPTER.dump_json(state, exclude_none=True)


def from_bytes(data: bytes | str) -> RequestState:
    """Return the state that `to_bytes` wrote."""
    return _ADAPTER.validate_json(data)
