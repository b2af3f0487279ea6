"""`dsr keys end`: a key ends from an instant on, in the file that workers read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.adapters.clock import SystemClock
from orchestrator.cli import app
from schemas.errors import ConfigurationError
from schemas.trust import SigningKey, Trust, TrustedKey

CRM, MAIL, US = (SigningKey.new(name) for name in ("system:crm", "system:mail", "orchestrator"))


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """Three keys; one of them with a field that is none of ours."""
    file = tmp_path / "trust.json"
    file.write_text(json.dumps({"keys": [CRM.public() | {"note": "kept"}, MAIL.public() | {"nbf": 1_000_000}, US.public()]}))
    return file


def end(trust: Path, key: SigningKey, *more: str) -> Result:
    return CliRunner().invoke(app, ["keys", "end", key.kid, "--trust", str(trust), *more])


def key_in(trust: Path, key: SigningKey) -> TrustedKey:
    found = Trust.from_json(trust.read_bytes()).key(key.kid)
    assert found is not None
    return found


def test_a_key_ends_now(trust: Path) -> None:
    """It is believed no more when the command is done; it stays for the auditor, and nobody else's key is touched."""
    before, member = SystemClock().now() - timedelta(seconds=1), json.loads(trust.read_text())["keys"]
    done = end(trust, CRM)
    assert done.exit_code == 0 and CRM.kid in done.output
    found = key_in(trust, CRM)
    assert found.valid_at(before - timedelta(hours=1)) and not found.valid_at(SystemClock().now())
    after = json.loads(trust.read_text())["keys"]
    assert after[1:] == member[1:] and {**after[0], "exp": None} == {**member[0], "exp": None}
    assert [file.name for file in trust.parent.iterdir()] == [trust.name]


def test_an_end_may_lie_in_the_past_and_is_not_put_off(trust: Path) -> None:
    """A theft is found out later than it happened; what ended stays ended."""
    assert end(trust, CRM, "--at", "2026-03-05T10:00:00+01:00").exit_code == 0
    ended = datetime(2026, 3, 5, 9, tzinfo=UTC)
    assert key_in(trust, CRM).valid_until == ended
    written = trust.read_bytes()
    for more in ((), ("--at", "2026-03-05T10:00:00+01:00"), ("--at", "2027-01-01T00:00Z")):
        refused = end(trust, CRM, *more)
        assert isinstance(refused.exception, ConfigurationError) and "not put off" in str(refused.exception)
    assert trust.read_bytes() == written
    assert end(trust, CRM, "--at", "2026-03-05T08:59Z").exit_code == 0
    assert key_in(trust, CRM).valid_until == ended - timedelta(minutes=1)


@pytest.mark.parametrize(
    ("key", "more", "word"),
    [
        (SigningKey.new("system:crm"), (), "no key of that kid"),
        (CRM, ("--at", "2026-03-05T10:00"), "--at: give an instant with an offset"),
        (CRM, ("--at", "tomorrow"), "--at: give an instant with an offset"),
        (MAIL, ("--at", "1970-01-01T00:00Z"), "exp is not after nbf"),
    ],
    ids=["unknown", "no offset", "no instant", "before it began"],
)
def test_what_cannot_be_is_refused(trust: Path, key: SigningKey, more: tuple[str, ...], word: str) -> None:
    """The file stays as it was."""
    written = trust.read_bytes()
    refused = end(trust, key, *more)
    assert isinstance(refused.exception, ConfigurationError) and word in str(refused.exception)
    assert trust.read_bytes() == written


def test_whoever_ends_the_orchestrators_key_is_told_what_else_it_takes(trust: Path) -> None:
    """Workers sign with it until they are given another."""
    assert "DSR_SIGNING_KEY_FILE" in end(trust, US).output
    assert "DSR_SIGNING_KEY_FILE" not in end(trust, MAIL).output
