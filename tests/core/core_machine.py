"""The core under everything that can happen at once: any order, doubled, lost and replayed, late, with people in between.

Each rule is one thing that the world does; what must hold whatever happens stands in the invariants here and in the checks of
`core_building.World`. At the end every connector answers, people decide and time passes: then every request must close.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from core_building import (
    ALL_RIGHTS,
    CONTACT,
    DONE,
    FAILED,
    NOTHING,
    RETAINED,
    START,
    TOLD,
    World,
    accepted,
    as_input,
    command,
    confirm,
    opening,
    refuse,
    registry,
    report,
    rid,
    submission,
    system,
    withdrawal,
)
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from orchestrator.core.effects import Input, Opened, Wake
from orchestrator.core.state import RequestState
from schemas.commands import Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.outcomes import Outcome
from schemas.registry import Registry
from schemas.vocabulary import HoldKind, IdentifierKind, OrderPhase, Phase, RequestResult, Right

__all__ = ["CoreMachine"]

BOOK = registry(
    system("crm", yields=(IdentifierKind.CRM_CONTACT_ID,)),
    system("mail", Right.ERASURE, Right.OBJECTION, Right.UNSUBSCRIBE, Right.ACCESS, Right.RECTIFICATION),
    system("events", needs=(CONTACT,), patience=timedelta(days=10)),
    system("vault", after=("crm",), four_eyes=True, cooling_off=timedelta(days=2)),
    system("later", Right.ERASURE, Right.ACCESS, status="planned"),
)
NEXT = Registry.model_validate(
    BOOK.model_dump()
    | {"version": "r2", "systems": [s.model_dump() | {"status": "active"} for s in BOOK.systems if s.id != "mail"]}
)
BOOKS = {book.version: book for book in (BOOK, NEXT)}
SYSTEMS = ("crm", "mail", "events", "vault", "later")
OUTCOMES = st.sampled_from([DONE, NOTHING, TOLD, RETAINED, FAILED, "promise"])
COMMANDS = st.sampled_from([Add, Add, Approve, Deny, Extend, Hold, Resume, Retry, Retry, Waive, Waive, Withdraw])
FREQUENT = st.sampled_from([*ALL_RIGHTS, *[Right.ERASURE, Right.ACCESS] * 4, Right.RECTIFICATION])


class CoreMachine(RuleBasedStateMachine):
    """Requests of two persons in one world."""

    requests: Bundle[str] = Bundle("requests")
    lost: Bundle[tuple[Input, str]] = Bundle("lost")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(BOOK)
        self.world.registries[NEXT.content_digest] = NEXT
        self.inputs: list[tuple[Input, str]] = []
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self.names: list[str] = []
        self.numbers = 0

    def teardown(self) -> None:
        """Let everybody do their part; then all is over."""
        if self.names:
            self._finish()

    # What happens ----------------------------------------------------------------------------------------------------------

    @initialize(target=requests, right=FREQUENT, verified=st.booleans())
    def first(self, right: Right, *, verified: bool) -> str:
        return self._submit(right, "p", "x", verified=verified)

    @rule(
        target=requests,
        right=FREQUENT,
        person=st.sampled_from("ppq"),
        patch=st.sampled_from("xy"),
        identity=st.sampled_from("iij"),
        portal=st.sampled_from(["website", "website", "desk"]),
        verified=st.booleans(),
    )
    def submit(self, right: Right, person: str, patch: str, identity: str, portal: str, *, verified: bool) -> Any:
        if len(self.names) >= 8:
            return multiple()
        return self._submit(right, person, patch, identity=identity, portal=portal, verified=verified)

    def _submit(self, right: Right, person: str, patch: str, *, verified: bool, **more: str) -> str:
        name = f"r{len(self.names)}"
        self.names.append(name)
        identity, portal = more.get("identity", "i"), more.get("portal", "website")
        message = submission(name, right, now=self.world.now, verified=verified, filed_by="ops:alice", portal=portal)
        writes = right in {Right.RECTIFICATION, Right.COMPLETION}
        self._give(message, name, opening(right, {"person": person, "identity": identity, "patch": patch if writes else None}))
        return name

    @rule(
        name=requests,
        kind=st.sampled_from([confirm, confirm, refuse, withdrawal]),
        portal=st.sampled_from(["website"] * 5 + ["desk"]),
    )
    def portal_speaks(self, name: str, kind: Any, portal: str) -> None:
        self._give(kind(name, self.world.now, portal), name)

    @rule(name=requests, where=st.sampled_from(SYSTEMS), outcome=OUTCOMES, back=st.sampled_from([0, 0, 0, 1]))
    def system_answers(self, name: str, where: str, outcome: Any, back: int) -> None:
        self._report(name, where, outcome, back)

    @rule(name=requests, outcome=OUTCOMES)
    def whoever_was_asked_answers(self, name: str, outcome: Any) -> None:
        for order in self.world.state(name).orders:
            if order.phase is OrderPhase.SENT:
                self._report(name, order.system, outcome, 0)
                return

    def _report(self, name: str, where: str, outcome: Any, back: int) -> None:
        known = self.world.state(name).order(where)
        attempt = max(1, (known.attempt if known else 1) - back)
        if outcome == "promise":
            outcome = accepted(self.world.now + timedelta(days=4))
        message = report(name, where, outcome, attempt, now=self.world.now)
        found = (IdentifierKind.CRM_CONTACT_ID,) if where == "crm" and outcome == DONE else ()
        self._give(message, name, Opened(kinds=found))

    @rule(name=requests, kind=COMMANDS, where=st.sampled_from(SYSTEMS), hold=st.sampled_from(HoldKind), days=st.integers(0, 9))
    def operator_decides(self, name: str, kind: Any, where: str, hold: HoldKind, days: int) -> None:
        more: dict[str, Any] = {"actor": "ops:bob"}
        if kind in {Waive, Retry, Add}:
            more["system"] = "later" if kind is Add else where
        if kind is Hold:
            more |= {"kind": hold, "review_on": (self.world.now + timedelta(days=days)).date()}
        if kind is Extend:
            more["notice_sent_at"] = max(START, self.world.now - timedelta(days=days))
            more["until_on"] = (self.world.now + timedelta(days=12 * days)).date() if days % 2 else None
        self.numbers += 1
        self._give(command(kind, name, now=self.world.now, number=f"{self.numbers}", **more), name)

    @rule(hours=st.sampled_from([1, 7, 30, 80, 200, 800]))
    def time_passes(self, hours: int) -> None:
        self.world.pass_time(timedelta(hours=hours))

    @rule(name=requests)
    def woken_for_nothing(self, name: str) -> None:
        self.world.give(Input(Wake()), rid(name))

    @rule(version=st.sampled_from(["r1", "r2"]))
    def registry_changes(self, version: str) -> None:
        self.world.registry = BOOKS[version]

    @rule(which=st.integers(0, 200))
    def redelivered(self, which: int) -> None:
        given, name = self.inputs[which % len(self.inputs)]
        before = self.world.state(name)
        refused = self.world.give(given, rid(name)).refused
        if before.phase is Phase.CLOSED and refused is None:
            assert self.world.state(name).result is before.result

    @rule(count=st.integers(1, 6))
    def batch_replayed(self, count: int) -> None:
        for given, name in self.inputs[-count:]:
            self.world.give(given, rid(name))

    @rule(target=lost, which=st.integers(0, 200))
    def decided_and_lost(self, which: int) -> Any:
        """A crash before the save: as if it had never been decided."""
        given, name = self.inputs[which % len(self.inputs)]
        self.world.give(given, rid(name), crash=True)
        return given, name

    @rule(one=consumes(lost))
    def replayed(self, one: tuple[Input, str]) -> None:
        self.world.give(one[0], rid(one[1]))

    def _give(self, message: Any, name: str, opened: Opened | None = None) -> None:
        self.numbers += 1
        given = as_input(message, source=f"t-0-{self.numbers}", opened=opened)
        self.world.give(given, rid(name), crash=self.numbers % 3 == 0)
        if self.numbers % 3 == 0:
            self.world.give(given, rid(name))
        self.inputs.append((given, name))

    # What must hold --------------------------------------------------------------------------------------------------------

    @invariant()
    def one_confirmation_for_each_closed_request(self) -> None:
        for request, state in self.world.states.items():
            said = set(self.world.confirmations.get(request, ()))
            assert said == ({state.confirmation} if state.phase is Phase.CLOSED else set())

    @invariant()
    def no_confirmation_earlier_than_the_facts(self) -> None:
        for state in self.world.states.values():
            if state.result in {RequestResult.FULFILLED, RequestResult.FULFILLED_WITH_EXCEPTIONS, RequestResult.NOT_FULFILLED}:
                if state.leader is not None:
                    assert state.executed_request == state.leader
                    assert self.world.states[state.leader].phase is Phase.CLOSED
                else:
                    assert all(order.phase is OrderPhase.SETTLED for order in state.orders)

    @invariant()
    def what_is_settled_stays_as_it_is(self) -> None:
        for request, state in self.world.states.items():
            for order in state.orders:
                if order.phase is OrderPhase.SETTLED:
                    assert order.outcome is not None and order.outcome.code not in {"accepted", "failed"}
                    assert self.outcomes.setdefault((request, order.system), order.outcome) == order.outcome

    @invariant()
    def nobody_is_left_without_a_word(self) -> None:
        heard: dict[str, Any] = {}
        for event in self.world.said:
            heard[event.subject_request_id] = event.at
        for request, state in self.world.states.items():
            if state.phase is not Phase.CLOSED:
                assert self.world.now - heard[request] <= self.world.policy.status_every

    @invariant()
    def forgotten_exactly_when_closed(self) -> None:
        closed = {request for request, state in self.world.states.items() if state.phase is Phase.CLOSED}
        assert self.world.forgotten == closed

    @invariant()
    def every_stored_end_has_its_wake_up(self) -> None:
        for state in self.world.states.values():
            ends = [state.next_status_at]
            if state.hold is None:
                ends += [state.verify_by, *(order.resend_at for order in state.orders)]
            ends += [order.respond_by for order in state.orders]
            if state.due is not None and "overdue" not in state.escalated:
                ends.append(state.due.due_at)
            if state.phase is not Phase.CLOSED:
                assert state.wake_at is not None
                assert state.wake_at <= min((end for end in ends if end is not None), default=state.wake_at)

    # How it ends -----------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        world = self.world
        for _ in range(60):
            open_ = [name for name in self.names if world.state(name).phase is not Phase.CLOSED]
            if not open_:
                break
            for name in open_:
                self._everybody_does_their_part(name)
            world.pass_time(timedelta(days=1))
        stuck = [world.state(name) for name in self.names if world.state(name).phase is not Phase.CLOSED]
        assert not stuck, f"a request never ends: {[_brief(state) for state in stuck]}"
        world.pass_time(timedelta(days=4000))
        assert all(state.wake_at is None for state in world.states.values()), "a closed request is woken for ever"

    def _everybody_does_their_part(self, name: str) -> None:
        world = self.world
        state = world.state(name)
        if state.phase is Phase.VERIFYING and state.hold is None:
            world.say(confirm(name, world.now))
        if state.hold is not None:
            world.do(Resume, name, actor="ops:bob")
        if state.approved_by is None and state.phase is Phase.ACTIVE:
            world.do(Approve, name, actor="ops:bob")
        for order in world.state(name).orders:
            now = world.order(name, order.system)
            if now.phase in {OrderPhase.SENT, OrderPhase.ACCEPTED} and world.state(name).phase is Phase.ACTIVE:
                world.report(name, order.system, NOTHING)
            elif now.phase is OrderPhase.ESCALATED and world.state(name).phase is Phase.ACTIVE:
                world.do(Retry if world.count % 2 else Waive, name, system=order.system)


def _brief(state: RequestState) -> Any:
    orders = [(order.system, order.phase.value, order.gated_by) for order in state.orders]
    return state.right.value, state.phase.value, state.leader, state.hold, orders
