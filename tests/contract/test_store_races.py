"""What a worker may not miss of a person while another worker saves, and that several may prepare a store at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.ports import Change, Conflict, Row, Wanted

NOW = datetime(2026, 3, 1, tzinfo=UTC)
A, B = (f"00000000-0000-4000-8000-00000000000{n}" for n in "ab")
PERSON = "p" * 64


def accepted(request: str, seen: int) -> Change:
    row = Row(request, 0, b"state", phase="active", right="erasure", person=PERSON, received_at=NOW)
    return Change(worker="w1", now=NOW, rows=[row], subjects={PERSON: seen})


@pytest.mark.postgres  # SQLite shows a reader one moment
async def test_a_request_saved_while_the_group_is_read_is_seen_or_conflicts(postgres_url: str) -> None:
    """Whoever reads a person's group while another joins it sees the newcomer, or cannot save what it decided without."""
    mine, theirs = make_engine(postgres_url), make_engine(postgres_url)
    schema.upgrade(mine)
    store, other = SqlStore(mine), SqlStore(theirs)
    statements: list[str] = []
    wanted = Wanted(persons=frozenset({PERSON}))

    def between(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)
            if len(statements) == 1:
                with theirs.begin() as connection:
                    other._commit(connection, accepted(A, 0))

    sqlalchemy.event.listen(mine, "after_cursor_execute", between)
    known = await store.know(wanted)
    assert len(statements) > 1, "nothing was saved in between"
    try:
        await store.commit(accepted(B, known.group_versions[PERSON]))
    except Conflict:
        known = await store.know(wanted)
        await store.commit(accepted(B, known.group_versions[PERSON]))
    await store.aclose()
    await other.aclose()
    assert [row.subject_request_id for row in known.groups[PERSON]] == [A]


async def test_workers_that_start_at_once_prepare_the_store_once(database: str) -> None:
    """Each finds the schema at this release's revision; none fails because another was making it."""
    engines = [make_engine(database) for _ in range(4)]
    try:
        made = await asyncio.gather(*(asyncio.to_thread(schema.upgrade, engine) for engine in engines))
        assert {schema.check(engine) for engine in engines} == set(made)
    finally:
        for engine in engines:
            engine.dispose()
