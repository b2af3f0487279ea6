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


def take_census(connection: Connection, now: datetime, old_before: datetime) -> Census:
    """Return the counts of what is open at `now`, of what waits to be published or woken, and of the keys there are."""
    # One pass over the open requests: at a million of them each pass reads gigabytes.
    ends = [(requests.c.due_at < micros(now) + day * _DAY, bucket) for bucket, day in _BUCKETS]
    columns = (requests.c.phase, requests.c.right, case(*ends, else_="15+").label("bucket"), requests.c.awaited)
    query = select(*columns, func.count(), func.min(requests.c.received_at)).where(requests.c.phase != "closed")
    groups = query.group_by(requests.c.phase, requests.c.right, text("bucket"), requests.c.awaited)
    counts: dict[tuple[str, str], int] = {}
    oldest: dict[str, datetime] = {}
    due: dict[tuple[str, str], int] = {}
    awaited: dict[tuple[str, str], int] = {}
    for phase, right, bucket, systems, count, first in connection.execute(groups):
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
    return Census(counts, oldest, due, awaited, waiting, wakes, _keys(connection, old_before))


def _keys(connection: Connection, old_before: datetime) -> dict[str, int]:
    state = case(
        (requests.c.phase == "closed", KeyState.LEFT_OVER),
        (requests.c.received_at < micros(old_before), KeyState.OLD),
        else_=KeyState.CURRENT,
    ).label("key_state")
    joined = identities.join(requests, requests.c.subject_request_id == identities.c.subject_request_id)
    found = connection.execute(select(state, func.count()).select_from(joined).group_by(text("key_state")))
    return {**dict.fromkeys(map(str, KeyState), 0), **{str(name): count for name, count in found}}
