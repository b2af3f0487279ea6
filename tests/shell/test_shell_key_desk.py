"""The key desk: who is given what, and that it is in the log, signed and acknowledged, before it leaves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.ports import Holding, OutRecord, PublishFailed
from orchestrator.shell.key_desk import KeyDesk, refusal_of
from schemas.errors import ConfigurationError, StoreUnavailable
from schemas.ids import order_id
from schemas.metric_labels import KeyRefusal
from schemas.order_keys import KeysReleased, WantedKey, order_root, root_to_text
from schemas.sealed import SealingKey
from schemas.signatures import Verifier, leaf_of, signature_in
from schemas.subject import SubjectData
from schemas.topics import Topics
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import IdentifierKind, OrderPhase, Phase
from schemas.wire import decode
from tests.keys_kit import request_keys

NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
KEYS = request_keys(SealingKey("dev", bytes(range(32))))
TOPICS = Topics(prefix="t")
US = SigningKey.new("orchestrator")
OPEN, GONE, UNKNOWN, WAITING = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 5))
PERSON = SubjectData(identifiers={IdentifierKind.EMAIL: ("robin@example.org",)})
KEY = KEYS.new_request_key()


def wanted(request: str, system: str = "crm") -> WantedKey:
    return WantedKey(subject_request_id=request, order_id=order_id(request, system))


SENT = f"crm:{OrderPhase.SENT}"
REFUSALS = [
    (Phase.ACTIVE, SENT, b"sealed", None),
    (Phase.ACTIVE, f"crm:{OrderPhase.ACCEPTED}", b"sealed", None),
    (Phase.ACTIVE, f"crm:{OrderPhase.ESCALATED}", b"sealed", None),
    (Phase.ACTIVE, f"mail:{OrderPhase.SENT},{SENT},shop:{OrderPhase.WAITING}", b"sealed", None),
    (Phase.ACTIVE, f"crm:{OrderPhase.WAITING}", b"sealed", KeyRefusal.UNKNOWN),
    (Phase.ACTIVE, f"mail:{OrderPhase.SENT},crm:{OrderPhase.WAITING}", b"sealed", KeyRefusal.UNKNOWN),
    (Phase.ACTIVE, f"crm:{OrderPhase.SETTLED}", b"sealed", KeyRefusal.CLOSED),
    (Phase.ACTIVE, "", b"sealed", KeyRefusal.CLOSED),
    (Phase.ACTIVE, f"mail:{OrderPhase.SENT}", b"sealed", KeyRefusal.CLOSED),
    (Phase.ACTIVE, f"crm-2:{OrderPhase.SENT}", b"sealed", KeyRefusal.CLOSED),
    (Phase.ACTIVE, SENT, None, KeyRefusal.CLOSED),
    (Phase.CLOSED, "", None, KeyRefusal.CLOSED),
    (Phase.CLOSED, SENT, b"sealed", KeyRefusal.CLOSED),
    (Phase.VERIFYING, "", b"sealed", KeyRefusal.UNKNOWN),
    (Phase.RECEIVED, "", b"sealed", KeyRefusal.UNKNOWN),
]


@pytest.mark.parametrize(("phase", "awaited", "sealed", "refusal"), REFUSALS)
def test_who_may_have_a_key(phase: Phase, awaited: str, sealed: bytes | None, refusal: KeyRefusal | None) -> None:
    """Its own order, sent and not settled, of a request that is open; another system's order is foreign whatever its state."""
    held = Holding(str(phase), awaited, sealed)
    assert refusal_of(wanted(OPEN), "crm", held) == refusal
    assert refusal_of(wanted(OPEN, "mail"), "crm", held) == KeyRefusal.FOREIGN
    other = WantedKey(subject_request_id=OPEN, order_id=order_id(GONE, "crm"))
    assert refusal_of(other, "crm", held) == KeyRefusal.FOREIGN


