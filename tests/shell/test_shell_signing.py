"""Who may say what: each message is believed from its own speaker and set aside from anybody else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.bootstrap import run_worker
from orchestrator.ports import OutRecord, Record
from orchestrator.settings import Settings
from orchestrator.shell.signing import Speakers, signed
from orchestrator.shell.translate import Arrival, SetAside, Translator
from schemas.base import Message
from schemas.commands import Waive
from schemas.errors import ConfigurationError
from schemas.ids import order_id, report_id
from schemas.intake import seal_intake
from schemas.outcomes import Fulfilled
from schemas.reports import FulfilmentReport
from schemas.requests import ConfirmIdentity, SubmitRequest, Verification, WithdrawRequest
from schemas.sealed import SealingKey
from schemas.signatures import SIGNATURE_HEADER, Verifier, leaf_of, sign_records, signature_in
from schemas.subject import SubjectData
from schemas.topics import Topics
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import AssuranceLevel, IdentifierKind, QuarantineReason, Right
from schemas.wire import encode, headers_of
from tests.keys_kit import intake_of, request_keys

ROOT = SealingKey("dev", b"k" * 32)
KEYS = request_keys(ROOT)
TOPICS = Topics(prefix="t")
REQUEST = "00000000-0000-4000-8000-000000000001"
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
WEBSITE, DESK = SigningKey.new("portal:website"), SigningKey.new("portal:desk")
CRM, MAIL = SigningKey.new("system:crm"), SigningKey.new("system:mail")
ALICE, BOB = SigningKey.new("operator:ops:alice"), SigningKey.new("operator:ops:bob")
US = SigningKey.new("orchestrator")
VERIFIED = Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=NOW)

PERSON = SubjectData(identifiers={IdentifierKind.EMAIL: ("robin@example.org",)})
SUBMIT = SubmitRequest(
    subject_request_id=REQUEST,
    portal="website",
    right=Right.ACCESS,
    submitted_at=NOW,
    sealed=seal_intake(PERSON.to_bytes(), intake_of(ROOT).public, REQUEST),
)
CONFIRM = ConfirmIdentity(subject_request_id=REQUEST, portal="website", verification=VERIFIED)
WITHDRAW = WithdrawRequest(subject_request_id=REQUEST, portal="website", withdrawn_at=NOW)
REPORT = FulfilmentReport(
    report_id=report_id(order_id(REQUEST, "crm"), 1, "fulfilled"),
    order_id=order_id(REQUEST, "crm"),
    subject_request_id=REQUEST,
    system="crm",
    attempt=1,
    reported_at=NOW,
    outcome=Fulfilled(count=1),
)
WAIVE = Waive(
    command_id="command-1",
    subject_request_id=REQUEST,
    actor="ops:alice",
    reason="Agreed with the office",
    issued_at=NOW,
    system="crm",
)
SAID = [
    (SUBMIT, TOPICS.requests, WEBSITE, DESK),
    (CONFIRM, TOPICS.requests, WEBSITE, DESK),
    (WITHDRAW, TOPICS.requests, WEBSITE, CRM),
    (REPORT, TOPICS.reports, CRM, MAIL),
    (REPORT, TOPICS.reports, CRM, US),
    (WAIVE, TOPICS.commands, ALICE, BOB),
]
WHAT = ["submit", "confirm", "withdraw", "report", "report-by-us", "command"]


class Noon:
    """A clock that stands still."""

    def now(self) -> datetime:
        return NOW


def trusting(*members: dict) -> Translator:
    """Return a translator that trusts everybody here, or these members only."""
    everybody = [key.public() for key in (WEBSITE, DESK, CRM, MAIL, ALICE, BOB, US)]
    trust = Trust.from_json(json.dumps({"keys": list(members) or everybody}))
    return Translator(KEYS, TOPICS, Speakers(lambda: trust, Noon()))


def record(message: Message, topic: str, key: SigningKey | None, value: bytes | None = None) -> Record:
    """Return the record, signed by this key over the true value."""
    plain = (topic, REQUEST.encode(), encode(message), headers_of(message))
    headers = plain[3] if key is None else sign_records([plain], key)[0]
    return Record(topic, 0, 0, 0, plain[1], plain[2] if value is None else value, headers)


def refused(read: Arrival | SetAside) -> str:
    assert isinstance(read, SetAside)
    assert read.violation.field in {SIGNATURE_HEADER, "kid", "signature"}
    return read.violation.code


@pytest.mark.parametrize(("message", "topic", "speaker", "other"), SAID, ids=WHAT)
def test_only_its_own_speaker_is_believed(message: Message, topic: str, speaker: SigningKey, other: SigningKey):
    """Signed by whom it names it comes in; unsigned, by another, changed or by a stranger it is set aside by its own code."""
    translator = trusting()
    assert isinstance(translator.read(record(message, topic, speaker)), Arrival)
    assert refused(translator.read(record(message, topic, None))) == QuarantineReason.SIGNATURE_MISSING
    assert refused(translator.read(record(message, topic, other))) == QuarantineReason.SIGNATURE_FOREIGN
    stranger = SigningKey.new(speaker.principal)
    assert refused(translator.read(record(message, topic, stranger))) == QuarantineReason.SIGNER_UNKNOWN
    changed = encode(message).replace(b'"version":1,', b'"version": 1,')
    assert refused(translator.read(record(message, topic, speaker, changed))) == QuarantineReason.SIGNATURE_BROKEN


@pytest.mark.parametrize("times", [{"exp": NOW}, {"nbf": NOW + timedelta(seconds=1)}], ids=["over", "not yet"])
def test_a_key_out_of_its_time_is_not_believed(times: dict[str, datetime]):
    """What is read after a key's end, or before its beginning, is set aside, however genuine."""
    member = {**CRM.public(), **{name: int(at.timestamp()) for name, at in times.items()}}
    assert refused(trusting(member).read(record(REPORT, TOPICS.reports, CRM))) == QuarantineReason.SIGNATURE_EXPIRED


