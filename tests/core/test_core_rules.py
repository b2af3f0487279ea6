"""The rules of the core, one by one: identity, plan, stages, answers, silence, the confirmation."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import get_args

import pytest
from core_building import (
    COMPANY,
    CONTACT,
    DONE,
    EMAIL,
    FAILED,
    NOTHING,
    RESULT,
    RETAINED,
    START,
    TOLD,
    World,
    accepted,
    as_input,
    command,
    confirm,
    later,
    refuse,
    registry,
    report,
    rid,
    submission,
    system,
    withdrawal,
)

from orchestrator.core.deadlines import due
from orchestrator.core.decide import has_taken
from orchestrator.core.effects import Input, Opened, PublishConfirmation, Wake
from orchestrator.core.plan import freeze, meets, missing_for_good
from orchestrator.core.policy import Policy
from orchestrator.core.wording import _NOT_SAID, WORDS
from schemas.blobs import BlobKey
from schemas.commands import Add, Deny, Extend, Hold, Resume, Waive, Withdraw
from schemas.confirmations import ChangeAfterAcceptance
from schemas.outcomes import Fulfilled, NotApplicable, Notified, Retained
from schemas.registry import Portal
from schemas.requests import Verification
from schemas.vocabulary import (
    AssuranceLevel,
    HoldKind,
    IdentifierKind,
    Language,
    NotApplicableReason,
    OrderPhase,
    Phase,
    RefusalGround,
    RequestResult,
    RetentionGround,
    Right,
    Role,
)

FOUND = (IdentifierKind.CRM_CONTACT_ID,)


# Identity ---------------------------------------------------------------------------------------------------------------------


def test_an_unverified_request_waits_and_then_ends() -> None:
    """Nothing is sent before somebody vouches for the person; when the stored wait ends, so does the request, confirmed."""
    world = World()
    world.submit("a", verified=False)
    assert world.state("a").phase is Phase.VERIFYING and world.orders("a") == []
    assert world.state("a").verify_by == START + world.policy.verification
    world.pass_time(timedelta(days=13))
    assert world.state("a").phase is Phase.VERIFYING and world.codes("a").count("identity_awaited") == 2
    world.pass_time(timedelta(days=1))
    assert world.confirmation("a").result is RequestResult.IDENTITY_NOT_CONFIRMED
    assert world.confirmation("a").systems == () and "make sure" in world.confirmation("a").text[Language.EN]


def test_a_confirmed_identity_starts_the_work_once() -> None:
    """The plan is frozen when the portal confirms; a second confirmation changes nothing; another portal is refused."""
    world = World()
    world.submit("a", verified=False)
    assert world.say(confirm("a", portal="desk")).refused is not None
    world.say(confirm("a", START + timedelta(hours=1)))
    assert world.state("a").phase is Phase.ACTIVE and world.orders("a")
    before = world.state("a")
    assert world.say(confirm("a")).state is before


def test_a_refused_identity_closes_once() -> None:
    """The portal's refusal closes the request; its repetition changes nothing; another portal may not refuse."""
    world = World()
    world.submit("a", verified=False)
    assert world.say(refuse("a", portal="desk")).refused is not None
    world.say(refuse("a"))
    before = world.state("a")
    assert before.result is RequestResult.IDENTITY_NOT_CONFIRMED
    assert world.say(refuse("a")).state is before


@pytest.mark.parametrize(
    ("changes", "opened", "code"),
    [
        ({"portal": "nobody"}, Opened((IdentifierKind.EMAIL,)), "unknown_portal"),
        ({}, Opened(), "missing_field"),
        ({"right": Right.RECTIFICATION}, Opened((IdentifierKind.EMAIL,)), "missing_field"),
        ({"right": Right.ERASURE}, Opened((IdentifierKind.EMAIL,), "p", "x"), "invalid_field"),
    ],
)
def test_what_cannot_be_taken_is_refused(changes: dict[str, object], opened: Opened, code: str) -> None:
    """A submission of a stranger, about nobody, that changes nothing, or that would send new values about for nothing."""
    world = World()
    decision = world.say(submission("a", **changes), opened=opened)
    assert decision.state is None and decision.refused is not None and decision.refused.code == code


