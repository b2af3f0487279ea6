"""Checkpoints: what a rewriting of the journal between two of them looks like, and what each tampered file fails with."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from orchestrator.audit.dump import write_dump
from orchestrator.audit.records import Extent, LogRecord, Place, Span
from orchestrator.cli import app
from schemas import checkpoints
from schemas.checkpoints import (
    Checkpoint,
    Inclusion,
    PartitionTree,
    PartitionWalk,
    checkpoint_file,
    digest_of_checkpoint,
    inclusion_file,
    open_checkpoint,
    verify_extends,
    verify_logged,
)
from schemas.errors import NotVerified
from schemas.growing_tree import leaf_of_digest
from schemas.receipts import receipt_of
from schemas.signatures import root_of, sign_records, signature_in
from schemas.topics import CONFIRMATIONS, JOURNAL
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.wire import TYPE_HEADER

GENUINE = Path(__file__).parents[1] / "receipts" / "genuine.json"
KEY = SigningKey.new(ORCHESTRATOR)
TRUST = Trust.of(KEY)
AT = datetime(2027, 3, 5, tzinfo=UTC)
LATER = AT + timedelta(days=1)
#: One partition: (offset, value) in order.
Values = list[tuple[int, bytes]]


def _values(size: int, *, start: int = 0) -> Values:
    """Return records of which every third was published twice, with a gap in the offsets after every seventh."""
    return [(number + number // 7, b"entry %d" % (number - (number % 3 == 1))) for number in range(start, size)]


class _Log:
    """Partitions of the journal as a log."""

    def __init__(self, partitions: dict[int, Values], begins: dict[int, int] | None = None) -> None:
        self._partitions, self._begins = partitions, begins or {}

    async def extent(self) -> Extent:
        return {
            (JOURNAL, number): Span(self._begins.get(number, 0), values[-1][0] + 1 if values else 0)
            for number, values in self._partitions.items()
        } | {("dsr.status.v1", 0): Span(0, 1)}

    async def read(self, extent: Extent) -> AsyncIterator[LogRecord]:
        yield LogRecord(Place("dsr.status.v1", 0, 0), 0, b"", b"another topic's")
        for number, values in self._partitions.items():
            for offset, value in values:
                if extent[JOURNAL, number].beginning <= offset < extent[JOURNAL, number].end:
                    yield LogRecord(Place(JOURNAL, number, offset), 0, b"", value)


def _walk(values: Values, last: PartitionTree | None = None, *, begin: int = 0, watch: bytes | None = None) -> PartitionWalk:
    walk = PartitionWalk(3, begin, values[-1][0] + 1 if values else 0, last, watch)
    for offset, value in values:
        if offset >= begin:
            walk.take(offset, value)
    return walk


def _naive_root(values: Values) -> str:
    return root_of([leaf_of_digest(hashlib.sha256(value).digest()) for _offset, value in values]).hex()


def _receipt(closing: bytes, key: SigningKey = KEY) -> bytes:
    genuine = json.loads(GENUINE.read_bytes())
    confirmation = json.loads(genuine["value"]) | {"journal_head": hashlib.sha256(closing).hexdigest()}
    value, of = json.dumps(confirmation).encode(), genuine["key"].encode()
    headers = sign_records([(CONFIRMATIONS, of, value, [(TYPE_HEADER, b"Confirmation")])], key)[0]
    return receipt_of(of, value, signature_in(headers) or b"")


# The walk ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 75))
def test_the_next_tree_is_that_over_all_records_whatever_the_log_forgot(first: int, more: int, begin: int) -> None:
    """From an edge and what is still there, the next root is that over everything, consistent with the one before."""
    values = _values(first + more)
    old = _walk(values[:first]).finish()
    begin = min(begin, old.end)
    walk = _walk(values, old, begin=begin)
    new = walk.finish()
    assert (new.size, new.root) == (len(values), _naive_root(values))
    assert walk.kept >= sum(offset < begin for offset, _value in values[:first])
    before = Checkpoint(prefix="dsr", at=AT, partitions=(old,))
    data = checkpoint_file(before, KEY)
    after = Checkpoint(prefix="dsr", at=LATER, previous=digest_of_checkpoint(data), partitions=(new,))
    verify_extends(data, checkpoint_file(after, KEY), TRUST)


def _changed(values: Values, at: int) -> Values:
    return [*values[:at], (values[at][0], b"something else"), *values[at + 1 :]]


def _removed(values: Values, at: int) -> Values:
    return values[:at] + values[at + 1 :]


def _removed_and_moved_up(values: Values, at: int) -> Values:
    offsets = [offset for offset, _value in values[:-1]]
    return list(zip(offsets, [value for number, (_offset, value) in enumerate(values) if number != at], strict=True))


def _exchanged(values: Values, at: int) -> Values:
    other = at - 2 if at > 1 else at + 2
    swapped = [value for _offset, value in values]
    swapped[at], swapped[other] = swapped[other], swapped[at]
    return [(offset, value) for (offset, _value), value in zip(values, swapped, strict=True)]


def _inserted(values: Values, at: int) -> Values:
    moved = [(offset + 1, value) for offset, value in values[at:]]
    return [*values[:at], (values[at][0], b"never said"), *moved]


REWRITINGS: list[Callable[[Values, int], Values]] = [_changed, _removed, _removed_and_moved_up, _exchanged, _inserted]


@pytest.mark.parametrize("rewritten", REWRITINGS, ids=lambda one: one.__name__.strip("_"))
@settings(max_examples=50)
@given(size=st.integers(4, 40), more=st.integers(0, 9), draw=st.data())
def test_a_rewritten_record_is_caught(rewritten: Callable[..., Values], size: int, more: int, draw: st.DataObject) -> None:
    """Whichever record was changed, removed, exchanged or inserted, the partition and the offsets of its subtree are named."""
    at = draw.draw(st.integers(0, size - 1))
    values, old = _values(size + more), _walk(_values(size)).finish()
    assume(rewritten(values, at)[:size] != values[:size])  # a repetition that moves into the place of another is no rewriting
    with pytest.raises(NotVerified, match=r"partition 3: records from offset \d+ before \d+") as caught:
        _walk(rewritten(values, at), old).finish()
    assert (caught.value.step, caught.value.fault) == (16, "log_rewritten")
    if rewritten is _changed:
        start, end = (int(number) for number in re.findall(r"offset (\d+) before (\d+)", str(caught.value))[0])
        assert start <= values[at][0] < end


def test_a_rewriting_is_caught_in_what_the_log_still_has() -> None:
    """Where the oldest subtree has lost records, the younger ones are compared all the same."""
    values = _values(13)  # subtrees of 8, 4 and 1
    old = _walk(values).finish()
    begin = values[3][0]
    assert _walk(values, old, begin=begin).kept == 8
    for at in range(8, 13):
        with pytest.raises(NotVerified, match="are not those of the checkpoint"):
            _walk(_changed(values, at), old, begin=begin).finish()


def test_a_cut_end_and_a_gap_are_caught() -> None:
    """A log that ends earlier, or that has forgotten what no checkpoint has seen, is not the one that was signed."""
    values = _values(20)
    old = _walk(values[:10]).finish()
    with pytest.raises(NotVerified, match="are gone from its end"):
        _walk(values[:9], old)
    with pytest.raises(NotVerified, match="begin anew"):
        _walk(values, old, begin=old.end + 1)
    assert _walk(values, old, begin=old.end).finish().size == 20


# Files that say what is not so ---------------------------------------------------------------------------------------------


def _pair() -> tuple[bytes, bytes, bytes, bytes]:
    """Return a receipt, its proof, the checkpoint that the proof is about and a later one."""
    values = _values(20)
    old = _walk(values[:11])
    tree = old.finish()
    first = checkpoint_file(Checkpoint(prefix="dsr", at=AT, partitions=(tree,)), KEY)
    named = digest_of_checkpoint(first)
    second = checkpoint_file(
        Checkpoint(prefix="dsr", at=LATER, previous=named, partitions=(_walk(values, tree).finish(),)), KEY
    )
    closing = values[5][1]
    watching = _walk(values[:11], tree, watch=hashlib.sha256(closing).digest())
    watching.finish()
    proof = inclusion_file(Inclusion(checkpoint=named, partition=3, index=watching.index, path=watching.path()))
    return _receipt(closing), proof, first, second


RECEIPT, PROOF, FIRST, SECOND = _pair()


def _said(data: bytes, key: SigningKey = KEY, typ: str = checkpoints.CHECKPOINT_TYP, **changes: Any) -> bytes:
    """Return the checkpoint with other words, signed anew."""
    said = json.loads(open_checkpoint(data, TRUST).model_dump_json())
    for name, value in changes.items():
        (said["partitions"][0] if name in said["partitions"][0] else said)[name] = value
    signed = key.sign(json.dumps(said).encode(), typ=typ)
    return json.dumps({"format": "dsr-checkpoint", "version": 1, "signed": signed}).encode()


def _with(data: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(data) | changes).encode()


def _forged() -> bytes:
    """Return a second checkpoint over another history, signed with the genuine key and made to look as if it went on."""
    other = _walk(_changed(_values(20), 2)).finish()
    honest = open_checkpoint(SECOND, TRUST).partitions[0]
    forged = other.model_copy(update={"consistency": honest.consistency})
    return checkpoint_file(Checkpoint(prefix="dsr", at=LATER, previous=digest_of_checkpoint(FIRST), partitions=(forged,)), KEY)


def _expired() -> Trust:
    return Trust.from_json(json.dumps({"keys": [KEY.public() | {"exp": int(AT.timestamp()) + 60}]}))


_TREE = open_checkpoint(FIRST, TRUST).partitions[0]
_JWS = json.loads(FIRST)["signed"]
FAULTS: list[tuple[str, int, bytes, bytes, Sequence[bytes], Trust]] = [
    ("a receipt of somebody else's key", 4, _receipt(b"x", SigningKey.new(ORCHESTRATOR)), PROOF, [FIRST], TRUST),
    ("a checkpoint that is none", 10, RECEIPT, PROOF, [b"[]"], TRUST),
    ("a checkpoint of a later version", 10, RECEIPT, PROOF, [_with(FIRST, version=2)], TRUST),
    ("a field more", 10, RECEIPT, PROOF, [_with(FIRST, more="")], TRUST),
    ("not ASCII", 10, RECEIPT, PROOF, [_with(FIRST, signed="\ud800")], TRUST),
    ("a receipt for a checkpoint", 10, RECEIPT, PROOF, [RECEIPT], TRUST),
    ("no JWS", 11, RECEIPT, PROOF, [_with(FIRST, signed="x")], TRUST),
    ("a changed signature", 11, RECEIPT, PROOF, [_with(FIRST, signed=_JWS[:-8] + "AAAAAAAA")], TRUST),
    ("a stranger's key", 11, RECEIPT, PROOF, [_said(FIRST, SigningKey.new(ORCHESTRATOR))], TRUST),
    ("signed for something else", 11, RECEIPT, PROOF, [_said(FIRST, typ="dsr-tree")], TRUST),
    ("no checkpoint was signed", 11, RECEIPT, PROOF, [_said(FIRST, prefix=None)], TRUST),
    ("signed after its key's time", 11, RECEIPT, PROOF, [_said(FIRST, at=LATER.isoformat())], _expired()),
    ("another root", 12, RECEIPT, PROOF, [_said(FIRST, root="0" * 64)], TRUST),
    ("another size", 12, RECEIPT, PROOF, [_said(FIRST, size=12)], TRUST),
    ("a subtree left out", 12, RECEIPT, PROOF, [_said(FIRST, edge=_TREE.edge[1:])], TRUST),
    ("fewer offsets than records", 12, RECEIPT, PROOF, [_said(FIRST, end=5)], TRUST),
    ("begun after its first record", 12, RECEIPT, PROOF, [_said(FIRST, begin=1)], TRUST),
    ("a partition twice", 12, RECEIPT, PROOF, [_said(FIRST, partitions=[_TREE.model_dump()] * 2)], TRUST),
    ("in the wrong order", 13, RECEIPT, PROOF, [SECOND, FIRST], TRUST),
    ("another installation's", 13, RECEIPT, PROOF, [FIRST, _said(SECOND, prefix="other")], TRUST),
    ("before the one before", 13, RECEIPT, PROOF, [FIRST, _said(SECOND, at="2027-03-04T00:00:00Z")], TRUST),
    ("without a partition", 13, RECEIPT, PROOF, [FIRST, _said(SECOND, partitions=[])], TRUST),
    ("with no proof of consistency", 13, RECEIPT, PROOF, [FIRST, _said(SECOND, consistency=[])], TRUST),
    ("over a rewritten history", 13, RECEIPT, PROOF, [FIRST, _forged()], TRUST),
    ("a proof that is none", 14, RECEIPT, b"{}", [FIRST], TRUST),
    ("a proof without its path", 14, RECEIPT, _with(PROOF, path=None), [FIRST], TRUST),
    ("a proof for another checkpoint", 14, RECEIPT, PROOF, [SECOND], TRUST),
    ("another entry's receipt", 15, _receipt(b"never said"), PROOF, [FIRST], TRUST),
    ("another index", 15, RECEIPT, _with(PROOF, index=4), [FIRST], TRUST),
    ("another partition", 15, RECEIPT, _with(PROOF, partition=0), [FIRST], TRUST),
    ("a hash of the path changed", 15, RECEIPT, _with(PROOF, path=["0" * 64, *json.loads(PROOF)["path"][1:]]), [FIRST], TRUST),
    ("a hash of the path left out", 15, RECEIPT, _with(PROOF, path=json.loads(PROOF)["path"][1:]), [FIRST], TRUST),
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


# The commands ----------------------------------------------------------------------------------------------------------------


class House:
    """A folder with a key, dumps and checkpoints, and the commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0
        (folder / "key.jwk").write_text(KEY.to_json())
        (folder / "jwks.json").write_text(json.dumps({"keys": [KEY.public()]}))

    def run(self, *words: str) -> Result:
        """Run `dsr`."""
        env = {"DSR_SIGNING_KEY_FILE": str(self.folder / "key.jwk"), "DSR_TRUST_FILE": str(self.folder / "jwks.json")}
        return CliRunner().invoke(app, list(words), env=env)

    def file(self, name: str) -> str:
        """Return a path in the folder."""
        return str(self.folder / name)

    def dump(self, partitions: dict[int, Values], begins: dict[int, int] | None = None) -> str:
        """Write a dump."""
        self._count += 1
        path = self.folder / f"{self._count}.jsonl.gz"
        asyncio.run(write_dump(_Log(partitions, begins), path, prefix="dsr", captured_at=AT))
        return str(path)

    def make(self, out: str, log: str, *more: str) -> Result:
        """Make a checkpoint of a dump."""
        return self.run("checkpoint", "make", "--out", self.file(out), "--log", log, *more)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_receipt_is_proven_in_a_log_that_grew(house: House) -> None:
    """Make, append, make again, prove and verify offline; the journal of every partition is in it."""
    before = {0: _values(9), 1: _values(5), 2: []}
    after = {0: _values(17), 1: _values(5), 2: _values(2)}
    assert house.make("a.json", house.dump(before)).output.startswith(f"{house.file('a.json')}: 14 records, 14 of them new")
    done = house.make("b.json", house.dump(after), "--previous", house.file("a.json"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {
        "file": house.file("b.json"), "records": 24, "new": 10, "compared": 14, "no_longer_in_the_log": 0,
    }  # fmt: skip
    (house.folder / "receipt.json").write_bytes(_receipt(_values(9)[8][1]))
    receipt, proof = house.file("receipt.json"), house.file("proof.json")
    done = house.run(
        "checkpoint", "prove", receipt, "--checkpoint", house.file("a.json"), "--out", proof, "--log", house.dump(after)
    )
    assert done.exit_code == 0 and "leaf 8 of partition 0" in done.output
    series = ["--checkpoint", house.file("a.json"), "--checkpoint", house.file("b.json")]
    done = house.run("verify", receipt, *series, "--proof", proof)
    assert done.exit_code == 0 and "only appended to" in done.output
    done = house.run("checkpoint", "check", house.file("a.json"), house.file("b.json"))
    assert done.exit_code == 0 and "2 checkpoints, 24 records" in done.output
    done = house.run("verify", receipt, *series[2:], *series[:2], "--proof", proof, "--json")
    assert (done.exit_code, json.loads(done.output)) == (1, {"verified": False, "step": 13, "fault": "not_appended_only"})
    assert house.run("verify", receipt, "--checkpoint", house.file("b.json"), "--proof", proof).exit_code == 1
    assert house.run("verify", receipt, *series).exit_code == 2
    assert house.make("a.json", house.dump(before)).exit_code == 2


@pytest.mark.parametrize("rewritten", REWRITINGS, ids=lambda one: one.__name__.strip("_"))
def test_rewriting_history_is_caught_by_the_commands(house: House, rewritten: Callable[..., Values]) -> None:
    """No checkpoint is made of a rewritten log, and no proof from it; the partition is named, the exit code is 1."""
    assert house.make("a.json", house.dump({0: _values(4), 1: _values(12)})).exit_code == 0
    log = house.dump({0: _values(4), 1: rewritten(_values(15), 5)})
    done = house.make("b.json", log, "--previous", house.file("a.json"))
    assert done.exit_code == 1 and "step 16, log_rewritten: partition 1: records from offset 0" in done.output
    assert not (house.folder / "b.json").exists()
    (house.folder / "receipt.json").write_bytes(_receipt(_values(4)[3][1]))
    words = [
        "checkpoint",
        "prove",
        house.file("receipt.json"),
        "--checkpoint",
        house.file("a.json"),
        "--out",
        house.file("p.json"),
    ]
    done = house.run(*words, "--log", log, "--json")
    assert (done.exit_code, json.loads(done.output)["step"]) == (1, 16)


def test_what_cannot_be_made_says_why(house: House) -> None:
    """A partition that is gone, a rewritten previous file, an entry that the log has not, a log of another prefix."""
    log = house.dump({0: _values(4), 1: _values(12)})
    house.make("a.json", log)
    done = house.make("b.json", house.dump({0: _values(4)}), "--previous", house.file("a.json"))
    assert done.exit_code == 1 and "partition 1 is gone" in done.output
    (house.folder / "bad.json").write_bytes(_with((house.folder / "a.json").read_bytes(), signed="x"))
    done = house.make("b.json", log, "--previous", house.file("bad.json"))
    assert done.exit_code == 1 and "step 11" in done.output
    (house.folder / "receipt.json").write_bytes(_receipt(b"never said"))
    words = [
        "checkpoint",
        "prove",
        house.file("receipt.json"),
        "--checkpoint",
        house.file("a.json"),
        "--out",
        house.file("p.json"),
    ]
    done = house.run(*words, "--log", log)
    assert done.exit_code == 1 and "step 15" in done.output
    (house.folder / "other.json").write_bytes(_said((house.folder / "a.json").read_bytes(), prefix="other"))
    done = house.make("b.json", log, "--previous", house.file("other.json"))
    assert done.exit_code == 2 and "prefix other" in done.output


def test_a_log_that_forgot_its_beginning_goes_on(house: House) -> None:
    """What can no longer be compared is counted and said, not passed over."""
    house.make("a.json", house.dump({0: _values(13)}))
    begin = _values(13)[3][0]
    done = house.make("b.json", house.dump({0: _values(20)}, {0: begin}), "--previous", house.file("a.json"))
    assert done.exit_code == 0, done.output
    assert "20 records, 7 of them new; 5 compared with the last checkpoint; 8 cannot be compared" in done.output
