"""One signature over many records: what is published together is signed once, and each record can be checked alone.

The records of a batch are the leaves of a Merkle tree (RFC 9162, section 2.1: SHA-256, 0x00 before a leaf, 0x01 before a node).
A leaf is made of the message's type, the kind of its topic, the record's key and its value, each with its length before it, so
a record that is moved to another topic, key or type is another leaf. Root and size of the tree are signed as a compact JWS
(RFC 7515, Ed25519) of typ `dsr-tree`; every record carries that JWS, its index and its inclusion path in one header:

    dsr-signature: <jws>~<index>~<path: 32-byte hashes, joined, base64url without padding>

A lone record is a tree of one: index 0, empty path, and the root is its leaf. The same records signed again with the same key
give the same bytes, so a repeated publication is byte-identical.

Room rules: bytes in, values out; the instant is the caller's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from schemas.base import Message
from schemas.commands import Command
from schemas.errors import ProtocolViolation
from schemas.reports import FulfilmentReport
from schemas.requests import ConfirmIdentity, RefuseIdentity, SubmitRequest, WithdrawRequest
from schemas.topics import kind_of
from schemas.trust import (
    ORCHESTRATOR,
    SigningKey,
    Trust,
    TrustedKey,
    operator_principal,
    portal_principal,
    system_principal,
)
from schemas.vocabulary import QuarantineReason
from schemas.wire import TYPE_HEADER, Headers

__all__ = [
    "SIGNATURE_HEADER",
    "TREE_TYP",
    "Signature",
    "Verifier",
    "included",
    "leaf_of",
    "read_signature",
    "root_of",
    "sign_all",
    "sign_records",
    "signature_in",
    "speaker_of",
    "tree_in",
]

SIGNATURE_HEADER = "dsr-signature"
#: `typ` of the JWS over a root and size.
TREE_TYP = "dsr-tree"
_HASH_BYTES = 32
#: A tree of 2**40 records has paths of 40 hashes; a longer one is nobody's.
_LONGEST_PATH = 40
_LONGEST_HEADER = 4096
#: Batches whose signature is remembered as verified: those that are being read now, with room for late ones.
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Signature:
    """What one record's header says: nothing of it is verified yet."""

    jws: str
    index: int
    path: tuple[bytes, ...]


def leaf_of(message_type: str, topic_kind: str, key: bytes, value: bytes) -> bytes:
    """Return the leaf hash of a record; `topic_kind` is a topic's name without installation, version and system."""
    head = _head_of(message_type, topic_kind)
    return hashlib.sha256(b"".join((head, len(key).to_bytes(4, "big"), key, len(value).to_bytes(4, "big"), value))).digest()


