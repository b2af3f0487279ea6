"""The described systems against their stand-ins: the whole contract for each, and every unverified switch in each position."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import ClassVar

import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.declarative.connector import connector_class, described
from connectors.systems.declarative.loading import load
from connectors.systems.declarative.shipped.brevo.standin import API_KEY as BREVO_KEY
from connectors.systems.declarative.shipped.brevo.standin import BrevoStandIn
from connectors.systems.declarative.shipped.salesforce.standin import CLIENT_ID, CLIENT_SECRET, SalesforceStandIn
from connectors.systems.declarative.shipped.sendgrid.standin import API_KEY as SENDGRID_KEY
from connectors.systems.declarative.shipped.sendgrid.standin import SendGridStandIn
from connectors.systems.declarative.shipped.zendesk.standin import API_TOKEN, USERNAME, ZendeskStandIn
from schemas.errors import ConfigurationError, SystemRejected, SystemUnavailable, Throttled
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right
from tests.published_shapes.fitting import FitsPublished

STANDINS = {"brevo": BrevoStandIn, "sendgrid": SendGridStandIn, "zendesk": ZendeskStandIn, "salesforce": SalesforceStandIn}
CREDENTIALS = {
    "brevo": {"DSR_BREVO_API_KEY": BREVO_KEY},
    "sendgrid": {"DSR_SENDGRID_API_KEY": SENDGRID_KEY},
    "zendesk": {"DSR_ZENDESK_USERNAME": USERNAME, "DSR_ZENDESK_API_TOKEN": API_TOKEN},
    "salesforce": {"DSR_SALESFORCE_CLIENT_ID": CLIENT_ID, "DSR_SALESFORCE_CLIENT_SECRET": CLIENT_SECRET},
}
PATHS = {"brevo": "/v3", "sendgrid": "", "zendesk": "/api/v2", "salesforce": ""}
EMAIL = {IdentifierKind.EMAIL: (ADA.email,)}


def connect(name, base_url, *, timeout_seconds=5.0, **environment):
    variables = {f"DSR_{name.upper()}_BASE_URL": base_url + PATHS[name], **CREDENTIALS[name], **environment}
    return connector_class(load(name))(variables, timeout_seconds=timeout_seconds)


def plant(standin, person, records=1):
    """Make a stand-in hold a person, in so many records where it can."""
    match standin.name:
        case "brevo":
            standin.add(email=person.email, attributes={"LASTNAME": person.last_name, "SMS": person.phone})
        case "sendgrid":
            standin.add(email=person.email, last_name=person.last_name, external_id=f"ext-{person.first_name}")
        case "zendesk":
            standin.add(email=person.email, name=person.last_name, phone=person.phone, tickets=["Where is my order?", "Thanks"])
        case "salesforce":
            for number in range(records):
                kind = "Lead" if number == 1 else "Contact"
                standin.add(kind=kind, email=person.email, LastName=person.last_name, Phone=person.phone)


class _Shipped(HttpConnectorContract):
    """What the four contracts share."""

    system_name: ClassVar[str]
    environment: ClassVar[dict[str, str]] = {}
    switches: ClassVar[dict[str, object]] = {}
    keeps_several = False

    def stand_in(self, clock):
        standin = STANDINS[self.system_name](clock)
        standin.switches |= self.switches
        return standin

    def build(self, base_url, *, timeout_seconds):
        return connect(self.system_name, base_url, timeout_seconds=timeout_seconds, **self.environment)

    def plant(self, system, person, *, records=1):
        plant(system, person, records)

    def holds(self, system, person):
        return bool(system.holding(person.email))

    def identifiers(self, connector, person):
        return {IdentifierKind.EMAIL: (person.email,)}


class TestBrevoContract(_Shipped):
    system_name = "brevo"
    vanishing_paths = ("/contacts/701", "/contacts/702")


class TestSendGridContract(FitsPublished, _Shipped):
    system_name = "sendgrid"
    published = "sendgrid"


class TestSendGridContractOtherwise(FitsPublished, _Shipped):
    """No hit is 200, and an erased address is forgotten everywhere."""

    system_name = "sendgrid"
    published = "sendgrid"
    environment: ClassVar = {"DSR_SENDGRID_AFTER_ERASURE": "forgotten"}
    switches: ClassVar = {"no_hit_status": 200}


class _Zendesk(_Shipped):
    system_name = "zendesk"
    vanishing_paths = ("/deleted_users/", "/tickets/7")
    changes = (FieldChange(field="full_name", new="Ada Byron-Testcase"),)
    completions = (FieldChange(field="alias", new="Countess"),)


class TestZendeskContract(_Zendesk):
    pass


class TestZendeskContractOtherwise(_Zendesk):
    """Small pages, a loose search, tickets that block nothing."""

    switches: ClassVar = {"page_size": 1, "loose_search": True, "tickets_block_deletion": False}


class _Salesforce(_Shipped):
    system_name = "salesforce"
    keeps_several = True
    throttling_403 = Fault(status=403, json=[{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "limit"}])
    completions = (FieldChange(field="job_title", new="Analyst"),)

    @pytest.fixture
    async def connector(self, system):
        """Give a connector that has its token: the faults are to hit the calls behind it."""
        connector = self.connect(system)
        await connector.check()
        yield connector
        await connector.aclose()


class TestSalesforceContract(_Salesforce):
    pass


class TestSalesforceContractOtherwise(_Salesforce):
    """The recycle bin, small pages, and 400 for a record that is deleted already."""

    environment: ClassVar = {"DSR_SALESFORCE_ERASURE": "recycle_bin"}
    switches: ClassVar = {"page_size": 1, "deleted_status": 400}
    vanishing_paths = ("/sobjects/",)


@contextmanager
def account(name, clock=None, **switches):
    standin = STANDINS[name](clock or ManualClock(NOW))
    standin.switches |= switches
    with serve(standin) as standin.base_url:
        yield standin


def connected(standin, **environment):
    return aclosing(connect(standin.name, standin.base_url, **environment))


async def ended(connector, standin, right, identifiers=EMAIL, **job):
    """Do one job to its end; the vendor's time passes between two polls."""
    made = job_for(right, identifiers, **job)
    result = await perform(connector, made)
    while result.outcome.code is OutcomeCode.ACCEPTED:
        standin.clock.advance(3600)
        result = await connector.poll(replace(made, now=standin.clock.now()), result.handle)
    return result


