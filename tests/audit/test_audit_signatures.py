"""What the auditor makes of signatures: whose they must be, when the key must be valid, and what nobody believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import audit_story
import pytest
from audit_corrupt import Broken, T
from audit_world import MemoryLog, world

from orchestrator.audit.auditor import Verdict, audit
from orchestrator.audit.notes import NoteTaker
from orchestrator.audit.records import LogRecord
from schemas.errors import ProtocolViolation
from schemas.signatures import SIGNATURE_HEADER, sign_records, signature_in, speaker_of
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.wire import decode

OURS = {T.journal, T.status, T.confirmations, T.releases}
_INPUTS = NoteTaker(T).inputs
Breaks = Callable[[Broken, "Keys"], LogRecord]


class Keys:
    """A key for everybody who speaks, made when it is asked for."""

    def __init__(self) -> None:
        self.by_principal: dict[str, SigningKey] = {}

    def of(self, principal: str) -> SigningKey:
        """Return somebody's key."""
        return self.by_principal.setdefault(principal, SigningKey.new(principal))

    def trust(self, **ends: datetime) -> Trust:
        """Return the trust in all of them; `ends` says until when, by kind of principal."""
        members = [dict(key.public()) for key in self.by_principal.values()]
        for member in members:
            until = ends.get(member["principal"].partition(":")[0])
            if until is not None:
                member["exp"] = until.timestamp()
        return Trust.from_json(json.dumps({"keys": members}))


def by(record: LogRecord, key: SigningKey) -> LogRecord:
    """Return the record signed by this key, and by no other."""
    plain = [one for one in record.headers if one[0] != SIGNATURE_HEADER]
    (headers,) = sign_records([(record.place.topic, record.key or b"", record.value or b"", plain)], key)
    return replace(record, headers=tuple(headers))


def signed(record: LogRecord, keys: Keys) -> LogRecord:
    """Return the record as who may say it has signed it; what nobody signs stays as it is."""
    if record.place.topic in OURS:
        return by(record, keys.of(ORCHESTRATOR))
    if record.place.topic in _INPUTS:
        try:
            message = decode(record.value, record.headers, _INPUTS[record.place.topic])
        except ProtocolViolation:
            return record
        return by(record, keys.of(speaker_of(message)))
    return record


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Broken, Keys, datetime]:
    """Write a log with one of everything, signed; give its keys and the instant at which it ends."""

    async def write() -> tuple[Broken, Keys, datetime]:
        keys = Keys()
        async with world(tmp_path_factory.mktemp("audit")) as company:
            names = await audit_story.tell(company)
            return Broken([signed(one, keys) for one in company.records], names), keys, company.now

    return asyncio.run(write())


def judge(records: list[LogRecord], trust: Trust | None, as_of: datetime) -> Verdict:
    return asyncio.run(audit(MemoryLog(records), T, as_of=as_of, trust=trust))


def test_a_log_that_is_signed_throughout_is_clean(told: tuple[Broken, Keys, datetime]):
    """Every record of ours and every input counts once; without keys nothing is said to have been checked."""
    log, keys, ends_at = told
    verdict = judge(log.records, keys.trust(), ends_at)
    assert verdict.is_clean, verdict.violations[:3]
    assert verdict.signed == sum(signature_in(one.headers) is not None for one in log.records) > 500
    unchecked = judge([replace(one, headers=_bare(one)) for one in log.records], None, ends_at)
    assert unchecked.is_clean and unchecked.signed is None


def _bare(record: LogRecord) -> tuple[tuple[str, bytes], ...]:
    return tuple(one for one in record.headers if one[0] != SIGNATURE_HEADER)


def unsigned(topic: str, name: str) -> Breaks:
    """Take a record's signature away."""

    def change(log: Broken, _keys: Keys) -> LogRecord:
        record = log.of(topic, name)[0]
        return replace(record, headers=_bare(record))

    return change


def by_another(topic: str, name: str, principal: str) -> Breaks:
    """Let somebody else sign a record, who may say other things."""
    return lambda log, keys: by(log.of(topic, name)[0], keys.of(principal))


def with_another_records(topic: str, name: str, other: str) -> Breaks:
    """Give a record the signature of another record of the same topic."""

    def change(log: Broken, _keys: Keys) -> LogRecord:
        record, like = log.of(topic, name)[0], log.of(topic, other)[0]
        given = signature_in(like.headers)
        assert given is not None
        return replace(record, headers=(*_bare(record), (SIGNATURE_HEADER, given)))

    return change


def by_nobody_known(topic: str, name: str) -> Breaks:
    """Sign a record with a key that nobody trusts."""
    return lambda log, _keys: by(log.of(topic, name)[0], SigningKey.new(ORCHESTRATOR))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (unsigned(T.journal, "erasure"), "signature_missing"),
        (unsigned(T.confirmations, "erasure"), "signature_missing"),
        (unsigned(T.status, "erasure"), "signature_missing"),
        (unsigned(T.requests, "erasure"), "signature_missing"),
        (unsigned(T.reports, "erasure"), "signature_missing"),
        (unsigned(T.commands, "denied"), "signature_missing"),
        (by_another(T.reports, "erasure", "system:another"), "signature_foreign"),
        (by_another(T.requests, "erasure", "portal:another"), "signature_foreign"),
        (by_another(T.commands, "denied", "operator:ops:another"), "signature_foreign"),
        (by_another(T.confirmations, "erasure", "portal:website"), "signature_foreign"),
        (with_another_records(T.reports, "erasure", "access"), "signature_broken"),
        (with_another_records(T.journal, "erasure", "access"), "signature_broken"),
        (by_nobody_known(T.confirmations, "erasure"), "signer_unknown"),
    ],
)
def test_each_way_not_to_be_signed_is_found_alone(told: tuple[Broken, Keys, datetime], change: Breaks, code: str):
    """By its number and place; nothing else of the log is called broken."""
    log, keys, ends_at = told
    new = change(log, keys)
    records = [new if one.place == new.place else one for one in log.records]
    (violation,) = judge(records, keys.trust(), ends_at).violations
    assert (violation.invariant, violation.place) == (11, new.place) and code in violation.meaning


def test_what_nobody_believed_may_be_anybodys(told: tuple[Broken, Keys, datetime]):
    """A forged report that was set aside, and one that nobody has looked at yet, accuse nobody."""
    log, keys, ends_at = told
    aside = next(one for one in log.records if one.place.topic == T.quarantine and _origin(one, T.reports))
    place = _origin(aside, T.reports)
    records = [replace(one, headers=_bare(one)) if str(one.place) == place else one for one in log.records]
    assert judge(records, keys.trust(), ends_at).is_clean


def _origin(record: LogRecord, topic: str) -> str:
    found = {name: value.decode() for name, value in record.headers}
    given = [found.get(f"dsr-origin-{part}", "") for part in ("topic", "partition", "offset")]
    return "-".join(given) if given[0] == topic else ""


def test_a_key_must_have_been_valid_when_its_record_was_written(told: tuple[Broken, Keys, datetime]):
    """Ended after the last record: clean for ever. Ended before the first: everything under it is accused."""
    log, keys, ends_at = told
    assert judge(log.records, keys.trust(orchestrator=ends_at + timedelta(seconds=1)), ends_at).is_clean
    first = min(one.timestamp_ms for one in log.records) / 1000
    found = judge(log.records, keys.trust(orchestrator=datetime.fromtimestamp(first, ends_at.tzinfo)), ends_at).violations
    assert {one.invariant for one in found} == {11} and all("signature_expired" in one.meaning for one in found)
    assert {one.place.topic for one in found if one.place} == OURS
