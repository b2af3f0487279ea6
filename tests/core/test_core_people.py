"""What people decide: each command, each refusal, and what a repetition does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from core_building import (
    DONE,
    FAILED,
    NOTHING,
    RESULT,
    START,
    World,
    command,
    confirm,
    later,
    registry,
    rid,
    system,
    withdrawal,
)

from orchestrator.core.effects import Input, PublishConfirmation, Wake
from schemas.commands import Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.outcomes import NotApplicable, Waived
from schemas.vocabulary import (
    CancellationReason,
    HoldKind,
    Language,
    NotApplicableReason,
    OrderPhase,
    Phase,
    RefusalGround,
    RequestResult,
    Right,
)


def _world(**more: object) -> World:
    world = World(registry(system("crm"), system("shop", after=("crm",)), **more))  # type: ignore[arg-type] # a regime
    world.submit("a", filed_by="desk:carol")
    return world


# Deny and withdraw ------------------------------------------------------------------------------------------------------------


def test_a_denied_request_says_why_and_how_to_complain() -> None:
    """A refusal carries its ground and the ways to complain, and nothing more is sent."""
    world = World(registry(system("crm")))
    world.submit("a", Right.ACCESS)
    world.do(Deny, "a", ground=RefusalGround.RIGHTS_OF_OTHERS)
    closed = world.confirmation("a")
    assert closed.result is RequestResult.REFUSED and closed.refusal_ground is RefusalGround.RIGHTS_OF_OTHERS
    assert "rights of others" in closed.text[Language.EN] and "Art. 77" in closed.text[Language.EN]


def test_nothing_irreversible_can_be_denied_any_more() -> None:
    """Once an erasure order is out the request cannot be refused as a whole."""
    world = _world()
    before = world.state("a")
    assert world.do(Deny, "a").refused is not None and world.state("a") is before


def test_a_withdrawal_in_time_stops_everything() -> None:
    """Before anything irreversible left, what waits is not sent and what is out is not awaited."""
    world = World(registry(system("crm", irreversible=()), system("shop", after=("crm",))))
    world.submit("a")
    world.say(withdrawal("a"))
    closed = world.confirmation("a")
    assert closed.result is RequestResult.WITHDRAWN
    assert isinstance(closed.systems[0].outcome, Waived)
    assert closed.systems[1].outcome == NotApplicable(reason=NotApplicableReason.WITHDRAWN)
    before = world.state("a")
    assert world.say(withdrawal("a")).state is before, "redelivered: nothing"
    again = world.say(withdrawal("a", START + timedelta(hours=1)))
    assert [type(effect) for effect in again.effects] == [PublishConfirmation], "said again: the same confirmation"
    assert "too_late" not in world.codes("a")
    (told,) = world.cancelled
    assert (told.system, told.attempt, told.reason) == ("crm", 1, CancellationReason.WITHDRAWN), (
        "what was not sent needs no word"
    )
    world.report("a", "crm", NOTHING)
    assert "late_report" not in world.codes("a")
    world.report("a", "crm", DONE)
    assert world.codes("a").count("late_report") == 1, "it was done all the same: somebody must know"
    assert world.confirmation("a") == closed


@pytest.mark.parametrize(("kind", "reason"), [(Deny, CancellationReason.DENIED), (Waive, CancellationReason.WAIVED)])
def test_who_was_asked_is_told_that_it_is_over(kind: Any, reason: CancellationReason) -> None:
    """Denied or waived: each system with an order that is out is told, with the attempt it has; who has answered is not."""
    world = World(registry(*(system(name, irreversible=()) for name in ("crm", "shop"))))
    world.submit("a")
    world.report("a", "crm")
    world.pass_time(timedelta(hours=6))
    more = {"ground": RefusalGround.EXCESSIVE} if kind is Deny else {"system": "shop"}
    world.do(kind, "a", **more)
    (told,) = world.cancelled
    assert (told.system, told.reason) == ("shop", reason)
    assert told.attempt == max(attempt for name, attempt in world.orders("a") if name == "shop") > 1
    assert world.facts("a").count("order_cancelled") == 1


@pytest.mark.parametrize("is_denied", [False, True])
def test_what_was_exported_for_a_person_who_withdrew_is_deleted_again(is_denied: bool) -> None:
    """The system that has answered with results is told too, the one without is not; the confirmation names no result."""
    world = World(registry(*(system(name) for name in ("crm", "shop", "files"))))
    world.submit("a", Right.ACCESS)
    world.report("a", "crm", results=(RESULT,))
    world.report("a", "shop")
    world.do(Deny, "a", ground=RefusalGround.RIGHTS_OF_OTHERS) if is_denied else world.say(withdrawal("a"))
    assert sorted(told.system for told in world.cancelled) == ["crm", "files"]
    closed = world.confirmation("a")
    assert [(one.system, one.outcome, one.results) for one in closed.systems[:2]] == [("crm", DONE, ()), ("shop", DONE, ())]


def test_a_withdrawal_too_late_lists_what_is_done() -> None:
    """After the first irreversible order the request goes on, and the person is told what was done by then."""
    world = _world()
    world.report("a", "crm")
    world.say(withdrawal("a"))
    assert world.said[-1].code == "too_late" and world.said[-1].done == ("crm",)
    world.say(withdrawal("a"))
    assert world.codes("a").count("too_late") == 2, "who asks again is answered again"
    world.do(Withdraw, "a")
    world.answer("a")
    closed = world.confirmation("a")
    assert [change.kind for change in closed.changes] == ["withdrawal_too_late"] * 2
    world.do(Withdraw, "a")
    assert world.said[-1].done == ("crm", "shop") and world.confirmation("a") == closed


def test_only_the_portal_that_filed_a_request_may_withdraw_it() -> None:
    """Another portal's withdrawal is refused."""
    world = _world()
    refused = world.say(withdrawal("a", portal="desk")).refused
    assert refused is not None and refused.code == "foreign_portal"


