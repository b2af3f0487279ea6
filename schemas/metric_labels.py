"""Labels of metrics: each set of labels is a `NamedTuple` of enum members and registry names.

Room rules: types and one pure check; no id of a request, an order or a person can stand in a label.
"""

from __future__ import annotations

import re
from enum import Enum, StrEnum
from typing import Any, NamedTuple, Self, cast

from schemas.vocabulary import (
    EscalationReason,
    FailureReason,
    OrderPhase,
    OutcomeCode,
    Phase,
    QuarantineReason,
    RequestResult,
    Right,
)

__all__ = [
    "NOT_SHOWN",
    "NO_SYSTEM",
    "Build",
    "ByKeyState",
    "ByOperation",
    "ByPhase",
    "ByQuestionRefusal",
    "ByRight",
    "BySystem",
    "ByType",
    "CancelResult",
    "DaysLeft",
    "KeyRefusal",
    "KeyState",
    "NoLabels",
    "PhaseRight",
    "PortalRight",
    "QuestionRefusal",
    "ReasonSystem",
    "RightDaysLeft",
    "RightResult",
    "StoreOperation",
    "SystemCancelResult",
    "SystemFailure",
    "SystemKeyRefusal",
    "SystemOutcome",
    "SystemOwner",
    "SystemPhase",
    "SystemQuarantine",
    "SystemRight",
    "SystemRightOutcome",
    "TopicPartition",
    "TopicReason",
    "label_texts",
    "team_of",
]

#: The `system` of an escalation that concerns the request as a whole.
NO_SYSTEM = "none"

#: The `owner` of a system whose registry names no team, but what may be a person's address or number.
NOT_SHOWN = "not_shown"


class DaysLeft(StrEnum):
    """How many whole days an open request has until its legal due date."""

    OVERDUE = "overdue"
    DAYS_0_2 = "0-2"
    DAYS_3_7 = "3-7"
    DAYS_8_14 = "8-14"
    DAYS_15_UP = "15+"

    @classmethod
    def of(cls, days: int) -> Self:
        """Return the bucket of `days` = due date minus today, both legal dates of the controller's zone; -1 is overdue."""
        for limit, bucket in ((-1, cls.OVERDUE), (2, cls.DAYS_0_2), (7, cls.DAYS_3_7), (14, cls.DAYS_8_14)):
            if days <= limit:
                return cls(bucket)
        return cls(cls.DAYS_15_UP)


class StoreOperation(StrEnum):
    """What the store was asked to do."""

    #: Read the states of a batch's requests.
    LOAD = "load"
    #: Write states, journal and outbox in one transaction.
    SAVE = "save"
    #: Find the requests whose moment to wake has come.
    DUE = "due"
    #: Count what is open, for the gauges.
    COUNT = "count"
    #: Read, write or remove outbox records.
    OUTBOX = "outbox"
    #: Make or read a request's key.
    KEY = "key"
    #: Destroy a request's key (crypto-shredding).
    DESTROY_KEY = "destroy_key"


class NoLabels(NamedTuple):
    """The metric has one series."""


class ByPhase(NamedTuple):
    """Labels of one phase of requests."""

    phase: Phase


class KeyRefusal(StrEnum):
    """Why a connector is not given an order's key."""

    FOREIGN = "foreign"
    UNKNOWN = "unknown"
    CLOSED = "closed"
    #: What the store keeps of its request does not open.
    UNREADABLE = "unreadable"


class QuestionRefusal(StrEnum):
    """Why a connector's whole question about keys is refused: the code in the answer, too."""

    #: It does not say who it is in a way that is believed.
    UNAUTHORISED = "unauthorised"
    #: It is another system.
    FOREIGN_SYSTEM = "foreign_system"
    INVALID_BODY = "invalid_body"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    #: It has asked too often in a short time.
    TOO_MANY = "too_many"
    #: Others are served.
    BUSY = "busy"
    #: The store, the broker or a key is away.
    UNAVAILABLE = "unavailable"


class ByQuestionRefusal(NamedTuple):
    """Labels of questions that were refused."""

    reason: QuestionRefusal


class KeyState(StrEnum):
    """How the key of a request stands to what should be."""

    #: Of an open request, no older than policy allows.
    CURRENT = "current"
    #: Of an open request, older than that: somebody must bring the request to its end.
    OLD = "old"
    #: Of a closed request: it should be gone.
    LEFT_OVER = "left_over"


class ByKeyState(NamedTuple):
    """Labels of requests' keys."""

    state: KeyState


