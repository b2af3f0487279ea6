"""The README's commands are run, its links lead somewhere, and its code is the example's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from connectors.sdk.cli import _cli as connector_app
from orchestrator.cli import app as dsr_app
from schemas.vocabulary import QuarantineReason, StatusCode

ROOT = Path(__file__).resolve().parents[2]
#: Pages whose commands, marks and links are checked; of the README the unmarked blocks are run as well.
PAGES = ("README.md", "CONTRIBUTING.md", "docs/portals.md", "docs/operations.md", "docs/security.md", "connectors/README.md")
_BLOCK = re.compile(r"(?:<!-- covered by ([^>]+?) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A fenced block: what covers it, its language, its text."""

    covered_by: str
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))]


def commands(text: str) -> list[list[str]]:
    """Return the words of each line that calls one of our programs, without variables before and a redirection after."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        words = words[next((n for n, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words)) :]
        ends = next((n for n, word in enumerate(words) if word in {"&", ">", "|", "&&"}), len(words))
        if words and words[0] in {"dsr", "dsr-connector"}:
            found.append(words[:ends])
    return found


def test_the_readmes_unmarked_blocks_run() -> None:
    """A block that nothing else covers runs as it stands, quickly and with nothing running."""
    run = [block for block in blocks("README.md") if block.language == "sh" and not block.covered_by]
    assert run
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    for block in run:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{block.text}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_what_covers_a_block_exists(page: str) -> None:
    """The mark names a test file, and a test in it, that is there; of `make` lines, that the target is there."""
    for block in blocks(page):
        if block.covered_by == "make-targets":
            makefile = (ROOT / "Makefile").read_text()
            targets = re.findall(r"^make (\w+)", block.text, re.MULTILINE)
            assert targets
            assert all(re.search(rf"^{target}:.*## ", makefile, re.MULTILINE) for target in targets)
        elif block.covered_by:
            file, _, test = block.covered_by.partition("::")
            text = (ROOT / file).read_text()
            assert f"def {test}(" in text if test else "def test_" in text, block.covered_by


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_can_be_typed(page: str) -> None:
    """Each line names a command and options that exist; nothing is carried out."""
    apps = {"dsr": get_command(dsr_app), "dsr-connector": get_command(connector_app)}
    for block in blocks(page):
        if block.language not in {"sh", "console"}:
            continue
        for words in commands(block.text):
            command, rest = apps[words[0]], words[1:]
            while hasattr(command, "commands"):
                assert rest, words
                assert rest[0] in command.commands, words
                command, rest = command.commands[rest[0]], rest[1:]
            command.make_context(words[0], rest)  # raises a usage error on anything that does not exist


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """A relative link names a file, and its anchor a heading there."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in headings}, target


def test_the_readmes_code_is_the_examples() -> None:
    """The lines shown are lines of a file that a test runs against a real broker."""
    python = [block.text for block in blocks("README.md") if block.language == "python"]
    example = (ROOT / "docs" / "examples" / "portal.py").read_text(encoding="utf-8")
    assert python
    assert all(text.strip() in example for text in python)


def test_the_portals_page_tells_every_code() -> None:
    """Each status code, and each reason for which a portal's record is set aside, has its row."""
    page = (ROOT / "docs" / "portals.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    #: What only connectors and operators can be told.
    others = {"unknown_order", "foreign_system", "extension_too_late", "four_eyes", "unknown_system"}
    assert rows == {str(code) for code in StatusCode} | ({str(reason) for reason in QuarantineReason} - others)
