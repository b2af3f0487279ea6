"""Refused records are remembered, and so is a gate that was shut because of too many."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "refusals",
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("content", sa.String(64), primary_key=True),
        sa.Column("saved_at", sa.BigInteger, nullable=False),
    )
    op.create_index("refusals_by_age", "refusals", ["saved_at"])
    op.create_table(
        "gates",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("shut_at", sa.BigInteger),
        sa.Column("at_most", sa.Integer),
        sa.Column("open_until", sa.BigInteger),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("gates", "refusals"):
        op.drop_table(table)
