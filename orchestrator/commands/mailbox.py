"""`dsr mailbox`: the contact mailbox as a portal. A message becomes an unverified request when a person says so.

The message in the mailbox is the only copy: nothing of it is stored elsewhere, and what is shown of it names nobody. The id of
a request follows from the message, and so does everything in it: filing again after a crash is the same request, and after the
intake key has changed it is refused by its id, while the first one stands.

Room rules: joins mailbox, broker and terminal; an address is read, sealed and forgotten, and never printed.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.acting import follow, speaking_as
from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.intake_keys import current_intake_key
from orchestrator.commands.kafka import current_bootstrap
from orchestrator.commands.mail_reading import Guess, automatic, guess, parsed, sender_of, subject_of, text_of
from orchestrator.commands.reading import Bootstrap, JsonOutput, Prefix, print_json
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.intake import IntakePublicKey
from schemas.portal import build_request
from schemas.requests import SubmitRequest
from schemas.subject import CHANGING
from schemas.topics import DEFAULT_PREFIX
from schemas.trust import portal_principal
from schemas.vocabulary import IdentifierKind, Language, Right

if TYPE_CHECKING:
    from email.message import Message

    from connectors.systems.mailbox.client import Session

__all__ = ["mailbox_app"]

mailbox_app = typer.Typer(
    name="mailbox",
    help="Go through the contact mailbox and file requests from it. Settings: DSR_MAILBOX_*, as for the connector.",
    no_args_is_help=True,
)

_Folder = Annotated[str, typer.Option(help="Folder of the mailbox")]
#: A larger message is guessed at from its header: people do not write so much, they attach it.
_MAX_BYTES = 1024 * 1024
_PAGE = 200
_FLAG = "\\Flagged"


@dataclass(frozen=True, slots=True)
class _Draft:
    """A message that may be a request: its handle, when it came, and what it seems to be. Names nobody."""

    handle: str
    received_at: datetime
    automatic: str | None
    guess: Guess
    message: Message = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Seals:
    """What a message's request is sealed with: the same message is the same bytes while the intake key is the same."""

    key: IntakePublicKey
    secret: bytes = field(repr=False)


#: Signatures are off, on a laptop: there whoever guesses a person may check the guess.
_NO_SECRET = bytes(32)


@mailbox_app.command("list")
def list_drafts(
    *,
    folder: _Folder = "INBOX",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest")] = 50,
    as_json: JsonOutput = False,
) -> None:
    """List messages that may be requests: handle, moment, and a guess of right and language from words.

    Sender and subject stay in the mailbox: read the message there.

    Example: dsr mailbox list
    """
    with usage(), _opened() as session:
        validity = session.select(folder, readonly=True)
        drafts = [_read(session, validity, uid) for uid in session.every()[-limit:]]
        found = [draft for draft in drafts if draft is not None]
    if as_json:
        print_json([_document(draft) for draft in found])
        return
    for draft in found:
        what = f"a machine? {draft.automatic}" if draft.automatic else _words(draft.guess)
        print(f"{draft.handle}  {draft.received_at:%Y-%m-%d %H:%M}  {what}")
    print("guesses from words: read each message before you file it" if found else f"{folder} is empty")


@mailbox_app.command()
def sort(
    *,
    folder: _Folder = "INBOX",
    apart: Annotated[str, typer.Option(help="Folder for what machines wrote; made if it is not there")] = "Set apart",
    as_json: JsonOutput = False,
) -> None:
    """Move automatic replies, bounces, newsletters and senders where nobody reads into a folder of their own.

    Example: dsr mailbox sort
    """
    from connectors.systems.mailbox.client import in_pages

    with usage(), _opened() as session:
        validity = session.select(folder, readonly=True)
        moved = {uid: why for uid in session.every() if (why := automatic(parsed(session.header(uid) or b""))) is not None}
        for page in in_pages(list(moved), _PAGE):
            _move(session, folder, validity, list(page), apart)
    if as_json:
        print_json({f"{validity}-{uid}": why for uid, why in moved.items()})
        return
    for uid, why in moved.items():
        print(f"{validity}-{uid}  {why}")
    print(f"{len(moved)} moved to {apart}")


