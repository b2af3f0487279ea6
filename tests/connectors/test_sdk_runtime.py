"""The runtime's rules, on a bus in memory with a clock by hand: retries, polls, quotas, attempts, quarantine, crashes."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
import structlog
from sdk_world import EMAIL, NOW, PORTAL, Scripted, World, an_order, request_id, until, yielded_in

from connectors.sdk.attempts import Limits
from connectors.sdk.bus import AckLost
from connectors.sdk.journal import OrderState
from connectors.sdk.protocol import Exported, Result, Throttle
from connectors.sdk.retry import Backoff
from connectors.sdk.work import remember, take_turn
from schemas.blobs import BlobPlace, open_result
from schemas.errors import CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.ids import digest, report_id
from schemas.outcomes import Accepted, Fulfilled, NothingHeld
from schemas.sealed import SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right
from schemas.wire import encode

DONE = Result(Fulfilled(count=1))
GA = {IdentifierKind.GA_CLIENT_ID: ("1.2",)}


def accepted(hours=5):
    return Result(Accepted(expected_by=NOW + timedelta(hours=hours)), handle="job-7")


async def test_an_order_becomes_one_report(tmp_path):
    """Order in, report out, order bytes cleared once the broker has the report."""
    world = World(tmp_path, Scripted(Result(Fulfilled(count=2), yielded=GA, notes=("a_note",))))
    async with world.running():
        world.send(an_order())
        (report,) = await world.reported(1)
        await until(lambda: world.entry().order is None)
    assert report.outcome.count == 2
    assert report.attempt == 1
    assert report.report_id == report_id(report.order_id, 1, "fulfilled")
    assert report.notes == ("a_note",)
    assert yielded_in(report) == GA
    assert world.bus.committed == 1
    assert world.connector.jobs[0].every(IdentifierKind.EMAIL) == (EMAIL,)


async def test_a_redelivered_order_is_ignored(tmp_path):
    """The same attempt again, also after its report is out, changes nothing."""
    world = World(tmp_path, Scripted(DONE))
    async with world.running():
        world.send(an_order(), an_order())
        await world.reported(1)
        world.send(an_order())
        await until(lambda: world.bus.committed == 3)
        await world.settled()
    assert len(world.reports) == 1
    assert len(world.connector.jobs) == 1


async def test_a_higher_attempt_gets_the_stored_report_under_its_number(tmp_path):
    """A re-sent order that was fulfilled is not worked on again; the same answer comes back with the new attempt."""
    world = World(tmp_path, Scripted(Result(Fulfilled(count=1), yielded=GA)))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        world.send(an_order(attempt=3), an_order(attempt=2))
        first, again = await world.reported(2)
        await world.settled()
    assert again.attempt == 3
    assert again == first.model_copy(update={"attempt": 3, "report_id": again.report_id})
    assert again.report_id != first.report_id
    assert len(world.reports) == 2
    assert len(world.connector.jobs) == 1


async def test_a_failed_order_is_worked_on_again_with_a_higher_attempt(tmp_path):
    """After `failed` a retry does the work."""
    world = World(tmp_path, Scripted(SystemRejected("no"), DONE))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        world.send(an_order(attempt=2))
        failed, done = await world.reported(2)
    assert failed.outcome.reason == "rejected"
    assert (done.outcome.code, done.attempt) == (OutcomeCode.FULFILLED, 2)


async def test_an_attempt_that_overtakes_the_work_is_answered_once(tmp_path):
    """A higher attempt while the work is under way: one job, one report, with the new number."""
    gate = asyncio.Event()

    async def slow(job):
        await gate.wait()
        return DONE

    world = World(tmp_path, Scripted(slow))
    async with world.running():
        world.send(an_order())
        await until(lambda: world.connector.jobs)
        world.send(an_order(attempt=2))
        await until(lambda: world.bus.committed == 2)
        gate.set()
        (report,) = await world.reported(1)
        await world.settled()
    assert report.attempt == 2
    assert len(world.connector.jobs) == len(world.reports) == 1


async def test_a_failure_that_was_overtaken_is_tried_again_and_not_reported(tmp_path):
    """Somebody asked again while the first try was failing: the second one counts."""
    gate = asyncio.Event()

    async def failing(job):
        await gate.wait()
        raise SystemRejected("no")

    world = World(tmp_path, Scripted(failing, DONE))
    async with world.running():
        world.send(an_order())
        await until(lambda: world.connector.jobs)
        world.send(an_order(attempt=2))
        await until(lambda: world.bus.committed == 2)
        gate.set()
        (report,) = await world.reported(1)
    assert (report.outcome.code, report.attempt) == (OutcomeCode.FULFILLED, 2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemRejected("no"), "rejected"),
        (SystemRejected("no", reason="job_failed"), "job_failed"),
        (SystemRejected("no", reason="made_up"), "system_error"),
        (CredentialsRefused("no"), "credentials_refused"),
        (KeyError(EMAIL), "connector_defect"),
    ],
)
async def test_what_a_repetition_cannot_mend_fails_at_once(tmp_path, error, reason):
    """Refusals and defects are reported after one try; the log of a defect has frames and no values."""
    world = World(tmp_path, Scripted(error))
    with structlog.testing.capture_logs() as logs:
        async with world.running():
            world.send(an_order())
            (report,) = await world.reported(1)
    assert report.outcome.reason == reason
    assert len(world.connector.jobs) == 1
    assert EMAIL not in str(logs)
    if reason == "connector_defect":
        assert any("sdk_world.py" in frame for log in logs for frame in log.get("frames", ()))


async def test_unavailable_is_tried_again_with_growing_waits(tmp_path):
    """5xx: waits grow, are kept in the journal, and end in success when the system is back."""
    world = World(tmp_path, Scripted(SystemUnavailable("x"), SystemUnavailable("x"), DONE))
    waits = []
    async with world.running():
        world.send(an_order())
        for number in (1, 2):
            await until(lambda n=number: len(world.connector.jobs) == n and world.entry().state is OrderState.WAITING)
            waits.append((world.entry().not_before - world.clock.now()).total_seconds())
            await world.settled()
            assert len(world.connector.jobs) == number
            world.clock.advance(waits[-1] + 0.01)
        (report,) = await world.reported(1)
    assert report.outcome.code is OutcomeCode.FULFILLED
    assert 5 <= waits[0] <= 10 <= waits[1] <= 20


async def test_the_same_order_waits_equally_long_every_time():
    """Jitter comes from the order's id: a replay waits as long; different orders spread."""
    backoff = Backoff(10, 3600)
    assert backoff.seconds("ord_a", 3) == backoff.seconds("ord_a", 3)
    assert len({backoff.seconds(f"ord_{n}", 3) for n in range(50)}) == 50
    assert all(1800 <= backoff.seconds(f"ord_{n}", 500) <= 3600 for n in range(50))
    assert backoff.after(NOW, "ord_a", 1, at_least_seconds=900) >= NOW + timedelta(seconds=900)


