"""The simulation can fail: plausible mistakes, planted in the shipped code, are found within so many seeds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from connectors.sdk import attempts, intake, runtime
from connectors.sdk.bus import Outbound
from connectors.sdk.journal import OrderState, Page
from connectors.sdk.runtime import Runtime
from orchestrator.ports import Change, Conflict
from orchestrator.shell import faust_app, inbox, sweeper
from orchestrator.shell.defects import Judge
from orchestrator.shell.inbox import Inbox
from orchestrator.shell.keys_ahead import Parcel
from orchestrator.shell.translate import Arrival
from orchestrator.shell.work import UnitOfWork
from schemas.wire import encode, headers_of
from tests.simulation.run import run

pytestmark = pytest.mark.slow

Plant = Callable[[pytest.MonkeyPatch], None]


def _acknowledge_before_saving(patch: pytest.MonkeyPatch) -> None:
    async def drain(app: Any, box: Inbox, deck: Any) -> None:
        while not app.should_stop:
            batches = await app.consumer.take(deck.batch_records)
            app.consumer.ack_batches(batches)
            await box.process([record for batch in batches for record in batch.as_records()])

    patch.setattr(faust_app, "_drain", drain)


def _publish_before_saving(patch: pytest.MonkeyPatch) -> None:
    async def save(self: Inbox, arrivals: Any) -> Any:
        work = UnitOfWork(self._ground, self._clock.now())
        await work.load(arrivals)
        for arrival in arrivals:
            await work.apply(arrival)
        change = work.finish()
        if not (change.rows or change.records):
            return work, None
        await self._publish(change.records)
        change.records = []
        try:
            await self._ground.store.commit(change)
        except Conflict:
            return await save(self, arrivals)
        return work, None

    patch.setattr(Inbox, "_save", save)


def _forget_the_outbox_before_publishing(patch: pytest.MonkeyPatch) -> None:
    async def settle(self: Inbox, arrivals: Any) -> None:
        async with self._turn:
            work, outbox_id = await self._save(arrivals)
            if outbox_id is not None:
                await self._ground.store.published([outbox_id])
                await self._publish(work.change.records)

    patch.setattr(Inbox, "_settle", settle)


def _no_outbox_for_the_sweeper(patch: pytest.MonkeyPatch) -> None:
    async def wake(self: Inbox, requests: Any) -> list[str]:
        async with self._turn:
            work = UnitOfWork(self._ground, self._clock.now())
            arrivals = [Arrival(request, inbox.Input(inbox.Wake())) for request in requests]
            await work.load(arrivals)
            for arrival in arrivals:
                await work.apply(arrival)
            change = work.finish()
            records, change.records = change.records, []
            if change.rows:
                await self._ground.store.commit(change)
                await self._publish(records)
        return []

    patch.setattr(Inbox, "wake", wake)


def _nobody_adopts(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Inbox, *_: Any) -> int:
        return 0

    patch.setattr(Inbox, "recover", nothing)
    patch.setattr(Inbox, "adopt", nothing)


def _conflict_is_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    async def settle(self: Inbox, arrivals: Any) -> None:
        async with self._turn:
            work = UnitOfWork(self._ground, self._clock.now())
            await self.patiently(inbox.StoreOperation.LOAD, partial(work.load, arrivals))
            for arrival in arrivals:
                await work.apply(arrival)
            change: Change = work.finish()
            if not (change.rows or change.records):
                return
            try:
                outbox_id = await self.patiently(inbox.StoreOperation.SAVE, partial(self._ground.store.commit, change))
            except Conflict:
                return
            if outbox_id is not None:
                await self._publish(change.records)
                self._published.append(outbox_id)

    patch.setattr(Inbox, "_settle", settle)


def _failed_publish_is_shrugged_off(patch: pytest.MonkeyPatch) -> None:
    publish = Inbox._publish

    async def shrug(self: Inbox, records: Any) -> None:
        with contextlib.suppress(inbox.Fatal):
            await publish(self, records)

    patch.setattr(Inbox, "_publish", shrug)


def _offsets_before_the_journal(patch: pytest.MonkeyPatch) -> None:
    async def take_in(self: Runtime, records: Any) -> None:
        batch = runtime.read_batch(records, self._system, self._keys)
        await self._bus.commit(records)
        with self._journal.transaction() as page:
            runtime.take(page, batch, self._clock.now())
        self._has_work.set()
        self._has_reports.set()

    patch.setattr(Runtime, "_take_in", take_in)


def _sent_before_the_ack(patch: pytest.MonkeyPatch) -> None:
    async def publish(self: Runtime) -> None:
        with self._journal.transaction() as page:
            unsent = page.unsent(500)
            if unsent:
                page.mark_sent(unsent)
        if unsent:
            topic = self._topics.reports
            await self._bus.publish(
                [Outbound(topic, s.report.subject_request_id.encode(), encode(s.report), headers_of(s.report)) for s in unsent]
            )

    patch.setattr(Runtime, "_publish", publish)


def _retry_starts_another_job(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(intake, "_ROAD", frozenset())


def _restart_starts_another_job(patch: pytest.MonkeyPatch) -> None:
    def requeue(self: Page) -> int:
        statement = "UPDATE orders SET state = 'waiting', handle = NULL WHERE state = 'working'"
        return int(self._connection.exec_driver_sql(statement).rowcount)

    patch.setattr(Page, "requeue_interrupted", requeue)


def _nobody_requeues(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Page, "requeue_interrupted", lambda _self: 0)


def _finds_are_not_remembered(patch: pytest.MonkeyPatch) -> None:
    async def remember(self: Any, found: Any) -> None:
        self.found = attempts.merged((self.found, found))

    patch.setattr(attempts._JobWork, "remember", remember)


def _failures_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    forget = Page.forget_before
    patch.setattr(Page, "forget_before", lambda self, moment, **_: forget(self, moment))


def _reports_overtaken_by_crash(patch: pytest.MonkeyPatch) -> None:
    settle = Runtime._settle

    def lose(self: Runtime) -> None:
        concluded, self._concluded = self._concluded, []
        with self._journal.transaction() as page:
            for conclusion in concluded:
                page.set(conclusion.order_id, state=OrderState.REPORTED if conclusion.final else OrderState.WAITING)
        self._concluded = concluded
        settle(self)

    patch.setattr(Runtime, "_settle", lose)


def _sweeper_never_sweeps(patch: pytest.MonkeyPatch) -> None:
    async def sweep(self: Any) -> int:
        await asyncio.sleep(0)
        return 0

    patch.setattr(sweeper.Sweeper, "sweep", sweep)


def _refusals_are_not_remembered(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: UnitOfWork, record: Any, violation: Any) -> None:
        self.outcome.refused.append((record.topic, violation))

    patch.setattr(UnitOfWork, "_refuse", refuse)


def _defects_are_passed_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UnitOfWork, "_set_aside", lambda _self, _aside: None)


def _no_record_is_ever_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Judge, "judged", lambda _self, _record, _error: None)


def _keys_go_ahead_unwritten(patch: pytest.MonkeyPatch) -> None:
    written_down = Parcel.written_down

    def unwritten(self: Parcel) -> list[Any]:
        written_down(self)
        return []

    patch.setattr(Parcel, "written_down", unwritten)


#: In a release that fails at some records: name -> (what is planted, seeds that are tried).
PLANTED_DEFECTS: dict[str, tuple[Plant, int]] = {
    "a record that meets a defect is passed over": (_defects_are_passed_over, 20),
    "no record is ever given up": (_no_record_is_ever_given_up, 20),
}


#: name -> (what is planted, seeds that are tried, large worlds?)
PLANTED: dict[str, tuple[Plant, int, bool]] = {
    "acknowledge before saving": (_acknowledge_before_saving, 400, False),
    "publish before saving": (_publish_before_saving, 200, False),
    "forget the outbox before publishing": (_forget_the_outbox_before_publishing, 200, False),
    "no outbox for the sweeper": (_no_outbox_for_the_sweeper, 400, False),
    "nobody recovers or adopts": (_nobody_adopts, 200, False),
    "a conflict is taken for done": (_conflict_is_taken_for_done, 400, False),
    "a failed publish is shrugged off": (_failed_publish_is_shrugged_off, 200, False),
    "offsets before the journal": (_offsets_before_the_journal, 200, False),
    "a report is sent before the ack": (_sent_before_the_ack, 200, False),
    "a retry starts another job": (_retry_starts_another_job, 200, False),
    "a restart starts another job": (_restart_starts_another_job, 300, False),
    "nobody requeues what was interrupted": (_nobody_requeues, 200, False),
    "finds are not remembered": (_finds_are_not_remembered, 300, False),
    "failures are forgotten after 45 days": (_failures_are_forgotten, 40, True),
    "an order is closed before its report is written": (_reports_overtaken_by_crash, 400, False),
    "refusals are not remembered": (_refusals_are_not_remembered, 600, False),
    "the sweeper never sweeps": (_sweeper_never_sweeps, 20, False),
    "keys go ahead unwritten": (_keys_go_ahead_unwritten, 100, False),
}


#: It takes so many worlds to find these that only `make long` does.
RARE = {
    "acknowledge before saving",
    "a conflict is taken for done",
    "offsets before the journal",
    "refusals are not remembered",
}


def first_found(at_most: int, *, large: bool = False, **more: Any) -> tuple[int, str] | None:
    """Return the first seed that fails, and its first complaint."""
    for seed in range(at_most):
        result = run(seed, large=large, **more)
        if not result.is_clean:
            return seed, result.complaints[0]
    return None


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in RARE else name for name in PLANTED])
def test_a_planted_mistake_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each within its number of seeds; which one it was is printed."""
    plant, at_most, large = PLANTED[name]
    plant(monkeypatch)
    found = first_found(at_most, large=large)
    assert found is not None, f"{name}: not found in {at_most} seeds"
    print(f"{name}: seed {found[0]}: {found[1]}")


@pytest.mark.parametrize("name", PLANTED_DEFECTS)
def test_a_planted_mistake_about_defects_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each within its number of seeds; which one it was is printed."""
    plant, at_most = PLANTED_DEFECTS[name]
    plant(monkeypatch)
    found = first_found(at_most, has_defect=True)
    assert found is not None, f"{name}: not found in {at_most} seeds"
    print(f"{name}: seed {found[0]}: {found[1]}")


def test_a_store_without_versions_is_found() -> None:
    """Two workers that overwrite each other's rows."""
    found = first_found(400, checks_versions=False)
    assert found is not None
    print(f"no version check: seed {found[0]}: {found[1]}")
