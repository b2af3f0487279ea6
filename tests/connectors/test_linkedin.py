"""The LinkedIn connector against its stand-in, in every position of every unverified switch."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.linkedin.connector import LinkedInSettings, build
from connectors.systems.linkedin.standin import (
    ACCESS_TOKEN,
    ACCOUNT_IDS,
    CLIENT_ID,
    CLIENT_SECRET,
    REFRESH_TOKEN,
    TOKEN,
    VERSION,
    LinkedInStandIn,
)
from connectors.systems.linkedin.standin import build as build_standin
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm, IdentifierKind, OutcomeCode, Right

GRANT = {"oauth_client_id": CLIENT_ID, "oauth_client_secret": CLIENT_SECRET, "refresh_token": REFRESH_TOKEN}
USERS = "POST /rest/dmpSegments/{segment_id:int}/users"
UPLOADS = [{"type": "USER_LIST_UPLOAD", "source": "LIST_UPLOAD", "name": "From a file"}]
ALWAYS = ("insight_tag_by_consent", "later_uploads_not_covered")


def settings_for(url, **settings):
    token = {} if "refresh_token" in settings else {"access_token": ACCESS_TOKEN}
    defaults = {"api_version": VERSION, "account_ids": ACCOUNT_IDS, "timeout_seconds": 5, "calls_per_second": 1000.0}
    return LinkedInSettings(base_url=url, token_url=url + TOKEN, **{**defaults, **token, **settings})


def hashed(person):
    return {IdentifierKind.EMAIL: (in_form(person.email, IdentifierForm.SHA256),)}


class LinkedInMixin:
    reports_absence = False
    settings: ClassVar[dict[str, Any]] = {}
    switches: ClassVar[dict[str, Any]] = {}
    segments: ClassVar[list[dict[str, str]]] = []

    def stand_in(self, clock):
        standin = LinkedInStandIn(clock)
        standin.switches.update(self.switches)
        standin.seed({"segments": self.segments})
        return standin

    def build(self, base_url, *, timeout_seconds):
        return build(settings_for(base_url, timeout_seconds=timeout_seconds, **self.settings))

    def plant(self, system, person, *, records=1):
        system.seed({"members": [{"email": person.email, "segments": list(range(max(records, 2)))}]})

    def holds(self, system, person):
        return bool(system.holding(person.email))

    def identifiers(self, connector, person):
        return hashed(person)


class TestLinkedInContract(LinkedInMixin, HttpConnectorContract):
    """The whole contract with hashes, as the registry hands them over, and a token set by hand."""


class TestLinkedInContractOtherwise(LinkedInMixin, HttpConnectorContract):
    """The whole contract with addresses, the refresh grant, pages of one, no totals, and absence told."""

    reports_absence = True
    settings: ClassVar[dict[str, Any]] = {**GRANT, "page_size": 1}
    switches: ClassVar[dict[str, Any]] = {"states_total": False, "absent_status": 404}

    def identifiers(self, connector, person):
        return person.known_by(IdentifierKind.EMAIL)


class TestLinkedInContractWithUploads(LinkedInMixin, HttpConnectorContract):
    """The whole contract where an audience that is filled from a file is left to a person."""

    segments: ClassVar[list[dict[str, str]]] = UPLOADS


@contextmanager
def linkedin(clock=None, *, segments=(), **switches):
    standin = LinkedInStandIn(clock or ManualClock(NOW))
    standin.switches.update(switches)
    standin.seed({"segments": segments})
    with serve(standin) as standin.url:
        yield standin


def connected(standin, **settings):
    return aclosing(build(settings_for(standin.url, **settings)))


def job(right=Right.ERASURE, person=ADA):
    return job_for(right, hashed(person))


async def do(standin, job, **settings):
    async with connected(standin, **settings) as connector:
        return await perform(connector, job)


@pytest.mark.parametrize("right", [Right.ERASURE, Right.OBJECTION])
async def test_a_person_leaves_every_audience_by_a_date(right):
    """Each audience of each account takes the removal now and has matched it by the date; the bystander stays in all."""
    clock = ManualClock(NOW)
    with linkedin(clock, removal_seconds=48 * 3600) as ads:
        ads.seed({"members": [{"email": ADA.email}, {"email": BOB.email}]})
        result = await do(ads, job(right))
        assert (result.outcome.code, result.outcome.count) == (OutcomeCode.FULFILLED, 4)
        assert result.outcome.effective_by == (NOW + timedelta(hours=48)).date()
        assert result.notes == (*ALWAYS, "membership_not_readable")
        assert len(ads.holding(ADA.email)) == 4
        clock.advance(48 * 3600)
        assert ads.holding(ADA.email) == []
        assert len(ads.holding(BOB.email)) == 4


@pytest.mark.parametrize("states_total", [True, False])
@pytest.mark.parametrize("page_size", [1, 3, 100])
async def test_every_page_of_audiences_is_read(states_total, page_size):
    """Whatever the page size, and with or without a total, no audience is left out."""
    with linkedin(segments=[{"name": f"More {n}"} for n in range(7)], states_total=states_total) as ads:
        ads.seed({"members": [{"email": ADA.email}]})
        assert (await do(ads, job(), page_size=page_size)).outcome.count == 11
        assert ads.holding(ADA.email) == []


async def test_a_list_that_changes_while_it_is_read_is_read_later():
    """An audience that is deleted meanwhile pushes another past the reader: SystemUnavailable, nobody is called removed."""
    with linkedin(segments=[{}] * 3) as ads:

        def delete(start):
            if start == 2:
                ads.before_list = None
                del ads.segments[9000]

        ads.before_list = delete
        with pytest.raises(SystemUnavailable, match="changed"):
            await do(ads, job(), page_size=2)
        assert ads.counts[USERS] == 0


@pytest.mark.parametrize("segment", [{"type": "USER_LIST_UPLOAD"}, {"source": "LIST_UPLOAD"}])
async def test_an_audience_from_a_file_is_left_to_a_person(segment):
    """The person leaves the others at once; the whole is notified and never called done, whichever field says so."""
    with linkedin(segments=[segment]) as ads:
        ads.seed({"members": [{"email": ADA.email}]})
        result = await do(ads, job())
        assert result.outcome.code is OutcomeCode.NOTIFIED
        assert result.notes == (*ALWAYS, "membership_not_readable", "list_upload_audiences_by_hand")
        assert ads.holding(ADA.email) == [9005]


@pytest.mark.parametrize("archived_refuses", [False, True])
async def test_an_archived_audience_is_asked_unless_it_is_known_to_refuse(archived_refuses):
    """Asked, it may refuse, after all others were done; with the setting it is left to a person."""
    with linkedin(segments=[{"status": "ARCHIVED"}, {}], archived_refuses=archived_refuses) as ads:
        ads.seed({"members": [{"email": ADA.email}]})
        if archived_refuses:
            with pytest.raises(SystemRejected):
                await do(ads, job())
            assert ads.holding(ADA.email) == [9005]
            result = await do(ads, job(), skipped_statuses=["ARCHIVED"])
            assert result.outcome.code is OutcomeCode.NOTIFIED
            assert "inactive_audiences_by_hand" in result.notes
        else:
            assert (await do(ads, job())).outcome.count == 6
            assert ads.holding(ADA.email) == []


async def test_without_audiences_of_people_nothing_is_held():
    """Audiences of companies hold nobody: nothing_held, with the note on the Insight Tag, and no removal is sent."""
    with linkedin() as ads:
        for segment in ads.segments.values():
            segment.type = "COMPANY"
        result = await do(ads, job())
        assert (result.outcome.code, result.notes) == (OutcomeCode.NOTHING_HELD, ALWAYS)
        assert ads.counts[USERS] == 0


@pytest.mark.parametrize("absent_status", [201, 404])
async def test_a_person_who_is_no_member_is_taken_or_absent(absent_status):
    """201 says nothing about membership; 404 of one person counts as absent, unless the setting says otherwise."""
    with linkedin(absent_status=absent_status) as ads:
        result = await do(ads, job())
        assert result.outcome.code is (OutcomeCode.FULFILLED if absent_status == 201 else OutcomeCode.NOTHING_HELD)
        if absent_status == 404:
            with pytest.raises(SystemRejected):
                await do(ads, job(), absent_statuses=())


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, SystemRejected),
        (422, SystemRejected),
        (401, CredentialsRefused),
        (403, CredentialsRefused),
        (408, SystemUnavailable),
        (429, Throttled),
        (500, SystemUnavailable),
    ],
)
async def test_each_persons_own_status_is_read(status, error):
    """The whole answer is 200 and one person's status is not: that person was not removed."""
    with linkedin(element_status=status) as ads:
        ads.seed({"members": [{"email": ADA.email}]})
        with pytest.raises(error):
            await do(ads, job())
        assert len(ads.holding(ADA.email)) == 4