async def test_a_restart_keeps_the_wait(tmp_path):
    """A process that dies during a backoff does not try earlier than it would have."""
    world = World(tmp_path, Scripted(SystemUnavailable("x"), DONE))
    async with world.running(orderly=False):
        world.send(an_order())
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        before = world.entry().not_before
    async with world.running():
        await world.settled()
        assert world.entry().not_before == before
        assert len(world.connector.jobs) == 1
        world.clock.advance(60)
        await world.reported(1)


async def test_retries_end_with_patience(tmp_path):
    """When the next try would come after respond_by, the order fails with the reason of the last try."""
    world = World(tmp_path, Scripted(Throttled("x", retry_after_seconds=7200)))
    async with world.running():
        world.send(an_order(patience=timedelta(hours=1)))
        (report,) = await world.reported(1)
    assert report.outcome.reason == "throttled"


async def test_retries_end_after_so_many_tries(tmp_path):
    """max_tries bounds the tries of one attempt."""
    world = World(tmp_path, Scripted(SystemUnavailable("x")), limits=Limits(retry=Backoff(1, 1), max_tries=3))
    async with world.running():
        world.send(an_order())
        for number in (1, 2, 3):
            await until(lambda n=number: len(world.connector.jobs) == n)
            await world.settled()
            world.clock.advance(2)
        (report,) = await world.reported(1)
    assert report.outcome.reason == "unavailable"
    assert len(world.connector.jobs) == 3


