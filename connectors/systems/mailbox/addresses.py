"""Whose address stands in a message's headers, and whether two spellings are one address.

Room rules: pure; a header is anybody's writing and may be malformed: no exception, and nothing guessed from a part of a text.
"""

from __future__ import annotations

import contextlib
import unicodedata
from dataclasses import dataclass, field
from email.errors import MessageError
from email.header import decode_header, make_header
from email.parser import HeaderParser
from email.policy import compat32
from email.utils import getaddresses

__all__ = ["HEADERS", "Addresses", "is_plain", "normal", "read_addresses"]

#: Headers of RFC 5322 section 3.6.2 and 3.6.3 that name the people of a message.
HEADERS = ("From", "Sender", "Reply-To", "To", "Cc", "Bcc")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of one message in normal form, and the text of headers that could not be taken apart."""

    found: frozenset[str] = field(repr=False)
    unread: str = field(default="", repr=False)

    def are_of(self, wanted: frozenset[str]) -> bool:
        """Tell whether one of the addresses is wanted: as a whole, never as a part of another."""
        return bool(self.found & wanted)

    def may_be_of(self, wanted: frozenset[str]) -> bool:
        """Tell whether a wanted address stands in what could not be taken apart."""
        return any(address in self.unread for address in wanted)


def normal(address: str) -> str:
    """Return an address as it is compared: composed, case folded, the domain in letters and not in `xn--`.

    Local parts are case-sensitive by RFC 5321 section 2.4, and nobody's mail is: two people behind two cases are not known.
    """
    local, at, domain = unicodedata.normalize("NFC", address.strip()).casefold().rpartition("@")
    if "xn--" in domain:
        with contextlib.suppress(UnicodeError):  # no name that IDNA knows: compared as it stands
            domain = domain.encode("ascii").decode("idna")
    return f"{local}{at}{domain}"


def is_plain(address: str) -> bool:
    """Tell whether every server finds the address by the letters it is given in: ASCII, and no name that has two spellings."""
    return address.isascii() and "xn--" not in address.lower()


def read_addresses(header: bytes) -> Addresses:
    """Return the addresses in the header lines of a message."""
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = header.decode("latin-1")
    message = HeaderParser(policy=compat32).parsestr(text)
    values = [str(value) for name in HEADERS for value in message.get_all(name, ())]
    found: set[str] = set()
    unread: list[str] = []
    for value in values:
        addresses = {normal(address) for address in _taken_apart(value) if "@" in address}
        found |= addresses
        if not addresses and "@" in value:
            unread.append(normal(value))
    return Addresses(frozenset(found), "\n".join(unread))


def _taken_apart(value: str) -> list[str]:
    try:
        return [_decoded(address) for _, address in getaddresses([value])]
    except RecursionError:  # comments within comments without end
        return []


def _decoded(address: str) -> str:
    """Return an address whose letters somebody wrote as an encoded word, which RFC 2047 section 5 forbids and senders do."""
    if "=?" not in address:
        return address
    try:
        return str(make_header(decode_header(address)))
    except (MessageError, LookupError, ValueError):
        return address
