"""A log in a file: whole, private, and noticed when it is not whole."""

from __future__ import annotations

import asyncio
import gzip
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audit_world import MemoryLog

from orchestrator.audit.dump import DumpLog, write_dump
from orchestrator.audit.records import LogRecord, Place, Span
from schemas.errors import ConfigurationError

AT = datetime(2026, 3, 5, tzinfo=UTC)
RECORDS = [
    LogRecord(Place("dsr.requests.v1", 0, 3), 1, b"key", b"\x00\xff value", (("dsr-type", b"X"), ("empty", b""))),
    LogRecord(Place("dsr.confirmations.v1", 2, 9), 2, None, None),
]
EXTENT = {("dsr.requests.v1", 0): Span(3, 4), ("dsr.confirmations.v1", 2): Span(0, 10), ("dsr.status.v1", 1): Span(5, 5)}


def _write(path: Path) -> int:
    return asyncio.run(write_dump(MemoryLog(RECORDS, EXTENT), path, prefix="dsr", captured_at=AT))


def _read(path: Path) -> list[LogRecord]:
    async def read() -> list[LogRecord]:
        log = DumpLog(path)
        return [record async for record in log.read(await log.extent())]

    return asyncio.run(read())


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_what_was_written_is_read(tmp_path: Path, name: str):
    """Bytes, absences, headers, places and the extent come back as they were, compressed or not."""
    path = tmp_path / name
    assert _write(path) == 2
    assert _read(path) == RECORDS
    log = DumpLog(path)
    assert (log.prefix, log.captured_at) == ("dsr", AT)
    assert asyncio.run(log.extent()) == EXTENT
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


def test_only_its_owner_may_read_it(tmp_path: Path):
    """The file may hold whatever came into quarantine."""
    path = tmp_path / "log.jsonl"
    _write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("cut", [2, 10, 200])
@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_half_a_file_is_noticed(tmp_path: Path, name: str, cut: int):
    """A file that was cut off anywhere is refused, with the remedy."""
    path = tmp_path / name
    _write(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ConfigurationError, match="dump it again"):
        _read(path)


def test_a_missing_record_is_noticed(tmp_path: Path):
    """A line that somebody took out is missed by the count at the end."""
    path = tmp_path / "log.jsonl"
    _write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(ConfigurationError, match="not all it should"):
        _read(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"[]", b'{"format":"other"}', gzip.compress(b"{}", mtime=0)])
def test_another_file_is_refused(tmp_path: Path, content: bytes):
    """A file of something else is refused by its first line."""
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="line 1"):
        _read(path)


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path):
    """A pipe or a device that is named by mistake is still there afterwards."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigurationError, match="is no file"):
        _write(pipe)
    assert pipe.is_fifo()


def test_a_missing_file_and_a_missing_folder_are_said(tmp_path: Path):
    """The system's word for it stands in the sentence."""
    with pytest.raises(ConfigurationError, match="No such file"):
        DumpLog(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        _write(tmp_path / "none" / "log")
