"""Exported data for the person: files sealed to the portal's key, never Kafka. A report refers to them.

A store is a folder (here) or a bucket (`connectors.sdk.s3`); `connectors.sdk.blob_stores` chooses. A folder's layout:
`<root>/<expiry date>/<order id>/<attempt>-<n>.sealed`; `schemas.blobs` says what stands in a file. Nobody here can open one.
A try that is repeated after a crash takes the place of its own files, until its report is written down.

Room rules: plaintext never touches the disk; files and folders are readable by their owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Protocol

from connectors.sdk.durable import sync
from connectors.sdk.protocol import Exported
from schemas.blobs import BlobKey, BlobPlace, seal_blob
from schemas.errors import ConfigurationError, SystemRejected
from schemas.orders import FulfilmentOrder
from schemas.reports import ResultReference
from schemas.vocabulary import FailureReason

__all__ = ["BlobStore", "FolderOfBlobs", "folder_of", "key_of", "sealed_pieces"]

_REFERENCE = re.compile(r"\d{4}-\d{2}-\d{2}/[A-Za-z0-9_-]{1,80}/\d{1,6}-\d{1,6}\.sealed")


class BlobStore(Protocol):
    """Where exported data waits for the person."""

    async def keep(self, order: FulfilmentOrder, index: int, exported: Exported, now: datetime) -> ResultReference:
        """Store one document, sealed to the order's `blob_key` and durable when this returns.

        Raises `SystemRejected(results_key_missing)` for an order without such a key: nothing is ever stored in plain. Raises a
        `ConnectorError` of the store's own, which says nothing of the system.
        """
        ...

    async def read(self, reference: str) -> bytes | None:
        """Return a document as it is stored, None if it is not there (expired, dropped, or never here).

        Raises `ConfigurationError` for a reference that is not of this store: it names nothing else that lies near it.
        """
        ...

    async def expire(self, today: date) -> int:
        """Delete what expired before today; return how many days went."""
        ...

    async def drop(self, order_id: str) -> int:
        """Delete all that is kept for an order, whatever its expiry; return how many documents went."""
        ...

    async def check(self) -> None:
        """Raise `ConfigurationError` or a `ConnectorError` if nothing could be kept here, or not be deleted."""
        ...


def folder_of(state: Path, system: str) -> Path:
    """Return the folder of a system's results, below the connectors' state folder."""
    return state / f"{system}.results"


def key_of(order: FulfilmentOrder) -> BlobKey:
    """Return the key to seal results to. Raises `SystemRejected(results_key_missing)` if the portal has none."""
    if order.blob_key is None:
        raise SystemRejected(
            "the portal has no blob_key in the registry: add it, then retry the order", reason=FailureReason.RESULTS_KEY_MISSING
        )
    return order.blob_key


def sealed_pieces(order: FulfilmentOrder, exported: Exported) -> tuple[str, Iterable[bytes]]:
    """Return the name of the portal's key and one document sealed to it, in pieces."""
    key = key_of(order)
    plaintext = json.dumps({"name": exported.name, "content": exported.content}, ensure_ascii=False, default=str).encode()
    return key.kid, seal_blob([plaintext], key, BlobPlace(order.subject_request_id, order.system, order.order_id))


class FolderOfBlobs:
    """Blobs in a folder: a `BlobStore`."""

    def __init__(self, root: Path, *, kept_days: int) -> None:
        self._root = root
        self._kept = timedelta(days=kept_days)

    async def keep(self, order: FulfilmentOrder, index: int, exported: Exported, now: datetime) -> ResultReference:
        """Seal, write, fsync, rename."""
        kid, pieces = sealed_pieces(order, exported)
        expires_at = now + self._kept
        reference = f"{expires_at.date().isoformat()}/{order.order_id}/{order.attempt}-{index}.sealed"
        path = self._root / reference
        for folder in (self._root, path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sha256, size = _write(path, pieces)
        return ResultReference(reference=reference, sha256=sha256, size=size, expires_at=expires_at, kid=kid)

    async def read(self, reference: str) -> bytes | None:
        """Read the file."""
        if not _REFERENCE.fullmatch(reference):
            raise ConfigurationError("a reference is not of a folder of results: fetch it from the store that it names")
        try:
            return (self._root / reference).read_bytes()
        except FileNotFoundError:
            return None

    async def expire(self, today: date) -> int:
        """Delete whole days."""
        gone = [folder for folder in self._days() if folder.name < today.isoformat()]
        for folder in gone:
            shutil.rmtree(folder)
        return len(gone)

    async def drop(self, order_id: str) -> int:
        """Delete the order's folders."""
        gone = 0
        for folder in (day / order_id for day in self._days()):
            if folder.is_dir():
                gone += sum(1 for _ in folder.glob("*.sealed"))
                shutil.rmtree(folder)
        return gone

    async def check(self) -> None:
        """A folder is made when it is needed."""

    def _days(self) -> Iterator[Path]:
        if self._root.is_dir():
            yield from [folder for folder in self._root.iterdir() if folder.is_dir()]


def _write(path: Path, pieces: Iterable[bytes]) -> tuple[str, int]:
    """Write whole or not at all; return digest and size."""
    partial, sha256, size = path.with_suffix(".partial"), hashlib.sha256(), 0
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
            sha256.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)
    return sha256.hexdigest(), size
