"""The Mailchimp connector against its stand-in, on a real port."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing, contextmanager
from typing import Any

import httpx
import pytest

from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, serve
from connectors.sdk.testing import ADA, BOB, job_for
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.mailchimp.client import subscriber_hash
from connectors.systems.mailchimp.connector import MailchimpConnector, MailchimpSettings, build
from connectors.systems.mailchimp.standin import API_KEY, PREFIX, MailchimpStandIn
from schemas.errors import ConfigurationError, SystemRejected, SystemUnavailable, Throttled
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

AUDIENCES = ("aud0000001", "aud0000002", "aud0000003")
EMAIL = {IdentifierKind.EMAIL: (ADA.email,)}
MOVED = "ada.new@example.org"


def member(person=ADA, list_id=AUDIENCES[0], **fields):
    names = {"FNAME": person.first_name, "LNAME": person.last_name, "PHONE": person.phone}
    return {"list_id": list_id, "email_address": person.email, "merge_fields": names, **fields}


class TestMailchimpContract(HttpConnectorContract):
    throttling_403 = Fault(status=403)
    vanishing_paths = ("/members/", "delete-permanent")
    completions = (FieldChange(field="first_name", new="Augusta"),)

    def stand_in(self, clock):
        return MailchimpStandIn(clock)

    def build(self, base_url, *, timeout_seconds):
        return build(MailchimpSettings(api_key=API_KEY, base_url=base_url + PREFIX, timeout_seconds=timeout_seconds))

    def plant(self, system, person, *, records=1):
        names = {"LNAME": person.last_name, "PHONE": person.phone}
        system.seed({"members": [member(person, list_id, merge_fields=names) for list_id in AUDIENCES[:records]]})

    def holds(self, system, person):
        return bool(system.find(person.email))


@contextmanager
def account(**switches):
    standin = MailchimpStandIn()
    standin.switches.update(switches)
    with serve(standin) as url:
        standin.url = url + PREFIX
        yield standin


def connected(standin, **settings):
    return aclosing(MailchimpConnector(MailchimpSettings(api_key=API_KEY, base_url=standin.url, timeout_seconds=5, **settings)))


async def run(standin, right, *, changes=(), identifiers=EMAIL, **settings):
    async with connected(standin, **settings) as connector:
        return await perform(connector, job_for(right, identifiers, changes=changes))


async def test_access_exports_what_hangs_on_the_member_from_every_audience():
    """The member, its activity, events, notes and tags come out, archived membership included, links left behind."""
    with account() as mailchimp:
        extras: dict[str, Any] = {
            "activity": [{"activity_type": "open", "campaign_title": f"Issue {n}"} for n in range(7)],
            "events": [{"name": "visited_stand"}],
            "notes": [{"id": 1, "note": "met at the fair"}],
            "tags": [{"id": 2, "name": "visitor"}],
        }
        mailchimp.seed({"members": [member(**extras), member(list_id=AUDIENCES[2], status="archived")]})
        result = await run(mailchimp, Right.ACCESS, page_size=3)
    assert result.outcome.count == 2
    assert [export.name for export in result.exports] == [f"01-audience-{AUDIENCES[0]}", f"02-audience-{AUDIENCES[2]}"]
    content = result.exports[0].content
    assert {key: content[key] for key in extras} == extras
    assert "_links" not in content["member"]
    assert result.exports[1].content["member"]["status"] == "archived"


@pytest.mark.parametrize("activity_has_total", [True, False])
async def test_pages_are_read_to_the_end(activity_has_total):
    """A list longer than a page comes whole, whether or not the vendor states its total."""
    with account(activity_has_total=activity_has_total) as mailchimp:
        mailchimp.seed({"members": [member(activity=[{"n": n} for n in range(6)])]})
        result = await run(mailchimp, Right.ACCESS, page_size=2)
    assert [row["n"] for row in result.exports[0].content["activity"]] == list(range(6))


async def test_the_hash_alone_is_enough():
    """An order may carry the MD5 of the address instead of the address."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        digest = hashlib.md5(ADA.email.lower().encode(), usedforsecurity=False).hexdigest()
        result = await run(mailchimp, Right.ERASURE, identifiers={IdentifierKind.EMAIL: (digest,)})
        assert result.outcome.code is OutcomeCode.FULFILLED
        assert not mailchimp.find(ADA.email)


async def test_the_address_never_travels_in_a_path():
    """Members are addressed by hash: no URL of ours shows a mail address to proxies and access logs."""
    paths = []
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        guarded = mailchimp._at
        mailchimp._at = lambda request: paths.append(str(request.url)) or guarded(request)
        for right in (Right.ACCESS, Right.OBJECTION, Right.ERASURE):
            await run(mailchimp, right)
    assert paths
    assert not [path for path in paths if "ada" in path or "%40" in path or "@" in path]


