"""The inbox: a batch of records in, one transaction, every effect acknowledged by the broker, then done.

The order is the whole point: decode, load, decide, save states and outgoing records together, publish, and only then may the
caller acknowledge. A crash before the save replays the batch; a crash after it finds the records in the outbox. While one batch
is on its way to the broker the next is decoded and decided; it is saved once the one before is out. So an input is never lost,
and after a crash at most one batch of records is doubled, byte for byte.

Room rules: waits and retries; whatever it cannot do ends in `Fatal`, never in silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any, TypeGuard, TypeVar

import structlog

from orchestrator.core.effects import Input, Wake
from orchestrator.ports import Clock, Conflict, Gate, OutRecord, Publisher, PublishFailed, Record, Refusal
from orchestrator.shell.care import Care, ProcessEnded
from orchestrator.shell.defects import AT_MOST, NO_RECORDS_FAULT, Defect, Judge, Stumble
from orchestrator.shell.measure import measure
from orchestrator.shell.points import Points
from orchestrator.shell.signing import signed
from orchestrator.shell.translate import Arrival, SetAside
from orchestrator.shell.work import Ground, Halted, UnitOfWork
from schemas.errors import OrchestratorError, StoreUnavailable
from schemas.metric_labels import StoreOperation
from schemas.metrics import PUBLISH_SECONDS, ROWS_DAMAGED, STORE_CONFLICTS, STORE_SECONDS, Metrics
from schemas.trust import SigningKey

__all__ = ["Fatal", "Inbox", "QuarantineLimit"]

T = TypeVar("T")
log = structlog.get_logger(__name__)

#: Conflicts are settled by deciding again; so many in a row mean that something else is wrong.
_CONFLICTS_AT_MOST = 8
#: Waits between calls of a store that does not answer, in seconds; after the last one the worker ends.
_STORE_WAITS = (0.1, 0.3, 1.0, 3.0, 10.0)
#: Records decided without a pause: a few milliseconds of work.
_BREATH = 16
#: So often a worker that takes nothing in looks whether the gate is open again.
_GATE_SECONDS = 2.0


class Fatal(OrchestratorError):
    """The worker cannot go on without losing something: end the process without a commit; the next one replays."""


class QuarantineLimit:
    """Counts, so that the worker stops instead of draining a whole topic into quarantine.

    A bad deploy, of a portal or of ours, can make every record unreadable. Beyond `at_most` records set aside within `seconds`
    the gate is shut before the next one is published, for every life of every worker, until a person has looked.
    """

    def __init__(self, clock: Clock, *, at_most: int, seconds: float = 60.0) -> None:
        self._clock = clock
        self.at_most = at_most
        self._seconds = seconds
        self._since = clock.now()
        self._count = 0

    def add(self, count: int) -> None:
        """Count records set aside."""
        self._turn_over()
        self._count += count

    def is_passed_by(self, count: int) -> bool:
        """Tell whether so many more would be too many."""
        self._turn_over()
        return count > 0 and self._count + count > self.at_most

    def _turn_over(self) -> None:
        now = self._clock.now()
        if (now - self._since).total_seconds() > self._seconds:
            self._since, self._count = now, 0


async def _nothing_new() -> bool:
    return False


class Inbox:
    """Processes batches, one at a time; the sweeper takes its turns through the same door."""

    def __init__(
        self,
        ground: Ground,
        publisher: Publisher,
        clock: Clock,
        metrics: Metrics,
        limit: QuarantineLimit,
        *,
        points: Points | None = None,
        signer: SigningKey | None = None,
        learn_keys: Callable[[], Awaitable[bool]] = _nothing_new,
        lives: int = 3,
        care: Care | None = None,
    ) -> None:
        """Without `signer` nothing that is published is signed: for installations that have signatures off.

        `learn_keys` looks for intake keys that another worker made, and tells whether there are new ones. `lives`: so many
        may end at one record by a defect of ours before it is set aside. `care` finds those that leave no exception.
        """
        self._lives = lives
        self._care = care
        self._learn_keys = learn_keys
        self._signer = signer
        self._ground = ground
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._limit = limit
        self._points = points
        self._turn = asyncio.Lock()
        self._published: list[int] = []
        #: Publishes what was saved last, once all before it is out.
        self._going_out: asyncio.Task[None] | None = None
        #: A batch could not be saved: none that was given after it may be.
        self._is_broken = False
        #: Why nothing is taken in, or None.
        self.shut: str | None = None

    async def until_open(self) -> None:
        """Return when the quarantine's gate is open: at once, unless an earlier life or another worker has shut it."""
        while self._is_shut(await self._gate()):
            if self.shut is None:
                self.shut = "too many records went to quarantine: see `dsr quarantine list`, then run `dsr quarantine allow`"
                log.error("quarantine_shut", action="nothing is taken in", remedy=self.shut)
            await self._clock.sleep(_GATE_SECONDS)
        self.shut = None

    def _is_shut(self, gate: Gate) -> bool:
        return gate.shut_at is not None and self._limit.at_most <= (gate.at_most or 0)

    async def _gate(self) -> Gate:
        return await self.patiently(StoreOperation.LOAD, self._ground.store.gate)

    async def _mind_the_gate(self, refused: int) -> None:
        """Shut the gate and raise `Fatal`, before anything of the batch is saved, if it would set too many records aside."""
        if not self._limit.is_passed_by(refused):
            return
        now = self._clock.now()
        gate = await self._gate()
        if gate.open_until is not None and now < gate.open_until:
            return
        shut = Gate(shut_at=now, at_most=self._limit.at_most)
        await self.patiently(StoreOperation.SAVE, partial(self._ground.store.set_gate, shut))
        raise Fatal(
            f"more than {self._limit.at_most} records a minute would go to quarantine: look at them with `dsr quarantine list`,"
            " then run `dsr quarantine allow` or raise DSR_QUARANTINE_LIMIT; until then no worker takes anything in"
        )

    async def take_in(self, records: Sequence[Record], *, decided: asyncio.Event | None = None) -> Awaitable[None]:
        """Return when all that these records imply is saved; what is returned ends when that, and all before it, is published.

        `decided` is set when they are decided and wait to be saved: from then on the next ones may be given, to be decoded
        meanwhile. They are decided when these are saved, and not at all if these could not be.
        Raises `Fatal`, and so does what is returned.
        """
        decided = decided or asyncio.Event()
        if self._care is not None and self._care.is_on and records:
            return await self._take_in_one_by_one(self._care, records, decided)
        return await self._settle(await self._read_all(records), decided)

    async def _read_all(self, records: Sequence[Record]) -> list[Arrival | SetAside | Stumble]:
        arrivals = [self._read(record) async for record in _with_breath(records)]
        if any(map(_lacks_key, arrivals)) and await self.patiently(StoreOperation.LOAD, self._learn_keys):
            arrivals = [self._read(one.record) if _lacks_key(one) else one for one in arrivals]
        if self._points is not None:
            await self._points.at("after_decode")
        return arrivals

    async def _take_in_one_by_one(self, care: Care, records: Sequence[Record], decided: asyncio.Event) -> Awaitable[None]:
        published: Awaitable[None] | None = None
        for number, record in enumerate(records, 1):
            arrivals: list[Arrival | SetAside | Stumble] = [Stumble(record, ProcessEnded())]
            if not await self.patiently(StoreOperation.LOAD, partial(care.is_deadly, record)):
                await self.patiently(StoreOperation.SAVE, partial(care.take, record))
                arrivals = await self._read_all([record])
            published = await self._settle(arrivals, decided if number == len(records) else asyncio.Event())
        assert published is not None, "there are records"
        return published

    async def process(self, records: Sequence[Record]) -> None:
        """Return when everything that these records imply is saved and published. Raises `Fatal`."""
        await (await self.take_in(records))

    def _read(self, record: Record) -> Arrival | SetAside | Stumble:
        try:
            return self._ground.translator.read(record)
        except NO_RECORDS_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 - judged where it is decided, unless this record was refused before
            return Stumble(record, error)

    async def wake(self, requests: Sequence[str]) -> list[str]:
        """Decide for requests whose stored moment has come, and return those at which our own code fails. Raises `Fatal`.

        They stay as they are, and due; the others are not held up by them.
        """
        arrivals = [Arrival(request, Input(Wake())) for request in requests]
        try:
            await (await self._settle(arrivals))
        except Defect:
            return [one.subject_request_id for one in arrivals if not await self._is_woken(one)]
        return []

    async def _is_woken(self, arrival: Arrival) -> bool:
        try:
            await (await self._settle([arrival]))
        except Defect as defect:
            request = arrival.subject_request_id
            log.exception("wake_failed", action="tried again later", subject_request_id=request, exc_info=defect.__cause__)
            return False
        return True

    async def _settle(
        self, arrivals: Sequence[Arrival | SetAside | Stumble], decided: asyncio.Event | None = None
    ) -> Awaitable[None]:
        """`decided`: of a batch of records, which is not begun after one that could not be saved; None: a moment has come."""
        async with self._turn:
            if decided is not None and self._is_broken:
                raise Fatal("the batch before this one could not be saved")
            try:
                work, outbox_id = await self._save(arrivals, decided)
            except BaseException:
                if decided is not None:
                    self._is_broken = True  # what was given meanwhile must not overtake it
                raise
            self._going_out = asyncio.create_task(self._send_out(work, outbox_id, self._going_out), name="publish")
            # Whoever waits may be cancelled; what is saved goes out all the same.
            return asyncio.shield(self._going_out)

    async def _send_out(self, work: UnitOfWork, outbox_id: int | None, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        if outbox_id is not None:
            await self._publish([*work.change.records, *work.parcel.written_down()])
            self._published.append(outbox_id)
        work.parcel.give()
        measure(self._metrics, work.outcome)
        self._report(work)

    async def _all_is_out(self) -> None:
        """Return when what was saved before is published. Raises `Fatal` if it could not be."""
        if self._going_out is not None:
            await asyncio.shield(self._going_out)
            self._going_out = None

    async def _save(
        self, arrivals: Sequence[Arrival | SetAside | Stumble], decided: asyncio.Event | None
    ) -> tuple[UnitOfWork, int | None]:
        for _ in range(_CONFLICTS_AT_MOST):
            try:
                try:
                    work = await self._decided(arrivals)
                finally:
                    await self._let_go(arrivals)
                if decided is not None:
                    decided.set()
                return work, await self._saved(work)
            except Conflict:
                self._metrics.count(STORE_CONFLICTS)
        raise Fatal("the same rows were changed by another worker again and again: are two workers using one instance id?")

    async def _let_go(self, arrivals: Sequence[Arrival | SetAside | Stumble]) -> None:
        """Say that the record in hand did no harm, if these are of it: somebody else's turn may come while it waits."""
        if self._care is not None and arrivals and self._care.holds(arrivals[0].record):
            await self.patiently(StoreOperation.SAVE, self._care.let_go)

    async def _saved(self, work: UnitOfWork) -> int | None:
        """Save; return the id of the outbox batch, if there is something to publish. Raises `Conflict`."""
        change = work.change
        if not (change.rows or change.records):
            return None
        # Two batches that are saved and not out would be two that a crash doubles.
        await self._all_is_out()
        await self._mind_the_gate(len(work.outcome.refused))
        released, change.published = self._published, list(self._published)
        if self._points is not None:
            await self._points.at("before_save")
        outbox_id = await self.patiently(StoreOperation.SAVE, partial(self._ground.store.commit, change))
        self._published = [batch for batch in self._published if batch not in released]
        self._limit.add(len(work.outcome.refused))
        if self._points is not None:
            await self._points.at("after_save")
        return outbox_id

    async def _decided(self, arrivals: Sequence[Arrival | SetAside | Stumble]) -> UnitOfWork:
        """Return a unit of work in which all of them are decided, those set aside that have ended enough lives.

        Raises `Fatal` if our code fails at a record that has not, and `Defect` at an input that is no record.
        """
        left, halted, met = list(arrivals), list[Halted](), list[Defect]()
        deadly: list[Refusal] = []
        while True:
            work = UnitOfWork(self._ground, self._clock.now(), halted)
            await self.patiently(StoreOperation.LOAD, partial(work.load, left))
            try:
                async for arrival in _with_breath(left):
                    await work.apply(arrival)
                work.finish()
            except Halted as one:
                halted.append(one)
            except Defect as one:
                met.append(one)
                aside = await self._judged(one, len(met))
                where = next(number for number, arrival in enumerate(left) if arrival is one.arrival)
                left[where : where + 1] = [aside] if isinstance(aside, SetAside) else []
                deadly += [aside] if isinstance(aside, Refusal) else []
            else:
                break
        if deadly:
            await self.patiently(StoreOperation.SAVE, partial(self._ground.store.add_deaths, deadly, self._clock.now()))
            place = f"{deadly[0].topic}-{deadly[0].partition}-{deadly[0].offset}"
            raise Fatal(f"a defect at {len(deadly)} record(s), the first is {place}: see `defect_met` in this log")
        return work

    async def _judged(self, defect: Defect, count: int) -> SetAside | Refusal:
        """Return the record that one was met at, set aside; or its name, if the worker must end there."""
        record = defect.arrival.record
        if record is None or isinstance(defect.arrival, SetAside):
            raise defect
        if count > AT_MOST:
            raise Fatal(f"a defect at more than {AT_MOST} records of one batch: this release is wrong about them, run another")
        await self._let_go([defect.arrival])  # it has not ended without a word
        deaths = await self.patiently(StoreOperation.LOAD, self._ground.store.deaths)
        judge = Judge(deaths, self._clock.now(), lives=self._lives)
        return judge.judged(record, defect.__cause__ or defect) or record.refusal()

    async def patiently(self, operation: StoreOperation, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store, and again if it does not answer. Raises `Fatal` if it stays away.

        A save that may have happened shows as a conflict and is re-read.
        """
        for wait in (*_STORE_WAITS, None):
            started = perf_counter()
            try:
                result = await call()
            except StoreUnavailable as error:
                if wait is None:
                    raise Fatal(f"the store stayed away: {error}") from error
                log.warning("store_unavailable", action="retry", operation=operation, wait_seconds=wait)
                await self._clock.sleep(wait)
            else:
                self._metrics.observe(STORE_SECONDS, perf_counter() - started, operation=operation)
                return result
        raise AssertionError("the last wait is None")

    async def _publish(self, records: Sequence[OutRecord]) -> None:
        started = perf_counter()
        if self._signer is not None:
            records = signed(records, self._signer)
        try:
            if self._points is not None:
                half = len(records) // 2
                await self._publisher.publish(records[:half])
                await self._points.at("mid_publish")
                records = records[half:]
            await self._publisher.publish(records)
        except PublishFailed as error:
            raise Fatal(f"not every record was acknowledged by the broker: {error}") from error
        if self._points is not None:
            await self._points.at("after_publish")
        self._metrics.observe(PUBLISH_SECONDS, perf_counter() - started)

    def _report(self, work: UnitOfWork) -> None:
        for state, fact in work.outcome.facts:
            if fact.fact in _LOGGED:
                log.info(fact.fact, subject_request_id=state.subject_request_id, right=state.right, **_plain(fact.details))
        for topic, violation in work.outcome.refused:
            log.warning("quarantined", topic=topic, reason=violation.code, field=violation.field, remedy=violation.remedy)
        for request, error in work.outcome.damaged.items():
            log.error("row_damaged", subject_request_id=request, remedy=str(error))
            self._metrics.count(ROWS_DAMAGED)
        if work.outcome.refused_before:
            log.info("refused_before", count=work.outcome.refused_before)

    async def recover(self) -> int:
        """Publish what an earlier life of this worker saved and could not publish; return the number of records."""
        return await self._republish(self._ground.worker, self._clock.now() - timedelta(days=36500))

    async def adopt(self, older_than: timedelta) -> int:
        """Publish what any worker saved so long ago that it must have died; return the number of records."""
        return await self._republish("", self._clock.now() - older_than)

    async def _republish(self, worker: str, older_than: datetime) -> int:
        store = self._ground.store
        async with self._turn:
            await self._all_is_out()
            batches = await self.patiently(StoreOperation.LOAD, partial(store.unpublished, worker, older_than))
            mine = set(self._published)
            left = [batch for batch in batches if batch.outbox_id not in mine]
            for batch in left:
                await self._publish(batch.records)
                await self.patiently(StoreOperation.SAVE, partial(store.published, [batch.outbox_id]))
                log.info("outbox_published", count=len(batch.records))
        return sum(len(batch.records) for batch in left)

    async def tidy(self) -> None:
        """Forget outbox batches that are out; while batches flow the next save does it in passing."""
        if not self._published or self._turn.locked():
            return
        async with self._turn:
            await self._forget_published()

    async def finish(self) -> None:
        """Return when all that was saved is out and forgotten. At the end: nothing may be taken in any more. Raises `Fatal`."""
        async with self._turn:
            await self._all_is_out()
            await self._forget_published()

    async def _forget_published(self) -> None:
        done = list(self._published)
        if done:
            await self.patiently(StoreOperation.SAVE, partial(self._ground.store.published, done))
            # Not before: whoever is cancelled here would leave them to the next life, which would publish them again.
            self._published = [batch for batch in self._published if batch not in done]


def _lacks_key(arrival: Arrival | SetAside | Stumble) -> TypeGuard[SetAside]:
    return isinstance(arrival, SetAside) and arrival.violation.field == "sealed.kid"


async def _with_breath(items: Sequence[T]) -> AsyncIterator[T]:
    """Give the items, and the loop a turn every few of them: probes and who asks for a key must not wait for a batch."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _BREATH == 0:
            await asyncio.sleep(0)


#: Facts worth a line in the log; the others are in the journal.
_LOGGED = {"request_accepted", "request_closed", "order_failed", "escalated", "late_report", "withdrawal_too_late"}
_PLAIN = {"system", "reason", "result", "in_time", "registry", "actor"}


def _plain(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if name in _PLAIN and value is not None}
