"""Tokens of a client credentials grant, for a broker that wants OAUTHBEARER.

The orchestrator has its twin, because neither room may import the other; what an answer means stands in `schemas.broker`.

Room rules: only this file, `kafka` and `conversation_kafka` know aiokafka; a secret or a token goes into no log or error.
"""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError, KafkaConnectionError

from schemas.broker import TokenGrant

__all__ = ["GrantedBrokerToken"]

_log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 10.0


class GrantedBrokerToken(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
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
            _log.warning("the broker's token endpoint does not answer")
            raise KafkaConnectionError(f"token endpoint: {type(error).__name__}") from None
        try:
            if answer.status_code == httpx.codes.OK:
                return self._grant.take(answer.json(), time.monotonic())
        except (ValueError, AttributeError):
            _log.warning("the broker's token endpoint answers without a token")
            raise AuthenticationFailedError("token endpoint: no token in the answer") from None
        _log.warning("the broker's token endpoint refuses the client: check its id, secret and scope")
        raise AuthenticationFailedError(f"token endpoint: answered {answer.status_code}")