def test_all_four_are_described():
    """The shipped files, by name, with a class each."""
    assert set(described()) == set(STANDINS)


@pytest.mark.parametrize("name", STANDINS)
def test_missing_variables_are_all_named(name):
    """Without an environment every variable that must be set is named, and none of their values could be."""
    with pytest.raises(ConfigurationError) as caught:
        connector_class(load(name))({})
    assert all(variable in str(caught.value) for variable in CREDENTIALS[name])


@pytest.mark.parametrize(("name", "seconds"), [("brevo", 3.0), ("sendgrid", 42.0), ("zendesk", 17.0), ("salesforce", None)])
async def test_each_throttles_in_its_own_way(name, seconds):
    """The vendor's own throttling answer is Throttled, with the seconds that the vendor names."""
    with account(name) as standin:
        async with connected(standin) as connector:
            await connector.check()
            standin.limit(RateLimit(requests=0, per_seconds=60))
            with pytest.raises(Throttled) as caught:
                await perform(connector, job_for(Right.ACCESS, EMAIL))
    assert caught.value.retry_after_seconds == seconds


# Brevo.


async def test_brevo_404_of_another_kind_is_no_absence():
    """A 404 without the code that the file names (a wrong base URL, another text) is never nothing_held."""
    with account("brevo", not_found_code="route_not_found") as standin:
        async with connected(standin) as connector:
            with pytest.raises(SystemRejected):
                await perform(connector, job_for(Right.ERASURE, EMAIL))


async def test_brevo_finds_by_the_companys_own_id():
    """ext_id is the customer id; address and id of one contact count once."""
    with account("brevo") as standin:
        standin.add(email=ADA.email, ext_id="cust-1")
        async with connected(standin) as connector:
            result = await perform(connector, job_for(Right.ACCESS, {**EMAIL, IdentifierKind.CUSTOMER_ID: ("cust-1",)}))
            assert result.outcome.count == 1
            await perform(connector, job_for(Right.ERASURE, {IdentifierKind.CUSTOMER_ID: ("cust-1",)}))
        assert not standin.holding(ADA.email)


