"""Workers share intake keys through the store, on every database: made once, learnt by all, destroyed when all was read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.core.intake_keys import IntakePolicy
from orchestrator.core.policy import Policy
from orchestrator.ports import OutRecord, Record, ServiceKey
from orchestrator.shell.inbox import Inbox, QuarantineLimit
from orchestrator.shell.intake_keys import IntakeKeys
from orchestrator.shell.translate import Translator
from orchestrator.shell.work import Ground
from schemas.errors import ConfigurationError, OrchestratorError, ProtocolViolation
from schemas.intake import IntakeKey, IntakePublicKey, open_intake, seal_intake
from schemas.portal import build_request, record_of
from schemas.registry import Registry
from schemas.requests import Verification
from schemas.sealed import SealingKey
from schemas.topics import Topics
from schemas.vocabulary import AssuranceLevel

POLICY = IntakePolicy()
DAY = timedelta(days=1)
ID = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"


#: A key is needed as long as either topic of requests holds what was sealed to it.
FIRST, URGENT = (("t.requests.v1", 0), ("t.requests.urgent.v1", 0))


class World:
    """A clock, and topics whose ends and whose reader the test moves; both are what the ports promise."""

    def __init__(self) -> None:
        self.at = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
        self.end, self.read = {FIRST: 10, URGENT: 5}, {FIRST: 10, URGENT: 5}
        self.is_away = False

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)

    async def positions(self) -> tuple[Mapping[tuple[str, int], int], Mapping[tuple[str, int], int]]:
        if self.is_away:
            raise OrchestratorError("the broker is away")
        return dict(self.end), dict(self.read)


@pytest.fixture
async def stores(database: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    first, second = make_engine(database), make_engine(database)
    schema.upgrade(first)
    opened = SqlStore(first), SqlStore(second)
    yield opened
    for store in opened:
        await store.aclose()


ENCRYPTION = KeyEncryption([SealingKey("kek", b"k" * 32)])


def worker(store: SqlStore, world: World, encryption: KeyEncryption = ENCRYPTION) -> IntakeKeys:
    metrics = WorkerMetrics(CollectorRegistry())
    return IntakeKeys(store, encryption, clock=world, backlog=world, metrics=metrics, policy=POLICY)


def overdue(keys: IntakeKeys) -> float | None:
    assert isinstance(keys._metrics, WorkerMetrics)
    return keys._metrics.registry.get_sample_value("dsr_intake_keys_overdue")


def names(keys: IntakeKeys) -> list[str]:
    return [key.kid for key in keys.published().keys]


async def test_workers_that_start_at_once_share_one_key(stores: tuple[SqlStore, SqlStore]) -> None:
    """Both make it, the store keeps the first, both open what is sealed to it; the database holds it wrapped only."""
    world = World()
    one, other = (worker(store, world) for store in stores)
    await asyncio.gather(one.turn(), other.turn())
    assert one.published() == other.published() and len(one.published().keys) == 1
    sealed = seal_intake(b"x", one.published().current, ID)
    assert open_intake(sealed, one.private, ID) == open_intake(sealed, other.private, ID) == b"x"
    (stored,) = await stores[0].service_keys()
    assert stored.wrapped is not None and one.private[stored.kid].unsafe_bytes() not in stored.wrapped
    assert stored.public == one.published().current.model_dump_json().encode()


async def test_a_worker_killed_after_making_a_key_makes_no_second_one(stores: tuple[SqlStore, SqlStore]) -> None:
    """The next life finds what the last one saved, whether or not that had come to use it."""
    world = World()
    first = worker(stores[0], world)
    await first.turn()
    again = worker(stores[1], world)
    await again.turn()
    assert again.published() == first.published()
    assert len(await stores[1].service_keys()) == 1


async def test_rotation_reaches_every_worker_before_portals_hear_of_it(stores: tuple[SqlStore, SqlStore]) -> None:
    """The new key is current after the lead; the other worker opens it though it never restarted; the old one still opens."""
    world = World()
    one, other = (worker(store, world) for store in stores)
    await one.turn()
    await other.turn()
    old = one.published().current
    world.at += 4 * DAY
    await one.turn()
    assert names(one) == [old.kid], "nobody is told before all can know"
    world.at += POLICY.lead
    assert one.published().current != old and names(one)[1:] == [old.kid]
    sealed = seal_intake(b"new", one.published().current, ID)
    with pytest.raises(ProtocolViolation) as caught:
        open_intake(sealed, other.private, ID)
    assert caught.value.field == "sealed.kid"
    assert await other.learn()
    assert open_intake(sealed, other.private, ID) == b"new"
    assert open_intake(seal_intake(b"old", old, ID), other.private, ID) == b"old"


async def test_names_that_nobody_made_cost_the_store_little(stores: tuple[SqlStore, SqlStore]) -> None:
    """Whoever seals to invented names makes a worker look once in a few seconds, not once a record."""
    world = World()
    one = worker(stores[0], world)
    await one.turn()
    asked = 0
    real = stores[0].service_keys

    async def counted() -> list[ServiceKey]:
        nonlocal asked
        asked += 1
        return await real()

    stores[0].service_keys = counted  # type: ignore[method-assign] # the call is counted and made
    for _ in range(100):
        assert not await one.learn()
    assert asked == 0, "the turn has just looked"
    world.at += timedelta(seconds=6)
    for _ in range(100):
        assert not await one.learn()
    assert asked == 1


async def rotated(store: SqlStore, world: World) -> tuple[IntakeKeys, str, str]:
    keys = worker(store, world)
    await keys.turn()
    (old,) = names(keys)
    world.at += 4 * DAY
    await keys.turn()
    world.at += POLICY.lead
    new = names(keys)[0]
    world.at += POLICY.grace + POLICY.kept
    return keys, old, new


async def alive(store: SqlStore) -> list[str]:
    return [key.kid for key in await store.service_keys() if key.wrapped is not None]


async def test_a_key_is_destroyed_when_its_time_is_over_and_all_was_read(stores: tuple[SqlStore, SqlStore]) -> None:
    """Gone from the store and from every worker's memory; what was sealed to it opens for nobody; its name stays."""
    world = World()
    keys, old, new = await rotated(stores[0], world)
    other = worker(stores[1], world)
    await other.turn()
    sealed = seal_intake(b"x", other.private[old].public if old in other.private else keys.private[old].public, ID)
    await keys.turn()
    await other.turn()
    assert await alive(stores[0]) == [new]
    for one in (keys, other):
        assert names(one) == [new]
        with pytest.raises(ProtocolViolation) as caught:
            open_intake(sealed, one.private, ID)
        assert (caught.value.code, caught.value.field) == ("identity_unreadable", "sealed.kid")
        assert "fetch the intake keys" in caught.value.remedy
    gone = next(key for key in await stores[0].service_keys() if key.kid == old)
    assert gone.wrapped is None and gone.destroyed_at == world.at