@lru_cache(maxsize=256)
def _head_of(message_type: str, topic_kind: str) -> bytes:
    """Return what the leaves of all records of one type and topic begin with."""
    parts = (message_type.encode(), topic_kind.encode())
    return b"\x00" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """Return the tree from its leaves to its root; a node without a sibling goes up as it is, which is RFC 9162's shape."""
    levels = [list(leaves)]
    while len(below := levels[-1]) > 1:
        above = [_node(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
        levels.append(above + below[-1:] if len(below) % 2 else above)
    return levels


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the tree's root hash: MTH of RFC 9162, 2.1.1. There must be a leaf."""
    return _levels(leaves)[-1][0]


def sign_all(leaves: Sequence[bytes], key: SigningKey) -> list[bytes]:
    """Return the value of `dsr-signature` for each leaf, in order: one signature for all of them. No leaves, no signature."""
    if not leaves:
        return []
    levels = _levels(leaves)
    payload = json.dumps({"root": _text(levels[-1][0]), "size": len(leaves)}, separators=(",", ":"))
    jws = key.sign(payload.encode(), typ=TREE_TYP)
    return [f"{jws}~{index}~{_text(path)}".encode() for index, path in enumerate(_paths(levels))]


def sign_records(records: Iterable[tuple[str, bytes, bytes, Headers]], key: SigningKey) -> list[Headers]:
    """Return the headers of each record (topic, key, value, headers) with the signature added: one for all of them.

    The type is that of the header `dsr-type`, which must be there.
    """
    given = list(records)
    leaves = [leaf_of(_type_of(headers), kind_of(topic), of, value) for topic, of, value, headers in given]
    signatures = sign_all(leaves, key)
    return [[*one[3], (SIGNATURE_HEADER, signature)] for one, signature in zip(given, signatures, strict=True)]


def _type_of(headers: Headers) -> str:
    return next(value for name, value in headers if name == TYPE_HEADER).decode()


def speaker_of(message: Message) -> str:
    """Return the principal that alone may say this."""
    match message:
        case FulfilmentReport():
            return system_principal(message.system)
        case SubmitRequest() | ConfirmIdentity() | RefuseIdentity() | WithdrawRequest():
            return portal_principal(message.portal)
        case Command():
            return operator_principal(message.actor)
        case _:
            return ORCHESTRATOR


def _paths(levels: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return each leaf's inclusion path, joined: its sibling, if it has one, and then the path of the node above both."""
    paths = [b""]
    for level in reversed(levels[:-1]):
        siblings = [level[at ^ 1] if at ^ 1 < len(level) else b"" for at in range(len(level))]
        paths = [sibling + paths[at >> 1] for at, sibling in enumerate(siblings)]
    return paths


def included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Tell whether the leaf stands at `index` of the tree of `size` leaves with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    number, last, found, sha256 = index, size - 1, leaf, hashlib.sha256
    for sibling in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            found = sha256(b"\x01" + sibling + found).digest()
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = sha256(b"\x01" + found + sibling).digest()
        number, last = number >> 1, last >> 1
    return last == 0 and found == root


def read_signature(header: bytes | None) -> Signature:
    """Return what a header says. Raises `ProtocolViolation(signature_missing)` or `(signature_broken)`."""
    if not header:
        raise ProtocolViolation(
            QuarantineReason.SIGNATURE_MISSING, field=SIGNATURE_HEADER, remedy="sign every record with your own key"
        )
    parts = header.decode("ascii", "replace").split("~") if len(header) <= _LONGEST_HEADER else []
    if len(parts) != 3:
        raise _broken("write <jws>~<index>~<path>, as schemas.signatures says")
    jws, index, path = parts
    if not (index.isascii() and index.isdigit() and len(index) <= 12):
        raise _broken("write the index in decimal digits")
    hashes = _bytes(path)
    if hashes is None or len(hashes) % _HASH_BYTES or len(hashes) > _LONGEST_PATH * _HASH_BYTES:
        raise _broken("write the path as base64url of 32-byte hashes, without padding")
    return Signature(jws, int(index), tuple([hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES)]))


def signature_in(headers: Iterable[tuple[str, bytes]]) -> bytes | None:
    """Return the value of the signature's header; of several the first counts."""
    return next((value for name, value in headers if name == SIGNATURE_HEADER), None)


def _broken(remedy: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.SIGNATURE_BROKEN, field=SIGNATURE_HEADER, remedy=remedy)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes | None:
    """Return the bytes of unpadded base64url; only the one spelling that `_text` writes is taken."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return data if _text(data) == text else None


def tree_in(payload: bytes) -> tuple[bytes, int]:
    """Return root and size that a signed payload names. Raises `ProtocolViolation(signature_broken)`."""
    try:
        tree = json.loads(payload)
        root, size = _bytes(tree["root"]), tree["size"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _broken("sign an object with root and size") from None
    if root is None or len(root) != _HASH_BYTES or not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise _broken("sign an object with root and size")
    return root, size


class Verifier:
    """Checks records against a trust; a batch's signature is verified once and remembered while its records come in."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._tree_of = lru_cache(maxsize=_REMEMBERED)(self._opened)

    def verify(self, leaf: bytes, header: bytes | None, *, principal: str, at: datetime) -> str:
        """Return the `kid` of the key of `principal` that signed the record whose leaf this is; it was valid at `at`.

        Raises `ProtocolViolation`: `signature_missing`, `signature_broken`, `signer_unknown`, `signature_foreign` (a key of
        somebody else) or `signature_expired`. Success does not imply that the record is new: a record can be replayed by
        anyone who has read it, and must mean the same the second time.
        """
        signature = read_signature(header)
        root, size, key = self._tree_of(signature.jws)
        if not included(leaf, signature.index, size, signature.path, root):
            raise _broken("sign the very key, value and type that you publish, for this topic")
        if key.principal != principal:
            raise ProtocolViolation(
                QuarantineReason.SIGNATURE_FOREIGN, field=SIGNATURE_HEADER, remedy=f"this must be signed by {principal}"
            )
        if not key.valid_at(at):
            raise ProtocolViolation(
                QuarantineReason.SIGNATURE_EXPIRED, field=SIGNATURE_HEADER, remedy="sign with a key that is valid now"
            )
        return key.kid

    def _opened(self, jws: str) -> tuple[bytes, int, TrustedKey]:
        payload, key = self._trust.opened(jws, typ=TREE_TYP)
        return *tree_in(payload), key
