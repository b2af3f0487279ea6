"""What a runtime does when keys are late, refused or gone: nothing lost, nobody blamed for it, nothing left over."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta

import httpx
import pytest
import structlog
from sdk_world import NOW, PORTAL, Scripted, World, an_order, until

from connectors.sdk import health
from connectors.sdk.attempts import Limits
from connectors.sdk.journal import OrderState
from connectors.sdk.keys import KeysUnavailable
from connectors.sdk.protocol import Result
from connectors.sdk.retry import Backoff
from schemas.errors import OrchestratorError, SystemUnavailable
from schemas.ids import order_id
from schemas.keys_ahead import AheadMark
from schemas.outcomes import Accepted, Failed, Fulfilled
from schemas.sealed import SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import FailureReason, IdentifierKind, OutcomeCode, Right
from schemas.wire import encode, headers_of

DONE = Result(Fulfilled(count=1))


def away(times):
    return [KeysUnavailable("no worker of the orchestrator gives keys: ConnectError") for _ in range(times)]


def unavailable(world):
    return world.metrics.registry.get_sample_value("dsr_connector_keys_unavailable_total", {"system": "crm"})


async def asked(world, times):
    """Move the clock until the keys have been asked for so often."""
    while len(world.keys.asked) < times:
        await world.settled()
        world.clock.advance(31)


async def test_keys_away_while_orders_come_nothing_is_taken_until_they_are_back(tmp_path):
    """Nothing committed, nothing in the journal, not ready; when keys are back everything is taken, once, and ready again."""
    world = World(tmp_path, Scripted(DONE))
    world.keys.failures = away(4)
    async with world.running():
        app = health.app(world.metrics.registry, lambda: world.runtime.is_ready)
        async with health.served(app, host="127.0.0.1", port=0) as port, httpx.AsyncClient() as client:
            await until(lambda: world.runtime.is_ready)
            world.send(an_order(1), an_order(2), an_order(3))
            await until(lambda: world.runtime.waits_for_keys)
            assert (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 503
            alive = await client.get(f"http://127.0.0.1:{port}/healthz")
            assert alive.status_code == 200
            assert (alive.headers["x-content-type-options"], alive.headers["cache-control"]) == ("nosniff", "no-store")
            assert "server" not in alive.headers
            await asked(world, 3)
            assert world.bus.committed == 0
            assert [world.entry(number) for number in (1, 2, 3)] == [None, None, None]
            await asked(world, 5)
            await world.reported(3)
            assert (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    assert world.bus.committed == 3
    assert sorted(job.subject_request_id[-1] for job in world.connector.jobs) == ["1", "2", "3"]
    assert not world.quarantined
    assert unavailable(world) == 4


async def test_a_stop_while_keys_are_away_leaves_the_orders_where_they_are(tmp_path):
    """An orderly end, and a kill, in the middle of waiting: the orders come again."""
    world = World(tmp_path, Scripted(DONE))
    world.keys.failures = away(100)
    for orderly in (True, False):
        async with world.running(orderly=orderly):
            if orderly:
                world.send(an_order(1))
            await until(lambda: world.runtime.waits_for_keys)
    assert world.bus.committed == 0
    world.keys.failures = []
    async with world.running():
        await world.reported(1)
    assert (len(world.reports), world.bus.committed) == (1, 1)


async def test_keys_away_at_an_attempt_count_no_try(tmp_path):
    """However often: the order waits, the system is not called and not blamed, and no try of its few is used up."""
    world = World(tmp_path, Scripted(DONE), limits=Limits(retry=Backoff(10, 3600), poll=Backoff(10, 3600), max_tries=1))
    async with world.running():
        fetch, taken = world.keys.fetch, asyncio.Event()

        async def later(orders, ahead=None):
            if taken.is_set() and world.keys.failures:
                raise world.keys.failures.pop(0)
            taken.set()
            return await fetch(orders)

        world.keys.failures, failing = [], away(7)
        world.keys.fetch = later
        world.send(an_order(1))
        world.keys.failures = []
        await taken.wait()
        world.keys.failures = failing
        for left in range(6, -1, -1):
            await until(lambda left=left: len(failing) <= left)
            await until(lambda: world.entry().state is OrderState.WAITING)
            assert world.entry().tries == 0
            assert not world.connector.jobs
            world.clock.advance(3600)
        (report,) = await world.reported(1)
    assert report.outcome.code is OutcomeCode.FULFILLED
    assert unavailable(world) == 7


async def test_keys_away_at_a_poll_keep_the_vendor_s_job(tmp_path):
    """A job that runs is asked after when keys are back, under the handle it had."""
    world = World(tmp_path, Scripted(Result(Accepted(expected_by=an_order().respond_by), handle="job-7"), polls=[DONE]))
    async with world.running():
        world.send(an_order(1))
        await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
        world.keys.failures = failing = away(2)
        while failing:
            await world.settled()
            world.clock.advance(3600)
        await until(lambda: world.entry().state is OrderState.POLLING)
        await world.settled()
        world.clock.advance(3600)
        await world.reported(2)
    assert world.connector.handles == ["job-7"]
    assert len(world.connector.jobs) == 1


async def test_an_order_that_is_over_when_it_comes_is_passed_by(tmp_path):
    """410 at taking in: the offset is committed, and there is no report, no quarantine, no row; its neighbour is worked on."""
    world = World(tmp_path, Scripted(DONE))
    world.keys.refused = {order_id(an_order(1).subject_request_id, "crm"): 410}
    with structlog.testing.capture_logs() as logs:
        async with world.running():
            world.send(an_order(1), an_order(2))
            (report,) = await world.reported(1)
            await until(lambda: world.bus.committed == 2)
            await world.settled()
            assert world.entry(1) is None
    assert report.subject_request_id == an_order(2).subject_request_id
    assert len(world.connector.jobs) == 1
    assert not world.quarantined
    assert [line["event"] for line in logs if line["log_level"] != "info"] == []
    assert [line["attempt"] for line in logs if line["event"] == "order_closed"] == [1]


async def test_an_order_whose_key_cannot_be_had_waits_alone(tmp_path):
    """503 for one order: it is taken in sealed, asked for again and again, costs no try, and is done when its key comes."""
    world = World(tmp_path, Scripted(DONE), limits=Limits(retry=Backoff(10, 3600), poll=Backoff(10, 3600), max_tries=1))
    damaged = order_id(an_order(1).subject_request_id, "crm")
    world.keys.refused = {damaged: 503}
    async with world.running():
        world.send(an_order(1), an_order(2), an_order(3))
        reports = await world.reported(2)
        assert {report.subject_request_id for report in reports} == {an_order(n).subject_request_id for n in (2, 3)}
        await until(lambda: world.bus.committed == 3)
        assert world.runtime.is_ready
        for _ in range(3):
            await until(lambda: world.entry(1).state is OrderState.WAITING)
            assert world.entry(1).tries == 0
            before = unavailable(world)
            world.clock.advance(3600)
            await until(lambda before=before: unavailable(world) > before)
        await until(lambda: world.entry(1).state is OrderState.WAITING)
        world.keys.refused = {}
        world.clock.advance(3600)
        await world.reported(3)
    assert sorted(job.subject_request_id[-1] for job in world.connector.jobs) == ["1", "2", "3"]
    assert not world.quarantined


def _closed_while_it_waits(tmp_path):
    """A world whose first try fails for a while, and whose order is over before the second."""
    world = World(tmp_path, Scripted(SystemUnavailable("down"), DONE))
    return world, order_id(an_order(1).subject_request_id, "crm")


async def test_an_order_that_is_over_before_its_try_is_dropped_and_may_come_again(tmp_path):
    """410 at an attempt: nothing of it stays in the journal and nothing is reported; opened again, it is an order as any."""
    world, ident = _closed_while_it_waits(tmp_path)
    async with world.running():
        world.send(an_order(1))
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        world.keys.refused = {ident: 410}
        world.clock.advance(3600)
        await until(lambda: world.entry() is None)
        assert ident in world.keys.forgotten
        await world.settled()
        assert not world.reports and not world.quarantined
        assert len(world.connector.jobs) == 1
        world.keys.refused = {}
        world.send(an_order(1, attempt=2))
        (report,) = await world.reported(1)
    assert (report.attempt, report.outcome.code) == (2, OutcomeCode.FULFILLED)


async def test_an_order_that_is_over_while_the_system_works_is_not_dropped_in_silence(tmp_path):
    """The vendor's job goes on and is asked after no more: a person is told, by order and system."""
    world = World(tmp_path, Scripted(Result(Accepted(expected_by=an_order().respond_by), handle="job-7"), polls=[DONE]))
    ident = order_id(an_order(1).subject_request_id, "crm")
    with structlog.testing.capture_logs() as logs:
        async with world.running():
            world.send(an_order(1))
            await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
            world.keys.refused = {ident: 410}
            world.clock.advance(3600)
            await until(lambda: world.entry() is None)
    (told,) = [line for line in logs if line["event"] == "order_closed_under_way"]
    assert (told["log_level"], told["order_id"], told["system"]) == ("warning", ident, "crm")
    assert world.connector.handles == []


