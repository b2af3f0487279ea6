"""The HubSpot connector against its stand-in, in every position of every unverified switch."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import pytest
from pydantic import SecretStr

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.sdk.work import entered
from connectors.systems.hubspot.connector import HubSpotConnector, HubSpotSettings, build
from connectors.systems.hubspot.standin import TOKEN, HubSpotStandIn
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right
from tests.published_shapes.fitting import FitsPublished

OBJECTS = "/crm/v3/objects/contacts"


def plant(standin, person, records=1):
    identifiers = person.identifiers
    for n in range(records):
        own = person.email if n == 0 else f"alias{n}.{person.email}"
        standin.add(
            email=own,
            hs_additional_emails="" if n == 0 else f"{person.email.lower()};other{n}@example.org",
            firstname=person.first_name,
            lastname=person.last_name,
            phone=person.phone,
            ga_client_id=identifiers[IdentifierKind.GA_CLIENT_ID],
            hotjar_user_id=identifiers[IdentifierKind.HOTJAR_USER_ID],
            account_id=identifiers[IdentifierKind.ACCOUNT_ID],
        )


def connect(base_url, **options):
    settings = {"timeout_seconds": 0.5, "calls_per_second": 1000.0} | options
    return HubSpotConnector(HubSpotSettings(base_url=base_url, token=SecretStr(TOKEN), **settings))


class HubSpotMixin:
    published = "hubspot"
    vanishing_paths = ("gdpr-delete",)
    options: ClassVar[dict] = {}

    def stand_in(self, clock):
        return HubSpotStandIn(clock)

    def build(self, base_url, *, timeout_seconds):
        return connect(base_url, timeout_seconds=timeout_seconds, **self.options)

    def plant(self, system, person, *, records=1):
        plant(system, person, records)

    def holds(self, system, person):
        return bool(system.holding(person.email))

    def identifiers(self, connector, person):
        return {IdentifierKind.EMAIL: (person.email,)}


class TestHubSpotContract(FitsPublished, HubSpotMixin, HttpConnectorContract):
    """The whole contract with the default settings."""


class TestHubSpotContractOnV3(FitsPublished, HubSpotMixin, HttpConnectorContract):
    """The whole contract on the older subscriptions API, with pages of one, loose tokens and the other repeat behaviours."""

    options: ClassVar[dict] = {"subscriptions_api": "v3", "page_size": 1, "newsletter_ids": (1,)}

    def stand_in(self, clock):
        standin = HubSpotStandIn(clock)
        standin.switches |= {"loose_tokens": True, "gdpr_delete_unknown_id": 204, "v3_repeat_status": 200, "page_size": 1}
        return standin


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def account(clock):
    standin = HubSpotStandIn(clock)
    with serve(standin) as standin.base_url:
        yield standin


@pytest.fixture
async def hubspot(account):
    connector = connect(account.base_url)
    yield connector
    await connector.aclose()


def by_mail(person):
    return {IdentifierKind.EMAIL: (person.email,)}


async def test_erasure_yields_what_other_systems_need(hubspot, account):
    """Contact id, analytics client id, Hotjar id and account id come back, and are remembered before the first delete."""
    plant(account, ADA)
    remembered = []

    class Notebook:
        async def take_turn(self):
            return

        async def remember(self, found):
            assert account.counts[f"POST {OBJECTS}/gdpr-delete"] == 0
            remembered.append(found)

    with entered(Notebook()):
        result = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert remembered == [result.yielded]
    assert result.yielded[IdentifierKind.CRM_CONTACT_ID] == ("501",)
    for kind in (IdentifierKind.GA_CLIENT_ID, IdentifierKind.HOTJAR_USER_ID, IdentifierKind.ACCOUNT_ID):
        assert result.yielded[kind] == (ADA.identifiers[kind],)
    assert set(result.yielded) <= hubspot.yields


async def test_erasure_promises_the_purge_date_and_tells_of_the_blocklist(hubspot, account):
    """HubSpot purges within 30 days and keeps the address on a blocklist: the report says both."""
    plant(account, ADA)
    result = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.effective_by.isoformat() == "2026-04-04"
    assert "address_on_vendor_blocklist" in result.notes
    assert ADA.email in account.account.blocklist


async def test_an_absent_person_is_not_put_on_the_blocklist(hubspot, account):
    """Erasing somebody HubSpot never knew does not leave the address there."""
    result = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.code is OutcomeCode.NOTHING_HELD
    assert not account.account.blocklist


async def test_search_lag_does_not_hide_a_new_contact(hubspot, account):
    """A contact younger than the search index is found by its address all the same."""
    account.switches["search_lag_seconds"] = 60
    plant(account, ADA)
    result = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.count == 1
    assert not account.holding(ADA.email)


@pytest.mark.parametrize("unknown", [404, 204])
async def test_a_repeat_while_search_still_shows_the_erased_contact_succeeds(hubspot, account, unknown, clock):
    """Search shows erased contacts for a while; deleting them again is a success either way."""
    account.switches |= {"search_lag_seconds": 60, "gdpr_delete_unknown_id": unknown}
    plant(account, ADA)
    clock.advance(61)
    first = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    again = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert first.outcome.code is OutcomeCode.FULFILLED
    assert again.outcome.code is (OutcomeCode.NOTHING_HELD if unknown == 404 else OutcomeCode.FULFILLED)


async def test_access_after_an_erasure_search_still_shows_is_nothing_held(hubspot, account, clock):
    """A stale hit of search is not exported as if it were held (207 with OBJECT_NOT_FOUND)."""
    account.switches["search_lag_seconds"] = 60
    plant(account, ADA)
    clock.advance(61)
    await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    result = await perform(hubspot, job_for(Right.ACCESS, by_mail(ADA)))
    assert result.outcome.code is OutcomeCode.NOTHING_HELD


async def test_an_erasure_that_did_nothing_is_not_called_done(hubspot, account):
    """204 and the contact still readable: retried, with the reason verification_failed."""
    account.switches["erasure_shows_for_reads"] = 1
    plant(account, ADA)
    with pytest.raises(SystemUnavailable) as caught:
        await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert caught.value.reason == "verification_failed"
    again = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert again.outcome.code is OutcomeCode.NOTHING_HELD


async def test_a_token_match_on_part_of_an_address_touches_nobody(hubspot, account):
    """Search by token returns a neighbour of the address; only the whole address counts."""
    account.switches["loose_tokens"] = True
    account.add(email="x@example.org", hs_additional_emails="ada.byron@example.org", lastname="Neighbour")
    result = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.code is OutcomeCode.NOTHING_HELD
    assert account.holding("x@example.org")


async def test_more_contacts_than_a_page_are_all_found(account):
    """Paging goes on to the last page."""
    account.switches["page_size"] = 2
    plant(account, ADA, records=5)
    connector = connect(account.base_url, page_size=2)
    result = await perform(connector, job_for(Right.ACCESS, by_mail(ADA)))
    await connector.aclose()
    assert result.outcome.count == 5
    assert len(result.exports) == 6


async def test_a_contact_is_found_by_its_id_alone(hubspot, account):
    """crm_contact_id is enough, and no search is made."""
    plant(account, ADA)
    result = await perform(hubspot, job_for(Right.ERASURE, {IdentifierKind.CRM_CONTACT_ID: ("501",)}))
    assert result.outcome.count == 1
    assert account.counts[f"POST {OBJECTS}/search"] == 0


@pytest.mark.parametrize("api", ["v3", "v4"])
@pytest.mark.parametrize("repeat_status", [400, 200])
async def test_already_unsubscribed_is_a_success(account, api, repeat_status):
    """A repeated objection succeeds and says that nothing changed."""
    account.switches["v3_repeat_status"] = repeat_status
    plant(account, ADA)
    connector = connect(account.base_url, subscriptions_api=api)
    first = await perform(connector, job_for(Right.OBJECTION, by_mail(ADA)))
    again = await perform(connector, job_for(Right.OBJECTION, by_mail(ADA)))
    await connector.aclose()
    assert (first.outcome.code, again.outcome.code) == (OutcomeCode.FULFILLED, OutcomeCode.FULFILLED)
    assert first.notes == ()
    assert again.notes == ("already_unsubscribed",)


async def test_a_400_counts_as_unsubscribed_only_if_it_is_so(account):
    """v3 answers 400 for other mistakes too: while the subscription is on, the order is refused, not done."""
    plant(account, ADA)
    connector = connect(account.base_url, subscriptions_api="v3")
    account.fail(Fault(status=400, path="/v3/unsubscribe", times=2))
    with pytest.raises(SystemRejected):
        await perform(connector, job_for(Right.OBJECTION, by_mail(ADA)))
    await connector.aclose()


@pytest.mark.parametrize("api", ["v3", "v4"])
async def test_unsubscribe_ends_the_newsletter_and_nothing_else(account, api):
    """With the newsletter's id set, other lists stay; an objection ends all."""
    plant(account, ADA)
    connector = connect(account.base_url, subscriptions_api=api, newsletter_ids=(1,))
    await perform(connector, job_for(Right.UNSUBSCRIBE, by_mail(ADA)))
    await connector.aclose()
    assert account.account.off == {(ADA.email, 1)}
    assert not account.account.off_all


