"""The Unbounce connector against its stand-in, in every position of every unverified switch."""

from __future__ import annotations

import json
import re
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.unbounce.connector import UnbounceSettings, build
from connectors.systems.unbounce.standin import (
    API_KEY,
    CLIENT_ID,
    CLIENT_SECRET,
    PAGES,
    REFRESH_TOKEN,
    TOKEN,
    UnbounceStandIn,
)
from connectors.systems.unbounce.standin import build as build_standin
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

GRANT = {
    "oauth_client_id": CLIENT_ID,
    "oauth_client_secret": CLIENT_SECRET,
    "refresh_token": REFRESH_TOKEN,
    "redirect_uri": "https://example.org/oauth",
}
KEY = {"api_key": API_KEY}
POST = "POST /pages/{page_id}/lead_deletion_request"
CAMPAIGN, EVENT_A, EVENT_B = PAGES


def settings_for(url, **settings):
    credentials = {} if settings.keys() & {"api_key", "access_token"} else GRANT
    defaults = {"timeout_seconds": 5, "calls_per_second": 1000.0, "token_url": url + TOKEN}
    return UnbounceSettings(base_url=url, **{**defaults, **credentials, **settings})


def lead(person, page_id=CAMPAIGN, **form):
    fields = {"e_mail_adres": person.email, "name": f"{person.first_name} {person.last_name}", "phone": person.phone}
    return {"page_id": page_id, "form": {**fields, **form}, "cookies": {"ubvt": [f"visitor-{person.first_name}"]}}


class UnbounceMixin:
    settings: ClassVar[dict[str, Any]] = {}
    switches: ClassVar[dict[str, Any]] = {}

    def stand_in(self, clock):
        standin = UnbounceStandIn(clock)
        standin.switches.update(self.switches)
        return standin

    def build(self, base_url, *, timeout_seconds):
        return build(settings_for(base_url, timeout_seconds=timeout_seconds, **self.settings))

    def plant(self, system, person, *, records=1):
        pages = list(PAGES)
        system.seed({"leads": [lead(person, pages[n % len(pages)]) for n in range(records)]})

    def holds(self, system, person):
        return bool(system.holding(person.email))


class TestUnbounceContract(UnbounceMixin, HttpConnectorContract):
    """The whole contract with OAuth, tokens that end in between, and 403 for those that have."""


class TestUnbounceContractOtherwise(UnbounceMixin, HttpConnectorContract):
    """The whole contract with an API key that may delete, pages of two and the other statuses."""

    settings: ClassVar[dict[str, Any]] = {**KEY, "page_size": 2, "short_page_ends": True}
    switches: ClassVar[dict[str, Any]] = {"api_key_may_delete": True, "deletion_status": 202, "stale_status": 401}


@pytest.fixture
def clock():
    return ManualClock(NOW)


@contextmanager
def unbounce(clock=None, **switches):
    standin = UnbounceStandIn(clock or ManualClock(NOW))
    standin.switches.update(switches)
    with serve(standin) as standin.url:
        yield standin


def connected(standin, **settings):
    return aclosing(build(settings_for(standin.url, **settings)))


def job(right=Right.ERASURE, person=ADA):
    return job_for(right, person.known_by(IdentifierKind.EMAIL))


async def do(standin, job, **settings):
    async with connected(standin, **settings) as connector:
        return await perform(connector, job)


async def finished(standin, result, **settings):
    """Poll to the end, each time with a connector that remembers nothing, as after a restart."""
    while result.outcome.code is OutcomeCode.ACCEPTED:
        standin.clock.advance(3600)
        async with connected(standin, **settings) as connector:
            result = await connector.poll(replace(job(), now=standin.clock.now()), result.handle)
    return result


async def test_any_field_of_any_page_finds_the_person_in_any_case():
    """Forms name their fields themselves and values are lists: the address is found wherever it stands as a whole value."""
    with unbounce() as account:
        leads = [lead(BOB, contact=["other", ADA.email.upper()]), lead(ADA, EVENT_B), lead(BOB, remark=f"ask {ADA.email}")]
        account.seed({"leads": [*leads, {"form": {"any": f"  {ADA.email} "}}]})
        result = await do(account, job(Right.ACCESS))
        assert result.outcome.count == 3
        content = result.exports[0].content
        assert [(page["page_id"], page["page_name"], len(page["leads"])) for page in content] == [
            (CAMPAIGN, PAGES[CAMPAIGN], 2),
            (EVENT_B, PAGES[EVENT_B], 1),
        ]
        assert content[1]["leads"][0]["submitter_ip"] == "192.0.2.1"
        assert content[1]["leads"][0]["extra_data"]["cookies"]


