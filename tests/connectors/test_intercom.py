"""The Intercom connector against its stand-in, in every position of every unverified switch."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import pytest
from pydantic import SecretStr

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.sdk.work import entered
from connectors.systems.intercom.connector import IntercomConnector, IntercomSettings, build
from connectors.systems.intercom.standin import TOKEN, IntercomStandIn
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right
from tests.published_shapes.fitting import FitsPublished

FIELDS = {"name": "name", "email": "email", "phone": "phone", "city": "custom_attributes.city"}


def plant(standin, person, records=1, **more):
    fields = {"email": person.email, "name": f"{person.first_name} {person.last_name}"} | more
    for n in range(records):
        own = person.identifiers[IdentifierKind.ACCOUNT_ID] if n == 0 else f"lead-{n}-{len(standin.contacts)}"
        talk = [[f"Hello from {person.last_name}", "Are you there?"]]
        standin.add(**fields, external_id=own, role="user" if n == 0 else "lead", conversations=talk)


def connect(base_url, **options):
    settings = {"timeout_seconds": 0.5, "calls_per_second": 1000.0, "fields": FIELDS} | options
    return IntercomConnector(IntercomSettings(base_url=base_url, token=SecretStr(TOKEN), **settings))


class IntercomMixin:
    published = "intercom"
    # Both answer in pages; how to ask for one is described for version 2.11 and left out later.
    known = frozenset(
        f"GET /contacts/{{contact_id}}/{what}: query {name}: not described"
        for what in ("notes", "companies")
        for name in ("page", "per_page")
    )
    # Identifiers of the stand-in's contacts and conversations begin so; their searches do not.
    vanishing_paths = ("/contacts/65", "/conversations/90")
    changes = (FieldChange(field="name", new="Ada Byron-Testcase"),)
    options: ClassVar[dict] = {}

    def stand_in(self, clock):
        return IntercomStandIn(clock)

    def build(self, base_url, *, timeout_seconds):
        return connect(base_url, timeout_seconds=timeout_seconds, **self.options)

    def plant(self, system, person, *, records=1):
        for contact_id in system.holding(person.email):
            del system.contacts[contact_id]
        plant(system, person, records)

    def holds(self, system, person):
        return bool(system.holding(person.email))


class TestIntercomContract(FitsPublished, IntercomMixin, HttpConnectorContract):
    """The whole contract with the default settings."""


class TestIntercomContractOtherwise(FitsPublished, IntercomMixin, HttpConnectorContract):
    """The whole contract with pages of one, a search that minds the case, and a newsletter of its own."""

    options: ClassVar[dict] = {"page_size": 1, "newsletter_ids": ("91",)}

    def stand_in(self, clock):
        standin = IntercomStandIn(clock)
        standin.switches |= {"search_minds_case": True, "page_size": 1, "merged_status": 404, "companies_under": "companies"}
        return standin


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def workspace(clock):
    standin = IntercomStandIn(clock)
    with serve(standin) as standin.base_url:
        yield standin


@pytest.fixture
async def intercom(workspace):
    connector = connect(workspace.base_url)
    yield connector
    await connector.aclose()


def by_mail(person):
    return {IdentifierKind.EMAIL: (person.email,)}


async def test_erasure_takes_conversations_first_and_promises_the_date_of_destruction(intercom, workspace):
    """Users and leads of one address go, their conversations before them; Intercom destroys them 7 days later."""
    plant(workspace, ADA, records=3)
    plant(workspace, BOB)
    result = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert (result.outcome.code, result.outcome.count) == (OutcomeCode.FULFILLED, 6)
    assert result.outcome.effective_by.isoformat() == "2026-03-12"
    assert not workspace.holding(ADA.email)
    assert not traces_in(str(workspace.conversations), ADA)
    assert len(workspace.conversations) == 1


async def test_conversations_of_a_half_erased_person_are_still_found(intercom, workspace):
    """A failure at the first contact leaves a person whose repetition finds the rest and nobody else."""
    plant(workspace, ADA, records=2)
    workspace.fail(Fault(status=503, path="/contacts/65", method="DELETE"))
    with pytest.raises(SystemUnavailable):
        await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert not workspace.conversations
    assert len(workspace.holding(ADA.email)) == 2
    result = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.count == 2
    assert not workspace.holding(ADA.email)


async def test_the_account_id_is_remembered_before_anything_is_deleted(intercom, workspace):
    """Other systems get the user's own id, also if this process dies in the middle."""
    plant(workspace, ADA)
    remembered = []

    class Notebook:
        async def take_turn(self):
            return

        async def remember(self, found):
            assert workspace.conversations
            remembered.append(found)

    with entered(Notebook()):
        result = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    account = {IdentifierKind.ACCOUNT_ID: (ADA.identifiers[IdentifierKind.ACCOUNT_ID],)}
    assert remembered == [result.yielded] == [account]


