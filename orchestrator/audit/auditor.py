"""Reads a log once, request by request, and says what is broken in it.

Order across topics means nothing here: a request is judged by everything that the log says of it. What can be judged early is:
once a closed request is complete and all is well, eight bytes a record are kept of it (`Frozen`). If something new comes for it
later, it is read again in a second pass; so memory grows with the open requests, and the answer is the same in any order.

Room rules: counts and orders the work; the checks stand in files of their own.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b

from orchestrator.audit.check_confirmations import (
    check_1_confirmation,
    check_1_distinct,
    check_2_outcomes,
    check_7_reports,
)
from orchestrator.audit.check_journal import check_5_dates, check_6_chain
from orchestrator.audit.check_orders import check_3_orders, check_4_content, check_8_inputs
from orchestrator.audit.check_releases import check_10_releases
from orchestrator.audit.check_signatures import Signatures, check_11_signatures
from orchestrator.audit.dossier import Dossier, Frozen
from orchestrator.audit.findings import Findings, Violation
from orchestrator.audit.ground import Case, Ground
from orchestrator.audit.identity import IdentitySearch
from orchestrator.audit.notes import (
    CancellationNote,
    ConfirmationNote,
    JournalNote,
    Note,
    NoteTaker,
    OrderNote,
    QuarantineNote,
    StatusNote,
    Unreadable,
    parse_source,
)
from orchestrator.audit.records import Extent, Log, LogRecord, Place
from orchestrator.audit.story import Story, tell
from schemas.topics import Topics
from schemas.trust import Trust

__all__ = ["Auditor", "Verdict", "audit", "confirmed"]

#: Told the number of records read so far.
Progress = Callable[[int], None]


@dataclass(slots=True)
class Verdict:
    """What an audit found. `duplicates` are byte-identical records of ours beyond the first, by topic: allowed, but few.

    `again` tells of which batches they are: the journal entries that one save wrote carry one instant, so by instant and
    entry how often it came again.
    """

    findings: Findings
    records: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    again: dict[datetime, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    requests: int = 0
    closed: int = 0
    quarantined: int = 0
    read_twice: int = 0
    #: How many signatures were found good; None if there were no keys to check them with.
    signed: int | None = None
    as_of: datetime | None = None

    @property
    def violations(self) -> list[Violation]:
        """Return the violations, by number, request and place."""
        return sorted(
            set(self.findings.violations), key=lambda v: (v.invariant, v.request, v.place or Place("", 0, 0), v.meaning)
        )

    @property
    def batches_again(self) -> int:
        """Return how many times a batch was published again, whole or in part: a crash should do that once."""
        return sum(max(entries.values()) for entries in self.again.values())

    @property
    def largest_again(self) -> int:
        """Return how many different journal entries the largest of these batches doubled."""
        return max(map(len, self.again.values()), default=0)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing is broken."""
        return not self.findings.violations


