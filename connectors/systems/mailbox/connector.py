"""What a mailbox can do for a data subject: show the messages that name the person's address, set them aside, and lose them.

Room rules: decisions only, IMAP lives in `client`; every order has a connection of its own, in a thread; every method may be
repeated at any point.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.errors import MessageError
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from imap_tools import MailMessage
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.sdk.work import take_turn
from connectors.systems.mailbox.addresses import is_plain, normal, read_addresses
from connectors.systems.mailbox.client import Account, Message, Security, Session, in_pages
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Retained
from schemas.vocabulary import FailureReason, IdentifierKind, NotApplicableReason, RetentionGround, Right

__all__ = ["MailboxConnector", "MailboxSettings", "build"]

_PORTS = {Security.SSL: 993, Security.STARTTLS: 143, Security.PLAINTEXT: 143}
#: What no order finds, whatever else it says.
_ALWAYS = ("texts_of_messages_not_searched",)


class MailboxSettings(ConnectorSettings):
    """Which mailbox, which of its folders, and what erasure does: `DSR_MAILBOX_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_MAILBOX_")

    host: Annotated[str, Field(min_length=1, description="IMAP server")]
    port: Annotated[int | None, Field(ge=1, le=65535, description="By default 993 for ssl, 143 for the others")] = None
    security: Annotated[
        Security, Field(description="ssl (TLS from the first byte), starttls, or plaintext for a server on this machine")
    ] = Security.SSL
    ca_file: Annotated[Path | None, Field(description="Certificate authorities to trust instead of the machine's")] = None
    username: Annotated[str, Field(min_length=1, description="Login of the mailbox")]
    password: Annotated[SecretStr | None, Field(description="Password, or an app password")] = None
    access_token: Annotated[SecretStr | None, Field(description="OAuth token for XOAUTH2; somebody else renews it")] = None
    folders: Annotated[tuple[str, ...], Field(description="Folders to search, as a JSON list; empty: all")] = ()
    skip_folders: Annotated[
        tuple[str, ...], Field(description="Folders to leave alone, for instance a view of all others")
    ] = ()
    own_addresses: Annotated[
        tuple[str, ...], Field(description="Addresses of the mailbox itself, which stand in every message: nobody's order")
    ] = ()
    search_by: Annotated[
        Literal["server", "headers"],
        Field(description="Have the server narrow down by its search, or read all headers: slower, and trusts no index"),
    ] = "server"
    erase_by: Annotated[Literal["expunge", "trash"], Field(description="What erasure does to a message")] = "expunge"
    trash_folder: Annotated[str, Field(description="Where it goes, for erase_by trash")] = ""
    trash_purged_after_days: Annotated[
        int | None, Field(ge=0, le=365, description="The server purges the trash after so long; needed with erase_by trash")
    ] = None
    kept_folders: Annotated[
        tuple[str, ...], Field(description="Folders whose messages erasure must leave; access shows them like all others")
    ] = ()
    kept_days: Annotated[
        int | None, Field(ge=1, description="Kept for so long after the server took a message in; without it: until further")
    ] = None
    kept_ground: Annotated[RetentionGround | None, Field(description="In law, why; needed with kept_folders")] = None
    kept_detail: Annotated[str, Field(max_length=120, description="The rule, by its short name")] = ""
    restricted_folder: Annotated[
        str, Field(description="Where restriction moves messages, a folder on which nobody works; empty: not offered")
    ] = ""
    max_messages: Annotated[int, Field(ge=1, description="More messages of one person are for a person to look at")] = 2000
    max_export_bytes: Annotated[int, Field(ge=1, description="More than this is handed over by a person")] = 50 * 1024 * 1024
    page_size: Annotated[int, Field(ge=1, le=500, description="Messages of one command")] = 200
    timeout_seconds: Annotated[float, Field(gt=0, description="For each answer of the server")] = 60.0

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.password is None) == (self.access_token is None):
            raise ValueError("set one of PASSWORD and ACCESS_TOKEN")
        if self.erase_by == "trash" and (not self.trash_folder or self.trash_purged_after_days is None):
            raise ValueError("ERASE_BY=trash needs TRASH_FOLDER and TRASH_PURGED_AFTER_DAYS: it is no erasure until then")
        if self.kept_folders and self.kept_ground is None:
            raise ValueError("KEPT_FOLDERS needs KEPT_GROUND: ask the privacy office for the ground in law")
        return self

    @property
    def account(self) -> Account:
        """Return where the mailbox is and how to get in."""
        return Account(
            host=self.host,
            port=self.port or _PORTS[self.security],
            security=self.security,
            username=self.username,
            password=None if self.password is None else self.password.get_secret_value(),
            token=None if self.access_token is None else self.access_token.get_secret_value(),
            ca_file=self.ca_file,
            timeout_seconds=self.timeout_seconds,
        )


@dataclass(slots=True)
class _Hits:
    """The person's messages of one folder, good as long as its UIDVALIDITY stands."""

    folder: str
    validity: int
    messages: list[Message] = field(default_factory=list, repr=False)
    unread: int = 0

    @property
    def uids(self) -> list[int]:
        return [message.uid for message in self.messages]


@dataclass(slots=True)
class _Sweep:
    """What one run did."""

    erased: int = 0
    moved: int = 0
    unread: int = 0
    kept: list[Message] = field(default_factory=list, repr=False)


class MailboxConnector:
    """One mailbox."""

    name: ClassVar[str] = "mailbox"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.ERASURE, Right.RESTRICTION})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: MailboxSettings) -> None:
        self._settings = settings
        self._own = frozenset(map(normal, settings.own_addresses))
        # Providers count connections of an account, and people read their mail as well.
        self.throttle = Throttle(concurrent=2)

    async def check(self) -> str:
        """Log in and list the folders, which proves the login; the right to delete is proven by the first erasure only."""
        return await asyncio.to_thread(self._checked)

    async def access(self, job: Job) -> Result:
        """Export every message that names the address in its headers, whole, attachments included (GDPR Art. 15).

        What others have written in it is exported as well: see README.md, "What an export holds".
        """
        wanted = self._wanted(job)
        await take_turn()
        content, unread = await asyncio.to_thread(self._exported, wanted)
        if not content:
            return Result(NothingHeld(), notes=_notes(unread))
        return Result(Fulfilled(count=len(content)), exports=(Exported("messages", content),), notes=_notes(unread))

    async def erase(self, job: Job) -> Result:
        """Take away every message that names the address in its headers (GDPR Art. 17), and look again.

        Expunged: gone from the mailbox. Moved to the trash: `effective_by` is the day by which the server purges it.
        `Retained` where some stand in a folder whose messages must be kept; the others are gone all the same.
        """
        wanted = self._wanted(job)
        await take_turn()
        sweep = await asyncio.to_thread(self._erased, wanted, job.now)
        notes = _notes(sweep.unread)
        days = self._settings.trash_purged_after_days
        purged_on = job.now.date() + timedelta(days=days) if days is not None and self._settings.erase_by == "trash" else None
        if sweep.kept:
            return self._retained(
                sweep, notes if purged_on is None or not sweep.erased else ("purged_from_the_trash_later", *notes)
            )
        if not sweep.erased:
            return Result(NothingHeld(), notes=notes)
        return Result(Fulfilled(count=sweep.erased, effective_by=purged_on), notes=notes)

    async def restrict(self, job: Job) -> Result:
        """Move the person's messages to a folder on which nobody works (GDPR Art. 18, recital 67), except those that are kept.

        `not_applicable` without a folder in the settings. That nobody works on the folder is the owner's to see to.
        """
        if not self._settings.restricted_folder:
            return Result(NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED))
        wanted = self._wanted(job)
        await take_turn()
        sweep = await asyncio.to_thread(self._restricted, wanted)
        if not sweep.moved:
            return Result(NothingHeld(), notes=_notes(sweep.unread))
        return Result(Fulfilled(count=sweep.moved), notes=_notes(sweep.unread))

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: a mailbox starts no jobs."""
        del job, handle
        raise SystemRejected("mailbox starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Nothing stays open."""

    def _wanted(self, job: Job) -> frozenset[str]:
        wanted = frozenset(normal(value) for value in job.every(IdentifierKind.EMAIL)) - {""}
        if wanted & self._own:
            raise SystemRejected("email: is an address of the mailbox itself, which stands in every message")
        return wanted

    def _checked(self) -> str:
        with Session(self._settings.account) as session:
            count = len(self._folders(session, with_trash=True))
            way = f"erases by {self._settings.erase_by}"
            if self._settings.erase_by == "expunge" and not session.can_expunge:
                way = "the server has no UIDPLUS: set DSR_MAILBOX_ERASE_BY=trash"
        return f"{count} folder{'' if count == 1 else 's'} to search; {way}"

    def _exported(self, wanted: frozenset[str]) -> tuple[list[Any], int]:
        content: list[Any] = []
        with Session(self._settings.account) as session:
            found = self._find(session, wanted, with_trash=True)
            if sum(message.size for hits in found for message in hits.messages) > self._settings.max_export_bytes:
                raise SystemRejected("mailbox_fetch: more than DSR_MAILBOX_MAX_EXPORT_BYTES: hand it over by hand")
            for hits in found:
                if not hits.messages:
                    continue
                self._reopen(session, hits, readonly=True)
                for uid in hits.uids:
                    raw = session.content(uid)
                    if raw is not None:
                        content.append({"folder": hits.folder, **_shown(raw)})
        return content, sum(hits.unread for hits in found)

    def _erased(self, wanted: frozenset[str], now: datetime) -> _Sweep:
        settings, sweep = self._settings, _Sweep()
        with Session(settings.account) as session:
            for hits in self._find(session, wanted, with_trash=settings.erase_by == "expunge"):
                going = [message.uid for message in hits.messages if not self._is_kept(hits.folder, message, now)]
                if going:
                    self._reopen(session, hits, readonly=False)
                    self._take_away(session, going)
                sweep.erased += len(going)
                sweep.unread += hits.unread
                sweep.kept += [message for message in hits.messages if message.uid not in going]
        return sweep

    def _restricted(self, wanted: frozenset[str]) -> _Sweep:
        settings, sweep = self._settings, _Sweep()
        with Session(settings.account) as session:
            for hits in self._find(session, wanted, with_trash=True):
                sweep.unread += hits.unread
                if hits.folder in settings.kept_folders:
                    continue
                sweep.moved += len(hits.messages)
                if hits.messages and hits.folder != settings.restricted_folder:
                    self._reopen(session, hits, readonly=False)
                    for page in in_pages(hits.uids, settings.page_size):
                        session.move(page, settings.restricted_folder)
                        self._verify_gone(session, page)
        return sweep

    def _is_kept(self, folder: str, message: Message, now: datetime) -> bool:
        days = self._settings.kept_days
        return folder in self._settings.kept_folders and (days is None or message.received_at + timedelta(days=days) > now)

    def _retained(self, sweep: _Sweep, notes: tuple[str, ...]) -> Result:
        settings = self._settings
        assert settings.kept_ground is not None, "the settings ask for a ground"
        until = None
        if settings.kept_days is not None:
            newest_at = max(message.received_at for message in sweep.kept)
            # The first day on which the last of them may go.
            until = (newest_at + timedelta(days=settings.kept_days)).date() + timedelta(days=1)
        kept, detail = len(sweep.kept), settings.kept_detail
        outcome = Retained(ground=settings.kept_ground, until=until, count=kept, fulfilled=sweep.erased, detail=detail)
        return Result(outcome, notes=notes)

    def _take_away(self, session: Session, uids: list[int]) -> None:
        for page in in_pages(uids, self._settings.page_size):
            if self._settings.erase_by == "trash":
                session.move(page, self._settings.trash_folder)
            else:
                session.delete(page)
            self._verify_gone(session, page)

    @staticmethod
    def _verify_gone(session: Session, page: Sequence[int]) -> None:
        if session.still_there(page):
            raise SystemUnavailable("mailbox_search: messages are still there", reason=FailureReason.VERIFICATION_FAILED)

    @staticmethod
    def _reopen(session: Session, hits: _Hits, *, readonly: bool) -> None:
        if session.select(hits.folder, readonly=readonly) != hits.validity:
            raise SystemUnavailable("mailbox_select: the server has numbered a folder anew: it is untouched, try again")

    def _find(self, session: Session, wanted: frozenset[str], *, with_trash: bool) -> list[_Hits]:
        """Return the person's messages of every folder. Raises `SystemRejected` if there are too many to be one person's."""
        found: list[_Hits] = []
        count = 0
        for folder in self._folders(session, with_trash=with_trash):
            hits = _Hits(folder, session.select(folder, readonly=True))
            for message in self._candidates(session, wanted):
                addresses = read_addresses(message.header)
                if addresses.are_of(wanted):
                    hits.messages.append(message)
                elif addresses.may_be_of(wanted):
                    hits.unread += 1
            count += len(hits.messages)
            if count > self._settings.max_messages:
                raise SystemRejected("mailbox_search: more than DSR_MAILBOX_MAX_MESSAGES carry this address: look at them")
            found.append(hits)
        return found

    def _candidates(self, session: Session, wanted: frozenset[str]) -> Iterator[Message]:
        """Yield what may be the person's, page by page: a server's search is of parts of words, and of ASCII letters."""
        is_searched = self._settings.search_by == "server" and all(map(is_plain, wanted))
        # An address a search: a command with all of them could be longer than servers take (RFC 7162 section 4: 8192 bytes).
        found = [session.mentioning(address) for address in sorted(wanted)] if is_searched else [session.every()]
        uids = sorted({uid for uids in found for uid in uids})
        for page in in_pages(uids, self._settings.page_size):
            yield from session.messages(page)

    def _folders(self, session: Session, *, with_trash: bool) -> list[str]:
        """Return the folders of an order. A name that names nothing would pass for absence: `SystemRejected`."""
        settings, listed = self._settings, session.folders()
        named = {*settings.folders, *settings.kept_folders, settings.restricted_folder} - {""}
        named |= {settings.trash_folder} if settings.erase_by == "trash" else set()
        if not named <= set(listed):
            raise SystemRejected(
                "DSR_MAILBOX_FOLDERS, KEPT_FOLDERS, RESTRICTED_FOLDER or TRASH_FOLDER: the mailbox has no folder of that name"
            )
        left_out = {*settings.skip_folders, *(() if with_trash else (settings.trash_folder,))}
        return [folder for folder in (settings.folders or listed) if folder not in left_out]


def _shown(raw: bytes) -> dict[str, Any]:
    """Return a message for the person: readable, and whole as the mailbox holds it (RFC 5322, in Base64).

    A message that no parser reads, as some that are sent to do harm, is exported whole and not readable.
    """
    try:
        readable = _readable(MailMessage.from_bytes(raw))
    except (MessageError, LookupError, TypeError, ValueError, RecursionError):
        readable = {}
    return {**readable, "message": base64.b64encode(raw).decode()}


def _readable(message: MailMessage) -> dict[str, Any]:
    return {
        **{name.lower(): ", ".join(map(str, message.obj.get_all(name, ()))) for name in ("From", "To", "Cc", "Date")},
        "subject": message.subject,
        "text": message.text or message.html,
        "attachments": [{"name": part.filename, "type": part.content_type, "bytes": part.size} for part in message.attachments],
    }


def _notes(unread: int) -> tuple[str, ...]:
    return ("unreadable_headers_by_hand", *_ALWAYS) if unread else _ALWAYS


def build(settings: MailboxSettings | None = None) -> MailboxConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return MailboxConnector(settings or read(MailboxSettings))
