"""Having connectors forget what they keep of an order in a place of their own, once it is over (`protocol.Forgets`).

An order is written down for it in the transaction that ends it, and stays so until the connector has forgotten: a crash
between the two is made up for at the next start, before anything else happens.

Room rules: no system by name; a connector is only asked here, orders are worked on in `runtime`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from datetime import datetime, timedelta

import structlog

from connectors.sdk.attempts import defect_of
from connectors.sdk.clock import Clock
from connectors.sdk.journal import Journal, Page
from connectors.sdk.protocol import Forgets, Over
from schemas.errors import ConnectorError
from schemas.orders import FulfilmentOrder, OrderCancelled

__all__ = ["Forgetting", "note_gone"]

_log = structlog.get_logger("dsr.connector")

_EVERY_SECONDS = 15.0
_LONGEST = timedelta(days=1)


def note_gone(page: Page, orders: Iterable[FulfilmentOrder | OrderCancelled]) -> None:
    """Write down that those of these orders are to be forgotten which the journal does not have (any more)."""
    for order in orders:
        if page.find(order.order_id) is None:
            page.forgettings.put(Over(order.order_id, order.right, order.attempt))


class Forgetting:
    """Asks one connector to forget, at once and at intervals, until it has."""

    def __init__(self, system: str, connector: Forgets, *, journal: Journal, clock: Clock) -> None:
        self._system = system
        self._connector = connector
        self._journal = journal
        self._clock = clock
        self._failing_since: datetime | None = None
        #: Set it when there may be something to forget.
        self.has_work = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled. Raises only what must end the process, as `once`."""
        while True:
            self.has_work.clear()
            await self.once()
            waits = [asyncio.ensure_future(self.has_work.wait()), asyncio.ensure_future(self._clock.sleep(_EVERY_SECONDS))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    async def once(self) -> None:
        """Have forgotten what can be now.

        Raises `StoreUnavailable`, and what a connector has failed with for a day: it keeps people longer than was said.
        """
        with self._journal.transaction() as page:
            due = page.forgettings.due()
        failures = [failure for over in due if (failure := await self._forgotten(over)) is not None]
        now = self._clock.now()
        failure = await self._asked(self._connector.expire(now))
        failures += [] if failure is None else [failure]
        if not failures:
            self._failing_since = None
            return
        self._failing_since = self._failing_since or now
        if now - self._failing_since >= _LONGEST:
            raise failures[0]

    async def _forgotten(self, over: Over) -> Exception | None:
        failure = await self._asked(self._connector.forget(over), over.order_id)
        if failure is None:
            with self._journal.transaction() as page:
                page.forgettings.done(over)
            _log.info("order_forgotten", system=self._system, order_id=over.order_id)
        return failure

    async def _asked(self, call: Awaitable[None], order_id: str | None = None) -> Exception | None:
        try:
            await call
        except ConnectorError as error:
            _log.error("not_forgotten", system=self._system, order_id=order_id, remedy=str(error))
            return error
        except Exception as error:  # noqa: BLE001 - whatever a connector raises is its defect, logged and tried again
            _log.error("connector_defect", order_id=order_id, **defect_of(error))
            return error
        return None
