"""The closed words of the field. One meaning each; see `docs/glossary.md`.

Room rules: enums only. A word that only one side needs does not live here.
"""

from __future__ import annotations

from enum import StrEnum
from operator import attrgetter
from typing import TYPE_CHECKING

__all__ = [
    "AssuranceLevel",
    "CancellationReason",
    "EscalationReason",
    "ExtensionReason",
    "FailureReason",
    "HoldKind",
    "IdentifierForm",
    "IdentifierKind",
    "IdentityRefusalReason",
    "Language",
    "NotApplicableReason",
    "OrderPhase",
    "OutcomeCode",
    "Phase",
    "QuarantineReason",
    "RefusalGround",
    "RequestResult",
    "RetentionGround",
    "Right",
    "Role",
    "StatusCode",
]


class _Word(StrEnum):
    """A word whose `value` is read without a step through Python: serializing does that dozens of times a request."""

    if not TYPE_CHECKING:  # Type checkers know a member's value by themselves.
        value = property(attrgetter("_value_"))


class Right(_Word):
    """What the data subject asks for."""

    #: GDPR Art. 15: a copy of the data and the information about it.
    ACCESS = "access"
    #: GDPR Art. 16, first sentence: wrong data corrected.
    RECTIFICATION = "rectification"
    #: GDPR Art. 16, second sentence: incomplete data completed.
    COMPLETION = "completion"
    #: GDPR Art. 17: data deleted.
    ERASURE = "erasure"
    #: GDPR Art. 18: data kept but not used.
    RESTRICTION = "restriction"
    #: GDPR Art. 20: data in a machine-readable form.
    PORTABILITY = "portability"
    #: GDPR Art. 21(2)-(3): no more direct marketing.
    OBJECTION = "objection"
    #: ePrivacy Directive Art. 13: leave the newsletter.
    UNSUBSCRIBE = "unsubscribe"


class Role(_Word):
    """What a system's operator is in law, towards the data subject."""

    #: GDPR Art. 4(7).
    CONTROLLER = "controller"
    #: GDPR Art. 26.
    JOINT_CONTROLLER = "joint_controller"
    #: GDPR Art. 4(8).
    PROCESSOR = "processor"
    #: GDPR Art. 4(9): was given data once; must be told under Art. 19.
    RECIPIENT = "recipient"


class Phase(_Word):
    """Where a request is, and nothing else: waits, holds and results are separate fields."""

    #: Read from the log, nothing decided yet.
    RECEIVED = "received"
    #: Waits for the portal to confirm who is asking.
    VERIFYING = "verifying"
    #: The plan is frozen; systems are at work or waiting their turn.
    ACTIVE = "active"
    #: The confirmation is out.
    CLOSED = "closed"


class OrderPhase(_Word):
    """Where the order to one system is."""

    #: Not sent: a stage, an identifier, another request, an approval or a cooling-off time is awaited.
    WAITING = "waiting"
    #: Sent; no report yet.
    SENT = "sent"
    #: The system has taken it and named a date.
    ACCEPTED = "accepted"
    #: Failed, or silent beyond patience: a person must retry or waive.
    ESCALATED = "escalated"
    #: A final outcome is recorded.
    SETTLED = "settled"


class OutcomeCode(_Word):
    """How one system answered. All but `accepted` are final; `failed` never closes a request."""

    ACCEPTED = "accepted"
    FULFILLED = "fulfilled"
    NOTHING_HELD = "nothing_held"
    NOT_APPLICABLE = "not_applicable"
    RETAINED = "retained"
    NOTIFIED = "notified"
    WAIVED = "waived"
    FAILED = "failed"


class RequestResult(_Word):
    """How a closed request ended."""

    #: Every system fulfilled, held nothing, or had nothing to do.
    FULFILLED = "fulfilled"
    #: Some system retained data, was waived, or was only notified.
    FULFILLED_WITH_EXCEPTIONS = "fulfilled_with_exceptions"
    #: No system did what was asked: waived, not applicable, kept by law, or only told of it.
    NOT_FULFILLED = "not_fulfilled"
    #: The controller refused, with a ground.
    REFUSED = "refused"
    #: The data subject took the request back.
    WITHDRAWN = "withdrawn"
    #: Nobody confirmed in time who was asking, or the portal denied it.
    IDENTITY_NOT_CONFIRMED = "identity_not_confirmed"


