"""IMAP as a few blocking calls: folders, a search, headers in pages, whole messages, and taking messages away.

Sources: RFC 9051 and 3501 (IMAP4rev2, rev1), RFC 4315 (UIDPLUS), RFC 6851 (MOVE), RFC 5530 (response codes), RFC 8314 (TLS).
imap-tools brings the connection, quoting and folder names. Its `delete` and `flag` are not used: both end in an EXPUNGE of the
whole folder, which takes away what other people have marked.

Room rules: no decision about whose message it is; no line of the server and no search in an error, since both may hold an
address; a connection serves one caller in one thread.
"""

from __future__ import annotations

import contextlib
import imaplib
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imap_tools import OR, BaseMailBox, H, MailBox, MailBoxStartTls, MailBoxUnencrypted
from imap_tools.errors import ImapToolsError
from imap_tools.utils import encode_folder

from connectors.systems.mailbox.addresses import HEADERS
from schemas.errors import ConfigurationError, CredentialsRefused, DsrError, SystemRejected, SystemUnavailable, Throttled

__all__ = ["Account", "Message", "Security", "Session", "in_pages"]

_UID, _SIZE = re.compile(rb"\bUID (\d+)"), re.compile(rb"\bRFC822\.SIZE (\d+)")
_FIELDS = f"BODY.PEEK[HEADER.FIELDS ({' '.join(HEADERS).upper()})]"
#: Response codes of RFC 5530 after which the same login may well be taken later.
_LATER = re.compile(r"\[(UNAVAILABLE|INUSE|SERVERBUG)\b", re.IGNORECASE)
_TOO_MANY = re.compile(r"\[LIMIT\b|too many|rate limit|throttl", re.IGNORECASE)


class Security(StrEnum):
    """How the connection is protected. `PLAINTEXT` is for a server on this machine."""

    SSL = "ssl"
    STARTTLS = "starttls"
    PLAINTEXT = "plaintext"


@dataclass(frozen=True, slots=True)
class Account:
    """Where a mailbox is and how to get in. `repr` shows the place only."""

    host: str
    port: int
    security: Security
    username: str = field(repr=False)
    password: str | None = field(repr=False)
    #: An OAuth token for XOAUTH2, instead of the password.
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout_seconds: float = 60.0

    def tls(self) -> ssl.SSLContext:
        """Return a context that checks certificate and name. Raises `ConfigurationError` if the file is none."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError("mailbox: the file of certificate authorities cannot be read") from None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a page: its number in the folder, its size in bytes, when the server took it in, its address headers."""

    uid: int
    size: int
    received_at: datetime
    header: bytes = field(repr=False)


