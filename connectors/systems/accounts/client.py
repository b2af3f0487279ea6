"""The database: finds a person's rows, and reads, changes or erases them, each call in one transaction.

Calls block; the connector runs them in a thread. A failed call has changed nothing, with one exception that no database can
avoid: if the connection breaks while the commit is under way, the transaction may stand. Repeating the call settles it.

Room rules: SQLAlchemy Core only; no error repeats a statement's parameters (they hold identities).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.sql.elements import ColumnElement

from connectors.systems.accounts import tablemap
from connectors.systems.accounts.schema import checked_schema
from connectors.systems.accounts.tablemap import Identify, KeyedHash, TableMap
from connectors.systems.accounts.values import Unfit, as_date, as_value
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable
from schemas.sealed import SealingKey
from schemas.vocabulary import IdentifierKind

__all__ = ["AccountsClient", "Found", "Row", "Rows"]

Identifiers = Mapping[IdentifierKind, tuple[str, ...]]
#: Values in one IN list: databases limit the parameters of a statement.
_CHUNK = 500
#: PostgreSQL collations that know all letters, best first; asked for only where the database's own does not.
_COLLATIONS = ("pg_c_utf8", "und-x-icu")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a person: its table, its key, and the values of the mapped columns."""

    table: str
    values: Mapping[str, Any] = field(repr=False)


Rows = dict[str, list[Row]]


@dataclass(frozen=True, slots=True)
class Found:
    """A person's rows, by table, and the open transaction they were read in."""

    connection: Connection = field(repr=False)
    rows: Rows = field(repr=False)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())


class AccountsClient:
    """One database behind one table map."""

    def __init__(
        self, url: str, table_map: TableMap, *, pseudonym_key: SealingKey | None = None, statement_timeout_seconds: float = 30.0
    ) -> None:
        try:
            self.engine: Engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
        except (sa_exc.ArgumentError, ImportError):
            problem = "is not a database URL with an installed driver, for instance postgresql+psycopg://host/name"
        else:
            problem = ""
        if problem:
            raise ConfigurationError(f"DSR_ACCOUNTS_URL: {problem}")
        if table_map.needs_pseudonym_key and pseudonym_key is None:
            raise ConfigurationError("DSR_ACCOUNTS_PSEUDONYM_KEY: the table map has a keyed_hash: `openssl rand -base64 32`")
        self.map = table_map
        self._key = pseudonym_key
        self._timeout_ms = int(statement_timeout_seconds * 1000)
        self._tables: dict[str, Table] = {}
        self._collation: str | None = None
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def check(self) -> str:
        """Return one line on the database; raises `ConfigurationError` where the map and the real schema disagree."""
        self._tables.clear()
        with self.transaction() as connection:
            tables = self._schema(connection)
            version = ".".join(str(part) for part in connection.dialect.server_version_info or ())
        return f"{len(tables)} tables of the map found on {self.engine.dialect.name} {version}".rstrip()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction; commits at the end, rolls back on any error, and turns database errors into typed ones."""
        failure: Exception
        try:
            with self.engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text(f"SET LOCAL statement_timeout = {self._timeout_ms}"))
                yield connection
        except sa_exc.SQLAlchemyError as error:
            failure = _typed(error)
        else:
            return
        raise failure

    @contextlib.contextmanager
    def find(self, identifiers: Identifiers, *, lock: bool) -> Iterator[Found]:
        """Open a transaction and read the person's rows in it, locked until its end if they are to be changed."""
        with self.transaction() as connection:
            try:
                tables = self._schema(connection)
            except ConfigurationError as error:
                # The schema changed under a running connector: for this one job it is the system that cannot be served.
                raise SystemRejected(str(error)) from None
            rows: Rows = {}
            for name in self.map.parents_first:
                rows[name] = self._rows_of(connection, tables[name], name, identifiers, rows, lock=lock)
            yield Found(connection, rows)

    def column(self, name: str, column: str) -> Column[Any]:
        """Return a column of the real schema; only after `find` or `check` has read it."""
        return self._tables[name].c[column]

    def change(self, found: Found, name: str, changed: Sequence[tuple[Row, Mapping[str, Any]]]) -> None:
        """Write new values into rows of one table."""
        for row, values in changed:
            if values:
                found.connection.execute(update(self._tables[name]).where(self._is(row)).values(dict(values)))

    def remove(self, found: Found, name: str, rows: Sequence[Row]) -> None:
        """Delete rows of one table."""
        if rows:
            table, keys = self._tables[name], self.map.tables[name].key
            condition = and_(*(table.c[key] == bindparam(f"key_{key}") for key in keys))
            parameters = [{f"key_{key}": row.values[key] for key in keys} for row in rows]
            found.connection.execute(delete(table).where(condition), parameters)

    def overwritten(self, row: Row) -> dict[str, Any]:
        """Return the values that pseudonymising a row still has to write; empty if it is done."""
        table_map = self.map.tables[row.table]
        kinds = {identify.column: identify for identify in table_map.person}
        values: dict[str, Any] = {}
        for column, wanted in table_map.erase.set.items():
            current = row.values[column]
            if isinstance(wanted, KeyedHash):
                if current is not None and not self._is_pseudonym(wanted, str(current)):
                    values[column] = self._pseudonym(wanted, str(current), kinds.get(column))
            elif current != wanted:
                values[column] = wanted
        return values

    def is_overwritten(self, row: Row) -> bool:
        """Tell whether an erasure has overwritten this row before; an empty row of a living person is not one."""
        wanted = self.map.tables[row.table].erase.set
        marked = any(value is not None and row.values[column] is not None for column, value in wanted.items())
        return marked and not self.overwritten(row)

    def until(self, row: Row) -> date | None:
        """Return the last day on which a row must be kept; None if its date column is empty or holds no date."""
        rule = self.map.tables[row.table].retain
        assert rule is not None
        if rule.column is None or rule.period is None:
            return rule.until
        start = as_date(row.values[rule.column])
        return None if start is None else rule.period.end(start)

    def _is(self, row: Row) -> ColumnElement[bool]:
        table = self._tables[row.table]
        return and_(*(table.c[key] == row.values[key] for key in self.map.tables[row.table].key))

    def _schema(self, connection: Connection) -> dict[str, Table]:
        if not self._tables:
            self._tables = checked_schema(connection, MetaData(), self.map)
            self._collation = _collation(connection)
        return self._tables

    def _rows_of(
        self, connection: Connection, table: Table, name: str, identifiers: Identifiers, above: Rows, *, lock: bool
    ) -> list[Row]:
        table_map = self.map.tables[name]
        columns = list(dict.fromkeys(column for _, column in table_map.mentioned()))
        columns += sorted(self.map.referenced_columns(name) - set(columns))
        found: dict[tuple[Any, ...], Row] = {}
        for condition in self._conditions(table, table_map, identifiers, above):
            statement = select(*(table.c[column] for column in columns)).where(condition)
            if lock:
                statement = statement.with_for_update()
            for values in connection.execute(statement).mappings():
                found.setdefault(tuple(values[key] for key in table_map.key), Row(name, dict(values)))
        return list(found.values())

    def _conditions(
        self, table: Table, table_map: tablemap.Table, identifiers: Identifiers, above: Rows
    ) -> Iterator[ColumnElement[bool]]:
        matches = [
            self._match(table, identify, table_map, value)
            for identify in table_map.person
            for value in identifiers.get(identify.kind, ())
        ]
        for start in range(0, len(matches), _CHUNK):
            yield or_(*matches[start : start + _CHUNK])
        for link in table_map.belongs_to:
            column = self.map.referenced(link)
            values = list({row.values[column] for row in above[link.table] if row.values[column] is not None})
            for start in range(0, len(values), _CHUNK):
                yield table.c[link.column].in_(values[start : start + _CHUNK])

    def _match(self, table: Table, identify: Identify, table_map: tablemap.Table, value: str) -> ColumnElement[bool]:
        column = table.c[identify.column]
        plain = value.strip()
        try:
            typed = as_value(column, plain)
        except Unfit:
            return text("1 = 0")  # type: ignore[return-value] # a text clause is a condition here
        condition: ColumnElement[bool] = column == typed
        if identify.ignores_case:
            condition = self._folded(column, plain) == plain.lower()
        wanted = table_map.erase.set.get(identify.column)
        if isinstance(wanted, KeyedHash):
            # A row that was overwritten and kept is found again, so that a repeated erasure still says what is kept.
            condition = or_(condition, column == self._pseudonym(wanted, plain, identify))
        return condition

    def _folded(self, column: Column[Any], value: str) -> ColumnElement[Any]:
        if value.isascii():
            return func.lower(column)
        if self.engine.dialect.name == "sqlite":
            return func.dsr_lower(column)
        return func.lower(column if self._collation is None else column.collate(self._collation))

    def _pseudonym(self, wanted: KeyedHash, value: str, identify: Identify | None) -> str:
        assert self._key is not None
        plain = value.strip().lower() if identify is not None and identify.ignores_case else value.strip()
        return wanted.keyed_hash.replace("{hash}", self._key.mac(plain.encode()).hex()[:32])

    def _is_pseudonym(self, wanted: KeyedHash, value: str) -> bool:
        before, after = wanted.keyed_hash.split("{hash}")
        middle = value.removeprefix(before).removesuffix(after)
        return value == f"{before}{middle}{after}" and len(middle) == 32 and set(middle) <= set("0123456789abcdef")


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.create_function("dsr_lower", 1, lambda value: value.lower() if isinstance(value, str) else value)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 10000")


