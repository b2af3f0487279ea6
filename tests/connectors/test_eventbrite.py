"""The Eventbrite connector against its stand-in, in every position of every unverified switch."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from connectors.sdk.clock import ManualClock
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, RateLimit, serve
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.sdk.testing_http import HttpConnectorContract
from connectors.systems.eventbrite.connector import EventbriteSettings, build
from connectors.systems.eventbrite.standin import EVENTS, TOKEN, EventbriteStandIn
from schemas.errors import SystemRejected, SystemUnavailable, Throttled
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

OPEN_DAY, MEET_UP = EVENTS
LISTS = "GET /organizations/{organization_id}/{what}/"


def settings_for(url, **settings):
    return EventbriteSettings(base_url=url, token=TOKEN, **({"timeout_seconds": 5, "calls_per_second": 1000.0} | settings))


def registration(person, **more):
    names = {"email": person.email, "first_name": person.first_name, "last_name": person.last_name, "phone": person.phone}
    return names | more


class EventbriteMixin:
    settings: ClassVar[dict[str, Any]] = {}
    switches: ClassVar[dict[str, Any]] = {}
    # All rights begin with the same read, and none writes.
    faulted_rights: ClassVar[tuple[Right, ...]] = (Right.ERASURE,)

    def stand_in(self, clock):
        standin = EventbriteStandIn(clock)
        standin.switches.update(self.switches)
        return standin

    def build(self, base_url, *, timeout_seconds):
        return build(settings_for(base_url, timeout_seconds=timeout_seconds, **self.settings))

    def plant(self, system, person, *, records=1):
        events = list(EVENTS)
        system.seed({"registrations": [registration(person, event_id=events[n % 2]) for n in range(records)]})

    def holds(self, system, person):
        return bool(system.holding(person.email))

    async def settle(self, connector, system, clock, job, result):
        """Have the organiser do what is asked of him, as late as possible."""
        for _ in range(3):
            if result.outcome.code is not OutcomeCode.ACCEPTED:
                return result
            clock.advance(3600)
            result = await connector.poll(replace(job, now=clock.now()), result.handle)
            ids = system.holding(job.every(IdentifierKind.EMAIL)[0])
            if job.right is Right.RECTIFICATION:
                system.correct(ids, {change.field: change.new for change in job.changes})
            else:
                system._looked_after.update(ids)
                system.work()
        raise AssertionError("the organiser has done it, and it was not seen")


class TestEventbriteContract(EventbriteMixin, HttpConnectorContract):
    """The whole contract with lists of an organisation."""


class TestEventbriteContractOtherwise(EventbriteMixin, ConnectorContract):
    """Event by event, with pages of two, 410 and deletions that leave an entry; faults are the same in all positions."""

    open_system = HttpConnectorContract.open_system
    connect = HttpConnectorContract.connect

    settings: ClassVar[dict[str, Any]] = {"list_by": "event"}
    switches: ClassVar[dict[str, Any]] = {
        "page_size": 2,
        "organization_lists": False,
        "gone_status": 410,
        "anonymises": True,
    }


@contextmanager
def eventbrite(**switches):
    standin = EventbriteStandIn(ManualClock(NOW))
    standin.switches.update(switches)
    with serve(standin) as standin.url:
        yield standin


def connected(standin, **settings):
    return aclosing(build(settings_for(standin.url, **settings)))


def job(right=Right.ERASURE, changes=()):
    return job_for(right, ADA.known_by(IdentifierKind.EMAIL), changes=changes)


async def do(standin, job, **settings):
    async with connected(standin, **settings) as connector:
        return await perform(connector, job)


async def test_buyers_are_found_beside_attendees_and_others_stay_out():
    """Whoever bought a ticket for somebody else gets the order and not the other's registration, and the other way round."""
    with eventbrite() as account:
        account.seed({"registrations": [registration(BOB, buyer=registration(ADA)), registration(BOB)]})
        found = await do(account, job(Right.ACCESS))
        assert found.outcome.count == 1
        assert [(export.name, len(export.content)) for export in found.exports] == [("orders", 1)]
        assert not traces_in(str(found.exports[0].content), BOB)
        assert "resource_uri" not in found.exports[0].content[0]
        only_attendees = await do(account, job(Right.ACCESS), orders=False)
        assert only_attendees.outcome.code is OutcomeCode.NOTHING_HELD


@pytest.mark.parametrize("list_by", ["organization", "event"])
async def test_every_page_is_read(list_by):
    """However long the lists, each registration of the person is found, once."""
    with eventbrite() as account:
        people = [registration(person, event_id=event) for event in EVENTS for person in (ADA, BOB, ADA)]
        account.seed({"registrations": people})
        for page_size in (1, 2, 5, 50):
            account.switches["page_size"] = page_size
            assert (await do(account, job(Right.ACCESS), list_by=list_by)).outcome.count == 8


async def test_a_list_that_goes_round_in_a_circle_ends():
    """The same continuation twice: SystemUnavailable, never an endless order."""
    page = {"pagination": {"has_more_items": True, "continuation": "again"}, "attendees": []}
    with eventbrite() as account:
        account.fail(Fault(status=200, json=page, path="/attendees/", times=10))
        with pytest.raises(SystemUnavailable, match="circle"):
            await do(account, job())
        assert account.counts[LISTS] == 2


