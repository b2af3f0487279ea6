"""The company's own databases: what each right means for the rows of one person.

Room rules: decides on rows that the client found; every method is one transaction, and repeating it is harmless.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.amending import is_as_named
from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.work import remember, take_turn
from connectors.systems.accounts.client import AccountsClient, Found, Row
from connectors.systems.accounts.tablemap import TableMap, load_table_map
from connectors.systems.accounts.values import Unfit, as_json, as_text, as_value
from schemas.errors import SystemRejected
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Retained
from schemas.sealed import SealingKey
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, NotApplicableReason, Right

__all__ = ["AccountsConnector", "AccountsSettings", "build"]

T = TypeVar("T")


class AccountsSettings(ConnectorSettings):
    """Settings, from the environment (`DSR_ACCOUNTS_...`)."""

    model_config = SettingsConfigDict(env_prefix="DSR_ACCOUNTS_")

    url: Annotated[SecretStr, Field(description="SQLAlchemy URL with its driver, for instance postgresql+psycopg://...")]
    table_map: Annotated[Path, Field(description="Path of the table map, YAML")]
    pseudonym_key: Annotated[SecretStr | None, Field(description="32 bytes in base64; needed where the map hashes")] = None
    statement_timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    concurrent: Annotated[int, Field(ge=1, le=32, description="Transactions at once")] = 4


class AccountsConnector:
    """One SQL database by its declared table map."""

    name: ClassVar[str] = "accounts"
    rights: ClassVar[frozenset[Right]] = frozenset(Right)
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(IdentifierKind)
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset(IdentifierKind)

    def __init__(self, client: AccountsClient, *, concurrent: int = 4) -> None:
        self._client = client
        self._map: TableMap = client.map
        # One class serves every map: what it searches by and yields is known per instance, and narrower.
        self.needs = self._map.kinds  # type: ignore[misc] # narrows the class's value for this instance
        self.yields = self._map.yielded_kinds  # type: ignore[misc] # likewise
        self.throttle = Throttle(concurrent=concurrent)

    async def check(self) -> str:
        """Return one line on the database; raises where it cannot be reached or does not fit the map."""
        return await asyncio.to_thread(self._client.check)

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: nothing here runs on after a call has returned, so no handle was ever given."""
        del job, handle
        raise SystemRejected("poll: this connector gives no handles")

    async def aclose(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._client.close)

    async def access(self, job: Job) -> Result:
        """Return the columns listed under `export` of every row (GDPR Art. 15). Kept rows of an erased person show up too."""
        return await self._in_thread(job, partial(self._read, columns="export"), lock=False)

    async def export(self, job: Job) -> Result:
        """Return the columns listed under `portable`: what the person provided (GDPR Art. 20)."""
        return await self._in_thread(job, partial(self._read, columns="portable"), lock=False)

    async def rectify(self, job: Job) -> Result:
        """Overwrite the mapped columns (GDPR Art. 16). Raises `SystemRejected` if one row differs from `old_sha256`."""
        result = await self._in_thread(job, partial(self._write, job=job, only_empty=False))
        if isinstance(result.outcome, NothingHeld):
            return await self._rectified_before(job) or result
        return result

    async def complete(self, job: Job) -> Result:
        """Fill mapped columns that are empty (GDPR Art. 16). Raises `SystemRejected` if one row holds another value."""
        return await self._in_thread(job, partial(self._write, job=job, only_empty=True))

    async def restrict(self, job: Job) -> Result:
        """Set the flags under `restriction` (GDPR Art. 18). That readers of the table honour them is not implied."""
        return await self._in_thread(job, partial(self._flag, right=Right.RESTRICTION))

    async def object(self, job: Job) -> Result:
        """Set the flags under `objection` (GDPR Art. 21(3))."""
        return await self._in_thread(job, partial(self._flag, right=Right.OBJECTION))

    async def unsubscribe(self, job: Job) -> Result:
        """Set the flags under `unsubscribe`."""
        return await self._in_thread(job, partial(self._flag, right=Right.UNSUBSCRIBE))

    async def erase(self, job: Job) -> Result:
        """Delete or overwrite every row that no rule keeps (GDPR Art. 17), children before their parents.

        Backups and read replicas outside this transaction are not touched. The ids that other systems need are remembered
        before anything is deleted.
        """
        await remember(await self._in_thread(job, self._yielded, lock=False))
        return await self._in_thread(job, partial(self._erase, today=job.now.date()))

    async def _in_thread(self, job: Job, work: Callable[[Found], T], *, lock: bool = True) -> T:
        await take_turn()
        return await asyncio.to_thread(self._in_transaction, job, work, lock=lock)

    def _in_transaction(self, job: Job, work: Callable[[Found], T], *, lock: bool) -> T:
        with self._client.find(job.identifiers, lock=lock) as found:
            return work(found)

    def _yielded(self, found: Found) -> Mapping[IdentifierKind, tuple[str, ...]]:
        values: dict[IdentifierKind, set[str]] = {}
        for name, rows in found.rows.items():
            for kind, column in self._map.tables[name].yields.items():
                values.setdefault(kind, set()).update(text for row in rows if (text := as_text(row.values[column])))
        return {kind: tuple(sorted(texts)) for kind, texts in values.items() if texts}

    def _read(self, found: Found, *, columns: str) -> Result:
        if not len(found):
            return Result(NothingHeld())
        exports: list[Exported] = []
        count = 0
        for name in self._map.tables:
            wanted: tuple[str, ...] = getattr(self._map.tables[name], columns)
            rows = found.rows[name]
            if rows and wanted:
                count += len(rows)
                exports.append(Exported(name, [{column: as_json(row.values[column]) for column in wanted} for row in rows]))
        if not exports:
            return Result(NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED), notes=("no_column_listed",))
        return Result(Fulfilled(count=count), yielded=self._yielded(found), exports=tuple(exports))

    def _flag(self, found: Found, *, right: Right) -> Result:
        if not any(table.flags(right) for table in self._map.tables.values()):
            return Result(NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED), notes=("no_flag_mapped",))
        count = 0
        for name, rows in found.rows.items():
            flags = self._map.tables[name].flags(right)
            if flags:
                count += len(rows)
                self._client.change(found, name, [(row, _differing(row, flags)) for row in rows])
        if not count:
            return Result(NothingHeld())
        return Result(Fulfilled(count=count), yielded=self._yielded(found))

    def _write(self, found: Found, *, job: Job, only_empty: bool) -> Result:
        fields = {name for table in self._map.tables.values() for name in table.rectify}
        mapped = tuple(change for change in job.changes if change.field in fields)
        if not mapped:
            return Result(NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED), notes=("no_field_mapped",))
        notes = ("field_not_mapped",) if len(mapped) < len(job.changes) else ()
        count = 0
        for name in found.rows:
            columns = self._map.tables[name].rectify
            here = [change for change in mapped if change.field in columns]
            # A row that an erasure overwrote and had to keep stays as it is: nothing is written back into it.
            rows = [row for row in found.rows[name] if not self._client.is_overwritten(row)]
            if here:
                count += len(rows)
                self._client.change(found, name, [(row, self._new_values(row, here, only_empty=only_empty)) for row in rows])
        if not count:
            return Result(NothingHeld(), notes=notes)
        return Result(Fulfilled(count=count), yielded=self._yielded(found), notes=notes)

    async def _rectified_before(self, job: Job) -> Result | None:
        """Look whether this very job has been done and its report was lost: then the person is known by the new value only."""
        fields = {change.field: change.new.strip() for change in job.changes}
        moved = {
            identify.kind: (fields[name],)
            for table in self._map.tables.values()
            for name, column in table.rectify.items()
            for identify in table.person
            if identify.column == column and fields.get(name)
        }
        if not moved:
            return None
        return await self._in_thread(replace(job, identifiers=moved), partial(self._as_asked, job=job), lock=False)

    def _as_asked(self, found: Found, *, job: Job) -> Result | None:
        count = 0
        for name, rows in found.rows.items():
            columns = self._map.tables[name].rectify
            pairs = [(columns[change.field], change.new.strip()) for change in job.changes if change.field in columns]
            if pairs:
                count += len(rows)
                if any(as_text(row.values[column]) != new for row in rows for column, new in pairs):
                    return None
        return Result(Fulfilled(count=count), yielded=self._yielded(found), notes=("rectified_before",)) if count else None

    def _new_values(self, row: Row, changes: Iterable[FieldChange], *, only_empty: bool) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for change in changes:
            column = self._map.tables[row.table].rectify[change.field]
            place = f"{row.table}.{column}"
            try:
                new = as_value(self._client.column(row.table, column), change.new.strip())
            except Unfit:
                raise SystemRejected(f"{place}: value_unfit: the new value does not fit the column's type or length") from None
            current = as_text(row.values[column])
            if current == as_text(new):
                continue
            if only_empty and current:
                raise SystemRejected(f"{place}: already_filled: holds another value: ask for rectification instead")
            if not is_as_named(current, change):
                raise SystemRejected(f"{place}: old_value_mismatch: holds another value than the person meant")
            values[column] = new
        return values

    def _erase(self, found: Found, *, today: date) -> Result:
        kept: list[Row] = []
        erased = 0
        yielded = self._yielded(found)
        #: Values that rows which stay refer to: (table, column, value).
        pinned: set[tuple[str, str, Any]] = set()
        for name in reversed(self._map.parents_first):
            declared = self._map.tables[name]
            doomed: list[Row] = []
            changed: list[tuple[Row, dict[str, Any]]] = []
            for row in found.rows[name]:
                if declared.retain is not None and not self._has_ended(row, today):
                    kept.append(row)
                elif declared.erase.how == "delete" and not self._is_pinned(row, pinned):
                    doomed.append(row)
                    continue
                else:
                    changed.append((row, self._client.overwritten(row)))
                pinned.update(self._pins(row))
            self._client.change(found, name, changed)
            self._client.remove(found, name, doomed)
            erased += len(doomed) + sum(1 for _, values in changed if values)
        return Result(self._erasure(kept, erased), yielded=yielded, notes=self._kept_notes(kept))

    def _has_ended(self, row: Row, today: date) -> bool:
        until = self._client.until(row)
        return until is not None and until < today

    def _is_pinned(self, row: Row, pinned: set[tuple[str, str, Any]]) -> bool:
        return any((row.table, column, row.values[column]) in pinned for column in self._map.referenced_columns(row.table))

    def _pins(self, row: Row) -> Iterable[tuple[str, str, Any]]:
        for link in self._map.tables[row.table].belongs_to:
            if row.values[link.column] is not None:
                yield link.table, self._map.referenced(link), row.values[link.column]

    def _erasure(self, kept: list[Row], erased: int) -> Fulfilled | NothingHeld | Retained:
        if not kept:
            return Fulfilled(count=erased) if erased else NothingHeld()
        # One outcome has one ground: that of the row which is kept longest; the notes name the other tables.
        last = max(kept, key=lambda row: self._client.until(row) or date.max)
        rule = self._map.tables[last.table].retain
        assert rule is not None
        return Retained(
            ground=rule.ground, until=self._client.until(last), count=len(kept), fulfilled=erased, detail=rule.detail
        )

    def _kept_notes(self, kept: list[Row]) -> tuple[str, ...]:
        notes = {_code(f"kept_in_{row.table}") for row in kept}
        if any(self._client.until(row) is None for row in kept):
            notes.add("retention_date_missing")
        return tuple(sorted(notes))[:20]


def _differing(row: Row, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in wanted.items() if row.values[column] != value}


def _code(text: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", text.lower())[:60]


def build(settings: AccountsSettings | None = None) -> AccountsConnector:
    """Build the connector from the environment, or from settings that are given."""
    settings = settings or read(AccountsSettings)
    key = settings.pseudonym_key
    client = AccountsClient(
        settings.url.get_secret_value(),
        load_table_map(settings.table_map),
        pseudonym_key=None if key is None else SealingKey.from_base64("pseudonym", key.get_secret_value()),
        statement_timeout_seconds=settings.statement_timeout_seconds,
    )
    return AccountsConnector(client, concurrent=settings.concurrent)
