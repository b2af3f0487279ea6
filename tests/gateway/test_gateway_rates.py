"""How often one caller may come, by a clock that the test sets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway import rates
from orchestrator.gateway.rates import Rate

STEPS = st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=200)


@given(STEPS, st.integers(1, 20), st.integers(1, 10))
def test_never_more_than_the_burst_and_what_was_earned_since(steps: list[float], per_second: int, burst: int) -> None:
    """Between any two calls that are let in; and who waits as long as it is told is let in."""
    rate, now, let_in = Rate(per_second, burst=burst), 0.0, []
    for step in steps:
        now += step
        wait = rate.take("a", now)
        if not wait:
            let_in.append(now)
        elif step:
            now += wait * (1 + 1e-9) + 1e-9
            assert rate.take("a", now) == 0
            let_in.append(now)
    for first, since in enumerate(let_in):
        for last in range(first, len(let_in)):
            assert last - first + 1 <= burst + math.floor((let_in[last] - since) * per_second + 1e-6)


def test_one_caller_takes_nothing_from_another() -> None:
    """Each has its own."""
    rate = Rate(1, burst=2)
    assert [rate.take("a", 0.0) for _ in range(3)] == [0, 0, 1]
    assert rate.take("b", 0.0) == 0


def test_a_caller_who_was_away_has_its_burst_and_no_more() -> None:
    """Time that nobody used is not saved up."""
    rate = Rate(1, burst=2)
    rate.take("a", 0.0)
    assert [rate.take("a", 3_600.0) for _ in range(3)] == [0, 0, 1]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many callers all are forgotten, and let in."""
    monkeypatch.setattr(rates, "_CALLERS", 10)
    rate = Rate(1, burst=1)
    for number in range(1_000):
        assert rate.take(str(number), 0.0) == 0
        assert len(rate._paid) <= 10
