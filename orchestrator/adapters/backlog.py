"""How far a consumer group has read some topics.

Room rules: two questions to the broker; what follows from the answer is for others to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.errors import OrchestratorError

__all__ = ["KafkaBacklog"]


class KafkaBacklog:
    """Implements `orchestrator.ports.Backlog`. Connects for each question: it is asked a few times a month."""

    def __init__(self, bootstrap: str, group: str, topics: Sequence[str], **connection: Any) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._topics = list(topics)
        self._connection = connection

    async def positions(self) -> tuple[Mapping[tuple[str, int], int], Mapping[tuple[str, int], int]]:
        """Return the ends, and how far the group has committed; what retention took away unread counts as read."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, **self._connection)
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, **self._connection)
        try:
            await consumer.start()
            await admin.start()
            found = await admin.describe_topics(self._topics)
            parts = [TopicPartition(topic["topic"], part["partition"]) for topic in found for part in topic["partitions"]]
            # Asked before the ends: what is committed meanwhile only makes the answer more careful.
            committed = await admin.list_consumer_group_offsets(self._group, partitions=parts)
            begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        except (KafkaError, TimeoutError) as error:
            names = ", ".join(self._topics)
            raise OrchestratorError(f"{names}: the broker did not tell its offsets ({type(error).__name__})") from None
        finally:
            await admin.close()
            await consumer.stop()
        offsets = {part: entry.offset for part, entry in committed.items()}
        read = {(part.topic, part.partition): max(offsets.get(part, 0), begins[part]) for part in parts}
        return {(part.topic, part.partition): ends[part] for part in parts}, read