# The clock --------------------------------------------------------------------------------------------------------------------


def test_an_extension_in_time_moves_the_due_date_and_its_warnings() -> None:
    """The later date counts, the portal hears of it, and it is warned about anew."""
    world = _world()
    world.pass_time(timedelta(days=30))
    assert world.codes("a").count("due_soon") == 1
    world.do(Extend, "a")
    assert world.state("a").due.applicable_due_on == date(2026, 6, 5)  # type: ignore[union-attr] # open: has dates
    assert world.said[-1].code == "extended" and world.said[-1].due_on == date(2026, 6, 5)
    world.pass_time(timedelta(days=100))
    assert world.codes("a").count("due_soon") == 2 and world.codes("a").count("overdue") == 1


def test_an_extension_may_name_an_earlier_day() -> None:
    """What the person was told counts, if it lies behind the first date and within the longest; a later word replaces it."""
    world = _world()
    for until in (date(2026, 4, 7), date(2026, 6, 6)):
        refused = world.do(Extend, "a", until_on=until).refused
        assert refused is not None and (refused.code, refused.field) == ("illegal_move", "until_on")
    for until in (date(2026, 5, 5), date(2026, 5, 20)):
        world.do(Extend, "a", until_on=until)
        due = world.state("a").due
        assert due is not None and (due.applicable_due_on, due.extended_due_on) == (until, date(2026, 6, 5))


def test_where_the_law_leaves_the_length_open_the_day_is_named() -> None:
    """The Swiss controller tells the person by when (DPO Art. 18); without a day there is nothing to extend to."""
    world = World(registry(system("crm"), regime="ch.fadp"))
    world.submit("a", Right.ACCESS)
    refused = world.do(Extend, "a").refused
    assert refused is not None and refused.field == "until_on"
    world.do(Extend, "a", until_on=date(2026, 5, 20))
    assert world.state("a").due.applicable_due_on == date(2026, 5, 20)  # type: ignore[union-attr] # open: has dates


