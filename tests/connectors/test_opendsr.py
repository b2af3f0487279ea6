"""The OpenDSR connector against a subsidiary's server: conformance, signatures, and processors as found in the wild."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from opendsr_kit import WithSubsidiary, job, planted, to_the_end

from connectors.sdk.clock import Clock, ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.protocol import Connector, Ended, Result
from connectors.sdk.standin import Fault, StandIn
from connectors.sdk.testing import ADA, BOB, NOW, Person, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.opendsr.connector import OpenDsrSettings, build, child_request_id
from connectors.systems.opendsr.standin import DOMAIN, EXTENSION, TOKEN, SubsidiaryStandIn
from schemas.errors import SystemRejected
from schemas.outcomes import Accepted, Fulfilled, NotApplicable, NothingHeld, Retained
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, NotApplicableReason, RetentionGround, Right


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


class TestRequests(WithSubsidiary):
    """What a request looks like, and what becomes of it."""

    async def test_a_request_is_accepted_then_worked_on_then_done(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
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

    async def test_what_is_over_is_cancelled_while_it_is_pending(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """Pending: cancelled, and nothing is done. In progress: too late, and what was done in the end comes back."""
        standin.seed({"people": [planted(ADA, records=3)]})
        connector, asked = make(), job(Right.ERASURE)

        def over() -> Ended:
            return Ended(asked.order_id, asked.subject_request_id, asked.right, 1, clock.now(), NOW, has_begun=True)

        assert await connector.cancel(over()) is None, "nobody has asked"
        await perform(connector, asked)
        assert await connector.cancel(over()) is None
        assert {entry["state"] for entry in standin.state()["requests"].values()} == {"cancelled"}
        standin.requests.clear()
        await perform(connector, asked)
        clock.advance(3600)
        late = await connector.cancel(over())
        assert isinstance(late.outcome, Accepted)
        clock.advance(3600 * 2)
        assert await connector.cancel(over()) == Result(Fulfilled(count=3))
        assert not standin.holds(ADA.email)

    async def test_the_request_is_as_the_specification_wants_it(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """Lower-case version-4 id, the moment the person asked, regulation, and no identity beyond what discovery takes."""
        connector = make()
        asked = replace(job(Right.ERASURE), received_at=datetime(2026, 3, 1, 8, 30, tzinfo=UTC))
        with structlog.testing.capture_logs() as logs:
            await perform(connector, asked)
        (key, entry) = next(iter(standin.requests.items()))
        assert [line["subject_request_id"] for line in logs if line["event"] == "child_asked"] == [key]
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
            "extensions": {
                EXTENSION: {
                    "version": "1",
                    "verification": {"method": "login", "level": "substantial", "verified_at": "2026-03-05T09:00:00Z"},
                }
            },
        }
        assert key == str(uuid.UUID(key)).lower()
        assert uuid.UUID(key).version == 4
        assert key == child_request_id(asked)
        assert uuid.UUID(child_request_id(asked, version=5)).version == 5

    def test_the_childs_id_differs_by_parent_system_right_and_generation(self) -> None:
        """The same for a repetition or another attempt, another one for anything else."""
        one = job(Right.ERASURE)
        other_parent = replace(one, subject_request_id="3b9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a")
        others = (other_parent, replace(one, order_id="ord_other"), replace(one, right=Right.ACCESS))
        assert child_request_id(one) == child_request_id(replace(one, attempt=2, now=NOW + timedelta(days=1)))
        ids = {child_request_id(one), child_request_id(one, generation=1), *(child_request_id(other) for other in others)}
        assert len(ids) == 5

    async def test_identities_are_sent_as_digests_where_so_configured(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """SHA-256 of the lower-cased address; one that came as a digest already is not hashed again; the person is found."""
        standin.seed({"people": [planted(ADA)]})
        connector = make(identity_format="sha256")
        digest = hashlib.sha256(ADA.email.lower().encode()).hexdigest()
        for address in (ADA.email.upper(), digest):
            standin.requests.clear()
            result = await to_the_end(
                connector, clock, job_for(Right.ACCESS, {IdentifierKind.EMAIL: (address,)}, now=clock.now())
            )
            assert result.outcome == Fulfilled(count=1)

    async def test_a_repetition_sends_the_same_bytes_and_starts_nothing_new(
        self, make: Any, standin: SubsidiaryStandIn
    ) -> None:
        """The second call gets the stored receipt, whatever the order of the identifiers."""
        connector = make()
        addresses = tuple(f"{letter}@example.org" for letter in "hgfedcba")
        first = await perform(connector, job_for(Right.ERASURE, {IdentifierKind.EMAIL: addresses}))
        again = await perform(connector, job_for(Right.ERASURE, {IdentifierKind.EMAIL: addresses[::-1]}))
        assert first == again
        (entry,) = standin.requests.values()
        assert [identity["identity_value"] for identity in json.loads(entry.body)["subject_identities"]] == sorted(addresses)

    async def test_the_same_id_with_another_body_is_for_a_person_to_solve(self, make: Any) -> None:
        """409: SystemRejected with the remedy."""
        connector = make()
        await perform(connector, job(Right.ERASURE))
        with pytest.raises(SystemRejected, match="another body"):
            await perform(connector, job(Right.ERASURE, BOB))

    async def test_data_comes_with_access_and_portability(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
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
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """OpenDSR only knows completed; the outcome in our extension says that data stays, and until when."""
        standin.seed({"people": [planted(ADA, kept=2, keep_until="2031-12-31")]})
        result = await to_the_end(make(), clock, job(Right.ERASURE))
        assert result.outcome == Retained(
            ground=RetentionGround.LEGAL_OBLIGATION, until=date(2031, 12, 31), count=2, fulfilled=1
        )
        assert "outcome_by_extension" in result.notes

    async def test_a_count_of_zero_is_nothing_held_and_no_count_is_said_so(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """results_count 0 means nobody was found; a processor that tells no count leaves a note."""
        connector = make(signatures="off")
        assert (await to_the_end(connector, clock, job(Right.ERASURE))).outcome == NothingHeld()
        told = {
            "subject_request_id": child_request_id(job(Right.ERASURE)),
            "request_status": "completed",
            "results_count": None,
        }
        standin.fail(Fault(status=200, json=told, method="GET"))
        result = await connector.poll(job(Right.ERASURE), child_request_id(job(Right.ERASURE)))
        assert result.outcome == Fulfilled(count=0)
        assert result.notes == ("count_not_told",)


class TestExtension(WithSubsidiary):
    """Rights beyond the specification."""

    @pytest.mark.parametrize("right", sorted(set(Right) - {Right.ACCESS, Right.PORTABILITY, Right.ERASURE}))
    async def test_other_rights_are_only_sent_to_a_server_that_knows_them(
        self, make: Any, standin: SubsidiaryStandIn, right: Right
    ) -> None:
        """Discovery without our extension: not_applicable(right_not_offered), and nothing is sent."""
        standin.switches["knows_extension"] = False
        result = await perform(make(), job(right))
        assert result.outcome == NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)
        assert standin.requests == {}

    async def test_a_server_that_does_not_know_it_gets_none(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """The specification's rights travel without the proof of who asks: there is no place for it."""
        standin.switches["knows_extension"] = False
        await perform(make(), job(Right.ERASURE))
        (entry,) = standin.requests.values()
        assert "extensions" not in json.loads(entry.body)

    async def test_a_subsidiary_that_wants_to_be_surer_says_so(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """It gets the order's level; below its own it does nothing, and a person here is told."""
        standin.seed({"people": [planted(ADA)]})
        standin.switches["least_assurance"] = "high"
        with pytest.raises(SystemRejected, match="verification_failed"):
            await to_the_end(make(), clock, job(Right.ERASURE))
        assert standin.holds(ADA.email)

    async def test_rectification_objection_and_unsubscribe_travel_in_the_extension(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
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
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """It stays in progress there; the reason in the extension is SystemRejected(job_failed) here."""
        standin.seed({"people": [planted(ADA)]})
        change = FieldChange(field="last_name", new="King", old_sha256="0" * 64)
        with pytest.raises(SystemRejected) as caught:
            await to_the_end(make(), clock, job(Right.RECTIFICATION, changes=(change,)))
        assert caught.value.reason == "job_failed"
        assert standin.people[0].fields == {"last_name": ADA.last_name}


class TestRetry(WithSubsidiary):
    """Cancelled and lost requests."""

    async def test_a_cancelled_request_fails_and_a_retried_order_asks_anew(
        self, make: Any, standin: SubsidiaryStandIn, url: str, clock: ManualClock
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

    async def test_a_request_that_the_processor_lost_is_a_failed_job(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """404 for a handle we were given: job_failed, and a retry sends it again."""
        connector = make()
        handle = (await perform(connector, job(Right.ERASURE))).handle
        standin.requests.clear()
        with pytest.raises(SystemRejected) as caught:
            await connector.poll(job(Right.ERASURE), handle)
        assert caught.value.reason == "job_failed"
        assert isinstance((await perform(connector, job(Right.ERASURE, attempt=2))).outcome, Accepted)
