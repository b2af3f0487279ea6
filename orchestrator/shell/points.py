"""Named points between which a crash must lose nothing, and a way for a test to crash there.

Off, nothing is asked but whether it is on. On (`DSR_FAULT_POINT=after_save:3`), the process kills itself at the third passing
of that point, as a power cut would: a random kill almost never hits the moments that matter.

Room rules: names and a count; nothing here is reached in a worker that serves people.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, Protocol, cast, get_args

from schemas.errors import ConfigurationError

__all__ = ["KillPoint", "PointName", "Points"]

PointName = Literal[
    "after_decode", "before_save", "after_save", "mid_publish", "after_publish", "after_ack", "before_commit", "after_commit"
]


class Points(Protocol):
    """Is told when a point is passed."""

    async def at(self, name: PointName) -> None:
        """Pass a point; may wait, or never return."""
        ...


class KillPoint:
    """Ends the process with SIGKILL at one passing of one point."""

    def __init__(self, where: str) -> None:
        """Read `name:number`, the number counting from 1. Raises `ConfigurationError` for anything else."""
        name, _, number = where.partition(":")
        if name not in get_args(PointName) or not number.isdecimal() or int(number) < 1:
            raise ConfigurationError(
                f"DSR_FAULT_POINT takes <point>:<number>, a point being one of {', '.join(get_args(PointName))}"
            )
        self.name = cast("PointName", name)
        self._left = int(number)

    async def at(self, name: PointName) -> None:
        """Count a passing; the last one does not return."""
        if name == self.name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
