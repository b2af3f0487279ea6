"""What the journal keeps of orders that are over, and of which the connector itself has yet to forget what it keeps.

Room rules: storage only, no decision; nothing in it names anybody.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from connectors.sdk.journal_tables import CANCELLATIONS, FORGETTING, ORDERS, REPORTS, OrderState
from connectors.sdk.protocol import Over
from schemas.vocabulary import Right

__all__ = ["Forgettings"]


class Forgettings:
    """One transaction's view of them."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def put(self, over: Over) -> None:
        """Write down that an order has to be forgotten: not before it is over, which `due` looks after."""
        self._connection.execute(_PUT, {"order_id": over.order_id, "right": over.right.value, "attempt": over.attempt})

    def due(self) -> list[Over]:
        """Return what has to be forgotten: no order that is open (again), is being called off, or has a report to be sent."""
        return [Over(row.order_id, Right(row.right), row.attempt) for row in self._connection.execute(_DUE)]

    def done(self, over: Over) -> None:
        """Have nothing more to do with it, unless it was put again for a later attempt."""
        self._connection.execute(_DONE, {"wanted": over.order_id, "last": over.attempt})


# Built once, as in `journal`.
_NEW = sqlite.insert(FORGETTING)
_PUT = _NEW.on_conflict_do_update(
    index_elements=["order_id"], set_={"attempt": sa.func.max(FORGETTING.c.attempt, _NEW.excluded.attempt)}
)
_DUE = (
    sa.select(FORGETTING)
    .where(
        # Looked up one by one: these tables may be long where this one is short.
        ~sa.exists().where(ORDERS.c.order_id == FORGETTING.c.order_id, ORDERS.c.state != OrderState.REPORTED),
        ~sa.exists().where(REPORTS.c.order_id == FORGETTING.c.order_id, REPORTS.c.sent.is_(False)),
        ~sa.exists().where(CANCELLATIONS.c.order_id == FORGETTING.c.order_id, CANCELLATIONS.c.open),
    )
    .order_by(FORGETTING.c.order_id)
)
_DONE = sa.delete(FORGETTING).where(
    FORGETTING.c.order_id == sa.bindparam("wanted"), FORGETTING.c.attempt <= sa.bindparam("last")
)
