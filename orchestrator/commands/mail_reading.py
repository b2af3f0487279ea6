"""What a message to the contact mailbox may be: whose, whether a machine wrote it, and which right it may be about.

Guesses for a person who decides, never a decision: nothing is filed, deleted or answered because of a word in a text.

Room rules: pure functions of the message; a header is anybody's writing, so nothing malformed raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser, BytesParser
from email.policy import compat32
from email.utils import getaddresses
from typing import Any

from schemas.vocabulary import Language, Right

__all__ = ["Guess", "automatic", "guess", "new_text", "parsed", "sender_of", "subject_of", "text_of"]

#: Local parts behind which nobody reads.
_NOBODY = frozenset({"mailer-daemon", "postmaster", "no-reply", "noreply", "do-not-reply", "donotreply", "geen-antwoord"})
#: Letters of a text that are looked at: it may have been written to cost time.
_MAX_TEXT = 32 * 1024
#: A parameter in pieces, or with a character set of its own (RFC 2231).
_IN_PIECES = re.compile(r";\s*[^=;\s]*\*[^;]*")
_QUOTED = re.compile(r"^\s*[>|]")
_REST_IS_QUOTED = re.compile(r"^\s*-{2,}\s*(original message|oorspronkelijk bericht)", re.IGNORECASE)
_WORDS: dict[Right, str] = {
    Right.ERASURE: (
        r"delet\w+ (all )?(of )?(my|the) (\w+ )?(data|account|details|information)|eras(e|ure)|right to be forgotten|forget me"
        r"|remove (all )?(of )?my (\w+ )?(data|account|details|information)|verwijder\w*"
        r"|gegevenswissing|wissen|wis mijn|vergetelheid"
    ),
    Right.ACCESS: (
        r"subject access|access to (all )?(of )?(my|the) (\w+ )?data|copy of (all )?(of )?(my|the) (\w+ )?data"
        r"|what (\w+ )?(data|information) (do )?you|inzage\w*|inzien|kopie van mijn|welke (\w+ )?gegevens"
    ),
    Right.PORTABILITY: r"portab\w+|machine.readable|dataportabiliteit|overdraag\w+|overdracht van mijn",
    Right.RECTIFICATION: (
        r"rectif\w+|correct my|(is|are) (wrong|incorrect|out of date)|corrige\w+|onjuist\w*|klopt niet|verbeter mijn"
    ),
    Right.COMPLETION: r"complete my|incomplete|is missing|aanvul\w+|vul mijn|onvolledig\w*",
    Right.RESTRICTION: r"restrict\w* (of )?(the )?(process\w+|use)|stop processing|beperk\w* (van )?(de )?verwerking|beperking",
    Right.OBJECTION: r"\bi object\b|object to|objection|direct marketing|bezwaar\w*|geen reclame",
    Right.UNSUBSCRIBE: r"unsubscrib\w+|stop (sending )?(me )?(the |your )?newsletter|uitschrijv\w+|afmeld\w+|schrijf mij uit",
}  # fmt: skip


def _bounded(words: str) -> re.Pattern[str]:
    """Compile with an end to every word: one without would take the square of its length."""
    return re.compile(words.replace(r"\w+", r"\w{1,20}").replace(r"\w*", r"\w{0,20}"), re.IGNORECASE)


_PATTERNS = {right: _bounded(words) for right, words in _WORDS.items()}
_DUTCH = re.compile(r"\b(ik|mijn|wil|graag|van|het|een|niet|en|u|uw|gegevens|met vriendelijke groet)\b", re.IGNORECASE)
_ENGLISH = re.compile(r"\b(i|my|would|like|please|the|a|not|and|you|your|data|kind regards)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Guess:
    """What the words of a message speak for. `right` is None where they speak for nothing, or for several rights alike."""

    right: Right | None
    language: Language
    others: tuple[Right, ...] = field(default=())


class _Lenient(Message):
    """A message whose Content-Type may be anything: where it cannot be taken apart, parameters in pieces are passed over.

    The message keeps the header as it came: whoever names it by its header names it the same.
    """

    def get_boundary(self, failobj: object = None) -> Any:
        """Return what stands between the parts."""
        return self._asked(Message.get_boundary, failobj)

    def get_content_charset(self, failobj: object = None) -> Any:
        """Return the text's character set, which need not exist."""
        return self._asked(Message.get_content_charset, failobj)

    def _asked(self, question: Callable[[Message, Any], Any], failobj: object) -> Any:
        try:
            return question(self, failobj)
        except (TypeError, ValueError):
            plain: Message = Message()
            plain["Content-Type"] = _IN_PIECES.sub("", _first(self, "Content-Type"))
            return question(plain, failobj)


