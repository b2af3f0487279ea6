"""One try at one order: open it, call the connector, and conclude what the journal and the bus must know.

| what the connector did | conclusion |
| --- | --- |
| returned a final outcome | report it |
| returned `Accepted` with a handle | store the handle, report it once, ask again at a growing interval |
| `SystemUnavailable`, `Throttled` | try again later, until patience or the tries end; then `failed` |
| our own count says that the day is used up | wait for the day that has room; say so if that is beyond patience |
| `SystemRejected`, `CredentialsRefused` | `failed` at once |
| exported, and the store of results did not keep it | try again or `failed`, as above; the system is not blamed |
| was not called: data is asked for, and the portal has no key to seal it to | `failed(results_key_missing)` |
| was not called: the orchestrator has closed the order | drop it, and report nothing |
| was not called: the orchestrator gives no answer about keys | wait with all that need one, and count no try |
| was not called: the order's own key cannot be had now | wait alone, and count no try |
| anything else | `failed(connector_defect)`; the log gets the frames of the traceback, no values |

Room rules: concludes and never writes, except what a connector asks to be remembered before it destroys something.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

import structlog

from connectors.sdk.blobs import BlobStore, key_of
from connectors.sdk.breaker import PauseRule, Verdict
from connectors.sdk.clock import Clock
from connectors.sdk.conclusion import Conclusion
from connectors.sdk.intake import report_of
from connectors.sdk.journal import Entry, Journal, OrderState
from connectors.sdk.key_rounds import KeyRounds
from connectors.sdk.keys import CLOSED, UNREADABLE, KeysUnavailable, OrderKeys, Purpose
from connectors.sdk.opening import as_job, merged, open_note, open_order, seal_note, seal_subject, unsafe_open_found
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Connector, Job, Result
from connectors.sdk.retry import Backoff
from connectors.sdk.throttle import Gate, QuotaExhausted
from connectors.sdk.work import entered
from schemas.blobs import EXPORTING
from schemas.errors import ConnectorError, CredentialsRefused, ProtocolViolation, StoreUnavailable, SystemUnavailable, Throttled
from schemas.metrics import CONNECTOR_CALL_SECONDS, CONNECTOR_KEYS_UNAVAILABLE, CONNECTOR_RETRIES, Metrics
from schemas.orders import FulfilmentOrder
from schemas.outcomes import Accepted, Failed, NotApplicable
from schemas.reports import FulfilmentReport
from schemas.vocabulary import FailureReason, IdentifierKind

__all__ = ["Attempts", "Limits", "defect_of", "reason_of"]

_log = structlog.get_logger("dsr.connector")

_GOES_ON = "the system goes on with it and nobody asks any more: if the request was withdrawn or denied, stop it there by hand"
_UNREADABLE = "what the orchestrator stores of this order's request does not open: its operators must restore it"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the runtime goes on."""

    retry: Backoff = field(default_factory=lambda: Backoff(5.0, 3600.0))
    poll: Backoff = field(default_factory=lambda: Backoff(5.0, 3600.0))
    max_tries: int = 60
    #: So many records in a row that are no order for us: stop instead of draining the topic into quarantine.
    quarantined_in_a_row: int = 100
    pause: PauseRule = field(default_factory=PauseRule)


