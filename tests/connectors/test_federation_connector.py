"""The connector to a child orchestrator: conformance, what a confirmation means here, and requests that come to nothing."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
import structlog
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from connectors.sdk.clock import ManualClock
from connectors.sdk.health import served
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Ended, Result
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.systems.federation.answer import ended_as, result_of
from connectors.systems.federation.connector import FederationConnector, FederationSettings, build, child_request_id
from connectors.systems.federation.keys import ChildKeys
from connectors.systems.federation.standin import KEY, FederationStandIn
from schemas.confirmations import SystemResult
from schemas.errors import ConfigurationError, SystemRejected, SystemUnavailable
from schemas.intake import IntakeKey, IntakeKeySet
from schemas.outcomes import Accepted, Fulfilled, NotApplicable, NothingHeld, Notified, Retained, Waived
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.vocabulary import (
    AssuranceLevel,
    IdentifierKind,
    NotApplicableReason,
    QuarantineReason,
    RequestResult,
    RetentionGround,
    Right,
    Role,
    StatusCode,
)

SETTINGS = FederationSettings(
    kafka_bootstrap="127.0.0.1:9",
    topic_prefix="child",
    portal="parent",
    intake_keys="https://child.example.org/v1/intake-keys",
    acknowledged_within_seconds=0,
)


class TestFederation(ConnectorContract):
    """The conformance suite against a child in memory."""

    def open_system(self, clock):
        return contextlib.nullcontext(FederationStandIn(clock))

    def connect(self, system):
        return FederationConnector(SETTINGS, system, system.clock)

    def plant(self, system, person, *, records=1):
        known = {kind.value: values[0] for kind, values in person.known_by(*IdentifierKind).items()}
        system.seed({"records": [{**known, "number": str(number)} for number in range(records)]})

    async def test_access_exports_the_person_and_nobody_else(self, run, system):
        """The export names places only; the data itself stays with the child, whoever's it is."""
        self.plant(system, ADA)
        self.plant(system, BOB)
        (exported,) = (await run(Right.ACCESS)).exports
        assert not traces_in(repr(exported.content), ADA)
        assert not traces_in(repr(exported.content), BOB)

    def holds(self, system, person):
        return any(record["email"] == person.email for record in system.records)


@pytest.fixture
def child():
    return FederationStandIn(ManualClock(NOW))


@pytest.fixture
def connector(child):
    return FederationConnector(SETTINGS, child, child.clock)


def a_job(attempt=1, right=Right.ERASURE, now=NOW):
    return job_for(right, ADA.known_by(IdentifierKind.EMAIL), attempt=attempt, now=now)


def system(outcome, name="shop"):
    return SystemResult(system=name, title=name, role=Role.PROCESSOR, outcome=outcome, settled_at=NOW, attempts=1)


async def confirmed(child, connector, *outcomes, result=RequestResult.FULFILLED, **changes):
    """Return a confirmation of the child with these outcomes."""
    await connector.erase(a_job())
    child.clock.advance(3600)
    found = await child.find(child_request_id(a_job()))
    return found.model_copy(update={"systems": tuple(map(system, outcomes)), "result": result, **changes})


async def test_accepted_until_the_child_confirms(child, connector):
    """The child's due date and its request's id first, its answer when it is there; nothing is published twice."""
    child.seed({"records": [{"email": ADA.email}]})
    child.switches["work_seconds"] = 7200
    first = await perform(connector, a_job())
    request_id = child_request_id(a_job())
    assert first.handle is None or first.handle == request_id
    polled = await connector.poll(a_job(), request_id)
    assert polled.outcome == Accepted(expected_by=datetime(2026, 4, 7, tzinfo=UTC))
    child.clock.advance(7200)
    last = await connector.poll(a_job(), request_id)
    assert (last.outcome, last.notes) == (Fulfilled(count=1), ("confirmed_there",))
    assert len(child.log) == 1


async def test_a_child_that_is_away_is_told_again_with_the_same_bytes(child, connector):
    """Nothing heard means said again; the child takes one request."""
    child.switches["away"] = True
    for number in range(3):
        later = a_job(now=datetime(2026, 3, 6 + number, tzinfo=UTC))
        result = await (connector.poll(later, child_request_id(later)) if number else connector.erase(later))
        assert isinstance(result.outcome, Accepted)
    assert len(child.log) == 3
    assert len(set(child.log)) == 1
    child.switches["away"] = False
    await connector.poll(a_job(), child_request_id(a_job()))
    assert len(child.taken) == 1
    assert len(child.log) == 3


