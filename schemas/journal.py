"""Every transition, for auditors, on `dsr.journal.v1`; hash-chained per request.

Room rules: codes and dates, no identity. An entry's digest is the SHA-256 of its bytes; the next entry names it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Instant, Message, Record
from schemas.ids import SubjectRequestId
from schemas.vocabulary import Phase

__all__ = ["GENESIS", "JournalEntry", "JournalFact"]

#: `previous` of a request's first entry.
GENESIS = "0" * 64


class JournalFact(Record):
    """One thing that became true: past tense, with coded details."""

    fact: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,39}$")]
    details: Annotated[dict[str, Any], Field(default_factory=dict)]


class JournalEntry(Message):
    """What one input did to one request."""

    type: Literal["JournalEntry"] = "JournalEntry"
    subject_request_id: SubjectRequestId
    sequence: Annotated[int, Field(ge=1)]
    previous: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    at: Instant
    cause: Annotated[str, Field(description="Type of the input: a message's type, or Wake")]
    source: Annotated[str, Field(description="topic-partition-offset of the input, empty for a wake-up")] = ""
    phase: Phase
    facts: tuple[JournalFact, ...]
