"""Who is shown what the pages for machines tell: whoever sends the token, or without one whoever is on this machine.

    Authorization: Bearer <token>

Workers and connectors read the same two variables, `DSR_METRICS_TOKEN` and `DSR_METRICS_TOKEN_FILE`, and answer alike.

Source: RFC 6750 sections 2.1 (the header, `b64token`) and 3 (the challenge of a 401).

Room rules: a pure function of the header; the token is never shown, not even its length.
"""

from __future__ import annotations

import hmac
import re

from schemas.broker import LOCAL_HOSTS
from schemas.errors import ConfigurationError

__all__ = ["CHALLENGE", "HOW_TO_SET", "THIS_MACHINE", "TOKEN_VARIABLE", "PageReaders"]

TOKEN_VARIABLE = "DSR_METRICS_TOKEN_FILE"  # noqa: S105 - a variable's name
HOW_TO_SET = "put the output of `openssl rand -hex 32` into a file, and name it for this process and for Prometheus"
#: What comes with a 401. No error code: it would tell a wrong token from none.
CHALLENGE = {"www-authenticate": "Bearer"}

#: Whoever tries tokens as fast as a page answers must not come to an end of them.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,}=*")


class PageReaders:
    """Tells from a call's header whether it is shown metrics and reasons."""

    def __init__(self, token: str | None, host: str) -> None:
        """`host`: where the pages are served. Without `token` everybody is shown everything if that is loopback, else nobody.

        Raises `ConfigurationError` for a token that no client can send, or that is short enough to be found by trying.
        """
        if token is not None and not _TOKEN.fullmatch(token):
            raise ConfigurationError(
                f"{TOKEN_VARIABLE}: a token has 32 or more letters, digits or any of -._~+/ and then perhaps =: {HOW_TO_SET}"
            )
        self._token = None if token is None else token.encode()
        self._all = token is None and host in LOCAL_HOSTS

    @property
    def nobody(self) -> bool:
        """Tell whether no call can be let in: there is no token, and others than this machine reach the pages."""
        return self._token is None and not self._all

    def include(self, authorization: str | None) -> bool:
        """Tell whether whoever sent this `Authorization` header is shown everything.

        The time it takes says nothing of the token's characters. True does not imply who it is: a token that was overheard is
        as good, so it needs TLS; nor, without a token, that the caller is on this machine: a proxy here may speak for others.
        """
        if self._token is None:
            return self._all
        scheme, _, sent = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(sent.strip(" ").encode(), self._token)


#: For pages that are served on a loopback address, with no token.
THIS_MACHINE = PageReaders(None, "127.0.0.1")
