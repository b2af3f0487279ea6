"""A subsidiary's orchestrator in memory: it takes requests, opens their seals, works for a while, and confirms.

It stands where Kafka would, `FederationConnector(settings, standin)`; there are no routes, as it is not spoken to by HTTP.

| switch | meaning |
| --- | --- |
| `work_seconds` | how long after a request its confirmation is there |
| `away` | it reads nothing: requests wait, and nothing is said of them |
| `result`, `outcome` | close with this `RequestResult`, answer with this outcome, instead of what its people imply |
| `set_aside` | take no request, with this `QuarantineReason` |
| `irreversible` | a withdrawal comes too late as soon as it has taken the request |
| `least_assurance` | wait for the identity of whoever is not verified at this `AssuranceLevel` at least |

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, ClassVar

from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn
from schemas.confirmations import Confirmation, DueDates, SystemResult
from schemas.ids import confirmation_id, digest
from schemas.intake import IntakeKey, IntakePublicKey, open_intake
from schemas.outcomes import Fulfilled, NothingHeld
from schemas.reports import ResultReference
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.status import StatusEvent
from schemas.subject import SubjectData
from schemas.vocabulary import AssuranceLevel, Language, Phase, QuarantineReason, RequestResult, Right, Role, StatusCode
from schemas.wire import decode, encode

__all__ = ["KEY", "FederationStandIn", "build"]

#: The child's private intake key.
KEY = IntakeKey("intake-standin", bytes(range(32)))
_DUE = timedelta(days=33)


class FederationStandIn(StandIn):
    """One child. `/__seed__` takes `{"records": [{"email": ..., ...}]}`: what its one system holds, by identifier kinds."""

    name: ClassVar[str] = "federation"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.switches = {"work_seconds": 1800, "away": False, "result": None, "outcome": None, "set_aside": None}
        self.switches |= {"least_assurance": None, "irreversible": False}
        self.records: list[dict[str, str]] = []
        #: Every record on its topic of requests, in order.
        self.log: list[bytes] = []
        #: Requests it has taken, by id.
        self.taken: dict[str, SubmitRequest] = {}
        self._taken_at: dict[str, datetime] = {}
        self._set_aside: dict[str, QuarantineReason] = {}
        self._confirmed: dict[str, Confirmation] = {}
        self._too_late: set[str] = set()
        self._read = 0

    def routes(self) -> list[Route]:
        """Return none: it is spoken to by records."""
        return []

    def seed(self, value: Any) -> None:
        """Let its system hold records."""
        self.records.extend(value["records"])

    def state(self) -> Any:
        """Return what it holds, and its requests by id."""
        return {"records": self.records, "requests": sorted(self.taken), "confirmed": sorted(self._confirmed)}

    async def check(self) -> str:
        """Implement `ChildBus`: the topics are always there."""
        return "a child in memory"

    async def aclose(self) -> None:
        """Implement `ChildBus`: nothing to close."""

    async def intake_key(self) -> IntakePublicKey:
        """Implement `ChildBus`: one key for ever."""
        return KEY.public

    @property
    def secret(self) -> bytes:
        """Implement `ChildBus`: nobody signs here."""
        return bytes(32)

    async def publish(self, message: SubmitRequest | WithdrawRequest, right: Right) -> None:
        """Implement `ChildBus`: append to the topic, which is read at once if not away."""
        del right
        self.log.append(encode(message))
        if not self.switches["away"]:
            self._catch_up()

    async def find(self, subject_request_id: str) -> Confirmation | StatusEvent | None:
        """Implement `ChildBus`: read the topic if not away, then say what is known."""
        if not self.switches["away"]:
            self._catch_up()
        now, request = self.clock.now(), self.taken.get(subject_request_id)
        if subject_request_id in self._set_aside:
            reason = self._set_aside[subject_request_id]
            return StatusEvent(subject_request_id=subject_request_id, code=StatusCode.REJECTED, at=now, rejected=reason)
        if request is None:
            return None
        if not self._is_sure(request):
            return StatusEvent(subject_request_id=subject_request_id, code=StatusCode.IDENTITY_AWAITED, at=now)
        if subject_request_id not in self._confirmed and not self._is_done(subject_request_id):
            return StatusEvent(
                subject_request_id=subject_request_id,
                portal=request.portal,
                right=request.right,
                code=StatusCode.TOO_LATE if subject_request_id in self._too_late else StatusCode.ACKNOWLEDGED,
                phase=Phase.ACTIVE,
                at=now,
                due_on=_due_on(request),
            )
        if subject_request_id not in self._confirmed:
            self._confirmed[subject_request_id] = self._confirm(request, now)
        return self._confirmed[subject_request_id]

    def _is_sure(self, request: SubmitRequest) -> bool:
        least, levels = self.switches["least_assurance"], list(AssuranceLevel)
        if least is None:
            return True
        return request.verification is not None and levels.index(request.verification.level) >= levels.index(least)

    def _catch_up(self) -> None:
        while self._read < len(self.log):
            request = decode(self.log[self._read], [], (SubmitRequest, WithdrawRequest))
            self._read += 1
            if isinstance(request, WithdrawRequest):
                self._withdraw(request.subject_request_id)
                continue
            assert isinstance(request, SubmitRequest)
            known, request_id = self.taken.get(request.subject_request_id), request.subject_request_id
            if self.switches["set_aside"] is not None and known is None:
                self._set_aside[request_id] = QuarantineReason(self.switches["set_aside"])
            elif known is None:
                self.taken[request_id] = request
                self._taken_at[request_id] = self.clock.now()
            elif known != request:
                self._set_aside[request_id] = QuarantineReason.ID_REUSED

    def _withdraw(self, request_id: str) -> None:
        """Close it without doing anything, unless it is unknown, or closed, or `irreversible` says that it is too late."""
        request = self.taken.get(request_id)
        if request is None:
            self._set_aside[request_id] = QuarantineReason.UNKNOWN_REQUEST
        elif request_id in self._confirmed or self._is_done(request_id):
            return
        elif self.switches["irreversible"]:
            self._too_late.add(request_id)
        else:
            self._confirmed[request_id] = self._closed(request, self.clock.now(), (), RequestResult.WITHDRAWN)

    def _is_done(self, request_id: str) -> bool:
        return self.clock.now() - self._taken_at[request_id] >= timedelta(seconds=self.switches["work_seconds"])

    def _confirm(self, request: SubmitRequest, now: datetime) -> Confirmation:
        found = self._work(request)
        implied = Fulfilled(count=len(found)) if found else NothingHeld()
        content = repr(len(found)).encode()
        place = ResultReference(reference="child/result-1", sha256=digest(content), size=len(content), expires_at=now + _DUE)
        is_copy = bool(found) and request.right in {Right.ACCESS, Right.PORTABILITY}
        system = SystemResult(
            system="shop",
            title="Shop",
            role=Role.CONTROLLER,
            outcome=self.switches["outcome"] or implied,
            settled_at=now,
            attempts=1,
            results=(place,) if is_copy else (),
        )
        return self._closed(request, now, (system,), self.switches["result"] or RequestResult.FULFILLED)

    def _closed(
        self, request: SubmitRequest, now: datetime, systems: tuple[SystemResult, ...], result: RequestResult
    ) -> Confirmation:
        return Confirmation(
            confirmation_id=confirmation_id(request.subject_request_id),
            subject_request_id=request.subject_request_id,
            portal=request.portal,
            right=request.right,
            result=result,
            received_at=request.submitted_at,
            closed_at=now,
            due=DueDates(
                rule="eu.gdpr", due_on=_due_on(request), due_at=datetime.combine(_due_on(request), time(), tzinfo=UTC)
            ),
            in_time=now.date() <= _due_on(request),
            registry_version="1",
            systems=systems,
            journal_head="0" * 64,
            text=dict.fromkeys(Language, "Done."),
        )

    def _work(self, request: SubmitRequest) -> list[dict[str, str]]:
        plain = open_intake(request.sealed, {KEY.kid: KEY}, request.subject_request_id)
        subject = SubjectData.model_validate_json(plain)
        wanted = {(kind.value, value.lower()) for kind, values in subject.identifiers.items() for value in values}
        found = [record for record in self.records if any((kind, value.lower()) in wanted for kind, value in record.items())]
        if request.right is Right.ERASURE:
            self.records = [record for record in self.records if record not in found]
        return found


def _due_on(request: SubmitRequest) -> date:
    return (request.submitted_at + _DUE).date()


def build(clock: Clock | None = None) -> FederationStandIn:
    """Build the stand-in."""
    return FederationStandIn(clock)
