"""What must hold at the end of every run, whatever went wrong in it.

The auditor reads the log and knows nothing else; the checks here know the truth behind it: the order in which all records were
written, what the vendors really did, what lies on the disks.

Room rules: reads; every complaint is one sentence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from orchestrator.audit.auditor import Verdict, audit
from orchestrator.audit.findings import Findings, Violation
from orchestrator.audit.records import Extent, LogRecord, Place, Span
from orchestrator.core.state import from_bytes
from schemas.confirmations import Confirmation
from schemas.ids import digest, order_id
from schemas.outcomes import NotApplicable
from schemas.reports import FulfilmentReport
from schemas.vocabulary import NotApplicableReason, Phase, QuarantineReason
from schemas.wire import TYPE_HEADER
from tests.simulation.broker import Stored
from tests.simulation.clockwork import instant_of
from tests.simulation.company import search

if TYPE_CHECKING:
    from tests.simulation.run import World

__all__ = ["judge"]


class _BrokersLog:
    """The broker's log as the auditor reads it."""

    def __init__(self, records: list[Stored]) -> None:
        self._records = records

    async def extent(self) -> Extent:
        ends: dict[tuple[str, int], int] = defaultdict(int)
        for record in self._records:
            ends[record.topic, record.partition] = max(ends[record.topic, record.partition], record.offset + 1)
        return {partition: Span(0, end) for partition, end in ends.items()}

    async def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        del extent
        for record in self._records:
            yield record.as_log_record()


async def judge(world: World) -> list[str]:
    """Return everything that is wrong; an empty list is a clean run."""
    records = world.broker.records()
    verdict: Verdict = await audit(
        _BrokersLog(records), world.broker.topics, as_of=instant_of(world.loop.micros), search=search()
    )
    complaints = [
        f"auditor {v.invariant}: {v.request[:8]} {v.place}: {v.meaning}"
        for v in verdict.violations
        if not _is_expected(world, v)
    ]
    for check in (
        _ended,
        _confirmed_once,
        _none_early,
        _vendors_did_it,
        _finds_kept,
        _nothing_left,
        _no_identity,
        _few_duplicates,
        _only_what_broke_is_set_aside,
    ):
        complaints += check(world, records)
    return complaints


def _is_expected(world: World, violation: Violation) -> bool:
    """Tell whether the auditor rightly found what this world allows: somebody may write nonsense into the orders' topics."""
    return violation.place in world.people.poisoned


def _ended(world: World, _records: list[Stored]) -> Iterator[str]:
    """Every request is closed, and everything that was published was read."""
    for request in world.people.submitted:
        row = world.database.rows.get(request)
        if row is None:
            yield f"lost: {request[:8]} was published, and nobody knows of it"
        elif row.phase != Phase.CLOSED:
            state = from_bytes(row.state)
            waits = ", ".join(f"{order.system}:{order.phase}" for order in state.orders)
            yield f"stuck: {request[:8]} is {row.phase}, {waits or 'no orders'}, wakes at {row.wake_at}"
    for group, lag in world.broker.lag().items():
        if lag:
            yield f"stuck: {group} has not committed {lag} records"


def _confirmed_once(world: World, records: list[Stored]) -> Iterator[str]:
    values: dict[str, set[bytes]] = defaultdict(set)
    for record in records:
        if record.topic == world.broker.topics.confirmations:
            values[(record.key or b"").decode()].add(record.value or b"")
    for request in world.people.submitted:
        if len(values[request]) != 1:
            yield f"{request[:8]} has {len(values[request])} distinct confirmations"
    for request in values.keys() - world.people.submitted.keys():
        yield f"a confirmation for {request[:8]}, which nobody asked for"


def _confirmations(world: World, records: list[Stored]) -> Iterator[tuple[Stored, Confirmation]]:
    seen: set[bytes] = set()
    for record in records:
        if record.topic == world.broker.topics.confirmations and record.value not in seen:
            seen.add(record.value or b"")
            yield record, Confirmation.model_validate_json(record.value or b"")


def _none_early(world: World, records: list[Stored]) -> Iterator[str]:
    """What a confirmation says of a system stood in the log before it, word for word, as the first final report."""
    reported: dict[tuple[str, str], tuple[int, FulfilmentReport]] = {}
    for record in records:
        if record.topic == world.broker.topics.reports and dict(record.headers).get(TYPE_HEADER) == b"FulfilmentReport":
            report = FulfilmentReport.model_validate_json(record.value or b"")
            reported.setdefault((report.system, report.report_id), (record.sequence, report))
    for record, confirmation in _confirmations(world, records):
        for result in confirmation.systems:
            if result.report_id is None or result.outcome.code.value in {"waived", "not_applicable"}:
                continue
            found = reported.get((result.system, result.report_id))
            if found is None or found[0] > record.sequence:
                yield f"early: {confirmation.subject_request_id[:8]} is confirmed before {result.system} has reported"
            elif found[1].outcome != result.outcome:
                yield f"{confirmation.subject_request_id[:8]} says something else of {result.system} than its report"


