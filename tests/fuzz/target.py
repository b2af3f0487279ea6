"""What one target is.

Room rules: a value; the targets themselves stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """One decoder: well-formed inputs to start from, what to call, what it may raise."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    #: Whether a refusal must keep the input to itself.
    is_silent: bool = True
