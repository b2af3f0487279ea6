"""Orders that are over before they were reported: what the runtime drops, lets go on, and has called off, across crashes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sdk_world import EMAIL, NOW, Scripted, World, an_order, until

from connectors.sdk.conclusion import Conclusion, settle
from connectors.sdk.ending import end
from connectors.sdk.journal import Journal, OrderState
from connectors.sdk.protocol import Exported, Result, Throttle
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.orders import OrderCancelled
from schemas.outcomes import Accepted, Fulfilled
from schemas.vocabulary import CancellationReason, OutcomeCode, QuarantineReason, Right

DONE = Result(Fulfilled(count=1))
EXPORT = Result(Fulfilled(count=1), exports=(Exported("contact", {"email": EMAIL}),))
STARTED = Result(Accepted(expected_by=NOW + timedelta(hours=5)), handle="job-7")
WAITS = Result(Accepted(expected_by=NOW + timedelta(days=20)))


class Stopping(Scripted):
    """A connector that can call off: `cancels` are its answers."""

    def __init__(self, *answers, cancels=(None,), **more):
        super().__init__(*answers, **more)
        self.cancels, self.ended = list(cancels), []

    async def cancel(self, ended):
        self.ended.append(ended)
        return await self._answer(ended, self.cancels)


def over(order, reason=CancellationReason.WITHDRAWN):
    return OrderCancelled(
        order_id=order.order_id,
        subject_request_id=order.subject_request_id,
        system=order.system,
        right=order.right,
        attempt=order.attempt,
        reason=reason,
        cancelled_at=NOW,
    )


async def taken(world, count):
    await until(lambda: world.bus.committed == count)
    await world.settled()


def held(answer):
    """Return an answer that is given when its gate opens, and the gate."""
    gate = asyncio.Event()

    async def give(job):
        await gate.wait()
        return answer

    return give, gate


async def worked_on_when_the_word_comes(world, right=Right.ERASURE):
    """Let the connector be at an order, and then let it be over."""
    order = an_order(right=right)
    world.send(order)
    await until(lambda: world.connector.jobs)
    world.keys.over.add(order.order_id)
    world.send(over(order))
    await taken(world, 2)


async def with_a_job(world):
    """Let the first order run at the system as a job; then it is over."""
    order = an_order()
    world.send(order)
    await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
    await world.reported(1)
    world.keys.over.add(order.order_id)
    return order


async def test_what_has_not_begun_is_dropped_and_never_called(tmp_path):
    """The order waits for its turn: it leaves the journal, and the connector hears nothing of it, whatever it can."""
    slow, gate = held(DONE)
    world = World(tmp_path, Stopping(slow, DONE, throttle=Throttle(concurrent=1)))
    async with world.running():
        first, second = an_order(1), an_order(2)
        world.send(first)
        await until(lambda: world.connector.jobs)
        world.send(second)
        await taken(world, 2)
        world.keys.over.add(second.order_id)
        world.send(over(second), over(second))
        await taken(world, 4)
        assert world.entry(2) is None
        gate.set()
        await world.reported(1)
        await world.settled()
    assert len(world.connector.jobs) == len(world.reports) == 1
    assert world.connector.ended == []
    assert second.order_id in world.keys.forgotten


def test_a_closed_key_does_not_unsay_the_word_that_came_first(tmp_path):
    """The key desk says that the order is over while it is looked at, and the word of it has just been taken: called off."""
    order = an_order()
    with Journal(tmp_path / "crm.sqlite") as journal, journal.transaction() as page:
        page.insert(order, NOW)
        page.set(order.order_id, state=OrderState.WORKING, tries=2)
        assert not end(page, over(order), NOW, can_call_off=True)
        settle(page, Conclusion(order.order_id, order.right, order.attempt, {}, drop=True), NOW)
        assert page.find(order.order_id) is None
        due = page.cancellations.due(NOW)
        assert due is not None and due.ended == over(order) and due.has_begun


@pytest.mark.parametrize("kind", [Scripted, Stopping])
async def test_what_is_being_worked_on_is_finished_and_reported(tmp_path, kind):
    """It was done: the report says so, as a late one. Nothing is called off that is done."""
    slow, gate = held(DONE)
    world = World(tmp_path, kind(slow))
    async with world.running():
        await worked_on_when_the_word_comes(world)
        gate.set()
        (report,) = await world.reported(1)
        await world.settled()
    assert report.outcome.code is OutcomeCode.FULFILLED


def files_of(world):
    return [path for path in (world.folder / "results").rglob("*") if path.is_file()]


async def housekept(world):
    """Let the next housekeeping come."""
    await world.settled()
    world.clock.advance(60)


@pytest.mark.parametrize("reason", CancellationReason)
@pytest.mark.parametrize("orderly", [True, False])
async def test_what_was_exported_for_nobody_is_deleted(tmp_path, reason, orderly):
    """Reported with data for the person, who then withdrew: the data goes, also if the process ended before it could.

    Another request's data stays, and so does that of a person whose request goes on without this system.
    """
    world = World(tmp_path, Scripted(EXPORT))
    order, other = (an_order(number, right=Right.ACCESS) for number in (1, 2))
    stay = {order.order_id, other.order_id} if reason is CancellationReason.WAIVED else {other.order_id}
    async with world.running(orderly=orderly):
        world.send(order, other)
        await world.reported(2)
        await world.settled()
        assert len(files_of(world)) == 2
        world.keys.over.add(order.order_id)
        world.send(over(order, reason))
        await taken(world, 3)
        if orderly:
            await housekept(world)
            await until(lambda: {path.parent.name for path in files_of(world)} == stay)
    async with world.running():
        await until(lambda: {path.parent.name for path in files_of(world)} == stay)
        await world.settled()
    assert len(world.reports) == 2


async def test_what_is_exported_after_the_word_is_not_kept(tmp_path):
    """Worked on while the word came: it is reported as done, names no result, and nothing lies there."""
    slow, gate = held(EXPORT)
    world = World(tmp_path, Scripted(slow))
    async with world.running():
        await worked_on_when_the_word_comes(world, Right.ACCESS)
        gate.set()
        (report,) = await world.reported(1)
        await housekept(world)
        await until(lambda: not files_of(world))
    assert report.outcome.code is OutcomeCode.FULFILLED and report.results == ()


async def test_what_a_try_keeps_while_the_rest_is_being_deleted_goes_as_well(tmp_path):
    """The store is at the order's deletion when the try keeps its data and ends: the next housekeeping deletes that."""
    slow, gate = held(EXPORT)
    world = World(tmp_path, Scripted(slow))
    drop, looked, may_end = world.blobs.drop, asyncio.Event(), asyncio.Event()

    async def slow_drop(order_id):
        gone = await drop(order_id)
        looked.set()
        await may_end.wait()
        return gone

    world.blobs.drop = slow_drop
    async with world.running():
        await worked_on_when_the_word_comes(world, Right.ACCESS)
        await housekept(world)
        await looked.wait()
        gate.set()
        await world.reported(1)
        assert len(files_of(world)) == 1
        may_end.set()
        await housekept(world)
        await until(lambda: not files_of(world))


