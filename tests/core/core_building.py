"""What the tests of the core are built from: a small registry, short messages, and a world that decides in memory.

`World.give` is one transaction: the decision and everything it makes other requests of the person decide. It checks at each
decision what must hold whatever happens, so every test that uses it tests that too.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pydantic_core import TzInfo

from orchestrator.core.decide import decide
from orchestrator.core.effects import (
    CancelOrder,
    Decision,
    Forget,
    Input,
    KeepIdentifiers,
    Opened,
    Publish,
    PublishConfirmation,
    SendOrder,
    Tell,
    Wake,
)
from orchestrator.core.policy import Context, Policy
from orchestrator.core.state import OrderState, RequestState, from_bytes, to_bytes
from schemas.base import Message
from schemas.commands import Add, Approve, Command, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.confirmations import Confirmation
from schemas.ids import digest, order_id, report_id
from schemas.intake import IntakeKey, seal_intake
from schemas.journal import GENESIS, JournalEntry
from schemas.outcomes import Accepted, Failed, Fulfilled, NothingHeld, Notified, Retained
from schemas.registry import Controller, Portal, Registry, System
from schemas.reports import FulfilmentReport, ResultReference
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.status import StatusEvent
from schemas.subject import Need
from schemas.vocabulary import (
    AssuranceLevel,
    ExtensionReason,
    FailureReason,
    HoldKind,
    IdentifierKind,
    IdentityRefusalReason,
    OrderPhase,
    Phase,
    RefusalGround,
    RetentionGround,
    Right,
    Role,
)
from schemas.wire import decode, encode, headers_of

START = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
EMAIL = Need(kind=IdentifierKind.EMAIL)
CONTACT = Need(kind=IdentifierKind.CRM_CONTACT_ID)
ALL_RIGHTS = tuple(Right)
DONE, NOTHING = Fulfilled(count=3), NothingHeld()
FAILED = Failed(reason=FailureReason.UNAVAILABLE)
TOLD = Notified(recipients=("The regulator",))
RETAINED = Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=date(2026, 6, 1), count=2, fulfilled=9)
_SEALED = seal_intake(b"{}", IntakeKey("test-2026", bytes(range(32))).public, "test", secret=bytes(32))


def accepted(expected_by: datetime) -> Accepted:
    """Return a promise."""
    return Accepted(expected_by=expected_by)


def system(name: str, *rights: Right, **more: Any) -> System:
    """Return a system that offers all rights, or these."""
    given = {
        "id": name,
        "title": f"The {name}",
        "role": Role.PROCESSOR,
        "owner": f"Team {name}",
        "connector": "test",
        "rights": rights or ALL_RIGHTS,
        "needs": (EMAIL,),
    }
    return System.model_validate({**given, **more})


def registry(*systems: System, version: str = "r1", regime: str = "eu.gdpr") -> Registry:
    """Return a registry of these systems, for a controller in the Netherlands."""
    return Registry(
        version=version,
        controller=Controller(title="The controller", zone="Europe/Amsterdam", calendar="NL", regime=regime),
        portals=(Portal(id="website", title="Website", owner="Web"), Portal(id="desk", title="Desk", owner="Service desk")),
        systems=systems,
    )


#: Two stages, an identifier found on the way, a right not offered everywhere, a recipient, one system not in use yet.
COMPANY = registry(
    system("crm", yields=(IdentifierKind.CRM_CONTACT_ID,)),
    system("newsletter", Right.ERASURE, Right.OBJECTION, Right.UNSUBSCRIBE, Right.ACCESS),
    system("events", needs=(CONTACT,)),
    system("archive", after=("crm", "newsletter")),
    system("regulator", Right.ERASURE, role=Role.RECIPIENT, irreversible=()),
    system("future", status="planned"),
)


def rid(name: str) -> str:
    """Return the request id that a short name stands for."""
    found = digest(name.encode())
    return f"{found[:8]}-{found[8:12]}-{found[12:16]}-{found[16:20]}-{found[20:32]}"


def verification(at: datetime = START) -> Verification:
    """Return how a portal made sure."""
    return Verification(method="mail_link", level=AssuranceLevel.SUBSTANTIAL, verified_at=at)


class World:
    """Requests of several persons, one registry, one clock, and everything that was published."""

    def __init__(self, book: Registry = COMPANY, *, policy: Policy | None = None, now: datetime = START) -> None:
        self.registry = book
        self.registries = {book.content_digest: book}
        self.policy = policy or Policy()
        self.now = now
        self.states: dict[str, RequestState] = {}
        self.names: dict[str, str] = {}
        self.sent: list[SendOrder] = []
        self.cancelled: list[CancelOrder] = []
        self.said: list[StatusEvent] = []
        self.journal: dict[str, list[tuple[JournalEntry, bytes]]] = {}
        self.confirmations: dict[str, list[str]] = {}
        self.kept: set[str] = set()
        self.forgotten: set[str] = set()
        self.refused: list[tuple[str, str]] = []
        self.count = 0

    # Looking ---------------------------------------------------------------------------------------------------------------

    def state(self, name: str) -> RequestState:
        """Return a request's state."""
        return self.states[rid(name)]

    def order(self, name: str, system: str) -> OrderState:
        """Return an order's state."""
        order = self.state(name).order(system)
        assert order is not None
        return order

    def orders(self, name: str) -> list[tuple[str, int]]:
        """Return what was sent for a request: system and attempt."""
        return [(order.system, order.attempt) for order in self.sent if order.subject_request_id == rid(name)]

    def confirmation(self, name: str) -> Confirmation:
        """Return the one confirmation of a request; there must be exactly one."""
        values = set(self.confirmations[rid(name)])
        assert len(values) == 1
        return Confirmation.model_validate_json(values.pop())

    def codes(self, name: str) -> list[str]:
        """Return what the portal heard, an escalation by its reason."""
        return [
            event.escalation.value if event.escalation else event.code.value
            for event in self.said
            if event.subject_request_id == rid(name)
        ]

    def facts(self, name: str) -> list[str]:
        """Return the names of the facts in a request's journal."""
        return [fact.fact for entry, _ in self.journal.get(rid(name), ()) for fact in entry.facts]

    # Deciding --------------------------------------------------------------------------------------------------------------

    def context(self, request: str, person: str | None) -> Context:
        """Return what a decision may look at: the open verified requests of the person, oldest first."""
        siblings = tuple(
            state
            for other, state in self.states.items()
            if other != request and person is not None and state.person == person and state.phase is Phase.ACTIVE
        )
        siblings = tuple(sorted(siblings, key=lambda state: state.accepted_at or START))
        return Context(registry=self.registry, registries=self.registries, policy=self.policy, siblings=siblings)

    def give(self, given: Input, request: str, *, crash: bool = False) -> Decision:
        """Decide one input and what follows for others. With `crash` all of it is lost, as before a save."""
        kept, self.states = self.states, dict(self.states)
        published: list[tuple[str, Any]] = []
        first: Decision | None = None
        steps = 0
        queue = deque([(request, given)])
        while queue:
            steps += 1
            assert steps < 500, "requests keep each other busy for ever"
            target, one = queue.popleft()
            before = self.states.get(target)
            person = before.person if before else one.opened.person
            decision = decide(before, one, self.now, self.context(target, person))
            self._check(target, before, one, decision)
            first = first or decision
            if decision.state is not None:
                self.states[target] = decision.state
            for effect in decision.effects:
                if isinstance(effect, Tell):
                    queue.append((effect.subject_request_id, Input(effect.message, one.source)))
                else:
                    published.append((target, effect))
        assert first is not None
        if crash:
            self.states = kept
            return first
        if first.refused is not None:
            self.refused.append((type(given.message).__name__, first.refused.code))
        for target, effect in published:
            self._publish(target, effect)
        return first

    def _check(self, request: str, before: RequestState | None, given: Input, decision: Decision) -> None:
        after = decision.state
        if decision.refused is not None:
            assert after is before
            assert all(isinstance(effect, Publish) and isinstance(effect.message, StatusEvent) for effect in decision.effects)
            return
        assert after is not None
        assert from_bytes(to_bytes(after)) == after
        assert to_bytes(from_bytes(to_bytes(after))) == to_bytes(after)
        if before is not None and before.phase is Phase.CLOSED:
            assert after.confirmation == before.confirmation
            assert not any(isinstance(effect, SendOrder) for effect in decision.effects)
        if after.phase is Phase.CLOSED:
            assert after.result is not None and after.confirmation is not None
            assert after.person is None and after.patch is None
        else:
            assert after.wake_at is not None, "an open request waits for a stored moment"
        assert after.wake_at is None or after.wake_at.tzinfo in {UTC, TzInfo(0)}, "a store may drop the zone"
        if isinstance(given.message, Wake) and after.wake_at is not None:
            assert after.wake_at > self.now, "woken, and at once again: a hot loop"

    def _publish(self, request: str, effect: Any) -> None:
        match effect:
            case SendOrder():
                assert request in self.kept and request not in self.forgotten, "an order needs the identity"
                self._check_turn(effect)
                self.sent.append(effect)
            case CancelOrder():
                last = [sent.attempt for sent in self.sent if sent.order_id == effect.order_id][-1]
                assert effect.attempt == last, "what was never sent is called off, or another attempt"
                assert effect.order_id not in {one.order_id for one in self.cancelled}, "called off twice"
                self.cancelled.append(effect)
            case PublishConfirmation():
                self.confirmations.setdefault(request, []).append(effect.value)
            case Publish(message, value) if isinstance(message, JournalEntry):
                assert value is not None
                assert encode(decode(value, headers_of(message), [JournalEntry])) == value, (
                    "an entry says what its model allows"
                )
                entries = self.journal.setdefault(request, [])
                assert message.previous == (digest(entries[-1][1]) if entries else GENESIS), "the chain is broken"
                assert message.sequence == len(entries) + 1
                entries.append((message, value))
            case Publish(message):
                assert isinstance(message, StatusEvent)
                assert decode(encode(message), headers_of(message), [StatusEvent]) == message, (
                    "an event says what its model allows"
                )
                self.said.append(message)
            case KeepIdentifiers():
                assert request not in self.forgotten
                self.kept.add(request)
            case Forget():
                self.forgotten.add(request)

    def _check_turn(self, sent: SendOrder) -> None:
        """An order leaves for the first time only when nobody must go before it."""
        if sent.attempt > 1:
            return
        request = sent.subject_request_id
        state = self.states[request]
        planned = state.order(sent.system)
        assert planned is not None
        for before in self.registries[planned.registry or state.registry].by_id[sent.system].after:
            earlier = state.order(before)
            assert earlier is None or earlier.phase is OrderPhase.SETTLED, "a stage was skipped"
        if sent.right is not Right.ERASURE:
            return
        for other in self.states.values():
            mine = other.order(sent.system)
            waits = other.right is Right.ACCESS and other.phase is Phase.ACTIVE and other.leader is None
            if waits and other.person == state.person and mine is not None:
                assert mine.phase is OrderPhase.SETTLED, "the data goes before its copy was made"

    def pass_time(self, step: timedelta) -> None:
        """Let time pass; each request is woken at the very moment it asked for."""
        until = self.now + step
        while True:
            due = [(state.wake_at, request) for request, state in self.states.items() if state.wake_at is not None]
            if not due or min(due)[0] > until:
                break
            at, request = min(due)
            self.now = max(self.now, at)
            self.give(Input(Wake()), request)
        self.now = until

    # Speaking --------------------------------------------------------------------------------------------------------------

    def say(self, message: Message, *, source: str = "", opened: Opened | None = None, crash: bool = False) -> Decision:
        """Give one record's message; without a source it stands at a new place of its topic."""
        given = as_input(message, source=source or self._next(), opened=opened)
        return self.give(given, message.subject_request_id, crash=crash)  # type: ignore[attr-defined] # all of them have it

    def _next(self) -> str:
        self.count += 1
        return f"t-0-{self.count}"

    def submit(self, name: str, right: Right = Right.ERASURE, **more: Any) -> Decision:
        """File a request: verified, of the one person p, unless said otherwise."""
        return self.say(submission(name, right, now=self.now, **_without(more)), opened=opening(right, more))

    def report(self, name: str, system: str, outcome: Any = DONE, **more: Any) -> Decision:
        """Answer the order to a system, at its current attempt unless said otherwise."""
        known = self.states[rid(name)].order(system)
        attempt = more.pop("attempt", max(1, known.attempt) if known else 1)
        opened = Opened(kinds=more.pop("kinds", ()))
        return self.say(report(name, system, outcome, attempt, now=self.now, **more), opened=opened)

    def do(self, kind: type[Command], name: str, /, **more: Any) -> Decision:
        """Give an operator's command."""
        return self.say(command(kind, name, now=self.now, number=self._next(), **more))

    def answer(self, name: str, outcome: Any = DONE, **more: Any) -> None:
        """Answer every order that is out, until none is."""
        while open_ := [o.system for o in self.state(name).orders if o.phase in {OrderPhase.SENT, OrderPhase.ACCEPTED}]:
            self.report(name, open_[0], outcome, **more)