class RefusalGround(_Word):
    """Why a controller may refuse (GDPR)."""

    #: Art. 12(5)(b).
    MANIFESTLY_UNFOUNDED = "manifestly_unfounded"
    #: Art. 12(5)(b).
    EXCESSIVE = "excessive"
    #: Art. 11(2) with 12(2).
    NOT_IDENTIFIABLE = "not_identifiable"
    #: Art. 15(4).
    RIGHTS_OF_OTHERS = "rights_of_others"
    #: Art. 20(1)-(2): not based on consent or contract, or not by automated means.
    PORTABILITY_CONDITIONS = "portability_conditions"
    #: Art. 17(1): none of the grounds for erasure applies.
    NO_GROUND_FOR_ERASURE = "no_ground_for_erasure"
    #: Art. 23: restricted by national law.
    NATIONAL_LAW = "national_law"


class RetentionGround(_Word):
    """Why a system keeps data in spite of an erasure request: the letters of GDPR Art. 17(3)."""

    EXPRESSION_AND_INFORMATION = "art17_3_a"
    LEGAL_OBLIGATION = "art17_3_b"
    PUBLIC_HEALTH = "art17_3_c"
    ARCHIVING_RESEARCH_STATISTICS = "art17_3_d"
    LEGAL_CLAIMS = "art17_3_e"
    #: Named by `detail`, for instance a tax law.
    NATIONAL_LAW = "national_law"


class NotApplicableReason(_Word):
    """Why a planned system has nothing to do."""

    #: The system offers nothing for this right (a lawful limit, stated in the registry).
    RIGHT_NOT_OFFERED = "right_not_offered"
    #: None of the identifiers it needs is known, and nobody is left who could yield one.
    IDENTIFIER_MISSING = "identifier_missing"
    #: An erasure of the same person overtook this order before it was sent.
    SUPERSEDED = "superseded"
    #: The request was withdrawn before this order was sent.
    WITHDRAWN = "withdrawn"
    #: The request was refused before this order was sent.
    REFUSED = "refused"


class FailureReason(_Word):
    """Why a connector gave up; a person must look."""

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    REJECTED = "rejected"
    CREDENTIALS_REFUSED = "credentials_refused"
    VERIFICATION_FAILED = "verification_failed"
    JOB_FAILED = "job_failed"
    IDENTITY_UNREADABLE = "identity_unreadable"
    RESULTS_KEY_MISSING = "results_key_missing"
    CONNECTOR_DEFECT = "connector_defect"
    SYSTEM_ERROR = "system_error"


class IdentifierKind(_Word):
    """What a person can be found by."""

    EMAIL = "email"
    PHONE = "phone"
    ACCOUNT_ID = "account_id"
    CRM_CONTACT_ID = "crm_contact_id"
    GA_CLIENT_ID = "ga_client_id"
    GA_USER_ID = "ga_user_id"
    HOTJAR_USER_ID = "hotjar_user_id"
    COOKIE_ID = "cookie_id"
    IP_ADDRESS = "ip_address"
    CUSTOMER_ID = "customer_id"


class IdentifierForm(_Word):
    """The form in which a system needs an identifier: an order carries no more than that."""

    RAW = "raw"
    LOWER = "lower"
    MD5 = "md5"
    SHA256 = "sha256"
    E164 = "e164"


class AssuranceLevel(_Word):
    """How sure the portal is of the identity (the levels of eIDAS, Reg. 910/2014 Art. 8)."""

    LOW = "low"
    SUBSTANTIAL = "substantial"
    HIGH = "high"


class IdentityRefusalReason(_Word):
    """Why a portal could not confirm who asked."""

    NO_ANSWER = "no_answer"
    NOT_THE_PERSON = "not_the_person"
    INSUFFICIENT_EVIDENCE = "insufficient_evidence"


