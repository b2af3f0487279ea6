"""What sealing, revealing, signing and verifying take of a request, and whose processor they take it from.

Each is timed alone, in this process, by the very functions that portals, workers and connectors call: the best of some rounds.

Room rules: measures and returns rows; no broker, no store.
"""

from __future__ import annotations

import timeit
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys
from orchestrator.bench.signatures import measured
from schemas.ids import order_id
from schemas.intake import IntakeKey, seal_intake
from schemas.order_keys import Purpose, order_root
from schemas.orders import order_binding
from schemas.sealed import SealingKey, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind

__all__ = ["Cost", "crypto_costs"]

_ROUNDS, _TIMES = 5, 200
#: Records that are published together under load, about; a portal or connector that publishes one at a time pays more.
_TOGETHER = 100
#: What an order's seal is bound to besides its place; as long as a real one.
_TERMS = "\x1f" + "t" * 180

Work = Literal["seal", "reveal", "sign", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One kind of work at one place."""

    place: str
    work: Work
    what: str
    times: int
    micros_each: float

    @property
    def micros(self) -> float:
        """Return microseconds a request."""
        return self.times * self.micros_each


def crypto_costs(systems: int) -> list[Cost]:
    """Return what a verified request takes that so many systems answer, from the portal to the confirmation.

    Signatures are those of batches of 100 records. What answers yield, exported results and questions for keys are left out.
    """
    wrapping, intake = SealingKey("kek", bytes(range(32))), IntakeKey.new("intake-bench")
    keys = RequestKeys(KeyEncryption([wrapping]), intake={intake.kid: intake}, grouping=wrapping.derive("grouping"))
    request = str(uuid.UUID(int=1))
    subject = SubjectData(identifiers={IdentifierKind.EMAIL: (f"{request}@example.org",)})
    jwe = seal_intake(subject.to_bytes(), intake.public, request)
    request_key = keys.new_request_key()
    stored = keys.seal_stored(request, request_key, (subject,))
    order = order_id(request, "system1")
    root = order_root(request_key, request, "system1", order)
    sealed = keys.seal_order(request, "system1", order, root, subject, terms=_TERMS)
    bound = order_binding(request, "system1", order) + _TERMS

    def to_intake() -> object:
        return seal_intake(subject.to_bytes(), intake.public, request)

    def to_store() -> object:
        return keys.seal_stored(request, request_key, (subject,))

    def to_system() -> object:
        own = order_root(request_key, request, "system1", order)
        return keys.seal_order(request, "system1", order, own, subject, terms=_TERMS)

    def at_system() -> object:
        return unsafe_reveal(sealed, root.derive(Purpose.ORDER), associated=bound)

    sign, verify, _ = measured(_TOGETHER)
    # An acknowledgement, a journal entry for each input and the confirmation: an order's seal says who made it.
    signed = 1 + (1 + systems) + 1
    return [
        _cost("portal", "seal", "the person to the intake key", 1, to_intake),
        Cost(place="portal", work="sign", what="the request", times=1, micros_each=sign),
        Cost(place="worker", work="verify", what="the request and the reports", times=1 + systems, micros_each=verify),
        _cost("worker", "reveal", "the person", 1, lambda: keys.open_intake(request, jwe)),
        _cost(
            "worker",
            "seal",
            "the person for the store, and the request's key",
            1,
            to_store,
        ),
        _cost("worker", "reveal", "what the store kept, at most", 1, lambda: keys.open_stored(request, stored)),
        _cost("worker", "seal", "the orders, each under its own key", systems, to_system),
        Cost(place="worker", work="sign", what="journal, status, confirmation", times=signed, micros_each=sign),
        _cost(
            "connectors",
            "reveal",
            "the orders",
            systems,
            at_system,
        ),
        Cost(place="connectors", work="sign", what="the reports", times=systems, micros_each=sign),
    ]


def _cost(place: str, work: Work, what: str, times: int, do: Callable[[], object]) -> Cost:
    best = min(timeit.repeat(do, number=_TIMES, repeat=_ROUNDS)) / _TIMES * 1e6
    return Cost(place=place, work=work, what=what, times=times, micros_each=best)
