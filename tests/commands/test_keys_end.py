"""`dsr keys end`: a key ends from an instant on, in the file that workers read."""

from __future__ import annotations

import json
import os
import stat
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


def test_the_orchestrators_last_key_is_not_ended(trust: Path) -> None:
    """Workers would go on with what nobody believes; once there is another they are to be given that one."""
    written = trust.read_bytes()
    refused = end(trust, US)
    assert isinstance(refused.exception, ConfigurationError) and "dsr keys new orchestrator" in str(refused.exception)
    assert trust.read_bytes() == written
    members = json.loads(written)["keys"]
    over, next_one = SigningKey.new("orchestrator"), SigningKey.new("orchestrator")
    trust.write_text(json.dumps({"keys": [*members, over.public() | {"exp": 1_000}]}))
    assert isinstance(end(trust, US).exception, ConfigurationError)
    trust.write_text(json.dumps({"keys": [*members, next_one.public()]}))
    assert "DsrTrustFileRefused" in end(trust, US).output
    assert "DsrTrustFileRefused" not in end(trust, MAIL).output


def test_a_kid_may_begin_with_a_dash(trust: Path) -> None:
    """One in 64 does: a thumbprint in base64url."""
    members = json.loads(trust.read_text())["keys"]
    trust.write_text(json.dumps({"keys": [members[0] | {"kid": "-Dash--trust"}, *members[1:]]}))
    done = CliRunner().invoke(app, ["keys", "end", "-Dash--trust", "--trust", str(trust)])
    assert done.exit_code == 0, done.output
    assert json.loads(trust.read_text())["keys"][0]["exp"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_whoever_could_read_the_file_still_can(trust: Path, mode: int) -> None:
    """Its mode and its owner stay, whatever the umask; a link goes on leading to it."""
    trust.chmod(mode)
    link = trust.parent / "link.json"
    link.symlink_to(trust)
    umask = os.umask(0o077)
    try:
        done = CliRunner().invoke(app, ["keys", "end", CRM.kid, "--trust", str(link)])
    finally:
        os.umask(umask)
    assert done.exit_code == 0 and link.is_symlink()
    assert stat.S_IMODE(trust.stat().st_mode) == mode
    assert key_in(trust, CRM).valid_until is not None


def test_a_file_that_cannot_be_replaced_stays_as_it_was(trust: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is mounted alone, for instance; nothing is left beside it."""

    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    written = trust.read_bytes()
    monkeypatch.setattr(Path, "replace", busy)
    refused = end(trust, CRM)
    assert isinstance(refused.exception, ConfigurationError) and "as it was" in str(refused.exception)
    assert trust.read_bytes() == written and [file.name for file in trust.parent.iterdir()] == [trust.name]
