"""OpenDSR on the wire: processors as found in the wild, signatures, and the stand-in as a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from opendsr_kit import WithSubsidiary, inbox, job, planted, to_the_end

from connectors.sdk.clock import ManualClock
from connectors.sdk.loader import build_connector, build_standin
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault
from connectors.sdk.testing import ADA, NOW, job_for, traces_in
from connectors.systems.opendsr.connector import OpenDsrConnector, OpenDsrSettings, build, child_request_id
from connectors.systems.opendsr.signature import NotGenuine, certificates, sign, verify
from connectors.systems.opendsr.standin import DOMAIN, PASSWORD, TOKEN, USERNAME, SubsidiaryStandIn
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected
from schemas.outcomes import Accepted, Fulfilled, NotApplicable
from schemas.vocabulary import IdentifierKind, NotApplicableReason, Right


class TestInTheWild(WithSubsidiary):
    """Processors as found in the wild."""

    async def test_400_for_a_known_id_is_looked_up(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """A processor that answers 400 to a repetition has the request: its status is taken."""
        standin.switches["repeat_status"] = 400
        connector = make()
        first = await perform(connector, job(Right.ERASURE))
        again = await perform(connector, job(Right.ERASURE))
        assert (again.outcome, again.handle) == (first.outcome, first.handle)

    async def test_instants_without_a_zone_and_nulls_are_read(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
    ) -> None:
        """A bare timestamp is UTC, null is absent."""
        standin.switches |= {"naive_instants": True, "null_fields": True, "wrapped_signature": True}
        standin.seed({"people": [planted(ADA)]})
        connector = make()
        assert (await perform(connector, job(Right.ERASURE))).outcome == Accepted(expected_by=NOW + timedelta(seconds=9000))
        assert (await to_the_end(connector, clock, job(Right.ERASURE))).outcome == Fulfilled(count=1)

    async def test_a_processor_that_names_no_time_is_expected_by_the_due_date(
        self, make: Any, standin: SubsidiaryStandIn
    ) -> None:
        """expected_completion_time null or unreadable: the legal due date."""
        connector = make(signatures="off")
        for told in (None, "soon"):
            receipt = {"subject_request_id": child_request_id(job(Right.ERASURE)), "expected_completion_time": told}
            standin.fail(Fault(status=201, json=receipt, method="POST"))
            result = await perform(connector, job(Right.ERASURE))
            assert result.outcome == Accepted(expected_by=datetime(2026, 4, 7, tzinfo=UTC))

    @pytest.mark.parametrize("settings", [{"trailing_slash": True}, {"version": "1.0"}, {"username": USERNAME, "token": None}])
    async def test_slashes_old_names_and_basic_authentication(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock, url: str, settings: dict[str, Any]
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
    async def test_a_status_nobody_promised_is_rejected(
        self, make: Any, standin: SubsidiaryStandIn, told: dict[str, Any]
    ) -> None:
        """Another request's answer, an unknown state, an unreadable outcome: never taken for done."""
        connector = make(signatures="off")
        handle = (await perform(connector, job(Right.ERASURE))).handle
        if told.get("subject_request_id") == "":
            told = told | {"subject_request_id": handle}
        standin.fail(Fault(status=200, json=told, method="GET", path="/requests/"))
        with pytest.raises(SystemRejected):
            await connector.poll(job(Right.ERASURE), handle)

    async def test_identities_the_processor_does_not_take_are_not_sent(self, make: Any, standin: SubsidiaryStandIn) -> None:
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


class TestSignatures(WithSubsidiary):
    """Signatures, certificates and settings."""

    async def test_a_signature_that_does_not_fit_is_refused(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """Wrong over these bytes: SystemRejected(verification_failed), in both modes that look."""
        standin.switches["signature"] = "bad"
        for mode in ("required", "when_present"):
            with pytest.raises(SystemRejected) as caught:
                await perform(make(signatures=mode), job(Right.ERASURE))
            assert caught.value.reason == "verification_failed"
        assert isinstance((await perform(make(signatures="off"), job(Right.ERASURE))).outcome, Accepted)

    async def test_a_missing_signature_counts_only_where_it_is_required(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """Without one: refused if required, otherwise taken without the note `signed`."""
        standin.switches["signature"] = "none"
        with pytest.raises(SystemRejected) as caught:
            await perform(make(), job(Right.ERASURE))
        assert caught.value.reason == "verification_failed"
        assert (await perform(make(signatures="when_present"), job(Right.ERASURE))).notes == ()

    async def test_an_elliptic_key_is_verified_as_such_and_a_renewed_certificate_is_fetched(
        self, make: Any, standin: SubsidiaryStandIn
    ) -> None:
        """The algorithm follows the key; a signature by a new key makes the certificate be read once more."""
        connector = make()
        assert (await perform(connector, job(Right.ERASURE))).notes == ("signed",)
        standin.renew_certificate("ec")
        assert (await perform(connector, job(Right.ERASURE))).notes == ("signed",)
        assert standin.counts["GET /cert.pem"] == 2

    async def test_a_certificate_of_another_domain_or_root_or_time_is_refused(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock, tmp_path: Path
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
        self, make: Any, standin: SubsidiaryStandIn, tmp_path: Path
    ) -> None:
        """Host pinning: a foreign processor_certificate is not fetched; a pinned file replaces it."""
        standin.switches["certificate_url"] = "https://static.example.org/cert.pem"
        with pytest.raises(SystemRejected, match="certificate_hosts"):
            await perform(make(), job(Right.ERASURE))
        (tmp_path / "pinned.pem").write_bytes(standin.certificate_pem)
        assert (await perform(make(certificate_file=tmp_path / "pinned.pem"), job(Right.ERASURE))).notes == ("signed",)

    def test_verification_is_of_raw_bytes(self, standin: SubsidiaryStandIn) -> None:
        """One blank more in the body, or a signature that is no base64, is not genuine."""
        chain = certificates(standin.certificate_pem)
        good = sign(b'{"a": 1}', standin._key)
        verify(b'{"a": 1}', good, chain[0])
        for body, signature in ((b'{"a":1}', good), (b'{"a": 1}', "?" + good), (b'{"a": 1}', "")):
            with pytest.raises(NotGenuine):
                verify(body, signature, chain[0])

    async def test_check_proves_credentials_and_certificate(self, make: Any, standin: SubsidiaryStandIn) -> None:
        """One line with what is offered; a wrong token is CredentialsRefused; nobody is asked for."""
        line = await make().check()
        assert "erasure" in line
        assert "certificate valid" in line
        with pytest.raises(CredentialsRefused):
            await make(token="wrong").check()
        assert standin.requests == {}

    async def test_everything_can_be_set_by_the_environment(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_two_kinds_of_credentials_exclude_each_other(self) -> None:
        """The settings are named."""
        with pytest.raises(ConfigurationError, match="DSR_OPENDSR_TOKEN and DSR_OPENDSR_USERNAME"):
            build(OpenDsrSettings(base_url="https://opendsr.example.org/v2", token="a", username="b", password="c"))


class TestServer(WithSubsidiary):
    """The stand-in as a server."""

    async def test_the_server_calls_back_on_every_change_with_a_signature(
        self, make: Any, standin: SubsidiaryStandIn, clock: ManualClock
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

    async def test_the_server_answers_by_the_book(self, standin: SubsidiaryStandIn, url: str, clock: ManualClock) -> None:
        """401, 400 without an identity, 404, 201 replayed, 409 for another body, DELETE 202 and then 409 when it is late."""
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
