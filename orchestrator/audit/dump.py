"""A log in a file: JSON lines, bytes in base64, compressed if the name ends in `.gz`.

The first line says what was captured, the last one how many records there must be, so that half a file is noticed. Identities
in it are sealed as they were on the broker; quarantined bytes are whatever came in, so the file is its owner's alone to read.

Room rules: the two directions of one format; no record is judged here.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from orchestrator.audit.records import Extent, Log, LogRecord, Place, Span
from schemas.errors import ConfigurationError

__all__ = ["DumpLog", "write_dump"]

_FORMAT = "dsr-dump"


async def write_dump(
    log: Log, path: Path, *, prefix: str, captured_at: datetime, progress: Callable[[int], None] = lambda _count: None
) -> int:
    """Write the whole log to the file and return the number of records; the file appears when it is complete.

    It takes the place of a file of that name, but of nothing else: a device would be gone for every program.
    Raises `ConfigurationError` if the file cannot be written.
    """
    _may_replace(path)
    extent = await log.extent()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with _writing(partial, compressed=path.suffix == ".gz") as file:
            header = {"format": _FORMAT, "version": 1, "prefix": prefix, "captured_at": captured_at.isoformat()}
            spans = [[topic, number, *span] for (topic, number), span in sorted(extent.items())]
            _line(file, {**header, "extent": spans})
            async for record in log.read(extent):
                _line(file, _packed(record))
                count += 1
                progress(count)
            _line(file, {"records": count})
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}): name another file") from None
    finally:
        partial.unlink(missing_ok=True)
    return count


def _may_replace(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path} is no file, and would be replaced by one: name another")


@contextlib.contextmanager
def _writing(path: Path, *, compressed: bool) -> Iterator[IO[bytes]]:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:  # noqa: PTH123 - only its owner may read
        if not compressed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6) as file:
            yield cast("IO[bytes]", file)


def _line(file: IO[bytes], document: dict[str, Any]) -> None:
    file.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")


def _packed(record: LogRecord) -> dict[str, Any]:
    return {
        "at": list(record.place),
        "ms": record.timestamp_ms,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(value)] for name, value in record.headers],
    }


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


class DumpLog:
    """Reads a file that `write_dump` wrote. Raises `ConfigurationError` where it is not that, naming the line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._lines() as lines:
            header = self._parsed(1, next(lines, b""))
        try:
            if (header["format"], header["version"]) != (_FORMAT, 1):
                raise self._wrong(1)
            self.prefix = str(header["prefix"])
            self.captured_at = datetime.fromisoformat(header["captured_at"])
            self._extent = {(topic, number): Span(begin, end) for topic, number, begin, end in header["extent"]}
        except (KeyError, TypeError, ValueError):
            raise self._wrong(1) from None

    async def extent(self) -> Extent:
        """Return what was captured."""
        return self._extent

    async def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        """Yield the records in the order in which they were written."""
        del extent  # it is this file's own
        count, said = 0, None
        with self._lines() as lines:
            next(lines, None)
            for number, line in enumerate(lines, start=2):
                document = self._parsed(number, line)
                if "records" in document:
                    said = document["records"]
                    continue
                yield self._record(number, document)
                count += 1
        if said != count:
            raise ConfigurationError(f"{self._path}: holds {count} records and not all it should: dump it again")

    def _record(self, number: int, document: dict[str, Any]) -> LogRecord:
        try:
            headers = tuple((str(name), _bytes(value) or b"") for name, value in document["headers"])
            place = Place(*document["at"])
            return LogRecord(place, document["ms"], _bytes(document["key"]), _bytes(document["value"]), headers)
        except (KeyError, TypeError, ValueError):
            raise self._wrong(number) from None

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            raise self._wrong(number) from None
        if not isinstance(document, dict):
            raise self._wrong(number)
        return document

    def _wrong(self, number: int) -> ConfigurationError:
        return ConfigurationError(f"{self._path}: line {number} is not of a file that `dsr dump` wrote: dump it again")

    @contextlib.contextmanager
    def _lines(self) -> Iterator[Iterator[bytes]]:
        opened = gzip.open if self._path.suffix == ".gz" else open
        try:
            with opened(self._path, "rb") as file:
                yield iter(file)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise ConfigurationError(f"{self._path}: is damaged or cut off: dump it again") from None
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be read ({error.strerror}): name a file of `dsr dump`") from None
