"""Decoders of what was kept for later: states, outbox batches, sealed files, checkpoints and proofs.

Where a seal or a signature stands before a decoder, a second target damages what is inside and seals or signs it anew: else
nearly every input would end at the seal, and nothing would be known of what comes after it.

Room rules: those of `tests.fuzz.targets`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable

from orchestrator.adapters.sql.outbox import pack, unpack
from orchestrator.core.state import from_bytes, to_bytes
from orchestrator.ports import OutRecord
from schemas.blobs import BlobPlace, BlobSecret, open_blob, open_result, seal_blob
from schemas.checkpoints import (
    CHECKPOINT_TYP,
    Checkpoint,
    Inclusion,
    checkpoint_file,
    digest_of_checkpoint,
    inclusion_file,
    open_checkpoint,
    verify_extends,
    verify_logged,
)
from schemas.commands import Hold
from schemas.errors import NotVerified, ProtocolViolation
from schemas.ids import digest
from schemas.reports import ResultReference
from schemas.set_aside import open_original, seal_original
from schemas.vocabulary import Right
from tests.checkpoints.checkpoint_kit import AT, KEY, LATER, TRUST, altered, receipt_for, values_of, walked
from tests.core.core_building import World, confirm, withdrawal
from tests.fuzz.target import Target

__all__ = ["kept_targets", "with_header"]


def kept_targets() -> Iterable[Target]:
    """Yield every target of this room."""
    yield Target("state", tuple(_states()), from_bytes, (ValueError,), False)
    records = [
        OutRecord("dsr.status.v1", b"key", b'{"type":"StatusEvent"}', [("dsr-type", b"StatusEvent"), ("dsr-version", b"1")]),
        OutRecord("dsr.journal.v1", b"", b"", []),
    ]
    yield Target("outbox", (pack(records), pack(records * 3)), unpack, (ValueError,))
    yield from _sealed()
    yield from _checkpoints()


def with_header(token: str) -> tuple[bytes, Callable[[bytes], str]]:
    """Return the header of a compact JWS or JWE, and what puts another in its place: it is read before any seal."""
    header, _, rest = token.partition(".")
    return base64.urlsafe_b64decode(f"{header}=="), lambda data: f"{base64.urlsafe_b64encode(data).decode().rstrip('=')}.{rest}"


def _states() -> Iterable[bytes]:
    """Yield a request that waits for its person, one under way, one on hold, and one that is closed."""
    world = World()
    world.submit("waits", Right.ACCESS, verified=False, person="p")
    world.submit("goes", Right.ERASURE, person="q")
    world.submit("held", Right.ERASURE, person="r")
    world.do(Hold, "held")
    world.submit("over", Right.ACCESS, person="s")
    world.say(withdrawal("over"))
    world.submit("done", Right.OBJECTION, verified=False, person="t")
    world.say(confirm("done"))
    world.answer("done")
    yield from (to_bytes(world.state(name)) for name in ("waits", "goes", "held", "over", "done"))


def _sealed() -> Iterable[Target]:
    secret, place = BlobSecret.generate("fuzzed"), BlobPlace("6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00", "crm", "order")

    def opened(data: bytes) -> object:
        return b"".join(open_blob([data], secret, place))

    def result(data: bytes) -> object:
        said = ResultReference(reference="a", sha256=digest(data), size=len(data), expires_at=AT, kid=secret.kid)
        return open_result(data, said, secret, place)

    blobs = tuple(b"".join(seal_blob([plain], secret.public, place)) for plain in (b"", b'{"email":["person@example.org"]}'))
    yield Target("blob", blobs, opened, (ProtocolViolation,))
    yield Target("result", blobs, result, (ProtocolViolation,))
    first, _, chunks = blobs[1].partition(b"\n")
    magic, _, token = first.decode().partition(" ")
    header, put = with_header(token)
    yield Target(
        "blob, its header", (header,), lambda data: opened(f"{magic} {put(data)}\n".encode() + chunks), (ProtocolViolation,)
    )
    given = seal_original(b"key", b'{"type":"SubmitRequest"}', [("dsr-type", b"SubmitRequest")], secret.public)
    yield Target("original", (given,), lambda data: open_original(data, secret), (ProtocolViolation,))
    quarantine = BlobPlace("quarantine", "", "")
    inside = b"".join(open_blob([given], secret, quarantine))

    def sealed_anew(data: bytes) -> object:
        return open_original(b"".join(seal_blob([data], secret.public, quarantine)), secret)

    yield Target("original, inside", (inside,), sealed_anew, (ProtocolViolation,))


def _checkpoints() -> Iterable[Target]:
    values = values_of(20)
    tree = walked(values[:11]).finish()
    old = Checkpoint(prefix="dsr", at=AT, partitions=(tree,))
    first = checkpoint_file(old, KEY)
    named = digest_of_checkpoint(first)
    new = Checkpoint(prefix="dsr", at=LATER, previous=named, partitions=(walked(values, tree).finish(),))
    second = checkpoint_file(new, KEY)

    def signed_anew(data: bytes) -> bytes:
        return altered(first, signed=KEY.sign(data, typ=CHECKPOINT_TYP))

    both = tuple(one.model_dump_json().encode() for one in (old, new))
    yield Target("checkpoint", (first, second), lambda data: open_checkpoint(data, TRUST), (NotVerified,))
    yield Target("checkpoint, inside", both, lambda data: open_checkpoint(signed_anew(data), TRUST), (NotVerified,))
    yield Target("checkpoint, the next", both[1:], lambda data: verify_extends(first, signed_anew(data), TRUST), (NotVerified,))
    closing = values[5][1]
    watching = walked(values[:11], watch=hashlib.sha256(closing).digest())
    watching.finish()
    proof = inclusion_file(Inclusion(checkpoint=named, partition=3, index=watching.index, path=watching.path()))
    receipt = receipt_for(closing)
    yield Target("proof", (proof,), lambda data: verify_logged(receipt, data, [first, second], TRUST), (NotVerified,))
