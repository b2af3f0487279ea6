"""What a decision asks the shell to do: a closed union, and the inputs that only we make ourselves.

Room rules: data only; an effect says what, never how.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TypeAlias

from orchestrator.core.state import RequestState
from schemas.base import Message
from schemas.blobs import BlobKey
from schemas.confirmations import SystemResult
from schemas.errors import ProtocolViolation
from schemas.journal import JournalFact
from schemas.requests import Verification
from schemas.subject import Need
from schemas.vocabulary import CancellationReason, IdentifierKind, RequestResult, Right

__all__ = [
    "CancelOrder",
    "Decision",
    "Effect",
    "Follow",
    "Forget",
    "Input",
    "Internal",
    "KeepIdentifiers",
    "LeaderClosed",
    "Leave",
    "Opened",
    "Publish",
    "PublishConfirmation",
    "SendOrder",
    "Settled",
    "Supersede",
    "Tell",
    "Wait",
    "Wake",
]


# What only we say, to ourselves -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wake:
    """The stored moment has come."""


@dataclass(frozen=True, slots=True)
class Follow:
    """To an older request of the same person: tell `follower` when your orders settle, or do its work as well."""

    follower: str
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """To the request that does a duplicate's work: `follower` is closed and waits no more."""

    follower: str


@dataclass(frozen=True, slots=True)
class Wait:
    """To an older erasure: do not send to these systems before `until` has settled there."""

    until: str
    systems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Supersede:
    """To an older rectification: what you have not sent yet is overtaken by the erasure `by`."""

    by: str


@dataclass(frozen=True, slots=True)
class Settled:
    """To a follower: these systems have settled in `request`; with `instead`, that request's orders are awaited now."""

    request: str
    systems: tuple[str, ...]
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class LeaderClosed:
    """To a duplicate: the request that did your work is closed with these outcomes.

    Without outcomes (withdrawn, refused) the work was not done: `heir` does it now, for itself and for who else waited. It
    takes over what the leader itself waited for: `gates` are systems with the requests that go first there. `planned` are the
    leader's systems: what the heir will not do there, nobody waits for.
    """

    leader: str
    result: RequestResult
    systems: tuple[SystemResult, ...] = ()
    heir: str | None = None
    followers: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()
    gates: tuple[tuple[str, tuple[str, ...]], ...] = ()


Internal: TypeAlias = Wake | Follow | Leave | Wait | Supersede | Settled | LeaderClosed


@dataclass(frozen=True, slots=True)
class Opened:
    """What the shell learnt by opening a seal, without the values."""

    kinds: tuple[IdentifierKind, ...] = ()
    person: str | None = None
    patch: str | None = None
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """One thing that happened to one request. `content` is the SHA-256 of the record's value."""

    message: Message | Internal
    source: str = ""
    content: str = ""
    opened: Opened = field(default_factory=Opened)


# What the shell must do -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOrder:
    """Seal what the system needs and send it the order."""

    order_id: str
    subject_request_id: str
    system: str
    right: Right
    attempt: int
    issued_at: datetime
    received_at: datetime
    due_on: date
    due_at: datetime
    respond_by: datetime
    registry_version: str
    verification: Verification
    needs: tuple[Need, ...]
    #: Make its content from so many finds of identifiers, the oldest first.
    finds: int
    #: Seal results to this key of the portal's; only where the answer is data.
    blob_key: BlobKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOrder:
    """Tell the system that an order which was sent is over."""

    order_id: str
    subject_request_id: str
    system: str
    right: Right
    attempt: int
    reason: CancellationReason
    cancelled_at: datetime


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a status event or a journal entry; `value` where the bytes exist already."""

    message: Message
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class PublishConfirmation:
    """Send the confirmation's stored bytes."""

    subject_request_id: str
    value: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Decide `message` for another request of the same person, in the same transaction."""

    subject_request_id: str
    message: Internal


@dataclass(frozen=True, slots=True)
class KeepIdentifiers:
    """Store what the seal held as one more find, sealed again under the request's own key."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Destroy every identity of this request, in the same transaction."""


Effect: TypeAlias = SendOrder | CancelOrder | Publish | PublishConfirmation | Tell | KeepIdentifiers | Forget


@dataclass(frozen=True, slots=True)
class Decision:
    """The state that follows, and what is to be done. `facts` are what the journal says of it, for metrics.

    `refused` is set when the input was an impossible fact or a refused command: the state is unchanged and the record goes to
    quarantine with this reason.
    """

    state: RequestState | None
    effects: tuple[Effect, ...] = ()
    facts: tuple[JournalFact, ...] = ()
    refused: ProtocolViolation | None = None
