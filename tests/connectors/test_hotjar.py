"""The Hotjar connector against its stand-in, in every position of every unverified switch."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest

from connectors.sdk.clock import ManualClock, SystemClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.hotjar.connector import HotjarSettings, build
from connectors.systems.hotjar.standin import (
    CLIENT_ID,
    CLIENT_SECRET,
    LOOKUP,
    ORGANIZATION_ID,
    SITE_IDS,
    TOKEN,
    HotjarStandIn,
)
from connectors.systems.hotjar.standin import build as build_standin
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

CALLS = f"POST {LOOKUP}"
ALWAYS = {"recording_contents_not_searched", "unidentified_recordings_by_hand"}
INLINE = {"mode": "inline"}


def settings_for(url, **settings):
    return HotjarSettings(
        base_url=url,
        organization_id=settings.pop("organization_id", ORGANIZATION_ID),
        client_id=CLIENT_ID,
        client_secret=settings.pop("client_secret", CLIENT_SECRET),
        **{"timeout_seconds": 5, "calls_per_second": 1000.0, "site_ids": SITE_IDS, **settings},
    )


def user_of(person):
    return person.identifiers[IdentifierKind.HOTJAR_USER_ID]


def hits_of(person, records=1):
    answers = [{"type": "survey_response", "email": person.email, "content": f"I am {person.last_name}"}] * records
    return [*answers, {"type": "recording", "user_id": user_of(person), "site_id": SITE_IDS[1]}]


class HotjarMixin:
    settings: ClassVar[dict[str, Any]] = {}
    switches: ClassVar[dict[str, Any]] = {}

    def stand_in(self, clock):
        standin = HotjarStandIn(clock)
        standin.switches.update(self.switches)
        return standin

    def build(self, base_url, *, timeout_seconds):
        return build(settings_for(base_url, timeout_seconds=timeout_seconds, **self.settings))

    def plant(self, system, person, *, records=1):
        system.seed({"hits": hits_of(person, records)})

    def holds(self, system, person):
        return bool(system.shown(email=person.email, user_id=user_of(person)))


class TestHotjarContractInline(HotjarMixin, HttpConnectorContract):
    """The whole contract where a lookup answers with what it found."""

    settings: ClassVar[dict[str, Any]] = INLINE
    switches: ClassVar[dict[str, Any]] = INLINE


class TestHotjarContractInlineAnd404(HotjarMixin, HttpConnectorContract):
    """The same where an unknown person is 404."""

    settings: ClassVar[dict[str, Any]] = {**INLINE, "unknown_person": "not_found"}
    switches: ClassVar[dict[str, Any]] = {**INLINE, "unknown_person": 404}


class TestHotjarContractReport(HotjarMixin, HttpConnectorContract):
    """The whole contract where the account's admins get a report and the answer says only that it was taken."""

    reports_absence = False

    async def test_erasure_takes_all_records_of_the_person(self, run, system):
        """All of several hits go; the count is of requests taken, since the answer tells no other."""
        self.plant(system, ADA, records=3)
        self.plant(system, BOB)
        result = await run(Right.ERASURE)
        assert not self.holds(system, ADA)
        assert self.holds(system, BOB)
        assert result.outcome.count == system.counts[CALLS] == 2

    async def test_access_exports_the_person_and_nobody_else(self, run, system):
        """The admins get the report, a person is told to pass it on, and nothing is exported."""
        self.plant(system, ADA)
        self.plant(system, BOB)
        result = await run(Right.ACCESS)
        assert result.outcome.code is OutcomeCode.NOTIFIED
        assert result.exports == ()
        assert "report_to_be_passed_on" in result.notes
        assert traces_in(str(system.reports), ADA)
        assert not traces_in(str(system.reports), BOB)


class TestHotjarContractReportEmpty(TestHotjarContractReport):
    """The same where the answer has no body at all."""

    settings: ClassVar[dict[str, Any]] = {"status_field": ""}
    switches: ClassVar[dict[str, Any]] = {"answer": "empty"}


@contextmanager
def hotjar(clock=None, **switches):
    standin = HotjarStandIn(clock or ManualClock(NOW))
    standin.switches.update(switches)
    with serve(standin) as standin.url:
        yield standin


def connected(standin, **settings):
    return aclosing(build(settings_for(standin.url, **settings)))


def job(right=Right.ERASURE, person=ADA, kinds=(IdentifierKind.EMAIL, IdentifierKind.HOTJAR_USER_ID), now=NOW):
    return job_for(right, person.known_by(*kinds), now=now)


async def do(standin, job, **settings):
    async with connected(standin, **settings) as connector:
        return await perform(connector, job)