async def test_a_wrong_old_value_changes_nothing(hubspot, account):
    """Rectification guarded by the digest of another value is refused before anything is written."""
    plant(account, ADA)
    wrong = FieldChange(field="last_name", new="Byron", old_sha256=hashlib.sha256(b"Somebody").hexdigest())
    with pytest.raises(SystemRejected):
        await perform(hubspot, job_for(Right.RECTIFICATION, by_mail(ADA), changes=(wrong,)))
    assert account.account.entries["501"].properties["lastname"] == ADA.last_name


async def test_the_right_old_value_is_replaced_and_a_repeat_is_harmless(hubspot, account):
    """With the digest of what is held the value changes; the same order again finds it changed and succeeds."""
    plant(account, ADA)
    old = hashlib.sha256(ADA.last_name.encode()).hexdigest()
    job = job_for(Right.RECTIFICATION, by_mail(ADA), changes=(FieldChange(field="last_name", new="Byron", old_sha256=old),))
    await perform(hubspot, job)
    again = await perform(hubspot, job)
    assert account.account.entries["501"].properties["lastname"] == "Byron"
    assert again.outcome.code is OutcomeCode.FULFILLED
    assert account.counts[f"POST {OBJECTS}/batch/update"] == 1


async def test_completion_does_not_overwrite(hubspot, account):
    """A field that already holds something is a rectification, and says so."""
    plant(account, ADA)
    with pytest.raises(SystemRejected):
        await perform(hubspot, job_for(Right.COMPLETION, by_mail(ADA), changes=(FieldChange(field="last_name", new="Byron"),)))