async def test_a_key_waits_while_a_record_from_before_is_unread(stores: tuple[SqlStore, SqlStore]) -> None:
    """Where the topic ended when the time was over must have been read, in every partition; what comes later does not count."""
    world = World()
    keys, old, new = await rotated(stores[0], world)
    world.read = {FIRST: 10, URGENT: 4}
    await keys.turn()
    assert await alive(stores[0]) == [old, new]
    world.at += DAY
    world.end = {FIRST: 500, URGENT: 7}
    world.read = {FIRST: 400}
    await keys.turn()
    assert await alive(stores[0]) == [old, new]
    assert overdue(keys) == 1
    world.read = {FIRST: 400, URGENT: 5}
    world.at += timedelta(minutes=1)
    await keys.turn()
    assert await alive(stores[0]) == [new]
    assert overdue(keys) == 0


async def test_a_broker_that_is_away_destroys_nothing_and_stops_nobody(stores: tuple[SqlStore, SqlStore]) -> None:
    """The turn goes on; the key is counted as overdue until it is gone; the broker is not asked at every turn."""
    world = World()
    keys, old, new = await rotated(stores[0], world)
    world.is_away = True
    await keys.turn()
    assert await alive(stores[0]) == [old, new]
    world.is_away = False
    await keys.turn()
    assert await alive(stores[0]) == [old, new], "asked again too soon"
    world.at += timedelta(minutes=1)
    await keys.turn()
    assert await alive(stores[0]) == [new]


async def test_a_worker_killed_between_two_turns_destroys_later_and_never_too_early(stores: tuple[SqlStore, SqlStore]) -> None:
    """What it knew of the topic's end dies with it: the next life notes the end anew, which is later, and waits for that."""
    world = World()
    keys, old, new = await rotated(stores[0], world)
    world.read = {FIRST: 9, URGENT: 5}
    await keys.turn()
    world.end, world.read = {FIRST: 20, URGENT: 5}, {FIRST: 15, URGENT: 5}
    life = worker(stores[1], world)
    await life.turn()
    assert await alive(stores[1]) == [old, new]
    world.read = {FIRST: 20, URGENT: 5}
    world.at += timedelta(minutes=1)
    await life.turn()
    assert await alive(stores[1]) == [new]