def test_a_submission_again() -> None:
    """The same record says nothing, the same content from another place says again what is known, other content is refused."""
    world = World()
    given = as_input(submission("a", verified=False), source="s-0-1", opened=Opened((IdentifierKind.EMAIL,), "p"))
    world.give(given, rid("a"))
    before = world.state("a")
    assert world.give(given, rid("a")).effects == () and world.state("a") is before
    again = Input(given.message, "s-0-2", given.content, given.opened)
    world.give(again, rid("a"))
    assert world.codes("a") == ["identity_awaited"] * 2
    world.say(confirm("a"))
    world.give(again, rid("a"))
    assert world.codes("a")[-1] == "acknowledged"
    assert world.submit("a", Right.ACCESS).refused.code == "id_reused"  # type: ignore[union-attr] # refused, as asserted
    world.say(withdrawal("a"))
    world.do(Deny, "a")
    world.submit("b", Right.ACCESS)
    world.say(withdrawal("b"))
    assert isinstance(world.submit("b", Right.ACCESS).effects[0], PublishConfirmation)


def test_clocks_that_disagree_are_shown() -> None:
    """A request filed long before it arrived is taken, and a person is told."""
    world = World()
    world.submit("a", submitted_at=START - timedelta(days=3))
    world.submit("b", Right.ACCESS, submitted_at=START + timedelta(hours=24))
    world.submit("c", Right.OBJECTION)
    assert "clock_disagrees" in world.codes("a")
    assert "clock_disagrees" not in world.codes("b") + world.codes("c")


def test_a_moment_that_is_still_to_come_moves_no_legal_date() -> None:
    """Neither that of the request nor that of the verification, whenever it is said; the portal is told which, and why."""
    world, ahead = World(), START + timedelta(hours=24, seconds=1)
    word = Verification(method="mail_link", level=AssuranceLevel.SUBSTANTIAL, verified_at=ahead)
    for field, refused in (
        ("submitted_at", world.submit("a", submitted_at=ahead).refused),
        ("verification.verified_at", world.submit("b", verification=word).refused),
    ):
        assert refused is not None and (refused.code, refused.field) == ("invalid_field", field)
    assert not world.states
    world.submit("c", verified=False)
    due = world.state("c").due
    refused = world.say(confirm("c", ahead)).refused
    assert refused is not None and (refused.code, refused.field) == ("invalid_field", "verification.verified_at")
    assert world.state("c").due == due and world.state("c").phase is Phase.VERIFYING
    world.say(confirm("c", ahead - timedelta(seconds=1)))
    assert world.state("c").phase is Phase.ACTIVE


# Plan and stages --------------------------------------------------------------------------------------------------------------


def test_the_plan_names_every_active_system_and_why_it_does_nothing() -> None:
    """A system without this right is planned too and says why; one that is not in use yet is not."""
    world = World()
    world.submit("a", Right.ACCESS)
    state = world.state("a")
    assert [order.system for order in state.orders] == ["crm", "newsletter", "events", "archive", "regulator"]
    assert world.order("a", "regulator").outcome == NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)
    assert state.registry == COMPANY.content_digest and state.registry_version == "r1"


def test_stages_and_identifiers_found_on_the_way() -> None:
    """A system goes after those it names, and one that lacks an identifier after the one that finds it."""
    world = World()
    world.submit("a")
    assert world.orders("a") == [("crm", 1), ("newsletter", 1), ("regulator", 1)]
    world.report("a", "crm", kinds=FOUND)
    assert world.orders("a")[-1] == ("events", 1)
    world.report("a", "newsletter", NOTHING)
    assert world.orders("a")[-1] == ("archive", 1)


