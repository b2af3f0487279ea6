"""One example of every message, with every field set, about nobody."""

from __future__ import annotations

from datetime import UTC, date, datetime

from schemas.base import Message
from schemas.blobs import BlobKey
from schemas.commands import Add, Approve, Deny, Extend, Hold, Resume, Retry, Waive, Withdraw
from schemas.confirmations import ChangeAfterAcceptance, Confirmation, DueDates, SystemResult
from schemas.ids import confirmation_id, order_id, report_id
from schemas.intake import IntakeKey, seal_intake
from schemas.journal import GENESIS, JournalEntry, JournalFact
from schemas.order_keys import KeysReleased, WantedKey
from schemas.orders import FulfilmentOrder, OrderCancelled, order_binding
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Notified, Retained, Waived
from schemas.reports import FulfilmentReport, ResultReference
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.sealed import SealingKey, seal
from schemas.status import StatusEvent
from schemas.subject import SubjectData
from schemas.vocabulary import (
    AssuranceLevel,
    CancellationReason,
    EscalationReason,
    ExtensionReason,
    HoldKind,
    IdentifierKind,
    IdentityRefusalReason,
    Language,
    NotApplicableReason,
    Phase,
    QuarantineReason,
    RefusalGround,
    RequestResult,
    RetentionGround,
    Right,
    Role,
    StatusCode,
)

__all__ = ["EXAMPLES"]

REQUEST = "3f8a1c52-7d4e-4b6a-9c10-2e5f7a8b9c0d"
LEADER = "0b1c2d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"
KEY = SealingKey("example-2026", bytes(range(32)))
INTAKE = IntakeKey("intake-20260206T000000", bytes(range(32)))
DATA = SubjectData(identifiers={IdentifierKind.EMAIL: ("someone@example.org",)})
AT = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
LATER = datetime(2026, 3, 6, 10, 30, 15, 250000, tzinfo=UTC)
ORDER = order_id(REQUEST, "crm")

_VERIFICATION = Verification(method="mail_link", level=AssuranceLevel.SUBSTANTIAL, verified_at=AT)
_RESULT = ResultReference(
    reference="exports/crm/1.json.sealed", sha256="ab" * 32, size=4096, expires_at=LATER, kid="website-2026"
)
_COMMAND = {
    "command_id": "cmd-2026-0001",
    "subject_request_id": REQUEST,
    "actor": "ops:privacy-office",
    "reason": "Agreed with the privacy office",
    "issued_at": LATER,
}


def _system(name: str, outcome: object, **more: object) -> SystemResult:
    given = {
        "system": name,
        "title": f"The {name}",
        "role": Role.PROCESSOR,
        "outcome": outcome,
        "settled_at": LATER,
        "attempts": 1,
    }
    return SystemResult.model_validate({**given, **more})


_SYSTEMS = (
    _system("crm", Fulfilled(count=3), report_id=report_id(ORDER, 1, "fulfilled"), results=(_RESULT,), notes=("blocklisted",)),
    _system("google-analytics", Fulfilled(count=1, effective_by=date(2026, 5, 7))),
    _system("newsletter", NothingHeld()),
    _system("web-logs", NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED), attempts=0),
    _system(
        "accounts",
        Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=date(2033, 1, 1), count=2, fulfilled=9, detail="AWR art. 52"),
        role=Role.CONTROLLER,
    ),
    _system("authorities", Notified(recipients=("regulator",)), role=Role.RECIPIENT),
    _system("hotjar", Waived(by="ops:privacy-office", why="The contract ended and the account is closed", failed="rejected")),
)

