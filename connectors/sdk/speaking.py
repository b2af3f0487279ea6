"""Reports as records, signed as the system that reports: one signature for all that is published together.

The orchestrator believes a report only if `system:` and the report's system signed it. A connector checks no signature on its
orders: their identity part opens only under a key that it shares with the orchestrator alone, bound to this very order.

Room rules: a report that goes out unsigned does so because a setting says so, never because a key is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from connectors.sdk.bus import Outbound
from connectors.sdk.settings import RuntimeSettings
from schemas.reports import FulfilmentReport
from schemas.signatures import sign_records
from schemas.trust import SigningKey, system_principal
from schemas.wire import encode, headers_of

__all__ = ["outbound_reports", "signer_of"]

_log = structlog.get_logger("dsr.connector")


def outbound_reports(topic: str, reports: Sequence[FulfilmentReport], signer: SigningKey | None) -> list[Outbound]:
    """Return the records to publish, in order; without a signer they are unsigned."""
    plain = [(topic, one.subject_request_id.encode(), encode(one), headers_of(one)) for one in reports]
    if signer is None:
        return [Outbound(*one) for one in plain]
    return [Outbound(*one[:3], headers) for one, headers in zip(plain, sign_records(plain, signer), strict=True)]


def signer_of(settings: RuntimeSettings, system: str) -> SigningKey | None:
    """Return the key that a system's reports are signed with, None if signatures are off. Raises `ConfigurationError`."""
    signer = settings.signer(system_principal(system))
    if signer is None:
        _log.warning("signatures_off", system=system, action="set DSR_SIGNATURES=required outside a laptop or a test")
    return signer
