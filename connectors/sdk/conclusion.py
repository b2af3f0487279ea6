"""What one try leads to, and how it is written into the journal.

Room rules: one conclusion is one change of one order and at most one report, in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from connectors.sdk.breaker import Verdict
from connectors.sdk.ending import has_begun, let_go
from connectors.sdk.journal import OrderState, Page
from schemas.ids import report_id
from schemas.outcomes import Failed
from schemas.reports import FulfilmentReport

__all__ = ["Conclusion", "settle"]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What one try leads to. `attempt` is the one it was made under; the report gets the journal's at the time of writing."""

    order_id: str
    right: str
    attempt: int
    columns: Mapping[str, Any] = field(repr=False)
    report: FulfilmentReport | None = field(default=None, repr=False)
    final: bool = False
    #: The order is over: the journal lets go of it, and nothing is reported.
    drop: bool = False
    verdict: Verdict = Verdict.NEUTRAL


def settle(page: Page, conclusion: Conclusion, now: datetime, *, forgets: bool = False) -> None:
    """Write a conclusion down. A failure, or an end, that a new attempt has overtaken counts for nothing: that one is tried.

    `forgets`: the connector keeps something of its own, which must not outlive an order that is over.
    """
    known = page.find(conclusion.order_id)
    assert known is not None, "an order under way is in the journal"
    report, ended = conclusion.report, page.cancellations.find(conclusion.order_id)
    if not conclusion.drop and _must_be_tried_again(conclusion) and ended is not None:
        page.drop(conclusion.order_id)  # nothing came of it, and nobody waits for it any more
        return
    if _must_be_tried_again(conclusion) and known.attempt > conclusion.attempt:
        state = OrderState.WAITING if known.handle is None else OrderState.POLLING
        page.set(conclusion.order_id, state=state, not_before=now, tries=0)
        return
    if conclusion.drop:
        # Tries from 2 on: this one did not reach the system. And what has been announced meanwhile says more than this does.
        if ended is None and has_begun(page, known, tries=2):
            page.cancellations.put(conclusion.order_id, now, ended=None, has_begun=True)
        page.drop(conclusion.order_id)
        return
    page.set(conclusion.order_id, **conclusion.columns)
    if report is not None:
        new_id = report_id(report.order_id, known.attempt, report.outcome.code)
        numbered = report.model_copy(update={"attempt": known.attempt, "report_id": new_id})
        if ended is not None and ended.is_unwanted:
            numbered = numbered.model_copy(update={"results": ()})  # they are deleted: `Runtime`
        page.add_report(numbered, conclusion.right, final=conclusion.final)
    let_go(page, conclusion.order_id, forgets=forgets)


def _must_be_tried_again(overtaken: Conclusion) -> bool:
    return overtaken.drop or (overtaken.report is not None and isinstance(overtaken.report.outcome, Failed))
