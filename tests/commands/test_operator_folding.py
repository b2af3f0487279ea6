"""The journal of one request, folded into what a privacy officer sees."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.acting import refusal_of
from orchestrator.commands.folding import RequestView
from orchestrator.commands.telling import FACTS, as_document, awaited, sentence, timeline
from orchestrator.ports import Record
from schemas.journal import GENESIS, JournalEntry, JournalFact
from schemas.status import StatusEvent
from schemas.vocabulary import OrderPhase, Phase, StatusCode

ID = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
OTHER = "0b1c2d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"
AT = datetime(2026, 3, 5, 23, 30, tzinfo=UTC)
DUE = {
    "rule": "eu.gdpr", "due_on": "2026-04-07", "extended_due_on": None, "acknowledge_by_on": None, "notice_by_on": None,
    "applicable_due_on": "2026-04-07", "due_at": "2026-04-07T22:00:00Z",
}  # fmt: skip
RECEIVED = (
    "request_received",
    {
        "portal": "website", "right": "erasure", "submitted_at": "2026-03-05T23:30:00Z", "rule": "eu.gdpr",
        "zone": "Europe/Amsterdam", "calendar": "NL", "due": DUE, "identifiers": ["email"],
    },
)  # fmt: skip
ACCEPTED = (
    "request_accepted",
    {"level": "substantial", "registry": "t", "systems": ["crm", "shop"], "not_applicable": ["shop"]},
)
Facts = tuple[tuple[str, dict[str, Any]], ...]


def entry(sequence: int, *facts: tuple[str, dict[str, Any]], phase: Phase = Phase.ACTIVE) -> JournalEntry:
    return JournalEntry(
        subject_request_id=ID,
        sequence=sequence,
        previous=GENESIS,
        at=AT + timedelta(minutes=sequence),
        cause="SubmitRequest",
        source="t-0-1",
        phase=phase,
        facts=tuple(JournalFact(fact=name, details=details) for name, details in facts),
    )


def folded(*entries: JournalEntry) -> RequestView:
    view = RequestView(ID)
    for one in entries:
        view.journal(one)
    return view


def one_system(*facts: tuple[str, dict[str, Any]]) -> RequestView:
    return folded(
        entry(1, RECEIVED, ACCEPTED), entry(2, ("order_sent", {"system": "crm", "right": "erasure", "attempt": 1}), *facts)
    )


def test_days_are_counted_at_the_seat() -> None:
    """Half past eleven in the evening UTC is the next day in Amsterdam, so one day less is left."""
    view = one_system()
    assert view.days_left(AT) == 32
    assert view.days_left(AT - timedelta(hours=1)) == 33
    assert view.days_left(AT + timedelta(days=40)) == -8


def test_a_doubled_record_changes_nothing() -> None:
    """At least once on the wire: an entry that was read before is not folded again."""
    sent = entry(2, ("order_sent", {"system": "crm", "right": "erasure", "attempt": 1}))
    failed = entry(3, ("order_failed", {"system": "crm", "reason": "throttled", "attempt": 1}))
    assert folded(entry(1, RECEIVED, ACCEPTED), sent, failed, sent).systems["crm"].phase is OrderPhase.ESCALATED


SENT_AGAIN = ("order_sent", {"system": "crm", "right": "erasure", "attempt": 2})
PROMISED = ("order_accepted", {"system": "crm", "expected_by": "2026-03-09T10:00:00Z", "report": "r"})
FAILED = ("order_failed", {"system": "crm", "reason": "rejected", "attempt": 1})
TOLD_FAILED = ("escalated", {"system": "crm", "reason": "order_failed"})
TOLD_SILENT = ("escalated", {"system": "crm", "reason": "no_answer"})


@pytest.mark.parametrize(
    ("facts", "phase", "awaits"),
    [
        ((), OrderPhase.SENT, "crm must answer (asked once"),
        ((PROMISED,), OrderPhase.ACCEPTED, "done by 2026-03-09 11:00:00"),
        ((FAILED, TOLD_FAILED), OrderPhase.ESCALATED, "decide on crm (rejected): `dsr retry"),
        ((TOLD_SILENT,), OrderPhase.ESCALATED, "decide on crm (no_answer)"),
        ((TOLD_SILENT, SENT_AGAIN), OrderPhase.SENT, "asked twice"),
    ],
)
def test_each_wait_has_its_sentence(facts: Facts, phase: OrderPhase, awaits: str) -> None:
    """What a system is waited for, and what a person can do about it."""
    view = one_system(*facts)
    assert view.systems["crm"].phase is phase
    assert len(awaited(view)) == 1
    assert awaits in awaited(view)[0]


def test_a_settled_order_stays_settled() -> None:
    """A late report is told to a person and changes nothing."""
    settled = ("order_settled", {"system": "crm", "outcome": "waived", "seconds": 1.0, "report": None})
    late = ("escalated", {"system": "crm", "reason": "late_report"})
    view = one_system(settled, late)
    assert (view.systems["crm"].phase, view.systems["crm"].outcome) == (OrderPhase.SETTLED, "waived")


def test_what_stands_still_as_a_whole() -> None:
    """A hold, a wait for the identity, a duplicate and an approval each say what ends them."""
    held = one_system(("held", {"kind": "fee", "review_on": "2026-03-20", "actor": "ops:a1", "due": DUE}))
    assert "`dsr resume" in awaited(held)[0]
    held.journal(entry(3, ("resumed", {"kind": "fee", "actor": "ops:a1", "due": DUE})))
    assert "crm must answer" in awaited(held)[0]
    verifying = folded(entry(1, RECEIVED, phase=Phase.VERIFYING))
    verifying.status(StatusEvent(subject_request_id=ID, code=StatusCode.IDENTITY_AWAITED, at=AT, answer_by=AT))
    assert awaited(verifying) == ["portal website must say by 2026-03-06 00:30:00 who is asking"]
    duplicate = folded(entry(1, RECEIVED, ACCEPTED, ("joined", {"leader": OTHER})))
    assert OTHER in awaited(duplicate)[0]
    duplicate.journal(entry(2, ("leader_gone", {"leader": OTHER, "heir": ID})))
    assert duplicate.leader is None
    eyes = folded(entry(1, RECEIVED, ACCEPTED, ("escalated", {"system": "", "reason": "approval_awaited"})))
    assert "`dsr approve" in awaited(eyes)[0]
    eyes.journal(entry(2, ("approved", {"actor": "ops:a1", "reason": "checked"})))
    assert awaited(eyes) == ["crm is asked when its turn comes"]
    gated = folded(entry(1, RECEIVED, ACCEPTED, ("gated", {"by": OTHER, "systems": ["crm"]})))
    assert awaited(gated) == [f"crm is asked after {OTHER} is done there"]


def test_a_closed_request_awaits_nothing() -> None:
    """Its document says how it ended, and has no days left."""
    closed = (
        "request_closed",
        {"result": "fulfilled", "right": "erasure", "in_time": True, "seconds": 1.0, "executed_request": None},
    )
    view = folded(entry(1, RECEIVED, ACCEPTED), entry(2, closed, phase=Phase.CLOSED))
    document = as_document(view, AT)
    assert (document["awaited"], document["days_left"], document["result"]) == ([], None, "fulfilled")
    assert timeline([entry(2, closed, phase=Phase.CLOSED)], "UTC") == [("2026-03-05 23:32:00", "closed: fulfilled, in time")]


def test_every_fact_of_the_core_has_a_sentence() -> None:
    """A fact that the core writes and the timeline cannot tell is a gap in what an officer sees."""
    core = Path(__file__).resolve().parents[2] / "orchestrator" / "core"
    written = {
        call.args[0].value
        for path in core.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "fact"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }
    assert len(written) > 20
    assert written == set(FACTS)


def test_a_fact_of_a_later_release_is_told_by_its_name() -> None:
    """An older `dsr` reads a newer journal without falling over."""
    assert sentence(JournalFact(fact="moon_phase_changed", details={})) == "moon phase changed"


def test_a_refusal_belongs_to_the_record_it_names() -> None:
    """Only the quarantine record whose origin is our record's place answers us."""
    headers = [
        ("dsr-reason", b"illegal_move"), ("dsr-field", b"system"), ("dsr-remedy", b"ask later"),
        ("dsr-origin-topic", b"dsr.commands.v1"), ("dsr-origin-partition", b"2"), ("dsr-origin-offset", b"17"),
    ]  # fmt: skip
    record = Record("dsr.quarantine.v1", 0, 1, 0, ID.encode(), b"{}", headers)
    found = refusal_of(record, "dsr.commands.v1-2-17")
    assert found is not None
    assert str(found) == "illegal_move at system: ask later"
    assert refusal_of(record, "dsr.commands.v1-2-18") is None


def test_what_a_retry_alone_does_not_mend_is_named() -> None:
    """Without a key to seal results to, the system fails again: first the key, then the retry."""
    sent = ("order_sent", {"system": "crm", "attempt": 1})
    for reason, comes_first in (("results_key_missing", True), ("unavailable", False)):
        view = folded(
            entry(1, RECEIVED, ACCEPTED), entry(2, sent), entry(3, ("order_failed", {"system": "crm", "reason": reason}))
        )
        (line,) = awaited(view)
        assert f"({reason})" in line and f"`dsr retry {ID} crm" in line
        assert ("dsr blobs key" in line) == comes_first
