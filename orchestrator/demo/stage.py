"""The demo's processes: started, watched, started again when they die, and stopped, whatever happens.

Room rules: knows commands and log files, no system and no message. Every process has a session of its own, so that Ctrl-C in a
terminal reaches the demo alone, which then stops the others in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from schemas.errors import OrchestratorError

__all__ = ["DemoFailed", "Part", "Stage", "free_port", "said", "script", "shows_address"]

_READY_SECONDS = 60.0
_STOP_SECONDS = 15.0
#: A process that dies more often than this is broken; starting it again would only hide it.
_LIVES = 3
_LOOK_SECONDS = 0.05
_TELL_SECONDS = 2.0


class DemoFailed(OrchestratorError):
    """The demo could not do what it shows; the message says what, and where to look."""


def script(name: str) -> str:
    """Return the path of one of this package's own commands."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def free_port() -> int:
    """Return a port of this machine that nobody listens on now.

    It is below those that systems hand to outgoing connections: one of them could have it before its server has started.
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(12_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise DemoFailed("no port between 20000 and 32000 of 127.0.0.1 is free")


@dataclass(slots=True)
class Part:
    """One process: how to start it, and what it has said since it was last started."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    #: Finds in a log line what tells that it is ready, for instance its port.
    sign: Callable[[str], str | None]
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0
    said_before: int = 0
    stopping: bool = False
    ready: str | None = None

    def look(self) -> str | None:
        """Return what its present life says of being ready, None if nothing yet."""
        if self.ready is None and self.log.exists():
            with self.log.open(errors="replace") as lines:
                lines.seek(self.said_before)
                self.ready = next((found for line in lines if line.endswith("\n") and (found := self.sign(line))), None)
        return self.ready

    def last_words(self) -> str:
        """Return the last line that it wrote."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1][:300] if lines else "it said nothing"


@dataclass(slots=True)
class Stage:
    """All processes of one run. Use it as a context: at the end everything is stopped."""

    folder: Path
    say: Callable[[str], None]
    parts: dict[str, Part] = field(default_factory=dict)
    revived: list[str] = field(default_factory=list)
    _lifeline: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "pids").mkdir(exist_ok=True)
        self._lifeline = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.demo.lifeline"], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert self._lifeline is not None
        self._lifeline.communicate()

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str], sign: Callable[[str], str | None]) -> Part:
        """Start a process; its output goes to `logs/<name>.log`, its number to `pids/<name>`."""
        part = Part(name, command, env, self.folder / "logs" / f"{name}.log", sign)
        self.parts[name] = part
        self._launch(part)
        return part

    async def ready(self, *names: str) -> None:
        """Wait until these say that they are. Raises `DemoFailed` when one ends instead, or takes longer than a minute."""
        waited, told = 0.0, 0.0
        while missing := [name for name in names if self.parts[name].look() is None]:
            for name in missing:
                part = self.parts[name]
                if part.process is not None and part.process.poll() is not None:
                    raise DemoFailed(f"{name} ended while starting: {part.last_words()}; see {part.log}")
            if waited > _READY_SECONDS:
                raise DemoFailed(f"{', '.join(missing)} not ready after {_READY_SECONDS:.0f} s; see {self.folder / 'logs'}")
            if waited - told > _TELL_SECONDS:
                told = waited
                self.say(f"{len(names) - len(missing)} of {len(names)} are up")
            await asyncio.sleep(_LOOK_SECONDS)
            waited += _LOOK_SECONDS

    def kill(self, name: str) -> None:
        """End a process at once (SIGKILL), as a power cut would; `revive` brings it back."""
        process = self.parts[name].process
        assert process is not None
        process.kill()
        process.wait()
        self.say(f"{name}: killed (SIGKILL)")

    def revive(self) -> None:
        """Start again what has died. Raises `DemoFailed` for one that dies again and again."""
        for part in list(self.parts.values()):
            if part.process is None or part.process.poll() is None or part.stopping:
                continue
            code = part.process.returncode
            if part.lives >= _LIVES:
                raise DemoFailed(f"{part.name} ended {part.lives} times, the last time with {code}; see {part.log}")
            self.say(f"{part.name}: ended with {code}, starting it again")
            self.revived.append(part.name)
            self._launch(part)

    def stop(self) -> None:
        """Stop all: SIGTERM, and SIGKILL for what takes too long. Blocks."""
        alive = [part for part in self.parts.values() if part.process is not None and part.process.poll() is None]
        for part in alive:
            part.stopping = True
            assert part.process is not None
            part.process.send_signal(signal.SIGTERM)
        for part in alive:
            assert part.process is not None
            try:
                part.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                part.process.kill()
                part.process.wait()
            self._tell_lifeline(f"-{part.process.pid}")
            (self.folder / "pids" / part.name).unlink(missing_ok=True)

    def _launch(self, part: Part) -> None:
        if part.process is not None:
            self._tell_lifeline(f"-{part.process.pid}")
        part.said_before = part.log.stat().st_size if part.log.exists() else 0
        part.ready = None
        with part.log.open("ab") as log:
            part.process = subprocess.Popen(
                part.command,
                env={**_plain_environment(), **part.env},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        part.lives += 1
        self._tell_lifeline(f"+{part.process.pid}")
        (self.folder / "pids" / part.name).write_text(str(part.process.pid))

    def _tell_lifeline(self, line: str) -> None:
        assert self._lifeline is not None and self._lifeline.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: the processes are still stopped in order
            self._lifeline.stdin.write(f"{line}\n".encode())
            self._lifeline.stdin.flush()


def _plain_environment() -> dict[str, str]:
    """Return this process's environment without settings of another installation."""
    return {key: value for key, value in os.environ.items() if not key.startswith("DSR_")}


def said(event: str, field_name: str) -> Callable[[str], str | None]:
    """Return a sign: a JSON log line with this event, of which one field is wanted."""

    def sign(line: str) -> str | None:
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and told.get("event") == event:
                return str(told[field_name])
        return None

    return sign


def shows_address(line: str) -> str | None:
    """Sign of a stand-in: the line is its address."""
    return line.strip() if line.startswith("http://") else None
