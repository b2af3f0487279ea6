"""Checkpoints: what the journal of all requests was at an instant, signed, so that nobody can rewrite it later unnoticed.

Per partition of the journal's topic, the records in the order of their offsets are the leaves of one Merkle tree (RFC 9162; see
`schemas.growing_tree`): the leaf's data is the SHA-256 of the record's value, which is what `journal_head` in a confirmation
is. A record that was published twice is two leaves. A checkpoint is a JSON object: `format` is `dsr-checkpoint`, `version` 1,
`signed` a compact JWS of typ `dsr-checkpoint` over a `Checkpoint`. A proof is an `Inclusion` of `format` `dsr-inclusion`.

The topic forgets its oldest records one day. So a checkpoint carries the right edge of each tree: the next one goes on from
there with the new records, after computing again every subtree of the edge whose records are all still in the log.

Room rules: bytes in, values out or an error; no file, no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Sequence
from itertools import pairwise, takewhile
from typing import Annotated, Any

from pydantic import Field, ValidationError

from schemas.base import Instant, Record
from schemas.confirmations import Confirmation
from schemas.errors import NotVerified, ProtocolViolation
from schemas.growing_tree import GrowingTree, Node, consistent, leaf_of_digest, root_of_edge
from schemas.receipts import verify_receipt
from schemas.signatures import included
from schemas.trust import ORCHESTRATOR, SigningKey, Trust

__all__ = [
    "CHECKPOINT_TYP",
    "Checkpoint",
    "Inclusion",
    "PartitionTree",
    "PartitionWalk",
    "checkpoint_file",
    "digest_of_checkpoint",
    "head_of",
    "inclusion_file",
    "open_checkpoint",
    "verify_extends",
    "verify_logged",
]

#: `typ` of the JWS of a checkpoint.
CHECKPOINT_TYP = "dsr-checkpoint"
_FORMAT = "dsr-checkpoint"
_PROOF_FORMAT = "dsr-inclusion"
_LONGEST = 4 * 1024 * 1024

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Offset = Annotated[int, Field(ge=0, strict=True)]
_Count = Annotated[int, Field(ge=0, lt=2**40, strict=True)]
_Path = Annotated[tuple[_Hash, ...], Field(max_length=41)]
_Edge = Annotated[tuple[tuple[_Count, _Offset, _Hash], ...], Field(max_length=40)]


class PartitionTree(Record):
    """One partition: the offsets read so far, from `begin` up to and without `end`, and the tree over their records."""

    partition: Annotated[int, Field(ge=0, strict=True)]
    begin: _Offset
    end: _Offset
    size: _Count
    root: _Hash
    edge: Annotated[_Edge, Field(description="Whole subtrees, oldest first: leaves, offset of the first one, hash")]
    consistency: Annotated[_Path, Field(description="RFC 9162, 2.1.4: from the previous checkpoint's tree to this one")] = ()

    def nodes(self) -> list[Node]:
        """Return the edge."""
        return [Node(size, first, bytes.fromhex(found)) for size, first, found in self.edge]


class Checkpoint(Record):
    """Every partition of the journal of one installation, at one instant."""

    prefix: str
    at: Instant
    previous: Annotated[_Hash | None, Field(description="SHA-256 of the JWS of the checkpoint that this one goes on from")] = (
        None
    )
    partitions: Annotated[tuple[PartitionTree, ...], Field(max_length=10_000)]

    def tree(self, partition: int) -> PartitionTree | None:
        """Return a partition's tree, None for a partition that was not there."""
        return next((one for one in self.partitions if one.partition == partition), None)


class Inclusion(Record):
    """Where a journal entry stands in a checkpoint's trees, and the path from there to the root (RFC 9162, 2.1.3)."""

    checkpoint: Annotated[_Hash, Field(description="SHA-256 of the checkpoint's JWS")]
    partition: Annotated[int, Field(ge=0, strict=True)]
    index: _Count
    path: _Path


