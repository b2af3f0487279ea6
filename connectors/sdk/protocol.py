"""What a connector is: a small class with one method per right, each returning a typed outcome.

A connector never sees a broker. It gets a `Job` (who, what to change, by when), talks to its system through the client it was
built with, and returns a `Result` or raises one of `schemas.errors.ConnectorError`; the runtime retries, throttles, journals
and reports. Every method must be idempotent: the same job may come twice, also after a crash in the middle.

Room rules: no Kafka, no system by name, no identity in any `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, ClassVar, Protocol, runtime_checkable

from schemas.outcomes import Accepted, Fulfilled, NotApplicable, NothingHeld, Notified, Retained
from schemas.requests import Verification
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["METHODS", "Cancels", "Connector", "Ended", "Exported", "Forgets", "Job", "Over", "Result", "Throttle"]


@dataclass(frozen=True, slots=True)
class Job:
    """One order, opened: what the connector must do. Holds an identity: `repr` shows only ids."""

    order_id: str
    subject_request_id: str
    right: Right
    attempt: int
    now: datetime
    received_at: datetime
    due_on: date
    identifiers: Mapping[IdentifierKind, tuple[str, ...]] = field(repr=False)
    changes: tuple[FieldChange, ...] = field(default=(), repr=False)
    #: How a portal made sure who asks; None in an order of an older orchestrator.
    verification: Verification | None = None

    def every(self, kind: IdentifierKind) -> tuple[str, ...]:
        """Return all known values of a kind; empty if none."""
        return self.identifiers.get(kind, ())


@dataclass(frozen=True, slots=True)
class Ended:
    """An order that is over before it was reported, because the request was withdrawn or denied. Holds no identity.

    `has_begun`: it is known here that the system was asked. False does not imply that it was not: a journal may be lost.
    """

    order_id: str
    subject_request_id: str
    right: Right
    attempt: int
    now: datetime
    cancelled_at: datetime
    has_begun: bool


@dataclass(frozen=True, slots=True)
class Over:
    """An order with which the runtime has nothing more to do: its final report is out, or it was dropped. Holds no identity.

    `attempt` is the last one known here: what is kept for an earlier one is over as well.
    """

    order_id: str
    right: Right
    attempt: int


@dataclass(frozen=True, slots=True)
class Exported:
    """Data for an access or portability request: one named document. Stored sealed by the runtime, never sent by Kafka."""

    name: str
    content: Mapping[str, Any] | list[Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What a method answers.

    `outcome`: what the system did, honestly: `Accepted` while a vendor's job runs, `Fulfilled` with `effective_by` where the
    vendor only promises a date. `yielded`: identifiers found here that other systems may need. `exports`: data for access.
    `handle`: with `Accepted`, the vendor's job id; the runtime stores it and calls `poll` with it, also after a restart.
    `notes`: audit notes, as codes that the connector's README explains.
    """

    outcome: Accepted | Fulfilled | NothingHeld | NotApplicable | Retained | Notified
    yielded: Mapping[IdentifierKind, tuple[str, ...]] = field(default_factory=dict, repr=False)
    exports: tuple[Exported, ...] = field(default=(), repr=False)
    handle: str | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Throttle:
    """What the system allows. None means no limit of that kind.

    `concurrent` counts orders worked on at once; `per_second` and `per_day` count calls that go through `http.send`.
    `day_zone` is the IANA zone in which the system's day begins.
    """

    concurrent: int = 4
    per_second: float | None = None
    per_day: int | None = None
    day_zone: str = "UTC"


class Connector(Protocol):
    """One outside system. Implement the methods of the rights you declare; the runtime calls no other."""

    #: Name under which it is run: the folder's name.
    name: ClassVar[str]
    #: Rights it has a method for.
    rights: ClassVar[frozenset[Right]]
    #: Identifier kinds it can search by: any one is enough.
    needs: ClassVar[frozenset[IdentifierKind]]
    #: Identifier kinds it may yield.
    yields: ClassVar[frozenset[IdentifierKind]]
    #: What the system allows.
    throttle: Throttle

    async def check(self) -> str:
        """Return one line on credentials, scopes and quota, without touching a person; raise if unfit."""
        ...

    async def poll(self, job: Job, handle: str) -> Result:
        """Ask after a vendor's job that an earlier call started; only for connectors that return handles."""
        ...

    async def aclose(self) -> None:
        """Close what was opened."""
        ...


@runtime_checkable
class Cancels(Protocol):
    """A connector whose system can be told that an order is over. Optional: without it jobs that run there go on."""

    async def cancel(self, ended: Ended) -> Result | None:
        """Call the order off at the system, and tell what came of it. May be repeated at any point, also long after the end.

        None: nothing is under way there any more, and nothing was done that was not done before. `Accepted`: not known yet, or
        too late and it goes on: the runtime asks again. A final outcome: it was done all the same. Raises `ConnectorError`;
        what may be tried again is, and of the rest a person is told.
        """
        ...


@runtime_checkable
class Forgets(Protocol):
    """A connector that keeps something of an order in a place of its own, outside of journal and results. Optional.

    What it keeps must open with no key by the time the request is confirmed, except with what `forget` destroys.
    """

    async def forget(self, over: Over) -> None:
        """Delete everything that is kept of an order. May be repeated at any point, also for one of which nothing is kept.

        Called once the broker has acknowledged the final report, or the order was dropped; until it returns it is called
        again, also after a crash. An order that failed may come again, with a higher attempt. Raises `ConnectorError`.
        """
        ...

    async def expire(self, now: datetime) -> None:
        """Delete what belongs to no order that is looked after any more, whoever has lost sight of it.

        Called at the start and several times a minute; most calls should find nothing to do. Raises `ConnectorError`.
        """
        ...


#: Right -> name of the connector's method.
METHODS: Mapping[Right, str] = {
    Right.ACCESS: "access",
    Right.RECTIFICATION: "rectify",
    Right.COMPLETION: "complete",
    Right.ERASURE: "erase",
    Right.RESTRICTION: "restrict",
    Right.PORTABILITY: "export",
    Right.OBJECTION: "object",
    Right.UNSUBSCRIBE: "unsubscribe",
}
