"""The loop all connectors share: order in, report out, each exactly once in meaning.

1. Receive a batch; quarantine what is no order, and await the acks of that.
2. Take the batch into the journal, in one transaction; then, and only then, commit the offsets.
3. Work on what is due, as many at once as the system allows; write each conclusion down before anything else happens to it.
4. Publish written reports, await every broker ack, then mark them sent.

A kill at any point repeats at most the step it interrupted: 1 and 2 by the offsets, 3 by the state `working`, 4 by `sent`.

Room rules: Kafka stands behind `Bus`, time behind `Clock`; no right and no outcome is looked at here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from connectors.sdk.attempts import Attempts, Limits
from connectors.sdk.blobs import BlobStore
from connectors.sdk.breaker import Breaker
from connectors.sdk.bus import Bus, Inbound
from connectors.sdk.cancelling import Cancelling
from connectors.sdk.clock import Clock
from connectors.sdk.conclusion import Conclusion, settle
from connectors.sdk.ending import end, let_go
from connectors.sdk.forecast import Pace, forecast, late
from connectors.sdk.forgetting import Forgetting, note_gone
from connectors.sdk.intake import Batch, marks_of, opened, parsed, quarantined, take
from connectors.sdk.journal import Among, Entry, Journal, OrderState, Page
from connectors.sdk.key_rounds import KeyRounds
from connectors.sdk.keys import KeysUnavailable, OrderKeys
from connectors.sdk.protocol import Cancels, Connector, Forgets, Over
from connectors.sdk.quota import QuotaBook
from connectors.sdk.speaking import outbound_reports
from connectors.sdk.throttle import Gate
from connectors.sdk.turns import Turns
from schemas.blobs import BlobKey
from schemas.errors import ConnectorError, OrchestratorError
from schemas.metric_labels import CancelResult, TopicPartition
from schemas.metrics import (
    CONNECTOR_CANCELLED,
    CONNECTOR_JOBS_OPEN,
    CONNECTOR_LAG,
    CONNECTOR_ORDERS,
    CONNECTOR_ORDERS_LATE,
    CONNECTOR_ORDERS_WAITING,
    CONNECTOR_OUTCOMES,
    CONNECTOR_PAUSE_SECONDS,
    CONNECTOR_QUARANTINED,
    CONNECTOR_QUOTA_REMAINING,
    CONNECTOR_RETRIES,
    Metrics,
)
from schemas.order_keys import KeyStatus
from schemas.orders import FulfilmentOrder, OrderCancelled
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import FailureReason, QuarantineReason, Right

__all__ = ["Runtime"]

_log = structlog.get_logger("dsr.connector")

_PUBLISH_AT_ONCE = 500
_HOUSEKEEPING_SECONDS = 15.0
_LONGEST_SLEEP = timedelta(seconds=60)
_LONGEST_EXPIRY = timedelta(days=1)
Asked = TypeVar("Asked", FulfilmentOrder, OrderCancelled)


class Runtime:
    """Runs one connector for one system of the registry."""

    def __init__(
        self,
        *,
        system: str,
        connector: Connector,
        bus: Bus,
        journal: Journal,
        keys: OrderKeys,
        blobs: BlobStore,
        clock: Clock,
        topics: Topics,
        metrics: Metrics,
        quota: QuotaBook,
        limits: Limits | None = None,
        journal_kept: timedelta = timedelta(days=45),
        failures_kept: timedelta = timedelta(days=400),
        grace_seconds: float = 20.0,
        signer: SigningKey | None = None,
        quarantine_key: BlobKey | None = None,
    ) -> None:
        """Without `signer` reports go out unsigned: for installations that have signatures off.

        What is set aside is sealed to `quarantine_key`; without, it stands there as it came.
        """
        self._quarantine_key = quarantine_key
        self._signer = signer
        self._system = system
        self._bus = bus
        self._journal = journal
        self._keys = keys
        self._blobs = blobs
        self._clock = clock
        self._topics = topics
        self._metrics = metrics
        self._kept = journal_kept
        self._failures_kept = failures_kept
        self._grace_seconds = grace_seconds
        self._slots = connector.throttle.concurrent
        self._gate = Gate(connector.throttle, clock, quota)
        self._has_work = asyncio.Event()
        self._key_rounds = KeyRounds(system, keys=keys, journal=journal, clock=clock, metrics=metrics, back=self._has_work.set)
        self._attempts = Attempts(
            connector=connector,
            gate=self._gate,
            journal=journal,
            keys=keys,
            key_rounds=self._key_rounds,
            blobs=blobs,
            clock=clock,
            limits=limits or Limits(),
            metrics=metrics,
        )
        self._limits = limits or Limits()
        self._breaker = Breaker(system, self._limits.pause, clock, journal)
        self._turns = Turns()
        self._busy_seconds, self._finished = 0.0, 0
        self._in_a_row = 0
        self._expiring_since: datetime | None = None
        #: Orders whose results have to go.
        self._unwanted: set[str] = set()
        self._workers: set[asyncio.Task[None]] = set()
        self._concluded: list[Conclusion] = []
        self._has_reports = asyncio.Event()
        self._cancelling = None
        if isinstance(connector, Cancels):
            self._cancelling = Cancelling(
                system,
                connector,
                journal=journal,
                gate=self._gate,
                clock=clock,
                limits=self._limits,
                metrics=metrics,
                reported=self._has_reports.set,
            )
        self._forgetting = None
        if isinstance(connector, Forgets):
            self._forgetting = Forgetting(system, connector, journal=journal, clock=clock)
        self._stopping = asyncio.Event()
        #: Set once the bus has been joined and the journal's leftovers are back in the queue.
        self.started = asyncio.Event()
        #: True while the orchestrator does not answer about keys: nothing is taken in.
        self.waits_for_keys = False

    @property
    def is_ready(self) -> bool:
        """Tell whether orders are taken in as they come."""
        return self.started.is_set() and not self.waits_for_keys

    def stop(self) -> None:
        """Ask for an orderly end: no new orders, those under way are finished within the grace time, reports go out."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until `stop`. Raises what must end the process: `AckLost`, `StoreUnavailable`, the bus's own errors."""
        with self._journal.transaction() as page:
            resumed = page.requeue_interrupted()
            for order_id in page.cancellations.still_open_orders():
                self._let_go(page, order_id)
            self._unwanted.update(page.cancellations.unwanted())
        if self._forgetting is not None:
            await self._forgetting.once()  # before the broker, which may be away
        await self._bus.start()
        _log.info("started", system=self._system, resumed=resumed)
        try:
            async with asyncio.TaskGroup() as group:
                feeding = [group.create_task(self._receive()), group.create_task(self._dispatch(group))]
                feeding.append(group.create_task(self._key_rounds.run()))
                serving = [group.create_task(self._publish_always()), group.create_task(self._keep_house())]
                if self._cancelling is not None:
                    serving.append(group.create_task(self._cancelling.run()))
                if self._forgetting is not None:
                    serving.append(group.create_task(self._forgetting.run()))
                self._has_work.set()
                self._has_reports.set()
                self.started.set()
                await self._stopping.wait()
                await self._wind_down(feeding, serving)
        finally:
            await self._bus.stop()
        _log.info("stopped", system=self._system)

    async def _wind_down(self, feeding: list[asyncio.Task[None]], serving: list[asyncio.Task[None]]) -> None:
        for task in feeding:
            task.cancel()
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=self._grace_seconds)
            for task in late:
                task.cancel()
        for task in serving:
            task.cancel()
        await asyncio.gather(*feeding, *serving, *self._workers, return_exceptions=True)
        self._settle()
        await self._publish()
        if self._forgetting is not None:
            await self._forgetting.once()

    def _let_go(self, page: Page, order_id: str) -> None:
        entry, forgets = page.find(order_id), self._forgetting is not None
        if let_go(page, order_id, forgets=forgets) and forgets and entry is not None and entry.order is not None:
            note_gone(page, [entry.order])

    async def _receive(self) -> None:
        while True:
            records = await self._bus.receive()
            if records:
                await self._take_in(records)

    async def _take_in(self, records: Sequence[Inbound]) -> None:
        read = parsed(records, self._system)
        fetch = partial(self._keys.fetch, ahead=marks_of(read))
        refused = await self._asked(fetch, [order for _, order in read if isinstance(order, FulfilmentOrder)])
        over = await self._asked(self._keys.standing, [order for _, order in read if isinstance(order, OrderCancelled)])
        batch = opened(read, self._keys, refused, over)
        self._stop_if_all_is_poison(batch)
        now = self._clock.now()
        if batch.quarantined:
            topic, key = self._topics.quarantine, self._quarantine_key
            await self._bus.publish([quarantined(topic, r, v, now, key) for r, v in batch.quarantined])
        with self._journal.transaction() as page:
            new = take(page, batch, now)
            can_call_off, forgets = self._cancelling is not None, self._forgetting is not None
            let = [one for one in batch.cancelled if end(page, one, now, can_call_off=can_call_off, forgets=forgets)]
            if forgets:
                note_gone(page, [*batch.cancelled, *batch.closed])
            self._note_unwanted(page, [one.order_id for one in batch.cancelled])
        await self._bus.commit(records)
        for one in batch.cancelled:
            _log.info("order_cancelled", system=self._system, order_id=one.order_id, attempt=one.attempt, reason=one.reason)
        for one in let:
            self._keys.forget(one.order_id)
            self._metrics.count(CONNECTOR_CANCELLED, system=self._system, result=CancelResult.DROPPED)
        for _, violation in batch.quarantined:
            _log.warning("quarantined", system=self._system, reason=violation.code, field=violation.field)
            self._metrics.count(CONNECTOR_QUARANTINED, system=self._system, reason=QuarantineReason(violation.code))
        for order in batch.closed:
            _log.info("order_closed", system=self._system, order_id=order.order_id, attempt=order.attempt)
        for order in new:
            self._metrics.count(CONNECTOR_ORDERS, system=self._system, right=order.right)
        self._has_work.set()
        self._has_reports.set()
        self._tell_others()

    def _note_unwanted(self, page: Page, order_ids: Iterable[str]) -> None:
        for order_id in order_ids:
            kept = page.cancellations.find(order_id)
            if kept is not None and kept.is_unwanted:
                self._unwanted.add(order_id)

    def _tell_others(self) -> None:
        for other in (self._cancelling, self._forgetting):
            if other is not None:
                other.has_work.set()

    async def _asked(
        self, ask: Callable[[Sequence[Asked]], Awaitable[Mapping[str, KeyStatus]]], orders: Sequence[Asked]
    ) -> Mapping[str, KeyStatus]:
        """Wait until the orchestrator has answered about these orders: without it nothing can be taken in."""
        while orders:
            try:
                answers = await ask(orders)
            except KeysUnavailable as error:
                self.waits_for_keys = True
                await self._clock.sleep(self._key_rounds.refused(error, len(orders)))
            else:
                if self.waits_for_keys:  # else it may be that nobody was asked: the roots were at hand
                    self._key_rounds.answered()
                self.waits_for_keys = False
                return answers
        return {}

    def _stop_if_all_is_poison(self, batch: Batch) -> None:
        """Raise before anything of the batch is committed: a wrong key or a bad release would send every order there."""
        self._in_a_row = batch.bad_at_end + (0 if batch.orders or batch.closed or batch.cancelled else self._in_a_row)
        if self._in_a_row >= self._limits.quarantined_in_a_row:
            raise OrchestratorError(
                f"{self._in_a_row} records in a row were no order for {self._system}: check who writes to the topic and "
                "whether DSR_KEYS_URL is the orchestrator that sends these orders, or raise DSR_QUARANTINED_IN_A_ROW"
            )

    async def _dispatch(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._has_work.clear()
            free = self._slots - len(self._workers)
            if free > 0:
                claimed, next_due_at = self._claim(free)
                for entry in claimed:
                    worker = group.create_task(self._work(entry))
                    self._workers.add(worker)
                    worker.add_done_callback(self._is_free)
                if len(claimed) < free:
                    await self._work_or(next_due_at)
                    continue
            await self._has_work.wait()

    def _claim(self, free: int) -> tuple[list[Entry], datetime | None]:
        held_until = self._gate.held_until()
        if held_until is not None:
            return [], held_until
        allowed = self._breaker.allowance(free)
        if not allowed.orders:
            return [], allowed.until
        now = self._clock.now()
        with self._journal.transaction() as page:
            queues = Among(page, self._keys.at_hand()) if self._key_rounds.is_away else page
            due = self._turns.claim(queues, now, allowed.orders, but=(allowed.rather_not,)) if allowed.rather_not else []
            due = due or self._turns.claim(queues, now, allowed.orders)
            for entry in due:
                page.set(entry.order_id, state=OrderState.WORKING, tries=entry.tries + 1)
            next_due_at = queues.next_due_at()
        self._breaker.begun([entry.order_id for entry in due])
        return [replace(entry, tries=entry.tries + 1) for entry in due], next_due_at

    async def _work_or(self, moment: datetime | None) -> None:
        """Wait for new work or for the moment, whichever comes first."""
        latest = self._clock.now() + _LONGEST_SLEEP
        until = latest if moment is None else min(latest, moment)
        waits = [asyncio.ensure_future(self._has_work.wait()), asyncio.ensure_future(self._clock.sleep_until(until))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _is_free(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._has_work.set()

    async def _work(self, entry: Entry) -> None:
        began = self._clock.now()
        conclusion = await self._attempts.run(entry)  # on its own line: the list is another one after the wait
        if conclusion.final or conclusion.drop:
            self._keys.forget(entry.order_id)
        self._busy_seconds += max(0.0, (self._clock.now() - began).total_seconds())
        self._finished += conclusion.final
        self._breaker.note(entry.order_id, conclusion.verdict)
        self._metrics.set(CONNECTOR_PAUSE_SECONDS, self._breaker.remaining_seconds(), system=self._system)
        self._concluded.append(conclusion)
        await asyncio.sleep(0)  # those that end in the same turn of the loop share one transaction
        self._settle()

    def _settle(self) -> None:
        if not self._concluded:
            return
        concluded, self._concluded = self._concluded, []
        with self._journal.transaction() as page:
            for conclusion in concluded:
                settle(page, conclusion, self._clock.now(), forgets=self._forgetting is not None)
                self._note_gone(page, conclusion)
            # After the try, which may have kept results behind the back of an earlier deletion.
            self._note_unwanted(page, [conclusion.order_id for conclusion in concluded])
        self._has_reports.set()
        self._tell_others()

    def _note_gone(self, page: Page, conclusion: Conclusion) -> None:
        if self._forgetting is not None and page.find(conclusion.order_id) is None:
            self._keys.forget(conclusion.order_id)
            page.forgettings.put(Over(conclusion.order_id, Right(conclusion.right), conclusion.attempt))

    async def _publish_always(self) -> None:
        while True:
            await self._has_reports.wait()
            self._has_reports.clear()
            await self._publish()

    async def _publish(self) -> None:
        while True:
            with self._journal.transaction() as page:
                unsent = page.unsent(_PUBLISH_AT_ONCE)
            if not unsent:
                return
            reports = [stored.report for stored in unsent]
            await self._bus.publish(outbound_reports(self._topics.reports, reports, self._signer))
            with self._journal.transaction() as page:
                page.mark_sent(unsent)
                for stored in unsent if self._forgetting is not None else ():
                    if stored.final:
                        page.forgettings.put(Over(stored.report.order_id, Right(stored.right), stored.report.attempt))
            self._tell_others()
            for stored in unsent:
                self._metrics.count(
                    CONNECTOR_OUTCOMES, system=self._system, right=Right(stored.right), outcome=stored.report.outcome.code
                )

    async def _keep_house(self) -> None:
        while True:
            await self._measure()
            now = self._clock.now()
            with self._journal.transaction() as page:
                page.forget_before(now - self._kept, unfinished=now - self._failures_kept)
            self._journal.compact()
            await self._expire(now)
            await self._clock.sleep(_HOUSEKEEPING_SECONDS)

    async def _expire(self, now: datetime) -> None:
        """Delete results that have expired, or that nobody waits for.

        A store that fails at it for a day ends the process: data is kept longer than was said.
        """
        try:
            await self._blobs.expire(now.date())
            await self._drop_unwanted()
        except ConnectorError as error:
            self._expiring_since = self._expiring_since or now
            self._metrics.count(CONNECTOR_RETRIES, system=self._system, reason=FailureReason.UNAVAILABLE)
            _log.error("results_not_expired", system=self._system, remedy=str(error))
            if now - self._expiring_since >= _LONGEST_EXPIRY:
                raise
        else:
            self._expiring_since = None

    async def _drop_unwanted(self) -> None:
        for order_id in sorted(self._unwanted):
            # Before it is done: a try that ends meanwhile names its order anew, and what it has kept goes the next time.
            self._unwanted.discard(order_id)
            try:
                gone = await self._blobs.drop(order_id)
            except BaseException:
                self._unwanted.add(order_id)
                raise
            if gone:
                _log.info("results_deleted", system=self._system, order_id=order_id, count=gone)

    async def _measure(self) -> None:
        remaining = await self._gate.remaining()
        with self._journal.transaction() as page:
            waiting, polling = page.count(OrderState.WAITING), page.count(OrderState.POLLING)
        share = await self._gate.share(waiting)
        with self._journal.transaction() as page:
            self._forecast(page, remaining, share)
        self._metrics.set(CONNECTOR_ORDERS_WAITING, waiting, system=self._system)
        self._metrics.set(CONNECTOR_JOBS_OPEN, polling, system=self._system)
        self._metrics.set(CONNECTOR_PAUSE_SECONDS, self._breaker.remaining_seconds(), system=self._system)
        if remaining is not None:
            self._metrics.set(CONNECTOR_QUOTA_REMAINING, remaining, system=self._system)
        lag = {TopicPartition(topic, partition): float(count) for (topic, partition), count in self._bus.lag().items()}
        self._metrics.replace(CONNECTOR_LAG, lag)

    def _forecast(self, page: Page, remaining: int | None, share: float) -> None:
        kept = page.pace()
        pace = kept[0] if kept else Pace()
        if self._finished:
            pace = Pace(self._busy_seconds / self._finished, self._gate.turns / self._finished, self._finished)
        pace = replace(pace, share=share)
        page.keep_pace(pace, self._gate.throttle)
        start = max(self._clock.now(), self._gate.held_until() or self._clock.now())
        start += timedelta(seconds=self._breaker.remaining_seconds())
        waiting = forecast(page.in_turn(), self._gate.throttle, pace, start, remaining)
        self._metrics.set(CONNECTOR_ORDERS_LATE, late(waiting), system=self._system)