class ByRight(NamedTuple):
    """Labels of one right."""

    right: Right


class BySystem(NamedTuple):
    """Labels of one system of the registry."""

    system: str


class ByType(NamedTuple):
    """Labels of one message type, by its name in `schemas.wire.MESSAGES`."""

    type: str


class ByOperation(NamedTuple):
    """Labels of one store operation."""

    operation: StoreOperation


class PhaseRight(NamedTuple):
    """Labels of requests in a phase, for a right."""

    phase: Phase
    right: Right


class RightDaysLeft(NamedTuple):
    """Labels of requests for a right, by the days left."""

    right: Right
    days_left: DaysLeft


class PortalRight(NamedTuple):
    """Labels of requests for a right, from a portal of the registry."""

    portal: str
    right: Right


class RightResult(NamedTuple):
    """Labels of closed requests."""

    right: Right
    result: RequestResult


class SystemRight(NamedTuple):
    """Labels of orders to a system, for a right."""

    system: str
    right: Right


class SystemPhase(NamedTuple):
    """Labels of orders to a system, in a phase."""

    system: str
    phase: OrderPhase


class SystemOutcome(NamedTuple):
    """Labels of reports by a system."""

    system: str
    outcome: OutcomeCode


class SystemRightOutcome(NamedTuple):
    """Labels of outcomes at a system."""

    system: str
    right: Right
    outcome: OutcomeCode


class CancelResult(StrEnum):
    """What became of an order that was over before it was reported."""

    #: It had not begun, or nothing had come of it: let go here.
    DROPPED = "dropped"
    #: The system was told, and does not go on with it.
    CALLED_OFF = "called_off"
    #: The system had done it, or did it in spite of being told.
    DONE_ALL_THE_SAME = "done_all_the_same"
    #: The system could not be told: a person must look.
    GIVEN_UP = "given_up"


class SystemCancelResult(NamedTuple):
    """Labels of orders that were called off."""

    system: str
    result: CancelResult


class SystemFailure(NamedTuple):
    """Labels of attempts at a system that did not work out."""

    system: str
    reason: FailureReason


class SystemQuarantine(NamedTuple):
    """Labels of records that a connector set aside."""

    system: str
    reason: QuarantineReason


class SystemOwner(NamedTuple):
    """Labels of a system and the team of its registry that is told when it fails."""

    system: str
    owner: str


class SystemKeyRefusal(NamedTuple):
    """Labels of keys that a system was refused."""

    system: str
    reason: KeyRefusal


class ReasonSystem(NamedTuple):
    """Labels of escalations; `system` is `NO_SYSTEM` where the request as a whole is meant."""

    reason: EscalationReason
    system: str


class TopicReason(NamedTuple):
    """Labels of records that the worker set aside."""

    topic: str
    reason: QuarantineReason


class TopicPartition(NamedTuple):
    """Labels of one partition of a topic of the manifest."""

    topic: str
    partition: int


class Build(NamedTuple):
    """Labels that name what runs: the product's version and the registry's."""

    version: str
    registry: str


#: Ids of systems and portals, topics, message types: they start with a letter, as no telephone or account number does.
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,59}")
_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,40}")
#: What a team may be called: no mail address, no telephone number.
_TEAM = re.compile(r"(?!(?:.*\d){6})[^@\x00-\x1f\x7f]{2,80}")
_LOOKS_LIKE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|(?:ord|rep|cnf)_[0-9a-f]{32}", re.IGNORECASE)


def team_of(owner: str) -> str:
    """Return a registry's owner as a label can show it: `NOT_SHOWN` for what may be a person's address or number."""
    return owner if _TEAM.fullmatch(owner) and not _LOOKS_LIKE_ID.search(owner) else NOT_SHOWN


def label_texts(labels: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the label values as text, and refuse what is no enum member, no number and no plain name.

    Raises `ValueError` that names the label and never its value. It cannot tell a person's name from a system's: only the
    types and the call sites can.
    """
    allowed = _VERSION if isinstance(labels, Build) else _PLAIN_NAME
    texts = []
    for name, value in zip(cast("Any", labels)._fields, labels, strict=True):
        pattern = _TEAM if name == "owner" else allowed
        if isinstance(value, Enum):
            texts.append(str(value.value))
        elif isinstance(value, int):
            texts.append(str(value))
        elif isinstance(value, str) and pattern.fullmatch(value) and not _LOOKS_LIKE_ID.search(value):
            texts.append(value)
        else:
            raise ValueError(f"label {name}: use an enum member or a name from the registry or the topic manifest, never an id")
    return tuple(texts)
