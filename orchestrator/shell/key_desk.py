"""The key desk: gives a connector the key of its own open order, and writes that down first.

Room rules: one rule, `answer_to`; what was given out is in the log before it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from orchestrator.ports import Clock, Holding, Keys, OutRecord, Publisher, Store
from orchestrator.shell.signing import signed
from schemas.ids import order_id
from schemas.metric_labels import KeyRefusal
from schemas.metrics import KEYS_REFUSED, KEYS_RELEASED, Metrics
from schemas.order_keys import KeyAnswer, KeysReleased, WantedKey, root_to_text
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import OrderPhase, Phase
from schemas.wire import encode, headers_of

__all__ = ["KeyDesk", "refusal_of"]

log = structlog.get_logger(__name__)

_STATUS = {KeyRefusal.FOREIGN: 403, KeyRefusal.UNKNOWN: 404, KeyRefusal.CLOSED: 410}
_BEFORE_ORDERS = (Phase.RECEIVED, Phase.VERIFYING)
_REMEDY = {
    KeyRefusal.FOREIGN: "ask for orders of your own system: the order's id follows from the request and the system",
    KeyRefusal.UNKNOWN: "set the record aside: this request, or its order to this system, is not known here",
    KeyRefusal.CLOSED: "drop the order: its outcome is settled, and its key is gone or will be",
}


def refusal_of(wanted: WantedKey, system: str, held: Holding | None) -> KeyRefusal | None:
    """Tell why a system may not have the key of an order, None if it may: its own order, that has been sent and is not settled.

    A request that has not been sent to the system yet is as unknown to it as one that does not exist. Which systems have
    answered and which were never asked is not told apart once orders are out: nothing is open for either.
    """
    if wanted.order_id != order_id(wanted.subject_request_id, system):
        return KeyRefusal.FOREIGN
    if held is None or held.phase in _BEFORE_ORDERS:
        return KeyRefusal.UNKNOWN
    if held.phase == Phase.CLOSED or held.sealed is None:
        return KeyRefusal.CLOSED
    phases = dict(item.split(":", 1) for item in held.awaited.split(",") if item)
    phase = phases.get(system, OrderPhase.SETTLED)
    if phase == OrderPhase.SETTLED:
        return KeyRefusal.CLOSED
    return KeyRefusal.UNKNOWN if phase == OrderPhase.WAITING else None


class KeyDesk:
    """Answers for every request in the store, whichever worker has it."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        publisher: Publisher,
        clock: Clock,
        metrics: Metrics,
        *,
        topics: Topics,
        worker: str,
        signer: SigningKey | None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._topics = topics
        self._worker = worker
        self._signer = signer

    async def release(self, system: str, kid: str, wanted: Sequence[WantedKey]) -> list[KeyAnswer]:
        """Return an answer for each order, in order, after the broker has acknowledged the record of what is given out.

        `system` is who asks, proven by the caller. Raises `StoreUnavailable` or `PublishFailed`; then nothing is given out.
        """
        held = await self._store.holdings({one.subject_request_id for one in wanted})
        answers = [self._answer(one, system, held.get(one.subject_request_id)) for one in wanted]
        released = tuple(one for one, answer in zip(wanted, answers, strict=True) if answer.status == 200)
        if released:
            await self._write_down(system, kid, released)
        self._report(system, answers)
        return answers

    def _answer(self, wanted: WantedKey, system: str, held: Holding | None) -> KeyAnswer:
        refusal = refusal_of(wanted, system, held)
        if refusal is not None:
            return KeyAnswer.trusted(
                order_id=wanted.order_id, status=_STATUS[refusal], error=f"order_{refusal}", remedy=_REMEDY[refusal]
            )
        assert held is not None and held.sealed is not None, "an order that is open has its identity stored"
        root = self._keys.order_root(wanted.subject_request_id, system, wanted.order_id, held.sealed)
        return KeyAnswer.trusted(order_id=wanted.order_id, status=200, key=root_to_text(root))

    async def _write_down(self, system: str, kid: str, released: tuple[WantedKey, ...]) -> None:
        message = KeysReleased(system=system, kid=kid, released_at=self._clock.now(), worker=self._worker, orders=released)
        record = OutRecord(self._topics.releases, system.encode(), encode(message), headers_of(message))
        await self._publisher.publish(signed([record], self._signer) if self._signer is not None else [record])

    def _report(self, system: str, answers: Sequence[KeyAnswer]) -> None:
        refused = [reason for answer in answers for reason, status in _STATUS.items() if answer.status == status]
        if len(refused) < len(answers):
            self._metrics.count(KEYS_RELEASED, len(answers) - len(refused), system=system)
        for reason in sorted(set(refused)):
            self._metrics.count(KEYS_REFUSED, refused.count(reason), system=system, reason=reason)
            # An order that was settled while it waited at the system is daily business; the others are not.
            tell = log.info if reason is KeyRefusal.CLOSED else log.warning
            tell("order_keys_refused", system=system, reason=reason, count=refused.count(reason))
