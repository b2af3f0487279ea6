"""What a deadline rule is: one law's period for one right as data, and a controller's own period in its place.

Room rules: data and its own consistency; nothing is computed here, and no rule is named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from orchestrator.core.deadlines.periods import Period
from schemas.base import Record

__all__ = ["ClockStops", "Confidence", "Duty", "Notice", "Override", "Rule", "Start"]


class Confidence(StrEnum):
    """How sure we are of a rule's words."""

    #: The words of the law, or the regulator's own page, were read.
    VERIFIED = "verified"
    #: From secondary sources, or our arithmetic on top of a verified text.
    LIKELY = "likely"
    #: From memory.
    UNVERIFIED = "unverified"


class Duty(StrEnum):
    """What must have happened when `due_on` ends."""

    ANSWER = "answer"
    ACKNOWLEDGE = "acknowledge"
    STOP = "stop"
    WARN = "warn"


class Start(StrEnum):
    """Which moment starts the period."""

    #: When the request reached the controller.
    RECEIPT = "receipt"
    #: When the person sent it, if that is known; else receipt.
    SENT = "sent"


class ClockStops(StrEnum):
    """What a question to the person does to the period."""

    #: Nothing: the text knows no pause.
    NEVER = "never"
    #: Identity and clarification add (received_on - asked_on) days; ours, EDPB 01/2022 para 159 only allows the suspension.
    ADDS_DAYS = "adds_days"
    #: Identity and fee move the start; clarification of an access request leaves out both days and those between.
    UK = "uk"
    #: An announced fee restarts the period ten days after the announcement (DPO art. 19(3)).
    SWISS_FEE = "swiss_fee"


class Notice(StrEnum):
    """By when the person must know of an extension."""

    #: By the first due date, with its pauses.
    FIRST_DUE = "first_due"
    #: By the first due date as it would be without pauses: GDPR Art. 12(3) knows none.
    FIRST_DUE_UNPAUSED = "first_due_unpaused"
    #: One first period after the date of the request (PIPEDA 8(4)).
    DATE_OF_REQUEST = "date_of_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the rules table.

    `period` runs from the start to the last day; `total` is the whole period, from the start, after an extension; None means
    that no extension exists unless `open_extension`. `rolls`: a last day that is no working day moves to the next one.
    `list_name`: the holiday list of this law's own business days, used whatever the controller's calendar is.
    `strict_days`: days that the conservative reading takes off. The `*_note` fields say what a date cannot.
    """

    id: str
    right: str
    period: Period
    source: str
    link: str
    confidence: Confidence
    duty: Duty = Duty.ANSWER
    total: Period | None = None
    open_extension: bool = False
    acknowledge: Period | None = None
    inform: Period | None = None
    rolls: bool = False
    list_name: str | None = None
    starts: Start = Start.RECEIPT
    stops: ClockStops = ClockStops.NEVER
    notice: Notice = Notice.FIRST_DUE
    strict_days: int = 0
    acknowledge_note: str = ""
    answer_note: str = ""
    extension_note: str = ""
    counting_note: str = ""

    @property
    def extends(self) -> bool:
        """Tell whether the rule knows an extension at all."""
        return self.total is not None or self.open_extension


class Override(Record):
    """A controller's own period for one rule: a shorter sector rule, or a published one. It must say where it comes from.

    `period` replaces the rule's period and its extension together: name `total` to keep one. `calendar` replaces the law's own
    list of business days. Nothing checks that the period is lawful.
    """

    source: Annotated[str, StringConstraints(min_length=3, max_length=300), Field(description="The law or the published text")]
    link: str = ""
    period: Period | None = None
    total: Annotated[Period | None, Field(description="The whole period, from the start, after an extension")] = None
    calendar: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.period is None and self.total is None:
            if self.calendar is None:
                raise ValueError("an override needs a period or a calendar")
            return self
        if self.period is None or (self.total is not None and self.total.unit is not self.period.unit):
            raise ValueError("total needs a period in the same unit")
        if self.total is not None and (self.period.in_hours or self.total.count < self.period.count):
            raise ValueError("total is the whole period after an extension: no shorter than period, and not in hours")
        return self