@pytest.mark.parametrize("mode", ["report", "inline"])
async def test_erasure_hides_now_and_has_effect_by_a_date(mode):
    """The hits are hidden when the order is fulfilled and stored until the promised date; the bystander's stay."""
    clock = ManualClock(NOW)
    with hotjar(clock, mode=mode) as system:
        system.seed({"hits": hits_of(ADA) + hits_of(BOB)})
        result = await do(system, job(), mode=mode)
        assert (result.outcome.code, result.outcome.count) == (OutcomeCode.FULFILLED, 2)
        assert result.outcome.effective_by == (NOW + timedelta(days=30)).date()
        assert set(result.notes) == ALWAYS | ({"existence_not_confirmed"} if mode == "report" else set())
        ids = {"email": ADA.email, "user_id": user_of(ADA)}
        clock.advance(30 * 86400 - 1)
        assert not system.shown(**ids)
        assert len(system.stored(**ids)) == 2
        clock.advance(1)
        assert not system.stored(**ids)
        assert len(system.shown(email=BOB.email, user_id=user_of(BOB))) == 2


async def test_a_horizon_of_seconds_is_over_within_seconds():
    """The demo's setting: a date is promised, and the stand-in really purges, on the machine's clock."""
    with hotjar(SystemClock(), purge_after_seconds=0.2) as system:
        system.seed({"hits": hits_of(ADA)})
        result = await do(system, job(now=SystemClock().now()), purge_horizon_seconds=1)
        assert result.outcome.effective_by is not None
        async with asyncio.timeout(10):
            while system.state()["hits"]:  # noqa: ASYNC110 - the stand-in purges when it is looked at
                await asyncio.sleep(0.02)


async def test_each_identifier_is_looked_up_by_itself():
    """Address and user id never share a call: the person is found by either, on every site that sends user ids."""
    with hotjar(mode="inline") as system:
        system.seed({"hits": hits_of(ADA)})
        by_mail = await do(system, job(Right.ACCESS, kinds=(IdentifierKind.EMAIL,)), **INLINE)
        by_user = await do(system, job(Right.ACCESS, kinds=(IdentifierKind.HOTJAR_USER_ID,)), **INLINE)
        both = await do(system, job(Right.ACCESS), **INLINE)
        assert [r.outcome.count for r in (by_mail, by_user, both)] == [1, 1, 2]
        assert [hit["type"] for export in both.exports for hit in export.content] == ["survey_response", "recording"]


async def test_a_hit_found_twice_is_exported_once():
    """One answer that carries both address and user id counts once."""
    with hotjar(mode="inline") as system:
        system.seed({"hits": [{"email": ADA.email, "user_id": user_of(ADA)}]})
        result = await do(system, job(Right.ACCESS), **INLINE)
        assert (result.outcome.count, len(result.exports)) == (1, 1)


async def test_without_sites_user_ids_are_not_used():
    """The map needs a site: with no site_ids set an order with a user id only is identifier_missing, and nothing is sent."""
    with hotjar() as system:
        only_user = job(kinds=(IdentifierKind.HOTJAR_USER_ID,))
        result = await do(system, only_user, site_ids=())
        assert result.outcome.reason == "identifier_missing"
        assert system.calls == 0
        both = await do(system, job(), site_ids=())
        assert both.outcome.count == 1


@pytest.mark.parametrize("minds_case", [False, True])
async def test_the_case_of_an_address_is_tried_both_ways(minds_case):
    """An address that was stored in lower case, and one stored as the person writes it, are both found."""
    with hotjar(mode="inline", minds_case=minds_case) as system:
        given = "Ada.Lovelace@Example.org"
        system.seed({"hits": [{"email": given}, {"email": given.lower()}]})
        result = await do(system, job_for(Right.ERASURE, {IdentifierKind.EMAIL: (given,)}), **INLINE)
        assert result.outcome.count == 2
        assert not system.shown(email=given)
        assert not system.shown(email=given.lower())


@pytest.mark.parametrize("unknown_person", [200, 404])
@pytest.mark.parametrize("mode", ["inline", "report"])
async def test_404_is_absence_only_if_the_setting_says_so(unknown_person, mode):
    """Without the setting a 404 is for a person to look at, since a wrong organisation answers the same."""
    with hotjar(mode=mode, unknown_person=unknown_person) as system:
        believed = await do(system, job(), mode=mode, unknown_person="not_found")
        absent = mode == "inline" or unknown_person == 404
        assert believed.outcome.code is (OutcomeCode.NOTHING_HELD if absent else OutcomeCode.FULFILLED)
        if unknown_person == 404:
            with pytest.raises(SystemRejected):
                await do(system, job(), mode=mode)
        with pytest.raises(SystemRejected):
            await do(system, job(), mode=mode, organization_id="4712")


async def test_a_lookup_after_deletion_must_find_nothing():
    """Where deleted hits stay visible the order is tried again, as verification_failed; switched off, it is fulfilled."""
    with hotjar(mode="inline", hidden_at_once=False) as system:
        system.seed({"hits": hits_of(ADA)})
        with pytest.raises(SystemUnavailable) as caught:
            await do(system, job(), **INLINE)
        assert caught.value.reason == "verification_failed"
        result = await do(system, job(), verify_erasure=False, **INLINE)
        assert result.outcome.code is OutcomeCode.FULFILLED


