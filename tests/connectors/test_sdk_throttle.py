"""Turns: evenly spaced, counted by the system's own day, never granted twice, whoever else asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.routing import Route

from connectors.sdk.clock import ManualClock, SystemClock
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota
from connectors.sdk.standin import StandIn, serve
from connectors.sdk.throttle import Gate, QuotaExhausted
from schemas.errors import ConfigurationError, StoreUnavailable

NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
CALLER = Path(__file__).parent / "quota_caller.py"


@pytest.fixture
def book():
    with SqlQuota("sqlite://", "crm") as book:
        yield book


async def test_turns_are_evenly_spaced(book):
    """Two a second: the fifth turn comes two seconds after the first."""
    clock = ManualClock(NOW)
    gate = Gate(Throttle(per_second=2), clock, book)
    taken = []

    async def take():
        await gate.turn()
        taken.append((clock.now() - NOW).total_seconds())

    tasks = [asyncio.create_task(take()) for _ in range(5)]
    for _ in range(30):
        await asyncio.sleep(0)
        clock.advance(0.1)
    await asyncio.gather(*tasks)
    assert taken == pytest.approx([0, 0.5, 1.0, 1.5, 2.0], abs=0.11)


async def test_without_limits_nobody_waits(book):
    """No rate, no quota: no wait and no count."""
    gate = Gate(Throttle(), ManualClock(NOW), book)
    assert [await gate.turn() for _ in range(100)] == [0.0] * 100
    assert await gate.remaining() is None
    assert await book.used("2026-03-05") == 0


async def test_the_day_ends_where_the_system_lives(book):
    """A quota by Los Angeles days: at 08:00 UTC a new one begins (winter time)."""
    clock = ManualClock(datetime(2026, 3, 5, 7, 59, tzinfo=UTC))
    gate = Gate(Throttle(per_day=1, day_zone="America/Los_Angeles"), clock, book)
    await gate.turn()
    with pytest.raises(QuotaExhausted) as caught:
        await gate.turn()
    assert caught.value.available_at == datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
    assert caught.value.retry_after_seconds == 60
    clock.advance(60)
    await gate.turn()
    assert await gate.remaining() == 0


async def test_a_call_counts_on_the_day_it_is_made(book):
    """Whoever waits for a turn over midnight uses the new day's quota, not the old one's."""
    clock = ManualClock(datetime(2026, 3, 5, 23, 59, 59, tzinfo=UTC))
    gate = Gate(Throttle(per_second=0.5, per_day=5), clock, book)
    await gate.turn()
    waiting = asyncio.create_task(gate.turn())
    await asyncio.sleep(0.01)
    clock.advance(2)
    assert await waiting == 2
    assert await book.used("2026-03-06") == 1


async def test_who_finds_the_day_used_up_takes_no_turn(book):
    """Ten thousand orders that meet an empty day do not each wait for a turn that they cannot use."""
    gate = Gate(Throttle(per_second=1, per_day=1), ManualClock(NOW), book)
    await gate.turn()
    for _ in range(50):
        with pytest.raises(QuotaExhausted):
            await gate.turn()
    assert await book.next_turn(NOW, 1.0) == 1.0


@given(per_day=st.integers(1, 50), position=st.integers(0, 500))
def test_the_forecast_is_the_day_with_room(per_day, position):
    """The order at place p gets its turn when the days before it have room for p others."""
    with SqlQuota("sqlite://", "crm") as book:
        gate = Gate(Throttle(per_day=per_day), ManualClock(NOW), book)
        days = (gate.forecast(position) - datetime(2026, 3, 5, tzinfo=UTC)) / timedelta(days=1)
    assert days == int(days)
    assert (days - 1) * per_day <= position < days * per_day


@given(st.lists(st.integers(0, 7200), max_size=60), st.integers(1, 10))
def test_no_day_gives_more_than_its_quota(pauses, per_day):
    """Whenever turns are asked for, no day grants more than per_day, and none grants less than it can."""
    clock, granted, asked = ManualClock(NOW), {}, {}

    async def ask(gate):
        for pause in pauses:
            clock.advance(pause)
            day = clock.now().date()
            asked[day] = asked.get(day, 0) + 1
            with contextlib.suppress(QuotaExhausted):
                await gate.turn()
                granted[day] = granted.get(day, 0) + 1

    with SqlQuota("sqlite://", "crm") as book:
        asyncio.run(ask(Gate(Throttle(per_day=per_day), clock, book)))
    assert granted == {day: min(per_day, count) for day, count in asked.items()}


async def test_a_restart_and_another_system_keep_their_own_counts(tmp_path):
    """Counts survive the process; each system has its own, in one file."""
    for expected in (0, 1):
        with SqlQuota.in_folder(tmp_path, "crm") as book:
            assert await book.used("2026-03-05") == expected
            assert await book.use("2026-03-05", 2)
    url = f"sqlite:///{tmp_path / 'crm.quota.sqlite'}"
    with SqlQuota(url, "crm") as book, SqlQuota(url, "shop") as other:
        assert not await book.use("2026-03-05", 2)
        assert await other.use("2026-03-05", 2)
        assert await book.next_turn(NOW, 5.0) == 0.0
        assert await book.next_turn(NOW, 5.0) == 5.0
        assert await other.next_turn(NOW, 5.0) == 0.0
        assert await other.use("2026-03-06", 2)
        assert [await book.used("2026-03-05"), await other.used("2026-03-05")] == [2, 0]


async def test_a_clock_that_was_set_back_does_not_stop_calls_for_ever(book):
    """A row of turns that begins a year ahead is begun anew."""
    assert await book.next_turn(NOW + timedelta(days=365), 0.5) == 0.0
    assert await book.next_turn(NOW, 0.5) == 0.0
    assert await book.next_turn(NOW, 0.5) == 0.5


def test_a_wrong_url_names_the_setting_and_not_the_password():
    """No driver but the two, and no quotation: the URL may hold a password."""
    for url in ("mysql://root:geheim@db/x", "nonsense", "postgresql+asyncpg://u:geheim@db/x", "odd+thing://geheim"):
        with pytest.raises(ConfigurationError, match="DSR_QUOTA_URL") as caught:
            SqlQuota(url, "crm")
        assert "geheim" not in str(caught.value)


def test_a_database_that_is_away_grants_nothing():
    """No count, no call: the process ends and is started again."""
    with pytest.raises(StoreUnavailable, match="OperationalError"):
        SqlQuota("postgresql+psycopg://nobody:geheim@127.0.0.1:9/none?connect_timeout=2", "crm")


class Counting(StandIn):
    """Notes when it was called, and by whom."""

    def __init__(self):
        super().__init__()
        self.called = []

    def routes(self):
        async def call(request):
            self.called.append((time.monotonic(), request.query_params["by"]))
            return JSONResponse({})

        return [Route("/call", call)]

    def by(self, name):
        return sum(who == name for _, who in self.called)

    def most_within(self, seconds):
        """Return the largest number of calls in any window of that length."""
        times = sorted(at for at, _ in self.called)
        return max(sum(start <= at < start + seconds for at in times[i:]) for i, start in enumerate(times))


@contextlib.contextmanager
def callers(url, quota_url, names, **limits):
    """Run processes that call as often as they are let; those still alive are killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    started = {}
    try:
        for name in names:
            arguments = [name, url, quota_url, str(limits.get("per_second", 0)), str(limits.get("per_day", 0))]
            started[name] = subprocess.Popen([sys.executable, str(CALLER), *arguments], env=environment)
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


