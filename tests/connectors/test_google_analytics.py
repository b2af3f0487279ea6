"""The Google Analytics connector against its stand-in, on a real port."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing, contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest

from connectors.sdk.clock import ManualClock, SystemClock
from connectors.sdk.http import Answer
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.google_analytics.client import _retry_after
from connectors.systems.google_analytics.connector import (
    GoogleAnalyticsSettings,
    build,
    client_id,
    user_provided_email,
    user_provided_phone,
)
from connectors.systems.google_analytics.standin import (
    ACCESS_TOKEN,
    ADMIN_PATH,
    CLIENT_ID,
    CLIENT_SECRET,
    DELETION_PATH,
    PROPERTY_ID,
    REFRESH_TOKEN,
    TOKEN_PATH,
    WEB_PROPERTY_ID,
    GoogleAnalyticsStandIn,
)
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, Throttled
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right
from tests.published_shapes.fitting import FitsPublished

UPSERT = f"POST {DELETION_PATH}/userDeletion/userDeletionRequests:upsert"
SUBMIT = f"POST {ADMIN_PATH}/properties/{{property_id}}:submitUserDeletion"
GRANT = {"oauth_client_id": CLIENT_ID, "oauth_client_secret": CLIENT_SECRET, "refresh_token": REFRESH_TOKEN}
QUOTA = {"error": {"code": 403, "message": "x", "errors": [{"domain": "usageLimits", "reason": "dailyLimitExceeded"}]}}


def settings_for(url, **settings):
    token = {} if "refresh_token" in settings else {"access_token": ACCESS_TOKEN}
    return GoogleAnalyticsSettings(
        property_id=PROPERTY_ID,
        deletion_url=url + DELETION_PATH,
        admin_url=url + ADMIN_PATH,
        token_url=url + TOKEN_PATH,
        **{"timeout_seconds": 5, **token, **settings},
    )


def visitor(person, **fields):
    ids = person.identifiers
    return {"client_id": ids[IdentifierKind.GA_CLIENT_ID], "user_id": ids[IdentifierKind.GA_USER_ID], **fields}


class GoogleAnalyticsContract(HttpConnectorContract):
    reports_absence = False
    keeps_several = False
    erases_at_once = False
    finds_by_email = False
    throttling_403 = Fault(status=403, json=QUOTA)
    settings: ClassVar[dict[str, Any]] = {}

    def stand_in(self, clock):
        return GoogleAnalyticsStandIn(clock)

    def build(self, base_url, *, timeout_seconds):
        return build(settings_for(base_url, timeout_seconds=timeout_seconds, **self.settings))

    def plant(self, system, person, *, records=1):
        system.seed({"visitors": [visitor(person, user_data=[person.email, person.phone])]})

    def holds(self, system, person):
        return system.holds("CLIENT_ID", person.identifiers[IdentifierKind.GA_CLIENT_ID])


class TestGoogleAnalyticsContract(FitsPublished, GoogleAnalyticsContract):
    """With a static token."""

    published = "google_analytics"


class TestGoogleAnalyticsContractWithGrant(GoogleAnalyticsContract):
    """With the refresh grant: every fault hits the token endpoint as well."""

    settings: ClassVar[dict[str, Any]] = GRANT


class TestGoogleAnalyticsContractWithUserData(GoogleAnalyticsContract):
    """With mail address and telephone number as further identifiers."""

    settings: ClassVar[dict[str, Any]] = {"user_provided_data": True}


@contextmanager
def google(clock=None, **switches):
    standin = GoogleAnalyticsStandIn(clock or ManualClock(NOW))
    standin.switches.update(switches)
    with serve(standin) as standin.url:
        yield standin


def connected(standin, **settings):
    return aclosing(build(settings_for(standin.url, **settings)))


def erasure(person=ADA, *, kinds=(IdentifierKind.GA_CLIENT_ID,)):
    return job_for(Right.ERASURE, person.known_by(*kinds))


async def erase(standin, job, **settings):
    async with connected(standin, **settings) as connector:
        return await perform(connector, job)


async def test_erasure_is_taken_now_and_has_effect_by_a_date():
    """The visits are still there when the order is fulfilled, and gone by the promised date; the bystander's are not."""
    clock = ManualClock(NOW)
    with google(clock) as ga:
        ga.seed({"visitors": [visitor(ADA), visitor(BOB)]})
        result = await erase(ga, erasure(kinds=(IdentifierKind.GA_CLIENT_ID, IdentifierKind.GA_USER_ID)))
        assert result.outcome.code is OutcomeCode.FULFILLED
        assert result.outcome.count == 2
        assert result.outcome.effective_by == (NOW + timedelta(days=63)).date()
        assert set(result.notes) == {"aggregates_and_exports_stay", "existence_not_confirmed", "later_visits_not_covered"}
        client, bystander = (p.identifiers[IdentifierKind.GA_CLIENT_ID] for p in (ADA, BOB))
        clock.advance(62 * 86400)
        assert ga.holds("CLIENT_ID", client)
        clock.advance(86400)
        assert not ga.holds("CLIENT_ID", client)
        assert ga.holds("CLIENT_ID", bystander)


