"""By when waiting orders are done: never before what the system allows, and never earlier for more work."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from connectors.sdk.forecast import Pace, done_by, forecast, late
from connectors.sdk.protocol import Throttle

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


@given(WAITING, THROTTLES, PACES)
def test_each_due_date_has_its_forecast_in_order(waiting, throttle, pace):
    """No order is lost, later dates are done later, and what is late is counted."""
    found = forecast(waiting, throttle, pace, NOW)
    assert sum(one.orders for one in found) == sum(orders for _, orders in waiting)
    assert [one.due_on for one in found] == sorted(due_on for due_on, _ in waiting)
    assert all(a.done_by <= b.done_by + timedelta(milliseconds=1) for a, b in itertools.pairwise(found))
    assert late(found) == sum(one.orders for one in found if one.done_by.date() > one.due_on)


def test_a_quota_of_500_a_day_spreads_1200_orders_over_three_days():
    """100 calls are left today, 500 tomorrow, 500 on the day after, and the last 100 come on the third."""
    throttle = Throttle(concurrent=1, per_day=500, day_zone="America/Los_Angeles")
    (one,) = forecast([(date(2026, 3, 7), 1200)], throttle, Pace(1.0, 1.0, 10), NOW, 100)
    assert one.done_by == datetime(2026, 3, 8, 8, 0, tzinfo=UTC) + timedelta(seconds=100)
    assert one.is_late
    assert late([one]) == 1200