def test_a_need_that_nobody_can_meet_ends_the_order_and_no_other() -> None:
    """When the only source has answered without the identifier, the system is not applicable; the others go on."""
    world = World()
    world.submit("a")
    world.report("a", "crm", NOTHING)
    assert world.order("a", "events").outcome == NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING)
    assert world.order("a", "newsletter").phase is OrderPhase.SENT and world.state("a").phase is Phase.ACTIVE


def test_known_identifiers_found_again_are_kept_without_a_fact() -> None:
    """A second value of a known kind is stored with the others and changes no plan."""
    world = World()
    world.submit("a")
    world.report("a", "crm", kinds=(IdentifierKind.EMAIL,))
    assert "identifiers_yielded" not in world.facts("a") and world.state("a").kinds == (IdentifierKind.EMAIL,)


def test_two_systems_that_need_each_other_do_not_wait_for_ever() -> None:
    """A circle of needs, and a source that itself comes after who needs it, end as missing; a chain does not."""
    phone = EMAIL.model_copy(update={"kind": IdentifierKind.PHONE})
    circle = registry(
        system("one", needs=(CONTACT,), yields=(IdentifierKind.PHONE,)),
        system("two", needs=(phone,), yields=FOUND),
        system("three", needs=(phone,), after=("four",)),
        system("four", needs=(phone,), after=("five",)),
        system("five", needs=()),
    )
    pairs = [(order, circle.by_id[order.system]) for order in freeze(circle, Right.ERASURE, START)]
    assert [order.system for order in missing_for_good(pairs, ())] == ["one", "two", "three", "four"]
    chain = registry(
        system("one", needs=(CONTACT,), after=("x", "y")),
        system("two", yields=FOUND, after=("x", "y")),
        system("late", yields=(IdentifierKind.PHONE,), after=("one",)),
        system("x", after=("z",)),
        system("y", after=("z",)),
        system("z"),
        system("asks-late", needs=(phone,), after=("late",)),
        system("asks-early", needs=(phone,)),
    )
    pairs = [(order, chain.by_id[order.system]) for order in freeze(chain, Right.ERASURE, START)]
    assert missing_for_good(pairs, (IdentifierKind.EMAIL,)) == []
    blocked = registry(system("one", needs=(CONTACT,)), system("two", yields=FOUND, after=("x",)), system("x", after=("one",)))
    pairs = [(order, blocked.by_id[order.system]) for order in freeze(blocked, Right.ERASURE, START)]
    assert [order.system for order in missing_for_good(pairs, (IdentifierKind.EMAIL,))] == ["one"]
    assert meets((), ()) and not meets((EMAIL,), ())


# Answers ----------------------------------------------------------------------------------------------------------------------


def _one(*systems: str) -> World:
    world = World(registry(*(system(name) for name in systems or ("crm",))))
    world.submit("a")
    return world


def test_a_failure_never_closes_a_request() -> None:
    """A failed order waits for a person, who asks again or waives, and the confirmation says so."""
    world = _one("crm", "shop")
    world.report("a", "crm", FAILED, notes=("quota",))
    world.report("a", "shop", FAILED)
    assert world.state("a").phase is Phase.ACTIVE and world.codes("a").count("order_failed") == 2
    world.do(Waive, "a", system="shop")
    world.pass_time(timedelta(days=20))
    assert world.state("a").phase is Phase.ACTIVE
    world.do(Waive, "a", system="crm")
    closed = world.confirmation("a")
    assert closed.result is RequestResult.NOT_FULFILLED
    assert [change.kind for change in closed.changes] == ["waived", "waived"]
    assert "ops:alice" in closed.text[Language.EN] and closed.systems[0].notes == ("quota",)