async def test_a_horizon_of_seconds_is_over_within_seconds():
    """The demo's setting: a date is promised, and the stand-in really purges, on the machine's clock."""
    with google(SystemClock(), purge_after_seconds=0.2) as ga:
        ga.seed({"visitors": [visitor(ADA)]})
        result = await erase(ga, erasure(), purge_horizon_seconds=1)
        now = SystemClock().now()
        assert result.outcome.effective_by in {now.date(), (now + timedelta(seconds=1)).date()}
        async with asyncio.timeout(10):
            while ga.state()["visitors"]:  # noqa: ASYNC110 - the stand-in purges when it is looked at
                await asyncio.sleep(0.02)
        assert ga.state()["requests"][0]["purged"]


async def test_later_visits_are_not_covered():
    """What the person does after the request stays: Google deletes what came before it."""
    clock = ManualClock(NOW)
    with google(clock) as ga:
        ga.seed({"visitors": [visitor(ADA, visits=3)]})
        await erase(ga, erasure())
        clock.advance(3600)
        ga.visitors[0].visits.append(clock.now())
        clock.advance(63 * 86400)
        assert [v["visits"] for v in ga.state()["visitors"]] == [1]


@pytest.mark.parametrize("repeated_time", ["kept", "moved"])
async def test_a_repetition_never_promises_an_earlier_date(repeated_time):
    """A second request is as good as the first, whichever instant Google names for it."""
    clock = ManualClock(NOW)
    with google(clock, repeated_time=repeated_time) as ga:
        ga.seed({"visitors": [visitor(ADA)]})
        first = await erase(ga, erasure())
        clock.advance(2 * 86400)
        second = await erase(ga, erasure())
        assert second.outcome.effective_by >= first.outcome.effective_by
        assert (second.outcome == first.outcome) is (repeated_time == "kept")


@pytest.mark.parametrize("unknown_id_status", [200, 404])
async def test_an_unknown_visitor_is_taken_or_shown_to_a_person(unknown_id_status):
    """200 promises a deletion; 404 may as well mean a wrong property, so it is never taken for absence."""
    with google(unknown_id_status=unknown_id_status) as ga:
        if unknown_id_status == 200:
            assert (await erase(ga, erasure())).outcome.code is OutcomeCode.FULFILLED
        else:
            with pytest.raises(SystemRejected):
                await erase(ga, erasure())


async def test_a_cookie_value_is_turned_into_the_client_id():
    """The value of the `_ga` cookie and the bare id are one visitor, asked for once."""
    with google() as ga:
        ga.seed({"visitors": [visitor(ADA)]})
        bare = ADA.identifiers[IdentifierKind.GA_CLIENT_ID]
        job = job_for(Right.ERASURE, {IdentifierKind.GA_CLIENT_ID: (f"GA1.2.{bare}", bare)})
        result = await erase(ga, job)
        assert result.outcome.count == 1
        assert list(ga.requests) == [("CLIENT_ID", bare, PROPERTY_ID)]