def test_whoever_is_taken_out_of_the_trust_is_believed_no_more():
    """Neither a tree whose signature was good a moment ago, nor one under a key that took over its name."""
    sets = [Trust.of(CRM)]
    translator = Translator(KEYS, TOPICS, Speakers(lambda: sets[-1], Noon()))
    report = record(REPORT, TOPICS.reports, CRM)
    assert isinstance(translator.read(report), Arrival)
    sets.append(Trust.of(MAIL))
    assert refused(translator.read(report)) == QuarantineReason.SIGNER_UNKNOWN
    other = SigningKey.new(CRM.principal).public() | {"kid": CRM.kid}
    sets.append(Trust.from_json(json.dumps({"keys": [other]})))
    assert refused(translator.read(report)) == QuarantineReason.SIGNATURE_BROKEN
    sets.append(Trust.of(CRM))
    assert isinstance(translator.read(report), Arrival)


def test_a_record_moved_to_another_topic_key_or_type_is_broken():
    """A withdrawal cannot be replayed under another request's key, nor a genuine record under another type."""
    translator = trusting()
    genuine = record(CONFIRM, TOPICS.requests, WEBSITE)
    other = CONFIRM.model_copy(update={"subject_request_id": REQUEST.replace("1", "2")})
    forged = Record(TOPICS.requests, 0, 0, 0, other.subject_request_id.encode(), encode(other), genuine.headers)
    assert refused(translator.read(forged)) == QuarantineReason.SIGNATURE_BROKEN


def test_a_type_that_only_the_value_tells_can_be_signed():
    """A client that sets no `dsr-type` header signs the type its value has."""
    whole = record(REPORT, TOPICS.reports, CRM)
    bare = Record(whole.topic, 0, 0, 0, whole.key, whole.value, [one for one in whole.headers if one[0] == SIGNATURE_HEADER])
    assert isinstance(trusting().read(bare), Arrival)


