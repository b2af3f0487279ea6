"""A real IMAP server in memory, pymap, in a thread: one account on three ports, one for each kind of security.

Before the plain port stands a gate that counts commands and goes wrong on demand: a connection's faults live in sockets.

pymap is a dependency of the demo and of tests, and this module the only one that imports it.

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import threading
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Any, Literal

from proxyprotocol.sock import SocketInfoLocal
from pymap.backend.dict import Config, Identity, Login
from pymap.exceptions import InvalidAuth
from pymap.imap import IMAPServer
from pymap.user import Passwords, UserMetadata
from pysasl import SASLAuth
from pysasl.creds.external import ExternalCredentials, ExternalVerificationRequired
from pysasl.creds.server import ServerCredentials
from pysasl.hashing import BuiltinHash

from connectors.sdk.testing_tls import self_signed

__all__ = ["HOST", "ImapServer", "Wrong"]

HOST = "127.0.0.1"
#: `drop` closes the connection before the command, `lost` after it was done and before its answer, `hang` says nothing,
#: `no` refuses it.
Wrong = Literal["drop", "lost", "hang", "no"]
_COMMAND = re.compile(rb"^([A-Z0-9]+) ((?:UID )?[A-Z]+)", re.IGNORECASE)
_START_SECONDS = 10.0

# The server logs every command at DEBUG, and a search holds a mail address.
logging.getLogger("pymap").setLevel(logging.WARNING)


class _Config(Config):
    """Takes OAuth tokens beside passwords, as large providers do."""

    @property
    def tls_auth(self) -> SASLAuth:
        return SASLAuth.named([b"PLAIN", b"LOGIN", b"XOAUTH2"])


class _Login(Login):
    """Takes one token; passwords as pymap does."""

    token: str

    async def authenticate(self, credentials: ServerCredentials) -> Identity:
        if not isinstance(credentials, ExternalCredentials):
            return await super().authenticate(credentials)
        try:
            credentials.verify(None)
        except ExternalVerificationRequired as asked:
            if asked.token == self.token:
                return Identity(credentials.authzid, self, None, frozenset())
        raise InvalidAuth


class ImapServer:
    """The server; it listens when this returns, until `close`. `authority` is the certificate to trust, in PEM."""

    def __init__(self, username: str, password: str, token: str) -> None:
        #: Security -> port; `inner` is behind the gate.
        self.ports: dict[str, int] = {}
        #: Commands by name, as the gate has seen them.
        self.commands: Counter[str] = Counter()
        self.fault: tuple[str, Wrong, int] | None = None
        self._credentials, self._token = (username, password), token
        self._boxes: Any = None
        self._tls, self.authority = _context()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._started.wait(_START_SECONDS) or not self.ports:
            raise RuntimeError("the IMAP server did not start")

    def close(self) -> None:
        """Stop the server."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_START_SECONDS)

    def renumber(self, folder: str) -> None:
        """Give a folder another UIDVALIDITY, as a server does that has rebuilt it."""

        async def renumbered() -> None:
            data = await self._boxes[self._credentials[0]][0].get_mailbox(folder)
            data._uid_validity += 1  # noqa: SLF001 - pymap has no call for what only a broken server does

        asyncio.run_coroutine_threadsafe(renumbered(), self._loop).result(_START_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            ports = {"inner": await stack.enter_async_context(self._pymap(tls=None, at_once=False))}
            tls = self._tls
            ports["starttls"] = await stack.enter_async_context(self._pymap(tls=tls, at_once=False))
            ports["ssl"] = await stack.enter_async_context(self._pymap(tls=tls, at_once=True))
            gate = await asyncio.start_server(self._passed_through, HOST, 0)
            await stack.enter_async_context(gate)
            ports["plaintext"] = gate.sockets[0].getsockname()[1]
            self.ports = ports
            self._started.set()
            await self._stopping.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _pymap(self, *, tls: ssl.SSLContext | None, at_once: bool) -> AsyncIterator[int]:
        """Run one listener of the account and give its port; all listeners share the messages."""
        username, password = self._credentials
        config = _Config(
            Namespace(passlib_cfg=None, proxy_protocol=None), host=HOST, port=0, demo_data=False, demo_user=username,
            demo_password=password, hash_context=BuiltinHash(rounds=1), invalid_user_sleep=0.0, ssl_context=tls,
            tls_enabled=tls is not None and not at_once,
        )  # fmt: skip
        config.apply_context()
        if self._boxes is None:
            self._boxes = config.set_cache
        config.set_cache = self._boxes
        login = _Login(config)
        login.token = self._token
        hashed = await Passwords(config).hash_password(password)
        await login.demo_user_identity.set(UserMetadata(config, username, password=hashed))
        talk = IMAPServer(login, config)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Awaited here, where the connection holds it: pymap's own way starts a task that nobody holds, and from Python
            # 3.13 on, where a connection no longer holds its writer, the task may be collected in the middle of a command.
            await talk(reader, writer, SocketInfoLocal(writer))

        server = await asyncio.start_server(connected, HOST, 0, ssl=tls if at_once else None)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _passed_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand commands on to the server and answers back, line by line, unless the gate is to go wrong."""
        inner_reader, inner_writer = await asyncio.open_connection(HOST, self.ports["inner"], limit=1 << 24)
        back = asyncio.create_task(_copied(inner_reader, writer))
        try:
            while line := await reader.readline():
                if not await self._let_through(line, inner_reader, inner_writer, writer, back):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side has gone, which is how a connection ends
        finally:
            back.cancel()
            for end in (inner_writer, writer):
                end.close()

    async def _let_through(
        self,
        line: bytes,
        inner_reader: asyncio.StreamReader,
        inner_writer: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> bool:
        """Pass one line on; tell whether the connection goes on."""
        command = _COMMAND.match(line)
        name = command[2].decode().upper() if command else ""
        self.commands[name] += bool(name)
        how = self._going_wrong(name)
        if how == "drop":
            return False
        if how == "hang":
            return True
        if how == "no" and command is not None:
            writer.write(command[1] + b" NO [UNAVAILABLE] " + line)
            return True
        if how == "lost" and command is not None:
            back.cancel()
            inner_writer.write(line)
            while not (await inner_reader.readline()).startswith(command[1]):
                pass
            return False
        inner_writer.write(line)
        return True

    def _going_wrong(self, name: str) -> Wrong | None:
        if self.fault is None or not name or self.fault[0] != name:
            return None
        command, how, times = self.fault
        self.fault = (command, how, times - 1) if times > 1 else None
        return how


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


def _context() -> tuple[ssl.SSLContext, bytes]:
    """Return the server's side of TLS, and its certificate, which is its own authority."""
    own = self_signed(IPv4Address(HOST))
    return own.server_context(), own.certificate