@pytest.mark.parametrize("max_limit", [1000, 3, 2])
@pytest.mark.parametrize("page_size", [2, 5, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
async def test_every_lead_of_a_long_list_is_read_once(max_limit, page_size, count):
    """Whatever the page size, and whatever the server cuts it to, each lead is found."""
    with unbounce(max_limit=max_limit) as account:
        account.seed({"leads": [lead(ADA) for _ in range(count)]})
        result = await do(account, job(Right.ACCESS), page_size=page_size, **KEY)
        assert result.outcome.count == count


@pytest.mark.parametrize("short_page_ends", [False, True])
async def test_trusting_short_pages_halves_the_calls(short_page_ends):
    """Three pages with few leads are four lists: two calls each, or one each where the vendor's limit is trusted."""
    with unbounce() as account:
        account.seed({"leads": [lead(ADA)] * 3})
        assert (await do(account, job(Right.ACCESS), short_page_ends=short_page_ends, **KEY)).outcome.count == 3
        # The two pages without a lead end at once.
        assert account.calls == (4 if short_page_ends else 6)


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_a_list_that_moves_under_the_reader_is_read_again(gone):
    """A lead deleted before the reader's place would push the person's lead past him: he begins again and finds it."""
    with unbounce() as account:
        account.seed({"leads": [lead(BOB)] * 3 + [lead(ADA)]})
        ids = list(account.pages[CAMPAIGN].leads)

        def delete(page_id, offset):
            if offset == 2:
                account.before_leads = None
                del account.pages[page_id].leads[ids[gone]]

        account.before_leads = delete
        assert (await do(account, job(Right.ACCESS), page_size=3, **KEY)).outcome.count == 1


async def test_a_list_that_never_stands_still_is_read_later():
    """After some new beginnings the order waits: SystemUnavailable, never nothing_held."""
    with unbounce() as account:
        account.seed({"leads": [lead(BOB)] * 30})

        def delete(page_id, offset):
            if offset:
                del account.pages[page_id].leads[next(iter(account.pages[page_id].leads))]

        account.before_leads = delete
        with pytest.raises(SystemUnavailable, match="kept moving"):
            await do(account, job(), page_size=3, **KEY)


async def test_two_systems_share_an_account_without_overlap_or_gap():
    """The pages that one instance names are all that the other leaves out."""
    events = {"page_name_pattern": re.compile("Event: .*")}
    with unbounce() as account:
        account.seed({"leads": [lead(ADA, page_id) for page_id in PAGES]})
        named = await do(account, job(Right.ACCESS), **events, **KEY)
        others = await do(account, job(Right.ACCESS), **events, other_pages=True, **KEY)
        assert [page["page_id"] for page in named.exports[0].content] == [EVENT_A, EVENT_B]
        assert [page["page_id"] for page in others.exports[0].content] == [CAMPAIGN]
        both = await do(account, job(Right.ACCESS), page_name_pattern=re.compile("Event: open day"), page_ids=[CAMPAIGN], **KEY)
        assert [page["page_id"] for page in both.exports[0].content] == [CAMPAIGN, EVENT_B]
        assert (await finished(account, await do(account, job(), **events), **events)).outcome.count == 2
        assert [lead_["page_id"] for lead_ in account.state()["pages"][CAMPAIGN]] == [CAMPAIGN]


async def test_a_page_that_the_list_does_not_show_is_read_by_its_id():
    """A pop-up named by id is read, whether or not the list shows it; without its id it is not known."""
    for kinds in (["page"], ["page", "popup"]):
        with unbounce(listed_kinds=kinds) as account:
            account.seed({"pages": {"popup-1": {"name": "Pop-up", "kind": "popup"}}, "leads": [lead(ADA, "popup-1")]})
            by_id = await do(account, job(Right.ACCESS), page_ids=["popup-1"], **KEY)
            assert by_id.outcome.count == 1
            every = await do(account, job(Right.ACCESS), **KEY)
            assert every.outcome.code is (OutcomeCode.FULFILLED if "popup" in kinds else OutcomeCode.NOTHING_HELD)


@pytest.mark.parametrize("named", [{"page_ids": ["page-campain"]}, {"page_name_pattern": re.compile("Evnt.*")}])
async def test_a_name_that_names_nothing_is_no_absence(named):
    """A misspelt id or pattern is for a person to look at, never nothing_held."""
    with unbounce() as account:
        account.seed({"leads": [lead(ADA)]})
        with pytest.raises(SystemRejected):
            await do(account, job(), **named, **KEY)


async def test_a_page_deleted_while_it_is_read_holds_nothing():
    """404 for a page that was listed counts only if the page itself is gone too."""
    with unbounce() as account:
        account.seed({"leads": [lead(ADA, CAMPAIGN), lead(ADA, EVENT_A)]})

        def delete(page_id, offset):
            del offset
            if page_id == CAMPAIGN:
                account.before_leads = None
                account.fail(Fault(status=404, path=f"/pages/{EVENT_A}/leads"))
                del account.pages[EVENT_A]

        account.before_leads = delete
        assert (await do(account, job(Right.ACCESS), **KEY)).outcome.count == 1
        account.fail(Fault(status=404, path=f"/pages/{CAMPAIGN}/leads"))
        with pytest.raises(SystemRejected):
            await do(account, job(Right.ACCESS), **KEY)


@pytest.mark.parametrize("deletion_status", [200, 201, 202])
async def test_erasure_is_accepted_first_and_done_page_by_page(deletion_status, clock):
    """One deletion runs at a time; its id is in the handle before the next is started, and no restart starts one again."""
    with unbounce(clock, deletion_status=deletion_status) as account:
        account.seed({"leads": [lead(ADA, CAMPAIGN), lead(ADA, EVENT_A), lead(ADA, EVENT_A), lead(BOB)]})
        result = await do(account, job())
        assert result.outcome.code is OutcomeCode.ACCEPTED
        assert result.outcome.expected_by == NOW + timedelta(days=1)
        assert (account.counts[POST], json.loads(result.handle)["deletion"]) == (1, "deletion-1")
        assert len(account.holding(ADA.email)) == 3
        async with connected(account) as connector:
            for _ in range(3):
                again = await connector.poll(job(), result.handle)
                assert (again.handle, again.outcome) == (result.handle, result.outcome)
            assert account.counts[POST] == 1
            clock.advance(60)
            second = await connector.poll(job(), result.handle)
        assert second.outcome == result.outcome
        assert json.loads(second.handle)["deletion"] == "deletion-2"
        done = await finished(account, second)
        assert (done.outcome.code, done.outcome.count, account.counts[POST]) == (OutcomeCode.FULFILLED, 3, 2)
        assert done.notes == ("copies_in_integrations_stay",)
        assert not account.holding(ADA.email)
        assert account.holding(BOB.email)


async def test_the_handle_shows_nobody(clock):
    """It names pages and leads, which the runtime seals; its value in a log or a repr would show no person."""
    with unbounce(clock) as account:
        account.seed({"leads": [lead(ADA)]})
        result = await do(account, job())
        assert not traces_in(result.handle + repr(result), ADA)


async def test_a_failed_deletion_is_a_failed_job(clock):
    """`failed`, and an id that the page no longer knows, are SystemRejected(job_failed); the leads are still there."""
    with unbounce(clock, deletion_result="failed") as account:
        account.seed({"leads": [lead(ADA)]})
        result = await do(account, job())
        with pytest.raises(SystemRejected) as caught:
            await finished(account, result)
        assert caught.value.reason == "job_failed"
        assert account.holding(ADA.email)
        account.deletions.clear()
        with pytest.raises(SystemRejected) as caught:
            await finished(account, result)
        assert caught.value.reason == "job_failed"


async def test_a_deletion_that_skips_a_lead_is_not_believed(clock):
    """Completed with fewer than asked, and a lead still there: verification_failed, also with verification switched off."""
    for verify in (True, False):
        with unbounce(clock) as account:
            account.seed({"leads": [lead(ADA), lead(ADA)]})
            account.switches["undeletable"] = account.holding(ADA.email)[:1]
            result = await do(account, job(), verify_erasure=verify)
            with pytest.raises(SystemUnavailable) as caught:
                await finished(account, result, verify_erasure=verify)
            assert caught.value.reason == "verification_failed"


async def test_fewer_deletions_than_asked_are_noted_where_the_leads_are_gone(clock):
    """Somebody else deleted one lead meanwhile: fulfilled with a note; all of them: nothing_held with the same note."""
    for left, code in ((1, OutcomeCode.FULFILLED), (0, OutcomeCode.NOTHING_HELD)):
        with unbounce(clock) as account:
            account.seed({"leads": [lead(ADA), lead(ADA)]})
            result = await do(account, job())
            for lead_id in account.holding(ADA.email)[left:]:
                del account.pages[CAMPAIGN].leads[lead_id]
            done = await finished(account, result)
            assert done.outcome.code is code
            assert done.notes == ("fewer_deleted_than_asked", "copies_in_integrations_stay")


async def test_a_second_request_for_the_same_leads_ends_well(clock):
    """A process killed between Unbounce's answer and the journal starts a second deletion; both end, the person is gone."""
    with unbounce(clock) as account:
        account.seed({"leads": [lead(ADA)]})
        await do(account, job())
        second = await do(account, job())
        assert json.loads(second.handle)["deletion"] == "deletion-2"
        done = await finished(account, second)
        assert done.outcome.code in {OutcomeCode.NOTHING_HELD, OutcomeCode.FULFILLED}
        assert "fewer_deleted_than_asked" in done.notes
        assert not account.holding(ADA.email)


async def test_too_many_leads_of_one_person_are_looked_at():
    """More than max_leads: a flood under somebody's address is not deleted blindly; nothing was started."""
    with unbounce() as account:
        account.seed({"leads": [lead(ADA)] * 4})
        with pytest.raises(SystemRejected, match="DSR_UNBOUNCE_MAX_LEADS"):
            await do(account, job(), max_leads=3)
        assert account.counts[POST] == 0


async def test_a_handle_from_elsewhere_is_refused_without_being_quoted():
    """What is no handle of ours is SystemRejected and is not shown."""
    with unbounce() as account:
        async with connected(account) as connector:
            for handle in ("secret-handle", json.dumps({"now": {"page": "secret-handle", "leads": []}})):
                with pytest.raises(SystemRejected) as caught:
                    await connector.poll(job(), handle)
                assert "secret-handle" not in str(caught.value)
                assert caught.value.__suppress_context__
        assert account.calls == 0


@pytest.mark.parametrize("may_delete", [False, True])
async def test_an_api_key_reads_and_deletes_only_if_the_vendor_lets_it(may_delete, clock):
    """Refused, the error says that OAuth is needed; where the key may delete the same order is done."""
    with unbounce(clock, api_key_may_delete=may_delete) as account:
        account.seed({"leads": [lead(ADA)]})
        assert (await do(account, job(Right.ACCESS), **KEY)).outcome.count == 1
        if may_delete:
            done = await finished(account, await do(account, job(), **KEY), **KEY)
            assert done.outcome.code is OutcomeCode.FULFILLED
        else:
            with pytest.raises(CredentialsRefused, match="OAuth"):
                await do(account, job(), **KEY)


@pytest.mark.parametrize("stale_status", [401, 403])
async def test_an_ended_token_is_renewed_whatever_its_status(stale_status, clock):
    """401 and 403 lead to one new token; a static one is for its owner."""
    with unbounce(clock, stale_status=stale_status) as account:
        async with connected(account) as connector:
            await connector.check()
            clock.advance(601)
            assert (await perform(connector, job())).outcome.code is OutcomeCode.NOTHING_HELD
            assert account.tokens_issued == 2
        with pytest.raises(CredentialsRefused, match="access token"):
            await do(account, job(), access_token="an-old-token")


@pytest.mark.parametrize("stays_good", [True, False])
async def test_a_replaced_refresh_token_outlives_the_process_only_with_its_file(stays_good, tmp_path):
    """Unbounce issues a new refresh token at each refresh: where the old one ends, a restart needs the file."""
    kept = {"refresh_token_file": tmp_path / "refresh.json"}
    with unbounce(replaced_token_stays_good=stays_good) as account:
        for _ in range(2):
            assert (await do(account, job(), **kept)).outcome.code is OutcomeCode.NOTHING_HELD
        if stays_good:
            assert (await do(account, job())).outcome.code is OutcomeCode.NOTHING_HELD
        else:
            with pytest.raises(CredentialsRefused):
                await do(account, job())


async def test_check_counts_pages_and_says_what_a_key_may_not():
    """The line names the number of pages and the kind of credentials; a wrong key is CredentialsRefused."""
    with unbounce() as account:
        async with connected(account, page_ids=[CAMPAIGN], **KEY) as connector:
            assert await connector.check() == "1 page chosen; API key, which by the vendor's page may not delete"
        async with connected(account) as connector:
            assert await connector.check() == "3 pages chosen; OAuth"
        async with connected(account, api_key="wrong-key") as connector:
            with pytest.raises(CredentialsRefused) as caught:
                await connector.check()
        assert "wrong-key" not in str(caught.value)


async def test_too_many_calls_are_throttled():
    """500 a minute, without a header that says how long to wait; the throttle stays below."""
    with unbounce() as account:
        account.limit(RateLimit(requests=2, per_seconds=60))
        with pytest.raises(Throttled) as caught:
            await do(account, job(), **KEY)
        assert caught.value.retry_after_seconds is None
    assert build(settings_for("http://127.0.0.1", calls_per_second=8.0)).throttle.per_second * 60 <= 500
    assert build_standin()._limit.requests == 500


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "d"},
        {"id": "d", "status": "x", "total_leads_deleted": True},
        {"status": "pending"},
        {"id": 1, "status": "x"},
    ],
)
async def test_a_deletion_without_an_id_or_a_status_is_not_waited_for(answer):
    """What cannot be asked after was not started as far as we can prove: SystemRejected."""
    with unbounce() as account:
        account.seed({"leads": [lead(ADA)]})
        account.fail(Fault(status=201, json=answer, path="lead_deletion_request"))
        with pytest.raises(SystemRejected):
            await do(account, job())