async def test_a_value_that_cannot_be_a_client_id_is_noted_and_never_sent():
    """Google would take anything and promise the deletion of nothing."""
    with google() as ga:
        foreign = {IdentifierKind.GA_CLIENT_ID: ("not an id",)}
        alone = await erase(ga, job_for(Right.ERASURE, foreign))
        assert (alone.outcome.code, alone.outcome.reason) == (OutcomeCode.NOT_APPLICABLE, "identifier_missing")
        assert alone.notes == ("identifier_not_in_vendor_form",)
        beside = await erase(ga, job_for(Right.ERASURE, {**foreign, IdentifierKind.GA_USER_ID: ("u-1",)}))
        assert (beside.outcome.count, "identifier_not_in_vendor_form" in beside.notes) == (1, True)
        assert [kind for kind, _, _ in ga.requests] == ["USER_ID"]


async def test_address_and_number_go_to_the_admin_call_only_if_that_is_switched_on():
    """Off: neither is sent anywhere. On: each is sent once, as Google normalises it."""
    person = {IdentifierKind.EMAIL: ("Ada.Love.Lace@Gmail.com",), IdentifierKind.PHONE: ("+1 (555) 010-0141",)}
    with google() as ga:
        off = await erase(ga, job_for(Right.ERASURE, person))
        assert off.outcome.code is OutcomeCode.NOT_APPLICABLE
        assert ga.calls == 0
        on = await erase(ga, job_for(Right.ERASURE, person), user_provided_data=True)
        assert on.outcome.count == 2
        assert {(kind, value) for kind, value, _ in ga.requests} == {
            ("USER_DATA", "adalovelace@gmail.com"),
            ("USER_DATA", "+15550100141"),
        }
        assert (ga.counts[SUBMIT], ga.counts[UPSERT]) == (2, 0)


async def test_a_national_number_is_noted_and_never_sent():
    """A number without its country cannot be the one that Google stored."""
    with google() as ga:
        person = {IdentifierKind.PHONE: ("555 0141",), IdentifierKind.EMAIL: (ADA.email,)}
        result = await erase(ga, job_for(Right.ERASURE, person), user_provided_data=True)
        assert (result.outcome.count, "identifier_not_in_vendor_form" in result.notes) == (1, True)
        assert [value for _, value, _ in ga.requests] == [ADA.email]


async def test_a_universal_analytics_property_is_asked_too_if_one_is_set():
    """The legacy property gets its own request; without the setting it gets none."""
    with google() as ga:
        result = await erase(ga, erasure(), web_property_id=WEB_PROPERTY_ID)
        assert result.outcome.count == 2
        assert {prop for _, _, prop in ga.requests} == {PROPERTY_ID, WEB_PROPERTY_ID}


@pytest.mark.parametrize("over_quota_status", [403, 429])
async def test_the_five_hundred_and_first_call_of_a_day_waits_for_the_next(over_quota_status):
    """A used-up quota is throttling, with the seconds until Google's next day; the next day it goes on."""
    clock = ManualClock(NOW)
    with google(clock, quota_per_day=1, over_quota_status=over_quota_status) as ga:
        await erase(ga, erasure())
        with pytest.raises(Throttled) as caught:
            await erase(ga, erasure(BOB))
        # Until midnight in Los Angeles, by the Date of the answer: a day of 25 hours at most.
        assert 0 < caught.value.retry_after_seconds <= 25 * 3600
        clock.advance(86400)
        assert (await erase(ga, erasure(BOB))).outcome.code is OutcomeCode.FULFILLED


@pytest.mark.parametrize(
    ("date", "hours"),
    [
        ("Thu, 05 Mar 2026 09:00:00 GMT", 23),  # 01:00 in Los Angeles
        ("Sun, 08 Mar 2026 09:00:00 GMT", 22),  # the same on the day the clocks go forward
        ("Sun, 01 Nov 2026 08:00:00 GMT", 24),  # 01:00 on the day they go back
    ],
)
def test_the_next_day_of_quota_begins_in_los_angeles(date, hours):
    """The wait ends at local midnight there, on days with a change of clocks too."""
    answer = Answer("visitor.delete", 403, httpx.Headers({"date": date}), json.dumps(QUOTA).encode())
    assert _retry_after(answer) == hours * 3600


