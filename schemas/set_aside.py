"""A record in quarantine, sealed to the operators' public key: whatever somebody published may name a person in clear.

The value in quarantine then has the form of an access result (`schemas.blobs`: a key of its own in a JWE, then chunks): one
JSON line with the key and all headers of the original, and its value behind it. Beside it stand only headers of ours, with
`dsr-sealed` naming the key. The private half never comes to a worker or a connector.

Room rules: public keys are data; nothing is read from or written to a disk here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, ValidationError

from schemas.base import Record
from schemas.blobs import BlobKey, BlobPlace, BlobSecret, open_blob, seal_blob
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.vocabulary import QuarantineReason

__all__ = ["SEALED_HEADER", "Original", "open_original", "quarantine_key", "seal_original"]

#: Names the key that a value in quarantine is sealed to.
SEALED_HEADER = "dsr-sealed"
#: What every seal of this kind is bound to: it is no access result of anybody.
_PLACE = BlobPlace("quarantine", "", "")


class Original(Record):
    """A record as it was published."""

    key: Annotated[bytes | None, Field(repr=False)]
    value: Annotated[bytes | None, Field(repr=False)]
    headers: Annotated[tuple[tuple[str, bytes], ...], Field(repr=False)]


class _Head(Record):
    """The first line: bytes as text of the code points 0 to 255."""

    key: str | None
    headers: tuple[tuple[str, str], ...]
    has_value: bool


def quarantine_key(text: str | bytes) -> BlobKey:
    """Return the operators' public key in a JWK (RFC 7517 and 8037). Raises `ConfigurationError`, quoting nothing."""
    try:
        members = json.loads(text)
        if isinstance(members, dict) and "d" in members:
            raise ConfigurationError("this is the private half of the key: name the file that `dsr keys quarantine` printed")
        return BlobKey.model_validate({name: members[name] for name in BlobKey.model_fields if name in members})
    except (ValueError, TypeError, RecursionError, ValidationError):
        raise ConfigurationError("this is no public X25519 key: take what `dsr keys quarantine` prints") from None


def seal_original(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]], to: BlobKey) -> bytes:
    """Return what stands in quarantine for a record. The same again gives other bytes: each seal has a key of its own."""
    given = tuple((name, (data or b"").decode("latin-1")) for name, data in headers)
    head = _Head(key=None if key is None else key.decode("latin-1"), headers=given, has_value=value is not None)
    return b"".join(seal_blob([head.model_dump_json().encode() + b"\n", value or b""], to, _PLACE))


def open_original(sealed: bytes, secret: BlobSecret) -> Original:
    """Return the record. The caller may hold an identity from here on. Raises `ProtocolViolation` if the key is another."""
    head, _, value = b"".join(open_blob([sealed], secret, _PLACE)).partition(b"\n")
    try:
        read = _Head.model_validate_json(head)
        headers = tuple((name, data.encode("latin-1")) for name, data in read.headers)
        key = None if read.key is None else read.key.encode("latin-1")
    except ValueError:
        raise ProtocolViolation(
            QuarantineReason.IDENTITY_UNREADABLE, field="value", remedy="this was not sealed as a record of quarantine"
        ) from None
    return Original(key=key, value=value if read.has_value else None, headers=headers)
