"""What two requests of the same person mean to each other: one table, a cell per pair of rights.

Rows are the older open request, columns the newer one; both verified. Only a verified request has relations at all, so an
unverified one can neither absorb, delay nor cancel anything.

Room rules: the table, and the functions that act on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from orchestrator.core.draft import Draft
from orchestrator.core.effects import Follow, LeaderClosed, Leave, Settled, Supersede, Wait
from orchestrator.core.settling import settle
from orchestrator.core.state import RequestState, evolve
from schemas.confirmations import SystemResult
from schemas.outcomes import NotApplicable
from schemas.vocabulary import NotApplicableReason, OrderPhase, Right, StatusCode

__all__ = [
    "RELATIONS",
    "Relation",
    "follow",
    "leader_closed",
    "leave",
    "open_gates",
    "relate",
    "relate_added",
    "supersede",
    "tell_others",
    "wait",
]


class Relation(StrEnum):
    """What a newer request means to an older one that is still open."""

    #: Neither waits for the other.
    INDEPENDENT = "independent"
    #: The same wish again: executed once, both confirmed. One that names other identifiers waits, as below.
    DUPLICATE = "duplicate"
    #: The same right with other content: in order of arrival, system by system. With equal content a duplicate.
    DUPLICATE_IF_EQUAL = "duplicate_if_equal"
    #: In each system, the newer waits for the older.
    NEWER_WAITS = "newer_waits"
    #: In each system where the older was not sent yet, it waits for the newer.
    OLDER_WAITS = "older_waits"
    #: What the older has not sent yet is overtaken; where it was sent, the newer waits for it.
    SUPERSEDES = "supersedes"


_ALL = tuple(Right)
_WRITES = (Right.RECTIFICATION, Right.COMPLETION)
#: Rights that must have been served before the data is gone, or that stop new data from coming in.
_BEFORE_ERASURE = (Right.ACCESS, Right.PORTABILITY, Right.OBJECTION, Right.UNSUBSCRIBE, Right.RESTRICTION)


#: Rights whose outcome is a file for the portal that asked.
_WITH_RESULTS = {Right.ACCESS, Right.PORTABILITY}


def _table() -> dict[tuple[Right, Right], Relation]:
    table = {(older, newer): Relation.INDEPENDENT for older in _ALL for newer in _ALL}
    for right in _ALL:
        table[right, right] = Relation.DUPLICATE
    for write in _WRITES:
        table[write, write] = Relation.DUPLICATE_IF_EQUAL
        # An erasure makes a waiting correction pointless; after an erasure there is nothing to correct.
        table[write, Right.ERASURE] = Relation.SUPERSEDES
        table[Right.ERASURE, write] = Relation.NEWER_WAITS
    table[Right.RECTIFICATION, Right.COMPLETION] = Relation.NEWER_WAITS
    table[Right.COMPLETION, Right.RECTIFICATION] = Relation.NEWER_WAITS
    for right in _BEFORE_ERASURE:
        table[right, Right.ERASURE] = Relation.NEWER_WAITS
        table[Right.ERASURE, right] = Relation.OLDER_WAITS
    return table


#: (older right, newer right) -> relation. Every pair has a cell.
RELATIONS: Mapping[tuple[Right, Right], Relation] = _table()


def relate(draft: Draft) -> None:
    """Place a request that has just become active among the open requests of the same person.

    Changes only this request's state; the others are told, and change theirs in the same transaction.
    """
    others = [older for older in draft.context.siblings if older.leader is None]
    leader = _same_wish(draft.state, others)
    if leader is not None:
        # A duplicate sends nothing, so nobody waits for it and it waits for nobody else.
        _join(draft, leader)
        return
    for older in others:
        relation = RELATIONS[older.right, draft.state.right]
        if relation is Relation.OLDER_WAITS:
            _go_first(draft, older)
        elif relation is Relation.SUPERSEDES:
            draft.tell(older.subject_request_id, Supersede(draft.state.subject_request_id))
            _wait_for(draft, older, sent_only=True)
        elif relation is not Relation.INDEPENDENT:
            _wait_for(draft, older)


def _same_wish(state: RequestState, others: list[RequestState]) -> RequestState | None:
    """Return the request that does this one's work already, if there is one.

    It must look for all that this one names, and what it finds must come to the same portal: results are sealed to that one's
    key. Of corrections only the last one counts: back to an earlier value is a new wish.
    """
    for older in reversed(others):
        relation = RELATIONS[older.right, state.right]
        is_equal = relation is Relation.DUPLICATE or (relation is Relation.DUPLICATE_IF_EQUAL and older.patch == state.patch)
        serves = state.right not in _WITH_RESULTS or older.portal == state.portal
        if is_equal and serves and state.identity is not None and older.identity == state.identity:
            return older
        if older.right in _WRITES and state.right in _WRITES:
            return None
    return None


def relate_added(draft: Draft, system: str) -> None:
    """Place the order to a system that was added after acceptance among the person's other requests.

    The rights decide as in `relate`; what has left already is not called back.
    """
    me = draft.state
    if me.leader is not None:
        return
    for other in draft.context.siblings:
        theirs = other.order(system)
        if other.leader is not None or theirs is None or theirs.phase is OrderPhase.SETTLED:
            continue
        assert me.accepted_at is not None and other.accepted_at is not None, "active requests were accepted"
        newer = me.accepted_at >= other.accepted_at
        relation = RELATIONS[other.right, me.right] if newer else RELATIONS[me.right, other.right]
        if relation is Relation.INDEPENDENT:
            continue
        if (relation is Relation.OLDER_WAITS) is newer:
            draft.set(followers=_with(draft.state.followers, other.subject_request_id))
            draft.tell(other.subject_request_id, Wait(me.subject_request_id, (system,)))
        else:
            _wait_for(draft, other, only=system)


def _join(draft: Draft, older: RequestState) -> None:
    draft.set(leader=older.subject_request_id)
    draft.fact("joined", leader=older.subject_request_id)
    draft.say(StatusCode.DUPLICATE_OF, related_request=older.subject_request_id)
    draft.tell(older.subject_request_id, Follow(draft.state.subject_request_id, duplicate=True))


def _wait_for(draft: Draft, older: RequestState, *, sent_only: bool = False, only: str | None = None) -> None:
    """Hold each order back until the older request's order to the same system has settled."""
    gates = {
        order.system
        for order in older.orders
        if order.phase is not OrderPhase.SETTLED
        and not (sent_only and order.phase in {OrderPhase.WAITING, OrderPhase.ESCALATED})
    }
    mine = [order for order in draft.state.orders if only in {None, order.system}]
    gated = [order for order in mine if order.phase is OrderPhase.WAITING and order.system in gates]
    if not gated:
        return
    for order in gated:
        draft.put(evolve(order, gated_by=(*order.gated_by, older.subject_request_id)))
    draft.fact("gated", by=older.subject_request_id, systems=sorted(order.system for order in gated))
    draft.tell(older.subject_request_id, Follow(draft.state.subject_request_id))