def _without(more: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in more.items() if key not in {"person", "patch", "kinds", "identity"}}


def opening(right: Right, more: dict[str, Any]) -> Opened:
    """Return what the shell learns from a submission's seal."""
    writes = right in {Right.RECTIFICATION, Right.COMPLETION}
    return Opened(
        kinds=more.get("kinds", (IdentifierKind.EMAIL,)),
        person=more.get("person", "p"),
        patch=more.get("patch", "x" if writes else None),
        identity=more.get("identity", "i"),
    )


def as_input(message: Message, *, source: str, opened: Opened | None = None) -> Input:
    """Return the input that a record with this message is."""
    return Input(message, source, digest(message.model_dump_json().encode()), opened or Opened())


def submission(
    name: str, right: Right = Right.ERASURE, *, now: datetime = START, verified: bool = True, **more: Any
) -> SubmitRequest:
    """Return a SubmitRequest of the website."""
    given = {
        "subject_request_id": rid(name),
        "portal": "website",
        "right": right,
        "submitted_at": now,
        "sealed": _SEALED,
        "verification": verification(now) if verified else None,
    }
    return SubmitRequest.model_validate({**given, **more})


def confirm(name: str, at: datetime = START, portal: str = "website") -> ConfirmIdentity:
    """Return a ConfirmIdentity."""
    return ConfirmIdentity(subject_request_id=rid(name), portal=portal, verification=verification(at))


