"""One unit of work: the requests of a batch, decided one by one, saved together.

Loaded once, decided in memory in the order of arrival, then turned into one `Change`. Built again from scratch after a
conflict, so nothing of a lost attempt survives.

Room rules: asks the core, obeys its effects; never looks at what a request is about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from typing import TypeVar

from orchestrator.core.decide import decide, has_taken, rejection
from orchestrator.core.effects import (
    CancelOrder,
    Decision,
    Forget,
    Input,
    KeepIdentifiers,
    Publish,
    PublishConfirmation,
    SendOrder,
    Tell,
)
from orchestrator.core.policy import Context, Policy
from orchestrator.core.state import RequestState, to_bytes
from orchestrator.ports import Change, Conflict, Keys, Record, Refusal, Row, Store, Wanted
from orchestrator.shell.defects import NO_RECORDS_FAULT, Defect, Stumble
from orchestrator.shell.keys_ahead import Listeners, Parcel
from orchestrator.shell.recent import RecentStates
from orchestrator.shell.translate import Arrival, SetAside, Translator, merged
from schemas.commands import Add
from schemas.errors import OrchestratorError, ProtocolViolation, RowDamaged
from schemas.journal import JournalFact
from schemas.order_keys import order_root
from schemas.registry import Registry
from schemas.reports import FulfilmentReport
from schemas.requests import ConfirmIdentity, SubmitRequest
from schemas.sealed import SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import OrderPhase, Phase, QuarantineReason

__all__ = ["Ground", "Halted", "Outcome", "UnitOfWork", "row_of"]

T = TypeVar("T")

#: Messages whose decision looks at the person's other open requests.
_LOOKS_AROUND = (SubmitRequest, ConfirmIdentity, Add)
#: A request that cannot go on because its row is damaged is woken again after this, and told of again.
_DAMAGED_AGAIN = timedelta(minutes=15)


class Halted(Exception):
    """A decision leads to one about another request, whose row is damaged: decide all again, with this arrival set aside."""

    def __init__(self, arrival: Arrival | SetAside, request: str, error: RowDamaged) -> None:
        super().__init__(request)
        self.arrival = arrival
        self.request = request
        self.error = error


class Outcome:
    """What a unit of work did, for metrics and logs: facts by request, what was refused, and which rows are damaged."""

    __slots__ = ("damaged", "facts", "ignored", "refused", "refused_before")

    def __init__(self) -> None:
        self.facts: list[tuple[RequestState, JournalFact]] = []
        self.refused: list[tuple[str, ProtocolViolation]] = []
        self.ignored: list[str] = []
        self.refused_before = 0
        self.damaged: dict[str, RowDamaged] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every unit of work stands on."""

    store: Store
    keys: Keys
    translator: Translator
    registry: Registry
    #: Every registry that an open plan refers to, by digest; today's included.
    registries: Mapping[str, Registry]
    policy: Policy
    #: Name of this worker, unique and stable: its outbox is found by it after a restart.
    worker: str
    #: What has been saved last and may be read again soon.
    recent: RecentStates = field(default_factory=RecentStates)
    #: Who is given the keys of orders as they are sent. None: whoever needs one asks.
    listeners: Listeners | None = None


