"""What aiokafka's clients take to be let in by a broker: TLS, SASL, and tokens of a client credentials grant.

Room rules: opens what the settings name; a secret or a token goes into no log, error or `repr`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError
from aiokafka.helpers import create_ssl_context

from schemas.broker import BrokerReach, TokenGrant

__all__ = ["GrantedToken", "connection_to"]

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 10.0


def connection_to(reach: BrokerReach) -> dict[str, Any]:
    """Return the options of every aiokafka client except the address.

    Raises `ConfigurationError` naming the setting. Success does not imply that a broker answers, or lets us in.
    """
    return reach.client_options(tls=_tls, read=_read, tokens=GrantedToken)


class GrantedToken(AbstractTokenProvider):  # type: ignore[misc] # aiokafka is not typed for mypy here
    """Tokens for OAUTHBEARER, renewed before they end; one may serve clients in several loops and threads."""

    def __init__(self, grant: TokenGrant) -> None:
        self._grant = grant
        self._one_at_a_time = threading.Lock()

    async def token(self) -> str:
        """Return a token that is good. Raises aiokafka's errors, after which its clients try again."""
        return await asyncio.to_thread(self._current)

    def _current(self) -> str:
        with self._one_at_a_time:
            return self._grant.current(time.monotonic()) or self._renewed()

    def _renewed(self) -> str:
        try:
            answer = httpx.post(self._grant.url, data=self._grant.form(), timeout=_TIMEOUT_SECONDS, follow_redirects=False)
        except httpx.HTTPError as error:
            log.warning("the broker's token endpoint does not answer")
            raise KafkaConnectionError(f"token endpoint: {type(error).__name__}") from None
        try:
            if answer.status_code == httpx.codes.OK:
                return self._grant.take(answer.json(), time.monotonic())
        except (ValueError, AttributeError):
            log.warning("the broker's token endpoint answers without a token")
            raise AuthenticationFailedError("token endpoint: no token in the answer") from None
        log.warning("the broker's token endpoint refuses the client: check its id, secret and scope")
        raise AuthenticationFailedError(f"token endpoint: answered {answer.status_code}")


def _tls(reach: BrokerReach) -> Any:
    return create_ssl_context(
        cafile=_text(reach.ssl_ca_file), certfile=_text(reach.ssl_cert_file), keyfile=_text(reach.ssl_key_file)
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
