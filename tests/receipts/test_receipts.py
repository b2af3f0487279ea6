"""Receipts: the genuine ones verify, and each tampered one fails at the step, and for the reason, that its name says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from schemas.errors import NotVerified
from schemas.receipts import verify_receipt
from schemas.trust import Trust

FOLDER = Path(__file__).parent
TRUST = Trust.from_json((FOLDER / "jwks.json").read_bytes())
GENUINE = sorted(FOLDER.glob("genuine*.json"))
TAMPERED = sorted(FOLDER.glob("[0-9]-*.json"))


@pytest.mark.parametrize("file", GENUINE, ids=lambda file: file.stem)
def test_a_genuine_receipt_verifies(file: Path):
    """It returns nothing, with the public keys alone, whatever else was in its batch."""
    assert verify_receipt(file.read_bytes(), TRUST) is None  # type: ignore[func-returns-value] # that it returns nothing is the promise


@pytest.mark.parametrize("file", TAMPERED, ids=lambda file: file.stem)
def test_a_tampered_receipt_fails_for_its_own_reason(file: Path):
    """`<step>-<fault>-<how>.json` raises that step and that fault."""
    step, fault, _how = file.stem.split("-")
    with pytest.raises(NotVerified) as caught:
        verify_receipt(file.read_bytes(), TRUST)
    assert (caught.value.step, caught.value.fault) == (int(step), fault)


def test_every_step_of_the_docstring_has_a_tampered_receipt():
    """The numbers in text, code and files are the same."""
    told = [int(number) for number in re.findall(r"^ *(\d)\. ", verify_receipt.__doc__ or "", re.MULTILINE)]
    assert told == sorted({int(file.name[0]) for file in TAMPERED}) == list(range(1, 10))


@pytest.mark.parametrize("part", ["key", "value", "signature"])
def test_no_changed_character_passes(part: str):
    """Whichever character of a genuine receipt is changed, it does not verify."""
    genuine = json.loads((FOLDER / "genuine.json").read_bytes())
    text = genuine[part]
    for at in range(0, len(text), 1 if len(text) < 1000 else 7):
        other = "0" if text[at] != "0" else "1"
        with pytest.raises(NotVerified):
            verify_receipt(json.dumps({**genuine, part: text[:at] + other + text[at + 1 :]}).encode(), TRUST)


def test_the_command_says_so_with_its_exit_code():
    """`dsr verify` ends with 0, 1 and the step, or 2 where there is nothing to check; `--json` says the same."""
    run, keys = CliRunner(), ["--keys", str(FOLDER / "jwks.json")]
    done = run.invoke(app, ["verify", str(FOLDER / "genuine.json"), *keys])
    assert (done.exit_code, done.output.startswith("verified")) == (0, True)
    tampered = str(FOLDER / "8-not_what_was_signed-result_changed.json")
    done = run.invoke(app, ["verify", tampered, *keys])
    assert done.exit_code == 1 and "step 8, not_what_was_signed" in done.output
    done = run.invoke(app, ["verify", tampered, *keys, "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output) == {"verified": False, "step": 8, "fault": "not_what_was_signed"}
    assert run.invoke(app, ["verify", str(FOLDER / "nothing.json"), *keys]).exit_code == 2
    assert run.invoke(app, ["verify", tampered, "--keys", tampered]).exit_code == 2
