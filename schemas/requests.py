"""What portals publish on `dsr.requests.v1`, and for urgent rights on `dsr.requests.urgent.v1` (`Topics.requests_for`).

Room rules: identities stand in `sealed` and nowhere else.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Actor, Instant, Message, Record
from schemas.ids import PortalId, SubjectRequestId
from schemas.intake import SealedIntake
from schemas.vocabulary import AssuranceLevel, IdentityRefusalReason, Language, Right

__all__ = ["ConfirmIdentity", "RefuseIdentity", "SubmitRequest", "Verification", "WithdrawRequest"]


class Verification(Record):
    """How the portal made sure who is asking (GDPR Art. 12(6))."""

    method: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,39}$", description="For instance login, mail_link, passport")]
    level: AssuranceLevel
    verified_at: Instant


class SubmitRequest(Message):
    """One person asks for one right. Publishing it twice with the same id and content is harmless."""

    type: Literal["SubmitRequest"] = "SubmitRequest"
    subject_request_id: SubjectRequestId
    portal: PortalId
    right: Right
    submitted_at: Annotated[Instant, Field(description="When the person asked: the legal clock starts here")]
    sealed: Annotated[
        SealedIntake,
        Field(description="`SubjectData`, sealed to the intake key and bound to the request's id: a JWE (compact)"),
    ]
    verification: Verification | None = None
    language: Language = Language.EN
    group_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = None
    filed_by: Annotated[Actor | None, Field(description="Member of staff who filed it, if any: cannot approve it")] = None


class ConfirmIdentity(Message):
    """The portal now knows who asked."""

    type: Literal["ConfirmIdentity"] = "ConfirmIdentity"
    subject_request_id: SubjectRequestId
    portal: PortalId
    verification: Verification


class RefuseIdentity(Message):
    """The portal could not confirm who asked: the request closes as `identity_not_confirmed`."""

    type: Literal["RefuseIdentity"] = "RefuseIdentity"
    subject_request_id: SubjectRequestId
    portal: PortalId
    reason: IdentityRefusalReason
    refused_at: Instant


class WithdrawRequest(Message):
    """The person takes the request back. Too late once an irreversible order is out; the portal is told so."""

    type: Literal["WithdrawRequest"] = "WithdrawRequest"
    subject_request_id: SubjectRequestId
    portal: PortalId
    withdrawn_at: Instant