@pytest.mark.parametrize(
    ("days", "notice", "code"), [(34, 34, "extension_too_late"), (1, 5, "illegal_move"), (1, -3, "illegal_move")]
)
def test_an_extension_that_cannot_be_is_refused(days: int, notice: int, code: str) -> None:
    """A notice one day too late, one that is still to be sent, or one before the request moves nothing."""
    world = _world()
    world.pass_time(timedelta(days=days))
    before = world.state("a")
    refused = world.do(Extend, "a", notice_sent_at=START + timedelta(days=notice)).refused
    assert refused is not None and refused.code == code and world.state("a") is before


def test_a_question_to_the_person_stops_the_clock_by_the_rule() -> None:
    """A hold for clarification adds its days; the hold is reviewed on its day, once; nothing is sent meanwhile."""
    world = _world()
    world.do(Hold, "a", kind=HoldKind.CLARIFICATION, review_on=START.date() + timedelta(days=7))
    assert world.do(Hold, "a").refused is not None, "on hold already"
    world.report("a", "crm")
    assert world.orders("a") == [("crm", 1)]
    assert world.do(Retry, "a", system="shop").refused is not None
    world.pass_time(timedelta(days=33))
    assert world.codes("a").count("hold_review") == 1
    assert world.codes("a").count("due_soon") == 1 and world.state("a").due.due_on == date(2026, 4, 7)  # type: ignore[union-attr] # open
    assert world.do(Resume, "a", received_on=START.date() + timedelta(days=60)).refused is not None
    world.do(Resume, "a", received_on=START.date() + timedelta(days=20))
    assert world.orders("a") == [("crm", 1), ("shop", 1)]
    assert world.state("a").due.due_on == date(2026, 4, 28)  # type: ignore[union-attr] # open: has dates
    assert world.do(Resume, "a").refused is not None, "not on hold"
    world.pass_time(timedelta(days=30))
    assert world.codes("a").count("due_soon") == 2, "the new date is warned about anew"


def test_a_pause_that_the_law_may_not_count_is_warned_about_without_it() -> None:
    """No text gives the EU's pauses an arithmetic: the warning comes ahead of the date that leaves them out, and names it."""
    world = _world()
    world.do(Hold, "a", kind=HoldKind.CLARIFICATION, review_on=START.date() + timedelta(days=7))
    world.pass_time(timedelta(days=5))
    world.do(Resume, "a", received_on=(START + timedelta(days=5)).date())
    due = world.state("a").due
    assert due is not None and (due.applicable_due_on, due.alert_on) == (date(2026, 4, 10), date(2026, 4, 7))
    world.pass_time(datetime(2026, 4, 2, 21, 59, tzinfo=UTC) - world.now)
    assert "due_soon" not in world.codes("a")
    world.pass_time(timedelta(minutes=2))  # five days before 24:00 of 7 April in Amsterdam
    assert "due_soon" in world.codes("a")
    other = _world()
    assert other.state("a").due.alert_on is None  # type: ignore[union-attr] # open: has dates


def test_a_legal_hold_stops_orders_and_no_clock() -> None:
    """The legal period runs on, and unanswered orders are not sent again before the hold ends."""
    world = _world()
    world.do(Hold, "a", kind=HoldKind.LEGAL_HOLD)
    world.pass_time(timedelta(days=1))
    assert world.orders("a") == [("crm", 1)]
    world.do(Resume, "a")
    world.pass_time(timedelta(0))
    assert world.orders("a") == [("crm", 1), ("crm", 2)]
    assert len(world.state("a").clock) == 1
    world.do(Hold, "a", kind=HoldKind.LEGAL_HOLD)
    world.pass_time(timedelta(days=4))
    assert world.order("a", "crm").phase is OrderPhase.ESCALATED, "silence is told all the same"
    assert world.do(Retry, "a", system="crm").refused is not None


