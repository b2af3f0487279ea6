"""Keys for tests that join the shell by hand: one key wraps, one groups, one is the portals'."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys
from schemas.intake import IntakeKey
from schemas.sealed import SealingKey

__all__ = ["intake_of", "request_keys"]


def request_keys(root: SealingKey, fresh: Callable[[int], bytes] = token_bytes, intake: IntakeKey | None = None) -> RequestKeys:
    """Return keys of requests, all following from one secret but for the fresh ones, and the intake key if one is given."""
    intake = intake or intake_of(root)
    return RequestKeys(KeyEncryption([root]), intake={intake.kid: intake}, grouping=root.derive("grouping"), fresh=fresh)


def intake_of(root: SealingKey) -> IntakeKey:
    """Return the key that portals seal to, following from the same secret."""
    return IntakeKey("intake-test", root.derive("intake").unsafe_bytes())
