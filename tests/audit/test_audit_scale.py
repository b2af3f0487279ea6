"""Memory grows with open requests, not with the log; run by itself it prints the figures of docs/audit.md."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from audit_world import MemoryLog, world

from orchestrator.audit.dump import write_dump
from schemas.vocabulary import Right

#: How many requests the log has; `DSR_AUDIT_SCALE=20000` for the figures of docs/audit.md.
REQUESTS = int(os.environ.get("DSR_AUDIT_SCALE", "3000"))
WAVE = 250

AUDIT = """
import asyncio, json, re, sys, time
from pathlib import Path
from orchestrator.audit.auditor import audit
from orchestrator.audit.dump import DumpLog
from schemas.topics import Topics
def peak():  # getrusage would count the parent's memory from before the exec as well
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
log = DumpLog(Path(sys.argv[1]))
before, began = peak(), time.perf_counter()
verdict = asyncio.run(audit(log, Topics(), as_of=log.captured_at))
after, ended = peak(), time.perf_counter()
print(json.dumps({
    "clean": verdict.is_clean, "requests": verdict.requests, "records": verdict.records.total(),
    "seconds": round(ended - began, 1), "kib_at_start": before, "kib_more": after - before,
    "bytes_a_request": round((after - before) * 1024 / verdict.requests),
}))
"""


async def _write(folder: Path) -> Path:
    rights = cycle(Right)
    async with world(folder) as company:
        for _ in range(0, REQUESTS, WAVE):
            for _ in range(WAVE):
                company.submit(next(rights))
            await company.settle()
            company.now += timedelta(minutes=1)
        path = folder / "log.jsonl"
        await write_dump(MemoryLog(company.records), path, prefix="dsr", captured_at=company.now)
    return path


def _measure(path: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", AUDIT, path], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.timeout(900)
def test_a_closed_request_costs_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A closed request that is in order is remembered by less than a kilobyte, whatever stood in its records."""
    path = asyncio.run(_write(tmp_path))
    found = _measure(path)
    with capsys.disabled():
        print(f"\n{path.stat().st_size // 1024} KiB of log: {json.dumps(found)}")
    assert found["clean"]
    assert found["requests"] == REQUESTS // WAVE * WAVE
    # On top of it: the program's own growth, and what is open at once, a wave of requests.
    assert found["kib_more"] < found["requests"] + WAVE * 24
