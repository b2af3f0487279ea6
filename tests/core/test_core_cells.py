"""Every cell of the two tables: the move that stands there, or a refusal that leaves the state alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from core_building import (
    ALL_RIGHTS,
    START,
    World,
    as_input,
    command,
    confirm,
    refuse,
    report,
    rid,
    submission,
    withdrawal,
)

from orchestrator.core import decide as decide_module
from orchestrator.core.decide import decide
from orchestrator.core.effects import Follow, Input, LeaderClosed, Leave, Opened, Settled, Supersede, Wait, Wake
from orchestrator.core.lifecycle import INPUTS, MOVES, permit
from orchestrator.core.order_lifecycle import ORDER_MOVES, OrderEvent, advance, allows
from orchestrator.core.relations import RELATIONS, Relation
from orchestrator.core.state import OrderState, evolve, to_bytes
from schemas.commands import Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.errors import ProtocolViolation
from schemas.vocabulary import IdentifierKind, OrderPhase, Phase, RequestResult, Right, StatusCode

OTHER = rid("other")
MESSAGES: dict[str, Any] = {
    "SubmitRequest": submission("a", verified=False),
    "ConfirmIdentity": confirm("a"),
    "RefuseIdentity": refuse("a"),
    "WithdrawRequest": withdrawal("a"),
    "FulfilmentReport": report("a", "crm"),
    "Wake": Wake(),
    "Follow": Follow(OTHER),
    "Leave": Leave(OTHER),
    "Wait": Wait(OTHER, ("archive",)),
    "Supersede": Supersede(OTHER),
    "Settled": Settled(OTHER, ("crm",)),
    "LeaderClosed": LeaderClosed(OTHER, RequestResult.WITHDRAWN),
    **{kind.__name__: command(kind, "a") for kind in (Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw)},
}


def _in(phase: Phase) -> World:
    world = World()
    world.submit("other", Right.ACCESS, person="q")
    world.submit("a", Right.ACCESS, verified=phase is not Phase.VERIFYING)
    if phase is Phase.CLOSED:
        world.say(withdrawal("a", START - timedelta(hours=1)))
    assert world.state("a").phase is phase
    return world


@pytest.mark.parametrize("message", INPUTS)
@pytest.mark.parametrize("phase", [Phase.VERIFYING, Phase.ACTIVE, Phase.CLOSED])
def test_cell(phase: Phase, message: str) -> None:
    """A message in a phase leads where its cell says; a missing cell or a refusal leaves the very same state."""
    world = _in(phase)
    before, move = world.state("a"), MOVES[phase].get(message)
    bytes_before = to_bytes(before)
    given = MESSAGES[message]
    if not hasattr(given, "type"):
        given = Input(given)
        if move is None:
            with pytest.raises(AssertionError):
                world.give(given, rid("a"))
            return
        decision = world.give(given, rid("a"))
    else:
        decision = world.say(given)
    if move is None:
        assert decision.refused is not None
    if decision.refused is not None:
        assert decision.state is before and to_bytes(before) == bytes_before and world.state("a") is before
    else:
        assert decision.state is not None and decision.state.phase in (move.to if move else ())


def test_a_move_that_the_table_lacks_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that leads elsewhere than its cell says ends the worker instead of saving the state."""
    monkeypatch.setitem(decide_module._HANDLERS, Leave, lambda draft, _: draft.set(phase=Phase.RECEIVED))
    with pytest.raises(AssertionError, match="does not allow"):
        _in(Phase.ACTIVE).give(Input(MESSAGES["Leave"]), rid("a"))


@pytest.mark.parametrize("message", INPUTS)
def test_nothing_but_a_submission_opens_a_request(message: str) -> None:
    """A message about a request that nobody filed is refused, and makes none."""
    given = MESSAGES[message]
    if message == "SubmitRequest":
        assert decide(
            None, as_input(given, source="s", opened=Opened((IdentifierKind.EMAIL,))), START, World().context("", None)
        )
    elif hasattr(given, "type"):
        decision = World().say(given)
        assert decision.state is None and decision.refused is not None and decision.refused.code == "unknown_request"
    else:
        with pytest.raises(AssertionError):
            World().give(Input(given), rid("a"))


def test_refusals_tell_the_portal_what_to_do() -> None:
    """Who published an impossible fact hears the field and the remedy, never the value."""
    world = _in(Phase.VERIFYING)
    world.say(report("a", "crm"))
    assert world.said[-1].code is StatusCode.REJECTED and world.said[-1].portal == "website"
    assert world.said[-1].field == "type" and "ConfirmIdentity" in (world.said[-1].remedy or "")


def test_every_phase_but_the_first_has_a_remedy() -> None:
    """A refusal in any phase names what to do instead."""
    for phase in Phase:
        with pytest.raises(ProtocolViolation) as caught:
            permit(phase, "Nonsense")
        assert caught.value.remedy


@pytest.mark.parametrize("event", OrderEvent)
@pytest.mark.parametrize("phase", OrderPhase)
def test_order_cell(phase: OrderPhase, event: OrderEvent) -> None:
    """An order moves as its table says, and raises where the table has no cell."""
    order = OrderState(system="crm", phase=phase)
    target = ORDER_MOVES[phase].get(event)
    assert allows(order, event) is (target is not None)
    if target is None:
        with pytest.raises(ValueError, match=event.value):
            advance(order, event)
    else:
        assert advance(order, event, attempt=7) == OrderState(system="crm", phase=target, attempt=7)


