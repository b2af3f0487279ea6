"""Makes a broker's topics what the manifest says, and tells where they are not.

Room rules: speaks Kafka's admin protocol through aiokafka; what a topic must be stands in `schemas.topics`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    NotCoordinatorForGroupError,
    TopicAlreadyExistsError,
    for_code,
)

from schemas import __version__
from schemas.broker import not_reached
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.topics import TopicSpec
from schemas.wire import client_id_of_reader, reads_our_orders

__all__ = ["Finding", "Kind", "apply", "check", "check_readers", "check_strays", "topic_config"]

Kind = Literal[
    "missing",
    "partitions",
    "cleanup",
    "retention",
    "message_size",
    "timestamps",
    "replication",
    "min_insync",
    "auto_creation",
    "unreadable",
    "reader",
    "stray",
]

_SET_ON_TOPIC = 1  # DescribeConfigs' config_source of a value that somebody gave to this very topic
_WEEK_MS = 7 * 24 * 60 * 60 * 1000
#: Whoever stamps a record with a day to come would have it kept, and all of its segment, until then and a retention longer.
#: What brokers from 4.0 on refuse by default (KIP-1030), set for those from 3.6 on and against a default that was raised.
_AHEAD_MS = 60 * 60 * 1000
_SEEN_WITHIN_SECONDS = 30.0
_KINDS: Mapping[str, Kind] = {
    "cleanup.policy": "cleanup",
    "retention.ms": "retention",
    "segment.ms": "retention",
    "max.message.bytes": "message_size",
    "message.timestamp.type": "timestamps",
    "message.timestamp.after.max.ms": "timestamps",
    "min.insync.replicas": "min_insync",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between the broker and the manifest; `subject` is a topic, or a broker as `broker <id>`."""

    subject: str
    kind: Kind
    found: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.subject} is missing. {self.remedy}"
        return f"{self.subject}: {self.kind}: found {self.found}, wanted {self.wanted}. {self.remedy}"


