"""Connectors that keep something of their own: what the runtime tells them to forget, when, and across crashes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sdk_world import NOW, Scripted, World, an_order, until
from test_sdk_cancelling import DONE, STARTED, Stopping, held, over, taken

from connectors.sdk.journal import Journal, OrderState
from connectors.sdk.protocol import Over
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Accepted, Fulfilled
from schemas.vocabulary import CancellationReason, OutcomeCode


class Keeping(Scripted):
    """A connector that keeps something: `forgets` are its answers when it has to forget."""

    def __init__(self, *answers, forgets=(None,), **more):
        super().__init__(*answers, **more)
        self.forgets, self.forgotten, self.expiries = list(forgets), [], []

    async def forget(self, over):
        self.forgotten.append(over)
        await self._answer(over, self.forgets)

    async def expire(self, now):
        self.expiries.append(now)


class KeepingAndStopping(Keeping, Stopping):
    """One that can call off as well."""


def told(order, attempt=1):
    return Over(order.order_id, order.right, attempt)


@pytest.mark.parametrize("answer", [DONE, SystemRejected("rejected")])
async def test_forgotten_once_the_broker_has_the_final_report(tmp_path, answer):
    """Done or failed: not while the report is only written, then once."""
    give, gate = held(answer)
    world = World(tmp_path, Keeping(give))
    order = an_order()
    async with world.running():
        world.send(order)
        await until(lambda: world.connector.jobs)
        await world.settled()
        assert world.connector.forgotten == []
        gate.set()
        await until(lambda: world.connector.forgotten)
        assert len(world.reports) == 1
        world.clock.advance(60)
        await world.settled()
    assert world.connector.forgotten == [told(order)]


async def test_a_job_that_goes_on_is_not_forgotten(tmp_path):
    """A progress report is no end; the final one is."""
    world = World(tmp_path, Keeping(STARTED, polls=[STARTED, DONE]))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        world.clock.advance(20)
        await world.settled()
        assert world.connector.forgotten == []
        world.clock.advance(3600)
        await until(lambda: world.connector.forgotten)
        assert [report.outcome.code for report in world.reports] == [OutcomeCode.ACCEPTED, OutcomeCode.FULFILLED]


async def test_what_does_not_forget_is_asked_again_across_a_crash(tmp_path):
    """A failure is tried again by the clock, and after a kill at the start; what is behind it is forgotten meanwhile."""
    away = SystemUnavailable("away")
    connector = Keeping(DONE, forgets=[away, None, away])
    world = World(tmp_path, connector)
    first, second = an_order(1), an_order(2)
    async with world.running(orderly=False):
        world.send(first)
        await until(lambda: connector.forgotten == [told(first)])
        world.send(second)
        await until(lambda: len(connector.forgotten) >= 3)
    assert set(connector.forgotten) == {told(first), told(second)}
    with Journal(tmp_path / "crm.sqlite") as journal, journal.transaction() as page:
        assert len(page.forgettings.due()) == 1
    world.connector = Keeping(DONE)
    async with world.running():
        assert len(world.connector.forgotten) <= 1
        await until(lambda: len(world.connector.forgotten) == 1)
        assert world.connector.expiries


async def test_a_defect_in_it_stops_no_order(tmp_path):
    """What a connector raises at it is logged and asked again; the next order is worked on."""
    world = World(tmp_path, Keeping(DONE, forgets=[ZeroDivisionError(), None]))
    async with world.running():
        world.send(an_order(1))
        await until(lambda: world.connector.forgotten)
        world.send(an_order(2))
        await world.reported(2)
        await until(lambda: len(world.connector.forgotten) == 3)


async def test_an_order_that_the_desk_has_closed_is_forgotten(tmp_path):
    """Dropped at its turn, or closed when it comes again: both ways end in the same word."""
    world = World(tmp_path, Keeping(STARTED, polls=[STARTED]))
    known, unknown = an_order(1), an_order(2)
    async with world.running():
        world.send(known)
        await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
        world.keys.refused |= {known.order_id: 410, unknown.order_id: 410}
        world.send(unknown)
        world.clock.advance(3600)
        await until(lambda: set(world.connector.forgotten) == {told(known), told(unknown)})
        assert world.entry() is None


@pytest.mark.parametrize("reason", CancellationReason)
async def test_a_job_of_an_order_that_is_over_is_looked_at_once_more(tmp_path, reason):
    """Called off while it runs: one look at once, then it is dropped and forgotten, and no more is asked."""
    world = World(tmp_path, Keeping(STARTED, polls=[STARTED]))
    order = an_order()
    async with world.running():
        world.send(order)
        await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
        world.keys.over.add(order.order_id)
        world.send(over(order, reason))
        await until(lambda: world.connector.forgotten == [told(order)])
        world.clock.advance(86400)
        await world.settled()
        assert (len(world.connector.handles), world.entry()) == (1, None)


async def test_nothing_is_forgotten_before_it_is_called_off(tmp_path):
    """A connector that can call off may need what it keeps for that."""
    later = Accepted(expected_by=NOW + timedelta(hours=5))
    waits = STARTED.__class__(later)
    world = World(tmp_path, KeepingAndStopping(STARTED, polls=[STARTED], cancels=[waits, None]))
    order = an_order()
    async with world.running():
        world.send(order)
        await until(lambda: world.entry() is not None and world.entry().state is OrderState.POLLING)
        world.keys.over.add(order.order_id)
        world.send(over(order))
        await until(lambda: world.connector.ended)
        world.clock.advance(3)
        await taken(world, 2)
        assert world.connector.forgotten == []
        world.clock.advance(3600)
        await until(lambda: world.connector.forgotten == [told(order)])
        assert len(world.connector.ended) == 2


async def test_an_order_tried_again_is_forgotten_with_all_its_attempts(tmp_path):
    """While a later attempt is under way nothing is forgotten; then up to that one."""
    give, gate = held(DONE)
    world = World(tmp_path, Keeping(SystemRejected("rejected"), give, forgets=[SystemUnavailable("away"), None]))
    async with world.running():
        world.send(an_order())
        await until(lambda: world.connector.forgotten == [told(an_order())])
        world.send(an_order(attempt=2))
        await until(lambda: len(world.connector.jobs) == 2)
        world.clock.advance(60)
        await world.settled()
        assert len(world.connector.forgotten) == 1
        gate.set()
        await until(lambda: world.connector.forgotten[1:] == [told(an_order(), 2)])
        assert world.reports[-1].outcome == Fulfilled(count=1)
