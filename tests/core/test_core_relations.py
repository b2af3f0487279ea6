"""What several requests of one person do to each other, from beginning to end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from core_building import COMPANY, FAILED, NOTHING, RETAINED, World, confirm, later, registry, rid, system, withdrawal

from schemas.commands import Add, Deny, Hold, Waive
from schemas.outcomes import NotApplicable
from schemas.subject import Need
from schemas.vocabulary import IdentifierKind, Language, NotApplicableReason, OrderPhase, Phase, RequestResult, Right


def _two(first: Right, second: Right, *, irreversible: tuple[Right, ...] = (Right.ERASURE,)) -> World:
    world = World(registry(system("crm", irreversible=irreversible), system("shop", irreversible=irreversible, after=("crm",))))
    world.submit("one", first)
    world.now += timedelta(hours=1)
    world.submit("two", second)
    return world


# Access before erasure --------------------------------------------------------------------------------------------------------


def test_the_copy_is_made_before_the_data_goes_system_by_system() -> None:
    """Erasure waits, in each system, for the access order there, and no longer."""
    world = _two(Right.ACCESS, Right.ERASURE)
    assert world.orders("two") == []
    world.report("one", "crm")
    assert world.orders("two") == [("crm", 1)] and world.orders("one") == [("crm", 1), ("shop", 1)]
    world.report("two", "crm")
    assert world.orders("two") == [("crm", 1)]
    world.report("one", "shop")
    assert world.state("one").phase is Phase.CLOSED and world.orders("two") == [("crm", 1), ("shop", 1)]


@pytest.mark.parametrize("end", ["withdraw", "deny", "waive"])
def test_a_gate_opens_however_the_other_ends(end: str) -> None:
    """If the access request is withdrawn, refused or waived, the erasure goes on."""
    world = _two(Right.ACCESS, Right.ERASURE)
    if end == "withdraw":
        world.say(withdrawal("one"))
    elif end == "deny":
        world.do(Deny, "one")
    else:
        world.do(Waive, "one", system="crm")
    assert world.orders("two") == [("crm", 1)]


def test_a_failed_order_keeps_the_gate_closed() -> None:
    """While a person still has to look at the access order, the erasure waits; it is told when its own time runs short."""
    world = _two(Right.ACCESS, Right.ERASURE)
    world.report("one", "crm", FAILED)
    world.pass_time(timedelta(days=40))
    assert world.orders("two") == [] and "overdue" in world.codes("two")


def test_access_after_erasure_goes_first_where_nothing_was_deleted_yet() -> None:
    """An erasure that has not reached a system lets a newer access request go first there."""
    world = _two(Right.ERASURE, Right.ACCESS)
    assert world.order("one", "crm").phase is OrderPhase.SENT
    assert world.order("one", "shop").gated_by == (rid("two"),)
    world.report("one", "crm")
    assert world.orders("one") == [("crm", 1)]
    world.answer("two")
    assert world.orders("one") == [("crm", 1), ("shop", 1)]


def test_nothing_to_wait_for_is_not_waited_for() -> None:
    """Where the other has settled already, or the systems differ, no gate is made."""
    world = World(registry(system("crm"), system("shop", Right.ACCESS), system("till", Right.ERASURE, after=("crm",))))
    world.submit("one", Right.ACCESS)
    world.answer("one")
    world.submit("two")
    assert not any(order.gated_by for order in world.state("two").orders)
    world.report("two", "crm")
    world.submit("three", Right.ACCESS)
    assert not any(order.gated_by for order in world.state("two").orders)
    assert world.state("three").followers == ()


def test_gates_of_the_finished_part_are_answered_at_once() -> None:
    """A request that begins to follow another in mid-way learns at once what has settled there."""
    world = World(registry(system("crm"), system("shop", after=("crm",))))
    world.submit("one", Right.ACCESS)
    world.report("one", "crm")
    world.submit("two")
    assert world.orders("two") == [("crm", 1)] and world.order("two", "shop").gated_by == (rid("one"),)


# Suppress before delete -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right", [Right.OBJECTION, Right.UNSUBSCRIBE, Right.RESTRICTION])
def test_an_objection_acts_at_once_even_when_an_erasure_waits(right: Right) -> None:
    """A newer objection is sent at once, and the older erasure waits for it where it has not begun."""
    world = _two(Right.ERASURE, right)
    assert world.orders("two") == [("crm", 1)]
    assert world.order("one", "shop").gated_by == (rid("two"),)


def test_a_duplicate_objection_holds_nothing_back() -> None:
    """An erasure waits for the objection that is carried out, never for its duplicate."""
    world = World(registry(system("crm"), system("shop", after=("crm",))))
    world.submit("erase")
    world.submit("object", Right.OBJECTION)
    world.submit("again", Right.OBJECTION)
    assert world.order("erase", "shop").gated_by == (rid("object"),)
    world.report("erase", "crm")
    world.answer("object")
    assert world.state("again").phase is Phase.CLOSED and ("shop", 1) in world.orders("erase")


# Erasure overtakes corrections ------------------------------------------------------------------------------------------------


def test_an_erasure_overtakes_a_waiting_correction() -> None:
    """What the correction has not sent is settled as overtaken; what a system works on goes first."""
    world = _two(Right.RECTIFICATION, Right.ERASURE)
    assert world.order("one", "shop").outcome == NotApplicable(reason=NotApplicableReason.SUPERSEDED)
    assert world.orders("two") == [] and world.order("two", "crm").gated_by == (rid("one"),)
    world.report("one", "crm")
    closed = world.confirmation("one")
    assert closed.executed_request == rid("two") and "overtook" in closed.text[Language.EN]
    assert world.orders("two") == [("crm", 1)] and "superseded" in world.facts("one")


def test_an_erasure_overtakes_a_failed_correction_whole() -> None:
    """A correction of which nothing is under way closes at once as not fulfilled."""
    world = World(registry(system("crm")))
    world.submit("one", Right.COMPLETION)
    world.report("one", "crm", FAILED)
    world.submit("two")
    assert world.confirmation("one").result is RequestResult.NOT_FULFILLED and world.orders("two") == [("crm", 1)]


def test_a_correction_that_is_all_under_way_is_waited_for() -> None:
    """Nothing is overtaken when every order of the correction is out."""
    world = World(registry(system("crm")))
    world.submit("one", Right.COMPLETION)
    world.submit("two")
    assert world.state("one").executed_request is None and world.orders("two") == []


# Duplicates -------------------------------------------------------------------------------------------------------------------


def test_the_same_wish_twice_is_done_once_and_confirmed_twice() -> None:
    """Only the first sends; both are confirmed with the same outcomes, the second names the first."""
    world = _two(Right.ERASURE, Right.ERASURE)
    assert world.orders("two") == [] and world.codes("two") == ["acknowledged", "duplicate_of"]
    world.answer("one", RETAINED)
    one, two = world.confirmation("one"), world.confirmation("two")
    assert two.executed_request == rid("one") and one.executed_request is None
    assert one.systems == two.systems and one.result is two.result
    assert "work was done under request" in two.text[Language.EN]
    assert world.forgotten == {rid("one"), rid("two")}
    assert world.state("one").person is None and world.state("one").identity is None


@pytest.mark.parametrize("right", Right)
def test_whoever_names_more_of_himself_is_looked_for_again(right: Right) -> None:
    """What the first request did not name it did not look for: the second waits its turn, then asks every system itself."""
    world = World(registry(system("crm"), system("web", needs=(Need(kind=IdentifierKind.GA_CLIENT_ID),))))
    world.submit("one", right, identity="mail")
    world.submit("two", right, identity="mail and cookie", kinds=(IdentifierKind.EMAIL, IdentifierKind.GA_CLIENT_ID))
    assert world.state("two").leader is None and world.order("two", "crm").gated_by == (rid("one"),)
    world.answer("one")
    world.answer("two")
    assert world.orders("one") == [("crm", 1)] and sorted(world.orders("two")) == [("crm", 1), ("web", 1)]
    assert world.confirmation("two").executed_request is None and world.confirmation("two").result is RequestResult.FULFILLED


def test_a_request_of_an_older_release_leads_nobody() -> None:
    """What it named is not known: the next one asks for itself."""
    world = World(registry(system("crm")))
    world.submit("one", identity=None)
    world.submit("two", identity=None)
    assert world.state("two").leader is None and world.order("two", "crm").gated_by == (rid("one"),)


@pytest.mark.parametrize("right", Right)
def test_a_copy_is_made_for_the_portal_that_asked(right: Right) -> None:
    """Results are sealed to one portal's key: who asks for a copy at another one gets it there. All else is done once."""
    world = World(registry(system("crm")))
    world.submit("one", right)
    world.submit("two", right, portal="desk")
    is_copy = right in {Right.ACCESS, Right.PORTABILITY}
    assert world.state("two").leader == (None if is_copy else rid("one"))
    world.answer("one")
    world.answer("two")
    assert world.orders("two") == ([("crm", 1)] if is_copy else [])
    assert world.confirmation("two").executed_request == (None if is_copy else rid("one"))


