"""The manifest on a real broker: applied, checked, and every kind of wrongness found."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidTimestampError
from typer.testing import CliRunner

from connectors.sdk.kafka import KafkaBus
from connectors.sdk.settings import RuntimeSettings
from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.topics import Finding, apply, check, check_readers, check_strays, topic_config
from orchestrator.cli import app
from schemas.errors import ConfigurationError
from schemas.topics import Topics, TopicSpec, manifest

pytestmark = pytest.mark.kafka


def _wanted(topics: Topics) -> tuple[TopicSpec, ...]:
    return manifest(["crm", "shop"], partitions=2, prefix=topics.prefix)


async def _create(bootstrap: str, spec: TopicSpec, *, partitions: int | None = None, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    right = topic_config(spec, replication=1)
    configs = right | {key.replace("_", "."): value for key, value in config.items()}
    answer = await admin.create_topics([NewTopic(spec.name, partitions or spec.partitions, 1, topic_configs=configs)])
    assert [code for _, code, _ in answer.topic_errors] == [0]
    async with asyncio.timeout(20):
        while spec.name not in await admin.list_topics():  # noqa: ASYNC110 - a broker sets no event of ours
            await asyncio.sleep(0.02)
    await admin.close()


async def _setting(bootstrap: str, topic: str, key: str) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {key: None})])
    await admin.close()
    return str(answer.resources[0][4][0][1])


async def test_applied_manifest_checks_clean(kafka_bootstrap: str, topics: Topics) -> None:
    """After `apply`, `check` finds nothing, and each topic was reported as created once."""
    done = await apply(kafka_bootstrap, _wanted(topics))
    assert sorted(done) == sorted(f"created {spec.name}" for spec in _wanted(topics))
    assert await check(kafka_bootstrap, _wanted(topics)) == []


async def test_applying_again_does_nothing(kafka_bootstrap: str, topics: Topics) -> None:
    """A second `apply` has nothing to do and says so."""
    await apply(kafka_bootstrap, _wanted(topics))
    assert await apply(kafka_bootstrap, _wanted(topics)) == []


async def test_two_may_apply_at_once(kafka_bootstrap: str, topics: Topics) -> None:
    """Two operators applying at the same moment both succeed, and each topic is created once."""
    first, second = await asyncio.gather(*(apply(kafka_bootstrap, _wanted(topics)) for _ in range(2)))
    assert sorted(first + second) == sorted(f"created {spec.name}" for spec in _wanted(topics))


async def test_missing_topic_is_found(kafka_bootstrap: str, topics: Topics) -> None:
    """A topic that is not there is found, and asking for it does not make it."""
    wanted = _wanted(topics)
    await apply(kafka_bootstrap, wanted[1:])
    for _ in range(2):
        (finding,) = await check(kafka_bootstrap, wanted)
        assert (finding.subject, finding.kind) == (wanted[0].name, "missing")
        assert "dsr topics apply" in finding.remedy


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("cleanup", {"cleanup_policy": "compact,delete"}),
        ("retention", {"retention_ms": "1000"}),
        ("retention", {"segment_ms": "999999999999"}),
        ("message_size", {"max_message_bytes": "1000"}),
        ("timestamps", {"message_timestamp_after_max_ms": "9223372036854775807"}),
        ("min_insync", {"min_insync_replicas": "2"}),
    ],
)
async def test_wrong_setting_is_found_and_corrected(
    kafka_bootstrap: str, topics: Topics, kind: str, config: dict[str, str]
) -> None:
    """A wrong setting is found under its kind; `apply` corrects it and leaves what others set on the topic."""
    spec = manifest([], prefix=topics.prefix)[0]
    await _create(kafka_bootstrap, spec, **config, flush_ms="4321")
    (finding,) = await check(kafka_bootstrap, [spec])
    assert (finding.subject, finding.kind) == (spec.name, kind)
    assert next(iter(config.values())) in finding.found
    (done,) = await apply(kafka_bootstrap, [spec])
    assert finding.wanted in done
    assert await check(kafka_bootstrap, [spec]) == []
    assert await _setting(kafka_bootstrap, spec.name, "flush.ms") == "4321"


async def test_a_record_of_a_day_to_come_is_refused(kafka_bootstrap: str, topics: Topics) -> None:
    """Retention goes by the stamp that the writer gave: one far ahead would keep a person's record for as long."""
    await apply(kafka_bootstrap, _wanted(topics))
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    now = round(time.time() * 1000)
    try:
        with pytest.raises(InvalidTimestampError):
            await producer.send_and_wait(topics.requests, b"{}", timestamp_ms=now + 2 * 60 * 60 * 1000)
        await producer.send_and_wait(topics.requests, b"{}", timestamp_ms=now + 60 * 1000)
    finally:
        await producer.stop()


async def test_wrong_partition_count_is_found_and_left(kafka_bootstrap: str, topics: Topics) -> None:
    """A wrong partition count is found, and `apply` does not touch it: keys would move."""
    spec = manifest([], partitions=2, prefix=topics.prefix)[0]
    await _create(kafka_bootstrap, spec, partitions=3)
    assert await apply(kafka_bootstrap, [spec]) == []
    (finding,) = await check(kafka_bootstrap, [spec])
    assert (finding.kind, finding.found, finding.wanted) == ("partitions", "3", "2")


