"""Every topic, once: name, key, partitions, cleanup, retention, who writes and who reads.

Room rules: data only; `orchestrator.adapters.topics` applies and checks it on a broker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from schemas.base import Record
from schemas.vocabulary import Right

__all__ = [
    "COMMANDS",
    "CONFIRMATIONS",
    "DEFAULT_PREFIX",
    "JOURNAL",
    "PROMPT_RIGHTS",
    "QUARANTINE",
    "RELEASES",
    "REPORTS",
    "REQUESTS",
    "STATUS",
    "URGENT_REQUESTS",
    "TopicSpec",
    "Topics",
    "kind_of",
    "manifest",
    "orders_topic",
]

DEFAULT_PREFIX = "dsr"
#: Rights that are late with the next mailing, not with the end of the month: data "shall no longer be processed" (GDPR
#: Art. 21(3)). They have a topic of their own (`Topics.requests_for`) and turns of their own in every connector.
PROMPT_RIGHTS = frozenset({Right.OBJECTION, Right.UNSUBSCRIBE})


class Topics(Record):
    """The names of one installation's topics and consumer groups: all begin with its prefix.

    Two installations with different prefixes share a broker without seeing each other, and one prefixed ACL covers each.
    """

    prefix: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = DEFAULT_PREFIX

    @property
    def requests(self) -> str:
        """Return the topic of `SubmitRequest`, `WithdrawRequest`, `ConfirmIdentity` and `RefuseIdentity`."""
        return f"{self.prefix}.requests.v1"

    @property
    def urgent_requests(self) -> str:
        """Return the topic of the same messages for `PROMPT_RIGHTS`: what stands in `requests` does not stand before them."""
        return f"{self.prefix}.requests.urgent.v1"

    @property
    def all_requests(self) -> tuple[str, str]:
        """Return both topics of requests. Each takes every message of portals, whatever its right."""
        return (self.requests, self.urgent_requests)

    def requests_for(self, right: Right | str) -> str:
        """Return the topic on which everything that is said of a request with this right is published.

        Not only its submission: Kafka keeps order within a topic alone, so a withdrawal or a word on the identity that went by
        the other topic might arrive before the request that it speaks of, and would be set aside as `unknown_request`.
        """
        return self.urgent_requests if right in PROMPT_RIGHTS else self.requests

    @property
    def commands(self) -> str:
        """Return the topic of the operators' commands."""
        return f"{self.prefix}.commands.v1"

    @property
    def reports(self) -> str:
        """Return the topic of the connectors' signed reports."""
        return f"{self.prefix}.reports.v1"

    @property
    def status(self) -> str:
        """Return the topic of acknowledgements, progress and notices."""
        return f"{self.prefix}.status.v1"

    @property
    def confirmations(self) -> str:
        """Return the topic of the signed confirmations."""
        return f"{self.prefix}.confirmations.v1"

    @property
    def journal(self) -> str:
        """Return the topic of every transition."""
        return f"{self.prefix}.journal.v1"

    @property
    def releases(self) -> str:
        """Return the topic on which every key that a connector was given is written down."""
        return f"{self.prefix}.releases.v1"

    @property
    def quarantine(self) -> str:
        """Return the topic of records that cannot be processed."""
        return f"{self.prefix}.quarantine.v1"

    @property
    def clock(self) -> str:
        """Return the topic on which a worker asks the broker for the time when it starts."""
        return f"{self.prefix}.clock.v1"

    def orders(self, system: str) -> str:
        """Return the topic on which one system's connector gets its orders."""
        return f"{self.prefix}.orders.{system}.v1"

    def group(self, reader: str) -> str:
        """Return the consumer group of a reader, for instance `orchestrator` or `connector.crm`."""
        return f"{self.prefix}.{reader}"


_DEFAULT = Topics()
REQUESTS = _DEFAULT.requests
URGENT_REQUESTS = _DEFAULT.urgent_requests
COMMANDS = _DEFAULT.commands
REPORTS = _DEFAULT.reports
STATUS = _DEFAULT.status
CONFIRMATIONS = _DEFAULT.confirmations
JOURNAL = _DEFAULT.journal
QUARANTINE = _DEFAULT.quarantine
RELEASES = _DEFAULT.releases