async def test_without_the_key_that_wrapped_them_no_worker_starts(stores: tuple[SqlStore, SqlStore]) -> None:
    """A wrong key-encryption key is a mistake of the whole installation, not a reason to make other intake keys."""
    world = World()
    await worker(stores[0], world).turn()
    with pytest.raises(ConfigurationError, match="DSR_KEY_ENCRYPTION_KEY"):
        await worker(stores[1], world, KeyEncryption([SealingKey("other", b"o" * 32)])).turn()
    assert len(await stores[0].service_keys()) == 1


async def test_an_operator_who_destroys_the_current_key_gets_another(stores: tuple[SqlStore, SqlStore]) -> None:
    """After a leak: the name is not used again, the new key is current at once because there is no other."""
    world = World()
    keys = worker(stores[0], world)
    await keys.turn()
    (leaked,) = names(keys)
    await stores[1].destroy_service_key(leaked, world.at)
    await keys.turn()
    assert names(keys) == [f"{leaked}-2"]


class Sent:
    """What was published."""

    def __init__(self) -> None:
        self.records: list[OutRecord] = []

    async def publish(self, records: Sequence[OutRecord]) -> None:
        self.records += records

    async def aclose(self) -> None:
        pass


REGISTRY = Registry.model_validate(
    {
        "version": "r1",
        "controller": {"title": "Example company", "zone": "Europe/Amsterdam", "calendar": "NL"},
        "portals": [{"id": "website", "title": "Website", "owner": "Web team"}],
        "systems": [
            {"id": "crm", "title": "CRM", "role": "processor", "owner": "Team", "connector": "any", "rights": ["erasure"],
             "needs": [{"kind": "email"}]}
        ],
    }
)  # fmt: skip


async def test_a_worker_looks_for_the_key_before_it_sets_a_record_aside(stores: tuple[SqlStore, SqlStore]) -> None:
    """A key that another worker made a moment ago opens its request; one that nobody made is set aside, in the same batch."""
    world, sent = World(), Sent()
    one, other = (worker(store, world) for store in stores)
    await one.turn()
    await other.turn()
    world.at += 4 * DAY
    await one.turn()
    world.at += POLICY.lead
    topics = Topics(prefix="t")
    keys = RequestKeys(ENCRYPTION, intake=other.private, grouping=SealingKey("grouping", b"g" * 32))
    ground = Ground(
        store=stores[1], keys=keys, translator=Translator(keys, topics), registry=REGISTRY,
        registries={REGISTRY.content_digest: REGISTRY}, policy=Policy(), worker="w",
    )  # fmt: skip
    metrics = WorkerMetrics(CollectorRegistry())
    inbox = Inbox(ground, sent, world, metrics, QuarantineLimit(world, at_most=10), learn_keys=other.learn)

    def record(offset: int, key: IntakePublicKey) -> Record:
        request = build_request(
            "erasure", {"email": ["someone@example.org"]}, portal="website", key=key, submitted_at=world.at,
            subject_request_id=f"00000000-0000-4000-8000-00000000000{offset}",
            verification=Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=world.at),
        )  # fmt: skip
        return Record(topics.requests, 0, offset, 0, *record_of(request))

    nobodys = IntakeKey.new("intake-nobody").public
    await inbox.process([record(0, nobodys), record(1, one.published().current)])
    orders = [each.key for each in sent.records if each.topic == topics.orders("crm")]
    (aside,) = [each for each in sent.records if each.topic == topics.quarantine]
    assert orders == [b"00000000-0000-4000-8000-000000000001"]
    assert (aside.key, dict(aside.headers)["dsr-field"]) == (b"00000000-0000-4000-8000-000000000000", b"sealed.kid")


async def test_a_destroyed_key_leaves_the_databases_own_files(tmp_path: Path) -> None:
    """On SQLite, where that can be asked for: neither the file nor its log holds the wrapped key after the next scrub."""
    engine = make_engine(f"sqlite:///{tmp_path / 'store.sqlite'}")
    schema.upgrade(engine)
    store, world = SqlStore(engine), World()

    def on_disk(wrapped: bytes) -> bool:
        return any(wrapped in file.read_bytes() for file in tmp_path.iterdir())

    keys, old, _ = await rotated(store, world)
    wrapped = next(key.wrapped for key in await store.service_keys() if key.kid == old)
    assert wrapped is not None and on_disk(wrapped)
    await keys.turn()
    await store.scrub()
    assert not on_disk(wrapped)
    await store.aclose()