def _vendors_did_it(world: World, records: list[Stored]) -> Iterator[str]:
    """What a system has reported as done was done to it; no job was started twice."""
    for record in records:
        if record.topic != world.broker.topics.reports or dict(record.headers).get(TYPE_HEADER) != b"FulfilmentReport":
            continue
        report = FulfilmentReport.model_validate_json(record.value or b"")
        done = report.outcome.code.value in {"fulfilled", "retained", "nothing_held"}
        if done and not world.vendors[report.system].effects[report.order_id]:
            yield f"{report.system} is reported done for {report.order_id[:10]}, and was never called with effect"
    for vendor in world.vendors.values():
        yield from vendor.complaints


def _finds_kept(world: World, records: list[Stored]) -> Iterator[str]:
    """An identifier that an erasure found and destroyed has reached those who need it."""
    if not {"crm", "analytics"} <= world.vendors.keys():
        return
    for _, confirmation in _confirmations(world, records):
        results = {result.system: result.outcome for result in confirmation.systems}
        crm, analytics = results.get("crm"), results.get("analytics")
        if crm is None or crm.code.value not in {"fulfilled", "nothing_held"} or not isinstance(analytics, NotApplicable):
            continue
        worked_for = str(confirmation.executed_request or confirmation.subject_request_id)
        destroyed = order_id(worked_for, "crm") in world.vendors["crm"].destroyed
        if destroyed and analytics.reason is NotApplicableReason.IDENTIFIER_MISSING:
            yield f"{confirmation.subject_request_id[:8]}: the CRM's record is gone, and with it the identifier for analytics"


def _nothing_left(world: World, records: list[Stored]) -> Iterator[str]:
    """Nobody's identity outlives the request; no batch, report or order lies about."""
    for request in world.database.identities:
        if world.database.rows[request].phase == Phase.CLOSED:
            yield f"the identity of {request[:8]} is still stored"
    if world.database.outbox:
        yield f"{len(world.database.outbox)} batches stay in the outbox"
    for system, setting in world.connectors.items():
        for order, state, kept in setting.disk.query("SELECT order_id, state, order_bytes IS NOT NULL FROM orders"):
            if state != "reported":
                yield f"{system} still has {str(order)[:10]} as {state}"
            elif kept:
                yield f"{system} keeps the sealed order {str(order)[:10]} after reporting it"
        published = {record.value for record in records if record.topic == world.broker.topics.reports}
        for report_id, report in setting.disk.query("SELECT report_id, report_bytes FROM reports WHERE sent"):
            if report not in published:
                yield f"{system} has marked {str(report_id)[:10]} as sent, and it is not in the topic"
        ((unsent,),) = setting.disk.query("SELECT count(*) FROM reports WHERE NOT sent")
        if unsent:
            yield f"{system} has {unsent} reports that were never sent"


def _no_identity(world: World, records: list[Stored]) -> Iterator[str]:
    """The auditor has searched the topics; this searches the disks and what was logged."""
    del records
    finder, findings = search(), Findings()
    blobs = [row.state for row in world.database.rows.values()]
    blobs += [*world.database.identities.values(), *(packed for _, _, packed in world.database.outbox.values())]
    for setting in world.connectors.values():
        for table in ("orders", "reports"):
            blobs += [repr(row).encode() for row in setting.disk.query(f"SELECT * FROM {table}")]
    blobs += ["\n".join(what for _, _, what in world.schedule.lines).encode()]
    for number, blob in enumerate(blobs):
        finder.look(LogRecord(Place("disk", 0, number), 0, None, blob), findings)
    for violation in findings.violations:
        yield f"identity in clear: {violation.meaning} ({violation.place})"


def _only_what_broke_is_set_aside(world: World, records: list[Stored]) -> Iterator[str]:
    """Lives ended, and were counted, where the release fails and nowhere else; what was set aside there is whole."""
    there = {(record.topic, record.partition, record.offset): record for record in records}
    for name in world.database.deaths:
        if not world.breaks(digest(there[name.topic, name.partition, name.offset].value or b"")):
            yield f"a life was counted as ended at {name.topic}-{name.partition}-{name.offset}, where nothing is wrong"
    for record in records:
        told = dict(record.headers)
        if record.topic == world.broker.topics.quarantine and told.get("dsr-reason") == QuarantineReason.DEFECT.encode():
            place = [told[f"dsr-origin-{part}"].decode() for part in ("topic", "partition", "offset")]
            origin = there[place[0], int(place[1]), int(place[2])]
            if (origin.key, origin.value) != (record.key, record.value) or not world.breaks(digest(record.value or b"")):
                yield f"set aside as a defect: {'-'.join(place)}, which is another record or one that does not break"


def _few_duplicates(world: World, records: list[Stored]) -> Iterator[str]:
    """A crash doubles no more than what one save wanted to publish."""
    topics = world.broker.topics
    ours = {topics.journal, *(topics.orders(system) for system in world.vendors)}
    counts = Counter((record.topic, record.key, record.value) for record in records if record.topic in ours and record.key)
    doubled = sum(count - 1 for (topic, _, value), count in counts.items() if value and b"Mystery" not in value)
    happened = world.chance.happened
    blows = sum(happened[kind] for kind in ("crash", "fault", "half published", "stall", "long delay", "journal fault"))
    blows += sum(process.lives - 1 for process in world.processes)
    largest = max(1, world.largest_batch)
    if doubled > blows * largest:
        yield f"{doubled} doubled records after {blows} blows, though no save published more than {largest}"
