"""When to try again: pure functions of the order's id and a count, so that a replay waits exactly as long.

Room rules: no clock, no randomness; jitter comes from a hash, so a thousand orders that failed together do not return together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Backoff", "jitter"]


def jitter(key: str, number: int) -> float:
    """Return a number in [0, 1), the same for the same key and count."""
    return int.from_bytes(hashlib.blake2b(f"{key}\x1f{number}".encode(), digest_size=6).digest(), "big") / 2**48


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential growth from `base_seconds` to `max_seconds`, each wait spread over its upper half."""

    base_seconds: float
    max_seconds: float

    def seconds(self, key: str, number: int) -> float:
        """Return the wait before the try after the `number`-th (1, 2, ...), in seconds."""
        full = min(self.max_seconds, self.base_seconds * 2.0 ** min(number - 1, 40))
        return full * (0.5 + jitter(key, number) / 2)

    def after(self, now: datetime, key: str, number: int, *, at_least_seconds: float | None = None) -> datetime:
        """Return the moment of the next try; never before what the system asked for, spread a little behind it."""
        wait = self.seconds(key, number)
        if at_least_seconds is not None and at_least_seconds >= wait:
            wait = at_least_seconds + self.base_seconds * jitter(key, number)
        return now + timedelta(seconds=wait)
