"""Signing keys and trust files: whose key it is, when it is believed, and what is refused by name."""

from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.trust import (
    ORCHESTRATOR,
    SigningKey,
    Trust,
    operator_principal,
    portal_principal,
    system_principal,
    valid_principal,
)
from schemas.vocabulary import QuarantineReason

CRM = SigningKey.new("system:crm")
WEBSITE = SigningKey.new("portal:website")
NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)


def trust_of(*members: dict) -> Trust:
    return Trust.from_json(json.dumps({"keys": list(members)}))


def test_a_key_survives_its_file_and_shows_no_secret():
    """What is written is the same key when read; neither `repr` nor the public half shows the secret."""
    again = SigningKey.from_json(CRM.to_json())
    assert (again.kid, again.principal) == (CRM.kid, "system:crm")
    assert again.sign(b"x", typ="t") == CRM.sign(b"x", typ="t")
    secret = json.loads(CRM.to_json())["d"]
    assert secret not in repr(CRM) + str(CRM) + json.dumps(CRM.public())
    assert "d" not in CRM.public()


def test_a_signature_opens_to_its_payload_and_its_key():
    """A trusted key's signature gives back payload and principal; the purpose it was made for must be the one asked for."""
    payload, key = Trust.of(CRM, WEBSITE).opened(CRM.sign(b"said", typ="report"), typ="report")
    assert (payload, key.principal, key.kid) == (b"said", "system:crm", CRM.kid)
    with pytest.raises(ProtocolViolation) as caught:
        Trust.of(CRM).opened(CRM.sign(b"said", typ="report"), typ="JWT")
    assert caught.value.code == QuarantineReason.SIGNATURE_BROKEN


def test_an_unknown_key_and_a_changed_signature_are_told_apart():
    """A key that nobody trusts, and a text that is no valid signature, each have a code of their own."""
    signed = CRM.sign(b"said", typ="report")
    with pytest.raises(ProtocolViolation) as caught:
        Trust.of(WEBSITE).opened(signed, typ="report")
    assert caught.value.code == QuarantineReason.SIGNER_UNKNOWN
    head, body, tail = signed.split(".")
    for broken in ("", "a.b", f"{head}.{body}x.{tail}", f"{head}.{body}.{tail[:-8]}AAAAAAAA", "é.b.c", f"{head}..{tail}"):
        with pytest.raises(ProtocolViolation) as caught:
            Trust.of(CRM).opened(broken, typ="report")
        assert caught.value.code == QuarantineReason.SIGNATURE_BROKEN


def test_a_key_claimed_by_another_kid_does_not_fit():
    """A signature that names somebody else's kid is checked with that key, and fails."""
    impostor = SigningKey.from_json(json.dumps({**json.loads(WEBSITE.to_json()), "kid": CRM.kid, "principal": "system:crm"}))
    with pytest.raises(ProtocolViolation) as caught:
        Trust.of(CRM).opened(impostor.sign(b"said", typ="report"), typ="report")
    assert caught.value.code == QuarantineReason.SIGNATURE_BROKEN


def test_rotation_overlaps():
    """Two keys of one principal are believed side by side, each within its own time."""
    new = SigningKey.new("system:crm")
    until, since = NOON + timedelta(days=1), NOON - timedelta(days=1)
    trust = trust_of({**CRM.public(), "exp": int(until.timestamp())}, {**new.public(), "nbf": int(since.timestamp())})
    old, fresh = trust.key(CRM.kid), trust.key(new.kid)
    assert old is not None and fresh is not None
    assert trust.keys_of("system:crm") == (old, fresh)
    assert old.valid_at(NOON) and fresh.valid_at(NOON)
    assert old.valid_at(until - timedelta(seconds=1)) and not old.valid_at(until)
    assert fresh.valid_at(since) and not fresh.valid_at(since - timedelta(seconds=1))


