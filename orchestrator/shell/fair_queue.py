"""What was fetched and not begun: a queue per partition, and batches that take from all of them in turns.

Kafka keeps the order of a partition and nothing else, so within a partition nobody overtakes; between partitions nobody needs
to wait. The bound is stated at `FairQueue.take` and holds whatever stands in other partitions: a flood of requests starves no
urgent request, no report and no command, and a flood of urgent ones nobody either.

Room rules: bookkeeping in memory; no record is looked into, nothing is awaited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from orchestrator.ports import Record

__all__ = ["Batch", "FairQueue"]


class Batch:
    """Records of one partition, in order."""

    __slots__ = ("__weakref__", "acked", "offset", "records", "refcount", "size", "tp")

    def __init__(self, tp: Any, records: Sequence[Any]) -> None:
        self.tp = tp
        self.records = records
        self.acked = False
        self.offset = records[0].offset
        self.refcount = 1
        #: Bytes of keys, values and headers.
        self.size = sum(map(_size_of, records))

    @property
    def next_offset(self) -> int:
        """Return the offset to commit when these records are done."""
        return int(self.records[-1].offset) + 1

    def as_records(self) -> Iterator[Record]:
        """Yield the records in the shell's own form."""
        return (Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in self.records)

    def __repr__(self) -> str:
        return f"Batch({self.tp.topic}-{self.tp.partition}, {self.offset}..{self.next_offset - 1})"


def _size_of(record: Any) -> int:
    return len(record.key or b"") + len(record.value or b"") + sum(len(value or b"") for _, value in record.headers)


class FairQueue:
    """Records by partition. The partitions that have some stand in a row, and turns go along it."""

    def __init__(self) -> None:
        self._row: dict[Any, deque[Any]] = {}
        self.records = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._row)

    def add(self, tp: Any, fetched: Sequence[Any]) -> None:
        """Put fetched records of a partition behind those of it that wait."""
        if fetched:
            self._row.setdefault(tp, deque()).extend(fetched)
            self.records += len(fetched)
            self.bytes += sum(map(_size_of, fetched))

    def is_full(self, records: int, size: int) -> bool:
        """Tell whether as many records, or bytes of them, wait: bytes, because one may be a thousand times another."""
        return self.records >= records or self.bytes >= size

    def waits(self, tp: Any) -> bool:
        """Tell whether something of the partition waits here."""
        return tp in self._row

    def take(self, at_most: int) -> list[Batch]:
        """Return the next batch: no more than `at_most` records, and some of every partition that waits.

        Each partition gives an equal share, the first ones what others leave over; if there are more partitions than `at_most`,
        the front of the row gives one record each and moves to its end. So with `P` partitions a record that has `k` others of
        its own partition before it is among the next

            (k // max(1, at_most // P) + 1) * ceil(P / at_most)

        batches: with 16 partitions and 2,000 records a batch, in the very next one for `k` below 125.
        """
        turns = list(islice(self._row, at_most))
        if not turns:
            return []
        share = at_most // len(turns)
        counts = {tp: min(share, len(self._row[tp])) for tp in turns}
        left = at_most - sum(counts.values())
        for tp in turns:
            more = min(left, len(self._row[tp]) - counts[tp])
            counts[tp] += more
            left -= more
        return [self._taken(tp, count) for tp, count in counts.items()]

    def _taken(self, tp: Any, count: int) -> Batch:
        waiting = self._row.pop(tp)
        batch = Batch(tp, [waiting.popleft() for _ in range(count)])
        if waiting:
            self._row[tp] = waiting
        self.records -= count
        self.bytes -= batch.size
        return batch

    def clear(self) -> None:
        """Forget everything."""
        self._row.clear()
        self.records = self.bytes = 0
