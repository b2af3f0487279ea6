"""SQLite files that are written ahead (WAL), which several processes may make at the same moment.

Source: <https://www.sqlite.org/wal.html>; that the busy timeout does not cover the change of a new file's mode was measured.

Room rules: whoever calls brings clock and patience; no file is opened here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

__all__ = ["PATIENCE_SECONDS", "write_ahead"]

#: How long others may hold a file that is to be written ahead.
PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.01


def write_ahead(cursor: sqlite3.Cursor, *, now: Callable[[], float], wait: Callable[[float], None]) -> None:
    """Have the cursor's file written ahead. Raises `sqlite3.OperationalError` if others hold it beyond our patience.

    SQLite does not wait for whoever changes a new file's mode at the same moment, whatever its busy timeout: two that waited
    for each other would never end. So processes that start at once would fail here. `now` and `wait`: in seconds, as in `time`.
    """
    until = now() + PATIENCE_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or now() >= until:  # whatever kind of busy
                raise
            wait(_PAUSE_SECONDS)
        else:
            return
