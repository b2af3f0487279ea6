"""Processes that are hit, and a supervisor that starts them again, as Kubernetes would.

Room rules: signals go to the supervisor's own children, by pid; what a process writes goes to its log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Hit", "Supervised"]

_RESTART_SECONDS = 0.3
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that went down: what it counts as, and when (Unix time)."""

    kind: str
    who: str
    at: float


class Supervised:
    """One name, many lives, one at a time."""

    def __init__(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str], log: Path, on_hit: Callable[[Hit], None]
    ) -> None:
        self.name = name
        self.log = log
        self.lives = 0
        self._command = [sys.executable, *command]
        self._environment = {**os.environ, **environment}
        self._on_hit = on_hit
        self._process: subprocess.Popen[bytes] | None = None
        self._armed: str | None = None
        self._next_arm: str | None = None
        self._is_ours = False
        self._wanted = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._keeping: asyncio.Task[None] | None = None

    def start(self, *, arm: str | None = None) -> None:
        """Keep it alive from now on; its next life dies at `arm`, if given."""
        self._next_arm = arm
        self._wanted.set()
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    async def kill(self, *, away_seconds: float = 0.0, arm: str | None = None) -> None:
        """End it with SIGKILL; it stays away for a while, and its next life dies at `arm`."""
        self._wanted.clear()
        self._signal(signal.SIGKILL)
        await self._down.wait()
        await asyncio.sleep(away_seconds)
        self.start(arm=arm)

    async def restart(self) -> None:
        """End it with SIGTERM, wait until it has stopped in order, start it again."""
        await self.stop()
        self.start()

    async def stop(self) -> None:
        """End it with SIGTERM, with SIGKILL if it takes too long; it stays away."""
        self._wanted.clear()
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._down.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._on_hit(Hit("stop took too long", self.name, time.time()))
            self._signal(signal.SIGKILL)
            await self._down.wait()

    async def sleep(self, seconds: float) -> None:
        """Freeze it with SIGSTOP, wake it with SIGCONT."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """End it for good."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._is_ours = True
            self._process.send_signal(number)

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            self._armed, self._next_arm = self._next_arm, None
            arm = {"DSR_FAULT_POINT": self._armed} if self._armed else {}
            with self.log.open("ab") as out:
                self._process = subprocess.Popen(self._command, env=self._environment | arm, stdout=out, stderr=out)  # noqa: ASYNC220 - starting takes no time
            self.lives += 1
            self._is_ours = False
            self._down.clear()
            status = await asyncio.to_thread(self._process.wait)
            self._down.set()
            self._note(status)
            await asyncio.sleep(_RESTART_SECONDS)

    def _note(self, status: int) -> None:
        if self._is_ours:
            return
        if status == -signal.SIGKILL and self._armed:
            kind = f"died at {self._armed.split(':')[0]}"
        else:
            kind = f"{self.name.rsplit('-', 1)[0]} ended by itself ({status})"
        self._on_hit(Hit(kind, self.name, time.time()))
