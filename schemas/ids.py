"""Identifiers: derived, never random, so that a replay produces the same ones.

Room rules: pure functions of their arguments.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, TypeGuard

from pydantic import StringConstraints

__all__ = [
    "PortalId",
    "SubjectRequestId",
    "SystemId",
    "confirmation_id",
    "digest",
    "is_request_id",
    "order_id",
    "report_id",
]

#: Lower-case UUID made by the portal (OpenDSR 2.0, `subject_request_id`).
SubjectRequestId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
#: A system of the registry; part of a topic's name, therefore short and plain.
SystemId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
#: A portal of the registry.
PortalId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


_REQUEST_ID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_request_id(key: bytes | None) -> TypeGuard[bytes]:
    """Tell whether a record's key is a request's id, which leads to nobody; anything else is whatever somebody published."""
    return key is not None and _REQUEST_ID.fullmatch(key) is not None


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _derive(prefix: str, *parts: str) -> str:
    return prefix + hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).hexdigest()


def order_id(subject_request_id: str, system: str) -> str:
    """Return the id of the one order of a request to a system: the same at every attempt."""
    return _derive("ord_", subject_request_id, system)


def report_id(order: str, attempt: int, outcome: str) -> str:
    """Return the id of a report: one per order, attempt and outcome code."""
    return _derive("rep_", order, str(attempt), outcome)


def confirmation_id(subject_request_id: str) -> str:
    """Return the id of the one confirmation of a request."""
    return _derive("cnf_", subject_request_id)