async def test_what_was_dropped_is_not_in_the_file(tmp_path):
    """After a drop and the house-keeping of the end, no byte of the sealed order is in the journal's files."""
    world, ident = _closed_while_it_waits(tmp_path)
    order = an_order(1)
    async with world.running():
        world.send(order)
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        world.keys.refused = {ident: 410}
        world.clock.advance(3600)
        await until(lambda: world.entry() is None)
    written = b"".join(path.read_bytes() for path in tmp_path.glob("crm.sqlite*"))
    assert order.sealed.ciphertext.encode() not in written
    with sqlite3.connect(tmp_path / "crm.sqlite") as connection:
        assert connection.execute("select count(*) from orders").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("handle", [None, "job-7"])
async def test_an_attempt_that_overtakes_a_drop_is_worked_on(tmp_path, handle):
    """Opened again while the answer 410 is on its way: the new attempt counts, and the vendor's job is not begun twice."""
    first = SystemUnavailable("down") if handle is None else Result(Accepted(expected_by=an_order().respond_by), handle=handle)
    world = World(
        tmp_path,
        Scripted(first, DONE, DONE),
    )
    world.connector.polls = [DONE]
    ident = order_id(an_order(1).subject_request_id, "crm")
    async with world.running():
        world.send(an_order(1))
        await until(lambda: world.connector.jobs and world.entry().state in (OrderState.WAITING, OrderState.POLLING))
        fetch, asking, gate = world.keys.fetch, asyncio.Event(), asyncio.Event()

        async def slow(orders, ahead=None):
            asking.set()
            await gate.wait()
            return {ident: 410}

        world.keys.fetch = slow
        world.clock.advance(3600)
        await asking.wait()
        world.keys.fetch = fetch
        world.send(an_order(1, attempt=2))
        await until(lambda: world.bus.committed == 2)
        gate.set()
        await until(lambda: any(report.outcome.code is OutcomeCode.FULFILLED for report in world.reports))
    report = world.reports[-1]
    assert (report.attempt, report.outcome.code) == (2, OutcomeCode.FULFILLED)
    assert len(world.connector.jobs) == (2 if handle is None else 1)
    assert world.connector.handles == ([] if handle is None else [handle])