# The relations ----------------------------------------------------------------------------------------------------------------

_A, _R, _C, _E = Right.ACCESS, Right.RECTIFICATION, Right.COMPLETION, Right.ERASURE
_S, _P, _O, _U = Right.RESTRICTION, Right.PORTABILITY, Right.OBJECTION, Right.UNSUBSCRIBE
#: The table once more, by hand: = duplicate, ~ duplicate if equal, < newer waits, > older waits, x supersedes, . independent.
EXPECTED = {
    # newer: A    R    C    E    S    P    O    U
    _A: "    =    .    .    <    .    .    .    .",
    _R: "    .    ~    <    x    .    .    .    .",
    _C: "    .    <    ~    x    .    .    .    .",
    _E: "    >    <    <    =    >    >    >    >",
    _S: "    .    .    .    <    =    .    .    .",
    _P: "    .    .    .    <    .    =    .    .",
    _O: "    .    .    .    <    .    .    =    .",
    _U: "    .    .    .    <    .    .    .    =",
}
SIGNS = {
    "=": Relation.DUPLICATE,
    "~": Relation.DUPLICATE_IF_EQUAL,
    "<": Relation.NEWER_WAITS,
    ">": Relation.OLDER_WAITS,
    "x": Relation.SUPERSEDES,
    ".": Relation.INDEPENDENT,
}
COLUMNS = (_A, _R, _C, _E, _S, _P, _O, _U)
CELLS = [
    (older, newer, SIGNS[sign]) for older, row in EXPECTED.items() for newer, sign in zip(COLUMNS, row.split(), strict=True)
]


def test_relations_have_a_cell_for_every_pair() -> None:
    """The table is complete, and so is its copy here."""
    assert set(RELATIONS) == {(older, newer) for older in ALL_RIGHTS for newer in ALL_RIGHTS}
    assert len(CELLS) == 64


@pytest.mark.parametrize(("older", "newer", "relation"), CELLS, ids=str)
def test_relation_cell(older: Right, newer: Right, relation: Relation) -> None:
    """Two requests of one person: the cell says what it should, and that is what happens in a system that both concern."""
    assert RELATIONS[older, newer] is relation
    world = World()
    world.submit("old", older)
    world.now += timedelta(hours=1)
    world.submit("new", newer)
    old, new = world.state("old"), world.state("new")
    first, late = new.order("crm"), old.order("archive")
    assert first is not None and late is not None
    match relation:
        case Relation.DUPLICATE | Relation.DUPLICATE_IF_EQUAL:
            assert new.leader == rid("old") and old.duplicates == (rid("new"),) and world.orders("new") == []
        case Relation.INDEPENDENT:
            assert not first.gated_by and not late.gated_by and first.phase is OrderPhase.SENT
        case Relation.NEWER_WAITS:
            assert first.gated_by == (rid("old"),) and first.phase is OrderPhase.WAITING and old.followers == (rid("new"),)
        case Relation.OLDER_WAITS:
            assert late.gated_by == (rid("new"),) and first.phase is OrderPhase.SENT and new.followers == (rid("old"),)
        case Relation.SUPERSEDES:
            assert late.phase is OrderPhase.SETTLED and old.executed_request == rid("new")
            assert first.gated_by == (rid("old"),), "what a system works on already goes first"


@pytest.mark.parametrize(("older", "newer", "relation"), CELLS, ids=str)
def test_unverified_requests_have_no_relations(older: Right, newer: Right, relation: Relation) -> None:
    """An unverified request neither absorbs, delays nor cancels a verified one, whichever came first."""
    world = World()
    world.submit("old", older, verified=False)
    world.submit("new", newer)
    assert world.state("new").leader is None and not any(order.gated_by for order in world.state("new").orders)
    before = world.state("new")
    world.submit("third", older, verified=False)
    assert world.state("new") is before


@pytest.mark.parametrize(("older", "newer", "relation"), CELLS, ids=str)
def test_both_requests_of_a_pair_close(older: Right, newer: Right, relation: Relation) -> None:
    """Whatever two requests mean to each other: once the systems have answered, both are confirmed and name each other."""
    world = World()
    world.submit("old", older)
    world.submit("new", newer)
    for _ in range(4):
        world.answer("new")
        world.answer("old")
    for name in ("old", "new"):
        assert world.state(name).phase is Phase.CLOSED, name
        assert world.confirmation(name).text
    if relation in {Relation.DUPLICATE, Relation.DUPLICATE_IF_EQUAL}:
        assert world.confirmation("new").executed_request == rid("old")
    if relation is Relation.SUPERSEDES:
        assert world.confirmation("old").executed_request == rid("new")


def test_a_state_has_no_field_that_it_has_not() -> None:
    """A misspelt field is an error, not a new one."""
    with pytest.raises(AttributeError, match="OrderState has no fase"):
        evolve(OrderState(system="crm"), fase=OrderPhase.SENT)