async def test_a_retry_after_is_kept(tmp_path):
    """429 with seconds: not one second earlier."""
    world = World(tmp_path, Scripted(Throttled("x", retry_after_seconds=500), DONE))
    async with world.running():
        world.send(an_order())
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        world.clock.advance(499)
        await world.settled()
        assert len(world.connector.jobs) == 1
        world.clock.advance(30)
        await world.reported(1)


async def test_one_throttled_order_holds_the_others_back(tmp_path):
    """429 is said to one order and meant for all: none begins before the wait is over."""
    world = World(tmp_path, Scripted(Throttled("x", retry_after_seconds=100), DONE, throttle=Throttle(concurrent=1)))
    async with world.running():
        world.send(an_order(1), an_order(2), an_order(3))
        await until(lambda: world.connector.jobs)
        await world.settled()
        world.clock.advance(99)
        await world.settled()
        assert len(world.connector.jobs) == 1
        world.clock.advance(20)
        await world.reported(3)


async def test_a_vendors_job_is_reported_once_and_asked_after(tmp_path):
    """Accepted: one progress report, polls at growing intervals with the stored handle, then the final report."""
    world = World(tmp_path, Scripted(accepted(), polls=[accepted(), accepted(), DONE]))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        for number in (1, 2, 3):
            await until(lambda: world.entry().state is OrderState.POLLING)
            world.clock.advance((world.entry().not_before - world.clock.now()).total_seconds() + 0.01)
            await until(lambda n=number: len(world.connector.handles) == n)
        progress, final = await world.reported(2)
        await until(lambda: world.entry().order is None)
        assert world.entry().handle is None
    assert (progress.outcome.code, final.outcome.code) == (OutcomeCode.ACCEPTED, OutcomeCode.FULFILLED)
    assert world.connector.handles == ["job-7"] * 3
    assert len(world.connector.jobs) == 1


async def test_a_crash_after_the_handle_is_stored_starts_no_second_job(tmp_path):
    """The process dies while the vendor works: the next one polls."""
    world = World(tmp_path, Scripted(accepted(), polls=[DONE]))
    async with world.running(orderly=False):
        world.send(an_order())
        await world.reported(1)
    world.clock.advance(3600)
    async with world.running():
        await world.reported(2)
    assert len(world.connector.jobs) == 1
    assert [r.outcome.code for r in world.reports] == ["accepted", "fulfilled"]


async def test_the_handle_in_the_journal_is_sealed(tmp_path):
    """A vendor's job id may be a pseudonym: the file does not show it."""
    world = World(tmp_path, Scripted(Result(accepted().outcome, handle="pseudonym-of-ada"), polls=[accepted()]))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
    content = b"".join(path.read_bytes() for path in tmp_path.glob("crm.sqlite*"))
    assert b"pseudonym-of-ada" not in content
    assert EMAIL.encode() not in content


async def test_a_job_whose_polls_cannot_reach_the_system_is_polled_again_after_a_retry(tmp_path):
    """failed(unavailable) while polling keeps the handle: a person's retry asks after the old job and starts none."""
    world = World(tmp_path, Scripted(accepted(), polls=[SystemUnavailable("x"), DONE]), limits=Limits(max_tries=1))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        world.clock.advance(60)
        await world.reported(2)
        world.send(an_order(attempt=2))
        await world.reported(3)
    assert [r.outcome.code for r in world.reports] == ["accepted", "failed", "fulfilled"]
    assert len(world.connector.jobs) == 1