class UnitOfWork:
    """The states of one batch, in memory."""

    def __init__(self, ground: Ground, now: datetime, halted: Sequence[Halted] = ()) -> None:
        """`halted` is what earlier tries at the same batch have raised."""
        self._halted = {id(one.arrival) for one in halted}
        self._ground = ground
        self._store = ground.store
        self._keys = ground.keys
        self._translator = ground.translator
        self._now = now
        self._versions: dict[str, int] = {}
        self._states: dict[str, RequestState] = {}
        self._saved: dict[str, RequestState] = {}
        self._groups: dict[str, list[str]] = {}
        self._group_versions: dict[str, int] = {}
        self._finds: dict[str, tuple[SubjectData, ...]] = {}
        self._request_keys: dict[str, SealingKey] = {}
        self._refused_before: frozenset[Refusal] = frozenset()
        self._refused_by: set[str] = set()
        self._postponed: set[str] = set()
        #: Requests whose stored state or identity our code cannot read: whoever needs it has met a defect.
        self._broken: dict[str, Exception] = {}
        #: What changed a request last, to blame if its state cannot be stored.
        self._changed_by: dict[str, Arrival | SetAside | Stumble] = {}
        self.parcel = Parcel(ground.listeners)
        self.change = Change(worker=ground.worker, now=now)
        self.outcome = Outcome()
        self.outcome.damaged.update({one.request: one.error for one in halted})

    async def load(self, arrivals: Sequence[Arrival | SetAside | Stumble]) -> None:
        """Fetch what the batch needs, in as few statements as possible."""
        found = await self._store.know(_wanted(arrivals))
        self._refused_before = found.refusals
        self._group_versions.update(found.group_versions)
        for row in (*found.rows.values(), *(row for group in found.groups.values() for row in group)):
            self._take(row)
        for person, group in found.groups.items():
            self._groups[person] = [row.subject_request_id for row in group]
        self._open(found.identities)

    async def _load_rows(self, ids: Iterable[str]) -> None:
        for row in (await self._store.load(ids)).values():
            self._take(row)

    def _take(self, row: Row) -> None:
        if row.subject_request_id not in self._states:
            try:
                state = self._ground.recent.read(row.state)
            except NO_RECORDS_FAULT:
                raise
            except Exception as error:  # noqa: BLE001 - raised again for every input that needs this request
                self._broken[row.subject_request_id] = error
                return
            self._states[row.subject_request_id] = self._saved[row.subject_request_id] = state
            self._versions[row.subject_request_id] = row.version

    async def _load_identities(self, ids: Iterable[str]) -> None:
        self._open(await self._store.identities(ids))

    def _open(self, identities: Mapping[str, bytes]) -> None:
        for request, stored in identities.items():
            if request not in self._finds:
                try:
                    self._request_keys[request], self._finds[request] = self._keys.open_stored(request, stored)
                except RowDamaged as error:  # of this request alone: the others of the batch go on
                    self.outcome.damaged[request] = error
                except NO_RECORDS_FAULT:
                    raise
                except Exception as error:  # noqa: BLE001 - raised again for every input that needs this request
                    self._broken[request] = error

    def _check(self, request: str) -> None:
        if request in self._broken:
            raise self._broken[request]

    async def apply(self, arrival: Arrival | SetAside | Stumble) -> None:
        """Decide one arrival, and what it makes the person's other requests decide.

        Raises `Defect` where our own code fails at it: nothing of this unit may be saved then.
        """
        if self._refused_before and arrival.record is not None and arrival.record.refusal() in self._refused_before:
            # Read again after a crash. Its sender was told no, by the outbox of the save that refused it: so it stays.
            self.outcome.refused_before += 1
            return
        try:
            await self._apply(arrival)
        except (*NO_RECORDS_FAULT, Halted):
            raise
        except Exception as error:
            raise Defect(arrival) from error

    async def _apply(self, arrival: Arrival | SetAside | Stumble) -> None:
        if isinstance(arrival, Stumble):
            raise arrival.error
        given = arrival
        # A report on a request that is over cannot be opened any more, and need not be: it comes too late.
        key = self._request_keys.get(arrival.subject_request_id)
        if key is not None and isinstance(arrival, Arrival):
            arrival = self._translator.with_yield(arrival, key)
        if isinstance(arrival, Arrival) and (
            id(given) in self._halted or (arrival.subject_request_id in self.outcome.damaged and _yields(arrival))
        ):
            self._leave(arrival)
            return
        if isinstance(arrival, SetAside):
            if arrival.said is not None and self._has_taken(arrival.subject_request_id, arrival.said):
                # Read again after a crash, and its signer's key has ended meanwhile: it was believed when it was taken in.
                self.outcome.ignored.append(type(arrival.said.message).__name__)
            else:
                self._set_aside(arrival)
            return
        queue: deque[Arrival] = deque((arrival,))
        while queue:
            one = queue.popleft()
            self._changed_by[one.subject_request_id] = given
            told = await self._decide(one)
            if told is not None:
                queue.extend(told)
            elif one is arrival:
                self._leave(arrival)
            else:
                raise Halted(given, one.subject_request_id, self.outcome.damaged[one.subject_request_id])

    def _has_taken(self, request: str, given: Input) -> bool:
        state = self._states.get(request)
        return state is not None and has_taken(state, given)

    def _set_aside(self, aside: SetAside) -> None:
        self.change.records.append(self._translator.quarantined(aside.record, aside.violation, self._now.isoformat()))
        event = rejection(aside.subject_request_id, aside.violation, self._now)
        self.change.records.append(self._translator.published(Publish(event)))
        self._refuse(aside.record, aside.violation)

    def _leave(self, arrival: Arrival) -> None:
        """Leave the request as it is: what came is set aside, and a moment comes again.

        A report comes again with its order, which is sent again once the row is restored.
        """
        if arrival.record is None:
            self._postponed.add(arrival.subject_request_id)
            return
        self._refused_by.add(arrival.subject_request_id)
        self._set_aside(SetAside(arrival.record, _DAMAGED))

    async def _lacks_identity(self, request: str, decision: Decision) -> bool:
        """Tell whether a decision cannot be carried out because what is stored of the person does not open."""
        if not any(isinstance(effect, SendOrder | KeepIdentifiers) for effect in decision.effects):
            return False
        if request in self._versions and request not in self._finds and request not in self.outcome.damaged:
            await _asked(self._load_identities((request,)))
            self._check(request)
            if request not in self._finds and request not in self.outcome.damaged:
                await _asked(self._miss(request))
        return request in self.outcome.damaged

    async def _miss(self, request: str) -> None:
        """Say why nothing of the person is stored: another worker has closed the request since it was read, or it is lost."""
        row = (await self._store.load((request,))).get(request)
        if row is None or row.version != self._versions[request]:
            raise Conflict
        self.outcome.damaged[request] = RowDamaged(
            "the store: an open request has no sealed identity: restore its row from a backup"
        )

    def _refuse(self, record: Record, violation: ProtocolViolation) -> None:
        self.change.refusals.append(record.refusal())
        self.outcome.refused.append((record.topic, violation))

    async def _decide(self, arrival: Arrival) -> list[Arrival] | None:
        """Return what other requests are told; None if nothing was done, because the request's row is damaged."""
        request = arrival.subject_request_id
        if request not in self._states and not isinstance(arrival.given.message, SubmitRequest):
            await _asked(self._load_rows((request,)))
        self._check(request)
        before = self._states.get(request)
        context = self._context(arrival, before)
        decision = decide(before, arrival.given, self._now, context)
        if await self._lacks_identity(request, decision):
            return None
        if decision.refused is not None and arrival.record is not None:
            self.change.records.append(self._translator.quarantined(arrival.record, decision.refused, self._now.isoformat()))
            self._refuse(arrival.record, decision.refused)
            (self.change.absent if before is None else self._refused_by).add(request)
        elif not decision.facts:
            self.outcome.ignored.append(type(arrival.given.message).__name__)
        if decision.state is not None:
            self._states[request] = decision.state
            self._regroup(before, decision.state)
            if isinstance(arrival.given.message, _LOOKS_AROUND) and decision.state is not before and decision.state.person:
                person = decision.state.person
                self.change.subjects.setdefault(person, self._group_versions.get(person, 0))
            self.outcome.facts.extend((decision.state, fact) for fact in decision.facts)
        return await self._obey(arrival, decision)

    def _context(self, arrival: Arrival, before: RequestState | None) -> Context:
        siblings: tuple[RequestState, ...] = ()
        message = arrival.given.message
        if isinstance(message, _LOOKS_AROUND):
            person = before.person if before else arrival.given.opened.person
            others = self._groups.get(person, []) if person else []
            for other in others:
                self._check(other)
            siblings = tuple(self._states[other] for other in others if other != arrival.subject_request_id)
        ground = self._ground
        return Context(registry=ground.registry, registries=ground.registries, policy=ground.policy, siblings=siblings)

    def _regroup(self, before: RequestState | None, after: RequestState) -> None:
        """Keep the groups of one person's open requests as the store would show them."""
        request = after.subject_request_id
        if after.person is not None and after.phase is Phase.ACTIVE:
            group = self._groups.setdefault(after.person, [])
            if request not in group:
                group.append(request)
        if before is not None and before.person is not None and after.person is None:
            self.change.left_subjects.add(before.person)
            if request in self._groups.get(before.person, ()):
                self._groups[before.person].remove(request)

    async def _obey(self, arrival: Arrival, decision: Decision) -> list[Arrival]:
        request, told = arrival.subject_request_id, []
        for effect in decision.effects:
            match effect:
                case SendOrder():
                    subject = await self._subject(request, effect.finds)
                    root = order_root(self._request_keys[request], request, effect.system, effect.order_id)
                    order = self._translator.order(effect, subject, root)
                    self.change.records.append(self.parcel.add(order, effect, root))
                case CancelOrder():
                    self.change.records.append(self._translator.cancellation(effect))
                case Publish():
                    self.change.records.append(self._translator.published(effect))
                case PublishConfirmation():
                    self.change.records.append(self._translator.confirmation(effect))
                case Tell(other, message):
                    told.append(Arrival(other, Input(message, arrival.given.source)))
                case KeepIdentifiers():
                    await self._keep(request, arrival.subject)
                case Forget():
                    self._finds.pop(request, None)
                    self._request_keys.pop(request, None)
                    self.change.sealed.pop(request, None)
                    self.parcel.drop(request)
                    self.change.forgotten.append(request)
        return told

    async def _keep(self, request: str, found: SubjectData | None) -> None:
        if found is None:
            return
        known = await self._known(request) if request in self._versions else self._finds.get(request, ())
        self._finds[request] = (*known, found)
        key = self._request_keys.get(request)
        if key is None:
            key = self._request_keys[request] = self._keys.new_request_key()
        self.change.sealed[request] = self._keys.seal_stored(request, key, self._finds[request])

    async def _subject(self, request: str, finds: int) -> SubjectData:
        """Return what the first `finds` finds say of the person."""
        return reduce(merged, (await self._known(request))[:finds])

    async def _known(self, request: str) -> tuple[SubjectData, ...]:
        if request not in self._finds:
            await _asked(self._load_identities((request,)))
            self._check(request)
        return self._finds[request]

    def finish(self) -> Change:
        """Return the transaction: every state that changed, with the version it was loaded with.

        A state that refused something is saved as it is: whoever else decides from the same state conflicts. Raises `Defect`.
        """
        for request, state in self._states.items():
            if state is not self._saved.get(request) or request in self._refused_by:
                try:
                    row = row_of(state, self._versions.get(request, 0))
                except NO_RECORDS_FAULT:
                    raise
                except Exception as error:
                    raise Defect(self._changed_by[request]) from error
                self.change.rows.append(row)
                self._ground.recent.remember(state, row.state)
            elif request in self._postponed:
                later = self._now + _DAMAGED_AGAIN
                self.change.rows.append(replace(row_of(state, self._versions[request]), wake_at=later))
        return self.change


