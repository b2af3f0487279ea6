"""Records that are read again after a crash, whose signer's key has ended meanwhile: what was taken in stays taken in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.core.policy import Policy
from orchestrator.ports import Change, Record
from orchestrator.shell.signing import Speakers
from orchestrator.shell.translate import Translator
from orchestrator.shell.work import Ground, Outcome, UnitOfWork
from schemas.base import Message
from schemas.commands import Hold
from schemas.ids import order_id, report_id
from schemas.intake import seal_intake
from schemas.outcomes import Accepted, Fulfilled
from schemas.registry import Registry
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest, Verification, WithdrawRequest
from schemas.sealed import SealingKey
from schemas.signatures import sign_records, speaker_of
from schemas.subject import SubjectData
from schemas.topics import Topics
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import AssuranceLevel, HoldKind, IdentifierKind, Right
from schemas.wire import encode, headers_of
from tests.keys_kit import intake_of, request_keys

ROOT = SealingKey("dev", b"k" * 32)
REQUEST = "00000000-0000-4000-8000-000000000001"
START = datetime(2026, 3, 2, 9, tzinfo=UTC)
SPEAKERS = {name: SigningKey.new(name) for name in ("portal:website", "system:crm", "operator:ops:alice")}
TOPICS = Topics(prefix="t")

REGISTRY = Registry.model_validate(
    {
        "version": "r1",
        "controller": {"title": "Example company", "zone": "Europe/Amsterdam", "calendar": "NL"},
        "portals": [{"id": "website", "title": "Website", "owner": "Web team"}],
        "systems": [
            {
                "id": name, "title": name, "role": "processor", "owner": "Team", "connector": "any", "rights": ["restriction"],
                "needs": [{"kind": "email"}],
            }
            for name in ("crm", "shop")
        ],
    }
)  # fmt: skip

ASKED = SubmitRequest(
    subject_request_id=REQUEST,
    portal="website",
    right=Right.RESTRICTION,
    submitted_at=START,
    sealed=seal_intake(
        SubjectData(identifiers={IdentifierKind.EMAIL: ("robin@example.org",)}).to_bytes(), intake_of(ROOT).public, REQUEST
    ),
    verification=Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=START),
)
_CRM = order_id(REQUEST, "crm")


def said(outcome: Accepted | Fulfilled) -> FulfilmentReport:
    return FulfilmentReport(
        report_id=report_id(_CRM, 1, outcome.code), order_id=_CRM, subject_request_id=REQUEST, system="crm", attempt=1,
        reported_at=START, outcome=outcome,
    )  # fmt: skip


HELD = Hold(
    command_id="command-1", subject_request_id=REQUEST, actor="ops:alice", reason="Proceedings", issued_at=START,
    kind=HoldKind.LEGAL_HOLD, review_on=START.date() + timedelta(days=9),
)  # fmt: skip
WITHDRAWN = WithdrawRequest(subject_request_id=REQUEST, portal="website", withdrawn_at=START)
WORDS = [
    (ASKED, TOPICS.requests),
    (said(Accepted(expected_by=START + timedelta(days=2))), TOPICS.reports),
    (HELD, TOPICS.commands),
    (said(Fulfilled(count=1)), TOPICS.reports),
    (WITHDRAWN, TOPICS.requests),
]


class Bench:
    """A worker's core on a store, which reads records with the keys that count at the time."""

    def __init__(self, folder: Path) -> None:
        engine = make_engine(f"sqlite:///{folder / 'store.sqlite'}")
        schema.upgrade(engine)
        self.store = SqlStore(engine)
        self.trust = Trust.of(*SPEAKERS.values())
        keys = request_keys(ROOT)
        self.translator = Translator(keys, TOPICS, Speakers(lambda: self.trust, self))
        self.ground = Ground(
            store=self.store, keys=keys, translator=self.translator, registry=REGISTRY,
            registries={REGISTRY.content_digest: REGISTRY}, policy=Policy(), worker="w",
        )  # fmt: skip

    def now(self) -> datetime:
        return START

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def read(self, message: Message, topic: str, offset: int, *, key: SigningKey | None = None) -> tuple[Outcome, Change]:
        plain = (topic, REQUEST.encode(), encode(message), headers_of(message))
        (headers,) = sign_records([plain], key or SPEAKERS[speaker_of(message)])
        arrival = self.translator.read(Record(topic, 0, offset, 0, plain[1], plain[2], headers))
        work = UnitOfWork(self.ground, START)
        await work.load([arrival])
        await work.apply(arrival)
        change = work.finish()
        await self.store.commit(change)
        return work.outcome, change


@pytest.mark.parametrize("trust", [Trust.of(SigningKey.new("system:mail")), None], ids=["taken out", "ended"])
async def test_what_was_taken_in_is_not_refused_afterwards(tmp_path: Path, trust: Trust | None) -> None:
    """Nothing goes to quarantine, and no portal is told no; it is counted like any repetition."""
    bench = Bench(tmp_path)
    await bench.read(*WORDS[0], 0)
    for offset, (message, topic) in enumerate(WORDS):
        if offset:
            await bench.read(message, topic, offset)
        taken, bench.trust = bench.trust, trust or _ended()
        outcome, change = await bench.read(message, topic, offset)
        bench.trust = taken
        assert (outcome.ignored, outcome.refused, change.records) == ([type(message).__name__], [], []), type(message).__name__
    await bench.store.aclose()


def _ended() -> Trust:

    over = int((START - timedelta(seconds=1)).timestamp())
    return Trust.from_json(json.dumps({"keys": [key.public() | {"exp": over} for key in SPEAKERS.values()]}))


@pytest.mark.parametrize("number", range(len(WORDS)))
async def test_what_was_not_taken_in_is(tmp_path: Path, number: int) -> None:
    """Other bytes, another place of a request, and whatever never came before its key ended."""
    bench = Bench(tmp_path)
    if number:
        await bench.read(*WORDS[0], 0)
    message, topic = WORDS[number]
    bench.trust = _ended()
    outcome, change = await bench.read(message, topic, 7)
    assert [violation.code for _, violation in outcome.refused] == ["signature_expired"] and not outcome.ignored
    assert [record.topic for record in change.records] == [TOPICS.quarantine, TOPICS.status]
    await bench.store.aclose()


async def test_a_request_from_another_place_is_no_replay(tmp_path: Path) -> None:
    """The same bytes once more are somebody's who has read them: with an ended key they are set aside."""
    bench = Bench(tmp_path)
    await bench.read(*WORDS[0], 0)
    bench.trust = _ended()
    outcome, _ = await bench.read(*WORDS[0], 1)
    assert len(outcome.refused) == 1


async def test_a_stranger_is_refused_whatever_stands_there(tmp_path: Path) -> None:
    """A broken or foreign signature is no ended key."""
    bench = Bench(tmp_path)
    await bench.read(*WORDS[0], 0)
    outcome, _ = await bench.read(*WORDS[0], 0, key=SPEAKERS["system:crm"])
    assert [violation.code for _, violation in outcome.refused] == ["signature_foreign"]
