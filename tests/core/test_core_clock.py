"""Dates of a request: what is computed once for a day is what would be computed for each request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.clock import _compute, due_dates
from orchestrator.core.deadlines import RULES, Received
from schemas.registry import Controller
from schemas.vocabulary import Right

SEAT = Controller(title="Example company", zone="Europe/Amsterdam", calendar="NL")


@pytest.mark.parametrize("rule", sorted(RULES))
@given(minutes=st.integers(0, 60 * 24 * 900))
def test_a_remembered_day_gives_the_dates_of_the_instant(rule: str, minutes: int) -> None:
    """For every rule and any instant the dates are those that `due` gives for that very instant."""
    events = (Received(at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)),)
    assert due_dates(rule, events, Right.ACCESS, SEAT) == _compute(rule, events, Right.ACCESS, SEAT.zone, SEAT.calendar)
