"""A mailbox on a real IMAP server in memory (`imapserver`), with an inbox, a folder of what was sent and a trash.

HTTP has `GET /ports` and `GET /ca.pem` for who connects, `POST /__seed__` to put messages in, `GET /__state__`. Faults of HTTP
do not reach the IMAP server: `imap_fail` does.

Room rules: nothing here is reachable from production code paths; people live on example.org.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import format_datetime, make_msgid
from typing import TYPE_CHECKING, Any, ClassVar

from imap_tools import BaseMailBox, MailBoxUnencrypted
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.standin import StandIn
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from connectors.systems.mailbox.imapserver import Wrong

__all__ = ["PASSWORD", "TOKEN", "USERNAME", "MailboxStandIn", "build", "mail"]

USERNAME, PASSWORD, TOKEN = "support@example.org", "stand-in-password", "stand-in-token"


def mail(values: Mapping[str, Any]) -> bytes:
    """Return a message with these headers; `text`, `html`, `attachment` and `headers` (any others) beside them."""
    message = EmailMessage(policy=SMTPUTF8)
    message["From"] = values.get("from", "Somebody <somebody@example.org>")
    message["To"] = values.get("to", USERNAME)
    if "cc" in values:
        message["Cc"] = values["cc"]
    message["Subject"] = values.get("subject", "A question")
    message["Date"] = values.get("date") or format_datetime(datetime(2026, 3, 1, 9, tzinfo=UTC))
    message["Message-ID"] = values.get("message_id") or make_msgid(domain="example.org")
    for name, value in values.get("headers", {}).items():
        message[name] = value
    message.set_content(values.get("text", "Good morning."))
    if "html" in values:
        message.add_alternative(values["html"], subtype="html")
    if "attachment" in values:
        message.add_attachment(values["attachment"].encode(), "text", "plain", filename="attachment.txt")
    return message.as_bytes()


class MailboxStandIn(StandIn):
    """One mailbox; its IMAP server runs from the start until `close`. Raises `ConfigurationError` without pymap."""

    name: ClassVar[str] = "mailbox"

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        try:
            from connectors.systems.mailbox.imapserver import HOST, ImapServer  # noqa: PLC0415 - pymap need not be installed
        except ModuleNotFoundError:
            raise ConfigurationError("the stand-in is pymap, which is not installed: take the extra `demo`") from None
        self._host = HOST
        self.server = ImapServer(USERNAME, PASSWORD, TOKEN)
        with self.opened() as box:
            for folder in ("Sent", "Trash"):
                box.folder.create(folder)

    @property
    def ports(self) -> Mapping[str, int]:
        """Return where it listens, by security."""
        return self.server.ports

    @property
    def commands(self) -> Counter[str]:
        """Return the commands of the plain port, by name."""
        return self.server.commands

    def close(self) -> None:
        """Stop the server."""
        self.server.close()

    @contextlib.contextmanager
    def opened(self) -> Iterator[BaseMailBox]:
        """Give a connection of the mailbox's owner, past the gate."""
        box = MailBoxUnencrypted(self._host, self.ports["inner"], timeout=10)
        # A message is sent in two parts, of which the second would wait for the first one's acknowledgement.
        box.client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with box.login(USERNAME, PASSWORD, initial_folder=None):
            yield box

    def put(self, raw: bytes, folder: str = "INBOX") -> None:
        """Put a message into a folder, unread."""
        with self.opened() as box:
            box.append(raw, folder)

    def messages(self) -> dict[str, list[bytes]]:
        """Return every folder's messages, whole."""
        found: dict[str, list[bytes]] = {}
        with self.opened() as box:
            for folder in box.folder.list():
                box.folder.set(folder.name, readonly=True)
                found[folder.name] = [message.obj.as_bytes() for message in box.fetch(mark_seen=False)]
        return found

    def imap_fail(self, command: str, how: Wrong, *, times: int = 1) -> None:
        """Let the next such commands of the plain port go wrong."""
        self.server.fault = (command, how, times)

    def routes(self) -> list[Route]:
        """Return where the server listens, and whom to trust."""
        return [Route("/ports", self._show_ports, methods=["GET"]), Route("/ca.pem", self._show_authority, methods=["GET"])]

    def seed(self, value: Any) -> None:
        """Put in `{"messages": [{"folder"?, "from"?, "to"?, "cc"?, "subject"?, "text"?, ...}]}`."""
        with self.opened() as box:
            for given in value.get("messages", ()):
                box.append(mail(given), given.get("folder", "INBOX"))

    def state(self) -> Any:
        """Return every message as text, with its folder."""
        return {
            "messages": [
                {"folder": folder, "message": raw.decode(errors="replace")}
                for folder, held in self.messages().items()
                for raw in held
            ],
            "commands": dict(self.commands),
        }

    async def _show_ports(self, _: Request) -> Response:
        return JSONResponse({name: port for name, port in self.ports.items() if name != "inner"})

    async def _show_authority(self, _: Request) -> Response:
        return Response(self.server.authority, media_type="application/x-pem-file")


def build(clock: Clock | None = None) -> MailboxStandIn:
    """Build the stand-in; its IMAP server runs at once. Raises `ConfigurationError` without pymap."""
    return MailboxStandIn(clock)