async def test_too_many_calls_a_second_are_throttled():
    """`userRateLimitExceeded` is throttling; so is the Admin API's RESOURCE_EXHAUSTED."""
    with google(quota_per_day=1) as ga:
        ga.limit(RateLimit(requests=1, per_seconds=60))
        with pytest.raises(Throttled):
            await erase(ga, erasure(kinds=(IdentifierKind.GA_CLIENT_ID, IdentifierKind.GA_USER_ID)))
        ga.heal()
        with pytest.raises(Throttled):
            await erase(ga, erasure(kinds=(IdentifierKind.EMAIL,)), user_provided_data=True)


async def test_the_throttle_states_the_vendors_limits():
    """500 calls a day, 1.5 a second, in Google's day."""
    with google() as ga:
        async with connected(ga) as connector:
            limits = connector.throttle
    assert (limits.per_day, limits.per_second, limits.day_zone) == (500, 1.5, "America/Los_Angeles")


async def test_one_refresh_serves_all_who_wait(caplog):
    """Twenty erasures at once ask for one token, and no token, secret or grant shows in the logs."""
    caplog.set_level(logging.DEBUG)
    with google() as ga:
        async with connected(ga, **GRANT) as connector:
            await asyncio.gather(*(perform(connector, erasure()) for _ in range(20)))
            assert (ga.tokens_issued, ga.counts[UPSERT]) == (1, 20)
            assert REFRESH_TOKEN not in repr(vars(connector))
    assert not [text for text in (REFRESH_TOKEN, CLIENT_SECRET, "stand-in-token-1") if text in caplog.text]


async def test_a_token_refused_before_its_time_is_renewed_once():
    """401 leads to one new token for all calls, and to no second try after that."""
    with google() as ga:
        async with connected(ga, **GRANT) as connector:
            await perform(connector, erasure())
            ga.revoke_tokens()
            await asyncio.gather(*(perform(connector, erasure()) for _ in range(10)))
            assert ga.tokens_issued == 2
            calls = ga.counts[UPSERT]
            ga.fail(Fault(status=401, times=1000, path=DELETION_PATH))
            with pytest.raises(CredentialsRefused):
                await perform(connector, erasure())
            assert ga.counts[UPSERT] == calls + 2


async def test_a_token_is_renewed_before_it_ends():
    """A token that lives less than the margin is never used twice; a longer one is."""
    with google(token_seconds=30) as ga:
        async with connected(ga, **GRANT) as connector:
            await perform(connector, erasure())
            await perform(connector, erasure())
            assert ga.tokens_issued == 2
            ga.switches["token_seconds"] = 3599
            await perform(connector, erasure())
            await perform(connector, erasure())
            assert ga.tokens_issued == 3


async def test_a_refused_static_token_asks_its_owner():
    """There is nobody to ask for another one: CredentialsRefused, after one call."""
    with google() as ga:
        ga.revoke_tokens()
        with pytest.raises(CredentialsRefused, match="access token"):
            await erase(ga, erasure())
        assert ga.calls == 1


@pytest.mark.parametrize("name", ["refresh_token", "oauth_client_secret"])
async def test_a_refused_grant_asks_its_owner(name):
    """`invalid_grant` and `invalid_client` are CredentialsRefused, and the secret is not quoted."""
    with google() as ga:
        with pytest.raises(CredentialsRefused) as caught:
            await erase(ga, erasure(), **{**GRANT, name: "wrong-secret"})
        assert "wrong-secret" not in str(caught.value)
        assert ga.counts[UPSERT] == 0


@pytest.mark.parametrize("token_states_scope", [True, False])
async def test_check_proves_what_can_be_proven(token_states_scope):
    """A grant is tried and its scopes are read where the answer states them; a static token is called unproven."""
    with google(token_states_scope=token_states_scope) as ga:
        async with connected(ga, **GRANT) as connector:
            assert ("granted" if token_states_scope else "unproven") in await connector.check()
        async with connected(ga) as connector:
            assert "unproven" in await connector.check()
        assert (ga.tokens_issued, ga.counts[UPSERT]) == (1, 0)


async def test_check_names_a_missing_scope():
    """A grant without the deletion scope is refused before the first erasure."""
    with google() as ga:
        answer = {"access_token": "t", "expires_in": 3599, "scope": "https://www.googleapis.com/auth/analytics.edit"}
        ga.fail(Fault(status=200, json=answer, path=TOKEN_PATH))
        async with connected(ga, **GRANT) as connector:
            with pytest.raises(CredentialsRefused, match=r"analytics\.user\.deletion"):
                await connector.check()


