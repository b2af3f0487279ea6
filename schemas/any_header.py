"""Records whose header names are not UTF-8 are read like others.

Kafka takes any bytes for a header's name, aiokafka raises in the middle of a fetch: the whole partition would stand still
behind one record of a careless writer, and a restarted worker would meet it again. A name that cannot be read comes with its
bytes in hexadecimal, so it is nobody's header and the record is judged by the others.

Every reader of a topic that others write to calls `install`: worker, connectors, auditor, operators' commands.

Room rules: the one file of the room that knows a client of Kafka, and no other file of the room imports it; replaces one class
of one pinned version of aiokafka; no record is looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

__all__ = ["install"]


class _Bytes(bytearray):
    """Bytes that can always be decoded, and whose parts can."""

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        del errors
        return super().decode(encoding, "backslashreplace")

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Bytes(part) if isinstance(key, slice) else part


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc] # aiokafka does not export its types
    _buffer: bytearray

    """A batch read in Python, by the client's own code."""

    def __iter__(self) -> _Batch:
        super().__iter__()
        self._buffer = _Bytes(self._buffer)
        return self


class _Records:
    """Fetched bytes, read by the fast reader; `again` reads them from the beginning with the patient one."""

    def __init__(self, fetched: bytes) -> None:
        self._fetched = fetched
        fast = MemoryRecords(fetched)
        self.has_next, self.next_batch, self.size_in_bytes = fast.has_next, fast.next_batch, fast.size_in_bytes

    def again(self) -> _Patient:
        return _Patient(self._fetched)


class _Patient(_MemoryRecordsPy):  # type: ignore[misc] # as above
    def next_batch(self, *_: Any) -> Any:
        piece = self._next_slice
        if piece is None or piece[self.MAGIC_OFFSET] < 2:
            return super().next_batch()
        self._cache_next()
        return _Batch(piece)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc] # as above
    _records: Any

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except (UnicodeDecodeError, CorruptRecordException):
            if not isinstance(self._records, _Records):
                raise
            # What was handed out already lies before `next_fetch_offset` and is skipped; a batch that is really corrupt raises.
            self._records = self._records.again()
            yield from super()._unpack_records()


def install() -> None:
    """Let every consumer of this process read such records. Repeating is harmless."""
    fetcher.PartitionRecords = _PartitionRecords
    fetcher.MemoryRecords = _Records
