"""Keys for tests that join the shell by hand: one key wraps, one groups, one is the portals'."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys
from schemas.sealed import SealingKey

__all__ = ["request_keys"]


def request_keys(root: SealingKey, fresh: Callable[[int], bytes] = token_bytes) -> RequestKeys:
    """Return keys of requests, all following from one secret but for the fresh ones."""
    return RequestKeys(KeyEncryption([root]), intake=root.derive("intake"), grouping=root.derive("grouping"), fresh=fresh)
