"""The life of intake keys: made once in a period, current when all know them, destroyed when nothing can need them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.intake_keys import (
    IntakeLife,
    IntakePolicy,
    current_key,
    keys_to_destroy,
    name_of_next,
    overdue,
    published_keys,
)

POLICY = IntakePolicy()
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def life(kid: str, at: datetime, *, alive: bool = True) -> IntakeLife:
    return IntakeLife(kid, at, alive)


def test_the_first_key_is_made_and_current_at_once() -> None:
    """An installation that has none cannot wait; without one there is nothing to publish and nothing overdue."""
    name = name_of_next([], NOW, POLICY)
    assert name == "intake-20260206T000000"
    assert current_key([], NOW, POLICY) is None and published_keys([], NOW, POLICY) == ()
    assert overdue([], NOW, POLICY) == 0
    first = life(name, NOW)
    assert current_key([first], NOW, POLICY) == first
    assert name_of_next([first], NOW, POLICY) is None


def test_two_workers_choose_the_same_name() -> None:
    """The name follows from the period, not from the moment."""
    assert name_of_next([], NOW, POLICY) == name_of_next([], NOW + timedelta(seconds=3), POLICY)


def test_a_key_is_made_once_in_a_period_and_a_destroyed_name_is_not_used_again() -> None:
    """At the turn of a period the next is made; a key that an operator destroyed is replaced within its period."""
    first = life("intake-20260206T000000", NOW)
    turn = datetime(2026, 3, 8, tzinfo=UTC)
    assert name_of_next([first], turn - timedelta(microseconds=1), POLICY) is None
    assert name_of_next([first], turn, POLICY) == "intake-20260308T000000"
    gone = first._replace(alive=False)
    assert name_of_next([gone], NOW, POLICY) == "intake-20260206T000000-2"
    assert name_of_next([gone, life("intake-20260206T000000-2", NOW, alive=False)], NOW, POLICY) == "intake-20260206T000000-3"
    assert current_key([gone], NOW, POLICY) is None


def test_a_new_key_is_published_when_every_worker_has_had_the_time_to_learn_it() -> None:
    """Before that portals seal to the one before; those that came before it stay in the set behind it."""
    old, older, new = life("b", NOW - DAY), life("a", NOW - 2 * DAY), life("c", NOW)
    keys = [old, new, older]
    assert published_keys(keys, NOW + POLICY.lead - timedelta(microseconds=1), POLICY) == (old, older)
    assert published_keys(keys, NOW + POLICY.lead, POLICY) == (new, old, older)


def test_a_key_is_destroyed_when_no_portal_may_use_it_and_no_topic_keeps_what_was_sealed_to_it() -> None:
    """The count starts when the next one is current; the current key is never destroyed, however old."""
    old, new = life("a", NOW - 30 * DAY), life("b", NOW)
    over = NOW + POLICY.lead + POLICY.grace + POLICY.kept
    assert keys_to_destroy([old, new], over - timedelta(microseconds=1), POLICY) == ()
    assert keys_to_destroy([old, new], over, POLICY) == ("a",)
    assert keys_to_destroy([old], over + 1000 * DAY, POLICY) == ()
    assert keys_to_destroy([old._replace(alive=False), new], over, POLICY) == ()


def test_what_is_late_by_more_than_patience_is_overdue() -> None:
    """Both kinds count: a current key that was not replaced, and a retired one that was not destroyed."""
    old, new = life("a", NOW - 30 * DAY), life("b", NOW)
    over = NOW + POLICY.lead + POLICY.grace + POLICY.kept
    assert overdue([old], NOW + POLICY.patience - timedelta(microseconds=1), POLICY) == 0
    assert overdue([old], NOW + POLICY.patience, POLICY) == 1
    assert overdue([old, new], over, POLICY) == 0
    assert overdue([old, new], over + POLICY.patience, POLICY) == 1
    assert overdue([old, new], NOW + 60 * DAY, POLICY) == 2


@given(st.integers(1, 40), st.lists(st.integers(1, 24 * 60), max_size=60), st.integers(0, 59))
def test_whatever_the_schedule_something_is_current_and_nothing_needed_is_destroyed(
    rotation: int, hours: list[int], seconds: int
) -> None:
    """A worker that comes round at any moments: a seal made in time for a published key always finds that key."""
    policy = IntakePolicy(rotation=timedelta(days=rotation))
    keys: dict[str, IntakeLife] = {}
    now, sealed = NOW + timedelta(seconds=seconds), []
    for step in [0, *hours]:
        now += timedelta(hours=step)
        name = name_of_next(keys.values(), now, policy)
        if name is not None:
            assert name not in keys
            keys[name] = life(name, now)
        assert name_of_next(keys.values(), now, policy) is None
        for kid in keys_to_destroy(keys.values(), now, policy):
            keys[kid] = keys[kid]._replace(alive=False)
        current = current_key(keys.values(), now, policy)
        assert current is not None and current.alive
        # A portal takes the set now, uses it for as long as it may; the record stays for as long as the topic keeps it.
        sealed.append((current.kid, now + policy.grace + policy.kept))
        assert all(keys[kid].alive for kid, until in sealed if now < until)