def _go_first(draft: Draft, older: RequestState) -> None:
    """Ask the older request to hold back what it has not sent yet, where this one will send something."""
    mine = {order.system for order in draft.state.orders if order.phase is OrderPhase.WAITING}
    theirs = {order.system for order in older.orders if order.phase is OrderPhase.WAITING}
    systems = tuple(sorted(mine & theirs))
    if systems:
        draft.set(followers=_with(draft.state.followers, older.subject_request_id))
        draft.tell(older.subject_request_id, Wait(draft.state.subject_request_id, systems))


def _with(ids: tuple[str, ...], new: str) -> tuple[str, ...]:
    return ids if new in ids else (*ids, new)


def follow(draft: Draft, message: Follow) -> None:
    """Remember whom to tell; a gated request learns at once what has settled by now."""
    if message.duplicate:
        draft.set(duplicates=_with(draft.state.duplicates, message.follower))
        return
    draft.set(followers=_with(draft.state.followers, message.follower))
    settled = tuple(order.system for order in draft.state.orders if order.phase is OrderPhase.SETTLED)
    if settled:
        draft.tell(message.follower, Settled(draft.state.subject_request_id, settled))


def leave(draft: Draft, message: Leave) -> None:
    """Forget a duplicate that closed on its own."""
    draft.set(duplicates=tuple(other for other in draft.state.duplicates if other != message.follower))