async def test_brevo_is_silenced_before_it_is_deleted():
    """If the deletion fails, the contact gets no mail any more."""
    with account("brevo") as standin:
        plant(standin, ADA)
        standin.fail(Fault(status=503, method="DELETE"))
        async with connected(standin) as connector:
            with pytest.raises(SystemUnavailable):
                await perform(connector, job_for(Right.ERASURE, EMAIL))
        assert standin.records["701"]["emailBlacklisted"] is True


async def test_brevo_a_deletion_that_did_nothing_is_not_called_done():
    """204 and the contact still there: verification_failed, and the repetition heals it."""
    with account("brevo", deletion_fails_times=1) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            with pytest.raises(SystemUnavailable) as caught:
                await perform(connector, job_for(Right.ERASURE, EMAIL))
            assert caught.value.reason == "verification_failed"
            assert (await perform(connector, job_for(Right.ERASURE, EMAIL))).outcome.code is OutcomeCode.FULFILLED


async def test_brevo_unsubscribe_is_mail_only_and_objection_is_all():
    """The newsletter ends mail; an objection to marketing ends text messages too."""
    with account("brevo") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            await perform(connector, job_for(Right.UNSUBSCRIBE, EMAIL))
            assert standin.records["701"].get("smsBlacklisted") is None
            await perform(connector, job_for(Right.OBJECTION, EMAIL))
        assert standin.records["701"]["smsBlacklisted"] is True


# SendGrid.


@pytest.mark.parametrize(("after", "stays"), [("suppressed", True), ("forgotten", False)])
async def test_sendgrid_erases_contact_and_activity_and_keeps_the_suppression_if_asked(after, stays):
    """The contact goes by a job, the activity is erased, the address stays suppressed unless the setting says otherwise."""
    with account("sendgrid") as standin:
        plant(standin, ADA)
        async with connected(standin, DSR_SENDGRID_AFTER_ERASURE=after) as connector:
            started = await perform(connector, job_for(Right.ERASURE, EMAIL))
            assert started.outcome.code is OutcomeCode.ACCEPTED
            assert standin.holding(ADA.email)
            result = await ended(connector, standin, Right.ERASURE)
        assert result.outcome.count == 1
        assert not standin.holding(ADA.email)
        assert standin.erased_activity == {ADA.email}
        assert standin.suppressed == ({ADA.email} if stays else set())


async def test_sendgrid_notes_outlast_the_job():
    """What was noted before a job started is in the report after it."""
    changes = (FieldChange(field="last_name", new="Byron"), FieldChange(field="shoe_size", new="41"))
    with account("sendgrid") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            result = await ended(connector, standin, Right.RECTIFICATION, changes=changes)
        assert (result.outcome.count, result.notes) == (1, ("some_fields_not_held",))
        assert standin.records["701"]["last_name"] == "Byron"


@pytest.mark.parametrize("ending", ["errored", "failed"])
async def test_sendgrid_a_failed_job_is_for_a_person(ending):
    """A job that ends badly is job_failed and is not started again by itself."""
    with account("sendgrid", job_ends=ending) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            with pytest.raises(SystemRejected) as caught:
                await ended(connector, standin, Right.ERASURE)
    assert caught.value.reason == "job_failed"


async def test_sendgrid_a_status_nobody_promised_is_refused():
    """Neither running nor ended: refused, not waited for until patience ends."""
    with account("sendgrid", job_ends="paused") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            with pytest.raises(SystemRejected, match="neither"):
                await ended(connector, standin, Right.ERASURE)


# Zendesk.


async def test_zendesk_deletes_in_two_steps_and_waits_for_every_product():
    """Soft deletion, purge, then accepted until each product that asked also says complete."""
    with account("zendesk") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            job = job_for(Right.ERASURE, EMAIL)
            result = await perform(connector, job)
            polls = 0
            while result.outcome.code is OutcomeCode.ACCEPTED:
                assert result.outcome.expected_by == (NOW.replace(day=12))
                standin.clock.advance(7200)
                result = await connector.poll(replace(job, now=standin.clock.now()), result.handle)
                polls += 1
        assert polls == 3
        assert result.outcome.count == 1
        assert standin.tickets == {}
        assert standin.counts["DELETE /api/v2/deleted_users/{key}.json"] == 1


async def test_zendesk_no_rows_yet_is_not_done():
    """An empty list of products says that nobody has begun, not that all have ended."""
    with account("zendesk") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            job = job_for(Right.ERASURE, EMAIL)
            started = await perform(connector, job)
            standin.fail(Fault(status=200, json={"compliance_deletion_statuses": []}, path="compliance"))
            assert (await connector.poll(job, started.handle)).outcome.code is OutcomeCode.ACCEPTED


