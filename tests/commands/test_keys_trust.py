"""`dsr keys trust`: a public key that was made elsewhere comes into the trust file, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.cli import app
from schemas.errors import ConfigurationError
from schemas.trust import SigningKey, Trust

CRM = SigningKey.new("system:crm")


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """One key, with a field that is none of ours."""
    file = tmp_path / "trust.json"
    file.write_text(json.dumps({"keys": [CRM.public() | {"note": "kept"}]}))
    return file


def add(trust: Path, given: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", "trust", *arguments, "--trust", str(trust)], input=given)


def test_what_new_prints_is_added(trust: Path, tmp_path: Path) -> None:
    """From a file or from standard input; whoever was trusted stays so, to the field."""
    before = json.loads(trust.read_text())["keys"]
    for principal, way in (("portal:website", "file"), ("system:mail", "-"), ("operator:ops:alice", None)):
        made = CliRunner().invoke(app, ["keys", "new", principal, "--out", str(tmp_path / f"{way}.jwk")])
        assert made.exit_code == 0 and "dsr keys trust" in made.stderr
        printed = tmp_path / "printed"
        printed.write_text(made.stdout)
        done = add(trust, made.stdout, *([] if way is None else [str(printed) if way == "file" else way]))
        assert done.exit_code == 0, done.output
        assert principal in done.output
    assert json.loads(trust.read_text())["keys"][:1] == before
    held = [key.principal for key in Trust.from_json(trust.read_bytes())]
    assert held == ["system:crm", "portal:website", "system:mail", "operator:ops:alice"]


def test_the_file_is_made_if_it_is_not_there(tmp_path: Path) -> None:
    """As by `dsr keys new --trust`."""
    assert add(tmp_path / "new.json", json.dumps(CRM.public())).exit_code == 0
    assert Trust.from_json((tmp_path / "new.json").read_bytes()).key(CRM.kid) is not None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (CRM.to_json(), "this is a private key"),
        (json.dumps(CRM.public()), "has this key already"),
        (json.dumps(CRM.public() | {"kid": "another"}), "has this key already"),
        (json.dumps(SigningKey.new("system:mail").public() | {"kid": CRM.kid}), "has this key already"),
        (json.dumps(SigningKey.new("system:mail").public() | {"principal": "system:MAIL"}), "principal is none of ours"),
        ("", "is no public key"),
        ("[]", "is no public key"),
        ("{}", "kty must be OKP"),
    ],
    ids=["private", "again", "under another kid", "a kid that is taken", "principal", "nothing", "a list", "no key"],
)
def test_what_is_refused_changes_nothing(trust: Path, given: str, says: str) -> None:
    """The error names the remedy and repeats nothing of a private key."""
    before = trust.read_bytes()
    refused = add(trust, given)
    assert isinstance(refused.exception, ConfigurationError) and says in str(refused.exception)
    assert json.loads(CRM.to_json())["d"] not in str(refused.exception) + refused.output
    assert trust.read_bytes() == before and [file.name for file in trust.parent.iterdir()] == [trust.name]


def test_a_file_that_is_not_there_is_named(trust: Path) -> None:
    """And the trust file stays."""
    refused = add(trust, "", str(trust.parent / "absent"))
    assert isinstance(refused.exception, ConfigurationError) and "absent" in str(refused.exception)
