"""The order's machine: what may happen to the order to one system.

A missing cell is a defect of ours, because every caller looks at the phase first: `advance` raises and changes nothing.

Room rules: data and one function that applies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from orchestrator.core.state import OrderState, evolve
from schemas.vocabulary import OrderPhase

__all__ = ["ORDER_MOVES", "OrderEvent", "advance", "allows"]


class OrderEvent(StrEnum):
    """What can happen to an order."""

    #: It leaves for the first time.
    SEND = "send"
    #: It leaves again, unanswered: same id, next attempt.
    RESEND = "resend"
    #: The system has taken it and named a date.
    ACCEPT = "accept"
    #: The connector gave up.
    FAIL = "fail"
    #: Patience, or a promise, has run out.
    FALL_SILENT = "fall_silent"
    #: A person asks again.
    RETRY = "retry"
    #: A final outcome: reported, or decided.
    SETTLE = "settle"


_W, _S, _A, _E, _D = OrderPhase.WAITING, OrderPhase.SENT, OrderPhase.ACCEPTED, OrderPhase.ESCALATED, OrderPhase.SETTLED

ORDER_MOVES: Mapping[OrderPhase, Mapping[OrderEvent, OrderPhase]] = {
    _W: {OrderEvent.SEND: _S, OrderEvent.SETTLE: _D},
    _S: {
        OrderEvent.RESEND: _S,
        OrderEvent.ACCEPT: _A,
        OrderEvent.FAIL: _E,
        OrderEvent.FALL_SILENT: _E,
        OrderEvent.SETTLE: _D,
    },
    _A: {
        OrderEvent.ACCEPT: _A,
        OrderEvent.FAIL: _E,
        OrderEvent.FALL_SILENT: _E,
        OrderEvent.RETRY: _S,
        OrderEvent.SETTLE: _D,
    },
    _E: {OrderEvent.ACCEPT: _A, OrderEvent.FAIL: _E, OrderEvent.RETRY: _S, OrderEvent.SETTLE: _D},
    _D: {},
}


def allows(order: OrderState, event: OrderEvent) -> bool:
    """Tell whether the event is possible now."""
    return event in ORDER_MOVES[order.phase]


def advance(order: OrderState, event: OrderEvent, **changes: Any) -> OrderState:
    """Return the order after the event, with `changes`. Raises `ValueError` for a move the table lacks."""
    target = ORDER_MOVES[order.phase].get(event)
    if target is None:
        raise ValueError(f"an order in {order.phase} cannot {event}")
    return evolve(order, phase=target, **changes)
