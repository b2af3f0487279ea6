"""What the checks of one request stand on: the extent of the log, how far inputs were processed, the time.

Room rules: knows partitions and offsets, no request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from orchestrator.audit.dossier import Dossier
from orchestrator.audit.findings import Findings
from orchestrator.audit.notes import InputNote
from orchestrator.audit.records import Extent, LogRecord, Place, Span
from orchestrator.audit.story import Story
from schemas.topics import Topics

__all__ = ["Case", "Ground"]

_NOTHING = Span(0, 0)


@dataclass(slots=True)
class Ground:
    """The log as a whole.

    `processed` is, by partition of inputs, the highest offset that a journal entry or a quarantine record names: inputs of one
    partition are taken in order, so whatever stands before it was seen. `first_ms` is the time of the first record that is
    left of a partition. A wait may end `slack` before somebody must have been told.
    """

    topics: Topics
    extent: Extent
    as_of: datetime
    slack: timedelta
    processed: dict[tuple[str, int], int] = field(default_factory=dict)
    first_ms: dict[tuple[str, int], int] = field(default_factory=dict)
    #: Before everything was read, a partition without a record so far is not known to have lost any.
    all_read: bool = False
    _begun_late: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for (topic, partition), span in self.extent.items():
            if span.beginning > 0:
                self._begun_late.setdefault(topic, []).append((topic, partition))

    def saw(self, record: LogRecord) -> None:
        """Remember the time of a partition's first record."""
        self.first_ms.setdefault((record.place.topic, record.place.partition), record.timestamp_ms)

    def processed_up_to(self, place: Place) -> None:
        """Learn that an input was processed."""
        partition = place.topic, place.partition
        if place.offset > self.processed.get(partition, -1):
            self.processed[partition] = place.offset

    def is_processed(self, place: Place) -> bool:
        """Tell whether an input must have been seen by the orchestrator."""
        return place.offset <= self.processed.get((place.topic, place.partition), -1)

    def is_expired(self, place: Place) -> bool:
        """Tell whether the broker has deleted the record by age."""
        return place.offset < self.extent.get((place.topic, place.partition), _NOTHING).beginning

    def is_unread(self, place: Place) -> bool:
        """Tell whether the record lies behind the end of what was read; where there is no such partition, nothing can lie."""
        span = self.extent.get((place.topic, place.partition))
        return span is not None and place.offset >= span.end

    def began_at(self, topic: str) -> datetime | None:
        """Return the time of the first record that is left of a topic; None if there is none. Only when everything was read."""
        first = min((at for (name, _), at in self.first_ms.items() if name == topic), default=None)
        return None if first is None else datetime.fromtimestamp(first / 1000, UTC)

    def has_lost(self, topic: str) -> bool:
        """Tell whether the broker has deleted any record of the topic by age."""
        return topic in self._begun_late

    def may_be_expired(self, topic: str, at: datetime) -> bool:
        """Tell whether a record written at about `at` may have been deleted by age from some partition of the topic."""
        return any(self._may_have_lost(partition, at) for partition in self._begun_late.get(topic, ()))

    def has_lost_since(self, place: Place, at: datetime | None) -> bool:
        """Tell whether the partition of `place` may have lost a record written at `at`, or any if that is not known."""
        partition = place.topic, place.partition
        return self.extent[partition].beginning > 0 and (at is None or self._may_have_lost(partition, at))

    def _may_have_lost(self, partition: tuple[str, int], at: datetime) -> bool:
        at_ms = at.timestamp() * 1000
        return at_ms <= self.first_ms.get(partition, at_ms if self.all_read else 0)


class Case:
    """One request before the checks: its dossier, its story, its inputs by place, and where findings go."""

    __slots__ = ("by_place", "dossier", "findings", "ground", "journal_is_whole", "story")

    def __init__(self, dossier: Dossier, story: Story, ground: Ground, findings: Findings) -> None:
        self.dossier = dossier
        self.story = story
        self.ground = ground
        self.findings = findings
        self.by_place: dict[Place, InputNote] = {note.place: note for note in dossier.inputs}
        #: Whether the journal can be relied on: checks that compare with it wait until it is.
        self.journal_is_whole = True

    def violated(self, invariant: int, place: Place | None, meaning: str) -> None:
        """Note a violation of this request."""
        self.findings.violated(invariant, self.dossier.request, place, meaning)

    def unverified(self, what: str) -> None:
        """Count something that could not be checked, because its records are gone by age."""
        self.findings.unverified[what] += 1
