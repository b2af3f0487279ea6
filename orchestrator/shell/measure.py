"""From what a unit of work did to what the metrics say: one table, fact by fact.

Room rules: no decision is looked at, only facts that the core has written into the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.state import RequestState
from orchestrator.ports import Census
from orchestrator.shell.work import Outcome
from schemas.metric_labels import NO_SYSTEM, ByKeyState, ByPhase, DaysLeft, KeyState, PhaseRight, RightDaysLeft, SystemPhase
from schemas.metrics import (
    ESCALATIONS,
    EXTENSION_INVALID,
    IGNORED,
    ORDER_DURATION,
    ORDERS_OPEN,
    ORDERS_RESENT,
    ORDERS_SENT,
    OUTBOX,
    QUARANTINED,
    REPORTS_RECEIVED,
    REQUEST_DURATION,
    REQUEST_KEYS,
    REQUESTS_CLOSED,
    REQUESTS_OLDEST_AGE,
    REQUESTS_OPEN,
    REQUESTS_OPEN_BY_DAYS_LEFT,
    REQUESTS_RECEIVED,
    SWEEP_DUE,
    Metrics,
)
from schemas.vocabulary import EscalationReason, OrderPhase, Phase, QuarantineReason, Right

__all__ = ["measure", "measure_census"]

Details = Mapping[str, Any]


def _received(metrics: Metrics, state: RequestState, details: Details) -> None:
    metrics.count(REQUESTS_RECEIVED, portal=details["portal"], right=state.right)


def _sent(metrics: Metrics, state: RequestState, details: Details) -> None:
    if details["attempt"] == 1:
        metrics.count(ORDERS_SENT, system=details["system"], right=state.right)
    else:
        metrics.count(ORDERS_RESENT, system=details["system"])


def _settled(metrics: Metrics, _state: RequestState, details: Details) -> None:
    if details["report"] is not None:
        metrics.count(REPORTS_RECEIVED, system=details["system"], outcome=details["outcome"])
    if details["seconds"] is not None:
        metrics.observe(ORDER_DURATION, details["seconds"], system=details["system"])


def _accepted(metrics: Metrics, _state: RequestState, details: Details) -> None:
    metrics.count(REPORTS_RECEIVED, system=details["system"], outcome="accepted")  # type: ignore[arg-type] # an OutcomeCode's text


def _failed(metrics: Metrics, _state: RequestState, details: Details) -> None:
    metrics.count(REPORTS_RECEIVED, system=details["system"], outcome="failed")  # type: ignore[arg-type] # an OutcomeCode's text


def _escalated(metrics: Metrics, _state: RequestState, details: Details) -> None:
    metrics.count(ESCALATIONS, reason=details["reason"], system=details["system"] or NO_SYSTEM)


def _retention_ended(metrics: Metrics, _state: RequestState, details: Details) -> None:
    metrics.count(ESCALATIONS, reason=EscalationReason.RETENTION_ENDED, system=details["system"])


def _closed(metrics: Metrics, state: RequestState, details: Details) -> None:
    metrics.count(REQUESTS_CLOSED, right=state.right, result=details["result"])
    metrics.observe(REQUEST_DURATION, max(details["seconds"], 0.0), right=state.right)


_TABLE: Mapping[str, Callable[[Metrics, RequestState, Details], None]] = {
    "request_received": _received,
    "order_sent": _sent,
    "order_settled": _settled,
    "order_accepted": _accepted,
    "order_failed": _failed,
    "escalated": _escalated,
    "retention_ended": _retention_ended,
    "request_closed": _closed,
}


def measure(metrics: Metrics, outcome: Outcome) -> None:
    """Count what a unit of work did, after it was saved."""
    for state, fact in outcome.facts:
        count = _TABLE.get(fact.fact)
        if count is not None:
            count(metrics, state, fact.details)
    for topic, violation in outcome.refused:
        metrics.count(QUARANTINED, topic=topic, reason=QuarantineReason(violation.code))
        if violation.code == QuarantineReason.EXTENSION_TOO_LATE:
            metrics.count(EXTENSION_INVALID)
    for kind in outcome.ignored:
        metrics.count(IGNORED, type=kind)


def measure_census(metrics: Metrics, census: Census, now: Any) -> None:
    """Set the gauges that speak of all open requests."""
    metrics.replace(
        REQUESTS_OPEN, {PhaseRight(Phase(phase), Right(right)): n for (phase, right), n in census.open_requests.items()}
    )
    metrics.replace(
        REQUESTS_OLDEST_AGE,
        {ByPhase(Phase(phase)): (now - first).total_seconds() for phase, first in census.oldest.items()},
    )
    metrics.replace(
        REQUESTS_OPEN_BY_DAYS_LEFT,
        {RightDaysLeft(Right(right), DaysLeft(bucket)): n for (right, bucket), n in census.due.items()},
    )
    metrics.replace(ORDERS_OPEN, {SystemPhase(system, OrderPhase(phase)): n for (system, phase), n in census.awaited.items()})
    metrics.replace(REQUEST_KEYS, {ByKeyState(KeyState(state)): n for state, n in census.keys.items()})
    metrics.set(OUTBOX, census.outbox)
    metrics.set(SWEEP_DUE, census.due_wakes)