def over(*, has_begun=True, right=Right.ERASURE, now=NOW):
    job = a_job(right=right)
    return Ended(job.order_id, job.subject_request_id, right, 1, now, NOW, has_begun)


async def test_a_withdrawal_waits_behind_the_request_that_nobody_has_read(child, connector):
    """The child is away: it is told behind its request, the same each time, and takes neither for anything else."""
    child.seed({"records": [{"email": ADA.email}]})
    child.switches["away"] = True
    await connector.erase(a_job())
    for _ in range(3):
        assert isinstance((await connector.cancel(over())).outcome, Accepted)
    assert len(set(child.log)) == 2
    child.switches["away"] = False
    assert await connector.cancel(over()) is None
    child.clock.advance(1_000_000)
    assert await connector.cancel(over(now=child.clock.now())) is None
    assert child.records


async def test_a_child_that_was_never_asked_is_told_nothing(child, connector):
    """No request there, and none known here: nothing is said. One that may lie on the topic is withdrawn all the same."""
    assert await connector.cancel(over(has_begun=False)) is None
    assert child.log == []
    assert isinstance((await connector.cancel(over())).outcome, Accepted)
    assert await connector.cancel(over()) is None, "the child knows of no such request, and says so"
    assert len(child.log) == 1


async def test_what_the_child_does_all_the_same_is_told(child, connector):
    """Too late there: it is said once, waited for, and comes back as what was done. Places of data stay there."""
    child.seed({"records": [{"email": ADA.email}]})
    child.switches["irreversible"] = True
    await connector.access(a_job(right=Right.ACCESS))
    for _ in range(3):
        assert isinstance((await connector.cancel(over(right=Right.ACCESS))).outcome, Accepted)
    assert len(child.log) == 2
    child.clock.advance(3600)
    result = await connector.cancel(over(right=Right.ACCESS))
    assert result == Result(Fulfilled(count=1), notes=("confirmed_there", "results_there"))


async def test_a_child_that_does_not_take_the_withdrawal_is_a_persons_matter(child, connector):
    """It goes on there, and our word was set aside: somebody must look."""
    await connector.erase(a_job())
    said = await child.find(child_request_id(a_job()))
    refused = said.model_copy(update={"code": StatusCode.REJECTED, "rejected": QuarantineReason.SIGNATURE_EXPIRED})

    async def find(_):
        return refused

    child.find = find
    with pytest.raises(SystemRejected, match="does not take the withdrawal: signature_expired"):
        await connector.cancel(over())


async def test_counts_are_summed_and_the_latest_date_counts(child, connector):
    """Two systems that fulfilled are one answer."""
    answer = await confirmed(
        child,
        connector,
        Fulfilled(count=2, effective_by=date(2026, 5, 1)),
        Fulfilled(count=3, effective_by=date(2026, 6, 1)),
        NothingHeld(),
    )
    assert result_of(answer).outcome == Fulfilled(count=5, effective_by=date(2026, 6, 1))


async def test_nothing_held_needs_every_system(child, connector):
    """All hold nothing: nothing held; a system without the identifier is noted."""
    missing = NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING)
    answer = await confirmed(child, connector, NothingHeld(), missing, in_time=False)
    result = result_of(answer)
    assert result.outcome == NothingHeld()
    assert result.notes == ("confirmed_there", "late_there", "identifier_missing_there")


@pytest.mark.parametrize("until", [date(2033, 1, 1), None])
async def test_retained_goes_before_fulfilled(child, connector, until):
    """One system that keeps data makes the answer retained: the ground that lasts longest, without an end the longest."""
    answer = await confirmed(
        child,
        connector,
        Fulfilled(count=2),
        Retained(ground=RetentionGround.LEGAL_CLAIMS, until=date(2030, 1, 1), count=1),
        Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=until, count=4, fulfilled=1, detail="tax law"),
        result=RequestResult.FULFILLED_WITH_EXCEPTIONS,
    )
    ground = RetentionGround.LEGAL_OBLIGATION
    assert result_of(answer).outcome == Retained(ground=ground, until=until, count=5, fulfilled=3, detail="tax law")
    assert "several_grounds_there" in result_of(answer).notes


async def test_told_is_not_done(child, connector):
    """A system there that only told somebody makes the answer notified."""
    answer = await confirmed(
        child, connector, Fulfilled(count=2), Notified(recipients=("Printer",)), recipients_told=("Printer",)
    )
    assert result_of(answer).outcome == Notified(recipients=("Printer",))


