"""Values on their way between text, as requests carry them, and typed columns.

Room rules: pure; no error repeats a value.
"""

from __future__ import annotations

import base64
import uuid
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlalchemy import Column
from sqlalchemy import types as sa_types

__all__ = ["Unfit", "as_date", "as_json", "as_text", "as_value"]

_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class Unfit(Exception):
    """A text does not fit the type or length of its column."""


def as_value(column: Column[Any], plain: str) -> Any:
    """Return text as the column's type needs it. Raises `Unfit`; an empty text clears a nullable column that is no text."""
    if not isinstance(column.type, sa_types.String):
        if plain == "" and column.nullable:
            return None
        return _typed(column, plain)
    limit = getattr(column.type, "length", None)
    if limit is not None and len(plain) > limit:
        raise Unfit
    return plain


def _typed(column: Column[Any], plain: str) -> Any:
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return plain
    try:
        if kind is bool:
            return _BOOLS[plain.lower()]
        if kind in {int, float, Decimal, uuid.UUID}:
            return kind(plain)
        if kind in {date, datetime, time}:
            return kind.fromisoformat(plain)
    except (ValueError, KeyError, InvalidOperation):
        raise Unfit from None
    return plain


def as_text(value: Any) -> str:
    """Return a column's value as the text that `old_sha256` is taken of: empty for null, ISO 8601 for dates."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    return str(value).strip()


def as_json(value: Any) -> Any:
    """Return a column's value for an export: JSON's own types as they are, bytes in base64, everything else as text."""
    if value is None or isinstance(value, (bool, int, float, str, list, dict)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    return as_text(value)


def as_date(value: Any) -> date | None:
    """Return the day of a date column, a timestamp or ISO text; None if there is none."""
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value)[:10])
    except ValueError:
        return None