async def test_a_group_conversation_loses_only_the_persons_words(intercom, workspace):
    """Where other contacts take part, the person's parts are blanked and the conversation stays."""
    plant(workspace, ADA)
    plant(workspace, BOB)
    ada, bob = workspace.holding(ADA.email)[0], workspace.holding(BOB.email)[0]
    group = workspace.converse(
        [ada, bob], [(ada, "Ada's opening"), (bob, "Bob's words"), (ada, "Ada's reply"), ("admin", "Hi")]
    )
    result = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.notes == ("group_conversations_redacted",)
    left = workspace.conversations[group]
    texts = [part["body"] for part in (left["source"], *left["parts"])]
    assert [("Ada" in text, text) for text in texts][1] == (False, "Bob's words")
    assert not any("Ada's" in text for text in texts)
    assert workspace.holding(BOB.email)


async def test_a_group_conversation_longer_than_what_is_shown_needs_a_person(intercom, workspace):
    """Parts that Intercom does not show cannot be blanked: nothing is called done and the contact stays findable."""
    workspace.switches["parts_shown"] = 2
    plant(workspace, ADA)
    plant(workspace, BOB)
    ada, bob = workspace.holding(ADA.email)[0], workspace.holding(BOB.email)[0]
    workspace.converse([ada, bob], [(bob, "Hi"), *((ada, f"Ada {n}") for n in range(4))])
    with pytest.raises(SystemRejected, match="by hand"):
        await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert workspace.holding(ADA.email)


async def test_access_shows_the_persons_conversations_without_other_peoples_words(intercom, workspace):
    """Own words and staff's answers are shown, another contact's are not, staff are named by role."""
    plant(workspace, ADA)
    plant(workspace, BOB)
    ada, bob = workspace.holding(ADA.email)[0], workspace.holding(BOB.email)[0]
    workspace.contacts[ada].notes = [f"Note {n}" for n in range(60)]
    workspace.converse([ada, bob], [(ada, "Ada's opening"), (bob, f"{BOB.last_name} lives in Delft"), ("admin", "Thank you")])
    result = await perform(intercom, job_for(Right.ACCESS, by_mail(ADA)))
    contact, talks = result.exports
    assert (contact.name, len(contact.content["notes"])) == ("contact-1", 60)
    group = talks.content[1]
    assert [(entry["by"], entry["body"]) for entry in group["entries"]] == [
        ("you", "Ada's opening"),
        ("another participant", "[redacted]"),
        ("admin", "Thank you"),
    ]
    assert group["other_participants"] == 1
    assert not traces_in(str([export.content for export in result.exports]), BOB)
    assert "Staff Member" not in str(talks.content)


async def test_a_long_conversation_says_that_older_parts_are_missing(intercom, workspace):
    """Only the newest parts are shown by the API; the export notes it."""
    workspace.switches["parts_shown"] = 1
    workspace.add(email=ADA.email, name="Ada", conversations=[["one", "two", "three"]])
    result = await perform(intercom, job_for(Right.ACCESS, by_mail(ADA)))
    assert result.notes == ("older_parts_by_hand",)
    assert [entry["body"] for entry in result.exports[1].content[0]["entries"]] == ["one", "three"]


@pytest.mark.parametrize("merged_status", [410, 404])
async def test_a_merged_contact_is_followed_to_the_person(intercom, workspace, merged_status):
    """Search may still show a merged lead: the user it became is erased, and the lead counts for nothing."""
    workspace.switches["merged_status"] = merged_status
    plant(workspace, ADA, records=2)
    user, lead = workspace.holding(ADA.email)
    workspace.merge(lead, user)
    workspace.switches["search_lag_seconds"] = 60
    result = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert result.outcome.code is OutcomeCode.FULFILLED
    assert not workspace.holding(ADA.email)
    assert not workspace.conversations


async def test_a_contact_merged_into_somebody_else_is_left_alone_and_noted(intercom, workspace):
    """What the canonical contact's address and id do not prove to be the person is not touched."""
    plant(workspace, ADA)
    plant(workspace, BOB)
    workspace.merge(workspace.holding(ADA.email)[0], workspace.holding(BOB.email)[0])
    workspace.switches["search_lag_seconds"] = 60
    result = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert (result.outcome.code, result.notes) == (OutcomeCode.NOTHING_HELD, ("merged_into_another_contact",))
    assert workspace.holding(BOB.email)