def test_a_quarantined_record_keeps_its_signature():
    """Whoever looks at it can still see who signed it, and put it back as it was."""
    translator, found = trusting(), record(REPORT, TOPICS.reports, MAIL)
    aside = translator.read(found)
    assert isinstance(aside, SetAside)
    kept = translator.quarantined(found, aside.violation, NOW.isoformat())
    assert signature_in(kept.headers) == signature_in(found.headers)


def test_what_is_published_together_is_signed_once_and_only_what_is_ours_to_vouch_for():
    """Journal, status and confirmations carry signatures that verify; orders and quarantine go out as they were."""
    kinds = {"confirmations": "Confirmation", "journal": "JournalEntry", "status": "StatusEvent"}
    plain = [OutRecord(f"t.{kind}.v1", b"key", kind.encode(), [("dsr-type", type_.encode())]) for kind, type_ in kinds.items()]
    order = OutRecord(TOPICS.orders("crm"), b"k", b"v", [("dsr-type", b"FulfilmentOrder")])
    aside = OutRecord(TOPICS.quarantine, b"k", b"v", [])
    out = signed([plain[0], order, plain[1], aside, plain[2]], US)
    assert out == signed([plain[0], order, plain[1], aside, plain[2]], US), "a repeated batch repeats itself"
    assert out[1] is order and out[3] is aside
    verifier = Verifier(Trust.of(US))
    for one in (out[0], out[2], out[4]):
        kind = one.topic.split(".")[1]
        leaf = leaf_of(kinds[kind], kind, one.key, one.value)
        assert verifier.verify(leaf, signature_in(one.headers), principal="orchestrator", at=NOW) == US.kid
    assert len({(signature_in(one.headers) or b"").split(b"~")[0] for one in (out[0], out[2], out[4])}) == 1
    assert signed([order], US) == [order]


def _key_file(folder: Path, key: SigningKey) -> Path:
    file = folder / f"{key.kid}.jwk"
    file.write_text(key.to_json())
    return file


@pytest.mark.parametrize(
    ("signer", "trusted", "says"),
    [
        (US, None, "DSR_TRUST_FILE is not set"),
        (None, [US], "DSR_SIGNING_KEY_FILE is not set"),
        (CRM, [US, CRM], "is the key of system:crm"),
        (US, [CRM], "lacks the public half"),
    ],
)
async def test_a_worker_does_not_start_half_signed(
    tmp_path: Path, signer: SigningKey | None, trusted: list[SigningKey] | None, says: str
):
    """With signatures required, the default, a worker needs a trust file and its own key in it first."""
    trust = tmp_path / "trust.json"
    trust.write_text(json.dumps({"keys": [key.public() for key in trusted or ()]}))
    settings = Settings(
        kafka_bootstrap="127.0.0.1:1",
        store_url=f"sqlite:///{tmp_path / 'store'}",
        datadir=tmp_path / "data",
        trust_file=None if trusted is None else trust,
        signing_key_file=None if signer is None else _key_file(tmp_path, signer),
    )
    with pytest.raises(ConfigurationError, match=says):
        async with run_worker(settings):
            pass
    assert not (tmp_path / "data").exists()


async def test_a_worker_that_believes_everybody_keeps_to_its_own_machine(tmp_path: Path):
    """Without signatures whoever reaches its pages is given keys of open orders: it does not start where others reach them."""
    settings = Settings(
        kafka_bootstrap="127.0.0.1:1",
        store_url=f"sqlite:///{tmp_path / 'store'}",
        datadir=tmp_path / "data",
        signatures="off",
        http_host="0.0.0.0",
    )
    with pytest.raises(ConfigurationError, match="DSR_SIGNATURES=off gives the keys"):
        async with run_worker(settings):
            pass
    assert not (tmp_path / "data").exists()