def test_a_promise_is_progress_and_is_watched() -> None:
    """A system that names a date is left alone until then, a later date counts, an earlier or repeated one does not."""
    world = _one()
    promise = accepted(START + timedelta(days=5))
    world.report("a", "crm", promise)
    assert world.order("a", "crm").respond_by == START + timedelta(days=6)
    before = world.state("a")
    world.report("a", "crm", promise)
    world.report("a", "crm", accepted(START + timedelta(days=4)))
    assert world.state("a") is before
    world.report("a", "crm", accepted(START + timedelta(days=9)))
    world.pass_time(timedelta(days=9))
    assert world.order("a", "crm").phase is OrderPhase.ACCEPTED and world.orders("a") == [("crm", 1)]
    world.pass_time(timedelta(days=1))
    assert world.order("a", "crm").phase is OrderPhase.ESCALATED and world.codes("a")[-1] == "late_beyond_promise"
    world.report("a", "crm", accepted(START + timedelta(days=4)))
    assert world.order("a", "crm").phase is OrderPhase.ESCALATED
    world.report("a", "crm", accepted(world.now + timedelta(days=200)))
    assert world.order("a", "crm").respond_by == world.state("a").due.due_at  # type: ignore[union-attr] # open: has dates
    world.pass_time(timedelta(days=30))
    world.report("a", "crm", accepted(world.now + timedelta(days=300)))
    assert world.order("a", "crm").respond_by == world.now + timedelta(days=301), "after the due date patience ends by itself"


def test_a_silent_system_is_asked_again_and_then_somebody_is_told() -> None:
    """The same order leaves again after a delay that grows, until patience ends."""
    world = _one()
    world.pass_time(timedelta(days=3))
    sent = [order.issued_at - START for order in world.sent]
    assert [step.total_seconds() / 3600 for step in sent] == [0, 6, 18, 42]
    assert len({order.order_id for order in world.sent}) == 1
    assert world.order("a", "crm").phase is OrderPhase.ESCALATED and world.codes("a")[-1] == "no_answer"
    world.pass_time(timedelta(days=3))
    assert len(world.sent) == 4, "what a person looks at is not sent again by itself"


def test_the_delay_grows_to_a_limit() -> None:
    """However long a system's patience, it is asked again at least every two days."""
    world = World(registry(system("crm", patience=timedelta(days=20))))
    world.submit("a")
    world.pass_time(timedelta(days=19))
    steps = [later.issued_at - earlier.issued_at for earlier, later in pairwise(world.sent)]
    assert max(steps) == world.policy.resend_at_most and steps == sorted(steps)


def test_patience_never_goes_beyond_the_due_date() -> None:
    """A patience longer than the legal period ends with it."""
    world = World(registry(system("crm", patience=timedelta(days=90))))
    world.submit("a")
    assert world.sent[0].respond_by == world.state("a").due.due_at  # type: ignore[union-attr] # open: has dates


def test_reports_that_answer_nothing_are_refused() -> None:
    """A report about an unknown system, an order not sent, an attempt not made, or with a reason of ours is set aside."""
    world = World()
    world.submit("a")
    refused = [
        world.report("a", "nobody"),
        world.report("a", "archive"),
        world.report("a", "crm", attempt=2),
        world.report("a", "crm", order_id="ord_1"),
        world.report("a", "crm", NotApplicable(reason=NotApplicableReason.WITHDRAWN)),
    ]
    assert [d.refused.code for d in refused if d.refused] == ["unknown_order"] * 4 + ["invalid_field"]
    assert world.report("a", "crm", NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)).refused is None


def test_the_first_outcome_stands() -> None:
    """A repetition says nothing; another outcome later is noted once and shown to a person, unless a person had waived."""
    world = _one("crm", "shop")
    world.report("a", "crm", DONE)
    before = world.state("a")
    world.report("a", "crm", DONE)
    world.report("a", "crm", Fulfilled(count=9))
    world.report("a", "crm", accepted(START + timedelta(days=1)))
    assert world.state("a") is before
    world.report("a", "crm", NOTHING)
    world.report("a", "crm", NOTHING)
    assert world.order("a", "crm").outcome == DONE
    assert world.codes("a").count("late_report") == 1 and world.facts("a").count("late_report") == 1
    world.do(Waive, "a", system="shop")
    world.report("a", "shop", DONE)
    assert world.codes("a").count("late_report") == 1 and world.facts("a").count("late_report") == 2
    assert len(set(world.confirmations[rid("a")])) == 1


