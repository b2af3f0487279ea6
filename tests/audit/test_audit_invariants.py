"""The auditor against a log that the real core has written: clean as it is, and broken in one way at a time."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import audit_story
import pytest
from audit_corrupt import CORRUPTIONS, Broken, T
from audit_world import CANARY, MemoryLog, world

from orchestrator.audit.auditor import Verdict, audit, confirmed
from orchestrator.audit.findings import INVARIANTS
from orchestrator.audit.identity import IdentitySearch
from orchestrator.audit.records import LogRecord


class Story:
    """A clean log, and the instant at which it ends."""

    def __init__(self, records: list[LogRecord], told: dict[str, str], ends_at: datetime) -> None:
        self.records, self.told, self.ends_at = records, told, ends_at

    def broken(self) -> Broken:
        """Return a copy to break."""
        return Broken(list(self.records), dict(self.told))

    def judge(self, records: list[LogRecord]) -> Verdict:
        """Return the verdict on a version of the log; the canary is searched for."""
        search = IdentitySearch([CANARY])
        return asyncio.run(audit(MemoryLog(records), T, as_of=self.ends_at, search=search))


async def _write(folder: Path) -> Story:
    async with world(folder) as company:
        told = await audit_story.tell(company)
        return Story(company.records, told, company.now)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Write the log once."""
    return asyncio.run(_write(tmp_path_factory.mktemp("audit")))


def test_a_clean_log_is_clean(story: Story):
    """A log with one of everything breaks no invariant, and every request is counted."""
    verdict = story.judge(story.records)
    assert verdict.violations == []
    assert verdict.requests == len(story.told)
    assert verdict.requests - verdict.closed == 2
    assert verdict.quarantined == len([r for r in story.records if r.place.topic == T.quarantine])
    assert verdict.findings.waiting == 0
    assert verdict.duplicates == {T.confirmations: 2}  # asked for by a repeated submission and a repeated withdrawal


def test_batches_that_were_published_again_are_counted(story: Story):
    """Entries of one instant are of one batch: one of them twice more is two times, two of them once more is one time."""
    assert (story.judge(story.records).batches_again, story.judge(story.records).largest_again) == (0, 0)
    entries = [r for r in story.records if r.place.topic == T.journal]
    by_instant: dict[str, list[LogRecord]] = {}
    for record in entries:
        by_instant.setdefault(json.loads(record.value or b"")["at"], []).append(record)
    one, other = [found for found in by_instant.values() if len(found) > 1][:2]
    ends = Counter[tuple[str, int]]()
    for record in story.records:
        ends[record.place[:2]] = max(ends[record.place[:2]], record.place.offset + 1)
    again = list(story.records)
    for record in (one[0], one[0], *other[:2]):
        again.append(replace(record, place=record.place._replace(offset=ends[record.place[:2]])))
        ends[record.place[:2]] += 1
    verdict = story.judge(again)
    assert verdict.violations == []
    assert (verdict.batches_again, verdict.largest_again) == (3, 2)


def test_the_log_has_one_of_everything(story: Story):
    """The clean log is worth its name: every result, every right and every input stands in it."""
    text = b"\n".join(record.value or b"" for record in story.records).decode("utf-8", "replace")
    for result in ("fulfilled_with_exceptions", "not_fulfilled", "refused", "withdrawn", "identity_not_confirmed"):
        assert f'"result":"{result}"' in text, result
    for word in ("joined", "leader_gone", "superseded", "gated", "late_report", "retention_ended", "order_failed", "extended"):
        assert f'"fact":"{word}"' in text, word
    for cause in (
        "LeaderClosed",
        "Supersede",
        "RefuseIdentity",
        "ConfirmIdentity",
        "Withdraw",
        "Retry",
        "Waive",
        "Approve",
        "Hold",
    ):
        assert f'"cause":"{cause}"' in text, cause


@pytest.mark.parametrize(
    ("number", "corrupt"), [(n, c) for n, _, c in CORRUPTIONS], ids=[f"{n}-{name}" for n, name, _ in CORRUPTIONS]
)
def test_what_is_broken_is_found_by_its_number(story: Story, number: int, corrupt: Callable[[Broken], object]):
    """One corruption breaks one invariant: that one is found, and no other."""
    log = story.broken()
    corrupt(log)
    found = story.judge(log.records).violations
    assert {violation.invariant for violation in found} == {number}, found


@pytest.mark.parametrize("number", [number for number in INVARIANTS if number != 11])
def test_every_number_has_corruptions(number: int):
    """Each invariant is broken in three ways at least; that of signatures in `test_audit_signatures`."""
    assert sum(n == number for n, _, _ in CORRUPTIONS) >= 3


def test_text_and_code_say_the_same():
    """The page lists the invariants by the same numbers, in the same words."""
    page = re.sub(r"\n {2,}", " ", (Path(__file__).parents[2] / "docs" / "audit.md").read_text())
    assert [f"\n{number}. **{words}**" in page for number, words in INVARIANTS.items()] == [True] * len(INVARIANTS)


@pytest.mark.parametrize("seed", range(5))
def test_order_across_partitions_means_nothing(story: Story, seed: int):
    """Partitions interleaved at random, or one after the other, give the same verdict, clean or broken."""
    log = story.broken()
    for _, _, corrupt in (CORRUPTIONS[seed], CORRUPTIONS[-seed - 1]):
        corrupt(log)
    straight, mixed = story.judge(log.records), story.judge(_interleaved(log.records, random.Random(seed)))
    assert mixed.violations == straight.violations != []
    assert mixed.requests == straight.requests
    assert mixed.duplicates == straight.duplicates


def _interleaved(records: list[LogRecord], chance: random.Random) -> list[LogRecord]:
    partitions: dict[tuple[str, int], list[LogRecord]] = {}
    for record in records:
        partitions.setdefault(record.place[:2], []).append(record)
    queues = [sorted(part, key=lambda r: r.place.offset, reverse=True) for part in partitions.values()]
    mixed = []
    while queues:
        queue = chance.choice(queues)
        mixed.append(queue.pop())
        queues = [q for q in queues if q]
    return mixed


def test_what_only_the_first_reading_saw_is_forgiven(story: Story):
    """Live, a violation counts only if the second reading sees it as well."""
    log = story.broken()
    CORRUPTIONS[0][2](log)
    broken, clean = story.judge(log.records), story.judge(story.records)
    assert confirmed(broken, story.judge(log.records)).violations == broken.violations
    assert confirmed(broken, clean).is_clean


def test_an_overdue_request_that_nobody_was_told_of(story: Story):
    """Judged long after its end, the log's open requests are past their stored waits."""
    verdict = asyncio.run(audit(MemoryLog(story.records), T, as_of=datetime(2027, 1, 1, tzinfo=UTC)))
    found = {(violation.invariant, violation.request) for violation in verdict.violations}
    assert found == {(1, story.told["open"]), (1, story.told["unverified"])}
