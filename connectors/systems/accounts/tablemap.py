"""The declared table map: which tables hold people, how rows are found, and what each right does to them.

The map is a YAML (or JSON) file that a database owner can read aloud and a privacy officer can sign. It is checked when it is
loaded (everything that can be known without a database) and again by `AccountsConnector.check` against the real schema.

Room rules: data and its own consistency; no database here. Every error names the table and the column.
"""

from __future__ import annotations

import calendar
import graphlib
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from schemas.base import Record
from schemas.errors import ConfigurationError
from schemas.vocabulary import IdentifierKind, RetentionGround, Right

__all__ = ["BelongsTo", "Erase", "Identify", "KeyedHash", "Period", "Retain", "Table", "TableMap", "load_table_map"]

Column = Annotated[str, StringConstraints(min_length=1, max_length=63)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Scalar = bool | int | str | None

#: Values of these kinds name the person by themselves; a pseudonymised row must not keep them.
_NAMING = frozenset({IdentifierKind.EMAIL, IdentifierKind.PHONE, IdentifierKind.IP_ADDRESS})
#: Rights that are fulfilled by setting flag columns.
FLAG_RIGHTS: Mapping[Right, str] = {
    Right.OBJECTION: "objection",
    Right.UNSUBSCRIBE: "unsubscribe",
    Right.RESTRICTION: "restriction",
}


class Identify(Record):
    """A column by which a person is found. E-mail addresses are compared without regard to case unless said otherwise."""

    column: Column
    kind: IdentifierKind
    match: Literal["exact", "case_insensitive"] | None = None

    @property
    def ignores_case(self) -> bool:
        """Tell whether `A@example.org` finds `a@example.org`."""
        return self.match == "case_insensitive" or (self.match is None and self.kind is IdentifierKind.EMAIL)


class BelongsTo(Record):
    """A row here belongs to whoever the row over there belongs to."""

    table: str
    column: Column
    references: Annotated[Column | None, Field(description="Column over there; its key if left out")] = None


class KeyedHash(Record):
    """Replace a value by its HMAC-SHA256 under the pseudonym key; `{hash}` in the text is where its 32 hex digits go."""

    keyed_hash: Annotated[str, StringConstraints(pattern=r"^[^{}]*\{hash\}[^{}]*$", max_length=200)] = "{hash}"


class Erase(Record):
    """What erasure does to a row that need not be kept.

    `delete` deletes it, except where a kept row still refers to it: then the columns of `set` are overwritten instead.
    `pseudonymise` always overwrites the columns of `set`. A value in `set` is a fixed one, null, or a keyed hash.
    """

    how: Literal["delete", "pseudonymise"] = "delete"
    set: dict[Column, KeyedHash | Scalar] = Field(default_factory=dict)


class Period(Record):
    """How long, and counted from the day itself or from the end of its year."""

    years: Annotated[int, Field(ge=0, le=150)] = 0
    months: Annotated[int, Field(ge=0, le=1800)] = 0
    days: Annotated[int, Field(ge=0, le=60_000)] = 0
    counted_from: Literal["day", "year_end"] = "day"

    @model_validator(mode="after")
    def _is_some_time(self) -> Self:
        if not (self.years or self.months or self.days):
            raise ValueError("name years, months or days")
        return self

    def end(self, start: date) -> date:
        """Return the last day of the period; a day that its month lacks becomes the month's last."""
        if self.counted_from == "year_end":
            start = date(start.year, 12, 31)
        months = start.month - 1 + self.months + 12 * self.years
        year, month = start.year + months // 12, months % 12 + 1
        day = min(start.day, calendar.monthrange(year, month)[1])
        return date(year, month, day) + timedelta(days=self.days)


class Retain(Record):
    """Why and until when rows are kept in spite of an erasure (GDPR Art. 17(3)): a date column and a period, or a fixed day."""

    ground: RetentionGround
    detail: Annotated[str, Field(max_length=120, description="The national law or rule, by its short name")] = ""
    column: Column | None = None
    period: Period | None = None
    until: date | None = None

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if (self.column is None) != (self.period is None) or (self.column is None) == (self.until is None):
            raise ValueError("name either `column` and `period`, or `until`")
        return self


class Table(Record):
    """One table, by what each right does to its rows."""

    key: Annotated[tuple[Column, ...], Field(min_length=1, description="Columns that tell one row from another")]
    person: tuple[Identify, ...] = ()
    belongs_to: tuple[BelongsTo, ...] = ()
    yields: dict[IdentifierKind, Column] = Field(default_factory=dict)
    erase: Erase = Erase()
    retain: Retain | None = None
    rectify: Annotated[dict[FieldName, Column], Field(description="Field name of a request -> column")] = Field(
        default_factory=dict
    )
    objection: dict[Column, Scalar] = Field(default_factory=dict)
    unsubscribe: dict[Column, Scalar] = Field(default_factory=dict)
    restriction: dict[Column, Scalar] = Field(default_factory=dict)
    export: Annotated[tuple[Column, ...], Field(description="Columns shown for access (Art. 15)")] = ()
    portable: Annotated[tuple[Column, ...], Field(description="Columns the person provided (Art. 20)")] = ()

    def flags(self, right: Right) -> dict[str, Scalar]:
        """Return the columns that a right sets here, with their values; empty if it does nothing here."""
        values: dict[str, Scalar] = getattr(self, FLAG_RIGHTS[right])
        return values

    def mentioned(self) -> Iterator[tuple[str, str]]:
        """Yield every column that the map names for this table, with the place where it does."""
        yield from (("key", column) for column in self.key)
        yield from (("person", identify.column) for identify in self.person)
        yield from (("belongs_to", link.column) for link in self.belongs_to)
        yield from ((f"yields.{kind.value}", column) for kind, column in self.yields.items())
        yield from (("erase.set", column) for column in self.erase.set)
        if self.retain is not None and self.retain.column is not None:
            yield "retain.column", self.retain.column
        yield from ((f"rectify.{name}", column) for name, column in self.rectify.items())
        for right, place in FLAG_RIGHTS.items():
            yield from ((place, column) for column in self.flags(right))
        yield from (("export", column) for column in self.export)
        yield from (("portable", column) for column in self.portable)

    def complaints(self) -> Iterator[str]:
        """Yield what is wrong with this table by itself."""
        if not self.person and not self.belongs_to:
            yield "person: name a column that identifies the person, or a table it belongs to"
        if self.erase.how == "pseudonymise" and not self.erase.set:
            yield "erase.set: name the columns to overwrite, or erase by delete"
        for place, column in self.mentioned():
            if column in self.key and place.startswith(("erase.set", "rectify", *FLAG_RIGHTS.values())):
                yield f"{place}: column {column!r} is part of the key and cannot be changed"
        if self.erase.set:
            for identify in self.person:
                if identify.kind in _NAMING and identify.column not in self.erase.set:
                    yield f"erase.set: column {identify.column!r} names the person and is missing here"
        for column in self.portable:
            if column not in self.export:
                yield f"portable: column {column!r} is not in export"


class TableMap(Record):
    """All tables of one database, checked: links known and acyclic, and nothing deleted that a kept row refers to."""

    version: Literal[1] = 1
    tables: Annotated[dict[str, Table], Field(min_length=1, description="By name, `schema.table` where it needs a schema")]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        found = list(self._complaints())
        if found:
            raise ValueError("; ".join(found))
        return self

    def _complaints(self) -> Iterator[str]:
        for name, table in self.tables.items():
            yield from (f"{name}.{complaint}" for complaint in table.complaints())
            for link in table.belongs_to:
                parent = self.tables.get(link.table)
                if parent is None:
                    yield f"{name}.belongs_to: column {link.column!r} refers to table {link.table!r}, which is not mapped"
                elif link.references is None and len(parent.key) > 1:
                    yield f"{name}.belongs_to: table {link.table!r} has a key of several columns: name `references`"
                elif self._may_stay(table) and parent.erase.how == "delete" and not parent.erase.set:
                    yield (
                        f"{name}.belongs_to: rows here may stay, and column {link.column!r} refers to {link.table!r}, whose "
                        f"rows are deleted: give {link.table}.erase.set the columns to overwrite while they are referred to"
                    )
        if not any(table.person for table in self.tables.values()):
            yield "tables: none has a column that identifies the person"
        try:
            self._sorted()
        except graphlib.CycleError as error:
            yield f"tables: belongs_to runs in a circle: {' -> '.join(error.args[1])}"

    def _may_stay(self, table: Table) -> bool:
        """Tell whether an erasure may leave a row of this table, kept or overwritten."""
        return table.retain is not None or bool(table.erase.set)

    def _sorted(self) -> tuple[str, ...]:
        graph = {name: {link.table for link in table.belongs_to} & set(self.tables) for name, table in self.tables.items()}
        return tuple(graphlib.TopologicalSorter(graph).static_order())

    @property
    def parents_first(self) -> tuple[str, ...]:
        """Return the tables so that each stands after those it belongs to; reversed, the order in which rows may be deleted."""
        return self._sorted()

    def referenced(self, link: BelongsTo) -> str:
        """Return the column that a link points at."""
        return link.references or self.tables[link.table].key[0]

    def referenced_columns(self, name: str) -> frozenset[str]:
        """Return the columns of a table that links of other tables point at."""
        return frozenset(
            self.referenced(link) for table in self.tables.values() for link in table.belongs_to if link.table == name
        )

    @property
    def kinds(self) -> frozenset[IdentifierKind]:
        """Return the identifier kinds by which people are found."""
        return frozenset(identify.kind for table in self.tables.values() for identify in table.person)

    @property
    def yielded_kinds(self) -> frozenset[IdentifierKind]:
        """Return the identifier kinds that rows may give to other systems."""
        return frozenset(kind for table in self.tables.values() for kind in table.yields)

    @property
    def needs_pseudonym_key(self) -> bool:
        """Tell whether some column is overwritten by a keyed hash."""
        return any(isinstance(value, KeyedHash) for table in self.tables.values() for value in table.erase.set.values())


def load_table_map(path: Path) -> TableMap:
    """Read and check a table map. Raises `ConfigurationError` that names the file, the table and the column."""
    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"table map {path.name}: {error.strerror}: check DSR_ACCOUNTS_TABLE_MAP") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"table map {path.name}: is not YAML{where}") from None
    return parse_table_map(value, name=path.name)


def parse_table_map(value: Any, *, name: str) -> TableMap:
    """Check a table map that is already loaded. Raises `ConfigurationError` that names the table and the column."""
    try:
        return TableMap.model_validate(value)
    except ValidationError as error:
        found = [
            f"{'.'.join(str(part) for part in item['loc']) or 'tables'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    raise ConfigurationError(f"table map {name}: {'; '.join(found)}")