def test_a_failure_that_was_overtaken_says_nothing() -> None:
    """A failure of an earlier attempt changes nothing once the system was asked again, nor after it is done."""
    world = _one()
    world.pass_time(timedelta(hours=6))
    world.report("a", "crm", FAILED, attempt=1)
    assert world.order("a", "crm").phase is OrderPhase.SENT
    world.report("a", "crm", DONE, attempt=1)
    closed = world.state("a")
    world.report("a", "crm", FAILED, attempt=1)
    assert world.state("a") is closed and closed.phase is Phase.CLOSED


def test_the_same_outcome_under_two_attempts_is_one_outcome() -> None:
    """A system that answers both the first and the repeated order the same way is not shown to a person."""
    world = _one("crm", "shop")
    world.pass_time(timedelta(hours=6))
    world.report("a", "crm", DONE, attempt=1)
    before = world.state("a")
    assert world.report("a", "crm", DONE, attempt=2).effects == () and world.state("a") is before


# The confirmation -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        ([DONE, NOTHING], RequestResult.FULFILLED),
        ([DONE, RETAINED], RequestResult.FULFILLED_WITH_EXCEPTIONS),
        ([TOLD, DONE], RequestResult.FULFILLED_WITH_EXCEPTIONS),
        ([RETAINED, RETAINED], RequestResult.FULFILLED_WITH_EXCEPTIONS),
        ([DONE, NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)], RequestResult.FULFILLED),
        ([DONE, NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING)], RequestResult.FULFILLED_WITH_EXCEPTIONS),
        ([NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)] * 2, RequestResult.NOT_FULFILLED),
    ],
)
def test_the_result_follows_from_the_outcomes(outcomes: list[object], result: RequestResult) -> None:
    """What a request ends as is read from what the systems reported, and from nothing else."""
    world = _one("crm", "shop")
    for name, outcome in zip(("crm", "shop"), outcomes, strict=True):
        assert rid("a") not in world.confirmations
        world.report("a", name, outcome)
    assert world.confirmation("a").result is result


def test_the_answer_in_plain_words() -> None:
    """Every outcome has a sentence in both languages: dates, grounds, recipients, lateness; nothing is made prettier."""
    names = ("one", "two", "three", "four", "five", "six")
    world = World(
        registry(*(system(name) for name in names), system("told", role=Role.RECIPIENT), system("later", irreversible=()))
    )
    world.submit("a")
    world.report("a", "one", Fulfilled(count=1, effective_by=date(2027, 1, 31)))
    world.report("a", "two", RETAINED)
    world.report("a", "three", Retained(ground=RetentionGround.NATIONAL_LAW, detail="AWR art. 52"))
    world.report("a", "four", TOLD)
    world.report("a", "five", Fulfilled(count=4, effective_by=date(2026, 3, 5)))
    world.report("a", "six", NOTHING)
    world.report("a", "told", Notified())
    world.pass_time(timedelta(days=40))
    world.do(Waive, "a", system="later")
    closed = world.confirmation("a")
    text = closed.text[Language.EN]
    assert not closed.in_time and closed.recipients_told == ("The regulator", "The told")
    for words in (
        "gone by 31 January 2027",
        "Not all of it has taken effect yet",
        "until 1 June 2026",
        "a legal duty (GDPR Art. 17(3)(b))",
        "because of AWR art. 52",
        "holds nothing",
        "The regulator, The told",
        "We do not know whether it has acted",
        "The legal period ended on 7 April 2026",
        "supervisory authority",
    ):
        assert words in text
    assert "31 januari 2027" in closed.text[Language.NL] and "toezichthouder" in closed.text[Language.NL]


