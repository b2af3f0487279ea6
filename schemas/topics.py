"""Every topic, once: name, key, partitions, cleanup, retention, who writes and who reads.

Room rules: data only; `orchestrator.adapters.topics` applies and checks it on a broker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Record

__all__ = [
    "COMMANDS",
    "CONFIRMATIONS",
    "JOURNAL",
    "QUARANTINE",
    "REPORTS",
    "REQUESTS",
    "STATUS",
    "TopicSpec",
    "manifest",
    "orders_topic",
]

REQUESTS = "dsr.requests.v1"
COMMANDS = "dsr.commands.v1"
REPORTS = "dsr.reports.v1"
STATUS = "dsr.status.v1"
CONFIRMATIONS = "dsr.confirmations.v1"
JOURNAL = "dsr.journal.v1"
QUARANTINE = "dsr.quarantine.v1"

_DAY_MS = 24 * 60 * 60 * 1000
_MIB = 1024 * 1024


class TopicSpec(Record):
    """What a topic must be on the broker. Keys are `subject_request_id` everywhere."""

    name: str
    partitions: Annotated[int, Field(ge=1)]
    cleanup: Literal["delete", "compact"]
    retention_ms: Annotated[int, Field(description="-1 keeps for ever; for compacted topics it does not apply")]
    max_message_bytes: int = _MIB
    writers: tuple[str, ...]
    readers: tuple[str, ...]


def orders_topic(system: str) -> str:
    """Return the topic on which one system's connector gets its orders."""
    return f"dsr.orders.{system}.v1"


def manifest(systems: Iterable[str], *, partitions: int = 4) -> tuple[TopicSpec, ...]:
    """Return all topics for the systems that have a connector.

    Partition counts are for life: a key's records keep their order only while the count stays.
    """
    common = (
        TopicSpec(name=REQUESTS, partitions=partitions, cleanup="delete", retention_ms=7 * _DAY_MS,
                  writers=("portals",), readers=("orchestrator",)),
        TopicSpec(name=COMMANDS, partitions=partitions, cleanup="delete", retention_ms=30 * _DAY_MS,
                  writers=("operators",), readers=("orchestrator",)),
        TopicSpec(name=REPORTS, partitions=partitions, cleanup="delete", retention_ms=30 * _DAY_MS,
                  writers=("connectors",), readers=("orchestrator",)),
        TopicSpec(name=STATUS, partitions=partitions, cleanup="delete", retention_ms=30 * _DAY_MS,
                  writers=("orchestrator",), readers=("portals",)),
        TopicSpec(name=CONFIRMATIONS, partitions=partitions, cleanup="compact", retention_ms=-1,
                  writers=("orchestrator",), readers=("portals", "archive")),
        TopicSpec(name=JOURNAL, partitions=partitions, cleanup="delete", retention_ms=5 * 365 * _DAY_MS,
                  writers=("orchestrator",), readers=("auditors",)),
        TopicSpec(name=QUARANTINE, partitions=1, cleanup="delete", retention_ms=30 * _DAY_MS, max_message_bytes=2 * _MIB,
                  writers=("orchestrator", "connectors"), readers=("operators",)),
    )  # fmt: skip
    orders = tuple(
        TopicSpec(name=orders_topic(system), partitions=partitions, cleanup="delete", retention_ms=7 * _DAY_MS,
                  writers=("orchestrator",), readers=(f"connector:{system}",))
        for system in sorted(systems)
    )  # fmt: skip
    return common + orders