async def test_zendesk_finds_whom_an_interrupted_order_has_half_deleted():
    """A crash between the two steps: the user is in no search, and the next try purges it all the same."""
    with account("zendesk") as standin:
        plant(standin, ADA)
        standin.fail(Fault(status=503, path="/deleted_users/", method="DELETE"))
        async with connected(standin) as connector:
            with pytest.raises(SystemUnavailable):
                await perform(connector, job_for(Right.ERASURE, EMAIL))
            assert not standin.holding(ADA.email)
            result = await ended(connector, standin, Right.ERASURE)
        assert result.outcome.count == 1
        assert [user["email"] for user in standin.deleted.values()] == [None]


async def test_zendesk_a_loose_hit_is_left_alone():
    """Search shows users whose address is only alike; nothing is done to them."""
    with account("zendesk", loose_search=True) as standin:
        standin.add(email=f"x{ADA.email}"[1:2] + "da.other@example.org", name="Neighbour")
        async with connected(standin) as connector:
            result = await perform(connector, job_for(Right.ERASURE, EMAIL))
        assert result.outcome.code is OutcomeCode.NOTHING_HELD
        assert len(standin.records) == 1


async def test_zendesk_pages_at_another_host_are_not_followed():
    """A next page elsewhere would get our credentials: refused."""
    with account("zendesk") as standin:
        page = {"users": [], "next_page": "http://127.0.0.1:9/api/v2/users/search.json"}
        standin.fail(Fault(status=200, json=page, path="/search.json"))
        async with connected(standin) as connector:
            with pytest.raises(SystemRejected, match="another host"):
                await perform(connector, job_for(Right.ACCESS, EMAIL))


# Salesforce.


async def test_salesforce_quotes_an_address_with_an_apostrophe():
    """An apostrophe is part of an address and no end of the literal: one person is found, nobody else."""
    email = "o'hara@example.org"
    with account("salesforce") as standin:
        standin.add(email=email, LastName="Testcase")
        standin.add(email=BOB.email, LastName="Bystander")
        async with connected(standin) as connector:
            for given in (email, "x' OR Email != '"):
                result = await ended(connector, standin, Right.ERASURE, {IdentifierKind.EMAIL: (given,)})
                assert result.outcome.code is (OutcomeCode.FULFILLED if given == email else OutcomeCode.NOTHING_HELD)
        assert standin.holding(BOB.email)


async def test_salesforce_hard_deletes_by_bulk_job():
    """One job per record, polled to its end; nothing is left in the recycle bin."""
    with account("salesforce") as standin:
        plant(standin, ADA, records=2)
        async with connected(standin) as connector:
            result = await ended(connector, standin, Right.ERASURE)
        assert result.outcome.count == 2
        assert not standin.records
        assert not standin.bin
    assert list(result.yielded) == []


async def test_salesforce_a_changed_address_is_found_changed():
    """The same rectification again finds the record under its new address: fulfilled, and nothing is written twice."""
    moved = (FieldChange(field="email", new="ada.new@example.org"), FieldChange(field="shoe_size", new="41"))
    with account("salesforce") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            for _ in range(2):
                result = await perform(connector, job_for(Right.RECTIFICATION, EMAIL, changes=moved))
                assert (result.outcome.code, result.notes) == (OutcomeCode.FULFILLED, ("some_fields_not_held",))
        assert standin.counts["PATCH /services/data/{version}/sobjects/{kind}/{key}"] == 1


async def test_salesforce_rows_that_fail_are_no_success():
    """JobComplete with failed rows is job_failed."""
    with account("salesforce", failing_rows=1) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            with pytest.raises(SystemRejected) as caught:
                await ended(connector, standin, Right.ERASURE)
    assert caught.value.reason == "job_failed"


async def test_salesforce_recycle_bin_names_its_date():
    """The softer erasure says until when the record can come back."""
    with account("salesforce") as standin:
        plant(standin, ADA)
        async with connected(standin, DSR_SALESFORCE_ERASURE="recycle_bin") as connector:
            result = await perform(connector, job_for(Right.ERASURE, EMAIL))
        assert (result.outcome.effective_by - NOW.date()).days == 15
        assert "in_recycle_bin" in result.notes
        assert result.yielded[IdentifierKind.CRM_CONTACT_ID] == tuple(standin.bin)


