"""No core dumps: a process that dies must not write its memory, with keys and people in clear, to a disk.

Worker, connectors and commands call it, which may not import each other.

Room rules: limits of this very process, nothing else of the world.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys

__all__ = ["forbid_core_dumps"]

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Have the kernel write no core dump of this process: call it before the first secret is read.

    The size limit is 0, soft and hard (setrlimit(2)), for what this process starts as well; only root can raise it again. On
    Linux the process is not dumpable besides (PR_SET_DUMPABLE, prctl(2)), because a `core_pattern` that pipes to a program is
    served whatever the limit says (core(5)). So a debugger or profiler needs CAP_SYS_PTRACE, of the same account too, and
    /proc/<pid>/fd, environ and mem are root's; status, stat, limits and task/*/schedstat stay readable. A program that it
    starts is dumpable again.

    Success does not imply that memory stays off every disk: swap, hibernation and what root does are not touched. Nor does it
    say that prctl was granted: where a sandbox refuses it, the limit alone stands.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
