"""Instants that a person gives on the command line.

Room rules: pure; an instant without an offset is never guessed.
"""

from __future__ import annotations

from datetime import datetime

from schemas.errors import ConfigurationError

__all__ = ["instant"]


def instant(option: str, text: str) -> datetime:
    """Return the aware instant that `text` says in the form of ISO 8601. Raises `ConfigurationError` naming the option."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ConfigurationError(f"{option}: give an instant with an offset, for instance 2026-03-05T10:00+01:00")
    return at
