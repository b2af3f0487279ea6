"""How this kit opens an SQLite file: durable when a transaction ends, and what it clears is overwritten.

Room rules: settings of a file, no tables.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any

import sqlalchemy as sa

from schemas.write_ahead import write_ahead

__all__ = ["prepare"]

_PRAGMAS = ("synchronous=FULL", "secure_delete=ON")


def prepare(engine: sa.Engine) -> None:
    """Let every connection of an engine have our settings, and every transaction take the write lock at its start."""
    sa.event.listen(engine, "connect", _settle)
    sa.event.listen(engine, "begin", _begin)


def _settle(connection: Any, _: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    # Who waits for another process says so first: the next pragma may already have to.
    cursor.execute("PRAGMA busy_timeout=10000")
    write_ahead(cursor, now=monotonic, wait=sleep)
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
