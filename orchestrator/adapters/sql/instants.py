"""Instants as the store keeps them: microseconds since 1970 in UTC, the same on every database.

Room rules: two functions, each other's inverse.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["instant", "micros"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(at: datetime) -> int:
    """Return an aware instant as the store keeps it."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def instant(value: int | None) -> datetime | None:
    """Return the aware instant that the store keeps, None for none."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)
