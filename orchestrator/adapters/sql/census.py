"""The census: counts of all open requests, for the gauges.

Room rules: reads and counts; no decision is made from it.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, case, func, select, text

from orchestrator.adapters.sql.instants import instant, micros
from orchestrator.adapters.sql.tables import identities, outbox, requests
from orchestrator.ports import Census
from schemas.metric_labels import KeyState

__all__ = ["take_census"]

_DAY = 24 * 60 * 60 * 1_000_000
#: Label of a bucket of days left, and the first day that no longer belongs to it.
_BUCKETS = (("overdue", 0), ("0-2", 3), ("3-7", 8), ("8-14", 15))
#: A request has a key if it has this: found in an index, without the row.
_KEY = identities.c.subject_request_id


def take_census(connection: Connection, now: datetime, old_before: datetime) -> Census:
    """Return the counts of what is open at `now`, of what waits to be published or woken, and of the keys there are."""
    # One pass over the open requests: at a million of them each pass reads gigabytes.
    ends = [(requests.c.due_at < micros(now) + day * _DAY, bucket) for bucket, day in _BUCKETS]
    columns = (requests.c.phase, requests.c.right, case(*ends, else_="15+").label("bucket"), requests.c.awaited)
    of_age = case((_KEY.is_not(None) & (requests.c.received_at < micros(old_before)), 1), else_=0)
    query = (
        select(*columns, func.count(), func.min(requests.c.received_at), func.count(_KEY), func.sum(of_age))
        .outerjoin(identities, requests.c.subject_request_id == _KEY)
        .where(requests.c.phase != "closed")
    )
    groups = query.group_by(requests.c.phase, requests.c.right, text("bucket"), requests.c.awaited)
    counts: dict[tuple[str, str], int] = {}
    oldest: dict[str, datetime] = {}
    due: dict[tuple[str, str], int] = {}
    awaited: dict[tuple[str, str], int] = {}
    open_keys = old_keys = 0
    for phase, right, bucket, systems, count, first, keys, old in connection.execute(groups):
        open_keys, old_keys = open_keys + keys, old_keys + old
        counts[phase, right] = counts.get((phase, right), 0) + count
        due[right, bucket] = due.get((right, bucket), 0) + count
        at = instant(first)
        if at is not None:
            oldest[phase] = min(at, oldest.get(phase, at))
        for item in systems.split(",") if systems else ():
            system, _, order_phase = item.partition(":")
            awaited[system, order_phase] = awaited.get((system, order_phase), 0) + count
    waiting = connection.execute(select(func.count()).select_from(outbox)).scalar_one()
    wakes = connection.execute(select(func.count()).where(requests.c.wake_at <= micros(now))).scalar_one()
    every_key = connection.execute(select(func.count()).select_from(identities)).scalar_one()
    states = {KeyState.CURRENT: open_keys - old_keys, KeyState.OLD: old_keys, KeyState.LEFT_OVER: every_key - open_keys}
    return Census(counts, oldest, due, awaited, waiting, wakes, {str(state): int(count) for state, count in states.items()})
