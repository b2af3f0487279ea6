"""Wrong input is answered with what is valid: exit 2, one sentence, and no value repeated."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from orchestrator.audit.records import LogRecord, Place
from orchestrator.cli import app
from orchestrator.commands import intake_keys, quarantine, status
from orchestrator.commands.folding import RequestView
from schemas.vocabulary import Phase

ID = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
PERSON = "someone@example.org"
NOW = datetime(2026, 3, 5, 9, tzinfo=UTC)
WHY = ("--reason", "Agreed with the office", "--actor", "ops:office")
KEYS = str(Path(__file__).with_name("intake-keys.json"))
#: Nobody listens there: whatever gets as far as the broker would say so.
NOBODY = {"DSR_KAFKA_BOOTSTRAP": "127.0.0.1:1", "DSR_INTAKE_KEYS": KEYS, "DSR_ACTOR": "", "DSR_SIGNATURES": "off"}
SUBMIT = ("submit", "--right", "erasure", "--email", PERSON)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status", "42"), "a UUID"),
        (("show", PERSON), "a UUID"),
        (("waive", "42", "crm", *WHY), "a UUID"),
        (("waive", ID, "CRM!", *WHY), "as `dsr status` shows it"),
        (("retry", ID, "crm", "--reason", "Agreed"), "--actor ops:privacy-office, or DSR_ACTOR"),
        (("retry", ID, "crm", "--reason", "Agreed", "--actor", PERSON), "no mail address"),
        (("retry", ID, "crm", "--reason", f"Called {PERSON}", "--actor", "ops:office"), "name nobody"),
        (("retry", ID, "crm", "--actor", "ops:office"), "--reason"),
        (("deny", ID, "--ground", "busy", *WHY), "manifestly_unfounded"),
        (("extend", ID, "--because", "complexity", "--notice-sent-at", "yesterday", *WHY), "an instant with an offset"),
        (("hold", ID, "--kind", "fee", "--review-on", "soon", *WHY), "%Y-%m-%d"),
        (("identity", ID), "--confirmed METHOD:LEVEL or --refused REASON"),
        (("identity", ID, "--confirmed", "passport:total"), "low, substantial, high"),
        (("list", "--phase", "done"), "verifying"),
        (SUBMIT, "--verified METHOD:LEVEL"),
        ((*SUBMIT, "--unverified", "--verified", "login:low"), "or --unverified"),
        ((*SUBMIT, "--verified", "login"), "low, substantial, high"),
        ((*SUBMIT, "--unverified", "--identifier", PERSON), "NAME=VALUE"),
        ((*SUBMIT, "--unverified", "--identifier", f"mail={PERSON}"), "crm_contact_id"),
        ((*SUBMIT, "--unverified", "--portal", "Web Site"), "--portal"),
        ((*SUBMIT, "--unverified", "--actor", PERSON), "--actor"),
        ((*SUBMIT, "--unverified", "--asked-at", "2026-03-05"), "an instant with an offset"),
        (("submit", "--right", "erasure", "--unverified"), "--email, --phone or --identifier"),
        (("submit", "--right", "rectification", "--phone", "+31201234567", "--unverified"), "--set FIELD=VALUE"),
        (("submit", "--right", "delete", "--email", PERSON, "--unverified"), "erasure"),
        (("submit", "--right", "erasure", "--email", "-", "--unverified"), "email is empty"),
        ((*SUBMIT, "--unverified"), "No Kafka broker answers"),
        (("list",), "No Kafka broker answers"),
        (("confirmations", "--since", "May"), "%Y-%m-%d"),
    ],
)  # fmt: skip
def test_wrong_input_is_answered_with_what_is_valid(arguments: tuple[str, ...], says: str) -> None:
    """Exit 2 with the remedy; what somebody typed by mistake is not repeated where a log may keep it."""
    done = CliRunner().invoke(app, list(arguments), env={**NOBODY, "COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert done.exit_code == 2, (done.output, done.exception)
    assert says in done.output
    assert PERSON not in done.output


def test_submit_says_where_it_looked_for_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the intake key nothing can be sealed, so nothing is published."""
    monkeypatch.setattr(intake_keys, "_PATIENCE_SECONDS", 0.5)
    for place in ("http://127.0.0.1:1/v1/intake-keys", "/nowhere/intake-keys.json"):
        done = CliRunner().invoke(app, [*SUBMIT, "--unverified"], env={**NOBODY, "DSR_INTAKE_KEYS": place})
        assert done.exit_code == 2
        assert "DSR_INTAKE_KEYS" in done.output


@pytest.mark.parametrize("is_terminal", [True, False])
def test_who_waits_sees_it_on_a_terminal(is_terminal: bool) -> None:
    """A spinner on standard error while no worker listens; what a script keeps holds the error alone."""
    program = (
        "from orchestrator.commands import intake_keys; intake_keys._PATIENCE_SECONDS = 0.5;"
        " from orchestrator.cli import main; main()"
    )
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
    given = {**kept, **NOBODY, "DSR_INTAKE_KEYS": "http://127.0.0.1:1/v1/intake-keys", "TERM": "xterm"}
    command = [sys.executable, "-c", program, *SUBMIT, "--unverified"]
    with subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal tells that the other end is gone
            while more := os.read(ours, 4096):
                said += more
    os.close(ours)
    assert process.returncode == 2 and b"could not be fetched" in said
    assert (b"waiting for a worker to show the intake keys" in said) is is_terminal


def test_one_is_no_plural(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a registry's systems, and of records in quarantine."""
    registry = Path(__file__).parents[2] / "docs" / "examples" / "registry.yaml"
    assert "is valid: 1 system, 1 with" in CliRunner().invoke(app, ["registry", "check", str(registry)]).output
    aside = LogRecord(Place("dsr.quarantine.v1", 0, 0), 0, key=None, value=None)
    quarantine._print_table([quarantine._row(aside)])
    assert "1 record; look closer" in capsys.readouterr().out


def test_a_closed_requests_result_stands_under_its_name() -> None:
    """An open one waits for somebody; a closed one waits for nobody."""
    view = RequestView(ID, phase=Phase.CLOSED, result="fulfilled")
    for is_closed, heading in ((True, "result"), (False, "waits for")):
        columns = [str(column.header) for column in status._listed([view], NOW, is_closed=is_closed).columns]
        assert columns[5] == heading


COMMANDS = (
    "submit", "status", "show", "list", "deny", "extend", "hold", "resume", "waive", "retry", "add", "approve", "withdraw",
    "identity", "confirmations", "retry-all", "waive-all",
)  # fmt: skip


def programs(command: Any, path: str) -> Iterator[tuple[str, str]]:
    """Return every command with its help, those of groups too."""
    for name, below in getattr(command, "commands", {}).items():
        yield from programs(below, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command.help or ""


HELP = dict(programs(get_command(app), "dsr"))


@pytest.mark.parametrize("path", HELP)
def test_every_program_has_an_example_of_itself(path: str) -> None:
    """The line to copy, whatever stands before it in the environment."""
    assert re.search(rf"^Example: ([A-Z_]+=\S+ )*{path}\b", HELP[path], re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_and_offers_json(command: str) -> None:
    """`--help` ends in a line that can be copied, and every command speaks JSON."""
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert done.exit_code == 0
    assert f"Example: dsr {command}" in done.output
    assert "--json" in done.output
