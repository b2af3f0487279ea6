"""A TCP door before a server, that can be slow, cut off, or stand open with nobody behind it.

Room rules: bytes pass or do not; nothing is looked into.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Self

__all__ = ["Proxy"]

_CHUNK = 64 * 1024
#: Connects to what is behind the door.
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Proxy:
    """Forwards connections made to 127.0.0.1:`port` while the block runs."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self.port = 0
        #: Every chunk waits so long, each way.
        self.latency_seconds = 0.0
        #: After so many more bytes from the client all connections are cut, in the middle of what they say; None: never.
        self.cut_after_bytes: int | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def swallow(self) -> None:
        """Let nothing pass any more, without a word: connections stay open, and new ones are taken in."""
        self._passes.clear()

    def resume(self) -> None:
        """Let everything pass again, what was held back first."""
        self._passes.set()

    def cut(self) -> None:
        """End every connection at once."""
        self.cut_after_bytes = None
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()
        self._passes.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await self._connect()
        self._open |= {writer, inner_writer}
        there = self._pump(reader, inner_writer, is_client=True)
        with contextlib.suppress(asyncio.CancelledError):  # the loop ends
            await asyncio.gather(there, self._pump(inner_reader, writer, is_client=False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await asyncio.sleep(self.latency_seconds)
                await self._passes.wait()
                if is_client and self.cut_after_bytes is not None:
                    if len(data) > self.cut_after_bytes:
                        writer.write(data[: self.cut_after_bytes])
                        await writer.drain()
                        self.cut()
                        return
                    self.cut_after_bytes -= len(data)
                writer.write(data)
                await writer.drain()
            writer.close()
        except OSError:
            writer.transport.abort()
