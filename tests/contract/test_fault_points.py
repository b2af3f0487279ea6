"""The way to kill a worker at a named point: off by default, and a wrong name is refused instead of being a test of nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from orchestrator.settings import Settings
from orchestrator.shell.points import KillPoint, PointName
from schemas.errors import ConfigurationError


def test_no_worker_has_one_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's settings name no point by themselves."""
    monkeypatch.delenv("DSR_FAULT_POINT", raising=False)
    assert Settings().fault_point is None


@pytest.mark.parametrize(
    "where", ["", "after_save", "after_save:", "after_save:0", "after_save:x", "nowhere:1", "after_save:-1"]
)
def test_a_wrong_point_is_refused(where: str) -> None:
    """The message lists the points there are."""
    with pytest.raises(ConfigurationError, match="mid_publish"):
        KillPoint(where)


@pytest.mark.parametrize("name", get_args(PointName))
def test_the_process_ends_at_the_passing_that_was_named(name: str) -> None:
    """Other points and earlier passings are passed; at the named one nothing of the process remains."""
    program = (
        "import asyncio; from typing import get_args; from orchestrator.shell.points import KillPoint, PointName\n"
        "async def main():\n"
        f"  point = KillPoint('{name}:2')\n"
        "  for number in (1, 2):\n"
        "    for name in get_args(PointName):\n"
        f"      if number == 2 and name == '{name}': print('now', flush=True)\n"
        "      await point.at(name)\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-9, "now\n", "")
