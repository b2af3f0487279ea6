"""`dsr audit`, `dsr dump` and `dsr quarantine` as people use them: on a real broker, and on a file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import audit_story
import pytest
from aiokafka import AIOKafkaProducer
from audit_corrupt import CORRUPTIONS, Broken, T
from audit_world import CANARY, PARTITIONS, MemoryLog, world

from orchestrator.audit.dump import write_dump
from orchestrator.audit.records import LogRecord
from schemas.topics import Topics


def _dsr(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **environment}, timeout=120, check=False)


async def _story(folder: Path, topics: Topics = T) -> tuple[list[LogRecord], dict[str, str], str]:
    async with world(folder, topics=topics) as company:
        told = await audit_story.tell(company)
        return company.records, told, company.now.isoformat()


def _dumped(folder: Path, corrupt: int | None = None) -> tuple[Path, str]:
    """Write a file with a log, broken in one way or not at all; return it and the instant at which it ends."""
    records, told, ends_at = asyncio.run(_story(folder))
    log = Broken(records, told)
    if corrupt is not None:
        CORRUPTIONS[corrupt][2](log)
    path = folder / "log.jsonl.gz"
    asyncio.run(write_dump(MemoryLog(log.records), path, prefix="dsr", captured_at=datetime.fromisoformat(ends_at)))
    return path, ends_at


def test_a_clean_file_is_exit_0_and_a_short_verdict(tmp_path: Path):
    """A clean log is said to be clean first, and counted."""
    path, _ = _dumped(tmp_path)
    done = _dsr("audit", "--dump", path, "--canary", CANARY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Clean: none of the 10 invariants is broken")
    assert "searched for 1 canaries" in done.stdout
    assert "eu.gdpr" in done.stdout and "recomputed" in done.stdout
    assert CANARY not in done.stdout


def test_a_broken_file_is_exit_1_and_says_where(tmp_path: Path):
    """Each violation has its request, topic, partition and offset, and a sentence on what it means."""
    number, _, _ = CORRUPTIONS[1]
    path, _ = _dumped(tmp_path, corrupt=1)
    done = _dsr("audit", "--dump", path)
    assert done.returncode == 1
    assert done.stdout.startswith(f"BROKEN: 1 violation of 1 invariant ({number})")
    assert re.search(r"[0-9a-f-]{36}  dsr\.confirmations\.v1 partition \d offset \d+\n +a second confirmation", done.stdout)
    document = json.loads(_dsr("audit", "--dump", path, "--json").stdout)
    assert not document["clean"]
    assert [violation["invariant"] for violation in document["violations"]] == [number]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--dump", "missing.jsonl"], "cannot be read"),
        (["--dump", "README.md"], "dump it again"),
        (["--as-of", "yesterday"], "--as-of"),
        (["--canary", "ab"], "four characters"),
        (["--allow", "x"], "--scan"),
        (["--prefix", "No!"], "--prefix"),
        (["--bootstrap", "127.0.0.1:1"], "No Kafka broker answers"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], remedy: str):
    """An audit that could not be made is not one that found something."""
    done = _dsr("audit", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert remedy in done.stderr


def test_canaries_from_a_file_and_a_scan(tmp_path: Path):
    """A canary in quarantine is found from a file's list; a scan finds addresses that were not allowed."""
    records, told, ends_at = asyncio.run(_story(tmp_path))
    like = next(r for r in records if r.place.topic == T.quarantine)
    log = Broken(records, told)
    new = log.append(like)
    value = b'{"mail":"Erika.Canary@EXAMPLE.org","tel":"+31 6 1234 5678"}'
    log.put(new, replace(new, key=b"k", value=value))
    path = tmp_path / "log.jsonl"
    asyncio.run(write_dump(MemoryLog(log.records), path, prefix="dsr", captured_at=datetime.fromisoformat(ends_at)))
    listed = tmp_path / "canaries.txt"
    listed.write_text("nobody@example.org\nerika.canary@example.org\n")
    for arguments in (["--canaries", listed], ["--scan"], ["--scan", "--allow", "@example.org"]):
        done = _dsr("audit", "--dump", path, *arguments)
        assert done.returncode == 1, done.stdout
        assert "erika" not in done.stdout.lower() and "1234" not in done.stdout
    assert _dsr("audit", "--dump", path, "--scan", "--allow", "@example.org", "--allow", "+31 6 1234").returncode == 0


