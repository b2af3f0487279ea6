"""`dsr checkpoint` and `dsr verify --checkpoint` on dumps: made, proven, checked, and a rewritten history refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from checkpoint_kit import AT, KEY, REWRITINGS, JournalLog, Values, altered, receipt_for, said_again, values_of
from click.testing import Result
from typer.testing import CliRunner

from orchestrator.audit.dump import write_dump
from orchestrator.cli import app

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
        asyncio.run(write_dump(JournalLog(partitions, begins), path, prefix="dsr", captured_at=AT))
        return str(path)

    def make(self, out: str, log: str, *more: str) -> Result:
        """Make a checkpoint of a dump."""
        return self.run("checkpoint", "make", "--out", self.file(out), "--log", log, *more)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_receipt_is_proven_in_a_log_that_grew(house: House) -> None:
    """Make, append, make again, prove and verify offline; the journal of every partition is in it."""
    before = {0: values_of(9), 1: values_of(5), 2: []}
    after = {0: values_of(17), 1: values_of(5), 2: values_of(2)}
    assert house.make("a.json", house.dump(before)).output.startswith(f"{house.file('a.json')}: 14 records, 14 of them new")
    said = ("--metrics", house.file("checkpoint.prom"), "--json")
    done = house.make("b.json", house.dump(after), "--previous", house.file("a.json"), *said)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {
        "file": house.file("b.json"), "records": 24, "new": 10, "compared": 14, "no_longer_in_the_log": 0,
    }  # fmt: skip
    told = float((house.folder / "checkpoint.prom").read_text().splitlines()[-1].removeprefix("dsr_checkpoint_at_seconds "))
    made = datetime.fromisoformat(json.loads(house.run("checkpoint", "check", house.file("b.json"), "--json").stdout)["at"])
    assert told == made.timestamp()
    (house.folder / "receipt.json").write_bytes(receipt_for(values_of(9)[8][1]))
    receipt, proof = house.file("receipt.json"), house.file("proof.json")
    done = house.run(
        "checkpoint", "prove", receipt, "--checkpoint", house.file("a.json"), "--out", proof, "--log", house.dump(after)
    )
    assert done.exit_code == 0 and "leaf 8 of partition 0" in done.output
    series = ["--checkpoint", house.file("a.json"), "--checkpoint", house.file("b.json")]
    done = house.run("verify", receipt, *series, "--proof", proof)
    assert done.exit_code == 0 and "was only appended to" in done.output
    done = house.run("checkpoint", "check", house.file("a.json"), house.file("b.json"))
    assert done.exit_code == 0 and "2 checkpoints, 24 records" in done.output and "only ever appended to" in done.output
    # One checkpoint says what the log was, not what became of it.
    for alone in (
        house.run("verify", receipt, "--checkpoint", house.file("a.json"), "--proof", proof),
        house.run("checkpoint", "check", house.file("a.json")),
    ):
        assert alone.exit_code == 0 and "verified" in alone.output and "appended" not in alone.output
    done = house.run("verify", receipt, *series[2:], *series[:2], "--proof", proof, "--json")
    assert (done.exit_code, json.loads(done.output)) == (1, {"verified": False, "step": 13, "fault": "not_appended_only"})
    assert house.run("verify", receipt, "--checkpoint", house.file("b.json"), "--proof", proof).exit_code == 1
    assert house.run("verify", receipt, *series).exit_code == 2
    assert house.make("a.json", house.dump(before)).exit_code == 2


@pytest.mark.parametrize("rewritten", REWRITINGS, ids=lambda one: one.__name__.strip("_"))
def test_rewriting_history_is_caught_by_the_commands(house: House, rewritten: Callable[..., Values]) -> None:
    """No checkpoint is made of a rewritten log, and no proof from it; the partition is named, the exit code is 1."""
    assert house.make("a.json", house.dump({0: values_of(4), 1: values_of(12)})).exit_code == 0
    log = house.dump({0: values_of(4), 1: rewritten(values_of(15), 5)})
    done = house.make("b.json", log, "--previous", house.file("a.json"))
    assert done.exit_code == 1 and "step 16, log_rewritten: partition 1: records from offset 0" in done.output
    assert not (house.folder / "b.json").exists()
    (house.folder / "receipt.json").write_bytes(receipt_for(values_of(4)[3][1]))
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
    log = house.dump({0: values_of(4), 1: values_of(12)})
    house.make("a.json", log)
    done = house.make("b.json", house.dump({0: values_of(4)}), "--previous", house.file("a.json"))
    assert done.exit_code == 1 and "partition 1 is gone" in done.output
    (house.folder / "bad.json").write_bytes(altered((house.folder / "a.json").read_bytes(), signed="x"))
    done = house.make("b.json", log, "--previous", house.file("bad.json"))
    assert done.exit_code == 1 and "step 11" in done.output
    (house.folder / "receipt.json").write_bytes(receipt_for(b"never said"))
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
    (house.folder / "other.json").write_bytes(said_again((house.folder / "a.json").read_bytes(), prefix="other"))
    done = house.make("b.json", log, "--previous", house.file("other.json"))
    assert done.exit_code == 2 and "prefix other" in done.output


def test_a_log_that_forgot_its_beginning_goes_on(house: House) -> None:
    """What can no longer be compared is counted and said, not passed over."""
    house.make("a.json", house.dump({0: values_of(13)}))
    begin = values_of(13)[3][0]
    done = house.make("b.json", house.dump({0: values_of(20)}, {0: begin}), "--previous", house.file("a.json"))
    assert done.exit_code == 0, done.output
    assert "20 records, 7 of them new; 5 compared with the last checkpoint; 8 cannot be compared" in done.output