async def test_a_field_hubspot_has_not_is_noted(hubspot, account):
    """What is not held there cannot be wrong there; the rest is changed."""
    plant(account, ADA)
    changes = (FieldChange(field="shoe_size", new="41"), FieldChange(field="city", new="Delft"))
    result = await perform(hubspot, job_for(Right.RECTIFICATION, by_mail(ADA), changes=changes))
    assert result.notes == ("some_fields_not_held",)
    assert account.account.entries["501"].properties["city"] == "Delft"


async def test_a_full_window_names_its_length(hubspot, account):
    """429 without Retry-After: policyName says which window, and the window's length is the wait."""
    plant(account, ADA)
    account.limit(RateLimit(requests=1, per_seconds=60))
    with pytest.raises(Throttled) as caught:
        await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert caught.value.retry_after_seconds == 10.0


async def test_wrong_token_fails_the_check(account):
    """A token the account does not know is CredentialsRefused at `check`."""
    connector = HubSpotConnector(HubSpotSettings(base_url=account.base_url, token=SecretStr("pat-other")))
    with pytest.raises(CredentialsRefused):
        await connector.check()
    await connector.aclose()


async def test_half_an_erasure_is_finished_by_the_next_try(hubspot, account):
    """A 5xx after the first of three deletes: the repeated order erases the rest and nobody else."""
    plant(account, ADA, records=3)
    plant(account, BOB)
    account.fail(Fault("none", path="gdpr-delete"), Fault(status=503, path="gdpr-delete"))
    with pytest.raises(SystemUnavailable):
        await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    result = await perform(hubspot, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.count == 2
    assert not account.holding(ADA.email)
    assert account.holding(BOB.email)


def test_a_missing_token_names_the_variable(monkeypatch):
    """Without a token the error names DSR_HUBSPOT_TOKEN."""
    monkeypatch.delenv("DSR_HUBSPOT_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="DSR_HUBSPOT_TOKEN: set this variable"):
        build()
