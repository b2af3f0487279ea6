"""What log files can do for a data subject: show the person's lines, and lose them once no server writes to the file.

Room rules: decisions only, files live in `client`; every method may be repeated at any point.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.weblogs.client import LogFile, LogFolders
from connectors.systems.weblogs.columns import COMBINED, Columns, Line, Wanted
from connectors.systems.weblogs.scrub import EraseBy, scrubbed
from schemas.errors import SystemRejected
from schemas.outcomes import Accepted, Fulfilled, NotApplicable, NothingHeld, Retained
from schemas.sealed import SealingKey
from schemas.vocabulary import IdentifierKind, NotApplicableReason, RetentionGround, Right

__all__ = ["WebLogsConnector", "WebLogsSettings", "build"]

_NOTHING_TO_FIND_BY = Result(NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING))


class WebLogsSettings(ConnectorSettings):
    """Where the logs lie, what stands in them, and how long they must be kept: `DSR_WEBLOGS_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_WEBLOGS_")

    folders: Annotated[tuple[Path, ...], Field(min_length=1, description="Folders with logs, as a JSON list")]
    live: Annotated[tuple[str, ...], Field(description="Names of the files a server writes to, as shell patterns")] = ("*.log",)
    rotated: Annotated[tuple[str, ...], Field(description="Names of rotated files, compressed or not")] = ("*.log[.-]*",)
    columns: Annotated[
        tuple[str, ...],
        Field(description="Columns in their order; a person is found by ip_address, cookie_id and account_id among them"),
    ] = COMBINED
    time_format: Annotated[str, Field(description="How `time` is written, for strptime")] = "%d/%b/%Y:%H:%M:%S %z"
    ip_address_suffices: Annotated[
        bool, Field(description="False where many share an address: then an address alone finds nobody (GDPR Art. 11)")
    ] = True
    erase_by: Annotated[EraseBy, Field(description="What erasure does to a line")] = EraseBy.REMOVE
    key: Annotated[SecretStr | None, Field(description="Base64 of 32 bytes, for erase_by hash")] = None
    quiet_seconds: Annotated[
        int, Field(ge=0, description="A rotated file counts as live until nobody wrote to it for so long")
    ] = 3600
    rotated_within_hours: Annotated[int, Field(ge=1, description="The live file is rotated at the latest after so long")] = 24
    lock_file: Annotated[Path | None, Field(description="File that the rotation locks, for instance logrotate's state")] = None
    kept_days: Annotated[int, Field(ge=0, description="Lines younger than this are kept, for the security of the site")] = 0
    kept_ground: Annotated[RetentionGround | None, Field(description="In law, why; needed with kept_days")] = None
    kept_detail: Annotated[str, Field(max_length=120, description="The rule, by its short name")] = ""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kept_days and self.kept_ground is None:
            raise ValueError("KEPT_DAYS needs KEPT_GROUND: ask the privacy office for the ground in law")
        if (self.erase_by is EraseBy.HASH) and self.key is None:
            raise ValueError("ERASE_BY=hash needs KEY: make one with `openssl rand -base64 32`")
        return self


@dataclass(slots=True)
class _Sweep:
    """What one run over all files found of a person."""

    #: Taken out of rotated files.
    erased: int = 0
    #: Waiting in a live file.
    pending: int = 0
    #: In a live file, written after the order came.
    newer: int = 0
    kept: int = 0
    kept_newest_at: datetime | None = None
    other_names: bool = False
    by: Counter[IdentifierKind] | None = None


class WebLogsConnector:
    """The logs of one site."""

    name: ClassVar[str] = "weblogs"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.ERASURE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(
        {IdentifierKind.IP_ADDRESS, IdentifierKind.COOKIE_ID, IdentifierKind.ACCOUNT_ID}
    )
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: WebLogsSettings) -> None:
        self._settings = settings
        self._columns = Columns(settings.columns, settings.time_format)
        self._key = None if settings.key is None else SealingKey.from_base64("weblogs", settings.key.get_secret_value())
        self._logs = LogFolders(
            settings.folders,
            live=settings.live,
            rotated=settings.rotated,
            quiet=timedelta(seconds=settings.quiet_seconds),
            lock_file=settings.lock_file,
        )
        # One order at a time: each reads and may rewrite every file.
        self.throttle = Throttle(concurrent=1)

    async def check(self) -> str:
        """Read the first line of each file: proves the right to read, and the columns; the right to replace shows when used."""
        return await asyncio.to_thread(self._checked)

    def _checked(self) -> str:
        files = self._logs.files()
        first = [next(iter(self._logs.lines(file)), "") for file in files]
        unread = sum(1 for text in first if text.strip() and self._columns.parse(text) is None)
        return f"{len(files)} log files readable" + (f"; in {unread} the first line has other columns" if unread else "")

    async def aclose(self) -> None:
        """Nothing stays open."""

    async def access(self, job: Job) -> Result:
        """Export the person's lines of all files, live ones too; identifiers and addresses of others are left out."""
        wanted = Wanted(job.identifiers, self._columns)
        if not self._can_find(wanted):
            return _NOTHING_TO_FIND_BY
        lines, by = await asyncio.to_thread(self._read, wanted, job.now)
        if not lines:
            return Result(NothingHeld())
        return Result(Fulfilled(count=len(lines)), exports=(Exported("lines", lines),), notes=_notes(by))

    async def erase(self, job: Job) -> Result:
        """Take the person's lines out of the rotated files; `Accepted` while older ones wait in a file a server writes to."""
        wanted = Wanted(job.identifiers, self._columns)
        if not self._can_find(wanted):
            return _NOTHING_TO_FIND_BY
        expected_by = job.now + timedelta(hours=self._settings.rotated_within_hours, seconds=self._settings.quiet_seconds)
        return await self._sweep(wanted, job, ordered_at=job.now, erased_before=0, expected_by=expected_by)

    async def poll(self, job: Job, handle: str) -> Result:
        """Sweep again: by now the live file may have been rotated. The date promised first stays."""
        ordered, erased, expected = handle.split("|")
        return await self._sweep(
            Wanted(job.identifiers, self._columns),
            job,
            ordered_at=datetime.fromisoformat(ordered),
            erased_before=int(erased),
            expected_by=datetime.fromisoformat(expected),
        )

    def _can_find(self, wanted: Wanted) -> bool:
        kinds = wanted.kinds if self._settings.ip_address_suffices else wanted.kinds - {IdentifierKind.IP_ADDRESS}
        return bool(kinds)

    def _read(self, wanted: Wanted, now: datetime) -> tuple[list[Any], Counter[IdentifierKind]]:
        lines: list[Any] = []
        by: Counter[IdentifierKind] = Counter()
        for file in self._logs.files(now):
            for line, kind in self._theirs(file, wanted):
                by[kind] += 1
                lines.append({"file": file.path.name, **wanted.shown(line, kind)})
        return lines, by

    def _theirs(self, file: LogFile, wanted: Wanted) -> list[tuple[Line, IdentifierKind]]:
        """Return the person's lines of a file. Raises `SystemRejected` where the columns do not fit: nothing is overlooked."""
        found: list[tuple[Line, IdentifierKind]] = []
        fitting = others = 0
        for text in self._logs.lines(file):
            line = self._columns.parse(text)
            if line is None:
                others += bool(text.strip())
                if wanted.stands_in(text):
                    raise SystemRejected("weblogs: a line that concerns the person has other columns: see DSR_WEBLOGS_COLUMNS")
                continue
            fitting += 1
            kind = wanted.found_by(line)
            if kind is not None and (kind is not IdentifierKind.IP_ADDRESS or self._settings.ip_address_suffices):
                found.append((line, kind))
        if others and not fitting:
            raise SystemRejected("weblogs: no line of a file fits DSR_WEBLOGS_COLUMNS and DSR_WEBLOGS_TIME_FORMAT")
        return found

    async def _sweep(
        self, wanted: Wanted, job: Job, *, ordered_at: datetime, erased_before: int, expected_by: datetime
    ) -> Result:
        sweep = await asyncio.to_thread(self._swept, wanted, job.now, ordered_at)
        erased = erased_before + sweep.erased
        notes = _notes(sweep.by or Counter()) + (("other_names_of_files_by_hand",) if sweep.other_names else ())
        if sweep.erased and self._settings.erase_by is not EraseBy.REMOVE:
            notes += (f"lines_kept_by_{self._settings.erase_by.value}",)
        if sweep.pending:
            handle = f"{ordered_at.isoformat()}|{erased}|{expected_by.isoformat()}"
            return Result(Accepted(expected_by=expected_by), handle=handle, notes=notes)
        if sweep.newer:
            notes += ("lines_after_the_order_stay",)
        if sweep.kept:
            ground = self._settings.kept_ground
            assert ground is not None, "the settings ask for a ground"
            until = self._kept_until(sweep.kept_newest_at)
            detail = self._settings.kept_detail
            return Result(Retained(ground=ground, until=until, count=sweep.kept, fulfilled=erased, detail=detail), notes=notes)
        return Result(Fulfilled(count=erased) if erased else NothingHeld(), notes=notes)

    def _kept_until(self, newest_at: datetime | None) -> date | None:
        """Return the first day on which every kept line is old enough."""
        return None if newest_at is None else (newest_at + timedelta(days=self._settings.kept_days)).date() + timedelta(days=1)

    def _swept(self, wanted: Wanted, now: datetime, ordered_at: datetime) -> _Sweep:
        sweep = _Sweep(by=Counter())
        keep_after = now - timedelta(days=self._settings.kept_days)
        with self._logs.locked():
            for file in self._logs.files(now):
                theirs = self._theirs(file, wanted)
                old = sum(1 for line, _ in theirs if not self._is_kept(line, keep_after))
                for line, kind in theirs:
                    assert sweep.by is not None
                    sweep.by[kind] += 1
                    if self._is_kept(line, keep_after):
                        sweep.kept += 1
                        sweep.kept_newest_at = max(line.at, sweep.kept_newest_at or line.at)
                    elif file.is_live:
                        sweep.pending += line.at <= ordered_at
                        sweep.newer += line.at > ordered_at
                if old and not file.is_live:
                    self._logs.rewrite(file, lambda text: self._rewritten(text, wanted, keep_after))
                    sweep.erased += old
                    sweep.other_names |= file.has_other_names
        return sweep

    def _is_kept(self, line: Line, keep_after: datetime) -> bool:
        return self._settings.kept_days > 0 and line.at > keep_after

    def _rewritten(self, text: str, wanted: Wanted, keep_after: datetime) -> str | None:
        line = self._columns.parse(text)
        if line is None or self._is_kept(line, keep_after):
            return text
        kind = wanted.found_by(line)
        if kind is None or (kind is IdentifierKind.IP_ADDRESS and not self._settings.ip_address_suffices):
            return text
        return scrubbed(line, self._settings.erase_by, self._key)


def _notes(by: Counter[IdentifierKind]) -> tuple[str, ...]:
    return ("found_by_ip_address_alone",) if by[IdentifierKind.IP_ADDRESS] else ()


def build(settings: WebLogsSettings | None = None) -> WebLogsConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return WebLogsConnector(settings or read(WebLogsSettings))