async def test_a_failed_job_is_started_anew_after_a_retry(tmp_path):
    """failed(job_failed): the old job is over, a retry starts one."""
    world = World(tmp_path, Scripted(accepted(), DONE, polls=[SystemRejected("x", reason="job_failed")]))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        world.clock.advance(60)
        await world.reported(2)
        world.send(an_order(attempt=2))
        await world.reported(3)
    assert len(world.connector.jobs) == 2


async def test_accepted_without_a_handle_is_a_defect(tmp_path):
    """What could never be asked after must not be called accepted."""
    world = World(tmp_path, Scripted(Result(Accepted(expected_by=NOW))))
    async with world.running():
        world.send(an_order())
        (report,) = await world.reported(1)
    assert report.outcome.reason == "connector_defect"


async def test_finds_survive_a_crash_between_the_erasure_and_the_report(tmp_path):
    """Remembered identifiers are yielded by the next try, although the record they stood in is gone."""

    async def erase_and_die(job):
        await remember(GA)
        await asyncio.Event().wait()

    world = World(tmp_path, Scripted(erase_and_die, Result(NothingHeld())))
    async with world.running(orderly=False):
        world.send(an_order())
        await until(lambda: world.connector.jobs and world.entry().found is not None)
    async with world.running():
        (report,) = await world.reported(1)
    assert report.outcome.code is OutcomeCode.NOTHING_HELD
    assert yielded_in(report) == GA


async def test_finds_survive_a_failure_and_a_persons_retry(tmp_path):
    """The record was erased and then the order failed: the retry finds nothing and yields what the first try had found."""

    async def erase_and_fail(job):
        await remember(GA)
        raise SystemRejected("no")

    world = World(tmp_path, Scripted(erase_and_fail, Result(NothingHeld())))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        await until(lambda: world.entry().order is None)
        world.send(an_order(attempt=2))
        await world.reported(2)
        await until(lambda: world.entry().found is None)
    assert yielded_in(world.reports[1]) == GA


async def test_a_report_the_broker_did_not_take_ends_the_process_and_goes_out_at_the_next_start(tmp_path):
    """A lost ack ends the run; the next run publishes the same report, and the work is not done again."""
    world = World(tmp_path, Scripted(DONE))
    world.bus.acks_lost = True
    async with world.running(orderly=False):
        world.send(an_order())
        await until(world.task.done)
    assert world.failure.exceptions[0].__class__ is AckLost
    world.bus.acks_lost = False
    async with world.running():
        (report,) = await world.reported(1)
    assert report.outcome.code is OutcomeCode.FULFILLED
    assert len(world.connector.jobs) == 1


async def test_an_order_that_kills_the_process_again_and_again_fails(tmp_path):
    """Tries are counted before they are made: a job at which every process dies ends as a defect."""

    async def die(job):
        await asyncio.Event().wait()

    world = World(tmp_path, Scripted(die), limits=Limits(max_tries=2))
    world.send(an_order())
    for number in (1, 2):
        async with world.running(orderly=False):
            await until(lambda n=number: len(world.connector.jobs) == n)
    async with world.running():
        (report,) = await world.reported(1)
    assert report.outcome.reason == "connector_defect"


def poison():
    good = an_order()
    return {
        "not_json": (b"key", b"\xff\xfe", "not_json", ""),
        "empty": (b"key", None, "not_json", ""),
        "field": (request_id().encode(), encode(good).replace(b'"attempt":1', b'"attempt":0'), "invalid_field", "attempt"),
        "foreign": (request_id().encode(), encode(an_order(system="other")), "foreign_system", "system"),
        "key": (b"another", encode(good), "key_mismatch", "key"),
        "order_id": (
            request_id().encode(),
            encode(good.model_copy(update={"order_id": "ord_made_up"})),
            "invalid_field",
            "order_id",
        ),
    }