def test_a_correction_with_other_content_is_no_duplicate() -> None:
    """Equal content is done once; other content waits its turn; going back to an earlier value is a new wish."""
    world = World(registry(system("crm")))
    world.submit("one", Right.RECTIFICATION, patch="blue")
    world.submit("same", Right.RECTIFICATION, patch="blue")
    world.submit("other", Right.RECTIFICATION, patch="red")
    world.submit("back", Right.RECTIFICATION, patch="blue")
    assert world.state("same").leader == rid("one")
    assert world.order("other", "crm").gated_by == (rid("one"),)
    assert world.order("back", "crm").gated_by == (rid("one"), rid("other"))
    for name in ("one", "other", "back"):
        world.answer(name)
    assert [order.subject_request_id for order in world.sent] == [rid("one"), rid("other"), rid("back")]


@pytest.mark.parametrize("end", ["withdraw", "deny"])
def test_an_heir_does_the_work_if_the_first_is_taken_back(end: str) -> None:
    """The oldest duplicate takes over, the others follow it, and each is confirmed under it."""
    world = _two(Right.ACCESS, Right.ACCESS)
    world.submit("three", Right.ACCESS)
    if end == "withdraw":
        world.say(withdrawal("one"))
    else:
        world.do(Deny, "one")
    assert world.state("two").leader is None and world.state("three").leader == rid("two")
    assert world.orders("two") == [("crm", 1)]
    world.answer("two")
    assert world.confirmation("three").executed_request == rid("two")
    assert world.confirmation("two").executed_request is None


