"""Every error of the product, by blame; the class name states the remedy.

DsrError
├── OrchestratorError          ours: a bug, a wrong configuration, a broken store
│   ├── ConfigurationError     fix the named setting or file, then start again
│   │   └── RowDamaged         restore that one row of the store; nothing else is concerned
│   └── StoreUnavailable       retry; nothing was saved
├── ConnectorError             an outside system's
│   ├── SystemUnavailable      retry later
│   ├── Throttled              retry after `retry_after_seconds`
│   ├── SystemRejected         do not retry: a person must look
│   └── CredentialsRefused     tell the owner; do not retry before the credentials change
├── ProtocolViolation          the record's: quarantine it with its bytes
└── NotVerified                a receipt's or a log's: do not rely on it, ask the controller

Room rules: no message of any error here may hold an identity, or bytes that may contain one.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "ConnectorError",
    "CredentialsRefused",
    "DsrError",
    "NotVerified",
    "OrchestratorError",
    "ProtocolViolation",
    "RowDamaged",
    "StoreUnavailable",
    "SystemRejected",
    "SystemUnavailable",
    "Throttled",
]


class DsrError(Exception):
    """Something the orchestrator or a connector could not do."""


class OrchestratorError(DsrError):
    """The orchestrator itself is at fault."""


class ConfigurationError(OrchestratorError):
    """A setting or file is wrong: the message names the field and the remedy."""


class RowDamaged(ConfigurationError):
    """One row of the store does not open under the key that wrapped it: whoever asks for others goes on."""


class StoreUnavailable(OrchestratorError):
    """The store did not answer; nothing was saved, so the same call may be repeated."""


class ConnectorError(DsrError):
    """An outside system did not do what was asked.

    `reason` is a code from `vocabulary.FailureReason`; the text never quotes a response body.
    """

    reason = "system_error"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class SystemUnavailable(ConnectorError):
    """No answer, or one that promises nothing (timeout, 5xx): retry later."""

    reason = "unavailable"


class Throttled(ConnectorError):
    """The system asks to slow down: retry after `retry_after_seconds` (seconds, None if it did not say)."""

    reason = "throttled"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SystemRejected(ConnectorError):
    """The system understood and refused: the same call will be refused again."""

    reason = "rejected"


class CredentialsRefused(ConnectorError):
    """The system does not know us or forbids us this: its owner must renew credentials or scopes."""

    reason = "credentials_refused"


class ProtocolViolation(DsrError):
    """A record breaks the protocol: it goes to quarantine and changes nothing.

    `code` is one of `vocabulary.QuarantineReason`, `field` the path of the offending field (never its value),
    `remedy` what its writer should do.
    """

    def __init__(self, code: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(f"{code}{f' at {field}' if field else ''}{f': {remedy}' if remedy else ''}")
        self.code = code
        self.field = field
        self.remedy = remedy


class NotVerified(DsrError):
    """A receipt, or a checkpoint of the log, proves nothing. `step` is the number of the step that failed, `fault` its code."""

    def __init__(self, step: int, fault: str, message: str) -> None:
        super().__init__(f"step {step}, {fault}: {message}")
        self.step = step
        self.fault = fault
