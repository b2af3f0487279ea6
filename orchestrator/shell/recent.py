"""The states that were saved last: what has just been written need not be parsed again when it is read.

A state is found by its very bytes, as the store gave them back. So it does not matter who else writes to the store, nor
whether a row was restored: other bytes are another state, and are parsed.

Room rules: a memory that may be empty at any time; nothing is decided by what stands in it.
"""

from __future__ import annotations

from orchestrator.core.state import RequestState, from_bytes
from schemas.vocabulary import Phase

__all__ = ["RecentStates"]

#: Encoded states remembered, in bytes; with the states themselves they take four times as much memory.
_AT_MOST = 8 * 1024 * 1024


class RecentStates:
    """Remembers open states, the oldest first forgotten."""

    def __init__(self, at_most: int = _AT_MOST) -> None:
        """`at_most`: bytes of encoded states."""
        self._at_most = at_most
        self._bytes = 0
        self._known: dict[bytes, RequestState] = {}

    def remember(self, state: RequestState, data: bytes) -> None:
        """Remember a state by its bytes, unless its request is closed: such a one is hardly ever read again."""
        if state.phase is Phase.CLOSED or data in self._known:
            return
        self._known[data] = state
        self._bytes += len(data)
        while self._bytes > self._at_most:
            self._taken(next(iter(self._known)))

    def read(self, data: bytes) -> RequestState:
        """Return the state in these bytes. Raises as `from_bytes` does.

        It is forgotten by that: what reads a state saves another one, as a rule.
        """
        return self._taken(data) if data in self._known else from_bytes(data)

    def _taken(self, data: bytes) -> RequestState:
        self._bytes -= len(data)
        return self._known.pop(data)