async def _publish(bootstrap: str, records: list[LogRecord]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        for record in records:
            topic, partition, offset = record.place
            sent = await producer.send_and_wait(
                topic,
                record.value,
                key=record.key,
                partition=partition,
                timestamp_ms=record.timestamp_ms,
                headers=list(record.headers),
            )
            assert sent.offset == offset
    finally:
        await producer.stop()


@pytest.mark.kafka
async def test_live_and_dump_agree_on_a_real_broker(fresh_kafka: Any, tmp_path: Path):
    """A log on real topics is audited live, dumped, and audited from the file, with the same verdict; then it is broken."""
    topics = await fresh_kafka.create("crm", "newsletter", "analytics", "subsidiary", partitions=PARTITIONS)
    records, told, ends_at = await _story(tmp_path, topics)
    # Retention counts from a record's time: the story plays today, or the broker deletes it.
    await _publish(fresh_kafka.bootstrap, [_today(record) for record in records])
    env = {"DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap, "DSR_TOPIC_PREFIX": topics.prefix}
    path = tmp_path / "log.jsonl.gz"
    as_of = ("--as-of", ends_at, "--json")
    live = await asyncio.to_thread(_dsr, "audit", *as_of, **env)
    assert live.returncode == 0, live.stdout + live.stderr
    assert sum(json.loads(live.stdout)["records"].values()) == len(records)
    dumped = await asyncio.to_thread(_dsr, "dump", path, **env)
    assert dumped.returncode == 0, dumped.stderr
    assert dumped.stdout == f"{len(records)} records in {path}\n"
    from_file = await asyncio.to_thread(_dsr, "audit", "--dump", path, *as_of)
    documents = [json.loads(done.stdout) for done in (live, from_file)]
    for document in documents:
        document["requests"].pop("read_twice")  # depends on the order across partitions
    assert documents[0] == documents[1]
    assert documents[0]["requests"]["all"] == len(told)
    confirmation = next(r for r in records if r.place.topic == topics.confirmations)
    await _publish_one(fresh_kafka.bootstrap, confirmation)
    broken = await asyncio.to_thread(_dsr, "audit", *as_of, "--grace", 1, **env)
    assert broken.returncode == 1
    assert [v["invariant"] for v in json.loads(broken.stdout)["violations"]] == [1]
    await _quarantine(env, [r for r in records if r.place.topic == topics.quarantine], tmp_path)


def _today(record: LogRecord) -> LogRecord:
    from orchestrator.adapters.clock import SystemClock  # noqa: PLC0415 - one use

    return replace(record, timestamp_ms=int(SystemClock().now().timestamp() * 1000))


async def _publish_one(bootstrap: str, like: LogRecord) -> None:
    value = json.dumps({**json.loads(like.value or b""), "group_id": "other"}).encode()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    await producer.send_and_wait(
        like.place.topic, value, key=like.key, partition=like.place.partition, headers=list(like.headers)
    )
    await producer.stop()


async def _quarantine(env: dict[str, str], aside: list[LogRecord], folder: Path) -> None:
    listed = await asyncio.to_thread(_dsr, "quarantine", "list", **env)
    assert listed.returncode == 0, listed.stderr
    assert "not_json" in listed.stdout and "publish one JSON object per record" in listed.stdout
    assert f"{len(aside)} records" in listed.stdout
    assert "hello" not in listed.stdout
    rows = json.loads((await asyncio.to_thread(_dsr, "quarantine", "list", "--reason", "not_json", "--json", **env)).stdout)
    assert [row["value_bytes"] for row in rows] == [len(b"hello")]
    place = rows[0]["place"]
    shown = await asyncio.to_thread(_dsr, "quarantine", "show", place, **env)
    assert shown.returncode == 0 and "hello" not in shown.stdout and "no-json" not in shown.stdout
    value = folder / "value"
    written = await asyncio.to_thread(_dsr, "quarantine", "show", place, "--unsafe-value", value, **env)
    assert written.returncode == 0 and "hello" not in written.stdout
    assert value.read_bytes() == b"hello"
    assert stat.S_IMODE(value.stat().st_mode) == 0o600
    again = await asyncio.to_thread(_dsr, "quarantine", "show", place, "--unsafe-value", value, "--as", "hex", **env)
    assert again.returncode == 2 and "name a new file" in again.stderr
    for wrong in ("0-99999", "7-0", "x"):
        refused = await asyncio.to_thread(_dsr, "quarantine", "show", wrong, **env)
        assert refused.returncode == 2, wrong