def _begin_sqlite(connection: Connection) -> None:
    # SQLite has no row locks: a transaction that reads first and writes then takes the write lock at once.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _collation(connection: Connection) -> str | None:
    """Return the collation to fold letters outside ASCII with, None if the database's own does."""
    if connection.dialect.name != "postgresql" or connection.execute(text("SELECT lower('Č') = 'č'")).scalar():
        return None
    known = set(connection.execute(text("SELECT collname FROM pg_collation")).scalars())
    return next((name for name in _COLLATIONS if name in known), None)


def _typed(error: sa_exc.SQLAlchemyError) -> Exception:
    """Return the typed error for a database's: by SQLSTATE (PostgreSQL, appendix A of its manual) or by kind."""
    kind = type(error).__name__
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    said = str(getattr(error, "orig", "")).lower()
    if state.startswith("28") or state == "42501" or "password authentication" in said or "readonly database" in said:
        return CredentialsRefused("database: refused the login or lacks a grant: read, update and delete on the mapped tables")
    if isinstance(error, sa_exc.IntegrityError):
        return SystemRejected("database: constraint_refused: a constraint forbids the change: see `check` and the table map")
    if isinstance(error, sa_exc.DataError):
        return SystemRejected("database: value_unfit: a new value does not fit its column")
    if isinstance(error, (sa_exc.OperationalError, sa_exc.InterfaceError, sa_exc.TimeoutError)):
        return SystemUnavailable(f"database: {kind}{f' {state}' if state else ''}")
    if isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated:
        return SystemUnavailable(f"database: {kind}: the connection was lost")
    return SystemRejected(f"database: {kind}{f' {state}' if state else ''}: compare the table map with the schema by `check`")
