"""The sheet on which one decision is worked out: a state, what became true, what is to be done.

It lives for one call of `decide` and is seen by no one else; what leaves is frozen.

Room rules: collects; the rules stand in the other files of this room.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.core.effects import Effect, Internal, Publish, Tell
from orchestrator.core.policy import Context
from orchestrator.core.state import OrderState, RequestState, evolve, put
from schemas.confirmations import ChangeAfterAcceptance, SystemResult
from schemas.journal import JournalFact
from schemas.registry import Registry, System
from schemas.status import StatusEvent
from schemas.vocabulary import EscalationReason, OrderPhase, Phase, StatusCode

__all__ = ["Draft"]


class Draft:
    """A decision in the making."""

    __slots__ = ("_owned", "carried_out", "content", "context", "effects", "facts", "now", "results", "source", "state")

    def __init__(self, state: RequestState, now: datetime, context: Context, *, source: str = "", content: str = "") -> None:
        self.state = state
        self.now = now
        self.context = context
        self.source = source
        self.content = content
        self.effects: list[Effect] = []
        self.facts: list[JournalFact] = []
        self._owned: RequestState | None = None
        #: At the end: outcomes to show, and whether duplicates are served by them.
        self.results: tuple[SystemResult, ...] = ()
        self.carried_out = False

    # The state -----------------------------------------------------------------------------------------------------------

    def set(self, **changes: Any) -> None:
        """Change fields of the request."""
        if self._owned is not self.state:
            self.state = self._owned = evolve(self.state, **changes)
            return
        # Our own copy, which nobody else has seen yet: it may still be written to.
        put(self.state, changes)

    def put(self, order: OrderState) -> None:
        """Replace the order to one system."""
        system = order.system
        self.set(orders=tuple([order if old.system == system else old for old in self.state.orders]))

    @property
    def registry(self) -> Registry:
        """Return the registry that the plan was frozen with, or today's if there is no plan yet."""
        return self.context.registries.get(self.state.registry, self.context.registry)

    def system(self, order: OrderState) -> System:
        """Return the registry's words on an order's system, as they were when it was planned."""
        registry = self.context.registries[order.registry] if order.registry else self.registry
        return registry.by_id[order.system]

    def is_irreversible(self, order: OrderState) -> bool:
        """Tell whether what the order asks cannot be undone in that system."""
        return self.state.right in self.system(order).irreversible

    # What became true, and what is to be done ----------------------------------------------------------------------------

    def fact(self, name: str, **details: Any) -> None:
        """Note what became true, for the journal and the metrics. Codes, counts and dates only."""
        self.facts.append(JournalFact.trusted(fact=name, details=details))

    def do(self, effect: Effect) -> None:
        """Ask the shell for something."""
        self.effects.append(effect)

    def tell(self, request: str, message: Internal) -> None:
        """Have another request of the person decide something, in the same transaction."""
        self.effects.append(Tell(request, message))

    def changed(self, kind: Any, *, actor: str, reason: str, system: str | None = None) -> None:
        """Record a change after acceptance: the confirmation will show it."""
        change = ChangeAfterAcceptance(kind=kind, at=self.now, actor=actor, reason=reason, system=system)
        self.set(changes=(*self.state.changes, change))

    def say(self, code: StatusCode, **fields: Any) -> None:
        """Tell the portal something; the next routine word is due a while later."""
        state = self.state
        settled = sum(order.phase is OrderPhase.SETTLED for order in state.orders)
        event = StatusEvent.trusted(
            subject_request_id=state.subject_request_id,
            portal=state.portal,
            right=state.right,
            code=code,
            phase=state.phase,
            at=self.now,
            due_on=state.due.applicable_due_on if state.due else None,
            settled=settled if state.orders else None,
            planned=len(state.orders) or None,
            **fields,
        )
        self.effects.append(Publish(event))
        if state.phase is not Phase.CLOSED:
            self.set(next_status_at=self.now + self.context.policy.status_every)

    def escalate(self, reason: EscalationReason, *, system: str | None = None) -> None:
        """Tell a person. Once per reason for the request as a whole, once per occasion for a system."""
        if system is None:
            if reason in self.state.escalated:
                return
            self.set(escalated=(*self.state.escalated, reason))
        self.fact("escalated", reason=reason, system=system or "")
        self.say(StatusCode.ESCALATED, escalation=reason, system=system)
