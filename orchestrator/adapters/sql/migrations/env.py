"""Alembic's entry point; run through `orchestrator.adapters.sql.schema`, which hands over a connection."""

from __future__ import annotations

from alembic import context

from orchestrator.adapters.sql.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