def checkpoint_file(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """Return the signed checkpoint as a file's content."""
    signed = key.sign(checkpoint.model_dump_json().encode(), typ=CHECKPOINT_TYP)
    return json.dumps({"format": _FORMAT, "version": 1, "signed": signed}, indent=2).encode() + b"\n"


def inclusion_file(proof: Inclusion) -> bytes:
    """Return the proof as a file's content."""
    return json.dumps({"format": _PROOF_FORMAT, "version": 1, **proof.model_dump()}, indent=2).encode() + b"\n"


def digest_of_checkpoint(data: bytes) -> str:
    """Return the SHA-256 of a checkpoint's JWS, by which proofs and later checkpoints name it. Raises `NotVerified(10)`."""
    return hashlib.sha256(_signed_in(data).encode()).hexdigest()


def open_checkpoint(data: bytes, trust: Trust) -> Checkpoint:
    """Return what a genuine checkpoint says. Raises `NotVerified` naming the first step that failed, numbered on from receipts.

    10. The file is a checkpoint: a JSON object of this format and version with one JWS.
    11. The orchestrator signed it, with one of the given keys that was valid at its instant.
    12. It agrees with itself: no partition twice, and each root, size and offset is what the tree's edge says.

    Success does not imply that the log says the same, today or then: its signer read the log, and nobody else did yet.
    """
    checkpoint = _step_11_signed(_signed_in(data), trust)
    numbers = [one.partition for one in checkpoint.partitions]
    if len(set(numbers)) != len(numbers) or not all(_agrees(one) for one in checkpoint.partitions):
        raise NotVerified(12, "checkpoint_disagrees", "the checkpoint was signed, but its parts contradict each other")
    return checkpoint


def _signed_in(data: bytes) -> str:
    found = _object(data)
    signed = found.get("signed")
    if (
        found.get("format") != _FORMAT
        or found.get("version") != 1
        or len(found) != 3
        or not isinstance(signed, str)
        or not signed.isascii()
    ):
        raise NotVerified(10, "no_checkpoint", "the file is no checkpoint: take one that `dsr checkpoint make` wrote")
    return signed


def _object(data: bytes) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one where there is none."""
    try:
        found = json.loads(data) if len(data) <= _LONGEST else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _step_11_signed(signed: str, trust: Trust) -> Checkpoint:
    fault = NotVerified(11, "checkpoint_not_signed", "no key of the orchestrator among the given ones signed this checkpoint")
    try:
        payload, signer = trust.opened(signed, typ=CHECKPOINT_TYP)
        checkpoint = Checkpoint.model_validate_json(payload)
    except (ProtocolViolation, ValidationError, UnicodeEncodeError):
        raise fault from None
    if signer.principal != ORCHESTRATOR or not signer.valid_at(checkpoint.at):
        raise fault
    return checkpoint


def _agrees(tree: PartitionTree) -> bool:
    nodes = tree.nodes()
    sizes = [node.size for node in nodes]
    firsts = [node.first for node in nodes]
    return (
        tree.begin <= tree.end
        and all(size > 0 and size & (size - 1) == 0 for size in sizes)
        and all(larger > smaller for larger, smaller in pairwise(sizes))
        and all(before + size <= after for size, (before, after) in zip(sizes, pairwise([*firsts, tree.end]), strict=True))
        and all(tree.begin <= first for first in firsts)
        and sum(sizes) == tree.size
        and root_of_edge(nodes).hex() == tree.root
    )


def verify_extends(old: bytes, new: bytes, trust: Trust) -> None:
    """Return nothing if the log of `new` is that of `old` with more at its end.

    Raises `NotVerified` as `open_checkpoint`, or:

    13. `new` goes on from this very `old`, of the same installation and not before it, and has every partition of it: each
        tree of `old` is how the one of `new` began (RFC 9162, 2.1.4.2).

    Success does not imply that either is what the broker holds: `dsr checkpoint make` and `prove` compare them with the log.
    """
    before, after = open_checkpoint(old, trust), open_checkpoint(new, trust)
    if after.previous != digest_of_checkpoint(old) or after.prefix != before.prefix or after.at < before.at:
        raise NotVerified(
            13, "not_appended_only", "the later checkpoint does not go on from the earlier one: give each in its order"
        )
    for was in before.partitions:
        now = after.tree(was.partition)
        if now is None or now.begin != was.begin or now.end < was.end or not _grew(was, now):
            why = f"partition {was.partition}: the earlier journal is not how the later one began: records were changed since"
            raise NotVerified(13, "not_appended_only", why)


def _grew(was: PartitionTree, now: PartitionTree) -> bool:
    path = [bytes.fromhex(one) for one in now.consistency]
    return consistent(was.size, bytes.fromhex(was.root), now.size, bytes.fromhex(now.root), path)


def head_of(receipt: bytes, trust: Trust) -> bytes:
    """Return the digest of the journal entry that closed a genuine receipt's request. Raises as `verify_receipt`."""
    verify_receipt(receipt, trust)
    head = Confirmation.model_validate_json(json.loads(receipt)["value"]).journal_head
    try:
        return bytes.fromhex(head)
    except ValueError:
        raise NotVerified(15, "head_not_in_log", "the confirmation names no digest of a journal entry") from None


def verify_logged(receipt: bytes, proof: bytes, checkpoints: Sequence[bytes], trust: Trust) -> None:
    """Return nothing if a receipt's journal head is in the log of these checkpoints, oldest first, which only grew.

    Raises `NotVerified` for steps 1 to 9 (the receipt), 10 to 12 (each checkpoint), 13 (each goes on from the one before), or:

    14. The proof is one, and is about one of these checkpoints.
    15. The confirmation's `journal_head` is a leaf of that checkpoint's tree (RFC 9162, 2.1.3.2).

    Success does not imply that nothing was kept out of the log in the first place.
    """
    head = head_of(receipt, trust)
    opened = {digest_of_checkpoint(one): open_checkpoint(one, trust) for one in checkpoints}
    for old, new in pairwise(checkpoints):
        verify_extends(old, new, trust)
    found = _step_14_proof(proof, opened)
    tree = opened[found.checkpoint].tree(found.partition)
    path = [bytes.fromhex(one) for one in found.path]
    if tree is None or not included(leaf_of_digest(head), found.index, tree.size, path, bytes.fromhex(tree.root)):
        raise NotVerified(15, "head_not_in_log", "the entry that closed this request is not where the proof says in that log")


def _step_14_proof(proof: bytes, checkpoints: Container[str]) -> Inclusion:
    said = _object(proof)
    form = said.pop("format", None), said.pop("version", None)
    try:
        found = Inclusion.model_validate_json(json.dumps(said)) if form == (_PROOF_FORMAT, 1) else None
    except ValidationError:
        found = None
    if found is None or found.checkpoint not in checkpoints:
        why = "the file is no proof for one of these checkpoints: take what `dsr checkpoint prove` wrote with it"
        raise NotVerified(14, "no_proof", why)
    return found


class PartitionWalk:
    """Takes one partition's records in the order of their offsets and makes its tree, on from that of the last checkpoint.

    Every subtree of the last edge whose first record is still in the log is computed again and must come out the same; where
    the log has forgotten its beginning the subtree is taken from the checkpoint. Raises `NotVerified`:

    16. The log still has, unchanged and in order, what the checkpoint says of it, and everything since.
    """

    def __init__(self, partition: int, begin: int, end: int, last: PartitionTree | None, watch: bytes | None = None) -> None:
        """Begin; `begin` and `end` are the log's own. `watch`: the digest of a record that `path` will speak of."""
        self._number, self._last, self._end, self._watch = partition, last, end, watch
        self._begin = begin if last is None else last.begin
        self._nodes = [] if last is None else last.nodes()
        kept = [node for node in self._nodes if node.first < begin]
        self._from = 0
        if kept:
            self._from = self._nodes[len(kept)].first if len(kept) < len(self._nodes) else self._span_end
        self._tree = GrowingTree(kept)
        self.kept, self._compared, self.index = self._tree.size, last is None, -1
        if last is not None and end < last.end:
            raise self._rewritten(end, last.end, "are gone from its end")
        if last is not None and begin > last.end:
            raise self._rewritten(
                last.end, begin, "were never in a checkpoint and are gone: begin anew without the previous one"
            )

    @property
    def _span_end(self) -> int:
        return 0 if self._last is None else self._last.end

    def take(self, offset: int, value: bytes | None) -> None:
        """Take the next record. Raises `NotVerified(16)` where what came before is not what the last checkpoint says."""
        if offset < self._from:
            return
        if offset >= self._span_end:
            self._compare()
        digest = hashlib.sha256(value or b"").digest()
        watched = digest == self._watch and self.index < 0
        if watched:
            self.index = self._tree.size
        self._tree.append(offset, digest, watch=watched)

    def finish(self) -> PartitionTree:
        """Return the tree, with the proof that the last checkpoint's is how it began. Raises as `take`."""
        self._compare()
        tree, last, consistency = self._tree, self._last, []
        if last is not None and self._watch is None and 0 < last.size < tree.size:
            smallest = [] if last.size & (last.size - 1) == 0 else [self._nodes[-1].hash]
            consistency = [*smallest, *tree.path()]
        return PartitionTree(
            partition=self._number,
            begin=self._begin,
            end=self._end,
            size=tree.size,
            root=tree.root().hex(),
            edge=tuple((node.size, node.first, node.hash.hex()) for node in tree.nodes),
            consistency=tuple(one.hex() for one in consistency),
        )

    def path(self) -> tuple[str, ...]:
        """Return the inclusion path of what was watched for; only where `index` is not negative."""
        return tuple(one.hex() for one in self._tree.path())

    def _compare(self) -> None:
        if self._compared:
            return
        self._compared = True
        if self._tree.nodes != self._nodes:
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(self._tree.nodes, self._nodes, strict=False))))
            rest = [*(node.first for node in self._nodes[same:]), self._span_end, self._span_end]
            raise self._rewritten(rest[0], rest[1], "are not those of the checkpoint")
        if self._nodes and self._watch is None:
            self._tree.watch_last()

    def _rewritten(self, start: int, end: int, what: str) -> NotVerified:
        return NotVerified(16, "log_rewritten", f"partition {self._number}: records from offset {start} before {end} {what}")
