"""What a child's confirmation means here: one outcome, never better than the worst part of it.

Room rules: pure; what this side's words cannot carry goes to a person instead of being rounded up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from connectors.sdk.protocol import Exported, Result
from schemas.confirmations import Confirmation, SystemResult
from schemas.errors import SystemRejected
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Notified, Retained, Waived
from schemas.vocabulary import FailureReason, NotApplicableReason, RequestResult, Right

__all__ = ["ended_as", "result_of"]

# A person here must look, and may ask anew.
_WITHOUT = frozenset(
    {
        RequestResult.REFUSED,
        RequestResult.WITHDRAWN,
        RequestResult.IDENTITY_NOT_CONFIRMED,
        RequestResult.NOT_FULFILLED,
    }
)
_MOST_RECIPIENTS = 200


def ended_as(confirmation: Confirmation) -> str | None:
    """Return the code under which the child closed the request without doing it; None if its confirmation is an answer.

    `waived_there` stands for a system that a person there waived. Data that law makes it keep is an answer.
    """
    codes = {type(system.outcome) for system in confirmation.systems}
    if confirmation.result is RequestResult.NOT_FULFILLED and Retained in codes and codes <= {Retained, NotApplicable}:
        return None
    if confirmation.result in _WITHOUT:
        return confirmation.result.value
    return "waived_there" if Waived in codes else None


def result_of(confirmation: Confirmation) -> Result:
    """Return the child's answer as one system's. Raises `SystemRejected(job_failed)` for one that `ended_as` has a code for.

    The worst part decides: retained, then only notified, then fulfilled; nothing held only if no system held anything.
    Counts are sums, dates the latest ones.
    """
    code = ended_as(confirmation)
    if code is not None:
        raise SystemRejected(f"the child's confirmation: {code}", reason=FailureReason.JOB_FAILED)
    return Result(_outcome(confirmation), exports=tuple(_exports(confirmation)), notes=tuple(_notes(confirmation)))


def _outcome(confirmation: Confirmation) -> Fulfilled | NothingHeld | Retained | Notified:
    fulfilled = [one.outcome for one in confirmation.systems if isinstance(one.outcome, Fulfilled)]
    retained = [one.outcome for one in confirmation.systems if isinstance(one.outcome, Retained)]
    count = sum(one.count for one in fulfilled)
    if retained:
        longest = max(retained, key=lambda one: one.until or date.max)
        return Retained(
            ground=longest.ground,
            until=longest.until,
            count=sum(one.count for one in retained),
            fulfilled=count + sum(one.fulfilled for one in retained),
            detail=longest.detail,
        )
    if any(isinstance(one.outcome, Notified) for one in confirmation.systems):
        return Notified(recipients=confirmation.recipients_told[:_MOST_RECIPIENTS])
    if fulfilled:
        dates = [one.effective_by for one in fulfilled if one.effective_by is not None]
        return Fulfilled(count=count, effective_by=max(dates, default=None))
    if any(isinstance(one.outcome, NothingHeld) for one in confirmation.systems):
        return NothingHeld()
    raise SystemRejected("the child's confirmation: names no system that did anything", reason=FailureReason.JOB_FAILED)


def _exports(confirmation: Confirmation) -> Iterator[Exported]:
    """Yield where the data lies: the child keeps it, as it never travels in Kafka."""
    if confirmation.right not in {Right.ACCESS, Right.PORTABILITY}:
        return
    places = [
        {"system": system.system, **reference.model_dump(mode="json")}
        for system in confirmation.systems
        for reference in system.results
    ]
    if places:
        yield Exported("results_there", places)


def _notes(confirmation: Confirmation) -> Iterator[str]:
    yield "confirmed_there"
    if not confirmation.in_time:
        yield "late_there"
    if confirmation.executed_request is not None:
        yield "done_under_another_request"
    if next(_exports(confirmation), None) is not None:
        yield "results_there"
    if any(_lacks_identifier(system) for system in confirmation.systems):
        yield "identifier_missing_there"
    if len({one.outcome.ground for one in confirmation.systems if isinstance(one.outcome, Retained)}) > 1:
        yield "several_grounds_there"


def _lacks_identifier(system: SystemResult) -> bool:
    return isinstance(system.outcome, NotApplicable) and system.outcome.reason is NotApplicableReason.IDENTIFIER_MISSING