@pytest.mark.parametrize("elements", [[], [{"status": 201}] * 2, [{}], [{"status": "201"}], [{"status": True}]])
async def test_an_answer_without_a_status_for_each_person_is_no_removal(elements):
    """Too few, too many, none, or no number: SystemRejected."""
    with linkedin() as ads:
        ads.fail(Fault(status=200, json={"elements": elements}, path="/users", times=10))
        with pytest.raises(SystemRejected):
            await do(ads, job())


async def test_an_audience_deleted_meanwhile_holds_nobody():
    """404 counts only if the audience itself is gone; one that is there and answers 404 is looked at."""
    with linkedin() as ads:
        ads.seed({"members": [{"email": ADA.email}]})

        def delete(start):
            del start
            ads.before_list = None
            ads.fail(Fault(status=404, path="/9000", times=2))

        ads.before_list = delete
        assert (await do(ads, job())).outcome.count == 3
        ads.fail(Fault(status=404, path="/9000/users"))
        with pytest.raises(SystemRejected, match="is there"):
            await do(ads, job())


@pytest.mark.parametrize("retired_status", [426, 400])
async def test_a_version_that_is_switched_off_is_named(retired_status):
    """426 names the setting; any other refusal is a refusal, in `check` and in an order."""
    with linkedin(versions=["209901"], retired_status=retired_status) as ads:
        async with connected(ads) as connector:
            for call in (connector.check(), perform(connector, job())):
                with pytest.raises(SystemRejected, match="DSR_LINKEDIN_API_VERSION" if retired_status == 426 else "400"):
                    await call
        async with connected(ads, api_version="209901") as connector:
            assert "version 209901" in await connector.check()