def test_principals():
    """The four kinds of principal are taken, and nothing else."""
    names = (system_principal("crm"), portal_principal("website"), operator_principal("ops:alice"), ORCHESTRATOR)
    assert [valid_principal(name) for name in names] == list(names)
    for wrong in ("", "crm", "system:", "system:CRM", "person:x", "orchestrator:1", "operator:a@example.org"):
        with pytest.raises(ConfigurationError, match="principal"):
            valid_principal(wrong)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("{}", "keys is no list"),
        ('{"keys": [1]}', r"keys\[0\]: is no JSON object"),
        (json.dumps({"keys": [{**CRM.public(), "kty": "RSA"}]}), r"keys\[0\]: kty must be OKP"),
        (json.dumps({"keys": [{**CRM.public(), "crv": "X25519"}]}), r"keys\[0\]: crv must be Ed25519"),
        (json.dumps({"keys": [{**CRM.public(), "x": "AAAA"}]}), r"keys\[0\]: x .*is no Ed25519 key"),
        (json.dumps({"keys": [{**CRM.public(), "x": 5}]}), r"keys\[0\]: x .*is no Ed25519 key"),
        (json.dumps({"keys": [{**CRM.public(), "kid": ""}]}), r"keys\[0\]: kid is missing"),
        (json.dumps({"keys": [{**CRM.public(), "principal": None}]}), r"keys\[0\]: principal is missing"),
        (json.dumps({"keys": [{**CRM.public(), "principal": "crm"}]}), r"keys\[0\]: principal is none of ours"),
        (json.dumps({"keys": [{**CRM.public(), "nbf": "soon"}]}), r"keys\[0\]: nbf is no number"),
        (json.dumps({"keys": [{**CRM.public(), "exp": 1e300}]}), r"keys\[0\]: exp lies outside"),
        (json.dumps({"keys": [{**CRM.public(), "nbf": 5, "exp": 5}]}), r"keys\[0\]: exp is not after nbf"),
        (json.dumps({"keys": [json.loads(CRM.to_json())]}), r"keys\[0\]: d is a private key"),
        (json.dumps({"keys": [CRM.public(), CRM.public()]}), "stands there twice"),
    ],
)
def test_a_wrong_trust_file_names_member_field_and_remedy(text: str, says: str):
    """Each mistake in a trust file is named, and no key is quoted."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        Trust.from_json(text)
    assert json.loads(CRM.to_json())["d"] not in str(caught.value)


def test_a_public_key_signs_nothing():
    """Giving the public half where a signing key belongs is said plainly."""
    with pytest.raises(ConfigurationError, match="this is a public key"):
        SigningKey.from_json(json.dumps(CRM.public()))


def test_keys_new_writes_a_private_file_and_a_trust_file(tmp_path: Path):
    """`dsr keys new` makes files that work together; it overwrites no key, and the private one is for its owner alone."""
    trust, run = tmp_path / "trust.json", CliRunner()
    for principal in ("system:crm", "orchestrator"):
        out = tmp_path / f"{principal.replace(':', '-')}.jwk"
        said = run.invoke(app, ["keys", "new", principal, "--out", str(out), "--trust", str(trust)])
        assert said.exit_code == 0, said.output
        key = SigningKey.from_json(out.read_bytes())
        assert json.loads(out.read_text())["d"] not in said.output
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        found = Trust.from_json(trust.read_bytes()).key(key.kid)
        assert found is not None and found.principal == principal
    again = run.invoke(app, ["keys", "new", "orchestrator", "--out", str(out)])
    assert isinstance(again.exception, ConfigurationError)
    listed = run.invoke(app, ["keys", "list", str(trust), "--json"])
    assert [one["principal"] for one in json.loads(listed.output)] == ["system:crm", "orchestrator"]


@pytest.mark.parametrize(
    "header",
    [
        {"crit": None},
        {"crit": 1},
        {"crit": [[]]},
        {"b64": 1},
        {"b64": None, "crit": ["b64"]},
        {"x5c": 1},
        ["alg", "kid"],
        "alg",
    ],
)
def test_a_header_of_any_shape_is_a_broken_signature(header: dict | list | str):
    """Whoever knows a public key's name can write a header: it is read before any signature, and must not crash a reader."""
    named = {"alg": "Ed25519", "kid": CRM.kid, "typ": "report"}
    protected = json.dumps(named | header if isinstance(header, dict) else header).encode()
    forged = f"{base64.urlsafe_b64encode(protected).decode().rstrip('=')}..{'A' * 86}"
    with pytest.raises(ProtocolViolation) as caught:
        Trust.of(CRM).opened(forged, typ="report")
    assert caught.value.code == QuarantineReason.SIGNATURE_BROKEN
