"""What the journal keeps of orders that are over before they were reported.

Room rules: storage only, no decision; nothing in it names anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from connectors.sdk.journal_tables import CANCELLATIONS, ORDERS, REPORTS, OrderState
from schemas.blobs import EXPORTING
from schemas.orders import OrderCancelled
from schemas.vocabulary import CancellationReason
from schemas.wire import encode

__all__ = ["Cancellations", "Kept"]


@dataclass(frozen=True, slots=True)
class Kept:
    """One order that is over. `is_open`: the connector has yet to call it off at its system, or to hear what came of that.

    `ended` is None while only the key desk has said so.
    """

    order_id: str
    has_begun: bool
    is_open: bool
    tries: int
    polls: int
    ended: OrderCancelled | None = field(repr=False)

    @property
    def is_unwanted(self) -> bool:
        """Tell whether results would wait for nobody: the request was ended, which is more than going on without a system."""
        return self.ended is not None and self.ended.right in EXPORTING and self.ended.reason is not CancellationReason.WAIVED


class Cancellations:
    """One transaction's view of them."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def find(self, order_id: str) -> Kept | None:
        """Return what is known of the end of an order, None if nothing is."""
        row = self._connection.execute(_FIND, {"wanted": order_id}).mappings().first()
        return None if row is None else _kept(row)

    def put(
        self, order_id: str, now: datetime, *, ended: OrderCancelled | None, has_begun: bool, is_open: bool = False
    ) -> None:
        """Write an end down, in place of what is known of it."""
        self._connection.execute(_DROP, {"wanted": order_id})
        values = {"order_id": order_id, "has_begun": has_begun, "open": is_open, "tries": 0, "polls": 0}
        values |= {"cancelled_bytes": None if ended is None else encode(ended), "taken_ms": _ms(now), "not_before_ms": _ms(now)}
        self._connection.execute(_INSERT, values)

    def again(self, order_id: str, at: datetime, *, tries: int, polls: int) -> None:
        """Come back to it at a moment."""
        self._set(order_id, not_before_ms=_ms(at), tries=tries, polls=polls)

    def close(self, order_id: str) -> None:
        """Have nothing more to do with it."""
        self._set(order_id, open=False)

    def due(self, now: datetime) -> Kept | None:
        """Return one to call off now: none whose order is being worked on."""
        row = self._connection.execute(_DUE, {"now": _ms(now)}).mappings().first()
        return None if row is None else _kept(row)

    def next_due_at(self, now: datetime) -> datetime | None:
        """Return the first moment after `now` at which one is due."""
        value = self._connection.execute(_NEXT, {"now": _ms(now)}).scalar()
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)

    def still_open_orders(self) -> list[str]:
        """Return the ids of orders that are over and that nobody works on, though the journal has them as open."""
        query = sa.select(ORDERS.c.order_id).join(CANCELLATIONS, CANCELLATIONS.c.order_id == ORDERS.c.order_id)
        open_states = (OrderState.WAITING, OrderState.POLLING)
        return list(self._connection.execute(query.where(ORDERS.c.state.in_(open_states))).scalars())

    def unwanted(self) -> list[str]:
        """Return the ids of orders whose results, if there are any, nobody waits for."""
        rows = self._connection.execute(sa.select(CANCELLATIONS).where(CANCELLATIONS.c.cancelled_bytes.is_not(None))).mappings()
        return [kept.order_id for kept in map(_kept, rows) if kept.is_unwanted]

    def forget_before(self, moment: datetime, *, unfinished: datetime) -> None:
        """Delete what was taken before `moment`, with its reports; what is still open only if older than `unfinished`."""
        before = {"moment": _ms(moment), "unfinished": _ms(unfinished)}
        self._connection.execute(_FORGET_REPORTS, before)
        self._connection.execute(_FORGET, before)

    def _set(self, order_id: str, **columns: Any) -> None:
        self._connection.execute(sa.update(CANCELLATIONS).where(CANCELLATIONS.c.order_id == order_id).values(**columns))


# Built once, as in `journal`.
_FIND = sa.select(CANCELLATIONS).where(CANCELLATIONS.c.order_id == sa.bindparam("wanted"))
_INSERT = sa.insert(CANCELLATIONS)
_DROP = sa.delete(CANCELLATIONS).where(CANCELLATIONS.c.order_id == sa.bindparam("wanted"))
_DUE = (
    sa.select(CANCELLATIONS)
    .where(
        CANCELLATIONS.c.open,
        CANCELLATIONS.c.not_before_ms <= sa.bindparam("now"),
        CANCELLATIONS.c.order_id.not_in(sa.select(ORDERS.c.order_id).where(ORDERS.c.state == OrderState.WORKING)),
    )
    .order_by(CANCELLATIONS.c.not_before_ms)
    .limit(1)
)
_NEXT = sa.select(sa.func.min(CANCELLATIONS.c.not_before_ms)).where(
    CANCELLATIONS.c.open, CANCELLATIONS.c.not_before_ms > sa.bindparam("now")
)
_OLD = sa.and_(
    sa.or_(
        sa.and_(CANCELLATIONS.c.taken_ms < sa.bindparam("moment"), CANCELLATIONS.c.open.is_(False)),
        CANCELLATIONS.c.taken_ms < sa.bindparam("unfinished"),
    ),
    CANCELLATIONS.c.order_id.not_in(sa.select(REPORTS.c.order_id).where(REPORTS.c.sent.is_(False))),
)
# The reports of an order that is still in the journal go with that.
_FORGET_REPORTS = sa.delete(REPORTS).where(
    REPORTS.c.order_id.in_(sa.select(CANCELLATIONS.c.order_id).where(_OLD)),
    REPORTS.c.order_id.not_in(sa.select(ORDERS.c.order_id)),
)
_FORGET = sa.delete(CANCELLATIONS).where(_OLD)


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _kept(row: Mapping[Any, Any]) -> Kept:
    said = row["cancelled_bytes"]
    return Kept(
        order_id=row["order_id"],
        has_begun=row["has_begun"],
        is_open=row["open"],
        tries=row["tries"],
        polls=row["polls"],
        ended=None if said is None else OrderCancelled.model_validate_json(said),
    )
