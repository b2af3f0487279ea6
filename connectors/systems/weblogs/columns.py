"""What stands in a line of a log, whose line it is, and what of it may be shown.

A line is read by declared columns only: an address in a column that is not declared as one finds nobody.

Room rules: pure; no file, no clock.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from schemas.errors import ConfigurationError, SystemRejected
from schemas.vocabulary import IdentifierKind

__all__ = ["COMBINED", "IDENTIFYING", "Columns", "Line", "Wanted"]

#: The combined format of Apache and nginx.
COMBINED = ("ip_address", "ident", "user", "time", "request", "status", "bytes", "referer", "user_agent")
#: Columns a person can be found by, the surest first: an account is one person, a cookie one browser, an address a household.
IDENTIFYING = (IdentifierKind.ACCOUNT_ID, IdentifierKind.COOKIE_ID, IdentifierKind.IP_ADDRESS)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FIELD = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|\[([^\]]*)\]|([^\s"\[]\S*))(?: |\r?\n?$)')
_ADDRESS = re.compile(r"[^\s\"'?&=/;,:<>]+(?:@|%40)[^\s\"'?&=/;,:<>]+", re.IGNORECASE)
_ABSENT = frozenset({"", "-"})
_REDACTED = "[redacted]"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its values by column, and when it was written. `repr` shows the moment only."""

    at: datetime
    values: Mapping[str, str] = field(repr=False)
    #: Column -> where its value stands in the text, quotes and brackets not counted.
    spans: Mapping[str, tuple[int, int]] = field(repr=False)
    text: str = field(repr=False)

    def replaced(self, values: Mapping[str, str]) -> str:
        """Return the text with some values replaced."""
        text = self.text
        for name in sorted(values, key=lambda name: self.spans[name], reverse=True):
            start, end = self.spans[name]
            text = f"{text[:start]}{values[name]}{text[end:]}"
        return text


class Columns:
    """The declared columns. Raises `ConfigurationError` if they cannot serve."""

    def __init__(self, names: Iterable[str], time_format: str) -> None:
        self.names = tuple(names)
        self._time_format = time_format
        wrong = [name for name in self.names if not _NAME.fullmatch(name) or self.names.count(name) > 1]
        if wrong:
            raise ConfigurationError("DSR_WEBLOGS_COLUMNS: each column needs a name of its own, in lower case letters")
        if "time" not in self.names:
            raise ConfigurationError("DSR_WEBLOGS_COLUMNS: name the column that holds the moment `time`")
        #: The columns a person can be found by here.
        self.identifying = tuple(kind for kind in IDENTIFYING if kind.value in self.names)
        if not self.identifying:
            raise ConfigurationError("DSR_WEBLOGS_COLUMNS: none of ip_address, cookie_id and account_id is a column")

    def parse(self, text: str) -> Line | None:
        """Return a line's values, None if it does not have these columns."""
        values: dict[str, str] = {}
        spans: dict[str, tuple[int, int]] = {}
        position = 0
        for name in self.names:
            found = _FIELD.match(text, position)
            if found is None:
                return None
            assert found.lastindex is not None
            values[name], spans[name] = found[found.lastindex], found.span(found.lastindex)
            position = found.end()
        try:
            at = datetime.strptime(values["time"], self._time_format)  # noqa: DTZ007 - one without an offset is refused below
        except ValueError:
            return None
        is_whole = not text[position:].strip() and at.tzinfo is not None
        return Line(at.astimezone(UTC), values, spans, text) if is_whole else None


class Wanted:
    """One person, as lines may name them. `repr` shows nothing of it."""

    def __init__(self, identifiers: Mapping[IdentifierKind, tuple[str, ...]], columns: Columns) -> None:
        self._known: dict[IdentifierKind, frozenset[str]] = {}
        for kind in columns.identifying:
            values = frozenset(_asked(kind, value) for value in identifiers.get(kind, ()))
            if values:
                self._known[kind] = values

    @property
    def kinds(self) -> frozenset[IdentifierKind]:
        """Return the kinds of identifier that are known and have a column."""
        return frozenset(self._known)

    def found_by(self, line: Line) -> IdentifierKind | None:
        """Return the kind of identifier by which the line is the person's, None if it is not.

        The surest identifier that both the order and the line have decides: a line from the person's address that carries
        somebody else's account or cookie is somebody else's.
        """
        for kind, known in self._known.items():
            held = _parts(kind, line.values[kind.value])
            if held:
                return kind if known.intersection(held) else None
        return None

    def stands_in(self, text: str) -> bool:
        """Tell whether an identifier stands, as a word, anywhere in a text that has no columns."""
        values = (re.escape(value) for known in self._known.values() for value in known)
        return any(re.search(rf"(?<![\w.:-]){value}(?![\w.:-])", text) for value in values)

    def shown(self, line: Line, found_by: IdentifierKind) -> dict[str, str]:
        """Return the line's values for the person, without what may be others' (GDPR Art. 15(4)).

        Another identifier in it is shown if it is known as the person's, or if the line was found by a surer one. Mail
        addresses in addresses of pages are left out: they may be anybody's.
        """
        shown = {name: _ADDRESS.sub("[address]", value) for name, value in line.values.items()}
        for kind in IDENTIFYING:
            value = line.values.get(kind.value, "-")
            if value in _ABSENT:
                continue
            known = self._known.get(kind)
            if known is None:
                shown[kind.value] = value if IDENTIFYING.index(found_by) < IDENTIFYING.index(kind) else _REDACTED
            else:
                pieces = [piece.strip() for piece in value.split(",")] if kind is IdentifierKind.IP_ADDRESS else [value]
                shown[kind.value] = ", ".join(p if known.intersection(_parts(kind, p)) else _REDACTED for p in pieces)
        return shown


def _asked(kind: IdentifierKind, value: str) -> str:
    plain = value.strip()
    if kind is not IdentifierKind.IP_ADDRESS:
        return plain
    address = _address(plain)
    if address is None:
        raise SystemRejected("weblogs: the order's ip_address is no address: correct it at the portal")
    return str(address)


def _parts(kind: IdentifierKind, value: str) -> frozenset[str]:
    """Return what a column names: one value, or the addresses of a forwarded-for list; spelling does not matter."""
    if value in _ABSENT:
        return frozenset()
    if kind is not IdentifierKind.IP_ADDRESS:
        return frozenset({value})
    addresses = (_address(part.strip()) for part in value.split(","))
    return frozenset(str(address) for address in addresses if address is not None)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
