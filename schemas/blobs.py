"""Access results at rest: a file that only the portal's private key opens, bound to the order that it answers.

A file is one line and then chunks:

1. `DSRB1 ` and a JWE in compact form (RFC 7516; ECDH-ES over X25519, RFC 8037; A256GCM) whose content is a new 256-bit key,
   used for this file alone; its header names the portal's key (`kid`).
2. Chunks of 64 KiB of plaintext, each AES-256-GCM under that key. The nonce is an 88-bit counter and one byte that is 1 in the
   last chunk (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizar 2015, with the layout of age v1). Associated
   data are request, system and order: a chunk moved, doubled, dropped, cut off or brought to another order does not open.

Sealing and opening hold one chunk in memory besides what the caller gives.

Room rules: public keys are data; a private key is in no `repr`; nothing is read from or written to a disk here.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from pydantic import AfterValidator, Field, StringConstraints

from schemas.base import Record
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.ids import digest
from schemas.vocabulary import QuarantineReason, Right

__all__ = [
    "EXPORTING",
    "BlobKey",
    "BlobPlace",
    "BlobSecret",
    "KeyName",
    "PublicPoint",
    "StoredResult",
    "open_blob",
    "open_result",
    "seal_blob",
]

#: Rights whose answer is data for the person: their orders carry the portal's key.
EXPORTING = frozenset({Right.ACCESS, Right.PORTABILITY})

_MAGIC = b"DSRB1 "
_CHUNK = 64 * 1024
_TAG = 16
_MAX_HEAD = 2048
_ALGORITHMS = ["ECDH-ES", "A256GCM"]


def _is_point(x: str) -> str:
    """Return a public key that can be sealed to. The probe is a fixed key: a point of low order gives zeros and is refused."""
    raw = base64.urlsafe_b64decode(f"{x}=")
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != x:
        raise ValueError("is not the one base64url spelling of 32 bytes")
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(X25519PublicKey.from_public_bytes(raw))
    except ValueError:
        raise ValueError("is a point of low order: make a new key") from None
    return x


#: Name of a key: a new key has a new name.
KeyName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,80}$"),
    Field(description="Name of the key: a new key has a new name"),
]
#: An X25519 public key that can be sealed to.
PublicPoint = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$"),
    AfterValidator(_is_point),
    Field(description="The public key, base64url without padding"),
]


class BlobKey(Record):
    """A portal's public key (JWK, RFC 7517 and 8037) to which access results are sealed. Its private half never comes here."""

    kty: Annotated[Literal["OKP"], Field(description="Key type: OKP")] = "OKP"
    crv: Annotated[Literal["X25519"], Field(description="Curve: X25519")] = "X25519"
    x: PublicPoint
    kid: KeyName


class BlobPlace(NamedTuple):
    """Which order a file answers; brought to another one, it does not open."""

    subject_request_id: str
    system: str
    order_id: str

    @property
    def associated(self) -> bytes:
        """Return what every chunk is bound to."""
        return "\x1f".join(("dsr-blob-1", *self)).encode()


class BlobSecret:
    """A portal's private key. Only the portal has it; the orchestrator and the connectors never do."""

    __slots__ = ("_key", "kid")

    def __init__(self, key: OKPKey, kid: str) -> None:
        self._key = key
        self.kid = kid

    @classmethod
    def generate(cls, kid: str | None = None) -> BlobSecret:
        """Make a new key pair; without `kid` it is named by its thumbprint (RFC 7638)."""
        key = OKPKey.generate_key("X25519")
        return cls(key, kid or key.thumbprint())

    @classmethod
    def from_jwk(cls, jwk: dict[str, Any]) -> BlobSecret:
        """Build from a private JWK with `kid`. Raises `ConfigurationError`, never quoting it."""
        if not isinstance(jwk, dict) or not {"kty", "crv", "x", "d", "kid"} <= jwk.keys():
            raise ConfigurationError("not a private JWK with kty, crv, x, d and kid: make one with `dsr blobs key`")
        try:
            key = OKPKey.import_key({name: str(jwk[name]) for name in ("kty", "crv", "x", "d")})
            public = BlobKey(kty=jwk["kty"], crv=jwk["crv"], x=jwk["x"], kid=jwk["kid"])
            secret = cls(key, public.kid)
        except (JoseError, ValueError, binascii.Error):
            raise ConfigurationError("not an X25519 key (RFC 8037): make one with `dsr blobs key`") from None
        pair = X25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(f"{jwk['d']}=")).public_key()
        if base64.urlsafe_b64encode(pair.public_bytes_raw()).rstrip(b"=").decode() != public.x:
            raise ConfigurationError("the private key is not that of x: take the whole JWK as it was made")
        return secret

    @property
    def public(self) -> BlobKey:
        """Return the half that stands in the registry."""
        return BlobKey(x=str(self._key.as_dict(private=False)["x"]), kid=self.kid)

    def unsafe_jwk(self) -> dict[str, str]:
        """Return the private JWK, to be written to a file that its owner alone may read."""
        given = self._key.as_dict(private=True)
        return {"kty": "OKP", "crv": "X25519", "x": str(given["x"]), "d": str(given["d"]), "kid": self.kid}

    def unwrap(self, token: str) -> bytes:
        """Return a file's own key. Raises `ProtocolViolation` for another portal key or a changed header."""
        try:
            content = jwe.decrypt_compact(token, self._key, algorithms=_ALGORITHMS)
        except (JoseError, ValueError, KeyError, TypeError):
            raise _unreadable("open it with the private key that its kid names") from None
        if content.plaintext is None or len(content.plaintext) != 32:
            raise _unreadable("fetch the file again")
        return content.plaintext

    def __repr__(self) -> str:
        return f"BlobSecret(kid={self.kid!r})"