async def test_erasure_silences_everywhere_before_it_deletes_anywhere():
    """If deletion fails after the first audience, no audience sends mail any more."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member(list_id=list_id) for list_id in AUDIENCES]})
        mailchimp.fail_nth(2, Fault(status=503, path="delete-permanent"))
        with pytest.raises(SystemUnavailable):
            await run(mailchimp, Right.ERASURE)
        left = mailchimp.find(ADA.email)
        assert set(left) == set(AUDIENCES[1:])
        assert {one["status"] for one in left.values()} == {"unsubscribed"}
        again = await run(mailchimp, Right.ERASURE)
        assert again.outcome.count == 2
        assert not mailchimp.find(ADA.email)


@pytest.mark.parametrize("repeat_delete_status", [404, 204])
async def test_erasure_takes_archived_members_and_survives_its_repetition(repeat_delete_status):
    """Archived, cleaned and pending members go too; a second erasure finds nothing, however the vendor answers repeats."""
    with account(repeat_delete_status=repeat_delete_status) as mailchimp:
        statuses = zip(AUDIENCES, ("archived", "cleaned", "pending"), strict=True)
        mailchimp.seed({"members": [member(list_id=list_id, status=status) for list_id, status in statuses]})
        first = await run(mailchimp, Right.ERASURE)
        assert first.outcome.count == 3
        assert first.outcome.effective_by is None
        assert "reimport_blocked_by_vendor" in first.notes
        assert not mailchimp.find(ADA.email)
        assert (await run(mailchimp, Right.ERASURE)).outcome.code is OutcomeCode.NOTHING_HELD


async def test_an_erased_address_cannot_be_imported_again():
    """The vendor answers "Forgotten Email Not Subscribed": the stand-in keeps that promise, too."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        await run(mailchimp, Right.ERASURE)
        async with httpx.AsyncClient(auth=("any", API_KEY)) as outsider:
            body = {"email_address": ADA.email, "status": "subscribed"}
            answer = await outsider.post(f"{mailchimp.url}/lists/{AUDIENCES[0]}/members", json=body)
    assert (answer.status_code, answer.json()["title"]) == (400, "Forgotten Email Not Subscribed")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_deletion_that_deleted_nothing_is_noticed():
    """204 with the member still there is verification_failed, not a success."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        mailchimp.fail(Fault(status=204, path="delete-permanent"))
        with pytest.raises(SystemUnavailable) as caught:
            await run(mailchimp, Right.ERASURE)
        assert caught.value.reason == "verification_failed"


@pytest.mark.parametrize("right", [Right.OBJECTION, Right.UNSUBSCRIBE])
async def test_silencing_is_idempotent_and_leaves_the_data(right):
    """Every audience is unsubscribed once; the second time nothing is written and the answer is the same."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member(list_id=list_id) for list_id in AUDIENCES[:2]]})
        first = await run(mailchimp, right)
        assert {one["status"] for one in mailchimp.find(ADA.email).values()} == {"unsubscribed"}
        patches = mailchimp.counts[f"PATCH {PREFIX}/lists/{{list_id}}/members/{{member}}"]
        second = await run(mailchimp, right)
        assert (first.outcome.count, second.outcome.count) == (2, 2)
        assert mailchimp.counts[f"PATCH {PREFIX}/lists/{{list_id}}/members/{{member}}"] == patches == 2


async def test_an_unsubscribe_concerns_the_newsletter_and_an_objection_everything():
    """With `newsletter_lists` set, an unsubscribe leaves other audiences; an objection does not."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member(list_id=list_id) for list_id in AUDIENCES]})
        await run(mailchimp, Right.UNSUBSCRIBE, newsletter_lists=(AUDIENCES[1],))
        assert [one["status"] for one in mailchimp.find(ADA.email).values()] == ["subscribed", "unsubscribed", "subscribed"]
        await run(mailchimp, Right.OBJECTION, newsletter_lists=(AUDIENCES[1],))
        assert {one["status"] for one in mailchimp.find(ADA.email).values()} == {"unsubscribed"}


async def test_a_newsletter_that_does_not_exist_is_said_so():
    """A misspelt audience is an error, not a person who is not held."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        with pytest.raises(SystemRejected, match="NEWSLETTER_LISTS"):
            await run(mailchimp, Right.UNSUBSCRIBE, newsletter_lists=("nowhere",))


