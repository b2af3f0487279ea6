"""The store's schema revision: bring it up to date, or say that it is not.

Room rules: Alembic does the work; its configuration is made here, no file of it is needed.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from schemas.errors import ConfigurationError, StoreUnavailable

__all__ = ["check", "upgrade"]

#: One upgrade at a time, whoever starts it; any number that nobody else takes in this database.
_UPGRADE_LOCK = 0x445352


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(engine: Engine) -> str:
    """Bring the schema to this release's revision and return it. Repeating is harmless."""
    config = _config()
    try:
        with engine.connect() as connection:
            # Two workers that start at once would both make the first table; the second waits and finds it made.
            connection.begin()  # SQLite's write lock
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET statement_timeout = 0")  # a big table takes as long as it takes
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
                connection.exec_driver_sql("SET LOCAL lock_timeout TO DEFAULT")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the store could not be prepared ({type(error).__name__})") from None
    return _head(config)


def check(engine: Engine) -> str:
    """Return the revision. Raises `ConfigurationError` if the store has another one than this release needs."""
    wanted = _head(_config())
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the store did not answer ({type(error).__name__})") from None
    if found != wanted:
        raise ConfigurationError(
            f"store: schema revision is {found or 'none'}, this release needs {wanted}: run `dsr store upgrade`"
        )
    return wanted


def _head(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head