def test_what_people_changed_is_said_in_plain_words() -> None:
    """Extension, hold and what was added, with the day and who decided; what is ours alone is not."""
    world = World(registry(system("crm")))
    world.submit("a")
    later(world, later=system("later"))
    world.do(Hold, "a", kind=HoldKind.LEGAL_HOLD, reason="Proceedings")
    world.do(Resume, "a")
    world.do(Add, "a", system="later", reason="Found afterwards")
    for _ in range(2):
        world.do(Extend, "a")
    world.do(Withdraw, "a")
    world.answer("a")
    english, dutch = world.confirmation("a").text[Language.EN], world.confirmation("a").text[Language.NL]
    for words in (
        "On 5 March 2026 your request was put on hold. ops:alice decided this: Proceedings.",
        "On 5 March 2026 we went on with it.",
        "The later: added to your request on 5 March 2026. ops:alice decided this: Found afterwards.",
        "The legal period was extended, and now ends on 5 June 2026.",
        "On 5 March 2026 you wanted to take it back.",
    ):
        assert english.count(words) == 1
    for words in ("aangehouden", "verdergegaan", "toegevoegd", "eindigt nu op 5 juni 2026", "intrekken"):
        assert dutch.count(words) == 1


def test_days_are_those_of_the_seat() -> None:
    """An answer given after midnight in Amsterdam is of that day, though it is the day before in Greenwich."""
    world = World(registry(system("crm")))
    world.now = datetime(2026, 3, 5, 23, 30, tzinfo=UTC)
    world.submit("a", submitted_at=world.now)
    world.answer("a")
    assert "You asked us on 6 March 2026" in world.confirmation("a").text[Language.EN]
    assert "Dit is ons antwoord van 6 maart 2026" in world.confirmation("a").text[Language.NL]


@pytest.mark.parametrize(("asked_in", "written_in"), [(Language.NL, [Language.NL]), (Language.EN, [Language.NL, Language.EN])])
def test_the_answer_is_the_controllers(asked_in: Language, written_in: list[Language]) -> None:
    """It is written in the languages of the registry and in the person's own, and bears the controller's name."""
    company = registry(system("crm"))
    controller = company.controller.model_copy(update={"languages": (Language.NL,), "title": "Example Company"})
    world = World(company.model_copy(update={"controller": controller}))
    world.submit("a", language=asked_in)
    world.answer("a")
    text = world.confirmation("a").text
    assert list(text) == written_in
    assert all(words.endswith("\nExample Company") for words in text.values())


def test_every_word_exists_in_every_language() -> None:
    """Both tables have the same keys, and each enum member that a confirmation can name has one."""
    keys = set(WORDS[Language.EN])
    changes = set(get_args(ChangeAfterAcceptance.model_fields["kind"].annotation))
    assert changes - _NOT_SAID <= keys and changes >= _NOT_SAID
    assert all(set(WORDS[language]) == keys for language in Language)
    assert {*Right, *RefusalGround, *NotApplicableReason} <= keys
    assert {f"result.{result}" for result in RequestResult} <= keys


def test_results_of_an_access_request_are_named() -> None:
    """The confirmation says where the copies lie."""
    world = World(registry(system("crm")))
    world.submit("a", Right.ACCESS)
    world.report("a", "crm", results=(RESULT,), notes=("exported",))
    assert world.confirmation("a").systems[0].results == (RESULT,)
    assert world.confirmation("a").systems[0].notes == ("exported",)


