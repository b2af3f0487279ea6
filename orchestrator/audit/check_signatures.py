"""Invariant 11: whoever says something has signed it.

What the orchestrator says is checked as it is read; what others say, where it had an effect: a record that nobody believed
stands in quarantine, and may be anybody's. A key must have been valid when its record was written, by the record's own time,
so a trust file for an audit keeps old keys with the `exp` they had.

Room rules: one function per invariant, its number in its name; every finding says what it means, none quotes a value.
"""

from __future__ import annotations

from datetime import UTC, datetime

from orchestrator.audit.ground import Case
from orchestrator.audit.notes import parse_source
from orchestrator.audit.records import LogRecord
from schemas.base import Message
from schemas.errors import ProtocolViolation
from schemas.signatures import Verifier, leaf_of, signature_in, speaker_of
from schemas.topics import Topics, kind_of
from schemas.trust import ORCHESTRATOR, Trust
from schemas.wire import TYPE_HEADER

__all__ = ["Signatures", "check_11_signatures"]


class Signatures:
    """The signatures of one log, and the keys of those who may speak in it. Without keys nothing is checked."""

    def __init__(self, topics: Topics, trust: Trust | None) -> None:
        self._verifier = None if trust is None else Verifier(trust)
        self._ours = frozenset({topics.journal, topics.status, topics.confirmations, topics.releases})
        #: How many were found good.
        self.verified = 0

    @property
    def are_checked(self) -> bool:
        """Tell whether there are keys to check with."""
        return self._verifier is not None

    def fault_of_ours(self, record: LogRecord) -> str:
        """Return what is wrong with the signature of a record that only the orchestrator writes; of others, nothing."""
        if record.place.topic not in self._ours:
            return ""
        said = next((value for name, value in record.headers if name == TYPE_HEADER), b"").decode(errors="replace")
        return self._fault(record, said, ORCHESTRATOR)

    def fault_of(self, record: LogRecord, message: Message) -> str:
        """Return what is wrong with the signature of somebody's message, or nothing."""
        return self._fault(record, type(message).__name__, speaker_of(message))

    def _fault(self, record: LogRecord, message_type: str, principal: str) -> str:
        if self._verifier is None:
            return ""
        leaf = leaf_of(message_type, kind_of(record.place.topic), record.key or b"", record.value or b"")
        written_at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        try:
            self._verifier.verify(leaf, signature_in(record.headers), principal=principal, at=written_at)
        except ProtocolViolation as violation:
            return str(violation.code)
        self.verified += 1
        return ""


def check_11_signatures(case: Case) -> None:
    """11: what the journal says was taken in was signed by whom it names."""
    for entry in case.story.notes:
        place = parse_source(entry.entry.source)
        given = None if place is None else case.by_place.get(place)
        if given is not None and given.fault:
            case.violated(11, given.place, f"it had an effect, and is not signed by whom it names ({given.fault})")
