"""A backlog whose keys are not in memory, and a key desk that is away: few calls, for all together, and nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import timedelta

import httpx
import structlog
from sdk_world import NOW, ROOT, Scripted, World, an_order, until

from connectors.sdk.clock import ManualClock
from connectors.sdk.journal import Among, Journal, OrderState
from connectors.sdk.key_rounds import KeyRounds
from connectors.sdk.keys import HttpOrderKeys, KeysUnavailable
from connectors.sdk.protocol import Result, Throttle
from connectors.sdk.turns import upcoming
from schemas.order_keys import MOST_ORDERS, KeyAnswer, KeyAnswers, WantedKeys, order_root, root_to_text
from schemas.outcomes import Fulfilled
from schemas.vocabulary import OutcomeCode, Right

DONE = Result(Fulfilled(count=1))


class Desk:
    """A key desk that says of each call, by `status`, whether it answers, and notes which orders it was asked for."""

    def __init__(self):
        self.status, self.refused, self.asked = 200, {}, []
        #: Orders that it answers about although it answers nothing else.
        self.known = set()

    def __call__(self, request):
        wanted = WantedKeys.model_validate(json.loads(request.content))
        self.asked.append([one.order_id for one in wanted.orders])
        if self.status != 200 and not self.known.issuperset(self.asked[-1]):
            return httpx.Response(self.status)
        return httpx.Response(200, content=KeyAnswers(keys=tuple(map(self._answer, wanted.orders))).model_dump_json())

    def _answer(self, one):
        status = self.refused.get(one.order_id, 200)
        key = root_to_text(order_root(ROOT, one.subject_request_id, "crm", one.order_id))
        return KeyAnswer(order_id=one.order_id, status=status, key=key if status == 200 else None)


@contextlib.asynccontextmanager
async def backlog(tmp_path, count):
    """A process that starts on a journal of so many orders and has none of their keys; yields it, not started, and its desk."""
    with Journal(tmp_path / "crm.sqlite") as journal, journal.transaction() as page:
        for number in range(1, count + 1):
            page.insert(an_order(number), NOW - timedelta(seconds=count - number))
    world, desk = World(tmp_path, Scripted(DONE)), Desk()
    async with httpx.AsyncClient(transport=httpx.MockTransport(desk)) as client:
        world.keys = HttpOrderKeys("crm", ["http://desk"], client, world.clock, prefix="dsr", signer=None)
        yield world, desk


def entries(world, count):
    return [world.entry(number) for number in range(1, count + 1)]


def unavailable(logs):
    return [line for line in logs if line["event"] == "keys_unavailable"]


async def test_a_desk_that_refuses_is_asked_once_for_all_at_a_growing_interval(tmp_path):
    """300 orders, 401 for minutes: one call and one warning each time, no order touched; then one call brings all keys."""
    async with backlog(tmp_path, 300) as (world, desk):
        desk.status = 401
        with structlog.testing.capture_logs() as logs:
            async with world.running():
                await until(lambda: desk.asked)
                await world.settled()
                assert [len(ids) for ids in desk.asked] == [300]
                for _ in range(3):
                    world.clock.advance(6)
                    await world.settled()
                assert len(desk.asked) <= 4
                for _ in range(40):
                    world.clock.advance(6)
                    await world.settled()
                calls = len(desk.asked)
                assert 8 <= calls <= 24, "a wait of 15 to 30 s once it has grown"
                assert {len(ids) for ids in desk.asked} == {300}
                waits = [line["wait_seconds"] for line in unavailable(logs)]
                assert len(waits) == calls, "one warning for a call, none for an order"
                assert waits[:5] == sorted(waits[:5])
                assert waits[0] <= 1 < 15 <= waits[-1] <= 30
                assert {(one.state, one.tries) for one in entries(world, 300)} == {(OrderState.WAITING, 0)}
                assert all(one.not_before <= NOW for one in entries(world, 300))
                desk.status = 200
                world.clock.advance(31)
                reports = await world.reported(300)
        assert {report.outcome.code for report in reports} == {OutcomeCode.FULFILLED}
        assert len({report.order_id for report in reports}) == len(world.connector.jobs) == 300
        assert len(desk.asked) == calls + 1
        assert [line["event"] for line in logs if line["event"] == "keys_back"] == ["keys_back"]


async def test_orders_that_begin_while_the_first_asks_are_in_no_call_of_their_own(tmp_path):
    """As many at once as the system allows: each of them needs its key, and one call is made for all."""
    async with backlog(tmp_path, 40) as (world, desk):
        world.connector.throttle = Throttle(concurrent=20)
        async with world.running():
            await world.reported(40)
        assert len(desk.asked) == 1


async def test_more_than_one_call_takes_are_asked_for_as_their_turn_comes(tmp_path):
    """A backlog without keys, and a desk that answers: as few calls as hold them."""
    async with backlog(tmp_path, MOST_ORDERS + 100) as (world, desk):
        async with world.running():
            await until(lambda: len(world.reports) == MOST_ORDERS + 100, seconds=60)
        assert max(len(ids) for ids in desk.asked) == MOST_ORDERS
        assert len(desk.asked) <= 4
        assert len(world.connector.jobs) == MOST_ORDERS + 100


async def test_orders_whose_root_is_at_hand_go_on(tmp_path):
    """New ones, whose keys came when they were taken in, and old ones: while the others wait, and no call more for it."""
    async with backlog(tmp_path, 30) as (world, desk):
        old = [an_order(number) for number in (3, 30)]
        await world.keys.fetch(old)
        desk.status, desk.known, desk.asked = 503, {an_order(31).order_id}, []
        async with world.running():
            await world.reported(2)
            await until(lambda: desk.asked)
            world.send(an_order(31))
            await world.reported(3)
            await world.settled()
            assert {report.order_id for report in world.reports} == {one.order_id for one in (*old, an_order(31))}
            assert [len(ids) for ids in desk.asked] == [28, 1], "one for those that wait, one as the new one was taken in"
            assert world.runtime.is_ready
            desk.status = 200
            world.clock.advance(31)
            await world.reported(31)


async def test_one_at_hand_that_is_to_be_tried_later_is_tried_then(tmp_path):
    """Its moment comes while the desk is away: it does not wait for the desk."""
    async with backlog(tmp_path, 5) as (world, desk):
        await world.keys.fetch([an_order(2)])
        desk.status = 503
        async with world.running():
            with world.journal.transaction() as page:
                page.set(an_order(2).order_id, not_before=world.clock.now().replace(second=0, microsecond=300_000))
            await until(lambda: len(desk.asked) > 1)
            await world.settled()
            assert not world.reports
            world.clock.advance(0.4)
            (report,) = await world.reported(1)
        assert report.order_id == an_order(2).order_id


async def test_a_desk_that_does_not_answer_as_orders_come_is_not_asked_for_the_others_meanwhile(tmp_path):
    """What is being taken in and what waits already share one wait."""
    async with backlog(tmp_path, 50) as (world, desk):
        desk.status = 503
        with structlog.testing.capture_logs() as logs:
            async with world.running():
                world.send(an_order(51))
                await until(lambda: world.runtime.waits_for_keys)
                for _ in range(40):
                    world.clock.advance(6)
                    await world.settled()
                assert len(desk.asked) <= 2 * len(unavailable(logs)), "the new ones and the old ones, each time"
                assert len(unavailable(logs)) <= 24
                desk.status = 200
                world.clock.advance(31)
                await world.reported(51)


async def test_what_one_call_says_of_orders_that_are_over_is_not_asked_again(tmp_path):
    """All closed meanwhile: one call, and all are dropped; one that is opened again is done."""
    async with backlog(tmp_path, 60) as (world, desk):
        desk.refused = {an_order(number).order_id: 410 for number in range(1, 61)}
        async with world.running():
            await until(lambda: not any(entries(world, 60)))
            assert len(desk.asked) == 1
            desk.refused = {}
            world.send(an_order(7, attempt=2))
            (report,) = await world.reported(1)
        assert report.attempt == 2


async def test_what_was_said_long_before_an_order_s_turn_is_asked_anew(tmp_path):
    """A refusal that may have changed since is not held against the order."""
    async with backlog(tmp_path, 2) as (world, desk):
        desk.refused = {an_order(number).order_id: 404 for number in (1, 2)}
        waits = asyncio.Event()

        async def slow(job):
            await waits.wait()
            return DONE

        world.connector.answers, world.connector.throttle = [slow], Throttle(concurrent=1)
        desk.refused = {an_order(2).order_id: 404}
        async with world.running():
            await until(lambda: world.connector.jobs)
            assert len(desk.asked) == 1
            desk.refused = {}
            world.clock.advance(31)
            waits.set()
            reports = await world.reported(2)
        assert {report.outcome.code for report in reports} == {OutcomeCode.FULFILLED}


async def test_a_stop_while_the_desk_is_away_loses_nothing(tmp_path):
    """In order and by a kill, in the middle of it: each order is done once, by the last life, and has lost no try."""
    async with backlog(tmp_path, 12) as (world, desk):
        desk.status = 503
        for orderly in (True, False):
            async with world.running(orderly=orderly):
                before = len(desk.asked)
                await until(lambda before=before: len(desk.asked) > before)
                await world.settled()
        desk.status = 200
        async with world.running():
            assert {one.tries for one in entries(world, 12) if one.state is OrderState.WAITING} <= {0}
            await world.reported(12)
        assert len(world.connector.jobs) == 12


async def test_a_wait_that_nobody_waits_for_any_more_ends(tmp_path):
    """Nothing to ask for when it may be asked again: orders may begin, and the next refusal makes the wait longer."""
    clock, back = ManualClock(NOW), []
    with Journal(tmp_path / "crm.sqlite") as journal:
        rounds = KeyRounds(
            "crm", keys=World(tmp_path, Scripted(DONE)).keys, journal=journal, clock=clock,
            metrics=World(tmp_path, Scripted(DONE)).metrics, back=lambda: back.append(clock.now()),
        )  # fmt: skip
        asking = asyncio.create_task(rounds.run())
        first = rounds.refused(KeysUnavailable("away"), 1)
        assert rounds.refused(KeysUnavailable("away"), 1) == first, "of calls at the same time one counts"
        assert rounds.is_away
        await asyncio.sleep(0.01)
        clock.advance(first)
        await until(lambda: not rounds.is_away)
        assert len(back) == 1
        assert rounds.refused(KeysUnavailable("away"), 1) >= first
        rounds.answered()
        assert not rounds.is_away
        clock.advance(31)
        assert rounds.refused(KeysUnavailable("away"), 1) == first
        asking.cancel()


def test_those_next_in_turn_come_from_each_queue(tmp_path):
    """The first of each, none twice, none of those left out, and the last queue fills what the others leave."""
    with Journal(tmp_path / "crm.sqlite") as journal, journal.transaction() as page:
        for number in range(1, 10):
            right = Right.OBJECTION if number == 9 else Right.ERASURE
            due_on = NOW.date().replace(month=12 if number < 6 else 4, day=number)
            page.insert(an_order(number, right=right, due_on=due_on), NOW.replace(minute=number))
        later = NOW.replace(hour=20)
        ids = {an_order(number).order_id: number for number in range(1, 10)}
        assert [ids[one.order_id] for one in upcoming(page, later, 6)] == [9, 6, 7, 1, 2, 3]
        assert sorted(ids[one.order_id] for one in upcoming(page, later, 100)) == list(range(1, 10))
        left = [ids[one.order_id] for one in upcoming(page, later, 6, but=[an_order(number).order_id for number in (9, 1)])]
        assert left == [6, 7, 2, 3, 4, 5]
        assert upcoming(page, NOW, 6) == []


def test_queues_among_some_orders(tmp_path):
    """Only those, whatever is due beside them; nothing among nobody."""
    with Journal(tmp_path / "crm.sqlite") as journal, journal.transaction() as page:
        for number in (1, 2, 3):
            page.insert(an_order(number), NOW.replace(minute=number))
        later = NOW.replace(hour=20)
        some = Among(page, {an_order(3).order_id, an_order(2).order_id, "ord_unknown"})
        assert [one.order_id for one in some.due(later, 5)] == [an_order(2).order_id, an_order(3).order_id]
        assert [one.order_id for one in some.due(later, 5, but=[an_order(2).order_id])] == [an_order(3).order_id]
        assert some.next_due_at() == NOW.replace(minute=2)
        assert Among(page, ()).due(later, 5) == []
        assert Among(page, ()).next_due_at() is None
