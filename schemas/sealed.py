"""Sealing: the only form in which an identity leaves a process's memory.

AES-256-GCM (NIST SP 800-38D) under a key derived with HKDF-SHA256 (RFC 5869) for one purpose and one context. The nonce
is derived from key, associated data and plaintext, as in SIV modes (RFC 5297's idea): the same thing sealed twice in the
same place gives the same bytes, so a re-sent order is byte-identical, and different plaintexts never share a nonce.

Room rules: `str`, `repr` and `format` of anything here show no plaintext and no key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field

from schemas.base import Record
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.vocabulary import QuarantineReason

__all__ = ["Sealed", "SealingKey", "seal", "unsafe_reveal"]

_MAX_CIPHERTEXT = 96 * 1024


class Sealed(Record):
    """Ciphertext with what is needed to find its key. Holds nothing readable."""

    kid: Annotated[str, Field(min_length=1, max_length=80, description="Name of the sealing key")]
    nonce: Annotated[str, Field(min_length=16, max_length=16, description="96 bits, base64url with padding")]
    ciphertext: Annotated[
        str, Field(min_length=22, max_length=_MAX_CIPHERTEXT, description="Ciphertext and tag, base64url with padding")
    ]

    def __str__(self) -> str:
        return f"Sealed(kid={self.kid!r})"

    __repr__ = __str__


class SealingKey:
    """A named 256-bit secret. Derive from it for each purpose and context; never seal with two meanings under one key."""

    __slots__ = ("_secret", "kid")

    def __init__(self, kid: str, secret: bytes) -> None:
        if len(secret) != 32:
            msg = f"sealing key {kid!r} must be 32 bytes, is {len(secret)}: make one with `openssl rand -base64 32`"
            raise ConfigurationError(msg)
        self.kid = kid
        self._secret = secret

    @classmethod
    def from_base64(cls, kid: str, text: str) -> SealingKey:
        """Build from base64 text, as it stands in a setting. Raises `ConfigurationError`, never quoting the text."""
        try:
            secret = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigurationError(f"sealing key {kid!r} is not base64: make one with `openssl rand -base64 32`") from None
        return cls(kid, secret)

    def derive(self, purpose: str, *context: str) -> SealingKey:
        """Return the key of one purpose in one context (HKDF-SHA256); the name stays the parent's."""
        return SealingKey(self.kid, _expand(self._secret, "\x1f".join((purpose, *context)).encode()))

    def mac(self, data: bytes) -> bytes:
        """Return HMAC-SHA256 of `data` under this key: a keyed hash nobody else can compute."""
        return hmac.digest(self._secret, data, "sha256")

    def unsafe_bytes(self) -> bytes:
        """Return the secret. The caller holds a key from here on: wrap it, or hand it to whom it is for."""
        return self._secret

    def __repr__(self) -> str:
        return f"SealingKey(kid={self.kid!r})"


def _expand(secret: bytes, info: bytes) -> bytes:
    """HKDF-Expand (RFC 5869, 2.3) for 32 bytes, which is its first block; the general form costs twice as much."""
    return hmac.digest(secret, info + b"\x01", "sha256")


def seal(plaintext: bytes, key: SealingKey, *, associated: str) -> Sealed:
    """Seal `plaintext`, bound to `associated` (an id or header that must match when it is opened)."""
    aad = associated.encode()
    nonce = key.mac(b"nonce\x1f" + len(aad).to_bytes(4, "big") + aad + plaintext)[:12]
    ciphertext = AESGCM(key._secret).encrypt(nonce, plaintext, aad)  # noqa: SLF001 - same module
    return Sealed.trusted(
        kid=key.kid,
        nonce=base64.urlsafe_b64encode(nonce).decode(),
        ciphertext=base64.urlsafe_b64encode(ciphertext).decode(),
    )


def _exactly(text: str) -> bytes:
    """Return the bytes of padded base64url; only the one spelling that `seal` writes is taken, so no changed byte passes."""
    data = base64.urlsafe_b64decode(text)
    if base64.urlsafe_b64encode(data).decode() != text:
        raise ValueError("not the canonical base64url of anything")
    return data


def unsafe_reveal(sealed: Sealed, key: SealingKey, *, associated: str) -> bytes:
    """Open a seal. The caller holds an identity from here on: keep it off every log, exception and disk.

    Raises `ProtocolViolation(identity_unreadable)` for a wrong key, a changed byte or a seal moved from elsewhere; which of
    these it was cannot be told apart.
    """
    try:
        nonce, ciphertext = _exactly(sealed.nonce), _exactly(sealed.ciphertext)
        return AESGCM(key._secret).decrypt(nonce, ciphertext, associated.encode())  # noqa: SLF001 - same module
    except (InvalidTag, binascii.Error, ValueError):
        raise ProtocolViolation(
            QuarantineReason.IDENTITY_UNREADABLE,
            field="sealed",
            remedy="seal with the current key, bound to this very id",
        ) from None