@pytest.mark.parametrize("fault", sorted(poison()))
async def test_what_is_no_order_is_set_aside_with_its_bytes(tmp_path, fault):
    """Quarantined with reason, field and origin, committed, and the order behind it is done."""
    key, value, reason, field = poison()[fault]
    world = World(tmp_path, Scripted(DONE))
    async with world.running():
        world.bus.put(key, value)
        world.send(an_order(2))
        (report,) = await world.reported(1)
    (record,) = world.quarantined
    headers = {name: data.decode() for name, data in record.headers}
    assert record.value == (value or b"")
    assert headers["dsr-reason"] == reason
    assert headers["dsr-field"] == field
    assert headers["dsr-remedy"]
    assert (headers["dsr-origin-topic"], headers["dsr-origin-partition"], headers["dsr-origin-offset"]) == (
        world.bus.topic,
        "0",
        "0",
    )
    assert report.subject_request_id == request_id(2)
    assert world.bus.committed == 2


async def test_quarantine_comes_before_the_commit(tmp_path):
    """If the quarantine record is not acknowledged, the offset stays: the poison is met again, not lost."""
    world = World(tmp_path, Scripted(DONE))
    world.bus.acks_lost = True
    async with world.running(orderly=False):
        world.bus.put(b"key", b"\xff")
        await until(world.task.done)
    assert world.bus.committed == 0


async def test_an_order_that_does_not_open_is_set_aside_and_reported(tmp_path):
    """Another key: quarantine and failed(identity_unreadable); a later attempt that opens is done."""
    world = World(tmp_path, Scripted(DONE))
    async with world.running():
        world.send(an_order(key=SealingKey("request", bytes(32))))
        (failed,) = await world.reported(1)
        world.send(an_order(attempt=2))
        _, done = await world.reported(2)
    assert failed.outcome.reason == "identity_unreadable"
    assert done.outcome.code is OutcomeCode.FULFILLED
    assert len(world.quarantined) == 1


async def test_a_seal_moved_to_another_request_does_not_open(tmp_path):
    """The seal is bound to its order."""
    world = World(tmp_path, Scripted(DONE))
    async with world.running():
        world.send(an_order(2, sealed=an_order(1).sealed))
        (report,) = await world.reported(1)
    assert report.outcome.reason == "identity_unreadable"
    assert not world.connector.jobs


async def test_rights_and_identifiers_the_connector_lacks(tmp_path):
    """not_applicable, with the reason, without a call."""
    world = World(tmp_path, Scripted(DONE))
    phone = SubjectData(identifiers={IdentifierKind.PHONE: ("+15550141",)})
    async with world.running():
        world.send(an_order(1, right=Right.OBJECTION), an_order(2, subject=phone))
        await world.reported(2)
    assert {r.outcome.reason for r in world.reports} == {"right_not_offered", "identifier_missing"}
    assert not world.connector.jobs


async def test_exports_are_sealed_files_and_the_report_refers_to_them(tmp_path):
    """Access: documents are stored sealed, whatever their size; digest and size are those of the stored bytes."""
    big = {"rows": ["x" * 100] * 3000, "email": EMAIL}
    world = World(tmp_path, Scripted(Result(Fulfilled(count=1), exports=(Exported("contact", big), Exported("empty", {})))))
    async with world.running():
        world.send(an_order(right=Right.ACCESS))
        (report,) = await world.reported(1)
    assert len(report.results) == 2
    reference = report.results[0]
    stored = (tmp_path / "results" / reference.reference).read_bytes()
    assert (reference.sha256, reference.size) == (digest(stored), len(stored))
    assert EMAIL.encode() not in stored
    assert reference.kid == PORTAL.kid
    opened = open_result(stored, reference, PORTAL, BlobPlace(report.subject_request_id, "crm", report.order_id))
    assert json.loads(opened) == {"name": "contact", "content": big}
    assert await world.blobs.expire(reference.expires_at.date()) == 0
    assert await world.blobs.expire(reference.expires_at.date() + timedelta(days=1)) == 1