def wait(draft: Draft, message: Wait) -> None:
    """Let `until` go first in these systems, where nothing was sent yet."""
    waiting = [o for o in draft.state.orders if o.phase is OrderPhase.WAITING and o.system in message.systems]
    held = [order for order in waiting if message.until not in order.gated_by]
    for order in held:
        draft.put(evolve(order, gated_by=(*order.gated_by, message.until)))
    if held:
        draft.fact("gated", by=message.until, systems=sorted(order.system for order in held))


def open_gates(draft: Draft, message: Settled) -> None:
    """Note that another request's orders to these systems have settled, or are another's now."""
    for order in draft.state.orders:
        if message.request in order.gated_by and order.system in message.systems:
            gates = tuple(gate for gate in order.gated_by if gate != message.request)
            draft.put(evolve(order, gated_by=_with(gates, message.instead) if message.instead else gates))


def supersede(draft: Draft, message: Supersede) -> None:
    """Let an erasure overtake what was not sent, or failed; what a system is working on goes on."""
    overtaken = [o for o in draft.state.orders if o.phase in {OrderPhase.WAITING, OrderPhase.ESCALATED}]
    if not overtaken:
        return
    for order in overtaken:
        settle(draft, order, NotApplicable(reason=NotApplicableReason.SUPERSEDED))
    draft.set(executed_request=message.by)
    draft.fact("superseded", by=message.by, systems=sorted(order.system for order in overtaken))
    draft.changed("superseded", actor="orchestrator", reason="an erasure of the same person overtook this request")


def leader_closed(draft: Draft, message: LeaderClosed) -> tuple[SystemResult, ...] | None:
    """Return the outcomes to close with, or None if this duplicate goes on waiting or does the work itself."""
    if draft.state.leader != message.leader:
        return None
    if message.systems:
        draft.set(executed_request=message.leader)
        return message.systems
    draft.fact("leader_gone", leader=message.leader, heir=message.heir)
    if message.heir == draft.state.subject_request_id:
        draft.set(leader=None, followers=message.followers, duplicates=message.duplicates)
        _inherit(draft, message)
    else:
        draft.set(leader=message.heir)
    return None


def _inherit(draft: Draft, message: LeaderClosed) -> None:
    """Wait for what the leader waited for, and let go who waits for what this request will not do."""
    me, gates = draft.state.subject_request_id, dict(message.gates)
    for order in draft.state.orders:
        if order.phase is OrderPhase.WAITING and order.system in gates:
            draft.put(evolve(order, gated_by=gates[order.system]))
    for gate in sorted({gate for before in gates.values() for gate in before}):
        draft.tell(gate, Follow(me))
    to_do = {order.system for order in draft.state.orders if order.phase is OrderPhase.WAITING}
    settled = tuple(system for system in message.planned if system not in to_do)
    for follower in message.followers:
        if settled:
            draft.tell(follower, Settled(me, settled))
        if to_do:
            draft.tell(follower, Wait(me, tuple(sorted(to_do))))


def tell_others(draft: Draft, before: RequestState) -> None:
    """Tell those who wait what has settled now and, at the end, tell duplicates the outcomes.

    If nothing was carried out (withdrawn, refused) the oldest duplicate does the work.
    """
    state = draft.state
    results = draft.results if draft.carried_out else ()
    closes = state.result is not None and before.result is None
    heir = state.duplicates[0] if closes and not results and state.duplicates else None
    was_settled = {order.system for order in before.orders if order.phase is OrderPhase.SETTLED}
    settled = tuple(o.system for o in state.orders if o.phase is OrderPhase.SETTLED and o.system not in was_settled)
    if settled:
        for follower in state.followers:
            draft.tell(follower, Settled(state.subject_request_id, settled, heir))
    if not closes or state.result is None:
        return
    if state.leader is not None and not draft.state.executed_request:
        draft.tell(state.leader, Leave(state.subject_request_id))
    for follower in state.duplicates:
        message = LeaderClosed(state.subject_request_id, state.result, results, heir)
        draft.tell(follower, _with_legacy(message, before, state) if follower == heir else message)


def _with_legacy(message: LeaderClosed, before: RequestState, state: RequestState) -> LeaderClosed:
    return replace(
        message,
        followers=state.followers,
        duplicates=state.duplicates[1:],
        planned=tuple(order.system for order in state.orders),
        gates=tuple((order.system, order.gated_by) for order in before.orders if order.gated_by),
    )
