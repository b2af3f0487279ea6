"""Journals, rewritings of them, and receipts for the tests of checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator.audit.records import Extent, LogRecord, Place, Span
from schemas import checkpoints
from schemas.checkpoints import (
    PartitionTree,
    PartitionWalk,
    open_checkpoint,
)
from schemas.growing_tree import leaf_of_digest
from schemas.receipts import receipt_of
from schemas.signatures import root_of, sign_records, signature_in
from schemas.topics import CONFIRMATIONS, JOURNAL
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.wire import TYPE_HEADER

__all__ = [
    "AT",
    "KEY",
    "LATER",
    "REWRITINGS",
    "TRUST",
    "JournalLog",
    "Values",
    "altered",
    "changed",
    "exchanged",
    "inserted",
    "naive_root",
    "receipt_for",
    "removed",
    "removed_and_moved_up",
    "said_again",
    "values_of",
    "walked",
]

GENUINE = Path(__file__).parents[1] / "receipts" / "genuine.json"
KEY = SigningKey.new(ORCHESTRATOR)
TRUST = Trust.of(KEY)
AT = datetime(2027, 3, 5, tzinfo=UTC)
LATER = AT + timedelta(days=1)
#: One partition: (offset, value) in order.
Values = list[tuple[int, bytes]]


def values_of(size: int, *, start: int = 0) -> Values:
    """Return records of which every third was published twice, with a gap in the offsets after every seventh."""
    return [(number + number // 7, b"entry %d" % (number - (number % 3 == 1))) for number in range(start, size)]


class JournalLog:
    """Partitions of the journal as a log."""

    def __init__(self, partitions: dict[int, Values], begins: dict[int, int] | None = None) -> None:
        self._partitions, self._begins = partitions, begins or {}

    async def extent(self) -> Extent:
        """Return every partition from where it begins, and one of another topic."""
        return {
            (JOURNAL, number): Span(self._begins.get(number, 0), values[-1][0] + 1 if values else 0)
            for number, values in self._partitions.items()
        } | {("dsr.status.v1", 0): Span(0, 1)}

    async def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        """Yield what lies within the extent, and a record of another topic."""
        yield LogRecord(Place("dsr.status.v1", 0, 0), 0, b"", b"another topic's")
        for number, values in self._partitions.items():
            for offset, value in values:
                if extent[JOURNAL, number].beginning <= offset < extent[JOURNAL, number].end:
                    yield LogRecord(Place(JOURNAL, number, offset), 0, b"", value)


def walked(values: Values, last: PartitionTree | None = None, *, begin: int = 0, watch: bytes | None = None) -> PartitionWalk:
    """Return the walk over what a partition still has from `begin` on, every record taken."""
    walk = PartitionWalk(3, begin, values[-1][0] + 1 if values else 0, last, watch)
    for offset, value in values:
        if offset >= begin:
            walk.take(offset, value)
    return walk


def naive_root(values: Values) -> str:
    """Return the root over all records, made at once."""
    return root_of([leaf_of_digest(hashlib.sha256(value).digest()) for _offset, value in values]).hex()


def receipt_for(closing: bytes, key: SigningKey = KEY) -> bytes:
    """Return the receipt of a confirmation whose journal ends with this entry."""
    genuine = json.loads(GENUINE.read_bytes())
    confirmation = json.loads(genuine["value"]) | {"journal_head": hashlib.sha256(closing).hexdigest()}
    value, of = json.dumps(confirmation).encode(), genuine["key"].encode()
    headers = sign_records([(CONFIRMATIONS, of, value, [(TYPE_HEADER, b"Confirmation")])], key)[0]
    return receipt_of(of, value, signature_in(headers) or b"")


def changed(values: Values, at: int) -> Values:
    """Replace one's value."""
    return [*values[:at], (values[at][0], b"something else"), *values[at + 1 :]]


def removed(values: Values, at: int) -> Values:
    """Take one out; the others keep their offsets."""
    return values[:at] + values[at + 1 :]


def removed_and_moved_up(values: Values, at: int) -> Values:
    """Take one out; those behind it move up."""
    offsets = [offset for offset, _value in values[:-1]]
    return list(zip(offsets, [value for number, (_offset, value) in enumerate(values) if number != at], strict=True))


def exchanged(values: Values, at: int) -> Values:
    """Exchange the values of two."""
    other = at - 2 if at > 1 else at + 2
    swapped = [value for _offset, value in values]
    swapped[at], swapped[other] = swapped[other], swapped[at]
    return [(offset, value) for (offset, _value), value in zip(values, swapped, strict=True)]


def inserted(values: Values, at: int) -> Values:
    """Put one in; those behind it move down."""
    moved = [(offset + 1, value) for offset, value in values[at:]]
    return [*values[:at], (values[at][0], b"never said"), *moved]


REWRITINGS: list[Callable[[Values, int], Values]] = [changed, removed, removed_and_moved_up, exchanged, inserted]


def said_again(data: bytes, key: SigningKey = KEY, typ: str = checkpoints.CHECKPOINT_TYP, **changes: Any) -> bytes:
    """Return the checkpoint with other words, signed anew."""
    said = json.loads(open_checkpoint(data, TRUST).model_dump_json())
    for name, value in changes.items():
        (said["partitions"][0] if name in said["partitions"][0] else said)[name] = value
    signed = key.sign(json.dumps(said).encode(), typ=typ)
    return json.dumps({"format": "dsr-checkpoint", "version": 1, "signed": signed}).encode()


def altered(data: bytes, **changes: Any) -> bytes:
    """Return a JSON file with other members."""
    return json.dumps(json.loads(data) | changes).encode()