async def test_no_key_no_data_until_the_registry_has_one(tmp_path):
    """A portal without a key: failed, the system is not even asked, no file; the retry that carries a key is served."""
    world = World(tmp_path, Scripted(Result(Fulfilled(count=1), exports=(Exported("contact", {"email": EMAIL}),))))
    async with world.running():
        world.send(an_order(right=Right.ACCESS, blob_key=None))
        (first,) = await world.reported(1)
        assert first.outcome.reason == "results_key_missing"
        assert not world.connector.jobs and not list((tmp_path / "results").rglob("*"))
        world.send(an_order(right=Right.ACCESS, attempt=2))
        _, second = await world.reported(2)
    assert second.outcome == Fulfilled(count=1)
    assert second.results[0].kid == PORTAL.kid


async def test_housekeeping_deletes_results_after_their_expiry(tmp_path):
    """On the day of expiry the file is there; the day after, the connector has deleted it by itself."""
    world = World(tmp_path, Scripted(Result(Fulfilled(count=1), exports=(Exported("contact", {"email": EMAIL}),))))
    async with world.running():
        world.send(an_order(right=Right.ACCESS))
        (report,) = await world.reported(1)
        path, expires_at = tmp_path / "results" / report.results[0].reference, report.results[0].expires_at
        assert path.is_file()
        await world.settled()
        world.clock.advance((expires_at - NOW).total_seconds())
        await world.settled()
        assert path.is_file()
        world.clock.advance(86_400)
        await until(lambda: not path.exists())


async def one_call(job):
    await take_turn()
    return DONE


async def test_the_days_quota_spreads_orders_over_days_and_says_so_beyond_patience(tmp_path):
    """Two calls a day and five orders: two today, two tomorrow, one the day after; beyond patience: accepted with a date."""
    world = World(tmp_path, Scripted(one_call, throttle=Throttle(concurrent=1, per_day=2)))
    async with world.running():
        world.send(*(an_order(n, patience=timedelta(hours=30)) for n in range(1, 6)))
        await until(lambda: [r.outcome.code for r in world.reports].count("fulfilled") == 2)
        await until(lambda: all(world.entry(n).state is not OrderState.WORKING for n in range(1, 6)))
        await until(lambda: [r.outcome.code for r in world.reports].count("accepted") == 1)
        late = next(r for r in world.reports if r.outcome.code is OutcomeCode.ACCEPTED)
        assert late.outcome.expected_by.date().isoformat() == "2026-03-08"
    world.clock.advance(24 * 3600)
    async with world.running():
        await until(lambda: [r.outcome.code for r in world.reports].count("fulfilled") == 4)
        await world.settled()
        assert len(world.connector.jobs) < 10
        world.clock.advance(24 * 3600)
        await until(lambda: [r.outcome.code for r in world.reports].count("fulfilled") == 5)


async def test_waiting_for_the_quota_is_no_try(tmp_path):
    """An order may wait for more days than it may be tried."""
    world = World(tmp_path, Scripted(one_call, throttle=Throttle(concurrent=1, per_day=1)), limits=Limits(max_tries=2))
    async with world.running():
        first = an_order(1, due_on=an_order().due_on - timedelta(days=5))
        world.send(first, an_order(2, patience=timedelta(days=20)))
        await world.reported(1)
        await until(lambda: world.entry(2).not_before > world.clock.now())  # it was refused today: a later count forgets today
        for day in range(6, 10):
            until_then = (world.entry(2).not_before - world.clock.now()).total_seconds() + 1
            assert await world.quota.use(f"2026-03-{day:02d}", 1)
            world.clock.advance(until_then)
            await until(lambda: world.entry(2).not_before > world.clock.now() and world.entry(2).state is OrderState.WAITING)
        assert len(world.connector.jobs) == 6
        world.clock.advance(24 * 3600)
        await world.reported(2)
    assert [report.outcome.code for report in world.reports] == ["fulfilled", "fulfilled"]