@pytest.mark.parametrize(
    "answer",
    [{}, {"status": ""}, {"status": 17}, {"status": "Error"}, {"status": "failed", "results": []}],
)
@pytest.mark.parametrize("mode", ["inline", "report"])
async def test_an_answer_that_promises_nothing_is_no_erasure(mode, answer):
    """200 without a status, or with one that is a refusal, is SystemRejected."""
    with hotjar(mode=mode) as system:
        system.fail(Fault(status=200, json=answer, path="user-lookup"))
        with pytest.raises(SystemRejected):
            await do(system, job(), mode=mode)


async def test_the_wrong_mode_is_noticed():
    """Inline expected and a report sent: SystemRejected names the setting. The other way round a note says what was there."""
    with hotjar(mode="report") as system, pytest.raises(SystemRejected, match="DSR_HOTJAR_MODE"):
        await do(system, job(), **INLINE)
    with hotjar(mode="inline") as system:
        system.seed({"hits": hits_of(ADA)})
        assert "answer_held_an_unread_list" in (await do(system, job())).notes


async def test_one_token_serves_all_and_none_is_logged(caplog):
    """Twenty orders at once ask for one token; no token and no secret shows in logs or reprs."""
    caplog.set_level(logging.DEBUG)
    with hotjar() as system:
        async with connected(system) as connector:
            await asyncio.gather(*(perform(connector, job()) for _ in range(20)))
            assert (system.tokens_issued, system.counts[CALLS]) == (1, 40)
            system.revoke_tokens()
            await asyncio.gather(*(perform(connector, job()) for _ in range(10)))
            assert system.tokens_issued == 2
            assert CLIENT_SECRET not in repr(vars(connector))
    assert not [text for text in (CLIENT_SECRET, "stand-in-token-1") if text in caplog.text]


async def test_check_proves_the_key_and_nothing_more():
    """A good key gets a token, a wrong one is CredentialsRefused; nobody is looked up."""
    with hotjar() as system:
        async with connected(system) as connector:
            assert "2 sites" in await connector.check()
        async with connected(system, site_ids=()) as connector:
            assert "no site_ids" in await connector.check()
        async with connected(system, client_secret="wrong-secret") as connector:
            with pytest.raises(CredentialsRefused) as caught:
                await connector.check()
        assert "wrong-secret" not in str(caught.value)
        assert system.counts[CALLS] == 0
        assert system.counts[f"POST {TOKEN}"] == 3


async def test_too_many_calls_are_throttled():
    """The vendor's 429 has no Retry-After here; the throttle stays below 3000 a minute."""
    with hotjar() as system:
        system.limit(RateLimit(requests=2, per_seconds=60))
        with pytest.raises(Throttled):
            await do(system, job())
        async with connected(system, calls_per_second=40.0) as connector:
            assert connector.throttle.per_second * 60 <= 3000
    assert build_standin()._limit.requests == 3000


async def test_rights_that_hotjar_does_not_offer_reach_nobody():
    """Objection, rectification and the rest are not_applicable(right_not_offered), without a call."""
    with hotjar() as system:
        async with connected(system) as connector:
            for right in set(Right) - {Right.ACCESS, Right.ERASURE}:
                assert (await perform(connector, job(right))).outcome.reason == "right_not_offered"
        assert system.calls == 0


async def test_the_stand_in_refuses_what_hotjar_refuses():
    """No token is 401, another organisation 404, no identifier 400, in Hotjar's shape."""
    with hotjar() as system:
        async with httpx.AsyncClient(base_url=system.url) as outsider:
            form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
            token = (await outsider.post(TOKEN, data=form)).json()["access_token"]
            bearer = {"authorization": f"Bearer {token}"}
            path = f"/v1/organizations/{ORGANIZATION_ID}/user-lookup"
            answers = [
                await outsider.post(path, json={"data_subject_email": "x@example.org"}),
                await outsider.post("/v1/organizations/1/user-lookup", json={}, headers=bearer),
                await outsider.post(path, json={"delete_all_hits": True}, headers=bearer),
            ]
    assert [(a.status_code, a.json()["error"]) for a in answers] == [
        (401, "unauthorized"),
        (404, "not_found"),
        (400, "bad_request"),
    ]


def test_the_environment_is_enough(monkeypatch):
    """Organisation and key from the environment build the connector; what is missing is named."""
    with pytest.raises(ConfigurationError, match="DSR_HOTJAR_CLIENT_SECRET"):
        build()
    monkeypatch.setenv("DSR_HOTJAR_ORGANIZATION_ID", ORGANIZATION_ID)
    monkeypatch.setenv("DSR_HOTJAR_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("DSR_HOTJAR_CLIENT_SECRET", "secret-a")
    monkeypatch.setenv("DSR_HOTJAR_SITE_IDS", '["12345"]')
    assert build().needs == {IdentifierKind.EMAIL, IdentifierKind.HOTJAR_USER_ID}
    monkeypatch.setenv("DSR_HOTJAR_MODE", "guess")
    with pytest.raises(ConfigurationError, match="DSR_HOTJAR_MODE"):
        build()