class Auditor:
    """One pass over a log. Feed it every record of the extent, then ask for the verdict."""

    def __init__(
        self, ground: Ground, search: IdentitySearch, *, trust: Trust | None = None, only: frozenset[bytes] | None = None
    ) -> None:
        self._ground = ground
        self._search = search
        self._only = only
        self._signatures = Signatures(ground.topics, trust)
        self._notes = NoteTaker(ground.topics, self._signatures.fault_of)
        self._open: dict[bytes, Dossier] = {}
        self._frozen: dict[bytes, Frozen] = {}
        #: follower -> (leader, outcomes, where its confirmation stands)
        self._links: dict[bytes, tuple[bytes, int, Place]] = {}
        #: Requests of which something came after they had been judged, with the prints of that.
        self.reopened: dict[bytes, set[int]] = {}
        self.verdict = Verdict(Findings(), as_of=ground.as_of)

    def feed(self, record: LogRecord) -> None:
        """Take in one record."""
        if self._only is None:
            self._ground.saw(record)
            self.verdict.records[record.place.topic] += 1
            self._search.look(record, self.verdict.findings)
            self._check_ours(record)
        if record.place.topic == self._ground.topics.releases:
            self._feed_releases(record)
            return
        # Keys that are no request's are one: in quarantine, a sealed record has none.
        key = record.key if record.key and _REQUEST.fullmatch(record.key) else b""
        note = self._notes.take(record) if self._only is None or key in self._only else None
        if note is not None:
            self._learn_progress(note)
            self._file(key, note)

    def _check_ours(self, record: LogRecord) -> None:
        fault = self._signatures.fault_of_ours(record)
        if fault:
            meaning = f"the orchestrator did not write this, or it was changed ({fault})"
            self.verdict.findings.violated(11, _shown(record.key or b""), record.place, meaning)

    def _feed_releases(self, record: LogRecord) -> None:
        notes = self._notes.releases(record)
        if not isinstance(notes, Unreadable):
            for request, note in notes:
                self._file(request.encode(), note)
        elif self._only is None:
            self.verdict.findings.violated(notes.invariant, "", notes.place, notes.why)

    def _file(self, key: bytes, note: Note) -> None:
        if self._only is not None and key not in self._only:
            return
        frozen = self._frozen.get(key)
        if frozen is not None:
            self._meet_again(key, frozen, note)
            return
        dossier = self._open.get(key)
        if dossier is None:
            dossier = self._open[key] = Dossier(_shown(key))
        if not dossier.add(note):
            self._count_duplicate(note)
        elif self._only is None and dossier.may_be_complete:
            self._try_to_freeze(key, dossier)

    def _learn_progress(self, note: Note) -> None:
        if isinstance(note, JournalNote):
            place = parse_source(note.entry.source)
        elif isinstance(note, QuarantineNote):
            self.verdict.quarantined += 1
            place = note.origin
        else:
            return
        if place is not None:
            self._ground.processed_up_to(place)

    def _meet_again(self, key: bytes, frozen: Frozen, note: Note) -> None:
        if isinstance(note, StatusNote):
            return
        late = self.reopened.get(key, set())
        if frozen.knows(note.print) or note.print in late:
            self._count_duplicate(note)
        else:
            self.reopened[key] = {*late, note.print}

    def _count_duplicate(self, note: Note) -> None:
        if isinstance(note, JournalNote | ConfirmationNote | OrderNote | CancellationNote):
            self.verdict.duplicates[note.place.topic] += 1
        if isinstance(note, JournalNote):
            self.verdict.again[note.entry.at][note.print] += 1

    def _try_to_freeze(self, key: bytes, dossier: Dossier) -> None:
        findings, story = _examine(dossier, self._ground)
        if findings.violations or findings.waiting:
            return
        outcomes = self._outcomes(key, dossier, story)
        self.verdict.findings.merge(findings)
        self.verdict.requests += 1
        self.verdict.closed += 1
        self._frozen[key] = Frozen(dossier.prints, outcomes)
        del self._open[key]

    def _outcomes(self, key: bytes, dossier: Dossier, story: Story) -> int:
        """Return a hash of the outcomes shown; note whose they are if another request did the work."""
        note = dossier.confirmations[0]
        shown = b"\n".join(result.model_dump_json().encode() for result in note.confirmation.systems)
        hashed = int.from_bytes(blake2b(shown, digest_size=8).digest(), "big")
        if story.is_served_by_leader and story.leader is not None:
            self._links[key] = (story.leader.encode(), hashed, note.place)
        return hashed

    def finish(self) -> None:
        """Judge what is still open, now that everything was read."""
        self._ground.all_read = True
        self.verdict.signed = self._signatures.verified if self._signatures.are_checked else None
        outcomes = {key: frozen.outcomes for key, frozen in self._frozen.items()}
        for key, dossier in self._open.items():
            findings, story = _examine(dossier, self._ground)
            self.verdict.findings.merge(findings)
            if story.notes:
                self.verdict.requests += 1
                self.verdict.closed += bool(story.closed)
            if dossier.confirmations:
                outcomes[key] = self._outcomes(key, dossier, story)
        for follower, (leader, shown, place) in self._links.items():
            if self._only is None and outcomes.get(leader) != shown:
                meaning = "it shows other outcomes than the confirmation of the request that did its work"
                self.verdict.findings.violated(7, _shown(follower), place, meaning)


def _examine(dossier: Dossier, ground: Ground) -> tuple[Findings, Story]:
    """Run every check on one request."""
    story = tell((dossier.journal[sequence] for sequence in sorted(dossier.journal)), dossier.request)
    findings = Findings(list(dossier.oddities))
    case = Case(dossier, story, ground, findings)
    check_6_chain(case)
    check_4_content(case)
    check_1_distinct(case)
    if case.journal_is_whole:
        check_1_confirmation(case)
        check_2_outcomes(case)
        check_3_orders(case)
        check_5_dates(case)
        check_7_reports(case)
        check_8_inputs(case)
        check_10_releases(case)
        check_11_signatures(case)
    return findings, story


_REQUEST = re.compile(rb"[0-9a-f-]{36}")


def _shown(key: bytes) -> str:
    """Return the key if it is a request's id; any other key may itself be an identity and is not shown."""
    return key.decode() if _REQUEST.fullmatch(key) else "(key is no request id)"


async def audit(
    log: Log,
    topics: Topics,
    *,
    as_of: datetime,
    extent: Extent | None = None,
    search: IdentitySearch | None = None,
    trust: Trust | None = None,
    slack: timedelta = timedelta(minutes=15),
    progress: Progress = lambda _count: None,
) -> Verdict:
    """Return the verdict on everything between the beginning and the ends captured now.

    `as_of`: the instant by which stored waits are judged, plus `slack`. Without `trust` no signature is checked. A clean
    verdict does not imply that the systems did what their reports say, nor that records deleted by age were in order: those
    are counted under `unverified`.
    """
    extent = await log.extent() if extent is None else extent
    ground = Ground(topics=topics, extent=extent, as_of=as_of, slack=slack)
    first = Auditor(ground, search or IdentitySearch(), trust=trust)
    read = 0
    async for record in log.read(extent):
        first.feed(record)
        read += 1
        progress(read)
    first.finish()
    verdict = first.verdict
    if first.reopened:
        again = Auditor(ground, IdentitySearch(), trust=trust, only=frozenset(first.reopened))
        async for record in log.read(extent):
            again.feed(record)
            read += 1
            progress(read)
        again.finish()
        verdict.findings.violations += again.verdict.findings.violations
        verdict.findings.waiting += again.verdict.findings.waiting
        verdict.read_twice = len(first.reopened)
    return verdict


def confirmed(first: Verdict, second: Verdict) -> Verdict:
    """Return the second of two readings of a live log, with only those violations that both of them saw.

    What only the first saw has found its other half since; what only the second saw may find it yet.
    """
    seen = set(first.findings.violations)
    second.findings.violations = [violation for violation in second.findings.violations if violation in seen]
    return second