def test_retained_data_is_remembered_after_the_end() -> None:
    """When the ground for keeping ends a reminder goes out, once, whether the request is closed by then or not."""
    world = _one("crm", "shop")
    world.report("a", "crm", RETAINED)
    world.report("a", "shop", Retained(ground=RetentionGround.LEGAL_CLAIMS, until=date(2026, 3, 20), count=1))
    assert world.state("a").phase is Phase.CLOSED
    world.pass_time(timedelta(days=15))
    assert world.codes("a").count("retention_ended") == 0
    world.pass_time(timedelta(days=300))
    assert world.codes("a").count("retention_ended") == 2 and world.state("a").wake_at is None
    world.submit("b", person="q")
    world.report("b", "shop", Retained(ground=RetentionGround.LEGAL_CLAIMS, until=world.now.date(), count=1))
    world.pass_time(timedelta(days=2))
    assert world.state("b").phase is Phase.ACTIVE and world.codes("b").count("retention_ended") == 1


def test_data_that_is_kept_without_a_date_is_asked_after() -> None:
    """Once, a year after the answer, closed or not; data that is kept until a date is not asked after beside its reminder."""
    world = _one("crm", "shop")
    world.report("a", "crm", Retained(ground=RetentionGround.NATIONAL_LAW, count=1))
    world.report("a", "shop", Retained(ground=RetentionGround.LEGAL_CLAIMS, until=date(2026, 3, 20), count=1))
    world.pass_time(timedelta(days=364, hours=23))
    assert not [event for event in world.said if event.escalation == "retention_review"]
    world.pass_time(timedelta(days=400))
    (event,) = [event for event in world.said if event.escalation == "retention_review"]
    assert event.system == "crm" and event.at == START + timedelta(days=365)
    assert world.state("a").phase is Phase.CLOSED and world.state("a").wake_at is None


# Time -------------------------------------------------------------------------------------------------------------------------


def test_due_dates_are_warned_about_once() -> None:
    """Some days before the due date a person is told, and again when it has passed; each once."""
    world = _one()
    due_at = world.state("a").due.due_at  # type: ignore[union-attr] # open: has dates
    heard = {event.escalation: event.at for event in world.said}
    world.pass_time(timedelta(days=90))
    heard = {event.escalation: event.at for event in world.said if event.escalation in {"due_soon", "overdue"}}
    assert heard == {"due_soon": due_at - world.policy.due_soon, "overdue": due_at}
    assert world.codes("a").count("due_soon") == world.codes("a").count("overdue") == 1


def test_a_worker_that_slept_too_long_says_the_truth_once() -> None:
    """After a downtime beyond the due date only the lateness is told, not that it will come."""
    world = _one()
    world.now += timedelta(days=60)
    world.give(Input(Wake()), rid("a"))
    assert "overdue" in world.codes("a") and "due_soon" not in world.codes("a")
    before = world.state("a")
    world.give(Input(Wake()), rid("a"))
    assert world.state("a") is before


def test_what_closes_late_was_told_to_a_person_at_the_latest_then() -> None:
    """Read after its date, withdrawn before anybody woke it: the lateness is told once; with a warning before, not again."""
    world = World(registry(system("crm")))
    world.submit("a", Right.OBJECTION, submitted_at=START - timedelta(days=5))
    assert "overdue" not in world.codes("a")
    world.say(withdrawal("a", at=START))
    assert world.facts("a")[-2:] == ["escalated", "request_closed"] and world.codes("a").count("overdue") == 1
    assert not world.confirmation("a").in_time
    world.submit("b", Right.OBJECTION)
    due_at = world.state("b").due.due_at  # type: ignore[union-attr] # open: has dates
    world.pass_time(due_at - world.now - timedelta(hours=1))
    world.now += timedelta(hours=2)
    world.say(withdrawal("b", at=world.now))
    assert world.codes("b").count("due_soon") == 1 and "overdue" not in world.codes("b")


def test_short_periods_are_warned_about_late() -> None:
    """A period of hours is warned about when a quarter of it is left."""
    world = World(registry(system("crm")))
    world.submit("a", Right.OBJECTION)
    due_at = world.state("a").due.due_at  # type: ignore[union-attr] # open: has dates
    world.pass_time(timedelta(days=5))
    soon = next(event.at for event in world.said if event.escalation == "due_soon")
    assert due_at - soon == (due_at - START) / 4