async def test_a_page_that_does_not_say_whether_more_follow_is_no_end():
    """What may be half a list is refused, and not taken for absence."""
    with eventbrite() as account:
        for pagination in (None, {}, {"has_more_items": "yes"}, {"has_more_items": True, "continuation": None}):
            account.fail(Fault(status=200, json={"pagination": pagination, "attendees": []}, path="/attendees/"))
            with pytest.raises(SystemRejected):
                await do(account, job())


async def test_an_erasure_waits_for_the_organiser_and_believes_only_what_it_reads():
    """Accepted with the date and the note, however often it is asked; fulfilled once each registration is gone."""
    with eventbrite() as account:
        account.seed({"registrations": [registration(ADA), registration(BOB), registration(ADA, event_id=MEET_UP)]})
        first = await do(account, job())
        assert first.outcome.code is OutcomeCode.ACCEPTED
        assert first.outcome.expected_by == NOW + timedelta(days=10)
        assert first.notes == ("registrations_changed_by_hand",)
        assert not traces_in(f"{first!r} {first.handle}", ADA)
        async with connected(account) as connector:
            again = await connector.poll(job(), first.handle)
            assert (again.outcome, again.handle) == (first.outcome, first.handle)
            attendees = [id_ for id_ in account.holding(ADA.email) if id_ in account.attendees]
            for id_ in attendees:
                del account.attendees[id_]
            assert (await connector.poll(job(), first.handle)).outcome == first.outcome, "the orders are still there"
            for id_ in account.holding(ADA.email):
                del account.orders[id_]
            done = await connector.poll(job(), first.handle)
        assert (done.outcome.code, done.outcome.count) == (OutcomeCode.FULFILLED, 4)
        assert account.holding(BOB.email)


async def test_the_organiser_of_the_stand_in_deletes_what_was_looked_after():
    """`POST /work` ends a waiting erasure, and touches nobody else."""
    with eventbrite() as account:
        account.seed({"registrations": [registration(ADA), registration(BOB)]})
        async with connected(account) as connector:
            result = await perform(connector, job())
            for _ in range(3):
                if result.outcome.code is OutcomeCode.ACCEPTED:
                    result = await connector.poll(job(), result.handle)
                    account.work()
        assert result.outcome.code is OutcomeCode.FULFILLED
        assert len(account.holding(BOB.email)) == 2


async def test_a_correction_is_done_when_every_registration_shows_it():
    """Fields that an entry lacks do not keep it open; a value that is right already needs nobody."""
    changes = (FieldChange(field="last_name", new="Byron"), FieldChange(field="city", new="Delft"))
    with eventbrite() as account:
        account.seed({"registrations": [registration(ADA)]})
        first = await do(account, job(Right.RECTIFICATION, changes))
        assert first.outcome.code is OutcomeCode.ACCEPTED
        assert first.notes == ("registrations_changed_by_hand", "some_fields_not_held")
        account.correct(account.holding(ADA.email), {"last_name": "Byron"})
        async with connected(account) as connector:
            done = await connector.poll(job(Right.RECTIFICATION, changes), first.handle)
        assert (done.outcome.code, done.outcome.count) == (OutcomeCode.FULFILLED, 2)
        right_already = await do(account, job(Right.RECTIFICATION, changes))
        assert right_already.outcome.code is OutcomeCode.FULFILLED


async def test_a_corrected_address_is_followed_to_its_registration():
    """A new address takes the old one away: the entry is read back by its id, not searched again."""
    changes = (FieldChange(field="email", new="ada.byron@example.org"),)
    with eventbrite() as account:
        account.seed({"registrations": [registration(ADA)]})
        first = await do(account, job(Right.RECTIFICATION, changes))
        account.correct(account.holding(ADA.email), {"email": "ada.byron@example.org"})
        async with connected(account) as connector:
            done = await connector.poll(job(Right.RECTIFICATION, changes), first.handle)
        assert done.outcome.code is OutcomeCode.FULFILLED


async def test_another_wrong_value_than_the_person_named_is_for_a_person_to_look_at():
    """A digest of the old value that fits nothing held: SystemRejected, and no task."""
    changes = (FieldChange(field="last_name", new="Byron", old_sha256="0" * 64),)
    with eventbrite() as account:
        account.seed({"registrations": [registration(ADA)]})
        with pytest.raises(SystemRejected, match="last_name"):
            await do(account, job(Right.RECTIFICATION, changes))


async def test_an_organisation_that_the_token_may_not_see_is_no_absence():
    """A misspelt id is refused and named by its setting."""
    with eventbrite() as account:
        account.seed({"registrations": [registration(ADA)]})
        with pytest.raises(SystemRejected, match="DSR_EVENTBRITE_ORGANIZATION_IDS"):
            await do(account, job(), organization_ids=("4711",))


async def test_the_hourly_limit_is_throttling_without_seconds():
    """429 HIT_RATE_LIMIT names no wait: the runtime chooses it."""
    with eventbrite() as account:
        account.limit(RateLimit(requests=1, per_seconds=3600.0))
        with pytest.raises(Throttled) as caught:
            await do(account, job())
        assert caught.value.retry_after_seconds is None


async def test_a_wrong_handle_is_rejected():
    """What the journal cannot give back whole is for a person to retry."""
    with eventbrite() as account:
        async with connected(account) as connector:
            with pytest.raises(SystemRejected, match="handle"):
                await connector.poll(job(), "{}")