@pytest.mark.parametrize("status", [403, 404])
async def test_a_foreign_or_unknown_order_is_set_aside_and_failed(tmp_path, status):
    """The record goes to quarantine, its failure is reported, its offset committed, and the system never called."""
    world = World(tmp_path, Scripted(DONE))
    world.keys.refused = {order_id(an_order(1).subject_request_id, "crm"): status}
    async with world.running():
        world.send(an_order(1), an_order(2))
        reports = {report.subject_request_id: report for report in await world.reported(2)}
        await until(lambda: world.bus.committed == 2)
    failed = reports[an_order(1).subject_request_id]
    assert (failed.outcome.code, failed.outcome.reason) == (OutcomeCode.FAILED, "identity_unreadable")
    (record,) = world.quarantined
    assert dict(record.headers)["dsr-reason"] == b"identity_unreadable"
    assert [job.subject_request_id for job in world.connector.jobs] == [an_order(2).subject_request_id]


@pytest.mark.parametrize("status", [403, 404])
async def test_foreign_or_unknown_by_the_time_of_a_try_fails_without_a_call(tmp_path, status):
    """The order was taken in good faith: it is reported as unreadable, and a person looks at it."""
    world, ident = _closed_while_it_waits(tmp_path)
    async with world.running():
        world.send(an_order(1))
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        world.keys.refused = {ident: status}
        world.clock.advance(3600)
        (report,) = await world.reported(1)
    assert (report.outcome.code, report.outcome.reason) == (OutcomeCode.FAILED, "identity_unreadable")
    assert len(world.connector.jobs) == 1


async def test_an_orchestrator_that_knows_none_of_the_orders_stops_the_process(tmp_path):
    """A wrong address: everything would end in quarantine. It stops before the commit, and says what to look at."""
    world = World(tmp_path, Scripted(DONE), limits=Limits(quarantined_in_a_row=5))
    world.keys.refused = {order_id(an_order(number).subject_request_id, "crm"): 404 for number in range(1, 6)}
    async with world.running(orderly=False):
        world.send(*(an_order(number) for number in range(1, 6)))
        await asyncio.wait([world.task], timeout=10)
        assert world.task.done()
    (error,) = world.failure.exceptions
    assert isinstance(error, OrchestratorError)
    assert "DSR_KEYS_URL" in str(error)
    assert world.bus.committed == 0
    assert not world.reports and not world.quarantined


