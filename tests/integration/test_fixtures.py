"""The fixtures themselves: a test alone with its names and its database."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy

from schemas.topics import Topics


def test_names_are_the_tests_own(topics: Topics) -> None:
    """Topics and groups begin with the test's prefix, and the default prefix is `dsr`."""
    assert topics.orders("crm") == f"{topics.prefix}.orders.crm.v1"
    assert topics.group("orchestrator") == f"{topics.prefix}.orchestrator"
    assert topics.prefix != Topics().prefix == "dsr"


@pytest.mark.postgres
@pytest.mark.parametrize("turn", ["first", "second"])
def test_database_is_the_tests_own(postgres_url: str, turn: str) -> None:
    """Each test finds an empty PostgreSQL database: the same table can be made in every one."""
    engine = sqlalchemy.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE only_once (turn text)"))
        assert connection.dialect.name == "postgresql"
    engine.dispose()


@pytest.mark.postgres
def test_database_goes_with_its_test(postgres_server: str, request: pytest.FixtureRequest) -> None:
    """No database of an earlier test is left behind."""
    with psycopg.connect(postgres_server) as connection:
        names = [name for (name,) in connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 't%'")]
    assert [name for name in names if not name.startswith("template")] == []
