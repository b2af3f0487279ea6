"""When an intake key is made, which one portals seal to, and when its private half is destroyed.

    made ── lead ──▶ current ── until the next is current ──▶ retired ── grace + kept ──▶ destroyed

Before a key is published every worker has had the time to learn it (`lead`). After the next one is current, portals that still
have the old set may go on with it (`grace`), and what they publish stays in its topic as long as that keeps records (`kept`).
Only then, and only when everything that was in the topics at such a moment has been read, the private half goes.

Room rules: pure; instants are aware and in UTC; whether everything was read is for the shell to find out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

__all__ = ["IntakeLife", "IntakePolicy", "current_key", "keys_to_destroy", "name_of_next", "overdue", "published_keys"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class IntakeLife(NamedTuple):
    """What is known of one key: its name, when it was made, whether its private half is still there."""

    kid: str
    created_at: datetime
    alive: bool


@dataclass(frozen=True, slots=True)
class IntakePolicy:
    """How long the parts of a key's life are."""

    #: A new key is made once in such a period.
    rotation: timedelta = timedelta(days=30)
    #: Longer than a worker needs to look into the store again.
    lead: timedelta = timedelta(minutes=1)
    #: How long a portal may use a set that it has fetched.
    grace: timedelta = timedelta(days=7)
    #: How long the topics of requests may hold a record, at most.
    kept: timedelta = timedelta(days=9)
    #: How late the schedule may be before a person is told.
    patience: timedelta = timedelta(days=1)


def name_of_next(keys: Iterable[IntakeLife], now: datetime, policy: IntakePolicy) -> str | None:
    """Return the name of the key to make now, None if there is one of this period.

    The name follows from the period, so that workers that start at once make one key: the store keeps the first of a name.
    """
    known = list(keys)
    begun = _EPOCH + (now - _EPOCH) // policy.rotation * policy.rotation
    if any(key.alive and key.created_at >= begun for key in known):
        return None
    taken = {key.kid for key in known}
    name = wanted = f"intake-{begun:%Y%m%dT%H%M%S}"
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def current_key(keys: Iterable[IntakeLife], now: datetime, policy: IntakePolicy) -> IntakeLife | None:
    """Return the key that portals are told to seal to: the newest that every worker knows by now, else the only one."""
    return next(iter(published_keys(keys, now, policy)), None)


def published_keys(keys: Iterable[IntakeLife], now: datetime, policy: IntakePolicy) -> tuple[IntakeLife, ...]:
    """Return the keys of the published set, the current one first, then those before it that still open."""
    alive = _by_age(keys)
    known = [key for key in alive if key.created_at + policy.lead <= now] or alive[:1]
    return tuple(reversed(known))


def keys_to_destroy(keys: Iterable[IntakeLife], now: datetime, policy: IntakePolicy) -> tuple[str, ...]:
    """Return the keys whose time is over. Nothing may be destroyed before all that was in the topics by now has been read."""
    return tuple(kid for kid, over in _ends(keys, now, policy) if over <= now)


def overdue(keys: Iterable[IntakeLife], now: datetime, policy: IntakePolicy) -> int:
    """Return how many keys are older than the policy wants: to be replaced, or to be destroyed, and it was not done."""
    known = list(keys)
    undone = sum(over + policy.patience <= now for _, over in _ends(known, now, policy))
    current = current_key(known, now, policy)
    is_old = current is not None and current.created_at + policy.rotation + policy.patience <= now
    return undone + is_old


def _by_age(keys: Iterable[IntakeLife]) -> list[IntakeLife]:
    return sorted((key for key in keys if key.alive), key=lambda key: (key.created_at, key.kid))


def _ends(keys: Iterable[IntakeLife], now: datetime, policy: IntakePolicy) -> list[tuple[str, datetime]]:
    """Return each retired key and the moment at which its time is over."""
    published = published_keys(keys, now, policy)
    after = policy.lead + policy.grace + policy.kept
    return [(key.kid, successor.created_at + after) for successor, key in pairwise(published)]