async def test_an_order_that_is_over_is_no_poison(tmp_path):
    """A closed order is a genuine one: it ends a row of bad records, alone in its batch too."""
    world = World(tmp_path, Scripted(DONE), limits=Limits(quarantined_in_a_row=3))
    ident = {number: order_id(an_order(number).subject_request_id, "crm") for number in range(1, 8)}
    world.keys.refused = dict.fromkeys(ident.values(), 404) | {ident[3]: 410}
    async with world.running():
        world.send(an_order(1), an_order(2))
        await until(lambda: world.bus.committed == 2)
        world.send(an_order(3), an_order(4))
        await until(lambda: world.bus.committed == 4)
        world.send(an_order(5))
        await until(lambda: world.bus.committed == 5)
        assert not world.task.done()
    assert len(world.quarantined) == 4


async def test_a_kill_between_the_drop_and_its_writing_asks_again(tmp_path):
    """Killed while the answer is on its way: the order is in the journal still, and dropped by the next life."""
    world, ident = _closed_while_it_waits(tmp_path)
    async with world.running(orderly=False):
        world.send(an_order(1))
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        fetch, asking = world.keys.fetch, asyncio.Event()

        async def never(orders, ahead=None):
            asking.set()
            await asyncio.Event().wait()

        world.keys.fetch = never
        world.clock.advance(3600)
        await asking.wait()
        assert world.entry().state is OrderState.WORKING
    world.keys.fetch = fetch
    world.keys.refused = {ident: 410}
    async with world.running():
        await until(lambda: world.entry() is None)
        await world.settled()
    assert not world.reports
    assert len(world.connector.jobs) == 1


async def test_a_kill_while_keys_are_asked_for_at_taking_in_takes_all_in_the_next_life(tmp_path):
    """Between the records and the journal: nothing is committed, so all come again, each worked on once."""
    world = World(tmp_path, Scripted(DONE))
    fetch, asking = world.keys.fetch, asyncio.Event()

    async def never(orders, ahead=None):
        asking.set()
        await asyncio.Event().wait()

    world.keys.fetch = never
    async with world.running(orderly=False):
        world.send(an_order(1), an_order(2))
        await asking.wait()
    assert world.bus.committed == 0
    world.keys.fetch = fetch
    async with world.running():
        await world.reported(2)
    assert len(world.reports) == len(world.connector.jobs) == 2


async def test_an_order_sealed_under_another_root_is_unreadable_although_a_key_is_given(tmp_path):
    """A forged order of a real request: the desk gives the real key, and the seal does not open."""
    world = World(tmp_path, Scripted(DONE))
    forged = an_order(
        1, key=SealingKey("request", b"f" * 32), subject=SubjectData(identifiers={IdentifierKind.EMAIL: ("x@example.org",)})
    )
    async with world.running():
        world.send(forged)
        (report,) = await world.reported(1)
    assert report.outcome.reason == "identity_unreadable"
    assert len(world.quarantined) == 1
    assert not world.connector.jobs


async def test_keys_are_let_go_of_at_the_end_and_not_before(tmp_path):
    """While a job runs its keys stay; with the final report they go."""
    world = World(tmp_path, Scripted(Result(Accepted(expected_by=an_order().respond_by), handle="job-7"), polls=[DONE]))
    ident = order_id(an_order(1).subject_request_id, "crm")
    async with world.running():
        world.send(an_order(1, right=Right.ERASURE))
        await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
        assert ident not in world.keys.forgotten
        world.clock.advance(3600)
        await world.reported(2)
        await until(lambda: ident in world.keys.forgotten)


@pytest.mark.parametrize(
    "tampered",
    [
        {"right": Right.ACCESS},
        {"blob_key": PORTAL.public},
        {"received_at": NOW - timedelta(days=400)},
        {"verification": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_an_order_that_was_changed_on_the_way_does_not_open(tmp_path, tampered):
    """Its right, where its results go, when and by whose word it was asked for: no system is called, and a person is told."""
    world = World(tmp_path, Scripted(DONE))
    async with world.running():
        world.send(an_order(1).model_copy(update=tampered))
        (report,) = await world.reported(1)
        await world.settled()
    assert report.outcome == Failed(reason=FailureReason.IDENTITY_UNREADABLE)
    assert world.connector.jobs == []
    assert len(world.quarantined) == 1


async def test_marks_of_orders_reach_whoever_has_the_keys(tmp_path):
    """An order that says so has its key coming; the others have none."""
    world = World(tmp_path, Scripted(DONE))
    marked, plain, mark = an_order(1), an_order(2), AheadMark("00000000000000aa", 7)
    async with world.running():
        for order, more in ((marked, [mark.header()]), (plain, [])):
            world.bus.put(order.subject_request_id.encode(), encode(order), [*headers_of(order), *more])
        await world.reported(2)
    assert world.keys.ahead == {marked.order_id: mark}
