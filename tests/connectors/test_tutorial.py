"""The tutorial's code is taken out of the page and run: a page that does not work is a red build."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial-connector.md"
BLOCK = re.compile(r"^```(?:python|yaml) file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


def test_the_page_holds_the_files_it_speaks_of():
    """Connector, stand-in, test, and the same as a file with its test."""
    assert set(blocks()) == {
        "guestbook.py",
        "guestbook_standin.py",
        "test_guestbook.py",
        "guestbook.yaml",
        "test_guestbook_file.py",
    }


@pytest.mark.parametrize("name", ["guestbook.py", "guestbook.yaml"])
def test_the_connector_is_under_sixty_lines(name):
    """An afternoon's work: lines that say something, blank ones left out."""
    assert 0 < len([line for line in blocks()[name].splitlines() if line.strip()]) < 60


def test_the_commands_of_the_page_are_there():
    """Every `dsr-connector` command that the page names exists."""
    text = PAGE.read_text(encoding="utf-8")
    commands = set(re.findall(r"^ +dsr-connector (\w+)", text, re.MULTILINE))
    shown = subprocess.run(
        [sys.executable, "-c", "from connectors.sdk.cli import main; main()", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert commands
    assert not [command for command in commands if not re.search(rf"\b{command}\b", shown.stdout)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_guestbook.py", "test_guestbook_file.py"])
def test_the_code_of_the_page_passes_the_conformance_suite(name, tmp_path):
    """Both forms of the connector, taken out as they stand, pass every test of the suite."""
    for file, text in blocks().items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith(("DSR_", "PYTEST_"))}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert re.search(r"\d\d passed", ended.stdout)
