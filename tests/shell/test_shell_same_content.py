"""An order says the same at every attempt, whatever is found of the person in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.core.effects import Input, Wake
from orchestrator.core.policy import Policy
from orchestrator.ports import Record
from orchestrator.shell.translate import Arrival, Translator
from orchestrator.shell.work import Ground, UnitOfWork
from schemas.ids import order_id, report_id
from schemas.intake import seal_intake
from schemas.order_keys import Purpose, order_root
from schemas.orders import FulfilmentOrder, order_binding
from schemas.outcomes import Fulfilled
from schemas.registry import Registry
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest, Verification
from schemas.sealed import SealingKey, seal
from schemas.subject import SubjectData
from schemas.topics import Topics
from schemas.vocabulary import AssuranceLevel, IdentifierKind, Right
from schemas.wire import encode, headers_of
from tests.keys_kit import intake_of, request_keys

ROOT = SealingKey("dev", b"k" * 32)
REQUEST = "00000000-0000-4000-8000-000000000001"
START = datetime(2026, 3, 2, 9, tzinfo=UTC)


def _registry() -> Registry:
    common = {"role": "processor", "owner": "Team", "connector": "any", "rights": ["access"], "needs": [{"kind": "email"}]}
    return Registry.model_validate(
        {
            "version": "r1",
            "controller": {"title": "Example company", "zone": "Europe/Amsterdam", "calendar": "NL"},
            "portals": [{"id": "website", "title": "Website", "owner": "Web team"}],
            "systems": [
                {"id": "crm", "title": "CRM", **common, "yields": ["email"]},
                {"id": "newsletter", "title": "Newsletter", **common},
            ],
        }
    )


async def test_a_resent_order_is_sealed_over_the_same_content(tmp_path: Path) -> None:
    """A second address that another system yields does not change an order that has left already."""
    engine = make_engine(f"sqlite:///{tmp_path / 'store.sqlite'}")
    schema.upgrade(engine)
    store, topics, registry, keys = SqlStore(engine), Topics(prefix="t"), _registry(), request_keys(ROOT)
    translator = Translator(keys, topics)
    ground = Ground(
        store=store,
        keys=keys,
        translator=translator,
        registry=registry,
        registries={registry.content_digest: registry},
        policy=Policy(resend_after=timedelta(hours=1)),
        worker="w",
    )
    sent: list[FulfilmentOrder] = []

    async def settle(arrival: Arrival, now: datetime) -> None:
        work = UnitOfWork(ground, now)
        await work.load([arrival])
        await work.apply(arrival)
        change = work.finish()
        await store.commit(change)
        sent.extend(FulfilmentOrder.model_validate_json(r.value) for r in change.records if ".orders." in r.topic)

    def arrival(message: SubmitRequest | FulfilmentReport, topic: str, offset: int) -> Arrival:
        record = Record(topic, 0, offset, 0, REQUEST.encode(), encode(message), headers_of(message))
        read = translator.read(record)
        assert isinstance(read, Arrival)
        return read

    data = SubjectData(identifiers={IdentifierKind.EMAIL: ("robin@example.org",)})
    asked = SubmitRequest(
        subject_request_id=REQUEST,
        portal="website",
        right=Right.ACCESS,
        submitted_at=START,
        sealed=seal_intake(data.to_bytes(), intake_of(ROOT).public, REQUEST),
        verification=Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=START),
    )
    await settle(arrival(asked, topics.requests, 0), START)
    crm = order_id(REQUEST, "crm")
    stored = await store.identities([REQUEST])
    found = SubjectData(identifiers={IdentifierKind.EMAIL: ("robin.second@example.org",)})
    answer = FulfilmentReport(
        report_id=report_id(crm, 1, "fulfilled"),
        order_id=crm,
        subject_request_id=REQUEST,
        system="crm",
        attempt=1,
        reported_at=START,
        outcome=Fulfilled(count=1),
        yielded=seal(
            found.to_bytes(),
            order_root(keys.request_key(REQUEST, stored[REQUEST]), REQUEST, "crm", crm).derive(Purpose.REPORT),
            associated=order_binding(REQUEST, "crm", crm),
        ),
    )
    await settle(arrival(answer, topics.reports, 0), START + timedelta(minutes=1))
    await settle(Arrival(REQUEST, Input(Wake())), START + timedelta(hours=2))
    await store.aclose()
    first, again = [order for order in sent if order.system == "newsletter"]
    assert (first.attempt, again.attempt) == (1, 2)
    assert again.sealed == first.sealed