class Attempts:
    """Makes tries for one system."""

    def __init__(
        self,
        *,
        connector: Connector,
        gate: Gate,
        journal: Journal,
        keys: OrderKeys,
        key_rounds: KeyRounds,
        blobs: BlobStore,
        clock: Clock,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._connector = connector
        self._gate = gate
        self._journal = journal
        self._keys = keys
        self._key_rounds = key_rounds
        self._blobs = blobs
        self._clock = clock
        self._limits = limits
        self._metrics = metrics

    async def run(self, entry: Entry) -> Conclusion:
        """Make one try. Raises only what must end the process (`StoreUnavailable`, cancellation)."""
        order = entry.order
        assert order is not None, "an open order has its bytes"
        if entry.tries > self._limits.max_tries:
            return self._defect(entry, order, "died_at_it_again_and_again", [])
        try:
            refused = await self._key_rounds.have(order)
        except KeysUnavailable:
            return self._conclusion(entry, order, {"state": _open_state(entry), "tries": entry.tries - 1})
        if refused == CLOSED:
            _log.info("order_closed", system=order.system, order_id=order.order_id, attempt=entry.attempt)
            if entry.handle is not None:
                _log.warning("order_closed_under_way", system=order.system, order_id=order.order_id, remedy=_GOES_ON)
            return Conclusion(order.order_id, order.right, entry.attempt, {}, drop=True)
        if refused == UNREADABLE:
            return self._without_key(entry, order)
        with self._keys.holding(order.order_id):
            return await self._tried(entry, order)

    async def _tried(self, entry: Entry, order: FulfilmentOrder) -> Conclusion:
        try:
            result, work = await self._call(entry, order)
            verdict = Verdict.NEUTRAL if isinstance(result.outcome, NotApplicable) else Verdict.UP
            return await self._concluded(entry, order, result, work, verdict)
        except ProtocolViolation:
            return self._failed(entry, order, FailureReason.IDENTITY_UNREADABLE)
        except ConnectorError as error:
            return replace(self._refused(entry, order, error), verdict=_verdict(error))
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a connector raises is its defect, reported and never swallowed
            return self._defect(entry, order, type(error).__name__, _frames(error))

    def _defect(self, entry: Entry, order: FulfilmentOrder, error: str, frames: list[str]) -> Conclusion:
        _log.error("connector_defect", order_id=order.order_id, error_type=error, frames=frames)
        return self._failed(entry, order, FailureReason.CONNECTOR_DEFECT)

    def _without_key(self, entry: Entry, order: FulfilmentOrder) -> Conclusion:
        self._metrics.count(CONNECTOR_KEYS_UNAVAILABLE, system=order.system)
        _log.warning("keys_unavailable", system=order.system, remedy=_UNREADABLE, order_id=order.order_id)
        at = self._limits.retry.after(self._clock.now(), order.order_id, 1)
        return self._conclusion(entry, order, {"state": _open_state(entry), "not_before": at, "tries": entry.tries - 1})

    def _refused(self, entry: Entry, order: FulfilmentOrder, error: ConnectorError) -> Conclusion:
        if isinstance(error, QuotaExhausted):
            return self._tomorrow(entry, order)
        if isinstance(error, SystemUnavailable | Throttled):
            return self._again(entry, order, error)
        return self._failed(entry, order, reason_of(error))

    async def _call(self, entry: Entry, order: FulfilmentOrder) -> tuple[Result, _JobWork]:
        if order.right in EXPORTING:
            key_of(order)  # before the system is asked: nobody's data is read for nothing
        job = as_job(order, open_order(order, self._keys), entry.attempt, self._clock.now())
        work = _JobWork(order, unsafe_open_found(order, self._keys, entry.found), self._gate, self._journal, self._keys)
        started = asyncio.get_running_loop().time()
        try:
            with entered(work):
                return await self._method(entry, order, job), work
        finally:
            spent = asyncio.get_running_loop().time() - started - work.waited_seconds
            self._metrics.observe(CONNECTOR_CALL_SECONDS, max(0.0, spent), system=order.system, right=order.right)

    async def _method(self, entry: Entry, order: FulfilmentOrder, job: Job) -> Result:
        if entry.handle is None:
            return await perform(self._connector, job)
        return await self._connector.poll(job, open_note(order, self._keys, entry.handle))

    async def _concluded(
        self, entry: Entry, order: FulfilmentOrder, result: Result, work: _JobWork, verdict: Verdict
    ) -> Conclusion:
        now = self._clock.now()
        found = merged((work.found, result.yielded))
        if isinstance(result.outcome, Accepted):
            return replace(self._polled(entry, order, result, found, now), verdict=verdict)
        try:
            kept = [await self._blobs.keep(order, index, exported, now) for index, exported in enumerate(result.exports)]
        except ConnectorError as error:
            _log.warning("results_not_kept", system=order.system, order_id=order.order_id, remedy=str(error))
            return replace(self._refused(entry, order, error), verdict=verdict)
        report = report_of(order, entry.attempt, result.outcome, now).model_dump() | {
            "yielded": seal_subject(order, self._keys, found, Purpose.REPORT),
            "results": tuple(kept),
            "notes": result.notes,
        }
        columns = {"state": OrderState.REPORTED, "handle": None}
        concluded = self._conclusion(entry, order, columns, FulfilmentReport.model_validate(report), final=True)
        return replace(concluded, verdict=verdict)

    def _polled(
        self,
        entry: Entry,
        order: FulfilmentOrder,
        result: Result,
        found: Mapping[IdentifierKind, tuple[str, ...]],
        now: datetime,
    ) -> Conclusion:
        if result.handle is None:
            raise TypeError("Accepted without a handle: nothing could ever be asked after")
        columns = {
            "state": OrderState.POLLING,
            "handle": seal_note(order, self._keys, result.handle),
            "found": seal_subject(order, self._keys, found, Purpose.JOURNAL),
            "tries": 0,
            "polls": entry.polls + 1,
            "not_before": self._limits.poll.after(now, order.order_id, entry.polls + 1),
        }
        return self._conclusion(entry, order, columns, report_of(order, entry.attempt, result.outcome, now))

    def _again(self, entry: Entry, order: FulfilmentOrder, error: SystemUnavailable | Throttled) -> Conclusion:
        now, reason = self._clock.now(), reason_of(error)
        asked = error.retry_after_seconds if isinstance(error, Throttled) else None
        at = self._limits.retry.after(now, order.order_id, entry.tries, at_least_seconds=asked)
        if isinstance(error, Throttled):
            self._gate.hold(now + timedelta(seconds=self._limits.retry.base_seconds if asked is None else asked))
        if entry.tries >= self._limits.max_tries or (at > order.respond_by and not self._is_promised(order)):
            return self._failed(entry, order, reason)
        self._metrics.count(CONNECTOR_RETRIES, system=order.system, reason=reason)
        _log.info("retry", order_id=order.order_id, reason=reason.value, tries=entry.tries, not_before=at.isoformat())
        return self._conclusion(entry, order, {"state": _open_state(entry), "not_before": at})

    def _tomorrow(self, entry: Entry, order: FulfilmentOrder) -> Conclusion:
        with self._journal.transaction() as page:
            at = self._gate.forecast(page.orders_ahead(order.order_id))
        columns = {"state": _open_state(entry), "not_before": at, "tries": entry.tries - 1}
        _log.info("quota_used_up", order_id=order.order_id, not_before=at.isoformat())
        if at <= order.respond_by:
            return self._conclusion(entry, order, columns)
        accepted = Accepted(expected_by=at + timedelta(days=1))
        return self._conclusion(entry, order, columns, report_of(order, entry.attempt, accepted, self._clock.now()))

    def _failed(self, entry: Entry, order: FulfilmentOrder, reason: FailureReason) -> Conclusion:
        _log.warning("failed", order_id=order.order_id, system=order.system, right=order.right.value, reason=reason.value)
        report = report_of(order, entry.attempt, Failed(reason=reason), self._clock.now())
        return self._conclusion(entry, order, {"state": OrderState.REPORTED}, report, final=True)

    def _is_promised(self, order: FulfilmentOrder) -> bool:
        """Tell whether a progress report named a date: from then on the orchestrator watches that date, not patience."""
        with self._journal.transaction() as page:
            return page.last_report(order.order_id, final=False) is not None

    @staticmethod
    def _conclusion(
        entry: Entry,
        order: FulfilmentOrder,
        columns: Mapping[str, Any],
        report: FulfilmentReport | None = None,
        *,
        final: bool = False,
    ) -> Conclusion:
        return Conclusion(order.order_id, order.right, entry.attempt, columns, report, final)


class _JobWork:
    """The runtime's side of `connectors.sdk.work`."""

    def __init__(
        self,
        order: FulfilmentOrder,
        found: Mapping[IdentifierKind, tuple[str, ...]],
        gate: Gate,
        journal: Journal,
        keys: OrderKeys,
    ) -> None:
        self.found = found
        self.waited_seconds = 0.0
        self._order = order
        self._gate = gate
        self._journal = journal
        self._keys = keys

    async def take_turn(self) -> None:
        """Wait for the gate; that time is not the system's."""
        self.waited_seconds += await self._gate.turn()

    async def remember(self, found: Mapping[IdentifierKind, tuple[str, ...]]) -> None:
        """Seal and store, durably, before the connector goes on."""
        self.found = merged((self.found, found))
        with self._journal.transaction() as page:
            page.set(self._order.order_id, found=seal_subject(self._order, self._keys, self.found, Purpose.JOURNAL))


def _open_state(entry: Entry) -> OrderState:
    return OrderState.WAITING if entry.handle is None else OrderState.POLLING


def reason_of(error: ConnectorError) -> FailureReason:
    """Return the reason that a report gives for an error."""
    return FailureReason(error.reason) if error.reason in set(FailureReason) else FailureReason.SYSTEM_ERROR


def _verdict(error: ConnectorError) -> Verdict:
    """Tell what an error says of the system: one that answers, though not as we would like, is up."""
    if isinstance(error, Throttled):
        return Verdict.NEUTRAL
    is_silent = isinstance(error, SystemUnavailable) and reason_of(error) is not FailureReason.VERIFICATION_FAILED
    return Verdict.DOWN if is_silent or isinstance(error, CredentialsRefused) else Verdict.UP


def defect_of(error: Exception) -> dict[str, Any]:
    """Return what the log may say of an error that a connector did not name: its class and where it happened."""
    return {"error_type": type(error).__name__, "frames": _frames(error)}


def _frames(error: Exception) -> list[str]:
    """Return where it happened, without any value."""
    return [f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
