"""The installation's own keys: made once, kept wrapped, the same for every worker; and whether what wraps them is at hand.

Room rules: asks the store and the key-encryption port; nothing of a request.
"""

from __future__ import annotations

import secrets
from datetime import datetime

import structlog

from orchestrator.ports import KeyEncryption, ServiceKey, Store
from schemas.errors import ConfigurationError
from schemas.sealed import SealingKey

__all__ = ["GROUPING", "check_identities", "context_of", "grouping_key"]

log = structlog.get_logger(__name__)

#: Name and purpose of the key under which one person's requests find each other.
GROUPING = "grouping"


def context_of(purpose: str, kid: str) -> str:
    """Return the place that a key of the installation is wrapped for."""
    return kid if kid == purpose else f"{purpose}:{kid}"


async def grouping_key(store: Store, encryption: KeyEncryption, now: datetime) -> SealingKey:
    """Return the key of the hash that groups one person's requests, made when the store has none.

    It outlives requests, and the hash is dropped with each: see `docs/security.md` for what that leaves. Raises
    `ConfigurationError` when the key-encryption key is not the one that wrapped it, and `StoreUnavailable`.
    """
    for _ in range(2):
        for key in await store.service_keys():
            if key.kid == GROUPING and key.wrapped is not None:
                return SealingKey(GROUPING, encryption.unwrap(key.wrapped, GROUPING))
        wrapped = encryption.wrap(secrets.token_bytes(32), GROUPING)
        await store.add_service_key(ServiceKey(GROUPING, GROUPING, now, wrapped=wrapped))
    raise ConfigurationError("the store: its grouping key was destroyed: restore the database from a backup")


async def check_identities(store: Store, encryption: KeyEncryption) -> None:
    """Refuse to go on without a key that stored identities need. Raises `ConfigurationError` that names it.

    A name that stands on one of many rows is damage, and concerns that request alone: it is given up, and told of.
    """
    names = await store.wrapped_by()
    lacking = {kid: count for kid, count in names.items() if not encryption.holds(kid)}
    for kid, count in sorted(lacking.items()):
        if kid and (count > 1 or len(names) == 1):
            raise ConfigurationError(
                f"DSR_KEY_ENCRYPTION_KEY: {count} open request(s) in the store need the key named {kid}: add it behind the"
                " current one"
            )
        encryption.give_up(kid)
        log.error("row_damaged", key_id=kid, count=count, remedy="restore the row: `dsr keys rewrap` names its request")
