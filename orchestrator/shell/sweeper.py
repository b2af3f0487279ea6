"""The sweeper: finds requests whose stored moment has come, and lets the core decide.

Any number of workers may sweep: two that find the same request are kept apart by its version, and the second finds nothing to
do. After a downtime the first round is the start-up scan.

Room rules: looks at the clock and the store; what a moment means is the core's business.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from time import perf_counter

import structlog

from orchestrator.ports import Clock
from orchestrator.shell.inbox import Inbox
from orchestrator.shell.intake_keys import IntakeKeys
from orchestrator.shell.measure import measure_census
from orchestrator.shell.work import Ground
from schemas.metric_labels import StoreOperation
from schemas.metrics import SWEEP_SECONDS, WAKES_FAILED, Metrics

__all__ = ["REFUSALS_KEPT", "Sweeper"]

log = structlog.get_logger(__name__)

#: Refusals are forgotten when no topic that is read can still have the record: three times their longest retention.
REFUSALS_KEPT = timedelta(days=90)
_FORGET_EVERY = timedelta(hours=6)
#: A count of everything rests so many times as long as it took: it grows with the number of open requests.
_CENSUS_REST = 20
#: What was forgotten leaves the database's own files within this.
_SCRUB_EVERY = timedelta(seconds=15)
#: Intake keys that another worker made are known within this, and destroyed ones forgotten: far below `IntakePolicy.lead`.
_KEYS_EVERY = timedelta(seconds=15)
#: A request at which our own code failed is woken again after this.
_FAILED_REST = timedelta(minutes=1)
#: Requests woken in one transaction.
_AT_ONCE = 500


class Sweeper:
    """Wakes what is due, adopts what a dead worker left, counts what is open."""

    def __init__(
        self,
        ground: Ground,
        inbox: Inbox,
        clock: Clock,
        metrics: Metrics,
        *,
        interval_seconds: float = 1.0,
        adopt_after_seconds: float = 30.0,
        census_every_seconds: float = 15.0,
        keys_grow_old: timedelta = timedelta(days=120),
        intake: IntakeKeys | None = None,
    ) -> None:
        """Without `intake` nobody looks after the intake keys: for tests of the rest."""
        self._ground = ground
        self._inbox = inbox
        self._clock = clock
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._adopt_after = timedelta(seconds=adopt_after_seconds)
        self._keys_grow_old = keys_grow_old
        self._census_every = timedelta(seconds=census_every_seconds)
        self._intake = intake
        #: Requests at whose moment our own code failed, and when it last did.
        self._failed: dict[str, datetime] = {}
        self._census_at = self._adopt_at = self._forget_at = self._scrub_at = self._keys_at = clock.now()

    async def run(self) -> None:
        """Sweep until cancelled. Raises `Fatal` like the inbox."""
        while True:
            await self.sweep()
            await self._clock.sleep(self._interval_seconds)

    async def sweep(self) -> int:
        """Do one round and return how many requests were woken."""
        started = perf_counter()
        woken = 0
        while requests := await self._due():
            failed = await self._inbox.wake(requests)
            woken += len(requests) - len(failed)
            self._failed |= dict.fromkeys(failed, self._clock.now())
            if len(requests) < _AT_ONCE:
                break
        self._metrics.set(WAKES_FAILED, len(self._failed))
        await self._inbox.tidy()
        now = self._clock.now()
        if now >= self._adopt_at:
            await self._inbox.adopt(self._adopt_after)
            self._adopt_at = now + self._adopt_after / 3
        if now >= self._forget_at:
            forget = partial(self._ground.store.forget_refusals, now - REFUSALS_KEPT)
            await self._inbox.patiently(StoreOperation.SAVE, forget)
            self._forget_at = now + _FORGET_EVERY
        if now >= self._scrub_at:
            await self._inbox.patiently(StoreOperation.SAVE, self._ground.store.scrub)
            self._scrub_at = now + _SCRUB_EVERY
        if self._intake is not None and now >= self._keys_at:
            await self._inbox.patiently(StoreOperation.LOAD, self._intake.turn)
            self._keys_at = now + _KEYS_EVERY
        if now >= self._census_at:
            census = await self._inbox.patiently(
                StoreOperation.LOAD, partial(self._ground.store.census, now, self._keys_grow_old)
            )
            measure_census(self._metrics, census, now)
            done = self._clock.now()
            self._census_at = done + max(self._census_every, (done - now) * _CENSUS_REST)
        self._metrics.observe(SWEEP_SECONDS, perf_counter() - started)
        return woken

    async def _due(self) -> list[str]:
        """Return what is due, without those that failed a short while ago: they must not stand before the others."""
        now = self._clock.now()
        due = partial(self._ground.store.due, now, _AT_ONCE + len(self._failed))
        found = await self._inbox.patiently(StoreOperation.LOAD, due)
        resting = {request for request, at in self._failed.items() if now - at < _FAILED_REST}
        self._failed = {request: self._failed[request] for request in found if request in resting}
        return [request for request in found if request not in resting][:_AT_ONCE]
