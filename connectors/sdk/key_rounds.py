"""When the keys of waiting orders are asked for: in one call for all who need one, and all wait together where none is given.

| the key desk | an order whose root is at hand | one that needs its key | ends |
| --- | --- | --- | --- |
| answers | begins | begins; the first one asks, also for those next in turn | a call is not answered: away |
| is away, until a moment | begins | waits, and is not touched | the moment comes: one call for those next in turn |

Each call that is not answered makes the wait longer, for all. No order is to blame, so nothing is counted against any.

Room rules: no order is judged here; whose turn is next says `turns`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import structlog

from connectors.sdk.clock import Clock
from connectors.sdk.journal import Journal
from connectors.sdk.keys import KeysUnavailable, OrderKeys
from connectors.sdk.retry import Backoff
from connectors.sdk.turns import upcoming
from schemas.metrics import CONNECTOR_KEYS_UNAVAILABLE, Metrics
from schemas.order_keys import MOST_ORDERS, KeyStatus
from schemas.orders import FulfilmentOrder

__all__ = ["KeyRounds"]

_log = structlog.get_logger("dsr.connector")

_BACKOFF = Backoff(base_seconds=1.0, max_seconds=30.0)
#: So long a refusal holds that was heard before the order's turn; from then on it is asked anew.
_HOLDS_FOR = timedelta(seconds=30)


class KeyRounds:
    """One system's."""

    def __init__(
        self, system: str, *, keys: OrderKeys, journal: Journal, clock: Clock, metrics: Metrics, back: Callable[[], None]
    ) -> None:
        """`back` is called when orders that need their keys may begin again."""
        self._system = system
        self._keys = keys
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._back = back
        self._in_a_row = 0
        self._until = clock.now()
        self._why = ""
        self._away = asyncio.Event()
        self._asking = asyncio.Lock()
        #: Orders under way that wait for a call.
        self._wanting: dict[str, FulfilmentOrder] = {}
        #: What the last call said of orders that were not at their turn yet, by order id and attempt.
        self._told: dict[tuple[str, int], KeyStatus] = {}
        self._told_at = clock.now()

    @property
    def is_away(self) -> bool:
        """Tell whether only orders whose root is at hand may begin."""
        return self._away.is_set()

    def refused(self, error: KeysUnavailable, count: int) -> float:
        """Note a call about so many orders that was not answered; return the seconds in which nobody is to ask.

        Of calls that were made at the same time the first one counts.
        """
        self._metrics.count(CONNECTOR_KEYS_UNAVAILABLE, system=self._system)
        if not self._remaining():
            self._in_a_row += 1
            wait = _BACKOFF.seconds(self._system, self._in_a_row)
            self._until, self._why = self._clock.now() + timedelta(seconds=wait), str(error)
            _log.warning("keys_unavailable", system=self._system, remedy=self._why, count=count, wait_seconds=round(wait, 1))
        self._away.set()
        return self._remaining()

    def answered(self) -> None:
        """Note a call that was answered, whatever it said of the orders."""
        if self._in_a_row:
            _log.info("keys_back", system=self._system)
        self._in_a_row = 0
        self._go_on()

    async def have(self, order: FulfilmentOrder) -> KeyStatus | None:
        """Have an order's key at hand; return why there is none. Raises `KeysUnavailable`, without a call while it is away."""
        if order.order_id in self._keys.at_hand():
            return (await self._keys.fetch([order])).get(order.order_id)  # no call: it notes that the root is in use
        self._wanting[order.order_id] = order
        try:
            async with self._asking:
                await asyncio.sleep(0)  # those that begin in the same turn of the loop are asked for in one call
                return await self._status(order)
        finally:
            del self._wanting[order.order_id]

    async def run(self) -> None:
        """Ask again for those next in turn, whenever it is time, until cancelled. Raises `StoreUnavailable`."""
        while True:
            await self._away.wait()
            await self._clock.sleep(self._remaining())
            async with self._asking:
                if not self.is_away or self._remaining():
                    continue
                orders = self._upcoming()
                if not orders:  # who comes next asks, and waits longer if it is refused
                    self._go_on()
                    continue
                with contextlib.suppress(KeysUnavailable):
                    await self._ask(orders)

    async def _status(self, order: FulfilmentOrder) -> KeyStatus | None:
        if order.order_id in self._keys.at_hand():
            return None
        told = self._told.pop((order.order_id, order.attempt), None)
        if told is not None and self._clock.now() - self._told_at < _HOLDS_FOR:
            return told
        if self.is_away:
            raise KeysUnavailable(self._why)
        wanted = {one.order_id: one for one in (order, *self._wanting.values(), *self._upcoming())}
        refused = await self._ask(list(wanted.values())[:MOST_ORDERS])
        self._told.pop((order.order_id, order.attempt), None)
        return refused.get(order.order_id)

    async def _ask(self, orders: Sequence[FulfilmentOrder]) -> Mapping[str, KeyStatus]:
        try:
            refused = await self._keys.fetch(orders)
        except KeysUnavailable as error:
            self.refused(error, len(orders))
            raise
        # By attempt: an order that was over and is opened again comes with another one.
        self._told = {(one.order_id, one.attempt): refused[one.order_id] for one in orders if one.order_id in refused}
        self._told_at = self._clock.now()
        self.answered()
        return refused

    def _upcoming(self) -> list[FulfilmentOrder]:
        with self._journal.transaction() as page:
            found = upcoming(page, self._clock.now(), MOST_ORDERS, but=self._keys.at_hand())
        return [entry.order for entry in found if entry.order is not None]

    def _remaining(self) -> float:
        return max(0.0, (self._until - self._clock.now()).total_seconds())

    def _go_on(self) -> None:
        if self.is_away:
            self._away.clear()
            self._back()