def shared_by_two(quota_url):
    """Two processes share a rate: together not faster than allowed, both get on, and a kill gives nothing away twice."""
    per_second, system = 40.0, Counting()
    with serve(system) as url, callers(url, quota_url, ("one", "two"), per_second=per_second) as processes:
        until(lambda: system.by("one") >= 20 and system.by("two") >= 20)
        processes["one"].kill()
        processes["one"].wait()
        left = system.by("two") + 40
        until(lambda: system.by("two") >= left)
    times = sorted(at for at, _ in system.called)
    # One call stands at either end of a window; a scheduler's hiccup may push a few into the next one.
    assert system.most_within(1.0) <= per_second + 1 + 4
    assert len(times) <= (times[-1] - times[0]) * per_second + 1 + 4
    middle = sorted(after - before for before, after in pairwise(times))[len(times) // 2]
    assert middle > 0.5 / per_second


def day_shared_by_two(quota_url):
    """Two processes and a kill share a day's quota: exactly so many calls are made, and none after that."""
    system = Counting()
    with serve(system) as url, callers(url, quota_url, ("one", "two"), per_day=300) as processes:
        until(lambda: system.by("one") >= 20 and system.by("two") >= 20)
        processes["one"].kill()
        processes["one"].wait()
        assert processes["two"].wait(30) == 0, "it ends when the day is used up"
        with callers(url, quota_url, ("three",), per_day=300) as later:
            assert later["three"].wait(30) == 0
    # The killed process may have counted a call that it did not make; nobody makes one that is not counted.
    assert 299 <= len(system.called) <= 300
    assert system.by("three") == 0


def test_two_processes_on_one_machine_share_a_rate(tmp_path):
    """A file of counts serves two processes: never above the limit, both make progress, also when one is killed."""
    shared_by_two(f"sqlite:///{tmp_path / 'shared.sqlite'}")


def test_two_processes_on_one_machine_share_a_day(tmp_path):
    """A file of counts serves two processes: a day's calls are given out once."""
    day_shared_by_two(f"sqlite:///{tmp_path / 'shared.sqlite'}")


@pytest.mark.postgres
def test_processes_on_several_machines_share_a_rate(postgres_url):
    """The same through a server: its clock decides, not the machines'."""
    shared_by_two(postgres_url)


@pytest.mark.postgres
def test_processes_on_several_machines_share_a_day(postgres_url):
    """The same through a server: a day's calls are given out once."""
    day_shared_by_two(postgres_url)


@pytest.mark.postgres
async def test_a_server_counts_as_a_file_does(postgres_url):
    """Turns are apart by the spacing, a day ends at its limit, old days leave."""
    with SqlQuota(postgres_url, "crm") as book, SqlQuota(postgres_url, "crm") as twin:
        gate = Gate(Throttle(per_day=2), SystemClock(), book)
        assert await book.next_turn(NOW, 60.0) == 0.0
        assert 59 < await twin.next_turn(NOW - timedelta(days=1), 60.0) <= 60
        assert [await one.use("2026-03-05", 2) for one in (book, twin, book)] == [True, True, False]
        assert await twin.use("2026-03-06", 2)
        assert await book.used("2026-03-05") == 0
        assert await gate.remaining() == 2
