"""Where our own code fails at one input: the worker ends, and an input that has ended some lives is set aside.

An error that nobody meant says that this process, or this release, is wrong about the input. A fresh process tries again, as
often as `lives` says: it may have been the process. Then the one record goes to quarantine with its bytes, for the reason
`defect`, everything else goes on, and `dsr quarantine replay` takes it in again when a mended release runs. A release that
fails at many records is wrong itself: it is not let set the log aside, and ends as often as it is started.

Only what is known to be about one record is counted: never the store, the broker, the configuration or the machine.

Room rules: counts and judges; whether the process ends is the inbox's to carry out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from orchestrator.ports import Conflict, Deaths, Record, Refusal
from orchestrator.shell.translate import Arrival, SetAside
from schemas.errors import OrchestratorError, ProtocolViolation
from schemas.vocabulary import QuarantineReason

__all__ = ["AT_MOST", "NO_RECORDS_FAULT", "Defect", "Judge", "Stumble"]

log = structlog.get_logger(__name__)

#: Errors that say nothing about the input that was looked at when they came.
NO_RECORDS_FAULT = (OrchestratorError, Conflict, MemoryError, OSError)
#: So many records are set aside as defects within this, by all workers together: beyond, the release is wrong and not they.
AT_MOST = 20
_WITHIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Stumble:
    """A record at which our code failed while it was read."""

    record: Record
    error: Exception = field(repr=False)

    @property
    def subject_request_id(self) -> str:
        """Return nothing: nobody has read whose it is."""
        return ""


class Defect(Exception):
    """Our code failed at one input, with the error that is its cause. The unit of work it happened in is spoilt."""

    def __init__(self, arrival: Arrival | SetAside | Stumble) -> None:
        super().__init__("a defect at one input")
        self.arrival = arrival


class Judge:
    """Says which of the records at which our code fails are set aside, by what the store knows of earlier lives."""

    def __init__(self, deaths: dict[Refusal, Deaths], now: datetime, *, lives: int) -> None:
        self._deaths = deaths
        self._lives = lives
        self._given_up = sum(died.ends >= lives and now - died.last_at < _WITHIN for died in deaths.values())

    def judged(self, record: Record, error: BaseException) -> SetAside | None:
        """Return the record set aside, or None if the worker must end at it; say so in either case."""
        died = self._deaths.get(record.refusal())
        ended = 0 if died is None else died.ends
        tries = ended + 1
        is_over = ended >= self._lives and self._given_up <= AT_MOST
        log.error(
            "defect_met",
            action="the record is set aside" if is_over else "the worker ends",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            tries=tries,
            limit=self._lives,
            exc_info=error,
        )
        return SetAside(record, _violation(error)) if is_over else None


def _violation(error: BaseException) -> ProtocolViolation:
    what = f"a defect of the orchestrator ({type(error).__name__})"
    remedy = f"{what}: the record is taken in again by `dsr quarantine replay` when a mended release runs"
    return ProtocolViolation(QuarantineReason.DEFECT, remedy=remedy)
