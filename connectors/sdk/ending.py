"""Orders that are over before they were reported: what is dropped, what goes on, and what is called off at the system.

| the order | a connector that cannot call off | one that can (`Cancels`), and the request was withdrawn or denied |
| --- | --- | --- |
| is not here, or has not begun | dropped | dropped; not here: asked once whether the system knows of it |
| waits to be tried again | dropped | dropped, and called off |
| is being worked on | goes on, and is reported unless nothing came of it | the same; then called off |
| runs at the system as a job | goes on while its key is in memory, and is reported | dropped, and called off |
| failed | stays so | called off |
| was reported otherwise | stays so | stays so |

What was waived is dropped and never called off: it is still what the person wants.

A connector that keeps something of its own (`Forgets`) does not go on with a job at its system: it is looked at once more, at
once, and reported if it was done; otherwise it is dropped, and what the connector keeps of it forgotten.

Room rules: each function is part of one transaction of the journal; nothing is asked and nothing waits here.
"""

from __future__ import annotations

from datetime import datetime

from connectors.sdk.journal import Entry, OrderState, Page
from schemas.orders import OrderCancelled
from schemas.vocabulary import CancellationReason, OutcomeCode

__all__ = ["end", "has_begun", "let_go"]


def has_begun(page: Page, entry: Entry, *, tries: int) -> bool:
    """Tell whether the system may know of an order; `tries`: from how many on one of them has reached it."""
    said = page.last_report(entry.order_id, final=True) or page.last_report(entry.order_id, final=False)
    return entry.tries >= tries or entry.handle is not None or said is not None


def end(page: Page, ended: OrderCancelled, now: datetime, *, can_call_off: bool, forgets: bool = False) -> bool:
    """Write down that an order is over; return whether it was let go. A repetition changes nothing."""
    entry, kept = page.find(ended.order_id), page.cancellations.find(ended.order_id)
    if kept is not None and kept.ended is not None:
        return False
    begun = kept is not None if entry is None else has_begun(page, entry, tries=1)
    wanted = can_call_off and ended.reason is not CancellationReason.WAIVED and _is_unsettled(page, entry)
    page.cancellations.put(ended.order_id, now, ended=ended, has_begun=begun, is_open=wanted and (begun or entry is None))
    if let_go(page, ended.order_id):
        return True
    if forgets and entry is not None and entry.state is OrderState.POLLING:
        page.set(ended.order_id, not_before=now)  # the last look
    return False


def _is_unsettled(page: Page, entry: Entry | None) -> bool:
    if entry is None or entry.state is not OrderState.REPORTED:
        return True
    last = page.last_report(entry.order_id, final=True)
    return last is not None and last.report.outcome.code is OutcomeCode.FAILED


def let_go(page: Page, order_id: str, *, forgets: bool = False) -> bool:
    """Drop an order that is over, unless it is worked on, or runs at a system that is not told; return whether it was.

    `forgets`: the last look at what runs was taken, and its connector has to forget it.
    """
    entry, kept = page.find(order_id), page.cancellations.find(order_id)
    if entry is None or kept is None or entry.state not in {OrderState.WAITING, OrderState.POLLING}:
        return False
    if entry.state is OrderState.POLLING and not kept.is_open and not forgets:
        return False
    page.drop(order_id)
    return True
