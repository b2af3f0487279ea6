"""Whom a worker believes, as the trust file says now: read again when it changes, so nobody has to restart a worker.

A stolen key is out of use some seconds after it was taken out of the file, and a new portal is heard as soon. A file that
cannot be read, or that no worker would start with, changes nothing: the last good one stays in force, and a person is told.

Room rules: what a signature is worth is `schemas.signatures`' to say; this knows only which keys count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from orchestrator.ports import Clock
from schemas.errors import ConfigurationError
from schemas.metrics import TRUST_FILE_REFUSED, Metrics
from schemas.trust import Trust

__all__ = ["LOOK_SECONDS", "TrustFile"]

log = structlog.get_logger(__name__)

#: How often the file is looked at, and so how long a key may count that is in it no more.
LOOK_SECONDS = 10.0
_READ_SECONDS = 5.0


class TrustFile:
    """The keys that count. Call it for those of this moment: another set is another object."""

    def __init__(self, read: Callable[[], bytes], check: Callable[[Trust], object]) -> None:
        """`read` gives the file's bytes; `check` raises `ConfigurationError` for a set that no worker may use, as both may.

        Raises what they raise: a worker that starts has nothing to fall back on.
        """
        self._read = read
        self._check = check
        self._content = read()
        self._trust = Trust.from_json(self._content)
        self._check(self._trust)
        self._complaint = ""

    def __call__(self) -> Trust:
        """Return the keys that count now."""
        return self._trust

    async def watch(self, clock: Clock, metrics: Metrics, changed: Callable[[], None]) -> None:
        """Look at the file until cancelled; `changed` is called after other keys count than before."""
        while True:
            await clock.sleep(LOOK_SECONDS)
            await self.look(metrics, changed)

    async def look(self, metrics: Metrics, changed: Callable[[], None]) -> None:
        """Take the file as it is now, if it can be used. Raises nothing: what is wrong is logged once, and counted as long."""
        complaint = ""
        try:
            async with asyncio.timeout(_READ_SECONDS):
                content = await asyncio.to_thread(self._read)
            trust = self._trust if content == self._content else Trust.from_json(content)
            self._check(trust)  # the same keys as well: our own may have come to its end
        except ConfigurationError as error:
            complaint = str(error)
        except TimeoutError:
            complaint = f"the file's system does not answer within {_READ_SECONDS:g} s"
        metrics.set(TRUST_FILE_REFUSED, bool(complaint))
        is_news, self._complaint = complaint != self._complaint, complaint
        if complaint:
            if is_news:
                log.error("trust_file_refused", reason=complaint, action="the keys that it held before stay in force")
        elif trust is not self._trust:
            self._content, self._trust = content, trust
            log.info("trust_file_read", count=len(trust))
            changed()
