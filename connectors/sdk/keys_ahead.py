"""Keys that workers give unasked, as they send orders: heard over one call that stays open at each address.

Nothing depends on it. An order whose key has not come this way is asked for, at once if nobody is heard who may still give it.

Room rules: a key that nobody takes is let go within seconds; no key is logged or shown.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

import httpx
import structlog

from connectors.sdk.clock import Clock
from connectors.sdk.retry import Backoff
from schemas.keys_ahead import BEAT_SECONDS, PATH, AheadMark, KeysAhead
from schemas.order_keys import WantedKeys, root_from_text
from schemas.sealed import SealingKey

__all__ = ["EarlyKeys"]

_log = structlog.get_logger("dsr.connector")

#: Keys of orders that have not been received yet; beyond these the oldest go, and are asked for.
_KEPT = 5_000
#: So long a key waits for its order. Other processes of the same system get the orders of their partitions, and we their keys.
_KEPT_FOR = timedelta(seconds=15)
#: An order waits no longer for a line that a worker is to send: then something on the way holds the lines back.
_PATIENCE_SECONDS = 2.0
_AGAIN = Backoff(base_seconds=0.25, max_seconds=2.0)
#: Where the path is unknown it is tried again after this.
_NOT_HERE_SECONDS = 300.0
_NOT_HERE = frozenset({"HTTP 404", "HTTP 405"})
_TIMEOUT = httpx.Timeout(BEAT_SECONDS * 3, connect=5.0)


class EarlyKeys:
    """What is heard for one system, from every worker whose address is known."""

    def __init__(
        self, system: str, urls: Sequence[str], client: httpx.AsyncClient, clock: Clock, headers: Callable[[], dict[str, str]]
    ) -> None:
        """`headers` says who asks, anew for each call."""
        self._system = system
        self._question = WantedKeys(system=system, orders=()).model_dump_json()
        self._urls = tuple(dict.fromkeys(urls))
        self._client = client
        self._clock = clock
        self._headers = headers
        self._roots: OrderedDict[str, tuple[datetime, SealingKey]] = OrderedDict()
        #: The lives that are heard, by name, and the last number of each.
        self._heard: dict[str, int] = {}
        self._news = asyncio.Event()

    async def listen(self) -> None:
        """Listen at every address, and again after whatever ends a call, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for url in self._urls:
                group.create_task(self._listen_at(url))

    async def until_given(self, marks: Iterable[AheadMark]) -> None:
        """Return when nothing more will come for these marks: it has been given, or nobody is heard who could."""
        last: dict[str, int] = {}
        for mark in marks:
            last[mark.life] = max(mark.number, last.get(mark.life, 0))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while self._lacking(last):
                    await self._news.wait()
        except TimeoutError:
            # Until it is heard anew nobody waits for it again: something on the way holds its lines back.
            for life in self._lacking(last):
                del self._heard[life]
            _log.warning("keys_ahead_held_back", system=self._system, action="keys are asked for")

    def _lacking(self, last: dict[str, int]) -> list[str]:
        return [life for life, number in last.items() if self._heard.get(life, number) < number]

    def take(self, order_id: str) -> SealingKey | None:
        """Return an order's root and let go of it, if it was given."""
        return self._roots.pop(order_id, (None, None))[1]

    async def _listen_at(self, url: str) -> None:
        failures, said = 0, ""
        while True:
            why = await self._hear(url)
            failures = failures + 1 if why else 0
            if why and why != said:
                _log.info("keys_ahead_unheard", system=self._system, reason=why, action="keys are asked for")
            said = why
            await self._clock.sleep(_NOT_HERE_SECONDS if why in _NOT_HERE else _AGAIN.seconds(self._system, max(1, failures)))

    def _call(self, url: str) -> AbstractAsyncContextManager[httpx.Response]:
        return self._client.stream("POST", url + PATH, content=self._question, headers=self._headers(), timeout=_TIMEOUT)

    async def _hear(self, url: str) -> str:
        """Return why nothing could be heard; nothing, when a worker has ended its answer."""
        life = ""
        try:
            async with self._call(url) as answer:
                if answer.status_code != httpx.codes.OK:
                    return f"HTTP {answer.status_code}"
                async for text in answer.aiter_lines():
                    line = KeysAhead.model_validate_json(text)
                    self._take_in(line)
                    if not life or line.life in self._heard:
                        self._heard[line.life] = line.number
                    life = line.life
                    self._tell()
        except (httpx.HTTPError, ValueError) as error:  # of pydantic as well
            return type(error).__name__
        finally:
            self._heard.pop(life, None)
            self._tell()
        return "" if life else "an answer without a line"

    def _take_in(self, line: KeysAhead) -> None:
        now = self._clock.now()
        for answer in line.keys:
            self._roots[answer.order_id] = now, root_from_text(answer.key or "")
            self._roots.move_to_end(answer.order_id)  # the oldest stand first, also after a line that brings one again
        while self._roots and (len(self._roots) > _KEPT or now - next(iter(self._roots.values()))[0] > _KEPT_FOR):
            self._roots.popitem(last=False)

    def _tell(self) -> None:
        told, self._news = self._news, asyncio.Event()
        told.set()
