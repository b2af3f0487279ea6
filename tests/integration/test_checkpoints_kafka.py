"""Checkpoints of a real broker's journal, read while it grows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from orchestrator.cli import app
from schemas.trust import ORCHESTRATOR, SigningKey

pytestmark = pytest.mark.kafka


async def test_a_broker_s_journal_is_signed_as_it_grows(fresh_kafka, tmp_path: Path) -> None:
    """The second checkpoint goes on from the first, and the series verifies offline."""
    topics = await fresh_kafka.create()
    key = SigningKey.new(ORCHESTRATOR)
    (tmp_path / "key.jwk").write_text(key.to_json())
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key.public()]}))
    env = {
        "DSR_SIGNING_KEY_FILE": str(tmp_path / "key.jwk"),
        "DSR_TRUST_FILE": str(tmp_path / "jwks.json"),
        "DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap,
        "DSR_TOPIC_PREFIX": topics.prefix,
    }

    async def run(*words: str) -> dict[str, object]:
        done = await asyncio.to_thread(CliRunner().invoke, app, ["checkpoint", *words, "--json"], env=env)
        assert done.exit_code == 0, done.output
        found: dict[str, object] = json.loads(done.output)
        return found

    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    async with AIOKafkaProducer(bootstrap_servers=fresh_kafka.bootstrap) as producer:
        for number in range(50):
            await producer.send(topics.journal, b"entry %d" % number, key=b"%d" % number)
        await producer.flush()
        assert (await run("make", "--out", files[0]))["records"] == 50
        for number in range(13):
            await producer.send(topics.journal, b"more %d" % number, key=b"%d" % number)
        await producer.flush()
    made = await run("make", "--out", files[1], "--previous", files[0])
    assert (made["records"], made["new"], made["compared"]) == (63, 13, 50)
    assert (await run("check", *files))["verified"] is True
