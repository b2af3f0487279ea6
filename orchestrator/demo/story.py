"""What happens in the demo: twenty-four records of portals, and what operators and portals do when they hear of trouble.

Room rules: data, and decisions about what was heard; publishes nothing itself.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.adapters.clock import SystemClock
from orchestrator.demo.people import STRANGER, Person
from schemas.base import Message
from schemas.commands import Extend, Retry, Waive
from schemas.intake import IntakePublicKey
from schemas.portal import build_request
from schemas.requests import ConfirmIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.status import StatusEvent
from schemas.subject import FieldChange, in_form
from schemas.vocabulary import (
    AssuranceLevel,
    EscalationReason,
    ExtensionReason,
    IdentifierForm,
    IdentifierKind,
    OutcomeCode,
    Right,
    StatusCode,
)

__all__ = ["MALFORMED", "OPERATOR", "Scene", "Story", "faults", "written_story"]

#: A record that is no request: set aside, with the reason, and nothing else suffers.
MALFORMED = b'{"type": "SubmitRequest", "version": 1, "right": "erasure", "portal": "website"}'

_CLOCK = SystemClock()
_DESK, _WEB, _LINK = "service-desk", "website", "newsletter-footer"
OPERATOR = "operator.demo"
_NEWSLETTER = "newsletter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One request, and how it must end. `outcomes` are those that the story is about; all others may be any good one."""

    alias: str
    right: Right
    portal: str = _WEB
    changes: Mapping[str, str] = field(default_factory=dict)
    verified: bool = True
    withdrawn: bool = False
    retried: bool = False
    waived: bool = False
    duplicate: bool = False
    told: str = ""
    outcomes: Mapping[str, OutcomeCode] = field(default_factory=dict)


_SCENES = (
    Scene(alias="Ada", right=Right.ACCESS),
    Scene(alias="Ben", right=Right.ACCESS, portal=_DESK, verified=False, told="identity confirmed later"),
    Scene(alias="Cleo", right=Right.ACCESS, portal=_DESK, verified=False, withdrawn=True, told="withdrawn while it waits"),
    Scene(alias="Dan", right=Right.ACCESS),
    Scene(alias="Eve", right=Right.RECTIFICATION, changes={"phone": "+441632960900"}),
    Scene(alias="Finn", right=Right.RECTIFICATION, changes={"city": "Lakeside"}),
    Scene(alias="Gus", right=Right.RECTIFICATION, changes={"last_name": "Van Newname"}),
    Scene(alias="Hana", right=Right.COMPLETION, portal=_DESK, changes={"phone": "+441632960901"}),
    Scene(alias="Ivan", right=Right.COMPLETION, portal=_DESK, changes={"phone": "+441632960902"}),
    Scene(alias="Jon", right=Right.ERASURE),
    Scene(alias="Jon", right=Right.ERASURE, duplicate=True, told="duplicate, asked twice"),
    Scene(alias="Kim", right=Right.ERASURE),
    Scene(alias="Lea", right=Right.ERASURE, told="invoices stay by tax law", outcomes={"accounts": OutcomeCode.RETAINED}),
    Scene(alias="Max", right=Right.ERASURE),
    Scene(alias="Nia", right=Right.ERASURE, portal="parent-group"),
    Scene(alias=STRANGER, right=Right.ERASURE, told="nobody knows this person; LinkedIn takes any order"),
    Scene(alias="Oto", right=Right.OBJECTION),
    Scene(alias="Pia", right=Right.OBJECTION, portal=_DESK),
    Scene(alias="Quin", right=Right.OBJECTION, retried=True, told="fails once, retried",
          outcomes={_NEWSLETTER: OutcomeCode.FULFILLED}),
    Scene(alias="Rosa", right=Right.UNSUBSCRIBE, portal=_LINK),
    Scene(alias="Sam", right=Right.UNSUBSCRIBE, portal=_LINK),
    Scene(alias="Tom", right=Right.RECTIFICATION, changes={"phone": "+441632960903"}, waived=True,
          told="keeps failing: extended, retried, waived", outcomes={_NEWSLETTER: OutcomeCode.WAIVED}),
    Scene(alias="Uma", right=Right.UNSUBSCRIBE, portal=_LINK),
)  # fmt: skip