def seal_blob(plaintext: Iterable[bytes], key: BlobKey, place: BlobPlace) -> Iterator[bytes]:
    """Yield the file's bytes. Sealing the same again gives other bytes: each file has a key of its own."""
    content_key = secrets.token_bytes(32)
    public = OKPKey.import_key({"kty": key.kty, "crv": key.crv, "x": key.x})
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": key.kid, "typ": "dsr-blob"}
    yield _MAGIC + jwe.encrypt_compact(header, content_key, public, algorithms=_ALGORITHMS).encode() + b"\n"
    cipher, associated = AESGCM(content_key), place.associated
    for number, chunk, last in _blocks(plaintext, _CHUNK):
        yield cipher.encrypt(_nonce(number, last), chunk, associated)


def open_blob(stored: Iterable[bytes], secret: BlobSecret, place: BlobPlace) -> Iterator[bytes]:
    """Yield the plaintext, chunk by chunk; each is genuine, but only the end of the iteration says that none is missing.

    Raises `ProtocolViolation(identity_unreadable)` for another key, place or byte, and for a file that was cut off.
    """
    pieces = iter(stored)
    head, rest = _head(pieces)
    cipher, associated = AESGCM(secret.unwrap(head)), place.associated
    for number, chunk, last in _blocks(_chained(rest, pieces), _CHUNK + _TAG):
        try:
            yield cipher.decrypt(_nonce(number, last), chunk, associated)
        except (InvalidTag, ValueError):
            raise _unreadable("fetch the file again; it belongs to one order and is whole or worth nothing") from None


class StoredResult(Protocol):
    """What a confirmation says of a file: `schemas.reports.ResultReference`."""

    @property
    def sha256(self) -> str: ...  # noqa: D102 - the reference describes them
    @property
    def size(self) -> int: ...  # noqa: D102 - as above
    @property
    def kid(self) -> str | None: ...  # noqa: D102 - as above
    @property
    def expires_at(self) -> datetime: ...  # noqa: D102 - as above


def open_result(stored: bytes, reference: StoredResult, secret: BlobSecret, place: BlobPlace) -> bytes:
    """Return a result's JSON document, after checking the file against what the confirmation says of it.

    Raises `ProtocolViolation` naming what differs: `size`, `sha256`, `kid`, or the seal itself.
    """
    if len(stored) != reference.size:
        raise _differs("size", f"{reference.size} bytes were confirmed, {len(stored)} are here")
    if digest(stored) != reference.sha256:
        raise _differs("sha256", "the file is not the one that was confirmed")
    if reference.kid is not None and reference.kid != secret.kid:
        raise _differs("kid", f"it is sealed to the key {reference.kid}, this is {secret.kid}")
    return b"".join(open_blob([stored], secret, place))


def _differs(field: str, what: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field=field, remedy=f"{what}: fetch it again")


def _unreadable(remedy: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field="results", remedy=remedy)


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _blocks(pieces: Iterable[bytes], size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number, bytes and "last or not" of blocks of one size; there is always a last one, if need be an empty one."""
    number, held = 0, bytearray()
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if len(held) == size:
                yield number, bytes(held), False
                number += 1
                held.clear()
            taken = view[: size - len(held)]
            held += taken
            view = view[len(taken) :]
    yield number, bytes(held), True


def _head(pieces: Iterator[bytes]) -> tuple[str, bytes]:
    """Return the JWE of the first line, and what came after it."""
    begun = b""
    for piece in pieces:
        begun += piece
        if b"\n" in begun[:_MAX_HEAD] or len(begun) >= _MAX_HEAD:
            break
    line, newline, rest = begun.partition(b"\n")
    if not newline or len(line) > _MAX_HEAD or not line.startswith(_MAGIC) or not line.isascii():
        raise _unreadable("this is no sealed result: fetch the file again")
    return line.removeprefix(_MAGIC).decode(), rest


def _chained(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others
