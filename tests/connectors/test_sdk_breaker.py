"""A system that fails again and again is left alone, for longer each time, and one order finds out whether it is back."""

from __future__ import annotations

import asyncio

import pytest
from sdk_world import Scripted, World, an_order, until
from structlog.testing import capture_logs

from connectors.sdk.attempts import Limits
from connectors.sdk.breaker import PauseRule
from connectors.sdk.protocol import Result, Throttle
from connectors.sdk.retry import Backoff
from schemas.errors import CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.outcomes import Fulfilled, NotApplicable
from schemas.vocabulary import NotApplicableReason

DONE = Result(Fulfilled(count=1))
DOWN = SystemUnavailable("no answer")


class Moody:
    """A connector whose system is as a test says: `mood` is what every call gets, or what a function of the job returns."""

    def __init__(self, mood):
        self.mood = mood
        self.calls = []
        self.gate = None

    async def __call__(self, job):
        self.calls.append(job.order_id)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.mood(job) if callable(self.mood) else self.mood
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def world(tmp_path):
    """A world with one slot, three failures to a pause of 50 to 100 seconds at first, and retries that are due at once."""

    def make(mood, *, concurrent=1):
        moody = Moody(mood)
        limits = Limits(
            retry=Backoff(0.001, 0.001), poll=Backoff(10, 3600), max_tries=50, pause=PauseRule(3, Backoff(100.0, 1000.0))
        )
        made = World(tmp_path, Scripted(moody, throttle=Throttle(concurrent=concurrent)), limits=limits)
        made.moody = moody
        return made

    return make


def pause(world):
    with world.journal.transaction() as page:
        return page.pause()


async def paused(world, number=1):
    await until(lambda: (kept := pause(world)) is not None and kept.number == number)


async def tick(world, seconds):
    """Move the clock in small steps, so that retries fall due and waits end."""
    await world.settled()
    world.clock.advance(seconds)
    await world.settled()


async def failing(world, times):
    """Let retries fall due until the system was called so often."""
    for _ in range(200):
        if len(world.moody.calls) >= times:
            return
        await tick(world, 0.01)
    raise AssertionError("the system was not called so often")


@pytest.mark.parametrize("error", [DOWN, CredentialsRefused("401")])
async def test_after_failures_in_a_row_nothing_more_is_begun(world, error):
    """Three failures: the other seven orders wait, cost no try and are not failed; the log and the metric say so."""
    with capture_logs() as logs:
        async with world(error).running() as running:
            running.send(*(an_order(number) for number in range(1, 11)))
            await failing(running, 3)
            await paused(running)
            await tick(running, 20)
            assert len(running.moody.calls) == 3
            series = running.metrics.registry.get_sample_value("dsr_connector_pause_seconds", {"system": "crm"})
            assert 0 < series <= 80
            untouched = [running.entry(number) for number in range(1, 11) if running.entry(number).tries == 0]
            assert len(untouched) >= 7
    told = [line for line in logs if line["event"] == "system_left_alone"]
    assert [(line["system"], line["in_a_row"]) for line in told] == [("crm", 3)]


async def test_one_order_probes_and_a_success_lets_all_go_on(world):
    """After the pause exactly one order is tried; it works, and the rest follows."""
    async with world(DOWN, concurrent=4).running() as running:
        running.send(*(an_order(number) for number in range(1, 9)))
        await failing(running, 3)
        await paused(running)
        running.moody.calls.clear()
        running.moody.mood = DONE
        await tick(running, 101)
        await running.reported(8)
        assert pause(running) is None
        assert running.metrics.registry.get_sample_value("dsr_connector_pause_seconds", {"system": "crm"}) == 0


async def test_a_failing_probe_is_one_call_and_a_longer_pause(world):
    """One call, then a second pause that is longer than the first: four slots change nothing about that."""
    async with world(DOWN, concurrent=4).running() as running:
        running.send(*(an_order(number) for number in range(1, 9)))
        await paused(running)
        await running.settled()
        before, first = len(running.moody.calls), pause(running)
        await tick(running, 101)
        await paused(running, 2)
        await running.settled()
        assert len(running.moody.calls) == before + 1
        assert (pause(running).until - running.clock.now()).total_seconds() > 100
        assert pause(running).until > first.until


async def test_while_the_probe_is_under_way_nothing_else_begins(world):
    """A slow probe is still the only one, however many slots are free."""
    answered = asyncio.Event()
    async with world(DOWN, concurrent=4).running() as running:
        running.send(*(an_order(number) for number in range(1, 9)))
        await paused(running)
        await running.settled()
        running.moody.calls.clear()
        running.moody.mood, running.moody.gate = DONE, answered
        await tick(running, 101)
        await until(lambda: running.moody.calls)
        await tick(running, 60)
        assert len(running.moody.calls) == 1
        answered.set()
        await running.reported(8)


async def test_a_restart_neither_ends_nor_begins_a_pause(world, tmp_path):
    """The moment is stored: a process that starts in the middle of a pause waits for the rest of it."""
    async with world(DOWN).running() as running:
        running.send(*(an_order(number) for number in range(1, 6)))
        await failing(running, 3)
        await paused(running)
        kept = pause(running)
    again = world(DONE)
    again.clock.advance((running.clock.now() - again.clock.now()).total_seconds())
    async with again.running():
        await again.settled()
        assert again.moody.calls == []
        assert pause(again) == kept
        again.clock.advance(101)
        await again.reported(5)


async def test_another_order_probes_than_the_one_that_failed_last(world):
    """An order that the system cannot digest does not keep the others waiting for ever."""

    def sick(job):
        return DOWN if job.subject_request_id.endswith("001") else DONE

    async with world(sick).running() as running:
        running.send(an_order(1))
        await failing(running, 3)
        await paused(running)
        running.send(an_order(2))
        await tick(running, 101)
        await running.reported(1)
        assert pause(running) is None


@pytest.mark.parametrize(
    "answer",
    [
        SystemRejected("no"),
        SystemUnavailable("still held", reason="verification_failed"),
        Throttled("slow down", retry_after_seconds=0.001),
    ],
)
async def test_a_system_that_answers_is_not_left_alone(world, answer):
    """Refusals, failed verification and throttling say that the system is there."""
    async with world(answer).running() as running:
        running.send(*(an_order(number) for number in range(1, 8)))
        await failing(running, 7)
        assert pause(running) is None


async def test_an_order_that_asks_nobody_ends_no_pause(world):
    """not_applicable without a call proves nothing: the next order is the probe."""

    def mood(job):
        return Result(NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING))

    async with world(DOWN).running() as running:
        running.send(*(an_order(number) for number in range(1, 4)))
        await failing(running, 3)
        await paused(running)
        running.moody.mood = mood
        await tick(running, 101)
        await running.reported(3)
        assert pause(running) is not None


async def test_failures_with_successes_between_them_are_no_row(world):
    """Two failures, a success, two failures: nothing is paused."""
    answers = iter([DOWN, DOWN, DONE, DOWN, DOWN, DONE, DONE, DONE, DONE])
    async with world(lambda job: next(answers)).running() as running:
        running.send(*(an_order(number) for number in range(1, 6)))
        await failing(running, 9)
        await running.reported(5)
        assert pause(running) is None
