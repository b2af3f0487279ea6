"""The first schema: requests, groups of a person's requests, sealed identities, outbox, registries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "requests",
        sa.Column("subject_request_id", sa.String(36), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("right", sa.String(16), nullable=False),
        sa.Column("person", sa.String(64)),
        sa.Column("wake_at", sa.BigInteger),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("received_at", sa.BigInteger),
        sa.Column("awaited", sa.Text, nullable=False),
    )
    op.create_index("requests_by_person", "requests", ["person"])
    op.create_index("requests_by_wake", "requests", ["wake_at"])
    op.create_table(
        "subjects",
        sa.Column("person", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "identities",
        sa.Column("subject_request_id", sa.String(36), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("worker", sa.String(80), nullable=False),
        sa.Column("saved_at", sa.BigInteger, nullable=False),
        sa.Column("records", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "registries",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("registries", "outbox", "identities", "subjects", "requests"):
        op.drop_table(table)
