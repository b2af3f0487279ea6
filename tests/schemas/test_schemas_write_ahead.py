"""Files that several processes make at once: who waits for whom, for how long, and who opens files that way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from connectors.sdk.sqlite_file import _settle
from orchestrator.adapters.sql.store import _prepare_sqlite
from schemas.write_ahead import PATIENCE_SECONDS, write_ahead


class Taken:
    """A file that others hold for so many changes of its mode, as SQLite says it; and the clock of who waits for it."""

    isolation_level: str | None = ""

    def __init__(self, times: int, code: int = sqlite3.SQLITE_BUSY) -> None:
        self.times, self.code, self.asked, self.at = times, code, 0, 0.0

    def cursor(self) -> Taken:
        return self

    def execute(self, statement: str) -> None:
        if statement != "PRAGMA journal_mode=WAL":
            return
        self.asked += 1
        if self.asked <= self.times:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error

    def close(self) -> None:
        """Nothing is open."""

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.at += seconds


def ahead(taken: Taken) -> Taken:
    write_ahead(taken, now=taken.now, wait=taken.wait)  # type: ignore[arg-type] # as much of a cursor as is asked of it
    return taken


def test_a_new_file_that_others_change_is_waited_for() -> None:
    """SQLite itself does not wait there; of every kind of busy it is the same."""
    assert ahead(Taken(3)).asked == ahead(Taken(3, sqlite3.SQLITE_BUSY_RECOVERY)).asked == 4


def test_another_error_is_told_at_once() -> None:
    """Waiting mends no full disk."""
    full = Taken(1, sqlite3.SQLITE_FULL)
    with pytest.raises(sqlite3.OperationalError):
        ahead(full)
    assert (full.asked, full.at) == (1, 0.0)


def test_whoever_holds_it_for_too_long_is_told() -> None:
    """Nobody waits for ever."""
    taken = Taken(10_000)
    with pytest.raises(sqlite3.OperationalError):
        ahead(taken)
    assert PATIENCE_SECONDS <= taken.at < PATIENCE_SECONDS + 0.1


@pytest.mark.parametrize("opened", [_prepare_sqlite, _settle], ids=["a worker's store", "a connector's files"])
def test_every_file_of_ours_is_opened_so(opened: Callable[[Any, object], None]) -> None:
    """Workers share a store, and the processes of a system the book of its turns."""
    taken = Taken(2)
    opened(taken, None)
    assert (taken.asked, taken.isolation_level) == (3, None)