@mailbox_app.command()
def file(
    handle: Annotated[str, typer.Argument(help="The message, as `dsr mailbox list` shows it", show_default=False)],
    *,
    right: Annotated[list[Right], typer.Option(help="What the person asks for; may be repeated")],
    change: Annotated[
        list[str] | None, typer.Option("--set", help="For rectification and completion: a new value", metavar="FIELD=VALUE")
    ] = None,
    language: Annotated[Language | None, typer.Option(help="Language of the answer", show_default="as guessed")] = None,
    portal: Annotated[str, typer.Option(help="The portal that files it; its id in the registry")] = "service-desk",
    folder: _Folder = "INBOX",
    filed: Annotated[str, typer.Option(help="Folder for what is filed; made if it is not there")] = "Filed",
    anyway: Annotated[bool, typer.Option("--anyway", help="A person wrote it, whatever its headers say")] = False,
    actor: Annotated[
        str | None, typer.Option(help="Who files it: cannot approve it later", envvar="DSR_ACTOR", show_default=False)
    ] = None,
    prefix: Prefix = DEFAULT_PREFIX,
    bootstrap: Bootstrap = None,
    as_json: JsonOutput = False,
) -> None:
    """File a message as an unverified request, and move it to the folder of filed ones. The sender's address is sealed.

    Nothing is sent to any system until `dsr identity ID --confirmed METHOD:LEVEL`: anybody can write any sender. The clock
    starts when the server took the message in. Filing again files the same request. Exit codes: 0 published, 2 not filed.

    Example: dsr mailbox file 1767225600-103 --right erasure
    """
    with usage(), _opened() as session:
        validity = session.select(folder, readonly=True)
        draft = _read(session, validity, _uid_of(handle, validity))
        if draft is None:
            raise ConfigurationError(f"{handle}: is not in {folder} any more: perhaps somebody has filed it")
        if draft.automatic and not anyway:
            raise ConfigurationError(f"{handle}: {draft.automatic}: a machine seems to have written it; else say --anyway")
        signer = speaking_as(portal_principal(portal))
        seals = _Seals(current_intake_key(), signer.derived("mailbox") if signer else _NO_SECRET)
        requests = [
            _request(draft, one, _changes(change or [], one), language or draft.guess.language, portal, actor, seals)
            for one in dict.fromkeys(right)
        ]
        broker, topics = bootstrap or current_bootstrap(), topics_of(prefix)
        for request in requests:
            asyncio.run(follow(broker, topics, request, seconds=0, signer=signer))
        # After every acknowledgement: a message that was moved first could be lost as a request.
        _move(session, folder, validity, [_uid_of(handle, validity)], filed, flag=_FLAG)
    if as_json:
        print_json([{"subject_request_id": request.subject_request_id, "right": request.right.value} for request in requests])
        return
    for request in requests:
        print(f"{request.subject_request_id}  {request.right.value}")


@contextmanager
def _opened() -> Iterator[Session]:
    from connectors.sdk.settings import read
    from connectors.systems.mailbox.client import Session
    from connectors.systems.mailbox.connector import MailboxSettings

    with Session(read(MailboxSettings).account) as session:
        yield session


def _read(session: Session, validity: int, uid: int) -> _Draft | None:
    """Return what a message seems to be, None if it is gone."""
    page = session.messages([uid])
    if not page:
        return None
    raw = session.content(uid) if page[0].size <= _MAX_BYTES else session.header(uid)
    if raw is None:
        return None
    message = parsed(raw)
    guessed = guess(subject_of(message), text_of(message))
    return _Draft(f"{validity}-{uid}", page[0].received_at, automatic(message), guessed, message)


def _uid_of(handle: str, validity: int) -> int:
    first, dash, last = handle.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise ConfigurationError("give the message's handle as `dsr mailbox list` shows it, for instance 1767225600-103")
    if int(first) != validity:
        raise ConfigurationError(f"{handle}: the folder has been numbered anew, or is another: list it again")
    return int(last)


def _move(session: Session, folder: str, validity: int, uids: list[int], target: str, *, flag: str = "") -> None:
    if target not in session.folders():
        session.make_folder(target)
    if session.select(folder, readonly=False) != validity:
        raise ConfigurationError(f"{folder} has just been numbered anew: list it again")
    if flag:
        session.mark(uids, flag)
    session.move(uids, target)


def _request(
    draft: _Draft,
    right: Right,
    changes: dict[str, str],
    language: Language,
    portal: str,
    actor: str | None,
    seals: _Seals,
) -> SubmitRequest:
    sender = sender_of(draft.message)
    if sender is None:
        raise ConfigurationError(f"{draft.handle}: names no one sender: file it with `dsr submit`")
    try:
        return build_request(
            right,
            {IdentifierKind.EMAIL: [sender]},
            portal=portal,
            key=seals.key,
            submitted_at=draft.received_at,
            subject_request_id=_derived_id(draft, sender, portal, right.value),
            changes=changes,
            language=language,
            group_id=_derived_id(draft, sender, portal, "group"),
            filed_by=actor,
            secret=seals.secret,
        )
    except ProtocolViolation as violation:
        raise ConfigurationError(f"{violation.field}: {violation.remedy}") from None


def _derived_id(draft: _Draft, sender: str, portal: str, what: str) -> str:
    """Return an id that follows from portal, sender, Message-ID and right: the same message is the same request.

    With the sender in it nobody can take another's id by copying a Message-ID. A UUID of version 4, because OpenDSR 2.0
    passes it on as one; a message without a Message-ID is known by its header.
    """
    name = str(draft.message.get("Message-ID", "")).strip() or repr(
        # As text: a line with bytes beyond ASCII is an object, and its `repr` another in every process.
        [(name, str(value)) for name, value in draft.message.items()]
    )
    text = f"{portal}\x1f{sender.casefold()}\x1f{name}\x1f{what}"
    return str(uuid.UUID(bytes=hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest(), version=4))


def _changes(given: list[str], right: Right) -> dict[str, str]:
    if right not in CHANGING:
        return {}
    pairs = [text.partition("=") for text in given]
    if not pairs or not all(equals and name for name, equals, _ in pairs):
        raise ConfigurationError("--set FIELD=VALUE: say which fields to change, and to what, for instance first_name=Robin")
    return {name: value for name, _, value in pairs}


def _words(found: Guess) -> str:
    sure = f"{found.right.value}?" if found.right else "unclear"
    others = f" (or {', '.join(right.value for right in found.others)})" if found.others else ""
    return f"{sure}{others}, {found.language.value}"


def _document(draft: _Draft) -> dict[str, object]:
    return {
        "handle": draft.handle,
        "received_at": draft.received_at.isoformat(),
        "automatic": draft.automatic,
        "guess": draft.guess.right.value if draft.guess.right else None,
        "others": [right.value for right in draft.guess.others],
        "language": draft.guess.language.value,
    }
