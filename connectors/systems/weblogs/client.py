"""The folders of logs: which files there are, reading them, and rewriting those that no server writes to any more.

Room rules: no decision about whose line it is; blocking calls only, the connector takes them off the event loop; nothing of a
line in an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, cast

from connectors.sdk.durable import sync
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable

__all__ = ["LogFile", "LogFolders"]

_GZIP = b"\x1f\x8b"
_PASSING = ".dsr-rewriting"
#: Takes a line as text; returns what is written instead, None for nothing.
Rewrite = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file as it was seen in its folder."""

    path: Path = field(repr=False)
    #: A server may write to it, now or until it notices that the file was rotated: never rewritten.
    is_live: bool
    #: Other names point at the same bytes: they keep what is taken out here.
    has_other_names: bool
    seen: tuple[int, int, int, int] = field(repr=False)


class LogFolders:
    """Folders with live and rotated logs. A file that is no plain file, or whose name fits neither pattern, is passed over."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        live: Sequence[str],
        rotated: Sequence[str],
        quiet: timedelta,
        lock_file: Path | None,
    ) -> None:
        self._folders = folders
        self._live = live
        self._rotated = rotated
        self._quiet = quiet
        self._lock_file = lock_file

    def files(self, now: datetime | None = None) -> list[LogFile]:
        """Return the logs of all folders, by name; without a moment every file counts as live.

        Raises `ConfigurationError` if a folder cannot be read.
        """
        found: list[LogFile] = []
        for folder in self._folders:
            try:
                entries = sorted(folder.iterdir())
            except OSError:
                raise ConfigurationError("DSR_WEBLOGS_FOLDERS: a folder is missing or may not be read") from None
            found += [file for path in entries if (file := self._file(path, now)) is not None]
        return found

    def _file(self, path: Path, now: datetime | None) -> LogFile | None:
        is_live = any(fnmatchcase(path.name, pattern) for pattern in self._live)
        is_rotated = any(fnmatchcase(path.name, pattern) for pattern in self._rotated)
        if path.name.startswith(".") or not (is_live or is_rotated):
            return None
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        changed_at = datetime.fromtimestamp(status.st_mtime, UTC)
        is_quiet = now is not None and now - changed_at >= self._quiet
        return LogFile(path, is_live or not is_quiet, status.st_nlink > 1, _identity(status))

    def lines(self, file: LogFile) -> Iterator[str]:
        """Yield a file's lines, each with its end; bytes that are no UTF-8 come back unharmed when written again.

        Raises `SystemUnavailable` if the file was moved meanwhile, `SystemRejected` if its compression is broken.
        """
        with _reading(), file.path.open("rb") as raw, _unpacked(raw) as lines:
            for line in lines:
                yield line.decode(errors="surrogateescape")

    def rewrite(self, file: LogFile, change: Rewrite) -> None:
        """Put a changed copy in a rotated file's place, whole and durable, or raise and leave it as it was.

        1. Copy the changed lines to a hidden file beside it, compressed as the original is.
        2. Give the copy the original's owner, mode, times and attributes: a rotation that counts by age goes on counting.
        3. Flush it to the disk.
        4. Look again: if the original was touched or moved meanwhile, stop with `SystemUnavailable`.
        5. Rename the copy over it, and flush the folder.

        Between 4 and 5 a rotation could still move the file: hold its lock (`locked`), or name rotated files by date.
        """
        assert not file.is_live, "a file that a server may write to is never rewritten"
        passing = file.path.with_name(f".{file.path.name}{_PASSING}")
        with _reading(), contextlib.ExitStack() as stack:
            raw = stack.enter_context(file.path.open("rb"))
            if _identity(os.fstat(raw.fileno())) != file.seen:
                raise SystemUnavailable("weblogs: a log was rotated or written while it was read: try again")
            stack.callback(passing.unlink, missing_ok=True)
            self._copy(raw, passing, change)
            self._dress(passing, os.fstat(raw.fileno()), file.path)
            if _identity(file.path.lstat()) != file.seen:
                raise SystemUnavailable("weblogs: a log was rotated or written while it was rewritten: try again")
            passing.replace(file.path)
            sync(file.path.parent)

    def _copy(self, raw: IO[bytes], passing: Path, change: Rewrite) -> None:
        descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            packed = _is_packed(raw)
            with _unpacked(raw) as lines, _packed(target, int(os.fstat(raw.fileno()).st_mtime), is_packed=packed) as out:
                for line in lines:
                    changed = change(line.decode(errors="surrogateescape"))
                    if changed is not None:
                        out.write(changed.encode(errors="surrogateescape"))
            target.flush()
            os.fsync(target.fileno())

    @staticmethod
    def _dress(passing: Path, original: os.stat_result, path: Path) -> None:
        own = passing.stat()
        if (own.st_uid, own.st_gid) != (original.st_uid, original.st_gid):
            os.chown(passing, original.st_uid, original.st_gid)
        shutil.copystat(path, passing)
        sync(passing)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the rotation and other runs of this connector out; clear away what a dead one left half written.

        Raises `SystemUnavailable` if one of them is at work.
        """
        with contextlib.ExitStack() as stack, _reading():
            for path in (*self._folders, *([self._lock_file] if self._lock_file else [])):
                descriptor = os.open(path, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise SystemUnavailable("weblogs: a rotation or another run is at work on the logs") from None
            for folder in self._folders:
                for leftover in folder.glob(f".*{_PASSING}"):
                    leftover.unlink(missing_ok=True)
            yield


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _is_packed(raw: IO[bytes]) -> bool:
    is_packed = raw.read(2) == _GZIP
    raw.seek(0)
    return is_packed


@contextlib.contextmanager
def _unpacked(raw: IO[bytes]) -> Iterator[Iterable[bytes]]:
    if _is_packed(raw):
        with gzip.GzipFile(fileobj=raw, mode="rb") as lines:
            yield lines
    else:
        yield raw


@contextlib.contextmanager
def _packed(target: IO[bytes], changed_at: int, *, is_packed: bool) -> Iterator[IO[bytes]]:
    if is_packed:
        # No name in the header: gzip's own would be that of the passing file.
        with gzip.GzipFile(filename="", fileobj=target, mode="wb", mtime=changed_at) as out:
            yield cast("IO[bytes]", out)
    else:
        yield target


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turn what the file system says into what the runtime should do about it; no path is named."""
    try:
        yield
    except FileNotFoundError:
        raise SystemUnavailable("weblogs: a log was rotated away: try again") from None
    except PermissionError:
        raise CredentialsRefused("weblogs: a log may not be read or replaced: change its group or mode") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise SystemRejected("weblogs: a compressed log is damaged: repair or remove it") from None
    except OSError:
        raise SystemUnavailable("weblogs: a log cannot be read or written: check the disk and its space") from None
