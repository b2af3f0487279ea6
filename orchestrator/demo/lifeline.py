"""Ends the demo's processes when the demo itself is gone, even by SIGKILL: a pipe that only the demo holds closes with it.

Runs as a process of its own: `+pid` and `-pid` on standard input tell which processes are alive; at its end they are killed.

Room rules: the standard library alone, so that it is up at once; a process number is only used while its start time is the
one that was noted, so that nobody else's process is hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

__all__ = ["main"]


def _started(pid: int) -> str:
    """Return when the process was started, in the kernel's ticks; empty where there is no /proc."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def main() -> None:
    """Read until the pipe closes, then end what is left."""
    alive: dict[int, str] = {}
    for line in sys.stdin:
        pid = int(line[1:])
        if line.startswith("+"):
            alive[pid] = _started(pid)
        else:
            alive.pop(pid, None)
    for pid, started in alive.items():
        if started == _started(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
