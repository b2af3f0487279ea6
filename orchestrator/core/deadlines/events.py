"""Clock events: the append-only facts from which every legal date of a request is computed again and again.

Store them as they are (`CLOCK_EVENTS` reads and writes JSON); replaying them yields the same dates on any host.

Room rules: facts only, frozen, no identity and no free text. Instants are aware and kept in UTC; dates are local dates at
the controller's seat, because that is where a letter is posted and an answer arrives.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, TypeAdapter, model_validator

from schemas.base import Instant, Record
from schemas.vocabulary import ExtensionReason, HoldKind

__all__ = ["CLOCK_EVENTS", "ClockEvent", "Extended", "IdentityConfirmed", "Paused", "Received", "Resumed", "local_date"]


class Received(Record):
    """The request reached an official channel of the controller, known to its privacy staff or not. Always the first event."""

    type: Literal["received"] = "received"
    at: Annotated[Instant, Field(description="When it arrived; its local date at the seat starts the period")]
    sent_at: Annotated[
        Instant | None,
        Field(
            description="When the person sent it, if that is known: some rules count from there (CASL, LGPD, PIPEDA's notice)"
        ),
    ] = None

    @model_validator(mode="after")
    def _sent_before_received(self) -> Self:
        if self.sent_at is not None and self.sent_at > self.at:
            raise ValueError("sent_at lies after at: a request is sent before it is received; leave sent_at out if unsure")
        return self


class IdentityConfirmed(Record):
    """The information that shows who asks has arrived. Give `at` (an instant) or `on` (a local date), not both.

    UK: moves the start (UK GDPR Art. 12A). Elsewhere it only ends an open pause for identity.
    """

    type: Literal["identity_confirmed"] = "identity_confirmed"
    at: Instant | None = None
    on: date | None = None

    @model_validator(mode="after")
    def _says_when_once(self) -> Self:
        if (self.at is None) == (self.on is None):
            raise ValueError("give either at (an instant) or on (a local date)")
        return self

    def local_on(self, zone: ZoneInfo) -> date:
        """Return the local date at the seat."""
        if self.on is not None:
            return self.on
        assert self.at is not None
        return local_date(self.at, zone)


class Paused(Record):
    """The person was asked for something on `asked_on`. Whether the clock stops is the rule's business, not this event's."""

    type: Literal["paused"] = "paused"
    reason: HoldKind
    asked_on: Annotated[date, Field(description="Local date on which the question was sent")]


class Resumed(Record):
    """The person's answer arrived on `received_on`. Ends the open pause of `reason`, or all open ones if that is None."""

    type: Literal["resumed"] = "resumed"
    received_on: Annotated[date, Field(description="Local date on which the answer arrived")]
    reason: HoldKind | None = None


class Extended(Record):
    """The controller extended the period and told the person why.

    Valid only if the notice left in time; `due` raises otherwise. A large effort alone is no ground (EDPB 01/2022 para 164).
    """

    type: Literal["extended"] = "extended"
    reason: ExtensionReason
    notice_sent_at: Instant
    until_on: Annotated[
        date | None,
        Field(description="The date named in the notice, if it is earlier than the longest; required by ch.fadp"),
    ] = None


ClockEvent = Annotated[Received | IdentityConfirmed | Paused | Resumed | Extended, Field(discriminator="type")]
#: Reads and writes a request's events as JSON.
CLOCK_EVENTS: TypeAdapter[tuple[ClockEvent, ...]] = TypeAdapter(tuple[ClockEvent, ...])


def local_date(at: datetime, zone: ZoneInfo) -> date:
    """Return the calendar date of an aware instant at the seat: never the UTC date."""
    return at.astimezone(zone).date()