@dataclass(slots=True)
class Story:
    """The scenes by request id, in their order, with what to publish, and what to say when something is heard."""

    people: Mapping[str, Person]
    scenes: Mapping[str, Scene]
    requests: tuple[SubmitRequest, ...]
    _heard: Counter[str] = field(default_factory=Counter)

    def reactions(self, event: StatusEvent) -> Iterator[Message]:
        """Yield what portals and operators publish on hearing this. An event that is heard again has the same answer."""
        request = event.subject_request_id
        scene = self.scenes.get(request)
        if scene is None:
            return
        if event.code is StatusCode.IDENTITY_AWAITED:
            yield _identity(request, scene)
        elif event.escalation is EscalationReason.ORDER_FAILED and event.system is not None and (scene.retried or scene.waived):
            self._heard[request] += 1
            yield from _remedies(request, scene, event.system, self._heard[request])


def _identity(request: str, scene: Scene) -> Message:
    now = _CLOCK.now()
    if scene.withdrawn:
        return WithdrawRequest(subject_request_id=request, portal=scene.portal, withdrawn_at=now)
    return ConfirmIdentity(subject_request_id=request, portal=scene.portal, verification=_verification("passport", now))


def _remedies(request: str, scene: Scene, system: str, times: int) -> Iterator[Message]:
    """An operator tries again, in the second case after telling the person that it takes longer, and at last does without."""
    now = _CLOCK.now()
    base = {"subject_request_id": request, "actor": OPERATOR, "issued_at": now}

    def named(what: str) -> dict[str, object]:
        return {**base, "command_id": f"{what}-{times}-{request}"}

    if scene.waived and times == 1:
        because, reason = ExtensionReason.COMPLEXITY, "one system refuses, its vendor was asked"
        yield Extend.model_validate(named("extend") | {"because": because, "notice_sent_at": now, "reason": reason})
    if times == 1:
        yield Retry.model_validate(named("retry") | {"system": system, "reason": "the vendor says that it works again"})
    elif scene.waived:
        reason = "the vendor cannot do it, the address is on the stop list"
        yield Waive.model_validate(named("waive") | {"system": system, "reason": reason})


def faults(people: Mapping[str, Person]) -> dict[str, list[dict[str, object]]]:
    """Return what goes wrong at which system's stand-in, as bodies for `/__control__`: for one person each."""
    body = {"title": "Invalid Resource", "status": 400, "detail": "The resource submitted could not be validated."}

    def fault(alias: str, times: int) -> dict[str, object]:
        path = in_form(people[alias].email, IdentifierForm.MD5)
        return {"status": 400, "json": body, "path": path, "method": "PATCH", "times": times}

    return {
        _NEWSLETTER: [fault(scene.alias, 1 if scene.retried else 1000) for scene in _SCENES if scene.retried or scene.waived]
    }


def written_story(people: Mapping[str, Person], key: IntakePublicKey) -> Story:
    """Return the story for these people, sealed to the intake key as a portal does it."""
    now = _CLOCK.now()
    scenes = {str(uuid.uuid4()): scene for scene in _SCENES}  # noqa: TID251 - a portal makes its requests' ids
    requests = tuple(
        build_request(
            scene.right,
            _identifiers(people[scene.alias]),
            portal=scene.portal,
            key=key,
            submitted_at=now,
            subject_request_id=request,
            changes=tuple(_change(people[scene.alias], name, new) for name, new in scene.changes.items()),
            verification=_verification("login", now) if scene.verified else None,
        )
        for request, scene in scenes.items()
    )
    return Story(people, scenes, requests)


def _identifiers(person: Person) -> dict[IdentifierKind, list[str]]:
    """What a portal knows of somebody who has logged in; the ids of other systems it does not know, the CRM yields those."""
    return {IdentifierKind.EMAIL: [person.email], IdentifierKind.CUSTOMER_ID: [person.customer_id]}


def _change(person: Person, name: str, new: str) -> FieldChange:
    old = {"last_name": person.last_name}.get(name)
    return FieldChange(field=name, new=new, old_sha256=None if old is None else hashlib.sha256(old.encode()).hexdigest())


def _verification(method: str, at: datetime) -> Verification:
    return Verification(method=method, level=AssuranceLevel.SUBSTANTIAL, verified_at=at)