@pytest.mark.parametrize("error", [SystemUnavailable("no"), SystemRejected("no")])
async def test_what_came_to_nothing_is_not_tried_again(tmp_path, error):
    """Worked on while the word came, and the system did not answer, or refused: dropped, and nothing is reported."""
    failing, gate = held(error)
    world = World(tmp_path, Scripted(failing))
    async with world.running():
        await worked_on_when_the_word_comes(world)
        gate.set()
        await until(lambda: world.entry() is None)
        world.clock.advance(7200)
        await world.settled()
    assert len(world.connector.jobs) == 1
    assert world.reports == []


async def test_a_job_goes_on_where_nobody_can_be_told(tmp_path):
    """Without `cancel` the job is asked after to its end, and the report comes late."""
    world = World(tmp_path, Scripted(STARTED, polls=[DONE]))
    async with world.running():
        world.send(over(await with_a_job(world)))
        await taken(world, 2)
        world.clock.advance(60)
        _, late = await world.reported(2)
    assert late.outcome.code is OutcomeCode.FULFILLED


async def test_a_job_is_called_off_where_somebody_can_be_told(tmp_path):
    """The connector is told once, the journal lets go, nothing more is reported; the word again changes nothing."""
    world = World(tmp_path, Stopping(STARTED, polls=[DONE]))
    async with world.running():
        order = await with_a_job(world)
        world.send(over(order), over(order))
        await until(lambda: world.connector.ended)
        world.send(over(order), order)
        world.keys.refused[order.order_id] = 410
        world.clock.advance(7200)
        await taken(world, 5)
    (ended,) = world.connector.ended
    assert (ended.order_id, ended.right, ended.attempt, ended.has_begun) == (order.order_id, Right.ERASURE, 1, True)
    assert world.connector.handles == []
    assert len(world.reports) == 1


async def test_what_is_done_all_the_same_is_reported_once(tmp_path):
    """Not known at first, asked again, done: the report has the order's id and attempt, and the outcome that it has."""
    world = World(tmp_path, Stopping(STARTED, cancels=[WAITS, WAITS, Result(Fulfilled(count=3), notes=("there",)), None]))
    async with world.running():
        order = await with_a_job(world)
        world.send(over(order))
        for count in (1, 2, 3):
            await until(lambda number=count: len(world.connector.ended) >= number)
            await world.settled()
            world.clock.advance(7200)
        _, late = await world.reported(2)
        world.clock.advance(86_400)
        await world.settled()
    assert (late.outcome, late.attempt, late.notes) == (Fulfilled(count=3), 1, ("there",))
    assert len(world.connector.ended) == 3