def test_no_portal_waits_longer_than_promised_for_a_word() -> None:
    """While a request is open its portal hears something at least as often as the policy says, on hold too."""
    world = World(registry(system("crm", patience=timedelta(days=90))), policy=Policy(status_every=timedelta(days=4)))
    world.submit("a")
    world.do(Hold, "a", kind=HoldKind.LEGAL_HOLD)
    world.pass_time(timedelta(days=60))
    heard = [event.at for event in world.said]
    assert max(b - a for a, b in pairwise(heard)) <= timedelta(days=4)


def test_due_dates_can_be_computed_again_from_the_journal() -> None:
    """Rule, zone, calendar and the facts in the journal give the same date, without the state."""
    world = World()
    world.submit("a", verified=False)
    world.say(confirm("a", START + timedelta(days=1)))
    facts = {fact.fact: fact.details for entry, _ in world.journal[rid("a")] for fact in entry.facts}
    state = world.state("a")
    given = facts["request_received"]
    found = due(given["rule"], state.clock, zone=given["zone"], calendar=given["calendar"], right=given["right"])
    assert found.due_at == state.due.due_at == facts["identity_confirmed"]["due"].due_at  # type: ignore[union-attr] # open


def test_orders_remember_the_registry_they_were_planned_with() -> None:
    """A registry that changes later changes nothing for an open request."""
    world = World()
    world.submit("a")
    later(world, crm=system("crm", Right.ACCESS, needs=()))
    world.report("a", "crm", NOTHING)
    world.answer("a")
    assert world.confirmation("a").registry_version == "r1"


# Results ----------------------------------------------------------------------------------------------------------------------


def test_orders_carry_the_portals_key_only_where_the_answer_is_data() -> None:
    """Access carries today's key of the portal, also after it changed; erasure none; an unknown key is none."""
    key = BlobKey(x="AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c", kid="website-2026")
    keyed = (Portal(id="website", title="Website", owner="Web", blob_key=key),)
    world = World(registry(system("crm")).model_copy(update={"portals": keyed}))
    world.submit("copy", Right.ACCESS, person="p")
    world.submit("gone", Right.ERASURE, person="q")
    assert [order.blob_key for order in world.sent] == [key, None]
    plain = World(registry(system("crm")))
    plain.submit("copy", Right.ACCESS)
    assert [order.blob_key for order in plain.sent] == [None]


# What was taken in before -----------------------------------------------------------------------------------------------------


def test_a_record_that_was_taken_in_is_known_by_its_bytes() -> None:
    """A request by its place as well, a report by its system's last one, a command and a withdrawal by what they say."""
    world = World(registry(system("crm"), system("shop")))
    asked = as_input(submission("a"), source="s-0-1", opened=Opened((IdentifierKind.EMAIL,), "p"))
    world.give(asked, rid("a"))
    kept = as_input(report("a", "crm", RETAINED), source="s-0-2")
    world.give(kept, rid("a"))
    held = as_input(command(Hold, "a", number="7"), source="s-0-3")
    world.give(held, rid("a"))
    back = as_input(withdrawal("a"), source="s-0-4")
    world.give(back, rid("a"))
    state = world.state("a")
    assert all(has_taken(state, given) for given in (asked, kept, held, back))
    others = (
        replace(asked, source="s-0-9"),
        replace(asked, content="x"),
        replace(kept, content="x"),
        as_input(report("a", "crm", NOTHING), source="s-0-2"),
        as_input(report("a", "elsewhere", RETAINED), source="s-0-2"),
        replace(held, content="x"),
        replace(back, content="x"),
        as_input(confirm("a"), source="s-0-5"),
    )
    assert not any(has_taken(state, given) for given in others)