_DAMAGED = ProtocolViolation(
    QuarantineReason.IDENTITY_UNREADABLE,
    field="store",
    remedy="nothing: the request's row in the orchestrator's store is damaged, and its operators must restore it",
)


async def _asked(call: Awaitable[T]) -> T:
    """Await a call of the store in the middle of a decision: what goes wrong in there is not that decision's."""
    try:
        return await call
    except NO_RECORDS_FAULT:
        raise
    except Exception as error:
        raise OrchestratorError(f"the store's client failed ({type(error).__name__})") from error


def _wanted(arrivals: Sequence[Arrival | SetAside | Stumble]) -> Wanted:
    known = [arrival for arrival in arrivals if isinstance(arrival, Arrival)]
    # Of what is set aside for the end of its signer's key it is asked whether it was taken in before.
    asked = [one for one in arrivals if isinstance(one, Arrival) or (isinstance(one, SetAside) and one.said is not None)]
    around = [arrival for arrival in known if isinstance(arrival.given.message, _LOOKS_AROUND)]
    return Wanted(
        requests=frozenset(one.subject_request_id for one in asked),
        spans=_spans(arrivals),
        persons=frozenset(arrival.given.opened.person for arrival in around if arrival.given.opened.person is not None),
        companions=frozenset(arrival.subject_request_id for arrival in around),
        identities=frozenset(arrival.subject_request_id for arrival in known if _yields(arrival) or _may_send(arrival)),
    )