def test_an_heir_waits_for_what_its_leader_waited_for() -> None:
    """The copy is made first also when the erasure that waited for it is withdrawn and its duplicate takes over."""
    world = World(registry(system("crm"), system("shop")))
    world.submit("copy", Right.ACCESS)
    world.submit("erase")
    world.submit("again")
    world.say(withdrawal("erase"))
    assert world.state("again").leader is None and world.orders("again") == []
    world.report("copy", "crm")
    assert world.orders("again") == [("crm", 1)]
    world.answer("copy")
    world.answer("again")
    assert world.confirmation("again").result is RequestResult.FULFILLED


def test_who_waited_for_the_leader_waits_for_the_heir() -> None:
    """An erasure behind an access request waits for the duplicate that took the access over."""
    world = World(registry(system("crm"), system("shop")))
    world.submit("copy", Right.ACCESS)
    world.submit("again", Right.ACCESS)
    world.submit("erase")
    world.say(withdrawal("copy"))
    assert world.order("erase", "crm").gated_by == (rid("again"),) and world.orders("erase") == []
    world.answer("again")
    world.answer("erase")
    assert world.state("erase").phase is Phase.CLOSED


def test_what_an_heir_will_not_do_nobody_waits_for() -> None:
    """A system that a person waived on the duplicate before it inherited, or that it never planned, holds nobody back."""
    world = World(registry(system("crm"), system("shop")))
    world.submit("copy", Right.ACCESS)
    later(world, shop=system("shop", status="planned"))
    world.submit("again", Right.ACCESS)
    later(world, shop=system("shop"))
    world.submit("erase")
    world.do(Waive, "again", system="crm")
    assert world.state("again").phase is Phase.ACTIVE, "a duplicate ends with its leader"
    world.say(withdrawal("copy"))
    assert world.state("again").phase is Phase.CLOSED
    assert world.orders("erase") == [("crm", 1), ("shop", 1)]


def test_a_duplicate_that_leaves_is_forgotten_by_its_leader() -> None:
    """A withdrawn duplicate closes alone; the work goes on for the first."""
    world = _two(Right.ERASURE, Right.ERASURE)
    world.say(withdrawal("two"))
    assert world.confirmation("two").result is RequestResult.WITHDRAWN
    assert world.state("one").duplicates == () and world.state("one").phase is Phase.ACTIVE


def test_an_unverified_duplicate_joins_only_when_it_is_verified() -> None:
    """Before that it neither joins nor inherits."""
    world = World(registry(system("crm")))
    world.submit("one", Right.ACCESS)
    world.submit("two", Right.ACCESS, verified=False)
    assert world.state("one").duplicates == ()
    world.say(confirm("two"))
    assert world.state("one").duplicates == (rid("two"),)
    world.submit("three", Right.ACCESS)
    assert world.state("three").leader == rid("one")