@pytest.mark.parametrize("answer", [SystemRejected("no"), ValueError("oops"), SystemUnavailable("away")])
async def test_a_system_that_cannot_be_told_is_a_persons_matter(tmp_path, answer):
    """Refused, broken, or away for all tries: `failed` is reported, so that somebody looks."""
    world = World(tmp_path, Stopping(STARTED, cancels=[answer]))
    async with world.running():
        world.send(over(await with_a_job(world)))
        for _ in range(8):
            await world.settled()
            world.clock.advance(7200)
        _, late = await world.reported(2)
    assert late.outcome.code is OutcomeCode.FAILED
    assert len(world.connector.ended) == (5 if isinstance(answer, SystemUnavailable) else 1)


async def test_a_killed_process_calls_off_what_it_had_taken_in(tmp_path):
    """Killed while it tells the system: told again in the next life, and not once more."""
    told = asyncio.Event()

    async def stuck(ended):
        told.set()
        await asyncio.Event().wait()

    world = World(tmp_path, Stopping(STARTED, cancels=[stuck, None]))
    async with world.running(orderly=False):
        world.send(over(await with_a_job(world)))
        await told.wait()
        await until(lambda: world.bus.committed == 2)
    async with world.running():
        await until(lambda: len(world.connector.ended) == 2)
        world.clock.advance(7200)
        await world.settled()
    async with world.running():
        await world.settled()
    assert len(world.connector.ended) == 2
    assert len(world.reports) == 1


async def test_an_order_that_was_worked_on_by_a_killed_process_is_not_begun_again(tmp_path):
    """Killed in the middle of the work on an order that is over: the next life calls it off instead."""
    started = asyncio.Event()

    async def stuck(job):
        started.set()
        await asyncio.Event().wait()

    world = World(tmp_path, Stopping(stuck))
    async with world.running(orderly=False):
        order = an_order()
        world.send(order)
        await started.wait()
        world.keys.over.add(order.order_id)
        world.send(over(order))
        await taken(world, 2)
        assert world.connector.ended == [], "not while it is worked on"
    async with world.running():
        await until(lambda: world.connector.ended)
        await world.settled()
    assert len(world.connector.jobs) == 1
    assert world.reports == []


async def test_an_order_let_go_before_the_word_came_is_called_off_all_the_same(tmp_path):
    """The key desk says it first (410): the job is let go, and the system is told when the word comes."""
    world = World(tmp_path, Stopping(STARTED, polls=[DONE]))
    async with world.running():
        order = await with_a_job(world)
        world.keys.refused[order.order_id] = 410
        world.clock.advance(60)
        await until(lambda: world.entry() is None)
        world.send(over(order))
        await until(lambda: world.connector.ended)
    assert world.connector.ended[0].has_begun


async def test_what_was_waived_is_never_called_off(tmp_path):
    """It is still what the person wants: the job is left to itself."""
    world = World(tmp_path, Stopping(STARTED, polls=[DONE]))
    async with world.running():
        world.send(over(await with_a_job(world), CancellationReason.WAIVED))
        await taken(world, 2)
    assert world.connector.ended == []


@pytest.mark.parametrize("status", [200, 403, 404])
async def test_a_word_that_the_key_desk_does_not_know_of_is_set_aside(tmp_path, status):
    """Whoever can write to the topic cannot stop an order: it is open, so the word is none."""
    world = World(tmp_path, Stopping(STARTED, polls=[DONE]))
    async with world.running():
        order = await with_a_job(world)
        world.keys.over.clear()
        if status != 200:
            world.keys.standing = lambda orders: answers({one.order_id: status for one in orders})
        world.send(over(order))
        await until(lambda: world.quarantined)
        world.clock.advance(60)
        _, done = await world.reported(2)
    assert done.outcome.code is OutcomeCode.FULFILLED
    assert world.connector.ended == []
    assert dict(world.quarantined[0].headers)["dsr-reason"] == QuarantineReason.ILLEGAL_MOVE.encode()


async def answers(found):
    return found


async def test_what_is_over_is_forgotten_in_time(tmp_path):
    """The journal keeps an end as long as an order that was reported, and the report with it."""
    world = World(tmp_path, Stopping(STARTED, cancels=[Result(Fulfilled(count=3))]))
    async with world.running():
        order = await with_a_job(world)
        world.send(over(order))
        await world.reported(2)
        await world.settled()
        later = NOW + timedelta(days=50)
        with world.journal.transaction() as page:
            page.forget_before(NOW - timedelta(days=1), unfinished=NOW - timedelta(days=400))
            assert page.cancellations.find(order.order_id) is not None
            page.forget_before(later, unfinished=NOW - timedelta(days=400))
            assert page.cancellations.find(order.order_id) is None
            assert page.last_report(order.order_id, final=True) is None