@pytest.mark.parametrize("archived_patch", ["applies", "stays"])
@pytest.mark.parametrize("unsubscribe_archived", [True, False])
async def test_archived_members_end_up_silent(archived_patch, unsubscribe_archived):
    """Whatever a status change does to an archived member, it never ends up subscribed."""
    with account(archived_patch=archived_patch) as mailchimp:
        mailchimp.seed({"members": [member(status="archived")]})
        result = await run(mailchimp, Right.OBJECTION, unsubscribe_archived=unsubscribe_archived)
        assert result.outcome.count == 1
        assert ("archived_left_archived" in result.notes) is not unsubscribe_archived
        (left,) = mailchimp.find(ADA.email).values()
        assert left["status"] == ("unsubscribed" if archived_patch == "applies" and unsubscribe_archived else "archived")


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("right", [Right.OBJECTION, Right.ERASURE])
async def test_compliance_state_is_silence_and_not_a_failure(blocks, right):
    """`Member In Compliance State` means that the vendor sends nothing anyway: noted, and erasure goes on."""
    with account(compliance_blocks_unsubscribe=blocks) as mailchimp:
        mailchimp.seed({"members": [member(compliance=True)]})
        result = await run(mailchimp, right)
        assert result.outcome.code is OutcomeCode.FULFILLED
        if right is Right.OBJECTION:
            assert ("silent_by_compliance_state" in result.notes) is blocks
        else:
            assert not mailchimp.find(ADA.email)


@pytest.mark.parametrize("sms_patch", ["applies", "ignored"])
async def test_an_objection_ends_sms_or_asks_for_a_person(sms_patch):
    """Marketing by SMS ends with the objection; where the API does not end it, the order is not called fulfilled."""
    with account(sms_patch=sms_patch) as mailchimp:
        mailchimp.seed({"members": [member(sms_subscription_status="subscribed")]})
        if sms_patch == "applies":
            assert (await run(mailchimp, Right.OBJECTION)).outcome.code is OutcomeCode.FULFILLED
            (left,) = mailchimp.find(ADA.email).values()
            assert left["sms_subscription_status"] == "unsubscribed"
        else:
            with pytest.raises(SystemRejected, match="SMS"):
                await run(mailchimp, Right.OBJECTION)


async def test_a_new_address_moves_the_member_to_its_new_hash():
    """Address and fields change in one call per audience, and the new hash is where the member lives."""
    changes = (FieldChange(field="email", new=MOVED), FieldChange(field="last_name", new="King"))
    with account() as mailchimp:
        mailchimp.seed({"members": [member(list_id=list_id) for list_id in AUDIENCES[:2]]})
        result = await run(mailchimp, Right.RECTIFICATION, changes=changes)
        assert result.outcome.count == 2
        assert not mailchimp.find(ADA.email)
        moved = mailchimp.find(MOVED)
        assert {one["merge_fields"]["LNAME"] for one in moved.values()} == {"King"}
        assert all(one["id"] == subscriber_hash(MOVED) for one in moved.values())


async def test_a_half_done_move_is_completed_by_its_repetition():
    """One audience moved, then an outage: the repetition moves the rest and counts both."""
    changes = (FieldChange(field="email", new=MOVED),)
    with account() as mailchimp:
        mailchimp.seed({"members": [member(list_id=list_id) for list_id in AUDIENCES[:2]]})
        mailchimp.fail_nth(2, Fault(status=503, method="PATCH"))
        with pytest.raises(SystemUnavailable):
            await run(mailchimp, Right.RECTIFICATION, changes=changes)
        assert (set(mailchimp.find(MOVED)), set(mailchimp.find(ADA.email))) == ({AUDIENCES[0]}, {AUDIENCES[1]})
        result = await run(mailchimp, Right.RECTIFICATION, changes=changes)
        assert result.outcome.count == 2
        assert set(mailchimp.find(MOVED)) == set(AUDIENCES[:2])


async def test_an_address_that_is_taken_needs_a_person():
    """`Member Exists`: two records must be merged by hand; nothing is overwritten and nobody is named."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member(), member(BOB)]})
        with pytest.raises(SystemRejected) as caught:
            await run(mailchimp, Right.RECTIFICATION, changes=(FieldChange(field="email", new=BOB.email),))
        assert "Member Exists" in str(caught.value)
        assert BOB.email not in str(caught.value)
        assert mailchimp.find(ADA.email)


async def test_a_value_the_person_did_not_mean_is_not_overwritten_anywhere():
    """One audience with another old value stops the order before any audience is written to."""
    old = hashlib.sha256(ADA.last_name.encode()).hexdigest()
    changes = (FieldChange(field="last_name", new="King", old_sha256=old),)
    with account() as mailchimp:
        other = member(list_id=AUDIENCES[1], merge_fields={"LNAME": "Somebody"})
        mailchimp.seed({"members": [member(), other]})
        with pytest.raises(SystemRejected, match="last_name"):
            await run(mailchimp, Right.RECTIFICATION, changes=changes)
        names = [one["merge_fields"]["LNAME"] for one in mailchimp.find(ADA.email).values()]
        assert names == [ADA.last_name, "Somebody"]


async def test_completion_does_not_overwrite():
    """A field that already holds something else is a rectification, and a person must say so."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        with pytest.raises(SystemRejected, match="rectification"):
            await run(mailchimp, Right.COMPLETION, changes=(FieldChange(field="last_name", new="King"),))