def test_an_unknown_request_is_unknown_and_every_phase_is_in_the_table() -> None:
    """Nothing stored: unknown; another system's order is foreign even then."""
    assert refusal_of(wanted(OPEN), "crm", None) == KeyRefusal.UNKNOWN
    assert refusal_of(wanted(OPEN, "mail"), "crm", None) == KeyRefusal.FOREIGN
    assert {row[0] for row in REFUSALS} == set(Phase)
    assert all(any(f"crm:{phase}" in row[1] for row in REFUSALS) for phase in OrderPhase)


@dataclass
class Held:
    """What the desk asks of a store."""

    away: bool = False
    asked: list[set[str]] = field(default_factory=list)

    async def holdings(self, ids):
        self.asked.append(set(ids))
        if self.away:
            raise StoreUnavailable("the database does not answer")
        known = {
            OPEN: Holding("active", SENT, KEYS.seal_stored(OPEN, KEY, [PERSON])),
            GONE: Holding("closed", "", None),
            WAITING: Holding("active", f"crm:{OrderPhase.WAITING}", KEYS.seal_stored(WAITING, KEY, [PERSON])),
        }
        return {one: known[one] for one in ids if one in known}


@dataclass
class Broker:
    """Acknowledges when the test lets it."""

    acks: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False
    records: list[OutRecord] = field(default_factory=list)

    async def publish(self, records):
        self.records.extend(records)
        self.called.set()
        await self.acks.wait()
        if self.fails:
            raise PublishFailed("not acknowledged")


class Clock:
    def now(self) -> datetime:
        return NOW


class Desk:
    """One desk with what stands around it."""

    def __init__(self, *, signer: SigningKey | None = US) -> None:
        self.store, self.broker, self.registry = Held(), Broker(), CollectorRegistry()
        self.desk = KeyDesk(
            self.store,
            KEYS,
            self.broker,
            Clock(),
            WorkerMetrics(self.registry),
            topics=TOPICS,
            worker="w1",
            signer=signer,
        )

    def counted(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"dsr_order_keys_{name}_total", {"system": "crm", **labels})


async def test_what_is_given_out_is_written_down_signed_and_acknowledged_first() -> None:
    """No answer before the broker's ack; the record says who, when, with which key and what, and is ours."""
    world = Desk()
    asking = asyncio.create_task(world.desk.release("crm", "kid-1", [wanted(OPEN), wanted(GONE), wanted(UNKNOWN)]))
    await world.broker.called.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    assert not world.counted("released")
    world.broker.acks.set()
    answers = await asking
    assert [answer.status for answer in answers] == [200, 410, 404]
    root = order_root(KEY, OPEN, "crm", order_id(OPEN, "crm"))
    assert [answer.key for answer in answers] == [root_to_text(root), None, None]
    (record,) = world.broker.records
    assert (record.topic, record.key) == (TOPICS.releases, b"crm")
    message = decode(record.value, record.headers, [KeysReleased])
    assert message == KeysReleased(system="crm", kid="kid-1", released_at=NOW, worker="w1", orders=(wanted(OPEN),))
    leaf = leaf_of("KeysReleased", "releases", record.key, record.value)
    Verifier(Trust.of(US)).verify(leaf, signature_in(record.headers), principal="orchestrator", at=NOW)
    for secret in (root_to_text(root).encode(), root.unsafe_bytes(), KEY.unsafe_bytes(), b"robin"):
        assert secret not in record.value and secret not in b"".join(value for _, value in record.headers)


async def test_a_broker_that_does_not_acknowledge_lets_nothing_out() -> None:
    """The record may or may not be out: the keys are not."""
    world = Desk()
    world.broker.fails = True
    world.broker.acks.set()
    with pytest.raises(PublishFailed):
        await world.desk.release("crm", "", [wanted(OPEN), wanted(GONE)])
    assert not world.counted("released")


