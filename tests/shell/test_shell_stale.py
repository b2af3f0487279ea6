"""A request that another worker closes between two looks at the store is decided again; an identity that is lost is said."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_guards_conflict import SetClock, record_of
from test_shell_pipeline import Broker, inbox_on
from worker_kit import request

from orchestrator.ports import Known, Record, Wanted
from orchestrator.shell.inbox import Inbox
from schemas.commands import Retry
from schemas.requests import WithdrawRequest
from schemas.topics import Topics
from schemas.vocabulary import Right
from schemas.wire import encode, headers_of
from tests.simulation.store import Database, SimStore

TOPICS = Topics()


class StalledStore(SimStore):
    """Gives once what was read before."""

    stale: Known | None = None

    async def know(self, wanted: Wanted) -> Known:
        stale, self.stale = self.stale, None
        return stale or await super().know(wanted)


@pytest.fixture
def store() -> StalledStore:
    return StalledStore(Database())


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def broker() -> Broker:
    return Broker(acknowledges=True)


@pytest.fixture
def inbox(tmp_path: Path, broker: Broker, store: StalledStore, clock: SetClock) -> Inbox:
    return inbox_on(store, broker, clock, tmp_path)


async def escalated(inbox: Inbox, clock: SetClock) -> tuple[str, Record]:
    """Have a request accepted whose systems stay silent; return the command that makes one of them be asked again."""
    asked = request(Right.ACCESS, email="one@example.org")
    await inbox.process([record_of(asked)])
    clock.at += timedelta(days=5)
    await inbox.wake([asked.subject_request_id])
    retry = Retry(
        command_id="retry-0001",
        subject_request_id=asked.subject_request_id,
        actor="ops:a",
        reason="the token was renewed",
        issued_at=clock.at,
        system="crm",
    )
    key = asked.subject_request_id.encode()
    return asked.subject_request_id, Record(TOPICS.commands, 0, 0, 0, key, encode(retry), headers_of(retry))


async def test_a_request_closed_between_two_looks_is_decided_again(
    inbox: Inbox, broker: Broker, store: StalledStore, clock: SetClock
) -> None:
    """Its row was read while it was open, and its identity was gone: no error and no order, but what its state today says."""
    about, command = await escalated(inbox, clock)
    read = await store.know(Wanted(requests=frozenset({about})))
    said = WithdrawRequest(subject_request_id=about, portal="website", withdrawn_at=clock.at)
    withdrawn = Record(TOPICS.requests, 0, 1, 0, about.encode(), encode(said), headers_of(said))
    await inbox.process([withdrawn])
    assert about not in store.database.identities
    orders = broker.topics.count(TOPICS.orders("crm"))
    store.stale = replace(read, identities={})
    await inbox.process([command])
    assert store.stale is None
    assert broker.topics.count(TOPICS.orders("crm")) == orders
    assert broker.topics[-2:] == [TOPICS.quarantine, TOPICS.status], "a command to a closed request is refused"


async def test_an_identity_that_is_lost_stops_its_request_alone(
    inbox: Inbox, broker: Broker, store: StalledStore, clock: SetClock
) -> None:
    """The row is as it was read, so nobody has closed it: what needs the identity is set aside, and the worker goes on."""
    about, command = await escalated(inbox, clock)
    del store.database.identities[about]
    orders = broker.topics.count(TOPICS.orders("crm"))
    await inbox.process([command])
    assert broker.topics.count(TOPICS.orders("crm")) == orders
    assert TOPICS.quarantine in broker.topics
    await inbox.process([record_of(request(email="two@example.org"), 1)])
    assert broker.topics.count(TOPICS.orders("crm")) == orders + 1
