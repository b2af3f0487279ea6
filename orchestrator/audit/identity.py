"""Invariant 9: no identity in clear, anywhere in a record.

Canaries are texts that stood in a test person's request; a pattern scan looks for what addresses and telephone numbers look
like. Neither can prove that nothing is there: canaries are exact, patterns are guesses.

Room rules: a finding says where, never what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from orchestrator.audit.findings import Findings
from orchestrator.audit.records import LogRecord

__all__ = ["IdentitySearch"]

_MAIL = re.compile(rb"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
#: With a plus and a country, or national with a leading zero; never a part of a longer word, id, hash or time.
_PHONE = re.compile(rb"(?<![\w.:/=+-])(?:\+[1-9][0-9 ().-]{6,18}[0-9]|0[1-9][0-9]{7,9})(?![\w.:/=-])")


class IdentitySearch:
    """Searches keys, values and headers of records."""

    def __init__(self, canaries: Iterable[str] = (), *, scan: bool = False, allowed: Sequence[str] = ()) -> None:
        texts = sorted({form for canary in canaries if canary for form in _forms(canary)})
        self._canaries = re.compile(b"|".join(re.escape(text) for text in texts), re.IGNORECASE) if texts else None
        self._scan = scan
        self._allowed = tuple(text.lower().encode() for text in allowed)

    @property
    def is_on(self) -> bool:
        """Tell whether anything is searched for."""
        return self._canaries is not None or self._scan

    def look(self, record: LogRecord, findings: Findings) -> None:
        """Note a violation for each part of the record in which something was found."""
        if not self.is_on:
            return
        parts: list[tuple[str, bytes]] = [("its key", record.key or b""), ("its value", record.value or b"")]
        for name, value in record.headers:
            parts += [("the name of a header", name.encode()), ("a header", value)]
        for where, data in parts:
            what = self._found(data)
            if what:
                request = _request_of(record)
                findings.violated(
                    9, request, record.place, f"{what} in its {where}" if where != "a header" else f"{what} in {where}"
                )

    def _found(self, data: bytes) -> str | None:
        if self._canaries is not None and self._canaries.search(data):
            return "a canary stands in clear"
        if not self._scan:
            return None
        for pattern, what in ((_MAIL, "what looks like a mail address"), (_PHONE, "what looks like a telephone number")):
            for match in pattern.finditer(data):
                found = match.group().lower()
                if not any(allowed in found for allowed in self._allowed):
                    return f"{what} stands"
        return None


def _forms(canary: str) -> set[bytes]:
    """Return the spellings in which a text may stand in a record: plain, escaped in JSON, quoted in an address."""
    return {canary.encode(), json.dumps(canary)[1:-1].encode(), quote(canary, safe="").encode()}


_UUID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def _request_of(record: LogRecord) -> str:
    """Return the key if it is a request's id: any other key may itself be an identity."""
    key = record.key or b""
    return key.decode() if _UUID.fullmatch(key) else ""
