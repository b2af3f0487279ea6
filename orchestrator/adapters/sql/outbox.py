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
    # Topics and headers recur within a batch: each is written down once.
    topics: dict[str, bytes] = {}
    headers: dict[tuple[str, bytes], bytes] = {}
    for record in records:
        topic = topics.get(record.topic)
        if topic is None:
            raw = record.topic.encode()
            topic = topics[record.topic] = length(len(raw)) + raw
        key, value = record.key, record.value
        parts += (topic, length(len(key)), key, length(len(value)), value, length(len(record.headers)))
        for header in record.headers:
            packed = headers.get(header)
            if packed is None:
                raw = header[0].encode()
                packed = headers[header] = b"".join((length(len(raw)), raw, length(len(header[1])), header[1]))
            parts.append(packed)
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