_ALL: tuple[Message, ...] = (
    SubmitRequest(
        subject_request_id=REQUEST,
        portal="website",
        right=Right.ERASURE,
        submitted_at=AT,
        sealed=seal_intake(DATA.to_bytes(), INTAKE.public, REQUEST, secret=bytes(32)),
        verification=_VERIFICATION,
        language=Language.NL,
        group_id="group-1",
        filed_by="service-desk:7",
    ),
    ConfirmIdentity(subject_request_id=REQUEST, portal="website", verification=_VERIFICATION),
    RefuseIdentity(subject_request_id=REQUEST, portal="website", reason=IdentityRefusalReason.NO_ANSWER, refused_at=LATER),
    WithdrawRequest(subject_request_id=REQUEST, portal="website", withdrawn_at=LATER),
    Deny.model_validate({**_COMMAND, "ground": RefusalGround.EXCESSIVE}),
    Extend.model_validate(
        {**_COMMAND, "because": ExtensionReason.COMPLEXITY, "notice_sent_at": AT, "until_on": date(2026, 5, 5)}
    ),
    Hold.model_validate(
        {**_COMMAND, "kind": HoldKind.CLARIFICATION, "asked_on": date(2026, 3, 6), "review_on": date(2026, 3, 20)}
    ),
    Resume.model_validate({**_COMMAND, "received_on": date(2026, 3, 12)}),
    Waive.model_validate({**_COMMAND, "system": "hotjar"}),
    Retry.model_validate({**_COMMAND, "system": "crm"}),
    Add.model_validate({**_COMMAND, "system": "events"}),
    Approve.model_validate(_COMMAND),
    Withdraw.model_validate(_COMMAND),
    FulfilmentOrder(
        order_id=ORDER,
        subject_request_id=REQUEST,
        system="crm",
        right=Right.ERASURE,
        attempt=2,
        issued_at=LATER,
        received_at=AT,
        due_on=date(2026, 4, 7),
        respond_by=datetime(2026, 3, 9, 10, 30, tzinfo=UTC),
        sealed=seal(DATA.to_bytes(), KEY, associated=order_binding(REQUEST, "crm", ORDER)),
        registry_version="2026-11",
        blob_key=BlobKey(x="AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c", kid="website-2026"),
        due_at=datetime(2026, 4, 7, 22, 0, tzinfo=UTC),
        verification=_VERIFICATION,
    ),
    OrderCancelled(
        order_id=ORDER,
        subject_request_id=REQUEST,
        system="crm",
        right=Right.ERASURE,
        attempt=2,
        reason=CancellationReason.WITHDRAWN,
        cancelled_at=LATER,
    ),
    FulfilmentReport(
        report_id=report_id(ORDER, 2, "fulfilled"),
        order_id=ORDER,
        subject_request_id=REQUEST,
        system="crm",
        attempt=2,
        reported_at=LATER,
        outcome=Fulfilled(count=3, effective_by=date(2026, 4, 4)),
        yielded=seal(DATA.to_bytes(), KEY, associated=order_binding(REQUEST, "crm", ORDER)),
        results=(_RESULT,),
        notes=("address_blocklisted",),
    ),
    Confirmation(
        confirmation_id=confirmation_id(REQUEST),
        subject_request_id=REQUEST,
        group_id="group-1",
        portal="website",
        right=Right.ERASURE,
        result=RequestResult.FULFILLED_WITH_EXCEPTIONS,
        refusal_ground=RefusalGround.EXCESSIVE,
        identity_refusal=IdentityRefusalReason.NOT_THE_PERSON,
        executed_request=LEADER,
        received_at=AT,
        accepted_at=AT,
        closed_at=LATER,
        due=DueDates(
            rule="eu.gdpr",
            due_on=date(2026, 4, 7),
            extended_due_on=date(2026, 6, 5),
            acknowledge_by_on=date(2026, 3, 19),
            notice_by_on=date(2026, 4, 7),
            due_at=datetime(2026, 4, 7, 22, 0, tzinfo=UTC),
        ),
        in_time=True,
        registry_version="2026-11",
        systems=_SYSTEMS,
        changes=(
            ChangeAfterAcceptance(
                kind="waived", at=LATER, actor="ops:privacy-office", reason="Account closed", system="hotjar"
            ),
        ),
        recipients_told=("regulator",),
        journal_head="cd" * 32,
        text={
            Language.EN: "Your data was deleted, with exceptions.",
            Language.NL: "Uw gegevens zijn gewist, met uitzonderingen.",
        },
    ),
    StatusEvent(
        subject_request_id=REQUEST,
        portal="website",
        right=Right.ERASURE,
        code=StatusCode.PROGRESS,
        phase=Phase.ACTIVE,
        at=LATER,
        due_on=date(2026, 4, 7),
        answer_by=LATER,
        settled=3,
        planned=6,
        system="crm",
        escalation=EscalationReason.NO_ANSWER,
        rejected=QuarantineReason.ID_REUSED,
        field="right",
        remedy="use another subject_request_id",
        related_request=LEADER,
        done=("crm", "newsletter"),
    ),
    JournalEntry(
        subject_request_id=REQUEST,
        sequence=1,
        previous=GENESIS,
        at=AT,
        cause="SubmitRequest",
        source="dsr.requests.v1-0-42",
        phase=Phase.ACTIVE,
        facts=(JournalFact(fact="accepted", details={"registry_version": "2026-11", "systems": ["crm"]}),),
    ),
    KeysReleased(
        system="crm",
        kid="system-crm-2026",
        released_at=AT,
        worker="worker-1",
        orders=(WantedKey(subject_request_id=REQUEST, order_id=ORDER),),
    ),
)

#: Every message of the product by its type name.
EXAMPLES: dict[str, Message] = {type(message).__name__: message for message in _ALL}