async def test_all_kept_by_law_is_an_answer(child, connector):
    """The child counts it as not fulfilled; here it is retained."""
    kept = Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=date(2033, 1, 1), count=1)
    answer = await confirmed(child, connector, kept, result=RequestResult.NOT_FULFILLED)
    assert result_of(answer).outcome == kept


@pytest.mark.parametrize(
    "result",
    [
        RequestResult.REFUSED,
        RequestResult.WITHDRAWN,
        RequestResult.IDENTITY_NOT_CONFIRMED,
        RequestResult.NOT_FULFILLED,
    ],
)
async def test_what_the_child_did_not_do_goes_to_a_person(child, connector, result):
    """Each has its code in the error's text, and is never an outcome."""
    answer = await confirmed(child, connector, result=result)
    assert ended_as(answer) == result.value
    with pytest.raises(SystemRejected, match=result.value) as caught:
        result_of(answer)
    assert caught.value.reason == "job_failed"


async def test_a_waiver_there_is_no_waiver_here(child, connector):
    """What a person there waived, a person here must look at."""
    waived = Waived(by="officer", why="system is being switched off")
    answer = await confirmed(child, connector, Fulfilled(count=1), waived, result=RequestResult.FULFILLED_WITH_EXCEPTIONS)
    with pytest.raises(SystemRejected, match="waived_there"):
        result_of(answer)


async def test_a_retry_goes_past_a_request_that_came_to_nothing(child, connector):
    """A person's retry asks under the next id; the first attempt, repeated, does not."""
    child.switches["result"] = RequestResult.REFUSED
    await connector.erase(a_job())
    child.clock.advance(3600)
    with pytest.raises(SystemRejected, match="refused"):
        await connector.poll(a_job(), child_request_id(a_job()))
    with pytest.raises(SystemRejected, match="refused"):
        await connector.erase(a_job())
    assert len(child.taken) == 1
    child.switches["result"] = None
    await connector.erase(a_job(attempt=2))
    again = child_request_id(a_job(), generation=1)
    await connector.poll(a_job(attempt=2), again)
    assert set(child.taken) == {child_request_id(a_job()), again}
    await connector.erase(a_job(attempt=3))
    assert len(child.taken) == 2


async def test_a_request_set_aside_names_the_reason(child, connector):
    """An unknown portal is told to a person by its code."""
    child.switches["set_aside"] = "unknown_portal"
    with pytest.raises(SystemRejected, match="unknown_portal") as caught:
        await connector.erase(a_job())
    assert caught.value.reason == "rejected"
    child.switches["set_aside"] = None
    result = await connector.erase(a_job(attempt=2))
    assert result.handle == child_request_id(a_job(), generation=1)


async def test_the_child_gets_the_orders_own_proof_of_who_asks(child, connector):
    """Method, level and moment as they are; without any nothing is published, as nobody here could confirm the identity."""
    with structlog.testing.capture_logs() as logs:
        await connector.erase(a_job())
    asked = {"order_id": a_job().order_id, "subject_request_id": child_request_id(a_job())}
    assert logs == [{"event": "child_asked", "log_level": "info", **asked}]
    await connector.poll(a_job(), child_request_id(a_job()))
    (filed,) = child.taken.values()
    assert filed.verification == a_job().verification
    with pytest.raises(SystemRejected, match="up to date"):
        await connector.erase(replace(a_job(right=Right.ACCESS), verification=None))
    assert len(child.log) == 1


async def test_a_child_that_wants_to_be_surer_says_so(child, connector):
    """A person here is told at once; when the child is content, a retry follows the same request."""
    child.switches["least_assurance"] = AssuranceLevel.HIGH
    with pytest.raises(SystemRejected, match="surer") as caught:
        await connector.erase(a_job())
    assert caught.value.reason == "rejected"
    child.switches["least_assurance"] = AssuranceLevel.SUBSTANTIAL
    assert isinstance((await connector.erase(a_job(attempt=2))).outcome, Accepted)
    assert len(child.log) == 1


async def test_another_portals_confirmation_is_not_believed(child, connector):
    """What is not ours is a failed verification."""
    await connector.erase(a_job())
    child.clock.advance(3600)
    await child.find(child_request_id(a_job()))
    known = child._confirmed[child_request_id(a_job())]
    child._confirmed[child_request_id(a_job())] = known.model_copy(update={"portal": "website"})
    with pytest.raises(SystemRejected) as caught:
        await connector.poll(a_job(), child_request_id(a_job()))
    assert caught.value.reason == "verification_failed"