class Session:
    """One connection, logged in. Use it as a context manager; what fails is a typed error.

    | what happened | error |
    | --- | --- |
    | no connection, timeout, connection dropped, certificate refused, server says later | `SystemUnavailable` |
    | the server counts connections or commands and says so at the login | `Throttled` |
    | login refused, folder may only be read | `CredentialsRefused` |
    | the server refuses a command | `SystemRejected` |

    `SystemUnavailable` does not imply that the server did nothing.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._box: BaseMailBox | None = None
        self._capabilities: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        account = self._account
        tls = None if account.security is Security.PLAINTEXT else account.tls()
        with _speaking("connect"):
            place, seconds = (account.host, account.port), account.timeout_seconds
            if account.security is Security.SSL:
                self._box = MailBox(*place, timeout=seconds, ssl_context=tls)
            elif account.security is Security.STARTTLS:
                self._box = MailBoxStartTls(*place, timeout=seconds, ssl_context=tls)
            else:
                self._box = MailBoxUnencrypted(*place, timeout=seconds)
        try:
            self._log_in()
        except BaseException:
            self._hang_up()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            with contextlib.suppress(imaplib.IMAP4.error, ImapToolsError, OSError):  # all is done: a farewell changes nothing
                self._mailbox.client.logout()
        self._hang_up()

    @property
    def can_expunge(self) -> bool:
        """Tell whether single messages can be expunged, and not only all that anybody has marked (RFC 4315)."""
        return "UIDPLUS" in self._capabilities

    def folders(self) -> list[str]:
        """Return the names of all folders that can be selected."""
        with _speaking("list"):
            listed = self._mailbox.folder.list()
        return [one.name for one in listed if not {"\\noselect", "\\nonexistent"} & {flag.lower() for flag in one.flags}]

    def make_folder(self, folder: str) -> None:
        """Create a folder."""
        with _speaking("create"):
            self._mailbox.folder.create(folder)

    def select(self, folder: str, *, readonly: bool) -> int:
        """Go into a folder and return its UIDVALIDITY: numbers of messages mean the same as long as it does.

        Raises `SystemUnavailable` if it is no longer there.
        """
        with _speaking("select"):
            data = self._mailbox.client.select(encode_folder(folder), readonly)  # type: ignore[arg-type] # it takes bytes too
            if data[0] != "OK":
                raise SystemUnavailable("mailbox_select: a folder went away or cannot be opened: try again")
            validity = self._mailbox.client.response("UIDVALIDITY")[1][0]
        if validity is None:
            raise SystemRejected("mailbox_select: the server gives a folder no UIDVALIDITY")
        return int(validity)

    def every(self) -> list[int]:
        """Return the numbers of all messages of the folder."""
        return self._search("ALL")

    def unseen(self) -> list[int]:
        """Return the numbers of messages that nobody has read."""
        return self._search("UNSEEN")

    def mentioning(self, address: str) -> list[int]:
        """Return the numbers of messages whose address headers contain a text: only candidates (RFC 9051, 6.4.4)."""
        if not address.isascii() or not address.isprintable():
            raise SystemRejected("email: holds characters that cannot be searched for: correct the address")
        others = [H(name, address) for name in ("Sender", "Reply-To")]
        return self._search(str(OR(from_=address, to=address, cc=address, bcc=address, header=others)))

    def still_there(self, uids: Sequence[int]) -> list[int]:
        """Return those of the numbers that the folder still has."""
        return self._search(f"UID {_set(uids)}") if uids else []

    def messages(self, uids: Sequence[int]) -> list[Message]:
        """Return one page of messages; what vanished meanwhile is left out."""
        found = self._fetch(uids, f"(UID RFC822.SIZE INTERNALDATE {_FIELDS})")
        return [Message(uid, _size(told), _received_at(told), body) for uid, told, body in found]

    def header(self, uid: int) -> bytes | None:
        """Return a message's whole header, None if it is gone."""
        return next((body for found, _, body in self._fetch([uid], "(UID BODY.PEEK[HEADER])") if found == uid), None)

    def content(self, uid: int) -> bytes | None:
        """Return a whole message, unread as before; None if it is gone."""
        return next((body for found, _, body in self._fetch([uid], "(UID BODY.PEEK[])") if found == uid), None)

    def mark(self, uids: Sequence[int], flag: str) -> None:
        """Add a flag or keyword to messages."""
        with _speaking("store"):
            _data(self._mailbox.client.uid("STORE", _set(uids), "+FLAGS.SILENT", f"({flag})"), "store")

    def delete(self, uids: Sequence[int]) -> None:
        """Expunge these messages and no other. Raises `SystemRejected` where the server cannot (no UIDPLUS)."""
        if not self.can_expunge:
            raise SystemRejected("mailbox_expunge: the server cannot expunge single messages: set DSR_MAILBOX_ERASE_BY=trash")
        self.mark(uids, "\\Deleted")
        with _speaking("expunge"):
            _data(self._mailbox.client.uid("EXPUNGE", _set(uids)), "expunge")

    def move(self, uids: Sequence[int], folder: str) -> None:
        """Move messages into another folder; by copying and expunging where the server has no MOVE."""
        target: Any = encode_folder(folder)
        if "MOVE" in self._capabilities:
            with _speaking("move"):
                _data(self._mailbox.client.uid("MOVE", _set(uids), target), "move")
            return
        if not self.can_expunge:
            raise SystemRejected("mailbox_move: the server has neither MOVE nor UIDPLUS")
        with _speaking("copy"):
            _data(self._mailbox.client.uid("COPY", _set(uids), target), "copy")
        self.delete(uids)

    @property
    def _mailbox(self) -> BaseMailBox:
        assert self._box is not None, "a session is used inside its block"
        return self._box

    def _log_in(self) -> None:
        account, box = self._account, self._mailbox
        with _speaking("login", is_login=True):
            if account.token is not None:
                box.xoauth2(account.username, account.token, initial_folder=None)
            elif (account.username + (account.password or "")).isascii():
                box.login(account.username, account.password or "", initial_folder=None)
            else:
                box.login_utf8(account.username, account.password or "", initial_folder=None)
        with _speaking("capability"):
            # What was said before the login does not count: UIDPLUS and MOVE are often named after it only.
            told = _data(box.client.capability(), "capability")
        self._capabilities = frozenset(b" ".join(told).decode("ascii", "replace").upper().split())

    def _hang_up(self) -> None:
        if self._box is not None:
            with contextlib.suppress(OSError):  # closing a connection that is already gone
                self._box.client.shutdown()
            self._box = None

    def _search(self, criteria: str) -> list[int]:
        with _speaking("search"):
            found = _data(self._mailbox.client.uid("SEARCH", criteria), "search")
        return sorted({int(number) for part in found if part for number in part.split()})

    def _fetch(self, uids: Sequence[int], parts: str) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield number, what was said beside it, and the literal; the server may say the number before or after it."""
        if not uids:
            return
        with _speaking("fetch"):
            data = _data(self._mailbox.client.uid("FETCH", _set(uids), parts), "fetch")
        asked = frozenset(uids)
        for position, item in enumerate(data):
            if isinstance(item, tuple):
                after = data[position + 1] if position + 1 < len(data) else b""
                told, body = item[0] + b" " + (after if isinstance(after, bytes) else b""), item[1]
            elif isinstance(item, bytes) and b'""' in item:
                told, body = item, b""
            else:
                continue
            found = _UID.search(told)
            if found is not None and int(found[1]) in asked:
                yield int(found[1]), told, body


def in_pages(uids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Yield numbers in pages: one command for a whole mailbox is more than servers take."""
    for start in range(0, len(uids), size):
        yield uids[start : start + size]