async def test_an_answer_that_promises_nothing_is_no_erasure():
    """200 without `deletionRequestTime`, or with one that has no offset, is SystemRejected."""
    for text in (None, "soon", "2026-03-05T09:00:00"):
        with google() as ga:
            ga.fail(Fault(status=200, json={"deletionRequestTime": text}))
            with pytest.raises(SystemRejected, match="deletionRequestTime"):
                await erase(ga, erasure())


async def test_rights_that_google_does_not_offer_reach_nobody():
    """Access, rectification, completion and objection are not_applicable(right_not_offered), without a call."""
    with google() as ga:
        async with connected(ga) as connector:
            for right in set(Right) - {Right.ERASURE}:
                result = await perform(connector, job_for(right, erasure().identifiers))
                assert result.outcome.reason == "right_not_offered"
        assert ga.calls == 0


async def test_the_stand_in_refuses_what_google_refuses():
    """Unknown types, a missing property and a foreign one are 400 and 403 in Google's shape."""
    with google() as ga:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {ACCESS_TOKEN}"}) as outsider:
            url = f"{ga.url}{DELETION_PATH}/userDeletion/userDeletionRequests:upsert"
            found = []
            for kind, prop in (("COOKIE", PROPERTY_ID), ("CLIENT_ID", None), ("CLIENT_ID", "1")):
                answer = await outsider.post(url, json={"id": {"type": kind, "userId": "1.2"}, "propertyId": prop})
                found.append((answer.status_code, answer.json()["error"]["errors"][0]["reason"]))
    assert found == [(400, "invalidParameter"), (400, "invalidParameter"), (403, "insufficientPermissions")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("GA1.2.111.222", "111.222"),
        ("GA1.1-2.111.222", "111.222"),
        (" 111.222 ", "111.222"),
        ("0b9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a", "0b9fe1a4-5f0e-4c1b-8a3d-1f2e3d4c5b6a"),
    ],
)
def test_client_ids_come_out_of_cookies(value, expected):
    """The client id is what follows version and domain depth."""
    assert client_id(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("A.D.A@Gmail.com", "ada@gmail.com"),
        ("a.da@googlemail.com", "ada@googlemail.com"),
        (" A.da @example.org", "a.da@example.org"),
        ("a.da@gmail.com.example.org", "a.da@gmail.com.example.org"),
    ],
)
def test_addresses_are_normalised_as_google_does(value, expected):
    """Lower case, no spaces, and no dots before the @ at Gmail only."""
    assert user_provided_email(value) == expected


def test_numbers_are_normalised_as_google_does():
    """Digits with a leading plus; a national number is none of Google's."""
    assert user_provided_phone("+1 (555) 010-0141") == "+15550100141"
    assert user_provided_phone("0555 0141") is None


@pytest.mark.parametrize(
    "tokens",
    [{}, {"OAUTH_CLIENT_ID": "a", "REFRESH_TOKEN": "b"}, {"ACCESS_TOKEN": "a", "REFRESH_TOKEN": "secret-b"}],
)
def test_there_is_exactly_one_way_to_a_token(monkeypatch, tokens):
    """None, half a grant, or two ways are a configuration error that quotes no secret."""
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_PROPERTY_ID", PROPERTY_ID)
    for name, value in tokens.items():
        monkeypatch.setenv(f"DSR_GOOGLE_ANALYTICS_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert "access_token" in str(caught.value)
    assert "secret-b" not in str(caught.value)


def test_the_environment_is_enough(monkeypatch):
    """Property and token from the environment build the connector; a pattern and seconds are read as such."""
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_PROPERTY_ID", PROPERTY_ID)
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_ACCESS_TOKEN", "a")
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_PURGE_HORIZON_SECONDS", "20")
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_CLIENT_ID_PATTERN", r"v-\d+")
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_USER_PROVIDED_DATA", "true")
    assert IdentifierKind.EMAIL in build().needs
    monkeypatch.setenv("DSR_GOOGLE_ANALYTICS_USER_PROVIDED_DATA", "false")
    assert IdentifierKind.EMAIL not in build().needs
