"""What a website's next answer tells a browser that is to forget: which cookies expire, and one that says "do not track".

No server can reach into a browser. The cookie's copy there ends when the browser next asks for a page and the answer carries
these headers (RFC 6265 section 5.3: a `Max-Age` of zero removes a cookie of the same name, domain and path).

Room rules: pure; no storage, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["MAX_COOKIE_DAYS", "CookieNames", "instructions"]

#: Browsers keep no cookie longer than this (draft-ietf-httpbis-rfc6265bis, section on Max-Age).
MAX_COOKIE_DAYS = 400


@dataclass(frozen=True, slots=True)
class CookieNames:
    """Which cookies are ended, by shell pattern, where they were set, and what the refusal is called."""

    ended: Sequence[str] = ("visitor", "_ga", "_ga_*", "_gid", "_hj*")
    domain: str | None = None
    opt_out: str = "dsr_opt_out"


def instructions(names: CookieNames, sent: Iterable[str]) -> tuple[str, ...]:
    """Return the values of the `Set-Cookie` headers for a browser that is to forget.

    `sent`: names of the cookies it sent along; those that match are ended. A cookie set on another path or domain stays.
    """
    where = "; Path=/" + (f"; Domain={names.domain}" if names.domain else "") + "; Secure; SameSite=Lax"
    ended = [name for name in dict.fromkeys(sent) if any(fnmatchcase(name, pattern) for pattern in names.ended)]
    ended += [pattern for pattern in names.ended if pattern.isidentifier() and pattern not in ended]
    refusal = f"{names.opt_out}=1; Max-Age={MAX_COOKIE_DAYS * 86400}{where}"
    return (*(f"{name}=; Max-Age=0{where}" for name in ended), refusal)