async def test_merges_in_a_circle_end(intercom, workspace):
    """Two contacts that name each other as canonical are a rejection, not an endless loop."""
    plant(workspace, ADA, records=2)
    one, other = workspace.holding(ADA.email)
    workspace.merge(one, other)
    workspace.merge(other, one)
    workspace.switches["search_lag_seconds"] = 60
    with pytest.raises(SystemRejected, match="each other"):
        await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))


async def test_a_repeat_while_search_still_shows_the_deleted_contact_succeeds(intercom, workspace, clock):
    """The index lags: its stale hits are read, found gone, and count for nothing."""
    plant(workspace, ADA)
    workspace.switches["search_lag_seconds"] = 60
    first = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    again = await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    clock.advance(61)
    assert (first.outcome.code, again.outcome.code) == (OutcomeCode.FULFILLED, OutcomeCode.NOTHING_HELD)
    assert (await perform(intercom, job_for(Right.ACCESS, by_mail(ADA)))).outcome.code is OutcomeCode.NOTHING_HELD


async def test_a_deletion_that_did_nothing_is_not_called_done(intercom, workspace):
    """200 and the contact still readable: retried, with the reason verification_failed."""
    workspace.switches["deletion_shows_for_reads"] = 1
    plant(workspace, ADA)
    with pytest.raises(SystemUnavailable) as caught:
        await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert caught.value.reason == "verification_failed"


async def test_a_contact_is_found_by_the_companys_own_id(intercom, workspace):
    """account_id is Intercom's external_id; the address alone would have found nobody."""
    plant(workspace, ADA, email="older.address@example.org")
    by_account = {IdentifierKind.ACCOUNT_ID: (ADA.identifiers[IdentifierKind.ACCOUNT_ID],)}
    assert (await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))).outcome.code is OutcomeCode.NOTHING_HELD
    assert (await perform(intercom, job_for(Right.ERASURE, by_account))).outcome.count == 2


@pytest.mark.parametrize("lists", [(), ("91",)])
async def test_already_unsubscribed_is_a_success(workspace, lists):
    """A repeated unsubscribe succeeds; where Intercom shows the state, the report says that nothing changed."""
    plant(workspace, ADA)
    connector = connect(workspace.base_url, newsletter_ids=lists)
    first = await perform(connector, job_for(Right.UNSUBSCRIBE, by_mail(ADA)))
    again = await perform(connector, job_for(Right.UNSUBSCRIBE, by_mail(ADA)))
    await connector.aclose()
    assert (first.outcome.code, again.outcome.code) == (OutcomeCode.FULFILLED, OutcomeCode.FULFILLED)
    assert (first.notes, again.notes) == ((), () if lists else ("already_unsubscribed",))
    (entry,) = workspace.contacts.values()
    assert (entry.opted_out, entry.body["unsubscribed_from_emails"]) == (set(lists), not lists)


async def test_an_objection_ends_every_mail_also_with_a_newsletter_set(workspace):
    """Objecting is more than leaving the newsletter."""
    plant(workspace, ADA)
    connector = connect(workspace.base_url, newsletter_ids=("91",))
    await perform(connector, job_for(Right.OBJECTION, by_mail(ADA)))
    await connector.aclose()
    (entry,) = workspace.contacts.values()
    assert entry.body["unsubscribed_from_emails"] is True


async def test_a_wrong_newsletter_id_is_not_taken_for_a_gone_contact(workspace):
    """404 of the subscription while the contact is there: the setting is wrong, and named."""
    plant(workspace, ADA)
    connector = connect(workspace.base_url, newsletter_ids=("999",))
    with pytest.raises(SystemRejected, match="DSR_INTERCOM_NEWSLETTER_IDS"):
        await perform(connector, job_for(Right.UNSUBSCRIBE, by_mail(ADA)))
    await connector.aclose()