async def test_topics_that_nobody_explains_are_found(kafka_bootstrap: str, topics: Topics) -> None:
    """A removed system's orders stay where nobody bounds them any more; another prefix is none of our business."""
    foreign = manifest([], partitions=1, prefix=f"{topics.prefix}-eu")[0]
    await apply(kafka_bootstrap, [*_wanted(topics), foreign])
    known = [spec.name for spec in _wanted(topics)]
    assert await check_strays(kafka_bootstrap, known, prefix=topics.prefix) == []
    left = [name for name in known if ".shop." not in name]
    (finding,) = await check_strays(kafka_bootstrap, left, prefix=topics.prefix)
    assert (finding.subject, finding.kind) == (topics.orders("shop"), "stray")


async def test_too_few_copies_are_found(kafka_bootstrap: str, topics: Topics) -> None:
    """One copy where three are wanted is found, together with the write rule that follows from it."""
    specs = manifest([], prefix=topics.prefix)[:1]
    await apply(kafka_bootstrap, specs)
    findings = await check(kafka_bootstrap, specs, replication=3)
    assert {finding.kind for finding in findings} == {"replication", "min_insync"}


async def test_more_copies_than_brokers_are_refused(kafka_bootstrap: str, topics: Topics) -> None:
    """Asking for more copies than there are brokers is refused in the broker's words, with the remedy."""
    with pytest.raises(ConfigurationError, match=r"InvalidReplicationFactor.*broker.*--replication 1"):
        await apply(kafka_bootstrap, _wanted(topics), replication=3)


def test_the_copies_of_the_workers_setting_are_made(kafka_bootstrap: str, topics: Topics) -> None:
    """One name for one number: the worker would refuse topics of another."""
    given = {"DSR_KAFKA_BOOTSTRAP": kafka_bootstrap, "DSR_TOPIC_PREFIX": topics.prefix, "DSR_REPLICATION_FACTOR": "3"}
    refused = CliRunner().invoke(app, ["topics", "apply"], env=given)
    assert isinstance(refused.exception, ConfigurationError) and "--replication 1" in str(refused.exception)


def test_a_finding_is_a_sentence() -> None:
    """A worker that does not start says each in a line."""
    missing, few = Finding("dsr.x", "missing", "absent", "present", "Make it."), Finding("dsr.x", "partitions", "3", "4", "So.")
    assert str(missing) == "dsr.x is missing. Make it."
    assert str(few) == "dsr.x: partitions: found 3, wanted 4. So."


async def test_silent_address_is_explained(unused_tcp_port: int) -> None:
    """Where no broker answers, the error names the setting and the remedy."""
    with pytest.raises(ConfigurationError, match=r"DSR_KAFKA_BOOTSTRAP.*dsr kafka up"):
        await check(f"127.0.0.1:{unused_tcp_port}", [])


async def test_auto_creation_is_found(tmp_path: Path, topics: Topics) -> None:
    """A broker that makes topics by itself is found, and looking at it makes none."""
    kafka = LocalKafka(tmp_path, overrides={"auto.create.topics.enable": "true"})
    await asyncio.to_thread(kafka.start)
    try:
        specs = manifest([], prefix=topics.prefix)
        await apply(kafka.bootstrap, specs[1:])
        for _ in range(2):
            kinds = [finding.kind for finding in await check(kafka.bootstrap, specs)]
            assert kinds == ["missing", "auto_creation"]
    finally:
        await asyncio.to_thread(kafka.stop)


async def test_a_connector_that_reads_other_orders_is_found(kafka_bootstrap: str, topics: Topics) -> None:
    """A connector of this release is in step; one that says another shape, or none, is named; one that is away is not seen."""
    await apply(kafka_bootstrap, _wanted(topics))
    groups = {system: topics.group(f"connector.{system}") for system in ("crm", "shop")}
    assert await check_readers(kafka_bootstrap, groups) == []
    settings = RuntimeSettings(
        kafka_bootstrap=kafka_bootstrap, topic_prefix=topics.prefix, keys_url="http://127.0.0.1:1", signatures="off"
    )
    ours = KafkaBus(settings, topic=topics.orders("crm"), group=groups["crm"])
    other = {"group_id": groups["shop"], "bootstrap_servers": kafka_bootstrap}
    async with asyncio.timeout(60):
        await ours.start()
        old = AIOKafkaConsumer(topics.orders("shop"), client_id="dsr-connector-0.0.9-orders-00000000", **other)
        await old.start()
        try:
            (named,) = await check_readers(kafka_bootstrap, groups)
            assert (named.subject, named.kind, named.found) == ("shop", "reader", "dsr-connector-0.0.9-orders-00000000")
            assert "before the workers" in named.remedy
        finally:
            await old.stop()
            await ours.stop()
        nameless = AIOKafkaConsumer(topics.orders("shop"), **other)
        await nameless.start()
        (named,) = await check_readers(kafka_bootstrap, groups)
        assert named.found == "a process that does not say its release"
        await nameless.stop()