@pytest.mark.parametrize(
    "more",
    [
        {"review_on": START.date() - timedelta(days=1)},
        {"kind": HoldKind.FEE, "asked_on": START.date() + timedelta(days=2)},
        {"kind": HoldKind.FEE, "asked_on": START.date() - timedelta(days=2)},
    ],
)
def test_holds_that_cannot_be_are_refused(more: dict[str, object]) -> None:
    """No hold without an end to come, none for a question not asked yet or asked before the request."""
    world = _world()
    before = world.state("a")
    assert world.do(Hold, "a", **more).refused is not None and world.state("a") is before


def test_an_identity_that_is_confirmed_ends_its_hold() -> None:
    """A hold for the identity is over when the portal confirms it; any other hold stays."""
    world = World(registry(system("crm"), regime="uk.gdpr"))
    world.submit("a", verified=False)
    world.do(Hold, "a", kind=HoldKind.IDENTITY)
    world.now += timedelta(days=2)
    world.say(confirm("a", world.now))
    assert world.state("a").hold is None and world.orders("a") == [("crm", 1)]
    world.submit("b", person="q", verified=False)
    world.do(Hold, "b", kind=HoldKind.LEGAL_HOLD)
    world.say(confirm("b", world.now))
    assert world.state("b").hold is not None and world.orders("b") == []


def test_information_that_came_before_the_question_blocks_no_hold() -> None:
    """A confirmation dated before the question makes the question void; the request goes on."""
    world = _world()
    world.submit("b", person="q", verified=False)
    world.now += timedelta(days=2)
    world.do(Hold, "b", kind=HoldKind.IDENTITY)
    world.say(confirm("b", START + timedelta(days=1)))
    assert world.orders("b") == [("crm", 1)]


def test_a_hold_gives_the_wait_for_the_identity_its_time_back() -> None:
    """A request on hold does not lapse, and afterwards has the days that the hold took."""
    world = _world()
    world.submit("b", person="q", verified=False)
    world.do(Hold, "b", kind=HoldKind.LEGAL_HOLD)
    world.pass_time(timedelta(days=20))
    assert world.state("b").phase is Phase.VERIFYING
    world.do(Resume, "b")
    world.pass_time(timedelta(days=13))
    assert world.state("b").phase is Phase.VERIFYING
    world.pass_time(timedelta(days=1))
    assert world.state("b").result is RequestResult.IDENTITY_NOT_CONFIRMED


# Systems ----------------------------------------------------------------------------------------------------------------------


def test_a_person_asks_again() -> None:
    """Only what failed or fell silent can be asked again: same order, next attempt; a settled system cannot."""
    world = _world()
    for name in ("crm", "shop", "nobody"):
        assert world.do(Retry, "a", system=name).refused is not None
    world.report("a", "crm", FAILED)
    world.do(Retry, "a", system="crm")
    assert world.orders("a") == [("crm", 1), ("crm", 2)]
    assert {"retried"} <= set(world.facts("a"))
    world.report("a", "crm", FAILED, attempt=1)
    assert world.order("a", "crm").phase is OrderPhase.SENT, "the old failure again"
    world.report("a", "crm")
    assert world.do(Retry, "a", system="crm").refused is not None
    assert world.do(Waive, "a", system="crm").refused is not None


def test_a_waived_system_is_shown_with_who_and_why() -> None:
    """The confirmation names the person and the reason; stages behind the system go on."""
    world = _world()
    world.do(Waive, "a", system="crm", reason="Contract ended, account closed")
    assert world.orders("a") == [("crm", 1), ("shop", 1)]
    world.answer("a")
    closed = world.confirmation("a")
    assert closed.systems[0].outcome == Waived(by="ops:alice", why="Contract ended, account closed")
    assert closed.result is RequestResult.FULFILLED_WITH_EXCEPTIONS and "waived" in world.facts("a")