async def test_access_says_where_the_data_lies(child, connector):
    """The child keeps the data; the export names the places."""
    child.seed({"records": [{"email": ADA.email}]})
    await connector.access(a_job(right=Right.ACCESS))
    child.clock.advance(3600)
    job = a_job(right=Right.ACCESS)
    result = await connector.poll(job, child_request_id(job))
    (exported,) = result.exports
    assert exported.name == "results_there"
    assert exported.content[0]["reference"] == "child/result-1"
    assert "results_there" in result.notes


def test_ids_are_derived():
    """The same order gives the same id; another order, right or generation another one."""
    job = a_job()
    ids = {
        child_request_id(job),
        child_request_id(replace(job, attempt=7, now=datetime(2027, 1, 1, tzinfo=UTC))),
        child_request_id(job, generation=1),
        child_request_id(replace(job, right=Right.ACCESS)),
        child_request_id(replace(job, order_id="ord_2")),
    }
    assert len(ids) == 4
    assert child_request_id(job)[14] == "4"
    assert child_request_id(job, version=5)[14] == "5"


def test_a_signing_key_is_needed():
    """The message names the command that makes one."""
    with pytest.raises(ConfigurationError, match="dsr keys new portal:"):
        build(SETTINGS)


KEY_SET = IntakeKeySet(keys=(KEY.public,))
SIGNER = SigningKey.new(ORCHESTRATOR)
TRUST = Trust.of(SIGNER)


class Page:
    """The child's page of intake keys, over real HTTP; the test sets what it says."""

    def __init__(self):
        self.asked, self.status, self.text = [], 200, KEY_SET.model_dump_json()

    async def answer(self, request):
        self.asked.append(request.headers["accept"])
        return Response(self.text, status_code=self.status)


async def test_the_childs_page_is_believed_when_it_is_signed():
    """Asked once an hour; unsigned, signed by another, too old: a person must look; away: later."""
    page, clock = Page(), ManualClock(NOW)
    application = Starlette(routes=[Route("/v1/intake-keys", page.answer)])
    async with served(application, host="127.0.0.1", port=0) as port:
        keys = ChildKeys(f"http://127.0.0.1:{port}/v1/intake-keys", clock, TRUST)
        with pytest.raises(SystemRejected, match="not to be believed") as caught:
            await keys.current()
        assert caught.value.reason == "verification_failed"
        page.text = KEY_SET.signed(SIGNER, at=NOW, until=NOW + timedelta(hours=2))
        assert await keys.current() == KEY.public
        clock.advance(3599)
        assert await keys.current() == KEY.public
        assert page.asked == ["application/jwk-set+jwt"] * 2
        clock.advance(1)
        page.status = 503
        with pytest.raises(SystemUnavailable, match="503"):
            await keys.current()
        page.status = 200
        clock.advance(3600)
        with pytest.raises(SystemRejected, match="signature_expired"):
            await keys.current()
    with pytest.raises(SystemUnavailable, match="could not be fetched"):
        await keys.current()


async def test_a_file_of_the_childs_keys_can_be_replaced(tmp_path):
    """Plain or signed; read each time; a page in clear without a signature is refused before anything is sealed."""
    file, clock = tmp_path / "keys.json", ManualClock(NOW)
    keys = ChildKeys(str(file), clock, TRUST)
    with pytest.raises(ConfigurationError, match="DSR_FEDERATION_INTAKE_KEYS"):
        await keys.current()
    file.write_text(KEY_SET.model_dump_json())
    assert await keys.current() == KEY.public
    newer = IntakeKey.new("newer")
    file.write_text(IntakeKeySet(keys=(newer.public,)).signed(SIGNER, at=NOW, until=NOW + timedelta(days=1)))
    assert await keys.current() == newer.public
    file.write_text("not a key set")
    with pytest.raises(SystemRejected):
        await keys.current()
    with pytest.raises(ConfigurationError, match="use https"):
        ChildKeys("http://child.example.org/v1/intake-keys", clock, None)


async def test_a_new_key_of_the_child_asks_again_under_the_same_id(child, connector, monkeypatch):
    """Other bytes under an id that the child knows: it says so, and the first request stands."""
    child.switches["work_seconds"] = 7200
    await connector.erase(a_job())
    monkeypatch.setattr(child, "intake_key", lambda: asyncio.sleep(0, IntakeKey.new("newer").public))
    await child.publish(await connector._request(a_job(), child_request_id(a_job())), Right.ERASURE)
    result = await connector.poll(a_job(), child_request_id(a_job()))
    assert isinstance(result.outcome, Accepted)
    assert len(set(child.log)) == 2 and len(child.taken) == 1