def test_a_duplicate_on_hold_still_ends_with_its_leader() -> None:
    """The leader's end is the duplicate's, whatever state it is in."""
    world = _two(Right.ACCESS, Right.ACCESS)
    world.do(Hold, "two")
    world.answer("one")
    assert world.confirmation("two").executed_request == rid("one")


def test_strangers_have_nothing_to_do_with_each_other() -> None:
    """Requests of two persons, and of one nobody can be grouped by, are independent."""
    world = World(COMPANY)
    world.submit("a")
    world.submit("b", person="q")
    world.submit("c", person=None)
    world.submit("d", person=None)
    assert all(world.state(name).leader is None for name in "abcd")
    assert world.report("a", "crm", NOTHING).refused is None


# Systems added later ----------------------------------------------------------------------------------------------------------

LAKE = system("lake")


def _added_to(first: Right, second: Right, name: str, *, lake_for: str) -> World:
    """Two requests of one person; `lake` is planned for one of them and then added to the other."""
    world = World(registry(system("crm")))
    for request, right in (("one", first), ("two", second)):
        later(world, lake=system("lake", status="active" if request == lake_for else "planned"))
        world.submit(request, right)
        world.now += timedelta(hours=1)
    later(world, lake=LAKE)
    world.do(Add, name, system="lake")
    return world


def test_an_added_system_waits_its_turn_too() -> None:
    """A system added to an erasure waits there for the person's access request, whichever of the two is older."""
    world = _added_to(Right.ACCESS, Right.ERASURE, "two", lake_for="one")
    assert world.order("two", "lake").gated_by == (rid("one"),)
    world.answer("one")
    assert ("lake", 1) in world.orders("two")
    world = _added_to(Right.ERASURE, Right.ACCESS, "one", lake_for="two")
    assert world.order("one", "lake").gated_by == (rid("two"),)
    world.answer("two")
    assert ("lake", 1) in world.orders("one")


def test_an_added_system_goes_first_where_it_should() -> None:
    """A system added to an access request is asked before the erasure that waits there."""
    world = World(registry(system("crm")))
    world.submit("one", Right.ACCESS)
    world.now += timedelta(hours=1)
    later(world, lake=system("lake", after=("crm",)))
    world.submit("two")
    world.submit("again")
    world.do(Add, "one", system="lake")
    assert world.order("two", "lake").gated_by == (rid("one"),) and world.state("one").followers == (rid("two"),)
    world.answer("one")
    world.answer("two")
    assert ("lake", 1) in world.orders("two")


def test_a_system_added_to_a_newer_access_request_goes_first_too() -> None:
    """The older erasure has not reached the system yet, so the copy is made first."""
    world = World(registry(system("crm"), system("lake", after=("crm",))))
    world.submit("one")
    later(world, lake=system("lake", status="planned"))
    world.now += timedelta(hours=1)
    world.submit("two", Right.ACCESS)
    later(world, lake=LAKE)
    world.do(Add, "two", system="lake")
    assert world.order("one", "lake").gated_by == (rid("two"),) and ("lake", 1) in world.orders("two")


def test_an_added_system_minds_nobody_it_need_not() -> None:
    """Independent rights change nothing, and a duplicate sends nothing."""
    world = _added_to(Right.ACCESS, Right.OBJECTION, "two", lake_for="one")
    assert ("lake", 1) in world.orders("two")
    world = _added_to(Right.ACCESS, Right.ACCESS, "two", lake_for="one")
    assert world.orders("two") == [] and world.order("two", "lake").phase is OrderPhase.WAITING


def test_an_heir_holds_back_who_was_let_go_where_it_begins_anew() -> None:
    """What the withdrawn request had copied is copied again for its heir before it is deleted."""
    world = World(registry(system("crm"), system("shop", after=("crm",)), system("till")))
    world.submit("copy", Right.ACCESS)
    world.submit("again", Right.ACCESS)
    world.submit("erase")
    world.report("copy", "crm")
    world.report("copy", "shop")
    assert world.orders("erase") == [("crm", 1)] and not world.order("erase", "shop").gated_by
    world.say(withdrawal("copy"))
    assert world.order("erase", "shop").gated_by == (rid("again"),)
    world.report("erase", "crm")
    assert ("shop", 1) not in world.orders("erase")
    world.answer("again")
    assert ("shop", 1) in world.orders("erase")