def test_salesforce_a_setting_that_names_no_variant():
    """A misspelt choice stops at the start, with the variable's name."""
    with pytest.raises(ConfigurationError, match="DSR_SALESFORCE_ERASURE: is none of hard_delete, recycle_bin"):
        connect("salesforce", "http://127.0.0.1:1", DSR_SALESFORCE_ERASURE="shred")


async def test_salesforce_an_ended_session_is_renewed_once():
    """401 on a call: one new token, one more try."""
    with account("salesforce") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            await connector.check()
            standin.switches["ended_sessions"] = 1
            assert (await perform(connector, job_for(Right.ACCESS, EMAIL))).outcome.count == 1
        assert standin.counts["POST /services/oauth2/token"] == 2


# What no public page promises, in its other position: a person is told, and nothing is called done that is not.


async def test_zendesk_another_word_for_complete_is_never_taken_for_done():
    """If products end with a word that the file does not name, the order stays accepted past every product's time."""
    with account("zendesk", done_action="finished") as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            job = job_for(Right.ERASURE, EMAIL)
            result = await perform(connector, job)
            for _ in range(10):
                standin.clock.advance(7200)
                result = await connector.poll(replace(job, now=standin.clock.now()), result.handle)
                assert result.outcome.code is OutcomeCode.ACCEPTED


async def test_zendesk_products_that_are_done_at_once():
    """The first poll may find every product done."""
    with account("zendesk", product_seconds=0) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            result = await ended(connector, standin, Right.ERASURE)
        assert (result.outcome.code, result.outcome.count) == (OutcomeCode.FULFILLED, 1)


async def test_sendgrid_a_job_that_is_done_at_once():
    """The first poll may find the job completed."""
    with account("sendgrid", job_seconds=0) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            assert (await ended(connector, standin, Right.ERASURE)).outcome.count == 1
        assert not standin.holding(ADA.email)


async def test_salesforce_a_job_that_is_done_at_once():
    """The first poll may find the bulk job completed."""
    with account("salesforce", job_seconds=0) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            assert (await ended(connector, standin, Right.ERASURE)).outcome.count == 1
        assert not standin.records


async def test_salesforce_a_deletion_that_relations_block_is_for_a_person():
    """DELETE_FAILED is refused and the record is where it was."""
    with account("salesforce", relations_block_deletion=True) as standin:
        plant(standin, ADA)
        async with connected(standin, DSR_SALESFORCE_ERASURE="recycle_bin") as connector:
            with pytest.raises(SystemRejected):
                await perform(connector, job_for(Right.ERASURE, EMAIL))
        assert standin.holding(ADA.email)


@pytest.mark.parametrize("right", [Right.OBJECTION, Right.UNSUBSCRIBE])
async def test_salesforce_opt_out_fields_of_other_names_are_no_silence(right):
    """An organisation without these fields answers 400: the objection fails for a person to see."""
    with account("salesforce", opt_out_fields=()) as standin:
        plant(standin, ADA)
        async with connected(standin) as connector:
            with pytest.raises(SystemRejected):
                await perform(connector, job_for(right, EMAIL))


async def test_figures_that_nobody_promised_are_settings():
    """Calls a second and the days of the recycle bin: the variable's, or the file's without it."""
    assert connect("brevo", "http://127.0.0.1:1").throttle.per_second == 8
    assert connect("zendesk", "http://127.0.0.1:1", DSR_ZENDESK_CALLS_PER_SECOND="6.5").throttle.per_second == 6.5
    with account("salesforce") as standin:
        plant(standin, ADA)
        given = {"DSR_SALESFORCE_ERASURE": "recycle_bin", "DSR_SALESFORCE_BIN_DAYS": "30"}
        async with connected(standin, **given) as connector:
            result = await perform(connector, job_for(Right.ERASURE, EMAIL))
    assert (result.outcome.effective_by - NOW.date()).days == 30


@pytest.mark.parametrize("value", ["fast", "0", "-1", "nan", "inf"])
def test_a_figure_that_is_none_names_its_variable(value):
    """And not its value."""
    with pytest.raises(ConfigurationError, match="DSR_BREVO_CALLS_PER_SECOND: give a number"):
        connect("brevo", "http://127.0.0.1:1", DSR_BREVO_CALLS_PER_SECOND=value)
