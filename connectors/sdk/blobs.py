"""Exported data for the person: sealed files, never Kafka. A report carries reference, digest, size and expiry.

Layout: `<root>/<expiry date>/<order id>/<n>-<digest>.sealed`. A file is lines of `Sealed` JSON, one for each 60 KiB of
plaintext, bound to order, document name, place and "last or not": no line can be moved, dropped or cut off unnoticed.

Room rules: plaintext never touches the disk; files and folders are readable by their owner only.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from connectors.sdk.protocol import Exported
from schemas.errors import ProtocolViolation
from schemas.ids import digest
from schemas.orders import FulfilmentOrder, order_binding
from schemas.reports import ResultReference
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.vocabulary import QuarantineReason

__all__ = ["BlobStore", "FolderOfBlobs", "open_blob"]

_CHUNK = 60 * 1024


class BlobStore(Protocol):
    """Where exported data waits for the person."""

    def keep(self, order: FulfilmentOrder, key: SealingKey, index: int, exported: Exported, now: datetime) -> ResultReference:
        """Store one document, sealed and durable when this returns; the same document again gives the same reference."""
        ...

    def expire(self, today: date) -> int:
        """Delete what expired before today; return how many days' folders went."""
        ...


class FolderOfBlobs:
    """Blobs in a folder."""

    def __init__(self, root: Path, *, kept_days: int) -> None:
        self._root = root
        self._kept = timedelta(days=kept_days)

    def keep(self, order: FulfilmentOrder, key: SealingKey, index: int, exported: Exported, now: datetime) -> ResultReference:
        """Seal, write, fsync, rename."""
        plaintext = json.dumps({"name": exported.name, "content": exported.content}, ensure_ascii=False, default=str).encode()
        stored = _sealed_lines(plaintext, key, _binding(order.subject_request_id, order.system, order.order_id, index))
        expires_at = now + self._kept
        reference = f"{expires_at.date().isoformat()}/{order.order_id}/{index}-{digest(stored)[:16]}.sealed"
        path = self._root / reference
        for folder in (self._root, path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, stored)
        return ResultReference(reference=reference, sha256=digest(stored), size=len(stored), expires_at=expires_at)

    def expire(self, today: date) -> int:
        """Delete whole days."""
        if not self._root.is_dir():
            return 0
        gone = [folder for folder in self._root.iterdir() if folder.is_dir() and folder.name < today.isoformat()]
        for folder in gone:
            shutil.rmtree(folder)
        return len(gone)


def open_blob(stored: bytes, key: SealingKey, *, subject_request_id: str, system: str, order_id: str, index: int) -> bytes:
    """Return the document's JSON. Raises `ProtocolViolation` if any line is missing, moved, changed or under another key."""
    binding = _binding(subject_request_id, system, order_id, index)
    lines = stored.splitlines()
    try:
        sealed = [Sealed.model_validate_json(line) for line in lines]
    except ValidationError:
        raise ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field="results", remedy="fetch the file again") from None
    return b"".join(
        unsafe_reveal(line, key, associated=_place(binding, number, number == len(sealed) - 1))
        for number, line in enumerate(sealed)
    )


def _binding(subject_request_id: str, system: str, order_id: str, index: int) -> str:
    return f"{order_binding(subject_request_id, system, order_id)}\x1fblob\x1f{index}"


def _place(binding: str, number: int, last: bool) -> str:
    return f"{binding}\x1f{number}\x1f{'last' if last else 'more'}"


def _sealed_lines(plaintext: bytes, key: SealingKey, binding: str) -> bytes:
    starts = range(0, max(1, len(plaintext)), _CHUNK)
    lines = [
        seal(plaintext[start : start + _CHUNK], key, associated=_place(binding, number, number == len(starts) - 1))
        for number, start in enumerate(starts)
    ]
    return b"\n".join(line.model_dump_json().encode() for line in lines) + b"\n"


def _write(path: Path, stored: bytes) -> None:
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(stored)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
