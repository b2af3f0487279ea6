"""Checkpoints: what a rewriting of the journal between two of them looks like, and what each tampered file fails with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from checkpoint_kit import (
    AT,
    KEY,
    LATER,
    REWRITINGS,
    TRUST,
    Values,
    altered,
    changed,
    naive_root,
    receipt_for,
    said_again,
    values_of,
    walked,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas import checkpoints
from schemas.checkpoints import (
    Checkpoint,
    Inclusion,
    checkpoint_file,
    digest_of_checkpoint,
    inclusion_file,
    open_checkpoint,
    verify_extends,
    verify_logged,
)
from schemas.errors import NotVerified
from schemas.trust import ORCHESTRATOR, SigningKey, Trust

# The walk ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 75))
def test_the_next_tree_is_that_over_all_records_whatever_the_log_forgot(first: int, more: int, begin: int) -> None:
    """From an edge and what is still there, the next root is that over everything, consistent with the one before."""
    values = values_of(first + more)
    old = walked(values[:first]).finish()
    begin = min(begin, old.end)
    walk = walked(values, old, begin=begin)
    new = walk.finish()
    assert (new.size, new.root) == (len(values), naive_root(values))
    assert walk.kept >= sum(offset < begin for offset, _value in values[:first])
    before = Checkpoint(prefix="dsr", at=AT, partitions=(old,))
    data = checkpoint_file(before, KEY)
    after = Checkpoint(prefix="dsr", at=LATER, previous=digest_of_checkpoint(data), partitions=(new,))
    verify_extends(data, checkpoint_file(after, KEY), TRUST)


@pytest.mark.parametrize("rewritten", REWRITINGS, ids=lambda one: one.__name__.strip("_"))
@settings(max_examples=50)
@given(size=st.integers(4, 40), more=st.integers(0, 9), draw=st.data())
def test_a_rewritten_record_is_caught(rewritten: Callable[..., Values], size: int, more: int, draw: st.DataObject) -> None:
    """Whichever record was changed, removed, exchanged or inserted, the partition and the offsets of its subtree are named."""
    at = draw.draw(st.integers(0, size - 1))
    values, old = values_of(size + more), walked(values_of(size)).finish()
    assume(rewritten(values, at)[:size] != values[:size])  # a repetition that moves into the place of another is no rewriting
    with pytest.raises(NotVerified, match=r"partition 3: records from offset \d+ before \d+") as caught:
        walked(rewritten(values, at), old).finish()
    assert (caught.value.step, caught.value.fault) == (16, "log_rewritten")
    if rewritten is changed:
        start, end = (int(number) for number in re.findall(r"offset (\d+) before (\d+)", str(caught.value))[0])
        assert start <= values[at][0] < end


def test_a_rewriting_is_caught_in_what_the_log_still_has() -> None:
    """Where the oldest subtree has lost records, the younger ones are compared all the same."""
    values = values_of(13)  # subtrees of 8, 4 and 1
    old = walked(values).finish()
    begin = values[3][0]
    assert walked(values, old, begin=begin).kept == 8
    for at in range(8, 13):
        with pytest.raises(NotVerified, match="are not those of the checkpoint"):
            walked(changed(values, at), old, begin=begin).finish()


def test_a_cut_end_and_a_gap_are_caught() -> None:
    """A log that ends earlier, or that has forgotten what no checkpoint has seen, is not the one that was signed."""
    values = values_of(20)
    old = walked(values[:10]).finish()
    with pytest.raises(NotVerified, match="are gone from its end"):
        walked(values[:9], old)
    with pytest.raises(NotVerified, match="begin anew"):
        walked(values, old, begin=old.end + 1)
    assert walked(values, old, begin=old.end).finish().size == 20


# Files that say what is not so ---------------------------------------------------------------------------------------------


def _pair() -> tuple[bytes, bytes, bytes, bytes]:
    """Return a receipt, its proof, the checkpoint that the proof is about and a later one."""
    values = values_of(20)
    old = walked(values[:11])
    tree = old.finish()
    first = checkpoint_file(Checkpoint(prefix="dsr", at=AT, partitions=(tree,)), KEY)
    named = digest_of_checkpoint(first)
    second = checkpoint_file(
        Checkpoint(prefix="dsr", at=LATER, previous=named, partitions=(walked(values, tree).finish(),)), KEY
    )
    closing = values[5][1]
    watching = walked(values[:11], tree, watch=hashlib.sha256(closing).digest())
    watching.finish()
    proof = inclusion_file(Inclusion(checkpoint=named, partition=3, index=watching.index, path=watching.path()))
    return receipt_for(closing), proof, first, second


RECEIPT, PROOF, FIRST, SECOND = _pair()
PATH = json.loads(PROOF)["path"]


def _forged() -> bytes:
    """Return a second checkpoint over another history, signed with the genuine key and made to look as if it went on."""
    other = walked(changed(values_of(20), 2)).finish()
    honest = open_checkpoint(SECOND, TRUST).partitions[0]
    forged = other.model_copy(update={"consistency": honest.consistency})
    return checkpoint_file(Checkpoint(prefix="dsr", at=LATER, previous=digest_of_checkpoint(FIRST), partitions=(forged,)), KEY)


def _expired() -> Trust:
    return Trust.from_json(json.dumps({"keys": [KEY.public() | {"exp": int(AT.timestamp()) + 60}]}))


_TREE = open_checkpoint(FIRST, TRUST).partitions[0]
_JWS = json.loads(FIRST)["signed"]
FAULTS: list[tuple[str, int, bytes, bytes, Sequence[bytes], Trust]] = [
    ("a receipt of somebody else's key", 4, receipt_for(b"x", SigningKey.new(ORCHESTRATOR)), PROOF, [FIRST], TRUST),
    ("a checkpoint that is none", 10, RECEIPT, PROOF, [b"[]"], TRUST),
    ("a checkpoint of a later version", 10, RECEIPT, PROOF, [altered(FIRST, version=2)], TRUST),
    ("a field more", 10, RECEIPT, PROOF, [altered(FIRST, more="")], TRUST),
    ("not ASCII", 10, RECEIPT, PROOF, [altered(FIRST, signed="\ud800")], TRUST),
    ("a receipt for a checkpoint", 10, RECEIPT, PROOF, [RECEIPT], TRUST),
    ("no JWS", 11, RECEIPT, PROOF, [altered(FIRST, signed="x")], TRUST),
    ("a changed signature", 11, RECEIPT, PROOF, [altered(FIRST, signed=_JWS[:-8] + "AAAAAAAA")], TRUST),
    ("a stranger's key", 11, RECEIPT, PROOF, [said_again(FIRST, SigningKey.new(ORCHESTRATOR))], TRUST),
    ("signed for something else", 11, RECEIPT, PROOF, [said_again(FIRST, typ="dsr-tree")], TRUST),
    ("no checkpoint was signed", 11, RECEIPT, PROOF, [said_again(FIRST, prefix=None)], TRUST),
    ("signed after its key's time", 11, RECEIPT, PROOF, [said_again(FIRST, at=LATER.isoformat())], _expired()),
    ("another root", 12, RECEIPT, PROOF, [said_again(FIRST, root="0" * 64)], TRUST),
    ("another size", 12, RECEIPT, PROOF, [said_again(FIRST, size=12)], TRUST),
    ("a subtree left out", 12, RECEIPT, PROOF, [said_again(FIRST, edge=_TREE.edge[1:])], TRUST),
    ("fewer offsets than records", 12, RECEIPT, PROOF, [said_again(FIRST, end=5)], TRUST),
    ("begun after its first record", 12, RECEIPT, PROOF, [said_again(FIRST, begin=1)], TRUST),
    ("a partition twice", 12, RECEIPT, PROOF, [said_again(FIRST, partitions=[_TREE.model_dump()] * 2)], TRUST),
    ("in the wrong order", 13, RECEIPT, PROOF, [SECOND, FIRST], TRUST),
    ("another installation's", 13, RECEIPT, PROOF, [FIRST, said_again(SECOND, prefix="other")], TRUST),
    ("before the one before", 13, RECEIPT, PROOF, [FIRST, said_again(SECOND, at="2027-03-04T00:00:00Z")], TRUST),
    ("without a partition", 13, RECEIPT, PROOF, [FIRST, said_again(SECOND, partitions=[])], TRUST),
    ("with no proof of consistency", 13, RECEIPT, PROOF, [FIRST, said_again(SECOND, consistency=[])], TRUST),
    ("over a rewritten history", 13, RECEIPT, PROOF, [FIRST, _forged()], TRUST),
    ("a proof that is none", 14, RECEIPT, b"{}", [FIRST], TRUST),
    ("a proof without its path", 14, RECEIPT, altered(PROOF, path=None), [FIRST], TRUST),
    ("a proof for another checkpoint", 14, RECEIPT, PROOF, [SECOND], TRUST),
    ("another entry's receipt", 15, receipt_for(b"never said"), PROOF, [FIRST], TRUST),
    ("another index", 15, RECEIPT, altered(PROOF, index=4), [FIRST], TRUST),
    ("another partition", 15, RECEIPT, altered(PROOF, partition=0), [FIRST], TRUST),
    (
        "a hash of the path changed",
        15,
        RECEIPT,
        altered(PROOF, path=["0" * 64, *PATH[1:]]),
        [FIRST],
        TRUST,
    ),
    ("a hash of the path left out", 15, RECEIPT, altered(PROOF, path=PATH[1:]), [FIRST], TRUST),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[one[0] for one in FAULTS])
def test_what_is_not_so_fails_at_its_step(fault: tuple[str, int, bytes, bytes, Sequence[bytes], Trust]) -> None:
    """Each tampered file fails at the step whose promise it breaks."""
    _name, step, receipt, proof, series, trust = fault
    with pytest.raises(NotVerified) as caught:
        verify_logged(receipt, proof, series, trust)
    assert caught.value.step == step


def test_the_untouched_files_verify_with_one_checkpoint_or_both() -> None:
    """So what the others fail with is their own fault."""
    verify_logged(RECEIPT, PROOF, [FIRST], TRUST)
    verify_logged(RECEIPT, PROOF, [FIRST, SECOND], TRUST)
    verify_logged(RECEIPT, PROOF, [FIRST], _expired())


def test_every_step_of_the_docstrings_is_broken_once() -> None:
    """The numbers in text and tests are the same."""
    told = re.findall(r"^ {4}(\d\d)\. ", Path(checkpoints.__file__).read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number in told] == list(range(10, 17))
    assert {step for _name, step, *_rest in FAULTS} >= set(range(10, 16))