def test_a_system_is_added_from_todays_registry() -> None:
    """A system of the newest registry joins the plan; one in it, not in use, or unknown does not."""
    world = _world()
    later(world, lake=system("lake"), lab=system("lab", status="planned"), pen=system("pen", Right.ACCESS))
    assert world.do(Add, "a", system="crm").refused is not None
    assert world.do(Add, "a", system="lab").refused is not None
    assert world.do(Add, "a", system="nobody").refused is not None
    world.do(Add, "a", system="lake")
    world.do(Add, "a", system="pen")
    assert ("lake", 1) in world.orders("a")
    world.answer("a")
    closed = world.confirmation("a")
    assert [result.system for result in closed.systems] == ["crm", "shop", "lake", "pen"]
    assert [change.system for change in closed.changes] == ["lake", "pen"]


def test_irreversible_orders_wait_for_other_eyes_and_a_while() -> None:
    """Four eyes and a cooling-off time, per system: the filer cannot approve, and the delay is kept."""
    world = World(registry(system("crm"), system("vault", four_eyes=True, cooling_off=timedelta(days=2))))
    world.submit("a", filed_by="desk:carol")
    assert world.orders("a") == [("crm", 1)] and "approval_awaited" in world.codes("a")
    refused = world.do(Approve, "a", actor="desk:carol").refused
    assert refused is not None and refused.code == "four_eyes"
    world.do(Approve, "a")
    assert world.orders("a") == [("crm", 1)]
    world.pass_time(timedelta(days=2))
    assert ("vault", 1) in world.orders("a") and world.codes("a").count("approval_awaited") == 1
    world.submit("b", Right.ACCESS, person="q")
    assert world.orders("b") == [("crm", 1), ("vault", 1)], "reading can be undone"


def test_what_was_approved_is_the_plan_as_it_was() -> None:
    """A system that is added afterwards and asks for other eyes is waited for again; one that does not leaves at once."""
    world = World(registry(system("crm"), system("vault", four_eyes=True)))
    world.submit("a", filed_by="desk:carol")
    world.do(Approve, "a")
    later(world, later=system("later", four_eyes=True), plain=system("plain"))
    world.do(Add, "a", system="plain")
    assert ("plain", 1) in world.orders("a") and world.state("a").approved_by is not None
    world.do(Add, "a", system="later")
    assert ("later", 1) not in world.orders("a") and world.codes("a").count("approval_awaited") == 2
    assert ("vault", 1) in world.orders("a"), "what has left stays where it is"
    world.do(Approve, "a")
    assert ("later", 1) in world.orders("a")


# Repetitions ------------------------------------------------------------------------------------------------------------------


def test_a_command_again_changes_nothing_even_after_the_end() -> None:
    """A redelivered command is neither carried out twice nor set aside, also when it closed the request."""
    world = World(registry(system("crm")))
    world.submit("a", Right.ACCESS)
    said = command(Deny, "a", number="77")
    world.say(said)
    closed = world.state("a")
    assert closed.phase is Phase.CLOSED
    again = world.say(said)
    assert again.refused is None and again.effects == () and world.state("a") is closed
    reused = world.say(command(Waive, "a", number="77")).refused
    assert reused is not None and reused.code == "id_reused"


def test_an_id_of_another_command_is_refused_and_breaks_nothing() -> None:
    """A command under the id of another is set aside, whatever the table says of it."""
    world = World(registry(system("crm")))
    world.submit("a", Right.ACCESS)
    world.say(command(Hold, "a", number="77"))
    refused = world.say(command(Deny, "a", number="77")).refused
    assert refused is not None and refused.code == "id_reused" and world.state("a").phase is Phase.ACTIVE


def test_a_lost_decision_is_made_again_the_same() -> None:
    """Decided, lost before the save, decided again: the same state, byte by byte, and the same effects."""
    world = _world()
    given = Input(Wake())
    world.now += timedelta(hours=7)
    assert world.give(given, rid("a"), crash=True) == world.give(given, rid("a"))
