"""The README's long-running blocks, run as they stand; only ports and folders are the test's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orchestrator.adapters.local_kafka import LocalKafka, cache_dir
from orchestrator.demo.stage import free_port

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def blocks(test: str) -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"<!-- covered by \S+::{test} -->\n```sh\n(.*?)```", readme, re.DOTALL)
    assert found, f"the README has no block that {test} covers"
    return found


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
    ours = {"XDG_STATE_HOME": str(folder), "XDG_CACHE_HOME": str(cache_dir().parents[1]), "PATH": f"{BIN}:{kept['PATH']}"}
    return {**kept, **ours, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    LocalKafka(tmp_path / "dsr" / "kafka").stop()


@pytest.mark.kafka
@pytest.mark.slow
def test_the_session_of_the_readme_ends_in_a_confirmation(folder: Path) -> None:
    """Typed line by line: a broker, a worker, a connector with its stand-in, and a request that is confirmed and audited.

    What is typed at the end leaves nothing behind that a second session, with another key, would find.
    """
    here = folder / "here"  # where the session's files go by default
    here.mkdir()
    (here / "docs").symlink_to(ROOT / "docs")
    begins, ends = blocks("test_the_session_of_the_readme_ends_in_a_confirmation")
    for port in ("9092", "9464", "8765"):
        begins = begins.replace(port, str(free_port()))
    script = f"set -euo pipefail\ntrap 'kill $(jobs -p) || true' EXIT\n{begins}ls -A\nset +e\n{ends}trap - EXIT"
    done = subprocess.run(
        ["bash", "-c", script], cwd=here, env=environment(folder), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "You asked us on" in done.stdout
    assert "CRM: holds nothing about you." in done.stdout
    assert "1 of 1 requests" in done.stdout
    assert "Clean: none of the" in done.stdout
    assert "someone@example.org" not in done.stdout + done.stderr
    assert {"dsr.sqlite", ".dsr"} <= set(done.stdout.splitlines()), "the session keeps its files elsewhere now"
    assert [file.name for file in here.iterdir()] == ["docs"]
    assert not (folder / "dsr" / "kafka").exists()


@pytest.mark.kafka
@pytest.mark.postgres
@pytest.mark.slow
def test_the_worker_of_the_readme_starts_on_postgresql(kafka_bootstrap: str, postgres_url: str, folder: Path) -> None:
    """The operator's block brings topics and store up, and a worker that is ready and stops on SIGTERM with 0."""
    (text,) = blocks("test_the_worker_of_the_readme_starts_on_postgresql")
    port = str(free_port())
    for shown, ours in {
        "broker:9092": kafka_bootstrap,
        "postgresql+psycopg://dsr@db/dsr": postgres_url,
        "registry.yaml": str(ROOT / "docs" / "examples" / "registry.yaml"),
        "DSR_REPLICATION_FACTOR=3": "DSR_REPLICATION_FACTOR=1",
        "dsr worker ": f"exec dsr worker --http-port {port} ",
    }.items():
        assert shown in text
        text = text.replace(shown, ours)
    process = subprocess.Popen(
        ["bash", "-euc", text],
        cwd=folder,  # the block makes keys where it stands
        env={**environment(folder), "DSR_TOPIC_PREFIX": f"readme-{port}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert _is_ready(f"http://127.0.0.1:{port}/readyz", process), "the worker has ended, or is not ready in time"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    ends_at = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < ends_at:
        try:
            if httpx.get(url).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False
