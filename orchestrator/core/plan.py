"""Which systems must answer: frozen at acceptance, with the registry's version.

Every active system of the registry stands in the plan, also one that offers nothing for this right, and says so.

Room rules: pure functions of registry and state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from orchestrator.core.state import OrderState
from schemas.outcomes import NotApplicable
from schemas.registry import Registry, System
from schemas.subject import Need
from schemas.vocabulary import IdentifierKind, NotApplicableReason, OrderPhase, Right

__all__ = ["freeze", "meets", "missing_for_good", "planned_order"]


def freeze(registry: Registry, right: Right, now: datetime) -> tuple[OrderState, ...]:
    """Return one order per active system, in the registry's order."""
    return tuple(planned_order(system, right, now) for system in registry.active())


def planned_order(system: System, right: Right, now: datetime, *, registry: str | None = None) -> OrderState:
    """Return the order to one system: waiting, or settled as not applicable if it offers nothing for the right."""
    if right in system.rights:
        return OrderState(system=system.id, registry=registry)
    return OrderState(
        system=system.id,
        phase=OrderPhase.SETTLED,
        outcome=NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED),
        settled_at=now,
        registry=registry,
    )


def meets(needs: tuple[Need, ...], known: Collection[IdentifierKind]) -> bool:
    """Tell whether one known identifier is enough; a system that names no needs takes any."""
    return not needs or any(need.kind in known for need in needs)


def missing_for_good(orders: Iterable[tuple[OrderState, System]], known: Collection[IdentifierKind]) -> list[OrderState]:
    """Return the waiting orders whose needs nobody can meet any more.

    An order can still run if its needs are met, or if some other order that can still run yields what it needs and does not
    itself come after it. Worked out to a fixed point: two systems that need each other's identifiers do not wait for ever.
    """
    pairs = list(orders)
    waiting, settled = OrderPhase.WAITING, OrderPhase.SETTLED
    if all(order.phase is not waiting or meets(system.needs, known) for order, system in pairs):
        return []
    unsettled = [(order, system) for order, system in pairs if order.phase is not settled]
    after = {system.id: set(system.after) for _, system in unsettled}
    can_run: dict[str, set[IdentifierKind]] = {
        system.id: set(system.yields) for order, system in unsettled if order.phase is not waiting or meets(system.needs, known)
    }
    grew = True
    while grew:
        grew = False
        for _, system in unsettled:
            if system.id in can_run:
                continue
            offered = {
                kind for source, kinds in can_run.items() if not _comes_after(source, system.id, after) for kind in kinds
            }
            if meets(system.needs, offered):
                can_run[system.id] = set(system.yields)
                grew = True
    return [order for order, system in unsettled if system.id not in can_run]


def _comes_after(system: str, other: str, after: dict[str, set[str]]) -> bool:
    """Tell whether `system` waits for `other`, directly or through others."""
    todo, seen = [system], set()
    while todo:
        for before in after.get(todo.pop(), ()):
            if before == other:
                return True
            if before not in seen:
                seen.add(before)
                todo.append(before)
    return False