async def test_only_the_hash_leaves():
    """An address is hashed after trimming and lower case; a hash is sent as it is, and both at once are one person."""
    with linkedin() as ads:
        ads.seed({"members": [{"email": ADA.email}]})
        (digest,) = hashed(ADA)[IdentifierKind.EMAIL]
        both = {IdentifierKind.EMAIL: (f"  {ADA.email.upper()} ", digest.upper(), digest)}
        result = await do(ads, job_for(Right.ERASURE, both))
        assert result.outcome.count == 4
        assert ads.holding(ADA.email) == []


async def test_one_refresh_serves_all_who_wait(caplog):
    """Ten orders at once ask for one token; an ended one is renewed once; no token and no secret shows."""
    caplog.set_level(logging.DEBUG)
    clock = ManualClock(NOW)
    with linkedin(clock) as ads:
        async with connected(ads, **GRANT) as connector:
            await asyncio.gather(*(perform(connector, job()) for _ in range(10)))
            assert ads.tokens_issued == 1
            clock.advance(5184001)
            await asyncio.gather(*(perform(connector, job()) for _ in range(5)))
            assert ads.tokens_issued == 2
            assert REFRESH_TOKEN not in repr(vars(connector))
        with pytest.raises(CredentialsRefused, match="access token"):
            await do(ads, job(), access_token="an-old-token")
    assert not [text for text in (REFRESH_TOKEN, CLIENT_SECRET, "stand-in-token-1") if text in caplog.text]