def _may_send(arrival: Arrival) -> bool:
    """Tell whether an order may be sent because of it though none is waiting. What a report lets go has been waiting."""
    return not isinstance(arrival.given.message, FulfilmentReport | SubmitRequest)


def _yields(arrival: Arrival) -> bool:
    message = arrival.given.message
    return isinstance(message, FulfilmentReport) and message.yielded is not None


def _spans(arrivals: Iterable[Arrival | SetAside | Stumble]) -> dict[tuple[str, int], tuple[int, int]]:
    """Return the first and the last offset of each partition that the arrivals come from."""
    spans: dict[tuple[str, int], tuple[int, int]] = {}
    for arrival in arrivals:
        if arrival.record is not None:
            partition, offset = (arrival.record.topic, arrival.record.partition), arrival.record.offset
            first, last = spans.get(partition, (offset, offset))
            spans[partition] = min(first, offset), max(last, offset)
    return spans


def row_of(state: RequestState, version: int) -> Row:
    """Return the row of a state; its columns follow from it. `version` is the one it was loaded with, 0 for a new one."""
    awaited = ",".join(
        f"{order.system}:{order.phase}"
        for order in state.orders
        if order.phase is not OrderPhase.SETTLED and state.phase is not Phase.CLOSED
    )
    return Row(
        subject_request_id=state.subject_request_id,
        version=version,
        state=to_bytes(state),
        phase=state.phase,
        right=state.right,
        person=state.person,
        wake_at=state.wake_at,
        due_at=state.due.due_at if state.due else None,
        received_at=state.received_at,
        awaited=awaited,
    )
