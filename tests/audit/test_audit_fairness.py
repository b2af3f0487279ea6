"""The auditor accuses nobody of what the rules allow: cases that a simulated world brought up."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from audit_world import world

from orchestrator.audit.auditor import audit
from schemas.commands import Extend
from schemas.outcomes import NotApplicable, Retained
from schemas.vocabulary import ExtensionReason, NotApplicableReason, RetentionGround, Right


async def test_data_that_is_kept_entirely_is_not_what_was_asked_for(tmp_path: Path) -> None:
    """A request whose systems keep everything by law, or offer nothing, closes as not fulfilled: no contradiction."""
    async with world(tmp_path) as company:
        kept = Retained(ground=RetentionGround.LEGAL_OBLIGATION, count=2)
        nothing = NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)
        company.scripts["crm"] = [lambda _order, _now: kept]
        company.scripts["newsletter"] = [lambda _order, _now: nothing]
        company.submit(Right.UNSUBSCRIBE)
        await company.settle()
        verdict = await audit(company.log(), company.topics, as_of=company.now)
    assert verdict.closed == 1
    assert verdict.violations == []


async def test_a_notice_on_the_last_day_is_in_time(tmp_path: Path) -> None:
    """The first due date still belongs to the first period."""
    async with world(tmp_path) as company:
        company.scripts["newsletter"] = [lambda _order, _now: None] * 60
        request = company.submit(Right.ACCESS)
        await company.settle()
        due_at = (await company.store.load([request]))[request].due_at
        assert due_at is not None
        await company.advance(due_at - timedelta(hours=1) - company.now)
        company.command(Extend, request, because=ExtensionReason.COMPLEXITY, notice_sent_at=company.now)
        await company.settle()
        later = (await company.store.load([request]))[request].due_at
        verdict = await audit(company.log(), company.topics, as_of=company.now)
    assert later is not None and later > due_at
    assert verdict.violations == []