async def test_one_part_of_an_address_is_corrected_and_the_rest_kept():
    """The vendor takes addresses whole: the other parts are sent back as they were."""
    address = {"addr1": "Kade 1", "city": "Breda", "state": "NB", "zip": "4800 AA", "country": "NL"}
    with account() as mailchimp:
        mailchimp.seed({"members": [member(merge_fields={"LNAME": ADA.last_name, "ADDRESS": address})]})
        await run(mailchimp, Right.RECTIFICATION, changes=(FieldChange(field="city", new="Delft"),))
        (left,) = mailchimp.find(ADA.email).values()
        assert left["merge_fields"]["ADDRESS"] == address | {"city": "Delft"}


@pytest.mark.parametrize("address_parts", [["addr1", "city", "state", "zip"], []])
async def test_an_incomplete_address_is_refused_or_taken_as_the_vendor_decides(address_parts):
    """Where the vendor refuses half an address the order asks for a person; where it takes it, it is done."""
    change = (FieldChange(field="city", new="Delft"),)
    with account(address_parts=address_parts) as mailchimp:
        mailchimp.seed({"members": [member()]})
        if address_parts:
            with pytest.raises(SystemRejected):
                await run(mailchimp, Right.COMPLETION, changes=change)
        else:
            assert (await run(mailchimp, Right.COMPLETION, changes=change)).outcome.count == 1


async def test_fields_the_audience_does_not_have_are_noted():
    """An unknown field is nothing held, with a note; beside a known one it is only a note."""
    unknown, known = FieldChange(field="iban", new="x"), FieldChange(field="last_name", new="King")
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        alone = await run(mailchimp, Right.RECTIFICATION, changes=(unknown,))
        assert (alone.outcome.code, alone.notes) == (OutcomeCode.NOTHING_HELD, ("some_fields_not_held",))
        both = await run(mailchimp, Right.RECTIFICATION, changes=(unknown, known))
        assert (both.outcome.code, both.notes) == (OutcomeCode.FULFILLED, ("some_fields_not_held",))


async def test_a_change_the_vendor_drops_is_noticed():
    """An answer that still shows the old value is not a rectification."""
    with account() as mailchimp:
        mailchimp.seed({"members": [member()]})
        mailchimp._apply = lambda *_: None
        with pytest.raises(SystemRejected) as caught:
            await run(mailchimp, Right.RECTIFICATION, changes=(FieldChange(field="last_name", new="King"),))
        assert caught.value.reason == "verification_failed"


@pytest.mark.parametrize("throttle_with", [429, 403])
async def test_more_than_ten_calls_at_once_are_throttled_and_we_make_eight(throttle_with):
    """The vendor refuses the eleventh simultaneous call, with 429 or a bare 403; one connector never makes that many."""
    with account(throttle_with=throttle_with, latency_seconds=0.05) as mailchimp:
        mailchimp.seed({"members": [member()]})
        async with connected(mailchimp) as connector:
            await asyncio.gather(*(perform(connector, job_for(Right.ACCESS, EMAIL)) for _ in range(20)))
            assert 2 <= mailchimp.peak <= 8
        async with connected(mailchimp) as one, connected(mailchimp) as other:
            jobs = [perform(c, job_for(Right.ACCESS, EMAIL)) for c in (one, other) for _ in range(8)]
            results = await asyncio.gather(*jobs, return_exceptions=True)
            assert any(isinstance(result, Throttled) for result in results)
            assert all(isinstance(result, Throttled) or result.outcome.count == 1 for result in results)


async def test_a_wrong_key_is_said_by_check():
    """`check` refuses a key that the account does not know."""
    with account() as mailchimp:
        async with connected(mailchimp) as connector:
            assert await connector.check() == "API key accepted, 3 audiences in the account"
        settings = MailchimpSettings(api_key="wrong-us21", base_url=mailchimp.url)
        connector = MailchimpConnector(settings)
        with pytest.raises(Exception, match="401") as caught:
            await connector.check()
        await connector.aclose()
    assert type(caught.value).__name__ == "CredentialsRefused"
    assert "wrong-us21" not in repr(settings)


def test_the_key_names_the_data_centre(monkeypatch):
    """The base URL follows from the key; a key without a data centre is a configuration error that does not quote it."""
    assert MailchimpSettings(api_key="abc-us21").address == "https://us21.api.mailchimp.com/3.0"
    monkeypatch.setenv("DSR_MAILCHIMP_API_KEY", "secretwithoutend")
    with pytest.raises(ConfigurationError) as caught:
        build()
    assert "data centre" in str(caught.value)
    assert "secretwithoutend" not in str(caught.value)