def topic_config(spec: TopicSpec, *, replication: int) -> dict[str, str]:
    """Return the settings that a topic of this kind carries on the broker.

    A record outlives `retention.ms` by up to one segment, so the segment is a seventh of it, a week at most.
    With two replicas or more, all but one must have a record before it counts as written.
    """
    return {
        "cleanup.policy": spec.cleanup,
        "retention.ms": str(spec.retention_ms),
        "segment.ms": str(max(1, min(spec.retention_ms // 7, _WEEK_MS))),
        "max.message.bytes": str(spec.max_message_bytes),
        "message.timestamp.type": spec.timestamps,
        "message.timestamp.after.max.ms": str(_AHEAD_MS),
        "min.insync.replicas": str(max(1, replication - 1)),
    }


async def apply(bootstrap: str, specs: Iterable[TopicSpec], *, replication: int = 1, **connection: Any) -> list[str]:
    """Create the missing topics, correct wrong settings, and return what was done, one sentence each.

    Never touches a partition count (a key would change its partition), a replication factor, or a setting the manifest
    is silent about: `check` tells about the former two. Returns when the broker shows the result and every new partition has
    a leader; safe to repeat.
    `connection` goes to aiokafka's admin client (security_protocol and the like). Raises `ConfigurationError` when no
    broker answers or it refuses.
    """
    wanted = tuple(specs)
    async with _admin(bootstrap, connection) as admin:
        there = await _topics(admin)
        done = await _create(admin, [spec for spec in wanted if spec.name not in there], replication)
        done += await _correct(admin, [spec for spec in wanted if spec.name in there], replication)
    return done


async def check(bootstrap: str, specs: Iterable[TopicSpec], *, replication: int = 1, **connection: Any) -> list[Finding]:
    """Return every difference between the broker and the manifest, empty when there is none; changes nothing.

    An empty answer does not imply that the writers and readers are allowed to use the topics. `connection` as in `apply`.
    Raises `ConfigurationError` when no broker answers or it refuses to describe a topic.
    """
    findings: list[Finding] = []
    wanted = tuple(specs)
    async with _admin(bootstrap, connection) as admin:
        there = await _topics(admin)
        configs = await _configs(admin, [spec.name for spec in wanted if spec.name in there])
        for spec in wanted:
            if spec.name not in there:
                findings.append(Finding(spec.name, "missing", "absent", "present", "Run `dsr topics apply`."))
                continue
            findings += _shape_findings(spec, there[spec.name], replication)
            findings += _config_findings(spec, configs[spec.name], replication)
        findings += await _auto_creation(admin)
    return findings


async def check_strays(bootstrap: str, known: Iterable[str], *, prefix: str, **connection: Any) -> list[Finding]:
    """Return a finding for each topic under the prefix that is not `known`: nobody looks after how long its records stay.

    `known` are topics of the whole registry, of systems that are switched off too. A topic that was renamed to lie outside the
    prefix, and one that this principal may not describe, are not seen. Changes nothing; raises like `check`.
    """
    expected = set(known)
    async with _admin(bootstrap, connection) as admin:
        there = sorted(await _topics(admin))
    strays = (name for name in there if name.startswith(f"{prefix}.") and name not in expected)
    return [Finding(name, "stray", "a topic that no system of the registry explains", "none", _DELETE) for name in strays]


_DELETE = (
    "Of a system that was taken out of the registry: when its records are older than their retention, delete it with "
    "kafka-topics.sh --delete. Of anything else: give it a name that does not begin with our prefix."
)


async def check_readers(bootstrap: str, groups: Mapping[str, str], **connection: Any) -> list[Finding]:
    """Return, for each system (by its connector's group), a finding where a process cannot be counted on to read our orders.

    Sees processes that run now. None for a system does not imply that a connector of it runs: who is away says nothing.
    """
    findings: list[Finding] = []
    async with _admin(bootstrap, connection) as admin:
        for system, group in groups.items():
            for client_id in await _members(admin, group):
                if not reads_our_orders(client_id):
                    found = client_id if client_id.startswith("dsr-connector-") else "a process that does not say its release"
                    findings.append(Finding(system, "reader", found, client_id_of_reader(__version__), _UPGRADE))
    return findings


_UPGRADE = "Upgrade this system's connector before the workers: it sets aside what it does not know (docs/operations.md)."


async def _members(admin: AIOKafkaAdminClient, group: str) -> list[str]:
    deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
    while True:
        try:
            (answer,) = await admin.describe_consumer_groups([group])
            ((code, _, _, _, _, members, *_),) = answer.groups
            refused = for_code(code) if code else None
        except GroupCoordinatorNotAvailableError as error:
            refused = type(error)
        if refused is None:
            return sorted(member[1] for member in members)
        # The first question about any group makes the broker's own topic for them, which takes it a moment.
        if refused not in _NOT_YET or time.monotonic() > deadline:
            raise ConfigurationError(f"the group {group} could not be described: {refused.__name__}")
        await asyncio.sleep(0.2)


_NOT_YET = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)


def _shape_findings(spec: TopicSpec, partitions: Sequence[Mapping[str, Any]], replication: int) -> list[Finding]:
    findings = []
    if len(partitions) != spec.partitions:
        remedy = (
            "Partition counts are for life: set the wanted count to this one, "
            "or let the topic run empty, delete it and run `dsr topics apply`."
        )
        findings.append(Finding(spec.name, "partitions", str(len(partitions)), str(spec.partitions), remedy))
    copies = min((len(partition["replicas"]) for partition in partitions), default=0)
    if copies < replication:
        remedy = "Raise it with kafka-reassign-partitions.sh, or ask for fewer with --replication."
        findings.append(Finding(spec.name, "replication", str(copies), f"at least {replication}", remedy))
    return findings


def _config_findings(spec: TopicSpec, config: Mapping[str, str], replication: int) -> list[Finding]:
    return [
        Finding(spec.name, _KINDS[key], f"{key}={config.get(key)}", f"{key}={value}", "Run `dsr topics apply`.")
        for key, value in topic_config(spec, replication=replication).items()
        if config.get(key) != value
    ]


async def _auto_creation(admin: AIOKafkaAdminClient) -> list[Finding]:
    findings = []
    for broker in sorted(int(broker["node_id"]) for broker in (await admin.describe_cluster())["brokers"]):
        asked = ConfigResource(ConfigResourceType.BROKER, str(broker), {"auto.create.topics.enable": None})
        ((code, _, _, _, entries),) = [r for answer in await admin.describe_configs([asked]) for r in answer.resources]
        if code:
            remedy = "Allow DescribeConfigs on the cluster, or make sure yourself that auto.create.topics.enable is false."
            findings.append(Finding(f"broker {broker}", "unreadable", for_code(code).__name__, "its settings", remedy))
        elif dict(entry[:2] for entry in entries).get("auto.create.topics.enable") != "false":
            remedy = "Set auto.create.topics.enable=false on the broker: a misspelt topic must fail, not appear."
            findings.append(Finding(f"broker {broker}", "auto_creation", "on", "off", remedy))
    return findings


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], replication: int) -> list[str]:
    if not specs:
        return []
    new = [NewTopic(s.name, s.partitions, replication, topic_configs=topic_config(s, replication=replication)) for s in specs]
    answer = await admin.create_topics(new)
    made: list[str] = []
    for name, code, message in answer.topic_errors:
        if code == 0:
            made.append(name)
        elif code != TopicAlreadyExistsError.errno:
            few = f". {_FEWER}" if code == InvalidReplicationFactorError.errno else ""
            raise ConfigurationError(f"{name} could not be created: {for_code(code).__name__}: {message}{few}")
    await _have_leaders(admin, {spec.name for spec in specs})
    return [f"created {name}" for name in made]


