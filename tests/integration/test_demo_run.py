"""The demo as a subprocess: its last line, its exit code, and that nothing survives it, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.adapters import registry_file
from orchestrator.demo.play import REGISTRY

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

LAST_LINE = "demo: 23 confirmed, 1 quarantined, 0 lost, 0 doubled"


class Demo:
    """A running demo; its output goes to files, so that nothing blocks."""

    def __init__(self, tmp_path: Path, bootstrap: str | None, *arguments: str) -> None:
        self.folder = tmp_path / "demo"
        self._out, self._err = tmp_path / "out", tmp_path / "err"
        env = {key: value for key, value in os.environ.items() if not key.startswith("DSR_")}
        if bootstrap is not None:
            env["DSR_KAFKA_BOOTSTRAP"] = bootstrap
        command = [sys.executable, "-m", "orchestrator.cli", "demo", "--folder", str(self.folder), *arguments]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, env=env, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.out[-2000:]} {self.err[-2000:]}"
            assert time.monotonic() < deadline, self.out[-2000:]
            time.sleep(0.05)

    def ended(self, seconds: float = 180) -> int:
        return self.process.wait(seconds)

    def left(self) -> list[str]:
        """Return the command lines of the demo's processes: by their working directory, and by what it wrote down of them.

        The directory of a process that leaves no core dump is shown to root alone.
        """
        noted = {file.read_text().strip() for file in (self.folder / "pids").glob("*")} - {""}
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry.name in noted or self._works_here(entry)):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return [command for command in found if command]  # none: it has ended, and nobody has asked how

    def _works_here(self, process: Path) -> bool:
        with contextlib.suppress(PermissionError):
            return (process / "cwd").readlink().is_relative_to(self.folder)
        return False


def gone(demo: Demo, seconds: float = 15) -> list[str]:
    """Return what is left once the time is over; empty as soon as nothing is."""
    deadline = time.monotonic() + seconds
    while (left := demo.left()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Start a demo; one that still runs at the end of the test is interrupted."""
    running: list[Demo] = []

    def started(bootstrap: str | None, *arguments: str) -> Demo:
        running.append(Demo(tmp_path, bootstrap, *arguments))
        return running[-1]

    yield started
    for demo in running:
        if demo.process.poll() is None:
            demo.process.send_signal(signal.SIGINT)
            demo.process.wait(60)


def test_every_request_is_confirmed_and_every_active_system_proven(kafka_bootstrap: str, start: Callable[..., Demo]) -> None:
    """The summary tells of 23 confirmations and one record set aside, and that each system was asked; nothing runs on."""
    demo = start(kafka_bootstrap, "--json")
    assert demo.ended() == 0, demo.err[-3000:]
    told: dict[str, Any] = json.loads(demo.out)
    assert told["line"] == LAST_LINE
    assert (told["wrong"], told["lost"], told["doubled"]) == ([], [], [])
    assert told["systems"] == [system.id for system in registry_file.load(REGISTRY).active()]
    assert {"erased", "corrected", "completed", "silenced", "unsubscribed", "untouched"} == set(told["checked"])
    assert {request["right"] for request in told["requests"]} == {
        "access", "rectification", "completion", "erasure", "objection", "unsubscribe",
    }  # fmt: skip
    outcomes = {code for request in told["requests"] for code in request["outcomes"].values()}
    assert {"fulfilled", "nothing_held", "not_applicable", "retained", "notified", "waived"} == outcomes
    assert any(request["executed_request"] for request in told["requests"])
    assert gone(demo) == []


@pytest.mark.parametrize("name", ["worker", pytest.param("crm", marks=pytest.mark.long)])
def test_a_killed_process_changes_nothing(name: str, kafka_bootstrap: str, start: Callable[..., Demo]) -> None:
    """After kill -9 in the middle, and a start by the demo's own supervisor, the last line is the same."""
    demo = start(kafka_bootstrap)
    demo.until(lambda: demo.out.count(": confirmed, ") >= 3)
    os.kill(int((demo.folder / "pids" / name).read_text()), signal.SIGKILL)
    assert demo.ended() == 0, demo.out[-3000:]
    assert f"{name}: ended with -9, starting it again" in demo.out
    assert demo.out.splitlines()[-1] == LAST_LINE
    assert gone(demo) == []


@pytest.mark.long
def test_a_system_that_holds_something_else_is_noticed(kafka_bootstrap: str, start: Callable[..., Demo]) -> None:
    """Somebody changes a record of a person who asked for nothing: exit code 1, and a sentence that says whose and where."""
    demo = start(kafka_bootstrap)
    demo.until(lambda: "published 23 requests" in demo.out)
    url = (demo.folder / "logs" / "vendor-crm.log").read_text().strip()
    httpx.post(f"{url}/__seed__", json={"contacts": [{"email": "will@demo.example.org", "firstname": "W"}]}).raise_for_status()
    assert demo.ended() == 1
    assert "wrong: crm: Will is not untouched" in demo.out
    assert demo.out.splitlines()[-1] == LAST_LINE


def test_ctrl_c_stops_everything(kafka_bootstrap: str, start: Callable[..., Demo]) -> None:
    """An interrupt in the middle ends all processes and exits with 130."""
    demo = start(kafka_bootstrap)
    demo.until(lambda: "starting the worker" in demo.out and len(demo.left()) > 10)
    demo.process.send_signal(signal.SIGINT)
    assert demo.ended(60) == 130
    assert gone(demo, 1) == []


def test_a_killed_demo_takes_its_processes_along(start: Callable[..., Demo]) -> None:
    """After kill -9 of the demo itself neither worker, connector, stand-in nor broker is left."""
    demo = start(None)
    demo.until(lambda: "starting the worker" in demo.out and len(demo.left()) > 10)
    demo.process.kill()
    demo.process.wait()
    assert gone(demo, 30) == []
