"""What is left of a person's line after an erasure: nothing, or a line that no longer names the person.

Room rules: pure; no file, no clock.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum

from connectors.systems.weblogs.columns import IDENTIFYING, Line
from schemas.sealed import SealingKey
from schemas.vocabulary import IdentifierKind

__all__ = ["EraseBy", "scrubbed"]

#: Network widths that analytics tools use to make an address name a neighbourhood.
_KEPT_BITS = {4: 24, 6: 48}
#: Columns with a page's address, whose query may hold anything that was typed.
_PAGES = ("request", "referer")


class EraseBy(StrEnum):
    """What erasure does to a line."""

    #: The line goes.
    REMOVE = "remove"
    #: Addresses are cut to their network, other identifiers and queries go, the rest stays.
    TRUNCATE = "truncate"
    #: Identifiers become keyed hashes, queries go, the rest stays: a pseudonym, and so still personal data (GDPR Art. 4(5)).
    HASH = "hash"


def scrubbed(line: Line, by: EraseBy, key: SealingKey | None) -> str | None:
    """Return what is written in place of a line, None for nothing."""
    if by is EraseBy.REMOVE:
        return None
    values = {name: _without_query(line.values[name]) for name in _PAGES if name in line.values}
    for kind in IDENTIFYING:
        held = line.values.get(kind.value, "-")
        if held not in {"", "-"}:
            values[kind.value] = _hashed(held, key) if by is EraseBy.HASH else _truncated(kind, held)
    return line.replaced(values)


def _without_query(page: str) -> str:
    """Cut `?...` off each word: a request is `GET /page?query HTTP/1.1`."""
    return " ".join(word.partition("?")[0] for word in page.split(" "))


def _hashed(value: str, key: SealingKey | None) -> str:
    assert key is not None, "the settings ask for a key"
    return f"h-{key.mac(value.encode()).hex()[:32]}"


def _truncated(kind: IdentifierKind, value: str) -> str:
    if kind is not IdentifierKind.IP_ADDRESS:
        return "-"
    return ", ".join(_network(part.strip()) for part in value.split(","))


def _network(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "-"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    plain = mapped or address
    return str(ipaddress.ip_network((plain, _KEPT_BITS[plain.version]), strict=False).network_address)