def change(field, new, old=None):
    return FieldChange(field=field, new=new, old_sha256=old and hashlib.sha256(old.encode()).hexdigest())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ((change("last_name", "Byron", ADA.last_name),), "Ada Byron"),
        ((change("first_name", "Augusta", "Ada"),), f"Augusta {ADA.last_name}"),
        ((change("first_name", "Augusta Ada"), change("last_name", "King")), "Augusta Ada King"),
        ((change("name", "A. King"),), "A. King"),
        ((change("first_name", "Augusta", "Ada"), change("last_name", "King", ADA.last_name)), "Augusta King"),
    ],
)
async def test_a_part_of_a_name_changes_where_the_whole_shows_it(intercom, workspace, changes, name):
    """First and last name are one field here; the digest of the old part says where it divides; a repeat is harmless."""
    plant(workspace, ADA)
    job = job_for(Right.RECTIFICATION, by_mail(ADA), changes=changes)
    for _ in range(2):
        assert (await perform(intercom, job)).outcome.code is OutcomeCode.FULFILLED
        assert next(iter(workspace.contacts.values())).body["name"] == name
    assert workspace.counts["PUT /contacts/{key}"] == 1


@pytest.mark.parametrize(
    "parts",
    [
        (change("last_name", "Byron"),),
        (change("last_name", "Byron", "Somebody"),),
        (change("first_name", "Augusta"), change("last_name", "Byron", "Somebody")),
    ],
)
async def test_a_part_of_a_name_is_never_guessed(intercom, workspace, parts):
    """Without the digest of what stands there a person must look; nothing is written, not even the other fields."""
    plant(workspace, ADA)
    changes = (change("city", "Delft"), *parts)
    with pytest.raises(SystemRejected, match="whole name"):
        await perform(intercom, job_for(Right.RECTIFICATION, by_mail(ADA), changes=changes))
    assert workspace.counts["PUT /contacts/{key}"] == 0


async def test_completion_does_not_overwrite_and_a_wrong_old_value_changes_nothing(intercom, workspace):
    """A filled field is a rectification; a rectification of another value than the held one is refused."""
    plant(workspace, ADA, phone="+15550150")
    for right, asked in ((Right.COMPLETION, change("phone", "1")), (Right.RECTIFICATION, change("phone", "1", "2"))):
        with pytest.raises(SystemRejected):
            await perform(intercom, job_for(right, by_mail(ADA), changes=(asked,)))
    assert workspace.counts["PUT /contacts/{key}"] == 0


async def test_an_attribute_is_changed_and_a_field_intercom_has_not_is_noted(intercom, workspace):
    """Attributes of the workspace are mapped by a setting; what is not held here cannot be wrong here."""
    plant(workspace, ADA, custom_attributes={"plan": "basic"})
    changes = (change("shoe_size", "41"), change("city", "Delft"))
    result = await perform(intercom, job_for(Right.RECTIFICATION, by_mail(ADA), changes=changes))
    assert result.notes == ("some_fields_not_held",)
    assert next(iter(workspace.contacts.values())).body["custom_attributes"] == {"plan": "basic", "city": "Delft"}


async def test_a_full_slice_names_the_second_at_which_it_ends(intercom, workspace):
    """429 without Retry-After: X-RateLimit-Reset against the answer's own date is the wait."""
    plant(workspace, ADA)
    workspace.limit(RateLimit(requests=1, per_seconds=60))
    with pytest.raises(Throttled) as caught:
        await perform(intercom, job_for(Right.ERASURE, by_mail(ADA)))
    assert 8.0 <= caught.value.retry_after_seconds <= 11.0


async def test_wrong_token_fails_the_check(workspace):
    """A token the workspace does not know is CredentialsRefused at `check`."""
    connector = IntercomConnector(IntercomSettings(base_url=workspace.base_url, token=SecretStr("other")))
    with pytest.raises(CredentialsRefused):
        await connector.check()
    await connector.aclose()


def test_a_missing_token_names_the_variable(monkeypatch):
    """Without a token the error names DSR_INTERCOM_TOKEN."""
    monkeypatch.delenv("DSR_INTERCOM_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="DSR_INTERCOM_TOKEN: set this variable"):
        build()


@pytest.mark.parametrize("under", ["data", "companies"])
async def test_companies_are_exported_wherever_they_stand(intercom, workspace, under):
    """Schema and example of the description disagree; each is read, over several pages."""
    workspace.switches["companies_under"] = under
    ada = workspace.add(email=ADA.email)
    workspace.contacts[ada].companies = [f"Company {n}" for n in range(60)]
    result = await perform(intercom, job_for(Right.ACCESS, by_mail(ADA)))
    (contact,) = [each for each in result.exports if each.name == "contact-1"]
    assert len(contact.content["companies"]) == 60


@pytest.mark.parametrize("version", ["2.11", "2.12", "2.9", "latest"])
def test_a_version_without_deletion_of_conversations_is_refused(version):
    """There 404 would be taken for a conversation that is gone already."""
    with pytest.raises(ValueError, match="version"):
        IntercomSettings(token=SecretStr(TOKEN), version=version)
