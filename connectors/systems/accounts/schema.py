"""The real schema beside the declared map: reads it, and says where they disagree.

Room rules: reads the catalogue, never a person's row. Every complaint names the table and the column.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, MetaData, Table, inspect
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.interfaces import ReflectedForeignKeyConstraint

from connectors.systems.accounts.tablemap import TableMap
from schemas.errors import ConfigurationError

__all__ = ["checked_schema"]

_HARMLESS = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})


def checked_schema(connection: Connection, metadata: MetaData, table_map: TableMap) -> dict[str, Table]:
    """Return the mapped tables as the database has them. Raises `ConfigurationError` with everything that does not fit."""
    tables: dict[str, Table] = {}
    complaints: list[str] = []
    for name, declared in table_map.tables.items():
        schema, _, bare = name.rpartition(".")
        try:
            table = Table(bare, metadata, schema=schema or None, autoload_with=connection, resolve_fks=False)
        except sa_exc.NoSuchTableError:
            complaints.append(f"{name}: no such table")
            continue
        tables[name] = table
        for place, column in dict.fromkeys(declared.mentioned()):
            if column not in table.c:
                complaints.append(f"{name}.{place}: no column {column!r}")
            elif place == "erase.set" and declared.erase.set[column] is None and not table.c[column].nullable:
                complaints.append(f"{name}.{place}: column {column!r} cannot be null")
        for link in declared.belongs_to:
            parent = tables.get(link.table)
            if parent is not None and table_map.referenced(link) not in parent.c:
                complaints.append(f"{name}.belongs_to: {link.table} has no column {table_map.referenced(link)!r}")
    complaints += _undeclared_references(connection, table_map)
    if complaints:
        raise ConfigurationError(f"DSR_ACCOUNTS_TABLE_MAP does not fit the database: {'; '.join(complaints)}")
    return tables


def _undeclared_references(connection: Connection, table_map: TableMap) -> Iterator[str]:
    """Yield foreign keys onto mapped tables that the map does not know: they would stop a deletion half-way."""
    inspector = inspect(connection)
    for schema in sorted({name.rpartition(".")[0] for name in table_map.tables}):
        for (owner_schema, owner), keys in inspector.get_multi_foreign_keys(schema=schema or None).items():
            name = f"{owner_schema}.{owner}" if owner_schema else owner
            for key in keys:
                target = _target(key)
                if target in table_map.tables and not _is_known(table_map, name, key, target):
                    columns = ", ".join(key["constrained_columns"])
                    yield f"{name}: foreign key ({columns}) refers to {target}, and belongs_to does not say so"


def _target(key: ReflectedForeignKeyConstraint) -> str:
    schema = key["referred_schema"]
    return f"{schema}.{key['referred_table']}" if schema else key["referred_table"]


def _is_known(table_map: TableMap, name: str, key: ReflectedForeignKeyConstraint, target: str) -> bool:
    if name not in table_map.tables:
        # An unmapped table holds no person by declaration; only a key that would block the deletion matters.
        deletes = table_map.tables[target].erase.how == "delete"
        return not deletes or str(key.get("options", {}).get("ondelete", "")).upper() in _HARMLESS
    if name == target:
        return True
    links = table_map.tables[name].belongs_to
    return any(link.table == target and link.column in key["constrained_columns"] for link in links)
