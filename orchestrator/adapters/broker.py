"""What aiokafka's clients take to be let in by a broker: TLS, SASL, and tokens of a client credentials grant.

Room rules: opens what the settings name and asks whether we may join a group; a secret or token goes into no log or error.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
)
from aiokafka.helpers import create_ssl_context

from schemas.broker import BrokerReach, TokenGrant, not_reached
from schemas.errors import ConfigurationError, OrchestratorError

__all__ = ["GrantedToken", "check_group", "connection_to"]

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 10.0


def connection_to(reach: BrokerReach) -> dict[str, Any]:
    """Return the options of every aiokafka client except the address.

    Raises `ConfigurationError` naming the setting. Success does not imply that a broker answers, or lets us in.
    """
    return reach.client_options(tls=_tls, read=_read, tokens=GrantedToken)


async def check_group(bootstrap: str, group: str, **connection: Any) -> None:
    """Raise `ConfigurationError` if the broker would not let us into a consumer group.

    A consumer that is refused waits for its group for ever, and nobody is told. Raises `OrchestratorError` if the broker does
    not answer the question.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **connection)
    try:
        await admin.start()
        await admin.find_coordinator(group)
    except GroupAuthorizationFailedError:
        raise ConfigurationError(
            f"the broker does not let us read in the group {group}: run `dsr acl apply`, or connect as somebody who may"
        ) from None
    except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError):
        return  # we may: the first group of a new broker waits a moment for its coordinator
    except KafkaConnectionError:
        raise not_reached(bootstrap, connection) from None
    except (KafkaError, TimeoutError) as error:
        raise OrchestratorError(f"The broker at {bootstrap} did not do it ({type(error).__name__}): try again") from error
    finally:
        await admin.close()


class GrantedToken(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types
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
