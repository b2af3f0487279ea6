"""What a portal builds is what the orchestrator reads, and what it would set aside is refused before."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ports import Record
from orchestrator.shell.signing import Speakers
from orchestrator.shell.translate import Arrival, Translator
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.intake import IntakeKeySet
from schemas.portal import build_request, intake_key, record_of
from schemas.requests import SubmitRequest, Verification, WithdrawRequest
from schemas.sealed import SealingKey
from schemas.subject import CHANGING
from schemas.topics import Topics
from schemas.trust import ORCHESTRATOR, SigningKey, Trust, portal_principal
from schemas.vocabulary import AssuranceLevel, IdentifierKind, Right
from schemas.wire import PORTAL_MESSAGES, decode
from tests.keys_kit import intake_of, request_keys

ROOT = SealingKey("dev", b"p" * 32)
INTAKE = intake_of(ROOT)
ID = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
SECRET = "someone@example.org"


class Now:
    """A clock that stands."""

    def now(self) -> datetime:
        return NOW

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(seconds)


def built(**changes: Any) -> SubmitRequest:
    given: dict[str, Any] = {
        "right": Right.ERASURE,
        "identifiers": {IdentifierKind.EMAIL: [SECRET]},
        "portal": "website",
        "key": INTAKE.public,
        "secret": bytes(32),
        "verification": Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=NOW),
        "submitted_at": NOW,
        "subject_request_id": ID,
    }
    return build_request(**{**given, **changes})


def test_the_orchestrator_reads_what_a_portal_builds() -> None:
    """The record decodes, its key fits, and the seal opens with the intake key, bound to the id."""
    record = record_of(built(changes={"first_name": "Robin"}, right="rectification"))
    topics = Topics()
    arrival = Translator(request_keys(ROOT), topics).read(Record(topics.requests, 0, 7, 0, *record))
    assert isinstance(arrival, Arrival)
    assert arrival.subject is not None
    assert arrival.subject.identifiers == {IdentifierKind.EMAIL: (SECRET,)}
    assert [(change.field, change.new) for change in arrival.subject.changes] == [("first_name", "Robin")]


@pytest.mark.parametrize("right", Right)
def test_everything_about_a_request_goes_by_the_topic_of_its_right(right: Right) -> None:
    """Objections and unsubscriptions have one of their own; each topic takes every right, under the same signature."""
    topics = Topics(prefix="acme")
    is_urgent = right in {Right.OBJECTION, Right.UNSUBSCRIBE}
    assert topics.requests_for(right) == topics.requests_for(right.value)
    assert topics.requests_for(right) == ("acme.requests.urgent.v1" if is_urgent else "acme.requests.v1")
    signer = SigningKey.new(portal_principal("website"))
    changes = {"first_name": "Robin"} if right in CHANGING else {}
    record = record_of(built(right=right, changes=changes), signer)
    trust = Trust.of(signer)
    translator = Translator(request_keys(ROOT), topics, Speakers(lambda: trust, Now()))
    for topic in topics.all_requests:
        assert isinstance(translator.read(Record(topic, 0, 7, 0, *record)), Arrival)


def test_the_portal_in_javascript_knows_the_same_topics() -> None:
    """Its few words about topics are the rule's."""
    source = (Path(__file__).resolve().parents[2] / "docs" / "examples" / "portal.mjs").read_text(encoding="utf-8")
    found = re.search(r"topicOf = \(right\) => \(\[(.+?)\]\.includes\(right\) \? '(.+?)' : '(.+?)'\)", source)
    assert found is not None
    urgent = {word.strip(" '") for word in found[1].split(",")}
    topics = Topics()
    assert {right: found[2] if right in urgent else found[3] for right in Right} == {r: topics.requests_for(r) for r in Right}


def test_the_same_request_is_the_same_bytes() -> None:
    """Built twice from the same values and secret, a request is one request; without a secret it is to be stored."""
    assert record_of(built()) == record_of(built())
    assert record_of(built(secret=None)) != record_of(built(secret=None))


def test_the_key_comes_from_the_page_or_a_file() -> None:
    """Plain or signed; a set that should be signed is refused without a signature, and the other way round."""
    signer = SigningKey.new(ORCHESTRATOR)
    trust, keys = Trust.of(signer), IntakeKeySet(keys=(INTAKE.public,))
    plain, signed = keys.model_dump_json(), keys.signed(signer, at=NOW, until=NOW + timedelta(days=1))
    assert intake_key(plain) == intake_key(plain.encode()) == INTAKE.public
    assert intake_key(f"{signed}\n".encode(), trust=trust, at=NOW) == INTAKE.public
    with pytest.raises(ProtocolViolation, match="signature_broken"):
        intake_key(plain, trust=trust, at=NOW)
    with pytest.raises(ConfigurationError, match="whose signatures"):
        intake_key(signed)
    with pytest.raises(ConfigurationError, match="which instant"):
        intake_key(plain, trust=trust)


def test_nothing_readable_leaves() -> None:
    """Neither the record nor the message shows the person."""
    assert SECRET not in record_of(built()).value.decode() + repr(built())


def test_a_withdrawal_has_a_record_too() -> None:
    """Every message of a portal has its record."""
    message = WithdrawRequest(subject_request_id=ID, portal="website", withdrawn_at=NOW)
    key, value, headers = record_of(message)
    assert key == ID.encode()
    assert decode(value, headers, PORTAL_MESSAGES) == message


@pytest.mark.parametrize(
    ("changes", "code", "field", "remedy"),
    [
        ({"identifiers": {}}, "missing_field", "sealed.identifiers", "at least one identifier"),
        ({"right": "rectification"}, "missing_field", "sealed.changes", "which fields"),
        ({"right": "erasure", "changes": {"name": SECRET}}, "invalid_field", "sealed.changes", "leave out"),
        ({"identifiers": {"email": SECRET}}, "invalid_field", "identifiers", "a list of values"),
        ({"identifiers": {SECRET: ["x"]}}, "invalid_field", "identifiers", "email, phone"),
        ({"identifiers": {"email": [""]}}, "invalid_field", "identifiers.email", "published schema"),
        ({"right": "delete"}, "invalid_field", "right", "'erasure'"),
        ({"submitted_at": datetime(2026, 3, 5)}, "invalid_field", "submitted_at", "offset"),  # noqa: DTZ001 - the mistake
        ({"subject_request_id": SECRET}, "invalid_field", "subject_request_id", "UUID"),
        ({"filed_by": SECRET}, "invalid_field", "filed_by", "no mail address"),
        ({"language": "xx"}, "invalid_field", "language", "'en'"),
        ({"right": "rectification", "changes": {SECRET: "x"}}, "invalid_field", "field", "a field's name"),
    ],
)
def test_a_mistake_is_refused_with_its_field_and_remedy(changes: dict[str, Any], code: str, field: str, remedy: str) -> None:
    """What the orchestrator would set aside never leaves the portal; the error repeats no value."""
    with pytest.raises(ProtocolViolation) as caught:
        built(**changes)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert remedy in caught.value.remedy
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__ is (caught.value.__context__ is not None)


def test_the_largest_request_still_fits_a_record() -> None:
    """What can be sealed at most stays below the limit of the wire, so a portal meets the limit here and not in quarantine."""
    changes = {f"field_{number}": "x" * 1000 for number in range(50)}
    assert len(record_of(built(right=Right.COMPLETION, changes=changes)).value) < 128 * 1024
