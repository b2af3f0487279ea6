"""What operators publish on `dsr.commands.v1`: imperatives, each with an actor and a reason.

Room rules: a command may be refused; the refusal names the remedy and goes back as a status and a quarantine record.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import Actor, Day, Instant, Message, Reason
from schemas.ids import SubjectRequestId, SystemId
from schemas.vocabulary import ExtensionReason, HoldKind, RefusalGround

__all__ = ["Add", "Approve", "Command", "Deny", "Extend", "Hold", "Resume", "Retry", "Waive", "Withdraw"]


class Command(Message):
    """What every command carries. `command_id` makes a repetition harmless."""

    command_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
    subject_request_id: SubjectRequestId
    actor: Actor
    reason: Reason
    issued_at: Instant


class Deny(Command):
    """Refuse the request (GDPR Art. 12(4)-(5)); the confirmation carries the ground and the way to complain."""

    type: Literal["Deny"] = "Deny"
    ground: RefusalGround


class Extend(Command):
    """Extend the period (GDPR Art. 12(3)). Valid only if the person's notice went out before the first period ended."""

    type: Literal["Extend"] = "Extend"
    because: ExtensionReason
    notice_sent_at: Instant
    until_on: Annotated[
        Day | None,
        Field(
            description="The last day that the notice names, if it is earlier than the longest that the law allows;"
            " required where the law leaves the length open (ch.fadp)"
        ),
    ] = None


class Hold(Command):
    """Stop sending orders; `kind` decides by rule whether the legal clock stops too."""

    type: Literal["Hold"] = "Hold"
    kind: HoldKind
    asked_on: Annotated[Day | None, Field(description="Local date on which the person was asked, for clock pauses")] = None
    review_on: Annotated[Day, Field(description="When somebody looks again: no hold without an end")]


class Resume(Command):
    """End the hold."""

    type: Literal["Resume"] = "Resume"
    received_on: Annotated[Day | None, Field(description="Local date of the person's answer, for clock pauses")] = None


class Waive(Command):
    """One system need not answer; the confirmation says who decided and why."""

    type: Literal["Waive"] = "Waive"
    system: SystemId


class Retry(Command):
    """Ask one system again after it failed or fell silent."""

    type: Literal["Retry"] = "Retry"
    system: SystemId


class Add(Command):
    """Add a system of today's registry to the frozen plan."""

    type: Literal["Add"] = "Add"
    system: SystemId


class Approve(Command):
    """The second pair of eyes for irreversible stages: the actor must not be who filed the request."""

    type: Literal["Approve"] = "Approve"


class Withdraw(Command):
    """An operator takes the request back on the person's behalf."""

    type: Literal["Withdraw"] = "Withdraw"
