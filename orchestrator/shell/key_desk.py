"""The key desk: gives a connector the key of its own open order, and writes that down first.

Questions that come while one is being answered are answered together: one read, one publication for all of them.

Room rules: one rule, `answer_to`; what was given out is in the log before it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from orchestrator.ports import Clock, Holding, Keys, OutRecord, Publisher, PublishFailed, Store
from orchestrator.shell.signing import signed
from schemas.errors import OrchestratorError, RowDamaged
from schemas.ids import order_id
from schemas.metric_labels import KeyRefusal
from schemas.metrics import KEYS_REFUSED, KEYS_RELEASED, ROWS_DAMAGED, Metrics
from schemas.order_keys import KeyAnswer, KeysReleased, WantedKey, order_root, root_to_text
from schemas.sealed import SealingKey
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import OrderPhase, Phase
from schemas.wire import encode, headers_of

__all__ = ["KeyDesk", "Releases", "granted", "refusal_of"]

log = structlog.get_logger(__name__)

_STATUS = {KeyRefusal.FOREIGN: 403, KeyRefusal.UNKNOWN: 404, KeyRefusal.CLOSED: 410, KeyRefusal.UNREADABLE: 503}
_BEFORE_ORDERS = (Phase.RECEIVED, Phase.VERIFYING)
_REMEDY = {
    KeyRefusal.FOREIGN: "ask for orders of your own system: the order's id follows from the request and the system",
    KeyRefusal.UNKNOWN: "set the record aside: this request, or its order to this system, is not known here",
    KeyRefusal.CLOSED: "drop the order: its outcome is settled, and its key is gone or will be",
    KeyRefusal.UNREADABLE: "keep the order and ask again: the orchestrator's operators have been told",
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


@dataclass(frozen=True, slots=True)
class Releases:
    """What a worker writes down of the keys that it gives out."""

    topics: Topics
    worker: str
    clock: Clock

    def record(self, system: str, kid: str, orders: tuple[WantedKey, ...]) -> OutRecord:
        """Return the record that a system's keys of these orders are about to be given out, to the owner of the key `kid`."""
        now = self.clock.now()
        message = KeysReleased.trusted(system=system, kid=kid, released_at=now, worker=self.worker, orders=orders)
        return OutRecord(self.topics.releases, system.encode(), encode(message), headers_of(message))


@dataclass(frozen=True, slots=True)
class _Question:
    system: str
    kid: str
    wanted: Sequence[WantedKey]
    answered: asyncio.Future[list[KeyAnswer]]


def _refused(wanted: WantedKey, refusal: KeyRefusal) -> KeyAnswer:
    return KeyAnswer.trusted(
        order_id=wanted.order_id, status=_STATUS[refusal], error=f"order_{refusal}", remedy=_REMEDY[refusal]
    )


def granted(wanted: WantedKey, root: SealingKey) -> KeyAnswer:
    """Return the answer that gives an order's key away: the caller has seen to it that it stands in the log first."""
    return KeyAnswer.trusted(order_id=wanted.order_id, status=200, key=root_to_text(root))


def _fail(questions: Sequence[_Question], error: BaseException) -> None:
    for question in questions:
        if not question.answered.done():
            question.answered.set_exception(error)


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
        self._metrics = metrics
        self._releases = Releases(topics, worker, clock)
        self._signer = signer
        self._waiting: list[_Question] = []
        self._answering: asyncio.Task[None] | None = None

    async def release(self, system: str, kid: str, wanted: Sequence[WantedKey]) -> list[KeyAnswer]:
        """Return an answer for each order, in order, after the broker has acknowledged the record of what is given out.

        `system` is who asks, proven by the caller. Raises `StoreUnavailable`, `PublishFailed`, or
        `ConfigurationError` if the key that wraps all others is not at hand; then nothing is given out. A row that is damaged
        concerns its own orders only.
        """
        question = _Question(system, kid, wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer_all(), name="key-desk")
        return await question.answered

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting, []
                try:
                    await self._answer_together(together)
                except (OrchestratorError, PublishFailed) as error:
                    _fail(together, error)
        except BaseException as error:
            # Nobody may wait for an answer that will not come; whoever asks next starts anew.
            _fail([*together, *self._waiting], error)
            self._waiting = []
            raise
        finally:
            self._answering = None

    async def _answer_together(self, together: Sequence[_Question]) -> None:
        held = await self._store.holdings({one.subject_request_id for question in together for one in question.wanted})
        answers: list[list[KeyAnswer]] = []
        records: list[OutRecord] = []
        # Several systems ask about one request, mostly at once: its key is unwrapped once, and let go of with the answers.
        keys: dict[str, SealingKey] = {}
        for question in together:
            given = [self._answer(one, question.system, held.get(one.subject_request_id), keys) for one in question.wanted]
            released = tuple(one for one, answer in zip(question.wanted, given, strict=True) if answer.status == 200)
            if released:
                records.append(self._releases.record(question.system, question.kid, released))
            answers.append(given)
        if records:
            await self._publisher.publish(signed(records, self._signer) if self._signer is not None else records)
        for question, given in zip(together, answers, strict=True):
            self._report(question.system, given)
            if not question.answered.done():  # whoever asked may have gone away
                question.answered.set_result(given)

    def _answer(self, wanted: WantedKey, system: str, held: Holding | None, keys: dict[str, SealingKey]) -> KeyAnswer:
        refusal = refusal_of(wanted, system, held)
        if refusal is not None:
            return _refused(wanted, refusal)
        assert held is not None and held.sealed is not None, "an order that is open has its identity stored"
        request = wanted.subject_request_id
        key = keys.get(request)
        if key is None:
            try:
                key = keys[request] = self._keys.request_key(request, held.sealed)
            except RowDamaged as error:
                self._tell(wanted, error)
                return _refused(wanted, KeyRefusal.UNREADABLE)
        return granted(wanted, order_root(key, request, system, wanted.order_id))

    def _tell(self, wanted: WantedKey, error: RowDamaged) -> None:
        log.error("row_damaged", subject_request_id=wanted.subject_request_id, remedy=str(error))
        self._metrics.count(ROWS_DAMAGED)

    def _report(self, system: str, answers: Sequence[KeyAnswer]) -> None:
        refused = [reason for answer in answers for reason, status in _STATUS.items() if answer.status == status]
        if len(refused) < len(answers):
            self._metrics.count(KEYS_RELEASED, len(answers) - len(refused), system=system)
        for reason in sorted(set(refused)):
            self._metrics.count(KEYS_REFUSED, refused.count(reason), system=system, reason=reason)
            # An order that was settled while it waited at the system is daily business; the others are not.
            tell = log.info if reason is KeyRefusal.CLOSED else log.warning
            tell("order_keys_refused", system=system, reason=reason, count=refused.count(reason))
