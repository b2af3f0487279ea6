"""`dsr due`, as a privacy officer and a script use it; and the page that is generated from the same tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.core.deadlines import OWN_CALENDARS, RULES, Override, rules_page

RUNNER = CliRunner(env={"COLUMNS": "140", "NO_COLOR": "1", "TERM": "dumb"})
PAGE = Path(__file__).parents[3] / "docs" / "deadlines.md"


def run(*args: str) -> Any:
    return RUNNER.invoke(app, ["due", *args])


def dates(*args: str) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_has_the_dates_and_where_they_come_from() -> None:
    """A script gets ISO dates, null where the rule has none, the instant, the steps and the source."""
    found = dates("--rule", "eu.gdpr", "--received", "2026-03-05T10:00", "--zone", "Europe/Amsterdam", "--calendar", "NL")
    assert {
        name: found[name] for name in ("rule", "due_on", "extended_due_on", "acknowledge_by_on", "notice_by_on", "due_at")
    } == {
        "rule": "eu.gdpr",
        "due_on": "2026-04-07",
        "extended_due_on": "2026-06-05",
        "acknowledge_by_on": None,
        "notice_by_on": "2026-04-07",
        "due_at": "2026-04-07T22:00:00Z",
    }
    assert found["steps"]
    assert "12(3)" in found["source"]


def test_local_time_is_read_in_the_zone() -> None:
    """Half past midnight in Amsterdam is that day, whatever UTC says; an offset is obeyed."""
    assert dates("--received", "2026-02-28T00:30")["due_on"] == "2026-03-30"
    assert dates("--received", "2026-02-27T23:30Z")["due_on"] == "2026-03-30"
    assert dates("--received", "2026-02-28")["starts_on"] == "2026-02-28"


@pytest.mark.parametrize(
    ("args", "due_on"),
    [
        (("--paused", "2026-03-10..2026-03-19"), "2026-04-14"),
        (("--paused", "identity:2026-03-10..2026-03-12", "--paused", "clarification:2026-03-13..2026-03-20"), "2026-04-14"),
        (("--paused", "identity:2026-03-10..", "--identity-confirmed", "2026-03-19"), "2026-04-14"),
        (("--paused", "fee:2026-03-10..2026-03-19"), "2026-04-07"),
        (("--rule", "ch.fadp", "--paused", "fee:2026-03-10.."), "2026-04-19"),
        (("--rule", "uk.gdpr", "--calendar", "GB-ENG", "--identity-confirmed", "2026-03-10"), "2026-04-10"),
        (
            ("--rule", "uk.gdpr", "--calendar", "GB-ENG", "--right", "erasure", "--paused", "2026-03-10..2026-03-12"),
            "2026-04-07",
        ),
        (("--rule", "br.lgpd", "--sent", "2026-03-04"), "2026-03-19"),
        (("--rule", "us.ccpa", "--conservative"), "2026-04-18"),
    ],
)
def test_events_of_the_command_line_reach_the_clock(args: tuple[str, ...], due_on: str) -> None:
    """Pauses, confirmations, the date of sending and the right change the date as the rule says."""
    assert dates("--received", "2026-03-05T10:00", *args)["due_on"] == due_on


def test_extension_shows_the_applicable_date() -> None:
    """The notice in time gives the later date; a named date counts."""
    found = dates("--received", "2026-03-05T10:00", "--extended", "2026-04-03T12:00", "--until", "2026-05-08")
    assert found["applicable_due_on"] == "2026-05-08"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--rule", "eu.gpdr"), r"rule: 'eu.gpdr' is not known; valid are eu\.gdpr, "),
        (("--zone", "Europe/Amsterdm"), r"zone: .*valid are Europe/Amsterdam, "),
        (("--calendar", "GB-EN"), r"calendar: .*valid are GB-ENG, .*US-CA\*"),
        (("--right", "acces"), r"--right: .*valid are access, "),
        (("--received", "5 March"), r"--received: '5 March' is not valid; valid are 2026-03-05"),
        (("--received", ""), "--received: is missing"),
        (("--sent", "2026-03-06"), "--sent: .*valid are moments before --received"),
        (("--paused", "2026-03-10"), r"--paused: .*valid are 2026-03-10\.\.2026-03-19"),
        (("--paused", "identiy:2026-03-10..2026-03-11"), "--paused: .*valid are identity, "),
        (("--paused", "2026-03-10..soon"), "--paused: 'soon' is not valid; valid are dates"),
        (("--paused", "2026-03-10..2026-03-09"), "the answer came before the question"),
        (("--identity-confirmed", "today"), "--identity-confirmed: 'today' is not valid"),
        (("--until", "2026-05-08"), "--until: .*--extended"),
        (("--extended", "2026-04-08T10:00"), "had to leave by 2026-04-07"),
        (("--rule", "eu.gdpr.refuse", "--extended", "2026-03-08T10:00"), "eu.gdpr.refuse allows no extension"),
    ],
)
def test_wrong_input_ends_with_2_and_a_sentence(args: tuple[str, ...], sentence: str) -> None:
    """What is wrong, and what would be valid, the closest first; nothing on stdout."""
    result = run("--received", "2026-03-05T10:00", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(sentence, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_people_read_a_table_with_the_caveat() -> None:
    """Dates in words, the source, what is open, and the advice to check with counsel; the arithmetic on request."""
    shown = run(
        "--received", "2026-03-05T10:00", "--paused", "2026-03-10..2026-03-19", "--paused", "identity:2026-04-01.."
    ).stdout
    for words in (
        "Tuesday 14 April 2026",
        "warn by",
        "Tuesday 7 April 2026",
        "GDPR Art. 12(3)",
        "question is open",
        "with counsel",
    ):
        assert words in shown
    assert "paused days" not in shown
    assert "+ 9 paused days" in run("--received", "2026-03-05T10:00", "--paused", "2026-03-10..2026-03-19", "--explain").stdout


def test_list_shows_every_rule() -> None:
    """`--list` needs nothing else and shows all rule ids."""
    result = run("--list")
    assert result.exit_code == 0
    assert all(rule in result.stdout for rule in RULES)


def test_page_equals_the_generated_text() -> None:
    """docs/deadlines.md ends with exactly what the tables say; run `dsr due --markdown` to renew it."""
    marker = "<!-- generated by `dsr due --markdown`; a test compares -->\n"
    _, _, generated = PAGE.read_text().partition(marker)
    assert generated == rules_page()
    assert run("--markdown").stdout == rules_page()


def test_page_names_every_rule_and_own_calendar() -> None:
    """No rule and no list of ours is missing from the page, no cell breaks its table, and its override loads."""
    page = rules_page()
    assert all(f"| `{name}` |" in page for name in (*RULES, *OWN_CALENDARS))
    widths = {tuple(line.count("|") for line in block.split("\n")) for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)}
    assert all(len(set(counts[:-1])) == 1 for counts in widths)
    given = re.search(r"Override\.model_validate\((\{.*\})\)\}", PAGE.read_text())
    assert given
    assert Override.model_validate_json(given.group(1)).period