async def test_check_counts_audiences_and_meets_a_foreign_account():
    """The line counts what can be done by API and by hand; an account the token may not see is CredentialsRefused."""
    with linkedin(segments=UPLOADS) as ads:
        async with connected(ads) as connector:
            assert await connector.check() == f"version {VERSION}, 2 account(s): 4 audience(s) by API, 1 by hand"
        async with connected(ads, account_ids=["999"]) as connector:
            with pytest.raises(CredentialsRefused):
                await connector.check()
        assert ads.counts[USERS] == 0


async def test_too_many_calls_are_throttled():
    """600 a minute; the throttle stays below, and a day's ceiling from the portal begins at midnight UTC."""
    with linkedin() as ads:
        ads.limit(RateLimit(requests=1, per_seconds=60, path="/users"))
        with pytest.raises(Throttled):
            await do(ads, job())
    limits = build(settings_for("http://127.0.0.1", calls_per_second=8.0, calls_per_day=1000)).throttle
    assert limits.per_second * 60 <= 600
    assert (limits.per_day, limits.day_zone) == (1000, "UTC")
    assert build_standin()._limit.requests == 600


async def test_rights_that_linkedin_does_not_offer_reach_nobody():
    """Access and the rest are not_applicable(right_not_offered), without a call."""
    with linkedin() as ads:
        async with connected(ads) as connector:
            for right in set(Right) - {Right.ERASURE, Right.OBJECTION}:
                assert (await perform(connector, job(right))).outcome.reason == "right_not_offered"
        assert ads.calls == 0


async def test_the_stand_in_refuses_what_linkedin_refuses():
    """No version, a URN with bare colons, a removal from a file's audience and a body of another shape are refused."""
    with linkedin(segments=UPLOADS) as ads:
        headers = {
            "authorization": f"Bearer {ACCESS_TOKEN}",
            "linkedin-version": VERSION,
            "x-restli-protocol-version": "2.0.0",
            "x-restli-method": "BATCH_CREATE",
        }
        user = {"action": "REMOVE", "userIds": [{"idType": "SHA256_EMAIL", "idValue": "0" * 64}]}
        async with httpx.AsyncClient(base_url=ads.url, headers=headers) as outsider:
            bare = "/rest/dmpSegments?q=account&account=urn:li:sponsoredAccount:501"
            answers = [
                await outsider.get("/rest/dmpSegments/9000", headers={"linkedin-version": "202001"}),
                await outsider.get(bare),
                await outsider.post("/rest/dmpSegments/9005/users", json={"elements": [user]}),
                await outsider.post("/rest/dmpSegments/9000/users", json={"elements": [{**user, "action": "DROP"}]}),
                await outsider.post("/rest/dmpSegments/1/users", json={"elements": [user]}),
            ]
    assert [answer.status_code for answer in answers] == [426, 400, 400, 400, 404]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ACCESS_TOKEN": "secret-a", "API_VERSION": "2026-06"},
        {"ACCESS_TOKEN": "secret-a", "ACCOUNT_IDS": "[]"},
        {"ACCESS_TOKEN": "secret-a", "REFRESH_TOKEN": "secret-b"},
        {"OAUTH_CLIENT_ID": "a", "REFRESH_TOKEN": "secret-b"},
    ],
)
def test_a_wrong_setting_names_itself(monkeypatch, wrong):
    """A version of another form, no account, and two or half ways to a token are named; secrets are not quoted."""
    values = {"API_VERSION": VERSION, "ACCOUNT_IDS": '["501"]', **wrong}
    for name, value in values.items():
        monkeypatch.setenv(f"DSR_LINKEDIN_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert "secret-" not in str(caught.value)
    for name in wrong:
        monkeypatch.delenv(f"DSR_LINKEDIN_{name}")
    monkeypatch.setenv("DSR_LINKEDIN_ACCESS_TOKEN", "a")
    monkeypatch.setenv("DSR_LINKEDIN_API_VERSION", VERSION)
    monkeypatch.setenv("DSR_LINKEDIN_ACCOUNT_IDS", '["501"]')
    assert build().rights == {Right.ERASURE, Right.OBJECTION}
