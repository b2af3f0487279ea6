"""The installation's own keys, wrapped by the key-encryption key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "service_keys",
        sa.Column("kid", sa.String(80), primary_key=True),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("public", sa.LargeBinary),
        sa.Column("wrapped", sa.LargeBinary),
        sa.Column("destroyed_at", sa.BigInteger),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("service_keys")