_FEWER = "Ask for no more copies than there are brokers: --replication 1 (or DSR_REPLICATION_FACTOR=1) for a single one."


async def _have_leaders(admin: AIOKafkaAdminClient, names: set[str]) -> None:
    async def led() -> bool:
        there = await _topics(admin)
        return names <= {name for name, parts in there.items() if parts and all(part["leader"] >= 0 for part in parts)}

    await _until(led, "the new topics have no leader")


async def _until(seen: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Wait for what the controller has confirmed to reach the broker that is asked."""
    deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
    while not await seen():
        if time.monotonic() > deadline:
            raise OrchestratorError(f"After {_SEEN_WITHIN_SECONDS:.0f} s {otherwise}: look at the broker's log")
        await asyncio.sleep(0.05)


async def _correct(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], replication: int) -> list[str]:
    done = []
    configs = await _configs(admin, [spec.name for spec in specs])
    given = await _configs(admin, [spec.name for spec in specs], only_set_on_topic=True)
    for spec in specs:
        wrong = _config_findings(spec, configs[spec.name], replication)
        if not wrong:
            continue
        # AlterConfigs replaces everything that was ever set on the topic, so what others set is said again.
        config = {**given[spec.name], **topic_config(spec, replication=replication)}
        for answer in await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, spec.name, config)]):
            for code, message, *_ in answer.resources:
                if code:
                    raise ConfigurationError(f"{spec.name} could not be changed: {for_code(code).__name__}: {message}")
        await _until(partial(_is_correct, admin, spec, replication), f"{spec.name} has not taken its settings")
        done += [f"changed {spec.name}: {finding.found} to {finding.wanted}" for finding in wrong]
    return done


async def _is_correct(admin: AIOKafkaAdminClient, spec: TopicSpec, replication: int) -> bool:
    return not _config_findings(spec, (await _configs(admin, [spec.name]))[spec.name], replication)


async def _topics(admin: AIOKafkaAdminClient) -> dict[str, list[dict[str, Any]]]:
    # All of them: asking for one by name makes it on a broker with auto-creation.
    return {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics(None)}


async def _configs(
    admin: AIOKafkaAdminClient, names: Sequence[str], *, only_set_on_topic: bool = False
) -> dict[str, dict[str, str]]:
    configs: dict[str, dict[str, str]] = {}
    if not names:
        return configs
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, message, _, name, entries in answer.resources:
            if code:
                raise ConfigurationError(f"{name} could not be described: {for_code(code).__name__}: {message}")
            configs[name] = {e[0]: e[1] for e in entries if not only_set_on_topic or e[3] == _SET_ON_TOPIC}
    return configs


@asynccontextmanager
async def _admin(bootstrap: str, connection: Mapping[str, Any]) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **connection)
    try:
        await admin.start()
        yield admin
    except KafkaConnectionError:
        raise not_reached(bootstrap, connection) from None
    except (KafkaError, TimeoutError) as error:
        raise OrchestratorError(f"The broker at {bootstrap} did not do it ({type(error).__name__}): try again") from error
    finally:
        await admin.close()
