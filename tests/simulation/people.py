"""Portals, data subjects and operators: what they publish, by seed, over hours or months.

Room rules: only publishes, and looks at the store as an operator's console does.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from orchestrator.adapters.keys import RequestKeys
from orchestrator.core.state import OrderState, RequestState, from_bytes
from schemas.base import Message
from schemas.commands import Approve, Command, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.intake import seal_intake
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.subject import FieldChange, SubjectData
from schemas.vocabulary import (
    AssuranceLevel,
    EscalationReason,
    ExtensionReason,
    HoldKind,
    IdentifierKind,
    IdentityRefusalReason,
    OrderPhase,
    Phase,
    QuarantineReason,
    RefusalGround,
    Right,
)
from schemas.wire import TYPE_HEADER, VERSION_HEADER, encode, headers_of
from tests.keys_kit import intake_of, request_keys
from tests.simulation.broker import Broker
from tests.simulation.clockwork import instant_of
from tests.simulation.company import PEOPLE, ROOT
from tests.simulation.store import Database

__all__ = ["People"]

_RIGHTS = (Right.ERASURE, Right.ERASURE, Right.ERASURE, Right.ACCESS, Right.ACCESS, Right.RECTIFICATION, Right.OBJECTION)
_WRITES = {Right.RECTIFICATION, Right.COMPLETION}
#: When something is done, in seconds from the start, and what.
Agenda = list[tuple[float, Callable[[], None]]]


@dataclass(slots=True)
class People:
    """Everyone outside the product."""

    dice: random.Random
    broker: Broker
    database: Database
    systems: tuple[str, ...]
    #: Valid requests that were published.
    submitted: dict[str, SubmitRequest] = field(default_factory=dict)
    #: Where somebody wrote what is no message.
    poisoned: set[tuple[str, int, int]] = field(default_factory=set)
    retries: Counter[tuple[str, str]] = field(default_factory=Counter)
    _keys: RequestKeys = field(default_factory=lambda: request_keys(ROOT))
    _commands: int = 0
    #: Draws what operators in a hurry do, in worlds that have some: commands that cross each other and what they speak of.
    hurry: random.Random | None = None

    # Portals -----------------------------------------------------------------------------------------------------------------

    def agenda(self, requests: int, span: float, people: int) -> Agenda:
        """Return what happens in the troubled time, in order."""
        dice, plan = self.dice, Agenda()
        for _ in range(requests):
            at = dice.uniform(0, span * 0.6)
            self._plan_request(plan, at, span, dice.choice(PEOPLE[:people]))
        for _ in range(dice.choice((0, 0, 1, 2))):
            plan.append((dice.uniform(0, span), self._poison))
        for _ in range(dice.choice((0, 1, 3, 6))):
            plan.append((dice.uniform(span * 0.1, span), self._operator_meddles))
        for _ in range(dice.choice((0, 2, 5))):
            plan.append((dice.uniform(span * 0.1, span), self.operator_helps))
        return sorted(plan, key=lambda entry: entry[0])

    def _plan_request(self, plan: Agenda, at: float, span: float, person: str) -> None:
        dice = self.dice
        request = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        right, verified = dice.choice(_RIGHTS), dice.random() > 0.2
        filed_by = "desk:carl" if dice.random() < 0.2 else None
        plan.append((at, lambda: self._submit(request, right, person, verified, filed_by)))
        if dice.random() < 0.3:
            plan.append((at + dice.choice((0.0, 1.0, dice.uniform(0, span))), lambda: self._submit_again(request)))
        if not verified and dice.random() < 0.7:
            confirm = dice.random() < 0.8
            plan.append((at + dice.uniform(0, span / 2), lambda: self._speak_of_identity(request, confirm=confirm)))
        if dice.random() < 0.12:
            plan.append((at + dice.uniform(0, span / 2), lambda: self._withdraw(request)))
        if self.hurry is not None:
            for _ in range(self.hurry.randrange(3, 9)):
                plan.append((at + self.hurry.uniform(0, 12), self._operator_meddles))

    def _submit(self, request: str, right: Right, person: str, verified: bool, filed_by: str | None) -> None:
        changes = (FieldChange(field="street", new="Simulated-Street 1"),) if right in _WRITES else ()
        identifiers = {IdentifierKind.EMAIL: (person,)}
        if request[0] in "0123":  # not by the dice, which other choices hang on
            identifiers[IdentifierKind.PHONE] = ("+31200000000",)
        data = SubjectData(identifiers=identifiers, changes=changes)
        message = SubmitRequest(
            subject_request_id=request,
            portal="website",
            right=right,
            submitted_at=self._now(),
            sealed=seal_intake(data.to_bytes(), intake_of(ROOT).public, request, secret=bytes(32)),
            verification=self._verification() if verified else None,
            filed_by=filed_by,
        )
        self.submitted[request] = message
        self._say(self._topic_of(request), message)

    def _submit_again(self, request: str) -> None:
        if request in self.submitted:
            self._say(self._topic_of(request), self.submitted[request])

    def _topic_of(self, request: str) -> str:
        """Return where everything about a request is said; of one that was not filed, where one of its right might be."""
        filed = self.submitted.get(request)
        return self.broker.topics.requests if filed is None else self.broker.topics.requests_for(filed.right)

    def _verification(self) -> Verification:
        return Verification(method="mail_link", level=AssuranceLevel.SUBSTANTIAL, verified_at=self._now())

    def _speak_of_identity(self, request: str, *, confirm: bool) -> None:
        message: Message
        if confirm:
            message = ConfirmIdentity(subject_request_id=request, portal="website", verification=self._verification())
        else:
            reason = IdentityRefusalReason.NOT_THE_PERSON
            message = RefuseIdentity(subject_request_id=request, portal="website", reason=reason, refused_at=self._now())
        self._say(self._topic_of(request), message)

    def _withdraw(self, request: str) -> None:
        self._say(
            self._topic_of(request),
            WithdrawRequest(subject_request_id=request, portal="website", withdrawn_at=self._now()),
        )

    def _poison(self) -> None:
        topics = self.broker.topics
        topic = self.dice.choice(
            (*topics.all_requests, topics.commands, topics.reports, topics.orders(self.dice.choice(self.systems)))
        )
        value = self.dice.choice((b"", b"{", b'{"type":"SubmitRequest"}', b'{"type":"Mystery","version":1}', bytes(range(256))))
        key = self.dice.choice((None, b"poison", *(request.encode() for request in self.submitted)))
        stored = self.broker.append("somebody", topic, key, value, ())
        self.poisoned.add((stored.topic, stored.partition, stored.offset))

    # Operators ---------------------------------------------------------------------------------------------------------------

    def _operator_meddles(self) -> None:
        """Do something, sensible or not, to some request."""
        if not self.submitted:
            return
        request = self.dice.choice(list(self.submitted))
        now = self._now()
        kind, fields = self.dice.choice(
            (
                (Hold, {"kind": HoldKind.LEGAL_HOLD, "review_on": (now + timedelta(days=10)).date()}),
                (Hold, {"kind": HoldKind.CLARIFICATION, "review_on": (now + timedelta(days=5)).date()}),
                (Resume, {}),
                (Extend, {"because": ExtensionReason.COMPLEXITY, "notice_sent_at": now}),
                (Deny, {"ground": RefusalGround.EXCESSIVE}),
                (Withdraw, {}),
                (Approve, {}),
                (Waive, {"system": self.dice.choice(self.systems)}),
                (Retry, {"system": self.dice.choice(self.systems)}),
            )
        )
        self.command(kind, request, twice=self.dice.random() < 0.25, **fields)

    def operator_helps(self) -> None:
        """Look at what is open and do what it asks for; what stays escalated after a retry is waived."""
        for request in sorted(self.database.rows):
            state = from_bytes(self.database.rows[request].state)
            if state.phase is Phase.CLOSED:
                continue
            if state.hold is not None:
                self.command(Resume, request)
                continue
            self._help(state)

    def _help(self, state: RequestState) -> None:
        request = state.subject_request_id
        if EscalationReason.APPROVAL_AWAITED in state.escalated and state.approved_by is None:
            self.command(Approve, request)
        if state.phase is Phase.VERIFYING and self.dice.random() < 0.3:
            self._speak_of_identity(request, confirm=True)
        for order in state.orders:
            if order.phase is OrderPhase.ESCALATED:
                self._help_order(request, order)

    def _help_order(self, request: str, order: OrderState) -> None:
        self.retries[request, order.system] += 1
        kind: type[Command] = Retry if self.retries[request, order.system] <= 3 else Waive
        self.command(kind, request, system=order.system)

    def replay_defects(self) -> None:
        """Publish again, as `dsr quarantine replay` does, what was set aside because the worker's own code failed at it."""
        for record in self.broker.records(self.broker.topics.quarantine):
            told = dict(record.headers)
            if told.get("dsr-reason") == QuarantineReason.DEFECT.encode():
                headers = [(name, value) for name, value in record.headers if name in {TYPE_HEADER, VERSION_HEADER}]
                self.broker.append("operator", told["dsr-origin-topic"].decode(), record.key, record.value, headers)

    def command(self, kind: type[Command], request: str, /, *, twice: bool = False, **fields: Any) -> None:
        """Publish a command."""
        self._commands += 1
        given = {
            "command_id": f"command-{self._commands:04d}",
            "subject_request_id": request,
            "actor": "ops:anna",
            "reason": "Agreed with the privacy office",
            "issued_at": self._now(),
            **fields,
        }
        for _ in range(1 + twice):
            self._say(self.broker.topics.commands, kind.model_validate(given))

    def _now(self) -> Any:
        return instant_of(self.broker.loop.micros)

    def _say(self, topic: str, message: Message) -> None:
        key: str = message.subject_request_id  # type: ignore[attr-defined] # all of them have it
        who = "operator" if isinstance(message, Command) else "portal"
        self.broker.append(who, topic, key.encode(), encode(message), headers_of(message))
