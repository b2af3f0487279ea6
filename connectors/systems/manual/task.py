"""The two papers of a task done by people: what is asked, and what somebody signs off.

Everything sealed or signed is so under the task's own random key, which stands nowhere but wrapped by the connector's key, in
one small file. Once that is deleted, no copy of task or sign-off opens, whoever has the connector's key.

Room rules: models, seals and signatures; no file, no clock. The person stands in sealed parts only.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from connectors.sdk.protocol import Exported
from schemas.base import Actor, Instant, Record
from schemas.errors import ProtocolViolation
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Notified, Retained
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import QuarantineReason, RetentionGround, Right

__all__ = [
    "Done",
    "Evidence",
    "SignOff",
    "Task",
    "new_task_key",
    "sealed_subject",
    "signed",
    "task_id",
    "unsafe_exports",
    "unsafe_subject",
    "unwrapped",
    "wrapped",
]

#: A pointer to where the proof lies: a ticket, a folder, a register. Never the proof itself, never a name.
Evidence = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,47}$")]
#: How people may answer: what is left undone is not signed.
Done = Annotated[Fulfilled | NothingHeld | NotApplicable | Retained | Notified, Field(discriminator="code")]


class Task(Record):
    """What people are asked to do. Readable: which right, where, by when. Sealed: for whom, and what to change."""

    type: Literal["ManualTask"] = "ManualTask"
    version: int = 1
    task_id: str
    title: Annotated[str, Field(max_length=80, description="Where it is to be done")]
    right: Right
    instructions: Annotated[str, Field(max_length=2000)] = ""
    requested_at: Annotated[Instant, Field(description="When the person asked")]
    expected_by: Annotated[Instant, Field(description="When the orchestrator was told that it is done")]
    due_on: Annotated[date, Field(description="The legal due date of the whole request")]
    reminder: Annotated[int, Field(ge=0, description="0: the task itself; 1, 2, ...: a reminder of it")] = 0
    sealed: Annotated[Sealed, Field(description="`SubjectData` under the task's key, bound to the task")]


class SignOff(Record):
    """What somebody answers for. `mac` proves that it was made with the task's key."""

    type: Literal["ManualSignOff"] = "ManualSignOff"
    version: int = 1
    task_id: str
    outcome: Done
    evidence: Evidence
    by: Annotated[Actor, Field(max_length=48, description="Who answers for it: a staff id, no mail address")]
    signed_at: Instant
    exports: Annotated[tuple[Sealed, ...], Field(max_length=20, description="Documents for access, each sealed")] = ()
    mac: Annotated[str, Field(description="HMAC-SHA256 over all other fields, base64url")] = ""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        outcome = self.outcome
        if isinstance(outcome, Retained) and outcome.ground is RetentionGround.NATIONAL_LAW and not outcome.detail:
            raise ValueError("outcome.detail: name the national law")
        return self

    def is_genuine(self, key: SealingKey) -> bool:
        """Tell whether it was signed with the task's key, and not changed since."""
        return hmac.compare_digest(self.mac, _mac(self, key))


def task_id(order_id: str, right: Right, attempt: int) -> str:
    """Return the id of an order's task: the same at every repetition, another one after somebody asked for a new attempt."""
    return "tsk_" + blake2b(f"{order_id}\x1f{right.value}\x1f{attempt}".encode(), digest_size=16).hexdigest()


def new_task_key(task: str) -> SealingKey:
    """Return a random key, named after the task."""
    return SealingKey(task, secrets.token_bytes(32))


def wrapped(task_key: SealingKey, key: SealingKey) -> Sealed:
    """Wrap a task's key with the connector's key."""
    return seal(task_key.unsafe_bytes(), key.derive("manual.task-key"), associated=task_key.kid)


def unwrapped(task: str, sealed: Sealed, key: SealingKey) -> SealingKey:
    """Return a task's key, from the wrapping of just that task. Raises `ProtocolViolation`."""
    return SealingKey(task, unsafe_reveal(sealed, key.derive("manual.task-key"), associated=task))


def sealed_subject(task: str, who: SubjectData, key: SealingKey) -> Sealed:
    """Seal the person for one task, with the task's key."""
    return seal(who.to_bytes(), key.derive("manual.task"), associated=task)


def unsafe_subject(task: Task, key: SealingKey) -> SubjectData:
    """Open a task with its key. Raises `ProtocolViolation`. The caller holds an identity from here on."""
    return SubjectData.model_validate_json(unsafe_reveal(task.sealed, key.derive("manual.task"), associated=task.task_id))


def signed(
    task: str,
    outcome: Done,
    *,
    evidence: str,
    by: str,
    at: datetime,
    key: SealingKey,
    exports: Iterable[Exported] = (),
) -> SignOff:
    """Return a sign-off with its documents sealed and its mac set. Raises `pydantic.ValidationError` naming the field."""
    documents = tuple(_sealed_export(task, number, exported, key) for number, exported in enumerate(exports))
    given = SignOff(task_id=task, outcome=outcome, evidence=evidence, by=by, signed_at=at, exports=documents)
    return given.model_copy(update={"mac": _mac(given, key)})


def unsafe_exports(given: SignOff, key: SealingKey) -> tuple[Exported, ...]:
    """Open the documents. Raises `ProtocolViolation`. The caller holds personal data from here on."""
    return tuple(_opened_export(given.task_id, number, sealed, key) for number, sealed in enumerate(given.exports))


def _sealed_export(task: str, number: int, exported: Exported, key: SealingKey) -> Sealed:
    content = exported.content
    plain = json.dumps({"name": exported.name, "content": dict(content) if isinstance(content, Mapping) else content})
    return seal(plain.encode(), key.derive("manual.export"), associated=f"{task}\x1f{number}")


def _opened_export(task: str, number: int, sealed: Sealed, key: SealingKey) -> Exported:
    document: Any = json.loads(unsafe_reveal(sealed, key.derive("manual.export"), associated=f"{task}\x1f{number}"))
    if not isinstance(document, dict) or not isinstance(document.get("content"), dict | list):
        raise ProtocolViolation(QuarantineReason.INVALID_FIELD, field="exports", remedy="attach a JSON object or list")
    return Exported(str(document.get("name", f"document-{number + 1}")), document["content"])


def _mac(given: SignOff, key: SealingKey) -> str:
    fields = given.model_dump(mode="json", exclude={"mac"})
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(key.derive("manual.signoff").mac(canonical.encode())).decode()