def parsed(raw: bytes) -> Message:
    """Return a message or its header. One whose parts are nested without end is read as its header alone."""
    try:
        return BytesParser(_Lenient, policy=compat32).parsebytes(raw)
    except RecursionError:
        return BytesHeaderParser(_Lenient, policy=compat32).parsebytes(raw)


def subject_of(message: Message) -> str:
    """Return the subject in letters."""
    subject = _first(message, "Subject")
    try:
        return str(make_header(decode_header(subject)))
    except (MessageError, LookupError, ValueError):
        return subject


def text_of(message: Message) -> str:
    """Return the first text of a message, HTML with its tags if there is no other."""
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    return next(map(_text, plain or parts), "")


def _text(part: Message) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    try:
        return content.decode(part.get_content_charset("utf-8"), "replace")[:_MAX_TEXT]
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")[:_MAX_TEXT]


def automatic(message: Message) -> str | None:
    """Return why nobody may have written this message, None if somebody seems to have.

    `auto_reply` (RFC 3834 section 5), `bounce` (empty return path, RFC 5321 section 4.5.5; report, RFC 6522), `mailing_list`
    (RFC 2919, RFC 2369), `nobody_reads_there` (the sender's address says so).
    """
    submitted = _first(message, "Auto-Submitted").split(";")[0].strip().lower()
    if submitted not in {"", "no"}:
        return "auto_reply"
    if _first(message, "Return-Path").replace(" ", "") == "<>" or message.get_content_type() == "multipart/report":
        return "bounce"
    is_bulk = _first(message, "Precedence").strip().lower() in {"bulk", "list", "junk"}
    if is_bulk or any(name in message for name in ("List-Id", "List-Unsubscribe", "List-Post")):
        return "mailing_list"
    senders = {address.split("@")[0].lower() for _, address in _addresses(message)}
    return "nobody_reads_there" if senders & _NOBODY else None


def sender_of(message: Message) -> str | None:
    """Return the one address that the message says it comes from; None for several or none.

    It proves nothing: anybody can write any sender. A request that is filed from it is unverified.
    """
    addresses = {address for _, address in _addresses(message) if "@" in address}
    return addresses.pop() if len(addresses) == 1 else None


def new_text(text: str) -> str:
    """Return what the sender wrote, without lines quoted from an earlier message."""
    lines: list[str] = []
    for line in text.splitlines():
        if _REST_IS_QUOTED.match(line):
            break
        if not _QUOTED.match(line):
            lines.append(line)
    return "\n".join(lines)


def guess(subject: str, text: str) -> Guess:
    """Return what subject and text seem to ask for. A word counts once, however often it is there."""
    whole = f"{subject}\n{new_text(text)}"
    counts = {right: len({found.group().lower() for found in words.finditer(whole)}) for right, words in _PATTERNS.items()}
    most = max(counts.values())
    best = [right for right, count in counts.items() if count == most and most]
    dutch, english = (len(words.findall(whole)) for words in (_DUTCH, _ENGLISH))
    language = Language.NL if dutch > english else Language.EN
    right = best[0] if len(best) == 1 else None
    return Guess(right, language, tuple(one for one, count in counts.items() if count and one is not right))


def _first(message: Message, name: str) -> str:
    return str(message.get(name, ""))


def _addresses(message: Message) -> list[tuple[str, str]]:
    try:
        return getaddresses([str(value) for value in message.get_all("From", [])])
    except RecursionError:  # comments within comments without end: a sender whom nobody can name
        return []
