"""A Merkle tree that only grows, known by its right edge: RFC 9162 roots and proofs from one pass over a log of any length.

The edge is the list of whole subtrees, largest and oldest first, whose sizes are the powers of two that add up to the tree's
size. Appending a leaf joins equal neighbours, so memory grows with the logarithm of the size. The tree is that of
`schemas.signatures`: SHA-256, 0x00 before a leaf, 0x01 before a node.

Room rules: bytes in, values out; no file, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["EMPTY_ROOT", "GrowingTree", "Node", "consistent", "leaf_of_digest", "root_of_edge"]

#: Root of a tree without leaves (RFC 9162, 2.1.1).
EMPTY_ROOT = hashlib.sha256(b"").digest()


class Node(NamedTuple):
    """A whole subtree: how many leaves it has (a power of two), where its first one stands in the log, and its hash."""

    size: int
    first: int
    hash: bytes


def leaf_of_digest(digest: bytes) -> bytes:
    """Return the leaf hash of a record whose value has this SHA-256."""
    return hashlib.sha256(b"\x00" + digest).digest()


def _joined(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of_edge(nodes: Sequence[Node]) -> bytes:
    """Return the root of the tree with this edge: MTH of RFC 9162, 2.1.1."""
    if not nodes:
        return EMPTY_ROOT
    found = nodes[-1].hash
    for node in reversed(nodes[:-1]):
        found = _joined(node.hash, found)
    return found


class GrowingTree:
    """The tree so far. It can watch one leaf, or one subtree of its edge, and give the path from there to the root."""

    __slots__ = ("_inside", "_watched", "nodes", "size")

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes = list(nodes)
        self.size = sum(node.size for node in self.nodes)
        self._watched = -1
        self._inside: list[bytes] = []

    def append(self, offset: int, digest: bytes, *, watch: bool = False) -> None:
        """Append the record at `offset` whose value has this SHA-256; with `watch` it is what `path` speaks of."""
        nodes = self.nodes
        nodes.append(Node(1, offset, leaf_of_digest(digest)))
        self.size += 1
        if watch:
            self.watch_last()
        while len(nodes) > 1 and nodes[-1].size == nodes[-2].size:
            right, left = nodes.pop(), nodes.pop()
            if self._watched == len(nodes):
                self._inside.append(right.hash)
            elif self._watched == len(nodes) + 1:
                self._inside.append(left.hash)
                self._watched -= 1
            nodes.append(Node(left.size * 2, left.first, _joined(left.hash, right.hash)))

    def watch_last(self) -> None:
        """Watch the newest subtree of the edge, which may be a single leaf. There must be one."""
        self._watched = len(self.nodes) - 1
        self._inside = []

    @property
    def is_watching(self) -> bool:
        """Tell whether there is something that `path` speaks of."""
        return self._watched >= 0

    def root(self) -> bytes:
        """Return the root hash."""
        return root_of_edge(self.nodes)

    def path(self) -> list[bytes]:
        """Return the hashes from what is watched up to the root, nearest first: of a leaf, PATH of RFC 9162, 2.1.3.1."""
        newer = self.nodes[self._watched + 1 :]
        older = [node.hash for node in reversed(self.nodes[: self._watched])]
        return [*self._inside, *([root_of_edge(newer)] if newer else []), *older]


def consistent(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Tell whether the tree of `first` leaves is how the one of `second` leaves began (RFC 9162, 2.1.4.2).

    Every tree begins as the empty one, and a tree is consistent with itself: both with an empty path.
    """
    if not 0 < first < second:
        begins = first == second and first_root == second_root
        return not path and (begins or (first == 0 < second and first_root == EMPTY_ROOT))
    hashes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not hashes:
        return False
    old, new = first - 1, second - 1
    while old & 1:
        old, new = old >> 1, new >> 1
    found_old = found_new = hashes[0]
    for sibling in hashes[1:]:
        if new == 0:
            return False
        if old & 1 or old == new:
            found_old, found_new = _joined(sibling, found_old), _joined(sibling, found_new)
            while old and not old & 1:
                old, new = old >> 1, new >> 1
        else:
            found_new = _joined(found_new, sibling)
        old, new = old >> 1, new >> 1
    return new == 0 and found_old == first_root and found_new == second_root
