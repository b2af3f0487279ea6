"""Every room's import contract is enforced: breaking it turns `make check` red."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: contract -> a module of the room, and an import it must not have.
BREACHES = {
    "schemas import no other room and touch no world": ("schemas/ids.py", "import orchestrator.ports"),
    "the core decides and nothing else: no I/O, no clock, no randomness": ("orchestrator/core/plan.py", "import asyncio"),
    "adapters know ports and schemas, not the core": ("orchestrator/adapters/clock.py", "import orchestrator.core.plan"),
    "adapters are independent of each other": ("orchestrator/adapters/clock.py", "import orchestrator.adapters.keys"),
    "the shell joins core and ports, never adapters": ("orchestrator/shell/inbox.py", "import orchestrator.adapters.keys"),
    "the auditor is a second opinion": ("orchestrator/audit/findings.py", "import orchestrator.core.plan"),
    "connectors never know the orchestrator": ("connectors/sdk/protocol.py", "import orchestrator.ports"),
    "systems never touch Kafka": ("connectors/systems/hubspot/client.py", "import aiokafka"),
    "systems are independent of each other": (
        "connectors/systems/hubspot/client.py",
        "import connectors.systems.mailchimp.client",
    ),
    "the connector kit knows no system by name": ("connectors/sdk/protocol.py", "import connectors.systems.hubspot.client"),
}


def test_every_contract_has_a_breach() -> None:
    """No contract is written down without being tried here."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == set(BREACHES)


@pytest.mark.parametrize("contract", BREACHES)
def test_breaking_a_contract_is_seen(contract: str, tmp_path: Path) -> None:
    """An import over the wall makes the linter fail, and it names the contract."""
    for package in ("schemas", "orchestrator", "connectors"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "published"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path, line = BREACHES[contract]
    module = tmp_path / path
    module.write_text(module.read_text() + f"\n{line}\n")
    linter = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run(
        [linter, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1, ended.stdout[-2000:]
    assert f"{contract} BROKEN" in " ".join(ended.stdout.split())