async def test_a_store_that_is_away_lets_nothing_out_and_nothing_is_written_down() -> None:
    """Without the store it is not known what is open."""
    world = Desk()
    world.store.away = True
    with pytest.raises(StoreUnavailable):
        await world.desk.release("crm", "", [wanted(OPEN)])
    assert not world.broker.records


async def test_where_nothing_is_given_out_nothing_is_written_down() -> None:
    """Refusals are counted by their reason and told in one line each, without any id."""
    world = Desk()
    with capture_logs() as logs:
        answers = await world.desk.release(
            "crm", "", [wanted(GONE), wanted(UNKNOWN), wanted(WAITING), wanted(OPEN, "mail"), wanted(GONE)]
        )
    assert [answer.status for answer in answers] == [410, 404, 404, 403, 410]
    assert all(answer.key is None and answer.error and answer.remedy for answer in answers)
    assert not world.broker.records
    assert {reason: world.counted("refused", reason=reason) for reason in KeyRefusal} == {
        "foreign": 1,
        "unknown": 2,
        "closed": 2,
        "unreadable": None,
    }
    assert [(line["reason"], line["log_level"], line["count"]) for line in logs] == [
        ("closed", "info", 2),
        ("foreign", "warning", 1),
        ("unknown", "warning", 2),
    ]
    for request in (GONE, UNKNOWN, WAITING, OPEN):
        assert request not in str(logs)


async def test_one_look_for_many_orders_and_none_for_none() -> None:
    """However many orders, the store is asked once and one record is written; unsigned where signatures are off."""
    world = Desk(signer=None)
    world.broker.acks.set()
    answers = await world.desk.release("crm", "", [wanted(OPEN)] * 50 + [wanted(GONE)] * 50)
    assert [answer.status for answer in answers] == [200] * 50 + [410] * 50
    assert world.store.asked == [{OPEN, GONE}]
    (record,) = world.broker.records
    assert signature_in(record.headers) is None
    assert world.counted("released") == 50
    assert await world.desk.release("crm", "", []) == []
    assert len(world.broker.records) == 1


async def test_a_row_that_does_not_open_stops_its_own_order_only() -> None:
    """Another request's row in its place: 503 for that order, an error that names the request, and keys for the others."""
    world = Desk()
    world.broker.acks.set()
    stored = {OPEN: KEYS.seal_stored(OPEN, KEY, [PERSON]), WAITING: KEYS.seal_stored(GONE, KEY, [PERSON])}

    async def moved(ids):
        return {one: Holding("active", SENT, stored[one]) for one in ids}

    world.store.holdings = moved
    with capture_logs() as logs:
        answers = await world.desk.release("crm", "", [wanted(WAITING), wanted(OPEN)])
    assert [answer.status for answer in answers] == [503, 200]
    assert answers[0].key is None and answers[0].error == "order_unreadable" and answers[0].remedy
    (record,) = world.broker.records
    assert decode(record.value, record.headers, [KeysReleased]).orders == (wanted(OPEN),)
    assert world.counted("refused", reason="unreadable") == 1
    assert world.registry.get_sample_value("dsr_store_rows_damaged_total") == 1
    (told,) = [line for line in logs if line["event"] == "row_damaged"]
    assert (told["subject_request_id"], told["log_level"]) == (WAITING, "error")
    assert "restore" in told["remedy"]


async def test_a_key_that_we_lack_lets_nothing_out() -> None:
    """Under another key-encryption key nothing can be told apart: the whole question fails, and the next worker is asked."""
    world = Desk()

    async def foreign(ids):
        other = request_keys(SealingKey("dev", bytes(reversed(range(32)))))
        return {one: Holding("active", SENT, other.seal_stored(one, KEY, [PERSON])) for one in ids}

    world.store.holdings = foreign
    with pytest.raises(ConfigurationError, match="add it behind the current one"):
        await world.desk.release("crm", "", [wanted(OPEN)])
    assert not world.broker.records