def _size(told: bytes) -> int:
    found = _SIZE.search(told)
    return int(found[1]) if found else 0


def _received_at(told: bytes) -> datetime:
    local = imaplib.Internaldate2tuple(told)
    if local is None:
        raise SystemRejected("mailbox_fetch: the server does not say when it took a message in")
    return datetime.fromtimestamp(time.mktime(local), UTC)


def _set(uids: Sequence[int]) -> str:
    return ",".join(map(str, uids))


def _data(answer: tuple[Any, Any], operation: str) -> list[Any]:
    """Return what a command answered. Raises `SystemRejected` for NO and BAD."""
    if answer[0] != "OK":
        raise SystemRejected(f"mailbox_{operation}: the server answered {answer[0]}")
    return list(answer[1] or ())


@contextlib.contextmanager
def _speaking(operation: str, *, is_login: bool = False) -> Iterator[None]:
    """Turn what the libraries raise into our errors, without its text."""
    name = f"mailbox_{operation}"
    failure: DsrError
    try:
        yield
    except DsrError:
        raise
    except imaplib.IMAP4.readonly:
        failure = CredentialsRefused(f"{name}: a folder may only be read: give the account the right to delete")
    except ssl.SSLCertVerificationError:
        failure = SystemUnavailable(f"{name}: the server's certificate is not trusted: check DSR_MAILBOX_HOST and CA_FILE")
    except (imaplib.IMAP4.abort, OSError, EOFError) as error:
        failure = SystemUnavailable(f"{name}: {type(error).__name__}: no connection, or it was dropped")
    except (imaplib.IMAP4.error, ImapToolsError) as error:
        failure = _refused(name, str(error)) if is_login else SystemRejected(f"{name}: the server refused the command")
    except UnicodeError:
        failure = SystemRejected(f"{name}: the server's answer is not IMAP")
    else:
        return
    # Raised outside the handler: the libraries' exceptions quote the server's line and must not hang on ours as context.
    raise failure


def _refused(name: str, text: str) -> DsrError:
    """Return the error of a refused login, by the response code of RFC 5530 if there is one."""
    if _TOO_MANY.search(text):
        return Throttled(f"{name}: the server takes no more connections of this account for now")
    if _LATER.search(text):
        return SystemUnavailable(f"{name}: the server cannot check the login now")
    return CredentialsRefused(f"{name}: refused: renew DSR_MAILBOX_USERNAME with PASSWORD or ACCESS_TOKEN")