async def test_a_redelivered_failure_is_not_tried_again(tmp_path):
    """The broker delivers a failed order twice: nobody asked again, so nothing is done again."""
    world = World(tmp_path, Scripted(SystemRejected("no"), DONE))
    async with world.running():
        world.send(an_order())
        await world.reported(1)
        world.send(an_order())
        await until(lambda: world.bus.committed == 2)
        await world.settled()
    assert [report.outcome.code for report in world.reports] == ["failed"]


async def test_a_topic_full_of_poison_stops_the_process(tmp_path):
    """So many records in a row that are no order: end without committing the last batch, instead of draining the topic."""
    world = World(tmp_path, Scripted(DONE), limits=Limits(quarantined_in_a_row=5))
    world.send(an_order(1))
    for _ in range(4):
        world.bus.put(b"key", b"poison")
    async with world.running(orderly=False):
        await world.reported(1)
        world.bus.put(b"key", b"poison")
        await until(world.task.done)
    assert "DSR_QUARANTINED_IN_A_ROW" in str(world.failure.exceptions[0])
    assert world.bus.committed == 5


async def test_a_restart_does_not_grant_a_second_day(tmp_path):
    """The day's count is in a file."""
    world = World(tmp_path, Scripted(one_call, throttle=Throttle(concurrent=1, per_day=1)))
    async with world.running(orderly=False):
        world.send(an_order(1))
        await world.reported(1)
    async with world.running():
        world.send(an_order(2))
        await until(lambda: len(world.connector.jobs) == 2)
        await world.settled()
        assert len(world.reports) == 1


async def test_no_more_orders_at_once_than_the_system_allows(tmp_path):
    """`concurrent` bounds the jobs under way."""
    under_way, most = 0, 0

    async def busy(job):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return DONE

    world = World(tmp_path, Scripted(busy, throttle=Throttle(concurrent=3)))
    async with world.running():
        world.send(*(an_order(n) for n in range(1, 31)))
        await world.reported(30)
    assert most == 3


async def test_jobs_of_different_lengths_all_end_in_a_report(tmp_path):
    """Conclusions that arrive while others are being written down are not lost."""
    lengths = iter(range(1000))

    async def uneven(job):
        await asyncio.sleep((next(lengths) * 7 % 11) / 2000)
        return DONE

    world = World(tmp_path, Scripted(uneven, throttle=Throttle(concurrent=7)))
    async with world.running():
        world.send(*(an_order(n) for n in range(1, 101)))
        await world.reported(100)
        await until(lambda: all(world.entry(n).order is None for n in range(1, 101)))
    assert len({report.order_id for report in world.reports}) == 100


async def test_the_earliest_due_date_goes_first(tmp_path):
    """With one slot, orders are done by legal due date."""
    world = World(tmp_path, Scripted(DONE, throttle=Throttle(concurrent=1)))
    order = an_order()
    world.send(
        an_order(1), an_order(2, due_on=order.due_on - timedelta(days=9)), an_order(3, due_on=order.due_on - timedelta(days=3))
    )
    async with world.running():
        await world.reported(3)
    assert [job.subject_request_id for job in world.connector.jobs] == [request_id(2), request_id(3), request_id(1)]


async def test_metrics_count_orders_outcomes_and_retries(tmp_path):
    """What the owner of a system sees."""
    world = World(tmp_path, Scripted(SystemUnavailable("x"), DONE))
    async with world.running():
        world.send(an_order(), an_order())
        await until(lambda: world.connector.jobs and world.entry().state is OrderState.WAITING)
        world.clock.advance(60)
        await world.reported(1)
        await until(lambda: world.entry().order is None)
    value = world.metrics.registry.get_sample_value
    assert value("dsr_connector_orders_total", {"system": "crm", "right": "erasure"}) == 1
    assert value("dsr_connector_outcomes_total", {"system": "crm", "right": "erasure", "outcome": "fulfilled"}) == 1
    assert value("dsr_connector_retries_total", {"system": "crm", "reason": "unavailable"}) == 1
    assert value("dsr_connector_call_seconds_count", {"system": "crm", "right": "erasure"}) == 2
