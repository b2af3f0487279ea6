"""A header name that is no UTF-8 stops no reader of Kafka: connectors, auditor, dump and the operators' commands."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from raw_names import RawName, write_batch

from connectors.sdk.conversation_kafka import KafkaConversation
from connectors.sdk.kafka import KafkaBus
from connectors.sdk.settings import RuntimeSettings
from orchestrator.adapters.conversation import conversation
from orchestrator.cli import app
from schemas import any_header
from schemas.broker import BrokerReach
from schemas.topics import Topics

ROOT = Path(__file__).parents[2]
VALUES = [b"before", b"itself", b"after"]


@pytest.fixture(autouse=True)
def _no_guard_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what another test of this process has installed."""
    monkeypatch.setattr(fetcher, "PartitionRecords", any_header._PartitionRecords.__base__)
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)


async def write(bootstrap: str, topic: str) -> None:
    """Write three records in one batch, the middle one with such a header."""
    headers: list[list[object]] = [[], [(RawName("x"), b"1")], []]
    await write_batch(bootstrap, topic, [(b"k-%d" % n, value, headers[n]) for n, value in enumerate(VALUES)])


async def by_a_connector(bootstrap: str, topics: Topics) -> list[bytes]:
    """Read orders as a connector does."""
    settings = RuntimeSettings(keys_url="http://127.0.0.1:1", kafka_bootstrap=bootstrap)
    bus = KafkaBus(settings, topic=topics.orders("crm"), group=topics.group("crm"))
    await bus.start()
    found: list[bytes] = []
    try:
        await write(bootstrap, topics.orders("crm"))
        while len(found) < len(VALUES):
            found += [record.value or b"" for record in await bus.receive()]
    finally:
        await bus.stop()
    return found


async def by_a_connectors_conversation(bootstrap: str, topics: Topics) -> list[bytes]:
    """Look up what was said under each key, as the connector of a subsidiary does."""
    made = KafkaConversation(BrokerReach(kafka_bootstrap=bootstrap), says=topics.requests, hears=(topics.status,))
    await write(bootstrap, topics.status)
    try:
        return [(await made.heard(b"k-%d" % number))[topics.status].value for number in range(len(VALUES))]
    finally:
        await made.aclose()


async def by_an_operators_conversation(bootstrap: str, topics: Topics) -> list[bytes]:
    """Hear what answers a command."""
    found: list[bytes] = []
    async with conversation(bootstrap, topics.commands, (topics.status,)) as talk:
        await write(bootstrap, topics.status)
        async for record in talk.hear(30):
            found.append(record.value or b"")
            if len(found) == len(VALUES):
                break
    return found


async def by_a_dump(bootstrap: str, topics: Topics) -> list[bytes]:
    """Write a dump; its count is what was read."""
    await write(bootstrap, topics.status)
    with tempfile.TemporaryDirectory() as folder:
        words = ["dump", f"{folder}/dump.jsonl", "--json", "--bootstrap", bootstrap, "--prefix", topics.prefix]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
    return VALUES[: json.loads(done.stdout)["records"]]


async def by_the_auditor(bootstrap: str, topics: Topics) -> list[bytes]:
    """Audit the live log; its document counts what was read, by topic."""
    await write(bootstrap, topics.status)
    words = ["audit", "--json", "--grace", "0", "--bootstrap", bootstrap, "--prefix", topics.prefix]
    done = await asyncio.to_thread(CliRunner().invoke, app, words)
    return VALUES[: json.loads(done.stdout)["records"][topics.status]]


@pytest.mark.kafka
@pytest.mark.parametrize(
    "read", [by_a_connector, by_a_connectors_conversation, by_an_operators_conversation, by_a_dump, by_the_auditor]
)
async def test_a_header_name_that_is_no_text_stops_no_reader(
    fresh_kafka, read: Callable[[str, Topics], Awaitable[list[bytes]]]
) -> None:
    """The record and those behind it in the same batch are read."""
    topics = await fresh_kafka.create("crm", partitions=1)
    async with asyncio.timeout(20):
        assert await read(fresh_kafka.bootstrap, topics) == VALUES


def test_whoever_makes_a_consumer_installs_the_guard() -> None:
    """A new reader is not forgotten. Those that only ask for offsets, and those of a private broker, need none."""
    files = [*ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("connectors/**/*.py")]
    without = {
        str(file.relative_to(ROOT))
        for file in files
        if (names := {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)})
        and "AIOKafkaConsumer" in names
        and "any_header" not in names
    }
    private = {name for name in without if name.startswith(("orchestrator/bench/", "orchestrator/demo/"))}
    assert without - private == {"orchestrator/adapters/backlog.py"}
