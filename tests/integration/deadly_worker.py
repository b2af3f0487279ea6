"""A worker that a record kills without an exception, as a fault in native code or the kernel's memory killer would.

Run by `test_deadly_record.py`; the environment names the request.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from orchestrator.commands.worker import worker_command
from orchestrator.shell.translate import Translator

_read = Translator.read


def read(self: Translator, record: Any) -> Any:
    """End the process at every record of the request that the environment names."""
    if record.key == os.environ["DEADLY_REQUEST"].encode():
        os.kill(os.getpid(), signal.SIGKILL)
    return _read(self, record)


if __name__ == "__main__":
    Translator.read = read  # type: ignore[method-assign] # the defect
    worker_command(worker_id=None, http_port=None, upgrade_store=True)
