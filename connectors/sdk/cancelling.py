"""Calling orders off at a system that can be told: one after the other, until each has an end. The rules stand in `ending`.

A report of such an order is like any other. The orchestrator takes it as a late one, and tells a person if it
contradicts the end. `Failed` is said of an order that could not be called off: somebody must look there.

Room rules: no system by name; a connector is only asked here, orders are worked on in `runtime`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from connectors.sdk.attempts import Limits, defect_of, reason_of
from connectors.sdk.clock import Clock
from connectors.sdk.intake import report_of
from connectors.sdk.journal import Journal
from connectors.sdk.journal_cancelled import Kept
from connectors.sdk.protocol import Cancels, Ended, Result
from connectors.sdk.throttle import Gate, QuotaExhausted
from connectors.sdk.work import entered
from schemas.errors import ConnectorError, StoreUnavailable, SystemUnavailable, Throttled
from schemas.metric_labels import CancelResult
from schemas.metrics import CONNECTOR_CANCELLED, Metrics
from schemas.orders import OrderCancelled
from schemas.outcomes import Accepted, Failed, ReportedOutcome
from schemas.vocabulary import FailureReason

__all__ = ["Cancelling"]

_log = structlog.get_logger("dsr.connector")

_LONGEST_SLEEP = timedelta(seconds=60)


class Cancelling:
    """Calls off at the system what is over, one order at a time, until each has an end."""

    def __init__(
        self,
        system: str,
        connector: Cancels,
        *,
        journal: Journal,
        gate: Gate,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
        reported: Callable[[], None],
    ) -> None:
        """`reported` is called when a report has been written."""
        self._system = system
        self._connector = connector
        self._journal = journal
        self._gate = gate
        self._clock = clock
        self._limits = limits
        self._metrics = metrics
        self._reported = reported
        #: Set it when there may be something to call off.
        self.has_work = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled. Raises only what must end the process (`StoreUnavailable`)."""
        while True:
            self.has_work.clear()
            now = self._clock.now()
            with self._journal.transaction() as page:
                due, next_at = page.cancellations.due(now), page.cancellations.next_due_at(now)
            if due is not None:
                await self._call_off(due)
                continue
            waits = [asyncio.ensure_future(self.has_work.wait()), asyncio.ensure_future(self._sleep_until(next_at))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    async def _sleep_until(self, moment: datetime | None) -> None:
        latest = self._clock.now() + _LONGEST_SLEEP
        await self._clock.sleep_until(latest if moment is None else min(latest, moment))

    async def _call_off(self, kept: Kept) -> None:
        ended = kept.ended
        assert ended is not None, "only the end that the orchestrator has announced is called off"
        try:
            with entered(_Turns(self._gate)):
                result = await self._connector.cancel(_as_ended(ended, kept, self._clock.now()))
        except QuotaExhausted as error:
            self._again(kept, error.available_at, tries=kept.tries)
        except (SystemUnavailable, Throttled) as error:
            self._try_again(kept, ended, error)
        except ConnectorError as error:
            self._given_up(ended, reason_of(error))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a connector raises is its defect, reported and never swallowed
            _log.error("connector_defect", order_id=ended.order_id, **defect_of(error))
            self._given_up(ended, FailureReason.CONNECTOR_DEFECT)
        else:
            self._answered(kept, ended, result)

    def _answered(self, kept: Kept, ended: OrderCancelled, result: Result | None) -> None:
        if result is None:
            self._close(ended, CancelResult.CALLED_OFF)
        elif isinstance(result.outcome, Accepted):
            now = self._clock.now()
            at = self._limits.poll.after(now, ended.order_id, kept.polls + 1)
            self._again(kept, at, tries=0, polls=kept.polls + 1)
        else:
            _log.warning("done_all_the_same", system=self._system, order_id=ended.order_id, outcome=result.outcome.code)
            self._close(ended, CancelResult.DONE_ALL_THE_SAME, result.outcome, notes=result.notes)

    def _try_again(self, kept: Kept, ended: OrderCancelled, error: SystemUnavailable | Throttled) -> None:
        tries = kept.tries + 1
        if tries >= self._limits.max_tries:
            self._given_up(ended, reason_of(error))
            return
        now, asked = self._clock.now(), error.retry_after_seconds if isinstance(error, Throttled) else None
        if isinstance(error, Throttled):
            self._gate.hold(now + timedelta(seconds=self._limits.retry.base_seconds if asked is None else asked))
        at = self._limits.retry.after(now, ended.order_id, tries, at_least_seconds=asked)
        _log.info("retry", order_id=ended.order_id, reason=error.reason, tries=tries, not_before=at.isoformat())
        self._again(kept, at, tries=tries)

    def _given_up(self, ended: OrderCancelled, reason: FailureReason) -> None:
        _log.error("not_called_off", system=self._system, order_id=ended.order_id, reason=reason.value, remedy=_BY_HAND)
        self._close(ended, CancelResult.GIVEN_UP, Failed(reason=reason))

    def _again(self, kept: Kept, at: datetime, *, tries: int, polls: int | None = None) -> None:
        with self._journal.transaction() as page:
            page.cancellations.again(kept.order_id, at, tries=tries, polls=kept.polls if polls is None else polls)

    def _close(
        self,
        ended: OrderCancelled,
        result: CancelResult,
        outcome: ReportedOutcome | None = None,
        *,
        notes: tuple[str, ...] = (),
    ) -> None:
        with self._journal.transaction() as page:
            page.cancellations.close(ended.order_id)
            if outcome is not None:
                report = report_of(ended, ended.attempt, outcome, self._clock.now()).model_copy(update={"notes": notes})
                page.add_report(report, ended.right, final=True)
        _log.info("order_called_off", system=self._system, order_id=ended.order_id, reason=ended.reason, result=result)
        self._metrics.count(CONNECTOR_CANCELLED, system=self._system, result=result)
        if outcome is not None:
            self._reported()


_BY_HAND = "the request is over and the system may still be at it: see the connector's README, and stop it there by hand"


class _Turns:
    """`connectors.sdk.work.Work` of a call that has no order any more: it takes turns and finds nothing."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def take_turn(self) -> None:
        """Wait for the gate."""
        await self._gate.turn()

    async def remember(self, found: object) -> None:
        """Nobody waits for identifiers any more."""


def _as_ended(ended: OrderCancelled, kept: Kept, now: datetime) -> Ended:
    return Ended(
        order_id=ended.order_id,
        subject_request_id=ended.subject_request_id,
        right=ended.right,
        attempt=ended.attempt,
        now=now,
        cancelled_at=ended.cancelled_at,
        has_begun=kept.has_begun,
    )
