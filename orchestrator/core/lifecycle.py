"""The request's machine: one table of legal moves, and nothing else decides what is legal.

A row is a phase, a column a message; the cell names the phases that may follow. A missing cell is an impossible fact: it is
refused, quarantined, and the state stays. `docs/lifecycle.svg` and `docs/lifecycle.md` are drawn from this table.

Room rules: data and one look-up. This file does not know how a move is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import ProtocolViolation
from schemas.vocabulary import Phase, QuarantineReason

__all__ = ["INPUTS", "MOVES", "Move", "permit"]


@dataclass(frozen=True, slots=True)
class Move:
    """One cell: where the request may be afterwards, and what happens, in a few words."""

    to: frozenset[Phase]
    what: str


def _to(*phases: Phase, what: str) -> Move:
    return Move(frozenset(phases), what)


_R, _V, _A, _C = Phase.RECEIVED, Phase.VERIFYING, Phase.ACTIVE, Phase.CLOSED

#: phase -> message type -> move. `RECEIVED` is the phase of a request that nothing was decided for yet.
MOVES: Mapping[Phase, Mapping[str, Move]] = {
    _R: {
        "SubmitRequest": _to(_V, _A, _C, what="verified: freeze the plan; else wait for the identity"),
    },
    _V: {
        "SubmitRequest": _to(_V, what="repetition: say again what is awaited"),
        "ConfirmIdentity": _to(_A, _C, what="freeze the plan"),
        "RefuseIdentity": _to(_C, what="close: identity not confirmed"),
        "WithdrawRequest": _to(_C, what="close: withdrawn"),
        "Withdraw": _to(_C, what="close: withdrawn"),
        "Deny": _to(_C, what="close: refused"),
        "Extend": _to(_V, what="extend the period, if the notice was in time"),
        "Hold": _to(_V, what="hold; the clock stops if the rule says so"),
        "Resume": _to(_V, what="end the hold"),
        "Wake": _to(_V, _C, what="remind, or close when the wait has ended"),
    },
    _A: {
        "SubmitRequest": _to(_A, what="repetition: acknowledge again"),
        "ConfirmIdentity": _to(_A, what="repetition: nothing new"),
        "WithdrawRequest": _to(_A, _C, what="close: withdrawn; or too late, and say what is done"),
        "Withdraw": _to(_A, _C, what="close: withdrawn; or too late, and say what is done"),
        "Deny": _to(_C, what="close: refused, unless something irreversible was started"),
        "Extend": _to(_A, what="extend the period, if the notice was in time"),
        "Hold": _to(_A, what="send nothing more; the clock stops if the rule says so"),
        "Resume": _to(_A, what="send what waited"),
        "Waive": _to(_A, _C, what="one system need not answer"),
        "Retry": _to(_A, what="ask one system again"),
        "Add": _to(_A, _C, what="one more system must answer"),
        "Approve": _to(_A, what="let irreversible orders leave"),
        "FulfilmentReport": _to(_A, _C, what="record the outcome; close when all have one"),
        "Wake": _to(_A, _C, what="send, re-send, escalate, warn, tell the portal"),
        "Follow": _to(_A, what="remember whom to tell"),
        "Leave": _to(_A, what="one duplicate fewer"),
        "Wait": _to(_A, what="let another request of the person go first"),
        "Supersede": _to(_A, _C, what="an erasure overtakes what was not sent"),
        "Settled": _to(_A, _C, what="a gate opens"),
        "LeaderClosed": _to(_A, _C, what="a duplicate closes with the outcomes, or takes the work over"),
    },
    _C: {
        "SubmitRequest": _to(_C, what="repetition: the same confirmation again"),
        "ConfirmIdentity": _to(_C, what="too late; nothing changes"),
        "RefuseIdentity": _to(_C, what="repetition, or too late; nothing changes"),
        "WithdrawRequest": _to(_C, what="too late, and say what is done"),
        "Withdraw": _to(_C, what="too late, and say what is done"),
        "FulfilmentReport": _to(_C, what="late or repeated report: noted, nothing changes"),
        "Wake": _to(_C, what="remind when a retention has ended"),
        "Follow": _to(_C, what="answer at once: all is settled"),
        "Leave": _to(_C, what="nobody is told any more"),
        "Wait": _to(_C, what="nothing left to hold back"),
        "Supersede": _to(_C, what="nothing left to overtake"),
        "Settled": _to(_C, what="nothing waits any more"),
        "LeaderClosed": _to(_C, what="nothing waits any more"),
    },
}

#: Every message the machine knows, in the order in which the table is drawn.
INPUTS: tuple[str, ...] = tuple(dict.fromkeys(name for row in MOVES.values() for name in row))

_REMEDY = {
    Phase.VERIFYING: "the identity is not confirmed yet: publish ConfirmIdentity, RefuseIdentity or a withdrawal first",
    Phase.ACTIVE: "the identity is confirmed already; withdraw or deny the request instead",
    Phase.CLOSED: "the request is closed: file a new one",
}


def permit(phase: Phase, message: str) -> Move:
    """Return the cell for a message in a phase. Raises `ProtocolViolation` where there is none."""
    move = MOVES[phase].get(message)
    if move is not None:
        return move
    if phase is Phase.RECEIVED:
        raise ProtocolViolation(
            QuarantineReason.UNKNOWN_REQUEST,
            field="subject_request_id",
            remedy="no request has this id: publish SubmitRequest first",
        )
    raise ProtocolViolation(QuarantineReason.ILLEGAL_MOVE, field="type", remedy=_REMEDY[phase])
