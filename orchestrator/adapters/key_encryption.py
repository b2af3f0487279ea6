"""The key-encryption key: what wraps every other key before it is stored.

It comes from a file or the environment and never reaches the database, so that a stolen database, or a backup of it, opens
nothing. Older keys may stand behind the current one: they unwrap what was wrapped under them until it is wrapped anew.

Room rules: pure computation; no key is shown, not even its length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import ValidationError

from schemas.errors import ConfigurationError, ProtocolViolation, RowDamaged
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal

__all__ = ["KeyEncryption"]

_SETTING = "DSR_KEY_ENCRYPTION_KEY"
_NAME_BYTES = 4
_NAME = re.compile(r"kek-[0-9a-f]{8}")


class KeyEncryption:
    """Wraps under the first key, unwraps under any of them. Implements `orchestrator.ports.KeyEncryption`."""

    def __init__(self, keys: Sequence[SealingKey]) -> None:
        if not keys:
            raise ConfigurationError(f"{_SETTING} is empty: make a key with `openssl rand -base64 32`")
        named = [_named(key) for key in keys]
        self._current = named[0]
        self._keys = {key.kid: key for key in named}
        self._given_up: set[str] = set()

    @classmethod
    def from_text(cls, text: str) -> KeyEncryption:
        """Read keys in base64, one a line or word, the current one first. Raises `ConfigurationError`, quoting nothing."""
        return cls([SealingKey.from_base64(f"{_SETTING} no. {n}", one) for n, one in enumerate(text.split(), 1)])

    @property
    def kid(self) -> str:
        """Return the current key's name: it follows from the key and tells nothing about it."""
        return self._current.kid

    def wrap(self, secret: bytes, context: str) -> bytes:
        """Return `secret` wrapped for one place: elsewhere it does not unwrap."""
        return seal(secret, self._current.derive("wrap", context), associated=context).model_dump_json().encode()

    def unwrap(self, wrapped: bytes, context: str) -> bytes:
        """Return what was wrapped for this place. The caller holds a key from here on.

        Raises `ConfigurationError` for the name of a key that we lack: without it nothing can be done for anybody, so it must
        not be taken for one bad record. Raises `RowDamaged` for what was changed or moved.
        """
        sealed = _seal_in(wrapped)
        key = self._keys.get(sealed.kid)
        if key is None:
            if sealed.kid in self._given_up or not _NAME.fullmatch(sealed.kid):  # it may be anything, and is not repeated
                raise RowDamaged("the store: a wrapped key names no key of ours: restore its row from a backup")
            raise ConfigurationError(
                f"{_SETTING}: the store needs the key named {sealed.kid}: add it behind the current one. If you only try things"
                " out and that key is gone, begin anew: delete the store's file (dsr.sqlite, unless DSR_STORE_URL names it)"
            )
        try:
            return unsafe_reveal(sealed, key.derive("wrap", context), associated=context)
        except ProtocolViolation:
            raise RowDamaged("the store: a wrapped key was changed or moved: restore its row from a backup") from None

    def is_current(self, wrapped: bytes) -> bool:
        """Tell whether the current key wrapped it. Raises `RowDamaged` if it is no wrapped key."""
        return _seal_in(wrapped).kid == self._current.kid

    def holds(self, kid: str) -> bool:
        """Tell whether a key of this name is among ours."""
        return kid in self._keys

    def give_up(self, kid: str) -> None:
        """Take this name for damage from now on, not for a key that we lack."""
        self._given_up.add(kid)


def _seal_in(wrapped: bytes) -> Sealed:
    try:
        return Sealed.model_validate_json(wrapped)
    except ValidationError:
        raise RowDamaged("the store: a wrapped key is no seal: restore its row from a backup") from None


def _named(key: SealingKey) -> SealingKey:
    return SealingKey(f"kek-{key.mac(b'name')[:_NAME_BYTES].hex()}", key.unsafe_bytes())
