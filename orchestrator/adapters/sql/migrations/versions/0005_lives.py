"""Lives of workers that have begun and not ended in order."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and the count of ends that leave no exception."""
    op.add_column("deaths", sa.Column("silent", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "lives",
        sa.Column("worker", sa.String(80), primary_key=True),
        sa.Column("begun_at", sa.BigInteger, nullable=False),
        sa.Column("ends", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("lives")
    op.drop_column("deaths", "silent")
