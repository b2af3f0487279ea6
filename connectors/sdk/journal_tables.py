"""The tables of a connector's journal, and how an older one becomes today's.

Room rules: shapes only; what is done with them stands in `journal`.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa

from schemas.topics import PROMPT_RIGHTS

__all__ = ["CANCELLATIONS", "FORGETTING", "IS_OPEN", "IS_PROMPT", "ORDERS", "PACE", "PAUSE", "REPORTS", "OrderState", "create"]


class OrderState(StrEnum):
    """How far an order is."""

    #: Waits for its turn, or for `not_before`.
    WAITING = "waiting"
    #: Somebody works on it; found at start, it means that the process died.
    WORKING = "working"
    #: The vendor's job runs; asked after at `not_before`.
    POLLING = "polling"
    #: The final report is written; sent or not stands in the report.
    REPORTED = "reported"


_META = sa.MetaData()
#: As text, because SQLite only takes a partial index for a condition that it can see.
IS_OPEN = f"state IN ('{OrderState.WAITING}', '{OrderState.POLLING}')"
IS_PROMPT = f"{IS_OPEN} AND prompt = 1"
ORDERS = sa.Table(
    "orders",
    _META,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("subject_request_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("due_on", sa.Text, nullable=False),
    sa.Column("taken_ms", sa.Integer, nullable=False),
    sa.Column("not_before_ms", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("polls", sa.Integer, nullable=False, default=0),
    sa.Column("order_bytes", sa.LargeBinary),
    sa.Column("handle", sa.LargeBinary),
    sa.Column("found", sa.LargeBinary),
    sa.Column("prompt", sa.Boolean, nullable=False, server_default=sa.text("0")),
    sa.Column("due_ms", sa.Integer),
    sa.Index("orders_by_turn", "state", "not_before_ms"),
    # One for each queue, in its order, and everything a search for the next one looks at: it reads no order that it does not
    # return.
    sa.Index("queue_due", "due_on", "taken_ms", "order_id", "not_before_ms", "state", sqlite_where=sa.text(IS_OPEN)),
    sa.Index("queue_oldest", "taken_ms", "order_id", "not_before_ms", "state", sqlite_where=sa.text(IS_OPEN)),
    sa.Index("queue_prompt", "taken_ms", "order_id", "not_before_ms", "state", "prompt", sqlite_where=sa.text(IS_PROMPT)),
)
REPORTS = sa.Table(
    "reports",
    _META,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("report_id", sa.Text, nullable=False, unique=True),
    sa.Column("order_id", sa.Text, nullable=False, index=True),
    sa.Column("right", sa.Text, nullable=False),
    sa.Column("final", sa.Boolean, nullable=False),
    sa.Column("sent", sa.Boolean, nullable=False),
    sa.Column("report_bytes", sa.LargeBinary, nullable=False),
)
#: Orders that are over before they were reported; without bytes while only the key desk has said so.
CANCELLATIONS = sa.Table(
    "cancellations",
    _META,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("cancelled_bytes", sa.LargeBinary),
    sa.Column("has_begun", sa.Boolean, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("taken_ms", sa.Integer, nullable=False),
    sa.Column("not_before_ms", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("polls", sa.Integer, nullable=False),
    sa.Index("cancellations_by_turn", "open", "not_before_ms"),
)
#: Orders that are over and that a connector which keeps something of its own has yet to forget.
FORGETTING = sa.Table(
    "forgetting",
    _META,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("right", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
)
#: One row while the system is left alone, none while it works.
PAUSE = sa.Table(
    "pause",
    _META,
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("until_ms", sa.Integer, nullable=False),
)
#: One row once something was measured: for `status`, which has neither the connector's settings nor its memory.
PACE = sa.Table(
    "pace",
    _META,
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("calls", sa.Float, nullable=False),
    sa.Column("orders", sa.Integer, nullable=False),
    sa.Column("concurrent", sa.Integer, nullable=False),
    sa.Column("per_second", sa.Float),
    sa.Column("per_day", sa.Integer),
    sa.Column("day_zone", sa.Text, nullable=False),
    sa.Column("share", sa.Float, nullable=False, server_default=sa.text("1")),
)


def create(connection: sa.Connection) -> None:
    """Make the tables and indexes that are not there yet."""
    _META.create_all(connection)
    there = {column["name"] for column in sa.inspect(connection).get_columns("orders")}
    if "share" not in {column["name"] for column in sa.inspect(connection).get_columns("pace")}:
        connection.execute(sa.text("ALTER TABLE pace ADD COLUMN share FLOAT NOT NULL DEFAULT 1"))
    if "due_ms" not in there:
        connection.execute(sa.text("ALTER TABLE orders ADD COLUMN due_ms INTEGER"))
    if "prompt" not in there:
        connection.execute(sa.text("ALTER TABLE orders ADD COLUMN prompt BOOLEAN NOT NULL DEFAULT 0"))
        right = sa.func.json_extract(sa.cast(ORDERS.c.order_bytes, sa.Text), "$.right")
        connection.execute(sa.update(ORDERS).where(right.in_([right.value for right in PROMPT_RIGHTS])).values(prompt=True))
    for name in ("open_by_due_date", "open_by_age"):  # of journals that an earlier release began
        connection.execute(sa.text(f"DROP INDEX IF EXISTS {name}"))
    for table in _META.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)
