"""The bytes of an outbox batch: length-prefixed, so that a save writes one blob instead of a row per record.

Room rules: two functions, each other's inverse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from orchestrator.ports import OutRecord

__all__ = ["pack", "unpack"]

_LENGTH = struct.Struct(">I")


def pack(records: Iterable[OutRecord]) -> bytes:
    """Return the records as bytes."""
    parts: list[bytes] = []
    length = _LENGTH.pack
    for record in records:
        topic = record.topic.encode()
        parts += (length(len(topic)), topic, length(len(record.key)), record.key, length(len(record.value)), record.value)
        parts.append(length(len(record.headers)))
        for name, value in record.headers:
            raw = name.encode()
            parts += (length(len(raw)), raw, length(len(value)), value)
    return b"".join(parts)


def unpack(data: bytes) -> tuple[OutRecord, ...]:
    """Return the records that `pack` wrote. Raises `ValueError` for a truncated blob."""
    records: list[OutRecord] = []
    position = 0

    def number() -> int:
        nonlocal position
        try:
            (value,) = _LENGTH.unpack_from(data, position)
        except struct.error:
            raise ValueError("outbox blob ends in the middle of a length") from None
        position += 4
        return int(value)

    def chunk() -> bytes:
        nonlocal position
        size = number()
        piece = data[position : position + size]
        if len(piece) != size:
            raise ValueError("outbox blob ends in the middle of a field")
        position += size
        return piece

    while position < len(data):
        topic, key, value = chunk().decode(), chunk(), chunk()
        headers = [(chunk().decode(), chunk()) for _ in range(number())]
        records.append(OutRecord(topic, key, value, headers))
    return tuple(records)