async def test_a_request_that_names_no_lead_never_leaves():
    """The vendor's body can also mean all leads of a page: an empty list is refused here, and by the stand-in."""
    with unbounce(api_key_may_delete=True) as account:
        async with connected(account, **KEY) as connector:
            with pytest.raises(ValueError, match="name the leads"):
                await connector._client.request_deletion(CAMPAIGN, [])
        assert account.calls == 0
        async with httpx.AsyncClient(base_url=account.url, auth=(API_KEY, "")) as outsider:
            for body in ({"lead_ids": []}, {"all_leads": True}):
                assert (await outsider.post(f"/pages/{CAMPAIGN}/lead_deletion_request", json=body)).status_code == 422
            assert (await outsider.get("/pages/absent/leads")).status_code == 404
            assert (await outsider.get("/pages", auth=None)).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"API_KEY": "secret-a", "ACCESS_TOKEN": "secret-b"},
        {"OAUTH_CLIENT_ID": "a", "REFRESH_TOKEN": "secret-b"},
        {"API_KEY": "secret-a", "OTHER_PAGES": "true"},
        {"API_KEY": "secret-a", "PAGE_SIZE": "1"},
        {"API_KEY": "secret-a", "PAGE_NAME_PATTERN": "("},
    ],
)
def test_a_wrong_setting_names_itself(monkeypatch, wrong):
    """No credentials, two kinds, half a grant, nothing to leave out, a page of one, no pattern: named, secrets not quoted."""
    for name, value in wrong.items():
        monkeypatch.setenv(f"DSR_UNBOUNCE_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert "secret-" not in str(caught.value)


def test_the_environment_is_enough(monkeypatch):
    """A key and the naming of pages from the environment build the connector of the second system."""
    monkeypatch.setenv("DSR_UNBOUNCE_API_KEY", "a")
    monkeypatch.setenv("DSR_UNBOUNCE_PAGE_NAME_PATTERN", "Event: .*")
    monkeypatch.setenv("DSR_UNBOUNCE_PAGE_IDS", '["popup-1"]')
    monkeypatch.setenv("DSR_UNBOUNCE_OTHER_PAGES", "true")
    assert build().rights == {Right.ACCESS, Right.ERASURE}