class ExtensionReason(_Word):
    """Why the period is extended: GDPR Art. 12(3) knows these two and no other."""

    COMPLEXITY = "complexity"
    NUMBER_OF_REQUESTS = "number_of_requests"


class HoldKind(_Word):
    """Why a request stands still."""

    #: Data must be preserved for proceedings; the legal clock keeps running.
    LEGAL_HOLD = "legal_hold"
    #: The person was asked to clarify the scope (GDPR recital 63); stops the clock where the rule says so.
    CLARIFICATION = "clarification"
    #: Doubt about identity (GDPR Art. 12(6)); stops the clock where the rule says so.
    IDENTITY = "identity"
    #: A fee was announced and is awaited (GDPR Art. 12(5)(a), UK GDPR 12A).
    FEE = "fee"


class EscalationReason(_Word):
    """Why a person is told."""

    ORDER_FAILED = "order_failed"
    NO_ANSWER = "no_answer"
    LATE_BEYOND_PROMISE = "late_beyond_promise"
    DUE_SOON = "due_soon"
    OVERDUE = "overdue"
    APPROVAL_AWAITED = "approval_awaited"
    HOLD_REVIEW = "hold_review"
    RETENTION_ENDED = "retention_ended"
    #: Data is kept without a date on which that ends: somebody looks from time to time whether the ground still holds.
    RETENTION_REVIEW = "retention_review"
    CLOCK_DISAGREES = "clock_disagrees"
    LATE_REPORT = "late_report"


class StatusCode(_Word):
    """What portals are told while a request is open."""

    ACKNOWLEDGED = "acknowledged"
    IDENTITY_AWAITED = "identity_awaited"
    PROGRESS = "progress"
    EXTENDED = "extended"
    ON_HOLD = "on_hold"
    RESUMED = "resumed"
    DUPLICATE_OF = "duplicate_of"
    TOO_LATE = "too_late"
    REJECTED = "rejected"
    ESCALATED = "escalated"
    RETENTION_ENDED = "retention_ended"


class CancellationReason(_Word):
    """Why an order that was sent is over before its system has answered."""

    #: The person took the request back.
    WITHDRAWN = "withdrawn"
    #: The controller refused the request.
    DENIED = "denied"
    #: A person decided that this system need not answer. It is still what the data subject wants.
    WAIVED = "waived"


class QuarantineReason(_Word):
    """Why a record was set aside."""

    NOT_JSON = "not_json"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    INVALID_FIELD = "invalid_field"
    MISSING_FIELD = "missing_field"
    OVERSIZED = "oversized"
    IDENTITY_UNREADABLE = "identity_unreadable"
    KEY_MISMATCH = "key_mismatch"
    UNKNOWN_REQUEST = "unknown_request"
    UNKNOWN_ORDER = "unknown_order"
    UNKNOWN_PORTAL = "unknown_portal"
    FOREIGN_PORTAL = "foreign_portal"
    FOREIGN_SYSTEM = "foreign_system"
    ID_REUSED = "id_reused"
    ILLEGAL_MOVE = "illegal_move"
    EXTENSION_TOO_LATE = "extension_too_late"
    FOUR_EYES = "four_eyes"
    UNKNOWN_SYSTEM = "unknown_system"
    WRONG_TOPIC = "wrong_topic"
    #: The orchestrator's own code failed at it again and again; nothing need be wrong with the record.
    DEFECT = "defect"
    #: No signature where one is required.
    SIGNATURE_MISSING = "signature_missing"
    #: The bytes are not those that were signed, or the signature is none.
    SIGNATURE_BROKEN = "signature_broken"
    #: Signed by somebody who may not say this.
    SIGNATURE_FOREIGN = "signature_foreign"
    #: Signed by the right one, with a key whose time is over or has not come.
    SIGNATURE_EXPIRED = "signature_expired"
    #: Signed with a key that is not trusted.
    SIGNER_UNKNOWN = "signer_unknown"


class Language(_Word):
    """Languages in which a confirmation can be read."""

    EN = "en"
    NL = "nl"
