"""By when waiting orders are done: never before what the system allows, and never earlier for more work."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.sdk.forecast import Due, Pace, done_by, end_of, forecast, late
from connectors.sdk.protocol import Throttle
from connectors.sdk.quota import SqlQuota

NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
ORDERS = st.integers(0, 20_000)
PACES = st.builds(Pace, st.floats(0, 600), st.floats(0, 20), st.integers(0, 9))
THROTTLES = st.builds(
    Throttle,
    concurrent=st.integers(1, 16),
    per_second=st.none() | st.floats(0.01, 100),
    per_day=st.none() | st.integers(1, 5000),
    day_zone=st.sampled_from(["UTC", "Europe/Berlin", "America/Los_Angeles"]),
)
WAITING = st.lists(st.tuples(st.dates(date(2026, 2, 1), date(2026, 8, 1)), st.integers(1, 3000)), max_size=8)


@given(ORDERS, ORDERS, THROTTLES, PACES, st.none() | st.integers(0, 5000))
def test_more_orders_are_never_done_earlier(orders, more, throttle, pace, remaining):
    """And nothing is done before work begins."""
    first, then = (done_by(n, throttle, pace, NOW, remaining) for n in (orders, orders + more))
    assert NOW <= first <= then + timedelta(milliseconds=1)


@given(st.integers(1, 20_000), THROTTLES, PACES, st.integers(1, 5000))
def test_no_day_does_more_than_its_quota(orders, throttle, pace, per_day):
    """With a quota of calls a day the last order is done no earlier than on the day on which its calls are there."""
    throttle = Throttle(throttle.concurrent, throttle.per_second, per_day, throttle.day_zone)
    zone = ZoneInfo(throttle.day_zone)
    at = done_by(orders, throttle, pace, NOW, per_day)
    days = (at.astimezone(zone).date() - NOW.astimezone(zone).date()).days + 1
    assert days >= 36_000 or days * per_day >= orders * max(1.0, pace.calls) - 0.001 * per_day


@given(ORDERS, PACES, st.integers(1, 16), st.floats(0.01, 100))
def test_neither_slots_nor_turns_are_overtaken(orders, pace, concurrent, per_second):
    """It takes as long as the scarcer of both."""
    took = (done_by(orders, Throttle(concurrent, per_second), pace, NOW, None) - NOW).total_seconds()
    assert took >= 0.999 * min(orders * pace.seconds / concurrent, 3e9) - 0.001
    assert took >= 0.999 * min(orders * pace.calls / per_second, 3e9) - 0.001


@given(WAITING, THROTTLES, PACES, st.randoms(use_true_random=False))
def test_each_due_date_has_its_forecast_in_order(waiting, throttle, pace, chance):
    """No order is lost, in whatever order their turns come, and each that is done too late is counted, no other."""
    orders = [day for day, count in waiting for _ in range(min(count, 40))]
    chance.shuffle(orders)
    found = forecast([a_due(day) for day in orders], throttle, pace, NOW)
    assert {one.due_on: one.orders for one in found} == Counter(orders)
    assert [one.due_on for one in found] == sorted(set(orders))
    done = [(day, done_by(place, throttle, pace, NOW, None)) for place, day in enumerate(orders, 1)]
    assert {one.due_on: one.done_by for one in found} == {day: max(at for d, at in done if d == day) for day in set(orders)}
    assert late(found) == sum(at > end_of(day) for day, at in done)


def a_due(day, hours_behind_utc=0):
    return Due(day, end_of(day) + timedelta(hours=hours_behind_utc))


@pytest.mark.parametrize(("hours", "late_ones"), [(0, 2), (8, 0), (-1, 3)])
def test_a_due_date_ends_where_the_controller_has_its_seat(hours, late_ones):
    """Done at 23:30, 00:30 and 01:30 UTC: the seat's midnight says what is too late, eight hours behind or one ahead."""
    day, start = date(2026, 3, 5), datetime(2026, 3, 5, 22, 30, tzinfo=UTC)
    (one,) = forecast([a_due(day, hours)] * 3, Throttle(1), Pace(3600.0, 1.0, 9), start)
    assert (one.late, one.is_late) == (late_ones, late_ones > 0)


@given(st.integers(1, 2000), THROTTLES, PACES, st.integers(2, 5))
@example(orders=1, throttle=Throttle(concurrent=1, per_second=None, per_day=1), pace=Pace(0.0, 3.0), sharers=5)
def test_shared_calls_are_not_counted_for_each_process(orders, throttle, pace, sharers):
    """So many processes with as many orders each are done no earlier than one that had them all."""
    throttle = Throttle(throttle.concurrent * sharers, throttle.per_second, throttle.per_day, throttle.day_zone)
    alone = done_by(orders * sharers, throttle, pace, NOW, None)
    shared = Throttle(throttle.concurrent // sharers, throttle.per_second, throttle.per_day, throttle.day_zone)
    assert done_by(orders, shared, replace(pace, share=1 / sharers), NOW, None) >= alone - timedelta(seconds=1)


async def test_each_process_gets_the_part_of_its_waiting_orders(tmp_path):
    """Two processes on one book: by what waits at each; who is done or away takes nothing; another system is no matter."""
    url = f"sqlite:///{tmp_path}/quota.sqlite"
    with SqlQuota(url, "crm") as one, SqlQuota(url, "crm") as other, SqlQuota(url, "shop") as shop:
        assert await one.share(0, NOW) == 1.0
        assert await one.share(30, NOW) == 1.0
        assert await shop.share(900, NOW) == 1.0
        assert await other.share(10, NOW) == 0.25
        assert await one.share(30, NOW) == 0.75
        assert await other.share(0, NOW) == 1.0
        assert await one.share(30, NOW) == 1.0
        await other.share(10, NOW)
        assert await one.share(30, NOW + timedelta(minutes=5)) == 1.0


def test_a_quota_of_500_a_day_spreads_1200_orders_over_three_days():
    """100 calls are left today, 500 tomorrow, 500 on the day after, and the last 100 come on the third."""
    throttle = Throttle(concurrent=1, per_day=500, day_zone="America/Los_Angeles")
    (one,) = forecast([a_due(date(2026, 3, 7))] * 1200, throttle, Pace(1.0, 1.0, 10), NOW, 100)
    assert one.done_by == datetime(2026, 3, 8, 8, 0, tzinfo=UTC) + timedelta(seconds=100)
    assert one.is_late
    assert late([one]) == 100, "the others are done on the 5th, 6th and 7th"
