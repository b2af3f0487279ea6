"""`dsr-connector new` writes a connector that works at once, and refuses to write over anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.sdk.creation import FILES, create, next_steps
from schemas.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from connectors.sdk.cli import main; main()"]


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("DSR_", "PYTEST_"))} | {
        "PYTHONPATH": str(ROOT)
    }


@pytest.fixture
def made(tmp_path):
    ended = subprocess.run(
        [*COMMAND, "new", "visitor_desk", "--folder", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    written, _, then = ended.stdout.partition("next:\n")
    assert len(written.splitlines()) == len(FILES) + 2
    steps = [line.partition("#")[0].split() for line in then.splitlines()]
    assert [" ".join(step[:3]) for step in steps] == [
        "pip install -e",
        "dsr-connector standin visitor_desk",
        "export DSR_VISITOR_DESK_BASE_URL=http://127.0.0.1:8765 DSR_VISITOR_DESK_TOKEN=standin-0000",
        "dsr-connector check visitor_desk",
        "dsr-connector run visitor_desk",
    ]
    assert steps[0][3] == str(tmp_path)
    return tmp_path


def test_a_new_connector_passes_its_own_test(made):
    """Five files and a test that inherits the conformance suite: green before a line is changed, and no name is left over."""
    folder = made / "visitor_desk"
    assert {path.name for path in folder.iterdir()} == {*FILES, "test_visitor_desk.py"}
    assert not [path.name for path in folder.iterdir() if "skeleton" in path.read_text().lower()]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made)],
        cwd=made,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert " passed" in ended.stdout
    assert "DeprecationWarning" not in ended.stdout + ended.stderr


def test_a_new_connector_is_as_strict_as_the_others(made):
    """Types and house style hold from the first line."""
    for tool in (["mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")], ["ruff", "check"]):
        names = [str(made / "visitor_desk" / name) for name in FILES if name.endswith(".py") and name != "__init__.py"]
        ruled = ["--config", str(ROOT / "pyproject.toml"), "--ignore", "I001"] if tool[0] == "ruff" else []
        ended = subprocess.run(
            [sys.executable, "-m", *tool, *ruled, *names],
            cwd=made,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=170,
        )
        assert ended.returncode == 0, ended.stdout[-3000:]


def test_nothing_is_written_over(made):
    """A second time: refused, and every file is as it was."""
    (made / "visitor_desk" / "client.py").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"client\.py"):
        create("visitor_desk", made)
    assert (made / "visitor_desk" / "client.py").read_text() == "mine"


def test_in_our_own_tree_the_test_goes_to_the_tests(tmp_path):
    """Under connectors/systems the package is ours and its test stands with the others."""
    written = create("desk", tmp_path / "connectors" / "systems")
    assert tmp_path / "tests" / "connectors" / "test_desk.py" in written
    assert "from connectors.systems.desk.client import" in (tmp_path / "connectors/systems/desk/connector.py").read_text()
    assert not list(tmp_path.rglob("pyproject.toml"))
    assert not [line for line in next_steps("desk", tmp_path / "connectors" / "systems") if "pip" in line]


@pytest.mark.parametrize("name", ["Desk", "1desk", "../desk", "a b", "", "skeleton"])
def test_a_name_that_is_no_name(name, tmp_path):
    """Names are folders, variables and entry points: lower case and plain."""
    with pytest.raises(ConfigurationError, match="lower case"):
        create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