_DAY_MS = 24 * 60 * 60 * 1000
_MIB = 1024 * 1024
#: A confirmation outlives the journal that it rests on: as long as that says that a request ended, it is there to say how.
_CONFIRMED_MS = 6 * 365 * _DAY_MS


class TopicSpec(Record):
    """What a topic must be on the broker. Keys are `subject_request_id`; on the topic of releases, the system."""

    name: str
    partitions: Annotated[int, Field(ge=1)]
    cleanup: Annotated[
        Literal["delete"],
        # Compaction would not bound how long a record stays: it puts old and new ones into one segment, which is as old as the
        # newest of them.
        Field(description="What the broker drops: what is older than the retention"),
    ]
    retention_ms: Annotated[int, Field(ge=1, description="Nothing is kept for ever: how long a record stays, at least")]
    max_message_bytes: int = _MIB
    timestamps: Annotated[
        Literal["CreateTime", "LogAppendTime"],
        Field(description="Whose clock stamps a record: its writer's, or the broker's"),
    ] = "CreateTime"
    writers: tuple[str, ...]
    readers: tuple[str, ...]


def kind_of(topic: str) -> str:
    """Return what any installation's topic carries: `requests` of both topics of requests, `orders` of `dsr.orders.crm.v1`."""
    return topic.split(".")[1]


def orders_topic(system: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the topic on which one system's connector gets its orders."""
    return Topics(prefix=prefix).orders(system)


def manifest(systems: Iterable[str], *, partitions: int = 4, prefix: str = DEFAULT_PREFIX) -> tuple[TopicSpec, ...]:
    """Return all topics for the systems that have a connector.

    Partition counts are for life: a key's records keep their order only while the count stays.
    """
    topics = Topics(prefix=prefix)
    common = (
        TopicSpec(name=topics.requests, partitions=partitions, cleanup="delete", retention_ms=7 * _DAY_MS,
                  writers=("portals",), readers=("orchestrator",)),
        TopicSpec(name=topics.urgent_requests, partitions=partitions, cleanup="delete", retention_ms=7 * _DAY_MS,
                  writers=("portals",), readers=("orchestrator",)),
        TopicSpec(name=topics.commands, partitions=partitions, cleanup="delete", retention_ms=30 * _DAY_MS,
                  writers=("operators",), readers=("orchestrator",)),
        TopicSpec(name=topics.reports, partitions=partitions, cleanup="delete", retention_ms=30 * _DAY_MS,
                  writers=("connectors",), readers=("orchestrator",)),
        TopicSpec(name=topics.status, partitions=partitions, cleanup="delete", retention_ms=30 * _DAY_MS,
                  writers=("orchestrator",), readers=("portals",)),
        TopicSpec(name=topics.confirmations, partitions=partitions, cleanup="delete", retention_ms=_CONFIRMED_MS,
                  writers=("orchestrator",), readers=("portals", "archive")),
        TopicSpec(name=topics.journal, partitions=partitions, cleanup="delete", retention_ms=5 * 365 * _DAY_MS,
                  writers=("orchestrator",), readers=("auditors", "orchestrator")),
        TopicSpec(name=topics.releases, partitions=partitions, cleanup="delete", retention_ms=5 * 365 * _DAY_MS,
                  writers=("orchestrator",), readers=("auditors",)),
        TopicSpec(name=topics.quarantine, partitions=1, cleanup="delete", retention_ms=30 * _DAY_MS, max_message_bytes=2 * _MIB,
                  writers=("orchestrator", "connectors"), readers=("operators",)),
        TopicSpec(name=topics.clock, partitions=1, cleanup="delete", retention_ms=_DAY_MS, timestamps="LogAppendTime",
                  writers=("orchestrator",), readers=()),
    )  # fmt: skip
    orders = tuple(
        TopicSpec(name=topics.orders(system), partitions=partitions, cleanup="delete", retention_ms=7 * _DAY_MS,
                  writers=("orchestrator",), readers=(f"connector:{system}",))
        for system in sorted(set(systems))
    )  # fmt: skip
    return common + orders