def refuse(name: str, at: datetime = START, portal: str = "website") -> RefuseIdentity:
    """Return a RefuseIdentity."""
    return RefuseIdentity(
        subject_request_id=rid(name), portal=portal, reason=IdentityRefusalReason.NOT_THE_PERSON, refused_at=at
    )


def withdrawal(name: str, at: datetime = START, portal: str = "website") -> WithdrawRequest:
    """Return a WithdrawRequest."""
    return WithdrawRequest(subject_request_id=rid(name), portal=portal, withdrawn_at=at)


def report(
    name: str, system: str, outcome: Any = DONE, attempt: int = 1, *, now: datetime = START, **more: Any
) -> FulfilmentReport:
    """Return a report, with the id that the connector kit would give it."""
    order = order_id(rid(name), system)
    given = {
        "report_id": report_id(order, attempt, outcome.code),
        "order_id": order,
        "subject_request_id": rid(name),
        "system": system,
        "attempt": attempt,
        "reported_at": now,
        "outcome": outcome,
    }
    return FulfilmentReport.model_validate({**given, **more})


RESULT = ResultReference(reference="exports/crm/1.json", sha256="ab" * 32, size=4096, expires_at=START + timedelta(days=30))

#: What a command needs besides what every command has.
_OWN: dict[type[Command], dict[str, Any]] = {
    Deny: {"ground": RefusalGround.EXCESSIVE},
    Extend: {"because": ExtensionReason.COMPLEXITY},
    Hold: {"kind": HoldKind.LEGAL_HOLD},
    Resume: {},
    Waive: {"system": "crm"},
    Retry: {"system": "crm"},
    Add: {"system": "crm"},
    Approve: {},
    Withdraw: {},
}


def command(kind: type[Command], name: str, /, *, now: datetime = START, number: str = "1", **more: Any) -> Command:
    """Return an operator's command."""
    given = {
        "command_id": f"command-{number}",
        "subject_request_id": rid(name),
        "actor": "ops:alice",
        "reason": "Agreed in the weekly meeting",
        "issued_at": now,
        **_OWN[kind],
    }
    if kind is Extend:
        given["notice_sent_at"] = now
    if kind is Hold:
        given["review_on"] = (now + timedelta(days=14)).date()
    return kind.model_validate({**given, **more})


def later(world: World, **changes: Any) -> Registry:
    """Put a newer registry in force: systems by keyword replace or join the old ones."""
    systems = {known.id: known for known in world.registry.systems} | changes
    book = world.registry.model_copy(update={"version": f"{world.registry.version}x", "systems": tuple(systems.values())})
    book = Registry.model_validate(book.model_dump())
    world.registry = book
    world.registries = {**world.registries, book.content_digest: book}
    return book
