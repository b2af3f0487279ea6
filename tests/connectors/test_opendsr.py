"""The OpenDSR connector against a subsidiary's server: conformance, signatures, and processors as found in the wild."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.sdk.clock import Clock, ManualClock
from connectors.sdk.loader import build_connector, build_standin
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Connector, Job, Result
from connectors.sdk.standin import Fault, StandIn, serve
from connectors.sdk.testing import ADA, BOB, NOW, Person, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.opendsr.connector import OpenDsrConnector, OpenDsrSettings, build, child_request_id
from connectors.systems.opendsr.signature import NotGenuine, certificates, sign, verify
from connectors.systems.opendsr.standin import DOMAIN, PASSWORD, TOKEN, USERNAME, SubsidiaryStandIn
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected
from schemas.outcomes import Accepted, Fulfilled, NotApplicable, NothingHeld, Retained
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, NotApplicableReason, RetentionGround, Right


def planted(person: Person, **more: Any) -> dict[str, Any]:
    """What the stand-in is told of a person."""
    customer = person.identifiers[IdentifierKind.CUSTOMER_ID]
    return {"customer_id": customer, "email": person.email, "fields": {"last_name": person.last_name}, **more}


class TestOpenDsr(HttpConnectorContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def stand_in(self, clock: Clock) -> StandIn:
        standin = SubsidiaryStandIn(clock)
        self.clock_of_connector = clock
        (self.folder / "ca.pem").write_bytes(standin.authority.root_pem)
        return standin

    def build(self, base_url: str, *, timeout_seconds: float) -> Connector:
        settings = OpenDsrSettings(
            base_url=f"{base_url}/v2",
            token=TOKEN,
            signatures="required" if (self.folder / "ca.pem").exists() else "off",
            processor_domains=(DOMAIN,),
            ca_file=self.folder / "ca.pem" if (self.folder / "ca.pem").exists() else None,
            timeout_seconds=timeout_seconds,
        )
        return build(settings, getattr(self, "clock_of_connector", None))

    def plant(self, system: SubsidiaryStandIn, person: Person, *, records: int = 1) -> None:
        # Each planting is a new story: the server has not heard of this request yet.
        system.requests.clear()
        system.seed({"people": [planted(person, records=records)]})

    def holds(self, system: SubsidiaryStandIn, person: Person) -> bool:
        return system.holds(person.email)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def standin(clock: ManualClock) -> SubsidiaryStandIn:
    return SubsidiaryStandIn(clock)


@pytest.fixture
def url(standin: SubsidiaryStandIn) -> Iterator[str]:
    with serve(standin) as url:
        yield url


@pytest.fixture
async def make(standin: SubsidiaryStandIn, url: str, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Any]:
    """Build connectors against the stand-in, with settings of the test's choice."""
    (tmp_path / "ca.pem").write_bytes(standin.authority.root_pem)
    made: list[OpenDsrConnector] = []

    def make(**settings: Any) -> OpenDsrConnector:
        defaults = {
            "base_url": f"{url}/v2",
            "token": TOKEN,
            "processor_domains": (DOMAIN,),
            "ca_file": tmp_path / "ca.pem",
            "signatures": "required",
        }
        made.append(build(OpenDsrSettings(**(defaults | settings)), clock))
        return made[-1]

    yield make
    for connector in made:
        await connector.aclose()


def job(right: Right, person: Person = ADA, **more: Any) -> Job:
    return job_for(right, person.known_by(IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID), **more)


async def to_the_end(connector: OpenDsrConnector, clock: ManualClock, job: Job) -> Result:
    result = await perform(connector, job)
    for _ in range(10):
        if not isinstance(result.outcome, Accepted):
            return result
        assert result.handle is not None
        clock.advance(3600)
        result = await connector.poll(replace(job, now=clock.now()), result.handle)
    raise AssertionError("never completed")


# What a request looks like, and what becomes of it.


