"""A broker deletes old records: what cannot be checked any more is counted, and nothing is accused for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import audit_story
import pytest
from audit_corrupt import CORRUPTIONS, Broken, T
from audit_world import MemoryLog, world

from orchestrator.audit.auditor import Verdict, audit
from orchestrator.audit.records import LogRecord, Span

ORDERS = [T.orders(system) for system in ("crm", "newsletter", "analytics", "subsidiary")]


def _write(folder: Path) -> tuple[list[LogRecord], dict[str, str], datetime]:
    async def write() -> tuple[list[LogRecord], dict[str, str], datetime]:
        async with world(folder) as company:
            told = await audit_story.tell(company)
            return company.records, told, company.now

    return asyncio.run(write())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory):
    """Write the log once."""
    return _write(tmp_path_factory.mktemp("audit"))


def _after(records: list[LogRecord], ends_at: datetime, cut_at: datetime, topics: set[str]) -> Verdict:
    """Judge what is left once these topics have lost what is older than `cut_at`, partition by partition from the beginning."""
    ends: dict[tuple[str, int], int] = {}
    begins: dict[tuple[str, int], int] = {}
    for record in sorted(records, key=lambda r: r.place):
        partition = record.place[:2]
        ends[partition] = max(ends.get(partition, 0), record.place.offset + 1)
        kept = record.place.topic not in topics or record.timestamp_ms >= cut_at.timestamp() * 1000
        if kept:
            begins.setdefault(partition, record.place.offset)
    extent = {partition: Span(begins.get(partition, end), end) for partition, end in ends.items()}
    return asyncio.run(audit(MemoryLog(records, extent), T, as_of=ends_at))


@pytest.mark.parametrize("day", [1, 10, 20, 30, 60, 94, 200])
@pytest.mark.parametrize(
    "topics",
    [
        {*T.all_requests, *ORDERS},
        {*T.all_requests, *ORDERS, T.reports, T.commands, T.quarantine, T.status},
        {T.quarantine},
        {T.commands},
        {T.confirmations},
        {T.releases},
        {T.journal, *T.all_requests, *ORDERS, T.reports, T.commands, T.quarantine, T.status},
    ],
    ids=["a-week", "a-month", "quarantine-first", "commands-first", "confirmations-first", "keys-first", "years"],
)
def test_what_is_gone_by_age_accuses_nobody(written, day: int, topics: set[str]):
    """Wherever retention has cut, a log that was in order stays so."""
    records, _, ends_at = written
    verdict = _after(records, ends_at, datetime(2026, 3, 5, 9, tzinfo=UTC) + timedelta(days=day), topics)
    assert verdict.violations == []


def test_what_could_not_be_checked_is_counted(written):
    """The verdict says how many things it could not look at."""
    records, _, ends_at = written
    verdict = _after(records, ends_at, datetime(2026, 4, 20, tzinfo=UTC), {*T.all_requests, *ORDERS, T.reports})
    counted = verdict.findings.unverified
    assert counted["orders"] > 0 and counted["inputs of journal entries"] > 0 and counted["reports cited in confirmations"] > 0


def test_what_is_left_is_still_judged(written):
    """Retention of the inputs hides neither a second confirmation nor a broken chain."""
    records, told, ends_at = written
    for name in ("second_confirmation_differs", "journal_entry_changed", "closed_with_a_system_unsettled"):
        number, corrupt = next((n, c) for n, known, c in CORRUPTIONS if known == name)
        log = Broken(list(records), told)
        corrupt(log)
        found = _after(
            log.records, ends_at, datetime(2026, 4, 20, tzinfo=UTC), {*T.all_requests, *ORDERS, T.reports}
        ).violations
        assert {violation.invariant for violation in found} == {number}, name
