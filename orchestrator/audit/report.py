"""A verdict in words and as JSON.

Room rules: formats; adds nothing to what was found, and repeats no value of a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from orchestrator.audit.auditor import Verdict
from orchestrator.audit.findings import INVARIANTS

__all__ = ["as_document", "as_lines"]


def as_lines(verdict: Verdict, *, searched: str) -> Iterator[str]:
    """Yield the verdict for people: counts first, then each violation with its place and what it means."""
    broken = sorted({violation.invariant for violation in verdict.violations})
    if broken:
        numbers = ", ".join(map(str, broken))
        yield f"BROKEN: {_many(len(verdict.violations), 'violation')} of {_many(len(broken), 'invariant')} ({numbers})"
    elif not verdict.records:
        yield "Empty: there is no record to judge"
    else:
        # The last one is that of signatures.
        yield f"Clean: none of the {len(INVARIANTS) - (verdict.signed is None)} invariants is broken"
    yield from _counts(verdict, searched)
    for number, found in groupby(verdict.violations, key=lambda violation: violation.invariant):
        yield ""
        yield f"{number}. {INVARIANTS[number]}"
        for violation in found:
            place = violation.place
            where = f"{place.topic} partition {place.partition} offset {place.offset}" if place else "no place"
            yield f"   {violation.request or '(no request)'}  {where}"
            yield f"      {violation.meaning}"


def _counts(verdict: Verdict, searched: str) -> Iterator[str]:
    as_of = f"{verdict.as_of:%Y-%m-%d %H:%M} UTC" if verdict.as_of else "-"
    still_open = verdict.requests - verdict.closed
    yield f"  read        {verdict.records.total()} records; waits are judged as of {as_of}"
    yield f"  requests    {verdict.requests}: {verdict.closed} closed, {still_open} open"
    yield f"  set aside   {verdict.quarantined} records in quarantine, {verdict.findings.waiting} inputs not processed yet"
    yield f"  due dates   {_dates(verdict)}"
    yield f"  duplicates  {_listed(verdict.duplicates) or 'none'} (byte-identical orders, confirmations, journal entries)"
    yield f"  again       {_again(verdict)}"
    yield f"  unverified  {_listed(verdict.findings.unverified) or 'nothing'} (deleted by age before the audit)"
    yield f"  signatures  {_signed(verdict)}"
    yield f"  identities  {searched}"


def _signed(verdict: Verdict) -> str:
    return "not checked (--trust)" if verdict.signed is None else f"{verdict.signed} found good"


def _again(verdict: Verdict) -> str:
    if not verdict.again:
        return "no batch was published again"
    times = f"{verdict.batches_again} time{'' if verdict.batches_again == 1 else 's'}"
    return f"a batch was published again {times}, the largest of {verdict.largest_again} journal entries"


def _dates(verdict: Verdict) -> str:
    return ", ".join(f"{rule} {count} {how}" for (rule, how), count in sorted(verdict.findings.dates.items())) or "none"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def as_document(verdict: Verdict, *, searched: str) -> dict[str, Any]:
    """Return the verdict as one JSON document."""
    return {
        "clean": verdict.is_clean,
        "as_of": verdict.as_of.isoformat() if verdict.as_of else None,
        "records": dict(sorted(verdict.records.items())),
        "requests": {"all": verdict.requests, "closed": verdict.closed, "read_twice": verdict.read_twice},
        "quarantined": verdict.quarantined,
        "inputs_not_processed_yet": verdict.findings.waiting,
        "due_dates": [
            {"rule": rule, "checked": str(how), "count": count} for (rule, how), count in sorted(verdict.findings.dates.items())
        ],
        "duplicates": dict(sorted(verdict.duplicates.items())),
        "published_again": {"batches": verdict.batches_again, "largest": verdict.largest_again},
        "unverified": dict(sorted(verdict.findings.unverified.items())),
        "signatures": verdict.signed,
        "identities": searched,
        "violations": [
            {
                "invariant": violation.invariant,
                "request": violation.request,
                "topic": violation.place.topic if violation.place else None,
                "partition": violation.place.partition if violation.place else None,
                "offset": violation.place.offset if violation.place else None,
                "meaning": violation.meaning,
            }
            for violation in verdict.violations
        ],
    }
