"""Turns: evenly spaced, counted by the system's own day, never granted twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sdk.clock import ManualClock
from connectors.sdk.protocol import Throttle
from connectors.sdk.throttle import Gate, QuotaExhausted

NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)


class Book:
    def __init__(self):
        self.days = Counter()

    def quota_used(self, day):
        return self.days[day]

    def use_quota(self, day):
        self.days[day] += 1


async def test_turns_are_evenly_spaced():
    """Two a second: the fifth turn comes two seconds after the first."""
    clock = ManualClock(NOW)
    gate = Gate(Throttle(per_second=2), clock, Book())
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


async def test_without_limits_nobody_waits():
    """No rate, no quota: no wait and no count."""
    book = Book()
    gate = Gate(Throttle(), ManualClock(NOW), book)
    assert [await gate.turn() for _ in range(100)] == [0.0] * 100
    assert gate.remaining() is None
    assert not book.days


async def test_the_day_ends_where_the_system_lives():
    """A quota by Los Angeles days: at 08:00 UTC a new one begins (winter time)."""
    clock = ManualClock(datetime(2026, 3, 5, 7, 59, tzinfo=UTC))
    gate = Gate(Throttle(per_day=1, day_zone="America/Los_Angeles"), clock, Book())
    await gate.turn()
    with pytest.raises(QuotaExhausted) as caught:
        await gate.turn()
    assert caught.value.available_at == datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
    assert caught.value.retry_after_seconds == 60
    clock.advance(60)
    await gate.turn()
    assert gate.remaining() == 0


@given(per_day=st.integers(1, 50), position=st.integers(0, 500))
def test_the_forecast_is_the_day_with_room(per_day, position):
    """The order at place p gets its turn when the days before it have room for p others."""
    gate = Gate(Throttle(per_day=per_day), ManualClock(NOW), Book())
    days = (gate.forecast(position) - datetime(2026, 3, 5, tzinfo=UTC)) / timedelta(days=1)
    assert days == int(days)
    assert (days - 1) * per_day <= position < days * per_day


@given(st.lists(st.integers(0, 7200), max_size=60), st.integers(1, 10))
def test_no_day_gives_more_than_its_quota(pauses, per_day):
    """Whenever turns are asked for, no day grants more than per_day."""
    clock, book = ManualClock(NOW), Book()
    gate = Gate(Throttle(per_day=per_day), clock, book)

    async def ask():
        for pause in pauses:
            clock.advance(pause)
            with contextlib.suppress(QuotaExhausted):
                await gate.turn()

    asyncio.run(ask())
    assert all(count <= per_day for count in book.days.values())