async def test_a_request_is_accepted_then_worked_on_then_done(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """Accepted with the processor's date and a handle while it works; the count once it is completed."""
    standin.seed({"people": [planted(ADA, records=3), planted(BOB)]})
    connector = make()
    result = await perform(connector, job(Right.ERASURE))
    assert result.outcome == Accepted(expected_by=NOW + timedelta(seconds=9000))
    assert result.notes == ("signed",)
    assert standin.holds(ADA.email)
    clock.advance(3600)
    result = await connector.poll(job(Right.ERASURE, now=clock.now()), result.handle)
    assert isinstance(result.outcome, Accepted)
    assert standin.state()["requests"][result.handle]["state"] == "in_progress"
    clock.advance(3600 * 2)
    result = await connector.poll(job(Right.ERASURE, now=clock.now()), result.handle)
    assert result.outcome == Fulfilled(count=3)
    assert not standin.holds(ADA.email)
    assert standin.holds(BOB.email)


async def test_the_request_is_as_the_specification_wants_it(make: Any, standin: SubsidiaryStandIn) -> None:
    """Lower-case version-4 id, the moment the person asked, regulation, and no identity beyond what discovery takes."""
    connector = make()
    asked = replace(job(Right.ERASURE), received_at=datetime(2026, 3, 1, 8, 30, tzinfo=UTC))
    await perform(connector, asked)
    (key, entry) = next(iter(standin.requests.items()))
    body = json.loads(entry.body)
    assert body == {
        "api_version": "2.0",
        "regulation": "gdpr",
        "subject_request_id": key,
        "subject_request_type": "erasure",
        "submitted_time": "2026-03-01T08:30:00.000Z",
        "subject_identities": [
            {
                "identity_type": "controller_customer_id",
                "identity_value": ADA.identifiers[IdentifierKind.CUSTOMER_ID],
                "identity_format": "raw",
            },
            {"identity_type": "email", "identity_value": ADA.email, "identity_format": "raw"},
        ],
    }
    assert key == str(uuid.UUID(key)).lower()
    assert uuid.UUID(key).version == 4
    assert key == child_request_id(asked)
    assert uuid.UUID(child_request_id(asked, version=5)).version == 5


def test_the_childs_id_differs_by_parent_system_right_and_generation() -> None:
    """The same for a repetition or another attempt, another one for anything else."""
    one = job(Right.ERASURE)
    other_parent = replace(one, subject_request_id="3b9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a")
    others = (other_parent, replace(one, order_id="ord_other"), replace(one, right=Right.ACCESS))
    assert child_request_id(one) == child_request_id(replace(one, attempt=2, now=NOW + timedelta(days=1)))
    ids = {child_request_id(one), child_request_id(one, generation=1), *(child_request_id(other) for other in others)}
    assert len(ids) == 5


async def test_identities_are_sent_as_digests_where_so_configured(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """SHA-256 of the lower-cased address; one that came as a digest already is not hashed again; the person is found."""
    standin.seed({"people": [planted(ADA)]})
    connector = make(identity_format="sha256")
    digest = hashlib.sha256(ADA.email.lower().encode()).hexdigest()
    for address in (ADA.email.upper(), digest):
        standin.requests.clear()
        result = await to_the_end(connector, clock, job_for(Right.ACCESS, {IdentifierKind.EMAIL: (address,)}, now=clock.now()))
        assert result.outcome == Fulfilled(count=1)


async def test_a_repetition_sends_the_same_bytes_and_starts_nothing_new(make: Any, standin: SubsidiaryStandIn) -> None:
    """The second call gets the stored receipt, whatever the order of the identifiers."""
    connector = make()
    addresses = tuple(f"{letter}@example.org" for letter in "hgfedcba")
    first = await perform(connector, job_for(Right.ERASURE, {IdentifierKind.EMAIL: addresses}))
    again = await perform(connector, job_for(Right.ERASURE, {IdentifierKind.EMAIL: addresses[::-1]}))
    assert first == again
    (entry,) = standin.requests.values()
    assert [identity["identity_value"] for identity in json.loads(entry.body)["subject_identities"]] == sorted(addresses)


async def test_the_same_id_with_another_body_is_for_a_person_to_solve(make: Any) -> None:
    """409: SystemRejected with the remedy."""
    connector = make()
    await perform(connector, job(Right.ERASURE))
    with pytest.raises(SystemRejected, match="another body"):
        await perform(connector, job(Right.ERASURE, BOB))


async def test_data_comes_with_access_and_portability(make: Any, standin: SubsidiaryStandIn, clock: ManualClock) -> None:
    """The document behind the results link is exported; a link on another host is passed on and not followed."""
    standin.seed({"people": [planted(ADA), planted(BOB)]})
    connector = make()
    result = await to_the_end(connector, clock, job(Right.ACCESS))
    assert result.outcome == Fulfilled(count=1)
    assert traces_in(str(result.exports[0].content), ADA)
    assert not traces_in(str(result.exports[0].content), BOB)
    standin.switches["foreign_results"] = True
    result = await to_the_end(connector, clock, job(Right.PORTABILITY, now=clock.now()))
    assert "results_by_link" in result.notes
    assert set(result.exports[0].content) == {"results_url"}


async def test_what_a_subsidiary_keeps_by_law_is_not_shown_as_done(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """OpenDSR only knows completed; the outcome in our extension says that data stays, and until when."""
    standin.seed({"people": [planted(ADA, kept=2, keep_until="2031-12-31")]})
    result = await to_the_end(make(), clock, job(Right.ERASURE))
    assert result.outcome == Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=date(2031, 12, 31), count=2, fulfilled=1)
    assert "outcome_by_extension" in result.notes


async def test_a_count_of_zero_is_nothing_held_and_no_count_is_said_so(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """results_count 0 means nobody was found; a processor that tells no count leaves a note."""
    connector = make(signatures="off")
    assert (await to_the_end(connector, clock, job(Right.ERASURE))).outcome == NothingHeld()
    told = {"subject_request_id": child_request_id(job(Right.ERASURE)), "request_status": "completed", "results_count": None}
    standin.fail(Fault(status=200, json=told, method="GET"))
    result = await connector.poll(job(Right.ERASURE), child_request_id(job(Right.ERASURE)))
    assert result.outcome == Fulfilled(count=0)
    assert result.notes == ("count_not_told",)


# Rights beyond the specification.


@pytest.mark.parametrize("right", sorted(set(Right) - {Right.ACCESS, Right.PORTABILITY, Right.ERASURE}))
async def test_other_rights_are_only_sent_to_a_server_that_knows_them(
    make: Any, standin: SubsidiaryStandIn, right: Right
) -> None:
    """Discovery without our extension: not_applicable(right_not_offered), and nothing is sent."""
    standin.switches["knows_extension"] = False
    result = await perform(make(), job(right))
    assert result.outcome == NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)
    assert standin.requests == {}


async def test_rectification_objection_and_unsubscribe_travel_in_the_extension(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """The subsidiary really changes the field and the flags."""
    standin.seed({"people": [planted(ADA)]})
    connector = make()
    changes = (FieldChange(field="last_name", new="King"),)
    for right in (Right.RECTIFICATION, Right.OBJECTION, Right.UNSUBSCRIBE, Right.RESTRICTION):
        asked = job(right, changes=changes if right is Right.RECTIFICATION else (), now=clock.now())
        assert (await to_the_end(connector, clock, asked)).outcome == Fulfilled(count=1)
    (person,) = standin.people
    assert person.fields == {"last_name": "King"}
    assert (person.marketing, person.newsletter, person.restricted) == (False, False, True)


async def test_what_the_subsidiary_could_not_do_is_a_failed_job(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """It stays in progress there; the reason in the extension is SystemRejected(job_failed) here."""
    standin.seed({"people": [planted(ADA)]})
    change = FieldChange(field="last_name", new="King", old_sha256="0" * 64)
    with pytest.raises(SystemRejected) as caught:
        await to_the_end(make(), clock, job(Right.RECTIFICATION, changes=(change,)))
    assert caught.value.reason == "job_failed"
    assert standin.people[0].fields == {"last_name": ADA.last_name}


# Cancellation and retry.


async def test_a_cancelled_request_fails_and_a_retried_order_asks_anew(
    make: Any, standin: SubsidiaryStandIn, url: str, clock: ManualClock
) -> None:
    """Cancelled at the subsidiary: job_failed; the next attempt uses the next id; a repetition of it uses the same."""
    standin.seed({"people": [planted(ADA)]})
    connector = make()
    handle = (await perform(connector, job(Right.ERASURE))).handle
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        assert (await client.delete(f"/v2/requests/{handle}")).status_code == 202
    with pytest.raises(SystemRejected) as caught:
        await connector.poll(job(Right.ERASURE), handle)
    assert caught.value.reason == "job_failed"
    second = await perform(connector, job(Right.ERASURE, attempt=2))
    assert second.handle == child_request_id(job(Right.ERASURE), generation=1)
    assert (await perform(connector, job(Right.ERASURE, attempt=2))).handle == second.handle
    assert len(standin.requests) == 2
    assert (await to_the_end(connector, clock, job(Right.ERASURE, attempt=2))).outcome == Fulfilled(count=1)


async def test_a_request_that_the_processor_lost_is_a_failed_job(make: Any, standin: SubsidiaryStandIn) -> None:
    """404 for a handle we were given: job_failed, and a retry sends it again."""
    connector = make()
    handle = (await perform(connector, job(Right.ERASURE))).handle
    standin.requests.clear()
    with pytest.raises(SystemRejected) as caught:
        await connector.poll(job(Right.ERASURE), handle)
    assert caught.value.reason == "job_failed"
    assert isinstance((await perform(connector, job(Right.ERASURE, attempt=2))).outcome, Accepted)


# Processors as found in the wild.


async def test_400_for_a_known_id_is_looked_up(make: Any, standin: SubsidiaryStandIn) -> None:
    """A processor that answers 400 to a repetition has the request: its status is taken."""
    standin.switches["repeat_status"] = 400
    connector = make()
    first = await perform(connector, job(Right.ERASURE))
    again = await perform(connector, job(Right.ERASURE))
    assert (again.outcome, again.handle) == (first.outcome, first.handle)


async def test_instants_without_a_zone_and_nulls_are_read(make: Any, standin: SubsidiaryStandIn, clock: ManualClock) -> None:
    """A bare timestamp is UTC, null is absent."""
    standin.switches |= {"naive_instants": True, "null_fields": True, "wrapped_signature": True}
    standin.seed({"people": [planted(ADA)]})
    connector = make()
    assert (await perform(connector, job(Right.ERASURE))).outcome == Accepted(expected_by=NOW + timedelta(seconds=9000))
    assert (await to_the_end(connector, clock, job(Right.ERASURE))).outcome == Fulfilled(count=1)


async def test_a_processor_that_names_no_time_is_expected_by_the_due_date(make: Any, standin: SubsidiaryStandIn) -> None:
    """expected_completion_time null or unreadable: the legal due date."""
    connector = make(signatures="off")
    for told in (None, "soon"):
        receipt = {"subject_request_id": child_request_id(job(Right.ERASURE)), "expected_completion_time": told}
        standin.fail(Fault(status=201, json=receipt, method="POST"))
        result = await perform(connector, job(Right.ERASURE))
        assert result.outcome == Accepted(expected_by=datetime(2026, 4, 7, tzinfo=UTC))


@pytest.mark.parametrize("settings", [{"trailing_slash": True}, {"version": "1.0"}, {"username": USERNAME, "token": None}])
async def test_slashes_old_names_and_basic_authentication(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock, url: str, settings: dict[str, Any]
) -> None:
    """Version 1's names and headers, a trailing slash, and a password in place of a token."""
    standin.seed({"people": [planted(ADA)]})
    if "version" in settings:
        settings = settings | {"base_url": f"{url}/v1"}
    if "username" in settings:
        settings = settings | {"password": PASSWORD}
    assert (await to_the_end(make(**settings), clock, job(Right.ERASURE))).outcome == Fulfilled(count=1)
    if "version" in settings:
        assert standin.counts["POST /v1/opengdpr_requests"] == 1
    if "trailing_slash" in settings:
        assert standin.counts["POST /v2/requests/"] == 1


@pytest.mark.parametrize(
    "told",
    [
        {"subject_request_id": "someone-elses", "request_status": "completed", "results_count": 1},
        {"request_status": "completed", "results_count": 1},
        {"subject_request_id": "", "request_status": "finished"},
        {"subject_request_id": "", "request_status": None},
        {
            "subject_request_id": "",
            "request_status": "completed",
            "extensions": {"dsr.example.org": {"outcome": {"code": "x"}}},
        },
    ],
)
async def test_a_status_nobody_promised_is_rejected(make: Any, standin: SubsidiaryStandIn, told: dict[str, Any]) -> None:
    """Another request's answer, an unknown state, an unreadable outcome: never taken for done."""
    connector = make(signatures="off")
    handle = (await perform(connector, job(Right.ERASURE))).handle
    if told.get("subject_request_id") == "":
        told = told | {"subject_request_id": handle}
    standin.fail(Fault(status=200, json=told, method="GET", path="/requests/"))
    with pytest.raises(SystemRejected):
        await connector.poll(job(Right.ERASURE), handle)


async def test_identities_the_processor_does_not_take_are_not_sent(make: Any, standin: SubsidiaryStandIn) -> None:
    """A type discovery lacks is left out, none left is identifier_missing, and a wrong format is a setting to change."""
    standin.switches["identity_formats"] = ["sha256"]
    with pytest.raises(SystemRejected, match="as sha256: set DSR_OPENDSR_IDENTITY_FORMAT"):
        await perform(make(), job(Right.ERASURE))
    with pytest.raises(ConfigurationError, match="DSR_OPENDSR_IDENTITY_FORMAT"):
        await make().check()
    only_email = {"supported_identities": [{"identity_type": "email", "identity_format": "raw"}]}
    discovery = only_email | {"supported_subject_request_types": ["erasure"], "api_version": "2.0"}
    standin.fail(Fault(status=200, json=discovery, path="discovery"))
    customer = job_for(Right.ERASURE, ADA.known_by(IdentifierKind.CUSTOMER_ID))
    result = await perform(make(), customer)
    assert result.outcome == NotApplicable(reason=NotApplicableReason.IDENTIFIER_MISSING)
    assert standin.requests == {}


# Signatures.


async def test_a_signature_that_does_not_fit_is_refused(make: Any, standin: SubsidiaryStandIn) -> None:
    """Wrong over these bytes: SystemRejected(verification_failed), in both modes that look."""
    standin.switches["signature"] = "bad"
    for mode in ("required", "when_present"):
        with pytest.raises(SystemRejected) as caught:
            await perform(make(signatures=mode), job(Right.ERASURE))
        assert caught.value.reason == "verification_failed"
    assert isinstance((await perform(make(signatures="off"), job(Right.ERASURE))).outcome, Accepted)


async def test_a_missing_signature_counts_only_where_it_is_required(make: Any, standin: SubsidiaryStandIn) -> None:
    """Without one: refused if required, otherwise taken without the note `signed`."""
    standin.switches["signature"] = "none"
    with pytest.raises(SystemRejected) as caught:
        await perform(make(), job(Right.ERASURE))
    assert caught.value.reason == "verification_failed"
    assert (await perform(make(signatures="when_present"), job(Right.ERASURE))).notes == ()


async def test_an_elliptic_key_is_verified_as_such_and_a_renewed_certificate_is_fetched(
    make: Any, standin: SubsidiaryStandIn
) -> None:
    """The algorithm follows the key; a signature by a new key makes the certificate be read once more."""
    connector = make()
    assert (await perform(connector, job(Right.ERASURE))).notes == ("signed",)
    standin.renew_certificate("ec")
    assert (await perform(connector, job(Right.ERASURE))).notes == ("signed",)
    assert standin.counts["GET /cert.pem"] == 2


async def test_a_certificate_of_another_domain_or_root_or_time_is_refused(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock, tmp_path: Path
) -> None:
    """Domain not on the list, SAN of another name, a foreign root, an expired one: each is verification_failed."""

    async def refused(connector: OpenDsrConnector) -> str:
        with pytest.raises(SystemRejected) as caught:
            await perform(connector, job(Right.ERASURE, now=clock.now()))
        assert caught.value.reason == "verification_failed"
        return str(caught.value)

    assert "not on our list" in await refused(make(processor_domains=("other.example.org",)))
    (tmp_path / "foreign.pem").write_bytes(SubsidiaryStandIn(clock).authority.root_pem)
    assert "root" in await refused(make(ca_file=tmp_path / "foreign.pem"))
    standin.renew_certificate(domain="other.example.org")
    assert "of another domain" in await refused(make())
    standin.renew_certificate()
    clock.advance(100 * 86400)
    assert "expired" in await refused(make())


async def test_a_certificate_on_another_host_needs_permission_and_never_sees_the_token(
    make: Any, standin: SubsidiaryStandIn, tmp_path: Path
) -> None:
    """Host pinning: a foreign processor_certificate is not fetched; a pinned file replaces it."""
    standin.switches["certificate_url"] = "https://static.example.org/cert.pem"
    with pytest.raises(SystemRejected, match="certificate_hosts"):
        await perform(make(), job(Right.ERASURE))
    (tmp_path / "pinned.pem").write_bytes(standin.certificate_pem)
    assert (await perform(make(certificate_file=tmp_path / "pinned.pem"), job(Right.ERASURE))).notes == ("signed",)


def test_verification_is_of_raw_bytes(standin: SubsidiaryStandIn) -> None:
    """One blank more in the body, or a signature that is no base64, is not genuine."""
    chain = certificates(standin.certificate_pem)
    good = sign(b'{"a": 1}', standin._key)
    verify(b'{"a": 1}', good, chain[0])
    for body, signature in ((b'{"a":1}', good), (b'{"a": 1}', "?" + good), (b'{"a": 1}', "")):
        with pytest.raises(NotGenuine):
            verify(body, signature, chain[0])


async def test_check_proves_credentials_and_certificate(make: Any, standin: SubsidiaryStandIn) -> None:
    """One line with what is offered; a wrong token is CredentialsRefused; nobody is asked for."""
    line = await make().check()
    assert "erasure" in line
    assert "certificate valid" in line
    with pytest.raises(CredentialsRefused):
        await make(token="wrong").check()
    assert standin.requests == {}


async def test_everything_can_be_set_by_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by name, and built from variables alone; the stand-in as well."""
    monkeypatch.setenv("DSR_OPENDSR_BASE_URL", f"{url}/v2")
    monkeypatch.setenv("DSR_OPENDSR_TOKEN", TOKEN)
    monkeypatch.setenv("DSR_OPENDSR_SIGNATURES", "off")
    monkeypatch.setenv("DSR_OPENDSR_PROCESSOR_DOMAINS", f'["{DOMAIN}"]')
    connector = build_connector("opendsr")
    assert "signatures not checked" in await connector.check()
    assert TOKEN not in repr(connector)
    await connector.aclose()
    assert isinstance(build_standin("opendsr", ManualClock(NOW)), SubsidiaryStandIn)
    monkeypatch.delenv("DSR_OPENDSR_BASE_URL")
    with pytest.raises(ConfigurationError, match="DSR_OPENDSR_BASE_URL: set this variable"):
        build_connector("opendsr")


def test_two_kinds_of_credentials_exclude_each_other() -> None:
    """The settings are named."""
    with pytest.raises(ConfigurationError, match="DSR_OPENDSR_TOKEN and DSR_OPENDSR_USERNAME"):
        build(OpenDsrSettings(base_url="https://opendsr.example.org/v2", token="a", username="b", password="c"))


# The server.


@contextmanager
def inbox() -> Iterator[tuple[str, list[tuple[bytes, dict[str, str]]]]]:
    """A parent's callback address, and what came in there."""
    came: list[tuple[bytes, dict[str, str]]] = []

    async def take(request: Request) -> Response:
        came.append((await request.body(), dict(request.headers)))
        return Response(status_code=202)

    with serve(lambda: Starlette(routes=[Route("/callback", take, methods=["POST"])])) as url:
        yield f"{url}/callback", came


async def test_the_server_calls_back_on_every_change_with_a_signature(
    make: Any, standin: SubsidiaryStandIn, clock: ManualClock
) -> None:
    """pending, in_progress, completed, each signed over its raw bytes; nobody answering is counted and not fatal."""
    standin.seed({"people": [planted(ADA)]})
    with inbox() as (address, came):
        connector = make(status_callback_urls=(address, "http://127.0.0.1:9/nobody"))
        await to_the_end(connector, clock, job(Right.ERASURE))
        assert [json.loads(body)["request_status"] for body, _ in came] == ["pending", "in_progress", "completed"]
        for body, headers in came:
            verify(body, headers["x-opendsr-signature"], certificates(standin.certificate_pem)[0])
            assert json.loads(body)["status_callback_url"] == address
    assert sorted(standin.called_back) == sorted(
        (state, status) for state in ("pending", "in_progress", "completed") for status in (202, 0)
    )


async def test_the_server_answers_by_the_book(standin: SubsidiaryStandIn, url: str, clock: ManualClock) -> None:
    """401, 400 with the error body and no identity, 404, 201 replayed, 409 for another body, DELETE 202 then 409 when late."""
    body = {
        "subject_request_id": "7d9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a",
        "subject_request_type": "erasure",
        "submitted_time": "2026-03-05T09:00:00Z",
        "subject_identities": [{"identity_type": "email", "identity_value": ADA.email, "identity_format": "raw"}],
    }
    path = f"/v2/requests/{body['subject_request_id']}"
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/v2/requests", json=body)).status_code == 401
        client.headers["authorization"] = f"Bearer {TOKEN}"
        for wrong in (
            {name: value for name, value in body.items() if name != "submitted_time"},
            body | {"subject_request_type": "rectification"},
            [],
        ):
            answer = await client.post("/v2/requests", json=wrong)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == 400
            assert set(answer.json()["error"]["errors"][0]) == {"domain", "reason", "message"}
            assert not traces_in(answer.text, ADA)
        assert (await client.get(path)).status_code == 404
        first, again = [await client.post("/v2/requests", json=body) for _ in range(2)]
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.content == again.content
        assert standin.missing_regulation == 2
        assert (await client.post("/v2/requests", json=body | {"regulation": "ccpa"})).status_code == 409
        assert (await client.get(f"/v2/status/{body['subject_request_id']}")).json()["request_status"] == "pending"
        assert [(await client.delete(path)).status_code for _ in range(2)] == [202, 202]
        assert (await client.get(path)).json()["request_status"] == "cancelled"
        late = body | {"subject_request_id": "8d9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a"}
        await client.post("/v2/requests", json=late)
        clock.advance(2000)
        assert (await client.delete(f"/v2/requests/{late['subject_request_id']}")).status_code == 409
        clock.advance(9000)
        await client.get(path)
    assert all(entry.body == b"" for entry in standin.requests.values())
