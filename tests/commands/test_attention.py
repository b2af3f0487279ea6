"""What waits for a person, of open and of closed requests."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.commands import status
from orchestrator.commands.attention import in_order, matters
from orchestrator.commands.folding import RequestView
from schemas.journal import GENESIS, JournalEntry, JournalFact
from schemas.vocabulary import EscalationReason, Phase

ID = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
OTHER = "0b1c2d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"
#: Half past midnight of the next day in Amsterdam.
AT = datetime(2026, 3, 5, 23, 30, tzinfo=UTC)
NOW = AT + timedelta(hours=1)
Fact = tuple[str, dict[str, Any]]
RETRY = "dsr retry {} crm --reason ..."


def received(due_on: str = "2026-04-07") -> Fact:
    due = {
        "rule": "eu.gdpr", "due_on": due_on, "extended_due_on": None, "acknowledge_by_on": None, "notice_by_on": None,
        "applicable_due_on": due_on, "due_at": f"{due_on}T22:00:00Z",
    }  # fmt: skip
    return "request_received", {
        "portal": "website", "right": "erasure", "submitted_at": "2026-03-05T23:30:00Z", "rule": "eu.gdpr",
        "zone": "Europe/Amsterdam", "calendar": "NL", "due": due, "identifiers": ["email"],
    }  # fmt: skip


ACCEPTED: Fact = ("request_accepted", {"level": "low", "registry": "t", "systems": ["crm", "shop"], "not_applicable": ["shop"]})
SENT: Fact = ("order_sent", {"system": "crm", "right": "erasure", "attempt": 1})
FAILED: Fact = ("order_failed", {"system": "crm", "reason": "throttled", "attempt": 1})
HELD: Fact = ("held", {"kind": "fee", "review_on": "2026-03-06", "actor": "ops:a1"})
CLOSED: Fact = ("request_closed", {"result": "fulfilled", "right": "erasure", "in_time": True, "seconds": 1.0})


def told(reason: str, system: str = "") -> Fact:
    return "escalated", {"reason": reason, "system": system}


def settled(outcome: str) -> Fact:
    return "order_settled", {"system": "crm", "outcome": outcome, "seconds": 1.0, "report": "r"}


def late(outcome: str) -> Fact:
    return "late_report", {"system": "crm", "outcome": outcome, "report": "r"}


def view(*facts: Fact, request: str = ID, due_on: str = "2026-04-07", at: datetime = AT) -> RequestView:
    """Return a request that has gone through the facts, each in an entry of its own; a closed one stays closed."""
    folded, phase = RequestView(request), Phase.ACTIVE
    for sequence, (name, details) in enumerate((received(due_on), ACCEPTED, *facts), 1):
        phase = Phase.CLOSED if name == "request_closed" else phase
        folded.journal(
            JournalEntry(
                subject_request_id=request, sequence=sequence, previous=GENESIS, at=at, cause="Wake", phase=phase,
                facts=(JournalFact(fact=name, details=details),),
            )
        )  # fmt: skip
    return folded


@pytest.mark.parametrize(
    ("facts", "reason", "why", "helps"),
    [
        (
            (SENT, FAILED, told("order_failed", "crm")),
            "order_failed",
            "crm failed (throttled)",
            RETRY,
        ),
        ((SENT, told("no_answer", "crm")), "no_answer", "crm does not answer", RETRY),
        (
            (SENT, told("late_beyond_promise", "crm")),
            "late_beyond_promise",
            "crm has not kept its promise",
            RETRY,
        ),
        (
            (told("approval_awaited"),),
            "approval_awaited",
            "what cannot be undone waits for a second pair of eyes",
            "dsr approve {} --reason ...",
        ),
        ((HELD,), "hold_review", "the hold (fee) was to be looked at again", "dsr resume {} --reason ..."),
        ((told("clock_disagrees"),), "clock_disagrees", "the portal's clock and ours lie far apart", "dsr show {} --history"),
        (
            (SENT, settled("fulfilled"), CLOSED, late("failed"), told("late_report", "crm")),
            "late_report",
            "crm reported failed after fulfilled",
            "dsr show {} --history",
        ),
        (
            (SENT, settled("fulfilled"), late("retained"), told("late_report", "crm")),
            "late_report",
            "crm reported retained after fulfilled",
            "dsr show {} --history",
        ),
        (
            (SENT, settled("retained"), CLOSED, ("retention_ended", {"system": "crm"})),
            "retention_ended",
            "crm must delete now: its ground for keeping has ended",
            "dsr show {}",
        ),
        (
            (SENT, settled("retained"), CLOSED, told("retention_review", "crm")),
            "retention_review",
            "crm keeps data without a date: does its ground still hold?",
            "dsr show {}",
        ),
    ],
)
def test_what_waits_for_a_person_is_one_line(facts: tuple[Fact, ...], reason: str, why: str, helps: str) -> None:
    """Each has its reason, its words, the day at the controller's seat, and the command that helps."""
    (one,) = matters(view(*facts), NOW)
    assert (one.reason, one.why, one.since, one.helps) == (EscalationReason(reason), why, "2026-03-06", helps.format(ID))


