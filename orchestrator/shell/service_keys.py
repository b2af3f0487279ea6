"""The installation's own keys: made once, kept wrapped, the same for every worker.

Room rules: asks the store and the key-encryption port; nothing of a request.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from orchestrator.ports import KeyEncryption, ServiceKey, Store
from schemas.errors import ConfigurationError
from schemas.sealed import SealingKey

__all__ = ["GROUPING", "context_of", "grouping_key"]

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
