"""The growing tree against RFC 9162's own recursive definitions."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.growing_tree import GrowingTree, consistent, leaf_of_digest
from schemas.signatures import included, root_of

SIZES = st.integers(1, 70)


def _digests(size: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in range(size)]


def _sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def _mth(data: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1."""
    if len(data) < 2:
        return _sha(b"\x00" + data[0]) if data else _sha(b"")
    k = _split(len(data))
    return _sha(b"\x01" + _mth(data[:k]) + _mth(data[k:]))


def _path(m: int, data: list[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1."""
    if len(data) == 1:
        return []
    k = _split(len(data))
    return [*_path(m, data[:k]), _mth(data[k:])] if m < k else [*_path(m - k, data[k:]), _mth(data[:k])]


def _subproof(m: int, data: list[bytes], known: bool) -> list[bytes]:
    if m == len(data):
        return [] if known else [_mth(data)]
    k = _split(len(data))
    if m <= k:
        return [*_subproof(m, data[:k], known), _mth(data[k:])]
    return [*_subproof(m - k, data[k:], False), _mth(data[:k])]


def _grown(data: list[bytes], tree: GrowingTree | None = None, *, watch: int = -1) -> GrowingTree:
    tree = tree or GrowingTree()
    for offset, digest in enumerate(data, start=tree.size):
        tree.append(offset, digest, watch=offset == watch)
    return tree


def _proof(first: int, data: list[bytes]) -> list[bytes]:
    tree = _grown(data[:first])
    edge = list(tree.nodes)
    tree.watch_last()
    _grown(data[first:], tree)
    return [*([] if first & (first - 1) == 0 else [edge[-1].hash]), *tree.path()]


@given(st.integers(0, 300))
def test_the_root_is_that_of_the_definition(size: int) -> None:
    """Root, edge and the other tree of this code agree with the recursion, the empty tree included."""
    data = _digests(size)
    tree = _grown(data)
    assert tree.root() == _mth(data)
    assert not data or tree.root() == root_of([leaf_of_digest(one) for one in data])
    assert sum(node.size for node in tree.nodes) == tree.size == size
    assert all(larger.size > smaller.size for larger, smaller in pairwise(tree.nodes))


@given(SIZES, st.data())
def test_the_path_of_a_leaf_is_that_of_the_definition(size: int, draw: st.DataObject) -> None:
    """And it proves that leaf at that place, and no other."""
    index, data = draw.draw(st.integers(0, size - 1)), _digests(size)
    tree = _grown(data, watch=index)
    assert tree.path() == _path(index, data)
    assert included(leaf_of_digest(data[index]), index, size, tree.path(), tree.root())
    other = draw.draw(st.integers(0, size - 1).filter(lambda number: number != index or size == 1))
    assert other == index or not included(leaf_of_digest(data[other]), index, size, tree.path(), tree.root())


@given(SIZES, SIZES)
def test_the_consistency_proof_is_that_of_the_definition(first: int, more: int) -> None:
    """It is made in one pass from the older tree's edge, and verifies."""
    data = _digests(first + more)
    proof = _proof(first, data)
    assert proof == _subproof(first, data, True)
    assert consistent(first, _mth(data[:first]), len(data), _mth(data), proof)


@given(SIZES, st.integers(0, 70), st.data())
def test_a_rewritten_beginning_is_not_consistent(first: int, more: int, draw: st.DataObject) -> None:
    """Whatever record of the older tree was changed, neither the proof for the new log nor the old proof passes."""
    data, at = _digests(first + more), draw.draw(st.integers(0, first - 1))
    other = [*data[:at], b"\x01" * 32, *data[at + 1 :]]
    old = _mth(data[:first])
    for proof in ([], _proof(first, other) if more else [], _proof(first, data) if more else []):
        assert not consistent(first, old, len(other), _mth(other), proof)


@given(SIZES, SIZES, st.data())
def test_a_changed_proof_proves_nothing(first: int, more: int, draw: st.DataObject) -> None:
    """A hash changed, left out, doubled or added; another size of either tree that no path has."""
    data = _digests(first + more)
    proof, old, new = _proof(first, data), _mth(data[:first]), _mth(data)
    at = draw.draw(st.integers(0, len(proof) - 1))
    for bad in (
        [*proof[:at], bytes(32), *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof[: at + 1], *proof[at:]],
        [*proof, bytes(32)],
        [],
    ):
        assert not consistent(first, old, first + more, new, bad)
    assert not consistent(first + more, new, first, old, proof)


@pytest.mark.parametrize(
    ("first", "second", "path", "so"), [(0, 0, 0, True), (0, 3, 0, True), (0, 3, 1, False), (3, 3, 0, True)]
)
def test_empty_and_equal_trees(first: int, second: int, path: int, so: bool) -> None:
    """Every tree begins as the empty one and as itself, with an empty path only."""
    data = _digests(second)
    assert consistent(first, _mth(data[:first]), second, _mth(data), [bytes(32)] * path) is so
    assert not consistent(first, bytes(32), second, _mth(data), [bytes(32)] * path)