@pytest.mark.parametrize(
    "facts",
    [
        (),
        (SENT,),
        (SENT, FAILED, ("order_sent", {"system": "crm", "right": "erasure", "attempt": 2})),
        (SENT, FAILED, settled("waived"), CLOSED),
        (told("approval_awaited"), ("approved", {"actor": "ops:a1", "reason": "checked"})),
        (told("approval_awaited"), settled("waived")),
        (told("approval_awaited"), settled("not_applicable"), CLOSED),
        (SENT, FAILED, CLOSED),
        (HELD, ("resumed", {"kind": "fee", "actor": "ops:a1"})),
        (HELD, settled("waived"), CLOSED),
        (told("clock_disagrees"), SENT, settled("fulfilled"), CLOSED),
        # Nobody was waiting for an answer of a waived system: no person was told.
        (SENT, settled("waived"), CLOSED, late("fulfilled")),
    ],
)
def test_what_is_decided_or_waits_for_nobody_is_not_shown(facts: tuple[Fact, ...]) -> None:
    """A list of what is to be done does not show what was done."""
    assert matters(view(*facts), NOW) == []


def test_a_hold_is_due_from_its_day_on() -> None:
    """On the day of review somebody looks, not before it."""
    held = view(HELD)
    assert matters(held, AT - timedelta(hours=1)) == []
    assert [one.reason for one in matters(held, AT)] == [EscalationReason.HOLD_REVIEW]


def test_a_failure_on_hold_says_what_would_not_be_refused() -> None:
    """Nothing is sent while a request is on hold."""
    held = view(SENT, FAILED, ("held", {"kind": "fee", "review_on": "2026-05-01", "actor": "ops:a1"}))
    assert [one.helps for one in matters(held, NOW)] == [f"dsr resume {ID} --reason ..."]


def test_who_has_deleted_after_its_ground_ended_need_not_delete() -> None:
    """What remains is that the person was told something else; a system that failed at it must still delete."""
    kept = (SENT, settled("retained"), CLOSED, ("retention_ended", {"system": "crm"}))
    gone = matters(view(*kept, late("fulfilled"), told("late_report", "crm")), NOW)
    assert [one.reason for one in gone] == [EscalationReason.LATE_REPORT]
    failed = matters(view(*kept, late("failed"), told("late_report", "crm")), NOW)
    assert [one.reason for one in failed] == [EscalationReason.RETENTION_ENDED, EscalationReason.LATE_REPORT]


def test_open_requests_come_first_by_due_date_then_the_newest_that_closed() -> None:
    """What still has a date comes before what nobody can end in the log."""
    told_late = (SENT, settled("fulfilled"), CLOSED, late("failed"), told("late_report", "crm"))
    views = [
        old := view(*told_late, at=AT - timedelta(days=9)),
        second := view(SENT, FAILED, due_on="2026-04-09"),
        new := view(*told_late),
        first := view(SENT, FAILED, due_on="2026-04-08"),
    ]
    found = in_order([one for each in views for one in matters(each, NOW)])
    assert [views.index(one.view) for one in found] == [views.index(one) for one in (first, second, new, old)]


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three requests: one waits for a decision, one is closed and was contradicted, one is at work."""
    folded = [
        view(SENT, FAILED),
        view(SENT, settled("fulfilled"), CLOSED, late("failed"), told("late_report", "crm"), request=OTHER),
        view(SENT, request="11111111-2222-4333-8444-555555555555"),
    ]

    async def read(*_: object) -> tuple[dict[str, RequestView], int]:
        return {one.subject_request_id: one for one in folded}, 17

    monkeypatch.setattr(status, "fold_journal", read)


def listed(*more: str) -> str:
    done = CliRunner().invoke(app, ["list", *more], env={"DSR_KAFKA_BOOTSTRAP": "127.0.0.1:1"})
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.mark.usefixtures("journal")
def test_the_command_shows_closed_requests_too() -> None:
    """One unbroken line each, and how many there are; `dsr list` alone shows open requests as before."""
    first, second, third, last = listed("--attention").splitlines()
    assert first.split() == ["since", "right", "phase", "why", "what", "helps"]
    assert second == f"2026-03-06  erasure  active  crm failed (throttled)               dsr retry {ID} crm --reason ..."
    assert third == f"2026-03-06  erasure  closed  crm reported failed after fulfilled  dsr show {OTHER} --history"
    assert last == "2 to decide or look at, in 2 of 3 requests; 17 journal records read"
    assert OTHER not in listed()


@pytest.mark.usefixtures("journal")
def test_the_other_options_choose_among_them() -> None:
    """A phase, a right or a date chooses as without it."""
    assert OTHER not in listed("--attention", "--phase", "active")
    assert ID not in listed("--attention", "--phase", "closed")
    assert listed("--attention", "--right", "access").startswith("0 to decide or look at, in 0 of 3 requests")


@pytest.mark.usefixtures("journal")
def test_a_program_reads_the_same() -> None:
    """The document names request, system, reason and command."""
    document = json.loads(listed("--attention", "--json"))
    assert document["journal_records"] == 17
    assert document["attention"][1] == {
        "subject_request_id": OTHER, "right": "erasure", "phase": "closed", "due_on": "2026-04-07", "system": "crm",
        "reason": "late_report", "why": "crm reported failed after fulfilled", "since": "2026-03-06",
        "helps": f"dsr show {OTHER} --history",
    }  # fmt: skip
